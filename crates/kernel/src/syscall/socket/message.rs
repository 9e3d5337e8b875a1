//! send(2), recv(2) and their relatives: the guest's buffers, addresses and control messages.
//!
//! Bytes go through one scratch buffer per sentry thread: copied from the guest into it, from it into the receiver's ring,
//! and the other way round. No lock is held while guest memory is touched.

use super::{attempt, destination, read_address, socket_of, write_address, Blocking};
use crate::fs::file::OpenFile;
use crate::fs::signal_io;
use crate::net::address::{Address, STORAGE_SIZE};
use crate::net::inet::TcpSocket;
use crate::net::rights::{InFlight, MAXIMUM_PER_MESSAGE};
use crate::net::socket::{
    Caller, ControlMessage, Incoming, MessageFlags, Outgoing, Socket, SocketFile, SocketType, UserCredentials,
};
use crate::syscall::read_write::Waiting;
use crate::syscall::UserAddress;
use crate::task::credentials::{CAP_SETGID, CAP_SETUID, CAP_SYS_ADMIN};
use crate::{Context, Errno, Result};
use skerry_abi::raw::net as linux;
use skerry_abi::signal::{Signal, SignalInfo, SI_USER};
use skerry_abi::structs::{IoVec, MsgHdr, TimeSpec};
use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, IntoBytes};

/// Most bytes of a stream that are moved at once.
const CHUNK: usize = 256 * 1024;
/// No datagram is longer: SO_SNDBUF's maximum is below.
const MAXIMUM_DATAGRAM: usize = 1 << 20;
/// UIO_MAXIOV.
const MAXIMUM_VECTORS: u64 = 1024;
/// MAX_RW_COUNT: longer transfers are cut to this (read(2), NOTES).
const MAXIMUM_TRANSFER: u64 = 0x7fff_f000;
/// net.core.optmem_max: the longest control buffer that is read.
const MAXIMUM_CONTROL: u64 = 131_072;
/// `sizeof(struct cmsghdr)`.
const CONTROL_HEADER: usize = 16;
/// `sizeof(struct mmsghdr)`.
const MULTIPLE_HEADER: u64 = 64;

