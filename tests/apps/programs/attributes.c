/* What files that a process reads and writes often, and names that it asks about again, show behind each change, whoever makes
 * it. Nothing but memory tells what others have done. */
#include "check.h"
#include "turns.h"
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { LARGE = 100 * 1024, OFTEN = 12 };

static char block[4096];

/* A file that has been read and written often. */
static int used(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    MUST(fd >= 0);
    for (long size = 0; size < LARGE; size += sizeof block) MUST(write(fd, block, sizeof block) == sizeof block);
    for (int time = 0; time < OFTEN; time++) MUST(pread(fd, block, 100, 0) == 100 && pwrite(fd, block, 100, 0) == 100);
    return fd;
}

static struct stat of(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status) == 0);
    return status;
}

static struct stat named(const char *name)
{
    struct stat status;
    MUST(stat(name, &status) == 0);
    return status;
}

static void ask(int fd, const char *name)
{
    for (int time = 0; time < 3; time++) of(fd);
    for (int time = 0; name && time < 3; time++) named(name);
}

/* By whatever it is asked. */
#define IS(fd, name, field, expected) \
    do { \
        CHECK_EQ(of(fd).field, expected); \
        CHECK_EQ(named(name).field, expected); \
        CHECK_EQ(of(fd).field, expected); \
    } while (0)

static void own_writes(void)
{
    int fd = used("own");
    long size = LARGE;
    struct iovec pieces[2] = {{block, 10}, {block, 20}};
    for (int round = 0; round < 3 * 8; round++) {
        /* By the descriptor, by the name, or by both. */
        if (round % 3 != 1) of(fd), of(fd);
        if (round % 3 != 0) named("own"), named("own");
        switch (round / 3) {
        case 0: CHECK_EQ(pwrite(fd, block, 7, size), 7); break;
        case 1:
            CHECK_EQ(lseek(fd, 0, SEEK_END), size);
            if (round % 3) named("own");
            else of(fd);
            CHECK_EQ(write(fd, block, 9), 9);
            break;
        case 2: CHECK_EQ(pwritev(fd, pieces, 2, size), 30); break;
        case 3: CHECK_EQ(ftruncate(fd, size + 5000), 0); break;
        case 4: CHECK_EQ(fallocate(fd, 0, size, 3000), 0); break;
        case 5: CHECK_EQ(ftruncate(fd, size - 6000), 0); break;
        case 6: CHECK_EQ(truncate("own", size - 1), 0); break;
        default: CHECK_EQ(pwrite(fd, block, 4096, size), 4096); break;
        }
        size += (const long[]){7, 9, 30, 5000, 3000, -6000, -1, 4096}[round / 3];
        if (round & 1) {
            IS(fd, "own", st_size, size);
        } else {
            CHECK_EQ(named("own").st_size, size);
            CHECK_EQ(of(fd).st_size, size);
        }
    }
    /* Within the file: when. */
    for (int round = 0; round < 4; round++) {
        ask(fd, "own");
        struct stat before = named("own");
        moment();
        ask(fd, "own");
        CHECK_EQ(pwrite(fd, block, 10, 0), 10);
        struct stat behind = round & 1 ? of(fd) : named("own");
        CHECK(behind.st_mtim.tv_sec > before.st_mtim.tv_sec || behind.st_mtim.tv_nsec > before.st_mtim.tv_nsec);
        CHECK(memcmp(&behind.st_mtim, &behind.st_ctim, sizeof behind.st_mtim) == 0);
    }
    /* By another descriptor: a copy of it, and an open file of its own. */
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int copy = dup(fd), other = open(link, O_RDWR);
    MUST(copy >= 0 && other >= 0);
    size = of(fd).st_size;
    for (int round = 0; round < 30; round++) {
        ask(fd, "own");
        CHECK_EQ(pwrite(round & 1 ? copy : other, block, 11, size), 11);
        size += 11;
        CHECK_EQ(of(fd).st_size, size);
        ask(fd, "own");
        CHECK_EQ(pwrite(round & 1 ? copy : other, block, 11, size), 11);
        size += 11;
        CHECK_EQ(named("own").st_size, size);
    }
    /* Where it stands is asked of it, not of what was known. */
    CHECK_EQ(lseek(fd, 5, SEEK_SET), 5);
    ask(fd, "own");
    CHECK_EQ(lseek(copy, 0, SEEK_CUR), 5);
    CHECK_EQ(read(copy, block, 3), 3);
    of(fd);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 8);
    of(fd);
    CHECK_EQ(lseek(fd, 0, SEEK_END), size);
    /* What is closed is closed. */
    close(copy), close(other);
    of(fd), of(fd);
    CHECK_EQ(close(fd), 0);
    CHECK_ERR(fstat(fd, &(struct stat){0}), EBADF);
    CHECK_ERR(pread(fd, block, 1, 0), EBADF);
    CHECK_EQ(open("own", O_RDONLY), fd);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_EQ(of(fd).st_size, size);
    CHECK_ERR(write(fd, block, 1), EBADF);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(open("own", O_RDONLY), fd);
    CHECK_EQ(read(fd, block, 4096), 4096);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4096);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(open("own", O_RDONLY), fd);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_EQ(close(fd), 0);
}

