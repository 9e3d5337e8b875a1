//! The three interval timers of a process (setitimer(2), alarm(2)).

use super::interval::{target, Action, IntervalTimer, Schedule, Timeline};
use crate::task::Process;
use crate::{Errno, Result};
use parking_lot::Mutex;
use skerry_abi::signal::{Signal, SignalInfo};
use std::sync::{Arc, Weak};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Which {
    Real = 0,
    Virtual = 1,
    Prof = 2,
}

impl Which {
    /// EINVAL for what is none of the three.
    pub fn new(which: i32) -> Result<Which> {
        match which {
            0 => Ok(Which::Real),
            1 => Ok(Which::Virtual),
            2 => Ok(Which::Prof),
            _ => Err(Errno::EINVAL),
        }
    }

    fn signal(self) -> Signal {
        match self {
            Which::Real => Signal::SIGALRM,
            Which::Virtual => Signal::SIGVTALRM,
            Which::Prof => Signal::SIGPROF,
        }
    }
}

/// A process's interval timers, each made when it is first set.
#[derive(Default)]
pub struct ITimers {
    timers: Mutex<[Option<Arc<IntervalTimer>>; 3]>,
}

impl ITimers {
    /// Sets one to go off after `value` nanoseconds (0 = not at all) and then every `interval`; returns what was left and
    /// the interval before.
    pub fn set(&self, process: &Arc<Process>, which: Which, value: u64, interval: u64) -> Result<(u64, u64)> {
        let timer = self.timer(process, which);
        let next = (value != 0).then(|| target(timer.timeline().now(), value, None));
        timer.set(Schedule { next, interval })
    }

    /// What is left, and the interval.
    pub fn get(&self, which: Which) -> (u64, u64) {
        let timer = self.timers.lock()[which as usize].clone();
        timer.map_or((0, 0), |timer| timer.get())
    }

    fn timer(&self, process: &Arc<Process>, which: Which) -> Arc<IntervalTimer> {
        let mut timers = self.timers.lock();
        timers[which as usize].get_or_insert_with(|| make(process, which)).clone()
    }

    /// The process has ended.
    pub fn clear(&self) {
        let timers = std::mem::take(&mut *self.timers.lock());
        drop(timers);
    }
}

fn make(process: &Arc<Process>, which: Which) -> Arc<IntervalTimer> {
    let process_of_timer: Weak<Process> = Arc::downgrade(process);
    let timeline = match which {
        Which::Real => Timeline::Monotonic,
        Which::Virtual => Timeline::User(process_of_timer.clone()),
        Which::Prof => Timeline::ProcessCpu(process_of_timer.clone()),
    };
    let action: Action = Box::new(move |_| {
        if let Some(process) = process_of_timer.upgrade() {
            process.send_signal(SignalInfo::kernel(which.signal()));
        }
    });
    IntervalTimer::new(process.kernel().timers.clone(), timeline, Some(action))
}
