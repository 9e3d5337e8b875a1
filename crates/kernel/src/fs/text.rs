//! Who writes a file and who runs it: not both at once (ETXTBSY, open(2) and execve(2)).
//!
//! One count per [`Dentry`], as Linux keeps in `i_writecount`: above zero it counts open files that can write, below it
//! programs that run. Files that are opened from outside, and memory files, are not counted.

use crate::fs::path::{Dentry, Path};
use crate::{Errno, Result};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::Arc;

/// Above zero: writers. Below: programs that run.
#[derive(Default)]
pub(crate) struct WriteCount(AtomicI32);

impl WriteCount {
    /// One more of the kind that `step` stands for; ETXTBSY where there are some of the other.
    fn add(&self, step: i32) -> Result<()> {
        let change = |count: i32| (count.signum() != -step).then_some(count + step);
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, change).map(|_| ()).map_err(|_| Errno::ETXTBSY)
    }

    /// Above zero: writers; below: programs.
    pub fn get(&self) -> i32 {
        self.0.load(Ordering::Acquire)
    }

    fn remove(&self, step: i32) {
        self.0.fetch_sub(step, Ordering::AcqRel);
    }
}

const WRITER: i32 = 1;
const PROGRAM: i32 = -1;

/// The right to write to a file: nobody begins to run it meanwhile.
pub struct WriteAccess(Arc<Dentry>);

impl WriteAccess {
    /// ETXTBSY where a process runs it.
    pub fn of(dentry: &Arc<Dentry>) -> Result<WriteAccess> {
        dentry.write_count.add(WRITER)?;
        Ok(WriteAccess(dentry.clone()))
    }
}

impl Drop for WriteAccess {
    fn drop(&mut self) {
        self.0.write_count.remove(WRITER);
    }
}

/// An open file that can only read; leases ask for it.
pub struct ReadAccess(Arc<Dentry>);

impl ReadAccess {
    pub fn of(dentry: &Arc<Dentry>) -> ReadAccess {
        dentry.read_count.fetch_add(1, Ordering::AcqRel);
        ReadAccess(dentry.clone())
    }
}

impl Drop for ReadAccess {
    fn drop(&mut self) {
        self.0.read_count.fetch_sub(1, Ordering::AcqRel);
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
        path.dentry.write_count.add(PROGRAM)?;
        Ok(Text(path.clone()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Clone for Text {
    fn clone(&self) -> Text {
        // There is a program, so there are no writers.
        let _ = self.0.dentry.write_count.add(PROGRAM);
        Text(self.0.clone())
    }
}

impl Drop for Text {
    fn drop(&mut self) {
        self.0.dentry.write_count.remove(PROGRAM);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writers_and_programs_exclude_each_other() {
        let count = WriteCount::default();
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
