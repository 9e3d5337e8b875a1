/* ptrace(2): stops, what a tracer reads and changes, how a tracee goes on. */
#include "process/tracees.h"
#include <elf.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/uio.h>
#include <sys/user.h>

static volatile int value = 7;

static int give_value(void) { return value; }

static void memory(void) {
    pid_t pid = traced(give_value, 0);
    errno = 0;
    CHECK((int)ptrace(PTRACE_PEEKDATA, pid, &value, 0) == 7 && errno == 0);
    long word = ptrace(PTRACE_PEEKDATA, pid, &value, 0);
    CHECK(ptrace(PTRACE_POKEDATA, pid, &value, (word & ~0xffffffffL) | 9) == 0);
    /* Code is written, too, and nobody else's changes. */
    long code = ptrace(PTRACE_PEEKTEXT, pid, give_value, 0);
    CHECK(ptrace(PTRACE_POKETEXT, pid, give_value, code) == 0);
    CHECK(ptrace(PTRACE_PEEKDATA, pid, 8, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_POKEDATA, pid, 8, 0) == -1 && errno == EIO);
    char name[64];
    snprintf(name, sizeof name, "/proc/%d/status", pid);
    FILE *file = fopen(name, "r");
    int tracer = 0;
    char state = 0;
    for (char line[200]; file && fgets(line, sizeof line, file);) {
        sscanf(line, "TracerPid: %d", &tracer);
        sscanf(line, "State: %c", &state);
    }
    if (file) fclose(file);
    CHECK(tracer == getpid() && state == 't');
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == -1 && errno == ESRCH);
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 9);
    CHECK(value == 7);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == -1 && errno == ESRCH);
}

static int make_calls(void) {
    syscall(SYS_getppid);
    long result = syscall(SYS_write, -1, "x", 1);
    return result == -1 && errno == EBADF ? 3 : result == 55 ? 4 : 5;
}

static void calls(void) {
    pid_t pid = traced(make_calls, PTRACE_O_TRACESYSGOOD);
    long entered[16];
    int count = 0, status;
    for (;;) {
        MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
        status = wait_for(pid);
        if (!WIFSTOPPED(status)) break;
        CHECK(WSTOPSIG(status) == (SIGTRAP | 0x80));
        struct user_regs_struct registers;
        MUST(ptrace(PTRACE_GETREGS, pid, 0, &registers) == 0);
        siginfo_t info;
        CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &info) == 0 && info.si_code == (SIGTRAP | 0x80));
        struct __ptrace_syscall_info call;
        long size = ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call);
        if (call.op == PTRACE_SYSCALL_INFO_ENTRY) {
            CHECK(size == offsetof(struct __ptrace_syscall_info, entry.args) + sizeof call.entry.args);
            CHECK((long)registers.rax == -ENOSYS && registers.orig_rax == call.entry.nr && registers.rip == call.instruction_pointer);
            CHECK(registers.rsp == call.stack_pointer && registers.cs == 0x33);
            if (count < 16) entered[count++] = registers.orig_rax;
            if (call.entry.nr == SYS_write) {
                CHECK((int)registers.rdi == -1 && registers.rdx == 1 && (int)call.entry.args[0] == -1);
                /* Another call in its place. */
                registers.orig_rax = SYS_getpid;
                CHECK(ptrace(PTRACE_SETREGS, pid, 0, &registers) == 0);
            }
        } else {
            CHECK(call.op == PTRACE_SYSCALL_INFO_EXIT);
            if (count == 1) CHECK(call.exit.rval == getpid() && !call.exit.is_error);
            if (count == 2) {
                CHECK(call.exit.rval == pid);
                registers.rax = 55;
                CHECK(ptrace(PTRACE_SETREGS, pid, 0, &registers) == 0);
            }
        }
    }
    CHECK(count == 3 && entered[0] == SYS_getppid && entered[1] == SYS_write && entered[2] == SYS_exit_group);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 4);
}

static int write_nothing(void) {
    long result = syscall(SYS_write, 1, "not to be seen\n", 15);
    return result == -1 && errno == ENOSYS ? 6 : 7;
}

/* A call that the tracer does not let happen. */
static void call_skipped(void) {
    pid_t pid = traced(write_nothing, PTRACE_O_TRACESYSGOOD);
    MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
    wait_for(pid);
    CHECK(ptrace(PTRACE_POKEUSER, pid, offsetof(struct user_regs_struct, orig_rax), -1L) == 0);
    CHECK(ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, orig_rax), 0) == -1);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 6);
}

