/* read, write, pread, pwrite: short counts at the end, zero sizes, bad buffers, large transfers. */
#include "check.h"
#include <sys/mman.h>

int main(void)
{
    int fd = make_file("f", "abcdefgh");
    char buffer[64];
    CHECK_EQ(pread(fd, buffer, 4, 2), 4);
    CHECK(memcmp(buffer, "cdef", 4) == 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_EQ(pread(fd, buffer, 64, 6), 2);
    CHECK_EQ(pread(fd, buffer, 64, 8), 0);
    CHECK_EQ(pread(fd, buffer, 64, 1000), 0);
    CHECK_ERR(pread(fd, buffer, 1, -1), EINVAL);
    CHECK_ERR(pwrite(fd, buffer, 1, -1), EINVAL);
    CHECK_EQ(pwrite(fd, "XY", 2, 3), 2);
    CHECK_EQ(pwrite(fd, "", 0, 100), 0);
    CHECK_STR(read_file("f"), "abcXYfgh");
    CHECK_EQ(read(fd, buffer, 0), 0);
    CHECK_EQ(read(fd, NULL, 0), 0);
    CHECK_ERR(read(fd, (void *)16, 4), EFAULT);
    CHECK_ERR(write(fd, (void *)16, 4), EFAULT);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 0);
    CHECK_ERR(read(-1, buffer, 1), EBADF);
    CHECK_ERR(write(12345, buffer, 1), EBADF);

    /* A buffer that runs into nothing: what fits is transferred. */
    long page = sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(memory != MAP_FAILED);
    memset(memory, 'm', page);
    CHECK_EQ(munmap(memory + page, page), 0);
    int other = make_file("g", "");
    ssize_t wrote = write(other, memory + page - 10, 100);
    CHECK(wrote == 10 || (wrote == -1 && errno == EFAULT));
    CHECK_ERR(write(other, memory + page, 100), EFAULT);
    MUST(ftruncate(other, 1000) == 0);
    ssize_t got = pread(other, memory + page - 10, 100, 0);
    CHECK(got == 10 || (got == -1 && errno == EFAULT));
    /* A read into memory that cannot be written. */
    CHECK_EQ(mprotect(memory, page, PROT_READ), 0);
    CHECK_ERR(pread(other, memory, 100, 0), EFAULT);

    /* A large transfer comes back whole. */
    size_t size = 3 * 1024 * 1024 + 123;
    unsigned char *big = malloc(size), *back = malloc(size);
    for (size_t i = 0; i < size; i++) big[i] = (i * 2654435761u) >> 13;
    MUST(ftruncate(other, 0) == 0);
    CHECK_EQ(pwrite(other, big, size, 5), size);
    CHECK_EQ(pread(other, back, size, 5), size);
    CHECK(memcmp(big, back, size) == 0);
    struct stat status;
    CHECK_EQ(fstat(other, &status), 0);
    CHECK_EQ(status.st_size, size + 5);
    CHECK(status.st_blocks > 0);
    CHECK(status.st_blksize >= 512);
    return check_result();
}
