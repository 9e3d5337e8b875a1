/* Threads that begin and end, for who counts them: `calls`, `each`, `most`. */
#include "check.h"
#include <sys/resource.h>

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static void *brief(void *argument) { return argument; }

static void *wait_for_the_end(void *argument)
{
    pthread_mutex_lock(&gate);
    pthread_mutex_unlock(&gate);
    return argument;
}

static void make(int count)
{
    for (int i = 0; i < count; i++) {
        pthread_t thread;
        MUST(pthread_create(&thread, NULL, brief, NULL) == 0);
        MUST(pthread_join(thread, NULL) == 0);
    }
}

/* Calls that the sentry has served. */
static long calls(void)
{
    char line[4096];
    long count = -1;
    FILE *file = fopen("/proc/stat", "r");
    MUST(file != NULL);
    while (fgets(line, sizeof line, file))
        if (!strncmp(line, "ctxt ", 5)) count = atol(line + 5);
    fclose(file);
    return count;
}

/* Threads that there can be besides the first one. */
static int most(void)
{
    pthread_t thread;
    pthread_attr_t attributes;
    int count = 0;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 65536);
    pthread_mutex_lock(&gate);
    while (count < 1000 && pthread_create(&thread, &attributes, wait_for_the_end, NULL) == 0) count++;
    return count;
}

int main(int count, char **words)
{
    MUST(count == 2);
    make(10);
    if (!strcmp(words[1], "calls")) {
        long before = calls();
        make(1000);
        printf("%ld\n", calls() - before);
    } else if (!strcmp(words[1], "each")) {
        make(50);
    } else {
        printf("%d\n", most());
    }
    fflush(stdout);
    _exit(0);
}
