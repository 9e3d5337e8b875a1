//! The timer thread: calls targets at their deadlines.
//!
//! One thread for all timers of a sandbox sleeps until the earliest deadline, and for ever where there is none. It starts
//! with the first timer. Lock order: the queue's lock is innermost and released before a target is called.

use crate::{Errno, Result};
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Something that happens at a deadline. Called on the timer thread; must not block.
pub trait Expire: Send + Sync {
    fn expire(self: Arc<Self>);
}

/// What is to happen when.
#[derive(Default)]
pub struct TimerQueue {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    entries: BTreeMap<(Instant, u64), Weak<dyn Expire>>,
    last_id: u64,
    /// The thread sleeps, or has been told to wake: until when (`None`: for ever).
    idle: bool,
    armed: Option<Instant>,
    running: bool,
    stopping: bool,
}

/// A place in the queue; dropping it takes it back.
pub struct Ticket {
    key: (Instant, u64),
    shared: Arc<Shared>,
}

impl TimerQueue {
    /// Calls `target` at `deadline` (at once if that is past), if it still lives. EAGAIN where the thread cannot start.
    pub fn schedule(&self, deadline: Instant, target: Weak<dyn Expire>) -> Result<Ticket> {
        let mut state = self.shared.state.lock();
        if !state.running {
            let shared = self.shared.clone();
            std::thread::Builder::new()
                .name("timers".into())
                .stack_size(256 << 10)
                .spawn(move || shared.run())
                .map_err(|_| Errno::EAGAIN)?;
            state.running = true;
        }
        state.last_id += 1;
        let key = (deadline, state.last_id);
        state.entries.insert(key, target);
        // Waking the thread costs more than the rest of a call: not where it wakes soon enough by itself, as it does where
        // the first deadlines are taken back again and again (a program that polls with a timeout).
        let too_late = state.idle && state.armed.is_none_or(|armed| deadline < armed);
        if too_late {
            state.armed = Some(deadline);
        }
        drop(state);
        if too_late {
            self.shared.changed.notify_one();
        }
        Ok(Ticket { key, shared: self.shared.clone() })
    }
}

impl Drop for TimerQueue {
    fn drop(&mut self) {
        self.shared.state.lock().stopping = true;
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn run(&self) {
        let mut state = self.state.lock();
        while !state.stopping {
            let first = state.entries.keys().next().copied();
            let Some((deadline, id)) = first.filter(|(deadline, _)| *deadline <= Instant::now()) else {
                state.idle = true;
                state.armed = first.map(|(deadline, _)| deadline);
                match state.armed {
                    Some(deadline) => drop(self.changed.wait_until(&mut state, deadline)),
                    None => self.changed.wait(&mut state),
                }
                state.idle = false;
                continue;
            };
            let target = state.entries.remove(&(deadline, id)).and_then(|target| target.upgrade());
            if let Some(target) = target {
                parking_lot::MutexGuard::unlocked(&mut state, || target.expire());
            }
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        // The thread is left alone: it finds nothing to do when it wakes.
        self.shared.state.lock().entries.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Duration;

    struct Send(Mutex<mpsc::Sender<u32>>, u32);

    impl Expire for Send {
        fn expire(self: Arc<Self>) {
            self.0.lock().send(self.1).unwrap();
        }
    }

    #[test]
    fn targets_are_called_in_order_and_not_after_their_ticket_is_gone() {
        let queue = TimerQueue::default();
        let (sender, receiver) = mpsc::channel();
        let now = Instant::now();
        let targets: Vec<Arc<dyn Expire>> =
            (0..4).map(|number| Arc::new(Send(Mutex::new(sender.clone()), number)) as Arc<dyn Expire>).collect();
        let at =
            |ms: u64, number: usize| queue.schedule(now + Duration::from_millis(ms), Arc::downgrade(&targets[number])).unwrap();
        let _keep = (at(60, 0), at(20, 1), at(40, 3));
        drop(at(30, 2));
        let got: Vec<u32> = (0..3).map(|_| receiver.recv_timeout(Duration::from_secs(5)).unwrap()).collect();
        assert_eq!(got, [1, 3, 0]);
        assert!(receiver.try_recv().is_err());
    }
}
