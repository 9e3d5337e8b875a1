//! Namespaces, and the guardian.
//!
//! The process that the Python side started stays outside as the *guardian*: it holds nothing, waits for the sentry, and
//! ends what is left when the sentry is gone. The sentry is its child: the init of a pid namespace where the host grants
//! one (then nothing can outlive it), else a process whose orphans the guardian gets as their subreaper.

use rustix::mount::{mount, mount_change, MountFlags, MountPropagationFlags};
use rustix::process::{set_child_subreaper, waitpid, Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::{CapabilitySet, UnshareFlags};
use skerry_confine::guardian;
use skerry_confine::layers::Layers;
use skerry_control::Layer;
use skerry_platform::own::{fork_tied, Forked};
use std::process::ExitCode;

/// Exit statuses by which a child says that a namespace turned out to be of no use.
const NO_USER_MAP: i32 = 70;
const NO_PROC: i32 = 71;

/// Whose end the guardian tells of.
const GUARDED: &str = "skerry-sentry: the guest kernel";

/// What to leave out (by the names that tests use), and what is asked for.
#[derive(Clone, Copy, Default)]
pub struct Wishes {
    pub without_user_namespace: bool,
    pub without_pid_namespace: bool,
    /// A namespace was required by name, so that a user namespace is entered if need be.
    pub namespace_required: bool,
    /// There are cgroups that the guardian takes away at the end.
    pub groups_to_remove: bool,
}

/// Why an ordinary user's sandbox has no namespaces unless they are asked for.
const OWNERS_WOULD_BE_LOST: &str = "an ordinary user gets it only inside a user namespace, in which the owners of host files \
    cannot be told (all show as nobody); entered if this layer is required";

/// Who we are after [`enter`].
pub enum Role {
    /// The sentry; its layers so far, and its host pid.
    Sentry(Layers, i32),
    /// The guardian, when the sentry has ended.
    Guardian(ExitCode),
}

/// Splits into guardian and sentry. To be called with one thread. `close_in_guardian` runs in the guardian at its start,
/// `at_the_end` when the sentry and all that it has left are dead.
pub fn enter(
    wishes: Wishes,
    close_in_guardian: impl FnOnce(),
    at_the_end: impl FnOnce(),
) -> Result<Role, skerry_platform::HostError> {
    let _ = set_child_subreaper(Pid::from_raw(1));
    // Inside a fresh user namespace our ids read as the overflow ones.
    let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut close_in_guardian = Some(close_in_guardian);
    let mut reasons: Vec<(Layer, String)> = Vec::new();
    for attempt in attempts(wishes, &mut reasons) {
        let (settled, settled_here) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .map_err(|error| skerry_platform::HostError { what: "pipe", source: error.into() })?;
        let forked = match fork_tied(attempt.flags) {
            Ok(forked) => forked,
            Err(error) if attempt.flags != 0 => {
                attempt.refused(&mut reasons, &format!("the host refuses it: {}", error.source));
                continue;
            }
            Err(error) => return Err(error),
        };
        match forked {
            Forked::Child => {
                let host_pid = own_host_pid();
                if let Err(status) = attempt.settle(ids) {
                    std::process::exit(status);
                }
                let _ = rustix::io::write(&settled_here, b"s");
                return Ok(Role::Sentry(attempt.layers(reasons), host_pid));
            }
            Forked::Parent(child) => {
                drop(settled_here);
                let usable = matches!(rustix::io::retry_on_intr(|| rustix::io::read(&settled, &mut [0u8; 1])), Ok(1));
                if !usable {
                    let status = guardian::wait(child);
                    let why = match status.and_then(WaitStatus::exit_status) {
                        Some(NO_PROC) => "no /proc can be mounted in it",
                        Some(NO_USER_MAP) => "its user map was refused",
                        _ => {
                            at_the_end();
                            return Ok(Role::Guardian(guardian::end_as(status, GUARDED)));
                        }
                    };
                    attempt.refused(&mut reasons, why);
                    continue;
                }
                if let Some(close) = close_in_guardian.take() {
                    close();
                }
                let status = guardian::guard(child, guardian::rights_over(wishes.groups_to_remove), end_orphans, at_the_end);
                return Ok(Role::Guardian(guardian::end_as(status, GUARDED)));
            }
        }
    }
    unreachable!("the last attempt is a plain fork")
}

struct Attempt {
    flags: u32,
    user: bool,
    pid: bool,
}

/// From the most to the least.
fn attempts(wishes: Wishes, reasons: &mut Vec<(Layer, String)>) -> Vec<Attempt> {
    let others = (UnshareFlags::NEWNS | UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS).bits();
    let privileged = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    let user = !privileged;
    let user_flag = if user { UnshareFlags::NEWUSER.bits() } else { 0 };
    let pid_flag = UnshareFlags::NEWPID.bits();
    let mut attempts = Vec::new();
    let left_out = if wishes.without_user_namespace {
        Some("switched off by a test")
    } else if !wishes.namespace_required {
        Some(OWNERS_WOULD_BE_LOST)
    } else {
        None
    };
    if let (true, Some(why)) = (user, left_out) {
        for layer in [Layer::UserNamespace, Layer::MountNamespace, Layer::NetworkNamespace, Layer::PidNamespace] {
            reasons.push((layer, why.into()));
        }
    } else {
        if wishes.without_pid_namespace {
            reasons.push((Layer::PidNamespace, "switched off by a test".into()));
        } else {
            attempts.push(Attempt { flags: user_flag | others | pid_flag, user, pid: true });
        }
        attempts.push(Attempt { flags: user_flag | others, user, pid: false });
    }
    attempts.push(Attempt { flags: 0, user: false, pid: false });
    attempts
}

impl Attempt {
    /// In the child: makes the new namespaces usable.
    fn settle(&self, ids: (u32, u32)) -> Result<(), i32> {
        if self.flags == 0 {
            return Ok(());
        }
        if self.user {
            map_self(ids).map_err(|_| NO_USER_MAP)?;
        }
        // Nothing that is mounted here shows outside, nor the other way round from now on.
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).map_err(|_| NO_PROC)?;
        if self.pid {
            // The sentry looks at its guests through /proc, where they must have the ids that it knows.
            let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount("proc", "/proc", "proc", flags, None).map_err(|_| NO_PROC)?;
        }
        Ok(())
    }

    fn refused(&self, reasons: &mut Vec<(Layer, String)>, why: &str) {
        let layers: &[Layer] = if self.pid {
            &[Layer::PidNamespace]
        } else {
            &[Layer::UserNamespace, Layer::MountNamespace, Layer::NetworkNamespace]
        };
        for layer in layers {
            if !reasons.iter().any(|(known, _)| known == layer) {
                reasons.push((*layer, why.to_owned()));
            }
        }
    }

    fn layers(&self, reasons: Vec<(Layer, String)>) -> Layers {
        let mut layers = Layers::default();
        if self.flags != 0 {
            layers.add(Layer::MountNamespace);
            layers.add(Layer::NetworkNamespace);
            if self.pid {
                layers.add(Layer::PidNamespace);
            }
            if self.user {
                layers.add(Layer::UserNamespace);
            } else {
                layers.miss(Layer::UserNamespace, "not needed: started with CAP_SYS_ADMIN, which made the other namespaces");
            }
        }
        for (layer, reason) in reasons {
            if !layers.present.contains(&layer) && !layers.missing.iter().any(|missing| missing.layer == layer) {
                layers.miss(layer, reason);
            }
        }
        layers
    }
}

/// Maps the caller's own ids to themselves: the one map that needs no privilege.
fn map_self((uid, gid): (u32, u32)) -> std::io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{gid} {gid} 1"))
}

/// Our pid as the host's /proc has it (this one, before another is mounted over it).
fn own_host_pid() -> i32 {
    std::fs::read_link("/proc/self")
        .ok()
        .and_then(|link| link.to_str()?.parse().ok())
        .unwrap_or_else(|| std::process::id() as i32)
}

/// Kills what the sentry has left to us, until there is nothing more.
fn end_orphans() {
    loop {
        let own = std::process::id();
        let children = std::fs::read_to_string(format!("/proc/self/task/{own}/children")).unwrap_or_default();
        for child in children.split_ascii_whitespace().filter_map(|child| child.parse().ok()).filter_map(Pid::from_raw) {
            let _ = rustix::process::kill_process(child, Signal::KILL);
        }
        match waitpid(None, WaitOptions::empty()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}
