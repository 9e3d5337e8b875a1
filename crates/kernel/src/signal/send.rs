//! Sending: who may (kill(2)), what is dropped, which thread hears of it, and what job control does at once.

use super::action::{is_ignored_by_default, CONTINUE_SIGNAL, STOP_SIGNALS};
use super::{ProcessSignals, StopState, TaskSignals};
use crate::run;
use crate::sync::Wake;
use crate::task::credentials::CAP_KILL;
use crate::task::{exit, job_control, ExitStatus, Process, Task};
use crate::{Errno, Result};
use skerry_abi::raw::general::RLIMIT_SIGPENDING;
use skerry_abi::signal::{SigAction, Signal, SignalInfo, SignalSet, CLD_CONTINUED, CLD_STOPPED, SA_RESTORER, SIG_DFL, SIG_IGN};
use std::sync::atomic::Ordering;

/// Queues a process-directed signal. No lock of this room or of the tree's relations may be held.
pub fn send_to_process(process: &Process, info: SignalInfo) {
    let _ = try_send_to_process(process, info);
}

/// Queues a thread-directed signal. As [`send_to_process`].
pub fn send_to_task(task: &Task, info: SignalInfo) {
    let _ = try_send_to_task(task, info);
}

/// As [`send_to_process`]; EAGAIN where the queue is full (sigqueue(3)).
pub fn try_send_to_process(process: &Process, info: SignalInfo) -> Result<()> {
    send(process, None, info)
}

/// As [`send_to_task`]; EAGAIN where the queue is full.
pub fn try_send_to_task(task: &Task, info: SignalInfo) -> Result<()> {
    send(task.process(), Some(task), info)
}

/// kill(2)'s permission: EPERM. `signal` is `None` for the null signal.
pub fn may_send(sender: &Task, target: &Process, signal: Option<Signal>) -> Result<()> {
    if std::ptr::eq(&**sender.process(), target) {
        return Ok(());
    }
    let mine = sender.credentials();
    let theirs = target.credentials();
    if [mine.ruid, mine.euid].iter().any(|uid| *uid == theirs.ruid || *uid == theirs.suid) || mine.has_capability(CAP_KILL) {
        return Ok(());
    }
    if signal == Some(Signal::SIGCONT) && sender.process().session().id == target.session().id {
        return Ok(());
    }
    Err(Errno::EPERM)
}

/// Ends the task's sleep, or makes it enter the guest kernel. The caller holds its `signals`.
pub(crate) fn interrupt(task: &Task, _signals: &TaskSignals) {
    // Nobody leaves the guest kernel while this is set: one that is set and runs its own code has been kicked, and a
    // storm of signals must not become a storm of kicks.
    let told_before = task.interrupted.swap(true, Ordering::AcqRel);
    // In any case: a thread may be entering right now, unseen, and about to sleep; the waiter remembers.
    task.waiter().wake();
    if !told_before && !task.in_kernel.load(Ordering::Acquire) {
        if let Some(host) = &*task.host.read() {
            host.kick();
        }
    }
}

/// What is left to do once the locks are released.
#[derive(Default)]
struct Afterwards {
    /// CLD_STOPPED or CLD_CONTINUED, and the signal.
    tell_parent: Option<(i32, Signal)>,
    kill_host: bool,
}

