//! One file of a host tree.

use super::descriptors::LIST_MAX;
use super::file::{HostDirectory, HostRegularFile};
use super::{host_error, status_of, Access, HostStatus, HostTree, Key};
use crate::fs::clock;
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{
    Belief, Device, FileSystem, FileType, Inode, Metadata, Names, NewNode, NewNodeKind, OpenedListed, RenameFlags,
    SetAttributes, Stamp, Watched,
};
use crate::fs::listing::NameList;
use crate::fs::special::SpecialState;
use crate::fs::text::OpenCounts;
use crate::{Context, Errno, Result};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, Timespec, Timestamps, UTIME_OMIT};
use rustix::fs::{Gid, Uid};
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// A file whose status is asked for so often by name keeps a descriptor; one that is opened so often, that one.
const OFTEN: u32 = 3;
/// Of a directory that is looked into so often, the host is asked to tell of changes.
const WORTH_WATCHING: u32 = 16;

/// What a file keeps between calls as long as its ctime is what it was.
enum Kept {
    Nothing,
    /// A regular file, open to be read.
    Open {
        descriptor: Arc<OwnedFd>,
        changed: TimeSpec,
    },
    /// A directory's names.
    List {
        names: Names,
        list: Arc<NameList>,
    },
}

struct Place {
    /// `None`: the root, whose descriptor is always held.
    parent: Option<Arc<HostInode>>,
    name: Vec<u8>,
}

/// One file of a host tree.
pub struct HostInode {
    me: Weak<HostInode>,
    tree: Arc<HostTree>,
    key: Key,
    kind: FileType,
    place: RwLock<Place>,
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    /// The descriptor must not be given up: the file has no name any more by which it could be opened again.
    pinned: AtomicBool,
    recently_used: AtomicBool,
    /// It was found by another name than its last one: only a search says which one holds.
    several_names: AtomicBool,
    /// The host tells when its names change; and how often they were asked for before.
    is_watched: AtomicBool,
    names_asked: AtomicU32,
    /// How they stood when they were last looked at since then, and [`Changes::count`] at that time.
    ///
    /// [`Changes::count`]: crate::fs::board::Changes::count
    stood: Mutex<Option<(u64, Names)>>,
    /// Birth time, which stays.
    created: Option<TimeSpec>,
    /// How often its status was asked for by name, and it was opened.
    asked: AtomicU32,
    opened: AtomicU32,
    kept: Mutex<Kept>,
    /// From its creation until it is first opened: who creates a file may open it whatever its mode says.
    fresh: Mutex<Option<OwnedFd>>,
    special: SpecialState,
    open_counts: OpenCounts,
}

impl HostInode {
    pub(super) fn new_root(tree: Arc<HostTree>, status: &HostStatus, descriptor: OwnedFd) -> Arc<HostInode> {
        Arc::new_cyclic(|me| HostInode {
            me: me.clone(),
            tree,
            key: status.key,
            kind: status.kind,
            place: RwLock::new(Place { parent: None, name: Vec::new() }),
            descriptor: Mutex::new(Some(Arc::new(descriptor))),
            pinned: AtomicBool::new(true),
            recently_used: AtomicBool::new(false),
            several_names: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            names_asked: AtomicU32::new(0),
            stood: Mutex::new(None),
            created: status.created,
            asked: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            kept: Mutex::new(Kept::Nothing),
            fresh: Mutex::new(None),
            special: SpecialState::default(),
            open_counts: OpenCounts::default(),
        })
    }

