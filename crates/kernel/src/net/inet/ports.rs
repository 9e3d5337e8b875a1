//! Who has which port: bind(2)'s conflicts, ephemeral ports, and the search for a receiver.
//!
//! One table for TCP and one for UDP. A socket holds a [`PortLease`]; dropping it gives the port back. Addresses in here
//! are canonical (IPv4-mapped ones are IPv4). The table's lock is innermost but for wait queues: nothing is called from
//! under it.

use super::address::Families;
use crate::net::Socket;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Weak};

/// net.ipv4.ip_local_port_range.
pub const EPHEMERAL: RangeInclusive<u16> = 32768..=60999;

/// All ports of one protocol.
#[derive(Default)]
pub struct PortTable(Mutex<Ports>);

#[derive(Default)]
struct Ports {
    bindings: HashMap<u16, Vec<Binding>>,
    last_id: u64,
    next_ephemeral: u16,
    /// Turns among listeners that share a port.
    turn: usize,
}

/// Why two sockets may share a port (socket(7), SO_REUSEADDR and SO_REUSEPORT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sharing {
    pub reuse_address: bool,
    pub reuse_port: bool,
    pub uid: u32,
}

struct Binding {
    id: u64,
    address: IpAddr,
    families: Families,
    sharing: Sharing,
    listening: bool,
    /// Datagram sockets share by SO_REUSEADDR alone; for streams a listener excludes others.
    stream: bool,
    peer: Option<SocketAddr>,
    socket: Weak<dyn Socket>,
}

/// What is to be bound.
pub struct Request {
    pub address: SocketAddr,
    pub families: Families,
    pub sharing: Sharing,
    pub stream: bool,
    pub socket: Weak<dyn Socket>,
}

/// A port that is held.
pub struct PortLease {
    table: Arc<PortTable>,
    pub port: u16,
    id: u64,
}

impl Binding {
    fn takes(&self, address: IpAddr) -> bool {
        match (self.address, address) {
            (IpAddr::V6(own), IpAddr::V4(_)) => own.is_unspecified() && self.families == Families::Both,
            (own, wanted) => own.is_ipv4() == wanted.is_ipv4() && (own.is_unspecified() || own == wanted),
        }
    }

    fn overlaps(&self, address: IpAddr, families: Families) -> bool {
        let other_takes_ours = match (address, self.address) {
            (IpAddr::V6(other), IpAddr::V4(_)) => other.is_unspecified() && families == Families::Both,
            (other, own) => other.is_ipv4() == own.is_ipv4() && (other.is_unspecified() || other == own),
        };
        other_takes_ours || self.takes(address)
    }

    fn conflicts(&self, request: &Request) -> bool {
        if !self.overlaps(request.address.ip(), request.families) {
            return false;
        }
        let both_reuse = self.sharing.reuse_address && request.sharing.reuse_address;
        if both_reuse && !(self.stream && self.listening) {
            return false;
        }
        !(self.sharing.reuse_port && request.sharing.reuse_port && self.sharing.uid == request.sharing.uid)
    }
}

impl PortTable {
    /// Takes the port of `request`, or a free ephemeral one for port 0. EADDRINUSE.
    pub fn bind(self: &Arc<PortTable>, request: Request) -> Result<PortLease> {
        let mut ports = self.0.lock();
        let port = match request.address.port() {
            0 => {
                let (ip, families) = (request.address.ip(), request.families);
                let free = |bindings: &[Binding]| bindings.iter().all(|binding| !binding.overlaps(ip, families));
                ports.free_ephemeral(free).ok_or(Errno::EADDRINUSE)?
            }
            port => {
                if ports.bindings.get(&port).is_some_and(|bindings| bindings.iter().any(|binding| binding.conflicts(&request)))
                {
                    return Err(Errno::EADDRINUSE);
                }
                port
            }
        };
        Ok(self.insert(&mut ports, port, request, None))
    }

    /// An ephemeral port that nobody has, for connect(2). EADDRNOTAVAIL.
    pub fn bind_for_connect(self: &Arc<PortTable>, request: Request, peer: SocketAddr) -> Result<PortLease> {
        let mut ports = self.0.lock();
        let port = ports.free_ephemeral(|bindings| bindings.is_empty()).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok(self.insert(&mut ports, port, request, Some(peer)))
    }

    /// The listener's port for a connection that it takes up: shared without a question.
    pub fn share(self: &Arc<PortTable>, request: Request, peer: SocketAddr) -> PortLease {
        let mut ports = self.0.lock();
        let port = request.address.port();
        self.insert(&mut ports, port, request, Some(peer))
    }

    fn insert(self: &Arc<PortTable>, ports: &mut Ports, port: u16, request: Request, peer: Option<SocketAddr>) -> PortLease {
        ports.last_id += 1;
        let id = ports.last_id;
        ports.bindings.entry(port).or_default().push(Binding {
            id,
            address: request.address.ip(),
            families: request.families,
            sharing: request.sharing,
            listening: false,
            stream: request.stream,
            peer,
            socket: request.socket,
        });
        PortLease { table: self.clone(), port, id }
    }

