//! null, zero, full, random, urandom (null(4), full(4), random(4)).

use super::DeviceRegistry;
use crate::fs::file::{FileOperations, MappingRequest, OpenFile};
use crate::fs::inode::{Device, Inode, Metadata};
use crate::{Context, Errno, Result};
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::Arc;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Null,
    Zero,
    Full,
    Random,
}

/// An open memory device.
struct MemoryDevice {
    kind: Kind,
    inode: Arc<dyn Inode>,
}

pub(super) const NULL: Device = Device::new(1, 3);
pub(super) const ZERO: Device = Device::new(1, 5);
pub(super) const FULL: Device = Device::new(1, 7);
pub(super) const RANDOM: Device = Device::new(1, 8);
pub(super) const URANDOM: Device = Device::new(1, 9);

pub(super) fn register(registry: &DeviceRegistry) {
    for (device, kind) in
        [(NULL, Kind::Null), (ZERO, Kind::Zero), (FULL, Kind::Full), (RANDOM, Kind::Random), (URANDOM, Kind::Random)]
    {
        registry.register_character_device(device, Arc::new(move |_, inode, _| Ok(Arc::new(MemoryDevice { kind, inode }))));
    }
}

impl FileOperations for MemoryDevice {
    fn stays_at_zero(&self) -> bool {
        matches!(self.kind, Kind::Null | Kind::Zero | Kind::Full)
    }

    fn is_null(&self) -> bool {
        self.kind == Kind::Null
    }

    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        match self.kind {
            Kind::Null => Ok(0),
            Kind::Zero | Kind::Full => {
                buffer.fill(0);
                Ok(buffer.len())
            }
            Kind::Random => {
                let mut done = 0;
                while done < buffer.len() {
                    match rustix::rand::getrandom(&mut buffer[done..], rustix::rand::GetRandomFlags::empty()) {
                        Ok(count) => done += count,
                        Err(rustix::io::Errno::INTR) => {}
                        Err(error) => return Err(crate::fs::host::host_error(error)),
                    }
                }
                Ok(done)
            }
        }
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        match self.kind {
            Kind::Full => Err(Errno::ENOSPC),
            _ => Ok(buffer.len()),
        }
    }

    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.write(file, buffer, 0).map(|count| (count, 0))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    /// lseek(2) on these succeeds and stays at 0, whatever is asked.
    fn size(&self) -> Result<u64> {
        Ok(0)
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn ioctl(&self, context: &mut Context, _file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        /// RNDGETENTCNT (random(4)): the bits in the pool.
        const RNDGETENTCNT: u32 = 0x8004_5200;
        if self.kind == Kind::Random && request == RNDGETENTCNT {
            context.write(argument, &256i32)?;
            return Ok(0);
        }
        Err(Errno::ENOTTY)
    }

    fn mapping_descriptor(&self, _request: MappingRequest) -> Result<Arc<OwnedFd>> {
        if self.kind != Kind::Zero {
            return Err(Errno::ENODEV);
        }
        // Zeroes to copy on write; a shared mapping of /dev/zero is memory that only the mapper's children share.
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let descriptor = match rustix::fs::memfd_create("zero", flags | rustix::fs::MemfdFlags::NOEXEC_SEAL) {
            Err(rustix::io::Errno::INVAL) => rustix::fs::memfd_create("zero", flags),
            other => other,
        }
        .map_err(crate::fs::host::host_error)?;
        let end = _request.offset.checked_add(_request.length).ok_or(Errno::EINVAL)?;
        rustix::fs::ftruncate(&descriptor, end).map_err(crate::fs::host::host_error)?;
        Ok(Arc::new(descriptor))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
