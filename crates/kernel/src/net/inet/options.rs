//! Options of the IP, IPv6 and TCP levels (ip(7), ipv6(7), tcp(7)). Most are only kept: lo loses, delays and reorders
//! nothing, and nobody looks at its headers.

use super::address::Families;
use super::interface;
use super::ports::Sharing;
use super::tcp::{Diagnosis, TCP_CLOSE};
use super::{IPPROTO_UDP, IPPROTO_UDPLITE};
use crate::net::options::integer;
use crate::net::socket::{Caller, Common};
use crate::task::credentials::{CAP_NET_ADMIN, CAP_NET_RAW};
use crate::{Errno, Result};
use skerry_abi::raw::net as linux;
use std::net::{Ipv4Addr, Ipv6Addr};

const SOL_IP: u32 = linux::SOL_IP;
const SOL_IPV6: u32 = linux::SOL_IPV6;
const SOL_TCP: u32 = linux::SOL_TCP;
/// What a stream's own tuning reaches; an explicit SO_SNDBUF counts as it is.
const TUNED_CAPACITY: usize = 1 << 20;
/// Memberships of one socket (net.ipv4.igmp_max_memberships).
const MAXIMUM_MEMBERSHIPS: usize = 20;
/// Where joined groups are kept among the options.
const MEMBERSHIPS: (u32, u32) = (SOL_IP, 0x1_0000);

pub fn families(common: &Common) -> Families {
    if common.domain() == linux::AF_INET {
        Families::V4
    } else if common.options.lock().kept_integer(SOL_IPV6, linux::IPV6_V6ONLY).unwrap_or(0) != 0 {
        Families::V6Only
    } else {
        Families::Both
    }
}

/// IPV6_ADDRFORM (ipv6(7)): makes an IPv4 socket of one that is connected to a mapped address.
pub fn become_ipv4(common: &Common, value: &[u8], peer: Option<std::net::SocketAddr>) -> Result<()> {
    if integer(value)? as u32 != linux::AF_INET {
        return Err(Errno::EINVAL);
    }
    match peer {
        None => Err(Errno::ENOTCONN),
        Some(peer) if families(common) != Families::Both || !peer.is_ipv4() => Err(Errno::EADDRNOTAVAIL),
        Some(_) => {
            common.set_domain(linux::AF_INET);
            Ok(())
        }
    }
}

pub fn sharing(common: &Common) -> Sharing {
    let options = common.options.lock();
    Sharing { reuse_address: options.reuse_address, reuse_port: options.reuse_port, uid: common.creator.user.uid }
}

/// Bytes that may be under way from a socket.
pub fn stream_capacity(common: &Common) -> usize {
    common.options.lock().send_buffer.min(TUNED_CAPACITY)
}

/// Whether an integer option is on.
pub fn is_on(common: &Common, level: u32, name: u32) -> bool {
    common.options.lock().kept_integer(level, name).unwrap_or(0) != 0
}

fn keep(common: &Common, level: u32, name: u32, value: i32) -> Result<()> {
    common.options.lock().keep_integer(level, name, value);
    Ok(())
}

fn keep_within(common: &Common, level: u32, name: u32, value: i32, range: std::ops::RangeInclusive<i32>) -> Result<()> {
    if range.contains(&value) {
        keep(common, level, name, value)
    } else {
        Err(Errno::EINVAL)
    }
}

