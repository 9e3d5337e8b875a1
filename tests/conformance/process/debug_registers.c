/* Debug registers (ptrace(2), PTRACE_POKEUSER): memory that is watched for writes and reads, instructions, what DR6 says, what is refused. */
#include "process/tracees.h"
#include <pthread.h>
#include <stddef.h>
#include <sys/user.h>

static volatile long watched = 1, other = 1;
static volatile short pair[2];
static volatile sig_atomic_t handled;

#define REGISTER(n) offsetof(struct user, u_debugreg[n])
enum { EXECUTION, WRITES, PORTS, ACCESSES };

static long control(int index, int kind, int length) {
    static const int lengths[] = {0, 0, 1, 0, 3, 0, 0, 0, 2};
    return 1L << (2 * index) | (long)(kind | lengths[length] << 2) << (16 + 4 * index);
}

static int set(pid_t pid, int index, long value) { return ptrace(PTRACE_POKEUSER, pid, REGISTER(index), value); }
static long get(pid_t pid, int index) { return ptrace(PTRACE_PEEKUSER, pid, REGISTER(index), 0); }

/* Goes on to a hit of these registers. */
static void hit(pid_t pid, long which) {
    siginfo_t info = {0};
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &info) == 0 && info.si_code == TRAP_HWBKPT);
    CHECK((get(pid, 6) & 0x400f) == which);
    CHECK((ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, eflags), 0) & 0x100) == 0);
    CHECK(set(pid, 6, 0) == 0 && (get(pid, 6) & 0x400f) == 0);
}

static void ends(pid_t pid, int wanted) {
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == wanted);
}

static long value_of(pid_t pid, volatile void *address) { return ptrace(PTRACE_PEEKDATA, pid, address, 0); }

static int write_some(void) {
    other = 5;
    watched = 7;
    for (int i = 0; i < 200; i++) other++;
    syscall(SYS_getpid);
    pair[0] = 1;
    pair[1] = 2;
    return watched;
}

static void writes(void) {
    pid_t pid = traced(write_some, 0);
    CHECK((get(pid, 6) & 0x400f) == 0 && get(pid, 7) == 0);
    CHECK(set(pid, 0, (long)&watched) == 0 && set(pid, 2, (long)&pair[1]) == 0);
    CHECK(set(pid, 7, control(0, WRITES, 8) | control(2, WRITES, 2)) == 0);
    CHECK(get(pid, 0) == (long)&watched && get(pid, 7) == (control(0, WRITES, 8) | control(2, WRITES, 2)));
    hit(pid, 1);
    CHECK(value_of(pid, &watched) == 7 && value_of(pid, &other) == 5);
    hit(pid, 4);
    CHECK(value_of(pid, &other) == 205 && (value_of(pid, pair) & 0xffffffff) == 0x20001);
    ends(pid, 7);
}

static long __attribute__((noinline)) add(long number) {
    asm volatile("");
    return number + 1;
}

static int call_some(void) { return add(add(3)); }

static void instructions(void) {
    pid_t pid = traced(call_some, 0);
    CHECK(set(pid, 3, (long)add) == 0 && set(pid, 7, control(3, EXECUTION, 1)) == 0);
    for (int i = 0; i < 2; i++) {
        hit(pid, 8);
        CHECK(ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rip), 0) == (long)add);
        CHECK(ptrace(PTRACE_PEEKUSER, pid, offsetof(struct user_regs_struct, rdi), 0) == 3 + i);
    }
    ends(pid, 5);
}

static int read_some(void) {
    long seen = other;
    seen += watched;
    other = seen;
    return seen;
}

static void reads(void) {
    pid_t pid = traced(read_some, 0);
    CHECK(set(pid, 1, (long)&watched) == 0 && set(pid, 7, control(1, ACCESSES, 8)) == 0);
    hit(pid, 2);
    CHECK(value_of(pid, &other) == 1);
    CHECK(set(pid, 7, 0) == 0);
    ends(pid, 2);
}

static void handler(int number) {
    (void)number;
    handled++;
    watched = 3;
}

