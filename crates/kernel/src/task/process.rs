//! Thread groups, process groups and sessions (credentials(7), setpgid(2), setsid(2)).

use super::scheduling::Scheduling;
use super::{Credentials, Task};
use crate::sync::WaitQueue;
use crate::tty::Terminal;
use crate::Kernel;
use parking_lot::{Mutex, RwLock};
use skerry_abi::signal::{SigAction, SignalInfo, SignalSet, CLD_DUMPED, CLD_EXITED, CLD_KILLED};
use skerry_abi::structs::RLimit;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// A session: what setsid(2) makes.
pub struct Session {
    pub id: i32,
    /// The controlling terminal.
    pub terminal: Mutex<Option<Arc<Terminal>>>,
    /// What the terminal wants done when the session's leader has died (SIGHUP to its foreground group, and so on); set
    /// by the terminal when it becomes the controlling one.
    pub hangup: Mutex<Option<SessionHangup>>,
}

/// See [`Session::hangup`]. Called with no lock held.
pub type SessionHangup = Box<dyn FnOnce(&Kernel, &Session) + Send>;

impl Session {
    pub fn new(id: i32) -> Arc<Session> {
        Arc::new(Session { id, terminal: Mutex::new(None), hangup: Mutex::new(None) })
    }
}

/// A process group: what setpgid(2) makes.
pub struct ProcessGroup {
    pub id: i32,
    pub session: Arc<Session>,
}

/// Who is whose: parent, children, group. One lock for all of it per process.
pub struct Relations {
    pub parent: Weak<Process>,
    /// The thread of the parent that made it (PR_SET_PDEATHSIG, __WNOTHREAD).
    pub parent_thread: i32,
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

    /// si_code and si_status of a child's end (sigaction(2), waitid(2)).
    pub(crate) fn code_and_value(self) -> (i32, i32) {
        match self {
            ExitStatus::Exited(status) => (CLD_EXITED, i32::from(status)),
            ExitStatus::Signaled(signal, false) => (CLD_KILLED, signal.number()),
            ExitStatus::Signaled(signal, true) => (CLD_DUMPED, signal.number()),
        }
    }
}

/// Dispositions by signal number less one. Shared by processes only with CLONE_SIGHAND; `lock` gives the present ones.
pub struct SignalActions(RwLock<Arc<Mutex<[SigAction; 64]>>>);

impl SignalActions {
    pub fn new(actions: [SigAction; 64]) -> SignalActions {
        SignalActions(RwLock::new(Arc::new(Mutex::new(actions))))
    }
    pub fn lock(&self) -> parking_lot::ArcMutexGuard<parking_lot::RawMutex, [SigAction; 64]> {
        self.0.read().lock_arc()
    }
    /// The same ones, for CLONE_SIGHAND.
    pub fn share(&self) -> SignalActions {
        SignalActions(RwLock::new(self.0.read().clone()))
    }
    /// At least those that are not as a process begins with.
    pub(crate) fn changed(&self) -> SignalSet {
        let shared = self.0.read();
        // Then another process changes them.
        if Arc::strong_count(&shared) > 1 {
            return SignalSet::FULL;
        }
        let actions = shared.lock();
        SignalSet(actions.iter().enumerate().filter(|(_, action)| !action.is_initial()).map(|(index, _)| 1 << index).sum())
    }
    /// Another process has them too.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0.read()) > 1
    }
    /// Equal for processes that share them (kcmp(2)).
    pub(crate) fn identity(&self) -> usize {
        Arc::as_ptr(&*self.0.read()).cast::<()>() as usize
    }
    /// A copy, for fork(2).
    pub fn copy(&self) -> SignalActions {
        SignalActions::new(*self.lock())
    }
    /// Stops sharing (execve(2)).
    pub(super) fn unshare(&self) {
        let copy = *self.lock();
        *self.0.write() = Arc::new(Mutex::new(copy));
    }
}

/// Who logged in to start it, and which login that was (proc_pid_loginuid(5)); all ones: nobody did.
#[derive(Clone, Copy, Debug)]
pub struct Login {
    pub uid: u32,
    pub session: u32,
}

