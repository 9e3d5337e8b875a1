//! Linux's numbers and `#[repr(C)]` structures, as the x86-64 application binary interface has them.
//!
//! Constants come from `linux_raw_sys` (re-exported here as [`raw`]); this crate adds what that crate has no type for:
//! [`Errno`] and structures that can be turned into bytes and back without `unsafe` (through `zerocopy`).
#![no_std]
#![forbid(unsafe_code)]

pub mod calls;
mod errno;
pub mod signal;
pub mod structs;

pub use errno::Errno;
pub use linux_raw_sys as raw;
