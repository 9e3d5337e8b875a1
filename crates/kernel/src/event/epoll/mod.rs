//! epoll(7): interest lists.
//!
//! An [`Epoll`] has its interest list ([`Item`]s by descriptor and open file) and a ready list. A file's wake-up puts the
//! item into the ready list without looking at the file (who wakes may hold the file's locks); epoll_wait(2) looks, and
//! drops what is not ready. So nothing is ever scanned but what has been woken. Level-triggered items go back to the
//! ready list's end after they were told; edge-triggered ones only come back by a wake-up.
//!
//! Items hold the open file weakly. The file's [`FileItems`] take it out of all lists when it is closed for good.
//!
//! Lock order: [`EpollLimits::nesting`] > a loan's ([`lending`]) > `Epoll::items` > `Epoll::ready` > wait queues. Files are looked at
//! with none of these locks held, but for `nesting`.

mod item;
mod lending;

pub(crate) use lending::EventLender;

pub use item::{FileItems, Item, Wanted, EPOLLET, EPOLLEXCLUSIVE, EPOLLONESHOT, EPOLLWAKEUP, PRIVATE_BITS};

use crate::event::poll::{readiness, Timeout};
use crate::fs::file::{Events, FileOperations, OpenFile};
use crate::fs::inode::Metadata;
use crate::sync::WaitQueue;
use crate::{Context, Errno, Result};
use lending::Lending;
use parking_lot::Mutex;
use skerry_abi::structs::EpollEvent;
use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// How many epolls may stand in a row (epoll_ctl(2), ELOOP): four links.
const MAX_LINKS: usize = 4;

/// Items that a sandbox may have (/proc/sys/fs/epoll/max_user_watches).
const MAX_WATCHES: usize = 1 << 18;

/// What all epolls of a sandbox share.
#[derive(Default)]
pub struct EpollLimits {
    /// Held while an epoll is added to another, so that no two additions make a loop together.
    nesting: Mutex<()>,
    watches: AtomicUsize,
}

/// The object behind an epoll descriptor.
pub struct Epoll {
    this: Weak<Epoll>,
    limits: Arc<EpollLimits>,
    items: Mutex<Items>,
    ready: Mutex<VecDeque<Arc<Item>>>,
    /// Not in the list any more, but in their files' queues still: who took them out may have held a file's lock.
    leaving: Mutex<Vec<Arc<Item>>>,
    queue: WaitQueue,
    /// The epolls that watch this one, once for each of their items.
    watchers: Mutex<Vec<Weak<Epoll>>>,
    lending: Lending,
}

/// By descriptor number and open file: a number that is used again is another key.
type Items = BTreeMap<(i32, usize), Arc<Item>>;

/// The key of an item. An item's weak reference keeps the address from being used again.
fn key(fd: i32, file: &Arc<OpenFile>) -> (i32, usize) {
    (fd, Arc::as_ptr(file).addr())
}

impl Epoll {
    pub fn new(limits: Arc<EpollLimits>) -> Arc<Epoll> {
        Arc::new_cyclic(|this| Epoll {
            this: this.clone(),
            limits,
            items: Mutex::new(BTreeMap::new()),
            ready: Mutex::new(VecDeque::new()),
            leaving: Mutex::new(Vec::new()),
            queue: WaitQueue::new(),
            watchers: Mutex::new(Vec::new()),
            lending: Lending::default(),
        })
    }

