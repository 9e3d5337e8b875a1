/* mprotect(2): what each protection allows, parts of mappings, running made code, errors. */
#include "check.h"
#include <setjmp.h>
#include <sys/mman.h>

static sigjmp_buf back;
static siginfo_t last;
static void fault(int number, siginfo_t *info, void *context)
{
    (void)number, (void)context;
    last = *info;
    siglongjmp(back, 1);
}

static int can_read(volatile char *address) { return sigsetjmp(back, 1) ? 0 : ((void)*address, 1); }
static int can_write(volatile char *address) { return sigsetjmp(back, 1) ? 0 : (*address = *address, 1); }

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    struct sigaction action = { .sa_sigaction = fault, .sa_flags = SA_SIGINFO };
    MUST(sigaction(SIGSEGV, &action, NULL) == 0);
    char *map = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(map != MAP_FAILED);
    map[page] = 'k';
    CHECK_EQ(mprotect(map + page, page, PROT_READ), 0);
    CHECK(can_write(map) && can_read(map + page) && !can_write(map + page) && can_write(map + 2 * page));
    CHECK_EQ(last.si_code, SEGV_ACCERR);
    CHECK_EQ(mprotect(map + page, page, PROT_NONE), 0);
    CHECK(!can_read(map + page));
    CHECK_EQ(mprotect(map, 4 * page, PROT_READ | PROT_WRITE), 0);
    CHECK_EQ(map[page], 'k');
    CHECK_ERR(mprotect(map + 1, page, PROT_READ), EINVAL);
    CHECK_ERR(mprotect(map, page, 0x40), EINVAL);
    CHECK_EQ(mprotect(map, 0, PROT_READ), 0);
    CHECK_EQ(munmap(map + 2 * page, page), 0);
    CHECK_ERR(mprotect(map, 4 * page, PROT_READ), ENOMEM);
    CHECK_EQ(mprotect(map, page, PROT_READ | PROT_WRITE), 0);

    /* Code made at run time: written, made executable, called, changed, called again (as JIT compilers do). */
    static const unsigned char code[] = { 0xb8, 0x2a, 0, 0, 0, 0xc3 };
    memcpy(map, code, sizeof code);
    CHECK(sigsetjmp(back, 1) ? 1 : (((int (*)(void))map)(), 0));
    CHECK_EQ(mprotect(map, page, PROT_READ | PROT_EXEC), 0);
    CHECK_EQ(((int (*)(void))map)(), 42);
    CHECK(!can_write(map));
    CHECK_EQ(mprotect(map, page, PROT_READ | PROT_WRITE), 0);
    map[1] = 43;
    CHECK_EQ(mprotect(map, page, PROT_READ | PROT_EXEC), 0);
    CHECK_EQ(((int (*)(void))map)(), 43);
    /* Code with a system call of its own, in a page that is writable and executable. */
    unsigned char *both = mmap(NULL, page, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (both != MAP_FAILED) {
        static const unsigned char getpid_code[] = { 0xb8, 39, 0, 0, 0, 0x0f, 0x05, 0xc3 };
        memcpy(both, getpid_code, sizeof getpid_code);
        for (int i = 0; i < 1000; i++) MUST(((int (*)(void))both)() == getpid());
        /* The same place with another call: nothing of the first may be remembered. */
        both[1] = 110;
        for (int i = 0; i < 10; i++) CHECK_EQ(((int (*)(void))both)(), getppid());
    }
    return check_result();
}
