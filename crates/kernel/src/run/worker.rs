//! The threads that receive rings and serve them.
//!
//! A worker receives on one door and serves each call in place. When a call is about to block, the door goes to another
//! worker first; the one that blocked finishes its call and then parks until a door is handed to it. So there are as many
//! workers as doors and blocked calls, whatever the number of guest threads.

use super::{Door, Engine};
use crate::context::Lead;
use parking_lot::{Condvar, Mutex};
use skerry_platform::engine::{current_thread, interrupt};
use skerry_platform::listener::Notification;
use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

/// Parked workers kept for later; more than these end.
const MAXIMUM_PARKED: usize = 32;
const STACK_SIZE: usize = 512 << 10;

#[derive(Default)]
pub(super) struct Workers {
    parked: Mutex<Vec<Arc<Parked>>>,
}

#[derive(Default)]
struct Parked {
    door: Mutex<Option<Arc<Door>>>,
    ready: Condvar,
}

/// Who holds the right and duty to receive on a door.
pub(super) struct Holder<'a> {
    pub engine: &'a Arc<Engine>,
    pub door: &'a Arc<Door>,
    held: Cell<bool>,
}

impl Lead for Holder<'_> {
    fn before_blocking(&self) {
        if self.held.replace(false) {
            Workers::give(self.engine, self.door.clone());
        }
    }
}

impl Workers {
    /// Has `door` received on by a parked worker, or by a new one.
    pub fn give(engine: &Arc<Engine>, door: Arc<Door>) {
        if let Some(parked) = engine.workers.parked.lock().pop() {
            *parked.door.lock() = Some(door);
            parked.ready.notify_one();
            return;
        }
        loop {
            let (engine_too, door_too) = (engine.clone(), door.clone());
            let spawned = std::thread::Builder::new()
                .name("skerry-worker".into())
                .stack_size(STACK_SIZE)
                .spawn(move || work(engine_too, door_too));
            if spawned.is_ok() {
                return;
            }
            // The host refuses threads for now: without a receiver the application would stand still for good.
            std::thread::sleep(Duration::from_millis(10));
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

    fn park(&self) -> Option<Arc<Door>> {
        let own = Arc::new(Parked::default());
        {
            let mut parked = self.parked.lock();
            if parked.len() >= MAXIMUM_PARKED {
                return None;
            }
            parked.push(own.clone());
        }
        let mut door = own.door.lock();
        while door.is_none() {
            own.ready.wait(&mut door);
        }
        door.take()
    }
}

fn work(engine: Arc<Engine>, door: Arc<Door>) {
    let mut next = Some(door);
    while let Some(door) = next {
        receive(&engine, &door);
        next = engine.workers.park();
    }
}

/// Receives on `door` until it is closed or given away.
fn receive(engine: &Arc<Engine>, door: &Arc<Door>) {
    let own = current_thread();
    *door.receiver.lock() = Some(current_thread());
    let holder = Holder { engine, door, held: Cell::new(true) };
    while holder.held.get() {
        if door.closed.load(Ordering::Acquire) {
            break;
        }
        door.receiving.store(true, Ordering::Release);
        let received = door.listener.receive();
        door.receiving.store(false, Ordering::Release);
        match received {
            Ok(Some(notification)) => serve_or_end(engine, &holder, notification),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    // Given away, the new receiver may have put itself there already.
    let mut receiver = door.receiver.lock();
    if holder.held.get() || receiver.as_ref().is_some_and(|thread| thread.tid == own.tid) {
        *receiver = None;
    }
}

/// A bug of ours that panics ends the application process that met it, not the sandbox: the door keeps its receiver.
fn serve_or_end(engine: &Arc<Engine>, holder: &Holder, notification: Notification) {
    let served = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| engine.serve(holder, notification)));
    if served.is_err() {
        if let Some(thread) = engine.thread(notification.tid) {
            thread.process.kill();
        }
    }
}
