//! Reads and writes of open regular files, made by the stub itself on a descriptor that the sentry has put into this
//! process.
//!
//! Which guest descriptor is which host descriptor, with what rights, is in a table that the sentry alone writes: an
//! entry that it clears counts from the next call on. Nothing here is a wall: a program that ignores the table can do no
//! more than use files that it was allowed to use.

use crate::call;
use crate::host::{self, number, HIGHEST, MOST};
use crate::layout::{self, direct as right, DirectEntry};
use crate::marshal;
use crate::positions;
use crate::thread::ThreadBlock;
use crate::windows::{self, Way};
use core::mem::MaybeUninit;
use core::sync::atomic::{AtomicBool, Ordering};

/// The table is mapped. One per address space: a fork's child has none until it gets its own.
#[link_section = ".data"]
static MAPPED: AtomicBool = AtomicBool::new(false);

/// Offset in the thread block of a word that is set for threads that must not use the table: those of a vfork(2) child,
/// which sees its parent's memory but has descriptors of its own.
const OFF_WORD: u64 = 0x400;

pub const EBADF: i64 = -9;
const EFAULT: i64 = -14;
pub const SEEK_SET: u64 = 0;
pub const SEEK_CUR: u64 = 1;
pub const SEEK_END: u64 = 2;
/// Calls with more pieces than these are the sentry's.
const VECTORS: usize = 16;
const PROT_READ: u64 = 1;
const PROT_WRITE: u64 = 2;
const MAP_SHARED_FIXED: u64 = 0x11;
const MADV_DONTFORK: u64 = 10;
/// Pieces of at most so many bytes in all are put together, so that they are one call of the host's; with more they are the
/// sentry's.
const TOGETHER: u64 = 4096;
/// More descriptors than a process ever has at once.
const MANY: u32 = 1024;

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

/// The child of a plain fork: it has copies of its parent's descriptors, all below `end`, and no table that says which they
/// are.
#[link_section = ".calls"]
pub fn forked(thread: &ThreadBlock, end: u32) {
    // SAFETY: as above.
    unsafe { off_word(thread).write(0) };
    // Most have none; then a page of the stub's stays shared with the parent.
    if MAPPED.load(Ordering::Relaxed) && MAPPED.swap(false, Ordering::Relaxed) {
        windows::forked();
        for descriptor in 0..end.min(MANY) {
            call!(number::CLOSE, descriptor);
        }
    }
}

/// Maps the table from `descriptor`.
pub fn map_table(descriptor: u64) {
    let map = |start: u64, length: u64, protection: u64| {
        let at = layout::DIRECT_BASE + start;
        call!(number::MMAP, at, length, protection, MAP_SHARED_FIXED, descriptor, start) == at as i64
    };
    let entries = layout::DIRECT_POSITIONS;
    let is_mapped = map(0, entries, PROT_READ) && map(entries, layout::DIRECT_SIZE - entries, PROT_READ | PROT_WRITE);
    call!(number::CLOSE, descriptor);
    if is_mapped && call!(number::MADVISE, layout::DIRECT_BASE, layout::DIRECT_SIZE, MADV_DONTFORK) == 0 {
        MAPPED.store(true, Ordering::Release);
    }
}

/// What a guest's descriptor is, where that has one of the rights in `wanted`; and all that it has.
#[inline(always)]
fn entry_of(thread: &ThreadBlock, guest: u64, wanted: u64) -> Option<(&'static DirectEntry, u64)> {
    let guest = guest & 0xffff_ffff;
    if guest >= layout::DIRECT_ENTRIES || !MAPPED.load(Ordering::Acquire) || is_off(thread) {
        return None;
    }
    // SAFETY: the table is mapped, and `guest` is one of its entries.
    let entry = unsafe { &*(layout::DIRECT_BASE as *const DirectEntry).add(guest as usize) };
    let word = entry.word.load(Ordering::Acquire);
    (word & wanted != 0).then_some((entry, word))
}

/// A call is about to use one of the rights in `wanted`.
#[inline(always)]
fn ends_loan(thread: &mut ThreadBlock, wanted: u64) {
    thread.has_news |= wanted & right::READ;
    if thread.has_loan & wanted != 0 {
        // It says what this call is about to change.
        thread.has_loan = 0;
    }
}

/// How a call with one piece of memory, or none, is made.
pub enum OnDescriptor {
    Done(i64),
    /// By a call on the host's descriptor, with the other arguments as they are.
    Call(u64),
}

