//! A directory in memory that a thread makes one file after the other in: which names are not there is told with the answer to what
//! it writes into such a file, for all of them at once (ADR 70).
//!
//! Who unpacks a tree looks before it makes a file whether one is there (`git checkout` does); the next name only it knows. But the
//! sentry knows all that are there, where neither the host nor a tree below can have others. They go along as bits, one
//! for each name's hash: where that of another name is not set, that is not there. How long this holds is a loan's matter.

use super::ahead;
use crate::context::Context;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::path::{same_inode, Dentry, Path};
use crate::fs::walk::{self, Last, Walker};
use skerry_platform::channel::{Filled as Told, Names};
use skerry_platform::layout::loan::filled;
use std::sync::{Arc, Weak};

/// From so many files in a row on it is told.
const ROW: u32 = 2;
/// With more names, most bits would be set.
const MOST_NAMES: usize = 1024;
/// So often in a row it is told in vain.
const IN_VAIN: u32 = 8;

/// The directory that a thread has made files in last.
#[derive(Default)]
pub(super) struct Filled {
    /// How it is named: the descriptor, and what stands before the last name.
    descriptor: i32,
    prefix: Vec<u8>,
    directory: Weak<Dentry>,
    /// Files in a row that were made in it.
    row: u32,
    /// Times that it was told, since it was last made use of.
    in_vain: u32,
    /// [`Inode::names_added`] when these were all; empty: not known yet.
    ///
    /// [`Inode::names_added`]: crate::fs::inode::Inode::names_added
    added: u64,
    bits: Vec<u64>,
}

impl Filled {
    /// A call has made the file at `place`, by the name `path`.
    pub fn note(&mut self, (descriptor, path, place): &(i32, Vec<u8>, Path)) {
        let Some((prefix, name, directory)) = ahead::split(path, place) else { return };
        let is_same = self.descriptor == *descriptor
            && self.prefix == prefix
            && std::ptr::eq(self.directory.as_ptr(), Arc::as_ptr(&directory));
        if !is_same {
            let (directory, prefix) = (Arc::downgrade(&directory), prefix.to_vec());
            // Where it was in vain it is tried once more.
            let in_vain = self.in_vain.min(IN_VAIN - 1);
            *self = Filled { descriptor: *descriptor, prefix, directory, in_vain, ..Filled::default() };
        }
        self.row = self.row.saturating_add(1);
        if !self.bits.is_empty() {
            self.added += 1;
            set(&mut self.bits, name);
        }
    }

    /// What was told has been asked for, or not.
    pub fn was_told(&mut self, was_shown: bool) {
        self.in_vain = if was_shown { 0 } else { self.in_vain.saturating_add(1) };
    }

    /// Behind a write to `file`, which was made in it: tells of it, if the thread would come to it by the same names now.
    pub fn tell(&mut self, context: &Context, file: &OpenFile, names: &mut Names, room: usize) -> Option<()> {
        let (directory, place) = (self.directory.upgrade()?, file.path.as_ref()?);
        let is_in_it = place.dentry.parent().is_some_and(|parent| Arc::ptr_eq(&parent, &directory));
        if self.row < ROW || self.in_vain >= IN_VAIN || !is_in_it || !self.is_complete(&directory) {
            return None;
        }
        let name = [&self.prefix[..], &place.dentry.name()].concat();
        let start = walk::start_of(context.task, self.descriptor, &name).ok()?;
        let credentials = context.task.credentials();
        let mut walker = Walker::new(&context.kernel().mounts, context.task.fs().root, &credentials).of(context.task);
        let Ok((found, Last::Name { name, trailing_slash: false })) = walker.parent(&start, &name) else { return None };
        let is_there = same_inode(found.inode(), &directory.inode) && Arc::ptr_eq(&found.mount, &place.mount);
        if !is_there || !Arc::ptr_eq(&walker.step(&found, &name).ok()?.dentry, &place.dentry) {
            return None;
        }
        names.set_filled(&Told { directory: self.descriptor, prefix: &self.prefix, bits: &self.bits }, room);
        Some(())
    }

    /// Whether all names are known, and can be made out.
    fn is_complete(&mut self, directory: &Arc<Dentry>) -> bool {
        let Some(added) = directory.inode.names_added() else { return false };
        if !self.bits.is_empty() && self.added == added {
            return true;
        }
        self.bits.clear();
        let Ok(open) = directory.inode.clone().open_data(StatusFlags::DIRECTORY) else { return false };
        let (mut bits, mut count) = (vec![0; filled::WORDS], 0);
        let listed = open.read_directory(0, &mut |entry| {
            set(&mut bits, entry.name);
            count += 1;
            count <= MOST_NAMES
        });
        // Others may have made some meanwhile.
        if listed.is_err() || count > MOST_NAMES || directory.inode.names_added() != Some(added) {
            // It is not tried again for each file.
            self.row = 0;
            return false;
        }
        (self.added, self.bits) = (added, bits);
        true
    }
}

fn set(bits: &mut [u64], name: &[u8]) {
    let bit = filled::bit(name);
    if let Some(word) = bits.get_mut(bit / 64) {
        *word |= 1 << (bit % 64);
    }
}