static void memory(void)
{
    int fd = used("memory");
    CHECK_EQ(ftruncate(fd, 1 << 20), 0);
    ask(fd, "memory");
    char *page = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(page != MAP_FAILED);
    for (int round = 0; round < 4; round++) {
        struct stat before = of(fd);
        ask(fd, "memory");
        memset(page + LARGE + (round + 1) * 65536, 'x', 65536);
        if (round & 1) CHECK_EQ(msync(page, 1 << 20, MS_SYNC), 0);
        CHECK(of(fd).st_blocks > before.st_blocks);
        CHECK(named("memory").st_blocks > before.st_blocks);
    }
    munmap(page, 1 << 20);
    close(fd);
}

/* Whether reading a file moves its time of access depends on how it is mounted. */
static void reading(void)
{
    const struct timespec times[2] = {{1000, 0}, {2000, 0}};
    bool moves = false;
    for (int round = 0; round < 4; round++) {
        int fd = used("reading");
        CHECK_EQ(futimens(fd, times), 0);
        if (round) {
            ask(fd, "reading");
            CHECK_EQ(of(fd).st_atime, 1000);
        }
        CHECK_EQ(pread(fd, block, 100, 0), 100);
        if (round == 0) moves = named("reading").st_atime != 1000;
        else if (round & 1) CHECK_EQ(named("reading").st_atime != 1000, moves);
        else CHECK_EQ(of(fd).st_atime != 1000, moves);
        close(fd);
    }
    /* By others. */
    for (int round = 0; round < 4; round++) {
        int fd = used("reading");
        CHECK_EQ(futimens(fd, times), 0);
        tell(0);
        pid_t child = child_fork();
        if (child == 0) {
            close(fd);
            int own = open("reading", O_RDONLY);
            await(1);
            CHECK_EQ(read(own, block, 100), 100);
            tell(2);
            child_exit();
        }
        if (round & 1) of(fd), of(fd);
        else named("reading"), named("reading");
        tell(1);
        await(2);
        if (round & 1) CHECK_EQ(of(fd).st_atime != 1000, moves);
        else CHECK_EQ(named("reading").st_atime != 1000, moves);
        close(fd);
        CHECK_CHILD(child);
    }
    /* A small one. */
    for (int round = 0; round < 4; round++) {
        int fd = open("little", O_RDWR | O_CREAT | O_TRUNC, 0644);
        MUST(fd >= 0 && write(fd, block, 100) == 100 && futimens(fd, times) == 0 && close(fd) == 0);
        if (round & 1) named("little"), named("little");
        fd = open("little", O_RDONLY);
        if (round & 2) of(fd), of(fd), named("little"), named("little");
        CHECK_EQ(read(fd, block, 10), 10);
        if (round & 1) CHECK_EQ(named("little").st_atime != 1000, moves);
        else CHECK_EQ(of(fd).st_atime != 1000, moves);
        close(fd);
    }
}

