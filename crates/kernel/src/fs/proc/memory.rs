//! /proc/PID/mem: a process's memory as a file.

use crate::fs::file::{FileOperations, OpenFile};
use crate::fs::inode::{Device, Metadata};
use crate::fs::pseudo::{metadata, Attributes};
use crate::ptrace::access;
use crate::{Errno, Result};
use skerry_platform::memory::GuestMemory;
use std::any::Any;
use std::sync::Arc;

/// The most that is moved at once; the rest is another call's.
const TRANSFER_MAX: usize = 1 << 20;

/// The memory of the process as it was when the file was opened: after an exec(2) it is gone, as on Linux.
pub(super) struct MemoryFile {
    memory: Arc<GuestMemory>,
    attributes: Attributes,
}

impl MemoryFile {
    /// Who opens has been checked.
    pub fn open(memory: Arc<GuestMemory>, attributes: Attributes) -> Result<Arc<dyn FileOperations>> {
        Ok(Arc::new(MemoryFile { memory, attributes }))
    }
}

impl FileOperations for MemoryFile {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let length = buffer.len().min(TRANSFER_MAX);
        access::read(&self.memory, offset, &mut buffer[..length])
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        access::write(&self.memory, offset, &buffer[..buffer.len().min(TRANSFER_MAX)])
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn size(&self) -> Result<u64> {
        Err(Errno::EINVAL)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(metadata(&self.attributes, Device::default()))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
