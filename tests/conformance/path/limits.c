/* Path resolution's limits and errors: NAME_MAX, PATH_MAX, dots, slashes, EFAULT, a path at the end of a page. */
#include "check.h"
#include <sys/mman.h>

int main(void)
{
    struct stat status;
    char name[300], path[5000];
    memset(name, 'a', sizeof name);
    name[255] = 0;
    close(make_file(name, "x"));
    CHECK_EQ(stat(name, &status), 0);
    name[255] = 'a';
    name[256] = 0;
    CHECK_ERR(stat(name, &status), ENAMETOOLONG);
    CHECK_ERR(open(name, O_CREAT | O_RDWR, 0600), ENAMETOOLONG);
    CHECK_ERR(mkdir(name, 0700), ENAMETOOLONG);

    /* 4,095 bytes and the NUL are the longest path. */
    CHECK_EQ(mkdir("d", 0755), 0);
    memset(path, '/', sizeof path);
    path[0] = '.';
    path[4094] = 'd';
    path[4095] = 0;
    CHECK_EQ(stat(path, &status), 0);
    path[4095] = '/';
    path[4096] = 0;
    CHECK_ERR(stat(path, &status), ENAMETOOLONG);

    CHECK_EQ(stat("././d/.././d/.", &status), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_EQ(stat("d//", &status), 0);
    close(make_file("f", ""));
    CHECK_ERR(stat("f/", &status), ENOTDIR);
    CHECK_ERR(stat("f/.", &status), ENOTDIR);
    CHECK_ERR(stat("f/..", &status), ENOTDIR);
    CHECK_ERR(stat("missing/..", &status), ENOENT);
    CHECK_ERR(stat("", &status), ENOENT);
    CHECK_ERR(stat((char *)-1L, &status), EFAULT);
    CHECK_ERR(stat("f", (struct stat *)8), EFAULT);

    /* A name may hold any bytes but NUL and the slash. */
    close(make_file("\xff\x01 \n*?", "odd"));
    CHECK_STR(read_file("\xff\x01 \n*?"), "odd");

    /* A path that ends with the last byte of its page is read without touching the next. */
    long page = sysconf(_SC_PAGESIZE);
    char *memory = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(memory != MAP_FAILED);
    CHECK_EQ(mprotect(memory + page, page, PROT_NONE), 0);
    strcpy(memory + page - 2, "f");
    CHECK_EQ(stat(memory + page - 2, &status), 0);
    memory[page - 1] = 'f';
    CHECK_ERR(stat(memory + page - 2, &status), EFAULT);
    return check_result();
}
