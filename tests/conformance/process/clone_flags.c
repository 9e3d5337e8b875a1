/* clone(2) with single flags: CLONE_VM, CLONE_FILES, CLONE_FS, CLONE_PARENT_SETTID, CLONE_CHILD_CLEARTID, exit signals. */
#include "check.h"
#include <linux/futex.h>
#include <sched.h>

static char stack[65536] __attribute__((aligned(16)));
static volatile int shared;
static volatile pid_t parent_tid, child_tid;

static int change_all(void *argument)
{
    shared = 1;
    close(*(int *)argument);
    if (chdir("sub") < 0) return 1;
    umask(0123);
    return 5;
}

static int return_zero(void *argument)
{
    (void)argument;
    return child_tid == getpid() ? 0 : 1;
}

int main(void)
{
    CHECK_EQ(mkdir("sub", 0755), 0);
    struct stat status;
    int fd = open("/dev/null", O_RDONLY), wait;
    /* Nothing shared but what was open. */
    pid_t pid = clone(change_all, stack + sizeof stack, SIGCHLD, &fd);
    MUST(pid > 0);
    CHECK_EQ(waitpid(pid, &wait, 0), pid);
    CHECK_EQ(wait, 5 << 8);
    CHECK_EQ(shared, 0);
    CHECK(fcntl(fd, F_GETFD) >= 0);
    CHECK_EQ(stat("sub", &status), 0);

    /* Everything shared but the thread group. */
    pid = clone(change_all, stack + sizeof stack, CLONE_VM | CLONE_FILES | CLONE_FS | SIGCHLD, &fd);
    if (pid == -1 && (errno == EINVAL || errno == ENOSYS)) CANNOT("no processes that share memory");
    CHECK_EQ(waitpid(pid, &wait, 0), pid);
    CHECK_EQ(wait, 5 << 8);
    CHECK_EQ(shared, 1);
    CHECK_ERR(fcntl(fd, F_GETFD), EBADF);
    CHECK_EQ(umask(022), 0123);
    CHECK_EQ(chdir(".."), 0);
    CHECK_EQ(stat("sub", &status), 0);

    /* Thread ids are stored before the child runs and before clone returns. */
    pid = clone(return_zero, stack + sizeof stack,
                CLONE_VM | CLONE_PARENT_SETTID | CLONE_CHILD_SETTID | SIGCHLD, NULL, &parent_tid, NULL, &child_tid);
    CHECK_EQ(parent_tid, pid);
    CHECK_EQ(wait_status(pid), 0);

    /* No exit signal: only __WALL or __WCLONE finds the child. */
    pid = clone(return_zero, stack + sizeof stack, 0, NULL);
    CHECK(pid > 0);
    sleep_ms(20);
    CHECK_ERR(waitpid(pid, &wait, 0), ECHILD);
    CHECK_EQ(waitpid(pid, &wait, __WALL), pid);

    /* Combinations that make no sense. */
    CHECK_ERR(clone(return_zero, stack + sizeof stack, CLONE_THREAD, NULL), EINVAL);
    CHECK_ERR(clone(return_zero, stack + sizeof stack, CLONE_SIGHAND | SIGCHLD, NULL), EINVAL);
    CHECK_ERR(clone(return_zero, stack + sizeof stack, CLONE_THREAD | CLONE_SIGHAND, NULL), EINVAL);
    return check_result();
}
