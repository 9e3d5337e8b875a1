//! A mark on the processes of a sandbox that has no namespace and no cgroup to end them by: a limit that Linux counts nothing by
//! (RLIMIT_LOCKS, since 2.4.25), which every process inherits, which can only be lowered, and which programs are kept from setting by
//! their filter. Guardian and agent have one number, their programs the one below it: where a program's is seen and nobody has
//! the other, its sandbox was killed and it was left ([`sweep`]).

use rustix::process::{getrlimit, pidfd_open, pidfd_send_signal, setrlimit, Pid, PidfdFlags, Resource, Rlimit, Signal};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// The upper bits of all marks.
const MAGIC: u64 = 0x5ce9 << 48;
const MAGIC_MASK: u64 = 0xffff << 48;
/// Set: who holds the sandbox.
const HOLDER: u64 = 1;

const PATIENCE: Duration = Duration::from_secs(2);

/// Marks this process, and what it makes, as one that holds a sandbox. Where the caller has a lower limit, there is no mark.
pub fn mark_holder() {
    let mut random = [0u8; 8];
    if rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty()).is_ok() {
        set(MAGIC | u64::from_ne_bytes(random) & !MAGIC_MASK | HOLDER);
    }
}

/// In a fork of a holder, which becomes a program.
pub fn mark_program() {
    if let Some(mark) = getrlimit(Resource::Locks).maximum.filter(|mark| mark & MAGIC_MASK == MAGIC) {
        set(mark & !HOLDER);
    }
}

fn set(mark: u64) {
    // Refused where the caller's own is lower.
    let _ = setrlimit(Resource::Locks, Rlimit { current: Some(mark), maximum: Some(mark) });
}

/// Ends the programs whose holders are gone; says which.
pub fn sweep() -> Vec<PathBuf> {
    let deadline = Instant::now() + PATIENCE;
    let mut ended = BTreeSet::new();
    loop {
        let left = left_behind();
        // Whoever is stopped makes no others meanwhile.
        for signal in [Signal::STOP, Signal::KILL] {
            for (_, process) in &left {
                let _ = pidfd_send_signal(process, signal);
            }
        }
        ended.extend(left.iter().map(|(pid, _)| PathBuf::from(format!("/proc/{pid}"))));
        if left.is_empty() || Instant::now() >= deadline {
            return ended.into_iter().collect();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Programs that have a mark which no holder has.
fn left_behind() -> Vec<(i32, OwnedFd)> {
    let mut programs: BTreeMap<u64, Vec<(i32, OwnedFd)>> = BTreeMap::new();
    let mut held = BTreeSet::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if mark_of(pid).is_none() {
            continue;
        }
        let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { continue };
        // Again: it is the one that we have hold of, or it is gone.
        match mark_of(pid) {
            Some(mark) if mark & HOLDER != 0 => drop(held.insert(mark & !HOLDER)),
            Some(mark) => programs.entry(mark).or_default().push((pid, process)),
            None => {}
        }
    }
    programs.into_iter().filter(|(mark, _)| !held.contains(mark)).flat_map(|(_, processes)| processes).collect()
}

/// The mark of a process that lives.
fn mark_of(pid: i32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let state = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    let state = state.get(state.iter().rposition(|byte| *byte == b')')? + 2)?;
    if matches!(state, b'Z' | b'X') {
        return None;
    }
    let line = text.lines().find_map(|line| line.strip_prefix("Max file locks"))?;
    let hard = line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()?;
    (hard & MAGIC_MASK == MAGIC).then_some(hard)
}
