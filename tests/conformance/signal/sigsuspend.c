/* sigsuspend(2), ppoll and pselect with a mask: atomic unblock-and-wait, the mask comes back. */
#include "check.h"
#include <poll.h>
#include <sys/select.h>

static volatile sig_atomic_t count, usr2_blocked;
static void handler(int number)
{
    (void)number;
    count++;
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    usr2_blocked = sigismember(&now, SIGUSR2);
}

int main(void)
{
    catch_signal(SIGUSR1, handler, SA_RESTART);
    sigset_t block = signal_set(SIGUSR1), wait = signal_set(SIGUSR2), now;
    CHECK_EQ(sigprocmask(SIG_BLOCK, &block, NULL), 0);
    raise(SIGUSR1);
    CHECK_EQ(count, 0);
    /* Already pending: it returns at once, and the handler ran under the temporary mask. */
    CHECK_ERR(sigsuspend(&wait), EINTR);
    CHECK_EQ(count, 1);
    CHECK_EQ(usr2_blocked, 1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
    CHECK_EQ(sigismember(&now, SIGUSR1), 1);
    CHECK_EQ(sigismember(&now, SIGUSR2), 0);

    /* Sent while waiting; a blocked one does not end it. */
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(wait_for_state(getppid(), 'S'));
        kill(getppid(), SIGUSR2);
        sleep_ms(30);
        kill(getppid(), SIGUSR1);
        child_exit();
    }
    catch_signal(SIGUSR2, handler, 0);
    CHECK_ERR(sigsuspend(&wait), EINTR);
    CHECK(count >= 2);
    CHECK_CHILD(pid);
    while (count < 3) sleep_ms(1);

    /* A hundred round trips between two processes lose no signal. */
    count = 0;
    sigset_t both = signal_set(SIGUSR1), none = signal_set(0);
    sigaddset(&both, SIGUSR2);
    CHECK_EQ(sigprocmask(SIG_BLOCK, &both, NULL), 0);
    pid_t parent = getpid();
    if ((pid = child_fork()) == 0) {
        for (int i = 0; i < 100; i++) {
            while (count <= i) sigsuspend(&none);
            kill(parent, SIGUSR1);
        }
        child_exit();
    }
    for (int i = 0; i < 100; i++) {
        kill(pid, SIGUSR2);
        while (count <= i) sigsuspend(&none);
    }
    CHECK_EQ(count, 100);
    CHECK_CHILD(pid);

    /* ppoll and pselect. */
    int ends[2];
    MUST(pipe(ends) == 0);
    struct pollfd waiting = { ends[0], POLLIN, 0 };
    struct timespec soon = { 0, 20000000 };
    raise(SIGUSR1);
    CHECK_EQ(ppoll(&waiting, 1, &soon, NULL), 0);
    CHECK_ERR(ppoll(&waiting, 1, NULL, &none), EINTR);
    CHECK_EQ(count, 101);
    raise(SIGUSR2);
    CHECK_ERR(pselect(0, NULL, NULL, NULL, NULL, &none), EINTR);
    CHECK_EQ(count, 102);
    /* What is ready wins over a pending signal, which then waits on. */
    CHECK_EQ(write(ends[1], "x", 1), 1);
    raise(SIGUSR1);
    int ready = ppoll(&waiting, 1, NULL, &none);
    CHECK(ready == 1 || (ready == -1 && errno == EINTR));
    return check_result();
}
