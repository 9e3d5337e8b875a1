/* Eventfds and pipes that one thread reads and writes, and who else reads, looks, closes, waits and watches.
 * With arguments: the second half of `across_exec`. */
#include "lending.h"
#include <limits.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

/* One of both: what is written to the second end is read from the first. */
struct object { int ends[2]; bool is_pipe; };

static bool pipes;
/* A word through which threads and processes tell each other without a call. */
static atomic_int *word;

static void await(int value)
{
    while (atomic_load(word) != value) __builtin_ia32_pause();
}

/* The smallest thing that can be written and read: a number, of which several in an eventfd are one. */
static ssize_t put(struct object it, uint64_t value) { return write(it.ends[1], &value, sizeof value); }

#define TAKES(it, value) takes(__LINE__, it, value)
static void takes(int line, struct object it, uint64_t expected)
{
    uint64_t value = 0;
    ssize_t count = read(it.ends[0], &value, sizeof value);
    if (count != sizeof value || value != expected) {
        CHECK_FAIL("line %d: read %zd bytes, %llu, not %llu (errno %d)", line, count, (unsigned long long)value,
            (unsigned long long)expected, errno);
    }
}

/* So often that nobody else seems to use it. */
static void use(struct object it)
{
    for (int round = 0; round < 600; round++) {
        MUST(put(it, round + 1) == 8);
        TAKES(it, round + 1);
    }
}

static struct object begin(int flags)
{
    struct object it = {.is_pipe = pipes};
    if (pipes) MUST(pipe2(it.ends, flags) == 0);
    else MUST((it.ends[0] = it.ends[1] = eventfd(0, flags)) >= 0);
    use(it);
    return it;
}

static void end(struct object it)
{
    close(it.ends[0]);
    if (it.is_pipe) close(it.ends[1]);
}

static void counters(void)
{
    const uint64_t most = UINT64_MAX - 1, large = 1ull << 47;
    uint64_t two[2] = {3, 4};
    struct object it = begin(EFD_NONBLOCK);
    CHECK_ERR(read(it.ends[0], two, 8), EAGAIN);
    MUST(put(it, 3) == 8 && put(it, 0) == 8 && put(it, 4) == 8);
    TAKES(it, 7);
    CHECK_ERR(put(it, UINT64_MAX), EINVAL);
    CHECK_ERR(write(it.ends[1], two, 7), EINVAL);
    CHECK_ERR(read(it.ends[0], two, 7), EINVAL);
    use(it);
    CHECK_EQ(put(it, most), 8);
    CHECK_ERR(put(it, 1), EAGAIN);
    TAKES(it, most);
    use(it);
    MUST(put(it, large) == 8 && put(it, large) == 8 && put(it, 2 * large) == 8);
    TAKES(it, 4 * large);
    use(it);
    MUST(put(it, 5) == 8);
    CHECK_EQ(read(it.ends[0], two, 16), 8);
    CHECK_EQ(two[0], 5);
    end(it);

    struct object one = {.ends = {eventfd(0, EFD_SEMAPHORE | EFD_NONBLOCK)}};
    one.ends[1] = one.ends[0];
    for (int round = 0; round < 300; round++) {
        MUST(put(one, 2) == 8);
        TAKES(one, 1);
        TAKES(one, 1);
        CHECK_ERR(read(one.ends[0], two, 8), EAGAIN);
    }
    MUST(put(one, 7) == 8);
    TAKES(one, 1);
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", one.ends[0]);
    FILE *info = fopen(path, "r");
    unsigned long long count = 0;
    MUST(info);
    while (fgets(line, sizeof line, info)) sscanf(line, "eventfd-count: %llx", &count);
    fclose(info);
    CHECK_EQ(count, 6);
    end(one);
}

static int queued(struct object it)
{
    int length = -1;
    CHECK_EQ(ioctl(it.ends[0], FIONREAD, &length), 0);
    return length;
}

