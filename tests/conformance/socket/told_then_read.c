/* read(2) and recv(2) right after epoll_wait(2) has told of a socket: the bytes are those that are there, in order and
 * each once, whoever else reads, looks, writes, closes or forks in between. */
#include "check.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static int epoll;

static void add(int fd, unsigned events)
{
    struct epoll_event event = { events, { .fd = fd } };
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* The descriptor that is told of; -1: none within the time. */
static int told(int timeout_ms)
{
    struct epoll_event event;
    int count = epoll_wait(epoll, &event, 1, timeout_ms);
    return count == 1 ? event.data.fd : -1;
}

static void put(int fd, const char *text) { CHECK_EQ(write(fd, text, strlen(text)), (ssize_t)strlen(text)); }

static void expect(int fd, size_t size, const char *text)
{
    char buffer[100] = "";
    CHECK_EQ(read(fd, buffer, size), (ssize_t)strlen(text));
    CHECK(strcmp(buffer, text) == 0);
}

static void pair(int how, int fds[2])
{
    if (how == AF_UNIX) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
        return;
    }
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1;
    MUST(bind(listener, (void *)&address, length) == 0 && listen(listener, 1) == 0);
    MUST(getsockname(listener, (void *)&address, &length) == 0);
    fds[1] = socket(AF_INET, SOCK_STREAM, 0);
    MUST(connect(fds[1], (void *)&address, length) == 0);
    fds[0] = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
    MUST(fds[0] >= 0 && fcntl(fds[1], F_SETFL, O_NONBLOCK) == 0);
    setsockopt(fds[1], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    close(listener);
}

static void *read_three(void *argument)
{
    expect(*(int *)argument, 3, "abc");
    return NULL;
}

static void try_all(int how)
{
    int s[2], other[2], available;
    char buffer[100];
    pair(how, s);
    epoll = epoll_create1(0);
    add(s[0], EPOLLIN);

    /* In pieces; then there is nothing, then more. */
    put(s[1], "abcdef");
    CHECK_EQ(told(5000), s[0]);
    expect(s[0], 2, "ab");
    expect(s[0], 3, "cde");
    put(s[1], "gh");
    expect(s[0], 1, "f");
    CHECK_EQ(told(5000), s[0]);
    expect(s[0], 50, "gh");
    CHECK_ERR(read(s[0], buffer, 1), EAGAIN);
    CHECK_EQ(told(0), -1);

    /* Looks in between see what is left. */
    put(s[1], "abcdef");
    CHECK_EQ(told(5000), s[0]);
    expect(s[0], 2, "ab");
    CHECK_EQ(ioctl(s[0], FIONREAD, &available), 0);
    CHECK_EQ(available, 4);
    CHECK_EQ(recv(s[0], buffer, 3, MSG_PEEK), 3);
    CHECK(memcmp(buffer, "cde", 3) == 0);
    expect(s[0], 50, "cdef");
    CHECK_EQ(told(0), -1);
    put(s[1], "xy");
    CHECK_EQ(told(5000), s[0]);
    CHECK_EQ(read(s[0], buffer, 0), 0);
    CHECK_EQ(recv(s[0], buffer, 1, MSG_DONTWAIT), 1);
    CHECK_EQ(told(0), s[0]);
    expect(s[0], 9, "y");

    /* Others read: a thread, a child with the same file, another number of it. */
    put(s[1], "abcdef");
    CHECK_EQ(told(5000), s[0]);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, read_three, &s[0]) == 0);
    pthread_join(thread, NULL);
    expect(s[0], 50, "def");
    put(s[1], "abcdef");
    CHECK_EQ(told(5000), s[0]);
    expect(s[0], 1, "a");
    pid_t child = fork();
    if (child == 0) {
        expect(s[0], 2, "bc");
        _exit(check_result());
    }
    int status;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(status, 0);
    expect(s[0], 50, "def");
    put(s[1], "abcdef");
    CHECK_EQ(told(5000), s[0]);
    int copy = dup(s[0]);
    expect(copy, 2, "ab");
    expect(s[0], 2, "cd");
    expect(copy, 50, "ef");

    /* The number is another file's now. */
    put(s[1], "abcdef");
    CHECK_EQ(told(5000), s[0]);
    pair(AF_UNIX, other);
    put(other[1], "other");
    MUST(dup2(other[0], s[0]) == s[0]);
    expect(s[0], 50, "other");
    expect(copy, 50, "abcdef");
    MUST(dup2(copy, s[0]) == s[0]);
    close(copy);
    close(other[0]);
    close(other[1]);
    CHECK_EQ(read(s[0], buffer, 1), -1);

    /* An edge, and what comes behind it. */
    struct epoll_event event = { EPOLLIN | EPOLLET, { .fd = s[0] } };
    epoll_ctl(epoll, EPOLL_CTL_DEL, s[0], NULL);
    close(epoll);
    epoll = epoll_create1(0);
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, s[0], &event) == 0);
    for (int i = 0; i < 200; i++) {
        put(s[1], "ping");
        CHECK_EQ(told(5000), s[0]);
        if (i % 3 == 0) put(s[1], "!");
        expect(s[0], 4, "ping");
        if (i % 3 == 0) {
            CHECK_EQ(told(5000), s[0]);
            expect(s[0], 4, "!");
        }
        CHECK_EQ(told(0), -1);
    }

    /* A writer that finds it full goes on once it is read; nothing is lost at the end. */
    event.events = EPOLLIN;
    MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, s[0], &event) == 0);
    put(s[1], "start");
    CHECK_EQ(told(5000), s[0]);
    static char block[1 << 16];
    size_t sent = 5, got = 0;
    for (ssize_t count; (count = write(s[1], block, sizeof block)) > 0;) sent += count;
    expect(s[0], 5, "start");
    got = 5;
    for (ssize_t count; (count = read(s[0], block, sizeof block)) > 0;) got += count;
    CHECK(write(s[1], "z", 1) == 1);
    sent++;
    shutdown(s[1], SHUT_WR);
    while (told(5000) == s[0]) {
        ssize_t count = read(s[0], block, sizeof block);
        if (count <= 0) break;
        got += count;
    }
    CHECK_EQ(got, sent);
    /* All was read: closing is no reset. */
    CHECK_EQ(write(s[0], "bye", 3), 3);
    CHECK_EQ(told(5000), s[0]);
    close(s[0]);
    CHECK_EQ(read(s[1], buffer, 9), 3);
    CHECK_EQ(read(s[1], buffer, 9), 0);
    close(s[1]);
    close(epoll);

    /* Told of, taken from memory, then closed: no reset either. */
    pair(how, s);
    epoll = epoll_create1(0);
    add(s[0], EPOLLIN);
    put(s[1], "request");
    CHECK_EQ(told(5000), s[0]);
    expect(s[0], 50, "request");
    close(s[0]);
    CHECK_EQ(read(s[1], buffer, 9), 0);
    close(s[1]);
    close(epoll);
}

