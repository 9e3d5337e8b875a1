//! The wall of the engine `namespace`: the guest sees a system of its own that the host's kernel shows it.
//!
//! Two ways in. *Privileged* (CAP_SYS_ADMIN): all namespaces but the user's are made by the host's root, so that the guest
//! has no power over them at all; then the init enters a user namespace in which every id is itself: files have their
//! owners, and capabilities count for nothing outside. *Rootless*: one user namespace, in which only the caller's own id
//! exists, owns all the others.
//!
//! `tree` is what is seen of files.

mod tree;

use crate::calls::{Filter, Instead, Profile};
use crate::failure;
use crate::guest::{Engine, Everybody, Guest};
use crate::rules::{self, labels, landlock};
use crate::watch::{self, Watch};
use crate::weaken;
use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::{CapabilitySet, UnshareFlags};
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Failure, FailureKind, Identity, Layer, Network, Rules};
use skerry_platform::agent::{raise_loopback, unshare};
use skerry_platform::own::{fork_tied, Forked};
use std::os::fd::OwnedFd;

/// Capabilities of the guest's root, in the guest's own user namespace: over its files, its processes and low ports. What is
/// not here is gone from the bounding set.
pub const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT);

/// Who we are after [`split`].
pub enum Split {
    Guardian { init: Pid, maps: Maps },
    Init(Init),
}

/// The guest's init before its wall stands.
pub struct Init {
    privileged: bool,
    pub host_pid: i32,
    /// Asks the guardian for the id maps; its answer.
    ask: OwnedFd,
    answer: OwnedFd,
}

impl Init {
    /// All of the host's users are there inside.
    pub fn has_all_users(&self) -> bool {
        self.privileged
    }
}

/// The guardian's part in the making: writing the maps of a user namespace that names ids which are not its maker's.
pub struct Maps {
    asked: OwnedFd,
    done: OwnedFd,
}

impl Maps {
    /// Until the init asks or needs none.
    pub fn serve(self, init: Pid) {
        if !matches!(rustix::io::retry_on_intr(|| rustix::io::read(&self.asked, &mut [0u8; 1])), Ok(1)) {
            return;
        }
        let all = format!("0 0 {}", u32::MAX);
        let write = |map: &str| std::fs::write(format!("/proc/{}/{map}", init.as_raw_pid()), &all);
        let result = write("uid_map").and_then(|()| write("gid_map"));
        let _ = rustix::io::write(&self.done, if result.is_ok() { b"y" } else { b"n" });
    }
}

/// Splits into guardian and init, which is in new namespaces. To be called with one thread.
///
/// A guest that has a network card is in the network namespace of its own kernel, where that is: nobody else is there, and nobody
/// inside has a right over it.
pub fn split(wanted: &Boot, engine: Engine) -> Result<Split, Failure> {
    let internal = |error: rustix::io::Errno| failure(FailureKind::Internal, format!("pipe: {error}"));
    let without_user_namespace = wanted.without.iter().any(|name| name == "user_namespace");
    let privileged = rustix::thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::SYS_ADMIN));
    if !privileged && without_user_namespace {
        return Err(refused("switched off by a test"));
    }
    let pipe = || rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(internal);
    let ((asked, ask), (answer, done)) = (pipe()?, pipe()?);
    let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !has_card(wanted, engine) {
        flags |= UnshareFlags::NEWNET;
    }
    if !privileged {
        flags |= UnshareFlags::NEWUSER;
    }
    match fork_tied(flags.bits()) {
        Err(error) => Err(refused(&error.source.to_string())),
        Ok(Forked::Parent(init)) => Ok(Split::Guardian { init, maps: Maps { asked, done } }),
        Ok(Forked::Child) => {
            drop((asked, done));
            let host_pid = own_host_pid();
            if !privileged {
                let inside = if matches!(wanted.identity, Identity::CallerIsRoot) { (0, 0) } else { ids };
                map_own(ids, inside).map_err(|error| refused(&format!("its map of users was refused: {error}")))?;
            }
            Ok(Split::Init(Init { privileged, host_pid, ask, answer }))
        }
    }
}

fn has_card(wanted: &Boot, engine: Engine) -> bool {
    wanted.network == Network::User && engine == Engine::Guest
}

fn refused(why: &str) -> Failure {
    let message = format!(
        "the engine namespace cannot be used here: namespaces are refused: {why}; run it as root, or allow user namespaces \
        ('skerry doctor' says how)"
    );
    failure(FailureKind::Unsupported, message)
}

/// The one map that needs no privilege: of the caller's own ids.
fn map_own((uid, gid): (u32, u32), inside: (u32, u32)) -> std::io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{} {uid} 1", inside.0))?;
    std::fs::write("/proc/self/gid_map", format!("{} {gid} 1", inside.1))
}

/// Our pid as the host's /proc has it (this one, before another is mounted over it).
fn own_host_pid() -> i32 {
    std::fs::read_link("/proc/self")
        .ok()
        .and_then(|link| link.to_str()?.parse().ok())
        .unwrap_or_else(|| std::process::id() as i32)
}