static void contents(void)
{
    static char data[70000], back[70000];
    for (size_t index = 0; index < sizeof data; index++) data[index] = (char)(index * 31 + index / 251);
    struct object it = begin(0);
    /* More than three times around, in pieces of all sizes, some of which find no room at once. */
    size_t written = 0, taken = 0;
    unsigned state = 1;
    while (taken < 400000) {
        state = state * 1103515245 + 12345;
        size_t length = 1 + (state >> 16) % (state >> 30 ? 300 : 2000);
        if (written - taken + length < 40000) {
            MUST(write(it.ends[1], data + written % 30000, length) == (ssize_t)length);
            written += length;
        }
        state = state * 1103515245 + 12345;
        length = 1 + (state >> 16) % (state >> 30 ? 300 : 3000);
        if (written == taken) continue;
        size_t there = written - taken < length ? written - taken : length;
        ssize_t count = read(it.ends[0], back, length);
        MUST(count == (ssize_t)there);
        /* What was written at once lay in a row. */
        taken += count;
        if (state % 64 == 0) CHECK_EQ(queued(it), written - taken);
    }
    while (written > taken) taken += read(it.ends[0], back, sizeof back);
    CHECK_EQ(queued(it), 0);
    /* In order: every byte says which one it is. */
    use(it);
    unsigned char next_written = 0, next_read = 0;
    for (int round = 0; round < 20000; round++) {
        unsigned char piece[700];
        size_t length = 1 + round * 7 % sizeof piece;
        for (size_t index = 0; index < length; index++) piece[index] = next_written++;
        MUST(write(it.ends[1], piece, length) == (ssize_t)length);
        memset(piece, 0xee, sizeof piece);
        for (size_t left = length; left > 0;) {
            ssize_t count = read(it.ends[0], piece, round % 3 ? left : (left + 1) / 2);
            MUST(count > 0);
            for (ssize_t index = 0; index < count; index++) MUST(piece[index] == next_read++);
            left -= count;
        }
    }
    use(it);
    /* As many positions as there are. */
    for (int round = 0; round < 40000; round++) {
        MUST(write(it.ends[1], data + round % 100, 900) == 900);
        MUST(read(it.ends[0], back, 900) == 900 && memcmp(back, data + round % 100, 900) == 0);
    }
    end(it);

    /* It holds what it holds, and what is at most PIPE_BUF goes in whole or not at all. */
    for (int size = 500; size <= 4096; size += 1798) {
        struct object first = begin(O_NONBLOCK), second;
        second.is_pipe = true;
        MUST(pipe2(second.ends, O_NONBLOCK) == 0);
        int counts[2] = {0, 0};
        while (write(first.ends[1], data, size) == size) counts[0]++;
        while (write(second.ends[1], data, size) == size) counts[1]++;
        CHECK_ERR(write(first.ends[1], data, size), EAGAIN);
        CHECK_EQ(counts[0], counts[1]);
        CHECK_EQ(queued(first), queued(second));
        CHECK_EQ(read(first.ends[0], back, sizeof back), queued(second));
        CHECK_ERR(read(first.ends[0], back, 1), EAGAIN);
        end(first);
        end(second);
    }
    it = begin(0);
    MUST(write(it.ends[1], data, 65536) == 65536);
    CHECK_EQ(read(it.ends[0], back, sizeof back), 65536);
    CHECK(memcmp(data, back, 65536) == 0);
    use(it);
    CHECK_EQ(write(it.ends[1], data, 0), 0);
    CHECK_EQ(read(it.ends[0], back, 0), 0);
    struct iovec pieces[2] = {{data, 3}, {data + 3, 4}}, wanted[2] = {{back, 2}, {back + 2, 100}};
    CHECK_EQ(write(it.ends[1], data + 7, 2), 2);
    CHECK_EQ(writev(it.ends[1], pieces, 2), 7);
    CHECK_EQ(write(it.ends[1], data + 9, 2), 2);
    CHECK_EQ(readv(it.ends[0], wanted, 2), 11);
    CHECK(memcmp(back, data + 7, 2) == 0 && memcmp(back + 2, data, 7) == 0 && memcmp(back + 9, data + 9, 2) == 0);
    CHECK_ERR(read(it.ends[1], back, 1), EBADF);
    CHECK_ERR(write(it.ends[0], back, 1), EBADF);
    end(it);
}

