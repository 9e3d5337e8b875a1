//! How limits are held: by the host's control groups where they are granted (`confine::cgroup`); else memory by looking
//! and CPUs by affinity. (Processes and in-memory files are counted by the guest kernel itself.)
//!
//! Looking is best effort: a guest can overshoot between two looks. The looks come the closer together the less is left,
//! and none are made where there is no limit.

use skerry_abi::signal::{Signal, SignalInfo};
use skerry_confine::cgroup::{ControlGroups, Controller, MemoryEvents, MemoryLimit};
use skerry_control::{Event, Limits};
use skerry_kernel::task::Process;
use skerry_kernel::Kernel;
use skerry_platform::host::read_proc_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

const PAGE: u64 = 4096;
/// How fast a guest can get memory from the host, at the most, in bytes a second: decides when to look again.
const FASTEST: u64 = 4 << 30;
const SHORTEST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(250);

/// How each limit that was asked for is held, for `info`.
pub fn describe(limits: &Limits, groups: &ControlGroups) -> std::collections::BTreeMap<String, String> {
    let mut how = std::collections::BTreeMap::new();
    if limits.memory.is_some() {
        let text = groups.describe(Controller::Memory).unwrap_or_else(|why| {
            format!("polling (best effort): the largest process is killed; overshoot is possible; no cgroup: {why}")
        });
        how.insert("memory".into(), text);
    }
    if let Some(cpus) = limits.cpus {
        how.insert("cpus".into(), skerry_confine::cpus::describe(groups, cpus));
    }
    if limits.pids.is_some() {
        let net = groups.describe(Controller::Pids).map(|group| format!("; behind that {group}")).unwrap_or_default();
        how.insert("pids".into(), format!("exact: counted by the guest kernel{net}"));
    }
    how.insert("memory_files".into(), "exact: counted by the guest kernel".into());
    how
}

/// What is known of the memory that the sandbox uses: from the host where a group of ours holds the limit, else by looking.
pub struct MemoryUse {
    host: Option<MemoryEvents>,
    limit: Option<MemoryLimit>,
    seen: AtomicU64,
}

impl MemoryUse {
    pub fn new(host: Option<MemoryEvents>, limit: Option<MemoryLimit>) -> MemoryUse {
        MemoryUse { host, limit, seen: AtomicU64::new(0) }
    }

    /// Bytes, the highest so far; 0 where memory is not limited.
    pub fn peak(&self) -> u64 {
        self.host.as_ref().map_or(0, MemoryEvents::peak).max(self.seen.load(Ordering::Relaxed))
    }

    /// Processes that the host has killed at the limit.
    pub fn host_kills(&self) -> u64 {
        self.host.as_ref().map_or(0, MemoryEvents::kills)
    }
}

/// What the limit of memory is for parts of the guest kernel.
pub fn share_out(kernel: &Kernel, limits: &Limits) {
    kernel.memory_files.limit.store(memory_files_cap(limits), Ordering::Relaxed);
    if let Some(memory) = limits.memory {
        kernel.memory_limit.store(memory, Ordering::Relaxed);
        kernel.net.set_memory_limit((memory / 4) as _);
    }
}

/// Bytes that in-memory files may take: as asked, else as memory in all is limited, else half of the host's memory (as
/// tmpfs(5) has it).
fn memory_files_cap(limits: &Limits) -> u64 {
    let half_of_host = || {
        let info = rustix::system::sysinfo();
        (info.totalram as u64).saturating_mul(info.mem_unit.into()) / 2
    };
    let cap = limits.memory_files.or(limits.memory).unwrap_or_else(half_of_host);
    // Half of it at the most: files alone never make a sandbox run out of memory, they give ENOSPC before.
    limits.memory.map_or(cap, |memory| cap.min(memory / 2))
}

/// Another limit of memory than the one that there is.
pub fn change_memory(kernel: &Kernel, used: &MemoryUse, memory: u64) -> Result<(), String> {
    if kernel.memory_limit().is_none() {
        return Err("it was started without that limit".into());
    }
    if let Some(limit) = &used.limit {
        limit.set(memory).map_err(|error| format!("its cgroup does not take it: {error}"))?;
    }
    // Where it is held by looking, that looks here.
    share_out(kernel, &Limits { memory: Some(memory), ..kernel.limits.clone() });
    Ok(())
}

/// Starts watching memory, against the kernel's limit.
pub fn watch_memory(kernel: &Arc<Kernel>, memory: Arc<MemoryUse>) -> std::io::Result<()> {
    let kernel = Arc::downgrade(kernel);
    std::thread::Builder::new().name("skerry-memory".into()).stack_size(128 << 10).spawn(move || watch(&kernel, &memory))?;
    Ok(())
}

fn watch(kernel: &Weak<Kernel>, memory: &MemoryUse) {
    while let Some(kernel) = kernel.upgrade() {
        let limit = kernel.memory_limit().unwrap_or(u64::MAX);
        kernel.settle_files();
        let (mut used, largest) = quick_use(&kernel);
        if used > limit {
            // Pages that processes share after a fork were counted once for each.
            used = exact_use(&kernel).min(used);
        }
        memory.seen.fetch_max(used, Ordering::Relaxed);
        if used > limit {
            if let Some(process) = largest {
                (kernel.events)(Event::OutOfMemory { process: process.pid() as u32, limit });
                process.send_signal(SignalInfo::kernel(Signal::SIGKILL));
                let host = process.host.read().clone();
                if let Some(host) = host {
                    host.wait_until_dead(1000);
                }
            }
        }
        drop(kernel);
        let left = limit.saturating_sub(used);
        let pause = Duration::from_nanos(left.saturating_mul(1_000_000_000) / FASTEST);
        std::thread::sleep(pause.clamp(SHORTEST, LONGEST));
    }
}

/// In-memory files, and what each process has of anonymous memory; the process that has most.
fn quick_use(kernel: &Kernel) -> (u64, Option<Arc<Process>>) {
    let mut total = kernel.memory_files.used.load(Ordering::Relaxed);
    let mut largest = (0, None);
    for process in kernel.pids.processes() {
        let Some(pid) = process.host.read().as_ref().map(|host| host.pid) else { continue };
        let Ok(text) = read_proc_of(pid, "statm") else { continue };
        let text = String::from_utf8_lossy(&text).into_owned();
        let mut fields = text.split_ascii_whitespace().skip(1).map(|field| field.parse::<u64>().unwrap_or(0));
        let (resident, shared) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        let anonymous = resident.saturating_sub(shared) * PAGE;
        total += anonymous;
        if anonymous >= largest.0 {
            largest = (anonymous, Some(process));
        }
    }
    (total, largest.1)
}

/// As the host shares it out among the processes (smaps_rollup): slow, but right.
fn exact_use(kernel: &Kernel) -> u64 {
    let mut total = kernel.memory_files.used.load(Ordering::Relaxed);
    for process in kernel.pids.processes() {
        let Some(pid) = process.host.read().as_ref().map(|host| host.pid) else { continue };
        let Ok(text) = read_proc_of(pid, "smaps_rollup") else { continue };
        let text = String::from_utf8_lossy(&text).into_owned();
        let kilobytes = text
            .lines()
            .find_map(|line| line.strip_prefix("Pss_Anon:"))
            .and_then(|rest| rest.split_ascii_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        total += kilobytes * 1024;
    }
    total
}
