/* epoll(7): level and edge triggering, one shot, changes, exclusive wake-ups, nesting, loops, closed descriptors, errors. */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

static int wait_now(int epoll, struct epoll_event *events) { return epoll_wait(epoll, events, 8, 0); }

static int control(int epoll, int operation, int fd, unsigned events, unsigned long data)
{
    struct epoll_event event = { events, { .u64 = data } };
    return epoll_ctl(epoll, operation, fd, &event);
}

static atomic_int woken;
static void *wait_once(void *argument)
{
    struct epoll_event event;
    if (epoll_wait(*(int *)argument, &event, 1, 500) == 1) atomic_fetch_add(&woken, 1);
    return NULL;
}

int main(void)
{
    struct epoll_event events[8];
    int epoll = epoll_create1(EPOLL_CLOEXEC), p[2], file = make_file("f", "");
    CHECK(epoll >= 0);
    CHECK_EQ(fcntl(epoll, F_GETFD), FD_CLOEXEC);
    MUST(pipe(p) == 0);
    CHECK_ERR(epoll_create1(1), EINVAL);
    CHECK_ERR(epoll_create(0), EINVAL);
    CHECK_EQ(control(epoll, EPOLL_CTL_ADD, p[0], EPOLLIN, 0x1122334455667788), 0);
    CHECK_ERR(control(epoll, EPOLL_CTL_ADD, p[0], EPOLLIN, 0), EEXIST);
    CHECK_ERR(control(epoll, EPOLL_CTL_MOD, p[1], EPOLLIN, 0), ENOENT);
    CHECK_ERR(control(epoll, EPOLL_CTL_DEL, p[1], 0, 0), ENOENT);
    CHECK_ERR(control(epoll, EPOLL_CTL_ADD, file, EPOLLIN, 0), EPERM);
    CHECK_ERR(control(epoll, EPOLL_CTL_ADD, epoll, EPOLLIN, 0), EINVAL);
    CHECK_ERR(control(epoll, EPOLL_CTL_ADD, 999, EPOLLIN, 0), EBADF);
    CHECK_ERR(control(p[0], EPOLL_CTL_ADD, p[1], EPOLLIN, 0), EINVAL);
    CHECK_ERR(control(epoll, 77, p[0], EPOLLIN, 0), EINVAL);
    CHECK_ERR(epoll_wait(epoll, events, 0, 0), EINVAL);
    CHECK_ERR(epoll_wait(p[0], events, 1, 0), EINVAL);

    /* Level: reported as long as it holds. */
    CHECK_EQ(wait_now(epoll, events), 0);
    CHECK_EQ(write(p[1], "ab", 2), 2);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(wait_now(epoll, events), 1);
        CHECK_EQ(events[0].events, EPOLLIN);
        CHECK_EQ(events[0].data.u64, 0x1122334455667788);
    }
    char byte;
    CHECK_EQ(read(p[0], &byte, 1), 1);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(read(p[0], &byte, 1), 1);
    CHECK_EQ(wait_now(epoll, events), 0);

    /* Edge: once for each arrival. */
    CHECK_EQ(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 2), 0);
    CHECK_EQ(wait_now(epoll, events), 0);
    CHECK_EQ(write(p[1], "a", 1), 1);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(events[0].data.u64, 2);
    CHECK_EQ(wait_now(epoll, events), 0);
    CHECK_EQ(write(p[1], "b", 1), 1);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(wait_now(epoll, events), 0);
    /* A modification asks again. */
    CHECK_EQ(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLET, 2), 0);
    CHECK_EQ(wait_now(epoll, events), 1);

    /* One shot: silent until it is armed again. */
    CHECK_EQ(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 3), 0);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(write(p[1], "c", 1), 1);
    CHECK_EQ(wait_now(epoll, events), 0);
    CHECK_EQ(control(epoll, EPOLL_CTL_MOD, p[0], EPOLLIN | EPOLLONESHOT, 3), 0);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(control(epoll, EPOLL_CTL_DEL, p[0], 0, 0), 0);
    CHECK_EQ(wait_now(epoll, events), 0);

    /* Hang-up and error are always reported. */
    CHECK_EQ(control(epoll, EPOLL_CTL_ADD, p[0], 0, 4), 0);
    close(p[1]);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(events[0].events, EPOLLHUP);
    /* Closing the last descriptor takes it out; a dup keeps it in. */
    int copy = dup(p[0]);
    close(p[0]);
    CHECK_EQ(wait_now(epoll, events), 1);
    close(copy);
    CHECK_EQ(wait_now(epoll, events), 0);

    /* Several at once, sockets, EPOLLRDHUP. */
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(control(epoll, EPOLL_CTL_ADD, pair[0], EPOLLIN | EPOLLOUT | EPOLLRDHUP, 5), 0);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(events[0].events, EPOLLOUT);
    CHECK_EQ(shutdown(pair[1], SHUT_WR), 0);
    CHECK_EQ(wait_now(epoll, events), 1);
    CHECK_EQ(events[0].events, EPOLLOUT | EPOLLIN | EPOLLRDHUP);
    close(pair[0]);
    int counters[10];
    for (int i = 0; i < 10; i++) {
        counters[i] = eventfd(1, EFD_NONBLOCK);
        CHECK_EQ(control(epoll, EPOLL_CTL_ADD, counters[i], EPOLLIN, i), 0);
    }
    /* At most as many as asked for, and the rest get their turn. */
    int seen = 0;
    for (int i = 0; i < 5; i++) {
        CHECK_EQ(epoll_wait(epoll, events, 4, 0), 4);
        for (int k = 0; k < 4; k++) seen |= 1 << events[k].data.u32;
    }
    CHECK_EQ(seen, 0x3ff);

    /* Nesting, polling an epoll, and loops. */
    int outer = epoll_create1(0);
    CHECK_EQ(control(outer, EPOLL_CTL_ADD, epoll, EPOLLIN, 6), 0);
    CHECK_EQ(wait_now(outer, events), 1);
    struct pollfd waiting = { outer, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 1);
    CHECK_ERR(control(epoll, EPOLL_CTL_ADD, outer, EPOLLIN, 0), ELOOP);
    uint64_t count;
    for (int i = 0; i < 10; i++) CHECK_EQ(read(counters[i], &count, 8), 8);
    CHECK_EQ(wait_now(outer, events), 0);

    /* Time. */
    long long start = now_ns();
    CHECK_EQ(epoll_wait(epoll, events, 8, 30), 0);
    CHECK(now_ns() - start >= 29000000);

    /* An edge wakes one of two waiters on one epoll. */
    pthread_t threads[2];
    int shared = epoll_create1(0), counter = eventfd(0, 0);
    CHECK_EQ(control(shared, EPOLL_CTL_ADD, counter, EPOLLIN | EPOLLET, 7), 0);
    for (int i = 0; i < 2; i++) MUST(pthread_create(&threads[i], NULL, wait_once, &shared) == 0);
    sleep_ms(50);
    count = 1;
    CHECK_EQ(write(counter, &count, 8), 8);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(woken, 1);
    return check_result();
}
