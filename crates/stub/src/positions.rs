//! Where files stand that this process alone uses: read(2) and lseek(2) without the host's offset (ADR 65).
//!
//! As long as the sentry lends it, a file's position is a word in the table of direct descriptors. A read copies what is there from a
//! window, or has the host read at that place, and moves the word then, if it is what it was: so no two threads get the same bytes, and
//! nothing counts once the sentry has taken the position back. Nothing here touches the host's offset meanwhile: what cannot be done
//! without is the sentry's, which ends the loan.

use crate::call;
use crate::direct::{EBADF, SEEK_CUR, SEEK_SET};
use crate::host::number;
use crate::layout::position::{moved, LENT, POSITION, TAKEN};
use crate::layout::{direct as right, DirectEntry, DIRECT_BASE, DIRECT_ENTRIES, DIRECT_POSITIONS};
use crate::thread::ThreadBlock;
use crate::windows::{self, Way};
use core::sync::atomic::{AtomicU64, Ordering};

/// Then other threads are too much in the way.
const ATTEMPTS: u32 = 8;

/// Of one that has an entry in the table, which is mapped.
#[inline(always)]
fn word_of(guest: u64) -> &'static AtomicU64 {
    let index = (guest & 0xffff_ffff) % DIRECT_ENTRIES;
    // SAFETY: the table is mapped, and its words are accessed atomically only.
    unsafe { AtomicU64::from_ptr((DIRECT_BASE + DIRECT_POSITIONS + index * 8) as *mut u64) }
}

/// The host's offset is the position of the file that is `word`, whose word was `at` then.
#[inline(always)]
fn is_hosts(entry: &DirectEntry, word: u64, at: u64) -> bool {
    at & (LENT | TAKEN) == 0 && entry.word.load(Ordering::Acquire) == word
}

/// Moves the file that is `word` on. False: something else has happened since it was at `before`, or there is no room for that.
fn moves(entry: &DirectEntry, word: u64, position: &AtomicU64, before: u64, to: u64) -> bool {
    // A descriptor that is another file has another word before it is lent.
    to <= POSITION
        && entry.word.load(Ordering::Acquire) == word
        && position.compare_exchange(before, moved(before, to), Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// read(2) on the descriptor of `entry`, whose word is `word`.
#[inline(always)]
pub fn read(thread: &ThreadBlock, entry: &DirectEntry, word: u64, arguments: &[u64; 6]) -> Way {
    let at = word_of(arguments[0]).load(Ordering::Acquire);
    if is_hosts(entry, word, at) {
        return windows::asks(entry, at, arguments);
    }
    read_on(thread, entry, word, arguments)
}

#[inline(never)]
fn read_on(thread: &ThreadBlock, entry: &DirectEntry, word: u64, arguments: &[u64; 6]) -> Way {
    let [guest, to, count, ..] = *arguments;
    let position = word_of(guest);
    for _ in 0..ATTEMPTS {
        let before = position.load(Ordering::Acquire);
        if before & LENT == 0 || before & TAKEN != 0 {
            break;
        }
        let at = before & POSITION;
        let result = match windows::read(thread, entry, word, &[guest, to, count, at, 0, 0]) {
            Way::Done(count) => count,
            Way::Host => call!(number::PREAD64, word & right::DESCRIPTOR, to, count, at),
            Way::Sentry => break,
        };
        match result {
            // Closed under our feet.
            EBADF => break,
            ..0 => return Way::Done(result),
            _ if moves(entry, word, position, before, at + result as u64) => return Way::Done(result),
            _ => {}
        }
    }
    Way::Sentry
}

/// write(2): it moves the host's offset.
#[inline(always)]
pub fn write(entry: &DirectEntry, word: u64, guest: u64) -> Way {
    if is_hosts(entry, word, word_of(guest).load(Ordering::Acquire)) {
        Way::Host
    } else {
        Way::Sentry
    }
}

/// lseek(2), as [`read`].
#[inline(always)]
pub fn seek(entry: &DirectEntry, word: u64, arguments: &[u64; 6]) -> Way {
    let [guest, offset, whence, ..] = *arguments;
    let position = word_of(guest);
    let before = position.load(Ordering::Acquire);
    if is_hosts(entry, word, before) {
        return Way::Host;
    }
    if before & LENT == 0 || before & TAKEN != 0 {
        return Way::Sentry;
    }
    let base = match whence & 0xffff_ffff {
        SEEK_SET => 0,
        SEEK_CUR => before & POSITION,
        _ => return Way::Sentry,
    };
    // How far it may go beyond the end is the file system's matter.
    let end = entry.window_end.load(Ordering::Acquire);
    match (base as i64).checked_add(offset as i64) {
        Some(to @ 0..) if to as u64 <= end && moves(entry, word, position, before, to as u64) => Way::Done(to),
        _ => Way::Sentry,
    }
}
