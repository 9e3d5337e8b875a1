//! Timers: setitimer(2), alarm(2), timer_create(2), timerfd_create(2).

use super::event::{install_object, read_write};
use super::UserAddress;
use crate::event::timerfd::{TimerFd, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET};
use crate::time::clock::{CLOCK_BOOTTIME_ALARM, CLOCK_REALTIME_ALARM};
use crate::time::itimer::Which;
use crate::time::posix::Notification;
use crate::time::Clock;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::Signal;
use skerry_abi::structs::{ITimerSpec, ITimerVal, TimeSpec, TimeVal};
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// (until the next time, interval) as the guest's structure.
fn interval_value(left: (u64, u64)) -> ITimerVal {
    // A timer that is set never shows as 0.
    let rounded = if left.0 > 0 { left.0.max(1000) } else { 0 };
    ITimerVal { value: TimeVal::from_nanos(rounded), interval: TimeVal::from_nanos(left.1) }
}

fn interval_spec(left: (u64, u64)) -> ITimerSpec {
    ITimerSpec { value: TimeSpec::from_nanos(left.0), interval: TimeSpec::from_nanos(left.1) }
}

/// (value, interval) in nanoseconds; EINVAL where either is no valid time, EFAULT.
fn read_spec(context: &Context, address: UserAddress) -> Result<(u64, u64)> {
    let spec: ITimerSpec = context.read(address.0)?;
    Ok((spec.value.to_nanos().ok_or(Errno::EINVAL)?, spec.interval.to_nanos().ok_or(Errno::EINVAL)?))
}

/// getitimer(2).
pub fn getitimer(context: &mut Context, which: i32, value: UserAddress) -> Result<()> {
    let left = context.process().timers.itimers.get(Which::new(which)?);
    context.write(value.0, &interval_value(left))
}

/// setitimer(2): a null `new` stops the timer.
pub fn setitimer(context: &mut Context, which: i32, new: UserAddress, old: UserAddress) -> Result<()> {
    let (value, interval) = match new.non_null() {
        Some(address) => {
            let new: ITimerVal = context.read(address)?;
            (new.value.to_nanos().ok_or(Errno::EINVAL)?, new.interval.to_nanos().ok_or(Errno::EINVAL)?)
        }
        None => (0, 0),
    };
    let process = context.process();
    let before = process.timers.itimers.set(process, Which::new(which)?, value, interval)?;
    match old.non_null() {
        Some(address) => context.write(address, &interval_value(before)),
        None => Ok(()),
    }
}

/// alarm(2): seconds that were left of the alarm before, rounded, but never 0 if there was one.
pub fn alarm(context: &mut Context, seconds: u32) -> Result<u64> {
    const SECOND_NS: u64 = 1_000_000_000;
    let process = context.process();
    let (left, _) = process.timers.itimers.set(process, Which::Real, u64::from(seconds) * SECOND_NS, 0)?;
    Ok(if left == 0 { 0 } else { ((left + SECOND_NS / 2) / SECOND_NS).max(1) })
}

/// `struct sigevent` (sigevent(3type)): 64 bytes.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub(super) struct SigEvent {
    pub value: u64,
    pub signo: i32,
    pub notify: i32,
    pub thread: i32,
    _padding: [i32; 11],
}

pub(super) const SIGEV_SIGNAL: i32 = 0;
pub(super) const SIGEV_NONE: i32 = 1;
pub(super) const SIGEV_THREAD: i32 = 2;
const SIGEV_THREAD_ID: i32 = 4;

/// The C library makes a thread of SIGEV_THREAD; to the kernel it is a signal like another.
fn notification(context: &Context, event: UserAddress) -> Result<Notification> {
    let Some(address) = event.non_null() else {
        return Ok(Notification::Process { signal: Signal::SIGALRM, value: None });
    };
    let event: SigEvent = context.read(address)?;
    let signal = Signal::new(event.signo).ok_or(Errno::EINVAL);
    let value = Some(event.value);
    match event.notify {
        SIGEV_NONE => Ok(Notification::None),
        SIGEV_SIGNAL | SIGEV_THREAD => Ok(Notification::Process { signal: signal?, value }),
        SIGEV_THREAD_ID => {
            let task = context.kernel().pids.task(event.thread).map_err(|_| Errno::EINVAL)?;
            if !Arc::ptr_eq(task.process(), context.process()) {
                return Err(Errno::EINVAL);
            }
            Ok(Notification::Thread { task: Arc::downgrade(&task), signal: signal?, value })
        }
        _ => Err(Errno::EINVAL),
    }
}