static volatile sig_atomic_t got;
static void handler(int number) { got = number; }

static int raise_some(void) {
    signal(SIGUSR1, handler);
    signal(SIGUSR2, handler);
    raise(SIGUSR1);
    int first = got;
    got = 0;
    raise(SIGUSR1);
    int second = got;
    raise(SIGTERM);
    return first == SIGUSR2 && second == 0 ? 8 : 9;
}

static void signals(void) {
    pid_t pid = traced(raise_some, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    siginfo_t info;
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &info) == 0 && info.si_signo == SIGUSR1 && info.si_code == SI_TKILL && info.si_pid == pid);
    /* Another signal in its place, none, and one that would kill it. */
    MUST(ptrace(PTRACE_CONT, pid, 0, SIGUSR2) == 0);
    status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTERM);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 65) == -1 && errno == EIO);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 8);
    pid = traced(raise_some, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for(pid);
    MUST(ptrace(PTRACE_CONT, pid, 0, SIGKILL) == 0);
    status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static int do_breakpoint(void) {
    double before = 1.5;
    asm volatile("int3" : "+x"(before));
    return before == 2.5 ? 10 : 11;
}

static void trap_and_vector_registers(void) {
    pid_t pid = traced(do_breakpoint, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    siginfo_t info;
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &info) == 0 && info.si_code == SI_KERNEL);
    errno = 0;
    unsigned long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
    unsigned long before = ptrace(PTRACE_PEEKTEXT, pid, at - 1, 0);
    CHECK(errno == 0 && (before & 0xff) == 0xcc);
    static unsigned char state[65536];
    struct iovec vector = {state, sizeof state};
    MUST(ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, &vector) == 0);
    CHECK(vector.iov_len >= 576);
    struct user_fpregs_struct legacy;
    MUST(ptrace(PTRACE_GETFPREGS, pid, 0, &legacy) == 0);
    CHECK(memcmp(state + 160, legacy.xmm_space, 256) == 0);
    double *xmm = (double *)(state + 160);
    int found = 0;
    for (int i = 0; i < 16; i++) {
        if (xmm[2 * i] == 1.5) {
            xmm[2 * i] = 2.5;
            found = 1;
        }
    }
    CHECK(found);
    CHECK(ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, &vector) == 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 10);
}

static int a_few_instructions(void) {
    asm volatile("int3\n nop\n nop\n mov $39, %%eax\n syscall\n nop\n int3" ::: "rax", "rcx", "r11", "memory");
    return 12;
}

/* Between the two breakpoints lie five steps, the call one of them. */
static void steps(void) {
    pid_t pid = traced(a_few_instructions, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for(pid);
    unsigned long start = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
    unsigned long expected[] = {1, 2, 7, 9, 10};
    for (int i = 0; i < 5; i++) {
        MUST(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0);
        int status = wait_for(pid);
        CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
        unsigned long now = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
        CHECK(now - start == expected[i]);
        CHECK((ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, eflags), 0) & 0x100) == 0);
    }
    CHECK(ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rax), 0) == pid);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 12);
}

static void *thread_body(void *argument) { return argument; }

static int make_children(void) {
    pthread_t thread;
    pid_t child = fork();
    if (child == 0) _exit(1);
    waitpid(child, NULL, 0);
    child = vfork();
    if (child == 0) _exit(2);
    waitpid(child, NULL, 0);
    pthread_create(&thread, NULL, thread_body, NULL);
    pthread_join(thread, NULL);
    char *arguments[] = {"true", NULL};
    execv("/bin/true", arguments);
    return 99;
}

