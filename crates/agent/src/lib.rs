//! `skerry-agent`: the init of a guest that runs on the host's Linux kernel, or on one of its own. It answers the control
//! protocol that the sentry answers, so that whoever drives a sandbox needs to know one only.
//!
//! Parts: `boot` (from the `boot` message to a guest), `namespace` and `rules` (the walls of those names), `guest` (what is known
//! of one), `calls` (which calls programs may make, as data, and the filter that holds it), `server` (requests, deaths,
//! denials and terminals, in one loop on one thread), `watch` (what is told of denials that the host's kernel makes by itself), `place`
//! (files as a program finds them), `spawn` (from a fork to a program), `terminal`, `files`.
//!
//! One thread, always: programs are started by fork(2) and namespaces are entered, both of which ask for it.
#![forbid(unsafe_code)]

mod boot;
mod calls;
mod files;
mod guest;
mod init;
pub mod jail;
mod namespace;
mod place;
mod rules;
mod server;
mod spawn;
mod terminal;
mod watch;
mod weaken;

pub use rules::reach;

use guest::Engine;
use rustix::fs::{MemfdFlags, SealFlags};
use skerry_confine::connection::Connection;
use skerry_control::{Failure, FailureKind};
use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;

const USAGE: &str = "usage: skerry-agent --control-fd N --engine namespace|rules | --sweep | --version\n\
    The init of one sandbox; started by the skerry command. N is a connected stream socket.\n\
    --sweep takes away the cgroups that killed sandboxes have left, and prints them.";

/// The whole program.
pub fn main() -> ExitCode {
    if init::is_asked_for() {
        return init::run();
    }
    let engines = [Engine::Namespace, Engine::Rules];
    let named = std::env::args().skip_while(|word| word != "--engine").nth(1);
    let engine = engines.into_iter().find(|engine| named.as_deref() == Some(engine.name())).unwrap_or(Engine::Namespace);
    let mut rest = vec!["--engine", engine.name()];
    let weakened = weaken::list().filter(|list| list.split(',').all(|part| weaken::PARTS.contains(&part)));
    rest.extend(weakened.iter().flat_map(|list| [weaken::OPTION, list]));
    skerry_confine::program::main("skerry-agent", USAGE, &rest, |control| run(control, engine))
}

fn run(control: i32, engine: Engine) -> Result<ExitCode, Box<dyn std::error::Error>> {
    // What the caller may have left open besides is not for us, and less so for the programs that we run.
    if !weaken::is_out("descriptors") {
        skerry_platform::foreground::close_all_but([0, 1, 2, control]);
    }
    become_sealed(control)?;
    let socket = skerry_platform::own::take_descriptor(control)?;
    boot::serve(Connection::new(socket), engine)
}

/// Goes on as a sealed copy of ourselves: a program that gets hold of /proc/PID/exe has nothing of the host's to write to.
fn become_sealed(control: i32) -> Result<(), Box<dyn std::error::Error>> {
    let own = std::fs::File::open("/proc/self/exe")?;
    if rustix::fs::fcntl_get_seals(&own).is_ok_and(|seals| seals.contains(SealFlags::WRITE)) {
        return Ok(());
    }
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels from before 6.3 know no MFD_EXEC, and give what it asks for.
    let copy = rustix::fs::memfd_create("skerry-agent", flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create("skerry-agent", flags))?;
    let mut left = own.metadata()?.len();
    while left > 0 {
        match rustix::fs::sendfile(&copy, &own, None, left as usize)? {
            0 => break,
            count => left = left.saturating_sub(count as u64),
        }
    }
    rustix::fs::fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    // Whoever executes a file must be able to read it again by descriptor: not through one that can write.
    let copy = std::fs::File::open(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&copy)))?;
    let socket = skerry_platform::own::take_descriptor(control)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty())?;
    let arguments: Result<Vec<CString>, _> = std::env::args_os().map(|word| CString::new(word.as_bytes())).collect();
    Err(skerry_platform::agent::execute_file(copy.as_fd(), &arguments?).into())
}

pub(crate) fn failure(kind: FailureKind, message: impl std::fmt::Display) -> Failure {
    Failure { kind, message: message.to_string(), errno: None }
}
