/* Connections whose two ends are used by two threads or processes, and who else reads, looks, closes, signals and waits meanwhile. */
#include "partners.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>

/* What a partner does with a number that it is told, above what it just sends back. */
enum { ECHO, GATE, TAKE, GIVE, DRAIN, LEAVE, SHUT, EXECUTE, FILTER, FLOOD, LAST };

/* A connection to a partner: a thread, or a process. */
struct line { int fd, theirs; pid_t child; pthread_t thread; };

static bool tcp;

/* False: the end. */
static bool takes(int fd, uint64_t *value)
{
    for (size_t done = 0; done < sizeof *value;) {
        ssize_t got = read(fd, (char *)value + done, sizeof *value - done);
        if (got == 0 && done == 0) return false;
        MUST(got > 0);
        done += got;
    }
    return true;
}

static uint64_t take(int fd)
{
    uint64_t value = 0;
    MUST(takes(fd, &value));
    return value;
}

/* One way of several to receive or send, by turns. */
static ssize_t take_some(int fd, char *to, size_t size, int turn)
{
    struct iovec pieces[3] = {{to, size / 3}, {to + size / 3, size / 2 - size / 3}, {to + size / 2, size - size / 2}};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 3};
    switch (turn % 5) {
    case 0: return read(fd, to, size);
    case 1: return recv(fd, to, size, 0);
    case 2: return readv(fd, pieces, 3);
    case 3: return recvmsg(fd, &message, 0);
    default: return recv(fd, to, size, MSG_NOSIGNAL);
    }
}

static ssize_t put_some(int fd, char *from, size_t size, int turn)
{
    struct iovec pieces[3] = {{from, size / 3}, {from + size / 3, size / 2 - size / 3}, {from + size / 2, size - size / 2}};
    struct msghdr message = {.msg_iov = pieces, .msg_iovlen = 3};
    switch (turn % 5) {
    case 0: return write(fd, from, size);
    case 1: return send(fd, from, size, MSG_NOSIGNAL);
    case 2: return writev(fd, pieces, 3);
    case 3: return sendmsg(fd, &message, 0);
    default: return send(fd, from, size, 0);
    }
}

/* Reads `count` bytes in pieces of many sizes. Whether they are the ones that were written. */
static bool takes_all(int fd, uint64_t count)
{
    static _Thread_local char buffer[300000];
    static const size_t sizes[] = {1, 4096, 131072, 700, 65536, 5000, 300000, 65537};
    uint64_t done = 0;
    bool right = true;
    for (int turn = 0; done < count; turn++) {
        size_t size = sizes[turn % 8] < count - done ? sizes[turn % 8] : count - done;
        ssize_t got = take_some(fd, buffer, size, turn);
        MUST(got > 0 && got <= (ssize_t)size);
        for (ssize_t index = 0; index < got; index++) right &= buffer[index] == pattern(done + index);
        done += got;
    }
    return right;
}

static bool serve(int fd)
{
    uint64_t order;
    if (!takes(fd, &order)) return false;
    uint64_t count = order & COUNT;
    switch (order >> 48) {
    case GATE:
        put(fd, order);
        while (atomic_load(gate)) sleep_ms(1);
        break;
    case TAKE: put(fd, takes_all(fd, count)); break;
    case GIVE:
        for (uint64_t done = 0; done < count;) {
            size_t length = 1 + (done * 31 + 7) % 9000;
            if (length > count - done) length = count - done;
            MUST(put_some(fd, data + done, length, done) == (ssize_t)length);
            done += length;
        }
        break;
    case DRAIN: {
        char bytes[50000] = {0};
        ssize_t got = 1;
        while (bytes[got - 1] == 0) MUST((got = read(fd, bytes, sizeof bytes)) > 0);
        put(fd, order);
        break;
    }
    case LEAVE: return false;
    case SHUT:
        MUST(shutdown(fd, SHUT_WR) == 0);
        CHECK_EQ(take(fd), 5);
        return false;
    case EXECUTE: {
        char number[16];
        snprintf(number, sizeof number, "%d", fd);
        execl(self, self, number, NULL);
        _exit(1);
    }
    case FILTER: {
        filter_reads();
        uint64_t value;
        CHECK_ERR(read(fd, &value, sizeof value), EXDEV);
        put(fd, order);
        return false;
    }
    case FLOOD:
        for (uint64_t number = 1;; number++) put(fd, number);
    default: put(fd, order);
    }
    return true;
}

