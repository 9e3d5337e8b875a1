/* Small files that are mapped to be read, and where their mappings were: nothing is there any more, whatever is kept for the next one.
 * Run where the files were there before: `short` (ten times its first letter), `long` (3,000), `two` (5,000).
 * With an argument: how many page faults a thousand such mappings take. */
#include "check.h"
#include <setjmp.h>
#include <sys/mman.h>
#include <sys/resource.h>

#define PAGE 4096L

static __thread sigjmp_buf behind;
static __thread siginfo_t fault;

static void on_fault(int signal, siginfo_t *info, void *unused)
{
    (void)signal, (void)unused;
    fault = *info;
    siglongjmp(behind, 1);
}

/* si_code of what touching it takes; 0: it is there. */
static int touched(const char *address, bool writes)
{
    fault.si_code = 0;
    if (sigsetjmp(behind, 1) == 0) {
        if (writes)
            *(volatile char *)address = 1;
        else
            (void)*(volatile const char *)address;
    } else {
        CHECK(fault.si_addr == address);
    }
    return fault.si_code;
}

static char *mapped(const char *name, long length, char first)
{
    struct stat status;
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0 && fstat(fd, &status) == 0);
    char *address = mmap(NULL, length, PROT_READ, MAP_PRIVATE, fd, 0);
    MUST(address != MAP_FAILED);
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(address[0], first);
    /* Behind the end there are zeros, whatever was there before. */
    long page_end = (length + PAGE - 1) / PAGE * PAGE, end = status.st_size < page_end ? status.st_size : page_end;
    CHECK_EQ(address[end - 1], first);
    bool is_clean = true;
    for (long at = end; at < page_end; at++) is_clean &= address[at] == 0;
    CHECK(is_clean);
    CHECK_EQ(touched(address, true), SEGV_ACCERR);
    return address;
}

static char *unmapped(const char *name, long length, char first)
{
    char *address = mapped(name, length, first);
    CHECK_EQ(munmap(address, length), 0);
    return address;
}

/* Whether /proc/self/maps has anything at this address. */
static bool is_shown(const char *address)
{
    char line[600];
    unsigned long start, end;
    bool found = false;
    FILE *maps = fopen("/proc/self/maps", "r");
    MUST(maps != NULL);
    while (fgets(line, sizeof line, maps)) {
        if (sscanf(line, "%lx-%lx", &start, &end) == 2) found |= (unsigned long)address >= start && (unsigned long)address < end;
    }
    fclose(maps);
    return found;
}

/* What cannot be done with memory that is not there. */
static void nothing_is_there(void)
{
    char *address = unmapped("long", 3000, 'l');
    CHECK_EQ(touched(address, false), SEGV_MAPERR);
    CHECK_EQ(touched(address + 3000, true), SEGV_MAPERR);
    address = unmapped("long", 3000, 'l');
    int fd = open("written", O_RDWR | O_CREAT | O_TRUNC, 0644);
    CHECK_ERR(write(fd, address, 10), EFAULT);
    CHECK_EQ(write(fd, "0123456789", 10), 10);
    CHECK_ERR(pread(fd, address, 10, 0), EFAULT);
    CHECK_ERR(open(address, O_RDONLY), EFAULT);
    CHECK_EQ(close(fd), 0);
    address = unmapped("long", 3000, 'l');
    CHECK_ERR(mprotect(address, PAGE, PROT_READ), ENOMEM);
    CHECK_EQ(touched(address, false), SEGV_MAPERR);
    address = unmapped("long", 3000, 'l');
    CHECK_ERR(madvise(address, PAGE, MADV_NORMAL), ENOMEM);
    unsigned char resident;
    address = unmapped("long", 3000, 'l');
    CHECK_ERR(mincore(address, PAGE, &resident), ENOMEM);
    address = unmapped("long", 3000, 'l');
    CHECK_ERR(msync(address, PAGE, MS_ASYNC), ENOMEM);
    address = unmapped("long", 3000, 'l');
    CHECK(mremap(address, PAGE, 2 * PAGE, MREMAP_MAYMOVE) == MAP_FAILED && errno == EFAULT);
    address = unmapped("long", 3000, 'l');
    CHECK(!is_shown(address));
    address = unmapped("long", 3000, 'l');
    CHECK_EQ(munmap(address, PAGE), 0);
    CHECK_EQ(touched(address, false), SEGV_MAPERR);
}

