//! Answers to epoll_wait(2) from what the process sees by itself (ADR 53), and epoll_ctl(2) of that (ADR 59).
//!
//! The sentry lays down in the channel which interests of a list are pipes and connections that this process shares (`pipes.rs`). As
//! long as that stands, nothing else in the list is ready: so what of these is ready is the answer, and nothing where nothing is
//! waited for. Whoever else has to do with the list, or with anything in it, takes the loan back before, by clearing a word.
//!
//! Edges (EPOLLET) are in the rings' words: who has written sets a bit, and who tells of that takes it away, in one step with the look
//! that says what is ready. He does so when nothing can fail any more: then the call was made at that time.
//!
//! Who finds nothing looks for a while, where others work on other CPUs, lets those on its own go on, and then waits in the sentry, as
//! ever.
//!
//! What is waited for in what is lent is changed where it lies there, by one exchange of that word: the sentry makes up for it when the
//! loan ends. Results are given where they are known to be 0; errors are the sentry's.
//!
//! Nothing here is a wall: a program that writes other things there tells itself of them, and what the sentry makes up for it
//! could have asked for.

use crate::deferred::{self, Operation};
use crate::direct;
use crate::handoff::current_cpu;
use crate::host::{self, number, HIGHEST};
use crate::layout::events::{self, EDGES, LAST, LAST_MASK, MOST, NOT_LISTED, SIDES, VALID};
use crate::layout::{Events, Interest};
use crate::pipes::{self, Edge};
use crate::registers::Registers;
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const READABLE: u32 = 0x41;
const WRITABLE: u32 = 0x104;
/// EPOLLERR and EPOLLHUP are always told.
const ALWAYS: u32 = 0x18;
/// What is waited for in ways of its own: the bits above the events.
const PRIVATE: u32 = 0xf000_0000;

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
    let lent = Lent::to(thread);
    let most = most as i32;
    if !lent.answers(thread, epoll) || registers.rax == number::EPOLL_PWAIT && mask != 0 || most <= 0 || address > HIGHEST {
        return None;
    }
    let mut told = [[0; 3]; MOST];
    let mut found = lent.find(thread.next_event, most as usize, &mut told)?;
    if found.count == 0 && timeout as i32 != 0 {
        let is_there = || !lent.stands() || lent.is_any_ready();
        let has_come = found.works_elsewhere && pipes::spin(&mut thread.event_patience, is_there)
            || pipes::give_way(&mut thread.event_way, is_there);
        if !has_come {
            return None;
        }
        found = lent.find(thread.next_event, most as usize, &mut told)?;
        if found.count == 0 {
            return None;
        }
    }
    // What was seen holds if nobody has taken it back before.
    let tell = |told: &[Told; MOST], count| host::copy(address, told as *const _ as u64, (count * size_of::<Told>()) as u64);
    if !lent.stands() || !tell(&told, found.count) {
        return None;
    }
    if found.has_edges && lent.take_edges(&mut found, &mut told) && (found.count == 0 || !tell(&told, found.count)) {
        return None;
    }
    lent.count(found.mask);
    thread.next_event = found.next;
    Some(found.count as i64)
}

/// The result of a call that changes what is lent.
#[inline(always)]
pub fn try_change(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    if call_number != number::EPOLL_CTL {
        return None;
    }
    change(thread, arguments)
}

#[inline(never)]
fn change(thread: &mut ThreadBlock, arguments: &[u64; 6]) -> Option<i64> {
    let [epoll, operation, descriptor, event, ..] = *arguments;
    let lent = Lent::to(thread);
    let before = lent.word();
    if !lent.answers(thread, epoll) || lent.may_not_change() {
        return None;
    }
    let operation = Operation::of(operation)?;
    let index = lent.find_descriptor(before, descriptor as u32)?;
    let sides = events::sides(before, lent.other_sides());
    let interest = lent.on_side(index, (sides >> index) as usize);
    let is_listed = interest.events != NOT_LISTED;
    // As long as the ring is lent the descriptor is what it was.
    if is_listed == (operation == Operation::Add) || interest.events & PRIVATE != 0 || !pipes::is_lent(descriptor & 0xffff_ffff)
    {
        return None;
    }
    let mut now = Interest { events: NOT_LISTED, ..interest };
    if operation != Operation::Delete {
        let wanted = deferred::event_at(event)?;
        if wanted[0] & PRIVATE != 0 {
            return None;
        }
        (now.events, now.data) = (wanted[0] | ALWAYS, u64::from(wanted[1]) | u64::from(wanted[2]) << 32);
    }
    if !lent.publish(before, sides, index, now) {
        return None;
    }
    deferred::changed(epoll, descriptor, operation);
    Some(0)
}