/// setsockopt(2) with IPPROTO_TCP.
pub fn set_tcp(common: &Common, name: u32, value: &[u8]) -> Result<()> {
    match name {
        linux::TCP_CONGESTION => {
            let algorithm = value.split(|&byte| byte == 0).next().unwrap_or_default();
            if !matches!(algorithm, b"cubic" | b"reno") {
                return Err(Errno::ENOENT);
            }
            common.options.lock().kept.insert((SOL_TCP, name), algorithm.to_vec());
            return Ok(());
        }
        // No record layer (kTLS) is there to be attached.
        linux::TCP_ULP => return Err(Errno::ENOENT),
        linux::TCP_MD5SIG | linux::TCP_MD5SIG_EXT | linux::TCP_FASTOPEN_KEY => return Err(Errno::ENOPROTOOPT),
        linux::TCP_REPAIR
        | linux::TCP_REPAIR_QUEUE
        | linux::TCP_QUEUE_SEQ
        | linux::TCP_REPAIR_OPTIONS
        | linux::TCP_REPAIR_WINDOW => {
            return Err(Errno::EPERM);
        }
        _ => {}
    }
    let number = integer(value)?;
    match name {
        linux::TCP_NODELAY | linux::TCP_CORK | linux::TCP_THIN_LINEAR_TIMEOUTS | linux::TCP_THIN_DUPACK => {
            keep(common, SOL_TCP, name, i32::from(number != 0))
        }
        linux::TCP_MAXSEG if number == 0 => keep(common, SOL_TCP, name, 0),
        linux::TCP_MAXSEG => keep_within(common, SOL_TCP, name, number, 88..=32767),
        linux::TCP_KEEPIDLE | linux::TCP_KEEPINTVL => keep_within(common, SOL_TCP, name, number, 1..=32767),
        linux::TCP_KEEPCNT | linux::TCP_SYNCNT => keep_within(common, SOL_TCP, name, number, 1..=127),
        linux::TCP_LINGER2 => keep(common, SOL_TCP, name, number.clamp(-1, 120)),
        linux::TCP_USER_TIMEOUT | linux::TCP_FASTOPEN | linux::TCP_NOTSENT_LOWAT => {
            keep_within(common, SOL_TCP, name, number, 0..=i32::MAX)
        }
        linux::TCP_FASTOPEN_CONNECT | linux::TCP_FASTOPEN_NO_COOKIE | linux::TCP_INQ => {
            keep_within(common, SOL_TCP, name, number, 0..=1)
        }
        linux::TCP_DEFER_ACCEPT
        | linux::TCP_WINDOW_CLAMP
        | linux::TCP_QUICKACK
        | linux::TCP_SAVE_SYN
        | linux::TCP_TIMESTAMP
        | linux::TCP_TX_DELAY => keep(common, SOL_TCP, name, number),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// getsockopt(2) with IPPROTO_TCP.
pub fn get_tcp(common: &Common, name: u32, diagnosis: impl FnOnce() -> Diagnosis) -> Result<Vec<u8>> {
    let default = match name {
        linux::TCP_INFO => return Ok(tcp_info(&diagnosis())),
        linux::TCP_CONGESTION => {
            let mut value = common.options.lock().kept.get(&(SOL_TCP, name)).cloned().unwrap_or_else(|| b"cubic".to_vec());
            value.resize(16, 0);
            return Ok(value);
        }
        linux::TCP_MAXSEG if diagnosis().state == TCP_CLOSE => 536,
        linux::TCP_MAXSEG => 65_483,
        linux::TCP_KEEPIDLE => 7200,
        linux::TCP_KEEPINTVL => 75,
        linux::TCP_KEEPCNT => 9,
        linux::TCP_SYNCNT => 6,
        linux::TCP_LINGER2 => 60,
        linux::TCP_QUICKACK => 1,
        linux::TCP_NOTSENT_LOWAT => -1,
        linux::TCP_ULP | linux::TCP_CC_INFO => return Ok(Vec::new()),
        linux::TCP_NODELAY
        | linux::TCP_CORK
        | linux::TCP_THIN_LINEAR_TIMEOUTS
        | linux::TCP_THIN_DUPACK
        | linux::TCP_DEFER_ACCEPT
        | linux::TCP_WINDOW_CLAMP
        | linux::TCP_USER_TIMEOUT
        | linux::TCP_FASTOPEN
        | linux::TCP_FASTOPEN_CONNECT
        | linux::TCP_FASTOPEN_NO_COOKIE
        | linux::TCP_INQ
        | linux::TCP_SAVE_SYN
        | linux::TCP_TIMESTAMP
        | linux::TCP_TX_DELAY => 0,
        linux::TCP_REPAIR => return Err(Errno::EPERM),
        _ => return Err(Errno::ENOPROTOOPT),
    };
    let kept = common.options.lock().kept_integer(SOL_TCP, name).filter(|_| name != linux::TCP_MAXSEG);
    Ok(kept.unwrap_or(default).to_ne_bytes().to_vec())
}

/// `struct tcp_info` (linux/tcp.h): a connection without loss over a wire without length.
fn tcp_info(diagnosis: &Diagnosis) -> Vec<u8> {
    const SIZE: usize = 232;
    let mut info = vec![0u8; SIZE];
    let mut put = |offset: usize, value: u32| info[offset..offset + 4].copy_from_slice(&value.to_ne_bytes());
    put(0, diagnosis.state.into()); // tcpi_state; no retransmits
    put(4, 0x07 << 8 | 0x77 << 16); // tcpi_options: timestamps, SACK, window scale; both scales 7
    put(8, 201_000); // tcpi_rto, microseconds
    put(12, 40_000); // tcpi_ato
    put(16, 32_741); // tcpi_snd_mss
    put(20, 32_741); // tcpi_rcv_mss
    put(60, 65_535); // tcpi_pmtu
    put(64, 65_483); // tcpi_rcv_ssthresh
    put(68, 20); // tcpi_rtt, microseconds
    put(72, 10); // tcpi_rttvar
    put(76, i32::MAX as u32); // tcpi_snd_ssthresh
    put(80, 10); // tcpi_snd_cwnd
    put(84, 65_483); // tcpi_advmss
    put(88, 3); // tcpi_reordering
    put(96, 65_483); // tcpi_rcv_space
    info
}

/// IP options may be given as one byte.
fn integer_or_byte(value: &[u8]) -> Result<i32> {
    match value {
        [] => Err(Errno::EINVAL),
        [byte, ..] if value.len() < 4 => Ok((*byte).into()),
        _ => integer(value),
    }
}

/// setsockopt(2) with IPPROTO_IP, IPPROTO_IPV6 or IPPROTO_UDP.
pub fn set_ip(common: &Common, caller: &Caller, level: u32, name: u32, value: &[u8]) -> Result<()> {
    match level {
        // tcp(7): IPv4's options work on IPv6 sockets, too.
        SOL_IP => set_ipv4(common, caller, name, value),
        SOL_IPV6 if common.domain() == linux::AF_INET6 => set_ipv6(common, caller, name, value),
        linux::SOL_UDP if common.protocol == IPPROTO_UDP => set_udp(common, name, value),
        linux::SOL_UDPLITE if common.protocol == IPPROTO_UDPLITE => set_udplite(common, name, value),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

pub const UDP_CORK: u32 = 1;
const UDP_NO_CHECK6_TX: u32 = 101;
const UDP_NO_CHECK6_RX: u32 = 102;
const UDP_SEGMENT: u32 = 103;
const UDP_GRO: u32 = 104;

fn set_udp(common: &Common, name: u32, value: &[u8]) -> Result<()> {
    match name {
        UDP_CORK | UDP_NO_CHECK6_TX | UDP_NO_CHECK6_RX | UDP_GRO => {
            keep(common, linux::SOL_UDP, name, i32::from(integer(value)? != 0))
        }
        // Splitting of datagrams is not served: as on a Linux before 4.18.
        UDP_SEGMENT if integer(value)? == 0 => Ok(()),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// UDPLITE_SEND_CSCOV, UDPLITE_RECV_CSCOV (udplite(7)): no less than the header, or 0 for all.
fn set_udplite(common: &Common, name: u32, value: &[u8]) -> Result<()> {
    match (name, integer(value)?) {
        (10 | 11, covered @ (0 | 8..=65535)) => keep(common, linux::SOL_UDPLITE, name, covered),
        (10 | 11, _) => keep(common, linux::SOL_UDPLITE, name, 8),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn set_ipv4(common: &Common, caller: &Caller, name: u32, value: &[u8]) -> Result<()> {
    match name {
        linux::IP_ADD_MEMBERSHIP | linux::IP_DROP_MEMBERSHIP => {
            // struct ip_mreq (8 bytes) or ip_mreqn (12): group, address, index.
            if value.len() < 8 {
                return Err(Errno::EINVAL);
            }
            let group: [u8; 4] = value[..4].try_into().map_err(|_| Errno::EINVAL)?;
            if !Ipv4Addr::from(group).is_multicast() {
                return Err(Errno::EINVAL);
            }
            let index = value.get(8..12).map_or(Ok(0), integer)?;
            return membership(common, index, &group, name == linux::IP_ADD_MEMBERSHIP);
        }
        linux::MCAST_JOIN_GROUP | linux::MCAST_LEAVE_GROUP => {
            // struct group_req: index, padding, sockaddr_storage.
            let group: [u8; 4] = value.get(12..16).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
            if !Ipv4Addr::from(group).is_multicast() {
                return Err(Errno::EINVAL);
            }
            return membership(common, integer(value)?, &group, name == linux::MCAST_JOIN_GROUP);
        }
        linux::IP_ADD_SOURCE_MEMBERSHIP
        | linux::IP_DROP_SOURCE_MEMBERSHIP
        | linux::IP_BLOCK_SOURCE
        | linux::IP_UNBLOCK_SOURCE
        | linux::MCAST_JOIN_SOURCE_GROUP
        | linux::MCAST_LEAVE_SOURCE_GROUP
        | linux::MCAST_BLOCK_SOURCE
        | linux::MCAST_UNBLOCK_SOURCE => return if value.len() < 12 { Err(Errno::EINVAL) } else { Ok(()) },
        linux::IP_MULTICAST_IF => {
            if value.len() < 4 {
                return Err(Errno::EINVAL);
            }
            // struct in_addr, ip_mreq or ip_mreqn: what getsockopt gives back is the address.
            let address = if value.len() >= 8 { &value[4..8] } else { &value[..4] };
            let index = value.get(8..12).map_or(Ok(0), integer)?;
            if !(address == [0; 4] || address[0] == 127 || index == interface::INDEX as i32) {
                return Err(Errno::EADDRNOTAVAIL);
            }
            common.options.lock().kept.insert((SOL_IP, name), address.to_vec());
            return Ok(());
        }
        linux::IP_OPTIONS if value.is_empty() => return Ok(()),
        linux::IP_OPTIONS => return Err(Errno::EPERM),
        _ => {}
    }
    let number = integer_or_byte(value)?;
    match name {
        linux::IP_TOS => keep(common, SOL_IP, name, number & 0xff),
        linux::IP_TTL if number == -1 => keep(common, SOL_IP, name, 64),
        linux::IP_TTL => keep_within(common, SOL_IP, name, number, 1..=255),
        linux::IP_MULTICAST_TTL if number == -1 => keep(common, SOL_IP, name, 1),
        linux::IP_MULTICAST_TTL | linux::IP_MINTTL => keep_within(common, SOL_IP, name, number, 0..=255),
        linux::IP_MTU_DISCOVER => keep_within(common, SOL_IP, name, number, 0..=5),
        linux::IP_TRANSPARENT => {
            let allowed = caller.credentials.has_capability(CAP_NET_ADMIN) || caller.credentials.has_capability(CAP_NET_RAW);
            if number != 0 && !allowed {
                return Err(Errno::EPERM);
            }
            keep(common, SOL_IP, name, i32::from(number != 0))
        }
        linux::IP_PKTINFO
        | linux::IP_RECVTTL
        | linux::IP_RECVTOS
        | linux::IP_RECVOPTS
        | linux::IP_RETOPTS
        | linux::IP_RECVERR
        | linux::IP_FREEBIND
        | linux::IP_RECVORIGDSTADDR
        | linux::IP_MULTICAST_LOOP
        | linux::IP_MULTICAST_ALL
        | linux::IP_BIND_ADDRESS_NO_PORT
        | linux::IP_RECVFRAGSIZE
        | linux::IP_CHECKSUM
        | linux::IP_PASSSEC
        | linux::IP_RECVERR_RFC4884 => keep(common, SOL_IP, name, i32::from(number != 0)),
        linux::IP_UNICAST_IF | linux::IP_LOCAL_PORT_RANGE => keep(common, SOL_IP, name, number),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

fn set_ipv6(common: &Common, caller: &Caller, name: u32, value: &[u8]) -> Result<()> {
    match name {
        linux::IPV6_ADD_MEMBERSHIP | linux::IPV6_DROP_MEMBERSHIP => {
            // struct ipv6_mreq: group, index.
            let group: [u8; 16] = value.get(..16).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
            if !Ipv6Addr::from(group).is_multicast() {
                return Err(Errno::EINVAL);
            }
            let index = integer(value.get(16..).unwrap_or_default())?;
            return membership(common, index, &group, name == linux::IPV6_ADD_MEMBERSHIP);
        }
        linux::MCAST_JOIN_GROUP | linux::MCAST_LEAVE_GROUP => {
            let group: [u8; 16] = value.get(16..32).and_then(|bytes| bytes.try_into().ok()).ok_or(Errno::EINVAL)?;
            if !Ipv6Addr::from(group).is_multicast() {
                return Err(Errno::EINVAL);
            }
            return membership(common, integer(value)?, &group, name == linux::MCAST_JOIN_GROUP);
        }
        linux::MCAST_JOIN_SOURCE_GROUP
        | linux::MCAST_LEAVE_SOURCE_GROUP
        | linux::MCAST_BLOCK_SOURCE
        | linux::MCAST_UNBLOCK_SOURCE => {
            return Ok(());
        }
        linux::IPV6_PKTINFO | linux::IPV6_HOPOPTS | linux::IPV6_RTHDR | linux::IPV6_DSTOPTS | linux::IPV6_RTHDRDSTOPTS => {
            return Ok(());
        }
        _ => {}
    }
    let number = integer(value)?;
    match name {
        linux::IPV6_UNICAST_HOPS if number == -1 => keep(common, SOL_IPV6, name, 64),
        linux::IPV6_UNICAST_HOPS => keep_within(common, SOL_IPV6, name, number, 0..=255),
        linux::IPV6_MULTICAST_HOPS if number == -1 => keep(common, SOL_IPV6, name, 1),
        linux::IPV6_MULTICAST_HOPS | linux::IPV6_MINHOPCOUNT => keep_within(common, SOL_IPV6, name, number, 0..=255),
        linux::IPV6_TCLASS if number == -1 => keep(common, SOL_IPV6, name, 0),
        linux::IPV6_TCLASS => keep_within(common, SOL_IPV6, name, number, 0..=255),
        linux::IPV6_MTU_DISCOVER => keep_within(common, SOL_IPV6, name, number, 0..=5),
        linux::IPV6_MULTICAST_IF | linux::IPV6_UNICAST_IF => {
            let index = if name == linux::IPV6_UNICAST_IF { i32::from_be(number) } else { number };
            if index != 0 && index != interface::INDEX as i32 {
                return Err(Errno::ENODEV);
            }
            keep(common, SOL_IPV6, name, number)
        }
        linux::IPV6_TRANSPARENT => {
            if number != 0 && !caller.credentials.has_capability(CAP_NET_ADMIN) {
                return Err(Errno::EPERM);
            }
            keep(common, SOL_IPV6, name, i32::from(number != 0))
        }
        linux::IPV6_V6ONLY
        | linux::IPV6_RECVPKTINFO
        | linux::IPV6_2292PKTINFO
        | linux::IPV6_RECVHOPLIMIT
        | linux::IPV6_2292HOPLIMIT
        | linux::IPV6_RECVTCLASS
        | linux::IPV6_RECVRTHDR
        | linux::IPV6_RECVHOPOPTS
        | linux::IPV6_RECVDSTOPTS
        | linux::IPV6_RECVERR
        | linux::IPV6_RECVPATHMTU
        | linux::IPV6_RECVORIGDSTADDR
        | linux::IPV6_RECVFRAGSIZE
        | linux::IPV6_DONTFRAG
        | linux::IPV6_MULTICAST_LOOP
        | linux::IPV6_MULTICAST_ALL
        | linux::IPV6_FREEBIND
        | linux::IPV6_AUTOFLOWLABEL
        | linux::IPV6_FLOWINFO_SEND
        | linux::IPV6_RECVERR_RFC4884 => keep(common, SOL_IPV6, name, i32::from(number != 0)),
        linux::IPV6_ADDR_PREFERENCES => keep(common, SOL_IPV6, name, number),
        linux::IPV6_MTU => keep_within(common, SOL_IPV6, name, number, 1280..=i32::MAX),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// Joins or leaves a group. Nothing multicasts in a sandbox; that one is a member is remembered all the same.
fn membership(common: &Common, index: i32, group: &[u8], join: bool) -> Result<()> {
    if index != 0 && index != interface::INDEX as i32 || !common.network.has_loopback() {
        return Err(Errno::ENODEV);
    }
    let mut options = common.options.lock();
    let joined = options.kept.entry(MEMBERSHIPS).or_default();
    // Each is kept in 16 bytes.
    let mut entry = [0u8; 16];
    entry[16 - group.len()..].copy_from_slice(group);
    let position = joined.chunks_exact(16).position(|present| present == entry);
    match (join, position) {
        (true, Some(_)) => Err(Errno::EADDRINUSE),
        (true, None) if joined.len() / 16 >= MAXIMUM_MEMBERSHIPS => Err(Errno::ENOBUFS),
        (true, None) => {
            joined.extend(entry);
            Ok(())
        }
        (false, Some(position)) => {
            joined.drain(position * 16..position * 16 + 16);
            Ok(())
        }
        (false, None) => Err(Errno::EADDRNOTAVAIL),
    }
}

/// getsockopt(2) with IPPROTO_IP, IPPROTO_IPV6 or IPPROTO_UDP.
pub fn get_ip(common: &Common, level: u32, name: u32, connected: bool) -> Result<Vec<u8>> {
    let default = match level {
        SOL_IP => match name {
            linux::IP_TTL => 64,
            linux::IP_MULTICAST_TTL | linux::IP_MULTICAST_LOOP | linux::IP_MULTICAST_ALL | linux::IP_MTU_DISCOVER => 1,
            linux::IP_MTU if connected => interface::MTU as i32,
            linux::IP_MTU => return Err(Errno::ENOTCONN),
            linux::IP_MULTICAST_IF => {
                let kept = common.options.lock().kept.get(&(SOL_IP, name)).cloned();
                return Ok(kept.unwrap_or_else(|| vec![0; 4]));
            }
            linux::IP_OPTIONS => return Ok(Vec::new()),
            linux::IP_PROTOCOL => common.protocol as i32,
            linux::IP_TOS
            | linux::IP_MINTTL
            | linux::IP_TRANSPARENT
            | linux::IP_PKTINFO
            | linux::IP_RECVTTL
            | linux::IP_RECVTOS
            | linux::IP_RECVOPTS
            | linux::IP_RETOPTS
            | linux::IP_RECVERR
            | linux::IP_FREEBIND
            | linux::IP_RECVORIGDSTADDR
            | linux::IP_BIND_ADDRESS_NO_PORT
            | linux::IP_RECVFRAGSIZE
            | linux::IP_CHECKSUM
            | linux::IP_PASSSEC
            | linux::IP_RECVERR_RFC4884
            | linux::IP_UNICAST_IF
            | linux::IP_LOCAL_PORT_RANGE => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        },
        SOL_IPV6 if common.domain() == linux::AF_INET6 => match name {
            linux::IPV6_UNICAST_HOPS => 64,
            linux::IPV6_MULTICAST_HOPS | linux::IPV6_MULTICAST_LOOP | linux::IPV6_MULTICAST_ALL | linux::IPV6_MTU_DISCOVER => 1,
            linux::IPV6_AUTOFLOWLABEL => 1,
            linux::IPV6_MTU if connected => interface::MTU as i32,
            linux::IPV6_MTU => return Err(Errno::ENOTCONN),
            linux::IPV6_V6ONLY
            | linux::IPV6_TCLASS
            | linux::IPV6_MINHOPCOUNT
            | linux::IPV6_MULTICAST_IF
            | linux::IPV6_UNICAST_IF
            | linux::IPV6_TRANSPARENT
            | linux::IPV6_RECVPKTINFO
            | linux::IPV6_RECVHOPLIMIT
            | linux::IPV6_RECVTCLASS
            | linux::IPV6_RECVRTHDR
            | linux::IPV6_RECVHOPOPTS
            | linux::IPV6_RECVDSTOPTS
            | linux::IPV6_RECVERR
            | linux::IPV6_RECVPATHMTU
            | linux::IPV6_RECVORIGDSTADDR
            | linux::IPV6_RECVFRAGSIZE
            | linux::IPV6_DONTFRAG
            | linux::IPV6_FREEBIND
            | linux::IPV6_FLOWINFO_SEND
            | linux::IPV6_ADDR_PREFERENCES
            | linux::IPV6_RECVERR_RFC4884 => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        },
        linux::SOL_UDPLITE if common.protocol == IPPROTO_UDPLITE && matches!(name, 10 | 11) => 0,
        linux::SOL_UDP if common.protocol == IPPROTO_UDP => match name {
            UDP_CORK | UDP_NO_CHECK6_TX | UDP_NO_CHECK6_RX | UDP_SEGMENT | UDP_GRO => 0,
            _ => return Err(Errno::ENOPROTOOPT),
        },
        _ => return Err(Errno::EOPNOTSUPP),
    };
    let kept = common.options.lock().kept_integer(level, name);
    Ok(kept.unwrap_or(default).to_ne_bytes().to_vec())
}