static void *run(void *argument)
{
    struct line *it = argument;
    while (serve(it->theirs)) {}
    return NULL;
}

/* So often that it is seen who uses it. */
static void use(struct line *it)
{
    for (uint64_t round = 1; round <= 40; round++) {
        put(it->fd, round);
        CHECK_EQ(take(it->fd), round);
    }
}

static void connect_two(int ends[2])
{
    if (!tcp) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0);
        return;
    }
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    MUST(bind(listener, (void *)&address, length) == 0 && listen(listener, 1) == 0);
    MUST(getsockname(listener, (void *)&address, &length) == 0);
    MUST((ends[0] = socket(AF_INET, SOCK_STREAM, 0)) >= 0 && connect(ends[0], (void *)&address, length) == 0);
    MUST((ends[1] = accept(listener, NULL, NULL)) >= 0);
    for (int end = 0; end < 2; end++) MUST(setsockopt(ends[end], IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0);
    close(listener);
}

static void start(struct line *it)
{
    int ends[2];
    connect_two(ends);
    *it = (struct line){.fd = ends[0], .theirs = ends[1]};
    if (processes) {
        if ((it->child = child_fork()) == 0) {
            close(it->fd);
            run(it);
            child_exit();
        }
        close(it->theirs);
    } else {
        MUST(pthread_create(&it->thread, NULL, run, it) == 0);
    }
}

static struct line *begin(void)
{
    static struct line it;
    start(&it);
    use(&it);
    return &it;
}

static void joined(struct line *it)
{
    if (processes) {
        CHECK_CHILD(it->child);
    } else {
        MUST(pthread_join(it->thread, NULL) == 0);
        close(it->theirs);
    }
}

static void end(struct line *it)
{
    put(it->fd, ORDER(LEAVE, 0));
    joined(it);
    close(it->fd);
}

/* The partner does nothing until `opened`. */
static void shut(struct line *it)
{
    atomic_store(gate, 1);
    put(it->fd, ORDER(GATE, 0));
    take(it->fd);
}

static void contents(void)
{
    static const size_t sizes[] = {1, 100, 4096, 4097, 10240, 65535, 65536, 65537, 131072, 200000, 1000000};
    struct line *it = begin();
    for (int round = 0; round < 5; round++) {
        for (size_t index = 0; index < sizeof sizes / sizeof *sizes; index++) {
            put(it->fd, ORDER(TAKE, sizes[index]));
            CHECK_EQ(put_some(it->fd, data, sizes[index], round), sizes[index]);
            CHECK_EQ(take(it->fd), 1);
            put(it->fd, ORDER(GIVE, sizes[index]));
            CHECK(takes_all(it->fd, sizes[index]));
            if (round % 2) use(it);
        }
    }
    /* Many small ones that the other side is behind with. */
    for (int round = 0; round < 20; round++) {
        put(it->fd, ORDER(TAKE, 300000));
        for (size_t done = 0; done < 300000;) {
            size_t length = 1 + (done * 31 + round) % 3000;
            if (length > 300000 - done) length = 300000 - done;
            MUST(put_some(it->fd, data + done, length, round + done) == (ssize_t)length);
            done += length;
        }
        CHECK_EQ(take(it->fd), 1);
    }
    end(it);
}

/* Writes, with nobody to read, until there is no more room; how much. */
static ssize_t fill(struct line *it, size_t size, int flags)
{
    ssize_t sum = 0, count;
    shut(it);
    put(it->fd, ORDER(DRAIN, 0));
    while ((count = send(it->fd, zeros, size, flags)) > 0) sum += count;
    int failure = errno;
    CHECK_EQ(count, -1);
    CHECK_EQ(failure, EAGAIN);
    return sum;
}

