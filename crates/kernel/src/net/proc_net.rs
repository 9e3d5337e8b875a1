//! The texts of /proc/net (proc_pid_net(5)).

use super::address::UnixName;
use super::inet::{interface, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE};
use super::netlink::diag::{internet_socket, unix_socket, InternetSocket};
use super::netlink::NetlinkSocket;
use super::{NetworkStack, Socket};
use crate::net::inet::address;
use skerry_abi::raw::net as linux;
use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// The files there are.
pub const NAMES: &[&str] = &[
    "arp",
    "dev",
    "dev_mcast",
    "fib_trie",
    "icmp",
    "icmp6",
    "if_inet6",
    "igmp",
    "igmp6",
    "ip6_flowlabel",
    "ipv6_route",
    "netlink",
    "netstat",
    "packet",
    "protocols",
    "psched",
    "ptype",
    "raw",
    "raw6",
    "route",
    "rt_cache",
    "snmp",
    "snmp6",
    "sockstat",
    "sockstat6",
    "tcp",
    "tcp6",
    "udp",
    "udp6",
    "udplite",
    "udplite6",
    "unix",
];

/// The text of /proc/net/`name`; `None` where there is no such file.
pub fn proc_net(network: &NetworkStack, name: &str) -> Option<String> {
    Some(match name {
        "tcp" => tcp(network, linux::AF_INET),
        "tcp6" => tcp(network, linux::AF_INET6),
        "udp" => udp(network, linux::AF_INET, IPPROTO_UDP),
        "udp6" => udp(network, linux::AF_INET6, IPPROTO_UDP),
        "udplite" => udp(network, linux::AF_INET, IPPROTO_UDPLITE),
        "udplite6" => udp(network, linux::AF_INET6, IPPROTO_UDPLITE),
        "raw" | "icmp" => udp_header(linux::AF_INET),
        "raw6" | "icmp6" => udp_header(linux::AF_INET6),
        "unix" => unix(network),
        "netlink" => netlink(network),
        "packet" => "sk       RefCnt Type Proto  Iface R Rmem   User   Inode\n".into(),
        "dev" => dev(network),
        "route" => format!("{:<127}\n", "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT"),
        "if_inet6" if network.has_loopback() => "00000000000000000000000000000001 01 80 10 80       lo\n".into(),
        "ipv6_route" if network.has_loopback() => ipv6_route(),
        "arp" => "IP address       HW type     Flags       HW address            Mask     Device\n".into(),
        "igmp" => igmp(network),
        "igmp6" if network.has_loopback() => "1    lo              ff020000000000000000000000000001     1 0000000C 0\n\
             1    lo              ff010000000000000000000000000001     1 00000008 0\n"
            .into(),
        "if_inet6" | "ipv6_route" | "igmp6" | "dev_mcast" | "rt_cache" | "fib_trie" | "snmp6" => String::new(),
        "ip6_flowlabel" => "Label S Owner  Users  Linger Expires  Dst                              Opt\n".into(),
        "psched" => "000003e8 00000040 000f4240 3b9aca00\n".into(),
        "ptype" => "Type Device      Function\n0800          ip_rcv\n86dd          ipv6_rcv\n".into(),
        "protocols" => protocols(network),
        "sockstat" => sockstat(network),
        "sockstat6" => sockstat6(network),
        "snmp" => snmp(),
        "netstat" => {
            "TcpExt: SyncookiesSent TCPTimeouts\nTcpExt: 0 0\nIpExt: InNoRoutes InOctets OutOctets\nIpExt: 0 0 0\n".into()
        }
        _ => return None,
    })
}

