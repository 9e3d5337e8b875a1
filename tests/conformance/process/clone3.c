/* clone3: what it takes and refuses; glibc's own threads and posix_spawn use it too. */
#include "check.h"
#include <linux/sched.h>
#include <poll.h>
#include <sched.h>

static long clone3(struct clone_args *arguments, size_t size) { return syscall(SYS_clone3, arguments, size); }

static _Alignas(16) char stack[65536];
static volatile int ran;

/* A child on a stack of its own: everything in one function, which never returns there. */
static long clone3_on_stack(struct clone_args *arguments)
{
    long result;
    __asm__ volatile(
        "syscall\n test %%rax, %%rax\n jnz 1f\n"
        "movl $1, ran(%%rip)\n mov $60, %%eax\n mov $5, %%edi\n syscall\n"
        "1:\n" : "=a"(result) : "a"(SYS_clone3), "D"(arguments), "S"(sizeof *arguments) : "rcx", "r11", "memory");
    return result;
}

static int fail(struct clone_args arguments) { return clone3(&arguments, sizeof arguments) == -1 ? errno : 0; }

int main(void)
{
    struct clone_args arguments = { .exit_signal = SIGCHLD };
    pid_t pid = clone3(&arguments, 64);
    if (pid < 0 && errno == ENOSYS) CANNOT("no clone3");
    if (pid == 0) _exit(3);
    CHECK_EQ(wait_status(pid), 3 << 8);

    /* A descriptor and an id beside each other, which clone cannot give. */
    int pidfd = -1;
    pid_t parent_tid = 0;
    arguments = (struct clone_args){ .flags = CLONE_PIDFD | CLONE_PARENT_SETTID, .pidfd = (uintptr_t)&pidfd,
                                     .parent_tid = (uintptr_t)&parent_tid, .exit_signal = SIGUSR1 };
    signal(SIGUSR1, SIG_IGN);
    pid = clone3(&arguments, sizeof arguments);
    if (pid == 0) _exit(4);
    CHECK_EQ(parent_tid, pid);
    struct pollfd poll_one = { .fd = pidfd, .events = POLLIN };
    CHECK_EQ(poll(&poll_one, 1, 10000), 1);
    int status;
    CHECK_EQ(waitpid(pid, &status, __WALL), pid);
    CHECK_EQ(status, 4 << 8);

    /* A shared memory child on its own stack. */
    arguments = (struct clone_args){ .flags = CLONE_VM | CLONE_VFORK, .exit_signal = SIGCHLD, .stack = (uintptr_t)stack,
                                     .stack_size = sizeof stack };
    pid = clone3_on_stack(&arguments);
    CHECK(pid > 0);
    CHECK_EQ(wait_status(pid), 5 << 8);
    CHECK_EQ(ran, 1);

    /* CLONE_CLEAR_SIGHAND: handlers go, ignored ones stay. */
    catch_signal(SIGUSR2, (void (*)(int))child_exit, 0);
    arguments = (struct clone_args){ .flags = CLONE_CLEAR_SIGHAND, .exit_signal = SIGCHLD };
    pid = clone3(&arguments, sizeof arguments);
    if (pid == 0) {
        struct sigaction action;
        sigaction(SIGUSR2, NULL, &action);
        if (action.sa_handler != SIG_DFL) _exit(1);
        sigaction(SIGUSR1, NULL, &action);
        _exit(action.sa_handler != SIG_IGN);
    }
    CHECK_EQ(wait_status(pid), 0);

    CHECK_ERR(clone3(&arguments, 63), EINVAL);
    CHECK_ERR(clone3(&arguments, 8192), E2BIG);
    CHECK_ERR(clone3((struct clone_args *)-1L, 64), EFAULT);
    struct { struct clone_args known; uint64_t more; } longer = { .known.exit_signal = SIGCHLD, .more = 1 };
    CHECK_ERR(clone3(&longer.known, sizeof longer), E2BIG);
    CHECK_EQ(fail((struct clone_args){ .flags = 1ULL << 40 }), EINVAL);
    CHECK_EQ(fail((struct clone_args){ .flags = SIGCHLD }), EINVAL);
    CHECK_EQ(fail((struct clone_args){ .exit_signal = 65 }), EINVAL);
    CHECK_EQ(fail((struct clone_args){ .flags = CLONE_SIGHAND }), EINVAL);
    CHECK_EQ(fail((struct clone_args){ .flags = CLONE_THREAD | CLONE_VM | CLONE_SIGHAND, .exit_signal = SIGCHLD }), EINVAL);
    CHECK_EQ(fail((struct clone_args){ .stack = (uintptr_t)stack }), EINVAL);
    CHECK_EQ(fail((struct clone_args){ .stack_size = 4096 }), EINVAL);
    return check_result();
}