/// Serves a call where that is all there is to it.
#[inline(always)]
pub fn on_descriptor(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<OnDescriptor> {
    let wanted = match call_number {
        number::READ | number::PREAD64 => right::READ,
        number::WRITE | number::PWRITE64 => right::WRITE,
        number::LSEEK => right::VALID,
        _ => return None,
    };
    let (entry, word) = entry_of(thread, arguments[0], wanted)?;
    if word & right::NULL != 0 {
        return None;
    }
    if wanted == right::WRITE {
        let end = entry.write_end.load(Ordering::Relaxed);
        let is_within = || arguments[3].checked_add(arguments[2]).is_some_and(|until| until <= end);
        let is_positioned = call_number == number::PWRITE64 && word & right::APPEND == 0;
        if end != right::NO_END && !(is_positioned && is_within()) {
            return None;
        }
        windows::writes();
    }
    ends_loan(thread, wanted);
    match by_itself(thread, entry, word, call_number, arguments) {
        Way::Done(result) => Some(OnDescriptor::Done(result)),
        Way::Host => Some(OnDescriptor::Call(word & right::DESCRIPTOR)),
        Way::Sentry => {
            thread.is_for_sentry = 1;
            None
        }
    }
}

/// What the process can answer of a call without the host.
#[inline(always)]
fn by_itself(thread: &ThreadBlock, entry: &DirectEntry, word: u64, call_number: u64, arguments: &[u64; 6]) -> Way {
    match call_number {
        number::READ => positions::read(thread, entry, word, arguments),
        number::PREAD64 => windows::read(thread, entry, word, arguments),
        number::WRITE => positions::write(entry, word, arguments[0]),
        number::LSEEK => positions::seek(entry, word, arguments),
        _ => Way::Host,
    }
}

/// Serves a call on a direct descriptor. `None`: it is the sentry's.
#[inline]
pub fn try_direct(thread: &mut ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let wanted = match call_number {
        number::READ | number::PREAD64 | number::READV | number::PREADV => right::READ,
        number::WRITE | number::PWRITE64 | number::WRITEV | number::PWRITEV => right::WRITE,
        number::LSEEK => right::VALID,
        _ => return None,
    };
    let (entry, word) = entry_of(thread, arguments[0], wanted)?;
    if word & right::NULL != 0 {
        return answer_null(call_number, arguments);
    }
    if core::mem::take(&mut thread.is_for_sentry) != 0 {
        return None;
    }
    ends_loan(thread, wanted);
    match call_number {
        number::READV => in_pieces(thread, entry, word, number::READ, arguments),
        number::PREADV => in_pieces(thread, entry, word, number::PREAD64, arguments),
        number::WRITEV => in_pieces(thread, entry, word, number::WRITE, arguments),
        number::PWRITEV => in_pieces(thread, entry, word, number::PWRITE64, arguments),
        _ => whole(thread, entry, word, call_number, arguments),
    }
}

/// A call with one piece of memory, or none.
#[inline]
fn whole(thread: &ThreadBlock, entry: &DirectEntry, word: u64, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    match by_itself(thread, entry, word, call_number, arguments) {
        Way::Done(result) => return Some(result),
        Way::Host => {}
        Way::Sentry => return None,
    }
    if matches!(call_number, number::WRITE | number::PWRITE64) {
        windows::writes();
        if entry.write_end.load(Ordering::Relaxed) != right::NO_END {
            return write_bounded(entry, word, call_number, arguments);
        }
    }
    answer(call_number, word & right::DESCRIPTOR, arguments)
}

/// A call with several pieces of memory, as one with a single one: what is read or written at once must be so for others.
/// `None`: it is large, or something is wrong with the pieces.
#[inline(never)]
fn in_pieces(thread: &ThreadBlock, entry: &DirectEntry, word: u64, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let [fd, address, count, position, ..] = *arguments;
    let count = count & 0xffff_ffff;
    let mut vectors = [[0u64; 2]; VECTORS];
    if count == 0 || count > VECTORS as u64 || !host::copy(&raw mut vectors as u64, address, count * 16) {
        return None;
    }
    let vectors = &vectors[..count as usize];
    if vectors.iter().any(|[base, length]| *base > HIGHEST || *length > MOST) {
        return None;
    }
    if let [[base, length]] = *vectors {
        return whole(thread, entry, word, call_number, &[fd, base, length, position, 0, 0]);
    }
    let total: u64 = vectors.iter().map(|[_, length]| length).sum();
    if total > TOGETHER {
        return None;
    }
    let mut together = MaybeUninit::<[u8; TOGETHER as usize]>::uninit();
    let start = together.as_mut_ptr() as u64;
    let writes = matches!(call_number, number::WRITE | number::PWRITE64);
    let mut at = start;
    for [base, length] in vectors {
        if if writes { !host::copy(at, *base, *length) } else { *length > 0 && !marshal::is_writable(*base, *length) } {
            return None;
        }
        at += length;
    }
    let result = whole(thread, entry, word, call_number, &[fd, start, total, position, 0, 0])?;
    let mut left = if writes { 0 } else { result.max(0) as u64 };
    at = start;
    for [base, length] in vectors {
        let taken = left.min(*length);
        if !host::copy(*base, at, taken) {
            // It has been taken away meanwhile.
            return Some(EFAULT);
        }
        left -= taken;
        at += taken;
    }
    Some(result)
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
    let length = arguments[2];
    let appends = word & right::APPEND != 0;
    let positioned = call_number == number::PWRITE64;
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
