//! Priorities, policies, affinity: nice(2), sched(7), ioprio_set(2). See `task::scheduling` for what they do here.

use crate::syscall::UserAddress;
use crate::task::credentials::CAP_SYS_NICE;
use crate::task::scheduling::{
    is_real_time, pass_on_affinity, pass_on_nice, priority_range, sandbox_cpus, CpuSet, Scheduling, CPU_SET_SIZE,
};
use crate::task::{Process, Task};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::TimeSpec;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const CAP_SYS_ADMIN: u32 = crate::task::credentials::CAP_SYS_ADMIN;

/// The threads that (`which`, `who`) of getpriority(2) means; the constants are from 0 there, from 1 in ioprio_set(2).
fn threads_of(context: &Context, which: u32, who: i32) -> Result<Vec<Arc<Task>>> {
    const PROCESS: u32 = 0;
    const GROUP: u32 = 1;
    const USER: u32 = 2;
    let kernel = context.kernel();
    let all_of = |process: &Arc<Process>| process.threads.lock().clone();
    let threads: Vec<Arc<Task>> = match which {
        PROCESS if who == 0 => vec![context.task.clone()],
        PROCESS => vec![kernel.pids.task(who)?],
        GROUP => {
            let group = if who == 0 { context.process().group() } else { kernel.pids.group(who)? };
            group.members(kernel).iter().flat_map(all_of).collect()
        }
        USER => {
            let uid = if who == 0 { context.task.credentials().ruid } else { who as u32 };
            let threads = kernel.pids.processes().iter().flat_map(all_of).collect::<Vec<_>>();
            threads.into_iter().filter(|thread| thread.credentials().ruid == uid).collect()
        }
        _ => return Err(Errno::EINVAL),
    };
    if threads.is_empty() {
        return Err(Errno::ESRCH);
    }
    Ok(threads)
}

/// The highest priority among them, as 20 - nice (getpriority(2), "C library/kernel differences").
pub fn getpriority(context: &mut Context, which: u32, who: i32) -> Result<i32> {
    if which == 0 && who > 0 {
        return Ok(20 - scheduling_of(context, who)?.nice);
    }
    let threads = threads_of(context, which, who)?;
    Ok(threads.iter().map(|thread| 20 - thread.scheduling.read().nice).max().unwrap_or(20))
}

pub fn setpriority(context: &mut Context, which: u32, who: i32, nice: i32) -> Result<()> {
    let nice = nice.clamp(-20, 19);
    // Pid 1 has no threads to change.
    if which == 0 && who == 1 {
        return Err(Errno::EPERM);
    }
    let mut result = Ok(());
    for thread in threads_of(context, which, who)? {
        if let Err(errno) = set_nice(context, &thread, nice) {
            result = Err(errno);
        }
    }
    result
}

fn set_nice(context: &Context, thread: &Task, nice: i32) -> Result<()> {
    let mine = context.task.credentials();
    let theirs = thread.credentials();
    let capable = mine.has_capability(CAP_SYS_NICE);
    if !capable && mine.euid != theirs.ruid && mine.euid != theirs.euid {
        return Err(Errno::EPERM);
    }
    let mut scheduling = thread.scheduling.write();
    if nice < scheduling.nice && !capable {
        let limit = thread.process().rlimit(linux::RLIMIT_NICE).current;
        if (20 - nice) as u64 > limit {
            return Err(Errno::EACCES);
        }
    }
    scheduling.nice = nice;
    let host = thread.host.read().clone();
    if let Some(host) = host {
        pass_on_nice(host.tid, nice);
    }
    Ok(())
}

/// The thread that sched_*(2) means: 0 is the caller.
fn thread(context: &Context, pid: i32) -> Result<Arc<Task>> {
    match pid {
        ..0 => Err(Errno::EINVAL),
        0 => Ok(context.task.clone()),
        _ => context.kernel().pids.task(pid),
    }
}

/// What can be read of a thread, and of a process that nobody has waited for yet.
fn scheduling_of(context: &Context, pid: i32) -> Result<Scheduling> {
    match thread(context, pid) {
        Ok(thread) => Ok(*thread.scheduling.read()),
        Err(Errno::ESRCH) => context.kernel().pids.process(pid).map(|process| process.scheduling()),
        Err(errno) => Err(errno),
    }
}

