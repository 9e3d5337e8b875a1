//! Objects whose state is lent to the one thread that uses them: eventfds and pipes (ADR 45).
//!
//! As long as nobody else uses, watches or waits for such an object, the stub of that thread reads and writes it without asking.
//! Whoever takes the object's lock ends the loan first, and takes over what the stub has done: nobody can tell it from calls.
//! Who is to be woken by a change registers first, and looks then: the look ends the loan, and while somebody is registered there
//! is none.
//!
//! Only a thread that reads and writes gets one, so that whatever it says of the state it could have brought about by calls.

use crate::fs::file::Transfer;
use crate::run::AddressSpace;
use parking_lot::Mutex;
use skerry_platform::channel::LentObject;
use skerry_platform::layout::pipes;
use std::sync::Arc;

/// Where the state of an object is that is lent, and how it comes back.
pub trait Lender: Send + Sync {
    /// Ends the loan. `None`: the thread has made it unrecognizable, and nothing of what it did counts.
    fn take_back(&self) -> Option<Returned>;

    /// How many bytes are in it, where that can be seen without ending the loan. `watched`: who uses it in this direction is to be
    /// told of the next change, from this look on.
    fn look(&self, _direction: Transfer, _watched: Watched) -> Option<usize> {
        None
    }

    /// The process behind `space` sees that for itself, by `fd`: who uses it in this direction is told of changes no more. False: it
    /// does not.
    fn leave_to_look(&self, _direction: Transfer, _space: &Arc<AddressSpace>, _fd: i32) -> bool {
        false
    }
}

/// What is left to a process to see for itself of an object that is lent to it.
pub enum Left {
    /// What it is ready for.
    Levels,
    /// That bytes have come (EPOLLET).
    Edges(Box<dyn Edges>),
}

/// Edges that a process sees for itself.
pub trait Edges: Send + Sync {
    /// One more. False: it sees none any more, as the object is lent no more.
    fn add(&self) -> bool;

    /// It sees none any more, and who waits is told of changes again. True: there is one of which it has not told.
    fn take_back(&self) -> bool;
}

/// Whether somebody waits for changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    Yes,
    No,
}

/// Lends this in somebody's channel.
pub type Lend<'a> = &'a mut dyn FnMut(LentObject) -> Box<dyn Lender>;

/// What comes back.
pub struct Returned {
    /// How many calls the stub has answered, up to three.
    pub calls: u32,
    pub state: LentState,
    /// Who is to be told of the next change still.
    pub watched: LentWatch,
    /// Something has come of which who sees edges has not told.
    pub has_edge: bool,
}

/// For which ends of what is lent changes are watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LentWatch {
    pub reader: bool,
    pub writer: bool,
}

impl LentWatch {
    /// In a ring's word.
    pub fn bits(self) -> u64 {
        let bit = |is_watched: bool, bit| if is_watched { bit } else { 0 };
        bit(self.reader, pipes::READER_WATCHED) | bit(self.writer, pipes::WRITER_WATCHED)
    }

