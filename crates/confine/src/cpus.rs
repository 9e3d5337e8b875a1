//! The limit of CPUs where no control group holds it.

use crate::cgroup::{ControlGroups, Controller};
use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

/// How a limit of `cpus` is held: by a control group, or where there is none by [`bind`].
pub fn describe(groups: &ControlGroups, cpus: f64) -> String {
    groups.describe(Controller::Cpu).unwrap_or_else(|why| {
        format!("affinity to {} CPU(s) (best effort): a fraction is rounded up; no cgroup: {why}", cpus.ceil().max(1.0))
    })
}

/// Holds a limit of `cpus` for the calling thread and what comes from it, where no control group does; says how it is held.
pub fn hold(groups: &ControlGroups, cpus: f64) -> std::io::Result<String> {
    if groups.describe(Controller::Cpu).is_err() {
        bind(None, cpus)?;
    }
    Ok(describe(groups, cpus))
}

/// Confines `pid` (`None`: the calling thread), and what comes from it, to as many CPUs as `cpus` asks for.
pub fn bind(pid: Option<Pid>, cpus: f64) -> std::io::Result<()> {
    let allowed = sched_getaffinity(pid)?;
    let mut chosen = CpuSet::new();
    let wanted = cpus.ceil().max(1.0) as u32;
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
        if chosen.count() >= wanted {
            break;
        }
        chosen.set(cpu);
    }
    Ok(sched_setaffinity(pid, &chosen)?)
}
