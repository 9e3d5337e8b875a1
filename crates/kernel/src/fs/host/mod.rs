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
use crate::fs::known::Known;
use crate::{Errno, Result};
use parking_lot::{Mutex, RwLock};
use rustix::fs::{AtFlags, StatxFlags};
use skerry_abi::structs::{StatFs, TimeSpec};
use std::collections::HashSet;
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
    inodes: Mutex<Known<Key, HostInode>>,
    /// FIFOs and sockets that the guest made here.
    made_here: Mutex<HashSet<Key>>,
    cache: Arc<DescriptorCache>,
    root: Mutex<Option<Arc<HostInode>>>,
    /// Whether the file systems that lie in the tree stamp their directories, by device.
    keep_time: RwLock<Vec<(u64, bool)>>,
}

/// Types of the host's file systems (statfs(2)) whose directories have a ctime that any change of their names moves on,
/// by this host's clock: not those of a network, nor what shows the kernel's state.
const KEEP_TIME: [u32; 11] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // Btrfs
    0x0102_1994, // tmpfs
    0x794c_7630, // overlay
    0xf2f5_2010, // F2FS
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0xe0f5_e1e2, // EROFS
    0x7371_7368, // Squashfs
    0x8584_58f6, // ramfs
];

/// Devices of one tree whose answer is remembered.
const DEVICES_MAX: usize = 64;

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
            keep_time: RwLock::default(),
        });
        let inode = HostInode::new_root(tree.clone(), &status, root);
        tree.inodes.lock().insert(status.key, &inode);
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
        if let Some(inode) = inodes.get(&status.key) {
            if inode.kind() == status.kind {
                inode.found_at(parent, name);
                return Ok(inode);
            }
        }
        let inode = HostInode::new(tree, status, parent, name);
        inodes.insert(status.key, &inode);
        Ok(inode)
    }

    /// Whether equal ctimes of a directory on `device` mean equal names in it.
    fn keeps_time(&self, directory: &OwnedFd, device: u64) -> bool {
        if let Some((_, answer)) = self.keep_time.read().iter().find(|(known, _)| *known == device) {
            return *answer;
        }
        let answer = rustix::fs::fstatfs(directory).is_ok_and(|status| KEEP_TIME.contains(&(status.f_type as u32)));
        let mut devices = self.keep_time.write();
        if devices.len() < DEVICES_MAX {
            devices.push((device, answer));
        }
        answer
    }

    /// The object for `key`, where somebody uses it.
    fn inode_in_use(&self, key: Key) -> Option<Arc<HostInode>> {
        self.inodes.lock().get(&key)
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

impl HostStatus {
    /// From fstat(2), which shows all but the birth time.
    fn of(status: &rustix::fs::Stat, created: Option<TimeSpec>) -> Result<HostStatus> {
        let time = |sec, nsec| TimeSpec { sec, nsec: nsec as i64 };
        Ok(HostStatus {
            key: (status.st_dev, status.st_ino),
            device: Device::decode(status.st_dev),
            kind: FileType::from_mode(status.st_mode).ok_or(Errno::EIO)?,
            permissions: status.st_mode & 0o7777,
            links: status.st_nlink,
            uid: status.st_uid,
            gid: status.st_gid,
            represents: Device::decode(status.st_rdev),
            size: u64::try_from(status.st_size).unwrap_or(0),
            blocks: u64::try_from(status.st_blocks).unwrap_or(0),
            block_size: u32::try_from(status.st_blksize).unwrap_or(4096),
            accessed: time(status.st_atime, status.st_atime_nsec),
            modified: time(status.st_mtime, status.st_mtime_nsec),
            changed: time(status.st_ctime, status.st_ctime_nsec),
            created,
        })
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
