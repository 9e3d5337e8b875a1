/* Where an open file stands, while one reads on in it by read(2) and others move it in each way there is. What is read tells where it
 * was. With arguments: "goes-on" stands in one that it was executed with; "hold" reads on in a file, and waits for a line; "scribble"
 * writes into what only the sandbox has. */
#include "check.h"
#include "turns.h"
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>

enum { RECORDS = 30000, SIZE = RECORDS * 4, OFTEN = 300, READERS = 4, ROUNDS = 12, MANY = 20 };

static uint32_t block[SIZE / 4 + 4096];
static char *self;

/* Each record is its number. */
static int made(const char *name)
{
    int fd = open(name, O_RDWR | O_CREAT | O_TRUNC, 0644);
    MUST(fd >= 0);
    for (uint32_t record = 0; record < RECORDS; record++) block[record] = record;
    MUST(write(fd, block, SIZE) == SIZE);
    return fd;
}

/* It stands at `at`, and reads on there. */
#define STANDS(fd, at) \
    do { \
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), at); \
        READS(fd, at); \
    } while (0)

#define READS(fd, at) \
    do { \
        uint32_t there[25]; \
        CHECK_EQ(read(fd, there, sizeof there), sizeof there); \
        CHECK_EQ(there[0], (at) / 4); \
        CHECK_EQ(there[24], (at) / 4 + 24); \
        if (check_failures > MANY) _exit(1); \
    } while (0)

static void read_often(int fd)
{
    MUST(lseek(fd, 0, SEEK_SET) == 0);
    for (int time = 0; time < OFTEN; time++) READS(fd, 100 * time);
}

/* One that has been read on in often. */
static int read_on(const char *name)
{
    int fd = made(name);
    read_often(fd);
    return fd;
}

enum { BEHIND = OFTEN * 100 };

static void own_calls(void)
{
    int fd = read_on("own");
    STANDS(fd, BEHIND);
    CHECK_EQ(lseek(fd, 4000, SEEK_SET), 4000);
    STANDS(fd, 4000);
    CHECK_EQ(lseek(fd, -2100, SEEK_CUR), 2000);
    STANDS(fd, 2000);
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, -10000, SEEK_CUR), EINVAL);
    CHECK_ERR(lseek(fd, 0, 77), EINVAL);
    STANDS(fd, 2100);
    CHECK_EQ(lseek(fd, -400, SEEK_END), SIZE - 400);
    STANDS(fd, SIZE - 400);
    read_often(fd);
    CHECK_EQ(lseek(fd, 5000, SEEK_DATA), 5000);
    STANDS(fd, 5000);
    read_often(fd);
    CHECK_EQ(lseek(fd, 5000, SEEK_HOLE), SIZE);
    CHECK_EQ(read(fd, block, 100), 0);
    CHECK_EQ(lseek(fd, 1LL << 40, SEEK_SET), 1LL << 40);
    CHECK_EQ(read(fd, block, 100), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1LL << 40);
    CHECK_ERR(lseek(fd, INT64_MAX, SEEK_SET) == -1 ? -1 : lseek(fd, 1, SEEK_CUR), errno == EOVERFLOW ? EOVERFLOW : EINVAL);
    read_often(fd);
    struct iovec pieces[] = {{block, 12}, {block + 100, 0}, {block + 200, 20000}, {block + 6000, 8}};
    CHECK_EQ(readv(fd, pieces, 1), 12);
    CHECK_EQ(readv(fd, pieces, 2), 12);
    CHECK_EQ(readv(fd, pieces, 4), 20020);
    CHECK(block[0] == BEHIND / 4 + 6 && block[200] == BEHIND / 4 + 9 && block[6000] == BEHIND / 4 + 5009);
    STANDS(fd, BEHIND + 20044);
    CHECK_EQ(pread(fd, block, 100, 0), 100);
    STANDS(fd, BEHIND + 20144);
    for (int round = 0; round < 3; round++) {
        MUST(lseek(fd, -200, SEEK_END) == SIZE - 200);
        CHECK_EQ(read(fd, block, 400), 200);
        CHECK_EQ(read(fd, block, 400), 0);
        MUST(lseek(fd, SIZE - 40, SEEK_SET) == SIZE - 40);
        CHECK_EQ(read(fd, block, 0), 0);
        CHECK_EQ(read(fd, block, 60000), 40);
        CHECK_EQ(block[9], RECORDS - 1);
        CHECK_EQ(read(fd, block, 1), 0);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), SIZE);
        read_often(fd);
    }
    close(fd);
}

