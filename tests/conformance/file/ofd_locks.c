/* Open file description locks: they belong to the open file, so they conflict inside one process and survive close of another. */
#include "check.h"

static int lock(int fd, int command, int type, off_t start, off_t length)
{
    struct flock request = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
    return fcntl(fd, command, &request);
}

int main(void)
{
    int a = make_file("f", "0123456789"), b = open("f", O_RDWR), a2 = dup(a);
    CHECK_EQ(lock(a, F_OFD_SETLK, F_WRLCK, 0, 5), 0);
    CHECK_EQ(lock(a2, F_OFD_SETLK, F_WRLCK, 0, 5), 0);
    CHECK_ERR(lock(b, F_OFD_SETLK, F_RDLCK, 4, 1), EAGAIN);
    CHECK_EQ(lock(b, F_OFD_SETLK, F_WRLCK, 5, 1), 0);
    struct flock found = { .l_type = F_RDLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0 };
    CHECK_EQ(fcntl(b, F_OFD_GETLK, &found), 0);
    CHECK_EQ(found.l_type, F_WRLCK);
    CHECK_EQ(found.l_pid, -1);
    CHECK_EQ(found.l_len, 5);
    /* They conflict with the traditional ones, also of the same process. */
    CHECK_ERR(lock(b, F_SETLK, F_WRLCK, 0, 1), EAGAIN);
    /* l_pid must be 0 in a request. */
    found = (struct flock){ .l_type = F_RDLCK, .l_pid = 1 };
    CHECK_ERR(fcntl(b, F_OFD_SETLK, &found), EINVAL);
    /* Closing another open file does not drop them; a fork shares them; closing the last descriptor does. */
    close(open("f", O_RDONLY));
    CHECK_ERR(lock(b, F_OFD_SETLK, F_RDLCK, 4, 1), EAGAIN);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(lock(a, F_OFD_SETLK, F_WRLCK, 2, 1), 0);
        child_exit();
    }
    CHECK_CHILD(pid);
    close(a);
    CHECK_ERR(lock(b, F_OFD_SETLK, F_RDLCK, 4, 1), EAGAIN);
    close(a2);
    CHECK_EQ(lock(b, F_OFD_SETLK, F_WRLCK, 0, 0), 0);
    return check_result();
}
