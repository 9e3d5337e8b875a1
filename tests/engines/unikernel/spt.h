/*
 * A unikernel's side of the spt ABI, version 2: what it is told at its start, and the host calls that it may make.
 */
#ifndef SPT_H
#define SPT_H

struct boot_information {
    u64 memory_size;
    u64 image_end;
    const char *command_line;
    const struct manifest *manifest;
    int epoll, timer;
};

static inline s64 host(u64 number, u64 a, u64 b, u64 c, u64 d, u64 e, u64 f)
{
    s64 result;
    register u64 r10 __asm__("r10") = d, r8 __asm__("r8") = e, r9 __asm__("r9") = f;
    __asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}

enum { READ = 0, WRITE = 1, PREAD = 17, PWRITE = 18, ARCH_PRCTL = 158, CLOCK_GETTIME = 228, EXIT_GROUP = 231, EPOLL_PWAIT = 281,
       TIMERFD_SETTIME = 286 };

static inline void leave(int status)
{
    host(EXIT_GROUP, status, 0, 0, 0, 0, 0);
    __builtin_unreachable();
}

static inline void print(const char *text, u64 size)
{
    host(WRITE, 1, (u64)text, size, 0, 0, 0);
}

static inline u64 now(int clock)
{
    struct { u64 seconds, nanoseconds; } time;
    host(CLOCK_GETTIME, clock, (u64)&time, 0, 0, 0, 0);
    return time.seconds * 1000000000 + time.nanoseconds;
}

/* Until one of the net devices has something to read, or the monotonic clock shows that time: the devices, as bits. */
static inline u64 wait_until(const struct boot_information *boot, u64 deadline)
{
    struct { u64 interval[2], value[2]; } timer = { { 0, 0 }, { deadline / 1000000000, deadline % 1000000000 | 1 } };
    struct { u32 events; u64 data; } __attribute__((packed)) ready[8];
    u64 devices = 0;
    host(TIMERFD_SETTIME, boot->timer, 1, (u64)&timer, 0, 0, 0);
    s64 count = host(EPOLL_PWAIT, boot->epoll, (u64)ready, 8, -1, 0, 0);
    for (s64 index = 0; index < count; index++)
        if (ready[index].data != 0xfffffffe)
            devices |= 1ul << ready[index].data;
    return devices;
}

static inline void set_thread_pointer(void *place)
{
    host(ARCH_PRCTL, 0x1002, (u64)place, 0, 0, 0, 0);
}

/* Whether a whole block went. */
static inline int write_block(const struct boot_information *boot, const struct device *device, u64 at, void *data, u64 size)
{
    return host(PWRITE, device->descriptor, (u64)data, size, at, 0, 0) == (s64)size;
}

static inline int read_block(const struct boot_information *boot, const struct device *device, u64 at, void *data, u64 size)
{
    return host(PREAD, device->descriptor, (u64)data, size, at, 0, 0) == (s64)size;
}

/* The length of a frame; negative: there is none. */
static inline s64 read_frame(const struct boot_information *boot, const struct device *device, void *data, u64 size)
{
    return host(READ, device->descriptor, (u64)data, size, 0, 0, 0);
}

static inline void write_frame(const struct boot_information *boot, const struct device *device, void *data, u64 size)
{
    host(WRITE, device->descriptor, (u64)data, size, 0, 0, 0);
}

#endif
