/* What programs about lending have in common: who else looks, and a filter that comes. */
#ifndef LENDING_H
#define LENDING_H

#include "check.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/prctl.h>

/* The events of the one that epoll_wait(2) tells of; 0: none has come in time. */
static inline uint32_t told(int epoll, int timeout)
{
    struct epoll_event event = {0};
    int count = epoll_wait(epoll, &event, 1, timeout);
    MUST(count >= 0);
    return count ? event.events : 0;
}

/* From now on read(2) gives EXDEV. */
static inline void filter_reads(void)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_read, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EXDEV),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0);
}

#endif
