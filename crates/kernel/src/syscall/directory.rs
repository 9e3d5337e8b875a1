//! getdents(2).

use crate::fs::inode::DirectoryEntry;
use crate::syscall::UserAddress;
use crate::{Context, Errno, Result};

/// Bytes that one call gives at most, whatever the guest's buffer holds.
const LISTING_MAX: usize = 64 * 1024;

/// How an entry is laid out in the guest's buffer.
type Layout = fn(&mut Vec<u8>, &DirectoryEntry, usize);

/// The size of a header and a name, to the next multiple of 8.
fn record_length(header: usize, name: &[u8]) -> usize {
    (header + name.len()).next_multiple_of(8)
}

fn list(context: &Context, fd: i32, buffer: UserAddress, count: u64, header: usize, layout: Layout) -> Result<u64> {
    let file = context.file(fd)?;
    let limit = (count & 0xffff_ffff).min(LISTING_MAX as u64) as usize;
    let mut listing = Vec::with_capacity(limit);
    let mut too_small = false;
    {
        let mut position = file.position.lock();
        if let Some(path) = &file.path {
            if path.dentry.is_unlinked() && path.dentry.is_directory() {
                return Err(Errno::ENOENT);
            }
        }
        let mut next = position.get();
        file.operations.read_directory(next, &mut |entry| {
            let length = record_length(header, entry.name);
            if listing.len() + length > limit {
                too_small = listing.is_empty();
                return false;
            }
            layout(&mut listing, entry, length);
            next = entry.next_cursor;
            true
        })?;
        position.set(next)?;
    }
    if too_small {
        return Err(Errno::EINVAL);
    }
    context.write_bytes(buffer.0, &listing)?;
    Ok(listing.len() as u64)
}

/// `struct linux_dirent64`: ino, off, reclen, type, name.
pub fn getdents64(context: &mut Context, fd: i32, buffer: UserAddress, count: u64) -> Result<u64> {
    list(context, fd, buffer, count, 20, |listing, entry, length| {
        let end = listing.len() + length;
        listing.extend_from_slice(&entry.inode.to_le_bytes());
        listing.extend_from_slice(&entry.next_cursor.to_le_bytes());
        listing.extend_from_slice(&(length as u16).to_le_bytes());
        listing.push(entry.kind.directory_entry_type());
        listing.extend_from_slice(entry.name);
        listing.resize(end, 0);
    })
}

/// `struct linux_dirent`: ino, off, reclen, name, and the type in the last byte.
pub fn getdents(context: &mut Context, fd: i32, buffer: UserAddress, count: u64) -> Result<u64> {
    list(context, fd, buffer, count, 20, |listing, entry, length| {
        let end = listing.len() + length;
        listing.extend_from_slice(&entry.inode.to_le_bytes());
        listing.extend_from_slice(&entry.next_cursor.to_le_bytes());
        listing.extend_from_slice(&(length as u16).to_le_bytes());
        listing.extend_from_slice(entry.name);
        listing.resize(end, 0);
        listing[end - 1] = entry.kind.directory_entry_type();
    })
}
