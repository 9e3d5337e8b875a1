//! Thread groups, process groups and sessions (credentials(7), setpgid(2), setsid(2)).

use super::Task;
use crate::sync::WaitQueue;
use crate::tty::Terminal;
use crate::Kernel;
use parking_lot::{Mutex, RwLock};
use skerry_abi::signal::{SigAction, SignalInfo};
use skerry_abi::structs::RLimit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// A session: what setsid(2) makes.
pub struct Session {
    pub id: i32,
    /// The controlling terminal.
    pub terminal: Mutex<Option<Arc<Terminal>>>,
}

/// A process group: what setpgid(2) makes.
pub struct ProcessGroup {
    pub id: i32,
    pub session: Arc<Session>,
}

/// Who is whose: parent, children, group. One lock for all of it per process.
pub struct Relations {
    pub parent: Weak<Process>,
    pub children: Vec<Arc<Process>>,
    pub group: Arc<ProcessGroup>,
}

/// How a process ended, as wait(2) encodes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExitStatus {
    /// Exit status 0-255.
    Exited(u8),
    /// Killed by a signal; whether a core would have been dumped.
    Signaled(skerry_abi::signal::Signal, bool),
}

impl ExitStatus {
    /// The status word of wait4(2).
    pub fn wait_status(self) -> i32 {
        match self {
            ExitStatus::Exited(status) => i32::from(status) << 8,
            ExitStatus::Signaled(signal, core) => signal.number() | if core { 0x80 } else { 0 },
        }
    }
}

/// A thread group.
pub struct Process {
    pid: i32,
    kernel: Arc<Kernel>,
    pub relations: Mutex<Relations>,
    /// Threads that live, the leader first while it lives.
    pub threads: Mutex<Vec<Arc<Task>>>,
    /// Process-directed pending signals, and the state of job control.
    pub signals: Mutex<crate::signal::ProcessSignals>,
    /// Dispositions, shared by all threads (and with CLONE_SIGHAND).
    pub actions: Mutex<[SigAction; 64]>,
    /// Woken whenever a signal gets pending for the process or one of its threads (signalfd, sigtimedwait).
    pub signal_queue: WaitQueue,
    pub rlimits: RwLock<[RLimit; 16]>,
    /// Set once the last thread is gone.
    pub exit_status: Mutex<Option<ExitStatus>>,
    pub(crate) dead: AtomicBool,
    /// Woken when a child changes state (wait4, waitid), and by own death (pidfd: `exit_queue`).
    pub child_queue: WaitQueue,
    pub exit_queue: WaitQueue,
    /// What to send the parent at exit (0 = nothing); SIGCHLD but for clone(2) with another.
    pub exit_signal: AtomicI32,
    /// The program that runs (for /proc/PID/exe, cmdline, environ, auxv).
    pub program: RwLock<crate::task::Program>,
    /// When it started, nanoseconds since boot.
    pub start_time_ns: u64,
    /// CPU time of children that were waited for, and of earlier host processes of this one (exec): (user, system) ns.
    pub children_time_ns: Mutex<(u64, u64)>,
    pub earlier_time_ns: Mutex<(u64, u64)>,
    pub child_subreaper: AtomicBool,
    pub dumpable: AtomicBool,
    pub oom_score_adj: AtomicI32,
    /// alarm(2), setitimer(2), timer_create(2).
    pub timers: crate::time::ProcessTimers,
    /// The host process that runs it now (exec replaces it); `None` before the first one and after death.
    pub host: RwLock<Option<Arc<skerry_platform::engine::HostProcess>>>,
    pub(crate) executed: AtomicBool,
    pub(crate) max_rss: AtomicU64,
}

impl Process {
    pub fn pid(&self) -> i32 {
        self.pid
    }
    pub fn kernel(&self) -> &Arc<Kernel> {
        &self.kernel
    }
    /// All threads are gone (a zombie until waited for).
    pub fn is_dead(&self) -> bool {
        self.dead.load(Ordering::Acquire)
    }
    pub fn parent(&self) -> Option<Arc<Process>> {
        self.relations.lock().parent.upgrade()
    }
    pub fn group(&self) -> Arc<ProcessGroup> {
        self.relations.lock().group.clone()
    }
    pub fn session(&self) -> Arc<Session> {
        self.relations.lock().group.session.clone()
    }
    /// `resource`: RLIMIT_* (getrlimit(2)), 0-15.
    pub fn rlimit(&self, resource: u32) -> RLimit {
        self.rlimits.read()[resource as usize & 15]
    }
    pub fn leader_or_any(&self) -> Option<Arc<Task>> {
        self.threads.lock().first().cloned()
    }
    /// Queues a process-directed signal and lets a thread that can take it know.
    pub fn send_signal(&self, info: SignalInfo) {
        crate::signal::send_to_process(self, info);
    }
}

impl ProcessGroup {
    /// The processes in it that live or are zombies.
    pub fn members(&self, kernel: &Kernel) -> Vec<Arc<Process>> {
        kernel.pids.processes().into_iter().filter(|process| process.group().id == self.id).collect()
    }
    /// Sends `info` to each member.
    pub fn send_signal(&self, kernel: &Kernel, info: SignalInfo) {
        for process in self.members(kernel) {
            process.send_signal(info);
        }
    }
}
