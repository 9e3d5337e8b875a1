//! The system calls: [`table`] has one row for each; a handler decodes its registers into types, calls one room of the
//! kernel and returns. Handlers are grouped by family, a file each.
//!
//! A handler is `fn(&mut Context, A, B, ...) -> Result<R>` with at most six arguments, each of a type that implements
//! [`Argument`]; `R` implements [`ReturnValue`].

mod argument;
pub mod event;
pub mod ipc;
pub mod poll;
pub mod table;
pub mod time;
pub mod timer;

pub use argument::{Argument, Handler, ReturnValue, UserAddress};
