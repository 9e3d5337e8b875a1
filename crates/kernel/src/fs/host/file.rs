//! Open files and directories of a host tree.

use super::inode::xattrs_of;
use super::{host_error, status_of, Access, HostInode};
use crate::fs::file::{AtRest, FileOperations, HostDescription, MappingRequest, OpenFile, Sharing, StatusFlags};
use crate::fs::inode::{DirectoryEntry, FileType, Metadata};
use crate::{Errno, Result};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, FallocateFlags, OFlags, RawDir, SeekFrom};
use rustix::io::ReadWriteFlags;
use std::any::Any;
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A regular file of the host, open there with the same access as inside.
pub struct HostRegularFile {
    inode: Arc<HostInode>,
    descriptor: Arc<OwnedFd>,
    access: OFlags,
    /// A read-only twin of a writable descriptor, for mappings.
    read_only: Mutex<Option<Arc<OwnedFd>>>,
    /// An open file has its position in `descriptor`; another one of the same object needs a description of its own.
    described: AtomicBool,
}

impl HostRegularFile {
    /// `shared`: others read through this descriptor, whose offset is nobody's.
    pub(super) fn new(inode: Arc<HostInode>, descriptor: Arc<OwnedFd>, access: OFlags, shared: bool) -> HostRegularFile {
        HostRegularFile { inode, descriptor, access, read_only: Mutex::new(None), described: AtomicBool::new(shared) }
    }

    /// The host's own descriptor, open with the same access as the guest's.
    pub fn host_descriptor(&self) -> Arc<OwnedFd> {
        self.descriptor.clone()
    }
}

