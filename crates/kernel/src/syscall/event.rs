//! Objects that are events (eventfd(2) and its kin) and epoll(7).

use super::poll::{timespec_timeout, with_mask};
use super::UserAddress;
use crate::event::epoll::{Epoll, Taken, Wanted, EPOLLEXCLUSIVE};
use crate::event::eventfd::{EventFd, Take};
use crate::event::poll::Timeout;
use crate::fs::file::{FileOperations, OpenFile, StatusFlags};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::EpollEvent;
use skerry_platform::layout::{events, streams};
use std::sync::atomic::Ordering;
use std::sync::Arc;

bitflags::bitflags! {
    /// eventfd(2).
    #[derive(Clone, Copy, Debug)]
    pub struct EventFdFlags: u32 {
        const SEMAPHORE = 1;
        const NONBLOCK = linux::O_NONBLOCK;
        const CLOSE_ON_EXEC = linux::O_CLOEXEC;
    }
}

bitflags::bitflags! {
    /// epoll_create(2).
    #[derive(Clone, Copy, Debug)]
    pub struct EpollFlags: u32 {
        const CLOSE_ON_EXEC = linux::O_CLOEXEC;
    }
}
crate::flags_argument!(EventFdFlags, EpollFlags);

/// Opens an object that has no name. EMFILE.
pub(super) fn install_object(
    context: &Context,
    object: Arc<dyn FileOperations>,
    status: StatusFlags,
    close_on_exec: bool,
) -> Result<i32> {
    context.install(OpenFile::new(object, status, None), close_on_exec)
}

/// O_RDWR, and O_NONBLOCK where asked for.
pub(super) fn read_write(nonblocking: bool) -> StatusFlags {
    let mut status = StatusFlags::RDWR;
    status.set(StatusFlags::NONBLOCK, nonblocking);
    status
}

/// eventfd(2).
pub fn eventfd(context: &mut Context, initial: u32) -> Result<i32> {
    eventfd2(context, initial, EventFdFlags::empty())
}

/// eventfd2(2): `initial` is the counter's first value. EINVAL on unknown flags, EMFILE.
pub fn eventfd2(context: &mut Context, initial: u32, flags: EventFdFlags) -> Result<i32> {
    let take = if flags.contains(EventFdFlags::SEMAPHORE) { Take::One } else { Take::All };
    let object = Arc::new(EventFd::new(initial.into(), take));
    let status = read_write(flags.contains(EventFdFlags::NONBLOCK));
    install_object(context, object, status, flags.contains(EventFdFlags::CLOSE_ON_EXEC))
}

/// epoll_create(2): `size` says nothing but must be positive.
pub fn epoll_create(context: &mut Context, size: i32) -> Result<i32> {
    if size <= 0 {
        return Err(Errno::EINVAL);
    }
    epoll_create1(context, EpollFlags::empty())
}

/// epoll_create1(2). EINVAL on unknown flags, EMFILE.
pub fn epoll_create1(context: &mut Context, flags: EpollFlags) -> Result<i32> {
    let object = Epoll::new(context.kernel().epoll_limits.clone());
    install_object(context, object, StatusFlags::RDWR, flags.contains(EpollFlags::CLOSE_ON_EXEC))
}

const EPOLL_CTL_ADD: i32 = 1;
const EPOLL_CTL_DEL: i32 = 2;
const EPOLL_CTL_MOD: i32 = 3;

/// epoll_ctl(2).
pub fn epoll_ctl(context: &mut Context, epoll: i32, operation: i32, fd: i32, event: UserAddress) -> Result<()> {
    let event = if operation == EPOLL_CTL_DEL { EpollEvent { events: 0, data: 0 } } else { context.read(event.0)? };
    control(context, epoll, operation, fd, event)
}

/// Makes the calls that the stub has put off until now. Their results have been told: with a guest that is honest they
/// are always 0. None where each call is to be seen, or ruled on, as it is made: there an honest guest puts nothing off.
pub(crate) fn carry_out_deferred(context: &mut Context, inputs: &[u8]) {
    if context.kernel().trace || !context.kernel().deferral.load(Ordering::Relaxed) {
        return;
    }
    for [place, item, data] in crate::marshal::deferred(inputs) {
        // A filter of the guest's has its say on every call, and has come after these.
        if context.task.seccomp.is_some() {
            return;
        }
        let event = EpollEvent { events: (item >> 32) as u32, data };
        let _ = control(context, place as i32, (place >> 32) as i32, item as i32, event);
    }
    context.may_be_deferred = false;
}

