//! read(2), write(2) and their family: the one place with the loops of blocking, partial and scattered transfers.
//!
//! Data goes through the sentry in steps of at most [`STEP`] bytes, so that no buffer has a guest's size. No lock is held
//! across a copy from or to guest memory.

use crate::fs::file::{OpenFile, StatusFlags, Transfer};
use crate::fs::host::host_error;
use crate::fs::inode::FileType;
use crate::fs::notify::NotifyMask;
use crate::fs::permission;
use crate::net::SocketFile;
use crate::syscall::UserAddress;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{Signal, SignalInfo};
use skerry_abi::structs::IoVec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that one step moves at most.
pub const STEP: usize = 128 * 1024;
/// The most that one call moves (read(2): 0x7ffff000).
pub const TRANSFER_MAX: u64 = 0x7fff_f000;
/// IOV_MAX.
const SEGMENTS_MAX: u64 = 1024;

/// Most calls have one piece, for which nothing is allocated.
#[derive(Clone)]
enum List {
    One(IoVec),
    Many(Vec<IoVec>),
}

impl List {
    fn as_slice(&self) -> &[IoVec] {
        match self {
            List::One(one) => std::slice::from_ref(one),
            List::Many(many) => many,
        }
    }
}

/// Guest memory that a call reads or fills, piece by piece.
#[derive(Clone)]
pub struct Segments {
    list: List,
    index: usize,
    /// Bytes of the present segment that are done.
    done: u64,
    remaining: u64,
}

impl Segments {
    pub fn one(address: u64, length: u64) -> Segments {
        let len = length.min(TRANSFER_MAX);
        Segments { list: List::One(IoVec { base: address, len }), index: 0, done: 0, remaining: len }
    }

    /// From an array of `struct iovec`: EINVAL for too many or a length over SSIZE_MAX, EFAULT.
    pub fn from_guest(context: &Context, address: u64, count: u64) -> Result<Segments> {
        if count > SEGMENTS_MAX {
            return Err(Errno::EINVAL);
        }
        let mut list: Vec<IoVec> = context.read_array(address, count as usize)?;
        let mut remaining: u64 = 0;
        for segment in &mut list {
            if segment.len > i64::MAX as u64 {
                return Err(Errno::EINVAL);
            }
            segment.len = segment.len.min(TRANSFER_MAX - remaining);
            remaining += segment.len;
        }
        Ok(Segments { list: List::Many(list), index: 0, done: 0, remaining })
    }

    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// What is left, as vectors (sockets move whole messages).
    pub fn into_vectors(self) -> Vec<IoVec> {
        match self.list {
            List::One(one) => vec![one],
            List::Many(many) => many,
        }
    }

    /// The next stretch of at most `limit` bytes.
    fn next_stretch(&mut self, limit: u64) -> Option<(u64, u64)> {
        loop {
            let segment = self.list.as_slice().get(self.index)?;
            let left = segment.len - self.done;
            if left == 0 {
                self.index += 1;
                self.done = 0;
                continue;
            }
            let address = segment.base.wrapping_add(self.done);
            return Some((address, left.min(limit)));
        }
    }

    fn advance(&mut self, count: u64) {
        self.done += count;
        self.remaining -= count;
    }

    /// Copies `bytes` out to the guest; returns how many went (fewer: a fault).
    pub fn write_to_guest(&mut self, context: &Context, bytes: &[u8]) -> usize {
        let mut written = 0;
        while written < bytes.len() {
            let Some((address, length)) = self.next_stretch((bytes.len() - written) as u64) else { break };
            let count = context.write_some(address, &bytes[written..written + length as usize]);
            self.advance(count as u64);
            written += count;
            if count < length as usize {
                break;
            }
        }
        written
    }

    /// Fills `bytes` from the guest; returns how many came (fewer: a fault).
    pub fn read_from_guest(&mut self, context: &Context, bytes: &mut [u8]) -> usize {
        let mut read = 0;
        while read < bytes.len() {
            let Some((address, length)) = self.next_stretch((bytes.len() - read) as u64) else { break };
            let count = context.read_some(address, &mut bytes[read..read + length as usize]);
            self.advance(count as u64);
            read += count;
            if count < length as usize {
                break;
            }
        }
        read
    }
}