static void drained(struct line *it)
{
    opened();
    CHECK_EQ(write(it->fd, "!", 1), 1);
    CHECK_EQ(take(it->fd), ORDER(DRAIN, 0));
}

/* Who writes without anybody to read gets as far as the buffer goes, and not only as far as a ring. */
static void room(void)
{
    struct line *it = begin();
    struct pollfd look = {.fd = it->fd, .events = POLLOUT};
    for (int round = 0; round < 4; round++) {
        use(it);
        shut(it);
        for (int part = 0; part < 4; part++) CHECK_EQ(write(it->fd, zeros, 35000), 35000);
        opened();
        for (int left = 140000; left > 0; left -= 8) take(it->fd);
        use(it);
        CHECK(fill(it, 50000, MSG_DONTWAIT) >= 140000);
        CHECK_EQ(poll(&look, 1, 0), 0);
        drained(it);
        use(it);
    }
    end(it);
}

static void looks(void)
{
    struct line *it = begin();
    struct pollfd look = {.fd = it->fd, .events = POLLIN};
    uint64_t value;
    for (uint64_t round = 1; round <= 40; round++) {
        CHECK_ERR(recv(it->fd, &value, 8, MSG_DONTWAIT), EAGAIN);
        put(it->fd, round);
        CHECK_EQ(poll(&look, 1, 5000), 1);
        CHECK_EQ(look.revents, POLLIN);
        if (round % 3 == 0) CHECK_EQ(queued(it->fd), 8);
        if (round % 4 == 0) CHECK_EQ(recv(it->fd, &value, 8, MSG_PEEK), 8);
        if (round % 5 == 0) CHECK_EQ(recv(it->fd, &value, 8, MSG_WAITALL), 8);
        else CHECK_EQ(recv(it->fd, &value, 8, round % 2 ? 0 : MSG_DONTWAIT), 8);
        CHECK_EQ(value, round);
        if (round % 10 == 0) use(it);
    }
    CHECK_EQ(fcntl(it->fd, F_SETFL, O_NONBLOCK), 0);
    for (uint64_t round = 1; round <= 50; round++) {
        CHECK_ERR(read(it->fd, &value, 8), EAGAIN);
        put(it->fd, round);
        while (read(it->fd, &value, 8) != 8) {}
        CHECK_EQ(value, round);
    }
    CHECK_EQ(fcntl(it->fd, F_SETFL, 0), 0);
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int epoll = epoll_create1(0);
    use(it);
    MUST(epoll >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, it->fd, &event) == 0);
    for (uint64_t round = 1; round <= 100; round++) {
        put(it->fd, round);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(it->fd), round);
    }
    event.events = EPOLLIN;
    MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, it->fd, &event) == 0);
    for (uint64_t round = 1; round <= 100; round++) {
        put(it->fd, round);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(told(epoll, 0), EPOLLIN);
        CHECK_EQ(take(it->fd), round);
        CHECK_EQ(told(epoll, 0), 0);
    }
    close(epoll);
    use(it);
    if (!tcp) {
        for (int round = 0; round < 5; round++) {
            int unsent = -1;
            shut(it);
            put(it->fd, 1);
            put(it->fd, 2);
            CHECK_EQ(ioctl(it->fd, TIOCOUTQ, &unsent), 0);
            CHECK(unsent >= 16);
            opened();
            CHECK_EQ(take(it->fd), 1);
            CHECK_EQ(take(it->fd), 2);
        }
    }
    end(it);
}

static unsigned long long through_loopback(void)
{
    char line[512];
    unsigned long long bytes = 0;
    FILE *counters = fopen("/proc/net/dev", "r");
    MUST(counters != NULL);
    while (fgets(line, sizeof line, counters)) sscanf(line, " lo: %llu", &bytes);
    fclose(counters);
    return bytes;
}

