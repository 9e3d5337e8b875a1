/* Which calls go on after a handler with SA_RESTART, and which give EINTR (signal(7)). */
#include "check.h"
#include <poll.h>
#include <semaphore.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <linux/futex.h>

static volatile sig_atomic_t count;
static int ends[2], pair[2];

/* The third signal ends a call that goes on: it gives it what it waits for. */
static void tick(int number)
{
    (void)number;
    int saved = errno;
    if (++count == 3) {
        if (write(ends[1], "x", 1) < 0 || write(pair[1], "y", 1) < 0) abort();
        struct itimerval off = { { 0, 0 }, { 0, 0 } };
        setitimer(ITIMER_REAL, &off, NULL);
    }
    errno = saved;
}

static void start(int flags)
{
    count = 0;
    catch_signal(SIGALRM, tick, flags);
    struct itimerval timer = { { 0, 30000 }, { 0, 30000 } };
    MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

static void stop(void)
{
    struct itimerval off = { { 0, 0 }, { 0, 0 } };
    MUST(setitimer(ITIMER_REAL, &off, NULL) == 0);
    char drop[64];
    while (recv(pair[0], drop, sizeof drop, MSG_DONTWAIT) > 0) { }
    fcntl(ends[0], F_SETFL, O_NONBLOCK);
    while (read(ends[0], drop, sizeof drop) > 0) { }
    fcntl(ends[0], F_SETFL, 0);
}

int main(void)
{
    MUST(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    char byte;
    /* Without SA_RESTART everything is interrupted. */
    start(0);
    CHECK_ERR(read(ends[0], &byte, 1), EINTR);
    stop();
    start(0);
    CHECK_ERR(recv(pair[0], &byte, 1, 0), EINTR);
    stop();

    /* With it, reads go on. */
    start(SA_RESTART);
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EQ(count, 3);
    stop();
    start(SA_RESTART);
    CHECK_EQ(recv(pair[0], &byte, 1, 0), 1);
    CHECK_EQ(count, 3);
    stop();

    /* A pipe that is full. */
    MUST(fcntl(ends[1], F_SETFL, O_NONBLOCK) == 0);
    while (write(ends[1], "0123456789abcdef", 16) == 16) { }
    MUST(fcntl(ends[1], F_SETFL, 0) == 0);
    count = 0;
    catch_signal(SIGALRM, SIG_DFL, 0);
    struct itimerval once = { { 0, 0 }, { 0, 30000 } };
    struct sigaction action = { 0 };
    action.sa_handler = tick;
    MUST(sigaction(SIGALRM, &action, NULL) == 0);
    MUST(setitimer(ITIMER_REAL, &once, NULL) == 0);
    CHECK_ERR(write(ends[1], &byte, 1), EINTR);
    /* A write that has moved something reports that instead. */
    char *big = calloc(1, 1 << 20);
    int other[2];
    MUST(pipe(other) == 0);
    MUST(setitimer(ITIMER_REAL, &once, NULL) == 0);
    ssize_t partial = write(other[1], big, 1 << 20);
    CHECK(partial > 0 && partial < 1 << 20);
    stop();

    /* Never restarted: poll, select, epoll_wait, nanosleep, pause, sigsuspend, and socket calls with a timeout. */
    struct pollfd waiting = { ends[0], POLLIN, 0 };
    start(SA_RESTART);
    CHECK_ERR(poll(&waiting, 1, -1), EINTR);
    stop();
    start(SA_RESTART);
    CHECK_ERR(ppoll(&waiting, 1, NULL, NULL), EINTR);
    stop();
    fd_set set;
    FD_ZERO(&set);
    FD_SET(ends[0], &set);
    start(SA_RESTART);
    CHECK_ERR(select(ends[0] + 1, &set, NULL, NULL, NULL), EINTR);
    stop();
    int epoll = epoll_create1(0);
    struct epoll_event event;
    start(SA_RESTART);
    CHECK_ERR(epoll_wait(epoll, &event, 1, -1), EINTR);
    stop();
    struct timespec pause_for = { 10, 0 }, left = { 0, 0 };
    start(SA_RESTART);
    CHECK_ERR(nanosleep(&pause_for, &left), EINTR);
    CHECK(left.tv_sec == 9);
    stop();
    start(SA_RESTART);
    CHECK_ERR(pause(), EINTR);
    stop();
    struct timeval timeout = { 5, 0 };
    MUST(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout) == 0);
    start(SA_RESTART);
    CHECK_ERR(recv(pair[0], &byte, 1, 0), EINTR);
    stop();

    /* Restarted: wait, flock, sem_wait (a futex without a timeout). */
    sem_t semaphore;
    MUST(sem_init(&semaphore, 0, 0) == 0);
    start(0);
    CHECK_ERR(sem_wait(&semaphore), EINTR);
    stop();
    int word = 7;
    start(SA_RESTART);
    struct timespec half = { 0, 200000000 };
    long result = syscall(SYS_futex, &word, FUTEX_WAIT, 7, &half, NULL, 0);
    CHECK(result == -1);
    CHECK(count >= 1);
    stop();
    /* An ignored signal and SIGCONT interrupt nothing. */
    catch_signal(SIGALRM, SIG_IGN, 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(wait_for_state(getppid(), 'S'));
        kill(getppid(), SIGALRM);
        kill(getppid(), SIGCONT);
        kill(getppid(), SIGSTOP);
        _exit(check_result());
    }
    pid_t parent = getpid(), waker = child_fork();
    if (waker == 0) {
        CHECK(wait_for_state(parent, 'T'));
        sleep_ms(20);
        kill(parent, SIGCONT);
        sleep_ms(20);
        CHECK_EQ(write(ends[1], "z", 1), 1);
        child_exit();
    }
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_EQ(byte, 'z');
    CHECK_CHILD(pid);
    CHECK_CHILD(waker);
    return check_result();
}
