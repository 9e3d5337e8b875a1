//! Threads.

use super::{Credentials, Process};
use crate::fs::fd_table::FdTable;
use crate::fs::path::Path;
use crate::signal::TaskSignals;
use crate::sync::Waiter;
use crate::{Context, Kernel, Result};
use parking_lot::{Mutex, RwLock};
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
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
    tid: i32,
    process: Arc<Process>,
    /// comm, at most 15 bytes (prctl(PR_SET_NAME)).
    pub name: RwLock<Vec<u8>>,
    files: RwLock<Arc<FdTable>>,
    fs: RwLock<Arc<RwLock<FsContext>>>,
    credentials: RwLock<Arc<Credentials>>,
    memory: RwLock<Arc<GuestMemory>>,
    pub signals: Mutex<TaskSignals>,
    waiter: Arc<Waiter>,
    /// A signal is to be delivered, or the task is to die: sleeping ends. Kept by [`crate::signal`].
    pub(crate) interrupted: AtomicBool,
    /// set_tid_address(2).
    pub clear_child_tid: AtomicU64,
    pub robust_list: AtomicU64,
    pub timer_slack_ns: AtomicU64,
    pub personality: AtomicU32,
    /// What restart_syscall(2), or a return without a handler, goes on with.
    pub restart: Mutex<Option<RestartBlock>>,
    /// The host thread that runs it now; `None` before it has enrolled.
    pub host: RwLock<Option<Arc<skerry_platform::engine::HostThread>>>,
    /// Whether the thread is in the guest kernel (then a wake-up of its waiter is enough) or runs its own code (then it
    /// must be kicked). Changed under `signals`' lock.
    pub in_kernel: AtomicBool,
}

impl Task {
    pub fn tid(&self) -> i32 {
        self.tid
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
    }
    pub fn memory(&self) -> Arc<GuestMemory> {
        self.memory.read().clone()
    }
    pub fn waiter(&self) -> Arc<Waiter> {
        self.waiter.clone()
    }
    /// Whether sleeping must end: a signal that is not blocked is pending, or the task is to die.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Acquire)
    }
    /// Queues a thread-directed signal (tgkill(2), faults).
    pub fn send_signal(&self, info: skerry_abi::signal::SignalInfo) {
        crate::signal::send_to_task(self, info);
    }
}
