/* A much-used file: what must still hold of its size, times, flags, limits and seals, and that nobody gets more than the
 * access that it was opened with. */
#include "check.h"
#include <sys/mman.h>
#include <sys/resource.h>

static void heat(int fd)
{
    char byte;
    for (int i = 0; i < 40; i++) MUST(pread(fd, &byte, 1, 0) == 1);
}

/* The same for a descriptor that can only be written. */
static void heat_writes(int fd)
{
    for (int i = 0; i < 40; i++) MUST(pwrite(fd, "h", 1, 0) == 1);
}

static long long modified_ns(int fd)
{
    struct stat status;
    MUST(fstat(fd, &status) == 0);
    return status.st_mtim.tv_sec * 1000000000LL + status.st_mtim.tv_nsec;
}

static void times(void)
{
    int fd = make_file("times", "0123456789");
    heat(fd);
    heat_writes(fd);
    struct timespec old[2] = {{1000, 0}, {2000, 0}};
    CHECK_EQ(futimens(fd, old), 0);
    CHECK_EQ(modified_ns(fd), 2000 * 1000000000LL);
    heat(fd);
    CHECK_EQ(modified_ns(fd), 2000 * 1000000000LL);
    CHECK_EQ(pwrite(fd, "x", 1, 4), 1);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    struct stat status;
    MUST(stat("times", &status) == 0);
    CHECK(status.st_mtim.tv_sec >= now.tv_sec - 5 && status.st_mtim.tv_sec <= now.tv_sec);
    CHECK(status.st_ctim.tv_sec >= now.tv_sec - 5 && status.st_ctim.tv_sec <= now.tv_sec);
    long long before = modified_ns(fd);
    sleep_ms(30);
    CHECK_EQ(write(fd, "y", 1), 1);
    CHECK(modified_ns(fd) > before);
    /* A time to come is no obstacle. */
    struct timespec later[2] = {{now.tv_sec + 100000, 0}, {now.tv_sec + 100000, 0}};
    CHECK_EQ(futimens(fd, later), 0);
    CHECK_EQ(pwrite(fd, "x", 1, 4), 1);
    CHECK(modified_ns(fd) < (now.tv_sec + 1000) * 1000000000LL);
    close(fd);
}

static void sizes(void)
{
    int fd = make_file("sizes", "0123456789");
    char buffer[8192];
    memset(buffer, 's', sizeof buffer);
    heat(fd);
    struct stat status;
    for (int i = 0; i < 200; i++) {
        CHECK_EQ(write(fd, buffer, sizeof buffer), sizeof buffer);
        MUST(fstat(fd, &status) == 0);
        CHECK_EQ(status.st_size, (i + 1) * (long)sizeof buffer);
    }
    CHECK(status.st_blocks * 512 >= status.st_size);
    CHECK_EQ(lseek(fd, 0, SEEK_END), 200 * (long)sizeof buffer);
    /* Somebody else cuts it. */
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(truncate("sizes", 5), 0);
        child_exit();
    }
    CHECK_CHILD(child);
    CHECK_EQ(lseek(fd, 0, SEEK_END), 5);
    CHECK_EQ(pread(fd, buffer, 10, 0), 5);
    CHECK_EQ(pread(fd, buffer, 10, 5), 0);
    /* And empties it, and it grows again. */
    close(open("sizes", O_WRONLY | O_TRUNC));
    CHECK_EQ(pread(fd, buffer, 10, 0), 0);
    CHECK_EQ(pwrite(fd, "end", 3, 100000), 3);
    MUST(fstat(fd, &status) == 0);
    CHECK_EQ(status.st_size, 100003);
    CHECK_EQ(pread(fd, buffer, 4, 99999), 4);
    CHECK(memcmp(buffer, "\0end", 4) == 0);
    close(fd);
}

