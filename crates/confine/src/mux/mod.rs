//! Descriptors do not pass a serial line. So each one that comes with a request becomes a *stream*: its bytes travel in
//! frames (`wire`) beside those of the control protocol, on the one channel between a relay on the host and the guest's init.
//!
//! Both ends are the same. A *source* reads a descriptor and sends what it reads, as long as the other side has room for it;
//! a *sink* writes what comes. Each has a thread: a descriptor of the caller's may be anything, and may make one wait
//! whatever it says when it is polled. The thread that reads the channel never waits for them: what comes is within the window
//! that we have granted, or the other side breaks the protocol.
//!
//! Lock order: a stream's state, then the channel.

pub mod wire;

use parking_lot::Mutex;
use rustix::event::{eventfd, poll, EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::{retry_on_intr, Errno};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use wire::{encode, Frame, Kind, WireError, LONGEST, MOST_STREAMS, WINDOW};

/// What is read or written at once.
const PIECE: usize = 8 << 10;
/// Credits are given back in pieces not smaller than this, or when nothing is left to write.
const LEAST_CREDIT: usize = WINDOW / 4;
const STACK: usize = 128 << 10;

/// One end of the channel. Cheap to clone.
#[derive(Clone)]
pub struct Mux {
    shared: Arc<Shared>,
}

struct Shared {
    channel: OwnedFd,
    order: Mutex<()>,
    sources: Mutex<BTreeMap<u32, Arc<Half<Source>>>>,
    sinks: Mutex<BTreeMap<u32, Arc<Half<Sink>>>>,
}

/// One direction of a stream, and what wakes its thread.
struct Half<State> {
    state: Mutex<State>,
    wake: OwnedFd,
}

struct Source {
    credit: usize,
    /// To be told when nothing more is there.
    drain: bool,
    /// Nobody wants it.
    stopped: bool,
    ended: bool,
}

struct Sink {
    queue: VecDeque<Piece>,
    /// Bytes in it.
    held: usize,
    /// Written, and not given back yet.
    owed: usize,
    ended: bool,
    /// Nobody writes any more.
    gone: bool,
}

enum Piece {
    Bytes(Vec<u8>),
    /// Everything before it is written.
    Mark(Box<dyn FnOnce() + Send>),
}

impl<State> Half<State> {
    fn new(state: State) -> Result<Arc<Half<State>>, Errno> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Arc::new(Half { state: Mutex::new(state), wake }))
    }

    fn change(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state.lock());
        let _ = rustix::io::write(&self.wake, &1u64.to_ne_bytes());
    }

    /// Until it is woken, or `descriptor` has one of `flags` (or an error); true: the latter.
    fn wait(&self, descriptor: Option<(&OwnedFd, PollFlags)>, at_once: bool) -> bool {
        let mut polled = vec![PollFd::new(&self.wake, PollFlags::IN)];
        polled.extend(descriptor.map(|(descriptor, flags)| PollFd::new(descriptor, flags)));
        let none = Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = poll(&mut polled, at_once.then_some(&none));
        let woken = !polled[0].revents().is_empty();
        let ready = polled.get(1).is_some_and(|one| !one.revents().is_empty());
        if woken {
            let _ = rustix::io::read(&self.wake, &mut [0u8; 8]);
        }
        ready
    }
}

impl Mux {
    /// `channel`: where frames are written to; one that waits.
    pub fn new(channel: OwnedFd) -> Mux {
        let shared = Shared { channel, order: Mutex::default(), sources: Mutex::default(), sinks: Mutex::default() };
        Mux { shared: Arc::new(shared) }
    }

