/* Children of fork(2) that make no call, or none for long, are processes as any others: they are found, stopped, looked at,
 * changed and ended, and what they were given at their beginning is theirs. */
#include "check.h"
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sched.h>
#include <poll.h>

/* What parent and child share: no call is needed to say something. */
struct shared {
    atomic_int runs, goes_on, seen;
    atomic_long counts;
};
static struct shared *shared;

static void pause_ms(int ms)
{
    struct timespec time = {ms / 1000, ms % 1000 * 1000000L};
    while (nanosleep(&time, &time) != 0) continue;
}

/* A child that computes until it is told to go on, and calls nothing before that. */
static pid_t computing(void)
{
    atomic_store(&shared->runs, 0);
    atomic_store(&shared->goes_on, 0);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        atomic_store(&shared->runs, 1);
        while (!atomic_load(&shared->goes_on)) atomic_fetch_add(&shared->counts, 1);
    }
    return child;
}

static void until_it_runs(void)
{
    while (!atomic_load(&shared->runs)) sched_yield();
}

static void killed(void)
{
    const int ways[] = {SIGKILL, SIGTERM, SIGALRM};
    for (int i = 0; i < 60; i++) {
        pid_t child = computing();
        if (child == 0) _exit(1);
        if (i % 2) until_it_runs();
        if (i % 20 == 0) pause_ms(70);
        CHECK_EQ(kill(child, ways[i % 3]), 0);
        int status = wait_status(child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == ways[i % 3]);
    }
}

static void waited_for(void)
{
    pid_t child = computing();
    if (child == 0) _exit(33);
    CHECK_EQ(waitpid(child, NULL, WNOHANG), 0);
    CHECK_EQ(kill(child, SIGSTOP), 0);
    int status = 0;
    CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    long before = atomic_load(&shared->counts);
    pause_ms(30);
    CHECK_EQ(atomic_load(&shared->counts), before);
    CHECK_EQ(kill(child, SIGCONT), 0);
    CHECK_EQ(waitpid(child, &status, WCONTINUED), child);
    CHECK(WIFCONTINUED(status));
    while (atomic_load(&shared->counts) == before) sched_yield();
    CHECK_EQ(waitpid(child, NULL, WNOHANG), 0);
    atomic_store(&shared->goes_on, 1);
    CHECK_EQ(wait_status(child), W_EXITCODE(33, 0));
}

/* By the host's own signals, before its first call. */
static void dies_by_itself(void)
{
    for (int i = 0; i < 9; i++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            if (i % 3 == 0) *(volatile int *)8 = 1;
            if (i % 3 == 1) __builtin_trap();
            __asm__ volatile("xor %%ecx, %%ecx; xor %%edx, %%edx; mov $1, %%eax; idiv %%ecx" ::: "eax", "ecx", "edx");
        }
        int expected = i % 3 == 0 ? SIGSEGV : i % 3 == 1 ? SIGILL : SIGFPE;
        int status = wait_status(child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == expected);
    }
}

static volatile sig_atomic_t handled;
static void on_signal(int signal) { handled = signal; }

static void handles(void)
{
    signal(SIGUSR1, on_signal);
    pid_t child = computing();
    if (child == 0) _exit(1);
    until_it_runs();
    CHECK_EQ(kill(child, SIGUSR1), 0);
    pause_ms(5);
    atomic_store(&shared->goes_on, 1);
    CHECK_EQ(wait_status(child), W_EXITCODE(1, 0));

    handled = 0;
    for (int at_once = 0; at_once < 2; at_once++) {
        child = fork();
        MUST(child >= 0);
        if (child == 0) {
            while (!handled) continue;
            _exit(handled == SIGUSR1 ? 7 : 1);
        }
        if (!at_once) pause_ms(3);
        CHECK_EQ(kill(child, SIGUSR1), 0);
        CHECK_EQ(wait_status(child), W_EXITCODE(7, 0));
        CHECK_EQ(handled, 0);
    }

    /* Blocked as its maker had it; what came meanwhile is delivered when it unblocks that. */
    sigset_t one, old;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &one, &old), 0);
    child = computing();
    if (child == 0) {
        if (handled) _exit(2);
        sigprocmask(SIG_UNBLOCK, &one, NULL);
        _exit(handled == SIGUSR1 ? 9 : 3);
    }
    CHECK_EQ(kill(child, SIGUSR1), 0);
    pause_ms(2);
    atomic_store(&shared->goes_on, 1);
    CHECK_EQ(wait_status(child), W_EXITCODE(9, 0));

    /* What is pending for the maker is not for the child. */
    CHECK_EQ(raise(SIGUSR1), 0);
    child = fork();
    MUST(child >= 0);
    if (child == 0) {
        sigset_t pending;
        sigpending(&pending);
        sigprocmask(SIG_SETMASK, &old, NULL);
        _exit(sigismember(&pending, SIGUSR1) || handled ? 1 : 4);
    }
    CHECK_EQ(wait_status(child), W_EXITCODE(4, 0));
    CHECK_EQ(handled, 0);
    CHECK_EQ(sigprocmask(SIG_SETMASK, &old, NULL), 0);
    CHECK_EQ(handled, SIGUSR1);
    signal(SIGUSR1, SIG_DFL);
}

