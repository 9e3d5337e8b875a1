//! Reading and writing of pipes that lie in memory which their users share (ADR 48).
//!
//! A pipe that one process writes and one reads, the same or another, has its bytes in a ring that both have mapped, and the
//! sentry. One word says how many there are, and from where on. read(2) and write(2) take their side's bit in it, copy, and let
//! it go with the new state, by compare-and-exchange. Whoever else looks at the pipe in the sentry takes the loan back before, by
//! clearing a bit of the word: then nothing is answered here any more, and what was being copied does not count.
//!
//! Who has to wait looks at the word for a while, where the other side is on another CPU, and sleeps on it then. That is an
//! ordinary wait of the host's (`native.rs`), behind which the call is made again. What takes longer is the sentry's, as is what
//! fails or is odd.
//!
//! A write that is larger than a pipe goes in pieces. What is done of it is kept while the thread waits for room, and if the rest
//! is the sentry's; a signal ends it there, as on Linux. No code of the guest's runs meanwhile.
//!
//! The other side is hostile: the word can say anything at any time. What is copied stays within the ring, attempts are
//! counted, and sleep has an end.

use crate::call;
use crate::direct;
use crate::handoff::{current_cpu, ticks};
use crate::host::{self, number, HIGHEST};
use crate::layout::pipes::*;
use crate::layout::{self, action, PipeRing, Reply};
use crate::native;
use crate::registers::Registers;
use crate::serve::Outcome;
use crate::thread::{PipeWaits, ThreadBlock};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// By which descriptors this process reads and writes the pipe of each place: the descriptor plus one, the number under which
/// the sentry knows that above it. 0: not at all.
#[link_section = ".data"]
static PLACES: [Place; MOST] = [const { Place { reader: AtomicU64::new(0), writer: AtomicU64::new(0) } }; MOST];

struct Place {
    reader: AtomicU64,
    writer: AtomicU64,
}

/// There is something in there.
#[link_section = ".data"]
static ANY: AtomicBool = AtomicBool::new(false);
#[link_section = ".data"]
static MAY_SPIN: AtomicBool = AtomicBool::new(false);

/// Writes of so many bytes are not torn apart (limits.h).
const PIPE_BUF: u64 = 4096;
/// Larger calls are the sentry's.
const MOST_BYTES: u64 = 1 << 24;

const PROT_READ_WRITE: u64 = 3;
const MAP_SHARED_FIXED: u64 = 0x11;
const MADV_DONTFORK: u64 = 10;

/// Changes by others during one call after which it is the sentry's.
const ATTEMPTS: u32 = 64;
/// How long who waits spins at the most, in ticks of the processor's clock: what waking another CPU takes, about.
const SPIN: u64 = 100_000;
const LOOKS: u32 = 16;
/// After these the host has run something else in our place.
const PREEMPTED: u64 = 100_000;
/// Waits without spinning after which it is tried again.
const SKIPS: u64 = 32;
/// How long a thread sleeps here. Then it waits in the sentry, whatever others have made of the word.
const SLEEP: [u64; 2] = [0, 50_000_000];
/// The same in ticks: less than that, wherever the clock is a fast one.
const LONG: u64 = 60_000_000;

/// Maps a pipe, as an operation says.
pub fn map(arguments: &[u64; 6]) {
    let [descriptor, index, pipe_number, reader, writer, may_spin] = *arguments;
    let Some(place) = PLACES.get(index as usize) else { return };
    // What was there is lent no more, and nobody is in the middle of it.
    place.reader.store(0, Ordering::Relaxed);
    place.writer.store(0, Ordering::Relaxed);
    let address = ring_address(index as usize);
    let mapped = call!(number::MMAP, address, SIZE, PROT_READ_WRITE, MAP_SHARED_FIXED, descriptor, 0);
    call!(number::CLOSE, descriptor);
    if mapped != address as i64 || call!(number::MADVISE, address, SIZE, MADV_DONTFORK) < 0 {
        return;
    }
    MAY_SPIN.store(may_spin != 0, Ordering::Relaxed);
    let told = |descriptor: u64| if descriptor == NONE { 0 } else { pipe_number << 32 | (descriptor + 1) & 0xffff_ffff };
    place.reader.store(told(reader), Ordering::Release);
    place.writer.store(told(writer), Ordering::Release);
    ANY.store(true, Ordering::Release);
}

/// In the child of a plain fork, which has none of its parent's.
pub fn forked() {
    // Most have none; then a page of the stub's stays shared with the parent.
    if ANY.load(Ordering::Relaxed) {
        for place in &PLACES {
            place.reader.store(0, Ordering::Relaxed);
            place.writer.store(0, Ordering::Relaxed);
        }
        ANY.store(false, Ordering::Relaxed);
    }
}

