//! Calls that are answered here, from what the sentry has laid down in the channel: who the thread is, its signal mask,
//! which signals have the disposition that a process begins with, its limits, where its heap ends; and where its list of
//! robust futexes is, and the word that is cleared when it ends.
//!
//! The mask is the one thing that is changed here. The sentry reads it whenever it looks for a thread that takes a signal,
//! and says first what is pending; here the new mask is written first, and then it is looked at what is pending. So one of
//! both sees that a pending signal is blocked no longer: the sentry kicks the thread, or the thread asks before its call
//! returns.

use crate::heap;
use crate::host::{self, number};
use crate::layout::{Identity, Local, LIMITS};
use crate::registers::Registers;
use crate::thread::{way, ThreadBlock};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const EINVAL: i64 = -22;
const EFAULT: i64 = -14;

const SET_SIZE: u64 = 8;
const SIG_BLOCK: u32 = 0;
const SIG_UNBLOCK: u32 = 1;
const SIG_SETMASK: u32 = 2;
/// SIGKILL and SIGSTOP.
const UNBLOCKABLE: u64 = 1 << 8 | 1 << 18;
const SA_RESTORER: u64 = 0x0400_0000;
const ROBUST_LIST_HEAD_SIZE: u64 = 24;

/// Answers the call if it is one of these. `None`: somebody else does.
#[inline(always)]
pub fn try_local(thread: &mut ThreadBlock, registers: &Registers) -> Option<i64> {
    let local = thread.local();
    // SAFETY: as above, aligned, and accessed atomically only.
    let is_enabled = || unsafe { AtomicU32::from_ptr(&raw mut (*local).enabled) }.load(Ordering::Acquire) != 0;
    let id = |field: *const u32| {
        // SAFETY: within the channel.
        let known = is_enabled().then(|| unsafe { core::ptr::read_volatile(field) });
        known.filter(|id| *id != Identity::UNKNOWN).map(i64::from)
    };
    // SAFETY: as above: fields of the same structure.
    let identity = unsafe { &raw const (*local).identity };
    macro_rules! field {
        ($name:ident) => {
            // SAFETY: as above.
            id(unsafe { &raw const (*identity).$name })
        };
    }
    match registers.rax {
        number::GETPID => field!(pid),
        number::GETTID => field!(tid),
        number::GETPPID => field!(parent),
        number::GETPGRP => field!(group),
        number::GETPGID if registers.rdi as u32 == 0 => field!(group),
        number::GETSID if registers.rdi as u32 == 0 => field!(session),
        number::GETUID => field!(uid),
        number::GETEUID => field!(effective_uid),
        number::GETGID => field!(gid),
        number::GETEGID => field!(effective_gid),
        number::RT_SIGPROCMASK if is_enabled() => Some(change_mask(thread, local, registers)),
        number::RT_SIGACTION if is_enabled() => action(local, registers),
        number::SET_ROBUST_LIST if is_enabled() => Some(set_robust_list(local, registers)),
        number::SET_TID_ADDRESS if is_enabled() => {
            set_tid_address(thread, local, registers.rdi);
            field!(tid)
        }
        number::BRK if is_enabled() => heap::brk(thread, registers.rdi),
        number::GETRLIMIT if is_enabled() => limit(thread, registers.rdi, registers.rsi),
        number::PRLIMIT64 if registers.rdi as u32 == 0 && registers.rdx == 0 && is_enabled() => {
            limit(thread, registers.rsi, registers.r10)
        }
        _ => None,
    }
}

/// rt_sigprocmask(2).
fn change_mask(thread: &mut ThreadBlock, local: *mut Local, registers: &Registers) -> i64 {
    // SAFETY: within the channel, aligned, and accessed atomically only.
    let (mask, pending) =
        unsafe { (AtomicU64::from_ptr(&raw mut (*local).mask), AtomicU64::from_ptr(&raw mut (*local).pending)) };
    if registers.r10 != SET_SIZE {
        return EINVAL;
    }
    let before = mask.load(Ordering::Relaxed);
    if registers.rsi != 0 {
        let Some(set) = host::load(registers.rsi) else { return EFAULT };
        let now = match registers.rdi as u32 {
            SIG_BLOCK => before | set,
            SIG_UNBLOCK => before & !set,
            SIG_SETMASK => set,
            _ => return EINVAL,
        } & !UNBLOCKABLE;
        let unblocked = before & !now;
        if unblocked == 0 {
            // Whoever sees the mask before kicks the thread for nothing.
            mask.store(now, Ordering::Release);
        } else {
            // A full barrier between both, as on the other side.
            mask.swap(now, Ordering::SeqCst);
            if pending.load(Ordering::SeqCst) & unblocked != 0 {
                // As after a kick: the sentry is asked on the way out.
                thread.kicked = 1;
            }
        }
    }
    if registers.rdx != 0 && !host::store(registers.rdx, before) {
        return EFAULT;
    }
    0
}