    pub(super) fn new(tree: Arc<HostTree>, status: &HostStatus, parent: &Arc<HostInode>, name: &[u8]) -> Arc<HostInode> {
        Arc::new_cyclic(|me| HostInode {
            me: me.clone(),
            tree,
            key: status.key,
            kind: status.kind,
            place: RwLock::new(Place { parent: Some(parent.clone()), name: name.to_vec() }),
            descriptor: Mutex::new(None),
            pinned: AtomicBool::new(false),
            recently_used: AtomicBool::new(false),
            several_names: AtomicBool::new(false),
            is_watched: AtomicBool::new(false),
            names_asked: AtomicU32::new(0),
            stood: Mutex::new(None),
            created: status.created,
            asked: AtomicU32::new(0),
            opened: AtomicU32::new(0),
            kept: Mutex::new(Kept::Nothing),
            fresh: Mutex::new(None),
            special: SpecialState::default(),
            open_counts: OpenCounts::default(),
        })
    }

    /// It was found by this name.
    pub(super) fn found_at(&self, parent: &Arc<HostInode>, name: &[u8]) {
        if self.set_place(parent, name) {
            self.several_names.store(true, Ordering::Release);
        }
    }

    /// True: it was known by another name.
    fn set_place(&self, parent: &Arc<HostInode>, name: &[u8]) -> bool {
        let mut place = self.place.write();
        match &place.parent {
            None => false,
            Some(old) if Arc::ptr_eq(old, parent) && place.name == name => false,
            Some(_) => {
                let old = std::mem::replace(&mut *place, Place { parent: Some(parent.clone()), name: name.to_vec() });
                drop(place);
                drop(old);
                true
            }
        }
    }

    fn place(&self) -> (Option<Arc<HostInode>>, Vec<u8>) {
        let place = self.place.read();
        (place.parent.clone(), place.name.clone())
    }

    pub(super) fn take_recently_used(&self) -> bool {
        self.recently_used.swap(false, Ordering::Relaxed)
    }

    pub(super) fn drop_descriptor(&self) {
        if !self.pinned.load(Ordering::Acquire) {
            self.descriptor.lock().take();
        }
    }

    fn held_descriptor(&self) -> Option<Arc<OwnedFd>> {
        let held = self.descriptor.lock().clone();
        if held.is_some() {
            self.recently_used.store(true, Ordering::Relaxed);
        }
        held
    }

    /// An `O_PATH` descriptor of this file. ESTALE where another file has taken its name on the host.
    pub(crate) fn descriptor(&self) -> Result<Arc<OwnedFd>> {
        if let Some(descriptor) = self.held_descriptor() {
            return Ok(descriptor);
        }
        // Up to the nearest directory that has one, then down again; without recursion, as trees can be deep.
        let mut chain = vec![self.me.upgrade().ok_or(Errno::ESTALE)?];
        let mut directory = loop {
            let (parent, _) = chain[chain.len() - 1].place();
            let parent = parent.ok_or(Errno::ESTALE)?;
            if let Some(descriptor) = parent.held_descriptor() {
                break descriptor;
            }
            chain.push(parent);
        };
        while let Some(inode) = chain.pop() {
            let (_, name) = inode.place();
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(&*directory, &name[..], flags, Mode::empty()).map_err(host_error)?;
            let status = rustix::fs::fstat(&opened).map_err(host_error)?;
            if (status.st_dev, status.st_ino) != inode.key {
                return Err(Errno::ESTALE);
            }
            let opened = Arc::new(opened);
            *inode.descriptor.lock() = Some(opened.clone());
            inode.recently_used.store(true, Ordering::Relaxed);
            inode.tree.cache.added(&inode);
            directory = opened;
        }
        Ok(directory)
    }

    /// The directory's descriptor and the name in it; `None` for the root.
    fn directory_and_name(&self) -> Result<Option<(Arc<OwnedFd>, Vec<u8>)>> {
        match self.place() {
            (Some(parent), name) => Ok(Some((parent.descriptor()?, name))),
            (None, _) => Ok(None),
        }
    }

