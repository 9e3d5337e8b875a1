/* IPv6 sockets that speak IPv4: mapped addresses, :: listening for both, IPV6_V6ONLY. Java does all its TCP this way. */
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

static struct sockaddr_in6 six(const char *text, int port)
{
    struct sockaddr_in6 address = { .sin6_family = AF_INET6, .sin6_port = htons(port) };
    MUST(inet_pton(AF_INET6, text, &address.sin6_addr) == 1);
    return address;
}

static struct sockaddr_in four(int port)
{
    return (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
}

static int try_connect(int family, const char *text, int port)
{
    int fd = socket(family, SOCK_STREAM, 0), result;
    struct sockaddr_in6 long_address;
    struct sockaddr_in short_address = four(port);
    if (family == AF_INET6) {
        long_address = six(text, port);
        result = connect(fd, (struct sockaddr *)&long_address, sizeof long_address);
    } else {
        result = connect(fd, (struct sockaddr *)&short_address, sizeof short_address);
    }
    int error = errno;
    close(fd);
    return result == 0 ? 0 : error;
}

static int listening(const char *text, int only, int *port)
{
    int fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 address = six(text, 0);
    socklen_t length = sizeof address;
    CHECK_EQ(setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only, sizeof only), 0);
    MUST(bind(fd, (struct sockaddr *)&address, sizeof address) == 0 && listen(fd, 10) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&address, &length) == 0);
    *port = ntohs(address.sin6_port);
    return fd;
}

int main(void)
{
    int port, fd = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 peer = { 0 };
    struct sockaddr_in6 probe = six("::1", 0);
    socklen_t length = sizeof peer;
    if (fd < 0 || bind(fd, (struct sockaddr *)&probe, sizeof probe) != 0) CANNOT("no IPv6 loopback");
    close(fd);

    /* Bound to a mapped address: reached by either kind of socket, named in the mapped form. */
    int server = listening("::ffff:127.0.0.1", 0, &port);
    CHECK_EQ(try_connect(AF_INET6, "::ffff:127.0.0.1", port), 0);
    CHECK_EQ(try_connect(AF_INET, NULL, port), 0);
    CHECK_EQ(try_connect(AF_INET6, "::1", port), ECONNREFUSED);
    for (int i = 0; i < 2; i++) {
        length = sizeof peer;
        int accepted = accept(server, (struct sockaddr *)&peer, &length);
        CHECK(accepted >= 0);
        CHECK_EQ(length, sizeof peer);
        CHECK(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
        close(accepted);
    }
    struct sockaddr_in taken = four(port);
    fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_ERR(bind(fd, (struct sockaddr *)&taken, sizeof taken), EADDRINUSE);
    close(fd);
    close(server);
    CHECK_EQ(try_connect(AF_INET6, "::ffff:127.0.0.1", port), ECONNREFUSED);

    /* The wildcard takes both kinds, unless it is for IPv6 only. */
    server = listening("::", 0, &port);
    CHECK_EQ(try_connect(AF_INET, NULL, port), 0);
    CHECK_EQ(try_connect(AF_INET6, "::1", port), 0);
    CHECK_EQ(try_connect(AF_INET6, "::ffff:127.0.0.1", port), 0);
    close(server);
    server = listening("::", 1, &port);
    CHECK_EQ(try_connect(AF_INET, NULL, port), ECONNREFUSED);
    CHECK_EQ(try_connect(AF_INET6, "::1", port), 0);
    /* Then an IPv4 socket may have the same port. */
    fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in same = four(port);
    CHECK_EQ(bind(fd, (struct sockaddr *)&same, sizeof same), 0);
    close(fd);
    close(server);

    /* A mapped connection to an IPv4 server, and its names. */
    server = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in own = four(0);
    length = sizeof own;
    MUST(bind(server, (struct sockaddr *)&own, sizeof own) == 0 && listen(server, 5) == 0);
    MUST(getsockname(server, (struct sockaddr *)&own, &length) == 0);
    int client = socket(AF_INET6, SOCK_STREAM, 0);
    struct sockaddr_in6 mapped = six("::ffff:127.0.0.1", ntohs(own.sin_port));
    CHECK_EQ(connect(client, (struct sockaddr *)&mapped, sizeof mapped), 0);
    length = sizeof peer;
    CHECK_EQ(getsockname(client, (struct sockaddr *)&peer, &length), 0);
    CHECK(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
    struct sockaddr_in from;
    length = sizeof from;
    int accepted = accept(server, (struct sockaddr *)&from, &length);
    CHECK_EQ(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    CHECK_EQ(from.sin_port, peer.sin6_port);
    CHECK_EQ(write(client, "mapped", 6), 6);
    char buffer[8];
    CHECK_EQ(read(accepted, buffer, 8), 6);

    /* Datagrams too. */
    int a = socket(AF_INET6, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0);
    struct sockaddr_in6 any = six("::", 0);
    CHECK_EQ(bind(a, (struct sockaddr *)&any, sizeof any), 0);
    length = sizeof any;
    CHECK_EQ(getsockname(a, (struct sockaddr *)&any, &length), 0);
    struct sockaddr_in to = four(ntohs(any.sin6_port));
    CHECK_EQ(sendto(b, "four", 4, 0, (struct sockaddr *)&to, sizeof to), 4);
    length = sizeof peer;
    CHECK_EQ(recvfrom(a, buffer, 8, 0, (struct sockaddr *)&peer, &length), 4);
    CHECK(IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
    CHECK_EQ(sendto(a, "back", 4, 0, (struct sockaddr *)&peer, length), 4);
    CHECK_EQ(recv(b, buffer, 8, 0), 4);
    return check_result();
}
