/*
 * A unikernel that does what the first word of its command line says. Built with the devices `storage` and `service` where
 * WITH_DEVICES is set.
 */
#ifdef WITH_DEVICES
#define DEVICES { .name = "storage", .type = BLOCK }, { .name = "service", .type = NET },
#elif defined(WITH_STORAGE)
#define DEVICES { .name = "storage", .type = BLOCK },
#endif
#include "spt.h"

static char data[8192] = "data";
static char zeros[4096];

/* Registers as they were at the entry: rdi, rsp, the fifteen others together, and the flags' direction. */
u64 first[4];

__asm__(".globl _start\n_start:\n"
        "  mov %rdi, first(%rip)\n  mov %rsp, first + 8(%rip)\n"
        "  or %rsi, %rdx\n  or %rcx, %rdx\n  or %rbx, %rdx\n  or %rbp, %rdx\n  or %r8, %rdx\n  or %r9, %rdx\n  or %r10, %rdx\n"
        "  or %r11, %rdx\n  or %r12, %rdx\n  or %r13, %rdx\n  or %r14, %rdx\n  or %r15, %rdx\n"
        "  mov %rdx, first + 16(%rip)\n  pushf\n  pop %rax\n  mov %rax, first + 24(%rip)\n"
        "  jmp main\n");

static int is(const char **at, const char *word)
{
    const char *text = *at;
    while (*word && *word == *text)
        word++, text++;
    if (*word || (*text && *text != ' '))
        return 0;
    while (*text == ' ')
        text++;
    *at = text;
    return 1;
}

/* The next number of the line: decimal, or "data" for the address of some memory. */
static u64 number(const char **at)
{
    u64 value = 0;
    int negative = 0;
    if (is(at, "data"))
        return (u64)data;
    if (**at == '-')
        negative = 1, (*at)++;
    while (**at >= '0' && **at <= '9')
        value = value * 10 + (*(*at)++ - '0');
    while (**at == ' ')
        (*at)++;
    return negative ? -value : value;
}

static const struct device *device(const struct boot_information *boot, int type)
{
    for (u32 index = 1; index < boot->manifest->entries; index++)
        if (boot->manifest->devices[index].type == type && boot->manifest->devices[index].attached)
            return &boot->manifest->devices[index];
    say("no such device\n");
    leave(1);
    return 0;
}

static int block(const struct boot_information *boot)
{
    const struct device *storage = device(boot, BLOCK);
    u64 size = storage->block.block_size, blocks = storage->block.capacity / size;
    say_number("capacity ", storage->block.capacity);
    say_number("block ", size);
    for (u64 index = 0; index < blocks; index++) {
        for (u64 at = 0; at < size; at++)
            data[at] = index + at;
        if (host(PWRITE, storage->descriptor, (u64)data, size, index * size, 0, 0) != (s64)size)
            return 2;
    }
    for (u64 index = 0; index < blocks; index++) {
        if (host(PREAD, storage->descriptor, (u64)data, size, index * size, 0, 0) != (s64)size)
            return 3;
        for (u64 at = 0; at < size; at++)
            if (data[at] != (char)(index + at))
                return 4;
    }
    say("all blocks\n");
    return 0;
}

/* Answers every frame with itself, addresses exchanged, until one begins with "end!" behind them. */
static int echo(const struct boot_information *boot)
{
    const struct device *service = device(boot, NET);
    say_number("mtu ", service->net.mtu);
    for (int index = 0; index < 6; index++)
        say_number("mac ", service->net.mac[index]);
    for (;;) {
        u64 ready = wait_until(boot, now(1) + 20000000000ul);
        if (!ready)
            return 5;
        s64 count = host(READ, service->descriptor, (u64)data, sizeof data, 0, 0, 0);
        if (count < 18)
            continue;
        for (int index = 0; index < 6; index++) {
            char byte = data[index];
            data[index] = data[index + 6];
            data[index + 6] = byte;
        }
        host(WRITE, service->descriptor, (u64)data, count, 0, 0, 0);
        if (data[14] == 'e' && data[15] == 'n' && data[16] == 'd' && data[17] == '!')
            return 0;
    }
}

