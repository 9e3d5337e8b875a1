//! Which dentries stay when nobody uses them: those that were used of late.
//!
//! [`DentryCache`] holds them in a ring; a hand goes round and takes the first that has not been used since it last came
//! by. Their number is limited, and so is all that hangs on them: inodes, and the entries in their directories.

use crate::fs::board::Board;
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{FileSystem, FileType, Inode, Metadata};
use crate::fs::path::Dentry;
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// Where the cache has a dentry.
#[derive(Default)]
pub struct KeptAt {
    /// 0: nowhere; else its place in the ring, from 1 on. Changed under the ring's lock only.
    slot: AtomicU32,
    used: AtomicBool,
}

impl KeptAt {
    pub fn used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The cache gives up `dentry`, whose place this is.
    pub fn let_go(&self, dentry: &Dentry) {
        if self.slot.load(Ordering::Acquire) != 0 {
            if let Some(cache) = dentry.cache.get().and_then(Weak::upgrade) {
                let gone = cache.ring.lock().take(self);
                drop(gone);
            }
        }
    }
}

/// How many are kept: some 600 bytes each, with their inodes.
const LIMIT: usize = 8192;

/// Dentries in use by nobody but the cache.
pub struct DentryCache {
    limit: AtomicUsize,
    /// The inode of negative dentries.
    pub(super) absent: Arc<dyn Inode>,
    pub board: Board,
    ring: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    slots: Vec<Option<Arc<Dentry>>>,
    free: Vec<u32>,
    hand: usize,
}

impl Ring {
    fn take(&mut self, kept_at: &KeptAt) -> Option<Arc<Dentry>> {
        let slot = kept_at.slot.swap(0, Ordering::Release).checked_sub(1)?;
        self.free.push(slot);
        self.slots.get_mut(slot as usize)?.take()
    }

    /// The next that has not been used since the hand came by.
    fn evict(&mut self) -> Option<Arc<Dentry>> {
        for _ in 0..2 * self.slots.len() {
            self.hand = (self.hand + 1) % self.slots.len();
            let Some(dentry) = &self.slots[self.hand] else { continue };
            if !dentry.kept_at.used.swap(false, Ordering::Relaxed) {
                let dentry = dentry.clone();
                return self.take(&dentry.kept_at);
            }
        }
        None
    }
}

impl Default for DentryCache {
    fn default() -> DentryCache {
        DentryCache {
            limit: AtomicUsize::new(LIMIT),
            absent: Arc::new(Absent),
            board: Board::default(),
            ring: Mutex::default(),
        }
    }
}

impl DentryCache {
    /// From now on `limit` at most are kept; nothing has been kept so far.
    pub fn limit_to(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    pub fn keep(&self, dentry: &Arc<Dentry>) {
        if dentry.kept_at.slot.load(Ordering::Acquire) != 0 {
            return dentry.kept_at.used();
        }
        let mut evicted = None;
        let limit = self.limit.load(Ordering::Relaxed);
        {
            let mut ring = self.ring.lock();
            if dentry.kept_at.slot.load(Ordering::Relaxed) != 0 {
                return;
            }
            if ring.slots.len() - ring.free.len() >= limit {
                evicted = ring.evict();
            }
            let slot = match ring.free.pop() {
                Some(slot) => slot,
                None if ring.slots.len() < limit => {
                    ring.slots.push(None);
                    ring.slots.len() as u32 - 1
                }
                None => return,
            };
            ring.slots[slot as usize] = Some(dentry.clone());
            dentry.kept_at.slot.store(slot + 1, Ordering::Release);
        }
        // Outside of the lock: files, and directories above, may go with it.
        if let Some(evicted) = evicted {
            let (parent, name) = (evicted.parent(), evicted.name());
            drop(evicted);
            // Another directory's lock is not waited for under our caller's; its own sweep finds what is left.
            if let Some(parent) = parent {
                parent.sweep_child(&name);
            }
        }
    }

    /// Gives up all dentries of a file system (it was unmounted).
    pub fn forget(&self, file_system: &Arc<dyn FileSystem>) {
        let mut gone = Vec::new();
        let mut ring = self.ring.lock();
        for index in 0..ring.slots.len() {
            let Some(dentry) = ring.slots[index].clone() else { continue };
            let belongs = dentry.parent().is_none_or(|parent| Arc::ptr_eq(&parent.inode.file_system(), file_system));
            if belongs {
                gone.extend(ring.take(&dentry.kept_at));
            }
        }
        drop(ring);
        drop(gone);
    }

    #[cfg(test)]
    pub fn count(&self) -> usize {
        let ring = self.ring.lock();
        ring.slots.len() - ring.free.len()
    }
}

/// What a negative dentry has in the place of an inode.
struct Absent;

impl Inode for Absent {
    fn metadata(&self) -> Result<Metadata> {
        Err(Errno::ENOENT)
    }
    fn kind(&self) -> FileType {
        FileType::Regular
    }
    fn file_system(&self) -> Arc<dyn FileSystem> {
        unreachable!("a negative dentry is shown to nobody")
    }
    fn open(self: Arc<Self>, _context: &Context, _flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        Err(Errno::ENOENT)
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
