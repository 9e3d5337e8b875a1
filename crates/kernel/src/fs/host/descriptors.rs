//! Which host files keep an `O_PATH` descriptor: the most recently used ones.

use super::{host_error, Copies, HostInode};
use crate::fs::board::Changes;
use crate::Result;
use parking_lot::Mutex;
use rustix::fs::{Mode, OFlags};
use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::{Arc, OnceLock, Weak};

/// Files that keep a descriptor to read: one for so many that keep any.
const OPEN_SHARE: usize = 16;
/// Bytes of names that directories keep, at most, and one of them.
const LISTS_MAX: usize = 1024 * 1024;
pub(super) const LIST_MAX: usize = 64 * 1024;

/// Who keeps something, oldest first, and its size.
#[derive(Default)]
struct Queue {
    files: VecDeque<(Weak<HostInode>, usize)>,
    size: usize,
}

impl Queue {
    /// Those that have to give up what they keep, now that `inode` keeps something as well.
    fn add(&mut self, inode: &Arc<HostInode>, size: usize, limit: usize) -> Vec<Arc<HostInode>> {
        self.files.push_back((Arc::downgrade(inode), size));
        self.size += size;
        let mut over = Vec::new();
        while self.size > limit {
            let Some((oldest, size)) = self.files.pop_front() else { break };
            self.size -= size;
            over.extend(oldest.upgrade().filter(|oldest| !Arc::ptr_eq(oldest, inode)));
        }
        over
    }
}

/// Descriptors that files keep between calls, for all host trees of a sandbox together.
pub struct DescriptorCache {
    limit: usize,
    /// Oldest first; a file that was used since it was queued gets another round.
    queue: Mutex<VecDeque<Weak<HostInode>>>,
    reopener: Reopener,
    /// What else files keep: regular ones that are opened often, a descriptor to read; directories their names.
    open: Mutex<Queue>,
    lists: Mutex<Queue>,
    /// Where programs may not map the files themselves.
    copies: OnceLock<Copies>,
    changes: Arc<Changes>,
}

impl DescriptorCache {
    /// `limit`: how many descriptors may be kept.
    pub fn new(limit: usize, reopener: Reopener) -> Arc<DescriptorCache> {
        Arc::new(DescriptorCache {
            limit,
            queue: Mutex::default(),
            reopener,
            open: Mutex::default(),
            lists: Mutex::default(),
            copies: OnceLock::new(),
            changes: Arc::default(),
        })
    }

    /// From now on copies are mapped.
    pub fn map_copies(&self, copies: Copies) {
        let _ = self.copies.set(copies);
    }

    pub fn copies(&self) -> Option<&Copies> {
        self.copies.get()
    }

    /// What the host changes in directories.
    pub fn changes(&self) -> &Arc<Changes> {
        &self.changes
    }

    pub fn reopener(&self) -> &Reopener {
        &self.reopener
    }

    /// `inode` has begun to keep an open descriptor.
    pub(super) fn keeps_open(&self, inode: &Arc<HostInode>) {
        let over = self.open.lock().add(inode, 1, self.limit / OPEN_SHARE);
        over.iter().for_each(|inode| inode.keep_nothing());
    }

    /// `inode` has begun to keep a list of so many bytes.
    pub(super) fn keeps_list(&self, inode: &Arc<HostInode>, size: usize) {
        let over = self.lists.lock().add(inode, size, LISTS_MAX);
        over.iter().for_each(|inode| inode.keep_nothing());
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
