//! Names that are not there, or no links, as the sentry has told all processes (ADR 68).
//!
//! Compilers, interpreters and the dynamic linker look for a file in one directory after the other, and each new process does so again.
//! What the sentry has found out once lies on a board that every process can read: names as programs give them, absolute ones, and
//! that there is nothing, or nothing that is a link. The sentry withdraws all of it when any of that changes; and it is believed
//! for a moment only after it was last looked whether the host has changed something, and not behind what may have told the thread so
//! without the sentry.

use crate::host::{self, number, HIGHEST};
use crate::layout::board::{self, Board, Entry};
use crate::loan::is_before;
use crate::thread::ThreadBlock;
use core::sync::atomic::{fence, AtomicU32, AtomicU64, Ordering};

const ENOENT: i64 = -2;
const EINVAL: i64 = -22;
const AT_SYMLINK_NOFOLLOW: u64 = 0x100;
const AT_NO_AUTOMOUNT: u64 = 0x800;
/// R_OK | W_OK | X_OK.
const MODES: u64 = 7;
/// O_WRONLY, O_RDWR, O_NOCTTY, O_TRUNC, O_APPEND, O_NONBLOCK, O_LARGEFILE, O_DIRECTORY, O_NOFOLLOW, O_NOATIME, O_CLOEXEC: with these, and a way to
/// open it, open(2) of a name that is not there is ENOENT.
const OPENS: u64 = 0x3 | 0o400 | 0o1000 | 0o2000 | 0o4000 | 0o100_000 | 0o200_000 | 0o400_000 | 0o1_000_000 | 0o2_000_000;
/// No way to open a file.
const NO_ACCESS: u64 = 3;

fn board() -> *const Board {
    board::BASE as *const Board
}

/// The result of a call that looks for a name, if the board says it.
#[inline(always)]
pub fn try_board(thread: &ThreadBlock, call_number: u64, arguments: &[u64; 6]) -> Option<i64> {
    let [first, second, third, fourth, ..] = *arguments;
    let (path, asks_for_link) = match call_number {
        number::READLINK if third as i32 > 0 => (first, true),
        number::READLINKAT if fourth as i32 > 0 => (second, true),
        number::OPEN if opens(second) => (first, false),
        number::OPENAT if opens(third) => (second, false),
        number::STAT | number::LSTAT => (first, false),
        number::NEWFSTATAT if fourth & 0xffff_ffff & !(AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0 => (second, false),
        number::ACCESS if second & 0xffff_ffff <= MODES => (first, false),
        number::EXECVE => (first, false),
        number::FACCESSAT if third & 0xffff_ffff <= MODES => (second, false),
        _ => return None,
    };
    // SAFETY: the board is mapped in every process.
    let until = unsafe { &(*board()).head.until };
    if thread.has_news != 0 || !is_before(until.load(Ordering::Relaxed)) {
        return None;
    }
    look(thread, path, asks_for_link)
}

fn opens(flags: u64) -> bool {
    let flags = flags & 0xffff_ffff;
    flags & !OPENS == 0 && flags & NO_ACCESS != NO_ACCESS
}

#[inline(never)]
fn look(thread: &ThreadBlock, path: u64, asks_for_link: bool) -> Option<i64> {
    // SAFETY: within the channel, aligned, and accessed atomically only.
    let reads = unsafe { AtomicU32::from_ptr(&raw mut (*thread.channel()).local.reads_board) };
    if path > HIGHEST || reads.load(Ordering::Relaxed) == 0 {
        return None;
    }
    let mut name = [0u64; board::NAME_WORDS + 1];
    let length = host::copy_string(&raw mut name as u64, path, board::LONGEST as u64 + 1).checked_sub(1)?;
    let used = name.get(..board::words(length as usize))?;
    if name[0] as u8 != b'/' {
        return None;
    }
    // SAFETY: as above; the place is one of its entries.
    let (head, entry) = unsafe { (&(*board()).head, &(*board()).entries[board::place_of(board::hash(used))]) };
    let stamp = entry.stamp.load(Ordering::Acquire);
    let what = said(entry, used, length)?;
    fence(Ordering::Acquire);
    let stands = entry.stamp.load(Ordering::Relaxed) == stamp
        && stamp >> board::EDITION == head.edition.load(Ordering::Acquire)
        && is_before(head.until.load(Ordering::Relaxed));
    match what {
        _ if !stands => None,
        board::NOT_THERE => Some(ENOENT),
        board::NO_LINK if asks_for_link => Some(EINVAL),
        _ => None,
    }
}

/// What the entry says of this name, if it is about it.
fn said(entry: &Entry, name: &[u64], length: u64) -> Option<u64> {
    let what = entry.what.load(Ordering::Relaxed);
    let is_it =
        what as u32 as u64 == length && name.iter().zip(&entry.name).all(|(word, its)| its.load(Ordering::Relaxed) == *word);
    is_it.then_some(what >> board::WHAT)
}
