//! Semaphore sets (semget(2), semop(2), semctl(2)).

use super::registry::{Object, Permission, PermissionStruct};
use crate::sync::WaitQueue;
use crate::{Context, Errno, Kernel, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Instant;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Limits, as /proc/sys/kernel/sem shows them.
pub const SEMMSL: i32 = 32000;
pub const SEMOPM: usize = 500;
pub const SEMMNI: usize = 32000;
/// In all sets together.
pub const SEMMNS: usize = 1 << 20;
pub const SEMVMX: i32 = 32767;

pub const SEM_UNDO: i16 = 0o10000;
const IPC_NOWAIT: i16 = 0o4000;

/// `struct sembuf`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Operation {
    pub number: u16,
    pub change: i16,
    pub flags: i16,
}

/// `struct semid64_ds` of x86-64: 104 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SetStruct {
    pub permission: PermissionStruct,
    pub operation_time: i64,
    _unused1: u64,
    pub change_time: i64,
    _unused2: u64,
    pub count: u64,
    _unused3: [u64; 2],
}

/// A set of semaphores.
pub struct SemaphoreSet {
    state: Mutex<State>,
    queue: WaitQueue,
    total: Arc<AtomicUsize>,
}

struct State {
    permission: Permission,
    semaphores: Vec<Semaphore>,
    operation_time: i64,
    change_time: i64,
    removed: bool,
    /// What is to be added to each semaphore when a process ends, by process.
    undo: HashMap<i32, Vec<i32>>,
}

#[derive(Clone, Copy, Default)]
struct Semaphore {
    value: i32,
    /// Who changed it last.
    pid: i32,
    /// Who waits for it to grow, and to become zero.
    growth_waiters: u32,
    zero_waiters: u32,
}

/// Which semaphore a call waits for, and for what.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wait {
    number: usize,
    for_zero: bool,
}

enum Outcome {
    Done,
    Blocked(Wait),
}

impl Object for SemaphoreSet {
    fn permission(&self) -> Permission {
        self.state.lock().permission
    }
    fn set_sequence(&mut self, sequence: u16) {
        self.state.get_mut().permission.sequence = sequence;
    }
    fn removed(&self) {
        self.state.lock().removed = true;
        self.queue.wake_all();
    }
}

impl Drop for SemaphoreSet {
    fn drop(&mut self) {
        self.total.fetch_sub(self.state.get_mut().semaphores.len(), Ordering::Relaxed);
    }
}

impl SemaphoreSet {
    /// ENOSPC where the sandbox has too many semaphores.
    pub fn new(permission: Permission, count: usize, total: Arc<AtomicUsize>) -> Result<SemaphoreSet> {
        if total.fetch_add(count, Ordering::Relaxed) + count > SEMMNS {
            total.fetch_sub(count, Ordering::Relaxed);
            return Err(Errno::ENOSPC);
        }
        Ok(SemaphoreSet {
            state: Mutex::new(State {
                permission,
                semaphores: vec![Semaphore::default(); count],
                operation_time: 0,
                change_time: crate::time::realtime_now().sec,
                removed: false,
                undo: HashMap::new(),
            }),
            queue: WaitQueue::new(),
            total,
        })
    }

    pub fn count(&self) -> usize {
        self.state.lock().semaphores.len()
    }

    /// semtimedop(2). E2BIG and EINVAL for the number of operations are the caller's. Errors: EFBIG, EACCES, ERANGE,
    /// EAGAIN (IPC_NOWAIT, or the deadline), EIDRM, EINTR.
    pub fn operate(&self, context: &Context, operations: &[Operation], deadline: Option<Instant>) -> Result<()> {
        let credentials = context.task.credentials();
        let pid = context.process().pid();
        {
            let state = self.state.lock();
            if operations.iter().any(|operation| usize::from(operation.number) >= state.semaphores.len()) {
                return Err(Errno::EFBIG);
            }
            let changes = operations.iter().any(|operation| operation.change != 0);
            state.permission.check(&credentials, if changes { 0o222 } else { 0o444 })?;
        }
        let mut waiting = None;
        let result = context.block_on(&self.queue, deadline, || {
            let mut state = self.state.lock();
            if state.removed {
                return Err(Errno::EIDRM);
            }
            let outcome = state.try_operations(operations, pid);
            let now_waiting = match outcome {
                Ok(Outcome::Blocked(wait)) => Some(wait),
                _ => None,
            };
            state.change_waiting(&mut waiting, now_waiting);
            match outcome? {
                Outcome::Done => Ok(()),
                Outcome::Blocked(_) => Err(Errno::EAGAIN),
            }
        });
        if waiting.is_some() {
            self.state.lock().change_waiting(&mut waiting, None);
        }
        match result {
            Ok(()) => {
                self.queue.wake_all();
                Ok(())
            }
            Err(Errno::ETIMEDOUT | NO_WAIT) => Err(Errno::EAGAIN),
            // Never restarted (signal(7)).
            Err(Errno::ERESTARTSYS) => Err(Errno::EINTR),
            Err(error) => Err(error),
        }
    }

