//! What `skerry-machine` puts around a virtual machine monitor: the wall of the engine `namespace`, with a tree of its own,
//! and its programs started as any other.

use crate::guest::{Engine, Guest};
use crate::rules::landlock;
pub use crate::spawn::Started;
use crate::spawn::{self, Streams, Surroundings};
use crate::{failure, namespace};
use rustix::thread::CapabilitySet;
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Bytes, Failure, FailureKind, FileRule, HostProgram, Mount, MountKind, Rules, Spawn, Stdio};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;

pub use namespace::{Init, Split};

/// Splits into the guardian and the jail's first process. To be called with one thread.
pub fn split(wanted: &Boot) -> Result<Split, Failure> {
    namespace::split(wanted, Engine::Namespace)
}

/// What a server of files may keep. They count in the jail's own user namespace only.
const KEEPABLE: CapabilitySet = namespace::KEPT.union(CapabilitySet::SETPCAP);

/// Users of monitors: this, and the number of their jail's first process on the host, which no other jail has at the time.
/// systemd's list of ids (UIDS-GIDS) has these 2^22 as nobody's: above all that containers are given, below 2^31.
const FIRST_USER: u32 = 0x7000_0000;
const MOST_USERS: u32 = 1 << 22;

/// A jail that we are in.
pub struct Jail {
    guest: Guest,
    /// The version of Landlock that holds its programs; 0: none.
    landlock: u32,
    /// Whoever has a user of its own is this one.
    user: Option<u32>,
    /// Groups that may use the devices of the jail.
    groups: Vec<u32>,
}

impl Jail {
    /// In the init that [`split`] has made.
    pub fn enter(wanted: &Boot, init: Init, layers: &mut Layers) -> Result<Jail, Failure> {
        // Without privileges there is one user only.
        let user = init.has_all_users().then(|| FIRST_USER + init.host_pid as u32 % MOST_USERS);
        let guest = namespace::enter(wanted, init, Engine::Namespace, layers)?;
        Ok(Jail { guest, landlock: landlock::abi(wanted), user, groups: groups_of_devices(wanted) })
    }

    /// Whether rules on files hold here.
    pub fn has_landlock(&self) -> bool {
        self.landlock > 0
    }

    /// What a program has of it, for people.
    pub fn describe(&self, program: &HostProgram) -> String {
        let user = self.user.filter(|_| program.own_user);
        let user = user.map_or("the caller's user, in a namespace of its own".into(), |user| format!("user {user}"));
        match program.files.as_ref().filter(|_| self.has_landlock()) {
            Some(_) => format!("{user}, Landlock ABI {}", self.landlock),
            None => user,
        }
    }

    /// Who a program is.
    pub fn user_of(&self, program: &HostProgram) -> (u32, u32) {
        let ours = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
        self.user.filter(|_| program.own_user).map_or(ours, |user| (user, user))
    }

    /// Starts a program with nothing but these descriptors (`further`: from 3 on), and says when it runs. While there is one
    /// thread.
    pub fn start(&self, program: &HostProgram, descriptors: [OwnedFd; 3], further: Vec<OwnedFd>) -> Result<Started, Failure> {
        let (uid, gid) = self.user_of(program);
        let has_own = self.user == Some(uid);
        let wanted = Spawn {
            arguments: program.arguments.clone(),
            environment: program.environment.clone(),
            directory: Bytes::from("/"),
            uid,
            gid,
            groups: if has_own { self.groups.clone() } else { Vec::new() },
            stdio: Stdio::Descriptors([Some(0), Some(1), Some(2)]),
        };
        let mut own = CapabilitySet::empty();
        for name in &program.capabilities {
            let one = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name).filter(|one| KEEPABLE.contains(*one));
            own |= one.ok_or_else(|| failure(FailureKind::Invalid, format!("{name} cannot be kept in a jail")))?;
        }
        let restriction = match &program.files {
            Some(files) => landlock::Restriction::make(&self.rules_of(files), self.landlock, None)?,
            None => None,
        };
        let around = Surroundings {
            guest: &self.guest,
            kept: self.guest.kept | own,
            kept_by_others: own,
            restriction: restriction.as_ref(),
            process_limit: None,
            listens: program.opens_for_others,
            dies_first: false,
            fixed_addresses: program.fixed_addresses,
        };
        let started = spawn::start(&wanted, Streams { descriptors, terminal: false, further }, &around);
        started.map_err(|error| failure(FailureKind::Unsupported, error.message))
    }

    /// As much as this version of Landlock holds: the other walls are there all the same.
    fn rules_of(&self, files: &[FileRule]) -> Rules {
        let (ports, scopes) = landlock::held_besides_files(self.landlock);
        let files = self.has_landlock().then(|| files.to_vec());
        Rules { files, ports, scopes, ..Rules::default() }
    }
}

/// Those of root's would give more than the device.
fn groups_of_devices(wanted: &Boot) -> Vec<u32> {
    let devices = wanted.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Device { .. }));
    let group = |mount: &Mount| rustix::fs::stat(OsStr::from_bytes(&mount.target.0)).ok().map(|stat| stat.st_gid);
    devices.filter_map(group).filter(|gid| *gid != 0).collect()
}
