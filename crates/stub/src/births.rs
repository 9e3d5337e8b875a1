//! Threads that begin and end here, without the sentry's being asked.
//!
//! The sentry offers a parked thread (`park.rs`) to the one that has made it before, with ids for those that it becomes one after the
//! other. Who is made so has its maker's identity, mask and limits, and one of these ids, in its channel, and so answers for itself what
//! any thread does. Its first request, or anybody's whom threads concern, is when the sentry learns of it; one that ends
//! before that was never heard of. The word of the offer decides which ([`birth`]): the sentry takes an offer back by changing it, too.
//!
//! Nothing here is a wall: whom the sentry then finds is a thread of this process that it has offered itself.

use crate::context::Context;
use crate::deferred;
use crate::direct;
use crate::expected;
use crate::handoff::ticks;
use crate::heap;
use crate::host::{self, number};
use crate::layout::{birth, Birth, ChannelLayout, CloneOrder, Limits, Local, CHANNEL_OFFSET, SLOTS_BASE, SLOT_SIZE};
use crate::local;
use crate::park;
use crate::thread::{self, ThreadBlock};
use crate::tracing;
use core::mem::size_of;
use core::sync::atomic::{AtomicU32, Ordering};

/// Slots, plus one, of parked threads that were offered; there may be none any more.
#[link_section = ".data"]
static PLACES: [AtomicU32; birth::MOST] = [const { AtomicU32::new(0) }; birth::MOST];

const CLONE_PARENT_SETTID: u64 = 0x10_0000;
const CLONE_CHILD_CLEARTID: u64 = 0x20_0000;
/// CLONE_DETACHED, which nobody looks at.
const IGNORED: u64 = 0x40_0000;
/// CLONE_VM, CLONE_FS, CLONE_FILES, CLONE_SIGHAND, CLONE_THREAD, CLONE_SYSVSEM, CLONE_SETTLS.
const THREAD: u64 = 0xd_0f00;

/// `struct clone_args` in words (clone3(2)), up to what it had at first.
const FIRST_SIZE: u64 = 64;
const WORDS: u64 = 11;
const ADDRESS_END: u64 = 0x7fff_ffff_f000;

/// Whether a thread may begin here. False: surely not.
#[inline(always)]
pub fn are_offered() -> bool {
    PLACES[0].load(Ordering::Relaxed) != 0
}

/// The child of a fork(2), which has none of its maker's threads.
#[link_section = ".calls"]
pub fn forked() {
    if are_offered() {
        PLACES.iter().for_each(|place| place.store(0, Ordering::Relaxed));
    }
}

fn slot_of(thread: &ThreadBlock) -> u64 {
    (thread.address - SLOTS_BASE) / SLOT_SIZE
}

/// By the slot alone: where the one that was offered has ended, its block may just be made anew; the channel is always mapped.
fn birth_of(slot: u64) -> *mut Birth {
    let channel = (SLOTS_BASE + slot * SLOT_SIZE + CHANNEL_OFFSET) as *mut ChannelLayout;
    // SAFETY: within the channel; this makes no access.
    unsafe { &raw mut (*channel).birth }
}

fn word_of(birth: *mut Birth) -> &'static AtomicU32 {
    // SAFETY: within a channel, which stays mapped, aligned, and accessed atomically only.
    unsafe { AtomicU32::from_ptr(&raw mut (*birth).word) }
}

/// Serves a clone(2) or clone3(2) that makes a thread as pthread_create(3) does, if one is offered. False: it is to be asked for.
#[inline(always)]
pub fn try_begin(thread: &mut ThreadBlock, context: &mut Context) -> bool {
    are_offered() && matches!(context.rax, number::CLONE | number::CLONE3) && begin(thread, context)
}

