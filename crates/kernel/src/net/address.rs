//! Socket addresses (sockaddr(3type), unix(7), ip(7), ipv6(7), netlink(7)): bytes of the guest to values, and back.

use crate::{Errno, Result};
use skerry_abi::raw::net as linux;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// `sizeof(struct sockaddr_storage)`: no address is longer (EINVAL).
pub const STORAGE_SIZE: usize = 128;
/// `sizeof(sun_path)`.
const UNIX_PATH_SIZE: usize = 108;

/// The name of a unix socket (unix(7), "Address format").
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub enum UnixName {
    #[default]
    Unnamed,
    /// A path, without the zero behind it.
    Path(Vec<u8>),
    /// Without the zero in front.
    Abstract(Vec<u8>),
}

/// An address of any family that is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// AF_UNSPEC: undoes a connect(2) of a datagram socket.
    Unspecified,
    Unix(UnixName),
    Inet(SocketAddr),
    Netlink {
        port: u32,
        groups: u32,
    },
    /// A family that nobody here serves.
    Other(u16),
}

impl Address {
    /// EINVAL where the bytes are too short for their family, or malformed.
    pub fn parse(bytes: &[u8]) -> Result<Address> {
        let family = u16::from_ne_bytes(take(bytes, 0)?);
        match u32::from(family) {
            linux::AF_UNSPEC => Ok(Address::Unspecified),
            linux::AF_UNIX => parse_unix(&bytes[2..]).map(Address::Unix),
            linux::AF_INET => {
                if bytes.len() < 16 {
                    return Err(Errno::EINVAL);
                }
                let port = u16::from_be_bytes(take(bytes, 2)?);
                let address: [u8; 4] = take(bytes, 4)?;
                Ok(Address::Inet(SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::from(address), port))))
            }
            linux::AF_INET6 => {
                // 24: the structure of RFC 2133, without sin6_scope_id, is still accepted.
                if bytes.len() < 24 {
                    return Err(Errno::EINVAL);
                }
                let port = u16::from_be_bytes(take(bytes, 2)?);
                let flow = u32::from_be_bytes(take(bytes, 4)?);
                let address: [u8; 16] = take(bytes, 8)?;
                let scope = take(bytes, 24).map(u32::from_ne_bytes).unwrap_or(0);
                Ok(Address::Inet(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(address), port, flow, scope))))
            }
            linux::AF_NETLINK => {
                if bytes.len() < 12 {
                    return Err(Errno::EINVAL);
                }
                Ok(Address::Netlink { port: u32::from_ne_bytes(take(bytes, 4)?), groups: u32::from_ne_bytes(take(bytes, 8)?) })
            }
            _ => Ok(Address::Other(family)),
        }
    }

    /// The bytes as getsockname(2) gives them.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(28);
        match self {
            Address::Unspecified => bytes.extend(0u16.to_ne_bytes()),
            Address::Other(family) => bytes.extend(family.to_ne_bytes()),
            Address::Unix(name) => {
                bytes.extend((linux::AF_UNIX as u16).to_ne_bytes());
                match name {
                    UnixName::Unnamed => {}
                    UnixName::Path(path) => {
                        bytes.extend(path);
                        bytes.push(0);
                    }
                    UnixName::Abstract(name) => {
                        bytes.push(0);
                        bytes.extend(name);
                    }
                }
            }
            Address::Inet(SocketAddr::V4(address)) => {
                bytes.extend((linux::AF_INET as u16).to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend([0; 8]);
            }
            Address::Inet(SocketAddr::V6(address)) => {
                bytes.extend((linux::AF_INET6 as u16).to_ne_bytes());
                bytes.extend(address.port().to_be_bytes());
                bytes.extend(address.flowinfo().to_be_bytes());
                bytes.extend(address.ip().octets());
                bytes.extend(address.scope_id().to_ne_bytes());
            }
            Address::Netlink { port, groups } => {
                bytes.extend((linux::AF_NETLINK as u16).to_ne_bytes());
                bytes.extend([0; 2]);
                bytes.extend(port.to_ne_bytes());
                bytes.extend(groups.to_ne_bytes());
            }
        }
        bytes
    }
}

fn take<const N: usize>(bytes: &[u8], offset: usize) -> Result<[u8; N]> {
    bytes.get(offset..offset + N).and_then(|part| part.try_into().ok()).ok_or(Errno::EINVAL)
}

fn parse_unix(name: &[u8]) -> Result<UnixName> {
    if name.len() > UNIX_PATH_SIZE {
        return Err(Errno::EINVAL);
    }
    Ok(match name.first() {
        None => UnixName::Unnamed,
        Some(0) => UnixName::Abstract(name[1..].to_vec()),
        Some(_) => UnixName::Path(name.split(|&byte| byte == 0).next().unwrap_or_default().to_vec()),
    })
}

/// An IPv4-mapped IPv6 address (ipv6(7)) as the IPv4 address it stands for.
pub fn unmap(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(address: Address) {
        assert_eq!(Address::parse(&address.encode()), Ok(address));
    }

    #[test]
    fn addresses_survive_a_round_trip() {
        round_trip(Address::Unix(UnixName::Unnamed));
        round_trip(Address::Unix(UnixName::Path(b"/tmp/x".to_vec())));
        round_trip(Address::Unix(UnixName::Abstract(b"a\0b".to_vec())));
        round_trip(Address::Inet("127.0.0.1:80".parse().unwrap()));
        round_trip(Address::Inet("[::1]:80".parse().unwrap()));
        round_trip(Address::Netlink { port: 7, groups: 1 });
    }

    #[test]
    fn short_and_long_addresses_are_refused() {
        assert_eq!(Address::parse(&[1]), Err(Errno::EINVAL));
        assert_eq!(Address::parse(&[2, 0, 0, 80, 127, 0, 0, 1]), Err(Errno::EINVAL));
        let mut long = vec![1, 0];
        long.extend([b'x'; 109]);
        assert_eq!(Address::parse(&long), Err(Errno::EINVAL));
    }
}
