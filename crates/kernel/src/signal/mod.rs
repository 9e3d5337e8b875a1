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
    /// The mask to go back to after [`set_temporary_mask`].
    pub saved: Option<SignalSet>,
}

/// Blocks `mask` until [`restore_temporary_mask`], or until the handler that ends the call has been set up: its frame
/// saves the mask from before (sigsuspend(2), ppoll(2)).
pub fn set_temporary_mask(context: &crate::Context, mask: SignalSet) {
    let mut signals = context.task.signals.lock();
    let before = std::mem::replace(&mut signals.blocked, mask);
    signals.saved = Some(before);
}

/// Goes back to the mask before [`set_temporary_mask`]: the call ended without a signal.
pub fn restore_temporary_mask(context: &crate::Context) {
    let mut signals = context.task.signals.lock();
    if let Some(before) = signals.saved.take() {
        signals.blocked = before;
    }
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
