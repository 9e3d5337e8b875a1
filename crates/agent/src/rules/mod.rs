//! The wall of the engine `rules`: a plain process of the host, held by rules alone. No namespace, no privilege.
//!
//! Two domains of Landlock that hold nothing but signals lie around it: the guardian's, and in that the agent's own. So
//! kill(-1) of either reaches whatever is inside, at once and nobody else. Each program enters a third one, which holds what
//! the rules say, and puts itself under a filter of system calls (`calls`).
//!
//! `landlock` is files, ports and scopes; `attributes`, `sockets` and `signals` what the agent is asked for, as Landlock does not
//! hold it, or its version here;
//! `reach` who belongs to the guest.

pub mod attributes;
pub mod labels;
pub mod landlock;
pub mod reach;
pub mod signals;
pub mod sockets;

use crate::calls::{Filter, Profile};
use crate::failure;
use crate::guest::{Engine, Everybody, Guest};
use crate::watch::{self, Watch};
use crate::weaken;
use rustix::fs::{Mode, OFlags};
use rustix::process::{DumpableBehavior, Pid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use skerry_confine::layers::Layers;
use skerry_confine::temporary::Temporary;
use skerry_control::{Boot, Failure, FailureKind, Identity, Layer, MountKind, Network, Rules};
use skerry_platform::agent::adopt_orphans;
use skerry_platform::own::{fork_tied, Forked};
use std::path::Path;

/// What programs of root may keep where the rules say so.
const KEEPABLE: CapabilitySet = crate::namespace::KEPT.difference(CapabilitySet::SYS_CHROOT);

/// What the agent itself needs: starting programs as somebody, looking at them, ending them.
const OWN: CapabilitySet = CapabilitySet::SETUID
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SYS_PTRACE)
    .union(CapabilitySet::KILL);

/// Who we are after [`split`].
pub enum Split {
    Guardian { init: Pid, end_rest: Box<dyn FnOnce()> },
    Init(Init),
}

/// The agent before its wall stands.
pub struct Init {
    everybody: Everybody,
    temporary: Option<Temporary>,
}

/// Splits into guardian and agent. To be called with one thread.
pub fn split(wanted: &Boot) -> Result<Split, Failure> {
    let host = |what: &str, error: &dyn std::fmt::Display| {
        failure(FailureKind::Unsupported, format!("the engine rules cannot be used here: {what}: {error}"))
    };
    let rules = wanted.rules.as_ref().ok_or_else(|| failure(FailureKind::Invalid, "the engine rules needs rules"))?;
    check(wanted)?;
    let abi = landlock::abi(wanted);
    landlock::check(rules, abi, &landlock::instead(rules, abi))?;
    labels::check(rules)?;
    adopt_orphans().map_err(|error| host("orphans", &error))?;
    let everybody = landlock::hold_signals(abi)?;
    let temporary =
        (!rules.temporary.is_empty()).then(Temporary::make).transpose().map_err(|error| host("a directory in /tmp", &error))?;
    skerry_confine::mark::mark_holder();
    match fork_tied(0).map_err(|error| host("fork", &error.source))? {
        Forked::Parent(init) => {
            let end_rest = Box::new(move || {
                reach::end_all(everybody);
                if let Some(directory) = temporary {
                    directory.end();
                }
            });
            Ok(Split::Guardian { init, end_rest })
        }
        Forked::Child => Ok(Split::Init(Init { everybody, temporary })),
    }
}

/// The capabilities that the guardian needs to end what is left.
pub const FOR_THE_END: CapabilitySet = CapabilitySet::KILL.union(CapabilitySet::DAC_OVERRIDE);

/// What no host grants.
fn check(wanted: &Boot) -> Result<(), Failure> {
    let refuse = |clause: &str, why: &str| {
        Err(failure(FailureKind::Unenforceable, format!("{clause} cannot be had from the engine rules: {why}")))
    };
    let ports = wanted.rules.as_ref().and_then(|rules| rules.ports.as_ref());
    match ports {
        None if wanted.network == Network::Loopback => {
            return refuse("network: loopback", "an interface of its own takes a namespace; name the ports");
        }
        Some(ports) if !(ports.bind_udp.is_empty() && ports.connect_udp.is_empty()) => {
            return refuse("ports: UDP", "datagrams cannot be kept to loopback");
        }
        _ => {}
    }
    for mount in &wanted.mounts {
        match &mount.kind {
            MountKind::HostReadOnly { source }
            | MountKind::HostReadWrite { source }
            | MountKind::Overlay { source, upper: None }
                if *source == mount.target => {}
            _ => {
                let target = String::from_utf8_lossy(&mount.target.0).into_owned();
                return refuse(&format!("the mount at {target}"), "it shows the host's own files, in their own places");
            }
        }
    }
    Ok(())
}

