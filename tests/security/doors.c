/*
 * Knocks at the host kernel by every door that a program has: the `syscall` instruction with every number, `int $0x80`
 * from 64-bit and from 32-bit code, x32 numbers, `sysenter`, the vsyscall page, and jumps to whatever `syscall`
 * instruction the stub itself contains.
 *
 * The program runs inside a sandbox, as hostile code would. What it tries would leave a trace on the host if the call
 * arrived there: a canary folder made, a victim process killed, a file's mode changed, a connection at a port. The
 * Python test looks for those traces from outside; here only answers that are wrong in themselves are reported.
 *
 * It refuses to run unless the host name says that it is inside: on a bare host these calls would really happen. For
 * the same reason no call names more than the victim (never kill(-1), never pid 1).
 *
 * Usage: doors DOOR VICTIM_PID SECRET CANARY PORT; exit status 0: all doors are shut, as far as can be seen in here.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int victim, port, bad;
static char *secret, *canary;
/* Below 4 GiB, where 32-bit calls can point to: code, data, and copies of the two paths. */
static unsigned char *low;
static char *low_secret, *low_canary;

static long raw(long number, long a, long b, long c, long d, long e, long f)
{
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return result;
}

static void report(const char *what, long number, long result)
{
    printf("OPEN %s %ld gave %ld\n", what, number, result);
    fflush(stdout);
    bad = 1;
}

/* How a child that made one call ended: its wait status, or -1 where it had to be killed after two seconds. */
static int wait_briefly(pid_t pid)
{
    int status;
    for (int i = 0; i < 400; i++) {
        if (waitpid(pid, &status, WNOHANG) == pid) return status;
        usleep(5000);
    }
    kill(pid, SIGKILL);
    waitpid(pid, &status, 0);
    return -1;
}

/* The calls that would leave a trace, in the numbering of x86-64. */
static void try_all(long (*door)(long, long, long, long, long, long, long), long bits, bool foreign, const char *name)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    memcpy(low + 0x800, &address, sizeof address);
    struct { long number, a, b, c, d; } calls[] = {
        { SYS_kill, victim, SIGKILL, 0, 0 },
        { SYS_tkill, victim, SIGKILL, 0, 0 },
        { SYS_tgkill, victim, victim, SIGKILL, 0 },
        { SYS_mkdir, (long)low_canary, 0777, 0, 0 },
        { SYS_mkdirat, AT_FDCWD, (long)low_canary, 0777, 0 },
        { SYS_creat, (long)low_canary, 0777, 0, 0 },
        { SYS_open, (long)low_canary, O_CREAT | O_RDWR, 0777, 0 },
        { SYS_openat, AT_FDCWD, (long)low_canary, O_CREAT | O_RDWR, 0777 },
        { SYS_mknod, (long)low_canary, S_IFREG | 0777, 0, 0 },
        { SYS_symlink, (long)low_secret, (long)low_canary, 0, 0 },
        { SYS_link, (long)low_secret, (long)low_canary, 0, 0 },
        { SYS_rename, (long)low_secret, (long)low_canary, 0, 0 },
        { SYS_chmod, (long)low_secret, 0777, 0, 0 },
        { SYS_fchmodat, AT_FDCWD, (long)low_secret, 0777, 0 },
        { SYS_truncate, (long)low_secret, 0, 0, 0 },
        { SYS_unlink, (long)low_secret, 0, 0, 0 },
        { SYS_ptrace, 0x4206 /* PTRACE_SEIZE */, victim, 0, 0 },
        { SYS_ptrace, 16 /* PTRACE_ATTACH */, victim, 0, 0 },
        { SYS_prlimit64, victim, 7, 0, (long)(low + 0x900) },
        { SYS_setpriority, 0, victim, 19, 0 },
        { SYS_sched_setaffinity, victim, 8, (long)(low + 0xa00), 0 },
        { SYS_process_vm_readv, victim, (long)(low + 0x900), 1, (long)(low + 0x910) },
        { SYS_pidfd_open, victim, 0, 0, 0 },
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            long result = door(calls[i].number | bits, calls[i].a, calls[i].b, calls[i].c, calls[i].d, 0, 0);
            _exit(result >= 0 ? 1 : result == -ENOSYS ? 2 : 3);
        }
        int status = wait_briefly(pid);
        /* A number of another numbering must not do anything; a plain one may succeed on the guest's own objects. */
        if (foreign && WIFEXITED(status) && WEXITSTATUS(status) != 2) report(name, calls[i].number | bits, WEXITSTATUS(status));
        if (!foreign && WIFEXITED(status) && WEXITSTATUS(status) == 1 &&
            (calls[i].a == victim || calls[i].b == victim)) report(name, calls[i].number, 0);
    }
    /* A socket of one's own, and a connection to the host's port. */
    pid_t pid = fork();
    if (pid == 0) {
        long fd = door(SYS_socket | bits, AF_INET, 1, 0, 0, 0, 0);
        long result = fd < 0 ? fd : door(SYS_connect | bits, fd, (long)(low + 0x800), sizeof address, 0, 0, 0);
        _exit(result >= 0 ? 1 : 0);
    }
    int status = wait_briefly(pid);
    if (status == 1 << 8) report(name, SYS_connect, 0);
}

