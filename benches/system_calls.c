/* What single system calls and small groups of them cost.
 *
 * `system_calls DIRECTORY ROW...` runs the named rows (all, if none is named) with their files in DIRECTORY, and prints one
 * line for each: its name and the nanoseconds of one round. `system_calls --hello` writes a line and ends;
 * `system_calls --elapsed COMMAND...` runs a command and prints, as the last line, how many nanoseconds it took.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

enum { BLOCK = 4096, FILE_BLOCKS = 1024, ENTRIES = 100, CHUNK = 65536, CROWD = 64 };

static char data[CHUNK];
static const char *self;
static int regular = -1, null = -1, ends[2] = {-1, -1}, counter = -1;

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * 1e9 + time.tv_nsec;
}

static void must(int holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "system_calls: %s: %s\n", what, strerror(errno));
        exit(1);
    }
}

/* One round of each row; `n` counts rounds. */

static void getppid_round(long n) { (void)n; syscall(SYS_getppid); }
static void gettid_round(long n) { (void)n; syscall(SYS_gettid); }
static void clock_round(long n) { (void)n; now(); }

static void sigprocmask_round(long n) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR1);
    sigprocmask(n & 1 ? SIG_BLOCK : SIG_UNBLOCK, &set, NULL);
}

static void write_null_round(long n) { (void)n; must(write(null, data, 64) == 64, "write"); }

static off_t position(long n) { return (off_t)(n % FILE_BLOCKS) * BLOCK; }
static void pread_round(long n) { must(pread(regular, data, BLOCK, position(n)) == BLOCK, "pread"); }
static void pwrite_round(long n) { must(pwrite(regular, data, BLOCK, position(n)) == BLOCK, "pwrite"); }

static void read_round(long n) {
    if (n % FILE_BLOCKS == 0) lseek(regular, 0, SEEK_SET);
    must(read(regular, data, BLOCK) == BLOCK, "read");
}

static void fstat_round(long n) {
    struct stat status;
    (void)n;
    must(fstat(regular, &status) == 0, "fstat");
}

static void stat_round(long n) {
    struct stat status;
    (void)n;
    must(stat("file", &status) == 0, "stat");
}

static void open_round(long n) {
    (void)n;
    int fd = open("file", O_RDONLY);
    must(fd >= 0, "open");
    close(fd);
}

static void readdir_round(long n) {
    (void)n;
    DIR *directory = opendir("entries");
    must(directory != NULL, "opendir");
    while (readdir(directory)) continue;
    closedir(directory);
}

static void create_round(long n) {
    (void)n;
    int fd = open("new", O_CREAT | O_WRONLY | O_EXCL, 0644);
    must(fd >= 0 && write(fd, data, BLOCK) == BLOCK, "create");
    close(fd);
    unlink("new");
}

static void touch(size_t length) {
    char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    must(memory != MAP_FAILED, "mmap");
    for (size_t at = 0; at < length; at += BLOCK) memory[at] = 1;
    munmap(memory, length);
}
static void mmap_round(long n) { (void)n; touch(16 * BLOCK); }
static void faults_round(long n) { (void)n; touch(1024 * BLOCK); }

static void pipe_round(long n) {
    (void)n;
    must(write(ends[1], data, 64) == 64 && read(ends[0], data, 64) == 64, "pipe");
}

static void eventfd_round(long n) {
    uint64_t value = 1;
    (void)n;
    must(write(counter, &value, 8) == 8 && read(counter, &value, 8) == 8, "eventfd");
}

static void *nothing(void *argument) { return argument; }

static void thread_round(long n) {
    pthread_t thread;
    (void)n;
    must(pthread_create(&thread, NULL, nothing, NULL) == 0, "pthread_create");
    pthread_join(thread, NULL);
}

static void fork_round(long n) {
    (void)n;
    pid_t child = fork();
    if (child == 0) _exit(0);
    must(child > 0 && waitpid(child, NULL, 0) == child, "fork");
}

static void exec_round(long n) {
    (void)n;
    pid_t child = fork();
    if (child == 0) {
        execl(self, self, "--nothing", NULL);
        _exit(1);
    }
    int status;
    must(child > 0 && waitpid(child, &status, 0) == child && status == 0, "fork and exec");
}

static void spawn_round(long n) {
    char *arguments[] = {(char *)self, "--nothing", NULL};
    pid_t child;
    int status;
    (void)n;
    must(posix_spawn(&child, self, NULL, NULL, arguments, environ) == 0, "posix_spawn");
    must(waitpid(child, &status, 0) == child && status == 0, "posix_spawn");
}

/* Two threads that answer each other, over pipes and over TCP. */

static int there[2], back[2], server = -1, client = -1;

static void *echo_pipe(void *argument) {
    char byte;
    while (read(there[0], &byte, 1) == 1 && write(back[1], &byte, 1) == 1) continue;
    return argument;
}

static void pingpong_round(long n) {
    (void)n;
    must(write(there[1], data, 1) == 1 && read(back[0], data, 1) == 1, "ping-pong");
}

