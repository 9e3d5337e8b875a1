//! Who uses the two ends of a pipe or of a connection, as far as that is one process each; and the memory that it lies in when
//! these use it by themselves (ADR 48, 52).

use super::Side;
use crate::fs::fd_table::FdTable;
use crate::fs::file::{OpenFile, Transfer};
use crate::fs::lending::{Edges, Lender, LentState, LentWatch, Returned, Watched};
use crate::run::AddressSpace;
use parking_lot::Mutex;
use skerry_platform::layout::pipes;
use skerry_platform::pipe_ring::{Nonblocking, PipeRing};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// By what an end was used last.
#[derive(Clone)]
pub(crate) struct User {
    pub space: Weak<AddressSpace>,
    pub files: Weak<FdTable>,
    pub file: Weak<OpenFile>,
    pub fd: i32,
}

impl User {
    /// The same descriptor of the same process.
    fn is(&self, other: &User) -> bool {
        self.fd == other.fd
            && Weak::ptr_eq(&self.space, &other.space)
            && Weak::ptr_eq(&self.file, &other.file)
            && Weak::ptr_eq(&self.files, &other.files)
    }

    pub fn is_in(&self, space: &Arc<AddressSpace>) -> bool {
        std::ptr::eq(self.space.as_ptr(), Arc::as_ptr(space))
    }

    /// The open file, if the descriptor still stands for it, in a table that is the one of exactly one process.
    pub fn open_file(&self) -> Option<Arc<OpenFile>> {
        let (files, file) = (self.files.upgrade()?, self.file.upgrade()?);
        let is_it = files.get(self.fd).is_ok_and(|now| Arc::ptr_eq(&now, &file));
        (is_it && files.may_be_direct()).then_some(file)
    }
}

/// One end of what can lie in memory that the users of both ends share.
pub(crate) trait Sharable {
    /// `user` has used this end, which is the one of this `side`. The users of both, where it is worth lending to them.
    fn users(&self, side: Side, user: User) -> Option<(User, User)>;

    /// The memory in which these two have it, or are to have it; made by `make`, if need be.
    fn ring_of(&self, reader: &User, writer: &User, make: &dyn Fn() -> Option<Arc<SharedRing>>) -> Option<Arc<SharedRing>>;

    /// How many rings it needs.
    fn rings(&self) -> usize;

    /// Lends it to them. False: not now.
    fn lend_shared(&self, ring: &Arc<SharedRing>, how: Nonblocking) -> bool;

    fn end_shared(&self);
}

/// The memory of a pipe or of a connection, and for whom it is.
pub(crate) struct SharedRing {
    /// One of a pipe; of a connection one that `reader` reads and one that `reader` writes.
    pub rings: Vec<PipeRing>,
    /// Of a connection these are just its two ends.
    pub reader: User,
    pub writer: User,
    /// Their stubs have been told of it.
    reader_has_it: AtomicBool,
    writer_has_it: AtomicBool,
    /// `None`: nothing is lent there any more, nor will be.
    standing: Mutex<Option<Standing>>,
}

struct Standing {
    /// Until both have mapped it.
    memory: Option<OwnedFd>,
    _counted: Arc<()>,
}

impl SharedRing {
    /// `counted` is kept as long as something may be lent there.
    pub fn new(rings: Vec<PipeRing>, memory: OwnedFd, reader: &User, writer: &User, counted: Arc<()>) -> Arc<SharedRing> {
        Arc::new(SharedRing {
            rings,
            reader: reader.clone(),
            writer: writer.clone(),
            reader_has_it: AtomicBool::new(false),
            writer_has_it: AtomicBool::new(false),
            standing: Mutex::new(Some(Standing { memory: Some(memory), _counted: counted })),
        })
    }

