//! Ending threads and processes (exit(2), exit_group(2)), and what is left to others then.
//!
//! A process ends in two steps: [`exit_group`] (or a fatal signal) marks it, wakes its threads and has the host process
//! killed; once the host process is dead the engine calls [`host_gone`], which lets go of everything and tells the
//! parent. Where the only thread of a process ends it, nothing of it runs any more when it has called: the engine does not
//! wait for the host then ([`host_leaves`]). A single thread: [`exit_thread`], then [`thread_gone`].

use super::usage::Dying;
use super::{job_control, ExitStatus, Process, Task};
use crate::fs::fd_table::FdTable;
use crate::ptrace;
use crate::run;
use crate::signal::{self, begin_group_exit};
use crate::Kernel;
use skerry_abi::signal::{Signal, SignalInfo, CLD_STOPPED, SA_NOCLDWAIT, SIG_IGN, SI_USER};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Clock ticks of 10 ms (sysconf(_SC_CLK_TCK)).
pub(crate) const TICK_NS: u64 = 10_000_000;

/// The thread alone is to end with `code`; the last one ends the process. The handler then leaves `After::Gone`.
pub fn exit_thread(task: &Arc<Task>, code: i32) {
    let process = task.process();
    let status = ExitStatus::Exited(code as u8);
    let last = {
        let mut process_signals = process.signals.lock();
        if task.is_leader() {
            process_signals.leader_status = Some(status);
        }
        let threads = process.threads.lock();
        {
            let mut signals = task.signals.lock();
            (signals.killed, signals.status) = (true, Some(status));
        }
        threads.iter().all(|other| Arc::ptr_eq(other, task) || other.signals.lock().killed)
    };
    if last {
        let status = process.signals.lock().leader_status.unwrap_or(status);
        exit_group(task, status);
    } else {
        signal::hand_over_pending(task);
    }
}

/// The whole process is to end, as its thread `task` says in a call of its own: the engine sees to that thread's end. The
/// first caller's status counts.
pub fn exit_group(task: &Task, status: ExitStatus) {
    let process = task.process();
    begin_group_exit(process, &mut process.signals.lock(), status);
    let is_alone = process.threads.lock().iter().all(|other| std::ptr::eq(&**other, task));
    if is_alone {
        super::robust::release(task);
        process.signal_queue.wake_all();
    } else {
        kill_host(process);
    }
}

/// As [`exit_group`], when none of its threads has called: its host process is killed.
pub(crate) fn kill_group(process: &Process, status: ExitStatus) {
    begin_group_exit(process, &mut process.signals.lock(), status);
    kill_host(process);
}

/// Ends the host process of a process that is marked as ending; threads may be in their own code.
pub(crate) fn kill_host(process: &Process) {
    run::find_infant(process);
    let host = process.host.read().clone();
    if let Some(host) = host {
        let threads = process.threads.lock().clone();
        for thread in threads {
            super::robust::release(&thread);
        }
        host.kill();
    }
    // Sleeping in the guest kernel: sigtimedwait and the like look again and find that they are to end.
    process.signal_queue.wake_all();
}

/// Every process of the sandbox is to end (shutdown).
pub fn kill_all(kernel: &Kernel) {
    for process in kernel.pids.processes() {
        process.send_signal(SignalInfo::kernel(Signal::SIGKILL));
    }
}

/// The host thread is gone (or will never run guest code again). The last one makes the process a zombie.
pub fn thread_gone(task: &Arc<Task>) {
    let kernel = task.kernel().clone();
    let _tree = kernel.tree.lock();
    remove_thread(&kernel, task);
    let process = task.process();
    if process.threads.lock().is_empty() && !process.is_dead() {
        finish_process(&kernel, process, None);
    }
}

/// The host process is dead, with all its threads. `unexpected`: how it died, for one that nobody here has ended (the
/// host's own out-of-memory killer, say). To be called while the host process can still be asked for its CPU time.
pub fn host_gone(process: &Arc<Process>, unexpected: Option<ExitStatus>) {
    let kernel = process.kernel().clone();
    // Its children have another parent from here on.
    run::take_births_back(&kernel, None);
    let _tree = kernel.tree.lock();
    if process.is_dead() {
        return;
    }
    super::host_kill::tell(&kernel, process, unexpected);
    let threads = process.threads.lock().clone();
    for task in &threads {
        remove_thread(&kernel, task);
    }
    if let Some(host) = process.host.write().take() {
        let dying = Dying::new(host);
        dying.settle();
        process.add_dying(dying);
    }
    finish_process(&kernel, process, unexpected);
}

