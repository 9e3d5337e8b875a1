//! tmpfs(5): files in the sandbox's memory.
//!
//! [`Tmpfs`] is the file system, [`TmpfsInode`] a file; [`content`] holds a regular file's bytes, [`quota`] counts them.
//! A directory owns its entries; nothing points upwards but weakly, so a file's memory goes back when its last name and
//! its last user are gone. The file system itself refers to its root only until somebody has taken it: the mount owns it.
//!
//! Lock order: `Tmpfs::rename_lock` > `Directory` locks (two only under the former) > `Content` > attributes > quotas.

mod content;
mod directory;
mod file;
mod inode;
pub mod quota;

pub use content::{Content, ContentShared};
pub use file::TmpfsFile;
pub use inode::TmpfsInode;
pub use quota::{Quota, Quotas};

use crate::fs::inode::{Device, FileSystem, Inode, NewNode, NewNodeKind};
use crate::Result;
use parking_lot::Mutex;
use skerry_abi::raw::general as linux;
use skerry_abi::structs::StatFs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

/// What an inode and its name cost, so that empty files are no way around the cap either.
const INODE_COST: u64 = 1024;

enum Root {
    /// Nobody has asked yet.
    Held(Arc<TmpfsInode>),
    Taken(Weak<TmpfsInode>),
}

/// A tmpfs.
pub struct Tmpfs {
    device: Device,
    quotas: Quotas,
    content: Arc<ContentShared>,
    next_inode: AtomicU64,
    inodes: AtomicU64,
    root: Mutex<Option<Root>>,
    root_permissions: u32,
    type_name: &'static str,
    rename_lock: Mutex<()>,
    me: Weak<Tmpfs>,
}

/// What a new tmpfs is made of.
pub struct TmpfsOptions {
    pub device: Device,
    /// The sandbox's cap.
    pub sandbox_quota: Arc<Quota>,
    /// Its own cap in bytes; 0 = none.
    pub size: u64,
    /// Permission bits of the root.
    pub permissions: u32,
    pub content: Arc<ContentShared>,
    /// "tmpfs", or what else it passes for (devtmpfs).
    pub type_name: &'static str,
}

impl Tmpfs {
    pub fn new(options: TmpfsOptions) -> Arc<Tmpfs> {
        let tmpfs = Arc::new_cyclic(|me| Tmpfs {
            device: options.device,
            quotas: Quotas { sandbox: options.sandbox_quota, own: Quota::with_limit(options.size) },
            content: options.content,
            next_inode: AtomicU64::new(1),
            inodes: AtomicU64::new(0),
            root: Mutex::new(None),
            root_permissions: options.permissions,
            type_name: options.type_name,
            rename_lock: Mutex::new(()),
            me: me.clone(),
        });
        *tmpfs.root.lock() = Some(Root::Held(tmpfs.new_root()));
        tmpfs
    }

    fn new_root(&self) -> Arc<TmpfsInode> {
        let node = NewNode { kind: NewNodeKind::Directory, permissions: self.root_permissions, uid: 0, gid: 0 };
        TmpfsInode::new_uncharged(self.arc(), node)
    }

    fn arc(&self) -> Arc<Tmpfs> {
        match self.me.upgrade() {
            Some(me) => me,
            None => unreachable!("a method runs on a live file system"),
        }
    }

    /// A regular file without a name, as memfd_create(2) and shared anonymous memory need it.
    pub fn anonymous_file(&self, permissions: u32, uid: u32, gid: u32) -> Result<Arc<TmpfsInode>> {
        TmpfsInode::new(self.arc(), NewNode { kind: NewNodeKind::Regular, permissions, uid, gid })
    }

    fn next_inode_number(&self) -> u64 {
        self.next_inode.fetch_add(1, Ordering::Relaxed)
    }
}

impl FileSystem for Tmpfs {
    fn root(&self) -> Arc<dyn Inode> {
        let mut root = self.root.lock();
        let inode = match root.take() {
            Some(Root::Held(inode)) => inode,
            Some(Root::Taken(weak)) => weak.upgrade().unwrap_or_else(|| self.new_root()),
            None => self.new_root(),
        };
        *root = Some(Root::Taken(Arc::downgrade(&inode)));
        inode
    }

    fn statistics(&self) -> Result<StatFs> {
        let block = 4096;
        let limits = [&self.quotas.own, &self.quotas.sandbox]
            .map(|quota| (quota.limit.load(Ordering::Relaxed), quota.used.load(Ordering::Relaxed)))
            .into_iter()
            .filter(|(limit, _)| *limit != 0);
        // The cap that leaves least room is the one that is seen.
        let (limit, used) = limits.min_by_key(|(limit, used)| limit.saturating_sub(*used)).unwrap_or((0, 0));
        let free = limit.saturating_sub(used) / block;
        let files = if limit == 0 { 0 } else { limit / INODE_COST };
        Ok(StatFs {
            kind: linux::TMPFS_MAGIC as i64,
            bsize: block as i64,
            blocks: limit / block,
            bfree: free,
            bavail: free,
            files,
            ffree: files.saturating_sub(self.inodes.load(Ordering::Relaxed)),
            fsid: [self.device.encode() as i32, 0],
            namelen: 255,
            frsize: block as i64,
            ..StatFs::default()
        })
    }

    fn type_name(&self) -> &'static str {
        self.type_name
    }

    fn device(&self) -> Device {
        self.device
    }
}
