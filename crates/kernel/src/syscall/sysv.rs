//! System V inter-process communication (sysvipc(7)).

use super::UserAddress;
use crate::ipc::sysv::message::{self, Message, MessageQueue, QueueStruct, Selection, TooLong};
use crate::ipc::sysv::registry::{Object, Permission, Registry, IPC_NOWAIT};
use crate::ipc::sysv::semaphore::{self, Operation, SemaphoreSet, SetStruct};
use crate::ipc::sysv::shared_memory::{self, Access, Segment, SegmentStruct};
use crate::time::deadline_after;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::TimeSpec;
use skerry_platform::engine::NativeCall;
use skerry_platform::layout::{RESERVED_END, STUB_BASE};
use std::sync::Arc;
use std::time::Instant;

const PAGE: u64 = 4096;
const IPC_RMID: i32 = 0;
const IPC_SET: i32 = 1;
const IPC_STAT: i32 = 2;
const IPC_INFO: i32 = 3;
/// The commands take this flag from old programs; it changes nothing here.
const IPC_64: i32 = 0x100;

const CAP_SYS_RESOURCE: u32 = 24;

fn permission(context: &Context, key: i32, flags: i32) -> Permission {
    Permission::new(key, flags, &context.task.credentials())
}

/// By id, or by index for the *_STAT commands; with what the call returns. EACCES where it may not be read.
fn find_to_show<T: Object>(context: &Context, registry: &Registry<T>, id: i32, by: Lookup) -> Result<(i32, Arc<T>)> {
    let (value, object) = match by {
        Lookup::Id => (0, registry.find(id)?),
        Lookup::Index | Lookup::IndexForAnyone => registry.find_index(id)?,
    };
    if by != Lookup::IndexForAnyone {
        object.permission().check(&context.task.credentials(), 0o444)?;
    }
    Ok((value, object))
}

/// A limit that root may have changed in /proc/sys.
fn limit(context: &Context, setting: &str) -> usize {
    usize::try_from(context.kernel().settings.number(setting)).unwrap_or(0)
}

