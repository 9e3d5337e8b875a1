//! Processes that go on before they have presented themselves (ADR 66).
//!
//! The maker's clone(2) is what rings: the sentry serves the request that lies in the channel, writes what the child begins with into
//! the maker's thread block ([`Certificate`]), and lets the host make the process. The child finds its copy there. It has no channel:
//! what is known of the thread is in the certificate. So the stub answers what a thread's own state is, as ever, and the first thing that must be asked for goes to the sentry
//! with the token, and brings the channel. Most children ask once, to end or to execute a program.

use crate::bases;
use crate::births;
use crate::call;
use crate::direct;
use crate::handlers::{self, new_request};
use crate::handoff;
use crate::host::{self, number};
use crate::layout::{self, request, Certificate, First, Phase};
use crate::local;
use crate::pipes;
use crate::registers::Registers;
use crate::thread::{way, ThreadBlock};
use core::sync::atomic::Ordering;

const CLONE_VM: u32 = 0x100;
const PROT_READ_WRITE: u64 = 3;
const MAP_PRIVATE_FIXED_ANONYMOUS: u64 = 0x32;

/// Whether the call makes a process with memory of its own.
#[inline(always)]
pub fn is_fork(registers: &Registers) -> bool {
    registers.rax == number::FORK || registers.rax == number::CLONE && registers.rdi as u32 & CLONE_VM == 0
}

/// A call is about to be served for which there is a frame.
#[inline(always)]
pub fn before(thread: &mut ThreadBlock, registers: &Registers) {
    if is_fork(registers) && thread.way == way::RING {
        thread.way = way::FORK;
    }
}

#[inline(always)]
pub fn is_new(thread: &ThreadBlock) -> bool {
    thread.way == way::FIRST && thread.sequence == 0
}

/// Asks by the host's clone(2). As where the thread has rung, the reply lies in the channel; but for the child.
#[inline(never)]
#[link_section = ".calls"]
pub fn fork(thread: &mut ThreadBlock) {
    thread.way = way::RING;
    thread.request.rings = true;
    handoff::publish(thread);
    let result = make(thread);
    if result == 0 || result == layout::FORK_ANSWERED {
        return;
    }
    let certificate = written(thread);
    if result > 0 && certificate.order.set_parent_tid != 0 {
        // As on Linux, a bad address is passed over in silence.
        let tid = certificate.order.child_tid as u32;
        host::copy(certificate.order.set_parent_tid, &raw const tid as u64, 4);
    }
    if result < 0 || certificate.reports != 0 {
        let (at, stack) = (thread.request.detail.instruction_pointer, thread.request.detail.stack_pointer);
        new_request(thread, at, stack, request::NATIVE_DONE).detail.status = result;
        handoff::hand_over(thread);
    }
}

/// The certificate as the sentry has written it meanwhile.
fn written(thread: &ThreadBlock) -> &Certificate {
    // SAFETY: in the thread's own block; the sentry writes there while the thread is in `make` only.
    unsafe { &*thread.certificate.get() }
}

/// The host's clone(2) of a process, which the sentry has ordered, or orders now. 0 in the child.
#[inline(never)]
#[link_section = ".calls"]
pub fn make(thread: &mut ThreadBlock) -> i64 {
    let certificate = thread.certificate.get() as u64;
    // SAFETY: the child has a copy of this stack and returns through it.
    let result = unsafe { host::clone_call(layout::CLONE_PROCESS, 0, certificate, 0, 0) };
    if result == 0 {
        begin(thread);
    }
    result
}

