//! Waiting and waking: the one primitive on which everything in the guest kernel blocks.

pub mod wait;

pub use wait::{Registration, WaitQueue, Waiter, Wake};
