/* UDP over loopback: boundaries, truncation, connected sockets, ECONNREFUSED, sendmmsg, recvmmsg, IP_PKTINFO-free basics, timeouts. */
#include "check.h"
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

int main(void)
{
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, from;
    socklen_t length = sizeof address;
    int a = socket(AF_INET, SOCK_DGRAM, 0), b = socket(AF_INET, SOCK_DGRAM, 0);
    char buffer[65536];
    CHECK_EQ(bind(a, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(getsockname(a, (struct sockaddr *)&address, &length), 0);
    CHECK_ERR(send(b, "x", 1, 0), EDESTADDRREQ);
    CHECK_EQ(sendto(b, "one", 3, 0, (struct sockaddr *)&address, sizeof address), 3);
    CHECK_EQ(sendto(b, "", 0, 0, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(connect(b, (struct sockaddr *)&address, sizeof address), 0);
    CHECK_EQ(write(b, "three", 5), 5);
    int pending = -1;
    CHECK_EQ(ioctl(a, FIONREAD, &pending), 0);
    CHECK_EQ(pending, 3);
    length = sizeof from;
    CHECK_EQ(recvfrom(a, buffer, sizeof buffer, 0, (struct sockaddr *)&from, &length), 3);
    CHECK_EQ(length, sizeof from);
    CHECK_EQ(from.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
    CHECK_EQ(recv(a, buffer, sizeof buffer, 0), 0);
    CHECK_EQ(recv(a, buffer, 2, MSG_TRUNC), 5);
    CHECK_ERR(recv(a, buffer, 1, MSG_DONTWAIT), EAGAIN);
    struct timeval timeout = { 0, 50000 };
    CHECK_EQ(setsockopt(a, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof timeout), 0);
    long long start = now_ns();
    CHECK_ERR(recv(a, buffer, 1, 0), EAGAIN);
    CHECK(now_ns() - start >= 45000000);

    /* A connected socket hears only its peer, and hears of refusals. */
    int stranger = socket(AF_INET, SOCK_DGRAM, 0);
    CHECK_EQ(sendto(stranger, "spoof", 5, 0, (struct sockaddr *)&from, sizeof from), 5);
    CHECK_EQ(sendto(a, "reply", 5, 0, (struct sockaddr *)&from, sizeof from), 5);
    CHECK_EQ(recv(b, buffer, 64, 0), 5);
    CHECK(memcmp(buffer, "reply", 5) == 0);
    CHECK_ERR(recv(b, buffer, 1, MSG_DONTWAIT), EAGAIN);
    close(a);
    CHECK_EQ(send(b, "x", 1, 0), 1);
    sleep_ms(20);
    CHECK_ERR(send(b, "x", 1, 0), ECONNREFUSED);
    /* Disconnect. */
    struct sockaddr unspecified = { .sa_family = AF_UNSPEC };
    CHECK_EQ(connect(b, &unspecified, sizeof unspecified), 0);
    CHECK_ERR(send(b, "x", 1, 0), EDESTADDRREQ);
    CHECK_ERR(getpeername(b, (struct sockaddr *)&from, &length), ENOTCONN);
    CHECK_ERR(sendto(b, buffer, 65508, 0, (struct sockaddr *)&address, sizeof address), EMSGSIZE);

    /* Several at once. */
    a = socket(AF_INET, SOCK_DGRAM, 0);
    address.sin_port = 0;
    CHECK_EQ(bind(a, (struct sockaddr *)&address, sizeof address), 0);
    length = sizeof address;
    CHECK_EQ(getsockname(a, (struct sockaddr *)&address, &length), 0);
    CHECK_EQ(connect(b, (struct sockaddr *)&address, sizeof address), 0);
    struct mmsghdr messages[3];
    struct iovec vectors[3] = { { "a", 1 }, { "bb", 2 }, { "ccc", 3 } };
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < 3; i++) {
        messages[i].msg_hdr.msg_iov = &vectors[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK_EQ(sendmmsg(b, messages, 3, 0), 3);
    CHECK_EQ(messages[2].msg_len, 3);
    char rooms[4][16];
    struct mmsghdr received[4];
    struct iovec places[4];
    memset(received, 0, sizeof received);
    for (int i = 0; i < 4; i++) {
        places[i] = (struct iovec){ rooms[i], 16 };
        received[i].msg_hdr.msg_iov = &places[i];
        received[i].msg_hdr.msg_iovlen = 1;
    }
    CHECK_EQ(recvmmsg(a, received, 4, MSG_DONTWAIT, NULL), 3);
    CHECK_EQ(received[1].msg_len, 2);
    CHECK(memcmp(rooms[2], "ccc", 3) == 0);

    /* Multiplexed ports are unique; a large datagram passes. */
    memset(buffer, 'L', 60000);
    CHECK_EQ(send(b, buffer, 60000, 0), 60000);
    memset(buffer, 0, sizeof buffer);
    CHECK_EQ(recv(a, buffer, sizeof buffer, 0), 60000);
    CHECK_EQ(buffer[59999], 'L');
    /* IPv6, when there is one. */
    int six = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 address6 = { .sin6_family = AF_INET6, .sin6_addr = in6addr_loopback };
    if (six >= 0 && bind(six, (struct sockaddr *)&address6, sizeof address6) == 0) {
        length = sizeof address6;
        CHECK_EQ(getsockname(six, (struct sockaddr *)&address6, &length), 0);
        CHECK_EQ(sendto(six, "self", 4, 0, (struct sockaddr *)&address6, sizeof address6), 4);
        CHECK_EQ(recv(six, buffer, 64, 0), 4);
    }
    return check_result();
}
