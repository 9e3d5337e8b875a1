//! A directory's names, and an open directory.

use super::TmpfsInode;
use crate::fs::file::{FileOperations, OpenFile};
use crate::fs::inode::{DirectoryEntry, FileType, Inode, Metadata};
use crate::{Errno, Result};
use std::any::Any;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};

/// Cursors below this stand for "." and "..".
const FIRST_CURSOR: u64 = 2;

/// Names in the order in which they were made; each keeps its cursor, so that a listing survives changes meanwhile.
pub struct Directory {
    by_name: HashMap<Arc<[u8]>, u64>,
    by_cursor: BTreeMap<u64, (Arc<[u8]>, Arc<TmpfsInode>)>,
    next_cursor: u64,
    /// How many of them are directories.
    directories: u64,
    pub parent: Weak<TmpfsInode>,
    /// It was removed: nothing can be made in it any more.
    pub removed: bool,
}

impl Directory {
    pub fn new() -> Directory {
        Directory {
            by_name: HashMap::new(),
            by_cursor: BTreeMap::new(),
            next_cursor: FIRST_CURSOR + 1,
            directories: 0,
            parent: Weak::new(),
            removed: false,
        }
    }

    pub fn get(&self, name: &[u8]) -> Option<&Arc<TmpfsInode>> {
        self.by_name.get(name).and_then(|cursor| self.by_cursor.get(cursor)).map(|(_, inode)| inode)
    }

    pub fn insert(&mut self, name: &[u8], inode: Arc<TmpfsInode>) {
        let name: Arc<[u8]> = name.into();
        let cursor = self.next_cursor;
        self.next_cursor += 1;
        self.directories += is_directory(&inode);
        self.by_name.insert(name.clone(), cursor);
        self.by_cursor.insert(cursor, (name, inode));
    }

    pub fn remove(&mut self, name: &[u8]) -> Option<Arc<TmpfsInode>> {
        let cursor = self.by_name.remove(name)?;
        let (_, inode) = self.by_cursor.remove(&cursor)?;
        self.directories -= is_directory(&inode);
        Some(inode)
    }

    /// Puts another inode under a name that is there, at the same place in the listing.
    pub fn replace(&mut self, name: &[u8], inode: Arc<TmpfsInode>) -> Option<Arc<TmpfsInode>> {
        let cursor = self.by_name.get(name)?;
        let (_, old) = self.by_cursor.get_mut(cursor)?;
        self.directories = self.directories + is_directory(&inode) - is_directory(old);
        Some(std::mem::replace(old, inode))
    }

    /// How many names have been put into it so far.
    pub fn added(&self) -> u64 {
        self.next_cursor
    }

    pub fn is_empty(&self) -> bool {
        self.by_name.is_empty()
    }

    pub fn directories(&self) -> u64 {
        self.directories
    }

    pub fn take_entries(&mut self) -> impl Iterator<Item = Arc<TmpfsInode>> {
        self.by_name.clear();
        self.directories = 0;
        std::mem::take(&mut self.by_cursor).into_values().map(|(_, inode)| inode)
    }

    /// At most `count` entries from `cursor`: name, inode, and the cursor behind.
    fn entries_from(&self, cursor: u64, count: usize) -> Vec<(Arc<[u8]>, u64, FileType, u64)> {
        let entries = self.by_cursor.range(cursor..).take(count);
        entries.map(|(cursor, (name, inode))| (name.clone(), inode.number(), inode.kind(), cursor + 1)).collect()
    }
}

fn is_directory(inode: &TmpfsInode) -> u64 {
    (inode.kind() == FileType::Directory).into()
}

/// An open directory.
pub struct OpenDirectory {
    pub inode: Arc<TmpfsInode>,
}

impl FileOperations for OpenDirectory {
    fn read(&self, _file: &OpenFile, _buffer: &mut [u8], _offset: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn read_directory(&self, cursor: u64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        let directory = self.inode.directory()?;
        let mut cursor = cursor;
        while cursor < FIRST_CURSOR {
            let (name, inode) = if cursor == 0 {
                (&b"."[..], self.inode.number())
            } else {
                (&b".."[..], directory.read().parent.upgrade().map_or(self.inode.number(), |parent| parent.number()))
            };
            let next_cursor = cursor + 1;
            if !emit(&DirectoryEntry { name, inode, kind: FileType::Directory, next_cursor }) {
                return Ok(());
            }
            cursor = next_cursor;
        }
        loop {
            // In pieces, so that `emit` runs without the lock.
            let entries = directory.read().entries_from(cursor, 256);
            if entries.is_empty() {
                return Ok(());
            }
            for (name, inode, kind, next_cursor) in entries {
                if !emit(&DirectoryEntry { name: &name, inode, kind, next_cursor }) {
                    return Ok(());
                }
                cursor = next_cursor;
            }
        }
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
