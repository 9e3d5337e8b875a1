/* statx(2), fstatat(2): the same facts as stat, masks, AT_EMPTY_PATH, birth time, mount id. */
#include "check.h"
#include <sys/sysmacros.h>

int main(void)
{
    int fd = make_file("f", "hello");
    CHECK_EQ(chmod("f", 0640), 0);
    struct stat status;
    struct statx extended;
    memset(&extended, 0xff, sizeof extended);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(statx(AT_FDCWD, "f", 0, STATX_BASIC_STATS | STATX_BTIME, &extended), 0);
    CHECK_EQ(extended.stx_mask & STATX_BASIC_STATS, STATX_BASIC_STATS);
    CHECK_EQ(extended.stx_mode, status.st_mode);
    CHECK_EQ(extended.stx_ino, status.st_ino);
    CHECK_EQ(extended.stx_size, 5);
    CHECK_EQ(extended.stx_nlink, 1);
    CHECK_EQ(extended.stx_uid, status.st_uid);
    CHECK_EQ(extended.stx_blocks, status.st_blocks);
    CHECK_EQ(extended.stx_blksize, status.st_blksize);
    CHECK_EQ(extended.stx_mtime.tv_sec, status.st_mtim.tv_sec);
    CHECK_EQ(extended.stx_mtime.tv_nsec, status.st_mtim.tv_nsec);
    CHECK_EQ(makedev(extended.stx_dev_major, extended.stx_dev_minor), status.st_dev);
    if (extended.stx_mask & STATX_BTIME) CHECK(extended.stx_btime.tv_sec <= extended.stx_mtime.tv_sec);

    CHECK_EQ(statx(fd, "", AT_EMPTY_PATH, STATX_SIZE, &extended), 0);
    CHECK_EQ(extended.stx_size, 5);
    CHECK_ERR(statx(fd, "", 0, STATX_SIZE, &extended), ENOENT);
    CHECK_EQ(symlink("f", "l"), 0);
    CHECK_EQ(statx(AT_FDCWD, "l", AT_SYMLINK_NOFOLLOW, STATX_TYPE, &extended), 0);
    CHECK(S_ISLNK(extended.stx_mode));
    CHECK_EQ(statx(AT_FDCWD, "l", AT_STATX_DONT_SYNC, STATX_TYPE, &extended), 0);
    CHECK(S_ISREG(extended.stx_mode));
    CHECK_ERR(statx(AT_FDCWD, "f", 0x4, STATX_TYPE, &extended), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "f", 0, STATX__RESERVED, &extended), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "f", AT_STATX_SYNC_TYPE, STATX_TYPE, &extended), EINVAL);
    CHECK_ERR(statx(AT_FDCWD, "missing", 0, STATX_TYPE, &extended), ENOENT);
    CHECK_ERR(statx(999, "f", 0, STATX_TYPE, &extended), EBADF);

    CHECK_EQ(fstatat(fd, "", &status, AT_EMPTY_PATH), 0);
    CHECK_EQ(status.st_size, 5);
    CHECK_EQ(fstatat(AT_FDCWD, "", &status, AT_EMPTY_PATH), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_ERR(fstatat(AT_FDCWD, "f", &status, 0x4), EINVAL);
    CHECK_ERR(fstatat(fd, "x", &status, 0), ENOTDIR);
    return check_result();
}
