//! Pipes and FIFOs (pipe(7), fifo(7)).
//!
//! A [`Pipe`] is the queue of bytes with its counts of ends; a [`PipeEnd`] is what an open file holds of it, and dropping
//! the last one closes that side. FIFOs are in [`fifo`], splice(2) and tee(2) between pipes in [`transfer`].
//!
//! Wake-ups: readers are woken when the pipe stops being empty, writers when it stops being full; once anybody has polled
//! the pipe, at every change, since edge-triggered epoll(7) users count on hearing of each write.
//!
//! What is in a pipe can be lent to the one thread that uses it ([`crate::fs::lending`]), or to the two processes that do
//! ([`sharing`]): whoever locks the state ends that. Who only looks whether there are bytes, or room, does not end the second kind:
//! if he waits, the two are asked to tell the sentry of their next change ([`LentWatch`]).
//!
//! Lock order: `Pipe::state` of two pipes by address (transfer); wait queues are woken with it released.

pub mod fifo;
pub(crate) mod sharing;
mod slots;
pub mod transfer;

pub use fifo::{open_fifo, FifoState};

use crate::fs::file::{Events, FileOperations, OpenFile, StatusFlags, Transfer};
use crate::fs::inode::{Device, FileType, Metadata};
use crate::fs::lending::{Left, Lend, Lender, LentState, LentWatch, Usage, Watched};
use crate::run::AddressSpace;
use crate::sync::{Hears, WaitQueue};
use crate::{Context, Errno, Result};
use parking_lot::{Mutex, MutexGuard};
use sharing::{RingLoan, Sharable, SharedRing, Sharing, User};
use skerry_abi::raw::ioctl::FIONREAD;
use skerry_abi::structs::TimeSpec;
use skerry_platform::channel::LentObject;
use skerry_platform::layout::objects;
use skerry_platform::layout::pipes;
use skerry_platform::pipe_ring::Nonblocking;
use slots::{Layout, Slots, PAGE_SIZE};
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::Arc;

/// Writes of at most this size are atomic (limits.h).
pub const PIPE_BUF: usize = 4096;
/// 64 KiB (pipe(7)).
const DEFAULT_SLOTS: usize = 16;
/// What a pipe gets once the sandbox's pipes may hold [`SOFT_LIMIT_SLOTS`].
const MINIMUM_SLOTS: usize = 2;
/// 1 MiB (/proc/sys/fs/pipe-max-size).
pub const PIPE_MAX_SIZE: usize = 1 << 20;
/// 64 MiB that pipes of a sandbox may hold together at full size (/proc/sys/fs/pipe-user-pages-soft); more pipes get small.
const SOFT_LIMIT_SLOTS: usize = 16384;

/// How many slots the pipes of a sandbox may fill together.
#[derive(Default)]
pub struct PipeAccount {
    slots: AtomicUsize,
}

impl PipeAccount {
    fn take(&self, slots: usize) -> bool {
        self.slots
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                used.checked_add(slots).filter(|&sum| sum <= SOFT_LIMIT_SLOTS)
            })
            .is_ok()
    }

    fn give_back(&self, slots: usize) {
        self.slots.fetch_sub(slots, Ordering::Relaxed);
    }
}

/// A pipe.
pub struct Pipe {
    state: Mutex<State>,
    /// Who waits on an end that only reads, only writes, or does both (a FIFO opened read-write).
    read_queue: WaitQueue,
    write_queue: WaitQueue,
    both_queue: WaitQueue,
    /// Who waits in open(2) for the other end of a FIFO.
    open_queue: WaitQueue,
    /// Somebody has asked for readiness.
    polled: AtomicBool,
    usage: Usage,
    sharing: Sharing,
    account: Arc<PipeAccount>,
    inode: u64,
    owner: (u32, u32),
    created: TimeSpec,
}

struct State {
    slots: Slots,
    /// Slots taken from the account.
    accounted: usize,
    readers: usize,
    writers: usize,
    /// How often a reader or writer has come (FIFOs).
    reader_opens: u64,
    writer_opens: u64,
    /// What is in `slots`, and will be, is with who uses the pipe.
    lent: Option<Box<dyn Lender>>,
    /// These are two processes.
    lent_to_two: bool,
    /// Who has been asked to tell of changes.
    watched: LentWatch,
}

