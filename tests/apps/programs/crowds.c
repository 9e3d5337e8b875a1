/*
 * More threads than CPUs compute and call for some hundred milliseconds, and children begin meanwhile. Then all that are there wait, and
 * "waiting" is told, until standard input ends.
 */
#include "check.h"

#define WORKERS 4
#define WORKS_MS 300
#define CHILDREN_EACH 6

static void work(long for_ms)
{
    struct stat status;
    long long end = now_ns() + for_ms * 1000000LL;
    for (unsigned turn = 0; now_ns() < end; turn++) {
        for (volatile int step = 0; step < 4000; step++) {
        }
        stat(turn % 2 ? "/usr" : "/proc/self", &status);
    }
}

static void *work_in_thread(void *argument)
{
    work(WORKS_MS);
    return argument;
}

int main(void)
{
    int ready[2], end[2];
    char byte = 'r';
    MUST(pipe(ready) == 0 && pipe(end) == 0);
    for (int worker = 0; worker < WORKERS; worker++) {
        pid_t pid = child_fork();
        if (pid != 0) continue;
        close(end[1]);
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, work_in_thread, NULL) == 0);
        for (int child = 0; child < CHILDREN_EACH; child++) {
            work(WORKS_MS / CHILDREN_EACH);
            pid = child_fork();
            if (pid != 0) continue;
            work(5);
            MUST(write(ready[1], &byte, 1) == 1);
            CHECK_EQ(read(end[0], &byte, 1), 0);
            child_exit();
        }
        pthread_join(thread, NULL);
        MUST(write(ready[1], &byte, 1) == 1);
        CHECK_EQ(read(end[0], &byte, 1), 0);
        for (int child = 0; child < CHILDREN_EACH; child++) CHECK(wait(NULL) > 0);
        child_exit();
    }
    for (int each = 0; each < WORKERS * (1 + CHILDREN_EACH); each++) CHECK_EQ(read(ready[0], &byte, 1), 1);
    puts("waiting");
    fflush(stdout);
    CHECK_EQ(read(0, &byte, 1), 0);
    close(end[1]);
    for (int worker = 0; worker < WORKERS; worker++) CHECK(wait(NULL) > 0);
    return check_result();
}
