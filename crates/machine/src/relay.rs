//! Between the caller's control socket and the guest's line: requests with their descriptors, replies, events, ends.
//!
//! A program's end is told when all that it has written is with the caller: the guest sends what is left in its pipes
//! (`drain`), and the sinks have written it.

use crate::conversation::Talk;
use crate::failure;
use crate::monitor::Monitor;
use parking_lot::Mutex;
use rustix::event::{poll, PollFd, PollFlags};
use serde_json::{json, Value};
use skerry_confine::cgroup::{ControlGroups, Controller};
use skerry_confine::connection::{Connection, Sender};
use skerry_confine::layers::Layers;
use skerry_confine::mux::wire::{Frame, Kind, FROM_GUEST, TO_GUEST};
use skerry_confine::mux::{Mux, Receiver};
use skerry_control::{
    frame, Boot, Booted, Call, Conversation, Event, Failure, FailureKind, Limits, Outcome, Profile, Reply, Request, Spawned,
    Stdio, Update,
};
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::mpsc;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long what a program has written may take to the caller after its end.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);
/// How long a guest may take to write back what it holds, and to switch its machine off.
const END_PATIENCE: Duration = Duration::from_secs(4);
/// How long a monitor may take for what it is told while its guest runs.
const UPDATE_PATIENCE: Duration = Duration::from_secs(30);
/// The request that is ours.
const OWN_REQUEST: u64 = u64::MAX;
const STACK: usize = 128 << 10;

static ENDING: Mutex<()> = Mutex::new(());

/// A guest whose init has greeted.
pub struct Guest {
    pub monitor: Monitor,
    pub receiver: Receiver,
    pub host_pid: i32,
    /// The jail's.
    pub layers: Layers,
    /// Limits that the host holds.
    pub held: BTreeMap<String, String>,
    /// What the host knows of the machine.
    pub about: BTreeMap<String, String>,
    pub line: Option<usize>,
    pub writes_back: bool,
    /// The host's.
    pub groups: ControlGroups,
    /// How the monitor is spoken to.
    pub conversation: Option<Conversation>,
}

struct Relay {
    mux: Mux,
    sender: Sender,
    monitor: Monitor,
    writes_back: bool,
    groups: ControlGroups,
    conversation: Option<Conversation>,
    /// One at a time.
    updating: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    last_stream: u32,
    /// The request that boots, and what the host says for its answer.
    boot: Option<(u64, Booted)>,
    /// What the host says, once it was answered to that, and the whole answer.
    host: Option<Booted>,
    told: Option<Value>,
    /// Requests that change it, with the limit of CPUs that the host sets when the guest has done its part.
    updates: BTreeMap<u64, Option<f64>>,
    /// Requests to spawn that are not answered yet: streams of what the program writes.
    spawning: BTreeMap<u64, Vec<u32>>,
    programs: BTreeMap<u32, Vec<u32>>,
    /// Who waits until a stream is drained.
    draining: BTreeMap<u32, mpsc::Sender<()>>,
    /// Requests that the guest has to answer.
    open: BTreeSet<u64>,
    /// We have asked it to end.
    ending: bool,
}

/// Ends the process, and with it, as it is the first one of its namespace, everything in the jail.
fn end(complaint: Option<String>) -> ! {
    // More than one may notice; the first one tells.
    std::mem::forget(ENDING.lock());
    if let Some(complaint) = &complaint {
        eprintln!("skerry-machine: {complaint}");
    }
    std::process::exit(if complaint.is_some() { skerry_confine::program::FAILURE.into() } else { 0 })
}

/// What is known of the wall on the host's side.
fn booted(guest: &mut Guest, profile: Profile) -> Booted {
    Booted {
        layers: std::mem::take(&mut guest.layers.present),
        missing: std::mem::take(&mut guest.layers.missing),
        limits: std::mem::take(&mut guest.held),
        version: env!("CARGO_PKG_VERSION").into(),
        guest_memory: "none".into(),
        profile,
        sentry_pid: guest.host_pid,
        machine: std::mem::take(&mut guest.about),
    }
}

/// The machine has been kept: that is all that was wanted of it.
pub fn end_kept(connection: &Connection, id: u64, profile: Profile, mut guest: Guest) -> ! {
    connection.sender().reply(id, Ok(json!(booted(&mut guest, profile))));
    end(None)
}

