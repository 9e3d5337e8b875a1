//! Opening ahead: a thread that opens, reads and closes one small file of a directory after the other gets the next ones with
//! the answer to an open(2): what each is called, is, and holds (ADR 47).
//!
//! They are opened as if it had asked for them, with its rights, where nobody can tell when that was; the loan holds them
//! ([`super::loan`]), and what the thread's descriptor is in the end is put into its table when the loan ends. Which come next is
//! known as it is of names ([`super::ahead`]): once two have followed each other as in the directory's listing or the alphabet.

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
const DIRECTORIES: usize = 4;
/// What can lie between two files: links and directories, which are not opened so.
const GAP: usize = 8;
/// Orders that are tried for one directory.
const TRIES: u32 = 2;
/// Larger files are not opened ahead.
const LARGEST: usize = 64 * 1024;
/// What all that is opened ahead at once may take up.
const ROOM: usize = 128 * 1024;
/// From so many on a directory's first file tells that the others come as listed.
const CONFIDENT: usize = 4;
/// Where one file that was opened ahead was not asked for, so many calls are left alone.
const PAUSE: u32 = 32;

/// What a thread opens.
#[derive(Default)]
pub(super) struct Opens {
    /// The last one used first.
    directories: Vec<Directory>,
    /// So many are opened ahead at most.
    batch: usize,
    pause: u32,
}

struct Directory {
    /// How its files are opened.
    descriptor: i32,
    prefix: Vec<u8>,
    flags: u32,
    dentry: Weak<Dentry>,
    /// The last one.
    last: Vec<u8>,
    tries: u32,
    /// All names, in the order in which they come, once that is known; how the directory's names stood before they were listed;
    /// where the last one is; how many behind it were told of.
    order: ahead::Listing,
    listed_at: Names,
    at: usize,
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
    /// The name that comes behind the last one, its place and what it is; where such names are asked for.
    pub next: Option<(Vec<u8>, Metadata)>,
}

impl Opens {
    /// Opens what comes behind the file at `place`, which was opened by the name `path` with `flags`. The shelf is in use up to
    /// `used`; `whole`: all that is opened is read to its end.
    pub fn open_next(
        &mut self,
        thread: &GuestThread,
        context: &Context,
        (descriptor, path, place): &(i32, Vec<u8>, Path),
        flags: u32,
        used: usize,
        whole: bool,
    ) -> Option<Ahead> {
        let (prefix, name, parent) = ahead::split(path, place)?;
        let descriptor = *descriptor;
        let confident = self.batch >= CONFIDENT;
        let directory = self.directory(descriptor, prefix, flags, &parent, name)?;
        match directory.follow(&parent, name, confident) {
            Outcome::Used => self.batch = (2 * self.batch).clamp(1, shelf::MOST),
            // Time may have been up, by chance.
            Outcome::InVain if self.batch > 1 => self.batch = 1,
            Outcome::InVain => self.pause = PAUSE,
            Outcome::InPart(used) => self.batch = self.batch.min(used),
            Outcome::Nothing => {}
        }
        if self.pause > 0 {
            self.pause -= 1;
            return None;
        }
        let batch = self.batch.max(1);
        let directory = self.directories.first_mut()?;
        let parent = Path { mount: place.mount.clone(), dentry: parent };
        let asks = thread.ahead.lock().is_about(descriptor, prefix, &parent.dentry);
        directory.open(thread, context, &parent, Limits { batch, used, whole }, asks)
    }

    /// The directory in which `name` is, in front of all others.
    fn directory(
        &mut self,
        descriptor: i32,
        prefix: &[u8],
        flags: u32,
        dentry: &Arc<Dentry>,
        name: &[u8],
    ) -> Option<&mut Directory> {
        let known = self.directories.iter().position(|known| {
            known.descriptor == descriptor
                && known.flags == flags
                && known.prefix == prefix
                && std::ptr::eq(known.dentry.as_ptr(), Arc::as_ptr(dentry))
        });
        match known {
            Some(index) => self.directories[..=index].rotate_right(1),
            None => {
                let (dentry, prefix, last) = (Arc::downgrade(dentry), prefix.to_vec(), name.to_vec());
                self.directories.truncate(DIRECTORIES - 1);
                let new = Directory {
                    descriptor,
                    prefix,
                    flags,
                    dentry,
                    last,
                    tries: 0,
                    order: Vec::new(),
                    listed_at: Names::Changing,
                    at: 0,
                    told: 0,
                };
                self.directories.insert(0, new);
            }
        }
        self.directories.first_mut()
    }
}

/// How much may be opened ahead.
struct Limits {
    batch: usize,
    /// The shelf is in use up to here.
    used: usize,
    /// All that is opened is read to its end.
    whole: bool,
}

impl Directory {
    /// `name` has been opened; `confident`: what comes is as listed, if that can be.
    fn follow(&mut self, dentry: &Arc<Dentry>, name: &[u8], confident: bool) -> Outcome {
        let mut outcome = Outcome::Nothing;
        if !self.order.is_empty() {
            let within = self.order[self.at..].iter().take(self.told + GAP + 1).position(|(next, _)| next == name);
            outcome = match within {
                Some(within) if within > self.told => Outcome::Used,
                Some(within) if within > 1 => Outcome::InPart(within - 1),
                _ if self.told > 0 => Outcome::InVain,
                _ => Outcome::Nothing,
            };
            self.told = 0;
            match within {
                Some(within) => self.at += within,
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
            (self.order, self.at) = found.unwrap_or_default();
        }
        self.last.clear();
        self.last.extend_from_slice(name);
        outcome
    }

    fn open(
        &mut self,
        thread: &GuestThread,
        context: &Context,
        parent: &Path,
        Limits { batch, mut used, whole }: Limits,
        asks: bool,
    ) -> Option<Ahead> {
        if self.order.is_empty() {
            return None;
        }
        let end = (used + ROOM).min(shelf::SIZE);
        let credentials = context.task.credentials();
        let walker = Walker::new(&context.kernel().mounts, context.task.fs().root, &credentials).of(context.task);
        let mut ahead = Ahead::default();
        let mut full = self.prefix.clone();
        let names = parent.inode().names();
        let is_as_listed = names == self.listed_at && names != Names::Changing;
        for (index, (name, kind)) in self.order[self.at + 1..].iter().enumerate() {
            let is_full = ahead.files.len() >= batch;
            if is_full && !asks {
                break;
            }
            full.truncate(self.prefix.len());
            full.extend_from_slice(name);
            let slot = Slot { index: ahead.files.len() + 1, at: used, end, name: &full, whole };
            let listed = if is_as_listed && *kind == FileType::Regular && !is_full && full.len() <= loan::LONGEST_NAME {
                slot.open_listed(thread, context, parent, name, names, self.flags)
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
                            ahead.next = metadata.map(|metadata| (full, metadata));
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
                    let Some(file) = open::open_ahead(context, &place, shown, self.flags) else { break };
                    let Some(opened) = slot.read(thread, file) else { break };
                    opened
                }
            };
            let Some((behind, status)) = slot.fill(thread, &file, &metadata, length) else {
                // It is asked about next all the same.
                ahead.next = asks.then_some((full, metadata));
                break;
            };
            // A name with directories in it may lead elsewhere, which the file itself does not show.
            ahead.files.push(Some((file, status.filter(|_| self.prefix.is_empty()))));
            (used, self.told) = (behind, index + 1);
        }
        ahead.opened = shelf::Opened {
            count: ahead.files.len() as u32,
            directory: self.descriptor as u32,
            flags: self.flags,
            _padding: 0,
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
