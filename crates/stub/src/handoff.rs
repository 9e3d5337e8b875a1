//! Handing a request over to the sentry, and waiting for the answer.
//!
//! The request goes into the channel's line first. If the sentry says that it watches this channel from another CPU, the
//! answer comes there some hundred nanoseconds later, and nobody has entered the host's kernel. Otherwise, or when none
//! has come within some tens of microseconds, the thread rings for the same request: the host switches to the sentry on
//! this CPU, and the thread sleeps until it is answered. The sentry serves a request once, whatever way it hears of it; the
//! answer to a ring is never overwritten, that to a request which is rung for after all may be, and is put there again.

use crate::call;
use crate::host::{self, number};
use crate::infancy;
use crate::layout::{self, action, line_state, operation, Phase, Reply, SPIN_TICKS};
use crate::thread::{way, ThreadBlock};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Looks at the answer between two looks at whether there is still somebody who gives it.
const LOOKS: u32 = 16;

const EINTR: i64 = -4;

/// Publishes the thread's request and returns when its answer lies in the channel. Ends the process when nobody answers
/// any more.
#[link_section = ".calls"]
pub fn hand_over(thread: &mut ThreadBlock) {
    match thread.way {
        way::RING => {}
        way::FORK => return infancy::fork(thread),
        _ => return infancy::present(thread),
    }
    let watched = is_watched_from_elsewhere(thread);
    thread.request.rings = !watched;
    publish(thread);
    if watched {
        if spin(thread) && reply(thread).action != action::RING {
            return;
        }
        thread.request.rings = true;
        publish(thread);
    }
    loop {
        thread.injected = ring();
        let answer = reply(thread);
        // An answer from when it was not clear yet that we ring has taken the request's place. Or the sentry was stopped while it
        // waited for us to take a descriptor, and the host has let us go on without: it answers once more.
        let without = thread.injected == 0 && came_without(thread, &answer);
        if answer.action != action::RING && !without {
            return;
        }
        publish(thread);
    }
}

/// Whether the answer's operations are about a descriptor that the ring should have brought: it has returned 0, which nothing that stays
/// has for a number. What has come before it is closed then, as it comes once more, too.
fn came_without(thread: &ThreadBlock, answer: &Reply) -> bool {
    let count = (answer.operations as usize).min(layout::MAXIMUM_OPERATIONS);
    // SAFETY: within the channel.
    let operations =
        (0..count).map(|index| unsafe { core::ptr::read_volatile(&raw const (*thread.channel()).operations[index]) });
    if answer.action != action::NATIVE || !operations.clone().any(|one| one.kind & operation::INJECTED != 0) {
        return false;
    }
    let others = operations.filter(|one| one.kind == operation::ALWAYS);
    if host::is_open(0) && !others.clone().any(|one| one.arguments[0] == 0) {
        return false;
    }
    for one in others {
        host::call_array(one.number, &one.arguments);
    }
    true
}

/// A copy of the reply.
#[inline(always)]
pub fn reply(thread: &ThreadBlock) -> Reply {
    // SAFETY: within the channel, which is mapped as long as the thread lives.
    Reply::from_words(unsafe { core::ptr::read_volatile((&raw const (*thread.channel()).line.words).cast::<[u64; 4]>()) })
}

/// Changes the reply, which is in the thread's own memory.
pub fn amend(thread: &ThreadBlock, change: impl FnOnce(&mut Reply)) {
    let mut answer = reply(thread);
    change(&mut answer);
    // SAFETY: as above; the sentry reads nothing back from there.
    unsafe {
        core::ptr::write_volatile((&raw mut (*thread.channel()).line.words).cast::<[u64; 4]>(), answer.to_words());
    }
}

fn state(thread: &ThreadBlock) -> &AtomicU64 {
    // SAFETY: within the channel, aligned, and accessed atomically only.
    unsafe { AtomicU64::from_ptr(&raw mut (*thread.channel()).line.state) }
}

fn watch(thread: &ThreadBlock) -> &AtomicU32 {
    // SAFETY: as above.
    unsafe { AtomicU32::from_ptr(&raw mut (*thread.channel()).watch.cpu) }
}

#[inline(always)]
pub fn publish(thread: &ThreadBlock) {
    let channel = thread.channel();
    // SAFETY: within the channel; the sentry does not read there before the state says so, and may read anything.
    unsafe {
        core::ptr::write_volatile(&raw mut (*channel).detail, thread.request.detail);
        core::ptr::write_volatile(&raw mut (*channel).line.words, thread.request.to_words());
    }
    state(thread).store(line_state(thread.request.sequence, Phase::Request), Ordering::Release);
}

/// A watcher on our own CPU can answer only when we have left it.
#[inline(always)]
fn is_watched_from_elsewhere(thread: &ThreadBlock) -> bool {
    match watch(thread).load(Ordering::Relaxed) {
        0 => false,
        cpu => cpu != current_cpu() + 1,
    }
}

/// Waits for the answer for a while; false where none has come.
#[inline(always)]
fn spin(thread: &ThreadBlock) -> bool {
    let answered = line_state(thread.request.sequence, Phase::Reply);
    let start = ticks();
    loop {
        for _ in 0..LOOKS {
            if state(thread).load(Ordering::Acquire) == answered {
                return true;
            }
            core::hint::spin_loop();
        }
        if !is_watched_from_elsewhere(thread) || ticks().wrapping_sub(start) > SPIN_TICKS {
            return false;
        }
    }
}

/// Returns what the ring does.
fn ring() -> u64 {
    loop {
        match call!(number::GETPPID, layout::DOORBELL_MAGIC, layout::DOORBELL_REQUEST, u64::from(current_cpu()) + 1) {
            // A host signal that does not restart calls: the same request rings again.
            EINTR => {}
            error if error < 0 => host::exit(1),
            number => return number as u64,
        }
    }
}

/// The processor's clock. Not ordered with what is around it.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The CPU that runs us, as Linux keeps it in the limit of a segment for user space (and the vDSO reads it).
#[inline(always)]
pub fn current_cpu() -> u32 {
    const CPU_SEGMENT: u32 = 0x7b;
    const CPU_BITS: u32 = 0xfff;
    let limit: u32;
    // SAFETY: reads a descriptor; where there is none, the result stays 0.
    unsafe {
        core::arch::asm!("lsl {limit:e}, {segment:e}", segment = in(reg) CPU_SEGMENT, limit = inout(reg) 0u32 => limit,
            options(nomem, nostack))
    };
    limit & CPU_BITS
}
