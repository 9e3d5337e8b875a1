//! Priorities, policies and CPU affinity (sched(7), nice(2), ioprio_set(2)): stored and told. Affinity and niceness are
//! passed on to the host as far as it lets us (it lets nobody be less nice than before without a capability); policies
//! are not.

use super::Task;
use crate::Kernel;
use skerry_abi::raw::general::{SCHED_BATCH, SCHED_DEADLINE, SCHED_FIFO, SCHED_IDLE, SCHED_NORMAL, SCHED_RR};
use std::sync::OnceLock;

/// CPUs that a mask can name.
pub const CPU_SET_SIZE: usize = 1024;

/// A set of CPUs: bit N of word N/64.
pub type CpuSet = [u64; CPU_SET_SIZE / 64];

/// What sched(7) keeps for a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheduling {
    /// -20 to 19.
    pub nice: i32,
    /// SCHED_*.
    pub policy: u32,
    /// 1-99 for SCHED_FIFO and SCHED_RR, else 0.
    pub priority: i32,
    /// SCHED_FLAG_RESET_ON_FORK: children start with the defaults.
    pub reset_on_fork: bool,
    /// `None`: all CPUs of the sandbox.
    pub affinity: Option<CpuSet>,
    /// ioprio_set(2)'s encoding; 0 = none set.
    pub io_priority: i32,
    /// SCHED_DEADLINE's parameters: runtime, deadline, period, all in ns.
    pub deadline_ns: (u64, u64, u64),
}

impl Default for Scheduling {
    fn default() -> Scheduling {
        Scheduling {
            nice: 0,
            policy: SCHED_NORMAL,
            priority: 0,
            reset_on_fork: false,
            affinity: None,
            io_priority: 0,
            deadline_ns: (0, 0, 0),
        }
    }
}

impl Scheduling {
    /// What a child of such a thread starts with.
    pub fn for_child(&self) -> Scheduling {
        if !self.reset_on_fork {
            return *self;
        }
        let real_time = is_real_time(self.policy) || self.policy == SCHED_DEADLINE;
        Scheduling {
            nice: if real_time { 0 } else { self.nice.max(0) },
            policy: if real_time { SCHED_NORMAL } else { self.policy },
            priority: 0,
            reset_on_fork: false,
            ..*self
        }
    }
}

pub fn is_real_time(policy: u32) -> bool {
    policy == SCHED_FIFO || policy == SCHED_RR
}

/// The valid priorities of a policy: `None` for an unknown one.
pub fn priority_range(policy: u32) -> Option<(i32, i32)> {
    match policy {
        SCHED_FIFO | SCHED_RR => Some((1, 99)),
        SCHED_NORMAL | SCHED_BATCH | SCHED_IDLE | SCHED_DEADLINE => Some((0, 0)),
        _ => None,
    }
}

/// The host's CPUs that the sentry may use.
fn host_cpus() -> &'static CpuSet {
    static CPUS: OnceLock<CpuSet> = OnceLock::new();
    CPUS.get_or_init(|| {
        let mut set = [0; CPU_SET_SIZE / 64];
        if let Ok(host) = rustix::thread::sched_getaffinity(None) {
            for cpu in (0..CPU_SET_SIZE.min(rustix::thread::CpuSet::MAX_CPU)).filter(|&cpu| host.is_set(cpu)) {
                set[cpu / 64] |= 1 << (cpu % 64);
            }
        }
        if set == [0; CPU_SET_SIZE / 64] {
            set[0] = 1;
        }
        set
    })
}

/// The CPUs of the sandbox: the host's that the sentry may use, and of them no more than `--cpus` (rounded up).
pub fn sandbox_cpus(kernel: &Kernel) -> CpuSet {
    let limit = kernel.limits.cpus.map_or(usize::MAX, |cpus| cpus.ceil().max(1.0) as usize);
    let host = host_cpus();
    let mut set = [0; CPU_SET_SIZE / 64];
    let allowed = (0..CPU_SET_SIZE).filter(|cpu| host[cpu / 64] & 1 << (cpu % 64) != 0);
    for cpu in allowed.take(limit) {
        set[cpu / 64] |= 1 << (cpu % 64);
    }
    set
}

/// How many CPUs the sandbox has (nproc, /proc/cpuinfo).
pub fn cpu_count(kernel: &Kernel) -> usize {
    sandbox_cpus(kernel).iter().map(|word| word.count_ones() as usize).sum()
}

/// Where the host does not let us, the thread runs anywhere: nothing but speed depends on it.
pub(crate) fn pass_on_affinity(tid: i32, wanted: &CpuSet) {
    let mut set = rustix::thread::CpuSet::new();
    for cpu in (0..CPU_SET_SIZE.min(rustix::thread::CpuSet::MAX_CPU)).filter(|&cpu| wanted[cpu / 64] & 1 << (cpu % 64) != 0) {
        set.set(cpu);
    }
    if let Some(tid) = rustix::process::Pid::from_raw(tid) {
        let _ = rustix::thread::sched_setaffinity(Some(tid), &set);
    }
}

pub(crate) fn pass_on_nice(tid: i32, nice: i32) {
    if let Some(tid) = rustix::process::Pid::from_raw(tid) {
        let _ = rustix::process::setpriority_process(Some(tid), nice);
    }
}

/// A task has a fresh host thread (execve(2)), which knows nothing yet.
pub(crate) fn apply_to_host(task: &Task) {
    let Some(host) = task.host.read().clone() else { return };
    let scheduling = *task.scheduling.read();
    if let Some(affinity) = &scheduling.affinity {
        pass_on_affinity(host.tid, affinity);
    }
    if scheduling.nice != task.kernel().nice {
        pass_on_nice(host.tid, scheduling.nice);
    }
}