    /// Writes one frame; errors are left to the reader, who sees the end of the channel.
    pub fn send(&self, kind: Kind, stream: u32, payload: &[u8]) {
        let bytes = encode(kind, stream, payload);
        let _order = self.shared.order.lock();
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match retry_on_intr(|| rustix::io::write(&self.shared.channel, rest)) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(&self.shared.channel, PollFlags::OUT)], None)),
                Err(_) => return,
            }
        }
    }

    /// Bytes of the control protocol.
    pub fn send_control(&self, bytes: &[u8]) {
        bytes.chunks(LONGEST).for_each(|piece| self.send(Kind::Control, 0, piece));
    }

    /// There is room for another stream.
    pub fn has_room(&self, more: usize) -> bool {
        let sources = self.shared.sources.lock().len();
        let sinks = self.shared.sinks.lock().len();
        sources + sinks + more <= MOST_STREAMS
    }

    /// Sends what comes from `descriptor`, until its end.
    pub fn add_source(&self, stream: u32, descriptor: OwnedFd) -> std::io::Result<()> {
        let half = Half::new(Source { credit: WINDOW, drain: false, stopped: false, ended: false })?;
        self.shared.sources.lock().insert(stream, half.clone());
        let mux = self.clone();
        let run = move || {
            mux.read_from(stream, &half, &descriptor);
            // Those who write to it hear of it before anybody waits for the stream.
            drop(descriptor);
            mux.shared.sources.lock().remove(&stream);
        };
        self.begin(stream, run)
    }

    /// Writes what comes to `descriptor`, until its end.
    pub fn add_sink(&self, stream: u32, descriptor: OwnedFd) -> std::io::Result<()> {
        let half = Half::new(Sink { queue: VecDeque::new(), held: 0, owed: 0, ended: false, gone: false })?;
        self.shared.sinks.lock().insert(stream, half.clone());
        let mux = self.clone();
        let run = move || {
            mux.write_to(stream, &half, &descriptor);
            drop(descriptor);
            mux.shared.sinks.lock().remove(&stream);
            // What nobody writes any more is not waited for.
            let left = {
                let mut state = half.state.lock();
                state.gone = true;
                std::mem::take(&mut state.queue)
            };
            for piece in left {
                if let Piece::Mark(act) = piece {
                    act();
                }
            }
        };
        self.begin(stream, run)
    }

    fn begin(&self, stream: u32, run: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
        let begun = std::thread::Builder::new().stack_size(STACK).spawn(run).map(drop);
        if begun.is_err() {
            self.shared.sources.lock().remove(&stream);
            self.shared.sinks.lock().remove(&stream);
        }
        begun
    }

    /// Calls `act` when all that has come for a stream is written, or nobody will write it.
    pub fn when_written(&self, stream: u32, act: impl FnOnce() + Send + 'static) {
        let sink = self.shared.sinks.lock().get(&stream).cloned();
        let mut act = Some(act);
        if let Some(sink) = sink {
            sink.change(|state| {
                if let Some(act) = act.take_if(|_| !state.gone) {
                    state.queue.push_back(Piece::Mark(Box::new(act)));
                }
            });
        }
        if let Some(act) = act {
            act();
        }
    }

    /// A frame about a stream that has come from the other side; others are none of ours.
    pub fn serve(&self, frame: Frame) -> Result<(), WireError> {
        let source = || self.shared.sources.lock().get(&frame.stream).cloned();
        let sink = || self.shared.sinks.lock().get(&frame.stream).cloned();
        match frame.kind {
            // For a stream that has just ended here: nobody wants it.
            Kind::Data => {
                let Some(sink) = sink() else { return Ok(()) };
                let mut too_much = false;
                sink.change(|state| {
                    let length = frame.payload.len();
                    too_much = state.ended || !state.gone && state.held + state.owed + length > WINDOW;
                    if !too_much && !state.gone {
                        state.held += length;
                        state.queue.push_back(Piece::Bytes(frame.payload));
                    }
                });
                if too_much {
                    return Err(WireError::Protocol("more than there was room for"));
                }
            }
            Kind::End => {
                if let Some(sink) = sink() {
                    sink.change(|state| state.ended = true);
                }
            }
            Kind::Close => {
                if let Some(source) = source() {
                    source.change(|state| state.stopped = true);
                }
            }
            Kind::Credit => {
                let Some(source) = source() else { return Ok(()) };
                let mut too_much = false;
                source.change(|state| {
                    let credit = state.credit.saturating_add(frame.credit());
                    too_much = credit > WINDOW;
                    state.credit = credit.min(WINDOW);
                });
                if too_much {
                    return Err(WireError::Protocol("room was given back that nobody had taken"));
                }
            }
            Kind::Drain => {
                let asked = source().is_some_and(|source| {
                    let mut asked = false;
                    source.change(|state| {
                        asked = !state.ended;
                        state.drain = asked;
                    });
                    asked
                });
                if !asked {
                    self.send(Kind::Drained, frame.stream, b"");
                }
            }
            Kind::Hello | Kind::Control | Kind::Open | Kind::Drained => {
                return Err(WireError::Protocol("a frame that does not belong there"));
            }
        }
        Ok(())
    }

    fn read_from(&self, stream: u32, half: &Half<Source>, descriptor: &OwnedFd) {
        let mut bytes = [0; PIECE];
        loop {
            let (credit, drain, stopped) = {
                let state = half.state.lock();
                (state.credit, state.drain, state.stopped)
            };
            if stopped {
                break;
            }
            let wanted = (credit > 0).then_some((descriptor, PollFlags::IN));
            if !half.wait(wanted, drain && credit > 0) {
                if drain && credit > 0 && !half.wait(wanted, true) {
                    half.state.lock().drain = false;
                    self.send(Kind::Drained, stream, b"");
                }
                continue;
            }
            match rustix::io::read(descriptor, &mut bytes[..credit.min(PIECE)]) {
                Ok(0) => break,
                Ok(count) => {
                    half.state.lock().credit -= count;
                    self.send(Kind::Data, stream, &bytes[..count]);
                }
                Err(Errno::AGAIN | Errno::INTR) => {}
                Err(_) => break,
            }
        }
        self.send(Kind::End, stream, b"");
        let mut state = half.state.lock();
        state.ended = true;
        if state.drain {
            self.send(Kind::Drained, stream, b"");
        }
    }

    fn write_to(&self, stream: u32, half: &Half<Sink>, descriptor: &OwnedFd) {
        loop {
            let (piece, ended) = {
                let mut state = half.state.lock();
                (state.queue.pop_front(), state.ended)
            };
            let bytes = match piece {
                Some(Piece::Mark(act)) => {
                    act();
                    continue;
                }
                Some(Piece::Bytes(bytes)) => bytes,
                None if ended => return,
                None => {
                    // Whoever reads it may go away before there is anything to write.
                    if half.wait(Some((descriptor, PollFlags::empty())), false) {
                        return self.send(Kind::Close, stream, b"");
                    }
                    continue;
                }
            };
            if !write_all(descriptor, &bytes) {
                return self.send(Kind::Close, stream, b"");
            }
            let credit = {
                let mut state = half.state.lock();
                state.held -= bytes.len();
                state.owed += bytes.len();
                let due = state.owed >= LEAST_CREDIT || state.queue.is_empty();
                if due {
                    std::mem::take(&mut state.owed)
                } else {
                    0
                }
            };
            if credit > 0 {
                self.send(Kind::Credit, stream, &(credit as u32).to_le_bytes());
            }
        }
    }
}

