/* execve(2): arguments, environment, what is kept and what is reset, auxiliary vector, threads. */
#include "check.h"
#include <sys/auxv.h>
#include <sys/time.h>

extern char **environ;
static char *self;

static void handler(int number) { (void)number; }

static void *exec_from_thread(void *argument)
{
    char *arguments[] = { self, "thread", argument, NULL };
    execv("/proc/self/exe", arguments);
    return NULL;
}

static void *spin(void *argument)
{
    for (;;) sched_yield();
    return argument;
}

static int child(int argc, char **argv)
{
    if (strcmp(argv[1], "arguments") == 0) {
        CHECK_EQ(argc, 5);
        CHECK_STR(argv[2], "");
        CHECK_STR(argv[3], "with space");
        CHECK_STR(argv[4], "\xff\n");
        CHECK(argv[5] == NULL);
        CHECK_STR(environ[0], "ONE=1");
        CHECK_STR(environ[1], "TWO=");
        CHECK(environ[2] == NULL);
        CHECK_STR((char *)getauxval(AT_EXECFN), "/proc/self/exe");
        CHECK_EQ(getauxval(AT_PAGESZ), sysconf(_SC_PAGESIZE));
        CHECK(getauxval(AT_RANDOM) != 0);
        CHECK(getauxval(AT_PHDR) != 0);
        CHECK_EQ(getauxval(AT_UID), getuid());
        CHECK_EQ(getauxval(AT_EGID), getegid());
        CHECK_EQ(getauxval(AT_SECURE), 0);
    } else if (strcmp(argv[1], "state") == 0) {
        int fd = atoi(argv[2]);
        CHECK(fcntl(fd, F_GETFD) >= 0);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), 3);
        CHECK_ERR(fcntl(fd + 1, F_GETFD), EBADF);
        CHECK_EQ(getpid(), atoi(argv[3]));
        struct sigaction action;
        CHECK_EQ(sigaction(SIGUSR1, NULL, &action), 0);
        CHECK(action.sa_handler == SIG_DFL);
        CHECK_EQ(sigaction(SIGUSR2, NULL, &action), 0);
        CHECK(action.sa_handler == SIG_IGN);
        sigset_t set;
        CHECK_EQ(sigprocmask(SIG_BLOCK, NULL, &set), 0);
        CHECK_EQ(sigismember(&set, SIGTERM), 1);
        CHECK_EQ(sigismember(&set, SIGINT), 0);
        CHECK_EQ(sigpending(&set), 0);
        CHECK_EQ(sigismember(&set, SIGTERM), 1);
        struct itimerval timer;
        CHECK_EQ(getitimer(ITIMER_REAL, &timer), 0);
        CHECK(timer.it_value.tv_sec > 50);
        CHECK_EQ(umask(0), 027);
        char here[PATH_MAX];
        CHECK(getcwd(here, sizeof here) && strstr(here, "/sub") != NULL);
        stack_t stack;
        CHECK_EQ(sigaltstack(NULL, &stack), 0);
        CHECK(stack.ss_flags & SS_DISABLE);
    } else if (strcmp(argv[1], "thread") == 0) {
        CHECK_EQ(getpid(), atoi(argv[2]));
        CHECK_EQ(syscall(SYS_gettid), getpid());
        char *text = read_file("/proc/self/status"), *line = text ? strstr(text, "\nThreads:") : NULL;
        CHECK(line && atoi(line + 9) == 1);
    } else if (strcmp(argv[1], "big") == 0) {
        CHECK_EQ(argc, 2003);
        size_t total = 0;
        for (int i = 2; i < argc; i++) total += strlen(argv[i]);
        CHECK_EQ(total, 2001 * 100);
    } else if (strcmp(argv[1], "random") == 0) {
        const unsigned char *random = (unsigned char *)getauxval(AT_RANDOM);
        if (write(1, random, 16) != 16) return 1;
    }
    return check_result();
}

static void run(char **arguments, char **environment)
{
    pid_t pid = child_fork();
    if (pid == 0) {
        execve("/proc/self/exe", arguments, environment);
        CHECK_FAIL("execve: %d", errno);
        child_exit();
    }
    CHECK_CHILD(pid);
}

int main(int argc, char **argv)
{
    self = argv[0];
    if (argc > 1) return child(argc, argv);
    char *environment[] = { "ONE=1", "TWO=", NULL };
    char *arguments[] = { "name", "arguments", "", "with space", "\xff\n", NULL };
    run(arguments, environment);

    pid_t pid = child_fork();
    if (pid == 0) {
        int fd = make_file("f", "0123456789");
        fcntl(fd, F_SETFD, 0);
        MUST(fcntl(fd, F_DUPFD_CLOEXEC, fd + 1) == fd + 1);
        MUST(lseek(fd, 3, SEEK_SET) == 3);
        catch_signal(SIGUSR1, handler, SA_ONSTACK);
        catch_signal(SIGUSR2, SIG_IGN, 0);
        sigset_t set = signal_set(SIGTERM);
        sigprocmask(SIG_SETMASK, &set, NULL);
        raise(SIGTERM);
        stack_t stack = { .ss_sp = malloc(SIGSTKSZ), .ss_size = SIGSTKSZ };
        MUST(sigaltstack(&stack, NULL) == 0);
        struct itimerval timer = { { 0, 0 }, { 100, 0 } };
        MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
        umask(027);
        MUST(mkdir("sub", 0755) == 0 && chdir("sub") == 0);
        char number[16], own[16];
        snprintf(number, sizeof number, "%d", fd);
        snprintf(own, sizeof own, "%d", getpid());
        execl("/proc/self/exe", self, "state", number, own, NULL);
        child_exit();
    }
    CHECK_CHILD(pid);

    /* exec from another thread than the leader: one thread is left, with the leader's id. */
    if ((pid = child_fork()) == 0) {
        pthread_t threads[3];
        static char own[16];
        snprintf(own, sizeof own, "%d", getpid());
        pthread_create(&threads[0], NULL, spin, NULL);
        pthread_create(&threads[1], NULL, spin, NULL);
        pthread_create(&threads[2], NULL, exec_from_thread, own);
        for (;;) pause();
    }
    CHECK_CHILD(pid);

    /* Two hundred kilobytes of arguments. */
    static char long_argument[101], *many[2004];
    memset(long_argument, 'a', 100);
    many[0] = self;
    many[1] = "big";
    for (int i = 2; i < 2003; i++) many[i] = long_argument;
    run(many, environ);

    /* AT_RANDOM differs between two programs. */
    char first[16], second[16];
    for (int i = 0; i < 2; i++) {
        int ends[2];
        MUST(pipe(ends) == 0);
        if ((pid = child_fork()) == 0) {
            dup2(ends[1], 1);
            execl("/proc/self/exe", self, "random", NULL);
            child_exit();
        }
        CHECK_EQ(read(ends[0], i ? second : first, 16), 16);
        CHECK_CHILD(pid);
    }
    CHECK(memcmp(first, second, 16) != 0);

    /* Without arguments Linux gives an empty first one. */
    if ((pid = child_fork()) == 0) {
        char *none[] = { NULL };
        execve("/bin/true", none, environ);
        child_exit();
    }
    CHECK(WIFEXITED(wait_status(pid)));
    return check_result();
}
