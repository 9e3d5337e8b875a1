/* Several that compute and call come to stand on one CPU and leave it: each where it may run, and at once where it is told to. */
#include "check.h"
#include <sched.h>
#include <sys/mman.h>

#define ROUNDS 60

struct shared {
    /* What the first child is told: it may run on that CPU only, and one; and that all are to end. */
    atomic_int told, ends;
    atomic_long calls, elsewhere;
};

/* A bit of work and a call, again and again. */
static void work(struct shared *shared, bool is_told)
{
    struct stat status;
    for (unsigned turn = 0; !shared->ends; turn++) {
        for (volatile int step = 0; step < 4000; step++) {
        }
        stat(turn % 2 ? "/usr" : "/proc/self", &status);
        int told = is_told ? shared->told : 0;
        if (told != 0) {
            shared->calls++;
            shared->elsewhere += sched_getcpu() != told - 1;
        }
    }
}

int main(void)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cpu_set_t all;
    MUST(shared != MAP_FAILED);
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    int cpus[2], found = 0;
    for (int cpu = 0; cpu < CPU_SETSIZE && found < 2; cpu++)
        if (CPU_ISSET(cpu, &all)) cpus[found++] = cpu;
    MUST(found > 0);
    for (int round = 0; round < ROUNDS; round++) {
        int cpu = cpus[round % found];
        memset(shared, 0, sizeof *shared);
        pid_t children[3];
        for (int i = 0; i < 3; i++) {
            children[i] = child_fork();
            if (children[i] == 0) {
                work(shared, i == 0);
                child_exit();
            }
        }
        usleep(500 * (round % 5));
        cpu_set_t one, set;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        CHECK_EQ(sched_setaffinity(children[0], sizeof one, &one), 0);
        /* Not before it is there. */
        shared->told = cpu + 1;
        usleep(1500);
        CHECK_EQ(sched_getaffinity(children[0], sizeof set, &set), 0);
        CHECK(CPU_EQUAL(&set, &one));
        for (int i = 1; i < 3; i++) {
            CHECK_EQ(sched_getaffinity(children[i], sizeof set, &set), 0);
            CHECK(CPU_EQUAL(&set, &all));
        }
        shared->ends = 1;
        for (int i = 0; i < 3; i++) CHECK_CHILD(children[i]);
        CHECK_EQ(shared->elsewhere, 0);
    }
    CHECK_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CHECK(CPU_COUNT(&all) >= found);
    return check_result();
}
