/* Threads: shared memory and ids, thread-local storage, join, detach, exit of one and of all, cancellation. */
#include "check.h"

static _Thread_local int local = 5;
static atomic_int counter;
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static long guarded;
static pid_t tids[16];

static void *work(void *argument)
{
    long number = (long)argument;
    CHECK_EQ(local, 5);
    local = number;
    tids[number] = syscall(SYS_gettid);
    CHECK_EQ(getpid(), syscall(SYS_getpid));
    for (int i = 0; i < 10000; i++) {
        pthread_mutex_lock(&mutex);
        guarded++;
        pthread_mutex_unlock(&mutex);
        atomic_fetch_add(&counter, 1);
    }
    CHECK_EQ(local, number);
    return (void *)(number * 2);
}

static void *wait_for_change(void *argument)
{
    pthread_mutex_lock(&mutex);
    while (guarded != -1) pthread_cond_wait(&changed, &mutex);
    pthread_mutex_unlock(&mutex);
    return argument;
}

static void *sleep_forever(void *argument)
{
    for (;;) sleep(1000);
    return argument;
}

static void *read_forever(void *argument)
{
    char byte;
    if (read(*(int *)argument, &byte, 1) == 1) return NULL;
    return argument;
}

static void *exit_group_soon(void *argument)
{
    (void)argument;
    usleep(10000);
    _exit(42);
}

static void *outlive_main(void *argument)
{
    usleep(50000);
    exit((int)(long)argument);
}

int main(void)
{
    pthread_t threads[16];
    for (long i = 0; i < 16; i++) MUST(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (long i = 0; i < 16; i++) {
        void *result;
        CHECK_EQ(pthread_join(threads[i], &result), 0);
        CHECK_EQ((long)result, i * 2);
    }
    CHECK_EQ(counter, 160000);
    CHECK_EQ(guarded, 160000);
    CHECK_EQ(local, 5);
    for (int i = 0; i < 16; i++) {
        CHECK(tids[i] > 0 && tids[i] != getpid());
        for (int j = 0; j < i; j++) CHECK(tids[i] != tids[j]);
    }

    for (int i = 0; i < 4; i++) MUST(pthread_create(&threads[i], NULL, wait_for_change, NULL) == 0);
    usleep(20000);
    pthread_mutex_lock(&mutex);
    guarded = -1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    for (int i = 0; i < 4; i++) CHECK_EQ(pthread_join(threads[i], NULL), 0);

    /* A timed wait that nobody ends. */
    struct timespec deadline;
    clock_gettime(CLOCK_REALTIME, &deadline);
    deadline.tv_nsec += 30000000;
    if (deadline.tv_nsec >= 1000000000) deadline.tv_sec++, deadline.tv_nsec -= 1000000000;
    pthread_mutex_lock(&mutex);
    CHECK_EQ(pthread_cond_timedwait(&changed, &mutex, &deadline), ETIMEDOUT);
    pthread_mutex_unlock(&mutex);

    /* Cancellation of threads that sleep and that block in a read. */
    int ends[2];
    void *result;
    MUST(pipe(ends) == 0);
    MUST(pthread_create(&threads[0], NULL, sleep_forever, NULL) == 0);
    MUST(pthread_create(&threads[1], NULL, read_forever, &ends[0]) == 0);
    usleep(20000);
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(pthread_cancel(threads[i]), 0);
        CHECK_EQ(pthread_join(threads[i], &result), 0);
        CHECK(result == PTHREAD_CANCELED);
    }

    /* Many short threads, detached ones too. */
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, 64 * 1024);
    atomic_store(&counter, 0);
    guarded = 0;
    for (int i = 0; i < 200; i++) {
        MUST(pthread_create(&threads[0], NULL, wait_for_change, (void *)1) == 0);
        pthread_mutex_lock(&mutex);
        guarded = -1;
        pthread_cond_broadcast(&changed);
        pthread_mutex_unlock(&mutex);
        CHECK_EQ(pthread_join(threads[0], NULL), 0);
        pthread_t detached;
        MUST(pthread_create(&detached, &attributes, wait_for_change, NULL) == 0);
    }

    /* fork in a program with threads: the child has only the forking one. */
    MUST(pthread_create(&threads[0], NULL, sleep_forever, NULL) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        char *text = read_file("/proc/self/status");
        char *line = text ? strstr(text, "\nThreads:") : NULL;
        CHECK(line && atoi(line + 9) == 1);
        child_exit();
    }
    CHECK_CHILD(pid);

    /* _exit by any thread ends them all; exit status 42. */
    if ((pid = child_fork()) == 0) {
        pthread_create(&threads[0], NULL, exit_group_soon, NULL);
        for (;;) pause();
    }
    CHECK_EQ(wait_status(pid), 42 << 8);
    /* The leader may go first: the process lives on until the last thread ends. */
    if ((pid = child_fork()) == 0) {
        pthread_create(&threads[0], NULL, outlive_main, (void *)9);
        syscall(SYS_exit, 0);
    }
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_EQ(wait_status(pid), 9 << 8);
    return check_result();
}