static void settings(void)
{
    char buffer[100];
    struct object it = begin(0), other = begin(0);
    MUST(write(it.ends[1], "abc", 3) == 3);
    CHECK_EQ(fcntl(it.ends[1], F_SETPIPE_SZ, 4096), 4096);
    CHECK_EQ(read(it.ends[0], buffer, 1), 1);
    CHECK_EQ(fcntl(it.ends[0], F_GETPIPE_SZ), 4096);
    CHECK_EQ(read(it.ends[0], buffer, 100), 2);
    use(it);
    CHECK_EQ(fcntl(it.ends[1], F_SETPIPE_SZ, 65536), 65536);
    use(it);
    /* Packets from here on. */
    CHECK_EQ(fcntl(it.ends[1], F_SETFL, O_DIRECT), 0);
    MUST(write(it.ends[1], "def", 3) == 3 && write(it.ends[1], "ghi", 3) == 3);
    CHECK_EQ(read(it.ends[0], buffer, 2), 2);
    CHECK_EQ(read(it.ends[0], buffer, 100), 3);
    CHECK(memcmp(buffer, "ghi", 3) == 0);
    CHECK_EQ(fcntl(it.ends[1], F_SETFL, 0), 0);
    use(it);
    /* What is there goes elsewhere, or stays. */
    MUST(write(it.ends[1], "0123456789", 10) == 10);
    CHECK_EQ(tee(it.ends[0], other.ends[1], 4, 0), 4);
    CHECK_EQ(splice(it.ends[0], NULL, other.ends[1], NULL, 6, 0), 6);
    CHECK_EQ(read(other.ends[0], buffer, 100), 10);
    CHECK(memcmp(buffer, "0123012345", 10) == 0);
    CHECK_EQ(read(it.ends[0], buffer, 100), 4);
    struct iovec piece = {(char[]){"xyz"}, 3};
    MUST(write(it.ends[1], "w", 1) == 1 && vmsplice(it.ends[1], &piece, 1, 0) == 3);
    CHECK_EQ(read(it.ends[0], buffer, 100), 4);
    CHECK(memcmp(buffer, "wxyz", 4) == 0);
    /* Opened once more by its name in /proc. */
    use(it);
    MUST(write(it.ends[1], "again", 5) == 5);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", it.ends[0]);
    int again = open(path, O_RDONLY | O_NONBLOCK);
    MUST(again >= 0);
    CHECK_EQ(read(again, buffer, 2), 2);
    CHECK_EQ(read(it.ends[0], buffer, 100), 3);
    CHECK_ERR(read(again, buffer, 2), EAGAIN);
    close(again);
    end(other);
    end(it);
}

static void on_alarm(int number) { (void)number; }

static void nobody_is_there(void)
{
    char buffer[8];
    struct object it = begin(0);
    if (pipes) {
        MUST(write(it.ends[1], "0123", 4) == 4 && read(it.ends[0], buffer, 1) == 1);
        close(it.ends[1]);
        CHECK_EQ(read(it.ends[0], buffer, 8), 3);
        CHECK_EQ(read(it.ends[0], buffer, 8), 0);
        close(it.ends[0]);
        it = begin(0);
        signal(SIGPIPE, SIG_IGN);
        close(it.ends[0]);
        CHECK_ERR(write(it.ends[1], "x", 1), EPIPE);
        signal(SIGPIPE, SIG_DFL);
        close(it.ends[1]);
        it = begin(0);
        pid_t child = child_fork();
        if (child == 0) {
            use(it);
            close(it.ends[0]);
            /* The parent still reads. */
            CHECK_EQ(write(it.ends[1], "01234567", 8), 8);
            child_exit();
        }
        CHECK_CHILD(child);
        CHECK_EQ(read(it.ends[0], buffer, 8), 8);
    }
    /* It waits where there is nothing, and where it may not it says so. */
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    ualarm(20000, 0);
    CHECK_ERR(read(it.ends[0], buffer, 8), EINTR);
    use(it);
    CHECK_EQ(fcntl(it.ends[0], F_SETFL, O_NONBLOCK), 0);
    CHECK_ERR(read(it.ends[0], buffer, 8), EAGAIN);
    use(it);
    CHECK_ERR(read(it.ends[0], buffer, 8), EAGAIN);
    end(it);
}

