/* getdents64 and readdir: every entry once, types, seekdir, changes while reading, many entries. */
#include "check.h"
#include <dirent.h>
#include <sys/socket.h>
#include <sys/un.h>

int main(void)
{
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_EQ(chdir("d"), 0);
    close(make_file("file", ""));
    CHECK_EQ(mkdir("dir", 0755), 0);
    CHECK_EQ(symlink("file", "link"), 0);
    CHECK_EQ(mkfifo("fifo", 0600), 0);
    int sock = socket(AF_UNIX, SOCK_STREAM, 0);
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = "sock" };
    CHECK_EQ(bind(sock, (struct sockaddr *)&address, sizeof address), 0);

    DIR *folder = opendir(".");
    MUST(folder != NULL);
    struct dirent *entry;
    int seen = 0, dots = 0;
    while ((entry = readdir(folder))) {
        struct stat status;
        CHECK_EQ(lstat(entry->d_name, &status), 0);
        if (strcmp(entry->d_name, "..") != 0) CHECK_EQ(entry->d_ino, status.st_ino);
        if (entry->d_type != DT_UNKNOWN) CHECK_EQ(DTTOIF(entry->d_type), status.st_mode & S_IFMT);
        if (entry->d_name[0] == '.') dots++; else seen++;
    }
    CHECK_EQ(seen, 5);
    CHECK_EQ(dots, 2);
    rewinddir(folder);
    for (seen = 0; readdir(folder); seen++) { }
    CHECK_EQ(seen, 7);
    closedir(folder);

    /* A buffer too small for one entry; not a directory; a removed directory. */
    char buffer[1024];
    int fd = open(".", O_RDONLY | O_DIRECTORY);
    CHECK_ERR(syscall(SYS_getdents64, fd, buffer, 8), EINVAL);
    CHECK(syscall(SYS_getdents64, fd, buffer, sizeof buffer) > 0);
    CHECK_EQ(syscall(SYS_getdents64, fd, buffer, sizeof buffer), 0);
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK(syscall(SYS_getdents64, fd, buffer, sizeof buffer) > 0);
    int file = open("file", O_RDONLY);
    CHECK_ERR(syscall(SYS_getdents64, file, buffer, sizeof buffer), ENOTDIR);
    CHECK_ERR(syscall(SYS_getdents64, 999, buffer, sizeof buffer), EBADF);
    CHECK_EQ(mkdir("gone", 0755), 0);
    int gone = open("gone", O_RDONLY);
    CHECK_EQ(rmdir("gone"), 0);
    CHECK_ERR(syscall(SYS_getdents64, gone, buffer, sizeof buffer), ENOENT);

    /* Two thousand names; removing each as it is read loses none (as rm -r does). */
    CHECK_EQ(mkdir("many", 0755), 0);
    CHECK_EQ(chdir("many"), 0);
    enum { COUNT = 2000 };
    static char found[COUNT];
    for (int i = 0; i < COUNT; i++) {
        char name[64];
        snprintf(name, sizeof name, "a-rather-long-name-for-an-entry-%d", i);
        close(open(name, O_CREAT | O_WRONLY, 0600));
    }
    folder = opendir(".");
    long place = -1;
    char at_place[256] = "";
    for (seen = 0; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        int number = atoi(strrchr(entry->d_name, '-') + 1);
        MUST(number >= 0 && number < COUNT);
        CHECK_EQ(found[number]++, 0);
        if (++seen == 500) {
            place = telldir(folder);
            entry = readdir(folder);
            strcpy(at_place, entry->d_name);
            seekdir(folder, place);
        }
        if (seen == 501) CHECK_STR(entry->d_name, at_place);
    }
    CHECK_EQ(seen, COUNT);
    rewinddir(folder);
    for (seen = 0; (entry = readdir(folder));)
        if (entry->d_name[0] != '.') {
            CHECK_EQ(unlink(entry->d_name), 0);
            seen++;
        }
    CHECK_EQ(seen, COUNT);
    closedir(folder);
    CHECK_EQ(rmdir("../many"), 0);
    return check_result();
}