static void events(void) {
    pid_t pid = traced(make_children, PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
                                          PTRACE_O_TRACEVFORKDONE | PTRACE_O_TRACEEXIT);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int seen[16] = {0}, ended = 0, children = 0, first_stops = 0;
    pid_t known[8];
    while (ended < 4) {
        int status;
        pid_t one = waitpid(-1, &status, __WALL);
        MUST(one > 0);
        if (!WIFSTOPPED(status)) {
            ended++;
            if (one == pid) CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
            continue;
        }
        int signal = WSTOPSIG(status), event = status >> 16;
        if (event) {
            CHECK(signal == SIGTRAP && event < 16);
            seen[event & 15]++;
            unsigned long message = 0;
            CHECK(ptrace(PTRACE_GETEVENTMSG, one, 0, &message) == 0);
            if (event <= PTRACE_EVENT_CLONE && children < 8) {
                CHECK(one == pid && message != 0);
                known[children++] = message;
            }
            if (event == PTRACE_EVENT_EXEC) CHECK(one == pid && (pid_t)message == pid);
            if (event == PTRACE_EVENT_EXIT && one == pid) CHECK(message == 0);
            signal = 0;
        } else if (signal == SIGSTOP && one != pid) {
            first_stops++;
            signal = 0;
        }
        MUST(ptrace(PTRACE_CONT, one, 0, signal) == 0);
    }
    CHECK(children == 3 && known[0] != known[1] && first_stops == 3);
    CHECK(seen[PTRACE_EVENT_FORK] == 1 && seen[PTRACE_EVENT_VFORK] == 1 && seen[PTRACE_EVENT_VFORK_DONE] == 1);
    CHECK(seen[PTRACE_EVENT_CLONE] == 1 && seen[PTRACE_EVENT_EXEC] == 1 && seen[PTRACE_EVENT_EXIT] == 4);
}

static int execute(void) {
    char *arguments[] = {"sh", "-c", "exit 5", NULL};
    execv("/bin/sh", arguments);
    return 99;
}

/* Without PTRACE_O_TRACEEXEC a SIGTRAP comes behind execve(2), before the program's first instruction. */
static void exec_trap(void) {
    pid_t pid = traced(execute, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(status >> 8 == SIGTRAP);
    errno = 0;
    unsigned long at = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0);
    unsigned long stack = ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rsp), 0);
    CHECK(errno == 0 && at != 0 && ptrace(PTRACE_PEEKDATA, pid, stack, 0) == 3 && errno == 0);
    CHECK(ptrace(PTRACE_DETACH, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 5);
}

static int sleep_in_pieces(void) {
    struct timespec long_time = {0, 300000000};
    int result = clock_nanosleep(CLOCK_MONOTONIC, 0, &long_time, NULL);
    return result == 0 ? 13 : 14;
}

/* PTRACE_SEIZE and PTRACE_INTERRUPT of one that sleeps in a call, which goes on; PTRACE_LISTEN of one whose process is stopped. */
static void seize(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(sleep_in_pieces());
    usleep(50000);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == -1 && errno == ESRCH);
    MUST(ptrace(PTRACE_SEIZE, pid, 0, PTRACE_O_TRACESYSGOOD) == 0);
    CHECK(ptrace(PTRACE_SEIZE, pid, 0, 0) == -1 && errno == EPERM);
    CHECK(ptrace(PTRACE_CONT, pid, 0, 0) == -1 && errno == ESRCH);
    MUST(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(status >> 8 == (SIGTRAP | PTRACE_EVENT_STOP << 8));
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    kill(pid, SIGSTOP);
    status = wait_for(pid);
    CHECK(status >> 8 == SIGSTOP);
    MUST(ptrace(PTRACE_CONT, pid, 0, SIGSTOP) == 0);
    status = wait_for(pid);
    CHECK(status >> 8 == (SIGSTOP | PTRACE_EVENT_STOP << 8));
    CHECK(ptrace(PTRACE_LISTEN, pid, 0, 0) == 0);
    CHECK(waitpid(pid, &status, __WALL | WNOHANG) == 0);
    kill(pid, SIGCONT);
    status = wait_for(pid);
    CHECK(status >> 8 == (SIGTRAP | PTRACE_EVENT_STOP << 8));
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(status >> 8 == SIGCONT);
    MUST(ptrace(PTRACE_CONT, pid, 0, SIGCONT) == 0);
    status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 13);
}

static atomic_int word;
static void *wait_on_word(void *argument) {
    while (word == 0) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return argument;
}

static int threads_that_wait(void) {
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, wait_on_word, NULL);
    usleep(400000);
    word = 1;
    syscall(SYS_futex, &word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    return 15;
}

/* Threads that wait in futexes are attached to, shown in their calls, and let go. */
static void attach_to_threads(void) {
    pid_t pid = fork();
    if (pid == 0) _exit(threads_that_wait());
    usleep(100000);
    char name[64];
    int count = 0;
    for (pid_t tid = pid; tid < pid + 40; tid++) {
        snprintf(name, sizeof name, "/proc/%d/task/%d", pid, tid);
        if (access(name, F_OK) != 0) continue;
        MUST(ptrace(PTRACE_ATTACH, tid, 0, 0) == 0);
        int status = wait_for(tid);
        CHECK(status >> 8 == SIGSTOP);
        struct user_regs_struct registers;
        CHECK(ptrace(PTRACE_GETREGS, tid, 0, &registers) == 0 && registers.rsp != 0);
        CHECK(tid == pid || registers.rdi == (unsigned long)&word);
        CHECK(ptrace(PTRACE_DETACH, tid, 0, 0) == 0);
        count++;
    }
    CHECK(count == 4);
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 15);
}

