//! Signals (signal(7)): pending queues, masks, delivery (being built by the lead).

use crate::task::{Process, Task};
use skerry_abi::signal::{SignalInfo, SignalSet, SignalStack};

/// Pending signals of one task or process: standard ones are held once, real-time ones queue in order.
#[derive(Default)]
pub struct PendingSignals {
    pub set: SignalSet,
    pub queue: std::collections::VecDeque<SignalInfo>,
}

#[derive(Default)]
pub struct ProcessSignals {
    pub pending: PendingSignals,
}

#[derive(Default)]
pub struct TaskSignals {
    pub pending: PendingSignals,
    pub blocked: SignalSet,
    pub stack: SignalStack,
    /// The mask to put back when a call with a mask of its own is over (sigsuspend(2), ppoll(2)).
    pub(crate) saved_mask: Option<SignalSet>,
}

/// Blocks exactly `blocked`.
pub fn set_blocked(task: &Task, blocked: SignalSet) {
    task.signals.lock().blocked = blocked.difference(SignalSet::UNBLOCKABLE);
}

/// Blocks `mask` until the call is over.
pub fn set_temporary_mask(context: &mut crate::Context, mask: SignalSet) {
    {
        let mut signals = context.task.signals.lock();
        let before = signals.blocked;
        signals.saved_mask.get_or_insert(before);
    }
    set_blocked(context.task, mask);
}

/// Takes a pending signal of `wanted`: the task's own first, then the process's.
pub fn dequeue(_task: &Task, _wanted: SignalSet) -> Option<SignalInfo> {
    None
}

/// Which signals of `wanted` are pending for the task or its process.
pub fn pending_in(_task: &Task, _wanted: SignalSet) -> SignalSet {
    SignalSet::EMPTY
}

pub fn send_to_process(_process: &Process, _info: SignalInfo) {}
pub fn send_to_task(_task: &Task, _info: SignalInfo) {}

/// What a task does when it leaves the guest kernel; made by [`prepare_return`], carried out by the engine and the stub.
#[derive(Debug)]
pub enum Return {
    /// Goes on with this in rax (a value or -errno).
    Value(i64),
    /// Makes the same call again (the instruction pointer goes back over `syscall`).
    Restart,
    /// Goes on as it was, rax and all (after an interruption in its own code, or rt_sigreturn).
    AsIs,
    /// A handler runs first; `resume` is the state that its frame saves.
    Handler { resume: Resume, frame: HandlerFrame },
    /// The process is ending: the thread must not run any more.
    Gone,
}

/// The part of the state that a handler's frame saves which the guest kernel decides.
#[derive(Clone, Copy, Debug)]
pub enum Resume {
    Value(i64),
    Restart,
    AsIs,
}

/// A signal frame to be built on the guest's stack (rt_sigreturn(2), sigaction(2)).
#[derive(Debug)]
pub struct HandlerFrame {
    pub info: SignalInfo,
    pub action: skerry_abi::signal::SigAction,
    /// The mask that the frame saves (uc_sigmask).
    pub saved_mask: SignalSet,
    /// The alternate stack as the frame saves it (uc_stack).
    pub saved_stack: SignalStack,
    /// Where the frame begins downwards: the top of the alternate stack; `None`: the present stack, below its red zone.
    pub stack_top: Option<u64>,
}
