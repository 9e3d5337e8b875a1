//! NETLINK_SOCK_DIAG (sock_diag(7)): the sandbox's sockets, as ss(8) asks for them.

use super::message::{read_u32, Header, Message, Reply};
use crate::net::address::UnixName;
use crate::net::inet::{address, options, TcpSocket, UdpSocket, IPPROTO_TCP, IPPROTO_UDP, IPPROTO_UDPLITE};
use crate::net::socket::{Socket, SocketType};
use crate::net::unix::{self, UnixDatagram, UnixStream};
use crate::net::NetworkStack;
use crate::{Errno, Result};
use skerry_abi::raw::net as linux;
use std::net::{IpAddr, SocketAddr};

const SOCK_DIAG_BY_FAMILY: u16 = 20;
const AF_UNIX: u8 = linux::AF_UNIX as u8;
const AF_INET: u8 = linux::AF_INET as u8;
const AF_INET6: u8 = linux::AF_INET6 as u8;

/// Serves one request. ENOENT for families and protocols without a listing, on which ss(8) turns to /proc/net.
pub fn serve(network: &NetworkStack, header: &Header, payload: &[u8], reply: &mut Reply) -> Result<()> {
    if header.kind != SOCK_DIAG_BY_FAMILY {
        return Err(Errno::EINVAL);
    }
    let family = *payload.first().ok_or(Errno::EINVAL)?;
    match family {
        AF_INET | AF_INET6 => internet(network, header, family, payload, reply),
        AF_UNIX => unix_sockets(network, header, payload, reply),
        _ => Err(Errno::ENOENT),
    }
}

/// What is shown of an internet socket.
pub struct InternetSocket {
    pub state: u8,
    pub local: SocketAddr,
    pub peer: Option<SocketAddr>,
    pub receive_queue: u32,
    pub send_queue: u32,
    pub dropped: u32,
}

/// `None` where the socket is none of `protocol`'s, or not bound yet.
pub fn internet_socket(socket: &dyn Socket, protocol: u32) -> Option<InternetSocket> {
    if let (Some(tcp), IPPROTO_TCP) = (socket.as_any().downcast_ref::<TcpSocket>(), protocol) {
        let shown = tcp.diagnosis();
        (shown.local.port() != 0 && shown.state != crate::net::inet::tcp::TCP_CLOSE).then_some(InternetSocket {
            state: shown.state,
            local: shown.local,
            peer: shown.peer,
            receive_queue: shown.receive_queue,
            send_queue: shown.send_queue,
            dropped: 0,
        })
    } else if let (Some(udp), IPPROTO_UDP | IPPROTO_UDPLITE) =
        (socket.as_any().downcast_ref::<UdpSocket>().filter(|_| socket.common().protocol == protocol), protocol)
    {
        let shown = udp.diagnosis();
        (shown.local.port() != 0).then_some(InternetSocket {
            state: if shown.peer.is_some() { 1 } else { 7 },
            local: shown.local,
            peer: shown.peer,
            receive_queue: shown.receive_queue,
            send_queue: 0,
            dropped: shown.dropped,
        })
    } else {
        None
    }
}

