//! SOCK_DGRAM: messages go straight into the receiver's queue. Reliable: a sender whose receiver is full waits.

use super::{BoundName, Named, WeakAnySocket};
use crate::fs::file::Events;
use crate::net::address::{Address, UnixName};
use crate::net::rights::InFlight;
use crate::net::socket::{
    BlockedSenders, Caller, Common, Destination, Incoming, MessageFlags, Outgoing, PeerIdentity, Shutdown, Socket, SocketType,
    UserCredentials,
};
use crate::net::NetworkStack;
use crate::{Errno, Result};
use parking_lot::Mutex;
use skerry_abi::raw::net as linux;
use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};

/// What a message is counted as beside its bytes.
const OVERHEAD: usize = 256;
/// net.unix.max_dgram_qlen as distributions set it.
const MAXIMUM_QUEUE: usize = 512;

/// A datagram unix socket.
pub struct UnixDatagram {
    common: Common,
    me: Weak<UnixDatagram>,
    name: BoundName,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Message>,
    /// Bytes in the queue with their overhead.
    queued: usize,
    peer: Option<Peer>,
    blocked: BlockedSenders,
    read_closed: bool,
    write_closed: bool,
    closed: bool,
}

#[derive(Clone)]
struct Peer {
    socket: Weak<UnixDatagram>,
    name: UnixName,
    inode: u64,
    identity: PeerIdentity,
}

struct Message {
    data: Vec<u8>,
    source: UnixName,
    rights: InFlight,
    sender: UserCredentials,
}

impl Message {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

impl UnixDatagram {
    pub fn new(network: &Arc<NetworkStack>, creator: PeerIdentity) -> Arc<UnixDatagram> {
        let common = Common::new(network, creator, linux::AF_UNIX, SocketType::Datagram, 0);
        Arc::new_cyclic(|me| UnixDatagram { common, me: me.clone(), name: BoundName::default(), state: Mutex::default() })
    }

    /// Two ends, connected to each other, without names.
    pub fn pair(network: &Arc<NetworkStack>, creator: PeerIdentity) -> [Arc<UnixDatagram>; 2] {
        let ends = [UnixDatagram::new(network, creator.clone()), UnixDatagram::new(network, creator)];
        ends[0].state.lock().peer = Some(ends[1].as_peer());
        ends[1].state.lock().peer = Some(ends[0].as_peer());
        ends
    }

    fn as_peer(&self) -> Peer {
        Peer { socket: self.me.clone(), name: self.name.get(), inode: self.common.inode, identity: self.common.creator.clone() }
    }

    /// For sock_diag(7): connected or not, the peer's number, bytes waiting.
    pub fn diagnosis(&self) -> (u8, Option<u64>, u32) {
        let state = self.state.lock();
        let waiting = state.queue.front().map_or(0, |message| message.data.len() as u32);
        match &state.peer {
            Some(peer) => (1, Some(peer.inode), waiting),
            None => (7, None, waiting),
        }
    }

    /// The socket that a destination led to. ECONNREFUSED, EPROTOTYPE.
    fn find(destination: &Destination) -> Result<Arc<UnixDatagram>> {
        let target = destination.unix.clone().ok_or(Errno::ECONNREFUSED)?;
        target.downcast::<UnixDatagram>().map_err(|_| Errno::EPROTOTYPE)
    }

    /// EPERM where this socket is connected to another than `sender`.
    fn may_be_sent_to(&self, sender: &UnixDatagram) -> Result<()> {
        match &self.state.lock().peer {
            Some(peer) if !std::ptr::eq(peer.socket.as_ptr(), sender) => Err(Errno::EPERM),
            _ => Ok(()),
        }
    }

    /// Whether a message of `length` bytes from a socket with `limit` as its SO_SNDBUF fits now.
    fn has_room(state: &State, length: usize, limit: usize) -> bool {
        state.queue.is_empty() || (state.queue.len() < MAXIMUM_QUEUE && state.queued + length + OVERHEAD <= limit)
    }

