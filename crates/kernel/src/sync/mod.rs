//! Waiting and waking: the one primitive on which everything in the guest kernel blocks.

pub mod wait;

pub use wait::{Hears, Home, Registration, Suspended, WaitQueue, Waiter, Wake};
