//! TCP sockets on the host's loopback. Landlock holds ports, not addresses, so the agent is asked where a socket is bound to or
//! connected: it takes a copy of the address and of the socket (pidfd_getfd(2)), looks at them, and does itself what was asked
//! for. What the program changes meanwhile changes nothing. "Any address" means loopback.

use super::landlock::Restriction;
use super::reach::process_of;
use rustix::io::Errno;
use rustix::net::AddressFamily;
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use skerry_control::Ports;
use skerry_platform::agent::{die_with_parent, fork, leave};
use skerry_platform::listener::{Listener, Notification};
use skerry_platform::memory::GuestMemory;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

/// What the agent is asked for.
pub const CALLS: [libc::c_long; 3] = [libc::SYS_connect, libc::SYS_bind, libc::SYS_listen];

/// What the rules say of sockets.
pub struct Network {
    pub ports: Ports,
    /// Only on loopback.
    pub loopback: bool,
}

/// How it goes on.
pub enum Outcome {
    /// A fork of ours answers: connecting may wait.
    UnderWay,
    Done(Result<(), Errno>),
    /// The rules do not grant it.
    Denied(Errno, SocketAddr),
}

/// Serves one such call.
pub fn serve(asked: &Notification, listener: &Listener, network: &Network, restriction: Option<&Restriction>) -> Outcome {
    let socket = match socket_of(asked) {
        Ok(socket) => socket,
        Err(error) => return Outcome::Done(Err(error)),
    };
    match i64::from(asked.number) {
        libc::SYS_listen => listen(&socket, asked.arguments[1] as i32, network),
        libc::SYS_bind => match address_of(asked, listener) {
            Ok(Some(address)) => bind(&socket, address, network),
            Ok(None) => Outcome::Done(Err(Errno::AFNOSUPPORT)),
            Err(error) => Outcome::Done(Err(error)),
        },
        _ => match address_of(asked, listener) {
            Ok(Some(address)) => connect(asked, listener, &socket, address, network, restriction),
            Ok(None) => Outcome::Done(rustix::net::connect_unspec(&socket)),
            Err(error) => Outcome::Done(Err(error)),
        },
    }
}

/// The caller's socket: IP's only.
fn socket_of(asked: &Notification) -> Result<OwnedFd, Errno> {
    let process = process_of(asked.tid).and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
    let process = pidfd_open(process, PidfdFlags::empty())?;
    let socket = pidfd_getfd(&process, asked.arguments[0] as i32, PidfdGetfdFlags::empty())?;
    match rustix::net::sockopt::socket_domain(&socket)? {
        AddressFamily::INET | AddressFamily::INET6 => Ok(socket),
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// The address in the caller's memory; `None`: of no family, which parts a socket from its peer.
fn address_of(asked: &Notification, listener: &Listener) -> Result<Option<SocketAddr>, Errno> {
    address_at(asked, listener, asked.arguments[1], asked.arguments[2])
}

/// The same, of an address that lies elsewhere.
pub fn address_at(asked: &Notification, listener: &Listener, at: u64, length: u64) -> Result<Option<SocketAddr>, Errno> {
    let length = usize::try_from(length as i32).map_err(|_| Errno::INVAL)?;
    let mut bytes = [0u8; 28];
    let taken = bytes.get_mut(..length.min(28)).ok_or(Errno::INVAL)?;
    if GuestMemory::of_pid(asked.tid).read(at, taken) != taken.len() {
        return Err(Errno::FAULT);
    }
    // It was the memory and the socket of who asked, and of nobody with the same number.
    if !listener.is_valid(asked.id) {
        return Err(Errno::SRCH);
    }
    parse(&bytes, length)
}

fn parse(bytes: &[u8; 28], length: usize) -> Result<Option<SocketAddr>, Errno> {
    if length < 2 {
        return Err(Errno::INVAL);
    }
    let port = u16::from_be_bytes([bytes[2], bytes[3]]);
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_UNSPEC => Ok(None),
        libc::AF_INET if length >= 16 => {
            let address = Ipv4Addr::new(bytes[4], bytes[5], bytes[6], bytes[7]);
            Ok(Some(SocketAddr::new(IpAddr::V4(address), port)))
        }
        libc::AF_INET6 if length >= 24 => {
            let mut address = [0; 16];
            address.copy_from_slice(&bytes[8..24]);
            Ok(Some(SocketAddr::new(IpAddr::V6(Ipv6Addr::from(address)), port)))
        }
        libc::AF_INET | libc::AF_INET6 => Err(Errno::INVAL),
        _ => Err(Errno::AFNOSUPPORT),
    }
}

/// The address that is meant, if it is on loopback. `only_six`: IPv4 is no matter of the socket's.
fn on_loopback(address: SocketAddr, only_six: bool) -> Option<SocketAddr> {
    let meant = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() && only_six => IpAddr::V6(Ipv6Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv4Addr::LOCALHOST.to_ipv6_mapped()),
        ip => ip,
    };
    meant.to_canonical().is_loopback().then(|| SocketAddr::new(meant, address.port()))
}

