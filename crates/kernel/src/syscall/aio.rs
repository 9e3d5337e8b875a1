//! Native asynchronous I/O: io_setup(2), io_submit(2), io_getevents(2) and theirs (what libaio calls).

use super::poll::{timespec_timeout, with_mask};
use super::read_write::{At, Segments};
use super::{data, read_write, UserAddress};
use crate::event::aio::{AioContext, IoEvent, Slot};
use crate::event::eventfd::EventFd;
use crate::event::poll::Timeout;
use crate::fs::file::OpenFile;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_platform::engine::NativeCall;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

const PAGE: u64 = 4096;
/// More than Linux takes in any case.
const MOST_REQUESTS: u32 = 0x1000_0000;

/// `struct iocb`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Request {
    data: u64,
    key: u32,
    transfer_flags: u32,
    operation: u16,
    priority: u16,
    fd: i32,
    buffer: u64,
    count: u64,
    offset: i64,
    reserved: u64,
    flags: u32,
    event_fd: i32,
}

/// io_setup(2): EINVAL for no requests or a context that is one already, EAGAIN over /proc/sys/fs/aio-max-nr.
pub fn io_setup(context: &mut Context, requests: u32, result: UserAddress) -> Result<u64> {
    let old: u64 = context.read(result.0)?;
    if old != 0 || requests == 0 || requests > MOST_REQUESTS {
        return Err(Errno::EINVAL);
    }
    let space = context.task.address_space().ok_or(Errno::ENOMEM)?;
    let most = context.kernel().settings.number("fs/aio-max-nr");
    let made = AioContext::new(requests, &context.kernel().aio_requests, u64::try_from(most).unwrap_or(0))?;
    let flags = linux::MAP_PRIVATE | linux::MAP_ANONYMOUS;
    let protection = linux::PROT_READ | linux::PROT_WRITE;
    let map = NativeCall::new(linux::__NR_mmap, [0, PAGE, protection.into(), flags.into(), u64::MAX, 0]);
    let then = move |context: &mut Context, address: i64| {
        if address < 0 {
            return Err(Errno(-address as i32));
        }
        context.write(result.0, &address)?;
        space.aio.insert(address as u64, made);
        Ok(0)
    };
    context.run_native(vec![map], Some(Box::new(then)))
}

/// io_destroy(2).
pub fn io_destroy(context: &mut Context, id: u64) -> Result<u64> {
    context.task.address_space().ok_or(Errno::EINVAL)?.aio.remove(id)?;
    context.run_native(vec![NativeCall::new(linux::__NR_munmap, [id, PAGE, 0, 0, 0, 0])], Some(Box::new(|_, _| Ok(0))))
}

fn find(context: &Context, id: u64) -> Result<Arc<AioContext>> {
    context.task.address_space().ok_or(Errno::EINVAL)?.aio.get(id)
}

/// io_submit(2): how many of the requests were taken; the first one's error where that is none.
pub fn io_submit(context: &mut Context, id: u64, count: i64, requests: UserAddress) -> Result<u64> {
    let aio = find(context, id)?;
    let count = u64::try_from(count).map_err(|_| Errno::EINVAL)?;
    let mut done = 0;
    while done < count {
        let taken = context.read(requests.0.wrapping_add(done * 8)).and_then(|address| submit(context, &aio, address));
        match taken {
            Ok(()) => done += 1,
            Err(_) if done > 0 => break,
            Err(error) => return Err(error),
        }
        if context.task.is_interrupted() {
            break;
        }
    }
    Ok(done)
}

fn submit(context: &mut Context, aio: &AioContext, address: u64) -> Result<()> {
    const WITH_EVENT_FD: u32 = 1;
    const WITH_PRIORITY: u32 = 2;
    /// Where the key is in a request; Linux writes 0.
    const KEY: u64 = 8;
    let request: Request = context.read(address)?;
    if request.reserved != 0 || i64::try_from(request.count).is_err() {
        return Err(Errno::EINVAL);
    }
    let slot: Slot = aio.reserve()?;
    let file = context.file(request.fd)?;
    let event_file = if request.flags & WITH_EVENT_FD != 0 { Some(context.file(request.event_fd)?) } else { None };
    if event_file.as_ref().is_some_and(|file| file.downcast::<EventFd>().is_none())
        || request.flags & !(WITH_EVENT_FD | WITH_PRIORITY) != 0
    {
        return Err(Errno::EINVAL);
    }
    context.write(address + KEY, &0u32)?;
    let result = match carry_out(context, &request, &file)? {
        Ok(value) => value as i64,
        Err(Errno::ERESTARTSYS) => -i64::from(Errno::EINTR.0),
        Err(error) => -i64::from(error.0),
    };
    slot.complete(IoEvent { data: request.data, request: address, result, result2: 0 });
    if let Some(event_fd) = event_file.as_ref().and_then(|file| file.downcast::<EventFd>()) {
        event_fd.signal(1);
    }
    Ok(())
}

