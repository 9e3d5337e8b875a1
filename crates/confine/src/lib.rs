//! What the sentry and the agent have in common towards their host: the command line and the control socket, what holds a
//! sandbox's limits, which walls are in force, and who takes away what is left.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod connection;
pub mod cpus;
pub mod guardian;
pub mod layers;
pub mod mux;
pub mod program;
pub mod temporary;
