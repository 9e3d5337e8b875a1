//! UDP over loopback (udp(7)): datagrams go straight into the receiver's queue; a full one loses them. Where nobody
//! receives, a connected sender hears ECONNREFUSED at its next call, as the ICMP answer would tell it.

use super::address::{self, Families, Multicast};
use super::ports::{PortLease, PortTable, Request};
use super::{interface, options, IPPROTO_UDP};
use crate::fs::file::Events;
use crate::net::address::Address;
use crate::net::options::Timestamp;
use crate::net::socket::{
    Caller, Common, ControlMessage, Destination, Incoming, MessageFlags, Outgoing, PeerIdentity, Shutdown, Socket, SocketType,
};
use crate::net::NetworkStack;
use crate::task::credentials::CAP_NET_BIND_SERVICE;
use crate::{Errno, Result};
use parking_lot::Mutex;
use skerry_abi::raw::net as linux;
use std::any::Any;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

/// The most bytes in a datagram: 65,535 less the headers.
const MAXIMUM_V4: usize = 65_507;
const MAXIMUM_V6: usize = 65_527;
/// What a datagram is counted as beside its bytes.
const OVERHEAD: usize = 256;

/// A UDP socket.
pub struct UdpSocket {
    common: Common,
    me: Weak<UdpSocket>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    bound: Option<Bound>,
    peer: Option<SocketAddr>,
    queue: VecDeque<Datagram>,
    /// Bytes in the queue, with their overhead.
    queued: usize,
    dropped: u32,
    /// A datagram that is being put together (MSG_MORE, UDP_CORK), and where it goes.
    corked: Option<(SocketAddr, Vec<u8>)>,
    read_closed: bool,
    write_closed: bool,
    closed: bool,
}

struct Bound {
    local: SocketAddr,
    lease: PortLease,
    /// What bind(2) gave: connect(2) makes an unspecified address specific, and undoing it brings this back.
    original: IpAddr,
}

#[derive(Clone)]
struct Datagram {
    data: Vec<u8>,
    source: SocketAddr,
    destination: IpAddr,
    header: Header,
    /// Since 1970, where the receiver asked for times when it came.
    time: Option<std::time::Duration>,
}

/// The fields of the IP header that a sender sets and a receiver may ask for.
#[derive(Clone, Copy)]
struct Header {
    hop_limit: i32,
    traffic_class: i32,
}

impl Header {
    /// From the sender's options, and from what it says beside this datagram. EINVAL.
    fn new(common: &Common, destination: SocketAddr, control: &[ControlMessage]) -> Result<Header> {
        let mut header = {
            let options = common.options.lock();
            let kept = |level, name| options.kept_integer(level, name);
            if destination.is_ipv4() {
                Header {
                    hop_limit: kept(linux::SOL_IP, linux::IP_TTL).unwrap_or(64),
                    traffic_class: kept(linux::SOL_IP, linux::IP_TOS).unwrap_or(0),
                }
            } else {
                Header {
                    hop_limit: kept(linux::SOL_IPV6, linux::IPV6_UNICAST_HOPS).unwrap_or(64),
                    traffic_class: kept(linux::SOL_IPV6, linux::IPV6_TCLASS).unwrap_or(0),
                }
            }
        };
        for ControlMessage { level, kind, data } in control {
            let integer = || <[u8; 4]>::try_from(data.as_slice()).map(i32::from_ne_bytes).map_err(|_| Errno::EINVAL);
            match (*level, *kind) {
                (linux::SOL_IP, linux::IP_TTL) => header.hop_limit = within(integer()?, 1)?,
                (linux::SOL_IP, linux::IP_TOS) if data.len() == 1 => header.traffic_class = data[0].into(),
                (linux::SOL_IP, linux::IP_TOS) => header.traffic_class = within(integer()?, 0)?,
                (linux::SOL_IPV6, linux::IPV6_HOPLIMIT | linux::IPV6_2292HOPLIMIT) => match integer()? {
                    -1 => {}
                    limit => header.hop_limit = within(limit, 0)?,
                },
                (linux::SOL_IPV6, linux::IPV6_TCLASS) => match integer()? {
                    -1 => {}
                    class => header.traffic_class = within(class, 0)?,
                },
                (linux::SOL_IP, linux::IP_PKTINFO) if data.len() >= 12 => {}
                (linux::SOL_IPV6, linux::IPV6_PKTINFO | linux::IPV6_2292PKTINFO) if data.len() >= 20 => {}
                (linux::SOL_IPV6, linux::IPV6_FLOWINFO | linux::IPV6_DONTFRAG) if data.len() == 4 => {}
                (linux::SOL_SOCKET, _) => {}
                _ => return Err(Errno::EINVAL),
            }
        }
        Ok(header)
    }
}

