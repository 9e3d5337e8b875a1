//! Extended attributes (xattr(7)).

use crate::fs::inode::{FileType, Metadata};
use crate::fs::notify::NotifyMask;
use crate::fs::path::Path;
use crate::fs::walk::{self, Follow};
use crate::fs::xattr::{NAME_MAX, VALUE_MAX, XATTR_CREATE, XATTR_REPLACE};
use crate::syscall::UserAddress;
use crate::task::credentials::CAP_SYS_ADMIN;
use crate::task::AccessMode;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;

/// CAP_SETFCAP (capabilities(7)).
const CAP_SETFCAP: u32 = 31;

fn by_path(context: &Context, path: UserAddress, follow: Follow) -> Result<Path> {
    let path = context.read_path(path.0)?;
    walk::resolve(context.task, linux::AT_FDCWD, &path, follow)
}

/// EOPNOTSUPP where the open file has no place in the tree.
fn by_descriptor(context: &Context, fd: i32) -> Result<Path> {
    context.file(fd)?.path.clone().ok_or(Errno::EOPNOTSUPP)
}

/// ERANGE where the name is empty or too long.
fn read_name(context: &Context, name: UserAddress) -> Result<Vec<u8>> {
    let name = context.read_c_string(name.0, NAME_MAX + 1, Errno::ERANGE)?;
    if name.is_empty() {
        return Err(Errno::ERANGE);
    }
    // A namespace alone is no name.
    if matches!(&name[..], b"user." | b"trusted." | b"security." | b"system.") {
        return Err(Errno::EINVAL);
    }
    Ok(name)
}

/// Who may do what with an attribute (xattr(7), "Extended attribute namespaces").
fn check_name(context: &Context, metadata: &Metadata, name: &[u8], access: AccessMode) -> Result<()> {
    let credentials = context.task.credentials();
    let writes = access == AccessMode::WRITE;
    if name.starts_with(b"user.") {
        if !matches!(metadata.kind, FileType::Regular | FileType::Directory) {
            return Err(if writes { Errno::EPERM } else { Errno::ENODATA });
        }
        if writes
            && metadata.kind == FileType::Directory
            && metadata.permissions & 0o1000 != 0
            && !credentials.is_owner_or_capable(metadata.uid)
        {
            return Err(Errno::EPERM);
        }
        return credentials.check_access(metadata, access);
    }
    if name.starts_with(b"trusted.") {
        if credentials.has_capability(CAP_SYS_ADMIN) {
            return Ok(());
        }
        return Err(if writes { Errno::EPERM } else { Errno::ENODATA });
    }
    if name.starts_with(b"security.") {
        let needed = if name == b"security.capability" { CAP_SETFCAP } else { CAP_SYS_ADMIN };
        if writes && !credentials.has_capability(needed) {
            return Err(Errno::EPERM);
        }
        return Ok(());
    }
    if name.starts_with(b"system.") && !writes {
        return Ok(());
    }
    Err(Errno::EOPNOTSUPP)
}

fn set(context: &Context, place: &Path, name: UserAddress, value: UserAddress, size: u64, flags: u32) -> Result<()> {
    if flags & !(XATTR_CREATE | XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = read_name(context, name)?;
    if size > VALUE_MAX as u64 {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0; size as usize];
    context.read_bytes(value.0, &mut bytes)?;
    place.mount.check_writable()?;
    check_name(context, &place.inode().metadata()?, &name, AccessMode::WRITE)?;
    place.inode().set_xattr(&name, &bytes, flags)?;
    context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::ATTRIB);
    Ok(())
}

/// Gives `bytes` out: their count for a size of 0, ERANGE where they do not fit.
fn give(context: &Context, bytes: &[u8], buffer: UserAddress, size: u64) -> Result<u64> {
    if size != 0 {
        if bytes.len() as u64 > size {
            return Err(Errno::ERANGE);
        }
        context.write_bytes(buffer.0, bytes)?;
    }
    Ok(bytes.len() as u64)
}

