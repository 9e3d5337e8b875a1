//! The names of unix sockets: a socket has at most one, for good (unix(7)); abstract ones are found in a table of the
//! sandbox's, which bind(2) fills and close(2) empties.

use super::{AnySocket, WeakAnySocket};
use crate::fs::inode::Inode;
use crate::net::address::UnixName;
use crate::net::NetworkStack;
use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;

/// The abstract names of a sandbox.
#[derive(Default)]
pub struct AbstractNames(Mutex<Names>);

#[derive(Default)]
struct Names {
    sockets: HashMap<Vec<u8>, WeakAnySocket>,
    /// Where the search for a free autobind name goes on.
    next: u32,
}

impl AbstractNames {
    /// EADDRINUSE.
    fn insert(&self, name: &[u8], socket: WeakAnySocket) -> Result<()> {
        let mut names = self.0.lock();
        if names.sockets.get(name).is_some_and(|present| present.strong_count() > 0) {
            return Err(Errno::EADDRINUSE);
        }
        names.sockets.insert(name.to_vec(), socket);
        Ok(())
    }

    /// A free name of five hexadecimal digits (unix(7), "Autobind feature"). ENOSPC.
    fn insert_free(&self, socket: WeakAnySocket) -> Result<Vec<u8>> {
        let mut names = self.0.lock();
        for _ in 0..=0xfffff {
            let name = format!("{:05x}", names.next & 0xfffff).into_bytes();
            names.next = names.next.wrapping_add(1);
            if !names.sockets.contains_key(&name) {
                names.sockets.insert(name.clone(), socket);
                return Ok(name);
            }
        }
        Err(Errno::ENOSPC)
    }

    fn remove(&self, name: &[u8]) {
        self.0.lock().sockets.remove(name);
    }

    /// ECONNREFUSED where nobody has the name.
    pub fn find(&self, name: &[u8]) -> Result<AnySocket> {
        self.0.lock().sockets.get(name).and_then(WeakAnySocket::upgrade).ok_or(Errno::ECONNREFUSED)
    }
}

/// A socket's own name.
#[derive(Default)]
pub struct BoundName(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    name: UnixName,
    /// The abstract name is this socket's (and not its listener's).
    owned: bool,
    /// What the path names, which knows the socket: a file system may forget a node that nobody uses.
    node: Option<Arc<dyn Inode>>,
}

impl BoundName {
    /// The name of a socket that accept(2) gives: its listener's.
    pub fn inherited(name: UnixName) -> BoundName {
        BoundName(Mutex::new(Inner { name, ..Inner::default() }))
    }

    pub fn get(&self) -> UnixName {
        self.0.lock().name.clone()
    }

    pub fn is_bound(&self) -> bool {
        self.0.lock().name != UnixName::Unnamed
    }

    /// Takes an abstract name, or with [`UnixName::Unnamed`] any free one. EINVAL where there is one already.
    pub fn bind(&self, network: &NetworkStack, name: &UnixName, socket: WeakAnySocket) -> Result<()> {
        let mut inner = self.0.lock();
        match name {
            UnixName::Unnamed => {
                if inner.name == UnixName::Unnamed {
                    inner.name = UnixName::Abstract(network.unix_names.insert_free(socket)?);
                    inner.owned = true;
                }
                Ok(())
            }
            UnixName::Abstract(bytes) => {
                if inner.name != UnixName::Unnamed {
                    return Err(Errno::EINVAL);
                }
                network.unix_names.insert(bytes, socket)?;
                inner.name = name.clone();
                inner.owned = true;
                Ok(())
            }
            // Paths go through `tree::bind`.
            UnixName::Path(_) => Err(Errno::EINVAL),
        }
    }

    /// Takes a path that `create` makes a node for, and returns it. EINVAL where there is a name already.
    pub fn bind_path(&self, path: &[u8], create: impl FnOnce() -> Result<Arc<dyn Inode>>) -> Result<()> {
        if self.is_bound() {
            return Err(Errno::EINVAL);
        }
        // Not under the lock: making the node may take long. Two binds at once can leave a node behind, as on Linux.
        let node = create()?;
        let mut inner = self.0.lock();
        if inner.name != UnixName::Unnamed {
            return Err(Errno::EINVAL);
        }
        inner.name = UnixName::Path(path.to_vec());
        inner.node = Some(node);
        Ok(())
    }

    /// At the socket's end.
    pub fn release(&self, network: &NetworkStack) {
        let mut inner = self.0.lock();
        if let (true, UnixName::Abstract(name)) = (inner.owned, &inner.name) {
            network.unix_names.remove(name);
        }
        inner.owned = false;
        let node = inner.node.take();
        drop(inner);
        drop(node);
    }
}
