//! Who may make, remove and change names and attributes (path_resolution(7), unlink(2), chmod(2), chown(2)).

use crate::fs::inode::{FileType, Inode, Metadata, NewNode, NewNodeKind, SetAttributes};
use crate::fs::path::{Dentry, Path, NAME_MAX};
use crate::task::credentials::{CAP_FOWNER, CAP_FSETID};
use crate::task::{AccessMode, Credentials, Task};
use crate::{Errno, Result};
use std::sync::Arc;

const SET_UID: u32 = 0o4000;
const SET_GID: u32 = 0o2000;
const STICKY: u32 = 0o1000;

/// Write and search permission on a directory, and that it can be written at all.
pub fn check_directory_writable(credentials: &Credentials, directory: &Path) -> Result<Metadata> {
    let metadata = directory.inode().metadata()?;
    credentials.check_access(&metadata, AccessMode::WRITE | AccessMode::EXECUTE)?;
    directory.mount.check_writable()?;
    Ok(metadata)
}

/// Makes `name` in `directory` for `task`: permissions, umask, and the group of a set-group-id directory (mkdir(2)).
/// EEXIST where it is there, before EROFS and EACCES, as Linux orders them.
pub fn create_node(task: &Task, directory: &Path, name: &[u8], kind: NewNodeKind, mode: u32) -> Result<Arc<Dentry>> {
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let parent = &directory.dentry;
    let mut children = parent.children.lock();
    match parent.lookup_locked(&mut children, name) {
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    if parent.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    let credentials = task.credentials();
    let above = check_directory_writable(&credentials, directory)?;
    let mut permissions = match kind {
        NewNodeKind::Symlink(_) => 0o777,
        NewNodeKind::Directory => mode & 0o1777 & !task.fs().umask,
        _ => mode & 0o7777 & !task.fs().umask,
    };
    let mut gid = credentials.fsgid;
    if above.permissions & SET_GID != 0 {
        gid = above.gid;
        if matches!(kind, NewNodeKind::Directory) {
            permissions |= SET_GID;
        } else if permissions & (SET_GID | 0o010) == SET_GID | 0o010
            && !credentials.in_group(gid)
            && !credentials.has_capability(CAP_FSETID)
        {
            permissions &= !SET_GID;
        }
    }
    let inode = parent.inode.create(name, NewNode { kind, permissions, uid: credentials.fsuid, gid })?;
    Ok(parent.add_child(&mut children, name, inode))
}

/// Whether `task` may remove or rename the entry `victim` of a directory with `above`: the sticky bit (unlink(2)).
pub fn check_sticky(credentials: &Credentials, above: &Metadata, victim: &Dentry) -> Result<()> {
    if above.permissions & STICKY == 0 || credentials.fsuid == above.uid || credentials.has_capability(CAP_FOWNER) {
        return Ok(());
    }
    if victim.inode.metadata()?.uid == credentials.fsuid {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// A write or truncation by somebody without CAP_FSETID takes the set-id bits away (inode(7)).
pub fn drop_set_id(task: &Task, inode: &Arc<dyn Inode>) -> Result<()> {
    if task.credentials().has_capability(CAP_FSETID) || inode.kind() != FileType::Regular {
        return Ok(());
    }
    let permissions = inode.metadata()?.permissions;
    let kept = without_set_id(permissions);
    if kept != permissions {
        inode.set_attributes(&SetAttributes { permissions: Some(kept), ..SetAttributes::default() })?;
    }
    Ok(())
}

/// Permission bits after a change of owner or content: set-user-id goes, set-group-id where the group may execute.
pub fn without_set_id(permissions: u32) -> u32 {
    let mut kept = permissions & !SET_UID;
    if permissions & 0o010 != 0 {
        kept &= !SET_GID;
    }
    kept
}