fn within(value: i32, minimum: i32) -> Result<i32> {
    if (minimum..=255).contains(&value) {
        Ok(value)
    } else {
        Err(Errno::EINVAL)
    }
}

impl Datagram {
    fn cost(&self) -> usize {
        self.data.len() + OVERHEAD
    }
}

/// What /proc/net/udp and sock_diag(7) show.
pub struct Diagnosis {
    pub local: SocketAddr,
    pub peer: Option<SocketAddr>,
    pub receive_queue: u32,
    pub dropped: u32,
}

impl UdpSocket {
    /// `protocol`: UDP, or UDP-Lite (udplite(7)), which is the same where no checksum is looked at.
    pub fn new(network: &Arc<NetworkStack>, creator: PeerIdentity, domain: u32, protocol: u32) -> Arc<UdpSocket> {
        let common = Common::new(network, creator, domain, SocketType::Datagram, protocol);
        Arc::new_cyclic(|me| UdpSocket { common, me: me.clone(), state: Mutex::default() })
    }

    fn ports(&self) -> &Arc<PortTable> {
        let network = &self.common.network;
        if self.common.protocol == IPPROTO_UDP {
            &network.udp_ports
        } else {
            &network.udplite_ports
        }
    }

    fn families(&self) -> Families {
        options::families(&self.common)
    }

    fn request(&self, address: SocketAddr) -> Request {
        Request {
            address,
            families: self.families(),
            sharing: options::sharing(&self.common),
            stream: false,
            socket: self.me.clone(),
        }
    }

    pub fn diagnosis(&self) -> Diagnosis {
        let state = self.state.lock();
        Diagnosis {
            local: state.bound.as_ref().map_or_else(|| address::unspecified(self.common.domain()), |bound| bound.local),
            peer: state.peer,
            receive_queue: state.queued as u32,
            dropped: state.dropped,
        }
    }

    pub fn is_bound(&self) -> bool {
        self.state.lock().bound.is_some()
    }

    /// Gives the socket a port where it has none.
    fn bind_any(&self, request: Request) -> Result<()> {
        let mut state = self.state.lock();
        if state.bound.is_none() {
            let ip = request.address.ip();
            let lease = self.ports().bind(request).map_err(|_| Errno::EAGAIN)?;
            state.bound = Some(Bound { local: SocketAddr::new(ip, lease.port), lease, original: ip });
        }
        Ok(())
    }

    /// An address of a call, as this socket can reach it.
    fn reachable(&self, address: &Address) -> Result<SocketAddr> {
        let Address::Inet(address) = address else { return Err(Errno::EAFNOSUPPORT) };
        if address.is_ipv6() && self.common.domain() == linux::AF_INET {
            return Err(Errno::EAFNOSUPPORT);
        }
        let broadcast = matches!(address.ip(), IpAddr::V4(v4) if v4.is_broadcast() || v4.octets() == [127, 255, 255, 255]);
        if broadcast && !self.common.options.lock().broadcast {
            return Err(Errno::EACCES);
        }
        address::to_reach(&self.common.network, self.families(), *address)
    }

    fn deliver(&self, datagram: &[u8], source: SocketAddr, destination: IpAddr, header: Header) -> bool {
        let (limit, timestamp) = {
            let options = self.common.options.lock();
            (options.receive_buffer, options.timestamp)
        };
        let mut state = self.state.lock();
        if state.closed {
            return false;
        }
        let full = !state.queue.is_empty() && state.queued + datagram.len() + OVERHEAD > limit;
        if full || state.read_closed || !self.common.network.budget.reserve(datagram.len() + OVERHEAD) {
            state.dropped = state.dropped.wrapping_add(1);
            return true;
        }
        let time = (timestamp != Timestamp::Off).then(|| SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default());
        let datagram = Datagram { data: datagram.to_vec(), source, destination, header, time };
        state.queued += datagram.cost();
        state.queue.push_back(datagram);
        drop(state);
        self.common.queue.wake_all();
        true
    }

