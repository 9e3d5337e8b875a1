//! A file's bytes in memory.
//!
//! Small ones lie in the heap; a file that grows beyond [`HEAP_MAX`], or is to be mapped, becomes a memfd of the host,
//! and stays one. Every byte is charged before it is there and given back when it goes.
//!
//! Where processes write to the memfd by themselves, all of it up to [`Content::direct_write_end`] is charged in advance,
//! and a little more when it grows; beyond that they have to ask.

use super::quota::Quotas;
use super::TmpfsInode;
use crate::fs::host::{host_error, Reopener};
use crate::{Errno, Result};
use parking_lot::Mutex;
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, SeekFrom};
use rustix::io::ReadWriteFlags;
use skerry_abi::structs::TimeSpec;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Up to here a file lies in the heap.
const HEAP_MAX: u64 = 64 * 1024;
/// Up to here it may, where too many memfds are in use.
const HEAP_EMERGENCY_MAX: u64 = 16 * 1024 * 1024;
/// Memfds that files may hold before mid-sized ones stay in the heap: host descriptors are few.
const MEMFDS_SOFT_MAX: usize = 6000;
const PAGE: u64 = 4096;
/// What is charged in advance, at least and at most, when a file grows that processes write to by themselves.
const AHEAD_MIN: u64 = 128 * 1024;
const AHEAD_MAX: u64 = 4 * 1024 * 1024;
/// A file with larger holes is not charged whole in advance.
const HOLES_MAX: u64 = 4 * 1024 * 1024;
/// Host descriptions of files in memory that may be in use at once, by the sandbox.
const DESCRIPTIONS_MAX: usize = 2000;

/// What all contents of a sandbox share: how many are memfds, and how to get a read-only descriptor of one.
pub struct ContentShared {
    memfds: AtomicUsize,
    descriptions: AtomicUsize,
    /// Files that processes write to by themselves: looked at when memory is counted.
    written_directly: Mutex<Vec<Weak<TmpfsInode>>>,
    reopener: Reopener,
}

impl ContentShared {
    pub fn new(reopener: Reopener) -> Arc<ContentShared> {
        Arc::new(ContentShared {
            memfds: AtomicUsize::new(0),
            descriptions: AtomicUsize::new(0),
            written_directly: Mutex::default(),
            reopener,
        })
    }

    /// Charges what processes have made of files by themselves: a hostile one may have written beyond what it was allowed.
    pub fn settle_direct(&self) {
        let inodes: Vec<_> = {
            let mut list = self.written_directly.lock();
            list.retain(|inode| inode.strong_count() > 0);
            list.iter().filter_map(Weak::upgrade).collect()
        };
        for inode in inodes {
            if let Ok(content) = inode.content() {
                content.write().settle();
            }
        }
    }

    pub(super) fn add_written_directly(&self, inode: &Arc<TmpfsInode>) {
        let mut list = self.written_directly.lock();
        list.retain(|known| known.strong_count() > 0);
        if !list.iter().any(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(inode))) {
            list.push(Arc::downgrade(inode));
        }
    }
}

enum Storage {
    Heap(Vec<u8>),
    Memfd { descriptor: Arc<OwnedFd>, read_only: Option<Arc<OwnedFd>> },
}

/// The bytes of one file.
pub struct Content {
    storage: Storage,
    quotas: Quotas,
    shared: Arc<ContentShared>,
    /// What has been taken from the quotas.
    charged: u64,
    /// Open files through which processes write by themselves.
    direct_writers: usize,
    /// Up to here everything is charged, whether it is there or not; 0: as it is there.
    charged_until: u64,
    /// Processes had host descriptions of it.
    described: bool,
    /// Processes had mappings of it, which outlast descriptors and names.
    mapped: bool,
}

/// What the host says of a memfd.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostTimes {
    pub accessed: TimeSpec,
    pub modified: TimeSpec,
}

/// Size, 512-byte blocks in use, and times, as far as the host keeps them.
#[derive(Clone, Copy, Debug, Default)]
pub struct ContentStatus {
    pub size: u64,
    pub blocks: u64,
    pub times: Option<HostTimes>,
}

/// One host description, counted.
pub struct Counted(Arc<ContentShared>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.descriptions.fetch_sub(1, Ordering::Relaxed);
    }
}

