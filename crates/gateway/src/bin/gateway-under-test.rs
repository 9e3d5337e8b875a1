//! `skerry-gateway` as this crate's tests start it. What is shipped is crates/sentry's: a wheel is built from one package's programs.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    skerry_gateway::main()
}
