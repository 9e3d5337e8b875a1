//! The messages. Every enum variant is one message; every struct field has its unit in its name or its comment.
//! Paths and arguments are byte strings on Linux, which JSON strings cannot always hold: they travel as [`Bytes`].

use crate::rules::{Action, Calls, FileRule, Rules};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A byte string: plain JSON string where it is valid UTF-8, else `{"base64": "..."}`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Bytes(pub Vec<u8>);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum BytesForm {
    Text(String),
    Encoded { base64: String },
}

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(&self.0) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => BytesForm::Encoded { base64: base64::encode(&self.0) }.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        match BytesForm::deserialize(deserializer)? {
            BytesForm::Text(text) => Ok(Bytes(text.into_bytes())),
            BytesForm::Encoded { base64: text } => {
                base64::decode(&text).map(Bytes).ok_or_else(|| serde::de::Error::custom("malformed base64"))
            }
        }
    }
}

impl From<&str> for Bytes {
    fn from(text: &str) -> Bytes {
        Bytes(text.as_bytes().to_vec())
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client, echoed in the reply.
    pub id: u64,
    /// How many descriptors came with this frame. One receive may bring the end of a frame that has none together with
    /// the descriptors of the next one; the count says whose they are.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub descriptors: usize,
    #[serde(flatten)]
    pub call: Call,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Call {
    /// The first request on a connection, exactly once: makes the sandbox. Replies [`Booted`] in `ok`.
    Boot(Box<Boot>),
    /// Starts a program as a new session's leader. Replies [`Spawned`]. Errors: `not_found`, `not_executable`, `invalid`.
    Spawn(Spawn),
    /// Sends `signal` (1-64) to a spawned process, or to its process group, or to every process of the sandbox.
    Signal {
        process: u32,
        signal: i32,
        #[serde(default)]
        target: SignalTarget,
    },
    /// Sets the window size of a spawned process's terminal (columns, rows); SIGWINCH follows.
    Resize { process: u32, columns: u16, rows: u16 },
    /// The processes started by `spawn` that still live. Replies `{"processes": [ProcessState]}`.
    Processes,
    /// One file operation on the sandbox's own tree, with the rights of its root user.
    File(FileCall),
    /// Resources used so far. Replies [`Usage`].
    Usage,
    /// Layers in force, limits, versions. Replies [`Booted`].
    Info,
    /// Changes limits that the sandbox was started with. Replies [`Booted`]. Errors: `unenforceable`.
    Update(Update),
    /// Ends every process and the sandbox; the reply is the last message.
    Shutdown,
}

/// Limits as they are to be from now on; what is absent stays.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Update {
    /// Bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<f64>,
    /// The guest's machine grows for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Growth>,
}

/// What is plugged into a machine that runs.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Growth {
    /// What its monitor is told (for `skerry-machine`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<Step>,
    /// What the guest has then: virtual CPUs, and bytes of memory.
    pub cpus: u32,
    pub memory: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SignalTarget {
    #[default]
    Process,
    Group,
    All,
}

/// What the sandbox is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Mounts, in order; the first must be at "/".
    pub mounts: Vec<Mount>,
    pub hostname: String,
    pub network: Network,
    #[serde(default)]
    pub limits: Limits,
    /// How ids of host files appear inside.
    pub identity: Identity,
    /// What of the host's own paths stands before the programs.
    #[serde(default)]
    pub profile: Profile,
    /// Log every system call as a `trace` event.
    #[serde(default)]
    pub trace: bool,
    /// Layers that must be in force, by the names that [`Layer`] has; absence is an error.
    #[serde(default)]
    pub require: Vec<Layer>,
    /// What programs are held to: all of the wall in the engine `rules`, an addition in `namespace`; in `sentry` the guest
    /// kernel holds them to what of it is about calls, ports and the execution of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<Rules>,
    /// The machine that the guest runs in (`skerry-machine` only, which needs it): the rest is then about that guest's own tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<Box<Machine>>,
    /// What is known of the machine: told again in `machine` of [`Booted`].
    #[serde(default, skip_serializing_if = "std::collections::BTreeMap::is_empty")]
    pub about: std::collections::BTreeMap<String, String>,
    /// Where a guest with a kernel of its own finds the files that its mounts name, as KIND:SOURCE (mount(2)); none: they are there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tree: Option<String>,
    /// From `skerry-machine` to the guest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<Resumed>,
    /// Which calls are told of, as `observed` events. On the host's kernel: what it denies, if this is anything but nothing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub observe: Observe,
    /// Features of the host to be treated as absent (tests): "process_vm", "sync_wake_up", "wait_killable", "addfd_send",
    /// "user_namespace", "landlock", "pid_namespace", "cgroups", "fsgsbase", "load" (how busy it is: there is spinning all the same), "pace" (how
    /// often programs call: there is spinning from the first call on), "expiry" (what is lent stays so, whatever the time). Parts of ours to be switched off: "direct" (programs read
    /// and write no file by themselves), "windows" (they map none of them to read it), "local" (calls that stubs answer), "patching", "caches", "suspension", "spinning", "marshalling", "parking" (host threads
    /// that outlive their tasks), "deferral" (epoll_ctl(2) goes along with later calls), "lending" (calls on the file that was used last).
    #[serde(default)]
    pub without: Vec<String>,
}

