/* getsockopt and setsockopt: common options of SOL_SOCKET, TCP, IP; lengths; unknown ones. */
#include "check.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

static int get(int fd, int level, int option)
{
    int value = -12345;
    socklen_t length = sizeof value;
    return getsockopt(fd, level, option, &value, &length) == 0 ? value : -1;
}

static int set(int fd, int level, int option, int value) { return setsockopt(fd, level, option, &value, sizeof value); }

int main(void)
{
    int tcp = socket(AF_INET, SOCK_STREAM, 0), udp = socket(AF_INET, SOCK_DGRAM, 0), pair[2];
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    CHECK_EQ(get(tcp, SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    CHECK_EQ(get(udp, SOL_SOCKET, SO_TYPE), SOCK_DGRAM);
    CHECK_EQ(get(tcp, SOL_SOCKET, SO_DOMAIN), AF_INET);
    CHECK_EQ(get(pair[0], SOL_SOCKET, SO_DOMAIN), AF_UNIX);
    CHECK_EQ(get(tcp, SOL_SOCKET, SO_PROTOCOL), IPPROTO_TCP);
    CHECK_EQ(get(tcp, SOL_SOCKET, SO_ERROR), 0);
    CHECK_EQ(get(tcp, SOL_SOCKET, SO_ACCEPTCONN), 0);
    static const int booleans[] = { SO_REUSEADDR, SO_KEEPALIVE, SO_BROADCAST, SO_REUSEPORT, SO_OOBINLINE };
    for (size_t i = 0; i < sizeof booleans / sizeof *booleans; i++) {
        CHECK_EQ(get(tcp, SOL_SOCKET, booleans[i]), 0);
        CHECK_EQ(set(tcp, SOL_SOCKET, booleans[i], 5), 0);
        CHECK_EQ(get(tcp, SOL_SOCKET, booleans[i]), 1);
    }
    /* The kernel doubles buffer sizes. */
    CHECK_EQ(set(udp, SOL_SOCKET, SO_RCVBUF, 20000), 0);
    CHECK_EQ(get(udp, SOL_SOCKET, SO_RCVBUF), 40000);
    CHECK_EQ(set(udp, SOL_SOCKET, SO_SNDBUF, 20000), 0);
    CHECK_EQ(get(udp, SOL_SOCKET, SO_SNDBUF), 40000);
    CHECK_EQ(set(udp, SOL_SOCKET, SO_RCVBUF, 1), 0);
    CHECK(get(udp, SOL_SOCKET, SO_RCVBUF) >= 256);

    struct linger linger = { 1, 7 };
    CHECK_EQ(setsockopt(tcp, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    linger = (struct linger){ 0, 0 };
    socklen_t length = sizeof linger;
    CHECK_EQ(getsockopt(tcp, SOL_SOCKET, SO_LINGER, &linger, &length), 0);
    CHECK(linger.l_onoff == 1 && linger.l_linger == 7);
    struct timeval timeout = { 1, 500000 }, back = { 0, 0 };
    CHECK_EQ(setsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), 0);
    length = sizeof back;
    CHECK_EQ(getsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &back, &length), 0);
    CHECK(back.tv_sec == 1 && back.tv_usec >= 490000 && back.tv_usec <= 510000);
    timeout.tv_usec = 1000000;
    CHECK_ERR(setsockopt(tcp, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), EDOM);

    CHECK_EQ(set(tcp, IPPROTO_TCP, TCP_NODELAY, 1), 0);
    CHECK_EQ(get(tcp, IPPROTO_TCP, TCP_NODELAY), 1);
    CHECK_EQ(set(tcp, IPPROTO_TCP, TCP_KEEPIDLE, 60), 0);
    CHECK_EQ(get(tcp, IPPROTO_TCP, TCP_KEEPIDLE), 60);
    CHECK(get(tcp, IPPROTO_TCP, TCP_MAXSEG) > 0);
    CHECK_EQ(set(tcp, IPPROTO_IP, IP_TTL, 33), 0);
    CHECK_EQ(get(tcp, IPPROTO_IP, IP_TTL), 33);
    CHECK_EQ(set(tcp, IPPROTO_IP, IP_TOS, 0x10), 0);
    CHECK_EQ(get(tcp, IPPROTO_IP, IP_TOS), 0x10);
    struct tcp_info info;
    length = sizeof info;
    CHECK_EQ(getsockopt(tcp, IPPROTO_TCP, TCP_INFO, &info, &length), 0);
    CHECK_EQ(info.tcpi_state, TCP_CLOSE);
    int six = socket(AF_INET6, SOCK_STREAM, 0);
    if (six >= 0) {
        CHECK_EQ(set(six, IPPROTO_IPV6, IPV6_V6ONLY, 1), 0);
        CHECK_EQ(get(six, IPPROTO_IPV6, IPV6_V6ONLY), 1);
    }

    /* Lengths. */
    int value = 1;
    CHECK_ERR(setsockopt(tcp, SOL_SOCKET, SO_KEEPALIVE, &value, 1), EINVAL);
    CHECK_ERR(setsockopt(tcp, SOL_SOCKET, SO_KEEPALIVE, (void *)8, 4), EFAULT);
    length = 2;
    CHECK_EQ(getsockopt(tcp, SOL_SOCKET, SO_TYPE, &value, &length), 0);
    CHECK_EQ(length, 2);
    length = -1;
    CHECK_ERR(getsockopt(tcp, SOL_SOCKET, SO_TYPE, &value, &length), EINVAL);
    length = sizeof value;
    CHECK_ERR(getsockopt(tcp, SOL_SOCKET, 9999, &value, &length), ENOPROTOOPT);
    CHECK_ERR(setsockopt(tcp, SOL_SOCKET, 9999, &value, 4), ENOPROTOOPT);
    CHECK_ERR(setsockopt(tcp, SOL_SOCKET, SO_TYPE, &value, 4), ENOPROTOOPT);
    CHECK_ERR(getsockopt(open("/dev/null", O_RDONLY), SOL_SOCKET, SO_TYPE, &value, &length), ENOTSOCK);
    return check_result();
}
