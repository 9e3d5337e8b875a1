/* Signals and threads: tgkill goes to one, kill to any that takes it; handlers run on the right thread; masks are per thread. */
#include "check.h"

static _Thread_local volatile sig_atomic_t mine;
static atomic_int total, ready, stop;
static pid_t tids[4];

static void handler(int number) { (void)number; mine++; atomic_fetch_add(&total, 1); }

static void *work(void *argument)
{
    long number = (long)argument;
    tids[number] = syscall(SYS_gettid);
    if (number % 2) {
        sigset_t set = signal_set(SIGUSR2);
        pthread_sigmask(SIG_BLOCK, &set, NULL);
    }
    atomic_fetch_add(&ready, 1);
    while (!stop) {
        if (number < 2) usleep(1000);
    }
    return (void *)(long)mine;
}

int main(void)
{
    catch_signal(SIGUSR1, handler, SA_RESTART);
    catch_signal(SIGUSR2, handler, SA_RESTART);
    pthread_t threads[4];
    for (long i = 0; i < 4; i++) MUST(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    while (ready < 4) sleep_ms(1);
    for (int i = 0; i < 4; i++)
        for (int n = 0; n <= i; n++) {
            int before = total;
            CHECK_EQ(syscall(SYS_tgkill, getpid(), tids[i], SIGUSR1), 0);
            for (int k = 0; k < 5000 && total == before; k++) sleep_ms(1);
        }
    CHECK_EQ(total, 10);
    CHECK_EQ(mine, 0);
    CHECK_ERR(syscall(SYS_tgkill, getpid(), 99999999, SIGUSR1), ESRCH);
    CHECK_ERR(syscall(SYS_tgkill, getpid() + 100000, tids[0], SIGUSR1), ESRCH);
    CHECK_ERR(syscall(SYS_tgkill, -1, tids[0], SIGUSR1), EINVAL);
    CHECK_ERR(syscall(SYS_tgkill, getpid(), tids[0], 65), EINVAL);
    CHECK_EQ(syscall(SYS_tkill, tids[0], 0), 0);
    /* kill() of a thread's id reaches its process. */
    CHECK_EQ(kill(tids[1], 0), 0);

    /* A process-wide signal that the main thread blocks goes to a thread that does not. */
    sigset_t set = signal_set(SIGUSR2);
    MUST(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0);
    for (int i = 0; i < 20; i++) {
        int before = total;
        CHECK_EQ(kill(getpid(), SIGUSR2), 0);
        for (int k = 0; k < 5000 && total == before; k++) sleep_ms(1);
    }
    CHECK_EQ(total, 30);
    CHECK_EQ(mine, 0);
    /* One sent to a thread that blocks it stays with that thread. */
    CHECK_EQ(pthread_kill(threads[1], SIGUSR2), 0);
    sleep_ms(30);
    CHECK_EQ(total, 30);
    atomic_store(&stop, 1);
    long counts[4], taken = 0;
    for (int i = 0; i < 4; i++) {
        void *result;
        CHECK_EQ(pthread_join(threads[i], &result), 0);
        counts[i] = (long)result;
        taken += counts[i];
    }
    CHECK_EQ(counts[1], 2);
    CHECK_EQ(counts[3], 4);
    CHECK_EQ(taken, 30);
    return check_result();
}
