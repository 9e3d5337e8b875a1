//! Looking ahead: a thread that asks for the status of one name of a directory after the other is told of the next ones
//! with the answer (ADR 27).
//!
//! Which names come next is known once two have followed each other as in the directory's listing, or as in the alphabet. Each
//! one is looked up as if it had been asked for, from the directory that the last name was found in; how long the stub may
//! believe it is [`super::loan`]'s to say.

use crate::context::Context;
use crate::fs::file::StatusFlags;
use crate::fs::inode::{FileType, Names as NamesOf};
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

/// Directories that are remembered: those above the one that is gone through.
const DIRECTORIES: usize = 4;
/// When so many names were told at once and all were asked for, the next directory is taken to be gone through in the same way.
const CONFIDENT: usize = 4;

/// What a thread looks at.
#[derive(Default)]
pub(super) struct Ahead {
    /// The last one used first.
    directories: Vec<Directory>,
    /// How the last ones were gone through, and how many names were told at once.
    habit: Option<(Order, usize)>,
    /// What was looked at has been opened since: it is going to be so with each.
    opened: bool,
}

/// In which order names come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Listed,
    Sorted,
}

#[derive(Default)]
struct Directory {
    /// How it is named: the descriptor, and what stands before the last name.
    descriptor: i32,
    prefix: Vec<u8>,
    dentry: Weak<Dentry>,
    /// The last name of it that has come.
    last: Vec<u8>,
    tries: u32,
    /// All names in the order in which they come, once that is known; where the last one is; and how many were told ahead.
    names: Listing,
    order: Option<Order>,
    at: usize,
    told: usize,
    /// They were told by habit alone.
    by_habit: bool,
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
        let (prefix, name, dentry) = split(path, place)?;
        // For an absolute name it is the same, whatever it says.
        let descriptor = *descriptor;
        let known = self.directories.iter().position(|known| known.is(descriptor, prefix, &dentry));
        let batch = match known {
            Some(index) => {
                self.directories[..=index].rotate_right(1);
                let opens_each = std::mem::replace(&mut self.opened, opens);
                let directory = self.directories.first_mut()?;
                let comes = directory.follow(&dentry, name, opens);
                if let (Comes::AfterAll, Some(order), true) = (comes, directory.order, directory.told >= CONFIDENT) {
                    self.habit = Some((order, directory.told));
                }
                if comes == Comes::Elsewhere && directory.by_habit {
                    self.habit = None;
                }
                match comes {
                    Comes::Elsewhere => return None,
                    // What is in it comes first.
                    _ if opens && place.dentry.is_directory() => 0,
                    _ if opens => 1,
                    // It is opened next, and then one more is told.
                    _ if opens_each => 0,
                    Comes::AfterAll => (2 * directory.told).clamp(1, BATCH_MAX),
                    Comes::Within => 1,
                }
            }
            None if opens => return None,
            None => {
                let mut directory = Directory::new(descriptor, prefix, &dentry, name);
                let batch = match self.habit.filter(|_| !self.opened) {
                    Some((order, batch)) if directory.begins(&dentry, name, order) => batch,
                    _ => 0,
                };
                self.directories.truncate(DIRECTORIES - 1);
                self.directories.insert(0, directory);
                batch
            }
        };
        let directory = self.directories.first_mut()?;
        (directory.told, directory.by_habit) = (0, known.is_none());
        let parent = Path { mount: place.mount.clone(), dentry };
        directory.tell(context.task, &parent, batch, room)
    }

    /// What was told has been asked for, or not.
    pub fn was_told(&mut self, was_shown: bool) {
        if !was_shown && self.directories.first().is_some_and(|directory| directory.by_habit) {
            self.habit = None;
        }
    }

    /// Whether names of this directory are asked for.
    pub fn is_about(&self, descriptor: i32, prefix: &[u8], dentry: &Arc<Dentry>) -> bool {
        self.directories.first().is_some_and(|directory| directory.is(descriptor, prefix, dentry))
    }

    /// The name that was told of last as the one that comes next.
    pub fn next(&self) -> Option<&[u8]> {
        let directory = self.directories.first().filter(|directory| directory.told > 0)?;
        directory.names.get(directory.at + 1).map(|(name, _)| &name[..])
    }
}

