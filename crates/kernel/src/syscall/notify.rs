//! Descriptors that stand for something else's events: signalfd(2), pidfd_open(2), memfd_create(2), inotify(7).

use super::event::{install_object, read_write};
use super::UserAddress;
use crate::event::inotify::{self, Inotify};
use crate::event::memfd::{MemFd, Sealing};
use crate::event::pidfd::PidFd;
use crate::event::signalfd::SignalFd;
use crate::fs::file::StatusFlags;
use crate::fs::walk::{self, Follow};
use crate::task::AccessMode;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{Signal, SignalInfo, SignalSet, SI_TKILL, SI_USER};
use std::sync::Arc;

bitflags::bitflags! {
    /// O_NONBLOCK and O_CLOEXEC under the names of signalfd4(2) and inotify_init1(2).
    #[derive(Clone, Copy, Debug)]
    pub struct DescriptorFlags: u32 {
        const NONBLOCK = linux::O_NONBLOCK;
        const CLOSE_ON_EXEC = linux::O_CLOEXEC;
    }
}

bitflags::bitflags! {
    /// pidfd_open(2).
    #[derive(Clone, Copy, Debug)]
    pub struct PidFdFlags: u32 {
        const NONBLOCK = linux::O_NONBLOCK;
    }
}

bitflags::bitflags! {
    /// memfd_create(2).
    #[derive(Clone, Copy, Debug)]
    pub struct MemFdFlags: u32 {
        const CLOSE_ON_EXEC = 1;
        const ALLOW_SEALING = 2;
        const HUGETLB = 4;
        const NOEXEC_SEAL = 8;
        const EXEC = 0x10;
        /// The size of huge pages, as a power of two.
        const HUGE_SIZE = 0x3f << 26;
    }
}
crate::flags_argument!(DescriptorFlags, PidFdFlags, MemFdFlags);

/// signalfd(2).
pub fn signalfd(context: &mut Context, fd: i32, mask: UserAddress, mask_size: u64) -> Result<i32> {
    signalfd4(context, fd, mask, mask_size, DescriptorFlags::empty())
}

/// signalfd4(2): `fd` -1 makes one, else that one's mask is changed. EINVAL, EBADF, EMFILE.
pub fn signalfd4(context: &mut Context, fd: i32, mask: UserAddress, mask_size: u64, flags: DescriptorFlags) -> Result<i32> {
    if mask_size != size_of::<SignalSet>() as u64 {
        return Err(Errno::EINVAL);
    }
    let mask: SignalSet = context.read(mask.0)?;
    if fd != -1 {
        let file = context.file(fd)?;
        file.downcast::<SignalFd>().ok_or(Errno::EINVAL)?.set_mask(mask);
        return Ok(fd);
    }
    let object = Arc::new(SignalFd::new(context.process().clone(), mask));
    let status = read_write(flags.contains(DescriptorFlags::NONBLOCK));
    install_object(context, object, status, flags.contains(DescriptorFlags::CLOSE_ON_EXEC))
}

/// pidfd_open(2): closed by exec. EINVAL for a thread that leads no process, ESRCH.
pub fn pidfd_open(context: &mut Context, pid: i32, flags: PidFdFlags) -> Result<i32> {
    if pid <= 0 {
        return Err(Errno::EINVAL);
    }
    let pids = &context.kernel().pids;
    let process = match pids.process(pid) {
        Ok(process) => process,
        Err(error) => return Err(if pids.task(pid).is_ok() { Errno::EINVAL } else { error }),
    };
    install_object(context, Arc::new(PidFd::new(process)), read_write(flags.contains(PidFdFlags::NONBLOCK)), true)
}

/// pidfd_send_signal(2): to a pidfd or a /proc/PID. EBADF where it is neither, EINVAL, EPERM, ESRCH.
pub fn pidfd_send_signal(context: &mut Context, fd: i32, signal: i32, info: UserAddress, flags: u32) -> Result<()> {
    /// A signal to the whole process: what a pidfd of a process does anyway.
    const PIDFD_SIGNAL_THREAD_GROUP: u32 = 2;
    if flags & !PIDFD_SIGNAL_THREAD_GROUP != 0 {
        return Err(Errno::EINVAL);
    }
    let file = context.file(fd)?;
    let process = &match (file.downcast::<PidFd>(), &file.path) {
        (Some(pidfd), _) => pidfd.living_or_zombie()?.clone(),
        (None, Some(place)) => {
            let pid = crate::fs::proc::process_of_directory(&**place.inode()).ok_or(Errno::EBADF)?;
            context.kernel().pids.process(pid)?
        }
        (None, None) => return Err(Errno::EBADF),
    };
    let sent = if signal == 0 { None } else { Some(Signal::new(signal).ok_or(Errno::EINVAL)?) };
    let own = context.process();
    let given: Option<SignalInfo> = info.non_null().map(|address| context.read(address)).transpose()?;
    if let Some(info) = &given {
        if info.signo != signal {
            return Err(Errno::EINVAL);
        }
        // Only to oneself may anything be claimed.
        if (info.code >= 0 || info.code == SI_TKILL) && !Arc::ptr_eq(own, process) {
            return Err(Errno::EPERM);
        }
    }
    crate::signal::may_send(context.task, process, sent)?;
    let Some(sent) = sent else { return Ok(()) };
    let plain = || SignalInfo::user(sent, SI_USER, own.pid(), context.task.credentials().ruid);
    crate::signal::try_send_to_process(process, given.unwrap_or_else(plain))
}

