/* /proc/self: links, maps, status, stat, cmdline, environ, fd, task, limits, mounts. */
#include "check.h"
#include <dirent.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
    (void)argc;
    char buffer[PATH_MAX], path[PATH_MAX];
    struct stat status;
    ssize_t size = readlink("/proc/self", buffer, sizeof buffer - 1);
    MUST(size > 0);
    buffer[size] = 0;
    CHECK_EQ(atoi(buffer), getpid());
    size = readlink("/proc/thread-self", buffer, sizeof buffer - 1);
    buffer[size > 0 ? size : 0] = 0;
    snprintf(path, sizeof path, "%d/task/%d", getpid(), getpid());
    CHECK_STR(buffer, path);
    size = readlink("/proc/self/exe", buffer, sizeof buffer - 1);
    MUST(size > 0);
    buffer[size] = 0;
    CHECK(buffer[0] == '/' && strcmp(strrchr(buffer, '/'), "/self") == 0);
    int exe = open("/proc/self/exe", O_RDONLY);
    CHECK(exe >= 0 && read(exe, buffer, 4) == 4 && memcmp(buffer, "\177ELF", 4) == 0);
    size = readlink("/proc/self/cwd", buffer, sizeof buffer - 1);
    buffer[size > 0 ? size : 0] = 0;
    CHECK_STR(buffer, getcwd(path, sizeof path));
    size = readlink("/proc/self/root", buffer, sizeof buffer - 1);
    CHECK(size == 1 && buffer[0] == '/');

    char *text = read_file("/proc/self/cmdline");
    CHECK_STR(text, argv[0]);
    text = read_file("/proc/self/comm");
    CHECK_STR(text, "self\n");

    /* status */
    text = read_file("/proc/self/status");
    MUST(text != NULL);
    CHECK(strncmp(text, "Name:\tself\n", 11) == 0);
    snprintf(path, sizeof path, "\nPid:\t%d\nPPid:\t%d\n", getpid(), getppid());
    CHECK(strstr(text, path) != NULL);
    snprintf(path, sizeof path, "\nUid:\t%d\t%d\t%d\t%d\n", getuid(), geteuid(), geteuid(), geteuid());
    CHECK(strstr(text, path) != NULL);
    CHECK(strstr(text, "\nState:\tR (running)\n") != NULL);
    CHECK(strstr(text, "\nThreads:\t1\n") != NULL);
    char *line = strstr(text, "\nVmRSS:");
    CHECK(line && atoi(line + 7) > 100);
    sigset_t set = signal_set(SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    catch_signal(SIGUSR2, SIG_IGN, 0);
    text = read_file("/proc/self/status");
    CHECK(strstr(text, "\nSigBlk:\t0000000000000200\n") != NULL);
    line = strstr(text, "\nSigIgn:\t");
    CHECK(line && strtoull(line + 9, NULL, 16) & 0x800);

    /* stat: 52 fields. */
    text = read_file("/proc/self/stat");
    MUST(text != NULL);
    CHECK_EQ(atoi(text), getpid());
    char *after = strrchr(text, ')');
    MUST(after != NULL);
    char state;
    int parent, group, sid;
    CHECK_EQ(sscanf(after + 1, " %c %d %d %d", &state, &parent, &group, &sid), 4);
    CHECK(state == 'R' && parent == getppid() && group == getpgrp() && sid == getsid(0));
    int fields = 2;
    for (char *p = after; *p; p++) fields += *p == ' ';
    CHECK_EQ(fields, 52);
    text = read_file("/proc/self/statm");
    CHECK(text && atol(text) > 100);

    /* maps: what is mapped where. */
    char *map = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mprotect(map + 4096, 4096, PROT_READ);
    int file = make_file("mapped", "x");
    char *mapped = mmap(NULL, 4096, PROT_READ, MAP_SHARED, file, 0);
    FILE *maps = fopen("/proc/self/maps", "r");
    MUST(maps != NULL);
    bool heap = false, stack = false, read_only = false, with_file = false, code = false;
    unsigned long previous = 0, here = (unsigned long)&heap;
    void *block = sbrk(0);
    while (fgets(buffer, sizeof buffer, maps)) {
        unsigned long start, end, offset, inode;
        char permissions[5], device[16];
        int name_at = 0;
        MUST(sscanf(buffer, "%lx-%lx %4s %lx %15s %lu %n", &start, &end, permissions, &offset, device, &inode, &name_at) == 6);
        CHECK(start >= previous && start < end);
        previous = end;
        char *name = buffer + name_at;
        name[strcspn(name, "\n")] = 0;
        if (strcmp(name, "[heap]") == 0) heap = end >= (unsigned long)block;
        if (strcmp(name, "[stack]") == 0) stack = start <= here && here < end;
        if (start == (unsigned long)map + 4096 && end == start + 4096) read_only = strcmp(permissions, "r--p") == 0;
        if (start == (unsigned long)mapped) {
            with_file = strcmp(permissions, "r--s") == 0 && strstr(name, "/mapped") != NULL;
            fstat(file, &status);
            CHECK_EQ(inode, status.st_ino);
        }
        if (start <= (unsigned long)main && (unsigned long)main < end) code = strcmp(permissions, "r-xp") == 0 && strstr(name, "/self") != NULL;
    }
    fclose(maps);
    CHECK(heap && stack && read_only && with_file && code);
    text = read_file("/proc/self/smaps");
    CHECK(text && strstr(text, "\nRss:") && strstr(text, "\nPrivate_Dirty:"));

    /* fd */
    int ends[2];
    MUST(pipe(ends) == 0);
    snprintf(path, sizeof path, "/proc/self/fd/%d", ends[0]);
    size = readlink(path, buffer, sizeof buffer - 1);
    buffer[size > 0 ? size : 0] = 0;
    CHECK_EQ(fstat(ends[0], &status), 0);
    snprintf(path, sizeof path, "pipe:[%lu]", (unsigned long)status.st_ino);
    CHECK_STR(buffer, path);
    DIR *folder = opendir("/proc/self/fd");
    MUST(folder != NULL);
    int seen = 0, wanted = 0;
    for (struct dirent *entry; (entry = readdir(folder));)
        if (entry->d_name[0] != '.') {
            CHECK(fcntl(atoi(entry->d_name), F_GETFD) >= 0);
            seen++;
        }
    closedir(folder);
    for (int i = 0; i < 1000; i++) wanted += fcntl(i, F_GETFD) >= 0;
    CHECK_EQ(seen, wanted + 1);
    CHECK_EQ(lseek(file, 1, SEEK_SET), 1);
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", file);
    text = read_file(path);
    CHECK(text && strncmp(text, "pos:\t1\nflags:\t0", 15) == 0);
    CHECK_ERR(stat("/proc/self/fd/999", &status), ENOENT);

    text = read_file("/proc/self/limits");
    CHECK(text && strstr(text, "Max open files") != NULL);
    text = read_file("/proc/self/mounts");
    CHECK(text && strstr(text, " / ") != NULL && strstr(text, " /proc proc ") != NULL);
    text = read_file("/proc/self/mountinfo");
    CHECK(text && strstr(text, " - ") != NULL);
    text = read_file("/proc/self/cgroup");
    CHECK(text && strchr(text, ':') != NULL);
    text = read_file("/proc/self/environ");
    CHECK(text && strchr(text, '=') != NULL);
    text = read_file("/proc/self/wchan");
    text = read_file("/proc/self/auxv");
    CHECK(text != NULL);
    CHECK_EQ(stat("/proc/self/task", &status), 0);
    CHECK(open("/proc/self/mem", O_RDONLY) >= 0);

    /* Another process: alive, zombie, gone. */
    pid_t pid = child_fork();
    if (pid == 0) for (;;) pause();
    snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
    text = read_file(path);
    CHECK_STR(text, argv[0]);
    CHECK(wait_for_state(pid, 'S'));
    kill(pid, SIGKILL);
    CHECK(wait_for_state(pid, 'Z'));
    text = read_file(path);
    CHECK_STR(text, "");
    wait_status(pid);
    CHECK_ERR(open(path, O_RDONLY), ENOENT);
    return check_result();
}