static void holes(void)
{
    int fd = make_file("holes", "0");
    heat(fd);
    CHECK_EQ(pwrite(fd, "data", 4, 1 << 20), 4);
    heat(fd);
    CHECK_EQ(lseek(fd, 0, SEEK_DATA), 0);
    off_t hole = lseek(fd, 0, SEEK_HOLE);
    CHECK(hole > 0 && hole <= 1 << 20);
    CHECK_EQ(lseek(fd, 1 << 16, SEEK_DATA), 1 << 20);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1 << 20);
    CHECK_ERR(lseek(fd, 2 << 20, SEEK_DATA), ENXIO);
    CHECK_ERR(lseek(fd, -1, SEEK_SET), EINVAL);
    CHECK_ERR(lseek(fd, 0, 17), EINVAL);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 1 << 20);
    close(fd);
}

static void appending(void)
{
    int fd = make_file("append", "start\n"), other = open("append", O_WRONLY | O_APPEND);
    heat(fd);
    heat_writes(fd);
    for (int i = 0; i < 20; i++) CHECK_EQ(write(other, "o", 1), 1);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(fcntl(fd, F_SETFL, O_APPEND), 0);
    for (int i = 0; i < 20; i++) CHECK_EQ(write(fd, "a", 1), 1);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 46);
    for (int i = 0; i < 10; i++) CHECK_EQ(write(other, "o", 1), 1);
    CHECK_EQ(fcntl(fd, F_SETFL, 0), 0);
    CHECK_EQ(pwrite(fd, "S", 1, 0), 1);
    CHECK_EQ(lseek(fd, 1, SEEK_SET), 1);
    for (int i = 0; i < 4; i++) CHECK_EQ(write(fd, "T", 1), 1);
    CHECK_STR(read_file("append"), "STTTT\noooooooooooooooooooo" "aaaaaaaaaaaaaaaaaaaa" "oooooooooo");
    close(other);
    close(fd);
}

static void access_modes(void)
{
    char byte = 0;
    make_file("modes", "0123456789");
    int reads = open("modes", O_RDONLY), writes = open("modes", O_WRONLY), neither = open("modes", 3);
    heat(reads);
    heat_writes(writes);
    for (int i = 0; i < 3; i++) {
        CHECK_ERR(write(reads, "x", 1), EBADF);
        CHECK_ERR(pwrite(reads, "x", 1, 0), EBADF);
        CHECK_ERR(read(writes, &byte, 1), EBADF);
        CHECK_ERR(pread(writes, &byte, 1, 0), EBADF);
        CHECK_ERR(read(neither, &byte, 1), EBADF);
        CHECK_ERR(write(neither, "x", 1), EBADF);
    }
    CHECK_ERR(ftruncate(reads, 0), EINVAL);
    CHECK_STR(read_file("modes"), "h123456789");
    close(reads);
    close(writes);
    close(neither);
}

static volatile sig_atomic_t signals;

static void count(int number)
{
    (void)number;
    signals++;
}

static void file_size_limit(void)
{
    char buffer[4096] = {0};
    int fd = make_file("limit", "0123456789");
    heat(fd);
    heat_writes(fd);
    pid_t child = child_fork();
    if (child == 0) {
        for (int i = 0; i < 40; i++) CHECK_EQ(pwrite(fd, buffer, 100, 0), 100);
        struct rlimit limit = {1000, 2000};
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
        catch_signal(SIGXFSZ, count, 0);
        CHECK_EQ(pwrite(fd, buffer, 100, 950), 50);
        CHECK_EQ(signals, 0);
        CHECK_ERR(pwrite(fd, buffer, 100, 1000), EFBIG);
        CHECK_EQ(signals, 1);
        for (int i = 0; i < 40; i++) CHECK_EQ(pwrite(fd, buffer, 100, 0), 100);
        CHECK_ERR(pwrite(fd, buffer, 100, 1000), EFBIG);
        CHECK_EQ(signals, 2);
        catch_signal(SIGXFSZ, SIG_IGN, 0);
        CHECK_EQ(lseek(fd, 1000, SEEK_SET), 1000);
        CHECK_ERR(write(fd, buffer, 100), EFBIG);
        limit.rlim_cur = 2000;
        CHECK_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
        CHECK_EQ(write(fd, buffer, 100), 100);
        child_exit();
    }
    CHECK_CHILD(child);
    struct stat status;
    MUST(fstat(fd, &status) == 0);
    CHECK_EQ(status.st_size, 1100);
    close(fd);
}

