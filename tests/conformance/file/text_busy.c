/* ETXTBSY: a file is not run while it is open for writing, nor opened for writing while it runs. */
#include "check.h"
#include <sys/mman.h>

static void copy_self(const char *to)
{
    static char buffer[1 << 16];
    int in = open("/proc/self/exe", O_RDONLY), out = open(to, O_WRONLY | O_CREAT | O_TRUNC, 0755);
    MUST(in >= 0 && out >= 0);
    ssize_t got;
    while ((got = read(in, buffer, sizeof buffer)) > 0) MUST(write(out, buffer, got) == got);
    close(in);
    close(out);
}

static int run(const char *path)
{
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        execl(path, path, "child", NULL);
        _exit(errno == ETXTBSY ? 26 : 99);
    }
    return WEXITSTATUS(wait_status(pid));
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], "sleep")) {
        CHECK_EQ(write(1, "x", 1), 1);
        for (;;) pause();
    }
    if (argc > 1) return 7;
    copy_self("program");
    CHECK_EQ(run("./program"), 7);

    /* Open for writing: not run; open for reading: run. */
    int fd = open("program", O_WRONLY);
    CHECK(fd >= 0);
    CHECK_EQ(run("./program"), 26);
    int second = dup(fd);
    close(fd);
    CHECK_EQ(run("./program"), 26);
    close(second);
    CHECK_EQ(run("./program"), 7);
    fd = open("program", O_RDONLY);
    CHECK_EQ(run("./program"), 7);
    close(fd);

    /* Running: not written to, but read, renamed, removed and made anew. */
    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], 1);
        execl("./program", "program", "sleep", NULL);
        _exit(99);
    }
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    CHECK_ERR(open("program", O_WRONLY), ETXTBSY);
    CHECK_ERR(open("program", O_RDWR), ETXTBSY);
    CHECK_ERR(open("program", O_RDONLY | O_TRUNC), ETXTBSY);
    CHECK_ERR(open("program", O_WRONLY | O_CREAT, 0644), ETXTBSY);
    CHECK_ERR(truncate("program", 0), ETXTBSY);
    /* Its other names are no way around that. */
    CHECK_EQ(link("program", "second"), 0);
    CHECK_ERR(open("second", O_WRONLY), ETXTBSY);
    CHECK_EQ(unlink("second"), 0);
    struct stat status;
    CHECK_EQ(stat("program", &status), 0);
    CHECK(status.st_size > 0);
    fd = open("program", O_RDONLY);
    CHECK(fd >= 0);
    close(fd);
    CHECK_EQ(chmod("program", 0700), 0);
    CHECK_EQ(rename("program", "moved"), 0);
    CHECK_ERR(open("moved", O_WRONLY), ETXTBSY);
    CHECK_EQ(unlink("moved"), 0);
    copy_self("moved");
    CHECK_EQ(run("./moved"), 7);
    kill(pid, SIGKILL);
    CHECK_EQ(wait_status(pid), SIGKILL);
    fd = open("moved", O_RDWR);
    CHECK(fd >= 0);
    close(fd);

    /* Written and run in turn, by processes of their own: never busy. */
    for (int i = 0; i < 20; i++) {
        pid_t writer = child_fork();
        if (writer == 0) {
            copy_self("moved");
            child_exit();
        }
        CHECK_CHILD(writer);
        CHECK_EQ(run("./moved"), 7);
    }

    /* A memory file that can be written runs. */
    int memory = memfd_create("program", 0);
    MUST(memory >= 0);
    int in = open("/proc/self/exe", O_RDONLY);
    static char buffer[1 << 16];
    ssize_t got;
    while ((got = read(in, buffer, sizeof buffer)) > 0) CHECK_EQ(write(memory, buffer, got), got);
    close(in);
    pid = child_fork();
    if (pid == 0) {
        char *arguments[] = { "memory", "child", NULL };
        fexecve(memory, arguments, environ);
        _exit(99);
    }
    CHECK_EQ(WEXITSTATUS(wait_status(pid)), 7);
    return check_result();
}
