//! `skerry-attendant`: the second half of `skerry do`.
//!
//! The first half, in Python, reads the options and boots the sandbox; then it becomes this program (execve(2)), which starts
//! the command, passes signals on, keeps its time, and reports its end. So no interpreter stays in memory for as long as a
//! command runs. It speaks the control protocol only: any engine can be behind it.
//!
//! Parts: `state` (what is handed over), `terminal` (raw mode and its guard), `report` (what people read).
#![forbid(unsafe_code)]

mod report;
mod state;
mod terminal;

use report::{complain, Events, Outcome, Record};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::process::{kill_process, Pid, Signal};
use serde_json::{json, Map, Value};
use skerry_control::frame;
use skerry_control::messages::{base64, Failure, FailureKind};
use skerry_platform::foreground::{wait_for_child, Ended, Signals};
use skerry_platform::own::take_descriptor;
use state::State;
use std::fs::File;
use std::io::Read;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};
use terminal::RawTerminal;

const USAGE: u8 = 2;
const TIMEOUT: u8 = 124;
const FAILURE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// To the command alone, as kill(1) does; and to its process group, as the terminal does.
const TO_PROCESS: [i32; 3] = [libc::SIGTERM, libc::SIGUSR1, libc::SIGUSR2];
const TO_GROUP: [i32; 6] = [libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGTSTP, libc::SIGCONT, libc::SIGWINCH];

/// Between SIGTERM and SIGKILL when the time is up, and between that and our giving up.
const GRACE: Duration = Duration::from_secs(1);
/// How long an engine may take to end after its connection closed, before it is killed.
const END_GRACE: Duration = Duration::from_secs(5);
const STDERR_KEPT: usize = 16 << 10;

/// Why there is no command (any more), with the exit status that says so.
struct Failed(u8, String);

fn main() -> ExitCode {
    // What follows is the first half's command line, for those who look at the list of processes.
    let number = std::env::args_os().nth(1).and_then(|text| text.to_str()?.parse().ok());
    let state = number.ok_or("it is started by 'skerry do' only".into()).and_then(read_state);
    let state = match state {
        Ok(state) => state,
        Err(error) => {
            eprintln!("skerry-attendant: {error}");
            return ExitCode::from(FAILURE);
        }
    };
    // What an engine that was killed leaves comes to us.
    let _ = skerry_platform::agent::adopt_orphans();
    // What the caller had open besides is not needed here, and might keep a pipe from ending.
    let files = [state.events_file, state.report_file, state.record_file].map(|file| file.unwrap_or(0));
    let ours = [0, 1, 2, state.control, state.engine_stderr, files[0], files[1], files[2]];
    skerry_platform::foreground::close_all_but(ours);
    ExitCode::from(attend(state))
}

fn read_state(number: i32) -> Result<State, Box<dyn std::error::Error>> {
    let mut text = String::new();
    File::from(take_descriptor(number)?).read_to_string(&mut text)?;
    Ok(serde_json::from_str(&text)?)
}

/// The whole of it; gives the exit status.
fn attend(state: State) -> u8 {
    let mut outcome = Outcome { status: FAILURE, exited: None, timed_out: false, out_of_memory: false, error: None };
    let take_file = |number: Option<i32>| number.and_then(|number| take_descriptor(number).ok()).map(File::from);
    let report_file = take_file(state.report_file);
    let mut engine = match Engine::take(&state) {
        Ok(engine) => engine,
        Err(error) => {
            complain(&error);
            return FAILURE;
        }
    };
    engine.events = Events(take_file(state.events_file));
    engine.record = Record { file: take_file(state.record_file), room: state.record_maximum };
    let result = engine.run(&state, &mut outcome);
    engine.end();
    outcome.out_of_memory = engine.out_of_memory;
    match result {
        Ok(status) => {
            outcome.status = status;
            if let (true, KILLED, Some(limit)) = (outcome.out_of_memory, status, state.memory) {
                complain(&format!("out of memory: the sandbox reached its limit of {limit} bytes (--memory)"));
            }
        }
        Err(Failed(status, message)) => {
            complain(&message);
            outcome.status = status;
            outcome.error = Some(message);
        }
    }
    engine.record.end(&outcome);
    if let Some(file) = report_file {
        report::write(file, &state, &outcome);
    }
    outcome.status
}