/* Answers small messages, swallows large ones. */
static void *echo_tcp(void *argument) {
    static char buffer[CHUNK];
    int connection = accept(server, NULL, NULL), one = 1;
    setsockopt(connection, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    ssize_t count;
    while ((count = read(connection, buffer, sizeof buffer)) > 0)
        if (count <= 64 && write(connection, buffer, count) != count) break;
    close(connection);
    return argument;
}

static void connect_tcp(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    pthread_t thread;
    int one = 1;
    server = socket(AF_INET, SOCK_STREAM, 0);
    must(bind(server, (struct sockaddr *)&address, sizeof address) == 0, "bind");
    must(getsockname(server, (struct sockaddr *)&address, &length) == 0 && listen(server, 5) == 0, "listen");
    must(pthread_create(&thread, NULL, echo_tcp, NULL) == 0, "pthread_create");
    client = socket(AF_INET, SOCK_STREAM, 0);
    must(connect(client, (struct sockaddr *)&address, sizeof address) == 0, "connect");
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void tcp_round(long n) {
    (void)n;
    must(write(client, data, 1) == 1 && read(client, data, 1) == 1, "tcp");
}

static void stream_round(long n) {
    (void)n;
    for (size_t sent = 0; sent < CHUNK;) {
        ssize_t count = write(client, data + sent, CHUNK - sent);
        must(count > 0, "tcp");
        sent += count;
    }
}

/* Many threads that call at once: each makes a hundred calls that no process can answer by itself. */

static void *crowd_member(void *argument) {
    for (int i = 0; i < 100; i++) must(write(null, data, 1) == 1, "write");
    return argument;
}

static void crowd_round(long n) {
    pthread_t threads[CROWD];
    (void)n;
    for (int i = 0; i < CROWD; i++) must(pthread_create(&threads[i], NULL, crowd_member, NULL) == 0, "pthread_create");
    for (int i = 0; i < CROWD; i++) pthread_join(threads[i], NULL);
}

/* What rows need before their first round. */

static void need_file(void) {
    if (regular >= 0) return;
    regular = open("file", O_RDWR | O_CREAT | O_TRUNC, 0644);
    must(regular >= 0, "file");
    for (int i = 0; i < FILE_BLOCKS; i++) must(write(regular, data, BLOCK) == BLOCK, "file");
}

static void need_entries(void) {
    mkdir("entries", 0755);
    for (int i = 0; i < ENTRIES; i++) {
        char name[64];
        snprintf(name, sizeof name, "entries/%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0644));
    }
}

static void need_null(void) { null = open("/dev/null", O_WRONLY); }
static void need_pipe(void) { must(pipe(ends) == 0, "pipe"); }
static void need_eventfd(void) { counter = eventfd(0, 0); }

static void need_echo(void) {
    pthread_t thread;
    must(pipe(there) == 0 && pipe(back) == 0, "pipe");
    must(pthread_create(&thread, NULL, echo_pipe, NULL) == 0, "pthread_create");
}

static const struct row {
    const char *name;
    int milliseconds; /* How long to measure, at least. */
    void (*prepare)(void);
    void (*round)(long n);
} rows[] = {
    {"getppid", 100, NULL, getppid_round},
    {"gettid", 100, NULL, gettid_round},
    {"sigprocmask", 100, NULL, sigprocmask_round},
    {"clock_gettime", 50, NULL, clock_round},
    {"write_null", 100, need_null, write_null_round},
    {"eventfd", 100, need_eventfd, eventfd_round},
    {"pipe", 100, need_pipe, pipe_round},
    {"pread_4k", 100, need_file, pread_round},
    {"pwrite_4k", 100, need_file, pwrite_round},
    {"read_4k", 100, need_file, read_round},
    {"fstat", 100, need_file, fstat_round},
    {"stat", 100, need_file, stat_round},
    {"open_close", 100, need_file, open_round},
    {"readdir_100", 100, need_entries, readdir_round},
    {"create_write_unlink", 200, NULL, create_round},
    {"mmap_touch_munmap", 100, NULL, mmap_round},
    {"page_faults_1024", 200, NULL, faults_round},
    {"fork_wait", 300, NULL, fork_round},
    {"fork_exec_wait", 500, NULL, exec_round},
    {"spawn_wait", 500, NULL, spawn_round},
    {"thread_create_join", 200, NULL, thread_round},
    {"threads_64_calling", 300, need_null, crowd_round},
    {"pipe_ping_pong", 300, need_echo, pingpong_round},
    {"tcp_round_trip", 300, connect_tcp, tcp_round},
    {"tcp_stream_64k", 300, connect_tcp, stream_round},
};

static void measure(const struct row *row) {
    if (row->prepare) row->prepare();
    for (long n = 0; n < 4; n++) row->round(n);
    /* The clock is read once a batch, of about a millisecond. */
    long batch = 1, n = 0;
    double start = now(), end;
    for (;;) {
        double before = now();
        for (long i = 0; i < batch; i++) row->round(n++);
        end = now();
        if (end - start >= row->milliseconds * 1e6) break;
        if (end - before < 1e6) batch *= 2;
    }
    printf("%s %.1f\n", row->name, (end - start) / n);
    fflush(stdout);
}

static int elapsed(char **command) {
    double start = now();
    pid_t child;
    int status;
    int error = posix_spawnp(&child, command[0], NULL, NULL, command, environ);
    if (error) {
        fprintf(stderr, "system_calls: %s: %s\n", command[0], strerror(error));
        return 127;
    }
    must(waitpid(child, &status, 0) == child, "waitpid");
    printf("\nelapsed %.0f\n", now() - start);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

static int selected(const char *name, int count, char **names) {
    for (int i = 0; i < count; i++)
        if (!strcmp(names[i], name)) return 1;
    return count == 0;
}

int main(int count, char **arguments) {
    self = arguments[0];
    if (count < 2) {
        fprintf(stderr, "usage: system_calls DIRECTORY [ROW...] | --hello | --elapsed COMMAND...\n");
        return 2;
    }
    if (!strcmp(arguments[1], "--nothing")) return 0;
    if (!strcmp(arguments[1], "--hello")) return write(1, "hello\n", 6) != 6;
    if (!strcmp(arguments[1], "--elapsed") && count > 2) return elapsed(arguments + 2);
    must(chdir(arguments[1]) == 0, arguments[1]);
    memset(data, 1, sizeof data);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (selected(rows[i].name, count - 2, arguments + 2)) measure(&rows[i]);
    return 0;
}
