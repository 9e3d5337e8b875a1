//! The time that file systems stamp on files.

use skerry_abi::structs::TimeSpec;

/// Now (CLOCK_REALTIME), as file systems record it.
pub fn now() -> TimeSpec {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// Whether `a` is earlier than `b`.
pub fn is_before(a: TimeSpec, b: TimeSpec) -> bool {
    (a.sec, a.nsec) < (b.sec, b.nsec)
}

/// Whether reading a file at `now` is to be recorded under mount(8)'s "relatime": the last access is not after the last
/// change, or is a day old.
pub fn relatime_wants(accessed: TimeSpec, modified: TimeSpec, changed: TimeSpec, now: TimeSpec) -> bool {
    let older = |a: TimeSpec, b: TimeSpec| (a.sec, a.nsec) <= (b.sec, b.nsec);
    older(accessed, modified) || older(accessed, changed) || now.sec.saturating_sub(accessed.sec) >= 24 * 3600
}
