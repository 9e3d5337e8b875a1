//! An overlay: a lower tree that is only read, and an upper one that takes all changes.
//!
//! The upper tree uses the form that Linux's own overlay file system has with its `userxattr` option: a whiteout is a
//! character device 0/0, an opaque directory has `user.overlay.opaque`, a directory that was moved away from its lower
//! part has `user.overlay.redirect`. Where the upper tree keeps no attributes, whiteouts for all that is below stand for the
//! first mark; without the second, moving such a directory is EXDEV (as with Linux's `redirect_dir=off`). [`OverlayInode`] is one file with its upper and lower part; changing one copies it
//! up first ([`copy_up`]), with the directories above it.
//!
//! All files have the overlay's own device number, and inode numbers that stay what they were across a copy-up.
//!
//! Lock order: a directory's lock in [`crate::fs::path`] > `Overlay::change_lock` > `OverlayInode::parts` and `place` >
//! the locks of upper and lower trees.

mod copy_up;
mod file;
mod inode;
mod rename;

pub use inode::OverlayInode;

use crate::fs::direct::DirectRegistry;
use crate::fs::inode::{Device, FileSystem, FileType, Inode, Names, NewNode, NewNodeKind};
use crate::fs::known::Known;
use crate::fs::path::inode_key;
use crate::{Errno, Result};
use inode::Parts;
use parking_lot::Mutex;
use skerry_abi::structs::StatFs;
use std::sync::{Arc, OnceLock, Weak};

const OPAQUE: &[u8] = b"user.overlay.opaque";
const REDIRECT: &[u8] = b"user.overlay.redirect";
/// The number that a copied-up file had below: 8 bytes, little endian.
const ORIGIN: &[u8] = b"user.overlay.skerry.number";
/// Attributes that are ours, not the guest's.
const OWN_PREFIX: &[u8] = b"user.overlay.";

/// OVERLAYFS_SUPER_MAGIC (statfs(2)).
const MAGIC: i64 = 0x794c_7630;

/// Where the numbers of one layer's or host device's files begin.
const NUMBERS_SHIFT: u32 = 52;

enum Root {
    Held(Arc<OverlayInode>),
    Taken(Weak<OverlayInode>),
}

/// A directory's object, by its address, and a name in it.
type PlaceKey = (usize, Vec<u8>);

/// An overlay.
pub struct Overlay {
    me: Weak<Overlay>,
    device: Device,
    lower_root: Arc<dyn Inode>,
    upper_root: Arc<dyn Inode>,
    upper: Arc<dyn FileSystem>,
    /// Nobody but the guest changes the upper tree.
    pub(super) upper_is_own: bool,
    root: Mutex<Option<Root>>,
    /// The object for an upper inode: files with several names are one.
    by_upper: Mutex<Known<usize, OverlayInode>>,
    /// The object for a name that has a lower part only: its directory's object and the name.
    by_place: Mutex<Known<PlaceKey, OverlayInode>>,
    /// Devices of the lower tree in the order in which they were met.
    lower_devices: Mutex<Vec<Device>>,
    /// Told when a file that processes read by themselves becomes another one.
    pub(super) direct: OnceLock<Arc<DirectRegistry>>,
    /// Held while the upper tree changes, so that a change of several steps is one.
    change_lock: Mutex<()>,
}

impl Overlay {
    pub fn new(device: Device, lower: Arc<dyn FileSystem>, upper: Arc<dyn FileSystem>) -> Result<Arc<Overlay>> {
        let (lower_root, upper_root) = (lower.root(), upper.root());
        if lower_root.kind() != FileType::Directory || upper_root.kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        // What shows at the top is the lower root's.
        let below = lower_root.metadata()?;
        let attributes = crate::fs::inode::SetAttributes {
            permissions: Some(below.permissions),
            uid: Some(below.uid),
            gid: Some(below.gid),
            accessed: Some(below.accessed),
            modified: Some(below.modified),
            ..Default::default()
        };
        // An upper directory of the host's may refuse; its own attributes show then.
        let _ = upper_root.set_attributes(&attributes);
        let overlay = Arc::new_cyclic(|me| Overlay {
            me: me.clone(),
            device,
            lower_root,
            upper_is_own: upper_root.names() == Names::Own,
            upper_root,
            upper,
            root: Mutex::new(None),
            by_upper: Mutex::default(),
            by_place: Mutex::default(),
            lower_devices: Mutex::default(),
            direct: OnceLock::new(),
            change_lock: Mutex::new(()),
        });
        *overlay.root.lock() = Some(Root::Held(overlay.new_root()?));
        Ok(overlay)
    }

    /// Has copies of files told to `registry`.
    pub fn tell(&self, registry: Arc<DirectRegistry>) {
        let _ = self.direct.set(registry);
    }

    fn arc(&self) -> Arc<Overlay> {
        match self.me.upgrade() {
            Some(me) => me,
            None => unreachable!("a method runs on a live file system"),
        }
    }

    fn new_root(&self) -> Result<Arc<OverlayInode>> {
        let (device, inode) = self.lower_root.identity()?;
        let number = self.lower_number(device, inode);
        let parts =
            Parts { upper: Some(self.upper_root.clone()), lower: Some(self.lower_root.clone()), lower_path: Vec::new() };
        Ok(OverlayInode::new(self.arc(), FileType::Directory, number, parts, None, b""))
    }

    /// The inode number that shows for a file of the lower tree.
    fn lower_number(&self, device: Device, inode: u64) -> u64 {
        inode ^ self.lower_mask(device)
    }

