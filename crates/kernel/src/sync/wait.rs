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
//! own, however many queues that is registered in (poll). What sleeps is a thread of the host or, for calls that an engine's
//! worker serves, the call alone ([`Suspended`]). Other wakers (epoll) implement [`Wake`].
//!
//! Who registers exclusively must pass a wake-up on that it does not use: by waking the queue again.
//!
//! Lock order: a queue's lock is innermost; [`Wake::wake`] is called with it released.

use crate::time::queue::Expire;
use parking_lot::{Condvar, Mutex};
use skerry_platform::fiber::Fiber;
use std::sync::Arc;
use std::time::Instant;

/// Something that a queue can wake. `wake` must not block, and may be called from any thread at any time.
pub trait Wake: Send + Sync {
    fn wake(&self);

    /// As [`Wake::wake`], for one that was added with [`WaitQueue::add_exclusive`]; false where nobody was there to hear
    /// it, so that the next one is woken.
    fn wake_exclusive(&self) -> bool {
        self.wake();
        true
    }

    /// What it has to hear of.
    fn hears(&self) -> Hears {
        Hears::Levels
    }
}

/// Which of an object's changes somebody has to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hears {
    /// Of none that comes before he looks: once woken he does, and sees all.
    Levels,
    /// The same; but what comes behind his look counts, also where it changes nothing that he sees.
    Edges,
    Each,
}

/// Who waits on an object. See the module's text.
#[derive(Default)]
pub struct WaitQueue {
    entries: Mutex<Entries>,
}

#[derive(Default)]
struct Entries {
    next_key: u64,
    list: Vec<Entry>,
}

