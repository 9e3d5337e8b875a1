//! The control protocol's server: each request is answered once, in order but for file operations; events as they come.

use crate::boot::{boot, failure, Sandbox};
use crate::confine::namespaces::{self, Role, Wishes};
use crate::file_workers::FileWorkers;
use crate::limits::MemoryUse;
use parking_lot::Mutex;
use serde_json::{json, Value};
use skerry_abi::signal::{Signal, SignalInfo, SI_USER};
use skerry_confine::cgroup::{ControlGroups, Needs};
use skerry_confine::connection::{Connection, Sender};
use skerry_control::{Call, Event, Failure, FailureKind, Layer, ProcessState, SignalTarget, Spawn, Spawned, Stdio, Usage};
use skerry_kernel::fs::file::OpenFile;
use skerry_kernel::fs::host_file::HostFile;
use skerry_kernel::run::{self, SpawnError};
use skerry_kernel::sync::Wake;
use skerry_kernel::task::{self, Credentials, ExitStatus, Process};
use skerry_kernel::tty::Console;
use skerry_kernel::Kernel;
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// How long processes have to die at shutdown before the sentry goes anyway (the host then kills what is left).
const SHUTDOWN_PATIENCE: Duration = Duration::from_secs(3);

/// Host tasks beside the guest's own: the zygote, the pool, processes on their way out after an exec.
const SPARE_TASKS: u64 = 256;

/// A program's standard streams, and the terminal behind them if they are one of ours.
type Streams = ([Arc<OpenFile>; 3], Option<Arc<Console>>);

struct Server {
    sandbox: Sandbox,
    ended: std::sync::mpsc::Sender<Arc<Process>>,
    started: Instant,
    /// Programs started by `spawn` that still live.
    spawned: Arc<Mutex<BTreeMap<u32, Program>>>,
}

struct Program {
    process: Arc<Process>,
    arguments: Vec<skerry_control::Bytes>,
    started: Instant,
    console: Option<Arc<Console>>,
}

/// How long a terminal's output may take to the caller after the program's end.
const OUTPUT_PATIENCE: Duration = Duration::from_secs(5);

/// Serves until the other end closes or says `shutdown`.
pub fn serve(mut connection: Connection) -> Result<ExitCode, Box<dyn std::error::Error>> {
    let Some((request, _)) = connection.receive()? else { return Ok(ExitCode::SUCCESS) };
    let Call::Boot(wanted) = request.call else {
        connection.sender().reply(request.id, Err(failure(FailureKind::Invalid, "the first request must be boot")));
        return Ok(ExitCode::SUCCESS);
    };
    let without = |wish: &str| wanted.without.iter().any(|name| name == wish);
    let needs = Needs { limits: &wanted.limits, spare_tasks: SPARE_TASKS };
    let groups = ControlGroups::make(&needs, wanted.require.contains(&Layer::Cgroup), without("cgroups"));
    let wishes = Wishes {
        groups_to_remove: groups.any(),
        without_user_namespace: without("user_namespace"),
        without_pid_namespace: without("pid_namespace"),
        namespace_required: wanted.require.iter().any(|layer| {
            use Layer::*;
            matches!(layer, UserNamespace | MountNamespace | PidNamespace | NetworkNamespace)
        }),
    };
    // Both sides of the fork have them; only one does the closing.
    let groups = std::cell::Cell::new(Some(groups));
    let end_groups = || groups.take().unwrap_or_default().end();
    let role = namespaces::enter(wishes, || connection.let_go(), end_groups).inspect_err(|_| end_groups())?;
    let (layers, host_pid) = match role {
        Role::Guardian(code) => return Ok(code),
        Role::Sentry(layers, host_pid) => (layers, host_pid),
    };
    let groups = groups.take().unwrap_or_default();
    let sender = connection.sender();
    let events = sender.clone();
    let sandbox = match boot(&wanted, layers, groups, host_pid, Box::new(move |event| events.event(&event))) {
        Ok(sandbox) => sandbox,
        Err(error) => {
            sender.reply(request.id, Err(error));
            return Ok(ExitCode::SUCCESS);
        }
    };
    sender.reply(request.id, Ok(serde_json::to_value(&sandbox.booted)?));
    let (ended, ends) = std::sync::mpsc::channel();
    let spawned: Arc<Mutex<BTreeMap<u32, Program>>> = Arc::default();
    let (teller, programs, memory, kernel) =
        (sender.clone(), spawned.clone(), sandbox.memory.clone(), Arc::downgrade(&sandbox.kernel));
    std::thread::Builder::new()
        .name("skerry-ends".into())
        .stack_size(128 << 10)
        .spawn(move || tell_ends(ends, teller, programs, memory, kernel))?;
    let files = FileWorkers::new(sandbox.kernel.clone(), sender.clone());
    let mut server = Server { sandbox, ended, started: Instant::now(), spawned };
    loop {
        let Ok(Some((request, descriptors))) = connection.receive() else { break };
        if matches!(request.call, Call::Shutdown) {
            server.end_all();
            sender.reply(request.id, Ok(json!({})));
            return Ok(ExitCode::SUCCESS);
        }
        match request.call {
            Call::File(call) => files.give(request.id, call),
            call => sender.reply(request.id, server.answer(call, descriptors)),
        }
    }
    server.end_all();
    Ok(ExitCode::SUCCESS)
}

