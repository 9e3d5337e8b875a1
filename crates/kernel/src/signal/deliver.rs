//! On the way out of the guest kernel: restarting calls, default actions, stopping, and which handler runs how
//! (signal(7), "Interruption of system calls and library functions by signal handlers"; sigaltstack(2)).

use super::action::{default_action, DefaultAction};
use super::mask::{retarget, set_blocked};
use super::send::{begin_stop, force_signal};
use super::{HandlerFrame, Resume, Return, StopState, DISABLED_STACK};
use crate::ptrace::{self, Due};
use crate::task::{exit, job_control, ExitStatus, Task};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general::{__NR_restart_syscall, RLIMIT_CORE};
use skerry_abi::signal::{
    SigAction, Signal, SignalInfo, SignalSet, SignalStack, CLD_STOPPED, SA_NODEFER, SA_ONSTACK, SA_RESETHAND, SA_RESTART,
    SIG_DFL, SIG_IGN, SS_AUTODISARM,
};
use std::sync::atomic::Ordering;

/// Where the call stands while signals are looked at.
enum Outcome {
    Settled(Resume),
    /// A restart code, which becomes something else depending on what is delivered.
    Interrupted(Errno),
}

impl Outcome {
    /// What rax shows to a tracer; `None`: what lies in the thread's frame.
    fn shown(&self) -> Option<u64> {
        match self {
            Outcome::Settled(Resume::Value(value)) => Some(*value as u64),
            Outcome::Settled(Resume::AsIs | Resume::Restart) => None,
            Outcome::Interrupted(errno) => Some(errno.as_return_value() as u64),
        }
    }

    /// The thread's tracer has seen it, and may have set its registers.
    fn take_over(&mut self, task: &Task, resumed: Option<ptrace::Resumed>) {
        let Some(resumed) = resumed.filter(|resumed| resumed.changed) else { return };
        let errno = Errno((resumed.rax as i64).wrapping_neg() as i32);
        let goes_on = resumed.orig_rax as i64 >= 0 && errno.as_return_value() as u64 == resumed.rax && is_restart_code(errno);
        let rax = if goes_on { resumed.orig_rax } else { resumed.rax };
        resumed.set_rax(task, rax);
        *self = if goes_on { Outcome::Interrupted(errno) } else { Outcome::Settled(Resume::AsIs) };
    }
}

fn is_restart_code(errno: Errno) -> bool {
    matches!(errno, Errno::ERESTARTSYS | Errno::ERESTARTNOINTR | Errno::ERESTARTNOHAND | Errno::ERESTART_RESTARTBLOCK)
}

/// What the task does now. `result` is its call's; `None` where it made no call (interrupted in its own code, after
/// rt_sigreturn, after a frame was built, or for the first time). Unless a handler is to run, the thread has left the
/// guest kernel when this returns: whoever sends a signal from then on kicks it.
pub fn prepare_return(context: &mut Context, result: Option<Result<u64>>) -> Return {
    let task = context.task;
    let mut outcome = match result {
        None => Outcome::Settled(Resume::AsIs),
        Some(Ok(value)) => Outcome::Settled(Resume::Value(value as i64)),
        Some(Err(errno)) if is_restart_code(errno) => Outcome::Interrupted(errno),
        Some(Err(errno)) => Outcome::Settled(Resume::Value(errno.as_return_value())),
    };
    if task.traced.load(Ordering::Acquire) {
        let resumed = ptrace::on_return(context, outcome.shown());
        outcome.take_over(task, resumed);
    }
    if let Outcome::Settled(resume) = outcome {
        let signals = task.signals.lock();
        if !task.interrupted.load(Ordering::Acquire) && signals.saved_mask.is_none() {
            task.in_kernel.store(false, Ordering::Release);
            return leave(resume);
        }
        drop(signals);
        // A call with a mask of its own that was not interrupted: its mask is over before signals are looked at.
        if resume != Resume::Value(Errno::EINTR.as_return_value()) && resume != Resume::AsIs {
            restore_mask(task);
        }
    }
    look_at_signals(context, outcome)
}

/// The thread, or its whole process, is to end.
pub(crate) fn is_dying(task: &Task) -> bool {
    task.process().signals.lock().group_exit.is_some() || task.signals.lock().killed
}

/// Leaves the guest kernel for the call that the thread has shown to its tracer; whether a signal is to be looked at behind that.
/// Its stub asks then in any case, so that nobody need kick it.
pub(crate) fn leave_for_call(task: &Task) -> bool {
    let _signals = task.signals.lock();
    task.in_kernel.store(false, Ordering::Release);
    task.interrupted.load(Ordering::Acquire)
}

