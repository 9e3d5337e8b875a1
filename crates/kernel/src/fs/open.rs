//! open(2): from a name and flags to an open file.

use crate::fs::file::{FileOperations, OpenFile, StatusFlags};
use crate::fs::inode::{FileType, Inode, Metadata, Names, NewNode, NewNodeKind, SetAttributes};
use crate::fs::mount::MountFlags;
use crate::fs::notify::NotifyMask;
use crate::fs::path::{Dentry, Path};
use crate::fs::text::{Counted, ReadAccess, WriteAccess};
use crate::fs::walk::{Follow, Last, Link, ResolveFlags, Walker};
use crate::fs::{lease, permission, walk};
use crate::task::credentials::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH};
use crate::task::AccessMode;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_control::Event;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// O_TMPFILE's own bit (the constant includes O_DIRECTORY).
const TMPFILE: u32 = 0o20000000;
/// Flags that act at open only, and are not kept.
const CREATION: u32 = linux::O_CREAT | linux::O_EXCL | linux::O_NOCTTY | linux::O_TRUNC | linux::O_CLOEXEC | TMPFILE;
/// What openat2(2) knows; open(2) ignores the rest.
pub const KNOWN: u32 = CREATION
    | linux::O_ACCMODE
    | linux::O_APPEND
    | linux::O_NONBLOCK
    | linux::O_SYNC
    | linux::O_DSYNC
    | linux::FASYNC
    | linux::O_DIRECT
    | 0o100000
    | linux::O_DIRECTORY
    | linux::O_NOFOLLOW
    | linux::O_NOATIME
    | linux::O_PATH;

/// How a file is to be opened.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    /// O_* as open(2) has them.
    pub flags: u32,
    /// Permission bits of a new file; umask(2) not yet applied.
    pub mode: u32,
    pub resolve: ResolveFlags,
    pub kinds: Kinds,
}

/// What may be opened at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kinds {
    Any,
    /// Regular files and directories: ENXIO for all that could wait, or act, when it is opened.
    Data,
}

impl OpenHow {
    /// As open(2) understands its arguments: what it does not know is ignored.
    pub fn from_open(flags: u32, mode: u32) -> OpenHow {
        let mut flags = flags & KNOWN;
        if flags & linux::O_PATH != 0 {
            flags &= linux::O_PATH | linux::O_DIRECTORY | linux::O_NOFOLLOW | linux::O_CLOEXEC;
        }
        if flags & linux::O_PATH == 0 {
            // As Linux sets it for every 64-bit program (O_LARGEFILE).
            flags |= 0o100000;
        }
        OpenHow { flags, mode: mode & 0o7777, resolve: ResolveFlags::empty(), kinds: Kinds::Any }
    }

    fn has(&self, flag: u32) -> bool {
        self.flags & flag == flag
    }

    fn creates(&self) -> bool {
        self.has(linux::O_CREAT)
    }

    fn status_flags(&self) -> StatusFlags {
        StatusFlags::from_bits_truncate(self.flags & !CREATION)
    }

    /// What the caller must be allowed to do with the file.
    fn access(&self) -> AccessMode {
        let mut access = match self.flags & linux::O_ACCMODE {
            linux::O_WRONLY => AccessMode::WRITE,
            linux::O_RDWR => AccessMode::READ | AccessMode::WRITE,
            3 => AccessMode::READ | AccessMode::WRITE,
            _ => AccessMode::READ,
        };
        if self.has(linux::O_TRUNC) {
            access |= AccessMode::WRITE;
        }
        access
    }
}

