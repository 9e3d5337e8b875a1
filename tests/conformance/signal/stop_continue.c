/* Stopping and going on: SIGSTOP, SIGTSTP, SIGCONT, all threads, pending signals, WUNTRACED and WCONTINUED. */
#include "check.h"
#include <sys/mman.h>

static atomic_int *beats;
static volatile sig_atomic_t continued;
static void on_continue(int number) { (void)number; continued++; }

static void *beat(void *argument)
{
    for (;;) {
        atomic_fetch_add(&beats[(long)argument], 1);
        usleep(1000);
    }
    return NULL;
}

int main(void)
{
    int status;
    beats = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MUST(beats != MAP_FAILED);
    pid_t pid = child_fork();
    if (pid == 0) {
        /* Not in an orphaned group, wherever the test was started: SIGTSTP would have no effect there. */
        setpgid(0, 0);
        pthread_t threads[2];
        for (long i = 0; i < 2; i++) pthread_create(&threads[i], NULL, beat, (void *)(i + 1));
        beat(NULL);
    }
    while (beats[0] < 3 || beats[1] < 3 || beats[2] < 3) sleep_ms(1);
    for (int round = 0; round < 3; round++) {
        CHECK_EQ(kill(pid, round == 1 ? SIGTSTP : SIGSTOP), 0);
        CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
        CHECK(WIFSTOPPED(status));
        CHECK_EQ(WSTOPSIG(status), round == 1 ? SIGTSTP : SIGSTOP);
        CHECK_EQ(waitpid(pid, &status, WUNTRACED | WNOHANG), 0);
        CHECK_EQ(process_state(pid), 'T');
        int a = beats[0], b = beats[1], c = beats[2];
        sleep_ms(50);
        CHECK(beats[0] == a && beats[1] == b && beats[2] == c);
        CHECK_EQ(kill(pid, SIGCONT), 0);
        CHECK_EQ(waitpid(pid, &status, WCONTINUED), pid);
        CHECK(WIFCONTINUED(status));
        for (int i = 0; i < 1000 && (beats[0] == a || beats[1] == b || beats[2] == c); i++) sleep_ms(5);
        CHECK(beats[0] > a && beats[1] > b && beats[2] > c);
    }
    CHECK_EQ(kill(pid, SIGKILL), 0);
    CHECK_EQ(wait_status(pid), SIGKILL);

    /* SIGCONT runs its handler after going on, and takes a pending stop away. */
    if ((pid = child_fork()) == 0) {
        catch_signal(SIGCONT, on_continue, 0);
        sigset_t set = signal_set(SIGTSTP), pending;
        sigprocmask(SIG_BLOCK, &set, NULL);
        raise(SIGTSTP);
        CHECK_EQ(sigpending(&pending), 0);
        CHECK_EQ(sigismember(&pending, SIGTSTP), 1);
        raise(SIGCONT);
        CHECK_EQ(continued, 1);
        CHECK_EQ(sigpending(&pending), 0);
        CHECK_EQ(sigismember(&pending, SIGTSTP), 0);
        sigprocmask(SIG_UNBLOCK, &set, NULL);
        raise(SIGSTOP);
        CHECK_EQ(continued, 2);
        child_exit();
    }
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    CHECK(WIFSTOPPED(status));
    CHECK_EQ(kill(pid, SIGCONT), 0);
    CHECK_CHILD(pid);

    /* A sleep that is stopped ends at its time, not later by the stop. */
    if ((pid = child_fork()) == 0) {
        long long start = now_ns();
        struct timespec pause = { 0, 300000000 }, left = { 7, 7 };
        CHECK_EQ(nanosleep(&pause, &left), 0);
        CHECK(now_ns() - start >= 300000000);
        child_exit();
    }
    CHECK(wait_for_state(pid, 'S'));
    CHECK_EQ(kill(pid, SIGSTOP), 0);
    CHECK_EQ(waitpid(pid, &status, WUNTRACED), pid);
    sleep_ms(20);
    CHECK_EQ(kill(pid, SIGCONT), 0);
    CHECK_CHILD(pid);
    return check_result();
}
