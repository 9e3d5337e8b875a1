//! What a tracee does: it stops where its tracer wants to see it, and goes on as that says.

use super::registers::Frame;
use super::watch::DebugRegisters;
use super::{AtCall, Mode, OpenCall, Options, Stop, Tracing};
use crate::signal::{self, StopState};
use crate::task::{ExitStatus, Process, Task};
use crate::{Context, Errno, Result};
use skerry_abi::raw::ptrace as raw;
use skerry_abi::signal::{Signal, SignalInfo, CLD_TRAPPED, SA_NOCLDSTOP, SIG_IGN, SI_USER};
use skerry_platform::layout::{action, Reply};
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// si_code of a step (sigaction(2)).
const TRAP_TRACE: i32 = 2;
/// PTRACE_O_TRACESYSGOOD.
const GOOD: i32 = 0x80;

/// What a tracee has to stop for before it looks at its signals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// PTRACE_INTERRUPT and the like; by what its process is stopped, if it is.
    Interrupt(Option<Signal>),
    /// Its process is stopped by this signal.
    Group(Signal),
}

/// What has become of a stop.
pub(crate) struct Resumed {
    pub info: SignalInfo,
    signal: i32,
    pub rax: u64,
    pub orig_rax: u64,
    /// The tracer has set registers.
    pub changed: bool,
    shown: Option<u64>,
    /// The tracer's id and user.
    tracer: (i32, u32),
}

impl Resumed {
    /// Puts into the thread's frame what rax is there.
    pub fn set_rax(&self, task: &Task, rax: u64) {
        if let Some(shown) = self.shown {
            let memory = task.memory();
            // A frame that is not there any more is the thread's own loss.
            let _ = Frame::at(&memory, shown).and_then(|frame| frame.set_rax(rax));
        }
    }

    /// The signal that it goes on with.
    pub fn signal(&self) -> Option<SignalInfo> {
        let signal = Signal::new(self.signal)?;
        let is_same = self.info.signo == self.signal;
        Some(if is_same { self.info } else { SignalInfo::user(signal, SI_USER, self.tracer.0, self.tracer.1) })
    }
}

/// A request of the thread has come, which shows its registers at `shown` (0: nowhere).
pub(crate) fn request_came(task: &Task, shown: u64) {
    if let Some(tracing) = task.ptrace.lock().as_mut() {
        tracing.shown = (shown != 0).then_some(shown);
        if shown != 0 && tracing.debug != DebugRegisters::default() {
            tracing.debug.lay_down(&task.memory(), shown);
        }
        tracing.call.take_if(|call| call.has_ended);
    }
}

/// What the thread is to stop for. The caller holds `Process::signals`; `group_stop` is the number of its present stop.
pub(crate) fn due(task: &Task, stop: StopState, group_stop: u64) -> Due {
    let state = task.ptrace.lock();
    let Some(tracing) = state.as_ref() else { return Due::Nothing };
    let stopped_by = match stop {
        StopState::Stopping(signal) | StopState::Stopped(signal) => Some(signal),
        StopState::Running => None,
    };
    match stopped_by {
        Some(signal) if tracing.group_stop != group_stop => Due::Group(signal),
        _ if tracing.interrupted => Due::Interrupt(stopped_by),
        _ => Due::Nothing,
    }
}

/// Whether a stop can be shown: the request in service came with a frame.
pub(crate) fn can_show(task: &Task) -> bool {
    task.ptrace.lock().as_ref().is_some_and(|tracing| tracing.shown.is_some())
}

/// Looks at the frame of a thread whose request is in service. ESRCH: it has none.
pub(crate) fn with_frame<R>(task: &Task, act: impl FnOnce(&Frame) -> Result<R>) -> Result<R> {
    let shown = task.ptrace.lock().as_ref().and_then(|tracing| tracing.shown).ok_or(Errno::ESRCH)?;
    let memory = task.memory();
    act(&Frame::at(&memory, shown)?)
}

