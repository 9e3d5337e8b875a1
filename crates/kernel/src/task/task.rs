//! Threads.

use super::{Credentials, Process};
use crate::fs::fd_table::FdTable;
use crate::fs::file::OpenFile;
use crate::fs::path::Path;
use crate::ptrace::Tracee;
use crate::run::AddressSpace;
use crate::signal::TaskSignals;
use crate::sync::Waiter;
use crate::task::scheduling::Scheduling;
use crate::task::seccomp::{FilterChain, Filters};
use crate::{Context, Kernel, Result};
use parking_lot::{Mutex, RwLock};
use skerry_abi::signal::{SignalSet, SignalStack};
use skerry_platform::channel::Channel;
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// Root, working directory and umask; shared with CLONE_FS.
#[derive(Clone)]
pub struct FsContext {
    pub root: Path,
    pub current: Path,
    pub umask: u32,
}

/// How an interrupted call goes on (ERESTART_RESTARTBLOCK): nanosleep with its absolute deadline, for instance.
pub type RestartBlock = Box<dyn FnOnce(&mut Context) -> Result<u64> + Send>;

/// One thread.
pub struct Task {
    /// Changes once, when a thread that is not the leader executes a program (execve(2), "effect on threads").
    tid: AtomicI32,
    process: Arc<Process>,
    /// comm, at most 15 bytes (prctl(PR_SET_NAME)).
    pub name: RwLock<Vec<u8>>,
    files: RwLock<Arc<FdTable>>,
    fs: RwLock<Arc<RwLock<FsContext>>>,
    credentials: RwLock<Arc<Credentials>>,
    memory: RwLock<Arc<GuestMemory>>,
    address_space: RwLock<Option<Arc<AddressSpace>>>,
    pub signals: Mutex<TaskSignals>,
    waiter: Arc<Waiter>,
    /// A signal is to be delivered, or the task is to die: sleeping ends. Kept by [`crate::signal`].
    pub(crate) interrupted: AtomicBool,
    /// set_tid_address(2).
    pub(super) clear_child_tid: AtomicU64,
    pub(super) robust_list: AtomicU64,
    pub timer_slack_ns: AtomicU64,
    /// What PR_SET_TIMERSLACK with 0 goes back to: its maker's at that time.
    pub default_timer_slack_ns: u64,
    pub personality: AtomicU32,
    /// What restart_syscall(2), or a return without a handler, goes on with.
    pub restart: Mutex<Option<RestartBlock>>,
    /// The host thread that runs it now; `None` before it has enrolled.
    pub host: RwLock<Option<Arc<skerry_platform::engine::HostThread>>>,
    /// Whether the thread is in the guest kernel (then a wake-up of its waiter is enough) or runs its own code (then it
    /// must be kicked). Changed under `signals`' lock. True until it first leaves through `prepare_return`.
    pub in_kernel: AtomicBool,
    /// prctl(PR_SET_PDEATHSIG); 0 = none.
    pub parent_death_signal: AtomicI32,
    /// nice(2), sched(7), ioprio_set(2).
    pub scheduling: RwLock<Scheduling>,
    /// Of its own (seccomp(2)).
    pub seccomp: Filters,
    /// Another task traces it (ptrace(2)), as `ptrace` says.
    pub traced: AtomicBool,
    pub(crate) ptrace: Tracee,
    /// The host thread is gone and the rest of its state has been let go.
    pub(crate) gone: AtomicBool,
    /// Where its stub reads who it is; see `identity`.
    pub(super) channel: Mutex<Option<Arc<Channel>>>,
}

/// What a new thread is made of; see [`Task::new`].
pub struct TaskParts {
    pub name: Vec<u8>,
    pub files: Arc<FdTable>,
    pub fs: Arc<RwLock<FsContext>>,
    pub credentials: Arc<Credentials>,
    pub memory: Arc<GuestMemory>,
    pub blocked: SignalSet,
    pub stack: SignalStack,
    pub personality: u32,
    pub timer_slack_ns: u64,
    pub scheduling: Scheduling,
    pub seccomp: Option<Arc<FilterChain>>,
}

/// Linux's default timer slack (prctl(2), PR_SET_TIMERSLACK).
pub const DEFAULT_TIMER_SLACK_NS: u64 = 50_000;

