/* Real-time signals queue, lowest number first, in order; standard ones do not; the queue has a limit. */
#include "check.h"
#include <sys/resource.h>

static volatile sig_atomic_t numbers[64], values[64], length;
static void record(int number, siginfo_t *info, void *context)
{
    (void)context;
    if (length < 64) {
        numbers[length] = number;
        values[length++] = info->si_value.sival_int;
    }
}

int main(void)
{
    sigset_t set, old;
    sigemptyset(&set);
    for (int number = SIGRTMIN; number <= SIGRTMAX; number++) {
        struct sigaction action = { .sa_sigaction = record, .sa_flags = SA_SIGINFO };
        sigfillset(&action.sa_mask);
        CHECK_EQ(sigaction(number, &action, NULL), 0);
        sigaddset(&set, number);
    }
    CHECK(SIGRTMAX - SIGRTMIN >= 29);
    MUST(sigprocmask(SIG_BLOCK, &set, &old) == 0);
    for (int i = 0; i < 5; i++)
        for (int number = SIGRTMIN + 2; number >= SIGRTMIN; number--) {
            union sigval value = { .sival_int = i };
            CHECK_EQ(sigqueue(getpid(), number, value), 0);
        }
    MUST(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
    CHECK_EQ(length, 15);
    for (int i = 0; i < 15; i++) {
        CHECK_EQ(numbers[i], SIGRTMIN + i / 5);
        CHECK_EQ(values[i], i % 5);
    }

    /* RLIMIT_SIGPENDING. */
    pid_t pid = child_fork();
    if (pid == 0) {
        struct rlimit limit = { 8, 8 };
        CHECK_EQ(setrlimit(RLIMIT_SIGPENDING, &limit), 0);
        MUST(sigprocmask(SIG_BLOCK, &set, &old) == 0);
        union sigval value = { 0 };
        int queued = 0;
        while (queued < 100 && sigqueue(getpid(), SIGRTMIN, value) == 0) queued++;
        CHECK(queued <= 8);
        CHECK_ERR(sigqueue(getpid(), SIGRTMIN, value), EAGAIN);
        /* kill() of a standard signal still works. */
        CHECK_EQ(kill(getpid(), SIGCHLD), 0);
        child_exit();
    }
    CHECK_CHILD(pid);
    return check_result();
}