/// An address in the form of /proc/net/tcp: words in the machine's order, then the port.
fn endpoint(domain: u32, address: SocketAddr) -> String {
    let mut text = String::new();
    let octets = match address::presented(domain, address).ip() {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    for word in octets.chunks_exact(4) {
        let _ = write!(text, "{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]]));
    }
    let _ = write!(text, ":{:04X}", address.port());
    text
}

fn internet(network: &NetworkStack, domain: u32, protocol: u32) -> Vec<(Arc<dyn Socket>, InternetSocket)> {
    let of_domain = network.sockets().into_iter().filter(|socket| socket.common().domain() == domain);
    of_domain.filter_map(|socket| internet_socket(socket.as_ref(), protocol).map(|shown| (socket, shown))).collect()
}

/// The columns up to the inode, which TCP and UDP share.
fn columns(domain: u32, shown: &InternetSocket, uid: u32, inode: u64) -> String {
    let peer = shown.peer.unwrap_or_else(|| address::unspecified(domain));
    format!(
        "{} {} {:02X} {:08X}:{:08X} 00:00000000 00000000 {uid:5} {:8} {inode}",
        endpoint(domain, shown.local),
        endpoint(domain, peer),
        shown.state,
        if shown.state == super::inet::tcp::TCP_LISTEN { 0 } else { shown.send_queue },
        shown.receive_queue,
        0,
    )
}

fn tcp(network: &NetworkStack, domain: u32) -> String {
    let v6 = domain == linux::AF_INET6;
    let mut text = if v6 {
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when \
         retrnsmt   uid  timeout inode\n"
            .into()
    } else {
        format!("{:<149}\n", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode")
    };
    for (number, (socket, shown)) in internet(network, domain, IPPROTO_TCP).iter().enumerate() {
        let common = socket.common();
        let columns = columns(domain, shown, common.creator.user.uid, common.inode);
        let line = format!("{number:4}: {columns} 1 0000000000000000 100 0 0 10 0");
        let _ = if v6 { writeln!(text, "{line}") } else { writeln!(text, "{line:<149}") };
    }
    text
}

fn udp_header(domain: u32) -> String {
    if domain == linux::AF_INET6 {
        "  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when \
         retrnsmt   uid  timeout inode ref pointer drops\n"
            .into()
    } else {
        format!(
            "{:<127}\n",
            "   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops"
        )
    }
}

fn udp(network: &NetworkStack, domain: u32, protocol: u32) -> String {
    let mut text = udp_header(domain);
    for (socket, shown) in internet(network, domain, protocol) {
        let common = socket.common();
        let columns = columns(domain, &shown, common.creator.user.uid, common.inode);
        // Linux numbers the lines by hash bucket; the port is as good.
        let line = format!("{:5}: {columns} 2 0000000000000000 {}", shown.local.port(), shown.dropped);
        let _ = if domain == linux::AF_INET6 { writeln!(text, "{line}") } else { writeln!(text, "{line:<127}") };
    }
    text
}

fn unix(network: &NetworkStack) -> String {
    let mut text = String::from("Num       RefCount Protocol Flags    Type St Inode Path\n");
    for socket in network.sockets() {
        let Some(shown) = unix_socket(socket.as_ref()) else { continue };
        let common = socket.common();
        let listening = shown.state == 10;
        let _ = write!(
            text,
            "0000000000000000: {:08X} 00000000 {:08X} {:04X} {:02X} {:5}",
            2 + u32::from(shown.peer.is_some()),
            if listening { 0x10000 } else { 0 },
            common.kind as u32,
            if shown.peer.is_some() { 3 } else { 1 },
            common.inode,
        );
        match &shown.name {
            UnixName::Unnamed => {}
            UnixName::Path(path) => {
                let _ = write!(text, " {}", String::from_utf8_lossy(path));
            }
            UnixName::Abstract(name) => {
                let _ = write!(text, " @{}", String::from_utf8_lossy(name).replace('\0', "@"));
            }
        }
        text.push('\n');
    }
    text
}

fn netlink(network: &NetworkStack) -> String {
    let mut text = String::from("sk               Eth Pid        Groups   Rmem     Wmem     Dump  Locks    Drops    Inode\n");
    for socket in network.sockets() {
        let Some(netlink) = socket.as_any().downcast_ref::<NetlinkSocket>() else { continue };
        let (port, groups, queued) = netlink.diagnosis();
        let _ = writeln!(
            text,
            "0000000000000000 {:<3} {port:<10} {groups:08x} {queued:<8} {:<8} {:<5} {:<8} {:<8} {:<8}",
            socket.common().protocol,
            0,
            0,
            2,
            0,
            socket.common().inode,
        );
    }
    text
}

fn dev(network: &NetworkStack) -> String {
    let mut text = String::from(
        "Inter-|   Receive                                                |  Transmit\n \
         face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n",
    );
    if network.has_loopback() {
        let (bytes, packets) = network.passed_through();
        let name = interface::NAME;
        let _ = writeln!(
            text,
            "{name:>6}: {bytes:7} {packets:7} {0:4} {0:4} {0:4} {0:5} {0:10} {0:9} {bytes:8} {packets:7} {0:4} {0:4} {0:4} {0:5} {0:7} {0:10}",
            0
        );
    }
    text
}

fn ipv6_route() -> String {
    let own = "00000000000000000000000000000001";
    let none = "00000000000000000000000000000000";
    format!(
        "{own} 80 {none} 00 {none} 00000100 00000001 00000000 00000001       lo\n\
         {own} 80 {none} 00 {none} 00000000 00000002 00000000 80200001       lo\n\
         {none} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200       lo\n"
    )
}

fn igmp(network: &NetworkStack) -> String {
    let mut text = String::from("Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n");
    if network.has_loopback() {
        text.push_str("1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n");
    }
    text
}

fn count(network: &NetworkStack, domain: u32, kind: super::socket::SocketType) -> usize {
    network.sockets().iter().filter(|socket| socket.common().domain() == domain && socket.common().kind == kind).count()
}

fn sockstat(network: &NetworkStack) -> String {
    use super::socket::SocketType::{Datagram, Stream};
    let tcp = count(network, linux::AF_INET, Stream);
    format!(
        "sockets: used {}\nTCP: inuse {tcp} orphan 0 tw 0 alloc {} mem {}\nUDP: inuse {} mem 0\nUDPLITE: inuse 0\nRAW: inuse 0\n\
         FRAG: inuse 0 memory 0\n",
        network.sockets().len(),
        tcp + count(network, linux::AF_INET6, Stream),
        network.budget.used() / 4096,
        count(network, linux::AF_INET, Datagram),
    )
}

fn sockstat6(network: &NetworkStack) -> String {
    use super::socket::SocketType::{Datagram, Stream};
    format!(
        "TCP6: inuse {}\nUDP6: inuse {}\nUDPLITE6: inuse 0\nRAW6: inuse 0\nFRAG6: inuse 0 memory 0\n",
        count(network, linux::AF_INET6, Stream),
        count(network, linux::AF_INET6, Datagram),
    )
}

fn protocols(network: &NetworkStack) -> String {
    use super::socket::SocketType::{Datagram, Stream};
    let mut text = String::from(
        "protocol  size sockets  memory press maxhdr  slab module     cl co di ac io in de sh ss gs se re sp bi br ha uh gp em\n",
    );
    for (name, domain, kind) in [
        ("UDPv6", linux::AF_INET6, Datagram),
        ("TCPv6", linux::AF_INET6, Stream),
        ("UNIX", linux::AF_UNIX, Stream),
        ("UDP", linux::AF_INET, Datagram),
        ("TCP", linux::AF_INET, Stream),
    ] {
        let _ = writeln!(text, "{name:<9} 1024 {:6}      -1   NI       0   yes  kernel", count(network, domain, kind));
    }
    text
}

/// Counters of protocols that do not run: all that is said is the fixed part.
fn snmp() -> String {
    let zeros = |count: usize| vec!["0"; count].join(" ");
    format!(
        "Ip: Forwarding DefaultTTL InReceives InHdrErrors InAddrErrors ForwDatagrams InUnknownProtos InDiscards InDelivers \
         OutRequests OutDiscards OutNoRoutes ReasmTimeout ReasmReqds ReasmOKs ReasmFails FragOKs FragFails FragCreates\n\
         Ip: 2 64 {}\n\
         Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens PassiveOpens AttemptFails EstabResets CurrEstab InSegs OutSegs \
         RetransSegs InErrs OutRsts InCsumErrors\n\
         Tcp: 1 200 120000 -1 {}\n\
         Udp: InDatagrams NoPorts InErrors OutDatagrams RcvbufErrors SndbufErrors InCsumErrors IgnoredMulti MemErrors\n\
         Udp: {}\n",
        zeros(17),
        zeros(11),
        zeros(9)
    )
}

#[cfg(test)]
mod tests {
    use super::super::socket::{Caller, SocketType};
    use super::*;
    use crate::net::address::Address;
    use crate::task::Credentials;

    #[test]
    fn every_listed_file_has_a_text() {
        let network = NetworkStack::new();
        assert!(NAMES.iter().all(|name| proc_net(&network, name).is_some()));
        assert_eq!(proc_net(&network, "nothing"), None);
    }

    #[test]
    fn a_listener_is_shown_as_linux_shows_it() {
        let network = Arc::new(NetworkStack::new());
        let caller = Caller { pid: 1, credentials: Arc::new(Credentials::new(0, 0, Vec::new())), file_limit: 9 };
        let listener = crate::net::inet::create(&network, &caller, linux::AF_INET, SocketType::Stream, 0).unwrap();
        network.remember(&listener);
        listener.bind(&caller, &Address::Inet("127.0.0.1:8080".parse().unwrap())).unwrap();
        listener.listen(&caller, 5).unwrap();
        let text = proc_net(&network, "tcp").unwrap();
        let line = text.lines().nth(1).unwrap();
        assert!(line.starts_with(
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 20000 1 "
        ));
    }
}
