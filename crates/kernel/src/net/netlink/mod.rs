//! Netlink (netlink(7)): requests to the kernel are answered within send(2); the answers wait in the socket's queue.
//!
//! [`message`]: the wire format. [`route`]: NETLINK_ROUTE (rtnetlink(7)). [`diag`]: NETLINK_SOCK_DIAG (sock_diag(7)).
//! [`generic`]: NETLINK_GENERIC. NETLINK_KOBJECT_UEVENT sockets can be bound and never hear anything.

pub mod diag;
mod generic;
pub mod message;
mod route;
#[cfg(test)]
mod tests;

use super::address::Address;
use super::options::integer;
use super::socket::{
    Caller, Common, ControlMessage, Destination, Incoming, MessageFlags, Outgoing, PeerIdentity, Shutdown, Socket, SocketType,
    UserCredentials,
};
use super::NetworkStack;
use crate::fs::file::Events;
use crate::task::credentials::CAP_NET_ADMIN;
use crate::{Errno, Result};
use message::{Header, Reply, NLM_F_ACK, NLM_F_REQUEST};
use parking_lot::Mutex;
use skerry_abi::raw::net as linux;
use std::any::Any;
use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

pub const NETLINK_ROUTE: u32 = 0;
pub const NETLINK_SOCK_DIAG: u32 = 4;
pub const NETLINK_KOBJECT_UEVENT: u32 = 15;
pub const NETLINK_GENERIC: u32 = 16;
const SOL_NETLINK: u32 = linux::SOL_NETLINK;
/// NETLINK_* options of level SOL_NETLINK (netlink(7), "Socket options").
const ADD_MEMBERSHIP: u32 = 1;
const DROP_MEMBERSHIP: u32 = 2;
const PKTINFO: u32 = 3;
const LIST_MEMBERSHIPS: u32 = 9;
const CAP_ACK: u32 = 10;
const GET_STRICT_CHK: u32 = 12;
/// Groups have numbers up to this.
const MAXIMUM_GROUP: i32 = 1024;
/// A request is not longer.
const MAXIMUM_REQUEST: usize = 128 * 1024;

/// Which port ids are taken, per protocol.
#[derive(Default)]
pub struct PortTable(Mutex<HashSet<(u32, u32)>>);

impl PortTable {
    fn take(&self, protocol: u32, port: u32) -> bool {
        self.0.lock().insert((protocol, port))
    }

    fn release(&self, protocol: u32, port: u32) {
        self.0.lock().remove(&(protocol, port));
    }

    /// The process's id where that is free, else a number from the top, as Linux has it.
    fn take_any(&self, protocol: u32, pid: u32) -> Option<u32> {
        let mut taken = self.0.lock();
        std::iter::once(pid)
            .chain((0..1 << 20).map(|step| (-4097i32 - step) as u32))
            .find(|&port| taken.insert((protocol, port)))
    }
}

/// A netlink socket.
pub struct NetlinkSocket {
    common: Common,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// 0: not bound.
    port: u32,
    groups: u32,
    /// Groups beyond 32, by number.
    memberships: HashSet<i32>,
    peer: Option<(u32, u32)>,
    queue: VecDeque<Vec<u8>>,
    queued: usize,
    /// Something was lost because the queue was full: told once.
    overrun: bool,
}

/// socket(2) with AF_NETLINK. ESOCKTNOSUPPORT; EPROTONOSUPPORT for what a Linux without the feature lacks (audit,
/// netfilter, xfrm ...).
pub fn create(network: &Arc<NetworkStack>, caller: &Caller, kind: SocketType, protocol: u32) -> Result<Arc<dyn Socket>> {
    if !matches!(kind, SocketType::Raw | SocketType::Datagram) {
        return Err(Errno::ESOCKTNOSUPPORT);
    }
    if !matches!(protocol, NETLINK_ROUTE | NETLINK_SOCK_DIAG | NETLINK_KOBJECT_UEVENT | NETLINK_GENERIC) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    let common = Common::new(network, PeerIdentity::of(caller), linux::AF_NETLINK, kind, protocol);
    Ok(Arc::new(NetlinkSocket { common, state: Mutex::default() }))
}

impl NetlinkSocket {
    /// (port, groups, bytes waiting), for /proc/net/netlink.
    pub fn diagnosis(&self) -> (u32, u32, usize) {
        let state = self.state.lock();
        (state.port, state.groups, state.queued)
    }

