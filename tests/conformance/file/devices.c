/* /dev: null, zero, full, random, urandom, stdin and fd links, tty without a terminal. */
#include "check.h"
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/sysmacros.h>

int main(void)
{
    char buffer[64];
    memset(buffer, 'x', sizeof buffer);
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR), full = open("/dev/full", O_RDWR);
    struct stat status;
    CHECK_EQ(fstat(null, &status), 0);
    CHECK(S_ISCHR(status.st_mode));
    CHECK_EQ(status.st_rdev, makedev(1, 3));
    CHECK_EQ(read(null, buffer, 64), 0);
    CHECK_EQ(write(null, buffer, 64), 64);
    CHECK_EQ(lseek(null, 100, SEEK_SET), 0);
    CHECK_EQ(read(zero, buffer, 64), 64);
    CHECK(buffer[0] == 0 && buffer[63] == 0);
    CHECK_EQ(write(zero, buffer, 64), 64);
    char *memory = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero, 0);
    CHECK(memory != MAP_FAILED);
    if (memory != MAP_FAILED) CHECK(memory[0] == 0 && memory[8191] == 0 && (memory[1] = 1) == 1);
    CHECK_EQ(read(full, buffer, 64), 64);
    CHECK_ERR(write(full, buffer, 64), ENOSPC);

    unsigned char a[32] = { 0 }, b[32] = { 0 }, none[32] = { 0 };
    int urandom = open("/dev/urandom", O_RDONLY), random = open("/dev/random", O_RDONLY | O_NONBLOCK);
    CHECK_EQ(read(urandom, a, 32), 32);
    CHECK_EQ(read(random, b, 32), 32);
    CHECK(memcmp(a, b, 32) != 0 && memcmp(a, none, 32) != 0);
    CHECK_EQ(getrandom(a, 32, 0), 32);
    CHECK_EQ(getrandom(b, 32, GRND_NONBLOCK), 32);
    CHECK(memcmp(a, b, 32) != 0);
    CHECK_ERR(getrandom(a, 32, 0x100), EINVAL);

    int ends[2];
    MUST(pipe(ends) == 0 && dup2(ends[0], 0) == 0);
    CHECK_EQ(write(ends[1], "via", 3), 3);
    int again = open("/dev/stdin", O_RDONLY);
    CHECK(again >= 0);
    CHECK_EQ(read(again, buffer, 3), 3);
    CHECK(memcmp(buffer, "via", 3) == 0);
    CHECK_EQ(readlink("/dev/fd", buffer, 64), 13);
    CHECK(memcmp(buffer, "/proc/self/fd", 13) == 0);
    CHECK(stat("/dev/ptmx", &status) == 0 && S_ISCHR(status.st_mode));
    CHECK(stat("/dev/shm", &status) == 0 && S_ISDIR(status.st_mode) && (status.st_mode & 07777) == 01777);

    /* No controlling terminal: /dev/tty cannot be opened. */
    pid_t pid = child_fork();
    if (pid == 0) {
        setsid();
        CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
        child_exit();
    }
    CHECK_CHILD(pid);
    return check_result();
}