static atomic_int ended;
static void on_child(int signal)
{
    (void)signal;
    int error = errno;
    while (waitpid(-1, NULL, WNOHANG) > 0) atomic_fetch_add(&ended, 1);
    errno = error;
}

static void told_of_ends(void)
{
    signal(SIGCHLD, on_child);
    enum { MANY = 200 };
    for (int i = 0; i < MANY; i++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) _exit(0);
    }
    for (int i = 0; i < 1000 && atomic_load(&ended) < MANY; i++) pause_ms(10);
    CHECK_EQ(atomic_load(&ended), MANY);
    signal(SIGCHLD, SIG_DFL);
}

static void looked_at(void)
{
    pid_t child = computing();
    if (child == 0) _exit(0);
    char path[64], line[512];
    snprintf(path, sizeof path, "/proc/%d/stat", child);
    FILE *file = fopen(path, "r");
    MUST(file != NULL && fgets(line, sizeof line, file) != NULL);
    fclose(file);
    char state = 0;
    int parent = 0, group = 0;
    char *rest = strrchr(line, ')');
    MUST(rest != NULL);
    CHECK_EQ(sscanf(rest, ") %c %d %d", &state, &parent, &group), 3);
    CHECK_EQ(state, 'R');
    CHECK_EQ(parent, getpid());
    CHECK_EQ(group, getpgrp());
    snprintf(path, sizeof path, "/proc/%d/maps", child);
    file = fopen(path, "r");
    int mappings = 0;
    while (file && fgets(line, sizeof line, file)) mappings++;
    CHECK(mappings > 5);
    if (file) fclose(file);
    /* Its time goes on. */
    clockid_t clock;
    struct timespec time = {0, 0};
    CHECK_EQ(clock_getcpuclockid(child, &clock), 0);
    for (int i = 0; i < 500 && time.tv_sec == 0 && time.tv_nsec < 2000000; i++) {
        pause_ms(5);
        CHECK_EQ(clock_gettime(clock, &time), 0);
    }
    CHECK(time.tv_sec > 0 || time.tv_nsec >= 2000000);
    atomic_store(&shared->goes_on, 1);
    CHECK_EQ(wait_status(child), W_EXITCODE(0, 0));
}

static void changed(void)
{
    pid_t child = computing();
    if (child == 0) {
        struct rlimit limit;
        cpu_set_t set;
        getrlimit(RLIMIT_NOFILE, &limit);
        sched_getaffinity(0, sizeof set, &set);
        int right = (limit.rlim_cur == 77) + 2 * (getpgrp() == getpid()) + 4 * (getpriority(PRIO_PROCESS, 0) == 5) + 8 * (CPU_COUNT(&set) == 1);
        _exit(right);
    }
    struct rlimit limit = {77, 77};
    cpu_set_t set;
    CHECK_EQ(sched_getaffinity(0, sizeof set, &set), 0);
    for (int cpu = 0, kept = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &set) && kept++) CPU_CLR(cpu, &set);
    CHECK_EQ(setpgid(child, child), 0);
    CHECK_EQ(getpgid(child), child);
    CHECK_EQ(prlimit(child, RLIMIT_NOFILE, &limit, NULL), 0);
    CHECK_EQ(setpriority(PRIO_PROCESS, child, 5), 0);
    CHECK_EQ(sched_setaffinity(child, sizeof set, &set), 0);
    atomic_store(&shared->goes_on, 1);
    CHECK_EQ(wait_status(child), W_EXITCODE(15, 0));

    /* It sees by itself that another one is its parent, and that its limits are others. */
    child = fork();
    MUST(child >= 0);
    if (child == 0) {
        while (getpriority(PRIO_PROCESS, 0) == 0) continue;
        do getrlimit(RLIMIT_NOFILE, &limit);
        while (limit.rlim_cur != 78);
        _exit(5);
    }
    limit = (struct rlimit){78, 78};
    CHECK_EQ(prlimit(child, RLIMIT_NOFILE, &limit, NULL), 0);
    CHECK_EQ(setpriority(PRIO_PROCESS, child, 1), 0);
    CHECK_EQ(wait_status(child), W_EXITCODE(5, 0));
}

static void traced(void)
{
    pid_t child = computing();
    if (child == 0) _exit(6);
    if (ptrace(PTRACE_SEIZE, child, NULL, NULL) == 0) {
        int status = 0;
        CHECK_EQ(ptrace(PTRACE_INTERRUPT, child, NULL, NULL), 0);
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFSTOPPED(status));
        errno = 0;
        long word = ptrace(PTRACE_PEEKDATA, child, &shared->counts, NULL);
        CHECK(errno == 0 && word == atomic_load(&shared->counts));
        CHECK_EQ(ptrace(PTRACE_DETACH, child, NULL, NULL), 0);
    } else {
        CHECK(errno == EPERM || errno == ENOSYS);
    }
    atomic_store(&shared->goes_on, 1);
    CHECK_EQ(wait_status(child), W_EXITCODE(6, 0));
}

