/* MAP_SHARED | MAP_ANONYMOUS between parent and children; process_vm_readv of a child. */
#include "check.h"
#include <sys/mman.h>
#include <sys/uio.h>

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    atomic_long *counter = mmap(NULL, 16 * page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(counter != MAP_FAILED);
    CHECK_EQ(*counter, 0);
    pid_t pids[4];
    for (int i = 0; i < 4; i++)
        if ((pids[i] = child_fork()) == 0) {
            for (int n = 0; n < 100000; n++) atomic_fetch_add(counter, 1);
            counter[1 + i] = getpid();
            pid_t inner = fork();
            if (inner == 0) {
                counter[10 + i] = 7;
                _exit(0);
            }
            CHECK_CHILD(inner);
            child_exit();
        }
    for (int i = 0; i < 4; i++) {
        CHECK_CHILD(pids[i]);
        CHECK_EQ(counter[1 + i], pids[i]);
        CHECK_EQ(counter[10 + i], 7);
    }
    CHECK_EQ(*counter, 400000);
    /* Growing by mremap keeps the pages shared; MADV_REMOVE or DONTNEED keeps the content of shared memory. */
    CHECK_EQ(madvise(counter, page, MADV_DONTNEED), 0);
    CHECK_EQ(*counter, 400000);
    CHECK_EQ(mprotect(counter, page, PROT_READ), 0);
    CHECK_EQ(*counter, 400000);

    /* Reading another process's memory. */
    char secret[32] = "";
    int gate[2];
    MUST(pipe(gate) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        strcpy(secret, "in the child");
        char byte;
        if (write(gate[1], "r", 1) < 0) _exit(1);
        MUST(read(gate[0], &byte, 1) >= 0);
        for (;;) pause();
    }
    sleep_ms(50);
    char copy[32] = "";
    struct iovec local = { copy, 32 }, remote = { secret, 32 };
    ssize_t got = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    if (got == -1 && (errno == ENOSYS || errno == EPERM)) printf("process_vm_readv is not granted\n");
    else {
        CHECK_EQ(got, 32);
        CHECK_STR(copy, "in the child");
        remote.iov_base = (void *)8;
        CHECK_ERR(process_vm_readv(pid, &local, 1, &remote, 1, 0), EFAULT);
    }
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(wait_status(pid), SIGKILL);
    return check_result();
}
