//! Connections of TCP: each is a socket of the host's and, towards the guest, an [`endpoint`]. The guest's first segment is answered
//! when the host's connection is there; how that fails is how the guest's does.

mod connection;
mod endpoint;

use crate::config::Transport;
use crate::context::{Context, Source};
use crate::dns::{self, Stream};
use crate::packet::{self, Packet, Unreachable};
use crate::policy::Protocol;
use crate::subnet;
use connection::{Connection, Step};
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use smoltcp::time::{Duration, Instant};
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

const MOST: usize = 512;
/// One that was idle for so long makes place for a new one.
const IDLE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Tuple {
    pub guest: SocketAddr,
    pub remote: SocketAddr,
}

pub struct Connections {
    resolvers: Vec<IpAddr>,
    mtu: u16,
    ids: HashMap<Tuple, u64>,
    all: HashMap<u64, Connection>,
    /// When whose time has come, without anything from outside.
    timers: BTreeSet<(Instant, u64)>,
    /// With something to do, before we wait again.
    due: BTreeSet<u64>,
    /// With something to send, when there is room.
    waiting: BTreeSet<u64>,
    next: u64,
}

impl Connections {
    pub fn new(resolvers: Vec<IpAddr>, mtu: u16) -> Connections {
        let (ids, all) = (HashMap::new(), HashMap::new());
        let [due, waiting] = [BTreeSet::new(), BTreeSet::new()];
        Connections { resolvers, mtu, ids, all, timers: BTreeSet::new(), due, waiting, next: 0 }
    }

    /// A segment from the guest.
    pub fn segment(&mut self, context: &mut Context, packet: &Packet) {
        let Some(segment) = packet.tcp() else { return };
        let guest = SocketAddr::new(packet.from, segment.src_port());
        let remote = SocketAddr::new(packet.to, segment.dst_port());
        let tuple = Tuple { guest, remote };
        let known = self.ids.get(&tuple).and_then(|id| self.all.get_mut(id)).filter(|connection| !connection.is_over());
        if let Some(connection) = known {
            connection.take(context, packet.bytes);
            self.due.insert(connection.id());
            return;
        }
        let is_first = segment.syn() && !segment.ack() && !segment.rst() && !segment.fin();
        if !is_first {
            return packet::reset(&mut context.out, packet, &segment);
        }
        match self.open(context, tuple, packet) {
            Ok(()) => {}
            Err(Refused::Reset) => packet::reset(&mut context.out, packet, &segment),
            Err(Refused::Unreachable(why)) => packet::unreachable(&mut context.out, why, packet),
        }
    }

    fn open(&mut self, context: &mut Context, tuple: Tuple, packet: &Packet) -> Result<(), Refused> {
        let Tuple { remote, .. } = tuple;
        let protocol = Protocol::Transport(Transport::Tcp);
        let (target, stream) = if subnet::is_names(remote.ip()) && remote.port() == dns::PORT {
            if let Err(clause) = context.policy.check_names(Transport::Tcp) {
                context.reports.denied(protocol, remote, clause, context.now);
                return Err(Refused::Reset);
            }
            let resolver = self.resolvers.first().ok_or(Refused::Reset)?;
            (SocketAddr::new(*resolver, dns::PORT), Some(Stream::default()))
        } else {
            if let Err(clause) = context.policy.check(protocol, remote, context.now) {
                context.reports.denied(protocol, remote, clause, context.now);
                return Err(Refused::Reset);
            }
            (remote, None)
        };
        if !packet::is_unicast(remote.ip()) || !self.has_place(context) {
            return Err(Refused::Reset);
        }
        let (socket, ready) = connect(target)?;
        let id = self.next;
        self.next += 1;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        context.watch(&socket, Source::Tcp(id), flags).map_err(|_| Refused::Reset)?;
        let mut connection = Connection::new(id, tuple, socket, stream, packet.bytes, context.now);
        if ready {
            connection.event(EventFlags::OUT);
            self.due.insert(id);
        }
        self.ids.insert(tuple, id);
        self.all.insert(id, connection);
        Ok(())
    }

    /// Whether there may be one more; the one that was idle for longest goes for it.
    fn has_place(&mut self, context: &mut Context) -> bool {
        if self.all.len() < MOST {
            return true;
        }
        let oldest = self.all.values().min_by_key(|connection| connection.used()).map(|oldest| (oldest.id(), oldest.used()));
        match oldest.filter(|(_, used)| *used + IDLE < context.now) {
            Some((id, _)) => {
                if let Some(connection) = self.all.get_mut(&id) {
                    connection.abort(context);
                }
                self.remove(id);
                true
            }
            None => false,
        }
    }