/* The kernel's writes are not seen, a handler's are; the flags that a handler sees and puts back are the program's. */
static int handle_and_read(void) {
    int ends[2];
    signal(SIGUSR1, handler);
    if (pipe(ends) != 0 || write(ends[1], "12345678", 8) != 8 || read(ends[0], (void *)&watched, 8) != 8) return 1;
    raise(SIGUSR1);
    other = 9;
    unsigned long flags;
    asm volatile("pushfq\n pop %0" : "=r"(flags));
    return (flags & 0x100) != 0 || handled != 1;
}

static void handlers(void) {
    pid_t pid = traced(handle_and_read, 0);
    CHECK(set(pid, 0, (long)&watched) == 0 && set(pid, 1, (long)&other) == 0);
    CHECK(set(pid, 7, control(0, WRITES, 8) | control(1, WRITES, 8)) == 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGUSR1);
    MUST(ptrace(PTRACE_CONT, pid, 0, SIGUSR1) == 0);
    status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && (get(pid, 6) & 15) == 1 && value_of(pid, &watched) == 3);
    hit(pid, 2);
    ends(pid, 0);
}

static void *write_it(void *argument) {
    watched = 11;
    return argument;
}

static int start_thread_and_child(void) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, write_it, NULL) != 0 || pthread_join(thread, NULL) != 0) return 1;
    pid_t pid = fork();
    if (pid == 0) {
        watched = 12;
        _exit(0);
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || status != 0) return 2;
    watched = 13;
    return 0;
}

/* A thread's are its own: neither its threads nor its children have them. */
static void inherited_by_none(void) {
    pid_t pid = traced(start_thread_and_child, 0);
    CHECK(set(pid, 0, (long)&watched) == 0 && set(pid, 7, control(0, WRITES, 8)) == 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    if (WIFSTOPPED(status) && WSTOPSIG(status) == SIGCHLD) {
        MUST(ptrace(PTRACE_CONT, pid, 0, SIGCHLD) == 0);
        status = wait_for(pid);
    }
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP && value_of(pid, &watched) == 13);
    ends(pid, 0);
}

static int run_true(void) {
    execl("/bin/true", "true", (char *)NULL);
    return 1;
}

static void gone_with_the_program(void) {
    pid_t pid = traced(run_true, 0);
    CHECK(set(pid, 0, (long)&watched) == 0 && set(pid, 7, control(0, WRITES, 8)) == 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    int status = wait_for(pid);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
    CHECK((get(pid, 7) & 0xff) == 0);
    ends(pid, 0);
}

static int steps_of_it(void) {
    asm volatile("int3\n nop\n movq $21, %0\n nop" : "=m"(watched));
    return 0;
}

/* A step that hits says both. */
static void steps(void) {
    pid_t pid = traced(steps_of_it, 0);
    MUST(ptrace(PTRACE_CONT, pid, 0, 0) == 0);
    wait_for(pid);
    CHECK(set(pid, 0, (long)&watched) == 0 && set(pid, 7, control(0, WRITES, 8)) == 0);
    for (int i = 0; i < 3; i++) {
        MUST(ptrace(PTRACE_SINGLESTEP, pid, 0, 0) == 0);
        siginfo_t info = {0};
        wait_for(pid);
        CHECK(ptrace(PTRACE_GETSIGINFO, pid, 0, &info) == 0 && info.si_code == TRAP_TRACE);
        CHECK((get(pid, 6) & 0x400f) == (i == 1 ? 0x4001 : 0x4000));
    }
    ends(pid, 0);
}

static void refused(void) {
    pid_t pid = traced(call_some, 0);
    CHECK(set(pid, 0, (long)&watched + 1) == 0);
    CHECK(set(pid, 7, control(0, WRITES, 8)) == -1 && errno == EINVAL);
    CHECK(set(pid, 7, control(0, PORTS, 1)) == -1 && errno == EINVAL);
    CHECK(set(pid, 7, control(0, EXECUTION, 4)) == -1 && errno == EINVAL);
    CHECK(set(pid, 4, 1) == -1 && errno == EIO);
    CHECK(set(pid, 1, -4096) == -1 && errno == EINVAL);
    CHECK(get(pid, 7) == 0);
    ends(pid, 5);
}

int main(void) {
    writes();
    instructions();
    reads();
    handlers();
    inherited_by_none();
    gone_with_the_program();
    steps();
    refused();
    return check_result();
}
