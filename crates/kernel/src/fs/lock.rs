//! Locks on files: record locks of processes and open files (fcntl(2)), and flock(2).
//!
//! [`LockTable`] holds all of a sandbox's, by inode. Who waits sleeps on the file's queue; a process that would wait for
//! itself, through others, gets EDEADLK. Lock order: `LockTable`'s own lock is innermost but for wait queues.

use crate::fs::file::{LastClose, OpenFile};
use crate::fs::inode::Inode;
use crate::fs::path::inode_key;
use crate::sync::WaitQueue;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// Locks that one file may have, so that a guest cannot fill the sentry's memory (ENOLCK).
const LOCKS_MAX: usize = 8192;

/// Who holds a lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    Process(i32),
    /// An open file description, by its address.
    OpenFile(usize),
}

impl Owner {
    pub fn open_file(file: &Arc<OpenFile>) -> Owner {
        Owner::OpenFile(Arc::as_ptr(file) as usize)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Shared,
    Exclusive,
}

/// A locked range: `start..=end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub start: u64,
    pub end: u64,
    pub mode: Mode,
    pub owner: Owner,
}

impl Record {
    fn conflicts_with(&self, other: &Record) -> bool {
        self.owner != other.owner
            && self.start <= other.end
            && other.start <= self.end
            && (self.mode == Mode::Exclusive || other.mode == Mode::Exclusive)
    }
}

struct FileLocks {
    /// Keeps the inode, and so its key, alive.
    _inode: Arc<dyn Inode>,
    records: Vec<Record>,
    whole: Vec<(usize, Mode)>,
    queue: Arc<WaitQueue>,
}

impl FileLocks {
    fn is_unused(&self) -> bool {
        // Who waits, or is about to, holds the queue.
        self.records.is_empty() && self.whole.is_empty() && Arc::strong_count(&self.queue) == 1
    }

    /// Takes `range` of `owner` out, and puts `mode` there where given; neighbours of one mode are joined.
    fn set(&mut self, start: u64, end: u64, owner: Owner, mode: Option<Mode>) -> Result<()> {
        let mut kept = Vec::with_capacity(self.records.len() + 2);
        let (mut new_start, mut new_end) = (start, end);
        for record in &self.records {
            if record.owner != owner {
                kept.push(*record);
                continue;
            }
            let overlaps = record.start <= end && start <= record.end;
            let touches = record.start <= end.saturating_add(1) && start <= record.end.saturating_add(1);
            if mode == Some(record.mode) && touches {
                new_start = new_start.min(record.start);
                new_end = new_end.max(record.end);
                continue;
            }
            if !overlaps {
                kept.push(*record);
                continue;
            }
            if record.start < start {
                kept.push(Record { end: start - 1, ..*record });
            }
            if record.end > end {
                kept.push(Record { start: end + 1, ..*record });
            }
        }
        if let Some(mode) = mode {
            kept.push(Record { start: new_start, end: new_end, mode, owner });
        }
        if kept.len() > LOCKS_MAX && kept.len() > self.records.len() {
            return Err(Errno::ENOLCK);
        }
        kept.sort_by_key(|record| record.start);
        self.records = kept;
        Ok(())
    }
}

#[derive(Default)]
struct Inner {
    files: HashMap<usize, FileLocks>,
    /// Processes that wait for a record lock, and for whom.
    waits: HashMap<i32, i32>,
}

impl Inner {
    fn file(&mut self, inode: &Arc<dyn Inode>) -> &mut FileLocks {
        self.files.entry(inode_key(inode)).or_insert_with(|| FileLocks {
            _inode: inode.clone(),
            records: Vec::new(),
            whole: Vec::new(),
            queue: Arc::new(WaitQueue::new()),
        })
    }

    /// Whether `process` would wait for itself if it waited for `other`.
    fn would_deadlock(&self, process: i32, other: i32) -> bool {
        let mut position = other;
        // As deep as Linux looks.
        for _ in 0..10 {
            if position == process {
                return true;
            }
            match self.waits.get(&position) {
                Some(&next) => position = next,
                None => return false,
            }
        }
        false
    }
}

