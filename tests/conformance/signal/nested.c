/* Nested handlers of different signals: order, masks, and every interrupted level goes on where it was. */
#include "check.h"
#include <sys/time.h>

static volatile sig_atomic_t trail[32], length;
static void note(int what) { if (length < 32) trail[length++] = what; }

static void third(int number) { note(number); note(-number); }
static void second(int number) { note(number); raise(SIGTERM); note(-number); }
static void first(int number) { note(number); raise(SIGUSR2); note(-number); }

static volatile long alarms;
static void on_alarm(int number) { (void)number; alarms++; }

static unsigned long mix(unsigned long value)
{
    for (int i = 0; i < 1000; i++) value = value * 6364136223846793005UL + 1442695040888963407UL;
    return value;
}

int main(void)
{
    catch_signal(SIGUSR1, first, 0);
    catch_signal(SIGUSR2, second, 0);
    catch_signal(SIGTERM, third, 0);
    raise(SIGUSR1);
    const int wanted[] = { SIGUSR1, SIGUSR2, SIGTERM, -SIGTERM, -SIGUSR2, -SIGUSR1 };
    CHECK_EQ(length, 6);
    for (int i = 0; i < 6; i++) CHECK_EQ(trail[i], wanted[i]);

    /* Several pending at once: all are delivered at the unblocking. */
    length = 0;
    sigset_t set = signal_set(SIGUSR1), old;
    sigaddset(&set, SIGUSR2);
    sigaddset(&set, SIGTERM);
    MUST(sigprocmask(SIG_BLOCK, &set, &old) == 0);
    raise(SIGTERM);
    raise(SIGUSR1);
    MUST(sigprocmask(SIG_SETMASK, &old, NULL) == 0);
    CHECK(length >= 6);
    int balance = 0;
    for (int i = 0; i < length; i++) balance += trail[i];
    CHECK_EQ(balance, 0);

    /* A computation under a storm of signals gives the same result. */
    catch_signal(SIGALRM, on_alarm, SA_RESTART);
    struct itimerval timer = { { 0, 500 }, { 0, 500 } }, off = { { 0, 0 }, { 0, 0 } };
    unsigned long expected = 1, value = 1;
    for (int i = 0; i < 20000; i++) expected = mix(expected);
    MUST(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    for (int i = 0; i < 20000; i++) {
        value = mix(value);
        if (i % 100 == 0) getppid();
    }
    MUST(setitimer(ITIMER_REAL, &off, NULL) == 0);
    CHECK(value == expected);
    CHECK(alarms > 5);
    return check_result();
}