/// CAP_WAKE_ALARM (capabilities(7)).
const CAP_WAKE_ALARM: u32 = 35;

fn refuse_alarm_clocks(context: &Context, clock: i32) -> Result<()> {
    let alarm = matches!(clock, CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM);
    if alarm && !context.task.credentials().has_capability(CAP_WAKE_ALARM) {
        return Err(Errno::EPERM);
    }
    Ok(())
}

/// timer_create(2): the id is written to `timer`. EINVAL for a bad clock or event, EAGAIN, EFAULT.
pub fn timer_create(context: &mut Context, clock_id: i32, event: UserAddress, timer: UserAddress) -> Result<()> {
    // The coarse and raw clocks carry no timers.
    if (4..=6).contains(&clock_id) {
        return Err(Errno::EOPNOTSUPP);
    }
    let clock = Clock::from_id(context, clock_id)?;
    refuse_alarm_clocks(context, clock_id)?;
    let notification = notification(context, event)?;
    let process = context.process();
    let most = process.rlimit(linux::RLIMIT_SIGPENDING).current;
    let id = process.timers.posix.create(process, clock, notification, most)?;
    context.write(timer.0, &id).inspect_err(|_| {
        let _ = process.timers.posix.delete(id);
    })
}

/// timer_settime(2). EINVAL for a bad id or time, EFAULT.
pub fn timer_settime(context: &mut Context, timer: i32, flags: u32, new: UserAddress, old: UserAddress) -> Result<()> {
    const TIMER_ABSTIME: u32 = 1;
    if new.is_null() {
        return Err(Errno::EINVAL);
    }
    let (value, interval) = read_spec(context, new)?;
    let before = context.process().timers.posix.get(timer)?.set(value, interval, flags & TIMER_ABSTIME != 0)?;
    match old.non_null() {
        Some(address) => context.write(address, &interval_spec(before)),
        None => Ok(()),
    }
}

/// timer_gettime(2).
pub fn timer_gettime(context: &mut Context, timer: i32, value: UserAddress) -> Result<()> {
    let left = context.process().timers.posix.get(timer)?.get();
    context.write(value.0, &interval_spec(left))
}

/// timer_getoverrun(2).
pub fn timer_getoverrun(context: &mut Context, timer: i32) -> Result<i32> {
    context.process().timers.posix.get(timer).map(|timer| timer.overrun())
}

/// timer_delete(2).
pub fn timer_delete(context: &mut Context, timer: i32) -> Result<()> {
    context.process().timers.posix.delete(timer)
}

bitflags::bitflags! {
    /// timerfd_create(2).
    #[derive(Clone, Copy, Debug)]
    pub struct TimerFdFlags: u32 {
        const NONBLOCK = linux::O_NONBLOCK;
        const CLOSE_ON_EXEC = linux::O_CLOEXEC;
    }
}
crate::flags_argument!(TimerFdFlags);

/// timerfd_create(2). EINVAL for another clock than the wall, monotonic and boot-time ones.
pub fn timerfd_create(context: &mut Context, clock_id: i32, flags: TimerFdFlags) -> Result<i32> {
    if !matches!(clock_id, 0 | 1 | 7 | CLOCK_REALTIME_ALARM | CLOCK_BOOTTIME_ALARM) {
        return Err(Errno::EINVAL);
    }
    refuse_alarm_clocks(context, clock_id)?;
    let clock = Clock::from_id(context, clock_id)?;
    let object = TimerFd::new(context.kernel().timers.clone(), clock, clock_id);
    let status = read_write(flags.contains(TimerFdFlags::NONBLOCK));
    install_object(context, object, status, flags.contains(TimerFdFlags::CLOSE_ON_EXEC))
}

/// timerfd_settime(2). The clock is never set, so TFD_TIMER_CANCEL_ON_SET never cancels.
pub fn timerfd_settime(context: &mut Context, fd: i32, flags: u32, new: UserAddress, old: UserAddress) -> Result<()> {
    if flags & !(TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET) != 0 {
        return Err(Errno::EINVAL);
    }
    let (value, interval) = read_spec(context, new)?;
    let file = context.file(fd)?;
    let before = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?.set(value, interval, flags)?;
    match old.non_null() {
        Some(address) => context.write(address, &interval_spec(before)),
        None => Ok(()),
    }
}

/// timerfd_gettime(2).
pub fn timerfd_gettime(context: &mut Context, fd: i32, value: UserAddress) -> Result<()> {
    let file = context.file(fd)?;
    let left = file.downcast::<TimerFd>().ok_or(Errno::EINVAL)?.get();
    context.write(value.0, &interval_spec(left))
}
