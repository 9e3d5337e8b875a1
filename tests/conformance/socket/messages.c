/* socketpair and message flags: PEEK, WAITALL, DONTWAIT, TRUNC, timeouts, shutdown, vectors, poll, large sends. */
#include "check.h"
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static void *drip(void *argument)
{
    int fd = *(int *)argument;
    for (int i = 0; i < 5; i++) {
        sleep_ms(5);
        if (write(fd, "ab", 2) != 2) abort();
    }
    return NULL;
}

int main(void)
{
    int s[2];
    char buffer[256];
    CHECK_ERR(socketpair(AF_INET, SOCK_STREAM, 0, s), EOPNOTSUPP);
    CHECK_ERR(socketpair(AF_UNIX, SOCK_STREAM, 77, s), EPROTONOSUPPORT);
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
    CHECK_EQ(fcntl(s[0], F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ(fcntl(s[1], F_GETFD), FD_CLOEXEC);
    CHECK_ERR(recv(s[0], buffer, 1, 0), EAGAIN);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);

    CHECK_EQ(send(s[0], "abcdef", 6, 0), 6);
    CHECK_EQ(recv(s[1], buffer, 4, MSG_PEEK), 4);
    int pending = 0;
    CHECK_EQ(ioctl(s[1], FIONREAD, &pending), 0);
    CHECK_EQ(pending, 6);
    CHECK_EQ(recv(s[1], buffer, 4, 0), 4);
    CHECK_EQ(recv(s[1], buffer, 4, MSG_DONTWAIT), 2);
    CHECK_ERR(recv(s[1], buffer, 4, MSG_DONTWAIT), EAGAIN);

    pthread_t thread;
    MUST(pthread_create(&thread, NULL, drip, &s[0]) == 0);
    CHECK_EQ(recv(s[1], buffer, 10, MSG_WAITALL), 10);
    pthread_join(thread, NULL);
    /* WAITALL ends early at the end of the stream. */
    CHECK_EQ(send(s[0], "xyz", 3, 0), 3);
    CHECK_EQ(shutdown(s[0], SHUT_WR), 0);
    CHECK_EQ(recv(s[1], buffer, 10, MSG_WAITALL), 3);
    CHECK_EQ(recv(s[1], buffer, 10, 0), 0);
    struct pollfd waiting = { s[1], POLLIN | POLLRDHUP, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 1);
    CHECK_EQ(waiting.revents, POLLIN | POLLRDHUP);
    CHECK_EQ(send(s[1], "back", 4, 0), 4);
    CHECK_EQ(shutdown(s[1], SHUT_RDWR), 0);
    CHECK_EQ(recv(s[0], buffer, 10, 0), 4);
    CHECK_EQ(recv(s[0], buffer, 10, 0), 0);
    CHECK_ERR(shutdown(s[0], 7), EINVAL);

    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, s) == 0);
    struct timeval timeout = { 0, 60000 };
    CHECK_EQ(setsockopt(s[0], SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), 0);
    CHECK_EQ(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout), 0);
    long long start = now_ns();
    CHECK_ERR(recv(s[0], buffer, 1, 0), EAGAIN);
    CHECK(now_ns() - start >= 55000000);
    /* A full buffer. */
    long total = 0;
    ssize_t n;
    while ((n = send(s[0], buffer, sizeof buffer, MSG_DONTWAIT)) > 0) total += n;
    CHECK(total > 10000);
    waiting = (struct pollfd){ s[0], POLLOUT, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 0);
    CHECK_ERR(send(s[0], buffer, sizeof buffer, 0), EAGAIN);
    while (total > 0 && (n = recv(s[1], buffer, sizeof buffer, 0)) > 0) total -= n;
    CHECK_EQ(total, 0);
    CHECK_EQ(poll(&waiting, 1, 0), 1);

    /* Vectors. */
    char a[3], b[10];
    struct iovec out[3] = { { "12", 2 }, { "345", 3 }, { "6", 1 } }, in[2] = { { a, 3 }, { b, 10 } };
    struct msghdr message = { .msg_iov = out, .msg_iovlen = 3 };
    CHECK_EQ(sendmsg(s[0], &message, 0), 6);
    message = (struct msghdr){ .msg_iov = in, .msg_iovlen = 2 };
    CHECK_EQ(recvmsg(s[1], &message, 0), 6);
    CHECK(memcmp(a, "123", 3) == 0 && memcmp(b, "456", 3) == 0);
    CHECK_EQ(message.msg_controllen, 0);
    message.msg_iovlen = 100000;
    CHECK_ERR(recvmsg(s[1], &message, MSG_DONTWAIT), EMSGSIZE);
    CHECK_ERR(recvmsg(s[1], (void *)8, 0), EFAULT);
    CHECK_EQ(send(s[0], "whole", 5, 0), 5);
    CHECK_ERR(recv(s[1], (void *)8, 5, 0), EFAULT);
    CHECK_ERR(read(s[1], (void *)8, 2), EFAULT);
    CHECK_EQ(recv(s[1], b, sizeof b, 0), 5);
    CHECK(memcmp(b, "whole", 5) == 0);
    CHECK_ERR(send(s[0], (void *)8, 4, 0), EFAULT);

    /* A large send to a slow reader in another process. */
    pid_t pid = child_fork();
    if (pid == 0) {
        close(s[0]);
        long got = 0;
        while ((n = read(s[1], buffer, 200)) > 0) got += n;
        CHECK_EQ(got, 3000000);
        child_exit();
    }
    close(s[1]);
    timeout = (struct timeval){ 0, 0 };
    CHECK_EQ(setsockopt(s[0], SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof timeout), 0);
    char *big = calloc(1, 3000000);
    CHECK_EQ(send(s[0], big, 3000000, 0), 3000000);
    close(s[0]);
    CHECK_CHILD(pid);
    return check_result();
}
