//! Direct descriptors: open regular files that a process reads and writes by itself, on a host descriptor of its own.
//!
//! What is safe about them is only what is in a process's table: a descriptor of a regular file, open with exactly the
//! access that the guest has, so that whatever a hostile program does with it is its right anyway. It cannot be taken
//! back. What must go through the sentry for other reasons (somebody watches the file, it grows, a limit is set) is held
//! by agreement with the stub: a [`DirectTable`] says which descriptors may be used at present, and an entry that is
//! cleared counts at once.
//!
//! A file becomes direct after some use ([`USES`], [`BYTES_A_USE`]): short-lived ones never pay for it. The engine
//! injects (`run::direct`); [`crate::fs::fd_table`] clears entries when descriptors go; [`DirectRegistry`] finds all entries of a file.
//! Lock order: `DirectRegistry::places` > `FdTable` > `DirectTable::state`.

use crate::fs::file::{HostDescription, OpenFile, StatusFlags};
use crate::fs::host::HostRegularFile;
use crate::fs::inode::{Device, FileType, Inode, Metadata};
use crate::fs::notify::NotifyRegistry;
use crate::fs::path::same_inode;
use crate::fs::position::HandedOver;
use crate::fs::tmpfs::TmpfsFile;
use crate::{Kernel, Result};
use parking_lot::Mutex;
use rustix::fs::OFlags;
use skerry_platform::direct::{DirectPages, Rights, Window};
use skerry_platform::layout::{windows, DIRECT_ENTRIES};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

/// After so many uses a file's data becomes direct.
const USES: u32 = 6;
/// A transfer counts as one more use for each of these.
const BYTES_A_USE: u64 = 64 * 1024;
/// The count of a file that cannot become direct.
const NEVER: u32 = u32::MAX;
/// Direct descriptors that one process has at most: they count towards the host's RLIMIT_NOFILE.
const ENTRIES_MAX: usize = 256;
/// That a sandbox has.
const PLACES_MAX: usize = 8192;

/// A file that loses less by truncation stays direct.
const LOST_MAX: u64 = 1024 * 1024;

/// With more entries than these in a sandbox, nobody looks through all of them.
const SEARCHED_MAX: usize = 128;

const SET_ID: u32 = 0o6000;

/// Which of a host process's descriptors stand for which of the guest's.
pub struct DirectTable {
    /// The host process.
    pub pid: i32,
    pages: Arc<DirectPages>,
    state: Mutex<TableState>,
    /// There are descriptors to be closed.
    closing: AtomicBool,
}

#[derive(Default)]
struct TableState {
    entries: BTreeMap<i32, Entry>,
    /// The process's own descriptors that stand for nothing any more.
    to_close: Vec<i32>,
}

struct Entry {
    /// `None`: null(4), for which there is none.
    descriptor: Option<i32>,
    rights: Rights,
    file: Weak<OpenFile>,
    /// Where it stands, if that was lent.
    lent: Option<Arc<LentPosition>>,
}

/// A file's position that lies in the table of the process that uses it; or lay there, and where it was when that ended.
pub struct LentPosition(Mutex<Lying>);

enum Lying {
    There { pages: Arc<DirectPages>, index: u64 },
    Back(Option<u64>),
}

impl LentPosition {
    /// Ends that: `settle` puts the host's offset there. `None`: it is where it was.
    pub fn take_back(&self, settle: impl FnOnce(Option<u64>)) {
        let mut lying = self.0.lock();
        match std::mem::replace(&mut *lying, Lying::Back(None)) {
            Lying::There { pages, index } => {
                settle(pages.take_position(index));
                pages.settle_position(index);
            }
            Lying::Back(position) => settle(position),
        }
    }

    /// The descriptor goes. Whoever has it still in mind asks, until the place is another's.
    fn leave(&self) {
        let mut lying = self.0.lock();
        if let Lying::There { pages, index } = &*lying {
            *lying = Lying::Back(pages.take_position(*index));
        }
    }
}

impl DirectTable {
    /// A table for the host process `pid`, and the descriptor that its stub is to map.
    pub fn create(pid: i32) -> Result<(Arc<DirectTable>, OwnedFd)> {
        let (pages, memory) = DirectPages::create().map_err(|_| crate::Errno::ENOMEM)?;
        Ok((
            Arc::new(DirectTable { pid, pages: Arc::new(pages), state: Mutex::default(), closing: AtomicBool::new(false) }),
            memory,
        ))
    }

