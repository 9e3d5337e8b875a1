/*
 * Nothing that waits is forgotten: tokens go round rings of threads and processes over pipes, sockets, eventfds and epoll,
 * while signals and timeouts come at random moments. A token that stops for ten seconds has been lost.
 * WAIT_SECONDS=n makes it run longer than its two seconds.
 */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>

enum { RINGS = 6, LENGTH = 5, ROOM = 64 };
enum kind { BY_READ, BY_POLL, BY_EPOLL, BY_SELECT, BY_TIMEOUT, KINDS };

struct ring {
    int in[LENGTH], out[LENGTH]; /* Token i is read from in[i] and handed on to out[i]. */
    int eventfd;
};
static struct ring rings[RINGS];
static atomic_long *rounds; /* Per ring, shared with the processes of it. */
static atomic_bool *stop;
static pthread_t threads[RINGS * LENGTH];
static atomic_int handled;

static void on_signal(int number) { (void)number; atomic_fetch_add(&handled, 1); }

static unsigned next_random(unsigned *state) { return *state = *state * 1103515245u + 12345u, *state >> 8; }

/* Waits in the way that chance picks until `fd` can be read, or says so a little early: the caller tries and comes back. */
static void wait_readable(int fd, int epoll, unsigned *seed)
{
    int timeout = next_random(seed) % 8 == 0 ? (int)(next_random(seed) % 3) : -1;
    switch (next_random(seed) % KINDS) {
    case BY_POLL: {
        struct pollfd one = {.fd = fd, .events = POLLIN};
        poll(&one, 1, timeout);
        break;
    }
    case BY_EPOLL: {
        struct epoll_event event;
        epoll_wait(epoll, &event, 1, timeout);
        break;
    }
    case BY_SELECT: {
        fd_set set;
        FD_ZERO(&set);
        FD_SET(fd, &set);
        struct timeval limit = {.tv_usec = timeout * 1000};
        select(fd + 1, &set, NULL, NULL, timeout < 0 ? NULL : &limit);
        break;
    }
    case BY_TIMEOUT: {
        struct timespec nap = {.tv_nsec = next_random(seed) % 200000};
        nanosleep(&nap, NULL);
        break;
    }
    default:
        break;
    }
}

/* One token from `fd`, however often a signal or a timeout comes between; false at the end. */
static bool take(int fd, char *buffer, ssize_t size, int epoll, unsigned *seed)
{
    for (;;) {
        if (*stop) return false;
        wait_readable(fd, epoll, seed);
        ssize_t got = read(fd, buffer, size);
        if (got == size) return true;
        if (got == 0) return false;
        if (got < 0 && errno != EINTR && errno != EAGAIN) return false;
    }
}

static void pass_on(int ring, int place)
{
    unsigned seed = ring * 100 + place + 1;
    char token[8];
    int in = rings[ring].in[place], out = rings[ring].out[place];
    int epoll = epoll_create1(0);
    struct epoll_event event = {.events = EPOLLIN};
    epoll_ctl(epoll, EPOLL_CTL_ADD, in, &event);
    while (take(in, token, sizeof token, epoll, &seed)) {
        if (place == 0) atomic_fetch_add(&rounds[ring], 1);
        ssize_t put;
        do put = write(out, token, sizeof token);
        while (put < 0 && errno == EINTR);
        if (put != sizeof token) break;
    }
    close(epoll);
}

static void *thread_of_ring(void *argument)
{
    long number = (long)argument;
    pass_on(number / LENGTH, number % LENGTH);
    return NULL;
}

int main(void)
{
    const char *asked = getenv("WAIT_SECONDS");
    double seconds = asked ? atof(asked) : 2;
    rounds = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(rounds != MAP_FAILED);
    stop = (atomic_bool *)(rounds + ROOM);
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    action.sa_flags = SA_RESTART;
    sigaction(SIGUSR2, &action, NULL);
    signal(SIGPIPE, SIG_IGN);

    for (int ring = 0; ring < RINGS; ring++) {
        for (int place = 0; place < LENGTH; place++) {
            int pair[2];
            switch (ring % 3) {
            case 0: MUST(pipe(pair) == 0); break;
            case 1: MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0); break;
            default: pair[0] = pair[1] = eventfd(0, 0); MUST(pair[0] >= 0);
            }
            rings[ring].in[place] = pair[0];
            rings[ring].out[(place + LENGTH - 1) % LENGTH] = pair[1];
        }
    }
    /* The first half of the rings are threads, the others a process for each place. */
    pid_t children[RINGS * LENGTH];
    int count = 0;
    for (int ring = RINGS / 2; ring < RINGS; ring++) {
        for (int place = 0; place < LENGTH; place++) {
            pid_t child = fork();
            MUST(child >= 0);
            if (child == 0) {
                pass_on(ring, place);
                _exit(0);
            }
            children[count++] = child;
        }
    }
    for (long number = 0; number < RINGS / 2 * LENGTH; number++)
        MUST(pthread_create(&threads[number], NULL, thread_of_ring, (void *)number) == 0);
    char token[8] = {1};
    for (int ring = 0; ring < RINGS; ring++) MUST(write(rings[ring].out[LENGTH - 1], token, sizeof token) == sizeof token);

    unsigned seed = 7;
    long before[RINGS] = {0};
    int idle[RINGS] = {0};
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int burst = 0; burst < 100; burst++) {
            int number = next_random(&seed) % 2 ? SIGUSR1 : SIGUSR2;
            if (next_random(&seed) % 2) pthread_kill(threads[next_random(&seed) % (RINGS / 2 * LENGTH)], number);
            else kill(children[next_random(&seed) % count], number);
            usleep(next_random(&seed) % 1000);
        }
        for (int ring = 0; ring < RINGS; ring++) {
            long present = rounds[ring];
            idle[ring] = present == before[ring] ? idle[ring] + 1 : 0;
            before[ring] = present;
            /* 100 bursts take at least 50 ms. */
            if (idle[ring] > 200) {
                CHECK_FAIL("the token of ring %d is lost after %ld rounds", ring, present);
                _exit(1);
            }
        }
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec - start.tv_sec + (now.tv_nsec - start.tv_nsec) / 1e9 < seconds);
    *stop = true;
    for (int ring = 0; ring < RINGS; ring++) {
        CHECK(rounds[ring] > 0);
        for (int place = 0; place < LENGTH; place++) {
            /* Once more round, so that everybody who waits looks. */
            ssize_t put = write(rings[ring].out[place], token, sizeof token);
            (void)put;
        }
    }
    for (int number = 0; number < RINGS / 2 * LENGTH; number++) pthread_join(threads[number], NULL);
    for (int child = 0; child < count; child++) {
        int status;
        waitpid(children[child], &status, 0);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    CHECK(handled > 0);
    if (asked) for (int ring = 0; ring < RINGS; ring++) printf("ring %d: %ld rounds\n", ring, rounds[ring]);
    return check_result();
}
