//! Processes that wait for a program. exec(2) takes one, so that a fresh address space is at hand without a fork on the
//! way; another is ordered at once.

use super::enrol::Enrolment;
use super::worker::Workers;
use super::{Door, Engine, GuestThread};
use crate::{Errno, Result};
use parking_lot::{Condvar, Mutex};
use skerry_platform::zygote::Message;
use skerry_platform::HostError;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Idle processes that are kept ready.
const TARGET: usize = 3;
/// How long an exec waits for a process before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for the first one of all: where the host does not pass rings on, none ever comes.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Arc<GuestThread>>,
    ordered: usize,
    /// Why the last order failed.
    failure: Option<String>,
    closed: bool,
    /// There has been one.
    works: bool,
}

impl Pool {
    /// Starts the thread that receives what the zygote makes.
    pub fn run(engine: &Arc<Engine>) -> Result<(), HostError> {
        let engine_too = engine.clone();
        std::thread::Builder::new()
            .name("skerry-pool".into())
            .spawn(move || {
                while let Ok(message) = engine_too.zygote.receive() {
                    match message {
                        Message::Pool { token, listener } => {
                            let door = Door::new(listener);
                            Enrolment::for_pool(&engine_too, token, door.clone());
                            Workers::give(&engine_too, door);
                        }
                        Message::Failed { stage, errno } => {
                            let error = std::io::Error::from_raw_os_error(errno);
                            engine_too.pool.failed(format!("{stage}: {error}"));
                        }
                        Message::Closed => break,
                    }
                }
                engine_too.pool.close();
            })
            .map_err(|source| HostError { what: "starting the pool's thread", source })?;
        engine.pool.order(engine);
        Ok(())
    }

    fn order(&self, engine: &Engine) {
        let mut state = self.state.lock();
        while state.idle.len() + state.ordered < TARGET {
            if engine.zygote.order(Engine::token()).is_err() {
                state.closed = true;
                return;
            }
            state.ordered += 1;
        }
    }

    /// A pool process is ready: its ring stays unanswered until it gets a program.
    pub fn add(&self, thread: Arc<GuestThread>) {
        let mut state = self.state.lock();
        state.ordered = state.ordered.saturating_sub(1);
        state.idle.push(thread);
        state.works = true;
        self.ready.notify_one();
    }

    fn failed(&self, why: String) {
        let mut state = self.state.lock();
        state.ordered = state.ordered.saturating_sub(1);
        state.failure = Some(why);
        self.ready.notify_all();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }

    /// One that is idle, waiting for it if need be; `before_waiting` runs first then. EAGAIN where the host gives none.
    pub fn take(&self, engine: &Arc<Engine>, before_waiting: impl FnOnce()) -> Result<Arc<GuestThread>> {
        let mut before_waiting = Some(before_waiting);
        let started = Instant::now();
        loop {
            {
                let mut state = self.state.lock();
                if let Some(thread) = state.idle.pop() {
                    drop(state);
                    self.order(engine);
                    return Ok(thread);
                }
                if state.closed {
                    return Err(Errno::EAGAIN);
                }
            }
            self.order(engine);
            if let Some(before_waiting) = before_waiting.take() {
                before_waiting();
            }
            let mut state = self.state.lock();
            if state.idle.is_empty() && !state.closed {
                let patience = if state.works { PATIENCE } else { FIRST_PATIENCE };
                let patience = self.ready.wait_until(&mut state, started + patience);
                if patience.timed_out() && !state.works && state.failure.is_none() {
                    state.failure = Some("no process has rung within 10 s: seccomp user notifications do not arrive here".into());
                }
                if state.idle.is_empty() && (patience.timed_out() || state.failure.is_some()) {
                    return Err(Errno::EAGAIN);
                }
            }
        }
    }

    /// Why the last process could not be made, if one could not.
    pub fn failure(&self) -> Option<String> {
        self.state.lock().failure.clone()
    }
}
