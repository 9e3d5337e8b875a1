//! Changing who a task is: what capabilities(7) ("Effect of user ID changes on capabilities") and credentials(7) make of
//! a change of ids. Pure functions of the old and new credentials, and the one place that puts them in force; and what
//! a task's stub is told of who it is, so that it can answer getpid(2) and the like itself.
//!
//! Lock order: `Task::channel` > what it tells of.

use super::credentials::{
    CAP_CHOWN, CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER, CAP_FSETID, CAP_MKNOD, CAP_SETGID, CAP_SETUID,
    SECBIT_NO_SETUID_FIXUP,
};
use super::{Credentials, Process, Task};
use crate::run::Brk;
use crate::{Errno, Result};
use skerry_platform::channel::Channel;
use skerry_platform::layout::Identity;
use std::sync::atomic::Ordering;
use std::sync::Arc;

const CAP_LINUX_IMMUTABLE: u32 = 9;
const CAP_MAC_OVERRIDE: u32 = 32;
/// Those that go with the file system user id.
const FILE_SYSTEM_CAPABILITIES: u64 = 1 << CAP_CHOWN
    | 1 << CAP_MKNOD
    | 1 << CAP_DAC_OVERRIDE
    | 1 << CAP_DAC_READ_SEARCH
    | 1 << CAP_FOWNER
    | 1 << CAP_FSETID
    | 1 << CAP_LINUX_IMMUTABLE
    | 1 << CAP_MAC_OVERRIDE;

/// An id argument: `None` is -1, "leave it".
pub(crate) type NewId = Option<u32>;

