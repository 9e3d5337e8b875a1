//! TCP over loopback (tcp(7)): [`TcpSocket`], whose states are [`State`]; [`listener`] takes up connections,
//! [`connection`] moves bytes and ends.
//!
//! A connection is made whole in connect(2): the server's end waits in the listener's queue. Where that queue is full the
//! client stays in `Connecting` and accept(2) goes on with it.

mod connection;
mod cork;
mod listener;

use super::address::{self, Families, Multicast};
use super::ports::{PortLease, Request, Sharing};
use super::{options, IPPROTO_TCP};
use crate::fs::file::Events;
use crate::net::address::Address;
use crate::net::channel::Channel;
use crate::net::sharing::StreamEnd;
use crate::net::socket::{
    Caller, Common, Destination, Incoming, MessageFlags, Outgoing, PeerIdentity, Shutdown, Socket, SocketType,
};
use crate::net::NetworkStack;
use crate::task::credentials::CAP_NET_BIND_SERVICE;
use crate::{Errno, Result};
use connection::{Connection, More};
use listener::Listener;
use parking_lot::Mutex;
use skerry_abi::raw::net as linux;
use std::any::Any;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// States as tcp_states.h numbers them, for TCP_INFO, /proc/net/tcp and sock_diag(7).
pub const TCP_ESTABLISHED: u8 = 1;
pub const TCP_SYN_SENT: u8 = 2;
pub const TCP_FIN_WAIT2: u8 = 5;
pub const TCP_CLOSE: u8 = 7;
pub const TCP_CLOSE_WAIT: u8 = 8;
pub const TCP_LISTEN: u8 = 10;

/// A TCP socket.
pub struct TcpSocket {
    common: Common,
    me: Weak<TcpSocket>,
    state: Mutex<State>,
    /// TCP_CORK.
    corked: AtomicBool,
    /// A connect(2) in the background has succeeded, which the next connect(2) is to tell.
    connect_untold: AtomicBool,
}

enum State {
    /// New, or bound.
    Init(Option<Bound>),
    /// Waiting for room in a listener's queue.
    Connecting {
        bound: Bound,
        peer: SocketAddr,
    },
    Listening(Listener),
    Connected(Arc<Connection>),
    Closed,
}

/// A local address that is held.
struct Bound {
    /// As bind(2) or connect(2) set it; canonical.
    local: SocketAddr,
    lease: PortLease,
    /// By bind(2), so that it outlives a failed connect(2): the address it gave.
    explicit: Option<IpAddr>,
}

/// What /proc/net/tcp and sock_diag(7) show.
pub struct Diagnosis {
    pub state: u8,
    pub local: SocketAddr,
    pub peer: Option<SocketAddr>,
    pub receive_queue: u32,
    pub send_queue: u32,
}

impl TcpSocket {
    pub fn new(network: &Arc<NetworkStack>, creator: PeerIdentity, domain: u32) -> Arc<TcpSocket> {
        let common = Common::new(network, creator, domain, SocketType::Stream, IPPROTO_TCP);
        TcpSocket::with_state(common, State::Init(None))
    }

    fn with_state(common: Common, state: State) -> Arc<TcpSocket> {
        Arc::new_cyclic(|me| TcpSocket {
            common,
            me: me.clone(),
            state: Mutex::new(state),
            corked: AtomicBool::new(false),
            connect_untold: AtomicBool::new(false),
        })
    }

    fn families(&self) -> Families {
        options::families(&self.common)
    }

    fn sharing(&self) -> Sharing {
        options::sharing(&self.common)
    }

    fn request(&self, address: SocketAddr) -> Request {
        Request { address, families: self.families(), sharing: self.sharing(), stream: true, socket: self.me.clone() }
    }

    fn connection(&self) -> Option<Arc<Connection>> {
        match &*self.state.lock() {
            State::Connected(connection) => Some(connection.clone()),
            _ => None,
        }
    }

