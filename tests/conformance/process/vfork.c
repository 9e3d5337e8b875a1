/* vfork(2): the parent waits and memory is shared until the child execs or exits. */
#include "check.h"

static volatile int shared;

int main(int argc, char **argv)
{
    if (argc > 1) return shared == 0 ? 7 : 8;
    long long start = now_ns();
    pid_t pid = vfork();
    if (pid == 0) {
        shared = 1;
        struct timespec pause = { 0, 50000000 };
        nanosleep(&pause, NULL);
        shared = 2;
        _exit(3);
    }
    CHECK(now_ns() - start >= 50000000);
    CHECK_EQ(shared, 2);
    CHECK_EQ(wait_status(pid), 3 << 8);

    char *arguments[] = { argv[0], "child", NULL };
    pid = vfork();
    if (pid == 0) {
        shared = 3;
        execv("/proc/self/exe", arguments);
        _exit(127);
    }
    CHECK_EQ(shared, 3);
    CHECK_EQ(wait_status(pid), 7 << 8);

    /* The child's descriptors are its own. */
    int fd = make_file("f", "");
    pid = vfork();
    if (pid == 0) {
        close(fd);
        _exit(fcntl(fd, F_GETFD) == -1 && errno == EBADF ? 0 : 1);
    }
    CHECK_EQ(wait_status(pid), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);

    /* A failed exec leaves the child running in the parent's memory. */
    pid = vfork();
    if (pid == 0) {
        execv("/missing/program", arguments);
        shared = errno;
        _exit(4);
    }
    CHECK_EQ(shared, ENOENT);
    CHECK_EQ(wait_status(pid), 4 << 8);

    /* Killing the child lets the parent go on. */
    pid = vfork();
    if (pid == 0) {
        kill(getpid(), SIGKILL);
        for (;;) { }
    }
    CHECK_EQ(wait_status(pid), SIGKILL);
    for (volatile int i = 0; i < 50; i++) {
        pid = vfork();
        if (pid == 0) _exit(i);
        CHECK_EQ(wait_status(pid), i << 8);
    }
    return check_result();
}
