//! Copying a file to the upper tree before it changes.

use super::OverlayInode;
use super::ORIGIN;
use crate::fs::file::{FileOperations, OpenFile, StatusFlags};
use crate::fs::inode::{FileType, Inode, Metadata, NewNode, NewNodeKind, SetAttributes};
use crate::{Errno, Result};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Bytes that are copied at once.
const STEP: usize = 128 * 1024;

/// What is copied: open, where it has to be read and can be.
struct Lower {
    inode: Arc<dyn Inode>,
    open: Option<Arc<dyn FileOperations>>,
}

impl OverlayInode {
    /// The upper part, made where there is none.
    pub(super) fn ensure_upper(&self) -> Result<Arc<dyn Inode>> {
        if let Some(upper) = &self.parts.read().upper {
            return Ok(upper.clone());
        }
        let _change = self.overlay.change_lock.lock();
        self.ensure_upper_locked()
    }

    /// As [`OverlayInode::ensure_upper`], with the change lock held.
    pub(super) fn ensure_upper_locked(&self) -> Result<Arc<dyn Inode>> {
        self.ensure_upper_sized(None)
    }

    /// As [`OverlayInode::ensure_upper_locked`]; a file that is to have `size` is not copied beyond that.
    pub(super) fn ensure_upper_sized(&self, size: Option<u64>) -> Result<Arc<dyn Inode>> {
        if let Some(upper) = &self.parts.read().upper {
            return Ok(upper.clone());
        }
        if self.unlinked.load(Ordering::Acquire) {
            return self.copy_up(None, size);
        }
        // The directories above, from the first that has an upper part; without recursion.
        let mut chain = vec![self.arc()?];
        let mut directory = loop {
            let parent = chain[chain.len() - 1].place.read().parent.clone().ok_or(Errno::ESTALE)?;
            let upper = parent.parts.read().upper.clone();
            if let Some(upper) = upper {
                break upper;
            }
            if parent.unlinked.load(Ordering::Acquire) {
                return Err(Errno::ENOENT);
            }
            chain.push(parent);
        };
        while let Some(inode) = chain.pop() {
            let name = inode.place.read().name.clone();
            let size = if chain.is_empty() { size } else { None };
            directory = inode.copy_up(Some((&directory, &name)), size)?;
        }
        Ok(directory)
    }

    /// Makes the upper part at a place, or without a name.
    fn copy_up(&self, place: Option<(&Arc<dyn Inode>, &[u8])>, size: Option<u64>) -> Result<Arc<dyn Inode>> {
        let lower = self.parts.read().lower.clone().ok_or(Errno::ESTALE)?;
        // What is open tells what it is, and has it read.
        let is_read = lower.kind() == FileType::Regular && size != Some(0);
        let open = if is_read { lower.clone().open_data(StatusFlags::empty()).ok() } else { None };
        let metadata = open.as_ref().map_or_else(|| lower.metadata(), |open| open.metadata())?;
        let lower = &Lower { inode: lower, open };
        let kind = match metadata.kind {
            FileType::Regular => NewNodeKind::Regular,
            FileType::Directory => NewNodeKind::Directory,
            FileType::Symlink => NewNodeKind::Symlink(lower.inode.read_link()?),
            FileType::Fifo => NewNodeKind::Fifo,
            FileType::Socket => NewNodeKind::Socket,
            FileType::CharacterDevice => NewNodeKind::CharacterDevice(metadata.represents),
            FileType::BlockDevice => NewNodeKind::BlockDevice(metadata.represents),
        };
        let node = NewNode { kind, permissions: metadata.permissions, uid: metadata.uid, gid: metadata.gid };
        let upper = match place {
            None if metadata.kind != FileType::Regular => return Err(Errno::ENOENT),
            None => {
                let upper = self.overlay.upper_root.create_unnamed(node)?;
                self.fill(lower, &upper, &metadata, size)?;
                upper
            }
            Some((directory, name)) if metadata.kind == FileType::Regular => {
                // Whole before it has its name, where the upper tree can do that.
                match directory.create_unnamed(node.clone()) {
                    Ok(upper) => {
                        self.fill(lower, &upper, &metadata, size)?;
                        directory.link(name, &upper)?;
                        upper
                    }
                    Err(Errno::EOPNOTSUPP) => self.create_and_fill(lower, directory, name, node, &metadata, size)?,
                    Err(errno) => return Err(errno),
                }
            }
            Some((directory, name)) => self.create_and_fill(lower, directory, name, node, &metadata, size)?,
        };
        let me = self.arc()?;
        self.overlay.remember_upper(&upper, &me);
        let mut parts = self.parts.write();
        parts.upper = Some(upper.clone());
        if metadata.kind != FileType::Directory {
            let lower = parts.lower.take();
            drop(parts);
            drop(lower);
        } else {
            drop(parts);
        }
        if let Some(direct) = self.overlay.direct.get() {
            let me: Arc<dyn Inode> = me;
            direct.clear_inode(&me);
        }
        Ok(upper)
    }

