//! A library that is loaded with User Mode Linux kernels, in place of the C library's `ptrace`, `waitpid` and `kill`.
//!
//! **Registers.** A kernel from before 6.15 keeps 832 bytes of vector registers for each of its tasks: x87, SSE and AVX. A host whose processor has more
//! (AVX-512, AMX, protection keys) takes the whole state or none (`PTRACE_SETREGSET`), and the guest's first process dies. Here
//! the whole state is kept beside the kernel's own, one for each place that it keeps some of it in, which is a task's.
//!
//! What a task has beyond the 832 bytes is not saved by a signal's handler; nothing but that is different from a processor.
//!
//! **Signals from outside.** A process of the guest's that somebody on the host stops or lets go on (SIGSTOP, SIGCONT) tells its
//! kernel so, and that ends the process, or, where it is the first one, panics. Here signals that the kernel has no use for are
//! taken from the process, which goes on as it was to.
//!
//! **An end from outside.** Of a process that waits in the kernel when somebody on the host kills it the kernel hears only when
//! it is to go on. Here it ends all of the guest at once, and says why.
//!
//! crates/machine/build.rs builds it. One thread only calls it, never from inside of itself: the kernel's.
#![no_std]

use core::arch::asm;
use core::ptr::{copy_nonoverlapping, null_mut, write_bytes};
use core::sync::atomic::{AtomicBool, AtomicI64, Ordering};

const PTRACE_PEEK: core::ops::RangeInclusive<i64> = 1..=3;
const PTRACE_GETREGSET: i64 = 0x4204;
const PTRACE_SETREGSET: i64 = 0x4205;
const NT_X86_XSTATE: usize = 0x202;

/// Room for any state that processors have (AMX: 11,008 bytes).
const ROOM: usize = 16 << 10;
/// Where the header is: which components there are, and in which format.
const HEADER: usize = 512;
/// x87, SSE, AVX: what the kernel knows.
const KNOWN: u64 = 0b111;
/// Tasks whose state is kept: more than a guest has processes. Of further ones the rest is as it was in the process.
const TASKS: usize = 1 << 14;

#[repr(C)]
struct Vector {
    base: *mut u8,
    length: usize,
}

#[derive(Clone, Copy)]
struct Kept {
    task: *mut u8,
    state: *mut u8,
}

static mut KEPT: [Kept; TASKS] = [Kept { task: null_mut(), state: null_mut() }; TASKS];
static mut SCRATCH: [u8; ROOM] = [0; ROOM];

/// The process that goes on, and by which of ptrace's requests.
static mut RESUMED: (i64, i64) = (0, 0);
const PTRACE_CONT: i64 = 7;
/// CONT, SINGLESTEP, SYSCALL, SYSEMU, SYSEMU_SINGLESTEP.
const RESUMING: [i64; 5] = [PTRACE_CONT, 9, 24, 31, 32];

/// Signals that the kernel takes from its processes: ILL, TRAP, BUS, FPE, SEGV, ALRM, VTALRM, PROF, WINCH, IO.
const EXPECTED: u64 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 14 | 1 << 26 | 1 << 27 | 1 << 28 | 1 << 29;
const SIGKILL: i64 = 9;
const SIGSTOP: i64 = 19;

/// The process that the kernel has killed last: its end is no news. Also read by the handler, on the same thread.
static KILLED: AtomicI64 = AtomicI64::new(0);
static WATCHES: AtomicBool = AtomicBool::new(false);

extern "C" {
    fn __errno_location() -> *mut i32;
}

