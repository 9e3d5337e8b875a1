//! UDP: the guest's ports are sockets of the host's, each for as long as it is used. Only who was sent to may answer.

use crate::config::Transport;
use crate::context::{Context, Source};
use crate::packet::{self, Packet, Unreachable};
use crate::policy::Protocol;
use rustix::event::epoll::EventFlags;
use rustix::io::Errno;
use rustix::net::{recvfrom, sendto, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use smoltcp::time::{Duration, Instant};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

const MOST: usize = 256;
/// Of whom one port of the guest's sends to.
const MOST_PEERS: usize = 64;
/// RFC 4787: two minutes; those of whom nothing came are shorter.
const IDLE: Duration = Duration::from_secs(120);
const UNANSWERED: Duration = Duration::from_secs(30);
const LONGEST: usize = 65535;
/// Of a datagram that has come back.
const QUOTED: usize = 512;
/// Datagrams that are read of one socket before the others have their turn.
const TURN: usize = 64;

pub struct Flows {
    ids: HashMap<SocketAddr, u64>,
    all: HashMap<u64, Flow>,
    next: u64,
    buffer: Vec<u8>,
    mtu: u16,
}

struct Flow {
    guest: SocketAddr,
    socket: OwnedFd,
    /// Who may answer; when they were last sent to.
    peers: HashMap<SocketAddr, Instant>,
    used: Instant,
    answered: bool,
}

impl Flow {
    fn until(&self) -> Instant {
        self.used + if self.answered { IDLE } else { UNANSWERED }
    }

    /// What has come back of what was sent: nobody was there, or there was no way. The guest hears of it as if it had sent that itself.
    fn tell_errors(&self, context: &mut Context) {
        let mut buffer = [0; QUOTED];
        let flags = RecvFlags::DONTWAIT | RecvFlags::ERRQUEUE;
        for _ in 0..TURN {
            let Ok((_, count, to)) = rustix::io::retry_on_intr(|| recvfrom(&self.socket, &mut buffer[..], flags)) else {
                return;
            };
            let Some(to) = to.and_then(|to| SocketAddr::try_from(to).ok()) else { continue };
            // The host says why by the next call on the socket, which is not told apart here: most often nobody is there.
            if self.peers.contains_key(&to) && !context.out.is_full() {
                let sent = &buffer[..count.min(buffer.len())];
                packet::datagram_unreachable(&mut context.out, Unreachable::Port, self.guest, to, sent);
            }
        }
    }
}

impl Flows {
    pub fn new(mtu: u16) -> Flows {
        Flows { ids: HashMap::new(), all: HashMap::new(), next: 0, buffer: vec![0; LONGEST], mtu }
    }

    /// A datagram from the guest to somebody outside.
    pub fn datagram(&mut self, context: &mut Context, packet: &Packet, guest: SocketAddr, to: SocketAddr, payload: &[u8]) {
        if let Err(why) = self.send(context, guest, to, payload) {
            packet::unreachable(&mut context.out, why, packet);
        }
    }

    fn send(&mut self, context: &mut Context, guest: SocketAddr, to: SocketAddr, payload: &[u8]) -> Result<(), Unreachable> {
        let known = self.ids.get(&guest).and_then(|id| self.all.get_mut(id)).filter(|flow| flow.peers.contains_key(&to));
        let flow = match known {
            Some(flow) => flow,
            None => {
                let protocol = Protocol::Transport(Transport::Udp);
                if let Err(clause) = context.policy.check(protocol, to, context.now) {
                    context.reports.denied(protocol, to, clause, context.now);
                    return Err(Unreachable::Prohibited);
                }
                self.flow(context, guest).map_err(|_| Unreachable::Host)?
            }
        };
        flow.used = context.now;
        if flow.peers.len() >= MOST_PEERS && !flow.peers.contains_key(&to) {
            let oldest = flow.peers.iter().min_by_key(|(_, used)| **used).map(|(peer, _)| *peer);
            oldest.map(|oldest| flow.peers.remove(&oldest));
        }
        flow.peers.insert(to, context.now);
        flow.tell_errors(context);
        let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
        match rustix::io::retry_on_intr(|| sendto(&flow.socket, payload, flags, &to)) {
            Err(Errno::NETUNREACH | Errno::HOSTUNREACH) => Err(Unreachable::Host),
            Err(Errno::ACCESS | Errno::PERM) => Err(Unreachable::Prohibited),
            // Sent, or lost, as datagrams may be.
            _ => Ok(()),
        }
    }

    /// The flow of a port of the guest's; when there are too many, the one that was not used for longest goes.
    fn flow(&mut self, context: &mut Context, guest: SocketAddr) -> Result<&mut Flow, Errno> {
        let id = match self.ids.get(&guest) {
            Some(id) => *id,
            None => {
                if self.all.len() >= MOST {
                    let oldest = self.all.iter().min_by_key(|(_, flow)| flow.used).map(|(id, _)| *id);
                    oldest.into_iter().for_each(|id| self.remove(id));
                }
                let family = if guest.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
                let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
                let socket = rustix::net::socket_with(family, SocketType::DGRAM, flags, None)?;
                let id = self.next;
                self.next += 1;
                context.watch(&socket, Source::Udp(id), EventFlags::IN)?;
                skerry_platform::own::keep_errors(socket.as_fd(), family).map_err(|_| Errno::NOPROTOOPT)?;
                let flow = Flow { guest, socket, peers: HashMap::new(), used: context.now, answered: false };
                self.all.insert(id, flow);
                self.ids.insert(guest, id);
                id
            }
        };
        self.all.get_mut(&id).ok_or(Errno::BADF)
    }

    /// A socket has something.
    pub fn event(&mut self, context: &mut Context, id: u64) {
        let Some(flow) = self.all.get_mut(&id) else { return };
        for _ in 0..TURN {
            let received = rustix::io::retry_on_intr(|| recvfrom(&flow.socket, &mut self.buffer[..], RecvFlags::DONTWAIT));
            let (count, from) = match received {
                Ok((_, count, from)) => (count, from),
                Err(Errno::AGAIN) => break,
                Err(_) => continue,
            };
            let Some(from) = from.and_then(|from| SocketAddr::try_from(from).ok()) else { continue };
            let headers = if from.is_ipv4() { 28 } else { 48 };
            // What the guest does not read, and what its link does not carry, is lost.
            if flow.peers.contains_key(&from) && !context.out.is_full() && count + headers <= usize::from(self.mtu) {
                (flow.used, flow.answered) = (context.now, true);
                packet::udp(&mut context.out, from, flow.guest, &self.buffer[..count]);
            }
        }
        flow.tell_errors(context);
    }

    pub fn next(&self) -> Option<Instant> {
        self.all.values().map(Flow::until).min()
    }

    pub fn run(&mut self, context: &mut Context) {
        let over = |(id, flow): (&u64, &Flow)| (flow.until() <= context.now).then_some(*id);
        for id in self.all.iter().filter_map(over).collect::<Vec<_>>() {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: u64) {
        if let Some(flow) = self.all.remove(&id) {
            self.ids.remove(&flow.guest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::tests::context;

    #[test]
    fn flows_end_when_they_are_not_used() {
        let mut context = context(r#"{"addresses": ["127.0.0.1"]}"#);
        let mut flows = Flows::new(1500);
        let server = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = server.local_addr().unwrap();
        let guest = |port| SocketAddr::from(([10, 0, 2, 15], port));
        flows.send(&mut context, guest(1), to, b"x").unwrap();
        flows.send(&mut context, guest(2), to, b"y").unwrap();
        server.recv_from(&mut [0; 1]).unwrap();
        let (_, from) = server.recv_from(&mut [0; 1]).unwrap();
        server.send_to(b"answer", from).unwrap();
        flows.event(&mut context, 1);
        context.now += UNANSWERED;
        assert_eq!(flows.next(), Some(context.now));
        flows.run(&mut context);
        assert_eq!(flows.ids.keys().collect::<Vec<_>>(), [&guest(2)]);
        context.now = Instant::ZERO + IDLE;
        flows.run(&mut context);
        assert!(flows.ids.is_empty() && flows.all.is_empty());
    }

    #[test]
    fn a_port_has_as_many_peers_as_it_may() {
        let mut context = context(r#"{"addresses": ["127.0.0.0/8"]}"#);
        let mut flows = Flows::new(1500);
        for last in 0..=255u8 {
            context.now += Duration::from_millis(1);
            let to = SocketAddr::from(([127, 9, 9, last], 9));
            flows.send(&mut context, SocketAddr::from(([10, 0, 2, 15], 1)), to, b"x").unwrap();
            assert!(flows.all[&0].peers.len() <= MOST_PEERS && flows.all[&0].peers.contains_key(&to));
        }
    }
}
