/* Process groups and sessions: getpgid, setpgid, setsid, getsid and the rules between them. */
#include "check.h"

int main(int argc, char **argv)
{
    if (argc > 1) {
        pause();
        return 0;
    }
    int gate[2];
    MUST(pipe(gate) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        char byte;
        close(gate[1]);
        CHECK_EQ(read(gate[0], &byte, 1), 0);
        child_exit();
    }
    CHECK_EQ(getpgid(pid), getpgrp());
    CHECK_EQ(getsid(pid), getsid(0));
    CHECK_EQ(setpgid(pid, 0), 0);
    CHECK_EQ(getpgid(pid), pid);
    CHECK_EQ(setpgid(pid, getpgrp()), 0);
    CHECK_EQ(getpgid(pid), getpgrp());
    CHECK_ERR(setpgid(pid, -1), EINVAL);
    CHECK_ERR(setpgid(pid, 99999999), EPERM);
    CHECK_ERR(getpgid(99999999), ESRCH);
    CHECK_ERR(getsid(99999999), ESRCH);
    CHECK_ERR(setpgid(getppid(), 0), ESRCH);
    close(gate[1]);
    CHECK_CHILD(pid);

    /* setsid: a new session and group, not for a group leader. */
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(setsid(), getpid());
        CHECK_EQ(getsid(0), getpid());
        CHECK_EQ(getpgrp(), getpid());
        CHECK_ERR(setsid(), EPERM);
        CHECK_ERR(setpgid(0, 0), EPERM);
        pid_t inner = fork();
        if (inner == 0) {
            check_failures = 0;
            CHECK_EQ(getsid(0), getppid());
            CHECK_EQ(setpgid(0, 0), 0);
            CHECK_ERR(setsid(), EPERM);
            CHECK_EQ(setpgid(0, getppid()), 0);
            CHECK_EQ(setsid(), getpid());
            child_exit();
        }
        CHECK_CHILD(inner);
        child_exit();
    }
    /* A group in another session cannot be joined. */
    CHECK_CHILD(pid);
    MUST(pipe(gate) == 0);
    if ((pid = child_fork()) == 0) {
        setsid();
        char byte = 'r';
        CHECK_EQ(write(gate[1], &byte, 1), 1);
        pause();
        child_exit();
    }
    char byte;
    CHECK_EQ(read(gate[0], &byte, 1), 1);
    CHECK_ERR(setpgid(pid, getpgrp()), EPERM);
    CHECK_ERR(setpgid(0, pid), EPERM);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(wait_status(pid), SIGKILL);

    /* After exec the parent can no longer move the child. */
    if ((pid = child_fork()) == 0) {
        execl("/proc/self/exe", argv[0], "wait", NULL);
        _exit(1);
    }
    for (int i = 0; i < 1000; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/cmdline", pid);
        char *text = read_file(path);
        if (text && strcmp(text + strlen(text) + 1, "wait") == 0) break;
        sleep_ms(5);
    }
    CHECK_ERR(setpgid(pid, pid), EACCES);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(wait_status(pid), SIGKILL);
    return check_result();
}
