//! seccomp user notification (seccomp_unotify(2)): how an application's thread rings, and how descriptors reach it.

use crate::processor::ticks;
use crate::{beside, HostError};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// A thread rang.
#[derive(Clone, Copy, Debug)]
pub struct Notification {
    /// Valid until it is answered or the thread dies.
    pub id: u64,
    /// The host id of the thread.
    pub tid: i32,
    pub number: i32,
    pub arguments: [u64; 6],
}

/// The listener of one filter tree (an exec'd process and its forks).
pub struct Listener {
    descriptor: OwnedFd,
    features: Features,
    /// The last ring that was received, and whose it was.
    last: (AtomicU64, AtomicI32),
    /// So many descriptors more are to be handed over on one CPU.
    together: AtomicU32,
}

/// Handing a descriptor over has woken another CPU if it takes longer, in ticks of the processor's clock.
const WOKE_A_CPU: u64 = 40_000;
/// Then so many are handed over on one CPU, until that is tried again.
const TOGETHER: u32 = 15;

/// What the host's kernel can do; found out once, or switched off by tests.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    /// SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (6.6).
    pub sync_wake_up: bool,
    /// SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (5.19).
    pub wait_killable: bool,
    /// SECCOMP_ADDFD_FLAG_SEND (5.14).
    pub addfd_send: bool,
}

/// Where a thread goes on that has been given a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GoesOn {
    /// On our CPU, as it does after an answer. Another one, where one is idle, would have to be woken, and so would ours again.
    Here,
    /// Where the host likes.
    Anywhere,
}

impl Default for Features {
    fn default() -> Features {
        Features { sync_wake_up: true, wait_killable: true, addfd_send: true }
    }
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct SeccompNotif {
    id: u64,
    pid: u32,
    flags: u32,
    number: i32,
    architecture: u32,
    instruction_pointer: u64,
    arguments: [u64; 6],
}

#[repr(C)]
struct SeccompNotifResponse {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
struct SeccompNotifAddFd {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

const NOTIF_RECV: u64 = 0xc050_2100;
const NOTIF_SEND: u64 = 0xc018_2101;
const NOTIF_ID_VALID: u64 = 0x4008_2102;
const NOTIF_ADDFD: u64 = 0x4018_2103;
const NOTIF_SET_FLAGS: u64 = 0x4008_2104;
const SYNC_WAKE_UP: u64 = 1;
const RESPONSE_CONTINUE: u32 = 1;
const ADDFD_SEND: u32 = 2;

/// Whether an answer with a descriptor has failed because the thread waits no more. It may be dead; or it goes on, with 0 for the
/// descriptor's number: we were stopped or frozen while we waited for it to take that, and when the host tried once more it
/// had been answered.
pub fn went_without(error: &HostError) -> bool {
    matches!(error.source.raw_os_error(), Some(libc::EINPROGRESS | libc::ENOENT))
}

impl Listener {
    pub fn new(descriptor: OwnedFd, features: Features) -> Listener {
        if features.sync_wake_up {
            // SAFETY: a plain number; kernels that do not know it answer EINVAL, and the wake-up is only slower.
            unsafe { libc::ioctl(descriptor.as_raw_fd(), NOTIF_SET_FLAGS as _, SYNC_WAKE_UP) };
        }
        Listener { descriptor, features, last: Default::default(), together: AtomicU32::new(0) }
    }

    /// Waits for a ring. `Ok(None)`: interrupted, or who rang is gone; look whether to go on, and call again. Errors:
    /// the listener is of no use any more.
    pub fn receive(&self) -> Result<Option<Notification>, HostError> {
        let mut raw = SeccompNotif::default();
        // SAFETY: `raw` has the kernel's layout (80 bytes, as the request number says) and is zeroed as it demands.
        if unsafe { libc::ioctl(self.descriptor.as_raw_fd(), NOTIF_RECV as _, &mut raw) } < 0 {
            let error = std::io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::EINTR) => Ok(None),
                // Who rang is gone; or all are, and then the host does not wait at all but answers this at once, for ever.
                Some(libc::ENOENT) if !self.is_hung_up() => Ok(None),
                _ => Err(HostError::new("receiving a notification", error)),
            };
        }
        self.last.1.store(raw.pid as i32, Ordering::Relaxed);
        self.last.0.store(raw.id, Ordering::Relaxed);
        Ok(Some(Notification { id: raw.id, tid: raw.pid as i32, number: raw.number, arguments: raw.arguments }))
    }

    /// A ring that is there already. Before Linux 6.11 the host waits for one even where nobody is left who could ring, so that
    /// whoever polls must not receive for a hang-up.
    pub fn receive_now(&self) -> Result<Option<Notification>, HostError> {
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live structure.
        let is_there = unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLIN != 0 };
        if is_there {
            self.receive()
        } else {
            Ok(None)
        }
    }

    /// Whether nobody is left who could ring.
    pub fn is_hung_up(&self) -> bool {
        let mut poll = libc::pollfd { fd: self.descriptor.as_raw_fd(), events: 0, revents: 0 };
        // SAFETY: one live structure.
        unsafe { libc::poll(&mut poll, 1, 0) == 1 && poll.revents & libc::POLLHUP != 0 }
    }