fn no_process(process: u32) -> Failure {
    failure(FailureKind::NoProcess, format!("there is no process {process} that was started from outside and still lives"))
}

impl Server {
    fn answer(&mut self, call: Call, descriptors: Vec<OwnedFd>) -> Result<Value, Failure> {
        match call {
            Call::Boot(_) => Err(failure(FailureKind::Invalid, "the sandbox has been made already")),
            Call::Spawn(spawn) => self.spawn(spawn, descriptors),
            Call::Signal { process, signal, target } => self.signal(process, signal, target),
            Call::Resize { process, columns, rows } => self.resize(process, columns, rows),
            Call::Processes => {
                let states: Vec<ProcessState> = self
                    .spawned
                    .lock()
                    .iter()
                    .map(|(process, program)| ProcessState { process: *process, arguments: program.arguments.clone() })
                    .collect();
                Ok(json!({ "processes": states }))
            }
            Call::File(_) => Err(failure(FailureKind::Internal, "file operations have threads of their own")),
            Call::Usage => Ok(json!(self.usage())),
            Call::Update(_) => {
                Err(failure(FailureKind::Unenforceable, "the guest kernel's limits cannot be changed while it runs"))
            }
            Call::Info => Ok(json!(self.sandbox.booted)),
            Call::Shutdown => Ok(json!({})),
        }
    }

    fn spawn(&mut self, spawn: Spawn, descriptors: Vec<OwnedFd>) -> Result<Value, Failure> {
        let Some(name) = spawn.arguments.first().map(|name| String::from_utf8_lossy(&name.0).into_owned()) else {
            return Err(failure(FailureKind::Invalid, "no program was named"));
        };
        let all = spawn.arguments.iter().chain(&spawn.environment).chain([&spawn.directory]);
        if all.into_iter().any(|bytes| bytes.0.contains(&0)) {
            return Err(failure(FailureKind::Invalid, "a zero byte in an argument, the environment or the directory"));
        }
        let (stdio, console) = self.stdio(&spawn.stdio, descriptors)?;
        let directory = spawn.directory.0.clone();
        let request = run::Spawn {
            arguments: spawn.arguments.iter().map(|argument| argument.0.clone()).collect(),
            environment: spawn.environment.into_iter().map(|variable| variable.0).collect(),
            directory: spawn.directory.0,
            credentials: Credentials::new(spawn.uid, spawn.gid, spawn.groups),
            stdio,
        };
        let process = run::spawn(&self.sandbox.kernel, request).map_err(|error| spawn_failure(&name, &directory, error))?;
        let pid = process.pid() as u32;
        let program = Program { process: process.clone(), arguments: spawn.arguments, started: Instant::now(), console };
        self.spawned.lock().insert(pid, program);
        Watch::start(process, self.ended.clone());
        Ok(json!(Spawned { process: pid }))
    }

