//! One file of an overlay.

use super::file::OverlayFile;
use super::{found, has_flag, hide_lower, is_whiteout, make_whiteout, Hidden, Overlay, OPAQUE, OWN_PREFIX, REDIRECT};
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{Device, FileSystem, FileType, Inode, Metadata, NewNode, NewNodeKind, RenameFlags, SetAttributes};
use crate::fs::listing::{ListedDirectory, Name};
use crate::{Context, Errno, Result};
use parking_lot::RwLock;
use std::any::Any;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

/// What a file is made of: at least one of the two.
#[derive(Clone)]
pub(super) struct Parts {
    pub upper: Option<Arc<dyn Inode>>,
    pub lower: Option<Arc<dyn Inode>>,
    /// The lower part's place in its tree, names with a slash before each.
    pub lower_path: Vec<u8>,
}

impl Parts {
    pub fn kind(&self) -> FileType {
        match (&self.upper, &self.lower) {
            (Some(inode), _) | (None, Some(inode)) => inode.kind(),
            (None, None) => FileType::Regular,
        }
    }

    /// The part that shows.
    pub fn top(&self) -> Result<&Arc<dyn Inode>> {
        self.upper.as_ref().or(self.lower.as_ref()).ok_or(Errno::ESTALE)
    }
}

pub(super) struct Place {
    /// `None`: the root.
    pub parent: Option<Arc<OverlayInode>>,
    pub name: Vec<u8>,
}

/// One file of an overlay.
pub struct OverlayInode {
    me: Weak<OverlayInode>,
    pub(super) overlay: Arc<Overlay>,
    kind: FileType,
    pub(super) number: u64,
    pub(super) parts: RwLock<Parts>,
    pub(super) place: RwLock<Place>,
    /// Its last name is gone.
    pub(super) unlinked: AtomicBool,
}

impl OverlayInode {
    pub(super) fn new(
        overlay: Arc<Overlay>,
        kind: FileType,
        number: u64,
        parts: Parts,
        parent: Option<Arc<OverlayInode>>,
        name: &[u8],
    ) -> Arc<OverlayInode> {
        Arc::new_cyclic(|me| OverlayInode {
            me: me.clone(),
            overlay,
            kind,
            number,
            parts: RwLock::new(parts),
            place: RwLock::new(Place { parent, name: name.to_vec() }),
            unlinked: AtomicBool::new(false),
        })
    }

    pub(super) fn arc(&self) -> Result<Arc<OverlayInode>> {
        self.me.upgrade().ok_or(Errno::ESTALE)
    }

    pub(super) fn set_place(&self, parent: Option<Arc<OverlayInode>>, name: &[u8]) {
        let new = Place { parent, name: name.to_vec() };
        let old = std::mem::replace(&mut *self.place.write(), new);
        drop(old);
    }

    pub(super) fn parts(&self) -> Parts {
        self.parts.read().clone()
    }

    /// The part that shows now, and whether it is the upper one.
    pub(super) fn top(&self) -> Result<(Arc<dyn Inode>, bool)> {
        let parts = self.parts.read();
        Ok((parts.top()?.clone(), parts.upper.is_some()))
    }

    /// Whether it still is what `parts` of the lower tree are at this place.
    pub(super) fn is_lower_at(&self, parts: &Parts, parent: &Arc<OverlayInode>, name: &[u8]) -> bool {
        let place = self.place.read();
        let mine = self.parts.read();
        let same_lower = match (&mine.lower, &parts.lower) {
            (Some(mine), Some(other)) => crate::fs::path::same_inode(mine, other),
            _ => false,
        };
        same_lower
            && mine.upper.is_none()
            && !self.unlinked.load(Ordering::Acquire)
            && place.name == name
            && place.parent.as_ref().is_some_and(|mine| Arc::ptr_eq(mine, parent))
    }

    fn check_directory(&self) -> Result<()> {
        if self.kind == FileType::Directory {
            Ok(())
        } else {
            Err(Errno::ENOTDIR)
        }
    }

