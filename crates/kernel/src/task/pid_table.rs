//! Guest ids: which task, process, process group or session has which number. Host ids are never shown to a guest.

use super::{Process, ProcessGroup, Session, Task};
use crate::{Errno, Result};
use parking_lot::RwLock;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};

/// Linux's own default limit of ids on 64-bit machines with few CPUs (proc_sys_kernel(5), pid_max).
pub const PID_MAX: i32 = 32768;

/// All ids of the sandbox.
#[derive(Default)]
pub struct PidTable {
    inner: RwLock<Inner>,
}

#[derive(Default)]
struct Inner {
    last: i32,
    tasks: BTreeMap<i32, Arc<Task>>,
    /// Thread groups, until they have been waited for.
    processes: BTreeMap<i32, Arc<Process>>,
    groups: BTreeMap<i32, Weak<ProcessGroup>>,
    sessions: BTreeMap<i32, Weak<Session>>,
    /// Those of threads that may begin without our being asked.
    reserved: BTreeSet<i32>,
}

impl PidTable {
    /// The next free id; EAGAIN where there is none, or `limit` tasks exist already (--pids).
    pub fn allocate(&self, limit: Option<u32>) -> Result<i32> {
        let mut inner = self.inner.write();
        if limit.is_some_and(|limit| inner.tasks.len() + inner.zombies() >= limit as usize) {
            return Err(Errno::EAGAIN);
        }
        inner.next_free().ok_or(Errno::EAGAIN)
    }

    /// So many ids, that nobody else gets before they are released; none where that would bring the tasks near `limit`, fewer
    /// where there are not so many.
    pub fn reserve(&self, count: usize, limit: Option<u32>) -> Vec<i32> {
        let mut inner = self.inner.write();
        let used = inner.tasks.len() + inner.zombies() + inner.reserved.len() + count;
        if limit.is_some_and(|limit| used > limit as usize / 2) {
            return Vec::new();
        }
        let mut ids = Vec::with_capacity(count);
        while let Some(id) = (ids.len() < count).then(|| inner.next_free()).flatten() {
            inner.reserved.insert(id);
            ids.push(id);
        }
        ids
    }

    /// They are free again, but for those that a task has.
    pub fn release(&self, ids: &[i32]) {
        let mut inner = self.inner.write();
        inner.reserved.retain(|id| !ids.contains(id));
    }

    pub fn insert_process(&self, process: Arc<Process>) {
        self.inner.write().processes.insert(process.pid(), process);
    }
    pub fn insert_task(&self, task: Arc<Task>) {
        self.inner.write().tasks.insert(task.tid(), task);
    }
    pub fn remove_task(&self, tid: i32) {
        self.inner.write().tasks.remove(&tid);
    }
    pub fn remove_process(&self, pid: i32) {
        self.inner.write().processes.remove(&pid);
    }
    pub fn insert_group(&self, group: &Arc<ProcessGroup>) {
        self.inner.write().groups.insert(group.id, Arc::downgrade(group));
    }
    pub fn insert_session(&self, session: &Arc<Session>) {
        self.inner.write().sessions.insert(session.id, Arc::downgrade(session));
    }

    /// A thread by its id; ESRCH.
    pub fn task(&self, tid: i32) -> Result<Arc<Task>> {
        self.inner.read().tasks.get(&tid).cloned().ok_or(Errno::ESRCH)
    }
    /// A process by its id, zombies too; ESRCH.
    pub fn process(&self, pid: i32) -> Result<Arc<Process>> {
        self.inner.read().processes.get(&pid).cloned().ok_or(Errno::ESRCH)
    }
    pub fn group(&self, id: i32) -> Result<Arc<ProcessGroup>> {
        self.inner.read().groups.get(&id).and_then(Weak::upgrade).ok_or(Errno::ESRCH)
    }
    pub fn session(&self, id: i32) -> Result<Arc<Session>> {
        self.inner.read().sessions.get(&id).and_then(Weak::upgrade).ok_or(Errno::ESRCH)
    }
    /// All processes, by id, zombies too.
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.inner.read().processes.values().cloned().collect()
    }
    /// Whether one more would make as many tasks as `limit`, or nearly so.
    pub fn is_nearly_full(&self, limit: u32) -> bool {
        const NEAR: usize = 16;
        let inner = self.inner.read();
        inner.tasks.len() + inner.zombies() + NEAR >= limit as usize
    }
    /// The id that was given last.
    pub fn last_id(&self) -> i32 {
        self.inner.read().last
    }
    pub fn task_count(&self) -> usize {
        self.inner.read().tasks.len()
    }
}

impl Inner {
    fn next_free(&mut self) -> Option<i32> {
        for _ in 0..PID_MAX {
            self.last = if self.last >= PID_MAX - 1 {
                if self.last > 300 {
                    300
                } else {
                    1
                }
            } else {
                self.last + 1
            };
            if !self.is_used(self.last) {
                return Some(self.last);
            }
        }
        None
    }

    fn is_used(&self, id: i32) -> bool {
        self.tasks.contains_key(&id)
            || self.reserved.contains(&id)
            || self.processes.contains_key(&id)
            || self.groups.get(&id).is_some_and(|group| group.strong_count() > 0)
            || self.sessions.get(&id).is_some_and(|session| session.strong_count() > 0)
    }
    fn zombies(&self) -> usize {
        self.processes.values().filter(|process| process.is_dead()).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_ids_are_nobodys_until_they_are_released() {
        let pids = PidTable::default();
        let reserved = pids.reserve(3, None);
        assert_eq!(reserved, [1, 2, 3]);
        assert_eq!(pids.allocate(None), Ok(4));
        assert!(pids.reserve(3, Some(11)).is_empty());
        assert_eq!(pids.reserve(3, Some(12)), [5, 6, 7]);
        pids.release(&reserved);
        pids.inner.write().last = 0;
        assert_eq!(pids.allocate(None), Ok(1));
    }

    #[test]
    fn a_full_table_is_told_of_in_time() {
        let pids = PidTable::default();
        assert!(pids.is_nearly_full(16) && !pids.is_nearly_full(17));
    }
}
