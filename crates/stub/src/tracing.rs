//! Threads that somebody traces (ptrace(2)).
//!
//! The sentry hears of each call before it is made and once it has its result, whoever makes it: the sentry, the host in this
//! process, or the stub. All registers lie in a frame then, so that a patched call leaves by the trap (`entry.rs`) first, and
//! where they are goes with the request. While the thread waits for the answer the sentry reads them there for the tracer, and
//! writes what that changes.
//!
//! What does not end in a frame, a native wait and the jump to a new program, ends in a trap here, which makes one.
//!
//! Nothing of that confines anybody: a program that has taken its stub over is not seen by its tracer.

use crate::bases;
use crate::context::Context;
use crate::handlers::{self, Place};
use crate::handoff;
use crate::host;
use crate::layout::{action, request, Shown};
use crate::registers::Registers;
use crate::serve::{self, Outcome};
use crate::thread::{ThreadBlock, Tracing};
use crate::watching;
use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicU32, Ordering};

global_asm!(
    r#"
    .text
    .globl traced_trap
traced_trap:
    mov gs:[{kept}], rax
    mov eax, -1
    syscall
    .globl traced_trapped
traced_trapped:
    ud2
"#,
    kept = const offset_of!(ThreadBlock, tracing) + offset_of!(Tracing, kept),
);

extern "C" {
    fn traced_trap();
    fn traced_trapped();
}

/// Whether somebody traces the thread.
#[inline(always)]
pub fn is_traced(thread: &ThreadBlock) -> bool {
    // SAFETY: within the channel, aligned, and accessed atomically only.
    unsafe { AtomicU32::from_ptr(&raw mut (*thread.local()).traced) }.load(Ordering::Acquire) != 0
}

/// Asks what lies in the thread's request, and shows the registers where somebody is to see them.
pub fn ask(thread: &mut ThreadBlock, context: &mut Context) {
    if !is_traced(thread) {
        return handoff::hand_over(thread);
    }
    let gs_base = if thread.gs_taken != 0 { bases::gs() } else { 0 };
    let hits = watching::give_up(thread, context);
    thread.tracing.shown = Shown { context: &raw mut *context as u64, fs_base: bases::fs(), gs_base, hits, ..Shown::default() };
    thread.request.detail.shown = shown_address(thread);
    handoff::hand_over(thread);
    take_over_base(thread);
}

/// Where the sentry finds what was shown last.
fn shown_address(thread: &mut ThreadBlock) -> u64 {
    &raw mut thread.tracing.shown as u64
}

/// The same, for the requests of a call that has begun here; 0: it has not.
pub fn shown_in_call(thread: &mut ThreadBlock) -> u64 {
    if thread.tracing.in_call != 0 {
        shown_address(thread)
    } else {
        0
    }
}

/// The tracer may have changed the thread's fs.
fn take_over_base(thread: &ThreadBlock) {
    // SAFETY: in the thread's own block, which the sentry may have written meanwhile.
    let base = unsafe { core::ptr::read_volatile(&raw const thread.tracing.shown.fs_base) };
    if base != bases::fs() {
        bases::set_fs(base);
    }
}

/// Serves a call of a traced thread; rax is its number.
pub fn serve(thread: &mut ThreadBlock, context: &mut Context) {
    let mut registers = Registers::of(context);
    let filled = handlers::new_request(thread, context.rip, context.rsp, request::CALL_BEGINS);
    filled.number = registers.rax;
    filled.arguments = registers.arguments();
    ask(thread, context);
    let answer = handoff::reply(thread);
    registers = Registers::of(context);
    let outcome = match answer.action {
        // The tracer wants it not to be made.
        action::RETURN => {
            thread.tracing.has_ended = 0;
            Outcome::Return(answer.value)
        }
        action::AS_IS if registers.rax == host::number::RT_SIGRETURN => return handlers::signal_return(thread, context),
        action::AS_IS => {
            (thread.tracing.in_call, thread.tracing.has_ended) = (1, 0);
            let outcome = serve::serve_shown(thread, &mut registers);
            thread.tracing.in_call = 0;
            outcome
        }
        _ => return handlers::carry_out(thread, context, Place::OwnCode),
    };
    match outcome {
        Outcome::Return(value) => {
            context.rax = value as u64;
            if thread.tracing.has_ended == 0 {
                call_ends(thread, context);
            } else {
                take_over_base(thread);
            }
        }
        Outcome::Native => {
            thread.tracing.resume = core::mem::replace(&mut thread.resume, traced_trap as *const () as u64);
            thread.tracing.starts = 0;
            registers.put_into(context);
            context.rip = host::native_call_address();
            if answer.then != 0 {
                // A signal is there already, of which nobody tells again.
                handlers::interrupt(thread, context);
            }
        }
        Outcome::Reply | Outcome::NeedsFrame | Outcome::Child => {
            handlers::carry_out(thread, context, Place::Syscall);
            take_over_base(thread);
        }
    }
}

fn call_ends(thread: &mut ThreadBlock, context: &mut Context) {
    handlers::new_request(thread, context.rip, context.rsp, request::CALL_ENDS);
    ask(thread, context);
    handlers::carry_out(thread, context, Place::OwnCode);
}

/// Where a native wait leads that a traced thread makes.
pub fn is_behind(resume: u64) -> bool {
    resume == traced_trap as *const () as u64
}

/// Whether a trap is the one of this module.
pub fn is_own_trap(context: &Context) -> bool {
    context.rip == traced_trapped as *const () as u64
}

/// Goes on behind that trap, with a frame.
pub fn trapped(thread: &mut ThreadBlock, context: &mut Context) {
    context.rip = thread.tracing.resume;
    context.rax = thread.tracing.kept;
    if thread.tracing.starts == 0 {
        return call_ends(thread, context);
    }
    (context.rcx, context.r11) = (0, 0);
    handlers::new_request(thread, context.rip, context.rsp, request::KICKED);
    ask(thread, context);
    handlers::carry_out(thread, context, Place::OwnCode);
}

/// Where a program of a traced thread begins, so that it is seen before its first instruction.
pub fn program_start(thread: &mut ThreadBlock, entry: u64) -> u64 {
    thread.tracing.starts = 1;
    thread.tracing.resume = entry;
    traced_trap as *const () as u64
}