    pub(super) fn status(&self) -> Result<HostStatus> {
        if let Some(descriptor) = self.held_descriptor() {
            return self.status_by(&descriptor);
        }
        if let Kept::Open { descriptor, .. } = &*self.kept.lock() {
            return self.status_by(descriptor);
        }
        if self.asked.fetch_add(1, Ordering::Relaxed) == OFTEN {
            // A descriptor answers faster than a name.
            return self.status_by(&*self.descriptor()?);
        }
        let (directory, name) = self.directory_and_name()?.ok_or(Errno::ESTALE)?;
        let status = status_of(&*directory, &name, AtFlags::empty())?;
        if status.key != self.key {
            return Err(Errno::ESTALE);
        }
        Ok(status)
    }

    /// By a descriptor of this very file.
    pub(super) fn status_by(&self, descriptor: &OwnedFd) -> Result<HostStatus> {
        self.status_of(&rustix::fs::fstat(descriptor).map_err(host_error)?)
    }

    pub(super) fn status_of(&self, status: &rustix::fs::Stat) -> Result<HostStatus> {
        HostStatus::of(status, self.created)
    }

    /// A descriptor to read that is kept, if the file has not changed since it was opened: not its permissions either.
    fn kept_open(&self) -> Option<Arc<OwnedFd>> {
        let mut kept = self.kept.lock();
        let Kept::Open { descriptor, changed } = &*kept else { return None };
        let status = rustix::fs::fstat(&**descriptor).ok()?;
        if status.st_nlink > 0 && time_of_change(&status) == *changed {
            return Some(descriptor.clone());
        }
        let old = std::mem::replace(&mut *kept, Kept::Nothing);
        drop(kept);
        drop(old);
        None
    }

    /// Keeps a descriptor to read, if this is opened often.
    fn keep_open(&self, descriptor: &Arc<OwnedFd>) -> bool {
        if self.opened.fetch_add(1, Ordering::Relaxed) < OFTEN || self.tree.access != Access::ReadOnly {
            return false;
        }
        let (Ok(status), Some(me)) = (rustix::fs::fstat(&**descriptor), self.me.upgrade()) else { return false };
        let changed = time_of_change(&status);
        if !self.tree.keeps_time(descriptor, status.st_dev) || !clock::is_settled(changed) {
            return false;
        }
        *self.kept.lock() = Kept::Open { descriptor: descriptor.clone(), changed };
        self.tree.cache.keeps_open(&me);
        true
    }

    pub(super) fn keep_nothing(&self) {
        let old = std::mem::replace(&mut *self.kept.lock(), Kept::Nothing);
        drop(old);
    }

    pub(super) fn tree(&self) -> &Arc<HostTree> {
        &self.tree
    }

