/*
 * What a hostile program can do with the host descriptors that lie in its process: opens files of every kind, uses them
 * much, and then makes the host's read, write and lseek itself, on every number, by jumping to the stub's own `syscall`.
 *
 * Usage: direct FOLDER. The folder has files `readable` and `writable`. Prints what it could do, one line a descriptor.
 * Stays until its standard input ends, so that it can be looked at from outside.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <unistd.h>

static sigjmp_buf behind_the_stub;

static void stop_looking(int number)
{
    (void)number;
    siglongjmp(behind_the_stub, 1);
}

/* A `syscall; ret` in the stub's image. That does not show in maps; its text is where the layout says, the last of it that
 * can be read (its beginning may show in the tables' last page, too). */
static unsigned char *gadget(void)
{
    static unsigned char *volatile found;
    signal(SIGSEGV, stop_looking);
    if (!sigsetjmp(behind_the_stub, 1))
        for (unsigned char *at = (unsigned char *)0x700000001000; at < (unsigned char *)0x700000040000; at++)
            if (at[0] == 0x0f && at[1] == 0x05 && at[2] == 0xc3) found = at;
    signal(SIGSEGV, SIG_DFL);
    return found;
}

static long host(void *gadget, long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("call *%[gadget]" : "=a"(result) : "a"(number), [gadget] "r"(gadget), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
    return result;
}

static void use_much(int fd)
{
    char byte;
    for (int i = 0; i < 30; i++) {
        if (pread(fd, &byte, 1, 0) < 0 && pwrite(fd, "A", 1, 0) < 0 && lseek(fd, 0, SEEK_SET) < 0) return;
    }
}

int main(int count, char **arguments)
{
    if (count != 2 || chdir(arguments[1])) return 2;
    void *syscall_of_stub = gadget();
    if (!syscall_of_stub) return 3;
    int ends[2], pair[2];
    if (pipe(ends) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return 4;
    int opened[] = {
        open("readable", O_RDONLY), open("writable", O_RDWR), open("writable", O_WRONLY), open("writable", O_WRONLY | O_APPEND),
        open(".", O_RDONLY | O_DIRECTORY), open("readable", O_PATH), open("writable", 3), ends[0], ends[1], pair[0],
        eventfd(1, EFD_NONBLOCK), timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK), inotify_init1(IN_NONBLOCK),
        open("/dev/ptmx", O_RDWR | O_NOCTTY), open("/dev/null", O_RDWR), open("/dev/zero", O_RDWR), open("/proc/self/maps", O_RDONLY),
        memfd_create("memory", 0), open("/bin/sh", O_RDONLY), open("/etc/passwd", O_RDONLY),
    };
    if (write(opened[17], "memory", 6) != 6) return 5;
    for (size_t i = 0; i < sizeof opened / sizeof *opened; i++) use_much(opened[i]);
    for (int fd = 0; fd < 2000; fd++) {
        char buffer[16] = {0};
        long seeks = host(syscall_of_stub, SYS_lseek, fd, 0, SEEK_CUR, 0);
        long reads = host(syscall_of_stub, SYS_pread64, fd, (long)buffer, 8, 0);
        /* Nothing is written: where it is allowed that is enough to know. */
        long writes = host(syscall_of_stub, SYS_pwrite64, fd, (long)buffer, 0, 0);
        if (seeks == -EBADF && reads == -EBADF && writes == -EBADF) continue;
        printf("%d seek %ld read %ld write %ld\n", fd, seeks, reads, writes);
    }
    puts("done");
    fflush(stdout);
    getchar();
    return 0;
}
