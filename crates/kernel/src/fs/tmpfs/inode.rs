//! A file in memory.

use super::content::{Content, ContentStatus, HostTimes};
use super::directory::{Directory, OpenDirectory};
use super::file::TmpfsFile;
use super::{Tmpfs, INODE_COST};
use crate::fs::clock;
use crate::fs::file::{FileOperations, HostDescription, Sharing, StatusFlags};
use crate::fs::inode::{
    Device, FileSystem, FileType, Inode, Metadata, Names, NewNode, NewNodeKind, RenameFlags, SetAttributes,
};
use crate::fs::special::SpecialState;
use crate::fs::text::OpenCounts;
use crate::fs::xattr::Xattrs;
use crate::{Context, Errno, Result};
use parking_lot::{Mutex, RwLock};
use rustix::fs::OFlags;
use skerry_abi::raw::general as linux;
use skerry_abi::structs::TimeSpec;
use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

enum Body {
    Regular(RwLock<Content>),
    Directory(RwLock<Directory>),
    Symlink(Vec<u8>),
    Fifo,
    Socket,
    Device(FileType, Device),
}

struct Attributes {
    permissions: u32,
    uid: u32,
    gid: u32,
    accessed: TimeSpec,
    modified: TimeSpec,
    changed: TimeSpec,
    created: TimeSpec,
    /// The host's times of the memfd as they were last looked at, once processes use it by themselves.
    seen: Option<HostTimes>,
}

impl Attributes {
    /// Takes over what the host has noticed of reads and writes that did not come this way.
    fn take_over(&mut self, times: Option<HostTimes>) {
        let (Some(seen), Some(now)) = (&mut self.seen, times) else { return };
        let before = std::mem::replace(seen, now);
        if now.modified != before.modified {
            self.modified = now.modified;
            if clock::is_before(self.changed, now.modified) {
                self.changed = now.modified;
            }
        }
        if now.accessed != before.accessed && clock::relatime_wants(self.accessed, self.modified, self.changed, now.accessed) {
            self.accessed = now.accessed;
        }
    }
}

/// An open file through which processes write by themselves.
struct DirectWriter {
    inode: Arc<TmpfsInode>,
}

impl Drop for DirectWriter {
    fn drop(&mut self) {
        if let Ok(content) = self.inode.content() {
            content.write().end_direct_writing();
        }
    }
}

/// A file in memory.
pub struct TmpfsInode {
    me: Weak<TmpfsInode>,
    file_system: Arc<Tmpfs>,
    number: u64,
    body: Body,
    attributes: Mutex<Attributes>,
    links: AtomicU64,
    /// Made without a name, and may still get one (O_TMPFILE).
    linkable: AtomicBool,
    xattrs: Xattrs,
    special: SpecialState,
    /// fcntl(F_ADD_SEALS); F_SEAL_SEAL unless it was made sealable.
    seals: AtomicU32,
    /// Bytes taken from the quotas for the inode itself.
    cost: u64,
    open_counts: OpenCounts,
}

impl TmpfsInode {
    pub(super) fn new(file_system: Arc<Tmpfs>, node: NewNode) -> Result<Arc<TmpfsInode>> {
        let cost = INODE_COST + if let NewNodeKind::Symlink(target) = &node.kind { target.len() as u64 } else { 0 };
        file_system.quotas.charge(cost)?;
        Ok(Self::build(file_system, node, cost))
    }

    pub(super) fn new_uncharged(file_system: Arc<Tmpfs>, node: NewNode) -> Arc<TmpfsInode> {
        Self::build(file_system, node, 0)
    }

