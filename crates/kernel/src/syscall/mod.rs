//! The system calls: [`table`] has one row for each; a handler decodes its registers into types, calls one room of the
//! kernel and returns. Handlers are grouped by family, a file each.
//!
//! A handler is `fn(&mut Context, A, B, ...) -> Result<R>` with at most six arguments, each of a type that implements
//! [`Argument`]; `R` implements [`ReturnValue`].

mod argument;
pub mod clone;
mod dispatch;
pub mod memory;
pub mod socket;
pub mod table;
mod trace;
pub mod event;
pub mod ipc;
pub mod poll;
pub mod table;
pub mod time;

pub use argument::{Argument, Handler, ReturnValue, UserAddress};
pub(crate) use dispatch::dispatch;
