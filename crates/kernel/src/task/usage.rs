//! What processes have used: times, memory, faults (getrusage(2)), over all the host processes that ran them.

use super::Process;
use skerry_abi::structs::{RUsage, TimeVal};
use skerry_platform::engine::HostUsage;

impl Process {
    /// A host process has run it until now and does so no longer.
    pub(crate) fn add_usage(&self, usage: HostUsage) {
        let mut earlier = self.earlier_time_ns.lock();
        *earlier = HostUsage { time_ns: *earlier, ..HostUsage::default() }.plus(usage).time_ns;
        drop(earlier);
        let mut counts = self.earlier_counts.lock();
        *counts = counts.plus(HostUsage { time_ns: (0, 0), ..usage });
    }

    /// Its own usage so far, without its children's.
    pub(crate) fn usage(&self) -> HostUsage {
        let host = self.host.read().clone();
        let earlier = HostUsage { time_ns: *self.earlier_time_ns.lock(), ..*self.earlier_counts.lock() };
        host.map_or(earlier, |host| earlier.plus(host.usage()))
    }

    /// The most memory that one host process of it had resident, in bytes.
    pub fn max_rss_bytes(&self) -> u64 {
        self.usage().max_rss_kib.saturating_mul(1024)
    }

    /// The usage of the children that were waited for, and of theirs.
    pub(crate) fn children_usage(&self) -> HostUsage {
        HostUsage { time_ns: *self.children_time_ns.lock(), ..*self.children_counts.lock() }
    }

    /// A child has been waited for: what it and its children used counts here from now on (times(2)).
    pub(super) fn inherit_usage(&self, child: &Process) {
        let total = self.children_usage().plus(child.usage()).plus(child.children_usage());
        *self.children_time_ns.lock() = total.time_ns;
        *self.children_counts.lock() = HostUsage { time_ns: (0, 0), ..total };
    }
}

/// As getrusage(2) tells it.
pub(crate) fn to_rusage(usage: HostUsage) -> RUsage {
    let count = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    RUsage {
        utime: TimeVal::from_nanos(usage.time_ns.0),
        stime: TimeVal::from_nanos(usage.time_ns.1),
        maxrss: count(usage.max_rss_kib),
        minflt: count(usage.minor_faults),
        majflt: count(usage.major_faults),
        nvcsw: count(usage.voluntary_switches),
        nivcsw: count(usage.involuntary_switches),
        ..RUsage::default()
    }
}
