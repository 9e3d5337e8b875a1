//! The sentry's own process: descriptors it was given, and the namespaces it puts itself into before it has threads.

use crate::HostError;
use rustix::process::{getrlimit, setrlimit, Pid, Resource, Rlimit};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::OnceLock;

/// Takes over a descriptor that the caller left open for us.
///
/// `number` must be given once only, and come from the command line. EBADF where it is not open.
pub fn take_descriptor(number: RawFd) -> Result<OwnedFd, HostError> {
    // SAFETY: F_SETFD on a number that may or may not be open.
    if number < 0 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(HostError::last("the descriptor given on the command line"));
    }
    // SAFETY: it is open, and this process has no other owner for it: it comes from the command line.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Errors that come back for datagrams of this socket are kept, with the address that they are of (ip(7), IP_RECVERR), to be read
/// with MSG_ERRQUEUE.
pub fn keep_errors(socket: BorrowedFd, family: rustix::net::AddressFamily) -> Result<(), HostError> {
    let (level, option) = match family {
        rustix::net::AddressFamily::INET6 => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
        _ => (libc::IPPROTO_IP, libc::IP_RECVERR),
    };
    let on: libc::c_int = 1;
    let size = std::mem::size_of_val(&on) as libc::socklen_t;
    // SAFETY: the host reads one int.
    match unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const on).cast(), size) } {
        0 => Ok(()),
        _ => Err(HostError::last("IP_RECVERR")),
    }
}

/// How many descriptors this process may have. The first call lets it, and what it makes, have as many as its caller may grant
/// (RLIMIT_NOFILE): the soft limit, 1024 on most hosts, is meant for programs that use select(2).
pub fn descriptor_limit() -> usize {
    static LIMIT: OnceLock<usize> = OnceLock::new();
    *LIMIT.get_or_init(|| {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).is_ok();
        let limit = if raised { maximum } else { current };
        limit.map_or(usize::MAX, |limit| limit as usize)
    })
}

/// Has the host make room for `count` descriptors at once, as far as so many may be open: to be called while the process has one thread. When the
/// table of a process with several threads becomes larger, who has opened the file waits until no CPU can be looking at the old one, which
/// takes Linux some 15 ms each time that it doubles.
pub fn make_room_for_descriptors(count: usize) {
    let last = count.min(descriptor_limit()).saturating_sub(1);
    let any = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC);
    // The room stays when this is closed again. Without it all goes on, if later.
    let _ = any.and_then(|any| rustix::io::fcntl_dupfd_cloexec(&any, last as RawFd));
}

/// Which side of a fork this is.
pub enum Forked {
    Parent(Pid),
    Child,
}

/// clone(2) as fork(2), with the child in new namespaces (CLONE_NEW* flags, or 0), while the process has one thread.
pub fn fork_into_namespaces(flags: u32) -> Result<Forked, HostError> {
    let threads = std::fs::read_dir("/proc/self/task").map(|tasks| tasks.count()).unwrap_or(1);
    if threads != 1 {
        return Err(HostError::new("clone", std::io::Error::other("the process has threads already")));
    }
    if flags == 0 {
        // SAFETY: with one thread the child has the whole program in a consistent state.
        return match unsafe { libc::fork() } {
            -1 => Err(HostError::last("fork")),
            0 => Ok(Forked::Child),
            pid => Pid::from_raw(pid).map(Forked::Parent).ok_or_else(|| HostError::last("fork")),
        };
    }
    let flags = u64::from(flags) | libc::SIGCHLD as u64;
    // SAFETY: no new stack and no shared memory, so that it is a fork; one thread, so that the child is consistent. The
    // C library's own idea of the thread id is stale in the child, which uses none of what depends on it.
    match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
        -1 => Err(HostError::last("clone into new namespaces")),
        0 => Ok(Forked::Child),
        pid => Pid::from_raw(pid as i32).map(Forked::Parent).ok_or_else(|| HostError::last("clone")),
    }
}

/// As [`fork_into_namespaces`]; the child dies with this process, from its first moment on.
pub fn fork_tied(flags: u32) -> Result<Forked, HostError> {
    let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
    let (held, tie) = pipe.map_err(|error| HostError::new("pipe", error))?;
    let forked = fork_into_namespaces(flags)?;
    match forked {
        Forked::Child => {
            drop(held);
            crate::agent::die_with_parent();
            // Its parent may have died before that; then nobody holds the other end.
            if rustix::io::retry_on_intr(|| rustix::io::write(&tie, b"t")).is_err() {
                crate::agent::leave(1);
            }
        }
        Forked::Parent(_) => {
            drop(tie);
            let _ = rustix::io::retry_on_intr(|| rustix::io::read(&held, &mut [0u8; 1]));
        }
    }
    Ok(forked)
}

/// Sends bytes over a stream socket, with descriptors of ours (by number) that go with the first of them.
pub fn send(socket: &OwnedFd, bytes: &[u8], descriptors: &[RawFd]) -> Result<(), HostError> {
    use rustix::net::{sendmsg, SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    /// More than one frame of the control protocol carries.
    const MAXIMUM: usize = 16;
    let failed = |error: rustix::io::Errno| HostError::new("sending over the control socket", error);
    // SAFETY: the caller names descriptors that are open, and stay so while they are sent.
    let borrowed: Vec<BorrowedFd> = descriptors.iter().map(|number| unsafe { BorrowedFd::borrow_raw(*number) }).collect();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAXIMUM))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !borrowed.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)) {
        return Err(failed(rustix::io::Errno::INVAL));
    }
    let mut sent = 0;
    while sent < bytes.len() {
        let rest = [std::io::IoSlice::new(&bytes[sent..])];
        sent += rustix::io::retry_on_intr(|| sendmsg(socket, &rest, &mut ancillary, SendFlags::NOSIGNAL)).map_err(failed)?;
        ancillary.clear();
    }
    Ok(())
}

/// Large pieces of memory (mallopt(3)) are mappings of their own, which go back to the host when they are freed, however large
/// those were that were freed before. To be called first.
pub fn return_large_memory() {
    const LARGE: libc::c_int = 256 << 10;
    // SAFETY: plain numbers.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
        libc::mallopt(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives what is free back to the host (malloc_trim(3)), after work that needed much and is seldom done.
pub fn return_free_memory() {
    // SAFETY: a plain number.
    unsafe { libc::malloc_trim(0) };
}

/// Unmaps the pages of this program's code and constants (madvise(2), MADV_DONTNEED): those that are used again come back from
/// the host's page cache, at a microsecond for 64 KiB; those that only the start has used do not.
pub fn return_code() {
    extern "C" {
        // The linker's names for where the program begins, and where its code ends.
        static __executable_start: u8;
        static etext: u8;
    }
    let page = rustix::param::page_size();
    let start = (&raw const __executable_start as usize).next_multiple_of(page);
    let end = (&raw const etext as usize) / page * page;
    // SAFETY: these pages are private mappings of the program's file that nobody can write to, relocated data comes after
    // them: what is read there is the same before and after.
    unsafe { libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_DONTNEED) };
}