    fn stdio(&self, wanted: &Stdio, descriptors: Vec<OwnedFd>) -> Result<Streams, Failure> {
        let mut descriptors: Vec<Option<OwnedFd>> = descriptors.into_iter().map(Some).collect();
        let mut take = |index: usize| {
            descriptors
                .get_mut(index)
                .and_then(Option::take)
                .ok_or_else(|| failure(FailureKind::Invalid, format!("descriptor {index} did not come with the request")))
        };
        match wanted {
            Stdio::Descriptors(indices) => {
                let mut opened: BTreeMap<usize, Arc<OpenFile>> = BTreeMap::new();
                let mut files = Vec::with_capacity(3);
                for index in indices {
                    files.push(match index {
                        None => self.null()?,
                        Some(index) => match opened.get(index) {
                            Some(file) => file.clone(),
                            None => {
                                let file = self.host_file(take(*index)?)?;
                                opened.insert(*index, file.clone());
                                file
                            }
                        },
                    });
                }
                let files = files.try_into().map_err(|_| failure(FailureKind::Internal, "three standard streams"))?;
                Ok((files, None))
            }
            Stdio::Terminal { input, output, error, columns, rows } => {
                let no_terminal = |errno| failure(FailureKind::Internal, format!("a terminal cannot be made: {errno}"));
                let kernel = &self.sandbox.kernel;
                let input_descriptor = take(*input)?;
                let output_descriptor = if input == output {
                    input_descriptor.try_clone().map_err(|error| failure(FailureKind::Internal, error))?
                } else {
                    take(*output)?
                };
                let error = error.map(|index| take(index).and_then(|descriptor| self.host_file(descriptor))).transpose()?;
                let console =
                    Console::new(input_descriptor, output_descriptor, *columns, *rows, kernel).map_err(no_terminal)?;
                let file = console.open(kernel).map_err(no_terminal)?;
                Ok(([file.clone(), file.clone(), error.unwrap_or(file)], Some(console)))
            }
        }
    }

    fn host_file(&self, descriptor: OwnedFd) -> Result<Arc<OpenFile>, Failure> {
        HostFile::open(descriptor, self.sandbox.caller, &self.sandbox.kernel.reactor)
            .map_err(|errno| failure(FailureKind::Internal, format!("a standard stream cannot be used: {errno}")))
    }