static void bad_memory(void)
{
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_NONE) == 0);
    struct object it = begin(0);
    CHECK_ERR(write(it.ends[1], page + 4096, 8), EFAULT);
    MUST(put(it, 9) == 8);
    CHECK_ERR(read(it.ends[0], page + 4096, 8), EFAULT);
    /* What an eventfd had is lost then. */
    if (pipes) TAKES(it, 9);
    use(it);
    MUST(put(it, 9) == 8);
    CHECK_ERR(read(it.ends[0], (char *)-4096, 8), EFAULT);
    if (pipes) TAKES(it, 9);
    munmap(page, 8192);
    end(it);
}

static struct object shared;

static void *uses_too(void *unused)
{
    (void)unused;
    await(1);
    TAKES(shared, 2);
    MUST(put(shared, 3) == 8);
    atomic_store(word, 2);
    await(3);
    return NULL;
}

static void others_use_it(void)
{
    pthread_t thread;
    shared = begin(0);
    atomic_store(word, 0);
    MUST(pthread_create(&thread, NULL, uses_too, NULL) == 0);
    use(shared);
    MUST(put(shared, 2) == 8);
    atomic_store(word, 1);
    await(2);
    TAKES(shared, 3);
    use(shared);
    atomic_store(word, 3);
    MUST(pthread_join(thread, NULL) == 0);
    use(shared);
    /* A child has it too, and a copy of what its parent's thread knew of it. */
    MUST(put(shared, 4) == 8);
    pid_t child = child_fork();
    if (child == 0) {
        TAKES(shared, 4);
        use(shared);
        MUST(put(shared, 5) == 8);
        child_exit();
    }
    CHECK_CHILD(child);
    TAKES(shared, 5);
    use(shared);
    MUST(put(shared, 6) == 8);
    child = vfork();
    if (child == 0) {
        uint64_t value = 0;
        ssize_t count = read(shared.ends[0], &value, 8);
        value++;
        _exit(count != 8 || value != 7 || write(shared.ends[1], &value, 8) != 8);
    }
    CHECK_CHILD(child);
    TAKES(shared, 7);
    /* Both at once, again and again. */
    atomic_store(word, 0);
    child = child_fork();
    if (child == 0) {
        for (int round = 1; round <= 300; round++) {
            await(2 * round - 1);
            TAKES(shared, round);
            for (int times = 0; times < round % 7; times++) {
                MUST(put(shared, 1) == 8);
                TAKES(shared, 1);
            }
            MUST(put(shared, 1000 + round) == 8);
            atomic_store(word, 2 * round);
        }
        child_exit();
    }
    for (int round = 1; round <= 300; round++) {
        MUST(put(shared, round) == 8);
        atomic_store(word, 2 * round - 1);
        await(2 * round);
        TAKES(shared, 1000 + round);
        for (int times = 0; times < round % 9; times++) {
            MUST(put(shared, 1) == 8);
            TAKES(shared, 1);
        }
    }
    CHECK_CHILD(child);
    end(shared);
}