/// Opens `path` for the calling task; the file is not yet in a descriptor table.
pub fn open(context: &Context, dirfd: i32, path: &[u8], how: OpenHow) -> Result<Arc<OpenFile>> {
    if how.has(TMPFILE) {
        if !how.has(linux::O_DIRECTORY) || how.creates() || !how.access().contains(AccessMode::WRITE) {
            return Err(Errno::EINVAL);
        }
    } else if how.creates() && how.has(linux::O_DIRECTORY) {
        return Err(Errno::EINVAL);
    }
    let task = context.task;
    let credentials = task.credentials();
    let start = walk::start_of(task, dirfd, path)?;
    let mut walker = Walker::new(&context.kernel().mounts, task.fs().root, &credentials).of(task);
    walker.flags = how.resolve;
    if how.resolve.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
        // openat2(2): the starting directory is the root of this walk (a relative name starts at dirfd in any case).
        let base = walk::start_of(task, dirfd, b".")?;
        walker.root = base.clone();
        return open_walked(context, &mut walker, base, path, how);
    }
    open_walked(context, &mut walker, start, path, how)
}

fn open_walked(context: &Context, walker: &mut Walker, mut start: Path, path: &[u8], how: OpenHow) -> Result<Arc<OpenFile>> {
    let exclusive = how.creates() && how.has(linux::O_EXCL);
    let follow = !how.has(linux::O_NOFOLLOW) && !exclusive;
    if !how.creates() {
        let follow = if follow { Follow::Yes } else { Follow::No };
        for _ in 1..walk::ATTEMPTS {
            let (place, shown) = walker.walk_shown(&start, path, follow)?;
            match open_place(context, place, shown, how, Created::No) {
                // The host has given the name to another file meanwhile.
                Err(Errno::ESTALE) => {}
                result => return result,
            }
        }
        let (place, shown) = walker.walk_shown(&start, path, follow)?;
        return open_place(context, place, shown, how, Created::No);
    }
    let mut path = path.to_vec();
    loop {
        let (directory, last) = walker.parent(&start, &path)?;
        let name = match last {
            Last::Name { trailing_slash: true, .. } => return Err(Errno::EISDIR),
            Last::Name { name, .. } => name,
            Last::Root | Last::Dot | Last::DotDot => {
                if how.has(linux::O_EXCL) {
                    return Err(Errno::EEXIST);
                }
                return Err(Errno::EISDIR);
            }
        };
        match walker.step_shown(&directory, &name) {
            Ok((place, shown)) => {
                if how.has(linux::O_EXCL) {
                    return Err(Errno::EEXIST);
                }
                if place.inode().kind() == FileType::Symlink && follow {
                    match walker.read_link(&place)? {
                        Link::Name(target) => {
                            start = directory;
                            path = target;
                            continue;
                        }
                        Link::Place(place) => return open_place(context, place, None, how, Created::No),
                    }
                }
                return open_place(context, place, shown, how, Created::No);
            }
            Err(Errno::ENOENT) => match create(context, &directory, &name, how) {
                Ok(place) => return open_place(context, place, None, how, Created::Yes),
                // Somebody else was quicker: open theirs.
                Err(Errno::EEXIST) if !how.has(linux::O_EXCL) => continue,
                Err(errno) => return Err(errno),
            },
            Err(errno) => return Err(errno),
        }
    }
}

/// Opens, to look at it, what a walk has found and nobody has asked for yet: a regular file, where nobody can tell when that
/// was. `None`: it is to be asked for.
pub(crate) fn open_ahead(context: &Context, place: &Path, shown: Option<Metadata>, flags: u32) -> Option<Arc<OpenFile>> {
    let kernel = context.kernel();
    let inode = place.inode();
    let is_watched = kernel.watches.is_active()
        && (kernel.watches.is_watched(inode)
            || place.dentry.parent().is_some_and(|parent| kernel.watches.is_watched(&parent.inode)));
    let is_plain = inode.kind() == FileType::Regular && inode.is_at_rest();
    if !is_plain || is_watched || kernel.leases.is_any() || kernel.locks.is_locked(inode) {
        return None;
    }
    open_place(context, place.clone(), shown, OpenHow::from_open(flags, 0), Created::No).ok()
}