static void counted(void)
{
    if (!tcp) return;
    struct line *it = begin();
    for (int round = 0; round < 3; round++) {
        unsigned long long before = through_loopback();
        for (int turn = 0; turn < 10; turn++) use(it);
        CHECK(through_loopback() >= before + 2 * 10 * 40 * 8);
    }
    end(it);
}

static void option(int fd, int level, int name, int value) { CHECK_EQ(setsockopt(fd, level, name, &value, sizeof value), 0); }

static void options_change(void)
{
    struct line *it = begin();
    struct timeval wait = {0, 20000}, never = {0, 0};
    uint64_t value, values[2];
    for (int round = 0; round < 4; round++) {
        use(it);
        CHECK_EQ(setsockopt(it->fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait), 0);
        CHECK_ERR(read(it->fd, &value, 8), EAGAIN);
        put(it->fd, 3);
        CHECK_EQ(take(it->fd), 3);
        CHECK_ERR(read(it->fd, &value, 8), EAGAIN);
        CHECK_EQ(setsockopt(it->fd, SOL_SOCKET, SO_RCVTIMEO, &never, sizeof never), 0);
        use(it);
        CHECK_EQ(setsockopt(it->fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof wait), 0);
        fill(it, 40000, 0);
        CHECK_EQ(setsockopt(it->fd, SOL_SOCKET, SO_SNDTIMEO, &never, sizeof never), 0);
        drained(it);
        use(it);
        shut(it);
        option(it->fd, SOL_SOCKET, SO_RCVLOWAT, 16);
        put(it->fd, 1);
        put(it->fd, 2);
        opened();
        struct pollfd look = {.fd = it->fd, .events = POLLIN};
        CHECK_EQ(poll(&look, 1, 5000), 1);
        CHECK_EQ(read(it->fd, values, 16), 16);
        CHECK_EQ(values[1], 2);
        option(it->fd, SOL_SOCKET, SO_RCVLOWAT, 1);
        use(it);
        if (tcp) {
            /* What is held back comes first. */
            option(it->fd, IPPROTO_TCP, TCP_CORK, 1);
            put(it->fd, 1);
            option(it->fd, IPPROTO_TCP, TCP_CORK, 0);
            CHECK_EQ(take(it->fd), 1);
            value = 4;
            CHECK_EQ(send(it->fd, &value, 8, MSG_MORE), 8);
            put(it->fd, 5);
            CHECK_EQ(take(it->fd), 4);
            CHECK_EQ(take(it->fd), 5);
        } else {
            char control[CMSG_SPACE(sizeof(struct ucred))];
            struct iovec piece = {&value, 8};
            option(it->fd, SOL_SOCKET, SO_PASSCRED, 1);
            put(it->fd, 6);
            struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
            CHECK_EQ(recvmsg(it->fd, &message, 0), 8);
            MUST(CMSG_FIRSTHDR(&message) != NULL);
            struct ucred who;
            memcpy(&who, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof who);
            CHECK_EQ(who.pid, processes ? it->child : getpid());
            option(it->fd, SOL_SOCKET, SO_PASSCRED, 0);
        }
        use(it);
    }
    end(it);
}

static void urgent(void)
{
    if (!tcp) return;
    struct line *it = begin();
    char byte;
    for (int round = 0; round < 5; round++) {
        use(it);
        if (!processes) {
            shut(it);
            CHECK_EQ(send(it->fd, "!", 1, MSG_OOB), 1);
            struct pollfd look = {.fd = it->theirs, .events = POLLPRI};
            CHECK_EQ(poll(&look, 1, 5000), 1);
            CHECK_EQ(recv(it->theirs, &byte, 1, MSG_OOB), 1);
            CHECK_EQ(byte, '!');
            opened();
        }
        use(it);
    }
    end(it);
}

