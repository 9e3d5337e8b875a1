//! Looking ahead: a thread that asks for the status of one name of a directory after the other is told of the next ones
//! with the answer (ADR 27).
//!
//! Which names come next is known once two have followed each other as in the directory's listing, or as in the alphabet. Each
//! one is looked up as if it had been asked for, from the directory that the last name was found in; how long the stub may
//! believe it is [`super::loan`]'s to say.

use crate::context::Context;
use crate::fs::file::StatusFlags;
use crate::fs::inode::Names as NamesOf;
use crate::fs::path::{Dentry, Path};
use crate::fs::walk::Walker;
use crate::task::Task;
use skerry_abi::raw::general as linux;
use skerry_platform::channel::Names;
use skerry_platform::layout::loan;
use std::sync::{Arc, Weak};
use zerocopy::IntoBytes;

/// Directories with more names are left alone, and those that take up more bytes.
const LISTED_MAX: usize = 2048;
const SIZE_MAX: u64 = 128 * 1024;
/// Names that are looked at ahead at most.
const BATCH_MAX: usize = 32;
/// Orders that are tried for one directory.
const TRIES: u32 = 2;

/// What a thread looks at.
#[derive(Default)]
pub(super) struct Ahead {
    /// How the directory is named: the descriptor, and what stands before the last name.
    descriptor: i32,
    prefix: Vec<u8>,
    directory: Weak<Dentry>,
    /// The last name of it that has come.
    last: Vec<u8>,
    /// That has been opened since: it is going to be so with each.
    opened: bool,
    tries: u32,
    /// All names in the order in which they come, once that is known; where the last one is; and how many were told ahead.
    order: Vec<Vec<u8>>,
    at: usize,
    told: usize,
}

impl Ahead {
    /// Names to be told with the answer to a call of `task` that has found `place` (`opens`: and opened it) by the name `path`.
    pub fn look(
        &mut self,
        context: &Context,
        (descriptor, path, place): &(i32, Vec<u8>, Path),
        opens: bool,
        room: usize,
    ) -> Option<Names> {
        let (prefix, name, directory) = split(path, place)?;
        // For an absolute name it is the same, whatever it says.
        let descriptor = *descriptor;
        if !self.is_about(descriptor, prefix, &directory) {
            if opens {
                return None;
            }
            let directory = Arc::downgrade(&directory);
            *self = Ahead { descriptor, prefix: prefix.to_vec(), directory, last: name.to_vec(), ..Ahead::default() };
            return None;
        }
        if self.order.is_empty() && !opens && self.tries < TRIES {
            self.find_order(&directory, name);
        }
        let opens_each = std::mem::replace(&mut self.opened, opens);
        self.last.clear();
        self.last.extend_from_slice(name);
        if self.order.is_empty() {
            return None;
        }
        // Where it is among what comes next.
        let within = self.order[self.at..].iter().take(self.told + 2).position(|next| next == name);
        let Some(within) = within else {
            self.order.clear();
            return None;
        };
        self.at += within;
        let batch = match (opens, within) {
            (true, _) => 1,
            // It is opened next, and then one more is told.
            (false, _) if opens_each => 0,
            (false, within) if within > self.told => (2 * self.told).clamp(1, BATCH_MAX),
            _ => 1,
        };
        self.told = 0;
        let parent = Path { mount: place.mount.clone(), dentry: directory };
        self.tell(context.task, &parent, batch, room)
    }

