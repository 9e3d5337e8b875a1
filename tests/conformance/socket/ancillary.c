/* SCM_RIGHTS and SCM_CREDENTIALS, SO_PEERCRED, SO_PASSCRED. */
#include "check.h"
#include <sys/socket.h>

static int send_fds(int socket, const int *fds, int count, char byte)
{
    char control[CMSG_SPACE(sizeof(int) * 300)];
    memset(control, 0, sizeof control);
    struct iovec vector = { &byte, 1 };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * count) };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * count);
    return sendmsg(socket, &message, MSG_NOSIGNAL);
}

static int receive_fds(int socket, int *fds, int room, int flags, int *message_flags)
{
    char control[CMSG_SPACE(sizeof(int) * 300)], byte;
    struct iovec vector = { &byte, 1 };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = CMSG_SPACE(sizeof(int) * room) };
    if (room == 0) message.msg_controllen = 0;
    if (recvmsg(socket, &message, flags) != 1) return -1;
    if (message_flags) *message_flags = message.msg_flags;
    int count = 0;
    for (struct cmsghdr *header = CMSG_FIRSTHDR(&message); header; header = CMSG_NXTHDR(&message, header))
        if (header->cmsg_level == SOL_SOCKET && header->cmsg_type == SCM_RIGHTS) {
            count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
            memcpy(fds, CMSG_DATA(header), count * sizeof(int));
        }
    return count;
}

int main(void)
{
    int pair[2], p[2], got[10], flags;
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && pipe(p) == 0);
    int file = make_file("f", "0123456789");
    CHECK_EQ(lseek(file, 4, SEEK_SET), 4);
    int sent[3] = { file, p[1], pair[0] };
    CHECK_EQ(send_fds(pair[0], sent, 3, 'x'), 1);
    CHECK_EQ(receive_fds(pair[1], got, 10, MSG_CMSG_CLOEXEC, NULL), 3);
    CHECK_EQ(fcntl(got[0], F_GETFD), FD_CLOEXEC);
    CHECK_EQ(lseek(got[0], 0, SEEK_CUR), 4); /* one open file */
    CHECK_EQ(write(got[1], "via", 3), 3);
    char buffer[16];
    CHECK_EQ(read(p[0], buffer, 16), 3);
    CHECK_EQ(write(got[2], "s", 1), 1);
    CHECK_EQ(read(pair[1], buffer, 16), 1);

    /* The message keeps the file open after the sender closed it; data is not read across such messages. */
    int temporary = make_file("g", "kept");
    CHECK_EQ(write(pair[0], "before", 6), 6);
    CHECK_EQ(send_fds(pair[0], &temporary, 1, 'y'), 1);
    CHECK_EQ(write(pair[0], "after", 5), 5);
    close(temporary);
    CHECK_EQ(unlink("g"), 0);
    ssize_t first = read(pair[1], buffer, 6);
    CHECK_EQ(first, 6);
    CHECK_EQ(receive_fds(pair[1], got, 10, 0, NULL), 1);
    CHECK_EQ(read(got[0], buffer, 16), 4);
    CHECK_EQ(fcntl(got[0], F_GETFD), 0);
    CHECK_EQ(read(pair[1], buffer, 16), 5);

    /* No room: MSG_CTRUNC, and what did not fit is closed. */
    CHECK_EQ(send_fds(pair[0], sent, 3, 'z'), 1);
    CHECK_EQ(receive_fds(pair[1], got, 0, 0, &flags), 0);
    CHECK_EQ(flags & MSG_CTRUNC, MSG_CTRUNC);
    /* Plain read takes the byte and drops the descriptors. */
    int ends[2];
    MUST(pipe(ends) == 0);
    CHECK_EQ(send_fds(pair[0], &ends[1], 1, 'w'), 1);
    close(ends[1]);
    CHECK_EQ(read(pair[1], buffer, 1), 1);
    CHECK_EQ(read(ends[0], buffer, 1), 0);
    int bad = 999, many[254];
    CHECK_ERR(send_fds(pair[0], &bad, 1, 'b'), EBADF);
    for (int i = 0; i < 254; i++) many[i] = file;
    CHECK_ERR(send_fds(pair[0], many, 254, 'b'), EINVAL);

    /* To another process. */
    pid_t pid = child_fork();
    if (pid == 0) {
        close(pair[0]);
        CHECK_EQ(receive_fds(pair[1], got, 10, 0, NULL), 1);
        CHECK_EQ(write(got[0], "from child", 10), 10);
        child_exit();
    }
    int q[2];
    MUST(pipe(q) == 0);
    CHECK_EQ(send_fds(pair[0], &q[1], 1, 'p'), 1);
    close(q[1]);
    CHECK_EQ(read(q[0], buffer, 16), 10);
    CHECK_CHILD(pid);

    /* Credentials. */
    struct ucred peer;
    socklen_t length = sizeof peer;
    CHECK_EQ(getsockopt(pair[0], SOL_SOCKET, SO_PEERCRED, &peer, &length), 0);
    CHECK(peer.pid == getpid() && peer.uid == getuid() && peer.gid == getgid());
    int on = 1;
    CHECK_EQ(setsockopt(pair[1], SOL_SOCKET, SO_PASSCRED, &on, sizeof on), 0);
    if ((pid = child_fork()) == 0) {
        CHECK_EQ(write(pair[0], "c", 1), 1);
        child_exit();
    }
    CHECK_CHILD(pid);
    char control[CMSG_SPACE(sizeof peer)];
    struct iovec vector = { buffer, 1 };
    struct msghdr message = { .msg_iov = &vector, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
    CHECK_EQ(recvmsg(pair[1], &message, 0), 1);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    CHECK(header && header->cmsg_type == SCM_CREDENTIALS);
    if (header) {
        memcpy(&peer, CMSG_DATA(header), sizeof peer);
        CHECK_EQ(peer.pid, pid);
        CHECK_EQ(peer.uid, getuid());
    }
    return check_result();
}
