//! What a command in the foreground needs of its host: signals that are read, and a fork while there is one thread.

use crate::HostError;
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{pidfd_open, waitpid, Pid, PidfdFlags, WaitOptions, WaitStatus};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

/// Signals that come to this process, to be read one by one (signalfd(2)).
pub struct Signals {
    descriptor: OwnedFd,
}

impl Signals {
    /// Takes `numbers`, but for those that are ignored already: what the caller ignores stays ignored. `blocked` ones are only
    /// kept from acting.
    pub fn take(numbers: &[i32], blocked: &[i32]) -> Result<Signals, HostError> {
        // SAFETY: the sets and the action are plain and ours; with one thread the process mask is the thread's.
        unsafe {
            let mut taken: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut taken);
            for number in numbers {
                let mut present: libc::sigaction = std::mem::zeroed();
                if libc::sigaction(*number, std::ptr::null(), &mut present) == 0 && present.sa_sigaction != libc::SIG_IGN {
                    libc::sigaddset(&mut taken, *number);
                }
            }
            let mut mask = taken;
            for number in blocked {
                libc::sigaddset(&mut mask, *number);
            }
            libc::sigprocmask(libc::SIG_SETMASK, &mask, std::ptr::null_mut());
            match libc::signalfd(-1, &taken, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                -1 => Err(HostError::last("signalfd")),
                descriptor => Ok(Signals { descriptor: OwnedFd::from_raw_fd(descriptor) }),
            }
        }
    }

    /// The next signal that has come, if one has.
    pub fn next(&self) -> Option<i32> {
        let mut information = std::mem::MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = std::mem::size_of::<libc::signalfd_siginfo>();
        // SAFETY: the host fills `size` bytes of a buffer of that size, or none; it is read only after the former.
        unsafe {
            let count = libc::read(self.descriptor.as_raw_fd(), information.as_mut_ptr().cast(), size);
            (count == size as isize).then(|| information.assume_init().ssi_signo as i32)
        }
    }

    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }
}

/// How a child ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    Status(i32),
    Signal(i32),
}

/// Waits for a child of ours for at most `patience`; `None`: it goes on.
pub fn wait_for_child(pid: Pid, patience: Duration) -> Option<Ended> {
    let deadline = Instant::now() + patience;
    // A seccomp profile may forbid pidfd_open: then in small steps.
    let descriptor = pidfd_open(pid, PidfdFlags::empty()).ok();
    loop {
        match rustix::io::retry_on_intr(|| waitpid(Some(pid), WaitOptions::NOHANG)) {
            Ok(Some((_, status))) => return Some(ended(status)),
            Ok(None) => {}
            Err(_) => return Some(Ended::Status(0)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        match &descriptor {
            Some(descriptor) => {
                let timeout = rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
                let _ = poll(&mut [PollFd::new(descriptor, PollFlags::IN)], Some(&timeout));
            }
            None => std::thread::sleep(Duration::from_millis(5)),
        }
    }
}

fn ended(status: WaitStatus) -> Ended {
    match status.terminating_signal() {
        Some(signal) => Ended::Signal(signal),
        None => Ended::Status(status.exit_status().unwrap_or(0)),
    }
}

/// Gives up every descriptor but `kept`.
pub fn close_all_but(kept: impl IntoIterator<Item = i32>) {
    let mut kept: Vec<i32> = kept.into_iter().collect();
    kept.sort_unstable();
    let mut low = 0;
    for number in kept.into_iter().chain([i32::MAX]) {
        if low < number {
            // SAFETY: the caller owns no other descriptor yet, or uses none again.
            let closed = unsafe { libc::syscall(libc::SYS_close_range, low, number - 1, 0) };
            if closed != 0 {
                close_one_by_one(low, number - 1);
            }
        }
        low = number.saturating_add(1);
    }
}

/// Where the host has no close_range(2) (before Linux 5.9), or a profile forbids it.
fn close_one_by_one(first: i32, last: i32) {
    let Ok(entries) = std::fs::read_dir("/proc/self/fd") else { return };
    let open: Vec<i32> = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect();
    for number in open.into_iter().filter(|number| (first..=last).contains(number)) {
        // SAFETY: as above; the directory's own descriptor is closed already, and a second close gives EBADF.
        unsafe { libc::close(number) };
    }
}
