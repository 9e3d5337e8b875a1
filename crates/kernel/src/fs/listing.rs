//! An open directory whose names are known when it is opened or read: for /proc, overlays and the like.

use crate::fs::file::{FileOperations, OpenFile};
use crate::fs::inode::{DirectoryEntry, FileType, Inode, Metadata};
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::Arc;

/// Names, each with its inode number and type.
#[derive(Default)]
pub struct NameList {
    /// All names, one behind the other.
    bytes: Vec<u8>,
    /// Where a name ends, and what it is.
    entries: Vec<(usize, u64, FileType)>,
}

impl NameList {
    pub fn push(&mut self, name: &[u8], number: u64, kind: FileType) {
        self.bytes.extend_from_slice(name);
        self.entries.push((self.bytes.len(), number, kind));
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&[u8], u64, FileType)> {
        self.iter_from(0)
    }

    fn iter_from(&self, index: usize) -> impl Iterator<Item = (&[u8], u64, FileType)> {
        let index = index.min(self.entries.len());
        let mut start = index.checked_sub(1).map_or(0, |before| self.entries[before].0);
        self.entries[index..].iter().map(move |&(end, number, kind)| {
            let name = &self.bytes[start..end];
            start = end;
            (name, number, kind)
        })
    }

    /// Bytes of memory.
    pub fn size(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<(usize, u64, FileType)>()
    }

    pub fn shrink(&mut self) {
        self.bytes.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    /// The names of an open directory, "." and ".." left out.
    pub fn of(open: &dyn FileOperations) -> Result<NameList> {
        let mut names = NameList::default();
        open.read_directory(0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                names.push(entry.name, entry.inode, entry.kind);
            }
            true
        })?;
        Ok(names)
    }
}

/// Gives the names, "." and ".." not among them, when the directory is read from its start.
pub type ListNames = Box<dyn Fn() -> Result<NameList> + Send + Sync>;

/// An open directory. The names are taken at each start (rewinddir(3)); cursors count them, so that a listing is stable
/// whatever happens meanwhile.
pub struct ListedDirectory {
    inode: Arc<dyn Inode>,
    parent_number: u64,
    list: ListNames,
    names: Mutex<Option<Arc<NameList>>>,
}

impl ListedDirectory {
    pub fn new(inode: Arc<dyn Inode>, parent_number: u64, list: ListNames) -> ListedDirectory {
        ListedDirectory { inode, parent_number, list, names: Mutex::new(None) }
    }
}

impl FileOperations for ListedDirectory {
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
        let mut cursor = cursor;
        let known = self.names.lock().clone();
        let names = match known {
            Some(names) if cursor != 0 => names,
            _ => {
                let names = Arc::new((self.list)()?);
                *self.names.lock() = Some(names.clone());
                names
            }
        };
        while cursor < 2 {
            let (name, inode) = match cursor {
                0 => (&b"."[..], self.inode.identity()?.1),
                _ => (&b".."[..], self.parent_number),
            };
            cursor += 1;
            if !emit(&DirectoryEntry { name, inode, kind: FileType::Directory, next_cursor: cursor }) {
                return Ok(());
            }
        }
        let start = usize::try_from(cursor - 2).unwrap_or(usize::MAX);
        for (name, inode, kind) in names.iter_from(start) {
            cursor += 1;
            if !emit(&DirectoryEntry { name, inode, kind, next_cursor: cursor }) {
                return Ok(());
            }
        }
        Ok(())
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
