//! What execve(2) changes in the guest kernel; loading the program is the engine's.
//!
//! Order: [`ExecFile::credentials`] (may still fail), [`kill_other_threads`], the engine's new address space, then
//! [`exec_reset`], after which there is no way back.

use super::credentials::{SECBIT_KEEP_CAPS, SECBIT_NOROOT};
use super::{exit, Capabilities, Credentials, Program, Task};
use crate::fs::inode::Metadata;
use crate::signal::DISABLED_STACK;
use crate::sync::Wake;
use crate::{Context, Errno, Result};
use skerry_abi::signal::{SigAction, SIG_IGN};
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What counts of the file that is executed.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecFile {
    pub set_uid: Option<u32>,
    pub set_gid: Option<u32>,
    /// File capabilities (security.capability): permitted, inheritable, and whether the effective bit is set.
    pub capabilities: Option<(u64, u64, bool)>,
    /// The file cannot be read by the caller: not dumpable then.
    pub unreadable: bool,
}

impl ExecFile {
    /// From the file itself; `no_suid`: its mount does not honour set-id bits.
    pub fn new(metadata: &Metadata, no_suid: bool) -> ExecFile {
        let (set_uid, set_gid) = (metadata.permissions & 0o4000 != 0, metadata.permissions & 0o2010 == 0o2010);
        ExecFile {
            set_uid: (set_uid && !no_suid).then_some(metadata.uid),
            set_gid: (set_gid && !no_suid).then_some(metadata.gid),
            ..ExecFile::default()
        }
    }

    /// The credentials that the new program has (capabilities(7), "Transformation of capabilities during execve()"),
    /// and whether it runs in secure mode (AT_SECURE). EPERM: a file that demands capabilities which cannot be had.
    pub fn credentials(&self, old: &Credentials) -> Result<(Credentials, bool)> {
        let mut new = old.clone();
        if !old.no_new_privs {
            if let Some(uid) = self.set_uid {
                new.euid = uid;
            }
            if let Some(gid) = self.set_gid {
                new.egid = gid;
            }
        }
        let id_changed = new.euid != old.euid || new.egid != old.egid;
        let (mut file_permitted, mut file_inheritable, mut file_effective) = match self.capabilities {
            Some(capabilities) if !old.no_new_privs => capabilities,
            _ => (0, 0, false),
        };
        let has_file_capabilities = file_permitted != 0 || file_inheritable != 0;
        if old.securebits & SECBIT_NOROOT == 0 && (new.euid == 0 || new.ruid == 0) {
            // Root's programs count as having all; but not one that is set-user-ID to root and has its own (BUGS there).
            if !(has_file_capabilities && new.ruid != 0 && new.euid == 0) {
                (file_permitted, file_inheritable) = (Capabilities::ALL, Capabilities::ALL);
                file_effective = new.euid == 0;
            }
        }
        let bounding = old.capabilities.bounding;
        let granted = (old.capabilities.inheritable & file_inheritable) | (file_permitted & bounding);
        if has_file_capabilities
            && file_effective
            && self.capabilities.is_some_and(|(permitted, _, _)| permitted & !granted != 0)
        {
            return Err(Errno::EPERM);
        }
        let privileged = id_changed || has_file_capabilities;
        let ambient = if privileged { 0 } else { old.capabilities.ambient };
        let permitted = granted | ambient;
        new.capabilities.ambient = ambient;
        new.capabilities.permitted = permitted;
        new.capabilities.effective = if file_effective { permitted } else { ambient };
        new.suid = new.euid;
        new.fsuid = new.euid;
        new.sgid = new.egid;
        new.fsgid = new.egid;
        new.keep_capabilities = false;
        new.securebits &= !SECBIT_KEEP_CAPS;
        let raised = new.ruid != 0 && (file_effective || permitted & !ambient != 0);
        let secure = new.euid != new.ruid || new.egid != new.rgid || raised;
        Ok((new, secure))
    }
}

/// How long threads have to notice that they are to end; whoever has not by then is taken off the books (it cannot make
/// calls any more, and the old host process dies at exec anyway).
const PATIENCE: Duration = Duration::from_secs(2);

