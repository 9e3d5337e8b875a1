//! Making, removing and moving names: what mkdir(2), unlink(2), rename(2) and theirs do once their arguments are decoded.
//!
//! Each takes the directory's lock, looks, checks, changes the file system and the cache of names, and reports.

use crate::fs::inode::{NewNodeKind, RenameFlags};
use crate::fs::mount::MountTable;
use crate::fs::notify::NotifyMask;
use crate::fs::path::{same_inode, Dentry, Path, NAME_MAX};
use crate::fs::permission::{self, check_directory_writable, check_sticky};
use crate::fs::walk::Last;
use crate::task::{AccessMode, Task};
use crate::{Errno, Result};
use std::sync::Arc;

/// Makes a node where the walk has ended. EEXIST also for "/", "." and "..".
pub fn make(task: &Task, directory: &Path, last: &Last, kind: NewNodeKind, mode: u32) -> Result<Path> {
    let Last::Name { name, trailing_slash } = last else { return Err(Errno::EEXIST) };
    if *trailing_slash && !matches!(kind, NewNodeKind::Directory) {
        // "name/" can only be a directory: ENOENT where nothing is there.
        return Err(if directory.dentry.lookup(name).is_ok() { Errno::EEXIST } else { Errno::ENOENT });
    }
    let is_directory = matches!(kind, NewNodeKind::Directory);
    let dentry = permission::create_node(task, directory, name, kind, mode)?;
    let mask = if is_directory { NotifyMask::CREATE | NotifyMask::ISDIR } else { NotifyMask::CREATE };
    task.kernel().watches.report(directory.inode(), mask, name, 0);
    Ok(Path { mount: directory.mount.clone(), dentry })
}

/// What is removed: a name of anything but a directory, or an empty directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    Name,
    Directory,
}

pub fn remove(task: &Task, directory: &Path, last: &Last, removal: Removal) -> Result<()> {
    let (name, trailing_slash) = match (last, removal) {
        (Last::Name { name, trailing_slash }, _) => (name, *trailing_slash),
        (Last::Dot, Removal::Directory) => return Err(Errno::EINVAL),
        (Last::DotDot, Removal::Directory) => return Err(Errno::ENOTEMPTY),
        (Last::Root, Removal::Directory) => return Err(Errno::EBUSY),
        (_, Removal::Name) => return Err(Errno::EISDIR),
    };
    let parent = &directory.dentry;
    let victim = {
        let mut children = parent.children.lock();
        let victim = parent.lookup_locked(&mut children, name)?;
        let is_directory = victim.is_directory();
        if removal == Removal::Name && trailing_slash {
            return Err(if is_directory { Errno::EISDIR } else { Errno::ENOTDIR });
        }
        let credentials = task.credentials();
        directory.mount.check_writable()?;
        let above = check_directory_writable(&credentials, directory)?;
        check_sticky(&credentials, &above, &victim)?;
        match (removal, is_directory) {
            (Removal::Name, true) => return Err(Errno::EISDIR),
            (Removal::Directory, false) => return Err(Errno::ENOTDIR),
            _ => {}
        }
        if victim.is_mount_point() {
            return Err(Errno::EBUSY);
        }
        match removal {
            Removal::Name => parent.inode.unlink(name)?,
            Removal::Directory => parent.inode.remove_directory(name)?,
        }
        parent.forget_child(&mut children, name);
        victim
    };
    report_removal(task, &victim, parent, name);
    Ok(())
}

fn report_removal(task: &Task, victim: &Arc<Dentry>, parent: &Arc<Dentry>, name: &[u8]) {
    let watches = &task.kernel().watches;
    if !watches.is_active() {
        return;
    }
    let directory = if victim.is_directory() { NotifyMask::ISDIR } else { NotifyMask::empty() };
    watches.report(&parent.inode, NotifyMask::DELETE | directory, name, 0);
    report_lost_name(task, victim);
}

/// A file that lost a name has another link count; one without any is gone. A directory only goes.
fn report_lost_name(task: &Task, victim: &Dentry) {
    let watches = &task.kernel().watches;
    if !victim.is_directory() {
        watches.report(&victim.inode, NotifyMask::ATTRIB, b"", 0);
    }
    if victim.is_directory() || victim.inode.metadata().map_or(true, |metadata| metadata.links == 0) {
        watches.report(&victim.inode, NotifyMask::DELETE_SELF, b"", 0);
    }
}

/// Gives `target` another name (link(2)).
pub fn link(task: &Task, target: &Path, directory: &Path, last: &Last) -> Result<()> {
    let Last::Name { name, trailing_slash } = last else { return Err(Errno::EEXIST) };
    if name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let parent = &directory.dentry;
    let mut children = parent.children.lock();
    match parent.lookup_locked(&mut children, name) {
        Ok(_) => return Err(Errno::EEXIST),
        Err(Errno::ENOENT) if *trailing_slash => return Err(Errno::ENOENT),
        Err(Errno::ENOENT) => {}
        Err(errno) => return Err(errno),
    }
    if !Arc::ptr_eq(&target.mount, &directory.mount) {
        return Err(Errno::EXDEV);
    }
    check_directory_writable(&task.credentials(), directory)?;
    if target.dentry.is_directory() {
        return Err(Errno::EPERM);
    }
    parent.inode.link(name, target.inode())?;
    let watches = &task.kernel().watches;
    watches.report(target.inode(), NotifyMask::ATTRIB, b"", 0);
    watches.report(&parent.inode, NotifyMask::CREATE, name, 0);
    Ok(())
}

/// One end of a rename.
pub struct End<'a> {
    pub directory: &'a Path,
    pub last: &'a Last,
}

