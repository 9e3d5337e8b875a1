//! Deaths of host processes: noticed through pidfds, told to the guest kernel, and taken off the host's table.
//!
//! Most processes are *left* before they are dead: their last call has ended them for the guest. Nothing is urgent about
//! those any more. They are buried by whoever leaves the next one, and by the reaper's thread a little later, which
//! need not be woken for each.

use super::enrol::Enrolment;
use super::worker::Workers;
use super::{Door, Engine, GuestThread};
use crate::task::{self, Dying, ExitStatus, Process};
use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{eventfd, EventfdFlags, Timespec};
use skerry_abi::signal::Signal;
use skerry_platform::cpu_clock::process_cpu_time_ns;
use skerry_platform::engine::{dead_children, living_children, sleeping_children, HostProcess};
use skerry_platform::HostError;
use std::collections::{HashMap, HashSet};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long left processes may lie about.
const LATER: Duration = Duration::from_millis(20);
/// How often the host is asked for its processes at the least.
const SELDOM: Duration = Duration::from_secs(1);
/// A child of ours that nobody knows, that has run and has not said that it has begun, is one that hides; it is seen so for this long.
const HIDES: Duration = Duration::from_secs(2);
/// CPU time, in nanoseconds: a process says so with its first instructions.
const HAS_RUN: u64 = 5_000_000;
/// How often one is looked for that the host is just making.
const SOON: Duration = Duration::from_millis(1);
/// So many of the oldest ones are looked at when another one is left.
const FEW: usize = 4;
/// What the reaper's bell is called; no process has this pid.
const BELL: u64 = 0;

pub(super) struct Reaper {
    epoll: Arc<OwnedFd>,
    watched: Mutex<HashMap<i32, Watched>>,
    /// Rung when there begins to be something left.
    bell: OwnedFd,
    left: Mutex<Left>,
}

struct Watched {
    host: Arc<HostProcess>,
    door: Arc<Door>,
    process: Option<Arc<Process>>,
}

#[derive(Default)]
struct Left {
    /// Oldest first.
    processes: Vec<LeftProcess>,
    /// Host processes that nobody watches yet, and that were here already when it was looked last: most end before somebody
    /// would have to.
    young: Vec<i32>,
    adolescent: Vec<i32>,
    /// Doors that nobody can ring any more, and whose receivers may not have noticed.
    closing: Vec<Arc<Door>>,
    doubtful: Vec<Doubtful>,
    /// Processes that have not presented themselves; those that were expected already when it was looked last; and whether somebody
    /// waits for one.
    expected: Vec<Arc<Enrolment>>,
    overdue: Vec<Arc<Enrolment>>,
    is_hurried: bool,
    /// Children of ours that may be hiding, and since when.
    hiding: HashMap<i32, Instant>,
    /// Dead children of ours that nobody knew when it was looked last.
    dead: Vec<i32>,
    /// When the host is asked about those; and how long after that, as long as it does not help.
    ask_at: Option<Instant>,
    ask_again: Duration,
    /// The reaper's thread looks here before long.
    is_known: bool,
}

/// Of a host process that runs nothing any more only what it used is of interest.
struct LeftProcess {
    host: Arc<HostProcess>,
    dying: Arc<Dying>,
    /// Its thread, where its channel may be used again.
    thread: Option<Arc<GuestThread>>,
}

/// A process that the host was let make, and whose maker does not tell any more whether it did, or cannot be believed.
struct Doubtful {
    enrolment: Arc<Enrolment>,
    /// As long as this one is not dead, the process may still be made.
    maker: Option<Arc<HostProcess>>,
    /// Children of ours since, of which nobody knows whose they are: it can only be one of these.
    candidates: Option<Vec<i32>>,
}

impl Doubtful {
    fn maker_is_done(&self) -> bool {
        self.maker.as_ref().is_none_or(|maker| maker.wait_until_dead(0))
    }

    /// `strangers` are all children of ours, since its maker was done, that nobody knows.
    fn is_among(&mut self, strangers: &[i32]) -> bool {
        let candidates = self.candidates.get_or_insert_with(|| strangers.to_vec());
        candidates.retain(|candidate| strangers.contains(candidate));
        !candidates.is_empty()
    }
}

