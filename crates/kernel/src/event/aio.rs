//! Contexts of Linux's native asynchronous I/O (io_setup(2)): what has been done and not been told yet.
//!
//! Requests are carried out when they are submitted, as Linux itself does where a file cannot do better; a context holds
//! their results until io_getevents(2) takes them. A context belongs to an address space and is named by the address of a
//! page in it, in which libaio looks for a ring; finding none, it asks the kernel.

use crate::sync::WaitQueue;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct io_event`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IoEvent {
    /// As the request had it.
    pub data: u64,
    /// The request's address.
    pub request: u64,
    /// A count or -errno.
    pub result: i64,
    pub result2: i64,
}

/// One context.
pub struct AioContext {
    capacity: usize,
    /// What is taken, of all contexts together.
    account: Arc<AtomicU64>,
    events: Mutex<Events>,
    queue: WaitQueue,
    destroyed: AtomicBool,
}

#[derive(Default)]
struct Events {
    done: VecDeque<IoEvent>,
    /// Requests that are being carried out.
    running: usize,
}

/// A place in the ring, for a request that is being carried out.
pub struct Slot<'a>(&'a AioContext);

impl AioContext {
    /// For `capacity` requests; EAGAIN where all contexts together would be for more than `most`.
    pub fn new(capacity: u32, account: &Arc<AtomicU64>, most: u64) -> Result<AioContext> {
        let more = |taken: u64| taken.checked_add(capacity.into()).filter(|sum| *sum <= most);
        account.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).map_err(|_| Errno::EAGAIN)?;
        Ok(AioContext {
            capacity: capacity as usize,
            account: account.clone(),
            events: Mutex::default(),
            queue: WaitQueue::new(),
            destroyed: AtomicBool::new(false),
        })
    }

    /// EAGAIN where all places are taken by requests or results.
    pub fn reserve(&self) -> Result<Slot<'_>> {
        let mut events = self.events.lock();
        if events.done.len() + events.running >= self.capacity {
            return Err(Errno::EAGAIN);
        }
        events.running += 1;
        Ok(Slot(self))
    }

    /// At most `most` results, the oldest first.
    pub fn take(&self, most: usize) -> Vec<IoEvent> {
        let mut events = self.events.lock();
        let count = most.min(events.done.len());
        events.done.drain(..count).collect()
    }

    /// Whether `count` results are there; EINVAL once the context has been destroyed.
    pub fn has(&self, count: usize) -> Result<()> {
        if self.events.lock().done.len() >= count {
            Ok(())
        } else if self.destroyed.load(Ordering::Acquire) {
            Err(Errno::EINVAL)
        } else {
            Err(Errno::EAGAIN)
        }
    }

    pub fn queue(&self) -> &WaitQueue {
        &self.queue
    }
}

impl Drop for AioContext {
    fn drop(&mut self) {
        self.account.fetch_sub(self.capacity as u64, Ordering::Relaxed);
    }
}

impl Slot<'_> {
    pub fn complete(self, event: IoEvent) {
        self.0.events.lock().done.push_back(event);
        self.0.queue.wake_all();
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.0.events.lock().running -= 1;
    }
}

/// The contexts of an address space, by the addresses of their pages.
#[derive(Default)]
pub struct AioContexts(Mutex<HashMap<u64, Arc<AioContext>>>);

impl AioContexts {
    pub fn insert(&self, address: u64, context: AioContext) {
        self.0.lock().insert(address, Arc::new(context));
    }

    /// EINVAL where there is none of that name.
    pub fn get(&self, address: u64) -> Result<Arc<AioContext>> {
        self.0.lock().get(&address).cloned().ok_or(Errno::EINVAL)
    }

    /// Who waits for the context's results gets EINVAL.
    pub fn remove(&self, address: u64) -> Result<()> {
        let context = self.0.lock().remove(&address).ok_or(Errno::EINVAL)?;
        context.destroyed.store(true, Ordering::Release);
        context.queue.wake_all();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_holds_what_it_was_made_for() {
        let account = Arc::new(AtomicU64::new(0));
        assert_eq!(AioContext::new(11, &account, 10).err(), Some(Errno::EAGAIN));
        let context = AioContext::new(2, &account, 10).unwrap();
        assert_eq!(account.load(Ordering::Relaxed), 2);
        let event = |data| IoEvent { data, request: 0, result: 0, result2: 0 };
        context.reserve().unwrap().complete(event(1));
        let running = context.reserve().unwrap();
        assert!(context.reserve().is_err());
        assert_eq!((context.has(1), context.has(2)), (Ok(()), Err(Errno::EAGAIN)));
        running.complete(event(2));
        assert!(context.reserve().is_err());
        assert_eq!(context.take(1)[0].data, 1);
        assert!(context.reserve().is_ok());
        drop(context);
        assert_eq!(account.load(Ordering::Relaxed), 0);
    }
}
