/* System V shared memory. */
#include "check.h"
#include <sys/ipc.h>
#include <sys/shm.h>

int main(void)
{
    int id = shmget(IPC_PRIVATE, 10000, IPC_CREAT | 0600);
    if (id < 0 && errno == ENOSYS) CANNOT("no System V shared memory");
    CHECK(id >= 0);
    char *a = shmat(id, NULL, 0), *b = shmat(id, NULL, SHM_RDONLY);
    MUST(a != (void *)-1 && b != (void *)-1);
    CHECK(a != b);
    strcpy(a, "shared");
    CHECK_STR(b, "shared");
    struct shmid_ds status;
    CHECK_EQ(shmctl(id, IPC_STAT, &status), 0);
    CHECK_EQ(status.shm_segsz, 10000);
    CHECK_EQ(status.shm_nattch, 2);
    CHECK_EQ(status.shm_cpid, getpid());
    CHECK_EQ(status.shm_perm.mode & 0777, 0600);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_STR(a, "shared");
        strcpy(a + 100, "child");
        CHECK_EQ(shmctl(id, IPC_STAT, &status), 0);
        CHECK_EQ(status.shm_nattch, 4);
        CHECK_EQ(shmdt(a), 0);
        CHECK_ERR(shmdt(a), EINVAL);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_STR(a + 100, "child");
    CHECK_EQ(shmctl(id, IPC_STAT, &status), 0);
    CHECK_EQ(status.shm_nattch, 2);
    /* Removed while attached: it lives until the last detach. */
    CHECK_EQ(shmctl(id, IPC_RMID, NULL), 0);
    CHECK_STR(a, "shared");
    CHECK_EQ(shmdt(a), 0);
    CHECK_EQ(shmdt(b), 0);
    CHECK_ERR((long)shmat(id, NULL, 0), EINVAL);

    key_t key = 0x5e550000 + getpid() % 0xffff;
    id = shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600);
    CHECK(id >= 0);
    CHECK_ERR(shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0600), EEXIST);
    CHECK_EQ(shmget(key, 0, 0), id);
    CHECK_ERR(shmget(key, 8192, 0), EINVAL);
    CHECK_ERR(shmget(key + 1, 4096, 0), ENOENT);
    CHECK_ERR(shmget(IPC_PRIVATE, 0, IPC_CREAT), EINVAL);
    CHECK_ERR((long)shmat(id, (void *)1, 0), EINVAL);
    CHECK_EQ(shmctl(id, IPC_RMID, NULL), 0);
    CHECK_ERR(shmctl(id, IPC_STAT, &status), EINVAL);
    return check_result();
}
