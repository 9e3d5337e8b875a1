/* System V semaphores: values, several operations as one, waiting for zero, undo at exit, removal. */
#include "check.h"
#include <sys/ipc.h>
#include <sys/sem.h>

union semun { int val; struct semid_ds *buf; unsigned short *array; };

static int operate(int id, int number, int change, int flags)
{
    struct sembuf one = { number, change, flags };
    return semop(id, &one, 1);
}

int main(void)
{
    int id = semget(IPC_PRIVATE, 3, IPC_CREAT | 0600);
    if (id < 0 && errno == ENOSYS) CANNOT("no System V semaphores");
    CHECK(id >= 0);
    unsigned short values[3] = { 1, 2, 3 };
    CHECK_EQ(semctl(id, 0, SETALL, (union semun){ .array = values }), 0);
    CHECK_EQ(semctl(id, 1, GETVAL), 2);
    CHECK_EQ(semctl(id, 1, SETVAL, (union semun){ .val = 5 }), 0);
    CHECK_EQ(semctl(id, 0, GETALL, (union semun){ .array = values }), 0);
    CHECK(values[0] == 1 && values[1] == 5 && values[2] == 3);
    CHECK_EQ(operate(id, 0, -1, 0), 0);
    CHECK_ERR(operate(id, 0, -1, IPC_NOWAIT), EAGAIN);
    CHECK_ERR(operate(id, 1, 0, IPC_NOWAIT), EAGAIN);
    CHECK_EQ(operate(id, 0, 0, IPC_NOWAIT), 0);
    CHECK_ERR(operate(id, 3, 1, 0), EFBIG);
    CHECK_EQ(operate(id, 0, 32767, 0), 0);
    CHECK_ERR(operate(id, 0, 1, 0), ERANGE);
    CHECK_EQ(semctl(id, 0, SETVAL, (union semun){ .val = 0 }), 0);
    /* All or nothing. */
    struct sembuf both[2] = { { 1, -1, IPC_NOWAIT }, { 0, -1, IPC_NOWAIT } };
    CHECK_ERR(semop(id, both, 2), EAGAIN);
    CHECK_EQ(semctl(id, 1, GETVAL), 5);
    CHECK_EQ(semctl(id, 1, GETPID), getpid());

    /* Blocking and undo. */
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(operate(id, 0, -1, 0), 0);
        CHECK_EQ(operate(id, 1, -3, SEM_UNDO), 0);
        CHECK_EQ(semctl(id, 1, GETVAL), 2);
        child_exit();
    }
    for (int i = 0; i < 1000 && semctl(id, 0, GETNCNT) != 1; i++) sleep_ms(5);
    CHECK_EQ(semctl(id, 0, GETNCNT), 1);
    CHECK_EQ(operate(id, 0, 1, 0), 0);
    CHECK_CHILD(pid);
    CHECK_EQ(semctl(id, 0, GETVAL), 0);
    CHECK_EQ(semctl(id, 1, GETVAL), 5);

    struct timespec some = { 0, 30000000 };
    struct sembuf take = { 0, -1, 0 };
    CHECK_ERR(semtimedop(id, &take, 1, &some), EAGAIN);
    /* Waiting for zero; and removal wakes waiters. */
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(operate(id, 1, 0, 0), 0);
        CHECK_ERR(operate(id, 0, -1, 0), EIDRM);
        child_exit();
    }
    for (int i = 0; i < 1000 && semctl(id, 1, GETZCNT) != 1; i++) sleep_ms(5);
    CHECK_EQ(operate(id, 1, -5, 0), 0);
    for (int i = 0; i < 1000 && semctl(id, 0, GETNCNT) != 1; i++) sleep_ms(5);
    CHECK_EQ(semctl(id, 0, IPC_RMID), 0);
    CHECK_CHILD(pid);
    CHECK_ERR(semctl(id, 0, GETVAL), EINVAL);
    CHECK_ERR(semget(IPC_PRIVATE, -1, 0600), EINVAL);
    return check_result();
}
