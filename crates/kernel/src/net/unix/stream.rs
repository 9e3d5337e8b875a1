//! SOCK_STREAM and SOCK_SEQPACKET: init, listening, connected, closed.

use super::{BoundName, Named, WeakAnySocket};
use crate::fs::file::Events;
use crate::ipc::pipe::Side;
use crate::net::address::{Address, UnixName};
use crate::net::channel::{Channel, Framing, ReceiveMode};
use crate::net::sharing::{Line, StreamEnd};
use crate::net::socket::{
    BlockedSenders, Caller, Common, Destination, Incoming, MessageFlags, Outgoing, PeerIdentity, Shutdown, Socket, SocketType,
};
use crate::net::NetworkStack;
use crate::{Errno, Result};
use parking_lot::Mutex;
use skerry_abi::raw::net as linux;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// net.core.somaxconn.
pub const MAXIMUM_BACKLOG: usize = 4096;

/// A connection-oriented unix socket.
pub struct UnixStream {
    common: Common,
    me: Weak<UnixStream>,
    name: BoundName,
    state: Mutex<State>,
}

enum State {
    Init,
    Listening(Listener),
    Connected(Arc<Connection>),
    Closed,
}

struct Listener {
    /// Who listens, as SO_PEERCRED of a client shows it.
    identity: PeerIdentity,
    backlog: usize,
    queue: VecDeque<Arc<UnixStream>>,
    /// Clients that found the queue full.
    blocked: BlockedSenders,
    shut_down: bool,
}

/// What a connected end knows.
pub struct Connection {
    incoming: Arc<Channel>,
    outgoing: Arc<Channel>,
    /// Which of the two ends it is for `line`.
    side: Side,
    line: Arc<Line>,
    peer: PeerIdentity,
    peer_name: UnixName,
    /// The other end's number, for sock_diag(7).
    pub peer_inode: u64,
}

impl UnixStream {
    pub fn new(network: &Arc<NetworkStack>, creator: PeerIdentity, kind: SocketType) -> Arc<UnixStream> {
        UnixStream::with_state(Common::new(network, creator, linux::AF_UNIX, kind, 0), BoundName::default(), State::Init)
    }

    fn with_state(common: Common, name: BoundName, state: State) -> Arc<UnixStream> {
        Arc::new_cyclic(|me| UnixStream { common, me: me.clone(), name, state: Mutex::new(state) })
    }

    /// Two ends, connected, without names.
    pub fn pair(network: &Arc<NetworkStack>, creator: PeerIdentity, kind: SocketType) -> [Arc<UnixStream>; 2] {
        let first = Common::new(network, creator.clone(), linux::AF_UNIX, kind, 0);
        let second = Common::new(network, creator.clone(), linux::AF_UNIX, kind, 0);
        let (one, other) = connect_commons(&first, &second, creator.clone(), creator, UnixName::Unnamed, UnixName::Unnamed);
        [
            UnixStream::with_state(first, BoundName::default(), State::Connected(Arc::new(one))),
            UnixStream::with_state(second, BoundName::default(), State::Connected(Arc::new(other))),
        ]
    }

    fn connection(&self) -> Result<Arc<Connection>> {
        match &*self.state.lock() {
            State::Connected(connection) => Ok(connection.clone()),
            _ => Err(Errno::ENOTCONN),
        }
    }

    /// For sock_diag(7): the state as tcp_states.h numbers it (1 established, 7 close, 10 listen), the peer's number,
    /// bytes or connections waiting, and bytes unsent or the backlog.
    pub fn diagnosis(&self) -> (u8, Option<u64>, u32, u32) {
        match &*self.state.lock() {
            State::Init | State::Closed => (7, None, 0, 0),
            State::Listening(listener) => (10, None, listener.queue.len() as u32, listener.backlog as u32),
            State::Connected(connection) => {
                (1, Some(connection.peer_inode), connection.incoming.available() as u32, connection.outgoing.pending() as u32)
            }
        }
    }

