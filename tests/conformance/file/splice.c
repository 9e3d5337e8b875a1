/* splice(2), tee(2), vmsplice(2): one side is a pipe; offsets; the pipe keeps what tee copied. */
#include "check.h"
#include <sys/uio.h>

int main(void)
{
    int in = make_file("in", "0123456789"), out = make_file("out", ""), a[2], b[2];
    MUST(pipe(a) == 0 && pipe(b) == 0);
    off_t offset = 3;
    CHECK_EQ(splice(in, &offset, a[1], NULL, 4, 0), 4);
    CHECK_EQ(offset, 7);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 0);
    CHECK_EQ(tee(a[0], b[1], 100, SPLICE_F_NONBLOCK), 4);
    CHECK_EQ(splice(a[0], NULL, out, NULL, 100, 0), 4);
    CHECK_EQ(splice(b[0], NULL, out, NULL, 100, SPLICE_F_MOVE), 4);
    CHECK_STR(read_file("out"), "34563456");
    CHECK_ERR(splice(a[0], NULL, out, NULL, 1, SPLICE_F_NONBLOCK), EAGAIN);
    CHECK_ERR(splice(in, NULL, out, NULL, 1, 0), EINVAL);
    CHECK_ERR(splice(a[0], &offset, out, NULL, 1, 0), ESPIPE);
    CHECK_ERR(splice(999, NULL, a[1], NULL, 1, 0), EBADF);
    CHECK_ERR(tee(in, a[1], 1, 0), EINVAL);
    CHECK_ERR(splice(a[1], NULL, out, NULL, 1, 0), EBADF);
    CHECK_EQ(splice(a[0], NULL, out, NULL, 0, 0), 0);

    /* Pipe to pipe, and the end of the stream. */
    CHECK_EQ(write(a[1], "pipe", 4), 4);
    CHECK_EQ(splice(a[0], NULL, b[1], NULL, 100, 0), 4);
    char buffer[16] = { 0 };
    CHECK_EQ(read(b[0], buffer, 16), 4);
    CHECK_STR(buffer, "pipe");
    struct iovec vector = { "vm", 2 };
    CHECK_EQ(vmsplice(a[1], &vector, 1, 0), 2);
    CHECK_EQ(read(a[0], buffer, 16), 2);
    CHECK(memcmp(buffer, "vm", 2) == 0);
    close(a[1]);
    CHECK_EQ(splice(a[0], NULL, out, NULL, 100, 0), 0);
    return check_result();
}
