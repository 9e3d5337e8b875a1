//! Calls on a file's data that move nothing through guest memory: fallocate(2), fsync(2), sendfile(2),
//! copy_file_range(2), splice(2) and theirs.

use crate::fs::file::{Events, OpenFile, StatusFlags};
use crate::fs::inode::FileType;
use crate::fs::notify::NotifyMask;
use crate::fs::permission;
use crate::ipc::pipe::transfer::{self, Transfer};
use crate::ipc::pipe::{self, PipeEnd};
use crate::syscall::read_write::{
    check_file_size_limit, read_into, read_segments, write_from, At, Segments, Waiting, STEP, TRANSFER_MAX,
};
use crate::syscall::UserAddress;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{Signal, SignalInfo, SI_USER};
use std::sync::Arc;

/// What an open file is.
fn kind_of(file: &OpenFile) -> Result<FileType> {
    Ok(file.operations.metadata()?.kind)
}

pub fn fallocate(context: &mut Context, fd: i32, mode: u32, offset: i64, length: i64) -> Result<()> {
    if offset < 0 || length <= 0 {
        return Err(Errno::EINVAL);
    }
    const KNOWN: u32 = 0x7f;
    if mode & !KNOWN != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let file = context.file(fd)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    match kind_of(&file)? {
        FileType::Regular => {}
        FileType::Fifo => return Err(Errno::ESPIPE),
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::ENODEV),
    }
    let (start, count) = (offset as u64, length as u64);
    if start.checked_add(count).is_none_or(|end| end > i64::MAX as u64) {
        return Err(Errno::EFBIG);
    }
    if mode & linux::FALLOC_FL_KEEP_SIZE == 0 && check_file_size_limit(context, start, count)? < count {
        return Err(Errno::EFBIG);
    }
    {
        const CHANGES_DATA: u32 = !(linux::FALLOC_FL_KEEP_SIZE | linux::FALLOC_FL_UNSHARE_RANGE);
        let _shrinking = match (&file.path, context.kernel().direct_registry()) {
            (Some(place), Some(registry)) if mode & CHANGES_DATA != 0 => {
                Some(registry.shrink(place.inode(), &file.operations.metadata()?, start))
            }
            _ => None,
        };
        file.operations.allocate(mode, start, count)?;
    }
    if let Some(place) = &file.path {
        permission::drop_set_id(context.task, place.inode())?;
        context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::MODIFY);
    }
    Ok(())
}

pub fn fsync(context: &mut Context, fd: i32) -> Result<()> {
    let file = context.file(fd)?;
    context.before_slow_host_call();
    file.operations.sync(false)
}

pub fn fdatasync(context: &mut Context, fd: i32) -> Result<()> {
    let file = context.file(fd)?;
    context.before_slow_host_call();
    file.operations.sync(true)
}

/// sync(2): the host trees that are written.
pub fn sync(context: &mut Context) -> Result<()> {
    context.before_slow_host_call();
    for mount in context.kernel().mounts.list() {
        let _ = mount.file_system.sync();
    }
    Ok(())
}

pub fn syncfs(context: &mut Context, fd: i32) -> Result<()> {
    let file = context.file(fd)?;
    context.before_slow_host_call();
    match &file.path {
        Some(place) => place.mount.file_system.sync(),
        None => Ok(()),
    }
}

pub fn sync_file_range(context: &mut Context, fd: i32, offset: i64, length: i64, flags: u32) -> Result<()> {
    let file = context.file(fd)?;
    if offset < 0 || length < 0 || offset.checked_add(length).is_none() || flags & !7 != 0 {
        return Err(Errno::EINVAL);
    }
    match kind_of(&file)? {
        FileType::Regular | FileType::Directory | FileType::BlockDevice => {}
        _ => return Err(Errno::ESPIPE),
    }
    if flags == 0 {
        return Ok(());
    }
    context.before_slow_host_call();
    file.operations.sync(true)
}