    /// EPOLL_CTL_ADD. EEXIST, EPERM for a file that never blocks, ELOOP, ENOSPC, EINVAL for EPOLLEXCLUSIVE where it may
    /// not be.
    pub fn add(&self, fd: i32, file: &Arc<OpenFile>, wanted: Wanted) -> Result<()> {
        let queue = file.operations.wait_queue().ok_or(Errno::EPERM)?;
        let target = file.downcast::<Epoll>();
        const ALLOWED_WITH_EXCLUSIVE: u32 = 0x1 | 0x4 | 0x8 | 0x10 | EPOLLWAKEUP | EPOLLET | EPOLLEXCLUSIVE;
        if wanted.events & EPOLLEXCLUSIVE != 0 && (target.is_some() || wanted.events & !ALLOWED_WITH_EXCLUSIVE != 0) {
            return Err(Errno::EINVAL);
        }
        let _nesting = target.map(|_| self.limits.nesting.lock());
        self.sweep();
        let item = {
            let mut items = self.settled();
            if items.contains_key(&key(fd, file)) {
                return Err(Errno::EEXIST);
            }
            if self.limits.watches.fetch_add(1, Ordering::Relaxed) >= MAX_WATCHES {
                self.limits.watches.fetch_sub(1, Ordering::Relaxed);
                return Err(Errno::ENOSPC);
            }
            let item = Arc::new(Item {
                epoll: self.this.clone(),
                fd,
                file: Arc::downgrade(file),
                queue_key: Mutex::new(None),
                wanted: Mutex::new(wanted),
                is_edge_triggered: AtomicBool::new(wanted.events & EPOLLET != 0),
                queued: AtomicBool::new(false),
                touched: AtomicBool::new(false),
                heat: AtomicU32::new(0),
            });
            items.insert(key(fd, file), item.clone());
            item
        };
        if let Some(target) = target {
            if self.would_loop(target) {
                self.forget(&item);
                return Err(Errno::ELOOP);
            }
            let mut watchers = target.watchers.lock();
            watchers.retain(|watcher| watcher.strong_count() > 0);
            watchers.push(self.this.clone());
        }
        file.epoll_items.add(&item);
        let exclusive = wanted.events & EPOLLEXCLUSIVE != 0;
        let queue_key = if exclusive { queue.add_exclusive(item.clone()) } else { queue.add(item.clone()) };
        *item.queue_key.lock() = Some(queue_key);
        if self.items.lock().get(&key(fd, file)).is_none_or(|present| !Arc::ptr_eq(present, &item)) {
            // Removed by another thread meanwhile, before it was in the queue.
            item.unregister(&*file.operations);
        }
        self.enqueue_if_ready(&item, file);
        Ok(())
    }

    /// EPOLL_CTL_MOD. ENOENT; EINVAL where EPOLLEXCLUSIVE is asked for or was.
    pub fn modify(&self, fd: i32, file: &Arc<OpenFile>, wanted: Wanted) -> Result<()> {
        let item = {
            let items = self.settled();
            let item = items.get(&key(fd, file)).cloned().ok_or(Errno::ENOENT)?;
            item.change(wanted)?;
            item
        };
        self.enqueue_if_ready(&item, file);
        Ok(())
    }

    /// EPOLL_CTL_DEL. ENOENT.
    pub fn remove(&self, fd: i32, file: &Arc<OpenFile>) -> Result<()> {
        let item = {
            let mut items = self.settled();
            let item = items.get(&key(fd, file)).cloned().ok_or(Errno::ENOENT)?;
            self.take_out(&mut items, &item);
            item
        };
        item.leave(file);
        if let Some(target) = file.downcast::<Epoll>() {
            let mut watchers = target.watchers.lock();
            if let Some(index) = watchers.iter().position(|watcher| std::ptr::eq(watcher.as_ptr(), self)) {
                watchers.swap_remove(index);
            }
        }
        Ok(())
    }

    pub(super) fn forget(&self, item: &Item) {
        self.take_out(&mut self.settled(), item);
    }

    /// Takes an item out of both lists; false where it was in none. `items`: the interest list.
    fn take_out(&self, items: &mut Items, item: &Item) -> bool {
        if !is_in(items, item) {
            return false;
        }
        items.remove(&item.key());
        self.limits.watches.fetch_sub(1, Ordering::Relaxed);
        let mut ready = self.ready.lock();
        if item.queued.swap(false, Ordering::Relaxed) {
            ready.retain(|entry| !std::ptr::eq(&**entry, item));
        }
        true
    }

    fn sweep(&self) {
        for item in std::mem::take(&mut *self.leaving.lock()) {
            if let Some(file) = item.file.upgrade() {
                item.leave(&file);
            }
        }
    }

    fn has(&self, item: &Item) -> bool {
        is_in(&self.items.lock(), item)
    }

    fn enqueue_if_ready(&self, item: &Arc<Item>, file: &OpenFile) {
        let accepted = item.wanted.lock().accepted();
        if readiness(file).intersects(accepted) {
            self.enqueue(item);
        }
    }