    fn null(&self) -> Result<Arc<OpenFile>, Failure> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null");
        let null = null.map_err(|error| failure(FailureKind::Internal, format!("/dev/null: {error}")))?;
        HostFile::open(null.into(), self.sandbox.caller, &self.sandbox.kernel.reactor)
            .map_err(|errno| failure(FailureKind::Internal, errno))
    }

    fn signal(&self, process: u32, number: i32, target: SignalTarget) -> Result<Value, Failure> {
        let signal =
            Signal::new(number).ok_or_else(|| failure(FailureKind::Invalid, format!("{number} is not a signal (1-64)")))?;
        let kernel = &self.sandbox.kernel;
        let info = SignalInfo::user(signal, SI_USER, 0, 0);
        if target == SignalTarget::All {
            for process in kernel.pids.processes() {
                process.send_signal(info);
            }
            return Ok(json!({}));
        }
        let process =
            self.spawned.lock().get(&process).map(|program| program.process.clone()).ok_or_else(|| no_process(process))?;
        match target {
            SignalTarget::Group => process.group().send_signal(kernel, info),
            _ => process.send_signal(info),
        }
        Ok(json!({}))
    }

    fn resize(&self, process: u32, columns: u16, rows: u16) -> Result<Value, Failure> {
        let console = self.spawned.lock().get(&process).ok_or_else(|| no_process(process))?.console.clone();
        let console = console
            .ok_or_else(|| failure(FailureKind::Invalid, format!("process {process} was started without a terminal")))?;
        console.resize(columns, rows);
        Ok(json!({}))
    }

    fn usage(&self) -> Usage {
        let kernel = &self.sandbox.kernel;
        Usage {
            wall_ns: self.started.elapsed().as_nanos() as u64,
            system_calls: kernel.system_calls.load(Ordering::Relaxed),
            pids: kernel.pids.task_count() as u32,
            memory_files: kernel.memory_files.used.load(Ordering::Relaxed),
            peak_memory: self.sandbox.memory.peak(),
            ..Usage::default()
        }
    }

    /// Ends every process and waits until they are gone.
    fn end_all(&self) {
        let kernel = &self.sandbox.kernel;
        task::kill_all(kernel);
        let deadline = Instant::now() + SHUTDOWN_PATIENCE;
        while kernel.pids.task_count() > 0 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

fn spawn_failure(name: &str, directory: &[u8], error: SpawnError) -> Failure {
    let with = |kind, message: String, errno: Option<skerry_abi::Errno>| Failure { kind, message, errno: errno.map(|e| e.0) };
    match error {
        SpawnError::NotFound => with(FailureKind::NotFound, format!("{name}: command not found"), None),
        SpawnError::NoInterpreter => {
            with(FailureKind::NotFound, format!("{name}: the interpreter that it names does not exist"), None)
        }
        SpawnError::NotExecutable(errno) => {
            let why = match errno {
                skerry_abi::Errno::ENOEXEC => "not a program for x86-64 Linux (wrong format)".into(),
                skerry_abi::Errno::EACCES => "permission denied".into(),
                skerry_abi::Errno::EISDIR => "is a directory".into(),
                skerry_abi::Errno::ELIBBAD => "its interpreter is not a program".into(),
                other => other.to_string(),
            };
            with(FailureKind::NotExecutable, format!("{name}: cannot be executed: {why}"), Some(errno))
        }
        SpawnError::Directory(errno) => with(
            FailureKind::Invalid,
            format!("the working directory {} cannot be entered: {errno}", String::from_utf8_lossy(directory)),
            Some(errno),
        ),
        SpawnError::Host(why) => {
            with(FailureKind::Unsupported, format!("application processes cannot be made on this host: {why}"), None)
        }
        SpawnError::Other(errno) => with(FailureKind::Internal, format!("{name} could not be started: {errno}"), Some(errno)),
    }
}

/// Notices a program's end, once, and has it told.
struct Watch {
    process: Arc<Process>,
    ended: std::sync::mpsc::Sender<Arc<Process>>,
    told: AtomicBool,
}

impl Watch {
    fn start(process: Arc<Process>, ended: std::sync::mpsc::Sender<Arc<Process>>) {
        let watch = Arc::new(Watch { process: process.clone(), ended, told: AtomicBool::new(false) });
        process.exit_queue.add(watch.clone());
        watch.wake();
    }
}

impl Wake for Watch {
    fn wake(&self) {
        if self.process.is_dead() && !self.told.swap(true, Ordering::AcqRel) {
            let _ = self.ended.send(self.process.clone());
        }
    }
}

/// Tells of ends as they come: a terminal's output is with the caller first.
fn tell_ends(
    ended: std::sync::mpsc::Receiver<Arc<Process>>,
    sender: Sender,
    spawned: Arc<Mutex<BTreeMap<u32, Program>>>,
    memory: Arc<MemoryUse>,
    kernel: Weak<Kernel>,
) {
    for process in ended {
        let pid = process.pid() as u32;
        let program = spawned.lock().remove(&pid);
        let Some(status) = *process.exit_status.lock() else { continue };
        if let Some(console) = program.as_ref().and_then(|program| program.console.as_ref()) {
            console.finish(OUTPUT_PATIENCE);
        }
        let (user_ns, system_ns) = process.time_ns();
        let usage = Usage {
            user_ns,
            system_ns,
            wall_ns: program.map_or(0, |program| program.started.elapsed().as_nanos() as u64),
            peak_memory: memory.peak().max(process.max_rss_bytes()),
            system_calls: kernel.upgrade().map_or(0, |kernel| kernel.system_calls.load(Ordering::Relaxed)),
            ..Usage::default()
        };
        let (status, signal, core_dumped) = match status {
            ExitStatus::Exited(status) => (Some(i32::from(status)), None, false),
            ExitStatus::Signaled(signal, core) => (None, Some(signal.number()), core),
        };
        sender.event(&Event::Exited { process: pid, status, signal, core_dumped, usage });
    }
}
