//! Inter-process communication: pipes and FIFOs ([`pipe`]).

pub mod pipe;
