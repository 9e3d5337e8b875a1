//! The board: names that are not there, or no links, told to all processes at once (ADR 68; the stub's `board.rs`).
//!
//! A compiler looks for each header in one directory after the other, and the next compiler does so again; python looks for modules so,
//! the dynamic linker for libraries. The second time that an absolute name turns out not to be there, that is *posted*: all stubs
//! answer it themselves from then on.
//!
//! What is posted holds for everybody: each directory on its way may be searched by all, and lies in a tree that nobody changes
//! unnoticed. It holds for one *edition*: as soon as any dentry on such a way is another one, a mount comes or goes, or a
//! directory's attributes change, the next edition begins, and what was posted is withdrawn. That is cheap, and rare: who changes
//! names of which nobody was told does not begin one.
//!
//! What the host changes in these directories it tells ([`Changes`]); that is asked before any request is served, so that
//! who hears of such a change through the sentry finds it. A stub believes what is posted for a millisecond behind that.
//!
//! A dentry that something was posted about is kept as long as the entry stands, so that who changes it finds it told.
//! Lock order: `Board::posting` is innermost; dentries are let go of outside of it.

use crate::fs::inode::{FileType, Watched};
use crate::fs::path::{Dentry, Path};
use crate::fs::walk::{Follow, Step, Walker};
use crate::task::Credentials;
use crate::{Errno, Kernel};
use parking_lot::Mutex;
use skerry_platform::board::Board as Memory;
use skerry_platform::changes::HostChanges;
use skerry_platform::layout::board::{ENTRIES, NOT_THERE, NO_LINK};
use skerry_platform::processor::ticks;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

/// Directories of the host that are watched at most.
const WATCHED_MAX: usize = 4096;
/// In nanoseconds: what it takes to look at a directory, to answer a request about a name, and how much of that there has to be before
/// directories are watched. Who has watched some waits at its end until the host has put that away, which takes so long.
const LOOK: u64 = 500;
const REQUEST: u64 = 6_000;
const ENDING: u64 = 15_000_000;
/// Who is not told of a name, as it could not be, is asked about it so often before that is tried again.
const NOT_BEFORE: u32 = 0xff;
/// In ticks of the processor's clock: an edition that is over sooner (20 ms) was not worth while; and for how long nothing is posted
/// then, from half a millisecond to half a second.
const WORTH_WHILE: u64 = 50_000_000;
const PAUSE: u64 = 1_250_000;
const LONGEST_PAUSE: u64 = PAUSE << 10;
/// As a loan's ([`crate::run`]): about a millisecond.
const LIFE: u64 = 2_500_000;
const FOR_GOOD: u64 = u64::MAX >> 2;
/// Everybody may search a directory.
const SEARCHED_BY_ALL: u32 = 0o111;

/// What the host's own processes change in directories that are watched.
#[derive(Default)]
pub struct Changes {
    /// Somebody asks whether there are any before anybody is served.
    are_asked_for: AtomicBool,
    /// In nanoseconds: what would have been saved by watching.
    missed: AtomicU64,
    /// `None`: the host does not tell.
    group: OnceLock<Option<HostChanges>>,
    watched: AtomicUsize,
    /// Moved on with each change.
    count: AtomicU64,
}

impl Changes {
    /// Moved on whenever something was found to have changed.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// From now on changes in this directory are noticed, where they are asked for. False: they are not.
    pub fn watch(&self, directory: impl AsFd) -> bool {
        let Some(group) = self.group.get_or_init(HostChanges::new) else { return false };
        self.watched.load(Ordering::Relaxed) < WATCHED_MAX
            && group.watch(directory)
            && self.watched.fetch_add(1, Ordering::Relaxed) < WATCHED_MAX
    }

    /// A directory that is not watched has been looked at.
    pub fn note_look(&self) {
        self.missed.fetch_add(LOOK, Ordering::Relaxed);
    }

    /// Whether directories are to be watched: somebody asks what has come of it before anybody is served, and it has been missed for long
    /// enough to be worth its price.
    pub fn are_worth_it(&self) -> bool {
        self.are_asked_for.load(Ordering::Relaxed) && self.missed.load(Ordering::Relaxed) >= ENDING
    }