fn send(process: &Process, target: Option<&Task>, info: SignalInfo) -> Result<()> {
    let Some(signal) = info.signal() else { return Ok(()) };
    // Pid 1 has no handler for anything, and what has none does not reach it (kill(2), NOTES).
    if process.is_init() || process.is_dead() {
        return Ok(());
    }
    // Whom it has to find, or stop, is known from here on.
    run::take_births_back(process.kernel(), Some(process));
    run::find_infant(process);
    let mut afterwards = Afterwards::default();
    let result = {
        let mut process_signals = process.signals.lock();
        if process_signals.group_exit.is_some() {
            return Ok(());
        }
        change_job_state(process, &mut process_signals, signal, &mut afterwards);
        if signal == Signal::SIGKILL {
            begin_group_exit(process, &mut process_signals, ExitStatus::Signaled(signal, false));
            afterwards.kill_host = true;
            Ok(())
        } else if is_dropped(process, target, signal) {
            Ok(())
        } else {
            let limit = process.rlimit(RLIMIT_SIGPENDING).current;
            match target {
                Some(task) => {
                    let mut signals = task.signals.lock();
                    let pushed = signals.pending.push(info, limit);
                    if pushed == Ok(true) && !signals.offer(SignalSet::single(signal)).is_empty() {
                        interrupt(task, &signals);
                    }
                    pushed.map(drop)
                }
                None => {
                    let pushed = process_signals.pending.push(info, limit);
                    if pushed == Ok(true) {
                        tell_one_thread(process, signal);
                    }
                    pushed.map(drop)
                }
            }
        }
    };
    process.signal_queue.wake_all();
    if let Some((code, signal)) = afterwards.tell_parent {
        job_control::tell_parent(process, code, signal);
    }
    if afterwards.kill_host {
        exit::kill_host(process);
    }
    result
}

/// Ignored signals vanish when they are sent, unless they are blocked (the disposition may change meanwhile).
pub(crate) fn is_dropped(process: &Process, target: Option<&Task>, signal: Signal) -> bool {
    let handler = process.actions.lock()[signal.number() as usize - 1].handler;
    if handler != SIG_IGN && !(handler == SIG_DFL && is_ignored_by_default(signal)) {
        return false;
    }
    let keeps = |task: &Task| task.traced.load(Ordering::Relaxed) || task.signals.lock().blocked().contains(signal);
    match target {
        Some(task) => !keeps(task),
        None => !process.threads.lock().first().is_some_and(|leader| keeps(leader)),
    }
}

/// Whether a job-control signal from the terminal has no effect on the caller (termios(3), TOSTOP; tcsetpgrp(3)).
pub fn is_blocked_or_ignored(task: &Task, signal: Signal) -> bool {
    task.signals.lock().blocked().contains(signal)
        || task.process().actions.lock()[signal.number() as usize - 1].handler == SIG_IGN
}

/// The leader first, else anyone who does not block it.
fn tell_one_thread(process: &Process, signal: Signal) {
    for task in process.threads.lock().iter() {
        let signals = task.signals.lock();
        if !signals.killed && !signals.offer(SignalSet::single(signal)).is_empty() {
            interrupt(task, &signals);
            return;
        }
    }
}

/// Stop signals and SIGCONT cancel each other; SIGCONT and SIGKILL end a stop even where they are blocked or ignored.
fn change_job_state(process: &Process, signals: &mut ProcessSignals, signal: Signal, afterwards: &mut Afterwards) {
    if STOP_SIGNALS.contains(signal) {
        flush(process, signals, CONTINUE_SIGNAL);
    } else if signal == Signal::SIGCONT {
        flush(process, signals, STOP_SIGNALS);
        signals.continues = signals.continues.wrapping_add(1);
        match std::mem::take(&mut signals.stop) {
            StopState::Running => return,
            StopState::Stopping(stop) => afterwards.tell_parent = Some((CLD_STOPPED, stop)),
            StopState::Stopped(_) => {
                signals.continue_untold = true;
                signals.stop_untold = None;
                afterwards.tell_parent = Some((CLD_CONTINUED, Signal::SIGCONT));
            }
        }
        wake_stopped(process, signals);
    }
}

/// Ends the sleep of threads that have stopped; `stop` is `Running` already, or the process is to die.
fn wake_stopped(process: &Process, signals: &mut ProcessSignals) {
    signals.stopped_threads = 0;
    for task in process.threads.lock().iter() {
        task.signals.lock().stopped = false;
        task.waiter().wake();
    }
}

fn flush(process: &Process, signals: &mut ProcessSignals, unwanted: SignalSet) {
    signals.pending.flush(unwanted);
    for task in process.threads.lock().iter() {
        task.signals.lock().pending.flush(unwanted);
    }
}

