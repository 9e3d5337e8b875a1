//! An open regular file of an overlay.

use super::OverlayInode;
use crate::fs::file::{AtRest, FileOperations, MappingRequest, OpenFile, StatusFlags};
use crate::fs::inode::Metadata;
use crate::Result;
use parking_lot::RwLock;
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An open file: of the lower tree until the file is copied up, then of the upper one.
pub struct OverlayFile {
    inode: Arc<OverlayInode>,
    flags: StatusFlags,
    real: RwLock<Real>,
}

struct Real {
    operations: Arc<dyn FileOperations>,
    is_upper: bool,
}

impl OverlayFile {
    pub(super) fn open(inode: Arc<OverlayInode>, flags: StatusFlags) -> Result<OverlayFile> {
        let writes = flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR);
        let (part, is_upper) = if writes { (inode.ensure_upper()?, true) } else { inode.top()? };
        let operations = part.open_data(flags)?;
        Ok(OverlayFile { inode, flags, real: RwLock::new(Real { operations, is_upper }) })
    }

    /// Of a file that is in the lower tree alone, and open there.
    pub(super) fn of_lower(inode: Arc<OverlayInode>, flags: StatusFlags, operations: Arc<dyn FileOperations>) -> OverlayFile {
        OverlayFile { inode, flags, real: RwLock::new(Real { operations, is_upper: false }) }
    }

    /// The file that is read and written now.
    pub fn real(&self) -> Result<Arc<dyn FileOperations>> {
        {
            let real = self.real.read();
            if real.is_upper || self.inode.parts.read().upper.is_none() {
                return Ok(real.operations.clone());
            }
        }
        let (part, is_upper) = self.inode.top()?;
        let operations = part.open_data(self.flags)?;
        *self.real.write() = Real { operations: operations.clone(), is_upper };
        Ok(operations)
    }
}

impl FileOperations for OverlayFile {
    fn read(&self, file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.real()?.read(file, buffer, offset)
    }

    fn write(&self, file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        self.real()?.write(file, buffer, offset)
    }

    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.real()?.append(file, buffer)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64> {
        self.real()?.size()
    }

    fn seek_data_or_hole(&self, offset: u64, hole: bool) -> Result<u64> {
        self.real()?.seek_data_or_hole(offset, hole)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(self.inode.shown(self.real()?.metadata()?))
    }

    fn truncate(&self, size: u64) -> Result<()> {
        self.real()?.truncate(size)
    }

    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        self.real()?.allocate(mode, offset, length)
    }

    fn sync(&self, data_only: bool) -> Result<()> {
        self.real()?.sync(data_only)
    }

    fn mapping_descriptor(&self, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        self.real()?.mapping_descriptor(request)
    }

    fn underlying(&self) -> Option<Result<Arc<dyn FileOperations>>> {
        Some(self.real())
    }

    fn at_rest(&self, limit: usize) -> Option<AtRest> {
        let rest = self.real().ok()?.at_rest(limit)?;
        Some(AtRest { metadata: self.inode.shown(rest.metadata), ..rest })
    }

    fn was_read(&self, file: &OpenFile, then: TimeSpec) {
        if let Ok(real) = self.real() {
            real.was_read(file, then);
        }
    }

    fn unchanging_descriptor(&self) -> Option<Arc<OwnedFd>> {
        self.real().ok()?.unchanging_descriptor()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
