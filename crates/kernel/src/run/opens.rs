//! Opening ahead: a thread that opens, reads and closes one small file of a directory after the other gets the next ones with
//! the answer to an open(2): what each is called, is, and holds (ADR 47).
//!
//! They are opened as if it had asked for them, with its rights, where nobody can tell when that was; the loan holds them
//! ([`super::loan`]), and what the thread's descriptor is in the end is put into its table when the loan ends. Which come next is
//! known as it is of names ([`super::ahead`]): once two have followed each other as in the directory's listing or the alphabet.
//!
//! Who goes through a tree gets the first files of a directory with the answer to its open(2), and what comes behind it (ADR 69).

use super::loan::{lasting, AheadFile, Status};
use super::{ahead, GuestThread};
use crate::context::Context;
use crate::fs::file::{AtRest, OpenFile};
use crate::fs::inode::{FileType, Metadata, Names};
use crate::fs::open;
use crate::fs::path::{Dentry, Path};
use crate::fs::text::counts_of;
use crate::fs::walk::Walker;
use skerry_platform::layout::{loan, shelf};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use zerocopy::IntoBytes;

/// Directories that are remembered: those above the one that is gone through.
const DIRECTORIES: usize = 8;
/// What can lie between two files: links and directories, which are not opened so.
const GAP: usize = 8;
/// Orders that are tried for one directory.
const TRIES: u32 = 2;
/// Larger files are not opened ahead.
const LARGEST: usize = 128 * 1024;
/// What all that is opened ahead at once may take up.
const ROOM: usize = 384 * 1024;
/// From so many on a directory's first file tells that the others come as listed.
const CONFIDENT: usize = 4;
/// Where one file that was opened ahead was not asked for, so many calls are left alone.
const PAUSE: u32 = 32;
/// From so many directories on of which something was opened next, the next one's files go along with it; what counts at most; and from where it
/// counts again when one was in vain.
const ENTERS: i32 = 2;
const MOST_ENTERS: i32 = 3;
const IN_VAIN: i32 = -6;
/// How many of them go along until that was of use once.
const FIRST_ENTERED: usize = 2;

/// What a thread opens.
#[derive(Default)]
pub(super) struct Opens {
    /// The last one used first.
    directories: Vec<Directory>,
    /// So many are opened ahead at most.
    batch: usize,
    pause: u32,
    /// The directory that was opened last, if nothing in it has been opened since; and of how many something was.
    last: Option<(i32, Weak<Dentry>)>,
    enters: i32,
    /// What was opened with a directory the last time was of use.
    has_entered: bool,
    /// How files are opened, and whether each is asked about before.
    flags: u32,
    asks: bool,
}

struct Directory {
    /// How its files are opened.
    descriptor: i32,
    prefix: Vec<u8>,
    dentry: Weak<Dentry>,
    /// The last one.
    last: Vec<u8>,
    tries: u32,
    /// All names, in the order in which they come, once that is known; how the directory's names stood before they were listed;
    /// which one comes behind the last one; how many from there on were told of.
    order: ahead::Listing,
    listed_at: Names,
    next: usize,
    told: usize,
}

/// What has become of what was opened ahead, seen from the next file that was not.
#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Used,
    /// So many were.
    InPart(usize),
    InVain,
    Nothing,
}

/// What was opened ahead and lies on the shelf.
#[derive(Default)]
pub(super) struct Ahead {
    pub files: Vec<Option<AheadFile>>,
    pub opened: shelf::Opened,
    /// Names that come next, each with its directory's descriptor and what it is; where such names are asked for.
    pub names: Vec<(i32, Vec<u8>, Metadata)>,
    /// Nothing comes behind it in its directory.
    pub is_all: bool,
    /// The directory, if the thread can close it by itself.
    pub directory: Weak<OpenFile>,
}

/// A directory that was opened to be gone through.
pub(super) struct Entered<'a> {
    pub descriptor: i32,
    /// As it was named, and found.
    pub seen: &'a (i32, Vec<u8>, Path),
    pub listing: ahead::Listing,
    /// How its names stood before they were listed.
    pub listed_at: Names,
}

/// How much may be opened ahead: the shelf is in use up to `used`; `whole`: all that is opened is read to its end.
#[derive(Clone, Copy)]
pub(super) struct Limits {
    pub used: usize,
    pub whole: bool,
}

