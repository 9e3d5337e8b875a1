//! What a file system offers: inodes and their operations.
//!
//! File systems implement [`Inode`] and [`FileSystem`]; the path walk (`path`) and the system calls use them. Permission
//! checks are the walk's and the caller's business ([`crate::task::Credentials`]), not the file system's.

use crate::fs::clock;
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::listing::NameList;
use crate::fs::text::OpenCounts;
use crate::{Errno, Result};
use skerry_abi::structs::{Stat, StatFs, TimeSpec};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// What [`Inode::open_listed`] has opened.
pub struct OpenedListed {
    pub inode: Arc<dyn Inode>,
    pub metadata: Metadata,
    pub operations: Arc<dyn FileOperations>,
}

/// The type bits of a mode (inode(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum FileType {
    Fifo = 0o010000,
    CharacterDevice = 0o020000,
    Directory = 0o040000,
    BlockDevice = 0o060000,
    Regular = 0o100000,
    Symlink = 0o120000,
    Socket = 0o140000,
}

impl FileType {
    pub fn from_mode(mode: u32) -> Option<FileType> {
        Some(match mode & 0o170000 {
            0o010000 => FileType::Fifo,
            0o020000 => FileType::CharacterDevice,
            0o040000 => FileType::Directory,
            0o060000 => FileType::BlockDevice,
            0o100000 => FileType::Regular,
            0o120000 => FileType::Symlink,
            0o140000 => FileType::Socket,
            _ => return None,
        })
    }

    pub fn of_directory_entry(kind: u8) -> Option<FileType> {
        FileType::from_mode(u32::from(kind) << 12)
    }

    /// d_type of getdents(2).
    pub fn directory_entry_type(self) -> u8 {
        (self as u32 >> 12) as u8
    }
}

/// A device number, as makedev(3) splits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Hash)]
pub struct Device {
    pub major: u32,
    pub minor: u32,
}

impl Device {
    pub const fn new(major: u32, minor: u32) -> Device {
        Device { major, minor }
    }

    /// The 64-bit dev_t of stat(2).
    pub const fn encode(self) -> u64 {
        let (major, minor) = (self.major as u64, self.minor as u64);
        (minor & 0xff) | (major & 0xfff) << 8 | (minor & !0xff) << 12 | (major & !0xfff) << 32
    }

    pub const fn decode(value: u64) -> Device {
        Device {
            major: ((value >> 8) & 0xfff | (value >> 32) & !0xfff) as u32,
            minor: (value & 0xff | (value >> 12) & !0xff) as u32,
        }
    }
}

/// What stat(2) and statx(2) show. Ids are the guest's.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    pub device: Device,
    pub inode: u64,
    pub kind: FileType,
    /// Permission bits with set-id and sticky (07777).
    pub permissions: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    /// The device that a device node stands for.
    pub represents: Device,
    /// Bytes.
    pub size: u64,
    /// 512-byte units.
    pub blocks: u64,
    pub block_size: u32,
    pub accessed: TimeSpec,
    pub modified: TimeSpec,
    pub changed: TimeSpec,
    /// Birth time, where the file system keeps one.
    pub created: Option<TimeSpec>,
}

impl Metadata {
    pub fn mode(&self) -> u32 {
        self.kind as u32 | self.permissions
    }

    pub fn stat(&self) -> Stat {
        Stat {
            dev: self.device.encode(),
            ino: self.inode,
            nlink: self.links,
            mode: self.mode(),
            uid: self.uid,
            gid: self.gid,
            rdev: self.represents.encode(),
            size: self.size as i64,
            blksize: self.block_size.into(),
            blocks: self.blocks as i64,
            atime: self.accessed,
            mtime: self.modified,
            ctime: self.changed,
            ..Stat::default()
        }
    }
}

/// What is to be changed by chmod, chown, utimensat, truncate; `None` = left alone.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    pub permissions: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    pub size: Option<u64>,
    pub accessed: Option<TimeSpec>,
    pub modified: Option<TimeSpec>,
}

