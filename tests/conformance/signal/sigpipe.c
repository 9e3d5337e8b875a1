/* SIGPIPE and EPIPE on pipes and sockets; MSG_NOSIGNAL. */
#include "check.h"
#include <sys/ioctl.h>
#include <sys/socket.h>

static volatile sig_atomic_t count;
static void handler(int number) { (void)number; count++; }

int main(void)
{
    int ends[2], pair[2];
    MUST(pipe(ends) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    close(ends[0]);
    close(pair[0]);
    catch_signal(SIGPIPE, handler, 0);
    CHECK_ERR(write(ends[1], "x", 1), EPIPE);
    CHECK_EQ(count, 1);
    CHECK_ERR(write(pair[1], "x", 1), EPIPE);
    CHECK_EQ(count, 2);
    CHECK_ERR(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(count, 2);
    catch_signal(SIGPIPE, SIG_IGN, 0);
    CHECK_ERR(write(ends[1], "x", 1), EPIPE);
    catch_signal(SIGPIPE, SIG_DFL, 0);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK(write(ends[1], "x", 1) == 1);
        _exit(1);
    }
    CHECK_EQ(wait_status(pid), SIGPIPE);

    /* A writer that is blocked when the reader goes. */
    MUST(pipe(ends) == 0);
    if ((pid = child_fork()) == 0) {
        close(ends[0]);
        static char big[1 << 20];
        catch_signal(SIGPIPE, SIG_IGN, 0);
        ssize_t wrote = write(ends[1], big, sizeof big);
        CHECK(wrote > 0 && wrote < (ssize_t)sizeof big);
        CHECK_ERR(write(ends[1], big, 1), EPIPE);
        child_exit();
    }
    int waiting = 0;
    for (int i = 0; i < 1000 && waiting < 65536; i++) {
        sleep_ms(5);
        MUST(ioctl(ends[0], FIONREAD, &waiting) == 0);
    }
    CHECK_EQ(waiting, 65536);
    CHECK(wait_for_state(pid, 'S'));
    close(ends[0]);
    CHECK_CHILD(pid);
    return check_result();
}
