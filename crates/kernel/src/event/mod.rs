//! (being built)
pub mod host;