/// What a new node is to be.
#[derive(Clone, Debug)]
pub struct NewNode {
    pub kind: NewNodeKind,
    /// umask(2) has been applied.
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
}

#[derive(Clone, Debug)]
pub enum NewNodeKind {
    Regular,
    Directory,
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    CharacterDevice(Device),
    BlockDevice(Device),
}

/// One entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirectoryEntry<'a> {
    pub name: &'a [u8],
    pub inode: u64,
    pub kind: FileType,
    /// Where to go on behind this entry (d_off).
    pub next_cursor: u64,
}

bitflags::bitflags! {
    /// renameat2(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RenameFlags: u32 {
        const NOREPLACE = 1;
        const EXCHANGE = 2;
        const WHITEOUT = 4;
    }
}

/// Whether names that were looked up in a directory may be believed when they are asked for again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Names {
    /// Nobody changes them behind the guest kernel's back.
    Own,
    /// They are what they were as long as the directory has this stamp.
    At(Stamp),
    /// They have to be looked up each time.
    Changing,
}

/// When a directory on the host was last changed (its ctime, which nobody can set), and the other one that is merged with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(pub [TimeSpec; 2]);

impl Names {
    /// Whether a change from now on will show: else they have to be looked up again.
    pub fn if_settled(self) -> Names {
        match self {
            Names::At(Stamp(changes)) if !changes.into_iter().all(clock::is_settled) => Names::Changing,
            names => names,
        }
    }

    pub(crate) fn if_own(self) -> Names {
        if self == Names::Own {
            Names::Own
        } else {
            Names::Changing
        }
    }
}

/// Whether changes in a directory that are no calls are noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// Or there are none.
    Already,
    FromNowOn,
    Never,
}

impl Watched {
    /// Of a directory that is made of two.
    pub fn and(self, other: Watched) -> Watched {
        match (self, other) {
            (Watched::Never, _) | (_, Watched::Never) => Watched::Never,
            (Watched::Already, Watched::Already) => Watched::Already,
            _ => Watched::FromNowOn,
        }
    }
}

/// How far a name that led to an object may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// Until the guest itself changes it.
    Always,
    /// As [`Inode::names`] of its directory says.
    AsDirectory,
    Never,
}

