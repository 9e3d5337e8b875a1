/* getrusage, times, clock(): user and system time grow, per process and per thread. */
#include "check.h"
#include <sys/resource.h>
#include <sys/times.h>

static long spent(int who)
{
    struct rusage usage;
    CHECK_EQ(getrusage(who, &usage), 0);
    return usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
}

static void burn(long milliseconds)
{
    struct timespec now, start;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &start);
    do clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds);
}

static void *burn_in_thread(void *argument)
{
    burn(60);
    CHECK(spent(RUSAGE_THREAD) >= 40000);
    return argument;
}

int main(void)
{
    long before = spent(RUSAGE_SELF);
    struct tms start, end;
    clock_t at = times(&start);
    CHECK(at != (clock_t)-1);
    burn(100);
    CHECK(spent(RUSAGE_SELF) - before >= 60000);
    CHECK(times(&end) >= at);
    CHECK(end.tms_utime + end.tms_stime - start.tms_utime - start.tms_stime >= 5);
    CHECK_EQ(end.tms_cutime, 0);
    pthread_t thread;
    long own = spent(RUSAGE_THREAD);
    before = spent(RUSAGE_SELF);
    MUST(pthread_create(&thread, NULL, burn_in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(spent(RUSAGE_SELF) - before >= 40000);
    CHECK(spent(RUSAGE_THREAD) - own < 40000);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(spent(RUSAGE_SELF) < 50000);
        burn(100);
        child_exit();
    }
    CHECK_EQ(spent(RUSAGE_CHILDREN), 0);
    CHECK_CHILD(pid);
    CHECK(spent(RUSAGE_CHILDREN) >= 60000);
    CHECK(times(&end) != (clock_t)-1);
    CHECK(end.tms_cutime + end.tms_cstime >= 5);
    struct rusage usage;
    CHECK_ERR(getrusage(77, &usage), EINVAL);
    CHECK_EQ(getrusage(RUSAGE_SELF, &usage), 0);
    CHECK(usage.ru_maxrss > 500);
    CHECK(usage.ru_minflt > 0);
    return check_result();
}