    /// The connection, or the error that Linux gives for sending and receiving without one.
    fn connected(&self) -> Result<Arc<Connection>> {
        let errno = match &*self.state.lock() {
            State::Connected(connection) => return Ok(connection.clone()),
            State::Connecting { .. } => Errno::EAGAIN,
            State::Init(_) | State::Listening(_) | State::Closed => Errno::ENOTCONN,
        };
        self.common.check_error()?;
        Err(errno)
    }

    /// The socket at the other end, by number.
    pub fn peer_inode(&self) -> Option<u64> {
        self.connection().map(|connection| connection.peer_inode)
    }

    pub fn diagnosis(&self) -> Diagnosis {
        let none = address::unspecified(self.common.domain());
        match &*self.state.lock() {
            State::Init(bound) => Diagnosis {
                state: TCP_CLOSE,
                local: bound.as_ref().map_or(none, |bound| bound.local),
                peer: None,
                receive_queue: 0,
                send_queue: 0,
            },
            State::Connecting { bound, peer } => {
                Diagnosis { state: TCP_SYN_SENT, local: bound.local, peer: Some(*peer), receive_queue: 0, send_queue: 0 }
            }
            State::Listening(listener) => Diagnosis {
                state: TCP_LISTEN,
                local: listener.bound.local,
                peer: None,
                receive_queue: listener.waiting() as u32,
                send_queue: listener.backlog as u32,
            },
            State::Connected(connection) => connection.diagnosis(),
            State::Closed => Diagnosis { state: TCP_CLOSE, local: none, peer: None, receive_queue: 0, send_queue: 0 },
        }
    }

    /// A connection that could not be made: back to where connect(2) started.
    fn connect_failed(&self) {
        let mut state = self.state.lock();
        if let State::Connecting { .. } = &*state {
            let State::Connecting { bound, .. } = std::mem::replace(&mut *state, State::Init(None)) else { return };
            if let Some(ip) = bound.explicit {
                bound.lease.disconnect(ip);
                let local = SocketAddr::new(ip, bound.local.port());
                *state = State::Init(Some(Bound { local, ..bound }));
            }
        }
    }

    /// A listener has taken this client up. False where it is not waiting any more.
    fn establish(&self, connect: impl FnOnce(Bound, SocketAddr) -> Connection) -> bool {
        let mut state = self.state.lock();
        if !matches!(*state, State::Connecting { .. }) {
            return false;
        }
        if let State::Connecting { bound, peer } = std::mem::replace(&mut *state, State::Closed) {
            *state = State::Connected(Arc::new(connect(bound, peer)));
        }
        drop(state);
        self.common.queue.wake_all();
        true
    }

    /// connect(2) with AF_UNSPEC: ends what there is, and begins anew.
    fn disconnect(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Init(None));
        self.end(state, connection::End::Reset);
    }

    /// Lets go of a state that is over.
    fn end(&self, state: State, end: connection::End) {
        match state {
            State::Connected(connection) => connection.hang_up(end),
            State::Listening(listener) => listener.close(),
            State::Init(_) | State::Connecting { .. } | State::Closed => {}
        }
        self.common.queue.wake_all();
    }
}

