//! splice(2) and tee(2) between two pipes: slots change hands, bytes are not copied.

use super::{Pipe, PipeEnd, State};
use crate::fs::file::OpenFile;
use crate::{Errno, Result};
use parking_lot::MutexGuard;
use std::sync::atomic::Ordering;

/// What happens to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// splice(2): the bytes leave it.
    Move,
    /// tee(2): the bytes stay.
    Copy,
}

/// Moves or copies up to `length` bytes from one pipe to another. 0: no writer will come; EAGAIN: the source is empty or
/// the target full; EPIPE: the target has no reader; EINVAL: not two different pipes; EBADF: a wrong end.
pub fn between(from: &OpenFile, to: &OpenFile, length: usize, transfer: Transfer) -> Result<usize> {
    let from = from.downcast::<PipeEnd>().ok_or(Errno::EINVAL)?;
    let to = to.downcast::<PipeEnd>().ok_or(Errno::EINVAL)?;
    if !from.side.reads() || !to.side.writes() {
        return Err(Errno::EBADF);
    }
    let (source, target) = (&*from.pipe, &*to.pipe);
    if std::ptr::eq(source, target) {
        return Err(Errno::EINVAL);
    }
    let (mut source_state, mut target_state) = lock_both(source, target);
    if target_state.readers == 0 {
        return Err(Errno::EPIPE);
    }
    if source_state.slots.is_empty() {
        return if source_state.writers == 0 { Ok(0) } else { Err(Errno::EAGAIN) };
    }
    if target_state.slots.is_full() {
        return Err(Errno::EAGAIN);
    }
    let (was_full, was_empty) = (source_state.slots.is_full(), target_state.slots.is_empty());
    let count = match transfer {
        Transfer::Move => source_state.slots.move_to(&mut target_state.slots, length),
        Transfer::Copy => source_state.slots.copy_to(&mut target_state.slots, length),
    };
    let has_room = was_full && !source_state.slots.is_full();
    drop((source_state, target_state));
    if count > 0 && (was_empty || target.polled.load(Ordering::Relaxed)) {
        target.wake_readers();
    }
    if has_room || (transfer == Transfer::Move && source.polled.load(Ordering::Relaxed)) {
        source.wake_writers();
    }
    Ok(count)
}

/// Locks both in the order of their addresses; returns the first's guard first.
fn lock_both<'a>(first: &'a Pipe, second: &'a Pipe) -> (MutexGuard<'a, State>, MutexGuard<'a, State>) {
    if std::ptr::from_ref(first) < std::ptr::from_ref(second) {
        let guard = first.lock();
        (guard, second.lock())
    } else {
        let guard = second.lock();
        (first.lock(), guard)
    }
}
