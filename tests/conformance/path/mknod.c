/* mknod(2), mkfifo(3): FIFOs and regular files for everybody; device nodes are root's and may be refused. */
#include "check.h"
#include <sys/sysmacros.h>

int main(void)
{
    struct stat status;
    umask(0);
    CHECK_EQ(mknod("fifo", S_IFIFO | 0620, 0), 0);
    CHECK_EQ(stat("fifo", &status), 0);
    CHECK_EQ(status.st_mode, S_IFIFO | 0620);
    CHECK_EQ(mknod("file", S_IFREG | 0600, 0), 0);
    CHECK_EQ(mknod("zero", 0600, 0), 0);
    CHECK_EQ(stat("zero", &status), 0);
    CHECK_EQ(status.st_mode, S_IFREG | 0600);
    CHECK_EQ(mknod("sock", S_IFSOCK | 0600, 0), 0);
    CHECK_EQ(stat("sock", &status), 0);
    CHECK(S_ISSOCK(status.st_mode));
    CHECK_ERR(open("sock", O_RDWR), ENXIO);
    CHECK_ERR(mknod("fifo", S_IFIFO | 0600, 0), EEXIST);
    CHECK_ERR(mknod("d", S_IFDIR | 0600, 0), EPERM);
    CHECK_ERR(mknod("x", S_IFMT | 0600, 0), EINVAL);
    CHECK_ERR(mkfifo("no/x", 0600), ENOENT);
    CHECK_EQ(mkdir("d", 0755), 0);
    int folder = open("d", O_RDONLY);
    CHECK_EQ(mkfifoat(folder, "x", 0600), 0);
    CHECK_EQ(stat("d/x", &status), 0);
    CHECK(S_ISFIFO(status.st_mode));
    /* Whether root may make device nodes depends on where it runs; an ordinary user never may. */
    if (geteuid() != 0) CHECK_ERR(mknod("dev", S_IFCHR | 0600, makedev(1, 3)), EPERM);
    return check_result();
}
