//! Restart blocks: how a wait with a relative timeout goes on after a stop or a signal without a handler, for the time
//! that was left (signal(7), "Interruption of system calls ... by stop signals").
//!
//! The interrupted call saves its deadline and returns ERESTART_RESTARTBLOCK. Where no handler runs, the signal code
//! calls [`RestartSlot::confirm`] and lets the task make the same call again, which then finds its deadline here; where a
//! handler runs, the call gives EINTR and the block is dropped.

use crate::context::Call;
use parking_lot::Mutex;
use std::time::Instant;

/// A task's restart block.
#[derive(Default)]
pub struct RestartSlot {
    saved: Mutex<Option<Saved>>,
}

struct Saved {
    call: Call,
    deadline: Instant,
    confirmed: bool,
}

impl RestartSlot {
    /// Before ERESTART_RESTARTBLOCK is returned.
    pub fn save(&self, call: Call, deadline: Instant) {
        *self.saved.lock() = Some(Saved { call, deadline, confirmed: false });
    }

    /// The call is made again as it was: no handler ran.
    pub fn confirm(&self) {
        if let Some(saved) = self.saved.lock().as_mut() {
            saved.confirmed = true;
        }
    }

    pub fn clear(&self) {
        *self.saved.lock() = None;
    }

    /// The deadline of the interrupted call, if `call` is its repetition.
    pub fn take(&self, call: &Call) -> Option<Instant> {
        let saved = self.saved.lock().take()?;
        let same = saved.confirmed
            && saved.call.number == call.number
            && saved.call.arguments == call.arguments
            && saved.call.instruction_pointer == call.instruction_pointer;
        same.then_some(saved.deadline)
    }

    /// The interrupted call itself, for restart_syscall(2).
    pub fn call(&self) -> Option<Call> {
        self.saved.lock().as_ref().filter(|saved| saved.confirmed).map(|saved| saved.call)
    }
}