fn ring_address(index: usize) -> u64 {
    layout::PIPES_BASE + index as u64 * layout::pipes::STRIDE
}

/// Serves a call on a pipe that is shared. `None`: it is the sentry's.
#[inline(always)]
pub fn try_pipe(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    if registers.rax > number::WRITE || !ANY.load(Ordering::Acquire) {
        return None;
    }
    serve(thread, registers)
}

#[inline(never)]
fn serve(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    let writes = registers.rax == number::WRITE;
    let [descriptor, address, count, ..] = registers.arguments();
    // SAFETY: within the channel, which is mapped as long as the thread lives; accessed atomically.
    let answers = unsafe { AtomicU32::from_ptr(&raw mut (*thread.channel()).local.enabled) };
    if answers.load(Ordering::Acquire) == 0 || thread.gs_taken != 0 || direct::is_off(thread) {
        return None;
    }
    if address > HIGHEST || count == 0 || count > MOST_BYTES {
        return None;
    }
    let wanted = (descriptor & 0xffff_ffff) + 1;
    let find = |place: &Place| {
        let told = if writes { &place.writer } else { &place.reader }.load(Ordering::Acquire);
        (told & 0xffff_ffff == wanted).then_some(told >> 32)
    };
    let (index, pipe_number) = PLACES.iter().enumerate().find_map(|(index, place)| Some((index, find(place)?)))?;
    let in_pieces = writes && count > DATA as u64;
    let side = Side { ring: ring_address(index) as *mut PipeRing, number: pipe_number << NUMBER, writes, in_pieces };
    side.transfer(thread, registers, address, count)
}

/// One end of a pipe.
struct Side {
    ring: *mut PipeRing,
    /// As the word has it.
    number: u64,
    writes: bool,
    /// A write that is larger than the ring.
    in_pieces: bool,
}

impl Side {
    fn word(&self) -> &AtomicU64 {
        // SAFETY: the ring is mapped as long as its place says so, and is accessed atomically only.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.ring).word) }
    }

    /// Where this side runs, and the other one.
    fn cpus(&self) -> (&AtomicU32, &AtomicU32) {
        // SAFETY: as above.
        let (reader, writer) = unsafe {
            (AtomicU32::from_ptr(&raw mut (*self.ring).reader_cpu), AtomicU32::from_ptr(&raw mut (*self.ring).writer_cpu))
        };
        if self.writes {
            (writer, reader)
        } else {
            (reader, writer)
        }
    }

    fn pick(&self, if_reader: u64, if_writer: u64) -> u64 {
        if self.writes {
            if_writer
        } else {
            if_reader
        }
    }

    fn busy(&self) -> u64 {
        self.pick(READING, WRITING)
    }

    fn is_lent(&self, word: u64) -> bool {
        word & (VALID | NUMBER_MASK) == VALID | self.number && word & FILL <= DATA as u64
    }

    /// How many of `left` bytes can go now. Writes go whole, but for those that are larger than the ring.
    fn possible(&self, word: u64, left: u64) -> u64 {
        let fill = word & FILL;
        let room = DATA as u64 - fill;
        if !self.writes {
            left.min(fill)
        } else if left <= room {
            left
        } else if self.in_pieces && room >= PIPE_BUF {
            room
        } else {
            0
        }
    }

