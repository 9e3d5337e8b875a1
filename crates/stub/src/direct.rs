//! Reads and writes of open regular files, made by the stub itself on a descriptor that the sentry has put into this
//! process.
//!
//! Which guest descriptor is which host descriptor, with what rights, is in a table that the sentry alone writes: an
//! entry that it clears counts from the next call on. Nothing here is a wall: a program that ignores the table can do no
//! more than use files that it was allowed to use.

use crate::call;
use crate::host::{self, number};
use crate::layout::{self, direct as right, DirectEntry};
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicBool, Ordering};

/// The table is mapped. One per address space: a fork's child has none until it gets its own.
#[link_section = ".data"]
static MAPPED: AtomicBool = AtomicBool::new(false);

/// Offset in the thread block of a word that is set for threads that must not use the table: those of a vfork(2) child,
/// which sees its parent's memory but has descriptors of its own.
const OFF_WORD: u64 = 0x400;

const EBADF: i64 = -9;
const SEEK_SET: u64 = 0;
const SEEK_CUR: u64 = 1;
const SEEK_END: u64 = 2;
/// Writes of more pieces than these are the sentry's, where their length counts.
const VECTORS: usize = 16;
const PROT_READ: u64 = 1;
const MAP_SHARED_FIXED: u64 = 0x11;
const MADV_DONTFORK: u64 = 10;
/// More descriptors than a process ever has at once.
const MANY: u64 = 1024;

fn off_word(thread: &ThreadBlock) -> *mut u64 {
    (thread.address + OFF_WORD) as *mut u64
}

pub fn is_off(thread: &ThreadBlock) -> bool {
    // SAFETY: within the thread's own block.
    unsafe { off_word(thread).read() != 0 }
}

pub fn turn_off(thread: &ThreadBlock) {
    // SAFETY: as above; `thread` does not run yet.
    unsafe { off_word(thread).write(1) };
}

/// The child of a plain fork: it has copies of its parent's descriptors, and no table that says which they are.
pub fn forked(thread: &ThreadBlock) {
    // SAFETY: as above.
    unsafe { off_word(thread).write(0) };
    // Most have none; then a page of the stub's stays shared with the parent.
    if MAPPED.load(Ordering::Relaxed) && MAPPED.swap(false, Ordering::Relaxed) && call!(number::CLOSE_RANGE, 0, u32::MAX, 0) < 0
    {
        for descriptor in 0..MANY {
            call!(number::CLOSE, descriptor);
        }
    }
}

/// Maps the table from `descriptor`.
pub fn map_table(descriptor: u64) {
    let mapped = call!(number::MMAP, layout::DIRECT_BASE, layout::DIRECT_SIZE, PROT_READ, MAP_SHARED_FIXED, descriptor, 0);
    call!(number::CLOSE, descriptor);
    if mapped == layout::DIRECT_BASE as i64
        && call!(number::MADVISE, layout::DIRECT_BASE, layout::DIRECT_SIZE, MADV_DONTFORK) == 0
    {
        MAPPED.store(true, Ordering::Release);
    }
}

/// Serves a call on a direct descriptor. `None`: it is the sentry's.
#[inline]
pub fn try_direct(thread: &ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let wanted = match call_number {
        number::READ | number::PREAD64 | number::READV | number::PREADV => right::READ,
        number::WRITE | number::PWRITE64 | number::WRITEV | number::PWRITEV => right::WRITE,
        number::LSEEK | number::FSYNC | number::FDATASYNC => right::VALID,
        _ => return None,
    };
    let guest = arguments[0] & 0xffff_ffff;
    if guest >= layout::DIRECT_ENTRIES || !MAPPED.load(Ordering::Acquire) || is_off(thread) {
        return None;
    }
    // SAFETY: the table is mapped, and `guest` is one of its entries.
    let entry = unsafe { &*(layout::DIRECT_BASE as *const DirectEntry).add(guest as usize) };
    let word = entry.word.load(Ordering::Acquire);
    if word & wanted == 0 {
        return None;
    }
    if word & right::NULL != 0 {
        return answer_null(call_number, arguments);
    }
    let descriptor = word & right::DESCRIPTOR;
    if wanted == right::WRITE && entry.write_end.load(Ordering::Relaxed) != right::NO_END {
        return write_bounded(entry, word, call_number, arguments);
    }
    answer(call_number, descriptor, arguments)
}

/// The host's answer. `None`: the descriptor was closed under our feet (the program closes it in another thread); the
/// sentry knows what is there now.
fn answer(call_number: u64, descriptor: u64, arguments: &[u64; 6]) -> Option<i64> {
    let [_, b, c, d, e, f] = *arguments;
    // SAFETY: a call that reads or writes the guest's memory, at addresses that the guest gave.
    let result = unsafe { host::host_call(call_number, descriptor, b, c, d, e, f) };
    (result != EBADF).then_some(result)
}

/// What null(4) answers. `None`: the sentry knows what is wrong with these arguments, or has several pieces to look at.
fn answer_null(call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    /// No call transfers more.
    const MOST: u64 = 0x7fff_f000;
    /// Addresses from here on may end beyond the guest's half of them.
    const HIGHEST: u64 = 0x7fff_0000_0000;
    let [_, address, length, ..] = *arguments;
    let is_plain = match call_number {
        number::READ | number::WRITE => true,
        number::PREAD64 | number::PWRITE64 => arguments[3] as i64 >= 0,
        _ => false,
    };
    if !is_plain || length > MOST || address > HIGHEST {
        return None;
    }
    Some(if matches!(call_number, number::WRITE | number::PWRITE64) { length as i64 } else { 0 })
}

/// Writes where the file may not grow beyond a certain end; `None` where it would.
fn write_bounded(entry: &DirectEntry, word: u64, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let descriptor = word & right::DESCRIPTOR;
    let length = match call_number {
        number::WRITE | number::PWRITE64 => arguments[2],
        _ => length_of_vectors(arguments[1], arguments[2])?,
    };
    let appends = word & right::APPEND != 0;
    let positioned = matches!(call_number, number::PWRITE64 | number::PWRITEV);
    let before = if appends || !positioned { position(descriptor, 0, SEEK_CUR)? } else { 0 };
    let start = if appends {
        position(descriptor, 0, SEEK_END)?
    } else if positioned {
        arguments[3]
    } else {
        before
    };
    let within = start.checked_add(length).is_some_and(|end| end <= entry.write_end.load(Ordering::Relaxed));
    let result = if within { answer(call_number, descriptor, arguments) } else { None };
    if appends && (positioned || !matches!(result, Some(0..))) {
        // Looking for the end has moved the position, which nothing has done then.
        position(descriptor, before, SEEK_SET);
    }
    result
}

fn position(descriptor: u64, offset: u64, whence: u64) -> Option<u64> {
    u64::try_from(call!(number::LSEEK, descriptor, offset, whence)).ok()
}

/// What an array of `struct iovec` holds in all. `None`: too many to look at, or not readable.
fn length_of_vectors(address: u64, count: u64) -> Option<u64> {
    let mut vectors = [[0u64; 2]; VECTORS];
    if count > VECTORS as u64 || !host::copy(&raw mut vectors as u64, address, count * 16) {
        return None;
    }
    vectors[..count as usize].iter().try_fold(0u64, |sum, vector| sum.checked_add(vector[1]))
}
