//! What processes have used: times, memory, faults (getrusage(2)), over all the host processes that ran them.
//!
//! A host process tells exactly what it used only once it is dead, and its memory may take a while to go. Nobody waits for
//! that who does not ask: until then the account keeps the [`Dying`] process in the place of its figures.

use super::Process;
use parking_lot::Mutex;
use skerry_abi::structs::{RUsage, TimeVal};
use skerry_platform::engine::{HostProcess, HostUsage};
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};

/// How long somebody who asks waits for a host process that is about to be dead.
const PATIENCE_MS: u32 = 1000;

/// Who has asked for what a child has used is thought to do so for so many more.
const NEXT_CHILDREN: u32 = 16;

/// A host process that runs no guest code any more, and will soon be dead.
pub(crate) struct Dying {
    host: Mutex<Option<Arc<HostProcess>>>,
    usage: OnceLock<HostUsage>,
}

impl Dying {
    pub fn new(host: Arc<HostProcess>) -> Arc<Dying> {
        Arc::new(Dying { host: Mutex::new(Some(host)), usage: OnceLock::new() })
    }

    /// It is dead (or is not waited for any longer): what it used is what it has used by now.
    pub fn settle(&self) {
        // Locked until the figures are there: who finds no host any more looks for them.
        let mut host = self.host.lock();
        if let Some(host) = host.take() {
            let _ = self.usage.set(host.final_usage().unwrap_or_else(|| host.usage()));
        }
    }

    /// As [`Dying::settle`], if it is dead; false if not.
    pub fn settle_if_dead(&self) -> bool {
        let mut host = self.host.lock();
        let Some(usage) = host.as_ref().map(|host| host.final_usage()) else { return true };
        if let Some(usage) = usage {
            let _ = self.usage.set(usage);
            *host = None;
        }
        usage.is_some()
    }

    fn usage(&self) -> HostUsage {
        let host = self.host.lock().clone();
        if let Some(host) = host {
            host.wait_until_dead(PATIENCE_MS);
            self.settle();
        }
        self.usage.get().copied().unwrap_or_default()
    }

    /// Its times without waiting: what it uses to die is not in them.
    fn time_ns_so_far(&self) -> (u64, u64) {
        let host = self.host.lock().clone();
        match host {
            None => self.usage().time_ns,
            // Most have used less than is ever told (ticks), and asking that is cheap.
            Some(host) => match skerry_platform::cpu_clock::process_cpu_time_ns(host.pid) {
                Some(total) if total < super::exit::TICK_NS => (0, 0),
                _ => host.cpu_time_ns(),
            },
        }
    }
}

/// A process's account.
#[derive(Default)]
pub(super) struct Account {
    /// Its earlier host processes.
    own: Entry,
    /// The children that were waited for, and theirs.
    children: Entry,
}

#[derive(Clone, Default)]
struct Entry {
    settled: HostUsage,
    open: Vec<Arc<Dying>>,
}

impl Entry {
    /// Moves what is known by now to `settled`.
    fn fold(&mut self) {
        self.open.retain(|dying| match dying.usage.get() {
            Some(usage) => {
                self.settled = self.settled.plus(*usage);
                false
            }
            None => true,
        });
    }

    /// All of it, waiting for what is not known yet.
    fn total(&mut self) -> HostUsage {
        for dying in &self.open {
            dying.usage();
        }
        self.fold();
        self.settled
    }

    fn add(&mut self, other: &Entry) {
        self.settled = self.settled.plus(other.settled);
        self.open.extend(other.open.iter().cloned());
        self.fold();
    }
}

impl Process {
    /// A host process has run it until now and does so no longer.
    pub(crate) fn add_dying(&self, dying: Arc<Dying>) {
        self.account.lock().own.open.push(dying);
    }

    /// Of its earlier host processes.
    pub(crate) fn earlier_usage(&self) -> HostUsage {
        self.account.lock().own.total()
    }

    /// Its own usage so far, without its children's.
    pub(crate) fn usage(&self) -> HostUsage {
        let host = self.host.read().clone();
        let earlier = self.earlier_usage();
        host.map_or(earlier, |host| earlier.plus(host.usage()))
    }

    /// CPU time used so far by itself: (user, system) in nanoseconds.
    pub fn time_ns(&self) -> (u64, u64) {
        let earlier = self.earlier_usage().time_ns;
        let host = self.host.read().clone();
        let (user, system) = host.map_or((0, 0), |host| host.cpu_time_ns());
        (earlier.0.saturating_add(user), earlier.1.saturating_add(system))
    }

    /// As [`Process::time_ns`] for one that has just ended, exact to a tick, without waiting for anything.
    pub(super) fn time_ns_at_exit(&self) -> (u64, u64) {
        let account = self.account.lock();
        let mut sum = account.own.settled.time_ns;
        for dying in &account.own.open {
            let (user, system) = dying.time_ns_so_far();
            sum = (sum.0.saturating_add(user), sum.1.saturating_add(system));
        }
        sum
    }

    /// The most memory that one host process of it had resident, in bytes.
    pub fn max_rss_bytes(&self) -> u64 {
        self.usage().max_rss_kib.saturating_mul(1024)
    }

    /// The usage of the children that were waited for, and of theirs.
    pub(crate) fn children_usage(&self) -> HostUsage {
        self.asks_for_usage();
        self.account.lock().children.total()
    }

    /// It is about to ask what a child of its has used.
    pub(super) fn asks_for_usage(&self) {
        self.asks_for_usage.store(NEXT_CHILDREN, Ordering::Relaxed);
    }

    /// Whether it will ask so of a child that ends now, as far as that can be told from before.
    pub(crate) fn will_ask_for_usage(&self) -> bool {
        let one_less = |left: u32| left.checked_sub(1);
        self.asks_for_usage.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_ok()
    }

    /// A child has been waited for: what it and its children used counts here from now on (times(2)).
    pub(super) fn inherit_usage(&self, child: &Process) {
        let (own, children) = {
            let account = child.account.lock();
            (account.own.clone(), account.children.clone())
        };
        let mut account = self.account.lock();
        account.children.add(&own);
        account.children.add(&children);
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
