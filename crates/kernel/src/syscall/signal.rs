//! Signals: sigaction(2), sigprocmask(2), kill(2) and their kin.

use crate::signal::{self, may_send, try_send_to_process, try_send_to_task};
use crate::syscall::UserAddress;
use crate::task::{Process, Task};
use crate::{Context, Errno, Result};
use skerry_abi::signal::{
    SigAction, Signal, SignalInfo, SignalSet, SignalStack, SA_NOCLDSTOP, SA_NOCLDWAIT, SA_NODEFER, SA_ONSTACK, SA_RESETHAND,
    SA_RESTART, SA_RESTORER, SA_SIGINFO, SI_TKILL, SI_USER,
};
use skerry_abi::structs::TimeSpec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Every set is of this size; a call that says otherwise gets EINVAL.
const SET_SIZE: u64 = size_of::<SignalSet>() as u64;

/// Flags that Linux keeps; unknown ones are cleared, so that a program can find out (sigaction(2), SA_UNSUPPORTED).
const KNOWN_FLAGS: u64 =
    SA_NOCLDSTOP | SA_NOCLDWAIT | SA_SIGINFO | SA_RESTORER | SA_ONSTACK | SA_RESTART | SA_NODEFER | SA_RESETHAND | 0x800;

fn check_set_size(size: u64) -> Result<()> {
    if size == SET_SIZE {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

pub fn rt_sigaction(context: &mut Context, number: i32, new: UserAddress, old: UserAddress, size: u64) -> Result<()> {
    check_set_size(size)?;
    let action: Option<SigAction> = new.non_null().map(|address| context.read(address)).transpose()?;
    let signal = Signal::new(number).ok_or(Errno::EINVAL)?;
    signal::take_over_reset(context.task);
    let process = context.process();
    let before = match action {
        None => process.actions.lock()[number as usize - 1],
        Some(_) if SignalSet::UNBLOCKABLE.contains(signal) => return Err(Errno::EINVAL),
        Some(mut action) => {
            action.flags &= KNOWN_FLAGS;
            action.mask = action.mask.difference(SignalSet::UNBLOCKABLE);
            signal::set_action(process, signal, action)
        }
    };
    old.non_null().map_or(Ok(()), |address| context.write(address, &before))
}

pub fn rt_sigprocmask(context: &mut Context, how: i32, new: UserAddress, old: UserAddress, size: u64) -> Result<()> {
    check_set_size(size)?;
    let before = context.task.signals.lock().blocked();
    if let Some(address) = new.non_null() {
        let set: SignalSet = context.read(address)?;
        let blocked = match how {
            0 => before.union(set),
            1 => before.difference(set),
            2 => set,
            _ => return Err(Errno::EINVAL),
        };
        signal::set_blocked(context.task, blocked);
    }
    old.non_null().map_or(Ok(()), |address| context.write(address, &before))
}

pub fn rt_sigpending(context: &mut Context, set: UserAddress, size: u64) -> Result<()> {
    if size > SET_SIZE {
        return Err(Errno::EINVAL);
    }
    let blocked = context.task.signals.lock().blocked();
    let pending = signal::pending_in(context.task, blocked);
    context.write_bytes(set.0, &pending.0.to_le_bytes()[..size as usize])
}

pub fn rt_sigsuspend(context: &mut Context, mask: UserAddress, size: u64) -> Result<()> {
    check_set_size(size)?;
    let mask: SignalSet = context.read(mask.0)?;
    signal::set_temporary_mask(context, mask);
    pause(context)
}

pub fn pause(context: &mut Context) -> Result<()> {
    loop {
        if context.sleep(None).is_err() {
            return Err(Errno::ERESTARTNOHAND);
        }
    }
}

pub fn rt_sigtimedwait(
    context: &mut Context,
    set: UserAddress,
    info: UserAddress,
    timeout: UserAddress,
    size: u64,
) -> Result<i32> {
    check_set_size(size)?;
    let wanted: SignalSet = context.read(set.0)?;
    let deadline = match timeout.non_null() {
        None => None,
        Some(address) => {
            let timeout = context.read::<TimeSpec>(address)?.to_nanos().ok_or(Errno::EINVAL)?;
            Instant::now().checked_add(Duration::from_nanos(timeout))
        }
    };
    let taken = wait_for_signal(context, wanted, deadline)?;
    if let Some(address) = info.non_null() {
        context.write(address, &taken)?;
    }
    Ok(taken.signo)
}

/// Takes a signal of `wanted`, or sleeps until there is one. EAGAIN at the deadline, EINTR when another one came.
fn wait_for_signal(context: &Context, wanted: SignalSet, deadline: Option<Instant>) -> Result<SignalInfo> {
    let _registration = context.process().signal_queue.register(context.task.waiter());
    loop {
        if let Some(info) = signal::dequeue(context.task, wanted) {
            return Ok(info);
        }
        match context.sleep(deadline) {
            Ok(()) => {}
            Err(Errno::ETIMEDOUT) => return Err(Errno::EAGAIN),
            // It may be one that was waited for, and that is not blocked.
            Err(_) => return signal::dequeue(context.task, wanted).ok_or(Errno::EINTR),
        }
    }
}

pub fn sigaltstack(context: &mut Context, new: UserAddress, old: UserAddress) -> Result<()> {
    let stack_pointer = context.stack_pointer();
    let stack: Option<SignalStack> = new.non_null().map(|address| context.read(address)).transpose()?;
    let before = signal::stack::describe_stack(context.task, stack_pointer);
    if let Some(stack) = stack {
        signal::stack::set_stack(context.task, stack_pointer, stack)?;
    }
    old.non_null().map_or(Ok(()), |address| context.write(address, &before))
}

/// 0 is the null signal, which only asks whether one may (kill(2)).
fn optional_signal(number: i32) -> Result<Option<Signal>> {
    match number {
        0 => Ok(None),
        _ => Signal::new(number).map(Some).ok_or(Errno::EINVAL),
    }
}

fn user_info(context: &Context, signal: Signal, code: i32) -> SignalInfo {
    SignalInfo::user(signal, code, context.process().pid(), context.task.credentials().ruid)
}

fn send_checked(context: &Context, process: &Process, signal: Option<Signal>) -> Result<()> {
    may_send(context.task, process, signal)?;
    signal.map_or(Ok(()), |signal| try_send_to_process(process, user_info(context, signal, SI_USER)))
}

pub fn kill(context: &mut Context, pid: i32, number: i32) -> Result<()> {
    let kernel = context.kernel();
    if pid > 0 {
        let process = process_of(context, pid)?;
        return send_checked(context, &process, optional_signal(number)?);
    }
    if pid == i32::MIN {
        return Err(Errno::ESRCH);
    }
    let signal = optional_signal(number)?;
    let own = context.process();
    let targets: Vec<Arc<Process>> = if pid == -1 {
        let others = kernel.pids.processes();
        others.into_iter().filter(|process| !process.is_init() && !Arc::ptr_eq(process, own)).collect()
    } else {
        let group = if pid == 0 { own.group() } else { kernel.pids.group(-pid)? };
        group.members(kernel)
    };
    // One success is success; otherwise the last reason why not. With -1, being refused by all counts as nothing done.
    let results: Vec<Result<()>> = targets.iter().map(|process| send_checked(context, process, signal)).collect();
    if results.iter().any(Result::is_ok) {
        return Ok(());
    }
    results.last().copied().unwrap_or(Err(Errno::ESRCH))
}

/// A process by its id or that of one of its threads, as kill(2) takes it.
fn process_of(context: &Context, pid: i32) -> Result<Arc<Process>> {
    let pids = &context.kernel().pids;
    pids.process(pid).or_else(|_| pids.task(pid).map(|task| task.process().clone()))
}

fn send_to_thread(context: &Context, task: &Task, number: i32) -> Result<()> {
    let signal = optional_signal(number)?;
    may_send(context.task, task.process(), signal)?;
    signal.map_or(Ok(()), |signal| try_send_to_task(task, user_info(context, signal, SI_TKILL)))
}

pub fn tkill(context: &mut Context, tid: i32, number: i32) -> Result<()> {
    if tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = context.kernel().pids.task(tid)?;
    send_to_thread(context, &task, number)
}

pub fn tgkill(context: &mut Context, pid: i32, tid: i32, number: i32) -> Result<()> {
    let task = thread_of(context, pid, tid)?;
    send_to_thread(context, &task, number)
}

fn thread_of(context: &Context, pid: i32, tid: i32) -> Result<Arc<Task>> {
    if pid <= 0 || tid <= 0 {
        return Err(Errno::EINVAL);
    }
    let task = context.kernel().pids.task(tid)?;
    if task.process().pid() != pid {
        return Err(Errno::ESRCH);
    }
    Ok(task)
}

/// A program may not make a signal look as if the kernel, or kill(2), had sent it, but to itself (rt_sigqueueinfo(2)).
fn read_info(context: &Context, pid: i32, number: i32, address: UserAddress) -> Result<SignalInfo> {
    let mut info: SignalInfo = context.read(address.0)?;
    info.signo = number;
    if (info.code >= 0 || info.code == SI_TKILL) && context.process().pid() != pid {
        return Err(Errno::EPERM);
    }
    Ok(info)
}

pub fn rt_sigqueueinfo(context: &mut Context, pid: i32, number: i32, info: UserAddress) -> Result<()> {
    let info = read_info(context, pid, number, info)?;
    let process = process_of(context, pid)?;
    let signal = optional_signal(number)?;
    may_send(context.task, &process, signal)?;
    signal.map_or(Ok(()), |_| try_send_to_process(&process, info))
}

pub fn rt_tgsigqueueinfo(context: &mut Context, pid: i32, tid: i32, number: i32, info: UserAddress) -> Result<()> {
    let info = read_info(context, pid, number, info)?;
    let task = thread_of(context, pid, tid)?;
    let signal = optional_signal(number)?;
    may_send(context.task, task.process(), signal)?;
    signal.map_or(Ok(()), |_| try_send_to_task(&task, info))
}
