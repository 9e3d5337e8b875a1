//! Limits and usage: getrlimit(2), getrusage(2), times(2), mlock(2).

use crate::syscall::UserAddress;
use crate::task::credentials::{CAP_IPC_LOCK, CAP_SYS_RESOURCE};
use crate::task::exit::TICK_NS;
use crate::task::limits;
use crate::task::usage::to_rusage;
use crate::task::{Process, Task};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::RLimit;
use skerry_platform::engine::{HostUsage, NativeCall};
use std::sync::Arc;

fn resource(number: u32) -> Result<u32> {
    if number < 16 {
        Ok(number)
    } else {
        Err(Errno::EINVAL)
    }
}

pub fn getrlimit(context: &mut Context, number: u32, limit: UserAddress) -> Result<()> {
    let present = context.process().rlimit(resource(number)?);
    context.write(limit.0, &present)
}

pub fn setrlimit(context: &mut Context, number: u32, limit: UserAddress) -> Result<()> {
    let number = resource(number)?;
    let new: RLimit = context.read(limit.0)?;
    change_limit(context, context.process(), number, new)
}

pub fn prlimit64(context: &mut Context, pid: i32, number: u32, new: UserAddress, old: UserAddress) -> Result<()> {
    let number = resource(number)?;
    let new: Option<RLimit> = new.non_null().map(|address| context.read(address)).transpose()?;
    let process = match pid {
        0 => context.process().clone(),
        _ => context
            .kernel()
            .pids
            .task(pid)
            .map(|task| task.process().clone())
            .or_else(|_| context.kernel().pids.process(pid))?,
    };
    if !Arc::ptr_eq(&process, context.process()) && !may_change_limits(context.task, &process) {
        return Err(Errno::EPERM);
    }
    let present = process.rlimit(number);
    if let Some(new) = new {
        change_limit(context, &process, number, new)?;
    }
    old.non_null().map_or(Ok(()), |address| context.write(address, &present))
}

/// prlimit(2): the caller's real ids are all of the target's ids, or CAP_SYS_RESOURCE.
fn may_change_limits(caller: &Task, target: &Process) -> bool {
    let (mine, theirs) = (caller.credentials(), target.credentials());
    let same = [theirs.ruid, theirs.euid, theirs.suid].iter().all(|&uid| uid == mine.ruid)
        && [theirs.rgid, theirs.egid, theirs.sgid].iter().all(|&gid| gid == mine.rgid);
    same || mine.has_capability(CAP_SYS_RESOURCE)
}

fn change_limit(context: &Context, process: &Arc<Process>, number: u32, new: RLimit) -> Result<()> {
    if new.current > new.maximum {
        return Err(Errno::EINVAL);
    }
    if number == linux::RLIMIT_NOFILE && new.maximum > context.kernel().settings.number("fs/nr_open").unsigned_abs() {
        return Err(Errno::EPERM);
    }
    let capable = context.task.credentials().has_capability(CAP_SYS_RESOURCE);
    {
        let mut limits = process.rlimits.write();
        let present = &mut limits[number as usize & 15];
        if new.maximum > present.maximum && !capable {
            return Err(Errno::EPERM);
        }
        *present = new;
    }
    process.tell_limits();
    match number {
        linux::RLIMIT_AS => limits::apply_to_host(process),
        // Who writes by itself does not heed it: from now on nobody does.
        linux::RLIMIT_FSIZE => process.threads.lock().iter().for_each(|task| task.files().clear_direct()),
        linux::RLIMIT_CPU => limits::watch_cpu_time(process),
        _ => {}
    }
    Ok(())
}

const RUSAGE_SELF: i32 = 0;
const RUSAGE_CHILDREN: i32 = -1;
const RUSAGE_THREAD: i32 = 1;

