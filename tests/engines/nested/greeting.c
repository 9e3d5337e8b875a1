/*
 * Says what comes first from a socket (argv[1]) that appears and is listened at within argv[2] seconds, in hexadecimal.
 */
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

int main(int argc, char **argv)
{
    struct sockaddr_un where = {.sun_family = AF_UNIX};
    int left = argc == 3 ? atoi(argv[2]) * 10 : 0;
    int channel = socket(AF_UNIX, SOCK_STREAM, 0);
    unsigned char bytes[64];

    strncpy(where.sun_path, argc == 3 ? argv[1] : "", sizeof where.sun_path - 1);
    while (connect(channel, (struct sockaddr *)&where, sizeof where) != 0) {
        if (left-- <= 0) {
            puts("nobody listens");
            return 1;
        }
        usleep(100000);
    }
    struct pollfd ready = {.fd = channel, .events = POLLIN};
    if (poll(&ready, 1, left * 100) != 1) {
        puts("nothing comes");
        return 1;
    }
    sleep(1); /* the rest of it */
    for (ssize_t index = 0, count = read(channel, bytes, sizeof bytes); index < count; index++)
        printf("%02x", bytes[index]);
    puts("");
    return 0;
}
