/* Event loops over pipes and connections that two threads or processes use all the time, and who else waits, looks, changes the list,
 * duplicates, forks, closes and dies meanwhile. */
#include "lending.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

/* Who sends back what it gets: a thread, or a process. */
struct pair { int out, in; int their_in, their_out; bool is_process; pid_t child; pthread_t thread; };

static bool processes, sockets, tcp;

static void put(int fd, uint64_t value) { MUST(write(fd, &value, sizeof value) == sizeof value); }

static uint64_t take(int fd)
{
    uint64_t value = 0;
    MUST(read(fd, &value, sizeof value) == sizeof value);
    return value;
}

enum { LEAVE = 1 << 30, SLEEP };

/* By all partners, in memory that they have, too. */
static atomic_int *answered;

static void *echo(void *argument)
{
    struct pair *it = argument;
    for (;;) {
        uint64_t value = take(it->their_in);
        if (value == LEAVE) return NULL;
        if (value >> 32 == SLEEP) {
            struct timespec time = {0, value & 0xffffffff};
            nanosleep(&time, NULL);
        }
        put(it->their_out, value);
        atomic_fetch_add(answered, 1);
    }
}

/* Sends, and waits until the answer has come. */
static void put_and_see(struct pair *it, uint64_t value)
{
    int before = atomic_load(answered);
    put(it->out, value);
    while (atomic_load(answered) == before) usleep(100);
}

static void add(int epoll, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) == 0);
}

/* One round: sends, waits for events of `epoll`, which tells of `data`, and receives. */
static void round_trip(struct pair *it, int epoll, uint64_t data, uint64_t value)
{
    struct epoll_event events[4];
    put(it->out, value);
    MUST(epoll_wait(epoll, events, 4, 5000) == 1);
    CHECK_EQ(events[0].events, EPOLLIN);
    CHECK_EQ(events[0].data.u64, data);
    CHECK_EQ(take(it->in), value);
}

static void use(struct pair *it, int epoll)
{
    for (uint64_t round = 1; round <= 60; round++) round_trip(it, epoll, it->in, round);
}

/* Connected by TCP. */
static void connect_pair(int pair[2])
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), yes = 1;
    MUST(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 1) == 0);
    MUST(getsockname(listener, (void *)&address, &length) == 0);
    MUST((pair[0] = socket(AF_INET, SOCK_STREAM, 0)) >= 0);
    MUST(connect(pair[0], (void *)&address, sizeof address) == 0);
    MUST((pair[1] = accept(listener, NULL, NULL)) >= 0);
    for (int index = 0; index < 2; index++)
        MUST(setsockopt(pair[index], IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) == 0);
    close(listener);
}

static struct pair begin(void)
{
    struct pair it;
    int there[2], back[2];
    if (sockets) {
        if (tcp) connect_pair(there);
        else MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, there) == 0);
        it = (struct pair){there[0], there[0], there[1], there[1], processes, 0, 0};
    } else {
        MUST(pipe(there) == 0 && pipe(back) == 0);
        it = (struct pair){there[1], back[0], there[0], back[1], processes, 0, 0};
    }
    return it;
}

static void start(struct pair *it)
{
    if (it->is_process) {
        if ((it->child = child_fork()) == 0) {
            close(it->out);
            if (it->in != it->out) close(it->in);
            echo(it);
            child_exit();
        }
        close(it->their_in);
        if (it->their_in != it->their_out) close(it->their_out);
    } else {
        MUST(pthread_create(&it->thread, NULL, echo, it) == 0);
    }
}

static void close_own(struct pair *it)
{
    close(it->out);
    if (it->in != it->out) close(it->in);
}

static void close_theirs(struct pair *it)
{
    if (it->is_process) return;
    close(it->their_in);
    if (it->their_in != it->their_out) close(it->their_out);
}

static void end(struct pair *it)
{
    put(it->out, LEAVE);
    if (it->is_process) {
        CHECK_CHILD(it->child);
    } else {
        MUST(pthread_join(it->thread, NULL) == 0);
    }
    close_theirs(it);
    close_own(it);
}

static int loop_over(struct pair *it)
{
    int epoll = epoll_create1(0);
    MUST(epoll >= 0);
    add(epoll, it->in, EPOLLIN, it->in);
    return epoll;
}

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static struct epoll_event *volatile nowhere = (void *)8;

