//! Which internet addresses exist in a sandbox: lo's, and the unspecified ones that stand for them.

use crate::net::address::{unmap, Address};
use crate::net::NetworkStack;
use crate::{Errno, Result};
use skerry_abi::raw::net as linux;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// Whether something that is sent to `address` stays here.
pub fn is_loopback(address: IpAddr) -> bool {
    unmap(address).is_loopback()
}

/// The address in the form that the tables have: IPv4-mapped ones as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(unmap(address.ip()), address.port())
}

/// The address as a socket of `domain` shows it.
pub fn presented(domain: u32, address: SocketAddr) -> SocketAddr {
    match address {
        SocketAddr::V4(v4) if domain == linux::AF_INET6 => {
            let ip = if v4.ip().is_unspecified() { Ipv6Addr::UNSPECIFIED } else { v4.ip().to_ipv6_mapped() };
            SocketAddr::V6(SocketAddrV6::new(ip, v4.port(), 0, 0))
        }
        other => other,
    }
}

/// Nothing bound: what getsockname(2) shows.
pub fn unspecified(domain: u32) -> SocketAddr {
    let ip = if domain == linux::AF_INET6 { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { IpAddr::V4(Ipv4Addr::UNSPECIFIED) };
    SocketAddr::new(ip, 0)
}

/// Whether a socket of `domain` speaks only IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Families {
    V4,
    V6Only,
    Both,
}

impl Families {
    pub fn speaks(self, address: IpAddr) -> bool {
        match unmap(address) {
            IpAddr::V4(_) => self != Families::V6Only,
            IpAddr::V6(_) => self != Families::V4,
        }
    }
}

/// The address that bind(2) asks for, canonical. EAFNOSUPPORT, EADDRNOTAVAIL, EINVAL.
pub fn to_bind(
    network: &NetworkStack,
    domain: u32,
    families: Families,
    address: &Address,
    multicast: Multicast,
) -> Result<SocketAddr> {
    let address = match (address, domain) {
        (Address::Inet(address @ SocketAddr::V4(_)), linux::AF_INET) => *address,
        (Address::Inet(address @ SocketAddr::V6(_)), linux::AF_INET6) => *address,
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    let address = canonical(address);
    if !families.speaks(address.ip()) {
        return Err(Errno::EINVAL);
    }
    let ip = address.ip();
    let here = ip.is_unspecified()
        || (ip.is_loopback() && network.has_loopback())
        || (multicast == Multicast::Allowed && ip.is_multicast());
    if here {
        Ok(address)
    } else {
        Err(Errno::EADDRNOTAVAIL)
    }
}

/// Whether a multicast address will do (datagrams).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Multicast {
    Allowed,
    Refused,
}

/// Where something is to be sent, canonical, the unspecified address as loopback. ENETUNREACH where that is not here.
pub fn to_reach(network: &NetworkStack, families: Families, address: SocketAddr) -> Result<SocketAddr> {
    let mut address = canonical(address);
    if address.ip().is_unspecified() {
        let loopback = match (address.ip(), families) {
            // "::" on a socket that speaks both means IPv6's loopback.
            (IpAddr::V6(_), _) => IpAddr::V6(Ipv6Addr::LOCALHOST),
            (IpAddr::V4(_), _) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        };
        address.set_ip(loopback);
    }
    if !families.speaks(address.ip()) || !network.has_loopback() || !is_loopback(address.ip()) {
        return Err(Errno::ENETUNREACH);
    }
    Ok(address)
}

/// The source address for `destination` where the socket has none of its own.
pub fn source_for(destination: IpAddr) -> IpAddr {
    match destination {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    }
}
