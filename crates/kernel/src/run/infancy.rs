//! Processes that go on before they present themselves (the stub's `infancy.rs`, ADR 66).
//!
//! fork(2) makes the task, and its channel; what the child is to know of both goes into its maker's memory, which the host copies. The
//! child is heard of with its first request. Whoever needs its host process before that finds it: it is the child of ours that nobody
//! knows and that has the token in its memory. All calls do so first but those that are known to need none, as do signals and /proc;
//! the reaper does for those that are some tens of milliseconds old. Who is found so is kicked, so that it gets its channel.
//!
//! Lock order: `Infants::finding` > `Engine::threads`, `GuestThread::state`, the rooms of signals. `Kernel::tree` may be held.

use super::enrol::Enrolment;
use super::space::Brk;
use super::wake::FirstRun;
use super::worker::Holder;
use super::{AddressSpace, Door, Engine, GuestThread};
use crate::context::{ClonePlan, Lead};
use crate::signal;
use crate::task::{Process, Task};
use crate::{Errno, Kernel, Result};
use parking_lot::Mutex;
use skerry_abi::raw::general as linux;
use skerry_platform::beside::{self, Bound};
use skerry_platform::channel::{first_request, Channel};
use skerry_platform::engine::living_children;
use skerry_platform::layout::{
    self, marshal, CloneOrder, First, Request, BEGIN_ASKING, BEGIN_AT_ONCE, BLOCK_OFFSET, CERTIFICATE_OFFSET,
    CERTIFICATE_TOKEN, CHANNEL_OFFSET, LINE_SIZE, SLOTS_BASE, SLOT_SIZE, WAY_FIRST, WAY_OFFSET,
};
use skerry_platform::listener::Notification;
use skerry_platform::memory::GuestMemory;
use skerry_platform::processor::ticks;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::Arc;
use std::time::Duration;

/// More descriptors than a process can have been given.
const ALL_DESCRIPTORS: u32 = u32::MAX;
/// Of a request that is the first one.
const FIRST_SEQUENCE: u32 = 1;
/// How often, and after which time, it is looked again for one that the host is just making: 50 ms in all. Who cannot be found
/// for so many ticks hides (see the reaper), or the host has no time for it: nobody waits for it any more.
const ATTEMPTS: u32 = 16;
const BETWEEN: Duration = Duration::from_micros(400);
const YOUNG: u64 = 600_000_000;

/// So often the reaper looks for one before it asks its maker to say that it is not in that call any more.
const LOOKS: u32 = 10;

#[derive(Default)]
pub(super) struct Infants {
    /// How many there are that have not been heard of.
    count: AtomicUsize,
    /// Whoever takes in one that it has found.
    finding: Mutex<()>,
    /// All present themselves at once (a test wants it so).
    ask_at_once: AtomicBool,
}

/// What a process has from its maker until it presents itself.
pub(super) struct Infant {
    /// Until it is taken in.
    ready: Mutex<Option<(Arc<Channel>, Arc<OwnedFd>)>>,
    pub brk: Brk,
    /// What is known of the copy of its maker's.
    pub space: AddressSpace,
    order: CloneOrder,
    beginning: u32,
    descriptors: u32,
    /// Somebody has looked for it in vain.
    is_wanted: AtomicBool,
    /// When the host was let make it, by the processor's clock.
    let_at: AtomicU64,
    /// How often it was looked for.
    looks: AtomicU32,
    /// Its maker has asked for something since, so that the host has made it, or does not.
    is_made: AtomicBool,
}