/// In the agent, which is in its groups already: the rest of the wall.
pub fn enter(wanted: &Boot, init: Init, layers: &mut Layers) -> Result<Guest, Failure> {
    let host =
        |what: &str, error: std::io::Error| failure(FailureKind::Unsupported, format!("the engine rules: {what}: {error}"));
    let nothing = Rules::default();
    let rules = wanted.rules.as_ref().unwrap_or(&nothing);
    let abi = landlock::abi(wanted);
    if !weaken::is_out("keyring") {
        skerry_platform::agent::leave_keyring();
    }
    adopt_orphans().map_err(|error| host("orphans", error))?;
    landlock::hold_signals(abi)?;
    let kept = kept_of(rules, CapabilitySet::empty(), Engine::Rules)?;
    let mut profile = Profile::rules(landlock::sockets(rules, abi, true));
    if !rules.written_files_run() {
        profile.keep_memory_from_running();
    }
    profile.hold_instead(&landlock::instead(rules, abi));
    let listens = !wanted.without.iter().any(|name| name == "listener");
    let watched = if watch::wanted(wanted) { watch::calls(Engine::Rules) } else { Vec::new() };
    let filter = Filter::compile(&profile, rules.calls.as_ref(), &watched)?;
    let restriction =
        landlock::Restriction::make(rules, abi, init.temporary.as_ref().map(|directory| directory.path.as_path()))?;
    let ids = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let sets = rustix::thread::capabilities(None).map_err(|error| host("capabilities", error.into()))?;
    let privileged = sets.effective.contains(CapabilitySet::SETUID | CapabilitySet::SETGID);
    let mut own = sets.permitted & (OWN | kept);
    if weaken::is_out("capabilities") {
        own = sets.permitted;
    }
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: own, permitted: own, inheritable: CapabilitySet::empty() },
    )
    .map_err(|error| host("capabilities", error.into()))?;
    // Nobody inside looks into the agent, whoever they are.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| host("prctl", error.into()))?;
    skerry_platform::agent::die_with_parent();
    let terminals = rustix::fs::open("/dev", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| host("/dev", error.into()))?;
    if weaken::is_out("seccomp") {
        layers.miss(Layer::Seccomp, weaken::REASON);
    } else {
        layers.add(Layer::Seccomp);
    }
    if weaken::is_out("landlock") {
        layers.miss(Layer::Landlock, weaken::REASON);
    } else if restriction.is_some() {
        layers.add(Layer::Landlock);
    } else {
        layers.miss(Layer::Landlock, "the rules have nothing for it");
    }
    if kept.is_empty() {
        layers.add(Layer::NoCapabilities);
    } else {
        layers.miss(Layer::NoCapabilities, format!("the rules keep {kept:?}"));
    }
    for layer in [Layer::UserNamespace, Layer::MountNamespace, Layer::PidNamespace, Layer::NetworkNamespace] {
        layers.miss(layer, "the engine rules has none");
    }
    Ok(Guest {
        engine: Engine::Rules,
        only_id: if privileged { None } else { Some(ids) },
        root_is_caller: matches!(wanted.identity, Identity::CallerIsRoot),
        counted_by_user: false,
        everybody: init.everybody,
        kept,
        filter,
        listens,
        watch: watch::wanted(wanted).then(|| Watch { network: wanted.network, ports: rules.ports.clone(), made: Vec::new() }),
        restriction,
        resources: rules.resources.clone(),
        labels: labels::of(rules),
        temporary: init.temporary,
        // There is no other network here, whatever is asked for.
        network: rules.ports.clone().map(|ports| sockets::Network { ports, loopback: true }),
        stage: None,
        terminals,
    })
}

/// Capabilities that programs of root keep; `own`: where the rules say nothing.
pub fn kept_of(rules: &Rules, own: CapabilitySet, engine: Engine) -> Result<CapabilitySet, Failure> {
    if weaken::is_out("capabilities") {
        return Ok(CapabilitySet::all());
    }
    let Some(names) = &rules.capabilities else { return Ok(own) };
    let mut kept = CapabilitySet::empty();
    for name in names {
        let one = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name).filter(|one| KEEPABLE.contains(*one));
        kept |= one.ok_or_else(|| {
            let message = format!("capabilities: {name} cannot be kept in the engine {}: only {KEEPABLE:?}", engine.name());
            failure(FailureKind::Unenforceable, message)
        })?;
    }
    Ok(kept)
}

/// A path of the rules.
fn path_of(bytes: &skerry_control::Bytes) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(&bytes.0))
}
