//! New threads and processes present themselves.
//!
//! A process that has memory of its own goes on before it presents itself: see `infancy`. Every other
//! clone(2) goes like this: the guest kernel makes the task and orders a host clone from the caller's stub, with a
//! one-time token; the host reports that clone, and it is let through; the child rings with the token and gets its own
//! channel; the caller reports the result, and its call returns once the child has presented itself.

use super::infancy::Infant;
use super::places::Standing;
use super::pool::PreparedStack;
use super::spin::Pace;
use super::wake::{AfterWaking, FirstRun};
use super::worker::Holder;
use super::{AddressSpace, Door, Engine, GuestThread, ThreadState};
use crate::context::{After, ClonePlan, NoLead};
use crate::ptrace;
use crate::task::{self, Task};
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use skerry_abi::raw::ptrace::PTRACE_EVENT_VFORK_DONE;
use skerry_platform::beside::{self, Bound};
use skerry_platform::channel::Channel;
use skerry_platform::engine::{living_children, HostProcess, HostThread};
use skerry_platform::layout::{CLONE_PROCESS, CLONE_THREAD, CLONE_VFORK};
use skerry_platform::listener::{went_without, GoesOn, Notification};
use skerry_platform::memory::GuestMemory;
use skerry_platform::HostError;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// A host thread that is to come.
pub(crate) struct Enrolment {
    pub token: [u64; 2],
    /// The host clone(2)'s flags; 0 for a pool process.
    pub flags: u64,
    /// The host clone has been let through, or never will be: who sets it decides which.
    pub made: AtomicBool,
    /// The caller says how it went in any case, not only if it failed.
    pub reports: AtomicBool,
    /// The caller has said that it has failed.
    has_failed: AtomicBool,
    pub(super) child: Option<Arc<Task>>,
    /// The caller waits until its vfork(2) child executes a program or ends.
    vfork: bool,
    pub(super) parent: Option<Arc<GuestThread>>,
    pub(super) door: Arc<Door>,
    space: Option<Arc<AddressSpace>>,
    pub(super) slot: u64,
    stack: Option<PreparedStack>,
    /// Of a process with memory of its own: what it has from its maker, and the channel that lies ready for it.
    pub(super) infant: Option<Infant>,
    /// The caller and its child are kept on one CPU until they have told of each other.
    pub bound: Mutex<Option<Arc<Bound>>>,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// The child's host tid, once it has enrolled.
    enrolled: Option<i32>,
    /// The caller has reported, and its call returns when the child enrols.
    parent_waits: bool,
}

impl Enrolment {
    /// For a pool process.
    pub(super) fn for_pool(engine: &Engine, token: [u64; 2], door: Arc<Door>, stack: PreparedStack) -> Arc<Enrolment> {
        let enrolment = Arc::new(Enrolment {
            token,
            flags: 0,
            made: AtomicBool::new(true),
            reports: AtomicBool::new(false),
            has_failed: AtomicBool::new(false),
            child: None,
            vfork: false,
            parent: None,
            door,
            space: None,
            slot: 0,
            stack: Some(stack),
            infant: None,
            bound: Mutex::default(),
            progress: Mutex::default(),
        });
        engine.enrolments.lock().insert(token, enrolment.clone());
        enrolment
    }

    /// For a clone(2) that `thread` is about to make; with the slot of its child.
    pub(super) fn prepare(engine: &Engine, thread: &Arc<GuestThread>, plan: &ClonePlan) -> Result<(Arc<Enrolment>, u64)> {
        let shares_memory = plan.host_flags != CLONE_PROCESS;
        let slot = if shares_memory { thread.space.reserve_slot().ok_or(Errno::EAGAIN)? } else { thread.slot };
        let token = engine.token();
        let infant = if shares_memory { None } else { Some(Infant::new(engine, thread, plan, token)?) };
        let enrolment = Arc::new(Enrolment {
            token,
            flags: plan.host_flags,
            made: AtomicBool::new(false),
            reports: AtomicBool::new(true),
            has_failed: AtomicBool::new(false),
            child: Some(plan.child.clone()),
            vfork: plan.vfork,
            parent: Some(thread.clone()),
            door: thread.listener.clone(),
            space: shares_memory.then(|| thread.space.clone()),
            slot,
            stack: None,
            infant,
            bound: Mutex::default(),
            progress: Mutex::default(),
        });
        engine.enrolments.lock().insert(token, enrolment.clone());
        if enrolment.infant.is_some() {
            engine.infants.one_more();
        }
        Ok((enrolment, slot))
    }
}

impl Enrolment {
    pub(super) fn makes_process(&self) -> bool {
        self.flags != CLONE_THREAD
    }

