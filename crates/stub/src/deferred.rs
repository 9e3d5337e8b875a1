//! epoll_ctl(2) calls whose result is known go along with the next call that is handed over anyway.
//!
//! Who waits with epoll(7) changes his interest lists more often than he waits, and mostly what he changes is seen by
//! himself alone: at his next epoll_wait(2). The sentry says with the answer to an epoll_ctl(2) that it is so (the epoll is
//! in no other process, and this one has a single thread) and thereby, that the descriptor is in the list now, or is not.
//! From then on the result of the next change to it is known here, until something is done with one of the two
//! descriptors, or with others who could look ([`before`]).
//!
//! Nothing here is a wall: the sentry makes each call as if it had come by itself.

use crate::direct;
use crate::host::{self, number};
use crate::layout::deferred::{GRANTED, LIMIT};
use crate::layout::marshal::{AREA, BYTES, DEFERRED, HEADER};
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU64, AtomicU8, Ordering};

const DESCRIPTORS: usize = 1024;

/// One more than the epoll that is known; 0: none. One per address space, as only a single thread uses it.
#[link_section = ".data"]
static EPOLL: AtomicU64 = AtomicU64::new(0);
/// What is known of each descriptor: one of the following.
#[link_section = ".data"]
static KNOWN: [AtomicU8; DESCRIPTORS] = [const { AtomicU8::new(UNKNOWN) }; DESCRIPTORS];
const UNKNOWN: u8 = 0;
const LISTED: u8 = 1;
/// Open, can be listed, and is not.
const NOT_LISTED: u8 = 2;

const EPOLLEXCLUSIVE: u32 = 1 << 28;
const F_DUPFD: u64 = 0;
const F_DUPFD_CLOEXEC: u64 = 1030;

/// What epoll_ctl(2) does.
#[derive(Clone, Copy, PartialEq)]
#[repr(u64)]
pub enum Operation {
    Add = 1,
    Delete = 2,
    Modify = 3,
}

impl Operation {
    pub fn of(argument: u64) -> Option<Operation> {
        match argument as u32 {
            1 => Some(Operation::Add),
            2 => Some(Operation::Delete),
            3 => Some(Operation::Modify),
            _ => None,
        }
    }

    /// What is known of a descriptor behind it.
    fn leaves(self) -> u8 {
        match self {
            Operation::Delete => NOT_LISTED,
            Operation::Add | Operation::Modify => LISTED,
        }
    }
}

/// The words of a `struct epoll_event`.
pub fn event_at(address: u64) -> Option<[u32; 3]> {
    let mut words = [0; 3];
    host::copy(&raw mut words as u64, address, 12).then_some(words)
}

/// Calls that wait, oldest first: the words of their records.
#[repr(C)]
pub struct Queue {
    count: u64,
    calls: [[u64; 3]; LIMIT],
}

impl Queue {
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

/// What a record takes up in the channel.
const RECORD: usize = HEADER + 24;

fn is_known(epoll: u64) -> bool {
    EPOLL.load(Ordering::Relaxed) == (epoll & 0xffff_ffff) + 1
}

fn known(descriptor: u64) -> Option<&'static AtomicU8> {
    KNOWN.get((descriptor & 0xffff_ffff) as usize)
}

fn forget_all() {
    EPOLL.store(0, Ordering::Relaxed);
}

fn forget(descriptor: u64) {
    if is_known(descriptor) {
        forget_all();
    } else if let Some(known) = known(descriptor) {
        known.store(UNKNOWN, Ordering::Relaxed);
    }
}

