/* sigaction(2): what is stored and given back, refusals, default and ignored dispositions, SA_NODEFER, SA_RESETHAND. */
#include "check.h"

static volatile sig_atomic_t count, depth, deepest, blocked_inside, other_inside;

static void simple(int number) { (void)number; count++; }

static void look_at_mask(int number)
{
    sigset_t now;
    sigprocmask(SIG_BLOCK, NULL, &now);
    blocked_inside = sigismember(&now, number);
    other_inside = sigismember(&now, SIGUSR2);
}

static void nest(int number)
{
    if (++depth > deepest) deepest = depth;
    if (++count < 3) raise(number);
    depth--;
}

int main(void)
{
    struct sigaction action = { 0 }, old;
    CHECK_EQ(sigaction(SIGUSR1, NULL, &old), 0);
    CHECK(old.sa_handler == SIG_DFL);
    action.sa_handler = simple;
    sigemptyset(&action.sa_mask);
    sigaddset(&action.sa_mask, SIGUSR2);
    action.sa_flags = SA_RESTART;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    CHECK_EQ(sigaction(SIGUSR1, NULL, &old), 0);
    CHECK(old.sa_handler == simple);
    CHECK_EQ(old.sa_flags & (SA_RESTART | SA_SIGINFO | SA_NODEFER), SA_RESTART);
    CHECK_EQ(sigismember(&old.sa_mask, SIGUSR2), 1);
    CHECK_EQ(sigismember(&old.sa_mask, SIGINT), 0);
    CHECK_ERR(sigaction(SIGKILL, &action, NULL), EINVAL);
    CHECK_ERR(sigaction(SIGSTOP, &action, NULL), EINVAL);
    CHECK_EQ(sigaction(SIGKILL, NULL, &old), 0);
    CHECK_ERR(sigaction(0, &action, NULL), EINVAL);
    CHECK_ERR(sigaction(65, &action, NULL), EINVAL);
    CHECK_ERR(syscall(SYS_rt_sigaction, SIGUSR1, NULL, NULL, 4), EINVAL);

    CHECK_EQ(raise(SIGUSR1), 0);
    CHECK_EQ(count, 1);

    /* While the handler runs, its signal and sa_mask are blocked; afterwards they are not. */
    action.sa_handler = look_at_mask;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    raise(SIGUSR1);
    CHECK_EQ(blocked_inside, 1);
    CHECK_EQ(other_inside, 1);
    sigset_t now;
    CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &now), 0);
    CHECK_EQ(sigismember(&now, SIGUSR1), 0);
    CHECK_EQ(sigismember(&now, SIGUSR2), 0);
    action.sa_flags = SA_NODEFER;
    CHECK_EQ(sigaction(SIGUSR1, &action, NULL), 0);
    raise(SIGUSR1);
    CHECK_EQ(blocked_inside, 0);
    CHECK_EQ(other_inside, 1);

    /* Without SA_NODEFER a raise inside waits until the handler is done; with it, it nests. */
    count = 0;
    catch_signal(SIGUSR1, nest, 0);
    raise(SIGUSR1);
    CHECK_EQ(count, 3);
    CHECK_EQ(deepest, 1);
    count = deepest = 0;
    catch_signal(SIGUSR1, nest, SA_NODEFER);
    raise(SIGUSR1);
    CHECK_EQ(count, 3);
    CHECK_EQ(deepest, 3);

    /* SA_RESETHAND: once, then the default. */
    count = 0;
    catch_signal(SIGURG, simple, SA_RESETHAND);
    raise(SIGURG);
    raise(SIGURG);
    CHECK_EQ(count, 1);
    CHECK_EQ(sigaction(SIGURG, NULL, &old), 0);
    CHECK(old.sa_handler == SIG_DFL);

    /* signal(3) means SA_RESTART. */
    CHECK(signal(SIGUSR2, simple) == SIG_DFL);
    CHECK_EQ(sigaction(SIGUSR2, NULL, &old), 0);
    CHECK_EQ(old.sa_flags & SA_RESTART, SA_RESTART);

    /* Default actions. */
    static const struct { int number; char what; } actions[] = {
        { SIGHUP, 't' }, { SIGINT, 't' }, { SIGQUIT, 't' }, { SIGILL, 't' }, { SIGTRAP, 't' }, { SIGABRT, 't' },
        { SIGBUS, 't' }, { SIGFPE, 't' }, { SIGKILL, 't' }, { SIGUSR1, 't' }, { SIGSEGV, 't' }, { SIGUSR2, 't' },
        { SIGPIPE, 't' }, { SIGALRM, 't' }, { SIGTERM, 't' }, { SIGSTKFLT, 't' }, { SIGCHLD, 'i' }, { SIGCONT, 'i' },
        { SIGSTOP, 's' }, { SIGTSTP, 's' }, { SIGTTIN, 's' }, { SIGTTOU, 's' }, { SIGURG, 'i' }, { SIGXCPU, 't' },
        { SIGXFSZ, 't' }, { SIGVTALRM, 't' }, { SIGPROF, 't' }, { SIGWINCH, 'i' }, { SIGIO, 't' }, { SIGPWR, 't' },
        { SIGSYS, 't' }, { 34, 't' }, { 50, 't' }, { 64, 't' },
    };
    for (size_t i = 0; i < sizeof actions / sizeof *actions; i++) {
        int number = actions[i].number, status;
        pid_t pid = child_fork();
        if (pid == 0) {
            /* A group of its own is never orphaned here, wherever the test was started: then the stops have effect. */
            setpgid(0, 0);
            if (number != SIGKILL && number != SIGSTOP) catch_signal(number, SIG_DFL, 0);
            raise(number);
            _exit(9);
        }
        MUST(waitpid(pid, &status, WUNTRACED) == pid);
        if (actions[i].what == 't' && (!WIFSIGNALED(status) || WTERMSIG(status) != number))
            CHECK_FAIL("signal %d does not terminate: 0x%x", number, status);
        if (actions[i].what == 'i' && status != 9 << 8) CHECK_FAIL("signal %d is not ignored: 0x%x", number, status);
        if (actions[i].what == 's') {
            if (!WIFSTOPPED(status) || WSTOPSIG(status) != number) CHECK_FAIL("signal %d does not stop: 0x%x", number, status);
            kill(pid, SIGKILL);
            MUST(waitpid(pid, &status, 0) == pid);
        }
    }
    return check_result();
}
