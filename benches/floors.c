/* What this host lets any guest kernel in user space have at best: `floors` prints lines of NAME NANOSECONDS.
 *
 * A call that another process answers costs one seccomp notification (both sides on one CPU, the other one is never woken),
 * or, with a CPU that does nothing but watch, a cache line's way there and back. A hand-off to an idle CPU costs its waking.
 * Whoever reads a row of the benchmark can compare: rows that need N answers cannot take less than N times these.
 */
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#endif

enum { ROUNDS = 20000, TRIES = 5 };

static void must(int holds, const char *what) {
    if (!holds) {
        perror(what);
        exit(1);
    }
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1e9 + t.tv_nsec;
}

static void stay_on(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    must(sched_setaffinity(0, sizeof set, &set) == 0, "sched_setaffinity");
}

/* Of several tries the fastest: a floor is what nothing has disturbed. */
static void tell(const char *name, double (*try)(void)) {
    double best = 0;
    for (int i = 0; i < TRIES; i++) {
        double one = try();
        if (i == 0 || one < best) best = one;
    }
    printf("%s %.0f\n", name, best);
    fflush(stdout);
}

static double host_call(void) {
    double start = now();
    for (int i = 0; i < ROUNDS; i++) syscall(SYS_getppid);
    return (now() - start) / ROUNDS;
}

/* What `work` takes a process of whose calls of getppid(2) `count` are answered by a supervisor, which is woken on the caller's CPU and
 * wakes it there. */
static double answered(double (*work)(void), long count) {
    int ends[2];
    must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0, "socketpair");
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) {
        struct sock_filter code[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {sizeof code / sizeof *code, code};
        prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        int listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
        must(listener >= 0, "seccomp");
        char space[CMSG_SPACE(sizeof(int))] = {0}, byte = 0;
        struct iovec vector = {&byte, 1};
        struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
        struct cmsghdr *header = CMSG_FIRSTHDR(&message);
        *header = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
        *(int *)CMSG_DATA(header) = listener;
        must(sendmsg(ends[1], &message, 0) == 1, "sendmsg");
        double each = work();
        must(write(ends[1], &each, sizeof each) == sizeof each, "write");
        _exit(0);
    }
    char space[CMSG_SPACE(sizeof(int))], byte;
    struct iovec vector = {&byte, 1};
    struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1, .msg_control = space, .msg_controllen = sizeof space};
    must(recvmsg(ends[0], &message, MSG_CMSG_CLOEXEC) == 1, "recvmsg");
    int listener = *(int *)CMSG_DATA(CMSG_FIRSTHDR(&message));
    ioctl(listener, SECCOMP_IOCTL_NOTIF_SET_FLAGS, 1L); /* SYNC_WAKE_UP, from Linux 6.6 on */
    for (long i = 0; i < count; i++) {
        struct seccomp_notif asked = {0};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_RECV, &asked) != 0) break;
        struct seccomp_notif_resp answer = {.id = asked.id};
        if (ioctl(listener, SECCOMP_IOCTL_NOTIF_SEND, &answer) != 0) break;
    }
    double each = 0;
    must(read(ends[0], &each, sizeof each) == sizeof each, "the supervised process");
    waitpid(child, NULL, 0);
    close(listener);
    close(ends[0]);
    close(ends[1]);
    return each;
}

/* A call that another process answers. */
static double notification(void) { return answered(host_call, ROUNDS); }

enum { FORKS = ROUNDS / 20, ASKED_BY_MAKER = 4, ASKED_BY_CHILD = 2 };

/* A process that is made, ends and is waited for, with so many calls of each. */
static double forks(int by_maker, int by_child) {
    double start = now();
    for (int i = 0; i < FORKS; i++) {
        for (int n = 0; n < by_maker; n++) syscall(SYS_getppid);
        pid_t child = fork();
        must(child >= 0, "fork");
        if (child == 0) {
            for (int n = 0; n < by_child; n++) syscall(SYS_getppid);
            _exit(0);
        }
        must(waitpid(child, NULL, 0) == child, "waitpid");
    }
    return (now() - start) / FORKS;
}

static double fork_and_wait(void) { return forks(0, 0); }
static double asking_forks(void) { return forks(ASKED_BY_MAKER, ASKED_BY_CHILD); }

/* The same where all is asked for: to make one, the host's call for it, how it went, to wait; the child presents itself and ends. */
static double answered_fork_and_wait(void) { return answered(asking_forks, FORKS * (ASKED_BY_MAKER + ASKED_BY_CHILD)); }

static _Alignas(64) atomic_int line;

static void *watcher(void *unused) {
    stay_on(1);
    for (int i = 1; i < 2 * ROUNDS; i += 2) {
        while (atomic_load_explicit(&line, memory_order_acquire) != i) {}
        atomic_store_explicit(&line, i + 1, memory_order_release);
    }
    return unused;
}

/* A cache line's way to another CPU and back: what spinning costs. */
static double cache_line(void) {
    pthread_t thread;
    atomic_store(&line, 0);
    stay_on(0);
    must(pthread_create(&thread, NULL, watcher, NULL) == 0, "pthread_create");
    double start = 0;
    for (int i = 0; i < 2 * ROUNDS; i += 2) {
        if (i == 2 * ROUNDS / 10 / 2 * 2) start = now();
        atomic_store_explicit(&line, i + 1, memory_order_release);
        while (atomic_load_explicit(&line, memory_order_acquire) != i + 2) {}
    }
    double each = (now() - start) / (ROUNDS * 0.9);
    pthread_join(thread, NULL);
    return each;
}

static int there, back;

static void *sleeper(void *unused) {
    stay_on(1);
    uint64_t one;
    for (int i = 0; i < ROUNDS / 10; i++)
        if (read(there, &one, 8) != 8 || write(back, &(uint64_t){1}, 8) != 8) break;
    return unused;
}

/* Half of a ping-pong between two CPUs that sleep in turn: one of them has to be woken each time. */
static double wake_up(void) {
    pthread_t thread;
    uint64_t one;
    there = eventfd(0, EFD_CLOEXEC), back = eventfd(0, EFD_CLOEXEC);
    stay_on(0);
    must(pthread_create(&thread, NULL, sleeper, NULL) == 0, "pthread_create");
    double start = now();
    for (int i = 0; i < ROUNDS / 10; i++) must(write(there, &(uint64_t){1}, 8) == 8 && read(back, &one, 8) == 8, "eventfd");
    double each = (now() - start) / (ROUNDS / 10) / 2;
    pthread_join(thread, NULL);
    close(there);
    close(back);
    return each;
}

int main(void) {
    tell("host_call", host_call);
    tell("notification", notification);
    tell("fork_and_wait", fork_and_wait);
    tell("fork_and_wait_answered", answered_fork_and_wait);
    if (sysconf(_SC_NPROCESSORS_ONLN) > 1) {
        tell("cache_line_there_and_back", cache_line);
        tell("wake_an_idle_cpu", wake_up);
    }
    return 0;
}
