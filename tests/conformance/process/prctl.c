/* prctl(2): names, dumpable, no-new-privileges, timer slack, keep-caps; bad requests. */
#include "check.h"
#include <sys/prctl.h>

static void *named(void *argument)
{
    char name[17] = { 0 };
    CHECK_EQ(prctl(PR_SET_NAME, "a-thread-with-a-long-name"), 0);
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_STR(name, "a-thread-with-a");
    return argument;
}

int main(void)
{
    char name[17] = { 0 }, *own = strdup("prctl");
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_STR(name, own);
    CHECK_EQ(prctl(PR_SET_NAME, "renamed"), 0);
    char *comm = read_file("/proc/self/comm");
    CHECK_STR(comm, "renamed\n");
    pthread_t thread;
    MUST(pthread_create(&thread, NULL, named, NULL) == 0 && pthread_join(thread, NULL) == 0);
    CHECK_EQ(prctl(PR_GET_NAME, name), 0);
    CHECK_STR(name, "renamed");
    CHECK_EQ(pthread_setname_np(pthread_self(), "by-library"), 0);
    CHECK_STR(read_file("/proc/self/comm"), "by-library\n");

    CHECK_EQ(prctl(PR_GET_DUMPABLE), 1);
    CHECK_EQ(prctl(PR_SET_DUMPABLE, 0), 0);
    CHECK_EQ(prctl(PR_GET_DUMPABLE), 0);
    CHECK_ERR(prctl(PR_SET_DUMPABLE, 2), EINVAL);
    CHECK_EQ(prctl(PR_SET_DUMPABLE, 1), 0);
    CHECK_EQ(prctl(PR_SET_KEEPCAPS, 1), 0);
    CHECK_EQ(prctl(PR_GET_KEEPCAPS), 1);
    CHECK_ERR(prctl(PR_SET_KEEPCAPS, 2), EINVAL);

    int signal_number = -1;
    CHECK_EQ(prctl(PR_GET_PDEATHSIG, &signal_number), 0);
    CHECK_EQ(signal_number, 0);
    CHECK_ERR(prctl(PR_SET_PDEATHSIG, 100), EINVAL);
    CHECK(prctl(PR_GET_TIMERSLACK) > 0);
    CHECK_EQ(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    CHECK_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
    CHECK_ERR(prctl(PR_SET_NO_NEW_PRIVS, 0, 0, 0, 0), EINVAL);
    CHECK_ERR(prctl(123456), EINVAL);
    /* Capabilities can be asked about one by one. */
    int bounding = prctl(PR_CAPBSET_READ, 0);
    CHECK(bounding == 0 || bounding == 1);
    CHECK_ERR(prctl(PR_CAPBSET_READ, 1000), EINVAL);
    return check_result();
}