/* Every number with arguments that are wrong in several ways. Nothing may hang, and the sandbox lives on. */
static void sweep(long bits, const char *name)
{
    static const long skipped[] = { SYS_kill, SYS_tkill, SYS_tgkill, SYS_rt_sigqueueinfo, SYS_rt_tgsigqueueinfo, SYS_reboot, SYS_exit, SYS_exit_group };
    for (long number = 0; number <= 600; number++) {
        int skip = 0;
        for (size_t i = 0; i < sizeof skipped / sizeof *skipped; i++) skip |= skipped[i] == number && !bits;
        if (skip) continue;
        for (int way = 0; way < 4; way++) {
            pid_t pid = fork();
            if (pid < 0) {
                usleep(10000);
                continue;
            }
            if (pid == 0) {
                long valid = (long)(low + 0x1000), wrong = 0x1234;
                long result = way == 0   ? raw(number | bits, 0, 0, 0, 0, 0, 0)
                              : way == 1 ? raw(number | bits, -1, -1, -1, -1, -1, -1)
                              : way == 2 ? raw(number | bits, valid, valid, 64, valid, valid, 64)
                                         : raw(number | bits, 0x7fffffff, wrong, LONG_MAX, wrong, 0x7fff0000, wrong);
                _exit(result == -ENOSYS ? 2 : 0);
            }
            int status;
            for (int i = 0; i < 100; i++) {
                if (waitpid(pid, &status, WNOHANG) == pid) goto ended;
                usleep(1000);
            }
            kill(pid, SIGKILL);
            waitpid(pid, &status, 0);
            continue;
        ended:
            if (bits && !(WIFEXITED(status) && WEXITSTATUS(status) == 2) && !(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS))
                report(name, number | bits, status);
        }
    }
}

/* int $0x80 from 64-bit code: the 32-bit kernel entry, with the 32-bit numbering. */
static long int80(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    (void)f;
    __asm__ volatile("int $0x80" : "=a"(result) : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d), "D"(e) : "memory", "r8", "r9", "r10", "r11");
    return (int)result;
}