/// The engine, and what it has told.
struct Engine {
    control: OwnedFd,
    stderr: Option<OwnedFd>,
    pid: Pid,
    /// When it started.
    since: Option<u64>,
    name: String,
    cleanup: Vec<String>,
    signals: Signals,
    buffer: Vec<u8>,
    next_identifier: u64,
    last_words: Vec<u8>,
    events: Events,
    record: Record,
    out_of_memory: bool,
    /// How the engine's process ended, once it has been waited for.
    ended: Option<Ended>,
    exits: Vec<Map<String, Value>>,
    raw: Option<RawTerminal>,
}

impl Engine {
    fn take(state: &State) -> Result<Engine, String> {
        let tell = |error: skerry_platform::HostError| error.to_string();
        let taken = [&TO_PROCESS[..], &TO_GROUP[..]].concat();
        Ok(Engine {
            signals: Signals::take(&taken, &[libc::SIGTTOU]).map_err(tell)?,
            control: take_descriptor(state.control).map_err(tell)?,
            stderr: Some(take_descriptor(state.engine_stderr).map_err(tell)?),
            pid: Pid::from_raw(state.engine_pid).ok_or("the engine has no process")?,
            since: skerry_agent::reach::start_of(state.engine_pid),
            name: state.engine_program.clone(),
            cleanup: state.engine_cleanup.clone(),
            buffer: base64::decode(&state.unread).unwrap_or_default(),
            next_identifier: state.spawn.get("id").and_then(Value::as_u64).unwrap_or(0) + 1,
            last_words: Vec::new(),
            events: Events(None),
            record: Record { file: None, room: 0 },
            out_of_memory: false,
            ended: None,
            exits: Vec::new(),
            raw: None,
        })
    }

    /// Starts the command and waits for its end.
    fn run(&mut self, state: &State, outcome: &mut Outcome) -> Result<u8, Failed> {
        if state.raw_terminal {
            self.raw = Some(RawTerminal::start().map_err(|error| Failed(FAILURE, error))?);
        }
        for event in &state.events {
            self.note(state, event.clone());
        }
        self.send(&state.spawn, &state.descriptors)?;
        let process = self.started(state)?;
        // From here on there is little to do until the end.
        skerry_platform::own::return_code();
        let mut deadline = state.timeout_ns.and_then(|time| Instant::now().checked_add(Duration::from_nanos(time)));
        let mut escalation = [libc::SIGTERM, libc::SIGKILL].into_iter();
        loop {
            // First what came together with the reply: it may be the command's end.
            self.take_messages(state)?;
            if let Some(place) = self.exits.iter().position(|event| number(event, "process") == Some(process)) {
                let exited = self.exits.swap_remove(place);
                let status = match (number(&exited, "status"), number(&exited, "signal")) {
                    (Some(status), None) => status as u8,
                    (None, Some(signal)) => 128 + signal as u8,
                    _ => {
                        return Err(Failed(FAILURE, "an 'exited' event gives neither or both of 'status' and 'signal'".into()))
                    }
                };
                outcome.exited = Some(exited);
                return Ok(if outcome.timed_out { TIMEOUT } else { status });
            }
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left == Some(Duration::ZERO) {
                outcome.timed_out = true;
                // It outlives SIGKILL: the sandbox ends with us.
                let Some(stronger) = escalation.next() else { return Ok(TIMEOUT) };
                self.request("signal", json!({"process": process, "signal": stronger, "target": "all"}))?;
                deadline = Some(Instant::now() + GRACE);
                continue;
            }
            if self.wait(left, true)? {
                while let Some(signal) = self.signals.next() {
                    self.pass_on(state, process, signal)?;
                }
            }
        }
    }