/// Serves until everything ends.
pub fn serve(
    mut connection: Connection,
    id: u64,
    wanted: Box<Boot>,
    mut guest: Guest,
) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let booted = booted(&mut guest, wanted.profile);
    let relay = Arc::new(Relay {
        mux: Mux::new(guest.receiver.channel().try_clone()?, guest.line),
        sender: connection.sender(),
        monitor: guest.monitor,
        writes_back: guest.writes_back,
        groups: guest.groups,
        conversation: guest.conversation,
        updating: Mutex::default(),
        state: Mutex::new(State { boot: Some((id, booted)), ..State::default() }),
    });
    let (from_guest, receiver) = (relay.clone(), guest.receiver);
    std::thread::Builder::new().spawn(move || from_guest.serve_guest(receiver))?;
    let (socket, patient) = (connection.socket().try_clone()?, guest.writes_back);
    // Whoever reads requests may be waiting for a guest that takes nothing.
    std::thread::Builder::new().stack_size(STACK).spawn(move || {
        while !matches!(poll(&mut [PollFd::new(&socket, PollFlags::empty())], None), Ok(1..)) {}
        std::thread::sleep(if patient { END_PATIENCE + Duration::from_secs(1) } else { Duration::from_millis(500) });
        end(None)
    })?;
    let watching = relay.clone();
    std::thread::Builder::new().stack_size(STACK).spawn(move || {
        let how = watching.monitor.wait_long();
        if !watching.state.lock().ending {
            end(Some(format!("the guest's machine has ended: {how}{}", watching.monitor.last_words())));
        }
    })?;
    relay.forward(&Request { id, descriptors: 0, call: Call::Boot(wanted) });
    while let Some((request, descriptors)) = connection.receive()? {
        let id = request.id;
        if let Call::Shutdown = request.call {
            relay.end_guest();
            relay.sender.reply(id, Ok(json!({})));
            end(None);
        }
        if let Call::Info = request.call {
            // The guest would tell of its own walls.
            let told = relay.state.lock().told.clone();
            relay.sender.reply(id, told.ok_or_else(|| failure(FailureKind::Invalid, "the sandbox is not made yet")));
            continue;
        }
        if let Call::Update(update) = request.call {
            // The monitor and the guest may take their time.
            let updater = relay.clone();
            std::thread::Builder::new().stack_size(STACK).spawn(move || {
                if let Err(failure) = updater.update(id, update) {
                    updater.sender.reply(id, Err(failure));
                }
            })?;
            continue;
        }
        if let Err(failure) = relay.request(request, descriptors) {
            relay.sender.reply(id, Err(failure));
        }
    }
    relay.end_guest();
    end(None)
}

impl Relay {
    /// With the streams that its descriptors become.
    fn request(&self, request: Request, descriptors: Vec<OwnedFd>) -> Result<(), Failure> {
        if request.id == OWN_REQUEST {
            return Err(failure(FailureKind::Invalid, "a request of that number is ours"));
        }
        let directions = match &request.call {
            Call::Boot(_) => return Err(failure(FailureKind::Invalid, "the sandbox has been made already")),
            Call::Spawn(spawn) => directions_of(&spawn.stdio, descriptors.len()),
            _ => vec![0; descriptors.len()],
        };
        if !self.mux.has_room(2 * descriptors.len()) {
            return Err(failure(FailureKind::Internal, "too many streams are open; close some first"));
        }
        let mut written = Vec::new();
        let mut streams = Vec::new();
        {
            let mut state = self.state.lock();
            for (directions, descriptor) in directions.into_iter().zip(descriptors) {
                state.last_stream = state.last_stream.wrapping_add(1);
                if directions & FROM_GUEST != 0 {
                    written.push(state.last_stream);
                }
                streams.push((state.last_stream, directions, descriptor));
            }
            if let Call::Spawn(_) = request.call {
                state.spawning.insert(request.id, written);
            }
            state.open.insert(request.id);
        }
        for (stream, directions, descriptor) in streams {
            self.mux.send(Kind::Open, stream, &[directions]);
            self.join(stream, directions, descriptor)
                .map_err(|error| failure(FailureKind::Internal, format!("a stream cannot be made: {error}")))?;
        }
        self.forward(&request);
        Ok(())
    }

    /// What else there is to limit is the guest's, when its machine has grown for it; time is the host's, when that is done: a
    /// change that fails leaves the limits as they were.
    fn update(&self, id: u64, mut update: Update) -> Result<(), Failure> {
        let _one = self.updating.lock();
        if id == OWN_REQUEST {
            return Err(failure(FailureKind::Invalid, "a request of that number is ours"));
        }
        let cpus = update.cpus.take();
        if cpus.is_some() {
            self.groups.must_hold(Controller::Cpu).map_err(not_changed)?;
        }
        let steps = update.machine.as_mut().map(|growth| std::mem::take(&mut growth.steps)).unwrap_or_default();
        if !steps.is_empty() {
            let none = || failure(FailureKind::Unenforceable, "this machine's monitor has no control socket");
            let wanted = self.conversation.as_ref().ok_or_else(none)?;
            let deadline = Instant::now() + UPDATE_PATIENCE;
            Talk::begin(wanted, &self.monitor, deadline)
                .and_then(|mut talk| talk.follow(&steps, &self.monitor))
                .map_err(|why| failure(FailureKind::Unenforceable, format!("the machine cannot be changed: {why}")))?;
        }
        {
            let mut state = self.state.lock();
            state.open.insert(id);
            state.updates.insert(id, cpus);
        }
        self.forward(&Request { id, descriptors: 0, call: Call::Update(update) });
        Ok(())
    }

