//! Host descriptors that the caller of the sandbox passed as standard input, output or error.
//!
//! [`HostFile`] lets a guest read and write one host descriptor as a native child of the caller would: a regular file
//! keeps the position that the caller sees, a pipe gives end of file and EPIPE, and nothing else of the host object can
//! be reached (no ioctl gets through). Two rules shape it:
//!
//! - A thread of the sentry never blocks in it. Whatever can block is switched to non-blocking operation.
//! - O_NONBLOCK is never set on the description that the caller shares: pipes and terminals are opened a second time
//!   through the sentry's own /proc/self/fd (opened before it is confined), sockets have MSG_DONTWAIT, and where neither
//!   can be had, each transfer is small and preceded by poll(2).
//!
//! Lock order: `OpenFile::position` > `Sequence`. No lock is held while a waker is called.

use crate::event::host::{host_error, HostReactor, HostWatch};
use crate::fs::file::{Events, FileOperations, HostDescription, MappingRequest, OpenFile, Sharing, StatusFlags};
use crate::fs::inode::{Device, FileType, Metadata, SetAttributes};
use crate::sync::{WaitQueue, Wake};
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{FallocateFlags, Mode, OFlags, SeekFrom};
use rustix::io::{IoSlice, IoSliceMut, ReadWriteFlags};
use rustix::net::{RecvFlags, SendFlags};
use skerry_abi::structs::TimeSpec;
use skerry_platform::host::own_descriptors;
use std::any::Any;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// The most that is written at once where a larger write could block (PIPE_BUF, pipe(7)).
const SMALL_WRITE: usize = 4096;
/// Major number of /dev/null, /dev/zero and their like, which never block.
const MEMORY_DEVICES: u32 = 1;
const FIONREAD: u32 = 0x541b;

/// How the descriptor is used so that no transfer blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    /// By position: regular files and block devices.
    Positioned,
    /// Never blocks and has no position to speak of: /dev/null and the like.
    Immediate,
    /// The description is ours alone and has O_NONBLOCK.
    NonBlocking,
    /// A socket: MSG_DONTWAIT.
    Socket,
    /// The description is shared: RWF_NOWAIT, or poll(2) before small transfers.
    Polled,
}

/// The host object itself; shared by all that was opened from it.
struct Host {
    descriptor: Arc<OwnedFd>,
    transfer: Transfer,
    /// The host's ids (uid, gid) that appear as 0 inside.
    caller: Option<(u32, u32)>,
    /// What a native child would see as its name in /proc/self/fd.
    name: String,
    /// For mmap(2): the same file opened a second time, read-only; and read-write, where it was so.
    mappable: Option<Arc<OwnedFd>>,
    mappable_shared: Option<Arc<OwnedFd>>,
    reactor: Arc<HostReactor>,
    readiness: Arc<Readiness>,
    /// Made at the first EAGAIN; `None` inside where the host cannot watch it.
    watch: OnceLock<Option<HostWatch>>,
}

#[derive(Default)]
struct Readiness {
    queue: WaitQueue,
}

impl Wake for Readiness {
    fn wake(&self) {
        self.queue.wake_all();
    }
}

/// A host descriptor as an open file of the guest. See the module's text.
pub struct HostFile {
    host: Arc<Host>,
    sequence: Mutex<Sequence>,
}

/// Whether transfers by [`HostFile`] move the position that the caller shares.
enum Sequence {
    /// They do; `expected` is the guest's position after the last transfer. A transfer there goes on where the *host*
    /// stands, which may be further on when the caller or a second descriptor of the same description wrote meanwhile.
    Shared { expected: u64 },
    /// They do not: opened a second time by the guest (/dev/stdout), or the open file's position is the host's itself
    /// ([`crate::fs::direct`]).
    Own,
}

