/* poll, select: readiness of pipes, files, closed ends, bad descriptors, timeouts, wake-ups. */
#include "check.h"
#include <poll.h>
#include <sys/select.h>

static int quick(int fd, short events)
{
    struct pollfd one = { fd, events, -1 };
    int ready = poll(&one, 1, 0);
    CHECK_EQ(ready, one.revents != 0);
    return one.revents;
}

int main(void)
{
    int p[2], file = make_file("f", "x");
    MUST(pipe(p) == 0);
    CHECK_EQ(quick(p[0], POLLIN), 0);
    CHECK_EQ(quick(p[1], POLLOUT | POLLIN), POLLOUT);
    CHECK_EQ(write(p[1], "x", 1), 1);
    CHECK_EQ(quick(p[0], POLLIN | POLLRDNORM), POLLIN | POLLRDNORM);
    CHECK_EQ(quick(p[0], 0), 0);
    CHECK_EQ(quick(file, POLLIN | POLLOUT), POLLIN | POLLOUT);
    CHECK_EQ(quick(999, POLLIN), POLLNVAL);
    CHECK_EQ(quick(-1, POLLIN), 0);
    int q[2];
    MUST(pipe(q) == 0);
    close(q[1]);
    CHECK_EQ(quick(q[0], POLLIN), POLLHUP);
    MUST(pipe(q) == 0);
    close(q[0]);
    CHECK_EQ(quick(q[1], POLLOUT) & POLLERR, POLLERR);

    long long start = now_ns();
    CHECK_EQ(poll(NULL, 0, 30), 0);
    CHECK(now_ns() - start >= 30000000);
    CHECK_ERR(poll((void *)8, 1, 0), EFAULT);
    struct timespec bad = { 0, -1 };
    CHECK_ERR(ppoll(NULL, 0, &bad, NULL), EINVAL);

    /* A full pipe is not writable until a good part is free. */
    char buffer[65536] = { 0 };
    MUST(fcntl(p[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(p[1], buffer, 4096) > 0) { }
    while (write(p[1], buffer, 1) > 0) { }
    CHECK_EQ(quick(p[1], POLLOUT), 0);
    CHECK_EQ(read(p[0], buffer, 65536) > 0, 1);
    CHECK_EQ(quick(p[1], POLLOUT), POLLOUT);
    close(p[0]);
    close(p[1]);

    /* Woken by a write of another process. */
    MUST(pipe(p) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(wait_for_state(getppid(), 'S'));
        CHECK_EQ(write(p[1], "w", 1), 1);
        child_exit();
    }
    struct pollfd two[3] = { { file, 0, 0 }, { p[0], POLLIN, 0 }, { p[0], POLLIN, 0 } };
    CHECK_EQ(poll(two, 3, 10000), 2);
    CHECK(two[0].revents == 0 && two[1].revents == POLLIN && two[2].revents == POLLIN);
    CHECK_CHILD(pid);

    /* select. */
    fd_set in, out;
    FD_ZERO(&in);
    FD_ZERO(&out);
    FD_SET(p[0], &in);
    FD_SET(p[1], &out);
    FD_SET(p[1], &in);
    struct timeval timeout = { 1, 0 };
    int high = (p[0] > p[1] ? p[0] : p[1]) + 1;
    CHECK_EQ(select(high, &in, &out, NULL, &timeout), 2);
    CHECK(FD_ISSET(p[0], &in) && !FD_ISSET(p[1], &in) && FD_ISSET(p[1], &out));
    char byte;
    CHECK_EQ(read(p[0], &byte, 1), 1);
    FD_ZERO(&in);
    FD_SET(p[0], &in);
    timeout = (struct timeval){ 0, 30000 };
    start = now_ns();
    CHECK_EQ(select(high, &in, NULL, NULL, &timeout), 0);
    CHECK(now_ns() - start >= 30000000);
    CHECK(!FD_ISSET(p[0], &in));
    CHECK(timeout.tv_sec == 0 && timeout.tv_usec == 0);
    FD_ZERO(&in);
    FD_SET(60, &in);
    CHECK_ERR(select(61, &in, NULL, NULL, &timeout), EBADF);
    CHECK_ERR(select(-1, NULL, NULL, NULL, &timeout), EINVAL);
    timeout.tv_usec = -1;
    CHECK_ERR(select(0, NULL, NULL, NULL, &timeout), EINVAL);
    /* A closed end makes select's reader ready. */
    close(p[1]);
    FD_ZERO(&in);
    FD_SET(p[0], &in);
    CHECK_EQ(select(p[0] + 1, &in, NULL, NULL, NULL), 1);
    return check_result();
}