static void odd_buffers(void)
{
    int fd = read_on("odd");
    char *pages = mmap(NULL, 2 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(pages != MAP_FAILED && munmap(pages + 4096, 4096) == 0);
    for (int round = 0; round < 3; round++) {
        CHECK_ERR(read(fd, pages + 4096, 100), EFAULT);
        CHECK_ERR(read(fd, (void *)0x7fffffffff00, 4096), EFAULT);
        STANDS(fd, BEHIND);
        CHECK_EQ(read(fd, pages + 3996, 200), 100);
        STANDS(fd, BEHIND + 200);
        read_often(fd);
    }
    munmap(pages, 4096);
    close(fd);
    fd = open("odd", O_WRONLY);
    CHECK_ERR(read(fd, block, 100), EBADF);
    CHECK_EQ(lseek(fd, 10, SEEK_SET), 10);
    close(fd);
}

static void writes(void)
{
    int fd = read_on("written");
    for (int round = 0; round < 100; round++) {
        uint32_t record = RECORDS + round;
        int at = BEHIND + 104 * round;
        STANDS(fd, at);
        CHECK_EQ(write(fd, &record, 4), 4);
        CHECK_EQ(pread(fd, block, 4, at + 100), 4);
        CHECK_EQ(block[0], record);
        record = (at + 100) / 4;
        CHECK_EQ(pwrite(fd, &record, 4, at + 100), 4);
    }
    read_often(fd);
    struct iovec pieces[] = {{(uint32_t[]){BEHIND / 4}, 4}, {(uint32_t[]){BEHIND / 4 + 1}, 4}};
    CHECK_EQ(writev(fd, pieces, 2), 8);
    STANDS(fd, BEHIND + 8);
    read_often(fd);
    /* To the end, and the file stands there then. */
    CHECK_EQ(fcntl(fd, F_SETFL, O_APPEND), 0);
    STANDS(fd, BEHIND);
    CHECK_EQ(pwrite(fd, "four", 4, 0), 4);
    STANDS(fd, BEHIND + 100);
    CHECK_EQ(write(fd, "more", 4), 4);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), SIZE + 8);
    read_often(fd);
    CHECK_EQ(write(fd, "rest", 4), 4);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), SIZE + 12);
    CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
    read_often(fd);
    STANDS(fd, BEHIND);
    close(fd);
}

static void copies(void)
{
    int fd = read_on("copied"), own = fcntl(fd, F_DUPFD, 20);
    MUST(own >= 20);
    STANDS(own, BEHIND);
    STANDS(fd, BEHIND + 100);
    for (int time = 0; time < OFTEN; time++) READS(time % 7 < 3 ? own : fd, BEHIND + 200 + 100 * time);
    read_often(own);
    STANDS(fd, BEHIND);
    close(own);
    STANDS(fd, BEHIND + 100);
    read_often(fd);
    CHECK_EQ(dup2(fd, 30), 30);
    close(fd);
    STANDS(30, BEHIND);
    read_often(30);
    /* The number is another file's, and then one of the same file's that stands elsewhere. */
    int other = read_on("other");
    CHECK_EQ(lseek(other, 400, SEEK_SET), 400);
    CHECK_EQ(dup2(other, 30), 30);
    STANDS(30, 400);
    close(30);
    STANDS(other, 500);
    int fresh = open("other", O_RDONLY);
    CHECK_EQ(dup2(fresh, other), other);
    STANDS(other, 0);
    STANDS(fresh, 100);
    close(fresh);
    STANDS(other, 200);
    close(other);
}

