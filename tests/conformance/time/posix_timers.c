/* timer_create(2) and friends: signals with values, overruns, absolute times, SIGEV_NONE, SIGEV_THREAD, deletion, fork. */
#include "check.h"

static volatile sig_atomic_t count, value;
static volatile int code;
static void record(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    value = info->si_value.sival_int;
    code = info->si_code;
    count++;
}

static atomic_int thread_calls;
static void in_thread(union sigval argument) { atomic_fetch_add(&thread_calls, argument.sival_int); }

int main(void)
{
    struct sigaction action = { .sa_sigaction = record, .sa_flags = SA_SIGINFO };
    MUST(sigaction(SIGRTMIN + 2, &action, NULL) == 0);
    struct sigevent event = { .sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 2, .sigev_value.sival_int = 99 };
    timer_t timer;
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    struct itimerspec set = { { 0, 0 }, { 0, 20000000 } }, old;
    CHECK_EQ(timer_settime(timer, 0, &set, NULL), 0);
    CHECK_EQ(timer_gettime(timer, &old), 0);
    CHECK(old.it_value.tv_nsec > 0 && old.it_value.tv_nsec <= 20000000);
    for (int i = 0; i < 1000 && count < 1; i++) sleep_ms(5);
    CHECK_EQ(count, 1);
    CHECK_EQ(value, 99);
    CHECK_EQ(code, SI_TIMER);

    /* While blocked, expirations of one timer count as overruns of one signal. */
    sigset_t block = signal_set(SIGRTMIN + 2), previous;
    MUST(sigprocmask(SIG_BLOCK, &block, &previous) == 0);
    set = (struct itimerspec){ { 0, 5000000 }, { 0, 5000000 } };
    CHECK_EQ(timer_settime(timer, 0, &set, NULL), 0);
    sleep_ms(60);
    siginfo_t info;
    CHECK_EQ(sigwaitinfo(&block, &info), SIGRTMIN + 2);
    CHECK(info.si_overrun >= 8);
    CHECK(timer_getoverrun(timer) >= 8);
    set = (struct itimerspec){ { 0, 0 }, { 0, 0 } };
    CHECK_EQ(timer_settime(timer, 0, &set, &old), 0);
    CHECK_EQ(old.it_interval.tv_nsec, 5000000);
    struct timespec none = { 0, 0 };
    while (sigtimedwait(&block, &info, &none) > 0) { }
    MUST(sigprocmask(SIG_SETMASK, &previous, NULL) == 0);

    /* An absolute time in the past fires at once. */
    count = 0;
    set.it_value = (struct timespec){ 1, 0 };
    CHECK_EQ(timer_settime(timer, TIMER_ABSTIME, &set, NULL), 0);
    for (int i = 0; i < 1000 && count < 1; i++) sleep_ms(5);
    CHECK_EQ(count, 1);

    /* A child has no timers; deleting makes the id invalid. */
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_ERR(timer_gettime(timer, &old), EINVAL);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(timer_delete(timer), 0);
    CHECK_ERR(timer_gettime(timer, &old), EINVAL);
    CHECK_ERR(timer_settime(timer, 0, &set, NULL), EINVAL);

    /* No notification; the processor's clock; a thread. */
    event.sigev_notify = SIGEV_NONE;
    CHECK_EQ(timer_create(CLOCK_REALTIME, &event, &timer), 0);
    set = (struct itimerspec){ { 0, 0 }, { 10, 0 } };
    CHECK_EQ(timer_settime(timer, 0, &set, NULL), 0);
    CHECK_EQ(timer_gettime(timer, &old), 0);
    CHECK(old.it_value.tv_sec == 9 || old.it_value.tv_sec == 10);
    CHECK_EQ(timer_delete(timer), 0);
    count = 0;
    event.sigev_notify = SIGEV_SIGNAL;
    CHECK_EQ(timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer), 0);
    set = (struct itimerspec){ { 0, 0 }, { 0, 30000000 } };
    CHECK_EQ(timer_settime(timer, 0, &set, NULL), 0);
    sleep_ms(60);
    CHECK_EQ(count, 0);
    long long limit = now_ns() + 5000000000;
    while (!count && now_ns() < limit) { }
    CHECK_EQ(count, 1);
    CHECK_EQ(timer_delete(timer), 0);
    event = (struct sigevent){ .sigev_notify = SIGEV_THREAD, .sigev_value.sival_int = 5 };
    event.sigev_notify_function = in_thread;
    CHECK_EQ(timer_create(CLOCK_MONOTONIC, &event, &timer), 0);
    set = (struct itimerspec){ { 0, 10000000 }, { 0, 10000000 } };
    CHECK_EQ(timer_settime(timer, 0, &set, NULL), 0);
    for (int i = 0; i < 1000 && thread_calls < 15; i++) sleep_ms(5);
    CHECK(thread_calls >= 15);
    CHECK_EQ(timer_delete(timer), 0);

    event = (struct sigevent){ .sigev_notify = 77 };
    CHECK_ERR(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &count), EINVAL);
    event = (struct sigevent){ .sigev_notify = SIGEV_SIGNAL, .sigev_signo = 100 };
    CHECK_ERR(syscall(SYS_timer_create, CLOCK_MONOTONIC, &event, &count), EINVAL);
    CHECK_ERR(syscall(SYS_timer_create, 77, NULL, &count), EINVAL);
    return check_result();
}
