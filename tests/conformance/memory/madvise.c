/* madvise(2), mincore(2), mlock(2). */
#include "check.h"
#include <sys/mman.h>

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    char *map = mmap(NULL, 8 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(map != MAP_FAILED);
    memset(map, 'm', 8 * page);
    CHECK_EQ(madvise(map + page, 2 * page, MADV_DONTNEED), 0);
    CHECK(map[page - 1] == 'm' && map[page] == 0 && map[3 * page - 1] == 0 && map[3 * page] == 'm');
    static const int advice[] = { MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_HUGEPAGE, MADV_NOHUGEPAGE, MADV_DONTDUMP, MADV_DODUMP };
    for (size_t i = 0; i < sizeof advice / sizeof *advice; i++) {
        int got = madvise(map, 8 * page, advice[i]);
        if (!(got == 0 || (got == -1 && (errno == EINVAL || errno == EBADF)))) CHECK_FAIL("advice %d: %d", advice[i], errno);
    }
    CHECK_EQ(madvise(map, page, MADV_FREE), 0);
    CHECK_ERR(madvise(map, page, 12345), EINVAL);
    CHECK_ERR(madvise(map + 1, page, MADV_NORMAL), EINVAL);
    CHECK_EQ(munmap(map + 6 * page, page), 0);
    CHECK_ERR(madvise(map, 8 * page, MADV_DONTNEED), ENOMEM);
    /* A private file mapping goes back to the file. */
    int fd = make_file("f", "file");
    char *file = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    file[0] = 'X';
    CHECK_EQ(madvise(file, page, MADV_DONTNEED), 0);
    CHECK_STR(file, "file");
    /* Not copied to children, or given to them empty. */
    char *gone = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *wiped = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    gone[0] = wiped[0] = 'w';
    CHECK_EQ(madvise(gone, page, MADV_DONTFORK), 0);
    CHECK_EQ(madvise(wiped, page, MADV_WIPEONFORK), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(wiped[0], 0);
        CHECK_ERR(mprotect(gone, page, PROT_READ), ENOMEM);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK(gone[0] == 'w' && wiped[0] == 'w');

    unsigned char present[8];
    map[3 * page] = 1;
    CHECK_EQ(mincore(map, 4 * page, present), 0);
    CHECK(present[3] & 1);
    CHECK_ERR(mincore(map + 1, page, present), EINVAL);
    CHECK_EQ(mlock(map, page), 0);
    CHECK_EQ(munlock(map, page), 0);
    char *holed = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK_EQ(munmap(holed + page, page), 0);
    CHECK_ERR(mincore(holed, 3 * page, present), ENOMEM);
    CHECK_ERR(mlock(holed, 3 * page), ENOMEM);
    return check_result();
}
