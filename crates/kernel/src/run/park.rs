//! Host threads that outlive their tasks: when one thread of several ends, its host thread waits with its slot and channel,
//! and becomes the next thread that its process makes (the stub's `park.rs`).
//!
//! Who it is follows from its host tid, as ever: what is written here decides whose calls are served for it. It has no task
//! while it is parked, and nothing is served then.

use super::{Engine, GuestThread};
use crate::context::ClonePlan;
use crate::task::{self, Task};
use skerry_abi::raw::general::__NR_exit;
use skerry_platform::engine::HostProcess;
use skerry_platform::layout::{CloneOrder, CLONE_THREAD};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// How many there can be in a process, and in all: the host counts them, and `--pids` does not.
const MOST_OF_A_PROCESS: usize = 32;
const MOST: usize = 64;

impl Engine {
    /// Parks the thread of a task that has ended itself by exit(2), if it is worth while. The stub is to be told.
    pub(super) fn park(&self, thread: &Arc<GuestThread>, task: &Arc<Task>, call: u64) -> bool {
        // The host's nice values and CPU sets are those of threads, and are not taken back.
        let is_plain = {
            let scheduling = task.scheduling.read();
            scheduling.nice == task.kernel().nice && scheduling.affinity.is_none()
        };
        let may_be = call == u64::from(__NR_exit) && is_plain && !thread.borrows_memory && thread.host.tid != thread.host.pid;
        let mut parked = thread.space.parked.lock();
        let one_more = |count: usize| (count < MOST).then_some(count + 1);
        let is_wanted = may_be && self.parks.load(Ordering::Relaxed) && parked.len() < MOST_OF_A_PROCESS;
        if !is_wanted || self.parked.fetch_update(Ordering::AcqRel, Ordering::Relaxed, one_more).is_err() {
            return false;
        }
        let maker = {
            let mut state = thread.state.lock();
            state.task = None;
            state.is_parked = true;
            state.maker.clone()
        };
        *task.host.write() = None;
        task.leave_channel();
        parked.push(thread.host.tid);
        drop(parked);
        self.offer_birth(thread, &maker);
        true
    }

    /// Makes the plan's child of a parked thread of the caller's process, if there is one and a thread is what is wanted.
    pub(super) fn use_parked(&self, caller: &GuestThread, plan: &ClonePlan) -> Option<CloneOrder> {
        if plan.host_flags != CLONE_THREAD {
            return None;
        }
        let thread = loop {
            let tid = caller.space.parked.lock().pop()?;
            if let Some(thread) = self.thread(tid).filter(|thread| self.take_birth_back(thread)) {
                break thread;
            }
        };
        let child = &plan.child;
        thread.host.begin_anew(0);
        *child.host.write() = Some(thread.host.clone());
        child.set_address_space(thread.space.clone());
        child.move_to_channel(&thread.channel);
        {
            let mut state = thread.state.lock();
            state.is_parked = false;
            state.task = Some(child.clone());
            state.maker = caller.state.lock().task.as_ref().map(Arc::downgrade).unwrap_or_default();
        }
        self.parked.fetch_sub(1, Ordering::AcqRel);
        task::scheduling::apply_to_host(child);
        thread.begin(child);
        Some(CloneOrder { slot: thread.slot, parked: 1, ..plan.order() })
    }

    /// Threads of the host process `host` are heard no more. Returns one of them.
    pub(super) fn forget_process(&self, host: &Arc<HostProcess>) -> Option<Arc<GuestThread>> {
        let (mut parked, mut one) = (0, None);
        self.threads.write().retain(|_, thread| {
            let is_its = thread.process.pid == host.pid;
            if is_its {
                parked += usize::from(std::mem::take(&mut thread.state.lock().is_parked));
                thread.retired.store(true, Ordering::Release);
                one = Some(thread.clone());
            }
            !is_its
        });
        self.parked.fetch_sub(parked, Ordering::AcqRel);
        self.maker_is_gone(host);
        one
    }
}