    /// Sends one datagram.
    fn transmit(&self, data: &[u8], destination: SocketAddr, header: Header) -> Result<usize> {
        let mut source = self.diagnosis().local;
        if source.ip().is_unspecified() || source.ip().is_multicast() {
            source.set_ip(address::source_for(destination.ip()));
        }
        if source.is_ipv4() != destination.is_ipv4() {
            return Err(Errno::ENETUNREACH);
        }
        self.common.network.interface.count(data.len());
        let found = self.ports().find_receiver(destination, source);
        let receiver = found.as_ref().and_then(|found| found.as_any().downcast_ref::<UdpSocket>());
        let delivered = receiver.is_some_and(|receiver| receiver.deliver(data, source, destination.ip(), header));
        if !delivered
            && (self.state.lock().peer == Some(destination) || options::is_on(&self.common, linux::SOL_IP, linux::IP_RECVERR))
        {
            self.common.set_error(Errno::ECONNREFUSED);
        }
        Ok(data.len())
    }

    /// UDP_CORK was taken off: what was put together goes.
    fn uncork(&self) -> Result<()> {
        let corked = self.state.lock().corked.take();
        if let Some((destination, data)) = corked {
            let header = Header::new(&self.common, destination, &[])?;
            self.transmit(&data, destination, header)?;
        }
        Ok(())
    }

    /// Control messages that the receiver asked for.
    fn control(&self, datagram: &Datagram) -> Vec<ControlMessage> {
        let port = self.state.lock().bound.as_ref().map_or(0, |bound| bound.lease.port);
        let options = self.common.options.lock();
        let on = |level, name| options.kept_integer(level, name).unwrap_or(0) != 0;
        let mut control = Vec::new();
        let mut put = |level, kind, data| control.push(ControlMessage { level, kind, data });
        if let Some(time) = datagram.time {
            let mut data = (time.as_secs() as i64).to_ne_bytes().to_vec();
            match options.timestamp {
                Timestamp::Nanoseconds => {
                    data.extend(i64::from(time.subsec_nanos()).to_ne_bytes());
                    put(linux::SOL_SOCKET, linux::SCM_TIMESTAMPNS, data);
                }
                Timestamp::Microseconds => {
                    data.extend(i64::from(time.subsec_micros()).to_ne_bytes());
                    put(linux::SOL_SOCKET, linux::SCM_TIMESTAMP, data);
                }
                Timestamp::Off => {}
            }
        }
        if let IpAddr::V4(destination) = datagram.destination {
            if on(linux::SOL_IP, linux::IP_PKTINFO) {
                // struct in_pktinfo: index, the local address, the header's destination.
                let mut data = interface::INDEX.to_ne_bytes().to_vec();
                data.extend(destination.octets());
                data.extend(destination.octets());
                put(linux::SOL_IP, linux::IP_PKTINFO, data);
            }
            if on(linux::SOL_IP, linux::IP_RECVTTL) {
                put(linux::SOL_IP, linux::IP_TTL, datagram.header.hop_limit.to_ne_bytes().to_vec());
            }
            if on(linux::SOL_IP, linux::IP_RECVTOS) {
                put(linux::SOL_IP, linux::IP_TOS, vec![datagram.header.traffic_class as u8]);
            }
            if on(linux::SOL_IP, linux::IP_RECVORIGDSTADDR) {
                put(linux::SOL_IP, linux::IP_ORIGDSTADDR, Address::Inet(SocketAddr::new(datagram.destination, port)).encode());
            }
        }
        if self.common.domain() == linux::AF_INET6 {
            if on(linux::SOL_IPV6, linux::IPV6_RECVPKTINFO) {
                // struct in6_pktinfo: address, index.
                let destination = match datagram.destination {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                    IpAddr::V6(v6) => v6,
                };
                let mut data = destination.octets().to_vec();
                data.extend(interface::INDEX.to_ne_bytes());
                put(linux::SOL_IPV6, linux::IPV6_PKTINFO, data);
            }
            if on(linux::SOL_IPV6, linux::IPV6_RECVHOPLIMIT) {
                put(linux::SOL_IPV6, linux::IPV6_HOPLIMIT, datagram.header.hop_limit.to_ne_bytes().to_vec());
            }
            if on(linux::SOL_IPV6, linux::IPV6_RECVTCLASS) {
                put(linux::SOL_IPV6, linux::IPV6_TCLASS, datagram.header.traffic_class.to_ne_bytes().to_vec());
            }
        }
        control
    }