/* The same from a 32-bit code segment, reached by a far return; the way back is a far jump. */
static long compatibility(long number, long a, long b, long c, long d, long e, long f)
{
    (void)d, (void)e, (void)f;
    static const unsigned char code[] = {
        0xcd, 0x80,                                    /* int $0x80 */
        0xea, 0, 0, 0, 0, 0x33, 0,                     /* ljmp $0x33, back */
        0x48, 0x8b, 0x24, 0x25, 0, 0, 0, 0,            /* back: mov saved, %rsp */
        0xff, 0x24, 0x25, 0, 0, 0, 0,                  /* jmp *after */
    };
    unsigned char *at = low + 0x400;
    memcpy(at, code, sizeof code);
    uint32_t back = (uint32_t)(uintptr_t)(at + 9), saved = (uint32_t)(uintptr_t)(low + 0x500), after = saved + 8;
    memcpy(at + 3, &back, 4);
    memcpy(at + 13, &saved, 4);
    memcpy(at + 20, &after, 4);
    long result;
    __asm__ volatile("lea 1f(%%rip), %%r8\n mov %%r8, 8(%[save])\n mov %%rsp, (%[save])\n sub $128, %%rsp\n"
                     "pushq $0x23\n pushq %[target]\n lretq\n 1:\n"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), [save] "S"((uintptr_t)saved), [target] "D"((uintptr_t)at)
                     : "memory", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "cc");
    return (int)result;
}

static void try_32bit(long (*door)(long, long, long, long, long, long, long), const char *name)
{
    /* i386 numbers: kill 37, open 5, creat 8, mkdir 39, chmod 15, unlink 10, rename 38, truncate 92, ptrace 26, getpid 20. */
    struct { long number, a, b, c; } calls[] = {
        { 20, 0, 0, 0 }, { 37, victim, SIGKILL, 0 }, { 39, (long)low_canary, 0777, 0 }, { 8, (long)low_canary, 0777, 0 },
        { 5, (long)low_canary, O_CREAT | O_RDWR, 0777 }, { 15, (long)low_secret, 0777, 0 }, { 10, (long)low_secret, 0, 0 },
        { 38, (long)low_secret, (long)low_canary, 0 }, { 92, (long)low_secret, 0, 0 }, { 26, 16, victim, 0 },
        { 238, victim, SIGKILL, 0 }, { 270, victim, victim, SIGKILL }, { 296, AT_FDCWD, (long)low_canary, 0777 },
    };
    for (size_t i = 0; i < sizeof calls / sizeof *calls; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            long result = door(calls[i].number, calls[i].a, calls[i].b, calls[i].c, 0, 0, 0);
            _exit(result == -ENOSYS ? 2 : 1);
        }
        int status = wait_briefly(pid);
        if (WIFEXITED(status) && WEXITSTATUS(status) != 2) report(name, calls[i].number, status);
        /* SIGSYS is the filter's answer; SIGSEGV a host without 32-bit calls. */
        if (WIFSIGNALED(status) && WTERMSIG(status) != SIGSYS && WTERMSIG(status) != SIGSEGV) report(name, calls[i].number, status);
    }
}

static void try_sysenter(void)
{
    for (int i = 0; i < 2; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            unsigned long number = i ? 39 : 37, first = i ? (unsigned long)low_canary : (unsigned long)victim;
            /* The 32-bit entry returns to the 32-bit vDSO's landing place: whatever happens after the call is a crash. */
            __asm__ volatile("mov %%rsp, %%rbp\n sysenter" ::"a"(number), "b"(first), "c"(i ? 0777L : 9L), "d"(0L) : "memory");
            _exit(1);
        }
        wait_briefly(pid);
    }
}

static void try_vsyscall(void)
{
    static const unsigned long places[] = { 0xffffffffff600000, 0xffffffffff600400, 0xffffffffff600800 };
    for (int i = 0; i < 3; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            long buffer[4] = { 0 };
            long result;
            void (*place)(void) = (void (*)(void))places[i];
            __asm__ volatile("call *%1" : "=a"(result) : "r"(place), "D"(buffer), "S"(NULL), "d"(NULL) : "rcx", "r11", "memory");
            /* A clock is no secret: the sandbox may answer it itself, with the right time. */
            _exit(i == 1 && result > 1000 && labs(result - time(NULL)) > 5 ? 1 : 0);
        }
        int status = wait_briefly(pid);
        if (status == 1 << 8) report("vsyscall", i, status);
    }
}

static sigjmp_buf out;
static void leave(int number) { siglongjmp(out, number); }

