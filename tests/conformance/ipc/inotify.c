/* inotify(7): events of files and folders, names, cookies, masks, removal, overflow of a small buffer. */
#include "check.h"
#include <poll.h>
#include <sys/inotify.h>

static char buffer[65536];
static ssize_t filled, at;

static struct inotify_event *next(int fd)
{
    if (at >= filled) {
        at = 0;
        filled = read(fd, buffer, sizeof buffer);
        if (filled <= 0) return NULL;
    }
    struct inotify_event *event = (void *)(buffer + at);
    at += sizeof *event + event->len;
    return event;
}

#define EXPECT(fd, descriptor, wanted, wanted_name) \
    do { \
        struct inotify_event *event = next(fd); \
        if (!event) CHECK_FAIL("no event where %s %s was expected", #wanted, wanted_name); \
        else { \
            CHECK_EQ(event->wd, descriptor); \
            CHECK_EQ(event->mask, wanted); \
            CHECK_STR(event->len ? event->name : "", wanted_name); \
        } \
    } while (0)

int main(void)
{
    int fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    CHECK(fd >= 0);
    MUST(mkdir("d", 0755) == 0);
    int watch = inotify_add_watch(fd, "d", IN_ALL_EVENTS);
    CHECK(watch > 0);
    CHECK(next(fd) == NULL);
    int file = open("d/file", O_RDWR | O_CREAT, 0644);
    EXPECT(fd, watch, IN_CREATE, "file");
    EXPECT(fd, watch, IN_OPEN, "file");
    CHECK_EQ(write(file, "x", 1), 1);
    EXPECT(fd, watch, IN_MODIFY, "file");
    char byte;
    CHECK_EQ(pread(file, &byte, 1, 0), 1);
    EXPECT(fd, watch, IN_ACCESS, "file");
    CHECK_EQ(fchmod(file, 0600), 0);
    EXPECT(fd, watch, IN_ATTRIB, "file");
    close(file);
    EXPECT(fd, watch, IN_CLOSE_WRITE, "file");
    close(open("d/file", O_RDONLY));
    EXPECT(fd, watch, IN_OPEN, "file");
    EXPECT(fd, watch, IN_CLOSE_NOWRITE, "file");
    CHECK_EQ(truncate("d/file", 0), 0);
    EXPECT(fd, watch, IN_MODIFY, "file");
    CHECK_EQ(rename("d/file", "d/moved"), 0);
    struct inotify_event *from = next(fd), *to;
    MUST(from != NULL);
    CHECK_EQ(from->mask, IN_MOVED_FROM);
    CHECK_STR(from->name, "file");
    unsigned cookie = from->cookie;
    CHECK(cookie != 0);
    to = next(fd);
    MUST(to != NULL);
    CHECK_EQ(to->mask, IN_MOVED_TO);
    CHECK_STR(to->name, "moved");
    CHECK_EQ(to->cookie, cookie);
    CHECK_EQ(rename("d/moved", "outside"), 0);
    EXPECT(fd, watch, IN_MOVED_FROM, "moved");
    CHECK_EQ(mkdir("d/sub", 0755), 0);
    EXPECT(fd, watch, IN_CREATE | IN_ISDIR, "sub");
    CHECK_EQ(rmdir("d/sub"), 0);
    EXPECT(fd, watch, IN_DELETE | IN_ISDIR, "sub");
    CHECK_EQ(symlink("x", "d/link"), 0);
    EXPECT(fd, watch, IN_CREATE, "link");
    CHECK_EQ(unlink("d/link"), 0);
    EXPECT(fd, watch, IN_DELETE, "link");
    CHECK(next(fd) == NULL);

    /* A file's own watch; the mask of a second add replaces, IN_MASK_ADD adds. */
    int own = inotify_add_watch(fd, "outside", IN_MODIFY);
    CHECK(own > 0 && own != watch);
    CHECK_EQ(inotify_add_watch(fd, "outside", IN_ATTRIB), own);
    CHECK_EQ(inotify_add_watch(fd, "outside", IN_DELETE_SELF | IN_MASK_ADD), own);
    file = open("outside", O_WRONLY);
    CHECK_EQ(write(file, "y", 1), 1);
    close(file);
    CHECK(next(fd) == NULL);
    CHECK_EQ(unlink("outside"), 0);
    EXPECT(fd, own, IN_ATTRIB, "");
    EXPECT(fd, own, IN_DELETE_SELF, "");
    EXPECT(fd, own, IN_IGNORED, "");
    CHECK_ERR(inotify_rm_watch(fd, own), EINVAL);

    /* One shot; a poll wake-up from another process; equal events in a row are merged. */
    int once = inotify_add_watch(fd, "d", IN_CREATE | IN_ONESHOT);
    CHECK_EQ(once, watch);
    struct pollfd waiting = { fd, POLLIN, 0 };
    pid_t pid = child_fork();
    if (pid == 0) {
        close(open("d/one", O_CREAT | O_WRONLY, 0644));
        close(open("d/two", O_CREAT | O_WRONLY, 0644));
        child_exit();
    }
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    CHECK_CHILD(pid);
    EXPECT(fd, once, IN_CREATE, "one");
    EXPECT(fd, once, IN_IGNORED, "");
    CHECK(next(fd) == NULL);
    watch = inotify_add_watch(fd, "d/one", IN_MODIFY);
    file = open("d/one", O_WRONLY);
    for (int i = 0; i < 10; i++) CHECK_EQ(write(file, "z", 1), 1);
    EXPECT(fd, watch, IN_MODIFY, "");
    CHECK(next(fd) == NULL);
    CHECK_EQ(inotify_rm_watch(fd, watch), 0);
    EXPECT(fd, watch, IN_IGNORED, "");

    watch = inotify_add_watch(fd, "d", IN_DELETE | IN_MOVE_SELF | IN_ONLYDIR);
    CHECK_EQ(rename("d", "e"), 0);
    EXPECT(fd, watch, IN_MOVE_SELF, "");
    CHECK_EQ(unlink("e/two"), 0);
    CHECK_ERR(read(fd, buffer, 10), EINVAL);
    EXPECT(fd, watch, IN_DELETE, "two");
    CHECK_ERR(inotify_add_watch(fd, "e/one", IN_MODIFY | IN_ONLYDIR), ENOTDIR);
    CHECK_ERR(inotify_add_watch(fd, "missing", IN_MODIFY), ENOENT);
    CHECK_ERR(inotify_add_watch(fd, "e", 0), EINVAL);
    CHECK_ERR(inotify_add_watch(file, "e", IN_MODIFY), EINVAL);
    CHECK_ERR(inotify_init1(0x1), EINVAL);
    return check_result();
}
