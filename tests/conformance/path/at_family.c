/* The *at calls relative to a folder that moves: the descriptor follows it, whatever its name. */
#include "check.h"

int main(void)
{
    struct stat status;
    CHECK_EQ(mkdir("d", 0755), 0);
    int folder = open("d", O_PATH | O_DIRECTORY);
    CHECK_EQ(rename("d", "renamed"), 0);
    int fd = openat(folder, "f", O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK_EQ(stat("renamed/f", &status), 0);
    CHECK_EQ(mkdirat(folder, "sub", 0700), 0);
    CHECK_EQ(symlinkat("f", folder, "l"), 0);
    char buffer[16];
    CHECK_EQ(readlinkat(folder, "l", buffer, sizeof buffer), 1);
    CHECK_EQ(faccessat(folder, "l", R_OK, 0), 0);
    CHECK_EQ(fchmodat(folder, "f", 0400, 0), 0);
    CHECK_EQ(fstatat(folder, "f", &status, 0), 0);
    CHECK_EQ(status.st_mode & 0777, 0400);
    CHECK_EQ(linkat(folder, "f", folder, "sub/hard", 0), 0);
    CHECK_EQ(fstatat(folder, "sub/../sub/hard", &status, 0), 0);
    CHECK_EQ(status.st_nlink, 2);
    CHECK_EQ(unlinkat(folder, "sub/hard", 0), 0);
    CHECK_EQ(unlinkat(folder, "sub", AT_REMOVEDIR), 0);
    CHECK_EQ(fstatat(folder, "..", &status, 0), 0);
    struct stat here;
    CHECK_EQ(stat(".", &here), 0);
    CHECK_EQ(status.st_ino, here.st_ino);
    CHECK_ERR(mkdirat(fd, "x", 0700), ENOTDIR);
    CHECK_ERR(mkdirat(999, "x", 0700), EBADF);
    CHECK_ERR(openat(folder, "", O_RDONLY), ENOENT);
    CHECK_EQ(mkdirat(999, "/tmp/..", 0700) == -1 && errno == EEXIST, 1);

    /* openat2's restrictions, where the kernel has it. */
    struct { uint64_t flags, mode, resolve; } how = { O_RDONLY, 0, 0x08 /* RESOLVE_BENEATH */ };
    long got = syscall(437, folder, "f", &how, sizeof how);
    if (got >= 0) {
        CHECK_ERR(syscall(437, folder, "../renamed/f", &how, sizeof how), EXDEV);
        CHECK_ERR(syscall(437, folder, "/etc/passwd", &how, sizeof how), EXDEV);
        how.resolve = 0x04; /* RESOLVE_NO_SYMLINKS */
        CHECK_ERR(syscall(437, folder, "l", &how, sizeof how), ELOOP);
        how.resolve = 0x100000;
        CHECK_ERR(syscall(437, folder, "f", &how, sizeof how), EINVAL);
        how.resolve = 0;
        CHECK_ERR(syscall(437, folder, "f", &how, 4), EINVAL);
    }
    return check_result();
}
