//! Reports of what happens to files, for inotify(7).
//!
//! Whoever changes a file says so here; nothing but one relaxed load happens while nobody watches. An inotify instance
//! implements [`Watcher`] and hangs it on inodes with [`NotifyRegistry::watch`].

use crate::fs::inode::{FileType, Inode};
use crate::fs::path::{inode_key, Dentry};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::Arc;

bitflags::bitflags! {
    /// inotify(7)'s events.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct NotifyMask: u32 {
        const ACCESS = 0x1;
        const MODIFY = 0x2;
        const ATTRIB = 0x4;
        const CLOSE_WRITE = 0x8;
        const CLOSE_NOWRITE = 0x10;
        const OPEN = 0x20;
        const MOVED_FROM = 0x40;
        const MOVED_TO = 0x80;
        const CREATE = 0x100;
        const DELETE = 0x200;
        const DELETE_SELF = 0x400;
        const MOVE_SELF = 0x800;
        const UNMOUNT = 0x2000;
        const IGNORED = 0x8000;
        /// Goes with an event of a child that has no name any more (IN_EXCL_UNLINK); never shown.
        const UNLINKED_CHILD = 0x0400_0000;
        const ISDIR = 0x4000_0000;
    }
}

/// Told of events on an inode. Must not block; may be called with directory locks held.
pub trait Watcher: Send + Sync {
    /// `name`: the entry in the watched directory that it happened to; empty for the watched object itself.
    /// `cookie` joins MOVED_FROM and MOVED_TO, else 0.
    fn event(&self, mask: NotifyMask, name: &[u8], cookie: u32);
}

/// Who is told about which inode.
#[derive(Default)]
pub struct NotifyRegistry {
    count: AtomicUsize,
    cookie: AtomicU32,
    watches: RwLock<HashMap<usize, Entry>>,
}

struct Entry {
    /// Keeps the inode, and so its key, alive.
    _inode: Arc<dyn Inode>,
    watchers: Vec<Arc<dyn Watcher>>,
}

impl NotifyRegistry {
    pub fn watch(&self, inode: &Arc<dyn Inode>, watcher: Arc<dyn Watcher>) {
        let mut watches = self.watches.write();
        let entry = watches.entry(inode_key(inode)).or_insert_with(|| Entry { _inode: inode.clone(), watchers: Vec::new() });
        entry.watchers.push(watcher);
        self.count.fetch_add(1, Ordering::Release);
    }

    pub fn unwatch(&self, inode: &Arc<dyn Inode>, watcher: &Arc<dyn Watcher>) {
        let mut watches = self.watches.write();
        let key = inode_key(inode);
        let Some(entry) = watches.get_mut(&key) else { return };
        let before = entry.watchers.len();
        entry.watchers.retain(|candidate| !Arc::ptr_eq(candidate, watcher));
        self.count.fetch_sub(before - entry.watchers.len(), Ordering::Release);
        let removed = if entry.watchers.is_empty() { watches.remove(&key) } else { None };
        drop(watches);
        drop(removed);
    }

    pub fn is_active(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// Whether somebody is told of what happens to `inode`.
    pub fn is_watched(&self, inode: &Arc<dyn Inode>) -> bool {
        self.is_active() && self.watches.read().contains_key(&inode_key(inode))
    }

    /// Joins the two halves of a rename.
    pub fn next_cookie(&self) -> u32 {
        self.cookie.fetch_add(1, Ordering::Relaxed).wrapping_add(1)
    }

    /// Tells those who watch `inode`.
    pub fn report(&self, inode: &Arc<dyn Inode>, mask: NotifyMask, name: &[u8], cookie: u32) {
        if !self.is_active() {
            return;
        }
        let watchers = match self.watches.read().get(&inode_key(inode)) {
            Some(entry) => entry.watchers.clone(),
            None => return,
        };
        for watcher in watchers {
            watcher.event(mask, name, cookie);
        }
    }

    /// Tells those who watch a file, and those who watch the directory that it is in.
    pub fn report_with_parent(&self, dentry: &Arc<Dentry>, mask: NotifyMask) {
        if !self.is_active() {
            return;
        }
        let mask = if dentry.inode.kind() == FileType::Directory { mask | NotifyMask::ISDIR } else { mask };
        if let Some(parent) = dentry.parent() {
            let unlinked = if dentry.is_unlinked() { NotifyMask::UNLINKED_CHILD } else { NotifyMask::empty() };
            self.report(&parent.inode, mask | unlinked, &dentry.name(), 0);
        }
        self.report(&dentry.inode, mask, b"", 0);
    }
}