/// Bytes of a step that lie on the stack; larger ones are allocated.
const SMALL: usize = 512;

/// What one step is copied through: `length` zeros, in one of two places.
fn step_buffer<'a>(length: u64, small: &'a mut [u8; SMALL], large: &'a mut Vec<u8>) -> &'a mut [u8] {
    let length = length.min(STEP as u64) as usize;
    if length <= SMALL {
        return &mut small[..length];
    }
    *large = vec![0; length];
    large
}

/// Where a transfer takes place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// At the open file's position, which moves.
    Position,
    /// pread(2), pwrite(2).
    Offset(u64),
}

/// Whether a transfer may wait (RWF_NOWAIT, O_NONBLOCK).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiting {
    Allowed,
    Refused,
}

fn waiting_of(file: &OpenFile) -> Waiting {
    if file.is_nonblocking() {
        Waiting::Refused
    } else {
        Waiting::Allowed
    }
}

fn deadline(timeout: Option<Duration>) -> Option<Instant> {
    timeout.and_then(|timeout| Instant::now().checked_add(timeout))
}

/// One attempt, or, where it may wait, attempts until there is something. A socket's timeout shows as EAGAIN.
fn attempt<T>(
    context: &Context,
    file: &OpenFile,
    waiting: Waiting,
    timeout: Option<Duration>,
    attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut attempt = attempt;
    match (waiting, file.operations.wait_queue_for(context)) {
        (Waiting::Allowed, Some(queue)) => match context.block_on(queue, deadline(timeout), attempt) {
            Err(Errno::ETIMEDOUT) => Err(Errno::EAGAIN),
            other => other,
        },
        _ => attempt(),
    }
}

/// Reads once into `buffer`, waiting where that is allowed.
pub fn read_into(context: &Context, file: &OpenFile, buffer: &mut [u8], at: At, waiting: Waiting) -> Result<usize> {
    let operations = &file.operations;
    match at {
        At::Offset(offset) => attempt(context, file, waiting, None, || operations.read(file, buffer, offset)),
        At::Position if operations.is_seekable() => {
            let mut position = file.position.lock();
            if let Some(host) = file.direct() {
                // One step for all who share the offset.
                return rustix::io::read(&*host.descriptor, buffer).map_err(host_error);
            }
            let count = operations.read(file, buffer, position.get())?;
            position.advance(count as u64);
            Ok(count)
        }
        At::Position => {
            operations.before_transfer(context, Transfer::Read)?;
            loop {
                let timeout = operations.read_timeout();
                let result = attempt(context, file, waiting, timeout, || operations.read_for(context, file, buffer));
                if result != Err(Errno::EAGAIN) || waiting == Waiting::Refused || timeout.is_none() {
                    return result;
                }
                if let Some(result) = operations.read_timed_out(file, buffer) {
                    return result;
                }
            }
        }
    }
}

/// Writes once from `buffer`, waiting where that is allowed.
pub fn write_from(context: &Context, file: &OpenFile, buffer: &[u8], at: At, waiting: Waiting) -> Result<usize> {
    let operations = &file.operations;
    let appends = file.flags().contains(StatusFlags::APPEND);
    match at {
        // pwrite(2), BUGS: with O_APPEND the offset does not count.
        At::Offset(_) if appends => operations.append(file, buffer).map(|(count, _)| count),
        At::Offset(offset) => operations.write(file, buffer, offset),
        At::Position if operations.is_seekable() => {
            let mut position = file.position.lock();
            if let Some(host) = file.direct() {
                return host.operations.write_at_host_offset(&host.descriptor, file.flags(), buffer);
            }
            if appends {
                let (count, end) = operations.append(file, buffer)?;
                position.set(end)?;
                return Ok(count);
            }
            let count = operations.write(file, buffer, position.get())?;
            position.advance(count as u64);
            Ok(count)
        }
        At::Position => {
            operations.before_transfer(context, Transfer::Write)?;
            attempt(context, file, waiting, operations.write_timeout(), || operations.write(file, buffer, 0))
        }
    }
}

