//! timerfd_create(2): a timer whose expirations are read.
//!
//! Expirations are counted when somebody looks; the timer thread only wakes who waits, once for each time that the count
//! has been read, so that a fast timer which nobody reads costs nothing.

use crate::fs::file::{Events, FileOperations, OpenFile};
use crate::fs::inode::Metadata;
use crate::sync::WaitQueue;
use crate::time::interval::{nanos_until, target, Schedule, Timeline};
use crate::time::queue::{Expire, Ticket, TimerQueue};
use crate::time::Clock;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// The timer. Lock order: `state` > the timer queue.
pub struct TimerFd {
    this: Weak<TimerFd>,
    timers: Arc<TimerQueue>,
    clock: Clock,
    clock_id: i32,
    state: Mutex<State>,
    queue: WaitQueue,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    /// Not read yet.
    expirations: u64,
    ticket: Option<Ticket>,
    /// As it was set, for /proc/PID/fdinfo.
    flags: u32,
}

/// timerfd_settime(2).
pub const TFD_TIMER_ABSTIME: u32 = 1;
pub const TFD_TIMER_CANCEL_ON_SET: u32 = 2;

impl State {
    fn count(&mut self, now: i64) {
        self.expirations = self.expirations.saturating_add(self.schedule.expirations(now));
    }
}

impl TimerFd {
    /// `clock` is a wall or monotonic one.
    pub fn new(timers: Arc<TimerQueue>, clock: Clock, clock_id: i32) -> Arc<TimerFd> {
        Arc::new_cyclic(|this| TimerFd {
            this: this.clone(),
            timers,
            clock,
            clock_id,
            state: Mutex::default(),
            queue: WaitQueue::new(),
        })
    }

    /// Sets it to `value` nanoseconds (0 = stop); returns what was left, and the interval before.
    pub fn set(&self, value: u64, interval: u64, flags: u32) -> Result<(u64, u64)> {
        let now = Timeline::Monotonic.now();
        let next = (value != 0).then(|| {
            let clock_now = (flags & TFD_TIMER_ABSTIME != 0).then(|| self.clock.now_nanos());
            target(now, value, clock_now)
        });
        let mut state = self.state.lock();
        state.count(now);
        let before = (state.schedule.remaining(now), state.schedule.interval);
        state.schedule = Schedule { next, interval };
        state.expirations = 0;
        state.flags = flags;
        self.arm(&mut state, now)?;
        Ok(before)
    }

    /// What is left, and the interval.
    pub fn get(&self) -> (u64, u64) {
        let now = Timeline::Monotonic.now();
        let mut state = self.state.lock();
        state.count(now);
        (state.schedule.remaining(now), state.schedule.interval)
    }

    fn arm(&self, state: &mut State, now: i64) -> Result<()> {
        state.ticket = None;
        let Some(next) = state.schedule.next else { return Ok(()) };
        if let Some(deadline) = crate::time::deadline_after(nanos_until(next, now)) {
            let timer: Weak<dyn Expire> = self.this.clone();
            state.ticket = Some(self.timers.schedule(deadline, timer)?);
        }
        Ok(())
    }
}

impl Expire for TimerFd {
    fn expire(self: Arc<Self>) {
        self.queue.wake_all();
    }
}

impl FileOperations for TimerFd {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        let target = buffer.first_chunk_mut::<8>().ok_or(Errno::EINVAL)?;
        let now = Timeline::Monotonic.now();
        let mut state = self.state.lock();
        state.count(now);
        if state.expirations == 0 {
            return Err(Errno::EAGAIN);
        }
        *target = std::mem::take(&mut state.expirations).to_ne_bytes();
        self.arm(&mut state, now)?;
        Ok(8)
    }

    fn poll(&self) -> Events {
        let now = Timeline::Monotonic.now();
        let mut state = self.state.lock();
        state.count(now);
        if state.expirations > 0 {
            Events::IN | Events::RDNORM
        } else {
            Events::empty()
        }
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata())
    }

    fn fdinfo(&self) -> String {
        let (left, interval) = self.get();
        let state = self.state.lock();
        let show = |nanos: u64| {
            let duration = Duration::from_nanos(nanos);
            format!("({}, {})", duration.as_secs(), duration.subsec_nanos())
        };
        format!(
            "clockid: {}\nticks: {}\nsettime flags: {:02o}\nit_value: {}\nit_interval: {}\n",
            self.clock_id,
            state.expirations,
            state.flags,
            show(left),
            show(interval)
        )
    }

    fn anonymous_name(&self) -> String {
        "anon_inode:[timerfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::file::StatusFlags;
    use crate::sync::Waiter;
    use rustix::time::ClockId;
    use std::time::Instant;

    fn timerfd() -> (Arc<TimerFd>, Arc<OpenFile>) {
        let timer = TimerFd::new(Arc::default(), Clock::Host(ClockId::Realtime), 0);
        (timer.clone(), OpenFile::new(timer, StatusFlags::RDWR, None))
    }

    fn read(file: &OpenFile) -> Result<u64> {
        let mut buffer = [0; 8];
        file.operations.read(file, &mut buffer, 0).map(|_| u64::from_ne_bytes(buffer))
    }

    #[test]
    fn expirations_are_counted_and_wake() {
        let (timer, file) = timerfd();
        assert_eq!(read(&file), Err(Errno::EAGAIN));
        let waiter = Waiter::new();
        let _registration = timer.queue.register(waiter.clone());
        timer.set(2_000_000, 2_000_000, 0).unwrap();
        for _ in 0..3 {
            assert!(waiter.sleep(Some(Instant::now() + Duration::from_secs(5))));
            assert!(read(&file).unwrap() >= 1);
        }
        let (left, interval) = timer.set(0, 0, 0).unwrap();
        assert!(left <= 2_000_000 && interval == 2_000_000);
        assert_eq!((read(&file), timer.get()), (Err(Errno::EAGAIN), (0, 0)));
    }

    #[test]
    fn an_absolute_time_that_is_past_is_due_at_once() {
        let (timer, file) = timerfd();
        timer.set(1, 0, TFD_TIMER_ABSTIME).unwrap();
        assert_eq!(file.operations.poll(), Events::IN | Events::RDNORM);
        assert_eq!((read(&file), read(&file)), (Ok(1), Err(Errno::EAGAIN)));
        timer.set(1_000_000_000, 7, 0).unwrap();
        assert_eq!(timer.get().1, 7);
        assert_eq!(read(&file), Err(Errno::EAGAIN));
    }
}