/// Where a name has come.
#[derive(Clone, Copy, PartialEq)]
enum Comes {
    /// Behind all that were told.
    AfterAll,
    Within,
    /// Not where it was to come, or that is not known.
    Elsewhere,
}

impl Directory {
    fn new(descriptor: i32, prefix: &[u8], dentry: &Arc<Dentry>, name: &[u8]) -> Directory {
        let (dentry, prefix, last) = (Arc::downgrade(dentry), prefix.to_vec(), name.to_vec());
        Directory { descriptor, prefix, dentry, last, ..Directory::default() }
    }

    fn is(&self, descriptor: i32, prefix: &[u8], dentry: &Arc<Dentry>) -> bool {
        self.descriptor == descriptor && self.prefix == prefix && std::ptr::eq(self.dentry.as_ptr(), Arc::as_ptr(dentry))
    }

    /// Whether `name`, the first one that is asked for, is the first one in this order.
    fn begins(&mut self, dentry: &Arc<Dentry>, name: &[u8], order: Order) -> bool {
        let Some(mut names) = list(dentry) else { return false };
        if order == Order::Sorted {
            sort(&mut names);
        }
        if names.first().is_none_or(|(first, _)| first != name) {
            return false;
        }
        (self.names, self.order) = (names, Some(order));
        true
    }

    /// `name` has come; `opens`: and was opened.
    fn follow(&mut self, dentry: &Arc<Dentry>, name: &[u8], opens: bool) -> Comes {
        if self.names.is_empty() && !opens && self.tries < TRIES {
            self.tries += 1;
            if let Some((names, at, order)) = find_order(dentry, &self.last, name, 1) {
                (self.names, self.at, self.told, self.order) = (names, at, 0, Some(order));
            }
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        if self.names.is_empty() {
            return Comes::Elsewhere;
        }
        let Some(within) = self.names[self.at..].iter().take(self.told + 2).position(|(next, _)| next == name) else {
            self.names.clear();
            return Comes::Elsewhere;
        };
        self.at += within;
        if within > self.told {
            Comes::AfterAll
        } else {
            Comes::Within
        }
    }

    fn tell(&mut self, task: &Arc<Task>, parent: &Path, batch: usize, room: usize) -> Option<Names> {
        let credentials = task.credentials();
        let walker = Walker::new(&task.kernel().mounts, task.fs().root, &credentials).of(task);
        let mut names = Names::default();
        let mut full = self.prefix.clone();
        for (next, _) in self.names.iter().skip(self.at + 1).take(batch) {
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
}

/// A directory's names in some order, and what each was said to be.
pub(super) type Listing = Vec<(Vec<u8>, FileType)>;

/// All names of a directory in the order in which `name` follows `last`, with no more than `gap - 1` others in between, and
/// where it is, and which order it is.
pub(super) fn find_order(directory: &Arc<Dentry>, last: &[u8], name: &[u8], gap: usize) -> Option<(Listing, usize, Order)> {
    let mut listed = list(directory)?;
    let follows = |listed: &Listing| {
        let first = listed.iter().position(|(listed, _)| listed == last)?;
        let within = listed[first + 1..].iter().take(gap).position(|(listed, _)| listed == name)?;
        Some(first + 1 + within)
    };
    if let Some(at) = follows(&listed) {
        return Some((listed, at, Order::Listed));
    }
    sort(&mut listed);
    let at = follows(&listed)?;
    Some((listed, at, Order::Sorted))
}

/// All names of a directory as they are listed, and where `name` is.
pub(super) fn find_listed(directory: &Arc<Dentry>, name: &[u8]) -> Option<(Listing, usize)> {
    let listed = list(directory)?;
    let at = listed.iter().position(|(listed, _)| listed == name)?;
    Some((listed, at))
}

fn sort(listing: &mut Listing) {
    listing.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
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
fn list(directory: &Arc<Dentry>) -> Option<Listing> {
    let inode = &directory.inode;
    if inode.names() == NamesOf::Changing || inode.file_system().is_volatile() || inode.metadata().ok()?.size > SIZE_MAX {
        return None;
    }
    let open = inode.clone().open_data(StatusFlags::DIRECTORY).ok()?;
    let mut names = Vec::new();
    open.read_directory(0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push((entry.name.to_vec(), entry.kind));
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
