//! Processes that the host kills because the sandbox's memory limit is reached (a control group holds it then): noticed
//! when a process is found killed by nobody here.

use super::{ExitStatus, Process};
use crate::Kernel;
use parking_lot::Mutex;
use skerry_abi::signal::Signal;
use skerry_control::Event;
use std::sync::OnceLock;

type Counter = Box<dyn Fn() -> u64 + Send + Sync>;

/// How many the host has killed, and how many of them have been told.
#[derive(Default)]
pub struct HostKills {
    counter: OnceLock<Counter>,
    told: Mutex<u64>,
}

impl HostKills {
    /// `counter` gives the host's count; to be set before anything runs.
    pub fn count_with(&self, counter: impl Fn() -> u64 + Send + Sync + 'static) {
        let _ = self.counter.set(Box::new(counter));
    }

    /// Whether there is one more than was told; it is told with that.
    fn take(&self) -> bool {
        let Some(counter) = self.counter.get() else { return false };
        let mut told = self.told.lock();
        let more = counter() > *told;
        *told += u64::from(more);
        more
    }
}

/// `process` is found dead, by `status`: tells of it if that was for memory.
pub(super) fn tell(kernel: &Kernel, process: &Process, status: Option<ExitStatus>) {
    if !matches!(status, Some(ExitStatus::Signaled(Signal::SIGKILL, _))) || process.signals.lock().group_exit.is_some() {
        return;
    }
    if kernel.host_kills.take() {
        let limit = kernel.memory_limit().unwrap_or(0);
        (kernel.events)(Event::OutOfMemory { process: process.pid() as u32, limit });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::Arc;

    #[test]
    fn each_kill_is_told_once() {
        let kills = HostKills::default();
        assert!(!kills.take());
        let count = Arc::new(AtomicU64::new(0));
        let counter = count.clone();
        kills.count_with(move || counter.load(Ordering::Relaxed));
        assert!(!kills.take());
        count.store(2, Ordering::Relaxed);
        assert!(kills.take() && kills.take() && !kills.take());
    }
}