static void signals_come(void)
{
    static const int times[] = {1, 5, 20, 90};
    uint64_t value = 0;
    struct line *it = begin();
    for (int round = 0; round < 8; round++) {
        int time = times[round % 4];
        shut(it);
        catch_signal(SIGALRM, on_alarm, 0);
        timer_t timer = every(time);
        CHECK_ERR(round % 2 ? read(it->fd, &value, 8) : recv(it->fd, &value, 8, 0), EINTR);
        timer_delete(timer);
        opened();
        use(it);
        shut(it);
        atomic_store(&handled, 0);
        catch_signal(SIGALRM, on_alarm_open, SA_RESTART);
        put(it->fd, round + 1);
        timer = every(time);
        CHECK_EQ(round % 2 ? read(it->fd, &value, 8) : recv(it->fd, &value, 8, 0), 8);
        timer_delete(timer);
        CHECK_EQ(value, round + 1);
        CHECK(atomic_load(&handled) > 0);
        use(it);
        /* While it waits to write: what has gone is told, and nothing goes twice. */
        for (int restart = 0; restart < 2; restart++) {
            shut(it);
            catch_signal(SIGALRM, on_alarm, restart ? SA_RESTART : 0);
            static char piece[500000];
            uint64_t gone = 0, all = 8000000;
            put(it->fd, ORDER(TAKE, all));
            timer = every(time);
            while (gone < all) {
                size_t length = all - gone < sizeof piece ? all - gone : sizeof piece;
                for (size_t index = 0; index < length; index++) piece[index] = pattern(gone + index);
                ssize_t count = write(it->fd, piece, length);
                bool is_interrupted = errno == EINTR;
                MUST(count > 0 || is_interrupted);
                if (count > 0) gone += count;
                if (count < (ssize_t)length) opened();
            }
            timer_delete(timer);
            opened();
            CHECK_EQ(take(it->fd), 1);
            use(it);
        }
    }
    signal(SIGALRM, SIG_DFL);
    end(it);
}

static void somebody_ends(void)
{
    uint64_t value;
    signal(SIGPIPE, SIG_IGN);
    for (int round = 0; round < 4; round++) {
        struct line *it = begin();
        if (processes) {
            /* Killed: while it waits, and while it writes. */
            if (round % 2) put(it->fd, ORDER(FLOOD, 0));
            if (round / 2) sleep_ms(70);
            uint64_t last = 0;
            if (round % 2) for (; last < 20000; last++) MUST(take(it->fd) == last + 1);
            MUST(kill(it->child, SIGKILL) == 0);
            MUST(waitpid(it->child, NULL, 0) == it->child);
            ssize_t got;
            while ((got = recv(it->fd, &value, 8, MSG_WAITALL)) == 8) MUST(value == ++last);
            CHECK_EQ(got, 0);
            if (tcp) send(it->fd, &value, 8, 0);
            CHECK_ERR(send(it->fd, &value, 8, 0), EPIPE);
        } else {
            put(it->fd, ORDER(LEAVE, 0));
            MUST(pthread_join(it->thread, NULL) == 0);
            /* What it has not read is lost, and that is told. */
            put(it->fd, 7);
            close(it->theirs);
            CHECK_ERR(read(it->fd, &value, 8), ECONNRESET);
            CHECK_EQ(read(it->fd, &value, 8), 0);
            CHECK_ERR(write(it->fd, &value, 8), EPIPE);
        }
        close(it->fd);
    }
    /* It ends what it sends, and goes on. */
    struct line *it = begin();
    put(it->fd, ORDER(SHUT, 0));
    CHECK_EQ(read(it->fd, &value, 8), 0);
    struct pollfd look = {.fd = it->fd, .events = POLLIN | POLLRDHUP};
    CHECK_EQ(poll(&look, 1, 0), 1);
    CHECK_EQ(look.revents, POLLIN | POLLRDHUP);
    put(it->fd, 5);
    joined(it);
    close(it->fd);
    /* We end what we receive. */
    it = begin();
    CHECK_EQ(shutdown(it->fd, SHUT_RD), 0);
    CHECK_EQ(read(it->fd, &value, 8), 0);
    CHECK_EQ(shutdown(it->fd, SHUT_WR), 0);
    CHECK_ERR(write(it->fd, &value, 8), EPIPE);
    joined(it);
    close(it->fd);
    signal(SIGPIPE, SIG_DFL);
    pid_t child = child_fork();
    if (child == 0) {
        int ends[2];
        connect_two(ends);
        struct line own = {.fd = ends[0], .theirs = ends[1]};
        MUST(pthread_create(&own.thread, NULL, run, &own) == 0);
        use(&own);
        put(own.fd, ORDER(LEAVE, 0));
        pthread_join(own.thread, NULL);
        close(own.theirs);
        for (;;) put(own.fd, 1);
    }
    CHECK_EQ(wait_status(child), SIGPIPE);
}

