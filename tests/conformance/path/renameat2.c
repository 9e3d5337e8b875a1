/* renameat2(2): NOREPLACE, EXCHANGE, flags; renameat with folders. */
#include "check.h"

int main(void)
{
    close(make_file("a", "A"));
    close(make_file("b", "B"));
    CHECK_ERR(renameat2(AT_FDCWD, "a", AT_FDCWD, "b", RENAME_NOREPLACE), EEXIST);
    CHECK_STR(read_file("b"), "B");
    CHECK_EQ(renameat2(AT_FDCWD, "a", AT_FDCWD, "c", RENAME_NOREPLACE), 0);
    CHECK_EQ(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE), 0);
    CHECK_STR(read_file("b"), "A");
    CHECK_STR(read_file("c"), "B");
    CHECK_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "none", RENAME_EXCHANGE), ENOENT);
    CHECK_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", RENAME_EXCHANGE | RENAME_NOREPLACE), EINVAL);
    CHECK_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "c", 0x100), EINVAL);

    /* Exchanging a file with a directory that is not empty. */
    CHECK_EQ(mkdir("d", 0755), 0);
    close(make_file("d/x", "X"));
    CHECK_EQ(renameat2(AT_FDCWD, "b", AT_FDCWD, "d", RENAME_EXCHANGE), 0);
    CHECK_STR(read_file("d"), "A");
    CHECK_STR(read_file("b/x"), "X");
    CHECK_ERR(renameat2(AT_FDCWD, "b", AT_FDCWD, "b/y", RENAME_EXCHANGE), ENOENT);

    int folder = open("b", O_RDONLY | O_DIRECTORY);
    CHECK_EQ(renameat(folder, "x", AT_FDCWD, "out"), 0);
    CHECK_EQ(renameat(AT_FDCWD, "out", folder, "in"), 0);
    CHECK_STR(read_file("b/in"), "X");
    CHECK_ERR(renameat(999, "x", AT_FDCWD, "y"), EBADF);
    CHECK_ERR(renameat(open("c", O_RDONLY), "x", AT_FDCWD, "y"), ENOTDIR);
    return check_result();
}
