/* wait4, waitpid: which child, options, statuses, usage, blocking and interruption. */
#include "check.h"
#include <sys/resource.h>

static volatile sig_atomic_t caught;
static void on_signal(int number) { caught = number; }

static pid_t exiting(int code)
{
    pid_t pid = child_fork();
    if (pid == 0) _exit(code);
    return pid;
}

int main(void)
{
    int status;
    CHECK_ERR(wait(NULL), ECHILD);
    CHECK_ERR(waitpid(getppid(), &status, 0), ECHILD);
    CHECK_ERR(waitpid(-1, &status, 0x100), EINVAL);
    pid_t pid = exiting(0);
    CHECK_EQ(wait(NULL), pid);
    static const int codes[] = { 0, 1, 127, 255, 256, 511, -1 };
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        pid = exiting(codes[i]);
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK(WIFEXITED(status));
        CHECK_EQ(WEXITSTATUS(status), codes[i] & 0xff);
    }
    const int signals[] = { SIGKILL, SIGTERM, SIGUSR1, SIGHUP, SIGALRM, SIGPIPE, SIGRTMIN, 64 };
    for (size_t i = 0; i < sizeof signals / sizeof *signals; i++) {
        if ((pid = child_fork()) == 0) {
            kill(getpid(), signals[i]);
            for (;;) pause();
        }
        CHECK_EQ(waitpid(pid, &status, 0), pid);
        CHECK(WIFSIGNALED(status));
        CHECK_EQ(WTERMSIG(status), signals[i]);
    }

    /* WNOHANG while it runs; a zombie stays until it is waited for. */
    int gate[2];
    MUST(pipe(gate) == 0);
    if ((pid = child_fork()) == 0) {
        char byte;
        close(gate[1]);
        _exit(read(gate[0], &byte, 1) == 0 ? 4 : 5);
    }
    status = 1234;
    CHECK_EQ(waitpid(pid, &status, WNOHANG), 0);
    CHECK_EQ(status, 1234);
    close(gate[1]);
    CHECK(wait_for_state(pid, 'Z'));
    CHECK_EQ(kill(pid, 0), 0);
    struct rusage usage = { 0 };
    CHECK_EQ(wait4(pid, &status, WNOHANG, &usage), pid);
    CHECK_EQ(status, 4 << 8);
    CHECK_ERR(waitpid(pid, &status, WNOHANG), ECHILD);

    /* By process group. */
    pid_t a = child_fork();
    if (a == 0) {
        setpgid(0, 0);
        _exit(1);
    }
    setpgid(a, a);
    pid_t b = child_fork();
    if (b == 0) {
        setpgid(0, a);
        _exit(2);
    }
    setpgid(b, a);
    pid_t c = exiting(3);
    CHECK_EQ(waitpid(0, &status, 0), c);
    pid_t first = waitpid(-a, &status, 0), second = waitpid(-a, &status, 0);
    CHECK((first == a && second == b) || (first == b && second == a));
    CHECK_ERR(waitpid(-a, &status, 0), ECHILD);

    /* Any child, in the order that they end. */
    enum { COUNT = 20 };
    for (int i = 0; i < COUNT; i++) exiting(i);
    int seen = 0;
    while (wait(&status) > 0) seen |= 1 << WEXITSTATUS(status);
    CHECK_EQ(seen, (1 << COUNT) - 1);

    /* A handler without SA_RESTART interrupts wait; with it, wait goes on. */
    if ((pid = child_fork()) == 0) {
        CHECK(wait_for_state(getppid(), 'S'));
        kill(getppid(), SIGUSR1);
        for (;;) pause();
    }
    catch_signal(SIGUSR1, on_signal, 0);
    CHECK_ERR(waitpid(pid, &status, 0), EINTR);
    CHECK_EQ(caught, SIGUSR1);
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(wait_status(pid), SIGKILL);
    caught = 0;
    catch_signal(SIGUSR1, on_signal, SA_RESTART);
    if ((pid = child_fork()) == 0) {
        CHECK(wait_for_state(getppid(), 'S'));
        kill(getppid(), SIGUSR1);
        usleep(50000);
        child_exit();
    }
    CHECK_EQ(waitpid(pid, &status, 0), pid);
    CHECK_EQ(status, 0);
    CHECK_EQ(caught, SIGUSR1);

    /* The child's own usage, and the sum over all that were waited for. */
    if ((pid = child_fork()) == 0) {
        volatile unsigned long spin = 0;
        /* By its own clock: on a busy machine real time says nothing. */
        struct timespec own;
        do {
            spin++;
            clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &own);
        } while (own.tv_sec == 0 && own.tv_nsec < 20000000);
        _exit(0);
    }
    CHECK_EQ(wait4(pid, &status, 0, &usage), pid);
    long used = usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec;
    CHECK(used >= 5000 && used < 10000000);
    CHECK(usage.ru_maxrss > 100);
    struct rusage children;
    CHECK_EQ(getrusage(RUSAGE_CHILDREN, &children), 0);
    CHECK(children.ru_utime.tv_sec * 1000000 + children.ru_utime.tv_usec + children.ru_stime.tv_sec * 1000000 +
              children.ru_stime.tv_usec >= used);
    return check_result();
}
