/* siglongjmp out of handlers restores the mask when asked; out of a handler inside a blocking call too. */
#include "check.h"
#include <setjmp.h>
#include <sys/time.h>

static sigjmp_buf back;
static void leave(int number) { siglongjmp(back, number); }

int main(void)
{
    catch_signal(SIGUSR1, leave, 0);
    sigset_t now, set = signal_set(SIGUSR1);
    for (volatile int i = 0; i < 100; i++) {
        if (sigsetjmp(back, 1) == 0) {
            raise(SIGUSR1);
            CHECK(!"reached");
        }
        CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
        CHECK_EQ(sigismember(&now, SIGUSR1), 0);
    }
    /* Without the mask saved it stays blocked. */
    if (sigsetjmp(back, 0) == 0) raise(SIGUSR1);
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
    CHECK_EQ(sigismember(&now, SIGUSR1), 1);
    CHECK_EQ(sigprocmask(SIG_UNBLOCK, &set, NULL), 0);

    int ends[2];
    MUST(pipe(ends) == 0);
    catch_signal(SIGALRM, leave, SA_RESTART);
    struct itimerval timer = { { 0, 0 }, { 0, 5000 } };
    for (volatile int i = 0; i < 50; i++) {
        if (sigsetjmp(back, 1) == 0) {
            MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
            char byte;
            CHECK_EQ(read(ends[0], &byte, 1), -2);
        }
    }
    /* The pipe still works. */
    CHECK_EQ(write(ends[1], "x", 1), 1);
    char byte;
    CHECK_EQ(read(ends[0], &byte, 1), 1);
    /* Out of sleep and of a busy loop. */
    if (sigsetjmp(back, 1) == 0) {
        MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
        sleep(100);
        CHECK(!"slept");
    }
    if (sigsetjmp(back, 1) == 0) {
        MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
        for (;;) { }
    }
    return check_result();
}
