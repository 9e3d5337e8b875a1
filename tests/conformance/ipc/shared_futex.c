/* Process-shared mutex, condition, barrier, semaphore, robust mutex; the raw futex call's errors. */
#include "check.h"
#include <linux/futex.h>
#include <semaphore.h>
#include <sys/mman.h>

struct shared {
    pthread_mutex_t mutex, robust;
    pthread_cond_t changed;
    pthread_barrier_t barrier;
    pthread_rwlock_t rwlock;
    sem_t semaphore;
    long counter, stage;
    int word;
};

static long futex(int *word, int operation, int value, struct timespec *timeout) { return syscall(SYS_futex, word, operation, value, timeout, NULL, 0); }

int main(void)
{
    struct shared *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(shared != MAP_FAILED);
    pthread_mutexattr_t mutex;
    pthread_condattr_t condition;
    pthread_barrierattr_t barrier;
    pthread_rwlockattr_t rwlock;
    pthread_mutexattr_init(&mutex);
    pthread_mutexattr_setpshared(&mutex, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->mutex, &mutex);
    pthread_mutexattr_setrobust(&mutex, PTHREAD_MUTEX_ROBUST);
    pthread_mutex_init(&shared->robust, &mutex);
    pthread_condattr_init(&condition);
    pthread_condattr_setpshared(&condition, PTHREAD_PROCESS_SHARED);
    pthread_cond_init(&shared->changed, &condition);
    pthread_barrierattr_init(&barrier);
    pthread_barrierattr_setpshared(&barrier, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&shared->barrier, &barrier, 4);
    pthread_rwlockattr_init(&rwlock);
    pthread_rwlockattr_setpshared(&rwlock, PTHREAD_PROCESS_SHARED);
    pthread_rwlock_init(&shared->rwlock, &rwlock);
    sem_init(&shared->semaphore, 1, 0);

    pid_t pids[4];
    for (int i = 0; i < 4; i++)
        if ((pids[i] = child_fork()) == 0) {
            int got = pthread_barrier_wait(&shared->barrier);
            CHECK(got == 0 || got == PTHREAD_BARRIER_SERIAL_THREAD);
            for (int n = 0; n < 5000; n++) {
                pthread_mutex_lock(&shared->mutex);
                shared->counter++;
                pthread_mutex_unlock(&shared->mutex);
            }
            /* Taking turns by a condition. */
            for (int turn = i; turn < 40; turn += 4) {
                pthread_mutex_lock(&shared->mutex);
                while (shared->stage != turn) pthread_cond_wait(&shared->changed, &shared->mutex);
                shared->stage++;
                pthread_cond_broadcast(&shared->changed);
                pthread_mutex_unlock(&shared->mutex);
            }
            for (int n = 0; n < 100; n++) {
                pthread_rwlock_rdlock(&shared->rwlock);
                pthread_rwlock_unlock(&shared->rwlock);
                pthread_rwlock_wrlock(&shared->rwlock);
                shared->word++;
                pthread_rwlock_unlock(&shared->rwlock);
            }
            CHECK_EQ(sem_post(&shared->semaphore), 0);
            child_exit();
        }
    for (int i = 0; i < 4; i++) CHECK_EQ(sem_wait(&shared->semaphore), 0);
    for (int i = 0; i < 4; i++) CHECK_CHILD(pids[i]);
    CHECK_EQ(shared->counter, 20000);
    CHECK_EQ(shared->stage, 40);
    CHECK_EQ(shared->word, 400);

    /* A process dies with a robust mutex: the next owner is told. Once while others wait, once while nobody does. */
    for (int round = 0; round < 2; round++) {
        pid_t pid = child_fork();
        if (pid == 0) {
            MUST(pthread_mutex_lock(&shared->robust) == 0);
            CHECK_EQ(sem_post(&shared->semaphore), 0);
            if (round) sleep_ms(50);
            kill(getpid(), SIGKILL);
        }
        CHECK_EQ(sem_wait(&shared->semaphore), 0);
        if (!round) CHECK_EQ(wait_status(pid), SIGKILL);
        CHECK_EQ(pthread_mutex_lock(&shared->robust), EOWNERDEAD);
        CHECK_EQ(pthread_mutex_consistent(&shared->robust), 0);
        CHECK_EQ(pthread_mutex_unlock(&shared->robust), 0);
        if (round) CHECK_EQ(wait_status(pid), SIGKILL);
    }

    /* The raw call. */
    shared->word = 7;
    CHECK_ERR(futex(&shared->word, FUTEX_WAIT, 8, NULL), EAGAIN);
    struct timespec some = { 0, 30000000 }, bad = { 0, 1000000000 };
    long long start = now_ns();
    CHECK_ERR(futex(&shared->word, FUTEX_WAIT, 7, &some), ETIMEDOUT);
    CHECK(now_ns() - start >= 30000000);
    CHECK_ERR(futex(&shared->word, FUTEX_WAIT, 7, &bad), EINVAL);
    CHECK_ERR(futex((int *)((char *)&shared->word + 1), FUTEX_WAIT, 7, &some), EINVAL);
    CHECK_ERR(futex((int *)4096, FUTEX_WAIT, 7, &some), EFAULT);
    CHECK_ERR(futex(&shared->word, 99, 7, NULL), ENOSYS);
    CHECK_EQ(futex(&shared->word, FUTEX_WAKE, 10, NULL), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(futex(&shared->word, FUTEX_WAIT, 7, NULL), 0);
        child_exit();
    }
    long woken = 0;
    for (int i = 0; i < 1000 && !woken; i++) {
        sleep_ms(5);
        woken = futex(&shared->word, FUTEX_WAKE, 1, NULL);
    }
    CHECK_EQ(woken, 1);
    CHECK_CHILD(pid);

    /* Requeue moves waiters from one word to another. */
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(futex(&shared->word, FUTEX_WAIT, 7, NULL), 0);
        child_exit();
    }
    int *other = (int *)&shared->stage;
    long moved = 0;
    for (int i = 0; i < 1000 && !moved; i++) {
        sleep_ms(5);
        moved = syscall(SYS_futex, &shared->word, FUTEX_CMP_REQUEUE, 0, 1, other, 7);
    }
    CHECK_EQ(moved, 1);
    CHECK_EQ(futex(&shared->word, FUTEX_WAKE, 1, NULL), 0);
    CHECK_EQ(futex(other, FUTEX_WAKE, 1, NULL), 1);
    CHECK_CHILD(pid);
    return check_result();
}