static int nested(int depth)
{
    pid_t child = fork();
    if (child == 0) _exit(depth == 0 ? 11 : nested(depth - 1));
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || !WIFEXITED(status)) return 1;
    return WEXITSTATUS(status);
}

static void *forks(void *argument)
{
    for (int i = 0; i < 40; i++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            for (volatile int j = 0; j < i * 1000; j++) continue;
            _exit(i);
        }
        int status = -1;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, W_EXITCODE(i, 0));
    }
    return argument;
}

static void in_threads(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) MUST(pthread_create(&threads[i], NULL, forks, NULL) == 0);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
}

/* Others see at once that the last writer of a pipe has ended. */
static void others_read(void)
{
    for (int i = 0; i < 20; i++) {
        int ends[2], back[2];
        MUST(pipe(ends) == 0 && pipe(back) == 0);
        pid_t writer = fork();
        MUST(writer >= 0);
        if (writer == 0) {
            while (!atomic_load(&shared->goes_on)) continue;
            _exit(0);
        }
        pid_t reader = fork();
        MUST(reader >= 0);
        if (reader == 0) {
            char byte;
            close(ends[1]);
            if (write(back[1], "r", 1) != 1) _exit(2);
            _exit(read(ends[0], &byte, 1) == 0 ? 0 : 1);
        }
        close(ends[1]);
        char byte;
        CHECK_EQ(read(back[0], &byte, 1), 1);
        atomic_store(&shared->goes_on, 1);
        CHECK_EQ(wait_status(reader), W_EXITCODE(0, 0));
        CHECK_EQ(wait_status(writer), W_EXITCODE(0, 0));
        atomic_store(&shared->goes_on, 0);
        close(ends[0]);
        close(back[0]);
        close(back[1]);
    }
}

/* Who its maker has become since is not who it is; and its maker may be gone. */
static void outlives(void)
{
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);
    for (int i = 0; i < 20; i++) {
        atomic_store(&shared->goes_on, 0);
        atomic_store(&shared->seen, 0);
        pid_t maker = fork();
        MUST(maker >= 0);
        if (maker == 0) {
            pid_t parent = getpid();
            pid_t child = fork();
            if (child == 0) {
                if (i % 2) while (!atomic_load(&shared->goes_on)) continue;
                while (getppid() == parent) continue;
                _exit(geteuid() == 0 || i % 4 < 2 ? 13 : 1);
            }
            if (i % 4 == 2 && setuid(12345) != 0 && geteuid() == 0) _exit(1);
            if (i % 4 == 3) kill(getpid(), SIGKILL);
            _exit(child > 0 ? 12 : 1);
        }
        int status = wait_status(maker);
        CHECK(i % 4 == 3 ? WIFSIGNALED(status) : status == W_EXITCODE(12, 0));
        pause_ms(i % 5);
        atomic_store(&shared->goes_on, 1);
        pid_t orphan = waitpid(-1, &status, 0);
        CHECK(orphan > 0 && (status == W_EXITCODE(13, 0) || geteuid() != 0));
    }
    CHECK_ERR(waitpid(-1, NULL, 0), ECHILD);
}

/* One that is asked for the first thing in every way. */
static void first_calls(void)
{
    int ends[2];
    MUST(pipe(ends) == 0);
    for (int i = 0; i < 12; i++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            char bytes[5000];
            struct stat status;
            memset(bytes, i, sizeof bytes);
            switch (i % 6) {
            case 0: _exit(write(ends[1], bytes, sizeof bytes) == sizeof bytes ? 0 : 1);
            case 1: _exit(stat("/proc/self/status", &status) == 0 ? 0 : 1);
            case 2: _exit(mmap(NULL, 65536, PROT_READ, MAP_PRIVATE, open("/proc/self/exe", O_RDONLY), 0) != MAP_FAILED ? 0 : 1);
            case 3: execl("/proc/self/exe", "itself", "0", NULL); _exit(1);
            case 4: _exit(kill(getpid(), 0) == 0 && getppid() > 1 ? 0 : 1);
            default: syscall(SYS_exit, 0);
            }
        }
        CHECK_EQ(wait_status(child), 0);
        if (i % 6 == 0) {
            char bytes[5000];
            CHECK_EQ(read(ends[0], bytes, sizeof bytes), sizeof bytes);
            CHECK(bytes[0] == i && bytes[4999] == i);
        }
    }
    close(ends[0]);
    close(ends[1]);
}

int main(int count, char **arguments)
{
    if (count > 1) return atoi(arguments[1]);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    alarm(100);
    killed();
    waited_for();
    dies_by_itself();
    handles();
    told_of_ends();
    looked_at();
    changed();
    traced();
    CHECK_EQ(nested(5), 11);
    in_threads();
    others_read();
    first_calls();
    outlives();
    return check_result();
}