impl Pipe {
    pub fn new(context: &Context) -> Arc<Pipe> {
        let kernel = context.kernel();
        let account = kernel.pipes.clone();
        let accounted = if account.take(DEFAULT_SLOTS) { DEFAULT_SLOTS } else { 0 };
        let credentials = context.task.credentials();
        Arc::new(Pipe::with(account, accounted, kernel.anonymous_inodes.next(), (credentials.fsuid, credentials.fsgid)))
    }

    fn with(account: Arc<PipeAccount>, accounted: usize, inode: u64, owner: (u32, u32)) -> Pipe {
        Pipe {
            state: Mutex::new(State {
                slots: Slots::new(accounted.max(MINIMUM_SLOTS)),
                accounted,
                readers: 0,
                writers: 0,
                reader_opens: 0,
                writer_opens: 0,
                lent: None,
                lent_to_two: false,
                watched: LentWatch::default(),
            }),
            read_queue: WaitQueue::new(),
            write_queue: WaitQueue::new(),
            both_queue: WaitQueue::new(),
            open_queue: WaitQueue::new(),
            polled: AtomicBool::new(false),
            usage: Usage::default(),
            sharing: Sharing::default(),
            account,
            inode,
            owner,
            created: crate::time::realtime_now(),
        }
    }

    /// The two ends: for reading, for writing.
    pub fn ends(self: Arc<Pipe>) -> (PipeEnd, PipeEnd) {
        (PipeEnd::new(self.clone(), Side::Read, None), PipeEnd::new(self, Side::Write, None))
    }