/* Somebody else makes the file longer, often enough to do it by himself, too. */
static void grows(int fd, const char *name, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        long size = of(fd).st_size;
        if (round & 1) ask(fd, NULL);
        else named(name), named(name);
        tell(2 * round + 1);
        await(2 * round + 2);
        if (round & 1) CHECK_EQ(of(fd).st_size, size + 10);
        else CHECK_EQ(named(name).st_size, size + 10);
    }
}

static void make_longer(int fd, int rounds)
{
    for (int round = 0; round < rounds; round++) {
        await(2 * round + 1);
        CHECK_EQ(pwrite(fd, block, 10, lseek(fd, 0, SEEK_END)), 10);
        tell(2 * round + 2);
    }
}

enum { ROUNDS = 24 };

static void *thread_writes(void *fd)
{
    make_longer(*(int *)fd, ROUNDS);
    return NULL;
}

static void others_write(void)
{
    for (int kind = 0; kind < 4; kind++) {
        int fd = used("others"), ends[2];
        MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, ends) == 0);
        tell(0);
        if (kind == 3) {
            pthread_t thread;
            ask(fd, "others");
            MUST(pthread_create(&thread, NULL, thread_writes, &fd) == 0);
            grows(fd, "others", ROUNDS);
            pthread_join(thread, NULL);
            ask(fd, "others");
            close(ends[0]), close(ends[1]), close(fd);
            continue;
        }
        pid_t child = child_fork();
        if (child == 0) {
            int own = fd;
            if (kind == 1) own = open("others", O_RDWR);
            if (kind == 2) {
                close(fd);
                union { char space[CMSG_SPACE(sizeof fd)]; struct cmsghdr align; } control = {0};
                char data;
                struct iovec piece = {&data, 1};
                struct msghdr message = {
                    .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
                CHECK_EQ(recvmsg(ends[1], &message, 0), 1);
                memcpy(&own, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof own);
            }
            make_longer(own, ROUNDS);
            child_exit();
        }
        if (kind == 2) {
            union { char space[CMSG_SPACE(sizeof fd)]; struct cmsghdr align; } control = {0};
            char data = 0;
            struct iovec piece = {&data, 1};
            struct msghdr message = {
                .msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
            struct cmsghdr *header = CMSG_FIRSTHDR(&message);
            header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof fd);
            memcpy(CMSG_DATA(header), &fd, sizeof fd);
            ask(fd, "others");
            CHECK_EQ(sendmsg(ends[0], &message, 0), 1);
        }
        grows(fd, "others", ROUNDS);
        CHECK_CHILD(child);
        close(ends[0]), close(ends[1]), close(fd);
    }
}

