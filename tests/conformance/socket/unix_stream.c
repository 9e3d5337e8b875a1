/* AF_UNIX stream sockets: bind, listen, connect, accept, names, end of stream, errors, abstract names. */
#include "check.h"
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

static struct sockaddr_un name_of(const char *path)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX };
    strcpy(address.sun_path, path);
    return address;
}

static int connect_to(int fd, struct sockaddr_un address) { return connect(fd, (struct sockaddr *)&address, sizeof address); }
static int bind_to(int fd, struct sockaddr_un address) { return bind(fd, (struct sockaddr *)&address, sizeof address); }

int main(void)
{
    struct sockaddr_un address = name_of("sock"), other;
    socklen_t length;
    int server = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK(server >= 0);
    CHECK_EQ(fcntl(server, F_GETFD), FD_CLOEXEC);
    CHECK_ERR(connect_to(client, address), ENOENT);
    CHECK_ERR(listen(server, 5), EINVAL);
    CHECK_EQ(bind_to(server, address), 0);
    struct stat status;
    CHECK_EQ(stat("sock", &status), 0);
    CHECK(S_ISSOCK(status.st_mode));
    CHECK_ERR(connect_to(client, address), ECONNREFUSED);
    CHECK_ERR(bind_to(server, name_of("sock2")), EINVAL);
    CHECK_ERR(bind_to(client, address), EADDRINUSE);
    CHECK_EQ(listen(server, 1), 0);
    CHECK_ERR(accept4(server, NULL, NULL, 0x7), EINVAL);
    CHECK_EQ(connect_to(client, address), 0);
    CHECK_ERR(connect_to(client, address), EISCONN);
    length = sizeof other;
    int accepted = accept4(server, (struct sockaddr *)&other, &length, SOCK_CLOEXEC | SOCK_NONBLOCK);
    CHECK(accepted >= 0);
    CHECK_EQ(fcntl(accepted, F_GETFD), FD_CLOEXEC);
    CHECK_EQ(fcntl(accepted, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    CHECK_EQ(length, 2); /* the client has no name */
    length = sizeof other;
    CHECK_EQ(getpeername(client, (struct sockaddr *)&other, &length), 0);
    CHECK_STR(other.sun_path, "sock");
    CHECK_EQ(length, 2 + 5);
    length = sizeof other;
    CHECK_EQ(getsockname(accepted, (struct sockaddr *)&other, &length), 0);
    CHECK_STR(other.sun_path, "sock");
    CHECK_ERR(getpeername(server, (struct sockaddr *)&other, &length), ENOTCONN);

    char buffer[64];
    CHECK_ERR(read(accepted, buffer, 1), EAGAIN);
    CHECK_EQ(write(client, "hello", 5), 5);
    CHECK_EQ(send(client, "more", 4, 0), 4);
    CHECK_EQ(recv(accepted, buffer, 3, MSG_PEEK), 3);
    CHECK_EQ(recv(accepted, buffer, 64, 0), 9);
    CHECK(memcmp(buffer, "hellomore", 9) == 0);
    CHECK_EQ(shutdown(client, SHUT_WR), 0);
    CHECK_EQ(read(accepted, buffer, 1), 0);
    CHECK_ERR(send(client, "x", 1, MSG_NOSIGNAL), EPIPE);
    CHECK_EQ(write(accepted, "back", 4), 4);
    CHECK_EQ(read(client, buffer, 64), 4);
    close(accepted);
    CHECK_EQ(read(client, buffer, 64), 0);
    struct pollfd waiting = { client, POLLIN, 0 };
    CHECK_EQ(poll(&waiting, 1, 0), 1);
    CHECK_EQ(waiting.revents & (POLLIN | POLLHUP), POLLIN | POLLHUP);
    close(client);

    /* Closing with unread data resets the other side. */
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(connect_to(client, address), 0);
    accepted = accept(server, NULL, NULL);
    CHECK_EQ(write(client, "unread", 6), 6);
    close(accepted);
    CHECK_ERR(read(client, buffer, 1), ECONNRESET);
    close(client);

    /* The queue: a connection beyond it would block. */
    int waiting_clients[4], refused = 0;
    for (int i = 0; i < 4; i++) {
        waiting_clients[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
        if (connect_to(waiting_clients[i], address) == -1) {
            refused++;
            CHECK_ERR(connect_to(waiting_clients[i], address), EAGAIN);
        }
    }
    CHECK_EQ(refused, 2);
    /* What was sent before accept is there after it. */
    CHECK_EQ(write(waiting_clients[0], "early", 5), 5);
    accepted = accept(server, NULL, NULL);
    CHECK_EQ(read(accepted, buffer, 64), 5);
    close(server);
    CHECK_EQ(read(waiting_clients[1], buffer, 1) == -1 && errno == ECONNRESET, 1);
    CHECK_ERR(connect_to(socket(AF_UNIX, SOCK_STREAM, 0), address), ECONNREFUSED);
    CHECK_EQ(unlink("sock"), 0);

    /* Abstract names: no file, gone with the socket, all bytes count. */
    struct sockaddr_un abstract = { .sun_family = AF_UNIX };
    snprintf(abstract.sun_path + 1, 60, "skerry-%d", getpid());
    length = 2 + 1 + strlen(abstract.sun_path + 1);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    client = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(server, (struct sockaddr *)&abstract, length), 0);
    CHECK_EQ(listen(server, 1), 0);
    CHECK_ERR(connect(client, (struct sockaddr *)&abstract, length + 1), ECONNREFUSED);
    CHECK_EQ(connect(client, (struct sockaddr *)&abstract, length), 0);
    socklen_t got = sizeof other;
    CHECK_EQ(getpeername(client, (struct sockaddr *)&other, &got), 0);
    CHECK_EQ(got, length);
    CHECK(memcmp(other.sun_path, abstract.sun_path, length - 2) == 0);
    close(server);
    server = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(server, (struct sockaddr *)&abstract, length), 0);
    /* Autobind. */
    int automatic = socket(AF_UNIX, SOCK_STREAM, 0);
    CHECK_EQ(bind(automatic, (struct sockaddr *)&abstract, 2), 0);
    got = sizeof other;
    CHECK_EQ(getsockname(automatic, (struct sockaddr *)&other, &got), 0);
    CHECK_EQ(got, 2 + 6);
    CHECK_EQ(other.sun_path[0], 0);
    return check_result();
}
