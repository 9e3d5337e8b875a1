//! A tree of the host's, seen inside.
//!
//! [`HostTree`] is the mounted tree: its root descriptor, whether it may be written, and how ids appear. [`HostInode`] is
//! one file of it: parent and name, and an `O_PATH` descriptor while [`descriptors::DescriptorCache`] lets it keep one,
//! so that thousands of files in use hold few host descriptors. Every host call names a file relative to its directory's
//! descriptor, one name at a time and never through a host symlink: the guest kernel's own walk does links.
//!
//! What is a FIFO, socket or device node on the host is never opened there. Nodes that the guest itself made work
//! inside the sandbox only.
//!
//! Lock order: `HostTree::inodes`, `HostInode::place`, `HostInode::descriptor` are innermost, one at a time.

mod copies;
mod descriptors;
mod file;
mod inode;

pub use copies::Copies;
pub use descriptors::{DescriptorCache, Reopener};
pub use file::HostRegularFile;
pub use inode::HostInode;

use crate::fs::inode::{Device, FileSystem, FileType, Inode};
use crate::{Errno, Result};
use parking_lot::Mutex;
use rustix::fs::{AtFlags, StatxFlags};
use skerry_abi::structs::{StatFs, TimeSpec};
use std::collections::{HashMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};

/// A file's identity on the host: device and inode number.
pub(crate) type Key = (u64, u64);

/// What of a host tree may be changed from inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    ReadOnly,
    ReadWrite,
    /// As `ReadWrite`, and all that is there is the sandbox's own (an overlay's upper directory): FIFOs and sockets in it
    /// are the guest's.
    Private,
}

/// How host ids appear inside: the caller's own may appear as 0, and back.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdMap {
    /// The host's (uid, gid) that appears as (0, 0).
    pub root: Option<(u32, u32)>,
}

impl IdMap {
    pub fn uid_inside(self, uid: u32) -> u32 {
        if self.root.is_some_and(|(root, _)| root == uid) {
            0
        } else {
            uid
        }
    }
    pub fn gid_inside(self, gid: u32) -> u32 {
        if self.root.is_some_and(|(_, root)| root == gid) {
            0
        } else {
            gid
        }
    }
    pub fn uid_outside(self, uid: u32) -> u32 {
        match self.root {
            Some((root, _)) if uid == 0 => root,
            _ => uid,
        }
    }
    pub fn gid_outside(self, gid: u32) -> u32 {
        match self.root {
            Some((_, root)) if gid == 0 => root,
            _ => gid,
        }
    }
}

/// A mounted host tree.
pub struct HostTree {
    me: Weak<HostTree>,
    access: Access,
    ids: IdMap,
    device: Device,
    inodes: Mutex<HashMap<Key, Weak<HostInode>>>,
    /// FIFOs and sockets that the guest made here.
    made_here: Mutex<HashSet<Key>>,
    cache: Arc<DescriptorCache>,
    root: Mutex<Option<Arc<HostInode>>>,
}

impl HostTree {
    /// `root`: an `O_PATH` descriptor of the directory (or of a single file).
    pub fn new(root: OwnedFd, access: Access, ids: IdMap, cache: Arc<DescriptorCache>) -> Result<Arc<HostTree>> {
        let status = status_of(root.as_fd(), b"", AtFlags::EMPTY_PATH)?;
        let tree = Arc::new_cyclic(|me| HostTree {
            me: me.clone(),
            access,
            ids,
            device: status.device,
            inodes: Mutex::default(),
            made_here: Mutex::default(),
            cache,
            root: Mutex::new(None),
        });
        let inode = HostInode::new_root(tree.clone(), &status, root);
        tree.inodes.lock().insert(status.key, Arc::downgrade(&inode));
        *tree.root.lock() = Some(inode);
        Ok(tree)
    }

    pub fn access(&self) -> Access {
        self.access
    }

    /// The inode of a file with `status`, the same object as long as anybody uses it; its place becomes this one.
    fn inode(&self, status: &HostStatus, parent: &Arc<HostInode>, name: &[u8]) -> Result<Arc<HostInode>> {
        let tree = self.me.upgrade().ok_or(Errno::EIO)?;
        let mut inodes = self.inodes.lock();
        if let Some(inode) = inodes.get(&status.key).and_then(Weak::upgrade) {
            if inode.kind() == status.kind {
                inode.set_place(parent, name);
                return Ok(inode);
            }
        }
        if inodes.len() >= 256 && inodes.len().is_power_of_two() {
            inodes.retain(|_, weak| weak.strong_count() > 0);
        }
        let inode = HostInode::new(tree, status, parent, name);
        inodes.insert(status.key, Arc::downgrade(&inode));
        Ok(inode)
    }

