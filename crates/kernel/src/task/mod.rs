//! Tasks: threads ([`Task`]) and thread groups ([`Process`]), with their credentials, and who is whose child.
//!
//! Parts: `lifecycle` makes them (pid 1, spawn, clone), `exit` ends them, `exec` is what execve(2) changes, `wait` is
//! wait(2), `job_control` process groups and sessions, `credentials` who may do what, `seccomp` a guest's own filters,
//! `limits` and `usage` of resources, `scheduling` priorities and affinity (stored, not enforced).
//!
//! Lock order within this room: `Kernel::tree` > `PidTable` > `Process::relations` (parent before child) >
//! `Process::signals` > `Process::threads` > `Task::signals` > `Process::actions`; the small `RwLock`ed fields (name,
//! credentials, fs, files) are innermost. Signals are sent with none of them held but `Kernel::tree`.

pub mod credentials;
pub(crate) mod exec;
pub(crate) mod exit;
pub(crate) mod host_kill;
pub(crate) mod identity;
pub(crate) mod job_control;
pub(crate) mod lifecycle;
pub(crate) mod limits;
mod pid_table;
mod process;
pub(crate) mod robust;
pub(crate) mod scheduling;
pub mod seccomp;
#[allow(clippy::module_inception)]
mod task;
pub(crate) mod usage;
pub(crate) mod wait;

pub use credentials::{AccessMode, Capabilities, Credentials};
pub use exec::{exec_reset, kill_other_threads, ExecFile};
pub use exit::{exit_group, exit_thread, host_gone, kill_all, thread_gone};
pub(crate) use exit::{host_leaves, kill_group, kill_host};
pub use host_kill::HostKills;
pub(crate) use lifecycle::adopt_thread;
pub use lifecycle::{clone_task, discard_clone, spawn, CloneRequest, SpawnRequest};
pub use pid_table::PidTable;
pub use process::{ExitStatus, Login, Process, ProcessGroup, Relations, Session, SessionHangup, SignalActions};
pub use task::{FsContext, RestartBlock, Task, DEFAULT_TIMER_SLACK_NS};
pub(crate) use usage::Dying;

/// The program a process runs.
#[derive(Clone, Default)]
pub struct Program {
    /// The executable.
    pub executable: Option<crate::fs::text::Text>,
    /// The dynamic linker was started with it.
    pub has_interpreter: bool,
    /// Guest addresses of the argument and environment strings (/proc/PID/cmdline, environ): start and end.
    pub arguments: (u64, u64),
    pub environment: (u64, u64),
    /// The auxiliary vector as it was laid down.
    pub auxiliary: Vec<(u64, u64)>,
    /// brk(2): where it starts, and where it is now.
    pub brk_start: u64,
    pub stack_top: u64,
}

#[cfg(test)]
mod tests;
