//! `skerry-sentry`: one process per sandbox. It is started by the Python side with one end of a socket, over which it is
//! told what to be (`boot`) and what to run (`spawn`); when the socket closes, the sandbox ends.
//!
//! Parts: `confine` (namespaces, Landlock, capabilities, the own seccomp filter), `boot` (from the `boot` message to a
//! running kernel), `server` (the control protocol), `files` (its file operations, on the threads of `file_workers`).
#![forbid(unsafe_code)]

mod boot;
mod confine;
mod file_workers;
mod files;
mod limits;
mod server;

use std::process::ExitCode;

const USAGE: &str = "usage: skerry-sentry --control-fd N | --sweep | --version\n\
    The guest kernel of one sandbox; started by the skerry command. N is a connected stream socket.\n\
    --sweep takes away the cgroups that killed sandboxes have left, and prints them.";

fn main() -> ExitCode {
    skerry_confine::program::main("skerry-sentry", USAGE, &[], run)
}

fn run(control: i32) -> Result<ExitCode, Box<dyn std::error::Error>> {
    skerry_platform::own::return_large_memory();
    skerry_platform::own::descriptor_limit();
    // What the caller may have left open besides is not for us, and less so for the programs that we run.
    skerry_platform::foreground::close_all_but([0, 1, 2, control]);
    let socket = skerry_platform::own::take_descriptor(control)?;
    server::serve(skerry_confine::connection::Connection::new(socket))
}
