//! TCP and UDP over loopback (ip(7), ipv6(7), tcp(7), udp(7)), without a protocol beneath: a TCP connection is two
//! [`Channel`]s, a datagram goes straight into its receiver's queue. What programs see is what Linux shows on lo.
//!
//! [`ports`]: who has which port. [`tcp`], [`udp`]: the sockets. [`address`]: which addresses are here. [`options`]: the
//! IP, IPv6 and TCP levels. [`interface`]: lo.
//!
//! [`Channel`]: super::channel::Channel

pub mod address;
pub mod interface;
pub mod options;
pub mod ports;
pub mod tcp;
#[cfg(test)]
mod tests;
pub mod udp;

pub use ports::PortTable;
pub use tcp::TcpSocket;
pub use udp::UdpSocket;

use super::socket::{Caller, PeerIdentity, Socket, SocketType};
use super::NetworkStack;
use crate::{Errno, Result};
use std::sync::Arc;

pub const IPPROTO_TCP: u32 = 6;
pub const IPPROTO_UDP: u32 = 17;
pub const IPPROTO_UDPLITE: u32 = 136;
const IPPROTO_ICMP: u32 = 1;
const IPPROTO_ICMPV6: u32 = 58;

/// socket(2) with AF_INET or AF_INET6.
pub fn create(
    network: &Arc<NetworkStack>,
    caller: &Caller,
    domain: u32,
    kind: SocketType,
    protocol: u32,
) -> Result<Arc<dyn Socket>> {
    if protocol >= 256 && protocol != 262 {
        return Err(Errno::EINVAL);
    }
    let creator = PeerIdentity::of(caller);
    match (kind, protocol) {
        (SocketType::Stream, 0 | IPPROTO_TCP) => Ok(TcpSocket::new(network, creator, domain)),
        (SocketType::Datagram, 0 | IPPROTO_UDP) => Ok(UdpSocket::new(network, creator, domain, IPPROTO_UDP)),
        (SocketType::Datagram, IPPROTO_UDPLITE) => Ok(UdpSocket::new(network, creator, domain, IPPROTO_UDPLITE)),
        // Echo requests without privilege: nobody is in net.ipv4.ping_group_range, as by Linux's own default.
        (SocketType::Datagram, IPPROTO_ICMP | IPPROTO_ICMPV6) => Err(Errno::EACCES),
        // raw(7): EPERM without CAP_NET_RAW, which reaches no network of the sandbox's.
        (SocketType::Raw, 0) => Err(Errno::EPROTONOSUPPORT),
        (SocketType::Raw, _) => Err(Errno::EPERM),
        (SocketType::Stream | SocketType::Datagram, _) => Err(Errno::EPROTONOSUPPORT),
        (SocketType::SequencedPacket, _) => Err(Errno::ESOCKTNOSUPPORT),
    }
}
