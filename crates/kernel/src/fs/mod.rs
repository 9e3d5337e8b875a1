//! Files and file systems.
//!
//! [`file`]: open files and what they can do. [`inode`]: what a file system offers. `path`, `mount`: names to inodes.
//! One folder per file system.

pub mod file;
pub mod host_file;
pub mod inode;
pub mod anonymous;
pub mod fd_table;
pub mod mount;
pub mod path;
pub mod proc;
pub mod pseudo;
pub mod sys;
pub mod tmpfs;
