//! From the `boot` message to a guest that answers: limits, guardian, jail, programs, greeting; then the guest's own boot.

use crate::conversation::Talk;
use crate::copy;
use crate::failure;
use crate::gateway::{self, Held, Watched};
use crate::monitor::Monitor;
use crate::opens;
use crate::relay::{self, Guest};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::fs::{Gid, Uid};
use rustix::process::{Pid, WaitStatus};
use rustix::thread::CapabilitySet;
use skerry_agent::jail::{self, Jail, Split};
use skerry_confine::cgroup::{ControlGroups, Needs};
use skerry_confine::connection::{Connection, Sender};
use skerry_confine::layers::Layers;
use skerry_confine::mux::wire::{Kind, GREETING};
use skerry_confine::mux::Receiver;
use skerry_confine::{cpus, guardian};
use skerry_control::{
    base64, Boot, Bytes, Call, Failure, FailureKind, Layer, Limits, Machine, Network, Profile, Resumed, Rules,
};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Host tasks beside those that are counted.
const SPARE_TASKS: u64 = 0;
/// Loaded with a kernel that has no room for all registers (crates/registers), from this place in the jail.
const REGISTERS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/registers.so"));
const REGISTERS_AT: &str = "/tmp/registers.so";
/// Between two looks at what is waited for.
const AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 2_000_000 };
const GUARDED: &str = "skerry-machine: the relay";

/// Serves until the other end closes, the guest ends, or somebody says `shutdown`.
pub fn serve(mut connection: Connection, engine: &str) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Some((request, _)) = connection.receive()? else { return Ok(ExitCode::SUCCESS) };
    let id = request.id;
    let refuse = |connection: &Connection, failure| {
        connection.sender().reply(id, Err(failure));
        Ok(ExitCode::SUCCESS)
    };
    let Call::Boot(mut wanted) = request.call else {
        return refuse(&connection, failure(FailureKind::Invalid, "the first request must be boot"));
    };
    let Some(machine) = wanted.machine.take() else {
        return refuse(&connection, failure(FailureKind::Invalid, format!("the engine {engine} needs a machine")));
    };
    if wanted.trace || wanted.profile == Profile::Strict {
        let message = format!("trace and profile cannot be had from the engine {engine}: the guest's kernel is Linux's own");
        return refuse(&connection, failure(FailureKind::Unenforceable, message));
    }
    let keeps = machine.conversation.as_ref().is_some_and(|conversation| conversation.keeps.is_some());
    if (wanted.network == Network::User && !keeps) != machine.gateway.is_some() {
        return refuse(&connection, failure(FailureKind::Invalid, "the network user and a gateway go together"));
    }
    // Memory and processes are the guest's own matter; the host holds its time.
    let limits = Limits { cpus: wanted.limits.cpus.take(), ..Limits::default() };
    let needs = Needs { limits: &limits, spare_tasks: SPARE_TASKS };
    let switched_off = wanted.without.iter().any(|name| name == "cgroups");
    let mut groups = ControlGroups::make(&needs, wanted.require.contains(&Layer::Cgroup), switched_off);
    let around = jail_of(&wanted, &machine);
    // It is none of the jail's.
    let (watched, gateway) = match machine.gateway.as_ref().map(|wanted| gateway::start(wanted, &mut groups, limits.cpus)) {
        None => (None, None),
        Some(Ok((watched, held))) => (Some(watched), Some(held)),
        Some(Err(failure)) => {
            groups.end();
            return refuse(&connection, failure);
        }
    };
    let init = match jail::split(&around) {
        Err(failure) => {
            watched.iter().for_each(Watched::end);
            groups.end();
            return refuse(&connection, failure);
        }
        Ok(Split::Guardian { init, maps }) => {
            drop(gateway);
            maps.serve(init);
            connection.let_go();
            return Ok(guardian::end_as(guard(init, watched, groups), GUARDED));
        }
        Ok(Split::Init(init)) => init,
    };
    drop(watched);
    groups.join();
    groups.take_in_guests(0);
    let host_pid = init.host_pid;
    let mut layers = Layers::default();
    let guest = Jail::enter(&around, init, &mut layers)
        .and_then(|jail| held_limits(&limits, &groups).map(|held| (jail, held)))
        .and_then(|(jail, held)| {
            match groups.missing() {
                None => layers.add(Layer::Cgroup),
                Some(reason) => layers.miss(Layer::Cgroup, reason),
            }
            if machine.monitor.files.is_some() && jail.has_landlock() {
                layers.find(Layer::Landlock);
            }
            layers.refuse_missing(&std::mem::take(&mut wanted.require), "the engine has no such layer")?;
            machine.copies.iter().try_for_each(copy::sparsely)?;
            let (monitor, channel) = start(&jail, &machine, gateway, connection.sender())?;
            let deadline = Instant::now() + Duration::from_millis(machine.patience_ms);
            let not_started = |why| failure(FailureKind::Unsupported, format!("the machine cannot be started: {why}"));
            let talk = machine.conversation.as_ref().map(|wanted| Ok((wanted, Talk::begin(wanted, &monitor, deadline)?)));
            let mut talk = talk.transpose().map_err(not_started)?;
            if let Some((wanted, talk)) = &mut talk {
                talk.follow(&wanted.before, &monitor).map_err(not_started)?;
            }
            let mut receiver = Receiver::new(channel);
            if !machine.conversation.as_ref().is_some_and(|wanted| wanted.resumed) {
                receiver = greeted(receiver, &monitor, Duration::from_millis(machine.patience_ms))?;
            }
            if let Some((wanted, talk)) = &mut talk {
                talk.follow(&wanted.after, &monitor).map_err(not_started)?;
                wanted.keeps.iter().try_for_each(copy::sparsely)?;
            }
            Ok(Guest {
                monitor,
                receiver,
                host_pid,
                layers,
                held,
                about: BTreeMap::from([("jail".to_owned(), jail.describe(&machine.monitor))]),
                line: machine.line_holds,
                writes_back: machine.writes_back,
                groups,
                conversation: machine.conversation.clone(),
            })
        });
    let conversation = machine.conversation.as_ref();
    if conversation.is_some_and(|wanted| wanted.resumed) {
        let entropy = random_bytes();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        wanted.resumed = Some(Resumed { entropy: base64::encode(&entropy), time_ns: now.as_nanos() as i64 });
    }
    match guest {
        Ok(guest) if conversation.is_some_and(|wanted| wanted.keeps.is_some()) => {
            relay::end_kept(&connection, id, wanted.profile, guest)
        }
        Ok(guest) => relay::serve(connection, id, wanted, guest),
        Err(failure) => refuse(&connection, failure),
    }
}