static void forks(void)
{
    int fd = read_on("forked");
    tell(0);
    pid_t child = child_fork();
    if (child == 0) {
        for (int round = 0; round < 2 * OFTEN; round++) {
            await(2 * round + 1);
            READS(fd, BEHIND + 200 * round % (SIZE / 2) + 100);
            if (round % 100 == 99) CHECK_EQ(lseek(fd, 0, SEEK_CUR), BEHIND + 200 * round % (SIZE / 2) + 200);
            tell(2 * round + 2);
        }
        CHECK_EQ(lseek(fd, 8000, SEEK_SET), 8000);
        child_exit();
    }
    for (int round = 0; round < 2 * OFTEN; round++) {
        await(2 * round);
        MUST(lseek(fd, BEHIND + 200 * round % (SIZE / 2), SEEK_SET) >= 0);
        READS(fd, BEHIND + 200 * round % (SIZE / 2));
        tell(2 * round + 1);
    }
    CHECK_CHILD(child);
    STANDS(fd, 8000);
    read_often(fd);
    close(fd);
    /* Of those that only look at times. */
    fd = read_on("forked-often");
    for (int round = 0; round < 20; round++) {
        child = child_fork();
        if (child == 0) {
            STANDS(fd, BEHIND);
            if (round % 3 == 0) read_often(fd);
            else CHECK_EQ(lseek(fd, 400, SEEK_SET), 400);
            child_exit();
        }
        CHECK_CHILD(child);
        STANDS(fd, round % 3 == 0 ? BEHIND : 400);
        read_often(fd);
    }
    child = vfork();
    if (child == 0) {
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), BEHIND);
        uint32_t there;
        CHECK_EQ(read(fd, &there, 4), 4);
        CHECK_EQ(there, BEHIND / 4);
        _exit(0);
    }
    CHECK_CHILD(child);
    STANDS(fd, BEHIND + 4);
    close(fd);
}

static int passed(int line, int fd)
{
    char room[CMSG_SPACE(sizeof fd)] = {0}, byte = 0;
    struct iovec piece = {&byte, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = room, .msg_controllen = sizeof room};
    struct cmsghdr *head = CMSG_FIRSTHDR(&message);
    if (fd < 0) {
        MUST(recvmsg(line, &message, 0) == 1);
        memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof fd);
        return fd;
    }
    head->cmsg_level = SOL_SOCKET;
    head->cmsg_type = SCM_RIGHTS;
    head->cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(head), &fd, sizeof fd);
    MUST(sendmsg(line, &message, 0) == 1);
    return fd;
}

static void passes(void)
{
    int line[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, line) == 0);
    tell(0);
    pid_t child = child_fork();
    if (child == 0) {
        int fd = passed(line[1], -1);
        MUST(fd >= 0);
        STANDS(fd, BEHIND);
        tell(1);
        await(2);
        STANDS(fd, BEHIND + 200);
        read_often(fd);
        close(fd);
        child_exit();
    }
    int fd = read_on("passed");
    passed(line[0], fd);
    await(1);
    STANDS(fd, BEHIND + 100);
    tell(2);
    CHECK_CHILD(child);
    STANDS(fd, BEHIND);
    /* It comes back as another number. */
    passed(line[0], fd);
    close(fd);
    int other = read_on("other");
    fd = passed(line[1], -1);
    STANDS(fd, BEHIND + 100);
    read_often(fd);
    STANDS(other, BEHIND);
    close(other);
    close(fd);
    close(line[0]);
    close(line[1]);
}

static long shown(pid_t pid, int fd)
{
    char name[60], text[200] = "";
    snprintf(name, sizeof name, "/proc/%d/fdinfo/%d", (int)pid, fd);
    int info = open(name, O_RDONLY);
    MUST(info >= 0 && read(info, text, sizeof text - 1) > 0 && strncmp(text, "pos:", 4) == 0);
    close(info);
    return strtol(text + 4, NULL, 10);
}

