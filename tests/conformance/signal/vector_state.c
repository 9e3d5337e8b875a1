/* Vector and floating point registers keep their values over a handler that changes them all, and over system calls. */
#include "check.h"
#include <immintrin.h>
#include <math.h>
#include <sys/time.h>

static volatile sig_atomic_t count;
static bool avx;

__attribute__((noinline)) static void trash_avx(void)
{
    __asm__ volatile("vpcmpeqd %%xmm0,%%xmm0,%%xmm0\n vmovaps %%ymm0,%%ymm1\n vinsertf128 $1,%%xmm0,%%ymm0,%%ymm0\n"
                     "vmovaps %%ymm0,%%ymm2\n vmovaps %%ymm0,%%ymm3\n vmovaps %%ymm0,%%ymm7\n vmovaps %%ymm0,%%ymm15\n"
                     ::: "xmm0", "xmm1", "xmm2", "xmm3", "xmm7", "xmm15");
}

__attribute__((target("no-avx"))) static void handler(int number)
{
    (void)number;
    count++;
    __asm__ volatile("pcmpeqd %%xmm0,%%xmm0\n movaps %%xmm0,%%xmm5\n movaps %%xmm0,%%xmm9\n fninit\n fldpi\n"
                     ::: "xmm0", "xmm5", "xmm9");
    if (avx) trash_avx();
    unsigned control = 0x7f80;
    __asm__ volatile("ldmxcsr %0" ::"m"(control));
}

__attribute__((target("no-avx"))) static void with_sse(int way)
{
    unsigned long in[4] = { 1, 2, 3, 4 }, out[4] = { 0 };
    long spins = 0;
    __asm__ volatile("movups (%0),%%xmm5\n movups 16(%0),%%xmm9\n" ::"r"(in) : "xmm5", "xmm9");
    int before = count;
    if (way == 0) {
        /* The raw call, so that nothing between touches a register. */
        long result;
        __asm__ volatile("syscall" : "=a"(result) : "a"(SYS_tgkill), "D"(getpid()), "S"(getpid()), "d"(SIGUSR1) : "rcx", "r11", "memory");
    } else {
        while (count == before && spins < 4000000000L) spins++;
    }
    __asm__ volatile("movups %%xmm5,(%0)\n movups %%xmm9,16(%0)\n" ::"r"(out) : "memory");
    CHECK(count > before);
    CHECK(memcmp(in, out, sizeof in) == 0);
}

static void with_avx(void)
{
    unsigned long in[4] = { 11, 12, 13, 14 }, out[4] = { 0 };
    long result;
    int pid = getpid();
    __asm__ volatile("vmovups (%1),%%ymm7\n vmovups (%1),%%ymm15\n syscall\n vmovups %%ymm7,(%2)\n"
                     : "=a"(result) : "r"(in), "r"(out), "a"(SYS_tgkill), "D"(pid), "S"(pid), "d"(SIGUSR1)
                     : "rcx", "r11", "memory", "xmm7", "xmm15");
    CHECK(memcmp(in, out, sizeof in) == 0);
    memset(out, 0, sizeof out);
    __asm__ volatile("vmovups (%1),%%ymm15\n syscall\n vmovups %%ymm15,(%2)\n"
                     : "=a"(result) : "r"(in), "r"(out), "a"(SYS_getppid) : "rcx", "r11", "memory", "xmm15");
    CHECK(memcmp(in, out, sizeof in) == 0);
}

int main(void)
{
    avx = __builtin_cpu_supports("avx");
    catch_signal(SIGUSR1, handler, 0);
    catch_signal(SIGALRM, handler, SA_RESTART);
    for (int i = 0; i < 50; i++) with_sse(0);
    if (avx)
        for (int i = 0; i < 50; i++) with_avx();
    struct itimerval timer = { { 0, 2000 }, { 0, 2000 } }, off = { { 0, 0 }, { 0, 0 } };
    MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    for (int i = 0; i < 20; i++) with_sse(1);
    double sum = 0, again = 0;
    for (int i = 1; i < 2000000; i++) sum += sqrt(i) / (i + 1.0);
    for (int i = 1; i < 2000000; i++) again += sqrt(i) / (i + 1.0);
    MUST(setitimer(ITIMER_REAL, &off, NULL) == 0);
    CHECK(sum == again && sum > 2000);

    /* The control word is the interrupted code's own again. */
    unsigned control;
    __asm__ volatile("stmxcsr %0" : "=m"(control));
    CHECK_EQ(control & 0xffc0, 0x1f80);

    /* A fork copies the registers; and system calls keep all but rax, rcx, r11. */
    unsigned long in[2] = { 77, 88 }, out[2] = { 0 };
    long result;
    __asm__ volatile("movups (%1),%%xmm6\n mov $57,%%eax\n syscall\n movups %%xmm6,(%2)\n"
                     : "=a"(result) : "r"(in), "r"(out) : "rcx", "r11", "memory", "xmm6");
    CHECK(memcmp(in, out, sizeof in) == 0);
    if (result == 0) _exit(memcmp(in, out, sizeof in) == 0 ? 0 : 1);
    CHECK_CHILD(result);
    unsigned long r[8] = { 0 };
    __asm__ volatile("mov $1,%%rdi\n mov $2,%%rsi\n mov $3,%%rdx\n mov $4,%%r8\n mov $5,%%r9\n mov $6,%%r10\n mov $7,%%r12\n mov $8,%%r13\n"
                     "mov $110,%%eax\n syscall\n mov %%rdi,(%1)\n mov %%rsi,8(%1)\n mov %%rdx,16(%1)\n mov %%r8,24(%1)\n"
                     "mov %%r9,32(%1)\n mov %%r10,40(%1)\n mov %%r12,48(%1)\n mov %%r13,56(%1)\n"
                     : "=&a"(result) : "r"(r) : "rdi", "rsi", "rdx", "r8", "r9", "r10", "r12", "r13", "rcx", "r11", "memory");
    for (unsigned long i = 0; i < 8; i++) CHECK_EQ(r[i], i + 1);
    return check_result();
}
