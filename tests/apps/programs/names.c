/* Names that are not there, or no links, asked for again and again by their absolute names until somebody else changes that. Run in a
 * directory that may be written, where these were before: the directories `in`, `a/b`, `no-link`, `searched`, `root/only-there`,
 * `mount`, `told` and `many`, the files `with/name` and `shown/name`, and the link `way` to `a/b`. */
#include "check.h"
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/un.h>

enum { OFTEN = 5 };

static char here[200];

/* A name in this directory, absolute. Good for the next four of these. */
static char *at(const char *name)
{
    static char names[4][256];
    static int next;
    char *result = names[next++ % 4];
    snprintf(result, sizeof names[0], "%s/%s", here, name);
    return result;
}

static int is_there(const char *name)
{
    struct stat status;
    char target[64];
    int found = access(name, F_OK) == 0;
    /* However it is asked for. */
    CHECK_EQ(stat(name, &status) == 0, found);
    CHECK_EQ(lstat(name, &status) == 0, found);
    CHECK_EQ(fstatat(AT_FDCWD, name, &status, 0) == 0, found);
    CHECK_EQ(faccessat(AT_FDCWD, name, F_OK, 0) == 0, found);
    CHECK_ERR(readlink(name, target, sizeof target), found ? EINVAL : ENOENT);
    int fd = open(name, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
    int error = errno;
    /* A socket cannot be opened. */
    if (fd < 0) CHECK_EQ(error, found ? ENXIO : ENOENT);
    else CHECK_EQ(close(fd), 0);
    return found;
}

static void is_not_there(const char *name)
{
    for (int i = 0; i < OFTEN; i++) CHECK_EQ(is_there(name), 0);
}

static void is_no_link(const char *name)
{
    char target[64];
    for (int i = 0; i < OFTEN; i++) CHECK_ERR(readlink(name, target, sizeof target), EINVAL);
}

/* In another process, which ends. */
static void elsewhere(void (*work)(const char *), const char *name)
{
    pid_t child = fork();
    if (child == 0) {
        work(name);
        _exit(check_result());
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
}

static void new_file(const char *name) { MUST(close(open(name, O_CREAT | O_WRONLY | O_EXCL, 0644)) == 0); }
static void new_directory(const char *name) { MUST(mkdir(name, 0755) == 0); }
static void new_node(const char *name) { MUST(mkfifo(name, 0644) == 0); }

static void new_socket(const char *name)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    snprintf(address.sun_path, sizeof address.sun_path, "%s", name);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    MUST(fd >= 0 && bind(fd, (void *)&address, sizeof address) == 0);
    close(fd);
}

static void give_link(const char *name) { MUST(link(at("file"), name) == 0); }
static void move_there(const char *name) { MUST(rename(at("moved"), name) == 0); }

static void comes(void)
{
    static void (*const ways[])(const char *) = {new_file, new_directory, new_node, new_socket, give_link, move_there};
    new_file(at("file"));
    for (unsigned way = 0; way < sizeof ways / sizeof *ways; way++) {
        for (int other = 0; other < 2; other++) {
            char *name = at("in/new");
            new_file(at("moved"));
            is_not_there(name);
            if (other) elsewhere(ways[way], name);
            else ways[way](name);
            CHECK_EQ(is_there(name), 1);
            is_no_link(name);
            MUST((ways[way] == new_directory ? rmdir(name) : unlink(name)) == 0);
            is_not_there(name);
            unlink(at("moved"));
        }
    }
}

/* What is above the name changes. */
static void way_changes(void)
{
    is_not_there(at("a/b/name"));
    is_not_there(at("a/b/name/below"));
    is_not_there(at("way/name"));
    is_not_there(at("a/../way/./name"));
    MUST(rename(at("a/b"), at("gone")) == 0);
    is_not_there(at("a/b/name"));
    MUST(rename(at("with"), at("a/b")) == 0);
    CHECK_EQ(is_there(at("a/b/name")), 1);
    CHECK_EQ(is_there(at("way/name")), 1);
    CHECK_EQ(is_there(at("a/../way/./name")), 1);
    is_not_there(at("with/name"));
    is_not_there(at("gone/name"));
    MUST(renameat2(AT_FDCWD, at("a/b"), AT_FDCWD, at("gone"), RENAME_EXCHANGE) == 0);
    is_not_there(at("a/b/name"));
    is_not_there(at("way/name"));
    CHECK_EQ(is_there(at("gone/name")), 1);
    /* By a link on the way. */
    MUST(unlink(at("way")) == 0 && symlink("gone", at("way")) == 0);
    CHECK_EQ(is_there(at("way/name")), 1);
    CHECK_EQ(is_there(at("a/../way/./name")), 1);
    MUST(unlink(at("gone/name")) == 0);
    is_not_there(at("way/name"));
    MUST(rmdir(at("gone")) == 0);
    is_not_there(at("way/name"));
}

static void links(void)
{
    char target[64];
    struct stat status;
    is_no_link(at("no-link"));
    is_no_link(here);
    CHECK_ERR(readlink(at("no-link"), target, 0), EINVAL);
    MUST(rmdir(at("no-link")) == 0);
    is_not_there(at("no-link"));
    MUST(symlink("nowhere", at("no-link")) == 0);
    /* It is there, and leads nowhere. */
    for (int i = 0; i < OFTEN; i++) {
        CHECK_EQ(readlink(at("no-link"), target, sizeof target), 7);
        CHECK_EQ(lstat(at("no-link"), &status), 0);
        CHECK_ERR(stat(at("no-link"), &status), ENOENT);
        CHECK_ERR(open(at("no-link"), O_RDONLY), ENOENT);
        CHECK_ERR(open(at("no-link"), O_RDONLY | O_NOFOLLOW), ELOOP);
    }
    MUST(mkdir(at("nowhere"), 0755) == 0);
    CHECK_EQ(stat(at("no-link"), &status), 0);
    MUST(rmdir(at("nowhere")) == 0 && unlink(at("no-link")) == 0);
    is_not_there(at("no-link"));
    CHECK_ERR(readlinkat(AT_FDCWD, at("no-link"), target, 0), EINVAL);
}

/* What is asked for otherwise, where the name is not there. */
static void other_calls(void)
{
    static char *arguments[] = {"x", NULL};
    char *name = at("in/new");
    is_not_there(name);
    for (int i = 0; i < OFTEN; i++) {
        CHECK_ERR(execve(name, arguments, arguments + 1), ENOENT);
        CHECK_ERR(open(name, O_RDONLY | O_DIRECTORY), ENOENT);
        CHECK_ERR(open(name, O_WRONLY | O_TRUNC), ENOENT);
        CHECK_ERR(access(name, 8), EINVAL);
        CHECK_ERR(unlink(name), ENOENT);
        CHECK_ERR(chdir(name), ENOENT);
    }
    int fd = open(name, O_RDWR | O_CREAT, 0644);
    CHECK(fd >= 0);
    close(fd);
    CHECK_ERR(open(name, O_RDWR | O_CREAT | O_EXCL, 0644), EEXIST);
    unlink(name);
    /* A name that is too long for anything, and one that cannot be read. */
    static char longest[5000];
    memset(longest, '/', sizeof longest - 1);
    for (int i = 0; i < OFTEN; i++) {
        CHECK_ERR(access(longest, F_OK), ENAMETOOLONG);
        CHECK_ERR(access((char *)8, F_OK), EFAULT);
    }
    CHECK_ERR(readlinkat(-1, name, longest, sizeof longest), ENOENT);
}

/* Others may not search there any more, or may again. */
static void permissions(void)
{
    if (geteuid() != 0) return;
    char *name = at("searched/new");
    is_not_there(name);
    int ends[2], back[2];
    MUST(pipe(ends) == 0 && pipe(back) == 0);
    pid_t child = fork();
    if (child == 0) {
        char byte;
        if (setgid(65534) != 0 || setuid(65534) != 0) _exit(2);
        for (int i = 0; i < OFTEN; i++) CHECK_ERR(access(name, F_OK), ENOENT);
        MUST(write(back[1], "", 1) == 1 && read(ends[0], &byte, 1) == 1);
        for (int i = 0; i < OFTEN; i++) CHECK_ERR(access(name, F_OK), EACCES);
        MUST(write(back[1], "", 1) == 1 && read(ends[0], &byte, 1) == 1);
        for (int i = 0; i < OFTEN; i++) CHECK_ERR(access(name, F_OK), ENOENT);
        _exit(check_result());
    }
    char byte;
    int status;
    MUST(read(back[0], &byte, 1) == 1 && chmod(at("searched"), 0700) == 0);
    is_not_there(name);
    MUST(write(ends[1], "", 1) == 1 && read(back[0], &byte, 1) == 1 && chmod(at("searched"), 0755) == 0);
    MUST(write(ends[1], "", 1) == 1 && waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    for (int i = 0; i < 2; i++) close(ends[i]), close(back[i]);
}

/* Another root: names mean something else there, for its children too. */
static void roots(void)
{
    if (geteuid() != 0) return;
    for (int i = 0; i < OFTEN; i++) CHECK_EQ(is_there("/only-there"), 0);
    pid_t child = fork();
    if (child == 0) {
        MUST(chroot(at("root")) == 0);
        for (int i = 0; i < OFTEN; i++) CHECK_EQ(is_there("/only-there"), 1);
        for (int i = 0; i < OFTEN; i++) CHECK_EQ(is_there(here), 0);
        pid_t grandchild = fork();
        if (grandchild == 0) _exit(!is_there("/only-there") || is_there(here));
        int status;
        MUST(waitpid(grandchild, &status, 0) == grandchild);
        CHECK_EQ(status, 0);
        _exit(check_result());
    }
    int status;
    MUST(waitpid(child, &status, 0) == child);
    CHECK_EQ(status, 0);
    CHECK_EQ(is_there("/only-there"), 0);
    CHECK_EQ(is_there(here), 1);
}

/* What is mounted there, where that may be done. */
static void mounts(void)
{
    is_not_there(at("mount/name"));
    if (mount(at("shown"), at("mount"), NULL, MS_BIND, NULL) == 0) {
        CHECK_EQ(is_there(at("mount/name")), 1);
        MUST(umount(at("mount")) == 0);
        is_not_there(at("mount/name"));
    }
}

static atomic_int word;

static void *makes(void *name)
{
    for (int round = 1; round <= 400; round++) {
        while (atomic_load(&word) != 2 * round - 1) sched_yield();
        if (round % 2) new_file(name);
        else MUST(unlink(name) == 0);
        /* Memory alone tells. */
        atomic_store(&word, 2 * round);
    }
    return NULL;
}

/* Whoever hears that it is there, from whomever, finds it. */
static void another_thread(void)
{
    pthread_t thread;
    static char name[256];
    snprintf(name, sizeof name, "%s", at("told/new"));
    MUST(pthread_create(&thread, NULL, makes, name) == 0);
    for (int round = 1; round <= 400; round++) {
        for (int i = 0; i < OFTEN; i++) CHECK_EQ(access(name, F_OK), round % 2 ? -1 : 0);
        atomic_store(&word, 2 * round - 1);
        while (atomic_load(&word) != 2 * round) sched_yield();
        CHECK_EQ(access(name, F_OK), round % 2 ? 0 : -1);
    }
    pthread_join(thread, NULL);
}

/* More names than anybody remembers, in one directory and in many. */
static void many(void)
{
    char name[64];
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 3000; i++) {
            snprintf(name, sizeof name, i % 3 ? "many/n%d" : "many/n%d/below", i);
            CHECK_ERR(access(at(name), F_OK), ENOENT);
        }
    }
    for (int i = 0; i < 3000; i += 100) {
        snprintf(name, sizeof name, "many/n%d", i);
        new_file(at(name));
        CHECK_EQ(access(at(name), F_OK), 0);
        unlink(at(name));
        CHECK_ERR(access(at(name), F_OK), ENOENT);
    }
}

int main(void)
{
    MUST(getcwd(here, sizeof here) != NULL);
    comes();
    way_changes();
    links();
    other_calls();
    permissions();
    roots();
    mounts();
    another_thread();
    many();
    return check_result();
}
