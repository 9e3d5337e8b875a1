//! Controlling terminals and background processes (credentials(7), setpgid(2), termios(3) TOSTOP; POSIX, chapter 11.1).
//!
//! No locks of its own; `Session::terminal` and `Terminal::state` are never held together.

use super::terminal::Terminal;
use crate::signal::is_blocked_or_ignored;
use crate::task::credentials::CAP_SYS_ADMIN;
use crate::task::job_control::is_orphaned;
use crate::task::{ProcessGroup, Session, Task};
use crate::{Errno, Kernel, Result};
use skerry_abi::signal::{Signal, SignalInfo};
use std::sync::{Arc, Weak};

/// The caller's controlling terminal.
pub(super) fn controlling_terminal(task: &Task) -> Option<Arc<Terminal>> {
    task.process().session().terminal.lock().clone()
}

/// Whether `terminal` controls the caller's session.
pub(super) fn is_controlling(task: &Task, terminal: &Arc<Terminal>) -> bool {
    controlling_terminal(task).is_some_and(|controlling| Arc::ptr_eq(&controlling, terminal))
}

/// A background process reads (SIGTTIN), or writes or changes the terminal (SIGTTOU): its group gets the signal and the
/// call is restarted, or EIO where the signal would do nothing.
pub(super) fn check_foreground(task: &Task, terminal: &Arc<Terminal>, signal: Signal) -> Result<()> {
    if !is_controlling(task, terminal) {
        return Ok(());
    }
    let group = task.process().group();
    match terminal.foreground_group_id() {
        None => return Ok(()),
        Some(foreground) if foreground == group.id => return Ok(()),
        Some(_) => {}
    }
    if is_blocked_or_ignored(task, signal) {
        return if signal == Signal::SIGTTIN { Err(Errno::EIO) } else { Ok(()) };
    }
    if is_orphaned(&group, task.kernel(), None) {
        return Err(Errno::EIO);
    }
    group.send_signal(task.kernel(), SignalInfo::kernel(signal));
    Err(Errno::ERESTARTSYS)
}

/// Makes `terminal` the controlling terminal of the caller's session. EPERM where the caller is no session leader, has
/// one already, or the terminal controls another session (which `steal` and CAP_SYS_ADMIN overcome).
pub(super) fn acquire(task: &Task, terminal: &Arc<Terminal>, steal: bool) -> Result<()> {
    let process = task.process();
    let group = process.group();
    let session = group.session.clone();
    let is_leader = session.id == process.pid();
    let present = terminal.state().session.upgrade();
    if is_leader && present.as_ref().is_some_and(|present| Arc::ptr_eq(present, &session)) {
        return Ok(());
    }
    if !is_leader || session.terminal.lock().is_some() {
        return Err(Errno::EPERM);
    }
    if let Some(present) = present {
        if !steal || !task.credentials().has_capability(CAP_SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        release(&present);
    }
    bind(terminal, &session, &group);
    Ok(())
}

/// The terminal controls the session; `group` is in its foreground.
pub(super) fn bind(terminal: &Arc<Terminal>, session: &Arc<Session>, group: &Arc<ProcessGroup>) {
    {
        let mut state = terminal.state();
        state.session = Arc::downgrade(session);
        state.foreground = Arc::downgrade(group);
    }
    *session.terminal.lock() = Some(terminal.clone());
    let weak = Arc::downgrade(terminal);
    *session.hangup.lock() = Some(Box::new(move |kernel: &Kernel, session: &Session| leader_died(kernel, &weak, session)));
}

/// The session has no controlling terminal any more.
pub(super) fn release(session: &Session) {
    *session.terminal.lock() = None;
    *session.hangup.lock() = None;
}

/// The session's leader has died: its foreground group gets SIGHUP. The terminal itself is not hung up, as no pseudoterminal is
/// (tty_jobctrl.c's disassociate_ctty): who else has it open goes on.
fn leader_died(kernel: &Kernel, terminal: &Weak<Terminal>, session: &Session) {
    let Some(terminal) = terminal.upgrade() else { return };
    if let Some(foreground) = take_from(&terminal, session) {
        foreground.send_signal(kernel, SignalInfo::kernel(Signal::SIGHUP));
    }
}

/// The terminal does not control the session any more. Its foreground group until now, if it did.
fn take_from(terminal: &Terminal, session: &Session) -> Option<Arc<ProcessGroup>> {
    let foreground = {
        let mut state = terminal.state();
        if state.session.upgrade().is_none_or(|ours| ours.id != session.id) {
            return None;
        }
        state.session = Weak::new();
        std::mem::take(&mut state.foreground).upgrade()
    };
    release(session);
    foreground
}

/// TIOCNOTTY: ENOTTY where `terminal` does not control the caller. The leader takes it from the whole session, whose
/// foreground group gets SIGHUP and SIGCONT; of anybody else it asks nothing, since a session's terminal is all its
/// members'.
pub(super) fn give_up(task: &Task, terminal: &Arc<Terminal>) -> Result<()> {
    if !is_controlling(task, terminal) {
        return Err(Errno::ENOTTY);
    }
    let session = task.process().session();
    if session.id != task.process().pid() {
        return Ok(());
    }
    if let Some(foreground) = take_from(terminal, &session) {
        foreground.send_signal(task.kernel(), SignalInfo::kernel(Signal::SIGHUP));
        foreground.send_signal(task.kernel(), SignalInfo::kernel(Signal::SIGCONT));
    }
    Ok(())
}

/// TIOCSPGRP: ENOTTY where the terminal does not control the caller, EINVAL for a negative id, ESRCH, EPERM for a group
/// of another session.
pub(super) fn set_foreground(task: &Task, terminal: &Arc<Terminal>, id: i32) -> Result<()> {
    match check_foreground(task, terminal, Signal::SIGTTOU) {
        Err(Errno::EIO) => return Err(Errno::ENOTTY),
        other => other?,
    }
    if !is_controlling(task, terminal) {
        return Err(Errno::ENOTTY);
    }
    if id < 0 {
        return Err(Errno::EINVAL);
    }
    let group = task.kernel().pids.group(id)?;
    if !Arc::ptr_eq(&group.session, &task.process().session()) {
        return Err(Errno::EPERM);
    }
    terminal.state().foreground = Arc::downgrade(&group);
    Ok(())
}