impl Infants {
    pub fn one_more(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    pub fn one_less(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
    }

    /// They present themselves before they do anything else from now on.
    pub fn ask_at_once(&self) {
        self.ask_at_once.store(true, Ordering::Relaxed);
    }

    fn are_none(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }
}

impl Infant {
    /// Of the process that `maker` is about to make, for the plan's child.
    pub fn new(engine: &Engine, maker: &GuestThread, plan: &ClonePlan, token: [u64; 2]) -> Result<Infant> {
        let (channel, memory) = engine.channels.get().map_err(|_| Errno::EAGAIN)?;
        let channel = Arc::new(channel);
        let child = &plan.child;
        child.move_to_channel(&channel);
        let brk = *maker.space.brk.lock();
        child.tell_heap(Some(brk));
        let space = AddressSpace::default();
        maker.space.copy_to(&space);
        let is_alone = maker.state.lock().task.as_ref().is_some_and(|task| task.process().threads.lock().len() == 1);
        Ok(Infant {
            ready: Mutex::new(Some((channel, Arc::new(memory)))),
            brk,
            space,
            order: CloneOrder { slot: maker.slot, token, ..plan.order() },
            beginning: if !engine.infants.ask_at_once.load(Ordering::Relaxed) && signal::try_leave(child) {
                BEGIN_AT_ONCE
            } else {
                BEGIN_ASKING
            },
            // Another thread may be given some before the host has copied them.
            descriptors: if is_alone { maker.process.descriptors_end() } else { ALL_DESCRIPTORS },
            is_wanted: AtomicBool::new(false),
            let_at: AtomicU64::new(0),
            looks: AtomicU32::new(0),
            is_made: AtomicBool::new(false),
        })
    }

    /// Its channel, and the memory of that; once.
    pub fn take_channel(&self) -> Option<(Arc<Channel>, Arc<OwnedFd>)> {
        self.ready.lock().take()
    }

    /// Its maker has asked for something else.
    pub fn maker_goes_on(&self) {
        self.is_made.store(true, Ordering::Release);
    }

    /// Lays down in its maker's memory what it begins with. False: that cannot be written.
    fn certify(&self, memory: &GuestMemory, at: u64, reports: bool) -> bool {
        let ready = self.ready.lock();
        let Some((channel, _)) = &*ready else { return false };
        let bytes = channel.certificate(&self.order, self.beginning, self.descriptors, reports);
        memory.write(at, &bytes) == bytes.len()
    }
}

impl GuestThread {
    /// Keeps the thread on our CPU, as long as what is returned is there.
    pub(super) fn bind(&self) -> Option<Arc<Bound>> {
        let mut bound = self.bound.lock();
        if let Some(present) = bound.upgrade() {
            return Some(present);
        }
        let made = Arc::new(Bound::thread(self.host.tid)?);
        *bound = Arc::downgrade(&made);
        Some(made)
    }
}

impl Engine {
    /// Lets the host make the process, whose maker waits in `ring` for that. What it begins with goes to `certificate`. False: it is not made.
    pub(super) fn let_fork(&self, door: &Door, task: &Task, enrolment: &Arc<Enrolment>, ring: u64, certificate: u64) -> bool {
        let (Some(infant), Some(maker)) = (&enrolment.infant, &enrolment.parent) else { return false };
        if !infant.certify(&task.memory(), certificate, enrolment.reports.load(Ordering::Acquire))
            || enrolment.made.swap(true, Ordering::AcqRel)
        {
            return false;
        }
        // It counts from here on, whatever becomes of its maker.
        door.add_user();
        maker.space.has_made_process.store(true, Ordering::Release);
        if maker.children.are_brief() {
            *enrolment.bound.lock() = maker.bind();
        }
        self.reaper.expect(enrolment.clone());
        infant.let_at.store(ticks(), Ordering::Relaxed);
        door.listener.let_go_on(ring);
        true
    }

