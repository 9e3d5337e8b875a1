/* Pseudo terminals: opening, names, modes, canonical and raw input, echo, output processing, window size, hang-up. */
#include "check.h"
#include <poll.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <termios.h>

static char *get(int fd)
{
    static char buffer[256];
    struct pollfd waiting = { fd, POLLIN, 0 };
    if (poll(&waiting, 1, 3000) != 1) return "(nothing)";
    ssize_t size = read(fd, buffer, sizeof buffer - 1);
    if (size < 0) return "(error)";
    buffer[size] = 0;
    return buffer;
}

static int nothing(int fd)
{
    struct pollfd waiting = { fd, POLLIN, 0 };
    return poll(&waiting, 1, 50) == 0;
}

#define PUT(fd, text) CHECK_EQ(write(fd, text, sizeof text - 1), sizeof text - 1)

int main(void)
{
    int master = posix_openpt(O_RDWR | O_NOCTTY), number = -1;
    MUST(master >= 0);
    CHECK_EQ(grantpt(master), 0);
    char name[64], expected[64];
    CHECK_EQ(ioctl(master, TIOCGPTN, &number), 0);
    snprintf(expected, sizeof expected, "/dev/pts/%d", number);
    CHECK_EQ(ptsname_r(master, name, sizeof name), 0);
    CHECK_STR(name, expected);
    CHECK_ERR(open(name, O_RDWR | O_NOCTTY), EIO); /* still locked */
    CHECK_EQ(unlockpt(master), 0);
    int slave = open(name, O_RDWR | O_NOCTTY);
    MUST(slave >= 0);
    CHECK(isatty(slave) && isatty(master));
    CHECK_STR(ttyname(slave), expected);
    struct stat status;
    CHECK_EQ(fstat(slave, &status), 0);
    CHECK(S_ISCHR(status.st_mode));

    struct termios mode, raw;
    CHECK_EQ(tcgetattr(slave, &mode), 0);
    CHECK(mode.c_lflag & ICANON && mode.c_lflag & ECHO && mode.c_lflag & ISIG && mode.c_oflag & OPOST && mode.c_iflag & ICRNL);
    CHECK_EQ(mode.c_cc[VINTR], 3);
    CHECK_EQ(mode.c_cc[VERASE], 0x7f);

    /* Canonical input: a line at a time, echoed. */
    PUT(master, "abc");
    CHECK_STR(get(master), "abc");
    CHECK(nothing(slave));
    PUT(master, "\r");
    CHECK_STR(get(master), "\r\n");
    CHECK_STR(get(slave), "abc\n");
    /* Editing: erase, erase a word, kill, literal next. */
    PUT(master, "wrong\x7f\x7fng\nb c\x17" "d\nkill me\x15new\n\x16\x03" "x\n");
    CHECK_STR(get(slave), "wrong\n");
    CHECK_STR(get(slave), "b d\n");
    CHECK_STR(get(slave), "new\n");
    CHECK_STR(get(slave), "\x03x\n");
    while (!nothing(master)) get(master);
    /* One read takes at most one line, and part of it when the buffer is small. */
    PUT(master, "one\ntwo\n");
    char small[2];
    CHECK_EQ(read(slave, small, 2), 2);
    CHECK_STR(get(slave), "e\n");
    CHECK_STR(get(slave), "two\n");
    /* End of file. */
    PUT(master, "part\x04");
    CHECK_STR(get(slave), "part");
    PUT(master, "\x04");
    CHECK_EQ(read(slave, small, 2), 0);
    while (!nothing(master)) get(master);

    /* Output: a newline becomes two characters. */
    PUT(slave, "out\n");
    CHECK_STR(get(master), "out\r\n");
    mode.c_oflag &= ~OPOST;
    mode.c_lflag &= ~ECHO;
    CHECK_EQ(tcsetattr(slave, TCSADRAIN, &mode), 0);
    PUT(slave, "out\n");
    CHECK_STR(get(master), "out\n");
    PUT(master, "silent\n");
    CHECK_STR(get(slave), "silent\n");
    CHECK(nothing(master));

    /* Raw: every byte at once; VMIN and VTIME. */
    raw = mode;
    cfmakeraw(&raw);
    CHECK_EQ(tcsetattr(slave, TCSANOW, &raw), 0);
    PUT(master, "\x03\x04\rx");
    CHECK_STR(get(slave), "\x03\x04\rx");
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 1;
    CHECK_EQ(tcsetattr(slave, TCSANOW, &raw), 0);
    long long start = now_ns();
    CHECK_EQ(read(slave, small, 2), 0);
    CHECK(now_ns() - start >= 90000000);
    raw.c_cc[VTIME] = 0;
    CHECK_EQ(tcsetattr(slave, TCSANOW, &raw), 0);
    CHECK_EQ(read(slave, small, 2), 0);
    raw.c_cc[VMIN] = 1;
    CHECK_EQ(tcsetattr(slave, TCSANOW, &raw), 0);
    MUST(fcntl(slave, F_SETFL, O_NONBLOCK) == 0);
    CHECK_ERR(read(slave, small, 2), EAGAIN);
    MUST(fcntl(slave, F_SETFL, 0) == 0);
    int pending = -1;
    PUT(master, "1234");
    sleep_ms(20);
    CHECK_EQ(ioctl(slave, FIONREAD, &pending), 0);
    CHECK_EQ(pending, 4);
    CHECK_EQ(tcflush(slave, TCIFLUSH), 0);
    CHECK_EQ(ioctl(slave, FIONREAD, &pending), 0);
    CHECK_EQ(pending, 0);

    /* Window size, from either side. */
    struct winsize size = { 33, 99, 0, 0 }, seen = { 0 };
    CHECK_EQ(ioctl(master, TIOCSWINSZ, &size), 0);
    CHECK_EQ(ioctl(slave, TIOCGWINSZ, &seen), 0);
    CHECK(seen.ws_row == 33 && seen.ws_col == 99);

    /* Hang-up: the master sees EIO once the last slave is closed, and data again when it is reopened. */
    close(slave);
    struct pollfd waiting = { master, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 1000), 1);
    CHECK_EQ(waiting.revents & POLLHUP, POLLHUP);
    CHECK_ERR(read(master, small, 2), EIO);
    slave = open(name, O_RDWR | O_NOCTTY);
    CHECK(slave >= 0);
    PUT(slave, "again");
    CHECK_STR(get(master), "again");
    close(master);
    CHECK_EQ(read(slave, small, 2), 0);
    CHECK_ERR(write(slave, "x", 1), EIO);
    CHECK_EQ(poll(&(struct pollfd){ slave, POLLIN, 0 }, 1, 0), 1);

    /* openpty and forkpty. */
    size = (struct winsize){ 10, 20, 0, 0 };
    int other;
    CHECK_EQ(openpty(&master, &other, NULL, NULL, &size), 0);
    CHECK_EQ(ioctl(other, TIOCGWINSZ, &seen), 0);
    CHECK_EQ(seen.ws_col, 20);
    pid_t pid = forkpty(&master, name, NULL, &size);
    if (pid == 0) {
        if (!isatty(0) || tcgetpgrp(0) != getpid()) _exit(1);
        printf("from the child %d\n", getsid(0) == getpid());
        fflush(stdout);
        _exit(5);
    }
    CHECK_STR(get(master), "from the child 1\r\n");
    CHECK_EQ(wait_status(pid), 5 << 8);
    return check_result();
}
