//! A file's bytes in memory.
//!
//! Small ones lie in the heap; a file that grows beyond [`HEAP_MAX`], or is to be mapped, becomes a memfd of the host,
//! and stays one. Every byte is charged before it is there and given back when it goes.

use super::quota::Quotas;
use crate::fs::host::{host_error, Reopener};
use crate::{Errno, Result};
use rustix::fs::{FallocateFlags, MemfdFlags, OFlags, SeekFrom};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Up to here a file lies in the heap.
const HEAP_MAX: u64 = 64 * 1024;
/// Up to here it may, where too many memfds are in use.
const HEAP_EMERGENCY_MAX: u64 = 16 * 1024 * 1024;
/// Memfds that files may hold before mid-sized ones stay in the heap: host descriptors are few.
const MEMFDS_SOFT_MAX: usize = 6000;
const PAGE: u64 = 4096;

/// What all contents of a sandbox share: how many are memfds, and how to get a read-only descriptor of one.
pub struct ContentShared {
    memfds: AtomicUsize,
    reopener: Reopener,
}

impl ContentShared {
    pub fn new(reopener: Reopener) -> Arc<ContentShared> {
        Arc::new(ContentShared { memfds: AtomicUsize::new(0), reopener })
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
}

fn round_up(bytes: u64) -> u64 {
    bytes.checked_next_multiple_of(PAGE).unwrap_or(u64::MAX)
}

impl Content {
    pub fn new(quotas: Quotas, shared: Arc<ContentShared>) -> Content {
        Content { storage: Storage::Heap(Vec::new()), quotas, shared, charged: 0 }
    }

    /// Size, and 512-byte blocks in use.
    pub fn size_and_blocks(&self) -> Result<(u64, u64)> {
        match &self.storage {
            Storage::Heap(bytes) => Ok((bytes.len() as u64, round_up(bytes.len() as u64) / 512)),
            Storage::Memfd { descriptor, .. } => {
                let status = rustix::fs::fstat(&**descriptor).map_err(host_error)?;
                Ok((status.st_size as u64, status.st_blocks as u64))
            }
        }
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
        result
    }

    /// Charges what the host says is in use (a guest's shared mapping may have touched pages), and gives back the rest.
    fn settle(&mut self) {
        let Ok((_, blocks)) = self.size_and_blocks() else { return };
        let in_use = blocks.saturating_mul(512);
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
        self.with_reservation(offset, end, |descriptor| rustix::fs::fallocate(descriptor, flags, offset, length).map_err(host_error))
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
        if matches!(self.storage, Storage::Memfd { .. }) {
            self.shared.memfds.fetch_sub(1, Ordering::Relaxed);
        }
    }
}