impl Default for Login {
    fn default() -> Login {
        Login { uid: u32::MAX, session: u32::MAX }
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
    pub actions: SignalActions,
    /// Woken whenever a signal gets pending for the process or one of its threads (signalfd, sigtimedwait).
    pub signal_queue: WaitQueue,
    /// Woken whenever one of its threads ends (execve(2) waits for the others).
    pub thread_queue: WaitQueue,
    /// A vfork(2) parent waits on the queue until the flag is set: by exec or death.
    pub vfork_done: AtomicBool,
    pub vfork_queue: WaitQueue,
    pub rlimits: RwLock<[RLimit; 16]>,
    /// Set once the last thread is gone.
    pub exit_status: Mutex<Option<ExitStatus>>,
    pub(crate) dead: AtomicBool,
    /// Woken when a child changes state (wait4, waitid), and by own death (pidfd: `exit_queue`).
    pub child_queue: WaitQueue,
    /// The threads that its threads trace (ptrace(2)).
    pub(crate) tracees: Mutex<Vec<Arc<Task>>>,
    /// Whose thread traces its leader, which hears of its end before its parent does.
    pub(crate) tracer: Mutex<Weak<Process>>,
    pub exit_queue: WaitQueue,
    /// What to send the parent at exit (0 = nothing); SIGCHLD but for clone(2) with another.
    pub exit_signal: AtomicI32,
    /// The program that runs (for /proc/PID/exe, cmdline, environ, auxv).
    pub program: RwLock<crate::task::Program>,
    /// When it started, nanoseconds since boot.
    pub start_time_ns: u64,
    /// What it has used; see `usage`.
    pub(super) account: Mutex<super::usage::Account>,
    /// Of its next children: how many are probably asked for what they have used as soon as they have ended.
    pub(super) asks_for_usage: AtomicU32,
    pub child_subreaper: AtomicBool,
    pub dumpable: AtomicBool,
    pub oom_score_adj: AtomicI32,
    pub login: RwLock<Login>,
    /// prctl(PR_SET_THP_DISABLE); only told.
    pub(crate) huge_pages_disabled: AtomicBool,
    /// alarm(2), setitimer(2), timer_create(2).
    pub timers: crate::time::ProcessTimers,
    /// The host process that runs it now (exec replaces it); `None` before the first one and after death.
    pub host: RwLock<Option<Arc<skerry_platform::engine::HostProcess>>>,
    /// execve(2) has succeeded (setpgid(2), EACCES).
    pub(crate) executed: AtomicBool,
    /// What watches RLIMIT_CPU, where there is such a limit.
    pub(super) cpu_limit: Mutex<Option<Arc<crate::time::interval::IntervalTimer>>>,
    /// Those of the last thread, for a zombie's sake.
    pub(super) last_credentials: RwLock<Arc<Credentials>>,
    pub(super) last_name: RwLock<Vec<u8>>,
    pub(super) last_scheduling: RwLock<Scheduling>,
}

/// What a new process is made of; see [`Process::new`].
pub(super) struct ProcessParts {
    pub kernel: Arc<Kernel>,
    pub relations: Relations,
    pub actions: SignalActions,
    pub rlimits: [RLimit; 16],
    pub exit_signal: i32,
    pub program: crate::task::Program,
    pub oom_score_adj: i32,
    pub login: Login,
    pub dumpable: bool,
    pub credentials: Arc<Credentials>,
}

impl Process {
    /// A process without threads that nothing lists yet: see `task::lifecycle`.
    pub(super) fn new(pid: i32, parts: ProcessParts) -> Arc<Process> {
        let start_time_ns = u64::try_from(parts.kernel.booted.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Arc::new(Process {
            pid,
            kernel: parts.kernel,
            relations: Mutex::new(parts.relations),
            threads: Mutex::new(Vec::new()),
            signals: Mutex::new(crate::signal::ProcessSignals::default()),
            actions: parts.actions,
            signal_queue: WaitQueue::new(),
            thread_queue: WaitQueue::new(),
            vfork_done: AtomicBool::new(false),
            vfork_queue: WaitQueue::new(),
            rlimits: RwLock::new(parts.rlimits),
            exit_status: Mutex::new(None),
            dead: AtomicBool::new(false),
            child_queue: WaitQueue::new(),
            tracees: Mutex::default(),
            tracer: Mutex::default(),
            exit_queue: WaitQueue::new(),
            exit_signal: AtomicI32::new(parts.exit_signal),
            program: RwLock::new(parts.program),
            start_time_ns,
            account: Mutex::default(),
            asks_for_usage: AtomicU32::new(0),
            child_subreaper: AtomicBool::new(false),
            dumpable: AtomicBool::new(parts.dumpable),
            oom_score_adj: AtomicI32::new(parts.oom_score_adj),
            login: RwLock::new(parts.login),
            huge_pages_disabled: AtomicBool::new(false),
            timers: crate::time::ProcessTimers::default(),
            host: RwLock::new(None),
            executed: AtomicBool::new(false),
            cpu_limit: Mutex::new(None),
            last_credentials: RwLock::new(parts.credentials),
            last_name: RwLock::new(Vec::new()),
            last_scheduling: RwLock::default(),
        })
    }

    /// Pid 1: the sandbox's own init, which runs no program (see `task::lifecycle`).
    pub fn is_init(&self) -> bool {
        self.pid == 1
    }
    /// The leader's credentials; those of the last thread once there is none.
    pub fn credentials(&self) -> Arc<Credentials> {
        match self.leader_or_any() {
            Some(task) => task.credentials(),
            None => self.last_credentials.read().clone(),
        }
    }
    /// The leader's name (comm); that of the last thread once there is none.
    pub fn name(&self) -> Vec<u8> {
        match self.leader_or_any() {
            Some(task) => task.name.read().clone(),
            None => self.last_name.read().clone(),
        }
    }
    /// The leader's priorities; those of the last thread once there is none.
    pub fn scheduling(&self) -> Scheduling {
        match self.leader_or_any() {
            Some(task) => *task.scheduling.read(),
            None => *self.last_scheduling.read(),
        }
    }
    /// How it is about to end: exit_group(2) or a fatal signal has come.
    pub fn group_exit(&self) -> Option<ExitStatus> {
        self.signals.lock().group_exit
    }
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
