//! The processor that runs us: its clock and its number; and how busy the host's processors are.

use rustix::fs::{openat, Mode, OFlags};
use rustix::thread::{sched_getaffinity, sched_setaffinity, CpuSet};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;
use std::time::Instant;

/// The processor's clock. Not ordered with what is around it.
#[inline(always)]
pub fn ticks() -> u64 {
    // SAFETY: reads a register.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// How many nanoseconds 2^32 ticks take, as they have gone by since this was asked first: some milliseconds before it matters.
pub fn nanoseconds_of_ticks() -> u64 {
    static BEGINNING: OnceLock<(Instant, u64)> = OnceLock::new();
    let (first_time, first_count) = *BEGINNING.get_or_init(both_clocks);
    let (time, count) = both_clocks();
    let nanoseconds = time.duration_since(first_time).as_nanos();
    u64::try_from((nanoseconds << 32) / u128::from(count.wrapping_sub(first_count).max(1))).unwrap_or(u64::MAX)
}

/// The time by both clocks, read together, with nothing in between.
fn both_clocks() -> (Instant, u64) {
    const TRIES: u32 = 8;
    const CLOSE: u64 = 1000;
    let mut best = (u64::MAX, Instant::now(), 0);
    for _ in 0..TRIES {
        let before = ticks();
        let time = Instant::now();
        let gap = ticks().wrapping_sub(before);
        if gap < best.0 {
            best = (gap, time, before.wrapping_add(gap / 2));
        }
        if gap < CLOSE {
            break;
        }
    }
    (best.1, best.2)
}

/// The number of the CPU that runs the calling thread.
#[inline]
pub fn current_cpu() -> u32 {
    // SAFETY: no arguments; the C library reads what the kernel keeps up to date in memory, where it can.
    u32::try_from(unsafe { libc::sched_getcpu() }).unwrap_or(0)
}

/// CPUs that a thread may run on.
pub struct Cpus(CpuSet);

impl Cpus {
    /// Those of the calling thread.
    pub fn usable() -> Cpus {
        Cpus(sched_getaffinity(None).unwrap_or_default())
    }

    pub fn count(&self) -> u32 {
        self.0.count()
    }

    pub fn has(&self, number: usize) -> bool {
        number < CpuSet::MAX_CPU && self.0.is_set(number)
    }

    /// The number behind the last one's.
    pub fn end(&self) -> usize {
        (0..CpuSet::MAX_CPU).rev().find(|&number| self.has(number)).map_or(0, |last| last + 1)
    }

    /// The calling thread runs on one of these from now on.
    pub fn take(&self) {
        // Where the host has taken some of them away meanwhile, it uses what is left.
        let _ = sched_setaffinity(None, &self.0);
    }

    /// The calling thread leaves the CPU `number` for another one of these. False: there is none.
    pub fn take_but(&self, number: u32) -> bool {
        let mut others = self.0;
        if (number as usize) < CpuSet::MAX_CPU {
            others.unset(number as usize);
        }
        others.count() > 0 && sched_setaffinity(None, &others).is_ok()
    }
}

/// Tells whether the threads of the whole host have the CPUs that they want.
pub struct Demand {
    load: OwnedFd,
    pressure: Option<OwnedFd>,
}

impl Demand {
    /// `None` where the host does not tell.
    pub fn open() -> Option<Demand> {
        let open = |name| openat(crate::host::proc_directory()?, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok();
        let mut demand = Demand { load: open("loadavg")?, pressure: open("pressure/cpu") };
        if demand.waited_us().is_none() {
            demand.pressure = None;
        }
        demand.running().map(|_| demand)
    }

    /// For how many microseconds, all in all, at least one thread of the host has had to wait for a CPU. `None` where the host does
    /// not count them.
    pub fn waited_us(&self) -> Option<u64> {
        // "some avg10=... total=MICROSECONDS", and a line more (Documentation/accounting/psi.rst).
        let mut text = [0u8; 128];
        let length = rustix::io::pread(self.pressure.as_ref()?, &mut text, 0).ok()?;
        let line = text.get(..length)?.split(|&byte| byte == b'\n').next()?;
        let start = line.windows(6).position(|word| word == b"total=")? + 6;
        std::str::from_utf8(line.get(start..)?).ok()?.parse().ok()
    }

    /// How many threads want a CPU now: those that run, and so the calling one, too. Since Linux 6.12 some that have just gone to
    /// sleep may be among them.
    pub fn running(&self) -> Option<u32> {
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
        let cpus = Cpus::usable();
        assert!(cpus.count() >= 1 && current_cpu() < 8192);
        if cpus.count() > 1 {
            let here = current_cpu();
            assert!(cpus.take_but(here) && current_cpu() != here);
            cpus.take();
        }
        assert_eq!(Cpus::usable().count(), cpus.count());
        assert!(Demand::open().is_none_or(|demand| demand.running().is_some_and(|count| count >= 1)));
        if let Some((demand, before)) = Demand::open().and_then(|demand| demand.waited_us().map(|before| (demand, before))) {
            assert!(demand.waited_us().is_some_and(|after| after >= before));
        }
        assert!(ticks() > before);
        nanoseconds_of_ticks();
        let (time, count) = (Instant::now(), ticks());
        std::thread::sleep(std::time::Duration::from_millis(20));
        let (nanoseconds, passed) = (time.elapsed().as_nanos(), ticks() - count);
        let told = (u128::from(passed) * u128::from(nanoseconds_of_ticks())) >> 32;
        assert!(told.abs_diff(nanoseconds) < nanoseconds / 10, "{told} {nanoseconds}");
    }
}
