//! The wait behind poll(2) and select(2): until one of many open files is ready.

use crate::fs::file::{Events, OpenFile};
use crate::{Context, Errno, Result};
use std::sync::Arc;
use std::time::Instant;

/// One file to wait for. `ready` is filled by [`wait`].
pub struct Interest {
    /// `None`: nothing is waited for here, and `ready` stays as it is.
    pub file: Option<Arc<OpenFile>>,
    /// The events that end the wait (poll(2) adds POLLERR and POLLHUP to what is asked for; select(2) does not).
    pub accepted: Events,
    pub ready: Events,
}

impl Interest {
    pub fn new(file: Arc<OpenFile>, accepted: Events) -> Interest {
        Interest { file: Some(file), accepted, ready: Events::empty() }
    }

    /// A descriptor that is answered without waiting: POLLNVAL, or nothing for a negative one.
    pub fn answered(ready: Events) -> Interest {
        Interest { file: None, accepted: Events::empty(), ready }
    }

    fn look(&mut self, context: &Context) -> bool {
        if let Some(file) = &self.file {
            self.ready = with_xpg_names(file.operations.poll_for(context)).intersection(self.accepted);
        }
        !self.ready.is_empty()
    }
}

/// What `file` is ready for, whoever asks, the XPG names (POLLRDNORM, POLLWRNORM) included.
pub fn readiness(file: &OpenFile) -> Events {
    with_xpg_names(file.operations.poll())
}

fn with_xpg_names(mut ready: Events) -> Events {
    if ready.contains(Events::IN) {
        ready |= Events::RDNORM;
    }
    if ready.contains(Events::OUT) {
        ready |= Events::WRNORM;
    }
    ready
}

/// When a wait is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timeout {
    /// Looks once.
    Now,
    At(Instant),
    Never,
}

impl Timeout {
    /// `nanos` from now.
    pub fn after(nanos: u64) -> Timeout {
        if nanos == 0 {
            return Timeout::Now;
        }
        match crate::time::deadline_after(nanos) {
            Some(deadline) => Timeout::At(deadline),
            None => Timeout::Never,
        }
    }

    pub fn deadline(self) -> Option<Instant> {
        match self {
            Timeout::At(deadline) => Some(deadline),
            Timeout::Now | Timeout::Never => None,
        }
    }

    /// Nanoseconds left, for the calls that write the rest back.
    pub fn remaining_nanos(self) -> u64 {
        match self {
            Timeout::Now => 0,
            Timeout::At(deadline) => deadline.saturating_duration_since(Instant::now()).as_nanos() as u64,
            Timeout::Never => u64::MAX,
        }
    }
}

fn look_at_all(context: &Context, interests: &mut [Interest]) -> usize {
    interests.iter_mut().filter_map(|interest| interest.look(context).then_some(())).count()
}

/// Waits until at least one interest is ready; returns how many are (0 at the timeout). ERESTARTSYS on a signal.
pub fn wait(context: &Context, interests: &mut [Interest], timeout: Timeout) -> Result<usize> {
    let ready = look_at_all(context, interests);
    if ready > 0 || timeout == Timeout::Now {
        return Ok(ready);
    }
    let files: Vec<Arc<OpenFile>> = interests.iter().filter_map(|interest| interest.file.clone()).collect();
    let waiter = context.task.waiter();
    let _registrations: Vec<_> = files
        .iter()
        .filter_map(|file| file.operations.wait_queue_for(context))
        .map(|queue| queue.register(waiter.clone()))
        .collect();
    loop {
        let ready = look_at_all(context, interests);
        if ready > 0 {
            return Ok(ready);
        }
        match context.sleep(timeout.deadline()) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(look_at_all(context, interests)),
            Err(error) => return Err(error),
        }
    }
}