/// A machine with a kernel of its own, and the jail around it: what runs it sees `mounts` and nothing else of the host, in
/// namespaces of its own, without a network and without capabilities.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Machine {
    /// Started first, in this order: servers of files, say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub helpers: Vec<HostProgram>,
    /// The virtual machine monitor. Its standard input is the channel to the guest's init (a stream socket, both ways), its
    /// standard output and error are kept as the guest's console. It ends when the guest does.
    pub monitor: HostProgram,
    /// The jail's tree, in order; the first must be at "/", and one be `devtmpfs`.
    pub mounts: Vec<Mount>,
    /// Bytes that the jail's own in-memory files may hold, the guest's memory among them where it is such a file.
    pub memory_files: u64,
    /// The monitor is a User Mode Linux that has no room for all registers of this processor: they are kept for it
    /// (crates/registers).
    #[serde(default, skip_serializing_if = "is_default")]
    pub keeps_registers: bool,
    /// What they may call of what the engine `namespace` allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub calls: Option<Calls>,
    /// So many bytes the line to the guest may hold; its init (`--line`) says what it has read. For lines that lose bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line_holds: Option<usize>,
    /// How long the guest may take to its init.
    pub patience_ms: u64,
    /// The guest holds writes to the host's files: it is asked to end, and given time for it.
    #[serde(default)]
    pub writes_back: bool,
    /// Made before anything is started.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copying>,
    /// What the monitor is told besides its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conversation: Option<Conversation>,
    /// What the guest's network ends at (`network` is `user`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
}

/// The program between a guest's network card and the host's network, outside of the jail. The monitor gets the other end of its
/// socket as descriptor 3: each frame with its length before it, as 4 bytes, big endian.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gateway {
    /// An absolute path on the host.
    pub program: Bytes,
    /// Its standard input: what may be reached, as one JSON object.
    pub configuration: serde_json::Value,
}

/// QEMU's protocol (QMP) on the monitor's control socket.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conversation {
    /// In the jail; the monitor makes it.
    pub socket: Bytes,
    /// Before the guest's init is waited for.
    #[serde(default)]
    pub before: Vec<Step>,
    /// Once it is there.
    #[serde(default)]
    pub after: Vec<Step>,
    /// The machine is one that was kept: its init has said hello then.
    #[serde(default)]
    pub resumed: bool,
    /// The machine is being kept, and ends after that: no sandbox is made in it. What is left to do then is this copy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeps: Option<Copying>,
}

/// Of a file in the jail; where the one has nothing but zeros, the other has a hole.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copying {
    pub from: Bytes,
    pub to: Bytes,
}

/// One command.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    pub say: serde_json::Value,
    /// Goes along as a descriptor: a path in the jail, opened for reading, or for writing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read: Option<Bytes>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub write: Option<Bytes>,
    /// Said again until the answer's `status` is this; "failed" ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

