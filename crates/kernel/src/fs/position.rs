//! Where an open file description stands (lseek(2)).
//!
//! The number is kept here until a process is given a host descriptor of the file to use by itself; from then on it is the
//! host description's own offset, which all who share the open file move, inside and here. Where that process alone uses it, the
//! position can be lent to it: then it is a word in the process's table, until anybody takes the lock here (ADR 65).
//! Lock order: outside of the object's own locks, and of `DirectTable::state`.

use crate::fs::direct::{DirectTable, LentPosition};
use crate::fs::file::{FileOperations, Sharing};
use crate::fs::host::host_error;
use crate::Result;
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::SeekFrom;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock, Weak};

/// A host description that stands for one open file description.
pub struct HandedOver {
    /// Open with exactly the guest's access mode, and nobody else's.
    pub descriptor: Arc<OwnedFd>,
    /// What it is a description of: an overlay's file may be another one later.
    pub operations: Arc<dyn FileOperations>,
    pub sharing: Sharing,
    /// Let go with the open file.
    pub keep: Option<Box<dyn Send + Sync>>,
}

/// A position.
#[derive(Default)]
pub struct Position {
    own: Mutex<Own>,
    handed_over: OnceLock<HandedOver>,
}

#[derive(Default)]
struct Own {
    position: u64,
    user: User,
    lent: Option<Arc<LentPosition>>,
}

/// Who has the host description.
#[derive(Default)]
enum User {
    #[default]
    Nobody,
    /// One process, for one of its descriptors.
    One(Weak<DirectTable>, i32),
    Several,
}

/// The position, held still against all other calls that go through the sentry.
pub struct PositionGuard<'a> {
    own: MutexGuard<'a, Own>,
    handed_over: Option<&'a HandedOver>,
}

impl Position {
    pub fn lock(&self) -> PositionGuard<'_> {
        let mut own = self.own.lock();
        let handed_over = self.handed_over.get();
        if let Some((lent, host)) = own.lent.take().zip(handed_over) {
            lent.take_back(|position| {
                // One that the host's file cannot have is none that it has been moved to.
                let _ = position.map(|position| rustix::fs::seek(&*host.descriptor, SeekFrom::Start(position)));
            });
        }
        PositionGuard { own, handed_over }
    }

    pub fn handed_over(&self) -> Option<&HandedOver> {
        self.handed_over.get()
    }

    /// Makes a host description's offset the position, unless one is that already; returns the one that is. `make` gets the
    /// position as it is, and has none to give where the file cannot be used that way.
    pub fn hand_over(&self, make: impl FnOnce(u64) -> Result<Option<HandedOver>>) -> Result<Option<&HandedOver>> {
        let own = self.own.lock();
        if let Some(present) = self.handed_over.get() {
            return Ok(Some(present));
        }
        let Some(made) = make(own.position)? else { return Ok(None) };
        if made.sharing == Sharing::Own {
            rustix::fs::seek(&*made.descriptor, SeekFrom::Start(own.position)).map_err(host_error)?;
        }
        Ok(Some(self.handed_over.get_or_init(|| made)))
    }

    /// The process of `table` is about to use the host description for its descriptor `fd`. It cannot be taken away from it again.
    pub fn is_used_by(&self, table: &Arc<DirectTable>, fd: i32) {
        let own = &mut self.lock().own;
        let user = Arc::downgrade(table);
        own.user = match &own.user {
            User::Nobody => User::One(user, fd),
            User::One(present, its) if Weak::ptr_eq(present, &user) && *its == fd => return,
            _ => User::Several,
        };
    }

    /// Lends the position to the process of `table`, if nobody else has the host description. `make` is told where it is. No thread
    /// of the process may be about to use that.
    pub fn lend(&self, table: &Arc<DirectTable>, fd: i32, make: impl FnOnce(u64) -> Option<Arc<LentPosition>>) {
        let mut position = self.lock();
        let is_alone =
            matches!(&position.own.user, User::One(user, its) if std::ptr::eq(user.as_ptr(), Arc::as_ptr(table)) && *its == fd);
        if is_alone && position.handed_over.is_some_and(|host| host.sharing == Sharing::Own) {
            position.own.lent = make(position.get());
        }
    }
}

impl<'a> PositionGuard<'a> {
    pub fn get(&self) -> u64 {
        match self.handed_over {
            Some(host) => rustix::fs::tell(&*host.descriptor).unwrap_or(0),
            None => self.own.position,
        }
    }

    /// EINVAL where the host's file cannot have such a position.
    pub fn set(&mut self, position: u64) -> Result<()> {
        match self.handed_over {
            Some(host) => rustix::fs::seek(&*host.descriptor, SeekFrom::Start(position)).map(|_| ()).map_err(host_error),
            None => {
                self.own.position = position;
                Ok(())
            }
        }
    }

    /// Moves it by what a transfer has done.
    pub fn advance(&mut self, count: u64) {
        match self.handed_over {
            // Relative, as others may move it meanwhile.
            Some(host) => {
                let _ = rustix::fs::seek(&*host.descriptor, SeekFrom::Current(count as i64));
            }
            None => self.own.position = self.own.position.saturating_add(count),
        }
    }

    /// Moves it back.
    pub fn retreat(&mut self, count: u64) {
        match self.handed_over {
            Some(host) => {
                let _ = rustix::fs::seek(&*host.descriptor, SeekFrom::Current(-(count as i64)));
            }
            None => self.own.position = self.own.position.saturating_sub(count),
        }
    }

    pub fn handed_over(&self) -> Option<&'a HandedOver> {
        self.handed_over
    }
}
