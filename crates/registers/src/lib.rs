//! A library that is loaded with User Mode Linux kernels from before 6.15, in place of the C library's `ptrace`.
//!
//! Such a kernel keeps 832 bytes of vector registers for each of its tasks: x87, SSE and AVX. A host whose processor has more
//! (AVX-512, AMX, protection keys) takes the whole state or none (`PTRACE_SETREGSET`), and the guest's first process dies. Here
//! the whole state is kept beside the kernel's own, one for each place that it keeps some of it in, which is a task's.
//!
//! What a task has beyond the 832 bytes is not saved by a signal's handler; nothing but that is different from a processor.
//! crates/machine/build.rs builds it. One thread only calls it, never from inside of itself: the kernel's.
#![no_std]

use core::arch::asm;
use core::ptr::{copy_nonoverlapping, null_mut, write_bytes};

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

/// SAFETY: `vector` as for the call.
unsafe fn get_state(pid: i64, vector: &mut Vector) -> i64 {
    // SAFETY: the state has room for any, the kernel's own for as much as it says.
    unsafe {
        let kept = kept_for(vector.base);
        let state = if kept.is_null() { (&raw mut SCRATCH).cast() } else { kept };
        let mut whole = Vector { base: state, length: ROOM };
        let result = host_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (&raw mut whole).cast());
        if result < 0 {
            return result;
        }
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
        let scratch: *mut u8 = (&raw mut SCRATCH).cast();
        // How long the host's is, and what is there where nothing was kept.
        let mut whole = Vector { base: scratch, length: ROOM };
        let result = host_ptrace(PTRACE_GETREGSET, pid, NT_X86_XSTATE, (&raw mut whole).cast());
        if result < 0 {
            return result;
        }
        if vector.length >= whole.length {
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
            _ => host_ptrace(request, pid, address, data),
        }
    };
    if result < 0 {
        // SAFETY: the C library's own.
        unsafe { *__errno_location() = -result as i32 };
        return -1;
    }
    if PTRACE_PEEK.contains(&request) {
        word
    } else {
        result
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