impl Left {
    fn is_empty(&self) -> bool {
        self.processes.is_empty()
            && self.closing.is_empty()
            && self.doubtful.is_empty()
            && self.expected.is_empty()
            && self.overdue.is_empty()
            && self.dead.is_empty()
            && self.young.is_empty()
            && self.adolescent.is_empty()
    }
}

impl Reaper {
    pub fn new() -> Result<Reaper, HostError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| HostError { what: "epoll_create for the reaper", source: error.into() })?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| HostError { what: "eventfd for the reaper", source: error.into() })?;
        // Every write tells of itself, so nobody has to read it.
        epoll::add(&epoll, &bell, EventData::new_u64(BELL), EventFlags::IN | EventFlags::ET)
            .map_err(|error| HostError { what: "epoll_ctl for the reaper", source: error.into() })?;
        Ok(Reaper { epoll: Arc::new(epoll), watched: Mutex::default(), bell, left: Mutex::default() })
    }

    pub fn run(engine: &Arc<Engine>) -> Result<(), HostError> {
        let engine_too = engine.clone();
        std::thread::Builder::new()
            .name("skerry-reaper".into())
            .spawn(move || reap(&engine_too))
            .map_err(|source| HostError { what: "starting the reaper", source })?;
        Ok(())
    }

    /// Where the deaths of host processes are told.
    pub fn epoll(&self) -> Arc<OwnedFd> {
        self.epoll.clone()
    }

    /// Tells `process` (if it is one already) of the death of `host`; a little late where that comes soon and of itself.
    pub fn watch(&self, host: Arc<HostProcess>, door: Arc<Door>, process: Option<Arc<Process>>) {
        let pid = host.pid;
        self.watched.lock().insert(pid, Watched { host, door, process });
        let mut left = self.left.lock();
        left.young.push(pid);
        self.look_later(&mut left);
    }

    /// The pool process `pid` has become `process`. False: it is dead already, and nobody will hear of it from us.
    pub fn assign(&self, pid: i32, process: &Arc<Process>) -> bool {
        match self.watched.lock().get_mut(&pid) {
            Some(watched) => {
                watched.process = Some(process.clone());
                true
            }
            None => false,
        }
    }

    /// Those that are still here after a while are watched from now on.
    fn watch_adolescents(&self) {
        let grown = {
            let mut left = self.left.lock();
            let young = std::mem::take(&mut left.young);
            std::mem::replace(&mut left.adolescent, young)
        };
        let watched = self.watched.lock();
        grown.iter().filter_map(|pid| watched.get(pid)).for_each(|watched| watched.host.be_watched());
    }

    /// Has left processes and closing doors looked at after a while.
    fn look_later(&self, left: &mut Left) {
        if !left.is_known && !left.is_empty() {
            left.is_known = rustix::io::write(&self.bell, &1u64.to_ne_bytes()).is_ok();
        }
    }

    /// These are to be given up once it is certain that they do not come.
    pub fn doubt(&self, enrolments: Vec<Arc<Enrolment>>, maker: Option<&Arc<HostProcess>>) {
        if !enrolments.is_empty() {
            let mut left = self.left.lock();
            let doubtful = |enrolment| Doubtful { enrolment, maker: maker.cloned(), candidates: None };
            left.doubtful.extend(enrolments.into_iter().map(doubtful));
            (left.ask_at, left.ask_again) = (None, LATER);
            self.look_later(&mut left);
        }
    }

    /// The process will present itself, and is looked for if it does not before long.
    pub fn expect(&self, enrolment: Arc<Enrolment>) {
        let mut left = self.left.lock();
        left.expected.push(enrolment);
        self.look_later(&mut left);
    }

    /// Somebody waits for such a process.
    pub fn hurry(&self) {
        self.left.lock().is_hurried = true;
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }

    pub fn closed(&self, door: Arc<Door>) {
        let mut left = self.left.lock();
        left.closing.push(door);
        self.look_later(&mut left);
    }
}