/// 16 bytes of an address field of `struct inet_diag_sockid`.
fn address_field(domain: u32, address: SocketAddr) -> [u8; 16] {
    match address::presented(domain, address).ip() {
        IpAddr::V4(v4) => {
            let mut field = [0; 16];
            field[..4].copy_from_slice(&v4.octets());
            field
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// `struct inet_diag_sockid`.
fn socket_id(socket: &dyn Socket, shown: &InternetSocket) -> Vec<u8> {
    let domain = socket.common().domain();
    let peer = shown.peer.unwrap_or_else(|| address::unspecified(domain));
    let mut id = shown.local.port().to_be_bytes().to_vec();
    id.extend(peer.port().to_be_bytes());
    id.extend(address_field(domain, shown.local));
    id.extend(address_field(domain, peer));
    id.extend(0u32.to_ne_bytes());
    id.extend(socket.common().inode.to_ne_bytes());
    id
}

fn internet(network: &NetworkStack, header: &Header, family: u8, payload: &[u8], reply: &mut Reply) -> Result<()> {
    // struct inet_diag_req_v2: family, protocol, extensions, padding, states, id (48 bytes).
    let protocol = u32::from(*payload.get(1).ok_or(Errno::EINVAL)?);
    let extensions = *payload.get(2).ok_or(Errno::EINVAL)?;
    let states = read_u32(payload, 4).ok_or(Errno::EINVAL)?;
    let wanted = payload.get(8..56).ok_or(Errno::EINVAL)?;
    if protocol != IPPROTO_TCP && protocol != IPPROTO_UDP {
        return Err(Errno::ENOENT);
    }
    for socket in network.sockets() {
        if socket.common().domain() != u32::from(family) {
            continue;
        }
        let Some(shown) = internet_socket(socket.as_ref(), protocol) else { continue };
        let id = socket_id(socket.as_ref(), &shown);
        if header.is_dump() {
            if states & (1 << shown.state) == 0 {
                continue;
            }
        } else if id[..36] != wanted[..36] {
            continue;
        }
        reply.add(SOCK_DIAG_BY_FAMILY, internet_message(socket.as_ref(), &shown, &id, extensions));
        if !header.is_dump() {
            return Ok(());
        }
    }
    if header.is_dump() {
        Ok(())
    } else {
        Err(Errno::ENOENT)
    }
}

/// `struct inet_diag_msg` and the extensions that were asked for.
fn internet_message(socket: &dyn Socket, shown: &InternetSocket, id: &[u8], extensions: u8) -> Message {
    let common = socket.common();
    let mut fixed = vec![common.domain() as u8, shown.state, 0, 0];
    fixed.extend(id);
    for word in [0, shown.receive_queue, shown.send_queue, common.creator.user.uid, common.inode as u32] {
        fixed.extend(word.to_ne_bytes());
    }
    let asked = |extension: u8| extensions & (1 << (extension - 1)) != 0;
    let mut message = Message::new(&fixed);
    if asked(1) {
        // INET_DIAG_MEMINFO
        let words: Vec<u8> = [shown.receive_queue, 0, 0, 0].iter().flat_map(|word| word.to_ne_bytes()).collect();
        message = message.attribute(1, &words);
    }
    if common.kind == SocketType::Stream {
        if asked(2) {
            if let Ok(info) = socket.get_option(linux::SOL_TCP, linux::TCP_INFO, usize::MAX) {
                message = message.attribute(2, &info);
            }
        }
        if asked(4) {
            message = message.string(4, "cubic"); // INET_DIAG_CONG
        }
    }
    if asked(7) {
        // INET_DIAG_SKMEMINFO
        if let Ok(info) = crate::net::options::get(socket, linux::SO_MEMINFO, 36) {
            message = message.attribute(7, &info);
        }
    }
    message = message.u8(8, 0); // INET_DIAG_SHUTDOWN
    if common.domain() == linux::AF_INET6 {
        let only = options::families(common) == address::Families::V6Only;
        message = message.u8(11, only.into()); // INET_DIAG_SKV6ONLY
    }
    message
}

/// What is shown of a unix socket.
pub struct UnixShown {
    pub name: UnixName,
    pub state: u8,
    pub peer: Option<u64>,
    pub receive_queue: u32,
    pub send_queue: u32,
}

pub fn unix_socket(socket: &dyn Socket) -> Option<UnixShown> {
    let name = unix::named(socket)?.bound_name().get();
    let any = socket.as_any();
    if let Some(stream) = any.downcast_ref::<UnixStream>() {
        let (state, peer, receive_queue, send_queue) = stream.diagnosis();
        Some(UnixShown { name, state, peer, receive_queue, send_queue })
    } else {
        let (state, peer, receive_queue) = any.downcast_ref::<UnixDatagram>()?.diagnosis();
        Some(UnixShown { name, state, peer, receive_queue, send_queue: 0 })
    }
}

const SHOW_NAME: u32 = 1;
const SHOW_PEER: u32 = 4;
const SHOW_RQLEN: u32 = 0x10;
const SHOW_UID: u32 = 0x40;

fn unix_sockets(network: &NetworkStack, header: &Header, payload: &[u8], reply: &mut Reply) -> Result<()> {
    // struct unix_diag_req: family, protocol, padding, states, inode, show, cookie.
    let states = read_u32(payload, 4).ok_or(Errno::EINVAL)?;
    let wanted = read_u32(payload, 8).ok_or(Errno::EINVAL)?;
    let show = read_u32(payload, 12).ok_or(Errno::EINVAL)?;
    let mut found = false;
    for socket in network.sockets() {
        let Some(shown) = unix_socket(socket.as_ref()) else { continue };
        let common = socket.common();
        let listed = if header.is_dump() { states & (1 << shown.state) != 0 } else { common.inode == u64::from(wanted) };
        if !listed {
            continue;
        }
        found = true;
        let mut fixed = vec![AF_UNIX, common.kind as u8, shown.state, 0];
        fixed.extend((common.inode as u32).to_ne_bytes());
        fixed.extend(common.inode.to_ne_bytes());
        let mut message = Message::new(&fixed);
        if show & SHOW_NAME != 0 {
            match &shown.name {
                UnixName::Unnamed => {}
                UnixName::Path(path) => message = message.attribute(0, path),
                UnixName::Abstract(name) => message = message.attribute(0, &[&[0], name.as_slice()].concat()),
            }
        }
        if let (true, Some(peer)) = (show & SHOW_PEER != 0, shown.peer) {
            message = message.u32(2, peer as u32);
        }
        if show & SHOW_RQLEN != 0 {
            message = message.attribute(4, &[shown.receive_queue.to_ne_bytes(), shown.send_queue.to_ne_bytes()].concat());
        }
        message = message.u8(6, 0); // UNIX_DIAG_SHUTDOWN
        if show & SHOW_UID != 0 {
            message = message.u32(7, common.creator.user.uid);
        }
        reply.add(SOCK_DIAG_BY_FAMILY, message);
    }
    if found || header.is_dump() {
        Ok(())
    } else {
        Err(Errno::ENOENT)
    }
}
