//! What `skerry-machine` puts around a virtual machine monitor: the wall of the engine `namespace`, with a tree of its own,
//! and its programs started as any other.

use crate::guest::{Engine, Guest};
pub use crate::spawn::Started;
use crate::spawn::{self, Streams, Surroundings};
use crate::{failure, namespace};
use rustix::thread::CapabilitySet;
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Bytes, Failure, FailureKind, HostProgram, Spawn, Stdio};
use std::os::fd::OwnedFd;

pub use namespace::{split, Init, Split};

/// What a server of files may keep. They count in the jail's own user namespace only.
const KEEPABLE: CapabilitySet = namespace::KEPT.union(CapabilitySet::SETPCAP);

/// A jail that we are in.
pub struct Jail {
    guest: Guest,
}

impl Jail {
    /// In the init that [`split`] has made.
    pub fn enter(wanted: &Boot, init: Init, layers: &mut Layers) -> Result<Jail, Failure> {
        namespace::enter(wanted, init, Engine::Namespace, layers).map(|guest| Jail { guest })
    }

    /// Starts a program with nothing but these descriptors, and says when it runs. While there is one thread.
    pub fn start(&self, program: &HostProgram, descriptors: [OwnedFd; 3]) -> Result<Started, Failure> {
        let wanted = Spawn {
            arguments: program.arguments.clone(),
            environment: program.environment.clone(),
            directory: Bytes::from("/"),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: Vec::new(),
            stdio: Stdio::Descriptors([Some(0), Some(1), Some(2)]),
        };
        let mut kept = self.guest.kept;
        for name in &program.capabilities {
            let one = name.strip_prefix("CAP_").and_then(CapabilitySet::from_name).filter(|one| KEEPABLE.contains(*one));
            kept |= one.ok_or_else(|| failure(FailureKind::Invalid, format!("{name} cannot be kept in a jail")))?;
        }
        let around = Surroundings {
            guest: &self.guest,
            kept,
            process_limit: None,
            listens: program.opens_for_others,
            dies_first: false,
            fixed_addresses: program.fixed_addresses,
        };
        let started = spawn::start(&wanted, Streams { descriptors, terminal: false }, &around);
        started.map_err(|error| failure(FailureKind::Unsupported, error.message))
    }
}