thread_local! {
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The thread's scratch buffer, borrowed for one call: what earlier calls left in it is overwritten before it is used.
struct Scratch(Vec<u8>);

/// Puts a buffer in the place of the thread's. Not inlined: a call that waits may come back on another thread.
#[inline(never)]
fn exchange_scratch(buffer: Vec<u8>) -> Vec<u8> {
    SCRATCH.with(|scratch| std::mem::replace(&mut *scratch.borrow_mut(), buffer))
}

impl Scratch {
    fn take(size: usize) -> Scratch {
        let mut buffer = exchange_scratch(Vec::new());
        if buffer.len() < size {
            buffer.resize(size.next_power_of_two(), 0);
        }
        Scratch(buffer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.len() <= CHUNK {
            exchange_scratch(std::mem::take(&mut self.0));
        }
    }
}

/// Where a call's bytes are in the guest.
struct Segments {
    list: Vec<IoVec>,
    total: usize,
}

impl Segments {
    fn single(base: UserAddress, length: u64) -> Segments {
        let length = length.min(MAXIMUM_TRANSFER);
        Segments { list: vec![IoVec { base: base.0, len: length }], total: length as usize }
    }

    /// Vectors whose lengths have been checked.
    fn of(list: Vec<IoVec>) -> Segments {
        let total = list.iter().map(|segment| segment.len as usize).sum();
        Segments { list, total }
    }

    /// EMSGSIZE (too many), EINVAL (a negative length), EFAULT.
    fn read(context: &Context, address: u64, count: u64) -> Result<Segments> {
        if count > MAXIMUM_VECTORS {
            return Err(Errno::EMSGSIZE);
        }
        let mut list: Vec<IoVec> = context.read_array(address, count as usize)?;
        let mut total = 0u64;
        for segment in &mut list {
            if segment.len > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            segment.len = segment.len.min(MAXIMUM_TRANSFER - total);
            total += segment.len;
        }
        Ok(Segments { list, total: total as usize })
    }

    /// Calls `visit` with each piece of guest memory that bytes `from..from + length` lie in.
    fn pieces(&self, from: usize, length: usize, mut visit: impl FnMut(u64, usize, usize) -> Result<()>) -> Result<()> {
        let (mut skip, mut done) = (from, 0);
        for segment in &self.list {
            let available = segment.len as usize;
            if skip >= available {
                skip -= available;
                continue;
            }
            let count = (available - skip).min(length - done);
            if count == 0 {
                break;
            }
            let base = segment.base.checked_add(skip as u64).ok_or(Errno::EFAULT)?;
            visit(base, done, count)?;
            done += count;
            skip = 0;
        }
        Ok(())
    }

    /// Fills `out` from byte `from` on.
    fn gather(&self, context: &Context, from: usize, out: &mut [u8]) -> Result<()> {
        self.pieces(from, out.len(), |base, offset, count| context.read_bytes(base, &mut out[offset..offset + count]))
    }

    fn scatter(&self, context: &Context, from: usize, bytes: &[u8]) -> Result<()> {
        self.pieces(from, bytes.len(), |base, offset, count| context.write_bytes(base, &bytes[offset..offset + count]))
    }
}

fn blocking(file: &OpenFile, flags: MessageFlags, timeout: Option<Duration>) -> Blocking {
    Blocking::new(file.is_nonblocking() || flags.contains(MessageFlags::DONTWAIT), timeout)
}

/// Sends the bytes of `segments`, and SIGPIPE where that is due.
fn send(context: &Context, file: &OpenFile, socket: &dyn Socket, segments: &Segments, mut outgoing: Outgoing) -> Result<usize> {
    let caller = Caller::of(context);
    let timeout = socket.common().options.lock().send_timeout;
    let blocking = blocking(file, outgoing.flags, timeout);
    let stream = socket.common().kind == SocketType::Stream;
    if !stream && segments.total > MAXIMUM_DATAGRAM {
        return Err(Errno::EMSGSIZE);
    }
    let mut scratch = Scratch::take(if stream { segments.total.min(CHUNK) } else { segments.total });
    let mut sent = 0;
    loop {
        let length = (segments.total - sent).min(scratch.0.len());
        let result = segments.gather(context, sent, &mut scratch.0[..length]).and_then(|()| {
            let mut position = 0;
            loop {
                let data = &scratch.0[position..length];
                match attempt(context, socket, blocking, || socket.send(&caller, data, &mut outgoing)) {
                    Ok(count) => position += count,
                    Err(errno) if position == 0 => return Err(errno),
                    Err(_) => return Ok(position),
                }
                if !stream || position >= length {
                    return Ok(position);
                }
            }
        });
        match result {
            Ok(count) => {
                sent += count;
                if !stream || count < length || sent >= segments.total {
                    if outgoing.flags.contains(MessageFlags::OOB) {
                        signal_urgent(context, socket);
                    }
                    return Ok(sent);
                }
            }
            Err(_) if sent > 0 => return Ok(sent),
            Err(errno) => {
                if errno == Errno::EPIPE && stream && !outgoing.flags.contains(MessageFlags::NOSIGNAL) {
                    let identity = caller.user_credentials();
                    context.task.send_signal(SignalInfo::user(Signal::SIGPIPE, SI_USER, identity.pid, identity.uid));
                }
                return Err(errno);
            }
        }
    }
}

/// SIGURG for the owner of the socket at the other end (tcp(7)).
fn signal_urgent(context: &Context, socket: &dyn Socket) {
    let peer = socket.as_any().downcast_ref::<TcpSocket>().and_then(TcpSocket::peer_inode);
    let peer = peer.and_then(|inode| socket.common().network.socket(inode));
    if let Some(file) = peer.and_then(|peer| peer.common().file.get().and_then(Weak::upgrade)) {
        signal_io::tell_urgent(context.kernel(), &file);
    }
}

/// Receives into `segments`; the count in what is returned is over all of them.
fn receive(
    context: &Context,
    file: &OpenFile,
    socket: &dyn Socket,
    segments: &Segments,
    flags: MessageFlags,
) -> Result<Incoming> {
    let timeout = socket.common().options.lock().receive_timeout;
    let blocking = blocking(file, flags, timeout);
    // The queue of errors is looked at, never waited for.
    let blocking = if flags.contains(MessageFlags::ERRQUEUE) { Blocking::Never } else { blocking };
    let stream = socket.common().kind == SocketType::Stream;
    let mut scratch = Scratch::take(segments.total.min(if stream { CHUNK } else { MAXIMUM_DATAGRAM }));
    let size = segments.total.min(scratch.0.len());
    let buffer = &mut scratch.0[..size];
    let mut incoming = attempt(context, socket, blocking, || socket.receive(&mut *buffer, flags))?;
    // tcp(7): MSG_TRUNC on a stream throws the bytes away.
    let discard = stream && flags.contains(MessageFlags::TRUNC) && socket.common().domain() != linux::AF_UNIX;
    if discard {
        return Ok(incoming);
    }
    let takes = stream && !flags.intersects(MessageFlags::PEEK | MessageFlags::OOB | MessageFlags::ERRQUEUE);
    if let Err(errno) = segments.scatter(context, 0, &scratch.0[..incoming.count]) {
        // Descriptors that came along are lost.
        if takes {
            socket.put_back(&scratch.0[..incoming.count]);
        }
        return Err(errno);
    }
    if !takes {
        return Ok(incoming);
    }
    let wait_for_all = flags.contains(MessageFlags::WAITALL);
    let mut last = incoming.count;
    while incoming.count < segments.total && last > 0 && !incoming.boundary && (wait_for_all || last == size) {
        let rest = (segments.total - incoming.count).min(size);
        let buffer = &mut scratch.0[..rest];
        let blocking = if wait_for_all { blocking } else { Blocking::Never };
        let Ok(more) = attempt(context, socket, blocking, || socket.receive(&mut *buffer, flags)) else { break };
        if segments.scatter(context, incoming.count, &scratch.0[..more.count]).is_err() {
            socket.put_back(&scratch.0[..more.count]);
            break;
        }
        last = more.count;
        incoming.count += more.count;
        incoming.full_length = incoming.count;
        incoming.boundary |= more.boundary;
        if !more.rights.is_empty() {
            incoming.rights = more.rights;
        }
    }
    Ok(incoming)
}

/// read(2) and readv(2) on a socket: recv(2) without flags. Reading nothing takes nothing.
pub(in crate::syscall) fn read(
    context: &Context,
    file: &OpenFile,
    socket: &SocketFile,
    list: Vec<IoVec>,
    waiting: Waiting,
) -> Result<u64> {
    let segments = Segments::of(list);
    if segments.total == 0 {
        return Ok(0);
    }
    let flags = if waiting == Waiting::Refused { MessageFlags::DONTWAIT } else { MessageFlags::empty() };
    receive(context, file, socket.socket.as_ref(), &segments, flags).map(|incoming| incoming.count as u64)
}

/// write(2) and writev(2) on a socket: send(2) without flags.
pub(in crate::syscall) fn write(
    context: &Context,
    file: &OpenFile,
    socket: &SocketFile,
    list: Vec<IoVec>,
    waiting: Waiting,
) -> Result<u64> {
    let flags = if waiting == Waiting::Refused { MessageFlags::DONTWAIT } else { MessageFlags::empty() };
    let outgoing = Outgoing { flags, ..Outgoing::default() };
    send(context, file, socket.socket.as_ref(), &Segments::of(list), outgoing).map(|count| count as u64)
}

/// What the call returns: the message's own length with MSG_TRUNC.
fn received_length(incoming: &Incoming, flags: MessageFlags) -> usize {
    if flags.contains(MessageFlags::TRUNC) {
        incoming.full_length.max(incoming.count)
    } else {
        incoming.count
    }
}

/// sendto(2).
pub fn sendto(
    context: &mut Context,
    fd: i32,
    buffer: UserAddress,
    length: u64,
    flags: u32,
    address: UserAddress,
    address_length: i32,
) -> Result<usize> {
    let (file, socket) = socket_of(context, fd)?;
    let mut outgoing = Outgoing { flags: MessageFlags::from_bits_retain(flags), ..Outgoing::default() };
    if !address.is_null() {
        let bytes = read_address(context, address, address_length)?;
        set_destination(context, socket.as_ref(), &bytes, &mut outgoing)?;
    }
    let sent = send(context, &file, socket.as_ref(), &Segments::single(buffer, length), outgoing)?;
    context.note_stream(fd, &file);
    Ok(sent)
}

fn set_destination(context: &Context, socket: &dyn Socket, bytes: &[u8], outgoing: &mut Outgoing) -> Result<()> {
    if bytes.is_empty() {
        return Ok(());
    }
    let address = Address::parse(bytes)?;
    outgoing.destination = Some(if socket.common().kind == SocketType::Datagram || socket.common().kind == SocketType::Raw {
        destination(context, socket, address)?
    } else {
        // Only that there is one matters (EISCONN), so nothing is looked up.
        crate::net::socket::Destination::plain(address)
    });
    Ok(())
}

/// recvfrom(2).
pub fn recvfrom(
    context: &mut Context,
    fd: i32,
    buffer: UserAddress,
    length: u64,
    flags: u32,
    address: UserAddress,
    length_at: UserAddress,
) -> Result<usize> {
    let (file, socket) = socket_of(context, fd)?;
    let flags = MessageFlags::from_bits_retain(flags);
    let incoming = receive(context, &file, socket.as_ref(), &Segments::single(buffer, length), flags)?;
    if !address.is_null() {
        let source = incoming.source.as_ref().map(Address::encode).unwrap_or_default();
        write_address(context, &source, address, length_at)?;
    }
    context.note_stream(fd, &file);
    Ok(received_length(&incoming, flags))
}

/// Control messages of a send. EINVAL, EBADF, EPERM, ETOOMANYREFS.
fn parse_control(context: &Context, socket: &dyn Socket, control: &[u8], outgoing: &mut Outgoing) -> Result<()> {
    let unix = socket.common().domain() == linux::AF_UNIX;
    let mut files: Vec<Arc<OpenFile>> = Vec::new();
    let mut rest = control;
    while rest.len() >= CONTROL_HEADER {
        let (length, _) = u64::read_from_prefix(rest).map_err(|_| Errno::EINVAL)?;
        let (kind, _) = <[u32; 2]>::read_from_prefix(&rest[8..]).map_err(|_| Errno::EINVAL)?;
        let length = usize::try_from(length).map_err(|_| Errno::EINVAL)?;
        let data = rest.get(CONTROL_HEADER..length).ok_or(Errno::EINVAL)?;
        match kind {
            [linux::SOL_SOCKET, linux::SCM_RIGHTS] if unix => {
                let descriptors = data.chunks_exact(4);
                if files.len() + descriptors.len() > MAXIMUM_PER_MESSAGE {
                    return Err(Errno::EINVAL);
                }
                for descriptor in descriptors {
                    let descriptor = i32::read_from_bytes(descriptor).map_err(|_| Errno::EINVAL)?;
                    files.push(context.task.files().get(descriptor)?);
                }
            }
            [linux::SOL_SOCKET, linux::SCM_CREDENTIALS] if unix || socket.common().domain() == linux::AF_NETLINK => {
                let claimed = UserCredentials::read_from_bytes(data).map_err(|_| Errno::EINVAL)?;
                outgoing.credentials = Some(check_credentials(context, claimed)?);
            }
            [linux::SOL_SOCKET, linux::SCM_RIGHTS | linux::SCM_CREDENTIALS] => {}
            [linux::SOL_SOCKET, _] if unix => return Err(Errno::EINVAL),
            _ if unix => {}
            [level, kind] => outgoing.control.push(ControlMessage { level, kind, data: data.to_vec() }),
        }
        let next = length.checked_next_multiple_of(8).ok_or(Errno::EINVAL)?;
        rest = rest.get(next..).unwrap_or_default();
    }
    if !files.is_empty() {
        let limit = Caller::of(context).file_limit;
        outgoing.rights = InFlight::new(files, &socket.common().network.in_flight, limit)?;
    }
    Ok(())
}

/// unix(7), SCM_CREDENTIALS: one's own ids, or any with the capabilities for it. EPERM.
fn check_credentials(context: &Context, claimed: UserCredentials) -> Result<UserCredentials> {
    let own = context.task.credentials();
    let pid = claimed.pid == context.process().pid() || own.has_capability(CAP_SYS_ADMIN);
    let uid = [own.ruid, own.euid, own.suid].contains(&claimed.uid) || own.has_capability(CAP_SETUID);
    let gid = [own.rgid, own.egid, own.sgid].contains(&claimed.gid) || own.has_capability(CAP_SETGID);
    if !(pid && uid && gid) {
        return Err(Errno::EPERM);
    }
    if claimed.pid != context.process().pid() && context.kernel().pids.process(claimed.pid).is_err() {
        return Err(Errno::ESRCH);
    }
    Ok(claimed)
}

fn send_message(context: &Context, fd: i32, header: &MsgHdr, flags: u32) -> Result<usize> {
    let (file, socket) = socket_of(context, fd)?;
    let mut outgoing = Outgoing { flags: MessageFlags::from_bits_retain(flags), ..Outgoing::default() };
    if header.name != 0 {
        let length = i32::try_from(header.namelen).map_err(|_| Errno::EINVAL)?.min(STORAGE_SIZE as i32);
        let bytes = read_address(context, UserAddress(header.name), length)?;
        set_destination(context, socket.as_ref(), &bytes, &mut outgoing)?;
    }
    let segments = Segments::read(context, header.iov, header.iovlen)?;
    if header.controllen > 0 {
        if header.controllen > MAXIMUM_CONTROL {
            return Err(Errno::ENOBUFS);
        }
        let mut control = vec![0; header.controllen as usize];
        context.read_bytes(header.control, &mut control)?;
        parse_control(context, socket.as_ref(), &control, &mut outgoing)?;
    }
    send(context, &file, socket.as_ref(), &segments, outgoing)
}

/// sendmsg(2).
pub fn sendmsg(context: &mut Context, fd: i32, header: UserAddress, flags: u32) -> Result<usize> {
    let header: MsgHdr = context.read(header.0)?;
    let sent = send_message(context, fd, &header, flags)?;
    note_stream(context, fd);
    Ok(sent)
}

/// Beside bytes nothing may have gone: whoever lends it looks whether that is so.
fn note_stream(context: &mut Context, fd: i32) {
    if let Ok(file) = context.file(fd) {
        context.note_stream(fd, &file);
    }
}

/// sendmmsg(2): how many messages were sent; an error only where none was.
pub fn sendmmsg(context: &mut Context, fd: i32, headers: UserAddress, count: u32, flags: u32) -> Result<u32> {
    let count = count.min(MAXIMUM_VECTORS as u32);
    socket_of(context, fd)?;
    for index in 0..count {
        let result = multiple_header(headers, index).and_then(|address| {
            let header: MsgHdr = context.read(address)?;
            let sent = send_message(context, fd, &header, flags)?;
            context.write(address + 56, &(sent as u32))
        });
        match result {
            Ok(()) => {}
            Err(errno) if index == 0 => return Err(errno),
            Err(_) => return Ok(index),
        }
    }
    Ok(count)
}

fn multiple_header(headers: UserAddress, index: u32) -> Result<u64> {
    headers.0.checked_add(u64::from(index) * MULTIPLE_HEADER).ok_or(Errno::EFAULT)
}

/// Builds the control buffer of a receive: descriptors get their numbers here.
struct ControlWriter {
    bytes: Vec<u8>,
    room: usize,
    truncated: bool,
}

impl ControlWriter {
    /// As put_cmsg does: what does not fit is cut and said so.
    fn put(&mut self, level: u32, kind: u32, data: &[u8]) {
        let left = self.room - self.bytes.len();
        if left < CONTROL_HEADER {
            self.truncated = true;
            return;
        }
        let count = data.len().min(left - CONTROL_HEADER);
        self.truncated |= count < data.len();
        self.bytes.extend(((CONTROL_HEADER + count) as u64).to_ne_bytes());
        self.bytes.extend(level.to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(&data[..count]);
        let padded = self.bytes.len().next_multiple_of(8).min(self.room);
        self.bytes.resize(padded, 0);
    }

    fn put_rights(&mut self, context: &Context, rights: InFlight, close_on_exec: bool) {
        if rights.is_empty() {
            return;
        }
        let fitting = (self.room - self.bytes.len()).saturating_sub(CONTROL_HEADER) / 4;
        let mut descriptors = Vec::new();
        for file in rights.take() {
            if descriptors.len() == fitting {
                self.truncated = true;
                break;
            }
            match context.install(file, close_on_exec) {
                Ok(descriptor) => descriptors.push(descriptor),
                Err(_) => {
                    self.truncated = true;
                    break;
                }
            }
        }
        if !descriptors.is_empty() {
            self.put(linux::SOL_SOCKET, linux::SCM_RIGHTS, descriptors.as_bytes());
        }
    }
}

fn receive_message(context: &Context, fd: i32, header_at: u64, flags: u32) -> Result<usize> {
    let header: MsgHdr = context.read(header_at)?;
    let (file, socket) = socket_of(context, fd)?;
    let flags = MessageFlags::from_bits_retain(flags);
    if header.name != 0 && i32::try_from(header.namelen).is_err() {
        return Err(Errno::EINVAL);
    }
    let segments = Segments::read(context, header.iov, header.iovlen)?;
    let mut incoming = receive(context, &file, socket.as_ref(), &segments, flags)?;
    let length = received_length(&incoming, flags);

    let room = if header.control == 0 { 0 } else { header.controllen.min(MAXIMUM_CONTROL) as usize };
    let mut control = ControlWriter { bytes: Vec::new(), room, truncated: false };
    for ControlMessage { level, kind, data } in &incoming.control {
        control.put(*level, *kind, data);
    }
    if let Some(credentials) = incoming.credentials {
        control.put(linux::SOL_SOCKET, linux::SCM_CREDENTIALS, credentials.as_bytes());
    }
    let rights = std::mem::take(&mut incoming.rights);
    control.put_rights(context, rights, flags.contains(MessageFlags::CMSG_CLOEXEC));

    if !control.bytes.is_empty() {
        context.write_bytes(header.control, &control.bytes)?;
    }
    let mut name_length = 0;
    if header.name != 0 {
        let source = incoming.source.as_ref().map(Address::encode).unwrap_or_default();
        let count = source.len().min(header.namelen as usize);
        context.write_bytes(header.name, &source[..count])?;
        name_length = source.len() as u32;
    }
    let mut out = incoming.flags | (flags & MessageFlags::CMSG_CLOEXEC);
    out.set(MessageFlags::CTRUNC, control.truncated);
    let offset = |field: u64| header_at.checked_add(field).ok_or(Errno::EFAULT);
    if header.name != 0 {
        context.write(offset(8)?, &name_length)?;
    }
    context.write(offset(40)?, &(control.bytes.len() as u64))?;
    context.write(offset(48)?, &out.bits())?;
    Ok(length)
}

/// recvmsg(2).
pub fn recvmsg(context: &mut Context, fd: i32, header: UserAddress, flags: u32) -> Result<usize> {
    let received = receive_message(context, fd, header.0, flags)?;
    note_stream(context, fd);
    Ok(received)
}

/// recvmmsg(2). The timeout is looked at only after each message, as the man page's BUGS says.
pub fn recvmmsg(
    context: &mut Context,
    fd: i32,
    headers: UserAddress,
    count: u32,
    flags: u32,
    timeout: UserAddress,
) -> Result<u32> {
    let count = count.min(MAXIMUM_VECTORS as u32);
    socket_of(context, fd)?;
    let deadline = match timeout.non_null() {
        None => None,
        Some(address) => {
            let nanos = context.read::<TimeSpec>(address)?.to_nanos().ok_or(Errno::EINVAL)?;
            Some(Instant::now() + Duration::from_nanos(nanos))
        }
    };
    let mut flags = flags;
    let mut received = 0;
    while received < count {
        let result = multiple_header(headers, received).and_then(|address| {
            let length = receive_message(context, fd, address, flags & !MessageFlags::WAITFORONE.bits())?;
            context.write(address + 56, &(length as u32))
        });
        match result {
            Ok(()) => received += 1,
            Err(errno) if received == 0 => return Err(errno),
            Err(_) => break,
        }
        if flags & MessageFlags::WAITFORONE.bits() != 0 {
            flags |= MessageFlags::DONTWAIT.bits();
        }
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            break;
        }
    }
    if let (Some(deadline), Some(address)) = (deadline, timeout.non_null()) {
        let left = deadline.saturating_duration_since(Instant::now());
        context.write(address, &TimeSpec::from_nanos(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX)))?;
    }
    Ok(received)
}
