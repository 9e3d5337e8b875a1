/* Reading what epoll_wait(2) has told of, and who else reads, looks, closes and waits: over unix sockets and TCP.
 * With an argument: the second half of `across_exec`. */
#include "lending.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>

static int family;

/* Two ends of a connection. */
static void connect_ends(int ends[2])
{
    if (family == AF_UNIX) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        return;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    MUST(listener >= 0 && bind(listener, (struct sockaddr *)&address, sizeof address) == 0 && listen(listener, 1) == 0);
    MUST(getsockname(listener, (struct sockaddr *)&address, &length) == 0);
    ends[1] = socket(AF_INET, SOCK_STREAM, 0);
    MUST(connect(ends[1], (struct sockaddr *)&address, sizeof address) == 0);
    MUST((ends[0] = accept(listener, NULL, NULL)) >= 0);
    close(listener);
}

static int watch(int fd, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.u64 = 77};
    int epoll = epoll_create1(0);
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
    return epoll;
}

/* The events that are told within so many milliseconds; 0: none. */
static uint32_t told_of_it(int epoll, int timeout)
{
    struct epoll_event events[4];
    int count = epoll_wait(epoll, events, 4, timeout);
    MUST(count >= 0);
    if (count) CHECK_EQ(events[0].data.u64, 77);
    return count ? events[0].events : 0;
}

struct both { int ends[2], epoll; };

static struct both begin(const char *text, uint32_t events)
{
    struct both it;
    connect_ends(it.ends);
    it.epoll = watch(it.ends[0], events);
    MUST(write(it.ends[1], text, strlen(text)) == (ssize_t)strlen(text));
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    return it;
}

static void end(struct both it)
{
    close(it.epoll);
    close(it.ends[0]);
    close(it.ends[1]);
}

#define READS(fd, wanted, text) reads(__LINE__, fd, wanted, text)
static void reads(int line, int fd, size_t wanted, const char *text)
{
    char buffer[4096];
    ssize_t count = read(fd, buffer, wanted);
    if (count != (ssize_t)strlen(text) || memcmp(buffer, text, count)) {
        CHECK_FAIL("line %d: read %zd bytes, not \"%s\"", line, count, text);
    }
}

static void in_pieces(void)
{
    char buffer[64];
    struct both it = begin("0123456789", EPOLLIN);
    int waiting;
    READS(it.ends[0], 3, "012");
    CHECK_EQ(recv(it.ends[0], buffer, 2, MSG_PEEK), 2);
    CHECK(memcmp(buffer, "34", 2) == 0);
    CHECK_EQ(recv(it.ends[0], buffer, 2, 0), 2);
    CHECK(memcmp(buffer, "34", 2) == 0);
    CHECK_EQ(ioctl(it.ends[0], FIONREAD, &waiting), 0);
    CHECK_EQ(waiting, 5);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    CHECK_EQ(recv(it.ends[0], buffer, 1, MSG_DONTWAIT | MSG_NOSIGNAL), 1);
    CHECK_EQ(buffer[0], '5');
    CHECK_EQ(read(it.ends[0], buffer, 0), 0);
    READS(it.ends[0], 64, "6789");
    CHECK_EQ(told_of_it(it.epoll, 0), 0);
    CHECK_ERR(recv(it.ends[0], buffer, 1, MSG_DONTWAIT), EAGAIN);
    /* More comes behind what was told of. */
    MUST(write(it.ends[1], "ab", 2) == 2);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    READS(it.ends[0], 1, "a");
    MUST(write(it.ends[1], "cd", 2) == 2);
    READS(it.ends[0], 64, "bcd");
    /* The other end looks at what is not read yet (of TCP it need not show). */
    MUST(write(it.ends[1], "xyz", 3) == 3);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    READS(it.ends[0], 2, "xy");
    if (family == AF_UNIX) CHECK_EQ(ioctl(it.ends[1], TIOCOUTQ, &waiting), 0);
    struct iovec piece = {buffer, sizeof buffer};
    CHECK_EQ(readv(it.ends[0], &piece, 1), 1);
    CHECK_EQ(buffer[0], 'z');
    end(it);
}