    /// Puts an item into the ready list, if it is in the interest list still.
    fn enqueue(&self, item: &Item) {
        {
            let items = self.items.lock();
            let Some(item) = items.get(&item.key()).filter(|found| std::ptr::eq(&***found, item)) else { return };
            let mut ready = self.ready.lock();
            item.touched.store(true, Ordering::Relaxed);
            if item.queued.swap(true, Ordering::Relaxed) {
                return;
            }
            ready.push_back(item.clone());
        }
        self.end_loan();
        self.queue.wake_all();
    }

    pub(super) fn has_waiters(&self) -> bool {
        !self.queue.is_empty()
    }

    /// A file's wake-up.
    fn item_woken(&self, item: &Item) {
        {
            // The common case of an item that is in the list already needs no look-up.
            let ready = self.ready.lock();
            item.touched.store(true, Ordering::Relaxed);
            if item.queued.load(Ordering::Relaxed) {
                drop(ready);
                return self.end_loan();
            }
        }
        if !item.wanted.lock().accepted().is_empty() {
            self.enqueue(item);
        }
    }

    /// Takes up to `limit` events; empty where nothing is ready now.
    pub fn take(&self, limit: usize) -> Vec<Taken> {
        self.end_loan();
        self.sweep();
        let mut taken = Vec::new();
        let mut again = Vec::new();
        let mut budget = self.ready.lock().len();
        while budget > 0 && taken.len() < limit {
            budget -= 1;
            let item = {
                let mut ready = self.ready.lock();
                let Some(item) = ready.pop_front() else { break };
                // Before the file is looked at: a wake-up from here on puts it back.
                item.queued.store(false, Ordering::Relaxed);
                item
            };
            let Some(file) = item.file.upgrade() else { continue };
            let ready = readiness(&file);
            let told = {
                let mut wanted = item.wanted.lock();
                let ready = ready.intersection(wanted.accepted());
                if ready.is_empty() {
                    continue;
                }
                let told = Taken { item: item.clone(), before: *wanted, ready };
                if wanted.events & EPOLLONESHOT != 0 {
                    wanted.events &= PRIVATE_BITS;
                } else if wanted.events & EPOLLET == 0 {
                    again.push(item.clone());
                }
                told
            };
            taken.push(told);
        }
        self.put_back(again);
        taken
    }

    /// Undoes a [`Epoll::take`] whose events could not be told (EFAULT).
    pub fn untake(&self, taken: Vec<Taken>) {
        for entry in &taken {
            if entry.before.events & EPOLLONESHOT != 0 {
                let mut wanted = entry.item.wanted.lock();
                if wanted.events & !PRIVATE_BITS == 0 {
                    *wanted = entry.before;
                }
            }
        }
        self.put_back(taken.into_iter().map(|entry| entry.item).collect());
    }

    fn put_back(&self, items: Vec<Arc<Item>>) {
        self.make_ready(items, false);
    }

    fn make_ready(&self, items: Vec<Arc<Item>>, touched: bool) {
        // While they were out, another waiter may have found the list empty.
        if self.put_into_ready(items, touched) {
            self.queue.wake_all();
        }
    }

    /// Whoever waits next looks at these, as far as they are still in the list. `touched`: as if they had been woken. Whether
    /// there is anything to be looked at.
    fn put_into_ready(&self, items: Vec<Arc<Item>>, touched: bool) -> bool {
        if items.is_empty() {
            return false;
        }
        let present = self.items.lock();
        let mut ready = self.ready.lock();
        for item in items {
            if touched {
                item.touched.store(true, Ordering::Relaxed);
            }
            if is_in(&present, &item) && !item.queued.swap(true, Ordering::Relaxed) {
                ready.push_back(item);
            }
        }
        !ready.is_empty()
    }

    /// Waits for events; none at the timeout. ERESTARTSYS on a signal.
    pub fn wait(&self, context: &Context, limit: usize, timeout: Timeout) -> Result<Vec<Taken>> {
        let taken = self.take(limit);
        if !taken.is_empty() || timeout == Timeout::Now {
            return Ok(taken);
        }
        // One event wakes one waiter.
        let registration = self.queue.register_exclusive(context.task.waiter());
        let result = loop {
            let taken = self.take(limit);
            if !taken.is_empty() {
                break Ok(taken);
            }
            match context.sleep(timeout.deadline()) {
                Ok(()) => {}
                Err(Errno::ETIMEDOUT) => break Ok(self.take(limit)),
                Err(error) => break Err(error),
            }
        };
        drop(registration);
        // The wake-up may have been meant for what is left in the list: somebody else is to look.
        if !self.ready.lock().is_empty() {
            self.queue.wake_all();
        }
        result
    }

