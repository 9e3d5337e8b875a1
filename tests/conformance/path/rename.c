/* rename(2): replacing, directories, open files, links, errors. */
#include "check.h"

int main(void)
{
    struct stat status, other;
    int fd = make_file("a", "A");
    CHECK_EQ(fstat(fd, &status), 0);
    CHECK_EQ(rename("a", "b"), 0);
    CHECK_ERR(access("a", F_OK), ENOENT);
    CHECK_EQ(stat("b", &other), 0);
    CHECK_EQ(other.st_ino, status.st_ino);

    /* Replacing: the old file lives on for who has it open. */
    int old = make_file("c", "C");
    CHECK_EQ(rename("b", "c"), 0);
    CHECK_STR(read_file("c"), "A");
    char byte;
    CHECK_EQ(read(old, &byte, 1), 1);
    CHECK_EQ(byte, 'C');
    CHECK_EQ(fstat(old, &status), 0);
    CHECK_EQ(status.st_nlink, 0);

    /* Onto itself, and onto another name of the same file: nothing happens. */
    CHECK_EQ(rename("c", "c"), 0);
    CHECK_EQ(link("c", "hard"), 0);
    CHECK_EQ(rename("c", "hard"), 0);
    CHECK_EQ(access("c", F_OK), 0);
    CHECK_EQ(access("hard", F_OK), 0);

    CHECK_ERR(rename("missing", "x"), ENOENT);
    CHECK_ERR(rename("c", "missing/x"), ENOENT);
    CHECK_ERR(rename("c", "hard/x"), ENOTDIR);
    CHECK_ERR(rename("c", ""), ENOENT);

    /* Directories: only onto empty directories, never into themselves. */
    CHECK_EQ(mkdir("d", 0755), 0);
    CHECK_EQ(mkdir("d/sub", 0755), 0);
    CHECK_EQ(mkdir("empty", 0755), 0);
    CHECK_ERR(rename("c", "empty"), EISDIR);
    CHECK_ERR(rename("d", "c"), ENOTDIR);
    CHECK_ERR(rename("d", "d/sub/x"), EINVAL);
    CHECK_ERR(rename("empty", "d"), ENOTEMPTY);
    CHECK_ERR(rename("d/.", "x"), EBUSY);
    CHECK_ERR(rename("c", "c2/"), ENOTDIR);
    close(make_file("d/file", "in d"));
    CHECK_EQ(rename("d", "empty"), 0);
    CHECK_STR(read_file("empty/file"), "in d");
    CHECK_EQ(rename("empty/", "moved/"), 0);

    /* ".." follows a moved directory, and a working directory moves with it. */
    CHECK_EQ(mkdir("top", 0755), 0);
    CHECK_EQ(chdir("moved"), 0);
    CHECK_EQ(rename("../moved", "../top/again"), 0);
    char here[PATH_MAX];
    MUST(getcwd(here, sizeof here) != NULL);
    CHECK(strlen(here) > 10 && strcmp(here + strlen(here) - 10, "/top/again") == 0);
    CHECK_EQ(chdir("../.."), 0);
    CHECK_EQ(stat("top/again/file", &status), 0);

    /* A symbolic link itself is renamed, not what it points to. */
    CHECK_EQ(symlink("c", "l"), 0);
    CHECK_EQ(rename("l", "l2"), 0);
    CHECK_EQ(lstat("l2", &status), 0);
    CHECK(S_ISLNK(status.st_mode));
    CHECK_EQ(rename("hard", "l2"), 0);
    CHECK_EQ(lstat("l2", &status), 0);
    CHECK(S_ISREG(status.st_mode));
    CHECK_EQ(status.st_nlink, 2);
    return check_result();
}
