/* epoll_ctl(2), often and mixed with what else changes descriptors: each result is right, and each epoll_wait(2) sees
 * all changes before it, whoever made them (the caller, a child, a vfork(2) child, another thread). */
#include "check.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>

enum { FILES = 12, ROUNDS = 4000 };

static int epoll, files[FILES];
static bool listed[FILES], ready[FILES], asked[FILES];
static unsigned seed = 1;

static unsigned random_below(unsigned limit)
{
    seed = seed * 1103515245 + 12345;
    return (seed >> 16) % limit;
}

static int control(int operation, int index, bool in)
{
    struct epoll_event event = { in ? EPOLLIN : 0, { .u64 = index } };
    return epoll_ctl(epoll, operation, files[index], &event);
}

static void open_file(int index)
{
    files[index] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    MUST(files[index] >= 0);
    listed[index] = ready[index] = asked[index] = false;
}

static void change(int index)
{
    bool in = random_below(3) > 0;
    switch (random_below(3)) {
    case 0:
        if (listed[index]) {
            CHECK_ERR(control(EPOLL_CTL_ADD, index, in), EEXIST);
            break;
        }
        CHECK_EQ(control(EPOLL_CTL_ADD, index, in), 0);
        listed[index] = true;
        asked[index] = in;
        break;
    case 1:
        if (!listed[index]) {
            CHECK_ERR(control(EPOLL_CTL_MOD, index, in), ENOENT);
            break;
        }
        CHECK_EQ(control(EPOLL_CTL_MOD, index, in), 0);
        asked[index] = in;
        break;
    default:
        if (listed[index]) CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, files[index], NULL), 0);
        else CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_DEL, files[index], NULL), ENOENT);
        listed[index] = false;
    }
}

static void look(void)
{
    struct epoll_event events[FILES];
    int count = epoll_wait(epoll, events, FILES, 0), expected = 0;
    bool told[FILES] = { false };
    for (int i = 0; i < count; i++) told[events[i].data.u64] = true;
    for (int i = 0; i < FILES; i++) {
        bool should = listed[i] && asked[i] && ready[i];
        expected += should;
        CHECK_EQ(told[i], should);
    }
    CHECK_EQ(count, expected);
}

static void *change_many(void *argument)
{
    (void)argument;
    for (int i = 0; i < 50; i++) change(random_below(FILES));
    return NULL;
}

static int in_child(void)
{
    /* The list is shared, the descriptors are copies: what the child changes, the parent sees. */
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, files[0], NULL), 0);
    struct epoll_event event = { EPOLLIN, { .u64 = 1 } };
    CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_ADD, files[1], &event), 0);
    return check_result();
}

int main(void)
{
    epoll = epoll_create1(EPOLL_CLOEXEC);
    MUST(epoll >= 0);
    for (int i = 0; i < FILES; i++) open_file(i);
    uint64_t value;
    for (int round = 0; round < ROUNDS && !check_failures; round++) {
        int index = random_below(FILES);
        switch (random_below(20)) {
        case 0:
            close(files[index]);
            open_file(index);
            break;
        case 1: {
            /* Another file at the same number: it is not in the list. */
            int other = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
            MUST(dup3(other, files[index], O_CLOEXEC) == files[index]);
            close(other);
            listed[index] = ready[index] = false;
            break;
        }
        case 2:
            CHECK_ERR(epoll_ctl(epoll, EPOLL_CTL_MOD, files[index], NULL), EFAULT);
            break;
        case 3:
        case 4:
            look();
            break;
        case 5:
        case 6:
            if (ready[index]) CHECK_EQ(read(files[index], &value, 8), 8);
            else CHECK_EQ(write(files[index], &(uint64_t){ 1 }, 8), 8);
            ready[index] = !ready[index];
            break;
        default:
            change(index);
        }
    }
    look();

    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < 60; i++) change(random_below(FILES));
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, change_many, NULL) == 0);
        pthread_join(thread, NULL);
        look();
        change(random_below(FILES));
        look();
    }
    for (int round = 0; round < 6; round++) {
        for (int i = 0; i < 2; i++) {
            if (listed[i]) CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, files[i], NULL), 0);
            listed[i] = asked[i] = true;
            CHECK_EQ(control(EPOLL_CTL_ADD, i, true), 0);
        }
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_DEL, files[1], NULL), 0);
        pid_t child = round % 2 ? vfork() : fork();
        if (child == 0) _exit(in_child());
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        listed[0] = false;
        CHECK_ERR(control(EPOLL_CTL_MOD, 0, true), ENOENT);
        CHECK_ERR(control(EPOLL_CTL_ADD, 1, true), EEXIST);
        look();
        change(2);
        change(3);
        look();
    }

    /* What is changed while a blocking wait is near counts in it. */
    for (int i = 0; i < FILES; i++) {
        if (!listed[i]) CHECK_EQ(control(EPOLL_CTL_ADD, i, false), 0);
        if (!ready[i]) CHECK_EQ(write(files[i], &(uint64_t){ 1 }, 8), 8);
        CHECK_EQ(control(EPOLL_CTL_MOD, i, false), 0);
    }
    CHECK_EQ(control(EPOLL_CTL_MOD, 5, true), 0);
    struct epoll_event event;
    CHECK_EQ(epoll_wait(epoll, &event, 1, 5000), 1);
    CHECK_EQ(event.data.u64, 5);
    /* An edge: asking again tells again. */
    for (int i = 0; i < 3; i++) {
        event = (struct epoll_event){ EPOLLIN | EPOLLET | EPOLLONESHOT, { .u64 = 9 } };
        CHECK_EQ(epoll_ctl(epoll, EPOLL_CTL_MOD, files[5], &event), 0);
        CHECK_EQ(epoll_wait(epoll, &event, 1, 5000), 1);
        CHECK_EQ(event.data.u64, 9);
        CHECK_EQ(epoll_wait(epoll, &event, 1, 0), 0);
    }
    return check_result();
}