/// PTRACE_INTERRUPT, or its process is stopped by `stopped_by`: a group-stop, which for a seized thread is an event.
pub(crate) fn trap(context: &mut Context, stopped_by: Option<Signal>, group_stop: u64, rax: Option<u64>) -> Option<Resumed> {
    let seized = {
        let mut state = context.task.ptrace.lock();
        let tracing = state.as_mut()?;
        tracing.group_stop = group_stop;
        tracing.seized
    };
    let signal = stopped_by.unwrap_or(Signal::SIGTRAP).number();
    let event = if seized { raw::PTRACE_EVENT_STOP as i32 } else { 0 };
    stop(context, signal | event << 8, None, AtCall::No, rax)
}

/// A signal is to be delivered: the tracer sees it first.
pub(crate) fn signal_stop(context: &mut Context, info: SignalInfo, rax: Option<u64>) -> Option<Resumed> {
    stop(context, info.signo, Some(info), AtCall::No, rax)
}

fn event_stop(context: &mut Context, event: u32, message: u64, rax: Option<u64>) -> Option<Resumed> {
    {
        let mut state = context.task.ptrace.lock();
        let tracing = state.as_mut()?;
        if !tracing.options.wants(event) {
            return None;
        }
        tracing.message = message;
    }
    stop(context, Signal::SIGTRAP.number() | (event as i32) << 8, None, AtCall::No, rax)
}

/// An event of the call in service (PTRACE_EVENT_VFORK_DONE, PTRACE_EVENT_EXIT), if the tracer wants to hear of it.
pub(crate) fn event(context: &mut Context, event: u32, message: u64) {
    if context.task.traced.load(Ordering::Acquire) && can_show(context.task) {
        event_stop(context, event, message, None);
    }
}

/// The thread is about to end so.
pub(crate) fn exiting(context: &mut Context, status: ExitStatus) {
    event(context, raw::PTRACE_EVENT_EXIT, status.wait_status() as u64);
}

/// What is due before a thread waits for the child that it has made by vfork(2).
pub(crate) fn child_made(context: &mut Context) {
    let due = context.task.ptrace.lock().as_mut().and_then(|tracing| tracing.due.take());
    if let Some((event, message)) = due {
        event_stop(context, event, message, Some(message));
    }
}

/// A call begins; how it goes on. `None`: the thread is to end.
pub(crate) fn call_begins(context: &mut Context) -> Option<Reply> {
    let call = context.call;
    let task = context.task;
    let stops = task.ptrace.lock().as_mut().is_some_and(|tracing| {
        tracing.call = Some(OpenCall { number: call.number as u32 as i32 as i64, arguments: call.arguments, has_ended: false });
        tracing.message = raw::PTRACE_EVENTMSG_SYSCALL_ENTRY.into();
        tracing.mode == Mode::Syscall
    });
    let mut reply = Reply { action: action::AS_IS, ..Reply::default() };
    if stops {
        let resumed = call_stop(context, AtCall::Begins, Some(Errno::ENOSYS.as_return_value() as u64));
        if signal::is_dying(task) {
            return None;
        }
        if let Some(resumed) = resumed {
            let number = resumed.orig_rax as u32 as i32;
            if let Some(call) = task.ptrace.lock().as_mut().and_then(|tracing| tracing.call.as_mut()) {
                call.number = number.into();
            }
            if number < 0 {
                reply = Reply { action: action::RETURN, value: resumed.rax as i64, ..reply };
            } else if resumed.changed {
                resumed.set_rax(task, number as u64);
            }
        }
    }
    // The stub asks on the way out of the call in any case; only a wait in the host must not begin.
    reply.then = signal::leave_for_call(task).into();
    Some(reply)
}

fn call_stop(context: &mut Context, at_call: AtCall, rax: Option<u64>) -> Option<Resumed> {
    let good = context.task.ptrace.lock().as_ref()?.options.contains(Options::TRACESYSGOOD);
    let code = Signal::SIGTRAP.number() | if good { GOOD } else { 0 };
    let resumed = stop(context, code, None, at_call, rax)?;
    // What it goes on with is sent to it anew (ptrace(2), "Syscall-stops").
    resumed.signal().into_iter().for_each(|info| context.task.send_signal(info));
    Some(resumed)
}