static void is_shown(void)
{
    int fd = read_on("shown");
    CHECK_EQ(shown(getpid(), fd), BEHIND);
    STANDS(fd, BEHIND);
    tell(0);
    pid_t child = child_fork();
    if (child == 0) {
        int own = read_on("shown-too");
        MUST(lseek(own, 2000, SEEK_SET) == 2000);
        tell(own);
        await(1000);
        STANDS(own, 2000);
        child_exit();
    }
    while (atomic_load(word) == 0) sched_yield();
    CHECK_EQ(shown(child, atomic_load(word)), 2000);
    tell(1000);
    CHECK_CHILD(child);
    close(fd);
}

static void moved_by_the_kernel(void)
{
    int fd = read_on("moved"), out = open("moved-to", O_RDWR | O_CREAT | O_TRUNC, 0644), ends[2];
    MUST(out >= 0 && pipe(ends) == 0);
    CHECK_EQ(sendfile(out, fd, NULL, 1000), 1000);
    STANDS(fd, BEHIND + 1000);
    read_often(fd);
    CHECK_EQ(splice(fd, NULL, ends[1], NULL, 400, 0), 400);
    CHECK_EQ(read(ends[0], block, 400), 400);
    CHECK_EQ(block[99], BEHIND / 4 + 99);
    STANDS(fd, BEHIND + 400);
    read_often(fd);
    CHECK_EQ(copy_file_range(fd, NULL, out, NULL, 600, 0), 600);
    STANDS(fd, BEHIND + 600);
    CHECK_EQ(lseek(out, 0, SEEK_SET), 0);
    for (int time = 0; time < OFTEN; time++) CHECK_EQ(read(out, block, 4), 4);
    CHECK_EQ(lseek(out, 100, SEEK_SET), 100);
    CHECK_EQ(sendfile(out, fd, NULL, 40), 40);
    CHECK_EQ(lseek(out, 0, SEEK_CUR), 140);
    STANDS(fd, BEHIND + 740);
    close(out);
    close(fd);
    close(ends[0]);
    close(ends[1]);
}

static int goes_on(int fd, long at)
{
    STANDS(fd, at);
    read_often(fd);
    return check_result();
}

static void executes(void)
{
    for (int by_child = 0; by_child < 2; by_child++) {
        int fd = read_on("executed");
        pid_t child = child_fork();
        if (child == 0) {
            int own = by_child ? read_on("executed-own") : fd;
            STANDS(own, BEHIND);
            char number[20], at[20];
            snprintf(number, sizeof number, "%d", own);
            snprintf(at, sizeof at, "%d", BEHIND + 100);
            execl(self, self, "goes-on", number, at, NULL);
            _exit(9);
        }
        CHECK_CHILD(child);
        STANDS(fd, BEHIND);
        close(fd);
    }
}

static int raced;
static atomic_int seen[RECORDS];
static atomic_int *seen_by_all;

/* Reads on until the end; each record is one reader's. With odd seeds it takes small steps, and looks where the file stands now and then. */
static void read_all(atomic_int *marks, unsigned seed)
{
    uint32_t there[1500];
    bool is_slow = seed % 2;
    for (int time = 1;; time++) {
        unsigned count = 1 + rand_r(&seed) % (is_slow ? 6 : rand_r(&seed) % 8 ? 200 : 1500);
        if (is_slow && time % 100 == 0) shown(getpid(), raced);
        ssize_t got = read(raced, there, 4 * count);
        MUST(got >= 0 && got % 4 == 0);
        if (got == 0) return;
        for (ssize_t one = 0; one < got / 4; one++) {
            if (there[one] != there[0] + one || there[one] >= RECORDS) {
                CHECK_FAIL("%u behind %u", there[one], there[0]);
                return;
            }
            atomic_fetch_add(&marks[there[one]], 1);
        }
    }
}

static void *reader(void *seed)
{
    read_all(seen, (unsigned)(uintptr_t)seed);
    return NULL;
}

