//! The limit of CPUs where no control group holds it.

use rustix::process::Pid;
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};

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
