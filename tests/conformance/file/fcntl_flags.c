/* F_GETFL and F_SETFL, F_GETOWN, F_SETPIPE_SZ, ioctl FIONREAD, FIONBIO, FIOCLEX. */
#include "check.h"
#include <sys/ioctl.h>

int main(void)
{
    int fd = make_file("f", "abc");
    CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_RDWR);
    /* The access mode and creation flags cannot be changed; the others can. */
    CHECK_EQ(fcntl(fd, F_SETFL, O_WRONLY | O_NONBLOCK | O_APPEND | O_CREAT), 0);
    CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_NONBLOCK | O_APPEND | O_CREAT), O_RDWR | O_NONBLOCK | O_APPEND);
    /* Status flags belong to the open file, so a dup sees them; descriptor flags do not. */
    int copy = dup(fd);
    CHECK_EQ(fcntl(copy, F_GETFL) & O_APPEND, O_APPEND);
    CHECK_EQ(fcntl(copy, F_SETFL, 0), 0);
    CHECK_EQ(fcntl(fd, F_GETFL) & (O_APPEND | O_NONBLOCK), 0);
    CHECK_EQ(fcntl(copy, F_SETFD, FD_CLOEXEC), 0);
    CHECK_EQ(fcntl(dup(copy), F_GETFD), 0);

    int ends[2];
    MUST(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0);
    CHECK_EQ(fcntl(ends[0], F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY | O_NONBLOCK);
    CHECK_EQ(fcntl(ends[1], F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY | O_NONBLOCK);
    CHECK_EQ(fcntl(ends[1], F_GETFD), FD_CLOEXEC);
    CHECK_ERR(pipe2(ends, 0x7), EINVAL);

    int on = 1, off = 0, count = -1;
    CHECK_EQ(ioctl(ends[0], FIONBIO, &off), 0);
    CHECK_EQ(fcntl(ends[0], F_GETFL) & O_NONBLOCK, 0);
    CHECK_EQ(ioctl(ends[0], FIONBIO, &on), 0);
    CHECK_EQ(fcntl(ends[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ(write(ends[1], "12345", 5), 5);
    CHECK_EQ(ioctl(ends[0], FIONREAD, &count), 0);
    CHECK_EQ(count, 5);
    CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
    CHECK_EQ(ioctl(fd, FIONREAD, &count), 0);
    CHECK_EQ(count, 2);
    CHECK_EQ(ioctl(fd, FIONCLEX), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    CHECK_EQ(ioctl(fd, FIOCLEX), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    struct winsize size;
    CHECK_ERR(ioctl(fd, TIOCGWINSZ, &size), ENOTTY);
    CHECK_ERR(ioctl(999, FIONREAD, &count), EBADF);
    CHECK_EQ(isatty(fd), 0);

    CHECK_EQ(fcntl(ends[0], F_SETOWN, getpid()), 0);
    CHECK_EQ(fcntl(ends[0], F_GETOWN), getpid());
    return check_result();
}
