//! What pseudo file systems (proc, sysfs, devpts) have in common: nodes whose content is made when it is asked for.
//!
//! A [`Node`] says what it is and makes its content; [`PseudoInode`] turns it into an [`Inode`]. [`tree`] has the nodes
//! of a tree that is the same for everybody. A file's text is made at the first read, and anew whenever it is read from
//! its start, as seq_file does it on Linux: a program that keeps /proc/stat open and seeks back sees the new figures.
//!
//! Lock order: a file's snapshot is outside of everything that makes its content.

mod file;
pub mod tree;

pub use file::{Content, DirectoryFile, GeneratedFile};

use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{Device, FileSystem, FileType, Inode, Metadata, NewNode, SetAttributes};
use crate::fs::path::Path;
use crate::task::Task;
use crate::{Context, Errno, Result};
use skerry_abi::structs::{StatFs, TimeSpec};
use std::any::Any;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// What stat(2) shows of a node.
#[derive(Clone, Copy, Debug)]
pub struct Attributes {
    pub inode: u64,
    pub kind: FileType,
    pub permissions: u32,
    pub uid: u32,
    pub gid: u32,
    pub links: u64,
    pub represents: Device,
    pub size: u64,
}

impl Attributes {
    /// Root's, with one link (a directory: two).
    pub fn new(inode: u64, kind: FileType, permissions: u32) -> Attributes {
        let links = if kind == FileType::Directory { 2 } else { 1 };
        Attributes { inode, kind, permissions, uid: 0, gid: 0, links, represents: Device::default(), size: 0 }
    }

    pub fn owned_by(self, (uid, gid): (u32, u32)) -> Attributes {
        Attributes { uid, gid, ..self }
    }
}

/// One name in a directory's list.
#[derive(Clone, Debug)]
pub struct Entry {
    pub name: Vec<u8>,
    pub inode: u64,
    pub kind: FileType,
}

/// A file, directory or link of a pseudo file system.
#[allow(unused_variables)]
pub trait Node: Send + Sync + 'static {
    fn kind(&self) -> FileType;
    /// ENOENT or ESRCH where what it stands for is gone.
    fn attributes(&self) -> Result<Attributes>;
    /// Directories only.
    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        Err(Errno::ENOTDIR)
    }
    /// Directories only: all names but "." and "..".
    fn list(&self) -> Result<Vec<Entry>> {
        Err(Errno::ENOTDIR)
    }
    /// Links only. `reader`: who asks, where that is known.
    fn read_link(&self, reader: Option<&Task>) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }
    /// Magic links only.
    fn follow(&self) -> Option<Result<Path>> {
        None
    }
    /// Regular files: what an opening of it reads and writes.
    fn open(&self, context: &Context, flags: StatusFlags) -> Result<Box<dyn Content>> {
        Err(Errno::EACCES)
    }
    /// Nodes that are no plain text files (devices, /proc/PID/mem) open themselves.
    fn open_special(&self, context: &Context, flags: StatusFlags) -> Option<Result<Arc<dyn FileOperations>>> {
        None
    }
    /// mkdir, mknod ... : pseudo file systems refuse, cgroup directories do not.
    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Node>> {
        Err(Errno::EPERM)
    }
    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }
    /// chmod, chown, utimensat. The size is never asked for.
    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        Err(Errno::EPERM)
    }
}

/// A [`Node`] as an inode.
pub struct PseudoInode {
    node: Arc<dyn Node>,
    file_system: Arc<dyn FileSystem>,
}

impl PseudoInode {
    pub fn new(node: Arc<dyn Node>, file_system: Arc<dyn FileSystem>) -> Arc<PseudoInode> {
        Arc::new(PseudoInode { node, file_system })
    }

    /// The node itself.
    pub fn node(&self) -> &Arc<dyn Node> {
        &self.node
    }
}

/// Now, as a file's times show it.
pub(crate) fn now() -> TimeSpec {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    TimeSpec::from_nanos(u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX))
}

/// Metadata of a node with these attributes on `device`.
pub(crate) fn metadata(attributes: &Attributes, device: Device) -> Metadata {
    let now = now();
    Metadata {
        device,
        inode: attributes.inode,
        kind: attributes.kind,
        permissions: attributes.permissions,
        links: attributes.links,
        uid: attributes.uid,
        gid: attributes.gid,
        represents: attributes.represents,
        size: attributes.size,
        blocks: 0,
        block_size: 1024,
        accessed: now,
        modified: now,
        changed: now,
        created: None,
    }
}

/// statfs(2) of a file system that holds nothing.
pub(crate) fn empty_statistics(magic: i64) -> StatFs {
    StatFs { kind: magic, bsize: 4096, frsize: 4096, namelen: 255, ..StatFs::default() }
}

impl Inode for PseudoInode {
    fn metadata(&self) -> Result<Metadata> {
        Ok(metadata(&self.node.attributes()?, self.file_system.device()))
    }

    fn kind(&self) -> FileType {
        self.node.kind()
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        self.file_system.clone()
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Inode>> {
        let node = self.node.lookup(name)?;
        Ok(PseudoInode::new(node, self.file_system.clone()))
    }

    fn create(&self, name: &[u8], node: NewNode) -> Result<Arc<dyn Inode>> {
        if self.file_system.type_name() == "proc" {
            // Linux's proc has no names that are not there.
            return Err(Errno::ENOENT);
        }
        let node = self.node.create(name, node)?;
        Ok(PseudoInode::new(node, self.file_system.clone()))
    }

    fn link(&self, _name: &[u8], _target: &Arc<dyn Inode>) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn unlink(&self, _name: &[u8]) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn remove_directory(&self, name: &[u8]) -> Result<()> {
        self.node.remove_directory(name)
    }

    fn rename(
        &self,
        _name: &[u8],
        _new_parent: &Arc<dyn Inode>,
        _new_name: &[u8],
        _flags: crate::fs::inode::RenameFlags,
    ) -> Result<()> {
        Err(Errno::EPERM)
    }

    fn read_link(&self) -> Result<Vec<u8>> {
        self.node.read_link(None)
    }

    fn read_link_for(&self, reader: &Task) -> Result<Vec<u8>> {
        self.node.read_link(Some(reader))
    }

    fn follow_magic(&self) -> Option<Result<Path>> {
        self.node.follow()
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        // O_TRUNC on a settings file is no error and no change.
        let rest = SetAttributes { size: None, accessed: None, modified: None, ..*attributes };
        if rest.permissions.is_none() && rest.uid.is_none() && rest.gid.is_none() {
            return Ok(());
        }
        self.node.set_attributes(&rest)
    }

    fn open(self: Arc<Self>, context: &Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        if let Some(opened) = self.node.open_special(context, flags) {
            return opened;
        }
        match self.node.kind() {
            FileType::Directory => Ok(Arc::new(DirectoryFile::new(self))),
            FileType::Regular => {
                let content = self.node.open(context, flags)?;
                Ok(Arc::new(GeneratedFile::new(self, content)))
            }
            _ => Err(Errno::ELOOP),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
