//! Windows: parts of files that the process reads again and again, mapped to be read (ADR 61). Where read(2) is, `positions.rs` knows.
//!
//! Up to where a file can be read so is in its entry of the table of direct descriptors. The sentry lowers that before
//! anybody in the sandbox makes the file shorter, and it is looked at behind the copy as before it: what was copied was
//! there. Where the host's own processes can make it shorter, that is noticed behind the thread's next request, and within a
//! millisecond: so often a byte at that end is read by a call. A page that is gone is a fault, and everything that is odd is
//! the host's call.
//!
//! One place has one window, of the file that uses it most. Its key says of which descriptor it is; whoever takes it away
//! changes the key first, and who copies looks at it once more behind that.

use crate::call;
use crate::host::{self, number, HIGHEST, PAGE};
use crate::layout::position::changes;
use crate::layout::windows::{BASE, FOR_GOOD, MOST, PLACES, SIZE};
use crate::layout::{direct as right, DirectEntry};
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// A window is made after so many reads, and moved after as many in vain; twice as many each time that one was of little use.
const READS: u32 = 32;
const MOST_READS: u32 = 1 << 20;
/// A window that was used so often has paid for itself.
const USES: u32 = 1024;
/// Of the processor's clock, about.
const MILLISECOND: u64 = 2_500_000;
const DESCRIPTOR: u64 = 0xffff_ffff;
const PROT_READ: u64 = 1;
/// MAP_PRIVATE: nobody can tell it from a shared one that is not written, and the file is not taken for one that is.
const MAP_PRIVATE_FIXED: u64 = 0x12;
const MADV_DONTFORK: u64 = 10;

struct Place {
    /// 0: none. Else the host's descriptor, with one bit more and a number that no two windows share.
    key: AtomicU64,
    /// Where in the file it begins and ends.
    start: AtomicU64,
    end: AtomicU64,
    /// As long as this the file's end is believed, by the processor's clock; and [`WRITES`] when it was.
    until: AtomicU64,
    writes: AtomicU64,
    /// Behind which request of which thread that is so.
    request: AtomicU64,
    /// Reads that could not be made in it, and how many of them are enough.
    misses: AtomicU32,
    patience: AtomicU32,
    uses: AtomicU32,
    /// Reads at a position that is not lent (`positions.rs`), and how many of them are enough.
    unlent: AtomicU32,
    unlent_patience: AtomicU32,
    /// The position's word when that was asked for.
    asked_at: AtomicU64,
}

#[link_section = ".data"]
static ALL: [Place; PLACES] = [const {
    Place {
        key: AtomicU64::new(0),
        start: AtomicU64::new(0),
        end: AtomicU64::new(0),
        until: AtomicU64::new(0),
        writes: AtomicU64::new(0),
        request: AtomicU64::new(0),
        misses: AtomicU32::new(0),
        patience: AtomicU32::new(READS),
        uses: AtomicU32::new(0),
        unlent: AtomicU32::new(0),
        unlent_patience: AtomicU32::new(READS),
        asked_at: AtomicU64::new(0),
    }
}; PLACES];
/// Somebody changes what is mapped.
#[link_section = ".data"]
static BUSY: AtomicBool = AtomicBool::new(false);
/// Moved on before a descriptor is closed; and with each write, behind which a read shows in the file's time of access.
#[link_section = ".data"]
static CLOSES: AtomicU64 = AtomicU64::new(0);
#[link_section = ".data"]
static WRITES: AtomicU64 = AtomicU64::new(0);
#[link_section = ".data"]
static NUMBERS: AtomicU64 = AtomicU64::new(0);
/// The address space is limited: what is mapped here would count.
#[link_section = ".data"]
static OFF: AtomicBool = AtomicBool::new(false);

/// How a read is made.
pub enum Way {
    Done(i64),
    Host,
    /// By the sentry, which says anew how far the file can be read here.
    Sentry,
}

const KEPT: u64 = 1 << 32;
const NUMBER: u32 = 33;

fn address(index: usize) -> u64 {
    BASE + index as u64 * SIZE
}

fn place_of(guest: u64) -> (usize, &'static Place) {
    let index = guest as usize % PLACES;
    (index, &ALL[index])
}

