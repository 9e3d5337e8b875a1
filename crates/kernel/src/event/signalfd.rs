//! signalfd(2): pending signals that are read.
//!
//! Whoever reads or polls one is told of signals that are pending for itself. To epoll(7), which asks for nobody in
//! particular, a signalfd belongs to the process that made it.

use crate::fs::file::{Events, FileOperations, OpenFile};
use crate::fs::inode::Metadata;
use crate::sync::WaitQueue;
use crate::task::{Process, Task};
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use skerry_abi::signal::{Signal, SignalInfo, SignalSet, SI_KERNEL, SI_SIGIO, SI_TIMER, SI_USER};
use std::any::Any;
use std::sync::Arc;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The object behind the descriptor.
pub struct SignalFd {
    process: Arc<Process>,
    mask: Mutex<SignalSet>,
}

/// `struct signalfd_siginfo`: 128 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SignalFdInfo {
    signo: u32,
    errno: i32,
    code: i32,
    pid: u32,
    uid: u32,
    fd: i32,
    timer_id: u32,
    band: u32,
    overrun: u32,
    trapno: u32,
    status: i32,
    int: i32,
    pointer: u64,
    user_time: u64,
    system_time: u64,
    address: u64,
    address_lsb: u16,
    _padding: [u8; 46],
}

impl SignalFdInfo {
    /// What of the siginfo's union is meant follows from the signal and the code (sigaction(2)).
    fn new(info: &SignalInfo) -> SignalFdInfo {
        let mut out = <SignalFdInfo as zerocopy::FromZeros>::new_zeroed();
        (out.signo, out.errno, out.code) = (info.signo as u32, info.errno, info.code);
        let low = info.fields[0] as u32;
        let high = (info.fields[0] >> 32) as u32;
        let from_kernel = info.code > SI_USER && info.code < SI_KERNEL;
        match info.signal() {
            Some(Signal::SIGILL | Signal::SIGFPE | Signal::SIGSEGV | Signal::SIGBUS | Signal::SIGTRAP) if from_kernel => {
                out.address = info.fields[0];
            }
            Some(Signal::SIGCHLD) if from_kernel => {
                (out.pid, out.uid, out.status) = (low, high, info.fields[1] as i32);
                (out.user_time, out.system_time) = (info.fields[2], info.fields[3]);
            }
            _ if info.code == SI_SIGIO || (from_kernel && info.signal() == Some(Signal::SIGIO)) => {
                (out.band, out.fd) = (low, info.fields[1] as i32);
            }
            _ if info.code == SI_TIMER => {
                (out.timer_id, out.overrun) = (low, high);
                (out.pointer, out.int) = (info.fields[1], info.fields[1] as i32);
            }
            _ => {
                (out.pid, out.uid) = (low, high);
                if info.code < SI_USER {
                    (out.pointer, out.int) = (info.fields[1], info.fields[1] as i32);
                }
            }
        }
        out
    }
}

impl SignalFd {
    pub fn new(process: Arc<Process>, mask: SignalSet) -> SignalFd {
        SignalFd { process, mask: Mutex::new(mask.difference(SignalSet::UNBLOCKABLE)) }
    }

    pub fn set_mask(&self, mask: SignalSet) {
        *self.mask.lock() = mask.difference(SignalSet::UNBLOCKABLE);
        self.process.signal_queue.wake_all();
    }
}

fn readable_if(ready: bool) -> Events {
    if ready {
        Events::IN | Events::RDNORM
    } else {
        Events::empty()
    }
}

impl FileOperations for SignalFd {
    fn read_for(&self, context: &Context, _file: &OpenFile, buffer: &mut [u8]) -> Result<usize> {
        let mask = *self.mask.lock();
        let chunks = buffer.chunks_exact_mut(size_of::<SignalFdInfo>());
        if chunks.len() == 0 {
            return Err(Errno::EINVAL);
        }
        let mut count = 0;
        for chunk in chunks {
            let Some(info) = crate::signal::dequeue(context.task, mask) else { break };
            chunk.copy_from_slice(SignalFdInfo::new(&info).as_bytes());
            count += chunk.len();
        }
        if count == 0 {
            return Err(Errno::EAGAIN);
        }
        Ok(count)
    }

    fn poll(&self) -> Events {
        let mask = *self.mask.lock();
        let threads: Vec<Arc<Task>> = self.process.threads.lock().clone();
        readable_if(threads.iter().any(|task| !crate::signal::pending_in(task, mask).is_empty()))
    }

    fn poll_for(&self, context: &Context) -> Events {
        let mask = *self.mask.lock();
        readable_if(!crate::signal::pending_in(context.task, mask).is_empty())
    }

    fn wait_queue_for<'a>(&'a self, context: &'a Context) -> Option<&'a WaitQueue> {
        Some(&context.process().signal_queue)
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.process.signal_queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        Ok(super::anonymous_metadata())
    }

    fn fdinfo(&self) -> String {
        format!("sigmask:\t{:016x}\n", self.mask.lock().0)
    }

    fn anonymous_name(&self) -> String {
        "anon_inode:[signalfd]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use skerry_abi::signal::{CLD_EXITED, SI_QUEUE};

    #[test]
    fn the_fields_follow_the_signal_and_its_code() {
        assert_eq!(size_of::<SignalFdInfo>(), 128);
        let child = SignalFdInfo::new(&SignalInfo::child(CLD_EXITED, 7, 8, 9, 10, 11));
        assert_eq!((child.pid, child.uid, child.status, child.user_time, child.system_time), (7, 8, 9, 10, 11));
        let queued = SignalFdInfo::new(&SignalInfo::queue(Signal::SIGUSR1, SI_QUEUE, 7, 8, 99));
        assert_eq!((queued.signo, queued.pid, queued.uid, queued.int, queued.pointer), (10, 7, 8, 99, 99));
        let timer = SignalFdInfo::new(&SignalInfo::timer(Signal::SIGALRM, 3, 4, 5));
        assert_eq!((timer.timer_id, timer.overrun, timer.int, timer.pid), (3, 4, 5, 0));
        let fault = SignalFdInfo::new(&SignalInfo::fault(Signal::SIGSEGV, 1, 0x1234));
        assert_eq!((fault.address, fault.pid), (0x1234, 0));
    }
}