/// Leaves the guest kernel if no signal is to be looked at; else nothing has changed, and `prepare_return` is due.
pub(crate) fn try_leave(task: &Task) -> bool {
    let signals = task.signals.lock();
    let free = !task.interrupted.load(Ordering::Acquire) && signals.saved_mask.is_none();
    if free {
        task.in_kernel.store(false, Ordering::Release);
    }
    free
}

fn leave(resume: Resume) -> Return {
    match resume {
        Resume::Value(value) => Return::Value(value),
        Resume::Restart => Return::Restart,
        Resume::AsIs => Return::AsIs,
    }
}

/// Puts back the mask from before the call, if the call had one of its own.
fn restore_mask(task: &Task) -> bool {
    let Some(mask) = task.signals.lock().saved_mask.take() else { return false };
    set_blocked(task, mask);
    true
}

fn look_at_signals(context: &mut Context, mut outcome: Outcome) -> Return {
    let task = context.task;
    // A signal that the tracer lets through.
    let mut injected = None;
    loop {
        match next_step(task, injected.take()) {
            Step::Gone => return Return::Gone,
            Step::Show => {
                let (resume, entry) = match outcome {
                    Outcome::Settled(resume) => (resume, 0),
                    Outcome::Interrupted(Errno::ERESTART_RESTARTBLOCK) => (Resume::Restart, __NR_restart_syscall.into()),
                    Outcome::Interrupted(_) => (Resume::Restart, 0),
                };
                return Return::Show { resume, entry };
            }
            Step::Trap { stopped_by, group_stop, all_stopped } => {
                if let Some(signal) = all_stopped {
                    job_control::tell_parent(task.process(), CLD_STOPPED, signal);
                }
                let resumed = ptrace::trap(context, stopped_by, group_stop, outcome.shown());
                outcome.take_over(task, resumed);
            }
            Step::ShowSignal(info) => {
                let resumed = ptrace::signal_stop(context, info, outcome.shown());
                injected = resumed.as_ref().and_then(|resumed| resumed.signal());
                outcome.take_over(task, resumed);
                // It may be another one now, which the thread blocks.
                let blocked = task.signals.lock().blocked();
                if injected.and_then(|info| info.signal()).is_some_and(|signal| blocked.contains(signal)) {
                    injected.take().into_iter().for_each(|info| task.send_signal(info));
                }
            }
            Step::End(status) => {
                ptrace::exiting(context, status);
                exit::exit_group(task, status);
                return Return::Gone;
            }
            Step::Stop { all_stopped } => {
                if let Some(signal) = all_stopped {
                    job_control::tell_parent(task.process(), CLD_STOPPED, signal);
                }
                sleep_while_stopped(context);
            }
            Step::AskToStop { signal, continues } => {
                let ignored =
                    signal != Signal::SIGSTOP && job_control::is_orphaned(&task.process().group(), task.kernel(), None);
                let mut process_signals = task.process().signals.lock();
                // SIGCONT may have come while nothing was locked; it cancels the stop.
                if !ignored && process_signals.continues == continues {
                    begin_stop(task.process(), &mut process_signals, signal);
                }
            }
            Step::Handle { info, action } => {
                let resume = match outcome {
                    Outcome::Settled(resume) => resume,
                    Outcome::Interrupted(Errno::ERESTARTNOINTR) => Resume::Restart,
                    Outcome::Interrupted(Errno::ERESTARTSYS) if action.flags & SA_RESTART != 0 => Resume::Restart,
                    Outcome::Interrupted(_) => Resume::Value(Errno::EINTR.as_return_value()),
                };
                let frame = enter_handler(task, context.stack_pointer(), info, action);
                return Return::Handler { resume, frame };
            }
            Step::Nothing => {
                if let Outcome::Interrupted(errno) = outcome {
                    outcome = go_on(context, errno);
                    continue;
                }
                if restore_mask(task) {
                    continue;
                }
                let signals = task.signals.lock();
                if task.interrupted.load(Ordering::Acquire) {
                    continue;
                }
                task.in_kernel.store(false, Ordering::Release);
                drop(signals);
                return match outcome {
                    Outcome::Settled(resume) => leave(resume),
                    Outcome::Interrupted(_) => Return::Restart,
                };
            }
        }
    }
}

