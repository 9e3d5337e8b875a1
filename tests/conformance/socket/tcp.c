/* TCP over 127.0.0.1 and ::1: connect, accept, data, half close, reset, addresses, reuse, non-blocking connect, backlog. */
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

union address { struct sockaddr any; struct sockaddr_in v4; struct sockaddr_in6 v6; };

static union address loopback(int family, int port)
{
    union address address = { 0 };
    address.any.sa_family = family;
    if (family == AF_INET) {
        address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.v4.sin_port = htons(port);
    } else {
        address.v6.sin6_addr = in6addr_loopback;
        address.v6.sin6_port = htons(port);
    }
    return address;
}

static socklen_t size_of(int family) { return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6); }

static void both_ways(int family)
{
    union address address = loopback(family, 0), other;
    socklen_t length = sizeof address, size = size_of(family);
    int server = socket(family, SOCK_STREAM, 0), client = socket(family, SOCK_STREAM, 0), on = 1;
    MUST(server >= 0 && client >= 0);
    CHECK_EQ(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(bind(server, &address.any, size), 0);
    CHECK_EQ(getsockname(server, &address.any, &length), 0);
    CHECK_EQ(length, size);
    int port = ntohs(address.v4.sin_port);
    CHECK(port > 0);
    CHECK_ERR(connect(client, &address.any, size), ECONNREFUSED);
    close(client);
    client = socket(family, SOCK_STREAM, 0);
    CHECK_EQ(listen(server, 10), 0);
    int accepting = 0;
    length = sizeof accepting;
    CHECK_EQ(getsockopt(server, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &length), 0);
    CHECK_EQ(accepting, 1);
    int second = socket(family, SOCK_STREAM, 0);
    CHECK_ERR(bind(second, &address.any, size), EADDRINUSE);
    CHECK_EQ(connect(client, &address.any, size), 0);
    CHECK_ERR(connect(client, &address.any, size), EISCONN);
    length = sizeof other;
    int accepted = accept(server, &other.any, &length);
    CHECK(accepted >= 0);
    CHECK_EQ(length, size);
    union address own;
    length = sizeof own;
    CHECK_EQ(getsockname(client, &own.any, &length), 0);
    CHECK(memcmp(&own.v4.sin_port, &other.v4.sin_port, 2) == 0);
    CHECK(memcmp(&own, &other, family == AF_INET ? 8 : 24) == 0);
    length = sizeof other;
    CHECK_EQ(getpeername(client, &other.any, &length), 0);
    CHECK_EQ(ntohs(other.v4.sin_port), port);

    char buffer[64];
    CHECK_EQ(send(client, "hello", 5, 0), 5);
    CHECK_EQ(recv(accepted, buffer, 5, MSG_WAITALL), 5);
    CHECK_ERR(recv(accepted, buffer, 1, MSG_DONTWAIT), EAGAIN);
    CHECK_EQ(send(accepted, "answer", 6, 0), 6);
    CHECK_EQ(recv(client, buffer, 3, MSG_PEEK), 3);
    CHECK_ERR(recv(client, (void *)8, 3, 0), EFAULT);
    CHECK_EQ(recv(client, buffer, 6, MSG_WAITALL), 6);
    /* Half close. */
    CHECK_EQ(shutdown(client, SHUT_WR), 0);
    CHECK_EQ(recv(accepted, buffer, 64, 0), 0);
    CHECK_ERR(send(client, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(send(accepted, "still", 5, 0), 5);
    CHECK_EQ(recv(client, buffer, 5, MSG_WAITALL), 5);
    close(accepted);
    CHECK_EQ(recv(client, buffer, 64, 0), 0);
    close(client);

    /* Reset: linger 0. */
    client = socket(family, SOCK_STREAM, 0);
    CHECK_EQ(connect(client, &address.any, size), 0);
    accepted = accept(server, NULL, NULL);
    struct linger linger = { 1, 0 };
    CHECK_EQ(setsockopt(accepted, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    close(accepted);
    struct pollfd waiting = { client, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    CHECK_ERR(recv(client, buffer, 1, 0), ECONNRESET);
    CHECK_ERR(send(client, "x", 1, MSG_NOSIGNAL), EPIPE);
    close(client);

    /* Non-blocking connect: writable when done, its result in SO_ERROR. */
    client = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    int result = connect(client, &address.any, size), connect_error = errno;
    CHECK(result == -1 && connect_error == EINPROGRESS);
    waiting = (struct pollfd){ client, POLLOUT, 0 };
    CHECK_EQ(poll(&waiting, 1, 5000), 1);
    int error = -1;
    length = sizeof error;
    CHECK_EQ(getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &length), 0);
    CHECK_EQ(error, 0);
    CHECK_EQ(connect(client, &address.any, size), 0); /* the outcome, once */
    CHECK_ERR(connect(client, &address.any, size), EISCONN);
    CHECK_ERR(recv(client, buffer, 1, 0), EAGAIN);
    accepted = accept(server, NULL, NULL);
    CHECK(accepted >= 0);
    close(client);
    close(accepted);
    close(server);
    client = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    result = connect(client, &address.any, size);
    if (result == -1 && errno == EINPROGRESS) {
        waiting.fd = client;
        CHECK_EQ(poll(&waiting, 1, 5000), 1);
        CHECK_EQ(waiting.revents & (POLLERR | POLLHUP), POLLERR | POLLHUP);
        length = sizeof error;
        CHECK_EQ(getsockopt(client, SOL_SOCKET, SO_ERROR, &error, &length), 0);
        CHECK_EQ(error, ECONNREFUSED);
    } else {
        CHECK(result == -1);
    }
    close(client);

    /* The port can be used again at once, with SO_REUSEADDR. */
    server = socket(family, SOCK_STREAM | SOCK_NONBLOCK, 0);
    CHECK_EQ(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on), 0);
    CHECK_EQ(bind(server, &address.any, size), 0);
    CHECK_EQ(listen(server, 5), 0);
    CHECK_ERR(accept(server, NULL, NULL), EAGAIN);

    /* A megabyte each way between two processes. */
    pid_t pid = child_fork();
    if (pid == 0) {
        int fd = socket(family, SOCK_STREAM, 0);
        CHECK_EQ(connect(fd, &address.any, size), 0);
        unsigned char *data = malloc(1 << 20);
        for (int i = 0; i < 1 << 20; i++) data[i] = i * 31 >> 3;
        for (int sent = 0; sent < 1 << 20;) {
            ssize_t n = send(fd, data + sent, (1 << 20) - sent, 0);
            MUST(n > 0);
            sent += n;
        }
        CHECK_EQ(shutdown(fd, SHUT_WR), 0);
        unsigned char *back = malloc(1 << 20);
        CHECK_EQ(recv(fd, back, 1 << 20, MSG_WAITALL), 1 << 20);
        CHECK(memcmp(data, back, 1 << 20) == 0);
        child_exit();
    }
    waiting = (struct pollfd){ server, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 10000), 1);
    accepted = accept(server, NULL, NULL);
    CHECK(accepted >= 0);
    CHECK_EQ(fcntl(accepted, F_GETFL) & O_NONBLOCK, 0);
    unsigned char *all = malloc(1 << 20);
    int total = 0;
    ssize_t n;
    while ((n = recv(accepted, all + total, (1 << 20) - total, 0)) > 0) total += n;
    CHECK_EQ(total, 1 << 20);
    for (int sent = 0; sent < total; sent += n) {
        n = send(accepted, all + sent, total - sent, 0);
        MUST(n > 0);
    }
    CHECK_CHILD(pid);
    close(accepted);
    close(server);
}

int main(void)
{
    both_ways(AF_INET);
    int probe = socket(AF_INET6, SOCK_STREAM, 0);
    union address address = loopback(AF_INET6, 0);
    if (probe >= 0 && bind(probe, &address.any, sizeof address.v6) == 0) both_ways(AF_INET6);
    else printf("no ::1 here\n");

    /* Errors of addresses. */
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    address = loopback(AF_INET, 0);
    address.v4.sin_addr.s_addr = htonl(0xc0000201); /* 192.0.2.1 is nobody's */
    CHECK_ERR(bind(fd, &address.any, sizeof address.v4), EADDRNOTAVAIL);
    CHECK_ERR(bind(fd, &address.any, 4), EINVAL);
    address.any.sa_family = 77;
    CHECK_ERR(bind(fd, &address.any, sizeof address.v4), EAFNOSUPPORT);
    CHECK_ERR(socket(AF_INET, SOCK_STREAM, IPPROTO_UDP), EPROTONOSUPPORT);
    CHECK_ERR(socket(AF_INET, 77, 0), EINVAL);
    CHECK_ERR(socket(99, SOCK_STREAM, 0), EAFNOSUPPORT);
    CHECK_ERR(accept(fd, NULL, NULL), EINVAL);
    CHECK_ERR(getpeername(fd, &address.any, &(socklen_t){ sizeof address }), ENOTCONN);
    CHECK_ERR(send(fd, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_ERR(recv(fd, &address, 1, 0), ENOTCONN);
    CHECK_ERR(shutdown(fd, SHUT_RD), ENOTCONN);
    int not_a_socket = open("/dev/null", O_RDWR);
    CHECK_ERR(listen(not_a_socket, 1), ENOTSOCK);
    CHECK_ERR(bind(999, &address.any, sizeof address.v4), EBADF);

    /* Two sockets on one port with SO_REUSEPORT; 0.0.0.0 and 127.0.0.1 conflict. */
    int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET, SOCK_STREAM, 0), on = 1;
    address = loopback(AF_INET, 0);
    address.v4.sin_addr.s_addr = 0;
    CHECK_EQ(setsockopt(a, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), 0);
    CHECK_EQ(bind(a, &address.any, sizeof address.v4), 0);
    socklen_t length = sizeof address;
    CHECK_EQ(getsockname(a, &address.any, &length), 0);
    address.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    CHECK_ERR(bind(b, &address.any, sizeof address.v4), EADDRINUSE);
    CHECK_EQ(setsockopt(b, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on), 0);
    CHECK_EQ(bind(b, &address.any, sizeof address.v4), 0);
    return check_result();
}
