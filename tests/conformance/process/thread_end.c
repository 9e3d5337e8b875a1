/*
 * What the end of a thread does to its word (set_tid_address, CLONE_CHILD_CLEARTID): cleared, and a waiter woken; for the
 * first thread of a program, of a fork's child, and for many at once.
 */
#include "../check.h"
#include <linux/futex.h>
#include <sched.h>
#include <sys/mman.h>

static void wait_while(int *word, int value)
{
    while (__atomic_load_n(word, __ATOMIC_ACQUIRE) == value) syscall(SYS_futex, word, FUTEX_WAIT, value, NULL, NULL, 0);
}

static int first = 77, second = 77;

static int moves_its_word(void *nothing)
{
    (void)nothing;
    syscall(SYS_set_tid_address, &second);
    syscall(SYS_exit, 0);
    return 0;
}

static void *joins_the_first(void *main_thread)
{
    CHECK_EQ(pthread_join(*(pthread_t *)main_thread, NULL), 0);
    _exit(check_result());
}

static pthread_t main_thread;

static void ends_first(void)
{
    pthread_t thread;
    main_thread = pthread_self();
    MUST(pthread_create(&thread, NULL, joins_the_first, &main_thread) == 0);
    pthread_exit(NULL);
}

static atomic_int let_go;
static void *ends_with_others(void *nothing)
{
    while (!atomic_load(&let_go)) syscall(SYS_futex, &let_go, FUTEX_WAIT_PRIVATE, 0, NULL, NULL, 0);
    return nothing;
}

int main(void)
{
    size_t size = 1 << 16;
    char *stack = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    MUST(stack != MAP_FAILED);
    int flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM | CLONE_CHILD_CLEARTID;
    MUST(clone(moves_its_word, stack + size, flags, NULL, NULL, NULL, &first) > 0);
    wait_while(&second, 77);
    CHECK_EQ(second, 0);
    usleep(20000);
    CHECK_EQ(first, 77);

    /* More than are ever kept to be used again; each join is followed by the reuse of the stack. */
    pthread_t threads[80];
    for (int round = 0; round < 3; round++) {
        atomic_store(&let_go, 0);
        for (int i = 0; i < 80; i++) MUST(pthread_create(&threads[i], NULL, ends_with_others, (void *)(intptr_t)i) == 0);
        atomic_store(&let_go, 1);
        syscall(SYS_futex, &let_go, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
        for (int i = 0; i < 80; i++) {
            void *result;
            CHECK_EQ(pthread_join(threads[i], &result), 0);
            CHECK(result == (void *)(intptr_t)i);
        }
    }

    for (int round = 0; round < 2; round++) {
        pid_t child = child_fork();
        if (child == 0) {
            if (round) {
                /* Of a child's child, whose memory has the words of all before it. */
                pid_t grandchild = child_fork();
                if (grandchild == 0) ends_first();
                CHECK_CHILD(grandchild);
                child_exit();
            }
            ends_first();
        }
        CHECK_CHILD(child);
    }
    ends_first();
}