/// pread(2) on the descriptor of `entry`, whose word is `word`.
#[inline(always)]
pub fn read(thread: &ThreadBlock, entry: &DirectEntry, word: u64, arguments: &[u64; 6]) -> Way {
    let life = entry.window_life.load(Ordering::Relaxed);
    if life == 0 {
        return Way::Host;
    }
    read_in(thread, entry, word, life, arguments)
}

/// A read(2) at a position whose word is `at`, and that is not lent: whether to have the sentry lend it now and then.
#[inline(always)]
pub fn asks(entry: &DirectEntry, at: u64, arguments: &[u64; 6]) -> Way {
    let [guest, _, count, ..] = *arguments;
    if entry.window_life.load(Ordering::Relaxed) == 0 || count == 0 || count > MOST {
        return Way::Host;
    }
    let (_, place) = place_of(guest);
    let unlent = place.unlent.load(Ordering::Relaxed).saturating_add(1);
    place.unlent.store(unlent, Ordering::Relaxed);
    if unlent < place.unlent_patience.load(Ordering::Relaxed) || OFF.load(Ordering::Relaxed) {
        return Way::Host;
    }
    place.unlent.store(0, Ordering::Relaxed);
    grow(&place.unlent_patience, changes(place.asked_at.swap(at, Ordering::Relaxed), at) >= USES.into());
    Way::Sentry
}

/// The next time it takes twice as many, if this has not paid.
fn grow(patience: &AtomicU32, has_paid: bool) {
    let now = patience.load(Ordering::Relaxed);
    patience.store(if has_paid { READS } else { (now * 2).min(MOST_READS) }, Ordering::Relaxed);
}

#[inline(never)]
fn read_in(thread: &ThreadBlock, entry: &DirectEntry, word: u64, life: u64, arguments: &[u64; 6]) -> Way {
    let [guest, to, count, position, ..] = *arguments;
    if count == 0 || count > MOST || position > i64::MAX as u64 - MOST || to > HIGHEST || OFF.load(Ordering::Relaxed) {
        return Way::Host;
    }
    let (index, place) = place_of(guest);
    let end = position + count;
    let key = place.key.load(Ordering::Acquire);
    let start = place.start.load(Ordering::Relaxed);
    let is_its = key != 0 && key & DESCRIPTOR == word & right::DESCRIPTOR;
    let is_within = end <= entry.window_end.load(Ordering::Acquire);
    if !is_its || !is_within || position < start || end > place.end.load(Ordering::Relaxed) {
        return missed(index, entry, word, position, is_within);
    }
    if place.writes.load(Ordering::Relaxed) != WRITES.load(Ordering::Relaxed) {
        place.writes.store(WRITES.load(Ordering::Relaxed), Ordering::Relaxed);
        return Way::Host;
    }
    let is_believed = match life {
        FOR_GOOD.. => is_read_lately(place),
        _ => is_believed(thread, place, key, word, entry, life),
    };
    if !is_believed {
        return Way::Host;
    }
    if !host::copy(to, address(index) + (position - start), count) {
        return Way::Host;
    }
    // The file is what it was, and so is the window.
    let still = place.key.load(Ordering::Acquire) == key
        && entry.word.load(Ordering::Acquire) == word
        && end <= entry.window_end.load(Ordering::Acquire);
    if !still {
        return Way::Host;
    }
    // Other threads look at these, too: they are written when there is something to say.
    if place.misses.load(Ordering::Relaxed) != 0 {
        place.misses.store(0, Ordering::Relaxed);
    }
    let uses = place.uses.load(Ordering::Relaxed);
    if uses < USES {
        place.uses.store(uses + 1, Ordering::Relaxed);
    }
    Way::Done(count as i64)
}

fn now() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Whether the host has seen a read in the last millisecond: its time of access tells of those that are made here, too.
fn is_read_lately(place: &Place) -> bool {
    let now = now();
    let is_lately = place.until.load(Ordering::Relaxed).wrapping_sub(now) as i64 > 0;
    if !is_lately {
        place.until.store(now + MILLISECOND, Ordering::Relaxed);
    }
    is_lately
}

