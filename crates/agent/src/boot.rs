//! From the `boot` message to a guest: the limits' groups, the guardian, the wall, the server.
//!
//! The process that was started stays outside as the *guardian*: it waits for the guest's init, which is its child, and takes
//! the groups away. The init dies with it, and the whole guest with the init.

use crate::failure;
use crate::namespace;
use crate::server::{self, Sandbox};
use rustix::process::{waitpid, Pid, Signal, WaitOptions, WaitStatus};
use rustix::thread::{CapabilitySet, CapabilitySets};
use skerry_confine::cgroup::{ControlGroups, Controller, Needs};
use skerry_confine::connection::Connection;
use skerry_control::{Boot, Booted, Call, Failure, FailureKind, Layer, MissingLayer, Profile};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Host tasks beside the guest's own: its init, and one that serves files.
const SPARE_TASKS: u64 = 2;

/// What is in force, and what is not and why.
#[derive(Default)]
pub struct Layers {
    pub present: Vec<Layer>,
    pub missing: Vec<MissingLayer>,
}

impl Layers {
    pub fn add(&mut self, layer: Layer) {
        self.present.push(layer);
    }
    pub fn miss(&mut self, layer: Layer, reason: impl std::fmt::Display) {
        self.missing.push(MissingLayer { layer, reason: reason.to_string() });
    }
}

/// Serves until the other end closes or says `shutdown`.
pub fn serve(mut connection: Connection) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Some((request, _)) = connection.receive()? else { return Ok(ExitCode::SUCCESS) };
    let refuse = |connection: &Connection, failure| {
        connection.sender().reply(request.id, Err(failure));
        Ok(ExitCode::SUCCESS)
    };
    let Call::Boot(wanted) = &request.call else {
        return refuse(&connection, failure(FailureKind::Invalid, "the first request must be boot"));
    };
    if let Err(failure) = check(wanted) {
        return refuse(&connection, failure);
    }
    let without = |wish: &str| wanted.without.iter().any(|name| name == wish);
    let needs = Needs { limits: &wanted.limits, spare_tasks: SPARE_TASKS };
    let required = wanted.require.contains(&Layer::Cgroup) || wanted.limits.pids.is_some();
    let groups = ControlGroups::make(&needs, required, without("cgroups"));
    let end_groups = |groups: ControlGroups| groups.end();
    if let Some(limit) = wanted.limits.memory.filter(|_| groups.version_of(Controller::Memory).is_none()) {
        let why = groups.describe(Controller::Memory).err().unwrap_or_default().to_owned();
        end_groups(groups);
        let message =
            format!("the limit of memory ({limit} bytes) cannot be held by the engine namespace here: no cgroup: {why}");
        return refuse(&connection, failure(FailureKind::Unenforceable, message));
    }
    let split = match namespace::split(wanted) {
        Ok(split) => split,
        Err(failure) => {
            end_groups(groups);
            return refuse(&connection, failure);
        }
    };
    match split {
        namespace::Split::Guardian { init, maps } => {
            maps.serve(init);
            connection.let_go();
            Ok(guard(init, groups))
        }
        namespace::Split::Init(init) => {
            let host_pid = init.host_pid;
            match make(wanted, groups, init) {
                Ok(mut sandbox) => {
                    sandbox.booted.sentry_pid = host_pid;
                    connection.sender().reply(request.id, Ok(serde_json::to_value(&sandbox.booted)?));
                    server::serve(connection, sandbox)?;
                    Ok(ExitCode::SUCCESS)
                }
                Err(failure) => refuse(&connection, failure),
            }
        }
    }
}

/// What no host grants.
fn check(wanted: &Boot) -> Result<(), Failure> {
    let refuse = |option: &str, why: &str| {
        Err(failure(FailureKind::Unenforceable, format!("{option} cannot be had from the engine namespace: {why}")))
    };
    if wanted.trace {
        return refuse("trace", "the host's kernel answers system calls, and tells nobody of them");
    }
    if wanted.profile == Profile::Strict {
        return refuse("the profile strict", "there is no guest kernel between programs and the host's files");
    }
    Ok(())
}

