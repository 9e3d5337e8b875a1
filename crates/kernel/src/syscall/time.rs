//! Clocks and sleeping (time(7)).

use super::UserAddress;
use crate::time::clock::{CLOCK_MONOTONIC, CLOCK_REALTIME, CLOCK_THREAD_CPUTIME_ID};
use crate::time::{Clock, CpuClock};
use crate::{Context, Errno, Result};
use skerry_abi::structs::{TimeSpec, TimeVal};
use std::time::{Duration, Instant};

/// clock_nanosleep(2): the request is a point in time.
const TIMER_ABSTIME: u32 = 1;

/// clock_gettime(2). EINVAL for a clock that is not there, EFAULT.
pub fn clock_gettime(context: &mut Context, clock: i32, time: UserAddress) -> Result<()> {
    let now = Clock::from_id(context, clock)?.now();
    context.write(time.0, &now)
}

/// clock_getres(2): `resolution` may be null.
pub fn clock_getres(context: &mut Context, clock: i32, resolution: UserAddress) -> Result<()> {
    let clock = Clock::from_id(context, clock)?;
    match resolution.non_null() {
        Some(address) => context.write(address, &clock.resolution()),
        None => Ok(()),
    }
}

/// clock_settime(2): EPERM, the clock is the host's; EINVAL for one that nobody can set.
pub fn clock_settime(context: &mut Context, clock: i32, time: UserAddress) -> Result<()> {
    if clock != CLOCK_REALTIME {
        return Err(Errno::EINVAL);
    }
    let time: TimeSpec = context.read(time.0)?;
    time.to_nanos().ok_or(Errno::EINVAL)?;
    Err(Errno::EPERM)
}

/// adjtimex(2): what an unsynchronised clock says; it cannot be changed. The result is the clock's state.
pub fn adjtimex(context: &mut Context, buffer: UserAddress) -> Result<i32> {
    /// In the structure, as words of 64 bits.
    const MAXIMUM_ERROR: usize = 3;
    const ESTIMATED_ERROR: usize = 4;
    const STATUS: usize = 5;
    const CONSTANT: usize = 6;
    const PRECISION: usize = 7;
    const TOLERANCE: usize = 8;
    const TIME: usize = 9;
    const TICK: usize = 11;
    const READ_OFFSET: u32 = 0xa001;
    const UNSYNCHRONISED: u64 = 0x40;
    const TIME_ERROR: i32 = 5;
    let mut words: [u64; 26] = context.read(buffer.0)?;
    let modes = words[0] as u32;
    if modes != 0 && modes != READ_OFFSET {
        return Err(Errno::EPERM);
    }
    let now = Clock::from_id(context, CLOCK_REALTIME)?.now();
    words[1..].fill(0);
    words[MAXIMUM_ERROR] = 16_000_000;
    words[ESTIMATED_ERROR] = 16_000_000;
    words[STATUS] = UNSYNCHRONISED;
    words[CONSTANT] = 2;
    words[PRECISION] = 1;
    words[TOLERANCE] = 32_768_000;
    words[TIME] = now.sec as u64;
    words[TIME + 1] = now.nsec as u64 / 1000;
    words[TICK] = 10_000;
    context.write(buffer.0, &words)?;
    Ok(TIME_ERROR)
}

/// clock_adjtime(2): of CLOCK_REALTIME only.
pub fn clock_adjtime(context: &mut Context, clock: i32, buffer: UserAddress) -> Result<i32> {
    match clock {
        0 => adjtimex(context, buffer),
        1..=11 => Err(Errno::EOPNOTSUPP),
        _ => Err(Errno::EINVAL),
    }
}

/// gettimeofday(2): either pointer may be null; the zone is UTC.
pub fn gettimeofday(context: &mut Context, time: UserAddress, zone: UserAddress) -> Result<()> {
    if let Some(address) = time.non_null() {
        let now = crate::time::realtime_now();
        context.write(address, &TimeVal { sec: now.sec, usec: now.nsec / 1000 })?;
    }
    match zone.non_null() {
        Some(address) => context.write(address, &[0i32; 2]),
        None => Ok(()),
    }
}

/// settimeofday(2): EPERM, the clock is the host's.
pub fn settimeofday(context: &mut Context, time: UserAddress, _zone: UserAddress) -> Result<()> {
    if let Some(address) = time.non_null() {
        let time: TimeVal = context.read(address)?;
        time.to_nanos().ok_or(Errno::EINVAL)?;
    }
    Err(Errno::EPERM)
}

