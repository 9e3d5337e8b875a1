//! Who traces whom: PTRACE_TRACEME, PTRACE_ATTACH, PTRACE_SEIZE, children that are traced from their start, and ends.

use super::watch::DebugRegisters;
use super::{Mode, Tracing};
use crate::sync::Wake;
use crate::syscall::system::may_inspect;
use crate::task::credentials::CAP_SYS_PTRACE;
use crate::task::{ExitStatus, Process, Task};
use crate::{Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::raw::ptrace as raw;
use skerry_abi::signal::{Signal, SignalInfo, SI_USER};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

bitflags::bitflags! {
    /// PTRACE_SETOPTIONS.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Options: u32 {
        const TRACESYSGOOD = raw::PTRACE_O_TRACESYSGOOD;
        const TRACEFORK = raw::PTRACE_O_TRACEFORK;
        const TRACEVFORK = raw::PTRACE_O_TRACEVFORK;
        const TRACECLONE = raw::PTRACE_O_TRACECLONE;
        const TRACEEXEC = raw::PTRACE_O_TRACEEXEC;
        const TRACEVFORKDONE = raw::PTRACE_O_TRACEVFORKDONE;
        const TRACEEXIT = raw::PTRACE_O_TRACEEXIT;
        const TRACESECCOMP = raw::PTRACE_O_TRACESECCOMP;
        const EXITKILL = raw::PTRACE_O_EXITKILL;
    }
}

impl Options {
    /// Whether the tracer is to be told of an event (PTRACE_EVENT_*).
    pub(crate) fn wants(self, event: u32) -> bool {
        event < 32 && self.bits() & (1 << event) != 0
    }
}

/// By the thread `tracer_tid` of `tracer`.
fn tracing_by(tracer: &Arc<Process>, tracer_tid: i32, seized: bool, options: Options) -> Tracing {
    Tracing {
        tracer: Arc::downgrade(tracer),
        tracer_tid,
        seized,
        options,
        mode: Mode::Cont,
        stop: None,
        untold: None,
        message: 0,
        interrupted: false,
        group_stop: 0,
        shown: None,
        call: None,
        due: None,
        executed: None,
        stepping: false,
        debug: DebugRegisters::default(),
        ended: None,
    }
}

/// From here on `tracing` says who traces the task. EPERM where somebody does.
fn begin(tracer: &Arc<Process>, target: &Arc<Task>, tracing: Tracing) -> Result<()> {
    {
        let mut state = target.ptrace.lock();
        if state.is_some() {
            return Err(Errno::EPERM);
        }
        *state = Some(tracing);
    }
    tracer.tracees.lock().push(target.clone());
    if target.is_leader() {
        *target.process().tracer.lock() = Arc::downgrade(tracer);
    }
    target.traced.store(true, Ordering::Release);
    target.tell_identity();
    Ok(())
}

/// PTRACE_TRACEME: the caller's parent traces it. EPERM where it is traced already.
pub fn trace_me(task: &Arc<Task>) -> Result<()> {
    let parent = task.process().parent().ok_or(Errno::EPERM)?;
    let tracer_tid = task.process().relations.lock().parent_thread;
    let tracer = parent.threads.lock().iter().find(|thread| thread.tid() == tracer_tid).cloned();
    let tracer = tracer.or_else(|| parent.leader_or_any()).ok_or(Errno::EPERM)?;
    begin(&parent, task, tracing_by(&parent, tracer.tid(), false, Options::default()))
}

/// PTRACE_ATTACH, PTRACE_SEIZE. EPERM where the caller may not, or somebody traces it; ESRCH: it is dead.
pub fn attach(tracer: &Arc<Task>, target: &Arc<Task>, seizes: Option<u32>) -> Result<()> {
    let process = target.process();
    if Arc::ptr_eq(process, tracer.process()) || process.is_init() || !may_inspect(tracer, process) {
        return Err(Errno::EPERM);
    }
    if process.is_dead() || target.is_gone() {
        return Err(Errno::ESRCH);
    }
    let options = Options::from_bits(seizes.unwrap_or(0)).ok_or(Errno::EIO)?;
    begin(tracer.process(), target, tracing_by(tracer.process(), tracer.tid(), seizes.is_some(), options))?;
    if seizes.is_none() {
        target.send_signal(SignalInfo::user(Signal::SIGSTOP, SI_USER, tracer.process().pid(), tracer.credentials().ruid));
    }
    // One that is stopped already stops for its tracer.
    target.waiter().wake();
    Ok(())
}