pub fn getrusage(context: &mut Context, who: i32, address: UserAddress) -> Result<()> {
    let process = context.process();
    let answer = match who {
        RUSAGE_SELF => to_rusage(process.usage()),
        RUSAGE_CHILDREN => to_rusage(process.children_usage()),
        RUSAGE_THREAD => {
            let host = context.task.host.read().clone();
            let time_ns = host.map_or((0, 0), |host| host.cpu_time_ns());
            to_rusage(HostUsage { time_ns, max_rss_kib: process.usage().max_rss_kib, ..HostUsage::default() })
        }
        _ => return Err(Errno::EINVAL),
    };
    context.write(address.0, &answer)
}

pub fn times(context: &mut Context, buffer: UserAddress) -> Result<i64> {
    let process = context.process();
    if let Some(address) = buffer.non_null() {
        let (own, children) = (process.time_ns(), process.children_usage().time_ns);
        let ticks = [own.0, own.1, children.0, children.1].map(|time_ns| time_ns / TICK_NS);
        context.write(address, &ticks)?;
    }
    Ok((context.kernel().booted.elapsed().as_nanos() / u128::from(TICK_NS)) as i64)
}

const PAGE: u64 = 4096;

/// Locking is allowed as far as Linux would allow it, and brings the pages in; the host may page them out again.
fn lock(context: &mut Context, address: u64, length: u64, advice: u32) -> Result<u64> {
    let (start, length) = pages(address, length)?;
    check_lock_limit(context, length)?;
    advise(context, start, length, advice)
}

/// The pages that a range touches.
fn pages(address: u64, length: u64) -> Result<(u64, u64)> {
    let start = address & !(PAGE - 1);
    let end = address.checked_add(length).and_then(|end| end.checked_next_multiple_of(PAGE)).ok_or(Errno::EINVAL)?;
    Ok((start, end - start))
}

fn check_lock_limit(context: &Context, bytes: u64) -> Result<()> {
    if context.task.credentials().has_capability(CAP_IPC_LOCK) {
        return Ok(());
    }
    match context.process().rlimit(linux::RLIMIT_MEMLOCK).current {
        0 => Err(Errno::EPERM),
        limit if bytes > limit => Err(Errno::ENOMEM),
        _ => Ok(()),
    }
}

/// The host's madvise(2) finds holes in the range (ENOMEM), as mlock(2) and munlock(2) do; what it cannot bring in, or on
/// an older host does not know how to, does not matter here.
fn advise(context: &mut Context, start: u64, length: u64, advice: u32) -> Result<u64> {
    if length == 0 {
        return Ok(0);
    }
    let call = NativeCall::new(linux::__NR_madvise, [start, length, advice.into(), 0, 0, 0]);
    let no_memory = Errno::ENOMEM.as_return_value();
    let then = move |_: &mut Context, result: i64| if result == no_memory { Err(Errno::ENOMEM) } else { Ok(0) };
    context.run_native(vec![call], Some(Box::new(then)))
}

pub fn mlock(context: &mut Context, address: u64, length: u64) -> Result<u64> {
    lock(context, address, length, linux::MADV_POPULATE_READ)
}

pub fn mlock2(context: &mut Context, address: u64, length: u64, flags: u32) -> Result<u64> {
    const MLOCK_ONFAULT: u32 = 1;
    match flags {
        0 => lock(context, address, length, linux::MADV_POPULATE_READ),
        MLOCK_ONFAULT => lock(context, address, length, linux::MADV_NORMAL),
        _ => Err(Errno::EINVAL),
    }
}

pub fn munlock(context: &mut Context, address: u64, length: u64) -> Result<u64> {
    let (start, length) = pages(address, length)?;
    advise(context, start, length, linux::MADV_NORMAL)
}

pub fn mlockall(context: &mut Context, flags: u32) -> Result<()> {
    const CURRENT_FUTURE_ONFAULT: u32 = 7;
    const ONFAULT: u32 = 4;
    if flags == 0 || flags & !CURRENT_FUTURE_ONFAULT != 0 || flags == ONFAULT {
        return Err(Errno::EINVAL);
    }
    check_lock_limit(context, 0)
}

pub fn munlockall(_context: &mut Context) -> Result<()> {
    Ok(())
}