/// In the init, which is in its groups already: the rest of the wall.
pub fn enter(wanted: &Boot, init: Init, engine: Engine, layers: &mut Layers) -> Result<Guest, Failure> {
    let host =
        |what: &str, error: std::io::Error| failure(FailureKind::Unsupported, format!("the engine namespace: {what}: {error}"));
    skerry_platform::agent::leave_keyring();
    unshare(UnshareFlags::NEWCGROUP).map_err(|error| host("cgroup namespace", error))?;
    let tree = tree::build(wanted, init.privileged)?;
    rustix::system::sethostname(wanted.hostname.as_bytes()).map_err(|error| host("host name", error.into()))?;
    if wanted.network != Network::None {
        raise_loopback().map_err(|error| host("loopback interface", error))?;
    }
    let only_id = if init.privileged && weaken::is_out("user_namespace") {
        None
    } else if init.privileged {
        unshare(UnshareFlags::NEWUSER).map_err(|error| host("user namespace", error))?;
        let mut answer = [0u8; 1];
        let _ = rustix::io::write(&init.ask, b"m");
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&init.answer, &mut answer));
        if read != Ok(1) || answer != *b"y" {
            return Err(refused("the map of users could not be written"));
        }
        None
    } else {
        Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()))
    };
    drop(init);
    // What changes credentials forgets it.
    skerry_platform::agent::die_with_parent();
    // Nobody inside looks into the init, whoever they are.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| host("prctl", error.into()))?;
    // What the rules say holds besides, in the guest's own tree.
    let nothing = Rules::default();
    let rules = wanted.rules.as_ref().unwrap_or(&nothing);
    let kept = rules::kept_of(rules, KEPT, engine)?;
    let abi = landlock::abi(wanted);
    landlock::check(rules, abi, &Instead::default())?;
    landlock::refuse_attributes(rules)?;
    labels::check(rules)?;
    let mut profile = match &rules.ports {
        None => Profile::namespace(),
        Some(_) => Profile::namespace_with_ports(landlock::sockets(rules, abi, false)),
    };
    if !rules.written_files_run() {
        profile.keep_memory_from_running();
    }
    let watches = watch::wanted(wanted);
    let watched = if watches { watch::calls(Engine::Namespace) } else { Vec::new() };
    let filter = Filter::compile(&profile, rules.calls.as_ref(), &watched)?;
    let restriction = landlock::Restriction::make(rules, abi, None)?;
    for layer in [Layer::UserNamespace, Layer::MountNamespace, Layer::PidNamespace, Layer::NetworkNamespace, Layer::Seccomp] {
        match layer {
            Layer::Seccomp if weaken::is_out("seccomp") => layers.miss(layer, weaken::REASON),
            Layer::UserNamespace if weaken::is_out("user_namespace") => layers.miss(layer, weaken::REASON),
            Layer::NetworkNamespace if has_card(wanted, engine) => layers.miss(layer, "it is its kernel's own"),
            _ => layers.add(layer),
        }
    }
    match &restriction {
        Some(_) => layers.add(Layer::Landlock),
        None => layers.miss(Layer::Landlock, "the guest's file system is its own"),
    }
    if kept.is_empty() {
        layers.add(Layer::NoCapabilities);
    } else {
        layers.miss(
            Layer::NoCapabilities,
            format!("programs of the guest's root have, in the guest's user namespace only: {kept:?}"),
        );
    }
    Ok(Guest {
        engine,
        only_id,
        root_is_caller: false,
        counted_by_user: only_id.is_some(),
        everybody: Everybody::InReach,
        kept,
        filter,
        listens: rules.calls.is_some() || rules.ports.is_some() || watches,
        watch: watches.then(|| Watch { network: wanted.network, ports: rules.ports.clone(), made: tree.made }),
        restriction,
        resources: rules.resources.clone(),
        labels: labels::of(rules),
        temporary: None,
        network: rules.ports.clone().map(|ports| rules::sockets::Network { ports, loopback: false }),
        stage: Some(tree.stage),
        terminals: tree.terminals,
    })
}

/// The guest's clocks start with it (time_namespaces(7)): what it forks is in the new namespace. Older kernels have none.
/// Not for a jail: kernels before 6.3 let no process start threads whose children are to have other clocks.
pub fn enter_time_namespace() {
    const NEWTIME: UnshareFlags = UnshareFlags::NEWTIME;
    if unshare(NEWTIME).is_err() {
        return;
    }
    let offset = |clock| {
        let now = rustix::time::clock_gettime(clock);
        format!("-{} 0", now.tv_sec)
    };
    let offsets = format!(
        "monotonic {}\nboottime {}\n",
        offset(rustix::time::ClockId::Monotonic),
        offset(rustix::time::ClockId::Boottime)
    );
    let _ = std::fs::write("/proc/self/timens_offsets", offsets);
}
