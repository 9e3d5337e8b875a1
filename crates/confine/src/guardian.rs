//! The guardian: a process that outlives the one that holds the sandbox, and takes away what that leaves.

use crate::program::FAILURE;
use rustix::process::{waitpid, Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::process::ExitCode;

/// Waits until `child` has ended, then runs `end_rest` and `remove_groups`; returns how it ended.
///
/// From here on we need no right but to wait, and to kill what has our own user id; `kept`: what the two acts need besides.
pub fn guard(child: Pid, kept: CapabilitySet, end_rest: impl FnOnce(), remove_groups: impl FnOnce()) -> Option<WaitStatus> {
    guard_by(|| wait(child), kept, end_rest, remove_groups)
}

/// The same, where who waits has others to wait for meanwhile.
pub fn guard_by(
    wait: impl FnOnce() -> Option<WaitStatus>,
    kept: CapabilitySet,
    end_rest: impl FnOnce(),
    remove_groups: impl FnOnce(),
) -> Option<WaitStatus> {
    let _ = rustix::thread::set_no_new_privs(true);
    let permitted = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let kept = permitted & kept;
    let none = CapabilitySet::empty();
    let have = |effective| {
        let _ = rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted: kept, inheritable: none });
    };
    have(none);
    skerry_platform::own::return_code();
    let status = wait();
    have(kept);
    end_rest();
    remove_groups();
    status
}

/// For removing cgroups: to write to the directory that they are in, which may be closed to root without this capability.
pub fn rights_over(groups: bool) -> CapabilitySet {
    if groups {
        CapabilitySet::DAC_OVERRIDE
    } else {
        CapabilitySet::empty()
    }
}

/// How `child` ended.
pub fn wait(child: Pid) -> Option<WaitStatus> {
    loop {
        match waitpid(Some(child), WaitOptions::empty()) {
            Ok(Some((_, status))) => return Some(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return None,
        }
    }
}

/// The guardian ends as its child did: with its exit status, or by the same signal, so that the caller hears of it. `who`:
/// the child, as a message names it.
pub fn end_as(status: Option<WaitStatus>, who: &str) -> ExitCode {
    if let Some(number) = status.and_then(WaitStatus::terminating_signal) {
        if let Some(signal) = Signal::from_named_raw(number) {
            // One core file is enough, if any.
            let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
            let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        }
        // It is caught or ignored here.
        eprintln!("{who} was killed by signal {number}");
    }
    let code = status.and_then(WaitStatus::exit_status).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(FAILURE))
}
