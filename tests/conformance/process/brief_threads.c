/* Threads that run and end without a call that others see: whoever looks for them, signals them or is their maker finds what there is. */
#include "check.h"
#include <dirent.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

enum { ROUNDS = 40, MANY = 300 };

static atomic_int is_there, may_end, caught, catcher, turns;
static pthread_mutex_t robust;
static int status_pipe[2];

static pid_t own_tid(void) { return syscall(SYS_gettid); }

static void *brief(void *argument) { return argument; }

static void *tell_tid(void *argument)
{
    *(pid_t *)argument = own_tid();
    return argument;
}

/* Computes until it is told to end. */
static void *busy(void *argument)
{
    *(pid_t *)argument = own_tid();
    atomic_store(&is_there, 1);
    while (!atomic_load(&may_end)) {
        atomic_fetch_add(&turns, 1);
        __builtin_ia32_pause();
    }
    return argument;
}

static pthread_t start(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, function, argument) == 0);
    return thread;
}

static void finish(pthread_t thread) { CHECK_EQ(pthread_join(thread, NULL), 0); }

/* Behind these, the next ones may be made so. */
static void warm(void)
{
    for (int i = 0; i < 4; i++) finish(start(brief, NULL));
}

static pthread_t start_busy(pid_t *tid)
{
    warm();
    atomic_store(&is_there, 0);
    atomic_store(&may_end, 0);
    pthread_t thread = start(busy, tid);
    while (!atomic_load(&is_there)) sched_yield();
    return thread;
}

static void finish_busy(pthread_t thread)
{
    atomic_store(&may_end, 1);
    finish(thread);
}

static int tasks(pid_t wanted)
{
    DIR *directory = opendir("/proc/self/task");
    MUST(directory != NULL);
    int count = 0, found = 0;
    for (struct dirent *entry; (entry = readdir(directory));) {
        if (entry->d_name[0] == '.') continue;
        count++;
        found |= atoi(entry->d_name) == wanted;
    }
    closedir(directory);
    return found ? count : -count;
}

static void on_signal(int signal)
{
    (void)signal;
    atomic_store(&catcher, own_tid());
    atomic_fetch_add(&caught, 1);
}

static void await_caught(int count)
{
    for (int i = 0; i < 20000 && atomic_load(&caught) < count; i++) usleep(500);
    CHECK_EQ(caught, count);
}

static void ids_are_their_own(void)
{
    pid_t before = 0;
    warm();
    for (int i = 0; i < MANY; i++) {
        pid_t tid = 0;
        finish(start(tell_tid, &tid));
        CHECK(tid > 0 && tid != getpid() && tid != before);
        before = tid;
    }
    CHECK_EQ(tasks(getpid()), 1);
    CHECK_ERR(syscall(SYS_tgkill, getpid(), before, 0), ESRCH);
}

static void who_looks_finds_them(void)
{
    for (int i = 0; i < ROUNDS; i++) {
        pid_t tid = 0;
        char path[64];
        pthread_t thread = start_busy(&tid);
        if (i % 4 == 0) CHECK_EQ(tasks(tid), 2);
        if (i % 4 == 1) CHECK_EQ(syscall(SYS_tgkill, getpid(), tid, 0), 0);
        if (i % 4 == 2) CHECK_EQ(getpriority(PRIO_PROCESS, tid), getpriority(PRIO_PROCESS, 0));
        snprintf(path, sizeof path, "/proc/%d/task/%d/comm", getpid(), tid);
        if (i % 4 == 3) CHECK_EQ(access(path, F_OK), 0);
        finish_busy(thread);
        /* The word is cleared a little before the thread is gone. */
        for (int j = 0; j < 2000 && access(path, F_OK) == 0; j++) usleep(500);
        CHECK_ERR(access(path, F_OK), ENOENT);
    }
}

static void signals_find_them(void)
{
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t tid = 0;
        pthread_t thread = start_busy(&tid);
        int before = caught;
        if (i % 2) {
            CHECK_EQ(syscall(SYS_tgkill, getpid(), tid, SIGUSR1), 0);
            await_caught(before + 1);
        } else {
            /* Only it takes that one. */
            CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, &old), 0);
            CHECK_EQ(kill(getpid(), SIGUSR1), 0);
            await_caught(before + 1);
            CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
        }
        CHECK_EQ(catcher, tid);
        finish_busy(thread);
    }
}