/// Reads into guest memory.
pub fn read_segments(context: &Context, file: &OpenFile, mut segments: Segments, at: At, waiting: Waiting) -> Result<u64> {
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    if let Some(socket) = file.downcast::<SocketFile>() {
        return super::socket::read(context, file, socket, segments.into_vectors(), waiting);
    }
    let operations = &file.operations;
    if segments.remaining() == 0 {
        return if operations.is_seekable() {
            read_into(context, file, &mut [], at, Waiting::Refused).map(|_| 0)
        } else {
            Ok(0)
        };
    }
    let (mut small, mut large) = ([0; SMALL], Vec::new());
    let buffer = step_buffer(segments.remaining(), &mut small, &mut large);
    let mut total: u64 = 0;
    let mut waiting = waiting;
    while segments.remaining() > 0 {
        let wanted = segments.remaining().min(buffer.len() as u64) as usize;
        let here = match at {
            At::Offset(offset) => At::Offset(offset.saturating_add(total)),
            At::Position => At::Position,
        };
        let count = match read_into(context, file, &mut buffer[..wanted], here, waiting) {
            Ok(count) => count.min(wanted),
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        };
        let copied = segments.write_to_guest(context, &buffer[..count]);
        total += copied as u64;
        if copied < count {
            if at == At::Position && operations.is_seekable() {
                file.position.lock().retreat((count - copied) as u64);
            } else if at == At::Position {
                operations.put_back(&buffer[copied..count]);
            }
            if total == 0 {
                return Err(Errno::EFAULT);
            }
            break;
        }
        if count < wanted {
            break;
        }
        // There was something: more is taken as far as it is there.
        waiting = Waiting::Refused;
    }
    if total > 0 {
        if let Some(path) = &file.path {
            context.kernel().watches.report_with_parent(&path.dentry, NotifyMask::ACCESS);
        }
    }
    Ok(total)
}

/// How far a write may go before RLIMIT_FSIZE: SIGXFSZ and EFBIG at the limit (setrlimit(2)).
pub fn check_file_size_limit(context: &Context, start: u64, length: u64) -> Result<u64> {
    let limit = context.process().rlimit(linux::RLIMIT_FSIZE).current;
    if limit == u64::MAX || length == 0 {
        return Ok(length);
    }
    if start >= limit {
        context.task.send_signal(SignalInfo::kernel(Signal::SIGXFSZ));
        return Err(Errno::EFBIG);
    }
    Ok(length.min(limit - start))
}

/// Writes from guest memory. SIGPIPE goes with EPIPE.
pub fn write_segments(context: &Context, file: &OpenFile, mut segments: Segments, at: At, waiting: Waiting) -> Result<u64> {
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    if let Some(socket) = file.downcast::<SocketFile>() {
        return super::socket::write(context, file, socket, segments.into_vectors(), waiting);
    }
    if segments.remaining() == 0 {
        return Ok(0);
    }
    let seekable = file.operations.is_seekable();
    let regular = seekable && file.path.as_ref().is_none_or(|path| path.inode().kind() == FileType::Regular);
    let mut allowed = segments.remaining();
    if regular {
        let start = match at {
            At::Offset(offset) => offset,
            At::Position => file.position.lock().get(),
        };
        allowed = check_file_size_limit(context, start, allowed)?;
        if let Some(path) = &file.path {
            permission::drop_set_id(context.task, path.inode())?;
        }
    }
    let (mut small, mut large) = ([0; SMALL], Vec::new());
    let buffer = step_buffer(allowed, &mut small, &mut large);
    let mut total: u64 = 0;
    let result = 'transfer: loop {
        let wanted = (allowed - total).min(buffer.len() as u64) as usize;
        if wanted == 0 {
            break Ok(());
        }
        let copied = segments.read_from_guest(context, &mut buffer[..wanted]);
        if copied == 0 {
            break Err(Errno::EFAULT);
        }
        let mut written = 0;
        while written < copied {
            let here = match at {
                At::Offset(offset) => At::Offset(offset.saturating_add(total)),
                At::Position => At::Position,
            };
            match write_from(context, file, &buffer[written..copied], here, waiting) {
                Ok(0) => break 'transfer Ok(()),
                Ok(count) => {
                    written += count;
                    total += count as u64;
                }
                Err(errno) => break 'transfer Err(errno),
            }
            if written < copied && waiting == Waiting::Refused {
                break 'transfer Ok(());
            }
        }
        if copied < wanted {
            break Ok(());
        }
    };
    if let Err(Errno::EPIPE) = result {
        context.task.send_signal(SignalInfo::user(
            Signal::SIGPIPE,
            skerry_abi::signal::SI_USER,
            context.process().pid(),
            context.task.credentials().ruid,
        ));
    }
    if total > 0 {
        if let Some(path) = &file.path {
            context.kernel().watches.report_with_parent(&path.dentry, NotifyMask::MODIFY);
        }
        if regular && file.flags().intersects(StatusFlags::DSYNC | StatusFlags::SYNC) {
            file.operations.sync(!file.flags().contains(StatusFlags::SYNC))?;
        }
        return Ok(total);
    }
    result.map(|()| 0)
}

