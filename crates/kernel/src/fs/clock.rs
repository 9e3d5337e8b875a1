//! The time that file systems stamp on files.

use skerry_abi::structs::TimeSpec;

/// Now (CLOCK_REALTIME), as file systems record it.
pub fn now() -> TimeSpec {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::RealtimeCoarse);
    TimeSpec { sec: time.tv_sec, nsec: time.tv_nsec }
}

/// A host's clock that stamps files goes in steps: what was changed this lately may be changed again without another
/// stamp. Where there are whole seconds only, the steps are seconds.
const STEP_NS: i64 = 50_000_000;
const COARSE_STEP_NS: i64 = 3_000_000_000;

/// Whether another change of what was last `changed` then will show.
pub fn is_settled(changed: TimeSpec) -> bool {
    let now = now();
    let seconds = now.sec.saturating_sub(changed.sec);
    let age_ns = seconds.saturating_mul(1_000_000_000).saturating_add(now.nsec - changed.nsec);
    age_ns > if changed.nsec == 0 { COARSE_STEP_NS } else { STEP_NS }
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