    /// The state, with nothing lent any more.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        self.take_back(&mut state);
        state
    }

    fn take_back(&self, state: &mut State) {
        if let Some(lender) = state.lent.take() {
            let returned = lender.take_back();
            let calls = returned.as_ref().map_or(0, |returned| returned.calls);
            self.usage.note_loan(calls);
            // Who has made a change may be about to tell of it still, or have been killed before.
            let (asked, left) = (std::mem::take(&mut state.watched), returned.as_ref().map(|returned| returned.watched));
            let left = left.unwrap_or_default();
            if asked.reader && !left.reader {
                self.wake_readers();
            }
            if asked.writer && !left.writer {
                self.wake_writers();
            }
            if let Some(LentState::Bytes(bytes)) = returned.map(|returned| returned.state).filter(|_| calls > 0) {
                state.slots.replace(&bytes);
            }
        }
    }

    /// Nobody waits for either end, or watches it.
    fn is_quiet(&self) -> bool {
        [&self.read_queue, &self.write_queue, &self.both_queue].into_iter().all(WaitQueue::is_empty)
    }

    /// Lends what is in it, if nobody waits for it or watches it, and plain reads and writes are all that it is about.
    fn lend(&self, lend: Lend) -> bool {
        let mut state = self.lock();
        let length = state.slots.len();
        // Half of the room is to be free: a loan that is full at once is of no use.
        if !self.is_quiet() || length > objects::DATA / 2 || state.slots.limit() < MINIMUM_SLOTS || state.slots.has_packets() {
            return false;
        }
        let mut bytes = [0; objects::DATA / 2];
        state.slots.peek(&mut bytes[..length]);
        state.lent = Some(lend(LentObject::Pipe { bytes: &bytes[..length] }));
        state.lent_to_two = false;
        true
    }

    /// The two may be watched: then they tell of changes.
    fn watch(&self) -> Option<LentWatch> {
        let queues = [&self.read_queue, &self.write_queue, &self.both_queue];
        let watch = || LentWatch { reader: !self.read_queue.is_empty(), writer: !self.write_queue.is_empty() };
        let all_look = |queue: &WaitQueue| queue.all_hear(Hears::Levels);
        (queues.into_iter().all(all_look) && self.both_queue.is_empty()).then(watch)
    }

    /// What one who reads or writes can do, where that can be seen while the pipe is lent. `watched`: he is woken when that changes.
    fn look(&self, state: &mut State, direction: Transfer, watched: Watched) -> Option<usize> {
        let found = state.lent.as_ref()?.look(direction, watched);
        match direction {
            _ if found.is_none() || watched == Watched::No => {}
            Transfer::Read => state.watched.reader = true,
            Transfer::Write => state.watched.writer = true,
        }
        found
    }

    /// The same by a ring, which holds exactly what the pipe does: who finds that full waits as it would here.
    fn lend_shared(&self, ring: &Arc<SharedRing>, how: Nonblocking) -> bool {
        let mut state = self.state.lock();
        let is_open = state.readers > 0 && state.writers > 0 && (ring.is_one_process() || state.readers + state.writers == 2);
        let length = state.slots.len();
        let fits = state.slots.limit() * PAGE_SIZE == pipes::DATA && length <= pipes::DATA && !state.slots.has_packets();
        if state.lent.is_some() || !is_open || !fits {
            return false;
        }
        // Whoever comes into a queue from here on looks behind that.
        let Some(watched) = self.watch() else { return false };
        // Who waits for room hears of a reader that makes some. Pages that are not full have what is no room here and is there (and
        // who has been woken has not looked yet).
        if watched.writer && pipes::DATA - length >= pipes::ROOM as usize {
            return false;
        }
        let mut bytes = vec![0; length];
        state.slots.peek(&mut bytes);
        if !ring.rings[0].lend(&bytes, how, watched.bits()) {
            return false;
        }
        state.lent = Some(Box::new(RingLoan { shared: ring.clone(), index: 0 }));
        state.watched = watched;
        state.lent_to_two = !ring.is_one_process();
        true
    }

    fn wake_readers(&self) {
        self.read_queue.wake_all();
        self.both_queue.wake_all();
    }

    fn wake_writers(&self) {
        self.write_queue.wake_all();
        self.both_queue.wake_all();
    }

    fn read(&self, buffer: &mut [u8]) -> Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let mut state = self.lock();
        if state.slots.is_empty() {
            return if state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
        }
        let was_full = state.slots.is_full();
        let count = state.slots.read(buffer);
        let has_room = was_full && !state.slots.is_full();
        drop(state);
        if has_room || self.polled.load(Ordering::Relaxed) {
            self.wake_writers();
        }
        Ok(count)
    }

    fn write(&self, bytes: &[u8], layout: Layout) -> Result<usize> {
        let mut state = self.lock();
        if bytes.is_empty() {
            return Ok(0);
        }
        if state.readers == 0 {
            return Err(Errno::EPIPE);
        }
        let was_empty = state.slots.is_empty();
        let count = state.slots.write(bytes, layout);
        drop(state);
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        if was_empty || self.polled.load(Ordering::Relaxed) {
            self.wake_readers();
        }
        Ok(count)
    }

    fn metadata(&self) -> Metadata {
        Metadata {
            device: Device::new(0, 13),
            inode: self.inode,
            kind: FileType::Fifo,
            permissions: 0o600,
            links: 1,
            uid: self.owner.0,
            gid: self.owner.1,
            represents: Device::default(),
            size: 0,
            blocks: 0,
            block_size: PAGE_SIZE as u32,
            accessed: self.created,
            modified: self.created,
            changed: self.created,
            created: None,
        }
    }

    /// fcntl(F_SETPIPE_SZ): the new size. EINVAL, EPERM over 1 MiB, EBUSY below what is in it.
    fn set_capacity(&self, size: usize) -> Result<usize> {
        if size > 1 << 31 {
            return Err(Errno::EINVAL);
        }
        let slots = size.max(PAGE_SIZE).next_power_of_two() / PAGE_SIZE;
        let mut state = self.lock();
        if slots > state.slots.limit() && slots > PIPE_MAX_SIZE / PAGE_SIZE {
            return Err(Errno::EPERM);
        }
        if slots < state.slots.used() {
            return Err(Errno::EBUSY);
        }
        if slots > state.accounted {
            if !self.account.take(slots - state.accounted) {
                return Err(Errno::EPERM);
            }
        } else {
            self.account.give_back(state.accounted - slots);
        }
        state.accounted = slots;
        let grown = slots > state.slots.limit();
        state.slots.set_limit(slots);
        drop(state);
        if grown {
            self.wake_writers();
        }
        Ok(slots * PAGE_SIZE)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.account.give_back(self.state.get_mut().accounted);
    }
}