    /// A process without a channel asks for the first time.
    pub(super) fn serve_first(self: &Arc<Self>, holder: &Holder, notification: &Notification) {
        let [_, _, low, high, at, end] = notification.arguments;
        let refuse = |errno: Errno| {
            holder.door.listener.answer(notification.id, errno.as_return_value());
        };
        let ends = end & layout::FIRST_ENDS != 0;
        let Some((thread, maker)) = self.presents_itself(holder.door, [low, high], notification.tid, ends) else {
            return refuse(Errno::EPERM);
        };
        let Some(task) = thread.state.lock().task.clone() else { return refuse(Errno::EPERM) };
        let began = if ends {
            let state = thread.state.lock();
            if !state.in_service && state.sequence != FIRST_SEQUENCE {
                thread.channel.put_end(FIRST_SEQUENCE, (end & !layout::FIRST_ENDS) as u32);
            }
            at
        } else {
            let memory = task.memory();
            let mut bytes = [0; size_of::<First>()];
            if memory.read(at, &mut bytes) < bytes.len() {
                return refuse(Errno::EFAULT);
            }
            let first = first_request(&bytes);
            let state = thread.state.lock();
            if !state.in_service && state.sequence != first.state as u32 {
                let length = Request::from_line(first.state, first.words).marshalled as usize;
                if (1..=marshal::AREA).contains(&length) {
                    let mut area = crate::marshal::take_buffer();
                    area.resize(length, 0);
                    let read = memory.read(SLOTS_BASE + thread.slot * SLOT_SIZE + CHANNEL_OFFSET + LINE_SIZE, &mut area);
                    thread.channel.put_results(&area[..read]);
                }
                thread.channel.take_over(&first);
            }
            drop(state);
            signal::look_again(&task);
            first.began
        };
        if let Some(maker) = maker {
            FirstRun::since(began, &maker.children).end();
        }
        self.serve_rung(holder, &thread, notification.id, None);
        holder.count_wakes(&thread.after_waking);
    }

    /// The thread `tid` presents `token`. With its maker, unless somebody has found it before.
    fn presents_itself(
        self: &Arc<Self>,
        door: &Arc<Door>,
        token: [u64; 2],
        tid: i32,
        ends: bool,
    ) -> Option<(Arc<GuestThread>, Option<Arc<GuestThread>>)> {
        let expected = {
            let mut enrolments = self.enrolments.lock();
            let is_it = |enrolment: &Arc<Enrolment>| enrolment.infant.is_some() && Arc::ptr_eq(&enrolment.door, door);
            if enrolments.get(&token).is_some_and(is_it) {
                enrolments.remove(&token)
            } else {
                None
            }
        };
        let Some(enrolment) = expected else {
            // Somebody has found it, or does just now.
            let _finding = self.infants.finding.lock();
            let is_it = |thread: &Arc<GuestThread>| Arc::ptr_eq(&thread.listener, door) && thread.undelivered.lock().is_some();
            return self.thread(tid).filter(is_it).map(|thread| (thread, None));
        };
        let bound = enrolment.bound.lock().take();
        if let Some(bound) = bound {
            if !ends {
                beside::let_run(tid, &bound.usual());
            } else if !enrolment.maker_waits_for_its_death() {
                // The host takes its memory down, which its maker need not wait for.
                beside::let_run_elsewhere(tid, &bound.usual());
            }
        }
        let taken_in = self.take_infant_in(&enrolment, tid);
        if taken_in.is_none() {
            // Whoever rings is alive until it is answered, so that this is its number.
            skerry_platform::engine::kill(tid);
            enrolment.was_killed();
            self.infants.one_less();
        }
        taken_in.map(|thread| (thread, enrolment.parent.clone()))
    }

    fn take_infant_in(self: &Arc<Self>, enrolment: &Arc<Enrolment>, tid: i32) -> Option<Arc<GuestThread>> {
        let thread = self.take_in(enrolment, tid).ok()?;
        self.infants.one_less();
        if let Some(maker) = enrolment.parent.as_ref().filter(|_| !enrolment.reports.load(Ordering::Acquire)) {
            maker.state.lock().clone.take_if(|order| Arc::ptr_eq(order, enrolment));
        }
        Some(thread)
    }

