//! Robust futexes (get_robust_list(2), "Robust futexes" in the kernel's documentation): when a thread ends while it owns
//! some, each is marked, and waiters look again. The host could not do it: the ids in the words are the guest's.
//!
//! To be done while the memory is still there. The list is the guest's: it may lead anywhere, and in circles.

use super::Task;
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// ROBUST_LIST_LIMIT.
const LIMIT: usize = 2048;
const FUTEX_WAITERS: u32 = 0x8000_0000;
const FUTEX_OWNER_DIED: u32 = 0x4000_0000;
const FUTEX_TID_MASK: u32 = 0x3fff_ffff;

/// Marks what `task` owned. Waiters of any process are made to make their futex call again, where they find the mark.
pub(crate) fn release(task: &Task) {
    let head = task.robust_list();
    if head == 0 {
        return;
    }
    task.set_robust_list(0);
    let memory = task.memory();
    // First entry, offset of the words, and what was being locked or unlocked.
    let mut bytes = [0u64; 3];
    if memory.read(head, bytes.as_mut_bytes()) != size_of_val(&bytes) {
        return;
    }
    let [mut entry, offset, pending] = bytes;
    let mut waited_for = false;
    for _ in 0..LIMIT {
        // The lowest bit says that it is a priority-inheriting one.
        let address = entry & !1;
        if address == head || address == 0 {
            break;
        }
        // Read before the word is changed: then its memory may be somebody else's.
        let next = word(&memory, address);
        if address != pending & !1 {
            waited_for |= mark(&memory, address.wrapping_add(offset), task.tid());
        }
        match next {
            Some(next) => entry = next,
            None => break,
        }
    }
    if pending & !1 != 0 {
        waited_for |= mark(&memory, (pending & !1).wrapping_add(offset), task.tid());
    }
    if waited_for {
        wake_waiters(task);
    }
}

fn word(memory: &GuestMemory, address: u64) -> Option<u64> {
    let mut bytes = [0; 8];
    (memory.read(address, &mut bytes) == 8).then(|| u64::from_ne_bytes(bytes))
}

/// Marks one futex if `tid` owns it; whether somebody waits for it.
fn mark(memory: &Arc<GuestMemory>, address: u64, tid: i32) -> bool {
    let mut bytes = [0; 4];
    if address % 4 != 0 || memory.read(address, &mut bytes) != 4 {
        return false;
    }
    let value = u32::from_ne_bytes(bytes);
    if value & FUTEX_TID_MASK != tid as u32 & FUTEX_TID_MASK {
        return false;
    }
    let marked = value & FUTEX_WAITERS | FUTEX_OWNER_DIED;
    memory.write(address, &marked.to_ne_bytes()) == 4 && value & FUTEX_WAITERS != 0
}

/// Waits are the host's, and who waits where is not known here: every thread that may be in one is interrupted, and makes
/// the call again.
fn wake_waiters(dying: &Task) {
    for process in dying.kernel().pids.processes() {
        let threads = process.threads.lock().clone();
        for thread in threads {
            if std::ptr::eq(&*thread, dying) || thread.in_kernel.load(Ordering::Acquire) {
                continue;
            }
            let host = thread.host.read().clone();
            if let Some(host) = host {
                host.kick();
            }
        }
    }
}
