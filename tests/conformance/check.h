/*
 * What every conformance program shares: checks that name the place and the values, and the few helpers that
 * nearly all of them need.
 *
 * A failed CHECK is counted and the program goes on, so that one run shows everything that is wrong; MUST ends
 * the program at once, for what the rest stands on. main() ends with `return check_result();`:
 *   0 all held, 1 something did not, 77 this machine cannot run the program (its reason is printed).
 *
 * Times: a lower bound may be strict; an upper bound is generous, since the machine may be busy.
 */
#ifndef SKERRY_CHECK_H
#define SKERRY_CHECK_H
#ifndef _GNU_SOURCE
#define _GNU_SOURCE 1
#endif
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHECK_UNUSED __attribute__((unused))

static atomic_int check_failures CHECK_UNUSED;

CHECK_UNUSED static int check_result(void) { return check_failures ? 1 : 0; }

#define CHECK_FAIL(...) \
    do { \
        char check_line[600]; \
        int check_size = snprintf(check_line, sizeof check_line, "%s:%d: ", __FILE__, __LINE__); \
        check_size += snprintf(check_line + check_size, sizeof check_line - check_size - 1, __VA_ARGS__); \
        if (check_size > (int)sizeof check_line - 2) check_size = sizeof check_line - 2; \
        check_line[check_size++] = '\n'; \
        if (write(2, check_line, check_size) < 0) abort(); \
        atomic_fetch_add(&check_failures, 1); \
    } while (0)

/* The condition holds. */
#define CHECK(condition) \
    do { \
        errno = 0; \
        if (!(condition)) { \
            int check_error = errno; \
            CHECK_FAIL("%s is false (errno %d %s)", #condition, check_error, strerrorname(check_error)); \
        } \
    } while (0)

/* As CHECK, and the program ends at once where it does not hold. */
#define MUST(condition) \
    do { \
        errno = 0; \
        if (!(condition)) { \
            int check_error = errno; \
            CHECK_FAIL("%s is false (errno %d %s); ending here", #condition, check_error, strerrorname(check_error)); \
            _exit(1); \
        } \
    } while (0)

/* Both numbers are the same. */
#define CHECK_EQ(value, expected) \
    do { \
        errno = 0; \
        long long check_value = (long long)(value); \
        int check_error = errno; \
        long long check_expected = (long long)(expected); \
        if (check_value != check_expected) \
            CHECK_FAIL("%s is %lld (0x%llx), not %s = %lld (errno %d %s)", #value, check_value, \
                       (unsigned long long)check_value, #expected, check_expected, check_error, \
                       strerrorname(check_error)); \
    } while (0)

/* The call fails with -1 and this error. */
#define CHECK_ERR(call, expected_errno) \
    do { \
        errno = 0; \
        long check_value = (long)(call); \
        int check_error = errno; \
        if (check_value != -1) \
            CHECK_FAIL("%s gave %ld, not -1 with %s", #call, check_value, #expected_errno); \
        else if (check_error != (expected_errno)) \
            CHECK_FAIL("%s failed with %s (%d), not %s", #call, strerrorname(check_error), check_error, \
                       #expected_errno); \
    } while (0)

/* Both strings are the same. */
#define CHECK_STR(value, expected) \
    do { \
        const char *check_value = (value), *check_expected = (expected); \
        if (!check_value || strcmp(check_value, check_expected) != 0) \
            CHECK_FAIL("%s is \"%.200s\", not \"%.200s\"", #value, check_value ? check_value : "(null)", \
                       check_expected); \
    } while (0)

/* The machine cannot run this program. */
#define CANNOT(...) \
    do { \
        printf("cannot run here: " __VA_ARGS__); \
        printf("\n"); \
        fflush(stdout); \
        _exit(77); \
    } while (0)

CHECK_UNUSED static const char *strerrorname(int error)
{
    const char *name = error ? strerrorname_np(error) : "0";
    return name ? name : "?";
}

/* A child that counts only its own failures; it ends with child_exit(). */
CHECK_UNUSED static pid_t child_fork(void)
{
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) check_failures = 0;
    return pid;
}

CHECK_UNUSED __attribute__((noreturn)) static void child_exit(void) { _exit(check_result()); }

/* The child's wait status, waited for through interruptions. */
CHECK_UNUSED static int wait_status(pid_t pid)
{
    int status = -1;
    pid_t got;
    do got = waitpid(pid, &status, 0);
    while (got < 0 && errno == EINTR);
    MUST(got == pid);
    return status;
}

/* The child ends by itself with 0. */
#define CHECK_CHILD(pid) \
    do { \
        int check_status = wait_status(pid); \
        if (check_status != 0) CHECK_FAIL("child ended with wait status 0x%x", check_status); \
    } while (0)

CHECK_UNUSED static long long now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Sleeps the whole time, whatever signals arrive. */
CHECK_UNUSED static void sleep_ms(long milliseconds)
{
    struct timespec left = { milliseconds / 1000, milliseconds % 1000 * 1000000 };
    while (nanosleep(&left, &left) < 0 && errno == EINTR) { }
}

/* A new file with this content; the descriptor is open for reading and writing at offset 0. */
CHECK_UNUSED static int make_file(const char *path, const char *content)
{
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    MUST(fd >= 0);
    size_t size = strlen(content);
    MUST(write(fd, content, size) == (ssize_t)size);
    MUST(lseek(fd, 0, SEEK_SET) == 0);
    return fd;
}

/* The whole file as a string (static storage, up to 64 KiB). */
CHECK_UNUSED static char *read_file(const char *path)
{
    static char text[65536];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return NULL;
    size_t size = 0;
    ssize_t got;
    while (size < sizeof text - 1 && (got = read(fd, text + size, sizeof text - 1 - size)) > 0) size += got;
    close(fd);
    text[size] = 0;
    return text;
}

/* The state letter of a process (proc_pid_stat(5)), 0 where it is gone. */
CHECK_UNUSED static char process_state(pid_t pid)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    char *text = read_file(path);
    char *end = text ? strrchr(text, ')') : NULL;
    return end ? end[2] : 0;
}

/* Waits up to five seconds for a process to reach a state: how a test knows that another one is blocked. */
CHECK_UNUSED static bool wait_for_state(pid_t pid, char state)
{
    for (int i = 0; i < 1000; i++) {
        if (process_state(pid) == state) return true;
        sleep_ms(5);
    }
    return false;
}

CHECK_UNUSED static void catch_signal(int number, void (*handler)(int), int flags)
{
    struct sigaction action = { .sa_flags = flags };
    action.sa_handler = handler;
    sigemptyset(&action.sa_mask);
    MUST(sigaction(number, &action, NULL) == 0);
}

CHECK_UNUSED static sigset_t signal_set(int first, ...)
{
    sigset_t set;
    sigemptyset(&set);
    if (first) sigaddset(&set, first);
    return set;
}
#endif