/// As [`open_ahead`], by a name in `directory` that a listing has shown as that of a regular file, where the directory's names
/// stand at `names`; for who may read all files. `read`: see [`Inode::open_listed`].
pub(crate) fn open_listed(
    context: &Context,
    directory: &Path,
    name: &[u8],
    names: Names,
    flags: u32,
    read: &mut dyn FnMut(&OwnedFd) -> bool,
) -> Option<(Arc<OpenFile>, Metadata)> {
    let kernel = context.kernel();
    let how = OpenHow::from_open(flags, 0);
    let credentials = context.task.credentials();
    let may_read = credentials.has_capability(CAP_DAC_OVERRIDE) || credentials.has_capability(CAP_DAC_READ_SEARCH);
    let is_plain = flags & (linux::O_PATH | linux::O_DIRECTORY | linux::O_NOATIME) == 0;
    if !may_read || !is_plain || kernel.watches.is_active() || kernel.leases.is_any() {
        return None;
    }
    let (dentry, metadata, operations) = directory.dentry.open_listed(name, names, how.status_flags(), read)?;
    if kernel.locks.is_locked(&dentry.inode) {
        return None;
    }
    let counted = Counted::Reader(ReadAccess::of(&dentry.inode));
    let file = OpenFile::new(operations, how.status_flags(), Some(Path { mount: directory.mount.clone(), dentry }));
    *file.counted.lock() = Some(counted);
    Some((file, metadata))
}

/// Whether the file was made by this very open, which then needs no permission on it (open(2), O_CREAT).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Created {
    Yes,
    No,
}

fn create(context: &Context, directory: &Path, name: &[u8], how: OpenHow) -> Result<Path> {
    let kind = NewNodeKind::Regular;
    let dentry = permission::create_node(context.task, directory, name, kind, how.mode)?;
    context.kernel().watches.report(&directory.dentry.inode, NotifyMask::CREATE, name, 0);
    Ok(Path { mount: directory.mount.clone(), dentry })
}

/// Opens what the walk has found, and perhaps has `shown` already.
fn open_place(
    context: &Context,
    place: Path,
    shown: Option<Metadata>,
    how: OpenHow,
    created: Created,
) -> Result<Arc<OpenFile>> {
    let inode = place.inode().clone();
    let kind = inode.kind();
    if how.has(linux::O_PATH) {
        if how.has(linux::O_DIRECTORY) && kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        return Ok(OpenFile::new(Arc::new(PathOnly { inode }), how.status_flags() | StatusFlags::PATH, Some(place)));
    }
    if kind == FileType::Symlink {
        return Err(if how.has(linux::O_DIRECTORY) { Errno::ENOTDIR } else { Errno::ELOOP });
    }
    if how.kinds == Kinds::Data && !matches!(kind, FileType::Regular | FileType::Directory) {
        return Err(Errno::ENXIO);
    }
    if how.has(TMPFILE) {
        return open_unnamed(context, &place, how);
    }
    if how.has(linux::O_DIRECTORY) && kind != FileType::Directory {
        return Err(Errno::ENOTDIR);
    }
    let access = how.access();
    if kind == FileType::Directory && (access.contains(AccessMode::WRITE) || how.creates()) {
        return Err(Errno::EISDIR);
    }
    let mut before = None;
    if created == Created::No {
        let credentials = context.task.credentials();
        let metadata = shown.map_or_else(|| inode.metadata(), Ok)?;
        before = Some(metadata);
        credentials.check_access(&metadata, access)?;
        if how.has(linux::O_NOATIME) && !credentials.is_owner_or_capable(metadata.uid) {
            return Err(Errno::EPERM);
        }
        // A FIFO, socket or device is written elsewhere than in its file system.
        if access.contains(AccessMode::WRITE) && matches!(kind, FileType::Regular | FileType::Directory) {
            place.mount.check_writable()?;
        }
        if matches!(kind, FileType::CharacterDevice | FileType::BlockDevice) && place.mount.flags().contains(MountFlags::NODEV)
        {
            return Err(Errno::EACCES);
        }
    }
    let writes = access.contains(AccessMode::WRITE);
    let counted = match kind {
        FileType::Regular if writes => Some(Counted::Writer(WriteAccess::of(&inode)?)),
        FileType::Regular => Some(Counted::Reader(ReadAccess::of(&inode))),
        _ => None,
    };
    if kind == FileType::Regular {
        let opening = if writes { lease::Opening::Write } else { lease::Opening::Read };
        lease::break_for(context, &inode, opening, how.has(linux::O_NONBLOCK))?;
    }
    if created == Created::No && how.has(linux::O_TRUNC) && kind == FileType::Regular {
        let kernel = context.kernel();
        let _shrinking = before.and_then(|metadata| crate::fs::direct::before_truncation(kernel, &inode, &metadata, 0));
        inode.set_attributes(&SetAttributes { size: Some(0), ..SetAttributes::default() })?;
        permission::drop_set_id(context.task, &inode)?;
        context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::MODIFY);
    }
    let file = finish(context, place, how)?;
    file.created.store(created == Created::Yes, Ordering::Relaxed);
    *file.counted.lock() = counted;
    Ok(file)
}

