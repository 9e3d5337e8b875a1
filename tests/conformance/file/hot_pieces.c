/* readv, writev and theirs on a file that is much used: small and large pieces, positions, O_APPEND, pieces that are not there. */
#include "../check.h"
#include <sys/mman.h>
#include <sys/uio.h>

static char big[3][40000], back[3][40000];

int main(void)
{
    char name[] = "hot-pieces-XXXXXX";
    int fd = mkstemp(name);
    MUST(fd >= 0);
    char one[4096] = { 0 };
    for (int i = 0; i < 40; i++) MUST(pwrite(fd, one, sizeof one, i * 4096) == sizeof one);
    for (int i = 0; i < 40; i++) MUST(pread(fd, one, sizeof one, i * 4096) == sizeof one);
    CHECK_EQ(ftruncate(fd, 0), 0);
    for (int i = 0; i < 3; i++) memset(big[i], 'a' + i, sizeof big[i]);
    size_t sizes[][3] = { { 1, 2, 3 }, { 1000, 0, 3096 }, { 2000, 2000, 97 }, { 0, 0, 0 }, { 40000, 1, 30000 }, { 4096, 0, 0 } };
    off_t at = 0;
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t total = sizes[s][0] + sizes[s][1] + sizes[s][2];
        struct iovec out[3], in[3];
        for (int i = 0; i < 3; i++) {
            out[i] = (struct iovec){ big[i], sizes[s][i] };
            in[i] = (struct iovec){ back[i], sizes[s][i] };
            memset(back[i], 0, sizeof back[i]);
        }
        CHECK_EQ(writev(fd, out, 3), total);
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), at + total);
        CHECK_EQ(preadv(fd, in, 3, at), total);
        for (int i = 0; i < 3; i++) CHECK(memcmp(big[i], back[i], sizes[s][i]) == 0);
        for (int i = 0; i < 3; i++) memset(back[i], 0, sizeof back[i]);
        CHECK_EQ(lseek(fd, at, SEEK_SET), at);
        CHECK_EQ(readv(fd, in, 3), total);
        for (int i = 0; i < 3; i++) CHECK(memcmp(big[i], back[i], sizes[s][i]) == 0);
        CHECK_EQ(pwritev(fd, out, 3, at), total);
        at += total;
        CHECK_EQ(lseek(fd, 0, SEEK_CUR), at);
    }
    /* Over the end, and beyond it. */
    struct iovec in[2] = { { back[0], 10 }, { back[1], 10 } };
    CHECK_EQ(preadv(fd, in, 2, at - 15), 15);
    CHECK_EQ(preadv(fd, in, 2, at), 0);
    CHECK_ERR(preadv(fd, in, 2, -1), EINVAL);
    /* What cannot be read or written is not, and nothing is lost for it. */
    char *hole = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(hole != MAP_FAILED);
    MUST(munmap(hole + 4096, 4096) == 0);
    struct iovec into[2] = { { back[0], 4 }, { hole, 4 } }, from[2] = { { hole + 4096, 4 }, { big[0], 4 } };
    CHECK_EQ(lseek(fd, 0, SEEK_SET), 0);
    CHECK_EQ(readv(fd, into, 2), 4);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4);
    CHECK_ERR(writev(fd, from, 2), EFAULT);
    CHECK_EQ(lseek(fd, 0, SEEK_CUR), 4);
    CHECK_ERR(readv(fd, (struct iovec *)(hole + 4096), 2), EFAULT);
    struct iovec negative[2] = { { back[0], 4 }, { back[1], -1 } };
    CHECK_ERR(readv(fd, negative, 2), EINVAL);
    CHECK_EQ(fdatasync(fd), 0);
    CHECK_EQ(fsync(fd), 0);
    CHECK_EQ(close(fd), 0);

    /* Lines of several processes are whole: each is one write. */
    fd = open(name, O_WRONLY | O_APPEND | O_TRUNC);
    MUST(fd >= 0);
    for (int i = 0; i < 20; i++) MUST(write(fd, "", 0) == 0);
    pid_t children[3];
    for (int c = 0; c < 3; c++) {
        children[c] = child_fork();
        if (children[c]) continue;
        int own = open(name, O_WRONLY | O_APPEND);
        struct iovec line[3] = { { big[c], 30 }, { big[c], 69 }, { "\n", 1 } };
        for (int i = 0; i < 300; i++) CHECK_EQ(writev(own, line, 3), 100);
        child_exit();
    }
    for (int c = 0; c < 3; c++) CHECK_CHILD(children[c]);
    FILE *lines = fopen(name, "r");
    MUST(lines != NULL);
    char text[200];
    int count = 0;
    while (fgets(text, sizeof text, lines)) {
        count++;
        CHECK_EQ(strlen(text), 100);
        CHECK_EQ(strspn(text, (char[]){ text[0], 0 }), 99);
    }
    CHECK_EQ(count, 900);
    unlink(name);
    return check_result();
}
