/* membarrier: what it says there is, registration and its inheritance, and that a barrier made for others is one. */
#include "../check.h"
#include <linux/membarrier.h>

static int membarrier(int command, unsigned flags) { return syscall(SYS_membarrier, command, flags, 0); }

#define ROUNDS 3000
static volatile int flag_a, flag_b, seen_a, seen_b;
static atomic_int started, ended;

static void pass(void) { __asm__ volatile("pause"); }

/* Stores, and loads with nothing in between but the compiler's order: the other one has the barrier made for both. */
static void *cheap(void *nothing)
{
    for (int round = 1; round <= ROUNDS; round++) {
        while (atomic_load(&started) < round) pass();
        flag_a = 1;
        __asm__ volatile("" ::: "memory");
        seen_b = flag_b;
        atomic_store(&ended, round);
    }
    return nothing;
}

int main(void)
{
    int commands = membarrier(MEMBARRIER_CMD_QUERY, 0);
    if (commands < 0 && errno == ENOSYS) CANNOT("no membarrier");
    CHECK(commands & MEMBARRIER_CMD_GLOBAL);
    CHECK(commands & MEMBARRIER_CMD_PRIVATE_EXPEDITED);
    CHECK(commands & MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED);
    CHECK_ERR(membarrier(MEMBARRIER_CMD_QUERY, 1 << 5), EINVAL);
    CHECK_ERR(membarrier(1 << 20, 0), EINVAL);
    CHECK_ERR(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0), EPERM);
    CHECK_EQ(membarrier(MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0), 0);
    CHECK_EQ(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0), 0);
    CHECK_EQ(membarrier(MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0), 0);
    CHECK_EQ(membarrier(MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0), 0);
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0), 0);
        child_exit();
    }
    CHECK_CHILD(child);

    pthread_t thread;
    MUST(pthread_create(&thread, NULL, cheap, NULL) == 0);
    int both_missed = 0;
    for (int round = 1; round <= ROUNDS; round++) {
        flag_a = flag_b = 0;
        atomic_store(&started, round);
        flag_b = 1;
        CHECK_EQ(membarrier(MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0), 0);
        seen_a = flag_a;
        while (atomic_load(&ended) < round) pass();
        both_missed += !seen_a && !seen_b;
    }
    CHECK_EQ(both_missed, 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    return check_result();
}
