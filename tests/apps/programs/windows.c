/* What is read again and again by pread(2), behind each change of the file, whoever makes it. Nothing but memory tells what
 * others have done. With arguments: "hold" reads a file often, and waits for a line; closes it, and waits once more; "follow" says
 * for each line what is there. */
#include "check.h"
#include "turns.h"
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>

enum { SIZE = 5 * 4096 - 480, SHORT = 5000, OFTEN = 300, FILES = 40, ROUNDS = 2000 };

static char block[SIZE + 4096];

static void fill(int fd, char with)
{
    memset(block, with, SIZE);
    MUST(pwrite(fd, block, SIZE, 0) == SIZE);
}

static void read_often(int fd)
{
    char data[512];
    for (int time = 0; time < OFTEN; time++) MUST(pread(fd, data, sizeof data, time * 60) == sizeof data);
}

/* A file that has been read often. */
static int made(const char *name, char with)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    MUST(fd >= 0);
    fill(fd, with);
    read_often(fd);
    return fd;
}

/* From `start` on there are `there` bytes of `count`, and all of them are `with`. */
#define IS(fd, start, count, there, with) \
    do { \
        memset(block, '!', sizeof block); \
        CHECK_EQ(pread(fd, block, count, start), there); \
        CHECK_EQ(strspn_of(with), there); \
    } while (0)

static long strspn_of(char with)
{
    long length = 0;
    while (length < (long)sizeof block && block[length] == with) length++;
    return length;
}

static void is_short(int fd)
{
    IS(fd, 4096, 4096, SHORT - 4096, 'x');
    IS(fd, SHORT - 1, 100, 1, 'x');
    IS(fd, SHORT, 100, 0, 'x');
    IS(fd, 3 * 4096, 4096, 0, 'x');
    IS(fd, 0, SIZE, SHORT, 'x');
}

/* And what comes when it is long again. */
static void is_long_again(int fd)
{
    IS(fd, 0, 4096, 4096, 'x');
    IS(fd, SHORT, SIZE - SHORT, SIZE - SHORT, 0);
    read_often(fd);
    IS(fd, SHORT, 4096, 4096, 0);
}

static void own_changes(void)
{
    for (int how = 0; how < 6; how++) {
        int fd = made("own", 'x');
        unlink("link");
        MUST(link("own", "link") == 0);
        int other = how == 3 ? dup(fd) : how == 4 ? open("link", O_RDWR) : fd;
        switch (how) {
        case 0: CHECK_EQ(ftruncate(fd, SHORT), 0); break;
        case 1: CHECK_EQ(truncate("own", SHORT), 0); break;
        case 2: CHECK_EQ(truncate("link", SHORT), 0); break;
        case 3:
        case 4: CHECK_EQ(ftruncate(other, SHORT), 0); break;
        default:
            close(open("link", O_WRONLY | O_TRUNC));
            IS(fd, 0, 4096, 0, 'x');
            memset(block, 'x', SHORT);
            CHECK_EQ(pwrite(fd, block, SHORT, 0), SHORT);
        }
        is_short(fd);
        CHECK_EQ(ftruncate(other, SIZE), 0);
        is_long_again(fd);
        if (other != fd) close(other);
        close(fd);
    }
}

static void growth_and_writes(void)
{
    int fd = made("grows", 'x');
    for (int round = 0; round < 200; round++) {
        memset(block, 'a' + round % 20, 100);
        CHECK_EQ(pwrite(fd, block, 100, SIZE + round * 100), 100);
        IS(fd, SIZE + round * 100, 200, 100, 'a' + round % 20);
        memset(block, 'A' + round % 20, 1000);
        CHECK_EQ(pwrite(fd, block, 1000, 300), 1000);
        IS(fd, 300, 1000, 1000, 'A' + round % 20);
    }
    struct iovec piece = {block, 100};
    for (int time = 0; time < OFTEN; time++) {
        CHECK_EQ(preadv(fd, &piece, 1, 300), 100);
        CHECK_EQ(block[0], 'A' + 199 % 20);
    }
    for (int time = 0; time < OFTEN; time++) IS(fd, SIZE + 199 * 100, 100, 100, 'a' + 199 % 20);
    void *mapped = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(mapped != MAP_FAILED);
    memset(mapped, 'm', 2000);
    IS(fd, 0, 2000, 2000, 'm');
    munmap(mapped, SIZE);
    close(fd);
}

static void others_change(void)
{
    int fd = made("others", 'x');
    unlink("others-link");
    MUST(link("others", "others-link") == 0);
    tell(0);
    pid_t child = child_fork();
    if (child == 0) {
        int own = open("others-link", O_RDWR);
        MUST(own >= 0);
        read_often(own);
        tell(1);
        await(2);
        CHECK_EQ(ftruncate(own, SHORT), 0);
        tell(3);
        await(4);
        CHECK_EQ(ftruncate(own, SIZE), 0);
        tell(5);
        for (int round = 0; round < 100; round++) {
            await(10 + 2 * round);
            memset(block, 'a' + round % 26, 3000);
            CHECK_EQ(pwrite(own, block, 3000, 1000), 3000);
            tell(11 + 2 * round);
        }
        child_exit();
    }
    await(1);
    read_often(fd);
    tell(2);
    await(3);
    is_short(fd);
    tell(4);
    await(5);
    is_long_again(fd);
    for (int round = 0; round < 100; round++) {
        tell(10 + 2 * round);
        await(11 + 2 * round);
        IS(fd, 1000, 3000, 3000, 'a' + round % 26);
    }
    CHECK_CHILD(child);
    close(fd);
}

