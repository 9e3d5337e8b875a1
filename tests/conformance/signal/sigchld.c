/* SIGCHLD: sent at exit, stop and continue; SA_NOCLDSTOP, SA_NOCLDWAIT, SIG_IGN. */
#include "check.h"

static volatile sig_atomic_t count, last_code;
static void record(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    last_code = info->si_code;
    count++;
}

static void install(int flags)
{
    struct sigaction action = { .sa_sigaction = record, .sa_flags = SA_SIGINFO | flags };
    MUST(sigaction(SIGCHLD, &action, NULL) == 0);
}

static void wait_count(int wanted)
{
    for (int i = 0; i < 5000 && count < wanted; i++) sleep_ms(1);
    CHECK_EQ(count, wanted);
}

int main(void)
{
    install(0);
    pid_t pid = child_fork();
    if (pid == 0)
        for (;;) pause();
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    wait_count(1);
    CHECK_EQ(last_code, CLD_STOPPED);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    wait_count(2);
    CHECK_EQ(last_code, CLD_CONTINUED);
    CHECK_EQ(kill(pid, SIGTERM), 0);
    wait_count(3);
    CHECK_EQ(last_code, CLD_KILLED);
    CHECK_EQ(wait_status(pid), SIGTERM);

    install(SA_NOCLDSTOP);
    count = 0;
    if ((pid = child_fork()) == 0)
        for (;;) pause();
    int status;
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
    CHECK_EQ(count, 0);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(wait_status(pid), SIGKILL);
    wait_count(1);

    /* No zombies: wait blocks until all children are gone, then says ECHILD. */
    install(SA_NOCLDWAIT);
    count = 0;
    if ((pid = child_fork()) == 0) {
        sleep_ms(30);
        _exit(1);
    }
    CHECK_ERR(waitpid(pid, &status, 0), ECHILD);
    CHECK_ERR(kill(pid, 0), ESRCH);
    wait_count(1);
    catch_signal(SIGCHLD, SIG_IGN, 0);
    for (int i = 0; i < 5; i++)
        if ((pid = child_fork()) == 0) {
            sleep_ms(10 * i);
            _exit(1);
        }
    CHECK_ERR(wait(&status), ECHILD);
    CHECK_ERR(kill(pid, 0), ESRCH);

    /* The default disposition keeps zombies. */
    catch_signal(SIGCHLD, SIG_DFL, 0);
    if ((pid = child_fork()) == 0) _exit(6);
    CHECK(wait_for_state(pid, 'Z'));
    CHECK_EQ(wait_status(pid), 6 << 8);
    return check_result();
}
