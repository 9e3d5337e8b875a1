//! The guest kernel: Linux as far as programs need it, in safe Rust.
//!
//! Rooms, each named as Linux names it: [`task`] (processes, threads, credentials, exec, wait), [`signal`], [`time`],
//! [`fs`] (files, path walk, mounts, and one folder per file system), [`ipc`] (pipes, System V, POSIX queues),
//! [`event`] (poll, epoll, eventfd, timerfd, signalfd, inotify), [`net`], [`tty`], and [`syscall`]: the table and the
//! handlers, which decode registers and call the rooms. Everything blocks through [`sync::wait`], nothing else.
//!
//! Lock order, outermost first: `task::PidTable` > process tree (`Process::relations`) > `Process::signals` >
//! `Task::signals` > `FdTable` > file system objects > wait queues. Never hold a lock across a copy from or to guest
//! memory (a guest page can block), nor across [`Context::sleep`].
#![forbid(unsafe_code)]

pub mod context;
pub mod event;
pub mod fs;
pub mod image;
pub mod ipc;
pub mod kernel;
mod marshal;
pub mod net;
pub mod policy;
pub(crate) mod ptrace;
pub mod run;
pub mod signal;
pub mod sync;
pub mod syscall;
pub mod task;
#[cfg(test)]
pub(crate) mod testing;
pub mod time;
pub mod tty;

pub use context::Context;
pub use kernel::Kernel;
pub use skerry_abi::Errno;

/// What nearly everything here returns.
pub type Result<T, E = Errno> = core::result::Result<T, E>;
