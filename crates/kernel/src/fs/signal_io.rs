//! Signal-driven I/O: O_ASYNC, F_SETOWN and F_SETSIG (fcntl(2), "Managing signals").

use crate::fs::file::{OpenFile, StatusFlags};
use crate::sync::{Hears, Wake};
use crate::Kernel;
use skerry_abi::signal::{Signal, SignalInfo};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

/// Tells the owner of an open file that something has happened to it.
struct Teller {
    kernel: Weak<Kernel>,
    file: Weak<OpenFile>,
    /// The descriptor by which O_ASYNC was set: what si_fd says.
    fd: i32,
}

impl Wake for Teller {
    fn wake(&self) {
        if let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) {
            tell(&kernel, &file, self.fd);
        }
    }

    fn hears(&self) -> Hears {
        Hears::Each
    }
}

/// POLL_IN and its band (sigaction(2)). Readiness itself is not asked for here: the object may be locked.
const POLL_IN: i32 = 1;
const BAND_IN: i64 = 0x41;

fn tell(kernel: &Kernel, file: &OpenFile, fd: i32) {
    let number = file.owner.read().1;
    let info = match Signal::new(number) {
        Some(signal) => SignalInfo { code: POLL_IN, ..SignalInfo::io(signal, BAND_IN, fd) },
        None => SignalInfo::kernel(Signal::SIGIO),
    };
    send(kernel, file, info);
}

/// Something has happened in a directory (F_NOTIFY), or a lease is to be given up.
pub fn tell_message(kernel: &Kernel, file: &OpenFile, fd: i32) {
    /// POLL_MSG and its band (sigaction(2)).
    const POLL_MSG: i32 = 3;
    const BAND_MSG: i64 = 0x441;
    let number = file.owner.read().1;
    let info = match Signal::new(number) {
        Some(signal) => SignalInfo { code: POLL_MSG, ..SignalInfo::io(signal, BAND_MSG, fd) },
        None => SignalInfo::kernel(Signal::SIGIO),
    };
    send(kernel, file, info);
}

/// Urgent data has come for a socket (tcp(7), SIGURG).
pub fn tell_urgent(kernel: &Kernel, file: &OpenFile) {
    send(kernel, file, SignalInfo::kernel(Signal::SIGURG));
}

fn send(kernel: &Kernel, file: &OpenFile, info: SignalInfo) {
    let owner = file.owner.read().0;
    if owner < 0 {
        if let Ok(group) = kernel.pids.group(owner.saturating_neg()) {
            group.send_signal(kernel, info);
        }
    } else if owner > 0 && file.owner_is_thread.load(Ordering::Relaxed) {
        if let Ok(task) = kernel.pids.task(owner) {
            task.send_signal(info);
        }
    } else if owner > 0 {
        if let Ok(process) = kernel.pids.process(owner) {
            process.send_signal(info);
        }
    }
}

/// Switches signal-driven I/O on or off; objects that never block have none.
pub fn set_enabled(kernel: &Arc<Kernel>, file: &Arc<OpenFile>, fd: i32, enabled: bool) {
    let Some(queue) = file.operations.wait_queue() else { return };
    let mut registration = file.signal_io.lock();
    match (enabled, *registration) {
        (true, None) => {
            let teller = Teller { kernel: Arc::downgrade(kernel), file: Arc::downgrade(file), fd };
            *registration = Some(queue.add(Arc::new(teller)));
            // From here on each change is to be told of.
            file.operations.end_loan();
        }
        (false, Some(key)) => {
            queue.remove(key);
            *registration = None;
        }
        _ => {}
    }
}

/// Sets status flags, with what O_ASYNC means.
pub fn set_flags(kernel: &Arc<Kernel>, file: &Arc<OpenFile>, fd: i32, flags: StatusFlags) {
    file.set_flags(flags);
    set_enabled(kernel, file, fd, flags.contains(StatusFlags::ASYNC));
}