impl Task {
    /// A thread of `process` that nothing lists yet: see `task::lifecycle`.
    pub(super) fn new(tid: i32, process: Arc<Process>, parts: TaskParts) -> Arc<Task> {
        Arc::new(Task {
            tid: AtomicI32::new(tid),
            process,
            name: RwLock::new(parts.name),
            files: RwLock::new(parts.files),
            fs: RwLock::new(parts.fs),
            credentials: RwLock::new(parts.credentials),
            memory: RwLock::new(parts.memory),
            address_space: RwLock::new(None),
            signals: Mutex::new(TaskSignals::new(parts.blocked, parts.stack)),
            waiter: Waiter::new(),
            interrupted: AtomicBool::new(false),
            clear_child_tid: AtomicU64::new(0),
            robust_list: AtomicU64::new(0),
            timer_slack_ns: AtomicU64::new(parts.timer_slack_ns),
            default_timer_slack_ns: parts.timer_slack_ns,
            personality: AtomicU32::new(parts.personality),
            host: RwLock::new(None),
            in_kernel: AtomicBool::new(true),
            restart: Mutex::new(None),
            parent_death_signal: AtomicI32::new(0),
            scheduling: RwLock::new(parts.scheduling),
            seccomp: Filters::new(parts.seccomp),
            traced: AtomicBool::new(false),
            ptrace: Tracee::default(),
            gone: AtomicBool::new(false),
            channel: Mutex::new(None),
        })
    }

    pub fn tid(&self) -> i32 {
        self.tid.load(Ordering::Relaxed)
    }
    pub(super) fn set_tid(&self, tid: i32) {
        self.tid.store(tid, Ordering::Relaxed);
    }
    pub fn is_leader(&self) -> bool {
        self.tid() == self.process.pid()
    }
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }
    pub fn kernel(&self) -> &Arc<Kernel> {
        self.process.kernel()
    }
    pub fn files(&self) -> Arc<FdTable> {
        self.files.read().clone()
    }
    /// The open file behind a descriptor; EBADF.
    pub fn file(&self, fd: i32) -> Result<Arc<OpenFile>> {
        self.files.read().get(fd)
    }
    pub fn set_files(&self, files: Arc<FdTable>) {
        *self.files.write() = files;
    }
    /// A copy of root, working directory and umask as they are now.
    pub fn fs(&self) -> FsContext {
        self.fs.read().read().clone()
    }
    /// The shared cell itself, for chdir(2), chroot(2), umask(2).
    pub fn fs_cell(&self) -> Arc<RwLock<FsContext>> {
        self.fs.read().clone()
    }
    pub fn set_fs_cell(&self, fs: Arc<RwLock<FsContext>>) {
        *self.fs.write() = fs;
    }
    pub fn credentials(&self) -> Arc<Credentials> {
        self.credentials.read().clone()
    }
    pub fn set_credentials(&self, credentials: Credentials) {
        *self.credentials.write() = Arc::new(credentials);
        self.tell_identity();
    }
    pub fn memory(&self) -> Arc<GuestMemory> {
        self.memory.read().clone()
    }
    /// Another address space: the engine's, after fork(2) and execve(2).
    pub fn set_memory(&self, memory: Arc<GuestMemory>) {
        *self.memory.write() = memory;
    }
    /// What the engine knows of the address space; `None` before the task has a host thread.
    pub fn address_space(&self) -> Option<Arc<AddressSpace>> {
        self.address_space.read().clone()
    }
    pub(crate) fn set_address_space(&self, space: Arc<AddressSpace>) {
        *self.address_space.write() = Some(space);
    }
    pub fn waiter(&self) -> Arc<Waiter> {
        self.waiter.clone()
    }
    pub fn waiter_ref(&self) -> &Arc<Waiter> {
        &self.waiter
    }
    /// Whether sleeping must end: a signal that is not blocked is pending, or the task is to die.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }
    /// The thread has ended for good.
    pub fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Acquire)
    }
    /// Queues a thread-directed signal (tgkill(2), faults).
    pub fn send_signal(&self, info: skerry_abi::signal::SignalInfo) {
        crate::signal::send_to_task(self, info);
    }
}
