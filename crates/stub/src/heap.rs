//! brk(2), as long as nobody but the thread can move the heap's end: memory is the host's to map, and the sentry asks where the
//! heap ends when it has to know. What is said here is believed as far as brk(2) could have been called.

use crate::call;
use crate::copies;
use crate::expected;
use crate::host::{number, PAGE};
use crate::layout::{HEAP_MOVED, STUB_BASE};
use crate::local;
use crate::thread::ThreadBlock;
use core::sync::atomic::{AtomicU64, Ordering};

const RLIMIT_DATA: usize = 2;
/// READ, WRITE.
const PROTECTION: u64 = 3;
/// PRIVATE, ANONYMOUS, FIXED_NOREPLACE.
const MAPPING: u64 = 0x10_0022;

/// Where the heap ends behind the call. `None`: the sentry knows.
pub fn brk(thread: &mut ThreadBlock, wanted: u64) -> Option<i64> {
    let [start, end] = words(thread);
    let before = end.load(Ordering::Acquire) & !HEAP_MOVED;
    if before == 0 {
        return None;
    }
    let start = start.load(Ordering::Relaxed);
    if wanted < start || wanted >= STUB_BASE || wanted - start > local::limit_of(thread, RLIMIT_DATA)?[0] {
        return Some(before as i64);
    }
    let (old_end, new_end) = (before.next_multiple_of(PAGE), wanted.next_multiple_of(PAGE));
    expected::forget(thread);
    let result = if new_end > old_end {
        copies::let_go(old_end, new_end - old_end);
        call!(number::MMAP, old_end, new_end - old_end, PROTECTION, MAPPING, -1i64, 0)
    } else if new_end < old_end {
        copies::munmap(new_end, old_end - new_end)
    } else {
        0
    };
    if result < 0 {
        return Some(before as i64);
    }
    end.store(wanted | HEAP_MOVED, Ordering::Release);
    Some(wanted as i64)
}

/// The sentry does not know where the heap ends.
pub fn has_moved(thread: &ThreadBlock) -> bool {
    words(thread)[1].load(Ordering::Relaxed) & HEAP_MOVED != 0
}

/// Where the heap begins, and ends.
fn words(thread: &ThreadBlock) -> [&'static AtomicU64; 2] {
    let local = thread.local();
    // SAFETY: within the channel or the thread's block, aligned, and accessed atomically only.
    unsafe { [AtomicU64::from_ptr(&raw mut (*local).heap_start), AtomicU64::from_ptr(&raw mut (*local).heap_end)] }
}