/// A machine that was kept goes on: what is to be different in each that comes of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resumed {
    /// Random bytes of the host's, in base64.
    pub entropy: String,
    /// Since the epoch.
    pub time_ns: i64,
}

/// A program of the host's.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostProgram {
    /// argv; argv[0] is an absolute path in the jail.
    pub arguments: Vec<Bytes>,
    #[serde(default)]
    pub environment: Vec<Bytes>,
    /// The next one is started when this path is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub makes: Option<Bytes>,
    /// What it keeps of the jail's; by default nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<String>,
    /// A server of files that opens those of others, too: what the rules say `notify` of (openat(2) with O_NOATIME, which is for
    /// a file's owner) is done for it without that flag.
    #[serde(default, skip_serializing_if = "is_default")]
    pub opens_for_others: bool,
    /// It is laid out in memory as it is written (personality(2)): it could not do so itself once the filter is on.
    #[serde(default, skip_serializing_if = "is_default")]
    pub fixed_addresses: bool,
    /// What it may do with files of the jail (Landlock), where the host has that; ports and what is out of the jail it may not
    /// use at all then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<FileRule>>,
    /// It runs as a user that is nobody else's, where the jail has more than one (docs/engines/microvm.md).
    #[serde(default, skip_serializing_if = "is_default")]
    pub own_user: bool,
}

