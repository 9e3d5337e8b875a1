//! Wait queues.
//!
//! An object that can be waited for owns a [`WaitQueue`] and calls [`WaitQueue::wake_all`] after each change of state
//! that may let somebody go on. Who waits registers first, then looks at the object's state, then sleeps:
//!
//! ```text
//! let registration = queue.register(task.waiter());
//! loop {
//!     if let Some(result) = try_it() { return result; }
//!     context.sleep(deadline)?;      // ERESTARTSYS on a signal, ETIMEDOUT at the deadline
//! }
//! ```
//! Registering before looking is what makes a wake-up impossible to miss. A task sleeps on at most one [`Waiter`], its
//! own, however many queues that is registered in (poll). Other wakers (epoll) implement [`Wake`].
//!
//! Lock order: a queue's lock is innermost; [`Wake::wake`] is called with it released.

use parking_lot::{Condvar, Mutex};
use std::sync::Arc;
use std::time::Instant;

/// Something that a queue can wake. `wake` must not block, and may be called from any thread at any time.
pub trait Wake: Send + Sync {
    fn wake(&self);
}

/// Who waits on an object. See the module's text.
#[derive(Default)]
pub struct WaitQueue {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next_key: u64,
    list: Vec<(u64, Arc<dyn Wake>)>,
}

impl WaitQueue {
    pub const fn new() -> WaitQueue {
        WaitQueue { entries: Mutex::new(Entries { next_key: 0, list: Vec::new() }) }
    }

    /// Registers `waker` until the returned guard is dropped.
    pub fn register(&self, waker: Arc<dyn Wake>) -> Registration<'_> {
        Registration { queue: self, key: self.add(waker) }
    }

    /// As [`WaitQueue::register`], for owners that cannot hold a guard (epoll): undo with [`WaitQueue::remove`].
    pub fn add(&self, waker: Arc<dyn Wake>) -> u64 {
        let mut entries = self.entries.lock();
        let key = entries.next_key;
        entries.next_key += 1;
        entries.list.push((key, waker));
        key
    }

    pub fn remove(&self, key: u64) {
        self.entries.lock().list.retain(|(k, _)| *k != key);
    }

    /// Wakes everybody who is registered. Cheap when nobody is.
    pub fn wake_all(&self) {
        let wakers: Vec<Arc<dyn Wake>> = {
            let entries = self.entries.lock();
            if entries.list.is_empty() {
                return;
            }
            entries.list.iter().map(|(_, waker)| waker.clone()).collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.lock().list.is_empty()
    }
}

/// Keeps a waker in a queue.
pub struct Registration<'a> {
    queue: &'a WaitQueue,
    key: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.queue.remove(self.key);
    }
}

/// What a thread of the sentry sleeps on.
#[derive(Default)]
pub struct Waiter {
    notified: Mutex<bool>,
    condition: Condvar,
}

impl Waiter {
    pub fn new() -> Arc<Waiter> {
        Arc::new(Waiter::default())
    }

    /// Sleeps until woken (also by a wake-up since the last sleep) or until `deadline`; false at the deadline.
    pub fn sleep(&self, deadline: Option<Instant>) -> bool {
        let mut notified = self.notified.lock();
        while !*notified {
            match deadline {
                Some(deadline) => {
                    if self.condition.wait_until(&mut notified, deadline).timed_out() && !*notified {
                        return false;
                    }
                }
                None => self.condition.wait(&mut notified),
            }
        }
        *notified = false;
        true
    }
}

impl Wake for Waiter {
    fn wake(&self) {
        let mut notified = self.notified.lock();
        if !*notified {
            *notified = true;
            self.condition.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_wake_between_looking_and_sleeping_is_not_lost() {
        let queue = WaitQueue::new();
        let waiter = Waiter::new();
        let registration = queue.register(waiter.clone());
        queue.wake_all();
        assert!(waiter.sleep(Some(Instant::now() + Duration::from_secs(5))));
        assert!(!waiter.sleep(Some(Instant::now() + Duration::from_millis(5))));
        drop(registration);
        assert!(queue.is_empty());
    }
}
