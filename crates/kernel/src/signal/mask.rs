//! Blocked sets (sigprocmask(2)), also those that hold for one call only (sigsuspend(2), ppoll(2)).

use super::send::interrupt;
use super::{ProcessSignals, TaskSignals};
use crate::task::{Process, Task};
use crate::Context;
use skerry_abi::signal::SignalSet;

/// What interrupts the task now.
pub(super) fn deliverable(process: &ProcessSignals, task: &TaskSignals) -> SignalSet {
    process.pending.set.union(task.pending.set).difference(task.blocked())
}

/// Blocks exactly `blocked`; whatever thereby becomes deliverable is delivered when the call ends.
pub fn set_blocked(task: &Task, blocked: SignalSet) {
    let process_signals = task.process().signals.lock();
    let (newly_blocked, others_needed) = {
        let mut signals = task.signals.lock();
        let blocked = blocked.difference(SignalSet::UNBLOCKABLE);
        let newly_blocked = blocked.difference(signals.blocked());
        signals.set_blocked(blocked);
        if !deliverable(&process_signals, &signals).is_empty() {
            interrupt(task, &signals);
        }
        (newly_blocked, process_signals.pending.set.intersection(newly_blocked))
    };
    if !newly_blocked.is_empty() && !others_needed.is_empty() {
        retarget(task.process(), task, others_needed);
    }
}

/// The thread has been kicked, or has changed its mask by itself and seen that something of it is pending: what is
/// deliverable now interrupts it.
pub fn look_again(task: &Task) {
    let process_signals = task.process().signals.lock();
    let signals = task.signals.lock();
    signals.tell_pending(&process_signals);
    if !deliverable(&process_signals, &signals).is_empty() {
        interrupt(task, &signals);
    }
}

/// Lets other threads have process-directed signals that `task` was told of and now blocks (or leaves behind).
pub(super) fn retarget(process: &Process, task: &Task, mut wanted: SignalSet) {
    for other in process.threads.lock().iter() {
        if std::ptr::eq(&**other, task) {
            continue;
        }
        let signals = other.signals.lock();
        if signals.killed {
            continue;
        }
        let takes = signals.offer(wanted);
        if takes.is_empty() {
            continue;
        }
        interrupt(other, &signals);
        wanted = wanted.difference(takes);
        if wanted.is_empty() {
            return;
        }
    }
}

/// Blocks `mask` until the call is over. The mask before comes back then, after a handler (if one runs) was entered
/// with the temporary one in force.
pub fn set_temporary_mask(context: &mut Context, mask: SignalSet) {
    {
        let mut signals = context.task.signals.lock();
        let before = signals.blocked();
        signals.saved_mask.get_or_insert(before);
    }
    set_blocked(context.task, mask);
}
