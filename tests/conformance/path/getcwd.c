/* getcwd, chdir, fchdir: per process, kept over fork, errors. */
#include "check.h"

int main(void)
{
    char start[PATH_MAX], here[PATH_MAX + 64], expected[PATH_MAX + 64];
    MUST(getcwd(start, sizeof start) != NULL);
    CHECK(start[0] == '/');
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_EQ(chdir("d"), 0);
    snprintf(expected, sizeof expected, "%s/d", start);
    CHECK_STR(getcwd(here, sizeof here), expected);
    /* The raw call returns the length with its NUL. */
    CHECK_EQ(syscall(SYS_getcwd, here, sizeof here), strlen(expected) + 1);
    CHECK_ERR(syscall(SYS_getcwd, here, 2), ERANGE);
    CHECK_ERR(syscall(SYS_getcwd, (char *)8, sizeof here), EFAULT);
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_STR(getcwd(here, sizeof here), expected);
        CHECK_EQ(chdir("/"), 0);
        CHECK_STR(getcwd(here, sizeof here), "/");
        CHECK_EQ(chdir(".."), 0);
        CHECK_STR(getcwd(here, sizeof here), "/");
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_STR(getcwd(here, sizeof here), expected);

    int up = open("..", O_RDONLY | O_DIRECTORY);
    CHECK_EQ(fchdir(up), 0);
    CHECK_STR(getcwd(here, sizeof here), start);
    close(make_file("f", ""));
    CHECK_ERR(chdir("f"), ENOTDIR);
    CHECK_ERR(chdir("missing"), ENOENT);
    CHECK_ERR(chdir(""), ENOENT);
    CHECK_ERR(fchdir(open("f", O_RDONLY)), ENOTDIR);
    CHECK_ERR(fchdir(999), EBADF);
    CHECK_EQ(fchdir(open("d", O_PATH)), 0);
    CHECK_STR(getcwd(here, sizeof here), expected);

    /* Through a link the true name is reported. */
    CHECK_EQ(chdir(".."), 0);
    CHECK_EQ(symlink("d", "l"), 0);
    CHECK_EQ(chdir("l"), 0);
    CHECK_STR(getcwd(here, sizeof here), expected);
    char *link_text = realpath("/proc/self/cwd", NULL);
    CHECK_STR(link_text, expected);

    /* Deep paths. */
    char name[201];
    memset(name, 'n', 200);
    name[200] = 0;
    for (int i = 0; i < 30; i++) {
        CHECK_EQ(mkdir(name, 0755), 0);
        MUST(chdir(name) == 0);
    }
    char *deep = getcwd(NULL, 0);
    CHECK(deep == NULL ? errno == ENAMETOOLONG : strlen(deep) > 6000);
    struct stat status;
    CHECK_EQ(stat(".", &status), 0);
    return check_result();
}