    /// The socket that listens at `address`.
    pub fn find_listener(&self, address: SocketAddr) -> Option<Arc<dyn Socket>> {
        let mut ports = self.0.lock();
        let turn = ports.turn;
        ports.turn = turn.wrapping_add(1);
        let candidates =
            ports.bindings.get(&address.port())?.iter().filter(|binding| binding.listening && binding.takes(address.ip()));
        choose(
            candidates,
            |binding| u8::from(!binding.address.is_unspecified()) * 2 + u8::from(binding.address.is_ipv4()),
            turn,
        )
    }

    /// The socket that a datagram from `source` to `destination` goes to: one connected to `source` before one that is
    /// not, a specific address before an unspecified one; of equals the newest, or by turns of source ports (SO_REUSEPORT).
    pub fn find_receiver(&self, destination: SocketAddr, source: SocketAddr) -> Option<Arc<dyn Socket>> {
        let ports = self.0.lock();
        let candidates = ports
            .bindings
            .get(&destination.port())?
            .iter()
            .filter(|binding| binding.takes(destination.ip()) && binding.peer.is_none_or(|peer| peer == source));
        choose(
            candidates,
            |binding| {
                u8::from(binding.peer.is_some()) * 4
                    + u8::from(!binding.address.is_unspecified()) * 2
                    + u8::from(binding.address.is_ipv4() == destination.is_ipv4())
            },
            source.port().into(),
        )
    }
}

/// The best by `score`; of several with SO_REUSEPORT by `turn`, else the newest.
fn choose<'a>(
    candidates: impl Iterator<Item = &'a Binding>,
    score: impl Fn(&Binding) -> u8,
    turn: usize,
) -> Option<Arc<dyn Socket>> {
    let mut best: Vec<&Binding> = Vec::new();
    for binding in candidates {
        match best.first().map(|present| score(binding).cmp(&score(present))) {
            None | Some(std::cmp::Ordering::Equal) => best.push(binding),
            Some(std::cmp::Ordering::Greater) => best = vec![binding],
            Some(std::cmp::Ordering::Less) => {}
        }
    }
    let newest = best.last()?;
    let index = if newest.sharing.reuse_port { turn % best.len() } else { best.len() - 1 };
    best.get(index)?.socket.upgrade()
}

impl Ports {
    fn free_ephemeral(&mut self, is_free: impl Fn(&[Binding]) -> bool) -> Option<u16> {
        if !EPHEMERAL.contains(&self.next_ephemeral) {
            self.next_ephemeral = *EPHEMERAL.start();
        }
        let count = usize::from(EPHEMERAL.end() - EPHEMERAL.start()) + 1;
        for _ in 0..count {
            let port = self.next_ephemeral;
            self.next_ephemeral = if port == *EPHEMERAL.end() { *EPHEMERAL.start() } else { port + 1 };
            if is_free(self.bindings.get(&port).map_or(&[], Vec::as_slice)) {
                return Some(port);
            }
        }
        None
    }
}

impl PortLease {
    fn update<T>(&self, change: impl FnOnce(&mut Binding) -> T) -> Option<T> {
        let mut ports = self.table.0.lock();
        let binding = ports.bindings.get_mut(&self.port)?.iter_mut().find(|binding| binding.id == self.id)?;
        Some(change(binding))
    }

    /// listen(2): EADDRINUSE where another listens there already, and both do not have SO_REUSEPORT.
    pub fn listen(&self, request: &Request) -> Result<()> {
        let mut ports = self.table.0.lock();
        let Some(bindings) = ports.bindings.get_mut(&self.port) else { return Err(Errno::EINVAL) };
        let taken = bindings.iter().any(|binding| binding.id != self.id && binding.listening && binding.conflicts(request));
        if taken {
            return Err(Errno::EADDRINUSE);
        }
        if let Some(own) = bindings.iter_mut().find(|binding| binding.id == self.id) {
            own.listening = true;
            own.sharing = request.sharing;
        }
        Ok(())
    }

    pub fn stop_listening(&self) {
        self.update(|binding| binding.listening = false);
    }

    /// connect(2) from this port. EADDRNOTAVAIL where the same connection exists already.
    pub fn connect(&self, local: IpAddr, peer: SocketAddr) -> Result<()> {
        let mut ports = self.table.0.lock();
        let Some(bindings) = ports.bindings.get_mut(&self.port) else { return Err(Errno::EINVAL) };
        if bindings
            .iter()
            .any(|binding| binding.stream && binding.id != self.id && binding.peer == Some(peer) && binding.address == local)
        {
            return Err(Errno::EADDRNOTAVAIL);
        }
        if let Some(own) = bindings.iter_mut().find(|binding| binding.id == self.id) {
            own.address = local;
            own.peer = Some(peer);
        }
        Ok(())
    }

    /// Undoes [`PortLease::connect`].
    pub fn disconnect(&self, local: IpAddr) {
        self.update(|binding| {
            binding.address = local;
            binding.peer = None;
        });
    }

    /// SO_REUSEADDR or SO_REUSEPORT was set after bind(2).
    pub fn set_sharing(&self, sharing: Sharing) {
        self.update(|binding| binding.sharing = sharing);
    }
}

impl Drop for PortLease {
    fn drop(&mut self) {
        let mut ports = self.table.0.lock();
        if let Some(bindings) = ports.bindings.get_mut(&self.port) {
            bindings.retain(|binding| binding.id != self.id);
            if bindings.is_empty() {
                ports.bindings.remove(&self.port);
            }
        }
    }
}
