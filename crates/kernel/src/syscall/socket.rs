//! Sockets (socket(2) and its family). How messages are moved is in [`message`]; what the calls mean is in [`crate::net`].

mod message;

pub(super) use message::{read, write};
pub use message::{recvfrom, recvmmsg, recvmsg, sendmmsg, sendmsg, sendto};

use super::UserAddress;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::net::address::{Address, UnixName, STORAGE_SIZE};
use crate::net::options;
use crate::net::socket::{Caller, Destination, Socket, SocketFile, SocketType};
use crate::net::{inet, netlink, unix};
use crate::policy::{self, Direction};
use crate::{Context, Errno, Result};
use skerry_abi::raw::net as linux;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SOCK_NONBLOCK: i32 = 0o4000;
const SOCK_CLOEXEC: i32 = 0o2000000;
/// The longest option value that is read.
const OPTION_SIZE: usize = 4096;

/// Status flags and close-on-exec, from SOCK_NONBLOCK and SOCK_CLOEXEC. EINVAL on others.
fn creation_flags(flags: i32) -> Result<(StatusFlags, bool)> {
    if flags & !(SOCK_NONBLOCK | SOCK_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    let status = if flags & SOCK_NONBLOCK != 0 { StatusFlags::NONBLOCK } else { StatusFlags::empty() };
    Ok((status, flags & SOCK_CLOEXEC != 0))
}

fn socket_type(kind: i32) -> Result<SocketType> {
    match kind as u32 & 0xf {
        linux::SOCK_STREAM => Ok(SocketType::Stream),
        linux::SOCK_DGRAM => Ok(SocketType::Datagram),
        linux::SOCK_RAW => Ok(SocketType::Raw),
        linux::SOCK_SEQPACKET => Ok(SocketType::SequencedPacket),
        // SOCK_RDM, SOCK_DCCP, SOCK_PACKET.
        4 | 6 | 10 => Err(Errno::ESOCKTNOSUPPORT),
        _ => Err(Errno::EINVAL),
    }
}

/// The socket behind a descriptor. EBADF, ENOTSOCK.
fn socket_of(context: &Context, fd: i32) -> Result<(Arc<OpenFile>, Arc<dyn Socket>)> {
    let file = context.file(fd)?;
    let socket = file.downcast::<SocketFile>().ok_or(Errno::ENOTSOCK)?.socket.clone();
    Ok((file, socket))
}

/// Reads an address's bytes. EINVAL where the length is impossible.
fn read_address(context: &Context, address: UserAddress, length: i32) -> Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|&length| length <= STORAGE_SIZE).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0; length];
    context.read_bytes(address.0, &mut bytes)?;
    Ok(bytes)
}

/// Writes an address as far as there is room, and its true length.
fn write_address(context: &Context, bytes: &[u8], address: UserAddress, length_at: UserAddress) -> Result<()> {
    let room: i32 = context.read(length_at.0)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    context.write_bytes(address.0, &bytes[..room.min(bytes.len())])?;
    context.write(length_at.0, &(bytes.len() as u32))
}

/// What `address` leads to for `socket`.
fn destination(context: &Context, socket: &dyn Socket, address: Address) -> Result<Destination> {
    if socket.common().domain() != linux::AF_UNIX {
        policy::allows_endpoint(context.kernel(), socket, &address, Direction::To)?;
        return Ok(Destination::plain(address));
    }
    let unix = match &address {
        Address::Unix(UnixName::Path(path)) => unix::tree::find(context, path)?,
        Address::Unix(UnixName::Abstract(name)) => socket.common().network.unix_names.find(name)?,
        Address::Unspecified => return Ok(Destination::plain(address)),
        _ => return Err(Errno::EINVAL),
    };
    Ok(Destination { address, unix: Some(unix) })
}

/// Makes `attempt` until it gives something other than EAGAIN, unless the file or the call is nonblocking, or the
/// socket's timeout is over (then EAGAIN, too).
fn attempt<T>(context: &Context, socket: &dyn Socket, blocking: Blocking, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let timeout = match blocking {
        Blocking::Never => return attempt(),
        Blocking::Forever => None,
        Blocking::For(timeout) => Some(timeout),
    };
    match attempt() {
        Err(Errno::EAGAIN) => {}
        result => return result,
    }
    let deadline = timeout.map(|timeout| Instant::now() + timeout.min(Duration::from_secs(1 << 32)));
    match context.block_on(&socket.common().queue, deadline, attempt) {
        Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
        // socket(7): with a timeout, an interrupted call is never restarted.
        Err(Errno::ERESTARTSYS) if timeout.is_some() => Err(Errno::EINTR),
        result => result,
    }
}

