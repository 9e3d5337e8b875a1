/* clock_gettime, clock_getres, gettimeofday, time: they move, agree with each other, and refuse what is unknown. */
#include "check.h"
#include <sys/time.h>

static long long read_clock(clockid_t clock)
{
    struct timespec now;
    CHECK_EQ(clock_gettime(clock, &now), 0);
    CHECK(now.tv_nsec >= 0 && now.tv_nsec < 1000000000);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

static long long raw_clock(clockid_t clock)
{
    struct timespec now;
    CHECK_EQ(syscall(SYS_clock_gettime, clock, &now), 0);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

int main(void)
{
    static const clockid_t clocks[] = {
        CLOCK_REALTIME, CLOCK_MONOTONIC, CLOCK_MONOTONIC_RAW, CLOCK_BOOTTIME, CLOCK_REALTIME_COARSE, CLOCK_MONOTONIC_COARSE,
        CLOCK_PROCESS_CPUTIME_ID, CLOCK_THREAD_CPUTIME_ID, CLOCK_TAI,
    };
    for (size_t i = 0; i < sizeof clocks / sizeof *clocks; i++) {
        long long a = read_clock(clocks[i]), b = raw_clock(clocks[i]), c = read_clock(clocks[i]);
        if (!(a <= b && b <= c)) CHECK_FAIL("clock %d goes back: %lld %lld %lld", clocks[i], a, b, c);
        struct timespec resolution;
        CHECK_EQ(clock_getres(clocks[i], &resolution), 0);
        CHECK(resolution.tv_sec == 0 && resolution.tv_nsec > 0);
    }
    struct timespec now;
    CHECK_ERR(clock_gettime(77, &now), EINVAL);
    CHECK_ERR(syscall(SYS_clock_gettime, CLOCK_REALTIME, (void *)8), EFAULT);
    CHECK_ERR(clock_getres(77, &now), EINVAL);
    CHECK_EQ(clock_getres(CLOCK_REALTIME, NULL), 0);
    long long monotonic = read_clock(CLOCK_MONOTONIC), real = read_clock(CLOCK_REALTIME);
    sleep_ms(30);
    CHECK(read_clock(CLOCK_MONOTONIC) - monotonic >= 30000000);
    CHECK(read_clock(CLOCK_REALTIME) - real >= 29000000);
    CHECK(real > 1600000000LL * 1000000000);
    struct timeval timeval;
    CHECK_EQ(gettimeofday(&timeval, NULL), 0);
    time_t seconds = time(NULL);
    CHECK(seconds - timeval.tv_sec >= 0 && seconds - timeval.tv_sec <= 5);
    CHECK_EQ(syscall(SYS_time, NULL) - seconds <= 5, 1);

    /* Processor time does not pass while sleeping, and passes while working. */
    long long before = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    sleep_ms(100);
    long long slept = read_clock(CLOCK_PROCESS_CPUTIME_ID);
    CHECK(slept - before < 60000000);
    while (read_clock(CLOCK_THREAD_CPUTIME_ID) < 30000000) { }
    CHECK(read_clock(CLOCK_PROCESS_CPUTIME_ID) >= 29000000);

    /* Another process's clock, and a thread's. */
    clockid_t clock;
    CHECK_EQ(clock_getcpuclockid(getpid(), &clock), 0);
    CHECK(read_clock(clock) >= 29000000);
    CHECK_EQ(pthread_getcpuclockid(pthread_self(), &clock), 0);
    CHECK(read_clock(clock) > 0);
    CHECK_EQ(clock_getcpuclockid(99999999, &clock), ESRCH);

    /* An ordinary user cannot set the clock. */
    if (geteuid() != 0) {
        clock_gettime(CLOCK_REALTIME, &now);
        CHECK_ERR(clock_settime(CLOCK_REALTIME, &now), EPERM);
    }
    CHECK_ERR(clock_settime(CLOCK_MONOTONIC, &now), EINVAL);
    return check_result();
}