fn control(context: &mut Context, epoll: i32, operation: i32, fd: i32, event: EpollEvent) -> Result<()> {
    let wanted = Wanted::new(event.events, event.data);
    let own = context.file(epoll)?;
    let file = context.file(fd)?;
    if file.operations.wait_queue().is_none() {
        return Err(Errno::EPERM);
    }
    if Arc::ptr_eq(&own, &file) {
        return Err(Errno::EINVAL);
    }
    let epoll = own.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    // In one table, once, and held by us: nobody else has it, and what is in its list is its caller's alone to see.
    context.may_be_deferred = context.kernel().deferral.load(Ordering::Relaxed)
        && Arc::strong_count(&own) == 2
        && wanted.events & EPOLLEXCLUSIVE == 0;
    match operation {
        EPOLL_CTL_ADD => epoll.add(fd, &file, wanted),
        EPOLL_CTL_DEL => epoll.remove(fd, &file),
        EPOLL_CTL_MOD => epoll.modify(fd, &file, wanted),
        _ => Err(Errno::EINVAL),
    }
}

/// Events told by one call, however many the caller has room for.
const MOST_EVENTS: usize = 4096;

fn wait_for_events(context: &mut Context, epoll: i32, address: UserAddress, count: i32, timeout: Timeout) -> Result<usize> {
    const LARGEST_COUNT: usize = i32::MAX as usize / size_of::<EpollEvent>();
    let count = usize::try_from(count).ok().filter(|&count| count > 0 && count <= LARGEST_COUNT).ok_or(Errno::EINVAL)?;
    let fd = epoll;
    let file = context.file(fd)?;
    let epoll = file.downcast::<Epoll>().ok_or(Errno::EINVAL)?;
    let taken = match epoll.wait(context, count.min(MOST_EVENTS), timeout) {
        // Not restarted, with or without SA_RESTART (signal(7)).
        Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
        other => other?,
    };
    let told: Vec<EpollEvent> = taken.iter().map(|entry| entry.event()).collect();
    if let Err(error) = context.write(address.0, told.as_slice()) {
        epoll.untake(taken);
        return Err(error);
    }
    context.waited = Some((fd, file.clone(), taken.iter().take(events::MOST).map(|entry| entry.item().clone()).collect()));
    context.to_read = taken.iter().take(streams::MOST).filter_map(Taken::to_read).collect();
    Ok(told.len())
}

/// Milliseconds; below 0 for ever.
fn millisecond_timeout(timeout_ms: i32) -> Timeout {
    match u64::try_from(timeout_ms) {
        Ok(ms) => Timeout::after(ms * 1_000_000),
        Err(_) => Timeout::Never,
    }
}

/// epoll_wait(2).
pub fn epoll_wait(context: &mut Context, epoll: i32, events: UserAddress, count: i32, timeout_ms: i32) -> Result<usize> {
    wait_for_events(context, epoll, events, count, millisecond_timeout(timeout_ms))
}

/// epoll_pwait(2).
pub fn epoll_pwait(
    context: &mut Context,
    epoll: i32,
    events: UserAddress,
    count: i32,
    timeout_ms: i32,
    mask: UserAddress,
    mask_size: u64,
) -> Result<usize> {
    let timeout = millisecond_timeout(timeout_ms);
    with_mask(context, mask, mask_size, |context| wait_for_events(context, epoll, events, count, timeout))
}

/// epoll_pwait2(2): the timeout is a timespec; null: for ever.
pub fn epoll_pwait2(
    context: &mut Context,
    epoll: i32,
    events: UserAddress,
    count: i32,
    timeout: UserAddress,
    mask: UserAddress,
    mask_size: u64,
) -> Result<usize> {
    let timeout = timespec_timeout(context, timeout)?;
    with_mask(context, mask, mask_size, |context| wait_for_events(context, epoll, events, count, timeout))
}
