//! wait(2): which child has what to tell.

use super::usage::to_rusage;
use super::{Process, Task};
use crate::ptrace;
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::signal::{Signal, CLD_CONTINUED, CLD_STOPPED, CLD_TRAPPED};
use skerry_abi::structs::RUsage;
use std::sync::atomic::Ordering;
use std::sync::Arc;

bitflags::bitflags! {
    /// wait4(2), waitid(2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct WaitOptions: u32 {
        const NOHANG = 1;
        /// WUNTRACED, WSTOPPED.
        const STOPPED = 2;
        const EXITED = 4;
        const CONTINUED = 8;
        const NOWAIT = 0x0100_0000;
        const NOTHREAD = 0x2000_0000;
        const ALL = 0x4000_0000;
        const CLONE = 0x8000_0000;
    }
}

/// Which children are meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Select {
    Any,
    Process(i32),
    Group(i32),
}

/// What a child had to tell.
#[derive(Clone)]
pub struct Waited {
    pub pid: i32,
    pub uid: u32,
    /// CLD_*.
    pub code: i32,
    /// Exit status or signal number.
    pub value: i32,
    /// As wait4(2) encodes it.
    pub status: i32,
    child: Arc<Process>,
}

impl Waited {
    /// What the child and its children have used. May wait for a moment: until the host process is dead as well.
    pub fn usage(&self) -> RUsage {
        if let Some(parent) = self.child.parent() {
            parent.asks_for_usage();
        }
        to_rusage(self.child.usage().plus(self.child.children_usage()))
    }
}

