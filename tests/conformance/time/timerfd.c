/* timerfd: one-shot, periodic, absolute, counts, blocking, poll, errors. */
#include "check.h"
#include <poll.h>
#include <sys/timerfd.h>

int main(void)
{
    int fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    CHECK(fd >= 0);
    uint64_t count;
    CHECK_ERR(read(fd, &count, 8), EAGAIN);
    struct itimerspec timer = { { 0, 0 }, { 0, 30000000 } }, old;
    long long start = now_ns();
    CHECK_EQ(timerfd_settime(fd, 0, &timer, NULL), 0);
    CHECK_EQ(timerfd_gettime(fd, &old), 0);
    CHECK(old.it_value.tv_nsec > 0 && old.it_value.tv_nsec <= 30000000 && old.it_interval.tv_nsec == 0);
    struct pollfd waiting = { fd, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    CHECK_EQ(waiting.revents, POLLIN);
    CHECK(now_ns() - start >= 30000000);
    CHECK_ERR(read(fd, &count, 4), EINVAL);
    CHECK_EQ(read(fd, &count, 8), 8);
    CHECK_EQ(count, 1);
    CHECK_ERR(read(fd, &count, 8), EAGAIN);
    CHECK_EQ(timerfd_gettime(fd, &old), 0);
    CHECK(old.it_value.tv_sec == 0 && old.it_value.tv_nsec == 0);

    /* Periodic: a late reader gets the number of expirations. */
    timer = (struct itimerspec){ { 0, 10000000 }, { 0, 1 } };
    CHECK_EQ(timerfd_settime(fd, 0, &timer, NULL), 0);
    sleep_ms(105);
    CHECK_EQ(read(fd, &count, 8), 8);
    CHECK(count >= 10);
    timer = (struct itimerspec){ { 0, 0 }, { 0, 0 } };
    CHECK_EQ(timerfd_settime(fd, 0, &timer, &old), 0);
    CHECK_EQ(old.it_interval.tv_nsec, 10000000);
    read(fd, &count, 8) == 8 ? (void)0 : (void)0;
    sleep_ms(20);
    CHECK_ERR(read(fd, &count, 8), EAGAIN);

    /* Absolute, and one that has passed. */
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    timer = (struct itimerspec){ { 0, 0 }, now };
    CHECK_EQ(timerfd_settime(fd, TFD_TIMER_ABSTIME, &timer, NULL), 0);
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    CHECK_EQ(read(fd, &count, 8), 8);
    CHECK_EQ(count, 1);

    /* A blocking read; shared with a child. */
    int blocking = timerfd_create(CLOCK_REALTIME, 0);
    timer = (struct itimerspec){ { 0, 0 }, { 0, 20000000 } };
    CHECK_EQ(timerfd_settime(blocking, 0, &timer, NULL), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(read(blocking, &count, 8), 8);
        child_exit();
    }
    CHECK_CHILD(pid);

    CHECK_ERR(timerfd_create(77, 0), EINVAL);
    CHECK_ERR(timerfd_create(CLOCK_MONOTONIC, 0x1), EINVAL);
    timer.it_value.tv_nsec = 1000000000;
    CHECK_ERR(timerfd_settime(fd, 0, &timer, NULL), EINVAL);
    timer.it_value.tv_nsec = 1;
    CHECK_ERR(timerfd_settime(fd, 0x100, &timer, NULL), EINVAL);
    CHECK_ERR(timerfd_settime(0, 0, &timer, NULL), EINVAL);
    CHECK_ERR(timerfd_settime(999, 0, &timer, NULL), EBADF);
    CHECK_ERR(write(fd, &count, 8), EINVAL);
    return check_result();
}
