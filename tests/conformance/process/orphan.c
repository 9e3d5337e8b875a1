/* Orphans: a new parent, a subreaper, SIGHUP and SIGCONT for an orphaned stopped group, PR_SET_PDEATHSIG. */
#include "check.h"
#include <sys/prctl.h>

static volatile sig_atomic_t hung_up;
static void on_hup(int number) { (void)number; hung_up = 1; }

int main(void)
{
    int ends[2];
    MUST(pipe(ends) == 0);
    /* The grandchild's parent becomes somebody else once the child is gone. */
    pid_t pid = child_fork();
    if (pid == 0) {
        pid_t middle = getpid();
        if (fork() == 0) {
            while (getppid() == middle) usleep(1000);
            pid_t parent = getppid();
            if (write(ends[1], &parent, sizeof parent) < 0) _exit(1);
            _exit(0);
        }
        _exit(0);
    }
    CHECK_CHILD(pid);
    pid_t parent = 0;
    CHECK_EQ(read(ends[0], &parent, sizeof parent), sizeof parent);
    CHECK(parent > 0 && parent != pid && parent != getpid());

    /* A subreaper adopts, and can wait for, its descendants' orphans. */
    CHECK_EQ(prctl(PR_SET_CHILD_SUBREAPER, 1), 0);
    int set = 0;
    CHECK_EQ(prctl(PR_GET_CHILD_SUBREAPER, &set), 0);
    CHECK_EQ(set, 1);
    if ((pid = child_fork()) == 0) {
        pid_t middle = getpid();
        if (fork() == 0) {
            while (getppid() == middle) usleep(1000);
            parent = getppid();
            if (write(ends[1], &parent, sizeof parent) < 0) _exit(1);
            _exit(77);
        }
        _exit(0);
    }
    CHECK_CHILD(pid);
    CHECK_EQ(read(ends[0], &parent, sizeof parent), sizeof parent);
    CHECK_EQ(parent, getpid());
    int status;
    CHECK(wait(&status) > 0);
    CHECK_EQ(status, 77 << 8);

    /* The signal at a parent's death. */
    if ((pid = child_fork()) == 0) {
        int sync[2];
        MUST(pipe(sync) == 0);
        if (fork() == 0) {
            prctl(PR_SET_PDEATHSIG, SIGTERM);
            char byte = 'r';
            if (write(sync[1], &byte, 1) < 0) _exit(1);
            for (;;) pause();
        }
        char byte;
        CHECK_EQ(read(sync[0], &byte, 1), 1);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK(wait(&status) > 0);
    CHECK_EQ(status, SIGTERM);

    /* A stopped member of a group that becomes orphaned gets SIGHUP and SIGCONT. */
    if ((pid = child_fork()) == 0) {
        setsid();
        int sync[2];
        MUST(pipe(sync) == 0);
        pid_t leader = fork();
        if (leader == 0) {
            setpgid(0, 0);
            catch_signal(SIGHUP, on_hup, 0);
            char byte = 'r';
            if (write(sync[1], &byte, 1) < 0) _exit(1);
            raise(SIGSTOP);
            _exit(hung_up ? 55 : 56);
        }
        char byte;
        CHECK_EQ(read(sync[0], &byte, 1), 1);
        CHECK(wait_for_state(leader, 'T'));
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK(wait(&status) > 0);
    CHECK_EQ(status, 55 << 8);
    return check_result();
}
