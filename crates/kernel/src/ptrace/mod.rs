//! Threads that another one traces (ptrace(2)): strace(1), debuggers.
//!
//! Parts: `attach` (who traces whom, from when to when), `stop` (what a tracee does: it stops, and is resumed), `registers` (what
//! a stopped thread has in them), `access` (its memory), `watch` (debug registers). The calls themselves are in `syscall/ptrace.rs`, waiting is wait(2)'s.
//!
//! A tracee's stub asks before each call and behind it, with a frame that has all registers (the stub's `tracing.rs`). The
//! tracee stops in that request, on its own stack in the sentry; its tracer reads and writes the frame meanwhile, which lies
//! in the tracee's memory. A thread whose request came without a frame is sent to fetch one first ([`crate::signal::Return::Show`]).
//!
//! None of this keeps a hostile tracee from anything: what its stub does not show is not seen.
//!
//! Lock order: a tracee's [`Tracee::state`] and a tracer's `Process::tracees` are innermost, and not held together.

pub(crate) mod access;
mod attach;
pub(crate) mod registers;
mod stop;
pub(crate) mod watch;

pub use attach::{attach, trace_me};
pub(crate) use attach::{cloned, detach, executed, is_overlooked, thread_gone, tracer_gone, Options};
pub(crate) use stop::{
    call_begins, can_show, child_made, due, event, exiting, on_return, request_came, resume, signal_stop, trap, with_frame,
    Due, Resumed,
};

use crate::task::{ExitStatus, Process};
use parking_lot::{Mutex, MutexGuard};
use skerry_abi::signal::SignalInfo;
use std::sync::Weak;

/// What a task has of it.
#[derive(Default)]
pub struct Tracee {
    state: Mutex<Option<Tracing>>,
    /// The stop that it was in when its tracer let it go.
    left: Mutex<Option<Stop>>,
}

impl Tracee {
    pub(crate) fn lock(&self) -> MutexGuard<'_, Option<Tracing>> {
        self.state.lock()
    }

    /// Nobody traces it any more. The stop that it is in is over.
    fn end(&self) -> Option<Tracing> {
        let mut state = self.state.lock();
        let mut tracing = state.take()?;
        *self.left.lock() = tracing.stop.take();
        Some(tracing)
    }

    /// Whose thread traces it.
    pub(crate) fn tracer(&self) -> Option<std::sync::Arc<Process>> {
        self.lock().as_ref().and_then(|tracing| tracing.tracer.upgrade())
    }
}

/// A thread that is traced.
pub(crate) struct Tracing {
    pub tracer: Weak<Process>,
    /// The thread that attached, which alone may make requests.
    pub tracer_tid: i32,
    /// PTRACE_SEIZE.
    pub seized: bool,
    pub options: Options,
    /// How it was resumed last.
    pub mode: Mode,
    pub stop: Option<Stop>,
    /// The stop that wait(2) has not told of: a status without its lowest byte.
    pub untold: Option<i32>,
    /// PTRACE_GETEVENTMSG.
    pub message: u64,
    /// PTRACE_INTERRUPT, or the first stop of a seized child: a PTRACE_EVENT_STOP is due.
    pub interrupted: bool,
    /// The group-stop, by its number, that it has stopped for already.
    pub group_stop: u64,
    /// Where the request in service shows its registers (`skerry_platform::layout::Shown`).
    shown: Option<u64>,
    /// The call that the thread makes, or has made with its present request.
    call: Option<OpenCall>,
    /// PTRACE_EVENT_* that is due, with its message.
    due: Option<(u32, u64)>,
    /// A new program has begun, and nothing was told of that: the id that the thread had before.
    executed: Option<i32>,
    /// The trap flag in its frame is the tracer's.
    stepping: bool,
    pub debug: watch::DebugRegisters,
    /// How the thread has ended, for its tracer to wait for.
    pub ended: Option<ExitStatus>,
}

/// How a tracee goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Mode {
    #[default]
    Cont,
    Syscall,
    Step,
}

#[derive(Clone, Copy)]
struct OpenCall {
    /// Negative: the tracer wants it not to be made.
    number: i64,
    arguments: [u64; 6],
    /// It has its result, and the tracer has been told.
    has_ended: bool,
}

/// What PTRACE_GET_SYSCALL_INFO tells of a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AtCall {
    No,
    Begins,
    Ends,
}

/// A tracee that is stopped.
pub(crate) struct Stop {
    pub info: SignalInfo,
    /// It is no group-stop, in which there is no siginfo.
    pub has_info: bool,
    pub at_call: AtCall,
    pub arguments: [u64; 6],
    /// What rax shows, which the frame may not have yet.
    pub rax: u64,
    pub orig_rax: u64,
    /// The tracer has changed them, or the frame.
    pub changed: bool,
    /// PTRACE_LISTEN.
    pub listening: bool,
    /// Where its registers are shown.
    pub shown: Option<u64>,
    /// It goes on, with this signal or none (0).
    pub resumed: Option<i32>,
}