const RESET_ON_FORK: u32 = 0x4000_0000;

pub fn sched_getscheduler(context: &mut Context, pid: i32) -> Result<u32> {
    let scheduling = scheduling_of(context, pid)?;
    Ok(scheduling.policy | if scheduling.reset_on_fork { RESET_ON_FORK } else { 0 })
}

pub fn sched_setscheduler(context: &mut Context, pid: i32, policy: i32, parameter: UserAddress) -> Result<()> {
    let policy = u32::try_from(policy).map_err(|_| Errno::EINVAL)?;
    let priority = read_priority(context, pid, parameter)?;
    if pid == 1 {
        let (lowest, highest) = priority_range(policy & !RESET_ON_FORK).ok_or(Errno::EINVAL)?;
        return Err(if (lowest..=highest).contains(&priority) { Errno::EPERM } else { Errno::EINVAL });
    }
    let thread = thread(context, pid)?;
    let present = *thread.scheduling.read();
    let (policy, reset_on_fork) = (policy & !RESET_ON_FORK, policy & RESET_ON_FORK != 0);
    // SCHED_DEADLINE needs more than a priority: sched_setattr(2).
    if policy == linux::SCHED_DEADLINE {
        return Err(Errno::EINVAL);
    }
    change(context, &thread, Scheduling { policy, priority, reset_on_fork, ..present })
}

pub fn sched_setparam(context: &mut Context, pid: i32, parameter: UserAddress) -> Result<()> {
    let priority = read_priority(context, pid, parameter)?;
    let thread = thread(context, pid)?;
    let present = *thread.scheduling.read();
    change(context, &thread, Scheduling { priority, ..present })
}

fn read_priority(context: &Context, pid: i32, parameter: UserAddress) -> Result<i32> {
    if pid < 0 || parameter.is_null() {
        return Err(Errno::EINVAL);
    }
    context.read(parameter.0)
}

/// sched_setscheduler(2), ERRORS and sched(7), "Privileges and resource limits".
fn change(context: &Context, thread: &Task, new: Scheduling) -> Result<()> {
    let (lowest, highest) = priority_range(new.policy).ok_or(Errno::EINVAL)?;
    if !(lowest..=highest).contains(&new.priority) {
        return Err(Errno::EINVAL);
    }
    let (mine, theirs) = (context.task.credentials(), thread.credentials());
    let mut present = thread.scheduling.write();
    if !mine.has_capability(CAP_SYS_NICE) {
        let limit = thread.process().rlimit(linux::RLIMIT_RTPRIO).current;
        let raises = is_real_time(new.policy)
            && ((new.policy != present.policy && limit == 0)
                || (new.priority > present.priority && new.priority as u64 > limit));
        let leaves_idle = present.policy == linux::SCHED_IDLE && new.policy != linux::SCHED_IDLE && new.nice < 0;
        let forgets_reset = present.reset_on_fork && !new.reset_on_fork;
        let same_user = mine.euid == theirs.euid || mine.euid == theirs.ruid;
        if raises || leaves_idle || forgets_reset || !same_user || new.policy == linux::SCHED_DEADLINE {
            return Err(Errno::EPERM);
        }
    }
    *present = new;
    Ok(())
}

pub fn sched_getparam(context: &mut Context, pid: i32, parameter: UserAddress) -> Result<()> {
    if parameter.is_null() {
        return Err(Errno::EINVAL);
    }
    let priority = scheduling_of(context, pid)?.priority;
    context.write(parameter.0, &priority)
}

pub fn sched_get_priority_max(_context: &mut Context, policy: u32) -> Result<i32> {
    priority_range(policy).map(|(_, highest)| highest).ok_or(Errno::EINVAL)
}

pub fn sched_get_priority_min(_context: &mut Context, policy: u32) -> Result<i32> {
    priority_range(policy).map(|(lowest, _)| lowest).ok_or(Errno::EINVAL)
}

pub fn sched_rr_get_interval(context: &mut Context, pid: i32, interval: UserAddress) -> Result<()> {
    let policy = scheduling_of(context, pid)?.policy;
    // Linux's own values: RR_TIMESLICE, none for SCHED_FIFO, a slice of the fair scheduler for the rest.
    let slice_ns = match policy {
        linux::SCHED_RR => 100_000_000,
        linux::SCHED_FIFO | linux::SCHED_DEADLINE => 0,
        _ => 4_000_000,
    };
    context.write(interval.0, &TimeSpec::from_nanos(slice_ns))
}