    /// IPC_STAT.
    pub fn to_struct(&self) -> SetStruct {
        let state = self.state.lock();
        SetStruct {
            permission: state.permission.to_struct(),
            operation_time: state.operation_time,
            change_time: state.change_time,
            count: state.semaphores.len() as u64,
            ..SetStruct::default()
        }
    }

    /// IPC_SET.
    pub fn set_permission(&self, new: &PermissionStruct) {
        let mut state = self.state.lock();
        state.permission.set(new);
        state.change_time = crate::time::realtime_now().sec;
    }

    /// GETALL.
    pub fn values(&self) -> Vec<u16> {
        self.state.lock().semaphores.iter().map(|semaphore| semaphore.value as u16).collect()
    }

    /// GETVAL, GETPID, GETNCNT, GETZCNT: (value, pid, growth waiters, zero waiters). EINVAL.
    pub fn semaphore(&self, number: i32) -> Result<(i32, i32, i32, i32)> {
        let state = self.state.lock();
        let semaphore = usize::try_from(number).ok().and_then(|number| state.semaphores.get(number)).ok_or(Errno::EINVAL)?;
        Ok((semaphore.value, semaphore.pid, semaphore.growth_waiters as i32, semaphore.zero_waiters as i32))
    }

    /// SETVAL. EINVAL, ERANGE.
    pub fn set_value(&self, number: i32, value: i32, pid: i32) -> Result<()> {
        if !(0..=SEMVMX).contains(&value) {
            return Err(Errno::ERANGE);
        }
        {
            let mut state = self.state.lock();
            let number = usize::try_from(number).map_err(|_| Errno::EINVAL)?;
            let semaphore = state.semaphores.get_mut(number).ok_or(Errno::EINVAL)?;
            (semaphore.value, semaphore.pid) = (value, pid);
            state.change_time = crate::time::realtime_now().sec;
            for adjustments in state.undo.values_mut() {
                if let Some(adjustment) = adjustments.get_mut(number) {
                    *adjustment = 0;
                }
            }
        }
        self.queue.wake_all();
        Ok(())
    }

    /// SETALL: as many values as there are semaphores. ERANGE.
    pub fn set_values(&self, values: &[u16], pid: i32) -> Result<()> {
        if values.iter().any(|&value| i32::from(value) > SEMVMX) {
            return Err(Errno::ERANGE);
        }
        {
            let mut state = self.state.lock();
            for (semaphore, &value) in state.semaphores.iter_mut().zip(values) {
                (semaphore.value, semaphore.pid) = (value.into(), pid);
            }
            state.undo.clear();
            state.change_time = crate::time::realtime_now().sec;
        }
        self.queue.wake_all();
        Ok(())
    }

    fn undo(&self, pid: i32) {
        {
            let mut state = self.state.lock();
            let Some(adjustments) = state.undo.remove(&pid) else { return };
            for (semaphore, adjustment) in state.semaphores.iter_mut().zip(adjustments) {
                if adjustment != 0 {
                    semaphore.value = semaphore.value.saturating_add(adjustment).clamp(0, SEMVMX);
                    semaphore.pid = pid;
                }
            }
            state.operation_time = crate::time::realtime_now().sec;
        }
        self.queue.wake_all();
    }
}

/// Stands for IPC_NOWAIT's EAGAIN, which must not be taken for "wait and try again".
const NO_WAIT: Errno = Errno(4000);

