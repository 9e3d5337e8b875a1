/* truncate(2) and ftruncate(2): shrinking, growing with zeros, errors, times, RLIMIT_FSIZE. */
#include "check.h"
#include <sys/resource.h>

static volatile sig_atomic_t too_large;
static void on_xfsz(int number) { (void)number; too_large++; }

int main(void)
{
    int fd = make_file("f", "0123456789");
    struct stat status;
    CHECK_EQ(truncate("f", 4), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 4);
    CHECK_EQ(ftruncate(fd, 8), 0);
    char buffer[16];
    CHECK_EQ(pread(fd, buffer, 16, 0), 8);
    CHECK(memcmp(buffer, "0123\0\0\0\0", 8) == 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_ERR(ftruncate(fd, -1), EINVAL);
    CHECK_ERR(truncate("f", -1), EINVAL);
    CHECK_ERR(truncate("missing", 0), ENOENT);
    CHECK_ERR(truncate("f/x", 0), ENOTDIR);
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_ERR(truncate("d", 0), EISDIR);
    int read_only = open("f", O_RDONLY);
    CHECK_ERR(ftruncate(read_only, 0), EINVAL);
    CHECK_ERR(ftruncate(999, 0), EBADF);
    int ends[2];
    MUST(pipe(ends) == 0);
    CHECK_ERR(ftruncate(ends[1], 0), EINVAL);

    /* A large sparse file costs next to nothing. */
    CHECK_EQ(ftruncate(fd, 1LL << 32), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 1LL << 32);
    CHECK(status.st_blocks < 1000);
    CHECK_EQ(pwrite(fd, "z", 1, (1LL << 32) - 1), 1);
    CHECK_EQ(pread(fd, buffer, 2, (1LL << 32) - 2), 2);
    CHECK(buffer[0] == 0 && buffer[1] == 'z');
    CHECK_EQ(ftruncate(fd, 0), 0);

    /* The file size limit: SIGXFSZ and EFBIG; up to the limit a write is cut short. */
    catch_signal(SIGXFSZ, on_xfsz, 0);
    struct rlimit limit = { 100, RLIM_INFINITY };
    CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
    CHECK_EQ(pwrite(fd, buffer, 10, 95), 5);
    CHECK_ERR(pwrite(fd, buffer, 1, 100), EFBIG);
    CHECK_EQ(too_large, 1);
    CHECK_ERR(ftruncate(fd, 101), EFBIG);
    CHECK_EQ(too_large, 2);
    CHECK_EQ(ftruncate(fd, 100), 0);
    return check_result();
}