/// A thread has made another one, which has not begun: whoever traces its maker traces it, too, where that was asked for.
pub(crate) fn cloned(maker: &Task, child: &Arc<Task>, flags: u64, exit_signal: i32) {
    let has = |flag: u32| flags & u64::from(flag) != 0;
    let event = if has(linux::CLONE_VFORK) {
        raw::PTRACE_EVENT_VFORK
    } else if exit_signal == Signal::SIGCHLD.number() && !has(linux::CLONE_THREAD) {
        raw::PTRACE_EVENT_FORK
    } else {
        raw::PTRACE_EVENT_CLONE
    };
    let inherited = {
        let mut state = maker.ptrace.lock();
        let Some(tracing) = state.as_mut() else { return };
        let wants = tracing.options.wants(event) && !has(linux::CLONE_UNTRACED);
        if wants {
            tracing.due = Some((event, child.tid() as u64));
        }
        if !wants && !has(linux::CLONE_PTRACE) {
            return;
        }
        let Some(tracer) = tracing.tracer.upgrade() else { return };
        (tracer, tracing.tracer_tid, tracing.seized, tracing.options)
    };
    let (tracer, tracer_tid, seized, options) = inherited;
    let tracing = Tracing { interrupted: seized, ..tracing_by(&tracer, tracer_tid, seized, options) };
    if begin(&tracer, child, tracing).is_ok() {
        let mut signals = child.signals.lock();
        if !seized {
            let _ = signals.pending.push(SignalInfo::user(Signal::SIGSTOP, SI_USER, 0, 0), u64::MAX);
        }
        drop(signals);
        child.interrupted.store(true, Ordering::Release);
    }
}

/// The task's program is another one now; `former` is the id that the thread had.
pub(crate) fn executed(task: &Task, former: i32) {
    if let Some(tracing) = task.ptrace.lock().as_mut() {
        tracing.executed = Some(former);
        // What it was is in memory that there is not any more.
        tracing.shown = None;
        tracing.debug = DebugRegisters::default();
    }
}

/// Whoever traces the task has fewer rights than a set-user-ID program would give it: it gets none (execve(2)).
pub(crate) fn is_overlooked(task: &Task) -> bool {
    task.ptrace.tracer().is_some_and(|tracer| !tracer.credentials().has_capability(CAP_SYS_PTRACE))
}

/// Nobody traces it any more; it goes on if it was stopped.
pub(crate) fn detach(target: &Arc<Task>) {
    let Some(tracing) = target.ptrace.end() else { return };
    if let Some(tracer) = tracing.tracer.upgrade() {
        tracer.tracees.lock().retain(|other| !Arc::ptr_eq(other, target));
    }
    if target.is_leader() {
        *target.process().tracer.lock() = Weak::new();
    }
    target.traced.store(false, Ordering::Release);
    target.tell_identity();
    target.waiter().wake();
}

/// The thread has ended. A leader is waited for as its process is; of others their tracer hears here.
pub(crate) fn thread_gone(task: &Arc<Task>) {
    let status = task.signals.lock().status.unwrap_or(ExitStatus::Exited(0));
    let tracer = {
        let mut state = task.ptrace.lock();
        let Some(tracing) = state.as_mut() else { return };
        tracing.stop = None;
        tracing.untold = None;
        tracing.ended = Some(status);
        tracing.tracer.upgrade()
    };
    match tracer {
        Some(tracer) => tracer.child_queue.wake_all(),
        None => detach(task),
    }
}

/// A thread that traced others is gone; with `thread` it alone. They go on by themselves, or die where the tracer wanted that.
pub(crate) fn tracer_gone(process: &Process, thread: Option<i32>) {
    let tracees = process.tracees.lock().clone();
    for tracee in tracees {
        let options = {
            let state = tracee.ptrace.lock();
            let Some(tracing) = state.as_ref() else { continue };
            if thread.is_some_and(|thread| thread != tracing.tracer_tid) {
                continue;
            }
            tracing.options
        };
        detach(&tracee);
        if options.contains(Options::EXITKILL) {
            tracee.process().send_signal(SignalInfo::kernel(Signal::SIGKILL));
        }
        // Its parent was to wait for its tracer.
        if let Some(parent) = tracee.process().parent() {
            parent.child_queue.wake_all();
        }
    }
}