/* Many that are used in turn. */
static void many(void)
{
    struct object all[11];
    for (int index = 0; index < 11; index++) all[index] = begin(0);
    for (int round = 0; round < 50; round++) {
        for (int index = 0; index < 11; index++) MUST(put(all[index], round * 16 + index + 1) == 8);
        for (int index = 0; index < 11; index++) TAKES(all[index], round * 16 + index + 1);
    }
    for (int round = 0; round < 11; round++) {
        use(all[round]);
        MUST(put(all[round], round + 1) == 8);
    }
    for (int index = 0; index < 11; index++) {
        TAKES(all[index], index + 1);
        end(all[index]);
    }
}

static void the_descriptor_becomes_another(void)
{
    char buffer[8];
    struct object it = begin(0), other = begin(0);
    MUST(put(it, 5) == 8 && put(other, 6) == 8);
    int kept = dup(it.ends[0]), kept_writer = dup(it.ends[1]);
    CHECK_EQ(dup2(other.ends[0], it.ends[0]), it.ends[0]);
    if (pipes) CHECK_EQ(dup2(other.ends[1], it.ends[1]), it.ends[1]);
    struct object copy = {.ends = {kept, kept_writer}, .is_pipe = true};
    TAKES(it, 6);
    TAKES(copy, 5);
    use(it);
    MUST(put(it, 7) == 8);
    TAKES(other, 7);
    use(copy);
    int number = other.ends[0], empty = open("/dev/null", O_RDWR);
    use(other);
    MUST(put(other, 8) == 8);
    CHECK_EQ(close(number), 0);
    CHECK_ERR(read(number, buffer, 8), EBADF);
    CHECK_EQ(fcntl(empty, F_DUPFD, number), number);
    CHECK_EQ(read(number, buffer, 8), 0);
    CHECK_EQ(write(number, buffer, 8), 8);
    TAKES(it, 8);
    close(empty);
    end(it);
    end(copy);
    end(other);
}

static void *closes(void *unused)
{
    int empty = open("/dev/null", O_RDONLY);
    (void)unused;
    await(1);
    CHECK_EQ(dup2(empty, shared.ends[0]), shared.ends[0]);
    close(empty);
    atomic_store(word, 2);
    await(3);
    return NULL;
}

static void a_thread_closes_it(void)
{
    char buffer[8];
    pthread_t thread;
    atomic_store(word, 0);
    shared = begin(0);
    MUST(pthread_create(&thread, NULL, closes, NULL) == 0);
    use(shared);
    MUST(put(shared, 1) == 8);
    atomic_store(word, 1);
    await(2);
    CHECK_EQ(read(shared.ends[0], buffer, 8), 0);
    atomic_store(word, 3);
    MUST(pthread_join(thread, NULL) == 0);
    end(shared);
}

/* A thread that ends leaves what it has written, and its place to another one. */
static void *writes_and_ends(void *unused)
{
    (void)unused;
    use(shared);
    MUST(put(shared, 11) == 8);
    return NULL;
}

static void *has_other_descriptors(void *unused)
{
    char buffer[8];
    int empty = open("/dev/null", O_RDONLY);
    (void)unused;
    MUST(unshare(CLONE_FILES) == 0);
    TAKES(shared, 11);
    use(shared);
    MUST(put(shared, 12) == 8);
    CHECK_EQ(dup2(empty, shared.ends[0]), shared.ends[0]);
    CHECK_EQ(read(shared.ends[0], buffer, 8), 0);
    return NULL;
}

static void threads_come_and_go(void)
{
    shared = begin(0);
    for (int round = 0; round < 5; round++) {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, writes_and_ends, NULL) == 0 && pthread_join(thread, NULL) == 0);
        MUST(pthread_create(&thread, NULL, has_other_descriptors, NULL) == 0 && pthread_join(thread, NULL) == 0);
        TAKES(shared, 12);
    }
    end(shared);
}

static void *waits_too(void *unused)
{
    (void)unused;
    TAKES(shared, 77);
    return NULL;
}