/// As [`host_gone`] for a process that [`exit_group`] has marked and whose only thread waits in that call: it runs no code
/// any more, but its host process is not dead yet. What it used is to be settled when it is.
pub(crate) fn host_leaves(task: &Arc<Task>, dying: Arc<Dying>) {
    let process = task.process();
    let kernel = process.kernel().clone();
    let _tree = kernel.tree.lock();
    if process.is_dead() {
        return;
    }
    remove_thread(&kernel, task);
    *process.host.write() = None;
    process.add_dying(dying);
    finish_process(&kernel, process, None);
}

/// Lets go of what a thread has. The caller holds `Kernel::tree`.
pub(super) fn remove_thread(kernel: &Kernel, task: &Arc<Task>) {
    if task.gone.swap(true, Ordering::AcqRel) {
        return;
    }
    signal::hand_over_pending(task);
    task.leave_channel();
    let process = task.process();
    let stopped = {
        let mut process_signals = process.signals.lock();
        let mut threads = process.threads.lock();
        if threads.len() == 1 {
            *process.last_credentials.write() = task.credentials();
            *process.last_name.write() = task.name.read().clone();
            *process.last_scheduling.write() = *task.scheduling.read();
        }
        threads.retain(|other| !Arc::ptr_eq(other, task));
        let living = threads.len();
        drop(threads);
        if std::mem::take(&mut task.signals.lock().stopped) {
            process_signals.stopped_threads = process_signals.stopped_threads.saturating_sub(1);
        }
        if living == 0 {
            None
        } else {
            signal::complete_stop(&mut process_signals, living)
        }
    };
    kernel.pids.remove_task(task.tid());
    ptrace::tracer_gone(process, Some(task.tid()));
    ptrace::thread_gone(task);
    let files = task.files();
    task.set_files(Arc::new(FdTable::default()));
    release_files(process, files);
    *task.restart.lock() = None;
    task.seccomp.set(None);
    if let Some(signal) = stopped {
        job_control::tell_parent(process, CLD_STOPPED, signal);
    }
    tell_children_of_death(task);
    process.thread_queue.wake_all();
}

/// Closes a table that nobody else uses. One who only looks at it for a moment closes it by letting go.
fn release_files(process: &Process, files: Arc<FdTable>) {
    if let Some(files) = Arc::into_inner(files) {
        for file in files.take_all() {
            crate::fs::close::closed(process, file);
        }
    }
}

/// PR_SET_PDEATHSIG: children that this thread made get the signal that they asked for.
fn tell_children_of_death(task: &Task) {
    let process = task.process();
    let children = process.relations.lock().children.clone();
    for child in children {
        let made_by_it = {
            let mut relations = child.relations.lock();
            let made_by_it = relations.parent_thread == task.tid();
            if made_by_it {
                // Another thread of the parent takes over, if there is one.
                relations.parent_thread = process.leader_or_any().map_or(0, |thread| thread.tid());
            }
            made_by_it
        };
        if !made_by_it {
            continue;
        }
        let threads = child.threads.lock().clone();
        for thread in threads {
            if let Some(signal) = Signal::new(thread.parent_death_signal.load(Ordering::Relaxed)) {
                child.send_signal(SignalInfo::user(signal, SI_USER, process.pid(), process.credentials().ruid));
            }
        }
    }
}