    /// The host's socket of one has something.
    pub fn event(&mut self, id: u64, flags: EventFlags) {
        if let Some(connection) = self.all.get_mut(&id) {
            connection.event(flags);
            self.due.insert(id);
        }
    }

    /// There is room in the output again.
    pub fn room(&mut self) {
        self.due.append(&mut self.waiting);
    }

    /// When the next one's time comes.
    pub fn next(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Does all that there is to do now.
    pub fn run(&mut self, context: &mut Context) {
        while let Some((at, id)) = self.timers.first().filter(|(at, _)| *at <= context.now).copied() {
            self.timers.remove(&(at, id));
            self.due.insert(id);
        }
        while let Some(id) = self.due.pop_first() {
            let Some(connection) = self.all.get_mut(&id) else { continue };
            let before = connection.wakes;
            let step = connection.run(context, self.mtu);
            if let Some(at) = before {
                self.timers.remove(&(at, id));
            }
            match step {
                Step::End => self.remove(id),
                Step::Wait(at) => {
                    connection.wakes = at;
                    self.timers.extend(at.map(|at| (at, id)));
                }
                Step::WaitForRoom => {
                    connection.wakes = None;
                    self.waiting.insert(id);
                }
            }
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(connection) = self.all.remove(&id) {
            // The guest may have another by now, between the same ports.
            if self.ids.get(&connection.tuple()) == Some(&id) {
                self.ids.remove(&connection.tuple());
            }
            if let Some(at) = connection.wakes {
                self.timers.remove(&(at, id));
            }
            self.waiting.remove(&id);
        }
    }
}

/// What the guest hears where there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Reset,
    Unreachable(Unreachable),
}

impl From<Errno> for Refused {
    fn from(error: Errno) -> Refused {
        match error {
            Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::TIMEDOUT | Errno::HOSTDOWN | Errno::AFNOSUPPORT => {
                Refused::Unreachable(Unreachable::Host)
            }
            Errno::ACCESS | Errno::PERM => Refused::Unreachable(Unreachable::Prohibited),
            _ => Refused::Reset,
        }
    }
}

/// A connection that is on its way, or that is there already.
fn connect(to: SocketAddr) -> Result<(OwnedFd, bool), Refused> {
    let family = if to.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    // The guest has decided already what goes together.
    rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
    match rustix::net::connect(&socket, &to) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::context;
    use smoltcp::phy::ChecksumCapabilities;
    use smoltcp::wire::{IpProtocol, TcpControl, TcpPacket, TcpRepr, TcpSeqNumber};
    use std::net::TcpListener;

    /// The first segment of a connection.
    fn first(context: &mut Context, connections: &mut Connections, source: u16, to: SocketAddr) {
        let segment = TcpRepr {
            src_port: source,
            dst_port: to.port(),
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(7),
            ack_number: None,
            window_len: 1000,
            window_scale: None,
            max_seg_size: None,
            sack_permitted: false,
            sack_ranges: [None; 3],
            timestamp: None,
            payload: &[],
        };
        let guest = IpAddr::from([10, 0, 2, 15]);
        let mut bytes = vec![0; segment.buffer_len()];
        let mut packet = TcpPacket::new_unchecked(&mut bytes[..]);
        segment.emit(&mut packet, &guest.into(), &to.ip().into(), &ChecksumCapabilities::default());
        let packet = Packet { from: guest, to: to.ip(), protocol: IpProtocol::Tcp, payload: &bytes, bytes: &bytes };
        connections.segment(context, &packet);
    }

    #[test]
    fn a_place_comes_free_where_nothing_happened_for_long() {
        let mut context = context(r#"{"addresses": ["127.0.0.1"]}"#);
        let mut connections = Connections::new(Vec::new(), 1500);
        // Nobody accepts them, which is all the same here.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let port = |number: usize| 1000 + number as u16;
        (0..MOST).for_each(|number| first(&mut context, &mut connections, port(number), to));
        assert_eq!((connections.all.len(), context.out.len()), (MOST, 0));
        context.now += IDLE;
        first(&mut context, &mut connections, port(MOST), to);
        assert_eq!(connections.all.len(), MOST);
        assert!(!context.out.is_empty(), "a reset");
        // One that was used is not the one that goes.
        first(&mut context, &mut connections, port(0), to);
        context.now += Duration::from_micros(1);
        first(&mut context, &mut connections, port(MOST), to);
        let guest = |number| SocketAddr::new(IpAddr::from([10, 0, 2, 15]), port(number));
        assert_eq!(connections.all.len(), MOST);
        assert!(connections.ids.contains_key(&Tuple { guest: guest(MOST), remote: to }));
        assert!(connections.ids.contains_key(&Tuple { guest: guest(0), remote: to }));
    }
}
