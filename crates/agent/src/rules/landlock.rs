//! Landlock: files, ports, and what is out of reach. What the host's version of it cannot hold is refused by name, unless the
//! rules grant it everywhere: then there is nothing to hold.

use super::path_of;
use crate::failure;
use crate::guest::Everybody;
use crate::weaken;
use landlock::{
    AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, NetPort, PathBeneath, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetStatus,
};
use rustix::fs::{Mode, OFlags, ResolveFlags, CWD};
use rustix::io::Errno;
use skerry_control::{Boot, Failure, FailureKind, FileRight, FileRule, Ports, Rules, Scope};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::calls::{Instead, Sockets};

/// Rights on files: ours, Landlock's, and the version that brought it.
const RIGHTS: &[(FileRight, AccessFs, u32)] = &[
    (FileRight::Execute, AccessFs::Execute, 1),
    (FileRight::ReadFile, AccessFs::ReadFile, 1),
    (FileRight::ReadDir, AccessFs::ReadDir, 1),
    (FileRight::WriteFile, AccessFs::WriteFile, 1),
    (FileRight::RemoveDir, AccessFs::RemoveDir, 1),
    (FileRight::RemoveFile, AccessFs::RemoveFile, 1),
    (FileRight::MakeChar, AccessFs::MakeChar, 1),
    (FileRight::MakeDir, AccessFs::MakeDir, 1),
    (FileRight::MakeReg, AccessFs::MakeReg, 1),
    (FileRight::MakeSock, AccessFs::MakeSock, 1),
    (FileRight::MakeFifo, AccessFs::MakeFifo, 1),
    (FileRight::MakeBlock, AccessFs::MakeBlock, 1),
    (FileRight::MakeSym, AccessFs::MakeSym, 1),
    (FileRight::Refer, AccessFs::Refer, 2),
    (FileRight::Truncate, AccessFs::Truncate, TRUNCATE_ABI),
    (FileRight::IoctlDev, AccessFs::IoctlDev, IOCTL_DEV_ABI),
    (FileRight::ResolveUnix, AccessFs::ResolveUnix, RESOLVE_UNIX_ABI),
];

/// Rights that a file has too; the others are directories'.
const ON_FILES: &[FileRight] = &[
    FileRight::Execute,
    FileRight::ReadFile,
    FileRight::WriteFile,
    FileRight::Truncate,
    FileRight::IoctlDev,
    FileRight::ResolveUnix,
    FileRight::Attributes,
];

/// What a program may do with its own terminal.
const ON_TERMINALS: &[FileRight] = &[FileRight::ReadFile, FileRight::WriteFile, FileRight::IoctlDev];

const TRUNCATE_ABI: u32 = 3;
const TCP_ABI: u32 = 4;
const IOCTL_DEV_ABI: u32 = 5;
const SCOPE_ABI: u32 = 6;
const RESOLVE_UNIX_ABI: u32 = 9;
const UDP_ABI: u32 = 10;

/// The host's version, as far as we know versions; 0: none.
pub fn abi(wanted: &Boot) -> u32 {
    if weaken::is_out("landlock") {
        return 0;
    }
    let found = skerry_platform::agent::landlock_abi().min(UDP_ABI);
    // "landlock", or "landlock_5": as if it were of that version.
    let pretended = wanted.without.iter().filter_map(|name| name.strip_prefix("landlock"));
    pretended.map(|rest| rest.trim_start_matches('_').parse().unwrap_or(0)).fold(found, u32::min)
}

/// What the engine `rules` holds by calls, as this version does not. Devices that are named may be asked what is theirs.
pub fn instead(rules: &Rules, abi: u32) -> Instead {
    if weaken::is_out("landlock") {
        return Instead::default();
    }
    let lacks = |right: FileRight, needed: u32| {
        rules.files.as_deref().is_some_and(|files| abi < needed && !granted_everywhere(files, right))
    };
    let granting = |right: FileRight| rules.files.iter().flatten().filter(move |rule| rule.rights.contains(&right));
    let truncates = |rights: &[FileRight]| rights.contains(&FileRight::Truncate) == rights.contains(&FileRight::WriteFile);
    // Else it cannot be told where the one may be done and the other not.
    let alike = rules.files.iter().flatten().all(|rule| truncates(&rule.rights)) && truncates(&rules.temporary);
    let devices = granting(FileRight::IoctlDev).map(|rule| String::from_utf8_lossy(&rule.path.0).into_owned());
    Instead {
        truncation: lacks(FileRight::Truncate, TRUNCATE_ABI) && alike,
        devices: lacks(FileRight::IoctlDev, IOCTL_DEV_ABI).then(|| devices.collect()),
        signals: rules.scopes.contains(&Scope::Signal) && abi < SCOPE_ABI,
    }
}