/// Whether the file is taken to be as long as it was said to be.
fn is_believed(thread: &ThreadBlock, place: &Place, key: u64, word: u64, entry: &DirectEntry, life: u64) -> bool {
    let request = thread.address << 32 | u64::from(thread.sequence);
    if place.request.swap(request, Ordering::Relaxed) != request {
        // It may have told the thread that the file has changed. Where there is one read for each request, the call is all.
        place.until.store(0, Ordering::Relaxed);
        return false;
    }
    if place.until.load(Ordering::Relaxed).wrapping_sub(now()) as i64 > 0 {
        return true;
    }
    // A read as those that are made here.
    let (end, mut byte) = (entry.window_end.load(Ordering::Acquire), 0u8);
    if end == 0 || call!(number::PREAD64, word & right::DESCRIPTOR, &raw mut byte, 1, end - 1) != 1 {
        // It is hardly worth another try.
        place.patience.store(MOST_READS, Ordering::Relaxed);
        let _ = place.key.compare_exchange(key, 0, Ordering::SeqCst, Ordering::Relaxed);
        return false;
    }
    place.until.store(now() + life, Ordering::Relaxed);
    true
}

#[inline(never)]
fn missed(index: usize, entry: &DirectEntry, word: u64, position: u64, is_within: bool) -> Way {
    let place = &ALL[index];
    let misses = place.misses.load(Ordering::Relaxed).saturating_add(1);
    place.misses.store(misses, Ordering::Relaxed);
    if misses < place.patience.load(Ordering::Relaxed) {
        return Way::Host;
    }
    place.misses.store(0, Ordering::Relaxed);
    grow(&place.patience, place.uses.swap(0, Ordering::Relaxed) >= USES);
    if !is_within {
        return Way::Sentry;
    }
    if !BUSY.swap(true, Ordering::Acquire) {
        open(index, entry, word, position);
        BUSY.store(false, Ordering::Release);
    }
    Way::Host
}

/// Maps what is around `position`.
fn open(index: usize, entry: &DirectEntry, word: u64, position: u64) {
    let place = &ALL[index];
    let closes = CLOSES.load(Ordering::SeqCst);
    place.key.store(0, Ordering::SeqCst);
    // Whatever is left of others.
    call!(number::MUNMAP, address(index), SIZE);
    let start = position / SIZE * SIZE;
    let length = entry.window_end.load(Ordering::Acquire).saturating_sub(start).next_multiple_of(PAGE).min(SIZE);
    let (at, descriptor) = (address(index), word & right::DESCRIPTOR);
    if length == 0 || call!(number::MMAP, at, length, PROT_READ, MAP_PRIVATE_FIXED, descriptor, start) != at as i64 {
        return;
    }
    if call!(number::MADVISE, at, length, MADV_DONTFORK) != 0 {
        call!(number::MUNMAP, at, SIZE);
        return;
    }
    place.start.store(start, Ordering::Relaxed);
    place.end.store(start + length, Ordering::Relaxed);
    place.until.store(0, Ordering::Relaxed);
    let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
    place.key.store(descriptor | KEPT | number << NUMBER, Ordering::SeqCst);
    // Who closes a descriptor finds the window, or is seen here.
    if CLOSES.load(Ordering::SeqCst) != closes || entry.word.load(Ordering::Acquire) != word {
        close(index);
    }
}

fn close(index: usize) {
    if ALL[index].key.swap(0, Ordering::SeqCst) != 0 {
        call!(number::MUNMAP, address(index), SIZE);
    }
}

/// The host's descriptor is about to be closed.
pub fn closes(descriptor: u64) {
    CLOSES.fetch_add(1, Ordering::SeqCst);
    close_where(|key| key & DESCRIPTOR == descriptor);
}

fn close_where(is_it: impl Fn(u64) -> bool) {
    for (index, place) in ALL.iter().enumerate() {
        let key = place.key.load(Ordering::SeqCst);
        if key == 0 || !is_it(key) {
            continue;
        }
        // Where somebody else is at it, only the key goes: what is mapped there does when the place is used again.
        if BUSY.swap(true, Ordering::Acquire) {
            let _ = place.key.compare_exchange(key, 0, Ordering::SeqCst, Ordering::Relaxed);
        } else {
            close(index);
            BUSY.store(false, Ordering::Release);
        }
    }
}

/// The process is about to write by itself.
#[inline(always)]
pub fn writes() {
    WRITES.store(WRITES.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
}

/// The size of the address space is about to be limited.
pub fn limits() {
    OFF.store(true, Ordering::Relaxed);
    close_where(|_| true);
}

/// The child of a plain fork, which has none of its parent's.
pub fn forked() {
    BUSY.store(false, Ordering::Relaxed);
    for place in &ALL {
        place.key.store(0, Ordering::Relaxed);
    }
}
