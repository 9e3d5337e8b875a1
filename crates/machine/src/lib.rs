//! `skerry-machine`: the host's side of a guest with a kernel of its own. Towards whoever drives a sandbox it is what the
//! sentry and the agent are: it answers the control protocol, and takes descriptors. Inside of it run, in a jail, a virtual
//! machine monitor (or User Mode Linux) and what that needs; in the guest the agent answers, over one serial line.
//!
//! Parts: `boot` (from the `boot` message to a guest that answers), `relay` (requests and their descriptors, replies, ends),
//! `monitor` (the jail's programs: their console and their end), `gateway` (what the guest's network ends at), `conversation` (what a
//! monitor is told), `copy` (the memory of one that is kept), `opens` (files of others). The line's own protocol is `skerry_confine::mux`.
//!
//! What comes from the guest is hostile: it is taken apart into messages of the protocol before anybody hears of it, and what
//! is none ends the sandbox.
#![forbid(unsafe_code)]

mod boot;
mod conversation;
mod copy;
mod gateway;
mod monitor;
mod opens;
mod relay;

use skerry_confine::connection::Connection;
use skerry_control::{Failure, FailureKind};
use std::process::ExitCode;

const USAGE: &str = "usage: skerry-machine --control-fd N --engine uml|microvm | --sweep | --version\n\
    The host's side of one sandbox with a kernel of its own; started by the skerry command. N is a connected stream socket.\n\
    --sweep takes away the cgroups that killed sandboxes have left, and prints them.";

const ENGINES: [&str; 2] = ["uml", "microvm"];

/// The whole program.
pub fn main() -> ExitCode {
    let last = std::env::args().next_back();
    let engine = ENGINES.into_iter().find(|engine| last.as_deref() == Some(*engine)).unwrap_or(ENGINES[0]);
    skerry_confine::program::main("skerry-machine", USAGE, &["--engine", engine], |control| {
        // What the caller may have left open besides is not for us.
        skerry_platform::foreground::close_all_but([0, 1, 2, control]);
        boot::serve(Connection::new(skerry_platform::own::take_descriptor(control)?), engine)
    })
}

fn failure(kind: FailureKind, message: impl std::fmt::Display) -> Failure {
    Failure { kind, message: message.to_string(), errno: None }
}