/// The thread is on its way out of the guest kernel, where `rax` is not in its frame yet if it is something: what is to be told
/// of the call that it has made, or of its new program.
pub(crate) fn on_return(context: &mut Context, rax: Option<u64>) -> Option<Resumed> {
    let task = context.task;
    if !can_show(task) {
        return None;
    }
    child_made(context);
    let executed = task.ptrace.lock().as_mut().and_then(|tracing| {
        let former = tracing.executed.take()?;
        Some((former, tracing.options.contains(Options::TRACEEXEC), tracing.seized))
    });
    match executed {
        Some((former, true, _)) => drop(event_stop(context, raw::PTRACE_EVENT_EXEC, former as u64, Some(0))),
        Some((_, false, false)) => {
            let (pid, uid) = (context.process().pid(), task.credentials().ruid);
            task.send_signal(SignalInfo::user(Signal::SIGTRAP, SI_USER, pid, uid));
        }
        _ => {}
    }
    let mode = task.ptrace.lock().as_mut().and_then(|tracing| {
        let call = tracing.call.as_mut().filter(|call| !call.has_ended)?;
        call.has_ended = true;
        tracing.message = raw::PTRACE_EVENTMSG_SYSCALL_EXIT.into();
        Some(tracing.mode)
    });
    match mode {
        Some(Mode::Syscall) => {
            let rax = if executed.is_some() { Some(0) } else { rax };
            call_stop(context, AtCall::Ends, rax)
        }
        Some(Mode::Step) => {
            // One step is the whole call.
            let _ = with_frame(task, |frame| frame.set_trap_flag(false));
            signal::force_signal(task, SignalInfo::fault(Signal::SIGTRAP, TRAP_TRACE, context.instruction_pointer()));
            None
        }
        _ => None,
    }
}

/// Stops with `code`, as a wait(2) status has it above its lowest byte, until the tracer or death ends that. `None`: nobody traces
/// it, or it is to die.
fn stop(context: &mut Context, code: i32, info: Option<SignalInfo>, at_call: AtCall, rax: Option<u64>) -> Option<Resumed> {
    let task = context.task;
    let _ = context.write_results();
    context.forget_marshalled();
    let was_stepping = task.ptrace.lock().as_mut().is_some_and(|tracing| std::mem::take(&mut tracing.stepping));
    let frame_rax = with_frame(task, |frame| {
        if was_stepping {
            frame.set_trap_flag(false)?;
        }
        Ok(frame.registers()?.rax)
    });
    let tracer = {
        let mut state = task.ptrace.lock();
        let tracing = state.as_mut()?;
        let signal = Signal::new(code & 0x7f).unwrap_or(Signal::SIGTRAP);
        let own = SignalInfo::user(signal, code, context.process().pid(), task.credentials().ruid);
        tracing.stop = Some(Stop {
            info: info.unwrap_or(own),
            has_info: info.is_some() || code >> 8 != 0 || at_call != AtCall::No,
            at_call,
            arguments: tracing.call.map_or([0; 6], |call| call.arguments),
            rax: rax.or(frame_rax.ok()).unwrap_or(0),
            orig_rax: tracing.call.map_or(u64::MAX, |call| call.number as u64),
            changed: false,
            listening: false,
            shown: tracing.shown,
            resumed: None,
        });
        tracing.untold = Some(code);
        tracing.interrupted = false;
        tracing.tracer.upgrade().map(|tracer| (tracer, tracing.tracer_tid))
    };
    // A child that its maker's tracer was to get may come when that has just gone.
    let is_there = |(tracer, tid): &(Arc<Process>, i32)| tracer.threads.lock().iter().any(|thread| thread.tid() == *tid);
    let Some((tracer, _)) = tracer.filter(is_there) else {
        super::detach(task);
        return None;
    };
    let action = tracer.actions.lock()[Signal::SIGCHLD.number() as usize - 1];
    if action.handler != SIG_IGN && action.flags & SA_NOCLDSTOP == 0 {
        tracer.send_signal(SignalInfo::child(CLD_TRAPPED, task.tid(), task.credentials().ruid, code & 0x7f, 0, 0));
    }
    tracer.child_queue.wake_all();
    let sender = (tracer.pid(), tracer.credentials().ruid);
    drop(tracer);
    while let Some(stopped) = look(task) {
        match stopped {
            Stopped::Still => drop(context.sleep_uninterrupted(None)),
            Stopped::Resumed(stop, signal) => {
                let Stop { info, rax, orig_rax, changed, shown, .. } = *stop;
                return Some(Resumed { info, signal, rax, orig_rax, changed, shown, tracer: sender });
            }
        }
    }
    None
}