static void bad_memory(void)
{
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_NONE) == 0);
    struct both it = begin("0123456789", EPOLLIN);
    CHECK_ERR(read(it.ends[0], page + 4096, 4), EFAULT);
    CHECK_ERR(read(it.ends[0], page + 4094, 4), EFAULT);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    READS(it.ends[0], 64, "0123456789");
    munmap(page, 8192);
    end(it);
}

/* A word through which threads and processes tell each other without a call. */
static atomic_int *word;

static void await(int value)
{
    while (atomic_load(word) != value) __builtin_ia32_pause();
}

static void *reads_too(void *argument)
{
    await(1);
    READS(*(int *)argument, 2, "23");
    atomic_store(word, 2);
    return NULL;
}

static void others_read(void)
{
    pthread_t thread;
    struct both it = begin("0123456789", EPOLLIN);
    atomic_store(word, 0);
    MUST(pthread_create(&thread, NULL, reads_too, &it.ends[0]) == 0);
    READS(it.ends[0], 2, "01");
    atomic_store(word, 1);
    await(2);
    READS(it.ends[0], 2, "45");
    MUST(pthread_join(thread, NULL) == 0);
    end(it);
    /* A child, which has the descriptor too. */
    it = begin("0123456789", EPOLLIN);
    READS(it.ends[0], 1, "0");
    pid_t child = child_fork();
    if (child == 0) {
        READS(it.ends[0], 2, "12");
        child_exit();
    }
    CHECK_CHILD(child);
    READS(it.ends[0], 1, "3");
    int copy = dup(it.ends[0]);
    READS(copy, 1, "4");
    READS(it.ends[0], 1, "5");
    close(it.ends[0]);
    READS(copy, 9, "6789");
    it.ends[0] = copy;
    end(it);
}

static void the_descriptor_becomes_another(void)
{
    char buffer[8];
    struct both it = begin("0123456789", EPOLLIN), other = begin("abcdefghij", EPOLLIN);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    int kept = dup(it.ends[0]);
    CHECK_EQ(dup2(other.ends[0], it.ends[0]), it.ends[0]);
    READS(it.ends[0], 2, "ab");
    READS(kept, 2, "01");
    READS(other.ends[0], 2, "cd");
    CHECK_EQ(close(kept), 0);
    CHECK_ERR(read(kept, buffer, 1), EBADF);
    end(it);
    CHECK_EQ(told_of_it(other.epoll, 2000), EPOLLIN);
    int number = other.ends[0], empty = open("/dev/null", O_RDONLY);
    CHECK_EQ(close(number), 0);
    CHECK_EQ(fcntl(empty, F_DUPFD, number), number);
    CHECK_EQ(read(number, buffer, 4), 0);
    close(empty);
    end(other);
}

