/* What is done with a file right behind its open(2), and who else sees it. Run where the files that it uses were there
 * before: `small` (ten digits), `large` (30,000 bytes), `empty`, directories (see there), and one `victimN` of ten digits for each change.
 * With an argument: the second half of `position_survives_exec`. */
#include "check.h"
#include <dirent.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <termios.h>

static atomic_int *word;

/* Without a system call, so that nothing but memory tells. */
static void await(int value)
{
    while (atomic_load(word) != value) __builtin_ia32_pause();
}

static int opened(const char *name)
{
    int fd = open(name, O_RDONLY);
    MUST(fd >= 0);
    return fd;
}

static long size_of(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status) == 0);
    return status.st_size;
}

static void in_a_row(void)
{
    char buffer[64];
    struct termios terminal;
    struct stat status, by_name;
    int fd = opened("small");
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(stat("small", &by_name), 0);
    CHECK(memcmp(&status, &by_name, sizeof status) == 0);
    close(fd);
    fd = opened("small");
    CHECK_EQ(size_of(fd), 10);
    CHECK_ERR(ioctl(fd, TCGETS, &terminal), ENOTTY);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_EQ(read(fd, buffer, 4), 4);
    CHECK(memcmp(buffer, "0123", 4) == 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4);
    CHECK_EQ(pread(fd, buffer, 3, 7), 3);
    CHECK(memcmp(buffer, "789", 3) == 0);
    CHECK_EQ(pread(fd, buffer, 3, 9), 1);
    CHECK_EQ(pread(fd, buffer, 3, 10), 0);
    CHECK_ERR(pread(fd, buffer, 3, -1), EINVAL);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 6);
    CHECK(memcmp(buffer, "456789", 6) == 0);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 0);
    CHECK_EQ(lseek(fd, -3, SEEK_END), 7);
    CHECK_ERR(lseek(fd, -11, SEEK_END), EINVAL);
    CHECK_EQ(lseek(fd, 5, SEEK_CUR), 12);
    CHECK_EQ(read(fd, buffer, 1), 0);
    CHECK_EQ(lseek(fd, 0x7fffffffffL, SEEK_SET), 0x7fffffffffL);
    CHECK_EQ(read(fd, buffer, 1), 0);
    CHECK_EQ(lseek(fd, 2, SEEK_SET), 2);
    CHECK_ERR(write(fd, "x", 1), EBADF);
    CHECK_EQ(read(fd, buffer, 2), 2);
    CHECK(memcmp(buffer, "23", 2) == 0);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(close(fd), EBADF);
    CHECK_ERR(read(fd, buffer, 1), EBADF);
    CHECK_ERR(fstat(fd, &status), EBADF);
    CHECK_EQ(opened("empty"), fd);
    CHECK_EQ(size_of(fd), 0);
    CHECK_EQ(read(fd, buffer, 1), 0);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(lseek(fd, 0, SEEK_CUR), EBADF);
}

static void larger_than_goes_along(void)
{
    static char buffer[40000];
    int fd = opened("large");
    CHECK_EQ(size_of(fd), 30000);
    CHECK_EQ(read(fd, buffer, 100), 100);
    CHECK(buffer[0] == 'a' && buffer[99] == 'a' + 99 % 26);
    CHECK_EQ(read(fd, buffer, 2000), 2000);
    CHECK(buffer[0] == 'a' + 100 % 26 && buffer[1999] == 'a' + 2099 % 26);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 2100);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 27900);
    CHECK(buffer[0] == 'a' + 2100 % 26 && buffer[27899] == 'a' + 29999 % 26);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 0);
    close(fd);
}

static void bad_memory(void)
{
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_NONE) == 0);
    int fd = opened("small");
    CHECK_ERR(read(fd, page + 4096, 5), EFAULT);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    close(fd);
    fd = opened("small");
    CHECK_ERR(fstat(fd, (struct stat *)(page + 4096 - 8)), EFAULT);
    CHECK_ERR(fstatat(fd, page + 4096, (struct stat *)page, AT_EMPTY_PATH), EFAULT);
    CHECK_EQ(size_of(fd), 10);
    close(fd);
    munmap(page, 8192);
}

