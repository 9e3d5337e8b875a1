//! Mappings of small files that are copies (ADR 40).
//!
//! A file that is lent, whole, can be mapped without the sentry where the mapping is private and read only: what it shows is
//! copied into memory of the process's own. Such a page is told from a file's by madvise(2) alone, which makes zeros of
//! anonymous memory and brings a file's data back: so the pages that are copies are remembered here, and are spared.
//! Whatever takes one away or maps something else over it has it forgotten before.
//!
//! A copy that is unmapped as a whole is *kept*, closed to everybody, for the next one (ADR 70): opening and closing it again is a quarter
//! of what mapping, touching and unmapping a page takes. The guest must find nothing there: so what is kept is unmapped before any
//! call that could tell, or that is about such an address.

use crate::call;
use crate::host::{self, number, PAGE};
use crate::layout::{RESERVED_END, STUB_BASE};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// How many pages can be remembered: without room for one more nothing is copied.
const MOST: usize = 64;
/// Set in [`PAGES`]: its mapping is as [`map`] has made it, but for its protection.
const PLAIN: u64 = 1;
/// Addresses of pages; 0: none. One list per address space: a fork's child has copies of both.
#[link_section = ".data"]
static PAGES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// At least as many as there are.
#[link_section = ".data"]
static COUNT: AtomicU32 = AtomicU32::new(0);

/// So many copies are kept, of so many pages each.
const MOST_KEPT: usize = 4;
const LONGEST_KEPT: u64 = 8;
/// Addresses of what is kept, and in the lowest bits of how many pages it is; 0: nothing.
#[link_section = ".data"]
static KEPT: [AtomicU64; MOST_KEPT] = [const { AtomicU64::new(0) }; MOST_KEPT];
static ZEROS: [u8; PAGE as usize] = [0; PAGE as usize];

const PROT_NONE: u64 = 0;
const PROT_READ: u64 = 1;
const PROT_READ_WRITE: u64 = 3;
/// PRIVATE, ANONYMOUS; NORESERVE, which others hardly use, so that the host does not merge it with its neighbours and split it again.
const MAP_APART: u64 = 0x2 | 0x20 | 0x4000;

/// Maps a copy of the `size` bytes at `data`. `None`: the sentry is to map the file.
pub fn map(data: u64, size: u64, length: u64) -> Option<u64> {
    let whole = size.next_multiple_of(PAGE);
    // Behind a file's last page there is nothing.
    if size == 0 || length == 0 || length > whole {
        return None;
    }
    let length = length.next_multiple_of(PAGE);
    let size = size.min(length);
    let address = match take_kept(length) {
        // Nothing is to be seen of what was in it behind the file's end.
        Some(address) if host::copy(address + size, &raw const ZEROS as u64, length - size) => address,
        Some(address) => {
            unmap(address, length);
            return None;
        }
        None => {
            let mapped = call!(number::MMAP, 0, length, PROT_READ_WRITE, MAP_APART, -1i64, 0);
            if mapped < 0 {
                return None;
            }
            mapped as u64
        }
    };
    let done = !(address < RESERVED_END && address + length > STUB_BASE)
        && remember(address, length)
        && host::copy(address, data, size)
        && call!(number::MPROTECT, address, length, PROT_READ) == 0;
    if !done {
        unmap(address, length);
        return None;
    }
    Some(address)
}

/// What was kept of this length, to be written.
fn take_kept(length: u64) -> Option<u64> {
    for slot in &KEPT {
        let kept = slot.load(Ordering::Acquire);
        if kept == 0 || length_kept(kept) != length || !take(slot, kept) {
            continue;
        }
        let address = address_kept(kept);
        if call!(number::MPROTECT, address, length, PROT_READ_WRITE) == 0 {
            return Some(address);
        }
        call!(number::MUNMAP, address, length);
    }
    None
}

