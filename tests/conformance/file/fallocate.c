/* fallocate(2) and posix_fallocate(3): sizes, KEEP_SIZE, punched holes. */
#include "check.h"
#include <linux/falloc.h>

int main(void)
{
    int fd = make_file("f", "0123456789");
    struct stat status;
    if (fallocate(fd, 0, 0, 1) < 0 && errno == EOPNOTSUPP) CANNOT("the file system has no fallocate");
    CHECK_EQ(fallocate(fd, 0, 0, 4096), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 4096);
    CHECK_EQ(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 65536), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 4096);
    char buffer[16];
    CHECK_EQ(pread(fd, buffer, 12, 0), 12);
    CHECK(memcmp(buffer, "0123456789\0\0", 12) == 0);
    CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 2, 3), 0);
    CHECK_EQ(pread(fd, buffer, 12, 0), 12);
    CHECK(memcmp(buffer, "01\0\0\0" "56789\0\0", 12) == 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 4096);
    CHECK_ERR(fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 1), EOPNOTSUPP);
    CHECK_ERR(fallocate(fd, 0, -1, 1), EINVAL);
    CHECK_ERR(fallocate(fd, 0, 0, 0), EINVAL);
    CHECK_ERR(fallocate(fd, 0, 0, -1), EINVAL);
    CHECK_ERR(fallocate(999, 0, 0, 1), EBADF);
    int read_only = open("f", O_RDONLY);
    CHECK_ERR(fallocate(read_only, 0, 0, 1), EBADF);
    int ends[2];
    MUST(pipe(ends) == 0);
    CHECK_ERR(fallocate(ends[1], 0, 0, 1), ESPIPE);
    CHECK_EQ(posix_fallocate(fd, 8192, 10), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 8202);
    CHECK_EQ(posix_fallocate(fd, 0, 0), EINVAL);
    return check_result();
}