impl Opens {
    /// Opens what comes behind the file at `place`, which was opened by the name `path` with `flags`.
    pub fn open_next(
        &mut self,
        thread: &GuestThread,
        context: &Context,
        (descriptor, path, place): &(i32, Vec<u8>, Path),
        flags: u32,
        limits: Limits,
    ) -> Option<Ahead> {
        let (prefix, name, parent) = ahead::split(path, place)?;
        let descriptor = *descriptor;
        self.is_in(descriptor, &parent);
        self.flags = flags;
        let confident = self.batch >= CONFIDENT;
        let directory = self.directory(descriptor, prefix, &parent, name);
        match directory.follow(&parent, name, confident) {
            Outcome::Used => self.batch = (2 * self.batch).clamp(1, shelf::MOST),
            // Time may have been up, by chance.
            Outcome::InVain if self.batch > 1 => self.batch = 1,
            Outcome::InVain => self.pause = PAUSE,
            Outcome::InPart(used) => self.batch = self.batch.min(used),
            Outcome::Nothing => {}
        }
        self.asks |= thread.ahead.lock().is_about(descriptor, prefix, &parent);
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let parent = Path { mount: place.mount.clone(), dentry: parent };
        let mut ahead = self.open_first(thread, context, &parent, self.batch, limits)?;
        if ahead.is_all {
            ahead.names.extend(self.behind(context, &parent, None));
        }
        Some(ahead)
    }

    /// Opens the first files of a directory that has just been opened, if it is going to be gone through as those before it.
    pub fn enter(&mut self, thread: &GuestThread, context: &Context, entered: Entered, limits: Limits) -> Option<Ahead> {
        let Entered { descriptor, seen: (above, path, place), listing, listed_at } = entered;
        let (prefix, name, parent) = ahead::split(path, place)?;
        self.is_in(*above, &parent);
        if self.last.replace((descriptor, Arc::downgrade(&place.dentry))).is_some() && self.enters > 0 {
            self.enters -= 1;
        }
        if !self.enters() {
            return None;
        }
        // What comes behind it is told, too.
        self.asks |= thread.ahead.lock().is_about(*above, prefix, &parent);
        if self.directory(*above, prefix, &parent, name).follow(&parent, name, true) == Outcome::InVain {
            self.batch = 1;
        }
        let mut directory = Directory::new(descriptor, b"", &place.dentry, b"");
        (directory.order, directory.listed_at) = (listing, listed_at);
        self.remember(directory);
        let batch = if self.has_entered { self.batch } else { FIRST_ENTERED };
        let mut ahead = self.open_first(thread, context, place, batch, limits)?;
        if ahead.is_all {
            ahead.names.extend(self.behind(context, place, Some((*above, prefix))));
        }
        Some(ahead)
    }

    /// What was opened ahead with a directory was of use, or was not.
    pub fn note_entered(&mut self, was_used: bool, was_in_vain: bool) {
        if was_in_vain {
            (self.enters, self.has_entered) = (IN_VAIN, false);
        } else if was_used {
            (self.last, self.enters, self.has_entered) = (None, (self.enters + 1).min(MOST_ENTERS), true);
        }
    }

    /// Whether a directory's files are opened with it.
    pub fn enters(&self) -> bool {
        self.enters >= ENTERS && self.pause == 0
    }

    /// Something is opened in a directory: that may be the last one that was.
    fn is_in(&mut self, descriptor: i32, directory: &Arc<Dentry>) {
        let is_it =
            |(last, dentry): &(i32, Weak<Dentry>)| *last == descriptor && std::ptr::eq(dentry.as_ptr(), Arc::as_ptr(directory));
        if self.last.take_if(|last| is_it(last)).is_some() {
            self.enters = (self.enters + 1).min(MOST_ENTERS);
        }
    }

    /// What comes in the first one of the directories, which is `place`.
    fn open_first(
        &mut self,
        thread: &GuestThread,
        context: &Context,
        place: &Path,
        batch: usize,
        limits: Limits,
    ) -> Option<Ahead> {
        let how = How { batch: batch.max(1), flags: self.flags, asks: self.asks, limits };
        self.directories.first_mut()?.open(thread, context, place, how)
    }

    /// What comes behind a directory of which all has come.
    pub fn behind_all(&self, context: &Context, place: &Path) -> Option<(i32, Vec<u8>, Metadata)> {
        let own = self.directories.iter().find(|known| std::ptr::eq(known.dentry.as_ptr(), Arc::as_ptr(&place.dentry)))?;
        if own.order.is_empty() || own.next < own.order.len() {
            return None;
        }
        self.behind(context, place, None)
    }