/* Each change that somebody else can make to the file or to its names. */
static void others_change(void)
{
    enum { MODE, TIMES, LINKS, UNLINKS, RENAMES, REPLACES, CUTS, HOLE, KINDS };
    const struct timespec times[2] = {{1000, 0}, {2000, 0}};
    struct stat status;
    for (int kind = 0; kind < 2 * KINDS; kind++) {
        int fd = used("changes");
        close(used("instead"));
        unlink("changes.new");
        tell(0);
        pid_t child = child_fork();
        if (child == 0) {
            close(fd);
            await(1);
            switch (kind / 2) {
            case MODE: CHECK_EQ(chmod("changes", 0600), 0); break;
            case TIMES: CHECK_EQ(utimensat(AT_FDCWD, "changes", times, 0), 0); break;
            case LINKS: CHECK_EQ(link("changes", "changes.new"), 0); break;
            case UNLINKS: CHECK_EQ(unlink("changes"), 0); break;
            case RENAMES: CHECK_EQ(rename("changes", "changes.new"), 0); break;
            case REPLACES: CHECK_EQ(rename("instead", "changes"), 0); break;
            case CUTS: CHECK_EQ(truncate("changes", 3), 0); break;
            case HOLE:
                fd = open("changes", O_WRONLY);
                CHECK_EQ(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, LARGE), 0);
                break;
            }
            tell(2);
            child_exit();
        }
        struct stat before = of(fd);
        if (kind & 1) of(fd), of(fd);
        else named("changes"), named("changes");
        tell(1);
        await(2);
        if (kind & 1) {
            status = of(fd);
        } else if (kind / 2 == UNLINKS || kind / 2 == RENAMES) {
            CHECK_ERR(stat("changes", &status), ENOENT);
            status = of(fd);
        } else if (kind / 2 == REPLACES) {
            CHECK(named("changes").st_ino != before.st_ino);
            status = of(fd);
        } else {
            status = named("changes");
        }
        switch (kind / 2) {
        case MODE: CHECK_EQ(status.st_mode & 07777, 0600); break;
        case TIMES: CHECK_EQ(status.st_mtime, 2000); break;
        case LINKS: CHECK_EQ(status.st_nlink, 2); break;
        case UNLINKS:
        case REPLACES: CHECK_EQ(status.st_nlink, 0); break;
        case CUTS: CHECK_EQ(status.st_size, 3); break;
        case HOLE: CHECK(status.st_blocks < before.st_blocks); break;
        }
        CHECK_CHILD(child);
        close(fd);
    }
}

/* Who opens the file once more and closes that gives back what he has locked of it; who watches it hears of it. */
static void closing_matters(void)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    for (int round = 0; round < 3; round++) {
        int fd = used("closing");
        CHECK_EQ(close(open("closing", O_RDONLY)), 0);
        tell(0);
        CHECK_EQ(fcntl(fd, F_SETLK, &lock), 0);
        pid_t child = child_fork();
        if (child == 0) {
            int own = open("closing", O_RDWR);
            tell(1);
            CHECK_EQ(fcntl(own, F_SETLKW, &lock), 0);
            tell(2);
            child_exit();
        }
        await(1);
        CHECK_EQ(close(open("closing", O_RDONLY)), 0);
        await(2);
        CHECK_CHILD(child);
        close(fd);
    }
    for (int round = 0; round < 3; round++) {
        int fd = used("closing");
        tell(0);
        pid_t child = child_fork();
        if (child == 0) {
            close(fd);
            int list = inotify_init1(IN_NONBLOCK);
            await(1);
            MUST(inotify_add_watch(list, "closing", IN_MODIFY | IN_CLOSE_NOWRITE | IN_OPEN) > 0);
            tell(2);
            await(3);
            struct inotify_event events[8] = {0};
            CHECK_EQ(read(list, events, sizeof events), 3 * (long)sizeof *events);
            CHECK(events[0].mask == IN_OPEN && events[1].mask == IN_CLOSE_NOWRITE && events[2].mask == IN_MODIFY);
            child_exit();
        }
        CHECK_EQ(close(open("closing", O_RDONLY)), 0);
        CHECK_EQ(close(open("closing", O_RDONLY)), 0);
        tell(1);
        await(2);
        int own = open("closing", O_RDONLY);
        CHECK_EQ(close(own), 0);
        CHECK_EQ(pwrite(fd, block, 1, 0), 1);
        tell(3);
        CHECK_CHILD(child);
        close(fd);
    }
    /* Nobody is found to write what has been closed. */
    for (int round = 0; round < 3; round++) {
        int fd = used("program");
        CHECK_EQ(fchmod(fd, 0755), 0);
        CHECK_EQ(ftruncate(fd, 0), 0);
        CHECK_EQ(pwrite(fd, "#!/bin/true\n", 12, 0), 12);
        tell(0);
        pid_t child = fork();
        if (child == 0) {
            close(fd);
            alarm(30);
            await(1);
            execl("program", "program", NULL);
            _exit(errno);
        }
        of(fd), of(fd);
        if (round) {
            int own = open("program", O_RDWR);
            CHECK_EQ(close(fd), 0);
            of(own), of(own);
            CHECK_EQ(close(own), 0);
        } else {
            CHECK_EQ(close(fd), 0);
        }
        tell(1);
        CHECK_EQ(wait_status(child), 0);
    }
}

