/* dup, dup2, dup3, F_DUPFD, F_DUPFD_CLOEXEC, close_range: numbers, flags, limits. */
#include "check.h"
#include <sys/resource.h>

int main(void)
{
    int fd = open("/dev/null", O_RDWR | O_CLOEXEC);
    int copy = dup(fd);
    CHECK(copy > fd);
    CHECK_EQ(fcntl(copy, F_GETFD), 0);
    CHECK_EQ(dup2(fd, 50), 50);
    CHECK_EQ(fcntl(50, F_GETFD), 0);
    CHECK_EQ(dup2(fd, fd), fd);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(dup2(49, 49), EBADF);
    CHECK_ERR(dup2(999, 51), EBADF);
    CHECK_ERR(dup2(fd, -1), EBADF);
    CHECK_EQ(dup3(fd, 51, O_CLOEXEC), 51);
    CHECK_EQ(fcntl(51, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(dup3(fd, fd, 0), EINVAL);
    CHECK_ERR(dup3(fd, 52, O_NONBLOCK), EINVAL);
    CHECK_EQ(fcntl(fd, F_DUPFD, 50), 52);
    CHECK_EQ(fcntl(fd, F_DUPFD_CLOEXEC, 50), 53);
    CHECK_EQ(fcntl(53, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(fcntl(fd, F_DUPFD, -1), EINVAL);
    CHECK_ERR(fcntl(fd, 12345), EINVAL);
    CHECK_ERR(fcntl(999, F_GETFD), EBADF);
    CHECK_EQ(fcntl(52, F_SETFD, FD_CLOEXEC), 0);
    CHECK_EQ(fcntl(52, F_GETFD), FD_CLOEXEC);

    /* The lowest free number is taken. */
    close(51);
    close(50);
    CHECK_EQ(fcntl(fd, F_DUPFD, 50), 50);
    CHECK_EQ(fcntl(fd, F_DUPFD, 50), 51);

    /* close_range. */
    CHECK_EQ(close_range(50, 51, 0), 0);
    CHECK_ERR(fcntl(50, F_GETFD), EBADF);
    CHECK_EQ(fcntl(52, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(52, F_SETFD, 0), 0);
    CHECK_EQ(close_range(52, ~0U, CLOSE_RANGE_CLOEXEC), 0);
    CHECK_EQ(fcntl(52, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(close_range(50, ~0U, 0), 0);
    CHECK_ERR(fcntl(53, F_GETFD), EBADF);
    CHECK_ERR(close_range(10, 5, 0), EINVAL);
    CHECK_ERR(close_range(50, 60, 0x80), EINVAL);

    /* RLIMIT_NOFILE. */
    struct rlimit limit, old;
    CHECK_EQ(getrlimit(RLIMIT_NOFILE, &old), 0);
    limit = (struct rlimit){ 20, old.rlim_max };
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_ERR(fcntl(fd, F_DUPFD, 20), EINVAL);
    CHECK_ERR(dup2(fd, 20), EBADF);
    CHECK_EQ(dup2(fd, 19), 19);
    int last = -1, next;
    while ((next = dup(fd)) >= 0) last = next;
    CHECK_ERR(dup(fd), EMFILE);
    CHECK(last >= 3 && last <= 18);
    CHECK_ERR(open("/dev/null", O_RDONLY), EMFILE);
    int ends[2];
    CHECK_ERR(pipe(ends), EMFILE);
    return check_result();
}
