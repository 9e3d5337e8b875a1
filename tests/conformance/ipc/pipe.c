/* pipe(2), pipe(7): order, end of file, blocking, capacity, atomic writes, packets, sizes. */
#include "check.h"
#include <sys/ioctl.h>

int main(void)
{
    int p[2];
    char buffer[8192];
    MUST(pipe(p) == 0);
    CHECK_EQ(write(p[1], "abc", 3), 3);
    CHECK_EQ(write(p[1], "def", 3), 3);
    /* Nothing is lost to a bad address. */
    CHECK_ERR(read(p[0], (void *)8, 4), EFAULT);
    CHECK_EQ(read(p[0], buffer, 2), 2);
    CHECK(memcmp(buffer, "ab", 2) == 0);
    CHECK_EQ(read(p[0], buffer, sizeof buffer), 4);
    CHECK(memcmp(buffer, "cdef", 4) == 0);
    CHECK_ERR(write(p[0], "x", 1), EBADF);
    CHECK_ERR(read(p[1], buffer, 1), EBADF);
    CHECK_ERR(pipe((int *)8), EFAULT);
    CHECK_EQ(write(p[1], "", 0), 0);

    /* Capacity. */
    CHECK_EQ(fcntl(p[1], F_GETPIPE_SZ), 65536);
    MUST(fcntl(p[1], F_SETFL, O_NONBLOCK) == 0 && fcntl(p[0], F_SETFL, O_NONBLOCK) == 0);
    CHECK_ERR(read(p[0], buffer, 1), EAGAIN);
    long total = 0, wrote;
    memset(buffer, 'p', sizeof buffer);
    while ((wrote = write(p[1], buffer, 4096)) > 0) total += wrote;
    CHECK_EQ(total, 65536);
    CHECK_ERR(write(p[1], buffer, 1), EAGAIN);
    CHECK_EQ(read(p[0], buffer, 4096), 4096);
    /* A write of at most PIPE_BUF is all or nothing. */
    CHECK_EQ(write(p[1], buffer, 4000), 4000);
    CHECK_ERR(write(p[1], buffer, 4096), EAGAIN);
    /* A larger one takes what fits. */
    CHECK_EQ(read(p[0], buffer, 4096), 4096);
    wrote = write(p[1], buffer, 8192);
    CHECK(wrote > 0 && wrote < 8192);
    int size = fcntl(p[1], F_SETPIPE_SZ, 131072);
    CHECK(size == 131072 || (size == -1 && errno == EPERM));
    CHECK_ERR(fcntl(p[1], F_SETPIPE_SZ, 4096), EBUSY);
    int pending;
    CHECK_EQ(ioctl(p[0], FIONREAD, &pending), 0);
    CHECK(pending > 60000);
    close(p[1]);
    for (total = 0; (wrote = read(p[0], buffer, sizeof buffer)) > 0;) total += wrote;
    CHECK_EQ(wrote, 0);
    CHECK_EQ(total, pending);
    close(p[0]);

    /* Two writers of PIPE_BUF sized records are never mixed. */
    MUST(pipe(p) == 0);
    pid_t pids[3];
    for (int w = 0; w < 3; w++)
        if ((pids[w] = child_fork()) == 0) {
            close(p[0]);
            memset(buffer, 'a' + w, 1000);
            for (int i = 0; i < 300; i++) CHECK_EQ(write(p[1], buffer, 1000), 1000);
            child_exit();
        }
    close(p[1]);
    int counts[3] = { 0 };
    for (int i = 0; i < 900; i++) {
        ssize_t got = 0, next;
        while (got < 1000 && (next = read(p[0], buffer + got, 1000 - got)) > 0) got += next;
        MUST(got == 1000);
        for (int k = 1; k < 1000; k++) MUST(buffer[k] == buffer[0]);
        counts[buffer[0] - 'a']++;
    }
    CHECK_EQ(read(p[0], buffer, 1), 0);
    for (int w = 0; w < 3; w++) {
        CHECK_EQ(counts[w], 300);
        CHECK_CHILD(pids[w]);
    }
    close(p[0]);

    /* A blocking write of much goes through piece by piece. */
    MUST(pipe(p) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        close(p[0]);
        char *big = malloc(1000000);
        memset(big, 'B', 1000000);
        CHECK_EQ(write(p[1], big, 1000000), 1000000);
        child_exit();
    }
    close(p[1]);
    for (total = 0; (wrote = read(p[0], buffer, 777)) > 0;) total += wrote;
    CHECK_EQ(total, 1000000);
    CHECK_CHILD(pid);
    close(p[0]);

    /* Packets. */
    if (pipe2(p, O_DIRECT) == 0) {
        CHECK_EQ(write(p[1], "one", 3), 3);
        CHECK_EQ(write(p[1], "second", 6), 6);
        CHECK_EQ(read(p[0], buffer, 100), 3);
        CHECK_EQ(read(p[0], buffer, 2), 2);
        MUST(fcntl(p[0], F_SETFL, O_NONBLOCK | O_DIRECT) == 0);
        CHECK_ERR(read(p[0], buffer, 100), EAGAIN);
    }
    struct stat status;
    CHECK_EQ(fstat(p[0], &status), 0);
    CHECK(S_ISFIFO(status.st_mode));
    CHECK_ERR(fsync(p[0]), EINVAL);
    return check_result();
}