static void level(void)
{
    struct pair it = begin();
    int epoll = loop_over(&it);
    start(&it);
    use(&it, epoll);
    for (int round = 0; round < 50; round++) {
        /* Nothing, at once and after a time. */
        CHECK_EQ(told(epoll, 0), 0);
        uint64_t begun = now();
        CHECK_EQ(told(epoll, 3), 0);
        CHECK(now() - begun >= 3000000);
        /* As long as something is left. */
        put(it.out, 5);
        put(it.out, 6);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(it.in), 5);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(it.in), 6);
        CHECK_EQ(told(epoll, 0), 0);
        if (round % 5 == 0) use(&it, epoll);
    }
    /* What it is told with, and for. */
    for (int round = 0; round < 20; round++) {
        struct epoll_event event = {.events = EPOLLIN, .data.u64 = 0x123456789abcdef0 + round}, got;
        use(&it, epoll);
        MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, it.in, &event) == 0);
        round_trip(&it, epoll, event.data.u64, 3);
        event.events = 0;
        MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, it.in, &event) == 0);
        put(it.out, 4);
        CHECK_EQ(told(epoll, 2), 0);
        event.events = EPOLLIN;
        event.data.u64 = it.in;
        MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, it.in, &event) == 0);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, it.in, NULL) == 0);
        CHECK_EQ(told(epoll, 0), 0);
        CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, it.in, NULL), ENOENT);
        add(epoll, it.in, EPOLLIN, it.in);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(it.in), 4);
        CHECK_ERR(epoll_wait(epoll, &got, 0, 0), EINVAL);
        put(it.out, 9);
        CHECK_ERR(epoll_wait(epoll, nowhere, 1, 5000), EFAULT);
        CHECK_EQ(take(it.in), 9);
    }
    close(epoll);
    end(&it);
}

static void edges(void)
{
    struct pair it = begin();
    int epoll = epoll_create1(0);
    add(epoll, it.in, EPOLLIN | EPOLLET, it.in);
    start(&it);
    use(&it, epoll);
    for (int round = 0; round < 50; round++) {
        put(it.out, 5);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(told(epoll, round % 3), 0);
        put(it.out, 6);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(it.in), 5);
        CHECK_EQ(told(epoll, 0), 0);
        CHECK_EQ(take(it.in), 6);
        CHECK_EQ(told(epoll, 0), 0);
        use(&it, epoll);
    }
    struct epoll_event event = {.events = EPOLLIN | EPOLLONESHOT, .data.u64 = it.in};
    for (int round = 0; round < 50; round++) {
        MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, it.in, &event) == 0);
        put(it.out, 5);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(told(epoll, round % 2), 0);
        CHECK_EQ(take(it.in), 5);
    }
    close(epoll);
    end(&it);
}

/* What a server waits for, and what it is told with bytes. A unix socket has an edge for each byte that the other end reads, too. */
#define ALL (EPOLLIN | EPOLLRDHUP | (tcp ? EPOLLOUT : 0))
#define CAME (ALL & ~EPOLLRDHUP)

static void rearm(int epoll, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    MUST(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event) == 0);
}

/* Reads all that is there; how many values. */
static int drain(int fd)
{
    uint64_t value;
    int count = 0;
    for (ssize_t got; (got = recv(fd, &value, sizeof value, MSG_DONTWAIT)) > 0; count++) MUST(got == sizeof value);
    return count;
}

/* As servers wait that are told of edges: for all at once. Each round is told once, with all that it is ready for. */
static void edges_of_all(void)
{
    struct pair it = begin(), other = begin();
    int epoll = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK);
    struct epoll_event events[4];
    start(&it);
    add(epoll, it.in, ALL | EPOLLET, it.in);
    add(epoll, event, EPOLLIN | EPOLLET, event);
    CHECK_EQ(told(epoll, 0), CAME & ~EPOLLIN);
    CHECK_EQ(told(epoll, 0), 0);
    for (int round = 0; round < 30; round++) {
        for (int use = 0; use < 40; use++) {
            put(it.out, use);
            CHECK_EQ(told(epoll, 5000), CAME);
            if (use % 4 == 0) CHECK_EQ(told(epoll, 0), 0);
            CHECK_EQ(take(it.in), use);
            if (use % 4 == 1) CHECK_EQ(told(epoll, 0), 0);
            CHECK_EQ(drain(it.in), 0);
        }
        /* What is there already is no edge; what comes is, and what somebody asks for anew. */
        put(it.out, 1);
        CHECK_EQ(told(epoll, 5000), CAME);
        CHECK_EQ(told(epoll, round % 2), 0);
        rearm(epoll, it.in, ALL | EPOLLET, it.in);
        CHECK_EQ(told(epoll, 0), CAME);
        CHECK_EQ(told(epoll, 0), 0);
        rearm(epoll, it.in, EPOLLIN, it.in);
        CHECK_EQ(told(epoll, 0), EPOLLIN);
        CHECK_EQ(told(epoll, 0), EPOLLIN);
        rearm(epoll, it.in, ALL | EPOLLET, it.in);
        CHECK_EQ(told(epoll, 0), CAME);
        /* One of which nobody was told, since then, whatever else is told of, and whoever looks. */
        CHECK_EQ(told(epoll, 0), 0);
        put(event, 1);
        CHECK_EQ(told(epoll, 0), EPOLLIN);
        CHECK_EQ(told(epoll, 0), 0);
        struct pollfd look = {.fd = round % 2 ? epoll : it.in, .events = POLLIN};
        CHECK_EQ(poll(&look, 1, 0), look.fd == it.in);
        CHECK_EQ(told(epoll, 0), 0);
        put_and_see(&it, 2);
        put(event, 1);
        CHECK_EQ(epoll_wait(epoll, events, 4, 0), 2);
        CHECK_EQ(told(epoll, 0), 0);
        CHECK_EQ(drain(it.in), 2);
        put_and_see(&it, 3);
        CHECK_EQ(poll(&look, 1, 0), 1);
        /* What has been read before it was told of. */
        if (round % 2) CHECK_EQ(drain(it.in), 1);
        CHECK_EQ(told(epoll, 0), (int)(round % 2 ? CAME & ~EPOLLIN : CAME));
        if (round % 2 == 0) CHECK_EQ(drain(it.in), 1);
        CHECK_EQ(told(epoll, 0), 0);
        put_and_see(&it, 4);
        CHECK_ERR(epoll_wait(epoll, nowhere, 1, 5000), EFAULT);
        CHECK_EQ(told(epoll, 0), CAME);
        CHECK_EQ(drain(it.in), 1);
        eventfd_t value;
        eventfd_read(event, &value);
    }
    close(epoll);
    close(event);
    end(&it);
    close_own(&other);
    close_theirs(&other);
}