    /// Whether some item is ready, without taking any; drops those that are not.
    fn has_ready(&self) -> bool {
        self.end_loan();
        loop {
            let front = {
                let ready = self.ready.lock();
                let Some(front) = ready.front() else { return false };
                front.touched.store(false, Ordering::Relaxed);
                front.clone()
            };
            let accepted = front.wanted.lock().accepted();
            if front.file.upgrade().is_some_and(|file| readiness(&file).intersects(accepted)) {
                return true;
            }
            let mut ready = self.ready.lock();
            let unchanged = ready.front().is_some_and(|item| Arc::ptr_eq(item, &front));
            if unchanged && !front.touched.load(Ordering::Relaxed) {
                ready.pop_front();
                front.queued.store(false, Ordering::Relaxed);
            }
        }
    }

    /// Whether watching `target` makes a loop or too long a row. Holds `nesting`; the new item is listed already, so
    /// that a loop is found from below.
    fn would_loop(&self, target: &Epoll) -> bool {
        match target.links_below(self, 0) {
            Some(below) => below + 1 + self.links_above(0) > MAX_LINKS,
            None => true,
        }
    }

    /// The longest row of links under this epoll; `None` where `avoid` is in it, or it is too long.
    fn links_below(&self, avoid: &Epoll, depth: usize) -> Option<usize> {
        if std::ptr::eq(self, avoid) || depth > MAX_LINKS {
            return None;
        }
        let files: Vec<Arc<OpenFile>> = self.items.lock().values().filter_map(|item| item.file.upgrade()).collect();
        let mut longest = 0;
        for file in &files {
            if let Some(next) = file.downcast::<Epoll>() {
                longest = longest.max(next.links_below(avoid, depth + 1)? + 1);
            }
        }
        Some(longest)
    }

    /// The longest row of links over this epoll.
    fn links_above(&self, depth: usize) -> usize {
        if depth > MAX_LINKS {
            return depth;
        }
        let watchers: Vec<Arc<Epoll>> = self.watchers.lock().iter().filter_map(Weak::upgrade).collect();
        watchers.iter().map(|watcher| 1 + watcher.links_above(depth + 1)).max().unwrap_or(0)
    }
}

fn is_in(items: &Items, item: &Item) -> bool {
    items.get(&item.key()).is_some_and(|found| std::ptr::eq(&**found, item))
}

/// An event on its way to the caller.
pub struct Taken {
    item: Arc<Item>,
    before: Wanted,
    ready: Events,
}

impl Taken {
    pub fn item(&self) -> &Arc<Item> {
        &self.item
    }

    pub fn event(&self) -> EpollEvent {
        EpollEvent { events: self.ready.bits(), data: self.before.data }
    }

    /// The descriptor, and what stood behind it when it was added, if there is something to read.
    pub fn to_read(&self) -> Option<(i32, Weak<OpenFile>)> {
        self.ready.contains(Events::IN).then(|| (self.item.fd, self.item.file.clone()))
    }
}

impl Drop for Epoll {
    fn drop(&mut self) {
        let items = std::mem::take(self.items.get_mut());
        self.limits.watches.fetch_sub(items.len(), Ordering::Relaxed);
        for item in items.values().chain(self.leaving.get_mut().iter()) {
            if let Some(file) = item.file.upgrade() {
                item.leave(&file);
            }
        }
    }
}

impl FileOperations for Epoll {
    fn poll(&self) -> Events {
        if self.has_ready() {
            Events::IN | Events::RDNORM
        } else {
            Events::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn end_loan(&self) {
        Epoll::end_loan(self);
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata())
    }

    fn fdinfo(&self) -> String {
        let mut text = String::new();
        for item in self.settled().values() {
            let wanted = *item.wanted.lock();
            let _ = writeln!(text, "tfd: {:8} events: {:8x} data: {:16x}", item.fd, wanted.events, wanted.data);
        }
        text
    }

    fn anonymous_name(&self) -> String {
        "anon_inode:[eventpoll]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests;
