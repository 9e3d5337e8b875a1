//! Whom a file below /proc/PID is about, and who may read it.

use crate::fs::fd_table::FdTable;
use crate::signal::StopState;
use crate::task::credentials::CAP_SYS_PTRACE;
use crate::task::{Credentials, Process, Task};
use crate::{Errno, Kernel, Result};
use skerry_abi::signal::{SignalSet, SIG_DFL, SIG_IGN};
use skerry_platform::engine::HostProcess;
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// A process, and the thread of it that a file is about.
#[derive(Clone)]
pub(super) struct View {
    pub kernel: Arc<Kernel>,
    pub process: Arc<Process>,
    /// `None` for a process that has ended (a zombie).
    pub task: Option<Arc<Task>>,
    /// Below /proc/PID/task.
    pub of_thread: bool,
}

impl View {
    /// Of a process as a whole; ENOENT. Also found by the id of a thread of it, as on Linux (but not listed).
    pub fn of_process(kernel: &Arc<Kernel>, id: i32) -> Result<View> {
        let process = match kernel.pids.process(id) {
            Ok(process) => process,
            Err(_) => kernel.pids.task(id).map_err(|_| Errno::ENOENT)?.process().clone(),
        };
        let task = process.leader_or_any();
        Ok(View { kernel: kernel.clone(), process, task, of_thread: false })
    }

    /// Of one thread of it; ENOENT.
    pub fn of_thread(&self, tid: i32) -> Result<View> {
        let threads = self.process.threads.lock();
        let task = threads.iter().find(|task| task.tid() == tid).cloned().ok_or(Errno::ENOENT)?;
        drop(threads);
        Ok(View { task: Some(task), of_thread: true, ..self.clone() })
    }

    /// The thread's id below task/, else the process's.
    pub fn id(&self) -> i32 {
        match &self.task {
            Some(task) if self.of_thread => task.tid(),
            _ => self.process.pid(),
        }
    }

    /// ESRCH for a process that has no thread: it has ended, or is pid 1.
    pub fn task(&self) -> Result<&Arc<Task>> {
        self.task.as_ref().ok_or(Errno::ESRCH)
    }

    /// Its descriptors, as they are now. ESRCH as above.
    pub fn files(&self) -> Result<Arc<FdTable>> {
        let files = self.task()?.files();
        self.kernel.take_loans_back();
        Ok(files)
    }

    pub fn memory(&self) -> Result<Arc<GuestMemory>> {
        Ok(self.task()?.memory())
    }

    pub fn credentials(&self) -> Arc<Credentials> {
        match &self.task {
            Some(task) => task.credentials(),
            None => self.process.credentials(),
        }
    }

    pub fn name(&self) -> Vec<u8> {
        match &self.task {
            Some(task) => task.name.read().clone(),
            None => self.process.name(),
        }
    }

    pub fn host(&self) -> Option<Arc<HostProcess>> {
        crate::run::await_infant(&self.process);
        self.process.host.read().clone()
    }

    /// Who owns the files: the effective ids, or root where the process is not dumpable (proc(5)).
    pub fn owner(&self) -> (u32, u32) {
        if !self.process.dumpable.load(Ordering::Relaxed) {
            return (0, 0);
        }
        let credentials = self.credentials();
        (credentials.euid, credentials.egid)
    }

    /// The check of ptrace(2), PTRACE_MODE_READ_FSCREDS: EACCES where `reader` may not look into the process.
    pub fn check_access(&self, reader: &Task) -> Result<()> {
        if Arc::ptr_eq(reader.process(), &self.process) {
            return Ok(());
        }
        let who = reader.credentials();
        if who.has_capability(CAP_SYS_PTRACE) {
            return Ok(());
        }
        let whose = self.credentials();
        let same = [whose.ruid, whose.euid, whose.suid].iter().all(|&uid| uid == who.fsuid)
            && [whose.rgid, whose.egid, whose.sgid].iter().all(|&gid| gid == who.fsgid);
        let contained = whose.capabilities.permitted & !who.capabilities.permitted == 0;
        if same && contained && self.process.dumpable.load(Ordering::Relaxed) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// The letter of proc_pid_stat(5), and the word for it.
    pub fn state(&self, reader: Option<&Task>) -> (char, &'static str) {
        if self.process.is_init() {
            return ('S', "sleeping");
        }
        if self.process.is_dead() || self.task.is_none() {
            return ('Z', "zombie");
        }
        if let Some(state) = self.stop_state() {
            return state;
        }
        // A host thread waits for the answer to its call, however busy the guest kernel is with that.
        let is_served = |task: &Arc<Task>| task.in_kernel.load(Ordering::Relaxed) && !task.waiter_ref().is_asleep();
        let reads = |task: &Arc<Task>| reader.is_some_and(|reader| task.tid() == reader.tid());
        if self.task.as_ref().is_some_and(|task| reads(task) || is_served(task)) {
            return ('R', "running");
        }
        let host_state = self.host_stat().and_then(|stat| stat.state());
        match host_state {
            Some(b'R') => ('R', "running"),
            Some(b'D') => ('D', "disk sleep"),
            _ => ('S', "sleeping"),
        }
    }

    fn stop_state(&self) -> Option<(char, &'static str)> {
        let is_traced = |task: &Arc<Task>| task.ptrace.lock().as_ref().is_some_and(|tracing| tracing.stop.is_some());
        if self.task.as_ref().is_some_and(is_traced) {
            return Some(('t', "tracing stop"));
        }
        matches!(self.process.signals.lock().stop, StopState::Stopped(_)).then_some(('T', "stopped"))
    }

    /// The host's figures: those of the thread below task/, else of the whole process.
    pub fn host_stat(&self) -> Option<super::host::Stat> {
        let host = self.host()?;
        if self.of_thread {
            let thread = self.task.as_ref()?.host.read().clone()?;
            super::host::Stat::of_thread(thread.pid, thread.tid)
        } else {
            super::host::Stat::of_process(host.pid)
        }
    }

    /// (pending for the thread, pending for the process, blocked, ignored, caught)
    pub fn signal_sets(&self) -> [SignalSet; 5] {
        let (pending, blocked) = match &self.task {
            Some(task) => {
                let signals = task.signals.lock();
                (signals.pending.set, signals.blocked())
            }
            None => Default::default(),
        };
        let shared = self.process.signals.lock().pending.set;
        let (mut ignored, mut caught) = (SignalSet::EMPTY, SignalSet::EMPTY);
        for (index, action) in self.process.actions.lock().iter().enumerate() {
            match action.handler {
                SIG_DFL => {}
                SIG_IGN => ignored.0 |= 1 << index,
                _ => caught.0 |= 1 << index,
            }
        }
        [pending, shared, blocked, ignored, caught]
    }

    /// User and system time in clock ticks, of 10 ms: own, and of children that were waited for.
    pub fn times_ticks(&self) -> [u64; 4] {
        let own = match self.host_stat() {
            Some(stat) => stat.times_ticks(),
            None => (0, 0),
        };
        let earlier = if self.of_thread { (0, 0) } else { self.process.earlier_usage().time_ns };
        let children = self.process.children_usage().time_ns;
        const TICK_NS: u64 = 10_000_000;
        [own.0 + earlier.0 / TICK_NS, own.1 + earlier.1 / TICK_NS, children.0 / TICK_NS, children.1 / TICK_NS]
    }
}