    pub fn of(bits: u64) -> LentWatch {
        LentWatch { reader: bits & pipes::READER_WATCHED != 0, writer: bits & pipes::WRITER_WATCHED != 0 }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum LentState {
    /// Of an eventfd; less than its maximum.
    Counter(u64),
    /// What is in a pipe.
    Bytes(Vec<u8>),
}

/// Who has used an object lately, and whether loans of it were of use.
#[derive(Default)]
pub struct Usage(Mutex<Uses>);

struct Uses {
    thread: i32,
    /// Its calls since somebody else's.
    in_a_row: u32,
    /// Calls of everybody since the last loan.
    calls: u32,
    /// Its descriptors, once it has read and written.
    reader: Option<i32>,
    writer: Option<i32>,
    /// So many calls in a row are asked for.
    wanted: u32,
}

impl Default for Uses {
    fn default() -> Uses {
        Uses { thread: 0, in_a_row: 0, calls: 0, reader: None, writer: None, wanted: Usage::FEWEST }
    }
}

impl Usage {
    const FEWEST: u32 = 4;
    const MOST: u32 = 256;
    /// A loan that answers less is not worth its making.
    const WORTH: u32 = 3;

    /// `thread` has read or written by `fd`. Where the object is to be lent to it: its descriptors to read and to write.
    pub fn note(&self, thread: i32, fd: i32, direction: Transfer) -> Option<(i32, i32)> {
        let mut uses = self.0.lock();
        if uses.thread != thread {
            *uses = Uses { thread, in_a_row: 0, reader: None, writer: None, ..*uses };
        }
        uses.in_a_row = uses.in_a_row.saturating_add(1);
        uses.calls = uses.calls.saturating_add(1);
        match direction {
            Transfer::Read => uses.reader = Some(fd),
            Transfer::Write => uses.writer = Some(fd),
        }
        uses.reader.zip(uses.writer).filter(|_| uses.in_a_row >= uses.wanted)
    }

    /// Somebody has used it: for what only several use at once.
    pub fn note_call(&self) {
        let mut uses = self.0.lock();
        uses.calls = uses.calls.saturating_add(1);
    }

    /// There have been enough calls, whoever made them, that a pipe is lent to who makes them.
    pub fn is_worth_sharing(&self) -> bool {
        let uses = self.0.lock();
        uses.calls >= 2 * uses.wanted
    }

    /// It is used by somebody else now.
    pub fn start_over(&self) {
        self.0.lock().calls = 0;
    }

    /// A loan has ended, or could not be made.
    pub fn note_loan(&self, calls: u32) {
        let mut uses = self.0.lock();
        uses.calls = 0;
        if calls >= Usage::WORTH {
            uses.wanted = Usage::FEWEST;
        } else {
            uses.wanted = (uses.wanted * 2).min(Usage::MOST);
            uses.in_a_row = 0;
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A stub that says what it likes.
    pub struct Says {
        pub calls: u32,
        pub state: Mutex<Option<LentState>>,
        pub ended: Arc<AtomicU32>,
    }

    impl Says {
        pub fn new(calls: u32, state: Option<LentState>) -> (Box<Says>, Arc<AtomicU32>) {
            let ended = Arc::new(AtomicU32::new(0));
            (Box::new(Says { calls, state: Mutex::new(state), ended: ended.clone() }), ended)
        }
    }

    impl Lender for Says {
        fn take_back(&self) -> Option<Returned> {
            self.ended.fetch_add(1, Ordering::Relaxed);
            let watched = LentWatch::default();
            self.state.lock().take().map(|state| Returned { calls: self.calls, state, watched, has_edge: false })
        }
    }

    #[test]
    fn who_reads_and_writes_alone_gets_a_loan() {
        let usage = Usage::default();
        for _ in 0..10 {
            assert_eq!(usage.note(7, 3, Transfer::Write), None);
        }
        assert_eq!(usage.note(7, 4, Transfer::Read), Some((4, 3)));
        // Somebody else comes between.
        assert_eq!(usage.note(8, 4, Transfer::Read), None);
        assert_eq!(usage.note(7, 3, Transfer::Write), None);
        assert_eq!(usage.note(7, 4, Transfer::Read), None);
        assert_eq!(usage.note(7, 3, Transfer::Write), None);
        assert_eq!(usage.note(7, 4, Transfer::Read), Some((4, 3)));
    }

    #[test]
    fn two_get_a_loan_after_some_calls_of_both() {
        let usage = Usage::default();
        let calls_until_a_loan = || {
            (1..).find(|call| {
                usage.note(call % 2, 3, Transfer::Read);
                usage.is_worth_sharing()
            })
        };
        assert_eq!(calls_until_a_loan(), Some(8));
        usage.note_loan(3);
        assert_eq!(calls_until_a_loan(), Some(8));
        usage.note_loan(2);
        assert_eq!(calls_until_a_loan(), Some(16));
        usage.start_over();
        assert_eq!(calls_until_a_loan(), Some(16));
    }

    #[test]
    fn loans_that_are_not_used_become_rare() {
        let usage = Usage::default();
        let calls_until_a_loan = || (1..).find(|call| usage.note(7, 3, [Transfer::Write, Transfer::Read][call % 2]).is_some());
        assert_eq!(calls_until_a_loan(), Some(4));
        for _ in 0..20 {
            usage.note_loan(1);
        }
        assert_eq!(calls_until_a_loan(), Some(Usage::MOST as usize));
        usage.note_loan(3);
        usage.note(8, 3, Transfer::Read);
        assert_eq!(calls_until_a_loan(), Some(4));
    }
}