    /// Its maker, and whoever asks, has been told that the process is there.
    fn is_said_to_be_there(&self) -> bool {
        self.infant.is_some() && !self.has_failed.load(Ordering::Acquire)
    }

    /// It was there, and is dead without having asked for anything.
    pub(super) fn was_killed(&self) {
        if let Some(child) = &self.child {
            task::kill_group(child.process(), task::ExitStatus::Signaled(skerry_abi::signal::Signal::SIGKILL, false));
            task::thread_gone(child);
        }
    }

    /// What it has used is told once it is dead.
    pub(super) fn maker_waits_for_its_death(&self) -> bool {
        let maker = self.parent.as_ref().and_then(|parent| parent.state.lock().task.clone());
        maker.is_some_and(|maker| maker.process().will_ask_for_usage())
    }

    fn is_made_by(&self, pid: i32) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.process.pid == pid)
    }

    /// The host has made nothing for it, and will not: it was never asked for.
    fn undo(&self, engine: &Engine) {
        if self.infant.is_some() {
            engine.infants.one_less();
        }
        if let Some(space) = &self.space {
            space.free_slot(self.slot);
        }
        if let Some(child) = &self.child {
            task::discard_clone(child);
        }
    }
}

impl Engine {
    /// The host process `maker` is dead, or about to be, and is heard no more. Threads that it was about to make go with it.
    /// Of a process that the host was let make it is not known if it has: a death may come before that and after it.
    pub(super) fn maker_is_gone(&self, maker: &Arc<HostProcess>) {
        let (mut unmade, mut doubtful) = (Vec::new(), Vec::new());
        self.enrolments.lock().retain(|_, enrolment| {
            if !enrolment.is_made_by(maker.pid) {
                return true;
            }
            if let Some(bound) = &*enrolment.bound.lock() {
                bound.forget_thread();
            }
            let may_come = enrolment.makes_process() && enrolment.made.swap(true, Ordering::AcqRel);
            if may_come {
                doubtful.push(enrolment.clone());
            } else if enrolment.makes_process() {
                unmade.push(enrolment.clone());
            }
            may_come
        });
        for enrolment in unmade {
            enrolment.undo(self);
        }
        self.reaper.doubt(doubtful, Some(maker));
    }

    /// The host has no process that may still come with this one's token. True if nobody else can use its door now.
    pub(super) fn give_up(&self, enrolment: &Enrolment) -> bool {
        if self.enrolments.lock().remove(&enrolment.token).is_none() {
            return false;
        }
        if enrolment.is_said_to_be_there() {
            self.infants.one_less();
            enrolment.was_killed();
        } else {
            enrolment.undo(self);
        }
        if std::mem::take(&mut enrolment.progress.lock().parent_waits) {
            self.tell_parent_of_failure(enrolment);
        }
        enrolment.door.remove_user()
    }

    /// The child of a caller that waits for it does not come: the host has ended it on its way.
    fn tell_parent_of_failure(&self, enrolment: &Enrolment) {
        let (Some(engine), Some(parent)) = (self.this.upgrade(), enrolment.parent.clone()) else { return };
        let tell = Arc::new(move || {
            let Some(task) = parent.state.lock().task.clone() else { return };
            let mut context = Context::new(&task, &NoLead, crate::context::Call::default());
            engine.finish(&parent, &mut context, Some(Err(Errno::EAGAIN)));
        });
        // A thread of its own, where the host lets us have one: the call may have to wait (a stop) before it returns.
        let tell_too = tell.clone();
        let thread = std::thread::Builder::new().name("skerry-failed".into()).stack_size(256 << 10);
        if thread.spawn(move || tell_too()).is_err() {
            tell();
        }
    }

    /// It has neither come nor been given up.
    pub(super) fn is_expected(&self, enrolment: &Enrolment) -> bool {
        self.enrolments.lock().contains_key(&enrolment.token)
    }

