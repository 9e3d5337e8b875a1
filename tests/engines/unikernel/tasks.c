/*
 * A unikernel that does what the first word of its command line says. Built with the devices `storage` and `service` where
 * WITH_DEVICES is set.
 */
#ifdef WITH_DEVICES
#define DEVICES { .name = "storage", .type = BLOCK }, { .name = "service", .type = NET },
#elif defined(WITH_STORAGE)
#define DEVICES { .name = "storage", .type = BLOCK },
#endif
#include "unikernel.h"

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
        if (!write_block(boot, storage, index * size, data, size))
            return 2;
    }
    for (u64 index = 0; index < blocks; index++) {
        if (!read_block(boot, storage, index * size, data, size))
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
        s64 count = read_frame(boot, service, data, sizeof data);
        if (count < 18)
            continue;
        for (int index = 0; index < 6; index++) {
            char byte = data[index];
            data[index] = data[index + 6];
            data[index + 6] = byte;
        }
        write_frame(boot, service, data, count);
        if (data[14] == 'e' && data[15] == 'n' && data[16] == 'd' && data[17] == '!')
            return 0;
    }
}

#if TARGET == 1

/* What only a guest of a machine can ask: ports, and hypercalls with words of the line's own. */
static void asked(const struct boot_information *boot, const char *line)
{
    /* the number, and the structure's address */
    if (is(&line, "hypercall")) {
        u64 call = number(&line);
        say("before\n");
        write_port(0x500 + call, number(&line));
        say("after\n");
        leave(0);
    }
    /* the number, how many words, and these; then the answer behind them */
    if (is(&line, "ask")) {
        u64 call = number(&line), count = number(&line), words[8] = { 0 };
        for (u64 index = 0; index < count && index < 7; index++)
            words[index] = number(&line);
        say("before\n");
        hypercall(call, words);
        say_number("answer ", (u32)words[count]);
        leave(0);
    }
    if (is(&line, "port")) {
        u16 port = number(&line);
        write_port(port, number(&line));
    }
    if (is(&line, "byte")) {
        u16 port = number(&line);
        __asm__ volatile("outb %b0, %1" : : "a"((u32)number(&line)), "d"(port));
    }
    if (is(&line, "in"))
        __asm__ volatile("inl %%dx" : : "d"((u16)number(&line)) : "eax");
    if (is(&line, "many"))
        __asm__ volatile("rep outsl" : : "d"(0x502), "c"(16), "S"(data) : "memory");
    if (is(&line, "model")) {
        u32 which = number(&line);
        u64 value = number(&line);
        __asm__ volatile("wrmsr" : : "c"(which), "a"((u32)value), "d"(value >> 32));
    }
    if (is(&line, "nested"))
        __asm__ volatile("vmrun" : : "a"(data));
    if (is(&line, "halt"))
        __asm__ volatile("hlt");
    /* without handlers, and without a stack for those of the tender's */
    if (is(&line, "lost")) {
        struct { u16 limit; u64 base; } __attribute__((packed)) none = { 0, 0 };
        __asm__ volatile("lidt %0\n  ud2" : : "m"(none));
    }
    if (is(&line, "tables"))
        __asm__ volatile("mov %0, %%cr3" : : "r"(number(&line)));
}

#else

/* What only a program of the host can ask: its calls, with arguments of the line's own. What is not allowed kills. */
static void asked(const struct boot_information *boot, const char *line)
{
    if (is(&line, "call")) {
        u64 arguments[7];
        for (int index = 0; index < 7; index++)
            arguments[index] = number(&line);
        say("before\n");
        say_number("answer ",
                   host(arguments[0], arguments[1], arguments[2], arguments[3], arguments[4], arguments[5], arguments[6]));
        leave(0);
    }
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
}

#endif

void main(const struct boot_information *boot)
{
    const char *line = boot->command_line;
#if TARGET == 1
    counter_hertz = boot->counter_hertz;
#endif
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
            print(data, sizeof data);
    if (is(&line, "tls")) {
        static u64 block[2] = { 0, 77 };
        set_thread_pointer(block);
        u64 value;
        __asm__ volatile("mov %%fs:8, %0" : "=r"(value));
        say_number("thread ", value);
        leave(0);
    }
    if (is(&line, "int80")) {
        __asm__ volatile("int $0x80" : : "a"(20) : "memory");
        leave(0);
    }
    asked(boot, line);
    if (is(&line, "block"))
        leave(block(boot));
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