fn take(slot: &AtomicU64, value: u64) -> bool {
    slot.compare_exchange(value, 0, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

fn address_kept(kept: u64) -> u64 {
    kept & !(PAGE - 1)
}

fn length_kept(kept: u64) -> u64 {
    kept % PAGE * PAGE
}

/// munmap(2).
pub fn munmap(address: u64, length: u64) -> i64 {
    if is_any() {
        if let Some(end) = end_of(address, length) {
            let length = end - address;
            if (1..=LONGEST_KEPT).contains(&(length / PAGE)) && take_plain(address, length) && keep(address, length) {
                return 0;
            }
        }
        forget(address, length);
    }
    let_go(address, length);
    call!(number::MUNMAP, address, length)
}

/// Whether all pages were copies that nobody has done anything to that would last. They are forgotten then.
fn take_plain(address: u64, length: u64) -> bool {
    let mut pages = (address..address + length).step_by(PAGE as usize);
    pages.all(|page| {
        let taken = PAGES.iter().any(|slot| slot.load(Ordering::Acquire) == page | PLAIN && take(slot, page | PLAIN));
        if taken {
            COUNT.fetch_sub(1, Ordering::AcqRel);
        }
        taken
    })
}

fn keep(address: u64, length: u64) -> bool {
    let Some(slot) = KEPT.iter().find(|slot| slot.load(Ordering::Relaxed) == 0) else { return false };
    call!(number::MPROTECT, address, length, PROT_NONE) == 0
        && slot.compare_exchange(0, address | length / PAGE, Ordering::AcqRel, Ordering::Relaxed).is_ok()
}

/// Nothing is kept in a range that a call is about.
#[inline(always)]
pub fn let_go(address: u64, length: u64) {
    let end = address.saturating_add(length);
    for slot in &KEPT {
        let kept = slot.load(Ordering::Acquire);
        if kept != 0 && address_kept(kept) < end && address < address_kept(kept) + length_kept(kept) {
            unmap_kept(slot, kept);
        }
    }
}

/// Nothing is kept any more. Whether anything was.
pub fn let_all_go() -> bool {
    let mut was_any = false;
    for slot in &KEPT {
        let kept = slot.load(Ordering::Acquire);
        if kept != 0 {
            unmap_kept(slot, kept);
            was_any = true;
        }
    }
    was_any
}

#[inline(never)]
fn unmap_kept(slot: &AtomicU64, kept: u64) {
    if take(slot, kept) {
        call!(number::MUNMAP, address_kept(kept), length_kept(kept));
    }
}

/// Before a request: what is kept stays only where the call neither looks at memory nor changes what is mapped.
#[inline(always)]
pub fn before(call_number: u64, arguments: &[u64; 6]) {
    if KEPT.iter().any(|slot| slot.load(Ordering::Relaxed) != 0) && !leaves_memory(call_number, arguments) {
        let_all_go();
    }
}

#[inline(never)]
fn leaves_memory(call_number: u64, arguments: &[u64; 6]) -> bool {
    match call_number {
        number::OPEN => !is_of_proc(arguments[0]),
        number::OPENAT => !is_of_proc(arguments[1]),
        number::READ
        | number::WRITE
        | number::PREAD64
        | number::PWRITE64
        | number::CLOSE
        | number::STAT
        | number::FSTAT
        | number::LSTAT
        | number::NEWFSTATAT
        | number::LSEEK
        | number::ACCESS
        | number::FACCESSAT
        | number::LINK
        | number::UNLINK
        | number::MKDIR
        | number::GETDENTS64 => true,
        _ => false,
    }
}

/// Whether a name is one of proc(5), where the mappings are shown.
fn is_of_proc(name: u64) -> bool {
    const PROC: &[u8; 5] = b"/proc";
    let mut start = [0; PROC.len()];
    !host::copy(&raw mut start as u64, name, PROC.len() as u64) || start == *PROC
}

/// Whether nothing would be at this address, had nothing been kept.
pub fn is_kept(address: u64) -> bool {
    let is_there = |kept: u64| (address_kept(kept)..address_kept(kept) + length_kept(kept)).contains(&address);
    KEPT.iter().any(|slot| is_there(slot.load(Ordering::Acquire)))
}

/// Takes a copy away that nobody knows of yet.
pub fn unmap(address: u64, length: u64) {
    forget(address, length);
    call!(number::MUNMAP, address, length);
}

fn remember(address: u64, length: u64) -> bool {
    let mut pages = (address..address + length).step_by(PAGE as usize);
    let mut next = pages.next();
    for slot in &PAGES {
        let Some(page) = next else { break };
        COUNT.fetch_add(1, Ordering::AcqRel);
        match slot.compare_exchange(0, page | PLAIN, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => next = pages.next(),
            Err(_) => _ = COUNT.fetch_sub(1, Ordering::AcqRel),
        }
    }
    next.is_none()
}

fn is_any() -> bool {
    COUNT.load(Ordering::Acquire) != 0
}

/// The end of a range as calls on memory take it; `None`: they refuse it.
fn end_of(address: u64, length: u64) -> Option<u64> {
    (address % PAGE == 0).then(|| address.checked_add(length.checked_next_multiple_of(PAGE)?)).flatten()
}

/// What is there is about to go.
#[inline(always)]
pub fn forget(address: u64, length: u64) {
    if is_any() {
        move_away(address, length, None);
    }
}

/// mremap(2) has moved (or is about to cut off) what is there to `target`, which has room for so many bytes.
pub fn moved(address: u64, length: u64, target: u64, room: u64) {
    if is_any() {
        move_away(address, length, Some((target, room)));
    }
}

#[inline(never)]
fn move_away(address: u64, length: u64, target: Option<(u64, u64)>) {
    let Some(end) = end_of(address, length) else { return };
    for slot in &PAGES {
        let value = slot.load(Ordering::Acquire);
        let page = value & !PLAIN;
        if page == 0 || page < address || page >= end {
            continue;
        }
        let new = target.filter(|(_, room)| page - address < *room).map_or(0, |(target, _)| target + (page - address));
        if slot.compare_exchange(value, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() && new == 0 {
            COUNT.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// madvise(2) with advice that lasts: these mappings are not as others.
pub fn set_apart(address: u64, length: u64) {
    let Some(end) = end_of(address, length) else { return };
    for slot in &PAGES {
        let value = slot.load(Ordering::Acquire);
        if value & PLAIN != 0 && (address..end).contains(&(value & !PLAIN)) {
            let _ = slot.compare_exchange(value, value & !PLAIN, Ordering::AcqRel, Ordering::Relaxed);
        }
    }
}

/// madvise(2) with advice that makes memory what it was at first: for a copy that is what it is.
pub fn reset(address: u64, length: u64, advice: u64) -> i64 {
    let end = match end_of(address, length) {
        Some(end) if is_any() => end,
        _ => return call!(number::MADVISE, address, length, advice),
    };
    let mut from = address;
    loop {
        let pages = PAGES.iter().map(|slot| slot.load(Ordering::Acquire) & !PLAIN);
        let next = pages.filter(|page| *page != 0 && (from..end).contains(page)).min().unwrap_or(end);
        // An empty range is asked about, too, where it is all there is.
        if next > from || end == address {
            let result = call!(number::MADVISE, from, next - from, advice);
            if result < 0 {
                return result;
            }
        }
        if next == end {
            return 0;
        }
        from = next + PAGE;
        if from == end {
            return 0;
        }
    }
}