static void holes(void)
{
    int fd = open("holes", O_RDWR | O_CREAT | O_TRUNC, 0644);
    MUST(fd >= 0 && ftruncate(fd, 64 << 20) == 0);
    for (int time = 0; time < 2 * OFTEN; time++) IS(fd, time * 4096L * 7, 4096, 4096, 0);
    struct stat status;
    MUST(fstat(fd, &status) == 0);
    CHECK(status.st_blocks < 100);
    close(fd);
    fd = made("holes", 'x');
    if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 8192) == 0) {
        IS(fd, 4096, 8192, 8192, 0);
        for (int time = 0; time < OFTEN; time++) MUST(pread(fd, block, 100, 5000) == 100);
        MUST(fstat(fd, &status) == 0);
        CHECK(status.st_blocks <= 24);
        IS(fd, 0, 4096, 4096, 'x');
    }
    close(fd);
}

static void forks(void)
{
    int fd = made("before", 'x');
    pid_t child = child_fork();
    if (child == 0) {
        IS(fd, 0, 4096, 4096, 'x');
        close(fd);
        int other = made("after", 'y');
        CHECK_EQ(other, fd);
        IS(other, 0, 4096, 4096, 'y');
        CHECK_EQ(ftruncate(other, 100), 0);
        IS(other, 0, 4096, 100, 'y');
        child_exit();
    }
    read_often(fd);
    CHECK_CHILD(child);
    IS(fd, 0, 4096, 4096, 'x');
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    int copy = dup(fd);
    CHECK_EQ(read(copy, block, 1000), 1000);
    read_often(copy);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1000);
    close(copy);
    close(fd);
}

static void many_files(void)
{
    int files[FILES];
    char name[20];
    for (int one = 0; one < FILES; one++) {
        snprintf(name, sizeof name, "many%d", one);
        files[one] = made(name, '0' + one);
    }
    for (int time = 0; time < 4 * OFTEN; time++) {
        int one = time * 7 % FILES;
        IS(files[one], time, 2000, 2000, '0' + one);
    }
    /* The numbers are others' now. */
    for (int one = 0; one < FILES; one++) close(files[one]);
    for (int one = 0; one < FILES; one++) {
        snprintf(name, sizeof name, "many%d", FILES - 1 - one);
        files[one] = open(name, O_RDONLY);
        for (int time = 0; time < OFTEN; time++) IS(files[one], time, 500, 500, '0' + FILES - 1 - one);
    }
    for (int one = 0; one < FILES; one++) close(files[one]);
    for (int round = 0; round < 30; round++) {
        int fd = made("again", 'a' + round % 26);
        IS(fd, 0, 4096, 4096, 'a' + round % 26);
        close(fd);
    }
}

static int raced;
static atomic_int phase;

/* Reads `raced` all the time: of one of both files, and only of one. */
static void *read_one_of_two(void *unused)
{
    char data[4096];
    while (atomic_load(&phase) == 0) {
        ssize_t count = pread(raced, data, sizeof data, 4096);
        int error = count == -1 ? errno : 0;
        if (count != sizeof data) CHECK_EQ(error, EBADF);
        for (ssize_t at = 1; at < count; at++) {
            if (data[at] != data[0]) {
                CHECK_FAIL("%c and %c at %zd", data[0], data[at], at);
                return unused;
            }
        }
        if (count > 0) CHECK(data[0] == 'x' || data[0] == 'y');
    }
    return unused;
}

static void threads_close(void)
{
    pthread_t threads[2];
    raced = made("one", 'x');
    int other = made("two", 'y');
    phase = 0;
    for (int one = 0; one < 2; one++) MUST(pthread_create(&threads[one], NULL, read_one_of_two, NULL) == 0);
    for (int round = 0; round < ROUNDS / 4; round++) {
        if (round % 3 == 0) {
            CHECK_EQ(dup2(other, raced), raced);
        } else {
            CHECK_EQ(close(raced), 0);
            CHECK_EQ(open(round % 2 ? "one" : "two", O_RDONLY), raced);
        }
        read_often(raced);
    }
    phase = 1;
    for (int one = 0; one < 2; one++) pthread_join(threads[one], NULL);
    close(raced);
    close(other);
}

/* While `phase` is odd the file is short, and from 4 * ROUNDS on it changes. */
static void *read_what_shrinks(void *unused)
{
    char data[4096];
    for (;;) {
        int before = atomic_load(&phase);
        if (before < 0) return unused;
        ssize_t count = pread(raced, data, sizeof data, 4096);
        if (before >= 4 * ROUNDS || atomic_load(&phase) != before) continue;
        CHECK_EQ(count, before % 2 ? SHORT - 4096 : (int)sizeof data);
        for (ssize_t at = 0; at < SHORT - 4096; at++) CHECK(data[at] == 'x');
    }
}