/* Who is told of edges in several lists, or of one by several descriptors, and who is told besides as long as something is there. */
static void edges_of_several(void)
{
    struct pair it = begin();
    int lists[3] = {epoll_create1(0), epoll_create1(0), epoll_create1(0)}, also = dup(it.in);
    start(&it);
    add(lists[0], it.in, EPOLLIN | EPOLLET, 1);
    for (int round = 0; round < 12; round++) {
        struct epoll_event events[4];
        for (int use = 0; use < 30; use++) {
            put(it.out, use);
            CHECK_EQ(told(lists[0], 5000), EPOLLIN);
            CHECK_EQ(take(it.in), use);
        }
        add(lists[1], it.in, EPOLLIN | EPOLLET, 2);
        add(lists[2], it.in, EPOLLIN, 3);
        if (round % 3 == 0) add(lists[0], also, EPOLLIN | EPOLLET, 4);
        for (int use = 0; use < 30; use++) {
            put(it.out, use);
            CHECK_EQ(told(lists[2], 5000), EPOLLIN);
            CHECK_EQ(told(lists[2], 0), EPOLLIN);
            CHECK_EQ(told(lists[1], 5000), EPOLLIN);
            CHECK_EQ(epoll_wait(lists[0], events, 4, 5000), round % 3 == 0 ? 2 : 1);
            CHECK_EQ(told(lists[1], 0), 0);
            CHECK_EQ(told(lists[0], 0), 0);
            CHECK_EQ(take(it.in), use);
            CHECK_EQ(told(lists[2], 0), 0);
        }
        for (int index = 1; index < 3; index++) MUST(epoll_ctl(lists[index], EPOLL_CTL_DEL, it.in, NULL) == 0);
        if (round % 3 == 0) MUST(epoll_ctl(lists[0], EPOLL_CTL_DEL, also, NULL) == 0);
    }
    for (int index = 0; index < 3; index++) close(lists[index]);
    close(also);
    end(&it);
}

/* The other end says that it sends no more, or goes, in the middle of edges. */
static void edges_end(void)
{
    for (int round = 0; round < 20; round++) {
        struct pair it = begin();
        int epoll = epoll_create1(0);
        add(epoll, it.in, ALL | EPOLLET, it.in);
        CHECK_EQ(told(epoll, 0), CAME & ~EPOLLIN);
        for (int use = 0; use < 40; use++) {
            put(it.their_out, use);
            CHECK_EQ(told(epoll, 5000), CAME);
            CHECK_EQ(take(it.in), use);
            put(it.out, use);
            CHECK_EQ(take(it.their_in), use);
            if (use % 8 == 7) CHECK_EQ(told(epoll, 0), 0);
        }
        if (round % 2) put(it.their_out, 1);
        MUST(shutdown(it.their_out, SHUT_WR) == 0);
        sleep_ms(1);
        CHECK_EQ(told(epoll, 5000), CAME | EPOLLRDHUP);
        CHECK_EQ(drain(it.in), round % 2);
        CHECK_EQ(told(epoll, 0), 0);
        put(it.out, 1);
        CHECK_EQ(take(it.their_in), 1);
        close(it.their_in);
        if (!tcp) CHECK(told(epoll, 5000) & EPOLLHUP);
        close(epoll);
        close_own(&it);
    }
}

