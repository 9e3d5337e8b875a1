/*
 * The first process of a machine whose root file system is the host's, read-only, over 9p: loads the modules that lie beside it,
 * mounts, runs the script that the kernel's command line names (`script=`), and switches the machine off.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static void report(int failed, const char *what)
{
    if (failed)
        printf("init: %s: %s\n", what, strerror(errno));
}

int main(void)
{
    struct dirent **modules;
    char *script = getenv("script");
    int status = 0;

    setvbuf(stdout, NULL, _IONBF, 0);
    report(chdir("/modules"), "modules");
    for (int index = 0, count = scandir(".", &modules, NULL, alphasort); index < count; index++) {
        const char *name = modules[index]->d_name;
        int file = open(name, O_RDONLY | O_CLOEXEC);
        if (name[0] != '.')
            report(syscall(SYS_finit_module, file, "", 0), name);
        close(file);
    }
    mkdir("/root", 0755);
    report(mount("host", "/root", "9p", MS_RDONLY, "trans=virtio,version=9p2000.L,msize=262144,cache=loose"), "the root");
    report(mount("none", "/root/proc", "proc", 0, NULL), "proc");
    report(mount("none", "/root/sys", "sysfs", 0, NULL), "sys");
    report(mount("none", "/root/sys/fs/cgroup", "cgroup2", 0, NULL), "cgroup");
    report(mount("none", "/root/dev", "devtmpfs", 0, NULL), "dev");
    mkdir("/root/dev/shm", 01777);
    mkdir("/root/dev/pts", 0755);
    report(mount("none", "/root/dev/shm", "tmpfs", 0, NULL), "shm");
    report(mount("none", "/root/dev/pts", "devpts", 0, NULL), "pts");
    report(mount("none", "/root/run", "tmpfs", 0, NULL), "run");
    /* A root that was only changed to has no user namespaces: it is to be the first one. */
    report(chdir("/root") || mount(".", "/", NULL, MS_MOVE, NULL) || chroot(".") || chdir("/"), "the root's place");
    pid_t child = fork();
    if (child == 0) {
        execl("/bin/sh", "sh", script, NULL);
        _exit(127);
    }
    /* Of others, which have lost their parents, it takes no notice. */
    waitpid(child, &status, 0);
    printf("\ninit: the script ended with %d\n", WIFEXITED(status) ? WEXITSTATUS(status) : 255);
    sync();
    reboot(RB_POWER_OFF);
}