    /// Whether `fd` can get an entry.
    pub fn has_room_for(&self, fd: i32) -> bool {
        let state = self.state.lock();
        fd >= 0 && (fd as u64) < DIRECT_ENTRIES && state.entries.len() < ENTRIES_MAX && !state.entries.contains_key(&fd)
    }

    /// The guest's `fd`, which is `file`, is the process's own `descriptor`. False: it has an entry already.
    pub(super) fn set(&self, fd: i32, file: &Arc<OpenFile>, descriptor: i32, rights: Rights) -> bool {
        let mut state = self.state.lock();
        if state.entries.contains_key(&fd) || !self.pages.set(fd as u64, descriptor, rights) {
            return false;
        }
        self.pages.settle_position(fd as u64);
        state.entries.insert(fd, Entry { descriptor: Some(descriptor), rights, file: Arc::downgrade(file), lent: None });
        true
    }

    /// The guest's `fd`, which is `file`, is one of null(4). False: it has an entry already.
    pub(super) fn set_null(&self, fd: i32, file: &Arc<OpenFile>) -> bool {
        let mut state = self.state.lock();
        if state.entries.contains_key(&fd) || !self.pages.set_null(fd as u64, file.is_readable(), file.is_writable()) {
            return false;
        }
        self.pages.settle_position(fd as u64);
        state.entries.insert(fd, Entry { descriptor: None, rights: Rights::default(), file: Arc::downgrade(file), lent: None });
        true
    }

    /// Where `fd` is direct and its rights are not `rights` any more: corrects them. False: it is not direct.
    pub fn refresh(&self, fd: i32, file: &Arc<OpenFile>, rights: Rights) -> bool {
        let mut state = self.state.lock();
        let Some(entry) = state.entries.get_mut(&fd) else { return false };
        if !std::ptr::eq(entry.file.as_ptr(), Arc::as_ptr(file)) {
            return false;
        }
        if let Some(descriptor) = entry.descriptor.filter(|_| entry.rights != rights) {
            self.pages.set(fd as u64, descriptor, rights);
            entry.rights = rights;
        }
        true
    }

    /// Where `fd` is `file` and can be read in a mapping: the process is lent its position.
    pub fn lend_position(&self, fd: i32, file: &Arc<OpenFile>, position: u64) -> Option<Arc<LentPosition>> {
        let mut state = self.state.lock();
        let entry = state.entries.get_mut(&fd)?;
        let Rights { read, append, window, .. } = entry.rights;
        let is_it = entry.descriptor.is_some() && std::ptr::eq(entry.file.as_ptr(), Arc::as_ptr(file));
        // Writes to the end move the host's offset, whatever they are.
        let is_wanted = is_it && read && !append && window.life != 0 && window.end != 0;
        if !is_wanted || !self.pages.lend_position(fd as u64, position) {
            return None;
        }
        let lent = Arc::new(LentPosition(Mutex::new(Lying::There { pages: self.pages.clone(), index: fd as u64 })));
        entry.lent = Some(lent.clone());
        Some(lent)
    }

    /// Where `fd` is `file`: it may be read in a mapping no further than to `end` ([`Window`]).
    fn lower_window(&self, fd: i32, file: &Weak<OpenFile>, end: u64) {
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.get_mut(&fd).filter(|entry| Weak::ptr_eq(&entry.file, file)) {
            entry.rights.window.end = entry.rights.window.end.min(end);
            self.pages.lower_window(fd as u64, end);
        }
    }

    /// `fd` is the sentry's again.
    pub fn clear(&self, fd: i32) {
        let mut state = self.state.lock();
        if let Some(entry) = state.entries.remove(&fd) {
            self.pages.clear(fd as u64);
            self.close_behind(&mut state, entry);
        }
    }

    /// The entry has gone from the pages.
    fn close_behind(&self, state: &mut TableState, entry: Entry) {
        if let Some(lent) = entry.lent {
            // The place is another file's next.
            lent.leave();
        }
        if let Some(descriptor) = entry.descriptor {
            state.to_close.push(descriptor);
            self.closing.store(true, Ordering::Release);
        }
    }

    pub fn clear_all(&self) {
        let mut state = self.state.lock();
        for (fd, entry) in std::mem::take(&mut state.entries) {
            self.pages.clear(fd as u64);
            self.close_behind(&mut state, entry);
        }
    }