fn finish(context: &Context, place: Path, how: OpenHow) -> Result<Arc<OpenFile>> {
    let inode = place.inode().clone();
    let flags = how.status_flags();
    // Terminals want to know O_NOCTTY, which is no status flag.
    let no_controlling = how.flags & linux::O_NOCTTY;
    let for_device = match inode.kind() {
        FileType::CharacterDevice => StatusFlags::from_bits_retain(flags.bits() | no_controlling),
        _ => flags,
    };
    let operations: Arc<dyn FileOperations> = match inode.clone().open(context, for_device) {
        Ok(operations) => operations,
        Err(errno) => {
            report_denied(context, &place, errno);
            return Err(errno);
        }
    };
    context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::OPEN);
    Ok(OpenFile::new(operations, flags, Some(place)))
}

/// The host's own FIFO, socket or device in a host tree is refused: says so as an event.
fn report_denied(context: &Context, place: &Path, errno: Errno) {
    let kind = place.inode().kind();
    if !matches!(errno, Errno::ENXIO | Errno::EACCES) || place.mount.file_system.type_name() == "tmpfs" {
        return;
    }
    let what = match kind {
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice | FileType::BlockDevice => "device",
        _ => return,
    };
    (context.kernel().events)(Event::Denied {
        process: context.process().pid() as u32,
        what: what.into(),
        path: skerry_control::Bytes(place.absolute_name(&context.task.fs().root)),
    });
}

fn open_unnamed(context: &Context, directory: &Path, how: OpenHow) -> Result<Arc<OpenFile>> {
    if !directory.dentry.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    directory.mount.check_writable()?;
    let credentials = context.task.credentials();
    credentials.check_access(&directory.inode().metadata()?, AccessMode::WRITE | AccessMode::EXECUTE)?;
    let permissions = how.mode & !context.task.fs().umask;
    let node = NewNode { kind: NewNodeKind::Regular, permissions, uid: credentials.fsuid, gid: credentials.fsgid };
    let inode = directory.inode().create_unnamed(node)?;
    let name = format!("#{}", inode.metadata()?.inode).into_bytes();
    let dentry = Dentry::new_unnamed(inode, &directory.dentry, name);
    finish(context, Path { mount: directory.mount.clone(), dentry }, how)
}

/// What an O_PATH descriptor can do: nothing but name its file.
pub struct PathOnly {
    pub inode: Arc<dyn Inode>,
}

impl FileOperations for PathOnly {
    fn metadata(&self) -> Result<crate::fs::inode::Metadata> {
        self.inode.metadata()
    }
    fn as_any(&self) -> &dyn std::any::Any {
        self
    }
}

/// Opens a directory that a walk has found, for reading its names. ENOTDIR.
pub fn open_directory(context: &Context, place: &Path) -> Result<Arc<OpenFile>> {
    open_place(context, place.clone(), None, OpenHow::from_open(linux::O_RDONLY | linux::O_DIRECTORY, 0), Created::No)
}

/// Opens a regular file or directory without a task: boot and the control server, with all rights.
pub fn open_at_boot(place: &Path, flags: StatusFlags) -> Result<Arc<OpenFile>> {
    if flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR) {
        place.mount.check_writable()?;
    }
    let operations = place.inode().clone().open_data(flags)?;
    Ok(OpenFile::new(operations, flags, Some(place.clone())))
}
