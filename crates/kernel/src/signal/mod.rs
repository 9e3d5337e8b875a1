//! Signals (signal(7)): pending queues, masks, dispositions, delivery. All of it lives here; an application's stub asks.
//!
//! Key types: [`ProcessSignals`] and [`TaskSignals`] (what is pending and blocked, job control), [`Return`] (what a
//! thread does when it leaves the guest kernel). Parts: `pending` the queues, `action` the defaults, `send` who may send
//! what to whom and how a thread hears of it, `deliver` what happens on the way out, `take` taking a signal without a
//! handler (sigtimedwait, signalfd), `mask` the blocked sets.
//!
//! How a thread hears of a signal: the sender queues it under the locks, then sets `Task::interrupted` under
//! `Task::signals`; a thread in the guest kernel (`Task::in_kernel`) has its waiter woken, one that runs its own code is
//! kicked by the host. A thread leaves the guest kernel only through [`prepare_return`], which clears `in_kernel` under
//! the same lock after having found nothing to do; so nothing is lost in between.
//!
//! The mask of a thread with a host thread is in its channel, where its stub changes it without asking (ADR 15): it is
//! read anew whenever it counts, and [`TaskSignals::offer`] says what is pending before that.
//!
//! Lock order: `Kernel::tree` > `Process::signals` > `Process::threads` > `Task::signals` > `Process::actions`.

mod action;
mod deliver;
mod mask;
mod pending;
mod send;
pub(crate) mod stack;
mod take;

pub use action::{default_action, DefaultAction};
pub use deliver::{after_signal_return, frame_failed, prepare_return};
pub(crate) use deliver::{complete_stop, is_dying, leave_for_call, try_leave};
pub use mask::{look_again, set_blocked, set_temporary_mask};
pub use pending::PendingSignals;
pub(crate) use send::{begin_group_exit, hand_over_pending, interrupt, is_dropped, set_action, take_over_reset, tell_actions};
pub use send::{
    force_signal, is_blocked_or_ignored, may_send, send_to_process, send_to_task, try_send_to_process, try_send_to_task,
};
pub use take::{dequeue, pending_in};

use crate::task::ExitStatus;
use skerry_abi::signal::{Signal, SignalInfo, SignalSet, SignalStack};
use skerry_platform::channel::Channel;
use std::sync::Arc;

/// What a process as a whole has: pending signals, its coming end, and job control.
#[derive(Default)]
pub struct ProcessSignals {
    pub pending: PendingSignals,
    /// exit_group(2) or a fatal signal: every thread is to end, and this is how wait(2) will see it.
    pub group_exit: Option<ExitStatus>,
    /// What a leader that ended by exit(2) before the others gave.
    pub leader_status: Option<ExitStatus>,
    pub stop: StopState,
    /// Threads that have stopped in the present stop.
    pub stopped_threads: usize,
    /// The process has stopped (by this) and waitpid(WUNTRACED) has not told yet.
    pub stop_untold: Option<Signal>,
    /// It has been continued and waitpid(WCONTINUED) has not told yet.
    pub continue_untold: bool,
    /// How often it has been stopped.
    pub stops: u64,
    /// How often SIGCONT has come; tells a stop that was decided on without the lock that it is out of date.
    pub continues: u64,
}

/// Job control's view of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StopState {
    #[default]
    Running,
    /// Some of its threads have yet to stop.
    Stopping(Signal),
    Stopped(Signal),
}

/// What a thread has.
pub struct TaskSignals {
    pub pending: PendingSignals,
    /// See [`TaskSignals::blocked`].
    mask: SignalSet,
    /// Where the mask is once there is a host thread.
    channel: Option<Arc<Channel>>,
    /// The mask to put back when a call with a mask of its own is over (sigsuspend(2), ppoll(2)).
    pub(crate) saved_mask: Option<SignalSet>,
    pub stack: SignalStack,
    /// The thread alone is to end (exit(2), or another one executes a program).
    pub(crate) killed: bool,
    /// What it has given exit(2).
    pub(crate) status: Option<ExitStatus>,
    /// It counts in [`ProcessSignals::stopped_threads`].
    pub(crate) stopped: bool,
}

impl Default for TaskSignals {
    fn default() -> TaskSignals {
        TaskSignals {
            pending: PendingSignals::default(),
            mask: SignalSet::EMPTY,
            channel: None,
            saved_mask: None,
            stack: DISABLED_STACK,
            killed: false,
            status: None,
            stopped: false,
        }
    }
}

