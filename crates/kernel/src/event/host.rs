//! The reactor: readiness of host descriptors, told to the guest kernel's wait queues.
//!
//! One thread sleeps in the host's epoll(7) and calls [`Wake::wake`] for what became ready. Registrations are
//! edge-triggered: who is woken tries again until the host says EAGAIN, and a registration made while the descriptor is
//! ready already wakes at once. Lock order: the table of wakers is innermost; it is released before a waker is called.

use crate::sync::Wake;
use crate::{Errno, Result};
use parking_lot::Mutex;
use rustix::event::{epoll, EventfdFlags};
use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, OnceLock};

/// The token under which the reactor's own eventfd is registered.
const STOP: u64 = 0;

/// An error of the host as the guest's: the numbers are the same.
pub(crate) fn host_error(error: rustix::io::Errno) -> Errno {
    Errno(error.raw_os_error())
}

/// Watches host descriptors. The thread starts with the first watch and ends with the reactor.
#[derive(Default)]
pub struct HostReactor {
    inner: OnceLock<Arc<Inner>>,
    starting: Mutex<()>,
}

struct Inner {
    epoll: OwnedFd,
    stop: OwnedFd,
    wakers: Mutex<Wakers>,
}

struct Wakers {
    next_token: u64,
    by_token: BTreeMap<u64, Arc<dyn Wake>>,
}

/// Keeps a descriptor watched until dropped.
pub struct HostWatch {
    inner: Arc<Inner>,
    descriptor: Arc<OwnedFd>,
    token: u64,
}

impl HostReactor {
    /// Makes `waker` be woken whenever `descriptor` becomes readable, writable, hung up or broken. EPERM where the host
    /// cannot watch it (a regular file: always ready), EEXIST where it is watched already.
    pub fn watch(&self, descriptor: Arc<OwnedFd>, waker: Arc<dyn Wake>) -> Result<HostWatch> {
        let inner = self.start()?;
        let token = {
            let mut wakers = inner.wakers.lock();
            let token = wakers.next_token;
            wakers.next_token += 1;
            wakers.by_token.insert(token, waker);
            token
        };
        let events = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::PRI
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        match epoll::add(&inner.epoll, &descriptor, epoll::EventData::new_u64(token), events) {
            Ok(()) => Ok(HostWatch { inner, descriptor, token }),
            Err(error) => {
                inner.wakers.lock().by_token.remove(&token);
                Err(host_error(error))
            }
        }
    }

    /// Starts the thread. Call it before the sandbox's first guest instruction, so that no thread has to be made later.
    pub fn prepare(&self) -> Result<()> {
        self.start().map(drop)
    }

    fn start(&self) -> Result<Arc<Inner>> {
        if let Some(inner) = self.inner.get() {
            return Ok(inner.clone());
        }
        let _only_one_starts = self.starting.lock();
        if let Some(inner) = self.inner.get() {
            return Ok(inner.clone());
        }
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(host_error)?;
        let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(host_error)?;
        epoll::add(&epoll, &stop, epoll::EventData::new_u64(STOP), epoll::EventFlags::IN).map_err(host_error)?;
        let inner =
            Arc::new(Inner { epoll, stop, wakers: Mutex::new(Wakers { next_token: STOP + 1, by_token: BTreeMap::new() }) });
        let of_thread = inner.clone();
        std::thread::Builder::new()
            .name("reactor".into())
            .spawn(move || of_thread.run())
            .map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EAGAIN.0)))?;
        Ok(self.inner.get_or_init(|| inner).clone())
    }
}

impl Drop for HostReactor {
    fn drop(&mut self) {
        if let Some(inner) = self.inner.get() {
            let _ = rustix::io::write(&inner.stop, &1u64.to_ne_bytes());
        }
    }
}

impl Inner {
    fn run(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(_) => return,
            }
            for event in &events {
                let token = event.data.u64();
                if token == STOP {
                    return;
                }
                let waker = self.wakers.lock().by_token.get(&token).cloned();
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        }
    }
}

impl Drop for HostWatch {
    fn drop(&mut self) {
        // Before the descriptor can be closed: the host's registration outlives a number that has been duplicated.
        let _ = epoll::delete(&self.inner.epoll, self.descriptor.as_fd());
        self.inner.wakers.lock().by_token.remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::Waiter;
    use std::time::{Duration, Instant};

    #[test]
    fn a_pipe_that_becomes_readable_wakes_and_a_regular_file_cannot_be_watched() {
        let reactor = HostReactor::default();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let waiter = Waiter::new();
        let watch = reactor.watch(Arc::new(reader), waiter.clone()).unwrap();
        assert!(!waiter.sleep(Some(Instant::now() + Duration::from_millis(10))));
        rustix::io::write(&writer, b"x").unwrap();
        assert!(waiter.sleep(Some(Instant::now() + Duration::from_secs(10))));
        drop(watch);
        let null = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(reactor.watch(Arc::new(null.into()), waiter).err(), Some(Errno::EPERM));
    }

    #[test]
    fn a_descriptor_that_is_ready_already_wakes_at_once() {
        let reactor = HostReactor::default();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let waiter = Waiter::new();
        let _watch = reactor.watch(Arc::new(reader), waiter.clone()).unwrap();
        assert!(waiter.sleep(Some(Instant::now() + Duration::from_secs(10))));
    }
}
