//! Where an open file description stands (lseek(2)).
//!
//! The number is kept here until a process is given a host descriptor of the file to use by itself; from then on it is the
//! host description's own offset for good, which all who share the open file move, inside and here.
//! Lock order: outside of the object's own locks.

use crate::fs::file::{FileOperations, Sharing};
use crate::fs::host::host_error;
use crate::Result;
use parking_lot::{Mutex, MutexGuard};
use rustix::fs::SeekFrom;
use std::os::fd::OwnedFd;
use std::sync::{Arc, OnceLock};

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
    own: Mutex<u64>,
    handed_over: OnceLock<HandedOver>,
}

/// The position, held still against all other calls that go through the sentry.
pub struct PositionGuard<'a> {
    own: MutexGuard<'a, u64>,
    handed_over: Option<&'a HandedOver>,
}

impl Position {
    pub fn lock(&self) -> PositionGuard<'_> {
        let own = self.own.lock();
        PositionGuard { own, handed_over: self.handed_over.get() }
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
        let Some(made) = make(*own)? else { return Ok(None) };
        if made.sharing == Sharing::Own {
            rustix::fs::seek(&*made.descriptor, SeekFrom::Start(*own)).map_err(host_error)?;
        }
        Ok(Some(self.handed_over.get_or_init(|| made)))
    }
}

impl<'a> PositionGuard<'a> {
    pub fn get(&self) -> u64 {
        match self.handed_over {
            Some(host) => rustix::fs::tell(&*host.descriptor).unwrap_or(0),
            None => *self.own,
        }
    }

    /// EINVAL where the host's file cannot have such a position.
    pub fn set(&mut self, position: u64) -> Result<()> {
        match self.handed_over {
            Some(host) => rustix::fs::seek(&*host.descriptor, SeekFrom::Start(position)).map(|_| ()).map_err(host_error),
            None => {
                *self.own = position;
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
            None => *self.own = self.own.saturating_add(count),
        }
    }

    /// Moves it back.
    pub fn retreat(&mut self, count: u64) {
        match self.handed_over {
            Some(host) => {
                let _ = rustix::fs::seek(&*host.descriptor, SeekFrom::Current(-(count as i64)));
            }
            None => *self.own = self.own.saturating_sub(count),
        }
    }

    pub fn handed_over(&self) -> Option<&'a HandedOver> {
        self.handed_over
    }
}