static void each_is_read_once(atomic_int *marks)
{
    int wrong = 0;
    for (int record = 0; record < RECORDS; record++) wrong += atomic_exchange(&marks[record], 0) != 1;
    CHECK_EQ(wrong, 0);
    CHECK_EQ(lseek(raced, 0, SEEK_CUR), SIZE);
}

static void threads_read(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[READERS];
        raced = read_on("raced");
        MUST(lseek(raced, 0, SEEK_SET) == 0);
        for (uintptr_t one = 0; one < READERS; one++)
            MUST(pthread_create(&threads[one], NULL, reader, (void *)(round % 2 + 2 * one)) == 0);
        for (int one = 0; one < READERS; one++) pthread_join(threads[one], NULL);
        each_is_read_once(seen);
        close(raced);
    }
}

static void processes_read(void)
{
    for (int round = 0; round < ROUNDS; round++) {
        pid_t children[READERS];
        raced = read_on("raced");
        MUST(lseek(raced, 0, SEEK_SET) == 0);
        for (int one = 0; one < READERS; one++) {
            children[one] = child_fork();
            if (children[one] == 0) {
                read_all(seen_by_all, round % 2 + 2 * one);
                child_exit();
            }
        }
        if (round % 4 < 2) read_all(seen_by_all, round % 2);
        for (int one = 0; one < READERS; one++) CHECK_CHILD(children[one]);
        each_is_read_once(seen_by_all);
        close(raced);
    }
}

static atomic_int done;

/* Of two files, in turn under one number: the second's records are beyond the first's. */
static void *read_of_two(void *unused)
{
    uint32_t there[50];
    while (!atomic_load(&done)) {
        ssize_t got = read(raced, there, sizeof there);
        if (got <= 0) {
            if (got == -1 && errno != EBADF) CHECK_FAIL("read: %d", errno);
            continue;
        }
        for (ssize_t one = 0; one < got / 4; one++) {
            if (there[one] != there[0] + one) {
                CHECK_FAIL("%u behind %u", there[one], there[0]);
                return unused;
            }
            atomic_fetch_add(&seen[there[one]], 1);
        }
    }
    return unused;
}

static void descriptors_change(void)
{
    int files[2] = {read_on("one"), read_on("two")};
    uint32_t record[RECORDS / 2];
    for (int one = 0; one < RECORDS / 2; one++) record[one] = RECORDS / 2 + one;
    MUST(ftruncate(files[0], SIZE / 2) == 0 && ftruncate(files[1], SIZE / 2) == 0);
    MUST(pwrite(files[1], record, SIZE / 2, 0) == SIZE / 2);
    MUST(lseek(files[0], 0, SEEK_SET) == 0 && lseek(files[1], 0, SEEK_SET) == 0);
    raced = dup(files[0]);
    for (int time = 0; time < OFTEN; time++) {
        uint32_t there;
        MUST(read(raced, &there, 4) == 4 && there == (uint32_t)time);
        atomic_fetch_add(&seen[time], 1);
    }
    pthread_t threads[2];
    atomic_store(&done, 0);
    for (int one = 0; one < 2; one++) MUST(pthread_create(&threads[one], NULL, read_of_two, NULL) == 0);
    long ends = 0;
    for (int round = 0; ends < SIZE; round++) {
        CHECK_EQ(dup2(files[round % 2], raced), raced);
        if (round % 5 == 0) sched_yield();
        ends = lseek(files[0], 0, SEEK_CUR) + lseek(files[1], 0, SEEK_CUR);
    }
    atomic_store(&done, 1);
    for (int one = 0; one < 2; one++) pthread_join(threads[one], NULL);
    int wrong = 0;
    for (int one = 0; one < RECORDS; one++) wrong += atomic_exchange(&seen[one], 0) != 1;
    CHECK_EQ(wrong, 0);
    close(raced);
    close(files[0]);
    close(files[1]);
}