    fn transfer(&self, thread: &mut ThreadBlock, registers: &mut Registers, address: u64, count: u64) -> Option<Outcome> {
        let word = self.word();
        let since = core::mem::take(&mut thread.pipe_waits.since);
        let mut done = core::mem::take(&mut thread.pipe_waits.done).min(count);
        let here = current_cpu() + 1;
        let (own_cpu, other_cpu) = self.cpus();
        if own_cpu.load(Ordering::Relaxed) != here {
            own_cpu.store(here, Ordering::Relaxed);
        }
        let (mut spun, mut attempts) = (false, 0);
        while attempts < ATTEMPTS {
            attempts += 1;
            let before = word.load(Ordering::Acquire);
            if !self.is_lent(before) || before & self.busy() != 0 {
                break;
            }
            let is_nonblocking = before & self.pick(READER_NONBLOCKING, WRITER_NONBLOCKING) != 0;
            let length = self.possible(before, count - done);
            if length == 0 || is_nonblocking && self.in_pieces {
                let is_long = since != 0 && ticks().wrapping_sub(since) > LONG;
                if is_nonblocking || is_long {
                    break;
                }
                if !core::mem::replace(&mut spun, true)
                    && other_cpu.load(Ordering::Relaxed) != here
                    && self.spin(&mut thread.pipe_waits, count - done)
                {
                    continue;
                }
                let waiting = before | self.pick(READER_WAITS, WRITER_WAITS);
                if word.compare_exchange(before, waiting, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                    continue;
                }
                // Who gets on with it does not wait for long.
                thread.pipe_waits.since = if since != 0 && !self.in_pieces { since } else { ticks() | 1 };
                thread.pipe_waits.done = done;
                return Some(native::wait_and_call_again(thread, registers, word.as_ptr() as u64, waiting as u32, SLEEP));
            }
            if word.compare_exchange_weak(before, before | self.busy(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            if !self.copy(before, address + done, length) || !self.publish(length) {
                word.fetch_and(!self.busy(), Ordering::Release);
                break;
            }
            done += length;
            if !self.in_pieces || done == count {
                return Some(Outcome::Return(done as i64));
            }
            (spun, attempts) = (false, 0);
        }
        thread.pipe_waits.done = done;
        None
    }

    /// Copies out of the ring, or into it. False: the memory is not there.
    fn copy(&self, word: u64, address: u64, length: u64) -> bool {
        let start = (word & START_MASK) >> START;
        let at = if self.writes { (start + (word & FILL)) % DATA as u64 } else { start };
        let data = self.ring as u64 + DATA_OFFSET as u64;
        let first = length.min(DATA as u64 - at);
        if self.writes {
            host::copy(data + at, address, first) && host::copy(data, address + first, length - first)
        } else {
            host::copy(address, data + at, first) && host::copy(address + first, data, length - first)
        }
    }

    /// What was copied counts, and who waits for it is woken. False: the loan has ended meanwhile.
    fn publish(&self, length: u64) -> bool {
        let word = self.word();
        for _ in 0..ATTEMPTS {
            let before = word.load(Ordering::Acquire);
            if !self.is_lent(before) || before & self.busy() == 0 {
                return false;
            }
            let (fill, start) = (before & FILL, (before & START_MASK) >> START);
            let (fill, start) = if self.writes {
                (fill + length, start)
            } else {
                // Only a hostile writer has taken some of it away.
                (fill.saturating_sub(length), (start + length) % DATA as u64)
            };
            // What is used is kept small: an empty ring begins at its beginning.
            let start = if fill == 0 && before & WRITING == 0 { 0 } else { start };
            if fill > DATA as u64 {
                return false;
            }
            let calls = if before & CALLS == CALLS { CALLS } else { (before & CALLS) + CALL };
            let waits = self.pick(WRITER_WAITS, READER_WAITS);
            let kept = before & !(FILL | START_MASK | CALLS | self.busy() | waits);
            let after = kept | fill | start << START | calls;
            if word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                if before & waits != 0 {
                    native::wake_all(word.as_ptr() as u64);
                }
                return true;
            }
        }
        false
    }

    /// Looks at the word until something has changed for who wants `count` bytes. False: nothing has, for as long as it is worth.
    fn spin(&self, waits: &mut PipeWaits, count: u64) -> bool {
        if !MAY_SPIN.load(Ordering::Relaxed) {
            return false;
        }
        if waits.spins > SPIN && waits.skipped < SKIPS {
            waits.skipped += 1;
            return false;
        }
        waits.skipped = 0;
        let start = ticks();
        let mut now = start;
        loop {
            for _ in 0..LOOKS {
                let word = self.word().load(Ordering::Acquire);
                if !self.is_lent(word) || self.possible(word, count) != 0 {
                    waits.count(now.wrapping_sub(start));
                    return true;
                }
                core::hint::spin_loop();
            }
            let before = core::mem::replace(&mut now, ticks());
            if now.wrapping_sub(before) > PREEMPTED {
                // Somebody else wants this CPU.
                waits.spins = 8 * SPIN;
                return false;
            }
            if now.wrapping_sub(start) > SPIN {
                waits.count(2 * SPIN);
                return false;
            }
        }
    }
}

/// What is done of the write that the sentry is asked to go on with, or that ends here.
pub fn take_done(thread: &mut ThreadBlock) -> u64 {
    core::mem::take(&mut thread.pipe_waits.done)
}

/// The sentry's answer to a call on what `done` has left of a write, as that to the whole one: what has gone counts, whatever
/// comes of the rest, and is not written once more.
pub fn amend(answer: &mut Reply, done: u64) {
    let together = |rest: i64| done as i64 + rest.max(0);
    match (answer.action, answer.resume) {
        (action::RETURN, _) => answer.value = together(answer.value),
        (action::RESTART | action::AS_IS, _) => (answer.action, answer.value) = (action::RETURN, together(0)),
        (action::HANDLER, action::RETURN) => answer.value = together(answer.value),
        (action::HANDLER, _) => (answer.resume, answer.value) = (action::RETURN, together(0)),
        _ => {}
    }
}

impl PipeWaits {
    fn count(&mut self, time: u64) {
        self.spins = self.spins - self.spins / 4 + time / 4;
    }
}