/// The outer error is the submission's, the inner result the request's own.
fn carry_out(context: &mut Context, request: &Request, file: &OpenFile) -> Result<Result<u64>> {
    const READ: u16 = 0;
    const WRITE: u16 = 1;
    const SYNC: u16 = 2;
    const DATA_SYNC: u16 = 3;
    const READ_VECTOR: u16 = 7;
    const WRITE_VECTOR: u16 = 8;
    let reads = match request.operation {
        SYNC => return Ok(data::fsync(context, request.fd).map(|()| 0)),
        DATA_SYNC => return Ok(data::fdatasync(context, request.fd).map(|()| 0)),
        READ | READ_VECTOR => true,
        WRITE | WRITE_VECTOR => false,
        _ => return Err(Errno::EINVAL),
    };
    if !(if reads { file.is_readable() } else { file.is_writable() }) {
        return Err(Errno::EBADF);
    }
    let flags = read_write::transfer_flags(request.transfer_flags)?;
    let segments = match request.operation {
        READ | WRITE => Segments::one(request.buffer, request.count),
        _ => Segments::from_guest(context, request.buffer, request.count)?,
    };
    let at = if file.operations.is_seekable() {
        At::Offset(u64::try_from(request.offset).map_err(|_| Errno::EINVAL)?)
    } else {
        At::Position
    };
    Ok(if reads {
        read_write::read_with_flags(context, file, segments, at, flags)
    } else {
        read_write::write_with_flags(context, file, segments, at, flags)
    })
}

/// io_cancel(2): everything is done already, so there is nothing to cancel: EINVAL.
pub fn io_cancel(context: &mut Context, id: u64, request: UserAddress, _result: UserAddress) -> Result<()> {
    let _: Request = context.read(request.0)?;
    find(context, id)?;
    Err(Errno::EINVAL)
}

fn get_events(context: &mut Context, id: u64, least: i64, most: i64, events: UserAddress, timeout: Timeout) -> Result<u64> {
    /// Told by one call, however many the caller has room for.
    const MOST_EVENTS: usize = 4096;
    let aio = find(context, id)?;
    if least < 0 || least > most {
        return Err(Errno::EINVAL);
    }
    let most = usize::try_from(most).unwrap_or(0).min(MOST_EVENTS);
    let least = usize::try_from(least).unwrap_or(0).min(most);
    let waited = match timeout {
        Timeout::Now => aio.has(least),
        _ => context.block_on(aio.queue(), timeout.deadline(), || aio.has(least)),
    };
    let taken = aio.take(most);
    if taken.is_empty() {
        match waited {
            Err(Errno::ERESTARTSYS) => return Err(Errno::EINTR),
            Err(Errno::EINVAL) => return Err(Errno::EINVAL),
            _ => {}
        }
    }
    context.write(events.0, taken.as_slice())?;
    Ok(taken.len() as u64)
}

/// io_getevents(2): a null timeout waits for ever.
pub fn io_getevents(
    context: &mut Context,
    id: u64,
    least: i64,
    most: i64,
    events: UserAddress,
    timeout: UserAddress,
) -> Result<u64> {
    let timeout = timespec_timeout(context, timeout)?;
    get_events(context, id, least, most, events, timeout)
}

/// io_pgetevents(2): with a signal mask, given as pselect6(2) has it.
pub fn io_pgetevents(
    context: &mut Context,
    id: u64,
    least: i64,
    most: i64,
    events: UserAddress,
    timeout: UserAddress,
    mask: UserAddress,
) -> Result<u64> {
    let timeout = timespec_timeout(context, timeout)?;
    let [mask, size]: [u64; 2] = match mask.non_null() {
        Some(address) => context.read(address)?,
        None => [0; 2],
    };
    with_mask(context, UserAddress(mask), size, |context| get_events(context, id, least, most, events, timeout))
}