/// In the guest's init: the wall, all of it, and what is known of it.
fn make(wanted: &Boot, mut groups: ControlGroups, init: namespace::Init) -> Result<Sandbox, Failure> {
    groups.join();
    groups.take_in_guests(0);
    let memory = groups.memory_events();
    let mut layers = Layers::default();
    let guest = namespace::enter(wanted, init, &mut layers)?;
    match groups.missing() {
        None => layers.add(Layer::Cgroup),
        Some(reason) => layers.miss(Layer::Cgroup, reason),
    }
    let mut limits = BTreeMap::new();
    let mut process_limit = None;
    if wanted.limits.memory.is_some() {
        limits.insert("memory".into(), groups.describe(Controller::Memory).unwrap_or_default());
    }
    if let Some(cpus) = wanted.limits.cpus {
        let text = match groups.describe(Controller::Cpu) {
            Ok(text) => text,
            Err(why) => {
                bind_to_cpus(cpus).map_err(|error| {
                    failure(FailureKind::Unenforceable, format!("the limit of CPUs cannot be held here: {error}"))
                })?;
                format!("affinity to {} CPU(s) (best effort): a fraction is rounded up; no cgroup: {why}", cpus.ceil().max(1.0))
            }
        };
        limits.insert("cpus".into(), text);
    }
    if let Some(pids) = wanted.limits.pids {
        let text = match groups.describe(Controller::Pids) {
            Ok(text) => text,
            Err(_) if guest.counted_by_user => {
                process_limit = Some(u64::from(pids) + SPARE_TASKS);
                "RLIMIT_NPROC of the sandbox's own user namespace".into()
            }
            Err(why) => format!("not held: no cgroup: {why}"),
        };
        limits.insert("pids".into(), text);
    }
    limits.insert("memory_files".into(), "size of a tmpfs".into());
    refuse_missing(&wanted.require, &layers)?;
    Ok(Sandbox {
        booted: Booted {
            layers: layers.present,
            missing: layers.missing,
            limits,
            version: env!("CARGO_PKG_VERSION").into(),
            guest_memory: "none".into(),
            profile: wanted.profile,
            sentry_pid: 0,
        },
        guest,
        process_limit,
        memory,
        memory_limit: wanted.limits.memory,
        groups,
    })
}

/// A layer that was demanded and is not there is an error that names it and says why.
fn refuse_missing(required: &[Layer], layers: &Layers) -> Result<(), Failure> {
    let Some(layer) = required.iter().find(|layer| !layers.present.contains(layer)) else { return Ok(()) };
    let reason = layers.missing.iter().find(|missing| missing.layer == *layer);
    let reason = reason.map_or("the engine namespace has no such layer", |missing| missing.reason.as_str());
    let name = serde_json::to_value(layer).ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
    Err(failure(FailureKind::Unenforceable, format!("the layer {name} was required, and is not in force here: {reason}")))
}

fn bind_to_cpus(cpus: f64) -> std::io::Result<()> {
    let allowed = rustix::thread::sched_getaffinity(None)?;
    let mut chosen = rustix::thread::CpuSet::new();
    let wanted = cpus.ceil().max(1.0) as u32;
    for cpu in (0..rustix::thread::CpuSet::MAX_CPU).filter(|cpu| allowed.is_set(*cpu)) {
        if chosen.count() >= wanted {
            break;
        }
        chosen.set(cpu);
    }
    Ok(rustix::thread::sched_setaffinity(None, &chosen)?)
}

/// The guardian: waits, and takes the groups away. It keeps what it takes to write to the directory that they are in.
fn guard(init: Pid, groups: ControlGroups) -> ExitCode {
    let _ = rustix::thread::set_no_new_privs(true);
    let permitted = rustix::thread::capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.permitted);
    let kept = if groups.any() { permitted & CapabilitySet::DAC_OVERRIDE } else { CapabilitySet::empty() };
    let none = CapabilitySet::empty();
    let have = |effective| {
        let _ = rustix::thread::set_capabilities(None, CapabilitySets { effective, permitted: kept, inheritable: none });
    };
    have(none);
    let status = loop {
        match waitpid(Some(init), WaitOptions::empty()) {
            Ok(Some((_, status))) => break Some(status),
            Ok(None) | Err(rustix::io::Errno::INTR) => {}
            Err(_) => break None,
        }
    };
    have(kept);
    groups.end();
    as_it_ended(status)
}

/// The guardian ends as the init did: with its exit status, or by the same signal, so that the caller hears of it.
fn as_it_ended(status: Option<WaitStatus>) -> ExitCode {
    if let Some(number) = status.and_then(WaitStatus::terminating_signal) {
        if let Some(signal) = Signal::from_named_raw(number) {
            let none = rustix::process::Rlimit { current: Some(0), maximum: Some(0) };
            let _ = rustix::process::setrlimit(rustix::process::Resource::Core, none);
            let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
        }
        eprintln!("skerry-agent: the guest's init was killed by signal {number}");
    }
    let code = status.and_then(WaitStatus::exit_status).and_then(|code| u8::try_from(code).ok());
    ExitCode::from(code.unwrap_or(crate::FAILURE))
}