/// execve(2), "all threads other than the calling thread are destroyed": waits until they are, then the caller has the
/// leader's id. Error: ERESTARTNOINTR where another thread was first, or the process is to end.
pub fn kill_other_threads(context: &Context) -> Result<()> {
    let task = context.task;
    let process = context.process();
    {
        let process_signals = process.signals.lock();
        let threads = process.threads.lock();
        if process_signals.group_exit.is_some() || task.signals.lock().killed {
            return Err(Errno::ERESTARTNOINTR);
        }
        for other in threads.iter().filter(|other| !Arc::ptr_eq(other, task)) {
            let mut signals = other.signals.lock();
            signals.killed = true;
            crate::signal::interrupt(other, &signals);
        }
    }
    let alone = || process.threads.lock().iter().all(|other| Arc::ptr_eq(other, task));
    let deadline = Instant::now() + PATIENCE;
    let registration = process.thread_queue.register(task.waiter());
    while !alone() {
        if process.group_exit().is_some() {
            return Err(Errno::ERESTARTNOINTR);
        }
        if !context.sleep_uninterrupted(Some(deadline)) {
            let stragglers: Vec<_> = process.threads.lock().iter().filter(|other| !Arc::ptr_eq(other, task)).cloned().collect();
            let _tree = context.kernel().tree.lock();
            for straggler in stragglers {
                exit::remove_thread(context.kernel(), &straggler);
                straggler.waiter().wake();
            }
        }
    }
    drop(registration);
    if !task.is_leader() {
        let _tree = context.kernel().tree.lock();
        context.kernel().pids.remove_task(task.tid());
        task.set_tid(process.pid());
        context.kernel().pids.insert_task(task.clone());
        process.signals.lock().leader_status = None;
    }
    Ok(())
}

/// The point of no return: `task`, alone in its process, becomes another program. `name` is the file's (its last
/// component becomes comm); `credentials` are those of [`ExecFile::credentials`].
pub fn exec_reset(task: &Arc<Task>, name: &[u8], program: Program, file: &ExecFile, credentials: Credentials) {
    let process = task.process();
    let old = task.credentials();
    let privileged = credentials.euid != old.euid || credentials.egid != old.egid || file.capabilities.is_some();
    // An unshared table: with CLONE_FILES the other process must not see what is closed here.
    let files = task.files();
    let files = if Arc::strong_count(&files) > 2 {
        let own = Arc::new(files.fork());
        task.set_files(own.clone());
        own
    } else {
        files
    };
    files.leave_direct();
    for closed in files.take_close_on_exec() {
        crate::fs::close::closed(process, closed);
    }
    process.timers.executed();
    crate::ipc::sysv::executed(task.kernel(), process.pid());
    process.actions.unshare();
    for action in process.actions.lock().iter_mut() {
        let handler = if action.handler == SIG_IGN { SIG_IGN } else { 0 };
        *action = SigAction { handler, ..SigAction::default() };
    }
    crate::signal::tell_actions(process, &process.signals.lock());
    {
        let mut signals = task.signals.lock();
        signals.stack = DISABLED_STACK;
        if let Some(mask) = signals.saved_mask.take() {
            signals.set_blocked(mask);
        }
    }
    *task.restart.lock() = None;
    task.set_clear_child_tid(0);
    task.set_robust_list(0);
    if privileged {
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    let base = name.rsplit(|&byte| byte == b'/').next().unwrap_or(name);
    *task.name.write() = base[..base.len().min(15)].to_vec();
    let plain = credentials.euid == credentials.ruid && credentials.egid == credentials.rgid;
    process.dumpable.store(plain && !file.unreadable, Ordering::Relaxed);
    task.set_credentials(credentials);
    *process.program.write() = program;
    process.executed.store(true, Ordering::Relaxed);
    // execve(2): the termination signal is reset to SIGCHLD.
    process.exit_signal.store(skerry_abi::signal::Signal::SIGCHLD.number(), Ordering::Relaxed);
    super::limits::apply_to_fresh_host(process);
    super::scheduling::apply_to_host(task);
    exit::release_vfork_parent(process);
}
