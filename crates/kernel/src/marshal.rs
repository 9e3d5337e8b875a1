//! What travels with a call: the guest memory that its arguments name, as far as the stub has put it into the channel, and
//! what the call writes to such memory, which the stub puts there before the caller goes on (`stub/src/marshal.rs`).
//!
//! All of it is the caller's word about its own memory. It is copied once, when the call begins, and a call sees one and
//! the same bytes however often it looks. What is not here is read and written where it is, [`Context`](crate::Context)
//! has both.

use skerry_platform::layout::marshal::{size, AREA, BYTES, DEFERRED, HEADER, LENGTH, WRITABLE};
use std::cell::RefCell;

/// The memory that travels with one call.
#[derive(Default)]
pub(crate) struct Marshalled {
    /// As they came; anything may stand there.
    inputs: Vec<u8>,
    /// Records of what is to be written, in order.
    results: Vec<u8>,
}

/// Buffers that a thread keeps for its next calls.
const MOST_SPARE: usize = 8;

thread_local! {
    static SPARE: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// An empty buffer. Not inlined, as the next one: a call that waits may go on on another thread.
#[inline(never)]
pub(crate) fn take_buffer() -> Vec<u8> {
    SPARE.with(|spare| spare.borrow_mut().pop()).unwrap_or_default()
}

#[inline(never)]
fn give_buffer(mut buffer: Vec<u8>) {
    buffer.clear();
    SPARE.with(|spare| {
        let mut spare = spare.borrow_mut();
        if spare.len() < MOST_SPARE && buffer.capacity() <= 2 * AREA {
            spare.push(buffer);
        }
    });
}

impl Drop for Marshalled {
    fn drop(&mut self) {
        for buffer in [&mut self.inputs, &mut self.results] {
            if buffer.capacity() > 0 {
                give_buffer(std::mem::take(buffer));
            }
        }
    }
}

/// One stretch of guest memory.
struct Record<'a> {
    address: u64,
    length: usize,
    writable: bool,
    /// No memory: a call.
    deferred: bool,
    /// What is there, or will be; empty where that is not told.
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    fn holds(&self, address: u64, length: usize) -> bool {
        offset(self.address, address).is_some_and(|at| at <= self.length && self.length - at >= length)
    }

    fn overlaps(&self, address: u64, length: usize) -> bool {
        offset(self.address, address).is_some_and(|at| at < self.length)
            || offset(address, self.address).is_some_and(|at| at < length)
    }

    /// The bytes from `address` on, if they are told.
    fn from(&self, address: u64) -> Option<&'a [u8]> {
        self.bytes.get(offset(self.address, address)?..).filter(|bytes| !bytes.is_empty())
    }
}

/// How far `address` is behind `start`.
fn offset(start: u64, address: u64) -> Option<usize> {
    usize::try_from(address.checked_sub(start)?).ok()
}

/// The records in `area`, up to the first that cannot be one.
fn records(mut area: &[u8]) -> impl Iterator<Item = Record<'_>> {
    std::iter::from_fn(move || {
        let word = |at: usize| Some(u64::from_ne_bytes(*area.get(at..)?.first_chunk()?));
        let (address, head) = (word(0)?, word(8)?);
        let length = (head & LENGTH) as usize;
        let told = if head & BYTES != 0 { length } else { 0 };
        let bytes = area.get(HEADER..)?.get(..told)?;
        area = area.get(size(told)..).unwrap_or_default();
        Some(Record { address, length, writable: head & WRITABLE != 0, deferred: head & DEFERRED != 0, bytes })
    })
}

/// The calls that travel in `area`, oldest first, as the words that the stub has made of them.
pub(crate) fn deferred(area: &[u8]) -> impl Iterator<Item = [u64; 3]> + '_ {
    records(area).filter(|record| record.deferred).filter_map(|record| {
        let word = |index: usize| Some(u64::from_ne_bytes(*record.bytes.get(index * 8..)?.first_chunk()?));
        Some([word(0)?, word(1)?, word(2)?])
    })
}

impl Marshalled {
    /// From a copy of a channel's area.
    pub fn new(inputs: Vec<u8>) -> Marshalled {
        Marshalled { inputs, results: Vec::new() }
    }

