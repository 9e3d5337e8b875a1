//! Taking signals without a handler: sigtimedwait(2), signalfd(2).

use crate::task::Task;
use skerry_abi::signal::{SignalInfo, SignalSet};

/// Takes a pending signal of `wanted`: the task's own first, then the process's. To wait for one, register in
/// `Process::signal_queue` first.
pub fn dequeue(task: &Task, wanted: SignalSet) -> Option<SignalInfo> {
    let wanted = wanted.difference(SignalSet::UNBLOCKABLE);
    let mut process_signals = task.process().signals.lock();
    let mut signals = task.signals.lock();
    signals.pending.take(wanted).or_else(|| process_signals.pending.take(wanted))
}

/// Which signals of `wanted` are pending for the task or its process.
pub fn pending_in(task: &Task, wanted: SignalSet) -> SignalSet {
    let process_signals = task.process().signals.lock();
    let signals = task.signals.lock();
    process_signals.pending.set.union(signals.pending.set).intersection(wanted)
}