/// The guardian's life.
fn guard(init: Pid, watched: Option<Watched>, groups: ControlGroups) -> Option<WaitStatus> {
    let mut rights = guardian::rights_over(groups.any());
    let Some(watched) = watched else { return guardian::guard(init, rights, || {}, || groups.end()) };
    // Over who has become somebody else.
    rights |= CapabilitySet::KILL;
    let watched = RefCell::new(watched);
    guardian::guard_by(|| watched.borrow_mut().wait_beside(init), rights, || watched.borrow().end(), || groups.end())
}

/// The host's, for one guest.
fn random_bytes() -> [u8; 64] {
    let mut bytes = [0; 64];
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).unwrap_or(0);
    }
    bytes
}

/// The boot message of the jail, which is as the engine `namespace` makes one.
fn jail_of(wanted: &Boot, machine: &Machine) -> Boot {
    Boot {
        mounts: machine.mounts.clone(),
        hostname: wanted.hostname.clone(),
        network: Network::None,
        limits: Limits { memory_files: Some(machine.memory_files), ..Limits::default() },
        identity: wanted.identity,
        profile: Profile::Default,
        trace: false,
        require: Vec::new(),
        rules: Some(Rules { calls: machine.calls.clone(), capabilities: Some(Vec::new()), ..Rules::default() }),
        machine: None,
        tree: None,
        resumed: None,
        about: BTreeMap::new(),
        observe: Default::default(),
        without: wanted.without.clone(),
    }
}

fn held_limits(limits: &Limits, groups: &ControlGroups) -> Result<BTreeMap<String, String>, Failure> {
    let mut held = BTreeMap::new();
    if let Some(cpus) = limits.cpus {
        let text = cpus::hold(groups, cpus)
            .map_err(|error| failure(FailureKind::Unenforceable, format!("the limit of CPUs cannot be held here: {error}")))?;
        held.insert("cpus".into(), text);
    }
    Ok(held)
}

