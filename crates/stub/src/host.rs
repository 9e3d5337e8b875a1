//! Host calls. Every one of them is made by one of the instructions between `gadget_start` and `gadget_end`: the filter
//! lets nothing else through, and a handler can tell from the instruction pointer what it interrupted.

use core::arch::global_asm;

// Offsets in the thread block (see `thread.rs`, which checks them).
global_asm!(
    r#"
    .section .calls, "ax"
    .globl gadget_start
gadget_start:

    // fn host_call(number, a, b, c, d, e, f) -> result
    .globl host_call
host_call:
    mov rax, rdi
    mov rdi, rsi
    mov rsi, rdx
    mov rdx, rcx
    mov r10, r8
    mov r8, r9
    mov r9, [rsp + 8]
    syscall
    ret

    // The host call of a patched call (`entry.rs`), on the descriptor in rdx: in line, as behind a `syscall` the processor
    // predicts no return.
    .globl direct_data
direct_data:
    mov rdi, rdx
    mov rsi, gs:[0x138]
    mov rdx, gs:[0x140]
    mov r10, gs:[0x148]
    mov rax, gs:[0x118]
    syscall
    cmp rax, -9
    je direct_refused
    mov gs:[0x118], rax
    jmp direct_return

    // Return from a handler.
    .globl restorer
restorer:
    mov eax, 15
    syscall
    ud2

    // A native call in the guest's own context: a handler sends the thread here with the guest's registers, rax the
    // number. Signals are not blocked here, so that a kick ends a wait; `native_call` and `native_done` tell the handler
    // of the kick how far the call got. Behind it the argument registers that were replaced are put back.
    .globl native_call
native_call:
    syscall
    .globl native_done
native_done:
    mov rdi, gs:[0xb8]
    mov rsi, gs:[0x40]
    mov rdx, gs:[0x48]
    mov r10, gs:[0x50]
    mov r9, gs:[0x58]
    mov rcx, gs:[0x68]
    jrcxz 1f
    // Without touching the flags, as `syscall` does: -110 is ETIMEDOUT.
    lea rcx, [rcx - 2]
    jrcxz 2f
    lea rcx, [rax + 110]
    jrcxz 1f
    mov rax, gs:[0xc0]
    mov rcx, gs:[0x60]
    lea rcx, [rcx - 2]
    jmp rcx
1:  mov rcx, gs:[0x60]
    jmp rcx
    // As if its site were patched.
2:  mov rax, gs:[0xc0]
    mov rcx, gs:[0x60]
    jmp direct_entry
    .globl native_end
native_end:

    // fn clone_call(flags, child_stack, clear_tid, tls, thread_block) -> result; a child with its own stack starts in
    // child_start(thread_block).
    .globl clone_call
clone_call:
    mov r9, r8
    mov r8, rcx
    mov r10, rdx
    xor edx, edx
    mov eax, 56
    syscall
    test rax, rax
    jnz 1f
    test r9, r9
    jz 1f
    mov rdi, r9
    xor ebp, ebp
    call child_start
    ud2
1:  ret

    .globl gadget_end
gadget_end:
    ud2

    // fn guarded_copy(destination, source, length) -> bytes not copied. A fault at `guarded_copy_instruction` goes on
    // behind it.
    .globl guarded_copy
guarded_copy:
    mov rcx, rdx
    .globl guarded_copy_instruction
guarded_copy_instruction:
    rep movsb
    .globl guarded_copy_end
guarded_copy_end:
    mov rax, rcx
    ret

    // fn guarded_string(destination, source, limit) -> bytes copied, with the zero at the end; 0 where there is none within
    // the limit, or at a fault of `guarded_string_load`.
    .globl guarded_string
guarded_string:
    xor eax, eax
1:  cmp rax, rdx
    jae 2f
    .globl guarded_string_load
guarded_string_load:
    movzx ecx, byte ptr [rsi + rax]
    mov [rdi + rax], cl
    inc rax
    test ecx, ecx
    jnz 1b
    ret
    .globl guarded_string_end
guarded_string_end:
2:  xor eax, eax
    ret

    // fn guarded_probe(address) -> 1 where the byte there can be written, which it is, as it is; 0 at a fault of
    // `guarded_probe_touch`.
    .globl guarded_probe
guarded_probe:
    xor eax, eax
    .globl guarded_probe_touch
guarded_probe_touch:
    lock or byte ptr [rdi], 0
    inc eax
    .globl guarded_probe_end
guarded_probe_end:
    ret

    // fn guarded_load(address) -> 1 and the word there, or 0: it cannot be read. As above.
    .globl guarded_load
guarded_load:
    xor eax, eax
    .globl guarded_load_instruction
guarded_load_instruction:
    mov rdx, [rdi]
    inc eax
    .globl guarded_load_end
guarded_load_end:
    ret

    // fn guarded_store(address, value) -> 0, or 1: it cannot be written.
    .globl guarded_store
guarded_store:
    mov eax, 1
    .globl guarded_store_instruction
guarded_store_instruction:
    mov [rdi], rsi
    xor eax, eax
    .globl guarded_store_end
guarded_store_end:
    ret

    // fn start_program(entry, stack): never returns.
    .globl start_program
start_program:
    mov rsp, rsi
    mov rcx, rdi
    xor eax, eax
    xor ebx, ebx
    xor edx, edx
    xor esi, esi
    xor ebp, ebp
    xor r8d, r8d
    xor r9d, r9d
    xor r10d, r10d
    xor r11d, r11d
    xor r12d, r12d
    xor r13d, r13d
    xor r14d, r14d
    xor r15d, r15d
    xor edi, edi
    jmp rcx

    // fn return_to_frame(frame): the stack pointer goes to a signal frame (behind its return address), and rt_sigreturn.
    .globl return_to_frame
return_to_frame:
    mov rsp, rdi
    jmp restorer

    // fn go_on_stack(block, stack, last): calls pool_process_main(block, last) there, and never returns.
    .globl go_on_stack
go_on_stack:
    mov rsp, rsi
    mov rsi, rdx
    xor ebp, ebp
    call pool_process_main
    ud2

    .globl _start
_start:
    mov rdi, rsp
    xor ebp, ebp
    and rsp, -16
    call zygote_main
    ud2
"#
);

