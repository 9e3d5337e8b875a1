//! CPU time of application processes and their threads, in nanoseconds.

/// CPU time of a host process, all its threads together; `None` once it is gone.
pub fn process_cpu_time_ns(pid: i32) -> Option<u64> {
    // clock_getcpuclockid(3): the complement of the id, then "the scheduler's clock".
    const CPUCLOCK_SCHED: libc::clockid_t = 2;
    let clock = ((!pid) << 3) | CPUCLOCK_SCHED;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a live structure of ours that the host fills.
    if unsafe { libc::clock_gettime(clock, &mut time) } != 0 {
        return None;
    }
    Some((time.tv_sec as u64).saturating_mul(1_000_000_000).saturating_add(time.tv_nsec as u64))
}

/// CPU time of one host thread; `None` once it is gone. (A thread's clock can be read from its own process only.)
pub fn thread_cpu_time_ns(pid: i32, tid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/schedstat")).ok()?;
    text.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_cpu_time_advances() {
        let pid = std::process::id() as i32;
        let before = super::process_cpu_time_ns(pid).unwrap();
        let mut sum = 0u64;
        while super::process_cpu_time_ns(pid).unwrap() < before + 1_000_000 {
            sum = std::hint::black_box(sum + 1);
        }
        assert!(super::thread_cpu_time_ns(pid, pid).is_some());
        assert_eq!(super::process_cpu_time_ns(i32::MAX - 1), None);
    }
}