/// How much is told of calls. What one says, the ones below it say too. Equal ones are told once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Observe {
    #[default]
    Nothing,
    /// What failed for want of something that the sandbox does not have or allow: EPERM, EROFS, ENOSYS, ENETUNREACH ...
    Refusals,
    /// And names that are not there, or not permitted.
    Failures,
    /// Each call, path and address; processes do nothing by themselves that could be seen here.
    Everything,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Mount {
    /// Where it appears inside; absolute.
    pub target: Bytes,
    #[serde(flatten)]
    pub kind: MountKind,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum MountKind {
    /// The host's tree at `source`, read-only.
    HostReadOnly {
        source: Bytes,
    },
    /// The host's tree at `source`; writes go to the host.
    HostReadWrite {
        source: Bytes,
    },
    /// The host's tree at `source` below, writes kept in memory, or in `upper` (a host directory) where given.
    Overlay {
        source: Bytes,
        #[serde(default)]
        upper: Option<Bytes>,
    },
    /// Empty, in memory. `size`: bytes, 0 = the sandbox's own cap. `mode`: permission bits.
    Tmpfs {
        #[serde(default)]
        size: u64,
        #[serde(default = "default_tmpfs_mode")]
        mode: u32,
    },
    /// A regular file in memory, with this content (base64); read-only where `mode` lets nobody write.
    File {
        content: String,
        #[serde(default = "default_file_mode")]
        mode: u32,
    },
    Proc,
    Sysfs,
    Devtmpfs,
    /// A device of the host's.
    Device {
        source: Bytes,
    },
    /// An empty directory, or an empty file, that hides what is there.
    Hide,
    /// At "/": nothing but the directories that other mounts and links need; read-only once these are made.
    Skeleton,
    /// A symbolic link, in a skeleton.
    Symlink {
        to: Bytes,
    },
}

fn default_tmpfs_mode() -> u32 {
    0o1777
}

fn default_file_mode() -> u32 {
    0o644
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// No interface at all; creating inet sockets works, connecting gives ENETUNREACH.
    None,
    /// lo is up, inside the sandbox only.
    Loopback,
    /// And a card, whose frames go to a gateway on the host (a machine's guest only: `Machine::gateway`).
    User,
}

/// `None` (absent) = no limit of its own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Bytes, for all processes and in-memory files together.
    pub memory: Option<u64>,
    /// CPUs, may be a fraction.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Bytes that in-memory file systems may hold together.
    pub memory_files: Option<u64>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The caller's uid and gid appear as 0 inside, and back on host writes; others as they are.
    CallerIsRoot,
    /// Ids appear as they are.
    Host,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Profile {
    /// Programs read and write open regular files by themselves, and map the host's files.
    #[default]
    Default,
    /// All data goes through the sentry; what is mapped of the host's files is a copy.
    Strict,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Layer {
    Seccomp,
    UserNamespace,
    MountNamespace,
    PidNamespace,
    NetworkNamespace,
    Landlock,
    Cgroup,
    NoCapabilities,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Booted {
    pub layers: Vec<Layer>,
    /// Layers that are not in force, each with the reason.
    pub missing: Vec<MissingLayer>,
    /// How each limit is held: e.g. {"memory": "cgroup v2"} or {"memory": "polling (best effort): ..."}.
    pub limits: std::collections::BTreeMap<String, String>,
    pub version: String,
    /// How guest memory is reached: "process_vm" or "proc_mem".
    pub guest_memory: String,
    #[serde(default)]
    pub profile: Profile,
    pub sentry_pid: i32,
    /// Of a guest with a kernel of its own: what it runs on, and what of that it makes use of.
    #[serde(default)]
    pub machine: std::collections::BTreeMap<String, String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct MissingLayer {
    pub layer: Layer,
    pub reason: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spawn {
    /// argv; argv[0] is looked up in PATH of `environment` unless it has a slash.
    pub arguments: Vec<Bytes>,
    /// "NAME=value" each.
    pub environment: Vec<Bytes>,
    /// Absolute.
    pub directory: Bytes,
    pub uid: u32,
    pub gid: u32,
    #[serde(default)]
    pub groups: Vec<u32>,
    pub stdio: Stdio,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdio {
    /// Standard input, output and error: indices of the descriptors that came with this frame; null = /dev/null.
    Descriptors([Option<usize>; 3]),
    /// A new terminal inside, whose other end is joined to the two descriptors (indices) until the process ends. Standard
    /// error is the terminal too, unless `error` (an index) is given: then it is that descriptor, as with `Descriptors`.
    Terminal {
        input: usize,
        output: usize,
        #[serde(default)]
        error: Option<usize>,
        columns: u16,
        rows: u16,
    },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Spawned {
    /// The sandbox's own process id, as the guest sees it.
    pub process: u32,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ProcessState {
    pub process: u32,
    pub arguments: Vec<Bytes>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
pub enum FileCall {
    /// Replies `{"data": base64, "end": bool}`; at most 1 MiB a call.
    Read {
        path: Bytes,
        offset: u64,
        length: u64,
    },
    /// Creates the file where it is missing; `truncate` empties it first. Replies `{}`.
    Write {
        path: Bytes,
        offset: u64,
        data: String,
        truncate: bool,
        mode: u32,
    },
    /// Replies `{"entries": [FileStat]}`.
    List {
        path: Bytes,
    },
    /// Replies [`FileStat`].
    Stat {
        path: Bytes,
        follow: bool,
    },
    Remove {
        path: Bytes,
        recursive: bool,
    },
    MakeDirectory {
        path: Bytes,
        parents: bool,
        mode: u32,
    },
    Rename {
        from: Bytes,
        to: Bytes,
    },
}

impl FileCall {
    /// The file that is asked about; of a renaming its old name.
    pub fn path(&self) -> &Bytes {
        match self {
            FileCall::Rename { from, .. } => from,
            FileCall::Read { path, .. }
            | FileCall::Write { path, .. }
            | FileCall::List { path }
            | FileCall::Stat { path, .. }
            | FileCall::Remove { path, .. }
            | FileCall::MakeDirectory { path, .. } => path,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
pub struct FileStat {
    pub name: Bytes,
    /// "file", "directory", "symlink", "fifo", "socket", "character_device", "block_device".
    pub kind: String,
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Nanoseconds since the epoch.
    pub modified_ns: i64,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
pub struct Usage {
    pub user_ns: u64,
    pub system_ns: u64,
    pub wall_ns: u64,
    /// Bytes, the highest seen for all processes of the sandbox together. With a cgroup that limits memory the host's own
    /// count, which has cached file pages in it.
    pub peak_memory: u64,
    /// Bytes held by in-memory file systems now.
    pub memory_files: u64,
    /// Processes and threads now.
    pub pids: u32,
    pub system_calls: u64,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub id: u64,
    #[serde(flatten)]
    pub outcome: Outcome,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    Ok(serde_json::Value),
    Error(Failure),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    pub kind: FailureKind,
    /// A sentence for the person who reads it: what was wrong and what to do.
    pub message: String,
    /// Linux's errno, where one stands behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request itself is wrong.
    Invalid,
    /// The program (or its interpreter, or a file) does not exist: exit status 127.
    NotFound,
    /// It exists but cannot be executed: exit status 126.
    NotExecutable,
    /// A required layer or limit cannot be enforced here.
    Unenforceable,
    /// The host lacks what Skerry needs at the least.
    Unsupported,
    /// A file operation failed; see `errno`.
    File,
    /// No such process.
    NoProcess,
    /// Our own failure.
    Internal,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// A spawned process ended. Exactly one of `status` (exit status, 0-255) and `signal` is given.
    Exited { process: u32, status: Option<i32>, signal: Option<i32>, core_dumped: bool, usage: Usage },
    /// A program called what the guest kernel does not know; once per call number.
    UnknownCall { process: u32, number: i64, name: String },
    /// The memory limit was reached; `process` was killed for it.
    OutOfMemory { process: u32, limit: u64 },
    /// The process limit was reached (once a second at the most).
    PidsLimit { limit: u32 },
    /// Access to a host object in the tree was refused: a socket, a FIFO, a device.
    Denied { process: u32, what: String, path: Bytes },
    /// The gateway let nothing through to there (once for each).
    NetworkDenied(NetworkDenied),
    /// A rule denied a system call, or was to tell of it: at the time it happens, before the program goes on. `action`: what
    /// the rule says; `path`: the file or the address, where the agent was asked about one.
    Call {
        process: u32,
        name: String,
        number: i32,
        arguments: [u64; 6],
        action: Action,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        path: Option<Bytes>,
    },
    /// What `observe` asks for.
    Observed(Observed),
    /// There are more tasks than ever before (with `observe` "everything").
    Tasks { count: u32 },
    /// One system call (with `trace`).
    Trace { process: u32, thread: u32, text: String },
}

/// What a guest wanted of the network outside.
#[derive(Debug, Serialize, Deserialize)]
pub struct NetworkDenied {
    /// "tcp", "udp", "icmp", "dns".
    pub protocol: String,
    /// A name, where the protocol is dns.
    pub address: String,
    pub port: u16,
    /// Of the policy.
    pub clause: String,
    /// Of what is denied because it is the host's own, or its link's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// So many more were denied and are not told.
    #[serde(default, skip_serializing_if = "is_default")]
    pub untold: u64,
}

/// One call and one thing that it is about.
#[derive(Debug, Serialize, Deserialize)]
pub struct Observed {
    pub process: u32,
    /// The program's short name (comm).
    pub program: Bytes,
    pub name: String,
    pub number: i64,
    /// What it does with `path` or `address`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<Access>,
    /// Absolute, as named: links are not followed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Bytes>,
    /// "tcp:127.0.0.1:80", "unix" (with a path), "unix:@NAME".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Absent where it did not fail, or has not ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// Asks about it only.
    Look,
    Read,
    Write,
    Execute,
    Connect,
    Bind,
}

/// Base64 (RFC 4648, section 4, with padding), as [`Bytes`] and [`FileCall`] use it.
pub mod base64 {
    use ::base64::{engine::general_purpose::STANDARD, Engine};

    pub fn encode(bytes: &[u8]) -> String {
        STANDARD.encode(bytes)
    }

    pub fn decode(text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_text_survive() {
        for bytes in [&b""[..], b"a", b"ab", b"abc", b"\xff\x00\xfe", b"\x80"] {
            let json = serde_json::to_string(&Bytes(bytes.to_vec())).unwrap();
            assert_eq!(serde_json::from_str::<Bytes>(&json).unwrap().0, bytes);
            assert_eq!(base64::decode(&base64::encode(bytes)).unwrap(), bytes);
        }
        assert!(base64::decode("a===").is_none() && base64::decode("ab").is_none() && base64::decode("!!!!").is_none());
    }
}
