//! Mounts (mount(2)): which file system appears where.

use crate::fs::inode::FileSystem;
use std::sync::Arc;

/// One mounted file system.
pub struct Mount {
    pub file_system: Arc<dyn FileSystem>,
}

/// The mounts of the sandbox.
#[derive(Default)]
pub struct MountTable {}
