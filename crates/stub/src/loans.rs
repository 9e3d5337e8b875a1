//! What a thread has been lent: the bytes that wait in the sockets which its last epoll_wait(2) told of. A read(2) of one
//! of these is answered from here, and the sentry hears of it from a word in the channel, which it looks at before it does
//! anything with that socket: with one exchange it learns how much was taken and takes the rest back.

use crate::host::{self, number};
use crate::layout::loan::{COUNT, HEADER, LIMIT};
use crate::layout::LOANS_OFFSET;
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU64, Ordering};

/// What lies above a slot's stack.
#[repr(C)]
struct Loans {
    count: u64,
    entries: [Entry; COUNT],
    bytes: [[u8; LIMIT]; COUNT],
}

/// One loan. Its place is that of its word in the channel.
#[repr(C)]
struct Entry {
    /// [`NONE`]: used up, or taken back.
    descriptor: u32,
    length: u32,
    /// The channel's word as long as the loan holds: its number, and below it how many bytes have been taken.
    word: u64,
}

const NONE: u32 = u32::MAX;
const TAKEN: u64 = 0xffff_ffff;

/// MSG_DONTWAIT and MSG_NOSIGNAL, which say nothing where there is something to receive.
const FLAGS_WITHOUT_MEANING: u64 = 0x40 | 0x4000;

fn loans(thread: &ThreadBlock) -> &'static mut Loans {
    // SAFETY: within the thread's own slot, which only the thread itself uses, in one function at a time.
    unsafe { &mut *((thread.address + LOANS_OFFSET) as *mut Loans) }
}

/// Forgets them behind a call that is handed over now: one that brings new ones, or lets others see (a child gets a copy
/// of this memory; a filter has a say).
#[inline]
pub fn before(thread: &ThreadBlock, call_number: u64) {
    match call_number {
        number::EPOLL_WAIT
        | number::EPOLL_PWAIT
        | number::EPOLL_PWAIT2
        | number::CLONE
        | number::FORK
        | number::VFORK
        | number::CLONE3
        | number::PRCTL
        | number::SECCOMP => loans(thread).count = 0,
        _ => {}
    }
}

/// Receives from a loan, if there is one for it.
#[inline]
pub fn try_receive(thread: &ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let [descriptor, buffer, length, flags, address, _] = *arguments;
    match call_number {
        number::READ => {}
        number::RECVFROM if flags & 0xffff_ffff & !FLAGS_WITHOUT_MEANING == 0 && address == 0 => {}
        _ => return None,
    }
    let loans = loans(thread);
    if loans.count == 0 {
        return None;
    }
    let descriptor = descriptor as u32;
    let index = loans.entries[..(loans.count as usize).min(COUNT)].iter().position(|entry| entry.descriptor == descriptor)?;
    if descriptor == NONE || length == 0 || length > i64::MAX as u64 {
        return None;
    }
    let entry = &mut loans.entries[index];
    let taken = entry.word & TAKEN;
    let count = length.min((entry.length as u64).saturating_sub(taken));
    // SAFETY: within the channel, which is mapped as long as the thread lives; accessed atomically only.
    let word = unsafe { AtomicU64::from_ptr(&raw mut (*thread.channel()).loans[index]) };
    let (before, behind) = (entry.word, entry.word + count);
    // First: of what has been taken back, nothing may be seen, not even behind what a read(2) says that it has filled.
    if word.compare_exchange(before, behind, Ordering::AcqRel, Ordering::Relaxed).is_err() {
        entry.descriptor = NONE;
        return None;
    }
    if !host::copy(buffer, loans.bytes[index].as_ptr() as u64 + taken, count) {
        // The sentry finds EFAULT, and the bytes where they were, unless it has looked just now.
        let _ = word.compare_exchange(behind, before, Ordering::AcqRel, Ordering::Relaxed);
        entry.descriptor = NONE;
        return None;
    }
    entry.word += count;
    if taken + count >= entry.length as u64 {
        entry.descriptor = NONE;
    }
    Some(count as i64)
}

/// Takes on the loans that came with an answer: records behind the `results` bytes in the channel's area, `length` bytes
/// in all.
#[inline]
pub fn after(thread: &ThreadBlock, call_number: u64, results: u32, length: u64) {
    if length == 0 || !matches!(call_number, number::EPOLL_WAIT | number::EPOLL_PWAIT | number::EPOLL_PWAIT2) {
        return;
    }
    // SAFETY: the channel is mapped as long as the thread lives; only an address is made.
    let area = unsafe { &raw const (*thread.channel()).area as u64 } + u64::from(results);
    let loans = loans(thread);
    let mut at = 0;
    while at < length && loans.count < COUNT as u64 {
        let index = loans.count as usize;
        // SAFETY: within the area, where the sentry has laid the record; aligned.
        let [head, size] = unsafe { core::ptr::read_volatile((area + at) as *const [u64; 2]) };
        let size = size.min(LIMIT as u64);
        host::copy(loans.bytes[index].as_mut_ptr() as u64, area + at + HEADER as u64, size);
        loans.entries[index] = Entry { descriptor: head as u32, length: size as u32, word: head & !TAKEN };
        loans.count += 1;
        at += HEADER as u64 + size.next_multiple_of(8);
    }
}