/// The file for a call with an explicit offset: ESPIPE for streams, EINVAL for a negative offset.
fn file_at(context: &Context, fd: i32, offset: i64) -> Result<(Arc<OpenFile>, At)> {
    let offset = u64::try_from(offset).map_err(|_| Errno::EINVAL)?;
    let file = context.file(fd)?;
    if !file.operations.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    Ok((file, At::Offset(offset)))
}

pub fn read(context: &mut Context, fd: i32, buffer: UserAddress, count: u64) -> Result<u64> {
    let file = context.file(fd)?;
    let count = read_segments(context, &file, Segments::one(buffer.0, count), At::Position, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    context.note_use(fd, &file, Transfer::Read);
    Ok(count)
}

pub fn write(context: &mut Context, fd: i32, buffer: UserAddress, count: u64) -> Result<u64> {
    let file = context.file(fd)?;
    let count = write_segments(context, &file, Segments::one(buffer.0, count), At::Position, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    context.note_use(fd, &file, Transfer::Write);
    Ok(count)
}

pub fn pread64(context: &mut Context, fd: i32, buffer: UserAddress, count: u64, offset: i64) -> Result<u64> {
    let (file, at) = file_at(context, fd, offset)?;
    let count = read_segments(context, &file, Segments::one(buffer.0, count), at, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    Ok(count)
}

pub fn pwrite64(context: &mut Context, fd: i32, buffer: UserAddress, count: u64, offset: i64) -> Result<u64> {
    let (file, at) = file_at(context, fd, offset)?;
    let count = write_segments(context, &file, Segments::one(buffer.0, count), at, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    Ok(count)
}

pub fn readv(context: &mut Context, fd: i32, vector: UserAddress, count: u64) -> Result<u64> {
    let file = context.file(fd)?;
    let segments = Segments::from_guest(context, vector.0, count)?;
    let count = read_segments(context, &file, segments, At::Position, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    context.note_stream(fd, &file);
    Ok(count)
}

pub fn writev(context: &mut Context, fd: i32, vector: UserAddress, count: u64) -> Result<u64> {
    let file = context.file(fd)?;
    let segments = Segments::from_guest(context, vector.0, count)?;
    let count = write_segments(context, &file, segments, At::Position, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    context.note_stream(fd, &file);
    Ok(count)
}

/// `offset` comes as two halves, of which x86-64 uses the first only.
pub fn preadv(context: &mut Context, fd: i32, vector: UserAddress, count: u64, offset: i64) -> Result<u64> {
    let (file, at) = file_at(context, fd, offset)?;
    let segments = Segments::from_guest(context, vector.0, count)?;
    let count = read_segments(context, &file, segments, at, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    Ok(count)
}

pub fn pwritev(context: &mut Context, fd: i32, vector: UserAddress, count: u64, offset: i64) -> Result<u64> {
    let (file, at) = file_at(context, fd, offset)?;
    let segments = Segments::from_guest(context, vector.0, count)?;
    let count = write_segments(context, &file, segments, at, waiting_of(&file))?;
    context.offer_direct(fd, &file, count);
    Ok(count)
}

bitflags::bitflags! {
    /// RWF_* of preadv2(2).
    #[derive(Clone, Copy, Debug)]
    pub struct TransferFlags: u32 {
        const HIPRI = 1;
        const DSYNC = 2;
        const SYNC = 4;
        const NOWAIT = 8;
        const APPEND = 16;
    }
}

/// The flags of preadv2(2): EOPNOTSUPP where one is not known.
pub(super) fn transfer_flags(flags: u32) -> Result<TransferFlags> {
    TransferFlags::from_bits(flags).ok_or(Errno::EOPNOTSUPP)
}

pub fn preadv2(
    context: &mut Context,
    fd: i32,
    vector: UserAddress,
    count: u64,
    offset: i64,
    _high: u64,
    flags: u32,
) -> Result<u64> {
    let flags = transfer_flags(flags)?;
    if flags.contains(TransferFlags::APPEND) {
        return Err(Errno::EOPNOTSUPP);
    }
    let (file, at) = if offset == -1 { (context.file(fd)?, At::Position) } else { file_at(context, fd, offset)? };
    let segments = Segments::from_guest(context, vector.0, count)?;
    read_with_flags(context, &file, segments, at, flags)
}

pub(super) fn read_with_flags(
    context: &Context,
    file: &OpenFile,
    segments: Segments,
    at: At,
    flags: TransferFlags,
) -> Result<u64> {
    let waiting = if flags.contains(TransferFlags::NOWAIT) { Waiting::Refused } else { waiting_of(file) };
    read_segments(context, file, segments, at, waiting)
}

pub fn pwritev2(
    context: &mut Context,
    fd: i32,
    vector: UserAddress,
    count: u64,
    offset: i64,
    _high: u64,
    flags: u32,
) -> Result<u64> {
    let flags = transfer_flags(flags)?;
    let (file, at) = if offset == -1 { (context.file(fd)?, At::Position) } else { file_at(context, fd, offset)? };
    let segments = Segments::from_guest(context, vector.0, count)?;
    write_with_flags(context, &file, segments, at, flags)
}

pub(super) fn write_with_flags(
    context: &Context,
    file: &OpenFile,
    segments: Segments,
    at: At,
    flags: TransferFlags,
) -> Result<u64> {
    let waiting = if flags.contains(TransferFlags::NOWAIT) { Waiting::Refused } else { waiting_of(file) };
    let total = if flags.contains(TransferFlags::APPEND) && file.operations.is_seekable() {
        write_at_end(context, file, segments, at)?
    } else {
        write_segments(context, file, segments, at, waiting)?
    };
    if flags.intersects(TransferFlags::DSYNC | TransferFlags::SYNC) && total > 0 {
        file.operations.sync(!flags.contains(TransferFlags::SYNC))?;
    }
    Ok(total)
}

/// RWF_APPEND: at the end whatever the file's flags are; the position moves only if it was to be used.
fn write_at_end(context: &Context, file: &OpenFile, mut segments: Segments, at: At) -> Result<u64> {
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    let mut buffer = vec![0; segments.remaining().min(STEP as u64) as usize];
    let mut total = 0;
    while segments.remaining() > 0 {
        let wanted = segments.remaining().min(buffer.len() as u64) as usize;
        let copied = segments.read_from_guest(context, &mut buffer[..wanted]);
        if copied == 0 {
            return if total > 0 { Ok(total) } else { Err(Errno::EFAULT) };
        }
        let allowed = check_file_size_limit(context, file.operations.size()?, copied as u64)? as usize;
        let (count, end) = match file.operations.append(file, &buffer[..allowed]) {
            Ok(done) => done,
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        };
        if at == At::Position {
            file.position.lock().set(end)?;
        }
        total += count as u64;
        if count < wanted {
            break;
        }
    }
    Ok(total)
}

/// lseek(2).
pub fn lseek(context: &mut Context, fd: i32, offset: i64, whence: u32) -> Result<u64> {
    let file = context.file(fd)?;
    if whence > linux::SEEK_HOLE {
        return Err(Errno::EINVAL);
    }
    if !file.operations.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    if file.operations.stays_at_zero() {
        return Ok(0);
    }
    let mut position = file.position.lock();
    let base = match whence {
        linux::SEEK_SET => 0,
        linux::SEEK_CUR => position.get(),
        linux::SEEK_END => file.operations.size()?,
        _ => {
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let found = file.operations.seek_data_or_hole(offset, whence == linux::SEEK_HOLE)?;
            position.set(found)?;
            return Ok(found);
        }
    };
    let new = (base as i64).checked_add(offset).ok_or(Errno::EOVERFLOW)?;
    let new = u64::try_from(new).map_err(|_| Errno::EINVAL)?;
    position.set(new)?;
    drop(position);
    context.offer_direct(fd, &file, 0);
    Ok(new)
}