/// `struct epoll_event`.
type Told = [u32; 3];

struct Found {
    count: usize,
    /// Which they are; by bits, and by where each is told of.
    mask: u64,
    indices: [u8; MOST],
    has_edges: bool,
    /// Where they lie.
    sides: u64,
    /// Where to begin the next time, so that all have their turn.
    next: u64,
    /// Somebody who can make something ready was on another CPU last.
    works_elsewhere: bool,
}

struct Lent {
    events: *mut Events,
}

impl Lent {
    /// What is lent to the thread. Its words are accessed atomically. What else the sentry writes it writes before it says that it stands.
    fn to(thread: &ThreadBlock) -> Lent {
        // SAFETY: within the channel, which is mapped as long as the thread lives; only an address is made.
        Lent { events: unsafe { &raw mut (*thread.channel()).events } }
    }

    /// It stands, is of this list, and calls may be answered from it.
    fn answers(&self, thread: &ThreadBlock, epoll: u64) -> bool {
        // SAFETY: within the channel; accessed atomically.
        let answers = unsafe { AtomicU32::from_ptr(&raw mut (*thread.channel()).local.enabled) };
        self.stands()
            && self.epoll() == epoll as u32
            && answers.load(Ordering::Acquire) != 0
            && thread.gs_taken == 0
            && thread.deferred.is_empty()
            && !direct::is_off(thread)
    }

    fn atomic_word(&self) -> &AtomicU64 {
        // SAFETY: see `to`.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.events).word) }
    }

    fn word(&self) -> u64 {
        self.atomic_word().load(Ordering::Acquire)
    }

    fn stands(&self) -> bool {
        self.word() & VALID != 0
    }

    fn epoll(&self) -> u32 {
        // SAFETY: see `to`.
        unsafe { core::ptr::read_volatile(&raw const (*self.events).epoll) }
    }

    fn may_not_change(&self) -> bool {
        // SAFETY: see `to`.
        unsafe { core::ptr::read_volatile(&raw const (*self.events).may_change) == 0 }
    }

    fn other_sides(&self) -> u64 {
        // SAFETY: see `to`.
        unsafe { core::ptr::read_volatile(&raw const (*self.events).sides) }
    }

    fn on_side(&self, index: usize, side: usize) -> Interest {
        // SAFETY: see `to`; within both arrays.
        unsafe { core::ptr::read_volatile(&raw const (*self.events).interests[side % SIDES][index % MOST]) }
    }

    fn len(&self) -> usize {
        // SAFETY: see `to`.
        (unsafe { core::ptr::read_volatile(&raw const (*self.events).count) } as usize).min(MOST)
    }

    /// Where this descriptor's interest is. One is changed several times in a row, most often.
    fn find_descriptor(&self, word: u64, descriptor: u32) -> Option<usize> {
        let first = ((word & LAST_MASK) >> LAST) as usize;
        let places = (first..self.len()).chain(0..first.min(self.len()));
        // Both sides are of the same one, once the second has been written.
        places.into_iter().find(|&index| self.on_side(index, 0).descriptor == descriptor)
    }