impl HostFile {
    /// Wraps `descriptor`; `caller`: host ids (uid, gid) that appear as 0 inside.
    pub fn open(descriptor: OwnedFd, caller: Option<(u32, u32)>, reactor: &Arc<HostReactor>) -> Result<Arc<OpenFile>> {
        let stat = rustix::fs::fstat(&descriptor).map_err(host_error)?;
        let flags = rustix::fs::fcntl_getfl(&descriptor).map_err(host_error)?;
        let kind = FileType::from_mode(stat.st_mode).unwrap_or(FileType::Fifo);
        let represents = Device::decode(stat.st_rdev);
        let access = flags & (OFlags::WRONLY | OFlags::RDWR);
        let anonymous = stat.st_mode & 0o170000 == 0;

        let name = own_descriptors()
            .ok_or(rustix::io::Errno::NOENT)
            .and_then(|directory| rustix::fs::readlinkat(directory, descriptor.as_raw_fd().to_string(), Vec::new()))
            .map_or_else(|_| format!("host:[{}]", stat.st_ino), |name| name.to_string_lossy().into_owned());
        let (descriptor, transfer) = match kind {
            FileType::Regular | FileType::BlockDevice => (descriptor, Transfer::Positioned),
            FileType::Socket => (descriptor, Transfer::Socket),
            FileType::CharacterDevice if represents.major == MEMORY_DEVICES => (descriptor, Transfer::Immediate),
            // A second opening of another device may have effects (a new pseudo-terminal for /dev/ptmx): terminals only.
            FileType::CharacterDevice if represents != Device::new(5, 2) && rustix::termios::isatty(&descriptor) => {
                open_again_nonblocking(descriptor, access)
            }
            FileType::Fifo if !anonymous => open_again_nonblocking(descriptor, access),
            _ => (descriptor, Transfer::Polled),
        };
        let mut mappable = None;
        let mut mappable_shared = None;
        if kind == FileType::Regular && access != OFlags::WRONLY {
            mappable = open_again(&descriptor, OFlags::RDONLY).ok().map(Arc::new);
            if access == OFlags::RDWR {
                mappable_shared = open_again(&descriptor, OFlags::RDWR).ok().map(Arc::new);
            }
        }
        let position = match transfer {
            Transfer::Positioned => rustix::fs::tell(&descriptor).unwrap_or(0),
            _ => 0,
        };

        let status = StatusFlags::from_bits_truncate(flags.bits())
            & (StatusFlags::WRONLY | StatusFlags::RDWR | StatusFlags::APPEND | StatusFlags::NONBLOCK | StatusFlags::SYNC);
        let host = Host {
            descriptor: Arc::new(descriptor),
            transfer,
            caller,
            name,
            mappable,
            mappable_shared,
            reactor: reactor.clone(),
            readiness: Arc::default(),
            watch: OnceLock::new(),
        };
        let file = HostFile { host: Arc::new(host), sequence: Mutex::new(Sequence::Shared { expected: position }) };
        let file = OpenFile::new(Arc::new(file), status, None);
        let _ = file.position.lock().set(position);
        Ok(file)
    }

    /// The object as opened a second time by name (/dev/stdout, /proc/self/fd/1). EACCES where the descriptor was not
    /// opened for what `flags` ask; ENXIO for sockets.
    pub fn open_by_name(&self, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        if self.host.transfer == Transfer::Socket {
            return Err(Errno::ENXIO);
        }
        let have = rustix::fs::fcntl_getfl(&self.host.descriptor).map_err(host_error)? & (OFlags::WRONLY | OFlags::RDWR);
        let wants_write = flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR);
        let wants_read = !flags.contains(StatusFlags::WRONLY);
        if wants_write && have.is_empty() || wants_read && have == OFlags::WRONLY {
            return Err(Errno::EACCES);
        }
        Ok(Arc::new(HostFile { host: self.host.clone(), sequence: Mutex::new(Sequence::Own) }))
    }

    /// chmod(2) and the like on the open descriptor: only the size can be changed (ftruncate(2)); the rest is the host's.
    pub fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        if let Some(size) = attributes.size {
            self.truncate(size)?;
        }
        if attributes.permissions.is_some() || attributes.uid.is_some() || attributes.gid.is_some() {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// Runs one transfer by position, and keeps the host's position where a native program's would be.
    fn at_position(
        &self,
        offset: u64,
        sequential: impl FnOnce(&OwnedFd) -> rustix::io::Result<usize>,
        positioned: impl FnOnce(&OwnedFd) -> rustix::io::Result<usize>,
    ) -> Result<usize> {
        let descriptor = &*self.host.descriptor;
        let mut sequence = self.sequence.lock();
        match &mut *sequence {
            Sequence::Own => positioned(descriptor).map_err(host_error),
            Sequence::Shared { expected } if *expected == offset => {
                let count = sequential(descriptor).map_err(host_error)?;
                *expected = offset.saturating_add(count as u64);
                Ok(count)
            }
            Sequence::Shared { expected } => {
                let count = positioned(descriptor).map_err(host_error)?;
                *expected = offset.saturating_add(count as u64);
                let _ = rustix::fs::seek(descriptor, SeekFrom::Start(*expected));
                Ok(count)
            }
        }
    }
}

