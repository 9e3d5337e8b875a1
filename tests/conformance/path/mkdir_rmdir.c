/* mkdir(2) and rmdir(2): modes, link counts, set-group-id inheritance, errors, a removed current directory. */
#include "check.h"

int main(void)
{
    struct stat status;
    umask(022);
    CHECK_EQ(mkdir("d", 0777), 0);
    CHECK_EQ(stat("d", &status), 0);
    CHECK_EQ(status.st_mode, S_IFDIR | 0755);
    CHECK_ERR(mkdir("d", 0777), EEXIST);
    CHECK_EQ(mkdir("d/e/", 0700), 0);
    CHECK_ERR(mkdir("d/x/y", 0700), ENOENT);
    close(make_file("f", ""));
    CHECK_ERR(mkdir("f", 0700), EEXIST);
    CHECK_ERR(mkdir("f/x", 0700), ENOTDIR);
    CHECK_ERR(mkdir(".", 0700), EEXIST);
    CHECK_ERR(mkdir("", 0700), ENOENT);
    CHECK_ERR(mkdir("/", 0700), EEXIST);
    CHECK_EQ(symlink("nowhere", "l"), 0);
    CHECK_ERR(mkdir("l", 0700), EEXIST);

    CHECK_ERR(rmdir("d"), ENOTEMPTY);
    CHECK_ERR(rmdir("f"), ENOTDIR);
    CHECK_ERR(rmdir("l"), ENOTDIR);
    CHECK_ERR(rmdir("missing"), ENOENT);
    CHECK_ERR(rmdir("d/."), EINVAL);
    CHECK_ERR(rmdir("d/e/.."), ENOTEMPTY);
    CHECK_EQ(symlink("d/e", "ld"), 0);
    CHECK_ERR(rmdir("ld"), ENOTDIR);
    CHECK_EQ(rmdir("d/e"), 0);

    /* A directory with the set-group-id bit hands it on. */
    CHECK_EQ(chmod("d", 02755), 0);
    CHECK_EQ(mkdir("d/g", 0755), 0);
    CHECK_EQ(stat("d/g", &status), 0);
    CHECK_EQ(status.st_mode & 07777, 02755);
    CHECK_EQ(rmdir("d/g"), 0);

    /* Mode bits beyond the permissions: the sticky bit is kept. */
    CHECK_EQ(mkdir("s", 01777), 0);
    CHECK_EQ(stat("s", &status), 0);
    CHECK_EQ(status.st_mode & 07777, 01755);

    /* Inside a removed directory. */
    CHECK_EQ(chdir("d"), 0);
    CHECK_EQ(rmdir("../d"), 0);
    CHECK_ERR(mkdir("x", 0700), ENOENT);
    CHECK_ERR(open("x", O_RDWR | O_CREAT, 0600), ENOENT);
    char buffer[PATH_MAX];
    CHECK_ERR((long)(getcwd(buffer, sizeof buffer) ? 0 : -1), ENOENT);
    CHECK_EQ(stat(".", &status), 0);
    CHECK_EQ(status.st_nlink, 0);
    CHECK_EQ(chdir(".."), 0);
    CHECK_EQ(stat("f", &status), 0);
    return check_result();
}