/// Which way an end goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Read,
    Write,
    /// A FIFO that was opened read-write.
    Both,
}

impl Side {
    fn reads(self) -> bool {
        self != Side::Write
    }
    fn writes(self) -> bool {
        self != Side::Read
    }
}

/// What an open file holds of a pipe. Dropping it closes this end.
pub struct PipeEnd {
    pipe: Arc<Pipe>,
    side: Side,
    fifo: Option<Arc<FifoState>>,
    /// A FIFO opened O_NONBLOCK before any writer: no POLLHUP until one has come (and gone) after this many.
    quiet_until: Option<u64>,
}

impl PipeEnd {
    fn new(pipe: Arc<Pipe>, side: Side, fifo: Option<Arc<FifoState>>) -> PipeEnd {
        {
            let mut state = pipe.lock();
            if side.reads() {
                state.readers += 1;
                state.reader_opens += 1;
            }
            if side.writes() {
                state.writers += 1;
                state.writer_opens += 1;
            }
        }
        pipe.open_queue.wake_all();
        PipeEnd { pipe, side, fifo, quiet_until: None }
    }

    pub fn side(&self) -> Side {
        self.side
    }

    fn direction(&self) -> Option<Transfer> {
        match self.side {
            Side::Read => Some(Transfer::Read),
            Side::Write => Some(Transfer::Write),
            Side::Both => None,
        }
    }

    /// What this end is ready for, where the pipe is lent and stays so: then both ends are there.
    fn look(&self) -> Option<Events> {
        let direction = self.direction()?;
        // Who waits has registered before he looks.
        let watched = if self.wait_queue().is_some_and(WaitQueue::is_empty) { Watched::No } else { Watched::Yes };
        let length = self.pipe.look(&mut self.pipe.state.lock(), direction, watched)?;
        Some(match direction {
            Transfer::Read if length > 0 => Events::IN | Events::RDNORM,
            Transfer::Write if pipes::DATA - length >= pipes::ROOM as usize => Events::OUT | Events::WRNORM,
            _ => Events::empty(),
        })
    }
}

impl Sharable for PipeEnd {
    fn users(&self, side: Side, user: User) -> Option<(User, User)> {
        if !self.pipe.sharing.note(side, user) {
            self.pipe.usage.start_over();
        }
        if self.pipe.usage.is_worth_sharing() {
            self.pipe.sharing.users()
        } else {
            None
        }
    }

    fn ring_of(&self, reader: &User, writer: &User, make: &dyn Fn() -> Option<Arc<SharedRing>>) -> Option<Arc<SharedRing>> {
        self.pipe.sharing.ring_of(reader, writer, make)
    }

    fn rings(&self) -> usize {
        1
    }

    fn lend_shared(&self, ring: &Arc<SharedRing>, how: Nonblocking) -> bool {
        self.pipe.lend_shared(ring, how)
    }

    fn end_shared(&self) {
        drop(self.pipe.lock());
    }
}

impl Drop for PipeEnd {
    fn drop(&mut self) {
        {
            let mut state = self.pipe.lock();
            state.readers -= usize::from(self.side.reads());
            state.writers -= usize::from(self.side.writes());
        }
        self.pipe.wake_readers();
        self.pipe.wake_writers();
    }
}

