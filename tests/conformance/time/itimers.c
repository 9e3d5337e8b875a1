/* setitimer(2), getitimer(2), alarm(2): the three timers, replacing, reading back, exec keeps them. */
#include "check.h"
#include <sys/time.h>

static volatile sig_atomic_t counts[65];
static void handler(int number) { counts[number]++; }

int main(void)
{
    struct itimerval timer = { { 0, 0 }, { 0, 0 } }, old;
    catch_signal(SIGALRM, handler, SA_RESTART);
    catch_signal(SIGVTALRM, handler, SA_RESTART);
    catch_signal(SIGPROF, handler, SA_RESTART);
    CHECK_EQ(alarm(100), 0);
    unsigned left = alarm(50);
    CHECK(left == 100 || left == 99);
    CHECK_EQ(getitimer(ITIMER_REAL, &old), 0);
    CHECK(old.it_value.tv_sec == 50 || old.it_value.tv_sec == 49);
    CHECK_EQ(old.it_interval.tv_sec, 0);
    timer = (struct itimerval){ { 0, 10000 }, { 0, 20000 } };
    CHECK_EQ(setitimer(ITIMER_REAL, &timer, &old), 0);
    CHECK(old.it_value.tv_sec >= 49);
    for (int i = 0; i < 2000 && counts[SIGALRM] < 5; i++) sleep_ms(2);
    CHECK(counts[SIGALRM] >= 5);
    CHECK_EQ(alarm(0), 1);
    sleep_ms(5);
    int now = counts[SIGALRM];
    sleep_ms(40);
    CHECK_EQ(counts[SIGALRM], now);

    /* Processor time timers stand still while sleeping. */
    timer = (struct itimerval){ { 0, 10000 }, { 0, 10000 } };
    CHECK_EQ(setitimer(ITIMER_VIRTUAL, &timer, NULL), 0);
    CHECK_EQ(setitimer(ITIMER_PROF, &timer, NULL), 0);
    sleep_ms(50);
    CHECK(counts[SIGVTALRM] <= 2 && counts[SIGPROF] <= 2);
    long long limit = now_ns() + 8000000000;
    while ((counts[SIGVTALRM] < 3 || counts[SIGPROF] < 3) && now_ns() < limit) { }
    CHECK(counts[SIGVTALRM] >= 3);
    CHECK(counts[SIGPROF] >= 3);
    timer = (struct itimerval){ { 0, 0 }, { 0, 0 } };
    CHECK_EQ(setitimer(ITIMER_VIRTUAL, &timer, &old), 0);
    CHECK_EQ(old.it_interval.tv_usec, 10000);
    CHECK_EQ(setitimer(ITIMER_PROF, &timer, NULL), 0);

    timer.it_value.tv_usec = 1000000;
    CHECK_ERR(setitimer(ITIMER_REAL, &timer, NULL), EINVAL);
    timer.it_value.tv_usec = -1;
    CHECK_ERR(setitimer(ITIMER_REAL, &timer, NULL), EINVAL);
    CHECK_ERR(setitimer(7, &timer, NULL), EINVAL);
    CHECK_ERR(getitimer(7, &timer), EINVAL);

    /* It kills by default, also after exec. */
    pid_t pid = child_fork();
    if (pid == 0) {
        catch_signal(SIGALRM, SIG_DFL, 0);
        timer = (struct itimerval){ { 0, 0 }, { 0, 50000 } };
        setitimer(ITIMER_REAL, &timer, NULL);
        execlp("sleep", "sleep", "10", NULL);
        _exit(1);
    }
    CHECK_EQ(wait_status(pid), SIGALRM);
    return check_result();
}