/// set_robust_list(2): the sentry looks at it when the thread ends.
#[link_section = ".calls"]
fn set_robust_list(local: *mut Local, registers: &Registers) -> i64 {
    if registers.rsi != ROBUST_LIST_HEAD_SIZE {
        return EINVAL;
    }
    // SAFETY: within the channel, aligned, and accessed atomically only.
    unsafe { AtomicU64::from_ptr(&raw mut (*local).robust_list) }.store(registers.rdi, Ordering::Release);
    0
}

/// set_tid_address(2): the stub itself clears the word when the thread ends, but for memory that is another process's.
fn set_tid_address(thread: &mut ThreadBlock, local: *mut Local, address: u64) {
    thread.parking.clear_child_tid = address;
    // SAFETY: within the channel, aligned, and accessed atomically only.
    unsafe { AtomicU64::from_ptr(&raw mut (*local).clear_child_tid) }.store(address, Ordering::Release);
}

/// The thread is about to end: the sentry need not look for robust futexes where there are none.
#[link_section = ".calls"]
pub fn forget_empty_robust_list(thread: &ThreadBlock) {
    /// What has been taken or let go just now, in a `struct robust_list_head`.
    const PENDING: u64 = 16;
    // SAFETY: within the channel, aligned, and accessed atomically only.
    let list = unsafe { AtomicU64::from_ptr(&raw mut (*thread.local()).robust_list) };
    let head = list.load(Ordering::Relaxed);
    if head != 0 && host::load(head) == Some(head) && host::load(head.wrapping_add(PENDING)) == Some(0) {
        list.store(0, Ordering::Release);
    }
}

/// Whether the sentry has to look for robust futexes when the thread ends.
#[link_section = ".calls"]
pub fn has_robust_list(thread: &ThreadBlock) -> bool {
    // SAFETY: within the channel, aligned, and accessed atomically only.
    unsafe { AtomicU64::from_ptr(&raw mut (*thread.local()).robust_list) }.load(Ordering::Relaxed) != 0
}

/// getrlimit(2).
fn limit(thread: &ThreadBlock, resource: u64, address: u64) -> Option<i64> {
    let limit = limit_of(thread, resource as u32 as usize)?;
    if address == 0 {
        return None;
    }
    let written = host::store(address, limit[0]) && host::store(address.wrapping_add(8), limit[1]);
    Some(if written { 0 } else { EFAULT })
}

/// A limit of the process's, and its maximum, where they are known.
pub fn limit_of(thread: &ThreadBlock, index: usize) -> Option<[u64; 2]> {
    // They change: a process that has no channel yet asks.
    if index >= LIMITS || thread.way == way::FIRST {
        return None;
    }
    // SAFETY: within the channel; this makes no access yet.
    let limits = unsafe { &raw mut (*thread.channel()).limits };
    // SAFETY: as above, aligned, and accessed atomically only.
    let version = || unsafe { AtomicU64::from_ptr(&raw mut (*limits).version) }.load(Ordering::Acquire);
    let before = version();
    // SAFETY: within the channel.
    let limit = unsafe { core::ptr::read_volatile(&raw const (*limits).limits[index]) };
    core::sync::atomic::fence(Ordering::Acquire);
    (before % 2 == 0 && version() == before).then_some(limit)
}

/// rt_sigaction(2) of a signal that nobody has ever said anything about: what only asks, and what makes its disposition the
/// default, which it is (posix_spawn(3) does so sixty times for each process).
fn action(local: *mut Local, registers: &Registers) -> Option<i64> {
    let signal = registers.rdi as u32;
    if registers.r10 != SET_SIZE || !(1..=64).contains(&signal) {
        return None;
    }
    let bit = 1 << (signal - 1);
    // SAFETY: within the channel.
    let known = unsafe { core::ptr::read_volatile(local) };
    if known.actions & bit != 0 {
        return None;
    }
    if registers.rsi == 0 {
        let was_reset = known.reset & bit != 0;
        let present = if was_reset { [0, SA_RESTORER, known.reset_restorer, 0] } else { [0; 4] };
        let mut words = present.iter().zip((registers.rdx..).step_by(8));
        let written = registers.rdx == 0 || words.all(|(word, address)| host::store(address, *word));
        return Some(if written { 0 } else { EFAULT });
    }
    // A signal that is pending may have to be dropped.
    if registers.rdx != 0 || known.may_reset == 0 || (UNBLOCKABLE | known.pending) & bit != 0 {
        return None;
    }
    let word = |index: u64| host::load(registers.rsi.wrapping_add(index * 8));
    let (handler, flags, restorer, mask) = (word(0)?, word(1)?, word(2)?, word(3)?);
    let is_another = known.reset != 0 && known.reset_restorer != restorer;
    if (handler, flags, mask) != (0, SA_RESTORER, 0) || is_another {
        return None;
    }
    // SAFETY: as above.
    unsafe {
        core::ptr::write_volatile(&raw mut (*local).reset_restorer, restorer);
        core::ptr::write_volatile(&raw mut (*local).reset, known.reset | bit);
    }
    Some(0)
}