#[link_section = ".calls"]
fn begin(thread: &mut ThreadBlock) {
    let order = &written(thread).order;
    let (token, set_child_tid, child_tid, cleared) = (order.token, order.set_child_tid, order.child_tid, order.clear_child_tid);
    // It is known by this as the one that the token is for.
    thread.way = way::FIRST;
    thread.began = handoff::ticks();
    thread.sequence = 0;
    thread.token = token;
    thread.set_child_tid = set_child_tid;
    thread.child_tid = child_tid;
    thread.tid = child_tid;
    thread.parking.clear_child_tid = cleared;
    thread.is_process = 1;
    (thread.has_loan, thread.has_streams, thread.has_objects) = (0, 0, 0);
    if handlers::DEATH_SIGNAL.load(Ordering::Relaxed) {
        handlers::set_death_signal();
    }
}

/// How a new thread begins.
pub fn beginning(thread: &ThreadBlock) -> u32 {
    if thread.way == way::FIRST {
        written(thread).beginning
    } else {
        // SAFETY: within the channel.
        unsafe { core::ptr::read_volatile(&raw const (*thread.channel()).beginning) }
    }
}

/// A process without a channel is about to ask for a call, which may use what is there. True: it does not, nor does anything else in the channel.
#[inline(always)]
pub fn only_ends(thread: &ThreadBlock, call_number: u64) -> bool {
    thread.way == way::FIRST && needs_nothing(thread, call_number)
}

#[inline(never)]
#[link_section = ".calls"]
fn needs_nothing(thread: &ThreadBlock, call_number: u64) -> bool {
    if matches!(call_number, number::EXIT | number::EXIT_GROUP) {
        return true;
    }
    // All zeros: there is nothing.
    let (channel, flags) = (thread.channel(), MAP_PRIVATE_FIXED_ANONYMOUS);
    let mapped = call!(number::MMAP, channel, layout::SHELF_OFFSET, PROT_READ_WRITE, flags, -1i64, 0);
    if mapped != channel as i64 {
        host::crash();
    }
    false
}

/// What else the child does before it goes on where its maker was; the stack pointer, if it is to be another one.
#[link_section = ".calls"]
pub fn go_on(thread: &ThreadBlock) -> Option<u64> {
    let Certificate { order, descriptors, .. } = written(thread);
    if order.tls != 0 {
        bases::set_fs(order.tls);
    }
    direct::forked(thread, *descriptors);
    pipes::forked();
    births::forked();
    Some(order.stack).filter(|stack| *stack != 0)
}

/// The same for a call that has no frame.
#[link_section = ".calls"]
pub fn go_on_directly(thread: &mut ThreadBlock, registers: &mut Registers) {
    registers.rax = 0;
    if let Some(stack) = go_on(thread) {
        registers.rsp = stack;
    }
    if handlers::asks_first(thread) {
        // As after a kick: on the way out.
        thread.kicked = 1;
    }
}

/// The last argument of the ring. A sequence other than the sentry's would be that of another request.
#[link_section = ".calls"]
fn end_of(thread: &ThreadBlock) -> u64 {
    let asked = &thread.request;
    let is_end = asked.kind == request::SYSCALL
        && asked.sequence == 1
        && matches!(asked.number, number::EXIT | number::EXIT_GROUP)
        && asked.marshalled == 0
        && !local::has_robust_list(thread);
    if is_end {
        layout::FIRST_ENDS | u64::from(asked.arguments[0] as u32)
    } else {
        0
    }
}

/// Asks for the first time: the reply lies in the channel that comes with it.
#[inline(never)]
#[link_section = ".calls"]
pub fn present(thread: &mut ThreadBlock) {
    let end = end_of(thread);
    if end == 0 {
        return present_with(thread);
    }
    thread.way = way::RING;
    handlers::take_channel(thread, layout::DOORBELL_FIRST, thread.began, end);
}

#[inline(never)]
fn present_with(thread: &mut ThreadBlock) {
    let first = First {
        state: layout::line_state(thread.request.sequence, Phase::Request),
        words: thread.request.to_words(),
        detail: thread.request.detail,
        began: thread.began,
        _padding: 0,
        local: written(thread).local,
    };
    thread.way = way::RING;
    handlers::take_channel(thread, layout::DOORBELL_FIRST, &raw const first as u64, 0);
}
