//! The threads that receive rings and serve them.
//!
//! A worker is a thread of the host. It receives on one door and serves each call in place, on a fiber. A call that has
//! to wait is *suspended*: its fiber is put away until somebody wakes it, and the worker goes on receiving on another
//! one. Who wakes it is most often a worker in the middle of a call of its own (somebody writes what the other one reads):
//! that worker goes on with the woken call itself as soon as its own is answered, so that no third thread has to wake up.
//! What other threads wake (timers, the reactor, a death) goes to a worker that has nothing to do.
//!
//! A worker without a door may spin instead ([`super::spin`]).
//!
//! A call that blocks its thread all the same, in slow work of the host, hands the door on to another worker first. So
//! there are as many workers as doors and calls in slow host work, whatever the number of guest threads and waiting calls.
//!
//! Every fiber runs the same loop ([`work`]), so that any of them can go on where another one was left: the loop begins
//! with looking at what its thread is to do now. Nothing of a thread is kept across [`Holder::sleep`]; what a call needs
//! is on its own stack or behind `Arc`s, and what it runs on is found by [`current`].
//!
//! Lock order: `Workers::state` > `Worker::duty`; nothing else is locked or woken with one of them held.

use super::wake::AfterWaking;
use super::{Door, Engine};
use crate::context::Lead;
use crate::sync::{Home, Suspended, Waiter};
use parking_lot::{Condvar, Mutex};
use skerry_platform::engine::{current_thread, interrupt, HostThread};
use skerry_platform::fiber::{switch, Fiber};
use skerry_platform::listener::Notification;
use skerry_platform::processor::ticks;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Workers without a duty that are kept for later; more than these end.
const MAXIMUM_PARKED: usize = 32;
/// Fibers that are kept for later, each with the memory that its stack has touched.
const MAXIMUM_IDLE_FIBERS: usize = 16;
/// Of the fibers' loop there is next to nothing on a worker's own stack.
const STACK_SIZE: usize = 64 << 10;
/// Woken calls that a worker goes on with before it receives again; what is left then is for other workers.
const BATCH: usize = 16;
/// Woken calls in the common queue for each worker that is on its way to it, before one more is sent.
const CALLS_PER_HELPER: usize = 8;

/// What the workers of an engine share.
#[derive(Default)]
pub(super) struct Workers {
    state: Mutex<State>,
    /// Waiting calls keep their threads (a test switched suspension off).
    blocking: AtomicBool,
}

#[derive(Default)]
struct State {
    parked: Vec<Arc<Worker>>,
    /// Woken calls that any worker may go on with.
    woken: VecDeque<Fiber>,
    /// Workers that were sent to `woken` and still are about it.
    helpers: usize,
    /// Fibers at the start of their loop.
    idle: Vec<Fiber>,
}

/// A thread that receives and serves.
struct Worker {
    engine: Arc<Engine>,
    host: HostThread,
    duty: Mutex<Duty>,
    /// A call that it served has woken another one since it last looked after those.
    has_woken: AtomicBool,
    /// There is something new in `duty` for one that is parked.
    sent: Condvar,
}

/// What a worker has to do.
#[derive(Default)]
struct Duty {
    /// It receives here.
    door: Option<Arc<Door>>,
    /// Calls that the one it serves has woken, oldest first.
    woken: VecDeque<Fiber>,
    /// Woken calls since it last received.
    gone_on: usize,
    /// It counts in [`State::helpers`].
    helps: bool,
    /// It watches channels.
    spins: bool,
    /// In host work that may take long: what it wakes must not wait for it.
    is_slow: bool,
    /// The stack that its thread was started on, for its end.
    base: Option<Fiber>,
}

thread_local! {
    static CURRENT: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) };
    /// The ring that the thread received last, and whether those that its call woke go on where they were before.
    static LAST: Cell<(u64, bool)> = const { Cell::new((0, false)) };
}

