//! Answers to epoll_wait(2) from what the process sees by itself (ADR 53).
//!
//! The sentry lays down in the channel which interests of a list are pipes and connections that this process shares (`pipes.rs`). As
//! long as that stands, nothing else in the list is ready: so what of these is ready is the answer, and nothing where nothing is
//! waited for. Whoever else has to do with the list, or with anything in it, takes the loan back before, by clearing a word.
//!
//! Who finds nothing looks for a while, where others work on other CPUs, and then waits in the sentry, as ever.
//!
//! Nothing here is a wall: a program that writes other things there tells itself of them.

use crate::direct;
use crate::handoff::current_cpu;
use crate::host::{self, number, HIGHEST};
use crate::layout::events::{MOST, VALID};
use crate::layout::{Events, Interest};
use crate::pipes;
use crate::registers::Registers;
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const READABLE: u32 = 0x41;
const WRITABLE: u32 = 0x104;

/// The result of a call that waits for what is lent.
#[inline(always)]
pub fn try_wait(thread: &mut ThreadBlock, registers: &Registers) -> Option<i64> {
    if !matches!(registers.rax, number::EPOLL_WAIT | number::EPOLL_PWAIT) {
        return None;
    }
    wait(thread, registers)
}

#[inline(never)]
fn wait(thread: &mut ThreadBlock, registers: &Registers) -> Option<i64> {
    let [epoll, address, most, timeout, mask, _] = registers.arguments();
    let channel = thread.channel();
    // SAFETY: within the channel, which is mapped as long as the thread lives; the first two are accessed atomically, and what is
    // beside them only the sentry writes, before it says that it stands.
    let (answers, lent) =
        unsafe { (AtomicU32::from_ptr(&raw mut (*channel).local.enabled), Lent { events: &raw mut (*channel).events }) };
    let most = most as i32;
    if !lent.stands()
        || lent.epoll() != epoll as u32
        || answers.load(Ordering::Acquire) == 0
        || thread.gs_taken != 0
        || !thread.deferred.is_empty()
        || direct::is_off(thread)
        || registers.rax == number::EPOLL_PWAIT && mask != 0
        || most <= 0
        || address > HIGHEST
    {
        return None;
    }
    let mut told = [[0; 3]; MOST];
    let mut found = lent.find(thread.next_event, most as usize, &mut told)?;
    if found.count == 0 && timeout as i32 != 0 {
        let is_there = || !lent.stands() || lent.is_any_ready();
        if !found.works_elsewhere || !pipes::spin(&mut thread.event_patience, is_there) {
            return None;
        }
        found = lent.find(thread.next_event, most as usize, &mut told)?;
        if found.count == 0 {
            return None;
        }
    }
    // What was seen holds if nobody has taken it back before.
    let length = (found.count * size_of::<Told>()) as u64;
    if !lent.stands() || !host::copy(address, &raw const told as u64, length) {
        return None;
    }
    lent.count(found.mask);
    thread.next_event = found.next;
    Some(found.count as i64)
}

/// `struct epoll_event`.
type Told = [u32; 3];

struct Found {
    count: usize,
    /// Which they are.
    mask: u64,
    /// Where to begin the next time, so that all have their turn.
    next: u64,
    /// Somebody who can make something ready was on another CPU last.
    works_elsewhere: bool,
}

struct Lent {
    events: *mut Events,
}

impl Lent {
    fn stands(&self) -> bool {
        // SAFETY: see `wait`.
        let word = unsafe { AtomicU64::from_ptr(&raw mut (*self.events).word) };
        word.load(Ordering::Acquire) & VALID != 0
    }

    fn epoll(&self) -> u32 {
        // SAFETY: see `wait`.
        unsafe { core::ptr::read_volatile(&raw const (*self.events).epoll) }
    }

    fn interest(&self, index: usize) -> Interest {
        // SAFETY: see `wait`; the index is below `MOST`.
        unsafe { core::ptr::read_volatile(&raw const (*self.events).interests[index % MOST]) }
    }

    fn len(&self) -> usize {
        // SAFETY: see `wait`.
        (unsafe { core::ptr::read_volatile(&raw const (*self.events).count) } as usize).min(MOST)
    }

    /// Fills `told` with those that are ready, from `first` on, up to `most`. `None`: that cannot be seen here any more.
    fn find(&self, first: u64, most: usize, told: &mut [Told; MOST]) -> Option<Found> {
        let mut found = Found { count: 0, mask: 0, next: first, works_elsewhere: false };
        let here = current_cpu() + 1;
        let mut index = if first < self.len() as u64 { first as usize } else { 0 };
        for _ in 0..self.len() {
            let interest = self.interest(index);
            let seen = see(&interest)?;
            let this = index;
            index = if index + 1 < self.len() { index + 1 } else { 0 };
            found.works_elsewhere |= seen.other_cpu != here;
            if seen.ready == 0 {
                continue;
            }
            told[found.count] = [seen.ready, interest.data as u32, (interest.data >> 32) as u32];
            found.count += 1;
            found.mask |= 1 << this;
            found.next = index as u64;
            if found.count == most.min(MOST) {
                break;
            }
        }
        Some(found)
    }

    /// Or cannot be seen any more.
    fn is_any_ready(&self) -> bool {
        (0..self.len()).any(|index| see(&self.interest(index)).is_none_or(|seen| seen.ready != 0))
    }

    /// The sentry is to know that these were told of.
    fn count(&self, mask: u64) {
        // SAFETY: see `wait`; only this thread changes it.
        unsafe {
            let told = &raw mut (*self.events).told;
            core::ptr::write_volatile(told, core::ptr::read_volatile(told) | mask);
        }
    }
}

struct Seen {
    ready: u32,
    /// Where the other end was used last, as far as that matters.
    other_cpu: u32,
}

fn see(interest: &Interest) -> Option<Seen> {
    let mut all = Seen { ready: 0, other_cpu: current_cpu() + 1 };
    for (direction, writes) in [(READABLE, false), (WRITABLE, true)] {
        let wanted = interest.events & direction;
        if wanted != 0 {
            let seen = pipes::look(interest.descriptor.into(), writes)?;
            all.ready |= if seen.is_ready { wanted } else { 0 };
            all.other_cpu = seen.other_cpu;
        }
    }
    Some(all)
}