static void others_wait(void)
{
    pthread_t thread;
    shared = begin(0);
    for (int round = 0; round < 20; round++) {
        use(shared);
        MUST(pthread_create(&thread, NULL, waits_too, NULL) == 0);
        if (round % 2) sleep_ms(5);
        MUST(put(shared, 77) == 8);
        MUST(pthread_join(thread, NULL) == 0);
    }
    /* A writer that found no room. */
    if (pipes) {
        static char data[100000];
        pid_t child = child_fork();
        if (child == 0) {
            close(shared.ends[0]);
            CHECK_EQ(write(shared.ends[1], data, sizeof data), (ssize_t)sizeof data);
            child_exit();
        }
        for (size_t sum = 0; sum < sizeof data;) {
            ssize_t count = read(shared.ends[0], data, 777);
            MUST(count > 0);
            sum += count;
        }
        CHECK_CHILD(child);
    }
    end(shared);
}

static void *polls(void *unused)
{
    struct pollfd look = {.fd = shared.ends[0], .events = POLLIN};
    (void)unused;
    atomic_store(word, 1);
    CHECK_EQ(poll(&look, 1, 5000), 1);
    CHECK_EQ(look.revents, POLLIN);
    return NULL;
}

static void *waits_for_events(void *unused)
{
    (void)unused;
    CHECK_EQ(told(shared.ends[1], 5000), EPOLLIN);
    return NULL;
}

static void others_watch(void)
{
    struct object it = begin(0);
    struct pollfd look = {.fd = it.ends[0], .events = POLLIN};
    CHECK_EQ(poll(&look, 1, 0), 0);
    use(it);
    MUST(put(it, 1) == 8);
    CHECK_EQ(poll(&look, 1, 0), 1);
    TAKES(it, 1);
    CHECK_EQ(poll(&look, 1, 0), 0);
    shared = it;
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        atomic_store(word, 0);
        MUST(pthread_create(&thread, NULL, polls, NULL) == 0);
        await(1);
        if (round % 2) sleep_ms(5);
        MUST(put(it, 1) == 8);
        MUST(pthread_join(thread, NULL) == 0);
        TAKES(it, 1);
        use(it);
    }
    /* Each write is told of, to who hears of edges. */
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    use(it);
    MUST(put(it, 1) == 8);
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, it.ends[0], &event) == 0);
    CHECK_EQ(told(epoll, 0), EPOLLIN);
    for (int round = 0; round < 20; round++) {
        CHECK_EQ(told(epoll, 0), 0);
        MUST(put(it, 1) == 8);
        CHECK_EQ(told(epoll, 0), EPOLLIN);
    }
    for (int round = 0; round < (pipes ? 21 : 1); round++) TAKES(it, pipes ? 1 : 21);
    for (int round = 0; round < 20; round++) {
        use(it);
        CHECK_EQ(told(epoll, 0), 0);
        MUST(put(it, 1) == 8);
        CHECK_EQ(told(epoll, 0), EPOLLIN);
        TAKES(it, 1);
    }
    /* One that another thread waits on. */
    pthread_t thread;
    shared.ends[1] = epoll;
    use(it);
    MUST(pthread_create(&thread, NULL, waits_for_events, NULL) == 0);
    sleep_ms(10);
    MUST(put(it, 1) == 8);
    MUST(pthread_join(thread, NULL) == 0);
    TAKES(it, 1);
    CHECK_EQ(told(epoll, 0), 0);
    use(it);
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, it.ends[0], NULL), 0);
    use(it);
    close(epoll);
    end(it);
}

static atomic_int signals;
static void on_io(int number) { (void)number; atomic_fetch_add(&signals, 1); }

static void signals_tell_of_it(void)
{
    /* Of an eventfd nobody is told so. */
    if (!pipes) return;
    struct object it = begin(0);
    signal(SIGIO, on_io);
    atomic_store(&signals, 0);
    MUST(fcntl(it.ends[0], F_SETOWN, getpid()) == 0);
    use(it);
    CHECK_EQ(atomic_load(&signals), 0);
    CHECK_EQ(fcntl(it.ends[0], F_SETFL, O_ASYNC), 0);
    MUST(put(it, 1) == 8);
    for (int wait = 0; wait < 1000 && !atomic_load(&signals); wait++) sleep_ms(1);
    CHECK(atomic_load(&signals) > 0);
    TAKES(it, 1);
    signal(SIGIO, SIG_DFL);
    end(it);
}

