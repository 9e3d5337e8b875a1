/* How the dynamic linker maps a library: the whole range first, then each segment over that. And whatever else a program may do
 * in between, with the same calls. */
#include "check.h"
#include <elf.h>
#include <link.h>
#include <sys/mman.h>

#define MOST 8
#define FIRST (MAP_PRIVATE | MAP_DENYWRITE)
#define OVER (FIRST | MAP_FIXED)

static struct segment { unsigned long start, length, offset, file_bytes; int protection; } segments[MOST];
static int count;
static unsigned long whole, page;
static char name[PATH_MAX];

static int find(struct dl_phdr_info *info, size_t size, void *data)
{
    (void)size, (void)data;
    if (!strstr(info->dlpi_name, "libc.so")) return 0;
    strcpy(name, info->dlpi_name);
    return 1;
}

static void read_headers(int fd)
{
    ElfW(Ehdr) header;
    ElfW(Phdr) load;
    MUST(pread(fd, &header, sizeof header, 0) == sizeof header);
    for (int i = 0; i < header.e_phnum && count < MOST; i++) {
        MUST(pread(fd, &load, sizeof load, header.e_phoff + i * sizeof load) == sizeof load);
        if (load.p_type != PT_LOAD) continue;
        struct segment *one = &segments[count++];
        one->start = load.p_vaddr & -page;
        one->offset = load.p_offset & -page;
        one->length = ((load.p_vaddr + load.p_filesz + page - 1) & -page) - one->start;
        one->file_bytes = load.p_vaddr + load.p_filesz - one->start;
        one->protection = (load.p_flags & PF_R ? PROT_READ : 0) | (load.p_flags & PF_W ? PROT_WRITE : 0) |
                          (load.p_flags & PF_X ? PROT_EXEC : 0);
        whole = load.p_vaddr + load.p_memsz;
    }
}

static char *map_first(int fd)
{
    char *base = mmap(NULL, whole, segments[0].protection, FIRST, fd, segments[0].offset);
    MUST(base != MAP_FAILED);
    return base;
}

static bool map_over(char *base, int index, int fd)
{
    struct segment *one = &segments[index];
    char *at = base + one->start;
    return mmap(at, one->length, one->protection, OVER, fd, one->offset) == at;
}

/* Code may be another one in memory, but its bytes can be read. */
static bool is_there(char *base, int index, int fd)
{
    struct segment *one = &segments[index];
    char *bytes = malloc(one->file_bytes);
    MUST(pread(fd, bytes, one->file_bytes, one->offset) == (long)one->file_bytes);
    bool same = memcmp(bytes, base + one->start, one->file_bytes) == 0 || one->protection & PROT_EXEC;
    free(bytes);
    return same;
}

static void check_all(char *base, int fd, const char *when)
{
    for (int i = 0; i < count; i++)
        if (!is_there(base, i, fd)) CHECK_FAIL("segment %d is not the file's: %s", i, when);
    munmap(base, whole);
}

static void map_rest(char *base, int from, int fd)
{
    for (int i = from; i < count; i++) CHECK(map_over(base, i, fd));
}

int main(void)
{
    page = sysconf(_SC_PAGESIZE);
    dl_iterate_phdr(find, NULL);
    if (!name[0]) {
        puts("no libc.so in this program");
        return 77;
    }
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    read_headers(fd);
    MUST(count > 2);
    int last = count - 1;
    struct segment *data = &segments[last];
    char *base;

    for (int i = 0; i < 5; i++) {
        base = map_first(fd);
        map_rest(base, 1, fd);
        check_all(base, fd, "as the linker does");
    }
    base = map_first(fd);
    for (int i = last; i > 0; i--) CHECK(map_over(base, i, fd));
    check_all(base, fd, "the other way round");

    base = map_first(fd);
    CHECK_EQ(munmap(base + segments[1].start, segments[1].length), 0);
    map_rest(base, 1, fd);
    check_all(base, fd, "one was unmapped before");

    base = map_first(fd);
    CHECK_EQ(mprotect(base + data->start, data->length, PROT_NONE), 0);
    map_rest(base, 1, fd);
    check_all(base, fd, "one was protected before");

    base = map_first(fd);
    CHECK(mmap(base + data->start, data->length, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) ==
          base + data->start);
    map_rest(base, 1, fd);
    check_all(base, fd, "zeros were mapped before");

    base = map_first(fd);
    char *place = mmap(NULL, data->length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *moved = mremap(base + data->start, page, page, MREMAP_MAYMOVE | MREMAP_FIXED, place);
    CHECK(moved == place);
    map_rest(base, 1, fd);
    check_all(base, fd, "one was moved away before");
    munmap(moved, data->length);

    /* What was written is gone when it is mapped once more. */
    base = map_first(fd);
    map_rest(base, 1, fd);
    memset(base + data->start, 'w', data->file_bytes);
    CHECK(map_over(base, last, fd));
    check_all(base, fd, "it is mapped anew");

    /* The descriptor has been closed, or is another file's. */
    int copy = dup(fd);
    base = map_first(copy);
    CHECK(map_over(base, 1, copy));
    close(copy);
    errno = 0;
    CHECK(!map_over(base, 2, copy) && errno == EBADF);
    int zero = open("/dev/zero", O_RDONLY);
    CHECK_EQ(dup2(zero, copy), copy);
    CHECK(map_over(base, 2, copy));
    CHECK(base[segments[2].start] == 0 && base[segments[2].start + page - 1] == 0);
    close(copy);
    close(zero);
    map_rest(base, 2, fd);
    check_all(base, fd, "after another descriptor");

    /* A child goes on with what its parent began. */
    base = map_first(fd);
    pid_t pid = child_fork();
    if (pid == 0) {
        map_rest(base, 1, fd);
        check_all(base, fd, "in a child");
        child_exit();
    }
    CHECK_CHILD(pid);
    map_rest(base, 1, fd);
    check_all(base, fd, "behind a child's");

    /* Only the beginning is mapped, or with another protection: that is as the file has it. */
    base = mmap(NULL, 2 * page, PROT_READ, FIRST, fd, 0);
    CHECK(base != MAP_FAILED && memcmp(base, ELFMAG, SELFMAG) == 0);
    munmap(base, 2 * page);
    base = mmap(NULL, whole, PROT_READ | PROT_WRITE, FIRST, fd, 0);
    char *bytes = malloc(page);
    CHECK(base != MAP_FAILED && pread(fd, bytes, page, data->start) == (long)page);
    CHECK(memcmp(bytes, base + data->start, page) == 0);
    return check_result();
}
