/* pidfd_open, pidfd_send_signal, waitid(P_PIDFD), poll on a pidfd. */
#include "check.h"
#include <poll.h>
#include <sys/pidfd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

int main(void)
{
    pid_t pid = child_fork();
    if (pid == 0)
        for (;;) pause();
    int fd = pidfd_open(pid, 0);
    if (fd < 0 && errno == ENOSYS) CANNOT("no pidfd_open");
    CHECK(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    struct pollfd waiting = { fd, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 0);
    CHECK_EQ(pidfd_send_signal(fd, 0, NULL, 0), 0);
    CHECK_EQ(pidfd_send_signal(fd, SIGTERM, NULL, 0), 0);
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    CHECK_EQ(waiting.revents & POLLIN, POLLIN);
    siginfo_t info;
    CHECK_EQ(waitid(P_PIDFD, fd, &info, WEXITED), 0);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, SIGTERM);
    CHECK_ERR(pidfd_send_signal(fd, 0, NULL, 0), ESRCH);
    CHECK_ERR(waitid(P_PIDFD, fd, &info, WEXITED), ECHILD);
    CHECK_ERR(pidfd_open(99999999, 0), ESRCH);
    CHECK_ERR(pidfd_open(-1, 0), EINVAL);
    CHECK_ERR(pidfd_open(getpid(), 0x1), EINVAL);
    CHECK_ERR(pidfd_send_signal(0, 0, NULL, 0), EBADF);
    int self = pidfd_open(getpid(), 0);
    CHECK_ERR(waitid(P_PIDFD, self, &info, WEXITED), ECHILD);
    return check_result();
}
