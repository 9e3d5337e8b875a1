/* A much-used file: its offset is one for all who share the open file, whichever way they came to it, and a descriptor
 * that is closed or replaced is what it is now and nothing else. */
#include "check.h"
#include <pthread.h>
#include <sched.h>
#include <spawn.h>
#include <sys/syscall.h>

/* So many uses that whatever a kernel does about much-used files has happened. */
static void heat(int fd)
{
    char byte;
    for (int i = 0; i < 40; i++) MUST(pread(fd, &byte, 1, 0) == 1);
}

static char read_one(int fd)
{
    char byte = 0;
    CHECK_EQ(read(fd, &byte, 1), 1);
    return byte;
}

static int numbered(const char *name, char first)
{
    char text[64];
    for (int i = 0; i < 64; i++) text[i] = (char)(first + i);
    text[63] = 0;
    return make_file(name, text);
}

static void *close_in_thread(void *fd)
{
    CHECK_EQ(close((int)(long)fd), 0);
    return NULL;
}

static void shared_by_fork(void)
{
    int fd = numbered("fork", '0');
    heat(fd);
    CHECK_EQ(lseek(fd, 5, SEEK_SET), 5);
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(read_one(fd), '5');
        heat(fd);
        CHECK_EQ(read_one(fd), '6');
        CHECK_EQ(lseek(fd, 3, SEEK_CUR), 10);
        child_exit();
    }
    CHECK_EQ(wait_status(child), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 10);
    CHECK_EQ(read_one(fd), ':');
    close(fd);
}

static void shared_by_dup(void)
{
    int fd = numbered("dup", 'A'), copy = dup(fd);
    heat(fd);
    CHECK_EQ(lseek(fd, 7, SEEK_SET), 7);
    CHECK_EQ(read_one(copy), 'H');
    heat(copy);
    CHECK_EQ(read_one(fd), 'I');
    CHECK_EQ(read_one(copy), 'J');
    CHECK_EQ(close(fd), 0);
    CHECK_EQ(read_one(copy), 'K');
    char path[64], line[64];
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", copy);
    FILE *information = fopen(path, "r");
    MUST(information && fgets(line, sizeof line, information));
    CHECK_STR(line, "pos:\t11\n");
    fclose(information);
    close(copy);
}

static void shared_with_programs(void)
{
    int fd = numbered("programs", 'a');
    heat(fd);
    CHECK_EQ(lseek(fd, 2, SEEK_SET), 2);
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        dup2(fd, 0);
        execlp("sh", "sh", "-c", "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do dd bs=1 count=1 2>/dev/null; done > programs.out", NULL);
        _exit(9);
    }
    CHECK_EQ(wait_status(child), 0);
    CHECK_STR(read_file("programs.out"), "cdefghijklmn");
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 14);
    close(fd);
}

static void vfork_has_its_own_table(void)
{
    int first = numbered("first", '0'), second = numbered("second", 'A');
    heat(first);
    heat(second);
    pid_t child = vfork();
    if (child == 0) {
        char byte = 0;
        /* In the child's table only. */
        if (dup2(second, first) != first || pread(first, &byte, 1, 3) != 1 || byte != 'D') _exit(1);
        for (int i = 0; i < 40; i++)
            if (pread(first, &byte, 1, 4) != 1 || byte != 'E') _exit(2);
        close(second);
        if (pread(second, &byte, 1, 0) != -1 || errno != EBADF) _exit(3);
        _exit(0);
    }
    CHECK_EQ(wait_status(child), 0);
    char byte = 0;
    CHECK(pread(first, &byte, 1, 3) == 1 && byte == '3');
    CHECK(pread(second, &byte, 1, 3) == 1 && byte == 'D');
    heat(first);
    CHECK(pread(first, &byte, 1, 2) == 1 && byte == '2');
    close(first);
    close(second);
}