    fn deliver(
        &self,
        from: &UnixDatagram,
        limit: usize,
        data: &[u8],
        rights: &mut InFlight,
        sender: UserCredentials,
    ) -> Result<()> {
        let source = from.name.get();
        let mut state = self.state.lock();
        if state.closed {
            return Err(Errno::ECONNREFUSED);
        }
        if state.read_closed {
            return Err(Errno::EPIPE);
        }
        if !UnixDatagram::has_room(&state, data.len(), limit) {
            state.blocked.add(&from.common.queue);
            return Err(Errno::EAGAIN);
        }
        if !self.common.network.budget.reserve(data.len() + OVERHEAD) {
            return Err(Errno::ENOBUFS);
        }
        let rights = std::mem::take(rights);
        let message = Message { data: data.to_vec(), source, rights, sender };
        state.queued += message.cost();
        state.queue.push_back(message);
        drop(state);
        self.common.queue.wake_all();
        Ok(())
    }
}

impl Named for UnixDatagram {
    fn bound_name(&self) -> &BoundName {
        &self.name
    }
    fn target(&self) -> WeakAnySocket {
        self.me.clone()
    }
}

impl Socket for UnixDatagram {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, _caller: &Caller, address: &Address) -> Result<()> {
        let Address::Unix(name) = address else { return Err(Errno::EINVAL) };
        self.name.bind(&self.common.network, name, self.target())
    }

    fn connect(&self, _caller: &Caller, destination: &Destination) -> Result<()> {
        let peer = match destination.address {
            Address::Unspecified => None,
            Address::Unix(_) => {
                let target = UnixDatagram::find(destination)?;
                target.may_be_sent_to(self)?;
                if self.common.options.lock().pass_credentials && !self.name.is_bound() {
                    self.name.bind(&self.common.network, &UnixName::Unnamed, self.target())?;
                }
                Some(target.as_peer())
            }
            _ => return Err(Errno::EINVAL),
        };
        self.state.lock().peer = peer;
        self.common.queue.wake_all();
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let mut state = self.state.lock();
        state.read_closed |= how.reads();
        state.write_closed |= how.writes();
        let blocked = state.blocked.take();
        drop(state);
        blocked.wake();
        self.common.queue.wake_all();
        Ok(())
    }

    fn local_address(&self) -> Address {
        Address::Unix(self.name.get())
    }

    fn peer_address(&self) -> Result<Address> {
        let state = self.state.lock();
        state.peer.as_ref().map(|peer| Address::Unix(peer.name.clone())).ok_or(Errno::ENOTCONN)
    }

    fn send(&self, caller: &Caller, data: &[u8], outgoing: &mut Outgoing) -> Result<usize> {
        if outgoing.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let target = match &outgoing.destination {
            Some(destination) => {
                if !matches!(destination.address, Address::Unix(_)) {
                    return Err(Errno::EINVAL);
                }
                let target = UnixDatagram::find(destination)?;
                target.may_be_sent_to(self)?;
                target
            }
            None => {
                let mut state = self.state.lock();
                let peer = state.peer.as_ref().ok_or(Errno::ENOTCONN)?;
                match peer.socket.upgrade() {
                    Some(target) => target,
                    None => {
                        state.peer = None;
                        return Err(Errno::ECONNREFUSED);
                    }
                }
            }
        };
        if self.state.lock().write_closed {
            return Err(Errno::EPIPE);
        }
        let (limit, pass) = {
            let options = self.common.options.lock();
            (options.send_buffer, options.pass_credentials)
        };
        if data.len() > limit - 32 {
            return Err(Errno::EMSGSIZE);
        }
        if pass && !self.name.is_bound() {
            self.name.bind(&self.common.network, &UnixName::Unnamed, self.target())?;
        }
        let sender = outgoing.credentials.unwrap_or_else(|| caller.user_credentials());
        let result = target.deliver(self, limit, data, &mut outgoing.rights, sender);
        if result == Err(Errno::ECONNREFUSED) && outgoing.destination.is_none() {
            self.state.lock().peer = None;
        }
        result.map(|()| data.len())
    }