#[inline(never)]
fn begin(thread: &mut ThreadBlock, context: &mut Context) -> bool {
    // What is lent or put off for a process of one thread ends with a request. Nobody is to see what its calls are.
    let may = thread.has_loan == 0
        && thread.deferred.is_empty()
        && !heap::has_moved(thread)
        && thread.kicked == 0
        && thread.gs_taken == 0
        && thread.parking.is_unasked == 0
        && !tracing::is_traced(thread)
        && !direct::is_off(thread);
    if !may {
        return false;
    }
    let Some(wanted) = wanted(context) else { return false };
    let own_slot = slot_of(thread);
    for place in &PLACES {
        let Some(slot) = place.load(Ordering::Acquire).checked_sub(1) else { return false };
        let birth = birth_of(slot.into());
        let word = word_of(birth);
        let before = word.load(Ordering::Acquire);
        // SAFETY: within a channel.
        let is_ours = u64::from(unsafe { core::ptr::read_volatile(&raw const (*birth).maker) }) == own_slot;
        let index = (before >> birth::COUNT) as usize;
        if before & birth::STATE != birth::OFFERED || !is_ours || index >= birth::MOST_IDS {
            continue;
        }
        let filling = before - birth::OFFERED + birth::FILLING;
        if word.compare_exchange(before, filling, Ordering::AcqRel, Ordering::Relaxed).is_err() {
            continue;
        }
        // SAFETY: as above.
        let id = unsafe { core::ptr::read_volatile(&raw const (*birth).ids[index]) };
        let child = thread::at(thread::block_address(slot.into()));
        let is_filled = inherit(thread, child, id, wanted.clear_child_tid);
        // SAFETY: as above.
        unsafe { core::ptr::write_volatile(&raw mut (*birth).born, ticks()) };
        let after = if is_filled { filling - birth::FILLING + birth::BEGUN } else { before };
        let is_changed = word.compare_exchange(filling, after, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        if !is_filled || !is_changed {
            return false;
        }
        if wanted.set_parent_tid != 0 {
            // As on Linux, a bad address is passed over in silence.
            host::copy(wanted.set_parent_tid, &raw const id as u64, 4);
        }
        expected::forget(thread);
        deferred::before(context.rax, &[0; 6]);
        park::start(context, &CloneOrder { slot: slot.into(), child_tid: id.into(), ..wanted });
        context.rax = id.into();
        return true;
    }
    false
}

/// What the call asks for, if that is a thread as any other: `None` for the sentry, which also knows the errors.
#[inline(never)]
fn wanted(context: &Context) -> Option<CloneOrder> {
    let [flags, parent_tid, child_tid, stack, tls] = if context.rax == number::CLONE3 {
        let (address, size) = (context.rdi, context.rsi);
        if !(FIRST_SIZE..=WORDS * 8).contains(&size) || size % 8 != 0 {
            return None;
        }
        let mut words = [0u64; WORDS as usize];
        for (word, offset) in words.iter_mut().zip((0..size).step_by(8)) {
            *word = host::load(address.checked_add(offset)?)?;
        }
        let [flags, _pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup] = words;
        let top = stack.checked_add(stack_size).filter(|top| *top <= ADDRESS_END)?;
        if stack == 0 || stack_size == 0 || (exit_signal | set_tid | set_tid_size | cgroup) != 0 {
            return None;
        }
        [flags, parent_tid, child_tid, top, tls]
    } else {
        [context.rdi & 0xffff_ffff, context.rdx, context.r10, context.rsi, context.r8]
    };
    let detached = if context.rax == number::CLONE { IGNORED } else { 0 };
    let known = CLONE_PARENT_SETTID | CLONE_CHILD_CLEARTID | detached;
    if flags & !known != THREAD || stack == 0 || tls == 0 {
        return None;
    }
    let only = |flag: u64, value: u64| if flags & flag != 0 { value } else { 0 };
    Some(CloneOrder {
        stack,
        tls,
        clear_child_tid: only(CLONE_CHILD_CLEARTID, child_tid),
        set_parent_tid: only(CLONE_PARENT_SETTID, parent_tid),
        parked: 1,
        unasked: 1,
        ..CloneOrder::default()
    })
}

/// Lays down in the child's channel what its maker has in its own. False: the sentry is to be asked.
#[inline(never)]
fn inherit(thread: &ThreadBlock, child: &ThreadBlock, id: u32, clear_child_tid: u64) -> bool {
    let (own, its) = (thread.channel(), child.channel());
    // SAFETY: both are channels. Nobody else writes to the child's as long as the offer's word is what it is; what the sentry
    // writes to this thread's meanwhile it does behind taking the offer back.
    unsafe {
        let (local, child_local) = (&raw mut (*own).local, &raw mut (*its).local);
        if core::ptr::read_volatile(&raw const (*local).enabled) == 0
            || core::ptr::read_volatile(&raw const (*local).reset) != 0
        {
            return false;
        }
        // From now on others can have their part in these.
        core::ptr::write_volatile(&raw mut (*local).may_reset, 0);
        core::ptr::write_volatile(&raw mut (*local).heap_end, 0);
        let (limits, child_limits) = (&raw const (*own).limits, &raw mut (*its).limits);
        let are_copied = host::copy(child_local as u64, local as u64, size_of::<Local>() as u64)
            && host::copy(child_limits as u64, limits as u64, size_of::<Limits>() as u64);
        core::ptr::write_volatile(&raw mut (*child_local).identity.tid, id);
        core::ptr::write_volatile(&raw mut (*child_local).robust_list, 0);
        core::ptr::write_volatile(&raw mut (*child_local).clear_child_tid, clear_child_tid);
        are_copied
    }
}

/// Ends a thread that nobody has heard of, if it still is one.
#[inline(never)]
pub fn end(thread: &mut ThreadBlock) {
    local::forget_empty_robust_list(thread);
    let word = word_of(birth_of(slot_of(thread)));
    let before = word.load(Ordering::Acquire);
    if before & birth::STATE != birth::BEGUN
        || local::has_robust_list(thread)
        || !thread.deferred.is_empty()
        || thread.kicked != 0
    {
        return;
    }
    let after = before - birth::BEGUN + birth::ENDED + (1 << birth::COUNT);
    if word.compare_exchange(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
        thread.parking.is_unasked = 0;
        park::park(thread);
    }
}

/// The thread is parked: from now on it may be used, if it is offered and there is an id left.
#[inline(never)]
pub fn parked(thread: &ThreadBlock) {
    let word = word_of(birth_of(slot_of(thread)));
    let before = word.load(Ordering::Acquire);
    if before & birth::STATE != birth::ENDED || (before >> birth::COUNT) as usize >= birth::MOST_IDS {
        return;
    }
    let offered = before - birth::ENDED + birth::OFFERED;
    if word.compare_exchange(before, offered, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        return;
    }
    let entry = slot_of(thread) as u32 + 1;
    if PLACES.iter().any(|place| place.load(Ordering::Relaxed) == entry) {
        return;
    }
    for place in &PLACES {
        let known = place.load(Ordering::Relaxed);
        let is_free = known == 0 || {
            let other = birth_of(u64::from(known) - 1);
            word_of(other).load(Ordering::Relaxed) & birth::STATE == birth::NONE
        };
        if is_free && place.compare_exchange(known, entry, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            return;
        }
    }
}
