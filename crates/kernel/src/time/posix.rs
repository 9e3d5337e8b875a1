//! POSIX timers (timer_create(2)).
//!
//! A timer has at most one signal pending: while that waits to be delivered, further expirations are counted in its
//! overrun. Lock order: the list of timers > a timer's state; signals are sent with neither held.

use super::interval::{target, Action, IntervalTimer, Schedule, Timeline};
use super::Clock;
use crate::signal::PendingSignals;
use crate::task::{Process, Task};
use crate::{Errno, Result};
use parking_lot::Mutex;
use skerry_abi::signal::{Signal, SignalInfo, SI_TIMER};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Weak};

/// However high RLIMIT_SIGPENDING is.
const MOST_TIMERS: usize = 4096;

/// What happens when a timer comes due (sigevent(3type)).
#[derive(Clone)]
pub enum Notification {
    None,
    Process { signal: Signal, value: Option<u64> },
    Thread { task: Weak<Task>, signal: Signal, value: Option<u64> },
}

/// One timer.
pub struct PosixTimer {
    clock: Clock,
    timer: Arc<IntervalTimer>,
    overrun: Arc<AtomicI32>,
}

/// A process's timers.
#[derive(Default)]
pub struct PosixTimers {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    timers: BTreeMap<i32, Arc<PosixTimer>>,
    next_id: i32,
}

impl PosixTimers {
    /// A new timer's id. EAGAIN over the limit of `most` (RLIMIT_SIGPENDING).
    pub fn create(&self, process: &Arc<Process>, clock: Clock, notification: Notification, most: u64) -> Result<i32> {
        let mut inner = self.inner.lock();
        if inner.timers.len() >= MOST_TIMERS || inner.timers.len() as u64 >= most {
            return Err(Errno::EAGAIN);
        }
        let mut id = inner.next_id;
        while inner.timers.contains_key(&id) {
            id = if id == i32::MAX { 0 } else { id + 1 };
        }
        inner.next_id = if id == i32::MAX { 0 } else { id + 1 };
        let timeline = match &clock {
            Clock::Host(_) => Timeline::Monotonic,
            // Weak where it can be: the process owns the timer.
            Clock::Cpu(super::CpuClock::Process(owner)) => Timeline::ProcessCpu(Arc::downgrade(owner)),
            Clock::Cpu(clock) => Timeline::Cpu(clock.clone()),
        };
        let overrun = Arc::new(AtomicI32::new(0));
        let action = make_action(Arc::downgrade(process), id, notification, overrun.clone());
        let timer = IntervalTimer::new(process.kernel().timers.clone(), timeline, action);
        inner.timers.insert(id, Arc::new(PosixTimer { clock, timer, overrun }));
        Ok(id)
    }

    /// EINVAL for an id that is no timer's.
    pub fn get(&self, id: i32) -> Result<Arc<PosixTimer>> {
        self.inner.lock().timers.get(&id).cloned().ok_or(Errno::EINVAL)
    }

    pub fn delete(&self, id: i32) -> Result<()> {
        let timer = self.inner.lock().timers.remove(&id).ok_or(Errno::EINVAL)?;
        timer.timer.set(Schedule::default()).map(drop)
    }

    /// The process runs another program, or has ended.
    pub fn clear(&self) {
        let timers = std::mem::take(&mut self.inner.lock().timers);
        drop(timers);
    }

    /// For /proc/PID/timers: ids.
    pub fn ids(&self) -> Vec<i32> {
        self.inner.lock().timers.keys().copied().collect()
    }
}

impl PosixTimer {
    /// timer_settime(2): nanoseconds on the timer's clock, `absolute` or from now; 0 stops it. Returns what was left, and
    /// the interval before.
    pub fn set(&self, value: u64, interval: u64, absolute: bool) -> Result<(u64, u64)> {
        let next = (value != 0).then(|| {
            let clock_now = absolute.then(|| self.clock.now_nanos());
            target(self.timer.timeline().now(), value, clock_now)
        });
        self.overrun.store(0, Ordering::Relaxed);
        self.timer.set(Schedule { next, interval })
    }

    pub fn get(&self) -> (u64, u64) {
        self.timer.get()
    }

    /// timer_getoverrun(2).
    pub fn overrun(&self) -> i32 {
        self.overrun.load(Ordering::Relaxed)
    }
}

fn make_action(process: Weak<Process>, id: i32, notification: Notification, overrun: Arc<AtomicI32>) -> Option<Action> {
    let info = move |signal: Signal, value: Option<u64>, overrun: i32| {
        // Without a sigevent the value is the timer's id.
        SignalInfo::timer(signal, id, overrun, value.unwrap_or(id as u32 as u64))
    };
    match notification {
        Notification::None => None,
        Notification::Process { signal, value } => Some(Box::new(move |count| {
            let Some(process) = process.upgrade() else { return };
            let waiting = add_overrun(&mut process.signals.lock().pending, id, count);
            overrun.store(waiting.unwrap_or(saturated(count - 1)), Ordering::Relaxed);
            if waiting.is_none() {
                process.send_signal(info(signal, value, saturated(count - 1)));
            }
        })),
        Notification::Thread { task, signal, value } => Some(Box::new(move |count| {
            let Some(task) = task.upgrade() else { return };
            let waiting = add_overrun(&mut task.signals.lock().pending, id, count);
            overrun.store(waiting.unwrap_or(saturated(count - 1)), Ordering::Relaxed);
            if waiting.is_none() {
                task.send_signal(info(signal, value, saturated(count - 1)));
            }
        })),
    }
}

/// DELAYTIMER_MAX is the largest int.
fn saturated(count: u64) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

/// Adds `count` to the overrun of the timer's signal, if that is still pending; returns the sum.
fn add_overrun(pending: &mut PendingSignals, id: i32, count: u64) -> Option<i32> {
    let info = pending.queue.iter_mut().find(|info| info.code == SI_TIMER && info.fields[0] as i32 == id)?;
    let overrun = saturated((info.fields[0] >> 32).saturating_add(count));
    info.fields[0] = u64::from(id as u32) | (overrun as u64) << 32;
    Some(overrun)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pending_signal_counts_further_expirations() {
        let mut pending = PendingSignals::default();
        assert_eq!(add_overrun(&mut pending, 3, 1), None);
        pending.queue.push_back(SignalInfo::timer(Signal::SIGALRM, 3, 2, 99));
        assert_eq!(add_overrun(&mut pending, 4, 1), None);
        assert_eq!(add_overrun(&mut pending, 3, 5), Some(7));
        assert_eq!(add_overrun(&mut pending, 3, u64::MAX), Some(i32::MAX));
        assert_eq!(pending.queue[0].fields, SignalInfo::timer(Signal::SIGALRM, 3, i32::MAX, 99).fields);
    }
}
