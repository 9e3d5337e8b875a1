/* Faults: SIGSEGV with si_addr and codes, repairs by mprotect and by changing the context, SIGFPE, SIGILL, SIGTRAP, SIGBUS. */
#include "check.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

static char *page;
static siginfo_t last;
static volatile sig_atomic_t count;
static sigjmp_buf back;

static void jump(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    last = *info;
    count++;
    siglongjmp(back, 1);
}

static void repair(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    last = *info;
    count++;
    if (mprotect(page, 4096, PROT_READ | PROT_WRITE) != 0) abort();
}

/* Skips the faulting instruction, which begins at `skip_from` and ends at `skip_to`, and changes a register. */
extern char skip_to[];
static void skip(int number, siginfo_t *info, void *context)
{
    (void)number;
    last = *info;
    count++;
    ucontext_t *user = context;
    user->uc_mcontext.gregs[REG_RIP] = (greg_t)skip_to;
    user->uc_mcontext.gregs[REG_RAX] = 4711;
}

static void install(int number, void (*handler)(int, siginfo_t *, void *))
{
    struct sigaction action = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO };
    MUST(sigaction(number, &action, NULL) == 0);
}

int main(void)
{
    page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    install(SIGSEGV, jump);
    if (sigsetjmp(back, 1) == 0) *(volatile char *)(page + 5) = 1;
    CHECK_EQ(last.si_signo, SIGSEGV);
    CHECK_EQ(last.si_code, SEGV_ACCERR);
    CHECK(last.si_addr == page + 5);
    char *hole = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    munmap(hole, 4096);
    if (sigsetjmp(back, 1) == 0) CHECK(*(volatile char *)(hole + 9) == 0);
    CHECK_EQ(last.si_code, SEGV_MAPERR);
    CHECK(last.si_addr == hole + 9);
    if (sigsetjmp(back, 1) == 0) *(volatile int *)NULL = 1;
    CHECK(last.si_addr == NULL);
    CHECK_EQ(count, 3);
    /* A jump to nowhere. */
    if (sigsetjmp(back, 1) == 0) ((void (*)(void))hole)();
    CHECK(last.si_addr == hole);
    /* A non-canonical address has no address to report. */
    if (sigsetjmp(back, 1) == 0) *(volatile char *)0x8000000000000000UL = 1;
    CHECK_EQ(last.si_code, SI_KERNEL);

    /* Repair, and the instruction runs again. A thousand times. */
    install(SIGSEGV, repair);
    count = 0;
    for (int i = 0; i < 1000; i++) {
        page[7] = i;
        CHECK(page[7] == (char)i);
        MUST(mprotect(page, 4096, PROT_READ) == 0);
    }
    CHECK_EQ(count, 1000);

    /* Change the context. */
    install(SIGSEGV, skip);
    long result;
    __asm__ volatile("mov $1, %%eax\n movq (0), %%rax\n .globl skip_to\nskip_to:\n" : "=a"(result) : : "memory");
    CHECK_EQ(result, 4711);

    install(SIGFPE, jump);
    volatile int zero = 0, one = 1;
    if (sigsetjmp(back, 1) == 0) one = one / zero;
    CHECK_EQ(last.si_signo, SIGFPE);
    CHECK_EQ(last.si_code, FPE_INTDIV);
    install(SIGILL, jump);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("ud2");
    CHECK_EQ(last.si_signo, SIGILL);
    CHECK_EQ(last.si_code, ILL_ILLOPN);
    install(SIGTRAP, jump);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("int3");
    CHECK_EQ(last.si_signo, SIGTRAP);
    CHECK_EQ(last.si_code, SI_KERNEL);
    /* A privileged instruction. */
    install(SIGSEGV, jump);
    if (sigsetjmp(back, 1) == 0) __asm__ volatile("hlt");
    CHECK_EQ(last.si_signo, SIGSEGV);

    /* A blocked or ignored fault kills all the same. */
    for (int way = 0; way < 3; way++) {
        pid_t pid = child_fork();
        if (pid == 0) {
            sigset_t set = signal_set(SIGSEGV);
            if (way == 0) sigprocmask(SIG_BLOCK, &set, NULL);
            if (way == 1) catch_signal(SIGSEGV, SIG_IGN, 0);
            if (way == 2) catch_signal(SIGSEGV, SIG_DFL, 0);
            *(volatile int *)NULL = 1;
            _exit(1);
        }
        CHECK_EQ(wait_status(pid) & 0x7f, SIGSEGV);
    }
    return check_result();
}