/// No handler runs, so an interrupted call goes on: from the start, or as its restart block says (which the guest
/// would ask for by restart_syscall(2); here nothing is gained by leaving the guest kernel first).
fn go_on(context: &mut Context, errno: Errno) -> Outcome {
    if errno != Errno::ERESTART_RESTARTBLOCK {
        return Outcome::Settled(Resume::Restart);
    }
    let block = context.task.restart.lock().take();
    context.forget_marshalled();
    match block.map_or(Err(Errno::EINTR), |block| block(context)) {
        Ok(value) => Outcome::Settled(Resume::Value(value as i64)),
        Err(errno) if is_restart_code(errno) => Outcome::Interrupted(errno),
        Err(errno) => Outcome::Settled(Resume::Value(errno.as_return_value())),
    }
}

enum Step {
    Nothing,
    Gone,
    /// There is something for the thread's tracer to see, for which it has to bring a frame.
    Show,
    /// It stops for its tracer: `stopped_by` what its process is stopped by, in its stop of this number. With `all_stopped` it
    /// was the last one.
    Trap {
        stopped_by: Option<Signal>,
        group_stop: u64,
        all_stopped: Option<Signal>,
    },
    /// A signal that was taken is to be seen by the tracer first.
    ShowSignal(SignalInfo),
    End(ExitStatus),
    /// The thread has been counted as stopped; with `all_stopped` as the last one, and the parent is to be told.
    Stop {
        all_stopped: Option<Signal>,
    },
    /// A stop signal was taken; whether it has effect depends on the process group.
    AskToStop {
        signal: Signal,
        continues: u64,
    },
    Handle {
        info: SignalInfo,
        action: SigAction,
    },
}

/// `injected`: the signal that is to be acted on first.
fn next_step(task: &Task, mut injected: Option<SignalInfo>) -> Step {
    let is_traced = task.traced.load(Ordering::Acquire);
    let can_show = is_traced && ptrace::can_show(task);
    let process = task.process();
    let mut process_signals = process.signals.lock();
    let process_signals = &mut *process_signals;
    let living = process.threads.lock().len();
    let mut signals = task.signals.lock();
    loop {
        if process_signals.group_exit.is_some() || signals.killed {
            return Step::Gone;
        }
        let due = if is_traced { ptrace::due(task, process_signals.stop, process_signals.stops) } else { Due::Nothing };
        if due != Due::Nothing && !can_show {
            return Step::Show;
        }
        if matches!(due, Due::Group(_)) || !is_traced && process_signals.stop != StopState::Running {
            if !signals.stopped {
                signals.stopped = true;
                process_signals.stopped_threads += 1;
            }
            let all_stopped = complete_stop(process_signals, living);
            return match due {
                Due::Group(signal) => Step::Trap { stopped_by: Some(signal), group_stop: process_signals.stops, all_stopped },
                _ => Step::Stop { all_stopped },
            };
        }
        if let Due::Interrupt(stopped_by) = due {
            return Step::Trap { stopped_by, group_stop: process_signals.stops, all_stopped: None };
        }
        let wanted = SignalSet::FULL.difference(signals.blocked());
        let is_there = || !process_signals.pending.set.union(signals.pending.set).intersection(wanted).is_empty();
        if is_traced && !can_show && injected.is_none() && is_there() {
            return Step::Show;
        }
        let was_injected = injected.is_some();
        let taken = injected.take().or_else(|| signals.pending.take_synchronous(wanted));
        let taken = taken.or_else(|| signals.pending.take(wanted)).or_else(|| process_signals.pending.take(wanted));
        let Some((info, signal)) = taken.and_then(|info| info.signal().map(|signal| (info, signal))) else {
            task.interrupted.store(false, Ordering::Release);
            signals.tell_pending(process_signals);
            // The thread may have been told of some of these before it blocked them.
            let others_needed = process_signals.pending.set.intersection(signals.blocked());
            drop(signals);
            if !others_needed.is_empty() {
                retarget(process, task, others_needed);
            }
            return Step::Nothing;
        };
        if is_traced && !was_injected && signal != Signal::SIGKILL {
            return Step::ShowSignal(info);
        }
        let action = {
            let mut actions = process.actions.lock();
            let present = &mut actions[signal.number() as usize - 1];
            let action = *present;
            if action.handler > SIG_IGN && action.flags & SA_RESETHAND != 0 {
                present.handler = SIG_DFL;
            }
            action
        };
        match (action.handler, default_action(signal)) {
            (SIG_IGN, _) | (SIG_DFL, DefaultAction::Ignore | DefaultAction::Continue) => {}
            (SIG_DFL, DefaultAction::Stop) => return Step::AskToStop { signal, continues: process_signals.continues },
            (SIG_DFL, DefaultAction::Terminate) => return Step::End(ExitStatus::Signaled(signal, false)),
            (SIG_DFL, DefaultAction::Core) => {
                let core = process.rlimit(RLIMIT_CORE).current > 0 && process.dumpable.load(Ordering::Relaxed);
                return Step::End(ExitStatus::Signaled(signal, core));
            }
            _ => return Step::Handle { info, action },
        }
    }
}

