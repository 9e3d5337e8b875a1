/* sendfile(2): file to pipe, socket and file; with and without an offset; errors. */
#include "check.h"
#include <sys/sendfile.h>
#include <sys/socket.h>

int main(void)
{
    int in = make_file("in", "0123456789"), out = make_file("out", "");
    off_t offset = 2;
    CHECK_EQ(sendfile(out, in, &offset, 5), 5);
    CHECK_EQ(offset, 7);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 0);
    CHECK_EQ(sendfile(out, in, NULL, 3), 3);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 3);
    CHECK_STR(read_file("out"), "23456012");
    CHECK_EQ(sendfile(out, in, NULL, 100), 7);
    CHECK_EQ(sendfile(out, in, NULL, 100), 0);

    int pair[2], ends[2];
    char buffer[16] = { 0 };
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(ends) == 0);
    offset = 0;
    CHECK_EQ(sendfile(pair[0], in, &offset, 10), 10);
    CHECK_EQ(read(pair[1], buffer, 16), 10);
    CHECK_STR(buffer, "0123456789");
    memset(buffer, 0, sizeof buffer);
    offset = 8;
    CHECK_EQ(sendfile(ends[1], in, &offset, 10), 2);
    CHECK_EQ(read(ends[0], buffer, 16), 2);
    CHECK_STR(buffer, "89");

    CHECK_ERR(sendfile(out, 999, NULL, 1), EBADF);
    CHECK_ERR(sendfile(999, in, NULL, 1), EBADF);
    int read_only = open("in", O_RDONLY), write_only = open("in", O_WRONLY);
    CHECK_ERR(sendfile(read_only, in, NULL, 1), EBADF);
    CHECK_ERR(sendfile(out, write_only, NULL, 1), EBADF);
    offset = -1;
    CHECK_ERR(sendfile(out, in, &offset, 1), EINVAL);
    int append = open("out", O_WRONLY | O_APPEND);
    offset = 0;
    CHECK_ERR(sendfile(append, in, &offset, 1), EINVAL);
    return check_result();
}
