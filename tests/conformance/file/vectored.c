/* readv, writev, preadv, pwritev, preadv2, pwritev2. */
#include "check.h"
#include <sys/uio.h>

int main(void)
{
    int fd = make_file("f", "");
    struct iovec out[3] = { { "one", 3 }, { NULL, 0 }, { "three", 5 } };
    CHECK_EQ(writev(fd, out, 3), 8);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    char a[4] = { 0 }, b[16] = { 0 };
    struct iovec in[2] = { { a, 3 }, { b, 16 } };
    CHECK_EQ(readv(fd, in, 2), 8);
    CHECK_STR(a, "one");
    CHECK_STR(b, "three");
    CHECK_EQ(readv(fd, in, 2), 0);

    CHECK_EQ(writev(fd, out, 0), 0);
    CHECK_ERR(writev(fd, out, -1), EINVAL);
    struct iovec many[IOV_MAX + 1];
    for (int i = 0; i <= IOV_MAX; i++) many[i] = (struct iovec){ "x", 1 };
    CHECK_ERR(writev(fd, many, IOV_MAX + 1), EINVAL);
    CHECK_EQ(writev(fd, many, IOV_MAX), IOV_MAX);
    struct iovec negative[2] = { { a, 1 }, { b, (size_t)-1 } };
    CHECK_ERR(readv(fd, negative, 2), EINVAL);
    CHECK_ERR(readv(fd, (struct iovec *)8, 2), EFAULT);
    struct iovec bad[2] = { { (void *)8, 4 }, { b, 1 } };
    CHECK_ERR(pwritev(fd, bad, 2, 0), EFAULT);

    CHECK_EQ(pwritev(fd, out, 3, 100), 8);
    memset(a, 0, sizeof a);
    memset(b, 0, sizeof b);
    CHECK_EQ(preadv(fd, in, 1, 100), 3);
    CHECK_STR(a, "one");
    CHECK_ERR(preadv(fd, in, 1, -2), EINVAL);

    /* The second versions: offset -1 is the file's own; unknown flags are refused. */
    CHECK_EQ(lseek(fd, 100, SEEK_SET), 100);
    memset(a, 0, sizeof a);
    CHECK_EQ(preadv2(fd, in, 1, -1, 0), 3);
    CHECK_STR(a, "one");
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 103);
    CHECK_EQ(pwritev2(fd, out, 1, 0, RWF_DSYNC), 3);
    CHECK_ERR(preadv2(fd, in, 1, 0, 0x40000000), EOPNOTSUPP);
    struct stat before, after;
    CHECK_EQ(fstat(fd, &before), 0);
    CHECK_EQ(pwritev2(fd, out, 1, 0, RWF_APPEND), 3);
    CHECK_EQ(fstat(fd, &after), 0);
    CHECK_EQ(after.st_size, before.st_size + 3);

    /* On a pipe a vector is one stream. */
    int ends[2];
    MUST(pipe(ends) == 0);
    CHECK_EQ(writev(ends[1], out, 3), 8);
    memset(b, 0, sizeof b);
    struct iovec one[1] = { { b, 16 } };
    CHECK_EQ(readv(ends[0], one, 1), 8);
    CHECK_STR(b, "onethree");
    CHECK_ERR(preadv(ends[0], one, 1, 0), ESPIPE);
    return check_result();
}
