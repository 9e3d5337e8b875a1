//! Threads that their program has ended, and that wait here to be used for new ones: neither a host clone nor a channel has
//! to be made for those.
//!
//! The sentry says which thread is parked and who becomes it; nothing is decided here. A parked thread uses none of the
//! guest's memory, and not the slot's stack either, where the next one's first frame is laid down.

use crate::bases;
use crate::births;
use crate::call;
use crate::context::Context;
use crate::handlers;
use crate::host::{self, number};
use crate::layout::CloneOrder;
use crate::thread::{self, ThreadBlock};
use core::arch::global_asm;
use core::sync::atomic::Ordering;

/// What a slot's thread does (`Parking::state`).
mod state {
    /// It runs, or is on its way to be parked.
    pub const USED: u32 = 0;
    pub const PARKED: u32 = 1;
    /// Another thread lays down what it is to begin with.
    pub const FILLING: u32 = 2;
    pub const STARTED: u32 = 3;
}

const FUTEX_WAIT_PRIVATE: u64 = 128;
const FUTEX_WAKE: u64 = 1;
const FUTEX_WAKE_PRIVATE: u64 = 129;

global_asm!(
    r#"
    .text
    // fn park_on(block, cleared, stack): goes on in parked(block, cleared) on another stack, and from there in
    // start_again(block) on the stack that it returns.
park_on:
    mov rsp, rdx
    mov rbx, rdi
    xor ebp, ebp
    call parked
    mov rsp, rax
    mov rdi, rbx
    call start_again
    ud2
"#
);

extern "C" {
    fn park_on(block: u64, cleared: u64, stack: u64) -> !;
}

/// What the host does for a thread that ends: its word is cleared. Whoever waits for that is to be woken at the address.
/// Nothing of the thread's but its slot is used from here on.
fn clear_word(thread: &mut ThreadBlock) -> u64 {
    let cleared = core::mem::take(&mut thread.parking.clear_child_tid);
    if cleared != 0 {
        let zero = 0u32;
        host::copy(cleared, &raw const zero as u64, 4);
    }
    cleared
}

fn wake(cleared: u64) {
    if cleared != 0 {
        call!(number::FUTEX, cleared, FUTEX_WAKE, 1);
    }
}

/// Ends the thread, whose program has others.
pub fn end(thread: &mut ThreadBlock) -> ! {
    wake(clear_word(thread));
    host::exit(0)
}

/// As if the thread ended; then it waits. All host signals are blocked.
pub fn park(thread: &mut ThreadBlock) -> ! {
    let cleared = clear_word(thread);
    // SAFETY: what lies between the stack and the block is for this, and this stack is left for good.
    unsafe { park_on(thread.address, cleared, thread.address) }
}

/// Waits until the thread is used again; returns the stack for that.
#[no_mangle]
extern "C" fn parked(block: u64, cleared: u64) -> u64 {
    let thread = thread::at(block);
    let word = &thread.parking.state;
    word.store(state::PARKED, Ordering::Release);
    births::parked(thread);
    wake(cleared);
    loop {
        match word.load(Ordering::Acquire) {
            state::STARTED => break,
            other => call!(number::FUTEX, word.as_ptr(), FUTEX_WAIT_PRIVATE, other, 0),
        };
    }
    word.store(state::USED, Ordering::Relaxed);
    (thread.first_frame - 4096) & !15
}

/// Has the parked thread in `order.slot` begin where `context` is.
pub fn start(context: &Context, order: &CloneOrder) {
    let child = thread::at(thread::block_address(order.slot));
    let word = child.parking.state.as_ptr();
    // SAFETY: the word is in a slot of this address space, and accessed atomically only.
    let word = unsafe { core::sync::atomic::AtomicU32::from_ptr(word) };
    // The sentry may know that it is parked while it still is on the way to that.
    while word.compare_exchange(state::PARKED, state::FILLING, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        call!(number::SCHED_YIELD);
    }
    handlers::lay_down_child(child, context, order);
    word.store(state::STARTED, Ordering::Release);
    call!(number::FUTEX, word.as_ptr(), FUTEX_WAKE_PRIVATE, 1);
}

#[no_mangle]
extern "C" fn start_again(block: u64) -> ! {
    let thread = thread::at(block);
    if core::mem::take(&mut thread.gs_taken) != 0 {
        bases::set_gs(thread.address);
    }
    bases::set_fs(thread.parking.tls);
    handlers::begin_and_return(thread)
}
