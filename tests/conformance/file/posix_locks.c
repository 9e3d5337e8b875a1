/* fcntl record locks: ranges, conflicts between processes, splitting, blocking, deadlock, release at close. */
#include "check.h"

static int lock(int fd, int command, int type, off_t start, off_t length)
{
    struct flock request = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
    return fcntl(fd, command, &request);
}

static struct flock ask(int fd, int type, off_t start, off_t length)
{
    struct flock request = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = length };
    CHECK_EQ(fcntl(fd, F_GETLK, &request), 0);
    return request;
}

static volatile sig_atomic_t alarms;
static void on_alarm(int number) { (void)number; alarms++; }

int main(void)
{
    int fd = make_file("f", "0123456789");
    CHECK_EQ(lock(fd, F_SETLK, F_WRLCK, 10, 20), 0);
    /* One's own locks never conflict. */
    CHECK_EQ(ask(fd, F_WRLCK, 0, 0).l_type, F_UNLCK);
    int gate[2], reply[2];
    MUST(pipe(gate) == 0 && pipe(reply) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        int own = open("f", O_RDWR);
        struct flock found = ask(own, F_RDLCK, 0, 0);
        CHECK_EQ(found.l_type, F_WRLCK);
        CHECK_EQ(found.l_start, 10);
        CHECK_EQ(found.l_len, 20);
        CHECK_EQ(found.l_pid, getppid());
        CHECK_EQ(ask(own, F_RDLCK, 0, 10).l_type, F_UNLCK);
        CHECK_EQ(ask(own, F_RDLCK, 30, 0).l_type, F_UNLCK);
        CHECK(lock(own, F_SETLK, F_RDLCK, 29, 1) == -1 && (errno == EAGAIN || errno == EACCES));
        CHECK_EQ(lock(own, F_SETLK, F_WRLCK, 0, 10), 0);
        /* A blocking request is interrupted by a signal. */
        catch_signal(SIGALRM, on_alarm, 0);
        alarm(1);
        CHECK_ERR(lock(own, F_SETLKW, F_WRLCK, 15, 1), EINTR);
        CHECK_EQ(alarms, 1);
        CHECK_EQ(write(reply[1], "1", 1), 1);
        /* And granted when the holder lets go. */
        CHECK_EQ(lock(own, F_SETLKW, F_WRLCK, 15, 1), 0);
        CHECK_EQ(write(reply[1], "2", 1), 1);
        char byte;
        CHECK_EQ(read(gate[0], &byte, 1), 1);
        child_exit();
    }
    char byte;
    CHECK_EQ(read(reply[0], &byte, 1), 1);
    CHECK(wait_for_state(pid, 'S'));
    sleep_ms(50);
    /* Unlocking the middle splits the lock. */
    CHECK_EQ(lock(fd, F_SETLK, F_UNLCK, 15, 5), 0);
    CHECK_EQ(read(reply[0], &byte, 1), 1);
    CHECK_EQ(byte, '2');
    struct flock found = ask(fd, F_WRLCK, 0, 0);
    CHECK_EQ(found.l_type, F_WRLCK);
    CHECK_EQ(found.l_pid, pid);
    CHECK_EQ(write(gate[1], "x", 1), 1);
    CHECK_CHILD(pid);
    /* The dead process's locks are gone. */
    CHECK_EQ(ask(fd, F_WRLCK, 0, 0).l_type, F_UNLCK);

    /* Deadlock: child holds A and waits for B; we hold B and ask for A. */
    CHECK_EQ(lock(fd, F_SETLK, F_UNLCK, 0, 0), 0);
    CHECK_EQ(lock(fd, F_SETLK, F_WRLCK, 1, 1), 0);
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(lock(fd, F_SETLK, F_WRLCK, 0, 1), 0);
        CHECK_EQ(write(reply[1], "3", 1), 1);
        CHECK_EQ(lock(fd, F_SETLKW, F_WRLCK, 1, 1), 0);
        child_exit();
    }
    CHECK_EQ(read(reply[0], &byte, 1), 1);
    CHECK(wait_for_state(pid, 'S'));
    sleep_ms(50);
    CHECK_ERR(lock(fd, F_SETLKW, F_WRLCK, 0, 1), EDEADLK);
    CHECK_EQ(lock(fd, F_SETLK, F_UNLCK, 1, 1), 0);
    CHECK_CHILD(pid);

    /* Closing any descriptor of the file drops all of the process's locks. */
    CHECK_EQ(lock(fd, F_SETLK, F_WRLCK, 0, 0), 0);
    close(open("f", O_RDONLY));
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(ask(fd, F_WRLCK, 0, 0).l_type, F_UNLCK);
        child_exit();
    }
    CHECK_CHILD(pid);

    /* Readers share; locks are not inherited by fork. */
    CHECK_EQ(lock(fd, F_SETLK, F_RDLCK, 0, 5), 0);
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(lock(fd, F_SETLK, F_RDLCK, 2, 5), 0);
        CHECK_EQ(lock(fd, F_SETLK, F_WRLCK, 5, 5), 0);
        CHECK(lock(fd, F_SETLK, F_WRLCK, 4, 1) == -1 && (errno == EAGAIN || errno == EACCES));
        child_exit();
    }
    CHECK_CHILD(pid);

    /* lockf(3) stands on the same locks; errors. */
    CHECK_EQ(lockf(fd, F_TLOCK, 10), 0);
    CHECK_EQ(lockf(fd, F_ULOCK, 10), 0);
    int read_only = open("f", O_RDONLY);
    CHECK_ERR(lock(read_only, F_SETLK, F_WRLCK, 0, 1), EBADF);
    CHECK_ERR(lock(fd, F_SETLK, 77, 0, 1), EINVAL);
    CHECK_ERR(lock(fd, F_SETLK, F_RDLCK, -1, 1), EINVAL);
    CHECK_ERR(fcntl(fd, F_SETLK, (void *)8), EFAULT);
    return check_result();
}
