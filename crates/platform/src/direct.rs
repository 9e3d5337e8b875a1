//! The table through which a process is told what it may read and write by itself: written here, read there.
//!
//! The other side maps it, and could write to it: that would harm that process only. Nothing is read back but where a file stands
//! whose position is lent to it, which it could have moved there by lseek(2).

use crate::layout::{direct, position, DirectEntry, DIRECT_ENTRIES, DIRECT_POSITIONS, DIRECT_SIZE};
use crate::shared::{Shared, Writers};
use crate::HostError;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

/// What a process may do with one of its descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rights {
    pub read: bool,
    /// Writes up to this position; `None`: no writes.
    pub write_end: Option<u64>,
    /// Writes go to the file's end.
    pub append: bool,
    pub window: Window,
}

/// How far a file may be read in a mapping, and for how many ticks without asking the host whether it is still as long; 0: not at
/// all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    pub end: u64,
    pub life: u64,
}

/// The sentry's mapping of one process's table.
pub struct DirectPages {
    pages: Shared<DirectEntry>,
}

impl DirectPages {
    /// A new, empty table, and the descriptor to be mapped by the application's stub.
    pub fn create() -> Result<(DirectPages, OwnedFd), HostError> {
        let (pages, memory) = Shared::create(c"skerry-direct", DIRECT_SIZE, Writers::All, "making a table's memory")?;
        Ok((DirectPages { pages }, memory))
    }

    fn entry(&self, index: u64) -> Option<&DirectEntry> {
        // SAFETY: an entry inside the mapping, which lives as long as self; entries consist of atomics.
        (index < DIRECT_ENTRIES).then(|| unsafe { &*self.pages.as_ptr().add(index as usize) })
    }

    /// The guest's descriptor `index` is the process's own `descriptor` from now on. False: no such entry.
    pub fn set(&self, index: u64, descriptor: i32, rights: Rights) -> bool {
        let Some(entry) = self.entry(index) else { return false };
        let mut word = u64::from(descriptor as u32) | direct::VALID;
        if rights.read {
            word |= direct::READ;
        }
        if let Some(end) = rights.write_end {
            word |= direct::WRITE;
            entry.write_end.store(end, Ordering::Relaxed);
        }
        if rights.append {
            word |= direct::APPEND;
        }
        entry.window_end.store(rights.window.end, Ordering::Relaxed);
        entry.window_life.store(rights.window.life, Ordering::Relaxed);
        entry.word.store(word, Ordering::Release);
        true
    }

    /// The guest's descriptor `index` is one of null(4) from now on. False: no such entry.
    pub fn set_null(&self, index: u64, readable: bool, writable: bool) -> bool {
        let Some(entry) = self.entry(index) else { return false };
        let rights = if readable { direct::READ } else { 0 } | if writable { direct::WRITE } else { 0 };
        entry.word.store(direct::DESCRIPTOR | direct::NULL | rights, Ordering::Release);
        true
    }

    /// The file that `index` stands for may be read in a mapping no further than to `end`.
    pub fn lower_window(&self, index: u64, end: u64) {
        if let Some(entry) = self.entry(index) {
            entry.window_end.fetch_min(end, Ordering::SeqCst);
        }
    }

    /// The guest's descriptor `index` is the sentry's again.
    pub fn clear(&self, index: u64) {
        if let Some(entry) = self.entry(index) {
            entry.word.store(0, Ordering::Release);
        }
    }

    fn position(&self, index: u64) -> Option<&AtomicU64> {
        let positions = self.pages.as_ptr().cast::<u8>().wrapping_add(DIRECT_POSITIONS as usize).cast::<AtomicU64>();
        // SAFETY: a word inside the mapping, which lives as long as self.
        (index < DIRECT_ENTRIES).then(|| unsafe { &*positions.add(index as usize) })
    }

    /// The process moves the position of the file that `index` stands for from now on, which is at `start`. False: it cannot.
    pub fn lend_position(&self, index: u64, start: u64) -> bool {
        let Some(word) = self.position(index).filter(|_| start <= position::POSITION) else { return false };
        word.store(position::moved(word.load(Ordering::Relaxed), start), Ordering::SeqCst);
        true
    }

    /// Ends that; where the file stands now. `None`: the process has made that unrecognizable. Until it is settled, the process asks.
    pub fn take_position(&self, index: u64) -> Option<u64> {
        let word = self.position(index)?;
        word.fetch_or(position::TAKEN, Ordering::SeqCst);
        let word = word.fetch_and(!position::LENT, Ordering::SeqCst);
        (word & position::LENT != 0).then_some(word & position::POSITION)
    }

    /// The host's offset is where the file that `index` stands for is.
    pub fn settle_position(&self, index: u64) {
        if let Some(word) = self.position(index) {
            word.fetch_and(!position::TAKEN, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::ftruncate;

    #[test]
    fn entries_say_what_was_set_and_nothing_once_cleared() {
        let (table, memory) = DirectPages::create().unwrap();
        assert!(ftruncate(&memory, 0).is_err());
        assert!(table.set(3, 7, Rights { read: true, ..Rights::default() }));
        let word = |index: u64| {
            let mut bytes = [0; 8];
            rustix::io::pread(&memory, &mut bytes, index * size_of::<DirectEntry>() as u64).unwrap();
            u64::from_ne_bytes(bytes)
        };
        assert_eq!(word(3), 7 | direct::VALID | direct::READ);
        assert!(table.set(3, 9, Rights { write_end: Some(5), ..Rights::default() }));
        assert_eq!(word(3), 9 | direct::VALID | direct::WRITE);
        assert!(table.set_null(4, false, true));
        assert_eq!(word(4), direct::DESCRIPTOR | direct::NULL | direct::WRITE);
        table.clear(3);
        assert_eq!(word(3), 0);
        assert!(!table.set(DIRECT_ENTRIES, 1, Rights::default()));
    }

    #[test]
    fn a_position_comes_back_as_the_other_side_has_moved_it() {
        let (table, memory) = DirectPages::create().unwrap();
        let at = |index: u64| DIRECT_POSITIONS + index * size_of::<u64>() as u64;
        let read = |index: u64| {
            let mut bytes = [0; 8];
            rustix::io::pread(&memory, &mut bytes, at(index)).unwrap();
            u64::from_ne_bytes(bytes)
        };
        let write = |index: u64, word: u64| assert_eq!(rustix::io::pwrite(&memory, &word.to_ne_bytes(), at(index)), Ok(8));
        let last = DIRECT_ENTRIES - 1;
        assert_eq!(table.take_position(last), None);
        assert!(table.lend_position(last, 7) && !table.lend_position(last, position::POSITION + 1));
        let first = read(last);
        write(last, position::moved(first, 100));
        assert_eq!(table.take_position(last), Some(100));
        assert_eq!(table.take_position(last), None);
        // The same place is another word.
        assert!(table.lend_position(last, 7));
        assert_ne!(read(last), first);
        for word in [0, position::LENT - 1] {
            write(last, word);
            assert_eq!(table.take_position(last), None);
            assert!(table.lend_position(last, 3));
        }
        write(last, u64::MAX);
        assert_eq!(table.take_position(last), Some(position::POSITION));
        assert!(table.lend_position(last, 3));
        assert_eq!(table.take_position(last), Some(3));
        assert!(!table.lend_position(DIRECT_ENTRIES, 0));
        assert_eq!(table.take_position(DIRECT_ENTRIES), None);
    }
}