/// Whether `ring` is the one that the calling worker received last; else its call has waited.
#[inline(never)]
pub(super) fn received_last(ring: u64) -> bool {
    LAST.get().0 == ring
}

/// Whether those that the call which rang last has woken are to go on where they were, not on our CPU.
#[inline(never)]
pub(super) fn wakes_at_home() -> bool {
    LAST.get().1
}

#[inline(never)]
fn set_at_home(at_home: bool) {
    LAST.set((LAST.get().0, at_home));
}

#[inline(never)]
fn set_last(ring: u64) {
    LAST.set((ring, false));
}

/// The worker that the calling thread is. Not inlined: its caller may be on another thread at the next call.
#[inline(never)]
fn current() -> Option<Arc<Worker>> {
    CURRENT.with(|current| current.borrow().clone())
}

#[inline(never)]
fn set_current(worker: Option<Arc<Worker>>) {
    CURRENT.with(|current| *current.borrow_mut() = worker);
}

/// How a call that came through `door` waits.
pub(super) struct Holder<'a> {
    pub engine: &'a Arc<Engine>,
    pub door: &'a Arc<Door>,
    /// The call was seen in its channel by the worker that spins.
    spins: bool,
    /// When it first did, by the processor's clock.
    waited: Cell<Option<u64>>,
}

impl Lead for Holder<'_> {
    fn before_blocking(&self) {
        self.waits();
        if let Some(worker) = current() {
            worker.hand_everything_on();
        }
    }

    fn sleep(&self, waiter: &Arc<Waiter>, deadline: Option<Instant>) -> bool {
        if self.engine.workers.blocking.load(Ordering::Relaxed) {
            self.before_blocking();
            return waiter.sleep(deadline);
        }
        while !waiter.take_notice() {
            if self.spins && !self.has_waited() {
                // Its maker is to ring, which puts it to sleep; and what wakes it is best served on its CPU.
                if let Some(worker) = current() {
                    worker.stop_spinning();
                }
            }
            self.waits();
            if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                return false;
            }
            let ticket = match deadline.map(|deadline| self.engine.timers.schedule(deadline, Arc::downgrade(waiter) as Weak<_>))
            {
                None => None,
                Some(Ok(ticket)) => Some(ticket),
                Some(Err(_)) => return self.sleep_on_thread(waiter, deadline),
            };
            let Some(next) = current().and_then(|worker| worker.next_fiber()) else {
                return self.sleep_on_thread(waiter, deadline);
            };
            let home: Arc<dyn Home> = self.engine.clone();
            switch(next, (waiter.clone(), home), |(waiter, home), fiber| waiter.suspend(Suspended { fiber, home }));
            drop(ticket);
        }
        true
    }
}

impl<'a> Holder<'a> {
    /// For a call that rang.
    pub fn rung(engine: &'a Arc<Engine>, door: &'a Arc<Door>) -> Holder<'a> {
        Holder { engine, door, spins: false, waited: Cell::new(None) }
    }

    /// For a call that the calling worker, which spins, has seen.
    pub fn spinning(engine: &'a Arc<Engine>, door: &'a Arc<Door>) -> Holder<'a> {
        Holder { engine, door, spins: true, waited: Cell::new(None) }
    }

    /// The call has waited, or may have: its worker is another one, or has given up what it was about.
    pub fn has_waited(&self) -> bool {
        self.waited.get().is_some()
    }

    fn waits(&self) {
        self.waited.set(self.waited.get().or_else(|| Some(ticks())));
    }

    /// Once the call is done, of the thread that `after_waking` is of: those that it has woken are gone on with next.
    pub fn count_wakes(&self, after_waking: &AfterWaking) {
        let wakes = current().is_some_and(|worker| worker.has_woken());
        let at_home = after_waking.count(wakes, self.waited.get());
        set_at_home(at_home);
    }

    /// The call has neither waited nor woken another one, so far.
    pub fn is_alone(&self) -> bool {
        !self.has_waited() && current().is_none_or(|worker| !worker.has_woken())
    }

    fn sleep_on_thread(&self, waiter: &Arc<Waiter>, deadline: Option<Instant>) -> bool {
        self.before_blocking();
        waiter.sleep(deadline)
    }
}

