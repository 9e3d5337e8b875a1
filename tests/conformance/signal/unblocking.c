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

struct action { unsigned long handler, flags, restorer, mask; };

static bool is_action(int number, struct action expected)
{
    struct action present;
    memset(&present, 0xff, sizeof present);
    return syscall(SYS_rt_sigaction, number, NULL, &present, 8) == 0 && memcmp(&present, &expected, sizeof present) == 0;
}

static const struct action reset = { 0, 0x04000000, 0x1234000, 0 }, reset_too = { 0, 0x04000000, 0x5678000, 0 }, initial;

static void *check_in_thread(void *argument)
{
    CHECK(is_action(SIGTERM, reset));
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGALRM, &reset, NULL, 8), 0);
    return argument;
}

/* What is the default is made so again: what can be seen of that is seen by whoever has the dispositions or a copy. */
static void check_defaults_that_are_set_again(void)
{
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGTERM, &reset, NULL, 8), 0);
    CHECK(is_action(SIGTERM, reset));
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGQUIT, &reset_too, NULL, 8), 0);
    CHECK(is_action(SIGQUIT, reset_too) && is_action(SIGTERM, reset) && is_action(SIGXCPU, initial));
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGVTALRM, &reset, NULL, 8), 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(is_action(SIGVTALRM, reset) && is_action(SIGTERM, reset));
        CHECK_EQ(syscall(SYS_rt_sigaction, SIGXCPU, &reset, NULL, 8), 0);
        CHECK(is_action(SIGXCPU, reset));
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK(is_action(SIGXCPU, initial));
    pid = vfork();
    if (pid == 0) _exit(syscall(SYS_rt_sigaction, SIGXCPU, &reset, NULL, 8) == 0 && is_action(SIGXCPU, reset) ? 0 : 1);
    CHECK_CHILD(pid);
    CHECK(is_action(SIGXCPU, initial));
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, check_in_thread, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(is_action(SIGALRM, reset));
    struct action before;
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGTERM, &initial, &before, 8), 0);
    CHECK_EQ(before.restorer, reset.restorer);
    CHECK(is_action(SIGTERM, initial));
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGKILL, &reset, NULL, 8), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGXCPU, (void *)8, NULL, 8), EFAULT);
    /* One that is ignored by default is pending no longer. */
    sigset_t set = signal_set(SIGURG), pending;
    MUST(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && raise(SIGURG) == 0 && sigpending(&pending) == 0);
    CHECK_EQ(sigismember(&pending, SIGURG), 1);
    CHECK_EQ(syscall(SYS_rt_sigaction, SIGURG, &reset, NULL, 8), 0);
    MUST(sigpending(&pending) == 0);
    CHECK_EQ(sigismember(&pending, SIGURG), 0);
}

int main(void)
{
    catch_signal(SIGUSR1, count, 0);
    catch_signal(SIGUSR2, count, 0);
    check_actions_that_were_never_set();
    check_sets();
    check_defaults_that_are_set_again();
    atomic_store(&caught, 0);
    check_race_of_sender_and_unblocking();
    check_process_directed_with_flipping_masks();
    return check_result();
}
