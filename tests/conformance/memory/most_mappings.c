/* A process that can have no more mappings goes on with the ones it has (mmap(2), ENOMEM; proc(5), max_map_count), however many calls
 * it makes then. */
#include "check.h"
#include <sys/mman.h>
#include <sys/stat.h>

enum { PAGE = 4096, MOST = 1 << 20, CALLS = 2000 };

int main(void) {
    long count = 0;
    void *last = NULL;
    int error = 0;
    /* Neighbours differ, so that none become one. */
    while (count < MOST) {
        int protection = count % 2 ? PROT_READ : PROT_NONE;
        void *mapped = mmap(NULL, PAGE, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) {
            error = errno;
            break;
        }
        last = mapped;
        count++;
    }
    CHECK(count < MOST && error == ENOMEM);
    for (int i = 0; i < CALLS; i++) {
        umask(i & 0777);
        CHECK(umask(022) == (mode_t)(i & 0777));
    }
    CHECK(munmap(last, PAGE) == 0);
    CHECK(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED);
    return check_result();
}
