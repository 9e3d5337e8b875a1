/* Events of a much-used file: whoever begins to watch it, or the directory that it is in or comes into, is told. */
#include "check.h"
#include <sys/inotify.h>

static int watcher;

static void heat(int fd)
{
    char byte;
    for (int i = 0; i < 40; i++) MUST(pread(fd, &byte, 1, 0) == 1);
    for (int i = 0; i < 40; i++) MUST(pwrite(fd, "h", 1, 0) == 1);
}

/* All events that have come, ORed. */
static uint32_t events(void)
{
    char buffer[4096] __attribute__((aligned(8)));
    uint32_t all = 0;
    ssize_t got;
    while ((got = read(watcher, buffer, sizeof buffer)) > 0)
        for (char *at = buffer; at < buffer + got;) {
            struct inotify_event *event = (struct inotify_event *)at;
            all |= event->mask;
            at += sizeof *event + event->len;
        }
    return all;
}

static void expect_both(int fd)
{
    char byte;
    events();
    CHECK_EQ(pread(fd, &byte, 1, 0), 1);
    CHECK_EQ(events(), IN_ACCESS);
    CHECK_EQ(pwrite(fd, "w", 1, 0), 1);
    CHECK_EQ(events(), IN_MODIFY);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(events(), 0);
    CHECK_EQ(read(fd, &byte, 1), 1);
    CHECK_EQ(events(), IN_ACCESS);
    CHECK_EQ(write(fd, "w", 1), 1);
    CHECK_EQ(events(), IN_MODIFY);
}

int main(void)
{
    const uint32_t mask = IN_ACCESS | IN_MODIFY | IN_CLOSE_WRITE;
    watcher = inotify_init1(IN_NONBLOCK);
    MUST(watcher >= 0);
    MUST(mkdir("in", 0755) == 0 && mkdir("out", 0755) == 0);
    int fd = make_file("in/file", "0123456789");
    heat(fd);
    int watch = inotify_add_watch(watcher, "in/file", mask);
    CHECK(watch > 0);
    expect_both(fd);
    heat(fd);
    expect_both(fd);
    CHECK_EQ(inotify_rm_watch(watcher, watch), 0);
    events();
    heat(fd);
    CHECK_EQ(events(), 0);

    watch = inotify_add_watch(watcher, "in", mask);
    CHECK(watch > 0);
    expect_both(fd);
    CHECK_EQ(inotify_rm_watch(watcher, watch), 0);
    events();
    heat(fd);

    /* It comes into a directory that is watched already. */
    watch = inotify_add_watch(watcher, "out", mask);
    CHECK(watch > 0);
    heat(fd);
    CHECK_EQ(events(), 0);
    CHECK_EQ(rename("in/file", "out/file"), 0);
    expect_both(fd);

    /* From another process, which has the file by inheritance. */
    CHECK_EQ(inotify_rm_watch(watcher, watch), 0);
    heat(fd);
    int ends[2];
    MUST(pipe(ends) == 0);
    pid_t child = child_fork();
    if (child == 0) {
        char byte;
        heat(fd);
        CHECK_EQ(read(ends[0], &byte, 1), 1);
        CHECK_EQ(pwrite(fd, "w", 1, 0), 1);
        child_exit();
    }
    sleep_ms(100);
    watch = inotify_add_watch(watcher, "out/file", mask);
    events();
    CHECK_EQ(write(ends[1], "g", 1), 1);
    CHECK_CHILD(child);
    CHECK_EQ(events(), IN_MODIFY);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(events(), IN_CLOSE_WRITE);
    return check_result();
}