    fn bind_any(&self, pid: i32) -> Result<u32> {
        let mut state = self.state.lock();
        if state.port == 0 {
            let port = self.common.network.netlink_ports.take_any(self.common.protocol, pid as u32);
            state.port = port.ok_or(Errno::EADDRINUSE)?;
        }
        Ok(state.port)
    }

    /// A datagram from elsewhere in the kernel (mq_notify(2)).
    pub fn deliver(&self, datagram: Vec<u8>) {
        self.enqueue(vec![datagram]);
    }

    fn enqueue(&self, datagrams: Vec<Vec<u8>>) {
        if datagrams.is_empty() {
            return;
        }
        let limit = self.common.options.lock().receive_buffer;
        let mut state = self.state.lock();
        for datagram in datagrams {
            if !state.queue.is_empty() && state.queued + datagram.len() > limit.max(1 << 20) {
                state.overrun = true;
                break;
            }
            state.queued += datagram.len();
            state.queue.push_back(datagram);
        }
        drop(state);
        self.common.queue.wake_all();
    }

    /// Serves each message of a request.
    fn serve(&self, caller: &Caller, port: u32, request: &[u8]) {
        let mut rest = request;
        while let Some((header, payload, next)) = Header::split(rest) {
            let mut reply = Reply::new(&header, port);
            if header.flags & NLM_F_REQUEST != 0 {
                // Control messages (NLMSG_NOOP ...) are only acknowledged.
                let result = if header.kind < message::NLMSG_MIN_TYPE {
                    Ok(())
                } else {
                    self.answer(caller, &header, payload, &mut reply)
                };
                let dumped = result.is_ok() && header.is_dump() && header.kind >= message::NLMSG_MIN_TYPE;
                if let Err(errno) = result {
                    let short = self.common.options.lock().kept_integer(SOL_NETLINK, CAP_ACK).unwrap_or(0) != 0;
                    reply.error(errno, &header, if short { &[] } else { payload });
                } else if dumped {
                    reply.done();
                } else if header.flags & NLM_F_ACK != 0 {
                    reply.acknowledge(&header);
                }
                self.enqueue(reply.finish());
            }
            rest = next;
        }
    }

    fn answer(&self, caller: &Caller, header: &Header, payload: &[u8], reply: &mut Reply) -> Result<()> {
        let network = &self.common.network;
        match self.common.protocol {
            NETLINK_ROUTE => {
                let strict = self.common.options.lock().kept_integer(SOL_NETLINK, GET_STRICT_CHK).unwrap_or(0) != 0;
                route::serve(network, caller, header, payload, strict, reply)
            }
            NETLINK_SOCK_DIAG => diag::serve(network, header, payload, reply),
            NETLINK_GENERIC => generic::serve(header, payload, reply),
            _ => Err(Errno::EOPNOTSUPP),
        }
    }
}

