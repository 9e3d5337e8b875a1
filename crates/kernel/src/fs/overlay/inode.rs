//! One file of an overlay.

use super::file::OverlayFile;
use super::{found, has_flag, hide_lower, is_whiteout, make_whiteout, Hidden, Overlay, OPAQUE, OWN_PREFIX, REDIRECT};
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{
    Belief, Device, FileSystem, FileType, Inode, Metadata, Names, NewNode, NewNodeKind, OpenedListed, RenameFlags,
    SetAttributes, Stamp, Watched,
};
use crate::fs::listing::{ListedDirectory, NameList};
use crate::fs::text::OpenCounts;
use crate::{Context, Errno, Result};
use parking_lot::RwLock;
use std::any::Any;
use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};

/// What a file is made of: at least one of the two.
#[derive(Clone)]
pub(super) struct Parts {
    pub upper: Option<Arc<dyn Inode>>,
    pub lower: Option<Arc<dyn Inode>>,
    /// A directory's lower part's place in its tree, names with a slash before each.
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

/// A part, and its metadata where the search has shown them.
type Shown = (Arc<dyn Inode>, Option<Metadata>);

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
    open_counts: OpenCounts,
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
            open_counts: OpenCounts::default(),
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
        self.lower_child_shown(parts, name).map(|found| found.map(|(inode, _)| inode))
    }

    fn lower_child_shown(&self, parts: &Parts, name: &[u8]) -> Result<Option<Shown>> {
        match &parts.lower {
            Some(lower) => match lower.lookup_shown(name) {
                Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
                other => other.map(Some),
            },
            None => Ok(None),
        }
    }

    pub(super) fn find(&self, name: &[u8]) -> Result<Arc<OverlayInode>> {
        self.find_shown(name).map(|(inode, _)| inode)
    }

    fn find_shown(&self, name: &[u8]) -> Result<(Arc<OverlayInode>, Option<Metadata>)> {
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
        let mut shown = None;
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
            (lower, shown) = self.lower_child_shown(&parts, name)?.unzip();
            if lower.as_ref().is_some_and(|lower| lower.kind() == FileType::Directory) {
                lower_path = [&parts.lower_path[..], b"/", name].concat();
            }
        }
        let number = match (&upper, &lower) {
            (Some(upper), _) => self.overlay.number_of_upper(upper)?,
            (None, Some(lower)) => {
                let (device, inode) = lower.identity()?;
                self.overlay.lower_number(device, inode)
            }
            (None, None) => return Err(Errno::ENOENT),
        };
        let inode = self.overlay.inode_for(Parts { upper, lower, lower_path }, number, &self.arc()?, name);
        let shown = shown.flatten().map(|metadata| inode.shown(metadata));
        Ok((inode, shown))
    }

    /// What shows of the metadata of the part that shows.
    pub(super) fn shown(&self, metadata: Metadata) -> Metadata {
        let mut metadata = metadata;
        metadata.device = self.overlay.device;
        metadata.inode = self.number;
        let is_directory = self.kind == FileType::Directory;
        let (has_upper, has_lower) = {
            let parts = self.parts.read();
            (parts.upper.is_some(), parts.lower.is_some())
        };
        if self.unlinked.load(Ordering::Acquire) {
            if !has_upper {
                metadata.links = metadata.links.saturating_sub(1);
            }
            if is_directory {
                metadata.links = 0;
            }
        } else if is_directory && has_upper && has_lower {
            // As Linux shows a merged directory: its subdirectories are not counted.
            metadata.links = 1;
        }
        metadata
    }

    /// All names, "." and ".." not among them.
    pub(super) fn names_now(&self) -> Result<NameList> {
        self.names_with(self.lower_list()?.as_ref())
    }

    /// The lower part, ready to be listed: EACCES where the host does not let us.
    fn lower_list(&self) -> Result<Option<LowerList>> {
        let lower = self.parts.read().lower.clone();
        lower.map(LowerList::new).transpose()
    }

    fn names_with(&self, lower_list: Option<&LowerList>) -> Result<NameList> {
        let parts = self.parts();
        let mut names = NameList::default();
        let mut seen = HashSet::new();
        if let Some(upper) = &parts.upper {
            for (name, number, kind) in list(upper)?.iter() {
                let is_merged = parts.lower.is_some();
                let child = if kind == FileType::CharacterDevice || is_merged { upper.lookup(name).ok() } else { None };
                if let Some(child) = &child {
                    if is_whiteout(child)? {
                        seen.insert(name.to_vec());
                        continue;
                    }
                }
                let number = match &child {
                    Some(child) => self.overlay.number_of_upper(child)?,
                    None => self.overlay.upper_number(number),
                };
                if is_merged {
                    seen.insert(name.to_vec());
                }
                names.push(name, number, kind);
            }
        }
        if let (Some(lower), Some(list)) = (&parts.lower, lower_list) {
            let mask = self.overlay.lower_mask(lower.identity()?.0);
            for (name, number, kind) in list.names()?.iter() {
                if seen.is_empty() || !seen.contains(name) {
                    names.push(name, number ^ mask, kind);
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
        for (name, _, kind) in list(directory)?.iter() {
            if kind == FileType::CharacterDevice && is_whiteout(&directory.lookup(name)?)? {
                directory.unlink(name)?;
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
pub(super) fn list(directory: &Arc<dyn Inode>) -> Result<NameList> {
    NameList::of(&*directory.clone().open_data(StatusFlags::DIRECTORY)?)
}

/// A lower directory that may be listed: open, unless its names are known.
struct LowerList {
    inode: Arc<dyn Inode>,
    open: OnceLock<Arc<dyn FileOperations>>,
}

impl LowerList {
    fn new(inode: Arc<dyn Inode>) -> Result<LowerList> {
        let list = LowerList { inode, open: OnceLock::new() };
        if list.inode.known_list().is_none() {
            list.open()?;
        }
        Ok(list)
    }

    fn open(&self) -> Result<&dyn FileOperations> {
        if self.open.get().is_none() {
            let _ = self.open.set(self.inode.clone().open_data(StatusFlags::DIRECTORY)?);
        }
        self.open.get().map(|open| &**open).ok_or(Errno::EIO)
    }

    fn names(&self) -> Result<Arc<NameList>> {
        if let Some(list) = self.inode.known_list() {
            return Ok(list);
        }
        let names = self.inode.names().if_settled();
        let mut list = NameList::of(self.open()?)?;
        list.shrink();
        let list = Arc::new(list);
        self.inode.keep_list(names, &list);
        Ok(list)
    }
}

impl Inode for OverlayInode {
    fn metadata(&self) -> Result<Metadata> {
        Ok(self.shown(self.top()?.0.metadata()?))
    }

    fn kind(&self) -> FileType {
        self.kind
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.overlay.clone()
    }

    fn open_counts(&self) -> Option<&OpenCounts> {
        Some(&self.open_counts)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let inode = self.find(name)?;
        Ok(inode)
    }

    fn lookup_shown(&self, name: &[u8]) -> Result<(Arc<dyn Inode>, Option<Metadata>)> {
        let (inode, shown) = self.find_shown(name)?;
        Ok((inode, shown))
    }

    fn open_listed(&self, name: &[u8], flags: StatusFlags, read: &mut dyn FnMut(&OwnedFd) -> bool) -> Option<OpenedListed> {
        let parts = self.parts();
        let is_covered = parts.upper.as_ref().is_some_and(|upper| !matches!(upper.lookup(name), Err(Errno::ENOENT)));
        if is_covered {
            return None;
        }
        let lower = parts.lower.as_ref()?.open_listed(name, flags, read)?;
        let (device, number) = lower.inode.identity().ok()?;
        let number = self.overlay.lower_number(device, number);
        let below = Parts { upper: None, lower: Some(lower.inode), lower_path: Vec::new() };
        let inode = self.overlay.inode_for(below, number, &self.arc().ok()?, name);
        let metadata = inode.shown(lower.metadata);
        let operations = Arc::new(OverlayFile::of_lower(inode.clone(), flags, lower.operations));
        Some(OpenedListed { inode, metadata, operations })
    }

    fn names(&self) -> Names {
        let (upper, lower) = {
            let parts = self.parts.read();
            (parts.upper.clone().filter(|_| !self.overlay.upper_is_own), parts.lower.clone())
        };
        match (upper.map(|upper| upper.names()), lower.map(|lower| lower.names())) {
            (None | Some(Names::Own), None | Some(Names::Own)) => Names::Own,
            (None | Some(Names::Own), Some(names)) | (Some(names), None | Some(Names::Own)) => names,
            (Some(Names::At(Stamp([upper, _]))), Some(Names::At(Stamp([lower, _])))) => Names::At(Stamp([upper, lower])),
            _ => Names::Changing,
        }
    }

    fn watch_names(&self) -> Watched {
        let (upper, lower) = {
            let parts = self.parts.read();
            (parts.upper.clone().filter(|_| !self.overlay.upper_is_own), parts.lower.clone())
        };
        let watch = |part: Option<Arc<dyn Inode>>| part.map_or(Watched::Already, |part| part.watch_names());
        watch(upper).and(watch(lower))
    }

    fn names_added(&self) -> Option<u64> {
        let parts = self.parts.read();
        let upper = parts.upper.as_ref().filter(|_| parts.lower.is_none() && self.overlay.upper_is_own)?;
        upper.names_added()
    }

    fn belief(&self) -> Belief {
        let parts = self.parts.read();
        match (&parts.upper, &parts.lower) {
            (Some(_), None) if self.overlay.upper_is_own => Belief::Always,
            (None, Some(lower)) => lower.belief(),
            _ => Belief::AsDirectory,
        }
    }

    fn is_at_rest(&self) -> bool {
        self.parts.read().top().is_ok_and(|part| part.is_at_rest())
    }

    fn unmapped_content(&self) -> Option<usize> {
        self.parts.read().top().ok()?.unmapped_content()
    }

    fn identity(&self) -> Result<(Device, u64)> {
        Ok((self.overlay.device, self.number))
    }

    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Inode>> {
        self.check_directory()?;
        if matches!(node.kind, NewNodeKind::CharacterDevice(device) if device == Device::default()) {
            return Err(Errno::EPERM);
        }
        let _change = self.overlay.change_lock.lock();
        // Below there is nothing, or a whiteout covers it: that has just been looked at.
        let upper = self.ensure_upper_locked()?;
        if let Some(there) = found(upper.lookup(name))? {
            if !is_whiteout(&there)? {
                return Err(Errno::EEXIST);
            }
        }
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
        let number = self.overlay.upper_number(inode.identity()?.1);
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
        if !child.names_now()?.is_empty() {
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
        let number = self.overlay.upper_number(inode.identity()?.1);
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
                let lower = self.lower_list()?;
                let list = Box::new(move || directory.names_with(lower.as_ref()));
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