/// How long a call may block.
#[derive(Clone, Copy)]
enum Blocking {
    Never,
    Forever,
    For(Duration),
}

impl Blocking {
    fn new(nonblocking: bool, timeout: Option<Duration>) -> Blocking {
        match (nonblocking, timeout) {
            (true, _) => Blocking::Never,
            (false, None) => Blocking::Forever,
            (false, Some(timeout)) => Blocking::For(timeout),
        }
    }
}

/// socket(2).
pub fn socket(context: &mut Context, domain: i32, kind: i32, protocol: i32) -> Result<i32> {
    let (flags, close_on_exec) = creation_flags(kind & !0xf)?;
    let domain = u32::try_from(domain).map_err(|_| Errno::EAFNOSUPPORT)?;
    let protocol = u32::try_from(protocol).map_err(|_| Errno::EINVAL)?;
    let network = &context.kernel().net;
    network.set_loopback(context.kernel().network);
    let caller = Caller::of(context);
    let socket = match domain {
        linux::AF_UNIX => unix::create(network, &caller, socket_type(kind)?, protocol)?,
        linux::AF_INET | linux::AF_INET6 => inet::create(network, &caller, domain, socket_type(kind)?, protocol)?,
        linux::AF_NETLINK => netlink::create(network, &caller, socket_type(kind)?, protocol)?,
        // Frames of the link layer are nothing that a sandbox gets (packet(7): EPERM without CAP_NET_RAW).
        linux::AF_PACKET => return Err(Errno::EPERM),
        _ => return Err(Errno::EAFNOSUPPORT),
    };
    context.install(SocketFile::open(socket, flags), close_on_exec)
}

/// socketpair(2).
pub fn socketpair(context: &mut Context, domain: i32, kind: i32, protocol: i32, descriptors: UserAddress) -> Result<()> {
    let (flags, close_on_exec) = creation_flags(kind & !0xf)?;
    let protocol = u32::try_from(protocol).map_err(|_| Errno::EINVAL)?;
    let caller = Caller::of(context);
    let network = &context.kernel().net;
    // Both sockets are made before it shows that they cannot be a pair.
    match u32::try_from(domain) {
        Ok(linux::AF_UNIX) => {}
        Ok(domain @ (linux::AF_INET | linux::AF_INET6)) => {
            inet::create(network, &caller, domain, socket_type(kind)?, protocol)?;
            return Err(Errno::EOPNOTSUPP);
        }
        Ok(linux::AF_NETLINK) => {
            netlink::create(network, &caller, socket_type(kind)?, protocol)?;
            return Err(Errno::EOPNOTSUPP);
        }
        _ => return Err(Errno::EAFNOSUPPORT),
    }
    let [one, other] = unix::pair(&context.kernel().net, &caller, socket_type(kind)?, protocol)?;
    let first = context.install(SocketFile::open(one, flags), close_on_exec)?;
    let second = match context.install(SocketFile::open(other, flags), close_on_exec) {
        Ok(second) => second,
        Err(errno) => {
            let _ = context.task.files().remove(first);
            return Err(errno);
        }
    };
    let written = context.write(descriptors.0, &[first, second]);
    if written.is_err() {
        let _ = context.task.files().remove(first);
        let _ = context.task.files().remove(second);
    }
    written
}

/// bind(2).
pub fn bind(context: &mut Context, fd: i32, address: UserAddress, length: i32) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    let bytes = read_address(context, address, length)?;
    let address = Address::parse(&bytes)?;
    if let (Address::Unix(UnixName::Path(path)), Some(named)) = (&address, unix::named(socket.as_ref())) {
        return unix::tree::bind(context, named, path);
    }
    policy::allows_endpoint(context.kernel(), socket.as_ref(), &address, Direction::Own)?;
    socket.bind(&Caller::of(context), &address)
}

/// listen(2).
pub fn listen(context: &mut Context, fd: i32, backlog: i32) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    // A negative backlog counts as the largest one, as Linux's unsigned comparison has it.
    socket.listen(&Caller::of(context), backlog as u32)
}

