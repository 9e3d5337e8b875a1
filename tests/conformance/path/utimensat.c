/* utimensat, futimens, utimes: values, UTIME_NOW, UTIME_OMIT, links; how reads and writes move the times. */
#include "check.h"
#include <sys/time.h>

int main(void)
{
    struct stat status;
    int fd = make_file("f", "abc");
    struct timespec times[2] = { { 1000, 123456789 }, { 2000, 987654321 } };
    CHECK_EQ(utimensat(AT_FDCWD, "f", times, 0), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_atim.tv_sec, 1000);
    CHECK_EQ(status.st_atim.tv_nsec, 123456789);
    CHECK_EQ(status.st_mtim.tv_sec, 2000);
    CHECK_EQ(status.st_mtim.tv_nsec, 987654321);
    CHECK(status.st_ctim.tv_sec > 1000000);

    times[0].tv_nsec = UTIME_OMIT;
    times[1] = (struct timespec){ 3000, 0 };
    CHECK_EQ(futimens(fd, times), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_atim.tv_sec, 1000);
    CHECK_EQ(status.st_mtim.tv_sec, 3000);

    struct timespec now;
    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    times[0].tv_nsec = UTIME_NOW;
    times[1].tv_nsec = UTIME_OMIT;
    CHECK_EQ(futimens(fd, times), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK(status.st_atim.tv_sec >= now.tv_sec && status.st_atim.tv_sec < now.tv_sec + 60);
    CHECK_EQ(status.st_mtim.tv_sec, 3000);
    CHECK_EQ(utimensat(AT_FDCWD, "f", NULL, 0), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK(status.st_mtim.tv_sec >= now.tv_sec);

    times[0] = (struct timespec){ 0, 1000000000 };
    CHECK_ERR(utimensat(AT_FDCWD, "f", times, 0), EINVAL);
    CHECK_ERR(utimensat(AT_FDCWD, "missing", NULL, 0), ENOENT);
    CHECK_ERR(utimensat(AT_FDCWD, "f", NULL, 0x1), EINVAL);
    CHECK_ERR(futimens(999, NULL), EBADF);

    CHECK_EQ(symlink("f", "l"), 0);
    struct timespec link_times[2] = { { 5, 0 }, { 6, 0 } };
    CHECK_EQ(utimensat(AT_FDCWD, "l", link_times, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(lstat("l", &status), 0);
    CHECK_EQ(status.st_mtim.tv_sec, 6);
    CHECK_EQ(stat("l", &status), 0);
    CHECK(status.st_mtim.tv_sec > 6);

    struct timeval old[2] = { { 11, 500000 }, { 12, 250000 } };
    CHECK_EQ(utimes("f", old), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mtim.tv_sec, 12);
    CHECK_EQ(status.st_mtim.tv_nsec, 250000000);

    /* Writing and truncating move mtime and ctime; a write of nothing does not; changes of a folder move its mtime. */
    CHECK_EQ(write(fd, "", 0), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mtim.tv_sec, 12);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(stat("f", &status), 0);
    CHECK(status.st_mtim.tv_sec >= now.tv_sec);
    CHECK_EQ(utimes("f", old), 0);
    CHECK_EQ(ftruncate(fd, 1), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK(status.st_mtim.tv_sec >= now.tv_sec);
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_EQ(utimes("d", old), 0);
    close(make_file("d/x", ""));
    CHECK_EQ(stat("d", &status), 0);
    CHECK(status.st_mtim.tv_sec >= now.tv_sec);
    CHECK_EQ(utimes("d", old), 0);
    CHECK_EQ(unlink("d/x"), 0);
    CHECK_EQ(stat("d", &status), 0);
    CHECK(status.st_mtim.tv_sec >= now.tv_sec);
    return check_result();
}
