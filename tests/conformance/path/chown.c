/* chown, lchown, fchown, fchownat: ids, -1, set-id bits cleared; EPERM for others. Root only. */
#include "check.h"
#include <grp.h>

int main(void)
{
    if (geteuid() != 0) CANNOT("needs root");
    struct stat status;
    int fd = make_file("f", "");
    CHECK_EQ(chown("f", 1001, 1002), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_uid, 1001);
    CHECK_EQ(status.st_gid, 1002);
    CHECK_EQ(chown("f", -1, 1003), 0);
    CHECK_EQ(fchown(fd, 1004, -1), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_uid, 1004);
    CHECK_EQ(status.st_gid, 1003);

    /* Set-id bits go, but a set-group-id bit without group execution stays (mandatory locking). */
    CHECK_EQ(chmod("f", 06755), 0);
    CHECK_EQ(chown("f", 0, 0), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mode & 07777, 0755);
    CHECK_EQ(chmod("f", 02644), 0);
    CHECK_EQ(chown("f", 1, 1), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mode & 07777, 02644);

    CHECK_EQ(symlink("f", "l"), 0);
    CHECK_EQ(lchown("l", 7, 8), 0);
    CHECK_EQ(lstat("l", &status), 0);
    CHECK_EQ(status.st_uid, 7);
    CHECK_EQ(stat("l", &status), 0);
    CHECK_EQ(status.st_uid, 1);
    CHECK_EQ(fchownat(AT_FDCWD, "l", 9, 9, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(lstat("l", &status), 0);
    CHECK_EQ(status.st_uid, 9);
    CHECK_EQ(fchownat(fd, "", 10, 10, AT_EMPTY_PATH), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_uid, 10);
    CHECK_ERR(fchownat(AT_FDCWD, "f", 1, 1, 0x1), EINVAL);
    CHECK_ERR(chown("missing", 0, 0), ENOENT);
    CHECK_ERR(fchown(999, 0, 0), EBADF);

    CHECK_EQ(chmod(".", 0777), 0);
    CHECK_EQ(chown("f", 12345, 12345), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        gid_t groups[2] = { 12345, 54321 };
        CHECK_EQ(setgroups(2, groups), 0);
        CHECK_EQ(setgid(12345), 0);
        CHECK_EQ(setuid(12345), 0);
        CHECK_ERR(chown("f", 1, -1), EPERM);
        CHECK_EQ(chown("f", -1, 54321), 0);
        CHECK_ERR(chown("f", -1, 1), EPERM);
        CHECK_EQ(chown("f", 12345, -1), 0);
        child_exit();
    }
    CHECK_CHILD(pid);
    return check_result();
}
