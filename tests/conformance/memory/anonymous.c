/* Anonymous mmap(2), munmap(2): zeros, alignment, partial unmapping, splitting, errors. */
#include "check.h"
#include <setjmp.h>
#include <sys/mman.h>

static sigjmp_buf back;
static void fault(int number) { siglongjmp(back, number); }
static int readable(volatile char *address)
{
    if (sigsetjmp(back, 1)) return 0;
    (void)*address;
    return 1;
}

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    catch_signal(SIGSEGV, fault, 0);
    char *map = mmap(NULL, 10 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(map != MAP_FAILED);
    CHECK_EQ((unsigned long)map % page, 0);
    for (long i = 0; i < 10 * page; i += 512) CHECK(map[i] == 0);
    memset(map, 'x', 10 * page);
    /* A hole in the middle. */
    CHECK_EQ(munmap(map + 4 * page, 2 * page), 0);
    CHECK(readable(map + 4 * page - 1) && !readable(map + 4 * page) && !readable(map + 6 * page - 1) && readable(map + 6 * page));
    CHECK_EQ(munmap(map + 4 * page, page), 0); /* nothing there: no error */
    /* The whole, hole and all. */
    CHECK_EQ(munmap(map, 10 * page), 0);
    CHECK(!readable(map) && !readable(map + 9 * page));

    CHECK_ERR(munmap(map + 1, page), EINVAL);
    CHECK_ERR(munmap(map, 0), EINVAL);
    CHECK_ERR((long)mmap(NULL, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERR((long)mmap(NULL, page, PROT_READ, MAP_ANONYMOUS, -1, 0), EINVAL);
    CHECK_ERR((long)mmap(NULL, 1UL << 60, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), ENOMEM);
    CHECK_ERR((long)mmap(NULL, page, PROT_READ, MAP_PRIVATE, -1, 0), EBADF);
    CHECK_ERR((long)syscall(SYS_mmap, NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 1), EINVAL);

    /* MAP_FIXED replaces, MAP_FIXED_NOREPLACE does not; a hint is taken where it is free. */
    map = mmap(NULL, 3 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(map, 'a', 3 * page);
    CHECK(mmap(map + page, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == map + page);
    CHECK(map[page - 1] == 'a' && map[page] == 0 && map[2 * page] == 'a');
    CHECK_ERR((long)mmap(map + page, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0), EEXIST);
    CHECK_ERR((long)mmap(map + 1, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), EINVAL);
    CHECK_EQ(munmap(map + page, page), 0);
    CHECK(mmap(map + page, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == map + page);

    /* Much address space costs nothing until it is touched. */
    char *huge = mmap(NULL, 1UL << 40, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(huge != MAP_FAILED);
    CHECK_EQ(mprotect(huge + (1UL << 39), page, PROT_READ | PROT_WRITE), 0);
    huge[1UL << 39] = 1;
    CHECK_EQ(munmap(huge, 1UL << 40), 0);
    char *populated = mmap(NULL, 64 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    CHECK(populated != MAP_FAILED && populated[63 * page] == 0);
    char *low = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    CHECK(low != MAP_FAILED && (unsigned long)low < 1UL << 31);

    /* Copy on write after fork. */
    memset(map, 'p', page);
    pid_t pid = child_fork();
    if (pid == 0) {
        map[0] = 'c';
        CHECK(map[0] == 'c' && map[1] == 'p');
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK(map[0] == 'p');

    /* Many mappings, with other protections so that they do not merge. */
    for (int i = 0; i < 1000; i++) {
        char *one = mmap(NULL, page, i % 2 ? PROT_READ : PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        MUST(one != MAP_FAILED);
    }
    return check_result();
}
