//! One direction of a connection: bytes in order, with marks for what travels beside them.
//!
//! Unix stream and seqpacket sockets and TCP over loopback are each two [`Channel`]s, one per direction. The sender's
//! bytes are copied into a ring once, the receiver's out of it once. A mark says that a message begins at a position of
//! the stream, what it carries (descriptors), who sent it, and for packets how long it is.
//!
//! What lies ready can be lent to the stub of who is about to read it ([`Channel::lend`]), or all that is there and comes to the two
//! processes that use the connection ([`Channel::lend_shared`], [`super::sharing`]). Whatever else is done with a channel then, the
//! loan ends first, and what they did counts as sent and received: nobody can tell it from calls.
//!
//! Who waits for bytes waits on the receiving socket's queue, who waits for room on the sending socket's: a channel knows
//! both. Lock order: a socket's state > `Channel::state` > wait queues; two channels are never locked at once.

use super::rights::InFlight;
use super::ring::{Budget, Ring};
use super::sharing::Line;
use super::socket::UserCredentials;
use super::NetworkStack;
use crate::fs::file::Transfer;
use crate::fs::lending::{Left, Lender as _, LentState, LentWatch, Watched};
use crate::ipc::pipe::sharing::RingLoan;
use crate::run::AddressSpace;
use crate::sync::{Hears, WaitQueue};
use crate::{Errno, Result};
use parking_lot::{Mutex, MutexGuard};
use skerry_platform::layout::{pipes, streams};
use skerry_platform::pipe_ring::Nonblocking;
use std::collections::VecDeque;
use std::sync::Arc;

/// How messages are kept apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// SOCK_STREAM: not at all.
    Bytes,
    /// SOCK_SEQPACKET: each is received by itself, the rest of it is lost.
    Packets,
}

/// One direction of a connection.
pub struct Channel {
    framing: Framing,
    state: Mutex<State>,
    /// The receiving socket's queue.
    reader: Arc<WaitQueue>,
    /// The sending socket's queue.
    writer: Arc<WaitQueue>,
}

struct State {
    ring: Ring,
    /// The most bytes it holds (the sender's SO_SNDBUF).
    capacity: usize,
    /// Position in the stream of the ring's first byte.
    start: u64,
    marks: VecDeque<Mark>,
    /// Who sent the bytes at `start`.
    sender: UserCredentials,
    /// Who sent the newest bytes.
    last_sender: UserCredentials,
    /// No more will come (SHUT_WR, close).
    write_closed: bool,
    /// Nobody will read (SHUT_RD of a unix socket, close).
    read_closed: bool,
    /// Somebody found it full; woken once there is room enough.
    writer_waiting: bool,
    /// What the receiver is told once, behind the bytes (the sender was reset).
    error: Option<Errno>,
    /// It ended with an error, told or not.
    failed: bool,
    urgent: Option<Urgent>,
    /// The receiver wants urgent data among the rest (SO_OOBINLINE).
    urgent_inline: bool,
    /// All that is there is the receiver's to read without a call.
    lent: Option<LentBytes>,
    /// What is in `ring`, and will be, is with who uses the connection.
    shared: Option<SharedLoan>,
}

struct SharedLoan {
    loan: RingLoan,
    line: Arc<Line>,
    /// What had been written by way of this ring before, and where it is counted.
    written: u64,
    network: Option<Arc<NetworkStack>>,
    /// Who has been asked to tell of changes.
    watched: LentWatch,
    /// Edges were left to who reads it to see for itself.
    edges_left: bool,
}

/// Where bytes are that are lent, and how they come back.
pub trait Lender: Send + Sync {
    /// Ends the loan; how many bytes were read.
    fn take_back(&self) -> usize;
}

struct LentBytes {
    lender: Box<dyn Lender>,
    length: usize,
}

/// TCP's urgent data (tcp(7)): one byte, which is received by itself unless SO_OOBINLINE is set.
struct Urgent {
    position: u64,
    byte: u8,
    taken: bool,
}

struct Mark {
    position: u64,
    length: usize,
    rights: InFlight,
    sender: UserCredentials,
}

/// What [`Channel::receive`] took beside bytes.
pub struct Received {
    /// Bytes copied.
    pub count: usize,
    /// Length of the packet (more than `count`: it was cut), or `count`.
    pub full_length: usize,
    pub rights: InFlight,
    pub sender: UserCredentials,
    /// The stream has a boundary here: what follows must not be joined to this.
    pub boundary: bool,
}

