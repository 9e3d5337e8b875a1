//! Clocks and timers (time(7)).
//!
//! [`clock`]: the clocks by their ids. [`queue`]: the one thread that all timers share. [`interval`]: timers that repeat;
//! [`itimer`] and [`posix`]: those of setitimer(2) and timer_create(2). timerfd(2) is in [`crate::event::timerfd`].

pub mod clock;
pub mod interval;
pub mod itimer;
pub mod posix;
pub mod queue;

pub use clock::{Clock, CpuClock};

use skerry_abi::structs::TimeSpec;
use std::time::{Duration, Instant};

/// A process's interval timers and POSIX timers.
#[derive(Default)]
pub struct ProcessTimers {
    pub itimers: itimer::ITimers,
    pub posix: posix::PosixTimers,
}

impl ProcessTimers {
    /// execve(2): POSIX timers are deleted, interval timers go on.
    pub fn executed(&self) {
        self.posix.clear();
    }

    /// The last thread has ended.
    pub fn exited(&self) {
        self.posix.clear();
        self.itimers.clear();
    }
}

/// CLOCK_REALTIME, for time stamps.
pub fn realtime_now() -> TimeSpec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    TimeSpec { sec: now.tv_sec, nsec: now.tv_nsec }
}

/// `nanos` from now; `None` where that is farther than the host's clock goes: never.
pub fn deadline_after(nanos: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_nanos(nanos))
}