    /// A thread presents its token and gets its channel.
    pub(super) fn enrol(self: &Arc<Self>, holder: &Holder, notification: &Notification) {
        let token = [notification.arguments[2], notification.arguments[3]];
        let expected = {
            let mut enrolments = self.enrolments.lock();
            let is_it = |enrolment: &Arc<Enrolment>| enrolment.infant.is_none() && Arc::ptr_eq(&enrolment.door, holder.door);
            if enrolments.get(&token).is_some_and(is_it) {
                enrolments.remove(&token)
            } else {
                None
            }
        };
        let Some(enrolment) = expected else {
            // Or it has been taken in, and asks once more.
            let thread = self.thread(notification.tid).filter(|thread| Arc::ptr_eq(&thread.listener, holder.door));
            match thread {
                // After an error it is gone.
                Some(thread) => drop(self.deliver(&thread, notification.id, GoesOn::Anywhere)),
                None => drop(holder.door.listener.answer(notification.id, Errno::EPERM.as_return_value())),
            }
            return;
        };
        let bound = enrolment.bound.lock().take();
        let goes_on = if bound.is_some() { GoesOn::Here } else { GoesOn::Anywhere };
        let is_taken_in = self.take_in(&enrolment, notification.tid);
        let is_taken_in = is_taken_in.and_then(|thread| self.deliver(&thread, notification.id, goes_on));
        if let Some(bound) = bound {
            beside::let_run(notification.tid, &bound.usual());
        }
        if is_taken_in.is_err() {
            // Whoever rings is alive until it is answered, so that this is its number.
            skerry_platform::engine::kill(notification.tid);
            holder.door.listener.answer(notification.id, Errno::ENOMEM.as_return_value());
            if let Some(child) = &enrolment.child {
                task::kill_group(child.process(), task::ExitStatus::Signaled(skerry_abi::signal::Signal::SIGKILL, false));
                if child.process().host.read().is_none() {
                    task::thread_gone(child);
                }
            }
        }
        let parent_waits = {
            let mut progress = enrolment.progress.lock();
            progress.enrolled = Some(notification.tid);
            std::mem::take(&mut progress.parent_waits)
        };
        if let Some(parent) = enrolment.parent.as_ref().filter(|_| !enrolment.reports.load(Ordering::Acquire)) {
            parent.state.lock().clone.take_if(|order| Arc::ptr_eq(order, &enrolment));
        }
        if parent_waits {
            self.finish_parent(holder, &enrolment);
        }
    }

    /// The host thread `tid` is the one that is expected.
    pub(super) fn take_in(self: &Arc<Self>, enrolment: &Arc<Enrolment>, tid: i32) -> Result<Arc<GuestThread>, HostError> {
        let is_thread = enrolment.flags == CLONE_THREAD;
        let gone = || HostError { what: "taking a process in", source: std::io::ErrorKind::NotFound.into() };
        let (channel, memory) = match &enrolment.infant {
            Some(infant) => infant.take_channel().ok_or_else(gone)?,
            None => {
                let (channel, memory) = if is_thread { Channel::create()? } else { self.channels.get()? };
                (Arc::new(channel), Arc::new(memory))
            }
        };
        let parent = enrolment.parent.as_ref();
        let (host, process) = match parent {
            Some(parent) if is_thread => (HostThread::new(parent.host.pid, tid), parent.process.clone()),
            _ => (HostThread::new(tid, tid), Arc::new(HostProcess::new(tid, Some(self.reaper.epoll()))?)),
        };
        let host = Arc::new(host);
        let space = match &enrolment.space {
            Some(space) => {
                space.use_slot(enrolment.slot, host.clone());
                space.clone()
            }
            None => {
                let brk = enrolment.infant.as_ref().map(|infant| infant.brk).unwrap_or_default();
                let space = AddressSpace::new(enrolment.slot, host.clone(), brk);
                if let Some(infant) = &enrolment.infant {
                    infant.space.copy_to(&space);
                }
                space
            }
        };
        let maker = parent.and_then(|parent| parent.state.lock().task.as_ref().map(Arc::downgrade));
        let thread = Arc::new(GuestThread {
            host: host.clone(),
            process: process.clone(),
            channel: channel.clone(),
            memory: (!is_thread).then(|| memory.clone()),
            undelivered: Mutex::new(Some(memory.clone())),
            listener: enrolment.door.clone(),
            space: space.clone(),
            slot: enrolment.slot,
            stack: enrolment.stack,
            borrows_memory: enrolment.flags == CLONE_VFORK || is_thread && parent.is_some_and(|parent| parent.borrows_memory),
            pace: Pace::default(),
            standing: Standing::default(),
            reading: Default::default(),
            listing: Default::default(),
            shelf: Default::default(),
            streams: Default::default(),
            events: Default::default(),
            objects: Default::default(),
            ahead: Default::default(),
            filled: Default::default(),
            last_name: Default::default(),
            after_waking: AfterWaking::default(),
            children: Default::default(),
            bound: Default::default(),
            must_ring: Default::default(),
            retired: AtomicBool::new(false),
            state: Mutex::new(ThreadState {
                task: enrolment.child.clone(),
                maker: maker.filter(|_| is_thread).unwrap_or_default(),
                first_run: parent
                    .filter(|_| !is_thread && enrolment.infant.is_none())
                    .map(|parent| FirstRun::new(&parent.children)),
                ..ThreadState::default()
            }),
        });
        channel.set_token(enrolment.token);
        self.threads.write().insert(tid, thread.clone());
        if let Some(child) = &enrolment.child {
            *child.host.write() = Some(host);
            child.set_address_space(space);
            if enrolment.infant.is_none() {
                child.move_to_channel(&channel);
            }
            if !is_thread {
                child.set_memory(Arc::new(GuestMemory::of(process.clone())));
                *child.process().host.write() = Some(process.clone());
                self.reaper.watch(process, enrolment.door.clone(), Some(child.process().clone()));
                // A signal that ended the child before it had a host process.
                if child.process().signals.lock().group_exit.is_some() {
                    task::kill_host(child.process());
                }
            }
            if enrolment.infant.is_none() {
                thread.begin(child);
            }
        } else {
            self.reaper.watch(process, enrolment.door.clone(), None);
        }
        Ok(thread)
    }

