/* Leases: who may have one, who breaks it, and what the breaker waits for. */
#include "check.h"

static volatile sig_atomic_t signals;
static volatile int last_fd;
static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    signals++;
    last_fd = info->si_fd;
}

/* What open gives, in a child; it ends with 0 or the error. */
static pid_t opener(const char *path, int flags)
{
    pid_t pid = fork();
    MUST(pid >= 0);
    if (pid == 0) _exit(open(path, flags, 0644) < 0 ? errno : 0);
    return pid;
}

static int opens(const char *path, int flags) { return WEXITSTATUS(wait_status(opener(path, flags))); }

static void wait_for_signal(int count)
{
    for (int i = 0; i < 1000 && signals < count; i++) sleep_ms(5);
    CHECK_EQ(signals, count);
}

int main(void)
{
    struct sigaction action = { .sa_flags = SA_SIGINFO };
    action.sa_sigaction = on_signal;
    sigaction(SIGRTMIN, &action, NULL);
    close(make_file("file", "text"));
    int fd = open("file", O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0);
    CHECK_EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) CANNOT("no leases on this file system");
    CHECK_EQ(fcntl(fd, F_GETLEASE), F_RDLCK);
    CHECK_EQ(fcntl(fd, F_SETSIG, SIGRTMIN), 0);

    /* A read lease: readers do not matter, a writer breaks it. */
    CHECK_EQ(opens("file", O_RDONLY), 0);
    CHECK_EQ(opens("file", O_WRONLY | O_NONBLOCK), EWOULDBLOCK);
    wait_for_signal(1);
    CHECK_EQ(last_fd, fd);
    CHECK_EQ(fcntl(fd, F_GETLEASE), F_UNLCK);
    pid_t pid = opener("file", O_RDWR);
    sleep_ms(30);
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    CHECK_EQ(fcntl(fd, F_SETLEASE, F_UNLCK), 0);
    CHECK_EQ(wait_status(pid), 0);
    CHECK_EQ(opens("file", O_WRONLY | O_NONBLOCK), 0);
    CHECK_ERR(fcntl(fd, F_SETLEASE, F_UNLCK), EAGAIN);

    /* Not while somebody can write; a write lease not while anybody else has it open. */
    int writer = open("file", O_RDWR);
    CHECK_ERR(fcntl(fd, F_SETLEASE, F_RDLCK), EAGAIN);
    CHECK_ERR(fcntl(writer, F_SETLEASE, F_RDLCK), EAGAIN);
    CHECK_ERR(fcntl(writer, F_SETLEASE, F_WRLCK), EAGAIN);
    close(writer);
    CHECK_EQ(fcntl(fd, F_SETLEASE, F_WRLCK), 0);
    CHECK_EQ(fcntl(fd, F_GETLEASE), F_WRLCK);
    /* The end of a lease was the end of its signal too. */
    CHECK_EQ(fcntl(fd, F_GETSIG), 0);
    CHECK_EQ(fcntl(fd, F_SETSIG, SIGRTMIN), 0);

    /* A reader breaks a write lease to a read lease. */
    signals = 0;
    pid = opener("file", O_RDONLY);
    wait_for_signal(1);
    CHECK_EQ(fcntl(fd, F_GETLEASE), F_RDLCK);
    CHECK_EQ(fcntl(fd, F_SETLEASE, F_RDLCK), 0);
    CHECK_EQ(wait_status(pid), 0);
    CHECK_EQ(fcntl(fd, F_GETLEASE), F_RDLCK);

    /* So does truncation; and the last close gives it back. */
    signals = 0;
    if ((pid = fork()) == 0) {
        close(fd);
        _exit(truncate("file", 1) == 0 ? 0 : errno);
    }
    wait_for_signal(1);
    int second = dup(fd);
    close(fd);
    sleep_ms(20);
    CHECK_EQ(waitpid(pid, NULL, WNOHANG), 0);
    close(second);
    CHECK_EQ(wait_status(pid), 0);

    int ends[2];
    CHECK_EQ(pipe(ends), 0);
    CHECK_ERR(fcntl(ends[0], F_SETLEASE, F_RDLCK), EINVAL);
    fd = open("file", O_RDONLY);
    CHECK_ERR(fcntl(fd, F_SETLEASE, 77), EINVAL);
    return check_result();
}