    /// Does something with the descriptor, if it is still to be mapped by somebody.
    pub fn with_memory<T>(&self, give: impl FnOnce(BorrowedFd<'_>) -> Option<T>) -> Option<T> {
        give(self.standing.lock().as_ref()?.memory.as_ref()?.as_fd())
    }

    /// Lends it, unless it has been given up. That is not while this goes on.
    pub fn lend(&self, lend: impl FnOnce() -> bool) -> bool {
        self.standing.lock().is_some() && lend()
    }

    fn is_given_up(&self) -> bool {
        self.standing.lock().is_none()
    }

    fn give_up(&self) {
        drop(self.standing.lock().take());
    }

    /// Gives it up where nothing is lent now: something else is wanted.
    pub fn make_room(&self) -> bool {
        let mut standing = self.standing.lock();
        let is_idle = !self.rings.iter().any(|ring| ring.is_lent() || ring.is_busy());
        if is_idle {
            drop(standing.take());
        }
        is_idle
    }

    /// One process has both ends: whatever it says of the pipe it could have brought about by calls.
    pub fn is_one_process(&self) -> bool {
        Weak::ptr_eq(&self.reader.space, &self.writer.space)
    }

    pub fn is_had_by(&self, side: Side) -> bool {
        let has_it = if side == Side::Read { &self.reader_has_it } else { &self.writer_has_it };
        has_it.load(Ordering::Acquire)
    }

    pub fn is_had_by_both(&self) -> bool {
        self.is_had_by(Side::Read) && self.is_had_by(Side::Write)
    }

    /// The process behind `space` is told of it.
    pub fn given_to(&self, space: &Arc<AddressSpace>) {
        for (user, has_it) in [(&self.reader, &self.reader_has_it), (&self.writer, &self.writer_has_it)] {
            if user.is_in(space) {
                has_it.store(true, Ordering::Release);
            }
        }
        if self.is_had_by_both() {
            if let Some(standing) = &mut *self.standing.lock() {
                standing.memory = None;
            }
        }
    }

    /// A process that has it may have something else in its place.
    pub fn is_free(&self) -> bool {
        self.is_given_up() && !self.rings.iter().any(PipeRing::is_busy)
    }
}

/// What is lent by one ring of a [`SharedRing`].
#[derive(Clone)]
pub(crate) struct RingLoan {
    pub shared: Arc<SharedRing>,
    pub index: usize,
}

impl RingLoan {
    pub fn ring(&self) -> &PipeRing {
        &self.shared.rings[self.index]
    }
}

impl Lender for RingLoan {
    fn take_back(&self) -> Option<Returned> {
        let returned = self.ring().take_back()?;
        let (watched, has_edge) = (LentWatch::of(returned.watched), returned.has_edge);
        Some(Returned { calls: returned.calls, state: LentState::Bytes(returned.bytes), watched, has_edge })
    }

    fn look(&self, direction: Transfer, watched: Watched) -> Option<usize> {
        self.ring().look(match (watched, direction) {
            (Watched::No, _) => 0,
            (Watched::Yes, Transfer::Read) => pipes::READER_WATCHED,
            (Watched::Yes, Transfer::Write) => pipes::WRITER_WATCHED,
        })
    }

    fn leave_to_look(&self, direction: Transfer, space: &Arc<AddressSpace>, fd: i32) -> bool {
        let is_it = self.is_used_by(direction, space, fd);
        if is_it {
            self.ring().leave(match direction {
                Transfer::Read => pipes::READER_WATCHED,
                Transfer::Write => pipes::WRITER_WATCHED,
            });
        }
        is_it
    }
}

impl RingLoan {
    /// In this direction, the process behind `space` uses it by `fd`.
    pub fn is_used_by(&self, direction: Transfer, space: &Arc<AddressSpace>, fd: i32) -> bool {
        // Who reads a connection's first ring writes its second.
        let (reader, writer) = match self.index {
            0 => (&self.shared.reader, &self.shared.writer),
            _ => (&self.shared.writer, &self.shared.reader),
        };
        let user = if direction == Transfer::Read { reader } else { writer };
        user.is_in(space) && user.fd == fd
    }
}

impl Edges for RingLoan {
    fn add(&self) -> bool {
        self.ring().add_edge()
    }

    fn take_back(&self) -> bool {
        self.ring().take_edges_back()
    }
}

#[derive(Default)]
pub(crate) struct Sharing {
    parties: Mutex<Parties>,
}

#[derive(Default)]
struct Parties {
    reader: Option<User>,
    writer: Option<User>,
    ring: Option<Arc<SharedRing>>,
}

impl Sharing {
    /// `user` has used the end of this `side`. False: it was another one before.
    pub fn note(&self, side: Side, user: User) -> bool {
        let mut parties = self.parties.lock();
        let place = if side == Side::Read { &mut parties.reader } else { &mut parties.writer };
        let is_same = place.as_ref().is_some_and(|present| present.is(&user));
        if !is_same {
            *place = Some(user);
        }
        is_same
    }

    /// Both, once they are known.
    pub fn users(&self) -> Option<(User, User)> {
        let parties = self.parties.lock();
        parties.reader.clone().zip(parties.writer.clone())
    }

    /// Where the pipe lies for these two; made by `make`, if need be.
    pub fn ring_of(&self, reader: &User, writer: &User, make: &dyn Fn() -> Option<Arc<SharedRing>>) -> Option<Arc<SharedRing>> {
        let mut parties = self.parties.lock();
        let fits = |ring: &Arc<SharedRing>| ring.reader.is(reader) && ring.writer.is(writer) && !ring.is_given_up();
        if let Some(ring) = parties.ring.as_ref().filter(|ring| fits(ring)) {
            return Some(ring.clone());
        }
        let made = make()?;
        if let Some(before) = parties.ring.replace(made.clone()) {
            before.give_up();
        }
        Some(made)
    }
}

impl Drop for Sharing {
    fn drop(&mut self) {
        if let Some(ring) = &self.parties.get_mut().ring {
            ring.give_up();
        }
    }
}
