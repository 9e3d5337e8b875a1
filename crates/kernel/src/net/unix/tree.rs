//! Names of unix sockets in the file system.

use super::{AnySocket, Named};
use crate::{Context, Errno, Result};

/// The socket bound at `path`.
pub fn find(_context: &Context, _path: &[u8]) -> Result<AnySocket> {
    Err(Errno::ECONNREFUSED)
}

/// Makes a socket node at `path` and binds `socket` to it.
pub fn bind(_context: &Context, _socket: &dyn Named, _path: &[u8]) -> Result<()> {
    Err(Errno::EROFS)
}
