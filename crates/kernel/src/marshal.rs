//! What travels with a call: the guest memory that its arguments name, as far as the stub has put it into the channel, and
//! what the call writes to such memory, which the stub puts there before the caller goes on (`stub/src/marshal.rs`).
//!
//! All of it is the caller's word about its own memory. It is copied once, when the call begins, and a call sees one and
//! the same bytes however often it looks. What is not here is read and written where it is, [`Context`](crate::Context)
//! has both.

use skerry_platform::layout::marshal::{size, AREA, BYTES, HEADER, LENGTH, WRITABLE};

/// The memory that travels with one call.
#[derive(Default)]
pub(crate) struct Marshalled {
    /// As they came; anything may stand there.
    inputs: Vec<u8>,
    /// Records of what is to be written, in order.
    results: Vec<u8>,
}

/// One stretch of guest memory.
struct Record<'a> {
    address: u64,
    length: usize,
    writable: bool,
    /// What is there, or will be; empty where that is not told.
    bytes: &'a [u8],
}

impl<'a> Record<'a> {
    fn holds(&self, address: u64, length: usize) -> bool {
        offset(self.address, address).is_some_and(|at| at <= self.length && self.length - at >= length)
    }

    fn overlaps(&self, address: u64, length: usize) -> bool {
        offset(self.address, address).is_some_and(|at| at < self.length) || offset(address, self.address).is_some_and(|at| at < length)
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
        Some(Record { address, length, writable: head & WRITABLE != 0, bytes })
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

    /// What the stub is to write, for the channel; none is left here.
    pub fn take_results(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.results)
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
