//! One file in an interest list, and how files know the lists that they are in.

use super::Epoll;
use crate::fs::file::{Events, FileOperations, OpenFile};
use crate::sync::{Hears, Wake};
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// What is asked for, and how (epoll_ctl(2)).
pub const EPOLLEXCLUSIVE: u32 = 1 << 28;
pub const EPOLLWAKEUP: u32 = 1 << 29;
pub const EPOLLONESHOT: u32 = 1 << 30;
pub const EPOLLET: u32 = 1 << 31;
/// The bits that are not events.
pub const PRIVATE_BITS: u32 = EPOLLEXCLUSIVE | EPOLLWAKEUP | EPOLLONESHOT | EPOLLET;

/// The two words of an epoll_event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    pub events: u32,
    pub data: u64,
}

impl Wanted {
    /// As it was asked for. Errors and hang-ups are always told.
    pub fn new(events: u32, data: u64) -> Wanted {
        Wanted { events: events | (Events::ERR | Events::HUP).bits(), data }
    }

    /// The events that count. None once a one-shot item has fired.
    pub fn accepted(self) -> Events {
        let events = self.events & !PRIVATE_BITS;
        if events == 0 {
            return Events::empty();
        }
        Events::from_bits_truncate(events)
    }
}

/// An item: it is the waker in the file's wait queue.
pub struct Item {
    pub(super) epoll: Weak<Epoll>,
    pub(super) fd: i32,
    pub(super) file: Weak<OpenFile>,
    /// Its key in the file's wait queue.
    pub(super) queue_key: Mutex<Option<u64>>,
    pub(super) wanted: Mutex<Wanted>,
    /// EPOLLET is among it.
    pub(super) is_edge_triggered: AtomicBool,
    /// In the ready list. Changed under that list's lock.
    pub(super) queued: AtomicBool,
    /// Woken since somebody last looked at it while it stayed in the list. Changed under the list's lock.
    pub(super) touched: AtomicBool,
    /// How lately it was told of ([`super::lending`]); 0: long ago.
    pub(super) heat: AtomicU32,
}

impl Wake for Item {
    fn wake(&self) {
        if let Some(epoll) = self.epoll.upgrade() {
            epoll.item_woken(self);
        }
    }

    fn wake_exclusive(&self) -> bool {
        let Some(epoll) = self.epoll.upgrade() else { return false };
        // Without a waiter it is only kept, and another list may have one.
        let heard = epoll.has_waiters();
        epoll.item_woken(self);
        heard
    }

    fn hears(&self) -> Hears {
        if self.is_edge_triggered.load(Ordering::Relaxed) {
            Hears::Edges
        } else {
            Hears::Levels
        }
    }
}

impl Item {
    pub(super) fn key(&self) -> (i32, usize) {
        (self.fd, self.file.as_ptr().addr())
    }

    /// EINVAL where EPOLLEXCLUSIVE is asked for or was.
    pub(super) fn change(&self, wanted: Wanted) -> Result<()> {
        let mut present = self.wanted.lock();
        if (present.events | wanted.events) & EPOLLEXCLUSIVE != 0 {
            return Err(Errno::EINVAL);
        }
        *present = wanted;
        self.is_edge_triggered.store(wanted.events & EPOLLET != 0, Ordering::Relaxed);
        Ok(())
    }

    /// Has nothing to do with its file any more.
    pub(super) fn leave(&self, file: &OpenFile) {
        self.unregister(&*file.operations);
        file.epoll_items.remove(self);
    }

    /// Leaves the file's wait queue.
    pub(super) fn unregister(&self, operations: &dyn FileOperations) {
        let key = self.queue_key.lock().take();
        if let (Some(key), Some(queue)) = (key, operations.wait_queue()) {
            queue.remove(key);
        }
    }
}

/// The interest lists that an open file is in; part of [`OpenFile`], so that the file leaves them when it is closed.
#[derive(Default)]
pub struct FileItems {
    items: Mutex<Vec<Weak<Item>>>,
}

impl FileItems {
    pub(super) fn add(&self, item: &Arc<Item>) {
        self.items.lock().push(Arc::downgrade(item));
    }

    pub(super) fn remove(&self, item: &Item) {
        self.items.lock().retain(|entry| !std::ptr::eq(entry.as_ptr(), item) && entry.strong_count() > 0);
    }

    /// Nothing of the lists is lent any more: what stands for the file is about to change.
    pub fn end_loans(&self) {
        let lists: Vec<_> = self.items.lock().iter().filter_map(|item| item.upgrade()?.epoll.upgrade()).collect();
        lists.iter().for_each(|epoll| epoll.end_loan());
    }

    /// The last reference to the file is going.
    pub fn file_closed(&mut self, operations: &dyn FileOperations) {
        for item in std::mem::take(self.items.get_mut()) {
            let Some(item) = item.upgrade() else { continue };
            item.unregister(operations);
            if let Some(epoll) = item.epoll.upgrade() {
                epoll.forget(&item);
            }
        }
    }
}
