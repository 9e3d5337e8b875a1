//! `skerry-gateway`: user-mode networking for a guest whose network card is a stream of Ethernet frames, with the policy in it. The
//! guest's packets end here; what it may reach it reaches by sockets that this program opens (ADR 51).
//!
//! Started with the line to the virtual machine monitor as descriptor 3 and a configuration ([`config`]) on standard input; says
//! `ready` on standard output when it is confined and serves, and ends when the line does.
//!
//! Parts: [`line`] (frames on a stream), [`ethernet`] (the link: everybody is us), [`packet`] (IP, hostile, becomes a checked view),
//! [`tcp`], [`udp`], [`echo`] and [`dns`] (what packets are of), [`policy`] (where they may go), [`host`] (what is the host's own),
//! [`report`] (what was denied), [`stack`] (the loop),
//! [`confine`] (what this program may ask of the host).
#![forbid(unsafe_code)]

mod checksum;
mod config;
mod confine;
mod context;
mod dns;
mod echo;
mod ethernet;
#[cfg(test)]
mod fuzz_tests;
mod host;
mod line;
mod packet;
mod policy;
mod report;
mod stack;
mod subnet;
mod tcp;
mod udp;

use config::Config;
use host::Routes;
use stack::Stack;
use std::io::Write;
use std::process::ExitCode;

/// The line to the monitor.
const LINE: i32 = 3;

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("{0}")]
    Config(#[from] config::Error),
    #[error("descriptor {LINE} is to be the line to the virtual machine: {0}")]
    Line(skerry_platform::HostError),
    #[error("{0}: {1}")]
    Host(&'static str, rustix::io::Errno),
    #[error("{0}")]
    Confine(#[from] confine::Error),
    #[error("the line to the virtual machine: {0}")]
    Broken(line::Error),
    #[error("{0}")]
    Usage(&'static str),
}

/// The whole program.
pub fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("skerry-gateway: {error}");
            ExitCode::FAILURE
        }
    }
}

/// In a line. The usual way looks up where it came from in files that are out of reach then.
fn tell_panics() {
    std::panic::set_hook(Box::new(|information| {
        let text = information.to_string().replace('\n', " ");
        let _ = writeln!(std::io::stderr(), "skerry-gateway: {text}");
    }));
}

fn run() -> Result<(), Error> {
    tell_panics();
    match std::env::args_os().nth(1) {
        None => {}
        Some(word) if word == "--version" => {
            println!("skerry-gateway {}", env!("CARGO_PKG_VERSION"));
            return Ok(());
        }
        Some(_) => {
            return Err(Error::Usage("there are no arguments: descriptor 3 is the line, standard input the configuration"))
        }
    }
    skerry_platform::foreground::close_all_but(0..=LINE);
    let guest = skerry_platform::own::take_descriptor(LINE).map_err(Error::Line)?;
    let config = Config::read(std::io::stdin().lock())?;
    let routes = Routes::open().map_err(|error| Error::Host("the host does not tell its addresses (netlink)", error))?;
    let limits = confine::Limits::of(&config);
    let mut stack = Stack::new(guest, config, routes).map_err(|error| Error::Host("epoll", error))?;
    confine::confine(&limits)?;
    let mut output = std::io::stdout().lock();
    let told = output.write_all(b"ready\n").and_then(|()| output.flush());
    drop(output);
    if told.is_err() {
        return Ok(()); // nobody waits for us any more
    }
    stack.serve().map_err(Error::Broken)
}