/// Everything that the rules ask for can be held, some of it `instead`.
pub fn check(rules: &Rules, abi: u32, instead: &Instead) -> Result<(), Failure> {
    if weaken::is_out("landlock") {
        return Ok(());
    }
    let refuse = |clause: String, needed: u32| {
        let found = if abi == 0 { "none".to_owned() } else { format!("ABI {abi}") };
        let message = format!("{clause} cannot be held here: it takes Landlock ABI {needed}, and this host has {found}");
        Err(failure(FailureKind::Unenforceable, message))
    };
    let files = rules.files.as_deref().unwrap_or_default();
    let granted_everywhere = |right: FileRight| granted_everywhere(files, right);
    for (right, _, needed) in RIGHTS.iter().filter(|(_, _, needed)| rules.files.is_some() && abi < *needed) {
        // Sockets that nobody may connect to are not made (`Sockets`).
        let held_otherwise = match right {
            FileRight::ResolveUnix => !connects(files),
            FileRight::Truncate => instead.truncation,
            FileRight::IoctlDev => instead.devices.is_some(),
            _ => false,
        };
        if !granted_everywhere(*right) && !held_otherwise {
            return refuse(format!("files: the right {}", name_of(serde_json::to_value(right))), *needed);
        }
    }
    if let Some(ports) = &rules.ports {
        if abi < TCP_ABI {
            return refuse("ports: TCP".into(), TCP_ABI);
        }
        if uses_udp(ports) && abi < UDP_ABI {
            return refuse("ports: UDP".into(), UDP_ABI);
        }
    }
    for scope in rules.scopes.iter().filter(|_| abi < SCOPE_ABI) {
        let held_otherwise = match scope {
            Scope::Signal => instead.signals,
            // There are no sockets that could be connected.
            Scope::AbstractUnixSocket => *instead != Instead::default() && rules.files.is_some() && !connects(files),
        };
        if !held_otherwise {
            return refuse(format!("scopes: {}", name_of(serde_json::to_value(scope))), SCOPE_ABI);
        }
    }
    Ok(())
}

/// What a program that needs nothing but files is held to besides, as far as the version goes: no ports, nobody outside.
pub fn held_besides_files(abi: u32) -> (Option<Ports>, Vec<Scope>) {
    let scopes = if abi >= SCOPE_ABI { vec![Scope::AbstractUnixSocket, Scope::Signal] } else { Vec::new() };
    ((abi >= TCP_ABI).then(Ports::default), scopes)
}

/// Whether UNIX sockets can be connected anywhere.
fn connects(files: &[FileRule]) -> bool {
    files.iter().any(|rule| rule.rights.contains(&FileRight::ResolveUnix))
}

fn granted_everywhere(files: &[FileRule], right: FileRight) -> bool {
    files.iter().any(|rule| rule.path.0 == b"/" && rule.rights.contains(&right))
}

/// Where nobody is asked for attributes, they cannot be kept from anybody.
pub fn refuse_attributes(rules: &Rules) -> Result<(), Failure> {
    match &rules.files {
        Some(files) if !granted_everywhere(files, FileRight::Attributes) => {
            let message = "files: the right attributes cannot be held in the engine namespace; grant it on /";
            Err(failure(FailureKind::Unenforceable, message))
        }
        _ => Ok(()),
    }
}

/// As the protocol has it.
fn name_of(value: serde_json::Result<serde_json::Value>) -> String {
    value.ok().and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default()
}

fn uses_udp(ports: &Ports) -> bool {
    !ports.bind_udp.is_empty() || !ports.connect_udp.is_empty()
}

/// Sockets of which Landlock holds the ports and paths; others are not made at all.
pub fn sockets(rules: &Rules, abi: u32, loopback: bool) -> Sockets {
    let files = rules.files.as_deref().unwrap_or_default();
    let ports = rules.ports.as_ref();
    Sockets {
        unix: rules.files.is_none() || connects(files),
        tcp: ports.is_some(),
        asked: loopback && ports.is_some(),
        udp: ports.is_some_and(uses_udp) && abi >= UDP_ABI,
    }
}

/// From here on nobody outside of what we start can be signalled, where the host holds that.
pub fn hold_signals(abi: u32) -> Result<Everybody, Failure> {
    if abi < SCOPE_ABI {
        return Ok(Everybody::Below);
    }
    // Every domain denies moves between directories unless it says otherwise, as soon as one inside of it holds files.
    let root = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    let held = Ruleset::default()
        .set_compatibility(CompatLevel::HardRequirement)
        .handle_access(AccessFs::Refer)
        .and_then(|ruleset| ruleset.scope(landlock::Scope::Signal))
        .and_then(Ruleset::create)
        .and_then(|ruleset| ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer)))
        .and_then(RulesetCreated::restrict_self)
        .map_err(failed)?;
    match held.ruleset {
        RulesetStatus::FullyEnforced => Ok(Everybody::InReach),
        _ => Ok(Everybody::Below),
    }
}

