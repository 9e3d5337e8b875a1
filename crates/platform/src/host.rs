//! The host's own /proc, as far as the guest's is made from it.
//!
//! The directory is opened once, before the sentry is confined, and files are then opened below it by plain names only.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

/// The most that is read of one file.
const TEXT_MAX: usize = 16 << 20;

static PROC: OnceLock<Option<OwnedFd>> = OnceLock::new();
static OWN_DESCRIPTORS: OnceLock<Option<OwnedFd>> = OnceLock::new();

fn open_directory(path: &str) -> Option<OwnedFd> {
    rustix::fs::open(path, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()
}

/// The host's /proc, opened at the first call: call it once before the sentry is confined. `None` where the host has none.
pub fn proc_directory() -> Option<BorrowedFd<'static>> {
    own_descriptors();
    PROC.get_or_init(|| open_directory("/proc")).as_ref().map(AsFd::as_fd)
}

/// The host's /proc/self/fd of this process, opened with [`proc_directory`]: a name in it opens the object behind a
/// descriptor a second time.
pub fn own_descriptors() -> Option<BorrowedFd<'static>> {
    OWN_DESCRIPTORS.get_or_init(|| open_directory("/proc/self/fd")).as_ref().map(AsFd::as_fd)
}

/// The text of /proc/`name` of the host. `name` is ours, never the guest's.
pub fn read_proc(name: &str) -> Result<Vec<u8>, Errno> {
    let directory = proc_directory().ok_or(Errno::NOENT)?;
    let file = rustix::fs::openat(directory, name, OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut text = Vec::with_capacity(4096);
    loop {
        if text.len() >= TEXT_MAX {
            return Ok(text);
        }
        if text.capacity() - text.len() < 4096 {
            text.reserve(text.len().max(4096));
        }
        match rustix::io::read(&file, rustix::buffer::spare_capacity(&mut text)) {
            Ok(0) => return Ok(text),
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
}

/// As [`read_proc`], for the file `name` of the host process `pid`.
pub fn read_proc_of(pid: i32, name: &str) -> Result<Vec<u8>, Errno> {
    read_proc(&format!("{pid}/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_own_files_whole_and_says_when_there_is_none() {
        let pid = std::process::id() as i32;
        assert!(read_proc_of(pid, "status").unwrap().starts_with(b"Name:"));
        assert!(read_proc_of(pid, "maps").unwrap().ends_with(b"\n"));
        assert_eq!(read_proc("no-such-file").unwrap_err(), Errno::NOENT);
    }
}