static void seals(void)
{
    char byte;
    int fd = memfd_create("sealed", MFD_ALLOW_SEALING);
    if (fd < 0) CANNOT("no memfd_create");
    MUST(write(fd, "0123456789", 10) == 10);
    heat(fd);
    heat_writes(fd);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_GROW), 0);
    CHECK_EQ(pwrite(fd, "abc", 3, 0), 3);
    CHECK_ERR(pwrite(fd, "abc", 3, 10), EPERM);
    CHECK_EQ(fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE), 0);
    for (int i = 0; i < 3; i++) CHECK_ERR(pwrite(fd, "abc", 3, 0), EPERM);
    CHECK_EQ(pread(fd, &byte, 1, 2), 1);
    CHECK_EQ(byte, 'c');
    close(fd);
}

/* A write by an ordinary user takes the set-id bits away. */
static void set_id_bits(void)
{
    int fd = make_file("set-id", "0123456789");
    heat(fd);
    heat_writes(fd);
    if (geteuid() == 0) {
        close(fd);
        return;
    }
    struct stat status;
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(fchmod(fd, 04755), 0);
        heat(fd);
        MUST(fstat(fd, &status) == 0);
        CHECK_EQ(status.st_mode & 07777, 04755);
        CHECK_EQ(pwrite(fd, "x", 1, 0), 1);
        MUST(fstat(fd, &status) == 0);
        CHECK_EQ(status.st_mode & 07777, 0755);
        heat_writes(fd);
    }
    close(fd);
}

static void buffers(void)
{
    long page = sysconf(_SC_PAGESIZE);
    int fd = make_file("buffers", "");
    MUST(ftruncate(fd, 100) == 0);
    heat(fd);
    heat_writes(fd);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(memory != MAP_FAILED && munmap(memory + page, page) == 0);
    CHECK_ERR(pread(fd, memory + page, 10, 0), EFAULT);
    CHECK_ERR(pwrite(fd, memory + page, 10, 0), EFAULT);
    CHECK_ERR(read(fd, (void *)16, 4), EFAULT);
    ssize_t got = pread(fd, memory + page - 10, 100, 0);
    CHECK(got == 10 || (got == -1 && errno == EFAULT));
    CHECK_EQ(read(fd, NULL, 0), 0);
    CHECK_EQ(write(fd, NULL, 0), 0);
    CHECK_ERR(pread(fd, memory, 1, -1), EINVAL);
    /* Fresh pages as a buffer: they come as they are touched. */
    char *fresh = mmap(NULL, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(fresh != MAP_FAILED);
    MUST(ftruncate(fd, 64 * page) == 0);
    CHECK_EQ(pread(fd, fresh, 64 * page, 0), 64 * page);
    /* A page of the file itself that lies behind its end now. */
    char *mapped = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(mapped != MAP_FAILED && ftruncate(fd, 10) == 0);
    CHECK_ERR(pwrite(fd, mapped + page, 10, 0), EFAULT);
    close(fd);
}

/* Removed while it is open, it lives on; and what is mapped and what is written are the same. */
static void unlinked_and_mapped(void)
{
    int fd = make_file("unlinked", "0123456789");
    heat(fd);
    heat_writes(fd);
    CHECK_EQ(unlink("unlinked"), 0);
    char *mapped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(mapped != MAP_FAILED);
    CHECK_EQ(pwrite(fd, "written", 7, 1), 7);
    CHECK(memcmp(mapped, "hwritten", 8) == 0);
    memcpy(mapped, "mapped", 6);
    char buffer[10];
    CHECK_EQ(pread(fd, buffer, 10, 0), 10);
    CHECK(memcmp(buffer, "mappeden89", 10) == 0);
    CHECK_EQ(close(fd), 0);
    CHECK(memcmp(mapped, "mappeden89", 10) == 0);
    mapped[0] = 'M';
    CHECK_EQ(munmap(mapped, 4096), 0);
}

int main(void)
{
    times();
    sizes();
    holes();
    appending();
    access_modes();
    file_size_limit();
    seals();
    set_id_bits();
    buffers();
    unlinked_and_mapped();
    return check_result();
}