    fn fill(&self, datagram: &Datagram, buffer: &mut [u8]) -> Incoming {
        let count = datagram.data.len().min(buffer.len());
        buffer[..count].copy_from_slice(&datagram.data[..count]);
        let mut flags = MessageFlags::empty();
        flags.set(MessageFlags::TRUNC, count < datagram.data.len());
        Incoming {
            count,
            full_length: datagram.data.len(),
            source: Some(Address::Inet(address::presented(self.common.domain(), datagram.source))),
            control: self.control(datagram),
            flags,
            boundary: true,
            ..Incoming::default()
        }
    }
}

impl Socket for UdpSocket {
    fn common(&self) -> &Common {
        &self.common
    }

    fn bind(&self, caller: &Caller, address: &Address) -> Result<()> {
        let address =
            address::to_bind(&self.common.network, self.common.domain(), self.families(), address, Multicast::Allowed)?;
        if (1..1024).contains(&address.port()) && !caller.credentials.has_capability(CAP_NET_BIND_SERVICE) {
            return Err(Errno::EACCES);
        }
        let request = self.request(address);
        let mut state = self.state.lock();
        if state.bound.is_some() {
            return Err(Errno::EINVAL);
        }
        let lease = self.ports().bind(request)?;
        state.bound = Some(Bound { local: SocketAddr::new(address.ip(), lease.port), lease, original: address.ip() });
        Ok(())
    }

    fn connect(&self, _caller: &Caller, destination: &Destination) -> Result<()> {
        if destination.address == Address::Unspecified {
            let mut state = self.state.lock();
            state.peer = None;
            if let Some(bound) = &mut state.bound {
                bound.local.set_ip(bound.original);
                bound.lease.disconnect(bound.original);
            }
            return Ok(());
        }
        let peer = self.reachable(&destination.address)?;
        self.bind_any(self.request(address::unspecified(self.common.domain())))?;
        let mut state = self.state.lock();
        let Some(bound) = &mut state.bound else { return Err(Errno::EAGAIN) };
        let ip = if bound.original.is_unspecified() { address::source_for(peer.ip()) } else { bound.original };
        if ip.is_ipv4() != peer.is_ipv4() {
            return Err(Errno::ENETUNREACH);
        }
        bound.lease.connect(ip, peer)?;
        bound.local.set_ip(ip);
        state.peer = Some(peer);
        Ok(())
    }

    fn shutdown(&self, how: Shutdown) -> Result<()> {
        let mut state = self.state.lock();
        if state.peer.is_none() {
            return Err(Errno::ENOTCONN);
        }
        state.read_closed |= how.reads();
        state.write_closed |= how.writes();
        drop(state);
        self.common.queue.wake_all();
        Ok(())
    }

    fn local_address(&self) -> Address {
        Address::Inet(address::presented(self.common.domain(), self.diagnosis().local))
    }

    fn peer_address(&self) -> Result<Address> {
        let peer = self.state.lock().peer.ok_or(Errno::ENOTCONN)?;
        Ok(Address::Inet(address::presented(self.common.domain(), peer)))
    }

