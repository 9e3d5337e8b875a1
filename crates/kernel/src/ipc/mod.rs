//! Inter-process communication: pipes and FIFOs ([`pipe`]), System V objects ([`sysv`]), POSIX message queues ([`mqueue`]).

pub mod mqueue;
pub mod pipe;
pub mod sysv;