/* No edge is lost, whoever is in the middle of what: each time all is read, until there is nothing. */
static void stress_edges(void)
{
    enum { PAIRS = 6 };
    struct pair all[PAIRS];
    uint64_t random = 88172645463325252ull, rounds = 0;
    int epoll = epoll_create1(0), event = eventfd(0, EFD_NONBLOCK), asked[PAIRS] = {0};
    add(epoll, event, EPOLLIN | EPOLLET, PAIRS);
    for (int index = 0; index < PAIRS; index++) {
        all[index] = begin();
        add(epoll, all[index].in, (index % 3 ? ALL : EPOLLIN | EPOLLRDHUP) | EPOLLET, index);
        start(&all[index]);
    }
    for (uint64_t begun = now(); now() - begun < 1500000000; rounds++) {
        int left = 0;
        for (int index = 0; index < PAIRS; index++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            asked[index] = random % 4;
            for (int count = 0; count < asked[index]; count++)
                put(all[index].out, random >> (8 + count) & 7 ? 1 : (uint64_t)SLEEP << 32 | (random >> 20 & 0x1ffff));
            left += asked[index];
        }
        if ((random >> 16 & 7) == 0) put(event, 1);
        if ((random >> 20 & 15) == 0) rearm(epoll, all[1].in, ALL | EPOLLET, 1);
        if ((random >> 24 & 15) == 0) told(epoll, 0) ? (void)(left -= drain(all[0].in)) : (void)0;
        /* What the line above has been told of. */
        for (int index = 0; index < PAIRS; index++) left -= index && (random >> 24 & 15) == 0 ? drain(all[index].in) : 0;
        while (left > 0) {
            struct epoll_event events[3];
            int count = epoll_wait(epoll, events, 1 + random % 3, 4000);
            if (count <= 0) {
                CHECK_FAIL("no edge for four seconds after %llu rounds, %d are left", (unsigned long long)rounds, left);
                _exit(1);
            }
            for (int index = 0; index < count; index++)
                if (events[index].data.u64 < PAIRS) left -= drain(all[events[index].data.u64].in);
        }
        CHECK_EQ(left, 0);
    }
    close(epoll);
    close(event);
    for (int index = 0; index < PAIRS; index++) end(&all[index]);
}

/* A busy pair does not keep others from being told of: each in its turn, however few are told of at once. */
static void others_are_told(void)
{
    struct pair it = begin(), second = begin();
    int epoll = loop_over(&it), event = eventfd(0, EFD_NONBLOCK), timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event events[4];
    start(&it);
    start(&second);
    MUST(event >= 0 && timer >= 0);
    use(&it, epoll);
    add(epoll, event, EPOLLIN, event);
    add(epoll, timer, EPOLLIN, timer);
    for (int round = 0; round < 30; round++) {
        struct itimerspec when = {{0, 0}, {0, 2000000}};
        int busy = 0, timed = 0, signalled = 0;
        use(&it, epoll);
        put(it.out, 1);
        put(it.out, 1);
        MUST(timerfd_settime(timer, 0, &when, NULL) == 0);
        for (uint64_t start = now(); !(timed && busy) && now() - start < 5000000000;) {
            MUST(epoll_wait(epoll, events, 1, 5000) == 1);
            if ((int)events[0].data.u64 == timer) timed = take(timer) == 1;
            else if ((int)events[0].data.u64 == it.in) put(it.out, take(it.in)), busy++;
        }
        CHECK(timed && busy);
        put(event, 1);
        for (int turn = 0; !signalled && turn < 10; turn++) {
            MUST(epoll_wait(epoll, events, 1, 5000) == 1);
            if ((int)events[0].data.u64 == event) signalled = take(event) == 1;
            else put(it.out, take(it.in));
        }
        CHECK(signalled);
        take(it.in);
        take(it.in);
    }
    /* Two that are ready all the time. */
    add(epoll, second.in, EPOLLIN, second.in);
    for (int round = 0; round < 60; round++) {
        put(it.out, 1);
        put(second.out, 2);
        for (int left = 2; left > 0;) {
            int count = epoll_wait(epoll, events, 4, 5000);
            MUST(count > 0);
            for (int index = 0; index < count; index++) {
                int fd = events[index].data.u64;
                CHECK_EQ(take(fd), fd == it.in ? 1 : 2);
                left--;
            }
        }
    }
    put(it.out, 1);
    put(second.out, 2);
    sleep_ms(20);
    int turns[2] = {0, 0};
    for (int turn = 0; turn < 20; turn++) {
        MUST(epoll_wait(epoll, events, 1, 5000) == 1);
        turns[(int)events[0].data.u64 == second.in]++;
    }
    CHECK(turns[0] >= 8 && turns[1] >= 8);
    take(it.in);
    take(second.in);
    close(event);
    close(timer);
    close(epoll);
    end(&it);
    end(&second);
}

static void *waits_for_event(void *argument)
{
    return (void *)(intptr_t)told(*(int *)argument, 5000);
}