/* What can come in its place. */
static void room_for_others(void)
{
    char *address = unmapped("long", 3000, 'l');
    char *other = mmap(address, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(other == address);
    memset(other, 'o', PAGE);
    unmapped("short", 10, 's');
    unmapped("long", 3000, 'l');
    CHECK(other[0] == 'o' && other[PAGE - 1] == 'o');
    CHECK_EQ(munmap(other, PAGE), 0);
    address = unmapped("long", 3000, 'l');
    other = mmap(address, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    CHECK(other == address);
    unmapped("short", 10, 's');
    CHECK_EQ(touched(other, true), 0);
    CHECK_EQ(munmap(other, PAGE), 0);
    /* A mapping grows where it is. */
    char *room = mmap(NULL, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(room != MAP_FAILED);
    address = mapped("long", 3000, 'l');
    CHECK(mremap(address, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + PAGE) == room + PAGE);
    CHECK_EQ(munmap(room + PAGE, PAGE), 0);
    CHECK(mremap(room, PAGE, 2 * PAGE, 0) == room);
    CHECK_EQ(touched(room + PAGE, true), 0);
    CHECK_EQ(munmap(room, 2 * PAGE), 0);
}

/* One file's bytes are not found in another one's mapping, nor what the program has written there. */
static void one_behind_the_other(void)
{
    for (int round = 0; round < 50; round++) {
        unmapped("long", 3000, 'l');
        unmapped("short", 10, 's');
        char *both[] = {mapped("two", 5000, 't'), mapped("short", 4096, 's'), mapped("long", 3000, 'l')};
        CHECK_EQ(mprotect(both[1], PAGE, PROT_READ | PROT_WRITE), 0);
        memset(both[1], 'w', PAGE);
        CHECK_EQ(munmap(both[0], PAGE), 0);
        CHECK_EQ(touched(both[0], false), SEGV_MAPERR);
        CHECK_EQ(both[0][PAGE], 't');
        CHECK_EQ(munmap(both[1], 1), 0);
        CHECK_EQ(munmap(both[2], 3000), 0);
        unmapped("short", 10, 's');
        CHECK_EQ(munmap(both[0] + PAGE, PAGE), 0);
        unmapped("two", 5000, 't');
        unmapped("two", 4000, 't');
    }
    /* Large holes are made over several. */
    char *room = mmap(NULL, 9 * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(room != MAP_FAILED);
    for (int index = 1; index < 8; index++) {
        char *address = mapped("short", 10, 's');
        CHECK(mremap(address, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, room + index * PAGE) == room + index * PAGE);
        if (index & 1) CHECK_EQ(munmap(room + index * PAGE, PAGE), 0);
    }
    CHECK_EQ(munmap(room, 9 * PAGE), 0);
    for (int index = 0; index < 9; index++) CHECK_EQ(touched(room + index * PAGE, false), SEGV_MAPERR);
}

/* What was said of one mapping does not stand for the next one; and a child has what its parent has. */
static void children(void)
{
    char *address = mapped("long", 3000, 'l');
    CHECK_EQ(madvise(address, PAGE, MADV_DONTFORK), 0);
    CHECK_EQ(munmap(address, PAGE), 0);
    address = mapped("short", 10, 's');
    char *gone = unmapped("long", 3000, 'l');
    for (int round = 0; round < 20; round++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            CHECK_EQ(touched(address, false), 0);
            CHECK_EQ(address[9], 's');
            CHECK_EQ(touched(gone, false), SEGV_MAPERR);
            unmapped("long", 3000, 'l');
            CHECK_EQ(munmap(address, PAGE), 0);
            unmapped("long", 3000, 'l');
            _exit(check_result());
        }
        unmapped("long", 3000, 'l');
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK_EQ(status, 0);
        gone = unmapped("long", 3000, 'l');
    }
    CHECK_EQ(address[9], 's');
    CHECK_EQ(munmap(address, PAGE), 0);
}

static void *maps(void *number)
{
    for (int round = 0; round < 400; round++) {
        char *first = mapped("long", 3000, 'l'), *second = mapped(number ? "short" : "two", number ? 10 : 5000, number ? 's' : 't');
        CHECK_EQ(munmap(first, 3000), 0);
        if (round % 3 == 0) {
            char *third = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            MUST(third != MAP_FAILED);
            CHECK_EQ(third[round], 0);
            third[round] = 1;
            CHECK_EQ(munmap(third, PAGE), 0);
        }
        CHECK_EQ(second[9], number ? 's' : 't');
        CHECK_EQ(munmap(second, number ? 10 : 5000), 0);
    }
    return NULL;
}

static void threads(void)
{
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, maps, NULL) == 0);
    maps(&thread);
    pthread_join(thread, NULL);
}

int main(int count, char **arguments)
{
    (void)arguments;
    struct sigaction action = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    if (count > 1) {
        struct rusage before, after;
        for (int round = 0; round < 1010; round++) {
            if (round == 10) getrusage(RUSAGE_SELF, &before);
            int fd = open(round & 1 ? "short" : "long", O_RDONLY);
            MUST(fd >= 0);
            char *address = mmap(NULL, 10, PROT_READ, MAP_PRIVATE, fd, 0);
            MUST(address != MAP_FAILED && close(fd) == 0 && address[9] && munmap(address, 10) == 0);
        }
        getrusage(RUSAGE_SELF, &after);
        printf("%ld\n", after.ru_minflt - before.ru_minflt);
        return 0;
    }
    MUST(sigaction(SIGSEGV, &action, NULL) == 0);
    nothing_is_there();
    room_for_others();
    one_behind_the_other();
    children();
    threads();
    return check_result();
}