/// An object of a file system. Directory operations give ENOTDIR by default, changes EROFS or EPERM.
#[allow(unused_variables)]
pub trait Inode: Send + Sync + Any {
    fn metadata(&self) -> Result<Metadata>;
    fn kind(&self) -> FileType;
    fn file_system(&self) -> Arc<dyn FileSystem>;
    /// How it is open, where that matters.
    fn open_counts(&self) -> Option<&OpenCounts> {
        None
    }
    /// `name` has no slash and is neither "." nor "..". ENOENT where it is not there.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        Err(Errno::ENOTDIR)
    }
    /// As [`Inode::lookup`], with what [`Inode::metadata`] of the result would say now, where the search has shown it.
    fn lookup_shown(&self, name: &[u8]) -> Result<(Arc<dyn Inode>, Option<Metadata>)> {
        Ok((self.lookup(name)?, None))
    }
    /// Directories: opens a regular file to be read, by a name that a listing has shown as one, where nobody in the sandbox can
    /// change what it is but by a call. `read` gets its descriptor before what it is is asked for, as reading moves the time of
    /// access; false: it is of no use. `None`: it has to be looked up, and opened then.
    fn open_listed(&self, name: &[u8], flags: StatusFlags, read: &mut dyn FnMut(&OwnedFd) -> bool) -> Option<OpenedListed> {
        None
    }
    /// Directories: how names in it stand now.
    fn names(&self) -> Names {
        if self.file_system().is_volatile() {
            Names::Changing
        } else {
            Names::Own
        }
    }
    /// Directories: has the host tell of changes of names in it, and of who may search it, from now on ([`crate::fs::board`]).
    fn watch_names(&self) -> Watched {
        if self.names() == Names::Own {
            Watched::Already
        } else {
            Watched::Never
        }
    }
    fn belief(&self) -> Belief {
        Belief::AsDirectory
    }
    /// Whether nobody in the sandbox can change what it shows but by a call: as [`FileOperations::at_rest`].
    fn is_at_rest(&self) -> bool {
        false
    }
    /// Of a regular file in memory that no process has had mapped: a number that names its data as long as it lives. What it
    /// shows changes by calls, and by what processes do with direct descriptors ([`crate::fs::direct`]).
    fn unmapped_content(&self) -> Option<usize> {
        None
    }
    /// Of a directory in memory whose names are all there are: how many names have been put into it so far.
    fn names_added(&self) -> Option<u64> {
        None
    }
    /// Directories: all names, where they are known and hold still.
    fn known_list(&self) -> Option<Arc<NameList>> {
        None
    }
    /// All names, as they stood at `names`.
    fn keep_list(&self, names: Names, list: &Arc<NameList>) {}
    /// Device and number alone.
    fn identity(&self) -> Result<(Device, u64)> {
        self.metadata().map(|metadata| (metadata.device, metadata.inode))
    }
    /// EEXIST where it is there. `node`'s ids are the guest's.
    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EROFS)
    }
    /// Another name for `target` (of the same file system, else EXDEV).
    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EROFS)
    }
    fn unlink(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }
    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// From this directory to `new_parent` (same file system, else EXDEV). Ancestry has been checked by the caller.
    fn rename(&self, name: &[u8], new_parent: &Arc<dyn Inode>, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// An inode without a name (O_TMPFILE).
    fn create_unnamed(&self, node: NewNode) -> Result<Arc<dyn Inode>> {
        Err(Errno::EOPNOTSUPP)
    }
    fn read_link(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }
    /// As [`Inode::read_link`], for links whose target depends on who walks (/proc/self).
    fn read_link_for(&self, reader: &crate::task::Task) -> Result<Vec<u8>> {
        self.read_link()
    }
    /// For "magic" links (/proc/PID/fd/N, /proc/PID/exe, cwd, root): where the walk goes at once, without a path walk.
    fn follow_magic(&self) -> Option<Result<crate::fs::path::Path>> {
        None
    }
    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        Err(Errno::EROFS)
    }
    /// Opens the object (for FIFOs, devices and the rest too). O_TRUNC has been done by the caller. May block through
    /// `context` (a FIFO waits for its other end).
    fn open(self: Arc<Self>, context: &crate::Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>>;
    /// Opens a regular file or directory, which needs no task: for boot, the control server, and file systems on top.
    fn open_data(self: Arc<Self>, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        Err(Errno::ENXIO)
    }
    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        Err(Errno::EOPNOTSUPP)
    }
    /// `flags`: XATTR_CREATE 1, XATTR_REPLACE 2 (setxattr(2)).
    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    /// The listening or bound unix socket behind a socket node, if one is bound now.
    fn bound_socket(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
    fn set_bound_socket(&self, socket: std::sync::Weak<dyn Any + Send + Sync>) -> Result<()> {
        Err(Errno::EOPNOTSUPP)
    }
    fn as_any(&self) -> &dyn Any;
}

/// A mounted file system's own properties.
pub trait FileSystem: Send + Sync + Any {
    fn root(&self) -> Arc<dyn Inode>;
    /// statfs(2).
    fn statistics(&self) -> Result<StatFs>;
    /// "overlay", "tmpfs", "proc" ... as /proc/mounts shows it.
    fn type_name(&self) -> &'static str;
    fn device(&self) -> Device;
    /// Brings to the disk what has one (syncfs(2)).
    fn sync(&self) -> Result<()> {
        Ok(())
    }
    /// Whether nothing can be written here at all (EROFS).
    fn is_read_only(&self) -> bool {
        false
    }
    /// Whether names come and go without a call that names them (proc): none is remembered.
    fn is_volatile(&self) -> bool {
        false
    }
}
