//! The layer beneath the guest kernel: everything that is `unsafe` or that talks to the host on the guest's behalf.
//!
//! [`memory`]: guest memory. [`engine`]: how application processes are made, stopped, and served.
pub mod cpu_clock;
pub mod engine;
pub mod memory;
