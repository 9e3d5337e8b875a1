//! The board: what the sentry tells all application processes of names (the stub's `board.rs`, ADR 68).
//!
//! Only the sentry can write there: the memory is sealed once it has its own mapping.

use crate::layout::board::{self, Board as Layout, Entry};
use crate::shared::{Shared, Writers};
use crate::HostError;
use std::os::fd::OwnedFd;
use std::sync::atomic::{fence, Ordering};

pub struct Board {
    pages: Shared<Layout>,
    memory: OwnedFd,
}

impl Board {
    /// An empty one.
    pub fn create() -> Result<Board, HostError> {
        let (pages, memory) = Shared::create(c"skerry-board", board::SIZE, Writers::SentryAlone, "making the board's memory")?;
        let board = Board { pages, memory };
        // What is not posted is of none.
        board.begin_edition();
        Ok(board)
    }

    /// To be mapped by the stubs.
    pub fn memory(&self) -> &OwnedFd {
        &self.memory
    }

    fn layout(&self) -> &Layout {
        // SAFETY: mapped as long as `self` lives, page-aligned, of this size, and made of atomics.
        unsafe { &*self.pages.as_ptr() }
    }

    /// What is posted belongs to one; what belongs to another does not hold.
    pub fn edition(&self) -> u64 {
        self.layout().head.edition.load(Ordering::SeqCst)
    }

    /// Nothing holds any more that was posted before. Whoever is answered behind this sees that.
    pub fn begin_edition(&self) {
        self.layout().head.edition.fetch_add(1, Ordering::SeqCst);
    }

    /// Until when it is believed, by the processor's clock.
    pub fn holds_until(&self, then: u64) {
        self.layout().head.until.store(then, Ordering::Release);
    }

    /// Which entry would be `name`'s, and 24 bits that tell it from others there; `None`: it is too long.
    pub fn place_of(name: &[u8]) -> Option<(usize, u32)> {
        let hash = board::hash(words_of(name)?.get(..board::words(name.len()))?);
        Some((board::place_of(hash), hash as u32 & 0xff_ffff))
    }

    /// Says of `name`, which has no zero in it, that it is `what` ([`board::NOT_THERE`], [`board::NO_LINK`]). Not for several
    /// threads at once.
    pub fn post(&self, edition: u64, name: &[u8], what: u64) {
        let (Some((place, _)), Some(words)) = (Board::place_of(name), words_of(name)) else { return };
        let Some(entry) = self.layout().entries.get(place) else { return };
        let number = entry.stamp.load(Ordering::Relaxed).wrapping_add(1) & ((1 << board::EDITION) - 1);
        entry.stamp.store(number, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        let Entry { what: said, name: its, .. } = entry;
        its.iter().zip(words).for_each(|(to, word)| to.store(word, Ordering::Relaxed));
        said.store(name.len() as u64 | what << board::WHAT, Ordering::Relaxed);
        entry.stamp.store(edition << board::EDITION | number, Ordering::Release);
    }
}

/// As an entry has it.
fn words_of(name: &[u8]) -> Option<[u64; board::NAME_WORDS]> {
    if name.len() > board::LONGEST {
        return None;
    }
    let mut words = [0; board::NAME_WORDS];
    for (word, bytes) in words.iter_mut().zip(name.chunks(8)) {
        let mut filled = [0; 8];
        filled.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        *word = u64::from_le_bytes(filled);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::Errno;
    use rustix::mm::{mmap, MapFlags, ProtFlags};

    fn said(board: &Board, name: &[u8]) -> (u64, u64) {
        let entry = &board.layout().entries[Board::place_of(name).unwrap().0];
        (entry.stamp.load(Ordering::Relaxed) >> board::EDITION, entry.what.load(Ordering::Relaxed))
    }

    #[test]
    fn only_its_maker_can_write_there() {
        let board = Board::create().unwrap();
        for protection in [ProtFlags::READ | ProtFlags::WRITE, ProtFlags::WRITE] {
            // SAFETY: a new mapping; it is not made.
            let mapped = unsafe { mmap(std::ptr::null_mut(), 4096, protection, MapFlags::SHARED, board.memory(), 0) };
            assert_eq!(mapped.unwrap_err(), Errno::PERM);
        }
        assert_eq!(rustix::io::pwrite(board.memory(), b"x", 0).unwrap_err(), Errno::PERM);
        board.post(1, b"/usr", board::NO_LINK);
        assert_eq!(said(&board, b"/usr"), (1, 4 | board::NO_LINK << board::WHAT));
    }

    #[test]
    fn each_name_has_its_place_and_long_ones_have_none() {
        let board = Board::create().unwrap();
        for length in 1..=board::LONGEST {
            let name = vec![b'n'; length];
            board.post(7, &name, board::NOT_THERE);
            assert_eq!(said(&board, &name), (7, length as u64 | board::NOT_THERE << board::WHAT));
        }
        assert_eq!(Board::place_of(&[b'n'; board::LONGEST + 1]), None);
        board.post(7, &[b'n'; board::LONGEST + 1], board::NOT_THERE);
        let places: std::collections::HashSet<_> =
            (0..512).map(|number| Board::place_of(format!("/usr/include/{number}.h").as_bytes()).unwrap().0).collect();
        assert!(places.len() > 400, "{}", places.len());
    }
}