impl Home for Engine {
    fn resume(&self, fiber: Fiber) {
        if let Some(worker) = current() {
            let mut duty = worker.duty.lock();
            if !duty.is_slow {
                // It looks there once the call that it serves is done.
                worker.has_woken.store(true, Ordering::Relaxed);
                return duty.woken.push_back(fiber);
            }
        }
        self.workers.add_woken([fiber], self);
    }
}

impl Workers {
    /// Waiting calls keep their threads from now on.
    pub fn switch_suspension_off(&self) {
        self.blocking.store(true, Ordering::Relaxed);
    }

    /// Has `door` received on by a parked worker, or by a new one.
    pub fn give(engine: &Arc<Engine>, door: Arc<Door>) {
        let parked = engine.workers.state.lock().parked.pop();
        match parked {
            Some(worker) => worker.send(|duty| duty.door = Some(door)),
            None => start(engine, Duty { door: Some(door), ..Duty::default() }),
        }
    }

    /// Has a parked worker, or a new one, spin.
    pub fn give_spinning(engine: &Arc<Engine>) {
        let parked = engine.workers.state.lock().parked.pop();
        match parked {
            Some(worker) => worker.send(|duty| duty.spins = true),
            None if try_start(engine, &mut Some(Duty { spins: true, ..Duty::default() })) => {}
            // The host refuses threads for now; all goes on by ringing.
            None => engine.spinner.release(),
        }
    }

    /// Has the calls gone on with by workers that have nothing else to do.
    fn add_woken(&self, fibers: impl IntoIterator<Item = Fiber>, engine: &Engine) {
        let helper = {
            let mut state = self.state.lock();
            state.woken.extend(fibers);
            state.next_helper()
        };
        match helper {
            Helper::NotNeeded => {}
            Helper::Parked(worker) => worker.send(|duty| duty.helps = true),
            Helper::New => match engine.this.upgrade() {
                Some(engine) => start(&engine, Duty { helps: true, ..Duty::default() }),
                None => self.state.lock().helpers -= 1,
            },
        }
    }

    fn put_away(&self, fiber: Fiber) {
        let mut state = self.state.lock();
        if state.idle.len() < MAXIMUM_IDLE_FIBERS {
            state.idle.push(fiber);
        }
    }

    /// Makes the receiver of a closed door notice. False once it has; it may be just before its wait, so call again.
    pub fn dismiss(door: &Door) -> bool {
        match &*door.receiver.lock() {
            Some(thread) => {
                // Not in the middle of a call that it serves.
                if door.receiving.load(Ordering::Acquire) {
                    interrupt(thread);
                }
                true
            }
            None => false,
        }
    }
}

enum Helper {
    NotNeeded,
    Parked(Arc<Worker>),
    New,
}

impl State {
    /// Who is to look at the common queue, if it needs one more; counted already.
    fn next_helper(&mut self) -> Helper {
        if self.woken.len() <= self.helpers * CALLS_PER_HELPER {
            return Helper::NotNeeded;
        }
        match self.parked.pop() {
            Some(worker) => {
                self.helpers += 1;
                Helper::Parked(worker)
            }
            // More of them than CPUs would not be faster; the first one there must be.
            None if self.helpers < 2 => {
                self.helpers += 1;
                Helper::New
            }
            None => Helper::NotNeeded,
        }
    }
}

