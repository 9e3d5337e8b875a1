/* access(2), faccessat(2), search permission on folders, seen by an ordinary user. Root only, to become others. */
#include "check.h"
#include <grp.h>

int main(void)
{
    CHECK_ERR(access("missing", F_OK), ENOENT);
    close(make_file("f", ""));
    CHECK_EQ(access("f", F_OK), 0);
    CHECK_ERR(access("f", 0x10), EINVAL);
    CHECK_ERR(access("f/x", F_OK), ENOTDIR);
    if (geteuid() != 0) CANNOT("needs root");
    CHECK_EQ(chmod(".", 0755), 0);
    CHECK_EQ(chmod("f", 0640), 0);
    CHECK_EQ(chown("f", 100, 200), 0);
    CHECK_EQ(mkdir("closed", 0700), 0);
    close(make_file("closed/x", ""));
    CHECK_EQ(mkdir("listable", 0744), 0);
    close(make_file("listable/x", ""));
    CHECK_EQ(mkdir("sticky", 0777), 0);
    CHECK_EQ(chmod("sticky", 01777), 0);
    close(make_file("sticky/x", ""));
    struct { uid_t uid; gid_t gid; int read, write; } users[] = {
        { 100, 300, 0, 0 }, { 101, 200, 0, EACCES }, { 101, 300, EACCES, EACCES }, { 0, 300, 0, 0 },
    };
    for (size_t i = 0; i < sizeof users / sizeof *users; i++) {
        pid_t pid = child_fork();
        if (pid == 0) {
            CHECK_EQ(setgroups(0, NULL), 0);
            CHECK_EQ(setgid(users[i].gid), 0);
            CHECK_EQ(setuid(users[i].uid), 0);
            if (users[i].read) CHECK_ERR(access("f", R_OK), EACCES); else CHECK_EQ(access("f", R_OK), 0);
            if (users[i].write) CHECK_ERR(access("f", W_OK), EACCES); else CHECK_EQ(access("f", W_OK), 0);
            if (users[i].read) CHECK_ERR(open("f", O_RDONLY), EACCES); else CHECK(open("f", O_RDONLY) >= 0);
            if (users[i].write) CHECK_ERR(open("f", O_RDWR), EACCES); else CHECK(open("f", O_RDWR) >= 0);
            CHECK_ERR(access("f", X_OK), EACCES);
            struct stat status;
            if (users[i].uid) {
                CHECK_ERR(stat("closed/x", &status), EACCES);
                CHECK_ERR(open("closed", O_RDONLY), EACCES);
                CHECK_ERR(chdir("closed"), EACCES);
                CHECK(open("listable", O_RDONLY) >= 0);
                CHECK_ERR(stat("listable/x", &status), EACCES);
                CHECK_ERR(chdir("listable"), EACCES);
                CHECK_ERR(unlink("sticky/x"), EPERM);
                CHECK_ERR(rename("sticky/x", "sticky/y"), EPERM);
                CHECK_ERR(open("new", O_CREAT | O_RDWR, 0600), EACCES);
                CHECK_ERR(mkdir("new", 0700), EACCES);
                CHECK_ERR(unlink("f"), EACCES);
                CHECK_ERR(rename("f", "g"), EACCES);
                close(make_file("sticky/own", ""));
                CHECK_EQ(unlink("sticky/own"), 0);
            } else {
                CHECK_EQ(stat("closed/x", &status), 0);
            }
            child_exit();
        }
        CHECK_CHILD(pid);
    }

    /* A supplementary group counts; access() asks for the real ids, faccessat(AT_EACCESS) for the effective ones. */
    pid_t pid = child_fork();
    if (pid == 0) {
        gid_t group = 200;
        CHECK_EQ(setgroups(1, &group), 0);
        CHECK_EQ(setgid(300), 0);
        CHECK_EQ(setresuid(0, 101, 0), 0);
        CHECK_EQ(access("f", W_OK), 0);
        CHECK_EQ(faccessat(AT_FDCWD, "f", R_OK, AT_EACCESS), 0);
        CHECK_ERR(faccessat(AT_FDCWD, "f", W_OK, AT_EACCESS), EACCES);
        CHECK_ERR(open("f", O_WRONLY), EACCES);
        child_exit();
    }
    CHECK_CHILD(pid);
    return check_result();
}
