//! Calls on descriptors themselves: close(2), dup(2), fcntl(2), ioctl(2)'s generic part.

use crate::fs::close::closed;
use crate::fs::directory_notify;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::FileType;
use crate::fs::lease;
use crate::fs::lock::Mode;
use crate::fs::signal_io;
use crate::fs::tmpfs::TmpfsInode;
use crate::ipc::pipe;
use crate::syscall::UserAddress;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::raw::ioctl;
use std::sync::atomic::Ordering;
use std::sync::Arc;

fn descriptor_limit(context: &Context) -> u64 {
    context.process().rlimit(linux::RLIMIT_NOFILE).current
}

pub fn close(context: &mut Context, fd: i32) -> Result<()> {
    let file = context.task.files().remove(fd)?;
    closed(context.process(), file);
    Ok(())
}

const CLOSE_RANGE_UNSHARE: u32 = 2;
const CLOSE_RANGE_CLOEXEC: u32 = 4;

/// close_range(2).
pub fn close_range(context: &mut Context, first: u32, last: u32, flags: u32) -> Result<()> {
    if flags & !(CLOSE_RANGE_UNSHARE | CLOSE_RANGE_CLOEXEC) != 0 || first > last {
        return Err(Errno::EINVAL);
    }
    if flags & CLOSE_RANGE_UNSHARE != 0 {
        let files = context.task.files();
        files.never_direct();
        let own = files.fork();
        own.never_direct();
        context.task.set_files(Arc::new(own));
    }
    let files = context.task.files();
    for fd in files.descriptors() {
        if (first..=last).contains(&(fd as u32)) {
            if flags & CLOSE_RANGE_CLOEXEC != 0 {
                let _ = files.set_close_on_exec(fd, true);
            } else if let Ok(file) = files.remove(fd) {
                closed(context.process(), file);
            }
        }
    }
    Ok(())
}

pub fn dup(context: &mut Context, fd: i32) -> Result<i32> {
    let file = context.task.files().get(fd)?;
    context.install(file, false)
}

pub fn dup2(context: &mut Context, old: i32, new: i32) -> Result<i32> {
    if old == new {
        context.task.files().get(old)?;
        return Ok(new);
    }
    replace(context, old, new, false)
}

pub fn dup3(context: &mut Context, old: i32, new: i32, flags: u32) -> Result<i32> {
    if flags & !linux::O_CLOEXEC != 0 || old == new {
        return Err(Errno::EINVAL);
    }
    replace(context, old, new, flags != 0)
}

fn replace(context: &Context, old: i32, new: i32, close_on_exec: bool) -> Result<i32> {
    let files = context.task.files();
    let file = files.get(old)?;
    if let Some(replaced) = files.install_at(file, new, close_on_exec, descriptor_limit(context))? {
        closed(context.process(), replaced);
    }
    Ok(new)
}

/// Whether the open made the file (Linux 6.12).
const F_CREATED_QUERY: u32 = 1028;

/// Flags that F_SETFL changes.
const CHANGEABLE: StatusFlags = StatusFlags::APPEND
    .union(StatusFlags::ASYNC)
    .union(StatusFlags::DIRECT)
    .union(StatusFlags::NOATIME)
    .union(StatusFlags::NONBLOCK);