/// Marks the process as ending and makes all its threads notice. The caller then calls `exit::kill_host`.
pub(crate) fn begin_group_exit(process: &Process, signals: &mut ProcessSignals, status: ExitStatus) {
    if signals.group_exit.is_some() {
        return;
    }
    signals.group_exit = Some(status);
    signals.stop = StopState::Running;
    wake_stopped(process, signals);
    for task in process.threads.lock().iter() {
        interrupt(task, &task.signals.lock());
    }
}

/// A stop signal took effect: every thread is to stop at its next return. The caller holds no thread's `signals`.
pub(super) fn begin_stop(process: &Process, signals: &mut ProcessSignals, signal: Signal) {
    if signals.stop != StopState::Running || signals.group_exit.is_some() {
        return;
    }
    signals.stop = StopState::Stopping(signal);
    signals.stops = signals.stops.wrapping_add(1);
    signals.stopped_threads = 0;
    signals.continue_untold = false;
    for task in process.threads.lock().iter() {
        interrupt(task, &task.signals.lock());
    }
}

/// A signal that cannot be put off: a fault of the task's own. Blocked or ignored, it has its default effect.
pub fn force_signal(task: &Task, info: SignalInfo) {
    let Some(signal) = info.signal() else { return };
    let process = task.process();
    let process_signals = process.signals.lock();
    if process_signals.group_exit.is_some() {
        return;
    }
    let mut signals = task.signals.lock();
    {
        let mut actions = process.actions.lock();
        let action = &mut actions[signal.number() as usize - 1];
        let mut blocked = signals.blocked();
        if blocked.contains(signal) || action.handler == SIG_IGN {
            action.handler = SIG_DFL;
            blocked.remove(signal);
            signals.set_blocked(blocked);
        }
    }
    // One of the same number that somebody sent must not hide this one.
    signals.pending.flush(SignalSet::single(signal));
    let _ = signals.pending.push(info, u64::MAX);
    interrupt(task, &signals);
}

/// Another disposition (sigaction(2)); returns the one before. A signal that is now ignored is no longer pending.
pub(crate) fn set_action(process: &Process, signal: Signal, action: SigAction) -> SigAction {
    let mut signals = process.signals.lock();
    let before = std::mem::replace(&mut process.actions.lock()[signal.number() as usize - 1], action);
    if action.handler == SIG_IGN || (action.handler == SIG_DFL && is_ignored_by_default(signal)) {
        flush(process, &mut signals, SignalSet::single(signal));
    }
    tell_actions(process, &signals);
    before
}

/// The dispositions are to be as the thread's stub has left them. To be called before they are looked at whole, or others
/// get them.
pub(crate) fn take_over_reset(task: &Task) {
    let process = task.process();
    let process_signals = process.signals.lock();
    let (signals, restorer) = task.signals.lock().take_reset();
    if signals.is_empty() {
        return;
    }
    for (index, action) in process.actions.lock().iter_mut().enumerate() {
        if signals.0 >> index & 1 != 0 && action.is_initial() {
            *action = SigAction { flags: SA_RESTORER, restorer, ..SigAction::default() };
        }
    }
    tell_actions(process, &process_signals);
}

/// The stubs of all threads are to know which dispositions have changed.
pub(crate) fn tell_actions(process: &Process, _signals: &ProcessSignals) {
    let changed = process.actions.changed();
    for task in process.threads.lock().iter() {
        task.signals.lock().tell_actions(changed);
    }
}

/// A thread ends: others get the process-directed signals that it was told of.
pub(crate) fn hand_over_pending(task: &Task) {
    let process = task.process();
    if !process.signals.lock().pending.set.is_empty() {
        run::take_births_back(process.kernel(), Some(process));
    }
    let process_signals = process.signals.lock();
    let wanted = {
        let mut signals = task.signals.lock();
        signals.killed = true;
        process_signals.pending.set.difference(signals.blocked())
    };
    if !wanted.is_empty() {
        super::mask::retarget(process, task, wanted);
    }
}
