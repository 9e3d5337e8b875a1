/*
 * Threads that wait in calls while the rest of their process goes on: another one closes the descriptor, executes a
 * program, ends the process, is stopped and continued, or kills it.
 */
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>

static int pipes[2], other_pipe[2], listener, epoll, event;
static atomic_int waiting;

/* Each waits for ever in a call of another kind; the last ones in the middle of a transfer. */
static void *wait_in(void *argument)
{
    char byte[1], *block;
    struct pollfd poll_for = {.fd = pipes[0], .events = POLLIN};
    struct epoll_event epoll_for;
    fd_set set;
    atomic_fetch_add(&waiting, 1);
    switch ((long)argument) {
    case 0: return (void *)read(pipes[0], byte, 1);
    case 1: return (void *)(long)poll(&poll_for, 1, -1);
    case 2: return (void *)(long)epoll_wait(epoll, &epoll_for, 1, 1000000);
    case 3: return (void *)(long)accept(listener, NULL, NULL);
    case 4: return (void *)(long)pause();
    case 5: return (void *)(long)sleep(1000);
    case 6: return (void *)(long)wait(NULL);
    case 7: return (void *)recv(listener, byte, 1, 0);
    case 8:
        FD_ZERO(&set);
        FD_SET(pipes[0], &set);
        return (void *)(long)select(pipes[0] + 1, &set, NULL, NULL, NULL);
    case 9:
        block = calloc(1, 1 << 20);
        return (void *)write(other_pipe[1], block, 1 << 20);
    default: return (void *)(long)fcntl(pipes[0], F_GETFD);
    }
}

enum { KINDS = 11 };
static pthread_t threads[KINDS];

static void start_waiting(void)
{
    MUST(pipe(pipes) == 0 && pipe(other_pipe) == 0);
    listener = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(bind(listener, (void *)&address, sizeof address) == 0 && listen(listener, 5) == 0);
    epoll = epoll_create1(0);
    event = eventfd(0, 0);
    struct epoll_event wanted = {.events = EPOLLIN};
    MUST(epoll_ctl(epoll, EPOLL_CTL_ADD, event, &wanted) == 0);
    waiting = 0;
    for (long kind = 0; kind < KINDS; kind++) MUST(pthread_create(&threads[kind], NULL, wait_in, (void *)kind) == 0);
    while (waiting < KINDS) usleep(1000);
    usleep(50000);
}

/* What `end` makes of a process whose threads wait. */
static int status_after(void (*end)(void))
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        alarm(20);
        start_waiting();
        end();
        _exit(99);
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    return status;
}

static void by_exit(void) { exit(3); }
static void by_exec(void) { execl("/bin/sh", "sh", "-c", "exit 4", NULL); }
static void *exec_from_thread(void *unused) { (void)unused; by_exec(); return NULL; }
static void by_exec_of_a_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, exec_from_thread, NULL);
    pthread_join(thread, NULL);
}
static void by_kill(void) { kill(getpid(), SIGKILL); pause(); }
static void by_signal(void) { kill(getpid(), SIGTERM); pause(); }
static void *raise_from_thread(void *unused) { (void)unused; raise(SIGUSR1); return NULL; }
static void by_signal_of_a_thread(void)
{
    pthread_t thread;
    pthread_create(&thread, NULL, raise_from_thread, NULL);
    pthread_join(thread, NULL);
}
/* The first thread ends, the others go on until another process kills them all. */
static void by_leaving_first(void)
{
    pid_t self = getpid();
    if (fork() == 0) {
        usleep(100000);
        kill(self, SIGKILL);
        _exit(0);
    }
    pthread_exit(NULL);
}

static void check_ends(void)
{
    int status = status_after(by_exit);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 3);
    status = status_after(by_exec);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
    status = status_after(by_exec_of_a_thread);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
    status = status_after(by_kill);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    status = status_after(by_signal);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    status = status_after(by_signal_of_a_thread);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGUSR1);
    status = status_after(by_leaving_first);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static atomic_long got;
static void *read_long(void *argument)
{
    char text[8] = {0};
    atomic_fetch_add(&waiting, 1);
    got = read((int)(long)argument, text, sizeof text);
    return NULL;
}

