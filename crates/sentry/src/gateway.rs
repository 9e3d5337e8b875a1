//! `skerry-gateway`, the program: the crate of that name is all of it. It is built here because a wheel is built from one
//! package's programs.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    skerry_gateway::main()
}
