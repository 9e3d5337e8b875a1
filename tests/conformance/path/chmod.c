/* chmod, fchmod, fchmodat; umask; what the bits do to root and to others. */
#include "check.h"

int main(void)
{
    struct stat status;
    umask(0);
    int fd = open("f", O_RDWR | O_CREAT, 0777);
    CHECK_EQ(fchmod(fd, 04755), 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_mode & 07777, 04755);
    CHECK_EQ(chmod("f", 0644), 0);
    CHECK_EQ(fchmodat(AT_FDCWD, "f", 0600, 0), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mode, S_IFREG | 0600);
    CHECK_EQ(chmod("f", S_IFDIR | 0640), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mode, S_IFREG | 0640);
    CHECK_ERR(chmod("missing", 0600), ENOENT);
    CHECK_ERR(chmod("f/x", 0600), ENOTDIR);
    CHECK_ERR(fchmod(999, 0600), EBADF);
    CHECK_EQ(symlink("f", "l"), 0);
    CHECK_EQ(chmod("l", 0611), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK_EQ(status.st_mode & 07777, 0611);
    struct timespec before = status.st_ctim;
    sleep_ms(20);
    CHECK_EQ(chmod("f", 0612), 0);
    CHECK_EQ(stat("f", &status), 0);
    CHECK(status.st_ctim.tv_sec > before.tv_sec || status.st_ctim.tv_nsec > before.tv_nsec);

    /* The umask takes bits away at creation of files, directories and FIFOs, and is inherited. */
    CHECK_EQ(umask(0137), 0);
    CHECK_EQ(umask(0137), 0137);
    close(open("u", O_CREAT | O_RDWR, 0777));
    CHECK_EQ(stat("u", &status), 0);
    CHECK_EQ(status.st_mode & 07777, 0640);
    CHECK_EQ(mkfifo("fifo", 0666), 0);
    CHECK_EQ(stat("fifo", &status), 0);
    CHECK_EQ(status.st_mode, S_IFIFO | 0640);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(umask(07777), 0137);
        CHECK_EQ(umask(0), 0777);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(umask(0), 0137);

    /* Root reads without permission, but executes only where somebody may. */
    if (geteuid() == 0) {
        close(make_file("r", "secret"));
        CHECK_EQ(chmod("r", 0), 0);
        CHECK_EQ(access("r", R_OK | W_OK), 0);
        CHECK_ERR(access("r", X_OK), EACCES);
        CHECK_EQ(chmod("r", 0001), 0);
        CHECK_EQ(access("r", X_OK), 0);
        CHECK_EQ(chmod(".", 0777), 0);
        if ((pid = child_fork()) == 0) {
            CHECK_EQ(setgid(12345), 0);
            CHECK_EQ(setuid(12345), 0);
            CHECK_ERR(chmod("f", 0777), EPERM);
            CHECK_ERR(open("r", O_RDONLY), EACCES);
            CHECK_EQ(access("r", X_OK), 0);
            child_exit();
        }
        CHECK_CHILD(pid);
    }
    return check_result();
}