impl FileOperations for PipeEnd {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        if !self.side.reads() {
            return Err(Errno::EBADF);
        }
        self.pipe.read(buffer)
    }

    fn put_back(&self, bytes: &[u8]) {
        self.pipe.lock().slots.put_back(bytes);
        self.pipe.wake_readers();
    }

    fn write(&self, file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        if !self.side.writes() {
            return Err(Errno::EBADF);
        }
        let layout = if file.flags().contains(StatusFlags::DIRECT) { Layout::Packets } else { Layout::Stream };
        self.pipe.write(buffer, layout)
    }

    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.write(file, buffer, 0).map(|count| (count, 0))
    }

    fn poll(&self) -> Events {
        self.pipe.polled.store(true, Ordering::Relaxed);
        if let Some(events) = self.look() {
            return events;
        }
        let state = self.pipe.lock();
        let mut events = Events::empty();
        if self.side.reads() {
            if !state.slots.is_empty() {
                events |= Events::IN | Events::RDNORM;
            }
            if state.writers == 0 && self.quiet_until != Some(state.writer_opens) {
                events |= Events::HUP;
            }
        }
        if self.side.writes() {
            if !state.slots.is_full() {
                events |= Events::OUT | Events::WRNORM;
            }
            if state.readers == 0 {
                events |= Events::ERR;
            }
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(match self.side {
            Side::Read => &self.pipe.read_queue,
            Side::Write => &self.pipe.write_queue,
            Side::Both => &self.pipe.both_queue,
        })
    }

    fn usage(&self) -> Option<&Usage> {
        Some(&self.pipe.usage)
    }

    fn lend(&self, reader: &OpenFile, writer: &OpenFile, lend: Lend) -> bool {
        let is_own = |end: &PipeEnd| Arc::ptr_eq(&end.pipe, &self.pipe) && end.side == Side::Write;
        // What has a name can be watched by it.
        self.side == Side::Read
            && writer.downcast::<PipeEnd>().is_some_and(is_own)
            && reader.path.is_none()
            && writer.path.is_none()
            && !writer.flags().contains(StatusFlags::DIRECT)
            && self.pipe.lend(lend)
    }

    fn end_loan(&self) {
        drop(self.pipe.lock());
    }

    fn left_to_look(&self, space: &Arc<AddressSpace>, fd: i32, hears: Hears) -> Option<Left> {
        let direction = self.direction().filter(|_| hears == Hears::Levels)?;
        let mut state = self.pipe.state.lock();
        // Who registers from here on looks behind that.
        let is_alone = self.wait_queue().is_some_and(|queue| queue.len() == 1);
        let is_left = is_alone && state.lent.as_ref().is_some_and(|lent| lent.leave_to_look(direction, space, fd));
        match direction {
            _ if !is_left => {}
            Transfer::Read => state.watched.reader = false,
            Transfer::Write => state.watched.writer = false,
        }
        is_left.then_some(Left::Levels)
    }

    fn changed_where_lent(&self, direction: Transfer) {
        match (direction, self.side) {
            (Transfer::Write, Side::Write) => self.pipe.wake_readers(),
            (Transfer::Read, Side::Read) => self.pipe.wake_writers(),
            _ => {}
        }
    }

    fn passed_on(&self) {
        let mut state = self.pipe.state.lock();
        if state.lent_to_two {
            self.pipe.take_back(&mut state);
        }
    }

    fn flags_changed(&self, _flags: StatusFlags) {
        self.end_loan();
    }

    fn metadata(&self) -> Result<Metadata> {
        match self.fifo.as_ref().and_then(|fifo| fifo.inode()) {
            Some(inode) => inode.metadata(),
            None => Ok(self.pipe.metadata()),
        }
    }

    fn ioctl(&self, context: &mut Context, _file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        match request {
            FIONREAD => {
                let length = self.pipe.lock().slots.len() as i32;
                context.write(argument, &length)?;
                Ok(0)
            }
            _ => Err(Errno::ENOTTY),
        }
    }

    fn anonymous_name(&self) -> String {
        format!("pipe:[{}]", self.pipe.inode)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// fcntl(F_GETPIPE_SZ): bytes. EBADF where `file` is no pipe.
pub fn capacity(file: &OpenFile) -> Result<usize> {
    let end = file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?;
    let limit = end.pipe.lock().slots.limit();
    Ok(limit * PAGE_SIZE)
}

/// fcntl(F_SETPIPE_SZ): the size that was set. EBADF where `file` is no pipe; EINVAL, EPERM over 1 MiB, EBUSY below what
/// is in it.
pub fn set_capacity(file: &OpenFile, size: usize) -> Result<usize> {
    file.downcast::<PipeEnd>().ok_or(Errno::EBADF)?.pipe.set_capacity(size)
}

#[cfg(test)]
mod tests;