fn write_all(descriptor: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(descriptor, &bytes[..bytes.len().min(PIECE)]) {
            Ok(count) => bytes = &bytes[count..],
            // Whoever gave it to us may have made it so.
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::new(descriptor, PollFlags::OUT)], None)),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    true
}

/// Frames from the channel, one by one.
pub struct Receiver {
    channel: OwnedFd,
    buffer: Vec<u8>,
}

impl Receiver {
    pub fn new(channel: OwnedFd) -> Receiver {
        Receiver { channel, buffer: Vec::new() }
    }

    /// To be polled before the first frame.
    pub fn channel(&self) -> &OwnedFd {
        &self.channel
    }

    /// A frame that has come whole.
    pub fn next_buffered(&mut self) -> Result<Option<Frame>, WireError> {
        wire::take(&mut self.buffer)
    }

    /// Takes in what there is, and waits for something. False: the channel's end.
    pub fn read(&mut self) -> bool {
        let mut bytes = [0; LONGEST];
        match retry_on_intr(|| rustix::io::read(&self.channel, &mut bytes)) {
            Ok(count) if count > 0 => {
                self.buffer.extend_from_slice(&bytes[..count]);
                true
            }
            _ => false,
        }
    }

    /// The next one; `None`: the channel's end.
    pub fn next(&mut self) -> Result<Option<Frame>, WireError> {
        loop {
            if let Some(frame) = self.next_buffered()? {
                return Ok(Some(frame));
            }
            if !self.read() {
                return Ok(None);
            }
        }
    }
}

#[cfg(test)]
mod tests;
