/* A child that has overwritten what it is found by (the stub's `layout.rs`: WAY_OFFSET in the first slot's block), before it asks for anything. It
 * computes, or with an argument sleeps; its maker has it killed. */
#include "check.h"

static volatile uint64_t *const way = (uint64_t *)WAY;

int main(int argc, char **argv)
{
    (void)argv;
    for (int round = 0; round < 2; round++) {
        pid_t child = fork();
        MUST(child >= 0);
        if (child == 0) {
            *way = 0x5a5a;
            struct timespec long_time = { 1000, 0 };
            for (;;)
                if (argc > 1) nanosleep(&long_time, NULL);
        }
        sleep_ms(50);
        CHECK_EQ(kill(child, 0), 0);
        CHECK_EQ(kill(child, SIGKILL), 0);
        int status;
        CHECK_EQ(waitpid(child, &status, 0), child);
        CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    }
    return check_result();
}