static void numbers_are_used_again(void)
{
    char byte = 0;
    for (int i = 0; i < 50; i++) {
        int one = numbered("one", '0'), two = numbered("two", 'A');
        heat(one);
        heat(two);
        CHECK_EQ(close(one), 0);
        CHECK_ERR(read(one, &byte, 1), EBADF);
        CHECK_ERR(lseek(one, 0, SEEK_CUR), EBADF);
        CHECK_ERR(write(one, "x", 1), EBADF);
        int three = numbered("three", 'a');
        CHECK_EQ(three, one);
        CHECK(pread(three, &byte, 1, 1) == 1 && byte == 'b');
        heat(three);
        CHECK(pread(three, &byte, 1, 1) == 1 && byte == 'b');
        CHECK_EQ(dup2(two, three), three);
        CHECK(pread(three, &byte, 1, 1) == 1 && byte == 'B');
        heat(three);
        int ends[2];
        MUST(pipe(ends) == 0);
        CHECK_EQ(dup3(ends[0], three, O_CLOEXEC), three);
        CHECK_EQ(write(ends[1], "p", 1), 1);
        CHECK_EQ(read_one(three), 'p');
        CHECK_ERR(lseek(three, 0, SEEK_CUR), ESPIPE);
        close(ends[0]);
        close(ends[1]);
        close(three);
        heat(two);
        CHECK_EQ(syscall(SYS_close_range, two, two, 0), 0);
        CHECK_ERR(pread(two, &byte, 1, 0), EBADF);
    }
    int fd = numbered("thread", '0');
    heat(fd);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, close_in_thread, (void *)(long)fd) == 0);
    pthread_join(thread, NULL);
    CHECK_ERR(pread(fd, &byte, 1, 0), EBADF);
}

static int at_large;

static int in_shared_table(void *argument)
{
    (void)argument;
    char byte;
    if (read(at_large, &byte, 1) != 1 || byte != '3') return 1;
    for (int i = 0; i < 40; i++)
        if (pread(at_large, &byte, 1, 0) != 1) return 2;
    return close(at_large) == 0 ? 0 : 3;
}

static void *unshares(void *argument)
{
    int fd = (int)(long)argument;
    char byte = 0;
    CHECK_EQ(unshare(CLONE_FILES), 0);
    int other = numbered("unshared", 'a');
    CHECK_EQ(dup2(other, fd), fd);
    for (int i = 0; i < 40; i++) CHECK(pread(fd, &byte, 1, 1) == 1 && byte == 'b');
    return NULL;
}

static void tables_that_are_shared_or_not(void)
{
    static char stack[65536] __attribute__((aligned(16)));
    char byte = 0;
    at_large = numbered("large", '0');
    heat(at_large);
    lseek(at_large, 3, SEEK_SET);
    pid_t child = clone(in_shared_table, stack + sizeof stack, CLONE_FILES | SIGCHLD, NULL);
    MUST(child > 0);
    CHECK_EQ(wait_status(child), 0);
    CHECK_ERR(pread(at_large, &byte, 1, 0), EBADF);

    int fd = numbered("mine", '0');
    heat(fd);
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, unshares, (void *)(long)fd) == 0);
    pthread_join(thread, NULL);
    for (int i = 0; i < 40; i++) CHECK(pread(fd, &byte, 1, 1) == 1 && byte == '1');
    close(fd);
}

/* Who writes through one open file does not overwrite who else does. */
static void two_writers(void)
{
    enum { LINES = 400 };
    int fd = open("writers", O_RDWR | O_CREAT | O_TRUNC, 0644);
    MUST(fd >= 0);
    pid_t child[2];
    for (int who = 0; who < 2; who++) {
        child[who] = child_fork();
        if (child[who] == 0) {
            for (int i = 0; i < LINES; i++) CHECK_EQ(write(fd, who ? "bbbbbbb\n" : "aaaaaaa\n", 8), 8);
            child_exit();
        }
    }
    for (int who = 0; who < 2; who++) CHECK_EQ(wait_status(child[who]), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 2 * LINES * 8);
    char line[8];
    int count[2] = {0, 0};
    for (int i = 0; i < 2 * LINES; i++) {
        MUST(pread(fd, line, 8, i * 8) == 8);
        if (!memcmp(line, "aaaaaaa\n", 8)) count[0]++;
        if (!memcmp(line, "bbbbbbb\n", 8)) count[1]++;
    }
    CHECK_EQ(count[0], LINES);
    CHECK_EQ(count[1], LINES);
    close(fd);
}

int main(void)
{
    shared_by_fork();
    shared_by_dup();
    shared_with_programs();
    vfork_has_its_own_table();
    numbers_are_used_again();
    tables_that_are_shared_or_not();
    two_writers();
    return check_result();
}