fn round_up(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

impl Content {
    pub fn new(quotas: Quotas, shared: Arc<ContentShared>) -> Content {
        Content {
            storage: Storage::Heap(Vec::new()),
            quotas,
            shared,
            charged: 0,
            direct_writers: 0,
            charged_until: 0,
            described: false,
            mapped: false,
        }
    }

    pub fn status(&self) -> Result<ContentStatus> {
        match &self.storage {
            Storage::Heap(bytes) => {
                Ok(ContentStatus { size: bytes.len() as u64, blocks: round_up(bytes.len() as u64) / 512, times: None })
            }
            Storage::Memfd { descriptor, .. } => {
                let status = rustix::fs::fstat(&**descriptor).map_err(host_error)?;
                let times = HostTimes {
                    accessed: TimeSpec { sec: status.st_atime, nsec: status.st_atime_nsec as i64 },
                    modified: TimeSpec { sec: status.st_mtime, nsec: status.st_mtime_nsec as i64 },
                };
                Ok(ContentStatus { size: status.st_size as u64, blocks: status.st_blocks as u64, times: Some(times) })
            }
        }
    }

    /// Size, and 512-byte blocks in use.
    fn size_and_blocks(&self) -> Result<(u64, u64)> {
        let status = self.status()?;
        Ok((status.size, status.blocks))
    }

    pub fn size(&self) -> Result<u64> {
        Ok(self.size_and_blocks()?.0)
    }

    pub fn read(&self, buffer: &mut [u8], offset: u64) -> Result<usize> {
        match &self.storage {
            Storage::Heap(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
                let count = buffer.len().min(bytes.len() - start);
                buffer[..count].copy_from_slice(&bytes[start..start + count]);
                Ok(count)
            }
            Storage::Memfd { descriptor, .. } => rustix::io::pread(&**descriptor, buffer, offset).map_err(host_error),
        }
    }

    /// All of it, where no process can have it in its own memory or behind a descriptor of its own.
    pub fn own_bytes(&self) -> Option<&[u8]> {
        match &self.storage {
            Storage::Heap(bytes) => Some(bytes),
            Storage::Memfd { .. } => None,
        }
    }

    pub fn write(&mut self, buffer: &[u8], offset: u64) -> Result<usize> {
        let end = offset.checked_add(buffer.len() as u64).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        if buffer.is_empty() {
            return Ok(0);
        }
        self.prepare_size(end)?;
        self.prepare_hole(offset)?;
        if let Storage::Heap(bytes) = &mut self.storage {
            let wanted = round_up(end.max(bytes.len() as u64));
            if wanted > self.charged {
                self.quotas.charge(wanted - self.charged)?;
                self.charged = wanted;
            }
            let (start, end) = (offset as usize, end as usize);
            if bytes.len() < end {
                bytes.try_reserve(end - bytes.len()).map_err(|_| Errno::ENOSPC)?;
                bytes.resize(end, 0);
            }
            bytes[start..end].copy_from_slice(buffer);
            return Ok(buffer.len());
        }
        self.with_reservation(offset, end, |descriptor| rustix::io::pwrite(descriptor, buffer, offset).map_err(host_error))
    }

    /// Writes at the end, which processes move by themselves meanwhile; how much, and where the end was behind that.
    pub fn append(&mut self, buffer: &[u8]) -> Result<(usize, u64)> {
        let start = self.size()?;
        let end = start.checked_add(buffer.len() as u64).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        self.prepare_size(end)?;
        if matches!(self.storage, Storage::Heap(_)) || buffer.is_empty() {
            return Ok((self.write(buffer, start)?, end));
        }
        self.with_reservation(start, end, |descriptor| {
            // The host finds the end, and its own position shows where that was: nobody else moves that one.
            let pieces = [std::io::IoSlice::new(buffer)];
            let count = rustix::io::pwritev2(descriptor, &pieces, u64::MAX, ReadWriteFlags::APPEND).map_err(host_error)?;
            Ok((count, rustix::fs::tell(descriptor).map_err(host_error)?))
        })
    }

    /// Turns the file into a memfd where it is to be `size` long and that is too much for the heap.
    fn prepare_size(&mut self, size: u64) -> Result<()> {
        if matches!(self.storage, Storage::Memfd { .. }) || size <= HEAP_MAX {
            return Ok(());
        }
        let crowded = self.shared.memfds.load(Ordering::Relaxed) >= MEMFDS_SOFT_MAX;
        if crowded && size <= HEAP_EMERGENCY_MAX {
            return Ok(());
        }
        self.promote()
    }

    /// A write far behind the end leaves a hole, which only a memfd can have.
    fn prepare_hole(&mut self, offset: u64) -> Result<()> {
        match &self.storage {
            Storage::Heap(bytes) if offset > round_up(bytes.len() as u64) => self.promote(),
            _ => Ok(()),
        }
    }

    /// Makes a memfd of the file.
    fn promote(&mut self) -> Result<()> {
        let Storage::Heap(bytes) = &self.storage else { return Ok(()) };
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let descriptor = match rustix::fs::memfd_create("file", flags | MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("file", flags),
            other => other,
        }
        .map_err(host_error)?;
        let mut written = 0;
        while written < bytes.len() {
            written += rustix::io::pwrite(&descriptor, &bytes[written..], written as u64).map_err(host_error)?;
        }
        self.shared.memfds.fetch_add(1, Ordering::Relaxed);
        self.storage = Storage::Memfd { descriptor: Arc::new(descriptor), read_only: None };
        self.settle();
        Ok(())
    }

    /// Runs `change`, which may fill `start..end` of the memfd, with enough of the quotas taken; then takes exactly what
    /// is in use.
    fn with_reservation<T>(&mut self, start: u64, end: u64, change: impl FnOnce(&OwnedFd) -> Result<T>) -> Result<T> {
        let Storage::Memfd { descriptor, .. } = &self.storage else { return Err(Errno::EINVAL) };
        let descriptor = descriptor.clone();
        if end <= self.charged_until {
            return change(&descriptor);
        }
        let needed = round_up(end) - start / PAGE * PAGE;
        if self.quotas.charge(needed).is_ok() {
            self.charged += needed;
        } else {
            // No room for new pages: overwriting what is all there needs none.
            let (size, blocks) = self.size_and_blocks()?;
            if end > size || blocks.saturating_mul(512) < round_up(size) {
                return Err(Errno::ENOSPC);
            }
        }
        let result = change(&descriptor);
        self.settle();
        if self.direct_writers > 0 {
            self.charge_ahead(end);
        }
        result
    }

    /// Charges a growing file some way beyond `end`, where there is room.
    fn charge_ahead(&mut self, end: u64) {
        let ahead = (end / 4).clamp(AHEAD_MIN, AHEAD_MAX).min(self.quotas.free() / 64);
        self.charge_until(round_up(end.saturating_add(ahead)));
    }

    /// Charges all of the file up to `end`. Not where it has large holes, or there is no room.
    fn charge_until(&mut self, end: u64) {
        if end <= self.charged_until || end.saturating_sub(self.charged) > AHEAD_MAX + HOLES_MAX {
            return;
        }
        let more = end.saturating_sub(self.charged);
        if self.quotas.charge(more).is_ok() {
            self.charged += more;
            self.charged_until = end;
        }
    }

    /// A host description of the file for one open file. `None`: too many are in use.
    pub fn describe(&mut self, flags: OFlags) -> Result<Option<(OwnedFd, Counted)>> {
        if self.shared.descriptions.fetch_add(1, Ordering::Relaxed) >= DESCRIPTIONS_MAX {
            self.shared.descriptions.fetch_sub(1, Ordering::Relaxed);
            return Ok(None);
        }
        let counted = Counted(self.shared.clone());
        self.promote()?;
        let Storage::Memfd { descriptor, .. } = &self.storage else { return Err(Errno::EIO) };
        let described = self.shared.reopener.reopen(&**descriptor, flags)?;
        self.described = true;
        Ok(Some((described, counted)))
    }

    /// Processes begin to write through an open file of their own.
    pub fn begin_direct_writing(&mut self) {
        self.direct_writers += 1;
        if let Ok(size) = self.size() {
            self.charge_until(round_up(size));
        }
    }

    pub fn end_direct_writing(&mut self) {
        self.direct_writers = self.direct_writers.saturating_sub(1);
        if self.direct_writers == 0 {
            self.charged_until = 0;
            self.settle();
        }
    }

    /// Up to where processes may write by themselves.
    pub fn direct_write_end(&self) -> Option<u64> {
        (self.charged_until > 0).then_some(self.charged_until)
    }

    /// Writes at the offset of a description of this file, or at the end.
    pub fn write_at_offset_of(&mut self, description: &OwnedFd, at_end: bool, buffer: &[u8]) -> Result<usize> {
        let start = if at_end { self.size()? } else { rustix::fs::tell(description).map_err(host_error)? };
        let end = start.checked_add(buffer.len() as u64).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        self.with_reservation(start, end, |_| rustix::io::write(description, buffer).map_err(host_error))
    }

    /// Charges what the host says is in use (a guest's shared mapping may have touched pages), and gives back the rest.
    fn settle(&mut self) {
        let Ok((_, blocks)) = self.size_and_blocks() else { return };
        let in_use = blocks.saturating_mul(512).max(self.charged_until);
        if in_use > self.charged {
            self.quotas.charge_unchecked(in_use - self.charged);
        } else {
            self.quotas.release(self.charged - in_use);
        }
        self.charged = in_use;
    }

    pub fn truncate(&mut self, size: u64) -> Result<()> {
        if size > i64::MAX as u64 {
            return Err(Errno::EFBIG);
        }
        self.prepare_size(size)?;
        match &mut self.storage {
            Storage::Heap(bytes) => {
                let wanted = round_up(size);
                if wanted > self.charged {
                    self.quotas.charge(wanted - self.charged)?;
                    self.charged = wanted;
                }
                bytes.try_reserve((size as usize).saturating_sub(bytes.len())).map_err(|_| Errno::ENOSPC)?;
                bytes.resize(size as usize, 0);
                bytes.shrink_to(size as usize);
                self.quotas.release(self.charged - wanted);
                self.charged = wanted;
                Ok(())
            }
            Storage::Memfd { descriptor, .. } => {
                rustix::fs::ftruncate(&**descriptor, size).map_err(host_error)?;
                // Who has the old end from us may go on using a little of it.
                if size.saturating_add(AHEAD_MAX) < self.charged_until {
                    self.charged_until = round_up(size);
                }
                self.settle();
                Ok(())
            }
        }
    }

    /// fallocate(2), with its mode bits.
    pub fn allocate(&mut self, mode: u32, offset: u64, length: u64) -> Result<()> {
        let end = offset.checked_add(length).filter(|&end| end <= i64::MAX as u64).ok_or(Errno::EFBIG)?;
        let flags = FallocateFlags::from_bits_retain(mode);
        // tmpfs of Linux knows these two only.
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if !flags.is_empty() && flags != FallocateFlags::KEEP_SIZE && flags != punch {
            return Err(Errno::EOPNOTSUPP);
        }
        if let Storage::Heap(bytes) = &mut self.storage {
            if flags == punch {
                let start = (offset as usize).min(bytes.len());
                let end = (end.min(bytes.len() as u64)) as usize;
                bytes[start..end.max(start)].fill(0);
                return Ok(());
            }
            if flags.is_empty() && end <= HEAP_MAX {
                let size = end.max(bytes.len() as u64);
                return self.truncate(size);
            }
        }
        self.promote()?;
        if flags == punch {
            let Storage::Memfd { descriptor, .. } = &self.storage else { return Err(Errno::EIO) };
            rustix::fs::fallocate(&**descriptor, flags, offset, length).map_err(host_error)?;
            self.settle();
            return Ok(());
        }
        self.with_reservation(offset, end, |descriptor| {
            rustix::fs::fallocate(descriptor, flags, offset, length).map_err(host_error)
        })
    }

    pub fn seek_data_or_hole(&self, offset: u64, hole: bool) -> Result<u64> {
        let size = self.size()?;
        if offset >= size {
            return Err(Errno::ENXIO);
        }
        match &self.storage {
            Storage::Heap(_) => Ok(if hole { size } else { offset }),
            Storage::Memfd { descriptor, .. } => {
                let whence = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
                rustix::fs::seek(&**descriptor, whence).map_err(host_error)
            }
        }
    }

    /// A descriptor to map: of the file itself, read-only unless `writable`.
    pub fn mapping_descriptor(&mut self, writable: bool) -> Result<Arc<OwnedFd>> {
        self.promote()?;
        self.mapped = true;
        let Storage::Memfd { descriptor, read_only } = &mut self.storage else { return Err(Errno::EIO) };
        if writable {
            return Ok(descriptor.clone());
        }
        if let Some(read_only) = read_only {
            return Ok(read_only.clone());
        }
        let reopened = Arc::new(self.shared.reopener.reopen(&**descriptor, OFlags::RDONLY)?);
        *read_only = Some(reopened.clone());
        Ok(reopened)
    }

    /// Whether processes have had mappings of it.
    pub fn is_mapped(&self) -> bool {
        self.mapped
    }

    /// Seals the memfd on the host too: EBUSY where a guest has a writable shared mapping.
    pub fn seal(&mut self, seals: u32) -> Result<()> {
        self.promote()?;
        let Storage::Memfd { descriptor, .. } = &self.storage else { return Err(Errno::EIO) };
        rustix::fs::fcntl_add_seals(&**descriptor, rustix::fs::SealFlags::from_bits_retain(seals)).map_err(host_error)
    }
}

impl Drop for Content {
    fn drop(&mut self) {
        self.quotas.release(self.charged);
        if let Storage::Memfd { descriptor, .. } = &self.storage {
            if self.described && !self.mapped {
                // A process that has kept its descriptor keeps no memory with it.
                let _ = rustix::fs::ftruncate(&**descriptor, 0);
            }
            self.shared.memfds.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