/* A handler of the same thread's that writes, as self-pipes have them. */
static void on_signal(int number) { (void)number; MUST(put(shared, 1) == 8); }

static void a_handler_writes(void)
{
    shared = begin(0);
    signal(SIGUSR1, on_signal);
    for (int round = 0; round < 50; round++) {
        use(shared);
        raise(SIGUSR1);
        TAKES(shared, 1);
    }
    signal(SIGUSR1, SIG_DFL);
    end(shared);
}

static void passed_on(void)
{
    char data = 'x';
    int carrier[2];
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    struct iovec piece = {&data, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, carrier) == 0);
    struct object it = begin(0);
    MUST(put(it, 5) == 8);
    memcpy(CMSG_DATA(header), &it.ends[0], sizeof(int));
    CHECK_EQ(sendmsg(carrier[1], &message, 0), 1);
    CHECK_EQ(close(it.ends[0]), 0);
    CHECK_EQ(recvmsg(carrier[0], &message, 0), 1);
    int old = it.ends[0];
    memcpy(&it.ends[0], CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    if (it.ends[1] == old) it.ends[1] = it.ends[0];
    TAKES(it, 5);
    use(it);
    end(it);
    close(carrier[0]);
    close(carrier[1]);
}

static void a_filter_comes(void)
{
    struct object it = begin(0);
    pid_t child = child_fork();
    if (child == 0) {
        char buffer[8];
        use(it);
        MUST(put(it, 3) == 8);
        filter_reads();
        CHECK_ERR(read(it.ends[0], buffer, 8), EXDEV);
        child_exit();
    }
    CHECK_CHILD(child);
    TAKES(it, 3);
    end(it);
}

static void across_exec(void)
{
    struct object it = begin(0);
    pid_t child = child_fork();
    if (child == 0) {
        char numbers[2][16];
        snprintf(numbers[0], 16, "%d", it.ends[0]);
        snprintf(numbers[1], 16, "%d", it.ends[1]);
        use(it);
        MUST(put(it, 41) == 8);
        execl("/proc/self/exe", "alone", numbers[0], numbers[1], NULL);
        abort();
    }
    CHECK_CHILD(child);
    TAKES(it, 42);
    /* It is killed behind what it has written. */
    use(it);
    atomic_store(word, 0);
    child = child_fork();
    if (child == 0) {
        use(it);
        MUST(put(it, 43) == 8);
        atomic_store(word, 1);
        for (;;) __builtin_ia32_pause();
    }
    await(1);
    MUST(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    TAKES(it, 43);
    /* It ends, and the next one gets what was its. */
    for (int round = 0; round < 20; round++) {
        child = child_fork();
        if (child == 0) {
            use(it);
            MUST(put(it, 44) == 8);
            child_exit();
        }
        CHECK_CHILD(child);
        TAKES(it, 44);
    }
    end(it);
}

int main(int count, char **arguments)
{
    if (count > 2) {
        struct object it = {.ends = {atoi(arguments[1]), atoi(arguments[2])}};
        TAKES(it, 41);
        use(it);
        MUST(put(it, 42) == 8);
        return check_result();
    }
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(word != MAP_FAILED);
    counters();
    for (int round = 0; round < 2; round++) {
        pipes = round;
        bad_memory();
        nobody_is_there();
        others_use_it();
        many();
        the_descriptor_becomes_another();
        a_thread_closes_it();
        threads_come_and_go();
        others_wait();
        others_watch();
        signals_tell_of_it();
        a_handler_writes();
        passed_on();
        a_filter_comes();
        across_exec();
    }
    contents();
    settings();
    return check_result();
}
