//! Names: [`Dentry`] (a name in a directory) and [`Path`] (a dentry seen through a mount).
//!
//! A dentry knows its parent, so that getcwd(2) and /proc/PID/fd can say where a file is. A directory's dentry keeps weak
//! references to its children: one name has one dentry as long as anybody uses it (a mount point, a working directory,
//! an open file), and [`DentryCache`] uses those that were used of late, among them *negative* ones: names that are not
//! there. Whether a cached child may be believed without a search is the directory's to say ([`Inode::names`]).
//!
//! Lock order: `Dentry::children` is the directory's lock: it is held while names in it are looked up, made or removed
//! (a parent's before a child's; two unrelated ones, for rename, only under `MountTable::rename_lock`, by address), and
//! is outside of the file systems' own locks; `Dentry::place` and the cache's lock are innermost.

use crate::fs::dentry_cache::{DentryCache, KeptAt};
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{Belief, FileType, Inode, Metadata, Names, OpenedListed};
use crate::fs::mount::Mount;
use crate::{Errno, Result};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// The longest name in a directory (NAME_MAX, limits.h).
pub const NAME_MAX: usize = 255;

/// Children that are remembered weakly: swept when the map has doubled.
#[derive(Default)]
pub struct Children {
    map: HashMap<Vec<u8>, Child>,
    sweep_at: usize,
}

struct Child {
    dentry: Weak<Dentry>,
    /// How the directory's names stood before this one was looked up.
    names: Names,
}

struct Place {
    /// `None`: the root of a file system, or a file that never had a name.
    parent: Option<Arc<Dentry>>,
    name: Vec<u8>,
}

/// A name in a directory, and the inode behind it.
pub struct Dentry {
    pub inode: Arc<dyn Inode>,
    place: RwLock<Place>,
    pub(crate) children: Mutex<Children>,
    /// The name is gone (unlink, rmdir, or another file was renamed over it).
    unlinked: AtomicBool,
    /// It stands for a name that is not there.
    negative: bool,
    /// How many mounts are attached here, in whichever mount: lets the walk skip the mount table.
    pub(crate) mounts_here: AtomicU32,
    /// The cache that it, and what is below it, may be kept in; none for trees that are not mounted.
    pub(super) cache: OnceLock<Weak<DentryCache>>,
    pub(super) kept_at: KeptAt,
    /// The board's last edition that tells something about it ([`crate::fs::board`]); 0: none.
    pub(super) told_in: AtomicU64,
}

impl Dentry {
    /// The root of a file system, or a file without a name.
    pub fn new_root(inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Dentry::new(inode, None, Vec::new())
    }

    pub(crate) fn new(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: Vec<u8>) -> Arc<Dentry> {
        Dentry::build(inode, parent, name, false)
    }

    fn build(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: Vec<u8>, negative: bool) -> Arc<Dentry> {
        let cache = parent.as_ref().and_then(|parent| parent.cache.get().cloned());
        Arc::new(Dentry {
            inode,
            place: RwLock::new(Place { parent, name }),
            children: Mutex::default(),
            unlinked: AtomicBool::new(false),
            negative,
            mounts_here: AtomicU32::new(0),
            cache: cache.map_or_else(OnceLock::new, OnceLock::from),
            kept_at: KeptAt::default(),
            told_in: AtomicU64::new(0),
        })
    }

    fn cache(&self) -> Option<Arc<DentryCache>> {
        self.cache.get().and_then(Weak::upgrade)
    }

    /// It is about to be somewhere else, or nowhere, or another one what it was.
    fn changes(&self) {
        if self.told_in.load(Ordering::SeqCst) != 0 {
            if let Some(cache) = self.cache() {
                cache.board.changes(self);
            }
        }
    }

    /// What stands for the fact that `name` is not there, if that is known.
    pub(super) fn negative(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        self.children.lock().get(name).map(|(dentry, _)| dentry).filter(|dentry| dentry.negative)
    }

