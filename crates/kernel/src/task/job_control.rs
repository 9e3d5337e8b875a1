//! Process groups and sessions: setpgid(2), setsid(2), orphaned groups, and what parents hear of stops.

use super::{Process, ProcessGroup, Session};
use crate::signal::StopState;
use crate::{Errno, Kernel, Result};
use skerry_abi::signal::{Signal, SignalInfo, SA_NOCLDSTOP, SIG_IGN};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Tells the parent that the process has stopped or gone on (`code`: CLD_STOPPED, CLD_CONTINUED; `signal`: by what).
pub(crate) fn tell_parent(process: &Process, code: i32, signal: Signal) {
    let Some(parent) = process.parent() else { return };
    let action = parent.actions.lock()[Signal::SIGCHLD.number() as usize - 1];
    if action.handler != SIG_IGN && action.flags & SA_NOCLDSTOP == 0 {
        let (user, system) = process.time_ns();
        let ticks = |time_ns: u64| i64::try_from(time_ns / super::exit::TICK_NS).unwrap_or(i64::MAX);
        let uid = process.credentials().ruid;
        parent.send_signal(SignalInfo::child(code, process.pid(), uid, signal.number(), ticks(user), ticks(system)));
    }
    parent.child_queue.wake_all();
}

/// Whether no member but `ignored` has a parent in another group of the same session: then nobody could continue the
/// group once it has stopped.
pub(crate) fn is_orphaned(group: &Arc<ProcessGroup>, kernel: &Kernel, ignored: Option<&Process>) -> bool {
    !group.members(kernel).iter().any(|member| {
        if member.is_dead() || ignored.is_some_and(|ignored| std::ptr::eq(ignored, &**member)) {
            return false;
        }
        member.parent().is_some_and(|parent| {
            let parents = parent.group();
            !parent.is_init() && parents.id != group.id && parents.session.id == group.session.id
        })
    })
}

/// After a death: a group that was held by the tie between `process` and `parent`, is orphaned now and has stopped
/// members gets SIGHUP and SIGCONT (setpgid(2); POSIX, _exit()). `process` itself counts only while it lives.
pub(super) fn hang_up_if_orphaned(kernel: &Kernel, process: &Process, parent: Option<&Arc<Process>>) {
    let Some(parent) = parent else { return };
    let (group, parents) = (process.group(), parent.group());
    if parents.id == group.id
        || parents.session.id != group.session.id
        || !is_orphaned(&group, kernel, Some(process).filter(|process| process.is_dead()))
    {
        return;
    }
    let stopped = group.members(kernel).iter().any(|member| matches!(member.signals.lock().stop, StopState::Stopped(_)));
    if stopped {
        group.send_signal(kernel, SignalInfo::kernel(Signal::SIGHUP));
        group.send_signal(kernel, SignalInfo::kernel(Signal::SIGCONT));
    }
}

/// setpgid(2): `pid` and `group` 0 stand for the caller's and `pid`'s own.
pub(crate) fn set_group(caller: &Process, pid: i32, group: i32) -> Result<()> {
    if group < 0 {
        return Err(Errno::EINVAL);
    }
    let kernel = caller.kernel();
    let _tree = kernel.tree.lock();
    let target = kernel.pids.process(if pid == 0 { caller.pid() } else { pid })?;
    let group_id = if group == 0 { target.pid() } else { group };
    if target.pid() != caller.pid() {
        if !target.parent().is_some_and(|parent| std::ptr::eq(&*parent, caller)) {
            return Err(Errno::ESRCH);
        }
        if target.session().id != caller.session().id {
            return Err(Errno::EPERM);
        }
        if target.executed.load(Ordering::Relaxed) {
            return Err(Errno::EACCES);
        }
    }
    let session = target.session();
    if session.id == target.pid() {
        return Err(Errno::EPERM);
    }
    let present = target.group();
    if present.id == group_id {
        return Ok(());
    }
    let new = if group_id == target.pid() {
        match kernel.pids.group(group_id) {
            Ok(group) if group.session.id == session.id => group,
            _ => Arc::new(ProcessGroup { id: group_id, session }),
        }
    } else {
        kernel.pids.group(group_id).ok().filter(|group| group.session.id == session.id).ok_or(Errno::EPERM)?
    };
    kernel.pids.insert_group(&new);
    target.relations.lock().group = new;
    target.tell_identity();
    Ok(())
}

/// setsid(2): the new session's id. EPERM for the leader of a process group.
pub(crate) fn new_session(caller: &Arc<Process>) -> Result<i32> {
    let kernel = caller.kernel();
    let _tree = kernel.tree.lock();
    let id = caller.pid();
    if kernel.pids.group(id).is_ok() {
        return Err(Errno::EPERM);
    }
    let group = Arc::new(ProcessGroup { id, session: Session::new(id) });
    kernel.pids.insert_group(&group);
    kernel.pids.insert_session(&group.session);
    caller.relations.lock().group = group;
    caller.tell_identity();
    Ok(id)
}