    /// Whether who rang still waits: what was read of it in /proc until now was its own.
    pub fn is_valid(&self, id: u64) -> bool {
        // SAFETY: a number of ours, which is only read.
        unsafe { libc::ioctl(self.descriptor.as_raw_fd(), NOTIF_ID_VALID as _, &id) == 0 }
    }

    /// To be polled.
    pub fn descriptor(&self) -> &OwnedFd {
        &self.descriptor
    }

    /// Ends the ring: its call returns `value` (0 or more) or -errno. False: who rang is gone.
    pub fn answer(&self, id: u64, value: i64) -> bool {
        let (value, error) = if value < 0 { (0, value as i32) } else { (value, 0) };
        self.respond(&SeccompNotifResponse { id, value, error, flags: 0 })
    }

    /// As [`Listener::answer`], for one that goes on where it was when it rang, not on our CPU.
    pub fn answer_at_home(&self, id: u64, value: i64) -> bool {
        if !self.features.sync_wake_up {
            return self.answer(id, value);
        }
        // SAFETY: a plain number. Who is answered by others meanwhile goes on in the other way, which is slower at most.
        let set = |flags: u64| unsafe { libc::ioctl(self.descriptor.as_raw_fd(), NOTIF_SET_FLAGS as _, flags) };
        set(0);
        let answered = self.answer(id, value);
        set(SYNC_WAKE_UP);
        answered
    }

    /// Lets the host carry the call out (for calls whose arguments are all in registers).
    pub fn let_go_on(&self, id: u64) -> bool {
        self.respond(&SeccompNotifResponse { id, value: 0, error: 0, flags: RESPONSE_CONTINUE })
    }

    fn respond(&self, response: &SeccompNotifResponse) -> bool {
        // SAFETY: the structure has the kernel's layout (24 bytes).
        unsafe { libc::ioctl(self.descriptor.as_raw_fd(), NOTIF_SEND as _, response) == 0 }
    }

    /// Puts a copy of `source` into the ringing process, close-on-exec; returns its number there.
    pub fn inject(&self, id: u64, source: BorrowedFd<'_>) -> Result<i32, HostError> {
        self.add_descriptor(id, source, 0, GoesOn::Here)
    }

    /// As [`Listener::inject`], and the ring returns the number. See [`Listener::answer_with_descriptor`] for what may become of that.
    pub fn inject_and_answer(
        &self,
        id: u64,
        source: BorrowedFd<'_>,
        features: Features,
        goes_on: GoesOn,
    ) -> Result<(), HostError> {
        if features.addfd_send {
            match self.add_descriptor(id, source, ADDFD_SEND, goes_on) {
                Ok(_) => return Ok(()),
                Err(error) if went_without(&error) => return Err(error),
                Err(_) => {}
            }
        }
        let number = self.add_descriptor(id, source, 0, goes_on)?;
        if self.answer(id, number.into()) {
            Ok(())
        } else {
            Err(HostError::last("answering with a descriptor"))
        }
    }

    /// As [`Listener::inject`], and the ring returns the number, in one step. Nothing has been answered where that fails, but for
    /// [`went_without`]; it always does where [`Features::addfd_send`] is not there.
    pub fn answer_with_descriptor(&self, id: u64, source: BorrowedFd<'_>) -> Result<i32, HostError> {
        self.add_descriptor(id, source, ADDFD_SEND, GoesOn::Here)
    }

    /// The thread has to run to take the descriptor, and ours sleeps meanwhile.
    fn add_descriptor(&self, id: u64, source: BorrowedFd<'_>, flags: u32, goes_on: GoesOn) -> Result<i32, HostError> {
        let request =
            SeccompNotifAddFd { id, flags, source: source.as_raw_fd() as u32, new: 0, new_flags: libc::O_CLOEXEC as u32 };
        // The one that has rung last sleeps on our CPU.
        let may_stay = self.features.sync_wake_up && self.last.0.load(Ordering::Relaxed) == id && goes_on == GoesOn::Here;
        let left = self.together.load(Ordering::Relaxed);
        if may_stay && left > 0 {
            self.together.store(left - 1, Ordering::Relaxed);
            return beside::together(self.last.1.load(Ordering::Relaxed), || self.request_descriptor(&request));
        }
        let began = ticks();
        let added = self.request_descriptor(&request);
        if may_stay && ticks().saturating_sub(began) > WOKE_A_CPU {
            self.together.store(TOGETHER, Ordering::Relaxed);
        }
        added
    }

    fn request_descriptor(&self, request: &SeccompNotifAddFd) -> Result<i32, HostError> {
        loop {
            // SAFETY: the structure has the kernel's layout (24 bytes).
            let number = unsafe { libc::ioctl(self.descriptor.as_raw_fd(), NOTIF_ADDFD as _, request) };
            let error = HostError::last("injecting a descriptor");
            if number >= 0 {
                return Ok(number);
            }
            // It waits for the thread to take the descriptor; a signal to ours interrupts that before it has.
            if error.source.raw_os_error() != Some(libc::EINTR) {
                return Err(error);
            }
        }
    }
}