    fn create_and_fill(
        &self,
        lower: &Lower,
        directory: &Arc<dyn Inode>,
        name: &[u8],
        node: NewNode,
        metadata: &Metadata,
        size: Option<u64>,
    ) -> Result<Arc<dyn Inode>> {
        let upper = match directory.create(name, node.clone()) {
            // An upper tree on the host that may not give files away: they become the caller's.
            Err(Errno::EPERM) => directory.create(name, NewNode { uid: 0, gid: 0, ..node })?,
            other => other?,
        };
        if let Err(errno) = self.fill(lower, &upper, metadata, size) {
            let _ =
                if metadata.kind == FileType::Directory { directory.remove_directory(name) } else { directory.unlink(name) };
            return Err(errno);
        }
        Ok(upper)
    }

    /// Content, attributes, times.
    fn fill(&self, lower: &Lower, upper: &Arc<dyn Inode>, metadata: &Metadata, size: Option<u64>) -> Result<()> {
        let length = size.map_or(metadata.size, |size| size.min(metadata.size));
        let mut names = None;
        if metadata.kind == FileType::Regular && length > 0 {
            let open = lower.open.clone().map_or_else(|| lower.inode.clone().open_data(StatusFlags::empty()), Ok)?;
            let from = OpenFile::new(open, StatusFlags::NOATIME, None);
            copy_data(&from, upper, length, metadata.blocks.saturating_mul(512) < metadata.size)?;
            names = from.operations.list_xattr();
        }
        for name in names.unwrap_or_else(|| lower.inode.list_xattr())? {
            if let Ok(value) = lower.inode.get_xattr(&name) {
                match upper.set_xattr(&name, &value, 0) {
                    Ok(()) | Err(Errno::EOPNOTSUPP | Errno::EPERM) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        if metadata.kind != FileType::Symlink {
            // A host upper that keeps no attributes loses the number, nothing else.
            let _ = upper.set_xattr(ORIGIN, &self.number.to_le_bytes(), 0);
        }
        let times =
            SetAttributes { accessed: Some(metadata.accessed), modified: Some(metadata.modified), ..SetAttributes::default() };
        upper.set_attributes(&times)
    }
}

fn copy_data(from: &OpenFile, upper: &Arc<dyn Inode>, length: u64, has_holes: bool) -> Result<()> {
    let to = OpenFile::new(upper.clone().open_data(StatusFlags::WRONLY)?, StatusFlags::WRONLY, None);
    let mut buffer = vec![0; STEP.min(length as usize)];
    let mut offset = 0;
    while offset < length {
        if has_holes {
            offset = match from.operations.seek_data_or_hole(offset, false) {
                Ok(data) => data,
                Err(Errno::ENXIO) => break,
                Err(errno) => return Err(errno),
            };
            if offset >= length {
                break;
            }
        }
        let wanted = buffer.len().min((length - offset) as usize);
        let count = from.operations.read(from, &mut buffer[..wanted], offset)?;
        if count == 0 {
            break;
        }
        let mut written = 0;
        while written < count {
            let done = to.operations.write(&to, &buffer[written..count], offset + written as u64)?;
            if done == 0 {
                return Err(Errno::EIO);
            }
            written += done;
        }
        offset += count as u64;
    }
    if to.operations.size()? < length {
        to.operations.truncate(length)?;
    }
    Ok(())
}