/// What poll(2) is told of.
pub struct Look {
    pub ready: bool,
    pub write_closed: bool,
    pub read_closed: bool,
    /// There is an error that was not told.
    pub has_error: bool,
    pub failed: bool,
    /// There is an urgent byte that was not received (POLLPRI).
    pub urgent: bool,
}

/// How to receive.
#[derive(Clone, Copy, Default)]
pub struct ReceiveMode {
    /// MSG_PEEK: leave it there.
    pub peek: bool,
    /// Skip this many bytes (SO_PEEK_OFF); only with `peek`.
    pub offset: usize,
    /// Do not join bytes of different senders (SO_PASSCRED).
    pub split_senders: bool,
}

impl Channel {
    pub fn new(
        framing: Framing,
        capacity: usize,
        reader: Arc<WaitQueue>,
        writer: Arc<WaitQueue>,
        budget: Arc<Budget>,
    ) -> Arc<Channel> {
        Arc::new(Channel {
            framing,
            state: Mutex::new(State {
                ring: Ring::new(budget),
                capacity,
                start: 0,
                marks: VecDeque::new(),
                sender: UserCredentials::NOBODY,
                last_sender: UserCredentials::NOBODY,
                write_closed: false,
                read_closed: false,
                writer_waiting: false,
                error: None,
                failed: false,
                urgent: None,
                urgent_inline: false,
                lent: None,
                shared: None,
            }),
            reader,
            writer,
        })
    }

