//! An open regular file in memory.

use super::TmpfsInode;
use crate::fs::clock;
use crate::fs::file::{AtRest, FileOperations, HostDescription, MappingRequest, OpenFile, StatusFlags};
use crate::fs::inode::{Inode, Metadata};
use crate::Result;
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An open regular file.
pub struct TmpfsFile {
    pub inode: Arc<TmpfsInode>,
}

impl FileOperations for TmpfsFile {
    fn read(&self, file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let count = self.inode.content()?.read().read(buffer, offset)?;
        if !file.flags().contains(StatusFlags::NOATIME) {
            self.inode.accessed(clock::now());
        }
        Ok(count)
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        self.inode.check_seals_for_write(offset, buffer.len() as u64)?;
        let count = self.inode.content()?.write().write(buffer, offset)?;
        self.inode.modified();
        Ok(count)
    }

    fn append(&self, _file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        let size = self.inode.content()?.read().size()?;
        self.inode.check_seals_for_write(size, buffer.len() as u64)?;
        let written = self.inode.content()?.write().append(buffer)?;
        self.inode.modified();
        Ok(written)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64> {
        self.inode.content()?.read().size()
    }

    fn seek_data_or_hole(&self, offset: u64, hole: bool) -> Result<u64> {
        self.inode.content()?.read().seek_data_or_hole(offset, hole)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn truncate(&self, size: u64) -> Result<()> {
        self.inode.truncate(size)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        self.inode.check_seals_for_allocation(mode, offset, length)?;
        self.inode.content()?.write().allocate(mode, offset, length)?;
        self.inode.modified();
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn mapping_descriptor(&self, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        let writable = request.shared && request.writable;
        if writable {
            self.inode.check_seals_for_mapping()?;
            self.inode.modified();
        }
        self.inode.content()?.write().mapping_descriptor(writable)
    }

    fn host_description(&self, flags: StatusFlags, _position: u64) -> Result<Option<HostDescription>> {
        self.inode.host_description(flags)
    }

    fn direct_write_end(&self, _flags: StatusFlags) -> Option<u64> {
        self.inode.content().ok()?.read().direct_write_end()
    }

    fn write_at_host_offset(&self, descriptor: &OwnedFd, flags: StatusFlags, buffer: &[u8]) -> Result<usize> {
        let count =
            self.inode.content()?.write().write_at_offset_of(descriptor, flags.contains(StatusFlags::APPEND), buffer)?;
        self.inode.modified();
        Ok(count)
    }

    fn at_rest(&self, limit: usize) -> Option<AtRest> {
        let content = self.inode.content().ok()?.read();
        let data = content.own_bytes()?;
        let data = data[..data.len().min(limit)].to_vec();
        drop(content);
        let metadata = self.inode.metadata().ok()?;
        let Metadata { accessed, modified, changed, .. } = metadata;
        let shows_reading = clock::relatime_wants(accessed, modified, changed, clock::now());
        Some(AtRest { metadata, data, shows_reading })
    }

    fn was_read(&self, file: &OpenFile, then: TimeSpec) {
        if !file.flags().contains(StatusFlags::NOATIME) {
            self.inode.accessed(then);
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