static int peek(unsigned long address, void *into, size_t size)
{
    if (sigsetjmp(out, 1)) return 0;
    memcpy(into, (void *)address, size);
    return 1;
}

/* Every `syscall` instruction near anything that the stub's own thread block points to, called with calls of ours. */
static void try_stub(void)
{
    signal(SIGSEGV, leave);
    signal(SIGBUS, leave);
    signal(SIGSYS, leave);
    signal(SIGILL, leave);
    static unsigned long block, words[512], seen[64];
    static int count, gadgets; /* static, since siglongjmp comes back here */
    if (sigsetjmp(out, 1) == 0) __asm__ volatile("rdgsbase %0" : "=r"(block));
    if (!block || !peek(block & ~0xfffUL, words, sizeof words)) {
        printf("no thread block is to be seen\n");
        return;
    }
    for (int w = 0; w < 512 && count < 64; w++) {
        unsigned long page = words[w] & ~0xfffffUL;
        /* Registers of ours lie there too, and the C library has hundreds of such instructions, which trap anyway. */
        int known = words[w] >> 40 != 0x70;
        for (int i = 0; i < count; i++) known |= seen[i] == page;
        if (known) continue;
        seen[count++] = page;
        for (unsigned long at = page; at < page + 0x100000; at += 0x1000) {
            static unsigned char bytes[0x1000];
            if (!peek(at, bytes, sizeof bytes)) continue;
            for (int k = 0; k + 1 < 0x1000 && gadgets < 200; k++) {
                if (bytes[k] != 0x0f || bytes[k + 1] != 0x05) continue;
                gadgets++;
                for (int way = 0; way < 4; way++) {
                    pid_t pid = fork();
                    if (pid == 0) {
                        alarm(1);
                        long number = way == 0 ? SYS_kill : way == 1 ? SYS_mkdir : way == 2 ? SYS_ptrace : SYS_clone;
                        long first = way == 0 ? victim : way == 1 ? (long)low_canary : way == 2 ? 16 : 0x100 | SIGCHLD;
                        long second = way == 0 ? 9 : way == 1 ? 0777 : way == 2 ? victim : 0;
                        __asm__ volatile("jmp *%4" ::"a"(number), "D"(first), "S"(second), "d"(0L), "r"(at + k) : "memory");
                    }
                    if (pid > 0) wait_briefly(pid);
                }
            }
        }
    }
    printf("%d syscall instructions of the stub's own were jumped to\n", gadgets);
}

int main(int argc, char **argv)
{
    struct utsname name;
    if (argc != 6 || uname(&name) != 0 || strcmp(name.nodename, "doors-are-tried-here") != 0) {
        fprintf(stderr, "this program is for the inside of a sandbox only\n");
        return 99;
    }
    victim = atoi(argv[2]);
    secret = argv[3];
    canary = argv[4];
    port = atoi(argv[5]);
    if (victim < 100) return 99;
    low = mmap(NULL, 0x4000, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (low == MAP_FAILED) return 98;
    low_secret = strcpy((char *)low, secret);
    low_canary = strcpy((char *)low + 0x200, canary);
    const char *door = argv[1];
    if (strcmp(door, "syscall") == 0) try_all(raw, 0, false, door);
    else if (strcmp(door, "sweep") == 0) sweep(0, door);
    else if (strcmp(door, "x32") == 0) try_all(raw, 0x40000000, true, door);
    else if (strcmp(door, "x32-sweep") == 0) sweep(0x40000000, door);
    else if (strcmp(door, "high") == 0) try_all(raw, 0x7fffffffL << 32, false, door);
    else if (strcmp(door, "int80") == 0) try_32bit(int80, door);
    else if (strcmp(door, "compatibility") == 0) try_32bit(compatibility, door);
    else if (strcmp(door, "sysenter") == 0) try_sysenter();
    else if (strcmp(door, "vsyscall") == 0) try_vsyscall();
    else if (strcmp(door, "stub") == 0) try_stub();
    else return 97;
    printf("%s: tried\n", door);
    return bad;
}
