/* lseek(2): bases, past the end, errors, SEEK_DATA and SEEK_HOLE, one offset per open file. */
#include "check.h"

int main(void)
{
    int fd = make_file("f", "0123456789");
    char c;
    CHECK_EQ(lseek(fd, 4, SEEK_SET), 4);
    CHECK_EQ(lseek(fd, -1, SEEK_CUR), 3);
    CHECK_EQ(read(fd, &c, 1), 1);
    CHECK_EQ(c, '3');
    CHECK_EQ(lseek(fd, -2, SEEK_END), 8);
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, -11, SEEK_END), EINVAL);
    CHECK_ERR(lseek(fd, 0, 99), EINVAL);
    CHECK(lseek(fd, LLONG_MAX, SEEK_CUR) == -1 && (errno == EOVERFLOW || errno == EINVAL));
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8);
    CHECK_ERR(lseek(999, 0, SEEK_SET), EBADF);

    /* Past the end: reads give nothing, a write leaves zeros between. */
    CHECK_EQ(lseek(fd, 20, SEEK_SET), 20);
    CHECK_EQ(read(fd, &c, 1), 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    char buffer[32];
    CHECK_EQ(pread(fd, buffer, 32, 0), 21);
    CHECK(memcmp(buffer + 10, "\0\0\0\0\0\0\0\0\0\0x", 11) == 0);

    /* Data and holes. A file system may report no holes at all: then data is everywhere up to the end. */
    CHECK_EQ(ftruncate(fd, 0), 0);
    CHECK_EQ(pwrite(fd, "data", 4, 1 << 20), 4);
    off_t data = lseek(fd, 0, SEEK_DATA);
    CHECK(data >= 0 && data <= 1 << 20);
    off_t hole = lseek(fd, 1 << 20, SEEK_HOLE);
    CHECK(hole > 1 << 20);
    CHECK_ERR(lseek(fd, (1 << 20) + 4, SEEK_DATA), ENXIO);
    CHECK_ERR(lseek(fd, (1 << 20) + 4, SEEK_HOLE), ENXIO);
    CHECK_EQ(lseek(fd, (1 << 20) + 3, SEEK_HOLE), (1 << 20) + 4);

    /* dup and fork share the offset; a second open has its own. */
    int copy = dup(fd), other = open("f", O_RDONLY);
    CHECK_EQ(lseek(fd, 7, SEEK_SET), 7);
    CHECK_EQ(lseek(copy, 0, SEEK_CUR), 7);
    CHECK_EQ(lseek(other, 0, SEEK_CUR), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(lseek(fd, 5, SEEK_CUR), 12);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(lseek(copy, 0, SEEK_CUR), 12);

    /* What has no offset. */
    int ends[2];
    MUST(pipe(ends) == 0);
    CHECK_ERR(lseek(ends[0], 0, SEEK_CUR), ESPIPE);
    char byte;
    CHECK_ERR(pread(ends[0], &byte, 1, 0), ESPIPE);
    return check_result();
}