/// pidfd_getfd(2): the other process's descriptor, for who may trace it. EPERM, EBADF, ESRCH.
pub fn pidfd_getfd(context: &mut Context, pidfd: i32, target: i32, flags: u32) -> Result<i32> {
    const CAP_SYS_PTRACE: u32 = 19;
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let file = context.file(pidfd)?;
    let process = file.downcast::<PidFd>().ok_or(Errno::EBADF)?.living_or_zombie()?;
    let task = process.leader_or_any().ok_or(Errno::ESRCH)?;
    let (mine, theirs) = (context.task.credentials(), process.credentials());
    let same_user = [theirs.ruid, theirs.euid, theirs.suid].iter().all(|&uid| uid == mine.ruid)
        && [theirs.rgid, theirs.egid, theirs.sgid].iter().all(|&gid| gid == mine.rgid);
    let dumpable = process.dumpable.load(std::sync::atomic::Ordering::Relaxed);
    let own = Arc::ptr_eq(process, context.process());
    let allowed = own || (same_user && dumpable) || mine.has_capability(CAP_SYS_PTRACE);
    if !allowed {
        return Err(Errno::EPERM);
    }
    let taken = task.files().get(target)?;
    taken.operations.passed_on();
    context.install(taken, true)
}

/// The longest name, without what Linux puts before it.
const MEMFD_NAME_MAX: usize = 249;

/// memfd_create(2). EINVAL for unknown flags and names over 249 bytes, ENODEV
/// for huge pages, EFAULT, EMFILE.
pub fn memfd_create(context: &mut Context, name: UserAddress, flags: MemFdFlags) -> Result<i32> {
    let size_without_huge = flags.intersects(MemFdFlags::HUGE_SIZE) && !flags.contains(MemFdFlags::HUGETLB);
    if flags.contains(MemFdFlags::EXEC | MemFdFlags::NOEXEC_SEAL) || size_without_huge {
        return Err(Errno::EINVAL);
    }
    let name = context.read_c_string(name.0, MEMFD_NAME_MAX + 1, Errno::EINVAL)?;
    if flags.contains(MemFdFlags::HUGETLB) {
        // No size of huge pages is there.
        return Err(Errno::ENODEV);
    }
    // MFD_NOEXEC_SEAL implies MFD_ALLOW_SEALING.
    let sealable = flags.intersects(MemFdFlags::ALLOW_SEALING | MemFdFlags::NOEXEC_SEAL);
    let sealing = if sealable { Sealing::Allowed } else { Sealing::Refused };
    let permissions = if flags.contains(MemFdFlags::NOEXEC_SEAL) { 0o666 } else { 0o777 };
    let object = Arc::new(MemFd::new(context, &name, sealing, permissions)?);
    let status = StatusFlags::RDWR | StatusFlags::LARGEFILE;
    install_object(context, object, status, flags.contains(MemFdFlags::CLOSE_ON_EXEC))
}

/// inotify_init(2).
pub fn inotify_init(context: &mut Context) -> Result<i32> {
    inotify_init1(context, DescriptorFlags::empty())
}

/// inotify_init1(2). EMFILE.
pub fn inotify_init1(context: &mut Context, flags: DescriptorFlags) -> Result<i32> {
    let object = Inotify::new(context.kernel())?;
    let mut status = StatusFlags::empty();
    status.set(StatusFlags::NONBLOCK, flags.contains(DescriptorFlags::NONBLOCK));
    install_object(context, object, status, flags.contains(DescriptorFlags::CLOSE_ON_EXEC))
}

/// inotify_add_watch(2): the watch's number. EINVAL, EACCES where the file may not be read, EEXIST, ENOSPC, ENOTDIR.
pub fn inotify_add_watch(context: &mut Context, fd: i32, path: UserAddress, mask: u32) -> Result<i32> {
    const KNOWN: u32 = inotify::IN_ALL_EVENTS
        | inotify::IN_ISDIR
        | inotify::IN_ONLYDIR
        | inotify::IN_DONT_FOLLOW
        | inotify::IN_EXCL_UNLINK
        | inotify::IN_MASK_CREATE
        | inotify::IN_MASK_ADD
        | inotify::IN_ONESHOT;
    if mask & KNOWN == 0 || (mask & inotify::IN_MASK_ADD != 0 && mask & inotify::IN_MASK_CREATE != 0) {
        return Err(Errno::EINVAL);
    }
    let file = context.file(fd)?;
    let inotify = file.downcast::<Inotify>().ok_or(Errno::EINVAL)?;
    let path = context.read_path(path.0)?;
    let follow = if mask & inotify::IN_DONT_FOLLOW != 0 { Follow::No } else { Follow::Yes };
    let place = walk::resolve(context.task, linux::AT_FDCWD, &path, follow)?;
    if mask & inotify::IN_ONLYDIR != 0 && !place.dentry.is_directory() {
        return Err(Errno::ENOTDIR);
    }
    context.task.credentials().check_access(&place.inode().metadata()?, AccessMode::READ)?;
    inotify.add_watch(context.kernel(), place.inode(), mask)
}

/// inotify_rm_watch(2). EINVAL.
pub fn inotify_rm_watch(context: &mut Context, fd: i32, watch: i32) -> Result<()> {
    let file = context.file(fd)?;
    file.downcast::<Inotify>().ok_or(Errno::EINVAL)?.remove_watch(watch)
}
