//! Open files.
//!
//! [`FileOperations`] is what an open object can do (a pipe's end, a regular file, a socket ...); [`OpenFile`] is Linux's
//! open file description: the object with its status flags and position, shared by dup(2) and fork(2). Operations never
//! block: they answer EAGAIN, and the system call layer waits on [`FileOperations::wait_queue`] and tries again
//! (unless O_NONBLOCK). Lock order: `OpenFile::position` is outside of the object's own locks.

use crate::fs::directory_notify::Watching;
use crate::fs::inode::{DirectoryEntry, Metadata};
use crate::fs::lending::{Left, Lend, Usage};
use crate::fs::path::Path;
use crate::fs::position::{HandedOver, Position};
use crate::fs::text::Counted;
use crate::run::AddressSpace;
use crate::sync::{Hears, WaitQueue};
use crate::{Context, Errno, Result};
use parking_lot::{Mutex, RwLock};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::Arc;

bitflags::bitflags! {
    /// Readiness, with poll(2)'s values (EPOLL* has the same ones).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct Events: u32 {
        const IN = 0x001;
        const PRI = 0x002;
        const OUT = 0x004;
        const ERR = 0x008;
        const HUP = 0x010;
        const NVAL = 0x020;
        const RDNORM = 0x040;
        const RDBAND = 0x080;
        const WRNORM = 0x100;
        const WRBAND = 0x200;
        const RDHUP = 0x2000;
    }
}

bitflags::bitflags! {
    /// Status flags of an open file description, with open(2)'s values (x86-64).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct StatusFlags: u32 {
        const WRONLY = 0o1;
        const RDWR = 0o2;
        const APPEND = linux::O_APPEND;
        const NONBLOCK = linux::O_NONBLOCK;
        const DSYNC = linux::O_DSYNC;
        const SYNC = 0o4010000;
        const DIRECT = linux::O_DIRECT;
        const LARGEFILE = 0o100000;
        const NOATIME = linux::O_NOATIME;
        const PATH = linux::O_PATH;
        const ASYNC = 0o20000;
        const DIRECTORY = linux::O_DIRECTORY;
        const NOFOLLOW = linux::O_NOFOLLOW;
    }
}

/// How a mapping wants to use a file (mmap(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingRequest {
    /// MAP_SHARED: writes reach the file.
    pub shared: bool,
    /// The mapping is, or may become, writable.
    pub writable: bool,
    pub offset: u64,
    pub length: u64,
}

/// Which way bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    Read,
    Write,
}

