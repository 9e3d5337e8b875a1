/* sigprocmask(2), signal(7): what is pending when it is unblocked is delivered before the call returns, whoever sent it
 * and whenever it came; a process-directed signal finds the thread that takes it, however masks change meanwhile. */
#include "check.h"

enum { ROUNDS = 1500, FLIPS = 100 };

static atomic_int caught;
static atomic_long sent, asked;
static pid_t victim;

static void count(int number) { (void)number; atomic_fetch_add(&caught, 1); }

/* Sends one signal each time it is asked to, at a time that has nothing to do with what the other thread does. */
static void *send_when_asked(void *argument)
{
    sigset_t all;
    sigfillset(&all);
    MUST(pthread_sigmask(SIG_BLOCK, &all, NULL) == 0);
    for (long round = 1; round <= ROUNDS; round++) {
        while (atomic_load(&asked) < round) sched_yield();
        MUST(syscall(SYS_tgkill, getpid(), victim, SIGUSR1) == 0);
        atomic_store(&sent, round);
    }
    return argument;
}

static void check_race_of_sender_and_unblocking(void)
{
    sigset_t set = signal_set(SIGUSR1);
    pthread_t sender;
    victim = gettid();
    MUST(pthread_create(&sender, NULL, send_when_asked, NULL) == 0);
    for (long round = 1; round <= ROUNDS; round++) {
        MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
        atomic_store(&asked, round);
        /* Sometimes the signal is there before it is unblocked, sometimes it comes just then. */
        for (volatile int i = 0; i < round % 64 * 40; i++) { }
        bool there = atomic_load(&sent) == round;
        int before = atomic_load(&caught);
        MUST(sigprocmask(SIG_UNBLOCK, &set, NULL) == 0);
        if (there && (before != round - 1 || atomic_load(&caught) != round)) {
            CHECK_FAIL("round %ld: %d caught before, %d after", round, before, atomic_load(&caught));
            _exit(1);
        }
        while (atomic_load(&caught) < round) sched_yield();
    }
    MUST(pthread_join(sender, NULL) == 0);
    CHECK_EQ(atomic_load(&caught), ROUNDS);
}

static atomic_bool done;

/* Is never without the signal blocked for long. */
static void *flip(void *argument)
{
    sigset_t set = signal_set(SIGUSR2);
    while (!atomic_load(&done)) {
        MUST(pthread_sigmask(SIG_UNBLOCK, &set, NULL) == 0);
        MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
        sched_yield();
    }
    return argument;
}

static void check_process_directed_with_flipping_masks(void)
{
    sigset_t set = signal_set(SIGUSR2);
    pthread_t threads[2];
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    atomic_store(&caught, 0);
    for (int i = 0; i < 2; i++) MUST(pthread_create(&threads[i], NULL, flip, NULL) == 0);
    for (int round = 1; round <= FLIPS; round++) {
        MUST(kill(getpid(), SIGUSR2) == 0);
        for (long long start = now_ns(); atomic_load(&caught) < round;) {
            if (now_ns() - start > 20000000000LL) {
                CHECK_FAIL("round %d: the signal does not arrive", round);
                _exit(1);
            }
            sched_yield();
        }
    }
    atomic_store(&done, true);
    for (int i = 0; i < 2; i++) MUST(pthread_join(threads[i], NULL) == 0);
    CHECK_EQ(atomic_load(&caught), FLIPS);
}

/* The old set may lie where the new one does, and is written although a handler runs at once. */
static void check_sets(void)
{
    sigset_t set = signal_set(SIGUSR1), before;
    atomic_store(&caught, 0);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    MUST(raise(SIGUSR1) == 0);
    sigemptyset(&set);
    sigfillset(&before);
    CHECK_EQ(syscall(SYS_rt_sigprocmask, SIG_SETMASK, &set, &set, 8), 0);
    CHECK_EQ(atomic_load(&caught), 1);
    CHECK_EQ(sigismember(&set, SIGUSR1), 1);
    /* The mask has changed although the old one could not be written; what it lets through is delivered. */
    set = signal_set(SIGUSR1);
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    MUST(raise(SIGUSR1) == 0);
    CHECK_ERR(syscall(SYS_rt_sigprocmask, SIG_UNBLOCK, &set, (void *)8, 8), EFAULT);
    CHECK_EQ(atomic_load(&caught), 2);
}

/* Dispositions that nobody has changed, and one that was changed and put back. */
static void check_actions_that_were_never_set(void)
{
    struct { unsigned long handler, flags, restorer, mask; } action;
    for (int number = 1; number <= 64; number++) {
        memset(&action, 0xff, sizeof action);
        CHECK_EQ(syscall(SYS_rt_sigaction, number, NULL, &action, 8), 0);
        if (number != SIGUSR1 && number != SIGUSR2 && number != SIGPIPE)
            CHECK_EQ(action.handler | action.flags | action.restorer | action.mask, 0);
        if (number == SIGUSR1) CHECK_EQ(action.handler, (unsigned long)count);
    }
    CHECK_ERR(syscall(SYS_rt_sigaction, 0, NULL, &action, 8), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, 65, NULL, &action, 8), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGHUP, NULL, (void *)8, 8), EFAULT);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGHUP, NULL, &action, 4), EINVAL);
    catch_signal(SIGHUP, SIG_IGN, 0);
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGHUP, NULL, &action, 8), 0);
    CHECK_EQ(action.handler, 1);
    catch_signal(SIGHUP, SIG_DFL, 0);
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGHUP, NULL, &action, 8), 0);
    CHECK_EQ(action.handler, 0);
}

int main(void)
{
    catch_signal(SIGUSR1, count, 0);
    catch_signal(SIGUSR2, count, 0);
    check_actions_that_were_never_set();
    check_sets();
    atomic_store(&caught, 0);
    check_race_of_sender_and_unblocking();
    check_process_directed_with_flipping_masks();
    return check_result();
}
