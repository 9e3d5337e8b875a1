//! Guest ids: which task, process, process group or session has which number. Host ids are never shown to a guest.

use super::{Process, ProcessGroup, Session, Task};
use crate::{Errno, Result};
use parking_lot::RwLock;
use std::collections::BTreeMap;
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
}

impl PidTable {
    /// The next free id; EAGAIN where there is none, or `limit` tasks exist already (--pids).
    pub fn allocate(&self, limit: Option<u32>) -> Result<i32> {
        let mut inner = self.inner.write();
        if limit.is_some_and(|limit| inner.tasks.len() + inner.zombies() >= limit as usize) {
            return Err(Errno::EAGAIN);
        }
        for _ in 0..PID_MAX {
            inner.last = if inner.last >= PID_MAX - 1 {
                if inner.last > 300 {
                    300
                } else {
                    1
                }
            } else {
                inner.last + 1
            };
            let candidate = inner.last;
            if !inner.is_used(candidate) {
                return Ok(candidate);
            }
        }
        Err(Errno::EAGAIN)
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
    /// The id that was given last.
    pub fn last_id(&self) -> i32 {
        self.inner.read().last
    }
    pub fn task_count(&self) -> usize {
        self.inner.read().tasks.len()
    }
}

impl Inner {
    fn is_used(&self, id: i32) -> bool {
        self.tasks.contains_key(&id)
            || self.processes.contains_key(&id)
            || self.groups.get(&id).is_some_and(|group| group.strong_count() > 0)
            || self.sessions.get(&id).is_some_and(|session| session.strong_count() > 0)
    }
    fn zombies(&self) -> usize {
        self.processes.values().filter(|process| process.is_dead()).count()
    }
}
