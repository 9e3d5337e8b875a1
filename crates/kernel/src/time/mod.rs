//! Clocks and timers (time(7)).
//!
//! [`clock`]: the clocks by their ids.

pub mod clock;

pub use clock::{Clock, CpuClock};

use skerry_abi::structs::TimeSpec;
use std::time::{Duration, Instant};

/// A process's interval timers and POSIX timers.
#[derive(Default)]
pub struct ProcessTimers {}

/// CLOCK_REALTIME, for time stamps.
pub fn realtime_now() -> TimeSpec {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    TimeSpec { sec: now.tv_sec, nsec: now.tv_nsec }
}

/// `nanos` from now; `None` where that is farther than the host's clock goes: never.
pub fn deadline_after(nanos: u64) -> Option<Instant> {
    Instant::now().checked_add(Duration::from_nanos(nanos))
}
