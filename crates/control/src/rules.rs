//! What the host's kernel holds the programs of a sandbox to, where it answers their calls itself: one value, which a policy is
//! compiled into and `boot` carries. An engine refuses what it or its host cannot hold, by the clause's name (the names here).

use crate::Bytes;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The whole of it. What is granted here is granted as far as the host's own rights of the caller go, never further; the
/// engine's own profile holds besides (`docs/engines/rules.md` says what it denies).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// What may be done with files: rights add up, and what no rule grants is denied (Landlock). A path that is not there
    /// grants nothing. Absent: files are not ruled. In `namespace` the paths are the guest's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Vec<FileRule>>,
    /// TCP and UDP ports, at any address (Landlock: TCP from ABI 4 on, UDP from ABI 10 on). Absent: no IP sockets at all in
    /// `rules`, and none but the guest's own in `namespace`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ports: Option<Ports>,
    /// Out of reach beyond the programs themselves (Landlock, from ABI 6 on).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
    /// System calls: narrows the engine's own profile (seccomp).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub calls: Option<Calls>,
    /// Capabilities that programs of root keep, by Linux's names ("CAP_CHOWN"), as far as the engine has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Vec<String>>,
    /// Limits of each process (setrlimit(2)), soft and hard.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<Resource, u64>,
    /// Rights in a directory of the sandbox's own, which programs are told of in TMPDIR, and which is gone at the end. None:
    /// there is no such directory.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub temporary: Vec<FileRight>,
    /// The AppArmor profile that programs start under; it must be loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<String>,
    /// The SELinux context that programs start in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selinux: Option<String>,
}

impl Rules {
    /// Whether programs may execute what they write, as far as the rules tell: some rule grants both.
    pub fn written_files_run(&self) -> bool {
        let both = |rights: &[FileRight]| rights.contains(&FileRight::Execute) && rights.contains(&FileRight::WriteFile);
        self.files.as_ref().is_none_or(|files| files.iter().any(|rule| both(&rule.rights))) || both(&self.temporary)
    }
}

/// Rights on one file, or on a directory and all that is below it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRule {
    pub path: Bytes,
    pub rights: Vec<FileRight>,
}

/// Landlock's rights on files, by its names, with the ABI that brought them where it is not the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileRight {
    Execute,
    ReadFile,
    ReadDir,
    WriteFile,
    RemoveDir,
    RemoveFile,
    MakeChar,
    MakeDir,
    MakeReg,
    MakeSock,
    MakeFifo,
    MakeBlock,
    MakeSym,
    /// ABI 2: renaming and linking to another directory.
    Refer,
    /// ABI 3.
    Truncate,
    /// ABI 5: ioctl(2) on devices.
    IoctlDev,
    /// ABI 9: connecting to a socket by its path.
    ResolveUnix,
    /// Not Landlock's, and held by the agent, which is asked each time: owner, mode, times, extended attributes.
    Attributes,
}

/// Ports that may be used; others may not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Ports {
    pub bind_tcp: Vec<u16>,
    pub connect_tcp: Vec<u16>,
    pub bind_udp: Vec<u16>,
    pub connect_udp: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Abstract UNIX sockets of others.
    AbstractUnixSocket,
    /// Signals to others.
    Signal,
}

/// Which calls may be made. Of those that the engine's profile denies none is granted here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Calls {
    /// Of calls that no rule is about.
    pub default: Action,
    /// The first that holds decides.
    pub rules: Vec<CallRule>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallRule {
    /// By name, or by number where a call has no name here ("462").
    pub calls: Vec<String>,
    /// All of them must hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arguments: Vec<Argument>,
    pub action: Action,
}

/// `argument & mask OPERATOR value`. The host looks at the lower half of an `int` only: rules about one have a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Argument {
    /// 0 to 5.
    pub index: u8,
    #[serde(default = "all_bits", skip_serializing_if = "is_all_bits")]
    pub mask: u64,
    pub operator: Operator,
    pub value: u64,
}

fn all_bits() -> u64 {
    u64::MAX
}

fn is_all_bits(mask: &u64) -> bool {
    *mask == u64::MAX
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operator {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// From the mildest to the strictest. All but the first are told as events, where the host grants a listener.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    #[default]
    Allow,
    /// Allowed, and told.
    Log,
    /// The agent is asked: it looks at what rules of seccomp cannot see (paths), and carries the call out or denies it.
    Notify,
    /// Denied with this errno.
    Errno(u16),
    /// The process dies.
    Kill,
}

/// Limits that setrlimit(2) has, by its names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    As,
    Core,
    Cpu,
    Data,
    Fsize,
    Memlock,
    Msgqueue,
    Nice,
    Nofile,
    Nproc,
    Rtprio,
    Rttime,
    Sigpending,
    Stack,
}