/// Opens the object behind `descriptor` a second time.
fn open_again(descriptor: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let directory = own_descriptors().ok_or(rustix::io::Errno::NOENT)?;
    let name = descriptor.as_raw_fd().to_string();
    rustix::fs::openat(directory, name, flags | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())
}

/// A description of our own with O_NONBLOCK instead of the caller's; the caller's where that cannot be had.
fn open_again_nonblocking(descriptor: OwnedFd, access: OFlags) -> (OwnedFd, Transfer) {
    match open_again(&descriptor, access | OFlags::NONBLOCK) {
        Ok(own) => (own, Transfer::NonBlocking),
        // ENXIO: the write end of a pipe that nobody reads any more (writes give EPIPE); or no /proc.
        Err(_) => (descriptor, Transfer::Polled),
    }
}

impl Host {
    fn poll_now(&self, wanted: PollFlags) -> PollFlags {
        let mut descriptors = [PollFd::new(&*self.descriptor, wanted)];
        match rustix::event::poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(_) => descriptors[0].revents(),
            Err(_) => PollFlags::empty(),
        }
    }

    /// Makes sure that somebody who waits is told. Called before EAGAIN, and before "not ready", is answered.
    fn watch(&self) {
        self.watch.get_or_init(|| self.reactor.watch(self.descriptor.clone(), self.readiness.clone()).ok());
    }

    fn watched<T>(&self, attempt: impl Fn() -> rustix::io::Result<T>) -> Result<T> {
        match attempt() {
            Err(rustix::io::Errno::AGAIN) if self.watch.get().is_none() => {
                self.watch();
                // It may have become ready before the watch was there.
                attempt().map_err(host_error)
            }
            other => other.map_err(host_error),
        }
    }

    /// `buffer` is filled as far as there is something now.
    fn read_stream(&self, buffer: &mut [u8]) -> Result<usize> {
        let buffer = std::cell::RefCell::new(buffer);
        self.watched(|| {
            let buffer = &mut **buffer.borrow_mut();
            match self.transfer {
                Transfer::Socket => rustix::net::recv(&*self.descriptor, buffer, RecvFlags::DONTWAIT).map(|(count, _)| count),
                Transfer::Polled => {
                    let no_wait = ReadWriteFlags::NOWAIT;
                    match rustix::io::preadv2(&*self.descriptor, &mut [IoSliceMut::new(buffer)], u64::MAX, no_wait) {
                        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::SPIPE) => {}
                        other => return other,
                    }
                    let ready = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
                    if !self.poll_now(PollFlags::IN).intersects(ready) {
                        return Err(rustix::io::Errno::AGAIN);
                    }
                    rustix::io::read(&*self.descriptor, buffer)
                }
                Transfer::Positioned | Transfer::Immediate | Transfer::NonBlocking => {
                    rustix::io::read(&*self.descriptor, buffer)
                }
            }
        })
    }

    fn write_stream(&self, buffer: &[u8]) -> Result<usize> {
        self.watched(|| match self.transfer {
            // MSG_NOSIGNAL: SIGPIPE is the guest's to get, not ours.
            Transfer::Socket => rustix::net::send(&*self.descriptor, buffer, SendFlags::DONTWAIT | SendFlags::NOSIGNAL),
            Transfer::Polled => {
                let no_wait = ReadWriteFlags::NOWAIT;
                match rustix::io::pwritev2(&*self.descriptor, &[IoSlice::new(buffer)], u64::MAX, no_wait) {
                    Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS | rustix::io::Errno::SPIPE) => {}
                    other => return other,
                }
                let ready = PollFlags::OUT | PollFlags::HUP | PollFlags::ERR;
                if !self.poll_now(PollFlags::OUT).intersects(ready) {
                    return Err(rustix::io::Errno::AGAIN);
                }
                rustix::io::write(&*self.descriptor, &buffer[..buffer.len().min(SMALL_WRITE)])
            }
            Transfer::Positioned | Transfer::Immediate | Transfer::NonBlocking => rustix::io::write(&*self.descriptor, buffer),
        })
    }

    fn metadata(&self) -> Result<Metadata> {
        let stat = rustix::fs::fstat(&*self.descriptor).map_err(host_error)?;
        let (uid, gid) = match self.caller {
            Some((uid, gid)) => {
                (if stat.st_uid == uid { 0 } else { stat.st_uid }, if stat.st_gid == gid { 0 } else { stat.st_gid })
            }
            None => (stat.st_uid, stat.st_gid),
        };
        Ok(Metadata {
            device: Device::decode(stat.st_dev),
            inode: stat.st_ino,
            // eventfd(2) and its like have no type bits; nothing that a program does with its streams depends on it.
            kind: FileType::from_mode(stat.st_mode).unwrap_or(FileType::Fifo),
            permissions: stat.st_mode & 0o7777,
            links: stat.st_nlink,
            uid,
            gid,
            represents: Device::decode(stat.st_rdev),
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            block_size: u32::try_from(stat.st_blksize).unwrap_or(4096),
            accessed: TimeSpec { sec: stat.st_atime, nsec: stat.st_atime_nsec as i64 },
            modified: TimeSpec { sec: stat.st_mtime, nsec: stat.st_mtime_nsec as i64 },
            changed: TimeSpec { sec: stat.st_ctime, nsec: stat.st_ctime_nsec as i64 },
            created: None,
        })
    }
}

