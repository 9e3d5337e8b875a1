//! Reading and writing of pipes and of connected stream sockets that lie in memory which their users share (ADR 48, 52).
//!
//! A pipe that one process writes and one reads, the same or another, has its bytes in a ring that both have mapped, and the
//! sentry; a connection has two, one each way. One word says how many bytes there are, and from where on. Calls that read or
//! write take their side's bit in it, copy, and let it go with the new state, by compare-and-exchange. Whoever else looks at the
//! ring in the sentry takes the loan back before, by clearing a bit of the word: then nothing is answered here any more, and what
//! was being copied does not count.
//!
//! Who has to wait looks at the word for a while, where the other side is on another CPU, and sleeps on it then. That is an
//! ordinary wait of the host's (`native.rs`), behind which the call is made again. What takes longer is the sentry's, as is what
//! fails or is odd. A socket's buffer holds more than a ring: who finds that full sleeps only a little before the sentry takes
//! the rest.
//!
//! Who watches the ring in the sentry sets a bit of the word, and looks at it then. Whoever makes a change that is to be told of
//! takes the bit away with it, in one step, and makes his call there all the same, with nothing left to do.
//!
//! A write that is larger than a ring goes in pieces. What is done of it is kept while the thread waits for room, and if the rest
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
use crate::thread::{Patience, ThreadBlock, Way};
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicU8, Ordering};

/// By which descriptors this process reads and writes the first ring of each place: the descriptor plus one, above it the number
/// under which the sentry knows the place, and whether that is a connection. 0: not at all.
#[link_section = ".data"]
static PLACES: [Place; MOST] = [const { Place { reader: AtomicU64::new(0), writer: AtomicU64::new(0) } }; MOST];

struct Place {
    reader: AtomicU64,
    writer: AtomicU64,
}

const TOLD_NUMBER: u32 = 32;
const TOLD_CONNECTION: u64 = 1 << 48;

/// In which ring to look for a descriptor that reads, and for one that writes: its index plus one. What `PLACES` says counts.
#[link_section = ".data"]
static READ_BY: [AtomicU8; DESCRIPTORS] = [const { AtomicU8::new(0) }; DESCRIPTORS];
#[link_section = ".data"]
static WRITTEN_BY: [AtomicU8; DESCRIPTORS] = [const { AtomicU8::new(0) }; DESCRIPTORS];

const _: () = assert!(MOST * RINGS < 256);

/// There is something in there.
#[link_section = ".data"]
static ANY: AtomicBool = AtomicBool::new(false);
#[link_section = ".data"]
static MAY_SPIN: AtomicBool = AtomicBool::new(false);

/// Writes to pipes of so many bytes are not torn apart (limits.h).
const PIPE_BUF: u64 = 4096;
/// Calls with more pieces are the sentry's.
const VECTORS: usize = 16;
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
/// Whoever has the CPU that was given away for longer than that computes.
const LONG_WAY: u64 = 1_200_000;
/// So many waits it is left alone then at the most.
const MOST_SKIPS: u64 = 8192;
/// In less than that nobody else has run: it has cost next to nothing.
const SHORT_WAY: u64 = 12_500;
const FEW_SKIPS: u64 = 4;
/// Waits without spinning, or giving way, after which it is tried again: at the most, and for who has just begun not to.
const SKIPS: u32 = 32;
const FIRST_SKIPS: u32 = 8;
/// How long a thread sleeps here. Then it waits in the sentry, whatever others have made of the word.
const SLEEP: [u64; 2] = [0, 50_000_000];
/// The same in ticks: less than that, wherever the clock is a fast one.
const LONG: u64 = 60_000_000;
/// How long for room in a connection.
const SLEEP_FOR_ROOM: [u64; 2] = [0, 2_000_000];
const LONG_FOR_ROOM: u64 = 2_400_000;

const MSG_DONTWAIT: u64 = 0x40;
const MSG_NOSIGNAL: u64 = 0x4000;
const EAGAIN: i64 = -11;

