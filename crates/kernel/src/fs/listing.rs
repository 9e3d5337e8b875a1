//! An open directory whose names are known when it is opened or read: for /proc, overlays and the like.

use crate::fs::file::{FileOperations, OpenFile};
use crate::fs::inode::{DirectoryEntry, FileType, Inode, Metadata};
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::Arc;

/// A name, its inode number and its type.
pub type Name = (Vec<u8>, u64, FileType);

/// Gives the names, "." and ".." not among them, when the directory is read from its start.
pub type ListNames = Box<dyn Fn() -> Result<Vec<Name>> + Send + Sync>;

/// An open directory. The names are taken at each start (rewinddir(3)); cursors count them, so that a listing is stable
/// whatever happens meanwhile.
pub struct ListedDirectory {
    inode: Arc<dyn Inode>,
    parent_number: u64,
    list: ListNames,
    names: Mutex<Option<Arc<Vec<Name>>>>,
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
            let (name, inode) =
                if cursor == 0 { (&b"."[..], self.inode.metadata()?.inode) } else { (&b".."[..], self.parent_number) };
            cursor += 1;
            if !emit(&DirectoryEntry { name: name.to_vec(), inode, kind: FileType::Directory, next_cursor: cursor }) {
                return Ok(());
            }
        }
        let start = usize::try_from(cursor - 2).unwrap_or(usize::MAX);
        for (name, inode, kind) in names.iter().skip(start) {
            cursor += 1;
            if !emit(&DirectoryEntry { name: name.clone(), inode: *inode, kind: *kind, next_cursor: cursor }) {
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