    /// A file that has no name in any directory (O_TMPFILE); `name` is what /proc shows.
    pub(crate) fn new_unnamed(inode: Arc<dyn Inode>, directory: &Arc<Dentry>, name: Vec<u8>) -> Arc<Dentry> {
        let dentry = Dentry::new(inode, Some(directory.clone()), name);
        dentry.unlinked.store(true, Ordering::Relaxed);
        dentry
    }

    /// `None` at the root of a file system.
    pub fn parent(&self) -> Option<Arc<Dentry>> {
        self.place.read().parent.clone()
    }

    pub fn name(&self) -> Vec<u8> {
        self.place.read().name.clone()
    }

    pub fn is_unlinked(&self) -> bool {
        self.unlinked.load(Ordering::Acquire)
    }

    pub fn is_directory(&self) -> bool {
        self.inode.kind() == FileType::Directory
    }

    pub(crate) fn is_mount_point(&self) -> bool {
        self.mounts_here.load(Ordering::Acquire) != 0
    }

    /// Whether `self` is `other` or lies above it in the same file system.
    pub fn is_ancestor_or_self(self: &Arc<Dentry>, other: &Arc<Dentry>) -> bool {
        let mut position = Some(other.clone());
        while let Some(dentry) = position {
            if Arc::ptr_eq(self, &dentry) {
                return true;
            }
            position = dentry.parent();
        }
        false
    }

    /// The child called `name`; ENOENT, ENOTDIR. The name is an ordinary one (no slash, not "." or "..").
    pub fn lookup(self: &Arc<Dentry>, name: &[u8]) -> Result<Arc<Dentry>> {
        self.lookup_shown(name).map(|(dentry, _)| dentry)
    }

    /// As [`Dentry::lookup`], with the child's metadata where the search has shown them.
    pub fn lookup_shown(self: &Arc<Dentry>, name: &[u8]) -> Result<(Arc<Dentry>, Option<Metadata>)> {
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut children = self.children.lock();
        self.search(&mut children, name)
    }

    /// As [`Dentry::lookup`], with the directory's lock held by the caller.
    pub(crate) fn lookup_locked(self: &Arc<Dentry>, children: &mut Children, name: &[u8]) -> Result<Arc<Dentry>> {
        self.search(children, name).map(|(dentry, _)| dentry)
    }

    fn search(self: &Arc<Dentry>, children: &mut Children, name: &[u8]) -> Result<(Arc<Dentry>, Option<Metadata>)> {
        let known = children.get(name);
        let belief = known.as_ref().map(|(dentry, _)| dentry.inode.belief());
        if let (Some((dentry, _)), Some(Belief::Always)) = (&known, belief) {
            dentry.kept_at.used();
            return Ok((dentry.clone(), None));
        }
        // Asked before the search, so that a change meanwhile makes another stamp than the one that is remembered.
        let names = self.inode.names();
        if let (Some((dentry, then)), Some(Belief::AsDirectory)) = (&known, belief) {
            if *then == names && names != Names::Changing {
                dentry.kept_at.used();
                return if dentry.negative { Err(Errno::ENOENT) } else { Ok((dentry.clone(), None)) };
            }
        }
        if self.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let names = names.if_settled();
        let known = known.map(|(dentry, _)| dentry).filter(|dentry| !dentry.negative);
        let (inode, shown) = match self.inode.lookup_shown(name) {
            Ok(found) => found,
            Err(Errno::ENOENT) => {
                return match known {
                    // The host lost it; what is mounted there stays reachable, as Linux keeps it for network trees.
                    Some(dentry) if dentry.is_mount_point() => Ok((dentry, None)),
                    known => {
                        if let Some(dentry) = known {
                            dentry.is_gone();
                            children.map.remove(name);
                        }
                        self.remember_absence(children, name, names);
                        Err(Errno::ENOENT)
                    }
                };
            }
            Err(errno) => return Err(errno),
        };
        Ok((self.found(children, name, known, inode, names), shown))
    }