    /// A descriptor of the process that did not become an entry.
    pub fn close_later(&self, descriptor: i32) {
        self.state.lock().to_close.push(descriptor);
        self.closing.store(true, Ordering::Release);
    }

    /// Descriptors that the process is to close, at most `limit`.
    pub fn take_closing(&self, limit: usize) -> Vec<i32> {
        if !self.closing.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut state = self.state.lock();
        let first = state.to_close.len().saturating_sub(limit);
        let taken = state.to_close.split_off(first);
        self.closing.store(!state.to_close.is_empty(), Ordering::Release);
        taken
    }

    fn holds(&self, fd: i32, file: &Weak<OpenFile>) -> bool {
        self.state.lock().entries.get(&fd).is_some_and(|entry| Weak::ptr_eq(&entry.file, file))
    }
}

/// One entry of one table.
struct Place {
    table: Weak<DirectTable>,
    fd: i32,
    file: Weak<OpenFile>,
    /// Which file it is on the host.
    identity: Option<(Device, u64)>,
}

impl Place {
    fn is_current(&self) -> bool {
        self.table.upgrade().is_some_and(|table| table.holds(self.fd, &self.file))
    }

    fn clear(&self) {
        if let Some(table) = self.table.upgrade() {
            if table.holds(self.fd, &self.file) {
                table.clear(self.fd);
            }
        }
    }
}

/// All entries of all tables, by what file they are.
#[derive(Default)]
pub struct DirectRegistry {
    /// Length of the list, so that nothing is locked where there is none.
    count: AtomicUsize,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    list: Vec<Place>,
    /// At this length what is gone is taken out.
    clean_at: usize,
    /// How many files are being made shorter.
    shrinking: usize,
}

impl Places {
    /// How far `file` may be read in a mapping now.
    fn window(&self, file: &OpenFile, life: u64) -> Window {
        let life = if life == 0 { 0 } else { file.window_life(life) };
        if life == 0 {
            return Window::default();
        }
        let end = file.window_end().filter(|_| self.shrinking == 0);
        Window { end: end.unwrap_or(0), life }
    }

    fn make_room(&mut self) -> bool {
        if self.list.len() >= self.clean_at {
            self.list.retain(Place::is_current);
            self.clean_at = (2 * self.list.len()).max(64);
        }
        self.list.len() < PLACES_MAX
    }
}

/// A file is being made shorter: no window is given meanwhile.
pub struct Shrinking<'a>(&'a DirectRegistry);

impl Drop for Shrinking<'_> {
    fn drop(&mut self) {
        self.0.places.lock().shrinking -= 1;
    }
}

impl DirectRegistry {
    /// Runs `set`, which makes the entry `fd` of `table`, unless somebody watches the file; whoever begins to watch it
    /// later finds the entry. `set` is told the file's window.
    pub fn add(
        &self,
        watches: &NotifyRegistry,
        table: &Arc<DirectTable>,
        fd: i32,
        file: &Arc<OpenFile>,
        life: u64,
        set: impl FnOnce(Window) -> bool,
    ) -> bool {
        let mut places = self.places.lock();
        if !places.make_room() || is_watched(watches, file) || !set(places.window(file, life)) {
            return false;
        }
        let identity = file.direct().and_then(|host| identity_of(&host.descriptor));
        places.list.push(Place { table: Arc::downgrade(table), fd, file: Arc::downgrade(file), identity });
        self.count.store(places.list.len(), Ordering::Release);
        true
    }

    /// [`DirectTable::refresh`], the window included.
    pub fn refresh(&self, table: &DirectTable, fd: i32, file: &Arc<OpenFile>, rights: Rights, life: u64) -> bool {
        let places = self.places.lock();
        table.refresh(fd, file, Rights { window: places.window(file, life), ..rights })
    }