static void threads_shrink(void)
{
    pthread_t thread;
    raced = made("shrinks", 'x');
    phase = 0;
    MUST(pthread_create(&thread, NULL, read_what_shrinks, NULL) == 0);
    for (int round = 0; round < ROUNDS; round += 2) {
        atomic_store(&phase, 4 * ROUNDS + round);
        CHECK_EQ(ftruncate(raced, SHORT), 0);
        atomic_store(&phase, round + 1);
        sched_yield();
        atomic_store(&phase, 4 * ROUNDS + round);
        fill(raced, 'x');
        atomic_store(&phase, round + 2);
        if (round % 16 == 0) read_often(raced);
    }
    atomic_store(&phase, -1);
    pthread_join(thread, NULL);
    close(raced);
}

static void odd_arguments(void)
{
    int fd = made("odd", 'x');
    char *pages = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(pages != MAP_FAILED && munmap(pages + 4096, 4096) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK_ERR(pread(fd, pages + 4096, 100, 0), EFAULT);
        CHECK_EQ(pread(fd, pages + 3996, 200, 0), 100);
        CHECK_ERR(pread(fd, (void *)0x7fffffffff00, 4096, 0), EFAULT);
        CHECK_ERR(pread(fd, block, 100, -1), EINVAL);
        CHECK_ERR(pread(fd, block, 100, INT64_MIN), EINVAL);
        CHECK_EQ(pread(fd, block, 100, INT64_MAX - 200), 0);
        CHECK_EQ(pread(fd, block, 0, 0), 0);
        IS(fd, 0, 4096, 4096, 'x');
    }
    close(fd);
    fd = open("odd", O_WRONLY);
    CHECK_ERR(pread(fd, block, 100, 0), EBADF);
    close(fd);
}

static void time_of_access(void)
{
    int fd = made("access", 'x');
    for (int round = 0; round < 5; round++) {
        moment();
        CHECK_EQ(pwrite(fd, block, 10, 0), 10);
        moment();
        MUST(pread(fd, block, 10, 0) == 10);
        struct stat status;
        MUST(fstat(fd, &status) == 0);
        long between = status.st_atim.tv_sec - status.st_mtim.tv_sec;
        CHECK(between > 0 || (between == 0 && status.st_atim.tv_nsec > status.st_mtim.tv_nsec));
    }
    close(fd);
}

/* Neither seen nor counted. */
static void address_space(void)
{
    int fd = made("space", 'x');
    FILE *maps = fopen("/proc/self/maps", "r");
    unsigned long start;
    char line[1000];
    MUST(maps);
    while (fgets(line, sizeof line, maps)) {
        MUST(sscanf(line, "%lx", &start) == 1);
        CHECK(start < 0x700000000000 || start >= 0x702000000000);
    }
    fclose(maps);
    pid_t child = child_fork();
    if (child == 0) {
        int own = made("space-too", 'y');
        long pages;
        FILE *statm = fopen("/proc/self/statm", "r");
        MUST(statm && fscanf(statm, "%ld", &pages) == 1);
        fclose(statm);
        struct rlimit limit = {pages * 4096 + (8 << 20), RLIM_INFINITY};
        CHECK_EQ(setrlimit(RLIMIT_AS, &limit), 0);
        read_often(own);
        read_often(fd);
        CHECK(mmap(NULL, 4 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
        CHECK(mmap(NULL, 12 << 20, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED);
        child_exit();
    }
    CHECK_CHILD(child);
    close(fd);
}

static int hold(const char *name)
{
    int fd = open(name, O_RDONLY);
    MUST(fd >= 0);
    for (int waits = 0; waits < 2; waits++) {
        if (waits == 0) read_often(fd);
        else close(fd), close(open("/dev/null", O_RDONLY));
        MUST(write(1, "now\n", 4) == 4 && read(0, block, 10) > 0);
    }
    return 0;
}

/* For each line: how much of a piece is there. */
static int follow(const char *name)
{
    int fd = open(name, O_RDONLY);
    MUST(fd >= 0);
    while (read(0, block, 3) == 3) {
        for (int time = 0; time < OFTEN; time++) MUST(pread(fd, block, 100, 0) == 100);
        for (int time = 0; time < 3; time++) dprintf(1, "%zd ", pread(fd, block, 3000, 4 * 4096));
        MUST(write(1, "\n", 1) == 1);
    }
    return 0;
}

int main(int count, char **words)
{
    if (count == 3) return strcmp(words[1], "hold") == 0 ? hold(words[2]) : follow(words[2]);
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(word != MAP_FAILED);
    own_changes();
    growth_and_writes();
    others_change();
    holes();
    forks();
    many_files();
    threads_close();
    threads_shrink();
    odd_arguments();
    time_of_access();
    address_space();
    return check_result();
}