impl FileOperations for HostRegularFile {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        rustix::io::pread(&*self.descriptor, buffer, offset).map_err(host_error)
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        rustix::io::pwrite(&*self.descriptor, buffer, offset).map_err(host_error)
    }

    fn append(&self, _file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        let slices = [IoSlice::new(buffer)];
        let count = rustix::io::pwritev2(&*self.descriptor, &slices, 0, ReadWriteFlags::APPEND).map_err(host_error)?;
        Ok((count, self.size()?))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn seek_data_or_hole(&self, offset: u64, hole: bool) -> Result<u64> {
        // The descriptor's own position, where it is the open file's, is going to be what is found.
        let whence = if hole { SeekFrom::Hole(offset) } else { SeekFrom::Data(offset) };
        rustix::fs::seek(&*self.descriptor, whence).map_err(host_error)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(self.inode.status_by(&self.descriptor)?.metadata(self.inode.tree().ids))
    }

    fn truncate(&self, size: u64) -> Result<()> {
        rustix::fs::ftruncate(&*self.descriptor, size).map_err(host_error)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        rustix::fs::fallocate(&*self.descriptor, FallocateFlags::from_bits_retain(mode), offset, length).map_err(host_error)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        if data_only {
            rustix::fs::fdatasync(&*self.descriptor).map_err(host_error)
        } else {
            rustix::fs::fsync(&*self.descriptor).map_err(host_error)
        }
    }

    fn mapping_descriptor(&self, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        if let Some(copies) = self.inode.tree().cache.copies() {
            return copies.descriptor(&self.descriptor, request);
        }
        if self.access == OFlags::RDONLY || (request.shared && request.writable) {
            return Ok(self.descriptor.clone());
        }
        let mut read_only = self.read_only.lock();
        if let Some(descriptor) = &*read_only {
            return Ok(descriptor.clone());
        }
        let descriptor = Arc::new(self.inode.tree().cache.reopener().reopen(&*self.descriptor, OFlags::RDONLY)?);
        *read_only = Some(descriptor.clone());
        Ok(descriptor)
    }

    fn host_description(&self, flags: StatusFlags, _position: u64) -> Result<Option<HostDescription>> {
        let access = match flags & (StatusFlags::WRONLY | StatusFlags::RDWR) {
            StatusFlags::WRONLY => OFlags::WRONLY,
            StatusFlags::RDWR => OFlags::RDWR,
            _ => OFlags::RDONLY,
        };
        let appends = if flags.contains(StatusFlags::APPEND) { OFlags::APPEND } else { OFlags::empty() };
        let descriptor = if self.access == access && !self.described.swap(true, Ordering::AcqRel) {
            rustix::fs::fcntl_setfl(&*self.descriptor, appends).map_err(host_error)?;
            self.descriptor.clone()
        } else {
            Arc::new(self.inode.tree().cache.reopener().reopen(&*self.descriptor, access | appends)?)
        };
        Ok(Some(HostDescription { descriptor, sharing: Sharing::Own, keep: None }))
    }

    fn direct_write_end(&self, flags: StatusFlags) -> Option<u64> {
        // What must be on the disk before the call returns is written by the sentry.
        (!flags.intersects(StatusFlags::SYNC | StatusFlags::DSYNC)).then_some(u64::MAX)
    }

    fn at_rest(&self, limit: usize) -> Option<AtRest> {
        let tree = self.inode.tree();
        if tree.access() != Access::ReadOnly || self.access != OFlags::RDONLY {
            return None;
        }
        let mut data = Vec::new();
        if limit != 0 {
            data.reserve_exact(limit);
            rustix::io::pread(&*self.descriptor, rustix::buffer::spare_capacity(&mut data), 0).ok()?;
        }
        // Behind that: reading moves the time of access.
        let status = rustix::fs::fstat(&*self.descriptor).ok()?;
        if !tree.keeps_time(&self.descriptor, status.st_dev) {
            return None;
        }
        let metadata = self.inode.status_of(&status).ok()?.metadata(tree.ids);
        Some(AtRest { metadata, data, shows_reading: false })
    }

    fn list_xattr(&self) -> Option<Result<Vec<Vec<u8>>>> {
        Some(xattrs_of(&self.descriptor))
    }

    fn unchanging_descriptor(&self) -> Option<Arc<OwnedFd>> {
        (self.inode.tree().access() == Access::ReadOnly).then(|| self.descriptor.clone())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// An open directory of the host.
pub struct HostDirectory {
    inode: Arc<HostInode>,
    /// The descriptor with the position it has on the host (as a cursor).
    stream: Mutex<(OwnedFd, u64)>,
}

impl HostDirectory {
    pub(super) fn new(inode: Arc<HostInode>, descriptor: OwnedFd) -> HostDirectory {
        HostDirectory { inode, stream: Mutex::new((descriptor, 0)) }
    }
}

impl FileOperations for HostDirectory {
    fn read(&self, _file: &OpenFile, _buffer: &mut [u8], _offset: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn metadata(&self) -> Result<Metadata> {
        let stream = self.stream.lock();
        Ok(self.inode.status_by(&stream.0)?.metadata(self.inode.tree().ids))
    }

    fn read_directory(&self, cursor: u64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        let mut stream = self.stream.lock();
        let (descriptor, position) = &mut *stream;
        if *position != cursor {
            rustix::fs::seek(&*descriptor, SeekFrom::Start(cursor)).map_err(host_error)?;
        }
        // Anything but a whole pass leaves the host's position somewhere else.
        *position = u64::MAX;
        let mut buffer = vec![MaybeUninit::uninit(); 32 * 1024];
        let mut last = cursor;
        let mut directory = RawDir::new(&*descriptor, &mut buffer);
        while let Some(entry) = directory.next() {
            let entry = entry.map_err(host_error)?;
            let name = entry.file_name().to_bytes();
            let kind = match entry.file_type() {
                rustix::fs::FileType::Fifo => FileType::Fifo,
                rustix::fs::FileType::CharacterDevice => FileType::CharacterDevice,
                rustix::fs::FileType::Directory => FileType::Directory,
                rustix::fs::FileType::BlockDevice => FileType::BlockDevice,
                rustix::fs::FileType::Symlink => FileType::Symlink,
                rustix::fs::FileType::Socket => FileType::Socket,
                rustix::fs::FileType::RegularFile => FileType::Regular,
                // The file system does not say: ask (and skip what is gone meanwhile).
                _ => match status_of(&*descriptor, name, AtFlags::empty()) {
                    Ok(status) => status.kind,
                    Err(_) => continue,
                },
            };
            let entry = DirectoryEntry { name, inode: entry.ino(), kind, next_cursor: entry.next_entry_cookie() };
            if !emit(&entry) {
                return Ok(());
            }
            last = entry.next_cursor;
        }
        *position = last;
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        rustix::fs::fsync(&self.stream.lock().0).map_err(host_error)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