    /// `inode`, which shows `metadata`, is about to end at `end`, or to have other data from there on. What is read in windows
    /// ends before that, by whichever name the file was opened. To be kept until it is done.
    pub fn shrink(&self, inode: &Arc<dyn Inode>, metadata: &Metadata, end: u64) -> Shrinking<'_> {
        // Let go behind the lock: one of them may be the last of its file.
        let mut seen = Vec::new();
        let mut places = self.places.lock();
        places.shrinking += 1;
        for place in &places.list {
            let (Some(table), Some(file)) = (place.table.upgrade(), place.file.upgrade()) else { continue };
            let is_it = file.path.as_ref().is_some_and(|path| same_inode(path.inode(), inode))
                || place.identity == Some((metadata.device, metadata.inode));
            if is_it {
                table.lower_window(place.fd, &place.file, end);
            }
            seen.push((table, file));
        }
        drop(places);
        drop(seen);
        Shrinking(self)
    }

    /// Whether no process but the one of `table` has what `is_it` says as a direct descriptor at present.
    pub fn is_only_in(&self, table: Option<&Arc<DirectTable>>, is_it: impl Fn(&Arc<dyn Inode>) -> bool) -> bool {
        let mut others = Vec::new();
        {
            let places = self.places.lock();
            if places.list.len() > SEARCHED_MAX {
                return false;
            }
            for place in &places.list {
                let own = table.is_some_and(|table| std::ptr::eq(place.table.as_ptr(), Arc::as_ptr(table)));
                if !own && place.is_current() {
                    others.extend(place.file.upgrade());
                }
            }
        }
        // Looked at, and let go, behind the lock.
        !others.iter().any(|file| file.path.as_ref().is_some_and(|path| is_it(path.inode())))
    }

    fn clear_where(&self, wanted: impl Fn(&OpenFile) -> bool) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        // Let go behind the lock: one of them may be the last of its file.
        let mut seen = Vec::new();
        let mut places = self.places.lock();
        places.list.retain(|place| {
            let Some(file) = place.file.upgrade() else { return false };
            let kept = !wanted(&file);
            if !kept {
                place.clear();
            }
            seen.push(file);
            kept
        });
        self.count.store(places.list.len(), Ordering::Release);
        drop(places);
        drop(seen);
    }

    /// All data of `inode` goes through the sentry from now on, until it is made direct again.
    pub fn clear_inode(&self, inode: &Arc<dyn Inode>) {
        self.clear_where(|file| file.path.as_ref().is_some_and(|path| same_inode(path.inode(), inode)));
    }

    /// As [`DirectRegistry::clear_inode`], for an inode or what lies in it.
    pub fn clear_watched(&self, inode: &Arc<dyn Inode>) {
        self.clear_where(|file| {
            file.path.as_ref().is_some_and(|path| {
                same_inode(path.inode(), inode) || path.dentry.parent().is_some_and(|parent| same_inode(&parent.inode, inode))
            })
        });
    }

    /// As [`DirectRegistry::clear_inode`], for one open file.
    pub fn clear_file(&self, file: &OpenFile) {
        self.clear_where(|other| std::ptr::eq(other, file));
    }
}

/// All data of `inode` goes through the sentry from now on, until it is made direct again.
pub fn clear(kernel: &Kernel, inode: &Arc<dyn Inode>) {
    if let Some(registry) = kernel.direct_registry() {
        registry.clear_inode(inode);
    }
}

/// `inode`, which shows `metadata`, is about to be `new_size` long; the result is to be kept until it is. Where it loses much, what
/// has been charged for writes beyond is given back.
#[must_use]
pub fn before_truncation<'a>(
    kernel: &'a Kernel,
    inode: &Arc<dyn Inode>,
    metadata: &Metadata,
    new_size: u64,
) -> Option<Shrinking<'a>> {
    if metadata.size.saturating_sub(new_size) > LOST_MAX {
        clear(kernel, inode);
    }
    kernel.direct_registry().map(|registry| registry.shrink(inode, metadata, new_size))
}

/// Files that are open so are read by calls.
const UNMAPPED: StatusFlags = StatusFlags::DIRECT.union(StatusFlags::NOATIME);

/// The file systems of the host's on which a mapping shows at once what is written.
const COHERENT: [i64; 4] = [0xef53, 0x5846_5342, 0x9123_683e, 0x0102_1994];

fn identity_of(descriptor: &OwnedFd) -> Option<(Device, u64)> {
    rustix::fs::fstat(descriptor).ok().map(|status| (Device::decode(status.st_dev), status.st_ino))
}

/// Whether somebody wants to know of what happens to the file.
pub fn is_watched(watches: &NotifyRegistry, file: &OpenFile) -> bool {
    let Some(path) = &file.path else { return false };
    watches.is_watched(path.inode()) || path.dentry.parent().is_some_and(|parent| watches.is_watched(&parent.inode))
}