impl FileOperations for HostFile {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        if self.host.transfer != Transfer::Positioned {
            return self.host.read_stream(buffer);
        }
        let buffer = std::cell::RefCell::new(buffer);
        self.at_position(
            offset,
            |descriptor| rustix::io::read(descriptor, &mut **buffer.borrow_mut()),
            |descriptor| rustix::io::pread(descriptor, &mut **buffer.borrow_mut(), offset),
        )
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        if self.host.transfer != Transfer::Positioned {
            return self.host.write_stream(buffer);
        }
        self.at_position(
            offset,
            |descriptor| rustix::io::write(descriptor, buffer),
            |descriptor| rustix::io::pwrite(descriptor, buffer, offset),
        )
    }

    fn append(&self, _file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        if self.host.transfer != Transfer::Positioned {
            return self.host.write_stream(buffer).map(|count| (count, 0));
        }
        let mut sequence = self.sequence.lock();
        let descriptor = &*self.host.descriptor;
        // The guest may have set O_APPEND on its own description only; u64::MAX: the host's position moves too.
        let count =
            rustix::io::pwritev2(descriptor, &[IoSlice::new(buffer)], u64::MAX, ReadWriteFlags::APPEND).map_err(host_error)?;
        let end = rustix::fs::tell(descriptor).map_err(host_error)?;
        if let Sequence::Shared { expected } = &mut *sequence {
            *expected = end;
        }
        Ok((count, end))
    }

    fn is_seekable(&self) -> bool {
        matches!(self.host.transfer, Transfer::Positioned | Transfer::Immediate)
    }

    fn size(&self) -> Result<u64> {
        match self.host.metadata()? {
            metadata if metadata.kind == FileType::BlockDevice => {
                let _sequence = self.sequence.lock();
                let descriptor = &*self.host.descriptor;
                let before = rustix::fs::tell(descriptor).map_err(host_error)?;
                let size = rustix::fs::seek(descriptor, SeekFrom::End(0)).map_err(host_error)?;
                rustix::fs::seek(descriptor, SeekFrom::Start(before)).map_err(host_error)?;
                Ok(size)
            }
            metadata => Ok(metadata.size),
        }
    }

    fn poll(&self) -> Events {
        if self.is_seekable() {
            return Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM;
        }
        let wanted = PollFlags::IN | PollFlags::OUT | PollFlags::PRI | PollFlags::RDNORM | PollFlags::WRNORM | PollFlags::RDHUP;
        // Before looking, so that a change behind the look is told to who registers now.
        self.host.watch();
        Events::from_bits_truncate(self.host.poll_now(wanted).bits().into())
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        (!self.is_seekable()).then_some(&self.host.readiness.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.host.metadata()
    }

    fn ioctl(&self, context: &mut Context, file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        if request != FIONREAD {
            return Err(Errno::ENOTTY);
        }
        let available = match self.host.transfer {
            Transfer::Positioned => self.size()?.saturating_sub(file.position.lock().get()),
            Transfer::Immediate => return Err(Errno::ENOTTY),
            Transfer::NonBlocking | Transfer::Socket | Transfer::Polled => {
                rustix::io::ioctl_fionread(&*self.host.descriptor).map_err(host_error)?
            }
        };
        context.write(argument, &i32::try_from(available).unwrap_or(i32::MAX))?;
        Ok(0)
    }

    fn truncate(&self, size: u64) -> Result<()> {
        if self.host.transfer != Transfer::Positioned {
            return Err(Errno::EINVAL);
        }
        rustix::fs::ftruncate(&*self.host.descriptor, size).map_err(host_error)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        match self.host.transfer {
            Transfer::Positioned => {
                rustix::fs::fallocate(&*self.host.descriptor, FallocateFlags::from_bits_retain(mode), offset, length)
                    .map_err(host_error)
            }
            Transfer::Immediate => Err(Errno::ENODEV),
            Transfer::NonBlocking | Transfer::Socket | Transfer::Polled => Err(Errno::ESPIPE),
        }
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if self.host.transfer != Transfer::Positioned {
            return Err(Errno::EINVAL);
        }
        let descriptor = &*self.host.descriptor;
        if data_only { rustix::fs::fdatasync(descriptor) } else { rustix::fs::fsync(descriptor) }.map_err(host_error)
    }

    fn mapping_descriptor(&self, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        let descriptor = if request.shared && request.writable { &self.host.mappable_shared } else { &self.host.mappable };
        descriptor.clone().ok_or(Errno::ENODEV)
    }

    fn host_description(&self, _flags: StatusFlags, position: u64) -> Result<Option<HostDescription>> {
        if self.host.transfer != Transfer::Positioned || self.host.metadata()?.kind != FileType::Regular {
            return Ok(None);
        }
        let mut sequence = self.sequence.lock();
        // From now on the host's own offset is where the guest stands; opened by name it has another one.
        let Sequence::Shared { expected } = &*sequence else { return Ok(None) };
        if *expected != position {
            rustix::fs::seek(&*self.host.descriptor, SeekFrom::Start(position)).map_err(host_error)?;
        }
        *sequence = Sequence::Own;
        Ok(Some(HostDescription { descriptor: self.host.descriptor.clone(), sharing: Sharing::Callers, keep: None }))
    }

    fn direct_write_end(&self, flags: StatusFlags) -> Option<u64> {
        // O_APPEND that the guest has set or cleared is its own, not the caller's.
        let appends = rustix::fs::fcntl_getfl(&*self.host.descriptor).is_ok_and(|flags| flags.contains(OFlags::APPEND));
        let synchronous = flags.intersects(StatusFlags::SYNC | StatusFlags::DSYNC);
        (appends == flags.contains(StatusFlags::APPEND) && !synchronous).then_some(u64::MAX)
    }

    fn write_at_host_offset(&self, descriptor: &OwnedFd, flags: StatusFlags, buffer: &[u8]) -> Result<usize> {
        let append = if flags.contains(StatusFlags::APPEND) { ReadWriteFlags::APPEND } else { ReadWriteFlags::empty() };
        // u64::MAX: at the description's offset, which moves.
        rustix::io::pwritev2(descriptor, &[IoSlice::new(buffer)], u64::MAX, append).map_err(host_error)
    }

    fn flush(&self, file: &OpenFile) {
        if self.host.transfer != Transfer::Positioned {
            return;
        }
        // The caller goes on where the guest stands (`head -1` seeks back to behind the line before it ends).
        let position = file.position.lock().get();
        if let Sequence::Shared { expected } = &mut *self.sequence.lock() {
            if *expected != position && rustix::fs::seek(&*self.host.descriptor, SeekFrom::Start(position)).is_ok() {
                *expected = position;
            }
        }
    }

    fn anonymous_name(&self) -> String {
        let Ok(metadata) = self.host.metadata() else { return "anon_inode:[unknown]".into() };
        match metadata.kind {
            FileType::Fifo => format!("pipe:[{}]", metadata.inode),
            FileType::Socket => format!("socket:[{}]", metadata.inode),
            _ => self.host.name.clone(),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, Write};
    use std::os::fd::AsFd;

    fn reactor() -> Arc<HostReactor> {
        Arc::default()
    }

    fn duplicate(descriptor: impl AsFd) -> OwnedFd {
        descriptor.as_fd().try_clone_to_owned().unwrap()
    }

    fn temporary_file() -> std::fs::File {
        rustix::fs::open("/tmp", OFlags::TMPFILE | OFlags::RDWR, Mode::from_raw_mode(0o600)).unwrap().into()
    }

    /// read(2) as the call layer does it: at the description's position, which moves.
    fn read(file: &Arc<OpenFile>, buffer: &mut [u8]) -> Result<usize> {
        let mut position = file.position.lock();
        let count = file.operations.read(file, buffer, position.get())?;
        position.advance(count as u64);
        Ok(count)
    }

    fn write(file: &Arc<OpenFile>, buffer: &[u8]) -> Result<usize> {
        let mut position = file.position.lock();
        let count = file.operations.write(file, buffer, position.get())?;
        position.advance(count as u64);
        Ok(count)
    }

    #[test]
    fn a_pipe_does_not_block_and_keeps_the_callers_description_as_it_was() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let file = HostFile::open(duplicate(&reader), None, &reactor()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read(&file, &mut buffer), Err(Errno::EAGAIN));
        assert!(!rustix::fs::fcntl_getfl(&reader).unwrap().contains(OFlags::NONBLOCK));
        assert!(!file.operations.poll().contains(Events::IN));
        rustix::io::write(&writer, b"hello").unwrap();
        assert!(file.operations.poll().contains(Events::IN));
        assert_eq!(read(&file, &mut buffer), Ok(5));
        drop(writer);
        assert_eq!(read(&file, &mut buffer), Ok(0));
        assert!(file.operations.poll().contains(Events::HUP));
        assert!(file.operations.anonymous_name().starts_with("pipe:["));
    }

    #[test]
    fn a_full_pipe_says_so_and_wakes_when_it_is_drained() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let file = HostFile::open(writer, None, &reactor()).unwrap();
        let block = [7; 65536];
        let mut total = 0;
        let error = loop {
            match write(&file, &block) {
                Ok(count) => total += count,
                Err(error) => break error,
            }
        };
        assert_eq!((error, total), (Errno::EAGAIN, 65536));
        let waiter = crate::sync::Waiter::new();
        let queue = file.operations.wait_queue().unwrap();
        let _registration = queue.register(waiter.clone());
        let mut drained = vec![0; 65536];
        let mut reader = std::fs::File::from(reader);
        reader.read_exact(&mut drained).unwrap();
        assert!(waiter.sleep(Some(std::time::Instant::now() + std::time::Duration::from_secs(10))));
        assert!(write(&file, b"more").is_ok());
        drop(reader);
        assert_eq!(write(&file, b"more"), Err(Errno::EPIPE));
    }

    #[test]
    fn sockets_are_used_without_touching_their_flags() {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        let file = HostFile::open(ours.into(), None, &reactor()).unwrap();
        let mut buffer = [0; 16];
        assert_eq!(read(&file, &mut buffer), Err(Errno::EAGAIN));
        (&theirs).write_all(b"abc").unwrap();
        assert_eq!(read(&file, &mut buffer), Ok(3));
        assert_eq!(write(&file, b"x"), Ok(1));
        drop(theirs);
        assert_eq!(write(&file, b"x"), Err(Errno::EPIPE));
    }

    #[test]
    fn a_regular_file_moves_the_callers_position() {
        let mut file_of_caller = temporary_file();
        file_of_caller.write_all(b"one\ntwo\nthree\n").unwrap();
        file_of_caller.rewind().unwrap();
        let file = HostFile::open(duplicate(&file_of_caller), None, &reactor()).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(read(&file, &mut buffer), Ok(8));
        assert_eq!(file_of_caller.stream_position().unwrap(), 8);
        // What head(1) does: back to behind the first line, then close.
        file.position.lock().set(4).unwrap();
        file.operations.flush(&file);
        assert_eq!(file_of_caller.stream_position().unwrap(), 4);
        assert_eq!(read(&file, &mut buffer[..4]), Ok(4));
        assert_eq!(&buffer[..4], b"two\n");
    }

    #[test]
    fn two_descriptors_of_one_description_do_not_overwrite_each_other() {
        let mut file_of_caller = temporary_file();
        let reactor = reactor();
        let output = HostFile::open(duplicate(&file_of_caller), None, &reactor).unwrap();
        let error = HostFile::open(duplicate(&file_of_caller), None, &reactor).unwrap();
        write(&output, b"a").unwrap();
        write(&error, b"b").unwrap();
        file_of_caller.write_all(b"c").unwrap();
        write(&output, b"d").unwrap();
        let mut text = String::new();
        file_of_caller.rewind().unwrap();
        file_of_caller.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abcd");
    }

    #[test]
    fn opened_by_name_it_has_a_position_of_its_own() {
        let mut file_of_caller = temporary_file();
        let output = HostFile::open(duplicate(&file_of_caller), None, &reactor()).unwrap();
        write(&output, b"abc").unwrap();
        let host_file = output.downcast::<HostFile>().unwrap();
        let second = OpenFile::new(host_file.open_by_name(StatusFlags::WRONLY).unwrap(), StatusFlags::WRONLY, None);
        write(&second, b"X").unwrap();
        write(&output, b"d").unwrap();
        let mut text = String::new();
        file_of_caller.rewind().unwrap();
        file_of_caller.read_to_string(&mut text).unwrap();
        assert_eq!(text, "Xbcd");
    }

    #[test]
    fn once_it_is_direct_the_callers_position_is_the_guests() {
        let mut file_of_caller = temporary_file();
        file_of_caller.write_all(b"one\ntwo\nthree\n").unwrap();
        file_of_caller.rewind().unwrap();
        let file = HostFile::open(duplicate(&file_of_caller), None, &reactor()).unwrap();
        assert_eq!(read(&file, &mut [0; 2]), Ok(2));
        // Somebody else has gone on with the description meanwhile: the guest goes on from there, as it would natively.
        file_of_caller.seek(std::io::SeekFrom::Start(3)).unwrap();
        assert!(file.hand_over().unwrap().is_some());
        assert_eq!(file.position.lock().get(), 3);
        file.position.lock().set(8).unwrap();
        assert_eq!(file_of_caller.stream_position().unwrap(), 8);
        assert_eq!(file.operations.read(&file, &mut [0; 4], 8), Ok(4));
        assert_eq!(file_of_caller.stream_position().unwrap(), 8, "pread(2) moves nothing");
        file.set_flags(StatusFlags::RDWR | StatusFlags::APPEND);
        assert!(!rustix::fs::fcntl_getfl(&file_of_caller).unwrap().contains(OFlags::APPEND), "the caller's flags");
        assert_eq!(file.direct_rights(false).write_end, None);
        let host = file.direct().unwrap();
        assert_eq!(file.operations.write_at_host_offset(&host.descriptor, file.flags(), b"end"), Ok(3));
        assert_eq!(file_of_caller.stream_position().unwrap(), 17);
    }

    #[test]
    fn append_reports_where_it_wrote() {
        let file_of_caller = temporary_file();
        (&file_of_caller).write_all(b"12345").unwrap();
        (&file_of_caller).rewind().unwrap();
        let file = HostFile::open(duplicate(&file_of_caller), None, &reactor()).unwrap();
        assert_eq!(file.operations.append(&file, b"67"), Ok((2, 7)));
    }

    #[test]
    fn the_null_device_is_shown_as_it_is() {
        let null = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null").unwrap();
        let file = HostFile::open(null.into(), None, &reactor()).unwrap();
        assert_eq!(file.operations.metadata().unwrap().represents, Device::new(1, 3));
        assert_eq!(write(&file, b"abc"), Ok(3));
        assert_eq!(read(&file, &mut [0; 4]), Ok(0));
        assert!(file.operations.wait_queue().is_none());
        assert_eq!(file.operations.anonymous_name(), "/dev/null");
    }
}