    /// The name in the lower part of this directory; an opaque directory has none.
    pub(super) fn lower_child(&self, parts: &Parts, name: &[u8]) -> Result<Option<Arc<dyn Inode>>> {
        match &parts.lower {
            Some(lower) => match lower.lookup(name) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
                other => other.map(Some),
            },
            None => Ok(None),
        }
    }

    pub(super) fn find(&self, name: &[u8]) -> Result<Arc<OverlayInode>> {
        self.check_directory()?;
        let parts = self.parts();
        let upper = match &parts.upper {
            Some(directory) => found(directory.lookup(name))?,
            None => None,
        };
        if let Some(upper) = &upper {
            if is_whiteout(upper)? {
                return Err(Errno::ENOENT);
            }
        }
        let is_directory = upper.as_ref().is_some_and(|upper| upper.kind() == FileType::Directory);
        let mut lower = None;
        let mut lower_path = Vec::new();
        if let Some(upper) = upper.as_ref().filter(|_| is_directory) {
            if !has_flag(upper, OPAQUE) {
                if let Ok(redirect) = upper.get_xattr(REDIRECT) {
                    lower = self.overlay.lower_directory(&redirect);
                    lower_path = redirect;
                } else {
                    lower = self.lower_child(&parts, name)?.filter(|lower| lower.kind() == FileType::Directory);
                    lower_path = [&parts.lower_path[..], b"/", name].concat();
                }
            }
        } else if upper.is_none() {
            lower = self.lower_child(&parts, name)?;
            lower_path = [&parts.lower_path[..], b"/", name].concat();
        }
        let number = match (&upper, &lower) {
            (Some(upper), _) => self.overlay.number_of_upper(upper)?,
            (None, Some(lower)) => {
                let metadata = lower.metadata()?;
                self.overlay.lower_number(metadata.device, metadata.inode)
            }
            (None, None) => return Err(Errno::ENOENT),
        };
        Ok(self.overlay.inode_for(Parts { upper, lower, lower_path }, number, &self.arc()?, name))
    }

    /// All names, "." and ".." not among them.
    pub(super) fn names(&self) -> Result<Vec<Name>> {
        let lower = self.open_lower()?;
        self.names_with(lower.as_deref())
    }

    /// The lower part, open to be listed: EACCES where the host does not let us.
    fn open_lower(&self) -> Result<Option<Arc<dyn FileOperations>>> {
        let lower = self.parts.read().lower.clone();
        lower.map(|lower| lower.open_data(StatusFlags::DIRECTORY)).transpose()
    }

    fn names_with(&self, open_lower: Option<&dyn FileOperations>) -> Result<Vec<Name>> {
        let parts = self.parts();
        let mut names = Vec::new();
        let mut seen = HashSet::new();
        if let Some(upper) = &parts.upper {
            for (name, number, kind) in list(upper)? {
                let child =
                    if kind == FileType::CharacterDevice || parts.lower.is_some() { upper.lookup(&name).ok() } else { None };
                if let Some(child) = &child {
                    if is_whiteout(child)? {
                        seen.insert(name);
                        continue;
                    }
                }
                let number = match &child {
                    Some(child) => self.overlay.number_of_upper(child)?,
                    None => self.overlay.upper_number(number),
                };
                if parts.lower.is_some() {
                    seen.insert(name.clone());
                }
                names.push((name, number, kind));
            }
        }
        if let (Some(lower), Some(open)) = (&parts.lower, open_lower) {
            let device = lower.metadata()?.device;
            for (name, number, kind) in list_open(open)? {
                if !seen.contains(&name) {
                    names.push((name, self.overlay.lower_number(device, number), kind));
                }
            }
        }
        Ok(names)
    }

    /// Takes what is in the upper directory under `name` away: a whiteout, whose going is reported.
    pub(super) fn clear_whiteout(&self, directory: &Arc<dyn Inode>, name: &[u8]) -> Result<bool> {
        match found(directory.lookup(name))? {
            Some(inode) if is_whiteout(&inode)? => directory.unlink(name).map(|()| true),
            _ => Ok(false),
        }
    }

    /// Empties an upper directory of whiteouts, so that it can be removed.
    pub(super) fn clear_whiteouts(directory: &Arc<dyn Inode>) -> Result<()> {
        for (name, _, kind) in list(directory)? {
            if kind == FileType::CharacterDevice && is_whiteout(&directory.lookup(&name)?)? {
                directory.unlink(&name)?;
            }
        }
        Ok(())
    }

    /// Removes the upper entry, where there is one, and covers a lower one. The change lock is held.
    fn remove_name(&self, name: &[u8], child: &OverlayInode, is_directory: bool) -> Result<()> {
        let upper = self.ensure_upper_locked()?;
        let covers = self.lower_child(&self.parts(), name)?.is_some();
        if let Some(child_upper) = found(upper.lookup(name))? {
            if is_directory {
                Self::clear_whiteouts(&child_upper)?;
                upper.remove_directory(name)?;
            } else {
                upper.unlink(name)?;
            }
        }
        if covers {
            make_whiteout(&upper, name)?;
        }
        let gone = match &child.parts.read().upper {
            Some(upper) => upper.metadata().map_or(true, |metadata| metadata.links == 0),
            None => true,
        };
        if gone {
            child.unlinked.store(true, Ordering::Release);
        }
        Ok(())
    }
}

