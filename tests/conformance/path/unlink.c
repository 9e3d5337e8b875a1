/* unlink(2), unlinkat(2): open files live on, directories need AT_REMOVEDIR, sticky folders, errors. */
#include "check.h"

int main(void)
{
    struct stat status;
    int fd = make_file("f", "still here");
    CHECK_EQ(unlink("f"), 0);
    CHECK_ERR(stat("f", &status), ENOENT);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_nlink, 0);
    char buffer[32];
    CHECK_EQ(read(fd, buffer, 32), 10);
    CHECK_EQ(write(fd, "!", 1), 1);
    char link_name[64];
    snprintf(link_name, sizeof link_name, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(link_name, buffer, sizeof buffer);
    CHECK(size > 0);
    int again = open(link_name, O_RDONLY);
    CHECK(again >= 0);
    CHECK_EQ(read(again, buffer, 32), 11);
    close(again);

    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_ERR(unlink("d"), EISDIR);
    CHECK_ERR(unlink("missing"), ENOENT);
    CHECK_ERR(unlink(""), ENOENT);
    close(make_file("g", ""));
    CHECK_ERR(unlink("g/"), ENOTDIR);
    CHECK_ERR(unlink("g/x"), ENOTDIR);
    CHECK_EQ(symlink("g", "l"), 0);
    CHECK_EQ(unlink("l"), 0);
    CHECK_EQ(stat("g", &status), 0);
    CHECK_ERR(unlinkat(AT_FDCWD, "d", 0), EISDIR);
    CHECK_ERR(unlinkat(AT_FDCWD, "g", AT_REMOVEDIR), ENOTDIR);
    CHECK_ERR(unlinkat(AT_FDCWD, "g", 0x10000), EINVAL);
    int folder = open("d", O_RDONLY | O_DIRECTORY);
    close(openat(folder, "x", O_CREAT | O_RDWR, 0600));
    CHECK_ERR(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR), ENOTEMPTY);
    CHECK_EQ(unlinkat(folder, "x", 0), 0);
    CHECK_EQ(unlinkat(AT_FDCWD, "d", AT_REMOVEDIR), 0);
    CHECK_ERR(openat(folder, "y", O_CREAT | O_RDWR, 0600), ENOENT);
    CHECK_EQ(remove("g"), 0);

    /* A name can be taken again while the old file is open. */
    int next = make_file("f", "new");
    CHECK_EQ(pread(fd, buffer, 32, 0), 11);
    CHECK_EQ(pread(next, buffer, 32, 0), 3);
    return check_result();
}