    /// The state, with nothing lent any more. Where only flags are looked at, that can stay.
    fn lock(&self) -> MutexGuard<'_, State> {
        let mut state = self.state.lock();
        self.end_loans(&mut state);
        state
    }

    fn end_loans(&self, state: &mut State) {
        if let Some(shared) = state.shared.take() {
            self.take_back(state, shared);
        }
        state.end_loan();
    }

    fn take_back(&self, state: &mut State, shared: SharedLoan) {
        // Who has made a change may be about to tell of it still, or have been killed before.
        let unheard = state.take_back(shared);
        if unheard.reader {
            self.reader.wake_all();
        }
        if unheard.writer {
            self.writer.wake_all();
        }
    }

    /// Nothing is lent any more.
    pub fn end_loan(&self) {
        drop(self.lock());
    }

    /// What lay ready is not lent any more ([`Channel::lend`]). What is shared stays so.
    pub fn end_loan_to_reader(&self) {
        self.state.lock().end_loan();
    }

    /// The connection has become somebody else's, too: nothing is lent any more to who must be alone with it.
    pub fn passed_on(&self) {
        let mut state = self.state.lock();
        if let Some(shared) = state.shared.take_if(|shared| !shared.loan.shared.is_one_process()) {
            self.take_back(&mut state, shared);
        }
    }

    /// Lends what is there and will be by a ring, if plain bytes are all that this direction is about, and whoever waits for it looks
    /// again when he is told of a change.
    pub(crate) fn lend_shared(
        &self,
        loan: RingLoan,
        how: Nonblocking,
        line: &Arc<Line>,
        network: Option<&Arc<NetworkStack>>,
    ) -> bool {
        let mut state = self.state.lock();
        // Who registers from here on looks behind that, with this lock.
        if state.shared.is_some() || !self.reader.all_hear(Hears::Edges) || !self.writer.all_hear(Hears::Edges) {
            return false;
        }
        state.end_loan();
        let length = state.ring.len();
        let is_plain = self.framing == Framing::Bytes
            && state.urgent.is_none()
            && state.marks.is_empty()
            && state.error.is_none()
            && !(state.write_closed || state.read_closed || state.failed);
        // Less than a socket's buffer holds is with who finds the ring full.
        if !is_plain || length > pipes::DATA || state.capacity < pipes::DATA || !state.ring.reserve(pipes::DATA) {
            return false;
        }
        let mut bytes = vec![0; length];
        state.ring.peek(0, &mut bytes);
        let written = loan.ring().written();
        let watched = LentWatch { reader: !self.reader.is_empty(), writer: state.writer_waiting };
        if !loan.ring().lend(&bytes, how, watched.bits()) {
            state.ring.release(pipes::DATA);
            return false;
        }
        line.begun();
        let (line, network) = (line.clone(), network.cloned());
        state.shared = Some(SharedLoan { loan, line, written, network, watched, edges_left: false });
        true
    }

    /// The process behind `space`, which it is lent to in this direction under `fd`, looks for itself: it is not told of changes any
    /// more. False: it does not.
    pub fn leave_to_look(&self, direction: Transfer, space: &Arc<AddressSpace>, fd: i32) -> bool {
        let mut state = self.state.lock();
        let Some(shared) = state.shared.as_mut().filter(|shared| shared.loan.leave_to_look(direction, space, fd)) else {
            return false;
        };
        match direction {
            Transfer::Read => shared.watched.reader = false,
            Transfer::Write => shared.watched.writer = false,
        }
        true
    }

    /// As [`Channel::leave_to_look`], to who reads it and is told of edges.
    pub fn leave_edges(&self, space: &Arc<AddressSpace>, fd: i32) -> Option<Left> {
        let mut state = self.state.lock();
        let shared = state.shared.as_mut().filter(|shared| shared.loan.is_used_by(Transfer::Read, space, fd))?;
        shared.loan.ring().leave_edges();
        shared.watched.reader = false;
        shared.edges_left = true;
        Some(Left::Edges(Box::new(shared.loan.clone())))
    }

    pub fn is_shared(&self) -> bool {
        self.state.lock().shared.is_some()
    }

    /// Who it is lent to has sent by itself, and somebody waits for that.
    pub fn has_come(&self) {
        self.reader.wake_all();
    }

    /// Who it is lent to has received by itself, and somebody waits for room.
    pub fn has_left(&self) {
        let is_writable = {
            let mut state = self.state.lock();
            state.look_to_write()
        };
        if is_writable {
            self.writer.wake_all();
        }
    }

    /// Lends all that is there, if it is not more than `room`, and a plain receive would get nothing but that. `lender` copies it.
    /// While it is lent nobody waits for room: there is enough.
    pub fn lend<L: Lender + 'static>(&self, room: usize, lender: impl FnOnce(&[u8]) -> L) -> Option<usize> {
        let mut state = self.state.lock();
        if state.shared.is_some() {
            return None;
        }
        state.end_loan();
        let length = state.ring.len();
        if self.framing != Framing::Bytes
            || length == 0
            || length > room.min(streams::LONGEST)
            || length > state.capacity / 4
            || state.writer_waiting
            || state.urgent.is_some()
            || state.marks.iter().any(|mark| !mark.rights.is_empty())
        {
            return None;
        }
        let mut bytes = [0; streams::LONGEST];
        state.ring.peek(0, &mut bytes[..length]);
        state.lent = Some(LentBytes { lender: Box::new(lender(&bytes[..length])), length });
        Some(length)
    }

    /// Puts in as much as there is room for (a packet: all or nothing).
    ///
    /// Errors: EAGAIN (full), EMSGSIZE (a packet that never fits), EPIPE (closed on either side).
    pub fn send(&self, data: &[u8], rights: &mut InFlight, sender: UserCredentials) -> Result<usize> {
        self.put(data, rights, sender, Urgency::None)
    }

    /// As [`Channel::send`] of bytes, the last of which is urgent (MSG_OOB) where all go.
    pub fn send_urgent(&self, data: &[u8]) -> Result<usize> {
        self.put(data, &mut InFlight::none(), UserCredentials::NOBODY, Urgency::LastByte)
    }

    /// The urgent byte (recv(2) with MSG_OOB). EINVAL: none, had already, or among the rest.
    pub fn receive_urgent(&self, peek: bool) -> Result<u8> {
        let mut state = self.lock();
        if state.urgent_inline {
            return Err(Errno::EINVAL);
        }
        let urgent = state.urgent.as_mut().filter(|urgent| !urgent.taken).ok_or(Errno::EINVAL)?;
        urgent.taken = !peek;
        Ok(urgent.byte)
    }

    /// What is received next lies behind the urgent mark (sockatmark(3)).
    pub fn is_at_urgent_mark(&self) -> bool {
        let state = self.lock();
        state.urgent.as_ref().is_some_and(|urgent| urgent.position == state.start)
    }

    pub fn set_urgent_inline(&self, inline: bool) {
        self.lock().urgent_inline = inline;
    }

    fn put(&self, data: &[u8], rights: &mut InFlight, sender: UserCredentials, urgency: Urgency) -> Result<usize> {
        let mut state = self.lock();
        if state.write_closed || state.read_closed {
            return Err(Errno::EPIPE);
        }
        if self.framing == Framing::Packets {
            if data.len() > state.capacity {
                return Err(Errno::EMSGSIZE);
            }
            if state.room() < data.len() || state.marks.len() >= MAXIMUM_PACKETS {
                state.writer_waiting = true;
                return Err(Errno::EAGAIN);
            }
        } else if data.is_empty() {
            return Ok(0);
        }
        let position = state.start + state.ring.len() as u64;
        let capacity = state.capacity;
        let count = state.ring.push(data, capacity);
        if count < data.len() {
            state.writer_waiting = true;
            if self.framing == Framing::Packets {
                // Only where the sandbox's budget is spent: take the part back.
                state.ring.truncate(count);
                return Err(Errno::ENOBUFS);
            }
            if count == 0 {
                return Err(Errno::EAGAIN);
            }
        }
        if urgency == Urgency::LastByte && count == data.len() {
            if let Some(&byte) = data.last() {
                state.urgent = Some(Urgent { position: position + count as u64 - 1, byte, taken: false });
            }
        }
        if self.framing == Framing::Packets || !rights.is_empty() || sender != state.last_sender {
            state.last_sender = sender;
            let rights = std::mem::take(rights);
            state.marks.push_back(Mark { position, length: count, rights, sender });
        }
        drop(state);
        self.reader.wake_all();
        Ok(count)
    }

    /// Puts in all of `data`, beyond the capacity if need be: for the little that was held back after it was accepted.
    pub fn force(&self, data: &[u8]) {
        let mut state = self.lock();
        if state.write_closed || state.read_closed {
            return;
        }
        state.ring.push(data, usize::MAX);
        drop(state);
        self.reader.wake_all();
    }

    /// Takes what is there. `Ok(None)`: the end. EAGAIN: nothing yet.
    pub fn receive(&self, buffer: &mut [u8], mode: ReceiveMode) -> Result<Option<Received>> {
        let mut state = self.lock();
        let received = match self.framing {
            Framing::Bytes => state.receive_bytes(buffer, mode),
            Framing::Packets => state.receive_packet(buffer, mode),
        };
        let Some(received) = received else {
            if let Some(error) = state.error.take() {
                return Err(error);
            }
            return if state.write_closed || state.read_closed { Ok(None) } else { Err(Errno::EAGAIN) };
        };
        if !mode.peek && state.writer_waiting && state.is_writable() {
            state.writer_waiting = false;
            drop(state);
            self.writer.wake_all();
        }
        Ok(Some(received))
    }

    /// Bytes of a stream that were received and that nobody got are there again.
    pub fn put_back(&self, bytes: &[u8]) {
        {
            let mut state = self.lock();
            if self.framing == Framing::Bytes && !state.read_closed && state.ring.put_back(bytes) {
                state.start -= bytes.len() as u64;
            }
        }
        self.reader.wake_all();
    }

    /// No more will be sent; what is there can still be received.
    pub fn close_write(&self) {
        self.lock().write_closed = true;
        self.reader.wake_all();
    }

    /// Nobody will receive any more: sending gives EPIPE. What is there stays (a unix socket's own SHUT_RD).
    pub fn close_read(&self) {
        self.lock().read_closed = true;
        self.writer.wake_all();
    }

    /// The receiving socket is gone: what is there is lost. True where something was.
    pub fn abandon(&self) -> bool {
        let mut state = self.lock();
        state.read_closed = true;
        let lost = !state.ring.is_empty() || state.has_packet(self.framing);
        let marks = std::mem::take(&mut state.marks);
        state.ring.clear();
        drop(state);
        // The descriptors in flight are let go with no lock held: their closing may come back to sockets.
        drop(marks);
        self.writer.wake_all();
        lost
    }

    /// Ends the stream with an error that the receiver is told once.
    pub fn fail(&self, error: Errno) {
        let mut state = self.lock();
        state.write_closed = true;
        state.error = Some(error);
        state.failed = true;
        drop(state);
        self.reader.wake_all();
    }

    /// SO_ERROR.
    pub fn take_error(&self) -> Option<Errno> {
        self.lock().error.take()
    }

    pub fn is_failed(&self) -> bool {
        self.state.lock().failed
    }

    /// Bytes that can be received now (FIONREAD); for packets the next one's length.
    pub fn available(&self) -> usize {
        let state = self.lock();
        match self.framing {
            Framing::Bytes => state.ordinary(),
            Framing::Packets => state.marks.front().map_or(0, |mark| mark.length),
        }
    }

    /// Bytes that the other side has not taken yet (SIOCOUTQ).
    pub fn pending(&self) -> usize {
        self.lock().ring.len()
    }

    /// For poll(2) of the receiver. `ready`: something is there to receive (the end does not count).
    pub fn look_to_read(&self, low_water: usize) -> Look {
        let mut state = self.state.lock();
        if let Some(length) = state.shared.as_mut().and_then(|shared| shared.look_to_read(&self.reader)) {
            return state.look(length >= low_water.max(1));
        }
        self.end_loans(&mut state);
        let ready = match self.framing {
            Framing::Bytes => state.ordinary() >= low_water.clamp(1, state.capacity.max(1)),
            Framing::Packets => !state.marks.is_empty(),
        };
        state.look(ready)
    }

    /// For poll(2) of the sender. `ready`: there is room enough to say so. When not, the writer's queue is woken once there is.
    pub fn look_to_write(&self) -> Look {
        // What is lent to a reader takes up little, read or not.
        let mut state = self.state.lock();
        let ready = state.look_to_write();
        state.look(ready)
    }

    pub fn is_write_closed(&self) -> bool {
        self.state.lock().write_closed
    }

    pub fn is_read_closed(&self) -> bool {
        self.state.lock().read_closed
    }

    pub fn set_capacity(&self, capacity: usize) {
        self.lock().capacity = capacity;
        self.writer.wake_all();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Urgency {
    None,
    LastByte,
}

/// Packets of no bytes need a bound of their own.
const MAXIMUM_PACKETS: usize = 4096;

fn has_room(capacity: usize, length: usize) -> bool {
    capacity.saturating_sub(length) >= capacity / 3
}

impl SharedLoan {
    /// How many bytes lie there; who is in the `queue` is told when there are more.
    fn look_to_read(&mut self, queue: &WaitQueue) -> Option<usize> {
        let watched = if queue.is_empty() { Watched::No } else { Watched::Yes };
        self.watched.reader |= watched == Watched::Yes;
        self.loan.look(Transfer::Read, watched)
    }

    fn look_to_write(&mut self, capacity: usize) -> bool {
        let has_room = |watched| self.loan.look(Transfer::Write, watched).is_some_and(|length| has_room(capacity, length));
        if has_room(Watched::No) {
            return true;
        }
        self.watched.writer = true;
        has_room(Watched::Yes)
    }
}

impl State {
    /// Of what lay ready.
    fn end_loan(&mut self) {
        if let Some(lent) = self.lent.take() {
            let read = lent.lender.take_back().min(lent.length);
            if read > 0 {
                let taken = self.receive_bytes(&mut [0; streams::LONGEST][..read], ReceiveMode::default());
                debug_assert!(taken.is_some_and(|taken| taken.count == read));
            }
        }
    }

    /// The result are those who have been told of a change, or will be.
    fn take_back(&mut self, shared: SharedLoan) -> LentWatch {
        let returned = shared.loan.take_back();
        let left = returned.as_ref().map(|returned| returned.watched).unwrap_or_default();
        let calls = returned.as_ref().map_or(0, |returned| returned.calls);
        let has_edge = shared.edges_left && returned.as_ref().is_none_or(|returned| returned.has_edge);
        shared.line.ended(calls);
        self.ring.release(pipes::DATA);
        if let Some(LentState::Bytes(bytes)) = returned.map(|returned| returned.state).filter(|_| calls > 0) {
            self.ring.replace(&bytes);
        }
        let written = shared.loan.ring().written().wrapping_sub(shared.written);
        if let Some(network) = shared.network.filter(|_| written > 0) {
            network.interface.count(written as usize);
        }
        let asked = shared.watched;
        LentWatch { reader: has_edge || asked.reader && !left.reader, writer: asked.writer && !left.writer }
    }

    /// Whether there is room enough to say so. When not, who receives is to tell of the next that there is.
    fn look_to_write(&mut self) -> bool {
        let ready = match &mut self.shared {
            Some(shared) => shared.look_to_write(self.capacity),
            None => self.is_writable(),
        };
        // Of a closed one nobody asks.
        if !ready && !self.write_closed && !self.read_closed {
            self.writer_waiting = true;
        }
        ready
    }

    fn room(&self) -> usize {
        self.capacity.saturating_sub(self.ring.len())
    }

    fn look(&self, ready: bool) -> Look {
        let urgent = self.urgent.as_ref().is_some_and(|urgent| !urgent.taken);
        let (write_closed, read_closed, failed) = (self.write_closed, self.read_closed, self.failed);
        Look { ready, write_closed, read_closed, has_error: self.error.is_some(), failed, urgent }
    }

    /// A third free: waking a writer for each byte that a reader takes would cost two switches a byte.
    fn is_writable(&self) -> bool {
        has_room(self.capacity, self.ring.len()) && self.marks.len() < MAXIMUM_PACKETS
    }

    /// Bytes that an ordinary receive can have now: up to the urgent mark, or behind it where it comes next.
    fn ordinary(&self) -> usize {
        let length = self.ring.len();
        match self.urgent.as_ref().filter(|_| !self.urgent_inline) {
            Some(urgent) if urgent.position == self.start => length.saturating_sub(1),
            Some(urgent) if urgent.position > self.start => length.min((urgent.position - self.start) as usize),
            _ => length,
        }
    }

    /// Steps over the urgent byte where it comes next and something is behind it; returns how many bytes may be received
    /// up to the next mark.
    fn pass_urgent(&mut self) -> usize {
        let ordinary = self.ordinary();
        let Some(urgent) = &self.urgent else { return ordinary };
        if urgent.position == self.start && !self.urgent_inline && ordinary > 0 {
            self.ring.discard(1);
            self.start += 1;
            self.urgent = None;
        } else if urgent.position < self.start {
            self.urgent = None;
        } else if urgent.position > self.start && self.urgent_inline {
            // A read stops at the mark here, too.
            return self.ring.len().min((urgent.position - self.start) as usize);
        }
        ordinary
    }

    fn has_packet(&self, framing: Framing) -> bool {
        framing == Framing::Packets && !self.marks.is_empty()
    }

    fn receive_bytes(&mut self, buffer: &mut [u8], mode: ReceiveMode) -> Option<Received> {
        let offset = if mode.peek { mode.offset } else { 0 };
        let ordinary = if self.urgent.is_some() { self.pass_urgent() } else { self.ring.len() };
        let available = ordinary.checked_sub(offset).filter(|&available| available > 0)?;
        let from = self.start + offset as u64;
        let mut sender = self.sender;
        let mut rights = InFlight::none();
        let mut limit = available;
        let mut passed = 0;
        let mut boundary = self.urgent.as_ref().is_some_and(|urgent| urgent.position == from + available as u64);
        for (index, mark) in self.marks.iter_mut().enumerate() {
            if mark.position < from {
                // Behind us: only with a peek offset.
                sender = mark.sender;
                continue;
            }
            if mark.position > from {
                let carries = !mark.rights.is_empty();
                if carries || (mode.split_senders && mark.sender != sender) {
                    let distance = (mark.position - from) as usize;
                    if distance < limit {
                        limit = distance;
                        boundary = true;
                    }
                    break;
                }
                continue;
            }
            sender = mark.sender;
            passed = index + 1;
            if !mark.rights.is_empty() {
                rights = if mode.peek { mark.rights.duplicate() } else { std::mem::take(&mut mark.rights) };
                limit = limit.min(mark.length);
                boundary = true;
                break;
            }
        }
        let wanted = buffer.len().min(limit);
        let count = self.ring.peek(offset, &mut buffer[..wanted]);
        if !mode.peek {
            self.marks.drain(..passed);
            self.sender = sender;
            self.start += count as u64;
            self.ring.discard(count);
            while self.marks.front().is_some_and(|mark| mark.position < self.start && mark.rights.is_empty()) {
                if let Some(mark) = self.marks.pop_front() {
                    self.sender = mark.sender;
                }
            }
        }
        Some(Received { count, full_length: count, rights, sender, boundary })
    }

    fn receive_packet(&mut self, buffer: &mut [u8], mode: ReceiveMode) -> Option<Received> {
        if mode.peek {
            let mark = self.marks.front()?;
            let wanted = buffer.len().min(mark.length);
            let count = self.ring.peek(0, &mut buffer[..wanted]);
            return Some(Received {
                count,
                full_length: mark.length,
                rights: mark.rights.duplicate(),
                sender: mark.sender,
                boundary: true,
            });
        }
        let mark = self.marks.pop_front()?;
        let wanted = buffer.len().min(mark.length);
        let count = self.ring.peek(0, &mut buffer[..wanted]);
        self.ring.discard(mark.length);
        self.start += mark.length as u64;
        Some(Received { count, full_length: mark.length, rights: mark.rights, sender: mark.sender, boundary: true })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANNA: UserCredentials = UserCredentials { pid: 1, uid: 10, gid: 10 };
    const BERT: UserCredentials = UserCredentials { pid: 2, uid: 20, gid: 20 };

    fn channel(framing: Framing, capacity: usize) -> Arc<Channel> {
        Channel::new(framing, capacity, Arc::default(), Arc::default(), Arc::default())
    }

    fn receive(channel: &Channel, size: usize, mode: ReceiveMode) -> Result<Option<(Vec<u8>, UserCredentials)>> {
        let mut buffer = vec![0; size];
        Ok(channel.receive(&mut buffer, mode)?.map(|received| {
            buffer.truncate(received.count);
            (buffer, received.sender)
        }))
    }

    #[test]
    fn bytes_are_joined_unless_senders_are_asked_for() {
        let mode = ReceiveMode::default();
        let both = channel(Framing::Bytes, 100);
        both.send(b"abc", &mut InFlight::none(), ANNA).unwrap();
        both.send(b"def", &mut InFlight::none(), BERT).unwrap();
        assert_eq!(receive(&both, 10, mode), Ok(Some((b"abcdef".to_vec(), ANNA))));
        let split = ReceiveMode { split_senders: true, ..mode };
        both.send(b"gh", &mut InFlight::none(), BERT).unwrap();
        both.send(b"ij", &mut InFlight::none(), ANNA).unwrap();
        assert_eq!(receive(&both, 10, split), Ok(Some((b"gh".to_vec(), BERT))));
        assert_eq!(receive(&both, 1, split), Ok(Some((b"i".to_vec(), ANNA))));
        assert_eq!(receive(&both, 10, split), Ok(Some((b"j".to_vec(), ANNA))));
        assert_eq!(receive(&both, 10, split), Err(Errno::EAGAIN));
        both.close_write();
        assert_eq!(receive(&both, 10, split), Ok(None));
        assert_eq!(both.send(b"x", &mut InFlight::none(), ANNA), Err(Errno::EPIPE));
    }

    #[test]
    fn packets_keep_their_borders() {
        let mode = ReceiveMode::default();
        let packets = channel(Framing::Packets, 100);
        packets.send(b"hello", &mut InFlight::none(), ANNA).unwrap();
        packets.send(b"", &mut InFlight::none(), ANNA).unwrap();
        packets.send(b"world", &mut InFlight::none(), ANNA).unwrap();
        assert_eq!(receive(&packets, 2, ReceiveMode { peek: true, ..mode }), Ok(Some((b"he".to_vec(), ANNA))));
        assert_eq!(receive(&packets, 2, mode), Ok(Some((b"he".to_vec(), ANNA))));
        assert_eq!(receive(&packets, 2, mode), Ok(Some((Vec::new(), ANNA))));
        assert_eq!(receive(&packets, 10, mode), Ok(Some((b"world".to_vec(), ANNA))));
        assert_eq!(packets.send(&[0; 101], &mut InFlight::none(), ANNA), Err(Errno::EMSGSIZE));
        packets.send(&[0; 60], &mut InFlight::none(), ANNA).unwrap();
        assert_eq!(packets.send(&[0; 60], &mut InFlight::none(), ANNA), Err(Errno::EAGAIN));
    }

    #[test]
    fn a_full_stream_takes_a_part_then_nothing() {
        let full = channel(Framing::Bytes, 5000);
        assert_eq!(full.send(&[1; 6000], &mut InFlight::none(), ANNA), Ok(5000));
        assert_eq!(full.send(&[1; 6000], &mut InFlight::none(), ANNA), Err(Errno::EAGAIN));
        assert!(!full.look_to_write().ready);
        assert_eq!(receive(&full, 2000, ReceiveMode::default()).unwrap().unwrap().0.len(), 2000);
        assert!(full.look_to_write().ready);
        assert!(full.abandon());
        assert_eq!(full.send(&[1], &mut InFlight::none(), ANNA), Err(Errno::EPIPE));
    }
}