    fn have_come(&self, group: &HostChanges) -> bool {
        let have_come = group.have_come();
        if have_come {
            self.count.fetch_add(1, Ordering::SeqCst);
        }
        have_come
    }
}

/// What is told, and what for.
pub struct Board {
    told_by: OnceLock<(Memory, Arc<Changes>)>,
    /// Something was posted in this edition.
    has_entries: AtomicBool,
    /// For how long what was looked at is believed.
    life: AtomicU64,
    /// When the last one that had any was over, and for how long nothing is posted since.
    ended: AtomicU64,
    pause: AtomicU64,
    /// By an entry's place: which name was asked for last, in 24 bits, and how often it is to be asked for before it is looked at.
    asked: Box<[AtomicU32]>,
    /// Held while it is looked for changes, so that nobody finds none while another one has them in his hands.
    looking: Mutex<()>,
    /// By an entry's place: the dentries that it is about.
    posting: Mutex<Vec<Vec<Arc<Dentry>>>>,
}

impl Default for Board {
    fn default() -> Board {
        Board {
            told_by: OnceLock::new(),
            has_entries: AtomicBool::new(false),
            life: AtomicU64::new(LIFE),
            ended: AtomicU64::new(0),
            pause: AtomicU64::new(0),
            asked: (0..ENTRIES).map(|_| AtomicU32::new(0)).collect(),
            looking: Mutex::default(),
            posting: Mutex::default(),
        }
    }
}

/// What has come of a name.
#[derive(Clone, Copy, PartialEq)]
pub enum Turned {
    OutAbsent,
    OutNoLink,
}

impl Board {
    /// From now on names are told by this memory.
    pub fn attach(&self, memory: Memory, changes: Arc<Changes>) {
        changes.are_asked_for.store(true, Ordering::Relaxed);
        let _ = self.told_by.set((memory, changes));
    }

    /// From now on the processor's time ends nothing, and nothing waits for it: for tests.
    pub fn never_expire(&self) {
        self.life.store(FOR_GOOD, Ordering::Relaxed);
        if let Some((_, changes)) = self.told_by.get() {
            changes.missed.store(ENDING, Ordering::Relaxed);
        }
    }

    pub fn is_attached(&self) -> bool {
        self.told_by.get().is_some()
    }

    /// What must be known before anybody is served: whether the host has changed something.
    #[inline]
    pub fn look(&self) {
        if let Some((memory, changes)) = self.told_by.get() {
            if let Some(Some(group)) = changes.group.get() {
                self.look_for_changes(memory, changes, group);
            }
        }
    }

    #[inline(never)]
    fn look_for_changes(&self, memory: &Memory, changes: &Changes, group: &HostChanges) {
        let _looking = self.looking.lock();
        let until = ticks().wrapping_add(self.life.load(Ordering::Relaxed));
        if changes.have_come(group) {
            self.withdraw();
        }
        memory.holds_until(until);
    }

    /// What was posted does not hold any more.
    pub fn withdraw(&self) {
        let Some((memory, _)) = self.told_by.get() else { return };
        memory.begin_edition();
        if !self.has_entries.swap(false, Ordering::SeqCst) {
            return;
        }
        let now = ticks();
        let lived = now.saturating_sub(self.ended.swap(now, Ordering::Relaxed));
        let pause = self.pause.load(Ordering::Relaxed);
        let pause = if lived < WORTH_WHILE { (2 * pause).clamp(PAUSE, LONGEST_PAUSE) } else { 0 };
        self.pause.store(pause, Ordering::Relaxed);
    }

    /// The dentry is about to be another one, or none.
    pub fn changes(&self, dentry: &Dentry) {
        let edition = self.told_by.get().map(|(memory, _)| memory.edition());
        if edition == Some(dentry.told_in.load(Ordering::SeqCst)) {
            self.withdraw();
        }
    }