impl State {
    /// All operations, or none.
    fn try_operations(&mut self, operations: &[Operation], pid: i32) -> Result<Outcome> {
        let mut values: Vec<(usize, i32)> = Vec::with_capacity(operations.len());
        for operation in operations {
            let number = usize::from(operation.number);
            let present = self.semaphores.get(number).ok_or(Errno::EFBIG)?.value;
            // Operations of one call see each other.
            let value = values.iter().rev().find(|(other, _)| *other == number).map_or(present, |(_, value)| *value);
            let new = value + i32::from(operation.change);
            let for_zero = operation.change == 0;
            if (for_zero && value != 0) || new < 0 {
                if operation.flags & IPC_NOWAIT != 0 {
                    return Err(NO_WAIT);
                }
                return Ok(Outcome::Blocked(Wait { number, for_zero }));
            }
            if new > SEMVMX {
                return Err(Errno::ERANGE);
            }
            if operation.flags & SEM_UNDO != 0 {
                let before = self.undo.get(&pid).and_then(|adjustments| adjustments.get(number)).copied().unwrap_or(0);
                if (before - i32::from(operation.change)).abs() > SEMVMX {
                    return Err(Errno::ERANGE);
                }
            }
            values.push((number, new));
        }
        for (number, value) in values {
            self.semaphores[number].value = value;
            self.semaphores[number].pid = pid;
        }
        let count = self.semaphores.len();
        for operation in operations.iter().filter(|operation| operation.flags & SEM_UNDO != 0 && operation.change != 0) {
            let adjustments = self.undo.entry(pid).or_insert_with(|| vec![0; count]);
            let adjustment = &mut adjustments[usize::from(operation.number)];
            *adjustment = (*adjustment - i32::from(operation.change)).clamp(-SEMVMX, SEMVMX);
        }
        self.operation_time = crate::time::realtime_now().sec;
        Ok(Outcome::Done)
    }

    /// Keeps the counts of who waits in step with what one call waits for.
    fn change_waiting(&mut self, before: &mut Option<Wait>, now: Option<Wait>) {
        if *before == now {
            return;
        }
        let mut count = |wait: Option<Wait>, change: fn(u32) -> u32| {
            let Some(wait) = wait else { return };
            if let Some(semaphore) = self.semaphores.get_mut(wait.number) {
                let counter = if wait.for_zero { &mut semaphore.zero_waiters } else { &mut semaphore.growth_waiters };
                *counter = change(*counter);
            }
        };
        count(*before, |waiters| waiters.saturating_sub(1));
        count(now, |waiters| waiters + 1);
        *before = now;
    }
}

/// Makes the adjustments of a process that has ended.
pub(super) fn undo_all(kernel: &Kernel, pid: i32) {
    for (_, set) in kernel.sysv.semaphores.list() {
        set.undo(pid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(count: usize) -> SemaphoreSet {
        SemaphoreSet::new(Permission::default(), count, Arc::default()).unwrap()
    }

    fn operation(number: u16, change: i16, flags: i16) -> Operation {
        Operation { number, change, flags }
    }

    fn attempt(set: &SemaphoreSet, operations: &[Operation]) -> Result<bool> {
        set.state.lock().try_operations(operations, 1).map(|outcome| matches!(outcome, Outcome::Done))
    }

    #[test]
    fn operations_are_all_or_nothing() {
        let set = set(2);
        assert_eq!(attempt(&set, &[operation(0, 2, 0), operation(1, -1, 0)]), Ok(false));
        assert_eq!(set.values(), [0, 0]);
        assert_eq!(attempt(&set, &[operation(0, 2, 0), operation(0, -1, 0), operation(1, 0, 0)]), Ok(true));
        assert_eq!(set.values(), [1, 0]);
        assert_eq!(attempt(&set, &[operation(0, -2, IPC_NOWAIT)]), Err(NO_WAIT));
        assert_eq!(attempt(&set, &[operation(0, 32767, 0)]), Err(Errno::ERANGE));
        assert_eq!(set.semaphore(0).unwrap(), (1, 1, 0, 0));
    }

    #[test]
    fn adjustments_are_undone_and_forgotten_by_setval() {
        let set = set(2);
        attempt(&set, &[operation(0, 5, SEM_UNDO), operation(1, 7, SEM_UNDO)]).unwrap();
        set.set_value(1, 3, 2).unwrap();
        set.undo(1);
        assert_eq!(set.values(), [0, 3]);
        assert_eq!(set.set_value(0, 32768, 1), Err(Errno::ERANGE));
        assert_eq!(set.set_value(9, 1, 1), Err(Errno::EINVAL));
    }

    #[test]
    fn waiters_are_counted() {
        let set = set(1);
        let mut waiting = None;
        let mut state = set.state.lock();
        state.change_waiting(&mut waiting, Some(Wait { number: 0, for_zero: true }));
        assert_eq!(state.semaphores[0].zero_waiters, 1);
        state.change_waiting(&mut waiting, Some(Wait { number: 0, for_zero: false }));
        assert_eq!((state.semaphores[0].zero_waiters, state.semaphores[0].growth_waiters), (0, 1));
        state.change_waiting(&mut waiting, None);
        assert_eq!(state.semaphores[0].growth_waiters, 0);
    }
}