/// What an open object can do. Defaults are the errors that Linux gives where an object lacks an operation.
#[allow(unused_variables)]
pub trait FileOperations: Send + Sync + Any {
    /// Reads at `offset` (ignored by streams). 0 = end of file. EAGAIN = nothing now.
    fn read(&self, file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes at `offset` (ignored by streams; O_APPEND has been resolved by [`FileOperations::append`] if supported).
    fn write(&self, file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        Err(Errno::EINVAL)
    }
    /// Writes at the end, atomically; returns how many bytes and the position behind them.
    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        Err(Errno::EINVAL)
    }
    /// Whether reads and writes go by position (regular files, directories, block devices). Streams give ESPIPE.
    fn is_seekable(&self) -> bool {
        false
    }
    /// lseek(2) is taken, and always leads to 0 (/dev/null and the like).
    fn stays_at_zero(&self) -> bool {
        false
    }
    /// null(4): there is nothing to read, and what is written is gone.
    fn is_null(&self) -> bool {
        false
    }
    /// lseek(2) for SEEK_END, SEEK_DATA, SEEK_HOLE: the file's size, or the next data or hole at or behind `offset`.
    fn size(&self) -> Result<u64> {
        Ok(self.metadata()?.size)
    }
    fn seek_data_or_hole(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.size()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        Ok(if hole { size } else { offset })
    }
    /// Readiness now. Objects that never block are always ready.
    fn poll(&self) -> Events {
        Events::IN | Events::OUT | Events::RDNORM | Events::WRNORM
    }
    /// Woken at every change that [`FileOperations::poll`] or an EAGAIN depends on; `None`: never blocks (EPERM in epoll).
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }
    /// The three as they are for one caller, where that makes a difference (signalfd: everybody reads their own signals).
    fn read_for(&self, context: &Context, file: &OpenFile, buffer: &mut [u8]) -> Result<usize> {
        self.read(file, buffer, 0)
    }
    fn poll_for(&self, context: &Context) -> Events {
        self.poll()
    }
    fn wait_queue_for<'a>(&'a self, context: &'a Context) -> Option<&'a WaitQueue> {
        self.wait_queue()
    }
    /// fstat(2).
    fn metadata(&self) -> Result<Metadata>;
    /// fcntl(2) commands that are the object's own.
    fn fcntl(&self, context: &mut Context, file: &OpenFile, command: u32, argument: u64) -> Result<u64> {
        Err(Errno::EINVAL)
    }
    /// Asked before read(2) and write(2) and their like begin: terminals stop background processes here.
    fn before_transfer(&self, context: &Context, direction: Transfer) -> Result<()> {
        Ok(())
    }
    /// [`FileOperations::read_timeout`] is over: what read(2) gives, or `None` to wait once more.
    fn read_timed_out(&self, file: &OpenFile, buffer: &mut [u8]) -> Option<Result<usize>> {
        Some(Err(Errno::EAGAIN))
    }
    /// How long read(2) and write(2) wait at most before EAGAIN (SO_RCVTIMEO, SO_SNDTIMEO); `None`: for ever.
    fn read_timeout(&self) -> Option<std::time::Duration> {
        None
    }
    fn write_timeout(&self) -> Option<std::time::Duration> {
        None
    }
    /// Bytes that a read has taken and nobody got: they come first in the next one.
    fn put_back(&self, bytes: &[u8]) {}
    /// ioctl(2): ENOTTY where the request is unknown.
    fn ioctl(&self, context: &mut Context, file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        Err(Errno::ENOTTY)
    }
    /// getdents(2): calls `emit` for each entry from `cursor` (0 = start; opaque otherwise) until it returns false.
    /// Each entry carries the cursor behind it. "." and ".." are among them (see [`crate::fs::listing`] for a directory
    /// whose names are known in advance).
    fn read_directory(&self, cursor: u64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        Err(Errno::ENOTDIR)
    }
    fn truncate(&self, size: u64) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// fallocate(2).
    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn sync(&self, data_only: bool) -> Result<()> {
        Err(Errno::EINVAL)
    }
    /// A host descriptor that a guest process may map as asked, valid at the same offsets: read-only unless
    /// `shared && writable`. ENODEV: cannot be mapped.
    fn mapping_descriptor(&self, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        Err(Errno::ENODEV)
    }
    /// The object that holds the data now, where that is another one (overlays).
    fn underlying(&self) -> Option<Result<Arc<dyn FileOperations>>> {
        None
    }
    /// A host description of this file and nothing else, for one open file with `flags` that stands at `position`: see
    /// [`crate::fs::direct`]. `None`: its data goes through the sentry only.
    fn host_description(&self, flags: StatusFlags, position: u64) -> Result<Option<HostDescription>> {
        Ok(None)
    }
    /// Up to where processes that have the file's host description may write by themselves; `None`: nowhere.
    fn direct_write_end(&self, flags: StatusFlags) -> Option<u64> {
        None
    }
    /// Writes at the host description's own offset (or at the end, with O_APPEND), which moves.
    fn write_at_host_offset(&self, descriptor: &OwnedFd, flags: StatusFlags, buffer: &[u8]) -> Result<usize> {
        rustix::io::write(descriptor, buffer).map_err(crate::fs::host::host_error)
    }
    /// The host's file behind it, if nothing in the sandbox can write to that.
    fn unchanging_descriptor(&self) -> Option<Arc<OwnedFd>> {
        None
    }
    /// What the file shows now, and up to `limit` bytes of its data from its start, where nobody in the sandbox can change it
    /// but by a call: not by a descriptor or a mapping that a process has for itself.
    fn at_rest(&self, limit: usize) -> Option<AtRest> {
        None
    }
    /// Data that [`FileOperations::at_rest`] gave has been read; `then` is the time that shows as the one of access.
    fn was_read(&self, file: &OpenFile, then: TimeSpec) {}
    /// The names of its extended attributes, where the open file tells them more cheaply than its inode.
    fn list_xattr(&self) -> Option<Result<Vec<Vec<u8>>>> {
        None
    }
    /// How threads use it, where its state can be lent to one of them (see [`crate::fs::lending`]).
    fn usage(&self) -> Option<&Usage> {
        None
    }
    /// Lends what it holds to who reads it by `reader`, which it is the object of, and writes it by `writer`. False: not now.
    fn lend(&self, reader: &OpenFile, writer: &OpenFile, lend: Lend) -> bool {
        false
    }
    /// Nothing that it has lent so is lent any more: a descriptor does not stand for it any longer, or it is another object now.
    fn end_loan(&self) {}
    /// Who it is lent to has made a change that somebody here waits for: by a read, or by a write.
    fn changed_where_lent(&self, direction: Transfer) {}
    /// The process behind `space` sees for itself, where this is lent to it under `fd`, what poll(2) would tell of it: whoever is
    /// registered, and has to hear of this, is told of changes no more, until he looks again. `None`: it does not, or there are
    /// several who are.
    fn left_to_look(&self, space: &Arc<AddressSpace>, fd: i32, hears: Hears) -> Option<Left> {
        None
    }
    /// Another process gets it, too.
    fn passed_on(&self) {}
    /// Called at each close(2) of a descriptor (not only the last): releases POSIX locks, flushes.
    fn flush(&self, file: &OpenFile) {}
    /// Status flags were changed by fcntl(F_SETFL).
    fn flags_changed(&self, flags: StatusFlags) {}
    /// The whole text after "flags:" in /proc/PID/fdinfo/N, if any.
    fn fdinfo(&self) -> String {
        String::new()
    }
    /// What readlink of /proc/PID/fd/N shows where the file has no path: "pipe:[123]", "anon_inode:[eventpoll]" ...
    fn anonymous_name(&self) -> String {
        "anon_inode:[unknown]".into()
    }
    /// For downcasts to the concrete object (epoll, sockets, tty).
    fn as_any(&self) -> &dyn Any;
}