    /// Puts `now` in the place of the interest at `index`. False: nothing of it is lent any more, or has been when `before` was.
    fn publish(&self, before: u64, sides: u64, index: usize, now: Interest) -> bool {
        let side = 1 - (sides >> index & 1) as usize;
        // SAFETY: see `to`; within both arrays. Only this thread writes these.
        unsafe {
            core::ptr::write_volatile(&raw mut (*self.events).interests[side][index % MOST], now);
            core::ptr::write_volatile(&raw mut (*self.events).sides, sides);
            let changed = &raw mut (*self.events).changed;
            core::ptr::write_volatile(changed, core::ptr::read_volatile(changed) | 1 << index);
        }
        let after = events::word_after(before, index, side);
        self.atomic_word().compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Fills `told` with those that are ready, from `first` on, up to `most`. `None`: that cannot be seen here any more.
    fn find(&self, first: u64, most: usize, told: &mut [Told; MOST]) -> Option<Found> {
        let (indices, has_edges) = ([0; MOST], false);
        let sides = events::sides(self.word(), self.other_sides());
        let mut found = Found { count: 0, mask: 0, indices, has_edges, sides, next: first, works_elsewhere: false };
        let here = current_cpu() + 1;
        let mut index = if first < self.len() as u64 { first as usize } else { 0 };
        for _ in 0..self.len() {
            let interest = self.on_side(index, (sides >> index) as usize);
            let seen = see(&interest)?;
            let this = index;
            index = if index + 1 < self.len() { index + 1 } else { 0 };
            found.works_elsewhere |= seen.other_cpu != here;
            if seen.ready == 0 {
                continue;
            }
            told[found.count] = [seen.ready, interest.data as u32, (interest.data >> 32) as u32];
            found.indices[found.count] = this as u8;
            found.has_edges |= interest.events & EDGES != 0;
            found.count += 1;
            found.mask |= 1 << this;
            found.next = index as u64;
            if found.count == most.min(MOST) {
                break;
            }
        }
        Some(found)
    }

    /// Takes the edges that are told of, and leaves out those that somebody else has taken back. True: `told` has changed.
    fn take_edges(&self, found: &mut Found, told: &mut [Told; MOST]) -> bool {
        let (mut kept, mut has_changed) = (0, false);
        for index in 0..found.count.min(MOST) {
            let (which, [before, low, high]) = (found.indices[index], told[index]);
            let interest = self.on_side(which.into(), (found.sides >> which) as usize);
            let ready = if interest.events & EDGES != 0 { take_edge(&interest) } else { before };
            has_changed |= ready != before;
            if ready == 0 {
                found.mask &= !(1 << which);
                continue;
            }
            told[kept] = [ready, low, high];
            kept += 1;
        }
        found.count = kept;
        has_changed
    }

    /// Or cannot be seen any more.
    fn is_any_ready(&self) -> bool {
        let sides = events::sides(self.word(), self.other_sides());
        let see = |index| see(&self.on_side(index, (sides >> index) as usize));
        (0..self.len()).any(|index| see(index).is_none_or(|seen| seen.ready != 0))
    }

    /// The sentry is to know that these were told of.
    fn count(&self, mask: u64) {
        // SAFETY: see `to`; only this thread changes it.
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

/// Others change the word meanwhile.
const ATTEMPTS: u32 = 64;

/// What it is told with; 0: with nothing, now.
fn take_edge(interest: &Interest) -> u32 {
    for _ in 0..ATTEMPTS {
        let Some(edge) = pipes::look_for_edge(interest.descriptor.into()) else { return 0 };
        let ready = see_edge(interest, &edge).map_or(0, |seen| seen.ready);
        if ready == 0 || edge.take() {
            return ready;
        }
    }
    0
}

/// With bytes that have come all is told that it is ready for.
fn see_edge(interest: &Interest, edge: &Edge) -> Option<Seen> {
    let mut all = Seen { ready: 0, other_cpu: edge.seen.other_cpu };
    if edge.is_there() {
        all.ready = if edge.seen.is_ready { interest.events & READABLE } else { 0 };
        let wanted = interest.events & WRITABLE;
        if wanted != 0 && pipes::look(interest.descriptor.into(), true)?.is_ready {
            all.ready |= wanted;
        }
    }
    Some(all)
}

fn see(interest: &Interest) -> Option<Seen> {
    if interest.events & EDGES != 0 {
        return see_edge(interest, &pipes::look_for_edge(interest.descriptor.into())?);
    }
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
