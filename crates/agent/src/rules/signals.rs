//! Signals, where Landlock does not hold them (before ABI 6): the agent is asked (seccomp notification), and sends what stays
//! inside of the guest, as the program's user would. A process is held by a descriptor while it is looked at, so that no other
//! one with its number is meant.
//!
//! To itself a program sends by itself: its own number is nobody else's while it waits for the answer. Not to be had are single
//! threads of other processes, and values that go along (sigqueue(3)).

use super::reach;
use rustix::io::Errno;
use rustix::process::{pidfd_open, Pid, PidfdFlags};
use skerry_platform::agent::{signal_by_descriptor, signal_thread};
use skerry_platform::listener::Notification;
use std::collections::BTreeSet;
use std::os::fd::AsFd;

#[rustfmt::skip]
pub const CALLS: &[libc::c_long] = &[
    libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo,
];

/// What is done about a call.
pub enum Outcome {
    /// It is about the caller's own process.
    LetGoOn,
    Done(Result<(), Errno>),
    /// It would have reached somebody outside.
    Denied,
}

/// How often everybody is looked for again who was made meanwhile.
const ROUNDS: usize = 20;

/// Serves one such call. `still_valid` says whether who asked still waits.
pub fn serve(asked: &Notification, still_valid: impl Fn() -> bool) -> Outcome {
    let own = reach::process_of(asked.tid).filter(|_| still_valid());
    let Some(own) = own else { return Outcome::Done(Err(Errno::SRCH)) };
    let [first, second, third, ..] = asked.arguments;
    let (target, thread, signal) = (first as i32, second as i32, second as i32);
    if !(0..=64).contains(&signal) && matches!(i64::from(asked.number), libc::SYS_kill | libc::SYS_tkill) {
        return Outcome::Done(Err(Errno::INVAL));
    }
    match i64::from(asked.number) {
        libc::SYS_tkill if target == asked.tid => Outcome::LetGoOn,
        libc::SYS_tkill if target > 0 => match reach::process_of(target) {
            Some(process) if process == own => Outcome::Done(plain(signal_thread(own, target, signal))),
            Some(_) => Outcome::Denied,
            None => Outcome::Done(Err(Errno::SRCH)),
        },
        libc::SYS_kill if target == own => Outcome::LetGoOn,
        libc::SYS_kill if target > 0 => one(own, target, signal),
        libc::SYS_kill => many(own, target, signal),
        _ if target == own => Outcome::LetGoOn,
        libc::SYS_tgkill if target == thread => one(own, target, third as i32),
        _ => Outcome::Denied,
    }
}

fn one(sender: i32, target: i32, signal: i32) -> Outcome {
    let Some(pid) = Pid::from_raw(target) else { return Outcome::Done(Err(Errno::INVAL)) };
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        Err(_) if reach::process_of(target).is_some() => return Outcome::Denied, // a thread
        Err(_) => return Outcome::Done(Err(Errno::SRCH)),
    };
    // If the descriptor's process is gone meanwhile, it gets nothing, whoever has its number.
    if !reach::is_below(target) {
        return Outcome::Denied;
    }
    if !may(sender, target) {
        return Outcome::Done(Err(Errno::PERM));
    }
    Outcome::Done(plain(signal_by_descriptor(process.as_fd(), signal)))
}

/// A group (0: the sender's own), or everybody but the sender (-1).
fn many(sender: i32, target: i32, signal: i32) -> Outcome {
    let group = match target {
        -1 => None,
        0 => reach::group_of(sender),
        _ => target.checked_neg(),
    };
    if target != -1 && group.is_none() {
        return Outcome::Done(Err(Errno::SRCH));
    }
    let wanted = |process: &i32| match group {
        Some(group) => reach::group_of(*process) == Some(group),
        None => *process != sender,
    };
    let mut sent = BTreeSet::new();
    let mut last = Outcome::Done(Err(Errno::SRCH));
    for _ in 0..ROUNDS {
        let found: Vec<i32> = reach::below().into_iter().filter(|process| !sent.contains(process) && wanted(process)).collect();
        if found.is_empty() {
            break;
        }
        for process in found {
            sent.insert(process);
            let outcome = one(sender, process, signal);
            if !matches!(last, Outcome::Done(Ok(()))) {
                last = outcome;
            }
        }
    }
    last
}

/// kill(2): "the real or effective user ID of the sending process must equal the real or saved set-user-ID of the target".
fn may(sender: i32, target: i32) -> bool {
    let users = |process: i32| {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let ids: Vec<u32> = line.split_ascii_whitespace().filter_map(|id| id.parse().ok()).collect();
        Some((*ids.first()?, *ids.get(1)?, *ids.get(2)?))
    };
    let (Some((real, effective, _)), Some((target_real, _, saved))) = (users(sender), users(target)) else { return false };
    [real, effective].iter().any(|id| *id == target_real || *id == saved)
}

fn plain(result: std::io::Result<()>) -> Result<(), Errno> {
    result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))
}
