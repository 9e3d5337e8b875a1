/* System V message queues: order, types, sizes, blocking, removal. */
#include "check.h"
#include <sys/ipc.h>
#include <sys/msg.h>

struct message { long type; char text[64]; };

int main(void)
{
    int id = msgget(IPC_PRIVATE, IPC_CREAT | 0600);
    if (id < 0 && errno == ENOSYS) CANNOT("no System V message queues");
    CHECK(id >= 0);
    struct message message = { 0, "" };
    CHECK_ERR(msgsnd(id, &message, 1, 0), EINVAL);
    static const struct { long type; const char *text; } sent[] = { { 3, "a" }, { 1, "b" }, { 2, "c" }, { 1, "d" }, { 5, "e" } };
    for (int i = 0; i < 5; i++) {
        message.type = sent[i].type;
        strcpy(message.text, sent[i].text);
        CHECK_EQ(msgsnd(id, &message, 2, 0), 0);
    }
    struct msqid_ds status;
    CHECK_EQ(msgctl(id, IPC_STAT, &status), 0);
    CHECK_EQ(status.msg_qnum, 5);
    CHECK_EQ(msgrcv(id, &message, 64, 1, 0), 2);
    CHECK_STR(message.text, "b");
    CHECK_EQ(msgrcv(id, &message, 64, -2, 0), 2);
    CHECK_STR(message.text, "d");
    CHECK_EQ(msgrcv(id, &message, 64, 0, 0), 2);
    CHECK_STR(message.text, "a");
    CHECK_EQ(msgrcv(id, &message, 64, 2, MSG_EXCEPT), 2);
    CHECK_STR(message.text, "e");
    CHECK_ERR(msgrcv(id, &message, 1, 0, 0), E2BIG);
    CHECK_EQ(msgrcv(id, &message, 1, 0, MSG_NOERROR), 1);
    CHECK_ERR(msgrcv(id, &message, 64, 0, IPC_NOWAIT), ENOMSG);

    /* A full queue. */
    message.type = 1;
    static struct { long type; char text[4096]; } big = { 1, "" };
    int count = 0;
    while (msgsnd(id, &big, 4096, IPC_NOWAIT) == 0 && count < 1000) count++;
    CHECK(count > 0 && count < 1000);
    CHECK_ERR(msgsnd(id, &big, 4096, IPC_NOWAIT), EAGAIN);
    while (msgrcv(id, &big, 4096, 0, IPC_NOWAIT) >= 0) { }

    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_EQ(msgrcv(id, &message, 64, 7, 0), 3);
        CHECK_STR(message.text, "xy");
        CHECK_ERR(msgrcv(id, &message, 64, 7, 0), EIDRM);
        child_exit();
    }
    message.type = 6;
    CHECK_EQ(msgsnd(id, &message, 3, 0), 0);
    message.type = 7;
    strcpy(message.text, "xy");
    CHECK_EQ(msgsnd(id, &message, 3, 0), 0);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(msgctl(id, IPC_STAT, &status), 0);
        if (status.msg_qnum == 1) break;
        sleep_ms(5);
    }
    CHECK(wait_for_state(pid, 'S'));
    sleep_ms(20);
    CHECK_EQ(msgctl(id, IPC_RMID, NULL), 0);
    CHECK_CHILD(pid);
    CHECK_ERR(msgsnd(id, &message, 1, 0), EINVAL);
    return check_result();
}
