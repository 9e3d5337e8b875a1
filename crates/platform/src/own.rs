//! The sentry's own process: descriptors it was given, forking before it has threads.

use crate::HostError;
use rustix::process::Pid;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Takes over a descriptor that the caller left open for us.
///
/// `number` must be given once only, and come from the command line. EBADF where it is not open.
pub fn take_descriptor(number: RawFd) -> Result<OwnedFd, HostError> {
    // SAFETY: F_SETFD on a number that may or may not be open.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(HostError::last("the descriptor given on the command line"));
    }
    // SAFETY: it is open, and this process has no other owner for it: it comes from the command line.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Which side of a fork this is.
pub enum Forked {
    Parent(Pid),
    Child,
}

/// fork(2), while the process still has a single thread.
pub fn fork_single_threaded() -> Result<Forked, HostError> {
    let threads = std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count()).unwrap_or(1);
    if threads != 1 {
        return Err(HostError::new("fork", std::io::Error::other("the process has threads already")));
    }
    // SAFETY: with one thread the child has the whole program in a consistent state.
    match unsafe { libc::fork() } {
        -1 => Err(HostError::last("fork")),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| HostError::last("fork")),
    }
}
