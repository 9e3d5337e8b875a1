/* Mapping files: private and shared, coherence with read and write, protections by open mode, past the end, after close and unlink. */
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

int main(void)
{
    long page = sysconf(_SC_PAGESIZE);
    struct sigaction action = { .sa_sigaction = fault, .sa_flags = SA_SIGINFO };
    MUST(sigaction(SIGBUS, &action, NULL) == 0 && sigaction(SIGSEGV, &action, NULL) == 0);
    int fd = make_file("f", "0123456789");
    char *shared = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    char *private = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    MUST(shared != MAP_FAILED && private != MAP_FAILED);
    CHECK(memcmp(shared, "0123456789\0\0", 12) == 0);
    shared[0] = 'S';
    char buffer[16] = { 0 };
    CHECK_EQ(pread(fd, buffer, 16, 0), 10);
    CHECK_STR(buffer, "S123456789");
    CHECK_EQ(private[0], 'S');
    private[1] = 'P';
    CHECK_EQ(shared[1], '1');
    CHECK_EQ(pwrite(fd, "W", 1, 2), 1);
    CHECK_EQ(shared[2], 'W');
    /* Stores past the end of the file but within its last page do not make it longer. */
    shared[100] = 'x';
    struct stat status;
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(status.st_size, 10);
    CHECK_EQ(msync(shared, page, MS_SYNC), 0);
    CHECK_EQ(msync(shared, page, MS_ASYNC), 0);
    CHECK_ERR(msync(shared + 1, page, MS_SYNC), EINVAL);
    CHECK_ERR(msync(shared, page, MS_SYNC | MS_ASYNC), EINVAL);

    /* Beyond the last page: SIGBUS, until the file grows. */
    char *longer = mmap(NULL, 4 * page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    MUST(longer != MAP_FAILED);
    if (sigsetjmp(back, 1) == 0) {
        CHECK_EQ(*(volatile char *)(longer + page), 0);
        CHECK(!"no SIGBUS");
    }
    CHECK_EQ(last.si_signo, SIGBUS);
    CHECK_EQ(last.si_code, BUS_ADRERR);
    CHECK(last.si_addr == longer + page);
    CHECK_EQ(ftruncate(fd, 3 * page), 0);
    longer[page] = 'g';
    longer[3 * page - 1] = 'e';
    CHECK_EQ(pread(fd, buffer, 1, 3 * page - 1), 1);
    CHECK_EQ(buffer[0], 'e');
    CHECK_EQ(ftruncate(fd, page), 0);
    if (sigsetjmp(back, 1) == 0) {
        longer[page] = 'x';
        CHECK(!"no SIGBUS after truncation");
    }
    CHECK_EQ(last.si_signo, SIGBUS);
    CHECK_EQ(ftruncate(fd, 2 * page), 0);
    CHECK_EQ(longer[page], 0);

    /* An offset. */
    CHECK_EQ(pwrite(fd, "second page", 11, page), 11);
    char *offset = mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, page);
    MUST(offset != MAP_FAILED);
    CHECK_STR(offset, "second page");
    CHECK_ERR((long)mmap(NULL, page, PROT_READ, MAP_PRIVATE, fd, 100), EINVAL);

    /* Protections. */
    int read_only = open("f", O_RDONLY), write_only = open("f", O_WRONLY);
    CHECK_ERR((long)mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, read_only, 0), EACCES);
    CHECK_ERR((long)mmap(NULL, page, PROT_READ, MAP_SHARED, write_only, 0), EACCES);
    char *ok = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, read_only, 0);
    CHECK(ok != MAP_FAILED);
    char *view = mmap(NULL, page, PROT_READ, MAP_SHARED, read_only, 0);
    CHECK(view != MAP_FAILED);
    CHECK_ERR(mprotect(view, page, PROT_READ | PROT_WRITE), EACCES);
    CHECK_EQ(shared[0], view[0]);
    shared[0] = 'T';
    CHECK_EQ(view[0], 'T');
    int ends[2], folder = open(".", O_RDONLY);
    MUST(pipe(ends) == 0);
    CHECK_ERR((long)mmap(NULL, page, PROT_READ, MAP_PRIVATE, ends[0], 0), ENODEV);
    CHECK_ERR((long)mmap(NULL, page, PROT_READ, MAP_PRIVATE, folder, 0), ENODEV);

    /* The mapping outlives descriptor and name. */
    close(fd);
    CHECK_EQ(unlink("f"), 0);
    shared[3] = 'U';
    CHECK_EQ(view[3], 'U');

    /* Between processes: parent and child, and strangers who open the same file. */
    int data = make_file("g", "");
    CHECK_EQ(ftruncate(data, page), 0);
    volatile int *numbers = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, data, 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        int again = open("g", O_RDWR);
        volatile int *other = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, again, 0);
        MUST(other != MAP_FAILED);
        other[0] = 1;
        while (numbers[1] != 2) usleep(100);
        numbers[2] = 3;
        child_exit();
    }
    while (numbers[0] != 1) usleep(100);
    numbers[1] = 2;
    CHECK_CHILD(pid);
    CHECK_EQ(numbers[2], 3);
    int word = 0;
    CHECK_EQ(pread(data, &word, 4, 8), 4);
    CHECK_EQ(word, 3);

    /* A mapping of a program file. */
    int program = open("/bin/sh", O_RDONLY);
    char *text = mmap(NULL, page, PROT_READ | PROT_EXEC, MAP_PRIVATE, program, 0);
    CHECK(text != MAP_FAILED && memcmp(text, "\177ELF", 4) == 0);
    return check_result();
}