/// Maps a pipe or connection, as an operation says.
pub fn map(arguments: &[u64; 6]) {
    let [descriptor, index, place_number, reader, writer, told_how] = *arguments;
    let Some(place) = PLACES.get(index as usize) else { return };
    // What was there is lent no more, and nobody is in the middle of it.
    place.reader.store(0, Ordering::Relaxed);
    place.writer.store(0, Ordering::Relaxed);
    let is_connection = told_how & how::CONNECTION != 0;
    let first = index as usize * RINGS;
    let (address, size) = (ring_address(first), if is_connection { STRIDE + SIZE } else { SIZE });
    let mapped = call!(number::MMAP, address, size, PROT_READ_WRITE, MAP_SHARED_FIXED, descriptor, 0);
    call!(number::CLOSE, descriptor);
    if mapped != address as i64 || call!(number::MADVISE, address, size, MADV_DONTFORK) < 0 {
        return;
    }
    MAY_SPIN.store(told_how & how::MAY_SPIN != 0, Ordering::Relaxed);
    let kind = if is_connection { TOLD_CONNECTION } else { 0 };
    let told = |by: u64| if by == NONE { 0 } else { kind | place_number << TOLD_NUMBER | (by + 1) & 0xffff_ffff };
    place.reader.store(told(reader), Ordering::Release);
    place.writer.store(told(writer), Ordering::Release);
    let note = |table: &[AtomicU8; DESCRIPTORS], by: u64, ring: usize| {
        if let Some(entry) = table.get(by as usize) {
            entry.store(ring as u8 + 1, Ordering::Release);
        }
    };
    note(&READ_BY, reader, first);
    note(&WRITTEN_BY, writer, first);
    if is_connection {
        note(&READ_BY, writer, first + 1);
        note(&WRITTEN_BY, reader, first + 1);
    }
    ANY.store(true, Ordering::Release);
}

/// In the child of a plain fork, which has none of its parent's.
#[link_section = ".calls"]
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
    layout::PIPES_BASE + (index * STRIDE) as u64
}

/// Serves a call on a pipe or connection that is shared. `None`: it is the sentry's.
#[inline(always)]
pub fn try_pipe(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    let is_transfer = matches!(
        registers.rax,
        number::READ
            | number::WRITE
            | number::READV
            | number::WRITEV
            | number::SENDTO
            | number::RECVFROM
            | number::SENDMSG
            | number::RECVMSG
    );
    if !is_transfer || !ANY.load(Ordering::Acquire) {
        return None;
    }
    serve(thread, registers)
}

/// The ring that is read, or written, by a descriptor, as far as this process has been told of it.
fn side_of(descriptor: u64, writes: bool) -> Option<Side> {
    let table = if writes { &WRITTEN_BY } else { &READ_BY };
    let index = usize::from(table.get(descriptor as usize)?.load(Ordering::Acquire)).checked_sub(1)?;
    let place = PLACES.get(index / RINGS)?;
    // Who reads a connection's first ring writes its second.
    let by_reader = writes == (index % RINGS != 0);
    let told = if by_reader { &place.reader } else { &place.writer }.load(Ordering::Acquire);
    if told & 0xffff_ffff != descriptor + 1 {
        return None;
    }
    let number = (told >> TOLD_NUMBER & 0xffff) << NUMBER;
    let is_connection = told & TOLD_CONNECTION != 0;
    Some(Side { ring: ring_address(index) as *mut PipeRing, number, writes, is_connection, in_pieces: false })
}

#[inline(never)]
fn serve(thread: &mut ThreadBlock, registers: &mut Registers) -> Option<Outcome> {
    let writes = matches!(registers.rax, number::WRITE | number::WRITEV | number::SENDTO | number::SENDMSG);
    let [descriptor, address, count, flags, name, _] = registers.arguments();
    // SAFETY: within the channel, which is mapped as long as the thread lives; accessed atomically.
    let answers = unsafe { AtomicU32::from_ptr(&raw mut (*thread.channel()).local.enabled) };
    if answers.load(Ordering::Acquire) == 0 || thread.gs_taken != 0 || direct::is_off(thread) {
        return None;
    }
    let mut side = side_of(descriptor & 0xffff_ffff, writes)?;
    let mut may_wait = true;
    if matches!(registers.rax, number::READV | number::WRITEV) {
        return transfer_vectors(&side, thread, registers, address, count, true);
    }
    if matches!(registers.rax, number::SENDMSG | number::RECVMSG) {
        return transfer_message(&side, thread, registers, address, count);
    }
    if matches!(registers.rax, number::SENDTO | number::RECVFROM) {
        if !side.is_connection || name != 0 || flags & 0xffff_ffff & !(MSG_DONTWAIT | MSG_NOSIGNAL) != 0 {
            return None;
        }
        may_wait = flags & MSG_DONTWAIT == 0;
    }
    side.in_pieces = writes && (side.is_connection || count > DATA as u64);
    side.transfer(thread, registers, &[[address, count]], may_wait)
}

