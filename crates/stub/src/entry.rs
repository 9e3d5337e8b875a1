//! The direct entry: where a patched call site jumps to, so that its call never enters the host kernel.
//!
//! A site's trampoline does `lea return(%rip),%rcx; jmp *%gs:0x100`: rax is the call's number, rcx where the guest goes
//! on, and everything else is the guest's own. The call is served on the slot's stack by the same code as a trapped one
//! (`serve.rs`), and all registers but rax, rcx and r11 come back as they were, vector registers (which the stub does not
//! have) and flags included. The registers are kept in the thread block, not on the stack: a host signal that comes when
//! rsp is the guest's again has its frame at the stack's top.
//!
//! Host signals are not blocked here. [`on_interruption`] tells their handler what it interrupted:
//! - on the way in and while the call is served it only marks the thread (`kicked`), and the way out looks at the mark;
//! - from that look on, on the way out, it puts the registers where the rest of the way would have put them.
//!
//! What needs a full signal frame (a handler to run, a clone, a restart, rt_sigreturn) leaves through `direct_trap`, a
//! `syscall` that the filter traps: the frame of that trap is made the call's own ([`take_frame`]).

use crate::context::Context;
use crate::cpuid;
use crate::direct::OnDescriptor;
use crate::host;
use crate::infancy;
use crate::serve::{self, Outcome};
use crate::thread::ThreadBlock;
use core::arch::global_asm;

/// How a patched call is left (`ThreadBlock::leaving`).
pub mod leave {
    /// It has its result.
    pub const RETURN: u64 = 0;
    /// To the gadget of native calls.
    pub const NATIVE: u64 = 1;
    /// By the trap: the reply in the channel says what to do.
    pub const REPLY: u64 = 2;
    /// By the trap, whose handler makes the call.
    pub const CALL: u64 = 3;
    /// By a call of the host's on a descriptor, with its other registers as they are.
    pub const DATA: u64 = 4;
}

/// How a patched call is left, and the descriptor of [`leave::DATA`]; in rax and rdx.
#[repr(C)]
pub struct Left {
    how: u64,
    descriptor: u64,
}

// Flags that the stub does not run under: trap, direction, alignment check.
global_asm!(
    r#"
    .section .calls, "ax"
    .globl direct_entry
direct_entry:
    mov gs:[0x110], rsp
    mov gs:[0x118], rax
    mov gs:[0x120], rcx
    mov rsp, gs:[0x108]
    pushfq
    pop qword ptr gs:[0x128]
    mov gs:[0x130], rdi
    mov gs:[0x138], rsi
    mov gs:[0x140], rdx
    mov gs:[0x148], r10
    mov gs:[0x150], r8
    mov gs:[0x158], r9
    test dword ptr gs:[0x128], 0x40500
    jnz 1f
    mov rdi, gs:[0]
    call direct_call
    cmp eax, 4
    je direct_data
2:  test eax, eax
    jz direct_return
    cmp eax, 1
    je direct_native
    jmp direct_trap
    // The descriptor was closed under our feet.
    .globl direct_refused
direct_refused:
    mov rdi, gs:[0]
    call direct_call_again
    jmp 2b
1:  mov qword ptr gs:[0x168], 3

    // The trap that brings a full frame.
    .globl direct_trap
direct_trap:
    mov eax, -1
    .globl direct_trap_call
direct_trap_call:
    syscall
    .globl direct_trapped
direct_trapped:
    ud2

    // Out with a result. popfq costs more than all the rest: the arithmetic flags are put back by sahf, the overflow flag
    // by an addition that overflows or not.
    .globl direct_return
direct_return:
    cmp qword ptr gs:[0x160], 0
    jne direct_trap
    mov al, gs:[0x129]
    and al, 8
    add al, 0x78
    mov ah, gs:[0x128]
    sahf
    mov rdi, gs:[0x130]
    mov rsi, gs:[0x138]
    mov rdx, gs:[0x140]
    mov r10, gs:[0x148]
    mov r8, gs:[0x150]
    mov r9, gs:[0x158]
    mov r11, gs:[0x128]
    mov rcx, gs:[0x120]
    mov rax, gs:[0x118]
    mov rsp, gs:[0x110]
    jmp rcx
    .globl direct_return_end
direct_return_end:

    // To the gadget of native calls, in the guest's own context.
    .globl direct_native
direct_native:
    cmp qword ptr gs:[0x160], 0
    jne direct_trap
    mov al, gs:[0x129]
    and al, 8
    add al, 0x78
    mov ah, gs:[0x128]
    sahf
    mov rdi, gs:[0x130]
    mov rsi, gs:[0x138]
    mov rdx, gs:[0x140]
    mov r10, gs:[0x148]
    mov r8, gs:[0x150]
    mov r9, gs:[0x158]
    mov rax, gs:[0x118]
    mov rsp, gs:[0x110]
    jmp native_call
    .globl direct_native_end
direct_native_end:
"#
);

