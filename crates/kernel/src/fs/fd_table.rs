//! A process's descriptors (fork(2), close(2), fcntl(2) F_DUPFD).

use crate::fs::direct::DirectTable;
use crate::fs::file::OpenFile;
use crate::{Errno, Result};
use parking_lot::RwLock;
use skerry_platform::direct::Rights;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Descriptor to open file, with the close-on-exec flag. Shared by threads (CLONE_FILES), copied by fork.
#[derive(Default)]
pub struct FdTable {
    entries: RwLock<Vec<Option<Entry>>>,
    direct: RwLock<Direct>,
    /// Moved on with each change of an entry, with their lock held.
    changes: AtomicU64,
}

#[derive(Clone)]
struct Entry {
    file: Arc<OpenFile>,
    close_on_exec: bool,
}

/// Whether a process may use some of the files by itself ([`crate::fs::direct`]).
#[derive(Default, Clone)]
enum Direct {
    #[default]
    NotYet,
    Table(Arc<DirectTable>),
    /// Not this table's: it is not the descriptor table of exactly one process.
    Never,
}

impl FdTable {
    /// A copy for fork(2).
    pub fn fork(&self) -> FdTable {
        let entries = self.entries.read().clone();
        entries.iter().flatten().for_each(|entry| entry.file.operations.passed_on());
        FdTable { entries: RwLock::new(entries), ..FdTable::default() }
    }

