//! Calls that name a file: open(2), stat(2), access(2), readlink(2), chdir(2) and theirs.

use crate::context::Looked;
use crate::fs::board::Turned;
use crate::fs::file::OpenFile;
use crate::fs::inode::{FileType, Metadata};
use crate::fs::open::{self, OpenHow};
use crate::fs::path::Path;
use crate::fs::walk::{self, AllowEmpty, Follow, ResolveFlags, Resolved, Target};
use crate::syscall::UserAddress;
use crate::task::credentials::{Capabilities, CAP_SYS_CHROOT};
use crate::task::{AccessMode, Credentials};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::{StatX, StatXTimestamp, TimeSpec};
use skerry_platform::layout::loan::{self, known};
use std::sync::Arc;

const AT_FDCWD: i32 = linux::AT_FDCWD;

/// Whether links at the end are followed, from AT_SYMLINK_NOFOLLOW.
pub(super) fn follow_unless(flags: u32) -> Follow {
    if flags & linux::AT_SYMLINK_NOFOLLOW != 0 {
        Follow::No
    } else {
        Follow::Yes
    }
}

pub(super) fn allow_empty(flags: u32) -> AllowEmpty {
    if flags & linux::AT_EMPTY_PATH != 0 {
        AllowEmpty::Yes
    } else {
        AllowEmpty::No
    }
}

/// A path argument for a call with AT_EMPTY_PATH, where null stands for "".
pub(super) fn read_path_or_empty(context: &Context, path: UserAddress, flags: u32) -> Result<Vec<u8>> {
    if path.is_null() && flags & linux::AT_EMPTY_PATH != 0 {
        return Ok(Vec::new());
    }
    context.read_path(path.0)
}

fn install(context: &Context, file: Arc<OpenFile>, flags: u32) -> Result<i32> {
    context.install(file, flags & linux::O_CLOEXEC != 0)
}

pub fn openat(context: &mut Context, dirfd: i32, path: UserAddress, flags: u32, mode: u32) -> Result<i32> {
    let path = context.read_path(path.0)?;
    let file = open::open(context, dirfd, &path, OpenHow::from_open(flags, mode));
    note_absence(context, &path, &file);
    let file = file?;
    context.seen = file.path.clone().map(|place| (dirfd, path, place));
    install(context, file, flags)
}

pub fn open(context: &mut Context, path: UserAddress, flags: u32, mode: u32) -> Result<i32> {
    openat(context, AT_FDCWD, path, flags, mode)
}

pub fn creat(context: &mut Context, path: UserAddress, mode: u32) -> Result<i32> {
    openat(context, AT_FDCWD, path, linux::O_CREAT | linux::O_WRONLY | linux::O_TRUNC, mode)
}

