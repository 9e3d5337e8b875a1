/* Sessions and terminals: TIOCSCTTY, tcsetpgrp, ^C ^Z ^\ to the foreground group, SIGTTIN, SIGTTOU, SIGWINCH, SIGHUP, /dev/tty. */
#include "check.h"
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

static volatile sig_atomic_t got[65];
static void note(int number) { got[number]++; }
static int master, slave;

static void session(void)
{
    CHECK_ERR(ioctl(slave, TIOCSCTTY, 0), EPERM); /* not yet a leader */
    MUST(setsid() == getpid());
    CHECK_ERR(tcgetpgrp(slave), ENOTTY);
    CHECK_ERR(open("/dev/tty", O_RDWR), ENXIO);
    CHECK_EQ(ioctl(slave, TIOCSCTTY, 0), 0);
    CHECK_EQ(tcgetpgrp(slave), getpid());
    CHECK_EQ(tcgetsid(slave), getpid());
    int tty = open("/dev/tty", O_RDWR);
    CHECK(tty >= 0);
    CHECK_EQ(tcgetpgrp(tty), getpid());

    /* Signals of keys go to the foreground group: here to ourselves. */
    catch_signal(SIGINT, note, SA_RESTART);
    catch_signal(SIGQUIT, note, SA_RESTART);
    catch_signal(SIGWINCH, note, SA_RESTART);
    CHECK_EQ(write(master, "\x03\x1c", 2), 2);
    for (int i = 0; i < 1000 && (!got[SIGINT] || !got[SIGQUIT]); i++) sleep_ms(5);
    CHECK_EQ(got[SIGINT], 1);
    CHECK_EQ(got[SIGQUIT], 1);
    struct winsize size = { 11, 22, 0, 0 };
    CHECK_EQ(ioctl(master, TIOCSWINSZ, &size), 0);
    for (int i = 0; i < 1000 && !got[SIGWINCH]; i++) sleep_ms(5);
    CHECK_EQ(got[SIGWINCH], 1);
    CHECK_EQ(ioctl(master, TIOCSWINSZ, &size), 0);
    sleep_ms(30);
    CHECK_EQ(got[SIGWINCH], 1); /* no change, no signal */

    /* A job in the foreground: ^Z stops it, we go on; ^C ends it. */
    catch_signal(SIGTTOU, SIG_IGN, 0);
    int ready[2];
    MUST(pipe(ready) == 0);
    pid_t job = child_fork();
    if (job == 0) {
        setpgid(0, 0);
        tcsetpgrp(slave, getpid());
        for (int number = 1; number < 32; number++)
            if (number != SIGKILL && number != SIGSTOP) catch_signal(number, SIG_DFL, 0);
        if (write(ready[1], "r", 1) < 0) _exit(1);
        for (;;) pause();
    }
    setpgid(job, job);
    CHECK_EQ(tcsetpgrp(slave, job), 0);
    char byte;
    CHECK_EQ(read(ready[0], &byte, 1), 1);
    CHECK_EQ(tcgetpgrp(slave), job);
    int status;
    CHECK_EQ(write(master, "\x1a", 1), 1);
    CHECK_EQ(waitpid(job, &status, WUNTRACED), job);
    CHECK(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTSTP);
    CHECK_EQ(kill(-job, SIGCONT), 0);
    CHECK_EQ(waitpid(job, &status, WCONTINUED), job);
    CHECK_EQ(write(master, "\x03", 1), 1);
    CHECK_EQ(waitpid(job, &status, 0), job);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    CHECK_EQ(got[SIGINT], 1); /* not ours */
    CHECK_EQ(tcsetpgrp(slave, getpid()), 0);
    CHECK_ERR(tcsetpgrp(slave, 99999999), ESRCH);
    CHECK_ERR(tcsetpgrp(slave, -5), EINVAL);

    /* A background job that reads is stopped by SIGTTIN; that writes, by SIGTTOU only under TOSTOP. */
    catch_signal(SIGTTOU, SIG_DFL, 0);
    for (int way = 0; way < 4; way++) {
        struct termios mode;
        CHECK_EQ(tcgetattr(slave, &mode), 0);
        if (way == 2) mode.c_lflag |= TOSTOP; else mode.c_lflag &= ~TOSTOP;
        CHECK_EQ(tcsetattr(slave, TCSANOW, &mode), 0);
        job = child_fork();
        if (job == 0) {
            setpgid(0, 0);
            if (way == 0) CHECK(read(slave, &byte, 1) >= 0);
            if (way == 1 || way == 2) CHECK_EQ(write(slave, "w", 1), 1);
            if (way == 3) CHECK_EQ(tcsetattr(slave, TCSANOW, &mode), 0);
            child_exit();
        }
        setpgid(job, job);
        CHECK_EQ(waitpid(job, &status, WUNTRACED), job);
        if (way == 1) CHECK_EQ(status, 0);
        else {
            CHECK(WIFSTOPPED(status));
            CHECK_EQ(WSTOPSIG(status), way == 0 ? SIGTTIN : SIGTTOU);
            kill(job, SIGKILL);
            wait_status(job);
        }
    }
    /* With SIGTTIN ignored the read fails. */
    job = child_fork();
    if (job == 0) {
        setpgid(0, 0);
        catch_signal(SIGTTIN, SIG_IGN, 0);
        CHECK_ERR(read(slave, &byte, 1), EIO);
        child_exit();
    }
    setpgid(job, job);
    CHECK_CHILD(job);

    /* Hang-up: the session leader gets SIGHUP and SIGCONT when the master closes. */
    catch_signal(SIGHUP, note, SA_RESTART);
    close(master);
    for (int i = 0; i < 1000 && !got[SIGHUP]; i++) sleep_ms(5);
    CHECK(got[SIGHUP] >= 1);
    CHECK_EQ(read(slave, &byte, 1), 0);
    child_exit();
}

int main(void)
{
    CHECK_EQ(openpty(&master, &slave, NULL, NULL, NULL), 0);
    int lifeline[2];
    MUST(pipe(lifeline) == 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        close(lifeline[0]);
        session();
    }
    close(master);
    CHECK_CHILD(pid);

    /* When a session leader dies its foreground group gets SIGHUP. */
    MUST(openpty(&master, &slave, NULL, NULL, NULL) == 0);
    close(lifeline[1]);
    MUST(pipe(lifeline) == 0);
    if ((pid = child_fork()) == 0) {
        setsid();
        MUST(ioctl(slave, TIOCSCTTY, 0) == 0);
        if (fork() == 0) {
            close(lifeline[0]);
            for (;;) pause();
        }
        sleep_ms(50);
        _exit(0);
    }
    close(lifeline[1]);
    CHECK_CHILD(pid);
    char bytes[8];
    CHECK_EQ(read(lifeline[0], bytes, 1), 0);
    /* The terminal controls nobody any more, and is not hung up: script(1) waits until nothing lies in it. */
    struct pollfd ready = {.fd = slave, .events = POLLIN};
    CHECK_EQ(poll(&ready, 1, 0), 0);
    CHECK_EQ(tcgetpgrp(master), 0);
    CHECK_EQ(write(slave, "out", 3), 3);
    CHECK_EQ(read(master, bytes, 8), 3);
    CHECK_EQ(write(master, "in\n", 3), 3);
    CHECK_EQ(read(slave, bytes, 8), 3);
    return check_result();
}
