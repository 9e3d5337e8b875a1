/* POSIX shared memory, named semaphores, message queues. */
#include "check.h"
#include <mqueue.h>
#include <semaphore.h>
#include <sys/mman.h>

int main(void)
{
    char name[64];
    snprintf(name, sizeof name, "/skerry-conformance-%d", getpid());
    int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    CHECK_ERR(shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    int *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(map != MAP_FAILED);
    pid_t pid = child_fork();
    if (pid == 0) {
        int again = shm_open(name, O_RDWR, 0);
        CHECK(again >= 0);
        int *other = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
        MUST(other != MAP_FAILED);
        other[5] = 555;
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(map[5], 555);
    CHECK_EQ(shm_unlink(name), 0);
    CHECK_ERR(shm_unlink(name), ENOENT);
    CHECK_ERR(shm_open(name, O_RDWR, 0), ENOENT);

    sem_t *semaphore = sem_open(name, O_CREAT | O_EXCL, 0600, 1);
    MUST(semaphore != SEM_FAILED);
    CHECK_EQ(sem_wait(semaphore), 0);
    CHECK_ERR(sem_trywait(semaphore), EAGAIN);
    if ((pid = child_fork()) == 0) {
        sem_t *other = sem_open(name, 0);
        MUST(other != SEM_FAILED);
        CHECK_EQ(sem_post(other), 0);
        child_exit();
    }
    CHECK_EQ(sem_wait(semaphore), 0);
    CHECK_CHILD(pid);
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    CHECK_ERR(sem_timedwait(semaphore, &at), ETIMEDOUT);
    CHECK_EQ(sem_unlink(name), 0);

    struct mq_attr attributes = { .mq_maxmsg = 3, .mq_msgsize = 32 };
    mqd_t queue = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);
    if (queue == (mqd_t)-1 && errno == ENOSYS) {
        printf("no POSIX message queues\n");
        return check_result();
    }
    CHECK(queue != (mqd_t)-1);
    CHECK_EQ(mq_send(queue, "low", 4, 1), 0);
    CHECK_EQ(mq_send(queue, "high", 5, 9), 0);
    CHECK_EQ(mq_send(queue, "low2", 5, 1), 0);
    CHECK_EQ(mq_getattr(queue, &attributes), 0);
    CHECK(attributes.mq_curmsgs == 3 && attributes.mq_maxmsg == 3 && attributes.mq_msgsize == 32);
    clock_gettime(CLOCK_REALTIME, &at);
    CHECK_ERR(mq_timedsend(queue, "x", 1, 1, &at), ETIMEDOUT);
    char buffer[32];
    unsigned priority;
    CHECK_ERR(mq_receive(queue, buffer, 10, &priority), EMSGSIZE);
    CHECK_EQ(mq_receive(queue, buffer, 32, &priority), 5);
    CHECK_STR(buffer, "high");
    CHECK_EQ(priority, 9);
    CHECK_EQ(mq_receive(queue, buffer, 32, &priority), 4);
    CHECK_STR(buffer, "low");
    CHECK_EQ(mq_receive(queue, buffer, 32, &priority), 5);
    CHECK_ERR(mq_send(queue, buffer, 33, 0), EMSGSIZE);
    attributes.mq_flags = O_NONBLOCK;
    CHECK_EQ(mq_setattr(queue, &attributes, NULL), 0);
    CHECK_ERR(mq_receive(queue, buffer, 32, &priority), EAGAIN);
    CHECK_EQ(mq_unlink(name), 0);
    CHECK_ERR((long)mq_open(name, O_RDWR), ENOENT);
    return check_result();
}
