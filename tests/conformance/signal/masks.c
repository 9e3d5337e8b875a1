/* sigprocmask(2), sigpending(2): blocking, one pending standard signal, delivery at unblocking, what cannot be blocked. */
#include "check.h"

static volatile sig_atomic_t order[16], length;
static void record(int number) { if (length < 16) order[length++] = number; }

static sigset_t now(void)
{
    sigset_t set;
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &set), 0);
    return set;
}

static void *check_own_mask(void *argument)
{
    sigset_t set = now();
    CHECK_EQ(sigismember(&set, SIGUSR1), 1);
    set = signal_set(SIGUSR1);
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    return argument;
}

int main(void)
{
    sigset_t set = signal_set(SIGUSR1), old;
    catch_signal(SIGUSR1, record, 0);
    catch_signal(SIGUSR2, record, 0);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &set, &old), 0);
    CHECK_EQ(sigismember(&old, SIGUSR1), 0);
    set = now();
    CHECK_EQ(sigismember(&set, SIGUSR1), 1);
    for (int i = 0; i < 3; i++) raise(SIGUSR1);
    CHECK_EQ(length, 0);
    CHECK_EQ(sigpending(&set), 0);
    CHECK_EQ(sigismember(&set, SIGUSR1), 1);
    CHECK_EQ(sigismember(&set, SIGUSR2), 0);
    raise(SIGUSR2);
    CHECK_EQ(length, 1);
    CHECK_EQ(sigprocmask(SIG_SETMASK, &old, NULL), 0);
    CHECK_EQ(length, 2);
    CHECK_EQ(order[0], SIGUSR2);
    CHECK_EQ(order[1], SIGUSR1);
    CHECK_EQ(sigpending(&set), 0);
    CHECK_EQ(sigismember(&set, SIGUSR1), 0);

    CHECK_ERR(sigprocmask(77, &set, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, NULL, 4), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_BLOCK, (void *)8, NULL, 8), EFAULT);

    /* SIGKILL and SIGSTOP silently stay unblocked. */
    sigfillset(&set);
    CHECK_EQ(sigprocmask(SIG_SETMASK, &set, &old), 0);
    set = now();
    CHECK_EQ(sigismember(&set, SIGKILL), 0);
    CHECK_EQ(sigismember(&set, SIGSTOP), 0);
    CHECK_EQ(sigismember(&set, SIGTERM), 1);
    CHECK_EQ(sigprocmask(SIG_SETMASK, &old, NULL), 0);

    /* Ignoring a pending signal discards it. */
    set = signal_set(SIGUSR1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &set, NULL), 0);
    raise(SIGUSR1);
    catch_signal(SIGUSR1, SIG_IGN, 0);
    CHECK_EQ(sigpending(&old), 0);
    CHECK_EQ(sigismember(&old, SIGUSR1), 0);
    /* An ignored signal is not queued even while blocked... */
    raise(SIGUSR1);
    CHECK_EQ(sigpending(&old), 0);
    catch_signal(SIGUSR1, record, 0);

    /* A new thread inherits the mask; changing its own does not change ours. */
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, check_own_mask, NULL) == 0 && pthread_join(thread, NULL) == 0);
    set = now();
    CHECK_EQ(sigismember(&set, SIGUSR1), 1);

    /* A blocked signal from another process stays pending for the process, and is delivered to a thread that takes it. */
    length = 0;
    pid_t pid = child_fork();
    if (pid == 0) _exit(kill(getppid(), SIGUSR1) == 0 ? 0 : 1);
    CHECK_CHILD(pid);
    CHECK_EQ(sigpending(&set), 0);
    CHECK_EQ(sigismember(&set, SIGUSR1), 1);
    MUST(pthread_create(&thread, NULL, check_own_mask, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK_EQ(length, 1);
    return check_result();
}
