//! Holding all other threads of a process in calls of theirs, so that one of them may replace the code that they all run.
//!
//! A thread whose request is in service waits in its stub until that is answered. So it is enough not to answer: whoever is not in a
//! call is kicked, which makes it ask what it is to do. What has been answered meanwhile is published when they are let go.

use super::{Engine, GuestThread};
use crate::Context;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// For all of them to come. One that the host does not run by then comes too late.
const PATIENCE: Duration = Duration::from_millis(4);
/// Behind so many attempts in vain each one has twice as long, up to the longest: on a machine whose CPUs are all taken a thread's turn
/// comes late.
const AT_ONCE: u32 = 8;
const LONGEST_PATIENCE: Duration = Duration::from_millis(64);
const PAUSE: Duration = Duration::from_micros(30);
/// Behind each of those there is none for so many times as long as it took: who waits loses a thirtieth of its time at most.
const REST: u32 = 32;

/// What has become of attempts to hold the threads of a space.
#[derive(Default)]
pub(super) struct Attempts {
    in_vain: u32,
    /// When there may be another one.
    next: Option<Instant>,
}

impl Attempts {
    fn is_due(&self) -> bool {
        self.next.is_none_or(|next| Instant::now() >= next)
    }

    fn patience(&self) -> Duration {
        PATIENCE.saturating_mul(1 << self.in_vain.saturating_sub(AT_ONCE).min(16)).min(LONGEST_PATIENCE)
    }

    fn was_in_vain(&mut self, began: Instant) {
        self.in_vain = self.in_vain.saturating_add(1);
        self.next = (self.in_vain > AT_ONCE).then(|| Instant::now() + began.elapsed() * REST);
    }
}

/// Others that wait until this is dropped.
pub(super) struct Held {
    engine: Weak<Engine>,
    holder: Arc<GuestThread>,
    threads: Vec<Arc<GuestThread>>,
}

impl Engine {
    /// `None`: they do not come, threads are being made, somebody else holds them, or the memory is another process's too.
    pub(super) fn hold_others(&self, thread: &Arc<GuestThread>, context: &Context) -> Option<Held> {
        let space = &thread.space;
        if !space.attempts_to_hold.lock().is_due() || space.is_held.swap(true, Ordering::AcqRel) {
            return None;
        }
        let (began, patience) = (Instant::now(), space.attempts_to_hold.lock().patience());
        let mut held = Held { engine: self.this.clone(), holder: thread.clone(), threads: Vec::new() };
        // They ring where we receive.
        context.before_slow_host_call();
        let all_are_there = self.hold_all(&mut held, began + patience);
        // Nobody of those could make one from here on.
        if all_are_there && !space.awaits_thread() {
            return Some(held);
        }
        space.attempts_to_hold.lock().was_in_vain(began);
        None
    }

    fn hold_all(&self, held: &mut Held, deadline: Instant) -> bool {
        loop {
            let others: Vec<Arc<GuestThread>> = {
                let threads = self.threads.read();
                threads.values().filter(|other| held.lacks(other)).cloned().collect()
            };
            if others.iter().any(|other| other.process.pid != held.holder.process.pid) {
                return false;
            }
            for other in others {
                let is_in_service = {
                    let mut state = other.state.lock();
                    state.is_held = true;
                    state.in_service
                };
                if !is_in_service {
                    other.host.kick();
                }
                held.threads.push(other);
            }
            // Those that ended themselves come no more.
            let is_there = |other: &Arc<GuestThread>| other.retired.load(Ordering::Acquire) || other.state.lock().in_service;
            while !held.threads.iter().all(is_there) {
                if Instant::now() > deadline {
                    return false;
                }
                std::thread::sleep(PAUSE);
            }
            if !self.threads.read().values().any(|other| held.lacks(other)) {
                return true;
            }
        }
    }
}

impl Held {
    /// Whether it runs code of the same memory's, and is not here. A parked thread runs none, and is woken by one of the others only.
    fn lacks(&self, other: &Arc<GuestThread>) -> bool {
        Arc::ptr_eq(&other.space, &self.holder.space)
            && !Arc::ptr_eq(other, &self.holder)
            && !self.threads.iter().any(|present| Arc::ptr_eq(present, other))
            && !other.state.lock().is_parked
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for thread in &self.threads {
            let reply = {
                let mut state = thread.state.lock();
                state.is_held = false;
                state.held_back.take()
            };
            if let (Some(reply), Some(engine)) = (reply, self.engine.upgrade()) {
                engine.answer(thread, reply);
            }
        }
        self.holder.space.is_held.store(false, Ordering::Release);
    }
}
