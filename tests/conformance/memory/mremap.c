/* mremap(2): growing, shrinking, moving, fixed places, errors. */
#include "check.h"
#include <sys/mman.h>

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(map != MAP_FAILED);
    for (int i = 0; i < 8; i++) map[i * page] = 'a' + i;
    CHECK(mremap(map, 8 * page, 4 * page, 0) == map);
    CHECK(mremap(map, 4 * page, 6 * page, 0) == map);
    CHECK(map[3 * page] == 'd' && map[4 * page] == 0);
    /* No room: refused without MAYMOVE, moved with it. */
    char *wall = mmap(map + 6 * page, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(wall == map + 6 * page);
    CHECK_ERR((long)mremap(map, 6 * page, 10 * page, 0), ENOMEM);
    char *moved = mremap(map, 6 * page, 2000 * page, MREMAP_MAYMOVE);
    MUST(moved != MAP_FAILED);
    CHECK(moved != map);
    for (int i = 0; i < 4; i++) CHECK_EQ(moved[i * page], 'a' + i);
    CHECK_EQ(moved[1999 * page], 0);
    CHECK_ERR(mprotect(map, page, PROT_READ), ENOMEM);

    /* To a chosen place, over what is there. */
    char *target = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(target, 't', 4 * page);
    CHECK(mremap(moved, 2 * page, 2 * page, MREMAP_MAYMOVE | MREMAP_FIXED, target) == target);
    CHECK(target[0] == 'a' && target[page] == 'b' && target[2 * page] == 't');
    CHECK_ERR((long)mremap(target, 2 * page, 2 * page, MREMAP_FIXED, moved), EINVAL);
    CHECK_ERR((long)mremap(target, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, target), EINVAL);
    CHECK_ERR((long)mremap(target + 1, page, page, MREMAP_MAYMOVE), EINVAL);
    CHECK_ERR((long)mremap(target, page, 0, MREMAP_MAYMOVE), EINVAL);
    CHECK_ERR((long)mremap(target, page, page, 0x100), EINVAL);
    CHECK_EQ(munmap(target, 4 * page), 0);
    CHECK_ERR((long)mremap(target, page, 2 * page, MREMAP_MAYMOVE), EFAULT);

    /* A file mapping grows over the file. */
    int fd = make_file("f", "");
    CHECK_EQ(ftruncate(fd, 3 * page), 0);
    CHECK_EQ(pwrite(fd, "end", 3, 2 * page), 3);
    char *file = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    file = mremap(file, page, 3 * page, MREMAP_MAYMOVE);
    MUST(file != MAP_FAILED);
    CHECK_STR(file + 2 * page, "end");
    file[0] = 'X';
    char byte;
    CHECK_EQ(pread(fd, &byte, 1, 0), 1);
    CHECK_EQ(byte, 'X');
    /* realloc of large blocks uses it. */
    char *block = malloc(1 << 20);
    memset(block, 'r', 1 << 20);
    block = realloc(block, 64 << 20);
    CHECK(block[0] == 'r' && block[(1 << 20) - 1] == 'r');
    return check_result();
}
