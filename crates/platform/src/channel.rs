//! The page pair through which a guest thread and the sentry exchange a call and its answer.
//!
//! The other side is hostile: it may write anything, at any time. A request is therefore copied once, and nothing that
//! the sentry wrote is ever read back from the channel.

use crate::layout::{
    birth, events, line_state, loan, marshal, objects, request, shelf, streams, Certificate, ChannelLayout, CloneOrder, Events,
    First, Frame, Identity, Interest, Line, Loan, Local, Object, Operation, Phase, Reply, Request, RequestDetail, Stream,
    CHANNEL_SIZE, HEAP_MOVED, LIMITS, MAXIMUM_OPERATIONS, SHELF_OFFSET,
};
use crate::shared::{Shared, Writers};
use crate::HostError;
use std::mem::offset_of;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// The first request of a process without a channel, from its memory.
pub fn first_request(bytes: &[u8; size_of::<First>()]) -> First {
    // SAFETY: a structure of numbers: any bytes are one.
    unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) }
}

/// Whether [`Channel::poll`] has seen a request.
#[inline]
pub fn asks(state: u64) -> bool {
    state >> 32 == Phase::Request as u64
}

/// A file as it is lent ([`Channel::lend`]).
#[derive(Clone, Copy, Debug)]
pub struct Lent {
    pub descriptor: u32,
    pub position: u32,
    pub size: u64,
    /// The processor's time from which on its attributes and data count no more.
    pub until: u64,
    /// Of [`loan`].
    pub flags: u32,
    pub status_flags: u32,
    pub descriptor_flags: u32,
}

/// Names that were looked at ahead, and the one that a file was opened by: records as [`loan::NAME`] and [`loan::OPENED`]
/// have them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub records: Vec<u8>,
    pub count: u32,
    /// Where the latter is, behind the others.
    pub opened: Option<usize>,
    /// The same of what is known of a name, and of a directory's names.
    pub known: Option<usize>,
    pub filled: Option<usize>,
}

/// Names of a directory: those that `bits` ([`loan::filled`]) have no place for are not there.
#[derive(Clone, Copy, Debug)]
pub struct Filled<'a> {
    pub directory: i32,
    /// What stands before them.
    pub prefix: &'a [u8],
    pub bits: &'a [u64],
}

/// What a call has said of a name, and says again ([`loan::KNOWN`]).
#[derive(Clone, Debug)]
pub struct Known {
    pub directory: i32,
    pub name: Vec<u8>,
    /// One of [`loan::known`].
    pub kind: u32,
    pub answer: Result<Option<Box<[u8; loan::STATUS]>>, i32>,
}

impl Names {
    /// Adds one, as it is given to newfstatat(2) with AT_SYMLINK_NOFOLLOW. False: there is no room for it in `room` bytes.
    pub fn add(&mut self, directory: i32, name: &[u8], status: &[u8; loan::STATUS], room: usize) -> bool {
        if name.len() > loan::LONGEST_NAME || self.records.len() + loan::name_size(name.len()) > room {
            return false;
        }
        self.records.extend_from_slice(&(name.len() as u64 | u64::from(directory as u32) << 32).to_ne_bytes());
        self.records.extend_from_slice(status);
        self.records.extend_from_slice(name);
        self.records.resize(self.records.len().next_multiple_of(8), 0);
        self.count += 1;
        true
    }

    /// Adds one that is not there.
    pub fn add_absent(&mut self, directory: i32, name: &[u8], room: usize) -> bool {
        self.add(directory, name, &[0; loan::STATUS], room)
    }

    /// Adds what is known of a name, where there is room for it; once.
    pub fn set_known(&mut self, Known { directory, name, kind, answer }: &Known, room: usize) {
        let (status, error) = match answer {
            Ok(status) => (status.as_ref().map_or(&[][..], |status| &status[..]), 0),
            Err(error) => (&[][..], *error),
        };
        if name.len() > loan::LONGEST_NAME || loan::KNOWN + status.len() + name.len().next_multiple_of(8) > room {
            return;
        }
        self.known = Some(self.records.len());
        self.records.extend_from_slice(&(name.len() as u64 | u64::from(*directory as u32) << 32).to_ne_bytes());
        self.records.extend_from_slice(&(u64::from(*kind) | u64::from(error as u32) << 32).to_ne_bytes());
        self.records.extend_from_slice(status);
        self.records.extend_from_slice(name);
        self.records.resize(self.records.len().next_multiple_of(8), 0);
    }

    /// Says which names of a directory are there, where there is room for it; once.
    pub fn set_filled(&mut self, Filled { directory, prefix, bits }: &Filled, room: usize) {
        let size = 8 + loan::filled::WORDS * 8 + prefix.len().next_multiple_of(8);
        if prefix.len() > loan::LONGEST_NAME || bits.len() != loan::filled::WORDS || self.records.len() + size > room {
            return;
        }
        self.filled = Some(self.records.len());
        self.records.extend_from_slice(&(prefix.len() as u64 | u64::from(*directory as u32) << 32).to_ne_bytes());
        bits.iter().for_each(|word| self.records.extend_from_slice(&word.to_ne_bytes()));
        self.records.extend_from_slice(prefix);
        self.records.resize(self.records.len().next_multiple_of(8), 0);
    }

    /// Says by what the file was opened, as it was given to openat(2), where there is room for it. The last one of all.
    pub fn set_opened(&mut self, directory: i32, name: &[u8], flags: u32, room: usize) {
        if name.len() > loan::LONGEST_NAME || loan::OPENED + name.len().next_multiple_of(8) > room {
            return;
        }
        self.opened = Some(self.records.len());
        self.records.extend_from_slice(&(name.len() as u64 | u64::from(directory as u32) << 32).to_ne_bytes());
        self.records.extend_from_slice(&u64::from(flags).to_ne_bytes());
        self.records.extend_from_slice(name);
        self.records.resize(self.records.len().next_multiple_of(8), 0);
    }
}

