//! One call of the guest, in the order of the classes: what the stub answers itself, what the host serves in this process,
//! and the rest, which goes to the sentry. Trapped calls (`handlers.rs`) and patched sites (`entry.rs`) both come here.

use crate::births;
use crate::board;
use crate::copies;
use crate::deferred;
use crate::direct::{self, OnDescriptor};
use crate::events;
use crate::expected;
use crate::handlers::{self, new_request, run_operations};
use crate::handoff;
use crate::host::{self, number};
use crate::infancy;
use crate::layout::{self, action, request};
use crate::loan;
use crate::local;
use crate::marshal;
use crate::native;
use crate::objects;
use crate::park;
use crate::pipes;
use crate::registers::Registers;
use crate::streams;
use crate::thread::ThreadBlock;
use crate::tracing;
use crate::windows;

const ARCH_SET_GS: u64 = 0x1001;
const RLIMIT_AS: u32 = 9;

/// How a call goes on.
pub enum Outcome {
    /// It has its result.
    Return(i64),
    /// To be made by the gadget of native calls, with the registers as they are now.
    Native,
    /// The reply in the channel says; it needs the frame of a signal.
    Reply,
    /// Nothing has been done yet: it needs the frame of a signal from the start.
    NeedsFrame,
    /// We are the process that the call has made.
    Child,
}

/// Serves a patched call on a file that the process reads and writes by itself; `None`: it is another call, or somebody is to see
/// it.
#[inline(always)]
pub fn on_descriptor(thread: &mut ThreadBlock) -> Option<OnDescriptor> {
    let (call_number, arguments) = (thread.direct.rax, thread.direct.arguments());
    if tracing::is_traced(thread) {
        return None;
    }
    let done = direct::on_descriptor(thread, call_number, &arguments)?;
    expected::forget(thread);
    Some(done)
}

/// Serves a call for which there is no frame yet.
#[inline(always)]
pub fn serve_directly(thread: &mut ThreadBlock, registers: &mut Registers) -> Outcome {
    if tracing::is_traced(thread) {
        return Outcome::NeedsFrame;
    }
    if let Some(result) = local::try_local(thread, registers) {
        return Outcome::Return(result);
    }
    match registers.rax {
        // Its registers are in a frame; and behind a change of gs the direct entry would not find its way out.
        number::RT_SIGRETURN => Outcome::NeedsFrame,
        number::ARCH_PRCTL if registers.rdi == ARCH_SET_GS => Outcome::NeedsFrame,
        number::CLONE | number::CLONE3 if births::are_offered() => Outcome::NeedsFrame,
        number::EXIT if thread.parking.is_unasked != 0 => Outcome::NeedsFrame,
        _ => {
            infancy::before(thread, registers);
            serve(thread, registers, request::SYSCALL)
        }
    }
}

/// After so many traps the sentry is told: it may have the code patched.
const MANY_TRAPS: u64 = 64;

/// Serves a call that has trapped, but not rt_sigreturn(2).
pub fn serve_trapped(thread: &mut ThreadBlock, registers: &mut Registers) -> Outcome {
    if registers.rax == number::EXIT && thread.parking.is_unasked != 0 {
        births::end(thread);
    }
    thread.traps = thread.traps.saturating_add(1);
    if thread.traps >= MANY_TRAPS && thread.gs_taken == 0 {
        // Then the sentry answers what could be answered here, too, and has native calls made again.
        return serve(thread, registers, request::SYSCALL | request::OFTEN_TRAPPED);
    }
    serve_shown(thread, registers)
}

/// Serves a call for which there is a frame; of a traced thread once it has begun for its tracer.
pub fn serve_shown(thread: &mut ThreadBlock, registers: &mut Registers) -> Outcome {
    match local::try_local(thread, registers) {
        Some(result) => Outcome::Return(result),
        None => serve(thread, registers, request::SYSCALL),
    }
}

