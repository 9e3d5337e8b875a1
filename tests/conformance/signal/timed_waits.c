/* futex waits with a length, through stops and signals that nobody handles: they last as long as was asked, no less and no more. */
#include "../check.h"
#include <linux/futex.h>
#include <sys/prctl.h>

static long long now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void pause_ms(int length)
{
    struct timespec time = { length / 1000, length % 1000 * 1000000L };
    while (nanosleep(&time, &time) != 0) {}
}

static void handler(int number) { (void)number; }

int main(void)
{
    int word = 1;
    struct timespec length = { 0, 400000000 };
    CHECK_EQ(prctl(PR_SET_PDEATHSIG, SIGKILL), 0);
    pid_t pid = getpid(), child = child_fork();
    if (child == 0) {
        pause_ms(60);
        for (int i = 0; i < 5; i++) {
            kill(pid, SIGURG);
            kill(pid, SIGSTOP);
            pause_ms(20);
            kill(pid, SIGCONT);
            pause_ms(20);
        }
        child_exit();
    }
    long long start = now_ms();
    CHECK_ERR(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &length, NULL, 0), ETIMEDOUT);
    long long took = now_ms() - start;
    CHECK(took >= 400);
    CHECK(took < 1400);
    CHECK_CHILD(child);

    /* A handler ends it, whatever it says of restarting. */
    struct sigaction action = { .sa_handler = handler, .sa_flags = SA_RESTART };
    MUST(sigaction(SIGUSR1, &action, NULL) == 0);
    child = child_fork();
    if (child == 0) {
        pause_ms(60);
        kill(pid, SIGUSR1);
        child_exit();
    }
    length.tv_sec = 20;
    CHECK_ERR(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &length, NULL, 0), EINTR);
    CHECK_CHILD(child);

    /* To a point in time, which a stop does not move. */
    child = child_fork();
    if (child == 0) {
        pause_ms(30);
        kill(pid, SIGSTOP);
        pause_ms(60);
        kill(pid, SIGCONT);
        child_exit();
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 200000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    start = now_ms();
    CHECK_ERR(syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_CLOCK_REALTIME, 1, &until, NULL, FUTEX_BITSET_MATCH_ANY), ETIMEDOUT);
    CHECK(now_ms() - start >= 190);
    CHECK_CHILD(child);

    CHECK_ERR(syscall(SYS_futex, &word, FUTEX_WAIT | FUTEX_CLOCK_REALTIME, 1, &length, NULL, 0), ENOSYS);
    CHECK_ERR(syscall(SYS_futex, &word, FUTEX_WAIT, 2, &length, NULL, 0), EAGAIN);
    length.tv_nsec = 1000000000;
    CHECK_ERR(syscall(SYS_futex, &word, FUTEX_WAIT, 1, &length, NULL, 0), EINVAL);
    return check_result();
}