impl Socket for NetlinkSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, caller: &Caller, address: &Address) -> Result<()> {
        let Address::Netlink { port, groups } = *address else { return Err(Errno::EINVAL) };
        {
            let mut state = self.state.lock();
            if state.port != 0 && port != 0 && port != state.port {
                return Err(Errno::EINVAL);
            }
            if state.port == 0 && port != 0 {
                if !self.common.network.netlink_ports.take(self.common.protocol, port) {
                    return Err(Errno::EADDRINUSE);
                }
                state.port = port;
            }
            state.groups = groups;
        }
        self.bind_any(caller.pid).map(drop)
    }

    fn connect(&self, caller: &Caller, destination: &Destination) -> Result<()> {
        match destination.address {
            Address::Unspecified => self.state.lock().peer = None,
            Address::Netlink { port, groups } => {
                if (port != 0 || groups != 0) && !caller.credentials.has_capability(CAP_NET_ADMIN) {
                    return Err(Errno::EPERM);
                }
                self.bind_any(caller.pid)?;
                self.state.lock().peer = Some((port, groups));
            }
            _ => return Err(Errno::EINVAL),
        }
        Ok(())
    }

    fn shutdown(&self, _how: Shutdown) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }

    fn local_address(&self) -> Address {
        let state = self.state.lock();
        Address::Netlink { port: state.port, groups: state.groups }
    }

    fn peer_address(&self) -> Result<Address> {
        let (port, groups) = self.state.lock().peer.unwrap_or((0, 0));
        Ok(Address::Netlink { port, groups })
    }

    fn send(&self, caller: &Caller, data: &[u8], outgoing: &mut Outgoing) -> Result<usize> {
        if outgoing.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let (port, groups) = match &outgoing.destination {
            Some(Destination { address: Address::Netlink { port, groups }, .. }) => (*port, *groups),
            Some(_) => return Err(Errno::EINVAL),
            None => self.state.lock().peer.unwrap_or((0, 0)),
        };
        if groups != 0 && !caller.credentials.has_capability(CAP_NET_ADMIN) {
            return Err(Errno::EPERM);
        }
        if port != 0 {
            // Only the kernel listens.
            return Err(Errno::ECONNREFUSED);
        }
        if data.len() > MAXIMUM_REQUEST {
            return Err(Errno::EMSGSIZE);
        }
        let own = self.bind_any(caller.pid)?;
        if self.common.protocol == NETLINK_KOBJECT_UEVENT {
            return Err(Errno::ECONNREFUSED);
        }
        self.serve(caller, own, data);
        Ok(data.len())
    }

    fn receive(&self, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming> {
        if flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let (pass, pktinfo) = {
            let options = self.common.options.lock();
            (options.pass_credentials, options.kept_integer(SOL_NETLINK, PKTINFO).unwrap_or(0) != 0)
        };
        let mut state = self.state.lock();
        if std::mem::take(&mut state.overrun) {
            return Err(Errno::ENOBUFS);
        }
        let datagram = state.queue.front().ok_or(Errno::EAGAIN)?;
        let count = datagram.len().min(buffer.len());
        buffer[..count].copy_from_slice(&datagram[..count]);
        let full_length = datagram.len();
        if !flags.contains(MessageFlags::PEEK) {
            state.queue.pop_front();
            state.queued = state.queued.saturating_sub(full_length);
        }
        let mut out = MessageFlags::empty();
        out.set(MessageFlags::TRUNC, count < full_length);
        let control = if pktinfo {
            vec![ControlMessage { level: SOL_NETLINK, kind: PKTINFO, data: 0u32.to_ne_bytes().to_vec() }]
        } else {
            Vec::new()
        };
        Ok(Incoming {
            count,
            full_length,
            source: Some(Address::Netlink { port: 0, groups: 0 }),
            credentials: pass.then_some(UserCredentials { pid: 0, uid: 0, gid: 0 }),
            control,
            flags: out,
            boundary: true,
            ..Incoming::default()
        })
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::OUT | Events::WRNORM | Events::WRBAND;
        events.set(Events::IN | Events::RDNORM, !state.queue.is_empty());
        events.set(Events::ERR, state.overrun);
        events
    }

    fn available(&self) -> Result<usize> {
        Ok(self.state.lock().queue.front().map_or(0, Vec::len))
    }

    fn set_option(&self, _caller: &Caller, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        let number = integer(value)?;
        match name {
            ADD_MEMBERSHIP | DROP_MEMBERSHIP => {
                if !(1..=MAXIMUM_GROUP).contains(&number) {
                    return Err(Errno::EINVAL);
                }
                let mut state = self.state.lock();
                let bit = if number <= 32 { 1u32 << (number - 1) } else { 0 };
                if name == ADD_MEMBERSHIP {
                    state.groups |= bit;
                    state.memberships.insert(number);
                } else {
                    state.groups &= !bit;
                    state.memberships.remove(&number);
                }
                Ok(())
            }
            // PKTINFO, BROADCAST_ERROR, NO_ENOBUFS, LISTEN_ALL_NSID, CAP_ACK, EXT_ACK, GET_STRICT_CHK.
            PKTINFO | 4 | 5 | 8 | CAP_ACK | 11 | GET_STRICT_CHK => {
                self.common.options.lock().keep_integer(SOL_NETLINK, name, i32::from(number != 0));
                Ok(())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn get_option(&self, level: u32, name: u32, length: usize) -> Result<Vec<u8>> {
        if level != SOL_NETLINK {
            return Err(Errno::ENOPROTOOPT);
        }
        match name {
            LIST_MEMBERSHIPS => {
                let groups = self.state.lock().groups.to_ne_bytes().to_vec();
                Ok(if length < groups.len() { Vec::new() } else { groups })
            }
            PKTINFO | 4 | 5 | CAP_ACK | 11 | GET_STRICT_CHK => {
                let value = self.common.options.lock().kept_integer(SOL_NETLINK, name).unwrap_or(0);
                Ok(value.to_ne_bytes().to_vec())
            }
            _ => Err(Errno::ENOPROTOOPT),
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        if state.port != 0 {
            self.common.network.netlink_ports.release(self.common.protocol, state.port);
        }
        *state = State::default();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
