//! Who writes a file and who runs it: not both at once (ETXTBSY, open(2) and execve(2)).
//!
//! An inode that holds data has [`OpenCounts`], as Linux keeps in `i_writecount` and `i_readcount`. Files that are opened from
//! outside, and memory files, are not counted.

use crate::fs::inode::Inode;
use crate::fs::path::Path;
use crate::{Errno, Result};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;

/// How a regular file is open.
#[derive(Default)]
pub struct OpenCounts {
    /// Above zero: writers. Below: programs that run.
    writers: AtomicI32,
    /// Open files that can only read.
    readers: AtomicI32,
}

impl OpenCounts {
    /// One more of the kind that `step` stands for; ETXTBSY where there are some of the other.
    fn add(&self, step: i32) -> Result<()> {
        let change = |count: i32| (count.signum() != -step).then_some(count + step);
        self.writers.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    fn remove(&self, step: i32) {
        self.writers.fetch_sub(step, Ordering::AcqRel);
    }
}

const WRITER: i32 = 1;
const PROGRAM: i32 = -1;

fn add(inode: &dyn Inode, step: i32) -> Result<()> {
    inode.open_counts().map_or(Ok(()), |counts| counts.add(step))
}

fn remove(inode: &dyn Inode, step: i32) {
    if let Some(counts) = inode.open_counts() {
        counts.remove(step);
    }
}

/// Open files of the inode that can write (below zero: programs that run it), and that can only read.
pub fn counts_of(inode: &dyn Inode) -> (i32, i32) {
    let load = |count: &AtomicI32| count.load(Ordering::Acquire);
    inode.open_counts().map_or((0, 0), |counts| (load(&counts.writers), load(&counts.readers)))
}

/// The right to write to a file: nobody begins to run it meanwhile.
pub struct WriteAccess(Arc<dyn Inode>);

impl WriteAccess {
    /// ETXTBSY where a process runs it.
    pub fn of(inode: &Arc<dyn Inode>) -> Result<WriteAccess> {
        add(&**inode, WRITER)?;
        Ok(WriteAccess(inode.clone()))
    }
}

impl Drop for WriteAccess {
    fn drop(&mut self) {
        remove(&*self.0, WRITER);
    }
}

/// An open file that can only read; leases ask for it.
pub struct ReadAccess(Arc<dyn Inode>);

impl ReadAccess {
    pub fn of(inode: &Arc<dyn Inode>) -> ReadAccess {
        if let Some(counts) = inode.open_counts() {
            counts.readers.fetch_add(1, Ordering::AcqRel);
        }
        ReadAccess(inode.clone())
    }
}

impl Drop for ReadAccess {
    fn drop(&mut self) {
        if let Some(counts) = self.0.open_counts() {
            counts.readers.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What an open regular file is counted as.
pub(crate) enum Counted {
    Writer(#[expect(dead_code, reason = "held for its end")] WriteAccess),
    Reader(#[expect(dead_code, reason = "held for its end")] ReadAccess),
}

/// The file of a program that runs: nobody opens it for writing meanwhile.
pub struct Text(Path);

impl Text {
    /// ETXTBSY where somebody has it open for writing.
    pub fn of(path: &Path) -> Result<Text> {
        add(&**path.inode(), PROGRAM)?;
        Ok(Text(path.clone()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Clone for Text {
    fn clone(&self) -> Text {
        // There is a program, so there are no writers.
        let _ = add(&**self.0.inode(), PROGRAM);
        Text(self.0.clone())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        remove(&**self.0.inode(), PROGRAM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_and_programs_exclude_each_other() {
        let count = OpenCounts::default();
        assert_eq!(count.add(WRITER), Ok(()));
        assert_eq!(count.add(WRITER), Ok(()));
        assert_eq!(count.add(PROGRAM), Err(Errno::ETXTBSY));
        count.remove(WRITER);
        count.remove(WRITER);
        assert_eq!(count.add(PROGRAM), Ok(()));
        assert_eq!(count.add(PROGRAM), Ok(()));
        assert_eq!(count.add(WRITER), Err(Errno::ETXTBSY));
        count.remove(PROGRAM);
        count.remove(PROGRAM);
        assert_eq!(count.add(WRITER), Ok(()));
    }
}
