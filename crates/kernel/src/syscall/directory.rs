//! getdents(2).

use crate::fs::file::OpenFile;
use crate::fs::inode::{DirectoryEntry, FileType};
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
    list(context, fd, buffer, count, HEADER_64, lay_out_64)
}

const HEADER_64: usize = 20;

fn lay_out_64(listing: &mut Vec<u8>, entry: &DirectoryEntry, length: usize) {
    let end = listing.len() + length;
    listing.extend_from_slice(&entry.inode.to_le_bytes());
    listing.extend_from_slice(&entry.next_cursor.to_le_bytes());
    listing.extend_from_slice(&(length as u16).to_le_bytes());
    listing.push(entry.kind.directory_entry_type());
    listing.extend_from_slice(entry.name);
    listing.resize(end, 0);
}

/// What getdents64(2) would give from where `file` stands, if that is all of it and fits into `limit`.
pub(crate) fn rest_of(file: &OpenFile, limit: usize) -> Option<Vec<u8>> {
    let position = file.position.lock();
    let mut listing = Vec::new();
    let mut fits = true;
    let read = file.operations.read_directory(position.get(), &mut |entry| {
        let length = record_length(HEADER_64, entry.name);
        fits = listing.len() + length <= limit;
        if fits {
            lay_out_64(&mut listing, entry, length);
        }
        fits
    });
    (read.is_ok() && fits).then_some(listing)
}

/// The names in such a listing but `.` and `..`, with what each is said to be.
pub(crate) fn names_of(listing: &[u8]) -> Vec<(Vec<u8>, FileType)> {
    let mut names = Vec::new();
    let mut rest = listing;
    while let [_, _, _, _, _, _, _, _, _, _, _, _, _, _, _, _, low, high, kind, ..] = *rest {
        let length = usize::from(u16::from_le_bytes([low, high]));
        let Some((entry, behind)) = rest.split_at_checked(length.max(HEADER_64)) else { break };
        let name = entry[HEADER_64 - 1..].split(|byte| *byte == 0).next().unwrap_or_default();
        if let (Some(kind), false) = (FileType::of_directory_entry(kind), name == b"." || name == b"..") {
            names.push((name.to_vec(), kind));
        }
        rest = behind;
    }
    names
}

/// The cursor behind the entries of `listing` that end at `end`; `None` where none ends there.
pub(crate) fn cursor_at(listing: &[u8], end: usize) -> Option<u64> {
    let mut start = 0;
    loop {
        let length = usize::from(u16::from_le_bytes(listing.get(start + 16..start + 18)?.try_into().ok()?));
        if start + length == end {
            return Some(u64::from_le_bytes(listing[start + 8..start + 16].try_into().ok()?));
        }
        if length == 0 || start + length > end {
            return None;
        }
        start += length;
    }
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
