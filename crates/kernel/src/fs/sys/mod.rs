//! sysfs(5), as programs read it: CPUs and memory nodes, huge pages, the loopback interface, and the control groups'
//! files with the sandbox's limits (cgroups(7), version 2), which Java, Go and Node size themselves by.
//!
//! [`SysFileSystem`] is mounted at /sys, [`ControlGroupFileSystem`] at /sys/fs/cgroup. Trees are built at mounting; texts
//! that can change are made at reading.

mod cgroup;
mod devices;
#[cfg(test)]
mod tests;

pub use cgroup::ControlGroupFileSystem;

use crate::fs::inode::{Device, FileSystem, Inode};
use crate::fs::mount::{MountFlags, NewMount};
use crate::fs::pseudo::tree::Tree;
use crate::fs::pseudo::{empty_statistics, Node, PseudoInode};
use crate::fs::walk::{self, Follow};
use crate::{Errno, Kernel, Result};
use skerry_abi::structs::StatFs;
use std::sync::{Arc, Weak};

const SYSFS_MAGIC: i64 = 0x6265_6572;

/// sysfs, as one sandbox sees it.
pub struct SysFileSystem {
    device: Device,
    root: Arc<dyn Node>,
    this: Weak<SysFileSystem>,
}

impl SysFileSystem {
    pub fn new(kernel: &Kernel, device: Device) -> Arc<SysFileSystem> {
        let mut tree = Tree::directory();
        devices::add(&mut tree, kernel);
        let mut next_inode = 1;
        let root = tree.build(&mut next_inode);
        Arc::new_cyclic(|this| SysFileSystem { device, root, this: this.clone() })
    }
}

impl FileSystem for SysFileSystem {
    fn root(&self) -> Arc<dyn Inode> {
        match self.this.upgrade() {
            Some(this) => PseudoInode::new(self.root.clone(), this),
            None => unreachable!("a file system outlives its users"),
        }
    }

    fn statistics(&self) -> Result<StatFs> {
        Ok(empty_statistics(SYSFS_MAGIC))
    }

    fn type_name(&self) -> &'static str {
        "sysfs"
    }

    fn device(&self) -> Device {
        self.device
    }
}

/// Mounts the control group's files at /sys/fs/cgroup, where there is such a directory: once, at boot.
pub fn mount_control_group(kernel: &Kernel, device: Device) -> Result<()> {
    let root = kernel.mounts.root().ok_or(Errno::ENOENT)?;
    let place = match walk::resolve_from_root(&kernel.mounts, &root, b"/sys/fs/cgroup", Follow::Yes) {
        Ok(place) => place,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let flags = MountFlags::READ_ONLY | MountFlags::RELATIME | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    let new = NewMount {
        file_system: ControlGroupFileSystem::new(device),
        root: None,
        source: b"cgroup".to_vec(),
        options: String::new(),
        flags,
    };
    kernel.mounts.mount_at(&place, new).map(drop)
}
