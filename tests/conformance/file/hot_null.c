/* A much-used /dev/null: what is done with it and with its descriptor counts as ever. */
#include "check.h"
#include <sys/inotify.h>
#include <sys/uio.h>

static char data[64];

/* So many uses that whatever a kernel does about much-used files has happened. */
static int heated(int flags)
{
    int fd = open("/dev/null", flags);
    MUST(fd >= 0);
    for (int i = 0; i < 40; i++) {
        if ((flags & O_ACCMODE) != O_RDONLY) MUST(write(fd, data, 64) == 64);
        if ((flags & O_ACCMODE) != O_WRONLY) MUST(read(fd, data, 64) == 0);
    }
    return fd;
}

static void answers(void)
{
    int fd = heated(O_RDWR);
    struct iovec pieces[2] = {{data, 10}, {data, 20}};
    CHECK_EQ(write(fd, data, 0), 0);
    CHECK_EQ(read(fd, data, 0), 0);
    CHECK_EQ(pwrite(fd, data, 7, 1000), 7);
    CHECK_EQ(pread(fd, data, 7, 1000), 0);
    CHECK_ERR(pwrite(fd, data, 7, -1), EINVAL);
    CHECK_ERR(pread(fd, data, 7, -1), EINVAL);
    CHECK_EQ(writev(fd, pieces, 2), 30);
    CHECK_EQ(readv(fd, pieces, 2), 0);
    CHECK_ERR(write(fd, (char *)-4096, 64), EFAULT);
    CHECK_EQ(lseek(fd, 100, SEEK_SET), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_ERR(fsync(fd), EINVAL);
    close(fd);
    CHECK_ERR(write(fd, data, 64), EBADF);
    int reader = heated(O_RDONLY), writer = heated(O_WRONLY);
    CHECK_ERR(write(reader, data, 64), EBADF);
    CHECK_ERR(read(writer, data, 64), EBADF);
    close(reader);
    close(writer);
}

static void another_file(void)
{
    int fd = heated(O_RDWR), ends[2];
    char got[64];
    MUST(pipe(ends) == 0);
    CHECK_EQ(dup2(ends[1], fd), fd);
    CHECK_EQ(write(fd, "pipe", 4), 4);
    CHECK_EQ(read(ends[0], got, 64), 4);
    close(fd);
    int again = heated(O_RDWR);
    CHECK_EQ(again, fd);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(write(again, data, 64), 64);
        CHECK_EQ(dup2(ends[1], again), again);
        CHECK_EQ(write(again, "child", 5), 5);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(read(ends[0], got, 64), 5);
    CHECK_EQ(write(again, data, 64), 64);
    close(again);
    close(ends[0]);
    close(ends[1]);
}

static void watched(void)
{
    int fd = heated(O_RDWR), watch = inotify_init1(IN_NONBLOCK);
    char events[4096];
    MUST(watch >= 0);
    CHECK(inotify_add_watch(watch, "/dev/null", IN_MODIFY) >= 0);
    CHECK_EQ(write(fd, data, 64), 64);
    CHECK(read(watch, events, sizeof events) >= (ssize_t)sizeof(struct inotify_event));
    close(watch);
    close(fd);
}

int main(void)
{
    answers();
    another_file();
    watched();
    return check_result();
}
