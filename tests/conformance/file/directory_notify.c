/* F_NOTIFY: signals about what happens in a directory. */
#include "check.h"

static volatile sig_atomic_t signals;
static volatile int last_fd, last_code;
static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)context;
    signals++;
    last_fd = info->si_fd;
    last_code = info->si_code;
}

/* Runs the operation and returns how many signals it gave. */
#define SIGNALS_OF(operation) \
    ({ signals = 0; CHECK((operation) >= 0); signals; })

int main(void)
{
    struct sigaction action = { .sa_flags = SA_SIGINFO | SA_RESTART };
    action.sa_sigaction = on_signal;
    sigaction(SIGRTMIN + 1, &action, NULL);
    sigaction(SIGIO, &action, NULL);
    CHECK_EQ(mkdir("watched", 0755), 0);
    CHECK_EQ(mkdir("other", 0755), 0);
    int fd = open("watched", O_RDONLY | O_DIRECTORY);
    MUST(fd >= 0);
    int file = make_file("plain", "x");
    CHECK_ERR(fcntl(file, F_NOTIFY, DN_CREATE), ENOTDIR);
    CHECK_EQ(fcntl(fd, F_SETSIG, SIGRTMIN + 1), 0);
    CHECK_EQ(fcntl(fd, F_NOTIFY, DN_CREATE | DN_DELETE | DN_RENAME | DN_MULTISHOT), 0);
    CHECK_EQ(SIGNALS_OF(mkdir("watched/a", 0755)), 1);
    CHECK_EQ(last_fd, fd);
    CHECK_EQ(last_code, POLL_MSG);
    CHECK_EQ(SIGNALS_OF(rmdir("watched/a")), 1);
    CHECK_EQ(SIGNALS_OF(mkdir("other/a", 0755)), 0);
    CHECK_EQ(SIGNALS_OF(chmod("watched", 0700)), 0);
    /* Without DN_MULTISHOT once. */
    CHECK_EQ(fcntl(fd, F_NOTIFY, 0), 0);
    CHECK_EQ(SIGNALS_OF(mkdir("watched/a", 0755)), 0);
    CHECK_EQ(fcntl(fd, F_NOTIFY, DN_CREATE), 0);
    CHECK_EQ(SIGNALS_OF(mkdir("watched/b", 0755)), 1);
    CHECK_EQ(SIGNALS_OF(mkdir("watched/c", 0755)), 0);
    /* A rename counts where it stays in the directory. */
    CHECK_EQ(fcntl(fd, F_NOTIFY, DN_RENAME | DN_MULTISHOT), 0);
    CHECK_EQ(SIGNALS_OF(rename("watched/b", "watched/d")), 1);
    CHECK_EQ(SIGNALS_OF(rename("watched/d", "other/d")), 0);
    /* The default signal; and closing ends it. */
    CHECK_EQ(fcntl(fd, F_SETSIG, 0), 0);
    CHECK_EQ(fcntl(fd, F_NOTIFY, DN_CREATE | DN_MULTISHOT), 0);
    CHECK_EQ(SIGNALS_OF(mkdir("watched/e", 0755)), 1);
    close(fd);
    CHECK_EQ(SIGNALS_OF(mkdir("watched/f", 0755)), 0);
    return check_result();
}