/// What has become of a file that was lent.
#[derive(Default, Clone, Copy, Debug, PartialEq, Eq)]
pub struct Returned {
    pub position: u32,
    /// Which file the descriptor is: see [`loan::INDEX`].
    pub index: usize,
    pub was_read: bool,
    pub is_closed: bool,
    /// It has asked for something that is known of a name.
    pub has_repeated: bool,
    /// It has asked about a name that was looked at ahead.
    pub was_shown: bool,
    /// The directory whose files were opened ahead is closed.
    pub has_left: bool,
}

/// An eventfd or a pipe as it is lent ([`Channel::lend_object`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LentObject<'a> {
    /// Its counter, at most [`objects::VALUE`], and whether a read takes one of it.
    EventFd { counter: u64, is_semaphore: bool },
    /// What is in it, at most [`objects::DATA`] bytes.
    Pipe { bytes: &'a [u8] },
}

/// What a thread has done with interests that were lent to it, by their places.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ReturnedEvents {
    /// Which it has told of, by bits.
    pub told: u64,
    /// What has become of those that it has changed.
    pub changed: Vec<(usize, Interest)>,
}

/// What has become of an eventfd or a pipe that was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReturnedObject {
    /// How many calls the stub has answered, up to three.
    pub calls: u32,
    /// As the word has it: an eventfd's counter, a pipe's positions.
    value: u64,
}

impl ReturnedObject {
    /// Of an eventfd: at most [`objects::VALUE`].
    pub fn counter(&self) -> u64 {
        self.value
    }
}

/// The sentry's mapping of one thread's channel.
pub struct Channel {
    pages: Shared<ChannelLayout>,
}

impl Channel {
    /// A new channel, and the descriptor to be mapped by the application's stub.
    pub fn create() -> Result<(Channel, OwnedFd), HostError> {
        let (pages, memory) = Shared::create(c"skerry-channel", CHANNEL_SIZE, Writers::All, "making a channel's memory")?;
        Ok((Channel { pages }, memory))
    }

    /// Makes it, whose memory is `memory`, as a new one; false where its shelf has been used, as a large one is not worth while.
    /// Nobody else has it mapped, or, if it `is_untouched`, had ever.
    pub fn wipe(&self, memory: &OwnedFd, is_untouched: bool) -> bool {
        const BLOCK: u64 = 512;
        if !is_untouched && !rustix::fs::fstat(memory).is_ok_and(|status| status.st_blocks as u64 * BLOCK <= SHELF_OFFSET) {
            return false;
        }
        // All of it: whoever had it may have written anywhere, and a fork's child believes what its parent's stub knew of. Of one
        // that nobody has had there is a request, and who its thread is.
        let length = if is_untouched { offset_of!(ChannelLayout, operations) } else { SHELF_OFFSET as usize };
        // SAFETY: inside the mapping, which is ours alone.
        unsafe { std::ptr::write_bytes(self.pages.as_ptr().cast::<u8>(), 0, length) }
        true
    }

    fn line(&self) -> *mut Line {
        // SAFETY: inside the mapping, which lives as long as self; no reference is made.
        unsafe { &raw mut (*self.pages.as_ptr()).line }
    }