impl TaskSignals {
    pub(crate) fn new(blocked: SignalSet, stack: SignalStack) -> TaskSignals {
        TaskSignals { mask: blocked, stack, ..TaskSignals::default() }
    }

    /// The mask as it is now. A thread that runs its own code may change it at any time.
    pub fn blocked(&self) -> SignalSet {
        match &self.channel {
            Some(channel) => SignalSet(channel.mask()).difference(SignalSet::UNBLOCKABLE),
            None => self.mask,
        }
    }

    pub(crate) fn set_blocked(&mut self, blocked: SignalSet) {
        let blocked = blocked.difference(SignalSet::UNBLOCKABLE);
        match &self.channel {
            Some(channel) => channel.set_mask(blocked.0),
            None => self.mask = blocked,
        }
    }

    /// The thread's stub is to know that `signals` are pending. Those that it does not block now: it has to be interrupted
    /// for them. For the others it asks when it unblocks them.
    pub(crate) fn offer(&self, signals: SignalSet) -> SignalSet {
        if let Some(channel) = &self.channel {
            channel.add_pending(signals.0);
        }
        signals.difference(self.blocked())
    }

    /// The stub is to know of what is pending now, and of nothing else.
    pub(crate) fn tell_pending(&self, process: &ProcessSignals) {
        if let Some(channel) = &self.channel {
            channel.set_pending(process.pending.set.union(self.pending.set).0);
        }
    }

    /// The stub is to know the signals whose dispositions are not what they were at first.
    pub(crate) fn tell_actions(&self, changed: SignalSet) {
        if let Some(channel) = &self.channel {
            channel.set_actions(changed.0);
        }
    }

    /// Whether the thread is the only one that has its dispositions, so that its stub may say in the channel that one of
    /// them, which is the default, has been made so once more.
    pub(crate) fn tell_alone(&self, is_alone: bool) {
        if let Some(channel) = &self.channel {
            channel.set_may_reset(is_alone);
        }
    }

    /// Takes over what it has said so: the signals, and the restorer that came with them.
    fn take_reset(&self) -> (SignalSet, u64) {
        self.channel.as_ref().map_or((SignalSet::EMPTY, 0), |channel| {
            let (signals, restorer) = channel.take_reset();
            (SignalSet(signals).difference(SignalSet::UNBLOCKABLE), restorer)
        })
    }

    /// From now on the thread's stub is behind `channel`.
    pub(crate) fn move_to(&mut self, channel: Arc<Channel>, process: &ProcessSignals, changed_actions: SignalSet) {
        let blocked = self.blocked();
        self.channel = Some(channel);
        self.set_blocked(blocked);
        self.tell_pending(process);
        self.tell_actions(changed_actions);
    }

    /// The same where the thread has its mask there already.
    pub(crate) fn find_in(&mut self, channel: Arc<Channel>, process: &ProcessSignals, changed_actions: SignalSet) {
        self.channel = Some(channel);
        self.tell_pending(process);
        self.tell_actions(changed_actions);
    }

    /// The channel is not the thread's any more.
    pub(crate) fn leave_channel(&mut self) {
        self.mask = self.blocked();
        self.channel = None;
    }
}

/// No alternate stack (sigaltstack(2)).
pub const DISABLED_STACK: SignalStack = SignalStack { base: 0, flags: skerry_abi::signal::SS_DISABLE, _padding: 0, size: 0 };

/// What a task does when it leaves the guest kernel; made by [`prepare_return`], carried out by the engine and the stub.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // made once per call and moved once: a box would cost more
pub enum Return {
    /// Goes on with this in rax (a value or -errno).
    Value(i64),
    /// Makes the same call again (the instruction pointer goes back over `syscall`).
    Restart,
    /// Goes on as it was, rax and all (after an interruption in its own code, or rt_sigreturn).
    AsIs,
    /// A handler runs first; `resume` is the state that its frame saves. Once the frame is built, `prepare_return` is
    /// called again without a result: more handlers may follow, each on top of the last one's frame.
    Handler { resume: Resume, frame: HandlerFrame },
    /// Fetches a frame, resuming so (by the call `entry`, if that is not 0), and asks again: its tracer is to see it.
    Show { resume: Resume, entry: u64 },
    /// The process is ending: the thread must not run any more.
    Gone,
}

/// The part of the state that a handler's frame saves which the guest kernel decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
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

#[cfg(test)]
mod tests;
