//! System V inter-process communication (sysvipc(7)): shared memory, semaphores, message queues.
//!
//! [`registry`] has what the three kinds share: keys, ids and permissions. Lock order: a registry > an object's state >
//! wait queues.

pub mod message;
pub mod registry;
pub mod semaphore;
pub mod shared_memory;
pub mod tables;

use crate::Kernel;
use message::MessageQueue;
use registry::Registry;
use semaphore::SemaphoreSet;
use shared_memory::{Attachments, Segment};

/// A sandbox's objects.
#[derive(Default)]
pub struct Namespace {
    pub segments: Registry<Segment>,
    pub semaphores: Registry<SemaphoreSet>,
    pub queues: Registry<MessageQueue>,
    attachments: Attachments,
    /// Bytes in all message queues.
    pub message_bytes: std::sync::Arc<std::sync::atomic::AtomicUsize>,
    /// Semaphores in all sets.
    pub semaphore_count: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

/// fork(2): the child has the parent's segments attached.
pub fn forked(kernel: &Kernel, parent: i32, child: i32) {
    kernel.sysv.attachments.copy(parent, child);
}

/// execve(2): all segments are detached.
pub fn executed(kernel: &Kernel, pid: i32) {
    shared_memory::detach_all(kernel, pid);
}

/// The process has ended: its segments are detached, and its SEM_UNDO adjustments are made.
pub fn exited(kernel: &Kernel, pid: i32) {
    shared_memory::detach_all(kernel, pid);
    semaphore::undo_all(kernel, pid);
}