/* No call brings these: who waits for it computes. */
static void signals_of_timers_find_them(void)
{
    sigset_t set, old;
    timer_t timer;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    MUST(timer_create(CLOCK_MONOTONIC, &(struct sigevent){.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGUSR1}, &timer) == 0);
    for (int i = 0; i < ROUNDS / 4; i++) {
        pid_t tid = 0;
        int before = caught;
        /* Blocked by all until the thread is there; then by all others. */
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, &old), 0);
        CHECK_EQ(timer_settime(timer, 0, &(struct itimerspec){.it_value = {0, 60 * 1000 * 1000}}, NULL), 0);
        warm();
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
        atomic_store(&is_there, 0);
        atomic_store(&may_end, 0);
        pthread_t thread = start(busy, &tid);
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
        for (time_t end = time(NULL) + 20; atomic_load(&caught) == before && time(NULL) < end;) __builtin_ia32_pause();
        CHECK_EQ(caught, before + 1);
        /* It may be the first thing that the thread does. On a busy machine the time may be up before the mask is. */
        while (!atomic_load(&is_there)) sched_yield();
        CHECK(catcher == tid || catcher == getpid());
        finish_busy(thread);
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
    }
    CHECK_EQ(timer_delete(timer), 0);
}

static void *unblock(void *argument)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    *(pid_t *)argument = own_tid();
    CHECK_EQ(pthread_sigmask(SIG_UNBLOCK, &set, NULL), 0);
    return argument;
}

static void what_is_pending_is_theirs_too(void)
{
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    for (int i = 0; i < ROUNDS; i++) {
        pid_t tid = 0;
        int before = caught;
        CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, &old), 0);
        CHECK_EQ(kill(getpid(), SIGUSR1), 0);
        warm();
        finish(start(unblock, &tid));
        CHECK_EQ(caught, before + 1);
        CHECK_EQ(catcher, tid);
        CHECK_EQ(pthread_sigmask(SIG_SETMASK, &old, NULL), 0);
        CHECK_EQ(caught, before + 1);
    }
}

static void *look_at_inherited(void *argument)
{
    char name[16] = "";
    (void)argument;
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK(strcmp(name, "maker") == 0);
    CHECK_EQ(prctl(PR_GET_TIMERSLACK), 77777);
    CHECK_EQ(prctl(PR_GET_KEEPCAPS), 1);
    return NULL;
}

static void they_have_what_their_maker_has(void)
{
    char before[16] = "";
    MUST(prctl(PR_GET_NAME, before) == 0);
    warm();
    CHECK_EQ(prctl(PR_SET_NAME, "maker"), 0);
    CHECK_EQ(prctl(PR_SET_TIMERSLACK, 77777), 0);
    CHECK_EQ(prctl(PR_SET_KEEPCAPS, 1), 0);
    finish(start(look_at_inherited, NULL));
    warm();
    finish(start(look_at_inherited, NULL));
    CHECK_EQ(prctl(PR_SET_KEEPCAPS, 0), 0);
    CHECK_EQ(prctl(PR_SET_TIMERSLACK, 0), 0);
    CHECK_EQ(prctl(PR_SET_NAME, before), 0);
}

static void *change_name(void *argument)
{
    char *name = argument;
    pid_t tid = own_tid();
    CHECK_EQ(prctl(PR_SET_NAME, name), 0);
    CHECK(tid == own_tid());
    return argument;
}

/* What its maker does behind its birth is not its own. */
static void what_comes_later_is_not_theirs(void)
{
    for (int i = 0; i < ROUNDS / 4; i++) {
        pid_t tid = 0;
        char path[64], name[32] = "", before[16] = "";
        MUST(prctl(PR_GET_NAME, before) == 0);
        pthread_t thread = start_busy(&tid);
        CHECK_EQ(prctl(PR_SET_NAME, "later"), 0);
        snprintf(path, sizeof path, "/proc/self/task/%d/comm", tid);
        int fd = open(path, O_RDONLY);
        MUST(fd >= 0 && read(fd, name, sizeof name - 1) > 0);
        close(fd);
        CHECK(strncmp(name, before, strlen(before)) == 0);
        finish_busy(thread);
        CHECK_EQ(prctl(PR_SET_NAME, before), 0);
        finish(start(change_name, "another"));
    }
}

static void *look_at_cpu(void *argument)
{
    for (int i = 0; i < 20000; i++) {
        if (sched_getcpu() != *(int *)argument) return argument;
        __builtin_ia32_pause();
    }
    return NULL;
}

static void they_run_where_their_maker_may(void)
{
    cpu_set_t before, one;
    MUST(sched_getaffinity(0, sizeof before, &before) == 0);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, &before)) continue;
        warm();
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        MUST(sched_setaffinity(0, sizeof one, &one) == 0);
        for (int i = 0; i < ROUNDS; i++) {
            void *strayed = NULL;
            CHECK_EQ(pthread_join(start(look_at_cpu, &cpu), &strayed), 0);
            CHECK(strayed == NULL);
        }
        MUST(sched_setaffinity(0, sizeof before, &before) == 0);
        if (cpu > 3) break;
    }
}