static void stops(void)
{
    if (!processes) return;
    struct line *it = begin();
    int status;
    for (int round = 0; round < 6; round++) {
        use(it);
        if (round % 2) sleep_ms(100);
        MUST(kill(it->child, SIGSTOP) == 0 && waitpid(it->child, &status, WUNTRACED) == it->child && WIFSTOPPED(status));
        put(it->fd, 5);
        sleep_ms(5);
        CHECK_EQ(queued(it->fd), 0);
        MUST(kill(it->child, SIGCONT) == 0);
        CHECK_EQ(take(it->fd), 5);
    }
    end(it);
}

static void descriptors_change(void)
{
    struct line *it = begin();
    int other[2];
    connect_two(other);
    for (int round = 0; round < 5; round++) {
        /* Two for one end, in turn. */
        int copy = dup(it->fd), number = it->fd;
        for (uint64_t turn = 1; turn <= 20; turn++) {
            put(turn % 2 ? copy : it->fd, turn);
            CHECK_EQ(take(turn % 3 ? copy : it->fd), turn);
        }
        use(it);
        /* Its number stands for another one. */
        CHECK_EQ(dup2(other[1], number), number);
        put(number, 99);
        CHECK_EQ(take(other[0]), 99);
        it->fd = copy;
        use(it);
        CHECK_EQ(dup2(copy, number), number);
        use(it);
        close(copy);
        it->fd = number;
        use(it);
    }
    close(other[0]);
    close(other[1]);
    end(it);
}

static void children(void)
{
    struct line *it = begin();
    for (int round = 0; round < 5; round++) {
        use(it);
        put(it->fd, 11);
        pid_t child = child_fork();
        if (child == 0) {
            CHECK_EQ(take(it->fd), 11);
            use(it);
            put(it->fd, 12);
            child_exit();
        }
        CHECK_CHILD(child);
        CHECK_EQ(take(it->fd), 12);
        use(it);
        child = vfork();
        if (child == 0) {
            uint64_t value = 13;
            _exit(write(it->fd, &value, 8) != 8 || recv(it->fd, &value, 8, 0) != 8 || value != 13);
        }
        CHECK_CHILD(child);
        use(it);
        /* Both at once: nothing is lost, and nothing comes twice. */
        child = child_fork();
        if (child == 0) {
            for (uint64_t turn = 0; turn < 500; turn++) put(it->fd, 1000);
            child_exit();
        }
        uint64_t sum = 0;
        for (int turn = 0; turn < 500; turn++) {
            put(it->fd, 1);
            sum += take(it->fd);
        }
        for (int turn = 0; turn < 500; turn++) sum += take(it->fd);
        CHECK_EQ(sum, 500500);
        CHECK_CHILD(child);
    }
    if (processes) {
        for (int round = 0; round < 3; round++) {
            put(it->fd, ORDER(EXECUTE, 0));
            use(it);
            use(it);
        }
    }
    end(it);
}

