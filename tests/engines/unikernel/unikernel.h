/*
 * What unikernels for all of Solo5's ABIs have in common, as far as the tests need it: the notes that an image carries, the
 * manifest of its devices, a console. What they ask of the host, and how, is in `spt.h` and `hvt.h`: each has `leave`,
 * `print`, `now`, `wait_until`, `set_thread_pointer`, and transfers of blocks and frames.
 */
#ifndef UNIKERNEL_H
#define UNIKERNEL_H

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

struct manifest {
    u32 version, entries;
    struct device devices[];
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

#if TARGET == 1
#include "hvt.h"
#else
#include "spt.h"
#endif

static inline u64 length(const char *text)
{
    u64 count = 0;
    while (text[count])
        count++;
    return count;
}

static inline void say(const char *text)
{
    print(text, length(text));
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

#endif