/* Others wait on the same list, in another list that has it, by poll(2), in a child. */
static void others_wait(void)
{
    struct pair it = begin();
    int epoll = loop_over(&it), outer = epoll_create1(0);
    start(&it);
    use(&it, epoll);
    add(outer, epoll, EPOLLIN, 1);
    int *waited[2] = {&epoll, &outer};
    for (int round = 0; round < 40; round++) {
        pthread_t thread;
        void *got;
        use(&it, epoll);
        MUST(pthread_create(&thread, NULL, waits_for_event, waited[round % 2]) == 0);
        if (round % 4 / 2) sleep_ms(3);
        put(it.out, 5);
        MUST(pthread_join(thread, &got) == 0);
        CHECK_EQ((intptr_t)got, EPOLLIN);
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        struct pollfd look[2] = {{.fd = epoll, .events = POLLIN}, {.fd = it.in, .events = POLLIN}};
        CHECK_EQ(poll(look, 2, 5000), 2);
        CHECK_EQ(take(it.in), 5);
        CHECK_EQ(poll(look, 2, 0), 0);
        CHECK_EQ(told(outer, 0), 0);
        if (round % 8 == 7) {
            pid_t child = child_fork();
            if (child == 0) {
                CHECK_EQ(told(epoll, 5000), EPOLLIN);
                child_exit();
            }
            if (round % 16 == 7) sleep_ms(3);
            put(it.out, 7);
            CHECK_CHILD(child);
            CHECK_EQ(told(epoll, 5000), EPOLLIN);
            CHECK_EQ(take(it.in), 7);
        }
    }
    close(outer);
    close(epoll);
    end(&it);
}

static void descriptors_change(void)
{
    struct pair it = begin();
    int epoll = loop_over(&it);
    start(&it);
    for (int round = 0; round < 10; round++) {
        struct epoll_event events[4];
        use(&it, epoll);
        /* A second one for the list, and one for what is in it. */
        int copy = dup(epoll), also = dup(it.in);
        put(it.out, 5);
        CHECK_EQ(told(copy, 5000), EPOLLIN);
        CHECK_EQ(take(also), 5);
        add(copy, also, EPOLLIN, 77);
        put(it.out, 6);
        for (uint64_t start = now(); epoll_wait(epoll, events, 4, 5000) != 2 && now() - start < 5000000000;) {}
        CHECK_EQ(take(it.in), 6);
        MUST(epoll_ctl(epoll, EPOLL_CTL_DEL, also, NULL) == 0);
        close(also);
        use(&it, copy);
        close(copy);
    }
    close(epoll);
    end(&it);
}

static void room(void)
{
    static char data[1 << 20];
    struct pair it = begin();
    int epoll = epoll_create1(0);
    MUST(fcntl(it.out, F_SETFL, O_NONBLOCK) == 0);
    add(epoll, it.out, EPOLLOUT, 1);
    for (int round = 0; round < 20; round++) {
        for (int use = 0; use < 20; use++) {
            CHECK_EQ(told(epoll, 0), EPOLLOUT);
            put(it.out, use);
            CHECK_EQ(take(it.their_in), use);
        }
        size_t sum = 0, back = 0;
        for (ssize_t gone; (gone = write(it.out, data, 4096)) > 0;) sum += gone;
        CHECK_EQ(told(epoll, 1), 0);
        pthread_t thread;
        void *got;
        MUST(pthread_create(&thread, NULL, waits_for_event, &epoll) == 0);
        if (round % 2) sleep_ms(3);
        while (back < sum) {
            ssize_t count = read(it.their_in, data, 4096);
            MUST(count > 0);
            back += count;
        }
        MUST(pthread_join(thread, &got) == 0);
        CHECK_EQ((intptr_t)got, EPOLLOUT);
    }
    close(epoll);
    close_own(&it);
    it.is_process = false;
    close_theirs(&it);
}

static atomic_int handled;
static void on_alarm(int number) { (void)number; atomic_fetch_add(&handled, 1); }

static void signals_come(void)
{
    struct pair it = begin();
    int epoll = loop_over(&it);
    struct epoll_event event;
    start(&it);
    for (int round = 0; round < 20; round++) {
        use(&it, epoll);
        catch_signal(SIGALRM, on_alarm, round % 2 ? SA_RESTART : 0);
        struct itimerspec when = {{0, 5000000}, {0, 5000000}};
        struct sigevent to = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
        timer_t timer;
        to._sigev_un._tid = (int)syscall(SYS_gettid);
        MUST(timer_create(CLOCK_MONOTONIC, &to, &timer) == 0 && timer_settime(timer, 0, &when, NULL) == 0);
        CHECK_ERR(epoll_wait(epoll, &event, 1, -1), EINTR);
        timer_delete(timer);
        /* One that only the wait lets through. */
        sigset_t blocked, none;
        sigemptyset(&none);
        sigemptyset(&blocked);
        sigaddset(&blocked, SIGALRM);
        MUST(pthread_sigmask(SIG_BLOCK, &blocked, NULL) == 0 && pthread_kill(pthread_self(), SIGALRM) == 0);
        CHECK_EQ(told(epoll, 0), 0);
        CHECK_ERR(epoll_pwait(epoll, &event, 1, 1000, &none), EINTR);
        MUST(pthread_sigmask(SIG_UNBLOCK, &blocked, NULL) == 0);
    }
    signal(SIGALRM, SIG_DFL);
    close(epoll);
    end(&it);
}