static void *lock_and_end(void *argument)
{
    CHECK_EQ(pthread_mutex_lock(&robust), 0);
    return argument;
}

static void who_ends_with_a_lock_is_noticed(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    CHECK_EQ(pthread_mutex_init(&robust, &attributes), 0);
    for (int i = 0; i < ROUNDS; i++) {
        warm();
        finish(start(lock_and_end, NULL));
        CHECK_EQ(pthread_mutex_lock(&robust), EOWNERDEAD);
        CHECK_EQ(pthread_mutex_consistent(&robust), 0);
        CHECK_EQ(pthread_mutex_unlock(&robust), 0);
    }
}

/* The argument: how many milliseconds. */
static void *use_time(void *argument)
{
    long milliseconds = (long)argument;
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do clock_gettime(CLOCK_MONOTONIC, &now);
    while ((now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000 < milliseconds);
    return argument;
}

static void *has_used_some(void *argument)
{
    struct timespec time;
    use_time((void *)200);
    CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
    CHECK(time.tv_sec * 1000 + time.tv_nsec / 1000000 >= 5);
    return argument;
}

static void *has_used_none(void *argument)
{
    struct timespec time;
    CHECK_EQ(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
    /* Somebody who cannot tell may count the time that it has waited for a CPU. */
    CHECK(time.tv_sec == 0 && time.tv_nsec < 200 * 1000 * 1000);
    return argument;
}

static void their_clocks_begin_at_nothing(void)
{
    for (int i = 0; i < 2; i++) {
        warm();
        finish(start(use_time, (void *)400));
        usleep(100 * 1000);
        finish(start(has_used_none, NULL));
        warm();
        finish(start(has_used_some, NULL));
    }
}

/* Their calls, and what comes of them. */

static void *fork_one(void *argument)
{
    pid_t child = fork();
    if (child == 0) {
        CHECK_EQ(own_tid(), getpid());
        CHECK_EQ(tasks(getpid()), 1);
        warm();
        _exit(check_result() ? 1 : 23);
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    CHECK_EQ(WEXITSTATUS(status), 23);
    return argument;
}

static void *make_one(void *argument)
{
    pid_t tid = 0;
    finish(start(tell_tid, &tid));
    CHECK(tid != 0 && tid != own_tid());
    return argument;
}

/* A maker in the place of one that has ended. */
static void *make_some(void *argument)
{
    CHECK_EQ(getpriority(PRIO_PROCESS, 0), getpriority(PRIO_PROCESS, own_tid()));
    for (int i = 0; i < 6; i++) make_one(NULL);
    finish(start(fork_one, NULL));
    return argument;
}

static void *exit_all(void *argument)
{
    (void)argument;
    _exit(42);
}

static void *execute(void *argument)
{
    (void)argument;
    execl("/bin/sh", "sh", "-c", "test $$ = $EXPECTED && exit 43", NULL);
    _exit(1);
}

static void *end_last(void *argument)
{
    usleep(20 * 1000);
    return argument;
}

static void *crash(void *argument)
{
    *(volatile int *)argument = 1;
    return argument;
}

static int in_child(void (*function)(void))
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        function();
        _exit(check_result());
    }
    int status = 0;
    CHECK_EQ(waitpid(child, &status, 0), child);
    return status;
}

static void exits(void)
{
    warm();
    start(exit_all, NULL);
    for (;;) pause();
}

static void executes(void)
{
    char number[32];
    snprintf(number, sizeof number, "%d", getpid());
    setenv("EXPECTED", number, 1);
    pid_t tid = 0;
    start_busy(&tid);
    warm();
    start(execute, NULL);
    for (;;) pause();
}

static void maker_executes(void)
{
    char number[32];
    snprintf(number, sizeof number, "%d", getpid());
    setenv("EXPECTED", number, 1);
    pid_t tid = 0;
    start_busy(&tid);
    execute(NULL);
}

static void leader_ends_first(void)
{
    warm();
    start(end_last, NULL);
    pthread_exit(NULL);
}

static void busy_outlives_leader(void)
{
    warm();
    for (int i = 0; i < 3; i++) start(use_time, (void *)60);
    pthread_exit(NULL);
}

static void crashes(void)
{
    warm();
    start(crash, NULL);
    for (;;) pause();
}

static void is_killed(void)
{
    pid_t tid = 0;
    start_busy(&tid);
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

static void ends(void)
{
    for (int i = 0; i < ROUNDS / 4; i++) {
        int status = in_child(exits);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 42);
        status = in_child(executes);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 43);
        status = in_child(maker_executes);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 43);
        status = in_child(leader_ends_first);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        status = in_child(busy_outlives_leader);
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
        status = in_child(crashes);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
        status = in_child(is_killed);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
}

