/* fifo(7): opening waits for the other side; O_NONBLOCK, O_RDWR; end of file and reopening. */
#include "check.h"
#include <poll.h>

int main(void)
{
    char buffer[64];
    MUST(mkfifo("f", 0600) == 0);
    CHECK_ERR(open("f", O_WRONLY | O_NONBLOCK), ENXIO);
    int reader = open("f", O_RDONLY | O_NONBLOCK);
    CHECK(reader >= 0);
    struct stat by_name, by_descriptor; /* one and the same, as rmtree and fwalk make sure */
    CHECK_EQ(stat("f", &by_name) | fstat(reader, &by_descriptor), 0);
    CHECK_EQ(by_descriptor.st_ino, by_name.st_ino);
    CHECK_EQ(by_descriptor.st_dev, by_name.st_dev);
    CHECK_EQ(read(reader, buffer, 1), 0); /* no writer: end of file, not EAGAIN */
    struct pollfd waiting = { reader, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 0);
    int writer = open("f", O_WRONLY | O_NONBLOCK);
    CHECK(writer >= 0);
    CHECK_ERR(read(reader, buffer, 1), EAGAIN);
    CHECK_EQ(write(writer, "hi", 2), 2);
    CHECK_EQ(poll(&waiting, 1, 0), 1);
    CHECK_EQ(waiting.revents & POLLIN, POLLIN);
    CHECK_EQ(read(reader, buffer, 64), 2);
    close(writer);
    CHECK_EQ(poll(&waiting, 1, 0), 1);
    CHECK_EQ(waiting.revents & POLLHUP, POLLHUP);
    CHECK_EQ(read(reader, buffer, 1), 0);
    close(reader);

    /* Blocking opens meet. */
    pid_t pid = child_fork();
    if (pid == 0) {
        int fd = open("f", O_WRONLY);
        CHECK_EQ(write(fd, "from child", 10), 10);
        child_exit();
    }
    CHECK(wait_for_state(pid, 'S'));
    reader = open("f", O_RDONLY);
    ssize_t got = read(reader, buffer, 64);
    CHECK_EQ(got, 10);
    CHECK_EQ(read(reader, buffer, 64), 0);
    CHECK_CHILD(pid);
    close(reader);
    if ((pid = child_fork()) == 0) {
        int fd = open("f", O_RDONLY);
        CHECK_EQ(read(fd, buffer, 64), 5);
        child_exit();
    }
    writer = open("f", O_WRONLY);
    CHECK_EQ(write(writer, "12345", 5), 5);
    close(writer);
    CHECK_CHILD(pid);

    /* O_RDWR never waits. */
    int both = open("f", O_RDWR);
    CHECK(both >= 0);
    CHECK_EQ(write(both, "x", 1), 1);
    CHECK_EQ(read(both, buffer, 64), 1);
    CHECK_ERR(lseek(both, 0, SEEK_SET), ESPIPE);
    /* A reader that is interrupted while it waits in open. */
    if ((pid = child_fork()) == 0) {
        MUST(mkfifo("g", 0600) == 0);
        open("g", O_RDONLY);
        _exit(1);
    }
    CHECK(wait_for_state(pid, 'S'));
    CHECK_EQ(kill(pid, SIGTERM), 0);
    CHECK_EQ(wait_status(pid), SIGTERM);
    /* The data survives unlink while it is open. */
    CHECK_EQ(write(both, "still", 5), 5);
    CHECK_EQ(unlink("f"), 0);
    CHECK_EQ(read(both, buffer, 64), 5);
    return check_result();
}
