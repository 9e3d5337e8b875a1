//! The memory of a pipe or of a connection that its users share: see the stub's `pipes.rs` for the other side.
//!
//! That is hostile: the word can say anything at any time. It is copied once, and the bytes that it speaks of lie within the
//! ring whatever it says.

use crate::layout::{pipes, PipeRing as Layout};
use crate::shared::{Shared, Writers};
use crate::HostError;
use rustix::thread::futex;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// How a shared pipe's ends are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Nonblocking {
    pub reader: bool,
    pub writer: bool,
}

/// What has become of a pipe that was lent.
#[derive(Debug, PartialEq, Eq)]
pub struct ReturnedPipe {
    /// How many calls were answered, up to three.
    pub calls: u32,
    /// Which of [`pipes::WATCHED`] are still to be told of a change.
    pub watched: u64,
    /// Bytes have come of which who sees edges by himself has not told ([`PipeRing::leave_edges`]).
    pub has_edge: bool,
    pub bytes: Vec<u8>,
}

/// One ring: a pipe, or one direction of a connection.
pub struct PipeRing {
    /// Of one ring or two.
    mapping: Arc<Shared<u8>>,
    offset: usize,
    number: u16,
}

impl PipeRing {
    /// New ones, of which the processes are told under this number: one for a pipe, two for a connection. And the descriptor to
    /// be mapped by their stubs.
    pub fn create(number: u16, count: usize) -> Result<(Vec<PipeRing>, OwnedFd), HostError> {
        let count = count.clamp(1, pipes::RINGS);
        let size = ((count - 1) * pipes::STRIDE + pipes::SIZE) as u64;
        let (mapping, memory) = Shared::create(c"skerry-pipe", size, Writers::All, "making a pipe's memory")?;
        let mapping = Arc::new(mapping);
        let ring = |index| PipeRing { mapping: mapping.clone(), offset: index * pipes::STRIDE, number };
        Ok(((0..count).map(ring).collect(), memory))
    }
}

impl PipeRing {
    pub fn number(&self) -> u16 {
        self.number
    }

    fn layout(&self) -> *mut Layout {
        // SAFETY: inside the mapping, as the sizes above say; no reference is made.
        unsafe { self.mapping.as_ptr().add(self.offset).cast() }
    }

    fn word(&self) -> &AtomicU64 {
        // SAFETY: inside the mapping, aligned, and only ever accessed atomically.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.layout()).word) }
    }

    /// How many bytes its writer says to have put in since it was made.
    pub fn written(&self) -> u64 {
        // SAFETY: as the word.
        unsafe { AtomicU64::from_ptr(&raw mut (*self.layout()).written) }.load(Ordering::Acquire)
    }

    fn data(&self) -> *mut u8 {
        // SAFETY: inside the mapping; no reference is made.
        unsafe { self.layout().cast::<u8>().add(pipes::DATA_OFFSET) }
    }

    /// It is lent, as its users say.
    pub fn is_lent(&self) -> bool {
        self.word().load(Ordering::Acquire) & pipes::VALID != 0
    }

    /// A thread of its users' copies bytes, as they say: then nothing else may come to lie there.
    pub fn is_busy(&self) -> bool {
        self.word().load(Ordering::Acquire) & (pipes::READING | pipes::WRITING) != 0
    }

    /// Lends the pipe to its users, with `bytes` in it; `watched` of [`pipes::WATCHED`] are to be told of a change. False: one of them
    /// is still busy with what it was lent before.
    pub fn lend(&self, bytes: &[u8], nonblocking: Nonblocking, watched: u64) -> bool {
        if self.is_busy() {
            return false;
        }
        let length = bytes.len().min(pipes::DATA);
        // SAFETY: inside the mapping, at most `DATA` bytes; no reference into it is made.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.data(), length) }
        let mut word = u64::from(self.number) << pipes::NUMBER | pipes::VALID | watched & pipes::WATCHED | length as u64;
        if nonblocking.reader {
            word |= pipes::READER_NONBLOCKING;
        }
        if nonblocking.writer {
            word |= pipes::WRITER_NONBLOCKING;
        }
        self.word().store(word, Ordering::Release);
        true
    }

    /// How many bytes are in it, as long as it is lent. `watched` of [`pipes::WATCHED`] are to be told of the next change: in one step
    /// with the look, so that there is none between the two.
    pub fn look(&self, watched: u64) -> Option<usize> {
        let watched = watched & pipes::WATCHED;
        let mut word = self.word().load(Ordering::Acquire);
        if word & watched != watched {
            word = self.word().fetch_or(watched, Ordering::AcqRel);
        }
        (word & pipes::VALID != 0).then_some(((word & pipes::FILL) as usize).min(pipes::DATA))
    }