    /// Gives a thread that presents itself its channel's memory. One that goes on without it asks once more.
    pub(super) fn deliver(&self, thread: &GuestThread, ring: u64, goes_on: GoesOn) -> Result<(), HostError> {
        let listener = &thread.listener.listener;
        let Some(memory) = thread.undelivered.lock().clone() else {
            listener.answer(ring, Errno::EPERM.as_return_value());
            return Ok(());
        };
        match listener.inject_and_answer(ring, memory.as_fd(), self.zygote.features(), goes_on) {
            Err(error) if went_without(&error) => Ok(()),
            delivered => {
                thread.undelivered.lock().take();
                delivered
            }
        }
    }

    /// The caller says that the host has not made the process that it was let make.
    pub(super) fn fork_failed(&self, enrolment: Arc<Enrolment>) {
        enrolment.has_failed.store(true, Ordering::Release);
        enrolment.bound.lock().take();
        self.find_infants();
        // Its maker is not in that call any more: who does not come now never does.
        if living_children().is_some_and(|children| self.strangers(children).is_empty()) {
            if self.give_up(&enrolment) {
                self.reaper.closed(enrolment.door.clone());
            }
        } else {
            self.reaper.doubt(vec![enrolment], None);
        }
    }

    /// The caller's stub reports how its host clone(2) went.
    pub(super) fn clone_done(
        self: &Arc<Self>,
        thread: &Arc<GuestThread>,
        mut context: Context,
        enrolment: Arc<Enrolment>,
        status: i64,
    ) {
        let made = enrolment.made.swap(true, Ordering::AcqRel);
        if status < 0 || !made {
            if made && enrolment.makes_process() {
                // It says so.
                self.fork_failed(enrolment);
            } else if self.enrolments.lock().remove(&enrolment.token).is_some() {
                enrolment.undo(self);
            }
            return self.finish(thread, &mut context, Some(Err(Errno::EAGAIN)));
        }
        if enrolment.infant.is_some() {
            return self.parent_returns(thread, &mut context, &enrolment);
        }
        let enrolled = {
            let mut progress = enrolment.progress.lock();
            progress.parent_waits = progress.enrolled.is_none();
            !progress.parent_waits
        };
        if enrolled {
            self.parent_returns(thread, &mut context, &enrolment);
        } else if enrolment.makes_process() {
            // The child's enrolment finishes this call, on whichever worker serves it, unless the host ends it before that.
            self.reaper.doubt(vec![enrolment], None);
        }
    }

    fn finish_parent(self: &Arc<Self>, holder: &Holder, enrolment: &Enrolment) {
        let Some(thread) = &enrolment.parent else { return };
        let Some(task) = thread.state.lock().task.clone() else { return };
        let mut context = Context::new(&task, holder, crate::context::Call::default());
        self.parent_returns(thread, &mut context, enrolment);
    }

    fn parent_returns(self: &Arc<Self>, thread: &Arc<GuestThread>, context: &mut Context, enrolment: &Enrolment) {
        let Some(child) = &enrolment.child else { return };
        if context.task.traced.load(Ordering::Acquire) {
            ptrace::child_made(context);
        }
        if enrolment.vfork {
            wait_for_vfork(context, child);
            ptrace::event(context, PTRACE_EVENT_VFORK_DONE, child.tid() as u64);
        }
        context.after = After::Nothing;
        self.finish(thread, context, Some(Ok(child.tid() as u64)));
    }
}

/// vfork(2): until the child executes a program or ends; only death interrupts the wait.
fn wait_for_vfork(context: &Context, child: &Arc<Task>) {
    let process = child.process();
    let _registration = process.vfork_queue.register(context.task.waiter());
    while !process.vfork_done.load(Ordering::Acquire) && context.task.process().signals.lock().group_exit.is_none() {
        context.sleep_uninterrupted(None);
    }
}
