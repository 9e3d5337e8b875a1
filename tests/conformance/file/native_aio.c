/* io_setup and theirs: requests in, results out. */
#include "check.h"
#include <linux/aio_abi.h>
#include <sys/eventfd.h>

static long setup(unsigned count, aio_context_t *context) { return syscall(SYS_io_setup, count, context); }
static long destroy(aio_context_t context) { return syscall(SYS_io_destroy, context); }
static long submit(aio_context_t context, long count, struct iocb **list) { return syscall(SYS_io_submit, context, count, list); }
static long get(aio_context_t context, long least, long most, struct io_event *events, struct timespec *timeout)
{
    return syscall(SYS_io_getevents, context, least, most, events, timeout);
}

int main(void)
{
    aio_context_t context = 0, second = 1;
    if (setup(4, &context) < 0 && errno == ENOSYS) CANNOT("no native AIO");
    CHECK(context != 0);
    CHECK_ERR(setup(4, &second), EINVAL);
    second = 0;
    CHECK_ERR(setup(0, &second), EINVAL);
    CHECK_ERR(setup(4, (aio_context_t *)-1), EFAULT);
    /* What libaio looks at before it asks the kernel can be read. */
    CHECK(*(volatile unsigned *)context < 1u << 20);

    int fd = make_file("data", "0123456789");
    int event = eventfd(0, EFD_NONBLOCK);
    char in[8] = "";
    struct iocb write_one = { .aio_data = 1, .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = fd, .aio_buf = (uintptr_t)"abc",
                              .aio_nbytes = 3, .aio_offset = 2 };
    struct iocb read_one = { .aio_data = 2, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = fd, .aio_buf = (uintptr_t)in,
                             .aio_nbytes = 6, .aio_flags = IOCB_FLAG_RESFD, .aio_resfd = event };
    struct iocb *list[3] = { &write_one, &read_one, NULL };
    struct io_event events[4];
    memset(events, 0xff, sizeof events);
    CHECK_EQ(submit(context, 2, list), 2);
    struct timespec now = { 0, 0 }, soon = { 0, 20 * 1000000 };
    CHECK_EQ(get(context, 2, 4, events, NULL), 2);
    for (int i = 0; i < 2; i++) {
        struct iocb *request = events[i].data == 1 ? &write_one : &read_one;
        CHECK_EQ(events[i].obj, (uintptr_t)request);
        CHECK_EQ(events[i].res, request == &write_one ? 3 : 6);
        CHECK_EQ(events[i].res2, 0);
    }
    CHECK_STR(in, "01abc5");
    uint64_t count = 0;
    CHECK_EQ(read(event, &count, 8), 8);
    CHECK_EQ(count, 1);

    /* Nothing there: at once, or after the time. */
    CHECK_EQ(get(context, 0, 4, events, &now), 0);
    CHECK_EQ(get(context, 1, 4, events, &now), 0);
    long long start = now_ns();
    CHECK_EQ(get(context, 1, 4, events, &soon), 0);
    CHECK(now_ns() - start >= 19 * 1000000);
    CHECK_ERR(get(context, 2, 1, events, &now), EINVAL);
    CHECK_ERR(get(context, -1, 1, events, &now), EINVAL);

    /* Vectors, syncs, and a fault, which is a result. */
    struct iovec { void *base; size_t size; } vector[2] = { { in, 2 }, { in + 4, 2 } };
    memset(in, '-', 7);
    struct iocb vectors = { .aio_lio_opcode = IOCB_CMD_PREADV, .aio_fildes = fd, .aio_buf = (uintptr_t)vector, .aio_nbytes = 2 };
    struct iocb sync = { .aio_lio_opcode = IOCB_CMD_FSYNC, .aio_fildes = fd };
    struct iocb *more[] = { &vectors, &sync };
    CHECK_EQ(submit(context, 2, more), 2);
    int got = 0;
    while (got < 2) got += get(context, 1, 4, events + got, NULL);
    for (int i = 0; i < 2; i++) CHECK_EQ(events[i].res, events[i].obj == (uintptr_t)&sync ? 0 : 4);
    CHECK_STR(in, "01--ab-");

    /* What is wrong with a request is the submission's error, if it is the first. */
    struct iocb bad = { .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = -1 };
    struct iocb *wrong[] = { &bad, NULL };
    CHECK_ERR(submit(context, 1, wrong), EBADF);
    bad.aio_fildes = fd;
    bad.aio_lio_opcode = 77;
    CHECK_ERR(submit(context, 1, wrong), EINVAL);
    struct iocb *half[] = { &sync, &bad };
    CHECK_EQ(submit(context, 2, half), 1);
    CHECK_EQ(get(context, 1, 4, events, NULL), 1);
    int read_only = open("data", O_RDONLY);
    bad = (struct iocb){ .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = read_only, .aio_buf = (uintptr_t)in, .aio_nbytes = 1 };
    CHECK_ERR(submit(context, 1, wrong), EBADF);
    CHECK_ERR(submit(context, 1, (struct iocb **)-1L), EFAULT);
    CHECK_ERR(submit(context, -1, list), EINVAL);
    CHECK_EQ(submit(context, 0, list), 0);
    CHECK_ERR(submit(12345, 1, list), EINVAL);

    /* A child has none of it. */
    pid_t pid = child_fork();
    if (pid == 0) {
        CHECK_ERR(get(context, 0, 1, events, &now), EINVAL);
        child_exit();
    }
    CHECK_CHILD(pid);
    CHECK_EQ(destroy(context), 0);
    CHECK_ERR(destroy(context), EINVAL);
    CHECK_ERR(get(context, 0, 1, events, &now), EINVAL);
    return check_result();
}