    /// Takes up a client: the server's end goes into the queue, the client's is returned.
    fn take_up(&self, client: &UnixStream, caller: &Caller) -> Result<Connection> {
        let mut state = self.state.lock();
        let State::Listening(listener) = &mut *state else { return Err(Errno::ECONNREFUSED) };
        if listener.shut_down {
            return Err(Errno::ECONNREFUSED);
        }
        if listener.queue.len() > listener.backlog {
            listener.blocked.add(&client.common.queue);
            return Err(Errno::EAGAIN);
        }
        let name = self.name.get();
        let common = Common::new(&self.common.network, self.common.creator.clone(), linux::AF_UNIX, self.common.kind, 0);
        {
            // What the server's own options are is taken over, as by every accepted socket.
            let options = self.common.options.lock().clone();
            *common.options.lock() = options;
        }
        let (client_end, server_end) = connect_commons(
            &client.common,
            &common,
            PeerIdentity::of(caller),
            listener.identity.clone(),
            client.name.get(),
            name.clone(),
        );
        listener.queue.push_back(UnixStream::with_state(
            common,
            BoundName::inherited(name),
            State::Connected(Arc::new(server_end)),
        ));
        drop(state);
        self.common.queue.wake_all();
        Ok(client_end)
    }

    fn hang_up(connection: &Connection) {
        if connection.incoming.abandon() {
            connection.outgoing.fail(Errno::ECONNRESET);
        } else {
            connection.outgoing.close_write();
        }
    }
}

/// Channels for two ends; returns what the first and the second know.
fn connect_commons(
    first: &Common,
    second: &Common,
    first_identity: PeerIdentity,
    second_identity: PeerIdentity,
    first_name: UnixName,
    second_name: UnixName,
) -> (Connection, Connection) {
    let framing = if first.kind == SocketType::SequencedPacket { Framing::Packets } else { Framing::Bytes };
    let budget = &first.network.budget;
    let capacity = |common: &Common| common.options.lock().send_buffer;
    let forth = Channel::new(framing, capacity(first), second.queue.clone(), first.queue.clone(), budget.clone());
    let back = Channel::new(framing, capacity(second), first.queue.clone(), second.queue.clone(), budget.clone());
    let line = Arc::new(Line::default());
    let one = Connection {
        incoming: back.clone(),
        outgoing: forth.clone(),
        side: Side::Write,
        line: line.clone(),
        peer: second_identity,
        peer_name: second_name,
        peer_inode: second.inode,
    };
    let other = Connection {
        incoming: forth,
        outgoing: back,
        side: Side::Read,
        line,
        peer: first_identity,
        peer_name: first_name,
        peer_inode: first.inode,
    };
    (one, other)
}

impl Named for UnixStream {
    fn bound_name(&self) -> &BoundName {
        &self.name
    }
    fn target(&self) -> WeakAnySocket {
        self.me.clone()
    }
}

impl Socket for UnixStream {
    fn common(&self) -> &Common {
        &self.common
    }

    fn is_at_urgent_mark(&self) -> Result<bool> {
        Ok(false)
    }

    fn bind(&self, _caller: &Caller, address: &Address) -> Result<()> {
        let Address::Unix(name) = address else { return Err(Errno::EINVAL) };
        self.name.bind(&self.common.network, name, self.target())
    }

    fn listen(&self, caller: &Caller, backlog: u32) -> Result<()> {
        if !self.name.is_bound() {
            return Err(Errno::EINVAL);
        }
        let backlog = (backlog as usize).min(MAXIMUM_BACKLOG);
        let mut state = self.state.lock();
        match &mut *state {
            State::Init => {
                *state = State::Listening(Listener {
                    identity: PeerIdentity::of(caller),
                    backlog,
                    queue: VecDeque::new(),
                    blocked: BlockedSenders::default(),
                    shut_down: false,
                });
                Ok(())
            }
            State::Listening(listener) => {
                listener.backlog = backlog;
                listener.identity = PeerIdentity::of(caller);
                let blocked = listener.blocked.take();
                drop(state);
                blocked.wake();
                Ok(())
            }
            State::Connected(_) | State::Closed => Err(Errno::EINVAL),
        }
    }