    /// `inode` is what is called so where this directory's names stand at `names`; `known`: what was.
    fn found(
        self: &Arc<Dentry>,
        children: &mut Children,
        name: &[u8],
        known: Option<Arc<Dentry>>,
        inode: Arc<dyn Inode>,
        names: Names,
    ) -> Arc<Dentry> {
        let is_it = |dentry: &Arc<Dentry>| same_inode(&dentry.inode, &inode) || dentry.is_mount_point();
        let dentry = match known {
            Some(dentry) if is_it(&dentry) => dentry,
            another => {
                if let Some(dentry) = another {
                    dentry.kept_at.let_go(&dentry);
                }
                Dentry::new(inode, Some(self.clone()), name.to_vec())
            }
        };
        children.insert(name, &dentry, names);
        self.keep(&dentry);
        dentry
    }

    /// Opens the child called `name`, as [`Inode::open_listed`] does, where this directory's names stand at `names`.
    pub(crate) fn open_listed(
        self: &Arc<Dentry>,
        name: &[u8],
        names: Names,
        flags: StatusFlags,
        read: &mut dyn FnMut(&OwnedFd) -> bool,
    ) -> Option<(Arc<Dentry>, Metadata, Arc<dyn FileOperations>)> {
        let mut children = self.children.lock();
        let known = children.get(name).map(|(dentry, _)| dentry).filter(|dentry| !dentry.negative);
        if self.is_unlinked() || known.as_ref().is_some_and(|dentry| dentry.is_mount_point()) {
            return None;
        }
        let OpenedListed { inode, metadata, operations } = self.inode.open_listed(name, flags, read)?;
        Some((self.found(&mut children, name, known, inode, names), metadata, operations))
    }

    /// Has the cache use `child` from now on.
    fn keep(&self, child: &Arc<Dentry>) {
        if let Some(cache) = self.cache() {
            if !self.inode.file_system().is_volatile() {
                cache.keep(child);
            }
        }
    }

    /// Only where that saves a question to the host.
    fn remember_absence(self: &Arc<Dentry>, children: &mut Children, name: &[u8], names: Names) {
        let (Some(cache), Names::At(_)) = (self.cache(), names) else { return };
        let dentry = Dentry::build(cache.absent.clone(), Some(self.clone()), name.to_vec(), true);
        children.insert(name, &dentry, names);
        cache.keep(&dentry);
    }

    /// Its name is gone.
    fn is_gone(self: &Arc<Dentry>) {
        self.changes();
        self.unlinked.store(true, Ordering::Release);
        self.kept_at.let_go(self);
    }

    /// Enters a node that was just made. The caller holds the directory's lock.
    pub(crate) fn add_child(self: &Arc<Dentry>, children: &mut Children, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let dentry = Dentry::new(inode, Some(self.clone()), name.to_vec());
        children.insert(name, &dentry, self.inode.names().if_own());
        dentry
    }

    /// The name was removed from this directory. The caller holds the directory's lock.
    pub(crate) fn forget_child(&self, children: &mut Children, name: &[u8]) {
        if let Some(dentry) = children.map.remove(name).and_then(|child| child.dentry.upgrade()) {
            dentry.is_gone();
        }
    }

    /// Forgets `name` if nobody uses its dentry any more; not where the directory is locked.
    pub(super) fn sweep_child(&self, name: &[u8]) {
        if let Some(mut children) = self.children.try_lock() {
            if children.map.get(name).is_some_and(|child| child.dentry.strong_count() == 0) {
                children.map.remove(name);
            }
        }
    }

    /// `child` got a new place. The caller holds both directories' locks.
    pub(crate) fn moved(child: &Arc<Dentry>, children: &mut Children, new_parent: &Arc<Dentry>, new_name: &[u8]) {
        child.changes();
        *child.place.write() = Place { parent: Some(new_parent.clone()), name: new_name.to_vec() };
        children.insert(new_name, child, new_parent.inode.names().if_own());
    }