impl Socket for TcpSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, caller: &Caller, address: &Address) -> Result<()> {
        let address =
            address::to_bind(&self.common.network, self.common.domain(), self.families(), address, Multicast::Refused)?;
        if (1..1024).contains(&address.port()) && !caller.credentials.has_capability(CAP_NET_BIND_SERVICE) {
            return Err(Errno::EACCES);
        }
        let request = self.request(address);
        let mut state = self.state.lock();
        if !matches!(*state, State::Init(None)) {
            return Err(Errno::EINVAL);
        }
        let lease = self.common.network.tcp_ports.bind(request)?;
        let local = SocketAddr::new(address.ip(), lease.port);
        *state = State::Init(Some(Bound { local, lease, explicit: Some(address.ip()) }));
        Ok(())
    }

    fn listen(&self, _caller: &Caller, backlog: u32) -> Result<()> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Init(bound) => {
                if bound.is_none() {
                    let local = address::unspecified(self.common.domain());
                    let lease = self.common.network.tcp_ports.bind(self.request(local))?;
                    let local_bound = SocketAddr::new(local.ip(), lease.port);
                    *bound = Some(Bound { local: local_bound, lease, explicit: Some(local.ip()) });
                }
                let Some(present) = bound.as_ref() else { return Err(Errno::EINVAL) };
                present.lease.listen(&self.request(present.local))?;
                if let Some(bound) = bound.take() {
                    *state = State::Listening(Listener::new(bound, backlog));
                }
                Ok(())
            }
            State::Listening(listener) => {
                listener.set_backlog(backlog);
                Ok(())
            }
            State::Connecting { .. } | State::Connected(_) | State::Closed => Err(Errno::EINVAL),
        }
    }

    fn connect(&self, _caller: &Caller, destination: &Destination) -> Result<()> {
        let peer = match destination.address {
            Address::Unspecified => {
                self.disconnect();
                return Ok(());
            }
            Address::Inet(peer) if peer.is_ipv6() == (self.common.domain() == linux::AF_INET6) => peer,
            _ => return Err(Errno::EAFNOSUPPORT),
        };
        let peer = {
            let mut state = self.state.lock();
            let bound = match &mut *state {
                State::Init(bound) => bound,
                State::Connecting { .. } => return Err(Errno::EALREADY),
                State::Connected(_) if self.connect_untold.swap(false, Ordering::Relaxed) => return Ok(()),
                State::Connected(_) | State::Listening(_) => return Err(Errno::EISCONN),
                State::Closed => return Err(Errno::EINVAL),
            };
            self.common.check_error()?;
            let peer = address::to_reach(&self.common.network, self.families(), peer)?;
            let bound = match bound.take() {
                Some(mut present) => {
                    let ip = match present.local.ip() {
                        ip if ip.is_unspecified() => address::source_for(peer.ip()),
                        ip => ip,
                    };
                    let connected =
                        if ip.is_ipv4() == peer.is_ipv4() { present.lease.connect(ip, peer) } else { Err(Errno::ENETUNREACH) };
                    if let Err(errno) = connected {
                        *bound = Some(present);
                        return Err(errno);
                    }
                    present.local.set_ip(ip);
                    present
                }
                None => {
                    let ip = address::source_for(peer.ip());
                    let lease = self.common.network.tcp_ports.bind_for_connect(self.request(SocketAddr::new(ip, 0)), peer)?;
                    Bound { local: SocketAddr::new(ip, lease.port), lease, explicit: None }
                }
            };
            *state = State::Connecting { bound, peer };
            peer
        };
        let result = listener::knock(self, peer);
        if result.is_err() && result != Err(Errno::EINPROGRESS) {
            self.connect_failed();
        }
        result
    }

    /// On Linux the answer to a SYN is looked at only once connect(2) is over, also over lo: a call that must not wait
    /// never sees how it ends.
    fn connect_nowait(&self, caller: &Caller, destination: &Destination) -> Result<()> {
        let begins = matches!(*self.state.lock(), State::Init(_)) && !self.common.has_error();
        if !begins || destination.address == Address::Unspecified {
            return self.connect(caller, destination);
        }
        match self.connect(caller, destination) {
            Ok(()) | Err(Errno::EINPROGRESS) => self.connect_untold.store(true, Ordering::Relaxed),
            Err(Errno::ECONNREFUSED) => self.common.set_error(Errno::ECONNREFUSED),
            Err(errno) => return Err(errno),
        }
        Err(Errno::EINPROGRESS)
    }

    fn inline_changed(&self) {
        if let Some(connection) = self.connection() {
            connection.set_urgent_inline(self.common.options.lock().out_of_band_inline);
        }
    }

    fn is_at_urgent_mark(&self) -> Result<bool> {
        Ok(self.connection().is_some_and(|connection| connection.is_at_urgent_mark()))
    }

    fn connect_result(&self) -> Result<()> {
        match &*self.state.lock() {
            State::Connecting { .. } => return Err(Errno::EAGAIN),
            State::Connected(_) => return Ok(()),
            _ => {}
        }
        Err(self.common.take_error().unwrap_or(Errno::ECONNREFUSED))
    }

    fn accept(&self) -> Result<Arc<dyn Socket>> {
        let (accepted, invited) = match &mut *self.state.lock() {
            State::Listening(listener) => listener.take(),
            _ => return Err(Errno::EINVAL),
        };
        for client in invited {
            listener::take_up(self, &client);
        }
        accepted.map(|socket| socket as Arc<dyn Socket>).ok_or(Errno::EAGAIN)
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let mut state = self.state.lock();
        match &mut *state {
            State::Connected(connection) => {
                let connection = connection.clone();
                drop(state);
                connection.shutdown(how);
            }
            State::Listening(_) if how.reads() => {
                let listening = std::mem::replace(&mut *state, State::Closed);
                if let State::Listening(mut listener) = listening {
                    listener.bound.lease.stop_listening();
                    let rest = listener.drain();
                    *state = State::Init(Some(listener.bound));
                    drop(state);
                    rest.refuse();
                }
            }
            State::Listening(_) => {}
            State::Connecting { .. } => {
                drop(state);
                self.connect_failed();
                self.common.set_error(Errno::ECONNRESET);
            }
            State::Init(_) | State::Closed => return Err(Errno::ENOTCONN),
        }
        self.common.queue.wake_all();
        Ok(())
    }

    fn local_address(&self) -> Address {
        Address::Inet(address::presented(self.common.domain(), self.diagnosis().local))
    }

    fn peer_address(&self) -> Result<Address> {
        match &*self.state.lock() {
            State::Connected(connection) if !connection.is_over() => {
                Ok(Address::Inet(address::presented(self.common.domain(), connection.peer)))
            }
            _ => Err(Errno::ENOTCONN),
        }
    }

    fn accepted_address(&self) -> Address {
        let peer = self.diagnosis().peer.unwrap_or_else(|| address::unspecified(self.common.domain()));
        Address::Inet(address::presented(self.common.domain(), peer))
    }

    fn send(&self, _caller: &Caller, data: &[u8], outgoing: &mut Outgoing) -> Result<usize> {
        let connection = match self.connected() {
            Ok(connection) => connection,
            // Linux sends SIGPIPE for a socket that never was connected.
            Err(Errno::ENOTCONN) => return Err(Errno::EPIPE),
            Err(errno) => return Err(errno),
        };
        let more = if outgoing.flags.contains(MessageFlags::OOB) {
            More::Urgent
        } else if outgoing.flags.contains(MessageFlags::MORE) || self.corked.load(Ordering::Relaxed) {
            More::Yes
        } else {
            More::No
        };
        let result = connection.send(&self.common, data, more);
        if let Ok(count) = result {
            self.common.network.interface.count(count);
        }
        result
    }

    fn receive(&self, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming> {
        let connection = self.connected()?;
        if flags.contains(MessageFlags::OOB) {
            return connection.receive_urgent(buffer, flags.contains(MessageFlags::PEEK));
        }
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        connection.receive(&self.common, buffer, flags)
    }

    fn stream_to_read(&self) -> Option<Arc<Channel>> {
        let connection = self.connection()?;
        (self.common.options.lock().receive_low_water <= 1).then(|| connection.stream_to_read())
    }

    fn stream_end(&self) -> Option<StreamEnd> {
        let is_plain = {
            let options = self.common.options.lock();
            options.receive_low_water <= 1 && !options.has_timeouts()
        };
        let connection = self.connection().filter(|_| is_plain && !self.corked.load(Ordering::Relaxed))?;
        connection.stream_end(&self.common)
    }

    fn channels(&self) -> Option<[Arc<Channel>; 2]> {
        self.connection().map(|connection| connection.channels())
    }

    fn put_back(&self, bytes: &[u8]) {
        if let Ok(connection) = self.connected() {
            connection.put_back(bytes);
        }
    }

    fn poll(&self) -> Events {
        let connection = match &*self.state.lock() {
            State::Init(_) | State::Closed => {
                let mut events = Events::OUT | Events::WRNORM | Events::HUP;
                if self.common.has_error() {
                    events |= Events::ERR | Events::IN | Events::RDNORM | Events::RDHUP;
                }
                return events;
            }
            State::Connecting { .. } => return Events::empty(),
            State::Listening(listener) => {
                let mut events = Events::empty();
                events.set(Events::IN | Events::RDNORM, listener.waiting() > 0);
                return events;
            }
            State::Connected(connection) => connection.clone(),
        };
        connection.poll(&self.common)
    }

    fn available(&self) -> Result<usize> {
        match &*self.state.lock() {
            State::Listening(_) => Err(Errno::EINVAL),
            State::Connected(connection) => Ok(connection.available()),
            _ => Ok(0),
        }
    }

    fn unsent(&self) -> Result<usize> {
        match &*self.state.lock() {
            State::Listening(_) => Err(Errno::EINVAL),
            // What the other side has not read has been acknowledged all the same.
            _ => Ok(0),
        }
    }

    fn set_option(&self, caller: &Caller, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level == linux::SOL_IPV6 && name == linux::IPV6_V6ONLY && !matches!(*self.state.lock(), State::Init(None)) {
            return Err(Errno::EINVAL);
        }
        if level == linux::SOL_IPV6 && name == linux::IPV6_ADDRFORM && self.common.domain() == linux::AF_INET6 {
            return options::become_ipv4(&self.common, value, self.connection().map(|connection| connection.peer));
        }
        match level {
            linux::SOL_TCP => {
                options::set_tcp(&self.common, name, value)?;
                let corked = options::is_on(&self.common, linux::SOL_TCP, linux::TCP_CORK);
                self.corked.store(corked, Ordering::Relaxed);
                if matches!(name, linux::TCP_CORK | linux::TCP_NODELAY) && (!corked || name == linux::TCP_NODELAY) {
                    if let Some(connection) = self.connection() {
                        connection.flush();
                    }
                }
                Ok(())
            }
            _ => options::set_ip(&self.common, caller, level, name, value),
        }
    }

    fn get_option(&self, level: u32, name: u32, _length: usize) -> Result<Vec<u8>> {
        match level {
            linux::SOL_TCP => options::get_tcp(&self.common, name, || self.diagnosis()),
            _ => options::get_ip(&self.common, level, name, self.connection().is_some()),
        }
    }

    fn take_error(&self) -> Option<Errno> {
        self.common.take_error().or_else(|| self.connection().and_then(|connection| connection.take_error()))
    }

    fn buffers_changed(&self) {
        if let Some(connection) = self.connection() {
            connection.set_capacity(options::stream_capacity(&self.common));
        }
    }

    fn sharing_changed(&self) {
        let sharing = self.sharing();
        match &*self.state.lock() {
            State::Init(Some(bound)) => bound.lease.set_sharing(sharing),
            State::Listening(listener) => listener.bound.lease.set_sharing(sharing),
            _ => {}
        }
    }

    fn is_listening(&self) -> bool {
        matches!(*self.state.lock(), State::Listening(_))
    }

    fn close(&self) {
        let state = std::mem::replace(&mut *self.state.lock(), State::Closed);
        let linger = self.common.options.lock().linger;
        self.end(state, if linger == (true, 0) { connection::End::Reset } else { connection::End::Orderly });
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