/// All locks of a sandbox.
#[derive(Default, Clone)]
pub struct LockTable {
    inner: Arc<Mutex<Inner>>,
}

impl LockTable {
    /// The queue that is woken when a lock on `inode` goes.
    pub fn queue(&self, inode: &Arc<dyn Inode>) -> Arc<WaitQueue> {
        self.inner.lock().file(inode).queue.clone()
    }

    /// Drops what is kept for `inode` if nothing is locked (after a wait).
    pub fn forget_if_unused(&self, inode: &Arc<dyn Inode>) {
        let key = inode_key(inode);
        let mut inner = self.inner.lock();
        let gone = if inner.files.get(&key).is_some_and(FileLocks::is_unused) { inner.files.remove(&key) } else { None };
        drop(inner);
        drop(gone);
    }

    /// Whether anybody has a lock on `inode`, or waits for one.
    pub fn is_locked(&self, inode: &Arc<dyn Inode>) -> bool {
        self.inner.lock().files.contains_key(&inode_key(inode))
    }

    /// The first lock in the way of `wanted` (F_GETLK).
    pub fn conflict(&self, inode: &Arc<dyn Inode>, wanted: &Record) -> Option<Record> {
        let inner = self.inner.lock();
        inner.files.get(&inode_key(inode))?.records.iter().find(|record| record.conflicts_with(wanted)).copied()
    }

    /// Takes a record lock; EAGAIN where another is in the way. `waits`: the caller will wait for it, which is EDEADLK
    /// where it would wait for itself.
    pub fn lock_record(&self, inode: &Arc<dyn Inode>, wanted: Record, waits: bool) -> Result<()> {
        let mut inner = self.inner.lock();
        let queue = {
            let file = inner.file(inode);
            if let Some(other) = file.records.iter().find(|record| record.conflicts_with(&wanted)).copied() {
                if let (true, Owner::Process(process), Owner::Process(holder)) = (waits, wanted.owner, other.owner) {
                    if inner.would_deadlock(process, holder) {
                        inner.waits.remove(&process);
                        return Err(Errno::EDEADLK);
                    }
                    inner.waits.insert(process, holder);
                }
                return Err(Errno::EAGAIN);
            }
            file.set(wanted.start, wanted.end, wanted.owner, Some(wanted.mode))?;
            file.queue.clone()
        };
        if let Owner::Process(process) = wanted.owner {
            inner.waits.remove(&process);
        }
        drop(inner);
        // A change from exclusive to shared lets others in.
        queue.wake_all();
        Ok(())
    }

    /// The caller has given up waiting.
    pub fn stop_waiting(&self, process: i32) {
        self.inner.lock().waits.remove(&process);
    }

    pub fn unlock_record(&self, inode: &Arc<dyn Inode>, start: u64, end: u64, owner: Owner) -> Result<()> {
        self.change(inode_key(inode), |file| file.set(start, end, owner, None)).unwrap_or(Ok(()))
    }

    /// A process has closed a descriptor of the file: all of its record locks on it go (fcntl(2)).
    pub fn process_closed(&self, inode: &Arc<dyn Inode>, process: i32) {
        let key = inode_key(inode);
        let holds = self
            .inner
            .lock()
            .files
            .get(&key)
            .is_some_and(|file| file.records.iter().any(|record| record.owner == Owner::Process(process)));
        if holds {
            let _ = self.change(key, |file| file.set(0, u64::MAX, Owner::Process(process), None));
        }
    }

