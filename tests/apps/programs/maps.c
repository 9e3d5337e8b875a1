/* A program that makes no calls but those that a kernel in user space may leave to the host: memory and futexes. Checks what they do,
 * and ends with 0 if it was right; prints whether the C library's code has changed, for which it waits SECONDS at most.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/futex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { CODE = 64, PAGE = 4096, LENGTH = 4 * PAGE };

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

static const char *round_of_calls(void) {
    unsigned word = 7;
    struct timespec soon = {.tv_nsec = 1000};
    char *memory = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return "mmap";
    memset(memory, 1, LENGTH);
    if (mmap(memory + PAGE, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != memory + PAGE) return "mmap over it";
    if (memory[PAGE] != 0 || memory[2 * PAGE] != 1) return "what is mapped over it";
    if (mprotect(memory, PAGE, PROT_READ) || memory[0] != 1) return "mprotect";
    if (madvise(memory + 2 * PAGE, PAGE, MADV_DONTNEED) || memory[2 * PAGE] != 0 || memory[3 * PAGE] != 1) return "madvise";
    char *moved = mremap(memory + 3 * PAGE, PAGE, 2 * PAGE, MREMAP_MAYMOVE);
    if (moved == MAP_FAILED || moved[0] != 1 || moved[PAGE] != 0) return "mremap";
    if (munmap(memory, 3 * PAGE) || munmap(moved, 2 * PAGE)) return "munmap";
    if (munmap(memory + 1, PAGE) != -1 || errno != EINVAL) return "munmap of half a page";
    if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 8, NULL) != -1 || errno != EAGAIN) return "a futex with another value";
    if (syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 7, &soon) != -1 || errno != ETIMEDOUT) return "a futex that nobody wakes";
    if (syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, 1) != 0) return "a futex that nobody waits for";
    return NULL;
}

int main(int count, char **words) {
    double end = now() + (count > 1 ? atof(words[1]) : 1);
    unsigned char before[CODE];
    const unsigned char *code = (const unsigned char *)(void *)&syscall;
    memcpy(before, code, CODE);
    int patched = 0;
    while (!patched && now() < end) {
        const char *wrong = round_of_calls();
        patched = memcmp(before, code, CODE) != 0;
        if (!wrong && patched) wrong = round_of_calls();
        if (wrong) {
            fprintf(stderr, "maps: %s: %s\n", wrong, strerror(errno));
            return 1;
        }
    }
    puts(patched ? "changed" : "as it was");
    return 0;
}