    fn receive(&self, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming> {
        if flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        self.common.check_error()?;
        let pass = self.common.options.lock().pass_credentials;
        let fill = |buffer: &mut [u8], message: &Message, rights: InFlight| {
            let count = message.data.len().min(buffer.len());
            buffer[..count].copy_from_slice(&message.data[..count]);
            let mut out = MessageFlags::empty();
            out.set(MessageFlags::TRUNC, message.data.len() > count);
            Incoming {
                count,
                full_length: message.data.len(),
                source: (message.source != UnixName::Unnamed).then(|| Address::Unix(message.source.clone())),
                rights,
                credentials: pass.then_some(message.sender),
                control: Vec::new(),
                flags: out,
                boundary: true,
            }
        };
        let mut state = self.state.lock();
        if flags.contains(MessageFlags::PEEK) {
            let offset = self.common.options.lock().peek_offset;
            let mut skip = offset.max(0) as usize;
            let message = state.queue.iter().find(|message| {
                let found = skip < message.data.len() || (skip == 0 && message.data.is_empty());
                if !found {
                    skip -= message.data.len();
                }
                found
            });
            return match message {
                Some(message) if offset >= 0 => {
                    let count = buffer.len().min(message.data.len() - skip);
                    buffer[..count].copy_from_slice(&message.data[skip..skip + count]);
                    let incoming = fill(&mut [], message, message.rights.duplicate());
                    self.common.options.lock().peek_offset = offset.saturating_add(i32::try_from(count).unwrap_or(i32::MAX));
                    Ok(Incoming { count, ..incoming })
                }
                Some(message) => Ok(fill(buffer, message, message.rights.duplicate())),
                None if state.read_closed => Ok(Incoming::default()),
                None => Err(Errno::EAGAIN),
            };
        }
        let Some(mut message) = state.queue.pop_front() else {
            return if state.read_closed { Ok(Incoming::default()) } else { Err(Errno::EAGAIN) };
        };
        state.queued = state.queued.saturating_sub(message.cost());
        let blocked = state.blocked.take();
        drop(state);
        self.common.network.budget.release(message.cost());
        blocked.wake();
        let rights = std::mem::take(&mut message.rights);
        Ok(fill(buffer, &message, rights))
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::empty();
        events.set(Events::IN | Events::RDNORM, !state.queue.is_empty() || state.read_closed);
        events.set(Events::RDHUP, state.read_closed);
        events.set(Events::HUP, state.read_closed && state.write_closed);
        events.set(Events::ERR, self.common.has_error());
        let peer = state.peer.as_ref().and_then(|peer| peer.socket.upgrade());
        drop(state);
        // Only a connected socket has one receiver whose room can be told.
        let writable = match peer {
            Some(peer) if !std::ptr::eq(Arc::as_ptr(&peer), self) => {
                let limit = self.common.options.lock().send_buffer;
                let mut state = peer.state.lock();
                let room = state.closed || state.read_closed || UnixDatagram::has_room(&state, limit / 4, limit);
                if !room {
                    state.blocked.add(&self.common.queue);
                }
                room
            }
            _ => true,
        };
        events.set(Events::OUT | Events::WRNORM | Events::WRBAND, writable);
        events
    }

    fn available(&self) -> Result<usize> {
        Ok(self.state.lock().queue.front().map_or(0, |message| message.data.len()))
    }

    fn peer_identity(&self) -> Option<PeerIdentity> {
        self.state.lock().peer.as_ref().map(|peer| peer.identity.clone())
    }

    fn close(&self) {
        self.name.release(&self.common.network);
        let mut state = self.state.lock();
        state.closed = true;
        let queue = std::mem::take(&mut state.queue);
        let blocked = state.blocked.take();
        let queued = std::mem::take(&mut state.queued);
        state.peer = None;
        drop(state);
        self.common.network.budget.release(queued);
        drop(queue);
        blocked.wake();
        self.common.queue.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
