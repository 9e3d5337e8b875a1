/* open(2): creation, exclusivity, truncation, directories, links, close-on-exec, access modes. */
#include "check.h"

int main(void)
{
    /* Creation takes the lowest free number, and the umask off the mode. */
    umask(027);
    int fd = open("a", O_WRONLY | O_CREAT, 0666);
    CHECK(fd >= 3);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_mode, S_IFREG | 0640);
    CHECK_EQ(status.st_size, 0);
    CHECK_EQ(status.st_nlink, 1);
    CHECK_EQ(write(fd, "hello", 5), 5);
    char buffer[16];
    CHECK_ERR(read(fd, buffer, 5), EBADF);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(close(fd), EBADF);

    CHECK_ERR(open("a", O_WRONLY | O_CREAT | O_EXCL, 0666), EEXIST);
    CHECK_ERR(open("missing", O_RDONLY), ENOENT);
    CHECK_ERR(open("", O_RDONLY), ENOENT);
    CHECK_ERR(open("missing/b", O_RDWR | O_CREAT, 0666), ENOENT);
    CHECK_ERR(open("a/b", O_RDONLY), ENOTDIR);
    CHECK_ERR(open((char *)8, O_RDONLY), EFAULT);

    /* A read-only descriptor cannot write; the mode counts only for later opens. */
    fd = open("b", O_RDONLY | O_CREAT, 0400);
    CHECK(fd >= 0);
    CHECK_ERR(write(fd, "x", 1), EBADF);
    CHECK_ERR(ftruncate(fd, 1), EINVAL);
    close(fd);
    fd = open("c", O_RDWR | O_CREAT | O_EXCL, 0);
    CHECK(fd >= 0);
    CHECK_EQ(write(fd, "x", 1), 1);
    close(fd);

    /* O_TRUNC empties, and without O_CREAT does not create. */
    fd = open("a", O_RDONLY);
    CHECK_EQ(read(fd, buffer, 16), 5);
    CHECK_EQ(read(fd, buffer, 16), 0);
    close(fd);
    fd = open("a", O_RDWR | O_TRUNC);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 0);
    close(fd);
    CHECK_ERR(open("missing", O_RDWR | O_TRUNC), ENOENT);

    /* Directories open for reading only. */
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_ERR(open("d", O_WRONLY), EISDIR);
    CHECK_ERR(open("d", O_RDWR), EISDIR);
    CHECK_ERR(open("d", O_RDONLY | O_CREAT, 0666), EISDIR);
    CHECK_ERR(open("a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    CHECK_ERR(open("a/", O_RDONLY), ENOTDIR);
    CHECK_ERR(open("new/", O_RDWR | O_CREAT, 0666), EISDIR);
    fd = open("d/", O_RDONLY | O_DIRECTORY);
    CHECK(fd >= 0);
    CHECK_ERR(read(fd, buffer, 1), EISDIR);
    CHECK_ERR(write(fd, buffer, 1), EBADF);
    close(fd);

    /* Symbolic links: followed, created through, refused. */
    CHECK_EQ(symlink("a", "link"), 0);
    CHECK_EQ(symlink("fresh", "dangling"), 0);
    CHECK_EQ(symlink("loop", "loop"), 0);
    CHECK_ERR(open("link", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK_ERR(open("link", O_RDONLY | O_NOFOLLOW | O_DIRECTORY), ENOTDIR);
    CHECK_ERR(open("loop", O_RDONLY), ELOOP);
    CHECK_ERR(open("dangling", O_RDONLY), ENOENT);
    CHECK_ERR(open("dangling", O_RDWR | O_CREAT | O_EXCL, 0666), EEXIST);
    fd = open("dangling", O_RDWR | O_CREAT, 0666);
    CHECK(fd >= 0);
    close(fd);
    CHECK_EQ(stat("fresh", &status), 0);

    /* O_PATH: a place, not a file: no reading, yet fstat works, also on a link itself. */
    fd = open("link", O_PATH | O_NOFOLLOW);
    CHECK(fd >= 0);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_ERR(read(fd, buffer, 1), EBADF);
    CHECK_ERR(fchmod(fd, 0600), EBADF);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_PATH, O_PATH);
    CHECK_EQ(readlinkat(fd, "", buffer, sizeof buffer), 1);
    close(fd);

    /* Close on exec. */
    fd = open("a", O_RDONLY | O_CLOEXEC);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    fd = open("a", O_RDONLY);
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    close(fd);

    /* creat(2), and the access mode in F_GETFL. */
    fd = creat("e", 0600);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
    close(fd);
    fd = open("e", O_RDWR | O_APPEND | O_NONBLOCK);
    int flags = fcntl(fd, F_GETFL);
    CHECK_EQ(flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_CREAT | O_TRUNC), O_RDWR | O_APPEND | O_NONBLOCK);
    close(fd);

    /* O_TMPFILE: no name until it is linked. */
    fd = open(".", O_TMPFILE | O_RDWR, 0600);
    if (fd >= 0) {
        CHECK_EQ(fstat(fd, &status), 0);
        CHECK_EQ(status.st_nlink, 0);
        CHECK_EQ(write(fd, "tmp", 3), 3);
        char path[64];
        snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
        CHECK_EQ(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
        CHECK_STR(read_file("named"), "tmp");
        close(fd);
    } else {
        CHECK_ERR(open(".", O_TMPFILE | O_RDWR, 0600), EOPNOTSUPP);
    }
    CHECK_ERR(open(".", O_TMPFILE | O_RDONLY, 0600), EINVAL);

    /* openat: relative to a folder; a file as the folder is ENOTDIR; a closed one EBADF; absolute paths ignore it. */
    int folder = open("d", O_RDONLY | O_DIRECTORY);
    fd = openat(folder, "inner", O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0);
    CHECK_EQ(stat("d/inner", &status), 0);
    CHECK_ERR(openat(fd, "x", O_RDONLY), ENOTDIR);
    CHECK_ERR(openat(999, "x", O_RDONLY), EBADF);
    close(fd);
    fd = openat(999, "/dev/null", O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    close(folder);
    return check_result();
}