    fn connect(&self, caller: &Caller, destination: &Destination) -> Result<()> {
        let Address::Unix(_) = destination.address else { return Err(Errno::EINVAL) };
        match &*self.state.lock() {
            State::Init => {}
            State::Connected(_) => return Err(Errno::EISCONN),
            State::Listening(_) | State::Closed => return Err(Errno::EINVAL),
        }
        let target = destination.unix.clone().ok_or(Errno::ECONNREFUSED)?;
        let listener = target.downcast::<UnixStream>().map_err(|_| Errno::EPROTOTYPE)?;
        if listener.common.kind != self.common.kind {
            return Err(Errno::EPROTOTYPE);
        }
        if self.common.options.lock().pass_credentials && !self.name.is_bound() {
            self.name.bind(&self.common.network, &UnixName::Unnamed, self.target())?;
        }
        let connection = listener.take_up(self, caller)?;
        let mut state = self.state.lock();
        if matches!(*state, State::Init) {
            *state = State::Connected(Arc::new(connection));
            drop(state);
            self.common.queue.wake_all();
            return Ok(());
        }
        // Another thread was faster, or closed the socket meanwhile.
        drop(state);
        UnixStream::hang_up(&connection);
        Err(Errno::EISCONN)
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        let mut state = self.state.lock();
        let State::Listening(listener) = &mut *state else { return Err(Errno::EINVAL) };
        let Some(accepted) = listener.queue.pop_front() else {
            return Err(if listener.shut_down { Errno::EINVAL } else { Errno::EAGAIN });
        };
        let blocked = listener.blocked.take();
        drop(state);
        blocked.wake();
        Ok(accepted)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Connected(connection) => {
                let connection = connection.clone();
                drop(state);
                if how.writes() {
                    connection.outgoing.close_write();
                }
                if how.reads() {
                    connection.incoming.close_read();
                }
            }
            State::Listening(listener) => {
                listener.shut_down |= how.reads();
                let blocked = listener.blocked.take();
                drop(state);
                blocked.wake();
            }
            State::Init | State::Closed => return Err(Errno::ENOTCONN),
        }
        self.common.queue.wake_all();
        Ok(())
    }

    fn local_address(&self) -> Address {
        Address::Unix(self.name.get())
    }

    fn peer_address(&self) -> Result<Address> {
        Ok(Address::Unix(self.connection()?.peer_name.clone()))
    }

    fn send(&self, caller: &Caller, data: &[u8], outgoing: &mut Outgoing) -> Result<usize> {
        if outgoing.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let connected = self.connection();
        if outgoing.destination.is_some() && self.common.kind == SocketType::Stream {
            return Err(if connected.is_ok() { Errno::EISCONN } else { Errno::EOPNOTSUPP });
        }
        let sender = outgoing.credentials.unwrap_or_else(|| caller.user_credentials());
        connected?.outgoing.send(data, &mut outgoing.rights, sender)
    }

    fn receive(&self, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming> {
        if flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        let connection = self.connection().map_err(|_| {
            // Linux: EINVAL for a stream, ENOTCONN for packets.
            if self.common.kind == SocketType::Stream {
                Errno::EINVAL
            } else {
                Errno::ENOTCONN
            }
        })?;
        let (pass, peek_offset) = {
            let options = self.common.options.lock();
            (options.pass_credentials, options.peek_offset)
        };
        let peek = flags.contains(MessageFlags::PEEK);
        let mode = ReceiveMode { peek, offset: if peek { peek_offset.max(0) as usize } else { 0 }, split_senders: pass };
        let Some(received) = connection.incoming.receive(buffer, mode)? else { return Ok(Incoming::default()) };
        if peek_offset >= 0 {
            let mut options = self.common.options.lock();
            let moved = i32::try_from(received.count).unwrap_or(i32::MAX);
            options.peek_offset = if peek { peek_offset.saturating_add(moved) } else { (peek_offset - moved).max(0) };
        }
        let mut out = MessageFlags::empty();
        if self.common.kind == SocketType::SequencedPacket {
            // unix(7): MSG_EOR is not kept on this family; a cut packet is told.
            out.set(MessageFlags::TRUNC, received.full_length > received.count);
        }
        Ok(Incoming {
            count: received.count,
            full_length: received.full_length,
            source: (connection.peer_name != UnixName::Unnamed).then(|| Address::Unix(connection.peer_name.clone())),
            rights: received.rights,
            credentials: pass.then_some(received.sender),
            control: Vec::new(),
            flags: out,
            boundary: received.boundary,
        })
    }

    fn stream_to_read(&self) -> Option<Arc<Channel>> {
        let options = self.common.options.lock();
        let is_plain = self.common.kind == SocketType::Stream
            && !options.pass_credentials
            && options.peek_offset < 0
            && options.receive_low_water <= 1;
        drop(options);
        self.connection().ok().filter(|_| is_plain).map(|connection| connection.incoming.clone())
    }

    fn stream_end(&self) -> Option<StreamEnd> {
        let is_plain = {
            let options = self.common.options.lock();
            self.common.kind == SocketType::Stream
                && !options.pass_credentials
                && options.peek_offset < 0
                && options.receive_low_water <= 1
                && !options.has_timeouts()
        };
        let connection = self.connection().ok().filter(|_| is_plain && !self.common.has_error())?;
        Some(StreamEnd {
            side: connection.side,
            incoming: connection.incoming.clone(),
            outgoing: connection.outgoing.clone(),
            line: connection.line.clone(),
            network: None,
        })
    }

    fn channels(&self) -> Option<[Arc<Channel>; 2]> {
        self.connection().ok().map(|connection| [connection.incoming.clone(), connection.outgoing.clone()])
    }

    fn put_back(&self, bytes: &[u8]) {
        if let Ok(connection) = self.connection() {
            connection.incoming.put_back(bytes);
        }
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let connection = match &*state {
            State::Init => return Events::OUT | Events::WRNORM | Events::WRBAND | Events::HUP,
            State::Closed => return Events::HUP,
            State::Listening(listener) => {
                let mut events = Events::empty();
                events.set(Events::IN | Events::RDNORM, listener.shut_down || !listener.queue.is_empty());
                events.set(Events::RDHUP, listener.shut_down);
                return events;
            }
            State::Connected(connection) => connection.clone(),
        };
        drop(state);
        let mut events = Events::empty();
        let low_water = self.common.options.lock().receive_low_water;
        let incoming = connection.incoming.look_to_read(usize::try_from(low_water).unwrap_or(1));
        let outgoing = connection.outgoing.look_to_write();
        let ended = incoming.write_closed || incoming.read_closed;
        let closed = outgoing.write_closed || outgoing.read_closed;
        if ended {
            events |= Events::IN | Events::RDNORM | Events::RDHUP;
        } else if incoming.ready {
            events |= Events::IN | Events::RDNORM;
        }
        if ended && closed {
            events |= Events::HUP;
        }
        if closed || outgoing.ready {
            events |= Events::OUT | Events::WRNORM | Events::WRBAND;
        }
        if incoming.has_error || self.common.has_error() {
            events |= Events::ERR;
        }
        events
    }

    fn available(&self) -> Result<usize> {
        match &*self.state.lock() {
            State::Listening(_) => Err(Errno::EINVAL),
            State::Connected(connection) => Ok(connection.incoming.available()),
            State::Init | State::Closed => Ok(0),
        }
    }

    fn unsent(&self) -> Result<usize> {
        match &*self.state.lock() {
            State::Listening(_) => Err(Errno::EINVAL),
            State::Connected(connection) => Ok(connection.outgoing.pending()),
            State::Init | State::Closed => Ok(0),
        }
    }

    fn peer_identity(&self) -> Option<PeerIdentity> {
        match &*self.state.lock() {
            State::Connected(connection) => Some(connection.peer.clone()),
            State::Listening(listener) => Some(listener.identity.clone()),
            State::Init | State::Closed => None,
        }
    }

    fn take_error(&self) -> Option<Errno> {
        self.common.take_error().or_else(|| self.connection().ok().and_then(|connection| connection.incoming.take_error()))
    }

    fn buffers_changed(&self) {
        if let Ok(connection) = self.connection() {
            connection.outgoing.set_capacity(self.common.options.lock().send_buffer);
        }
    }

    fn is_listening(&self) -> bool {
        matches!(*self.state.lock(), State::Listening(_))
    }

    fn close(&self) {
        self.name.release(&self.common.network);
        let state = std::mem::replace(&mut *self.state.lock(), State::Closed);
        match state {
            State::Connected(connection) => UnixStream::hang_up(&connection),
            State::Listening(mut listener) => {
                for waiting in listener.queue.drain(..) {
                    // Never accepted: its client hears of a reset.
                    if let Ok(connection) = waiting.connection() {
                        connection.incoming.abandon();
                        connection.outgoing.fail(Errno::ECONNRESET);
                    }
                }
                listener.blocked.take().wake();
            }
            State::Init | State::Closed => {}
        }
        self.common.queue.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
