//! chmod(2), chown(2), utimensat(2), truncate(2) and theirs, statfs(2).

use crate::fs::clock;
use crate::fs::direct;
use crate::fs::file::OpenFile;
use crate::fs::inode::{FileType, Inode, Metadata, SetAttributes};
use crate::fs::lease;
use crate::fs::mount::{Mount, MountFlags};
use crate::fs::notify::NotifyMask;
use crate::fs::path::Path;
use crate::fs::permission;
use crate::fs::text::WriteAccess;
use crate::fs::walk::{self, Follow, Target};
use crate::syscall::path::{allow_empty, follow_unless, read_path_or_empty};
use crate::syscall::read_write::check_file_size_limit;
use crate::syscall::UserAddress;
use crate::task::credentials::{CAP_CHOWN, CAP_FSETID};
use crate::task::AccessMode;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::{StatFs, TimeSpec, TimeVal};
use std::sync::Arc;

const AT_FDCWD: i32 = linux::AT_FDCWD;

/// The place that a call with AT_EMPTY_PATH is about; EBADF for an open file that has none (a pipe, a socket).
fn place_of(target: Target) -> Result<Path> {
    match target {
        Target::Path(path) => Ok(path),
        Target::File(file) => place_of_file(&file),
    }
}

fn place_of_file(file: &OpenFile) -> Result<Path> {
    file.path.clone().ok_or(Errno::EBADF)
}

fn change(context: &Context, place: &Path, attributes: &SetAttributes) -> Result<()> {
    place.inode().set_attributes(attributes)?;
    if place.dentry.is_directory() {
        // Who may search it, perhaps.
        context.kernel().mounts.dentries.board.changes(&place.dentry);
    }
    if attributes.permissions.is_some_and(|permissions| permissions & 0o6000 != 0) {
        // The sentry takes such bits away when the file is written.
        direct::clear(context.kernel(), place.inode());
    }
    context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::ATTRIB);
    Ok(())
}

fn change_mode(context: &Context, place: &Path, mode: u32) -> Result<()> {
    if place.inode().kind() == FileType::Symlink {
        return Err(Errno::EOPNOTSUPP);
    }
    place.mount.check_writable()?;
    let metadata = place.inode().metadata()?;
    let credentials = context.task.credentials();
    if !credentials.is_owner_or_capable(metadata.uid) {
        return Err(Errno::EPERM);
    }
    let mut permissions = mode & 0o7777;
    if !credentials.in_group(metadata.gid) && !credentials.has_capability(CAP_FSETID) {
        permissions &= !0o2000;
    }
    change(context, place, &SetAttributes { permissions: Some(permissions), ..SetAttributes::default() })
}

pub fn fchmodat2(context: &mut Context, dirfd: i32, path: UserAddress, mode: u32, flags: u32) -> Result<()> {
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path_or_empty(context, path, flags)?;
    let target = walk::resolve_at(context.task, dirfd, &path, follow_unless(flags), allow_empty(flags))?;
    change_mode(context, &place_of(target)?, mode)
}

pub fn fchmodat(context: &mut Context, dirfd: i32, path: UserAddress, mode: u32) -> Result<()> {
    fchmodat2(context, dirfd, path, mode, 0)
}

pub fn chmod(context: &mut Context, path: UserAddress, mode: u32) -> Result<()> {
    fchmodat2(context, AT_FDCWD, path, mode, 0)
}

pub fn fchmod(context: &mut Context, fd: i32, mode: u32) -> Result<()> {
    let file = context.file(fd)?;
    match &file.path {
        Some(place) => change_mode(context, place, mode),
        // A pipe's or socket's own inode is nobody else's to see.
        None => Ok(()),
    }
}

fn change_owner(context: &Context, place: &Path, uid: u32, gid: u32) -> Result<()> {
    place.mount.check_writable()?;
    let metadata = place.inode().metadata()?;
    let credentials = context.task.credentials();
    let uid = (uid != u32::MAX).then_some(uid);
    let gid = (gid != u32::MAX).then_some(gid);
    if !credentials.has_capability(CAP_CHOWN) {
        let owner = credentials.fsuid == metadata.uid;
        let keeps_owner = uid.is_none_or(|uid| owner && uid == metadata.uid);
        let group_allowed = gid.is_none_or(|gid| owner && (credentials.in_group(gid) || gid == metadata.gid));
        if !keeps_owner || !group_allowed {
            return Err(Errno::EPERM);
        }
    }
    let mut attributes = SetAttributes { uid, gid, ..SetAttributes::default() };
    if metadata.kind == FileType::Regular {
        let kept = permission::without_set_id(metadata.permissions);
        if kept != metadata.permissions {
            attributes.permissions = Some(kept);
        }
        let _ =
            place.inode().get_xattr(b"security.capability").and_then(|_| place.inode().remove_xattr(b"security.capability"));
    }
    change(context, place, &attributes)
}