/* The same behind an option that says how bytes are received. */
static void options_change_meanwhile(void)
{
    const int many = 100, on = 1;
    struct both it = begin("0123456789", EPOLLIN), other = begin("abcdefghij", EPOLLIN);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    READS(it.ends[0], 1, "0");
    CHECK_EQ(setsockopt(it.ends[0], SOL_SOCKET, SO_RCVLOWAT, &many, sizeof many), 0);
    if (family == AF_UNIX) CHECK_EQ(setsockopt(it.ends[0], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
    int kept = dup(it.ends[0]);
    CHECK_EQ(dup2(other.ends[0], it.ends[0]), it.ends[0]);
    READS(it.ends[0], 2, "ab");
    char buffer[8];
    CHECK_EQ(recv(kept, buffer, 2, MSG_DONTWAIT), 2);
    CHECK(memcmp(buffer, "12", 2) == 0);
    close(kept);
    end(it);
    end(other);
}

static void *closes(void *argument)
{
    int fd = *(int *)argument, empty = open("/dev/null", O_RDONLY);
    await(1);
    CHECK_EQ(dup2(empty, fd), fd);
    close(empty);
    atomic_store(word, 2);
    return NULL;
}

static void a_thread_closes_it(void)
{
    char buffer[8];
    pthread_t thread;
    atomic_store(word, 0);
    struct both it = begin("0123456789", EPOLLIN);
    MUST(pthread_create(&thread, NULL, closes, &it.ends[0]) == 0);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    READS(it.ends[0], 1, "0");
    atomic_store(word, 1);
    await(2);
    CHECK_EQ(read(it.ends[0], buffer, 8), 0);
    MUST(pthread_join(thread, NULL) == 0);
    end(it);
}

static void it_ends(void)
{
    char buffer[64];
    struct both it = begin("0123", EPOLLIN);
    READS(it.ends[0], 1, "0");
    close(it.ends[1]);
    READS(it.ends[0], 64, "123");
    CHECK_EQ(read(it.ends[0], buffer, 64), 0);
    it.ends[1] = -1;
    end(it);
    it = begin("0123", EPOLLIN);
    READS(it.ends[0], 1, "0");
    CHECK_EQ(shutdown(it.ends[0], SHUT_RD), 0);
    CHECK(told_of_it(it.epoll, 2000) & EPOLLRDHUP || told_of_it(it.epoll, 0) & EPOLLIN);
    READS(it.ends[0], 64, "123");
    CHECK_EQ(read(it.ends[0], buffer, 64), 0);
    end(it);
    /* Who closes it with nothing left to read ends it in good order, and else by a reset. */
    for (int left = 0; left < 2; left++) {
        it = begin("0123", EPOLLIN);
        READS(it.ends[0], left ? 3 : 4, left ? "012" : "0123");
        close(it.ends[0]);
        struct pollfd look = {.fd = it.ends[1], .events = POLLIN};
        CHECK_EQ(poll(&look, 1, 2000), 1);
        if (left) CHECK_ERR(read(it.ends[1], buffer, 1), ECONNRESET);
        else CHECK_EQ(read(it.ends[1], buffer, 1), 0);
        it.ends[0] = -1;
        end(it);
    }
}

static void edges(void)
{
    struct both it = begin("0123", EPOLLIN | EPOLLET);
    READS(it.ends[0], 2, "01");
    CHECK_EQ(told_of_it(it.epoll, 0), 0);
    READS(it.ends[0], 64, "23");
    MUST(write(it.ends[1], "45", 2) == 2);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    MUST(write(it.ends[1], "67", 2) == 2);
    READS(it.ends[0], 64, "4567");
    CHECK_EQ(told_of_it(it.epoll, 0), 0);
    end(it);
}

/* A writer that found no room goes on once there is. */
static void a_writer_waits(void)
{
    static char data[300000];
    struct both it;
    size_t sum = 0;
    connect_ends(it.ends);
    it.epoll = watch(it.ends[0], EPOLLIN);
    pid_t child = child_fork();
    if (child == 0) {
        for (int round = 0; round < 100; round++) CHECK_EQ(write(it.ends[1], data, 700), 700);
        for (size_t done = 0; done < sizeof data;) {
            ssize_t count = write(it.ends[1], data + done, sizeof data - done);
            MUST(count > 0);
            done += count;
        }
        child_exit();
    }
    close(it.ends[1]);
    while (sum < sizeof data + 70000) {
        char buffer[1000];
        CHECK(told_of_it(it.epoll, 5000) & EPOLLIN);
        ssize_t count = read(it.ends[0], buffer, sum % 3 ? 1000 : 301);
        MUST(count > 0);
        sum += count;
    }
    CHECK_EQ(sum, sizeof data + 70000);
    CHECK_CHILD(child);
    it.ends[1] = -1;
    end(it);
}

/* Descriptors that travel beside the bytes, and in a message: whoever gets one reads on. */
static void passed_on(void)
{
    if (family != AF_UNIX) return;
    char data = 'x';
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    struct iovec piece = {&data, 1};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    struct both it = begin("0123", EPOLLIN), carrier = begin("b", EPOLLIN);
    CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
    READS(it.ends[0], 1, "0");
    memcpy(CMSG_DATA(header), &it.ends[0], sizeof(int));
    CHECK_EQ(sendmsg(carrier.ends[1], &message, 0), 1);
    CHECK_EQ(close(it.ends[0]), 0);
    CHECK_EQ(told_of_it(carrier.epoll, 2000), EPOLLIN);
    READS(carrier.ends[0], 1, "b");
    CHECK_EQ(told_of_it(carrier.epoll, 2000), EPOLLIN);
    CHECK_EQ(recvmsg(carrier.ends[0], &message, 0), 1);
    memcpy(&it.ends[0], CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    READS(it.ends[0], 9, "123");
    end(it);
    end(carrier);
}

static void *waits_too(void *argument)
{
    char buffer[8];
    CHECK_EQ(recv(*(int *)argument, buffer, 8, 0), 4);
    CHECK(memcmp(buffer, "late", 4) == 0);
    return NULL;
}

/* Who waits for bytes is not told of those that another thread has read. */
static void another_waits(void)
{
    pthread_t thread;
    struct both it = begin("0123", EPOLLIN);
    READS(it.ends[0], 8, "0123");
    MUST(pthread_create(&thread, NULL, waits_too, &it.ends[0]) == 0);
    sleep_ms(20);
    MUST(write(it.ends[1], "late", 4) == 4);
    MUST(pthread_join(thread, NULL) == 0);
    CHECK_EQ(told_of_it(it.epoll, 0), 0);
    end(it);
}

static void a_filter_comes(void)
{
    struct both it = begin("0123", EPOLLIN);
    pid_t child = child_fork();
    if (child == 0) {
        char buffer[8];
        CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
        filter_reads();
        CHECK_ERR(read(it.ends[0], buffer, 1), EXDEV);
        CHECK_EQ(recv(it.ends[0], buffer, 1, 0), 1);
        child_exit();
    }
    CHECK_CHILD(child);
    READS(it.ends[0], 8, "123");
    end(it);
}

static void across_exec(void)
{
    struct both it = begin("0123", EPOLLIN);
    pid_t child = child_fork();
    if (child == 0) {
        char number[16];
        snprintf(number, sizeof number, "%d", it.ends[0]);
        CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
        READS(it.ends[0], 1, "0");
        execl("/proc/self/exe", "streams", number, NULL);
        abort();
    }
    CHECK_CHILD(child);
    READS(it.ends[0], 8, "3");
    end(it);
    /* It is killed behind what it has read. */
    it = begin("0123", EPOLLIN);
    atomic_store(word, 0);
    child = child_fork();
    if (child == 0) {
        CHECK_EQ(told_of_it(it.epoll, 2000), EPOLLIN);
        READS(it.ends[0], 3, "012");
        atomic_store(word, 1);
        for (;;) __builtin_ia32_pause();
    }
    await(1);
    MUST(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
    READS(it.ends[0], 8, "3");
    end(it);
}

/* As many at once as there is no room for. */
static void many(void)
{
    enum { COUNT = 70 };
    int ends[COUNT][2], epoll = epoll_create1(0);
    struct epoll_event events[COUNT];
    char text[900], buffer[2000];
    for (int index = 0; index < COUNT; index++) {
        connect_ends(ends[index]);
        struct epoll_event event = {.events = EPOLLIN, .data.u32 = index};
        MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[index][0], &event) == 0);
    }
    for (int round = 0; round < 5; round++) {
        for (int index = 0; index < COUNT; index++) {
            memset(text, 'A' + index, sizeof text);
            int length = round == 3 ? 900 : 20 + index;
            MUST(write(ends[index][1], text, length) == length);
        }
        for (int left = COUNT; left > 0;) {
            int count = epoll_wait(epoll, events, COUNT, 2000);
            MUST(count > 0);
            for (int at = 0; at < count; at++, left--) {
                int index = events[at].data.u32;
                ssize_t size = read(ends[index][0], buffer, sizeof buffer);
                CHECK_EQ(size, round == 3 ? 900 : 20 + index);
                CHECK(buffer[0] == (char)('A' + index) && buffer[size - 1] == (char)('A' + index));
                MUST(write(ends[index][0], "y", 1) == 1);
            }
        }
    }
    for (int index = 0; index < COUNT; index++) {
        READS(ends[index][1], 64, "yyyyy");
        close(ends[index][0]);
        close(ends[index][1]);
    }
    close(epoll);
}

int main(int count, char **arguments)
{
    if (count > 1) {
        READS(atoi(arguments[1]), 2, "12");
        return check_result();
    }
    word = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(word != MAP_FAILED);
    const int families[] = {AF_UNIX, AF_INET};
    for (int index = 0; index < 2; index++) {
        family = families[index];
        in_pieces();
        bad_memory();
        others_read();
        the_descriptor_becomes_another();
        options_change_meanwhile();
        a_thread_closes_it();
        it_ends();
        edges();
        a_writer_waits();
        passed_on();
        another_waits();
        a_filter_comes();
        across_exec();
        many();
    }
    return check_result();
}