    fn build(file_system: Arc<Tmpfs>, node: NewNode, cost: u64) -> Arc<TmpfsInode> {
        let now = clock::now();
        file_system.inodes.fetch_add(1, Ordering::Relaxed);
        let links = if matches!(node.kind, NewNodeKind::Directory) { 2 } else { 1 };
        let body = match node.kind {
            NewNodeKind::Regular => {
                Body::Regular(RwLock::new(Content::new(file_system.quotas.clone(), file_system.content.clone())))
            }
            NewNodeKind::Directory => Body::Directory(RwLock::new(Directory::new())),
            NewNodeKind::Symlink(target) => Body::Symlink(target),
            NewNodeKind::Fifo => Body::Fifo,
            NewNodeKind::Socket => Body::Socket,
            NewNodeKind::CharacterDevice(device) => Body::Device(FileType::CharacterDevice, device),
            NewNodeKind::BlockDevice(device) => Body::Device(FileType::BlockDevice, device),
        };
        let attributes = Attributes {
            permissions: node.permissions & 0o7777,
            uid: node.uid,
            gid: node.gid,
            accessed: now,
            modified: now,
            changed: now,
            created: now,
            seen: None,
        };
        Arc::new_cyclic(|me| TmpfsInode {
            me: me.clone(),
            number: file_system.next_inode_number(),
            file_system,
            body,
            attributes: Mutex::new(attributes),
            links: AtomicU64::new(links),
            linkable: AtomicBool::new(false),
            xattrs: Xattrs::default(),
            special: SpecialState::default(),
            seals: AtomicU32::new(linux::F_SEAL_SEAL),
            cost,
            open_counts: OpenCounts::default(),
        })
    }

    pub fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn directory(&self) -> Result<&RwLock<Directory>> {
        match &self.body {
            Body::Directory(directory) => Ok(directory),
            _ => Err(Errno::ENOTDIR),
        }
    }

    pub(super) fn content(&self) -> Result<&RwLock<Content>> {
        match &self.body {
            Body::Regular(content) => Ok(content),
            Body::Directory(_) => Err(Errno::EISDIR),
            _ => Err(Errno::EINVAL),
        }
    }

    pub(super) fn accessed(&self, now: TimeSpec) {
        let mut attributes = self.attributes.lock();
        if clock::relatime_wants(attributes.accessed, attributes.modified, attributes.changed, now) {
            attributes.accessed = now;
        }
    }

    pub(super) fn modified(&self) {
        let mut attributes = self.attributes.lock();
        attributes.modified = clock::now();
        attributes.changed = attributes.modified;
    }

    fn changed(&self) {
        self.attributes.lock().changed = clock::now();
    }

    pub(super) fn truncate(&self, size: u64) -> Result<()> {
        let content = self.content()?;
        let seals = self.seals();
        let old = content.read().size()?;
        if (size < old && seals & linux::F_SEAL_SHRINK != 0) || (size > old && seals & linux::F_SEAL_GROW != 0) {
            return Err(Errno::EPERM);
        }
        content.write().truncate(size)?;
        self.modified();
        Ok(())
    }

