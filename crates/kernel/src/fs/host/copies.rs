//! Private copies of host files, to be mapped instead of the files themselves (the strict profile): no page of the host's
//! page cache is ever in a program's address space.
//!
//! A copy lies in a tmpfs of its own, under the sandbox's cap, and holds the pages that were asked for so far. It is used
//! again as long as the file has not changed.

use super::host_error;
use crate::fs::file::{FileOperations, MappingRequest, OpenFile, StatusFlags};
use crate::fs::inode::Inode;
use crate::fs::tmpfs::Tmpfs;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Copies that are kept for the next who maps the same file.
const KEPT: usize = 128;
const STEP: usize = 256 * 1024;
const PAGE: u64 = 4096;

/// What tells that a file is still as it was: device, inode, size, modification and change time.
type Identity = (u64, u64, i64, (i64, i64), (i64, i64));

struct Copy {
    identity: Identity,
    file: Arc<dyn FileOperations>,
    /// Parts that are there: start to end, in pages' bytes.
    filled: Vec<(u64, u64)>,
}

/// All copies of a sandbox.
pub struct Copies {
    tmpfs: Arc<Tmpfs>,
    /// The one that was used last is at the end.
    kept: Mutex<VecDeque<Copy>>,
}

impl Copies {
    pub fn new(tmpfs: Arc<Tmpfs>) -> Copies {
        Copies { tmpfs, kept: Mutex::default() }
    }

    /// A read-only descriptor of a copy of `original`, with what `request` maps in it. ENODEV: it would have to be shared
    /// with the file itself. ENOMEM: there is no room.
    pub fn descriptor(&self, original: &OwnedFd, request: MappingRequest) -> Result<Arc<OwnedFd>> {
        if request.shared && request.writable {
            return Err(Errno::ENODEV);
        }
        let status = rustix::fs::fstat(original).map_err(host_error)?;
        let identity = (
            status.st_dev,
            status.st_ino,
            status.st_size,
            (status.st_mtime, status.st_mtime_nsec as i64),
            (status.st_ctime, status.st_ctime_nsec as i64),
        );
        let size = status.st_size as u64;
        let mut kept = self.kept.lock();
        let mut copy = match kept.iter().position(|copy| copy.identity == identity).and_then(|index| kept.remove(index)) {
            Some(copy) => copy,
            None => {
                let file = self.tmpfs.anonymous_file(0o400, 0, 0)?.open_data(StatusFlags::RDWR)?;
                file.truncate(size)?;
                Copy { identity, file, filled: Vec::new() }
            }
        };
        let start = request.offset / PAGE * PAGE;
        let end = request.offset.saturating_add(request.length).min(size);
        let result = copy
            .fill(original, start, end)
            .and_then(|()| copy.file.mapping_descriptor(MappingRequest { shared: false, writable: false, ..request }));
        if kept.len() >= KEPT {
            kept.pop_front();
        }
        kept.push_back(copy);
        result
    }
}

impl Copy {
    fn fill(&mut self, original: &OwnedFd, start: u64, end: u64) -> Result<()> {
        if start >= end || self.filled.iter().any(|part| part.0 <= start && end <= part.1) {
            return Ok(());
        }
        let target = OpenFile::new(self.file.clone(), StatusFlags::RDWR, None);
        let mut buffer = vec![0; STEP.min((end - start) as usize)];
        let mut offset = start;
        while offset < end {
            let wanted = buffer.len().min((end - offset) as usize);
            let count = rustix::io::pread(original, &mut buffer[..wanted], offset).map_err(host_error)?;
            if count == 0 {
                break;
            }
            let mut written = 0;
            while written < count {
                let done = self.file.write(&target, &buffer[written..count], offset + written as u64);
                written += done.map_err(|_| Errno::ENOMEM)?.max(1);
            }
            offset += count as u64;
        }
        // Beyond some parts the next ones are copied once more, which changes nothing.
        if self.filled.len() < 64 {
            self.filled.push((start, end));
        }
        Ok(())
    }
}