/* A stopped process makes none, and those that it has do nothing. */
static void stops(void)
{
    atomic_int *made = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(made != MAP_FAILED);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        for (;;) {
            finish(start(brief, NULL));
            atomic_fetch_add(made, 1);
        }
    }
    for (int i = 0; i < ROUNDS; i++) {
        int status, before = *made;
        for (int j = 0; j < 20000 && *made < before + 5; j++) usleep(500);
        CHECK(*made >= before + 5);
        CHECK_EQ(kill(child, SIGSTOP), 0);
        CHECK_EQ(waitpid(child, &status, WUNTRACED), child);
        CHECK(WIFSTOPPED(status));
        before = *made;
        usleep(3000);
        CHECK_EQ(*made, before);
        CHECK_EQ(kill(child, SIGCONT), 0);
    }
    CHECK_EQ(kill(child, SIGKILL), 0);
    CHECK_EQ(waitpid(child, NULL, 0), child);
    munmap(made, 4096);
}

/* getppid(2) in a thread that nobody has heard of, once its process has another parent. */
static void *await_other_parent(void *argument)
{
    pid_t before = *(pid_t *)argument;
    atomic_store(&is_there, 1);
    for (int i = 0; i < 4000 && getppid() == before; i++) {
        struct timespec start, now;
        clock_gettime(CLOCK_MONOTONIC, &start);
        do clock_gettime(CLOCK_MONOTONIC, &now);
        while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < 5000000);
    }
    char said = getppid() == before ? 'o' : 'n';
    MUST(write(status_pipe[1], &said, 1) == 1);
    return argument;
}

static void parents_die(void)
{
    for (int by_signal = 0; by_signal < 2; by_signal++) {
        char said = 0;
        MUST(pipe(status_pipe) == 0);
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            pid_t parent = getpid();
            int there[2];
            MUST(pipe(there) == 0);
            pid_t grandchild = fork();
            if (grandchild == 0) {
                warm();
                atomic_store(&is_there, 0);
                pthread_t thread = start(await_other_parent, &parent);
                while (!atomic_load(&is_there)) sched_yield();
                MUST(write(there[1], "x", 1) == 1);
                finish(thread);
                _exit(0);
            }
            MUST(read(there[0], &said, 1) == 1);
            if (by_signal) raise(SIGKILL);
            _exit(0);
        }
        CHECK_EQ(waitpid(child, NULL, 0), child);
        close(status_pipe[1]);
        CHECK_EQ(read(status_pipe[0], &said, 1), 1);
        CHECK_EQ(said, 'n');
        close(status_pipe[0]);
    }
}

/* Several makers at once, some of whose threads have calls of their own. */
static void *make_many(void *argument)
{
    int pipes[2];
    MUST(pipe(pipes) == 0);
    for (int i = 0; i < MANY; i++) {
        pid_t tid = 0;
        finish(start(i % 7 == 3 ? make_one : tell_tid, &tid));
        if (i % 11 == 5) CHECK(write(pipes[1], "x", 1) == 1 && read(pipes[0], &(char){0}, 1) == 1);
        if (i % 50 == 9) finish(start(fork_one, NULL));
    }
    close(pipes[0]);
    close(pipes[1]);
    return argument;
}

int main(void)
{
    MUST(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_signal}, NULL) == 0);
    warm();
    finish(start(has_used_some, NULL));
    ids_are_their_own();
    who_looks_finds_them();
    signals_find_them();
    signals_of_timers_find_them();
    what_is_pending_is_theirs_too();
    they_have_what_their_maker_has();
    what_comes_later_is_not_theirs();
    who_ends_with_a_lock_is_noticed();
    their_clocks_begin_at_nothing();
    for (int i = 0; i < ROUNDS; i++) {
        warm();
        finish(start(fork_one, NULL));
        warm();
        finish(start(make_one, NULL));
        finish(start(make_some, NULL));
    }
    ends();
    stops();
    parents_die();
    /* Who has been bound once makes no such threads any more. */
    CHECK_EQ(in_child(they_run_where_their_maker_may), 0);
    pthread_t makers[3];
    for (int i = 0; i < 3; i++) makers[i] = start(make_many, NULL);
    make_many(NULL);
    for (int i = 0; i < 3; i++) finish(makers[i]);
    CHECK_EQ(tasks(getpid()), 1);
    return check_result();
}