/// Whether the stop is complete now that a thread has stopped or ended: then the signal that the parent is told of.
pub(crate) fn complete_stop(signals: &mut super::ProcessSignals, living: usize) -> Option<Signal> {
    match signals.stop {
        StopState::Stopping(signal) if signals.stopped_threads >= living => {
            signals.stop = StopState::Stopped(signal);
            signals.stop_untold = Some(signal);
            Some(signal)
        }
        _ => None,
    }
}

/// Sleeps until the process is continued, or the thread is to end.
fn sleep_while_stopped(context: &Context) {
    let task = context.task;
    loop {
        {
            let mut process_signals = task.process().signals.lock();
            let mut signals = task.signals.lock();
            let is_over = process_signals.stop == StopState::Running || !signals.stopped;
            // Who is traced stops for its tracer.
            if process_signals.group_exit.is_some() || is_over || task.traced.load(Ordering::Acquire) {
                return;
            }
            if signals.killed {
                signals.stopped = false;
                process_signals.stopped_threads = process_signals.stopped_threads.saturating_sub(1);
                return;
            }
        }
        context.sleep_uninterrupted(None);
    }
}

/// Changes mask and alternate stack for a handler and says what its frame saves.
fn enter_handler(task: &Task, stack_pointer: u64, info: SignalInfo, action: SigAction) -> HandlerFrame {
    let process = task.process();
    let process_signals = process.signals.lock();
    let mut signals = task.signals.lock();
    let before = signals.blocked();
    let saved_mask = signals.saved_mask.take().unwrap_or(before);
    let mut blocked = before.union(action.mask);
    if let (Some(signal), 0) = (info.signal(), action.flags & SA_NODEFER) {
        blocked.insert(signal);
    }
    signals.set_blocked(blocked);
    let saved_stack = signals.stack;
    let switch = action.flags & SA_ONSTACK != 0 && saved_stack.size != 0 && !is_on_stack(&saved_stack, stack_pointer);
    let stack_top = switch.then(|| saved_stack.base.wrapping_add(saved_stack.size));
    if saved_stack.flags & SS_AUTODISARM != 0 {
        signals.stack = DISABLED_STACK;
    }
    let others_needed = process_signals.pending.set.intersection(signals.blocked().difference(before));
    drop(signals);
    if !others_needed.is_empty() {
        retarget(process, task, others_needed);
    }
    HandlerFrame { info, action, saved_mask, saved_stack, stack_top }
}

/// Whether code whose stack pointer is this runs on the alternate stack (never so where it disarms itself).
pub(crate) fn is_on_stack(stack: &SignalStack, stack_pointer: u64) -> bool {
    stack.flags & SS_AUTODISARM == 0 && stack_pointer > stack.base && stack_pointer - stack.base <= stack.size
}

/// The frame of a handler could not be written: the task gets SIGSEGV, which kills where SIGSEGV's own frame failed.
/// `prepare_return` is to be called again, without a result.
pub fn frame_failed(context: &mut Context, frame: &HandlerFrame) {
    let task = context.task;
    if frame.info.signal() == Some(Signal::SIGSEGV) {
        task.process().actions.lock()[Signal::SIGSEGV.number() as usize - 1].handler = SIG_DFL;
    }
    set_blocked(task, frame.saved_mask);
    force_signal(task, SignalInfo::kernel(Signal::SIGSEGV));
}

/// rt_sigreturn(2): `mask` and `stack` are what the frame holds; both are the guest's and may be anything.
/// `prepare_return` follows, without a result.
pub fn after_signal_return(context: &mut Context, mask: SignalSet, stack: SignalStack) {
    *context.task.restart.lock() = None;
    // As Linux does, a stack that is not valid is passed over in silence.
    let _ = super::stack::set_stack(context.task, context.stack_pointer(), stack);
    set_blocked(context.task, mask);
}
