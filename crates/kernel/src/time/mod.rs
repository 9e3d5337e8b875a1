//! Clocks and timers (time(7)).

/// A process's interval timers and POSIX timers.
#[derive(Default)]
pub struct ProcessTimers {}
