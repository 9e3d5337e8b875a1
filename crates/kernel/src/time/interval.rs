//! Timers with an optional interval, on a wall or a CPU clock: what setitimer(2) and timer_create(2) share.

use super::queue::{Expire, Ticket, TimerQueue};
use super::{Clock, CpuClock};
use crate::task::Process;
use crate::Result;
use parking_lot::Mutex;
use rustix::time::ClockId;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Timers are not looked at more often: faster ones count their overruns.
const SHORTEST_PERIOD: Duration = Duration::from_micros(100);
/// How often, at most, a CPU clock is looked at while a timer is set on it.
const SHORTEST_CPU_LOOK: Duration = Duration::from_millis(1);

/// What a timer's nanoseconds count.
#[derive(Clone)]
pub enum Timeline {
    /// CLOCK_MONOTONIC; other wall clocks are turned into it when the timer is set.
    Monotonic,
    Cpu(CpuClock),
    /// User time of a process (ITIMER_VIRTUAL).
    User(Weak<Process>),
    /// CPU time of a process (ITIMER_PROF), without keeping it alive.
    ProcessCpu(Weak<Process>),
}

impl Timeline {
    pub fn now(&self) -> i64 {
        i64::try_from(self.nanos()).unwrap_or(i64::MAX)
    }

    fn nanos(&self) -> u64 {
        match self {
            Timeline::Monotonic => Clock::Host(ClockId::Monotonic).now_nanos(),
            Timeline::Cpu(clock) => clock.nanos(),
            Timeline::User(process) => process.upgrade().map_or(0, |process| {
                let host = process.host.read().clone();
                let now = host.map_or(0, |host| host.cpu_time_ns().0);
                process.earlier_usage().time_ns.0.saturating_add(now)
            }),
            Timeline::ProcessCpu(process) => process.upgrade().map_or(0, |process| CpuClock::Process(process).nanos()),
        }
    }

    /// When to look again for a timer that is due at `target`; `None`: never.
    fn look_at(&self, target: i64) -> Option<Instant> {
        let left = Duration::from_nanos(nanos_until(target, self.now()));
        let threads = match self {
            Timeline::Monotonic => return Instant::now().checked_add(left),
            Timeline::Cpu(clock) => clock.threads(),
            Timeline::User(process) | Timeline::ProcessCpu(process) => {
                process.upgrade().map_or(1, |process| CpuClock::Process(process).threads())
            }
        };
        Instant::now().checked_add((left / threads.min(u32::MAX.into()) as u32).max(SHORTEST_CPU_LOOK))
    }
}

/// 0 where `target` is past.
pub fn nanos_until(target: i64, now: i64) -> u64 {
    if target > now {
        target.abs_diff(now)
    } else {
        0
    }
}

/// Where a timer that is set to `value` lies on a timeline that shows `now`, given as a time of a clock that shows
/// `clock_now` (absolute), or from now.
pub fn target(now: i64, value: u64, clock_now: Option<u64>) -> i64 {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    let from_now = match clock_now {
        Some(clock_now) => value.saturating_sub(i64::try_from(clock_now).unwrap_or(i64::MAX)),
        None => value,
    };
    now.saturating_add(from_now)
}

/// When a timer is due, and how it repeats.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Schedule {
    /// `None`: not set. May lie before the timeline's start: what was missed since then counts (timer_settime(2)).
    pub next: Option<i64>,
    /// 0: once.
    pub interval: u64,
}

impl Schedule {
    /// How often it has come due by `now` since the last time this was asked.
    pub fn expirations(&mut self, now: i64) -> u64 {
        let Some(next) = self.next.filter(|&next| next <= now) else { return 0 };
        if self.interval == 0 {
            self.next = None;
            return 1;
        }
        let count = now.abs_diff(next) / self.interval + 1;
        self.next = Some(next.saturating_add_unsigned(count.saturating_mul(self.interval)));
        count
    }

    pub fn remaining(&self, now: i64) -> u64 {
        self.next.map_or(0, |next| nanos_until(next, now))
    }
}

/// Called with how often the timer came due since the last time.
pub type Action = Box<dyn Fn(u64) + Send + Sync>;