struct Entry {
    key: u64,
    waker: Arc<dyn Wake>,
    exclusive: bool,
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
        self.add_entry(waker, false)
    }

    /// As [`WaitQueue::add`], but of all that are added so only one is woken at a time (EPOLLEXCLUSIVE, epoll_wait(2)).
    pub fn add_exclusive(&self, waker: Arc<dyn Wake>) -> u64 {
        self.add_entry(waker, true)
    }

    /// As [`WaitQueue::register`], exclusively: see [`WaitQueue::add_exclusive`].
    pub fn register_exclusive(&self, waker: Arc<dyn Wake>) -> Registration<'_> {
        Registration { queue: self, key: self.add_exclusive(waker) }
    }

    fn add_entry(&self, waker: Arc<dyn Wake>, exclusive: bool) -> u64 {
        let mut entries = self.entries.lock();
        let key = entries.next_key;
        entries.next_key += 1;
        entries.list.push(Entry { key, waker, exclusive });
        key
    }

    pub fn remove(&self, key: u64) {
        self.entries.lock().list.retain(|entry| entry.key != key);
    }

    /// Wakes everybody who is registered, but only one of the exclusive ones. Cheap when nobody is.
    pub fn wake_all(&self) {
        let wakers: Vec<(Arc<dyn Wake>, bool)> = {
            let entries = self.entries.lock();
            if entries.list.is_empty() {
                return;
            }
            entries.list.iter().map(|entry| (entry.waker.clone(), entry.exclusive)).collect()
        };
        let mut one_woken = false;
        for (waker, exclusive) in wakers {
            if !exclusive {
                waker.wake();
            } else if !one_woken {
                one_woken = waker.wake_exclusive();
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries.lock().list.is_empty()
    }

    pub fn len(&self) -> usize {
        self.entries.lock().list.len()
    }

    /// Whether nobody who is registered has to hear of more than this.
    pub fn all_hear(&self, at_most: Hears) -> bool {
        self.entries.lock().list.iter().all(|entry| entry.waker.hears() <= at_most)
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

/// What a task sleeps on, or a thread of the sentry's own.
#[derive(Default)]
pub struct Waiter {
    state: Mutex<WaiterState>,
    condition: Condvar,
}

#[derive(Default)]
struct WaiterState {
    /// Woken since the last sleep ended.
    notified: bool,
    /// A deadline has come since the last sleep began.
    expired: bool,
    sleeper: Sleeper,
}

/// Who sleeps on a waiter now.
#[derive(Default)]
enum Sleeper {
    #[default]
    Nobody,
    /// A thread of the host, in [`Waiter::sleep`].
    Thread,
    /// A call whose thread does something else meanwhile.
    Suspended(Suspended),
}

/// A call that waits, without a thread.
pub struct Suspended {
    pub fiber: Fiber,
    pub home: Arc<dyn Home>,
}

/// Who sees to it that suspended calls go on.
pub trait Home: Send + Sync {
    /// The call can go on. As for [`Wake::wake`]: any thread, any locks held; so the call goes on later, or elsewhere.
    fn resume(&self, fiber: Fiber);
}

impl Suspended {
    fn resume(self) {
        self.home.resume(self.fiber);
    }
}

impl Waiter {
    pub fn new() -> Arc<Waiter> {
        Arc::new(Waiter::default())
    }

    /// Blocks the calling thread until woken (also by a wake-up since the last sleep) or until `deadline`; false at the
    /// deadline.
    pub fn sleep(&self, deadline: Option<Instant>) -> bool {
        let mut state = self.state.lock();
        state.sleeper = Sleeper::Thread;
        while !state.notified {
            match deadline {
                Some(deadline) => {
                    if self.condition.wait_until(&mut state, deadline).timed_out() && !state.notified {
                        state.sleeper = Sleeper::Nobody;
                        return false;
                    }
                }
                None => self.condition.wait(&mut state),
            }
        }
        state.notified = false;
        state.sleeper = Sleeper::Nobody;
        true
    }

    /// Somebody sleeps here, and has not been woken.
    pub fn is_asleep(&self) -> bool {
        !matches!(self.state.lock().sleeper, Sleeper::Nobody)
    }

    /// Takes a wake-up that has come since the last sleep, if one has. For those that suspend; a sleep begins so.
    pub fn take_notice(&self) -> bool {
        let mut state = self.state.lock();
        state.expired = false;
        std::mem::take(&mut state.notified)
    }

    /// `call` sleeps here from now on. Where a wake-up or its deadline came since [`Waiter::take_notice`], it goes on at
    /// once: that is why this can be called only after the call has been left.
    pub fn suspend(&self, call: Suspended) {
        {
            let mut state = self.state.lock();
            if !state.notified && !state.expired {
                state.sleeper = Sleeper::Suspended(call);
                return;
            }
        }
        call.resume();
    }

    fn end_sleep(&self, mark: impl FnOnce(&mut WaiterState)) {
        let mut state = self.state.lock();
        mark(&mut state);
        match std::mem::take(&mut state.sleeper) {
            Sleeper::Nobody => {}
            Sleeper::Thread => {
                state.sleeper = Sleeper::Thread;
                self.condition.notify_one();
            }
            Sleeper::Suspended(call) => {
                drop(state);
                call.resume();
            }
        }
    }
}

impl Wake for Waiter {
    fn wake(&self) {
        self.end_sleep(|state| state.notified = true);
    }
}

impl Expire for Waiter {
    /// The deadline of a suspended call, or of one that has gone on meanwhile: that only looks once more.
    fn expire(self: Arc<Self>) {
        self.end_sleep(|state| state.expired = true);
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

    #[test]
    fn of_the_exclusive_ones_one_is_woken() {
        let queue = WaitQueue::new();
        let waiters: Vec<_> = (0..3).map(|_| Waiter::new()).collect();
        let _shared = queue.register(waiters[0].clone());
        let _first = queue.register_exclusive(waiters[1].clone());
        let _second = queue.register_exclusive(waiters[2].clone());
        queue.wake_all();
        let soon = || Some(Instant::now() + Duration::from_millis(1));
        let woken: Vec<bool> = waiters.iter().map(|waiter| waiter.sleep(soon())).collect();
        assert_eq!(woken, [true, true, false]);
    }
}
