/* Trees that are gone through as tar(1) does: each directory is opened by its descriptor's, asked about, listed and closed; each file in it is asked about by
 * name, opened beside the directory, read and closed. In one directory something happens in between. */
#include "check.h"
#include <dirent.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { DIRECTORIES = 12, FILES = 6, MARKED = 9, FLAGS = O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC };

/* When it happens: with the directory listed, with its first file open, and closed, and with all behind it. */
enum stage { LISTED, OPEN, BETWEEN, END };

static void (*happens)(enum stage stage, int directory, int file, const char *name);
static bool is_over, is_left;
static const char *self;

static long listed(int fd, char *buffer, long size)
{
    return syscall(SYS_getdents64, fd, buffer, size);
}

/* The names in it, in their order, each with its end. */
static int names_of(int fd, char names[][16], long size)
{
    char buffer[4096];
    int count = 0;
    long got;
    while ((got = listed(fd, buffer, size)) > 0)
        for (long at = 0; at < got; at += *(unsigned short *)(buffer + at + 16))
            if (buffer[at + 19] != '.') snprintf(names[count++], 16, "%s", buffer + at + 19);
    CHECK_EQ(got, 0);
    return count;
}

static long size_of(const char *name)
{
    return 100 + name[1] - '0';
}

static void read_whole(int fd, const char *name)
{
    char buffer[512];
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, size_of(name));
    CHECK_EQ(read(fd, buffer, sizeof buffer), size_of(name));
    CHECK_EQ(buffer[0], name[1]);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 0);
}

static bool same(const struct stat *one, const struct stat *other)
{
    return one->st_ino == other->st_ino && one->st_dev == other->st_dev && one->st_mode == other->st_mode && one->st_size == other->st_size;
}

static void walk(int parent, const char *name, bool is_marked)
{
    char names[16][16];
    struct stat named, opened;
    MUST(fstatat(parent, name, &named, AT_SYMLINK_NOFOLLOW) == 0);
    int directory = openat(parent, name, FLAGS);
    MUST(directory >= 0);
    CHECK_EQ(fstat(directory, &opened), 0);
    CHECK(same(&named, &opened));
    int count = names_of(directory, names, 4096);
    if (is_marked) happens(LISTED, directory, -1, names[0]);
    for (int index = 0; index < count && !is_over; index++) {
        if (fstatat(directory, names[index], &named, AT_SYMLINK_NOFOLLOW) < 0) {
            CHECK_EQ(errno, ENOENT);
            CHECK(is_marked);
            continue;
        }
        if (S_ISDIR(named.st_mode)) {
            walk(directory, names[index], false);
            continue;
        }
        CHECK_EQ(named.st_size, size_of(names[index]));
        int file = openat(directory, names[index], FLAGS);
        MUST(file >= 0);
        if (!is_marked) CHECK_EQ(file, directory + 1);
        if (is_marked && index == 0) happens(OPEN, directory, file, names[1]);
        read_whole(file, names[index]);
        CHECK_EQ(close(file), 0);
        if (is_marked && index == 0) happens(BETWEEN, directory, file, names[1]);
    }
    if (is_marked) happens(END, directory, -1, names[0]);
    if (is_left) return;
    CHECK_EQ(fstat(directory, &opened), 0);
    CHECK(S_ISDIR(opened.st_mode));
    CHECK_EQ(close(directory), 0);
    CHECK_ERR(fstat(directory, &opened), EBADF);
    CHECK_ERR(openat(directory, names[0], FLAGS), EBADF);
    CHECK_ERR(fstatat(directory, names[0], &opened, AT_SYMLINK_NOFOLLOW), EBADF);
    CHECK_ERR(close(directory), EBADF);
}

static void nothing(enum stage stage, int directory, int file, const char *name)
{
    (void)stage, (void)directory, (void)file, (void)name;
}

/* Somebody else makes a name be another file's, or nobody's. */
static void others_change(enum stage stage, int directory, int file, const char *name)
{
    struct stat before, after;
    (void)file;
    if (stage != BETWEEN) return;
    MUST(fstatat(directory, name, &before, AT_SYMLINK_NOFOLLOW) == 0);
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(renameat(directory, name, AT_FDCWD, "moved"), 0);
        child_exit();
    }
    CHECK_CHILD(child);
    CHECK_ERR(fstatat(directory, name, &after, AT_SYMLINK_NOFOLLOW), ENOENT);
    CHECK_ERR(openat(directory, name, FLAGS), ENOENT);
    child = child_fork();
    if (child == 0) {
        CHECK_EQ(renameat(AT_FDCWD, "moved", directory, name), 0);
        child_exit();
    }
    CHECK_CHILD(child);
    MUST(fstatat(directory, name, &after, AT_SYMLINK_NOFOLLOW) == 0);
    CHECK(same(&before, &after));
}