fn get(context: &Context, place: &Path, name: UserAddress, buffer: UserAddress, size: u64) -> Result<u64> {
    let name = read_name(context, name)?;
    check_name(context, &place.inode().metadata()?, &name, AccessMode::READ)?;
    give(context, &place.inode().get_xattr(&name)?, buffer, size)
}

fn list(context: &Context, place: &Path, buffer: UserAddress, size: u64) -> Result<u64> {
    let sees_trusted = context.task.credentials().has_capability(CAP_SYS_ADMIN);
    let mut names = Vec::new();
    for name in place.inode().list_xattr()? {
        if sees_trusted || !name.starts_with(b"trusted.") {
            names.extend_from_slice(&name);
            names.push(0);
        }
    }
    give(context, &names, buffer, size)
}

fn remove(context: &Context, place: &Path, name: UserAddress) -> Result<()> {
    let name = read_name(context, name)?;
    place.mount.check_writable()?;
    check_name(context, &place.inode().metadata()?, &name, AccessMode::WRITE)?;
    place.inode().remove_xattr(&name)?;
    context.kernel().watches.report_with_parent(&place.dentry, NotifyMask::ATTRIB);
    Ok(())
}

pub fn setxattr(
    context: &mut Context,
    path: UserAddress,
    name: UserAddress,
    value: UserAddress,
    size: u64,
    flags: u32,
) -> Result<()> {
    set(context, &by_path(context, path, Follow::Yes)?, name, value, size, flags)
}

pub fn lsetxattr(
    context: &mut Context,
    path: UserAddress,
    name: UserAddress,
    value: UserAddress,
    size: u64,
    flags: u32,
) -> Result<()> {
    set(context, &by_path(context, path, Follow::No)?, name, value, size, flags)
}

pub fn fsetxattr(context: &mut Context, fd: i32, name: UserAddress, value: UserAddress, size: u64, flags: u32) -> Result<()> {
    set(context, &by_descriptor(context, fd)?, name, value, size, flags)
}

pub fn getxattr(context: &mut Context, path: UserAddress, name: UserAddress, buffer: UserAddress, size: u64) -> Result<u64> {
    get(context, &by_path(context, path, Follow::Yes)?, name, buffer, size)
}

pub fn lgetxattr(context: &mut Context, path: UserAddress, name: UserAddress, buffer: UserAddress, size: u64) -> Result<u64> {
    get(context, &by_path(context, path, Follow::No)?, name, buffer, size)
}

pub fn fgetxattr(context: &mut Context, fd: i32, name: UserAddress, buffer: UserAddress, size: u64) -> Result<u64> {
    get(context, &by_descriptor(context, fd)?, name, buffer, size)
}

pub fn listxattr(context: &mut Context, path: UserAddress, buffer: UserAddress, size: u64) -> Result<u64> {
    list(context, &by_path(context, path, Follow::Yes)?, buffer, size)
}

pub fn llistxattr(context: &mut Context, path: UserAddress, buffer: UserAddress, size: u64) -> Result<u64> {
    list(context, &by_path(context, path, Follow::No)?, buffer, size)
}

pub fn flistxattr(context: &mut Context, fd: i32, buffer: UserAddress, size: u64) -> Result<u64> {
    list(context, &by_descriptor(context, fd)?, buffer, size)
}

pub fn removexattr(context: &mut Context, path: UserAddress, name: UserAddress) -> Result<()> {
    remove(context, &by_path(context, path, Follow::Yes)?, name)
}

pub fn lremovexattr(context: &mut Context, path: UserAddress, name: UserAddress) -> Result<()> {
    remove(context, &by_path(context, path, Follow::No)?, name)
}

pub fn fremovexattr(context: &mut Context, fd: i32, name: UserAddress) -> Result<()> {
    remove(context, &by_descriptor(context, fd)?, name)
}
