/* copy_file_range(2). */
#include "check.h"

int main(void)
{
    int in = make_file("in", "0123456789"), out = make_file("out", "abcdefghij");
    loff_t from = 2, to = 5;
    CHECK_EQ(copy_file_range(in, &from, out, &to, 3, 0), 3);
    CHECK_EQ(from, 5);
    CHECK_EQ(to, 8);
    CHECK_STR(read_file("out"), "abcde234ij");
    CHECK_EQ(copy_file_range(in, NULL, out, NULL, 2, 0), 2);
    CHECK_EQ(lseek(in, 0, SEEK_CUR), 2);
    CHECK_EQ(lseek(out, 0, SEEK_CUR), 2);
    CHECK_STR(read_file("out"), "01cde234ij");
    from = 10;
    CHECK_EQ(copy_file_range(in, &from, out, NULL, 5, 0), 0);
    from = 8;
    CHECK_EQ(copy_file_range(in, &from, out, NULL, 5, 0), 2);
    CHECK_ERR(copy_file_range(in, NULL, out, NULL, 1, 1), EINVAL);
    CHECK_ERR(copy_file_range(999, NULL, out, NULL, 1, 0), EBADF);
    int read_only = open("out", O_RDONLY), append = open("out", O_WRONLY | O_APPEND), folder = open(".", O_RDONLY);
    CHECK_ERR(copy_file_range(in, NULL, read_only, NULL, 1, 0), EBADF);
    CHECK_ERR(copy_file_range(in, NULL, append, NULL, 1, 0), EBADF);
    CHECK_ERR(copy_file_range(folder, NULL, out, NULL, 1, 0), EISDIR);
    int ends[2];
    MUST(pipe(ends) == 0);
    CHECK_ERR(copy_file_range(in, NULL, ends[1], NULL, 1, 0), EINVAL);
    /* Overlapping ranges of one file. */
    from = 0, to = 1;
    CHECK_ERR(copy_file_range(out, &from, out, &to, 5, 0), EINVAL);
    return check_result();
}
