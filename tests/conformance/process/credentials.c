/* User and group ids: the set*id family, supplementary groups, capabilities that go with them, set-id files. Root only. */
#include "check.h"
#include <grp.h>
#include <linux/capability.h>
#include <sys/fsuid.h>

static void expect(uid_t r, uid_t e, uid_t s)
{
    uid_t real, effective, saved;
    CHECK_EQ(getresuid(&real, &effective, &saved), 0);
    CHECK_EQ(real, r);
    CHECK_EQ(effective, e);
    CHECK_EQ(saved, s);
}

static unsigned long long effective_capabilities(void)
{
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct data[2] = { 0 };
    CHECK_EQ(syscall(SYS_capget, &header, data), 0);
    return data[0].effective | (unsigned long long)data[1].effective << 32;
}

#define CHILD(...) do { pid_t pid = child_fork(); if (pid == 0) { __VA_ARGS__; child_exit(); } CHECK_CHILD(pid); } while (0)

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1) {
        printf("%d %d %d %d", getuid(), geteuid(), getgid(), getegid());
        return 0;
    }
    if (geteuid() != 0) CANNOT("needs root");
    gid_t groups[4] = { 0 };
    CHILD(
        CHECK_EQ(setresuid(1, 2, 3), 0);
        expect(1, 2, 3);
        CHECK_EQ(effective_capabilities(), 0);
        CHECK_EQ(seteuid(3), 0);
        CHECK_EQ(setreuid(-1, 1), 0);
        expect(1, 1, 3);
        CHECK_ERR(setresuid(5, -1, -1), EPERM);
        CHECK_ERR(setuid(0), EPERM);
        CHECK_EQ(setuid(3), 0);
        expect(1, 3, 3));
    CHILD(
        CHECK(effective_capabilities() != 0);
        CHECK_EQ(seteuid(1000), 0);
        CHECK_EQ(effective_capabilities(), 0);
        CHECK_EQ(seteuid(0), 0);
        CHECK(effective_capabilities() != 0);
        CHECK_EQ(setuid(1000), 0);
        expect(1000, 1000, 1000);
        CHECK_ERR(setuid(0), EPERM);
        CHECK_ERR(setgid(5), EPERM);
        CHECK_ERR(setgroups(0, groups), EPERM);
        CHECK_ERR(seteuid(0), EPERM));
    CHILD(
        groups[0] = 10, groups[1] = 20, groups[2] = 30;
        CHECK_EQ(setgroups(3, groups), 0);
        CHECK_EQ(getgroups(0, groups), 3);
        CHECK_ERR(getgroups(2, groups), EINVAL);
        CHECK_EQ(getgroups(4, groups), 3);
        CHECK_EQ(groups[1], 20);
        CHECK_EQ(setresgid(40, 50, 60), 0);
        CHECK_EQ(getegid(), 50);
        CHECK_EQ(getgid(), 40);
        CHECK_EQ(setreuid(7, 8), 0);
        expect(7, 8, 8);
        CHECK_EQ(setegid(60), 0);
        CHECK_ERR(setegid(70), EPERM));
    CHILD(
        CHECK_EQ(chmod(".", 0777), 0);
        CHECK_EQ(setfsuid(1234), 0);
        CHECK_EQ(setfsuid(-1), 1234);
        CHECK_EQ(geteuid(), 0);
        CHECK_EQ(setfsgid(55), 0);
        close(open("as-fsuid", O_CREAT | O_WRONLY, 0600));
        struct stat status;
        CHECK_EQ(stat("as-fsuid", &status), 0);
        CHECK(status.st_uid == 1234 && status.st_gid == 55));

    /* A set-user-id copy of this program runs as its owner, unless no-new-privileges or a script. */
    char command[PATH_MAX + 32], own[PATH_MAX] = { 0 };
    MUST(readlink("/proc/self/exe", own, sizeof own - 1) > 0);
    snprintf(command, sizeof command, "cp %s setid && chmod 755 .", own);
    MUST(system(command) == 0);
    CHECK_EQ(chown("setid", 77, 88), 0);
    CHECK_EQ(chmod("setid", 06755), 0);
    FILE *stream = popen("./setid x", "r");
    char line[64] = "";
    CHECK(fgets(line, sizeof line, stream) != NULL);
    pclose(stream);
    CHECK(strcmp(line, "0 77 0 88") == 0 || strcmp(line, "0 0 0 0") == 0 /* a nosuid mount */);
    return check_result();
}
