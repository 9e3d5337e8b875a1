/* What programs about pipes and connections to a partner have in common: the orders, the numbers that go back and forth, a gate
 * that the partner waits at, and signals that come meanwhile. */
#ifndef PARTNERS_H
#define PARTNERS_H

#include "lending.h"
#include <sys/ioctl.h>
#include <sys/mman.h>

/* A number that is an order, and what it is about. */
#define ORDER(kind, count) ((uint64_t)(kind) << 48 | (count))
#define COUNT (ORDER(1, 0) - 1)

/* Partners are processes, not threads. */
static bool processes;
static char *self;
/* Shared with partners: whether they are to wait. */
static atomic_int *gate;

static char data[2000000], zeros[300000];

static inline char pattern(uint64_t index) { return (char)(index * 7 + index / 253); }

static inline void put(int fd, uint64_t value) { MUST(write(fd, &value, sizeof value) == sizeof value); }

/* An order, and a number that is not read any more: the partner may be gone before that could be written by itself. */
static inline void put_last(int fd, uint64_t order)
{
    uint64_t numbers[] = {order, 1};
    MUST(write(fd, numbers, sizeof numbers) == sizeof numbers);
}

static inline void opened(void) { atomic_store(gate, 0); }

static inline int queued(int fd)
{
    int length = -1;
    CHECK_EQ(ioctl(fd, FIONREAD, &length), 0);
    return length;
}

/* What all parts need. */
static inline void prepare(char *program)
{
    self = program;
    gate = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(gate != MAP_FAILED);
    for (uint64_t index = 0; index < sizeof data; index++) data[index] = pattern(index);
}

static atomic_int handled;
static inline void on_alarm(int number) { (void)number; atomic_fetch_add(&handled, 1); }
static inline void on_alarm_open(int number) { (void)number; atomic_fetch_add(&handled, 1); atomic_store(gate, 0); }

/* Sends SIGALRM to the calling thread again and again: the first one may come too early. */
static inline timer_t every(long milliseconds)
{
    struct itimerspec when = {{0, milliseconds * 1000000}, {0, milliseconds * 1000000}};
    struct sigevent event = {.sigev_notify = SIGEV_THREAD_ID, .sigev_signo = SIGALRM};
    timer_t timer;
    event._sigev_un._tid = (int)syscall(SYS_gettid);
    MUST(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0 && timer_settime(timer, 0, &when, NULL) == 0);
    return timer;
}

#endif