/// Waits for a child; `None` with WNOHANG where none has anything to tell. ECHILD where there is none at all.
pub fn wait(context: &Context, select: Select, options: WaitOptions) -> Result<Option<Waited>> {
    let attempt = || look(context, select, options);
    if options.contains(WaitOptions::NOHANG) {
        return match attempt() {
            Ok(waited) => Ok(Some(waited)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(errno),
        };
    }
    context.block_on(&context.process().child_queue, None, attempt).map(Some)
}

fn look(context: &Context, select: Select, options: WaitOptions) -> Result<Waited> {
    let kernel = context.kernel();
    let parent = context.process();
    let _tree = kernel.tree.lock();
    let children: Vec<Arc<Process>> = parent.relations.lock().children.clone();
    let mut error = Errno::ECHILD;
    for child in children.iter().filter(|child| is_eligible(context, child, select, options)) {
        error = Errno::EAGAIN;
        if let Some(waited) = ask(kernel, parent, child, options) {
            return Ok(waited);
        }
    }
    let tracees = parent.tracees.lock().clone();
    for tracee in tracees.iter().filter(|tracee| is_eligible_tracee(context, tracee, select, options)) {
        error = Errno::EAGAIN;
        if let Some(waited) = ask_tracee(parent, tracee, options) {
            return Ok(waited);
        }
    }
    Err(error)
}

fn is_eligible(context: &Context, child: &Process, select: Select, options: WaitOptions) -> bool {
    is_selected(child, None, select, options)
        && (!options.contains(WaitOptions::NOTHREAD) || child.relations.lock().parent_thread == context.task.tid())
}

/// Whether a process is meant, or the `thread` of it that has an id of its own.
fn is_selected(process: &Process, thread: Option<i32>, select: Select, options: WaitOptions) -> bool {
    let selected = match select {
        Select::Any => true,
        Select::Process(pid) => thread.unwrap_or(process.pid()) == pid,
        Select::Group(group) => process.group().id == group,
    };
    let is_clone_child = thread.is_some() || process.exit_signal.load(Ordering::Relaxed) != Signal::SIGCHLD.number();
    selected && (options.contains(WaitOptions::ALL) || is_clone_child == options.contains(WaitOptions::CLONE))
}

fn is_eligible_tracee(context: &Context, tracee: &Task, select: Select, options: WaitOptions) -> bool {
    let thread = (!tracee.is_leader()).then(|| tracee.tid());
    let is_own = || tracee.ptrace.lock().as_ref().is_some_and(|tracing| tracing.tracer_tid == context.task.tid());
    is_selected(tracee.process(), thread, select, options) && (!options.contains(WaitOptions::NOTHREAD) || is_own())
}

/// What a tracee has to tell its tracer (ptrace(2)): that it has stopped, or its end, unless that is its parent's to wait for.
fn ask_tracee(tracer: &Arc<Process>, tracee: &Arc<Task>, options: WaitOptions) -> Option<Waited> {
    let consume = !options.contains(WaitOptions::NOWAIT);
    let process = tracee.process();
    let waited = |code: i32, value: i32, status: i32| Waited {
        pid: tracee.tid(),
        uid: tracee.credentials().ruid,
        code,
        value,
        status,
        child: process.clone(),
    };
    let (untold, ended) = {
        let mut state = tracee.ptrace.lock();
        let tracing = state.as_mut()?;
        (if consume { tracing.untold.take() } else { tracing.untold }, tracing.ended)
    };
    if let Some(code) = untold {
        return Some(waited(CLD_TRAPPED, code, code << 8 | 0x7f));
    }
    let is_leader = tracee.is_leader();
    let parent = process.parent();
    let is_parents = is_leader && parent.as_ref().is_some_and(|parent| Arc::ptr_eq(parent, tracer));
    let is_over = !is_leader || process.is_dead();
    let status = ended.filter(|_| is_over && !is_parents && options.contains(WaitOptions::EXITED))?;
    let status = if is_leader { process.exit_status.lock().unwrap_or(status) } else { status };
    if consume {
        ptrace::detach(tracee);
        if let Some(parent) = parent.filter(|_| is_leader) {
            parent.child_queue.wake_all();
        }
    }
    let (code, value) = status.code_and_value();
    Some(waited(code, value, status.wait_status()))
}

/// What the child has to tell, which it then does not tell again (unless WNOWAIT).
fn ask(kernel: &Kernel, parent: &Arc<Process>, child: &Arc<Process>, options: WaitOptions) -> Option<Waited> {
    let consume = !options.contains(WaitOptions::NOWAIT);
    let waited = |code: i32, value: i32, status: i32| Waited {
        pid: child.pid(),
        uid: child.credentials().ruid,
        code,
        value,
        status,
        child: child.clone(),
    };
    let tracer = child.tracer.lock().upgrade();
    if child.is_dead() {
        // Its tracer waits for it first.
        if tracer.is_some_and(|tracer| !Arc::ptr_eq(&tracer, parent) && !tracer.is_dead()) {
            return None;
        }
        if !options.contains(WaitOptions::EXITED) {
            return None;
        }
        let status = (*child.exit_status.lock())?;
        let (code, value) = status.code_and_value();
        let answer = waited(code, value, status.wait_status());
        if consume {
            parent.inherit_usage(child);
            forget(kernel, parent, child);
        }
        return Some(answer);
    }
    // Of one that it traces it hears by that.
    if tracer.is_some_and(|tracer| Arc::ptr_eq(&tracer, parent)) {
        return None;
    }
    let mut signals = child.signals.lock();
    let stopped = signals.stop_untold.filter(|_| options.contains(WaitOptions::STOPPED));
    let continued = signals.continue_untold && options.contains(WaitOptions::CONTINUED);
    if let Some(signal) = stopped {
        if consume {
            signals.stop_untold = None;
        }
        drop(signals);
        return Some(waited(CLD_STOPPED, signal.number(), signal.number() << 8 | 0x7f));
    }
    if continued {
        if consume {
            signals.continue_untold = false;
        }
        drop(signals);
        return Some(waited(CLD_CONTINUED, Signal::SIGCONT.number(), 0xffff));
    }
    None
}

/// A dead child is waited for (or nobody will): its number is free. The caller holds `Kernel::tree`.
pub(super) fn forget(kernel: &Kernel, parent: &Process, child: &Arc<Process>) {
    parent.relations.lock().children.retain(|other| !Arc::ptr_eq(other, child));
    // Its leader, if it was traced.
    let tracees = parent.tracees.lock().clone();
    tracees.iter().filter(|tracee| tracee.is_leader() && Arc::ptr_eq(tracee.process(), child)).for_each(ptrace::detach);
    kernel.pids.remove_process(child.pid());
}