/// openat2(2): unknown bits are errors here, not ignored.
pub fn openat2(context: &mut Context, dirfd: i32, path: UserAddress, how: UserAddress, size: u64) -> Result<i32> {
    const SIZE: u64 = 24;
    if size < SIZE {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let [flags, mode, resolve]: [u64; 3] = context.read(how.0)?;
    if size > SIZE {
        let mut rest = vec![0; (size - SIZE) as usize];
        context.read_bytes(how.0.wrapping_add(SIZE), &mut rest)?;
        if rest.iter().any(|&byte| byte != 0) {
            return Err(Errno::E2BIG);
        }
    }
    let flags = u32::try_from(flags).map_err(|_| Errno::EINVAL)?;
    let resolve = ResolveFlags::from_bits(resolve).ok_or(Errno::EINVAL)?;
    if flags & !open::KNOWN != 0 || resolve.contains(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
        return Err(Errno::EINVAL);
    }
    let creates = flags & linux::O_CREAT != 0 || flags & linux::O_TMPFILE == linux::O_TMPFILE;
    if (mode != 0 && !creates) || mode & !0o7777 != 0 {
        return Err(Errno::EINVAL);
    }
    if flags & linux::O_PATH != 0 && flags & !(linux::O_PATH | linux::O_DIRECTORY | linux::O_NOFOLLOW | linux::O_CLOEXEC) != 0 {
        return Err(Errno::EINVAL);
    }
    if resolve.contains(ResolveFlags::CACHED) {
        // Nothing is promised to be in a cache here: the caller tries again without.
        return Err(Errno::EAGAIN);
    }
    let path = context.read_path(path.0)?;
    let mut how = OpenHow::from_open(flags, mode as u32);
    how.resolve = resolve;
    let file = open::open(context, dirfd, &path, how)?;
    install(context, file, flags)
}

/// Everybody may be told that an absolute name is not there.
pub(super) fn note_absence<T>(context: &Context, path: &[u8], found: &Result<T>) {
    if matches!(found, Err(Errno::ENOENT)) {
        context.kernel().mounts.dentries.board.note(context.kernel(), path, Turned::OutAbsent);
    }
}

/// What a descriptor is (AT_EMPTY_PATH), and where.
fn metadata_of(context: &Context, dirfd: i32, flags: u32) -> Result<(Metadata, Option<Path>)> {
    match walk::resolve_at(context.task, dirfd, b"", follow_unless(flags), allow_empty(flags))? {
        Target::Path(path) => Ok((path.inode().metadata()?, Some(path))),
        Target::File(file) => Ok((file.metadata()?, file.path.clone())),
    }
}

/// What a name (or, with AT_EMPTY_PATH, a descriptor) is, and where.
fn metadata_at(context: &mut Context, dirfd: i32, path: &[u8], flags: u32) -> Result<(Metadata, Option<Path>)> {
    if path.is_empty() {
        return metadata_of(context, dirfd, flags);
    }
    let credentials = context.task.credentials();
    let Resolved { found, is_steady } =
        walk::resolve_with_metadata(context.task, &credentials, dirfd, path, follow_unless(flags));
    if is_steady && flags == 0 {
        let status = found.as_ref().map(|(place, metadata)| Some((*metadata, place.clone()))).map_err(|errno| *errno);
        looked(context, dirfd, path, known::STATUS, status);
    }
    note_absence(context, path, &found);
    found.map(|(place, metadata)| (metadata, Some(place)))
}

/// A call of this `kind` has said that of a name: it may be told before it is asked again.
fn looked(context: &mut Context, directory: i32, name: &[u8], kind: u32, answer: Result<Option<(Metadata, Path)>>) {
    let is_plain = match answer {
        Ok(_) => true,
        Err(errno) => matches!(errno, Errno::ENOENT | Errno::ENOTDIR | Errno::EACCES | Errno::EROFS),
    };
    if is_plain && name.len() <= loan::LONGEST_NAME {
        context.looked = Some(Looked { directory, name: name.to_vec(), kind, answer });
    }
}

pub fn newfstatat(context: &mut Context, dirfd: i32, path: UserAddress, buffer: UserAddress, flags: u32) -> Result<()> {
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH | linux::AT_NO_AUTOMOUNT) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path_or_empty(context, path, flags)?;
    let (metadata, place) = metadata_at(context, dirfd, &path, flags)?;
    if flags == linux::AT_SYMLINK_NOFOLLOW {
        context.seen = place.map(|place| (dirfd, path, place));
    }
    context.write(buffer.0, &metadata.stat())
}

pub fn stat(context: &mut Context, path: UserAddress, buffer: UserAddress) -> Result<()> {
    newfstatat(context, AT_FDCWD, path, buffer, 0)
}

pub fn lstat(context: &mut Context, path: UserAddress, buffer: UserAddress) -> Result<()> {
    newfstatat(context, AT_FDCWD, path, buffer, linux::AT_SYMLINK_NOFOLLOW)
}

pub fn fstat(context: &mut Context, fd: i32, buffer: UserAddress) -> Result<()> {
    let metadata = context.task.files().get(fd)?.metadata()?;
    context.write(buffer.0, &metadata.stat())
}

