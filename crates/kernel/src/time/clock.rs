//! The clocks of clock_gettime(2).
//!
//! Wall and monotonic clocks are the host's, which the guest's vDSO reads too. CPU clocks are those of the host threads
//! behind a process; their ids are Linux's: `~pid << 3 | kind`, bit 2 for a thread.

use crate::run;
use crate::task::{Process, Task};
use crate::{Context, Errno, Result};
use rustix::time::ClockId;
use skerry_abi::structs::TimeSpec;
use std::sync::Arc;

/// A clock.
#[derive(Clone)]
pub enum Clock {
    /// One of the host's own, for reading.
    Host(ClockId),
    Cpu(CpuClock),
}

/// A clock that counts CPU time.
#[derive(Clone)]
pub enum CpuClock {
    Process(Arc<Process>),
    Thread(Arc<Task>),
}

pub const CLOCK_REALTIME: i32 = 0;
pub const CLOCK_MONOTONIC: i32 = 1;
pub const CLOCK_PROCESS_CPUTIME_ID: i32 = 2;
pub const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
pub const CLOCK_BOOTTIME: i32 = 7;
pub const CLOCK_REALTIME_ALARM: i32 = 8;
pub const CLOCK_BOOTTIME_ALARM: i32 = 9;
pub const CLOCK_TAI: i32 = 11;

impl Clock {
    /// The clock behind an id; EINVAL where there is none.
    pub fn from_id(context: &Context, id: i32) -> Result<Clock> {
        Ok(match id {
            0 | CLOCK_REALTIME_ALARM => Clock::Host(ClockId::Realtime),
            1 => Clock::Host(ClockId::Monotonic),
            CLOCK_PROCESS_CPUTIME_ID => Clock::Cpu(CpuClock::Process(context.process().clone())),
            CLOCK_THREAD_CPUTIME_ID => Clock::Cpu(CpuClock::Thread(context.task.clone())),
            4 => Clock::Host(ClockId::MonotonicRaw),
            5 => Clock::Host(ClockId::RealtimeCoarse),
            6 => Clock::Host(ClockId::MonotonicCoarse),
            CLOCK_BOOTTIME | CLOCK_BOOTTIME_ALARM => Clock::Host(ClockId::Boottime),
            CLOCK_TAI => Clock::Host(ClockId::Realtime),
            _ if id < 0 => Clock::Cpu(Clock::cpu_from_id(context, id)?),
            _ => return Err(Errno::EINVAL),
        })
    }

    fn cpu_from_id(context: &Context, id: i32) -> Result<CpuClock> {
        const PER_THREAD: i32 = 4;
        let pid = !(id >> 3);
        // Kind 3 is a device's clock (/dev/ptp0), of which there are none.
        if id & 3 == 3 {
            return Err(Errno::EINVAL);
        }
        let pids = &context.kernel().pids;
        if id & PER_THREAD != 0 {
            let task = if pid == 0 { context.task.clone() } else { pids.task(pid).map_err(|_| Errno::EINVAL)? };
            if !Arc::ptr_eq(task.process(), context.process()) {
                return Err(Errno::EINVAL);
            }
            return Ok(CpuClock::Thread(task));
        }
        if pid == 0 {
            return Ok(CpuClock::Process(context.process().clone()));
        }
        pids.process(pid).map(CpuClock::Process).map_err(|_| Errno::EINVAL)
    }

    pub fn now(&self) -> TimeSpec {
        match self {
            Clock::Host(id) => {
                let now = rustix::time::clock_gettime(*id);
                TimeSpec { sec: now.tv_sec, nsec: now.tv_nsec }
            }
            Clock::Cpu(clock) => TimeSpec::from_nanos(clock.nanos()),
        }
    }

    pub fn resolution(&self) -> TimeSpec {
        match self {
            Clock::Host(id) => {
                let resolution = rustix::time::clock_getres(*id);
                TimeSpec { sec: resolution.tv_sec, nsec: resolution.tv_nsec }
            }
            Clock::Cpu(_) => TimeSpec { sec: 0, nsec: 1 },
        }
    }

    pub fn now_nanos(&self) -> u64 {
        self.now().to_nanos().unwrap_or(0)
    }
}

impl CpuClock {
    /// CPU time used so far.
    pub fn nanos(&self) -> u64 {
        match self {
            CpuClock::Process(process) => {
                let (user, system) = process.earlier_usage().time_ns;
                let host = process.host.read().clone();
                let now = host.and_then(|host| skerry_platform::cpu_clock::process_cpu_time_ns(host.pid)).unwrap_or(0);
                user.saturating_add(system).saturating_add(now)
            }
            CpuClock::Thread(task) => {
                let host = task.host.read().clone();
                host.and_then(|host| host.cpu_clock_ns()).unwrap_or(0)
            }
        }
    }

    /// How many threads may make it advance at once, at least 1.
    pub fn threads(&self) -> u64 {
        match self {
            CpuClock::Process(process) => {
                run::find_births(process.kernel());
                process.threads.lock().len().max(1) as u64
            }
            CpuClock::Thread(_) => 1,
        }
    }
}
