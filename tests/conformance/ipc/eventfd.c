/* eventfd(2): counter, semaphore, overflow blocks, EAGAIN, poll, sharing over fork, bad sizes and flags. */
#include "check.h"
#include <poll.h>
#include <sys/eventfd.h>

static short ready(int fd)
{
    struct pollfd one = { fd, POLLIN | POLLOUT, 0 };
    poll(&one, 1, 0);
    return one.revents;
}

int main(void)
{
    uint64_t value = 0;
    int fd = eventfd(3, EFD_NONBLOCK | EFD_CLOEXEC);
    CHECK(fd >= 0);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, 3);
    CHECK_ERR(read(fd, &value, 8), EAGAIN);
    CHECK_EQ(ready(fd), POLLOUT);
    value = 5;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(ready(fd), POLLIN | POLLOUT);
    CHECK_ERR(read(fd, &value, 7), EINVAL);
    CHECK_ERR(write(fd, &value, 7), EINVAL);
    uint64_t wide[4];
    CHECK_EQ(read(fd, wide, sizeof wide), 8);
    CHECK_EQ(wide[0], 10);
    value = UINT64_MAX;
    CHECK_ERR(write(fd, &value, 8), EINVAL);
    value = UINT64_MAX - 1;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(ready(fd), POLLIN);
    value = 1;
    CHECK_ERR(write(fd, &value, 8), EAGAIN);
    value = 0;
    CHECK_EQ(write(fd, &value, 8), 8);
    CHECK_EQ(read(fd, &value, 8), 8);
    CHECK_EQ(value, UINT64_MAX - 1);

    int semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(read(semaphore, &value, 8), 8);
        CHECK_EQ(value, 1);
    }
    CHECK_ERR(read(semaphore, &value, 8), EAGAIN);
    CHECK_ERR(eventfd(0, 0x4), EINVAL);

    /* Blocking, in both directions. */
    int blocking = eventfd(0, 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(read(blocking, &value, 8), 8);
        CHECK_EQ(value, 42);
        value = UINT64_MAX - 1;
        CHECK_EQ(write(blocking, &value, 8), 8);
        value = 9;
        CHECK_EQ(write(blocking, &value, 8), 8); /* waits for the parent's read */
        child_exit();
    }
    CHECK(wait_for_state(pid, 'S'));
    value = 42;
    CHECK_EQ(write(blocking, &value, 8), 8);
    struct pollfd full = { blocking, POLLIN, 0 };
    do poll(&full, 1, -1);
    while (ready(blocking) != POLLIN);
    CHECK(wait_for_state(pid, 'S'));
    CHECK_EQ(read(blocking, &value, 8), 8);
    CHECK_EQ(value, UINT64_MAX - 1);
    CHECK_CHILD(pid);
    CHECK_EQ(read(blocking, &value, 8), 8);
    CHECK_EQ(value, 9);
    return check_result();
}