/// readv(2) and writev(2). These go whole: what is done of one is only told of memory that is one piece.
#[inline(never)]
fn transfer_vectors(
    side: &Side,
    thread: &mut ThreadBlock,
    registers: &mut Registers,
    address: u64,
    count: u64,
    may_wait: bool,
) -> Option<Outcome> {
    let mut pieces = [[0u64; 2]; VECTORS];
    let given = pieces.get_mut(..count as usize)?;
    if address > HIGHEST || !host::copy(given.as_mut_ptr() as u64, address, 16 * count) {
        return None;
    }
    side.transfer(thread, registers, given, may_wait)
}

/// Where in a `struct msghdr` its flags are.
const MESSAGE_FLAGS: u64 = 48;

/// sendmsg(2) and recvmsg(2) of nothing but bytes.
#[inline(never)]
fn transfer_message(
    side: &Side,
    thread: &mut ThreadBlock,
    registers: &mut Registers,
    address: u64,
    flags: u64,
) -> Option<Outcome> {
    let mut header = [0u64; 6];
    if !side.is_connection || address > HIGHEST || flags & 0xffff_ffff & !(MSG_DONTWAIT | MSG_NOSIGNAL) != 0 {
        return None;
    }
    if !host::copy(header.as_mut_ptr() as u64, address, size_of_val(&header) as u64) {
        return None;
    }
    let [name, _, vectors, count, control, control_length] = header;
    if name != 0 || control != 0 || control_length != 0 {
        return None;
    }
    // Nothing is said of what is received; and in the header of a call that fails there can be anything.
    if !side.writes && !host::copy(address + MESSAGE_FLAGS, &raw const EMPTY_FLAGS as u64, size_of_val(&EMPTY_FLAGS) as u64) {
        return None;
    }
    transfer_vectors(side, thread, registers, vectors, count, flags & MSG_DONTWAIT == 0)
}

static EMPTY_FLAGS: u32 = 0;

/// The length of these pieces of the guest's memory; `None` where it is nothing, or the sentry's.
fn total(pieces: &[[u64; 2]]) -> Option<u64> {
    let mut total = 0;
    for &[address, length] in pieces {
        if address > HIGHEST || length > MOST_BYTES {
            return None;
        }
        total += length;
    }
    (1..=MOST_BYTES).contains(&total).then_some(total)
}

/// One end of a pipe, or of one direction of a connection.
struct Side {
    ring: *mut PipeRing,
    /// As the word has it.
    number: u64,
    writes: bool,
    is_connection: bool,
    /// A write that may go in several pieces: one that is larger than a pipe, or any to a connection.
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

    /// What waiting for it is a matter of the sentry's, and after which time: of a sleep, and of all of them in ticks.
    fn patience(&self) -> ([u64; 2], u64) {
        if self.is_connection && self.writes {
            (SLEEP_FOR_ROOM, LONG_FOR_ROOM)
        } else {
            (SLEEP, LONG)
        }
    }

    fn transfer(
        &self,
        thread: &mut ThreadBlock,
        registers: &mut Registers,
        memory: &[[u64; 2]],
        may_wait: bool,
    ) -> Option<Outcome> {
        let count = total(memory)?;
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
            let is_nonblocking = !may_wait || before & self.pick(READER_NONBLOCKING, WRITER_NONBLOCKING) != 0;
            let length = self.possible(before, count - done);
            if length == 0 || is_nonblocking && length < count - done && self.writes {
                let (sleep, long) = self.patience();
                let is_long = since != 0 && ticks().wrapping_sub(since) > long;
                if is_nonblocking && (!self.writes || !self.is_connection && count <= PIPE_BUF) {
                    // As long as it is lent, more can come, or go.
                    return Some(Outcome::Return(EAGAIN));
                }
                if is_nonblocking || is_long {
                    break;
                }
                if !core::mem::replace(&mut spun, true)
                    && other_cpu.load(Ordering::Relaxed) != here
                    && self.spin(&mut thread.pipe_waits.patience, count - done)
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
                return Some(native::wait_and_call_again(thread, registers, word.as_ptr() as u64, waiting as u32, sleep));
            }
            if word.compare_exchange_weak(before, before | self.busy(), Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            let published = if self.copy(before, memory, done, length) { self.publish(length) } else { None };
            let Some(is_watched) = published else {
                word.fetch_and(!self.busy(), Ordering::Release);
                break;
            };
            done += length;
            if is_watched {
                // What is left of it is the sentry's, too.
                thread.pipe_waits.tells = (done == count || !self.in_pieces).into();
                break;
            }
            if !self.in_pieces || done == count {
                return Some(Outcome::Return(done as i64));
            }
            (spun, attempts) = (false, 0);
        }
        thread.pipe_waits.done = done;
        None
    }