/// A timer that does something.
pub struct IntervalTimer {
    this: Weak<IntervalTimer>,
    queue: Arc<TimerQueue>,
    timeline: Timeline,
    state: Mutex<State>,
    /// `None`: it only counts (SIGEV_NONE).
    action: Option<Action>,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    ticket: Option<Ticket>,
}

impl IntervalTimer {
    pub fn new(queue: Arc<TimerQueue>, timeline: Timeline, action: Option<Action>) -> Arc<IntervalTimer> {
        Arc::new_cyclic(|this| IntervalTimer { this: this.clone(), queue, timeline, state: Mutex::default(), action })
    }

    pub fn timeline(&self) -> &Timeline {
        &self.timeline
    }

    /// Sets it, or stops it; returns what was left: (until the next time, interval).
    pub fn set(&self, schedule: Schedule) -> Result<(u64, u64)> {
        let now = self.timeline.now();
        let mut state = self.state.lock();
        let before = self.left(&mut state, now);
        state.ticket = None;
        state.schedule = schedule;
        self.arm(&mut state, Duration::ZERO)?;
        Ok(before)
    }

    /// (until the next time, interval); (0, 0) where it is not set.
    pub fn get(&self) -> (u64, u64) {
        let now = self.timeline.now();
        self.left(&mut self.state.lock(), now)
    }

    fn left(&self, state: &mut State, now: i64) -> (u64, u64) {
        if self.action.is_none() {
            state.schedule.expirations(now);
        }
        match state.schedule.next {
            // Due but not told yet: as little as can be, but not "not set".
            Some(_) => (state.schedule.remaining(now).max(1), state.schedule.interval),
            None => (0, 0),
        }
    }

    fn arm(&self, state: &mut State, not_before: Duration) -> Result<()> {
        let (Some(next), Some(_)) = (state.schedule.next, &self.action) else { return Ok(()) };
        if let Some(mut look) = self.timeline.look_at(next) {
            look = look.max(Instant::now() + not_before);
            let target: Weak<dyn Expire> = self.this.clone();
            state.ticket = Some(self.queue.schedule(look, target)?);
        }
        Ok(())
    }
}

impl Expire for IntervalTimer {
    fn expire(self: Arc<Self>) {
        let now = self.timeline.now();
        let count = self.state.lock().schedule.expirations(now);
        if let (Some(action), true) = (&self.action, count > 0) {
            action(count);
        }
        let mut state = self.state.lock();
        state.ticket = None;
        // The thread runs, since it runs this: nothing to fail.
        let _ = self.arm(&mut state, SHORTEST_PERIOD);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_schedule_counts_what_it_missed() {
        let mut once = Schedule { next: Some(10), interval: 0 };
        assert_eq!((once.expirations(9), once.expirations(10), once.expirations(99)), (0, 1, 0));
        let mut repeated = Schedule { next: Some(10), interval: 5 };
        assert_eq!(repeated.expirations(21), 3);
        assert_eq!((repeated.next, repeated.remaining(21)), (Some(25), 4));
        let mut long_past = Schedule { next: Some(target(1000, 1, Some(1_000_000))), interval: 1 };
        assert_eq!(long_past.expirations(1000), 1_000_000);
    }

    #[test]
    fn it_fires_repeats_and_stops() {
        let queue = Arc::new(TimerQueue::default());
        let (sender, receiver) = mpsc::channel();
        let sender = Mutex::new(sender);
        let action: Action = Box::new(move |count| sender.lock().send(count).unwrap());
        let timer = IntervalTimer::new(queue, Timeline::Monotonic, Some(action));
        let now = timer.timeline().now();
        assert_eq!(timer.set(Schedule { next: Some(now + 5_000_000), interval: 5_000_000 }), Ok((0, 0)));
        let total: u64 = (0..3).map(|_| receiver.recv_timeout(Duration::from_secs(5)).unwrap()).sum();
        assert!(total >= 3);
        let (left, interval) = timer.set(Schedule::default()).unwrap();
        assert!((1..=5_000_000).contains(&left) && interval == 5_000_000);
        while receiver.try_recv().is_ok() {}
        assert!(receiver.recv_timeout(Duration::from_millis(30)).is_err());
        assert_eq!(timer.get(), (0, 0));
    }
}