    fn check_writable(&self) -> Result<()> {
        if self.tree.access == Access::ReadOnly {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }

    /// Opens the host's regular file or directory. Never anything else: its type has been looked at, and is again.
    pub(crate) fn open_host(&self, flags: OFlags) -> Result<OwnedFd> {
        if !matches!(self.kind, FileType::Regular | FileType::Directory) {
            return Err(Errno::ENXIO);
        }
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let held = if self.pinned.load(Ordering::Acquire) { self.held_descriptor() } else { None };
        let opened = match held {
            Some(descriptor) => self.tree.cache.reopener().reopen(&*descriptor, flags - OFlags::NOFOLLOW)?,
            None => {
                let (directory, name) = self.directory_and_name()?.ok_or(Errno::ESTALE)?;
                rustix::fs::openat(&*directory, &name[..], flags, Mode::empty()).map_err(host_error)?
            }
        };
        let status = rustix::fs::fstat(&opened).map_err(host_error)?;
        if (status.st_dev, status.st_ino) != self.key {
            return Err(Errno::ESTALE);
        }
        Ok(opened)
    }

    /// A directory's file of its own that is about to lose its name: keeps a way to reach it, if anybody uses it.
    fn pin_if_used(&self, name: &[u8]) -> Option<Arc<HostInode>> {
        let directory = self.descriptor().ok()?;
        let status = status_of(&*directory, name, AtFlags::empty()).ok()?;
        let inode = self.tree.inode_in_use(status.key)?;
        inode.found_at(&self.me.upgrade()?, name);
        inode.descriptor().ok()?;
        inode.pinned.store(true, Ordering::Release);
        Some(inode)
    }

    /// The inode of a node that was just made; gives it the owner it is to have.
    fn made(&self, directory: &OwnedFd, name: &[u8], node: &NewNode) -> Result<Arc<HostInode>> {
        let mut status = status_of(directory, name, AtFlags::empty())?;
        let (uid, gid) = (self.tree.ids.uid_outside(node.uid), self.tree.ids.gid_outside(node.gid));
        if status.uid != uid || status.gid != gid {
            change_owner(directory, name, AtFlags::SYMLINK_NOFOLLOW, Some(uid), Some(gid))?;
            status = status_of(directory, name, AtFlags::empty())?;
        }
        self.tree.inode(&status, &self.me.upgrade().ok_or(Errno::ESTALE)?, name)
    }
}

fn time_of_change(status: &rustix::fs::Stat) -> TimeSpec {
    TimeSpec { sec: status.st_ctime, nsec: status.st_ctime_nsec as i64 }
}

fn change_owner(directory: &OwnedFd, name: &[u8], flags: AtFlags, uid: Option<u32>, gid: Option<u32>) -> Result<()> {
    rustix::fs::chownat(directory, name, uid.map(Uid::from_raw), gid.map(Gid::from_raw), flags).map_err(host_error)
}

fn host_time(time: Option<TimeSpec>) -> Timespec {
    match time {
        Some(time) => Timespec { tv_sec: time.sec, tv_nsec: time.nsec },
        None => Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
    }
}

impl Inode for HostInode {
    fn metadata(&self) -> Result<Metadata> {
        Ok(self.status()?.metadata(self.tree.ids))
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.tree.clone()
    }

    fn open_counts(&self) -> Option<&OpenCounts> {
        Some(&self.open_counts)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        self.lookup_shown(name).map(|(inode, _)| inode)
    }

    fn lookup_shown(&self, name: &[u8]) -> Result<(Arc<dyn Inode>, Option<Metadata>)> {
        if self.kind != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let directory = self.descriptor()?;
        let status = status_of(&*directory, name, AtFlags::empty())?;
        let inode = self.tree.inode(&status, &self.me.upgrade().ok_or(Errno::ESTALE)?, name)?;
        Ok((inode, Some(status.metadata(self.tree.ids))))
    }

    fn open_listed(&self, name: &[u8], _: StatusFlags, read: &mut dyn FnMut(&OwnedFd) -> bool) -> Option<OpenedListed> {
        if self.tree.access != Access::ReadOnly || self.kind != FileType::Directory {
            return None;
        }
        let directory = self.descriptor().ok()?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        // A listing does not show what is mounted there on the host: that can be anything.
        let file = rustix::fs::openat2(&*directory, name, flags, Mode::empty(), ResolveFlags::NO_XDEV).ok()?;
        if !read(&file) {
            return None;
        }
        let status = status_of(&file, b"", AtFlags::EMPTY_PATH).ok()?;
        if status.kind != FileType::Regular || !self.tree.keeps_time(&file, status.key.0) {
            return None;
        }
        let inode = self.tree.inode(&status, &self.me.upgrade()?, name).ok()?;
        let operations = Arc::new(HostRegularFile::new(inode.clone(), Arc::new(file), OFlags::RDONLY, false));
        Some(OpenedListed { inode, metadata: status.metadata(self.tree.ids), operations })
    }

