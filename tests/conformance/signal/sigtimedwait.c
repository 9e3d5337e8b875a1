/* sigwaitinfo, sigtimedwait, sigwait: synchronous acceptance, time limit, order. */
#include "check.h"

static void *send_later(void *argument)
{
    sleep_ms(30);
    pthread_kill(*(pthread_t *)argument, SIGUSR2);
    return NULL;
}

static volatile sig_atomic_t handled;
static void handler(int number) { handled = number; }

int main(void)
{
    sigset_t set = signal_set(SIGUSR1), both;
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGRTMIN);
    sigaddset(&set, SIGCHLD);
    both = set;
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    siginfo_t info;
    struct timespec zero = { 0, 0 }, some = { 0, 50000000 }, bad = { 0, -1 };
    CHECK_ERR(sigtimedwait(&set, &info, &zero), EAGAIN);
    long long start = now_ns();
    CHECK_ERR(sigtimedwait(&set, &info, &some), EAGAIN);
    CHECK(now_ns() - start >= 50000000);
    CHECK_ERR(sigtimedwait(&set, &info, &bad), EINVAL);

    CHECK_EQ(kill(getpid(), SIGUSR1), 0);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGUSR1);
    CHECK_EQ(info.si_code, SI_USER);
    CHECK_EQ(info.si_pid, getpid());
    union sigval value = { .sival_int = 41 };
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN, value), 0);
    value.sival_int = 42;
    CHECK_EQ(sigqueue(getpid(), SIGRTMIN, value), 0);
    raise(SIGUSR2);
    CHECK_EQ(sigtimedwait(&set, &info, &zero), SIGUSR2);
    CHECK_EQ(sigtimedwait(&set, &info, &zero), SIGRTMIN);
    CHECK_EQ(info.si_value.sival_int, 41);
    CHECK_EQ(sigtimedwait(&set, &info, &zero), SIGRTMIN);
    CHECK_EQ(info.si_value.sival_int, 42);
    CHECK_ERR(sigtimedwait(&set, &info, &zero), EAGAIN);
    /* Only those that are asked for. */
    raise(SIGUSR1);
    sigset_t two = signal_set(SIGUSR2);
    CHECK_ERR(sigtimedwait(&two, &info, &zero), EAGAIN);
    int number = 0;
    CHECK_EQ(sigwait(&both, &number), 0);
    CHECK_EQ(number, SIGUSR1);

    /* From a thread and from a child. */
    pthread_t self = pthread_self(), thread;
    MUST(pthread_create(&thread, NULL, send_later, &self) == 0);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGUSR2);
    CHECK(info.si_code == SI_TKILL || info.si_code == SI_USER); /* glibc turns the first into the second */
    pthread_join(thread, NULL);
    pid_t pid = child_fork();
    if (pid == 0) _exit(3);
    CHECK_EQ(sigwaitinfo(&set, &info), SIGCHLD);
    CHECK_EQ(info.si_pid, pid);
    CHECK_EQ(info.si_status, 3);
    CHECK_EQ(wait_status(pid), 3 << 8);

    /* A handler for another signal interrupts it. */
    catch_signal(SIGALRM, handler, SA_RESTART);
    alarm(1);
    CHECK_ERR(sigwaitinfo(&set, &info), EINTR);
    CHECK_EQ(handled, SIGALRM);
    return check_result();
}