    /// These of [`pipes::WATCHED`] are not to be told of changes any more.
    pub fn leave(&self, watched: u64) {
        self.word().fetch_and(!(watched & pipes::WATCHED), Ordering::AcqRel);
    }

    /// Who reads is not to be told of changes any more: he sees the edges by himself, also one of which he has been told by none.
    pub fn leave_edges(&self) {
        let word = self.word();
        word.fetch_and(!pipes::ARRIVED, Ordering::AcqRel);
        // A write that comes from here on takes this bit away, or comes behind that.
        if word.fetch_and(!pipes::READER_WATCHED, Ordering::AcqRel) & pipes::READER_WATCHED == 0 {
            word.fetch_or(pipes::ARRIVED, Ordering::AcqRel);
        }
        word.fetch_or(pipes::SEES_EDGES, Ordering::AcqRel);
    }

    /// One more edge, for who sees them by himself. False: there is nobody now.
    pub fn add_edge(&self) -> bool {
        let sees = pipes::VALID | pipes::SEES_EDGES;
        self.word().fetch_or(pipes::ARRIVED, Ordering::AcqRel) & sees == sees
    }

    /// Who reads is to be told of the next change again, and does not see edges any more. True: there is one that he has not told of.
    pub fn take_edges_back(&self) -> bool {
        let word = self.word();
        let before = word.fetch_and(!pipes::SEES_EDGES, Ordering::AcqRel);
        if before & (pipes::VALID | pipes::SEES_EDGES) != pipes::VALID | pipes::SEES_EDGES {
            return false;
        }
        // Whoever tells of that looks then, and is told of the next.
        before & pipes::ARRIVED != 0 || word.fetch_or(pipes::READER_WATCHED, Ordering::AcqRel) & pipes::ARRIVED != 0
    }

    /// Takes it back; who sleeps there is woken, and asks the sentry. `None`: it does not say that it is lent.
    pub fn take_back(&self) -> Option<ReturnedPipe> {
        let ended = pipes::VALID | pipes::WAITS | pipes::WATCHED | pipes::SEES_EDGES;
        let word = self.word().fetch_and(!ended, Ordering::AcqRel);
        // Whatever it says of who sleeps there.
        if word & pipes::WAITS != 0 || word & pipes::VALID == 0 {
            self.wake_all();
        }
        if word & pipes::VALID == 0 {
            return None;
        }
        let length = ((word & pipes::FILL) as usize).min(pipes::DATA);
        let start = ((word & pipes::START_MASK) >> pipes::START) as usize % pipes::DATA;
        let first = length.min(pipes::DATA - start);
        let mut bytes = vec![0; length];
        // SAFETY: inside the mapping: `first` bytes from `start` on, then the rest from the beginning, into a buffer with room
        // for both, byte by byte as they are at that time; no reference into the mapping is made.
        unsafe {
            std::ptr::copy_nonoverlapping(self.data().add(start), bytes.as_mut_ptr(), first);
            std::ptr::copy_nonoverlapping(self.data(), bytes.as_mut_ptr().add(first), length - first);
        }
        let calls = ((word & pipes::CALLS) / pipes::CALL) as u32;
        // Where he does not see them any more, nothing has come only if nobody has told.
        let has_edge =
            if word & pipes::SEES_EDGES != 0 { word & pipes::ARRIVED != 0 } else { word & pipes::READER_WATCHED == 0 };
        Some(ReturnedPipe { calls, watched: word & pipes::WATCHED, has_edge, bytes })
    }

