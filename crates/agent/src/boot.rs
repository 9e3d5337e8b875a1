//! From the `boot` message to a guest: the limits' groups, the guardian, the wall, the server.
//!
//! The process that was started stays outside as the *guardian*: it waits for the guest's init, which is its child, and takes
//! the groups away. The init dies with it, and the whole guest with the init.

use crate::failure;
use crate::guest::Engine;
use crate::machine;
use crate::namespace;
use crate::rules;
use crate::server::{self, Sandbox};
use skerry_confine::cgroup::{ControlGroups, Controller, Needs};
use skerry_confine::connection::Connection;
use skerry_confine::cpus;
use skerry_confine::guardian;
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Booted, Call, Failure, FailureKind, Layer, Network, Profile};
use std::collections::BTreeMap;
use std::process::ExitCode;

/// Host tasks beside the guest's own: its init, and one that serves files.
const SPARE_TASKS: u64 = 2;

/// Serves until the other end closes or says `shutdown`.
///
/// `prepare` is done first, with what the message says.
pub fn serve(
    mut connection: Connection,
    engine: Engine,
    prepare: impl FnOnce(&Boot) -> Result<(), Failure>,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Some((request, _)) = connection.receive()? else { return Ok(ExitCode::SUCCESS) };
    let refuse = |connection: &Connection, failure| {
        connection.sender().reply(request.id, Err(failure));
        Ok(ExitCode::SUCCESS)
    };
    let Call::Boot(wanted) = &request.call else {
        return refuse(&connection, failure(FailureKind::Invalid, "the first request must be boot"));
    };
    if let Err(failure) = check(wanted, engine).and_then(|()| prepare(wanted)) {
        return refuse(&connection, failure);
    }
    // While all that shows it is there.
    let machine = if engine == Engine::Guest { machine::seen(&wanted.about) } else { BTreeMap::new() };
    let without = |wish: &str| wanted.without.iter().any(|name| name == wish);
    let needs = Needs { limits: &wanted.limits, spare_tasks: SPARE_TASKS };
    let required = wanted.require.contains(&Layer::Cgroup) || wanted.limits.pids.is_some();
    let groups = ControlGroups::make(&needs, required, without("cgroups"));
    if let Some(limit) = wanted.limits.memory.filter(|_| groups.version_of(Controller::Memory).is_none()) {
        let why = groups.describe(Controller::Memory).err().unwrap_or_default().to_owned();
        groups.end();
        let message = format!(
            "the limit of memory ({limit} bytes) cannot be held by the engine {} here: no cgroup: {why}",
            engine.name()
        );
        return refuse(&connection, failure(FailureKind::Unenforceable, message));
    }
    let split = match engine {
        Engine::Namespace | Engine::Guest => namespace::split(wanted, engine).map(Split::Namespace),
        Engine::Rules => rules::split(wanted).map(Split::Rules),
    };
    let rights = guardian::rights_over(groups.any());
    let init = match split {
        Err(failure) => {
            groups.end();
            return refuse(&connection, failure);
        }
        Ok(Split::Namespace(namespace::Split::Guardian { init, maps })) => {
            maps.serve(init);
            connection.let_go();
            let status = guardian::guard(init, rights, || {}, || groups.end());
            return Ok(guardian::end_as(status, GUARDED));
        }
        Ok(Split::Rules(rules::Split::Guardian { init, end_rest })) => {
            connection.let_go();
            let status = guardian::guard(init, rights | rules::FOR_THE_END, end_rest, || groups.end());
            return Ok(guardian::end_as(status, GUARDED));
        }
        Ok(Split::Namespace(namespace::Split::Init(init))) => Init::Namespace(init),
        Ok(Split::Rules(rules::Split::Init(init))) => Init::Rules(init),
    };
    match make(wanted, engine, machine, groups, init) {
        Ok(sandbox) => {
            connection.sender().reply(request.id, Ok(serde_json::to_value(&sandbox.booted)?));
            server::serve(connection, sandbox)?;
            Ok(ExitCode::SUCCESS)
        }
        Err(failure) => refuse(&connection, failure),
    }
}

const GUARDED: &str = "skerry-agent: the guest's init";

enum Split {
    Namespace(namespace::Split),
    Rules(rules::Split),
}

enum Init {
    Namespace(namespace::Init),
    Rules(rules::Init),
}

/// What no host grants.
fn check(wanted: &Boot, engine: Engine) -> Result<(), Failure> {
    let refuse = |option: &str, why: &str| {
        let name = engine.name();
        Err(failure(FailureKind::Unenforceable, format!("{option} cannot be had from the engine {name}: {why}")))
    };
    if wanted.trace {
        return refuse("trace", "the host's kernel answers system calls, and tells nobody of them");
    }
    if wanted.network == Network::User && engine != Engine::Guest {
        return refuse("network: user", "its card is a machine's");
    }
    if wanted.profile == Profile::Strict {
        return refuse("the profile strict", "there is no guest kernel between programs and the host's files");
    }
    Ok(())
}

/// In the guest's init: the wall, all of it, and what is known of it.
fn make(
    wanted: &Boot,
    engine: Engine,
    machine: BTreeMap<String, String>,
    mut groups: ControlGroups,
    init: Init,
) -> Result<Sandbox, Failure> {
    groups.join();
    groups.take_in_guests(0);
    let memory = groups.memory_events();
    let processes = groups.process_events();
    let mut layers = Layers::default();
    let (guest, host_pid) = match init {
        Init::Namespace(init) => {
            let host_pid = init.host_pid;
            namespace::enter_time_namespace();
            (namespace::enter(wanted, init, engine, &mut layers)?, host_pid)
        }
        Init::Rules(init) => (rules::enter(wanted, init, &mut layers)?, std::process::id() as i32),
    };
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
        let text = cpus::hold(&groups, cpus)
            .map_err(|error| failure(FailureKind::Unenforceable, format!("the limit of CPUs cannot be held here: {error}")))?;
        limits.insert("cpus".into(), text);
    }
    if let Some(pids) = wanted.limits.pids {
        let text = match groups.describe(Controller::Pids) {
            Ok(text) => text,
            Err(_) if guest.counted_by_user => {
                process_limit = Some(u64::from(pids) + SPARE_TASKS);
                "RLIMIT_NPROC of the sandbox's own user namespace".into()
            }
            Err(why) if guest.engine == Engine::Rules && guest.only_id.is_some() => {
                process_limit = Some(u64::from(pids));
                format!("not held alone: RLIMIT_NPROC counts all processes of the user; no cgroup: {why}")
            }
            Err(why) => format!("not held: no cgroup: {why}"),
        };
        limits.insert("pids".into(), text);
    }
    if guest.stage.is_some() {
        limits.insert("memory_files".into(), "size of a tmpfs".into());
    }
    layers.refuse_missing(&wanted.require, "the engine has no such layer")?;
    Ok(Sandbox {
        booted: Booted {
            layers: layers.present,
            missing: layers.missing,
            limits,
            version: env!("CARGO_PKG_VERSION").into(),
            guest_memory: "none".into(),
            profile: wanted.profile,
            sentry_pid: host_pid,
            machine,
        },
        guest,
        process_limit,
        memory,
        memory_limit: wanted.limits.memory,
        processes,
        pids_limit: wanted.limits.pids,
        groups,
    })
}
