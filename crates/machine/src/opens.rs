//! An overlay in the guest opens what is below it with O_NOATIME, and the server of files does as it is told. The host grants that
//! flag to a file's owner only, and an ordinary caller does not own the host's files. So the server's opens with it come here
//! (seccomp notification), and are made without it. It may reach nothing by that which it does not reach by itself: what is
//! opened again is a descriptor of its own, with the same rights.

use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use skerry_platform::listener::{Features, GoesOn, Listener, Notification};
use skerry_platform::memory::GuestMemory;

/// Until nobody is left who could ask.
pub fn serve(listener: &Listener) {
    while let Ok(asked) = listener.receive() {
        answer(asked, listener);
    }
}

/// What is asked within that time.
pub fn serve_for(listener: &Listener, time: Timespec) {
    if matches!(poll(&mut [PollFd::new(listener.descriptor(), PollFlags::IN)], Some(&time)), Ok(1..)) {
        answer(listener.receive_now().unwrap_or(None), listener);
    }
}

fn answer(asked: Option<Notification>, listener: &Listener) {
    let Some(asked) = asked else { return };
    // All that the jail denies is asked about, and stays denied.
    let result = if i64::from(asked.number) == OPENAT { open(&asked, listener) } else { Err(Errno::PERM) };
    if let Err(error) = result {
        listener.answer(asked.id, -i64::from(error.raw_os_error()));
    }
}

const OPENAT: i64 = 257;

fn open(asked: &Notification, listener: &Listener) -> Result<(), Errno> {
    let number = number_of(asked)?;
    let flags = OFlags::from_bits_retain(asked.arguments[2] as u32) - OFlags::NOATIME - OFlags::CREATE - OFlags::TMPFILE;
    // It was its number, and its descriptor, if it still waits after that.
    let file = rustix::fs::open(format!("/proc/{}/fd/{number}", asked.tid), flags | OFlags::CLOEXEC, Mode::empty())?;
    if !listener.is_valid(asked.id) {
        return Err(Errno::SRCH);
    }
    // In two steps: who asks would not know 0, which it would be told where we are stopped in the midst of one, from a number.
    let features = Features { addfd_send: false, ..Features::default() };
    let answered = listener.inject_and_answer(asked.id, std::os::fd::AsFd::as_fd(&file), features, GoesOn::Anywhere);
    answered.map_err(|error| Errno::from_io_error(&error.source).unwrap_or(Errno::IO))
}

/// The server opens what it has looked up by the name that /proc has for it: a number.
fn number_of(asked: &Notification) -> Result<u32, Errno> {
    let mut bytes = [0; 12];
    let count = GuestMemory::of_pid(asked.tid).read(asked.arguments[1], &mut bytes);
    let end = bytes[..count].iter().position(|byte| *byte == 0).ok_or(Errno::PERM)?;
    std::str::from_utf8(&bytes[..end]).ok().and_then(|text| text.parse().ok()).ok_or(Errno::PERM)
}