    /// Takes in all processes that have not presented themselves, as far as the host has made them.
    pub(super) fn find_infants(&self) {
        let Some(engine) = self.this.upgrade().filter(|_| !self.infants.are_none()) else { return };
        let _finding = self.infants.finding.lock();
        let expected: Vec<Arc<Enrolment>> = {
            let enrolments = self.enrolments.lock();
            let is_made = |enrolment: &&Arc<Enrolment>| enrolment.infant.is_some() && enrolment.made.load(Ordering::Acquire);
            enrolments.values().filter(is_made).cloned().collect()
        };
        if expected.is_empty() {
            return;
        }
        for pid in self.strangers(living_children().unwrap_or_default()) {
            let memory = GuestMemory::of_pid(pid);
            // Forks of other threads have copies of the certificate, too, but only one has begun with it.
            let is_it = |enrolment: &&Arc<Enrolment>| {
                let block = SLOTS_BASE + enrolment.slot * SLOT_SIZE + BLOCK_OFFSET;
                let (mut token, mut way) = ([0; 16], [0; 8]);
                memory.read(block + WAY_OFFSET, &mut way) == way.len()
                    && u64::from_ne_bytes(way) == WAY_FIRST
                    && memory.read(block + CERTIFICATE_OFFSET + CERTIFICATE_TOKEN, &mut token) == token.len()
                    && token_of(token) == enrolment.token
            };
            let Some(enrolment) = expected.iter().find(is_it) else { continue };
            if self.enrolments.lock().remove(&enrolment.token).is_none() {
                continue;
            }
            match engine.take_infant_in(enrolment, pid) {
                // What it has been told of itself may be true no more.
                Some(thread) => {
                    if let Some(bound) = enrolment.bound.lock().take() {
                        beside::let_run(pid, &bound.usual());
                    }
                    if let Some(maker) = &enrolment.parent {
                        FirstRun::since(0, &maker.children).end();
                    }
                    if let Some(child) = &enrolment.child {
                        // It enters for certain.
                        let _signals = child.signals.lock();
                        child.in_kernel.store(true, Ordering::Release);
                    }
                    thread.host.kick();
                }
                // It has died just now.
                None => drop(self.enrolments.lock().insert(enrolment.token, enrolment.clone())),
            }
        }
    }

    /// Whether some that somebody has looked for are not there yet.
    pub(super) fn are_infants_wanted(&self) -> bool {
        let is_wanted = |enrolment: &Arc<Enrolment>| {
            enrolment.infant.as_ref().is_some_and(|infant| infant.is_wanted.load(Ordering::Acquire))
        };
        !self.infants.are_none() && self.enrolments.lock().values().any(is_wanted)
    }

    fn infant(&self, process: &Process) -> Option<Arc<Enrolment>> {
        let is_its = |enrolment: &&Arc<Enrolment>| {
            enrolment.infant.is_some()
                && enrolment.child.as_ref().is_some_and(|child| std::ptr::eq(&**child.process(), process))
        };
        self.enrolments.lock().values().find(is_its).cloned()
    }

    fn want(&self, process: &Process) {
        let wanted = self.infant(process);
        if let Some(infant) = wanted.as_ref().and_then(|enrolment| enrolment.infant.as_ref()) {
            infant.is_wanted.store(true, Ordering::Release);
            self.reaper.hurry();
        }
    }

    /// Before the call `number`, which may be about other processes.
    pub(super) fn find_infants_before(&self, lead: &dyn Lead, number: u64) {
        if self.infants.are_none() || leaves_infants(number as u32) {
            return;
        }
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                lead.before_blocking();
                std::thread::sleep(BETWEEN * attempt);
            }
            self.find_infants();
            if !self.are_infants_young() {
                return;
            }
        }
    }

    /// Whether there are any that the host has made, or makes, just now.
    fn are_infants_young(&self) -> bool {
        let now = ticks();
        let is_young = |enrolment: &Arc<Enrolment>| {
            enrolment.infant.as_ref().is_some_and(|infant| now.saturating_sub(infant.let_at.load(Ordering::Relaxed)) < YOUNG)
        };
        !self.infants.are_none() && self.enrolments.lock().values().any(is_young)
    }

    /// Only processes are expected that begin before they present themselves.
    pub(super) fn are_only_infants_expected(&self) -> bool {
        self.enrolments.lock().values().all(|enrolment| enrolment.infant.is_some())
    }

    /// Of those that were expected long ago. `true`: it may be that they do not come.
    pub(super) fn is_overdue(&self, enrolment: &Enrolment) -> bool {
        let (Some(infant), Some(maker)) = (&enrolment.infant, &enrolment.parent) else { return false };
        if infant.is_made.load(Ordering::Acquire) {
            return true;
        }
        if infant.looks.fetch_add(1, Ordering::AcqRel) % LOOKS == LOOKS - 1 {
            // Its next request says that it is not in that call any more. In there, a signal has it make the call anew.
            maker.host.kick();
        }
        false
    }
}