/// `struct sched_attr`, in its first and its present size.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SchedulingAttributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime_ns: u64,
    deadline_ns: u64,
    period_ns: u64,
    clamp_minimum: u32,
    clamp_maximum: u32,
}
const ATTRIBUTES_FIRST_SIZE: u32 = 48;
const ATTRIBUTES_SIZE: u32 = size_of::<SchedulingAttributes>() as u32;
const FLAG_RESET_ON_FORK: u64 = 1;
const FLAG_KEEP_POLICY: u64 = 8;
const FLAG_KEEP_PARAMETERS: u64 = 16;
const KNOWN_ATTRIBUTE_FLAGS: u64 = 0x1f;

pub fn sched_setattr(context: &mut Context, pid: i32, address: UserAddress, flags: u32) -> Result<()> {
    if address.is_null() || pid < 0 || flags != 0 {
        return Err(Errno::EINVAL);
    }
    let size = match context.read::<u32>(address.0)? {
        0 => ATTRIBUTES_FIRST_SIZE,
        size @ ATTRIBUTES_FIRST_SIZE..=4096 => size,
        _ => {
            context.write(address.0, &ATTRIBUTES_SIZE)?;
            return Err(Errno::E2BIG);
        }
    };
    let bytes: Vec<u8> = context.read_array(address.0, size as usize)?;
    let (known, unknown) = bytes.split_at(bytes.len().min(ATTRIBUTES_SIZE as usize));
    if unknown.iter().any(|&byte| byte != 0) {
        context.write(address.0, &ATTRIBUTES_SIZE)?;
        return Err(Errno::E2BIG);
    }
    let mut attributes = SchedulingAttributes::default();
    attributes.as_mut_bytes()[..known.len()].copy_from_slice(known);
    if attributes.flags & !KNOWN_ATTRIBUTE_FLAGS != 0 || attributes.policy > i32::MAX as u32 {
        return Err(Errno::EINVAL);
    }
    let thread = thread(context, pid)?;
    let present = *thread.scheduling.read();
    let mut new = Scheduling { reset_on_fork: attributes.flags & FLAG_RESET_ON_FORK != 0, ..present };
    if attributes.flags & FLAG_KEEP_POLICY == 0 {
        new.policy = attributes.policy;
    }
    if attributes.flags & FLAG_KEEP_PARAMETERS == 0 {
        new.priority = i32::try_from(attributes.priority).map_err(|_| Errno::EINVAL)?;
        new.deadline_ns = (attributes.runtime_ns, attributes.deadline_ns, attributes.period_ns);
        if new.policy == linux::SCHED_NORMAL || new.policy == linux::SCHED_BATCH {
            let nice = attributes.nice.clamp(-20, 19);
            set_nice(context, &thread, nice)?;
            new.nice = nice;
        }
    }
    if new.policy == linux::SCHED_DEADLINE {
        let (runtime, deadline, period) = new.deadline_ns;
        let period = if period == 0 { deadline } else { period };
        if runtime < 1024 || runtime > deadline || deadline > period || period >= 1 << 63 {
            return Err(Errno::EINVAL);
        }
    }
    change(context, &thread, new)
}

pub fn sched_getattr(context: &mut Context, pid: i32, address: UserAddress, size: u32, flags: u32) -> Result<()> {
    if address.is_null() || pid < 0 || flags != 0 || !(ATTRIBUTES_FIRST_SIZE..=4096).contains(&size) {
        return Err(Errno::EINVAL);
    }
    let scheduling = scheduling_of(context, pid)?;
    let length = size.min(ATTRIBUTES_SIZE);
    let fair = scheduling.policy == linux::SCHED_NORMAL || scheduling.policy == linux::SCHED_BATCH;
    let (runtime_ns, deadline_ns, period_ns) = scheduling.deadline_ns;
    let attributes = SchedulingAttributes {
        size: length,
        policy: scheduling.policy,
        flags: if scheduling.reset_on_fork { FLAG_RESET_ON_FORK } else { 0 },
        nice: if fair { scheduling.nice } else { 0 },
        priority: scheduling.priority as u32,
        runtime_ns,
        deadline_ns,
        period_ns,
        clamp_minimum: 0,
        clamp_maximum: 1024,
    };
    context.write_bytes(address.0, &attributes.as_bytes()[..length as usize])
}

