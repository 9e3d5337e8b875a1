//! Record locks of fcntl(2), and flock(2).

use crate::fs::file::OpenFile;
use crate::fs::inode::Inode;
use crate::fs::lock::{Mode, Owner, Record};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// `struct flock` (fcntl(2)).
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct Flock {
    kind: i16,
    whence: i16,
    _padding0: u32,
    start: i64,
    length: i64,
    pid: i32,
    _padding1: u32,
}

fn inode_of(file: &OpenFile) -> Result<Arc<dyn Inode>> {
    file.path.as_ref().map(|path| path.inode().clone()).ok_or(Errno::EBADF)
}

/// `struct flock`'s range as `start..=end`. EINVAL where it lies before 0, EOVERFLOW where it leaves off_t.
fn range(file: &OpenFile, lock: &Flock) -> Result<(u64, u64)> {
    let base = match lock.whence as u32 {
        linux::SEEK_SET => 0,
        linux::SEEK_CUR => file.position.lock().get() as i64,
        linux::SEEK_END => file.operations.size()? as i64,
        _ => return Err(Errno::EINVAL),
    };
    let start = base.checked_add(lock.start).ok_or(Errno::EOVERFLOW)?;
    if start < 0 {
        return Err(Errno::EINVAL);
    }
    match lock.length {
        0 => Ok((start as u64, i64::MAX as u64)),
        length if length > 0 => {
            let end = start.checked_add(length - 1).ok_or(Errno::EOVERFLOW)?;
            Ok((start as u64, end as u64))
        }
        length => {
            let first = start.checked_add(length).ok_or(Errno::EINVAL)?;
            if first < 0 {
                return Err(Errno::EINVAL);
            }
            Ok((first as u64, (start - 1) as u64))
        }
    }
}

pub(super) fn record_lock(context: &Context, _fd: i32, file: &Arc<OpenFile>, command: u32, argument: u64) -> Result<u64> {
    let mut lock: Flock = context.read(argument)?;
    let (start, end) = range(file, &lock)?;
    let inode = inode_of(file)?;
    let open_file = matches!(command, linux::F_OFD_GETLK | linux::F_OFD_SETLK | linux::F_OFD_SETLKW);
    if open_file && lock.pid != 0 {
        return Err(Errno::EINVAL);
    }
    let process = context.process().pid();
    let owner = if open_file { Owner::open_file(file) } else { Owner::Process(process) };
    let mode = match lock.kind as u32 {
        linux::F_RDLCK => Some(Mode::Shared),
        linux::F_WRLCK => Some(Mode::Exclusive),
        linux::F_UNLCK => None,
        _ => return Err(Errno::EINVAL),
    };
    let locks = &context.kernel().locks;
    if matches!(command, linux::F_GETLK | linux::F_OFD_GETLK) {
        let Some(mode) = mode else { return Err(Errno::EINVAL) };
        match locks.conflict(&inode, &Record { start, end, mode, owner }) {
            None => lock.kind = linux::F_UNLCK as i16,
            Some(other) => {
                lock.kind = if other.mode == Mode::Shared { linux::F_RDLCK } else { linux::F_WRLCK } as i16;
                lock.whence = linux::SEEK_SET as i16;
                lock.start = other.start as i64;
                lock.length = if other.end >= i64::MAX as u64 { 0 } else { (other.end - other.start + 1) as i64 };
                lock.pid = if let Owner::Process(pid) = other.owner { pid } else { -1 };
            }
        }
        context.write(argument, &lock)?;
        return Ok(0);
    }
    let Some(mode) = mode else {
        return locks.unlock_record(&inode, start, end, owner).map(|()| 0);
    };
    if (mode == Mode::Shared && !file.is_readable()) || (mode == Mode::Exclusive && !file.is_writable()) {
        return Err(Errno::EBADF);
    }
    if open_file {
        locks.release_at_last_close(file, &inode);
    }
    let wanted = Record { start, end, mode, owner };
    let waits = matches!(command, linux::F_SETLKW | linux::F_OFD_SETLKW);
    if !waits {
        return locks.lock_record(&inode, wanted, false).map(|()| 0);
    }
    let queue = locks.queue(&inode);
    let result = context.block_on(&queue, None, || locks.lock_record(&inode, wanted, true));
    drop(queue);
    if result.is_err() {
        locks.stop_waiting(process);
        locks.forget_if_unused(&inode);
    }
    result.map(|()| 0)
}

/// flock(2).
pub fn flock(context: &mut Context, fd: i32, operation: u32) -> Result<()> {
    let file = context.file(fd)?;
    let inode = inode_of(&file)?;
    let locks = &context.kernel().locks;
    let mode = match operation & !linux::LOCK_NB {
        linux::LOCK_SH => Mode::Shared,
        linux::LOCK_EX => Mode::Exclusive,
        linux::LOCK_UN => {
            locks.unlock_whole(&file, &inode);
            return Ok(());
        }
        _ => return Err(Errno::EINVAL),
    };
    locks.release_at_last_close(&file, &inode);
    if operation & linux::LOCK_NB != 0 {
        return locks.lock_whole(&file, &inode, mode);
    }
    let queue = locks.queue(&inode);
    let result = context.block_on(&queue, None, || locks.lock_whole(&file, &inode, mode));
    drop(queue);
    if result.is_err() {
        locks.forget_if_unused(&inode);
    }
    result
}