    /// The name that comes behind the directory `place`, in the one above, if such names are asked for. `by`: how that was named just now.
    fn behind(&self, context: &Context, place: &Path, by: Option<(i32, &[u8])>) -> Option<(i32, Vec<u8>, Metadata)> {
        let parent = Path { mount: place.mount.clone(), dentry: place.dentry.parent()? };
        let is_it = |known: &&Directory| {
            std::ptr::eq(known.dentry.as_ptr(), Arc::as_ptr(&parent.dentry))
                && match by {
                    Some((descriptor, prefix)) => known.descriptor == descriptor && known.prefix == prefix,
                    None => known.is_at(context, &parent),
                }
        };
        let above = self.directories.iter().find(is_it).filter(|_| self.asks)?;
        let (own, _) = above.order.get(above.next.checked_sub(1)?)?;
        let (name, _) = above.order.get(above.next).filter(|_| place.dentry.name() == own[..])?;
        let credentials = context.task.credentials();
        let walker = Walker::new(&context.kernel().mounts, context.task.fs().root, &credentials).of(context.task);
        let (next, shown) = walker.step_shown(&parent, name).ok()?;
        let metadata = if next.inode().is_at_rest() { shown.or_else(|| next.inode().metadata().ok()) } else { None };
        Some((above.descriptor, [&above.prefix[..], name].concat(), metadata?))
    }

    /// The directory in which `name` is, in front of all others.
    fn directory(&mut self, descriptor: i32, prefix: &[u8], dentry: &Arc<Dentry>, name: &[u8]) -> &mut Directory {
        let known = self.directories.iter().position(|known| {
            known.descriptor == descriptor && known.prefix == prefix && std::ptr::eq(known.dentry.as_ptr(), Arc::as_ptr(dentry))
        });
        match known {
            Some(index) => self.directories[..=index].rotate_right(1),
            None => self.remember(Directory::new(descriptor, prefix, dentry, name)),
        }
        &mut self.directories[0]
    }

    fn remember(&mut self, directory: Directory) {
        self.directories.truncate(DIRECTORIES - 1);
        self.directories.insert(0, directory);
    }
}

/// How files are opened ahead.
struct How {
    /// So many at most.
    batch: usize,
    flags: u32,
    asks: bool,
    limits: Limits,
}

impl Directory {
    fn new(descriptor: i32, prefix: &[u8], dentry: &Arc<Dentry>, name: &[u8]) -> Directory {
        Directory {
            descriptor,
            prefix: prefix.to_vec(),
            dentry: Arc::downgrade(dentry),
            last: name.to_vec(),
            tries: 0,
            order: Vec::new(),
            listed_at: Names::Changing,
            next: 0,
            told: 0,
        }
    }

    /// Its descriptor is that of `place` still.
    fn is_at(&self, context: &Context, place: &Path) -> bool {
        let file = context.task.files().get(self.descriptor);
        self.prefix.is_empty() && file.is_ok_and(|file| file.path.as_ref().is_some_and(|path| path.is_same(place)))
    }

    /// `name` has been opened; `confident`: what comes is as listed, if that can be.
    fn follow(&mut self, dentry: &Arc<Dentry>, name: &[u8], confident: bool) -> Outcome {
        let mut outcome = Outcome::Nothing;
        if !self.order.is_empty() {
            let is_same = self.last == name;
            let within = self.order[self.next..].iter().take(self.told + GAP).position(|(next, _)| next == name);
            outcome = match within {
                Some(within) if within >= self.told => Outcome::Used,
                Some(within) if within > 0 => Outcome::InPart(within),
                _ if self.told > 0 => Outcome::InVain,
                _ => Outcome::Nothing,
            };
            self.told = 0;
            match within {
                Some(within) => self.next += within + 1,
                None if is_same => {}
                None => self.order = Vec::new(),
            }
        } else if self.tries < TRIES && (self.last != name || confident) {
            self.tries += 1;
            self.listed_at = dentry.inode.names().if_settled();
            let found = if self.last == name {
                ahead::find_listed(dentry, name)
            } else {
                ahead::find_order(dentry, &self.last, name, GAP).map(|(order, at, _)| (order, at))
            };
            if let Some((order, at)) = found {
                (self.order, self.next) = (order, at + 1);
            }
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        outcome
    }

    fn open(&mut self, thread: &GuestThread, context: &Context, parent: &Path, how: How) -> Option<Ahead> {
        if self.order.is_empty() {
            return None;
        }
        let How { batch, flags, asks, limits: Limits { mut used, whole } } = how;
        let end = (used + ROOM).min(shelf::SIZE);
        let credentials = context.task.credentials();
        let walker = Walker::new(&context.kernel().mounts, context.task.fs().root, &credentials).of(context.task);
        let mut ahead = Ahead::default();
        let mut full = self.prefix.clone();
        let names = parent.inode().names();
        let is_as_listed = names == self.listed_at && names != Names::Changing;
        let mut coming = self.order[self.next..].iter().enumerate();
        loop {
            let Some((index, (name, kind))) = coming.next() else {
                ahead.is_all = true;
                break;
            };
            let is_full = ahead.files.len() >= batch;
            if is_full && !asks {
                break;
            }
            full.truncate(self.prefix.len());
            full.extend_from_slice(name);
            let slot = Slot { index: ahead.files.len() + 1, at: used, end, name: &full, whole };
            let listed = if is_as_listed && *kind == FileType::Regular && !is_full && full.len() <= loan::LONGEST_NAME {
                slot.open_listed(thread, context, parent, name, names, flags)
            } else {
                None
            };
            let (file, metadata, length) = match listed {
                Some(opened) => opened,
                None => {
                    let Ok((place, shown)) = walker.step_shown(parent, name) else { break };
                    if place.inode().kind() != FileType::Regular || is_full {
                        if asks && place.inode().is_at_rest() {
                            let metadata = shown.map_or_else(|| place.inode().metadata(), Ok).ok();
                            ahead.names.extend(metadata.map(|metadata| (self.descriptor, full, metadata)));
                            break;
                        }
                        if place.inode().kind() == FileType::Symlink && !is_full {
                            continue;
                        }
                        break;
                    }
                    // Without `shown` it is opened to see.
                    if full.len() > loan::LONGEST_NAME || shown.is_some_and(|shown| whole && shown.size > LARGEST as u64) {
                        break;
                    }
                    let Some(file) = open::open_ahead(context, &place, shown, flags) else { break };
                    let Some(opened) = slot.read(thread, file) else { break };
                    opened
                }
            };
            let Some((behind, status)) = slot.fill(thread, &file, &metadata, length) else {
                // It is asked about next all the same.
                ahead.names.extend(asks.then_some((self.descriptor, full, metadata)));
                break;
            };
            // A name with directories in it may lead elsewhere, which the file itself does not show.
            ahead.files.push(Some((file, status.filter(|_| self.prefix.is_empty()))));
            (used, self.told) = (behind, index + 1);
        }
        ahead.opened = shelf::Opened {
            count: ahead.files.len() as u32,
            directory: self.descriptor as u32,
            flags,
            ..shelf::Opened::default()
        };
        Some(ahead)
    }
}

/// Where what is to be said of a file, with its data, lies on the shelf.
struct Slot<'a> {
    index: usize,
    at: usize,
    /// It has to end before that.
    end: usize,
    name: &'a [u8],
    /// All of the data, or nothing.
    whole: bool,
}