    /// flock(2): EAGAIN where another open file's lock is in the way.
    pub fn lock_whole(&self, file: &Arc<OpenFile>, inode: &Arc<dyn Inode>, mode: Mode) -> Result<()> {
        let owner = Arc::as_ptr(file) as usize;
        let mut inner = self.inner.lock();
        let locks = inner.file(inode);
        let held = locks.whole.iter().find(|(holder, _)| *holder == owner).map(|(_, mode)| *mode);
        if held == Some(mode) {
            return Ok(());
        }
        // A conversion is not atomic: the old lock goes first (flock(2)).
        locks.whole.retain(|(holder, _)| *holder != owner);
        let conflict = locks.whole.iter().any(|(_, other)| mode == Mode::Exclusive || *other == Mode::Exclusive);
        let queue = locks.queue.clone();
        if !conflict {
            if locks.whole.len() >= LOCKS_MAX {
                return Err(Errno::ENOLCK);
            }
            locks.whole.push((owner, mode));
        }
        drop(inner);
        if held.is_some() {
            queue.wake_all();
        }
        if conflict {
            Err(Errno::EAGAIN)
        } else {
            Ok(())
        }
    }

    pub fn unlock_whole(&self, file: &OpenFile, inode: &Arc<dyn Inode>) {
        self.open_file_unlocks(std::ptr::from_ref(file) as usize, inode_key(inode), false);
    }

    /// Makes the last close of `file` give back its flock(2) and open file locks.
    pub fn release_at_last_close(&self, file: &Arc<OpenFile>, inode: &Arc<dyn Inode>) {
        let (table, owner, key) = (self.clone(), Arc::as_ptr(file) as usize, inode_key(inode));
        file.at_last_close(LastClose::Locks, Box::new(move || table.open_file_unlocks(owner, key, true)));
    }

    fn open_file_unlocks(&self, owner: usize, key: usize, records_too: bool) {
        let _ = self.change(key, |file| {
            file.whole.retain(|(holder, _)| *holder != owner);
            if records_too {
                file.set(0, u64::MAX, Owner::OpenFile(owner), None)?;
            }
            Ok(())
        });
    }

    /// A process has ended: all of its record locks go.
    pub fn process_gone(&self, process: i32) {
        let holds = |file: &FileLocks| file.records.iter().any(|record| record.owner == Owner::Process(process));
        let keys: Vec<usize> = self.inner.lock().files.iter().filter(|(_, file)| holds(file)).map(|(key, _)| *key).collect();
        for key in keys {
            let _ = self.change(key, |file| file.set(0, u64::MAX, Owner::Process(process), None));
        }
    }

    /// Runs `change` on a file's locks where it has any, then wakes who waits.
    fn change(&self, key: usize, change: impl FnOnce(&mut FileLocks) -> Result<()>) -> Option<Result<()>> {
        let mut inner = self.inner.lock();
        let file = inner.files.get_mut(&key)?;
        let result = change(file);
        if file.is_unused() {
            let gone = inner.files.remove(&key);
            drop(inner);
            drop(gone);
        } else {
            let queue = file.queue.clone();
            drop(inner);
            queue.wake_all();
        }
        Some(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file_locks() -> FileLocks {
        let quota = Arc::new(crate::fs::tmpfs::Quota::default());
        let services = crate::fs::Services::new(quota).unwrap();
        let inode = services.tmpfs(0, 0o755, "tmpfs").anonymous_file(0o600, 0, 0).unwrap();
        FileLocks { _inode: inode, records: Vec::new(), whole: Vec::new(), queue: Arc::new(WaitQueue::new()) }
    }

    #[test]
    fn ranges_are_split_and_joined() {
        let mut locks = file_locks();
        let owner = Owner::Process(1);
        locks.set(0, 99, owner, Some(Mode::Exclusive)).unwrap();
        locks.set(40, 59, owner, None).unwrap();
        assert_eq!(locks.records.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), [(0, 39), (60, 99)]);
        locks.set(40, 59, owner, Some(Mode::Exclusive)).unwrap();
        assert_eq!(locks.records.iter().map(|r| (r.start, r.end)).collect::<Vec<_>>(), [(0, 99)]);
        locks.set(10, 19, owner, Some(Mode::Shared)).unwrap();
        assert_eq!(locks.records.len(), 3);
        locks.set(0, u64::MAX, owner, None).unwrap();
        assert!(locks.records.is_empty());
    }
}
