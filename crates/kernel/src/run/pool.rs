//! Processes that wait for a program. exec(2) takes one, so that a fresh address space is at hand without a fork on the
//! way. More are ordered once the program runs, several at a time, and the more the faster they go.

use super::enrol::Enrolment;
use super::exec::MAXIMUM_STRINGS;
use super::worker::Workers;
use super::{Door, Engine, GuestThread};
use crate::{Errno, Result};
use parking_lot::{Condvar, Mutex};
use skerry_platform::layout::{action, zygote, Reply};
use skerry_platform::zygote::{Message, Order};
use skerry_platform::HostError;
use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Idle processes that are kept ready: at rest, and at the most.
const FEWEST: usize = 3;
const MOST: usize = 12;
/// After so long without a program that was started, the number goes back to that at rest.
const CALM: Duration = Duration::from_secs(3);
/// How long an exec waits for a process before it gives up.
const PATIENCE: Duration = Duration::from_secs(30);
/// The same for the first one of all: where the host does not pass rings on, none ever comes.
const FIRST_PATIENCE: Duration = Duration::from_secs(10);
/// After so long without one that was ordered, it is ordered again.
const ORDER_PATIENCE: Duration = Duration::from_secs(3);

const _: () = assert!(MOST <= zygote::MAXIMUM_FORKS);

/// What a process in the pool has mapped for its program's stack, as large as most programs have it.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreparedStack {
    pub start: u64,
    pub size: u64,
}

impl PreparedStack {
    /// Stacks end this many bits of pages above this address.
    pub const TOP: u64 = 0x7ee0_0000_0000;
    pub const RANDOM_BITS: u32 = 24;
    /// RLIMIT_STACK at its default, and room for the largest arguments.
    const SIZE: u64 = (8 << 20) + MAXIMUM_STRINGS;

    fn random() -> PreparedStack {
        let mut bytes = [0u8; 8];
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
        let pages = u64::from_ne_bytes(bytes) & ((1 << Self::RANDOM_BITS) - 1);
        PreparedStack { start: Self::TOP + pages * 4096 - Self::SIZE, size: Self::SIZE }
    }

    pub fn top(&self) -> u64 {
        self.start + self.size
    }
}

#[derive(Default)]
pub(super) struct Pool {
    state: Mutex<State>,
    ready: Condvar,
}

#[derive(Default)]
struct State {
    idle: Vec<Arc<GuestThread>>,
    /// What was ordered and has not announced itself, by token.
    announced_by: HashMap<[u64; 2], PreparedStack>,
    /// Ordered, and not idle yet.
    ordered: usize,
    /// How many are to be ready.
    target: Option<usize>,
    last_taken: Option<Instant>,
    /// Why the last order failed.
    failure: Option<String>,
    closed: bool,
    /// There has been one.
    works: bool,
}

impl State {
    fn target(&self) -> usize {
        self.target.unwrap_or(FEWEST)
    }
}

/// A process out of the pool. It goes back there unless it is kept.
pub(super) struct Fresh<'a> {
    engine: &'a Engine,
    thread: Option<Arc<GuestThread>>,
}

impl Fresh<'_> {
    pub fn thread(&self) -> &GuestThread {
        self.thread.as_ref().expect("there until it is kept")
    }

    pub fn keep(mut self) -> Arc<GuestThread> {
        self.thread.take().expect("kept once")
    }
}

impl Drop for Fresh<'_> {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.engine.pool.state.lock().idle.push(thread);
            self.engine.pool.ready.notify_one();
        }
    }
}

impl Pool {
    /// Starts the thread that receives what the zygote makes.
    pub fn run(engine: &Arc<Engine>) -> Result<(), HostError> {
        let engine_too = engine.clone();
        std::thread::Builder::new()
            .name("skerry-pool".into())
            .spawn(move || {
                loop {
                    let calm = engine_too.pool.calms_down_in();
                    match engine_too.zygote.receive(calm) {
                        Ok(None) => engine_too.pool.shrink(&engine_too),
                        Ok(Some(Message::Pool { token, listener })) => {
                            let Some(stack) = engine_too.pool.state.lock().announced_by.remove(&token) else { continue };
                            let door = Door::new(listener);
                            Enrolment::for_pool(&engine_too, token, door.clone(), stack);
                            Workers::give(&engine_too, door);
                        }
                        Ok(Some(Message::Failed { stage, errno })) => {
                            let error = std::io::Error::from_raw_os_error(errno);
                            engine_too.pool.failed(format!("{stage}: {error}"));
                        }
                        Ok(Some(Message::Closed)) | Err(_) => break,
                    }
                }
                engine_too.pool.close();
            })
            .map_err(|source| HostError { what: "starting the pool's thread", source })?;
        engine.pool.order(engine);
        Ok(())
    }

