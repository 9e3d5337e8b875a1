//! NETLINK_ROUTE (rtnetlink(7)): lo, its addresses and routes. There is nothing to change.

use super::message::{attributes, read_u32, Header, Message, Reply};
use crate::net::inet::interface;
use crate::net::{Caller, NetworkStack};
use crate::task::credentials::CAP_NET_ADMIN;
use crate::{Errno, Result};
use skerry_abi::raw::net as linux;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
const RTM_NEWQDISC: u16 = 36;
const RTM_GETQDISC: u16 = 38;
const RTM_GETTCLASS: u16 = 42;
const RTM_GETTFILTER: u16 = 46;
const RTM_GETMULTICAST: u16 = 58;
const RTM_GETANYCAST: u16 = 62;
const RTM_GETNEIGHTBL: u16 = 66;
const RTM_GETADDRLABEL: u16 = 74;
const RTM_NEWNSID: u16 = 88;
const RTM_GETNSID: u16 = 90;
/// Types come in fours: new, delete, get, set.
const KIND_GET: u16 = 2;

const IFLA_IFNAME: u16 = 3;
const IFLA_ALT_IFNAME: u16 = 53;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_PRIORITY: u16 = 6;
const RTA_PREFSRC: u16 = 7;
const RTA_CACHEINFO: u16 = 12;
const RTA_TABLE: u16 = 15;
const RTA_PREF: u16 = 20;
const RT_TABLE_DEFAULT: u8 = 253;
const RT_TABLE_MAIN: u8 = 254;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_HOST: u8 = 254;
const RT_SCOPE_LINK: u8 = 253;
const RTPROT_KERNEL: u8 = 2;
const RTN_UNICAST: u8 = 1;
const RTN_LOCAL: u8 = 2;
const RTN_BROADCAST: u8 = 3;
const RTM_F_CLONED: u32 = 0x200;
const IFA_F_PERMANENT: u32 = 0x80;

const AF_INET: u8 = linux::AF_INET as u8;
const AF_INET6: u8 = linux::AF_INET6 as u8;