static void somebody_ends(void)
{
    uint64_t value;
    signal(SIGPIPE, SIG_IGN);
    for (int round = 0; round < 20; round++) {
        struct pair it = begin();
        int epoll = epoll_create1(0);
        add(epoll, it.in, EPOLLIN | EPOLLRDHUP, it.in);
        start(&it);
        use(&it, epoll);
        uint32_t ended = sockets ? EPOLLIN | EPOLLHUP | EPOLLRDHUP : EPOLLHUP;
        if (processes) {
            /* In the middle of many answers, or while it waits. */
            if (round % 2) for (int count = 0; count < 500; count++) put(it.out, count);
            if (round % 4 / 2) sleep_ms(1);
            MUST(kill(it.child, SIGKILL) == 0);
            int count = 0;
            uint32_t events;
            while (((events = told(epoll, 5000)) & EPOLLIN) && read(it.in, &value, 8) == 8) MUST(value == (uint64_t)count++);
            CHECK(events & EPOLLHUP);
            if (!(round % 2)) CHECK_EQ(events, ended);
            MUST(waitpid(it.child, NULL, 0) == it.child);
        } else {
            put(it.out, LEAVE);
            MUST(pthread_join(it.thread, NULL) == 0);
            CHECK_EQ(told(epoll, 0), 0);
            close_theirs(&it);
            CHECK_EQ(told(epoll, 0), ended);
            CHECK_EQ(told(epoll, 5000), ended);
        }
        close(epoll);
        close_own(&it);
    }
    signal(SIGPIPE, SIG_DFL);
}

static int change(int epoll, int operation, int fd, uint32_t events, uint64_t data)
{
    struct epoll_event event = {.events = events, .data.u64 = data};
    return epoll_ctl(epoll, operation, fd, &event) == 0 ? 0 : errno;
}

/* What is waited for by `fd`, as /proc shows it; 0: it is not in the list. */
static uint32_t shown(int epoll, int fd, uint64_t *data)
{
    char path[64], line[256];
    unsigned events = 0;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", epoll);
    FILE *file = fopen(path, "r");
    MUST(file);
    while (fgets(line, sizeof line, file)) {
        unsigned now;
        unsigned long long now_data;
        int now_fd;
        if (sscanf(line, "tfd: %d events: %x data: %llx", &now_fd, &now, &now_data) == 3 && now_fd == fd) {
            events = now;
            *data = now_data;
        }
    }
    fclose(file);
    return events;
}

struct other { int epoll, operation, fd; };

static void *changes_too(void *argument)
{
    struct other *it = argument;
    return (void *)(intptr_t)change(it->epoll, it->operation, it->fd, EPOLLIN, it->fd);
}

static int change_elsewhere(int epoll, int operation, int fd)
{
    struct other it = {epoll, operation, fd};
    pthread_t thread;
    void *result;
    MUST(pthread_create(&thread, NULL, changes_too, &it) == 0 && pthread_join(thread, &result) == 0);
    return (intptr_t)result;
}

static void *closes(void *argument)
{
    close(*(int *)argument);
    return NULL;
}

static void close_elsewhere(int fd)
{
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, closes, &fd) == 0 && pthread_join(thread, NULL) == 0);
}

/* Who waits for one thing after the other takes the one out of the list and puts the other in. Each change counts at once, for whoever
 * looks; and whoever changes the list is told of what is so by then. */
