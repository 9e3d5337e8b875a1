/* One thread after another: each begins like the first one, whatever the one before has done and left behind. */
#include "check.h"
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>

static _Thread_local long local = 7;
static atomic_int signals, running;
static pthread_mutex_t robust;

static int64_t thread_time(void)
{
    struct timespec time;
    MUST(clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time) == 0);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void *run_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    void *result = NULL;
    MUST(pthread_create(&thread, NULL, function, argument) == 0);
    CHECK_EQ(pthread_join(thread, &result), 0);
    return result;
}

static void on_signal(int signal)
{
    (void)signal;
    atomic_fetch_add(&signals, 1);
}

/* Leaves as much behind as a thread can. */
static void *messy(void *argument)
{
    stack_t stack = {.ss_sp = argument, .ss_size = 65536};
    sigset_t set;
    sigfillset(&set);
    CHECK_EQ(pthread_sigmask(SIG_BLOCK, &set, NULL), 0);
    CHECK_EQ(sigaltstack(&stack, NULL), 0);
    CHECK_EQ(prctl(PR_SET_NAME, "messy"), 0);
    CHECK_EQ(pthread_mutex_lock(&robust), 0);
    /* Pending for it alone, blocked, and gone with it. */
    CHECK_EQ(pthread_kill(pthread_self(), SIGUSR2), 0);
    local = 8;
    errno = 99;
    double value = 1;
    while (thread_time() < 60000000) value *= 1.0000001;
    *(volatile double *)argument = value;
    return argument;
}

static void *tidy(void *argument)
{
    stack_t stack;
    sigset_t set;
    char name[16] = "";
    CHECK_EQ(errno, 0);
    CHECK_EQ(local, 7);
    CHECK(thread_time() < 50000000);
    CHECK_EQ(sigaltstack(NULL, &stack), 0);
    CHECK_EQ(stack.ss_flags, SS_DISABLE);
    CHECK_EQ(pthread_sigmask(SIG_SETMASK, NULL, &set), 0);
    CHECK(!sigismember(&set, SIGUSR1) && !sigismember(&set, SIGUSR2));
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK(strcmp(name, "messy") != 0);
    CHECK_EQ(pthread_mutex_lock(&robust), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(&robust), 0);
    CHECK_EQ(pthread_mutex_unlock(&robust), 0);
    CHECK(sched_getcpu() >= 0);
    CHECK_EQ(syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGUSR1), 0);
    return argument;
}

static void *only_tid(void *argument)
{
    *(pid_t *)argument = syscall(SYS_gettid);
    return argument;
}

/* Its stack, with everything that the host may still know of in there, goes as soon as it has ended. */
static void *on_own_stack(void *argument)
{
    local++;
    return argument;
}

static void *fork_there(void *argument)
{
    pid_t child = child_fork();
    if (child == 0) {
        local = 3;
        CHECK_EQ(local, (long)run_thread(argument, NULL) + 3);
        child_exit();
    }
    CHECK_CHILD(child);
    return argument;
}

static void *give_null(void *argument) { (void)argument; return NULL; }

static void *be_kicked(void *argument)
{
    atomic_fetch_add(&running, 1);
    while (atomic_load(&signals) < *(int *)argument) continue;
    atomic_fetch_sub(&running, 1);
    return argument;
}

static void *detached(void *argument)
{
    atomic_fetch_sub((atomic_int *)argument, 1);
    return NULL;
}

int main(void)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&robust, &attributes);
    signal(SIGUSR1, on_signal);
    signal(SIGUSR2, on_signal);
    char *memory = malloc(65536);

    for (int i = 0; i < 3; i++) {
        int before = signals;
        run_thread(messy, memory);
        run_thread(tidy, memory);
        CHECK_EQ(signals, before + 1);
    }

    /* A signal to a thread that has only just been made reaches it and no other. */
    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        int wanted = signals + 1;
        MUST(pthread_create(&thread, NULL, be_kicked, &wanted) == 0);
        CHECK_EQ(pthread_kill(thread, SIGUSR1), 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
    }
    CHECK_EQ(running, 0);

    /* Ids do not come back at once. */
    pid_t first, second;
    run_thread(only_tid, &first);
    run_thread(only_tid, &second);
    CHECK(first != second && first > 0 && second > 0);
    CHECK_ERR(syscall(SYS_tgkill, getpid(), first, 0), ESRCH);

    for (int i = 0; i < 200; i++) {
        pthread_t thread;
        size_t size = 64 * 1024;
        char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        pthread_attr_t attribute;
        pthread_attr_init(&attribute);
        pthread_attr_setstack(&attribute, stack, size);
        MUST(pthread_create(&thread, &attribute, on_own_stack, NULL) == 0);
        CHECK_EQ(pthread_join(thread, NULL), 0);
        munmap(stack, size);
        pthread_attr_destroy(&attribute);
    }

    for (int i = 0; i < 20; i++) run_thread(fork_there, give_null);

    static atomic_int left;
    pthread_attr_t attribute;
    pthread_attr_init(&attribute);
    pthread_attr_setdetachstate(&attribute, PTHREAD_CREATE_DETACHED);
    for (int round = 0; round < 10; round++) {
        atomic_fetch_add(&left, 40);
        for (int i = 0; i < 40; i++) {
            pthread_t thread;
            MUST(pthread_create(&thread, &attribute, detached, &left) == 0);
        }
        while (atomic_load(&left) > 0) usleep(100);
    }
    return check_result();
}