/// The id that root wishes for the next object; for one only.
fn next_id(context: &Context, setting: &str) -> Option<i32> {
    i32::try_from(context.kernel().settings.take_number(setting)).ok().filter(|&id| id >= 0)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lookup {
    Id,
    Index,
    IndexForAnyone,
}

/// shmget(2). EINVAL, EEXIST, ENOENT, EACCES, ENOSPC, ENOMEM.
pub fn shmget(context: &mut Context, key: i32, size: u64, flags: i32) -> Result<i32> {
    let credentials = context.task.credentials();
    let pid = context.process().pid();
    let permission = permission(context, key, flags);
    context.kernel().sysv.segments.get(
        key,
        flags,
        limit(context, "kernel/shmmni"),
        || next_id(context, "kernel/shm_next_id"),
        &credentials,
        |segment| if size > segment.size() { Err(Errno::EINVAL) } else { Ok(()) },
        || {
            if size == 0 || size > shared_memory::SHMMAX {
                return Err(Errno::EINVAL);
            }
            let rounded = size.checked_next_multiple_of(PAGE).filter(|&size| size <= i64::MAX as u64).ok_or(Errno::ENOMEM)?;
            let memory = crate::event::memfd::anonymous_memory(context, rounded)?;
            Ok(Segment::new(permission, memory, size, pid))
        },
    )
}

/// shmctl(2).
pub fn shmctl(context: &mut Context, id: i32, command: i32, buffer: UserAddress) -> Result<i32> {
    const SHM_LOCK: i32 = 11;
    const SHM_UNLOCK: i32 = 12;
    const SHM_STAT: i32 = 13;
    const SHM_INFO: i32 = 14;
    const SHM_STAT_ANY: i32 = 15;
    let segments = &context.kernel().sysv.segments;
    let credentials = context.task.credentials();
    let lookup = match command & !IPC_64 {
        IPC_STAT => Lookup::Id,
        SHM_STAT => Lookup::Index,
        SHM_STAT_ANY => Lookup::IndexForAnyone,
        IPC_SET => {
            let new: SegmentStruct = context.read(buffer.0)?;
            let segment = segments.find(id)?;
            segment.permission().check_owner(&credentials)?;
            segment.set_permission(&new.permission);
            return Ok(0);
        }
        IPC_RMID => {
            let segment = segments.find(id)?;
            segment.permission().check_owner(&credentials)?;
            shared_memory::remove(context.kernel(), id, &segment);
            return Ok(0);
        }
        SHM_LOCK | SHM_UNLOCK => {
            let segment = segments.find(id)?;
            segment.permission().check_owner(&credentials)?;
            segment.set_locked(if command & !IPC_64 == SHM_LOCK { shared_memory::SHM_LOCKED } else { 0 });
            return Ok(0);
        }
        IPC_INFO => {
            // struct shminfo64: shmmax, shmmin, shmmni, shmseg, shmall, and four spare words.
            let most = limit(context, "kernel/shmmni") as u64;
            context.write(buffer.0, &[shared_memory::SHMMAX, 1, most, most, shared_memory::SHMMAX, 0, 0, 0, 0])?;
            return Ok(segments.highest_index());
        }
        SHM_INFO => {
            // struct shm_info: used_ids (int), then pages in all, resident, swapped, and two spare words.
            let all = segments.list();
            let pages: u64 = all.iter().map(|(_, segment)| segment.size().div_ceil(4096)).sum();
            context.write(buffer.0, &[all.len() as u64, pages, pages, 0, 0, 0])?;
            return Ok(segments.highest_index());
        }
        _ => return Err(Errno::EINVAL),
    };
    let (value, segment) = find_to_show(context, segments, id, lookup)?;
    context.write(buffer.0, &segment.to_struct())?;
    Ok(value)
}

/// shmat(2): where the segment was mapped. EINVAL, EIDRM, EACCES, ENOMEM.
pub fn shmat(context: &mut Context, id: i32, address: u64, flags: i32) -> Result<u64> {
    const SHM_RDONLY: i32 = 0o10000;
    const SHM_RND: i32 = 0o20000;
    const SHM_REMAP: i32 = 0o40000;
    const SHM_EXEC: i32 = 0o100000;
    let access = if flags & SHM_RDONLY != 0 { Access::Read } else { Access::ReadWrite };
    let address = if flags & SHM_RND != 0 { address / PAGE * PAGE } else { address };
    if address % PAGE != 0 || (address == 0 && flags & SHM_REMAP != 0) {
        return Err(Errno::EINVAL);
    }
    let mut protection = linux::PROT_READ;
    if access == Access::ReadWrite {
        protection |= linux::PROT_WRITE;
    }
    if flags & SHM_EXEC != 0 {
        protection |= linux::PROT_EXEC;
    }
    let attachment = shared_memory::attach(context, id, access)?;
    let mut host_flags = linux::MAP_SHARED;
    if address != 0 {
        let end = address.checked_add(attachment.size).filter(|&end| end <= super::memory::ADDRESS_END);
        if end.is_none_or(|end| address < RESERVED_END && end > STUB_BASE) {
            attachment.undo(context);
            return Err(Errno::EINVAL);
        }
        host_flags |= if flags & SHM_REMAP != 0 { linux::MAP_FIXED } else { linux::MAP_FIXED_NOREPLACE };
    }
    let arguments = [address, attachment.size, protection.into(), host_flags.into(), 0, 0];
    let call = NativeCall::with_descriptor(linux::__NR_mmap, arguments, 4, attachment.descriptor.clone());
    let finish = move |context: &mut Context, result: i64| {
        if result < 0 {
            attachment.undo(context);
            let error = Errno(-result as i32);
            return Err(if error == Errno::EEXIST { Errno::EINVAL } else { error });
        }
        attachment.done(context, result as u64);
        Ok(result as u64)
    };
    context.run_native(vec![call], Some(Box::new(finish)))
}

/// shmdt(2). EINVAL where no segment is attached at `address`.
pub fn shmdt(context: &mut Context, address: u64) -> Result<u64> {
    let size = shared_memory::detach(context, address)?;
    context.run_native(vec![NativeCall::new(linux::__NR_munmap, [address, size, 0, 0, 0, 0])], None)
}

/// semget(2). EINVAL, EEXIST, ENOENT, EACCES, ENOSPC.
pub fn semget(context: &mut Context, key: i32, count: i32, flags: i32) -> Result<i32> {
    if !(0..=semaphore::SEMMSL).contains(&count) {
        return Err(Errno::EINVAL);
    }
    let credentials = context.task.credentials();
    let permission = permission(context, key, flags);
    let sysv = &context.kernel().sysv;
    sysv.semaphores.get(
        key,
        flags,
        semaphore::SEMMNI,
        || next_id(context, "kernel/sem_next_id"),
        &credentials,
        |set| if count as usize > set.count() { Err(Errno::EINVAL) } else { Ok(()) },
        || {
            if count == 0 {
                return Err(Errno::EINVAL);
            }
            SemaphoreSet::new(permission, count as usize, sysv.semaphore_count.clone())
        },
    )
}

/// semop(2).
pub fn semop(context: &mut Context, id: i32, operations: UserAddress, count: u64) -> Result<()> {
    operate(context, id, operations, count, None)
}

/// semtimedop(2): EAGAIN after `timeout`; null: for ever.
pub fn semtimedop(context: &mut Context, id: i32, operations: UserAddress, count: u64, timeout: UserAddress) -> Result<()> {
    let deadline = match timeout.non_null() {
        Some(address) => {
            let time: TimeSpec = context.read(address)?;
            deadline_after(time.to_nanos().ok_or(Errno::EINVAL)?)
        }
        None => None,
    };
    operate(context, id, operations, count, deadline)
}

fn operate(context: &mut Context, id: i32, operations: UserAddress, count: u64, deadline: Option<Instant>) -> Result<()> {
    if count == 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    if count > semaphore::SEMOPM as u64 {
        return Err(Errno::E2BIG);
    }
    let operations: Vec<Operation> = context.read_array(operations.0, count as usize)?;
    context.kernel().sysv.semaphores.find(id)?.operate(context, &operations, deadline)
}

/// semctl(2).
pub fn semctl(context: &mut Context, id: i32, number: i32, command: i32, argument: u64) -> Result<i32> {
    const GETPID: i32 = 11;
    const GETVAL: i32 = 12;
    const GETALL: i32 = 13;
    const GETNCNT: i32 = 14;
    const GETZCNT: i32 = 15;
    const SETVAL: i32 = 16;
    const SETALL: i32 = 17;
    const SEM_STAT: i32 = 18;
    const SEM_INFO: i32 = 19;
    const SEM_STAT_ANY: i32 = 20;
    let sets = &context.kernel().sysv.semaphores;
    let credentials = context.task.credentials();
    let pid = context.process().pid();
    let command = command & !IPC_64;
    let show = |lookup| -> Result<i32> {
        let (value, set) = find_to_show(context, sets, id, lookup)?;
        context.write(argument, &set.to_struct())?;
        Ok(value)
    };
    match command {
        IPC_STAT => show(Lookup::Id),
        SEM_STAT => show(Lookup::Index),
        SEM_STAT_ANY => show(Lookup::IndexForAnyone),
        IPC_SET => {
            let new: SetStruct = context.read(argument)?;
            let set = sets.find(id)?;
            set.permission().check_owner(&credentials)?;
            set.set_permission(&new.permission);
            Ok(0)
        }
        IPC_RMID => {
            let set = sets.find(id)?;
            set.permission().check_owner(&credentials)?;
            sets.remove(id, &set);
            Ok(0)
        }
        IPC_INFO | SEM_INFO => {
            let (sets_in_use, semaphores) = if command == SEM_INFO {
                let all = sets.list();
                (all.len() as i32, all.iter().map(|(_, set)| set.count() as i32).sum())
            } else {
                (20, semaphore::SEMVMX)
            };
            // struct seminfo: semmap, semmni, semmns, semmnu, semmsl, semopm, semume, semusz, semvmx, semaem.
            let most = semaphore::SEMMNS as i32;
            let info = [
                most,
                semaphore::SEMMNI as i32,
                most,
                most,
                semaphore::SEMMSL,
                semaphore::SEMOPM as i32,
                semaphore::SEMOPM as i32,
                sets_in_use,
                semaphore::SEMVMX,
                semaphores,
            ];
            context.write(argument, &info)?;
            Ok(sets.highest_index())
        }
        GETPID | GETVAL | GETNCNT | GETZCNT => {
            let set = sets.find(id)?;
            set.permission().check(&credentials, 0o444)?;
            let (value, last, growth_waiters, zero_waiters) = set.semaphore(number)?;
            Ok(match command {
                GETPID => last,
                GETVAL => value,
                GETNCNT => growth_waiters,
                _ => zero_waiters,
            })
        }
        GETALL => {
            let set = sets.find(id)?;
            set.permission().check(&credentials, 0o444)?;
            context.write(argument, set.values().as_slice())?;
            Ok(0)
        }
        SETVAL => {
            let set = sets.find(id)?;
            set.permission().check(&credentials, 0o222)?;
            set.set_value(number, argument as i32, pid)?;
            Ok(0)
        }
        SETALL => {
            let set = sets.find(id)?;
            set.permission().check(&credentials, 0o222)?;
            let values: Vec<u16> = context.read_array(argument, set.count())?;
            set.set_values(&values, pid)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// msgget(2). EEXIST, ENOENT, EACCES, ENOSPC.
pub fn msgget(context: &mut Context, key: i32, flags: i32) -> Result<i32> {
    let credentials = context.task.credentials();
    let permission = permission(context, key, flags);
    let sysv = &context.kernel().sysv;
    let make = || Ok(MessageQueue::new(permission, sysv.message_bytes.clone()));
    let most = limit(context, "kernel/msgmni");
    sysv.queues.get(key, flags, most, || next_id(context, "kernel/msg_next_id"), &credentials, |_| Ok(()), make)
}

/// Waits, unless IPC_NOWAIT. Never restarted where a handler runs.
fn wait_unless_told_not_to<T>(
    context: &Context,
    queue: &MessageQueue,
    flags: i32,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    if flags & IPC_NOWAIT != 0 {
        return attempt();
    }
    match context.block_on(queue.wait_queue(), None, attempt) {
        Err(Errno::ERESTARTSYS) => Err(Errno::ERESTARTNOHAND),
        other => other,
    }
}

/// msgsnd(2): `message` is the type (8 bytes) and `length` bytes. EINVAL, EACCES, EAGAIN, EIDRM, EINTR.
pub fn msgsnd(context: &mut Context, id: i32, message: UserAddress, length: u64, flags: i32) -> Result<()> {
    if id < 0 || length > message::MSGMAX as u64 {
        return Err(Errno::EINVAL);
    }
    let kind: i64 = context.read(message.0)?;
    if kind < 1 {
        return Err(Errno::EINVAL);
    }
    let bytes = context.read_array(message.0.checked_add(8).ok_or(Errno::EFAULT)?, length as usize)?;
    let queue = context.kernel().sysv.queues.find(id)?;
    queue.permission().check(&context.task.credentials(), 0o222)?;
    let pid = context.process().pid();
    let mut message = Some(Message { kind, bytes });
    wait_unless_told_not_to(context, &queue, flags, || queue.send(&mut message, pid))
}

/// msgrcv(2): how many bytes of text were received. EINVAL, EACCES, E2BIG, ENOMSG, EIDRM, EINTR.
pub fn msgrcv(context: &mut Context, id: i32, message: UserAddress, length: u64, kind: i64, flags: i32) -> Result<usize> {
    const MSG_NOERROR: i32 = 0o10000;
    const MSG_EXCEPT: i32 = 0o20000;
    const MSG_COPY: i32 = 0o40000;
    if id < 0 || length > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let selection = if flags & MSG_COPY != 0 {
        if flags & MSG_EXCEPT != 0 || flags & IPC_NOWAIT == 0 {
            return Err(Errno::EINVAL);
        }
        Selection::Copy(usize::try_from(kind).map_err(|_| Errno::ENOMSG)?)
    } else {
        match kind {
            0 => Selection::First,
            1.. if flags & MSG_EXCEPT != 0 => Selection::Except(kind),
            1.. => Selection::Kind(kind),
            _ => Selection::UpTo(kind.checked_neg().unwrap_or(i64::MAX)),
        }
    };
    let too_long = if flags & MSG_NOERROR != 0 { TooLong::Truncate } else { TooLong::Refuse };
    let queue = context.kernel().sysv.queues.find(id)?;
    queue.permission().check(&context.task.credentials(), 0o444)?;
    let pid = context.process().pid();
    let room = usize::try_from(length).unwrap_or(usize::MAX);
    let received = wait_unless_told_not_to(context, &queue, flags, || queue.receive(selection, room, too_long, pid));
    let received = received.map_err(|error| if error == Errno::EAGAIN { Errno::ENOMSG } else { error })?;
    context.write(message.0, &received.kind)?;
    context.write_bytes(message.0.checked_add(8).ok_or(Errno::EFAULT)?, &received.bytes)?;
    Ok(received.bytes.len())
}

/// msgctl(2).
pub fn msgctl(context: &mut Context, id: i32, command: i32, buffer: UserAddress) -> Result<i32> {
    const MSG_STAT: i32 = 11;
    const MSG_INFO: i32 = 12;
    const MSG_STAT_ANY: i32 = 13;
    let queues = &context.kernel().sysv.queues;
    let credentials = context.task.credentials();
    let command = command & !IPC_64;
    let lookup = match command {
        IPC_STAT => Lookup::Id,
        MSG_STAT => Lookup::Index,
        MSG_STAT_ANY => Lookup::IndexForAnyone,
        IPC_SET => {
            let new: QueueStruct = context.read(buffer.0)?;
            let queue = queues.find(id)?;
            queue.permission().check_owner(&credentials)?;
            if new.most_bytes > message::MSGMNB && !credentials.has_capability(CAP_SYS_RESOURCE) {
                return Err(Errno::EPERM);
            }
            queue.set(&new.permission, new.most_bytes.min(message::LARGEST_QUEUE));
            return Ok(0);
        }
        IPC_RMID => {
            let queue = queues.find(id)?;
            queue.permission().check_owner(&credentials)?;
            queues.remove(id, &queue);
            return Ok(0);
        }
        IPC_INFO | MSG_INFO => {
            let (in_use, messages, bytes) = if command == MSG_INFO {
                let all: Vec<QueueStruct> = queues.list().iter().map(|(_, queue)| queue.to_struct()).collect();
                let messages = all.iter().map(|queue| queue.count as i32).sum();
                (all.len() as i32, messages, all.iter().map(|queue| queue.bytes as i32).sum())
            } else {
                (limit(context, "kernel/msgmni") as i32, message::MSGMNB as i32, message::MSGMNB as i32)
            };
            // struct msginfo: msgpool, msgmap, msgmax, msgmnb, msgmni, msgssz, msgtql (ints), msgseg (short).
            let most = limit(context, "kernel/msgmni") as i32;
            let info = [in_use, messages, message::MSGMAX as i32, message::MSGMNB as i32, most, 16, bytes, 0xffff];
            context.write(buffer.0, &info)?;
            return Ok(queues.highest_index());
        }
        _ => return Err(Errno::EINVAL),
    };
    let (value, queue) = find_to_show(context, queues, id, lookup)?;
    context.write(buffer.0, &queue.to_struct())?;
    Ok(value)
}