fn failed(error: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Unsupported, format!("Landlock: {error}"))
}

/// What each program enters.
pub struct Restriction {
    ruleset: RulesetCreated,
    /// Files are held: which rights are, and whose attributes may be changed.
    handled: BitFlags<AccessFs>,
    /// Canonical paths with what may be done below them, `attributes` too; `None`: files are not held.
    granted: Option<Vec<(PathBuf, Vec<FileRight>)>>,
}

impl Restriction {
    /// `None`: there is nothing to hold. `temporary` is granted besides.
    pub fn make(rules: &Rules, abi: u32, temporary: Option<&Path>) -> Result<Option<Restriction>, Failure> {
        let nothing = rules.files.is_none() && rules.ports.is_none() && rules.scopes.is_empty();
        if nothing || weaken::is_out("landlock") {
            return Ok(None);
        }
        let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::HardRequirement);
        let mut handled = BitFlags::<AccessFs>::empty();
        if rules.files.is_some() {
            let known = RIGHTS.iter().filter(|(_, _, needed)| *needed <= abi);
            handled = known.map(|(_, right, _)| BitFlags::from(*right)).fold(handled, |all, one| all | one);
            ruleset = ruleset.handle_access(handled).map_err(failed)?;
        }
        if let Some(ports) = &rules.ports {
            ruleset = ruleset.handle_access(AccessNet::BindTcp | AccessNet::ConnectTcp).map_err(failed)?;
            if uses_udp(ports) {
                ruleset = ruleset.handle_access(AccessNet::BindUdp | AccessNet::ConnectSendUdp).map_err(failed)?;
            }
        }
        for scope in rules.scopes.iter().filter(|_| abi >= SCOPE_ABI) {
            ruleset = ruleset
                .scope(match scope {
                    Scope::AbstractUnixSocket => landlock::Scope::AbstractUnixSocket,
                    Scope::Signal => landlock::Scope::Signal,
                })
                .map_err(failed)?;
        }
        let ruleset = ruleset.create().map_err(failed)?;
        let granted = rules.files.is_some().then(Vec::new);
        let mut restriction = Restriction { ruleset, handled, granted };
        for rule in rules.files.iter().flatten() {
            restriction.grant(rule)?;
        }
        if let Some(path) = temporary {
            use std::os::unix::ffi::OsStrExt;
            let path = skerry_control::Bytes(path.as_os_str().as_bytes().to_vec());
            restriction.grant(&FileRule { path, rights: rules.temporary.clone() })?;
        }
        if let Some(ports) = &rules.ports {
            restriction.grant_ports(ports)?;
        }
        Ok(Some(restriction))
    }

    fn grant(&mut self, rule: &FileRule) -> Result<(), Failure> {
        let path = path_of(&rule.path);
        if !path.is_absolute() {
            return Err(failure(FailureKind::Invalid, format!("files: {} is not an absolute path", path.display())));
        }
        // Paths have no symbolic link in them when they are looked at: whoever has put one there since gets nothing by it.
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let followed = if weaken::is_out("links") { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
        let opened = rustix::fs::openat2(CWD, path, flags, Mode::empty(), followed);
        let file = match opened {
            Ok(file) => file,
            Err(Errno::LOOP) => {
                let message = format!("files: there is a symbolic link in {}; name what it leads to", path.display());
                return Err(failure(FailureKind::Invalid, message));
            }
            Err(_) => return Ok(()),
        };
        self.add(file, &rule.rights)
    }

    /// A terminal of the guest's own, which programs may open by its name.
    pub fn grant_terminal(&mut self, terminal: &OwnedFd) -> Result<(), Failure> {
        self.add(terminal, ON_TERMINALS)
    }

    fn add(&mut self, file: impl AsFd, rights: &[FileRight]) -> Result<(), Failure> {
        let stat = rustix::fs::fstat(file.as_fd()).map_err(failed)?;
        let directory = rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir();
        let granted = RIGHTS.iter().filter(|(right, ..)| rights.contains(right) && (directory || ON_FILES.contains(right)));
        let granted = granted.fold(BitFlags::empty(), |all, (_, right, _)| all | *right) & self.handled;
        let canonical = std::fs::read_link(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file.as_fd())));
        self.granted.get_or_insert_default().push((canonical.map_err(failed)?, rights.to_vec()));
        if granted.is_empty() {
            return Ok(());
        }
        (&mut self.ruleset).add_rule(PathBeneath::new(file, granted)).map_err(failed)?;
        Ok(())
    }

    fn grant_ports(&mut self, ports: &Ports) -> Result<(), Failure> {
        let lists = [
            (&ports.bind_tcp, AccessNet::BindTcp),
            (&ports.connect_tcp, AccessNet::ConnectTcp),
            (&ports.bind_udp, AccessNet::BindUdp),
            (&ports.connect_udp, AccessNet::ConnectSendUdp),
        ];
        for (list, right) in lists {
            for port in list {
                (&mut self.ruleset).add_rule(NetPort::new(*port, right)).map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The calling thread enters, with no_new_privs.
    pub fn enter(&self) -> Result<(), String> {
        let ruleset = self.ruleset.try_clone().map_err(|error| error.to_string())?;
        match ruleset.restrict_self().map_err(|error| error.to_string())?.ruleset {
            RulesetStatus::FullyEnforced => Ok(()),
            _ => Err("the host does not enforce it".into()),
        }
    }

    /// Whether all of `rights` are granted on the file with this canonical path, as far as they are held.
    pub fn grants(&self, path: &Path, rights: &[FileRight]) -> bool {
        let Some(granted) = &self.granted else { return true };
        let above: Vec<_> = granted.iter().filter(|(top, _)| path.starts_with(top)).collect();
        rights.iter().all(|right| above.iter().any(|(_, granted)| granted.contains(right)) || !self.holds(*right))
    }

    fn holds(&self, right: FileRight) -> bool {
        // Attributes are held by the agent.
        RIGHTS.iter().find(|(one, ..)| *one == right).is_none_or(|(_, ours, _)| self.handled.contains(*ours))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(path: &str, rights: &[FileRight]) -> FileRule {
        FileRule { path: path.into(), rights: rights.to_vec() }
    }

    #[test]
    fn what_the_version_lacks_is_refused_by_name() {
        let mut rules = Rules { files: Some(vec![rule("/", &[FileRight::ReadFile])]), ..Rules::default() };
        let told = |rules: &Rules, abi| {
            check(rules, abi, &Instead::default()).err().map(|failure| failure.message).unwrap_or_default()
        };
        assert!(told(&rules, 4).contains("the right ioctl_dev") && told(&rules, 4).contains("ABI 5"), "{}", told(&rules, 4));
        assert!(told(&rules, 0).contains("the right execute") && told(&rules, 0).contains("has none"));
        assert_eq!(told(&rules, 5), "");
        rules.files = Some(vec![rule("/", &[FileRight::IoctlDev])]);
        assert_eq!(told(&rules, 4), "", "granted everywhere: there is nothing to hold");
        rules.files = Some(vec![rule("/run", &[FileRight::ResolveUnix])]);
        assert!(told(&rules, 8).contains("resolve_unix") && told(&rules, 9).is_empty());
        rules = Rules { scopes: vec![Scope::Signal], ..Rules::default() };
        assert!(told(&rules, 5).contains("scopes: signal") && told(&rules, 6).is_empty());
        rules = Rules { ports: Some(Ports::default()), ..Rules::default() };
        assert!(told(&rules, 3).contains("ports: TCP") && told(&rules, 4).is_empty());
        rules.ports = Some(Ports { connect_udp: vec![53], ..Ports::default() });
        assert!(told(&rules, 9).contains("ports: UDP") && told(&rules, 10).is_empty());
    }

    #[test]
    fn what_is_held_by_calls_instead() {
        let read = [FileRight::ReadFile, FileRight::ReadDir, FileRight::Execute];
        let write = [FileRight::WriteFile, FileRight::Truncate, FileRight::IoctlDev];
        let both = vec![rule("/", &read), rule("/dev/kvm", &write)];
        let mut rules = Rules { files: Some(both), scopes: vec![Scope::AbstractUnixSocket, Scope::Signal], ..Rules::default() };
        let found = instead(&rules, 2);
        assert_eq!(found, Instead { truncation: true, devices: Some(vec!["/dev/kvm".into()]), signals: true });
        let refer = check(&rules, 1, &found).unwrap_err();
        assert!(refer.message.contains("the right refer"), "{}", refer.message);
        assert!(check(&rules, 2, &found).is_ok() && check(&rules, 2, &Instead::default()).is_err());
        assert_eq!(instead(&rules, 5), Instead { signals: true, ..Instead::default() });
        assert_eq!(instead(&rules, 6), Instead::default());
        // Where the one may be done and the other not, nobody tells them apart.
        rules.files = Some(vec![rule("/", &read), rule("/tmp", &[FileRight::Truncate])]);
        assert!(!instead(&rules, 2).truncation && check(&rules, 2, &instead(&rules, 2)).is_err());
        rules.files = Some(vec![rule("/", &read)]);
        rules.temporary = vec![FileRight::WriteFile];
        assert!(!instead(&rules, 2).truncation && check(&rules, 2, &instead(&rules, 2)).is_err());
    }
}