    /// Another number than before, if any descriptor has become another one meanwhile.
    pub fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }

    /// EBADF where `fd` is not open.
    pub fn get(&self, fd: i32) -> Result<Arc<OpenFile>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.entries.read().get(index).and_then(Option::as_ref).map(|entry| entry.file.clone()).ok_or(Errno::EBADF)
    }

    /// Puts `file` at the lowest free descriptor not below `minimum`; EMFILE at `limit` (RLIMIT_NOFILE).
    pub fn install(&self, file: Arc<OpenFile>, minimum: i32, close_on_exec: bool, limit: u64) -> Result<i32> {
        let limit = limit.min(1 << 20) as usize;
        let minimum = usize::try_from(minimum).map_err(|_| Errno::EINVAL)?;
        let mut entries = self.entries.write();
        let index = (minimum..entries.len()).find(|&index| entries[index].is_none()).unwrap_or(entries.len().max(minimum));
        if index >= limit {
            return Err(Errno::EMFILE);
        }
        if index >= entries.len() {
            entries.resize(index + 1, None);
        }
        entries[index] = Some(Entry { file, close_on_exec });
        self.changed();
        Ok(index as i32)
    }

    /// Puts `file` at exactly `fd` and returns what was there (dup2(2)). EBADF at `limit`.
    pub fn install_at(&self, file: Arc<OpenFile>, fd: i32, close_on_exec: bool, limit: u64) -> Result<Option<Arc<OpenFile>>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(1 << 20) {
            return Err(Errno::EBADF);
        }
        let mut entries = self.entries.write();
        if index >= entries.len() {
            entries.resize(index + 1, None);
        }
        let replaced = entries[index].replace(Entry { file, close_on_exec }).map(|entry| entry.file);
        self.gone(index, replaced.as_deref());
        Ok(replaced)
    }

    /// The descriptor that the next file gets, with room for it; `None` at `limit` (RLIMIT_NOFILE).
    pub fn lowest_free(&self, limit: u64) -> Option<i32> {
        let mut entries = self.entries.write();
        let index = entries.iter().position(Option::is_none).unwrap_or(entries.len());
        if index as u64 >= limit.min(1 << 20) {
            return None;
        }
        if index == entries.len() {
            entries.push(None);
        }
        Some(index as i32)
    }

    /// Puts `file` at `fd`, if nothing is there.
    pub fn install_where_free(&self, file: Arc<OpenFile>, fd: i32, close_on_exec: bool) -> bool {
        let Ok(index) = usize::try_from(fd) else { return false };
        let mut entries = self.entries.write();
        let Some(entry) = entries.get_mut(index).filter(|entry| entry.is_none()) else { return false };
        *entry = Some(Entry { file, close_on_exec });
        self.changed();
        true
    }

    /// Takes `fd` out; the caller flushes it.
    pub fn remove(&self, fd: i32) -> Result<Arc<OpenFile>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut entries = self.entries.write();
        let entry = entries.get_mut(index).and_then(Option::take).ok_or(Errno::EBADF)?;
        self.gone(index, Some(&entry.file));
        Ok(entry.file)
    }

    /// Puts `new` in the place of `old`, if that is what `fd` is: as if this had been closed, and the other one opened the same way.
    pub fn replace(&self, fd: i32, old: &Arc<OpenFile>, new: Arc<OpenFile>) -> Option<Arc<OpenFile>> {
        let index = usize::try_from(fd).ok()?;
        let mut entries = self.entries.write();
        let entry = entries.get_mut(index)?.as_mut().filter(|entry| Arc::ptr_eq(&entry.file, old))?;
        let gone = std::mem::replace(&mut entry.file, new);
        self.gone(index, Some(&gone));
        Some(gone)
    }

    /// How many descriptors stand for `file`.
    pub fn count_of(&self, file: &Arc<OpenFile>) -> usize {
        self.entries.read().iter().flatten().filter(|entry| Arc::ptr_eq(&entry.file, file)).count()
    }

    pub fn close_on_exec(&self, fd: i32) -> Result<bool> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.entries.read().get(index).and_then(Option::as_ref).map(|entry| entry.close_on_exec).ok_or(Errno::EBADF)
    }

    pub fn set_close_on_exec(&self, fd: i32, close_on_exec: bool) -> Result<()> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut entries = self.entries.write();
        entries.get_mut(index).and_then(Option::as_mut).ok_or(Errno::EBADF)?.close_on_exec = close_on_exec;
        self.changed();
        Ok(())
    }

    /// Takes out and returns all that exec(2) closes.
    pub fn take_close_on_exec(&self) -> Vec<Arc<OpenFile>> {
        let mut taken = Vec::new();
        for (index, slot) in self.entries.write().iter_mut().enumerate() {
            if let Some(entry) = slot.take_if(|entry| entry.close_on_exec) {
                self.gone(index, Some(&entry.file));
                taken.push(entry.file);
            }
        }
        taken
    }

    /// Takes out and returns all (exit).
    pub fn take_all(&self) -> Vec<Arc<OpenFile>> {
        self.never_direct();
        let entries = {
            let mut entries = self.entries.write();
            self.changed();
            std::mem::take(&mut *entries)
        };
        let files: Vec<_> = entries.into_iter().flatten().map(|entry| entry.file).collect();
        files.iter().for_each(|file| file.operations.end_loan());
        files
    }

    /// A descriptor, of `file`, is about to be another one or none. With the entries' lock held, so that no process uses what
    /// it was.
    fn gone(&self, index: usize, file: Option<&OpenFile>) {
        self.changed();
        if let Some(file) = file {
            file.operations.end_loan();
            // A list that has this descriptor may be changed by nobody who does not know.
            file.epoll_items.end_loans();
        }
        if let Direct::Table(table) = &*self.direct.read() {
            table.clear(index as i32);
        }
    }

    /// The table of direct descriptors of the host process `pid`; made by `make` where there can be one and is none.
    pub fn direct_table(&self, pid: i32, make: impl FnOnce() -> Option<Arc<DirectTable>>) -> Option<Arc<DirectTable>> {
        match &*self.direct.read() {
            Direct::Table(table) => return (table.pid == pid).then(|| table.clone()),
            Direct::Never => return None,
            Direct::NotYet => {}
        }
        let mut direct = self.direct.write();
        if let Direct::NotYet = *direct {
            *direct = Direct::Table(make()?);
        }
        match &*direct {
            Direct::Table(table) => (table.pid == pid).then(|| table.clone()),
            _ => None,
        }
    }

    /// The same, if there is one.
    pub fn present_direct_table(&self, pid: i32) -> Option<Arc<DirectTable>> {
        match &*self.direct.read() {
            Direct::Table(table) if table.pid == pid => Some(table.clone()),
            _ => None,
        }
    }

    /// `fd` is direct from now on, if it is still `file`: the process's `own` descriptor with these rights, or null(4).
    pub fn set_direct(&self, table: &DirectTable, fd: i32, file: &Arc<OpenFile>, own: Option<(i32, Rights)>) -> bool {
        let entries = self.entries.read();
        let same = usize::try_from(fd)
            .ok()
            .and_then(|index| entries.get(index)?.as_ref())
            .is_some_and(|entry| Arc::ptr_eq(&entry.file, file));
        same && matches!(&*self.direct.read(), Direct::Table(present) if std::ptr::eq(&**present, table))
            && match own {
                Some((descriptor, rights)) => table.set(fd, file, descriptor, rights),
                None => table.set_null(fd, file),
            }
    }

    /// Several processes share this table, or one has several: nothing is direct any more.
    pub fn never_direct(&self) {
        self.entries.read().iter().flatten().for_each(|entry| entry.file.operations.end_loan());
        if let Direct::Table(table) = std::mem::replace(&mut *self.direct.write(), Direct::Never) {
            table.clear_all();
        }
    }

    /// It is the table of exactly one process, as far as is known.
    pub fn may_be_direct(&self) -> bool {
        !matches!(&*self.direct.read(), Direct::Never)
    }

    /// All goes through the sentry until it is made direct again.
    pub fn clear_direct(&self) {
        if let Direct::Table(table) = &*self.direct.read() {
            table.clear_all();
        }
    }

    /// Its process goes on as another host process (exec).
    pub fn leave_direct(&self) {
        let mut direct = self.direct.write();
        if let Direct::Table(table) = std::mem::take(&mut *direct) {
            table.clear_all();
        }
    }

    /// Open descriptors in order.
    pub fn descriptors(&self) -> Vec<i32> {
        self.entries.read().iter().enumerate().filter(|(_, slot)| slot.is_some()).map(|(index, _)| index as i32).collect()
    }
}