pub fn fcntl(context: &mut Context, fd: i32, command: u32, argument: u64) -> Result<u64> {
    let files = context.task.files();
    let file = files.get(fd)?;
    match command {
        linux::F_DUPFD | linux::F_DUPFD_CLOEXEC => {
            let minimum = argument as i32;
            if minimum < 0 || minimum as u64 >= descriptor_limit(context) {
                return Err(Errno::EINVAL);
            }
            return files
                .install(file, minimum, command == linux::F_DUPFD_CLOEXEC, descriptor_limit(context))
                .map(|fd| fd as u64);
        }
        linux::F_GETFD => return Ok(u64::from(files.close_on_exec(fd)?)),
        linux::F_SETFD => {
            files.set_close_on_exec(fd, argument & u64::from(linux::FD_CLOEXEC) != 0)?;
            return Ok(0);
        }
        linux::F_GETFL => return Ok(u64::from(file.flags().bits())),
        _ => {}
    }
    // An O_PATH descriptor allows no more than that (open(2)).
    if file.flags().contains(StatusFlags::PATH) {
        return Err(Errno::EBADF);
    }
    match command {
        linux::F_SETFL => set_flags(context, fd, &file, argument as u32).map(|()| 0),
        F_CREATED_QUERY => Ok(u64::from(file.created.load(Ordering::Relaxed))),
        linux::F_GETLK | linux::F_SETLK | linux::F_SETLKW | linux::F_OFD_GETLK | linux::F_OFD_SETLK | linux::F_OFD_SETLKW => {
            super::lock::record_lock(context, fd, &file, command, argument)
        }
        linux::F_SETOWN => {
            set_owner(&file, argument as i32, false);
            Ok(0)
        }
        linux::F_GETOWN => Ok(file.owner.read().0 as i64 as u64),
        linux::F_SETOWN_EX => {
            let [kind, id]: [i32; 2] = context.read(argument)?;
            let owner = match kind as u32 {
                linux::F_OWNER_TID | linux::F_OWNER_PID => id,
                linux::F_OWNER_PGRP => id.checked_neg().ok_or(Errno::EINVAL)?,
                _ => return Err(Errno::EINVAL),
            };
            set_owner(&file, owner, kind as u32 == linux::F_OWNER_TID);
            Ok(0)
        }
        linux::F_GETOWN_EX => {
            let owner = file.owner.read().0;
            let kind = if owner < 0 {
                linux::F_OWNER_PGRP
            } else if file.owner_is_thread.load(Ordering::Relaxed) {
                linux::F_OWNER_TID
            } else {
                linux::F_OWNER_PID
            };
            context.write(argument, &[kind as i32, owner.saturating_abs()])?;
            Ok(0)
        }
        linux::F_SETSIG => {
            if argument > 64 {
                return Err(Errno::EINVAL);
            }
            file.owner.write().1 = argument as i32;
            Ok(0)
        }
        linux::F_GETSIG => Ok(file.owner.read().1 as u64),
        linux::F_NOTIFY => {
            directory_notify::notify(context.kernel(), context.process().pid(), fd, &file, argument as u32)?;
            Ok(0)
        }
        linux::F_GETLEASE => Ok(u64::from(match lease::get(context, &file) {
            Some(Mode::Shared) => linux::F_RDLCK,
            Some(Mode::Exclusive) => linux::F_WRLCK,
            None => linux::F_UNLCK,
        })),
        linux::F_SETLEASE => {
            let mode = match argument as u32 {
                linux::F_RDLCK => Some(Mode::Shared),
                linux::F_WRLCK => Some(Mode::Exclusive),
                linux::F_UNLCK => None,
                _ => return Err(Errno::EINVAL),
            };
            lease::set(context, fd, &file, mode).map(|()| 0)
        }
        linux::F_ADD_SEALS => {
            if !file.is_writable() {
                return Err(Errno::EPERM);
            }
            sealable(&file)?.add_seals(argument as u32).map(|()| 0)
        }
        linux::F_GETPIPE_SZ => pipe::capacity(&file).map(|size| size as u64),
        linux::F_SETPIPE_SZ => pipe::set_capacity(&file, argument as u32 as usize).map(|size| size as u64),
        linux::F_GET_SEALS => Ok(u64::from(sealable(&file)?.seals())),
        _ => {
            let operations = file.operations.clone();
            operations.fcntl(context, &file, command, argument)
        }
    }
}

fn set_owner(file: &OpenFile, owner: i32, is_thread: bool) {
    file.owner.write().0 = owner;
    file.owner_is_thread.store(is_thread, Ordering::Relaxed);
}

fn sealable(file: &OpenFile) -> Result<Arc<TmpfsInode>> {
    file.downcast::<crate::fs::tmpfs::TmpfsFile>().map(|file| file.inode.clone()).ok_or(Errno::EINVAL)
}

fn set_flags(context: &Context, fd: i32, file: &Arc<OpenFile>, argument: u32) -> Result<()> {
    let new = StatusFlags::from_bits_truncate(argument) & CHANGEABLE;
    let old = file.flags();
    if new.contains(StatusFlags::NOATIME) && !old.contains(StatusFlags::NOATIME) {
        let uid = file.operations.metadata()?.uid;
        if !context.task.credentials().is_owner_or_capable(uid) {
            return Err(Errno::EPERM);
        }
    }
    signal_io::set_flags(context.kernel(), file, fd, (old - CHANGEABLE) | new);
    if (old ^ file.flags()).contains(StatusFlags::APPEND) {
        if let Some(direct) = context.kernel().direct_registry() {
            direct.clear_file(file);
        }
    }
    Ok(())
}

/// ioctl(2): what every file has; the rest is the object's.
pub fn ioctl(context: &mut Context, fd: i32, request: u32, argument: UserAddress) -> Result<u64> {
    let file = context.file(fd)?;
    match request {
        ioctl::FIOCLEX | ioctl::FIONCLEX => {
            context.task.files().set_close_on_exec(fd, request == ioctl::FIOCLEX)?;
            return Ok(0);
        }
        ioctl::FIONBIO | ioctl::FIOASYNC => {
            let on: i32 = context.read(argument.0)?;
            let flag = if request == ioctl::FIONBIO { StatusFlags::NONBLOCK } else { StatusFlags::ASYNC };
            let flags = file.flags();
            signal_io::set_flags(context.kernel(), &file, fd, if on != 0 { flags | flag } else { flags - flag });
            return Ok(0);
        }
        ioctl::FIONREAD if is_regular(&file) => {
            let left = file.operations.size()?.saturating_sub(file.position.lock().get());
            context.write(argument.0, &(left.min(i32::MAX as u64) as i32))?;
            return Ok(0);
        }
        _ => {}
    }
    let operations = file.operations.clone();
    operations.ioctl(context, &file, request, argument.0)
}

fn is_regular(file: &OpenFile) -> bool {
    file.operations.is_seekable() && file.path.as_ref().is_some_and(|path| path.inode().kind() == FileType::Regular)
}
