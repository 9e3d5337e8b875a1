/*
 * The init of a bare guest kernel: runs the command that is given to it, or says that it is up and waits; says that it ran, and
 * switches the machine off.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int main(int count, char **words)
{
    int status = 0;
    mkdir("/dev", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, "");
    int console = open("/dev/console", O_RDWR);
    for (int fd = 0; fd < 3; fd++) dup2(console, fd);
    if (count > 1 && strcmp(words[1], "idle") == 0) {
        if (write(1, "up\n", 3) == 3)
            for (;;) pause();
    } else if (count > 1) {
        char *environment[] = { "PATH=/usr/bin:/bin", NULL };
        if (fork() == 0) {
            execve(words[1], words + 1, environment);
            _exit(127);
        }
        if (wait(&status) < 0 || status != 0) reboot(RB_POWER_OFF);
    }
    if (write(1, "ran\n", 4) == 4) reboot(RB_POWER_OFF);
    reboot(RB_POWER_OFF);
}