type CloseAction = Box<dyn FnOnce() + Send>;

/// What is to be given back at the last close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastClose {
    Locks,
    Lease,
}

/// What [`FileOperations::host_description`] gives.
pub struct HostDescription {
    /// Open with exactly the guest's access mode.
    pub descriptor: Arc<OwnedFd>,
    pub sharing: Sharing,
    /// Let go with the open file.
    pub keep: Option<Box<dyn Send + Sync>>,
}

/// What [`FileOperations::at_rest`] gives.
pub struct AtRest {
    pub metadata: Metadata,
    pub data: Vec<u8>,
    /// Reading changes the metadata (the time of access).
    pub shows_reading: bool,
}

/// Who else has a host description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Nobody: its flags and offset are the open file's to set.
    Own,
    /// The sandbox's caller: its flags are theirs, its offset is where the open file stands.
    Callers,
}

/// An open file description (open(2), "Open file descriptions").
pub struct OpenFile {
    pub operations: Arc<dyn FileOperations>,
    /// Where it was opened, if it has a name in the tree.
    pub path: Option<Path>,
    flags: AtomicU32,
    pub position: Position,
    /// How often its data was used, up to a point: see [`crate::fs::direct`].
    pub(crate) data_use: AtomicU32,
    /// fcntl(F_SETOWN), F_SETSIG: (owner: pid, or negative process group; signal or 0).
    pub owner: RwLock<(i32, i32)>,
    /// The owner is one thread (F_SETOWN_EX with F_OWNER_TID).
    pub owner_is_thread: AtomicBool,
    /// The entry in the object's wait queue that serves O_ASYNC.
    pub(crate) signal_io: Mutex<Option<u64>>,
    /// It was made by the open(2) that gave this file (F_CREATED_QUERY).
    pub created: AtomicBool,
    pub(crate) directory_watch: Watching,
    /// Of a regular file that a task has opened by name.
    pub(crate) counted: Mutex<Option<Counted>>,
    /// The epoll lists that watch it.
    pub epoll_items: crate::event::epoll::FileItems,
    /// Run when the last descriptor and the last user are gone.
    last_close: Mutex<Vec<(LastClose, CloseAction)>>,
}

