//! What the sentry knows of an address space: which slots have threads, and the heap's end. The mappings themselves are
//! the host's.

use super::hold::Attempts;
use super::pipes::Places;
use crate::event::aio::AioContexts;
use crate::image::Plain;
use crate::task::Task;
use parking_lot::Mutex;
use skerry_platform::engine::HostThread;
use skerry_platform::layout::{MAXIMUM_SLOTS, STUB_BASE};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// One address space; shared by the threads of a process, and with a vfork(2) child.
#[derive(Default)]
pub struct AddressSpace {
    slots: Mutex<Vec<Slot>>,
    /// The host process that it was made for; a vfork(2) child that uses it too is another one.
    pub(super) owner: i32,
    /// Its program has said that it will ask for private barriers (membarrier(2)).
    pub(crate) has_barriers: AtomicBool,
    /// Its stub has a table of direct descriptors.
    pub(super) has_direct: AtomicBool,
    /// Shared pipes that its stub has been told of.
    pub(super) pipes: Mutex<Places>,
    pub brk: Mutex<Brk>,
    pub aio: AioContexts,
    /// A host clone that makes a process has been let through here.
    pub(super) has_made_process: AtomicBool,
    /// Host tids of its parked threads.
    pub(super) parked: Mutex<Vec<i32>>,
    /// One thread holds all others.
    pub(super) is_held: AtomicBool,
    pub(super) attempts_to_hold: Mutex<Attempts>,
    /// Code that was mapped without its image.
    plain_code: Mutex<Vec<PlainCode>>,
}

/// Where code of a file was mapped as it is; by now anything may be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlainCode {
    pub file: Plain,
    pub address: u64,
    pub offset: u64,
    pub length: u64,
    pub protection: u64,
}

/// Mappings of code that are remembered; others stay as they are.
const MAXIMUM_PLAIN_CODE: usize = 32;

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

    /// The heap as it is now: `task`, whose space this is, may have moved its end by itself.
    pub(crate) fn heap(&self, task: &Task) -> Brk {
        let mut brk = self.brk.lock();
        if let Some(end) = task.moved_heap_end().filter(|end| (brk.start..STUB_BASE).contains(end)) {
            brk.current = end;
        }
        *brk
    }

    /// What a fork(2) child knows of its copy of this space.
    pub(super) fn copy_to(&self, copy: &AddressSpace) {
        *copy.plain_code.lock() = self.plain_code.lock().clone();
        copy.has_barriers.store(self.has_barriers.load(Ordering::Acquire), Ordering::Release);
    }

    pub(crate) fn add_plain_code(&self, code: PlainCode) {
        let mut known = self.plain_code.lock();
        if known.len() < MAXIMUM_PLAIN_CODE {
            known.push(code);
        }
    }

    pub(super) fn take_plain_code(&self) -> Vec<PlainCode> {
        std::mem::take(&mut self.plain_code.lock())
    }

    pub(super) fn plain_code(&self) -> Vec<PlainCode> {
        self.plain_code.lock().clone()
    }

    /// A thread is about to be there.
    pub(super) fn awaits_thread(&self) -> bool {
        self.slots.lock().iter().any(|slot| matches!(slot, Slot::Reserved))
    }

    /// Nobody but one thread is there, or about to be.
    pub(crate) fn has_one_thread(&self) -> bool {
        let is_there = |slot: &&Slot| match slot {
            Slot::Free => false,
            Slot::Reserved => true,
            Slot::Used(thread) => !thread.is_gone(),
        };
        self.slots.lock().iter().filter(is_there).count() == 1
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