    fn wake_all(&self) {
        // SAFETY: the word's lower half, inside the mapping and aligned; accessed atomically.
        let lower = unsafe { AtomicU32::from_ptr(self.word().as_ptr().cast()) };
        let _ = futex::wake(lower, futex::Flags::empty(), i32::MAX as u32);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::ftruncate;

    /// What goes one way lies apart from what goes the other.
    #[test]
    fn a_connection_has_two_rings() {
        let (rings, _memory) = PipeRing::create(7, 2).unwrap();
        let [forth, back] = &rings[..] else { panic!() };
        assert!(forth.lend(&vec![1; pipes::DATA], Nonblocking::default(), 0));
        assert!(back.lend(&vec![2; pipes::DATA], Nonblocking::default(), 0));
        assert_eq!(forth.take_back().unwrap().bytes, vec![1; pipes::DATA]);
        assert_eq!(back.take_back().unwrap().bytes, vec![2; pipes::DATA]);
    }

    fn lent(bytes: &[u8]) -> PipeRing {
        let (mut rings, memory) = PipeRing::create(7, 1).unwrap();
        let ring = rings.remove(0);
        assert!(ftruncate(&memory, 0).is_err());
        assert!(ring.lend(bytes, Nonblocking::default(), 0));
        ring
    }

    #[test]
    fn what_was_lent_comes_back_once() {
        let ring = lent(b"abc");
        // A read of one byte.
        let word = ring.word().load(Ordering::Relaxed);
        ring.word().store(word - 1 + (1 << pipes::START) + pipes::CALL, Ordering::Relaxed);
        assert_eq!(ring.take_back(), Some(ReturnedPipe { calls: 1, watched: 0, has_edge: true, bytes: b"bc".to_vec() }));
        assert_eq!(ring.take_back(), None);
    }

    #[test]
    fn who_watches_is_told_once() {
        let ring = lent(b"abc");
        assert_eq!(ring.look(0), Some(3));
        assert_eq!(ring.look(pipes::READER_WATCHED), Some(3));
        assert_eq!(ring.look(pipes::WRITER_WATCHED | pipes::VALID), Some(3));
        // A write that tells.
        ring.word().fetch_and(!pipes::READER_WATCHED, Ordering::Relaxed);
        assert_eq!(ring.take_back().unwrap().watched, pipes::WRITER_WATCHED);
        assert_eq!(ring.look(pipes::READER_WATCHED), None);
        assert!(ring.lend(b"", Nonblocking::default(), pipes::READER_WATCHED));
        assert_eq!(ring.take_back().unwrap().watched, pipes::READER_WATCHED);
    }

    #[test]
    fn an_edge_is_told_once_by_whom_it_is_left_to() {
        let write = |ring: &PipeRing| ring.word().fetch_or(pipes::ARRIVED, Ordering::Relaxed);
        let tell = |ring: &PipeRing| ring.word().fetch_and(!pipes::ARRIVED, Ordering::Relaxed);
        // Nothing has come since somebody looked; or something has.
        for has_come in [false, true] {
            let ring = lent(b"abc");
            write(&ring);
            ring.look(if has_come { 0 } else { pipes::READER_WATCHED });
            ring.leave_edges();
            assert_eq!(ring.word().load(Ordering::Relaxed) & pipes::ARRIVED != 0, has_come);
            assert_eq!(ring.take_edges_back(), has_come);
            assert!(!ring.take_edges_back() && !ring.add_edge());
            assert_eq!(ring.take_back().unwrap().has_edge, has_come);
        }
        let ring = lent(b"abc");
        ring.leave_edges();
        tell(&ring);
        assert!(!ring.take_edges_back());
        // The next is told to us.
        assert_eq!(ring.word().load(Ordering::Relaxed) & pipes::READER_WATCHED, pipes::READER_WATCHED);
        ring.leave_edges();
        assert!(ring.add_edge() && ring.take_back().unwrap().has_edge);
        assert!(!ring.add_edge() && !ring.take_edges_back());
    }

    #[test]
    fn nothing_is_lent_while_somebody_is_busy() {
        let ring = lent(b"");
        ring.word().fetch_or(pipes::WRITING, Ordering::Relaxed);
        assert_eq!(ring.take_back().unwrap().bytes, b"");
        assert!(!ring.lend(b"x", Nonblocking::default(), 0));
        ring.word().fetch_and(!pipes::WRITING, Ordering::Relaxed);
        assert!(ring.lend(b"x", Nonblocking::default(), 0));
    }

    /// Whatever the word says, no more comes back than a pipe holds, and from within.
    #[test]
    fn a_hostile_word_stays_within_the_ring() {
        let ring = lent(&vec![1; 2 * pipes::DATA]);
        assert_eq!(ring.take_back().unwrap().bytes.len(), pipes::DATA);
        let mut word = 0x9e37_79b9_7f4a_7c15u64;
        for _ in 0..10_000 {
            word ^= word << 13;
            word ^= word >> 7;
            word ^= word << 17;
            ring.word().store(word, Ordering::Relaxed);
            match ring.take_back() {
                Some(returned) => assert!(returned.bytes.len() <= pipes::DATA && word & pipes::VALID != 0),
                None => assert!(word & pipes::VALID == 0),
            }
        }
    }
}
