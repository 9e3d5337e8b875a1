/* Priority-inheriting mutexes: they lock, wake, time out, tell a dead owner, and work between processes. */
#include "check.h"
#include <linux/futex.h>
#include <sys/mman.h>

static long futex(uint32_t *word, int operation, const struct timespec *timeout)
{
    return syscall(SYS_futex, word, operation, 0, timeout, NULL, 0);
}

static pthread_mutex_t *make(pthread_mutex_t *mutex, int robust, int shared)
{
    pthread_mutexattr_t attributes;
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_ERRORCHECK);
    CHECK_EQ(pthread_mutexattr_setprotocol(&attributes, PTHREAD_PRIO_INHERIT), 0);
    if (robust) pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
    if (shared) pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
    CHECK_EQ(pthread_mutex_init(mutex, &attributes), 0);
    return mutex;
}

enum { THREADS = 4, ROUNDS = 3000 };
static pthread_mutex_t plain, robust;
static int counter, inside;
static volatile sig_atomic_t signals;
static void on_signal(int number) { (void)number; signals++; }

static void *count(void *argument)
{
    (void)argument;
    for (int i = 0; i < ROUNDS; i++) {
        CHECK_EQ(pthread_mutex_lock(&plain), 0);
        CHECK_EQ(inside++, 0);
        counter++;
        if (i % 64 == 0) sched_yield();
        inside--;
        CHECK_EQ(pthread_mutex_unlock(&plain), 0);
    }
    return NULL;
}

static atomic_int held, may_end;

/* Ends as the owner, some time after it was told that it may. */
static void *lock_and_end(void *argument)
{
    CHECK_EQ(pthread_mutex_lock(argument), 0);
    held = 1;
    while (!may_end) sleep_ms(1);
    sleep_ms(10);
    return NULL;
}

static void start_owner(pthread_t *thread, pthread_mutex_t *mutex)
{
    held = may_end = 0;
    pthread_create(thread, NULL, lock_and_end, mutex);
    while (!held) sleep_ms(1);
}

/* The word holds the thread's own id, in threads that come one after the other too. */
static void *own_id(void *argument)
{
    uint32_t word = 0;
    CHECK_EQ(futex(&word, FUTEX_LOCK_PI, NULL), 0);
    CHECK_EQ(word & FUTEX_TID_MASK, gettid());
    return argument;
}

static void *lock_and_wait(void *argument)
{
    (void)argument;
    CHECK_EQ(pthread_mutex_lock(&plain), 0);
    CHECK_EQ(pthread_mutex_unlock(&plain), 0);
    return NULL;
}

int main(void)
{
    make(&plain, 0, 0);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) pthread_create(&threads[i], NULL, count, NULL);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK_EQ(counter, THREADS * ROUNDS);

    /* Own, foreign, timed out; and a signal's handler does not end the wait. */
    CHECK_EQ(pthread_mutex_lock(&plain), 0);
    CHECK_EQ(pthread_mutex_lock(&plain), EDEADLK);
    catch_signal(SIGUSR1, on_signal, 0);
    pthread_create(&threads[0], NULL, lock_and_wait, NULL);
    sleep_ms(20);
    pthread_kill(threads[0], SIGUSR1);
    for (int i = 0; i < 1000 && !signals; i++) sleep_ms(5);
    CHECK_EQ(signals, 1);
    sleep_ms(10);
    CHECK_EQ(pthread_mutex_unlock(&plain), 0);
    pthread_join(threads[0], NULL);
    make(&robust, 1, 0);
    start_owner(&threads[0], &plain);
    struct timespec soon;
    clock_gettime(CLOCK_REALTIME, &soon);
    soon.tv_nsec += 1000000;
    if (soon.tv_nsec >= 1000000000) { soon.tv_sec++; soon.tv_nsec -= 1000000000; }
    CHECK_EQ(pthread_mutex_timedlock(&plain, &soon), ETIMEDOUT);
    CHECK_EQ(pthread_mutex_trylock(&plain), EBUSY);
    CHECK_EQ(pthread_mutex_unlock(&plain), EPERM);
    may_end = 1;
    pthread_join(threads[0], NULL);

    /* A robust one whose owner ends, while somebody waits. */
    start_owner(&threads[0], &robust);
    may_end = 1;
    CHECK_EQ(pthread_mutex_lock(&robust), EOWNERDEAD);
    CHECK_EQ(pthread_mutex_consistent(&robust), 0);
    CHECK_EQ(pthread_mutex_unlock(&robust), 0);
    CHECK_EQ(pthread_mutex_lock(&robust), 0);
    CHECK_EQ(pthread_mutex_unlock(&robust), 0);
    pthread_join(threads[0], NULL);

    /* Between processes. */
    struct { pthread_mutex_t mutex; int counter; } *shared =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    make(&shared->mutex, 0, 1);
    pid_t children[2];
    for (int i = 0; i < 2; i++)
        if ((children[i] = child_fork()) == 0) {
            for (int j = 0; j < ROUNDS; j++) {
                CHECK_EQ(pthread_mutex_lock(&shared->mutex), 0);
                int seen = shared->counter;
                if (j % 100 == 0) sched_yield();
                shared->counter = seen + 1;
                CHECK_EQ(pthread_mutex_unlock(&shared->mutex), 0);
            }
            child_exit();
        }
    for (int i = 0; i < 2; i++) CHECK_CHILD(children[i]);
    CHECK_EQ(shared->counter, 2 * ROUNDS);

    /* The calls themselves. */
    uint32_t word = 0;
    CHECK_EQ(futex(&word, FUTEX_LOCK_PI, NULL), 0);
    CHECK_EQ(word & FUTEX_TID_MASK, gettid());
    CHECK_ERR(futex(&word, FUTEX_LOCK_PI, NULL), EDEADLK);
    CHECK_EQ(futex(&word, FUTEX_UNLOCK_PI, NULL), 0);
    CHECK_EQ(word, 0);
    CHECK_ERR(futex(&word, FUTEX_UNLOCK_PI, NULL), EPERM);
    CHECK_EQ(futex(&word, FUTEX_TRYLOCK_PI, NULL), 0);
    CHECK_EQ(futex(&word, FUTEX_UNLOCK_PI, NULL), 0);
    CHECK_ERR(futex((uint32_t *)8, FUTEX_LOCK_PI, NULL), EFAULT);
    CHECK_ERR(futex((uint32_t *)((char *)&word + 1), FUTEX_LOCK_PI, NULL), EINVAL);
    void *unwritable = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_ERR(futex(unwritable, FUTEX_LOCK_PI, NULL), EFAULT);
    for (int i = 0; i < 8; i++) {
        pthread_create(&threads[0], NULL, own_id, NULL);
        pthread_join(threads[0], NULL);
    }
    pid_t child = child_fork();
    if (child == 0) {
        own_id(NULL);
        child_exit();
    }
    CHECK_CHILD(child);
    return check_result();
}
