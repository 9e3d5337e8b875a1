/* link(2), linkat(2): counts, one inode, errors. */
#include "check.h"

int main(void)
{
    struct stat a, b;
    close(make_file("a", "text"));
    CHECK_EQ(link("a", "b"), 0);
    CHECK_EQ(stat("a", &a), 0);
    CHECK_EQ(stat("b", &b), 0);
    CHECK_EQ(a.st_ino, b.st_ino);
    CHECK_EQ(a.st_dev, b.st_dev);
    CHECK_EQ(a.st_nlink, 2);
    close(make_file("b", "changed"));
    CHECK_STR(read_file("a"), "changed");
    CHECK_EQ(chmod("a", 0600), 0);
    CHECK_EQ(stat("b", &b), 0);
    CHECK_EQ(b.st_mode & 0777, 0600);
    CHECK_EQ(unlink("a"), 0);
    CHECK_EQ(stat("b", &b), 0);
    CHECK_EQ(b.st_nlink, 1);
    CHECK_STR(read_file("b"), "changed");

    CHECK_ERR(link("missing", "x"), ENOENT);
    CHECK_ERR(link("b", "b"), EEXIST);
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_ERR(link("d", "x"), EPERM);
    CHECK_ERR(link("b", "d"), EEXIST);
    CHECK_ERR(link("b", "no/x"), ENOENT);
    CHECK_ERR(link("b/x", "y"), ENOTDIR);

    /* link does not follow a symbolic link; linkat does when asked. */
    CHECK_EQ(symlink("b", "s"), 0);
    CHECK_EQ(link("s", "s2"), 0);
    CHECK_EQ(lstat("s2", &a), 0);
    CHECK(S_ISLNK(a.st_mode));
    CHECK_EQ(linkat(AT_FDCWD, "s", AT_FDCWD, "b2", AT_SYMLINK_FOLLOW), 0);
    CHECK_EQ(lstat("b2", &a), 0);
    CHECK(S_ISREG(a.st_mode));
    CHECK_ERR(linkat(AT_FDCWD, "b", AT_FDCWD, "b3", 0x1), EINVAL);

    /* By a descriptor, through /proc. */
    int fd = open("b", O_RDONLY);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    CHECK_EQ(linkat(AT_FDCWD, path, AT_FDCWD, "viafd", AT_SYMLINK_FOLLOW), 0);
    CHECK_EQ(stat("viafd", &b), 0);
    CHECK_EQ(b.st_nlink, 3);
    return check_result();
}