    /// Orders what is missing.
    fn order(&self, engine: &Engine) {
        let mut state = self.state.lock();
        let missing = state.target().saturating_sub(state.idle.len() + state.ordered);
        if missing == 0 || state.closed {
            return;
        }
        let orders: Vec<Order> = (0..missing)
            .map(|_| {
                let (token, stack) = (engine.token(), PreparedStack::random());
                state.announced_by.insert(token, stack);
                Order { token, stack: (stack.start, stack.size) }
            })
            .collect();
        match engine.zygote.order(&orders) {
            Ok(()) => {
                state.ordered += missing;
                state.failure = None;
            }
            Err(_) => state.closed = true,
        }
    }

    /// A program has been started: orders more, unless there still are many. Waking the zygote costs as much for one as for
    /// some.
    pub fn refill(&self, engine: &Engine) {
        let is_low = {
            let state = self.state.lock();
            (state.idle.len() + state.ordered) * 2 <= state.target()
        };
        if is_low {
            self.order(engine);
        }
    }

    /// A pool process is ready: its ring stays unanswered until it gets a program.
    pub fn add(&self, thread: Arc<GuestThread>) {
        let mut state = self.state.lock();
        state.ordered = state.ordered.saturating_sub(1);
        // Dead already, and buried.
        if !thread.retired.load(Ordering::Acquire) {
            state.idle.push(thread);
        }
        state.works = true;
        state.failure = None;
        self.ready.notify_one();
    }

    /// The host has ended the process `pid`, which had no program yet. Called behind [`Engine::forget_process`].
    pub fn died(&self, pid: i32) {
        let mut state = self.state.lock();
        let before = state.idle.len();
        state.idle.retain(|thread| thread.process.pid != pid);
        if state.idle.len() == before {
            // On its way here, or already out again; then one more than needed comes.
            state.ordered = state.ordered.saturating_sub(1);
        }
        self.ready.notify_all();
    }

    fn failed(&self, why: String) {
        let mut state = self.state.lock();
        state.ordered = state.ordered.saturating_sub(1);
        state.failure = Some(why);
        if state.ordered == 0 {
            state.announced_by.clear();
        }
        self.ready.notify_all();
    }

    fn close(&self) {
        self.state.lock().closed = true;
        self.ready.notify_all();
    }

    /// When there may be fewer again; `None`: there are no more than at rest.
    fn calms_down_in(&self) -> Option<Duration> {
        let state = self.state.lock();
        let taken = state.last_taken.filter(|_| state.target() > FEWEST)?;
        Some((taken + CALM).saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
    }

    fn shrink(&self, engine: &Engine) {
        let surplus = {
            let mut state = self.state.lock();
            if state.last_taken.is_some_and(|taken| taken.elapsed() < CALM) {
                return;
            }
            state.target = None;
            let keep = state.idle.len().min(FEWEST);
            state.idle.split_off(keep)
        };
        for thread in surplus {
            engine.answer(&thread, Reply { action: action::EXIT_PROCESS, ..Reply::default() });
        }
    }

    /// One that is idle, waiting for it if need be; `before_waiting` runs first then. EAGAIN where the host gives none.
    pub fn take<'a>(&self, engine: &'a Arc<Engine>, before_waiting: impl FnOnce()) -> Result<Fresh<'a>> {
        let mut before_waiting = Some(before_waiting);
        let started = Instant::now();
        loop {
            {
                let mut state = self.state.lock();
                // One may be dead without the reaper's having looked.
                while state.idle.last().is_some_and(|thread| thread.process.status().is_some()) {
                    state.idle.pop();
                }
                if let Some(thread) = state.idle.pop() {
                    // They go as fast as they come: more at a time.
                    if state.idle.is_empty() {
                        state.target = Some((state.target() * 2).min(MOST));
                    }
                    state.last_taken = Some(started);
                    return Ok(Fresh { engine, thread: Some(thread) });
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
                let until = (started + patience).min(Instant::now() + ORDER_PATIENCE);
                // The order may have failed before we look: nobody wakes us then.
                let late = state.failure.is_none() && self.ready.wait_until(&mut state, until).timed_out();
                let timed_out = late && started.elapsed() >= patience;
                if late && state.idle.is_empty() {
                    // The host may have ended them before they had presented themselves.
                    state.ordered = 0;
                }
                if timed_out && !state.works && state.failure.is_none() {
                    state.failure =
                        Some("no process has rung within 10 s: seccomp user notifications do not arrive here".into());
                }
                if state.idle.is_empty() && (timed_out || state.failure.is_some()) {
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