/* Another descriptor takes the number that the first file would have had. */
static void numbers(enum stage stage, int directory, int file, const char *name)
{
    static int copy;
    if (stage == LISTED) {
        copy = dup(directory);
        CHECK_EQ(copy, directory + 1);
    }
    if (stage == OPEN) CHECK_EQ(file, directory + 2);
    if (stage == BETWEEN) {
        CHECK_EQ(close(copy), 0);
        CHECK_EQ(file = openat(directory, name, FLAGS), directory + 1);
        close(file);
    }
}

/* One is open, and then another one. */
static void two(enum stage stage, int directory, int file, const char *name)
{
    if (stage != OPEN) return;
    int other = openat(directory, name, FLAGS);
    CHECK_EQ(other, file + 1);
    read_whole(other, name);
    CHECK_EQ(lseek(file, 0, SEEK_CUR), 0);
    close(other);
}

/* The directory is closed before, and so is its number the one that is free. */
static void closed_before(enum stage stage, int directory, int file, const char *name)
{
    struct stat status;
    (void)file;
    if (stage != LISTED) return;
    CHECK_EQ(close(directory), 0);
    CHECK_ERR(openat(directory, name, FLAGS), EBADF);
    CHECK_ERR(fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW), EBADF);
    CHECK_ERR(fstat(directory, &status), EBADF);
    CHECK_EQ(open("mark", FLAGS), directory);
    close(directory);
    is_over = is_left = true;
}

/* And while a file in it is open. */
static void closed_beside(enum stage stage, int directory, int file, const char *name)
{
    struct stat status;
    if (stage == OPEN) {
        CHECK_EQ(close(directory), 0);
        CHECK_ERR(fstat(directory, &status), EBADF);
        CHECK_ERR(fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW), EBADF);
        CHECK_ERR(openat(directory, name, FLAGS), EBADF);
        CHECK_EQ(lseek(file, 0, SEEK_CUR), 0);
        CHECK_EQ(open("mark", FLAGS), directory);
        close(directory);
    }
    if (stage == BETWEEN) {
        CHECK_ERR(fstat(file, &status), EBADF);
        CHECK_EQ(open("mark", FLAGS), directory);
        close(directory);
        is_over = is_left = true;
    }
}

/* Half of it is listed, then a file is opened, then it is listed to its end: as often as it is asked for. */
static void listed_in_parts(enum stage stage, int directory, int file, const char *name)
{
    char names[16][16], buffer[80];
    (void)name;
    if (stage == LISTED) {
        CHECK_EQ(lseek(directory, 0, SEEK_SET), 0);
        CHECK(listed(directory, buffer, sizeof buffer) > 0);
    }
    if (stage == OPEN) {
        CHECK(file > directory);
        int rest = names_of(directory, names, 80);
        CHECK(rest < FILES && rest >= FILES - 3);
        CHECK_EQ(names_of(directory, names, 4096), 0);
        CHECK_EQ(lseek(directory, 0, SEEK_SET), 0);
        CHECK_EQ(names_of(directory, names, 4096), FILES);
    }
}

/* The same in a directory that has just been opened. */
static void opened_half_listed(enum stage stage, int directory, int file, const char *name)
{
    char names[16][16], buffer[80];
    struct stat status;
    (void)file;
    if (stage != LISTED) return;
    int again = openat(AT_FDCWD, "d11", FLAGS);
    CHECK_EQ(again, directory + 1);
    CHECK(listed(again, buffer, sizeof buffer) > 0);
    int opened = openat(again, name, FLAGS);
    CHECK_EQ(opened, again + 1);
    CHECK_EQ(fstat(again, &status), 0);
    read_whole(opened, name);
    close(opened);
    int rest = names_of(again, names, 4096);
    CHECK(rest < FILES && rest >= FILES - 3);
    CHECK_EQ(fstat(again, &status), 0);
    CHECK_EQ(close(again), 0);
}

/* A child of fork has both, and stands where this process does. */
static void forked(enum stage stage, int directory, int file, const char *name)
{
    char names[16][16], buffer[8];
    (void)name;
    if (stage != OPEN) return;
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(read(file, buffer, 3), 3);
        CHECK_EQ(names_of(directory, names, 4096), 0);
        CHECK_EQ(lseek(directory, 0, SEEK_SET), 0);
        child_exit();
    }
    CHECK_CHILD(child);
    CHECK_EQ(lseek(file, 0, SEEK_CUR), 3);
    CHECK_EQ(names_of(directory, names, 4096), FILES);
    CHECK_EQ(lseek(file, 0, SEEK_SET), 0);
}

