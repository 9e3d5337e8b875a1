/*
 * Fuzzes the channel from inside, as code that has taken its stub over would: children write over what they share with the
 * sentry while they make calls, and ring by the stub's own `syscall` for requests that they have made up.
 *
 * What becomes of such a child is its own affair. Everybody else goes on: the parent makes calls, starts programs and reads
 * files between the children, and says at the end how many there were.
 *
 * Usage: channel SECONDS SEED; exit status 0: whoever did nothing wrong has noticed nothing.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* As the stub's layout says. */
#define STUB_TEXT 0x700000001000ul
#define STUB_END 0x700000040000ul
#define CHANNEL 0x700000100000ul
#define CHANNEL_SIZE 0x6000ul
/* Of eventfds and pipes that are lent. */
#define OBJECTS 0x4b00ul
#define MAGIC 0x5a656b5f524f434bul

static uint64_t state;

static uint64_t next(void)
{
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static sigjmp_buf behind;

static void on_fault(int signal)
{
    (void)signal;
    siglongjmp(behind, 1);
}

/* A `syscall; ret` of the stub's. */
static unsigned char *volatile gadget;

static void find_gadget(void)
{
    signal(SIGSEGV, on_fault);
    if (!sigsetjmp(behind, 1))
        for (unsigned char *at = (unsigned char *)STUB_TEXT; at < (unsigned char *)STUB_END; at++)
            if (at[0] == 0x0f && at[1] == 0x05 && at[2] == 0xc3) gadget = at;
    signal(SIGSEGV, SIG_DFL);
}

static long host(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("call *%[gadget]" : "=a"(result) : "a"(number), [gadget] "r"(gadget), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

/* Words as they could stand in a request: small numbers, lengths, addresses of all kinds. */
static uint64_t word(void)
{
    static const uint64_t edges[] = {0, 1, 2, 3, 8, 64, 4096, 7040, 7041, 0xffffff, 0x7fffffff, 0x80000000, 0xffffffff, 1ul << 32, 1ul << 47, ~0ul, CHANNEL, STUB_TEXT};
    switch (next() % 6) {
    case 0: return edges[next() % (sizeof edges / sizeof *edges)];
    case 1: return next() % 16;
    case 2: return (uint64_t)&state;
    case 3: return next() & 0xffffffff;
    case 4: return (next() % 4 + 1) << 32 | next() % 1000;
    default: return next();
    }
}

/* Where requests, marshalled memory and what the sentry says lie. */
static uint64_t *place(void)
{
    uint64_t offset = next() % 3 ? next() % 0x200 : next() % CHANNEL_SIZE;
    return (uint64_t *)(CHANNEL + (offset & ~7ul));
}

static volatile int over;

static void *scribble(void *argument)
{
    state ^= (uintptr_t)&argument;
    while (!over) {
        uint64_t *at = place();
        *at = next() % 4 ? word() : *at ^ 1ul << next() % 64;
        if (next() % 16 == 0)
            for (int i = 0; i < 50; i++) __asm__ volatile("pause");
    }
    return NULL;
}

/* So that it is lent; the words of that are made up, too, now and then. */
static void use_alone(int ends[2])
{
    char buffer[8] = {1};
    for (int i = 0; i < 20; i++) {
        (void)!write(ends[1], buffer, 8);
        if (next() % 4 == 0) {
            uint64_t *at = (uint64_t *)(CHANNEL + OBJECTS + next() % 96 / 8 * 8);
            *at = next() % 2 ? *at ^ 1ul << next() % 63 : next() | 1ul << 63;
        }
        (void)!read(ends[0], buffer, 8);
    }
}

static void call_something(void)
{
    static char buffer[8192];
    struct stat status;
    int fd;
    switch (next() % 12) {
    case 0: fd = open("/etc/passwd", O_RDONLY); (void)!read(fd, buffer, sizeof buffer); close(fd); break;
    case 1: stat("/usr/bin", &status); break;
    case 2: (void)!getcwd(buffer, sizeof buffer); break;
    case 3: (void)!readlink("/proc/self/exe", buffer, sizeof buffer); break;
    case 4: munmap(mmap(NULL, 8192, PROT_READ, MAP_PRIVATE, open("/bin/sh", O_RDONLY), 0), 8192); break;
    case 5: { int ends[2]; if (!pipe(ends)) { (void)!write(ends[1], buffer, 3000); (void)!read(ends[0], buffer, 3000); close(ends[0]); close(ends[1]); } break; }
    case 6: if (fork() == 0) _exit(0); wait(NULL); break;
    case 7: fd = open("scratch", O_CREAT | O_RDWR | O_TRUNC, 0600); (void)!write(fd, buffer, next() % sizeof buffer); close(fd); break;
    case 8: kill(getpid(), 0); break;
    case 9: { int ends[2]; if (!pipe2(ends, O_NONBLOCK)) { use_alone(ends); close(ends[0]); close(ends[1]); } break; }
    case 10: fd = eventfd(0, EFD_NONBLOCK); use_alone((int[]){fd, fd}); close(fd); break;
    default: syscall(next() % 460 == SYS_kill ? SYS_getpid : SYS_getppid, word(), word(), word());
    }
}

static void attack(uint64_t way)
{
    pthread_t thread;
    /* The doing of nobody else: no signal goes out. */
    if (way & 1 && pthread_create(&thread, NULL, scribble, NULL)) _exit(1);
    for (int i = 0; i < 200; i++) {
        if (way & 2) {
            uint64_t *line = (uint64_t *)CHANNEL;
            for (int j = 1; j < 8; j++) line[j] = word();
            /* Kind, marshalled length, number; no call that signals or ends others. */
            line[1] = next() % 12 | (next() % 3 ? next() % 8192 : word() & 0xffffff) << 8 | (next() % 3 ? 0 : next() % 62) << 32;
            *(volatile uint64_t *)line = (next() % 8 ? 1ul << 32 : word() & ~0xfffffffful) | (line[0] + 1) % (1ul << 32);
            host(SYS_getppid, MAGIC, next() % 4, word(), word());
        } else {
            call_something();
        }
    }
    over = 1;
    _exit(0);
}

/* Whoever did nothing wrong. */
static int goes_on(void)
{
    char buffer[64];
    int fd = open("/etc/passwd", O_RDONLY), status;
    if (fd < 0 || read(fd, buffer, sizeof buffer) != sizeof buffer || close(fd)) return 0;
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(1);
    }
    return waitpid(child, &status, 0) == child && status == 0;
}

/* The channel is where it is said to be above: a reply lies in it, and a pipe that is lent. */
static int lies_there(void)
{
    int ends[2], is_lent = 0;
    char byte = 1;
    if (pipe(ends)) return 0;
    for (int i = 0; i < 20; i++)
        if (write(ends[1], &byte, 1) != 1 || read(ends[0], &byte, 1) != 1) return 0;
    for (int i = 0; i < 4; i++) is_lent |= ((uint64_t *)(CHANNEL + OBJECTS))[3 * i] >> 63;
    close(ends[0]);
    close(ends[1]);
    return *(uint64_t *)CHANNEL >> 32 == 2 && is_lent;
}

int main(int count, char **arguments)
{
    if (count != 3) return 2;
    state = strtoull(arguments[2], NULL, 0) * 2 + 1;
    find_gadget();
    if (!gadget) return 3;
    if (!lies_there()) return 6;
    struct timespec end, now;
    clock_gettime(CLOCK_MONOTONIC, &end);
    end.tv_sec += atoi(arguments[1]);
    int children = 0, slow = 0;
    do {
        uint64_t way = next() % 3 + 1, seed = next();
        pid_t child = fork();
        if (child == 0) {
            state = seed;
            attack(way);
        }
        int status, ended = 0;
        for (int i = 0; i < 200 && !ended; i++) {
            ended = waitpid(child, &status, WNOHANG) == child;
            if (!ended) usleep(i < 20 ? 500 : 5000);
        }
        if (!ended) {
            slow++;
            kill(child, SIGKILL);
            if (waitpid(child, &status, 0) != child) return 4;
        }
        children++;
        if (children % 8 == 0 && !goes_on()) return 5;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while (now.tv_sec < end.tv_sec);
    printf("%d children, %d of them ended by force\n", children, slow);
    return !goes_on();
}
