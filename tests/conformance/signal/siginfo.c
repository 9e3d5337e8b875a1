/* SA_SIGINFO: who sent it and why, for kill, sigqueue, tgkill, children, timers and faults. */
#include "check.h"
#include <sys/time.h>

static siginfo_t last;
static volatile sig_atomic_t count;

static void record(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (number != info->si_signo) abort();
    last = *info;
    count++;
}

static void catch(int number)
{
    struct sigaction action = { .sa_sigaction = record, .sa_flags = SA_SIGINFO };
    MUST(sigaction(number, &action, NULL) == 0);
}

int main(void)
{
    catch(SIGUSR1);
    catch(SIGCHLD);
    catch(SIGALRM);
    catch(SIGRTMIN + 1);
    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(count, 1);
    CHECK_EQ(last.si_code, SI_USER);
    CHECK_EQ(last.si_pid, getpid());
    CHECK_EQ(last.si_uid, getuid());
    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(last.si_code, SI_TKILL);
    CHECK_EQ(last.si_pid, getpid());
    union sigval value = { .sival_ptr = (void *)0x123456789abcUL };
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN + 1, value), 0);
    CHECK_EQ(last.si_code, SI_QUEUE);
    CHECK(last.si_value.sival_ptr == value.sival_ptr);
    CHECK_EQ(last.si_pid, getpid());
    CHECK_ERR(sigqueue(99999999, SIGUSR1, value), ESRCH);
    CHECK_ERR(sigqueue(getpid(), 65, value), EINVAL);
    CHECK_EQ(sigqueue(getpid(), 0, value), 0);

    /* From another process. */
    count = 0;
    pid_t pid = child_fork();
    if (pid == 0) {
        kill(getppid(), SIGUSR1);
        for (;;) pause();
    }
    while (count < 1) sleep_ms(1);
    CHECK_EQ(last.si_signo, SIGUSR1);
    CHECK_EQ(last.si_pid, pid);

    /* Its death. */
    CHECK_EQ(kill(pid, SIGKILL), 0);
    while (count < 2) sleep_ms(1);
    CHECK_EQ(last.si_signo, SIGCHLD);
    CHECK_EQ(last.si_code, CLD_KILLED);
    CHECK_EQ(last.si_pid, pid);
    CHECK_EQ(last.si_status, SIGKILL);
    CHECK_EQ(wait_status(pid), SIGKILL);
    if ((pid = child_fork()) == 0) _exit(17);
    while (count < 3) sleep_ms(1);
    CHECK_EQ(last.si_code, CLD_EXITED);
    CHECK_EQ(last.si_status, 17);
    CHECK_EQ(wait_status(pid), 17 << 8);

    /* The kernel's own. */
    struct itimerval timer = { { 0, 0 }, { 0, 10000 } };
    CHECK_EQ(setitimer(ITIMER_REAL, &timer, NULL), 0);
    while (count < 4) sleep_ms(1);
    CHECK_EQ(last.si_signo, SIGALRM);
    CHECK_EQ(last.si_code, SI_KERNEL);
    CHECK_EQ(last.si_pid, 0);

    /* A program may not pretend to be the kernel towards another process. */
    siginfo_t forged = { .si_signo = SIGUSR1, .si_code = SI_KERNEL };
    CHECK_ERR(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &forged), EPERM);
    forged.si_code = SI_USER;
    CHECK_ERR(syscall(SYS_rt_sigqueueinfo, getppid(), SIGUSR1, &forged), EPERM);
    return check_result();
}