impl<'a> End<'a> {
    fn name(&self) -> Option<(&'a [u8], bool)> {
        match self.last {
            Last::Name { name, trailing_slash } => Some((name, *trailing_slash)),
            _ => None,
        }
    }
}

/// rename(2), renameat2(2).
pub fn rename(task: &Task, mounts: &MountTable, old: End, new: End, flags: RenameFlags) -> Result<()> {
    if !Arc::ptr_eq(&old.directory.mount, &new.directory.mount) {
        return Err(Errno::EXDEV);
    }
    let Some((old_name, old_slash)) = old.name() else { return Err(Errno::EBUSY) };
    let Some((new_name, new_slash)) = new.name() else {
        return Err(if flags.contains(RenameFlags::NOREPLACE) { Errno::EEXIST } else { Errno::EBUSY });
    };
    if old_name.len() > NAME_MAX || new_name.len() > NAME_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    let (from, to) = (&old.directory.dentry, &new.directory.dentry);
    let same_directory = Arc::ptr_eq(from, to);
    let _renames = mounts.rename_lock.lock();
    // Both directories' locks, in order of address.
    let (mut first, mut second) = if same_directory {
        (from.children.lock(), None)
    } else if Arc::as_ptr(from) < Arc::as_ptr(to) {
        let first = from.children.lock();
        (first, Some(to.children.lock()))
    } else {
        let second = to.children.lock();
        (from.children.lock(), Some(second))
    };
    let source = from.lookup_locked(&mut first, old_name)?;
    let target = match to.lookup_locked(second.as_deref_mut().unwrap_or(&mut first), new_name) {
        Ok(target) => Some(target),
        Err(Errno::ENOENT) => None,
        Err(errno) => return Err(errno),
    };
    if target.is_some() && flags.contains(RenameFlags::NOREPLACE) {
        return Err(Errno::EEXIST);
    }
    let exchange = flags.contains(RenameFlags::EXCHANGE);
    if target.is_none() && exchange {
        return Err(Errno::ENOENT);
    }
    if !source.is_directory() && (old_slash || (new_slash && !exchange)) {
        return Err(Errno::ENOTDIR);
    }
    // A directory does not move into itself, nor onto what it lies in.
    if source.is_directory() && source.is_ancestor_or_self(to) {
        return Err(Errno::EINVAL);
    }
    if let Some(target) = &target {
        if target.is_directory() && target.is_ancestor_or_self(from) {
            return Err(if exchange { Errno::EINVAL } else { Errno::ENOTEMPTY });
        }
    }
    let credentials = task.credentials();
    let above_old = check_directory_writable(&credentials, old.directory)?;
    let above_new = check_directory_writable(&credentials, new.directory)?;
    check_sticky(&credentials, &above_old, &source)?;
    if source.is_directory() && !same_directory {
        // Its ".." changes.
        credentials.check_access(&source.inode.metadata()?, AccessMode::WRITE)?;
    }
    if let Some(target) = &target {
        check_sticky(&credentials, &above_new, target)?;
        if exchange {
            if target.is_directory() && !same_directory {
                credentials.check_access(&target.inode.metadata()?, AccessMode::WRITE)?;
            }
        } else {
            match (source.is_directory(), target.is_directory()) {
                (true, false) => return Err(Errno::ENOTDIR),
                (false, true) => return Err(Errno::EISDIR),
                _ => {}
            }
        }
        // Two names of one file: nothing happens.
        if same_inode(&source.inode, &target.inode) {
            return Ok(());
        }
        if target.is_mount_point() {
            return Err(Errno::EBUSY);
        }
    }
    if source.is_mount_point() {
        return Err(Errno::EBUSY);
    }
    if to.is_unlinked() {
        return Err(Errno::ENOENT);
    }
    from.inode.rename(old_name, &to.inode, new_name, flags)?;
    from.detach_child(&mut first, old_name);
    {
        let into = second.as_deref_mut().unwrap_or(&mut first);
        if exchange {
            to.detach_child(into, new_name);
        } else {
            to.forget_child(into, new_name);
        }
        Dentry::moved(&source, into, to, new_name);
    }
    if let (true, Some(target)) = (exchange, &target) {
        Dentry::moved(target, &mut first, from, old_name);
    }
    drop((first, second));
    report_rename(task, &source, target.as_ref().filter(|_| !exchange), (from, old_name), (to, new_name));
    if let (true, Some(target)) = (exchange, &target) {
        report_rename(task, target, None, (to, new_name), (from, old_name));
    }
    Ok(())
}

fn report_rename(
    task: &Task,
    moved: &Arc<Dentry>,
    replaced: Option<&Arc<Dentry>>,
    from: (&Arc<Dentry>, &[u8]),
    to: (&Arc<Dentry>, &[u8]),
) {
    let watches = &task.kernel().watches;
    if !watches.is_active() {
        return;
    }
    if watches.is_watched(&to.0.inode) {
        // Where it is now somebody wants to know of its reads and writes.
        crate::fs::direct::clear(task.kernel(), &moved.inode);
    }
    let directory = if moved.is_directory() { NotifyMask::ISDIR } else { NotifyMask::empty() };
    let cookie = watches.next_cookie();
    watches.report(&from.0.inode, NotifyMask::MOVED_FROM | directory, from.1, cookie);
    watches.report(&to.0.inode, NotifyMask::MOVED_TO | directory, to.1, cookie);
    watches.report(&moved.inode, NotifyMask::MOVE_SELF, b"", 0);
    if let Some(replaced) = replaced {
        report_lost_name(task, replaced);
    }
}