    /// Copies out of the ring, or into it, from byte `from` of the memory on. False: that is not there.
    fn copy(&self, word: u64, memory: &[[u64; 2]], from: u64, length: u64) -> bool {
        let start = (word & START_MASK) >> START;
        let mut at = if self.writes { start + (word & FILL) } else { start };
        let (mut skip, mut left) = (from, length);
        for &[address, available] in memory {
            let skipped = skip.min(available);
            let now = left.min(available - skipped);
            if !self.copy_piece(at % DATA as u64, address + skipped, now) {
                return false;
            }
            (skip, left, at) = (skip - skipped, left - now, at + now);
        }
        left == 0
    }

    fn copy_piece(&self, at: u64, address: u64, length: u64) -> bool {
        let data = self.ring as u64 + DATA_OFFSET as u64;
        let first = length.min(DATA as u64 - at);
        if self.writes {
            host::copy(data + at, address, first) && host::copy(data, address + first, length - first)
        } else {
            host::copy(address, data + at, first) && host::copy(address + first, data, length - first)
        }
    }

    /// What was copied counts, and who waits for it is woken; whether the sentry is to be told. `None`: the loan has ended meanwhile.
    fn publish(&self, length: u64) -> Option<bool> {
        self.count(length);
        let published = self.try_publish(length);
        if published.is_none() {
            self.count(length.wrapping_neg());
        }
        published
    }

    /// Whoever sees the bytes is to see them counted.
    fn count(&self, length: u64) {
        if self.writes {
            // SAFETY: as the word; who has the busy bit is the only one who changes it.
            let written = unsafe { AtomicU64::from_ptr(&raw mut (*self.ring).written) };
            written.store(written.load(Ordering::Relaxed).wrapping_add(length), Ordering::Relaxed);
        }
    }

    fn try_publish(&self, length: u64) -> Option<bool> {
        let word = self.word();
        for _ in 0..ATTEMPTS {
            let before = word.load(Ordering::Acquire);
            if !self.is_lent(before) || before & self.busy() == 0 {
                return None;
            }
            let (filled, start) = (before & FILL, (before & START_MASK) >> START);
            let (fill, start) = if self.writes {
                (filled + length, start)
            } else {
                // Only a hostile writer has taken some of it away.
                (filled.saturating_sub(length), (start + length) % DATA as u64)
            };
            // What is used is kept small: an empty ring begins at its beginning.
            let start = if fill == 0 && before & WRITING == 0 { 0 } else { start };
            if fill > DATA as u64 {
                return None;
            }
            let calls = if before & CALLS == CALLS { CALLS } else { (before & CALLS) + CALL };
            let waits = self.pick(WRITER_WAITS, READER_WAITS);
            // Who watches for bytes hears of each write, as edges count (epoll(7)); who watches for room, of the first that there is.
            let has_room = |fill: u64| DATA as u64 - fill >= ROOM;
            // How much of a connection is room the sentry knows.
            let makes_room = !self.writes && (self.is_connection || !has_room(filled) && has_room(fill));
            let watched = if self.writes { READER_WATCHED } else { u64::from(makes_room) * WRITER_WATCHED };
            let kept = before & !(FILL | START_MASK | CALLS | self.busy() | waits | watched);
            let after = kept | fill | start << START | calls | self.pick(0, ARRIVED);
            if word.compare_exchange_weak(before, after, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
                if before & waits != 0 {
                    native::wake_all(word.as_ptr() as u64);
                }
                return Some(before & watched != 0);
            }
        }
        None
    }

    /// Looks at the word until something has changed for who wants `count` bytes. False: nothing has, for as long as it is worth.
    fn spin(&self, patience: &mut Patience, count: u64) -> bool {
        spin(patience, || {
            let word = self.word().load(Ordering::Acquire);
            !self.is_lent(word) || self.possible(word, count) != 0
        })
    }
}

/// Looks until something is there. False: nothing is, for as long as it is worth.
pub fn spin(patience: &mut Patience, is_there: impl Fn() -> bool) -> bool {
    if !MAY_SPIN.load(Ordering::Relaxed) {
        return false;
    }
    if patience.spins > SPIN && patience.left_out > 0 {
        patience.left_out -= 1;
        return false;
    }
    let start = ticks();
    let mut now = start;
    loop {
        for _ in 0..LOOKS {
            if is_there() {
                patience.count(now.wrapping_sub(start));
                (patience.left_out, patience.before) = (FIRST_SKIPS, 0);
                return true;
            }
            core::hint::spin_loop();
        }
        let before = core::mem::replace(&mut now, ticks());
        let is_preempted = now.wrapping_sub(before) > PREEMPTED;
        if is_preempted && is_there() {
            // How long that took by itself is not known.
            return true;
        }
        if is_preempted || now.wrapping_sub(start) > SPIN {
            patience.count(2 * SPIN);
            patience.before = (patience.before * 2).clamp(FIRST_SKIPS, SKIPS);
            patience.left_out = patience.before;
            return false;
        }
    }
}