/// Starts the jail's programs; gives our end of the channel.
fn start(jail: &Jail, machine: &Machine, mut gateway: Option<Held>, sender: Sender) -> Result<(Monitor, OwnedFd), Failure> {
    let internal = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, error);
    let deadline = Instant::now() + Duration::from_millis(machine.patience_ms);
    let (console, output) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| internal(&error))?;
    // QEMU opens its console by name.
    let (uid, gid) = jail.user_of(&machine.monitor);
    let owner = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    rustix::fs::fchown(&output, owner.0, owner.1).map_err(|error| internal(&error))?;
    let give = |path: &Bytes| rustix::fs::chown(&path.0[..], owner.0, owner.1).map_err(|error| internal(&error));
    machine.copies.iter().try_for_each(|copy| give(&copy.to))?;
    let copy = || output.try_clone().map_err(|error| internal(&error));
    let null = || std::fs::File::open("/dev/null").map(OwnedFd::from).map_err(|error| internal(&error));
    let (mut listeners, mut helpers) = (Vec::new(), Vec::new());
    for program in &machine.helpers {
        let started = jail.start(program, [null()?, copy()?, copy()?], Vec::new())?;
        let name = String::from_utf8_lossy(&program.arguments[0].0).into_owned();
        helpers.push((started.pid, format!("its helper {name}")));
        let Some(made) = &program.makes else {
            listeners.extend(started.listener);
            continue;
        };
        let path: &std::path::Path =
            std::path::Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&made.0));
        while !path.exists() {
            if Instant::now() > deadline {
                let message = format!("{name} did not come up");
                return Err(failure(FailureKind::Unsupported, message));
            }
            match &started.listener {
                Some(listener) => opens::serve_for(listener, AGAIN),
                None => drop(poll(&mut [], Some(&AGAIN))),
            }
        }
        listeners.extend(started.listener);
        // The monitor's to connect to.
        give(made)?;
    }
    let (ours, theirs) = UnixStream::pair().map_err(|error| internal(&error))?;
    let mut monitor = machine.monitor.clone();
    if machine.keeps_registers {
        std::fs::write(REGISTERS_AT, REGISTERS).map_err(|error| internal(&error))?;
        monitor.environment.push(format!("LD_PRELOAD={REGISTERS_AT}").as_str().into());
    }
    let mut frames = Vec::new();
    if let Some(gateway) = &mut gateway {
        gateway.wait_ready(deadline)?;
        frames.push(gateway.take_frames()?);
    }
    let pid = jail.start(&monitor, [theirs.into(), copy()?, copy()?], frames)?.pid;
    // From here on there may be threads.
    for listener in listeners {
        std::thread::Builder::new().spawn(move || opens::serve(&listener)).map_err(|error| internal(&error))?;
    }
    drop(output);
    let monitor = Monitor::watch(pid, helpers, console).map_err(|error| internal(&error))?;
    if let Some(gateway) = gateway {
        gateway.follow(sender, monitor.clone()).map_err(|error| internal(&error))?;
    }
    Ok((monitor, ours.into()))
}

/// Waits for the guest's init.
fn greeted(mut receiver: Receiver, monitor: &Monitor, patience: Duration) -> Result<Receiver, Failure> {
    let deadline = Instant::now() + patience;
    let unsupported = |what: String| failure(FailureKind::Unsupported, what);
    loop {
        match receiver.next_buffered() {
            Ok(Some(frame)) if frame.kind == Kind::Hello && frame.payload == GREETING => return Ok(receiver),
            Ok(None) => {}
            Ok(Some(_)) | Err(_) => {
                return Err(unsupported(format!("the guest does not speak as its init should{}", monitor.last_words())))
            }
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let message = format!("the guest has not come up in {} s{}", patience.as_secs(), monitor.last_words());
            return Err(unsupported(message));
        }
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        let mut polled = [PollFd::new(receiver.channel(), PollFlags::IN), PollFd::new(monitor.end_signal(), PollFlags::IN)];
        let _ = poll(&mut polled, Some(&timeout));
        let [line, end] = polled.map(|one| !one.revents().is_empty());
        if line && receiver.read() == 0 || end && !line {
            let how = monitor.wait(Duration::from_secs(2)).unwrap_or_else(|| "it closed its line".into());
            return Err(unsupported(format!("the guest has not come up: {how}{}", monitor.last_words())));
        }
    }
}