    fn tell(&mut self, task: &Arc<Task>, parent: &Path, batch: usize, room: usize) -> Option<Names> {
        let credentials = task.credentials();
        let walker = Walker::new(&task.kernel().mounts, task.fs().root, &credentials).of(task);
        let mut names = Names::default();
        let mut full = self.prefix.clone();
        for next in self.order.iter().skip(self.at + 1).take(batch) {
            let Ok((place, shown)) = walker.step_shown(parent, next) else { break };
            if !place.inode().is_at_rest() {
                break;
            }
            let Ok(metadata) = shown.map_or_else(|| place.inode().metadata(), Ok) else { break };
            full.truncate(self.prefix.len());
            full.extend_from_slice(next);
            let Ok(status) = <[u8; loan::STATUS]>::try_from(metadata.stat().as_bytes()) else { break };
            if !names.add(self.descriptor, &full, &status, room) {
                break;
            }
        }
        self.told = names.count as usize;
        (names.count != 0).then_some(names)
    }

    /// Finds the order in which `name` follows the last one.
    fn find_order(&mut self, directory: &Arc<Dentry>, name: &[u8]) {
        self.tries += 1;
        if let Some((order, at)) = find_order(directory, &self.last, name, 1) {
            (self.order, self.at, self.told) = (order, at, 0);
        }
    }

    /// Whether names of this directory are asked for.
    pub fn is_about(&self, descriptor: i32, prefix: &[u8], directory: &Arc<Dentry>) -> bool {
        self.descriptor == descriptor && self.prefix == prefix && std::ptr::eq(self.directory.as_ptr(), Arc::as_ptr(directory))
    }
}

/// All names of a directory in the order in which `name` follows `last`, with no more than `gap - 1` others in between, and
/// where it is.
pub(super) fn find_order(directory: &Arc<Dentry>, last: &[u8], name: &[u8], gap: usize) -> Option<(Vec<Vec<u8>>, usize)> {
    let mut listed = list(directory)?;
    let follows = |listed: &[Vec<u8>]| {
        let first = listed.iter().position(|listed| listed == last)?;
        let within = listed[first + 1..].iter().take(gap).position(|listed| listed == name)?;
        Some(first + 1 + within)
    };
    let mut at = follows(&listed);
    if at.is_none() {
        listed.sort_unstable();
        at = follows(&listed);
    }
    Some((listed, at?))
}

/// All names of a directory as they are listed, and where `name` is.
pub(super) fn find_listed(directory: &Arc<Dentry>, name: &[u8]) -> Option<(Vec<Vec<u8>>, usize)> {
    let listed = list(directory)?;
    let at = listed.iter().position(|listed| listed == name)?;
    Some((listed, at))
}

/// What stands before the last part of a name, that, and the directory that it was found in; not where a link, "..", or a
/// mount has led elsewhere.
pub(super) fn split<'a>(path: &'a [u8], place: &Path) -> Option<(&'a [u8], &'a [u8], Arc<Dentry>)> {
    let (prefix, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => path.split_at(slash + 1),
        None => (&b""[..], path),
    };
    if name.is_empty() || place.dentry.name() != name || place.dentry.is_unlinked() {
        return None;
    }
    Some((prefix, name, place.dentry.parent()?))
}

/// The names of a directory whose names hold still, if they are not too many.
fn list(directory: &Arc<Dentry>) -> Option<Vec<Vec<u8>>> {
    let inode = &directory.inode;
    if inode.names() == NamesOf::Changing || inode.file_system().is_volatile() || inode.metadata().ok()?.size > SIZE_MAX {
        return None;
    }
    let open = inode.clone().open_data(StatusFlags::DIRECTORY).ok()?;
    let mut names = Vec::new();
    open.read_directory(0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push(entry.name.to_vec());
        }
        names.len() <= LISTED_MAX
    })
    .ok()?;
    (names.len() <= LISTED_MAX).then_some(names)
}

/// Whether a call has found a name that others may follow; and whether it has opened it.
pub(super) fn looks(number: u64) -> Option<bool> {
    match number as u32 {
        linux::__NR_newfstatat | linux::__NR_lstat => Some(false),
        // What was given another name has been looked at, too, before the next one is.
        linux::__NR_open | linux::__NR_openat | linux::__NR_link | linux::__NR_linkat => Some(true),
        _ => None,
    }
}