/// All threads are gone: children and group are looked after, the parent is told. The caller holds `Kernel::tree`.
fn finish_process(kernel: &Arc<Kernel>, process: &Arc<Process>, unexpected: Option<ExitStatus>) {
    let status = {
        let mut signals = process.signals.lock();
        let status = signals.group_exit.or(unexpected).or(signals.leader_status);
        let status = status.unwrap_or(ExitStatus::Signaled(Signal::SIGKILL, false));
        signals.group_exit = Some(status);
        signals.pending.flush(skerry_abi::signal::SignalSet::FULL);
        status
    };
    if let Some(host) = process.host.write().take() {
        process.add_dying(Dying::new(host));
    }
    process.timers.exited();
    *process.cpu_limit.lock() = None;
    crate::ipc::sysv::exited(kernel, process.pid());
    *process.program.write() = super::Program::default();
    *process.exit_status.lock() = Some(status);
    process.dead.store(true, Ordering::Release);
    // Who looked at its table just now closes the files, but does not know whose they were.
    kernel.locks.process_gone(process.pid());
    release_vfork_parent(process);

    let group = process.group();
    if group.session.id == process.pid() {
        let hangup = group.session.hangup.lock().take();
        if let Some(hangup) = hangup {
            hangup(kernel, &group.session);
        }
        *group.session.terminal.lock() = None;
    }
    ptrace::tracer_gone(process, None);
    give_children_away(kernel, process);
    job_control::hang_up_if_orphaned(kernel, process, process.parent().as_ref());
    tell_parent_of_exit(kernel, process, status);
    process.exit_queue.wake_all();
}

/// vfork(2): the parent may go on. Called at exec and at death.
pub(crate) fn release_vfork_parent(process: &Process) {
    process.vfork_done.store(true, Ordering::Release);
    process.vfork_queue.wake_all();
}

/// Children of a dead process become those of the nearest living ancestor that asked for it, else of pid 1.
fn give_children_away(kernel: &Arc<Kernel>, process: &Arc<Process>) {
    let children = std::mem::take(&mut process.relations.lock().children);
    if children.is_empty() {
        return;
    }
    let reaper = find_reaper(kernel, process);
    for child in children {
        reaper.relations.lock().children.push(child.clone());
        {
            let mut relations = child.relations.lock();
            relations.parent = Arc::downgrade(&reaper);
            relations.parent_thread = reaper.leader_or_any().map_or(0, |thread| thread.tid());
        }
        child.tell_identity();
        child.exit_signal.store(Signal::SIGCHLD.number(), Ordering::Relaxed);
        if child.is_dead() {
            let status = child.exit_status.lock().unwrap_or(ExitStatus::Exited(0));
            tell_parent_of_exit(kernel, &child, status);
        } else {
            job_control::hang_up_if_orphaned(kernel, &child, Some(process));
        }
    }
}

fn find_reaper(kernel: &Arc<Kernel>, process: &Process) -> Arc<Process> {
    let mut ancestor = process.parent();
    while let Some(candidate) = ancestor {
        if candidate.child_subreaper.load(Ordering::Relaxed) && !candidate.is_dead() {
            return candidate;
        }
        ancestor = candidate.parent();
    }
    kernel.init().clone()
}

/// SIGCHLD (or what clone(2) was asked for) and a wake-up; a parent that does not care has the zombie taken away.
fn tell_parent_of_exit(kernel: &Kernel, process: &Arc<Process>, status: ExitStatus) {
    let Some(parent) = process.parent() else { return };
    let signal = Signal::new(process.exit_signal.load(Ordering::Relaxed));
    let action = parent.actions.lock()[Signal::SIGCHLD.number() as usize - 1];
    let ignores = signal == Some(Signal::SIGCHLD) && action.handler == SIG_IGN;
    let reap = parent.is_init() || ignores || (signal == Some(Signal::SIGCHLD) && action.flags & SA_NOCLDWAIT != 0);
    // Of most nothing is left; what it would say need not be found out.
    let is_dropped = signal == Some(Signal::SIGCHLD) && signal::is_dropped(&parent, None, Signal::SIGCHLD);
    if let (Some(signal), false) = (signal, ignores || is_dropped) {
        parent.send_signal(exit_info(process, signal, status));
    }
    if reap {
        super::wait::forget(kernel, &parent, process);
    }
    parent.child_queue.wake_all();
}

/// The siginfo of a child's end (sigaction(2), "SIGCHLD fills in ...").
pub(crate) fn exit_info(process: &Process, signal: Signal, status: ExitStatus) -> SignalInfo {
    let (code, value) = status.code_and_value();
    let (user, system) = process.time_ns_at_exit();
    let ticks = |time_ns: u64| i64::try_from(time_ns / TICK_NS).unwrap_or(i64::MAX);
    let uid = process.credentials().ruid;
    let mut info = SignalInfo::child(code, process.pid(), uid, value, ticks(user), ticks(system));
    info.signo = signal.number();
    info
}