/* Descriptors that travel among the bytes, and an end that is given away. */
static void passed_on(void)
{
    struct line *it = begin();
    uint64_t value = 21;
    int carrier[2], got;
    union { char space[CMSG_SPACE(sizeof(int))]; struct cmsghdr align; } control = {0};
    struct iovec piece = {&value, 8};
    struct msghdr message = {.msg_iov = &piece, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET, header->cmsg_type = SCM_RIGHTS, header->cmsg_len = CMSG_LEN(sizeof(int));
    if (!tcp) {
        for (int round = 0; round < 3; round++) {
            memcpy(CMSG_DATA(header), &it->fd, sizeof(int));
            value = 30 + round;
            shut(it);
            put(it->fd, 1);
            CHECK_EQ(sendmsg(it->fd, &message, 0), 8);
            put(it->fd, 2);
            opened();
            CHECK_EQ(take(it->fd), 1);
            CHECK_EQ(take(it->fd), 30 + round);
            CHECK_EQ(take(it->fd), 2);
            use(it);
        }
    }
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, carrier) == 0);
    memcpy(CMSG_DATA(header), &it->fd, sizeof(int));
    put(it->fd, 21);
    CHECK_EQ(sendmsg(carrier[1], &message, 0), 8);
    CHECK_EQ(close(it->fd), 0);
    CHECK_EQ(recvmsg(carrier[0], &message, 0), 8);
    memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof(int));
    it->fd = got;
    CHECK_EQ(take(it->fd), 21);
    use(it);
    close(carrier[0]);
    close(carrier[1]);
    end(it);
}

static int both[2];

static void *reads_bytes(void *argument)
{
    char bytes[100];
    ssize_t count;
    while ((count = read(both[0], bytes, sizeof bytes)) > 0)
        for (ssize_t index = 0; index < count; index++) atomic_fetch_add((atomic_int *)argument, bytes[index]);
    CHECK_EQ(count, 0);
    return NULL;
}

static void *writes_bytes(void *argument)
{
    char ones[1000];
    memset(ones, 1, sizeof ones);
    (void)argument;
    for (int round = 0; round < 1000; round++) MUST(write(both[1], ones, 1 + round % 900) == 1 + round % 900);
    return NULL;
}

/* Several at each end. */
static void crowds(void)
{
    if (processes) return;
    pthread_t readers[3], writers[3];
    atomic_int sum = 0;
    connect_two(both);
    for (int index = 0; index < 3; index++) MUST(pthread_create(&readers[index], NULL, reads_bytes, &sum) == 0);
    for (int index = 0; index < 3; index++) MUST(pthread_create(&writers[index], NULL, writes_bytes, NULL) == 0);
    for (int index = 0; index < 3; index++) pthread_join(writers[index], NULL);
    MUST(shutdown(both[1], SHUT_WR) == 0);
    for (int index = 0; index < 3; index++) pthread_join(readers[index], NULL);
    int expected = 0;
    for (int round = 0; round < 1000; round++) expected += 3 * (1 + round % 900);
    CHECK_EQ(atomic_load(&sum), expected);
    close(both[0]);
    close(both[1]);
}

/* More than a process can have of its own, in turn. */
static void many(void)
{
    enum { LINES = 70 };
    static struct line all[LINES];
    if (processes) return;
    for (int index = 0; index < LINES; index++) start(&all[index]);
    for (int round = 0; round < 40; round++) {
        for (int index = 0; index < LINES; index++) put(all[index].fd, round * 128 + index);
        for (int index = 0; index < LINES; index++) CHECK_EQ(take(all[index].fd), round * 128 + index);
    }
    for (int index = 0; index < LINES; index++) end(&all[index]);
    for (int index = 0; index < 20; index++) end(begin());
}

/* Both directions at once, in pieces at random. */
static void *stress_back(void *argument)
{
    int fd = *(int *)argument;
    unsigned seed = 7;
    for (size_t done = 0; done < sizeof data;) {
        size_t length = 1 + rand_r(&seed) % (rand_r(&seed) % 8 ? 2000 : 150000);
        if (length > sizeof data - done) length = sizeof data - done;
        MUST(put_some(fd, data + done, length, seed) == (ssize_t)length);
        done += length;
    }
    return NULL;
}

