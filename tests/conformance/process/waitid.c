/* waitid(2): siginfo, WNOWAIT, WEXITED, WSTOPPED, WCONTINUED, by pid, group and any. */
#include "check.h"

int main(void)
{
    siginfo_t info;
    CHECK_ERR(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    CHECK_ERR(waitid(P_ALL, 0, &info, 0), EINVAL);
    CHECK_ERR(waitid(77, 0, &info, WEXITED), EINVAL);
    pid_t pid = child_fork();
    if (pid == 0) _exit(33);
    memset(&info, 0, sizeof info);
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED | WNOWAIT), 0);
    CHECK_EQ(info.si_signo, SIGCHLD);
    CHECK_EQ(info.si_code, CLD_EXITED);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_uid, getuid());
    CHECK_EQ(info.si_status, 33);
    /* WNOWAIT left it there. */
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED), 0);
    CHECK_ERR(waitid(P_PID, pid, &info, WEXITED), ECHILD);

    if ((pid = child_fork()) == 0) {
        raise(SIGTERM);
        for (;;) pause();
    }
    CHECK_EQ(waitid(P_ALL, 0, &info, WEXITED), 0);
    CHECK_EQ(info.si_code, CLD_KILLED);
    CHECK_EQ(info.si_status, SIGTERM);

    /* Stop, continue, end: each asked for by its own flag. */
    if ((pid = child_fork()) == 0) {
        setpgid(0, 0);
        raise(SIGSTOP);
        for (;;) pause();
    }
    setpgid(pid, pid);
    CHECK_EQ(waitid(P_PGID, pid, &info, WSTOPPED), 0);
    CHECK_EQ(info.si_code, CLD_STOPPED);
    CHECK_EQ(info.si_status, SIGSTOP);
    memset(&info, 0, sizeof info);
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED | WSTOPPED | WCONTINUED | WNOHANG), 0);
    CHECK_EQ(info.si_pid, 0);
    CHECK_EQ(info.si_signo, 0);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    CHECK_EQ(waitid(P_PID, pid, &info, WCONTINUED), 0);
    CHECK_EQ(info.si_code, CLD_CONTINUED);
    CHECK_EQ(info.si_status, SIGCONT);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED | WSTOPPED), 0);
    CHECK_EQ(info.si_code, CLD_KILLED);
    CHECK_EQ(info.si_status, SIGKILL);

    /* A core dump is its own code, whether or not a core was written. */
    if ((pid = child_fork()) == 0) {
        raise(SIGABRT);
        _exit(1);
    }
    CHECK_EQ(waitid(P_PID, pid, &info, WEXITED), 0);
    CHECK(info.si_code == CLD_DUMPED || info.si_code == CLD_KILLED);
    CHECK_EQ(info.si_status, SIGABRT);

    /* No place for the answer. */
    if ((pid = child_fork()) == 0) _exit(0);
    CHECK_EQ(waitid(P_PID, pid, NULL, WEXITED), 0);
    return check_result();
}