/// Bytes of the kernel's own mask: enough for the highest CPU, in whole words.
fn mask_size(cpus: &CpuSet) -> usize {
    (cpus.iter().rposition(|&word| word != 0).unwrap_or(0) + 1) * 8
}

pub fn sched_getaffinity(context: &mut Context, pid: i32, length: u32, mask: UserAddress) -> Result<usize> {
    let cpus = sandbox_cpus(context.kernel());
    let size = mask_size(&cpus);
    let length = length as usize;
    if length < size || length % 8 != 0 {
        return Err(Errno::EINVAL);
    }
    let affinity = scheduling_of(context, pid).map_err(|_| Errno::ESRCH)?.affinity.unwrap_or(cpus);
    context.write_bytes(mask.0, &affinity.as_bytes()[..size])?;
    Ok(size)
}

pub fn sched_setaffinity(context: &mut Context, pid: i32, length: u32, mask: UserAddress) -> Result<()> {
    let mut wanted: CpuSet = [0; CPU_SET_SIZE / 64];
    let length = (length as usize).min(size_of::<CpuSet>());
    context.read_bytes(mask.0, &mut wanted.as_mut_bytes()[..length])?;
    let thread = thread(context, pid).map_err(|_| Errno::ESRCH)?;
    let (mine, theirs) = (context.task.credentials(), thread.credentials());
    if mine.euid != theirs.euid && mine.euid != theirs.ruid && !mine.has_capability(CAP_SYS_NICE) {
        return Err(Errno::EPERM);
    }
    let cpus = sandbox_cpus(context.kernel());
    for (word, allowed) in wanted.iter_mut().zip(cpus) {
        *word &= allowed;
    }
    if wanted.iter().all(|&word| word == 0) {
        return Err(Errno::EINVAL);
    }
    // Held until the host knows: who is moving the thread has done so by then, or does not begin.
    let mut scheduling = thread.scheduling.write();
    scheduling.affinity = Some(wanted);
    if let Some(host) = &*thread.host.read() {
        pass_on_affinity(host.tid, &wanted);
    }
    Ok(())
}

pub fn sched_yield(_context: &mut Context) -> Result<()> {
    Ok(())
}

pub fn getcpu(context: &mut Context, cpu: UserAddress, node: UserAddress) -> Result<()> {
    let host = context.task.host.read().clone();
    let present = host.and_then(|host| host.last_cpu()).unwrap_or(0);
    if let Some(address) = cpu.non_null() {
        context.write(address, &present)?;
    }
    node.non_null().map_or(Ok(()), |address| context.write(address, &0u32))
}

const IO_CLASS_SHIFT: i32 = 13;

pub fn ioprio_set(context: &mut Context, which: u32, who: i32, priority: i32) -> Result<()> {
    let (class, data) = (priority >> IO_CLASS_SHIFT, priority & ((1 << IO_CLASS_SHIFT) - 1));
    let mine = context.task.credentials();
    match class {
        1 if !mine.has_capability(CAP_SYS_ADMIN) && !mine.has_capability(CAP_SYS_NICE) => return Err(Errno::EPERM),
        1 | 2 if data < 8 => {}
        3 => {}
        0 if data == 0 => {}
        _ => return Err(Errno::EINVAL),
    }
    for thread in threads_of(context, which.checked_sub(1).ok_or(Errno::EINVAL)?, who)? {
        let theirs = thread.credentials();
        if theirs.ruid != mine.euid && theirs.ruid != mine.ruid && !mine.has_capability(CAP_SYS_NICE) {
            return Err(Errno::EPERM);
        }
        thread.scheduling.write().io_priority = priority;
    }
    Ok(())
}

/// The best among them: the lowest class, then the lowest number.
pub fn ioprio_get(context: &mut Context, which: u32, who: i32) -> Result<i32> {
    let threads = threads_of(context, which.checked_sub(1).ok_or(Errno::EINVAL)?, who)?;
    let rank = |priority: &i32| if priority >> IO_CLASS_SHIFT == 0 { i32::MAX } else { *priority };
    Ok(threads.iter().map(|thread| thread.scheduling.read().io_priority).min_by_key(rank).unwrap_or(0))
}
