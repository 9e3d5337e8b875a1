/* AF_UNIX datagram and seqpacket sockets: boundaries, truncation, addresses, connected ones, refusals. */
#include "check.h"
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un name_of(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strcpy(address.sun_path, path);
    return address;
}

int main(void)
{
    struct sockaddr_un a_name = name_of("a"), b_name = name_of("b"), from;
    socklen_t length = sizeof from;
    int a = socket(AF_UNIX, SOCK_DGRAM, 0), b = socket(AF_UNIX, SOCK_DGRAM, 0);
    char buffer[64];
    CHECK_EQ(bind(a, (struct sockaddr *)&a_name, sizeof a_name), 0);
    CHECK_ERR(send(b, "x", 1, 0), ENOTCONN);
    CHECK_EQ(sendto(b, "nameless", 8, 0, (struct sockaddr *)&a_name, sizeof a_name), 8);
    CHECK_EQ(recvfrom(a, buffer, 64, 0, (struct sockaddr *)&from, &length), 8);
    CHECK(length == 0 || length == 2);
    CHECK_EQ(bind(b, (struct sockaddr *)&b_name, sizeof b_name), 0);
    CHECK_EQ(connect(b, (struct sockaddr *)&a_name, sizeof a_name), 0);
    CHECK_EQ(send(b, "one", 3, 0), 3);
    CHECK_EQ(send(b, "", 0, 0), 0);
    CHECK_EQ(send(b, "three", 5, 0), 5);
    length = sizeof from;
    CHECK_EQ(recvfrom(a, buffer, 64, 0, (struct sockaddr *)&from, &length), 3);
    CHECK_STR(from.sun_path, "b");
    CHECK_EQ(recv(a, buffer, 64, 0), 0);
    /* Too small a buffer loses the rest; MSG_TRUNC tells the true size. */
    CHECK_EQ(recv(a, buffer, 2, MSG_PEEK | MSG_TRUNC), 5);
    struct iovec vector = { buffer, 2 };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1 };
    CHECK_EQ(recvmsg(a, &message, 0), 2);
    CHECK_EQ(message.msg_flags & MSG_TRUNC, MSG_TRUNC);
    CHECK_ERR(recv(a, buffer, 64, MSG_DONTWAIT), EAGAIN);
    CHECK_ERR(listen(a, 1), EOPNOTSUPP);
    static char big[1 << 22];
    CHECK_ERR(send(b, big, sizeof big, 0), EMSGSIZE);
    close(a);
    CHECK_ERR(send(b, "x", 1, MSG_NOSIGNAL), ECONNREFUSED);
    CHECK_ERR(sendto(socket(AF_UNIX, SOCK_DGRAM, 0), "x", 1, 0, (struct sockaddr *)&a_name, sizeof a_name), ECONNREFUSED);

    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    int count = 0;
    while (send(pair[0], "fill", 4, MSG_DONTWAIT) == 4 && count < 100000) count++;
    CHECK(count > 1 && count < 100000);
    CHECK_ERR(send(pair[0], "x", 1, MSG_DONTWAIT), EAGAIN);
    for (int i = 0; i < count; i++) CHECK_EQ(recv(pair[1], buffer, 64, MSG_DONTWAIT), 4);

    /* Sequenced packets: boundaries and connections. */
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0);
    CHECK_EQ(write(pair[0], "first", 5), 5);
    CHECK_EQ(write(pair[0], "second", 6), 6);
    CHECK_EQ(read(pair[1], buffer, 64), 5);
    CHECK_EQ(read(pair[1], buffer, 3), 3);
    close(pair[0]);
    CHECK_EQ(read(pair[1], buffer, 64), 0);
    CHECK_ERR(send(pair[1], "x", 1, MSG_NOSIGNAL), EPIPE);
    struct sockaddr_un packet_name = name_of("s");
    int server = socket(AF_UNIX, SOCK_SEQPACKET, 0), client = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    CHECK_EQ(bind(server, (struct sockaddr *)&packet_name, sizeof packet_name), 0);
    CHECK_EQ(listen(server, 5), 0);
    CHECK_EQ(connect(client, (struct sockaddr *)&packet_name, sizeof packet_name), 0);
    int accepted = accept(server, NULL, NULL);
    CHECK_EQ(send(client, "packet", 6, 0), 6);
    CHECK_EQ(recv(accepted, buffer, 64, 0), 6);
    CHECK_ERR(connect(socket(AF_UNIX, SOCK_STREAM, 0), (struct sockaddr *)&packet_name, sizeof packet_name), EPROTOTYPE);
    return check_result();
}