static void interests_change(void)
{
    struct pair it = begin();
    int epoll = loop_over(&it), fd = it.in;
    uint64_t data;
    start(&it);
    for (int round = 0; round < 40; round++) {
        use(&it, epoll);
        for (int turn = 0; turn < 30; turn++) {
            put(it.out, turn);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, turn), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_DEL, fd, 0, 0), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLRDHUP, turn + ((uint64_t)round << 40)), 0);
            struct epoll_event event;
            MUST(epoll_wait(epoll, &event, 1, 5000) == 1);
            CHECK_EQ(event.events, EPOLLIN);
            CHECK_EQ(event.data.u64, turn + ((uint64_t)round << 40));
            CHECK_EQ(take(fd), turn);
            if (sockets) {
                CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLOUT, 1), 0);
                CHECK_EQ(told(epoll, 5000), EPOLLOUT);
                CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLOUT, 1), 0);
                CHECK_EQ(told(epoll, 5000), EPOLLOUT);
            }
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), 0);
            CHECK_EQ(told(epoll, 0), 0);
        }
        CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), EEXIST);
        CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, fd, nowhere), EFAULT);
        CHECK_EQ(change(epoll, 4, fd, EPOLLIN, fd), EINVAL);
        CHECK_EQ(change(epoll, EPOLL_CTL_MOD, epoll, EPOLLIN, fd), EINVAL);
        CHECK_EQ(change(epoll, EPOLL_CTL_DEL, fd, 0, 0), 0);
        CHECK_EQ(change(epoll, EPOLL_CTL_DEL, fd, 0, 0), ENOENT);
        CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), ENOENT);
        CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, nowhere), EFAULT);
        put(it.out, 5);
        CHECK_EQ(told(epoll, 2), 0);
        switch (round % 8) {
        case 0: /* Who looks. */
            CHECK_EQ(shown(epoll, fd, &data), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, 0x1234567890), 0);
            CHECK_EQ(shown(epoll, fd, &data), EPOLLIN | EPOLLERR | EPOLLHUP);
            CHECK_EQ(data, 0x1234567890);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), 0);
            break;
        case 1: /* Another thread, which changes it as well. */
            CHECK_EQ(change_elsewhere(epoll, EPOLL_CTL_DEL, fd), ENOENT);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), 0);
            CHECK_EQ(change_elsewhere(epoll, EPOLL_CTL_ADD, fd), EEXIST);
            CHECK_EQ(change_elsewhere(epoll, EPOLL_CTL_DEL, fd), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), ENOENT);
            CHECK_EQ(change_elsewhere(epoll, EPOLL_CTL_ADD, fd), 0);
            break;
        case 2: { /* One that waits already. */
            pthread_t thread;
            void *got;
            MUST(pthread_create(&thread, NULL, waits_for_event, &epoll) == 0);
            if (round & 8) sleep_ms(2);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), 0);
            MUST(pthread_join(thread, &got) == 0);
            CHECK_EQ((intptr_t)got, EPOLLIN);
            break;
        }
        case 3: { /* A child, which has the same list. */
            pid_t child = child_fork();
            if (child == 0) {
                CHECK_EQ(change(epoll, EPOLL_CTL_DEL, fd, 0, 0), ENOENT);
                CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), 0);
                CHECK_EQ(told(epoll, 5000), EPOLLIN);
                child_exit();
            }
            CHECK_CHILD(child);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), EEXIST);
            break;
        }
        case 4: { /* By another descriptor of the list's; and another one of what is in it. */
            int copy = dup(epoll), also = dup(fd);
            CHECK_EQ(change(copy, EPOLL_CTL_ADD, fd, EPOLLIN, fd), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, also, EPOLLIN, also), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_DEL, also, 0, 0), 0);
            close(also);
            close(copy);
            break;
        }
        case 5: { /* Who closes the descriptor, while the file goes on. */
            int also = dup(fd);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, 5), 0);
            CHECK_EQ(told(epoll, 5000), EPOLLIN);
            close_elsewhere(fd);
            CHECK_EQ(change(epoll, EPOLL_CTL_DEL, fd, 0, 0), EBADF);
            CHECK_EQ(told(epoll, 5000), EPOLLIN);
            MUST(dup2(also, fd) == fd && close(also) == 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), 0);
            break;
        }
        case 6: { /* In the same way, and something else comes in its place. */
            int also = dup(fd);
            close_elsewhere(fd);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), EBADF);
            int own = eventfd(0, 0);
            if (own != fd) MUST(dup2(own, fd) == fd && close(own) == 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), 0);
            CHECK_EQ(told(epoll, 2), 0);
            MUST(dup2(also, fd) == fd && close(also) == 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), ENOENT);
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN, fd), 0);
            break;
        }
        default: /* Ways that are not lent. */
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, EPOLLIN | EPOLLONESHOT, fd), 0);
            CHECK_EQ(told(epoll, 5000), EPOLLIN);
            CHECK_EQ(told(epoll, 0), 0);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN | EPOLLEXCLUSIVE, fd), EINVAL);
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, EPOLLIN, fd), 0);
        }
        CHECK_EQ(told(epoll, 5000), EPOLLIN);
        CHECK_EQ(take(fd), 5);
    }
    close(epoll);
    end(&it);
}

