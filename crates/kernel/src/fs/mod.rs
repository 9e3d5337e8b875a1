//! Files and file systems.
//!
//! [`file`]: open files and what they can do. [`inode`]: what a file system offers. [`path`], [`mount`], [`walk`]: names
//! to inodes. [`open`]: names to open files. [`boot`]: the tree that a sandbox starts with. One folder per file system.

pub mod anonymous;
pub mod board;
pub mod boot;
pub mod clock;
pub mod close;
pub mod dentry_cache;
pub mod dev;
pub mod direct;
pub mod directory_notify;
pub mod exec;
pub mod fd_table;
pub mod file;
pub mod host;
pub mod host_file;
pub mod inode;
mod known;
pub mod lease;
pub mod lending;
pub mod listing;
pub mod lock;
pub mod mount;
pub mod names;
pub mod notify;
pub mod open;
pub mod overlay;
pub mod path;
pub mod permission;
pub mod position;
pub mod proc;
pub mod pseudo;
pub mod signal_io;
pub mod special;
pub mod sys;
pub mod text;
pub mod tmpfs;
pub mod walk;
pub mod xattr;

#[cfg(test)]
mod tests;

pub use boot::{build, Services};