/// setuid(2).
pub(crate) fn set_uid(old: &Credentials, uid: u32) -> Result<Credentials> {
    let mut new = old.clone();
    if old.has_capability(CAP_SETUID) {
        (new.ruid, new.suid) = (uid, uid);
    } else if uid != old.ruid && uid != old.suid {
        return Err(Errno::EPERM);
    }
    (new.euid, new.fsuid) = (uid, uid);
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// setreuid(2).
pub(crate) fn set_reuid(old: &Credentials, ruid: NewId, euid: NewId) -> Result<Credentials> {
    let capable = old.has_capability(CAP_SETUID);
    let mut new = old.clone();
    if let Some(uid) = ruid {
        allow(capable || uid == old.ruid || uid == old.euid)?;
        new.ruid = uid;
    }
    if let Some(uid) = euid {
        allow(capable || uid == old.ruid || uid == old.euid || uid == old.suid)?;
        new.euid = uid;
    }
    if ruid.is_some() || euid.is_some_and(|uid| uid != old.ruid) {
        new.suid = new.euid;
    }
    new.fsuid = new.euid;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// setresuid(2).
pub(crate) fn set_resuid(old: &Credentials, ruid: NewId, euid: NewId, suid: NewId) -> Result<Credentials> {
    let capable = old.has_capability(CAP_SETUID);
    for uid in [ruid, euid, suid].into_iter().flatten() {
        allow(capable || uid == old.ruid || uid == old.euid || uid == old.suid)?;
    }
    let mut new = old.clone();
    new.ruid = ruid.unwrap_or(old.ruid);
    new.euid = euid.unwrap_or(old.euid);
    new.suid = suid.unwrap_or(old.suid);
    new.fsuid = new.euid;
    fix_capabilities(old, &mut new);
    Ok(new)
}

/// setfsuid(2): unchanged credentials where it is not allowed.
pub(crate) fn set_fsuid(old: &Credentials, uid: u32) -> Credentials {
    let mut new = old.clone();
    if old.has_capability(CAP_SETUID) || [old.ruid, old.euid, old.suid, old.fsuid].contains(&uid) {
        new.fsuid = uid;
        if old.securebits & SECBIT_NO_SETUID_FIXUP == 0 {
            if old.fsuid == 0 && uid != 0 {
                new.capabilities.effective &= !FILE_SYSTEM_CAPABILITIES;
            } else if old.fsuid != 0 && uid == 0 {
                new.capabilities.effective |= FILE_SYSTEM_CAPABILITIES & new.capabilities.permitted;
            }
        }
    }
    new
}

/// setgid(2).
pub(crate) fn set_gid(old: &Credentials, gid: u32) -> Result<Credentials> {
    let mut new = old.clone();
    if old.has_capability(CAP_SETGID) {
        (new.rgid, new.sgid) = (gid, gid);
    } else if gid != old.rgid && gid != old.sgid {
        return Err(Errno::EPERM);
    }
    (new.egid, new.fsgid) = (gid, gid);
    Ok(new)
}

/// setregid(2).
pub(crate) fn set_regid(old: &Credentials, rgid: NewId, egid: NewId) -> Result<Credentials> {
    let capable = old.has_capability(CAP_SETGID);
    let mut new = old.clone();
    if let Some(gid) = rgid {
        allow(capable || gid == old.rgid || gid == old.egid)?;
        new.rgid = gid;
    }
    if let Some(gid) = egid {
        allow(capable || gid == old.rgid || gid == old.egid || gid == old.sgid)?;
        new.egid = gid;
    }
    if rgid.is_some() || egid.is_some_and(|gid| gid != old.rgid) {
        new.sgid = new.egid;
    }
    new.fsgid = new.egid;
    Ok(new)
}

/// setresgid(2).
pub(crate) fn set_resgid(old: &Credentials, rgid: NewId, egid: NewId, sgid: NewId) -> Result<Credentials> {
    let capable = old.has_capability(CAP_SETGID);
    for gid in [rgid, egid, sgid].into_iter().flatten() {
        allow(capable || gid == old.rgid || gid == old.egid || gid == old.sgid)?;
    }
    let mut new = old.clone();
    new.rgid = rgid.unwrap_or(old.rgid);
    new.egid = egid.unwrap_or(old.egid);
    new.sgid = sgid.unwrap_or(old.sgid);
    new.fsgid = new.egid;
    Ok(new)
}

/// setfsgid(2).
pub(crate) fn set_fsgid(old: &Credentials, gid: u32) -> Credentials {
    let mut new = old.clone();
    if old.has_capability(CAP_SETGID) || [old.rgid, old.egid, old.sgid, old.fsgid].contains(&gid) {
        new.fsgid = gid;
    }
    new
}

fn allow(allowed: bool) -> Result<()> {
    if allowed {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

/// Whoever stops being root in all ids loses the capabilities; the effective ones follow the effective id.
fn fix_capabilities(old: &Credentials, new: &mut Credentials) {
    if old.securebits & SECBIT_NO_SETUID_FIXUP != 0 {
        return;
    }
    let was_root = old.ruid == 0 || old.euid == 0 || old.suid == 0;
    if was_root && new.ruid != 0 && new.euid != 0 && new.suid != 0 {
        if !old.keep_capabilities {
            new.capabilities.permitted = 0;
            new.capabilities.effective = 0;
        }
        new.capabilities.ambient = 0;
    }
    if old.euid == 0 && new.euid != 0 {
        new.capabilities.effective = 0;
    } else if old.euid != 0 && new.euid == 0 {
        new.capabilities.effective = new.capabilities.permitted;
    }
}

/// Puts new credentials in force. Where they are others' or worth more, memory is no longer to be looked at
/// (prctl(2), PR_SET_DUMPABLE) and PR_SET_PDEATHSIG is forgotten.
pub(crate) fn commit(task: &Task, new: Credentials) {
    let old = task.credentials();
    let other_ids = (old.euid, old.egid, old.fsuid, old.fsgid) != (new.euid, new.egid, new.fsuid, new.fsgid);
    if other_ids || new.capabilities.permitted & !old.capabilities.permitted != 0 {
        task.process().dumpable.store(false, Ordering::Relaxed);
        task.parent_death_signal.store(0, Ordering::Relaxed);
    }
    task.set_credentials(new);
}

impl Task {
    /// Its host thread's stub, behind `channel`, answers from there from now on (ADR 15).
    pub(crate) fn move_to_channel(&self, channel: &Arc<Channel>) {
        {
            let process = self.process();
            let process_signals = process.signals.lock();
            let is_alone = process.threads.lock().len() == 1 && !process.actions.is_shared();
            let mut signals = self.signals.lock();
            signals.move_to(channel.clone(), &process_signals, process.actions.changed());
            signals.tell_alone(is_alone);
        }
        {
            let mut cell = self.channel.lock();
            let head = cell.as_ref().map_or_else(|| self.robust_list.load(Ordering::Relaxed), |old| old.robust_list());
            channel.set_robust_list(head);
            let cleared =
                cell.as_ref().map_or_else(|| self.clear_child_tid.load(Ordering::Relaxed), |old| old.clear_child_tid());
            channel.set_clear_child_tid(cleared);
            channel.set_heap(0, 0);
            *cell = Some(channel.clone());
        }
        self.tell_identity();
        self.tell_limits();
    }

    /// Its host thread's stub answers from `channel` already, where it lies as its maker has laid it down.
    pub(crate) fn find_in_channel(&self, channel: &Arc<Channel>) {
        {
            let process = self.process();
            let process_signals = process.signals.lock();
            self.signals.lock().find_in(channel.clone(), &process_signals, process.actions.changed());
        }
        *self.channel.lock() = Some(channel.clone());
        self.tell_identity();
        self.tell_limits();
    }

    /// The channel is another task's from now on, or nobody's: nothing is said there of this one any more.
    pub(crate) fn leave_channel(&self) {
        if let Some(channel) = self.channel.lock().take() {
            self.robust_list.store(channel.robust_list(), Ordering::Relaxed);
            self.clear_child_tid.store(channel.clear_child_tid(), Ordering::Relaxed);
        }
        self.signals.lock().leave_channel();
    }

    /// set_robust_list(2). The thread's stub may change it at any time.
    pub(crate) fn robust_list(&self) -> u64 {
        match &*self.channel.lock() {
            Some(channel) => channel.robust_list(),
            None => self.robust_list.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_robust_list(&self, head: u64) {
        match &*self.channel.lock() {
            Some(channel) => channel.set_robust_list(head),
            None => self.robust_list.store(head, Ordering::Relaxed),
        }
    }

    /// set_tid_address(2). As above.
    pub(crate) fn clear_child_tid(&self) -> u64 {
        match &*self.channel.lock() {
            Some(channel) => channel.clear_child_tid(),
            None => self.clear_child_tid.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn set_clear_child_tid(&self, address: u64) {
        match &*self.channel.lock() {
            Some(channel) => channel.set_clear_child_tid(address),
            None => self.clear_child_tid.store(address, Ordering::Relaxed),
        }
    }

    /// The stub may say where the heap ends, and move that, as long as nobody but the thread can; `None`: it may not.
    pub(crate) fn tell_heap(&self, heap: Option<Brk>) {
        if let Some(channel) = &*self.channel.lock() {
            let heap = heap.unwrap_or_default();
            channel.set_heap(heap.start, heap.current);
        }
    }

    /// Where the heap ends, if the stub has moved that since it was told.
    pub(crate) fn moved_heap_end(&self) -> Option<u64> {
        self.channel.lock().as_ref()?.moved_heap_end()
    }

    /// The stub is to know the process's limits. To be called after each change of them, as [`Task::tell_identity`].
    fn tell_limits(&self) {
        let cell = self.channel.lock();
        let Some(channel) = &*cell else { return };
        let limits = *self.process().rlimits.read();
        channel.set_limits(&limits.map(|limit| [limit.current, limit.maximum]));
    }

    /// The stub is to know who the thread is now. To be called after each change of it: whoever comes last has seen all of
    /// them. No lock of what it reads may be held.
    pub(crate) fn tell_identity(&self) {
        let cell = self.channel.lock();
        let Some(channel) = &*cell else { return };
        let process = self.process();
        let credentials = self.credentials();
        let group = process.group();
        let identity = Identity {
            pid: process.pid() as u32,
            tid: self.tid() as u32,
            parent: process.parent().map_or(0, |parent| parent.pid() as u32),
            group: group.id as u32,
            session: group.session.id as u32,
            uid: credentials.ruid,
            effective_uid: credentials.euid,
            gid: credentials.rgid,
            effective_gid: credentials.egid,
        };
        channel.set_identity(&identity, self.kernel().local_answers.load(Ordering::Relaxed) && !self.is_watched());
        channel.set_traced(self.traced.load(Ordering::Acquire));
        channel.set_reads_board(self.reads_board());
    }

    /// What the board says of names holds for it: it has the root that all have, and nobody sees its calls.
    fn reads_board(&self) -> bool {
        let mounts = &self.kernel().mounts;
        let root = self.fs().root;
        mounts.dentries.board.is_attached() && !self.is_watched() && mounts.root().is_some_and(|all| all.is_same(&root))
    }

    /// Somebody is to see each call that it makes.
    pub(crate) fn is_watched(&self) -> bool {
        let kernel = self.kernel();
        kernel.trace
            || kernel.policy.get().is_some_and(|policy| policy.needs_local_calls())
            || self.traced.load(Ordering::Relaxed)
            || self.seccomp.is_some()
    }
}

impl Process {
    /// As [`Task::tell_identity`], for all its threads.
    pub(crate) fn tell_identity(&self) {
        let threads = self.threads.lock().clone();
        threads.iter().for_each(|task| task.tell_identity());
    }

    /// As [`Task::tell_limits`], for all its threads.
    pub(crate) fn tell_limits(&self) {
        let threads = self.threads.lock().clone();
        threads.iter().for_each(|task| task.tell_limits());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_that_becomes_somebody_else_loses_its_capabilities_for_good() {
        let root = Credentials::new(0, 0, Vec::new());
        let user = set_uid(&root, 1000).unwrap();
        assert_eq!((user.ruid, user.euid, user.suid, user.fsuid), (1000, 1000, 1000, 1000));
        assert_eq!((user.capabilities.permitted, user.capabilities.effective), (0, 0));
        assert_eq!(set_uid(&user, 0).unwrap_err(), Errno::EPERM);
    }

    #[test]
    fn the_effective_id_alone_gives_capabilities_up_for_a_while() {
        let root = Credentials::new(0, 0, Vec::new());
        let lowered = set_resuid(&root, None, Some(1000), None).unwrap();
        assert_eq!(lowered.capabilities.effective, 0);
        assert_ne!(lowered.capabilities.permitted, 0);
        let back = set_resuid(&lowered, None, Some(0), None).unwrap();
        assert_eq!(back.capabilities, root.capabilities);
    }

    #[test]
    fn keep_capabilities_keeps_the_permitted_ones() {
        let mut root = Credentials::new(0, 0, Vec::new());
        root.keep_capabilities = true;
        let user = set_resuid(&root, Some(5), Some(5), Some(5)).unwrap();
        assert_eq!(user.capabilities.permitted, root.capabilities.permitted);
        assert_eq!(user.capabilities.effective, 0);
    }

    #[test]
    fn setreuid_swaps_and_saves() {
        let mut user = Credentials::new(1000, 1000, Vec::new());
        user.euid = 2000;
        user.suid = 2000;
        let swapped = set_reuid(&user, Some(2000), Some(1000)).unwrap();
        assert_eq!((swapped.ruid, swapped.euid, swapped.suid), (2000, 1000, 1000));
        assert_eq!(set_reuid(&user, Some(3000), None).unwrap_err(), Errno::EPERM);
    }

    #[test]
    fn the_file_system_id_takes_the_file_capabilities_along() {
        let root = Credentials::new(0, 0, Vec::new());
        let other = set_fsuid(&root, 1000);
        assert!(!other.has_capability(CAP_DAC_OVERRIDE) && other.has_capability(CAP_SETUID));
        assert!(set_fsuid(&other, 0).has_capability(CAP_DAC_OVERRIDE));
        assert_eq!(set_fsuid(&Credentials::new(5, 5, Vec::new()), 6).fsuid, 5);
    }
}
