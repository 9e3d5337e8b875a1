/* brk(2), sbrk(3): growing, shrinking, refusal, zeros, inheritance. */
#include "check.h"
#include <sys/mman.h>
#include <sys/resource.h>

/* Where the heap ends is the same for whoever shares it. */
static void *grow(void *by)
{
    char *end = (char *)syscall(SYS_brk, 0);
    CHECK_EQ(syscall(SYS_brk, end + (long)by), (long)(end + (long)by));
    return (void *)syscall(SYS_brk, 0);
}

static void check_shared(long page)
{
    pthread_t thread;
    void *seen;
    MUST(pthread_create(&thread, NULL, grow, (void *)page) == 0);
    MUST(pthread_join(thread, &seen) == 0);
    char *end = (char *)syscall(SYS_brk, 0);
    CHECK(seen == end);
    end[-1] = 's';
    pid_t pid = vfork();
    if (pid == 0) {
        syscall(SYS_brk, end + 2 * page);
        _exit(0);
    }
    CHECK_CHILD(pid);
    CHECK_EQ(syscall(SYS_brk, 0), (long)(end + 2 * page));
    end[2 * page - 1] = 's';
    CHECK_EQ(syscall(SYS_brk, end), (long)end);
    CHECK_EQ(syscall(SYS_brk, 0), (long)end);
    /* What cannot be changes nothing, also for who only asks. */
    struct rlimit unlimited, small = { 1 << 20, RLIM_INFINITY };
    MUST(getrlimit(RLIMIT_DATA, &unlimited) == 0);
    small.rlim_max = unlimited.rlim_max;
    CHECK_EQ(setrlimit(RLIMIT_DATA, &small), 0);
    CHECK_EQ(syscall(SYS_brk, end + (64 << 20)), (long)end);
    CHECK_EQ(syscall(SYS_brk, 0), (long)end);
    CHECK_EQ(setrlimit(RLIMIT_DATA, &unlimited), 0);
}

/* Where it has been moved to just now, a child and a thread find it, and move it on from there: the child its own. */
static void check_inherited(long page)
{
    for (int round = 0; round < 4; round++) {
        pthread_t thread;
        void *seen;
        char *end = (char *)syscall(SYS_brk, 0);
        CHECK_EQ(syscall(SYS_brk, end + 3 * page + round), (long)(end + 3 * page + round));
        end[3 * page - 1] = 'i';
        pid_t pid = child_fork();
        if (pid == 0) {
            CHECK_EQ(syscall(SYS_brk, 0), (long)(end + 3 * page + round));
            CHECK_EQ(end[3 * page - 1], 'i');
            CHECK_EQ(syscall(SYS_brk, end + 9 * page), (long)(end + 9 * page));
            end[9 * page - 1] = 'c';
            CHECK_EQ(syscall(SYS_brk, end + page), (long)(end + page));
            child_exit();
        }
        CHECK_CHILD(pid);
        CHECK_EQ(syscall(SYS_brk, 0), (long)(end + 3 * page + round));
        CHECK_EQ(end[3 * page - 1], 'i');
        MUST(pthread_create(&thread, NULL, grow, (void *)page) == 0);
        MUST(pthread_join(thread, &seen) == 0);
        CHECK(seen == end + 4 * page + round);
        CHECK_EQ(syscall(SYS_brk, 0), (long)(end + 4 * page + round));
        CHECK_EQ(syscall(SYS_brk, end), (long)end);
    }
}

int main(void)
{
    char *start = sbrk(0);
    CHECK(start != (void *)-1);
    long page = sysconf(_SC_PAGESIZE);
    CHECK(sbrk(100 * page) == start);
    CHECK(sbrk(0) == start + 100 * page);
    memset(start, 'b', 100 * page);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(start[50 * page] == 'b');
        CHECK(sbrk(page) == start + 100 * page);
        start[100 * page] = 'c';
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK(sbrk(0) == start + 100 * page);
    /* Given back and taken again: zeros. */
    CHECK_EQ(brk(start + 10 * page), 0);
    CHECK(start[9 * page] == 'b');
    CHECK_EQ(brk(start + 100 * page), 0);
    char *aligned = (char *)(((unsigned long)start + 12 * page) & ~(page - 1));
    CHECK(aligned[0] == 0 && aligned[50 * page] == 0);
    CHECK_EQ(brk(start), 0);
    /* The raw call returns the unchanged break when it cannot. */
    CHECK_EQ(syscall(SYS_brk, 0), (long)start);
    CHECK_EQ(syscall(SYS_brk, (char *)start + (1UL << 46)), (long)start);
    CHECK_EQ(syscall(SYS_brk, 1), (long)start);
    /* In the way of something else. */
    char *edge = (char *)(((unsigned long)start + 50 * page) & ~(page - 1));
    char *wall = mmap(edge, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (wall == edge) {
        CHECK_ERR(brk(start + 200 * page), ENOMEM);
        CHECK_EQ(munmap(wall, page), 0);
    }
    check_shared(page);
    check_inherited(page);
    return check_result();
}