impl OpenFile {
    /// Counts a use of the data; true once there have been enough.
    pub fn uses_data(&self, bytes: u64) -> bool {
        let uses = self.data_use.load(Ordering::Relaxed);
        if uses > USES {
            return uses != NEVER;
        }
        let more = 1 + (bytes / BYTES_A_USE).min(USES.into()) as u32;
        self.data_use.store(uses + more, Ordering::Relaxed);
        false
    }

    /// It cannot become direct: nobody need try again.
    pub fn stays_mediated(&self) {
        self.data_use.store(NEVER, Ordering::Relaxed);
    }

    /// What a process may do with the file by itself; `limited`: its RLIMIT_FSIZE is to be heeded.
    pub fn direct_rights(&self, limited: bool) -> Rights {
        let flags = self.flags();
        let mut write_end = match self.direct() {
            Some(host) if self.is_writable() && !limited => host.operations.direct_write_end(flags),
            _ => None,
        };
        if write_end.is_some() {
            // Writing takes set-id bits away, which the sentry does.
            let permissions = self.operations.metadata().map_or(SET_ID, |metadata| metadata.permissions);
            if permissions & SET_ID != 0 {
                write_end = None;
            }
        }
        let append = flags.contains(StatusFlags::APPEND);
        Rights { read: self.is_readable(), write_end, append, window: Window::default() }
    }

    /// For how long processes may read the file in a mapping without asking whether the host has made it shorter; 0: not at all.
    fn window_life(&self, life: u64) -> u64 {
        let is_plain = self.path.is_some() && self.is_readable();
        let Some(host) = self.direct().filter(|_| is_plain && !self.flags().intersects(UNMAPPED)) else { return 0 };
        let operations = host.operations.as_any();
        if operations.is::<TmpfsFile>() {
            // Nobody but the sentry can.
            return windows::FOR_GOOD;
        }
        let is_coherent = || rustix::fs::fstatfs(&host.descriptor).is_ok_and(|system| COHERENT.contains(&system.f_type));
        if operations.is::<HostRegularFile>() && is_coherent() {
            life
        } else {
            0
        }
    }

    /// Up to where: not where there are holes, which take up memory as soon as a mapping shows them.
    fn window_end(&self) -> Option<u64> {
        let status = rustix::fs::fstat(&self.direct()?.descriptor).ok()?;
        let (size, blocks) = (u64::try_from(status.st_size).ok()?, u64::try_from(status.st_blocks).ok()?);
        (blocks.saturating_mul(512) >= size).then_some(size)
    }

    /// The host description for processes to use, made where there is none yet. `None`: this file is not for that.
    pub fn hand_over(&self) -> Result<Option<&HandedOver>> {
        let flags = self.flags();
        let both = StatusFlags::WRONLY | StatusFlags::RDWR;
        if flags.contains(both) || flags.contains(StatusFlags::PATH) || !self.operations.is_seekable() {
            return Ok(None);
        }
        if self.position.handed_over().is_none() {
            self.position.hand_over(|position| {
                let operations = self.underlying()?;
                let description = operations.host_description(flags, position)?;
                Ok(description.map(|HostDescription { descriptor, sharing, keep }| HandedOver {
                    descriptor,
                    operations,
                    sharing,
                    keep,
                }))
            })?;
        }
        let Some(host) = self.direct() else { return Ok(None) };
        Ok(is_harmless(&host.descriptor, flags).then_some(host))
    }
}

/// The invariant: a regular file, open with exactly this access. Asked of the host, for every descriptor that goes out.
fn is_harmless(descriptor: &OwnedFd, flags: StatusFlags) -> bool {
    let wanted = match flags & (StatusFlags::WRONLY | StatusFlags::RDWR) {
        StatusFlags::WRONLY => OFlags::WRONLY,
        StatusFlags::RDWR => OFlags::RDWR,
        _ => OFlags::RDONLY,
    };
    let is_regular =
        rustix::fs::fstat(descriptor).is_ok_and(|status| FileType::from_mode(status.st_mode) == Some(FileType::Regular));
    let access = rustix::fs::fcntl_getfl(descriptor).map(|flags| flags & (OFlags::RDWR | OFlags::WRONLY | OFlags::PATH));
    is_regular && access == Ok(wanted)
}