/// The names of a directory of another file system, "." and ".." left out.
pub(super) fn list(directory: &Arc<dyn Inode>) -> Result<Vec<Name>> {
    list_open(&*directory.clone().open_data(StatusFlags::DIRECTORY)?)
}

fn list_open(open: &dyn FileOperations) -> Result<Vec<Name>> {
    let mut names = Vec::new();
    open.read_directory(0, &mut |entry| {
        if entry.name != b"." && entry.name != b".." {
            names.push((entry.name.clone(), entry.inode, entry.kind));
        }
        true
    })?;
    Ok(names)
}

impl Inode for OverlayInode {
    fn metadata(&self) -> Result<Metadata> {
        let parts = self.parts();
        let mut metadata = parts.top()?.metadata()?;
        metadata.device = self.overlay.device;
        metadata.inode = self.number;
        if self.unlinked.load(Ordering::Acquire) {
            if parts.upper.is_none() {
                metadata.links = metadata.links.saturating_sub(1);
            }
            if self.kind == FileType::Directory {
                metadata.links = 0;
            }
        } else if self.kind == FileType::Directory && parts.upper.is_some() && parts.lower.is_some() {
            // As Linux shows a merged directory: its subdirectories are not counted.
            metadata.links = 1;
        }
        Ok(metadata)
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.overlay.clone()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let inode = self.find(name)?;
        Ok(inode)
    }

    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Inode>> {
        self.check_directory()?;
        if matches!(node.kind, NewNodeKind::CharacterDevice(device) if device == Device::default()) {
            return Err(Errno::EPERM);
        }
        let _change = self.overlay.change_lock.lock();
        if found(self.find(name))?.is_some() {
            return Err(Errno::EEXIST);
        }
        let upper = self.ensure_upper_locked()?;
        let is_directory = matches!(node.kind, NewNodeKind::Directory);
        let covered = self.clear_whiteout(&upper, name)?;
        let mut hidden = Hidden::ByMark;
        let made = upper.create(name, node).and_then(|inode| {
            if covered && is_directory {
                let lower = self.lower_child(&self.parts(), name)?;
                hidden = hide_lower(&inode, lower.as_ref()).inspect_err(|_| {
                    let _ = Self::clear_whiteouts(&inode);
                    let _ = upper.remove_directory(name);
                })?;
            }
            Ok(inode)
        });
        let inode = match made {
            // It has a lower part whose names are all covered.
            Ok(_) if hidden == Hidden::ByWhiteouts => return Ok(self.find(name)?),
            Ok(inode) => inode,
            Err(errno) => {
                if covered {
                    make_whiteout(&upper, name)?;
                }
                return Err(errno);
            }
        };
        let number = self.overlay.upper_number(inode.metadata()?.inode);
        let parts = Parts { upper: Some(inode), lower: None, lower_path: Vec::new() };
        Ok(self.overlay.inode_for(parts, number, &self.arc()?, name))
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = target.as_any().downcast_ref::<OverlayInode>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&self.overlay, &target.overlay) {
            return Err(Errno::EXDEV);
        }
        self.check_directory()?;
        let _change = self.overlay.change_lock.lock();
        if found(self.find(name))?.is_some() {
            return Err(Errno::EEXIST);
        }
        if target.unlinked.load(Ordering::Acquire) && target.parts.read().upper.is_none() {
            return Err(Errno::ENOENT);
        }
        let target_upper = target.ensure_upper_locked()?;
        let upper = self.ensure_upper_locked()?;
        let covered = self.clear_whiteout(&upper, name)?;
        if let Err(errno) = upper.link(name, &target_upper) {
            if covered {
                make_whiteout(&upper, name)?;
            }
            return Err(errno);
        }
        target.unlinked.store(false, Ordering::Release);
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let _change = self.overlay.change_lock.lock();
        let child = self.find(name)?;
        if child.kind == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        self.remove_name(name, &child, false)
    }

    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        let _change = self.overlay.change_lock.lock();
        let child = self.find(name)?;
        child.check_directory()?;
        if !child.names()?.is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        self.remove_name(name, &child, true)
    }

    fn rename(&self, name: &[u8], new_parent: &Arc<dyn Inode>, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        let new_parent = new_parent.as_any().downcast_ref::<OverlayInode>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&self.overlay, &new_parent.overlay) {
            return Err(Errno::EXDEV);
        }
        self.rename_within(name, new_parent, new_name, flags)
    }

    fn create_unnamed(&self, node: NewNode) -> Result<Arc<dyn Inode>> {
        let inode = self.overlay.upper_root.create_unnamed(node)?;
        let number = self.overlay.upper_number(inode.metadata()?.inode);
        let parts = Parts { upper: Some(inode), lower: None, lower_path: Vec::new() };
        Ok(self.overlay.inode_for(parts, number, &self.arc()?, b""))
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        self.top()?.0.read_link()
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        let upper = {
            let _change = self.overlay.change_lock.lock();
            self.ensure_upper_sized(attributes.size)?
        };
        upper.set_attributes(attributes)
    }

    fn open(self: Arc<Self>, context: &Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match self.kind {
            FileType::Regular | FileType::Directory => self.open_data(flags),
            // The upper's nodes are the guest's own; the lower's are the host's, which refuse.
            _ => self.top()?.0.open(context, flags),
        }
    }

    fn open_data(self: Arc<Self>, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match self.kind {
            FileType::Directory => {
                let parent = self.place.read().parent.as_ref().map_or(self.number, |parent| parent.number);
                let directory = self.clone();
                let lower = self.open_lower()?;
                let list = Box::new(move || directory.names_with(lower.as_deref()));
                Ok(Arc::new(ListedDirectory::new(self, parent, list)))
            }
            FileType::Regular => Ok(Arc::new(OverlayFile::open(self, flags)?)),
            FileType::Symlink => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        if name.starts_with(OWN_PREFIX) {
            return Err(Errno::ENODATA);
        }
        self.top()?.0.get_xattr(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        if name.starts_with(OWN_PREFIX) {
            return Err(Errno::EPERM);
        }
        self.ensure_upper()?.set_xattr(name, value, flags)
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        let mut names = self.top()?.0.list_xattr()?;
        names.retain(|name| !name.starts_with(OWN_PREFIX));
        Ok(names)
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        if name.starts_with(OWN_PREFIX) {
            return Err(Errno::ENODATA);
        }
        self.top()?.0.get_xattr(name)?;
        self.ensure_upper()?.remove_xattr(name)
    }

    fn bound_socket(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.parts.read().upper.as_ref().and_then(|upper| upper.bound_socket())
    }

    fn set_bound_socket(&self, socket: Weak<dyn Any + Send + Sync>) -> Result<()> {
        let (top, is_upper) = self.top()?;
        if is_upper {
            top.set_bound_socket(socket)
        } else {
            Err(Errno::EADDRINUSE)
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for OverlayInode {
    /// Lets a long chain of directories go without recursion.
    fn drop(&mut self) {
        let mut parent = self.place.get_mut().parent.take();
        while let Some(inode) = parent {
            parent = Arc::into_inner(inode).and_then(|mut inode| inode.place.get_mut().parent.take());
        }
    }
}
