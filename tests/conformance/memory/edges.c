/*
 * Arguments and results at the edges of what is mapped: what a call reads and writes, it does where it may, and says EFAULT
 * where it may not; results that overlap arguments, or each other; memory that changes while calls use it.
 */
#include "check.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <sys/utsname.h>

enum { PAGE = 4096 };

/* The call succeeds with this value, or fails with one of these errors. */
#define CHECK_OR(call, expected, ...) \
    do { \
        errno = 0; \
        long got = (long)(call); \
        int error = errno; \
        const int errors[] = { __VA_ARGS__ }; \
        bool known = false; \
        for (size_t at = 0; at < sizeof errors / sizeof *errors; at++) known |= got == -1 && error == errors[at]; \
        if (got != (expected) && !known) CHECK_FAIL("%s gave %ld (%s)", #call, got, strerrorname(error)); \
    } while (0)

/* Three pages: readable and writable, read-only, not mapped. */
static char *open_page, *closed_page, *no_page;

static void map_pages(void)
{
    open_page = mmap(NULL, 3 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(open_page != MAP_FAILED);
    closed_page = open_page + PAGE;
    no_page = closed_page + PAGE;
    memset(open_page, 'a', 2 * PAGE);
    MUST(mprotect(closed_page, PAGE, PROT_READ) == 0);
    MUST(munmap(no_page, PAGE) == 0);
}

static void paths(void)
{
    struct stat status;
    /* Up to the last byte before the hole. */
    char *end = no_page - sizeof ".";
    MUST(mprotect(closed_page, PAGE, PROT_READ | PROT_WRITE) == 0);
    memcpy(end, ".", sizeof ".");
    CHECK_EQ(stat(end, &status), 0);
    CHECK(S_ISDIR(status.st_mode));
    CHECK_EQ(access(end, F_OK), 0);
    no_page[-1] = '/';
    CHECK_ERR(stat(end, &status), EFAULT);
    CHECK_ERR(open(no_page, O_RDONLY), EFAULT);
    CHECK_ERR(rename(".", no_page), EFAULT);
    /* Across a page. */
    memcpy(closed_page - 3, "/dev/null", sizeof "/dev/null");
    CHECK_EQ(stat(closed_page - 3, &status), 0);
    CHECK(S_ISCHR(status.st_mode));
    /* Longer than any path. */
    memset(open_page, 'a', 2 * PAGE);
    open_page[2 * PAGE - 1] = 0;
    CHECK_ERR(stat(open_page, &status), ENAMETOOLONG);
    memset(open_page, '/', PATH_MAX);
    open_page[PATH_MAX - 1] = 0;
    CHECK_EQ(stat(open_page, &status), 0);
    open_page[PATH_MAX - 1] = '/';
    CHECK_ERR(stat(open_page, &status), ENAMETOOLONG);
    memset(open_page, 'a', 2 * PAGE);
    MUST(mprotect(closed_page, PAGE, PROT_READ) == 0);
}

static void structures(void)
{
    /* Into read-only memory, into nothing, and half of each. */
    CHECK_ERR(stat(".", (struct stat *)closed_page), EFAULT);
    CHECK_ERR(stat(".", (struct stat *)(closed_page - 8)), EFAULT);
    CHECK_ERR(fstat(0, (struct stat *)no_page), EFAULT);
    CHECK_ERR(uname((struct utsname *)(closed_page - 100)), EFAULT);
    CHECK_ERR(getcwd(closed_page, PAGE) ? 0 : -1, EFAULT);
    CHECK_EQ(stat(".", (struct stat *)(closed_page - sizeof(struct stat))), 0);
    CHECK(S_ISDIR(((struct stat *)(closed_page - sizeof(struct stat)))->st_mode));
    CHECK_EQ(closed_page[0], 'a');
    /* An argument may be read-only where a result may not be. */
    struct timespec *time = (struct timespec *)(closed_page + 64);
    MUST(mprotect(closed_page, PAGE, PROT_READ | PROT_WRITE) == 0);
    *time = (struct timespec){ 0, 1000 };
    MUST(mprotect(closed_page, PAGE, PROT_READ) == 0);
    CHECK_EQ(nanosleep(time, NULL), 0);
    CHECK_EQ(syscall(SYS_ppoll, NULL, 0, time, NULL, 8), 0);
    CHECK_ERR(nanosleep((struct timespec *)no_page, NULL), EFAULT);
    CHECK_ERR(nanosleep((struct timespec *)(no_page - 8), NULL), EFAULT);
    /* Descriptors that cannot be told are not left open. */
    int next = dup(0);
    close(next);
    CHECK_ERR(pipe((int *)closed_page), EFAULT);
    CHECK_ERR(socketpair(AF_UNIX, SOCK_STREAM, 0, (int *)(closed_page - 4)), EFAULT);
    CHECK_EQ(dup(0), next);
    close(next);
}

static void data(void)
{
    int ends[2];
    MUST(pipe2(ends, O_NONBLOCK) == 0);
    /* From memory that ends: what there is. */
    CHECK_ERR(write(ends[1], no_page, 4), EFAULT);
    CHECK_OR(write(ends[1], no_page - 10, 20), 10, EFAULT);
    char bytes[PAGE];
    while (read(ends[0], bytes, sizeof bytes) > 0) { }
    MUST(write(ends[1], "12345678", 8) == 8);
    CHECK_ERR(read(ends[0], closed_page, 4), EFAULT);
    while (read(ends[0], bytes, sizeof bytes) > 0) { }
    /* Of a file, as much as fits; the offset says how much that was. */
    int file = make_file("edge.data", "0123456789");
    memset(open_page, 'a', PAGE);
    CHECK_OR(read(file, closed_page - 4, 8), 4, EFAULT);
    long at = lseek(file, 0, SEEK_CUR);
    CHECK(at == 4 || at == 0);
    CHECK_EQ(closed_page[0], 'a');
    CHECK_EQ(pread(file, closed_page - 10, 100, 0), 10);
    CHECK(memcmp(closed_page - 10, "0123456789", 10) == 0);
    CHECK_EQ(write(file, closed_page - 10, 10), 10);
    close(file);
    unlink("edge.data");
    /* All sizes around what is thought of as small. */
    static char out[70000], in[70000];
    for (size_t i = 0; i < sizeof out; i++) out[i] = i * 7 + i / 251;
    static const size_t sizes[] = { 1, 7, 8, 9, 4079, 4080, 4081, 4095, 4096, 4097, 7000, 8192, 65536 };
    MUST(fcntl(ends[1], F_SETPIPE_SZ, 1 << 17) > 0);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        memset(in, 0, sizeof in);
        CHECK_EQ(write(ends[1], out, sizes[i]), sizes[i]);
        CHECK_EQ(read(ends[0], in, sizeof in), sizes[i]);
        CHECK(memcmp(in, out, sizes[i]) == 0 && in[sizes[i]] == 0);
        struct iovec from[] = { { out, sizes[i] / 2 }, { NULL, 0 }, { out + sizes[i] / 2, sizes[i] - sizes[i] / 2 } };
        struct iovec to[] = { { in + 5, 3 }, { in + 8, sizes[i] } };
        memset(in, 0, sizeof in);
        CHECK_EQ(writev(ends[1], from, 3), sizes[i]);
        CHECK_EQ(readv(ends[0], to, 2), sizes[i]);
        CHECK(memcmp(in + 5, out, sizes[i]) == 0 && in[sizes[i] + 5] == 0 && in[4] == 0);
    }
    close(ends[0]);
    close(ends[1]);
}

static void overlaps(void)
{
    /* One place for several results: the last one counts, as the call writes them. */
    uid_t ids[2] = { 77, 77 };
    CHECK_EQ(syscall(SYS_getresuid, ids, ids, ids), 0);
    CHECK_EQ(ids[0], getuid());
    CHECK_EQ(ids[1], 77);
    fd_set set;
    FD_ZERO(&set);
    int event = eventfd(1, 0);
    FD_SET(event, &set);
    struct timeval now = { 0 };
    CHECK_EQ(syscall(SYS_select, event + 1, &set, &set, NULL, &now), 2);
    CHECK(FD_ISSET(event, &set));
    /* The address and its length in one place, or in the data's. */
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    MUST(write(pair[0], "abcdefgh", 8) == 8);
    struct { char bytes[8]; struct sockaddr_storage address; socklen_t length; } got;
    memset(&got, 0, sizeof got);
    got.length = sizeof got.address;
    CHECK_EQ(recvfrom(pair[1], &got, sizeof got, 0, (struct sockaddr *)&got.address, &got.length), 8);
    CHECK(memcmp(got.bytes, "abcdefgh", 8) == 0);
    CHECK(got.length == 0 || got.length == sizeof(sa_family_t));
    /* A message whose header lies where its data goes. */
    MUST(write(pair[0], "ABCDEFGH", 8) == 8);
    union { struct msghdr header; char bytes[sizeof(struct msghdr)]; } both;
    struct iovec piece = { &both.header.msg_name, 8 };
    memset(&both, 0, sizeof both);
    both.header.msg_iov = &piece;
    both.header.msg_iovlen = 1;
    CHECK_EQ(recvmsg(pair[1], &both.header, 0), 8);
    CHECK(memcmp(both.bytes, "ABCDEFGH", 8) == 0);
    CHECK_EQ(both.header.msg_flags, 0);
    /* poll's array is both. */
    struct pollfd polled[2] = { { event, POLLIN, -1 }, { pair[0], POLLOUT | POLLIN, -1 } };
    CHECK_EQ(poll(polled, 2, 1000), 2);
    CHECK_EQ(polled[0].revents, POLLIN);
    CHECK_EQ(polled[1].revents, POLLOUT);
    close(event);
    close(pair[0]);
    close(pair[1]);
}

static void messages(void)
{
    int pair[2];
    MUST(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
    char first[5] = "first", second[6000];
    memset(second, 's', sizeof second);
    struct iovec pieces[2] = { { first, 5 }, { second, sizeof second } };
    struct msghdr message = { .msg_iov = pieces, .msg_iovlen = 2 };
    for (size_t length = 0; length <= sizeof second; length += 1500) {
        pieces[1].iov_len = length;
        CHECK_EQ(sendmsg(pair[0], &message, 0), 5 + length);
        char got_first[3] = "", got_second[7000] = "";
        struct iovec into[2] = { { got_first, 3 }, { got_second, sizeof got_second } };
        struct msghdr received = { .msg_iov = into, .msg_iovlen = 2, .msg_flags = -1 };
        CHECK_EQ(recvmsg(pair[1], &received, 0), 5 + length);
        CHECK_EQ(received.msg_flags, 0);
        CHECK(memcmp(got_first, "fir", 3) == 0 && memcmp(got_second, "st", 2) == 0);
        CHECK(memcmp(got_second + 2, second, length) == 0 && got_second[2 + length] == 0);
    }
    pieces[1].iov_base = no_page;
    CHECK_ERR(sendmsg(pair[0], &message, 0), EFAULT);
    close(pair[0]);
    close(pair[1]);
}

static void empty_handler(int number) { (void)number; }

/* Results of a call that ends together with a signal's handler. */
static void with_signals(void)
{
    catch_signal(SIGALRM, empty_handler, SA_RESTART);
    struct itimerval often = { { 0, 300 }, { 0, 300 } };
    MUST(setitimer(ITIMER_REAL, &often, NULL) == 0);
    int ends[2];
    MUST(pipe(ends) == 0);
    for (unsigned i = 0; i < 3000; i++) {
        unsigned got = 0;
        struct stat status = { 0 };
        CHECK_EQ(write(ends[1], &i, sizeof i), sizeof i);
        CHECK_EQ(read(ends[0], &got, sizeof got), sizeof got);
        CHECK_EQ(got, i);
        CHECK_EQ(fstat(ends[0], &status), 0);
        CHECK(S_ISFIFO(status.st_mode));
        if (check_failures) break;
    }
    MUST(setitimer(ITIMER_REAL, &(struct itimerval){ 0 }, NULL) == 0);
    close(ends[0]);
    close(ends[1]);
}

static atomic_int over;

static void *change(void *argument)
{
    char *page = argument;
    while (!over) {
        mprotect(page, PAGE, PROT_NONE);
        mprotect(page, PAGE, PROT_READ | PROT_WRITE);
        madvise(page, PAGE, MADV_DONTNEED);
    }
    return NULL;
}

/* Memory that comes and goes under the calls: each succeeds or says EFAULT, and goes by it. */
static void changes(void)
{
    pthread_t thread;
    char *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    MUST(page != MAP_FAILED);
    MUST(pthread_create(&thread, NULL, change, page) == 0);
    int event = eventfd(0, EFD_NONBLOCK);
    for (int i = 0; i < 2000; i++) {
        uint64_t one = 1;
        CHECK_OR(fstat(event, (struct stat *)page), 0, EFAULT);
        CHECK_EQ(write(event, &one, 8), 8);
        CHECK_OR(read(event, page, 8), 8, EFAULT);
        CHECK_OR(read(event, &one, 8), 8, EAGAIN);
        CHECK_OR(write(event, page, 8), 8, EFAULT, EAGAIN, EINVAL);
        CHECK_OR(read(event, &one, 8), 8, EAGAIN);
        CHECK_OR(access(page, F_OK), -1, EFAULT, ENOENT, ENAMETOOLONG);
        if (check_failures) break;
    }
    over = 1;
    pthread_join(thread, NULL);
    close(event);
}

int main(void)
{
    map_pages();
    paths();
    structures();
    data();
    overlaps();
    messages();
    with_signals();
    changes();
    return check_result();
}
