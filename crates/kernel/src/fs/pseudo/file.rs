//! Open files of pseudo file systems.

use super::{Entry, PseudoInode};
use crate::fs::file::{FileOperations, OpenFile};
use crate::fs::inode::{DirectoryEntry, Inode, Metadata};
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::Arc;

/// The most that one write(2) may set (Linux: one page).
const WRITE_MAX: usize = 4096;

/// What one opening of a file reads and writes.
#[allow(unused_variables)]
pub trait Content: Send + Sync {
    /// The whole text, as it is now.
    fn generate(&self) -> Result<Vec<u8>>;
    /// Takes what was written; `text` is at most a page.
    fn store(&self, text: &[u8]) -> Result<()> {
        Err(Errno::EINVAL)
    }
}

/// A function that makes a text is content that cannot be written.
impl<Function: Fn() -> Result<Vec<u8>> + Send + Sync> Content for Function {
    fn generate(&self) -> Result<Vec<u8>> {
        self()
    }
}

/// A text file that is open. See the module above.
pub struct GeneratedFile {
    inode: Arc<PseudoInode>,
    content: Box<dyn Content>,
    snapshot: Mutex<Option<Vec<u8>>>,
}

impl GeneratedFile {
    pub fn new(inode: Arc<PseudoInode>, content: Box<dyn Content>) -> GeneratedFile {
        GeneratedFile { inode, content, snapshot: Mutex::new(None) }
    }
}

impl FileOperations for GeneratedFile {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], offset: u64) -> Result<usize> {
        let mut snapshot = self.snapshot.lock();
        if offset == 0 || snapshot.is_none() {
            *snapshot = Some(self.content.generate()?);
        }
        let text = snapshot.as_deref().unwrap_or_default();
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(text.len());
        let rest = &text[start..];
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        if buffer.len() > WRITE_MAX {
            return Err(Errno::EINVAL);
        }
        self.content.store(buffer)?;
        *self.snapshot.lock() = None;
        Ok(buffer.len())
    }

    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.write(file, buffer, 0).map(|count| (count, count as u64))
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn truncate(&self, _size: u64) -> Result<()> {
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A directory that is open. Its list is made when it is read from the start.
pub struct DirectoryFile {
    inode: Arc<PseudoInode>,
    entries: Mutex<Vec<Entry>>,
}

impl DirectoryFile {
    pub fn new(inode: Arc<PseudoInode>) -> DirectoryFile {
        DirectoryFile { inode, entries: Mutex::new(Vec::new()) }
    }
}

impl FileOperations for DirectoryFile {
    fn read(&self, _file: &OpenFile, _buffer: &mut [u8], _offset: u64) -> Result<usize> {
        Err(Errno::EISDIR)
    }

    fn is_seekable(&self) -> bool {
        true
    }

    fn read_directory(&self, cursor: u64, emit: &mut dyn FnMut(&DirectoryEntry) -> bool) -> Result<()> {
        let mut entries = self.entries.lock();
        if cursor == 0 || entries.is_empty() {
            *entries = self.inode.node().list()?;
        }
        let start = usize::try_from(cursor).unwrap_or(usize::MAX).min(entries.len());
        for (index, entry) in entries.iter().enumerate().skip(start) {
            let entry =
                DirectoryEntry { name: &entry.name, inode: entry.inode, kind: entry.kind, next_cursor: index as u64 + 1 };
            if !emit(&entry) {
                break;
            }
        }
        Ok(())
    }

    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }

    fn sync(&self, _data_only: bool) -> Result<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
