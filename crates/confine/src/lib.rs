//! What the sentry and the agent have in common towards their host: the control socket, and the control groups that hold a
//! sandbox's limits.
#![forbid(unsafe_code)]

pub mod cgroup;
pub mod connection;
