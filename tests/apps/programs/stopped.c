/* Takes descriptors again and again, in ways for which the sentry waits: mappings, forks, threads, programs. Ends with 0 if all went
 * well each time. */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILES = 4, ROUNDS = 250, SIZE = 40960 };

static void *nothing(void *argument) { return argument; }

static int fails(const char *what) {
    perror(what);
    return 1;
}

static int ends_with(pid_t child, int status) {
    int how;
    if (child < 0 || waitpid(child, &how, 0) != child) return 0;
    if (how != status << 8) fprintf(stderr, "a child ended with %#x\n", how);
    return how == status << 8;
}

static int a_round(char *name, char *last) {
    for (int i = 0; i < FILES; i++) {
        *last = '0' + i;
        int file = open(name, O_RDWR);
        char *mapped = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, file, 0), byte = 0;
        if (mapped == MAP_FAILED) return fails("mmap");
        if (mapped[100] != 'a' + i) return fails("another file was mapped");
        munmap(mapped, SIZE);
        if (pread(file, &byte, 1, 5) != 1 || byte != 'a' + i) return fails("pread");
        close(file);
    }
    pid_t child = fork();
    if (child == 0) _exit(7);
    if (!ends_with(child, 7)) return fails("fork");
    child = vfork();
    if (child == 0) {
        execl("/bin/true", "true", NULL);
        _exit(127);
    }
    if (!ends_with(child, 0)) return fails("vfork");
    pthread_t thread;
    void *result = NULL;
    if (pthread_create(&thread, NULL, nothing, name) || pthread_join(thread, &result) || result != name) return fails("a thread");
    return 0;
}

int main(void) {
    char name[] = "file0", *last = &name[4], bytes[SIZE];
    for (int i = 0; i < FILES; i++) {
        *last = '0' + i;
        int file = open(name, O_CREAT | O_RDWR, 0600);
        memset(bytes, 'a' + i, SIZE);
        if (write(file, bytes, SIZE) != SIZE) return fails("write");
        close(file);
    }
    for (int round = 0; round < ROUNDS; round++)
        if (a_round(name, last)) return 1;
    return 0;
}