impl Drop for OpenFile {
    fn drop(&mut self) {
        self.epoll_items.file_closed(&*self.operations);
        if let (Some(key), Some(queue)) = (self.signal_io.get_mut().take(), self.operations.wait_queue()) {
            queue.remove(key);
        }
        for (_, action) in self.last_close.get_mut().drain(..) {
            action();
        }
    }
}

impl OpenFile {
    /// What fstat(2) shows. A FIFO or device that was opened by name is its node, however the file system made the
    /// object behind it (the overlay opens its upper's node).
    pub fn metadata(&self) -> Result<Metadata> {
        use crate::fs::inode::FileType;
        match &self.path {
            Some(path) if matches!(path.inode().kind(), FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice) => {
                path.inode().metadata()
            }
            _ => self.operations.metadata(),
        }
    }

    pub fn new(operations: Arc<dyn FileOperations>, flags: StatusFlags, path: Option<Path>) -> Arc<OpenFile> {
        Arc::new(OpenFile {
            operations,
            path,
            flags: AtomicU32::new(flags.bits()),
            position: Position::default(),
            data_use: AtomicU32::new(0),
            owner: RwLock::new((0, 0)),
            owner_is_thread: AtomicBool::new(false),
            signal_io: Mutex::new(None),
            created: AtomicBool::new(false),
            directory_watch: Watching::default(),
            counted: Mutex::default(),
            epoll_items: Default::default(),
            last_close: Mutex::default(),
        })
    }

    /// Runs `action` when the open file goes, unless there is one for the same purpose already.
    pub(crate) fn at_last_close(&self, purpose: LastClose, action: CloseAction) {
        let mut actions = self.last_close.lock();
        if actions.iter().all(|(present, _)| *present != purpose) {
            actions.push((purpose, action));
        }
    }

    /// Its last close gives nothing back: no lock, no lease.
    pub(crate) fn is_plain(&self) -> bool {
        self.last_close.lock().is_empty()
    }

    pub fn flags(&self) -> StatusFlags {
        StatusFlags::from_bits_retain(self.flags.load(Ordering::Relaxed))
    }

    pub fn set_flags(&self, flags: StatusFlags) {
        self.flags.store(flags.bits(), Ordering::Relaxed);
        if let Some(host) = self.position.handed_over().filter(|host| host.sharing == Sharing::Own) {
            let appends =
                if flags.contains(StatusFlags::APPEND) { rustix::fs::OFlags::APPEND } else { rustix::fs::OFlags::empty() };
            let _ = rustix::fs::fcntl_setfl(&*host.descriptor, appends);
        }
        self.operations.flags_changed(flags);
    }

    pub fn is_readable(&self) -> bool {
        !self.flags().intersects(StatusFlags::WRONLY | StatusFlags::PATH)
    }

    pub fn is_writable(&self) -> bool {
        let flags = self.flags();
        let access = flags & (StatusFlags::WRONLY | StatusFlags::RDWR);
        // Both (3, open(2)): for ioctl(2) only.
        (access == StatusFlags::WRONLY || access == StatusFlags::RDWR) && !flags.contains(StatusFlags::PATH)
    }

    pub fn is_nonblocking(&self) -> bool {
        self.flags().contains(StatusFlags::NONBLOCK)
    }

    /// The object that holds the data now.
    pub fn underlying(&self) -> Result<Arc<dyn FileOperations>> {
        self.operations.underlying().unwrap_or_else(|| Ok(self.operations.clone()))
    }

    /// The host description that has been handed to processes, as long as it is one of the file that is open.
    pub fn direct(&self) -> Option<&HandedOver> {
        let host = self.position.handed_over()?;
        let current = match self.operations.underlying() {
            None => true,
            Some(underlying) => underlying.is_ok_and(|underlying| Arc::ptr_eq(&underlying, &host.operations)),
        };
        current.then_some(host)
    }

    /// The object as `T`, if it is one.
    pub fn downcast<T: 'static>(&self) -> Option<&T> {
        self.operations.as_any().downcast_ref::<T>()
    }
}