/// SAFETY: as the call itself.
unsafe fn call(number: i64, arguments: [usize; 6]) -> i64 {
    let result;
    // SAFETY: the caller's; all registers that the kernel changes are named.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") arguments[0],
            in("rsi") arguments[1],
            in("rdx") arguments[2],
            in("r10") arguments[3],
            in("r8") arguments[4],
            in("r9") arguments[5],
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// SAFETY: as the call itself.
unsafe fn host_ptrace(request: i64, pid: i64, address: usize, data: *mut u8) -> i64 {
    const SYS_PTRACE: i64 = 101;
    // SAFETY: the caller's.
    unsafe { call(SYS_PTRACE, [request as usize, pid as usize, address, data as usize, 0, 0]) }
}

/// The state that is kept for a task; null: there is no more room. New ones are as a processor begins.
///
/// SAFETY: by the kernel's one thread.
unsafe fn kept_for(task: *mut u8) -> *mut u8 {
    const SYS_MMAP: i64 = 9;
    const READ_WRITE: usize = 3;
    const PRIVATE_ANONYMOUS: usize = 0x22;
    let first = (task as usize >> 6).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    for step in 0..TASKS {
        let place = &raw mut KEPT[(first + step) % TASKS];
        // SAFETY: a place in the table, which nobody else looks at.
        let kept = unsafe { &mut *place };
        if kept.task == task {
            return kept.state;
        }
        if kept.task.is_null() {
            // SAFETY: new memory.
            let made = unsafe { call(SYS_MMAP, [0, ROOM, READ_WRITE, PRIVATE_ANONYMOUS, usize::MAX, 0]) };
            if made < 0 {
                break;
            }
            *kept = Kept { task, state: made as *mut u8 };
            return kept.state;
        }
    }
    null_mut()
}

/// SAFETY: `state` is one of `ROOM` bytes.
unsafe fn header(state: *mut u8) -> *mut u64 {
    // SAFETY: the caller's; it is aligned to eight bytes as all that is kept is, and the kernel's own.
    unsafe { state.add(HEADER).cast() }
}

/// How long the host's state is; 0: not known yet.
static mut HOST: usize = 0;

/// SAFETY: `vector` as for the call.
unsafe fn get_state(pid: i64, vector: &mut Vector) -> i64 {
    // SAFETY: the state has room for any, the kernel's own for as much as it says.
    unsafe {
        if HOST != 0 && vector.length >= HOST {
            return host_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (vector as *mut Vector).cast());
        }
        let kept = kept_for(vector.base);
        let state = if kept.is_null() { (&raw mut SCRATCH).cast() } else { kept };
        let mut whole = Vector { base: state, length: ROOM };
        let result = host_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (&raw mut whole).cast());
        if result < 0 {
            return result;
        }
        HOST = whole.length;
        vector.length = vector.length.min(whole.length);
        copy_nonoverlapping(state, vector.base, vector.length);
        // A kernel with room for all of it knows all of it.
        if vector.length < whole.length && vector.length >= HEADER + 8 {
            *header(vector.base) &= KNOWN;
        }
        0
    }
}

/// SAFETY: `vector` as for the call.
unsafe fn set_state(pid: i64, vector: &Vector) -> i64 {
    // SAFETY: as above.
    unsafe {
        if HOST != 0 && vector.length >= HOST {
            let all: *const Vector = vector;
            return host_ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, all.cast_mut().cast());
        }
        let scratch: *mut u8 = (&raw mut SCRATCH).cast();
        // How long the host's is, and what is there where nothing was kept.
        let mut whole = Vector { base: scratch, length: ROOM };
        let result = host_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (&raw mut whole).cast());
        if result < 0 {
            return result;
        }
        HOST = whole.length;
        if vector.length >= HOST {
            let all: *const Vector = vector;
            return host_ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, all.cast_mut().cast());
        }
        let kept = kept_for(vector.base);
        if !kept.is_null() {
            copy_nonoverlapping(kept, scratch, whole.length);
        }
        let length = vector.length.min(whole.length);
        if length < HEADER + 64 {
            return -22;
        }
        let more = *header(scratch) & !KNOWN;
        copy_nonoverlapping(vector.base, scratch, length);
        let known = *header(vector.base) & KNOWN;
        write_bytes(scratch.add(HEADER), 0, 64);
        *header(scratch) = known | more;
        host_ptrace(PTRACE_SETREGSET, pid, NT_X86_XSTATE, (&raw mut whole).cast())
    }
}

/// ptrace(2), as the C library has it.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn ptrace(request: i64, pid: i64, address: usize, data: *mut u8) -> i64 {
    let mut word = 0i64;
    // SAFETY: the caller's; a word that is asked for comes into ours.
    let result = unsafe {
        match request {
            PTRACE_GETREGSET if address == NT_X86_XSTATE => get_state(pid, &mut *data.cast::<Vector>()),
            PTRACE_SETREGSET if address == NT_X86_XSTATE => set_state(pid, &*data.cast::<Vector>()),
            _ if PTRACE_PEEK.contains(&request) => host_ptrace(request, pid, address, (&raw mut word).cast()),
            _ => {
                if RESUMING.contains(&request) {
                    RESUMED = (pid, request);
                    watch();
                }
                host_ptrace(request, pid, address, data)
            }
        }
    };
    if result < 0 {
        return failed(result);
    }
    if PTRACE_PEEK.contains(&request) {
        word
    } else {
        result
    }
}

fn failed(result: i64) -> i64 {
    // SAFETY: the C library's own.
    unsafe { *__errno_location() = -result as i32 };
    -1
}

