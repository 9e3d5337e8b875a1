//! The bytes in a pipe: a queue of slots, each at most a page, as Linux counts them (pipe(7), "Pipe capacity").
//!
//! A slot's page may be shared with another pipe (tee(2)); only a page that nobody shares is written to.

use std::collections::VecDeque;
use std::sync::Arc;

pub const PAGE_SIZE: usize = 4096;

/// Pages kept for the next write instead of being freed.
const SPARE_PAGES: usize = 16;

/// A piece of a page: what one slot holds.
#[derive(Clone)]
pub struct Slot {
    page: Arc<Vec<u8>>,
    start: usize,
    end: usize,
    /// Written under O_DIRECT: read(2) takes at most this slot, and discards what did not fit.
    packet: bool,
}

impl Slot {
    fn bytes(&self) -> &[u8] {
        self.page.get(self.start..self.end).unwrap_or(&[])
    }

    fn len(&self) -> usize {
        self.end - self.start
    }
}

/// How a write is laid into slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    Stream,
    Packets,
}

/// The queue of slots.
pub struct Slots {
    queue: VecDeque<Slot>,
    /// How many slots there may be.
    limit: usize,
    /// Bytes in all slots.
    length: usize,
    spare: Vec<Arc<Vec<u8>>>,
}

impl Slots {
    pub fn new(limit: usize) -> Slots {
        Slots { queue: VecDeque::new(), limit, length: 0, spare: Vec::new() }
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// No slot is free. (The last one may still have room for a small write.)
    pub fn is_full(&self) -> bool {
        self.queue.len() >= self.limit
    }

    pub fn len(&self) -> usize {
        self.length
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn used(&self) -> usize {
        self.queue.len()
    }

    pub fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        self.spare.truncate(limit.min(SPARE_PAGES));
    }

    /// Takes in as many of `bytes` as fit. What is at most a page goes in whole or not at all (PIPE_BUF).
    pub fn write(&mut self, bytes: &[u8], layout: Layout) -> usize {
        let mut rest = bytes;
        let odd = bytes.len() % PAGE_SIZE;
        if layout == Layout::Stream && odd != 0 && self.fill_last(&bytes[..odd]) {
            rest = &bytes[odd..];
        }
        while !rest.is_empty() && !self.is_full() {
            let (now, later) = rest.split_at(rest.len().min(PAGE_SIZE));
            let page = self.page_with(now);
            self.push(Slot { page, start: 0, end: now.len(), packet: layout == Layout::Packets });
            rest = later;
        }
        bytes.len() - rest.len()
    }

    /// Adds `bytes` to the last slot's page if they fit there whole.
    fn fill_last(&mut self, bytes: &[u8]) -> bool {
        let Some(last) = self.queue.back_mut() else { return false };
        if last.packet || last.end + bytes.len() > PAGE_SIZE {
            return false;
        }
        let end = last.end;
        let Some(page) = Arc::get_mut(&mut last.page) else { return false };
        // What another pipe had of this page behind our end (a tee(2) cut short) is nobody's any more.
        page.truncate(end);
        page.extend_from_slice(bytes);
        last.end += bytes.len();
        self.length += bytes.len();
        true
    }

    fn page_with(&mut self, bytes: &[u8]) -> Arc<Vec<u8>> {
        let mut page = self.spare.pop().unwrap_or_else(|| Arc::new(Vec::with_capacity(PAGE_SIZE)));
        if let Some(unshared) = Arc::get_mut(&mut page) {
            unshared.clear();
            unshared.extend_from_slice(bytes);
            return page;
        }
        Arc::new(bytes.to_vec())
    }

    fn push(&mut self, slot: Slot) {
        self.length += slot.len();
        self.queue.push_back(slot);
    }

    fn pop(&mut self) {
        let Some(slot) = self.queue.pop_front() else { return };
        self.length -= slot.len();
        self.keep(slot.page);
    }

    fn keep(&mut self, mut page: Arc<Vec<u8>>) {
        if self.spare.len() < SPARE_PAGES.min(self.limit) && Arc::get_mut(&mut page).is_some() {
            self.spare.push(page);
        }
    }

    /// Moves bytes out into `buffer`; at most one packet.
    pub fn read(&mut self, buffer: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < buffer.len() {
            let Some(slot) = self.queue.front_mut() else { break };
            let count = slot.len().min(buffer.len() - filled);
            buffer[filled..filled + count].copy_from_slice(&slot.bytes()[..count]);
            filled += count;
            if slot.packet {
                self.pop();
                break;
            }
            slot.start += count;
            self.length -= count;
            if slot.start == slot.end {
                self.pop();
            }
        }
        filled
    }

    /// Fills `bytes`, which are not more than there are, from the front; they stay.
    pub fn peek(&self, bytes: &mut [u8]) {
        let mut rest = bytes;
        for slot in &self.queue {
            let (now, later) = rest.split_at_mut(slot.len().min(rest.len()));
            now.copy_from_slice(&slot.bytes()[..now.len()]);
            rest = later;
        }
    }

    /// These bytes, at most a page, are what there is now.
    pub fn replace(&mut self, bytes: &[u8]) {
        while !self.is_empty() {
            self.pop();
        }
        self.write(bytes, Layout::Stream);
    }

    /// Whether some of it was written under O_DIRECT.
    pub fn has_packets(&self) -> bool {
        self.queue.iter().any(|slot| slot.packet)
    }

    /// What was read is there again, whether there is room or not.
    pub fn put_back(&mut self, bytes: &[u8]) {
        for piece in bytes.rchunks(PAGE_SIZE) {
            let page = self.page_with(piece);
            self.length += piece.len();
            self.queue.push_front(Slot { page, start: 0, end: piece.len(), packet: false });
        }
    }

    /// Moves up to `limit` bytes to `target` (splice(2)) without copying them.
    pub fn move_to(&mut self, target: &mut Slots, limit: usize) -> usize {
        let mut moved = 0;
        while moved < limit && !target.is_full() {
            let Some(slot) = self.queue.front_mut() else { break };
            let count = slot.len().min(limit - moved);
            let mut piece = slot.clone();
            piece.end = piece.start + count;
            slot.start += count;
            self.length -= count;
            if slot.start == slot.end {
                self.queue.pop_front();
            }
            target.push(piece);
            moved += count;
        }
        moved
    }

    /// Puts up to `limit` bytes into `target` too (tee(2)); the pages are shared.
    pub fn copy_to(&self, target: &mut Slots, limit: usize) -> usize {
        let mut copied = 0;
        for slot in &self.queue {
            if copied >= limit || target.is_full() {
                break;
            }
            let mut piece = slot.clone();
            piece.end = piece.start + slot.len().min(limit - copied);
            copied += piece.len();
            target.push(piece);
        }
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_writes_share_a_page_and_a_page_is_written_whole_or_not_at_all() {
        let mut slots = Slots::new(2);
        assert_eq!(slots.write(b"abc", Layout::Stream), 3);
        assert_eq!(slots.write(b"def", Layout::Stream), 3);
        assert_eq!(slots.used(), 1);
        assert_eq!(slots.write(&[1; 4095], Layout::Stream), 4095);
        assert!(slots.is_full());
        // One byte fits behind the second page; two do not and must not be split.
        assert_eq!(slots.write(&[2; 2], Layout::Stream), 0);
        assert_eq!(slots.write(&[2; 1], Layout::Stream), 1);
        let mut buffer = [0; 5000];
        assert_eq!(slots.read(&mut buffer), 4102);
        assert_eq!(&buffer[..6], b"abcdef");
        assert_eq!(buffer[4101], 2);
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn a_packet_is_read_alone_and_its_rest_is_discarded() {
        let mut slots = Slots::new(16);
        slots.write(b"first", Layout::Packets);
        slots.write(b"second", Layout::Packets);
        let mut buffer = [0; 3];
        assert_eq!(slots.read(&mut buffer), 3);
        let mut buffer = [0; 64];
        assert_eq!(slots.read(&mut buffer), 6);
        assert_eq!(slots.len(), 0);
    }

    #[test]
    fn what_is_put_back_comes_first() {
        let mut slots = Slots::new(2);
        let bytes: Vec<u8> = (0..2 * PAGE_SIZE).map(|index| index as u8).collect();
        assert_eq!(slots.write(&bytes, Layout::Stream), bytes.len());
        let mut buffer = vec![0; 5000];
        assert_eq!(slots.read(&mut buffer), 5000);
        slots.put_back(&buffer);
        let mut all = vec![0; bytes.len() + 1];
        assert_eq!((slots.read(&mut all), &all[..bytes.len()]), (bytes.len(), &bytes[..]));
    }

    #[test]
    fn shared_pages_are_not_written_to() {
        let (mut one, mut two) = (Slots::new(16), Slots::new(16));
        one.write(b"abc", Layout::Stream);
        assert_eq!(one.copy_to(&mut two, 2), 2);
        two.write(b"X", Layout::Stream);
        one.write(b"d", Layout::Stream);
        let mut buffer = [0; 16];
        assert_eq!(one.read(&mut buffer), 4);
        assert_eq!(&buffer[..4], b"abcd");
        assert_eq!(two.read(&mut buffer), 3);
        assert_eq!(&buffer[..3], b"abX");
        two.write(&[7; 10_000], Layout::Stream);
        assert_eq!(two.move_to(&mut one, 5000), 5000);
        assert_eq!((one.len(), two.len()), (5000, 5000));
    }
}