/// Lets others on this CPU go on, if any wait for it: the other side may be among them. False: nothing is there behind it.
pub fn give_way(way: &mut Way, is_there: impl Fn() -> bool) -> bool {
    if way.left_out > 0 {
        way.left_out -= 1;
        return false;
    }
    let start = ticks();
    call!(number::SCHED_YIELD);
    let is_there = is_there();
    let took = ticks().wrapping_sub(start);
    let is_long = took > LONG_WAY;
    way.before = if is_long {
        // Somebody has computed meanwhile. Who sleeps is given the CPU sooner.
        (way.before * 4).clamp(SKIPS.into(), MOST_SKIPS)
    } else if is_there {
        way.before / 2
    } else if took < SHORT_WAY {
        (way.before * 2).clamp(1, FEW_SKIPS)
    } else {
        (way.before * 2).clamp(1, way.before.max(SKIPS.into()))
    };
    way.left_out = if is_there && !is_long { 0 } else { way.before };
    is_there
}

/// What can be seen of a ring by who reads it, or writes it, by `descriptor`.
pub struct Seen {
    pub is_ready: bool,
    /// One more than the CPU on which the other side ran last; 0: not known.
    pub other_cpu: u32,
}

/// As much of a connection that is full is room for whoever asks, however large the socket's buffer is that it stands for.
const ROOMY: u64 = DATA as u64 * 2 / 3;

/// `None`: that is the sentry's to say.
pub fn look(descriptor: u64, writes: bool) -> Option<Seen> {
    let side = side_of(descriptor, writes)?;
    let word = side.word().load(Ordering::Acquire);
    let fill = word & FILL;
    let is_ready = if !writes { fill > 0 } else { DATA as u64 - fill.min(DATA as u64) >= ROOM };
    let is_clear = !(writes && side.is_connection) || fill <= ROOMY;
    let other_cpu = side.cpus().1.load(Ordering::Relaxed);
    (side.is_lent(word) && is_clear).then_some(Seen { is_ready, other_cpu })
}

/// Something has come of which who reads a ring has not been told yet (EPOLLET).
pub struct Edge {
    side: Side,
    word: u64,
    pub seen: Seen,
}

/// As [`look`], for who reads by `descriptor` and is told of edges. `seen` says what he is ready for if there is one.
pub fn look_for_edge(descriptor: u64) -> Option<Edge> {
    let side = side_of(descriptor, false)?;
    let word = side.word().load(Ordering::Acquire);
    let seen = Seen { is_ready: word & FILL > 0, other_cpu: side.cpus().1.load(Ordering::Relaxed) };
    (side.is_lent(word) && word & SEES_EDGES != 0).then_some(Edge { side, word, seen })
}

impl Edge {
    pub fn is_there(&self) -> bool {
        self.word & ARRIVED != 0
    }

    /// He is told of it, and of no other that comes behind what was seen. False: not that, as something has changed.
    pub fn take(&self) -> bool {
        let after = self.word & !ARRIVED;
        self.is_there() && self.side.word().compare_exchange(self.word, after, Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }
}

/// Whether the descriptor is that of something that lies here, in one direction at least.
pub fn is_lent(descriptor: u64) -> bool {
    let side = |writes| side_of(descriptor, writes);
    [side(false), side(true)].iter().flatten().any(|side| side.is_lent(side.word().load(Ordering::Acquire)))
}

/// The call is made already, and the sentry is only to be told of it.
pub fn take_tells(thread: &mut ThreadBlock) -> bool {
    core::mem::take(&mut thread.pipe_waits.tells) != 0
}

/// What is done of the call that the sentry is asked to go on with, or that ends here.
pub fn take_done(thread: &mut ThreadBlock) -> u64 {
    core::mem::take(&mut thread.pipe_waits.done)
}

/// The sentry's answer to a call on what `done` has left of it, as that to the whole one: what has gone counts, whatever comes of
/// the rest, and does not go once more.
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

impl Patience {
    fn count(&mut self, time: u64) {
        self.spins = self.spins - self.spins / 4 + time / 4;
    }
}
