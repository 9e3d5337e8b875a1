//! Who belongs to the guest: everybody below us. Signals for all of them, and their end.

use crate::guest::Everybody;
use skerry_platform::agent::{have_children, kill, reap};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the end of everybody may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Processes below us, ourselves not among them.
pub fn below() -> BTreeSet<i32> {
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = parent_of(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found = BTreeSet::new();
    let mut next = vec![std::process::id() as i32];
    while let Some(pid) = next.pop() {
        next.extend(children.get(&pid).into_iter().flatten().filter(|child| found.insert(**child)));
    }
    found
}

/// Whether a process is one of these: by its parents, up to us.
pub fn is_below(process: i32) -> bool {
    let ours = std::process::id() as i32;
    // A parent that ends in between leaves its children to us: they are looked at again.
    (0..3).any(|_| {
        let mut above = parent_of(process);
        while let Some(pid) = above.filter(|pid| *pid > 1 && *pid != ours) {
            above = parent_of(pid);
        }
        above == Some(ours)
    })
}

/// Its process group.
pub fn group_of(process: i32) -> Option<i32> {
    field_of(process, 2)?.parse().ok()
}

fn parent_of(pid: i32) -> Option<i32> {
    field_of(pid, 1)?.parse().ok()
}

/// When a process started, in ticks since the host did.
pub fn start_of(pid: i32) -> Option<u64> {
    field_of(pid, 19)?.parse().ok()
}

/// A field of /proc/PID/stat behind the name.
fn field_of(pid: i32, index: usize) -> Option<String> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let rest = &text[text.iter().rposition(|byte| *byte == b')')? + 1..];
    std::str::from_utf8(rest).ok()?.split_ascii_whitespace().nth(index).map(str::to_owned)
}

/// Ends what an engine that was killed has left to us, who adopt orphans; `since`: it had not started before.
pub fn end_orphans(since: u64) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left: Vec<i32> = below().into_iter().filter(|pid| start_of(*pid).is_some_and(|start| start >= since)).collect();
        // Whoever is stopped makes no others meanwhile.
        left.iter().for_each(|pid| drop(kill(*pid, libc::SIGSTOP)));
        left.iter().for_each(|pid| drop(kill(*pid, libc::SIGKILL)));
        while reap().is_some() {}
        if left.is_empty() || Instant::now() >= deadline {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A signal for all of them.
pub fn signal_all(everybody: Everybody, signal: i32) {
    match everybody {
        Everybody::InReach => drop(kill(-1, signal)),
        Everybody::Below => {
            let all = below();
            if signal == libc::SIGKILL {
                // Whoever is stopped makes no others meanwhile.
                all.iter().for_each(|pid| drop(kill(*pid, libc::SIGSTOP)));
            }
            all.iter().for_each(|pid| drop(kill(*pid, signal)));
        }
    }
}

/// Ends them, and waits until they are gone.
pub fn end_all(everybody: Everybody) {
    let deadline = Instant::now() + PATIENCE;
    let mut pause = Duration::from_micros(100);
    while have_children() && Instant::now() < deadline {
        signal_all(everybody, libc::SIGKILL);
        while reap().is_some() {}
        if have_children() {
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(5));
        }
    }
}

/// Whether a thread or process is of the guest's.
pub fn is_inside(everybody: Everybody, thread: i32) -> bool {
    let Some(process) = process_of(thread) else { return false };
    let ours = std::process::id() as i32;
    process != ours
        && match everybody {
            Everybody::InReach => kill(process, 0).is_ok(),
            Everybody::Below => is_below(process),
        }
}

/// The process that a thread is of.
pub fn process_of(thread: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:"))?.trim().parse().ok()
}