    /// Takes `name` out of the cache without marking its file as unlinked (rename). The caller holds the lock.
    pub(crate) fn detach_child(&self, children: &mut Children, name: &[u8]) {
        if let Some(dentry) = children.map.remove(name).and_then(|child| child.dentry.upgrade()) {
            dentry.changes();
        }
    }
}

impl Children {
    fn get(&self, name: &[u8]) -> Option<(Arc<Dentry>, Names)> {
        let child = self.map.get(name)?;
        Some((child.dentry.upgrade()?, child.names))
    }

    fn insert(&mut self, name: &[u8], dentry: &Arc<Dentry>, names: Names) {
        if let Some(child) = self.map.get_mut(name) {
            if !std::ptr::eq(child.dentry.as_ptr(), Arc::as_ptr(dentry)) {
                if let Some(before) = child.dentry.upgrade() {
                    before.changes();
                }
            }
            *child = Child { dentry: Arc::downgrade(dentry), names };
            return;
        }
        if self.map.len() >= self.sweep_at.max(64) {
            self.map.retain(|_, child| child.dentry.strong_count() > 0);
            self.sweep_at = self.map.len() * 2;
        }
        self.map.insert(name.to_vec(), Child { dentry: Arc::downgrade(dentry), names });
    }
}

impl Drop for Dentry {
    /// Lets a long chain of directories go without recursion.
    fn drop(&mut self) {
        let mut parent = self.place.get_mut().parent.take();
        while let Some(dentry) = parent {
            parent = Arc::into_inner(dentry).and_then(|mut dentry| dentry.place.get_mut().parent.take());
        }
    }
}

/// Whether both are the same object.
pub fn same_inode(one: &Arc<dyn Inode>, other: &Arc<dyn Inode>) -> bool {
    inode_key(one) == inode_key(other)
}

/// A number that names the object as long as it lives.
pub fn inode_key(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<()>() as usize
}

/// A place in the tree.
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl Path {
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.dentry.inode
    }

    pub fn is_same(&self, other: &Path) -> bool {
        Arc::ptr_eq(&self.mount, &other.mount) && Arc::ptr_eq(&self.dentry, &other.dentry)
    }

    /// The place above, across mounts; `None` at the top of the tree.
    pub fn parent(&self) -> Option<Path> {
        let mut path = self.clone();
        loop {
            if !Arc::ptr_eq(&path.dentry, &path.mount.root) {
                return path.dentry.parent().map(|dentry| Path { mount: path.mount.clone(), dentry });
            }
            let attached = path.mount.attached_at()?;
            path = attached;
        }
    }

    /// The absolute name as it is seen from `root`, with " (deleted)" behind a name that is gone. `None` where the place
    /// is not below `root` (getcwd(2): "(unreachable)").
    pub fn absolute_name_below(&self, root: &Path) -> Option<Vec<u8>> {
        let mut names: Vec<Vec<u8>> = Vec::new();
        let mut path = self.clone();
        let reached = loop {
            if path.is_same(root) {
                break true;
            }
            if Arc::ptr_eq(&path.dentry, &path.mount.root) {
                match path.mount.attached_at() {
                    Some(attached) => path = attached,
                    None => break false,
                }
                continue;
            }
            names.push(path.dentry.name());
            match path.dentry.parent() {
                Some(dentry) => path.dentry = dentry,
                None => break false,
            }
        };
        let mut name = Vec::new();
        for part in names.iter().rev() {
            name.push(b'/');
            name.extend_from_slice(part);
        }
        if name.is_empty() {
            name.push(b'/');
        }
        if self.dentry.is_unlinked() {
            name.extend_from_slice(b" (deleted)");
        }
        reached.then_some(name)
    }

    /// As [`Path::absolute_name_below`]; what lies outside of `root` is named from the top of the tree.
    pub fn absolute_name(&self, root: &Path) -> Vec<u8> {
        if let Some(name) = self.absolute_name_below(root) {
            return name;
        }
        let mut top = self.clone();
        while let Some(above) = top.parent() {
            top = above;
        }
        self.absolute_name_below(&top).unwrap_or_else(|| b"/".to_vec())
    }
}
