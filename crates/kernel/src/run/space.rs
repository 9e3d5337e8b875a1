//! What the sentry knows of an address space: which slots have threads, and the heap's end. The mappings themselves are
//! the host's.

use parking_lot::Mutex;
use skerry_platform::engine::HostThread;
use skerry_platform::layout::MAXIMUM_SLOTS;
use std::sync::atomic::AtomicBool;
use std::sync::Arc;

/// One address space; shared by the threads of a process, and with a vfork(2) child.
#[derive(Default)]
pub struct AddressSpace {
    slots: Mutex<Vec<Slot>>,
    /// The host process that it was made for; a vfork(2) child that uses it too is another one.
    pub(super) owner: i32,
    /// Its stub has a table of direct descriptors.
    pub(super) has_direct: AtomicBool,
    pub brk: Mutex<Brk>,
    /// A host clone that makes a process has been let through here.
    pub(super) has_made_process: AtomicBool,
    /// Host tids of its parked threads.
    pub(super) parked: Mutex<Vec<i32>>,
}

/// brk(2): the heap's first address, and its present end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Brk {
    pub start: u64,
    pub current: u64,
}

enum Slot {
    Free,
    /// Given to a thread that has not enrolled yet.
    Reserved,
    Used(Arc<HostThread>),
}

impl AddressSpace {
    /// With one thread, in `slot`.
    pub fn new(slot: u64, thread: Arc<HostThread>, brk: Brk) -> Arc<AddressSpace> {
        let owner = thread.pid;
        let mut slots: Vec<Slot> = (0..slot).map(|_| Slot::Free).collect();
        slots.push(Slot::Used(thread));
        Arc::new(AddressSpace { slots: Mutex::new(slots), owner, brk: Mutex::new(brk), ..AddressSpace::default() })
    }

    /// A slot whose last thread, if it had one, is really gone. `None`: too many threads.
    pub(super) fn reserve_slot(&self) -> Option<u64> {
        let mut slots = self.slots.lock();
        let reusable = |slot: &Slot| match slot {
            Slot::Free => true,
            Slot::Reserved => false,
            Slot::Used(thread) => thread.is_gone(),
        };
        if let Some(index) = slots.iter().position(reusable) {
            slots[index] = Slot::Reserved;
            return Some(index as u64);
        }
        if slots.len() as u64 >= MAXIMUM_SLOTS {
            return None;
        }
        slots.push(Slot::Reserved);
        Some(slots.len() as u64 - 1)
    }

    pub(super) fn use_slot(&self, slot: u64, thread: Arc<HostThread>) {
        if let Some(place) = self.slots.lock().get_mut(slot as usize) {
            *place = Slot::Used(thread);
        }
    }

    pub(super) fn free_slot(&self, slot: u64) {
        if let Some(place) = self.slots.lock().get_mut(slot as usize) {
            *place = Slot::Free;
        }
    }
}
