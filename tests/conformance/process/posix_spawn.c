/* posix_spawn(3), system(3), popen(3). */
#include "check.h"
#include <spawn.h>

extern char **environ;

int main(void)
{
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, 1, "out", O_CREAT | O_WRONLY | O_TRUNC, 0600);
    posix_spawn_file_actions_adddup2(&actions, 1, 2);
    posix_spawn_file_actions_addclose(&actions, 0);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t mask = signal_set(0);
    posix_spawnattr_setsigmask(&attributes, &mask);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETPGROUP);
    char *arguments[] = { "sh", "-c", "echo to-out; echo to-err >&2; exit 12", NULL };
    pid_t pid;
    CHECK_EQ(posix_spawn(&pid, "/bin/sh", &actions, &attributes, arguments, environ), 0);
    CHECK_EQ(wait_status(pid), 12 << 8);
    CHECK_STR(read_file("out"), "to-out\nto-err\n");
    CHECK_EQ(posix_spawn(&pid, "/missing", NULL, NULL, arguments, environ), ENOENT);
    CHECK_ERR(wait(NULL), ECHILD);
    CHECK_EQ(posix_spawnp(&pid, "true", NULL, NULL, arguments, environ), 0);
    CHECK_EQ(wait_status(pid), 0);

    CHECK_EQ(system("exit 9"), 9 << 8);
    CHECK(WIFSIGNALED(system("kill -TERM $$")));
    CHECK(system(NULL) != 0);
    FILE *stream = popen("echo one; echo two", "r");
    char line[16];
    MUST(stream != NULL);
    CHECK(fgets(line, sizeof line, stream) && strcmp(line, "one\n") == 0);
    CHECK(fgets(line, sizeof line, stream) && strcmp(line, "two\n") == 0);
    CHECK(!fgets(line, sizeof line, stream));
    CHECK_EQ(pclose(stream), 0);
    stream = popen("cat > from-popen; exit 3", "w");
    fputs("written", stream);
    CHECK_EQ(pclose(stream), 3 << 8);
    CHECK_STR(read_file("from-popen"), "written");
    for (int i = 0; i < 30; i++) {
        char *quick[] = { "true", NULL };
        CHECK_EQ(posix_spawn(&pid, "/bin/true", NULL, NULL, quick, environ), 0);
        CHECK_EQ(wait_status(pid), 0);
    }
    return check_result();
}