static void descriptors_are_shared(void)
{
    char buffer[16];
    int fd = opened("small");
    CHECK_EQ(read(fd, buffer, 2), 2);
    int copy = dup(fd);
    CHECK_EQ(read(copy, buffer, 1), 1);
    CHECK(buffer[0] == '2');
    CHECK_EQ(read(fd, buffer, 1), 1);
    CHECK(buffer[0] == '3');
    close(copy);
    CHECK_EQ(read(fd, buffer, 1), 1);
    CHECK(buffer[0] == '4');
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(read(fd, buffer, 1), 1);
        CHECK(buffer[0] == '5');
        child_exit();
    }
    CHECK_CHILD(child);
    CHECK_EQ(read(fd, buffer, 1), 1);
    CHECK(buffer[0] == '6');
    close(fd);
    /* Sent to somebody else. */
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    fd = opened("small");
    CHECK_EQ(read(fd, buffer, 3), 3);
    union { char space[CMSG_SPACE(sizeof fd)]; struct cmsghdr align; } control = {0};
    char data = 0;
    struct iovec piece = {&data, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    CHECK_EQ(sendmsg(ends[0], &message, 0), 1);
    close(fd);
    CHECK_EQ(recvmsg(ends[1], &message, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    CHECK_EQ(read(fd, buffer, 1), 1);
    CHECK(buffer[0] == '3');
    close(fd), close(ends[0]), close(ends[1]);
}

static int shared_fd;

static void *closes(void *unused)
{
    (void)unused;
    await(1);
    close(shared_fd);
    atomic_store(word, 2);
    return NULL;
}

static void *reads(void *unused)
{
    char byte;
    await(1);
    CHECK_EQ(read(shared_fd, &byte, 1), 1);
    CHECK(byte == '1');
    atomic_store(word, 2);
    return unused;
}

static void threads(void)
{
    struct stat status;
    char byte;
    pthread_t thread;
    for (int round = 0; round < 20; round++) {
        atomic_store(word, 0);
        MUST(pthread_create(&thread, NULL, round & 1 ? closes : reads, NULL) == 0);
        shared_fd = opened("small");
        CHECK_EQ(read(shared_fd, &byte, 1), 1);
        atomic_store(word, 1);
        await(2);
        if (round & 1) {
            CHECK_ERR(fstat(shared_fd, &status), EBADF);
        } else {
            CHECK_EQ(read(shared_fd, &byte, 1), 1);
            CHECK(byte == '2');
            close(shared_fd);
        }
        pthread_join(thread, NULL);
    }
}

/* A closed descriptor is nobody's to see, and a position is where it is. */
static void others_look(void)
{
    char name[64], target[64], byte;
    for (int round = 0; round < 10; round++) {
        atomic_store(word, 0);
        pid_t parent = getpid(), child = child_fork();
        if (child == 0) {
            await(1);
            snprintf(name, sizeof name, "/proc/%d/fd/%d", parent, shared_fd = atomic_load(word + 1));
            if (round & 1) {
                CHECK_ERR(readlink(name, target, sizeof target), ENOENT);
            } else {
                snprintf(name, sizeof name, "/proc/%d/fdinfo/%d", parent, shared_fd);
                FILE *information = fopen(name, "r");
                long position = -1;
                CHECK(information && fscanf(information, "pos: %ld", &position) == 1);
                CHECK_EQ(position, 1);
                if (information) fclose(information);
            }
            atomic_store(word, 2);
            child_exit();
        }
        int fd = opened("small");
        CHECK_EQ(read(fd, &byte, 1), 1);
        if (round & 1) close(fd);
        atomic_store(word + 1, fd);
        atomic_store(word, 1);
        await(2);
        if (!(round & 1)) close(fd);
        CHECK_CHILD(child);
    }
}

enum { GROWS, WRITES, CUTS, MODE, TIMES, LINKS, RENAMES, UNLINKS, REPLACES, CHANGES };

static void change(int kind, const char *name)
{
    char other[64];
    snprintf(other, sizeof other, "%s.new", name);
    struct timespec times[2] = {{1000, 0}, {2000, 0}};
    int fd;
    switch (kind) {
    case GROWS:
        fd = open(name, O_WRONLY | O_APPEND);
        CHECK_EQ(write(fd, "more", 4), 4);
        close(fd);
        break;
    case WRITES:
        fd = open(name, O_RDWR);
        CHECK_EQ(pwrite(fd, "X", 1, 1), 1);
        close(fd);
        break;
    case CUTS: CHECK_EQ(truncate(name, 3), 0); break;
    case MODE: CHECK_EQ(chmod(name, 0600), 0); break;
    case TIMES: CHECK_EQ(utimensat(AT_FDCWD, name, times, 0), 0); break;
    case LINKS: CHECK_EQ(link(name, other), 0); break;
    case RENAMES: CHECK_EQ(rename(name, other), 0); break;
    case UNLINKS: CHECK_EQ(unlink(name), 0); break;
    case REPLACES: CHECK_EQ(rename("replacement", name), 0); break;
    }
}

static void has_changed(int kind, int fd, const char *name)
{
    struct stat status;
    char buffer[64];
    MUST(fstat(fd, &status) == 0);
    switch (kind) {
    case GROWS: CHECK_EQ(status.st_size, 14); break;
    case WRITES:
        CHECK_EQ(read(fd, buffer, 3), 3);
        CHECK(memcmp(buffer, "0X2", 3) == 0);
        break;
    case CUTS:
        CHECK_EQ(status.st_size, 3);
        CHECK_EQ(read(fd, buffer, sizeof buffer), 3);
        break;
    case MODE: CHECK_EQ(status.st_mode & 07777, 0600); break;
    case TIMES: CHECK_EQ(status.st_mtime, 2000); break;
    case LINKS: CHECK_EQ(status.st_nlink, 2); break;
    case RENAMES: CHECK_ERR(stat(name, &status), ENOENT); break;
    case UNLINKS:
    case REPLACES: CHECK_EQ(status.st_nlink, 0); break;
    }
}

/* Somebody else changes the file between its open(2) and what follows, and nobody but memory tells. */
static void others_change(void)
{
    char name[16];
    for (int kind = 0; kind < CHANGES; kind++) {
        snprintf(name, sizeof name, "victim%d", kind);
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            change(kind, name);
            atomic_store(word, 2);
            child_exit();
        }
        int fd = opened(name);
        atomic_store(word, 1);
        await(2);
        has_changed(kind, fd, name);
        close(fd);
        CHECK_CHILD(child);
    }
}

/* Who has locked a file gives that back with any descriptor of it that is closed, at once. */
static void locks_go(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    for (int round = 0; round < 5; round++) {
        atomic_store(word, 0);
        int held = open("lockable", O_RDWR);
        MUST(held >= 0 && fcntl(held, F_SETLK, &lock) == 0);
        pid_t child = child_fork();
        if (child == 0) {
            int own = open("lockable", O_RDWR);
            atomic_store(word, 1);
            CHECK_EQ(fcntl(own, F_SETLKW, &lock), 0);
            atomic_store(word, 2);
            child_exit();
        }
        await(1);
        close(opened("lockable"));
        await(2);
        close(held);
        CHECK_CHILD(child);
    }
}

/* Who begins to watch a file that is open hears of what is done with it from then on. */
static void watches(void)
{
    for (int round = 0; round < 5; round++) {
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            int list = inotify_init1(IN_NONBLOCK);
            await(1);
            MUST(inotify_add_watch(list, "small", IN_ACCESS | IN_CLOSE_NOWRITE | IN_OPEN) > 0);
            atomic_store(word, 2);
            await(3);
            struct inotify_event events[8] = {0};
            CHECK_EQ(read(list, events, sizeof events), 2 * (long)sizeof *events);
            CHECK_EQ(events[0].mask, IN_ACCESS);
            CHECK_EQ(events[1].mask, IN_CLOSE_NOWRITE);
            child_exit();
        }
        char byte;
        int fd = opened("small");
        atomic_store(word, 1);
        await(2);
        CHECK_EQ(read(fd, &byte, 1), 1);
        close(fd);
        atomic_store(word, 3);
        CHECK_CHILD(child);
    }
}

static void position_survives_exec(const char *self)
{
    char number[16], byte;
    pid_t child = child_fork();
    if (child == 0) {
        int fd = opened("small");
        CHECK_EQ(read(fd, &byte, 1), 1);
        snprintf(number, sizeof number, "%d", fd);
        execl(self, self, number, NULL);
        child_exit();
    }
    CHECK_CHILD(child);
    int fd = opened("small");
    CHECK_EQ(read(fd, &byte, 1), 1);
    child = vfork();
    if (child == 0) {
        close(fd);
        _exit(0);
    }
    MUST(waitpid(child, NULL, 0) == child);
    CHECK_EQ(read(fd, &byte, 1), 1);
    CHECK(byte == '1');
    close(fd);
}

/* Directories: `names` and `other` have `n00` to `n19`, of 1 to 20 and 101 to 120 bytes. */

enum { NAMES = 20 };

static long listed(int fd, char *buffer, long size) { return syscall(SYS_getdents64, fd, buffer, size); }

/* How many entries there are from here on, and whether `wanted` is one of them. */
static int entries(int fd, long size, const char *wanted, bool *is_there)
{
    char buffer[4096];
    int count = 0;
    long got;
    *is_there = false;
    while ((got = listed(fd, buffer, size)) > 0)
        for (long at = 0; at < got; at += *(unsigned short *)(buffer + at + 16)) {
            count++;
            *is_there |= strcmp(buffer + at + 19, wanted) == 0;
        }
    CHECK_EQ(got, 0);
    return count;
}

static void listings(void)
{
    char buffer[4096];
    bool there;
    struct stat status;
    int fd = open("names", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(fd, F_SETFD, FD_CLOEXEC), 0);
    CHECK_EQ(fcntl(fd, F_GETFL) & (O_ACCMODE | O_DIRECTORY), O_DIRECTORY);
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_ERR(read(fd, buffer, 10), EISDIR);
    CHECK_ERR(pread(fd, buffer, 10, 0), EISDIR);
    CHECK_ERR(listed(fd, buffer, 8), EINVAL);
    for (long size = 24; size <= 4096; size = size * 3 / 2) {
        CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
        CHECK_EQ(entries(fd, size, "n07", &there), NAMES + 2);
        CHECK(there);
        CHECK_EQ(listed(fd, buffer, sizeof buffer), 0);
    }
    CHECK_EQ(fcntl(fd, F_SETFD, 0), 0);
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    close(fd);
    /* Half of it here, half of it by a copy; and from a place that was told. */
    fd = open("names", O_RDONLY | O_DIRECTORY);
    long got = listed(fd, buffer, 200);
    int half = 0;
    long last = 0;
    for (long at = 0; at < got; at += *(unsigned short *)(buffer + at + 16)) half++, last = at;
    CHECK(half > 2);
    long behind_first = *(long *)(buffer + 8), behind_last = *(long *)(buffer + last + 8);
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    CHECK_EQ(entries(copy, 4096, "n00", &there), NAMES + 2 - half);
    CHECK_EQ(entries(fd, 4096, "n00", &there), 0);
    close(copy);
    CHECK_EQ(lseek(fd, behind_first, SEEK_SET), behind_first);
    CHECK_EQ(entries(fd, 4096, "n00", &there), NAMES + 1);
    CHECK_EQ(lseek(fd, behind_last, SEEK_SET), behind_last);
    CHECK_EQ(entries(fd, 100, "n00", &there), NAMES + 2 - half);
    close(fd);
    /* What others do meanwhile. */
    for (int round = 0; round < 4; round++) {
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            CHECK_EQ(round & 1 ? unlink("names/new") : close(open("names/new", O_CREAT | O_WRONLY, 0600)), 0);
            atomic_store(word, 2);
            child_exit();
        }
        fd = open("names", O_RDONLY | O_DIRECTORY);
        atomic_store(word, 1);
        await(2);
        CHECK_EQ(entries(fd, 4096, "new", &there), NAMES + 2 + !(round & 1));
        CHECK_EQ(there, !(round & 1));
        close(fd);
        CHECK_CHILD(child);
    }
}