static void stress(void)
{
    int ends[2];
    for (int round = 0; round < 6; round++) {
        connect_two(ends);
        pid_t child = 0;
        pthread_t thread, there;
        if (processes && (child = child_fork()) == 0) {
            close(ends[0]);
            MUST(pthread_create(&thread, NULL, stress_back, &ends[1]) == 0);
            CHECK(takes_all(ends[1], sizeof data));
            pthread_join(thread, NULL);
            child_exit();
        }
        MUST(pthread_create(&thread, NULL, stress_back, &ends[0]) == 0);
        if (!processes) {
            MUST(pthread_create(&there, NULL, stress_back, &ends[1]) == 0);
            static char rest[sizeof data];
            struct pollfd looks[2] = {{.fd = ends[0], .events = POLLIN}, {.fd = ends[1], .events = POLLIN}};
            size_t got[2] = {0, 0};
            while (got[0] < sizeof data || got[1] < sizeof data) {
                MUST(poll(looks, 2, 5000) > 0);
                for (int side = 0; side < 2; side++) {
                    if (!(looks[side].revents & POLLIN)) continue;
                    ssize_t count = recv(ends[side], rest, 1 + got[side] % 100000, MSG_DONTWAIT);
                    MUST(count > 0);
                    MUST(memcmp(rest, data + got[side], count) == 0);
                    got[side] += count;
                }
            }
            pthread_join(there, NULL);
        } else {
            CHECK(takes_all(ends[0], sizeof data));
        }
        pthread_join(thread, NULL);
        if (child) CHECK_CHILD(child);
        if (child) { close(ends[0]); close(ends[1]); continue; }
        close(ends[0]);
        close(ends[1]);
    }
}

static void bad_memory(void)
{
    char *page = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED && mprotect(page + 4096, 4096, PROT_NONE) == 0);
    struct line *it = begin();
    struct iovec wild = {page + 4096, 8};
    for (int round = 0; round < 5; round++) {
        use(it);
        CHECK_ERR(write(it->fd, page + 4096, 8), EFAULT);
        CHECK_ERR(send(it->fd, (char *)-4096, 8, 0), EFAULT);
        CHECK_ERR(writev(it->fd, &wild, 1), EFAULT);
        put(it->fd, 9);
        CHECK_ERR(read(it->fd, page + 4096, 8), EFAULT);
        CHECK_ERR(readv(it->fd, &wild, 1), EFAULT);
        CHECK_EQ(take(it->fd), 9);
    }
    end(it);
    munmap(page, 8192);
}

static void *has_other_descriptors(void *argument)
{
    struct line *it = argument;
    MUST(unshare(CLONE_FILES) == 0);
    int other[2];
    connect_two(other);
    use(it);
    MUST(dup2(other[0], it->fd) == it->fd);
    for (uint64_t turn = 1; turn <= 40; turn++) {
        put(it->fd, turn);
        CHECK_EQ(take(other[1]), turn);
        put(other[1], turn);
        CHECK_EQ(take(it->fd), turn);
    }
    return NULL;
}

static void others_have_other_descriptors(void)
{
    pthread_t thread;
    struct line *it = begin();
    MUST(pthread_create(&thread, NULL, has_other_descriptors, it) == 0 && pthread_join(thread, NULL) == 0);
    use(it);
    end(it);
    if (!processes) return;
    it = begin();
    put_last(it->fd, ORDER(FILTER, 0));
    CHECK_EQ(take(it->fd), ORDER(FILTER, 0));
    CHECK_CHILD(it->child);
    close(it->fd);
}

int main(int count, char **arguments)
{
    prepare(arguments[0]);
    if (count == 2) {
        while (serve(atoi(arguments[1]))) {}
        return check_result();
    }
    void (*parts[])(void) = {contents, room, looks, counted, options_change, urgent, signals_come, somebody_ends, stops, descriptors_change,
        children, passed_on, crowds, many, stress, bad_memory, others_have_other_descriptors};
    for (int kind = 0; kind < 4; kind++) {
        processes = kind % 2;
        tcp = kind / 2;
        for (size_t part = 0; part < sizeof parts / sizeof *parts; part++) {
            if (getenv("PARTS")) fprintf(stderr, "%d %zu\n", kind, part);
            parts[part]();
        }
    }
    return check_result();
}