    #[inline]
    fn state(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically here.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.line()).state) }
    }

    /// The line's state: with `Phase::Request` somebody asks. To be looked at again and again.
    #[inline]
    pub fn poll(&self) -> u64 {
        self.state().load(Ordering::Acquire)
    }

    /// A copy of the request as it is now, without its detail, and whether it is one: else a reply to a request of that
    /// sequence lies there.
    #[inline]
    pub fn request(&self) -> (Request, bool) {
        let state = self.poll();
        // SAFETY: inside the mapping.
        let words = unsafe { std::ptr::read_volatile(&raw const (*self.line()).words) };
        (Request::from_line(state, words), asks(state))
    }

    /// Has what lies in the area, and where small results will, fetched from the CPU that wrote it, while something else is
    /// done; as far as it is short.
    #[inline]
    pub fn fetch_marshalled(&self, length: u32) {
        const MOST: usize = 512;
        const RESULTS: usize = 192;
        if length == 0 {
            return;
        }
        for at in (0..(length as usize).clamp(RESULTS, MOST)).step_by(64) {
            // SAFETY: inside the mapping; nothing is read, as far as the program is concerned.
            unsafe {
                use core::arch::x86_64::{_mm_prefetch, _MM_HINT_ET0};
                _mm_prefetch::<_MM_HINT_ET0>((&raw const (*self.pages.as_ptr()).area).cast::<i8>().add(at));
            }
        }
    }

    /// A copy of what the request says beside the call itself.
    pub fn detail(&self) -> RequestDetail {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::read_volatile(&raw const (*self.pages.as_ptr()).detail) }
    }

    /// Adds a copy of the first `length` bytes of the area to `copy`, which is empty; nothing where it has not so many.
    pub fn copy_marshalled(&self, length: u32, copy: &mut Vec<u8>) {
        let length = length as usize;
        if length > marshal::AREA {
            return;
        }
        copy.clear();
        copy.reserve(length);
        // SAFETY: `length` bytes inside the mapping go into a buffer with room for them, byte by byte as they are at that
        // time; no reference into the mapping is made.
        unsafe {
            std::ptr::copy_nonoverlapping((&raw const (*self.pages.as_ptr()).area).cast::<u8>(), copy.as_mut_ptr(), length);
            copy.set_len(length);
        }
    }

    /// Lays down what a reply has the stub write to the guest's memory; no more than the area holds.
    pub fn put_results(&self, results: &[u8]) {
        let length = results.len().min(marshal::AREA);
        // SAFETY: inside the mapping; no reference into it is made.
        unsafe { std::ptr::copy_nonoverlapping(results.as_ptr(), (&raw mut (*self.pages.as_ptr()).area).cast::<u8>(), length) }
    }

    /// Lays down and publishes the answer to the request `sequence`.
    #[inline]
    pub fn put_reply(&self, sequence: u32, reply: &Reply) {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile((&raw mut (*self.line()).words).cast::<[u64; 4]>(), reply.to_words()) };
        self.state().store(line_state(sequence, Phase::Reply), Ordering::Release);
    }

    /// Tells the stub on which CPU somebody watches this channel; `None`: nobody does.
    pub fn set_watch(&self, cpu: Option<u32>) {
        // SAFETY: inside the mapping, aligned.
        let watch = unsafe { AtomicU32::from_ptr(&raw mut (*self.pages.as_ptr()).watch.cpu) };
        watch.store(cpu.map_or(0, |cpu| cpu.wrapping_add(1)), Ordering::Release);
    }

    /// Lends the thread a file: its attributes, and `data`, which comes behind the first `start` bytes of the area; and names,
    /// behind that. Counts from the next answer on.
    pub fn lend(&self, number: u16, file: &Lent, status: &[u8; loan::STATUS], start: usize, data: &[u8], names: &Names) {
        let pages = self.pages.as_ptr();
        let end = loan::DATA - names.records.len().min(loan::DATA) / 8 * 8;
        let start = start.min(end);
        let length = data.len().min(end - start);
        let loan = Loan {
            word: 0,
            until: file.until,
            descriptor: file.descriptor,
            data: length as u32,
            size: file.size,
            start: start as u32,
            flags: file.flags,
            status_flags: file.status_flags,
            descriptor_flags: file.descriptor_flags,
            names: end as u32,
            names_count: names.count,
            opened: names.opened.map_or(0, |at| (end + at) as u16),
            known: names.known.map_or(0, |at| (end + at) as u16),
            filled: names.filled.map_or(0, |at| (end + at) as u16),
        };
        // SAFETY: inside the mapping, `length` bytes from `start` on, the names from `end` on, and the status behind them at the area's end; no
        // reference into it is made.
        unsafe {
            let area = (&raw mut (*pages).area).cast::<u8>();
            std::ptr::copy_nonoverlapping(data.as_ptr(), area.add(start), length);
            std::ptr::copy_nonoverlapping(names.records.as_ptr(), area.add(end), loan::DATA - end);
            std::ptr::copy_nonoverlapping(status.as_ptr(), area.add(loan::DATA), loan::STATUS);
            std::ptr::write_volatile(&raw mut (*pages).loan, loan);
        }
        let word = loan::VALID | u64::from(number) << loan::NUMBER | u64::from(file.position) & loan::POSITION;
        self.loan_word().store(word, Ordering::Release);
    }

    /// The same on the shelf, where `length` bytes of the file lie from [`shelf::DATA`] on, and files that were opened ahead
    /// ([`Channel::shelve_ahead`]).
    pub fn lend_on_shelf(
        &self,
        number: u16,
        file: &Lent,
        status: &[u8; loan::STATUS],
        length: usize,
        names: &Names,
        opened: &shelf::Opened,
    ) {
        let end = loan::DATA - names.records.len().min(loan::DATA) / 8 * 8;
        let loan = Loan {
            word: 0,
            until: file.until,
            descriptor: file.descriptor,
            data: length.min(shelf::SIZE - shelf::DATA) as u32,
            size: file.size,
            start: shelf::DATA as u32,
            flags: file.flags | loan::ON_SHELF,
            status_flags: file.status_flags,
            descriptor_flags: file.descriptor_flags,
            names: end as u32,
            names_count: names.count,
            opened: names.opened.map_or(0, |at| (end + at) as u16),
            known: names.known.map_or(0, |at| (end + at) as u16),
            filled: names.filled.map_or(0, |at| (end + at) as u16),
        };
        self.shelve(end, &names.records);
        self.shelve(loan::DATA, status);
        // SAFETY: inside the mapping, and aligned; no reference into it is made.
        unsafe {
            std::ptr::write_volatile(self.opened(), *opened);
            std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).loan, loan);
        }
        self.lend_again(number, Returned { position: file.position, ..Returned::default() });
    }

    /// Lends once more what lies on the shelf, with what has become of it: the descriptor is the file `index`, and stands at
    /// `position`; whether it was read, and is closed.
    pub fn lend_again(&self, number: u16, Returned { index, position, was_read, is_closed, has_left, .. }: Returned) {
        let bit = |is_set: bool, bit: u64| if is_set { bit } else { 0 };
        let closed = bit(is_closed, loan::CLOSED) | bit(was_read, loan::READ) | bit(has_left, loan::LEFT);
        let index = (index as u64) << loan::INDEX & loan::INDEX_MASK;
        let word = loan::VALID | closed | index | u64::from(number) << loan::NUMBER | u64::from(position) & loan::POSITION;
        self.loan_word().store(word, Ordering::Release);
    }

    /// Where the directory that was lent stood when the first file in it was opened, and whether it had been read.
    pub fn left_at(&self) -> (u32, bool) {
        // SAFETY: as below.
        let opened = unsafe { std::ptr::read_volatile(self.opened()) };
        (opened.left_at & !shelf::LEFT_READ, opened.left_at & shelf::LEFT_READ != 0)
    }

    fn opened(&self) -> *mut shelf::Opened {
        // SAFETY: inside the mapping; no reference is made.
        unsafe { self.shelf().add(shelf::OPENED).cast() }
    }

    /// What lies on the shelf is believed until then, but for names: these are gone.
    pub fn renew_loan(&self, until: u64) {
        // SAFETY: inside the mapping, and aligned; no reference into it is made.
        unsafe {
            let how = &raw mut (*self.opened()).how;
            std::ptr::write_volatile(how, std::ptr::read_volatile(how) & !shelf::SHOWS);
            let loan = &raw mut (*self.pages.as_ptr()).loan;
            std::ptr::write_volatile(&raw mut (*loan).until, until);
            std::ptr::write_volatile(&raw mut (*loan).names_count, 0);
            std::ptr::write_volatile(&raw mut (*loan).opened, 0);
            std::ptr::write_volatile(&raw mut (*loan).filled, 0);
        }
    }

    fn shelf(&self) -> *mut u8 {
        // SAFETY: inside the mapping; no reference is made.
        unsafe { self.pages.as_ptr().cast::<u8>().add(SHELF_OFFSET as usize) }
    }

    /// Lays `bytes` onto the shelf, as far as there is room for them at `at`. While nothing is lent there.
    pub fn shelve(&self, at: usize, bytes: &[u8]) {
        let at = at.min(shelf::SIZE);
        let length = bytes.len().min(shelf::SIZE - at);
        // SAFETY: inside the mapping, as the shelf is; no reference into it is made.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.shelf().add(at), length) }
    }

    /// Lays the first `length` bytes of a file there, from `at` on. How many there are.
    pub fn shelve_file(&self, at: usize, file: &OwnedFd, length: usize) -> Option<usize> {
        let at = at.min(shelf::SIZE);
        let length = length.min(shelf::SIZE - at);
        // SAFETY: inside the mapping, as the shelf is; the host alone writes there, which heeds no aliases.
        let room = unsafe { std::slice::from_raw_parts_mut(self.shelf().add(at).cast::<std::mem::MaybeUninit<u8>>(), length) };
        rustix::io::pread(file, room, 0).ok().map(|(read, _)| read.len())
    }

    /// Says of the file `index` (from 1 on) that it was opened ahead.
    pub fn shelve_ahead(&self, index: usize, ahead: &shelf::Ahead, status: &[u8; loan::STATUS], name: &[u8]) {
        let at = shelf::OPENED + size_of::<shelf::Opened>() + (index.clamp(1, shelf::MOST) - 1) * size_of::<shelf::Ahead>();
        self.shelve(ahead.status as usize, status);
        self.shelve(ahead.name(), name);
        // SAFETY: inside the mapping, and aligned; no reference into it is made.
        unsafe { std::ptr::write_volatile(self.shelf().add(at).cast(), *ahead) }
    }

    fn loan_word(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically here.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.pages.as_ptr()).loan.word) }
    }

    /// Takes back the file that was lent under this number, with what the thread says that it has done. `None` where there is
    /// no such loan.
    pub fn take_loan_back(&self, number: u16) -> Option<Returned> {
        let mut word = self.loan_word().load(Ordering::Acquire);
        loop {
            if word & loan::VALID == 0 || word & loan::NUMBER_MASK != u64::from(number) << loan::NUMBER {
                return None;
            }
            match self.loan_word().compare_exchange_weak(word, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => {
                    return Some(Returned {
                        position: (word & loan::POSITION) as u32,
                        index: ((word & loan::INDEX_MASK) >> loan::INDEX) as usize,
                        was_read: word & loan::READ != 0,
                        is_closed: word & loan::CLOSED != 0,
                        has_repeated: word & loan::REPEATED != 0,
                        was_shown: word & loan::SHOWN != 0,
                        has_left: word & loan::LEFT != 0,
                    })
                }
                Err(now) => word = now,
            }
        }
    }

    fn stream(&self, index: usize) -> *mut Stream {
        // SAFETY: inside the mapping, as the index is; no reference is made.
        unsafe { (&raw mut (*self.pages.as_ptr()).streams.streams).cast::<Stream>().add(index.min(streams::MOST - 1)) }
    }

    fn stream_word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically here.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.stream(index)).word) }
    }

    /// Lends the thread what lies ready in the stream behind `descriptor`: `bytes`, which go to `start` of the data. Counts
    /// from the next answer on.
    pub fn lend_stream(&self, index: usize, number: u32, descriptor: i32, start: usize, bytes: &[u8]) {
        let start = start.min(streams::DATA);
        let length = bytes.len().min(streams::DATA - start);
        let stream = Stream { word: 0, descriptor: descriptor as u32, start: start as u32, length: length as u32, _padding: 0 };
        // SAFETY: inside the mapping, `length` bytes from `start` of the data on; no reference into it is made.
        unsafe {
            let data = (&raw mut (*self.pages.as_ptr()).streams.data).cast::<u8>();
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), data.add(start), length);
            std::ptr::write_volatile(self.stream(index), stream);
        }
        self.stream_word(index)
            .store(streams::VALID | u64::from(number) << streams::NUMBER & streams::NUMBER_MASK, Ordering::Release);
    }

    /// Takes back the stream that was lent at `index` under this number: how much of it the thread says that it has read. `None`
    /// where there is no such loan.
    pub fn take_stream_back(&self, index: usize, number: u32) -> Option<usize> {
        let word = self.stream_word(index);
        let is_ours = |now: u64| {
            now & streams::VALID != 0
                && now & streams::NUMBER_MASK == u64::from(number) << streams::NUMBER & streams::NUMBER_MASK
        };
        let taken = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| is_ours(now).then_some(0)).ok()?;
        Some((taken & streams::READ) as usize)
    }

    fn events(&self) -> *mut Events {
        // SAFETY: inside the mapping; no reference is made.
        unsafe { &raw mut (*self.pages.as_ptr()).events }
    }

    fn events_word(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically here.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.events()).word) }
    }

    /// Lets the thread answer epoll_wait(2) on the guest's descriptor `epoll` from these interests, under this number, and change them
    /// if it `may_change`. Nothing else is lent so now.
    pub fn lend_events(&self, number: u32, epoll: i32, interests: &[Interest], may_change: bool) {
        let count = interests.len().min(events::MOST);
        // SAFETY: inside the mapping, at most `MOST` of them on one side; no reference into it is made.
        unsafe {
            let lent = self.events();
            std::ptr::write_volatile(&raw mut (*lent).told, 0);
            std::ptr::write_volatile(&raw mut (*lent).changed, 0);
            std::ptr::write_volatile(&raw mut (*lent).sides, 0);
            std::ptr::write_volatile(&raw mut (*lent).epoll, epoll as u32);
            std::ptr::write_volatile(&raw mut (*lent).count, count as u32);
            std::ptr::write_volatile(&raw mut (*lent).may_change, may_change.into());
            std::ptr::copy_nonoverlapping(interests.as_ptr(), (&raw mut (*lent).interests).cast::<Interest>(), count);
        }
        self.events_word().store(events::VALID | u64::from(number), Ordering::Release);
    }

    /// Ends what was lent under this number.
    pub fn take_events_back(&self, number: u32) -> ReturnedEvents {
        let is_ours = |now: u64| now & (events::VALID | events::NUMBER_MASK) == events::VALID | u64::from(number);
        let ended = self.events_word().fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| is_ours(now).then_some(0));
        let Ok(word) = ended else { return ReturnedEvents::default() };
        let lent = self.events();
        // SAFETY: inside the mapping.
        let (told, changed, others) = unsafe {
            (
                std::ptr::read_volatile(&raw const (*lent).told),
                std::ptr::read_volatile(&raw const (*lent).changed),
                std::ptr::read_volatile(&raw const (*lent).sides),
            )
        };
        let sides = events::sides(word, others);
        let interest = |index: usize| {
            let side = (sides >> index & 1) as usize;
            // SAFETY: inside the mapping, as both are in range.
            (index, unsafe { std::ptr::read_volatile(&raw const (*lent).interests[side][index]) })
        };
        let changed = (0..events::MOST).filter(|index| changed >> index & 1 != 0).map(interest).collect();
        ReturnedEvents { told, changed }
    }

    fn object(&self, index: usize) -> *mut Object {
        // SAFETY: inside the mapping, as the index is; no reference is made.
        unsafe { (&raw mut (*self.pages.as_ptr()).objects.objects).cast::<Object>().add(index.min(objects::MOST - 1)) }
    }

    fn object_word(&self, index: usize) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically here.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.object(index)).word) }
    }

    /// Where the bytes of the pipe at `index` are: [`objects::DATA`] of them.
    fn object_data(&self, index: usize) -> *mut u8 {
        // SAFETY: as above.
        unsafe { (&raw mut (*self.pages.as_ptr()).objects.data).cast::<u8>().add(index.min(objects::MOST - 1) * objects::DATA) }
    }

    /// Lends the thread an eventfd or a pipe, which it has open as `reader` and `writer`. Counts from the next answer on.
    pub fn lend_object(&self, index: usize, number: u32, reader: i32, writer: i32, object: LentObject) {
        let (kind, value) = match object {
            LentObject::EventFd { counter, is_semaphore: false } => (objects::EVENTFD, counter),
            LentObject::EventFd { counter, is_semaphore: true } => (objects::SEMAPHORE, counter),
            LentObject::Pipe { bytes } => {
                let length = bytes.len().min(objects::DATA);
                // SAFETY: inside the mapping, at most `DATA` bytes; no reference into it is made.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.object_data(index), length) }
                (objects::PIPE, length as u64)
            }
        };
        let lent = Object { word: 0, reader: reader as u32, writer: writer as u32, kind, _padding: 0 };
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile(self.object(index), lent) }
        let number = u64::from(number) << objects::NUMBER & objects::NUMBER_MASK;
        self.object_word(index).store(objects::VALID | number | value & objects::VALUE, Ordering::Release);
    }

    /// Takes back what was lent at `index` under this number. `None` where there is no such loan.
    pub fn take_object_back(&self, index: usize, number: u32) -> Option<ReturnedObject> {
        let ours = objects::VALID | u64::from(number) << objects::NUMBER & objects::NUMBER_MASK;
        let is_ours = |now: u64| now & (objects::VALID | objects::NUMBER_MASK) == ours;
        let word =
            self.object_word(index).fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| is_ours(now).then_some(0)).ok()?;
        Some(ReturnedObject { calls: ((word & objects::CALLS) / objects::CALL) as u32, value: word & objects::VALUE })
    }

    /// A copy of what is in the pipe at `index` that was given back so, never more than there can be.
    pub fn copy_object_data(&self, index: usize, returned: ReturnedObject) -> Vec<u8> {
        let (read, written) = (returned.value >> objects::READ, returned.value & objects::WRITTEN);
        let length = (written.wrapping_sub(read) & objects::WRITTEN).min(objects::DATA as u64) as usize;
        let start = read as usize % objects::DATA;
        let first = length.min(objects::DATA - start);
        let mut bytes = vec![0; length];
        // SAFETY: inside the mapping: `first` bytes from `start` on, then the rest from the beginning, into a buffer with room
        // for both, byte by byte as they are at that time; no reference into the mapping is made.
        unsafe {
            let data = self.object_data(index);
            std::ptr::copy_nonoverlapping(data.add(start), bytes.as_mut_ptr(), first);
            std::ptr::copy_nonoverlapping(data, bytes.as_mut_ptr().add(first), length - first);
        }
        bytes
    }

    /// What a process begins with that is to have this channel, as its stub reads it; of whom the sentry is asked is not told.
    pub fn certificate(
        &self,
        order: &CloneOrder,
        beginning: u32,
        descriptors: u32,
        reports: bool,
    ) -> [u8; size_of::<Certificate>()] {
        // SAFETY: inside the mapping.
        let mut local = unsafe { std::ptr::read_volatile(self.local()) };
        // Others change these, and it would not hear of it.
        let Identity { parent, group, session, .. } = &mut local.identity;
        (*parent, *group, *session) = (Identity::UNKNOWN, Identity::UNKNOWN, Identity::UNKNOWN);
        let certificate = Certificate::new(*order, beginning, descriptors, reports, local);
        // SAFETY: a structure of numbers without gaps, as a test of the layout holds.
        unsafe { std::mem::transmute(certificate) }
    }

    /// Takes over what a process has said before it had this channel: of its own state, and its first request.
    pub fn take_over(&self, first: &First) {
        let (said, local) = (&first.local, self.local());
        self.set_mask(said.mask);
        self.set_robust_list(said.robust_list);
        self.set_clear_child_tid(said.clear_child_tid);
        // SAFETY: inside the mapping, aligned; nobody else has it yet.
        unsafe {
            AtomicU64::from_ptr(&raw mut (*local).reset_restorer).store(said.reset_restorer, Ordering::Release);
            AtomicU64::from_ptr(&raw mut (*local).reset).store(said.reset, Ordering::Release);
            std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).detail, first.detail);
            std::ptr::write_volatile(&raw mut (*self.line()).words, first.words);
        }
        self.state().store(first.state, Ordering::Release);
    }

    /// Lays down, for a process that has said nothing else, that it ends with `status`.
    pub fn put_end(&self, sequence: u32, status: u32) {
        const EXIT_GROUP: u64 = skerry_abi::raw::general::__NR_exit_group as u64;
        let request = Request { kind: request::SYSCALL, number: EXIT_GROUP, ..Request::default() };
        let words = Request { arguments: [status.into(), 0, 0, 0, 0, 0], ..request }.to_words();
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile(&raw mut (*self.line()).words, words) };
        self.state().store(line_state(sequence, Phase::Request), Ordering::Release);
    }

    fn local(&self) -> *mut Local {
        // SAFETY: inside the mapping; no reference is made.
        unsafe { &raw mut (*self.pages.as_ptr()).local }
    }

    /// Who the thread is, for its stub to tell; `answers`: it may answer calls from what it knows.
    pub fn set_identity(&self, identity: &Identity, answers: bool) {
        // SAFETY: inside the mapping, aligned.
        unsafe {
            std::ptr::write_volatile(&raw mut (*self.local()).identity, *identity);
            AtomicU32::from_ptr(&raw mut (*self.local()).enabled).store(answers.into(), Ordering::Release);
        }
    }

    /// Whether the board holds for the thread.
    pub fn set_reads_board(&self, reads: bool) {
        // SAFETY: inside the mapping, aligned.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.local()).reads_board) }.store(reads.into(), Ordering::Release);
    }

    /// Whether the thread is traced: then its stub says before and behind each call where its registers are.
    pub fn set_traced(&self, is_traced: bool) {
        // SAFETY: inside the mapping, aligned.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.local()).traced) }.store(is_traced.into(), Ordering::Release);
    }

    fn mask_word(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically here.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.local()).mask) }
    }

    fn pending_word(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.local()).pending) }
    }

    /// The thread's signal mask, as it says.
    pub fn mask(&self) -> u64 {
        self.mask_word().load(Ordering::SeqCst)
    }

    pub fn set_mask(&self, mask: u64) {
        self.mask_word().store(mask, Ordering::SeqCst);
    }

    /// More signals that are pending. Whoever reads the mask behind this sees one that was changed without heed of them.
    pub fn add_pending(&self, signals: u64) {
        self.pending_word().fetch_or(signals, Ordering::SeqCst);
    }

    pub fn set_pending(&self, signals: u64) {
        self.pending_word().store(signals, Ordering::SeqCst);
    }

    fn robust_list_word(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.local()).robust_list) }
    }

    /// Where the thread's list of robust futexes begins, as it says.
    pub fn robust_list(&self) -> u64 {
        self.robust_list_word().load(Ordering::Acquire)
    }

    pub fn set_robust_list(&self, head: u64) {
        self.robust_list_word().store(head, Ordering::Release);
    }

    fn clear_child_tid_word(&self) -> &AtomicU64 {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.local()).clear_child_tid) }
    }

    /// Which word is cleared when the thread ends, as it says.
    pub fn clear_child_tid(&self) -> u64 {
        self.clear_child_tid_word().load(Ordering::Acquire)
    }

    pub fn set_clear_child_tid(&self, address: u64) {
        self.clear_child_tid_word().store(address, Ordering::Release);
    }

    /// Where the heap begins and ends, as long as only this thread can move that, and does so by itself; 0: nothing is said.
    pub fn set_heap(&self, start: u64, end: u64) {
        let [start_word, end_word] = self.heap_words();
        start_word.store(start, Ordering::Relaxed);
        end_word.store(end, Ordering::Release);
    }

    /// Where the thread says that the heap ends, if it has moved that since it was told.
    pub fn moved_heap_end(&self) -> Option<u64> {
        let [_, end] = self.heap_words();
        let end = end.load(Ordering::Acquire);
        (end & HEAP_MOVED != 0).then_some(end & !HEAP_MOVED)
    }

    fn heap_words(&self) -> [&AtomicU64; 2] {
        // SAFETY: as above.
        unsafe {
            let local = self.local();
            [AtomicU64::from_ptr(&raw mut (*local).heap_start), AtomicU64::from_ptr(&raw mut (*local).heap_end)]
        }
    }

    /// The process's limits. Of several threads of ours only one may be here.
    pub fn set_limits(&self, limits: &[[u64; 2]; LIMITS]) {
        // SAFETY: inside the mapping, aligned; the version is only ever accessed atomically here.
        unsafe {
            let told = &raw mut (*self.pages.as_ptr()).limits;
            let version = AtomicU64::from_ptr(&raw mut (*told).version);
            // A hostile version only makes the stub read what nobody has written completely.
            version.fetch_or(1, Ordering::AcqRel);
            std::sync::atomic::fence(Ordering::Release);
            std::ptr::write_volatile(&raw mut (*told).limits, *limits);
            version.fetch_add(1, Ordering::AcqRel);
        }
    }

    /// Whether the stub may make dispositions the default that are so already.
    pub fn set_may_reset(&self, may: bool) {
        // SAFETY: as above.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.local()).may_reset) }.store(may.into(), Ordering::Release);
    }

    /// Takes over what it has done so: the signals, and the restorer.
    pub fn take_reset(&self) -> (u64, u64) {
        // SAFETY: as above.
        unsafe {
            let signals = AtomicU64::from_ptr(&raw mut (*self.local()).reset).swap(0, Ordering::AcqRel);
            (signals, AtomicU64::from_ptr(&raw mut (*self.local()).reset_restorer).load(Ordering::Acquire))
        }
    }

    /// Signals whose disposition the stub does not know.
    pub fn set_actions(&self, signals: u64) {
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.local()).actions) }.store(signals, Ordering::SeqCst);
    }

    /// Lays down the frame of a handler that a reply asks for.
    pub fn put_frame(&self, frame: &Frame) {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).frame, *frame) }
    }

    /// Lays down the clone that a reply asks for.
    pub fn put_clone(&self, order: &CloneOrder) {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).clone, *order) }
    }

    /// Says whose it is, before its thread has it.
    pub fn set_token(&self, token: [u64; 2]) {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).token, token) }
    }

    /// Says how the thread that this channel is for begins: one of `BEGIN_...`.
    pub fn set_beginning(&self, beginning: u32) {
        // SAFETY: inside the mapping, aligned.
        let word = unsafe { AtomicU32::from_ptr(&raw mut (*self.pages.as_ptr()).beginning) };
        word.store(beginning, Ordering::Release);
    }

    /// Offers the thread of this channel, which is about to be parked, to the one in the slot `maker`.
    pub fn offer_birth(&self, maker: u32, ids: &[u32; birth::MOST_IDS]) {
        // SAFETY: inside the mapping, aligned.
        unsafe {
            std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).birth.maker, maker);
            std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).birth.ids, *ids);
        }
        self.birth_cell().store(birth::ENDED, Ordering::SeqCst);
    }

    fn birth_cell(&self) -> &AtomicU32 {
        // SAFETY: inside the mapping, aligned, and accessed atomically only.
        unsafe { AtomicU32::from_ptr(&raw mut (*self.pages.as_ptr()).birth.word) }
    }

    /// What has become of the offer, in its word.
    pub fn birth(&self) -> u32 {
        self.birth_cell().load(Ordering::SeqCst)
    }

    /// There is no offer any more, if nothing has become of it since.
    pub fn end_birth(&self, seen: u32) -> bool {
        self.birth_cell().compare_exchange(seen, birth::NONE, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// When the thread has begun, by the processor's clock, as its maker says.
    pub fn born(&self) -> u64 {
        // SAFETY: inside the mapping, aligned.
        unsafe { std::ptr::read_volatile(&raw const (*self.pages.as_ptr()).birth.born) }
    }

    /// Lays down the operations that a reply refers to. False: they are too many.
    pub fn put_operations(&self, operations: &[Operation]) -> bool {
        if operations.len() > MAXIMUM_OPERATIONS {
            return false;
        }
        for (index, operation) in operations.iter().enumerate() {
            // SAFETY: `index` is below the array's length.
            unsafe { std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).operations[index], *operation) }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::ftruncate;

    #[test]
    fn a_loan_is_taken_back_once_and_under_its_number_only() {
        let (channel, _memory) = Channel::create().unwrap();
        let file = Lent { descriptor: 3, position: 7, size: 9, until: 0, flags: 0, status_flags: 0, descriptor_flags: 0 };
        assert_eq!(channel.take_loan_back(0), None);
        let mut names = Names::default();
        while names.add(-100, b"name", &[3; loan::STATUS], 2 * marshal::AREA) {}
        channel.lend(5, &file, &[1; loan::STATUS], usize::MAX, &[2; 2 * marshal::AREA], &names);
        channel.lend(5, &file, &[1; loan::STATUS], 0, &[2; 2 * marshal::AREA], &Names::default());
        assert_eq!(channel.take_loan_back(6), None);
        assert_eq!(channel.take_loan_back(5), Some(Returned { position: 7, ..Returned::default() }));
        assert_eq!(channel.take_loan_back(5), None);
    }

    #[test]
    fn streams_come_back_once_and_nothing_of_them_outlives_a_wipe() {
        let (channel, memory) = Channel::create().unwrap();
        channel.lend_stream(0, 7, 5, 0, b"some");
        // The other side has read three bytes.
        channel.stream_word(0).fetch_add(3, Ordering::Relaxed);
        assert_eq!(channel.take_stream_back(0, 8), None);
        assert_eq!(channel.take_stream_back(0, 7), Some(3));
        assert_eq!(channel.take_stream_back(0, 7), None);
        // It may write there where nothing was lent.
        channel.stream_word(streams::MOST - 1).store(streams::VALID | 4, Ordering::Relaxed);
        assert!(channel.wipe(&memory, false));
        // SAFETY: inside the mapping, which nobody else has.
        let bytes = unsafe { std::slice::from_raw_parts(channel.pages.as_ptr().cast::<u8>(), CHANNEL_SIZE as usize) };
        assert!(bytes.iter().all(|byte| *byte == 0));
        // Reading has made its pages.
        assert!(!channel.wipe(&memory, false));
    }

    #[test]
    fn events_are_lent_under_one_number_at_a_time() {
        let (channel, _memory) = Channel::create().unwrap();
        channel.lend_events(7, 5, &[Interest::default(); events::MOST + 1], true);
        // SAFETY: inside the mapping, which nobody else has.
        unsafe { (*channel.events()).told = 6 };
        assert_eq!(channel.take_events_back(8), ReturnedEvents::default());
        assert_eq!(channel.take_events_back(7), ReturnedEvents { told: 6, changed: Vec::new() });
        assert_eq!(channel.take_events_back(7), ReturnedEvents::default());
    }

    /// A change is written beside what stands, and counts once the word says so.
    #[test]
    fn changes_of_interests_count_by_one_exchange() {
        let (channel, _memory) = Channel::create().unwrap();
        let interest = |descriptor| Interest { descriptor, events: 1, data: 0 };
        channel.lend_events(7, 5, &[interest(10), interest(11), interest(12)], true);
        let change = |index: usize, data: u64, counts: bool| {
            let lent = channel.events();
            let word = channel.events_word().load(Ordering::Relaxed);
            // SAFETY: inside the mapping, which nobody else has.
            unsafe {
                let sides = events::sides(word, (*lent).sides);
                let side = 1 - (sides >> index & 1) as usize;
                (*lent).sides = sides;
                (*lent).changed |= 1 << index;
                (*lent).interests[side][index] = Interest { data, ..interest(10 + index as u32) };
                if counts {
                    channel.events_word().store(events::word_after(word, index, side), Ordering::Relaxed);
                }
            }
        };
        change(2, 1, true);
        change(0, 2, true);
        change(2, 3, true);
        change(0, 4, true);
        change(0, 5, true);
        change(2, 6, false);
        change(1, 7, false);
        let now = |index: u32, data| (index as usize, Interest { data, ..interest(10 + index) });
        assert_eq!(channel.take_events_back(7).changed, [now(0, 5), now(1, 0), now(2, 3)]);
    }

    /// Whatever the words say, what comes back are interests from within.
    #[test]
    fn hostile_words_of_interests_stay_within() {
        let (channel, _memory) = Channel::create().unwrap();
        channel.lend_events(7, 5, &[], true);
        // SAFETY: inside the mapping, which nobody else has.
        unsafe { ((*channel.events()).changed, (*channel.events()).sides) = (u64::MAX, u64::MAX) };
        channel.events_word().fetch_or(u64::MAX << u32::BITS, Ordering::Relaxed);
        assert_eq!(channel.take_events_back(7).changed.len(), events::MOST);
    }

    #[test]
    fn nothing_goes_beyond_the_shelf_and_who_has_used_it_keeps_it() {
        let (channel, memory) = Channel::create().unwrap();
        channel.shelve(shelf::SIZE - 3, b"bytes");
        channel.shelve(usize::MAX, b"bytes");
        let ahead = shelf::Ahead { status: u32::MAX, name_length: 5, ..shelf::Ahead::default() };
        channel.shelve_ahead(usize::MAX, &ahead, &[1; loan::STATUS], b"bytes");
        let (large, _) = Channel::create().map(|(_, memory)| (memory, ())).unwrap();
        assert_eq!(channel.shelve_file(shelf::DATA, &large, usize::MAX), Some(shelf::SIZE - shelf::DATA));
        let file = Lent { descriptor: 3, position: 7, size: 9, until: 0, flags: 0, status_flags: 0, descriptor_flags: 0 };
        channel.lend_on_shelf(5, &file, &[1; loan::STATUS], usize::MAX, &Names::default(), &shelf::Opened::default());
        channel.loan_word().fetch_or(3 << loan::INDEX | loan::CLOSED | loan::LEFT, Ordering::Relaxed);
        let returned = Returned { position: 7, index: 3, is_closed: true, has_left: true, ..Returned::default() };
        assert_eq!(channel.take_loan_back(5), Some(returned));
        channel.lend_again(6, returned);
        assert_eq!(channel.take_loan_back(5), None);
        assert_eq!(channel.take_loan_back(6), Some(returned));
        assert!(!channel.wipe(&memory, false));
    }

    #[test]
    fn objects_come_back_once_and_never_with_more_than_there_can_be() {
        let (channel, _memory) = Channel::create().unwrap();
        channel.lend_object(0, 7, 5, 5, LentObject::EventFd { counter: 9, is_semaphore: false });
        assert_eq!(channel.take_object_back(0, 8), None);
        let word = channel.object_word(0).load(Ordering::Relaxed);
        channel.object_word(0).store(objects::after_call(objects::after_call(word, 3), 4), Ordering::Relaxed);
        assert_eq!(channel.take_object_back(0, 7).map(|returned| (returned.calls, returned.counter())), Some((2, 4)));
        assert_eq!(channel.take_object_back(0, 7), None);

        let last = objects::MOST - 1;
        channel.lend_object(last, 1 << 13 | 3, 5, 6, LentObject::Pipe { bytes: &[1; 2 * objects::DATA] });
        let returned = channel.take_object_back(last, 3).unwrap();
        assert_eq!(channel.copy_object_data(last, returned), [1; objects::DATA]);
        // Around the end, and what makes no sense.
        let (size, data) = (objects::DATA as u64, objects::DATA);
        for (read, written, length) in [(size - 1, size + 1, 2), (7, 6, data), (0, size + 1, data), (objects::WRITTEN, 0, 1)] {
            channel.lend_object(last, 3, 5, 6, LentObject::Pipe { bytes: b"" });
            let word = channel.object_word(last).load(Ordering::Relaxed);
            let value = read << objects::READ | written;
            channel.object_word(last).store(objects::after_call(word | objects::CALLS, value), Ordering::Relaxed);
            let returned = channel.take_object_back(last, 3).unwrap();
            assert_eq!((returned.calls, channel.copy_object_data(last, returned).len()), (3, length));
        }
    }

    #[test]
    fn a_channel_cannot_be_shrunk_under_the_sentry() {
        let (channel, memory) = Channel::create().unwrap();
        assert!(ftruncate(&memory, 0).is_err());
        assert_eq!((channel.request().0.kind, channel.request().1), (0, false));
        channel.put_reply(3, &Reply { value: 7, ..Reply::default() });
        assert_eq!(channel.poll(), line_state(3, Phase::Reply));
        assert!(!asks(channel.poll()) && asks(line_state(u32::MAX, Phase::Request)));
        assert!(!channel.put_operations(&vec![Operation::default(); MAXIMUM_OPERATIONS + 1]));
    }
}