pub fn fchownat(context: &mut Context, dirfd: i32, path: UserAddress, uid: u32, gid: u32, flags: u32) -> Result<()> {
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let path = read_path_or_empty(context, path, flags)?;
    let target = walk::resolve_at(context.task, dirfd, &path, follow_unless(flags), allow_empty(flags))?;
    change_owner(context, &place_of(target)?, uid, gid)
}

pub fn chown(context: &mut Context, path: UserAddress, uid: u32, gid: u32) -> Result<()> {
    fchownat(context, AT_FDCWD, path, uid, gid, 0)
}

pub fn lchown(context: &mut Context, path: UserAddress, uid: u32, gid: u32) -> Result<()> {
    fchownat(context, AT_FDCWD, path, uid, gid, linux::AT_SYMLINK_NOFOLLOW)
}

pub fn fchown(context: &mut Context, fd: i32, uid: u32, gid: u32) -> Result<()> {
    let file = context.file(fd)?;
    match &file.path {
        Some(place) => change_owner(context, place, uid, gid),
        None => Ok(()),
    }
}

/// One of utimensat(2)'s times.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Now,
    Omit,
    At(TimeSpec),
}

impl Stamp {
    fn from_timespec(time: TimeSpec) -> Result<Stamp> {
        match time.nsec {
            value if value == i64::from(linux::UTIME_NOW) => Ok(Stamp::Now),
            value if value == i64::from(linux::UTIME_OMIT) => Ok(Stamp::Omit),
            0..1_000_000_000 => Ok(Stamp::At(time)),
            _ => Err(Errno::EINVAL),
        }
    }

    fn from_timeval(time: TimeVal) -> Result<Stamp> {
        if !(0..1_000_000).contains(&time.usec) {
            return Err(Errno::EINVAL);
        }
        Ok(Stamp::At(TimeSpec { sec: time.sec, nsec: time.usec * 1000 }))
    }

    fn resolve(self) -> Option<TimeSpec> {
        match self {
            Stamp::Now => Some(clock::now()),
            Stamp::Omit => None,
            Stamp::At(time) => Some(time),
        }
    }
}

fn change_times(context: &Context, place: &Path, stamps: [Stamp; 2]) -> Result<()> {
    if stamps == [Stamp::Omit; 2] {
        return Ok(());
    }
    place.mount.check_writable()?;
    let metadata = place.inode().metadata()?;
    let credentials = context.task.credentials();
    if !credentials.is_owner_or_capable(metadata.uid) {
        if stamps != [Stamp::Now; 2] {
            return Err(Errno::EPERM);
        }
        // The present time may be set by whoever may write (utimensat(2)).
        credentials.check_access(&metadata, AccessMode::WRITE)?;
    }
    let attributes = SetAttributes { accessed: stamps[0].resolve(), modified: stamps[1].resolve(), ..SetAttributes::default() };
    change(context, place, &attributes)
}

