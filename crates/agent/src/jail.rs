//! What `skerry-machine` puts around a virtual machine monitor: the wall of the engine `namespace`, with a tree of its own,
//! and its programs started as any other.

use crate::guest::{Engine, Guest};
use crate::spawn::{self, Streams, Surroundings};
use crate::{failure, namespace};
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Bytes, Failure, FailureKind, HostProgram, Spawn, Stdio};
use std::os::fd::OwnedFd;

pub use namespace::{split, Init, Split};

/// A jail that we are in.
pub struct Jail {
    guest: Guest,
}

impl Jail {
    /// In the init that [`split`] has made.
    pub fn enter(wanted: &Boot, init: Init, layers: &mut Layers) -> Result<Jail, Failure> {
        namespace::enter(wanted, init, Engine::Namespace, layers).map(|guest| Jail { guest })
    }

    /// Starts a program with nothing but these descriptors, at fixed addresses, and says when it runs. While there is one
    /// thread.
    pub fn start(&self, program: &HostProgram, descriptors: [OwnedFd; 3]) -> Result<i32, Failure> {
        let wanted = Spawn {
            arguments: program.arguments.clone(),
            environment: program.environment.clone(),
            directory: Bytes::from("/"),
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            groups: Vec::new(),
            stdio: Stdio::Descriptors([Some(0), Some(1), Some(2)]),
        };
        let around =
            Surroundings { guest: &self.guest, process_limit: None, listens: false, dies_first: false, fixed_addresses: true };
        let started = spawn::start(&wanted, Streams { descriptors, terminal: false }, &around);
        started.map(|started| started.pid).map_err(|error| failure(FailureKind::Unsupported, error.message))
    }
}