    fn limit_cpus(&self, cpus: f64) -> Result<(), Failure> {
        let limits = Limits { cpus: Some(cpus), ..Limits::default() };
        self.groups.change(Controller::Cpu, &limits).map_err(not_changed)
    }

    fn join(&self, stream: u32, directions: u8, descriptor: OwnedFd) -> std::io::Result<()> {
        if directions == TO_GUEST | FROM_GUEST {
            self.mux.add_sink(stream, descriptor.try_clone()?)?;
            return self.mux.add_source(stream, descriptor);
        }
        match directions {
            TO_GUEST => self.mux.add_source(stream, descriptor),
            FROM_GUEST => self.mux.add_sink(stream, descriptor),
            _ => Ok(()),
        }
    }

    fn forward(&self, request: &Request) {
        // It has come as one frame, and is no longer as another.
        match frame::encode(request) {
            Ok(bytes) => self.mux.send_control(&bytes),
            Err(error) => self.sender.reply(request.id, Err(failure(FailureKind::Invalid, error))),
        }
    }

    /// Lets the guest write back what it holds, where that may matter.
    fn end_guest(&self) {
        self.state.lock().ending = true;
        if self.writes_back {
            self.forward(&Request { id: OWN_REQUEST, descriptors: 0, call: Call::Shutdown });
            self.monitor.wait(END_PATIENCE);
        }
    }

