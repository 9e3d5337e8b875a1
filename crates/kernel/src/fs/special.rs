//! What a file system keeps for nodes that are more than data: a FIFO's pipe, the socket bound to a name.

use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::Inode;
use crate::ipc::pipe::{self, FifoState};
use crate::{Context, Result};
use parking_lot::Mutex;
use std::any::Any;
use std::sync::{Arc, OnceLock, Weak};

/// Part of an inode that may be a FIFO or a socket; empty for all others.
#[derive(Default)]
pub struct SpecialState {
    fifo: OnceLock<Arc<FifoState>>,
    socket: Mutex<Option<Weak<dyn Any + Send + Sync>>>,
}

impl SpecialState {
    /// Opens the FIFO that `inode` is; may wait for the other end (fifo(7)).
    pub fn open_fifo(&self, context: &Context, inode: Arc<dyn Inode>, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        let fifo = self.fifo.get_or_init(|| {
            let fifo = FifoState::new();
            fifo.set_inode(Arc::downgrade(&inode));
            fifo
        });
        pipe::open_fifo(context, fifo, flags)
    }

    pub fn bound_socket(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.socket.lock().as_ref().and_then(Weak::upgrade)
    }

    pub fn set_bound_socket(&self, socket: Weak<dyn Any + Send + Sync>) -> Result<()> {
        *self.socket.lock() = Some(socket);
        Ok(())
    }
}
