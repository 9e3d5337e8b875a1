/* execve's errors; scripts and their interpreters. */
#include "check.h"

extern char **environ;

static int run(const char *path, char *const *arguments, char *output, size_t size)
{
    int ends[2];
    MUST(pipe2(ends, O_CLOEXEC) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        dup2(ends[1], 1);
        execve(path, arguments, environ);
        _exit(100 + errno);
    }
    close(ends[1]);
    ssize_t got = 0, next;
    while ((next = read(ends[0], output + got, size - 1 - got)) > 0) got += next;
    output[got] = 0;
    close(ends[0]);
    return wait_status(pid) >> 8;
}

static void executable(const char *path, const char *content)
{
    close(make_file(path, content));
    CHECK_EQ(chmod(path, 0755), 0);
}

int main(void)
{
    char *arguments[] = { "zero", "one two", NULL };
    CHECK_ERR(execve("missing", arguments, environ), ENOENT);
    CHECK_ERR(execve("", arguments, environ), ENOENT);
    close(make_file("plain", "#!/bin/sh\n"));
    CHECK_ERR(execve("plain", arguments, environ), EACCES);
    CHECK_ERR(execve(".", arguments, environ), EACCES);
    CHECK_ERR(execve("plain/x", arguments, environ), ENOTDIR);
    executable("garbage", "this is no program\n");
    CHECK_ERR(execve("garbage", arguments, environ), ENOEXEC);
    executable("empty", "");
    CHECK_ERR(execve("empty", arguments, environ), ENOEXEC);
    executable("elf", "\177ELF");
    CHECK_ERR(execve("elf", arguments, environ), ENOEXEC);
    executable("lost", "#!/missing/interpreter\n");
    CHECK_ERR(execve("lost", arguments, environ), ENOENT);
    executable("nameless", "#!\n");
    CHECK_ERR(execve("nameless", arguments, environ), ENOEXEC);
    executable("loop", "#!loop\n");
    CHECK_ERR(execve("loop", arguments, environ), ELOOP);
    CHECK_ERR(execve((char *)8, arguments, environ), EFAULT);
    CHECK_ERR(execve("/bin/true", (char **)8, environ), EFAULT);
    static char huge[3 << 20];
    memset(huge, 'x', sizeof huge - 1);
    char *too_big[] = { "a", huge, NULL };
    CHECK_ERR(execve("/bin/true", too_big, environ), E2BIG);

    /* A script gets its interpreter, one argument from the first line, its path, and the arguments but the first. */
    char output[4096];
    executable("script", "#! /bin/echo  -n a  b  \n");
    CHECK_EQ(run("script", arguments, output, sizeof output), 0);
    CHECK_STR(output, "-n a  b script one two\n");
    executable("script2", "#!/bin/sh\necho \"$0:$1:$#\"\nexit 3\n");
    CHECK_EQ(run("./script2", arguments, output, sizeof output), 3);
    CHECK_STR(output, "./script2:one two:1\n");
    /* An interpreter that is itself a script. */
    executable("outer", "#!./script2\n");
    CHECK_EQ(run("outer", arguments, output, sizeof output), 3);
    CHECK_STR(output, "./script2:outer:2\n");

    /* execveat on a descriptor. */
    int fd = open("/bin/echo", O_PATH | O_CLOEXEC);
    pid_t pid = child_fork();
    if (pid == 0) {
        dup2(open("out", O_CREAT | O_RDWR, 0600), 1);
        char *words[] = { "echo", "by descriptor", NULL };
        syscall(SYS_execveat, fd, "", words, environ, AT_EMPTY_PATH);
        _exit(100 + errno);
    }
    CHECK_EQ(wait_status(pid), 0);
    CHECK_STR(read_file("out"), "by descriptor\n");
    CHECK_ERR(syscall(SYS_execveat, fd, "", arguments, environ, 0), ENOENT);
    /* execvp looks through PATH and runs files without a first line by sh. */
    executable("noline", "exit 6\n");
    if ((pid = child_fork()) == 0) {
        setenv("PATH", "/nonexistent:.", 1);
        execlp("noline", "noline", NULL);
        _exit(100 + errno);
    }
    CHECK_EQ(wait_status(pid), 6 << 8);
    return check_result();
}
