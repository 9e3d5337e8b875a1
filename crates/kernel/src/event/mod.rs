//! Events on descriptors: waiting for them with [`poll`] (poll, select) and [`epoll`], and the objects that are nothing
//! but events: [`eventfd`], [`timerfd`], [`signalfd`], [`pidfd`], [`inotify`], [`aio`], and [`memfd`], which is only memory. [`host`]
//! watches descriptors of the host.

pub mod aio;
pub mod epoll;
pub mod eventfd;
pub mod host;
pub mod inotify;
pub mod memfd;
pub mod pidfd;
pub mod poll;
pub mod signalfd;
pub mod timerfd;

use crate::fs::inode::{Device, FileType, Metadata};
use std::sync::atomic::{AtomicU64, Ordering};

/// Inode numbers of objects that no file system holds (pipes, eventfds ...).
#[derive(Default)]
pub struct AnonymousInodes {
    last: AtomicU64,
}

impl AnonymousInodes {
    pub fn next(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// fstat(2) of an object like eventfd: they all share one inode of "anon_inodefs".
pub fn anonymous_metadata() -> Metadata {
    Metadata {
        device: Device::new(0, 14),
        inode: 1,
        kind: FileType::Regular,
        permissions: 0o600,
        links: 1,
        uid: 0,
        gid: 0,
        represents: Device::default(),
        size: 0,
        blocks: 0,
        block_size: 4096,
        accessed: Default::default(),
        modified: Default::default(),
        changed: Default::default(),
        created: None,
    }
}
