/* getrlimit, setrlimit, prlimit: values, soft and hard, inheritance, what they do. */
#include "check.h"
#include <sys/mman.h>
#include <sys/resource.h>

int main(void)
{
    struct rlimit limit, now;
    CHECK_ERR(getrlimit(99, &limit), EINVAL);
    CHECK_ERR(setrlimit(99, &limit), EINVAL);
    for (int resource = 0; resource < RLIM_NLIMITS; resource++) {
        CHECK_EQ(getrlimit(resource, &limit), 0);
        CHECK(limit.rlim_cur <= limit.rlim_max);
        CHECK_EQ(setrlimit(resource, &limit), 0);
    }
    limit = (struct rlimit){ 20, 10 };
    CHECK_ERR(setrlimit(RLIMIT_CORE, &limit), EINVAL);
    CHECK_ERR(setrlimit(RLIMIT_CORE, (void *)8), EFAULT);
    limit = (struct rlimit){ 1000, 2000 };
    CHECK_EQ(setrlimit(RLIMIT_CORE, &limit), 0);
    CHECK_EQ(prlimit(0, RLIMIT_CORE, NULL, &now), 0);
    CHECK(now.rlim_cur == 1000 && now.rlim_max == 2000);
    struct rlimit lower = { 500, 600 };
    CHECK_EQ(prlimit(getpid(), RLIMIT_CORE, &lower, &now), 0);
    CHECK(now.rlim_cur == 1000 && now.rlim_max == 2000);
    CHECK_ERR(prlimit(99999999, RLIMIT_CORE, NULL, &now), ESRCH);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(getrlimit(RLIMIT_CORE, &now), 0);
        CHECK(now.rlim_cur == 500 && now.rlim_max == 600);
        child_exit();
    }
    /* Another process's limits. */
    CHECK_CHILD(pid);
    int gate[2];
    MUST(pipe(gate) == 0);
    if ((pid = child_fork()) == 0) {
        char byte;
        CHECK_EQ(read(gate[0], &byte, 1), 1);
        CHECK_EQ(getrlimit(RLIMIT_NOFILE, &now), 0);
        CHECK_EQ(now.rlim_cur, 33);
        child_exit();
    }
    CHECK_EQ(prlimit(pid, RLIMIT_NOFILE, NULL, &limit), 0);
    limit.rlim_cur = 33;
    CHECK_EQ(prlimit(pid, RLIMIT_NOFILE, &limit, NULL), 0);
    CHECK_EQ(write(gate[1], "x", 1), 1);
    CHECK_CHILD(pid);

    /* Address space. */
    if ((pid = child_fork()) == 0) {
        limit = (struct rlimit){ 1 << 30, 1 << 30 };
        CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
        CHECK_EQ(mmap(NULL, 1UL << 31, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == ENOMEM, 1);
        child_exit();
    }
    CHECK_CHILD(pid);

    /* Processor time: SIGXCPU at the soft limit, SIGKILL at the hard one. */
    if ((pid = child_fork()) == 0) {
        limit = (struct rlimit){ 1, 2 };
        CHECK_EQ(setrlimit(RLIMIT_CPU, &limit), 0);
        for (;;) { }
    }
    CHECK_EQ(wait_status(pid) & 0x7f, SIGXCPU);

    /* An ordinary user cannot raise a hard limit. */
    if ((pid = child_fork()) == 0) {
        if (geteuid() == 0) MUST(setgid(12345) == 0 && setuid(12345) == 0);
        limit = (struct rlimit){ 100, 700 };
        CHECK_ERR(setrlimit(RLIMIT_CORE, &limit), EPERM);
        limit = (struct rlimit){ 600, 600 };
        CHECK_EQ(setrlimit(RLIMIT_CORE, &limit), 0);
        child_exit();
    }
    CHECK_CHILD(pid);
    return check_result();
}
