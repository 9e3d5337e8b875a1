/* symlink(2), readlink(2), and how links are followed: chains, loops, trailing slashes, "..". */
#include "check.h"

int main(void)
{
    char buffer[PATH_MAX];
    struct stat status;
    CHECK_EQ(symlink("target", "l"), 0);
    CHECK_EQ(readlink("l", buffer, sizeof buffer), 6);
    CHECK(memcmp(buffer, "target", 6) == 0);
    CHECK_EQ(readlink("l", buffer, 3), 3);
    CHECK_ERR(readlink("l", buffer, 0), EINVAL);
    CHECK_EQ(lstat("l", &status), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_EQ(status.st_size, 6);
    CHECK_EQ(status.st_mode & 07777, 0777);
    CHECK_ERR(stat("l", &status), ENOENT);
    CHECK_ERR(symlink("x", "l"), EEXIST);
    CHECK_ERR(symlink("", "e"), ENOENT);
    CHECK_ERR(symlink("x", ""), ENOENT);
    CHECK_ERR(symlink("x", "no/l"), ENOENT);
    close(make_file("target", "T"));
    CHECK_STR(read_file("l"), "T");
    CHECK_ERR(readlink("target", buffer, sizeof buffer), EINVAL);
    CHECK_ERR(readlink("missing", buffer, sizeof buffer), ENOENT);
    CHECK_ERR(readlink("target/x", buffer, sizeof buffer), ENOTDIR);

    /* Forty links in a chain are followed, one more is not. */
    CHECK_EQ(symlink("target", "c0"), 0);
    for (int i = 1; i <= 40; i++) {
        char from[8], to[8];
        snprintf(from, sizeof from, "c%d", i - 1);
        snprintf(to, sizeof to, "c%d", i);
        CHECK_EQ(symlink(from, to), 0);
    }
    CHECK_EQ(stat("c39", &status), 0);
    CHECK_ERR(stat("c40", &status), ELOOP);
    CHECK_EQ(lstat("c40", &status), 0);
    CHECK_EQ(symlink("p2/x", "p1"), 0);
    CHECK_EQ(symlink("p1/x", "p2"), 0);
    CHECK_ERR(stat("p1", &status), ELOOP);

    /* Directories through links. */
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_EQ(mkdir("d/e", 0755), 0);
    close(make_file("d/f", "in d"));
    CHECK_EQ(symlink("d/e", "le"), 0);
    CHECK_STR(read_file("le/../f"), "in d");
    CHECK_EQ(lstat("le", &status), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_EQ(lstat("le/", &status), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_EQ(lstat("le/.", &status), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_ERR(stat("l/", &status), ENOTDIR);
    MUST(getcwd(buffer, sizeof buffer) != NULL);
    char absolute[PATH_MAX + 8];
    snprintf(absolute, sizeof absolute, "%s/target", buffer);
    CHECK_EQ(symlink(absolute, "d/e/abs"), 0);
    CHECK_STR(read_file("le/abs"), "T");
    CHECK_EQ(symlink("../../target", "d/e/up"), 0);
    CHECK_STR(read_file("d/e/up"), "T");
    CHECK_EQ(stat("/../../..", &status), 0);

    /* A long target is kept whole. */
    char target[4096];
    memset(target, 'x', 4095);
    target[4095] = 0;
    CHECK_EQ(symlink(target, "long"), 0);
    CHECK_EQ(readlink("long", buffer, sizeof buffer), 4095);
    CHECK_ERR(stat("long", &status), ENAMETOOLONG);
    return check_result();
}
