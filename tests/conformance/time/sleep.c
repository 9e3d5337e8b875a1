/* nanosleep, clock_nanosleep, sleep, usleep: relative, absolute, interrupted, refused. */
#include "check.h"
#include <sys/time.h>

static volatile sig_atomic_t count;
static void handler(int number) { (void)number; count++; }

int main(void)
{
    struct timespec some = { 0, 20000000 }, left = { 5, 5 };
    long long start = now_ns();
    CHECK_EQ(nanosleep(&some, &left), 0);
    CHECK(now_ns() - start >= 20000000);
    struct timespec bad[] = { { -1, 0 }, { 0, -1 }, { 0, 1000000000 } };
    for (int i = 0; i < 3; i++) CHECK_ERR(nanosleep(&bad[i], NULL), EINVAL);
    CHECK_ERR(nanosleep((void *)8, NULL), EFAULT);
    struct timespec zero = { 0, 0 };
    CHECK_EQ(nanosleep(&zero, NULL), 0);

    clockid_t clocks[] = { CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_BOOTTIME };
    for (int i = 0; i < 3; i++) {
        struct timespec at;
        clock_gettime(clocks[i], &at);
        at.tv_nsec += 30000000;
        if (at.tv_nsec >= 1000000000) at.tv_sec++, at.tv_nsec -= 1000000000;
        CHECK_EQ(clock_nanosleep(clocks[i], TIMER_ABSTIME, &at, NULL), 0);
        struct timespec now;
        clock_gettime(clocks[i], &now);
        CHECK(now.tv_sec > at.tv_sec || (now.tv_sec == at.tv_sec && now.tv_nsec >= at.tv_nsec));
        start = now_ns();
        CHECK_EQ(clock_nanosleep(clocks[i], TIMER_ABSTIME, &at, NULL), 0); /* in the past */
        CHECK(now_ns() - start < 2000000000);
        CHECK_EQ(clock_nanosleep(clocks[i], 0, &some, NULL), 0);
    }
    CHECK_EQ(clock_nanosleep(CLOCK_THREAD_CPUTIME_ID, 0, &some, NULL), EINVAL);
    CHECK_EQ(clock_nanosleep(77, 0, &some, NULL), EINVAL);

    /* Interrupted: the rest is reported for relative sleeps only. */
    catch_signal(SIGALRM, handler, 0);
    struct itimerval timer = { { 0, 0 }, { 0, 50000 } };
    struct timespec longer = { 10, 0 };
    setitimer(ITIMER_REAL, &timer, NULL);
    CHECK_ERR(nanosleep(&longer, &left), EINTR);
    CHECK(left.tv_sec == 9 && left.tv_nsec <= 960000000);
    setitimer(ITIMER_REAL, &timer, NULL);
    left = (struct timespec){ 5, 5 };
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_sec += 10;
    CHECK_EQ(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, &left), EINTR);
    CHECK(left.tv_sec == 5 && left.tv_nsec == 5);
    setitimer(ITIMER_REAL, &timer, NULL);
    unsigned unslept = sleep(10);
    CHECK(unslept == 9 || unslept == 10);
    CHECK_EQ(count, 3);
    /* Many threads sleep at once, not one after the other. */
    start = now_ns();
    pid_t pids[20];
    for (int i = 0; i < 20; i++)
        if ((pids[i] = child_fork()) == 0) {
            sleep_ms(100);
            _exit(0);
        }
    for (int i = 0; i < 20; i++) CHECK_CHILD(pids[i]);
    CHECK(now_ns() - start < 1500000000);
    return check_result();
}