fn reap(engine: &Arc<Engine>) {
    let mut events = Vec::with_capacity(64);
    let (mut look_at, mut is_hurried) = (None, false);
    loop {
        events.clear();
        let timeout = look_at.map(|at: Instant| {
            let most = if is_hurried { SOON } else { LATER };
            let nanoseconds = at.saturating_duration_since(Instant::now()).as_nanos() as i64;
            Timespec { tv_sec: 0, tv_nsec: nanoseconds.min(most.as_nanos() as i64) }
        });
        match epoll::wait(&*engine.reaper.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        for event in &events {
            let pid = event.data.u64() as i32;
            let watched = engine.reaper.watched.lock().remove(&pid);
            if let Some(watched) = watched {
                engine.buried(&watched);
                if watched.door.remove_user() {
                    engine.reaper.closed(watched.door);
                }
            }
        }
        if std::mem::take(&mut engine.reaper.left.lock().is_hurried) || is_hurried {
            engine.find_infants();
            is_hurried = engine.are_infants_wanted();
        }
        let now = Instant::now();
        if look_at.is_some_and(|at| at <= now) {
            engine.bury_left(usize::MAX);
            // Receivers are told until they have noticed.
            engine.reaper.left.lock().closing.retain(|door| Workers::dismiss(door));
            engine.bury_strangers();
            engine.settle_doubts(now);
            engine.reaper.watch_adolescents();
            engine.look_for_infants();
            look_at = None;
        }
        let mut left = engine.reaper.left.lock();
        left.is_known = !left.is_empty() || is_hurried;
        if left.is_known {
            look_at.get_or_insert(now + LATER);
        }
    }
}

impl Engine {
    fn buried(&self, watched: &Watched) {
        let host = &watched.host;
        let status = host.status();
        self.forget_process(host);
        if watched.process.is_none() {
            self.pool.died(host.pid);
        }
        if let Some(process) = &watched.process {
            let current = process.host.read().as_ref().map(|current| current.pid);
            // Else it has executed another program since, in another host process.
            if current == Some(host.pid) {
                let unexpected = status.map(|status| match status.terminating_signal() {
                    Some(signal) => ExitStatus::Signaled(Signal::new(signal).unwrap_or(Signal::SIGKILL), false),
                    None => ExitStatus::Signaled(Signal::SIGKILL, false),
                });
                task::host_gone(process, unexpected);
            }
        }
    }

    /// Nobody runs in `host` any more: its threads are in calls that are not answered. It is killed, and dies by itself; what
    /// it used is settled then.
    pub(super) fn leave(&self, host: &Arc<HostProcess>, dying: &Arc<Dying>) {
        let thread = self.forget_process(host);
        let Some(watched) = self.reaper.watched.lock().remove(&host.pid) else {
            // It is dead, and buried.
            dying.settle();
            return;
        };
        host.be_left_alone();
        host.end();
        self.bury_left(FEW);
        self.leaving.fetch_add(1, Ordering::AcqRel);
        // Who serves its last call is its door's receiver most often, and sees that the door is closed right afterwards.
        let is_closed = watched.door.remove_user();
        let mut left = self.reaper.left.lock();
        left.processes.push(LeftProcess { host: host.clone(), dying: dying.clone(), thread });
        if is_closed {
            left.closing.push(watched.door);
        }
        self.reaper.look_later(&mut left);
    }

    /// Those that have not presented themselves for a while are taken in as they are; or there is a doubt whether they are there.
    fn look_for_infants(&self) {
        let is_expected = |enrolment: &Arc<Enrolment>| self.is_expected(enrolment);
        let (expected, mut overdue) = {
            let mut left = self.reaper.left.lock();
            (std::mem::take(&mut left.expected), std::mem::take(&mut left.overdue))
        };
        // Outside of the lock: with those that have come since whole processes may go, which takes a while.
        let waiting: Vec<_> = expected.into_iter().filter(is_expected).collect();
        self.reaper.left.lock().overdue = waiting;
        overdue.retain(is_expected);
        if overdue.is_empty() {
            return;
        }
        self.find_infants();
        overdue.retain(is_expected);
        let (doubtful, open) = overdue.into_iter().partition(|enrolment| self.is_overdue(enrolment));
        self.reaper.doubt(doubtful, None);
        self.reaper.left.lock().overdue.extend::<Vec<_>>(open);
    }

    /// A process could overwrite what it is found by before it presents itself, and be out of everybody's reach.
    fn kill_who_hides(&self, strangers: &[i32], now: Instant) {
        if strangers.is_empty() {
            return self.reaper.left.lock().hiding.clear();
        }
        let sleeping = sleeping_children().unwrap_or_default();
        let has_run = |pid: &&i32| sleeping.contains(pid) || process_cpu_time_ns(**pid).is_some_and(|time| time > HAS_RUN);
        // Those from the zygote are expected before they are there.
        let is_certain = self.are_only_infants_expected();
        let suspects: Vec<i32> = strangers.iter().filter(|pid| is_certain && has_run(pid)).copied().collect();
        let mut left = self.reaper.left.lock();
        let before = std::mem::take(&mut left.hiding);
        for pid in suspects {
            let since = before.get(&pid).copied().unwrap_or(now);
            if now.duration_since(since) >= HIDES {
                skerry_platform::engine::kill(pid);
            }
            left.hiding.insert(pid, since);
        }
    }

    /// Gives up processes that were to be made and are not there. One that is there comes before long, or else counts as long
    /// as it is alive.
    fn settle_doubts(&self, now: Instant) {
        let mut certain: Vec<Doubtful> = {
            let mut left = self.reaper.left.lock();
            if left.ask_at.is_some_and(|at| now < at) {
                return;
            }
            left.doubtful.retain(|doubtful| self.is_expected(&doubtful.enrolment));
            let doubtful = std::mem::take(&mut left.doubtful);
            let (certain, open) = doubtful.into_iter().partition(Doubtful::maker_is_done);
            left.doubtful = open;
            certain
        };
        if certain.is_empty() {
            return;
        }
        if let Some(children) = living_children() {
            let strangers = self.strangers(children);
            let mut are_given_up = false;
            certain.retain_mut(|doubtful| {
                let is_there = doubtful.is_among(&strangers);
                if !is_there && self.give_up(&doubtful.enrolment) {
                    self.reaper.closed(doubtful.enrolment.door.clone());
                }
                are_given_up |= !is_there;
                is_there
            });
            let doubted = if certain.is_empty() { &[][..] } else { &strangers[..] };
            self.kill_who_hides(doubted, now);
            if are_given_up {
                // They may have been there, and the host has killed them.
                self.reaper.left.lock().dead = self.strangers(dead_children().unwrap_or_default());
            }
        }
        let mut left = self.reaper.left.lock();
        left.ask_again = if certain.is_empty() { LATER } else { (left.ask_again * 2).min(SELDOM) };
        left.ask_at = (!certain.is_empty()).then(|| now + left.ask_again);
        left.doubtful.extend(certain);
    }

    /// Takes those off the host's table that are dead and that nobody has known for a while: they never presented themselves.
    fn bury_strangers(&self) {
        let seen = std::mem::take(&mut self.reaper.left.lock().dead);
        if !seen.is_empty() {
            let dead = self.strangers(dead_children().unwrap_or_default());
            dead.iter().filter(|pid| seen.contains(pid)).for_each(|&pid| drop(HostProcess::new(pid, None)));
        }
    }

    /// Those of our children that are nobody's host process. One that changes hands just now may seem to be one.
    pub(super) fn strangers(&self, mut children: Vec<i32>) -> Vec<i32> {
        let mut known: HashSet<i32> = self.threads.read().values().map(|thread| thread.host.pid).collect();
        known.extend(self.reaper.watched.lock().keys());
        known.extend(self.reaper.left.lock().processes.iter().map(|process| process.host.pid));
        known.insert(self.zygote.pid());
        children.retain(|child| !known.contains(child));
        children
    }

    /// Takes what is dead of the `count` oldest left processes off the host's table.
    pub(super) fn bury_left(&self, count: usize) {
        let oldest: Vec<LeftProcess> = {
            let mut left = self.reaper.left.lock();
            let count = count.min(left.processes.len());
            left.processes.drain(..count).collect()
        };
        let mut alive = Vec::new();
        for process in oldest {
            if process.dying.settle_if_dead() {
                self.leaving.fetch_sub(1, Ordering::AcqRel);
                drop(process.host);
                if let Some(thread) = process.thread {
                    self.channels.take_back(thread);
                }
            } else {
                alive.push(process);
            }
        }
        if !alive.is_empty() {
            let mut left = self.reaper.left.lock();
            alive.append(&mut left.processes);
            left.processes = alive;
            self.reaper.look_later(&mut left);
        }
    }
}
