//! memfd_create(2), and other memory that is a file without a name in the tree.
//!
//! The bytes lie in a tmpfs of the sandbox's own that is mounted nowhere, so that they count towards its limits and can
//! be mapped and sealed like any file there.

use crate::fs::file::{Events, FileOperations, HostDescription, MappingRequest, OpenFile, StatusFlags};
use crate::fs::inode::{Inode, Metadata};
use crate::fs::tmpfs::{Tmpfs, TmpfsInode};
use crate::sync::WaitQueue;
use crate::{Context, Errno, Result};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

/// The tmpfs; part of the kernel.
#[derive(Default)]
pub struct AnonymousMemory {
    tmpfs: OnceLock<Arc<Tmpfs>>,
}

fn anonymous_inode(context: &Context, permissions: u32) -> Result<Arc<TmpfsInode>> {
    let kernel = context.kernel();
    let services = kernel.file_services.get().ok_or(Errno::ENOSYS)?;
    let tmpfs = kernel.anonymous_memory.tmpfs.get_or_init(|| services.tmpfs(0, 0o1777, "tmpfs"));
    let credentials = context.task.credentials();
    tmpfs.anonymous_file(permissions, credentials.fsuid, credentials.fsgid)
}

/// `size` bytes of zeros that can be mapped. ENOMEM.
pub fn anonymous_memory(context: &Context, size: u64) -> Result<Arc<dyn FileOperations>> {
    let file = anonymous_inode(context, 0o600)?.open(context, StatusFlags::RDWR)?;
    file.truncate(size).map_err(|_| Errno::ENOMEM)?;
    Ok(file)
}

/// Whether seals can be added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sealing {
    Allowed,
    /// F_SEAL_SEAL is set from the start.
    Refused,
}

/// The file behind a memfd. To fcntl(2)'s seals it is the tmpfs file that it wraps; only its name is its own.
pub struct MemFd {
    file: Arc<dyn FileOperations>,
    name: Vec<u8>,
}

impl MemFd {
    /// `executable` decides about the mode only (MFD_EXEC, MFD_NOEXEC_SEAL).
    pub fn new(context: &Context, name: &[u8], sealing: Sealing, permissions: u32) -> Result<MemFd> {
        let inode = anonymous_inode(context, permissions)?;
        if sealing == Sealing::Allowed {
            inode.allow_sealing();
        }
        Ok(MemFd { file: inode.open(context, StatusFlags::RDWR)?, name: name.to_vec() })
    }
}

impl FileOperations for MemFd {
    fn read(&self, file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        self.file.read(file, buffer, offset)
    }
    fn write(&self, file: &OpenFile, buffer: &[u8], offset: u64) -> Result<usize> {
        self.file.write(file, buffer, offset)
    }
    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.file.append(file, buffer)
    }
    fn is_seekable(&self) -> bool {
        true
    }
    fn size(&self) -> Result<u64> {
        self.file.size()
    }
    fn seek_data_or_hole(&self, offset: u64, hole: bool) -> Result<u64> {
        self.file.seek_data_or_hole(offset, hole)
    }
    fn poll(&self) -> Events {
        self.file.poll()
    }
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }
    fn metadata(&self) -> Result<Metadata> {
        // No name leads to it.
        Ok(Metadata { links: 0, ..self.file.metadata()? })
    }
    fn truncate(&self, size: u64) -> Result<()> {
        self.file.truncate(size)
    }
    fn allocate(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        self.file.allocate(mode, offset, length)
    }
    fn sync(&self, data_only: bool) -> Result<()> {
        self.file.sync(data_only)
    }
    fn mapping_descriptor(&self, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        self.file.mapping_descriptor(request)
    }
    fn host_description(&self, flags: StatusFlags, position: u64) -> Result<Option<HostDescription>> {
        self.file.host_description(flags, position)
    }
    fn direct_write_end(&self, flags: StatusFlags) -> Option<u64> {
        self.file.direct_write_end(flags)
    }
    fn write_at_host_offset(&self, descriptor: &OwnedFd, flags: StatusFlags, buffer: &[u8]) -> Result<usize> {
        self.file.write_at_host_offset(descriptor, flags, buffer)
    }
    fn flush(&self, file: &OpenFile) {
        self.file.flush(file);
    }
    fn anonymous_name(&self) -> String {
        format!("/memfd:{} (deleted)", String::from_utf8_lossy(&self.name))
    }
    fn as_any(&self) -> &dyn Any {
        self.file.as_any()
    }
}