    fn names(&self) -> Names {
        let changes = self.tree.cache.changes();
        // Before the look itself, so that a change meanwhile makes another count.
        let count = self.is_watched.load(Ordering::Acquire).then(|| changes.count());
        match (count, self.tree.access) {
            (Some(count), _) => {
                if let Some((_, names)) = self.stood.lock().filter(|(then, _)| *then == count) {
                    return names;
                }
            }
            (None, Access::ReadOnly) => {
                changes.note_look();
                if self.names_asked.fetch_add(1, Ordering::Relaxed) % WORTH_WATCHING == WORTH_WATCHING - 1 {
                    self.watch_names();
                }
            }
            // Where the guest writes itself the host would tell of that, too.
            (None, _) => {}
        }
        let Ok(descriptor) = self.descriptor() else { return Names::Changing };
        let names = match rustix::fs::fstat(&*descriptor) {
            Ok(status) if status.st_nlink > 0 && self.tree.keeps_time(&descriptor, status.st_dev) => {
                Names::At(Stamp([time_of_change(&status), TimeSpec::default()]))
            }
            _ => Names::Changing,
        };
        if let Some(count) = count.filter(|_| names != Names::Changing) {
            *self.stood.lock() = Some((count, names));
        }
        names
    }

    fn watch_names(&self) -> Watched {
        if self.is_watched.load(Ordering::Acquire) {
            return Watched::Already;
        }
        let may_be = self.kind == FileType::Directory
            && self.tree.access != Access::ReadWrite
            && self.tree.cache.changes().are_worth_it();
        // Also where equal stamps do not mean equal names nobody tells of all changes.
        if !may_be || self.names() == Names::Changing {
            return Watched::Never;
        }
        let Ok(descriptor) = self.descriptor() else { return Watched::Never };
        if !self.tree.cache.changes().watch(&*descriptor) {
            return Watched::Never;
        }
        self.is_watched.store(true, Ordering::Release);
        Watched::FromNowOn
    }

    fn belief(&self) -> Belief {
        if self.several_names.load(Ordering::Acquire) {
            Belief::Never
        } else {
            Belief::AsDirectory
        }
    }

    fn is_at_rest(&self) -> bool {
        self.tree.access == Access::ReadOnly
    }

    fn known_list(&self) -> Option<Arc<NameList>> {
        let (then, list) = match &*self.kept.lock() {
            Kept::List { names, list } => (*names, list.clone()),
            _ => return None,
        };
        (self.names() == then).then_some(list)
    }

    fn keep_list(&self, names: Names, list: &Arc<NameList>) {
        let (Names::At(_), Some(me)) = (names, self.me.upgrade()) else { return };
        if list.size() <= LIST_MAX {
            *self.kept.lock() = Kept::List { names, list: list.clone() };
            self.tree.cache.keeps_list(&me, list.size());
        }
    }

