//! Names: [`Dentry`] (a name in a directory), [`Path`] (a dentry seen through a mount), and the path walk
//! (path_resolution(7)).

use crate::fs::inode::Inode;
use crate::fs::mount::Mount;
use std::sync::Arc;

/// A name in a directory, and the inode behind it.
pub struct Dentry {
    pub inode: Arc<dyn Inode>,
}

/// A place in the tree.
#[derive(Clone)]
pub struct Path {
    pub mount: Arc<Mount>,
    pub dentry: Arc<Dentry>,
}

impl Path {
    pub fn inode(&self) -> &Arc<dyn Inode> {
        &self.dentry.inode
    }
}
