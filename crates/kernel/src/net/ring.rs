//! A ring of bytes that grows on demand up to a limit, and counts what it holds against the sandbox's [`Budget`].

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

/// Bytes of kernel memory that sockets hold, against a cap for the whole sandbox.
pub struct Budget {
    used: AtomicUsize,
    limit: AtomicUsize,
}

/// Without a limit of the sandbox's own.
const DEFAULT_BUDGET: usize = 256 << 20;

impl Default for Budget {
    fn default() -> Budget {
        Budget { used: AtomicUsize::new(0), limit: AtomicUsize::new(DEFAULT_BUDGET) }
    }
}

impl Budget {
    pub fn set_limit(&self, bytes: usize) {
        self.limit.store(bytes, Ordering::Relaxed);
    }

    /// Takes `bytes`; false where the cap would be passed.
    pub fn reserve(&self, bytes: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| used.checked_add(bytes).filter(|&sum| sum <= limit))
            .is_ok()
    }

    /// Takes `bytes` even beyond the cap: for the few bytes without which an object cannot work at all.
    pub fn force(&self, bytes: usize) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::Relaxed);
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What every ring may have, whatever the budget says: a blocked stream must be able to go on.
const MINIMUM: usize = 4096;

/// The ring. Its storage is a power of two bytes; it wraps.
pub struct Ring {
    storage: Vec<u8>,
    head: usize,
    length: usize,
    budget: Arc<Budget>,
}

impl Ring {
    pub fn new(budget: Arc<Budget>) -> Ring {
        Ring { storage: Vec::new(), head: 0, length: 0, budget }
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends as much of `bytes` as fits below `limit` held bytes; returns how much.
    pub fn push(&mut self, bytes: &[u8], limit: usize) -> usize {
        let wanted = bytes.len().min(limit.saturating_sub(self.length));
        if wanted == 0 {
            return 0;
        }
        if self.storage.len() - self.length < wanted {
            self.grow(self.length + wanted);
        }
        let count = wanted.min(self.storage.len() - self.length);
        if count == 0 {
            return 0;
        }
        let mask = self.storage.len() - 1;
        let tail = (self.head + self.length) & mask;
        let first = count.min(self.storage.len() - tail);
        self.storage[tail..tail + first].copy_from_slice(&bytes[..first]);
        self.storage[..count - first].copy_from_slice(&bytes[first..count]);
        self.length += count;
        count
    }

    /// Copies from `offset` behind the head without taking; returns how much was there.
    pub fn peek(&self, offset: usize, out: &mut [u8]) -> usize {
        let count = out.len().min(self.length.saturating_sub(offset));
        if count == 0 {
            return 0;
        }
        let start = (self.head + offset) & (self.storage.len() - 1);
        let first = count.min(self.storage.len() - start);
        out[..first].copy_from_slice(&self.storage[start..start + first]);
        out[first..count].copy_from_slice(&self.storage[..count - first]);
        count
    }

    /// Drops `count` bytes (at most what is there) from the head.
    pub fn discard(&mut self, count: usize) {
        let count = count.min(self.length);
        self.length -= count;
        // An empty ring starts over, so that small messages keep using the same few cache lines.
        self.head = if self.length == 0 { 0 } else { (self.head + count) & (self.storage.len() - 1) };
    }

    /// Puts `bytes` before the head, as if they had not been taken; false where there is no memory for that.
    pub fn put_back(&mut self, bytes: &[u8]) -> bool {
        if self.storage.len() - self.length < bytes.len() {
            self.grow(self.length + bytes.len());
        }
        if self.storage.len() - self.length < bytes.len() {
            return false;
        }
        let mask = self.storage.len().wrapping_sub(1);
        for byte in bytes.iter().rev() {
            self.head = self.head.wrapping_sub(1) & mask;
            self.storage[self.head] = *byte;
        }
        self.length += bytes.len();
        true
    }

    /// Counts so many bytes that are held for this ring elsewhere. False: the sandbox has no more.
    pub fn reserve(&self, bytes: usize) -> bool {
        self.budget.reserve(bytes)
    }

    pub fn release(&self, bytes: usize) {
        self.budget.release(bytes);
    }

    /// Holds exactly `bytes`, whatever the budget says: they are there.
    pub fn replace(&mut self, bytes: &[u8]) {
        self.head = 0;
        self.length = 0;
        if self.storage.len() < bytes.len() {
            let size = bytes.len().next_power_of_two().max(MINIMUM);
            self.budget.force(size - self.storage.len());
            self.storage = vec![0; size];
        }
        self.push(bytes, usize::MAX);
    }

    /// Takes back the last `count` bytes that were pushed.
    pub fn truncate(&mut self, count: usize) {
        self.length = self.length.saturating_sub(count);
    }

    /// Gives the storage back.
    pub fn clear(&mut self) {
        self.budget.release(self.storage.len());
        self.storage = Vec::new();
        self.head = 0;
        self.length = 0;
    }

    fn grow(&mut self, wanted: usize) {
        let mut size = wanted.next_power_of_two().max(MINIMUM);
        let present = self.storage.len();
        loop {
            if size <= present {
                return;
            }
            if self.budget.reserve(size - present) {
                break;
            }
            if size == MINIMUM {
                self.budget.force(size - present);
                break;
            }
            size /= 2;
        }
        let mut storage = vec![0; size];
        let length = self.peek(0, &mut storage);
        self.storage = storage;
        self.head = 0;
        self.length = length;
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        self.budget.release(self.storage.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_and_grows_in_order() {
        let mut ring = Ring::new(Arc::default());
        let mut next_in = 0u32;
        let mut next_out = 0u32;
        for round in 0..2000usize {
            let block: Vec<u8> = (0..round % 700)
                .map(|_| {
                    next_in += 1;
                    next_in as u8
                })
                .collect();
            assert_eq!(ring.push(&block, usize::MAX), block.len());
            let mut out = vec![0; (round * 7) % 690];
            let count = ring.peek(0, &mut out);
            ring.discard(count);
            for &byte in &out[..count] {
                next_out += 1;
                assert_eq!(byte, next_out as u8);
            }
        }
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let mut ring = Ring::new(Arc::default());
        assert!(ring.put_back(&[]));
        let bytes: Vec<u8> = (0..6000).map(|index| index as u8).collect();
        assert_eq!(ring.push(&bytes, usize::MAX), bytes.len());
        ring.discard(5000);
        assert_eq!(ring.push(&bytes, usize::MAX), bytes.len());
        assert!(ring.put_back(&bytes[..5000]));
        let mut all = vec![0; 12_001];
        assert_eq!(ring.peek(0, &mut all), 12_000);
        assert_eq!((&all[..6000], &all[6000..12_000]), (&bytes[..], &bytes[..]));
    }

    #[test]
    fn what_replaces_the_rest_is_all_there() {
        let budget = Arc::new(Budget::default());
        budget.set_limit(0);
        let mut ring = Ring::new(budget.clone());
        ring.push(b"before", usize::MAX);
        ring.replace(&[7; 60_000]);
        let mut all = vec![0; 70_000];
        assert_eq!(ring.peek(0, &mut all), 60_000);
        assert!(all[..60_000].iter().all(|&byte| byte == 7));
        drop(ring);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn a_spent_budget_still_leaves_a_page() {
        let budget = Arc::new(Budget::default());
        budget.set_limit(0);
        let mut ring = Ring::new(budget.clone());
        assert_eq!(ring.push(&[1; 10_000], usize::MAX), MINIMUM);
        drop(ring);
        assert_eq!(budget.used(), 0);
    }
}