static int wait_in_futex(void) {
    signal(SIGUSR1, handler);
    long result = syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return result == -1 && errno == EINTR && got == SIGUSR1 ? 16 : 17;
}

/* What a tracer of calls sees of one that the host waits in, and of its interruption. */
static void interrupted_call(void) {
    pid_t pid = traced(wait_in_futex, PTRACE_O_TRACESYSGOOD);
    int status;
    struct __ptrace_syscall_info call;
    do {
        MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
        status = wait_for(pid);
        MUST(WIFSTOPPED(status));
        ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call);
    } while (call.op != PTRACE_SYSCALL_INFO_ENTRY || call.entry.nr != SYS_futex);
    MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
    usleep(50000);
    CHECK(waitpid(pid, &status, __WALL | WNOHANG) == 0);
    kill(pid, SIGUSR1);
    status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == (SIGTRAP | 0x80));
    ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof call, &call);
    CHECK(call.op == PTRACE_SYSCALL_INFO_EXIT && call.exit.rval == -512);
    MUST(ptrace(PTRACE_SYSCALL, pid, 0, 0) == 0);
    status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    kill(pid, SIGKILL);
    status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static int stop_yourself(void) {
    raise(SIGSTOP);
    return 20;
}

/* A tracer that ends lets its tracees go on, or takes them along. */
static void tracer_ends(void) {
    for (int kills = 0; kills < 2; kills++) {
        int ends[2];
        MUST(pipe(ends) == 0);
        pid_t tracer = fork();
        if (tracer == 0) {
            close(ends[0]);
            pid_t pid = traced(stop_yourself, 0);
            MUST(ptrace(PTRACE_SETOPTIONS, pid, 0, kills ? PTRACE_O_EXITKILL : 0) == 0);
            MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
            wait_for(pid);
            CHECK(write(ends[1], &pid, sizeof pid) == sizeof pid);
            _exit(check_result());
        }
        close(ends[1]);
        pid_t tracee = 0;
        CHECK(read(ends[0], &tracee, sizeof tracee) == sizeof tracee);
        int status = wait_for(tracer);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        /* The tracee has the other end, until it is dead. */
        kill(tracee, SIGCONT);
        char byte;
        CHECK(read(ends[0], &byte, 1) == 0);
        close(ends[0]);
    }
}

static void refusals(void) {
    CHECK(ptrace(PTRACE_ATTACH, getpid(), 0, 0) == -1 && errno == EPERM);
    CHECK(ptrace(PTRACE_ATTACH, 999999, 0, 0) == -1 && errno == ESRCH);
    CHECK(ptrace(PTRACE_CONT, getppid(), 0, 0) == -1 && errno == ESRCH);
    pid_t pid = traced(give_value, 0);
    CHECK(ptrace(PTRACE_SETOPTIONS, pid, 0, 1 << 30) == -1 && errno == EINVAL);
    CHECK(ptrace(PTRACE_GETREGSET, pid, 0x7777, &(struct iovec){0}) == -1 && errno == EINVAL);
    CHECK(ptrace(PTRACE_PEEKUSER, pid, 3, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_PEEKUSER, pid, 1 << 20, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_GETREGS, pid, 0, 8) == -1 && errno == EFAULT);
    CHECK(ptrace(PTRACE_LISTEN, pid, 0, 0) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_INTERRUPT, pid, 0, 0) == -1 && errno == EIO);
    struct user_regs_struct registers;
    MUST(ptrace(PTRACE_GETREGS, pid, 0, &registers) == 0);
    registers.cs = 0x10;
    CHECK(ptrace(PTRACE_SETREGS, pid, 0, &registers) == -1 && errno == EIO);
    CHECK(ptrace(PTRACE_KILL, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

int main(void) {
    memory();
    calls();
    call_skipped();
    signals();
    trap_and_vector_registers();
    steps();
    events();
    exec_trap();
    seize();
    attach_to_threads();
    interrupted_call();
    tracer_ends();
    refusals();
    return check_result();
}