enum Stopped {
    Still,
    Resumed(Box<Stop>, i32),
}

/// `None`: it is not stopped any more, and nobody has resumed it.
fn look(task: &Task) -> Option<Stopped> {
    let is_dying = signal::is_dying(task);
    let is_group_stopped = task.process().signals.lock().stop != StopState::Running;
    let mut state = task.ptrace.lock();
    let Some(tracing) = state.as_mut() else {
        let stop = task.ptrace.left.lock().take().filter(|_| !is_dying)?;
        let signal = stop.resumed.unwrap_or(0);
        return Some(Stopped::Resumed(Box::new(stop), signal));
    };
    if is_dying {
        (tracing.stop, tracing.untold) = (None, None);
        return None;
    }
    let stop = tracing.stop.as_ref()?;
    // It hears of what ends its stop (PTRACE_LISTEN).
    let has_news = stop.listening && (!is_group_stopped || tracing.interrupted);
    match stop.resumed {
        None if !has_news => Some(Stopped::Still),
        resumed => {
            tracing.interrupted |= has_news;
            let stop = tracing.stop.take()?;
            Some(Stopped::Resumed(Box::new(stop), resumed.unwrap_or(0)))
        }
    }
}

/// Resumes a stopped tracee, whose state the caller has looked at (PTRACE_CONT and the like). False: it is not stopped.
pub(crate) fn resume(task: &Task, mode: Mode, signal: i32) -> bool {
    if mode == Mode::Step {
        let _ = with_frame(task, |frame| frame.set_trap_flag(true));
    }
    {
        let mut state = task.ptrace.lock();
        let Some(tracing) = state.as_mut() else { return false };
        let Some(stop) = tracing.stop.as_mut().filter(|stop| stop.is_seen()) else { return false };
        stop.resumed = Some(signal);
        tracing.untold = None;
        tracing.mode = mode;
        tracing.stepping = mode == Mode::Step;
    }
    crate::sync::Wake::wake(&**task.waiter_ref());
    true
}

impl Stop {
    /// The tracer can make requests of it.
    pub(crate) fn is_seen(&self) -> bool {
        self.resumed.is_none() && !self.listening
    }
}

impl Tracing {
    /// As [`DebugRegisters::set`]; the tracee's stub, which waits, goes by that.
    pub(crate) fn set_debug_register(&mut self, memory: &GuestMemory, index: usize, value: u64) -> Result<()> {
        self.debug.set(index, value)?;
        self.shown.into_iter().for_each(|shown| self.debug.lay_down(memory, shown));
        Ok(())
    }

    /// PTRACE_LISTEN. EIO where it is not stopped as its process is.
    pub(crate) fn listen(&mut self) -> Result<()> {
        let seized = self.seized;
        match self.stop.as_mut().filter(|stop| seized && stop.info.code >> 8 == raw::PTRACE_EVENT_STOP as i32) {
            Some(stop) => {
                stop.listening = true;
                self.untold = None;
                Ok(())
            }
            None => Err(Errno::EIO),
        }
    }
}
