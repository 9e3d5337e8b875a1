//! The layer beneath the guest kernel: everything that is `unsafe` or that talks to the host on the guest's behalf.
//!
//! - [`memory`]: guest memory, read and written from the sentry.
//! - [`channel`]: the pages through which a thread of an application and the sentry exchange a call and its answer.
//! - [`listener`]: the seccomp notifications that ring for it, and the injection of descriptors.
//! - [`zygote`]: where application processes come from.
//! - [`filter`]: the two seccomp filters of an application.
//! - [`agent`]: what `skerry-agent` needs of the host.
//! - [`own`]: the sentry's own process. [`foreground`]: what `skerry-attendant` needs of the host.
//! - [`fiber`]: stacks that change threads, for calls that wait.
//! - [`engine`]: host threads and processes: kick, kill, wait. [`cpu_clock`]: their CPU time. [`host`]: the host's /proc.
//! - [`unikernel`]: what `skerry-tender` needs of the host: the memory of a unikernel, and the jump into it.
//! - [`pipe_ring`]: the memory of pipes that their users share. [`direct`]: the table of files that a process uses by itself.
//! - [`virtual_machine`]: the same for a unikernel behind KVM.
//! - [`board`]: what all processes are told of names. [`changes`]: what the host changes in directories.
//! - `shared`: memory that others have mapped, too.
//! - [`processor`]: the CPU that runs us, and how busy the host's are.
//!
//! Its neighbours: `skerry-stub` (the other side of channel and doorbell; `layout.rs` is compiled into both) below,
//! `skerry-kernel` above.

pub mod agent;
pub mod beside;
pub mod board;
pub mod changes;
pub mod channel;

pub mod cpu_clock;
pub mod direct;
pub mod engine;
pub mod fiber;
pub mod filter;
pub mod foreground;
pub mod host;
#[path = "../../stub/src/layout.rs"]
pub mod layout;
pub mod listener;
pub mod mappings;
pub mod memory;
pub mod own;
pub mod pipe_ring;
pub mod processor;
mod shared;
pub mod unikernel;
pub mod virtual_machine;
pub mod zygote;

/// The stub's executable.
pub static STUB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/skerry-stub"));

/// An error of the host, with what was being done.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct HostError {
    pub what: &'static str,
    pub source: std::io::Error,
}

impl HostError {
    /// With the calling thread's errno.
    pub(crate) fn last(what: &'static str) -> HostError {
        HostError { what, source: std::io::Error::last_os_error() }
    }

    pub(crate) fn new(what: &'static str, source: impl Into<std::io::Error>) -> HostError {
        HostError { what, source: source.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (address, size) of a section (elf(5)).
    fn section(wanted: &str) -> Option<(u64, u64)> {
        let word = |at: usize, size: usize| STUB[at..at + size].iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        let (headers, size) = (word(0x28, 8) as usize, word(0x3a, 2) as usize);
        let header = |index: u64| headers + index as usize * size;
        let names = word(header(word(0x3e, 2)) + 0x18, 8) as usize;
        let is_wanted = |at: &usize| {
            let name = &STUB[names + word(*at, 4) as usize..];
            name.starts_with(wanted.as_bytes()) && name[wanted.len()] == 0
        };
        let found = (0..word(0x3c, 2)).map(header).find(is_wanted)?;
        Some((word(found + 0x10, 8), word(found + 0x20, 8)))
    }

    #[test]
    fn what_a_forked_child_runs_of_the_stub_is_mapped_at_once() {
        const WINDOW: u64 = 16 * 4096;
        let ((constants, _), (calls, size)) = (section(".rodata").unwrap(), section(".calls").unwrap());
        assert_eq!(constants % WINDOW, 0);
        assert!(constants < calls && calls + size <= constants + WINDOW / 2, "{:x}", calls + size);
        assert!(size > 8 << 10, "it is not there: {size}");
    }
}