/* What is open is to be seen, and closed by exec. */
static void shown(enum stage stage, int directory, int file, const char *name)
{
    char link[64], target[256], number[2][16];
    (void)name;
    if (stage != OPEN) return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long length = readlink(link, target, sizeof target);
    CHECK(length > 3 && memcmp(target + length - 7, "/d09/f", 6) == 0);
    CHECK_EQ(fcntl(file, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(directory, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(file, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_NONBLOCK);
    snprintf(number[0], sizeof number[0], "%d", directory);
    snprintf(number[1], sizeof number[1], "%d", file);
    pid_t child = child_fork();
    if (child == 0) {
        execl(self, self, number[0], number[1], NULL);
        child_exit();
    }
    CHECK_CHILD(child);
}

static void flags_first(enum stage stage, int directory, int file, const char *name)
{
    (void)name;
    if (stage == OPEN) {
        CHECK_EQ(fcntl(file, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_NONBLOCK);
        CHECK_EQ(fcntl(file, F_GETFD), FD_CLOEXEC);
        CHECK_ERR(listed(file, (char[512]){0}, 512), ENOTDIR);
        CHECK_ERR(pread(directory, (char[8]){0}, 8, 0), EISDIR);
    }
}

/* There is no number left for the file. */
static void limited(enum stage stage, int directory, int file, const char *name)
{
    struct rlimit limit, low;
    (void)file;
    if (stage != LISTED) return;
    MUST(getrlimit(RLIMIT_NOFILE, &limit) == 0);
    low = (struct rlimit){directory + 1, limit.rlim_max};
    MUST(setrlimit(RLIMIT_NOFILE, &low) == 0);
    CHECK_ERR(openat(directory, name, FLAGS), EMFILE);
    low.rlim_cur = directory + 2;
    MUST(setrlimit(RLIMIT_NOFILE, &low) == 0);
    int again = openat(AT_FDCWD, "d11", FLAGS);
    CHECK_EQ(again, directory + 1);
    CHECK_ERR(openat(again, name, FLAGS), EMFILE);
    close(again);
    MUST(setrlimit(RLIMIT_NOFILE, &limit) == 0);
}

/* Another thread has the same descriptors. */
static void *takes_a_number(void *directory)
{
    int own = dup((int)(long)directory);
    CHECK_EQ(own, (long)directory + 1);
    return (void *)(long)own;
}

static void threads(enum stage stage, int directory, int file, const char *name)
{
    static void *taken;
    pthread_t thread;
    (void)name;
    if (stage == LISTED) {
        MUST(pthread_create(&thread, NULL, takes_a_number, (void *)(long)directory) == 0);
        MUST(pthread_join(thread, &taken) == 0);
    }
    if (stage == OPEN) CHECK_EQ(file, directory + 2);
    if (stage == END) close((int)(long)taken);
}

/* Closing it is told to who watches it. */
static void watched(enum stage stage, int directory, int file, const char *name)
{
    static int watch;
    char events[4096];
    (void)directory, (void)file, (void)name;
    if (stage == LISTED) {
        watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
        MUST(watch >= 0 && inotify_add_watch(watch, "d09", IN_OPEN | IN_CLOSE_NOWRITE) >= 0);
        MUST(dup2(watch, 40) == 40 && close(watch) == 0);
    }
    if (stage != END) return;
    int opens = 0, closes = 0;
    for (long got; (got = read(40, events, sizeof events)) > 0;)
        for (char *at = events; at < events + got;) {
            const struct inotify_event *event = (const struct inotify_event *)at;
            opens += (event->mask & IN_OPEN) != 0;
            closes += (event->mask & IN_CLOSE_NOWRITE) != 0;
            at += sizeof *event + event->len;
        }
    CHECK_EQ(opens, FILES);
    CHECK_EQ(closes, FILES);
    CHECK_EQ(close(directory), 0);
    CHECK(read(40, events, sizeof events) >= (long)sizeof(struct inotify_event));
    CHECK((((struct inotify_event *)events)->mask & (IN_CLOSE_NOWRITE | IN_ISDIR)) == (IN_CLOSE_NOWRITE | IN_ISDIR));
    close(40);
    is_left = true;
}

/* A lock goes with the last descriptor. */
static void locked(enum stage stage, int directory, int file, const char *name)
{
    (void)file, (void)name;
    if (stage == BETWEEN) CHECK_EQ(flock(directory, LOCK_EX), 0);
    if (stage != END) return;
    CHECK_EQ(close(directory), 0);
    int other = open("d09", FLAGS);
    CHECK_EQ(flock(other, LOCK_EX | LOCK_NB), 0);
    close(other);
    is_left = true;
}

/* What is made in it changes what it is. */
static void changed(enum stage stage, int directory, int file, const char *name)
{
    static struct stat before;
    struct stat after;
    (void)name, (void)file;
    if (stage == LISTED) MUST(fstat(directory, &before) == 0);
    if (stage == BETWEEN) {
        pid_t child = child_fork();
        if (child == 0) {
            MUST(mkdir("d09/new", 0700) == 0);
            child_exit();
        }
        CHECK_CHILD(child);
    }
    if (stage == END) {
        CHECK_EQ(fstat(directory, &after), 0);
        CHECK(after.st_mtim.tv_sec > before.st_mtim.tv_sec || after.st_mtim.tv_nsec != before.st_mtim.tv_nsec);
        MUST(rmdir("d09/new") == 0);
    }
}

/* The same in memory, where times are set. */
static void in_memory(const char *directory)
{
    char name[128], names[16][16];
    struct stat after;
    for (int row = 0; row < DIRECTORIES; row++) {
        snprintf(name, sizeof name, "%s/d%02d", directory, row);
        MUST(mkdir(name, 0755) == 0 || errno == EEXIST);
        for (int file = 0; file < FILES; file++) {
            snprintf(name, sizeof name, "%s/d%02d/f%d", directory, row, file);
            int fd = open(name, O_WRONLY | O_CREAT, 0644);
            char text[128];
            memset(text, '0' + file, sizeof text);
            MUST(fd >= 0 && write(fd, text, 100 + file) == 100 + file);
            close(fd);
        }
    }
    int top = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(top >= 0);
    for (int row = 0; row < DIRECTORIES; row++) {
        snprintf(name, sizeof name, "d%02d", row);
        int fd = openat(top, name, FLAGS);
        MUST(fd >= 0 && fstat(fd, &after) == 0);
        struct timespec earlier[2] = {{1000, 1}, {2000, 2}};
        MUST(futimens(fd, earlier) == 0);
        CHECK_EQ(names_of(fd, names, 4096), FILES);
        for (int file = 0; file < FILES; file++) {
            int opened = openat(fd, names[file], FLAGS);
            CHECK_EQ(opened, fd + 1);
            read_whole(opened, names[file]);
            close(opened);
        }
        CHECK_EQ(fstat(fd, &after), 0);
        CHECK_EQ(after.st_mtim.tv_sec, 2000);
        close(fd);
    }
    close(top);
}

/* The descriptor by which all was found becomes another directory's. */
static void renumbered(void)
{
    enum { CHANGED = 7 };
    char names[64][16], inner[16][16];
    struct stat status;
    int top = open("nested", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(top >= 0);
    int count = names_of(top, names, 4096);
    MUST(count > CHANGED + 1);
    for (int index = 0; index <= CHANGED; index++) {
        MUST(fstatat(top, names[index], &status, AT_SYMLINK_NOFOLLOW) == 0);
        int outer = openat(top, names[index], FLAGS);
        MUST(outer >= 0 && fstat(outer, &status) == 0);
        CHECK_EQ(names_of(outer, inner, 4096), 1);
        walk(outer, inner[0], false);
        if (index == CHANGED) MUST(dup2(outer, top) == top);
        CHECK_EQ(fstat(outer, &status), 0);
        CHECK_EQ(close(outer), 0);
    }
    CHECK_ERR(fstatat(top, names[CHANGED + 1], &status, AT_SYMLINK_NOFOLLOW), ENOENT);
    close(top);
}

int main(int count, char **arguments)
{
    struct stat status;
    if (count == 3) {
        CHECK_ERR(fstat(atoi(arguments[1]), &status), EBADF);
        CHECK_ERR(fstat(atoi(arguments[2]), &status), EBADF);
        return check_result();
    }
    self = arguments[0];
    static void (*const all[])(enum stage, int, int, const char *) = {
        nothing, others_change, numbers, two, closed_before, closed_beside, listed_in_parts, opened_half_listed,
        forked, shown, flags_first, limited, threads, watched, locked, changed,
    };
    for (unsigned kind = 0; kind < sizeof all / sizeof *all; kind++) {
        int top = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        MUST(top >= 0);
        happens = all[kind];
        for (int row = 0; row < DIRECTORIES; row++) {
            char name[16];
            snprintf(name, sizeof name, "d%02d", row);
            is_over = is_left = false;
            walk(top, name, row == MARKED);
        }
        close(top);
    }
    renumbered();
    char directory[64];
    snprintf(directory, sizeof directory, "/dev/shm/trees-%d", getpid());
    MUST(mkdir(directory, 0755) == 0);
    in_memory(directory);
    return check_result();
}