/// waitpid(2), as the C library has it; but of stops by signals that the kernel has no use for it tells nothing.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32 {
    const SYS_WAIT4: i64 = 61;
    let pid = i64::from(pid);
    let mut told = 0i32;
    loop {
        // SAFETY: the caller's; what comes is put where it wants it below.
        let result = unsafe { call(SYS_WAIT4, [pid as usize, (&raw mut told) as usize, options as usize, 0, 0, 0]) };
        if result < 0 {
            return failed(result) as i32;
        }
        let stopped = told & 0xff == 0x7f && told >> 16 == 0;
        let signal = i64::from(told >> 8 & 0xff);
        // SAFETY: the kernel's one thread, as in `ptrace`.
        let (resumed, request) = unsafe { RESUMED };
        // A process that has just begun stops itself, and is waited for.
        let foreign = stopped && signal < 64 && EXPECTED >> signal & 1 == 0 && (signal != SIGSTOP || sender(pid) != pid);
        if !(result > 0 && result == pid && foreign) {
            if !status.is_null() {
                // SAFETY: the caller's.
                unsafe { *status = told };
            }
            return result as i32;
        }
        let request = if resumed == pid { request } else { PTRACE_CONT };
        // SAFETY: it is stopped, and goes on without the signal; where it is dead by now the next wait says so.
        unsafe { host_ptrace(request, pid, 0, null_mut()) };
    }
}

/// Who sent the signal that a process is stopped by.
fn sender(pid: i64) -> i64 {
    const PTRACE_GETSIGINFO: i64 = 0x4202;
    let mut information = [0i32; 32];
    // SAFETY: the host's `siginfo_t` is that large; zeros stay where there is none.
    unsafe { host_ptrace(PTRACE_GETSIGINFO, pid, 0, information.as_mut_ptr().cast()) };
    information[4].into()
}

/// kill(2), as the C library has it.
///
/// # Safety
/// As there.
#[no_mangle]
pub unsafe extern "C" fn kill(pid: i32, signal: i32) -> i32 {
    const SYS_KILL: i64 = 62;
    if i64::from(signal) == SIGKILL {
        KILLED.store(pid.into(), Ordering::Relaxed);
    }
    // SAFETY: the caller's.
    let result = unsafe { call(SYS_KILL, [pid as usize, signal as usize, 0, 0, 0, 0]) };
    if result < 0 {
        return failed(result) as i32;
    }
    0
}

/// Has the host tell of children that end (SIGCHLD), and not of those that stop.
fn watch() {
    const SYS_RT_SIGACTION: i64 = 13;
    const SIGCHLD: usize = 17;
    const SA_NOCLDSTOP: u64 = 1;
    const SA_SIGINFO: u64 = 4;
    const SA_RESTORER: u64 = 0x0400_0000;
    // The kernel's stack for signals: those of its tasks are small.
    const SA_ONSTACK: u64 = 0x0800_0000;
    const SA_RESTART: u64 = 0x1000_0000;
    if WATCHES.swap(true, Ordering::Relaxed) {
        return;
    }
    let action: [u64; 4] = [
        on_child as *const () as u64,
        SA_NOCLDSTOP | SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_RESTART,
        skerry_restorer as *const () as u64,
        u64::MAX,
    ];
    // SAFETY: the host's own structure, with a handler that is there as long as the process.
    unsafe { call(SYS_RT_SIGACTION, [SIGCHLD, action.as_ptr() as usize, 0, 8, 0, 0]) };
}

extern "C" {
    fn skerry_restorer();
}

// rt_sigreturn(2)
core::arch::global_asm!("skerry_restorer:", "mov $15, %eax", "syscall", options(att_syntax));

/// Of a child that ends: `information` is the host's `siginfo_t`.
extern "C" fn on_child(_: i32, information: *const i32, _: *mut u8) {
    const SYS_WRITE: i64 = 1;
    const SYS_EXIT_GROUP: i64 = 231;
    const CLD_KILLED: i32 = 2;
    const WORDS: &[u8] = b"\na process of the guest's was killed from outside\n";
    // SAFETY: code, pid and status are there for SIGCHLD.
    let (code, pid, status) = unsafe { (*information.add(2), *information.add(4), *information.add(6)) };
    if code != CLD_KILLED || i64::from(status) != SIGKILL || i64::from(pid) == KILLED.load(Ordering::Relaxed) {
        return;
    }
    // SAFETY: says so and ends the process.
    unsafe {
        call(SYS_WRITE, [1, WORDS.as_ptr() as usize, WORDS.len(), 0, 0, 0]);
        call(SYS_EXIT_GROUP, [125, 0, 0, 0, 0, 0]);
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    const SYS_EXIT_GROUP: i64 = 231;
    loop {
        // SAFETY: ends the process.
        unsafe { call(SYS_EXIT_GROUP, [125, 0, 0, 0, 0, 0]) };
    }
}
