/* flock(2): per open file, shared and exclusive, conversion, inheritance, blocking, EINTR. */
#include "check.h"
#include <sys/file.h>

static volatile sig_atomic_t alarms;
static void on_alarm(int number) { (void)number; alarms++; }

int main(void)
{
    int a = make_file("f", ""), b = open("f", O_RDONLY);
    CHECK_EQ(flock(a, LOCK_SH), 0);
    CHECK_EQ(flock(b, LOCK_SH | LOCK_NB), 0);
    CHECK_ERR(flock(a, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_EQ(flock(b, LOCK_UN), 0);
    CHECK_EQ(flock(a, LOCK_EX | LOCK_NB), 0);
    CHECK_ERR(flock(b, LOCK_SH | LOCK_NB), EWOULDBLOCK);
    /* A dup is the same lock. */
    int copy = dup(a);
    CHECK_EQ(flock(copy, LOCK_EX | LOCK_NB), 0);
    close(a);
    CHECK_ERR(flock(b, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK_ERR(flock(b, 0), EINVAL);
    CHECK_ERR(flock(999, LOCK_SH), EBADF);

    catch_signal(SIGALRM, on_alarm, 0);
    alarm(1);
    CHECK_ERR(flock(b, LOCK_EX), EINTR);
    CHECK_EQ(alarms, 1);

    /* A child that inherited the open file can release it; a blocked waiter then gets it. */
    int ready[2];
    MUST(pipe(ready) == 0);
    pid_t waiter = child_fork();
    if (waiter == 0) {
        int own = open("f", O_RDWR);
        CHECK_ERR(flock(own, LOCK_SH | LOCK_NB), EWOULDBLOCK);
        CHECK_EQ(write(ready[1], "r", 1), 1);
        CHECK_EQ(flock(own, LOCK_EX), 0);
        child_exit();
    }
    char byte;
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    CHECK(wait_for_state(waiter, 'S'));
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(flock(copy, LOCK_UN), 0);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_CHILD(waiter);
    CHECK_EQ(flock(b, LOCK_EX | LOCK_NB), 0);
    return check_result();
}