static void lengths_change(void)
{
    int fd = read_on("length"), other = open("length", O_RDWR);
    CHECK_EQ(ftruncate(other, BEHIND + 40), 0);
    CHECK_EQ(read(fd, block, 100), 40);
    CHECK_EQ(read(fd, block, 100), 0);
    for (int round = 0; round < 100; round++) {
        uint32_t record = BEHIND / 4 + 10 + round;
        CHECK_EQ(pwrite(other, &record, 4, record * 4), 4);
        CHECK_EQ(read(fd, block, 100), 4);
        CHECK_EQ(block[0], record);
        CHECK_EQ(read(fd, block, 100), 0);
    }
    CHECK_EQ(ftruncate(other, 200), 0);
    CHECK_EQ(read(fd, block, 100), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), BEHIND + 440);
    CHECK_EQ(lseek(fd, 104, SEEK_SET), 104);
    CHECK_EQ(read(fd, block, 100), 96);
    CHECK_EQ(block[0], 26);
    close(other);
    close(fd);
}

static void time_of_access(void)
{
    int fd = read_on("access");
    for (int round = 0; round < 5; round++) {
        moment();
        CHECK_EQ(pwrite(fd, &(uint32_t){0}, 4, 0), 4);
        moment();
        read_often(fd);
        struct stat status;
        MUST(fstat(fd, &status) == 0);
        long between = status.st_atim.tv_sec - status.st_mtim.tv_sec;
        CHECK(between > 0 || (between == 0 && status.st_atim.tv_nsec > status.st_mtim.tv_nsec));
    }
    close(fd);
}

static int hold(const char *name)
{
    int fd = open(name, O_RDONLY);
    MUST(fd >= 0);
    for (int time = 0; time < 40000; time++) {
        if (time % 100 == 0) MUST(lseek(fd, 0, SEEK_SET) == 0);
        MUST(read(fd, block, 100) == 100);
    }
    MUST(write(1, "now\n", 4) == 4 && read(0, block, 10) > 0);
    return 0;
}

/* Where the sandbox has the word says `place`: whatever is there, calls go on. */
static int scribble(uint64_t place)
{
    uint64_t seed = 1;
    int found = 0;
    for (int round = 0; round < 2000; round++) {
        int fd = round % 50 ? open("scribble", O_RDWR) : made("scribble");
        MUST(fd >= 0 && lseek(fd, 0, SEEK_SET) == 0);
        for (int time = 0; time < 10; time++) MUST(read(fd, block, 100) == 100);
        _Atomic uint64_t *position = (_Atomic uint64_t *)place + fd;
        found += (*position & 0xffffff) == 1000;
        seed = seed * 6364136223846793005 + 1442695040888963407;
        uint64_t words[] = {0, UINT64_MAX, 1ULL << 63, seed, seed | 1ULL << 63, seed >> 24 | 1ULL << 63, *position + 4, UINT64_MAX >> 1};
        *position = words[round % 8];
        /* Each way of looking at it; some find it beyond what the file system has. */
        if (round % 3 == 0) {
            CHECK(shown(getpid(), fd) >= 0);
        } else if (round % 3 == 1) {
            CHECK(lseek(fd, 0, SEEK_CUR) >= 0);
        } else {
            ssize_t got = read(fd, block, 100);
            CHECK(got >= -1);
        }
        CHECK(lseek(fd, 0, SEEK_END) == SIZE);
        CHECK(lseek(fd, 400, SEEK_SET) == 400);
        STANDS(fd, 400);
        close(fd);
    }
    CHECK(found > 0);
    return check_result();
}

int main(int count, char **words)
{
    self = words[0];
    if (count == 4) return goes_on(atoi(words[2]), atol(words[3]));
    if (count == 3) return strcmp(words[1], "hold") == 0 ? hold(words[2]) : scribble(strtoull(words[2], NULL, 16));
    void *memory = mmap(NULL, 4096 + sizeof seen, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(memory != MAP_FAILED);
    word = memory;
    seen_by_all = (atomic_int *)((char *)memory + 4096);
    own_calls();
    odd_buffers();
    writes();
    copies();
    forks();
    passes();
    is_shown();
    moved_by_the_kernel();
    executes();
    threads_read();
    processes_read();
    descriptors_change();
    lengths_change();
    time_of_access();
    return check_result();
}