    /// A host description for an open file with `flags`, for processes to use by themselves.
    pub(super) fn host_description(&self, flags: StatusFlags) -> Result<Option<HostDescription>> {
        let writes = flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR);
        let access = match flags & (StatusFlags::WRONLY | StatusFlags::RDWR) {
            StatusFlags::WRONLY => OFlags::WRONLY,
            StatusFlags::RDWR => OFlags::RDWR,
            _ => OFlags::RDONLY,
        };
        let appends = if flags.contains(StatusFlags::APPEND) { OFlags::APPEND } else { OFlags::empty() };
        let mut content = self.content()?.write();
        let Some((descriptor, counted)) = content.describe(access | appends)? else { return Ok(None) };
        let times = content.status()?.times;
        if writes {
            content.begin_direct_writing();
        }
        drop(content);
        let mut attributes = self.attributes.lock();
        attributes.seen = attributes.seen.or(times);
        drop(attributes);
        let keep: Box<dyn Send + Sync> = if writes {
            let inode = self.arc()?;
            self.file_system.content.add_written_directly(&inode);
            Box::new((DirectWriter { inode }, counted))
        } else {
            Box::new(counted)
        };
        Ok(Some(HostDescription { descriptor: Arc::new(descriptor), sharing: Sharing::Own, keep: Some(keep) }))
    }

    /// Allows fcntl(F_ADD_SEALS) (memfd_create(2), MFD_ALLOW_SEALING).
    pub fn allow_sealing(&self) {
        self.seals.store(0, Ordering::Relaxed);
    }

    pub fn seals(&self) -> u32 {
        self.seals.load(Ordering::Relaxed)
    }

    /// fcntl(F_ADD_SEALS): EPERM where sealing is sealed, EBUSY where writable mappings are in the way.
    pub fn add_seals(&self, seals: u32) -> Result<()> {
        let known =
            linux::F_SEAL_SEAL | linux::F_SEAL_SHRINK | linux::F_SEAL_GROW | linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE;
        if seals & !known != 0 {
            return Err(Errno::EINVAL);
        }
        if self.seals() & linux::F_SEAL_SEAL != 0 {
            return Err(Errno::EPERM);
        }
        let mut content = self.content()?.write();
        // The host's own seals keep a guest's mappings in order; sealing itself stays our decision.
        content.seal(seals & !linux::F_SEAL_SEAL)?;
        self.seals.fetch_or(seals, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn check_seals_for_write(&self, offset: u64, length: u64) -> Result<()> {
        let seals = self.seals();
        if seals & (linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        if seals & linux::F_SEAL_GROW != 0 && offset.saturating_add(length) > self.content()?.read().size()? {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// fallocate(2): punching a hole is a write, more room only a growth.
    pub(super) fn check_seals_for_allocation(&self, mode: u32, offset: u64, length: u64) -> Result<()> {
        if mode & linux::FALLOC_FL_PUNCH_HOLE != 0 {
            return self.check_seals_for_write(offset, length);
        }
        let grows = offset.saturating_add(length) > self.content()?.read().size()?;
        if grows && self.seals() & linux::F_SEAL_GROW != 0 {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    pub(super) fn check_seals_for_mapping(&self) -> Result<()> {
        if self.seals() & (linux::F_SEAL_WRITE | linux::F_SEAL_FUTURE_WRITE) != 0 {
            return Err(Errno::EPERM);
        }
        Ok(())
    }

    /// A name of a directory is gone.
    fn lost_name(&self) {
        if let Body::Directory(directory) = &self.body {
            directory.write().removed = true;
            self.links.store(0, Ordering::Relaxed);
        } else {
            self.links.fetch_sub(1, Ordering::Relaxed);
        }
        self.changed();
    }

    fn same_file_system<'a>(&self, other: &'a Arc<dyn Inode>) -> Result<&'a TmpfsInode> {
        let other = other.as_any().downcast_ref::<TmpfsInode>().ok_or(Errno::EXDEV)?;
        if !Arc::ptr_eq(&self.file_system, &other.file_system) {
            return Err(Errno::EXDEV);
        }
        Ok(other)
    }

    fn arc(&self) -> Result<Arc<TmpfsInode>> {
        self.me.upgrade().ok_or(Errno::ESTALE)
    }
}

impl Inode for TmpfsInode {
    fn is_at_rest(&self) -> bool {
        match &self.body {
            Body::Regular(content) => content.read().own_bytes().is_some(),
            Body::Directory(_) | Body::Symlink(_) => true,
            // What goes through a FIFO shows.
            _ => false,
        }
    }

    fn unmapped_content(&self) -> Option<usize> {
        match &self.body {
            Body::Regular(content) if !content.read().is_mapped() => Some(std::ptr::from_ref(self).addr()),
            _ => None,
        }
    }

    fn metadata(&self) -> Result<Metadata> {
        let ContentStatus { size, blocks, times } = match &self.body {
            Body::Regular(content) => content.read().status()?,
            Body::Symlink(target) => ContentStatus { size: target.len() as u64, ..ContentStatus::default() },
            _ => ContentStatus::default(),
        };
        let links = match &self.body {
            Body::Directory(directory) => {
                let directory = directory.read();
                if directory.removed {
                    0
                } else {
                    2 + directory.directories()
                }
            }
            _ => self.links.load(Ordering::Relaxed),
        };
        let represents = if let Body::Device(_, device) = &self.body { *device } else { Device::default() };
        let mut attributes = self.attributes.lock();
        attributes.take_over(times);
        Ok(Metadata {
            device: self.file_system.device,
            inode: self.number,
            kind: self.kind(),
            permissions: attributes.permissions,
            links,
            uid: attributes.uid,
            gid: attributes.gid,
            represents,
            size,
            blocks,
            block_size: 4096,
            accessed: attributes.accessed,
            modified: attributes.modified,
            changed: attributes.changed,
            created: Some(attributes.created),
        })
    }

    fn kind(&self) -> FileType {
        match &self.body {
            Body::Regular(_) => FileType::Regular,
            Body::Directory(_) => FileType::Directory,
            Body::Symlink(_) => FileType::Symlink,
            Body::Fifo => FileType::Fifo,
            Body::Socket => FileType::Socket,
            Body::Device(kind, _) => *kind,
        }
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.file_system.clone()
    }

    fn open_counts(&self) -> Option<&OpenCounts> {
        Some(&self.open_counts)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let directory = self.directory()?.read();
        directory.get(name).map(|inode| inode.clone() as Arc<dyn Inode>).ok_or(Errno::ENOENT)
    }

    fn names(&self) -> Names {
        Names::Own
    }

    fn names_added(&self) -> Option<u64> {
        let directory = self.directory().ok()?.read();
        (!directory.removed).then(|| directory.added())
    }

    fn identity(&self) -> Result<(Device, u64)> {
        Ok((self.file_system.device, self.number))
    }

    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Inode>> {
        let mut directory = self.directory()?.write();
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        if directory.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        let inode = TmpfsInode::new(self.file_system.clone(), node)?;
        if let Body::Directory(child) = &inode.body {
            child.write().parent = self.me.clone();
        }
        directory.insert(name, inode.clone());
        drop(directory);
        self.modified();
        Ok(inode)
    }

    fn link(&self, name: &[u8], target: &Arc<dyn Inode>) -> Result<()> {
        let target = self.same_file_system(target)?;
        if target.kind() == FileType::Directory {
            return Err(Errno::EPERM);
        }
        let mut directory = self.directory()?.write();
        if directory.removed {
            return Err(Errno::ENOENT);
        }
        if directory.get(name).is_some() {
            return Err(Errno::EEXIST);
        }
        if target.linkable.swap(false, Ordering::Relaxed) {
            target.links.store(1, Ordering::Relaxed);
        } else if target
            .links
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |links| (links > 0).then(|| links + 1))
            .is_err()
        {
            return Err(Errno::ENOENT);
        }
        directory.insert(name, target.arc()?);
        drop(directory);
        target.changed();
        self.modified();
        Ok(())
    }

    fn unlink(&self, name: &[u8]) -> Result<()> {
        let mut directory = self.directory()?.write();
        if directory.get(name).ok_or(Errno::ENOENT)?.kind() == FileType::Directory {
            return Err(Errno::EISDIR);
        }
        let inode = directory.remove(name);
        drop(directory);
        if let Some(inode) = inode {
            inode.lost_name();
        }
        self.modified();
        Ok(())
    }

    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        let mut directory = self.directory()?.write();
        let victim = directory.get(name).ok_or(Errno::ENOENT)?.clone();
        if !victim.directory()?.read().is_empty() {
            return Err(Errno::ENOTEMPTY);
        }
        directory.remove(name);
        drop(directory);
        victim.lost_name();
        self.modified();
        Ok(())
    }

    fn rename(&self, name: &[u8], new_parent: &Arc<dyn Inode>, new_name: &[u8], flags: RenameFlags) -> Result<()> {
        let new_parent = self.same_file_system(new_parent)?;
        let _renames = self.file_system.rename_lock.lock();
        let same = std::ptr::eq(self, new_parent);
        let first = self.directory()?;
        let source = first.read().get(name).ok_or(Errno::ENOENT)?.clone();
        let target = new_parent.directory()?.read().get(new_name).cloned();
        if let Some(target) = &target {
            if flags.contains(RenameFlags::NOREPLACE) {
                return Err(Errno::EEXIST);
            }
            if Arc::ptr_eq(target, &source) {
                return Ok(());
            }
            if !flags.contains(RenameFlags::EXCHANGE) {
                match (source.kind() == FileType::Directory, target.directory()) {
                    (true, Err(_)) => return Err(Errno::ENOTDIR),
                    (false, Ok(_)) => return Err(Errno::EISDIR),
                    (true, Ok(victim)) if !victim.read().is_empty() => return Err(Errno::ENOTEMPTY),
                    _ => {}
                }
            }
        } else if flags.contains(RenameFlags::EXCHANGE) {
            return Err(Errno::ENOENT);
        }
        // The rename lock and the caller's directory locks keep both names as they are; each directory is locked alone.
        if new_parent.directory()?.read().removed {
            return Err(Errno::ENOENT);
        }
        if flags.contains(RenameFlags::EXCHANGE) {
            let target = target.ok_or(Errno::ENOENT)?;
            new_parent.directory()?.write().replace(new_name, source.clone());
            first.write().replace(name, target.clone());
            if let Body::Directory(directory) = &target.body {
                directory.write().parent = self.me.clone();
            }
            target.changed();
        } else {
            first.write().remove(name);
            let old = {
                let mut directory = new_parent.directory()?.write();
                let old = directory.remove(new_name);
                directory.insert(new_name, source.clone());
                old
            };
            if let Some(old) = old {
                old.lost_name();
            }
        }
        if let Body::Directory(directory) = &source.body {
            directory.write().parent = new_parent.me.clone();
        }
        source.changed();
        self.modified();
        if !same {
            new_parent.modified();
        }
        Ok(())
    }

    fn create_unnamed(&self, node: NewNode) -> Result<Arc<dyn Inode>> {
        let inode = TmpfsInode::new(self.file_system.clone(), node)?;
        inode.links.store(0, Ordering::Relaxed);
        inode.linkable.store(true, Ordering::Relaxed);
        Ok(inode)
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        match &self.body {
            Body::Symlink(target) => {
                self.accessed(clock::now());
                Ok(target.clone())
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn set_attributes(&self, new: &SetAttributes) -> Result<()> {
        if let Some(size) = new.size {
            self.truncate(size)?;
        }
        let times = if let Body::Regular(content) = &self.body { content.read().status()?.times } else { None };
        let mut attributes = self.attributes.lock();
        // What has happened so far is not to count over what is set now.
        attributes.take_over(times);
        if let Some(permissions) = new.permissions {
            attributes.permissions = permissions & 0o7777;
        }
        if let Some(uid) = new.uid {
            attributes.uid = uid;
        }
        if let Some(gid) = new.gid {
            attributes.gid = gid;
        }
        if let Some(accessed) = new.accessed {
            attributes.accessed = accessed;
        }
        if let Some(modified) = new.modified {
            attributes.modified = modified;
        }
        attributes.changed = clock::now();
        Ok(())
    }

    fn open(self: Arc<Self>, context: &Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match &self.body {
            Body::Fifo => {
                let inode: Arc<dyn Inode> = self.clone();
                self.special.open_fifo(context, inode, flags)
            }
            Body::Device(kind, device) => context.kernel().devices.open(context, *kind, *device, self.clone(), flags),
            _ => self.open_data(flags),
        }
    }

    fn open_data(self: Arc<Self>, _flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match &self.body {
            Body::Regular(_) => Ok(Arc::new(TmpfsFile { inode: self })),
            Body::Directory(_) => Ok(Arc::new(OpenDirectory { inode: self })),
            Body::Symlink(_) => Err(Errno::ELOOP),
            _ => Err(Errno::ENXIO),
        }
    }

    fn get_xattr(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.xattrs.get(name)
    }

    fn set_xattr(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        self.xattrs.set(name, value, flags)?;
        self.changed();
        Ok(())
    }

    fn list_xattr(&self) -> Result<Vec<Vec<u8>>> {
        Ok(self.xattrs.list())
    }

    fn remove_xattr(&self, name: &[u8]) -> Result<()> {
        self.xattrs.remove(name)?;
        self.changed();
        Ok(())
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

impl Drop for TmpfsInode {
    /// Gives memory back; a deep tree goes without recursion.
    fn drop(&mut self) {
        self.file_system.quotas.release(self.cost);
        self.file_system.inodes.fetch_sub(1, Ordering::Relaxed);
        let Body::Directory(directory) = &mut self.body else { return };
        let mut pending: Vec<Arc<TmpfsInode>> = directory.get_mut().take_entries().collect();
        while let Some(inode) = pending.pop() {
            if let Some(mut inode) = Arc::into_inner(inode) {
                if let Body::Directory(directory) = &mut inode.body {
                    pending.extend(directory.get_mut().take_entries());
                }
            }
        }
    }
}