static long size_by_name(const char *directory, int number)
{
    char name[64];
    struct stat status;
    snprintf(name, sizeof name, "%s%sn%02d", directory, *directory ? "/" : "", number);
    return lstat(name, &status) == 0 ? status.st_size : -errno;
}

/* The next name changes when the ones before it have been looked at. */
static void names_in_a_row(void)
{
    char name[64], other[64];
    for (int number = 0; number < NAMES; number++) CHECK_EQ(size_by_name("names", number), number + 1);
    for (int number = 0; number < NAMES; number++) CHECK_EQ(size_by_name("./other/../other", number), number + 101);
    /* The fourth name's answer may tell of the two behind it. */
    static const int next[] = {4, 4, 5, 6, 7, 7};
    for (int kind = 0; kind < 6; kind++) {
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            snprintf(name, sizeof name, "names/n%02d", next[kind]);
            snprintf(other, sizeof other, "names/moved%d", kind);
            switch (kind) {
            case 0: CHECK_EQ(truncate(name, 50), 0); break;
            case 1: CHECK_EQ(rename(name, other), 0); break;
            case 2: CHECK_EQ(unlink(name), 0); break;
            case 3: CHECK_EQ(rename("names/n19", name), 0); break;
            case 4: CHECK_EQ(rename("names", "away"), 0); break;
            default: CHECK_EQ(rename("other", "names"), 0); break;
            }
            atomic_store(word, 2);
            child_exit();
        }
        size_by_name("other", 0);
        for (int number = 0; number < 4; number++) size_by_name("names", number);
        atomic_store(word, 1);
        await(2);
        long expected[] = {50, -ENOENT, -ENOENT, 20, -ENOENT, 108};
        CHECK_EQ(size_by_name("names", next[kind]), expected[kind]);
        CHECK_CHILD(child);
    }
    /* Again as they were, but for what is gone. */
    CHECK_EQ(rename("names", "other"), 0);
    CHECK_EQ(rename("away", "names"), 0);
}

static void *goes_elsewhere(void *unused)
{
    await(1);
    CHECK_EQ(chdir("other"), 0);
    atomic_store(word, 2);
    await(3);
    CHECK_EQ(dup2(open("../names", O_RDONLY | O_DIRECTORY), shared_fd), shared_fd);
    atomic_store(word, 4);
    return unused;
}

