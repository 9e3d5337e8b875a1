//! The listening state: connections that wait for accept(2), and clients that wait for room among them.

use super::connection::{Connection, End};
use super::{Bound, State, TcpSocket};
use crate::net::inet::options;
use crate::net::inet::ports::Request;
use crate::net::socket::Common;
use crate::{Errno, Result};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};

/// net.core.somaxconn.
const MAXIMUM_BACKLOG: usize = 4096;

pub(super) struct Listener {
    pub bound: Bound,
    pub backlog: usize,
    queue: VecDeque<Arc<TcpSocket>>,
    /// Each is the socket of a connect(2) that goes on.
    clients: VecDeque<Weak<TcpSocket>>,
}

/// What a listener leaves behind.
pub(super) struct Rest {
    queue: VecDeque<Arc<TcpSocket>>,
    clients: VecDeque<Weak<TcpSocket>>,
}

impl Listener {
    pub fn new(bound: Bound, backlog: u32) -> Listener {
        Listener { bound, backlog: (backlog as usize).min(MAXIMUM_BACKLOG), queue: VecDeque::new(), clients: VecDeque::new() }
    }

    pub fn set_backlog(&mut self, backlog: u32) {
        self.backlog = (backlog as usize).min(MAXIMUM_BACKLOG);
    }

    /// Connections that accept(2) would give.
    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    fn is_full(&self) -> bool {
        self.queue.len() > self.backlog
    }

    /// The next connection, and the clients that may come in now.
    pub fn take(&mut self) -> (Option<Arc<TcpSocket>>, Vec<Arc<TcpSocket>>) {
        let accepted = self.queue.pop_front();
        let mut invited = Vec::new();
        while self.queue.len() + invited.len() <= self.backlog {
            match self.clients.pop_front() {
                Some(client) => invited.extend(client.upgrade()),
                None => break,
            }
        }
        (accepted, invited)
    }

    pub fn drain(&mut self) -> Rest {
        Rest { queue: std::mem::take(&mut self.queue), clients: std::mem::take(&mut self.clients) }
    }

    pub fn close(mut self) {
        let rest = self.drain();
        drop(self.bound);
        rest.refuse();
    }
}

impl Rest {
    /// Who was not accepted is reset; who waits is refused.
    pub fn refuse(self) {
        for socket in self.queue {
            let state = std::mem::replace(&mut *socket.state.lock(), State::Closed);
            socket.end(state, End::Reset);
        }
        for client in self.clients.iter().filter_map(Weak::upgrade) {
            client.connect_failed();
            client.common.set_error(Errno::ECONNREFUSED);
        }
    }
}

/// Brings `client`, which is `Connecting`, to whoever listens at `peer`. ECONNREFUSED; EINPROGRESS where it has to wait.
pub(super) fn knock(client: &TcpSocket, peer: SocketAddr) -> Result<()> {
    let found = client.common.network.tcp_ports.find_listener(peer).ok_or(Errno::ECONNREFUSED)?;
    let listener = found.as_any().downcast_ref::<TcpSocket>().ok_or(Errno::ECONNREFUSED)?;
    match &mut *listener.state.lock() {
        State::Listening(state) if state.is_full() => {
            state.clients.push_back(client.me.clone());
            return Err(Errno::EINPROGRESS);
        }
        State::Listening(_) => {}
        _ => return Err(Errno::ECONNREFUSED),
    }
    take_up(listener, client);
    // Between the look and the taking up the listener may have closed.
    let connected = matches!(*client.state.lock(), State::Connected(_));
    if connected {
        Ok(())
    } else {
        Err(client.common.take_error().unwrap_or(Errno::ECONNREFUSED))
    }
}

/// Makes the connection: the client's end is set, the server's goes into the listener's queue (which may for a moment
/// hold one more than it should, where two clients come at once).
pub(super) fn take_up(listener: &TcpSocket, client: &TcpSocket) {
    let common = Common::new(
        &listener.common.network,
        listener.common.creator.clone(),
        listener.common.domain(),
        listener.common.kind,
        listener.common.protocol,
    );
    {
        let options = listener.common.options.lock().clone();
        *common.options.lock() = options;
    }
    let mut servers_end = None;
    let established = client.establish(|bound, peer| {
        let local = bound.local;
        let (clients, servers) = Connection::pair(&client.common, &common, bound, peer, local);
        servers_end = Some((servers, peer, local));
        clients
    });
    let Some((connection, local, peer)) = servers_end.filter(|_| established) else { return };
    let server = TcpSocket::with_state(common, State::Closed);
    let request = Request {
        address: local,
        families: options::families(&server.common),
        sharing: options::sharing(&server.common),
        stream: true,
        socket: server.me.clone(),
    };
    let lease = server.common.network.tcp_ports.share(request, peer);
    connection.set_lease(lease);
    *server.state.lock() = State::Connected(Arc::new(connection));
    let mut state = listener.state.lock();
    if let State::Listening(open) = &mut *state {
        open.queue.push_back(server);
        drop(state);
        listener.common.queue.wake_all();
    } else {
        drop(state);
        let over = std::mem::replace(&mut *server.state.lock(), State::Closed);
        server.end(over, End::Reset);
    }
}
