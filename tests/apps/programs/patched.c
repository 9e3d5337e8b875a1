/* A process of many threads from its first moment on, each of which is somewhere else when its code is replaced: in a system call, in a
 * futex, in a signal's handler, computing, about to be. Checks what all of them see, and ends with 0 if it was right; prints whether the C
 * library's code has changed, for which it waits SECONDS at most. With one more word another program is executed at the end of that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CODE = 64, PARTS = 10, MUCH = 300000 };

static atomic_int over, faults, handled;
static atomic_long rounds[PARTS];
static int blocked[2], echo[2][2], much[2];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int turn;

static void wrong(const char *what) {
    fprintf(stderr, "patched: %s: %s\n", what, strerror(errno));
    atomic_fetch_add(&faults, 1);
    atomic_store(&over, 1);
}

static void *asks(void *mine) {
    pid_t process = getpid(), thread = (pid_t)syscall(SYS_gettid);
    while (!over) {
        if (getppid() < 0 || syscall(SYS_gettid) != thread || syscall(SYS_getpid) != process) wrong("ids");
        if (syscall(SYS_close, -1) != -1 || errno != EBADF) wrong("errno");
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    return NULL;
}

static void *takes_turns(void *mine) {
    int self = mine == &rounds[1];
    while (!over) {
        pthread_mutex_lock(&lock);
        while (turn != self && !over) {
            struct timespec until;
            clock_gettime(CLOCK_REALTIME, &until);
            until.tv_sec++;
            pthread_cond_timedwait(&changed, &lock, &until);
        }
        turn = !self;
        pthread_cond_signal(&changed);
        pthread_mutex_unlock(&lock);
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    return NULL;
}

/* No call at all. */
static void *computes(void *mine) {
    unsigned long value = 1;
    while (!over) {
        for (int i = 0; i < 100000; i++) value = value * 6364136223846793005UL + 1442695040888963407UL;
        atomic_fetch_add((atomic_long *)mine, value != 0);
    }
    return NULL;
}

/* One call, from the beginning to the end. */
static void *waits(void *mine) {
    char byte = 0;
    if (read(blocked[0], &byte, 1) != 1 || byte != 'x') wrong("the read that waited");
    atomic_fetch_add((atomic_long *)mine, 1);
    return NULL;
}

static void *echoes(void *mine) {
    char byte;
    while (read(echo[0][0], &byte, 1) == 1) {
        if (write(echo[1][1], &byte, 1) != 1) wrong("the echo");
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    close(echo[1][1]);
    return NULL;
}

static void *shouts(void *mine) {
    char sent = 0, came;
    while (!over) {
        sent++;
        if (write(echo[0][1], &sent, 1) != 1 || read(echo[1][0], &came, 1) != 1 || came != sent) wrong("what came back");
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    close(echo[0][1]);
    return NULL;
}

/* More than a pipe holds at once: waits again and again, and is whole all the same, as no handler runs here. */
static void *pours(void *mine) {
    static char bytes[MUCH];
    while (!over) {
        if (write(much[1], bytes, MUCH) != MUCH) wrong("a large write");
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    close(much[1]);
    return NULL;
}

static void *drains(void *mine) {
    char bytes[4096];
    volatile int spent = 0;
    while (read(much[0], bytes, sizeof bytes) > 0) {
        for (int i = 0; i < 3000; i++) spent += i;
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    return NULL;
}

static void handle(int number) {
    if (syscall(SYS_getppid) < 0 || number != SIGUSR1) wrong("a handler");
    atomic_fetch_add(&handled, 1);
}

static void *is_signalled(void *mine) {
    struct timespec moment = {0, 300000};
    while (!over) {
        pthread_kill(pthread_self(), SIGUSR1);
        nanosleep(&moment, NULL);
        atomic_fetch_add((atomic_long *)mine, 1);
    }
    return NULL;
}

static void *returns(void *argument) { return argument; }

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **words) {
    double seconds = count > 1 ? atof(words[1]) : 1, start = now();
    unsigned char before[CODE];
    const unsigned char *code = (const unsigned char *)(void *)&syscall;
    memcpy(before, code, CODE);
    struct sigaction action = {.sa_handler = handle, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    if (pipe(blocked) || pipe(echo[0]) || pipe(echo[1]) || pipe(much)) wrong("pipe");
    void *(*const parts[PARTS])(void *) = {takes_turns, takes_turns, asks, computes, waits, echoes, shouts, is_signalled, pours, drains};
    pthread_t threads[PARTS];
    for (int i = 0; i < PARTS; i++)
        if (pthread_create(&threads[i], NULL, parts[i], &rounds[i])) wrong("pthread_create");
    int patched = 0;
    long made = 0;
    /* A while longer, so that all of them have gone on since. */
    for (double end = start + seconds; now() < end && !over;) {
        pthread_t thread;
        void *result = NULL;
        if (pthread_create(&thread, NULL, returns, words) || pthread_join(thread, &result) || result != words) wrong("a thread");
        made++;
        if (!patched && memcmp(before, code, CODE)) {
            patched = 1;
            for (int i = 0; i < PARTS; i++) atomic_store(&rounds[i], 0);
            end = now() + 0.2;
        }
    }
    if (count > 2) execl("/bin/true", "true", NULL);
    over = 1;
    if (write(blocked[1], "x", 1) != 1) wrong("the write");
    pthread_cond_broadcast(&changed);
    for (int i = 0; i < PARTS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < PARTS; i++)
        if (patched && rounds[i] == 0) {
            fprintf(stderr, "patched: part %d has not gone on\n", i);
            faults++;
        }
    if (patched && (made == 0 || handled == 0)) wrong("nothing was done");
    puts(patched ? "changed" : "as it was");
    return faults != 0;
}