static int is_there(const char *name)
{
    struct stat status;
    return stat(name, &status) == 0 ? 0 : errno;
}

static int directories[2];

/* In `names`, by another thread, with calls that change no file. */
static void *moves(void *unused)
{
    await(1);
    CHECK_EQ(dup2(directories[0], 70), 70);
    tell(2);
    await(3);
    CHECK_EQ(dup2(directories[1], directories[0]), directories[0]);
    tell(4);
    await(5);
    CHECK_EQ(chdir("two"), 0);
    tell(6);
    return unused;
}

/* The names that are asked about become others. */
static void names(void)
{
    enum { CREATES, MAKES, LINKS, RENAMES, SWAPS, DIRECTORY, MODES, ABOVE, KINDS };
    struct stat status;
    CHECK_EQ(mkdir("names", 0755), 0);
    CHECK_EQ(mkdir("names/one", 0755), 0);
    CHECK_EQ(mkdir("names/two", 0755), 0);
    close(used("names/one/file")), close(used("names/two/file"));
    CHECK_EQ(truncate("names/one/file", 1), 0);
    CHECK_EQ(truncate("names/two/file", 2), 0);
    for (int kind = 0; kind < KINDS; kind++) {
        unlink("names/new"), rmdir("names/new");
        unlink("names/link");
        CHECK_EQ(symlink("one", "names/link"), 0);
        CHECK_EQ(symlink("two", "names/link.new"), 0);
        CHECK_EQ(chmod("names/one/file", 0644), 0);
        tell(0);
        pid_t child = child_fork();
        if (child == 0) {
            await(1);
            switch (kind) {
            case CREATES: close(open("names/new", O_CREAT | O_WRONLY, 0644)); break;
            case MAKES: CHECK_EQ(mkdir("names/new", 0755), 0); break;
            case LINKS: CHECK_EQ(link("names/one/file", "names/new"), 0); break;
            case RENAMES: CHECK_EQ(rename("names/link.new", "names/new"), 0); break;
            case SWAPS: CHECK_EQ(rename("names/link.new", "names/link"), 0); break;
            case DIRECTORY:
                CHECK_EQ(rename("names/one", "names/three"), 0);
                CHECK_EQ(rename("names/two", "names/one"), 0);
                CHECK_EQ(rename("names/three", "names/two"), 0);
                break;
            case MODES: CHECK_EQ(chmod("names/one/file", 0755), 0); break;
            case ABOVE: CHECK_EQ(rename("names", "above"), 0); break;
            }
            tell(2);
            child_exit();
        }
        const char *name = kind < SWAPS ? "names/new" : kind == SWAPS ? "names/link/file" : "names/one/file";
        for (int time = 0; time < 3; time++) {
            CHECK_EQ(is_there(name), kind < SWAPS ? ENOENT : 0);
            if (kind == MODES) CHECK_ERR(access(name, X_OK), EACCES);
            if (kind == ABOVE) CHECK_EQ(faccessat(AT_FDCWD, name, F_OK, 0), 0);
        }
        tell(1);
        await(2);
        switch (kind) {
        case CREATES:
        case MAKES:
        case LINKS:
        case RENAMES: CHECK_EQ(is_there(name), 0); break;
        case SWAPS: CHECK_EQ(named(name).st_size, 2); break;
        case DIRECTORY: CHECK_EQ(named(name).st_size, 2); break;
        case MODES: CHECK_EQ(access(name, X_OK), 0); break;
        case ABOVE: CHECK_ERR(faccessat(AT_FDCWD, name, F_OK, 0), ENOENT); break;
        }
        CHECK_CHILD(child);
        unlink("names/link.new");
    }
    CHECK_EQ(rename("above", "names"), 0);
    /* Other directories: the working one, one behind a descriptor, none. */
    CHECK_EQ(mkdir("names/file", 0755), 0);
    for (int time = 0; time < 3; time++) CHECK_EQ(is_there("one/file"), ENOENT);
    CHECK_EQ(chdir("names"), 0);
    CHECK_EQ(is_there("one/file"), 0);
    CHECK_EQ(chdir("one"), 0);
    for (int time = 0; time < 3; time++) CHECK(S_ISREG(named("file").st_mode));
    CHECK_EQ(chdir(".."), 0);
    for (int time = 0; time < 3; time++) CHECK(S_ISDIR(named("file").st_mode));
    int one = open("one", O_RDONLY | O_DIRECTORY), two = open("two", O_RDONLY | O_DIRECTORY);
    for (int round = 0; round < 4; round++) {
        MUST(fstatat(one, "file", &status, 0) == 0 && fstatat(one, "file", &status, 0) == 0);
        struct stat other;
        MUST(fstatat(two, "file", &other, 0) == 0);
        CHECK(other.st_ino != status.st_ino);
        MUST(fstatat(one, "file", &other, 0) == 0);
        CHECK_EQ(other.st_ino, status.st_ino);
        MUST(fstatat(one, "../two/file", &other, 0) == 0 && dup2(two, one) == one);
        MUST(fstatat(one, "file", &status, 0) == 0);
        CHECK_EQ(other.st_ino, status.st_ino);
        close(one);
        CHECK_ERR(fstatat(one, "file", &status, 0), EBADF);
        CHECK_EQ(open("one", O_RDONLY | O_DIRECTORY), one);
    }
    directories[0] = one, directories[1] = two;
    tell(0);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, moves, NULL) == 0);
    for (int time = 0; time < 3; time++) CHECK_EQ(is_there("/dev/fd/70"), ENOENT);
    tell(1);
    await(2);
    CHECK_EQ(is_there("/dev/fd/70"), 0);
    close(70);
    for (int time = 0; time < 3; time++) MUST(fstatat(one, "file", &status, 0) == 0);
    tell(3);
    await(4);
    struct stat moved;
    MUST(fstatat(one, "file", &moved, 0) == 0);
    CHECK(moved.st_ino != status.st_ino);
    for (int time = 0; time < 3; time++) CHECK(S_ISDIR(named("file").st_mode));
    tell(5);
    await(6);
    CHECK(S_ISREG(named("file").st_mode));
    pthread_join(thread, NULL);
    CHECK_EQ(chdir(".."), 0);
    close(one), close(two);
    /* With links, without, of what is no directory. */
    CHECK_EQ(fstatat(AT_FDCWD, "link", &status, 0), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_EQ(fstatat(AT_FDCWD, "link", &status, AT_SYMLINK_NOFOLLOW), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_EQ(fstatat(AT_FDCWD, "link", &status, 0), 0);
    CHECK(S_ISDIR(status.st_mode));
    for (int time = 0; time < 3; time++) {
        CHECK_EQ(is_there("one/file/more"), ENOTDIR);
        CHECK_EQ(is_there(""), ENOENT);
        CHECK_ERR(stat("one", (struct stat *)8), EFAULT);
        CHECK_ERR(stat((char *)8, &status), EFAULT);
        CHECK_ERR(access("one", 8), EINVAL);
        CHECK_EQ(access("one", R_OK | X_OK), 0);
    }
    CHECK_EQ(chdir(".."), 0);
    /* What comes and goes by itself. */
    char name[64];
    tell(0);
    pid_t child = child_fork();
    if (child == 0) {
        await(1);
        child_exit();
    }
    snprintf(name, sizeof name, "/proc/%d/fd", child);
    for (int time = 0; time < 3; time++) CHECK_EQ(is_there(name), 0);
    tell(1);
    CHECK_CHILD(child);
    for (int time = 0; time < 2; time++) CHECK_EQ(is_there(name), ENOENT);
    tell(0);
    child = child_fork();
    if (child == 0) {
        setrlimit(RLIMIT_CORE, &(struct rlimit){0, 0});
        tell(1);
        await(2);
        *(volatile int *)8 = 0;
    }
    await(1);
    snprintf(name, sizeof name, "/proc/%d/cwd/names", child);
    for (int time = 0; time < 3; time++) CHECK_EQ(access(name, F_OK), 0);
    tell(2);
    time_t begin = time(NULL);
    while (access(name, F_OK) == 0 && time(NULL) < begin + 20) continue;
    CHECK_ERR(access(name, F_OK), ENOENT);
    CHECK_EQ(wait_status(child), SIGSEGV);
    tell(0);
    child = child_fork();
    if (child == 0) {
        await(1);
        CHECK_EQ(dup2(0, 80), 80);
        tell(2);
        await(3);
        child_exit();
    }
    snprintf(name, sizeof name, "/proc/%d/fd/80", child);
    for (int time = 0; time < 3; time++) CHECK_EQ(is_there(name), ENOENT);
    tell(1);
    await(2);
    CHECK_EQ(is_there(name), 0);
    tell(3);
    CHECK_CHILD(child);
    int fd = open("names/one/file", O_RDONLY);
    for (int time = 0; time < 3; time++) CHECK_EQ(is_there("/dev/fd/70"), ENOENT);
    CHECK_EQ(dup2(fd, 70), 70);
    CHECK_EQ(is_there("/dev/fd/70"), 0);
    CHECK_EQ(is_there("/dev/fd/70"), 0);
    close(70);
    CHECK_EQ(is_there("/dev/fd/70"), ENOENT);
    close(fd);
}

/* What only root can do, natively where nobody else sees it. */
static void mounts_and_ids(void)
{
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(mkdir("mounted", 0700), 0);
        close(used("mounted/file"));
        if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0) {
            for (int time = 0; time < 3; time++) CHECK_EQ(is_there("mounted/file"), 0);
            if (mount("tmpfs", "mounted", "tmpfs", 0, NULL) == 0) {
                CHECK_EQ(is_there("mounted/file"), ENOENT);
                CHECK_EQ(is_there("mounted/file"), ENOENT);
                CHECK_EQ(umount("mounted"), 0);
                CHECK_EQ(is_there("mounted/file"), 0);
            }
        }
        for (int time = 0; time < 3; time++) CHECK_EQ(access("mounted/file", R_OK), 0);
        if (geteuid() == 0) {
            CHECK_EQ(setresuid(65534, 65534, 0), 0);
            CHECK_ERR(access("mounted/file", R_OK), EACCES);
            CHECK_EQ(is_there("mounted/file"), EACCES);
            CHECK_EQ(setresuid(0, 0, 0), 0);
            CHECK_EQ(is_there("mounted/file"), 0);
        }
        child_exit();
    }
    CHECK_CHILD(child);
}

static void flags(void)
{
    int fd = used("flags");
    for (int time = 0; time < 3; time++) {
        of(fd);
        CHECK_EQ(fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE), O_RDWR);
    }
    CHECK_EQ(fcntl(fd, F_SETFL, O_APPEND), 0);
    for (int time = 0; time < 3; time++) {
        of(fd);
        CHECK_EQ(fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE), O_RDWR | O_APPEND);
        long size = of(fd).st_size;
        CHECK_EQ(pwrite(fd, block, 5, 0), 5);
        CHECK_EQ(of(fd).st_size, size + 5);
    }
    CHECK_EQ(fcntl(fd, F_SETFD, FD_CLOEXEC), 0);
    of(fd);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
}

int main(void)
{
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(word != MAP_FAILED);
    own_writes();
    memory();
    reading();
    others_write();
    others_change();
    closing_matters();
    names();
    mounts_and_ids();
    flags();
    return check_result();
}
