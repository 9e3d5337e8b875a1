//! The system calls: [`table`] has one row for each; a handler decodes its registers into types, calls one room of the
//! kernel and returns. Handlers are grouped by family, a file each.
//!
//! A handler is `fn(&mut Context, A, B, ...) -> Result<R>` with at most six arguments, each of a type that implements
//! [`Argument`]; `R` implements [`ReturnValue`].

pub mod aio;
mod argument;
pub mod attribute;
pub mod clone;
pub mod credentials;
pub mod data;
pub mod descriptor;
pub mod directory;
mod dispatch;
pub mod event;
pub mod ipc;
pub mod lock;
pub mod memory;
pub mod mount;
pub mod mqueue;
pub mod name;
pub mod notify;
pub mod path;
pub mod poll;
pub mod prctl;
pub mod process;
pub mod ptrace;
pub mod read_write;
pub mod resource;
pub mod scheduling;
pub mod signal;
pub mod socket;
pub mod system;
pub mod sysv;
pub mod table;
pub mod time;
pub mod timer;
mod trace;
pub mod xattr;

pub use argument::{Argument, Handler, ReturnValue, UserAddress};
pub(crate) use dispatch::dispatch;
pub(crate) use event::carry_out_deferred;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
