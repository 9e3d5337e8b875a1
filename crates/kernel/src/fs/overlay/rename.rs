//! rename(2) in an overlay.

use super::inode::{OverlayInode, Parts};
use super::{found, hide_lower, is_whiteout, make_whiteout, Hidden, REDIRECT};
use crate::fs::inode::{FileType, Inode, RenameFlags};
use crate::{Errno, Result};
use std::sync::atomic::Ordering;
use std::sync::Arc;

impl OverlayInode {
    pub(super) fn rename_within(
        &self,
        name: &[u8],
        new_parent: &OverlayInode,
        new_name: &[u8],
        flags: RenameFlags,
    ) -> Result<()> {
        if flags.contains(RenameFlags::WHITEOUT) {
            return Err(Errno::EINVAL);
        }
        let _change = self.overlay.change_lock.lock();
        let source = self.find(name)?;
        let target = found(new_parent.find(new_name))?;
        let exchange = flags.contains(RenameFlags::EXCHANGE);
        let is_directory = source.kind() == FileType::Directory;
        match &target {
            Some(_) if flags.contains(RenameFlags::NOREPLACE) => return Err(Errno::EEXIST),
            Some(target) if Arc::ptr_eq(target, &source) => return Ok(()),
            Some(target) if !exchange => {
                let onto_directory = target.kind() == FileType::Directory;
                match (is_directory, onto_directory) {
                    (true, false) => return Err(Errno::ENOTDIR),
                    (false, true) => return Err(Errno::EISDIR),
                    (true, true) if !target.names()?.is_empty() => return Err(Errno::ENOTEMPTY),
                    _ => {}
                }
            }
            None if exchange => return Err(Errno::ENOENT),
            _ => {}
        }
        source.ensure_upper_locked()?;
        if let (true, Some(target)) = (exchange, &target) {
            target.ensure_upper_locked()?;
        }
        let from = self.ensure_upper_locked()?;
        let to = new_parent.ensure_upper_locked()?;
        let covers_old = self.lower_child(&self.parts(), name)?.is_some();
        let new_place = (new_parent, new_name);
        // A directory takes its lower part along by name, and must not take on another at its new place.
        settle_directory(&source, new_place)?;
        if exchange {
            let target = target.ok_or(Errno::ENOENT)?;
            settle_directory(&target, (self, name))?;
            from.rename(name, &to, new_name, RenameFlags::EXCHANGE)?;
            source.set_place(Some(new_parent.arc()?), new_name);
            target.set_place(Some(self.arc()?), name);
            return Ok(());
        }
        self.make_way(&to, new_name, is_directory)?;
        from.rename(name, &to, new_name, RenameFlags::empty())?;
        if covers_old {
            make_whiteout(&from, name)?;
        }
        if let Some(target) = target {
            let links =
                target.parts.read().upper.as_ref().and_then(|upper| upper.metadata().ok()).map_or(0, |metadata| metadata.links);
            if links == 0 || target.kind() == FileType::Directory {
                target.unlinked.store(true, Ordering::Release);
            }
        }
        source.set_place(Some(new_parent.arc()?), new_name);
        Ok(())
    }

    /// A directory is not renamed over a whiteout, nor over a directory with whiteouts in it: they go first.
    fn make_way(&self, directory: &Arc<dyn Inode>, name: &[u8], is_directory: bool) -> Result<()> {
        let Some(there) = found(directory.lookup(name))? else { return Ok(()) };
        if !is_directory {
            return Ok(());
        }
        if is_whiteout(&there)? {
            return directory.unlink(name);
        }
        if there.kind() == FileType::Directory {
            Self::clear_whiteouts(&there)?;
        }
        Ok(())
    }
}

/// Before a directory moves to a name in another: says in the upper tree where its lower part is, or that it has none.
fn settle_directory(inode: &Arc<OverlayInode>, (new_parent, new_name): (&OverlayInode, &[u8])) -> Result<()> {
    if inode.kind() != FileType::Directory {
        return Ok(());
    }
    let Parts { upper, lower, lower_path } = inode.parts();
    let upper = upper.ok_or(Errno::ESTALE)?;
    if lower.is_some() {
        return match upper.set_xattr(REDIRECT, &lower_path, 0) {
            Err(Errno::EOPNOTSUPP) => Err(Errno::EXDEV),
            result => result,
        };
    }
    let parent = new_parent.parts();
    let Some(lower) = new_parent.lower_child(&parent, new_name)? else { return Ok(()) };
    if hide_lower(&upper, Some(&lower))? == Hidden::ByWhiteouts {
        let lower_path = [&parent.lower_path[..], b"/", new_name].concat();
        *inode.parts.write() = Parts { upper: Some(upper), lower: Some(lower), lower_path };
    }
    Ok(())
}
