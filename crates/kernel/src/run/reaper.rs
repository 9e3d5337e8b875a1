//! Deaths of host processes: noticed through pidfds, told to the guest kernel, and taken off the host's table.

use super::worker::Workers;
use super::{Door, Engine};
use crate::task::{self, Dying, ExitStatus, Process};
use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::process::{waitid, WaitId, WaitIdOptions};
use skerry_abi::signal::Signal;
use skerry_platform::engine::HostProcess;
use skerry_platform::HostError;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

pub(super) struct Reaper {
    epoll: OwnedFd,
    watched: Mutex<HashMap<i32, Watched>>,
}

struct Watched {
    host: Arc<HostProcess>,
    door: Arc<Door>,
    process: Option<Arc<Process>>,
    /// It has been left already, and only what it used is of interest.
    dying: Option<Arc<Dying>>,
}

impl Reaper {
    pub fn new() -> Result<Reaper, HostError> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)
            .map_err(|error| HostError { what: "epoll_create for the reaper", source: error.into() })?;
        Ok(Reaper { epoll, watched: Mutex::default() })
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
        self.watched.lock().insert(pid, Watched { host: host.clone(), door, process, dying: None });
        let data = EventData::new_u64(pid as u64);
        // Fails only for want of memory; the process is then reaped when the sentry ends.
        let _ = epoll::add(&self.epoll, host.death(), data, EventFlags::IN | EventFlags::ONESHOT);
    }

    /// The host process `pid` runs nothing any more; what it used is settled once it is dead. False: it is.
    pub fn leave(&self, pid: i32, dying: &Arc<Dying>) -> bool {
        let mut all = self.watched.lock();
        let Some(watched) = all.get_mut(&pid) else { return false };
        watched.process = None;
        watched.dying = Some(dying.clone());
        true
    }

    /// The pool process `pid` has become `process`.
    pub fn assign(&self, pid: i32, process: &Arc<Process>) {
        if let Some(watched) = self.watched.lock().get_mut(&pid) {
            watched.process = Some(process.clone());
        }
    }
}

fn reap(engine: &Arc<Engine>) {
    let mut closing: Vec<Arc<Door>> = Vec::new();
    let mut events = Vec::with_capacity(64);
    loop {
        events.clear();
        let soon = rustix::time::Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
        let timeout = (!closing.is_empty()).then_some(&soon);
        match epoll::wait(&engine.reaper.epoll, rustix::buffer::spare_capacity(&mut events), timeout) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
        for event in &events {
            let pid = event.data.u64() as i32;
            let Some(watched) = engine.reaper.watched.lock().remove(&pid) else { continue };
            engine.buried(&watched);
            if watched.door.remove_user() {
                closing.push(watched.door);
            }
        }
        // Receivers of doors that nobody can ring any more are told until they have noticed.
        closing.retain(|door| Workers::dismiss(door));
    }
}

impl Engine {
    fn buried(&self, watched: &Watched) {
        let host = &watched.host;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        let status = waitid(WaitId::PidFd(host.death()), options).ok().flatten();
        self.forget(|thread| thread.process.pid == host.pid);
        if let Some(dying) = &watched.dying {
            dying.settle();
            self.leaving.fetch_sub(1, Ordering::AcqRel);
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
}