fn only_six(socket: &OwnedFd) -> bool {
    rustix::net::sockopt::ipv6_v6only(socket).unwrap_or(false)
}

fn connect(
    asked: &Notification,
    listener: &Listener,
    socket: &OwnedFd,
    address: SocketAddr,
    network: &Network,
    restriction: Option<&Restriction>,
) -> Outcome {
    let meant = if network.loopback { on_loopback(address, only_six(socket)) } else { Some(address) };
    let Some(meant) = meant else { return Outcome::Denied(Errno::NETUNREACH, address) };
    if !network.ports.connect_tcp.contains(&meant.port()) {
        return Outcome::Denied(Errno::ACCESS, address);
    }
    match fork() {
        Err(_) => Outcome::Done(Err(Errno::AGAIN)),
        Ok(Some(_)) => Outcome::UnderWay,
        Ok(None) => {
            die_with_parent();
            // The ports are held twice.
            let result = match restriction.map(Restriction::enter) {
                Some(Err(_)) => Err(Errno::ACCESS),
                _ => rustix::net::connect(socket, &meant),
            };
            listener.answer(asked.id, result.err().map_or(0, |error| -i64::from(error.raw_os_error())));
            leave(0)
        }
    }
}

fn bind(socket: &OwnedFd, address: SocketAddr, network: &Network) -> Outcome {
    let meant = if network.loopback { on_loopback(address, only_six(socket)) } else { Some(address) };
    let Some(meant) = meant else { return Outcome::Denied(Errno::ADDRNOTAVAIL, address) };
    if !network.ports.bind_tcp.contains(&meant.port()) {
        return Outcome::Denied(Errno::ACCESS, address);
    }
    Outcome::Done(rustix::net::bind(socket, &meant))
}

/// A socket that has no port takes any, at all addresses, when it listens.
fn listen(socket: &OwnedFd, backlog: i32, network: &Network) -> Outcome {
    let name = rustix::net::getsockname(socket).and_then(SocketAddr::try_from);
    let bound = match name {
        Ok(bound) => bound,
        Err(error) => return Outcome::Done(Err(error)),
    };
    if bound.port() == 0 {
        match bind(socket, bound, network) {
            Outcome::Done(Ok(())) => {}
            other => return other,
        }
    }
    Outcome::Done(rustix::net::listen(socket, backlog))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_kept_to_loopback() {
        let mut bytes = [0u8; 28];
        bytes[..8].copy_from_slice(&[2, 0, 0x1f, 0x90, 127, 0, 0, 5]);
        let four = parse(&bytes, 16).unwrap().unwrap();
        assert_eq!(four.to_string(), "127.0.0.5:8080");
        assert!(parse(&bytes, 15).is_err() && parse(&bytes, 1).is_err());
        assert_eq!(on_loopback(four, false), Some(four));
        let of = |text: &str| text.parse::<SocketAddr>().unwrap();
        for outside in ["10.0.0.1:80", "[2001:db8::1]:80", "[::ffff:10.0.0.1]:80", "255.255.255.255:80", "[fe80::1]:1"] {
            assert_eq!(on_loopback(of(outside), false), None, "{outside}");
        }
        assert_eq!(on_loopback(of("0.0.0.0:80"), false), Some(of("127.0.0.1:80")));
        assert_eq!(on_loopback(of("[::]:80"), true), Some(of("[::1]:80")));
        assert_eq!(on_loopback(of("[::]:80"), false), Some(of("[::ffff:127.0.0.1]:80")));
        bytes[0] = 0;
        assert_eq!(parse(&bytes, 16).unwrap(), None);
        bytes[0] = 16;
        assert_eq!(parse(&bytes, 16).unwrap_err(), Errno::AFNOSUPPORT);
    }
}