/// Puts the call off, if it is one of these and its result is known.
#[inline]
pub fn try_defer(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    if call_number != number::EPOLL_CTL {
        return None;
    }
    let [epoll, operation, descriptor, event, ..] = *arguments;
    if !is_known(epoll) || thread.deferred.count >= LIMIT as u64 || direct::is_off(thread) {
        return None;
    }
    let operation = Operation::of(operation)?;
    let state = known(descriptor)?;
    let from = if operation == Operation::Add { NOT_LISTED } else { LISTED };
    if state.load(Ordering::Relaxed) != from {
        return None;
    }
    let words = if operation == Operation::Delete { [0; 3] } else { event_at(event)? };
    if words[0] & EPOLLEXCLUSIVE != 0 {
        return None;
    }
    let [events, low, high] = words.map(u64::from);
    let call = [epoll & 0xffff_ffff | (operation as u64) << 32, descriptor & 0xffff_ffff | events << 32, low | high << 32];
    thread.deferred.calls[thread.deferred.count as usize] = call;
    thread.deferred.count += 1;
    state.store(operation.leaves(), Ordering::Relaxed);
    Some(0)
}

/// What was known has been changed elsewhere (`events.rs`).
pub fn changed(epoll: u64, descriptor: u64, operation: Operation) {
    if let Some(known) = known(descriptor).filter(|_| is_known(epoll)) {
        known.store(operation.leaves(), Ordering::Relaxed);
    }
}

/// Forgets what does not hold any more behind a call that is handed over now.
#[inline]
pub fn before(call_number: u64, arguments: &[u64; 6]) {
    if EPOLL.load(Ordering::Relaxed) == 0 {
        return;
    }
    let [first, second, ..] = *arguments;
    match call_number {
        number::CLOSE => forget(first),
        number::DUP | number::DUP2 | number::DUP3 => {
            if is_known(first) {
                forget_all();
            }
            if call_number != number::DUP {
                forget(second);
            }
        }
        number::FCNTL if is_known(first) && matches!(second & 0xffff_ffff, F_DUPFD | F_DUPFD_CLOEXEC) => forget_all(),
        // Others who would see the epoll or the descriptors, or who have a say in what calls are made.
        number::CLONE
        | number::FORK
        | number::VFORK
        | number::CLONE3
        | number::EXECVE
        | number::EXECVEAT
        | number::CLOSE_RANGE
        | number::UNSHARE
        | number::SENDMSG
        | number::SENDMMSG
        | number::PRCTL
        | number::SECCOMP => forget_all(),
        _ => {}
    }
}

/// Puts the waiting calls into the channel, behind `used` bytes of its area; returns how many are used then.
#[inline]
pub fn append(thread: &mut ThreadBlock, used: u32) -> u32 {
    if thread.deferred.count == 0 {
        return used;
    }
    append_all(thread, used as usize) as u32
}

fn append_all(thread: &mut ThreadBlock, used: usize) -> usize {
    let count = (thread.deferred.count as usize).min(LIMIT);
    // What would be left out is made before anything else; what travels with a call is a short cut only.
    let mut at = if used + count * RECORD <= AREA { used } else { 0 };
    // SAFETY: the channel is mapped as long as the thread lives; only an address is made.
    let area = unsafe { &raw mut (*thread.channel()).area as u64 };
    for call in &thread.deferred.calls[..count] {
        let record = [u64::MAX, 24 | BYTES | DEFERRED, call[0], call[1], call[2]];
        // SAFETY: within the area, and aligned.
        unsafe { core::ptr::write_volatile((area + at as u64) as *mut [u64; 5], record) };
        at += RECORD;
    }
    thread.deferred.count = 0;
    at
}

/// Takes note of a call's result, and of what the sentry says with it.
#[inline]
pub fn after(thread: &ThreadBlock, call_number: u64, arguments: &[u64; 6], value: i64, said: u64) {
    if call_number != number::EPOLL_CTL || value != 0 || said != GRANTED || direct::is_off(thread) {
        return;
    }
    let [epoll, operation, descriptor, ..] = *arguments;
    if !is_known(epoll) {
        for known in &KNOWN {
            known.store(UNKNOWN, Ordering::Relaxed);
        }
        EPOLL.store((epoll & 0xffff_ffff) + 1, Ordering::Relaxed);
    }
    if let Some((known, operation)) = known(descriptor).zip(Operation::of(operation)) {
        known.store(operation.leaves(), Ordering::Relaxed);
    }
}
