//! Which host files keep an `O_PATH` descriptor: the most recently used ones.

use super::{host_error, Copies, HostInode};
use crate::Result;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

/// Descriptors that files keep between calls, for all host trees of a sandbox together.
pub struct DescriptorCache {
    limit: usize,
    /// Oldest first; a file that was used since it was queued gets another round.
    queue: Mutex<VecDeque<Weak<HostInode>>>,
    reopener: Reopener,
    /// Where programs may not map the files themselves.
    copies: OnceLock<Copies>,
}

impl DescriptorCache {
    /// `limit`: how many descriptors may be kept.
    pub fn new(limit: usize, reopener: Reopener) -> Arc<DescriptorCache> {
        Arc::new(DescriptorCache { limit, queue: Mutex::default(), reopener, copies: OnceLock::new() })
    }

    /// From now on copies are mapped.
    pub fn map_copies(&self, copies: Copies) {
        let _ = self.copies.set(copies);
    }

    pub fn copies(&self) -> Option<&Copies> {
        self.copies.get()
    }

    pub fn reopener(&self) -> &Reopener {
        &self.reopener
    }

    /// `inode` has just opened a descriptor: makes room for it.
    pub(super) fn added(&self, inode: &Arc<HostInode>) {
        let mut evicted = None;
        {
            let mut queue = self.queue.lock();
            queue.push_back(Arc::downgrade(inode));
            let mut rounds = queue.len();
            while queue.len() > self.limit && rounds > 0 {
                rounds -= 1;
                let Some(oldest) = queue.pop_front() else { break };
                let Some(candidate) = oldest.upgrade() else { continue };
                if candidate.take_recently_used() && !Arc::ptr_eq(&candidate, inode) {
                    queue.push_back(oldest);
                    continue;
                }
                evicted = Some(candidate);
                break;
            }
        }
        // Outside of the queue's lock: the last reference to a file may go here.
        if let Some(inode) = evicted {
            inode.drop_descriptor();
        }
    }
}

/// Opens a descriptor's file again with other flags, through a directory descriptor of the process's own
/// /proc/self/fd that was opened before the process confined itself.
#[derive(Clone)]
pub struct Reopener {
    directory: Arc<OwnedFd>,
}

impl Reopener {
    pub fn new() -> Result<Reopener> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).map_err(host_error)?;
        Ok(Reopener { directory: Arc::new(directory) })
    }

    pub fn reopen(&self, descriptor: impl AsFd, flags: OFlags) -> Result<OwnedFd> {
        let name = descriptor.as_fd().as_raw_fd().to_string();
        rustix::fs::openat(&*self.directory, name, flags | OFlags::CLOEXEC | OFlags::NOCTTY, Mode::empty()).map_err(host_error)
    }

    /// Gives the file behind a descriptor a name (linkat(2) through /proc/self/fd).
    pub fn link(&self, descriptor: impl AsFd, directory: &OwnedFd, name: &[u8]) -> Result<()> {
        let source = descriptor.as_fd().as_raw_fd().to_string();
        rustix::fs::linkat(&*self.directory, source, directory, name, rustix::fs::AtFlags::SYMLINK_FOLLOW).map_err(host_error)
    }

    /// chmod(2) of what an `O_PATH` descriptor stands for.
    pub fn change_mode(&self, descriptor: impl AsFd, permissions: u32) -> Result<()> {
        let name = descriptor.as_fd().as_raw_fd().to_string();
        let mode = Mode::from_raw_mode(permissions);
        rustix::fs::chmodat(&*self.directory, name, mode, rustix::fs::AtFlags::empty()).map_err(host_error)
    }
}