void main(const struct boot_information *boot)
{
    const char *line = boot->command_line;
    if (is(&line, "hello")) {
        say("hello, ");
        say(line);
        say("\n");
        leave(0);
    }
    if (is(&line, "exit"))
        leave(number(&line));
    if (is(&line, "abort")) {
        say("aborted\n");
        leave(255);
    }
    if (is(&line, "boot")) {
        say_number("memory ", boot->memory_size);
        say_number("end ", boot->image_end);
        say_number("devices ", boot->manifest->entries);
        say_number("argument ", first[0]);
        say_number("stack ", first[1]);
        say_number("others ", first[2]);
        say_number("direction ", first[3] >> 10 & 1);
        for (u64 index = 0; index < sizeof zeros; index++)
            if (zeros[index])
                say("not zero\n");
        leave(0);
    }
    if (is(&line, "time")) {
        u64 start = now(1), wall = now(0);
        wait_until(boot, start + 50000000);
        u64 took = now(1) - start;
        say(took >= 50000000 && took < 5000000000 ? "waited\n" : "wrong\n");
        say_number("wall ", wall / 1000000000);
        leave(0);
    }
    if (is(&line, "sleep")) {
        say("up\n");
        for (;;)
            wait_until(boot, now(1) + 1000000000);
    }
    if (is(&line, "spin")) {
        say("up\n");
        for (;;)
            ;
    }
    if (is(&line, "flood"))
        for (;;)
            if (host(WRITE, 1, (u64)data, sizeof data, 0, 0, 0) < 0)
                leave(9);
    if (is(&line, "tls")) {
        static u64 block[2] = { 0, 77 };
        host(ARCH_PRCTL, 0x1002, (u64)block, 0, 0, 0, 0);
        u64 value;
        __asm__ volatile("mov %%fs:8, %0" : "=r"(value));
        say_number("thread ", value);
        leave(0);
    }
    /* host calls with arguments of the line's own: what is not allowed kills */
    if (is(&line, "call")) {
        u64 arguments[7];
        for (int index = 0; index < 7; index++)
            arguments[index] = number(&line);
        say("before\n");
        say_number("answer ",
                   host(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]));
        leave(0);
    }
    if (is(&line, "int80")) {
        __asm__ volatile("int $0x80" : : "a"(20) : "memory");
        leave(0);
    }
    if (is(&line, "block"))
        leave(block(boot));
    /* one transfer: write or read, block size, offset */
    if (is(&line, "transfer")) {
        const struct device *storage = device(boot, BLOCK);
        u64 call = is(&line, "write") ? PWRITE : PREAD;
        is(&line, "read");
        u64 size = number(&line), offset = number(&line);
        say("before\n");
        say_number("answer ", host(call, storage->descriptor, (u64)data, size, offset, 0, 0));
        leave(0);
    }
    if (is(&line, "echo"))
        leave(echo(boot));
    if (is(&line, "devices")) {
        for (u32 index = 1; index < boot->manifest->entries; index++) {
            say(boot->manifest->devices[index].name);
            say_number(" ", boot->manifest->devices[index].attached);
        }
        leave(0);
    }
    /* faults */
    if (is(&line, "null"))
        leave(*(volatile char *)number(&line));
    if (is(&line, "undefined"))
        __asm__ volatile("ud2");
    if (is(&line, "divide")) {
        __asm__ volatile("div %%ecx" : : "a"(1), "d"(0), "c"(0));
    }
    if (is(&line, "write-text"))
        *(volatile char *)main = 0;
    if (is(&line, "run-data")) {
        data[0] = (char)0xc3;
        ((void (*)(void))(u64)data)();
    }
    if (is(&line, "run-stack")) {
        volatile char code[1] = { (char)0xc3 };
        ((void (*)(void))(u64)code)();
    }
    if (is(&line, "thread-pointer")) {
        u64 value;
        __asm__ volatile("mov %%fs:0, %0" : "=r"(value));
        leave(0);
    }
    say("no such task\n");
    leave(3);
}
