//! Names: [`Dentry`] (a name in a directory) and [`Path`] (a dentry seen through a mount).
//!
//! A dentry knows its parent, so that getcwd(2) and /proc/PID/fd can say where a file is. A directory's dentry keeps weak
//! references to its children: one name has one dentry as long as anybody uses it (a mount point, a working directory,
//! an open file). Whether a cached child may be believed without asking the file system is [`FileSystem::is_volatile`]'s
//! to say.
//!
//! Lock order: `Dentry::children` is the directory's lock: it is held while names in it are looked up, made or removed
//! (a parent's before a child's; two unrelated ones, for rename, only under `MountTable::rename_lock`, by address), and
//! is outside of the file systems' own locks; `Dentry::place` is innermost.
//!
//! [`FileSystem::is_volatile`]: crate::fs::inode::FileSystem::is_volatile

use crate::fs::inode::{FileType, Inode};
use crate::fs::mount::Mount;
use crate::fs::text::WriteCount;
use crate::{Errno, Result};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};
use std::sync::{Arc, Weak};

/// The longest name in a directory (NAME_MAX, limits.h).
pub const NAME_MAX: usize = 255;

/// Children that are remembered weakly: swept when the map has doubled.
#[derive(Default)]
pub struct Children {
    map: HashMap<Vec<u8>, Weak<Dentry>>,
    sweep_at: usize,
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
    /// How many mounts are attached here, in whichever mount: lets the walk skip the mount table.
    pub(crate) mounts_here: AtomicU32,
    pub(crate) write_count: WriteCount,
    /// Open files that can only read.
    pub(crate) read_count: AtomicI32,
}

impl Dentry {
    /// The root of a file system, or a file without a name.
    pub fn new_root(inode: Arc<dyn Inode>) -> Arc<Dentry> {
        Dentry::new(inode, None, Vec::new())
    }

    pub(crate) fn new(inode: Arc<dyn Inode>, parent: Option<Arc<Dentry>>, name: Vec<u8>) -> Arc<Dentry> {
        Arc::new(Dentry {
            inode,
            place: RwLock::new(Place { parent, name }),
            children: Mutex::default(),
            unlinked: AtomicBool::new(false),
            mounts_here: AtomicU32::new(0),
            write_count: WriteCount::default(),
            read_count: AtomicI32::new(0),
        })
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

    /// Open files that can write (below zero: programs that run it), and those that can only read.
    pub(crate) fn open_counts(&self) -> (i32, i32) {
        (self.write_count.get(), self.read_count.load(Ordering::Acquire))
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
        if name.len() > NAME_MAX {
            return Err(Errno::ENAMETOOLONG);
        }
        let mut children = self.children.lock();
        self.lookup_locked(&mut children, name)
    }

    /// As [`Dentry::lookup`], with the directory's lock held by the caller.
    pub(crate) fn lookup_locked(self: &Arc<Dentry>, children: &mut Children, name: &[u8]) -> Result<Arc<Dentry>> {
        let cached = children.get(name);
        if let Some(dentry) = &cached {
            if !self.inode.file_system().is_volatile() {
                return Ok(dentry.clone());
            }
        }
        if self.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        let inode = match self.inode.lookup(name) {
            Ok(inode) => inode,
            Err(errno) => {
                // A volatile tree lost it; what is mounted there stays reachable, as Linux keeps it for network trees.
                match cached {
                    Some(dentry) if errno == Errno::ENOENT && dentry.is_mount_point() => return Ok(dentry),
                    Some(dentry) if errno == Errno::ENOENT => {
                        dentry.unlinked.store(true, Ordering::Release);
                        children.map.remove(name);
                    }
                    _ => {}
                }
                return Err(errno);
            }
        };
        if let Some(dentry) = cached {
            if same_inode(&dentry.inode, &inode) || dentry.is_mount_point() {
                return Ok(dentry);
            }
        }
        let dentry = Dentry::new(inode, Some(self.clone()), name.to_vec());
        children.insert(name, &dentry);
        Ok(dentry)
    }

    /// Enters a node that was just made. The caller holds the directory's lock.
    pub(crate) fn add_child(self: &Arc<Dentry>, children: &mut Children, name: &[u8], inode: Arc<dyn Inode>) -> Arc<Dentry> {
        let dentry = Dentry::new(inode, Some(self.clone()), name.to_vec());
        children.insert(name, &dentry);
        dentry
    }

    /// The name was removed from this directory. The caller holds the directory's lock.
    pub(crate) fn forget_child(&self, children: &mut Children, name: &[u8]) {
        if let Some(dentry) = children.map.remove(name).and_then(|weak| weak.upgrade()) {
            dentry.unlinked.store(true, Ordering::Release);
        }
    }

    /// `child` got a new place. The caller holds both directories' locks.
    pub(crate) fn moved(child: &Arc<Dentry>, children: &mut Children, new_parent: &Arc<Dentry>, new_name: &[u8]) {
        *child.place.write() = Place { parent: Some(new_parent.clone()), name: new_name.to_vec() };
        children.insert(new_name, child);
    }

    /// Takes `name` out of the cache without marking its file as unlinked (rename). The caller holds the lock.
    pub(crate) fn detach_child(&self, children: &mut Children, name: &[u8]) {
        children.map.remove(name);
    }
}

impl Children {
    pub(crate) fn get(&self, name: &[u8]) -> Option<Arc<Dentry>> {
        self.map.get(name).and_then(Weak::upgrade)
    }

    fn insert(&mut self, name: &[u8], dentry: &Arc<Dentry>) {
        if self.map.len() >= self.sweep_at.max(64) {
            self.map.retain(|_, weak| weak.strong_count() > 0);
            self.sweep_at = self.map.len() * 2;
        }
        self.map.insert(name.to_vec(), Arc::downgrade(dentry));
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