    fn send(&self, _caller: &Caller, data: &[u8], outgoing: &mut Outgoing) -> Result<usize> {
        if outgoing.flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        let (peer, write_closed) = {
            let state = self.state.lock();
            (state.peer, state.write_closed)
        };
        let destination = match &outgoing.destination {
            // A socket of IPv6's takes AF_UNSPEC for "where it is connected to" (udpv6_sendmsg).
            Some(Destination { address: Address::Unspecified, .. }) => peer.ok_or(Errno::EDESTADDRREQ)?,
            Some(Destination { address, .. }) => self.reachable(address)?,
            None => peer.ok_or(Errno::EDESTADDRREQ)?,
        };
        if destination.port() == 0 {
            return Err(Errno::EINVAL);
        }
        let maximum = if destination.is_ipv4() { MAXIMUM_V4 } else { MAXIMUM_V6 };
        if data.len() > maximum {
            return Err(Errno::EMSGSIZE);
        }
        let header = Header::new(&self.common, destination, &outgoing.control)?;
        self.common.check_error()?;
        if write_closed {
            return Err(Errno::EPIPE);
        }
        self.bind_any(self.request(address::unspecified(self.common.domain())))?;
        let corked = self.state.lock().corked.take();
        let more =
            outgoing.flags.contains(MessageFlags::MORE) || options::is_on(&self.common, linux::SOL_UDP, options::UDP_CORK);
        if !more && corked.is_none() {
            return self.transmit(data, destination, header);
        }
        // udp(7): what is joined goes where its first part was to go.
        let (destination, mut whole) = corked.unwrap_or((destination, Vec::new()));
        if whole.len() + data.len() > maximum {
            return Err(Errno::EMSGSIZE);
        }
        whole.extend(data);
        if more {
            self.state.lock().corked = Some((destination, whole));
        } else {
            self.transmit(&whole, destination, header)?;
        }
        Ok(data.len())
    }

    fn receive(&self, buffer: &mut [u8], flags: MessageFlags) -> Result<Incoming> {
        if flags.contains(MessageFlags::OOB) {
            return Err(Errno::EOPNOTSUPP);
        }
        if flags.contains(MessageFlags::ERRQUEUE) {
            return Err(Errno::EAGAIN);
        }
        self.common.check_error()?;
        let mut state = self.state.lock();
        if flags.contains(MessageFlags::PEEK) {
            // Copied, so that the options are not locked under the queue.
            let Some(datagram) = state.queue.front() else {
                return if state.read_closed { Ok(Incoming::default()) } else { Err(Errno::EAGAIN) };
            };
            let datagram = datagram.clone();
            drop(state);
            return Ok(self.fill(&datagram, buffer));
        }
        let Some(datagram) = state.queue.pop_front() else {
            return if state.read_closed { Ok(Incoming::default()) } else { Err(Errno::EAGAIN) };
        };
        state.queued = state.queued.saturating_sub(datagram.cost());
        drop(state);
        self.common.network.budget.release(datagram.cost());
        Ok(self.fill(&datagram, buffer))
    }

    fn poll(&self) -> Events {
        let state = self.state.lock();
        let mut events = Events::OUT | Events::WRNORM | Events::WRBAND;
        events.set(Events::IN | Events::RDNORM, !state.queue.is_empty() || state.read_closed);
        events.set(Events::RDHUP, state.read_closed);
        events.set(Events::HUP, state.read_closed && state.write_closed);
        events.set(Events::ERR, self.common.has_error());
        events
    }

    fn available(&self) -> Result<usize> {
        Ok(self.state.lock().queue.front().map_or(0, |datagram| datagram.data.len()))
    }

    fn set_option(&self, caller: &Caller, level: u32, name: u32, value: &[u8]) -> Result<()> {
        if level == linux::SOL_IPV6 && name == linux::IPV6_V6ONLY && self.is_bound() {
            return Err(Errno::EINVAL);
        }
        if level == linux::SOL_IPV6 && name == linux::IPV6_ADDRFORM && self.common.domain() == linux::AF_INET6 {
            return options::become_ipv4(&self.common, value, self.diagnosis().peer);
        }
        options::set_ip(&self.common, caller, level, name, value)?;
        if level == linux::SOL_UDP && name == options::UDP_CORK && !options::is_on(&self.common, level, name) {
            self.uncork()?;
        }
        Ok(())
    }

    fn get_option(&self, level: u32, name: u32, _length: usize) -> Result<Vec<u8>> {
        options::get_ip(&self.common, level, name, self.state.lock().peer.is_some())
    }

    fn sharing_changed(&self) {
        let sharing = options::sharing(&self.common);
        if let Some(bound) = &self.state.lock().bound {
            bound.lease.set_sharing(sharing);
        }
    }

    fn close(&self) {
        let mut state = self.state.lock();
        state.closed = true;
        let bound = state.bound.take();
        let queue = std::mem::take(&mut state.queue);
        let queued = std::mem::take(&mut state.queued);
        drop(state);
        self.common.network.budget.release(queued);
        drop((bound, queue));
        self.common.queue.wake_all();
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
