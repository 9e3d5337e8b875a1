//! A directory of a sandbox's own on the host, in /tmp, gone at its end. It is locked (flock(2)) for as long as somebody of
//! the sandbox lives: whoever gets the lock may take it away ([`sweep`]), as with the cgroups.

use rustix::fs::{flock, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const PLACE: &str = "/tmp";
const PREFIX: &str = "skerry-private-";

pub struct Temporary {
    pub path: PathBuf,
    _lock: OwnedFd,
}

impl Temporary {
    /// For this user alone.
    pub fn make() -> io::Result<Temporary> {
        loop {
            let mut random = [0u8; 8];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let path = Path::new(PLACE).join(format!("{PREFIX}{:016x}", u64::from_ne_bytes(random)));
            match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o700)) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            }
            // Between the two somebody who sweeps may have taken it away.
            if let Some(lock) = locked(&path) {
                if path.exists() {
                    return Ok(Temporary { path, _lock: lock });
                }
            }
        }
    }

    /// Takes it away with all that is in it.
    pub fn end(self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

fn locked(path: &Path) -> Option<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty()).ok()?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive).ok().map(|()| directory)
}

/// Takes away what killed sandboxes of this user have left; says what.
pub fn sweep() -> Vec<PathBuf> {
    let ours = rustix::process::geteuid().as_raw();
    let mut removed = Vec::new();
    for entry in std::fs::read_dir(PLACE).into_iter().flatten().flatten() {
        let named = entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX));
        let own = named && entry.path().symlink_metadata().is_ok_and(|facts| facts.is_dir() && facts.uid() == ours);
        if own && locked(&entry.path()).is_some() && std::fs::remove_dir_all(entry.path()).is_ok() {
            removed.push(entry.path());
        }
    }
    removed
}