/* A read goes on with the file that it began with, whatever becomes of the number. */
static void check_close(void)
{
    int pair[2];
    pthread_t thread;
    MUST(pipe(pair) == 0);
    waiting = 0;
    got = -1;
    MUST(pthread_create(&thread, NULL, read_long, (void *)(long)pair[0]) == 0);
    while (!waiting) usleep(1000);
    usleep(20000);
    int keep = dup(pair[0]);
    close(pair[0]);
    CHECK(open("/dev/null", O_RDONLY) == pair[0]);
    usleep(20000);
    CHECK(got == -1);
    CHECK(write(pair[1], "abc", 3) == 3);
    pthread_join(thread, NULL);
    CHECK(got == 3);
    close(keep), close(pair[0]), close(pair[1]);
}

/* The last descriptor goes while somebody still reads: the pipe lives as long as the read does. */
static void check_close_of_the_last(void)
{
    int pair[2];
    pthread_t thread;
    MUST(pipe(pair) == 0);
    waiting = 0;
    got = -1;
    MUST(pthread_create(&thread, NULL, read_long, (void *)(long)pair[0]) == 0);
    while (!waiting) usleep(1000);
    usleep(20000);
    close(pair[0]);
    CHECK(write(pair[1], "ab", 2) == 2);
    pthread_join(thread, NULL);
    CHECK(got == 2);
    signal(SIGPIPE, SIG_IGN);
    CHECK(write(pair[1], "a", 1) == -1 && errno == EPIPE);
    close(pair[1]);
}

/* Stopped and continued, a wait goes on as if nothing had been, and keeps its deadline. */
static void check_stop(void)
{
    int pair[2], ready[2];
    MUST(pipe(pair) == 0 && pipe(ready) == 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        char byte = 0;
        struct pollfd one = {.fd = ready[1], .events = 0};
        struct timespec before, after;
        if (write(ready[1], "r", 1) != 1) _exit(1);
        if (read(pair[0], &byte, 1) != 1 || byte != 'x') _exit(2);
        clock_gettime(CLOCK_MONOTONIC, &before);
        if (write(ready[1], "r", 1) != 1) _exit(1);
        if (poll(&one, 1, 600) != 0) _exit(3);
        clock_gettime(CLOCK_MONOTONIC, &after);
        long spent = (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1000000;
        _exit(spent < 600 ? 4 : spent > 5000 ? 5 : 0);
    }
    char byte;
    int status;
    for (int round = 0; round < 2; round++) {
        MUST(read(ready[0], &byte, 1) == 1);
        usleep(20000);
        CHECK(kill(child, SIGSTOP) == 0);
        CHECK(waitpid(child, &status, WUNTRACED) == child && WIFSTOPPED(status));
        if (round == 0) CHECK(write(pair[1], "x", 1) == 1);
        usleep(50000);
        CHECK(waitpid(child, &status, WNOHANG | WUNTRACED) == 0);
        CHECK(kill(child, SIGCONT) == 0);
    }
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) CHECK_FAIL("status %x", status);
    close(pair[0]), close(pair[1]), close(ready[0]), close(ready[1]);
}

static atomic_int order[4], count;
static void *in_order(void *argument)
{
    char byte;
    if (read(pipes[0], &byte, 1) == 1) {
        order[byte - '0'] = (int)(long)argument;
        atomic_fetch_add(&count, 1);
    }
    return NULL;
}

/* Everybody who waits gets one, nobody two. */
static void check_all_served(void)
{
    MUST(pipe(pipes) == 0);
    pthread_t readers[4];
    for (long number = 0; number < 4; number++) {
        MUST(pthread_create(&readers[number], NULL, in_order, (void *)(number + 1)) == 0);
        usleep(10000);
    }
    for (int number = 0; number < 4; number++) {
        char byte = '0' + number;
        CHECK(write(pipes[1], &byte, 1) == 1);
        for (int tries = 0; tries < 5000 && count <= number; tries++) usleep(1000);
        CHECK(count == number + 1);
    }
    int sum = 0;
    for (int number = 0; number < 4; number++) pthread_join(readers[number], NULL), sum += 1 << order[number];
    CHECK(sum == 2 + 4 + 8 + 16);
    close(pipes[0]), close(pipes[1]);
}

int main(void)
{
    check_close();
    check_close_of_the_last();
    check_all_served();
    check_stop();
    check_ends();
    return check_result();
}
