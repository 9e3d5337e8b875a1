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
use rustix::process::{waitid, WaitId, WaitIdOptions};
use skerry_abi::signal::Signal;
use skerry_platform::engine::HostProcess;
use skerry_platform::HostError;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long left processes may lie about.
const LATER: Duration = Duration::from_millis(20);
/// How long a process may take from its making to its first ring, once its maker is dead.
const PATIENCE: Duration = Duration::from_secs(2);
/// So many of the oldest ones are looked at when another one is left.
const FEW: usize = 4;
/// What the reaper's bell is called; no process has this pid.
const BELL: u64 = 0;

pub(super) struct Reaper {
    epoll: OwnedFd,
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
    /// Doors that nobody can ring any more, and whose receivers may not have noticed.
    closing: Vec<Arc<Door>>,
    /// Processes that may still come, though their makers are dead; and until when.
    expected: Vec<(Instant, Arc<Enrolment>)>,
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

impl Left {
    fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.closing.is_empty() && self.expected.is_empty()
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
        Ok(Reaper { epoll, watched: Mutex::default(), bell, left: Mutex::default() })
    }

    pub fn run(engine: &Arc<Engine>) -> Result<(), HostError> {
        let engine_too = engine.clone();
        std::thread::Builder::new()
            .name("skerry-reaper".into())
            .spawn(move || reap(&engine_too))
            .map_err(|source| HostError { what: "starting the reaper", source })?;
        Ok(())
    }

    /// Tells `process` (if it is one already) of the death of `host`.
    pub fn watch(&self, host: Arc<HostProcess>, door: Arc<Door>, process: Option<Arc<Process>>) {
        let pid = host.pid;
        self.watched.lock().insert(pid, Watched { host: host.clone(), door, process });
        let data = EventData::new_u64(pid as u64);
        // Fails only for want of memory; the process is then reaped when the sentry ends.
        let _ = epoll::add(&self.epoll, host.death(), data, EventFlags::IN | EventFlags::ONESHOT);
    }

    /// The pool process `pid` has become `process`.
    pub fn assign(&self, pid: i32, process: &Arc<Process>) {
        if let Some(watched) = self.watched.lock().get_mut(&pid) {
            watched.process = Some(process.clone());
        }
    }

    /// Has left processes and closing doors looked at after a while.
    fn look_later(&self, left: &mut Left) {
        if !left.is_known && !left.is_empty() {
            left.is_known = rustix::io::write(&self.bell, &1u64.to_ne_bytes()).is_ok();
        }
    }

    /// Has the guest kernel give these up if they do not come.
    pub fn expect(&self, enrolments: Vec<Arc<Enrolment>>) {
        if !enrolments.is_empty() {
            let until = Instant::now() + PATIENCE;
            let mut left = self.left.lock();
            left.expected.extend(enrolments.into_iter().map(|enrolment| (until, enrolment)));
            self.look_later(&mut left);
        }
    }

    fn closed(&self, door: Arc<Door>) {
        let mut left = self.left.lock();
        left.closing.push(door);
        self.look_later(&mut left);
    }
}

fn reap(engine: &Arc<Engine>) {
    let mut events = Vec::with_capacity(64);
    let mut look_at = None;
    loop {
        events.clear();
        let timeout = look_at.map(|at: Instant| {
            let nanoseconds = at.saturating_duration_since(Instant::now()).as_nanos() as i64;
            Timespec { tv_sec: 0, tv_nsec: nanoseconds.min(LATER.as_nanos() as i64) }
        });
        match epoll::wait(&engine.reaper.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
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
        let now = Instant::now();
        if look_at.is_some_and(|at| at <= now) {
            engine.bury_left(usize::MAX);
            // Receivers are told until they have noticed.
            let late = {
                let mut left = engine.reaper.left.lock();
                left.closing.retain(|door| Workers::dismiss(door));
                let (late, expected) = std::mem::take(&mut left.expected).into_iter().partition(|(until, _)| *until <= now);
                left.expected = expected;
                late
            };
            for (_, enrolment) in late as Vec<(Instant, Arc<Enrolment>)> {
                engine.give_up(&enrolment);
            }
            look_at = None;
        }
        let mut left = engine.reaper.left.lock();
        left.is_known = !left.is_empty();
        if left.is_known {
            look_at.get_or_insert(now + LATER);
        }
    }
}

impl Engine {
    fn buried(&self, watched: &Watched) {
        let host = &watched.host;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::PidFd(host.death()), options).ok().flatten();
        self.forget_process(host.pid);
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
        let thread = self.forget_process(host.pid);
        let Some(watched) = self.reaper.watched.lock().remove(&host.pid) else {
            // It is dead, and buried.
            dying.settle();
            return;
        };
        let _ = epoll::delete(&self.reaper.epoll, host.death());
        host.kill();
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
