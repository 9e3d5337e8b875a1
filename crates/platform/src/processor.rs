//! The processor that runs us: its clock and its number; and how busy the host's processors are.

use rustix::fs::{openat, Mode, OFlags};
use std::os::fd::OwnedFd;

/// The processor's clock. Not ordered with what is around it.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The number of the CPU that runs the calling thread.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments; the C library reads what the kernel keeps up to date in memory, where it can.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// CPUs that the calling thread may run on.
pub fn usable_cpus() -> u32 {
    rustix::thread::sched_getaffinity(None).map_or(1, |set| set.count())
}

/// Tells how many threads of the whole host want a CPU now.
pub struct Runnable {
    load: OwnedFd,
}

impl Runnable {
    /// `None` where the host does not tell.
    pub fn open() -> Option<Runnable> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let load = openat(crate::host::proc_directory()?, "loadavg", flags, Mode::empty()).ok()?;
        Some(Runnable { load }).filter(|runnable| runnable.count().is_some())
    }

    /// They include those that run, and so the calling one.
    pub fn count(&self) -> Option<u32> {
        // proc_loadavg(5): three averages, then "running/all".
        let mut text = [0u8; 64];
        let length = rustix::io::pread(&self.load, &mut text, 0).ok()?;
        let field = text.get(..length)?.split(|&byte| byte == b' ').nth(3)?;
        let running = field.split(|&byte| byte == b'/').next()?;
        std::str::from_utf8(running).ok()?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn we_run_on_a_cpu_that_we_may_use() {
        let before = ticks();
        assert!(usable_cpus() >= 1 && current_cpu() < 8192);
        assert!(Runnable::open().is_none_or(|runnable| runnable.count().is_some_and(|count| count >= 1)));
        assert!(ticks() > before);
    }
}