/* Changes at random, against what Linux says of each. */
static void changes_at_random(void)
{
    enum { PAIRS = 4 };
    struct pair all[PAIRS];
    struct { uint32_t events; uint64_t data; int bytes; } is[PAIRS] = {0};
    uint64_t random = 88172645463325252ull + sockets;
    int epoll = epoll_create1(0), due = atomic_load(answered);
    for (int index = 0; index < PAIRS; index++) {
        all[index] = begin();
        is[index].events = EPOLLIN;
        is[index].data = index;
        add(epoll, all[index].in, EPOLLIN, index);
        start(&all[index]);
    }
    for (uint64_t begun = now(); now() - begun < 700000000;) {
        random ^= random << 13, random ^= random >> 7, random ^= random << 17;
        int which = random % PAIRS, fd = all[which].in;
        uint32_t events = (uint32_t[]){EPOLLIN, EPOLLIN, EPOLLOUT, EPOLLIN | EPOLLOUT, 0, EPOLLIN | EPOLLET}[(random >> 8) % 6];
        uint64_t data = random >> 3;
        if (!sockets) events &= ~EPOLLOUT;
        switch ((random >> 16) % 8) {
        case 0:
            CHECK_EQ(change(epoll, EPOLL_CTL_ADD, fd, events, data), is[which].events ? EEXIST : 0);
            if (!is[which].events) is[which].events = events | EPOLLERR, is[which].data = data;
            break;
        case 1:
            CHECK_EQ(change(epoll, EPOLL_CTL_DEL, fd, 0, 0), is[which].events ? 0 : ENOENT);
            is[which].events = 0;
            break;
        case 2:
        case 3:
            CHECK_EQ(change(epoll, EPOLL_CTL_MOD, fd, events, data), is[which].events ? 0 : ENOENT);
            if (is[which].events) is[which].events = events | EPOLLERR, is[which].data = data;
            break;
        case 4:
        case 5:
            if (is[which].bytes < 10) {
                put(all[which].out, 7);
                is[which].bytes++;
                due++;
            }
            break;
        case 6:
            if (is[which].bytes > 0) {
                CHECK_EQ(take(fd), 7);
                is[which].bytes--;
            }
            break;
        default: {
            struct epoll_event got[PAIRS];
            uint64_t seen;
            uint32_t expected[PAIRS] = {0}, found[PAIRS] = {0};
            /* Bytes may be seen a little before epoll_wait tells of them: the write has to return. */
            while (atomic_load(answered) != due) usleep(100);
            for (int turn = 0; turn < 3; turn++) {
                memset(found, 0, sizeof found);
                int count = epoll_wait(epoll, got, PAIRS, 0);
                MUST(count >= 0);
                for (int index = 0; index < count; index++) {
                    for (int it = 0; it < PAIRS; it++)
                        if (is[it].events && is[it].data == got[index].data.u64) found[it] |= got[index].events;
                }
                for (int it = 0; it < PAIRS; it++) {
                    if (is[it].events & EPOLLET) continue;
                    expected[it] = is[it].events & ((is[it].bytes ? EPOLLIN : 0) | EPOLLOUT);
                    CHECK_EQ(found[it], expected[it]);
                }
            }
            if (random >> 24 & 1) {
                uint32_t now_shown = shown(epoll, fd, &seen);
                CHECK_EQ(now_shown, is[which].events ? is[which].events | EPOLLERR | EPOLLHUP : 0);
                if (now_shown) CHECK_EQ(seen, is[which].data);
            }
        }
        }
    }
    close(epoll);
    for (int index = 0; index < PAIRS; index++) {
        while (is[index].bytes-- > 0) CHECK_EQ(take(all[index].in), 7);
        end(&all[index]);
    }
}

/* No wake-up is lost, whoever is in the middle of what. */
static void stress(void)
{
    enum { PAIRS = 5 };
    struct pair all[PAIRS];
    uint64_t random = 88172645463325252ull, out[PAIRS] = {0}, rounds = 0;
    int epoll = epoll_create1(0);
    for (int index = 0; index < PAIRS; index++) {
        all[index] = begin();
        add(epoll, all[index].in, index % 2 && sockets ? EPOLLIN | EPOLLET : EPOLLIN, index);
        start(&all[index]);
    }
    for (uint64_t begun = now(); now() - begun < 1500000000;) {
        int asked = 0;
        for (int index = 0; index < PAIRS; index++) {
            random ^= random << 13, random ^= random >> 7, random ^= random << 17;
            if (random % 3 == 0) continue;
            /* Sometimes it sleeps a little before it answers, so that we wait in all ways. */
            out[index] = random >> 8 & 3 ? random >> 40 | 1 : (uint64_t)SLEEP << 32 | (random >> 20 & 0x3ffff);
            if (out[index] == LEAVE) out[index]++;
            put(all[index].out, out[index]);
            asked++;
        }
        if (random >> 16 & 1) for (int spin = random >> 17 & 0xfff; spin > 0; spin--) __asm__ volatile("pause");
        while (asked > 0) {
            struct epoll_event events[3];
            int count = epoll_wait(epoll, events, 1 + random % 3, 4000);
            if (count <= 0) {
                CHECK_FAIL("nothing for four seconds after %llu rounds, %d are left", (unsigned long long)rounds, asked);
                _exit(1);
            }
            for (int index = 0; index < count; index++) {
                int which = events[index].data.u64;
                CHECK_EQ(take(all[which].in), out[which]);
                asked--;
            }
        }
        rounds++;
    }
    close(epoll);
    for (int index = 0; index < PAIRS; index++) end(&all[index]);
}

int main(void)
{
    answered = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(answered != MAP_FAILED);
    for (int kind = 0; kind < 4; kind++) {
        processes = kind & 1;
        sockets = kind & 2;
        level();
        edges();
        others_are_told();
        others_wait();
        descriptors_change();
        room();
        signals_come();
        somebody_ends();
        interests_change();
        changes_at_random();
        stress();
    }
    sockets = true;
    for (int kind = 0; kind < 4; kind++) {
        processes = kind & 1;
        tcp = kind & 2;
        edges_of_all();
        edges_of_several();
        edges_end();
        stress_edges();
    }
    return check_result();
}
