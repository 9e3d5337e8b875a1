//! The system calls: [`table`] has one row for each; a handler decodes its registers into types, calls one room of the
//! kernel and returns. Handlers are grouped by family, a file each.
//!
//! A handler is `fn(&mut Context, A, B, ...) -> Result<R>` with at most six arguments, each of a type that implements
//! [`Argument`]; `R` implements [`ReturnValue`].

pub mod aio;
mod argument;
pub mod clone;
mod dispatch;
pub mod event;
pub mod ipc;
pub mod memory;
pub mod mqueue;
pub mod notify;
pub mod sysv;
pub mod poll;
pub mod socket;
pub mod descriptor;
pub mod directory;
pub mod lock;
pub mod attribute;
pub mod data;
pub mod mount;
pub mod name;
pub mod xattr;
pub mod path;
pub mod read_write;
pub mod credentials;
pub mod prctl;
pub mod process;
pub mod resource;
pub mod scheduling;
pub mod signal;
pub mod system;
pub mod table;
pub mod time;
mod trace;
pub mod timer;

pub use argument::{Argument, Handler, ReturnValue, UserAddress};
pub(crate) use dispatch::dispatch;

#[cfg(test)]
mod fuzz_tests;
#[cfg(test)]
mod tests;