extern "C" {
    fn direct_entry();
    fn direct_return();
    fn direct_return_end();
    fn direct_native();
    fn direct_native_end();
    fn direct_trapped();
    static __executable_start: u8;
    static etext: u8;
}

pub fn address() -> u64 {
    direct_entry as *const () as u64
}

/// Serves the call whose registers the direct entry has saved.
#[link_section = ".calls"]
#[no_mangle]
extern "C" fn direct_call(thread: &mut ThreadBlock) -> Left {
    let Some(on_descriptor) = serve::on_descriptor(thread) else { return direct_call_again(thread) };
    // What the host's call comes to is the result.
    thread.leaving = leave::RETURN;
    match on_descriptor {
        OnDescriptor::Done(value) => {
            thread.direct.rax = value as u64;
            Left { how: leave::RETURN, descriptor: 0 }
        }
        OnDescriptor::Call(descriptor) => Left { how: leave::DATA, descriptor },
    }
}

/// The same, without a call of the host's behind it.
#[link_section = ".calls"]
#[no_mangle]
extern "C" fn direct_call_again(thread: &mut ThreadBlock) -> Left {
    // They are used in place: what the call changes in them is what the way out loads.
    let registers = &raw mut thread.direct;
    // SAFETY: only this function and what it calls use them now, and nothing reaches them through `thread`.
    let registers = unsafe { &mut *registers };
    thread.leaving = match serve::serve_directly(thread, registers) {
        Outcome::Return(value) => {
            registers.rax = value as u64;
            leave::RETURN
        }
        Outcome::Native => leave::NATIVE,
        Outcome::Reply => leave::REPLY,
        Outcome::NeedsFrame => leave::CALL,
        Outcome::Child => {
            infancy::go_on_directly(thread, registers);
            leave::RETURN
        }
    };
    Left { how: thread.leaving, descriptor: 0 }
}

/// What a handler has interrupted.
pub enum Interrupted {
    /// Not the stub's own code (or its gadget of native calls, or a `cpuid` that is to be made from the start again).
    NotTheStub,
    /// The stub, on the way out: the context is now as it would have been behind it.
    OnTheWayOut,
    /// The stub at work: the handler is to return after having marked that.
    AtWork,
}

/// Tells what was interrupted.
pub fn on_interruption(thread: &mut ThreadBlock, context: &mut Context) -> Interrupted {
    let within = |start: u64, end: u64| context.rip >= start && context.rip < end;
    if within(direct_return as *const () as u64, direct_return_end as *const () as u64) {
        thread.direct.put_into(context);
        return Interrupted::OnTheWayOut;
    }
    if within(direct_native as *const () as u64, direct_native_end as *const () as u64) {
        thread.direct.put_into(context);
        context.rip = host::native_call_address();
        return Interrupted::OnTheWayOut;
    }
    if within(host::native_call_address(), host::native_end_address())
        || cpuid::begin_again(context, thread.cpuid_kept)
        || !is_in_image(context.rip)
    {
        return Interrupted::NotTheStub;
    }
    thread.kicked = 1;
    Interrupted::AtWork
}

/// Whether an instruction is the stub's.
pub fn is_in_image(address: u64) -> bool {
    (&raw const __executable_start as u64..&raw const etext as u64).contains(&address)
}

/// Whether a trap is the one of `direct_trap`.
pub fn is_own_trap(context: &Context) -> bool {
    context.rip == direct_trapped as *const () as u64
}

/// Makes the frame of `direct_trap` that of the patched call; returns how it was left.
pub fn take_frame(thread: &ThreadBlock, context: &mut Context) -> u64 {
    thread.direct.put_into(context);
    if thread.leaving == leave::NATIVE {
        context.rip = host::native_call_address();
    }
    thread.leaving
}