impl Slot<'_> {
    fn said(&self) -> shelf::Ahead {
        shelf::Ahead { status: self.at as u32, name_length: self.name.len() as u32, ..shelf::Ahead::default() }
    }

    fn most(&self) -> usize {
        if self.whole {
            LARGEST
        } else {
            super::loan::HEAD
        }
    }

    /// Lays the data there; how much.
    fn read_from(&self, thread: &GuestThread, data: &OwnedFd) -> Option<usize> {
        let start = self.said().start();
        thread.channel.shelve_file(start, data, self.end.checked_sub(start)?.min(self.most()))
    }

    fn read(&self, thread: &GuestThread, file: Arc<OpenFile>) -> Option<(Arc<OpenFile>, Metadata, usize)> {
        let length = self.read_from(thread, &*file.operations.unchanging_descriptor()?)?;
        // Behind that, as reading moves the time of access.
        let AtRest { metadata, shows_reading, .. } = file.operations.at_rest(0)?;
        (!shows_reading).then_some((file, metadata, length))
    }

    /// Opens and reads what the directory's listing has shown.
    fn open_listed(
        &self,
        thread: &GuestThread,
        context: &Context,
        directory: &Path,
        name: &[u8],
        names: Names,
        flags: u32,
    ) -> Option<(Arc<OpenFile>, Metadata, usize)> {
        let mut length = None;
        let (file, metadata) = open::open_listed(context, directory, name, names, flags, &mut |data| {
            length = self.read_from(thread, data);
            length.is_some()
        })?;
        Some((file, metadata, length?))
    }

    /// Says what it is, if the data is all that there is to be. Where that ends, and what lasts of it.
    fn fill(
        &self,
        thread: &GuestThread,
        file: &OpenFile,
        metadata: &Metadata,
        length: usize,
    ) -> Option<(usize, Option<Status>)> {
        let is_all = metadata.size == length as u64;
        if metadata.size < length as u64 || !is_all && (self.whole || length < self.most()) {
            return None;
        }
        let mut said = self.said();
        (said.size, said.data) = (metadata.size, length as u32);
        if is_all && length <= super::loan::COPIED && file.path.as_ref().is_some_and(|path| counts_of(&**path.inode()).0 <= 0) {
            said.flags = loan::MAY_BE_COPIED;
        }
        let status = Status::try_from(metadata.stat().as_bytes()).ok()?;
        thread.channel.shelve_ahead(self.index, &said, &status, self.name);
        Some(((said.start() + length).next_multiple_of(64), lasting(metadata, &status)))
    }
}