/// Serves what is not answered here: natively, or by a request of this kind.
#[link_section = ".calls"]
fn serve(thread: &mut ThreadBlock, registers: &mut Registers, kind: u32) -> Outcome {
    if registers.rax != number::MMAP {
        expected::forget(thread);
    }
    if kind == request::SYSCALL {
        if let Some(outcome) = native::try_native(thread, registers) {
            return outcome;
        }
    }
    let only_ends = infancy::only_ends(thread, registers.rax);
    // What a traced thread does is all the sentry's, or the host's.
    if kind == request::SYSCALL && thread.tracing.in_call == 0 && !only_ends {
        if let Some(result) = direct::try_direct(thread, registers.rax, &registers.arguments()) {
            return Outcome::Return(result);
        }
        if let Some(outcome) = try_lent(thread, registers) {
            thread.has_news = 1;
            return outcome;
        }
        if let Some(result) = events::try_change(thread, registers.rax, &registers.arguments()) {
            return Outcome::Return(result);
        }
        if let Some(result) = board::try_board(thread, registers.rax, &registers.arguments()) {
            return Outcome::Return(result);
        }
        if let Some(result) = loan::try_loan(thread, registers.rax, &registers.arguments()) {
            return Outcome::Return(result);
        }
    }
    let (call_number, mut arguments) = (registers.rax, registers.arguments());
    let done = pipes::take_done(thread);
    let kind = if pipes::take_tells(thread) { request::CHANGED } else { kind };
    if kind == request::CHANGED {
        arguments = [arguments[0], 0, 0, 0, 0, 0];
    } else if done != 0 {
        arguments[1] += done;
        arguments[2] -= done;
    }
    if kind == request::SYSCALL {
        if let Some(result) = deferred::try_defer(thread, call_number, &arguments) {
            return Outcome::Return(result);
        }
    }
    deferred::before(call_number, &arguments);
    copies::before(call_number, &arguments);
    match call_number {
        number::EXIT | number::EXIT_GROUP => local::forget_empty_robust_list(thread),
        // As in `local.rs`, where that is not to be answered here.
        number::SETRLIMIT if arguments[0] as u32 == RLIMIT_AS => windows::limits(),
        number::PRLIMIT64 if arguments[1] as u32 == RLIMIT_AS && arguments[2] != 0 => windows::limits(),
        number::SET_TID_ADDRESS => thread.parking.clear_child_tid = arguments[0],
        _ => {}
    }
    thread.has_loan = 0;
    let marshalled = marshal::gather(thread, call_number, &arguments);
    let marshalled = deferred::append(thread, marshalled);
    let shown = tracing::shown_in_call(thread);
    let filled = new_request(thread, registers.rip, registers.rsp, kind);
    filled.detail.shown = shown;
    filled.number = call_number;
    filled.arguments = arguments;
    filled.marshalled = marshalled;
    if kind & request::OFTEN_TRAPPED != 0 {
        thread.traps = 0;
    }
    handlers::ring(thread);
    if infancy::is_new(thread) {
        return Outcome::Child;
    }
    loop {
        if done != 0 {
            handoff::amend(thread, |answer| pipes::amend(answer, done));
        }
        let answer = handoff::reply(thread);
        match answer.action {
            action::RETURN => {
                let applied = marshal::apply(thread, answer.results);
                deferred::after(thread, call_number, &arguments, answer.value, answer.entry);
                thread.has_loan = loan::lent(answer.entry);
                if answer.entry == layout::streams::LENT {
                    thread.has_streams = 1;
                }
                if answer.entry == layout::objects::LENT {
                    thread.has_objects = 1;
                }
                thread.tracing.has_ended = 1;
                return Outcome::Return(applied.err().unwrap_or(answer.value));
            }
            action::NATIVE => {
                let mut result = run_operations(thread, answer.operations);
                if !handlers::asks_again(answer.then, result) {
                    if done != 0 {
                        result = done as i64 + result.max(0);
                    }
                    thread.has_loan = loan::lent(answer.entry);
                    return Outcome::Return(result);
                }
                let filled = new_request(thread, registers.rip, registers.rsp, request::NATIVE_DONE);
                (filled.detail.status, filled.detail.shown) = (result, shown);
                handlers::ring(thread);
            }
            action::EXIT_THREAD => park::end(thread),
            action::RESTART | action::AS_IS | action::HANDLER | action::SHOW | action::CLONE | action::PARK => {
                return Outcome::Reply
            }
            _ => host::exit(0),
        }
    }
}

/// Serves a call on a socket, an eventfd, a pipe or an epoll that the thread has by itself: others may tell it something so.
#[inline(always)]
fn try_lent(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    if let Some(result) = streams::try_read(thread, registers.rax, &registers.arguments()) {
        return Some(Outcome::Return(result));
    }
    if let Some(result) = objects::try_object(thread, registers.rax, &registers.arguments()) {
        return Some(Outcome::Return(result));
    }
    if let Some(outcome) = pipes::try_pipe(thread, registers) {
        return Some(outcome);
    }
    events::try_wait(thread, registers).map(Outcome::Return)
}
