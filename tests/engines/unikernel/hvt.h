/*
 * A unikernel's side of the hvt ABI, version 2: what it is told at its start, and its hypercalls. Each is the address of a
 * structure, written to a port.
 */
#ifndef HVT_H
#define HVT_H

struct boot_information {
    u64 memory_size;
    u64 image_end;
    u64 counter_hertz;
    const char *command_line;
    const struct manifest *manifest;
};

enum { WALLTIME = 1, PUTS, POLL, BLOCK_WRITE, BLOCK_READ, NET_WRITE, NET_READ, HALT };

static inline void write_port(u16 port, u32 value)
{
    __asm__ volatile("outl %0, %1" : : "a"(value), "d"(port) : "memory");
}

static inline void hypercall(int number, volatile void *structure)
{
    write_port(0x500 + number, (u64)structure);
}

static inline void leave(int status)
{
    struct { u64 cookie; u32 status; } halt = { 0, status };
    hypercall(HALT, &halt);
    __builtin_unreachable();
}

static inline void print(const char *text, u64 size)
{
    struct { const char *text; u64 size; } puts = { text, size };
    hypercall(PUTS, &puts);
}

static u64 counter_hertz;

static inline u64 now(int clock)
{
    if (clock == 0) {
        volatile u64 nanoseconds;
        hypercall(WALLTIME, &nanoseconds);
        return nanoseconds;
    }
    u32 low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    u64 count = (u64)high << 32 | low;
    return count / counter_hertz * 1000000000 + count % counter_hertz * 1000000000 / counter_hertz;
}

static inline u64 wait_until(const struct boot_information *boot, u64 deadline)
{
    u64 start = now(1);
    struct { u64 timeout, devices; u32 any; } poll = { deadline > start ? deadline - start : 0, 0, 0 };
    hypercall(POLL, &poll);
    return poll.any ? poll.devices : 0;
}

static inline void set_thread_pointer(void *place)
{
    __asm__ volatile("wrmsr" : : "c"(0xc0000100), "a"((u32)(u64)place), "d"((u64)place >> 32));
}

static inline int transfer_block(int number, const struct boot_information *boot, const struct device *device, u64 at, void *data, u64 size)
{
    struct { u64 device, at; void *data; u64 size; u32 answer; } block = { device - boot->manifest->devices, at, data, size, 9 };
    hypercall(number, &block);
    return block.answer == 0;
}

static inline int write_block(const struct boot_information *boot, const struct device *device, u64 at, void *data, u64 size)
{
    return transfer_block(BLOCK_WRITE, boot, device, at, data, size);
}

static inline int read_block(const struct boot_information *boot, const struct device *device, u64 at, void *data, u64 size)
{
    return transfer_block(BLOCK_READ, boot, device, at, data, size);
}

static inline s64 read_frame(const struct boot_information *boot, const struct device *device, void *data, u64 size)
{
    struct { u64 device; void *data; u64 size; u32 answer; } frame = { device - boot->manifest->devices, data, size, 9 };
    hypercall(NET_READ, &frame);
    return frame.answer ? -1 : (s64)frame.size;
}

static inline void write_frame(const struct boot_information *boot, const struct device *device, void *data, u64 size)
{
    struct { u64 device; void *data; u64 size; u32 answer; } frame = { device - boot->manifest->devices, data, size, 9 };
    hypercall(NET_WRITE, &frame);
}

#endif