    /// The thread that reads the line.
    fn serve_guest(self: Arc<Relay>, mut receiver: Receiver) {
        let mut control = Vec::new();
        let problem = loop {
            match receiver.receive() {
                Ok(Some(frame)) => {
                    if let Err(problem) = self.take(frame, &mut control) {
                        break Some(problem);
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if self.state.lock().ending {
            return; // whoever ends it is waiting for the monitor
        }
        let complaint = match problem {
            Some(problem) => format!("the guest does not keep to the protocol of its line: {problem}"),
            None => {
                let how = self.monitor.wait(END_PATIENCE).unwrap_or_else(|| "it closed its line".into());
                format!("the guest's machine has ended: {how}")
            }
        };
        end(Some(format!("{complaint}{}", self.monitor.last_words())))
    }

    fn take(self: &Arc<Relay>, frame: Frame, control: &mut Vec<u8>) -> Result<(), String> {
        match frame.kind {
            Kind::Control => {
                control.extend_from_slice(&frame.payload);
                while let Some(message) = frame::take::<Value>(control).map_err(|error| error.to_string())? {
                    self.message(message)?;
                }
                Ok(())
            }
            Kind::Drained => {
                if let Some(waits) = self.state.lock().draining.remove(&frame.stream) {
                    self.mux.when_written(frame.stream, move || drop(waits));
                }
                Ok(())
            }
            Kind::Data | Kind::End | Kind::Close | Kind::Credit | Kind::Read => {
                self.mux.serve(frame).map_err(|error| error.to_string())
            }
            Kind::Hello | Kind::Open | Kind::Drain => Err("a frame that does not belong there".into()),
        }
    }

    /// A reply or an event of the guest's agent: known to be one before it goes on.
    fn message(self: &Arc<Relay>, message: Value) -> Result<(), String> {
        if message.get("id").is_some() {
            let reply: Reply = serde_json::from_value(message).map_err(|error| error.to_string())?;
            return self.reply(reply);
        }
        let event: Event = serde_json::from_value(message).map_err(|error| error.to_string())?;
        if let Event::Exited { process, .. } = event {
            return self.exited(process, event);
        }
        self.sender.event(&event);
        Ok(())
    }

    fn reply(&self, mut reply: Reply) -> Result<(), String> {
        if reply.id == OWN_REQUEST {
            return Ok(());
        }
        let mut state = self.state.lock();
        if let Some((id, booted)) = state.boot.take() {
            if reply.id != id {
                return Err("an answer to a request that was not made".into());
            }
            drop(state);
            let outcome = match reply.outcome {
                Outcome::Ok(value) => {
                    let told = with_guest(&booted, value)?;
                    let mut state = self.state.lock();
                    (state.host, state.told) = (Some(booted), Some(told.clone()));
                    Ok(told)
                }
                Outcome::Error(failure) => Err(failure),
            };
            self.sender.reply(id, outcome);
            return Ok(());
        }
        if !state.open.remove(&reply.id) {
            return Err("an answer to a request that was not made".into());
        }
        if let Some(streams) = state.spawning.remove(&reply.id) {
            if let Outcome::Ok(value) = &reply.outcome {
                let spawned: Spawned = serde_json::from_value(value.clone()).map_err(|error| error.to_string())?;
                state.programs.insert(spawned.process, streams);
            }
        }
        let updated = state.updates.remove(&reply.id);
        if let (Some(cpus), Some(host), Outcome::Ok(value)) = (updated, &state.host, &mut reply.outcome) {
            let told = with_guest(host, value.take())?;
            state.told = Some(told.clone());
            *value = told;
            if let Err(failure) = cpus.map_or(Ok(()), |cpus| self.limit_cpus(cpus)) {
                reply.outcome = Outcome::Error(failure);
            }
        }
        drop(state);
        self.sender.reply(
            reply.id,
            match reply.outcome {
                Outcome::Ok(value) => Ok(value),
                Outcome::Error(failure) => Err(failure),
            },
        );
        Ok(())
    }

    /// A program has ended: told when what it wrote is written.
    fn exited(self: &Arc<Relay>, process: u32, event: Event) -> Result<(), String> {
        let streams = self.state.lock().programs.remove(&process).ok_or("the end of a program that was not started")?;
        if streams.is_empty() {
            self.sender.event(&event);
            return Ok(());
        }
        let (waits, written) = mpsc::channel::<()>();
        {
            let mut state = self.state.lock();
            for stream in &streams {
                state.draining.insert(*stream, waits.clone());
            }
        }
        drop(waits);
        let relay = self.clone();
        // Not by us, who read the line: sending may wait for what we are to read.
        let tell = move || {
            for stream in &streams {
                relay.mux.send(Kind::Drain, *stream, b"");
            }
            let deadline = Instant::now() + OUTPUT_PATIENCE;
            // Nobody sends: it is over when everybody has let go.
            let _ = written.recv_timeout(deadline.saturating_duration_since(Instant::now()));
            relay.sender.event(&event);
        };
        std::thread::Builder::new().stack_size(STACK).spawn(tell).map(drop).map_err(|error| error.to_string())
    }
}

fn not_changed(why: String) -> Failure {
    failure(FailureKind::Unenforceable, format!("the limit cpus cannot be changed here: {why}"))
}

/// What the host says of a sandbox, and what its guest adds.
fn with_guest(host: &Booted, guest: Value) -> Result<Value, String> {
    let guest: Booted = serde_json::from_value(guest).map_err(|error| error.to_string())?;
    let mut both = host.clone();
    // What the host says of itself holds.
    both.machine = guest.machine.into_iter().chain(both.machine).collect();
    for (name, how) in guest.limits {
        both.limits.entry(name).or_insert_with(|| format!("{how}, in the guest"));
    }
    Ok(json!(both))
}

/// Which way each descriptor's bytes go; 0: the request does not say.
fn directions_of(stdio: &Stdio, count: usize) -> Vec<u8> {
    let mut directions = vec![0; count];
    let mut mark = |index: Option<usize>, direction| {
        if let Some(place) = index.and_then(|index| directions.get_mut(index)) {
            *place |= direction;
        }
    };
    match stdio {
        Stdio::Descriptors([input, output, error]) => {
            mark(*input, TO_GUEST);
            mark(*output, FROM_GUEST);
            mark(*error, FROM_GUEST);
        }
        Stdio::Terminal { input, output, error, .. } => {
            mark(Some(*input), TO_GUEST);
            mark(Some(*output), FROM_GUEST);
            mark(*error, FROM_GUEST);
        }
    }
    directions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_go_where_the_program_reads_and_writes() {
        let given = Stdio::Descriptors([Some(0), Some(1), Some(1)]);
        assert_eq!(directions_of(&given, 3), [TO_GUEST, FROM_GUEST, 0]);
        assert_eq!(directions_of(&Stdio::Descriptors([Some(0), Some(0), None]), 1), [TO_GUEST | FROM_GUEST]);
        assert_eq!(directions_of(&Stdio::Descriptors([Some(7), None, None]), 1), [0]);
        let terminal = Stdio::Terminal { input: 0, output: 1, error: Some(2), columns: 1, rows: 1 };
        assert_eq!(directions_of(&terminal, 3), [TO_GUEST, FROM_GUEST, FROM_GUEST]);
    }
}
