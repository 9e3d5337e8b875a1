/* memfd_create(2) and file seals. */
#include "check.h"
#include <sys/mman.h>

int main(void)
{
    int fd = memfd_create("name", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    char text[64] = { 0 }, path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    ssize_t size = readlink(path, text, sizeof text - 1);
    CHECK(size > 0 && strncmp(text, "/memfd:name", 11) == 0);
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK(S_ISREG(status.st_mode));
    CHECK_EQ(status.st_size, 0);
    CHECK_EQ(fcntl(fd, F_GET_SEALS), 0);
    CHECK_EQ(ftruncate(fd, 4096), 0);
    CHECK_EQ(write(fd, "content", 7), 7);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(map != MAP_FAILED);
    CHECK_STR(map, "content");
    map[0] = 'C';
    CHECK_EQ(pread(fd, text, 7, 0), 7);
    CHECK_EQ(text[0], 'C');
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), EBUSY);
    CHECK_EQ(munmap(map, 4096), 0);

    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    CHECK_ERR(ftruncate(fd, 100), EPERM);
    CHECK_EQ(ftruncate(fd, 8192), 0);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    CHECK_ERR(ftruncate(fd, 8193), EPERM);
    CHECK_ERR(pwrite(fd, "x", 1, 8192), EPERM);
    CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    CHECK_ERR(pwrite(fd, "x", 1, 0), EPERM);
    CHECK(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EPERM);
    map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(map != MAP_FAILED);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL), 0);
    CHECK_ERR(fcntl(fd, F_ADD_SEALS, F_SEAL_FUTURE_WRITE), EPERM);
    CHECK_EQ(fcntl(fd, F_GET_SEALS) & 0xf, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);

    /* Without MFD_ALLOW_SEALING it is sealed against seals. */
    int plain = memfd_create("", 0);
    CHECK_EQ(fcntl(plain, F_GET_SEALS), F_SEAL_SEAL);
    CHECK_ERR(fcntl(plain, F_ADD_SEALS, F_SEAL_GROW), EPERM);
    CHECK_ERR(fcntl(make_file("f", ""), F_GET_SEALS), EINVAL);
    CHECK_ERR(memfd_create("x", 0x1000), EINVAL);
    char name[300];
    memset(name, 'n', sizeof name);
    name[250] = 0;
    CHECK_ERR(memfd_create(name, 0), EINVAL);
    name[249] = 0;
    CHECK(memfd_create(name, 0) >= 0);

    /* Shared between processes, also when opened again. */
    int shared = memfd_create("shared", 0);
    CHECK_EQ(ftruncate(shared, 4096), 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", shared);
    pid_t pid = child_fork();
    if (pid == 0) {
        int again = open(path, O_RDWR);
        CHECK(again >= 0);
        CHECK_EQ(pwrite(again, "child", 5, 10), 5);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(pread(shared, text, 5, 10), 5);
    CHECK(memcmp(text, "child", 5) == 0);

    /* A program in a memfd can be run. */
    int program = memfd_create("program", 0);
    int source = open("/bin/true", O_RDONLY);
    char buffer[65536];
    while ((size = read(source, buffer, sizeof buffer)) > 0) CHECK_EQ(write(program, buffer, size), size);
    if ((pid = child_fork()) == 0) {
        char *arguments[] = { "true", NULL }, *environment[] = { NULL };
        fexecve(program, arguments, environment);
        _exit(1);
    }
    CHECK_EQ(wait_status(pid), 0);
    return check_result();
}
