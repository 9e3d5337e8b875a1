/* setxattr, getxattr, listxattr, removexattr in the user namespace, on files, links and descriptors. */
#include "check.h"
#include <sys/xattr.h>

int main(void)
{
    char buffer[256];
    int fd = make_file("f", "");
    if (setxattr("f", "user.a", "1", 1, 0) < 0 && errno == EOPNOTSUPP) CANNOT("the file system has no user attributes");
    CHECK_EQ(getxattr("f", "user.a", buffer, sizeof buffer), 1);
    CHECK_EQ(buffer[0], '1');
    CHECK_EQ(getxattr("f", "user.a", NULL, 0), 1);
    CHECK_EQ(fsetxattr(fd, "user.b", "two", 3, XATTR_CREATE), 0);
    CHECK_ERR(fsetxattr(fd, "user.b", "two", 3, XATTR_CREATE), EEXIST);
    CHECK_ERR(setxattr("f", "user.c", "x", 1, XATTR_REPLACE), ENODATA);
    CHECK_EQ(setxattr("f", "user.b", "three", 5, XATTR_REPLACE), 0);
    CHECK_ERR(getxattr("f", "user.b", buffer, 2), ERANGE);
    CHECK_EQ(fgetxattr(fd, "user.b", buffer, 5), 5);
    CHECK(memcmp(buffer, "three", 5) == 0);
    CHECK_EQ(setxattr("f", "user.empty", "", 0, 0), 0);
    CHECK_EQ(getxattr("f", "user.empty", buffer, 5), 0);

    ssize_t size = listxattr("f", NULL, 0);
    CHECK_EQ(size, 7 + 7 + 11);
    CHECK_EQ(flistxattr(fd, buffer, sizeof buffer), size);
    bool a = false, b = false;
    for (char *name = buffer; name < buffer + size; name += strlen(name) + 1) {
        a |= strcmp(name, "user.a") == 0;
        b |= strcmp(name, "user.b") == 0;
    }
    CHECK(a && b);
    CHECK_ERR(listxattr("f", buffer, 3), ERANGE);

    CHECK_EQ(removexattr("f", "user.a"), 0);
    CHECK_ERR(removexattr("f", "user.a"), ENODATA);
    CHECK_ERR(getxattr("f", "user.a", buffer, 1), ENODATA);
    CHECK_ERR(setxattr("f", "nonsense", "x", 1, 0), EOPNOTSUPP);
    CHECK_ERR(setxattr("f", "user.", "x", 1, 0), EINVAL);
    CHECK_ERR(setxattr("f", "user.x", "x", 1, 0x10), EINVAL);
    CHECK_ERR(setxattr("missing", "user.x", "x", 1, 0), ENOENT);
    CHECK_ERR(fgetxattr(999, "user.x", buffer, 1), EBADF);
    char name[300] = "user.";
    memset(name + 5, 'n', 251);
    name[256] = 0;
    CHECK_ERR(setxattr("f", name, "x", 1, 0), ERANGE);

    /* Symbolic links take no user attributes. */
    CHECK_EQ(symlink("f", "l"), 0);
    CHECK_ERR(lsetxattr("l", "user.x", "x", 1, 0), EPERM);
    CHECK_EQ(setxattr("l", "user.through", "x", 1, 0), 0);
    CHECK_EQ(getxattr("f", "user.through", buffer, 1), 1);
    return check_result();
}