    /// Fills `bytes` with what is at `address`; false where not all of it is here.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> bool {
        for record in records(&self.inputs) {
            if let Some(found) = record.from(address).and_then(|from| from.get(..bytes.len())) {
                bytes.copy_from_slice(found);
                return true;
            }
        }
        false
    }

    /// The string at `address`, without its zero; `None` where its end is not here.
    pub fn string(&self, address: u64) -> Option<&[u8]> {
        if !self.results.is_empty() {
            return None;
        }
        records(&self.inputs).find_map(|record| {
            let from = record.from(address)?;
            from.iter().position(|&byte| byte == 0).map(|end| &from[..end])
        })
    }

    /// Puts into `bytes`, which have been read at `address`, what is still to be written there.
    pub fn overlay(&self, address: u64, bytes: &mut [u8]) {
        for record in records(&self.results) {
            let skipped = offset(record.address, address).unwrap_or(0);
            let into = offset(address, record.address).unwrap_or(0);
            if let (Some(new), Some(old)) = (record.bytes.get(skipped..), bytes.get_mut(into..)) {
                let count = new.len().min(old.len());
                old[..count].copy_from_slice(&new[..count]);
            }
        }
    }

    /// Takes on what is to be written at `address`; false where the stub is not to do that.
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> bool {
        if self.results.len() + size(bytes.len()) > AREA
            || !records(&self.inputs).any(|record| record.writable && record.holds(address, bytes.len()))
        {
            return false;
        }
        if self.results.capacity() == 0 {
            self.results = take_buffer();
        }
        self.results.reserve(size(bytes.len()));
        self.results.extend(address.to_ne_bytes());
        self.results.extend((bytes.len() as u64 | BYTES).to_ne_bytes());
        self.results.extend(bytes);
        self.results.resize(self.results.len().next_multiple_of(8), 0);
        true
    }

    /// Something is written at `address` in another way: what came with the call from there does not hold any more.
    pub fn forget(&mut self, address: u64, length: usize) {
        if records(&self.inputs).any(|record| record.overlaps(address, length)) {
            self.inputs.clear();
        }
    }

    /// Nothing that came with the call is used any more.
    pub fn forget_all(&mut self) {
        self.inputs.clear();
    }

    pub fn has_results(&self) -> bool {
        !self.results.is_empty()
    }

    /// What the stub is to write goes to `put`; none is left here. Returns how much it was.
    pub fn take_results(&mut self, put: impl FnOnce(&[u8])) -> usize {
        let length = self.results.len();
        if length > 0 {
            put(&self.results);
            self.results.clear();
        }
        length
    }

    /// Hands each result to `write`, which says how much it has written; false where one was not written whole. None is
    /// left.
    pub fn write_results(&mut self, mut write: impl FnMut(u64, &[u8]) -> usize) -> bool {
        let results = std::mem::take(&mut self.results);
        let mut whole = true;
        for record in records(&results) {
            whole &= write(record.address, record.bytes) == record.bytes.len();
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{self, Random};

    fn record(area: &mut Vec<u8>, address: u64, flags: u64, bytes: &[u8]) {
        area.extend(address.to_ne_bytes());
        area.extend((bytes.len() as u64 | flags).to_ne_bytes());
        if flags & BYTES != 0 {
            area.extend(bytes);
            area.resize(area.len().next_multiple_of(8), 0xaa);
        }
    }

    #[test]
    fn what_came_is_read_whole_or_not_at_all() {
        let mut area = Vec::new();
        record(&mut area, 0x1000, BYTES, b"path\0");
        record(&mut area, 0x2000, WRITABLE, &[0; 32]);
        record(&mut area, 0x3000, BYTES | WRITABLE, &[7; 9]);
        let mut marshalled = Marshalled::new(area);
        let mut bytes = [0; 9];
        assert!(marshalled.read(0x3000, &mut bytes) && bytes == [7; 9]);
        assert!(marshalled.read(0x3008, &mut bytes[..1]));
        assert!(!marshalled.read(0x3001, &mut bytes) && !marshalled.read(0x2fff, &mut bytes[..1]));
        assert!(!marshalled.read(0x2000, &mut bytes[..1]), "what is there did not come");
        assert_eq!(marshalled.string(0x1002), Some(&b"th"[..]));
        assert_eq!(marshalled.string(0x3000), None, "without an end");
        assert!(!marshalled.write(0x1000, b"p") && !marshalled.write(0x201f, b"ab"));
        assert!(marshalled.write(0x201f, b"a") && marshalled.write(0x3000, b"bc"));
        bytes = [7; 9];
        marshalled.overlay(0x3001, &mut bytes);
        assert_eq!(bytes, *b"c\x07\x07\x07\x07\x07\x07\x07\x07");
        let mut written = Vec::new();
        assert!(marshalled.write_results(|address, bytes| {
            written.push((address, bytes.to_vec()));
            bytes.len()
        }));
        assert_eq!(written, [(0x201f, b"a".to_vec()), (0x3000, b"bc".to_vec())]);
        assert!(!marshalled.has_results());
        marshalled.forget(0x2fff, 2);
        assert!(!marshalled.read(0x3000, &mut bytes[..1]));
    }

    #[test]
    fn a_call_sees_what_it_has_written_in_either_way() {
        let kernel = testing::kernel();
        let task = testing::process(&kernel);
        let mut memory = *b"0123456789abcdef0123456789abcdef";
        let address = testing::address_of_mut(&mut memory);
        let mut area = Vec::new();
        record(&mut area, address, BYTES | WRITABLE, &memory[..16]);
        let mut context = testing::context(&task);
        context.set_marshalled(area);
        let word = |context: &crate::Context, at: u64| context.read::<[u8; 4]>(address + at).unwrap();
        context.write_bytes(address + 2, b"XY").unwrap();
        assert_eq!((&memory[..4], word(&context, 0)), (&b"0123"[..], *b"01XY"));
        assert_eq!(word(&context, 14), *b"ef01", "half of it did not come");
        // Not with the call: that goes there at once, behind what was to be written before it.
        context.write_bytes(address + 3, &[b'z'; 20]).unwrap();
        assert_eq!((&memory[..5], word(&context, 1)), (&b"01Xzz"[..], *b"1Xzz"));
        assert_eq!(context.take_results(|_| ()), 0);
    }

    /// Against a model: memory of bytes that are known one by one.
    #[test]
    fn any_area_is_taken_for_what_it_says_and_no_more() {
        const BASE: u64 = 0x7f00_0000_0000;
        let mut random = Random::new(5);
        while random.is_time_left() {
            let mut area = Vec::new();
            for _ in 0..random.below(6) {
                let length = *random.pick(&[0, 1, 7, 8, 16, 31, 100, 300]);
                let flags = *random.pick(&[0, BYTES, WRITABLE, BYTES | WRITABLE]);
                let bytes: Vec<u8> = (0..length).map(|_| random.next() as u8).collect();
                record(&mut area, BASE + random.below(600) as u64, flags, &bytes);
            }
            if random.below(3) == 0 {
                random.mutate(&mut area);
                area.truncate(AREA);
            }
            let mut marshalled = Marshalled::new(area);
            let whole = records(&marshalled.inputs).all(|record| record.bytes.len() <= AREA);
            assert!(whole);
            let mut pending = vec![None; 1024];
            for _ in 0..20 {
                let (at, length) = (random.below(700), random.below(40));
                let address = if random.below(20) == 0 { random.next() } else { BASE + at as u64 };
                let mut bytes = vec![0x55; length];
                match random.below(5) {
                    0 => {
                        let writes = marshalled.write(address, &bytes);
                        if writes && address == BASE + at as u64 {
                            (at..at + length).for_each(|index| pending[index] = Some(0x55));
                        }
                    }
                    1 => {
                        let known = marshalled.read(address, &mut bytes);
                        let again = bytes.clone();
                        assert_eq!(marshalled.read(address, &mut bytes), known);
                        assert_eq!(bytes, again);
                    }
                    2 if address == BASE + at as u64 => {
                        bytes.fill(1);
                        marshalled.overlay(address, &mut bytes);
                        let expected: Vec<u8> = (at..at + length).map(|index| pending[index].unwrap_or(1)).collect();
                        assert_eq!(bytes, expected);
                    }
                    3 => drop(marshalled.string(address).map(<[u8]>::to_vec)),
                    _ => {
                        let mut partly = 0;
                        marshalled.overlay(address, &mut bytes);
                        if random.below(8) == 0 {
                            marshalled.write_results(|_, bytes| {
                                partly += bytes.len();
                                bytes.len()
                            });
                            pending.fill(None);
                            marshalled.forget(address, length);
                        }
                        assert!(partly <= AREA);
                    }
                }
                assert!(marshalled.results.len() <= AREA);
            }
        }
    }
}