    /// Waits for the reply to `spawn`; the command may run, and end, before it is here. Signals wait meanwhile.
    fn started(&mut self, state: &State) -> Result<u64, Failed> {
        let identifier = state.spawn.get("id").cloned().unwrap_or_default();
        loop {
            while let Some(mut message) = self.next_message()? {
                if message.get("event").is_some() {
                    self.note(state, message);
                } else if message.get("id") == Some(&identifier) {
                    if let Some(process) = message.get("ok").and_then(Value::as_object).and_then(|ok| number(ok, "process")) {
                        return Ok(process);
                    }
                    return Err(refused(message.remove("error").unwrap_or_default(), &state.spawn));
                }
            }
            self.wait(None, false)?;
        }
    }

    fn take_messages(&mut self, state: &State) -> Result<(), Failed> {
        while let Some(message) = self.next_message()? {
            if message.get("event").is_some() {
                self.note(state, message);
            }
        }
        Ok(())
    }

    fn next_message(&mut self) -> Result<Option<Map<String, Value>>, Failed> {
        frame::take(&mut self.buffer).map_err(|error| Failed(FAILURE, error.to_string()))
    }

    fn note(&mut self, state: &State, event: Map<String, Value>) {
        let kind = event.get("event").and_then(Value::as_str);
        match kind {
            Some("out_of_memory") => self.out_of_memory = true,
            Some("trace") if state.trace => report::trace(&event, self.raw.is_some()),
            _ => {}
        }
        self.events.write(&event);
        self.record.write(&event);
        if kind == Some("exited") {
            self.exits.push(event);
        }
    }