pub fn utimensat(context: &mut Context, dirfd: i32, path: UserAddress, times: UserAddress, flags: u32) -> Result<()> {
    if flags & !(linux::AT_SYMLINK_NOFOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let stamps = match times.non_null() {
        None => [Stamp::Now; 2],
        Some(address) => {
            let [accessed, modified]: [TimeSpec; 2] = context.read(address)?;
            [Stamp::from_timespec(accessed)?, Stamp::from_timespec(modified)?]
        }
    };
    if path.is_null() && dirfd != AT_FDCWD {
        // futimens(3).
        if flags & linux::AT_SYMLINK_NOFOLLOW != 0 {
            return Err(Errno::EINVAL);
        }
        let file = context.file(dirfd)?;
        return match &file.path {
            Some(place) => change_times(context, place, stamps),
            None => Ok(()),
        };
    }
    let path = read_path_or_empty(context, path, flags)?;
    let target = walk::resolve_at(context.task, dirfd, &path, follow_unless(flags), allow_empty(flags))?;
    change_times(context, &place_of(target)?, stamps)
}

pub fn futimesat(context: &mut Context, dirfd: i32, path: UserAddress, times: UserAddress) -> Result<()> {
    let stamps = match times.non_null() {
        None => [Stamp::Now; 2],
        Some(address) => {
            let [accessed, modified]: [TimeVal; 2] = context.read(address)?;
            [Stamp::from_timeval(accessed)?, Stamp::from_timeval(modified)?]
        }
    };
    if path.is_null() && dirfd != AT_FDCWD {
        return change_times(context, &place_of_file(&*context.file(dirfd)?)?, stamps);
    }
    let path = context.read_path(path.0)?;
    change_times(context, &walk::resolve(context.task, dirfd, &path, Follow::Yes)?, stamps)
}

pub fn utimes(context: &mut Context, path: UserAddress, times: UserAddress) -> Result<()> {
    futimesat(context, AT_FDCWD, path, times)
}

/// utime(2): whole seconds.
pub fn utime(context: &mut Context, path: UserAddress, times: UserAddress) -> Result<()> {
    let stamps = match times.non_null() {
        None => [Stamp::Now; 2],
        Some(address) => {
            let seconds: [i64; 2] = context.read(address)?;
            seconds.map(|sec| Stamp::At(TimeSpec { sec, nsec: 0 }))
        }
    };
    let path = context.read_path(path.0)?;
    change_times(context, &walk::resolve(context.task, AT_FDCWD, &path, Follow::Yes)?, stamps)
}

/// A new length: EINVAL where it is negative, EFBIG over RLIMIT_FSIZE.
fn length_of(context: &Context, metadata: &Metadata, length: i64) -> Result<u64> {
    let length = u64::try_from(length).map_err(|_| Errno::EINVAL)?;
    if length > metadata.size {
        let growth = length - metadata.size;
        if check_file_size_limit(context, metadata.size, growth)? < growth {
            context.task.send_signal(skerry_abi::signal::SignalInfo::kernel(skerry_abi::signal::Signal::SIGXFSZ));
            return Err(Errno::EFBIG);
        }
    }
    Ok(length)
}

pub fn truncate(context: &mut Context, path: UserAddress, length: i64) -> Result<()> {
    if length < 0 {
        return Err(Errno::EINVAL);
    }
    let path = context.read_path(path.0)?;
    let place = walk::resolve(context.task, AT_FDCWD, &path, Follow::Yes)?;
    let inode: &Arc<dyn Inode> = place.inode();
    match inode.kind() {
        FileType::Regular => {}
        FileType::Directory => return Err(Errno::EISDIR),
        _ => return Err(Errno::EINVAL),
    }
    let metadata = inode.metadata()?;
    context.task.credentials().check_access(&metadata, AccessMode::WRITE)?;
    place.mount.check_writable()?;
    let _writes = WriteAccess::of(inode)?;
    lease::break_for(context, inode, lease::Opening::Write, false)?;
    let size = length_of(context, &metadata, length)?;
    let _shrinking = direct::before_truncation(context.kernel(), inode, &metadata, size);
    inode.set_attributes(&SetAttributes { size: Some(size), ..SetAttributes::default() })?;
    permission::drop_set_id(context.task, inode)?;
    context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::MODIFY);
    Ok(())
}

pub fn ftruncate(context: &mut Context, fd: i32, length: i64) -> Result<()> {
    if length < 0 {
        return Err(Errno::EINVAL);
    }
    let file = context.file(fd)?;
    if !file.is_writable() || !file.operations.is_seekable() {
        return Err(Errno::EINVAL);
    }
    let metadata = file.operations.metadata()?;
    let size = length_of(context, &metadata, length)?;
    {
        let place = file.path.as_ref();
        let _shrinking = place.and_then(|place| direct::before_truncation(context.kernel(), place.inode(), &metadata, size));
        file.operations.truncate(size)?;
    }
    if let Some(place) = &file.path {
        permission::drop_set_id(context.task, place.inode())?;
        context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::MODIFY);
    }
    Ok(())
}

/// statfs(2)'s f_flags: ST_VALID, and the mount's.
fn statistics(mount: &Mount) -> Result<StatFs> {
    const VALID: i64 = 0x20;
    let mut statistics = mount.file_system.statistics()?;
    let flags = mount.flags();
    statistics.flags = VALID;
    for (flag, value) in [
        (MountFlags::NOSUID, 2),
        (MountFlags::NODEV, 4),
        (MountFlags::NOEXEC, 8),
        (MountFlags::NOATIME, 1024),
        (MountFlags::NODIRATIME, 2048),
        (MountFlags::RELATIME, 4096),
    ] {
        if flags.contains(flag) {
            statistics.flags |= value;
        }
    }
    if mount.is_read_only() {
        statistics.flags |= 1;
    }
    Ok(statistics)
}

pub fn statfs(context: &mut Context, path: UserAddress, buffer: UserAddress) -> Result<()> {
    let path = context.read_path(path.0)?;
    let place = walk::resolve(context.task, AT_FDCWD, &path, Follow::Yes)?;
    context.write(buffer.0, &statistics(&place.mount)?)
}

pub fn fstatfs(context: &mut Context, fd: i32, buffer: UserAddress) -> Result<()> {
    let file = context.task.files().get(fd)?;
    let statistics = match &file.path {
        Some(place) => statistics(&place.mount)?,
        None => {
            // Pipes, sockets and the like: a file system that nobody mounts.
            let kind = match FileType::from_mode(file.operations.metadata()?.mode()) {
                Some(FileType::Fifo) => i64::from(linux::PIPEFS_MAGIC),
                Some(FileType::Socket) => i64::from(linux::SOCKFS_MAGIC),
                _ => i64::from(linux::ANON_INODE_FS_MAGIC),
            };
            StatFs { kind, bsize: 4096, frsize: 4096, namelen: 255, flags: 0x20, ..StatFs::default() }
        }
    };
    context.write(buffer.0, &statistics)
}