pub fn statx(context: &mut Context, dirfd: i32, path: UserAddress, flags: u32, mask: u32, buffer: UserAddress) -> Result<()> {
    let known = linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH | linux::AT_NO_AUTOMOUNT | linux::AT_STATX_SYNC_TYPE;
    if flags & !known != 0
        || flags & linux::AT_STATX_SYNC_TYPE == linux::AT_STATX_SYNC_TYPE
        || mask & linux::STATX__RESERVED != 0
    {
        return Err(Errno::EINVAL);
    }
    let path = read_path_or_empty(context, path, flags)?;
    let (metadata, place) = metadata_at(context, dirfd, &path, flags)?;
    let is_root = place.as_ref().is_some_and(|path| Arc::ptr_eq(&path.dentry, &path.mount.root));
    let mount_id = place.map_or(0, |path| path.mount.id);
    context.write(buffer.0, &statx_of(&metadata, mount_id, is_root))
}

fn statx_of(metadata: &Metadata, mount_id: u64, is_root: bool) -> StatX {
    let time = |time: TimeSpec| StatXTimestamp { sec: time.sec, nsec: time.nsec as u32, _reserved: 0 };
    let mut mask = linux::STATX_BASIC_STATS | linux::STATX_MNT_ID;
    if metadata.created.is_some() {
        mask |= linux::STATX_BTIME;
    }
    StatX {
        mask,
        blksize: metadata.block_size,
        attributes: if is_root { u64::from(linux::STATX_ATTR_MOUNT_ROOT) } else { 0 },
        attributes_mask: u64::from(linux::STATX_ATTR_MOUNT_ROOT),
        nlink: metadata.links as u32,
        uid: metadata.uid,
        gid: metadata.gid,
        mode: metadata.mode() as u16,
        ino: metadata.inode,
        size: metadata.size,
        blocks: metadata.blocks,
        atime: time(metadata.accessed),
        btime: time(metadata.created.unwrap_or_default()),
        ctime: time(metadata.changed),
        mtime: time(metadata.modified),
        rdev_major: metadata.represents.major,
        rdev_minor: metadata.represents.minor,
        dev_major: metadata.device.major,
        dev_minor: metadata.device.minor,
        mnt_id: mount_id,
        ..StatX::default()
    }
}

/// The credentials that access(2) checks with: the real ids.
fn real_credentials(credentials: &Credentials) -> Credentials {
    let mut real = credentials.clone();
    real.fsuid = real.ruid;
    real.fsgid = real.rgid;
    real.capabilities.effective = if real.ruid == 0 { real.capabilities.permitted } else { Capabilities::none().effective };
    real
}

pub fn faccessat2(context: &mut Context, dirfd: i32, path: UserAddress, mode: u32, flags: u32) -> Result<()> {
    if mode & !7 != 0 || flags & !(linux::AT_EACCESS | linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path_or_empty(context, path, flags)?;
    let credentials = context.task.credentials();
    let checked = if flags & linux::AT_EACCESS != 0 { (*credentials).clone() } else { real_credentials(&credentials) };
    let wanted = AccessMode::from_bits_truncate(mode);
    if path.is_empty() {
        let (metadata, place) = metadata_of(context, dirfd, flags)?;
        return check_place(&checked, &metadata, place.as_ref(), wanted);
    }
    let Resolved { found, is_steady } = walk::resolve_with_metadata(context.task, &checked, dirfd, &path, follow_unless(flags));
    note_absence(context, &path, &found);
    let may_change = found.as_ref().is_ok_and(|(place, _)| place.mount.file_system.is_volatile());
    let result = found.and_then(|(place, metadata)| check_place(&checked, &metadata, Some(&place), wanted));
    if is_steady && !may_change && flags == 0 {
        looked(context, dirfd, &path, known::ACCESS | mode, result.map(|()| None));
    }
    result
}

fn check_place(checked: &Credentials, metadata: &Metadata, place: Option<&Path>, wanted: AccessMode) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let Some(place) = place else { return checked.check_access(metadata, wanted) };
    let in_place = matches!(metadata.kind, FileType::Regular | FileType::Directory | FileType::Symlink);
    if wanted.contains(AccessMode::EXECUTE) && metadata.kind == FileType::Regular {
        permission_to_execute(place)?;
    }
    checked.check_access(metadata, wanted)?;
    if wanted.contains(AccessMode::WRITE) && in_place {
        place.mount.check_writable()?;
    }
    Ok(())
}

