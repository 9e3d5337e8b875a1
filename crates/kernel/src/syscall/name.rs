//! mkdir(2), mknod(2), link(2), symlink(2), unlink(2), rmdir(2), rename(2).

use crate::fs::inode::{Device, NewNodeKind, RenameFlags};
use crate::fs::names::{self, End, Removal};
use crate::fs::walk::{self, AllowEmpty, Follow, Target};
use crate::syscall::UserAddress;
use crate::task::credentials::{CAP_DAC_READ_SEARCH, CAP_MKNOD};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;

const AT_FDCWD: i32 = linux::AT_FDCWD;

pub fn mkdirat(context: &mut Context, dirfd: i32, path: UserAddress, mode: u32) -> Result<()> {
    let path = context.read_path(path.0)?;
    let (directory, last) = walk::resolve_parent(context.task, dirfd, &path)?;
    names::make(context.task, &directory, &last, NewNodeKind::Directory, mode).map(|_| ())
}

pub fn mkdir(context: &mut Context, path: UserAddress, mode: u32) -> Result<()> {
    mkdirat(context, AT_FDCWD, path, mode)
}

pub fn mknodat(context: &mut Context, dirfd: i32, path: UserAddress, mode: u32, device: u64) -> Result<()> {
    let path = context.read_path(path.0)?;
    let device = Device::decode(device & 0xffff_ffff);
    let kind = match mode & linux::S_IFMT {
        0 | linux::S_IFREG => NewNodeKind::Regular,
        linux::S_IFIFO => NewNodeKind::Fifo,
        linux::S_IFSOCK => NewNodeKind::Socket,
        linux::S_IFCHR => NewNodeKind::CharacterDevice(device),
        linux::S_IFBLK => NewNodeKind::BlockDevice(device),
        linux::S_IFDIR => return Err(Errno::EPERM),
        _ => return Err(Errno::EINVAL),
    };
    let (directory, last) = walk::resolve_parent(context.task, dirfd, &path)?;
    let is_device = matches!(kind, NewNodeKind::CharacterDevice(_) | NewNodeKind::BlockDevice(_));
    if is_device && !context.task.credentials().has_capability(CAP_MKNOD) {
        return Err(Errno::EPERM);
    }
    names::make(context.task, &directory, &last, kind, mode).map(|_| ())
}

pub fn mknod(context: &mut Context, path: UserAddress, mode: u32, device: u64) -> Result<()> {
    mknodat(context, AT_FDCWD, path, mode, device)
}

pub fn symlinkat(context: &mut Context, target: UserAddress, dirfd: i32, path: UserAddress) -> Result<()> {
    let target = context.read_path(target.0)?;
    let path = context.read_path(path.0)?;
    if target.is_empty() {
        return Err(Errno::ENOENT);
    }
    let (directory, last) = walk::resolve_parent(context.task, dirfd, &path)?;
    names::make(context.task, &directory, &last, NewNodeKind::Symlink(target), 0o777).map(|_| ())
}

pub fn symlink(context: &mut Context, target: UserAddress, path: UserAddress) -> Result<()> {
    symlinkat(context, target, AT_FDCWD, path)
}

pub fn linkat(
    context: &mut Context,
    old_dirfd: i32,
    old: UserAddress,
    new_dirfd: i32,
    new: UserAddress,
    flags: u32,
) -> Result<()> {
    if flags & !(linux::AT_SYMLINK_FOLLOW | linux::AT_EMPTY_PATH) != 0 {
        return Err(Errno::EINVAL);
    }
    let old = context.read_path(old.0)?;
    let new = context.read_path(new.0)?;
    let follow = if flags & linux::AT_SYMLINK_FOLLOW != 0 { Follow::Yes } else { Follow::No };
    let by_descriptor = flags & linux::AT_EMPTY_PATH != 0;
    if by_descriptor && old.is_empty() && !context.task.credentials().has_capability(CAP_DAC_READ_SEARCH) {
        return Err(Errno::ENOENT);
    }
    let allow_empty = if by_descriptor { AllowEmpty::Yes } else { AllowEmpty::No };
    let target = match walk::resolve_at(context.task, old_dirfd, &old, follow, allow_empty)? {
        Target::Path(path) => path,
        Target::File(file) => file.path.clone().ok_or(Errno::EXDEV)?,
    };
    let (directory, last) = walk::resolve_parent(context.task, new_dirfd, &new)?;
    names::link(context.task, &target, &directory, &last)?;
    if flags == 0 {
        context.seen = Some((old_dirfd, old, target));
        context.linked = Some((new_dirfd, new, directory));
    }
    Ok(())
}

pub fn link(context: &mut Context, old: UserAddress, new: UserAddress) -> Result<()> {
    linkat(context, AT_FDCWD, old, AT_FDCWD, new, 0)
}

pub fn unlinkat(context: &mut Context, dirfd: i32, path: UserAddress, flags: u32) -> Result<()> {
    if flags & !linux::AT_REMOVEDIR != 0 {
        return Err(Errno::EINVAL);
    }
    let path = context.read_path(path.0)?;
    let (directory, last) = walk::resolve_parent(context.task, dirfd, &path)?;
    let removal = if flags & linux::AT_REMOVEDIR != 0 { Removal::Directory } else { Removal::Name };
    names::remove(context.task, &directory, &last, removal)
}

pub fn unlink(context: &mut Context, path: UserAddress) -> Result<()> {
    unlinkat(context, AT_FDCWD, path, 0)
}

pub fn rmdir(context: &mut Context, path: UserAddress) -> Result<()> {
    unlinkat(context, AT_FDCWD, path, linux::AT_REMOVEDIR)
}

pub fn renameat2(
    context: &mut Context,
    old_dirfd: i32,
    old: UserAddress,
    new_dirfd: i32,
    new: UserAddress,
    flags: u32,
) -> Result<()> {
    let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
    if flags.contains(RenameFlags::EXCHANGE) && flags.intersects(RenameFlags::NOREPLACE | RenameFlags::WHITEOUT) {
        return Err(Errno::EINVAL);
    }
    if flags.contains(RenameFlags::WHITEOUT) {
        // Only for who builds overlays of their own, with CAP_MKNOD; no file system here does it.
        return Err(Errno::EINVAL);
    }
    let old = context.read_path(old.0)?;
    let new = context.read_path(new.0)?;
    let (old_directory, old_last) = walk::resolve_parent(context.task, old_dirfd, &old)?;
    let (new_directory, new_last) = walk::resolve_parent(context.task, new_dirfd, &new)?;
    let old = End { directory: &old_directory, last: &old_last };
    let new = End { directory: &new_directory, last: &new_last };
    names::rename(context.task, &context.kernel().mounts, old, new, flags)
}

pub fn renameat(context: &mut Context, old_dirfd: i32, old: UserAddress, new_dirfd: i32, new: UserAddress) -> Result<()> {
    renameat2(context, old_dirfd, old, new_dirfd, new, 0)
}

pub fn rename(context: &mut Context, old: UserAddress, new: UserAddress) -> Result<()> {
    renameat2(context, AT_FDCWD, old, AT_FDCWD, new, 0)
}