/// Starts a worker.
fn start(engine: &Arc<Engine>, duty: Duty) {
    let mut duty = Some(duty);
    while !try_start(engine, &mut duty) {
        // The host refuses threads for now: without a receiver the application would stand still for good.
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Starts a worker, which takes its duty, if the host lets us have one more thread.
fn try_start(engine: &Arc<Engine>, duty: &mut Option<Duty>) -> bool {
    let given = Arc::new(Mutex::new(duty.take()));
    let (engine, taken) = (engine.clone(), given.clone());
    let spawned = std::thread::Builder::new().name("skerry-worker".into()).stack_size(STACK_SIZE).spawn(move || {
        let duty = taken.lock().take();
        if let Some(duty) = duty {
            run(Arc::new(Worker {
                engine,
                host: current_thread(),
                duty: Mutex::new(duty),
                has_woken: AtomicBool::new(false),
                sent: Condvar::new(),
            }));
        }
    });
    if spawned.is_err() {
        *duty = given.lock().take();
    }
    spawned.is_ok()
}

/// A worker's life, as its thread sees it: it leaves this stack for a fiber, and comes back at its end.
fn run(worker: Arc<Worker>) {
    let first = loop {
        match worker.next_fiber() {
            Some(fiber) => break fiber,
            // No memory for a stack now.
            None => std::thread::sleep(Duration::from_millis(10)),
        }
    };
    if let Some(door) = &worker.duty.lock().door {
        door.received_on_by(Some(&worker.host));
    }
    set_current(Some(worker.clone()));
    switch(first, worker, |worker, base| worker.duty.lock().base = Some(base));
    set_current(None);
}

/// What each fiber does, from one call to the next.
extern "C" fn work() -> ! {
    loop {
        // Between two calls, there is nothing on the stack that would have to go where the fiber is put away or dropped.
        match next_task() {
            Task::GoOn(fiber, engine) => switch(fiber, engine, |engine, idle| engine.workers.put_away(idle)),
            Task::Serve(engine, door, notification) => serve_or_end(&engine, &Holder::rung(&engine, &door), notification),
            Task::Spin(worker) => {
                if worker.engine.spinner.session(&worker.engine, || worker.has_woken()) {
                    worker.stop_spinning();
                }
            }
            Task::End(base) => switch(base, (), |(), idle| drop(idle)),
        }
    }
}

/// What a fiber is to do next.
enum Task {
    /// Leave the thread to this call.
    GoOn(Fiber, Arc<Engine>),
    Serve(Arc<Engine>, Arc<Door>, Notification),
    Spin(Arc<Worker>),
    /// Leave the thread to its end.
    End(Fiber),
}

#[inline(never)]
fn next_task() -> Task {
    loop {
        let worker = current().expect("fibers run on workers only");
        if let Some(fiber) = worker.next_woken() {
            return Task::GoOn(fiber, worker.engine.clone());
        }
        let (door, spins) = {
            let duty = worker.duty.lock();
            (duty.door.clone(), duty.spins)
        };
        match door {
            None if spins => return Task::Spin(worker),
            Some(door) => {
                if let Some(notification) = worker.receive(&door) {
                    set_last(notification.id);
                    return Task::Serve(worker.engine.clone(), door, notification);
                }
            }
            None => {
                if let Some(base) = worker.park() {
                    return Task::End(base);
                }
            }
        }
    }
}

impl Worker {
    fn send(&self, change: impl FnOnce(&mut Duty)) {
        let mut duty = self.duty.lock();
        change(&mut duty);
        self.sent.notify_one();
    }

    /// A call that it served has woken others, which it is to go on with.
    fn has_woken(&self) -> bool {
        self.has_woken.load(Ordering::Relaxed)
    }

    fn stop_spinning(&self) {
        if std::mem::take(&mut self.duty.lock().spins) {
            self.engine.spinner.release();
        }
    }

    /// What the thread can run in place of a call that is suspended: a woken one, else one that begins the loop.
    fn next_fiber(&self) -> Option<Fiber> {
        if let Some(fiber) = self.next_woken() {
            return Some(fiber);
        }
        let idle = self.engine.workers.state.lock().idle.pop();
        idle.or_else(|| Fiber::new(work).ok())
    }

    /// A call to go on with before anything else, if there is one and it is not the others' turn.
    fn next_woken(&self) -> Option<Fiber> {
        let (left, helps) = {
            let mut duty = self.duty.lock();
            self.has_woken.store(false, Ordering::Relaxed);
            duty.is_slow = false;
            if duty.gone_on < BATCH || duty.door.is_none() {
                if let Some(fiber) = duty.woken.pop_front() {
                    duty.gone_on += 1;
                    return Some(fiber);
                }
            }
            (std::mem::take(&mut duty.woken), duty.helps)
        };
        if !left.is_empty() {
            self.engine.workers.add_woken(left, &self.engine);
            return None;
        }
        // The common queue is for those that were sent to it.
        if helps {
            return self.engine.workers.state.lock().woken.pop_front();
        }
        None
    }

    /// Waits for a ring. `None`: look what else there is to do.
    fn receive(&self, door: &Arc<Door>) -> Option<Notification> {
        self.duty.lock().gone_on = 0;
        if door.closed.load(Ordering::Acquire) {
            self.leave(door);
            return None;
        }
        door.receiving.store(true, Ordering::Release);
        let received = door.listener.receive();
        door.receiving.store(false, Ordering::Release);
        match received {
            Ok(notification) => notification,
            Err(_) => {
                self.leave(door);
                None
            }
        }
    }

    /// The door is of no use any more.
    fn leave(&self, door: &Door) {
        self.duty.lock().door = None;
        door.received_on_by(None);
    }

    /// The thread is about to block: what it would do next is for others.
    fn hand_everything_on(&self) {
        self.stop_spinning();
        let (door, woken, helped) = {
            let mut duty = self.duty.lock();
            duty.is_slow = true;
            (duty.door.take(), std::mem::take(&mut duty.woken), std::mem::take(&mut duty.helps))
        };
        if let Some(door) = door {
            door.receiver_goes(&self.host);
            Workers::give(&self.engine, door);
        }
        if helped {
            self.engine.workers.state.lock().helpers -= 1;
        }
        if helped || !woken.is_empty() {
            self.engine.workers.add_woken(woken, &self.engine);
        }
    }

    /// Waits for a duty. The thread's own stack where there are enough that wait: it is to end.
    fn park(self: &Arc<Worker>) -> Option<Fiber> {
        {
            let mut state = self.engine.workers.state.lock();
            let mut duty = self.duty.lock();
            if duty.helps {
                if !state.woken.is_empty() {
                    return None;
                }
                duty.helps = false;
                state.helpers -= 1;
            }
            if state.parked.len() >= MAXIMUM_PARKED {
                return duty.base.take();
            }
            state.parked.push(self.clone());
        }
        let mut duty = self.duty.lock();
        while duty.door.is_none() && !duty.helps && !duty.spins {
            self.sent.wait(&mut duty);
        }
        if let Some(door) = duty.door.clone() {
            drop(duty);
            door.received_on_by(Some(&self.host));
        }
        None
    }
}

impl Door {
    /// Who receives from now on.
    fn received_on_by(&self, thread: Option<&HostThread>) {
        *self.receiver.lock() = thread.map(|thread| HostThread::new(thread.pid, thread.tid));
    }

    /// `thread` receives no more; unless the next one has begun already.
    fn receiver_goes(&self, thread: &HostThread) {
        let mut receiver = self.receiver.lock();
        if receiver.as_ref().is_some_and(|receiver| receiver.tid == thread.tid) {
            *receiver = None;
        }
    }
}

/// A bug of ours that panics ends the application process that met it, not the sandbox: the door keeps its receiver.
fn serve_or_end(engine: &Arc<Engine>, holder: &Holder, notification: Notification) {
    let began = ticks();
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.serve(holder, notification, began)));
    if served.is_err() {
        if let Some(thread) = engine.thread(notification.tid) {
            thread.process.kill();
        }
    }
}