    fn identity(&self) -> Result<(Device, u64)> {
        Ok((Device::decode(self.key.0), self.key.1))
    }

    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Inode>> {
        self.check_writable()?;
        let directory = self.descriptor()?;
        // The host's own umask must not cut what the guest asked for: the sentry runs with umask 0.
        let mode = Mode::from_raw_mode(node.permissions & 0o7777);
        let mut fresh = None;
        match &node.kind {
            NewNodeKind::Regular => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                fresh = Some(rustix::fs::openat(&*directory, name, flags, mode).map_err(host_error)?);
            }
            NewNodeKind::Directory => rustix::fs::mkdirat(&*directory, name, mode).map_err(host_error)?,
            NewNodeKind::Symlink(target) => rustix::fs::symlinkat(&target[..], &*directory, name).map_err(host_error)?,
            NewNodeKind::Fifo | NewNodeKind::Socket => {
                let kind = if matches!(node.kind, NewNodeKind::Fifo) {
                    rustix::fs::FileType::Fifo
                } else {
                    rustix::fs::FileType::Socket
                };
                rustix::fs::mknodat(&*directory, name, kind, mode, 0).map_err(host_error)?;
                self.tree.made_here.lock().insert(status_of(&*directory, name, AtFlags::empty())?.key);
            }
            // An overlay's whiteout, which stands for no device.
            NewNodeKind::CharacterDevice(device) if self.tree.access == Access::Private && *device == Default::default() => {
                rustix::fs::mknodat(&*directory, name, rustix::fs::FileType::CharacterDevice, mode, 0).map_err(host_error)?;
            }
            // A device node on the host would be a way to the host's devices.
            NewNodeKind::CharacterDevice(_) | NewNodeKind::BlockDevice(_) => return Err(Errno::EPERM),
        }
        match self.made(&directory, name, &node) {
            Ok(inode) => {
                *inode.fresh.lock() = fresh;
                Ok(inode)
            }
            Err(errno) => {
                let flags = if matches!(node.kind, NewNodeKind::Directory) { AtFlags::REMOVEDIR } else { AtFlags::empty() };
                let _ = rustix::fs::unlinkat(&*directory, name, flags);
                Err(errno)
            }
        }
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = target.as_any().downcast_ref::<HostInode>().ok_or(Errno::EXDEV)?;
        self.check_writable()?;
        if !Arc::ptr_eq(&self.tree, &target.tree) {
            return Err(Errno::EXDEV);
        }
        let directory = self.descriptor()?;
        let (old_directory, old_name) = target.directory_and_name()?.ok_or(Errno::EPERM)?;
        if !status_of(&*old_directory, &old_name, AtFlags::empty()).is_ok_and(|status| status.key == target.key) {
            // Made without a name, or known by another one only.
            let descriptor = target.held_descriptor().ok_or(Errno::ENOENT)?;
            self.tree.cache.reopener().link(&*descriptor, &directory, name)?;
            target.set_place(&self.me.upgrade().ok_or(Errno::ESTALE)?, name);
            return Ok(());
        }
        rustix::fs::linkat(&*old_directory, &old_name[..], &*directory, name, AtFlags::empty()).map_err(host_error)
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let directory = self.descriptor()?;
        let inode = self.pin_if_used(name);
        rustix::fs::unlinkat(&*directory, name, AtFlags::empty()).map_err(host_error)?;
        if let Some(inode) = inode {
            if inode.status().is_ok_and(|status| status.links == 0) {
                self.tree.made_here.lock().remove(&inode.key);
            }
        }
        Ok(())
    }

    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        let directory = self.descriptor()?;
        self.pin_if_used(name);
        rustix::fs::unlinkat(&*directory, name, AtFlags::REMOVEDIR).map_err(host_error)
    }

    fn rename(&self, name: &[u8], new_parent: &Arc<dyn Inode>, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        self.check_writable()?;
        let new_parent = new_parent.as_any().downcast_ref::<HostInode>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&self.tree, &new_parent.tree) {
            return Err(Errno::EXDEV);
        }
        let (from, to) = (self.descriptor()?, new_parent.descriptor()?);
        let moved = status_of(&*from, name, AtFlags::empty()).ok().and_then(|status| self.tree.inode_in_use(status.key));
        let replaced = new_parent.pin_if_used(new_name);
        let host_flags = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
        rustix::fs::renameat_with(&*from, name, &*to, new_name, host_flags).map_err(host_error)?;
        if let (Some(moved), Some(parent)) = (moved, new_parent.me.upgrade()) {
            moved.set_place(&parent, new_name);
        }
        if let (Some(replaced), Some(parent), true) = (replaced, self.me.upgrade(), flags.contains(RenameFlags::EXCHANGE)) {
            replaced.set_place(&parent, name);
        }
        Ok(())
    }

    fn create_unnamed(&self, node: NewNode) -> Result<Arc<dyn Inode>> {
        self.check_writable()?;
        let directory = self.open_host(OFlags::RDONLY | OFlags::DIRECTORY)?;
        let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        let file =
            rustix::fs::openat(&directory, ".", flags, Mode::from_raw_mode(node.permissions & 0o7777)).map_err(host_error)?;
        let (uid, gid) = (self.tree.ids.uid_outside(node.uid), self.tree.ids.gid_outside(node.gid));
        let mut status = status_of(&file, b"", AtFlags::EMPTY_PATH)?;
        if status.uid != uid || status.gid != gid {
            rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid))).map_err(host_error)?;
            status = status_of(&file, b"", AtFlags::EMPTY_PATH)?;
        }
        let inode = self.tree.inode(&status, &self.me.upgrade().ok_or(Errno::ESTALE)?, b"#unnamed")?;
        *inode.descriptor.lock() = Some(Arc::new(file));
        inode.pinned.store(true, Ordering::Release);
        Ok(inode)
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        if self.kind != FileType::Symlink {
            return Err(Errno::EINVAL);
        }
        let target = match self.held_descriptor() {
            Some(descriptor) => rustix::fs::readlinkat(&*descriptor, "", Vec::new()),
            None => {
                let (directory, name) = self.directory_and_name()?.ok_or(Errno::ESTALE)?;
                rustix::fs::readlinkat(&*directory, &name[..], Vec::new())
            }
        };
        Ok(target.map_err(host_error)?.into_bytes())
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        self.check_writable()?;
        let descriptor = self.descriptor()?;
        if attributes.uid.is_some() || attributes.gid.is_some() {
            let uid = attributes.uid.map(|uid| self.tree.ids.uid_outside(uid));
            let gid = attributes.gid.map(|gid| self.tree.ids.gid_outside(gid));
            change_owner(&descriptor, b"", AtFlags::EMPTY_PATH, uid, gid)?;
        }
        if let Some(permissions) = attributes.permissions {
            if self.kind == FileType::Symlink {
                return Err(Errno::EOPNOTSUPP);
            }
            self.tree.cache.reopener().change_mode(&*descriptor, permissions & 0o7777)?;
        }
        if let Some(size) = attributes.size {
            let file = self.open_host(OFlags::WRONLY)?;
            rustix::fs::ftruncate(&file, size).map_err(host_error)?;
        }
        if attributes.accessed.is_some() || attributes.modified.is_some() {
            let times =
                Timestamps { last_access: host_time(attributes.accessed), last_modification: host_time(attributes.modified) };
            match self.directory_and_name()? {
                Some((directory, name)) if !self.pinned.load(Ordering::Acquire) => {
                    rustix::fs::utimensat(&*directory, &name[..], &times, AtFlags::SYMLINK_NOFOLLOW).map_err(host_error)?;
                }
                _ => {
                    let file = self.open_host(OFlags::RDONLY)?;
                    rustix::fs::futimens(&file, &times).map_err(host_error)?;
                }
            }
        }
        Ok(())
    }

    fn open(self: Arc<Self>, context: &Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match self.kind {
            FileType::Regular | FileType::Directory => self.open_data(flags),
            FileType::Fifo if self.tree.access == Access::Private || self.tree.made_here.lock().contains(&self.key) => {
                let inode: Arc<dyn Inode> = self.clone();
                self.special.open_fifo(context, inode, flags)
            }
            FileType::Symlink => Err(Errno::ELOOP),
            // The host's own FIFO, socket or device: not ours to give. The caller reports it (`Event::Denied`).
            FileType::Fifo => Err(Errno::EACCES),
            _ => Err(Errno::ENXIO),
        }
    }

    fn open_data(self: Arc<Self>, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match self.kind {
            FileType::Directory => {
                Ok(Arc::new(HostDirectory::new(self.clone(), self.open_host(OFlags::RDONLY | OFlags::DIRECTORY)?)))
            }
            FileType::Regular => {
                let host_flags = if flags.contains(StatusFlags::RDWR) {
                    OFlags::RDWR
                } else if flags.contains(StatusFlags::WRONLY) {
                    OFlags::WRONLY
                } else {
                    OFlags::RDONLY
                };
                if host_flags != OFlags::RDONLY {
                    self.check_writable()?;
                }
                let fresh = self.fresh.lock().take();
                if let Some(fresh) = fresh {
                    return Ok(Arc::new(HostRegularFile::new(self, Arc::new(fresh), OFlags::RDWR, false)));
                }
                if host_flags == OFlags::RDONLY {
                    if let Some(kept) = self.kept_open() {
                        return Ok(Arc::new(HostRegularFile::new(self, kept, host_flags, true)));
                    }
                }
                let file = Arc::new(self.open_host(host_flags)?);
                let kept = host_flags == OFlags::RDONLY && self.keep_open(&file);
                Ok(Arc::new(HostRegularFile::new(self, file, host_flags, kept)))
            }
            _ => Err(Errno::ENXIO),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        if !is_shown_xattr(name) {
            return Err(if name.starts_with(b"system.") { Errno::EOPNOTSUPP } else { Errno::ENODATA });
        }
        if !matches!(self.kind, FileType::Regular | FileType::Directory) {
            return Err(Errno::ENODATA);
        }
        let file = match self.open_host(OFlags::RDONLY) {
            // Only user.* needs the right to read (xattr(7)); what else an unreadable file has stays unknown.
            Err(Errno::EACCES | Errno::EPERM) if !name.starts_with(b"user.") => return Err(Errno::ENODATA),
            file => file?,
        };
        with_room(|value| rustix::fs::fgetxattr(&file, name, rustix::buffer::spare_capacity(value)))
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.check_writable()?;
        if !name.starts_with(b"user.") {
            return Err(Errno::EOPNOTSUPP);
        }
        let file = self.open_host(OFlags::RDONLY)?;
        rustix::fs::fsetxattr(&file, name, value, rustix::fs::XattrFlags::from_bits_retain(flags)).map_err(host_error)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        if !matches!(self.kind, FileType::Regular | FileType::Directory) {
            return Ok(Vec::new());
        }
        let file = match self.open_host(OFlags::RDONLY) {
            // listxattr(2) needs no right on the file: what cannot be known does not show.
            Err(Errno::EACCES | Errno::EPERM) => return Ok(Vec::new()),
            file => file?,
        };
        xattrs_of(&file)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.check_writable()?;
        if !name.starts_with(b"user.") {
            return Err(Errno::EOPNOTSUPP);
        }
        let file = self.open_host(OFlags::RDONLY)?;
        rustix::fs::fremovexattr(&file, name).map_err(host_error)
    }

    fn bound_socket(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.special.bound_socket()
    }

    fn set_bound_socket(&self, socket: Weak<dyn Any + Send + Sync>) -> Result<()> {
        self.special.set_bound_socket(socket)
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The names of the extended attributes of an open file, as far as they show.
pub(super) fn xattrs_of(file: &OwnedFd) -> Result<Vec<Vec<u8>>> {
    let list = with_room(|list| rustix::fs::flistxattr(file, rustix::buffer::spare_capacity(list)))?;
    Ok(list.split(|&byte| byte == 0).filter(|name| is_shown_xattr(name)).map(<[u8]>::to_vec).collect())
}

/// What `fill` gives. Most is small, and the host takes memory for as much as there is room for.
fn with_room(fill: impl Fn(&mut Vec<u8>) -> rustix::io::Result<usize>) -> Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(1024);
    match fill(&mut bytes) {
        Ok(_) => return Ok(bytes),
        Err(rustix::io::Errno::RANGE) => {}
        Err(error) => return Err(host_error(error)),
    }
    bytes = Vec::with_capacity(crate::fs::xattr::VALUE_MAX);
    fill(&mut bytes).map_err(host_error)?;
    Ok(bytes)
}

/// Attributes of host files that show inside: not labels and the like, which mean nothing to the guest kernel.
fn is_shown_xattr(name: &[u8]) -> bool {
    name.starts_with(b"user.") || name == b"security.capability" || name.starts_with(b"system.posix_acl_")
}

impl Drop for HostInode {
    /// Lets a long chain of directories go without recursion.
    fn drop(&mut self) {
        let mut parent = self.place.get_mut().parent.take();
        while let Some(inode) = parent {
            parent = Arc::into_inner(inode).and_then(|mut inode| inode.place.get_mut().parent.take());
        }
    }
}