fn permission_to_execute(place: &Path) -> Result<()> {
    if place.mount.flags().contains(crate::fs::mount::MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    Ok(())
}

pub fn faccessat(context: &mut Context, dirfd: i32, path: UserAddress, mode: u32) -> Result<()> {
    faccessat2(context, dirfd, path, mode, 0)
}

pub fn access(context: &mut Context, path: UserAddress, mode: u32) -> Result<()> {
    faccessat2(context, AT_FDCWD, path, mode, 0)
}

/// readlinkat(2): an empty path means the link that `dirfd` is (opened with O_PATH | O_NOFOLLOW).
pub fn readlinkat(context: &mut Context, dirfd: i32, path: UserAddress, buffer: UserAddress, size: i32) -> Result<u64> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    let path = context.read_path(path.0)?;
    let found = walk::resolve_at(context.task, dirfd, &path, Follow::No, AllowEmpty::Yes);
    note_absence(context, &path, &found);
    let place = match found? {
        Target::Path(place) => place,
        Target::File(file) => file.path.clone().ok_or(Errno::ENOENT)?,
    };
    if place.inode().kind() != FileType::Symlink {
        let errno = if path.is_empty() { Errno::ENOENT } else { Errno::EINVAL };
        context.kernel().mounts.dentries.board.note(context.kernel(), &path, Turned::OutNoLink);
        return Err(errno);
    }
    let target = place.inode().read_link_for(context.task)?;
    let count = target.len().min(size as usize);
    context.write_bytes(buffer.0, &target[..count])?;
    Ok(count as u64)
}

pub fn readlink(context: &mut Context, path: UserAddress, buffer: UserAddress, size: i32) -> Result<u64> {
    readlinkat(context, AT_FDCWD, path, buffer, size)
}

/// getcwd(2): the length with its zero. ENOENT where the directory is gone, ERANGE where it does not fit.
pub fn getcwd(context: &mut Context, buffer: UserAddress, size: u64) -> Result<u64> {
    let fs = context.task.fs();
    if fs.current.dentry.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let mut name = match fs.current.absolute_name_below(&fs.root) {
        Some(name) => name,
        None => [b"(unreachable)", &fs.current.absolute_name(&fs.root)[..]].concat(),
    };
    name.push(0);
    if name.len() > crate::context::PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    if name.len() as u64 > size {
        return Err(Errno::ERANGE);
    }
    context.write_bytes(buffer.0, &name)?;
    Ok(name.len() as u64)
}

fn check_can_enter(context: &Context, place: &Path) -> Result<()> {
    if !place.dentry.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    context.task.credentials().check_access(&place.inode().metadata()?, AccessMode::EXECUTE)
}

pub fn chdir(context: &mut Context, path: UserAddress) -> Result<()> {
    let path = context.read_path(path.0)?;
    let place = walk::resolve(context.task, AT_FDCWD, &path, Follow::Yes)?;
    check_can_enter(context, &place)?;
    let old = std::mem::replace(&mut context.task.fs_cell().write().current, place);
    drop(old);
    Ok(())
}

pub fn fchdir(context: &mut Context, fd: i32) -> Result<()> {
    let file = context.task.files().get(fd)?;
    let place = file.path.clone().ok_or(Errno::ENOTDIR)?;
    check_can_enter(context, &place)?;
    let old = std::mem::replace(&mut context.task.fs_cell().write().current, place);
    drop(old);
    Ok(())
}

pub fn chroot(context: &mut Context, path: UserAddress) -> Result<()> {
    let path = context.read_path(path.0)?;
    let place = walk::resolve(context.task, AT_FDCWD, &path, Follow::Yes)?;
    check_can_enter(context, &place)?;
    if !context.task.credentials().has_capability(CAP_SYS_CHROOT) {
        return Err(Errno::EPERM);
    }
    let old = std::mem::replace(&mut context.task.fs_cell().write().root, place);
    drop(old);
    // Names mean something else now, also for those that share its root.
    for process in context.kernel().pids.processes() {
        process.tell_identity();
    }
    Ok(())
}

pub fn umask(context: &mut Context, mask: u32) -> Result<u32> {
    let cell = context.task.fs_cell();
    let mut fs = cell.write();
    Ok(std::mem::replace(&mut fs.umask, mask & 0o777))
}