fn token_of(bytes: [u8; 16]) -> [u64; 2] {
    let value = u128::from_ne_bytes(bytes);
    [value as u64, (value >> 64) as u64]
}

/// The host process behind `process` is to be known, if there is one yet; else its thread asks as soon as there is.
/// No lock of a process's or a task's may be held.
pub(crate) fn find_infant(process: &Process) {
    let Some(engine) = process.kernel().engine().filter(|engine| !engine.infants.are_none()) else { return };
    if process.host.read().is_some() || process.is_dead() {
        return;
    }
    engine.find_infants();
    if process.host.read().is_none() {
        engine.want(process);
    }
}

/// The same for one that is to be looked at: one that is just being made is waited for, for a little while.
pub(crate) fn await_infant(process: &Process) {
    for attempt in 0..ATTEMPTS {
        find_infant(process);
        let is_known = process.host.read().is_some();
        if is_known || process.kernel().engine().is_none_or(|engine| engine.infant(process).is_none()) {
            return;
        }
        std::thread::sleep(BETWEEN * attempt);
    }
}

/// The host processes of all are to be known. As above.
pub(crate) fn find_infants(kernel: &Kernel) {
    if let Some(engine) = kernel.engine() {
        engine.find_infants();
    }
}

/// Calls that are about no other process's host process, or find it themselves (signals, /proc), and are made often.
fn leaves_infants(number: u32) -> bool {
    super::births::leaves_offers(number)
        || matches!(
            number,
            linux::__NR_fork
                | linux::__NR_vfork
                | linux::__NR_wait4
                | linux::__NR_waitid
                | linux::__NR_exit
                | linux::__NR_exit_group
                | linux::__NR_execve
                | linux::__NR_pipe
                | linux::__NR_pipe2
                | linux::__NR_dup
                | linux::__NR_dup2
                | linux::__NR_dup3
                | linux::__NR_fcntl
                | linux::__NR_ioctl
                | linux::__NR_select
                | linux::__NR_pselect6
                | linux::__NR_ppoll
                | linux::__NR_rt_sigaction
                | linux::__NR_rt_sigprocmask
                | linux::__NR_rt_sigsuspend
                | linux::__NR_rt_sigtimedwait
                | linux::__NR_rt_sigreturn
                | linux::__NR_sigaltstack
                | linux::__NR_pause
                | linux::__NR_getpid
                | linux::__NR_gettid
                | linux::__NR_getppid
                | linux::__NR_getpgrp
                | linux::__NR_setpgid
                | linux::__NR_getpgid
                | linux::__NR_setsid
                | linux::__NR_getuid
                | linux::__NR_geteuid
                | linux::__NR_getgid
                | linux::__NR_getegid
                | linux::__NR_set_robust_list
                | linux::__NR_set_tid_address
                | linux::__NR_rseq
                | linux::__NR_chdir
                | linux::__NR_getcwd
                | linux::__NR_umask
                | linux::__NR_unlink
                | linux::__NR_rename
                | linux::__NR_mkdir
                | linux::__NR_faccessat
                | linux::__NR_faccessat2
                | linux::__NR_readlinkat
                | linux::__NR_ftruncate
                | linux::__NR_socketpair
                | linux::__NR_eventfd2
                | linux::__NR_alarm
                | linux::__NR_uname
        )
}