    /// Waits until there is something to do, and reads what the engine says. True: signals have come.
    fn wait(&mut self, left: Option<Duration>, with_signals: bool) -> Result<bool, Failed> {
        let timeout =
            left.map(|left| rustix::time::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() });
        let (control, stderr, signals) = {
            let mut watched = vec![PollFd::new(&self.control, PollFlags::IN)];
            if with_signals {
                watched.push(PollFd::new(self.signals.descriptor(), PollFlags::IN));
            }
            if let Some(stderr) = &self.stderr {
                watched.push(PollFd::new(stderr, PollFlags::IN));
            }
            let _ = poll(&mut watched, timeout.as_ref());
            let ready = |place: usize| watched.get(place).is_some_and(|one| !one.revents().is_empty());
            let behind = 1 + usize::from(with_signals);
            (ready(0), ready(behind), with_signals && ready(1))
        };
        if stderr {
            self.read_stderr();
        }
        if control {
            let start = self.buffer.len();
            self.buffer.resize(start + (64 << 10), 0);
            let count = rustix::io::retry_on_intr(|| rustix::io::read(&self.control, &mut self.buffer[start..])).unwrap_or(0);
            self.buffer.truncate(start + count);
            if count == 0 {
                return Err(Failed(FAILURE, self.describe_end()));
            }
        }
        Ok(signals)
    }

    fn pass_on(&mut self, state: &State, process: u64, signal: i32) -> Result<(), Failed> {
        if signal == libc::SIGWINCH && state.on_terminal {
            let (columns, rows) = terminal::window_size();
            return self.request("resize", json!({"process": process, "columns": columns, "rows": rows}));
        }
        let target = if TO_GROUP.contains(&signal) { "group" } else { "process" };
        self.request("signal", json!({"process": process, "signal": signal, "target": target}))?;
        if signal == libc::SIGTSTP && self.raw.is_none() {
            // The caller's shell waits for us to stop too; its SIGCONT comes in as a signal to pass on.
            let _ = kill_process(rustix::process::getpid(), Signal::STOP);
        }
        Ok(())
    }

    /// A request whose reply nobody waits for.
    fn request(&mut self, method: &str, parameters: Value) -> Result<(), Failed> {
        let identifier = self.next_identifier;
        self.next_identifier += 1;
        self.send(&json!({"id": identifier, "method": method, "params": parameters}), &[])
    }

    fn send(&mut self, message: &Value, descriptors: &[i32]) -> Result<(), Failed> {
        let bytes = frame::encode(message).map_err(|error| Failed(USAGE, format!("the command line is too long: {error}")))?;
        if skerry_platform::own::send(&self.control, &bytes, descriptors).is_ok() {
            return Ok(());
        }
        // The other side went away; what it said last tells more.
        Err(Failed(FAILURE, self.describe_end()))
    }

    /// Takes what there is of the engine's standard error.
    fn read_stderr(&mut self) {
        let Some(stderr) = &self.stderr else { return };
        let mut bytes = [0u8; 4096];
        match rustix::io::read(stderr.as_fd(), &mut bytes) {
            Ok(count) if count > 0 => {
                self.last_words.extend_from_slice(&bytes[..count]);
                let excess = self.last_words.len().saturating_sub(STDERR_KEPT);
                self.last_words.drain(..excess);
            }
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
            _ => self.stderr = None,
        }
    }

    fn describe_end(&mut self) -> String {
        self.ended = wait_for_child(self.pid, Duration::from_secs(2));
        while let Some(stderr) = &self.stderr {
            let now = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut [PollFd::new(stderr, PollFlags::IN)], Some(&now)) != Ok(1) {
                break;
            }
            self.read_stderr();
        }
        let how = match self.ended {
            None => "closed its control socket and did not end".to_owned(),
            Some(Ended::Signal(signal)) => format!("was killed by {}", report::signal_name(signal)),
            Some(Ended::Status(status)) => format!("ended with status {status}"),
        };
        let text = String::from_utf8_lossy(&self.last_words);
        let said = if text.trim().is_empty() { String::new() } else { format!("; it said:\n{}", text.trim()) };
        let name = &self.name;
        format!("{name} {how}, and every process of the sandbox ended with it; start a new sandbox{said}")
    }

    /// Ends the sandbox; nothing of it is left.
    fn end(&mut self) {
        let _ = rustix::net::shutdown(&self.control, rustix::net::Shutdown::Both);
        if self.ended.is_none() {
            self.ended = wait_for_child(self.pid, END_GRACE);
        }
        if self.ended.is_none() {
            let _ = kill_process(self.pid, Signal::KILL);
            self.ended = wait_for_child(self.pid, END_GRACE);
        }
        if let Some(Ended::Signal(_)) = self.ended {
            self.clean_up();
        }
        if let Some(raw) = &mut self.raw {
            raw.restore();
        }
    }

    /// An engine that was killed could not do it itself.
    fn clean_up(&mut self) {
        if let Some(since) = self.since {
            skerry_agent::reach::end_orphans(since);
        }
        let Some((program, arguments)) = self.cleanup.split_first() else { return };
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // The end of its standard error: all that shared it are dead.
        let patience = rustix::time::Timespec { tv_sec: END_GRACE.as_secs() as i64, tv_nsec: 0 };
        while let Some(stderr) = &self.stderr {
            if poll(&mut [PollFd::new(stderr, PollFlags::IN)], Some(&patience)) != Ok(1) {
                break;
            }
            self.read_stderr();
        }
        let _ = command.status();
    }
}

fn number(message: &Map<String, Value>, name: &str) -> Option<u64> {
    message.get(name).and_then(Value::as_u64)
}

/// Why the engine started no command.
fn refused(error: Value, spawn: &Value) -> Failed {
    let Ok(failure) = serde_json::from_value::<Failure>(error) else {
        return Failed(FAILURE, "the reply to 'spawn' has neither 'ok' nor 'error'".into());
    };
    let message = failure.message;
    match failure.kind {
        FailureKind::NotFound => Failed(NOT_FOUND, message),
        FailureKind::NotExecutable => Failed(NOT_EXECUTABLE, message),
        FailureKind::Invalid => {
            let directory = spawn.pointer("/params/directory").and_then(Value::as_str);
            let of_directory = directory.is_some_and(|directory| message.contains(directory));
            Failed(USAGE, if of_directory { format!("--cwd: {message}") } else { message })
        }
        FailureKind::Internal => Failed(FAILURE, format!("{message}; this is a fault of Skerry's own: please report it")),
        _ => Failed(FAILURE, message),
    }
}