static int echoes;
static void *echo(void *argument)
{
    int fd = *(int *)argument, own = epoll_create1(0);
    struct epoll_event event = { EPOLLIN, { .fd = fd } };
    MUST(epoll_ctl(own, EPOLL_CTL_ADD, fd, &event) == 0);
    char buffer[64];
    for (;;) {
        CHECK_EQ(epoll_wait(own, &event, 1, 10000), 1);
        ssize_t count = read(fd, buffer, sizeof buffer);
        if (count < 0 && errno == EAGAIN) continue;
        if (count <= 0) break;
        CHECK_EQ(write(fd, buffer, count), count);
    }
    close(own);
    return NULL;
}

int main(void)
{
    try_all(AF_UNIX);
    try_all(AF_INET);
    /* Two threads share one end: whoever is first echoes, and each byte comes back once. */
    int s[2];
    pair(AF_UNIX, s);
    pthread_t threads[2];
    for (int i = 0; i < 2; i++) MUST(pthread_create(&threads[i], NULL, echo, &s[0]) == 0);
    epoll = epoll_create1(0);
    add(s[1], EPOLLIN);
    char buffer[64];
    for (echoes = 0; echoes < 1500 && !check_failures; echoes++) {
        put(s[1], "0123456789");
        for (size_t got = 0; got < 10 && !check_failures;) {
            CHECK_EQ(told(10000), s[1]);
            ssize_t count = read(s[1], buffer, sizeof buffer);
            CHECK(count > 0);
            got += count;
        }
        CHECK_ERR(read(s[1], buffer, 1), EAGAIN);
    }
    shutdown(s[1], SHUT_WR);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    return check_result();
}
