//! Resource limits that somebody must watch (getrlimit(2)). Most are looked at where they count (descriptors, processes,
//! signals, file sizes); the address space is watched by the host, CPU time by a timer.

use super::Process;
use crate::time::interval::{Action, IntervalTimer, Schedule, Timeline};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{Signal, SignalInfo};
use std::sync::Arc;

const SECOND_NS: u64 = 1_000_000_000;
const INFINITY: u64 = u64::MAX;

/// As [`apply_to_host`], for a host process that has no limits yet: execve(2) gives a task such a one.
pub(crate) fn apply_to_fresh_host(process: &Process) {
    if process.rlimit(linux::RLIMIT_AS).current != INFINITY {
        apply_to_host(process);
    }
}

/// Puts the limits in force that the host watches, after a change.
pub(crate) fn apply_to_host(process: &Process) {
    let Some(host) = process.host.read().clone() else { return };
    let Some(pid) = rustix::process::Pid::from_raw(host.pid) else { return };
    let limit = process.rlimit(linux::RLIMIT_AS).current;
    // Only the soft limit, so that it can be raised again. Where the host does not let us, it is not held.
    let present = rustix::process::getrlimit(rustix::process::Resource::As);
    let new = rustix::process::Rlimit { current: (limit != INFINITY).then_some(limit), maximum: present.maximum };
    let _ = rustix::process::prlimit(Some(pid), rustix::process::Resource::As, new);
}

/// RLIMIT_CPU: SIGXCPU at the soft limit and each second from then on, SIGKILL at the hard one.
pub(crate) fn watch_cpu_time(process: &Arc<Process>) {
    let limit = process.rlimit(linux::RLIMIT_CPU);
    let first = limit.current.min(limit.maximum);
    let mut slot = process.cpu_limit.lock();
    if first == INFINITY {
        *slot = None;
        return;
    }
    let timer = slot.get_or_insert_with(|| {
        let target = Arc::downgrade(process);
        let action: Action = Box::new(move |_| {
            let Some(process) = target.upgrade() else { return };
            let (user, system) = process.time_ns();
            let hard = process.rlimit(linux::RLIMIT_CPU).maximum;
            let over = hard != INFINITY && user.saturating_add(system) >= hard.saturating_mul(SECOND_NS);
            process.send_signal(SignalInfo::kernel(if over { Signal::SIGKILL } else { Signal::SIGXCPU }));
        });
        IntervalTimer::new(process.kernel().timers.clone(), Timeline::ProcessCpu(Arc::downgrade(process)), Some(action))
    });
    // Zero seconds count as one, as on Linux.
    let next = i64::try_from(first.max(1).saturating_mul(SECOND_NS)).unwrap_or(i64::MAX);
    let _ = timer.set(Schedule { next: Some(next), interval: SECOND_NS });
}