    /// What tells the numbers of one device of the lower tree from others'.
    fn lower_mask(&self, device: Device) -> u64 {
        let mut devices = self.lower_devices.lock();
        let index = match devices.iter().position(|known| *known == device) {
            Some(index) => index,
            None if devices.len() < 1024 => {
                devices.push(device);
                devices.len() - 1
            }
            None => 1024,
        };
        // The first one's numbers are as they are; the upper tree's come second.
        let layer = if index == 0 { 0 } else { index as u64 + 1 };
        layer << NUMBERS_SHIFT
    }

    /// The inode number that shows for a file that was never below.
    fn upper_number(&self, inode: u64) -> u64 {
        inode ^ 1 << NUMBERS_SHIFT
    }

    /// The number of an upper file: that of what it was copied from, where it was.
    fn number_of_upper(&self, upper: &Arc<dyn Inode>) -> Result<u64> {
        if let Ok(value) = upper.get_xattr(ORIGIN) {
            if let Ok(bytes) = <[u8; 8]>::try_from(&value[..]) {
                return Ok(u64::from_le_bytes(bytes));
            }
        }
        Ok(self.upper_number(upper.identity()?.1))
    }

    /// The object for an upper inode, made where there is none yet.
    fn inode_for(&self, parts: Parts, number: u64, parent: &Arc<OverlayInode>, name: &[u8]) -> Arc<OverlayInode> {
        let Some(upper) = parts.upper.clone() else {
            return self.lower_inode_for(parts, number, parent, name);
        };
        let mut by_upper = self.by_upper.lock();
        if let Some(inode) = by_upper.get(&inode_key(&upper)) {
            drop(by_upper);
            inode.set_place(Some(parent.clone()), name);
            return inode;
        }
        let kind = parts.kind();
        let inode = OverlayInode::new(self.arc(), kind, number, parts, Some(parent.clone()), name);
        by_upper.insert(inode_key(&upper), &inode);
        inode
    }

    fn lower_inode_for(&self, parts: Parts, number: u64, parent: &Arc<OverlayInode>, name: &[u8]) -> Arc<OverlayInode> {
        let key = (Arc::as_ptr(parent) as usize, name.to_vec());
        let mut by_place = self.by_place.lock();
        let known = by_place.get(&key);
        if let Some(inode) = known.filter(|inode| inode.is_lower_at(&parts, parent, name)) {
            return inode;
        }
        let inode = OverlayInode::new(self.arc(), parts.kind(), number, parts, Some(parent.clone()), name);
        by_place.insert(key, &inode);
        inode
    }

    fn remember_upper(&self, upper: &Arc<dyn Inode>, inode: &Arc<OverlayInode>) {
        self.by_upper.lock().insert(inode_key(upper), inode);
    }

    /// The lower directory at `path` (names with slashes between), if it is there and is one.
    fn lower_directory(&self, path: &[u8]) -> Option<Arc<dyn Inode>> {
        let mut inode = self.lower_root.clone();
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            if name == b"." || name == b".." {
                return None;
            }
            inode = inode.lookup(name).ok()?;
        }
        (inode.kind() == FileType::Directory).then_some(inode)
    }
}

impl FileSystem for Overlay {
    fn root(&self) -> Arc<dyn Inode> {
        let mut root = self.root.lock();
        let inode = match root.take() {
            Some(Root::Held(inode)) => inode,
            Some(Root::Taken(weak)) => match weak.upgrade() {
                Some(inode) => inode,
                // Only after the last mount has gone, when nobody asks.
                None => return self.upper_root.clone(),
            },
            None => return self.upper_root.clone(),
        };
        *root = Some(Root::Taken(Arc::downgrade(&inode)));
        inode
    }

    fn statistics(&self) -> Result<StatFs> {
        Ok(StatFs { kind: MAGIC, fsid: [self.device.encode() as i32, 0], ..self.upper.statistics()? })
    }

    fn sync(&self) -> Result<()> {
        self.upper.sync()
    }

    fn type_name(&self) -> &'static str {
        "overlay"
    }

    fn device(&self) -> Device {
        self.device
    }
}

/// Whether an upper inode says that a name is gone.
fn is_whiteout(inode: &Arc<dyn Inode>) -> Result<bool> {
    Ok(inode.kind() == FileType::CharacterDevice && inode.metadata()?.represents == Device::default())
}

fn make_whiteout(directory: &Arc<dyn Inode>, name: &[u8]) -> Result<()> {
    let kind = NewNodeKind::CharacterDevice(Device::default());
    directory.create(name, NewNode { kind, permissions: 0, uid: 0, gid: 0 }).map(|_| ())
}

/// How the lower part of a directory is kept from showing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Hidden {
    ByMark,
    /// Where the upper tree keeps no attributes: each name in it is covered, and it is the directory's lower part still.
    ByWhiteouts,
}

/// Has nothing of `lower` show in the upper directory, which is about to be at the same place.
fn hide_lower(upper: &Arc<dyn Inode>, lower: Option<&Arc<dyn Inode>>) -> Result<Hidden> {
    match upper.set_xattr(OPAQUE, b"y", 0) {
        Err(Errno::EOPNOTSUPP) => {}
        result => return result.map(|()| Hidden::ByMark),
    }
    let Some(lower) = lower.filter(|lower| lower.kind() == FileType::Directory) else { return Ok(Hidden::ByMark) };
    for (name, _, _) in inode::list(lower)?.iter() {
        if found(upper.lookup(name))?.is_none() {
            make_whiteout(upper, name)?;
        }
    }
    Ok(Hidden::ByWhiteouts)
}

fn has_flag(inode: &Arc<dyn Inode>, name: &[u8]) -> bool {
    inode.get_xattr(name).is_ok_and(|value| value == b"y")
}

/// `None` for ENOENT.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno),
    }
}
