/*
 * A unikernel's side of the spt ABI, version 2, as far as the tests need it: the notes that an image carries, what it is told
 * at its start, and the host calls that it may make.
 */
#ifndef SPT_H
#define SPT_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;
typedef long s64;

enum { BLOCK = 1, NET = 2, FIRST = 1 << 30 };

struct device {
    char name[68];
    u32 type;
    union {
        struct { u64 capacity; u16 block_size; } block;
        struct { u8 mac[6]; u16 mtu; } net;
        u8 space[16];
    };
    union { int descriptor; u64 space_of_it; };
    u8 attached;
} __attribute__((aligned(8)));

struct boot_information {
    u64 memory_size;
    u64 image_end;
    const char *command_line;
    const struct manifest { u32 version, entries; struct device devices[]; } *manifest;
    int epoll, timer;
};

#ifndef TARGET
#define TARGET 2
#endif
#ifndef VERSION
#define VERSION 2
#endif

static const struct { u32 name, size, type; char owner[8]; u32 target, version, reserved[2]; } abi_note
    __attribute__((used, section(".note.abi"), aligned(4))) = { 6, 16, 0x31494241, "Solo5", TARGET, VERSION, { 0, 0 } };

/* The manifest: DEVICES are `struct device`s, after the first, which is none. */
#ifndef DEVICES
#define DEVICES
#endif
#define COUNT (sizeof((struct device[]){ { .type = FIRST }, DEVICES }) / sizeof(struct device))
static const struct {
    u32 name, size, type;
    char owner[8];
    u32 padding;
    u32 version, entries;
    struct device devices[COUNT];
} manifest_note __attribute__((used, section(".note.manifest"), aligned(8))) = {
    6, 12 + COUNT * sizeof(struct device), 0x3154464d, "Solo5", 0, 1, COUNT, { { .type = FIRST }, DEVICES }
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

static inline u64 length(const char *text)
{
    u64 count = 0;
    while (text[count])
        count++;
    return count;
}

static inline void say(const char *text)
{
    host(WRITE, 1, (u64)text, length(text), 0, 0, 0);
}

static inline void say_number(const char *before, s64 number)
{
    char text[32];
    int at = sizeof text;
    u64 left = number < 0 ? -(u64)number : (u64)number;
    text[--at] = 0;
    text[--at] = '\n';
    do
        text[--at] = '0' + left % 10;
    while (left /= 10);
    if (number < 0)
        text[--at] = '-';
    say(before);
    say(text + at);
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

#endif
