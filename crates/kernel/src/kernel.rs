//! One sandbox's kernel: what all its tasks share.

use crate::task::PidTable;
use parking_lot::RwLock;
use skerry_control::{Event, Limits, Network};
use std::sync::atomic::AtomicU64;
use std::time::Instant;

/// What all tasks of a sandbox share.
pub struct Kernel {
    pub pids: PidTable,
    pub hostname: RwLock<Vec<u8>>,
    pub domainname: RwLock<Vec<u8>>,
    pub limits: Limits,
    pub network: Network,
    /// When the sandbox was made: uptime counts from here.
    pub booted: Instant,
    pub system_calls: AtomicU64,
    pub events: Box<dyn Fn(Event) + Send + Sync>,
    /// The namespace of mounts, once [`Kernel::set_root`] has run.
    pub mounts: crate::fs::mount::MountTable,
    /// Bytes that in-memory file systems hold, against `limits.memory_files`.
    pub memory_files: crate::fs::tmpfs::Quota,
    pub pipes: std::sync::Arc<crate::ipc::pipe::PipeAccount>,
    pub timers: std::sync::Arc<crate::time::queue::TimerQueue>,
    pub epoll_limits: std::sync::Arc<crate::event::epoll::EpollLimits>,
    pub anonymous_inodes: crate::event::AnonymousInodes,
}
