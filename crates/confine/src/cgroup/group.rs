//! One group of ours: a directory in one hierarchy, held by a lock for as long as somebody of the sandbox lives.
//!
//! The lock (flock(2) on the directory, kept by the guardian and the sentry) is what tells a group in use from one whose
//! sandbox was killed before it could take it away: whoever gets the lock may remove the group ([`sweep`]).

use rustix::fs::{flock, openat, unlinkat, AtFlags, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Names of our groups begin with it.
const PREFIX: &str = "skerry-";
/// Groups inside of ours, where a hierarchy lets processes be in leaves only.
pub const SENTRY: &str = "sentry";
pub const GUESTS: &str = "guests";

/// How long a group may take to become empty once everything in it has been killed.
const PATIENCE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub struct Group {
    pub path: PathBuf,
    parent: OwnedFd,
    name: String,
    /// Locked.
    directory: OwnedFd,
}

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

impl Group {
    /// A new group in the group `parent`.
    pub fn make(parent_path: &Path) -> io::Result<Group> {
        let parent = rustix::fs::open(parent_path, DIRECTORY, Mode::empty())?;
        loop {
            let mut random = [0u8; 4];
            rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())?;
            let name = format!("{PREFIX}{}-{:08x}", std::process::id(), u32::from_ne_bytes(random));
            match rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(error.into()),
            }
            // Between the two somebody who sweeps may have taken it for a dead one.
            match openat(&parent, &name, DIRECTORY, Mode::empty()) {
                Ok(directory) if locked(&directory) && still_there(&parent, &name) => {
                    return Ok(Group { path: parent_path.join(&name), parent, name, directory })
                }
                Ok(_) | Err(Errno::NOENT) => {
                    let _ = unlinkat(&parent, &name, AtFlags::REMOVEDIR);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A group in this one.
    pub fn make_inner(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::mkdirat(&self.directory, name, Mode::from_raw_mode(0o755))?)
    }

    pub fn open(&self, file: &str, flags: OFlags) -> io::Result<File> {
        Ok(openat(&self.directory, file, flags | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    pub fn write(&self, file: &str, value: &str) -> io::Result<()> {
        put(&self.open(file, OFlags::WRONLY)?, value)
    }

    /// Kills whatever is in it, and takes it away.
    pub fn end(&self) {
        let deadline = Instant::now() + PATIENCE;
        if self.write("cgroup.kill", "1").is_err() {
            self.kill_each();
        }
        loop {
            match remove(self.parent.as_fd(), &self.name) {
                // Busy: what has been killed is still on its way out.
                Err(Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(1));
                    self.kill_each();
                }
                _ => return,
            }
        }
    }

    /// Version one has no way to kill them all at once: until there is nobody left ([`Group::end`] comes again).
    fn kill_each(&self) {
        for inner in ["cgroup.procs", "guests/cgroup.procs", "sentry/cgroup.procs"] {
            let Ok(file) = self.open(inner, OFlags::RDONLY) else { continue };
            for pid in io::read_to_string(file).unwrap_or_default().lines().filter_map(|line| line.parse().ok()) {
                if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
            }
        }
    }
}

/// One write(2), as these files want it.
pub fn put(file: &File, value: &str) -> io::Result<()> {
    rustix::io::retry_on_intr(|| rustix::io::write(file, value.as_bytes()))?;
    Ok(())
}

fn locked(directory: &OwnedFd) -> bool {
    flock(directory, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn still_there(parent: &OwnedFd, name: &str) -> bool {
    rustix::fs::accessat(parent, name, rustix::fs::Access::EXISTS, AtFlags::empty()).is_ok()
}

fn remove(parent: rustix::fd::BorrowedFd, name: &str) -> rustix::io::Result<()> {
    if let Ok(directory) = openat(parent, name, DIRECTORY, Mode::empty()) {
        for inner in [GUESTS, SENTRY] {
            match unlinkat(&directory, inner, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(error) => return Err(error),
            }
        }
    }
    unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Takes away what killed sandboxes have left in the group `parent`; says what. Who has just died may be `patience` on the
/// way out.
pub fn sweep(parent_path: &Path, patience: Duration) -> Vec<PathBuf> {
    let deadline = Instant::now() + patience;
    let mut removed = Vec::new();
    let Ok(parent) = rustix::fs::open(parent_path, DIRECTORY, Mode::empty()) else { return removed };
    let Ok(entries) = Dir::read_from(&parent) else { return removed };
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().to_str() else { continue };
        if !name.starts_with(PREFIX) {
            continue;
        }
        let Ok(directory) = openat(&parent, name, DIRECTORY, Mode::empty()) else { continue };
        // Never killed here: its processes die with their sentry; what is not empty is not ours to judge.
        if !locked(&directory) {
            continue;
        }
        let result = loop {
            match remove(parent.as_fd(), name) {
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(2)),
                result => break result,
            }
        };
        if result.is_ok() {
            removed.push(parent_path.join(name));
        }
    }
    removed
}