/* A name means another file once the directory is another one. */
static void elsewhere(void)
{
    struct stat status;
    pthread_t thread;
    atomic_store(word, 0);
    CHECK_EQ(chdir("names"), 0);
    CHECK_EQ(symlink("n10", "n20"), 0);
    CHECK_EQ(chdir(".."), 0);
    CHECK_EQ(chdir("names"), 0);
    CHECK_EQ(size_by_name("", 9), 10);
    CHECK_EQ(size_by_name("", 10), 11);
    CHECK_EQ(size_by_name("", 11), 12);
    CHECK_EQ(fstatat(AT_FDCWD, "n20", &status, 0), 0);
    CHECK_EQ(status.st_size, 11);
    CHECK_EQ(fstatat(AT_FDCWD, "n20", &status, AT_SYMLINK_NOFOLLOW), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_EQ(unlink("n20"), 0);
    CHECK_EQ(chdir(".."), 0);
    MUST(pthread_create(&thread, NULL, goes_elsewhere, NULL) == 0);
    MUST(chdir("names") == 0 && rename("../other", "other") == 0);
    for (int number = 8; number < 12; number++) CHECK_EQ(size_by_name("", number), number + 1);
    atomic_store(word, 1);
    await(2);
    CHECK_EQ(size_by_name("", 12), 113);
    CHECK_EQ(chdir("../.."), 0);
    MUST(rename("names/other", "other") == 0 && chdir("other") == 0);
    shared_fd = open(".", O_RDONLY | O_DIRECTORY);
    for (int number = 8; number < 12; number++) {
        char name[8];
        snprintf(name, sizeof name, "n%02d", number);
        CHECK_EQ(fstatat(shared_fd, name, &status, AT_SYMLINK_NOFOLLOW), 0);
        CHECK_EQ(status.st_size, number + 101);
    }
    atomic_store(word, 3);
    await(4);
    CHECK_EQ(fstatat(shared_fd, "n12", &status, AT_SYMLINK_NOFOLLOW), 0);
    CHECK_EQ(status.st_size, 13);
    pthread_join(thread, NULL);
    close(shared_fd);
    CHECK_EQ(chdir(".."), 0);
}

/* Each name is opened, read and closed before the next one is looked at, as archivers do. */
static void archived(void)
{
    char name[8], buffer[256];
    struct stat status;
    int directory = open("other", O_RDONLY | O_DIRECTORY);
    for (int number = 0; number < NAMES; number++) {
        snprintf(name, sizeof name, "n%02d", number);
        CHECK_EQ(fstatat(directory, name, &status, AT_SYMLINK_NOFOLLOW), 0);
        CHECK_EQ(status.st_size, number + 101);
        int fd = openat(directory, name, O_RDONLY | O_NOFOLLOW);
        CHECK_EQ(size_of(fd), number + 101);
        CHECK_EQ(read(fd, buffer, sizeof buffer), number + 101);
        CHECK_EQ(buffer[0], 'a' + number);
        CHECK_EQ(read(fd, buffer, sizeof buffer), 0);
        CHECK_EQ(close(fd), 0);
    }
    close(directory);
}

static char *mapped(const char *name, long length)
{
    int fd = opened(name);
    CHECK_EQ(size_of(fd), 10);
    char *page = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(page != MAP_FAILED);
    CHECK_EQ(close(fd), 0);
    return page;
}

/* A private mapping that is only read: it is what any other one is, whatever is done with it. */
static void mappings(void)
{
    char zeros[4096] = {0}, text[4096] = "0123456789";
    char *page = mapped("small", 10);
    CHECK(memcmp(page, text, 4096) == 0);
    CHECK_EQ(madvise(page, 4096, MADV_DONTNEED), 0);
    CHECK(memcmp(page, text, 4096) == 0);
    /* Written, it is the process's own. */
    CHECK_EQ(mprotect(page, 4096, PROT_READ | PROT_WRITE), 0);
    page[0] = 'x';
    pid_t child = fork();
    if (child == 0) {
        page[1] = 'y';
        _exit(page[0] != 'x');
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    CHECK(page[0] == 'x' && page[1] == '1');
    CHECK_EQ(munmap(page, 4096), 0);
    int fd = opened("small");
    CHECK_EQ(pread(fd, zeros, 1, 0), 1);
    CHECK_EQ(zeros[0], '0');
    zeros[0] = 0;
    close(fd);

    /* What comes in its place is not taken for it. */
    page = mapped("small", 4096);
    CHECK(mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == page);
    page[0] = 'x';
    CHECK_EQ(madvise(page, 4096, MADV_DONTNEED), 0);
    CHECK(memcmp(page, zeros, 4096) == 0);
    CHECK_EQ(munmap(page, 4096), 0);
    page = mapped("small", 4096);
    CHECK_EQ(munmap(page, 4096), 0);
    CHECK(mmap(page, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == page);
    page[0] = 'x';
    CHECK_EQ(madvise(page, 4096, MADV_DONTNEED), 0);
    CHECK_EQ(page[0], 0);
    CHECK_EQ(munmap(page, 4096), 0);

    /* It moves, and its neighbours are not it. */
    char *room = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(room != MAP_FAILED);
    memset(room, 'r', 3 * 4096);
    page = mapped("small", 4096);
    CHECK(mremap(page, 4096, 4096, MREMAP_MAYMOVE | MREMAP_FIXED, room + 4096) == room + 4096);
    CHECK_EQ(madvise(room, 3 * 4096, MADV_DONTNEED), 0);
    CHECK(memcmp(room, zeros, 4096) == 0 && memcmp(room + 4096, text, 4096) == 0 && memcmp(room + 8192, zeros, 4096) == 0);
    CHECK_EQ(madvise(room + 4096, 0, MADV_DONTNEED), 0);
    CHECK_ERR(madvise(room + 1, 4096, MADV_DONTNEED), EINVAL);
    CHECK_EQ(munmap(room, 3 * 4096), 0);
    CHECK_ERR(madvise(room, 3 * 4096, MADV_DONTNEED), ENOMEM);

    /* More than anybody needs at once; what is wrong, or goes beyond the file. */
    char *many[200];
    for (int index = 0; index < 200; index++) many[index] = mapped("small", 10);
    for (int index = 0; index < 200; index++) {
        CHECK_EQ(madvise(many[index], 4096, MADV_DONTNEED), 0);
        CHECK(memcmp(many[index], text, 4096) == 0);
        CHECK_EQ(munmap(many[index], 10), 0);
    }
    fd = opened("small");
    CHECK(mmap(NULL, 0, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EINVAL);
    CHECK(mmap(NULL, 10, PROT_READ, 0, fd, 0) == MAP_FAILED && errno == EINVAL);
    page = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(page != MAP_FAILED);
    CHECK(memcmp(page, text, 4096) == 0);
    CHECK_EQ(munmap(page, 8192), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    close(fd);
    CHECK(mmap(NULL, 10, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EBADF);

    /* Others in between, in the child of a fork, and after it. */
    for (int round = 0; round < 6; round++) {
        int large = opened("large");
        char *first = mmap(NULL, 30000, PROT_READ, MAP_PRIVATE, large, 0);
        char *second = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, large, 4096);
        MUST(first != MAP_FAILED && second != MAP_FAILED);
        CHECK(first[4096] == 'a' + 4096 % 26 && second[0] == first[4096]);
        page = mapped("small", 5000);
        CHECK_EQ(page[9], '9');
        CHECK_EQ(munmap(page, 5000), 0);
        char *third = mmap(NULL, 4096, PROT_READ, MAP_SHARED, large, 8192);
        MUST(third != MAP_FAILED);
        CHECK_EQ(third[0], first[8192]);
        close(large);
        child = round & 1 ? fork() : 0;
        large = opened("large");
        char *fourth = mmap(NULL, 30000, PROT_READ, MAP_PRIVATE, large, 0);
        MUST(fourth != MAP_FAILED);
        CHECK(memcmp(first, fourth, 30000) == 0);
        if (round & 1 && child == 0) _exit(check_result());
        if (round & 1) {
            CHECK_EQ(waitpid(child, &status, 0), child);
            CHECK_EQ(status, 0);
        }
        close(large);
        munmap(first, 30000);
        munmap(second, 4096);
        munmap(third, 4096);
        munmap(fourth, 30000);
    }

    /* Who writes the file sees that in its mapping. */
    int writer = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK_EQ(write(writer, "0123456789", 10), 10);
    page = mapped("mapped", 10);
    CHECK_EQ(pwrite(writer, "x", 1, 0), 1);
    CHECK_EQ(page[0], 'x');
    CHECK_EQ(munmap(page, 10), 0);
    close(writer);
    page = mapped("mapped", 10);
    CHECK_EQ(page[0], 'x');
    CHECK_EQ(munmap(page, 10), 0);
}

/* The same file again, as soon as it is closed. */
static void again(void)
{
    char buffer[16];
    int fd = opened("small");
    CHECK_EQ(read(fd, buffer, 3), 3);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(opened("small"), fd);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_EQ(read(fd, buffer, 2), 2);
    CHECK(memcmp(buffer, "01", 2) == 0);
    CHECK_EQ(fcntl(fd, F_GETFD), 0);
    int second = dup(fd);
    CHECK_EQ(read(second, buffer, 1), 1);
    CHECK_EQ(buffer[0], '2');
    close(fd);
    close(second);
    fd = opened("small");
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(open("small", O_RDONLY | O_CLOEXEC), fd);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(opened("large"), fd);
    CHECK_EQ(size_of(fd), 30000);
    /* A lower one is free meanwhile. */
    int higher = opened("small");
    CHECK(higher > fd);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(opened("small"), fd);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(close(higher), 0);
    CHECK_EQ(opened("small"), fd);
    CHECK_EQ(close(fd), 0);
    /* Relative to something else. */
    CHECK_EQ(opened("small"), fd);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(chdir("names"), 0);
    CHECK_ERR(open("small", O_RDONLY), ENOENT);
    CHECK_EQ(chdir(".."), 0);
    DIR *names = opendir(".");
    int first = 0, next = 0;
    while (readdir(names)) first++;
    closedir(names);
    names = opendir(".");
    while (readdir(names)) next++;
    closedir(names);
    CHECK_EQ(first, next);
}

/* What is written, and closed at once. */
static void written(void)
{
    struct stat status;
    struct termios terminal;
    char buffer[16];
    int fd = open("new", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    MUST(fd >= 0);
    CHECK_EQ(size_of(fd), 0);
    CHECK_ERR(ioctl(fd, TCGETS, &terminal), ENOTTY);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_ERR(read(fd, buffer, 1), EBADF);
    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_EQ(size_of(fd), 10);
    CHECK_ERR(read(fd, buffer, 1), EBADF);
    CHECK_ERR(pread(fd, buffer, 1, 0), EBADF);
    CHECK(mmap(NULL, 10, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED && errno == EACCES);
    CHECK_EQ(lseek(fd, -3, SEEK_END), 7);
    CHECK_EQ(write(fd, "x", 1), 1);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8);
    CHECK_EQ(fcntl(fd, F_GETFL) & O_ACCMODE, O_WRONLY);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(write(fd, "x", 1), EBADF);
    CHECK_EQ(stat("new", &status), 0);
    CHECK_EQ(status.st_size, 10);
    fd = open("new", O_RDWR);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 10);
    CHECK(memcmp(buffer, "0123456x89", 10) == 0);
    CHECK_EQ(read(fd, buffer, 1), 0);
    CHECK_EQ(write(fd, "y", 1), 1);
    CHECK_EQ(pread(fd, buffer, sizeof buffer, 9), 2);
    CHECK(memcmp(buffer, "9y", 2) == 0);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(unlink("new"), 0);
    /* Whoever runs it finds nobody writing it, though all that tells him so is memory. */
    atomic_store(word, 0);
    pid_t child = fork();
    if (child == 0) {
        alarm(30);
        await(1);
        execl("program", "program", "--nothing", NULL);
        _exit(errno);
    }
    fd = open("program", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    CHECK_EQ(write(fd, "#!/bin/true\n", 12), 12);
    CHECK_EQ(close(fd), 0);
    atomic_store(word, 1);
    int end = -1;
    CHECK_EQ(waitpid(child, &end, 0), child);
    CHECK_EQ(end, 0);
}

/* Directories: each `rowN` has `n00` to `n19`, of 201 to 220 bytes, which are opened, read and closed one after the other. */

static int in_row(int directory, int number)
{
    char name[8];
    snprintf(name, sizeof name, "n%02d", number);
    return openat(directory, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
}

static void is_whole(int fd, int number)
{
    char buffer[512];
    CHECK_EQ(size_of(fd), 201 + number);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 201 + number);
    CHECK(buffer[0] == 'a' + number && buffer[200] == 'a' + number);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 0);
}

/* The row's directory, when the first files have been read, and more may have been opened ahead. */
static int begun(int row, int count)
{
    static int next = 0;
    char name[16];
    snprintf(name, sizeof name, "row%d", row < 0 ? next++ : row);
    int directory = open(name, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    MUST(directory >= 0);
    int fd = -1;
    for (int number = 0; number < count; number++) {
        int now = in_row(directory, number);
        CHECK(number == 0 || now == fd);
        fd = now;
        is_whole(fd, number);
        CHECK_EQ(close(fd), 0);
    }
    return directory;
}

enum { BEGUN = 8 };

static void rows_that_change(void)
{
    char name[64];
    struct stat status;
    for (int kind = 0; kind < 6; kind++) {
        int row = begun(-1, 0);
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            snprintf(name, sizeof name, "n%02d", BEGUN);
            int fd;
            switch (kind) {
            case 0:
                fd = openat(row, name, O_WRONLY | O_TRUNC);
                CHECK_EQ(write(fd, "new", 3), 3);
                close(fd);
                break;
            case 1: CHECK_EQ(unlinkat(row, name, 0), 0); break;
            case 2: CHECK_EQ(renameat(row, "n19", row, name), 0); break;
            case 3:
                CHECK_EQ(unlinkat(row, name, 0), 0);
                CHECK_EQ(symlinkat("n00", row, name), 0);
                break;
            case 4: CHECK_EQ(fchmodat(row, name, 0640, 0), 0); break;
            default: CHECK_EQ(unlinkat(row, "n09", 0), 0); break;
            }
            atomic_store(word, 2);
            child_exit();
        }
        int fd = -1;
        for (int number = 0; number < BEGUN; number++) {
            fd = in_row(row, number);
            is_whole(fd, number);
            close(fd);
        }
        atomic_store(word, 1);
        await(2);
        fd = in_row(row, BEGUN);
        switch (kind) {
        case 0: CHECK_EQ(size_of(fd), 3); break;
        case 1: CHECK_EQ(fd, -1); break;
        case 2: CHECK_EQ(size_of(fd), 220); break;
        case 3: CHECK_EQ(fd, -1); break;
        case 4:
            CHECK_EQ(fstat(fd, &status), 0);
            CHECK_EQ(status.st_mode & 0777, 0640);
            break;
        default:
            is_whole(fd, BEGUN);
            close(fd);
            fd = in_row(row, BEGUN + 1);
            CHECK_EQ(fd, -1);
        }
        if (fd >= 0) close(fd);
        close(row);
        CHECK_CHILD(child);
    }
}

static int other_end;

static void *takes(void *directory)
{
    await(1);
    switch (atomic_load(word + 1)) {
    case 0: shared_fd = opened("small"); break;
    case 1: CHECK_EQ(dup2(open("names", O_RDONLY | O_DIRECTORY), *(int *)directory), *(int *)directory); break;
    case 2: CHECK_EQ(close(shared_fd), 0); break;
    case 3: CHECK_EQ(dup2(opened("small"), shared_fd), shared_fd); break;
    default: CHECK_EQ(close(other_end), 0); break;
    }
    atomic_store(word, 2);
    return NULL;
}

/* Threads share descriptors, and what each is in the middle of a row. */
static void rows_and_threads(void)
{
    char buffer[512];
    struct stat status;
    for (int kind = 0; kind < 5; kind++) {
        pthread_t thread;
        int directory;
        atomic_store(word, 0);
        atomic_store(word + 1, kind);
        MUST(pthread_create(&thread, NULL, takes, &directory) == 0);
        other_end = kind == 4 ? opened("small") : -1;
        directory = begun(-1, BEGUN);
        int fd = kind == 2 || kind == 3 ? in_row(directory, BEGUN) : -1, next = dup(directory);
        close(next);
        shared_fd = fd;
        atomic_store(word, 1);
        await(2);
        switch (kind) {
        case 0:
            CHECK_EQ(shared_fd, next);
            fd = in_row(directory, BEGUN);
            CHECK_EQ(fd, next + 1);
            is_whole(fd, BEGUN);
            close(shared_fd);
            break;
        case 1:
            CHECK_EQ(size_of(fd = in_row(directory, BEGUN + 1)), BEGUN + 2);
            break;
        case 2:
            CHECK_ERR(fstat(fd, &status), EBADF);
            CHECK_EQ(in_row(directory, BEGUN + 1), fd);
            is_whole(fd, BEGUN + 1);
            break;
        case 3:
            CHECK_EQ(read(fd, buffer, sizeof buffer), 10);
            break;
        default:
            CHECK_EQ(in_row(directory, BEGUN), other_end);
            is_whole(fd = other_end, BEGUN);
        }
        close(fd);
        close(directory);
        pthread_join(thread, NULL);
    }
}

/* What is known of a descriptor is known of the file that it is now. */
static void rows_are_seen(const char *self)
{
    char name[64], target[256], buffer[512], number[16];
    int directory = begun(-1, BEGUN), fd = in_row(directory, BEGUN), status;
    CHECK_EQ(read(fd, buffer, 5), 5);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    long length = readlink(name, target, sizeof target - 1);
    MUST(length > 4);
    target[length] = 0;
    CHECK(strcmp(target + length - 4, "/n08") == 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 5);
    close(fd);
    fd = in_row(directory, BEGUN + 1);
    is_whole(fd, BEGUN + 1);
    close(fd);
    CHECK_ERR(readlink(name, target, sizeof target), ENOENT);
    /* A copy, and what was read before. */
    fd = in_row(directory, BEGUN + 2);
    CHECK_EQ(read(fd, buffer, 5), 5);
    int copy = dup(fd);
    CHECK_EQ(read(copy, buffer, 200), 200);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 206 - 200 + BEGUN - 8);
    close(copy);
    close(fd);
    close(directory);
    /* A child of fork, and a program. */
    directory = begun(-1, BEGUN);
    fd = in_row(directory, BEGUN);
    CHECK_EQ(read(fd, buffer, 1), 1);
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(read(fd, buffer, 100), 100);
        CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
        CHECK_EQ(fcntl(fd, F_SETFD, 0), 0);
        snprintf(number, sizeof number, "%d", fd);
        execl(self, self, number, NULL);
        child_exit();
    }
    CHECK_CHILD(child);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1);
    close(fd);
    close(directory);
    /* Sent to somebody else. */
    int ends[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
    directory = begun(-1, BEGUN);
    fd = in_row(directory, BEGUN);
    CHECK_EQ(read(fd, buffer, 3), 3);
    union { char space[CMSG_SPACE(sizeof fd)]; struct cmsghdr align; } control = {0};
    struct iovec piece = {buffer, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(header), &fd, sizeof fd);
    CHECK_EQ(sendmsg(ends[0], &message, 0), 1);
    close(fd);
    CHECK_EQ(recvmsg(ends[1], &message, 0), 1);
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
    CHECK_EQ(read(fd, buffer, sizeof buffer), 198 + BEGUN);
    CHECK_EQ(buffer[0], 'a' + BEGUN);
    close(fd), close(ends[0]), close(ends[1]), close(directory);
    /* Its limit. */
    directory = begun(-1, BEGUN);
    struct rlimit old, limit;
    MUST(getrlimit(RLIMIT_NOFILE, &old) == 0);
    limit = old;
    limit.rlim_cur = directory + 1;
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    CHECK_ERR(in_row(directory, BEGUN), EMFILE);
    CHECK_EQ(setrlimit(RLIMIT_NOFILE, &old), 0);
    fd = in_row(directory, BEGUN);
    is_whole(fd, BEGUN);
    char *page = mmap(NULL, 100, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(page != MAP_FAILED);
    CHECK(page[0] == 'a' + BEGUN && page[208] == 'a' + BEGUN && page[209] == 0);
    CHECK_EQ(munmap(page, 100), 0);
    close(fd);
    close(directory);
    /* A name relative to something else. */
    directory = begun(-1, 0);
    MUST(fchdir(directory) == 0);
    for (int file = 0; file < BEGUN; file++) {
        fd = in_row(AT_FDCWD, file);
        is_whole(fd, file);
        close(fd);
    }
    CHECK_EQ(chdir("../other"), 0);
    CHECK_EQ(size_of(fd = in_row(AT_FDCWD, BEGUN)), 101 + BEGUN);
    close(fd);
    CHECK_EQ(chdir(".."), 0);
    close(directory);
    CHECK_EQ(waitpid(-1, &status, WNOHANG), -1);
}

/* Who begins to watch, or wants a file for himself, finds nothing but what was asked for. */
static void rows_and_watchers(void)
{
    for (int kind = 0; kind < 2; kind++) {
        atomic_store(word, 0);
        int directory = begun(-1, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            if (kind == 0) {
                int fd = in_row(directory, BEGUN);
                /* Nobody else has it. */
                CHECK_EQ(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
                CHECK_EQ(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
                close(fd);
            }
            char path[64];
            snprintf(path, sizeof path, "/proc/self/fd/%d", directory);
            int list = inotify_init1(IN_NONBLOCK);
            MUST(inotify_add_watch(list, path, IN_ACCESS | IN_CLOSE_NOWRITE | IN_OPEN) > 0);
            atomic_store(word, 2);
            await(3);
            char events[1024];
            CHECK_EQ(read(list, events, sizeof events), 3 * ((long)sizeof(struct inotify_event) + 16));
            for (int index = 0; index < 3; index++) {
                struct inotify_event *event = (struct inotify_event *)(events + index * (sizeof *event + 16));
                CHECK_EQ(event->mask, index == 0 ? IN_OPEN : index == 1 ? IN_ACCESS : IN_CLOSE_NOWRITE);
                CHECK(strcmp(event->name, "n08") == 0);
            }
            child_exit();
        }
        char buffer[512];
        for (int number = 0; number < BEGUN; number++) {
            int fd = in_row(directory, number);
            is_whole(fd, number);
            close(fd);
        }
        atomic_store(word, 1);
        await(2);
        int fd = in_row(directory, BEGUN);
        CHECK_EQ(read(fd, buffer, sizeof buffer), 201 + BEGUN);
        close(fd);
        atomic_store(word, 3);
        CHECK_CHILD(child);
        close(directory);
    }
}

static void *drains(void *argument)
{
    char buffer[4096];
    int kind = atomic_load(word + 1);
    await(1);
    /* Until the other one waits. */
    usleep(20000);
    if (kind == 1) CHECK_EQ(close(shared_fd), 0);
    if (kind == 2) CHECK_EQ(dup2(opened("small"), shared_fd), shared_fd);
    if (kind == 3) CHECK_EQ(lseek(shared_fd, 7, SEEK_SET), 7);
    while (read(other_end, buffer, sizeof buffer) == (long)sizeof buffer) {}
    return argument;
}

/* Between reads of a file something is written to somebody else, who has time to change what is being read. */
static void written_in_between(void)
{
    static char filler[4096], buffer[40000];
    int ends[2];
    /* Files that are larger than what goes along at first are read to the end. */
    for (int round = 0; round < 12; round++) {
        MUST(pipe(ends) == 0);
        int fd = opened("large");
        CHECK_EQ(read(fd, buffer, 10000), 10000);
        CHECK_EQ(write(ends[1], buffer, 10000), 10000);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10000);
        CHECK_EQ(read(fd, buffer, 10000), 10000);
        CHECK_EQ(buffer[0], 'a' + 10000 % 26);
        CHECK_EQ(write(ends[1], buffer, 10000), 10000);
        CHECK_EQ(read(fd, buffer, sizeof buffer), 10000);
        CHECK_EQ(buffer[9999], 'a' + 29999 % 26);
        CHECK_EQ(read(fd, buffer, 1), 0);
        CHECK_EQ(close(fd), 0);
        CHECK_EQ(write(ends[1], buffer, 10), 10);
        CHECK_ERR(read(fd, buffer, 1), EBADF);
        CHECK_EQ(opened("large"), fd);
        CHECK_EQ(read(fd, buffer, 1), 1);
        CHECK_EQ(buffer[0], 'a');
        close(fd), close(ends[0]), close(ends[1]);
    }
    for (int kind = 0; kind < 4; kind++) {
        pthread_t thread;
        struct stat status;
        MUST(pipe2(ends, O_NONBLOCK) == 0);
        while (write(ends[1], filler, sizeof filler) == (long)sizeof filler) {}
        MUST(fcntl(ends[1], F_SETFL, 0) == 0);
        other_end = ends[0];
        atomic_store(word, 0);
        atomic_store(word + 1, kind);
        int directory = begun(-1, BEGUN);
        MUST(pthread_create(&thread, NULL, drains, NULL) == 0);
        int fd = in_row(directory, BEGUN);
        shared_fd = fd;
        CHECK_EQ(read(fd, buffer, 3), 3);
        atomic_store(word, 1);
        CHECK_EQ(write(ends[1], "x", 1), 1);
        if (kind == 0) CHECK_EQ(read(fd, buffer, sizeof buffer), 198 + BEGUN);
        if (kind == 1) CHECK_ERR(fstat(fd, &status), EBADF);
        if (kind == 2) CHECK_EQ(read(fd, buffer, sizeof buffer), 10);
        if (kind == 3) CHECK_EQ(read(fd, buffer, sizeof buffer), 194 + BEGUN);
        if (kind != 1) close(fd);
        CHECK_EQ(in_row(directory, BEGUN + 1), fd);
        is_whole(fd, BEGUN + 1);
        close(fd), close(directory), close(ends[0]), close(ends[1]);
        pthread_join(thread, NULL);
    }
    /* A process that changes the next file when it hears of this one. */
    for (int round = 0; round < 3; round++) {
        MUST(pipe(ends) == 0);
        int directory = begun(-1, 0);
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            CHECK_EQ(read(ends[0], buffer, 1), 1);
            int own = openat(directory, round ? "n08" : "n09", O_WRONLY | O_TRUNC);
            CHECK_EQ(write(own, "new", 3), 3);
            close(own);
            atomic_store(word, 2);
            child_exit();
        }
        int fd = -1;
        for (int number = 0; number < BEGUN; number++) {
            is_whole(fd = in_row(directory, number), number);
            close(fd);
        }
        fd = in_row(directory, BEGUN);
        CHECK_EQ(read(fd, buffer, 1), 1);
        CHECK_EQ(write(ends[1], "x", 1), 1);
        await(2);
        CHECK_EQ(read(fd, buffer, sizeof buffer), round ? 2 : 200 + BEGUN);
        close(fd);
        fd = in_row(directory, BEGUN + 1);
        CHECK_EQ(size_of(fd), round ? 202 + BEGUN : 3);
        close(fd), close(directory), close(ends[0]), close(ends[1]);
        CHECK_CHILD(child);
    }
}

/* Each file of a row gets another name, and is looked at by it before the next one is, as git(1) copies its objects. */
static void linked_in_a_row(void)
{
    struct stat status, other;
    char name[64], new[64];
    for (int round = 0; round < 5; round++) {
        snprintf(name, sizeof name, "row%d", 32 + round);
        int directory = open(name, O_RDONLY | O_DIRECTORY);
        MUST(directory >= 0 && mkdir("linked", 0700) == 0);
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            snprintf(name, sizeof name, "row%d/n12", 32 + round);
            if (round == 0) CHECK_EQ(unlink("linked/n11"), 0);
            if (round == 1) CHECK_EQ(unlink(name), 0);
            if (round == 2) CHECK_EQ(chmod(name, 0600), 0);
            if (round == 3) CHECK_EQ(close(open("linked/n12", O_WRONLY | O_CREAT | O_EXCL, 0644)), 0);
            if (round == 4) CHECK_EQ(rename("linked", "linked-elsewhere"), 0);
            atomic_store(word, 2);
            child_exit();
        }
        for (int number = 0; number < NAMES; number++) {
            snprintf(name, sizeof name, "row%d/n%02d", 32 + round, number);
            snprintf(new, sizeof new, "linked/n%02d", number);
            if (round == 1 && number == 12) {
                CHECK_ERR(lstat(name, &status), ENOENT);
                continue;
            }
            CHECK_EQ(lstat(name, &status), 0);
            CHECK_EQ(status.st_nlink, 1);
            CHECK_EQ(status.st_size, 201 + number);
            if (number == 12) CHECK_EQ(status.st_mode & 0777, round == 2 ? 0600 : 0644);
            if (round == 3 && number == 12) CHECK_EQ(unlink(new), 0);
            CHECK_ERR(number % 2 ? unlink(new) : unlinkat(AT_FDCWD, new, 0), ENOENT);
            CHECK_ERR(unlinkat(AT_FDCWD, new, AT_REMOVEDIR), ENOENT);
            CHECK_EQ(link(name, new), 0);
            if (number == 11) {
                atomic_store(word, 1);
                await(2);
            }
            if (number == 11 && round == 4) {
                CHECK_ERR(lstat(new, &other), ENOENT);
                CHECK_EQ(mkdir("linked", 0700), 0);
                CHECK_ERR(unlink("linked/n12"), ENOENT);
                CHECK_EQ(rename("linked-elsewhere/n11", new), 0);
            }
            if (number == 11 && round == 0) {
                CHECK_ERR(lstat(new, &other), ENOENT);
                continue;
            }
            CHECK_EQ(lstat(new, &other), 0);
            CHECK_EQ(other.st_ino, status.st_ino);
            CHECK_EQ(other.st_nlink, 2);
            CHECK_EQ(lstat(name, &status), 0);
            CHECK_EQ(status.st_nlink, 2);
            CHECK_ERR(link(name, new), EEXIST);
        }
        CHECK_CHILD(child);
        close(directory);
        snprintf(name, sizeof name, "linked%d", round);
        CHECK_EQ(rename("linked", name), 0);
    }
}

/* Reading shows in the time of access: at once, behind a write elsewhere, in a second open(2), and by name; not with O_NOATIME
 * (where the host's own trees are written, that is the host's to know). */
static void reading_shows(const char *file, bool is_in_memory)
{
    struct stat status, again, by_name;
    struct statvfs mount;
    char buffer[16];
    int elsewhere = open("/dev/zero", O_WRONLY);
    MUST(elsewhere >= 0);
    for (int round = 0; round < 24; round++) {
        int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
        MUST(fd >= 0 && write(fd, "0123456789", 10) == 10 && close(fd) == 0);
        MUST(utimensat(AT_FDCWD, file, (struct timespec[]){{1000, 1}, {2000, 2}}, 0) == 0 && statvfs(file, &mount) == 0);
        bool leaves_time = is_in_memory && round % 6 == 5;
        fd = open(file, O_RDONLY | (leaves_time ? O_NOATIME : 0));
        MUST(fd >= 0 && fstat(fd, &status) == 0);
        CHECK_EQ(status.st_atim.tv_sec, 1000);
        CHECK_EQ(status.st_atim.tv_nsec, 1);
        if (round % 6 == 0) CHECK_EQ(pread(fd, buffer, 3, 4), 3);
        else CHECK_EQ(read(fd, buffer, sizeof buffer), 10);
        if (round % 6 == 2) MUST(write(elsewhere, "x", 1) == 1);
        CHECK_EQ(fstat(fd, &status), 0);
        CHECK_EQ(status.st_atim.tv_sec > 2000, !leaves_time && !(mount.f_flag & ST_NOATIME));
        CHECK_EQ(status.st_mtim.tv_sec, 2000);
        if (leaves_time) CHECK_EQ(status.st_atim.tv_nsec, 1);
        close(fd);
        fd = open(file, O_RDONLY);
        CHECK_EQ(fstat(fd, &again), 0);
        CHECK(memcmp(&status, &again, sizeof status) == 0);
        if (round % 6 == 3) MUST(write(elsewhere, "x", 1) == 1);
        CHECK_EQ(fstat(fd, &again), 0);
        CHECK_EQ(stat(file, &by_name), 0);
        CHECK(memcmp(&status, &again, sizeof status) == 0 && memcmp(&status, &by_name, sizeof status) == 0);
        close(fd);
    }
    close(elsewhere);
    CHECK_EQ(unlink(file), 0);
}

/* One directory after the other is gone through in the same way, and in one of them something happens behind its first name. */
static void directories_in_a_row(void)
{
    char name[64], other[64];
    for (int kind = 0; kind < 3; kind++) {
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            if (kind == 0) CHECK_EQ(rename("row5/n01", "row5/moved"), 0);
            if (kind == 1) CHECK_EQ(renameat2(AT_FDCWD, "row5/n01", AT_FDCWD, "row9/n05", RENAME_EXCHANGE), 0);
            if (kind == 2) CHECK_EQ(rename("row5", "away"), 0);
            atomic_store(word, 2);
            child_exit();
        }
        for (int row = 0; row < 8; row++) {
            snprintf(name, sizeof name, "row%d", row);
            for (int number = 0; number < NAMES; number++) {
                long wanted = 201 + number;
                if (row == 5 && number == 1) {
                    atomic_store(word, 1);
                    await(2);
                    if (kind != 2) wanted = kind == 0 ? -ENOENT : 206;
                }
                if (row == 5 && number >= 1 && kind == 2) wanted = -ENOENT;
                CHECK_EQ(size_by_name(name, number), wanted);
                /* As if "row" had subdirectories. */
                if (number == 10) CHECK_EQ(size_by_name("row10", row), 201 + row);
            }
        }
        CHECK_CHILD(child);
        if (kind == 0) CHECK_EQ(rename("row5/moved", "row5/n01"), 0);
        if (kind == 1) CHECK_EQ(renameat2(AT_FDCWD, "row5/n01", AT_FDCWD, "row9/n05", RENAME_EXCHANGE), 0);
        if (kind == 2) CHECK_EQ(rename("away", "row5"), 0);
    }
    /* Only the first name of each, and never the next. */
    for (int row = 0; row < 8; row++) {
        snprintf(other, sizeof other, "row%d", row);
        CHECK_EQ(size_by_name(other, 0), 201);
    }
}

/* As fts(3) goes through directories: what was opened is compared with its name, and listed by a copy. */
static void walked(void)
{
    char name[64];
    bool there;
    struct stat opened, named;
    for (int kind = 0; kind < 4; kind++) {
        atomic_store(word, 0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            if (kind == 1) CHECK_EQ(rename("row5", "away"), 0);
            if (kind == 2) CHECK_EQ(renameat2(AT_FDCWD, "row5", AT_FDCWD, "row6", RENAME_EXCHANGE), 0);
            if (kind == 3) CHECK_EQ(rename("row5/n01", "row6/moved"), 0);
            atomic_store(word, 2);
            child_exit();
        }
        for (int row = 0; row < 8; row++) {
            bool is_changed = row == 5;
            snprintf(name, sizeof name, "row%d", row);
            if (kind == 1 && row == 6) CHECK_EQ(rename("away", "row5"), 0);
            int fd = open(name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            MUST(fd >= 0);
            CHECK_EQ(fstat(fd, &opened), 0);
            if (is_changed) {
                atomic_store(word, 1);
                await(2);
            }
            if (is_changed && kind == 1) {
                CHECK_ERR(lstat(name, &named), ENOENT);
            } else {
                CHECK_EQ(lstat(name, &named), 0);
                CHECK_EQ(named.st_ino == opened.st_ino, !(is_changed && kind == 2));
                CHECK_EQ(stat(name, &named), 0);
            }
            int copy = fcntl(fd, F_DUPFD_CLOEXEC, 0);
            MUST(copy > fd);
            int more = kind == 3 ? (row == 6) - (row == 5) : 0;
            CHECK_EQ(entries(fd, 4096, "n01", &there), NAMES + 2 + more);
            CHECK_EQ(there, !(is_changed && kind == 3));
            CHECK_EQ(entries(copy, 4096, "n01", &there), 0);
            close(fd);
            CHECK_ERR(fcntl(fd, F_GETFD), EBADF);
            CHECK_EQ(lseek(copy, 0, SEEK_SET), 0);
            CHECK_EQ(entries(copy, 4096, "n01", &there), NAMES + 2 + more);
            CHECK_EQ(fcntl(copy, F_DUPFD_CLOEXEC, 0), fd);
            CHECK_EQ(entries(fd, 4096, "n01", &there), 0);
            close(copy);
            close(fd);
        }
        CHECK_CHILD(child);
        if (kind == 2) CHECK_EQ(renameat2(AT_FDCWD, "row5", AT_FDCWD, "row6", RENAME_EXCHANGE), 0);
        if (kind == 3) CHECK_EQ(rename("row6/moved", "row5/n01"), 0);
    }
    /* A link is not what it leads to. */
    MUST(symlink("row7", "link7") == 0);
    for (int round = 0; round < 4; round++) {
        CHECK_ERR(open("link7", O_RDONLY | O_NOFOLLOW | O_DIRECTORY), ENOTDIR);
        int fd = open(round & 1 ? "link7/" : "link7", O_RDONLY | O_DIRECTORY | (round & 1 ? O_NOFOLLOW : 0));
        MUST(fd >= 0);
        CHECK_EQ(lstat(round & 1 ? "link7/" : "link7", &named), 0);
        CHECK_EQ(S_ISDIR(named.st_mode), round & 1);
        close(fd);
    }
    MUST(unlink("link7") == 0);
}

static long made(const char *name)
{
    int fd = open(name, O_WRONLY | O_CREAT | O_EXCL, 0644);
    if (fd < 0) return -errno;
    CHECK_EQ(write(fd, "made", 4), 4);
    CHECK_EQ(size_of(fd), 4);
    return close(fd);
}

static long there(const char *name)
{
    struct stat status;
    return lstat(name, &status) == 0 ? 0 : -errno;
}

/* Each file of `directory` is looked for, made and written before the next one is. */
static void fill_row(const char *directory, int first, int count)
{
    char name[64];
    for (int number = first; number < first + count; number++) {
        snprintf(name, sizeof name, "%sf%d", directory, number);
        CHECK_EQ(there(name), -ENOENT);
        CHECK_EQ(made(name), 0);
    }
}

static void *goes_into_it(void *unused)
{
    await(1);
    CHECK_EQ(chdir("moved"), 0);
    atomic_store(word, 2);
    return unused;
}

/* Which names are not there is known of a directory that is filled: until others put them there, or it is another one. */
static void filled(void)
{
    char name[300];
    MUST(mkdir("filled", 0755) == 0 && mkdir("moved", 0755) == 0);
    fill_row("filled/", 0, 40);
    for (int number = 0; number < 40; number++) {
        snprintf(name, sizeof name, "filled/f%d", number);
        CHECK_EQ(there(name), 0);
    }
    fill_row("filled/", 40, 3);
    CHECK_EQ(there("filled/."), 0);
    CHECK_EQ(there("filled/.."), 0);
    CHECK_EQ(there("filled/"), 0);
    CHECK_EQ(there("filled"), 0);
    CHECK_EQ(there("filled/../small"), 0);
    CHECK_EQ(there("filled/f1/x"), -ENOTDIR);
    CHECK_EQ(there("filled/x/y"), -ENOENT);
    fill_row("filled/", 43, 3);
    memset(name, 'n', sizeof name);
    memcpy(name, "filled/", 7);
    name[7 + 256] = 0;
    CHECK_EQ(there(name), -ENAMETOOLONG);
    name[7 + 255] = 0;
    CHECK_EQ(there(name), -ENOENT);
    for (int kind = 0; kind < 9; kind++) {
        atomic_store(word, 0);
        snprintf(name, sizeof name, "filled/other%d", kind);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            switch (kind) {
            case 0: CHECK_EQ(made(name), 0); break;
            case 1: CHECK_EQ(mkdir(name, 0755), 0); break;
            case 2: CHECK_EQ(symlink("nowhere", name), 0); break;
            case 3: CHECK_EQ(link("filled/f0", name), 0); break;
            case 4: CHECK_EQ(rename("filled/f1", name), 0); break;
            case 5: CHECK_EQ(mknod(name, S_IFIFO | 0600, 0), 0); break;
            case 6: CHECK_EQ(made("moved/other6"), 0); CHECK_EQ(rename("moved/other6", name), 0); break;
            case 7: CHECK_EQ(rename("filled", "away"), 0); CHECK_EQ(mkdir("filled", 0755), 0); CHECK_EQ(made(name), 0); break;
            default: CHECK_EQ(made("moved/other8"), 0); CHECK_EQ(renameat2(AT_FDCWD, "moved", AT_FDCWD, "filled", RENAME_EXCHANGE), 0);
            }
            atomic_store(word, 2);
            child_exit();
        }
        fill_row("filled/", 100 + 10 * kind, 5);
        atomic_store(word, 1);
        await(2);
        CHECK_EQ(there(name), 0);
        CHECK_CHILD(child);
        /* And what the thread itself does. */
        fill_row("filled/", 105 + 10 * kind, 2);
        CHECK_EQ(there(name), 0);
        CHECK_EQ(unlinkat(AT_FDCWD, name, kind == 1 ? AT_REMOVEDIR : 0), 0);
        CHECK_EQ(there(name), -ENOENT);
        CHECK_EQ(symlink("nowhere", name), 0);
        CHECK_EQ(there(name), 0);
        CHECK_EQ(unlink(name), 0);
    }
    /* Relative to where another thread goes. */
    pthread_t thread;
    atomic_store(word, 0);
    MUST(mkdir("moved/there", 0755) == 0 && chdir("filled") == 0);
    MUST(mkdir("there", 0755) == 0 && mkdir("moved", 0755) == 0 && mkdir("moved/there", 0755) == 0);
    CHECK_EQ(made("moved/there/f7"), 0);
    MUST(pthread_create(&thread, NULL, goes_into_it, NULL) == 0);
    fill_row("there/", 0, 5);
    int kept = open("there/kept", O_WRONLY | O_CREAT, 0644);
    CHECK_EQ(write(kept, "x", 1), 1);
    atomic_store(word, 1);
    await(2);
    CHECK_EQ(there("there/f7"), 0);
    CHECK_EQ(write(kept, "x", 1), 1);
    CHECK_EQ(there("there/f7"), 0);
    CHECK_EQ(close(kept), 0);
    pthread_join(thread, NULL);
    CHECK_EQ(chdir("../.."), 0);
}

static void never_too_many(void)
{
    int first = opened("small");
    close(first);
    for (int round = 0; round < 5000; round++) {
        int fd = open(round & 1 ? "small" : "large", O_RDONLY);
        MUST(fd == first);
        if (round % 3) size_of(fd);
        close(fd);
    }
}

int main(int count, char **arguments)
{
    char in_memory[64];
    if (count > 1) {
        CHECK_EQ(lseek(atoi(arguments[1]), 0, SEEK_CUR), 1);
        return check_result();
    }
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(word != MAP_FAILED);
    in_a_row();
    larger_than_goes_along();
    bad_memory();
    descriptors_are_shared();
    threads();
    others_look();
    others_change();
    locks_go();
    watches();
    position_survives_exec(arguments[0]);
    listings();
    archived();
    names_in_a_row();
    elsewhere();
    directories_in_a_row();
    walked();
    mappings();
    again();
    written();
    written_in_between();
    rows_that_change();
    rows_and_threads();
    rows_are_seen(arguments[0]);
    rows_and_watchers();
    linked_in_a_row();
    reading_shows("fresh", false);
    snprintf(in_memory, sizeof in_memory, "/dev/shm/lent-%d", getpid());
    reading_shows(in_memory, true);
    filled();
    never_too_many();
    return check_result();
}
