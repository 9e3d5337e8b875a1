//! Tasks: threads ([`Task`]) and thread groups ([`Process`]), with their credentials, and who is whose child.
//!
//! Lock order within this room: `PidTable` > `Process::relations` (parent before child) > `Process::signals` >
//! `Task::signals`; the small `RwLock`ed fields (name, credentials, fs, files) are innermost.

pub mod credentials;
mod pid_table;
mod process;
#[allow(clippy::module_inception)]
mod task;

pub use credentials::{AccessMode, Capabilities, Credentials};
pub use pid_table::PidTable;
pub use process::{ExitStatus, Process, ProcessGroup, Relations, Session};
pub use task::{FsContext, Task};

/// The program a process runs.
#[derive(Clone, Default)]
pub struct Program {
    /// The executable's place in the tree.
    pub executable: Option<crate::fs::path::Path>,
    /// Guest addresses of the argument and environment strings (/proc/PID/cmdline, environ): start and end.
    pub arguments: (u64, u64),
    pub environment: (u64, u64),
    /// The auxiliary vector as it was laid down.
    pub auxiliary: Vec<(u64, u64)>,
    /// brk(2): where it starts, and where it is now.
    pub brk_start: u64,
    pub stack_top: u64,
}