/// time(2).
pub fn time(context: &mut Context, seconds: UserAddress) -> Result<i64> {
    let now = crate::time::realtime_now().sec;
    if let Some(address) = seconds.non_null() {
        context.write(address, &now)?;
    }
    Ok(now)
}

/// nanosleep(2): on CLOCK_MONOTONIC, as Linux does it. EINTR with the rest in `remaining`.
pub fn nanosleep(context: &mut Context, request: UserAddress, remaining: UserAddress) -> Result<()> {
    clock_nanosleep(context, CLOCK_MONOTONIC, 0, request, remaining)
}

/// clock_nanosleep(2). EINVAL for a bad time or clock, EOPNOTSUPP for one that cannot be slept on; EINTR; EFAULT.
pub fn clock_nanosleep(
    context: &mut Context,
    clock: i32,
    flags: u32,
    request: UserAddress,
    remaining: UserAddress,
) -> Result<()> {
    // A thread's own CPU time, and the raw and coarse clocks, cannot be slept on.
    if (CLOCK_THREAD_CPUTIME_ID..=6).contains(&clock) {
        return Err(Errno::EOPNOTSUPP);
    }
    let clock = Clock::from_id(context, clock)?;
    let request: TimeSpec = context.read(request.0)?;
    let nanos = request.to_nanos().ok_or(Errno::EINVAL)?;
    let absolute = flags & TIMER_ABSTIME != 0;
    if let Clock::Cpu(clock) = &clock {
        return sleep_on_cpu_clock(context, clock, nanos, absolute, remaining);
    }
    if absolute {
        let deadline = crate::time::deadline_after(nanos.saturating_sub(clock.now_nanos()));
        return sleep_until(context, deadline).map_err(|_| Errno::ERESTARTNOHAND);
    }
    sleep_relative(context, crate::time::deadline_after(nanos), remaining)
}

/// `None`: no deadline that the host's clock could tell.
fn sleep_relative(context: &mut Context, deadline: Option<Instant>, remaining: UserAddress) -> Result<()> {
    let Err(error) = sleep_until(context, deadline) else { return Ok(()) };
    let Some(deadline) = deadline else { return Err(Errno::ERESTARTNOHAND) };
    if error != Errno::ERESTARTSYS {
        return Err(error);
    }
    if let Some(address) = remaining.non_null() {
        let left = deadline.saturating_duration_since(Instant::now());
        context.write(address, &TimeSpec::from_nanos(left.as_nanos() as u64))?;
    }
    *context.task.restart.lock() =
        Some(Box::new(move |context| sleep_relative(context, Some(deadline), remaining).map(|()| 0)));
    Err(Errno::ERESTART_RESTARTBLOCK)
}

/// Sleeps to the deadline; ERESTARTSYS on a signal.
fn sleep_until(context: &Context, deadline: Option<Instant>) -> Result<()> {
    if deadline.is_some_and(|deadline| deadline <= Instant::now()) {
        return Ok(());
    }
    loop {
        match context.sleep(deadline) {
            // Left over from an earlier wait.
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// A CPU clock goes at most as fast as there are threads, so sleep for the shortest time that could be enough, and look.
fn sleep_on_cpu_clock(context: &Context, clock: &CpuClock, nanos: u64, absolute: bool, remaining: UserAddress) -> Result<()> {
    const SHORTEST_SLEEP_NS: u64 = 1_000_000;
    let target = if absolute { nanos } else { clock.nanos().saturating_add(nanos) };
    loop {
        let left = target.saturating_sub(clock.nanos());
        if left == 0 {
            return Ok(());
        }
        let nap = (left / clock.threads()).max(SHORTEST_SLEEP_NS);
        let Err(error) = sleep_until(context, Instant::now().checked_add(Duration::from_nanos(nap))) else { continue };
        if let (false, Some(address)) = (absolute, remaining.non_null()) {
            context.write(address, &TimeSpec::from_nanos(target.saturating_sub(clock.nanos())))?;
        }
        return Err(if error == Errno::ERESTARTSYS { Errno::ERESTARTNOHAND } else { error });
    }
}

/// restart_syscall(2): goes on with the call that a stop interrupted; EINTR where there is none.
pub fn restart_syscall(context: &mut Context) -> Result<u64> {
    let block = context.task.restart.lock().take();
    block.map_or(Err(Errno::EINTR), |block| block(context))
}