/// Advice is checked and not taken: the host reads ahead by itself.
pub fn fadvise64(context: &mut Context, fd: i32, _offset: i64, length: i64, advice: u32) -> Result<()> {
    let file = context.file(fd)?;
    if !file.operations.is_seekable() {
        return Err(Errno::ESPIPE);
    }
    if length < 0 || advice > 5 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

pub fn readahead(context: &mut Context, fd: i32, offset: i64, _count: u64) -> Result<()> {
    let file = context.file(fd)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    if !file.operations.is_seekable() || kind_of(&file)? != FileType::Regular || offset < 0 {
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// A file's place in a copy: an offset of its own, or the open file's position.
struct Cursor<'a> {
    file: &'a Arc<OpenFile>,
    /// Where the guest keeps the offset, and its value.
    own: Option<(u64, u64)>,
}

impl<'a> Cursor<'a> {
    fn new(context: &Context, file: &'a Arc<OpenFile>, address: UserAddress) -> Result<Cursor<'a>> {
        let own = match address.non_null() {
            None => None,
            Some(address) => {
                let offset: i64 = context.read(address)?;
                Some((address, u64::try_from(offset).map_err(|_| Errno::EINVAL)?))
            }
        };
        Ok(Cursor { file, own })
    }

    fn offset(&self) -> u64 {
        match self.own {
            Some((_, offset)) => offset,
            None => self.file.position.lock().get(),
        }
    }

    /// For streams there is no offset.
    fn at(&self) -> At {
        match self.own {
            Some((_, offset)) => At::Offset(offset),
            None if self.file.operations.is_seekable() => At::Offset(self.offset()),
            None => At::Position,
        }
    }

    fn advance(&mut self, count: u64) {
        match &mut self.own {
            Some((_, offset)) => *offset += count,
            None if self.file.operations.is_seekable() => {
                self.file.position.lock().advance(count);
            }
            None => {}
        }
    }

    fn store(&self, context: &Context) -> Result<()> {
        match self.own {
            Some((address, offset)) => context.write(address, &(offset as i64)),
            None => Ok(()),
        }
    }
}

fn waiting_of(file: &OpenFile) -> Waiting {
    if file.is_nonblocking() {
        Waiting::Refused
    } else {
        Waiting::Allowed
    }
}

/// Writes all of `buffer`, or as much as goes without waiting where that is refused; SIGPIPE goes with EPIPE.
fn write_all(context: &Context, output: &mut Cursor, buffer: &[u8], waiting: Waiting) -> Result<usize> {
    let mut written = 0;
    while written < buffer.len() {
        match write_from(context, output.file, &buffer[written..], output.at(), waiting) {
            Ok(0) => break,
            Ok(count) => {
                written += count;
                output.advance(count as u64);
                if written < buffer.len() && waiting == Waiting::Refused {
                    break;
                }
            }
            Err(Errno::EPIPE) => {
                let sender = context.task.credentials().ruid;
                context.task.send_signal(SignalInfo::user(Signal::SIGPIPE, SI_USER, context.process().pid(), sender));
                return if written > 0 { Ok(written) } else { Err(Errno::EPIPE) };
            }
            Err(_) if written > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    Ok(written)
}

/// Copies from a file that has positions; what could not be written is not read.
fn copy(context: &Context, input: &mut Cursor, output: &mut Cursor, count: u64, waiting: Waiting) -> Result<u64> {
    let mut buffer = vec![0; count.min(STEP as u64) as usize];
    let mut total = 0;
    let result = loop {
        let wanted = (count - total).min(buffer.len() as u64) as usize;
        if wanted == 0 {
            break Ok(());
        }
        let read = match read_into(context, input.file, &mut buffer[..wanted], input.at(), Waiting::Allowed) {
            Ok(0) => break Ok(()),
            Ok(read) => read,
            Err(errno) => break Err(errno),
        };
        let written = match write_all(context, output, &buffer[..read], waiting) {
            Ok(written) => written,
            Err(errno) => break Err(errno),
        };
        input.advance(written as u64);
        total += written as u64;
        if written < read {
            break Ok(());
        }
    };
    if total > 0 {
        if let Some(place) = &output.file.path {
            context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::MODIFY);
        }
        return Ok(total);
    }
    result.map(|()| 0)
}

pub fn sendfile(context: &mut Context, out_fd: i32, in_fd: i32, offset: UserAddress, count: u64) -> Result<u64> {
    let (input, output) = (context.file(in_fd)?, context.file(out_fd)?);
    if !input.is_readable() || !output.is_writable() {
        return Err(Errno::EBADF);
    }
    if !input.operations.is_seekable() {
        return Err(if offset.is_null() { Errno::EINVAL } else { Errno::ESPIPE });
    }
    if kind_of(&input)? == FileType::Directory || output.flags().contains(StatusFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut from = Cursor::new(context, &input, offset)?;
    let mut to = Cursor { file: &output, own: None };
    let mut count = count.min(TRANSFER_MAX);
    if output.operations.is_seekable() && kind_of(&output)? == FileType::Regular {
        count = check_file_size_limit(context, to.offset(), count)?;
    }
    let total = copy(context, &mut from, &mut to, count, waiting_of(&output))?;
    from.store(context)?;
    Ok(total)
}

pub fn copy_file_range(
    context: &mut Context,
    in_fd: i32,
    in_offset: UserAddress,
    out_fd: i32,
    out_offset: UserAddress,
    length: u64,
    flags: u32,
) -> Result<u64> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let (input, output) = (context.file(in_fd)?, context.file(out_fd)?);
    if !input.is_readable() || !output.is_writable() || output.flags().contains(StatusFlags::APPEND) {
        return Err(Errno::EBADF);
    }
    let (input_metadata, output_metadata) = (input.operations.metadata()?, output.operations.metadata()?);
    for kind in [input_metadata.kind, output_metadata.kind] {
        match kind {
            FileType::Regular => {}
            FileType::Directory => return Err(Errno::EISDIR),
            _ => return Err(Errno::EINVAL),
        }
    }
    let mut from = Cursor::new(context, &input, in_offset)?;
    let mut to = Cursor::new(context, &output, out_offset)?;
    let mut count = length.min(TRANSFER_MAX);
    let (start, target) = (from.offset(), to.offset());
    if start.checked_add(count).is_none() || target.checked_add(count).is_none() {
        return Err(Errno::EOVERFLOW);
    }
    count = count.min(input_metadata.size.saturating_sub(start));
    let same = input_metadata.device == output_metadata.device && input_metadata.inode == output_metadata.inode;
    if same && start < target.saturating_add(count) && target < start.saturating_add(count) {
        return Err(Errno::EINVAL);
    }
    count = check_file_size_limit(context, target, count)?;
    if let Some(place) = &output.path {
        permission::drop_set_id(context.task, place.inode())?;
    }
    let total = copy(context, &mut from, &mut to, count, Waiting::Allowed)?;
    from.store(context)?;
    to.store(context)?;
    Ok(total)
}

const SPLICE_F_NONBLOCK: u32 = 2;
const SPLICE_F_KNOWN: u32 = 15;

/// eventfd, epoll and their kin carry no bytes to splice.
fn is_event_object(file: &OpenFile) -> bool {
    file.path.is_none() && file.operations.anonymous_name().starts_with("anon_inode:")
}

fn is_pipe(file: &OpenFile) -> bool {
    file.downcast::<PipeEnd>().is_some()
}

/// Files, sockets and devices can; eventfd and its like cannot.
fn can_be_spliced(file: &OpenFile) -> Result<bool> {
    let anonymous = file.path.is_none() && file.operations.anonymous_name().starts_with("anon_inode:");
    Ok(!anonymous && kind_of(file)? != FileType::Directory)
}

/// Moves or copies between two pipes, waiting for either.
fn between_pipes(
    context: &Context,
    input: &OpenFile,
    output: &OpenFile,
    length: u64,
    flags: u32,
    how: Transfer,
) -> Result<u64> {
    let length = usize::try_from(length.min(TRANSFER_MAX)).map_err(|_| Errno::EINVAL)?;
    let refused = flags & SPLICE_F_NONBLOCK != 0 || input.is_nonblocking() || output.is_nonblocking();
    let attempt = || transfer::between(input, output, length, how).map(|count| count as u64);
    if refused {
        return attempt();
    }
    let (Some(first), Some(second)) = (input.operations.wait_queue(), output.operations.wait_queue()) else {
        return attempt();
    };
    let _other = second.register(context.task.waiter());
    context.block_on(first, None, attempt)
}

pub fn splice(
    context: &mut Context,
    in_fd: i32,
    in_offset: UserAddress,
    out_fd: i32,
    out_offset: UserAddress,
    length: u64,
    flags: u32,
) -> Result<u64> {
    if flags & !SPLICE_F_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let (input, output) = (context.file(in_fd)?, context.file(out_fd)?);
    if !input.is_readable() || !output.is_writable() {
        return Err(Errno::EBADF);
    }
    let (from_pipe, to_pipe) = (is_pipe(&input), is_pipe(&output));
    if is_event_object(&input) || is_event_object(&output) || kind_of(&input)? == FileType::Directory {
        return Err(Errno::EINVAL);
    }
    if (from_pipe && !in_offset.is_null()) || (to_pipe && !out_offset.is_null()) {
        return Err(Errno::ESPIPE);
    }
    if !from_pipe && !can_be_spliced(&input)? || !to_pipe && !can_be_spliced(&output)? {
        return Err(Errno::EINVAL);
    }
    let result = match (from_pipe, to_pipe) {
        (true, true) => between_pipes(context, &input, &output, length, flags, Transfer::Move),
        (false, false) => Err(Errno::EINVAL),
        (true, false) => from_pipe_to_file(context, &input, &output, out_offset, length, flags),
        (false, true) => from_file_to_pipe(context, &input, in_offset, &output, length, flags),
    };
    if let Err(Errno::EPIPE) = result {
        context.task.send_signal(SignalInfo::kernel(Signal::SIGPIPE));
    }
    result
}

/// What is taken out of the pipe must find its place: the write may wait even where the pipe may not.
fn from_pipe_to_file(
    context: &Context,
    input: &Arc<OpenFile>,
    output: &Arc<OpenFile>,
    offset: UserAddress,
    length: u64,
    flags: u32,
) -> Result<u64> {
    if !output.operations.is_seekable() && !offset.is_null() {
        return Err(Errno::ESPIPE);
    }
    if output.flags().contains(StatusFlags::APPEND) {
        return Err(Errno::EINVAL);
    }
    let mut to = Cursor::new(context, output, offset)?;
    let mut waiting = if flags & SPLICE_F_NONBLOCK != 0 { Waiting::Refused } else { waiting_of(input) };
    if output.is_nonblocking() && !output.operations.poll().contains(Events::OUT) {
        return Err(Errno::EAGAIN);
    }
    let mut count = length.min(TRANSFER_MAX);
    if output.operations.is_seekable() {
        count = check_file_size_limit(context, to.offset(), count)?;
    }
    let mut buffer = vec![0; count.min(STEP as u64) as usize];
    let mut total = 0;
    while total < count {
        let wanted = (count - total).min(buffer.len() as u64) as usize;
        let read = match read_into(context, input, &mut buffer[..wanted], At::Position, waiting) {
            Ok(0) => break,
            Ok(read) => read,
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        };
        let written = write_all(context, &mut to, &buffer[..read], Waiting::Allowed)?;
        total += written as u64;
        if written < read {
            break;
        }
        waiting = Waiting::Refused;
    }
    to.store(context)?;
    Ok(total)
}

fn from_file_to_pipe(
    context: &Context,
    input: &Arc<OpenFile>,
    offset: UserAddress,
    output: &Arc<OpenFile>,
    length: u64,
    flags: u32,
) -> Result<u64> {
    if !input.operations.is_seekable() && !offset.is_null() {
        return Err(Errno::ESPIPE);
    }
    let mut from = Cursor::new(context, input, offset)?;
    let nonblocking = flags & SPLICE_F_NONBLOCK != 0 || output.is_nonblocking();
    let count = length.min(TRANSFER_MAX);
    let total = if input.operations.is_seekable() {
        let waiting = if nonblocking { Waiting::Refused } else { Waiting::Allowed };
        // Up to what a pipe holds; more would only wait for the reader.
        copy(context, &mut from, &mut Cursor { file: output, own: None }, count.min(pipe::capacity(output)? as u64), waiting)?
    } else {
        if nonblocking && !output.operations.poll().contains(Events::OUT) {
            return Err(Errno::EAGAIN);
        }
        let mut buffer = vec![0; count.min(64 * 1024) as usize];
        let waiting = if flags & SPLICE_F_NONBLOCK != 0 { Waiting::Refused } else { waiting_of(input) };
        let read = read_into(context, input, &mut buffer, At::Position, waiting)?;
        write_all(context, &mut Cursor { file: output, own: None }, &buffer[..read], Waiting::Allowed)? as u64
    };
    from.store(context)?;
    Ok(total)
}

pub fn tee(context: &mut Context, in_fd: i32, out_fd: i32, length: u64, flags: u32) -> Result<u64> {
    if flags & !SPLICE_F_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    if length == 0 {
        return Ok(0);
    }
    let (input, output) = (context.file(in_fd)?, context.file(out_fd)?);
    if !input.is_readable() || !output.is_writable() {
        return Err(Errno::EBADF);
    }
    between_pipes(context, &input, &output, length, flags, Transfer::Copy)
}

/// vmsplice(2): the bytes are copied, which is allowed (SPLICE_F_GIFT is only a hint).
pub fn vmsplice(context: &mut Context, fd: i32, vector: UserAddress, count: u64, flags: u32) -> Result<u64> {
    if flags & !SPLICE_F_KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let file = context.file(fd)?;
    if !is_pipe(&file) {
        return Err(Errno::EBADF);
    }
    let mut segments = Segments::from_guest(context, vector.0, count)?;
    let waiting = if flags & SPLICE_F_NONBLOCK != 0 { Waiting::Refused } else { waiting_of(&file) };
    if file.is_writable() {
        fill_pipe(context, &file, &mut segments, waiting)
    } else {
        read_segments(context, &file, segments, At::Position, waiting)
    }
}

/// Waits for room once, then takes what the pipe holds and no more.
fn fill_pipe(context: &Context, file: &Arc<OpenFile>, segments: &mut Segments, waiting: Waiting) -> Result<u64> {
    let mut buffer = vec![0; segments.remaining().min(STEP as u64) as usize];
    let mut total = 0;
    let mut waiting = waiting;
    let mut output = Cursor { file, own: None };
    while segments.remaining() > 0 {
        let wanted = segments.remaining().min(buffer.len() as u64) as usize;
        let copied = segments.read_from_guest(context, &mut buffer[..wanted]);
        if copied == 0 {
            return if total > 0 { Ok(total) } else { Err(Errno::EFAULT) };
        }
        let written = match write_from(context, file, &buffer[..copied], At::Position, waiting) {
            Ok(written) => written,
            // SIGPIPE goes with it.
            Err(Errno::EPIPE) if total == 0 => {
                return write_all(context, &mut output, &buffer[..copied], Waiting::Refused).map(|count| count as u64)
            }
            Err(_) if total > 0 => break,
            Err(errno) => return Err(errno),
        };
        total += written as u64;
        if written < wanted {
            break;
        }
        waiting = Waiting::Refused;
    }
    Ok(total)
}
