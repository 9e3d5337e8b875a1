//! Mappings of small files that are copies (ADR 40).
//!
//! A file that is lent, whole, can be mapped without the sentry where the mapping is private and read only: what it shows is
//! copied into memory of the process's own. Such a page is told from a file's by madvise(2) alone, which makes zeros of
//! anonymous memory and brings a file's data back: so the pages that are copies are remembered here, and are spared.
//! Whatever takes one away or maps something else over it has it forgotten before.

use crate::call;
use crate::host::{self, number};
use crate::layout::{RESERVED_END, STUB_BASE};
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const PAGE: u64 = 4096;
/// How many pages can be remembered: without room for one more nothing is copied.
const MOST: usize = 64;
/// Addresses of pages; 0: none. One list per address space: a fork's child has copies of both.
#[link_section = ".data"]
static PAGES: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];
/// At least as many as there are.
#[link_section = ".data"]
static COUNT: AtomicU32 = AtomicU32::new(0);

const PROT_READ: u64 = 1;
const PROT_READ_WRITE: u64 = 3;
const MAP_PRIVATE_ANONYMOUS: u64 = 0x22;

/// Maps a copy of the `size` bytes at `data`. `None`: the sentry is to map the file.
pub fn map(data: u64, size: u64, length: u64) -> Option<u64> {
    let whole = size.next_multiple_of(PAGE);
    // Behind a file's last page there is nothing.
    if size == 0 || length == 0 || length > whole {
        return None;
    }
    let length = length.next_multiple_of(PAGE);
    let mapped = call!(number::MMAP, 0, length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS, -1i64, 0);
    if mapped < 0 {
        return None;
    }
    let address = mapped as u64;
    let done = !(address < RESERVED_END && address + length > STUB_BASE)
        && remember(address, length)
        && host::copy(address, data, size.min(length))
        && call!(number::MPROTECT, address, length, PROT_READ) == 0;
    if !done {
        unmap(address, length);
        return None;
    }
    Some(address)
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
        match slot.compare_exchange(0, page, Ordering::AcqRel, Ordering::Relaxed) {
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
        let page = slot.load(Ordering::Acquire);
        if page == 0 || page < address || page >= end {
            continue;
        }
        let new = target.filter(|(_, room)| page - address < *room).map_or(0, |(target, _)| target + (page - address));
        if slot.compare_exchange(page, new, Ordering::AcqRel, Ordering::Relaxed).is_ok() && new == 0 {
            COUNT.fetch_sub(1, Ordering::AcqRel);
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
        let pages = PAGES.iter().map(|slot| slot.load(Ordering::Acquire));
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