/// connect(2).
pub fn connect(context: &mut Context, fd: i32, address: UserAddress, length: i32) -> Result<()> {
    let (file, socket) = socket_of(context, fd)?;
    let bytes = read_address(context, address, length)?;
    let destination = destination(context, socket.as_ref(), Address::parse(&bytes)?)?;
    let caller = Caller::of(context);
    let timeout = socket.common().options.lock().send_timeout;
    let blocking = Blocking::new(file.is_nonblocking(), timeout);
    if matches!(blocking, Blocking::Never) {
        return socket.connect_nowait(&caller, &destination);
    }
    match attempt(context, socket.as_ref(), blocking, || socket.connect(&caller, &destination)) {
        Err(Errno::EINPROGRESS | Errno::EALREADY) => {
            match attempt(context, socket.as_ref(), blocking, || socket.connect_result()) {
                // The timeout is over; the connection goes on being made (socket(7), SO_SNDTIMEO).
                Err(Errno::EAGAIN) => Err(Errno::EINPROGRESS),
                result => result,
            }
        }
        result => result,
    }
}

/// accept(2).
pub fn accept(context: &mut Context, fd: i32, address: UserAddress, length_at: UserAddress) -> Result<i32> {
    accept4(context, fd, address, length_at, 0)
}

/// accept4(2).
pub fn accept4(context: &mut Context, fd: i32, address: UserAddress, length_at: UserAddress, flags: i32) -> Result<i32> {
    let (status, close_on_exec) = creation_flags(flags)?;
    let (file, socket) = socket_of(context, fd)?;
    // A full table leaves the connection where it is (EMFILE before anything is accepted).
    let free = context.install(file.clone(), true)?;
    context.task.files().remove(free)?;
    let timeout = socket.common().options.lock().receive_timeout;
    let blocking = Blocking::new(file.is_nonblocking(), timeout);
    let accepted = attempt(context, socket.as_ref(), blocking, || socket.accept())?;
    let peer = accepted.accepted_address();
    let descriptor = context.install(SocketFile::open(accepted, status), close_on_exec)?;
    if !address.is_null() {
        if let Err(errno) = write_address(context, &peer.encode(), address, length_at) {
            let _ = context.task.files().remove(descriptor);
            return Err(errno);
        }
    }
    Ok(descriptor)
}

/// shutdown(2).
pub fn shutdown(context: &mut Context, fd: i32, how: i32) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    socket.shutdown(options::shutdown_from(how)?)
}

/// getsockname(2).
pub fn getsockname(context: &mut Context, fd: i32, address: UserAddress, length_at: UserAddress) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    write_address(context, &socket.local_address().encode(), address, length_at)
}

/// getpeername(2).
pub fn getpeername(context: &mut Context, fd: i32, address: UserAddress, length_at: UserAddress) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    write_address(context, &socket.peer_address()?.encode(), address, length_at)
}

/// setsockopt(2).
pub fn setsockopt(context: &mut Context, fd: i32, level: i32, name: i32, value: UserAddress, length: i32) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
    let mut bytes = vec![0; length.min(OPTION_SIZE)];
    context.read_bytes(value.0, &mut bytes)?;
    let caller = Caller::of(context);
    let result = match level as u32 {
        linux::SOL_SOCKET => options::set(socket.as_ref(), &caller, name as u32, &bytes),
        level => socket.set_option(&caller, level, name as u32, &bytes),
    };
    // It may say how bytes are received.
    socket.end_loan();
    result
}

/// getsockopt(2).
pub fn getsockopt(
    context: &mut Context,
    fd: i32,
    level: i32,
    name: i32,
    value: UserAddress,
    length_at: UserAddress,
) -> Result<()> {
    let (_, socket) = socket_of(context, fd)?;
    let room: i32 = context.read(length_at.0)?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let result = match level as u32 {
        linux::SOL_SOCKET => options::get(socket.as_ref(), name as u32, room),
        level => socket.get_option(level, name as u32, room),
    };
    let bytes = match result {
        Err(Errno::ERANGE) if level as u32 == linux::SOL_SOCKET && name as u32 == linux::SO_PEERGROUPS => {
            let needed = socket.peer_identity().map_or(0, |peer| peer.groups.len() * 4);
            context.write(length_at.0, &(needed as u32))?;
            return Err(Errno::ERANGE);
        }
        result => result?,
    };
    let count = room.min(bytes.len());
    context.write_bytes(value.0, &bytes[..count])?;
    context.write(length_at.0, &(count as u32))
}
