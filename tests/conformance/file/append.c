/* O_APPEND: every write goes to the end, whatever the offset; two writers do not overwrite each other. */
#include "check.h"

int main(void)
{
    int a = open("log", O_RDWR | O_CREAT | O_APPEND, 0644);
    int b = open("log", O_WRONLY | O_APPEND);
    CHECK_EQ(write(a, "one", 3), 3);
    CHECK_EQ(write(b, "two", 3), 3);
    CHECK_EQ(lseek(a, 0, SEEK_CUR), 3);
    CHECK_EQ(lseek(a, 0, SEEK_SET), 0);
    CHECK_EQ(write(a, "three", 5), 5);
    CHECK_EQ(lseek(a, 0, SEEK_CUR), 11);
    /* Linux: pwrite on an O_APPEND descriptor appends, and leaves the offset alone. */
    CHECK_EQ(pwrite(a, "!", 1, 0), 1);
    CHECK_EQ(lseek(a, 0, SEEK_CUR), 11);
    CHECK_STR(read_file("log"), "onetwothree!");

    /* The flag can be taken away and put back. */
    CHECK_EQ(fcntl(a, F_SETFL, 0), 0);
    CHECK_EQ(pwrite(a, "O", 1, 0), 1);
    CHECK_STR(read_file("log"), "Onetwothree!");
    CHECK_EQ(fcntl(a, F_SETFL, O_APPEND), 0);

    /* Many processes: no line is lost or torn. */
    CHECK_EQ(ftruncate(a, 0), 0);
    enum { WRITERS = 4, LINES = 200 };
    pid_t pids[WRITERS];
    for (int w = 0; w < WRITERS; w++) {
        if ((pids[w] = child_fork()) == 0) {
            char line[17];
            for (int i = 0; i < LINES; i++) {
                snprintf(line, sizeof line, "%c%013d.\n", 'a' + w, i);
                CHECK_EQ(write(a, line, 16), 16);
            }
            child_exit();
        }
    }
    for (int w = 0; w < WRITERS; w++) CHECK_CHILD(pids[w]);
    struct stat status;
    CHECK_EQ(fstat(a, &status), 0);
    CHECK_EQ(status.st_size, WRITERS * LINES * 16);
    int next[WRITERS] = { 0 };
    char line[17] = { 0 };
    for (int i = 0; i < WRITERS * LINES; i++) {
        MUST(pread(b = open("log", O_RDONLY), line, 16, i * 16) == 16);
        close(b);
        int w = line[0] - 'a';
        MUST(w >= 0 && w < WRITERS);
        CHECK_EQ(atoi(line + 1), next[w]++);
        CHECK(line[14] == '.' && line[15] == '\n');
    }
    return check_result();
}
