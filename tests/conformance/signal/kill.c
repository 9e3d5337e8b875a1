/* kill(2): single processes, groups, -1, 0, permissions; killpg. */
#include "check.h"

static volatile sig_atomic_t count;
static void handler(int number) { (void)number; count++; }

static pid_t sleeper(pid_t group)
{
    pid_t pid = child_fork();
    if (pid == 0) {
        if (group >= 0) setpgid(0, group);
        for (;;) pause();
    }
    if (group >= 0) setpgid(pid, group);
    return pid;
}

int main(void)
{
    setsid();
    CHECK_ERR(kill(99999999, 0), ESRCH);
    CHECK_ERR(kill(getpid(), 65), EINVAL);
    CHECK_ERR(kill(getpid(), -1), EINVAL);
    CHECK_EQ(kill(getpid(), 0), 0);
    CHECK_ERR(kill(-99999999, SIGTERM), ESRCH);
    CHECK_ERR(killpg(-1, SIGTERM), EINVAL);

    pid_t a = sleeper(0), b = sleeper(a), c = sleeper(a);
    CHECK_EQ(kill(-a, 0), 0);
    CHECK_EQ(killpg(a, SIGTERM), 0);
    CHECK_EQ(wait_status(a), SIGTERM);
    CHECK_EQ(wait_status(b), SIGTERM);
    CHECK_EQ(wait_status(c), SIGTERM);
    CHECK_ERR(kill(-a, 0), ESRCH);

    /* 0: the caller's own group, itself too. */
    pid_t pid = child_fork();
    if (pid == 0) {
        MUST(setpgid(0, 0) == 0);
        pid_t inner = sleeper(-1);
        catch_signal(SIGUSR1, handler, 0);
        CHECK_EQ(kill(0, SIGUSR1), 0);
        CHECK_EQ(count, 1);
        CHECK_EQ(wait_status(inner), SIGUSR1);
        child_exit();
    }
    CHECK_CHILD(pid);

    /* A stopped process dies of SIGKILL; other signals wait until SIGCONT. */
    a = sleeper(-1);
    int status;
    CHECK_EQ(kill(a, SIGSTOP), 0);
    CHECK_EQ(waitpid(a, &status, WUNTRACED), a);
    CHECK_EQ(kill(a, SIGTERM), 0);
    sleep_ms(20);
    CHECK_EQ(waitpid(a, &status, WNOHANG), 0);
    CHECK_EQ(kill(a, SIGCONT), 0);
    CHECK_EQ(wait_status(a), SIGTERM);
    a = sleeper(-1);
    CHECK_EQ(kill(a, SIGSTOP), 0);
    CHECK_EQ(waitpid(a, &status, WUNTRACED), a);
    CHECK_EQ(kill(a, SIGKILL), 0);
    CHECK_EQ(wait_status(a), SIGKILL);

    /* Another user's process: EPERM; SIGCONT within the session is always allowed. */
    if (geteuid() == 0) {
        pid_t victim = sleeper(-1);
        if ((pid = child_fork()) == 0) {
            MUST(setgid(12345) == 0 && setuid(12345) == 0);
            CHECK_ERR(kill(victim, 0), EPERM);
            CHECK_ERR(kill(victim, SIGTERM), EPERM);
            CHECK_EQ(kill(victim, SIGCONT), 0);
            child_exit();
        }
        CHECK_CHILD(pid);
        CHECK_EQ(kill(victim, SIGKILL), 0);
        CHECK_EQ(wait_status(victim), SIGKILL);
    }
    return check_result();
}
