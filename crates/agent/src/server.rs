//! The control protocol's server: one loop on one thread. It waits for requests, for deaths, for terminals and for file
//! operations (each a fork that writes its answer into a pipe); every request is answered once, events come as they come.

use crate::calls::{name_of, ATTRIBUTES, ON_A_PROCESS, ON_SOME_PROCESSES};
use crate::failure;
use crate::files;
use crate::guest::{Engine, Guest};
use crate::machine;
use crate::rules::{attributes, reach, signals, sockets};
use crate::spawn::{self, Started, Streams, Surroundings};
use crate::terminal::Terminal;
use crate::watch::{self, Told};
use rustix::event::{poll, PollFd, PollFlags, Timespec};
use rustix::thread::CapabilitySet;
use serde_json::{json, Value};
use skerry_confine::cgroup::{ControlGroups, Controller, MemoryEvents, ProcessEvents};
use skerry_confine::connection::{Connection, Sender};
use skerry_control::{
    Action, Booted, Bytes, Call, Event, Failure, FailureKind, FileCall, Limits, ProcessState, SignalTarget, Spawn, Spawned,
    Stdio, Update, Usage,
};
use skerry_platform::agent::{fork, kill, leave, reap, Dead};
use skerry_platform::foreground::Signals;
use skerry_platform::listener::{Listener, Notification};
use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

/// How long a terminal's output may take to the caller after the program's end.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);
/// Denials that are told in a second: a program that makes nothing else must not fill whoever reads.
const MOST_TOLD: u32 = 500;
/// File operations under way.
const MOST_FILE_OPERATIONS: usize = 8;

/// A guest that is ready, and what is known of it.
pub struct Sandbox {
    pub booted: Booted,
    pub guest: Guest,
    pub process_limit: Option<u64>,
    pub memory: Option<MemoryEvents>,
    pub memory_limit: Option<u64>,
    pub processes: Option<ProcessEvents>,
    pub pids_limit: Option<u32>,
    pub groups: ControlGroups,
}

struct Program {
    arguments: Vec<Bytes>,
    started: Instant,
    terminal: Option<Terminal>,
    /// It has ended; told when its terminal's output is with the caller, or at this time.
    end: Option<(Dead, Instant)>,
}

/// A file operation under way: whose answer comes through `pipe`.
struct Job {
    request: u64,
    pipe: OwnedFd,
    answer: Vec<u8>,
}

struct Server {
    sandbox: Sandbox,
    sender: Sender,
    started: Instant,
    programs: BTreeMap<u32, Program>,
    jobs: Vec<Job>,
    waiting: VecDeque<(u64, FileCall)>,
    /// Kills for want of memory that have been told.
    kills: u64,
    /// Processes that were refused, as far as that has been told, and when it may be told again.
    refused: (u64, Instant),
    /// Of programs and what comes from them.
    listeners: Vec<Listener>,
    /// Denials that may still be told until that time.
    tellable: (u32, Instant),
    /// What has been observed.
    told: Told,
}

/// Serves until the other end closes or says `shutdown`; then nothing of the guest's is left.
pub fn serve(mut connection: Connection, sandbox: Sandbox) -> Result<(), Box<dyn std::error::Error>> {
    let signals = Signals::take(&[libc::SIGCHLD], &[])?;
    let mut server = Server {
        sandbox,
        sender: connection.sender(),
        started: Instant::now(),
        programs: BTreeMap::new(),
        jobs: Vec::new(),
        waiting: VecDeque::new(),
        kills: 0,
        refused: (0, Instant::now()),
        listeners: Vec::new(),
        tellable: (0, Instant::now()),
        told: Told::default(),
    };
    let result = server.run(&mut connection, &signals);
    server.end_all();
    if let Ok(Some(request)) = result {
        server.sender.reply(request, Ok(json!({})));
    }
    Ok(())
}

fn no_process(process: u32) -> Failure {
    failure(FailureKind::NoProcess, format!("there is no process {process} that was started from outside and still lives"))
}

/// What is polled beside the socket and the deaths.
enum Source {
    Input(u32),
    Master(u32),
    Output(u32),
    Job(usize),
    Listener(usize),
    Processes,
}

