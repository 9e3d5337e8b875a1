//! Shared memory segments (shmget(2), shmat(2), shmctl(2)).
//!
//! A segment is a file in the sandbox's memory; attaching maps it in the application's own process. Who has what attached
//! where is kept by process, for shmdt(2), fork(2), execve(2) and exit.

use super::registry::{Object, Permission, PermissionStruct};
use crate::fs::file::{FileOperations, MappingRequest};
use crate::{Context, Errno, Kernel, Result};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// As Linux has it: no limit but what can be counted.
pub const SHMMAX: u64 = u64::MAX - (1 << 24);
/// Segments that one process may have attached.
const MOST_ATTACHED: usize = 65536;

/// Shown in the mode: removed once the last process detaches; locked.
pub const SHM_DEST: u32 = 0o1000;
pub const SHM_LOCKED: u32 = 0o2000;

/// `struct shmid64_ds` of x86-64: 112 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SegmentStruct {
    pub permission: PermissionStruct,
    pub size: u64,
    pub attach_time: i64,
    pub detach_time: i64,
    pub change_time: i64,
    pub creator: i32,
    pub last: i32,
    pub attached: u64,
    _unused: [u64; 2],
}

/// A segment.
pub struct Segment {
    memory: Arc<dyn FileOperations>,
    size: u64,
    state: Mutex<State>,
}

struct State {
    permission: Permission,
    shown: SegmentStruct,
}

impl Object for Segment {
    fn permission(&self) -> Permission {
        self.state.lock().permission
    }
    fn set_sequence(&mut self, sequence: u16) {
        self.state.get_mut().permission.sequence = sequence;
    }
    fn removed(&self) {}
}

impl Segment {
    /// `memory` is a file of `size` bytes (rounded up to pages).
    pub fn new(permission: Permission, memory: Arc<dyn FileOperations>, size: u64, creator: i32) -> Segment {
        let shown = SegmentStruct { size, creator, change_time: crate::time::realtime_now().sec, ..SegmentStruct::default() };
        Segment { memory, size, state: Mutex::new(State { permission, shown }) }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    /// What the address space needs: whole pages.
    pub fn mapped_size(&self) -> u64 {
        self.size.next_multiple_of(4096)
    }

    /// IPC_STAT.
    pub fn to_struct(&self) -> SegmentStruct {
        let state = self.state.lock();
        SegmentStruct { permission: state.permission.to_struct(), ..state.shown }
    }

    /// IPC_SET.
    pub fn set_permission(&self, new: &PermissionStruct) {
        let mut state = self.state.lock();
        state.permission.set(new);
        state.shown.change_time = crate::time::realtime_now().sec;
    }

    /// SHM_LOCK, SHM_UNLOCK: only shown.
    pub fn set_locked(&self, bits: u32) {
        let mut state = self.state.lock();
        state.permission.mode = state.permission.mode & !SHM_LOCKED | bits & SHM_LOCKED;
    }

    fn attached(&self, pid: i32) {
        let mut state = self.state.lock();
        state.shown.attached += 1;
        state.shown.last = pid;
        state.shown.attach_time = crate::time::realtime_now().sec;
    }

    /// Whether it is to go now.
    fn detached(&self, pid: i32) -> bool {
        let mut state = self.state.lock();
        state.shown.attached = state.shown.attached.saturating_sub(1);
        state.shown.last = pid;
        state.shown.detach_time = crate::time::realtime_now().sec;
        state.shown.attached == 0 && state.permission.mode & SHM_DEST != 0
    }

    /// IPC_RMID: the key is free at once. Whether the segment is to go now.
    fn mark_for_removal(&self) -> bool {
        let mut state = self.state.lock();
        state.permission.mode |= SHM_DEST;
        state.permission.key = super::registry::IPC_PRIVATE;
        state.shown.attached == 0
    }
}

/// IPC_RMID.
pub fn remove(kernel: &Kernel, id: i32, segment: &Arc<Segment>) {
    kernel.sysv.segments.release_key(segment.permission().key, id);
    if segment.mark_for_removal() {
        kernel.sysv.segments.remove(id, segment);
    }
}

/// Where processes have segments attached: by pid and address.
#[derive(Default)]
pub(super) struct Attachments {
    by_process: Mutex<HashMap<i32, BTreeMap<u64, Attached>>>,
}

#[derive(Clone)]
struct Attached {
    id: i32,
    segment: Arc<Segment>,
}

impl Attachments {
    /// fork(2).
    pub(super) fn copy(&self, parent: i32, child: i32) {
        let mut by_process = self.by_process.lock();
        let Some(attached) = by_process.get(&parent).cloned() else { return };
        for entry in attached.values() {
            entry.segment.attached(child);
        }
        by_process.insert(child, attached);
    }
}

/// A segment on its way into an address space; end it with [`Attachment::done`] or [`Attachment::undo`].
pub struct Attachment {
    id: i32,
    segment: Arc<Segment>,
    pub descriptor: Arc<OwnedFd>,
    /// In whole pages.
    pub size: u64,
}

impl Attachment {
    /// It is mapped at `address`.
    pub fn done(self, context: &Context, address: u64) {
        let attached = Attached { id: self.id, segment: self.segment };
        let pid = context.process().pid();
        let before = context.kernel().sysv.attachments.by_process.lock().entry(pid).or_default().insert(address, attached);
        // Mapped over by SHM_REMAP.
        if let Some(before) = before {
            detached(context.kernel(), pid, &before);
        }
    }

    /// It could not be mapped.
    pub fn undo(self, context: &Context) {
        detached(context.kernel(), context.process().pid(), &Attached { id: self.id, segment: self.segment });
    }
}

/// How a segment is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    ReadWrite,
}

/// shmat(2), up to the mapping itself. EINVAL, EIDRM, EACCES, ENOMEM.
pub fn attach(context: &Context, id: i32, access: Access) -> Result<Attachment> {
    let sysv = &context.kernel().sysv;
    let segment = sysv.segments.find(id)?;
    segment.permission().check(
        &context.task.credentials(),
        match access {
            Access::Read => 0o444,
            Access::ReadWrite => 0o666,
        },
    )?;
    let pid = context.process().pid();
    if sysv.attachments.by_process.lock().get(&pid).is_some_and(|attached| attached.len() >= MOST_ATTACHED) {
        return Err(Errno::ENOMEM);
    }
    let size = segment.mapped_size();
    let request = MappingRequest { shared: true, writable: access == Access::ReadWrite, offset: 0, length: size };
    let descriptor = segment.memory.mapping_descriptor(request)?;
    segment.attached(pid);
    Ok(Attachment { id, segment, descriptor, size })
}

/// shmdt(2), up to the unmapping: how many bytes are mapped there. EINVAL.
pub fn detach(context: &Context, address: u64) -> Result<u64> {
    let kernel = context.kernel();
    let pid = context.process().pid();
    let entry = {
        let mut by_process = kernel.sysv.attachments.by_process.lock();
        by_process.get_mut(&pid).and_then(|attached| attached.remove(&address)).ok_or(Errno::EINVAL)?
    };
    detached(kernel, pid, &entry);
    Ok(entry.segment.mapped_size())
}

fn detached(kernel: &Kernel, pid: i32, entry: &Attached) {
    if entry.segment.detached(pid) {
        kernel.sysv.segments.remove(entry.id, &entry.segment);
    }
}

pub(super) fn detach_all(kernel: &Kernel, pid: i32) {
    let attached = kernel.sysv.attachments.by_process.lock().remove(&pid);
    for entry in attached.into_iter().flat_map(BTreeMap::into_values) {
        detached(kernel, pid, &entry);
    }
}
