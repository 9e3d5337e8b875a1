/* fork(2): ids, private memory, inherited descriptors and settings, what is not inherited. */
#include "check.h"
#include <sys/resource.h>
#include <sys/time.h>

static int in_data = 1;

int main(void)
{
    int on_stack = 1, *on_heap = malloc(sizeof *on_heap), ends[2], fd = make_file("f", "0123456789");
    *on_heap = 1;
    MUST(pipe(ends) == 0);
    pid_t self = getpid();
    struct itimerval timer = { { 0, 0 }, { 100, 0 } };
    CHECK_EQ(setitimer(ITIMER_REAL, &timer, NULL), 0);
    sigset_t set = signal_set(SIGUSR1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
    CHECK_EQ(raise(SIGUSR1), 0);
    catch_signal(SIGUSR2, SIG_IGN, 0);
    CHECK_EQ(nice(1) == -1 && errno, 0);
    umask(031);

    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(getpid() != self);
        CHECK_EQ(getppid(), self);
        CHECK_EQ(syscall(SYS_gettid), getpid());
        CHECK_EQ(getpgrp(), getpgid(self));
        CHECK_EQ(getsid(0), getsid(self));
        in_data = on_stack = *on_heap = 2;
        /* The descriptor table is a copy; the open files are shared. */
        CHECK_EQ(lseek(fd, 4, SEEK_SET), 4);
        close(ends[0]);
        /* Inherited: mask, dispositions, umask, nice. Not inherited: timers, pending signals. */
        sigset_t now;
        CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
        CHECK_EQ(sigismember(&now, SIGUSR1), 1);
        CHECK_EQ(sigpending(&now), 0);
        CHECK_EQ(sigismember(&now, SIGUSR1), 0);
        struct sigaction action;
        CHECK_EQ(sigaction(SIGUSR2, NULL, &action), 0);
        CHECK(action.sa_handler == SIG_IGN);
        CHECK_EQ(getitimer(ITIMER_REAL, &timer), 0);
        CHECK(timer.it_value.tv_sec == 0 && timer.it_value.tv_usec == 0);
        CHECK_EQ(umask(0), 031);
        CHECK_EQ(getpriority(PRIO_PROCESS, 0), getpriority(PRIO_PROCESS, self));
        struct rusage usage;
        CHECK_EQ(getrusage(RUSAGE_CHILDREN, &usage), 0);
        CHECK_EQ(usage.ru_utime.tv_sec, 0);
        CHECK_EQ(write(ends[1], "done", 4), 4);
        child_exit();
    }
    char buffer[8];
    CHECK_EQ(read(ends[0], buffer, 8), 4);
    int status;
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_ERR(waitpid(pid, &status, 0), ECHILD);
    CHECK_ERR(kill(pid, 0), ESRCH);
    CHECK(in_data == 1 && on_stack == 1 && *on_heap == 1);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4);

    /* Sixty-four children at once, each with its own memory. */
    pid_t pids[64];
    for (int i = 0; i < 64; i++)
        if ((pids[i] = child_fork()) == 0) {
            in_data = i;
            usleep(1000);
            _exit(in_data == i ? i : 255);
        }
    for (int i = 0; i < 64; i++) CHECK_EQ(wait_status(pids[i]), i << 8);

    /* A chain of forks. */
    if ((pid = child_fork()) == 0) {
        int depth = 0;
        while (depth < 20) {
            pid_t next = fork();
            MUST(next >= 0);
            if (next) _exit(wait_status(next) >> 8);
            depth++;
        }
        _exit(depth);
    }
    CHECK_EQ(wait_status(pid), 20 << 8);
    return check_result();
}
