//! Processes: ids, groups and sessions, exit(2), wait(2), prctl(2) lives in `prctl`.

use crate::context::After;
use crate::ptrace;
use crate::syscall::UserAddress;
use crate::task::wait::{wait, Select, WaitOptions, Waited};
use crate::task::{exit_group as end_process, exit_thread, job_control, ExitStatus, Process};
use crate::{Context, Errno, Result};
use skerry_abi::signal::Signal;
use std::sync::Arc;

pub fn getpid(context: &mut Context) -> Result<i32> {
    Ok(context.process().pid())
}

pub fn gettid(context: &mut Context) -> Result<i32> {
    Ok(context.task.tid())
}

pub fn getppid(context: &mut Context) -> Result<i32> {
    Ok(context.process().parent().map_or(0, |parent| parent.pid()))
}

/// 0 stands for the caller.
fn process_or_self(context: &Context, pid: i32) -> Result<Arc<Process>> {
    if pid == 0 {
        return Ok(context.process().clone());
    }
    context.kernel().pids.process(pid)
}

pub fn getpgid(context: &mut Context, pid: i32) -> Result<i32> {
    Ok(process_or_self(context, pid)?.group().id)
}

pub fn getpgrp(context: &mut Context) -> Result<i32> {
    Ok(context.process().group().id)
}

pub fn getsid(context: &mut Context, pid: i32) -> Result<i32> {
    Ok(process_or_self(context, pid)?.session().id)
}

pub fn setpgid(context: &mut Context, pid: i32, group: i32) -> Result<()> {
    job_control::set_group(context.process(), pid, group)
}

pub fn setsid(context: &mut Context) -> Result<i32> {
    job_control::new_session(context.process())
}

pub fn exit(context: &mut Context, status: i32) -> Result<()> {
    ptrace::exiting(context, ExitStatus::Exited(status as u8));
    exit_thread(context.task, status);
    context.after = After::Gone;
    Ok(())
}

pub fn exit_group(context: &mut Context, status: i32) -> Result<()> {
    ptrace::exiting(context, ExitStatus::Exited(status as u8));
    end_process(context.task, ExitStatus::Exited(status as u8));
    context.after = After::Gone;
    Ok(())
}

pub fn set_tid_address(context: &mut Context, address: UserAddress) -> Result<i32> {
    context.task.set_clear_child_tid(address.0);
    Ok(context.task.tid())
}

/// sizeof(struct robust_list_head).
const ROBUST_LIST_HEAD_SIZE: u64 = 24;

pub fn set_robust_list(context: &mut Context, head: UserAddress, size: u64) -> Result<()> {
    if size != ROBUST_LIST_HEAD_SIZE {
        return Err(Errno::EINVAL);
    }
    context.task.set_robust_list(head.0);
    Ok(())
}

pub fn get_robust_list(context: &mut Context, tid: i32, head: UserAddress, size: UserAddress) -> Result<()> {
    let pids = &context.kernel().pids;
    let (process, list) = match tid {
        0 => (context.process().clone(), context.task.robust_list()),
        // Pid 1 has no threads, and none of its own accord.
        1 => (pids.process(1)?, 0),
        _ => pids.task(tid).map(|task| (task.process().clone(), task.robust_list()))?,
    };
    if !super::system::may_inspect(context.task, &process) {
        return Err(Errno::EPERM);
    }
    context.write(size.0, &ROBUST_LIST_HEAD_SIZE)?;
    context.write(head.0, &list)
}

const WHICH_CHILDREN: WaitOptions = WaitOptions::NOTHREAD.union(WaitOptions::ALL).union(WaitOptions::CLONE);

pub fn wait4(context: &mut Context, pid: i32, status: UserAddress, options: u32, usage: UserAddress) -> Result<i32> {
    let options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !(WHICH_CHILDREN | WaitOptions::NOHANG | WaitOptions::STOPPED | WaitOptions::CONTINUED).contains(options) {
        return Err(Errno::EINVAL);
    }
    let select = match pid {
        -1 => Select::Any,
        0 => Select::Group(context.process().group().id),
        // -pid of the lowest number does not exist: no group has that id.
        ..-1 => Select::Group(pid.checked_neg().ok_or(Errno::ESRCH)?),
        _ => Select::Process(pid),
    };
    let Some(waited) = wait(context, select, options | WaitOptions::EXITED)? else { return Ok(0) };
    if let Some(address) = status.non_null() {
        context.write(address, &waited.status)?;
    }
    if let Some(address) = usage.non_null() {
        context.write(address, &waited.usage())?;
    }
    Ok(waited.pid)
}

const P_ALL: i32 = 0;
const P_PID: i32 = 1;
const P_PGID: i32 = 2;
const P_PIDFD: i32 = 3;

pub fn waitid(context: &mut Context, kind: i32, id: i32, info: UserAddress, options: u32, usage: UserAddress) -> Result<()> {
    let mut options = WaitOptions::from_bits(options).ok_or(Errno::EINVAL)?;
    if !options.intersects(WaitOptions::EXITED | WaitOptions::STOPPED | WaitOptions::CONTINUED) {
        return Err(Errno::EINVAL);
    }
    let mut nonblocking_pidfd = false;
    let select = match kind {
        P_ALL => Select::Any,
        P_PID if id > 0 => Select::Process(id),
        P_PGID if id == 0 => Select::Group(context.process().group().id),
        P_PGID if id > 0 => Select::Group(id),
        P_PIDFD if id >= 0 => {
            let file = context.file(id)?;
            nonblocking_pidfd = file.is_nonblocking() && !options.contains(WaitOptions::NOHANG);
            Select::Process(crate::event::pidfd::process_of(&file)?.pid())
        }
        _ => return Err(Errno::EINVAL),
    };
    if nonblocking_pidfd {
        options |= WaitOptions::NOHANG;
    }
    let waited = wait(context, select, options)?;
    if nonblocking_pidfd && waited.is_none() {
        return Err(Errno::EAGAIN);
    }
    if let (Some(address), Some(waited)) = (usage.non_null(), &waited) {
        context.write(address, &waited.usage())?;
    }
    info.non_null().map_or(Ok(()), |address| write_child_info(context, address, waited.as_ref()))
}

/// Only the fields that waitid(2) names; all zero where no child had anything to tell.
fn write_child_info(context: &Context, address: u64, waited: Option<&Waited>) -> Result<()> {
    let (signo, code, pid, uid, value) = waited
        .map_or((0, 0, 0, 0, 0), |waited| (Signal::SIGCHLD.number(), waited.code, waited.pid, waited.uid as i32, waited.value));
    context.write(address, &[signo, 0, code])?;
    context.write(address.checked_add(16).ok_or(Errno::EFAULT)?, &[pid, uid, value])
}
