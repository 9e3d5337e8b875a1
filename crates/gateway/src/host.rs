//! What the host says of an address: is it one of its own? Asked anew each time (rtnetlink(7)), as interfaces come and go, and as
//! whole networks can be the host's by a route.

use rustix::io::Errno;
use rustix::net::{recv, send, AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const RTA_DST: u16 = 1;
/// Of a route: it leads on, to somebody else.
const RTN_UNICAST: u8 = 1;
/// `struct nlmsghdr`, `struct rtmsg`.
const HEADER: usize = 16;
const ROUTE: usize = 12;
const TYPE_AT: usize = HEADER + 7;

pub struct Routes {
    socket: OwnedFd,
    sequence: AtomicU32,
}

impl Routes {
    pub fn open() -> Result<Routes, Errno> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        Ok(Routes { socket, sequence: AtomicU32::new(1) })
    }

    /// Whether the host takes what is sent there for itself, or for everybody on its network. Where it does not say, yes.
    pub fn is_own(&self, address: IpAddr) -> bool {
        match self.kind(address) {
            Ok(kind) => kind != RTN_UNICAST,
            // There is no way there: whoever connects hears of it.
            Err(Errno::NETUNREACH | Errno::HOSTUNREACH | Errno::ACCESS | Errno::INVAL) => false,
            Err(_) => true,
        }
    }

    fn kind(&self, address: IpAddr) -> Result<u8, Errno> {
        let octets = match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        };
        let family = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        let length = HEADER + ROUTE + 4 + octets.len();
        let mut request = Vec::with_capacity(length);
        request.extend((length as u32).to_ne_bytes());
        request.extend(RTM_GETROUTE.to_ne_bytes());
        request.extend(NLM_F_REQUEST.to_ne_bytes());
        request.extend(sequence.to_ne_bytes());
        request.extend([0; 4]);
        request.extend([family as u8, octets.len() as u8 * 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        request.extend((4 + octets.len() as u16).to_ne_bytes());
        request.extend(RTA_DST.to_ne_bytes());
        request.extend(octets);
        send(&self.socket, &request, SendFlags::empty())?;
        let mut reply = [0; 4096];
        loop {
            // The host answers within send(2).
            let (_, count) = rustix::io::retry_on_intr(|| recv(&self.socket, &mut reply[..], RecvFlags::empty()))?;
            let reply = reply.get(..count).ok_or(Errno::MSGSIZE)?;
            let word = |at: usize| reply.get(at..at + 4).and_then(|four| four.try_into().ok()).map(u32::from_ne_bytes);
            let kind = reply.get(4..6).map(|two| u16::from_ne_bytes([two[0], two[1]]));
            match (kind, word(8)) {
                (_, Some(other)) if other != sequence => {}
                (Some(RTM_NEWROUTE), _) => return reply.get(TYPE_AT).copied().ok_or(Errno::BADMSG),
                (Some(NLMSG_ERROR), _) => {
                    let error = word(HEADER).map_or(0, |error| (error as i32).wrapping_neg());
                    return Err(if error > 0 { Errno::from_raw_os_error(error) } else { Errno::BADMSG });
                }
                _ => return Err(Errno::BADMSG),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_own_are_known() {
        let routes = Routes::open().unwrap();
        for own in ["127.0.0.1", "127.200.0.1"] {
            assert!(routes.is_own(own.parse().unwrap()), "{own}");
        }
        // Whoever this host is on its network.
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        if socket.connect("198.51.100.7:9").is_ok() {
            let own = socket.local_addr().unwrap().ip();
            assert!(routes.is_own(own), "{own}");
        }
        assert!(!routes.is_own("198.51.100.7".parse().unwrap()));
    }
}