    /// A call has found out that of an absolute name: everybody may be told.
    pub fn note(&self, kernel: &Kernel, name: &[u8], turned: Turned) {
        let Some((memory, changes)) = self.told_by.get() else { return };
        let Some((place, tag)) = Memory::place_of(name).filter(|_| name.first() == Some(&b'/')) else { return };
        if !changes.are_worth_it() {
            changes.missed.fetch_add(REQUEST, Ordering::Relaxed);
            return;
        }
        let Some(asked) = self.asked.get(place) else { return };
        let known = asked.load(Ordering::Relaxed);
        let tag = tag << 8;
        if known & !NOT_BEFORE != tag {
            return asked.store(tag, Ordering::Relaxed);
        }
        if known & NOT_BEFORE != 0 {
            return asked.store(known - 1, Ordering::Relaxed);
        }
        let is_pause = ticks().wrapping_sub(self.ended.load(Ordering::Relaxed)) < self.pause.load(Ordering::Relaxed);
        if is_pause && self.life.load(Ordering::Relaxed) != FOR_GOOD {
            return;
        }
        if self.post(kernel, memory, place, name, turned).is_none() {
            asked.store(tag | NOT_BEFORE, Ordering::Relaxed);
        }
    }

    /// `None`: it is not to be told.
    fn post(&self, kernel: &Kernel, memory: &Memory, place: usize, name: &[u8], turned: Turned) -> Option<()> {
        let edition = memory.edition();
        let root = kernel.mounts.root()?;
        // Once to see which way it is, and once more when everything on it is told or watched.
        let mut way = Way::of(kernel, &root, name, turned)?;
        if !way.is_told(edition) {
            way = Way::of(kernel, &root, name, turned)?;
            if !way.is_told(edition) {
                return None;
            }
        }
        way.is_for_all().then_some(())?;
        let mut posting = self.posting.lock();
        if memory.edition() != edition {
            // It is asked for again.
            return Some(());
        }
        self.has_entries.store(true, Ordering::SeqCst);
        memory.post(edition, name, if turned == Turned::OutAbsent { NOT_THERE } else { NO_LINK });
        posting.resize_with(ENTRIES, Vec::new);
        let before = posting.get_mut(place).map(|kept| std::mem::replace(kept, way.dentries));
        drop(posting);
        drop(before);
        Some(())
    }

    /// Dentries are kept no more than without it.
    pub fn let_go(&self) {
        self.withdraw();
        let before = std::mem::take(&mut *self.posting.lock());
        drop(before);
    }
}

/// All that a name's meaning hangs on.
struct Way {
    directories: Vec<Path>,
    dentries: Vec<Arc<Dentry>>,
}

impl Way {
    /// `None`: it is not as it was said, or hangs on more than dentries.
    fn of(kernel: &Kernel, root: &Path, name: &[u8], turned: Turned) -> Option<Way> {
        let all = Credentials::new(0, 0, Vec::new());
        let mut walker = Walker::new(&kernel.mounts, root.clone(), &all).noting_steps();
        let found = walker.walk(root, name, Follow::No);
        let steps = walker.take_steps()?;
        let mut way = Way { directories: Vec::new(), dentries: Vec::new() };
        for Step { directory, name, dentry } in steps {
            way.dentries.push(match dentry {
                Some(dentry) => dentry,
                // The last one.
                None => directory.dentry.negative(&name)?,
            });
            way.directories.push(directory);
        }
        let is_so = match (found, turned) {
            (Err(Errno::ENOENT), Turned::OutAbsent) => true,
            (Ok(place), Turned::OutNoLink) => place.inode().kind() != FileType::Symlink,
            _ => false,
        };
        is_so.then_some(way)
    }

    /// Whether everything on it has been told and watched before; from now on it is, if it can be.
    fn is_told(&self, edition: u64) -> bool {
        let mut is_told = true;
        for dentry in &self.dentries {
            is_told &= dentry.told_in.swap(edition, Ordering::SeqCst) == edition;
        }
        for directory in &self.directories {
            is_told &= directory.dentry.told_in.swap(edition, Ordering::SeqCst) == edition;
            is_told &= directory.inode().watch_names() == Watched::Already;
        }
        is_told
    }

    fn is_for_all(&self) -> bool {
        self.directories.iter().all(|directory| {
            directory.inode().metadata().is_ok_and(|metadata| metadata.permissions & SEARCHED_BY_ALL == SEARCHED_BY_ALL)
        })
    }
}
