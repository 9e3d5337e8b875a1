/* sigaltstack(2): handlers with SA_ONSTACK run there, others do not; a stack overflow is survived. */
#include "check.h"
#include <setjmp.h>
#include <sys/resource.h>

static char *alternate;
static size_t size;
static volatile sig_atomic_t on_it, flags_inside, change_error;
static sigjmp_buf back;

static void where(int number)
{
    char here;
    (void)number;
    on_it = &here >= alternate && &here < alternate + size;
    stack_t now;
    sigaltstack(NULL, &now);
    flags_inside = now.ss_flags;
    stack_t change = { .ss_sp = alternate, .ss_size = size };
    change_error = sigaltstack(&change, NULL) == 0 ? 0 : errno;
}

static void overflowed(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    char here;
    on_it = &here >= alternate && &here < alternate + size && info->si_addr != NULL;
    siglongjmp(back, 1);
}

static volatile int enough;

static int dig(volatile char *above)
{
    volatile char room[4096];
    if (enough) return 0;
    room[0] = above[0] + 1;
    return dig(room) + room[0];
}

int main(void)
{
    size = 4 * sysconf(_SC_SIGSTKSZ);
    alternate = malloc(size);
    stack_t stack = { .ss_sp = alternate, .ss_size = size }, old;
    CHECK_EQ(sigaltstack(NULL, &old), 0);
    CHECK_EQ(old.ss_flags, SS_DISABLE);
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    CHECK_EQ(sigaltstack(NULL, &old), 0);
    CHECK(old.ss_sp == alternate && old.ss_size == size && old.ss_flags == 0);
    stack_t bad = { .ss_sp = alternate, .ss_size = 100 };
    CHECK_ERR(sigaltstack(&bad, NULL), ENOMEM);
    bad = (stack_t){ .ss_sp = alternate, .ss_size = size, .ss_flags = 0x40 };
    CHECK_ERR(sigaltstack(&bad, NULL), EINVAL);

    catch_signal(SIGUSR1, where, 0);
    raise(SIGUSR1);
    CHECK_EQ(on_it, 0);
    CHECK_EQ(flags_inside, 0);
    catch_signal(SIGUSR1, where, SA_ONSTACK);
    raise(SIGUSR1);
    CHECK_EQ(on_it, 1);
    CHECK_EQ(flags_inside, SS_ONSTACK);
    CHECK_EQ(change_error, EPERM);

    /* Stack overflow. */
    struct rlimit limit = { 1 << 20, RLIM_INFINITY };
    CHECK_EQ(getrlimit(RLIMIT_STACK, &limit), 0);
    limit.rlim_cur = 1 << 20;
    CHECK_EQ(setrlimit(RLIMIT_STACK, &limit), 0);
    struct sigaction action = { .sa_sigaction = overflowed, .sa_flags = SA_SIGINFO | SA_ONSTACK };
    CHECK_EQ(sigaction(SIGSEGV, &action, NULL), 0);
    for (int i = 0; i < 3; i++) {
        on_it = 0;
        if (sigsetjmp(back, 1) == 0) {
            char first = 0;
            dig(&first);
        }
        CHECK_EQ(on_it, 1);
    }
    /* Disabled again; without it, an overflow kills. */
    stack.ss_flags = SS_DISABLE;
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        char first = 0;
        dig(&first);
    }
    CHECK_EQ(wait_status(pid) & 0x7f, SIGSEGV);
    return check_result();
}
