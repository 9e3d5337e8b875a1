/* Processes and threads that come and go in all ways at once, while signals and kills hit them: nothing is lost, nobody
 * waits for ever, and nobody is left over. `churn ROUNDS` does more of it. */
#include "check.h"
#include <spawn.h>
#include <sys/prctl.h>

extern char **environ;

enum { WORKERS = 4 };

static const char *self;
static atomic_int hits;
static volatile sig_atomic_t stopping;

static void on_signal(int signal)
{
    (void)signal;
    atomic_fetch_add(&hits, 1);
}

static void *nothing(void *argument) { return argument; }

static void *linger(void *argument)
{
    while (!stopping) usleep(200);
    return argument;
}

static void expect(pid_t child, int by_signal, int code)
{
    int status = wait_status(child);
    if (by_signal) CHECK(WIFSIGNALED(status) && WTERMSIG(status) == by_signal);
    else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == code);
}

static void plain_fork(int n)
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) _exit(n & 63);
    expect(child, 0, n & 63);
}

static void fork_exec(int n)
{
    (void)n;
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        execl(self, self, "--exit", "7", NULL);
        _exit(1);
    }
    expect(child, 0, 7);
}

static void vfork_exec(int n)
{
    (void)n;
    pid_t child = vfork();
    MUST(child >= 0);
    if (child == 0) {
        execl(self, self, "--exit", "8", NULL);
        _exit(1);
    }
    expect(child, 0, 8);
}

static void spawn(int n)
{
    (void)n;
    char *arguments[] = {(char *)self, "--exit", "9", NULL};
    pid_t child;
    MUST(posix_spawn(&child, self, NULL, NULL, arguments, environ) == 0);
    expect(child, 0, 9);
}

static void threads(int n)
{
    pthread_t made[8];
    int count = 1 + n % 8;
    for (int i = 0; i < count; i++) MUST(pthread_create(&made[i], NULL, nothing, (void *)(long)i) == 0);
    if (n & 1) pthread_kill(made[0], SIGUSR1);
    for (int i = 0; i < count; i++) {
        void *result = NULL;
        CHECK_EQ(pthread_join(made[i], &result), 0);
        CHECK_EQ((long)result, i);
    }
}

/* Killed at any time: while it forks, makes threads, executes, or has just begun. */
static void killed(int n)
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        for (int i = 0;; i++) {
            pthread_t thread;
            if (pthread_create(&thread, NULL, nothing, NULL) == 0) pthread_join(thread, NULL);
            if (i % 3 == n % 3) execl(self, self, "--forks", NULL);
        }
    }
    usleep(n * 37 % 1500);
    kill(child, SIGKILL);
    expect(child, SIGKILL, 0);
}

/* One thread ends the process while others are in the middle of something. */
static void ends_in_thread(int n)
{
    pid_t child = fork();
    MUST(child >= 0);
    if (child == 0) {
        pthread_t thread;
        for (int i = 0; i < 4; i++) pthread_create(&thread, NULL, linger, NULL);
        if (n & 1) execl(self, self, "--exit", "5", NULL);
        _exit(5);
    }
    expect(child, 0, 5);
}

static void *work(void *argument)
{
    void (*const ways[])(int) = {plain_fork, threads, fork_exec, killed, vfork_exec, plain_fork, spawn, ends_in_thread};
    int rounds = *(int *)argument;
    for (int i = 0; i < rounds; i++) ways[i % 8](i);
    return NULL;
}

/* Signals to the process, all the while. */
static void *disturb(void *argument)
{
    while (!stopping) {
        kill(getpid(), SIGUSR1);
        usleep(300);
    }
    return argument;
}

int main(int count, char **arguments)
{
    self = arguments[0];
    if (count > 2 && strcmp(arguments[1], "--exit") == 0) return atoi(arguments[2]);
    if (count > 1 && strcmp(arguments[1], "--forks") == 0) {
        for (;;) {
            pid_t child = fork();
            if (child == 0) _exit(0);
            if (child > 0) waitpid(child, NULL, 0);
        }
    }
    int rounds = count > 1 ? atoi(arguments[1]) : 100;
    signal(SIGUSR1, on_signal);
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    /* What the killed ones leave behind comes here. */
    MUST(prctl(PR_SET_CHILD_SUBREAPER, 1) == 0);

    pthread_t workers[WORKERS], disturber;
    MUST(pthread_create(&disturber, NULL, disturb, NULL) == 0);
    for (int i = 0; i < WORKERS; i++) MUST(pthread_create(&workers[i], NULL, work, &rounds) == 0);
    for (int i = 0; i < WORKERS; i++) pthread_join(workers[i], NULL);
    stopping = 1;
    pthread_join(disturber, NULL);
    CHECK(atomic_load(&hits) > 0);

    /* Orphans end by themselves; none stays for ever. */
    alarm(30);
    int status;
    while (waitpid(-1, &status, 0) > 0) continue;
    CHECK_ERR(waitpid(-1, &status, 0), ECHILD);
    return check_result();
}
