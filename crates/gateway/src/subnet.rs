//! The guest's network: a subnet of its own, in which the guest has one address and we have all others.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const IPV4_NETWORK: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 0);
const IPV6_NETWORK: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x5ce, 0, 0, 0, 0, 0, 0);

const GATEWAY: u8 = 2;
const NAMES: u8 = 3;
const GUEST: u8 = 0x0f;
/// The guest's last number is written alike in both: 10.0.2.15 and ::15.
const GUEST_IPV6: u16 = 0x15;

pub fn is_guest(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == Ipv4Addr::new(10, 0, 2, GUEST),
        IpAddr::V6(address) => address == ipv6(GUEST_IPV6),
    }
}

/// Us.
pub fn is_gateway(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == Ipv4Addr::new(10, 0, 2, GATEWAY),
        IpAddr::V6(address) => address == ipv6(GATEWAY.into()),
    }
}

/// Ours, of the family of that one.
pub fn gateway_like(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => Ipv4Addr::new(10, 0, 2, GATEWAY).into(),
        IpAddr::V6(_) => ipv6(GATEWAY.into()).into(),
    }
}

/// Our DNS server.
pub fn is_names(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address == Ipv4Addr::new(10, 0, 2, NAMES),
        IpAddr::V6(address) => address == ipv6(NAMES.into()),
    }
}

pub fn contains(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.octets()[..3] == IPV4_NETWORK.octets()[..3],
        IpAddr::V6(address) => address.segments()[..4] == IPV6_NETWORK.segments()[..4],
    }
}

/// Whose place on the link is ours. A guest's link-local address (IPv6) is its own affair: we have none but those of the subnet.
pub fn is_answered_for(address: IpAddr) -> bool {
    contains(address) && !is_guest(address)
}

fn ipv6(last: u16) -> Ipv6Addr {
    let mut segments = IPV6_NETWORK.segments();
    segments[7] = last;
    segments.into()
}