extern "C" {
    pub fn host_call(number: u64, a: u64, b: u64, c: u64, d: u64, e: u64, f: u64) -> i64;
    pub fn clone_call(flags: u64, child_stack: u64, clear_tid: u64, tls: u64, thread_block: u64) -> i64;
    pub fn guarded_copy(destination: u64, source: u64, length: u64) -> u64;
    fn guarded_string(destination: u64, source: u64, limit: u64) -> u64;
    fn guarded_probe(address: u64) -> u64;
    fn guarded_load(address: u64) -> Loaded;
    fn guarded_store(address: u64, value: u64) -> u64;
    pub fn start_program(entry: u64, stack: u64) -> !;
    pub fn return_to_frame(frame: u64) -> !;
    pub fn go_on_stack(block: u64, stack: u64, last: u64) -> !;
    fn gadget_start();
    fn gadget_end();
    fn native_call();
    fn native_done();
    fn native_end();
    fn guarded_copy_instruction();
    fn guarded_copy_end();
    fn guarded_string_load();
    fn guarded_string_end();
    fn guarded_probe_touch();
    fn guarded_probe_end();
    fn guarded_load_instruction();
    fn guarded_load_end();
    fn guarded_store_instruction();
    fn guarded_store_end();
    fn restorer();
}

macro_rules! label {
    ($($(#[$doc:meta])* $name:ident = $symbol:ident;)*) => { $(
        $(#[$doc])*
        pub fn $name() -> u64 {
            $symbol as *const () as u64
        }
    )* };
}

label! {
    gadget_start_address = gadget_start;
    gadget_end_address = gadget_end;
    /// The `syscall` of a native call.
    native_call_address = native_call;
    native_done_address = native_done;
    native_end_address = native_end;
    restorer_address = restorer;
}

/// Whether a call that has just been made, to the instruction behind it, was one of the gadget.
pub fn is_in_gadget(behind: u64) -> bool {
    behind > gadget_start_address() && behind <= gadget_end_address()
}

/// Ends the process, all its threads, by a fault that no frame can be laid down for or that nobody handles: there is no call
/// for it.
pub fn crash() -> ! {
    // SAFETY: nothing goes on behind it.
    unsafe { core::arch::asm!("xor esp, esp", "ud2", options(noreturn)) }
}

/// Where a thread goes on that has faulted at `address`, if that is one of the guarded instructions.
pub fn behind_guarded(address: u64) -> Option<u64> {
    let guarded: [(unsafe extern "C" fn(), unsafe extern "C" fn()); 5] = [
        (guarded_copy_instruction, guarded_copy_end),
        (guarded_string_load, guarded_string_end),
        (guarded_probe_touch, guarded_probe_end),
        (guarded_load_instruction, guarded_load_end),
        (guarded_store_instruction, guarded_store_end),
    ];
    guarded
        .into_iter()
        .find(|(instruction, _)| *instruction as *const () as u64 == address)
        .map(|(_, end)| end as *const () as u64)
}

pub const PAGE: u64 = 4096;
/// No call transfers more.
pub const MOST: u64 = 0x7fff_f000;
/// Guest addresses from here on may end, with what a call transfers, beyond the guest's half of them.
pub const HIGHEST: u64 = 0x7fff_0000_0000;

pub mod number {
    pub const READ: u64 = 0;
    pub const WRITE: u64 = 1;
    pub const OPEN: u64 = 2;
    pub const STAT: u64 = 4;
    pub const FSTAT: u64 = 5;
    pub const LSTAT: u64 = 6;
    pub const LSEEK: u64 = 8;
    pub const IOCTL: u64 = 16;
    pub const ACCESS: u64 = 21;
    pub const UNLINKAT: u64 = 263;
    pub const FACCESSAT: u64 = 269;
    pub const GETDENTS64: u64 = 217;
    pub const OPENAT: u64 = 257;
    pub const NEWFSTATAT: u64 = 262;
    pub const PREAD64: u64 = 17;
    pub const PWRITE64: u64 = 18;
    pub const READV: u64 = 19;
    pub const WRITEV: u64 = 20;
    pub const PREADV: u64 = 295;
    pub const PWRITEV: u64 = 296;
    pub const MMAP: u64 = 9;
    pub const MPROTECT: u64 = 10;
    pub const MUNMAP: u64 = 11;
    pub const BRK: u64 = 12;
    pub const RT_SIGACTION: u64 = 13;
    pub const RT_SIGPROCMASK: u64 = 14;
    pub const RT_SIGRETURN: u64 = 15;
    pub const CLOSE: u64 = 3;
    pub const SCHED_YIELD: u64 = 24;
    pub const MREMAP: u64 = 25;
    pub const MADVISE: u64 = 28;
    pub const DUP: u64 = 32;
    pub const DUP2: u64 = 33;
    pub const SENDMSG: u64 = 46;
    pub const RECVMSG: u64 = 47;
    pub const SENDTO: u64 = 44;
    pub const RECVFROM: u64 = 45;
    pub const CLONE: u64 = 56;
    pub const FORK: u64 = 57;
    pub const VFORK: u64 = 58;
    pub const EXECVE: u64 = 59;
    pub const EXIT: u64 = 60;
    pub const EXIT_GROUP: u64 = 231;
    pub const FCNTL: u64 = 72;
    pub const GETPID: u64 = 39;
    pub const GETRLIMIT: u64 = 97;
    pub const GETUID: u64 = 102;
    pub const GETGID: u64 = 104;
    pub const GETEUID: u64 = 107;
    pub const GETEGID: u64 = 108;
    pub const GETPPID: u64 = 110;
    pub const GETPGRP: u64 = 111;
    pub const GETPGID: u64 = 121;
    pub const GETSID: u64 = 124;
    pub const GETTID: u64 = 186;
    pub const CHDIR: u64 = 80;
    pub const MKDIR: u64 = 83;
    pub const LINK: u64 = 86;
    pub const UNLINK: u64 = 87;
    pub const READLINK: u64 = 89;
    pub const READLINKAT: u64 = 267;
    pub const CHROOT: u64 = 161;
    pub const CAPSET: u64 = 126;
    pub const SIGALTSTACK: u64 = 131;
    pub const PRCTL: u64 = 157;
    pub const ARCH_PRCTL: u64 = 158;
    pub const FUTEX: u64 = 202;
    pub const SET_TID_ADDRESS: u64 = 218;
    pub const RESTART_SYSCALL: u64 = 219;
    pub const SET_ROBUST_LIST: u64 = 273;
    pub const PRLIMIT64: u64 = 302;
    pub const SETRLIMIT: u64 = 160;
    pub const EPOLL_WAIT: u64 = 232;
    pub const EPOLL_CTL: u64 = 233;
    pub const EPOLL_PWAIT: u64 = 281;
    pub const UNSHARE: u64 = 272;
    pub const DUP3: u64 = 292;
    pub const SENDMMSG: u64 = 307;
    pub const SECCOMP: u64 = 317;
    pub const EXECVEAT: u64 = 322;
    pub const MEMBARRIER: u64 = 324;
    pub const RSEQ: u64 = 334;
    pub const CLONE3: u64 = 435;
    pub const CLOSE_RANGE: u64 = 436;
}

/// A host call with up to six arguments.
#[macro_export]
macro_rules! call {
    ($number:expr $(, $argument:expr)*) => { $crate::host::call_array($number, &[$($argument as u64),*]) };
}

pub fn call_array(number: u64, arguments: &[u64]) -> i64 {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: the callers pass addresses of memory that the call may touch; a wrong one harms this process only.
    unsafe { host_call(number, at(0), at(1), at(2), at(3), at(4), at(5)) }
}

/// Whether the host's descriptor is open: nothing is mapped by a call without a length, but what it would map is looked for first.
pub fn is_open(descriptor: u64) -> bool {
    const EBADF: i64 = -9;
    const MAP_PRIVATE: u64 = 2;
    call!(number::MMAP, 0, 0, 0, MAP_PRIVATE, descriptor, 0) != EBADF
}

/// Ends the calling thread. Of a process that has others the sentry ends those, or the host does so behind the sentry.
pub fn exit(status: u64) -> ! {
    loop {
        call!(number::EXIT, status);
    }
}

/// In rax and rdx.
#[repr(C)]
struct Loaded {
    is_there: u64,
    value: u64,
}

/// A word of the guest's memory; `None` where it cannot be read.
pub fn load(address: u64) -> Option<u64> {
    // SAFETY: a fault at the guest's address is caught.
    let loaded = unsafe { guarded_load(address) };
    (loaded.is_there != 0).then_some(loaded.value)
}

/// False where the guest's memory cannot be written.
pub fn store(address: u64, value: u64) -> bool {
    // SAFETY: as above.
    unsafe { guarded_store(address, value) == 0 }
}

/// Copies between guest memory and the stub's; false where either side faulted.
pub fn copy(destination: u64, source: u64, length: u64) -> bool {
    // SAFETY: a fault inside is caught by the fault handler; destination is either guest memory or a buffer of ours of at
    // least `length` bytes, as the callers say.
    unsafe { guarded_copy(destination, source, length) == 0 }
}

/// Copies a zero-terminated string of at most `limit` bytes, to a buffer of ours that has room for so many. Its length
/// with the zero; 0 where it is longer or not readable.
pub fn copy_string(destination: u64, source: u64, limit: u64) -> u64 {
    // SAFETY: as above.
    unsafe { guarded_string(destination, source, limit) }
}

/// Whether the byte at `address` can be written. What is there stays, whoever else writes it at the same time.
pub fn is_writable(address: u64) -> bool {
    // SAFETY: as above; the byte does not change.
    unsafe { guarded_probe(address) != 0 }
}
