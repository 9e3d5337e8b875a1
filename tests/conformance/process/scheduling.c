/* Niceness, policies and CPU sets: what is set is told, of a process that nobody has waited for too, and children have it. */
#include "check.h"
#include <sched.h>
#include <sys/resource.h>

int main(void)
{
    int nice_now = getpriority(PRIO_PROCESS, 0);
    MUST(nice_now < 15);
    /* Less than none is not for children: begin with none. */
    if (nice_now < 0) nice_now = 0;
    CHECK_EQ(setpriority(PRIO_PROCESS, 0, nice_now), 0);
    struct sched_param parameter = { 1 };
    CHECK_EQ(sched_getscheduler(0), SCHED_OTHER);
    CHECK_ERR(sched_setscheduler(0, SCHED_OTHER, &parameter), EINVAL);
    CHECK_ERR(sched_setscheduler(0, 77, &parameter), EINVAL);
    CHECK_ERR(sched_getscheduler(-1), EINVAL);
    CHECK_ERR(sched_getscheduler(99999999), ESRCH);
    CHECK_ERR(getpriority(PRIO_PROCESS, 99999999), ESRCH);
    CHECK_ERR(getpriority(7, 0), EINVAL);
    CHECK_EQ(sched_get_priority_min(SCHED_FIFO), 1);
    CHECK_EQ(sched_get_priority_max(SCHED_RR), 99);

    /* A child has what its maker has; a policy that is not for children stays behind. */
    parameter.sched_priority = 0;
    CHECK_EQ(setpriority(PRIO_PROCESS, 0, nice_now + 2), 0);
    CHECK_EQ(sched_setscheduler(0, SCHED_BATCH, &parameter), 0);
    pid_t child = child_fork();
    if (child == 0) {
        CHECK_EQ(getpriority(PRIO_PROCESS, 0), nice_now + 2);
        CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
        CHECK_EQ(sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &parameter), 0);
        CHECK_EQ(sched_getscheduler(0), SCHED_BATCH | SCHED_RESET_ON_FORK);
        pid_t grandchild = child_fork();
        if (grandchild == 0) {
            CHECK_EQ(sched_getscheduler(0), SCHED_BATCH);
            CHECK_EQ(getpriority(PRIO_PROCESS, 0), nice_now + 2);
            child_exit();
        }
        CHECK_CHILD(grandchild);
        CHECK_EQ(setpriority(PRIO_PROCESS, 0, nice_now + 3), 0);
        child_exit();
    }

    /* Dead, and not waited for. */
    siginfo_t information;
    CHECK_EQ(waitid(P_PID, child, &information, WEXITED | WNOWAIT), 0);
    parameter.sched_priority = 9;
    cpu_set_t set;
    CHECK_EQ(sched_getscheduler(child), SCHED_BATCH | SCHED_RESET_ON_FORK);
    CHECK_EQ(sched_getparam(child, &parameter), 0);
    CHECK_EQ(parameter.sched_priority, 0);
    CHECK_EQ(getpriority(PRIO_PROCESS, child), nice_now + 3);
    CHECK_EQ(sched_getaffinity(child, sizeof set, &set), 0);
    CHECK(CPU_COUNT(&set) > 0);
    CHECK_CHILD(child);
    CHECK_ERR(sched_getscheduler(child), ESRCH);
    return check_result();
}
