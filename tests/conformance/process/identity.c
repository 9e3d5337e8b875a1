/* getpid(2), gettid(2), getppid(2), getpgrp(2), getsid(2), getuid(2) and their kin keep telling the truth through fork,
 * vfork, threads, setpgid (by oneself and by one's parent), setsid, set*uid, the death of the parent, and a filter. */
#include "check.h"
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

static pid_t main_tid;

static void *check_thread(void *argument)
{
    CHECK_EQ(getpid(), main_tid);
    CHECK(syscall(SYS_gettid) != main_tid);
    CHECK_EQ(getppid(), *(pid_t *)argument);
    return NULL;
}

/* Each tells what the other kinds of asking say too. */
static void check_self(void)
{
    char path[64];
    CHECK_EQ(getpgrp(), getpgid(getpid()));
    CHECK_EQ(getpgid(0), getpgid(getpid()));
    CHECK_EQ(getsid(0), getsid(getpid()));
    snprintf(path, sizeof path, "/proc/%d/stat", getpid());
    char *text = read_file(path);
    MUST(text != NULL);
    char *end = strrchr(text, ')');
    int parent = -1, group = -1, session = -1;
    MUST(end && sscanf(end + 4, "%d %d %d", &parent, &group, &session) == 3);
    CHECK_EQ(getppid(), parent);
    CHECK_EQ(getpgrp(), group);
    CHECK_EQ(getsid(0), session);
    uid_t real, effective, saved;
    CHECK_EQ(getresuid(&real, &effective, &saved), 0);
    CHECK_EQ(getuid(), real);
    CHECK_EQ(geteuid(), effective);
    CHECK_EQ(getresgid(&real, &effective, &saved), 0);
    CHECK_EQ(getgid(), real);
    CHECK_EQ(getegid(), effective);
}

static void check_fork(void)
{
    pid_t parent = getpid();
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(getpid() != parent);
        CHECK_EQ(getppid(), parent);
        CHECK_EQ(syscall(SYS_gettid), getpid());
        check_self();
        CHECK_EQ(setsid(), getpid());
        CHECK_EQ(getsid(0), getpid());
        CHECK_EQ(getpgrp(), getpid());
        child_exit();
    }
    CHECK_CHILD(pid);
    volatile pid_t seen = 0, seen_parent = 0;
    pid = vfork();
    if (pid == 0) {
        seen = getpid();
        seen_parent = getppid();
        _exit(0);
    }
    CHECK_CHILD(pid);
    CHECK_EQ(seen, pid);
    CHECK_EQ(seen_parent, parent);
    CHECK_EQ(getpid(), parent);
}

static void check_group_set_by_parent(void)
{
    int go[2], back[2];
    char byte = 0;
    MUST(pipe(go) == 0 && pipe(back) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        pid_t before = getpgrp();
        MUST(write(back[1], &byte, 1) == 1 && read(go[0], &byte, 1) == 1);
        CHECK(getpgrp() != before);
        CHECK_EQ(getpgrp(), getpid());
        child_exit();
    }
    MUST(read(back[0], &byte, 1) == 1);
    CHECK_EQ(setpgid(pid, pid), 0);
    MUST(write(go[1], &byte, 1) == 1);
    CHECK_CHILD(pid);
}

static void check_orphan(void)
{
    int back[2], go[2], seen[2];
    int failures = -1;
    char byte = 0;
    MUST(pipe(back) == 0 && pipe(go) == 0 && pipe(seen) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        pid_t middle = getpid();
        if (child_fork() == 0) {
            CHECK_EQ(getppid(), middle);
            MUST(write(seen[1], &byte, 1) == 1);
            MUST(read(go[0], &byte, 1) == 1);
            CHECK(getppid() != middle);
            check_self();
            failures = check_failures;
            MUST(write(back[1], &failures, sizeof failures) == sizeof failures);
            _exit(0);
        }
        _exit(read(seen[0], &byte, 1) == 1 ? 0 : 1);
    }
    CHECK_CHILD(pid);
    MUST(write(go[1], &byte, 1) == 1);
    MUST(read(back[0], &failures, sizeof failures) == sizeof failures);
    CHECK_EQ(failures, 0);
}

static void check_other_user(void)
{
    if (getuid() != 0) return;
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(setegid(77), 0);
        CHECK_EQ(getegid(), 77);
        CHECK_EQ(getgid(), 0);
        CHECK_EQ(setresuid(78, 79, 80), 0);
        CHECK_EQ(getuid(), 78);
        CHECK_EQ(geteuid(), 79);
        check_self();
        child_exit();
    }
    CHECK_CHILD(pid);
}

static void check_filter(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 99),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = { 4, code };
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(getppid() > 0);
        MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
        if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0) _exit(0);
        CHECK_ERR(syscall(SYS_getppid), 99);
        CHECK(getpid() > 0);
        child_exit();
    }
    CHECK_CHILD(pid);
}

int main(int count, char **arguments)
{
    main_tid = getpid();
    pid_t parent = getppid();
    check_self();
    if (count > 1) {
        /* After an exec, by a thread that was not the leader. */
        CHECK_EQ(getpid(), atoi(arguments[1]));
        CHECK_EQ(syscall(SYS_gettid), getpid());
        return check_result();
    }
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, check_thread, &parent) == 0 && pthread_join(thread, NULL) == 0);
    check_fork();
    check_group_set_by_parent();
    check_orphan();
    check_other_user();
    check_filter();
    char pid[16];
    snprintf(pid, sizeof pid, "%d", getpid());
    execl("/proc/self/exe", "identity", pid, (char *)NULL);
    CHECK(false);
    return check_result();
}