impl Server {
    /// The request to end, if that is why.
    fn run(&mut self, connection: &mut Connection, signals: &Signals) -> Result<Option<u64>, Box<dyn std::error::Error>> {
        loop {
            while let Some((request, descriptors)) = connection.next_buffered()? {
                match request.call {
                    Call::Shutdown => return Ok(Some(request.id)),
                    Call::File(call) => self.waiting.push_back((request.id, call)),
                    call => {
                        let outcome = self.answer(call, descriptors);
                        self.sender.reply(request.id, outcome);
                    }
                }
            }
            self.start_jobs();
            self.tell_refusals();
            self.tell_ends();
            let (control, deaths, ready) = self.wait(connection, signals);
            for (source, flags) in ready {
                self.serve_source(source, flags);
            }
            self.finish_jobs();
            self.listeners.retain(|listener| !listener.is_hung_up());
            if deaths {
                while signals.next().is_some() {}
                self.take_deaths();
            }
            if control && !connection.read()? {
                return Ok(None);
            }
        }
    }

    fn wait(&self, connection: &Connection, signals: &Signals) -> (bool, bool, Vec<(Source, PollFlags)>) {
        let mut sources = Vec::new();
        let mut polled =
            vec![PollFd::new(connection.socket(), PollFlags::IN), PollFd::new(signals.descriptor(), PollFlags::IN)];
        for (process, program) in &self.programs {
            let Some(terminal) = &program.terminal else { continue };
            let (input, (master, reads, writes), output) = terminal.wishes();
            if let Some(input) = input {
                sources.push(Source::Input(*process));
                polled.push(PollFd::new(input, PollFlags::IN));
            }
            if reads || writes {
                let mut flags = PollFlags::empty();
                flags.set(PollFlags::IN, reads);
                flags.set(PollFlags::OUT, writes);
                sources.push(Source::Master(*process));
                polled.push(PollFd::new(master, flags));
            }
            if let Some(output) = output {
                sources.push(Source::Output(*process));
                polled.push(PollFd::new(output, PollFlags::OUT));
            }
        }
        for (index, job) in self.jobs.iter().enumerate() {
            sources.push(Source::Job(index));
            polled.push(PollFd::new(&job.pipe, PollFlags::IN));
        }
        for (index, listener) in self.listeners.iter().enumerate() {
            sources.push(Source::Listener(index));
            polled.push(PollFd::new(listener.descriptor(), PollFlags::IN));
        }
        if let Some(processes) = &self.sandbox.processes {
            sources.push(Source::Processes);
            polled.push(PollFd::new(processes.descriptor(), PollFlags::PRI));
        }
        let deadline = self.programs.values().filter_map(|program| program.end.as_ref().map(|(_, deadline)| *deadline)).min();
        let timeout = deadline.map(|deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() }
        });
        let _ = poll(&mut polled, timeout.as_ref());
        let is_ready = |place: usize| polled.get(place).is_some_and(|one| !one.revents().is_empty());
        let (control, deaths) = (is_ready(0), is_ready(1));
        let flags: Vec<PollFlags> = polled.iter().skip(2).map(PollFd::revents).collect();
        let ready = sources.into_iter().zip(flags).filter(|(_, flags)| !flags.is_empty()).collect();
        (control, deaths, ready)
    }

    fn serve_source(&mut self, source: Source, flags: PollFlags) {
        match source {
            Source::Input(process) => self.with_terminal(process, Terminal::take_input),
            Source::Output(process) => self.with_terminal(process, Terminal::give_output),
            Source::Master(process) => {
                if flags.contains(PollFlags::OUT) {
                    self.with_terminal(process, Terminal::give_keys);
                }
                if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
                    self.with_terminal(process, Terminal::take_output);
                }
            }
            Source::Listener(index) => self.serve_denial(index),
            Source::Processes => self.tell_refusals(),
            Source::Job(index) => {
                let Some(job) = self.jobs.get_mut(index) else { return };
                let mut bytes = [0; 1 << 16];
                match rustix::io::retry_on_intr(|| rustix::io::read(&job.pipe, &mut bytes)) {
                    Ok(count) if count > 0 => job.answer.extend_from_slice(&bytes[..count]),
                    _ => {
                        // Its end: taken out by `finish_jobs`.
                        let answer = std::mem::take(&mut job.answer);
                        let outcome = serde_json::from_slice::<Result<Value, Failure>>(&answer).unwrap_or_else(|_| {
                            Err(failure(FailureKind::Internal, "the process that was to serve it was killed"))
                        });
                        self.sender.reply(job.request, outcome);
                        job.request = u64::MAX;
                    }
                }
            }
        }
    }

    /// A program has made a call that is denied, told or looked at.
    fn serve_denial(&mut self, index: usize) {
        let guest = &self.sandbox.guest;
        let Some(listener) = self.listeners.get(index) else { return };
        let Ok(Some(asked)) = listener.receive_now() else { return };
        let number = i64::from(asked.number);
        let decided = u32::try_from(asked.number)
            .map_or(Action::Errno(libc::ENOSYS as u16), |number| guest.filter.decide(number, &asked.arguments));
        let denied = |errno: i32| Action::Errno(errno as u16);
        let mut seen = Vec::new();
        let (answer, told, path) = match decided {
            Action::Allow => {
                seen = guest.watch.as_ref().map_or_else(Vec::new, |watch| watch::look(&asked, listener, guest, watch));
                (None, None, None)
            }
            Action::Log => (None, Some(Action::Log), None),
            Action::Errno(errno) => (Some(-i64::from(errno)), Some(decided), None),
            Action::Kill => {
                let process = reach::process_of(asked.tid).unwrap_or(asked.tid);
                let _ = kill(process, libc::SIGKILL);
                (Some(i64::from(-libc::EPERM)), Some(Action::Kill), None)
            }
            Action::Notify if ATTRIBUTES.contains(&number) || number == libc::SYS_truncate => {
                let outcome = attributes::serve(&asked, guest.restriction.as_ref(), || listener.is_valid(asked.id));
                let errno = outcome.result.err().map_or(0, |error| error.raw_os_error());
                let path = outcome.path.map(|path| Bytes(path.into_os_string().into_vec()));
                (Some(i64::from(-errno)), outcome.denied.then(|| denied(errno)), path)
            }
            Action::Notify if signals::CALLS.contains(&number) => {
                match signals::serve(&asked, || listener.is_valid(asked.id)) {
                    signals::Outcome::LetGoOn => (None, None, None),
                    signals::Outcome::Done(result) => {
                        (Some(result.err().map_or(0, |error| -i64::from(error.raw_os_error()))), None, None)
                    }
                    signals::Outcome::Denied => (Some(i64::from(-libc::EPERM)), Some(denied(libc::EPERM)), None),
                }
            }
            Action::Notify if sockets::CALLS.contains(&number) => {
                let network = guest.network.as_ref();
                match network.map(|network| sockets::serve(&asked, listener, network, guest.restriction.as_ref())) {
                    None => (Some(i64::from(-libc::EPERM)), Some(denied(libc::EPERM)), None),
                    Some(sockets::Outcome::UnderWay) => return,
                    Some(sockets::Outcome::Done(result)) => {
                        (Some(result.err().map_or(0, |error| -i64::from(error.raw_os_error()))), None, None)
                    }
                    Some(sockets::Outcome::Denied(error, address)) => {
                        let errno = error.raw_os_error();
                        (Some(i64::from(-errno)), Some(denied(errno)), Some(Bytes(address.to_string().into_bytes())))
                    }
                }
            }
            Action::Notify => {
                let which = ON_SOME_PROCESSES.iter().any(|(call, _)| *call == number);
                let about = which || ON_A_PROCESS.contains(&number);
                let process = asked.arguments[usize::from(which)] as i32;
                if about && reach::is_inside(guest.everybody, process) {
                    (None, None, None)
                } else {
                    (Some(i64::from(-libc::EPERM)), Some(denied(libc::EPERM)), None)
                }
            }
        };
        if let Some(action) = told {
            self.tell_denial(&asked, action, path);
        }
        for report in seen {
            if self.told.is_new(&report) {
                self.sender.event(&Event::Observed(report));
            }
        }
        let Some(listener) = self.listeners.get(index) else { return };
        match answer {
            None => listener.let_go_on(asked.id),
            Some(value) => listener.answer(asked.id, value),
        };
    }

    fn tell_denial(&mut self, asked: &Notification, action: Action, path: Option<Bytes>) {
        let now = Instant::now();
        if now >= self.tellable.1 {
            self.tellable = (MOST_TOLD, now + Duration::from_secs(1));
        }
        if self.tellable.0 == 0 {
            return;
        }
        self.tellable.0 -= 1;
        self.sender.event(&Event::Call {
            process: reach::process_of(asked.tid).unwrap_or(asked.tid) as u32,
            name: name_of(asked.number),
            number: asked.number,
            arguments: asked.arguments,
            action,
            path,
        });
    }

    fn with_terminal(&mut self, process: u32, act: impl FnOnce(&mut Terminal)) {
        if let Some(terminal) = self.programs.get_mut(&process).and_then(|program| program.terminal.as_mut()) {
            act(terminal);
        }
    }

    fn answer(&mut self, call: Call, descriptors: Vec<OwnedFd>) -> Result<Value, Failure> {
        match call {
            Call::Boot(_) => Err(failure(FailureKind::Invalid, "the sandbox has been made already")),
            Call::Spawn(spawn) => self.spawn(&spawn, descriptors),
            Call::Signal { process, signal, target } => self.signal(process, signal, target),
            Call::Resize { process, columns, rows } => {
                let program = self.programs.get(&process).ok_or_else(|| no_process(process))?;
                let terminal = program.terminal.as_ref().ok_or_else(|| {
                    failure(FailureKind::Invalid, format!("process {process} was started without a terminal"))
                })?;
                terminal.resize(columns, rows);
                Ok(json!({}))
            }
            Call::Processes => {
                let state = |(process, program): (&u32, &Program)| ProcessState {
                    process: *process,
                    arguments: program.arguments.clone(),
                };
                let living = self.programs.iter().filter(|(_, program)| program.end.is_none());
                Ok(json!({ "processes": living.map(state).collect::<Vec<_>>() }))
            }
            Call::Usage => Ok(json!(self.usage())),
            Call::Info => Ok(json!(self.sandbox.booted)),
            Call::Update(wanted) => self.update(&wanted),
            Call::File(_) | Call::Shutdown => Ok(json!({})),
        }
    }

    /// Limits are what the groups hold; a machine that grows for them has grown already, and is waited for.
    fn update(&mut self, wanted: &Update) -> Result<Value, Failure> {
        if let Some(growth) = &wanted.machine {
            let cpus = machine::grown(growth).map_err(|why| failure(FailureKind::Unenforceable, why))?;
            self.sandbox.booted.machine.insert("cpus".into(), cpus);
        }
        let limits = Limits { memory: wanted.memory, cpus: wanted.cpus, ..Limits::default() };
        let groups = &self.sandbox.groups;
        let change = |name: &str, controller: Controller, limits: &Limits| {
            let told = |why| failure(FailureKind::Unenforceable, format!("the limit {name} cannot be changed here: {why}"));
            groups.change(controller, limits).map_err(told)
        };
        if wanted.memory.is_some() {
            change("memory", Controller::Memory, &limits)?;
        }
        if wanted.cpus.is_some() {
            change("cpus", Controller::Cpu, &limits).inspect_err(|_| {
                // Both or none.
                let before = Limits { memory: self.sandbox.memory_limit, ..Limits::default() };
                let _ = wanted.memory.map(|_| change("memory", Controller::Memory, &before));
            })?;
        }
        self.sandbox.memory_limit = wanted.memory.or(self.sandbox.memory_limit);
        Ok(json!(self.sandbox.booted))
    }

    fn spawn(&mut self, spawn: &Spawn, descriptors: Vec<OwnedFd>) -> Result<Value, Failure> {
        let (streams, terminal) = self.streams(&spawn.stdio, descriptors)?;
        let around = Surroundings {
            guest: &self.sandbox.guest,
            kept: self.sandbox.guest.kept,
            kept_by_others: CapabilitySet::empty(),
            restriction: self.sandbox.guest.restriction.as_ref(),
            process_limit: self.sandbox.process_limit,
            listens: true,
            fixed_addresses: false,
            dies_first: self.sandbox.groups.version_of(Controller::Memory).is_some(),
        };
        let Started { pid, listener } = spawn::start(spawn, streams, &around)?;
        self.listeners.extend(listener);
        let process = pid as u32;
        let program = Program { arguments: spawn.arguments.clone(), started: Instant::now(), terminal, end: None };
        self.programs.insert(process, program);
        Ok(json!(Spawned { process }))
    }

    fn streams(&mut self, wanted: &Stdio, descriptors: Vec<OwnedFd>) -> Result<(Streams, Option<Terminal>), Failure> {
        let internal = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, error);
        let copy = |descriptor: &OwnedFd| descriptor.try_clone().map_err(|error| internal(&error));
        let take = |index: usize| {
            let found = descriptors.get(index);
            found
                .ok_or_else(|| failure(FailureKind::Invalid, format!("descriptor {index} did not come with the request")))
                .and_then(copy)
        };
        match wanted {
            Stdio::Descriptors(indices) => {
                let one = |index: Option<usize>| index.map_or_else(spawn::null, take);
                let descriptors = [one(indices[0])?, one(indices[1])?, one(indices[2])?];
                Ok((Streams { descriptors, terminal: false, further: Vec::new() }, None))
            }
            Stdio::Terminal { input, output, error, columns, rows } => {
                let (terminal, peer) =
                    Terminal::open(&self.sandbox.guest.terminals, take(*input)?, take(*output)?, *columns, *rows)
                        .map_err(|error| failure(FailureKind::Internal, format!("a terminal cannot be made: {error}")))?;
                if let Some(restriction) = &mut self.sandbox.guest.restriction {
                    restriction.grant_terminal(&peer)?;
                }
                let error = match error {
                    Some(index) => take(*index)?,
                    None => copy(&peer)?,
                };
                let descriptors = [copy(&peer)?, peer, error];
                Ok((Streams { descriptors, terminal: true, further: Vec::new() }, Some(terminal)))
            }
        }
    }

    fn signal(&self, process: u32, number: i32, target: SignalTarget) -> Result<Value, Failure> {
        if !(1..=64).contains(&number) {
            return Err(failure(FailureKind::Invalid, format!("{number} is not a signal (1-64)")));
        }
        if target == SignalTarget::All {
            reach::signal_all(self.sandbox.guest.everybody, number); // nobody is there: nobody is to be told
            return Ok(json!({}));
        }
        // One that is not reaped yet keeps its number; one that is told of no longer is none of ours.
        let program = self.programs.get(&process).filter(|program| program.end.is_none());
        let pid = program.and_then(|_| i32::try_from(process).ok()).ok_or_else(|| no_process(process))?;
        let _ = kill(if target == SignalTarget::Group { -pid } else { pid }, number);
        Ok(json!({}))
    }

    fn usage(&self) -> Usage {
        let stage = self.sandbox.guest.stage.as_ref().and_then(|stage| rustix::fs::fstatfs(stage).ok());
        let memory_files =
            stage.map_or(0, |state| state.f_blocks.saturating_sub(state.f_bfree).saturating_mul(state.f_bsize as u64));
        Usage {
            wall_ns: self.started.elapsed().as_nanos() as u64,
            pids: self.tasks(),
            memory_files,
            peak_memory: self.sandbox.memory.as_ref().map_or(0, MemoryEvents::peak),
            ..Usage::default()
        }
    }

    /// Reaps whatever has died: programs of ours, and orphans.
    fn take_deaths(&mut self) {
        while let Some(dead) = reap() {
            let process = dead.pid as u32;
            if dead.end.is_err() {
                self.tell_kills(process);
            }
            if let Some(program) = self.programs.get_mut(&process).filter(|program| program.end.is_none()) {
                program.end = Some((dead, Instant::now() + OUTPUT_PATIENCE));
            }
        }
    }

    /// The host has killed for want of memory: told once for each.
    fn tell_kills(&mut self, process: u32) {
        let (Some(memory), Some(limit)) = (&self.sandbox.memory, self.sandbox.memory_limit) else { return };
        let kills = memory.kills();
        if kills > self.kills {
            self.kills = kills;
            self.sender.event(&Event::OutOfMemory { process, limit });
        }
    }

    /// The limit of processes kept some from being made: once a second at the most. Version one of cgroups wakes nobody for
    /// it: there it is told when something else happens, at the latest an end.
    fn tell_refusals(&mut self) {
        let (Some(processes), Some(limit)) = (&self.sandbox.processes, self.sandbox.pids_limit) else { return };
        let (count, now) = (processes.refusals(), Instant::now());
        if count > self.refused.0 && now >= self.refused.1 {
            self.refused = (count, now + Duration::from_secs(1));
            self.sender.event(&Event::PidsLimit { limit });
        }
    }

    /// Tells of ends as they come: a terminal's output is with the caller first.
    fn tell_ends(&mut self) {
        let now = Instant::now();
        let mut told = Vec::new();
        for (process, program) in &mut self.programs {
            let Some((_, deadline)) = &program.end else { continue };
            let mut shown = |terminal: &mut Terminal| terminal.is_drained() || terminal.nothing_more_now();
            if *deadline <= now || program.terminal.as_mut().is_none_or(&mut shown) {
                told.push(*process);
            }
        }
        for process in told {
            let Some(program) = self.programs.remove(&process) else { continue };
            let Some((dead, _)) = program.end else { continue };
            let usage = Usage {
                user_ns: dead.user.as_nanos() as u64,
                system_ns: dead.system.as_nanos() as u64,
                wall_ns: program.started.elapsed().as_nanos() as u64,
                peak_memory: self.sandbox.memory.as_ref().map_or(0, MemoryEvents::peak).max(dead.peak_resident_bytes),
                ..Usage::default()
            };
            let (status, signal, core_dumped) = match dead.end {
                Ok(status) => (Some(status), None, false),
                Err((signal, core)) => (None, Some(signal), core),
            };
            self.sender.event(&Event::Exited { process, status, signal, core_dumped, usage });
        }
    }

    fn start_jobs(&mut self) {
        while self.jobs.len() < MOST_FILE_OPERATIONS {
            let Some((request, call)) = self.waiting.pop_front() else { return };
            let guest = &self.sandbox.guest;
            let made = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|error| failure(FailureKind::Internal, error));
            let made = made.and_then(|(pipe, tell)| match fork() {
                Err(error) => Err(failure(FailureKind::Internal, format!("no process can serve it: {error}"))),
                Ok(Some(_)) => Ok(pipe),
                Ok(None) => {
                    skerry_platform::agent::die_with_parent();
                    let answer = confined(guest).and_then(|()| files::answer(call));
                    let bytes = serde_json::to_vec(&answer).unwrap_or_default();
                    let _ = std::io::Write::write_all(&mut std::fs::File::from(tell), &bytes);
                    leave(0)
                }
            });
            match made {
                Ok(pipe) => self.jobs.push(Job { request, pipe, answer: Vec::new() }),
                Err(failure) => self.sender.reply(request, Err(failure)),
            }
        }
    }

    fn finish_jobs(&mut self) {
        self.jobs.retain(|job| job.request != u64::MAX);
    }

    /// Ends every process and waits until they are gone.
    fn end_all(&self) {
        reach::end_all(self.sandbox.guest.everybody);
    }

    /// Processes of the guest.
    fn tasks(&self) -> u32 {
        match self.sandbox.guest.engine {
            Engine::Namespace | Engine::Guest => processes().saturating_sub(1),
            Engine::Rules => reach::below().len() as u32,
        }
    }
}

/// What programs cannot do to files, file operations cannot do where there is no tree of the guest's own.
fn confined(guest: &Guest) -> Result<(), Failure> {
    if guest.engine != Engine::Rules {
        return Ok(());
    }
    let internal = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, error);
    if let Some(restriction) = &guest.restriction {
        restriction.enter().map_err(|error| internal(&error))?;
    }
    spawn::drop_capabilities(guest.kept).map_err(|error| internal(&error))
}

/// All that /proc shows.
fn processes() -> u32 {
    let is_process = |name: &std::ffi::OsStr| name.as_encoded_bytes().iter().all(u8::is_ascii_digit);
    std::fs::read_dir("/proc")
        .map_or(1, |entries| entries.flatten().filter(|entry| is_process(&entry.file_name())).count() as u32)
}