    /// The object for `key`, where somebody uses it.
    fn inode_in_use(&self, key: Key) -> Option<Arc<HostInode>> {
        self.inodes.lock().get(&key).and_then(Weak::upgrade)
    }
}

impl FileSystem for HostTree {
    fn root(&self) -> Arc<dyn Inode> {
        let root = self.root.lock().clone();
        match root {
            Some(root) => root,
            // Set by `new` before anybody has the tree.
            None => unreachable!("a host tree has a root"),
        }
    }

    fn statistics(&self) -> Result<StatFs> {
        let root = self.root.lock().clone().ok_or(Errno::EIO)?;
        let descriptor = root.descriptor()?;
        let host = rustix::fs::fstatfs(&*descriptor).map_err(host_error)?;
        Ok(StatFs {
            kind: host.f_type as i64,
            bsize: host.f_bsize as i64,
            blocks: host.f_blocks,
            bfree: host.f_bfree,
            bavail: host.f_bavail,
            files: host.f_files,
            ffree: host.f_ffree,
            fsid: [self.device.encode() as i32, 0],
            namelen: host.f_namelen as i64,
            frsize: host.f_frsize as i64,
            ..StatFs::default()
        })
    }

    fn sync(&self) -> Result<()> {
        if self.access == Access::ReadOnly {
            return Ok(());
        }
        let root = self.root.lock().clone().ok_or(Errno::EIO)?;
        rustix::fs::syncfs(root.open_host(rustix::fs::OFlags::RDONLY)?).map_err(host_error)
    }

    fn type_name(&self) -> &'static str {
        "host"
    }

    fn device(&self) -> Device {
        self.device
    }

    fn is_read_only(&self) -> bool {
        self.access == Access::ReadOnly
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

/// What statx(2) says of a host file; ids are the host's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostStatus {
    pub key: Key,
    pub device: Device,
    pub kind: FileType,
    pub permissions: u32,
    pub links: u64,
    pub uid: u32,
    pub gid: u32,
    pub represents: Device,
    pub size: u64,
    pub blocks: u64,
    pub block_size: u32,
    pub accessed: TimeSpec,
    pub modified: TimeSpec,
    pub changed: TimeSpec,
    pub created: Option<TimeSpec>,
}

impl HostStatus {
    pub fn metadata(&self, ids: IdMap) -> crate::fs::inode::Metadata {
        crate::fs::inode::Metadata {
            device: self.device,
            inode: self.key.1,
            kind: self.kind,
            permissions: self.permissions,
            links: self.links,
            uid: ids.uid_inside(self.uid),
            gid: ids.gid_inside(self.gid),
            represents: self.represents,
            size: self.size,
            blocks: self.blocks,
            block_size: self.block_size,
            accessed: self.accessed,
            modified: self.modified,
            changed: self.changed,
            created: self.created,
        }
    }
}

/// statx(2) of `name` in `directory`, links not followed; an empty name with `AtFlags::EMPTY_PATH` is the descriptor.
pub(crate) fn status_of(directory: impl AsFd, name: &[u8], flags: AtFlags) -> Result<HostStatus> {
    let mask = StatxFlags::BASIC_STATS | StatxFlags::BTIME;
    let status = rustix::fs::statx(directory, name, flags | AtFlags::SYMLINK_NOFOLLOW, mask).map_err(host_error)?;
    let device = Device::new(status.stx_dev_major, status.stx_dev_minor);
    let time = |stamp: rustix::fs::StatxTimestamp| TimeSpec { sec: stamp.tv_sec, nsec: stamp.tv_nsec.into() };
    Ok(HostStatus {
        key: (device.encode(), status.stx_ino),
        device,
        kind: FileType::from_mode(status.stx_mode.into()).ok_or(Errno::EIO)?,
        permissions: u32::from(status.stx_mode) & 0o7777,
        links: status.stx_nlink.into(),
        uid: status.stx_uid,
        gid: status.stx_gid,
        represents: Device::new(status.stx_rdev_major, status.stx_rdev_minor),
        size: status.stx_size,
        blocks: status.stx_blocks,
        block_size: status.stx_blksize,
        accessed: time(status.stx_atime),
        modified: time(status.stx_mtime),
        changed: time(status.stx_ctime),
        created: (status.stx_mask & StatxFlags::BTIME.bits() != 0).then(|| time(status.stx_btime)),
    })
}

/// The host's errno as the guest's. Running out of host descriptors is the system's fault, not the guest's: ENFILE.
pub(crate) fn host_error(error: rustix::io::Errno) -> Errno {
    match error {
        rustix::io::Errno::MFILE => Errno::ENFILE,
        error => Errno(error.raw_os_error()),
    }
}