/// Serves one request.
pub fn serve(
    network: &NetworkStack,
    caller: &Caller,
    header: &Header,
    payload: &[u8],
    strict: bool,
    reply: &mut Reply,
) -> Result<()> {
    if header.kind & 3 != KIND_GET {
        return change(network, caller, header, payload);
    }
    let family = payload.first().copied().unwrap_or(0);
    if !header.is_dump() {
        return single(network, header.kind, family, payload, reply);
    }
    match header.kind {
        RTM_GETLINK => {
            if network.has_loopback() {
                reply.add(RTM_NEWLINK, link(network));
            }
        }
        RTM_GETADDR => {
            let index = if strict { read_u32(payload, 4).unwrap_or(0) } else { 0 };
            if network.has_loopback() && (index == 0 || index == interface::INDEX) {
                for wanted in [AF_INET, AF_INET6] {
                    if family == 0 || family == wanted {
                        reply.add(RTM_NEWADDR, address(wanted));
                    }
                }
            }
        }
        RTM_GETROUTE => {
            let table = if strict { payload.get(4).copied().unwrap_or(0) } else { 0 };
            if network.has_loopback() {
                for route in routes().into_iter().filter(|route| family == 0 || family == route.family) {
                    if table == 0 || table == route.table {
                        reply.add(RTM_NEWROUTE, route.message());
                    }
                }
            }
        }
        RTM_GETRULE => rules(family, reply),
        RTM_GETQDISC => {
            if network.has_loopback() {
                reply.add(RTM_NEWQDISC, qdisc());
            }
        }
        RTM_GETNEIGH | RTM_GETTCLASS | RTM_GETTFILTER | RTM_GETMULTICAST | RTM_GETANYCAST | RTM_GETNEIGHTBL
        | RTM_GETADDRLABEL | RTM_GETNSID => {}
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(())
}

fn single(network: &NetworkStack, kind: u16, family: u8, payload: &[u8], reply: &mut Reply) -> Result<()> {
    match kind {
        RTM_GETLINK => {
            check_link(network, payload)?;
            reply.add(RTM_NEWLINK, link(network));
            Ok(())
        }
        RTM_GETADDR => match attributes(payload.get(8..).unwrap_or_default()).find(|(kind, _)| *kind == 1 || *kind == 2) {
            Some((_, value)) if family == AF_INET6 && value == Ipv6Addr::LOCALHOST.octets() && network.has_loopback() => {
                reply.add(RTM_NEWADDR, address(AF_INET6));
                Ok(())
            }
            Some(_) if family == AF_INET6 => Err(Errno::EADDRNOTAVAIL),
            _ => Err(Errno::EOPNOTSUPP),
        },
        RTM_GETROUTE => route_to(network, family, payload.get(12..).unwrap_or_default(), reply),
        RTM_GETNSID => {
            // NETNSA_NSID: none has been given.
            reply.add(RTM_NEWNSID, Message::new(&[0; 4]).u32(1, u32::MAX));
            Ok(())
        }
        RTM_GETNEIGH => Err(Errno::ENOENT),
        RTM_GETQDISC => {
            reply.add(RTM_NEWQDISC, qdisc());
            Ok(())
        }
        _ => Err(Errno::EOPNOTSUPP),
    }
}

/// ENODEV where the request (`struct ifinfomsg`) is not about lo; EINVAL where it is about nothing.
fn check_link(network: &NetworkStack, payload: &[u8]) -> Result<()> {
    let index = read_u32(payload, 4).ok_or(Errno::EINVAL)?;
    let name = attributes(payload.get(16..).unwrap_or_default())
        .find(|(kind, _)| matches!(*kind, IFLA_IFNAME | IFLA_ALT_IFNAME))
        .map(|(_, value)| value.split(|&byte| byte == 0).next().unwrap_or_default());
    let ours = match (index, name) {
        (0, None) => return Err(Errno::EINVAL),
        (0, Some(name)) => name == interface::NAME.as_bytes(),
        (index, _) => index == interface::INDEX,
    };
    if ours && network.has_loopback() {
        Ok(())
    } else {
        Err(Errno::ENODEV)
    }
}

/// `ip link set lo up` changes nothing and so succeeds; all else is not allowed.
fn change(network: &NetworkStack, caller: &Caller, header: &Header, payload: &[u8]) -> Result<()> {
    if !caller.credentials.has_capability(CAP_NET_ADMIN) {
        return Err(Errno::EPERM);
    }
    if !matches!(header.kind, RTM_NEWLINK | RTM_SETLINK) {
        return Err(Errno::EPERM);
    }
    check_link(network, payload)?;
    let (flags, changed) = (read_u32(payload, 8).unwrap_or(0), read_u32(payload, 12).unwrap_or(0));
    let only_name = attributes(payload.get(16..).unwrap_or_default()).all(|(kind, _)| kind == IFLA_IFNAME);
    if only_name && changed & !interface::FLAG_UP == 0 && (changed == 0 || flags & interface::FLAG_UP != 0) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// `struct ifinfomsg` and attributes of lo.
fn link(network: &NetworkStack) -> Message {
    let mut fixed = vec![0, 0];
    fixed.extend(interface::HARDWARE_TYPE.to_ne_bytes());
    fixed.extend(interface::INDEX.to_ne_bytes());
    // IFF_LOWER_UP beside the flags that netdevice(7) shows.
    fixed.extend((interface::FLAGS | 0x10000).to_ne_bytes());
    fixed.extend(0u32.to_ne_bytes());
    let (bytes, packets) = network.passed_through();
    // struct rtnl_link_stats64: packets and bytes received and sent, then 20 counters of what went wrong.
    let mut counters = [0u64; 24];
    counters[..4].copy_from_slice(&[packets, packets, bytes, bytes]);
    let wide: Vec<u8> = counters.iter().flat_map(|counter| counter.to_ne_bytes()).collect();
    let narrow: Vec<u8> = counters.iter().flat_map(|counter| (*counter as u32).to_ne_bytes()).collect();
    Message::new(&fixed)
        .string(IFLA_IFNAME, interface::NAME)
        .u32(13, 1000) // IFLA_TXQLEN
        .u8(16, 0) // IFLA_OPERSTATE: unknown
        .u8(17, 0) // IFLA_LINKMODE
        .u32(4, interface::MTU)
        .u32(50, 0) // IFLA_MIN_MTU
        .u32(51, 0) // IFLA_MAX_MTU
        .u32(27, 0) // IFLA_GROUP
        .u32(30, 0) // IFLA_PROMISCUITY
        .u32(31, 1) // IFLA_NUM_TX_QUEUES
        .u32(32, 1) // IFLA_NUM_RX_QUEUES
        .u8(33, 1) // IFLA_CARRIER
        .string(6, "noqueue") // IFLA_QDISC
        .u32(35, 0) // IFLA_CARRIER_CHANGES
        .attribute(1, &[0; 6]) // IFLA_ADDRESS
        .attribute(2, &[0; 6]) // IFLA_BROADCAST
        .attribute(23, &wide) // IFLA_STATS64
        .attribute(7, &narrow) // IFLA_STATS
}

/// `struct ifaddrmsg` and attributes of lo's address of a family.
fn address(family: u8) -> Message {
    let prefix = if family == AF_INET { 8 } else { 128 };
    let mut fixed = vec![family, prefix, IFA_F_PERMANENT as u8, RT_SCOPE_HOST];
    fixed.extend(interface::INDEX.to_ne_bytes());
    // struct ifa_cacheinfo: preferred and valid for ever; no times.
    let mut cache = [0xff; 16];
    cache[8..].fill(0);
    let message = Message::new(&fixed);
    let message = if family == AF_INET {
        let own = Ipv4Addr::LOCALHOST.octets();
        message.attribute(1, &own).attribute(2, &own).string(3, interface::NAME)
    } else {
        message.attribute(1, &Ipv6Addr::LOCALHOST.octets())
    };
    message.attribute(6, &cache).u32(8, IFA_F_PERMANENT)
}

/// A route, as Linux makes it for lo.
struct Route {
    family: u8,
    destination: Vec<u8>,
    prefix: u8,
    table: u8,
    kind: u8,
    scope: u8,
    priority: Option<u32>,
    flags: u32,
}

impl Route {
    fn message(&self) -> Message {
        let mut fixed = vec![self.family, self.prefix, 0, 0, self.table, RTPROT_KERNEL, self.scope, self.kind];
        fixed.extend(self.flags.to_ne_bytes());
        let mut message = Message::new(&fixed).u32(RTA_TABLE, self.table.into()).attribute(RTA_DST, &self.destination);
        if let Some(priority) = self.priority {
            message = message.u32(RTA_PRIORITY, priority);
        }
        if self.family == AF_INET {
            message = message.attribute(RTA_PREFSRC, &Ipv4Addr::LOCALHOST.octets());
        }
        message = message.u32(RTA_OIF, interface::INDEX);
        if self.family == AF_INET6 {
            message = message.attribute(RTA_CACHEINFO, &[0; 32]).u8(RTA_PREF, 0);
        }
        message
    }
}

fn routes() -> Vec<Route> {
    let v4 = |destination: [u8; 4], prefix, kind, scope| Route {
        family: AF_INET,
        destination: destination.to_vec(),
        prefix,
        table: RT_TABLE_LOCAL,
        kind,
        scope,
        priority: None,
        flags: 0,
    };
    let v6 = |table, kind, priority| Route {
        family: AF_INET6,
        destination: Ipv6Addr::LOCALHOST.octets().to_vec(),
        prefix: 128,
        table,
        kind,
        scope: 0,
        priority: Some(priority),
        flags: 0,
    };
    vec![
        v4([127, 0, 0, 0], 8, RTN_LOCAL, RT_SCOPE_HOST),
        v4([127, 0, 0, 1], 32, RTN_LOCAL, RT_SCOPE_HOST),
        v4([127, 255, 255, 255], 32, RTN_BROADCAST, RT_SCOPE_LINK),
        v6(RT_TABLE_MAIN, RTN_UNICAST, 256),
        v6(RT_TABLE_LOCAL, RTN_LOCAL, 0),
    ]
}

/// `ip route get`: the route that a packet would take. ENETUNREACH.
fn route_to(network: &NetworkStack, family: u8, request: &[u8], reply: &mut Reply) -> Result<()> {
    let destination = attributes(request).find(|(kind, _)| *kind == RTA_DST).map(|(_, value)| value);
    let (address, octets): (IpAddr, Vec<u8>) = match (family, destination) {
        (AF_INET, value) => {
            let octets: [u8; 4] = value.unwrap_or(&[0; 4]).try_into().map_err(|_| Errno::EINVAL)?;
            (IpAddr::from(octets), octets.to_vec())
        }
        (AF_INET6, value) => {
            let octets: [u8; 16] = value.unwrap_or(&[0; 16]).try_into().map_err(|_| Errno::EINVAL)?;
            (IpAddr::from(octets), octets.to_vec())
        }
        _ => return Err(Errno::EOPNOTSUPP),
    };
    if !network.has_loopback() || !(address.is_loopback() || address.is_unspecified()) {
        return Err(Errno::ENETUNREACH);
    }
    let route = Route {
        family,
        prefix: if family == AF_INET { 32 } else { 128 },
        destination: octets,
        table: RT_TABLE_LOCAL,
        kind: RTN_LOCAL,
        scope: 0,
        priority: (family == AF_INET6).then_some(0),
        flags: if family == AF_INET { RTM_F_CLONED } else { 0 },
    };
    reply.add(RTM_NEWROUTE, route.message());
    Ok(())
}

/// `struct fib_rule_hdr`: the three rules that Linux begins with (two for IPv6).
fn rules(family: u8, reply: &mut Reply) {
    for wanted in [AF_INET, AF_INET6] {
        if family != 0 && family != wanted {
            continue;
        }
        for (priority, table) in [(0u32, RT_TABLE_LOCAL), (32766, RT_TABLE_MAIN), (32767, RT_TABLE_DEFAULT)] {
            if wanted == AF_INET6 && table == RT_TABLE_DEFAULT {
                continue;
            }
            let mut fixed = vec![wanted, 0, 0, 0, table, 0, 0, 1]; // FR_ACT_TO_TBL
            fixed.extend(0u32.to_ne_bytes());
            let mut message = Message::new(&fixed).u32(15, table.into()).u32(14, u32::MAX).u8(21, RTPROT_KERNEL);
            if priority != 0 {
                message = message.u32(6, priority);
            }
            reply.add(RTM_NEWRULE, message);
        }
    }
}

/// `struct tcmsg`: lo queues nothing.
fn qdisc() -> Message {
    let mut fixed = vec![0; 4];
    fixed.extend(interface::INDEX.to_ne_bytes());
    fixed.extend(0u32.to_ne_bytes());
    fixed.extend(u32::MAX.to_ne_bytes()); // TC_H_ROOT
    fixed.extend(2u32.to_ne_bytes());
    Message::new(&fixed).string(1, "noqueue") // TCA_KIND
}
