/* signalfd(2). */
#include "check.h"
#include <poll.h>
#include <sys/signalfd.h>

int main(void)
{
    sigset_t set = signal_set(SIGUSR1);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGCHLD);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    int fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    CHECK(fd >= 0);
    struct signalfd_siginfo info[3];
    CHECK_EQ(sizeof info[0], 128);
    CHECK_ERR(read(fd, info, sizeof info), EAGAIN);
    struct pollfd waiting = { fd, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 0);
    raise(SIGUSR1);
    CHECK_EQ(poll(&waiting, 1, 0), 1);
    CHECK_ERR(read(fd, info, 100), EINVAL);
    CHECK_EQ(read(fd, info, sizeof info), 128);
    CHECK_EQ(info[0].ssi_signo, SIGUSR1);
    CHECK_EQ(info[0].ssi_code, SI_TKILL);
    CHECK_EQ(info[0].ssi_pid, getpid());
    CHECK_EQ(info[0].ssi_uid, getuid());
    union sigval value = { .sival_int = 1234 };
    for (int i = 0; i < 3; i++) CHECK_EQ(sigqueue(getpid(), SIGRTMIN, value), 0);
    CHECK_EQ(read(fd, info, sizeof info), 3 * 128);
    CHECK_EQ(info[2].ssi_int, 1234);
    CHECK_EQ(info[2].ssi_code, SI_QUEUE);

    pid_t pid = child_fork();
    if (pid == 0) _exit(5);
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    CHECK_EQ(read(fd, info, sizeof info), 128);
    CHECK_EQ(info[0].ssi_signo, SIGCHLD);
    CHECK_EQ(info[0].ssi_pid, pid);
    CHECK_EQ(info[0].ssi_status, 5);
    CHECK_EQ(info[0].ssi_code, CLD_EXITED);
    CHECK_EQ(wait_status(pid), 5 << 8);

    /* Changing the set. */
    sigset_t only = signal_set(SIGUSR2);
    MUST(sigprocmask(SIG_BLOCK, &only, NULL) == 0);
    CHECK_EQ(signalfd(fd, &only, 0), fd);
    raise(SIGUSR1);
    CHECK_ERR(read(fd, info, sizeof info), EAGAIN);
    raise(SIGUSR2);
    CHECK_EQ(read(fd, info, sizeof info), 128);
    CHECK_EQ(info[0].ssi_signo, SIGUSR2);
    /* SIGUSR1 is still there for a wait. */
    siginfo_t other;
    CHECK_EQ(sigwaitinfo(&set, &other), SIGUSR1);

    /* A blocking read in one process, woken by another. */
    int blocking = signalfd(-1, &set, 0);
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(read(blocking, info, sizeof info), 128);
        CHECK_EQ(info[0].ssi_pid, getppid());
        child_exit();
    }
    CHECK(wait_for_state(pid, 'S'));
    CHECK_EQ(kill(pid, SIGUSR1), 0);
    CHECK_CHILD(pid);
    CHECK_ERR(signalfd(0, &set, 0), EINVAL);
    CHECK_ERR(signalfd(999, &set, 0), EBADF);
    CHECK_ERR(signalfd(-1, &set, 0x1), EINVAL);
    CHECK_ERR(write(fd, info, 128), EINVAL);
    return check_result();
}
