/* signal(7): handlers that run in the middle of many calls, of every kind, change neither their results nor the registers
 * around them, from the first call to the last (a sandbox may change on the way how it takes calls). */
#include "check.h"
#include <sys/time.h>

static atomic_int ticks;
static pid_t own, parent;

static void tick(int number)
{
    (void)number;
    int saved = errno;
    atomic_fetch_add(&ticks, 1);
    if (syscall(SYS_getpid) != own || syscall(SYS_getppid) != parent) CHECK_FAIL("a handler sees other ids");
    errno = saved;
}

/* The call keeps every register but rax, rcx and r11, and the flags. */
static long call_with_registers(long number, long first, long second, long third, bool *kept)
{
    register long r10 asm("r10") = 0x1010, r8 asm("r8") = 0x0808, r9 asm("r9") = 0x0909;
    register long r12 asm("r12") = 0x1212, r15 asm("r15") = 0x1515;
    long result = number, rdi = first, rsi = second, rdx = third;
    unsigned char carry;
    asm volatile("stc\n\tsyscall\n\tsetc %[carry]"
                 : "+a"(result), "+D"(rdi), "+S"(rsi), "+d"(rdx), "+r"(r10), "+r"(r8), "+r"(r9), "+r"(r12), "+r"(r15),
                   [carry] "=qm"(carry)
                 :
                 : "rcx", "r11", "memory", "cc");
    *kept = carry == 1 && rdi == first && rsi == second && rdx == third && r10 == 0x1010 && r8 == 0x0808 && r9 == 0x0909
        && r12 == 0x1212 && r15 == 0x1515;
    return result;
}

int main(void)
{
    own = getpid();
    parent = getppid();
    catch_signal(SIGALRM, tick, SA_RESTART);
    struct itimerval often = { { 0, 300 }, { 0, 300 } };
    MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
    int ends[2];
    MUST(pipe(ends) == 0);
    sigset_t set = signal_set(SIGALRM), old;
    long long start = now_ns();
    int rounds = 0;
    do {
        for (int i = 0; i < 50; i++) {
            bool kept = false;
            CHECK_EQ(call_with_registers(SYS_getppid, 1, 2, 3, &kept), parent);
            CHECK(kept);
            CHECK_EQ(syscall(SYS_getpid), own);
            char byte = (char)i, got = 0;
            CHECK_EQ(write(ends[1], &byte, 1), 1);
            CHECK_EQ(read(ends[0], &got, 1), 1);
            CHECK_EQ(got, byte);
            CHECK_EQ(sigprocmask(SIG_BLOCK, &set, &old), 0);
            CHECK_EQ(sigismember(&old, SIGALRM), 0);
            int before = atomic_load(&ticks);
            CHECK_EQ(getppid(), parent);
            CHECK_EQ(atomic_load(&ticks), before);
            CHECK_EQ(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &old, &old, 8), 0);
            CHECK_EQ(sigismember(&old, SIGALRM), 1);
        }
        if (rounds % 8 == 0) {
            pid_t pid = child_fork();
            if (pid == 0) {
                CHECK(getpid() != own);
                CHECK_EQ(getppid(), own);
                child_exit();
            }
            CHECK_CHILD(pid);
        }
        rounds++;
    } while (check_failures == 0 && now_ns() - start < 250000000);
    CHECK(atomic_load(&ticks) > 5);
    return check_result();
}
