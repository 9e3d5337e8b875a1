//! The command line of the programs that the Python side starts: they are told by a socket what to do.

use std::error::Error;
use std::process::ExitCode;

/// Our own failure, as the command line tells it.
pub const FAILURE: u8 = 125;
const USAGE: u8 = 2;

/// The whole program: `--version`, `--sweep`, or `--control-fd N` with the words of `rest` behind it, which `run` gets N of.
pub fn main(name: &str, usage: &str, rest: &[&str], run: impl FnOnce(i32) -> Result<ExitCode, Box<dyn Error>>) -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--version"] => {
            println!("{name} {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        ["--sweep"] => {
            for path in crate::mark::sweep().into_iter().chain(crate::cgroup::sweep()).chain(crate::temporary::sweep()) {
                println!("{}", path.display());
            }
            return ExitCode::SUCCESS;
        }
        ["--control-fd", number, ref behind @ ..] if behind == rest => number.parse().ok(),
        _ => None,
    };
    let Some(number) = number else {
        eprintln!("{usage}");
        return ExitCode::from(USAGE);
    };
    run(number).unwrap_or_else(|error| {
        eprintln!("{name}: {error}");
        ExitCode::from(FAILURE)
    })
}
