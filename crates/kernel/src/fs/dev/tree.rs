//! What /dev holds at boot, as devtmpfs and udev make it.

use super::memory;
use crate::fs::inode::{Device, Inode, NewNode, NewNodeKind};
use crate::Result;
use std::sync::Arc;

/// Fills the root of an empty file system with the usual nodes.
pub fn populate(root: &Arc<dyn Inode>) -> Result<()> {
    let make = |name: &str, kind: NewNodeKind, permissions: u32| {
        root.create(name.as_bytes(), NewNode { kind, permissions, uid: 0, gid: 0 }).map(|_| ())
    };
    for (name, device) in [
        ("null", memory::NULL),
        ("zero", memory::ZERO),
        ("full", memory::FULL),
        ("random", memory::RANDOM),
        ("urandom", memory::URANDOM),
        ("tty", Device::new(5, 0)),
    ] {
        make(name, NewNodeKind::CharacterDevice(device), 0o666)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
        ("core", "/proc/kcore"),
        ("ptmx", "pts/ptmx"),
    ] {
        make(name, NewNodeKind::Symlink(target.as_bytes().to_vec()), 0o777)?;
    }
    for (name, permissions) in [("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)] {
        make(name, NewNodeKind::Directory, permissions)?;
    }
    Ok(())
}
