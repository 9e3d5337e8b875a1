/* What programs about ptrace(2) have in common. */
#ifndef TRACEES_H
#define TRACEES_H

#include "check.h"
#include <sys/ptrace.h>
#include <sys/wait.h>

static inline int wait_for(pid_t pid) {
    int status = -1;
    MUST(waitpid(pid, &status, __WALL) == pid);
    return status;
}

/* A child that is traced and stopped by SIGSTOP before it runs `body`. */
static inline pid_t traced(int (*body)(void), long options) {
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) {
        MUST(ptrace(PTRACE_TRACEME, 0, 0, 0) == 0);
        raise(SIGSTOP);
        _exit(body());
    }
    int status = wait_for(pid);
    MUST(WIFSTOPPED(status) && WSTOPSIG(status) == SIGSTOP);
    MUST(ptrace(PTRACE_SETOPTIONS, pid, 0, options | PTRACE_O_EXITKILL) == 0);
    return pid;
}

#endif
