//! Opening a file to execute or to map it (execve(2), mmap(2)).

use crate::fs::file::{MappingRequest, OpenFile, StatusFlags};
use crate::fs::inode::{FileType, Metadata};
use crate::fs::mount::MountFlags;
use crate::fs::path::Path;
use crate::fs::walk::{self, AllowEmpty, Follow, Target};
use crate::task::{AccessMode, Task};
use crate::{Errno, Result};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// A file that may be executed, open for reading.
pub struct Executable {
    pub file: Arc<OpenFile>,
    pub path: Path,
    /// Set-id bits that must not count (nosuid) have been taken out.
    pub metadata: Metadata,
    /// The host descriptor to read headers from and to map: read-only, same offsets.
    pub descriptor: Arc<OwnedFd>,
}

/// Opens `path` to execute it. EACCES where it is not a regular file, or execute permission is missing, or the mount is
/// noexec; ELOOP for a link with `Follow::No` (AT_SYMLINK_NOFOLLOW).
pub fn open_executable(task: &Task, dirfd: i32, path: &[u8], follow: Follow, allow_empty: AllowEmpty) -> Result<Executable> {
    let place = match walk::resolve_at(task, dirfd, path, follow, allow_empty)? {
        Target::Path(place) => place,
        // A memfd has no place of its own.
        Target::File(file) => file.path.clone().unwrap_or_else(|| crate::fs::anonymous::path_of(task.kernel(), file)),
    };
    executable_at(task, place)
}

/// As [`open_executable`], for a place that is known already.
pub fn executable_at(task: &Task, place: Path) -> Result<Executable> {
    let inode = place.inode().clone();
    if inode.kind() == FileType::Symlink {
        return Err(Errno::ELOOP);
    }
    let mut metadata = inode.metadata()?;
    if metadata.kind != FileType::Regular || place.mount.flags().contains(MountFlags::NOEXEC) {
        return Err(Errno::EACCES);
    }
    task.credentials().check_access(&metadata, AccessMode::EXECUTE)?;
    crate::policy::allows_program(task, &place)?;
    if place.mount.flags().contains(MountFlags::NOSUID) {
        metadata.permissions &= !0o6000;
    }
    let operations = inode.open_data(StatusFlags::empty())?;
    let request = MappingRequest { shared: false, writable: false, offset: 0, length: 0 };
    let descriptor = operations.mapping_descriptor(request)?;
    task.kernel().mapped_names.remember(&descriptor, &place, task.kernel());
    let file = OpenFile::new(operations, StatusFlags::LARGEFILE, Some(place.clone()));
    Ok(Executable { file, path: place, metadata, descriptor })
}
