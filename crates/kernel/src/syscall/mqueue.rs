//! POSIX message queues (mq_overview(7)).

use super::timer::{SigEvent, SIGEV_NONE, SIGEV_SIGNAL, SIGEV_THREAD};
use super::UserAddress;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::ipc::mqueue::{Attributes, Creation, NotifyBy, Queue, QueueFile, Wait, COOKIE_SIZE, PRIORITY_MAX};
use crate::net::netlink::NetlinkSocket;
use crate::net::socket::SocketFile;
use crate::task::AccessMode;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::Signal;
use skerry_abi::structs::TimeSpec;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct mq_attr`: 64 bytes.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct MqAttributes {
    flags: i64,
    most_messages: i64,
    message_size: i64,
    messages: i64,
    _reserved: [i64; 4],
}

fn read_name(context: &Context, name: UserAddress) -> Result<Vec<u8>> {
    context.read_path(name.0)
}

/// mq_open(2): `name` without its slash, as the C library passes it. The descriptor is closed by exec.
pub fn mq_open(context: &mut Context, name: UserAddress, flags: u32, mode: u32, attributes: UserAddress) -> Result<i32> {
    let name = read_name(context, name)?;
    let attributes = match attributes.non_null() {
        Some(address) if flags & linux::O_CREAT != 0 => {
            let given: MqAttributes = context.read(address)?;
            Some(Attributes { most_messages: given.most_messages, message_size: given.message_size })
        }
        _ => None,
    };
    let creation = match (flags & linux::O_CREAT != 0, flags & linux::O_EXCL != 0) {
        (false, _) => Creation::Never,
        (true, false) => Creation::IfMissing,
        (true, true) => Creation::Always,
    };
    let (access, mut status) = match flags & linux::O_ACCMODE {
        linux::O_RDONLY => (AccessMode::READ, StatusFlags::empty()),
        linux::O_WRONLY => (AccessMode::WRITE, StatusFlags::WRONLY),
        linux::O_RDWR => (AccessMode::READ | AccessMode::WRITE, StatusFlags::RDWR),
        _ => return Err(Errno::EINVAL),
    };
    status.set(StatusFlags::NONBLOCK, flags & linux::O_NONBLOCK != 0);
    let permissions = mode & !context.task.fs().umask;
    let queue = context.kernel().message_queues.open(context, &name, creation, access, permissions, attributes)?;
    context.install(OpenFile::new(Arc::new(QueueFile { queue }), status, None), true)
}

/// mq_unlink(2).
pub fn mq_unlink(context: &mut Context, name: UserAddress) -> Result<()> {
    let name = read_name(context, name)?;
    context.kernel().message_queues.unlink(&name, &context.task.credentials())
}

/// The open queue behind a descriptor; EBADF.
fn queue_file(context: &Context, fd: i32) -> Result<(Arc<OpenFile>, Arc<Queue>)> {
    let file = context.file(fd)?;
    let queue = file.downcast::<QueueFile>().ok_or(Errno::EBADF)?.queue.clone();
    Ok((file, queue))
}

/// A deadline on CLOCK_REALTIME; checked also where the call will not wait.
fn read_wait(context: &Context, file: &OpenFile, deadline: UserAddress) -> Result<Wait> {
    let deadline = match deadline.non_null() {
        Some(address) => {
            let time: TimeSpec = context.read(address)?;
            let nanos = time.to_nanos().ok_or(Errno::EINVAL)?;
            let now = crate::time::realtime_now().to_nanos().unwrap_or(0);
            crate::time::deadline_after(nanos.saturating_sub(now))
        }
        None => None,
    };
    Ok(if file.is_nonblocking() { Wait::No } else { Wait::Until(deadline) })
}

/// mq_timedsend(2). EBADF, EINVAL, EMSGSIZE, EAGAIN, ETIMEDOUT.
pub fn mq_timedsend(
    context: &mut Context,
    fd: i32,
    message: UserAddress,
    length: u64,
    priority: u32,
    deadline: UserAddress,
) -> Result<()> {
    if priority >= PRIORITY_MAX {
        return Err(Errno::EINVAL);
    }
    let (file, queue) = queue_file(context, fd)?;
    let wait = read_wait(context, &file, deadline)?;
    if !file.is_writable() {
        return Err(Errno::EBADF);
    }
    if length > queue.attributes().1 {
        return Err(Errno::EMSGSIZE);
    }
    let bytes: Vec<u8> = context.read_array(message.0, length as usize)?;
    queue.send(context, bytes, priority, wait)
}

/// mq_timedreceive(2): the length; the priority is written where asked for.
pub fn mq_timedreceive(
    context: &mut Context,
    fd: i32,
    buffer: UserAddress,
    length: u64,
    priority: UserAddress,
    deadline: UserAddress,
) -> Result<usize> {
    let (file, queue) = queue_file(context, fd)?;
    let wait = read_wait(context, &file, deadline)?;
    if !file.is_readable() {
        return Err(Errno::EBADF);
    }
    let (bytes, taken_priority) = queue.receive(context, length, wait)?;
    context.write_bytes(buffer.0, &bytes)?;
    if let Some(address) = priority.non_null() {
        context.write(address, &taken_priority)?;
    }
    Ok(bytes.len())
}

/// mq_notify(2): null takes the notification back. For SIGEV_THREAD the C library gives a netlink socket and a
/// cookie. EBUSY, EINVAL, EBADF.
pub fn mq_notify(context: &mut Context, fd: i32, event: UserAddress) -> Result<()> {
    let Some(address) = event.non_null() else {
        let (_, queue) = queue_file(context, fd)?;
        queue.stop_notifying(context.process());
        return Ok(());
    };
    let event: SigEvent = context.read(address)?;
    let how = match event.notify {
        SIGEV_NONE => NotifyBy::Nothing,
        SIGEV_SIGNAL => NotifyBy::Signal(Signal::new(event.signo).ok_or(Errno::EINVAL)?, event.value),
        SIGEV_THREAD => {
            let cookie: [u8; COOKIE_SIZE] = context.read(event.value)?;
            let file = context.file(event.signo)?;
            let socket = file.downcast::<SocketFile>().ok_or(Errno::ENOTSOCK)?.socket.clone();
            if socket.as_any().downcast_ref::<NetlinkSocket>().is_none() {
                return Err(Errno::EINVAL);
            }
            NotifyBy::Socket(socket, cookie)
        }
        _ => return Err(Errno::EINVAL),
    };
    let (_, queue) = queue_file(context, fd)?;
    queue.notify(context.process(), how)
}

/// mq_getsetattr(2): of what is set only O_NONBLOCK counts.
pub fn mq_getsetattr(context: &mut Context, fd: i32, new: UserAddress, old: UserAddress) -> Result<()> {
    let new = match new.non_null() {
        Some(address) => {
            let new: MqAttributes = context.read(address)?;
            if new.flags & !i64::from(linux::O_NONBLOCK) != 0 {
                return Err(Errno::EINVAL);
            }
            Some(new)
        }
        None => None,
    };
    let (file, queue) = queue_file(context, fd)?;
    let (most_messages, message_size, messages) = queue.attributes();
    let before = MqAttributes {
        flags: i64::from(file.flags().bits() & linux::O_NONBLOCK),
        most_messages: most_messages as i64,
        message_size: message_size as i64,
        messages: messages as i64,
        ..MqAttributes::default()
    };
    if let Some(new) = new {
        let mut flags = file.flags();
        flags.set(StatusFlags::NONBLOCK, new.flags != 0);
        file.set_flags(flags);
    }
    match old.non_null() {
        Some(address) => context.write(address, &before),
        None => Ok(()),
    }
}
