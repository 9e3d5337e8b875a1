//! Names of unix sockets in the file system (unix(7), "Pathname sockets"): bind(2) makes a node that knows its socket.
//!
//! A socket that was there before the sandbox belongs to the host: its node knows nobody, and is refused like a stale one.

use super::{AnySocket, Named};
use crate::fs::inode::{FileType, Metadata, NewNodeKind};
use crate::fs::notify::NotifyMask;
use crate::fs::path::Path;
use crate::fs::permission::create_node;
use crate::fs::walk::{resolve, resolve_parent, Follow, Last};
use crate::task::AccessMode;
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use skerry_abi::raw::general::AT_FDCWD;
use skerry_control::Event;
use std::collections::HashSet;

/// Nodes that were made by bind(2) in this sandbox, by device and number: a stale one is no host object. Only for what
/// events say, so that it may forget.
#[derive(Default)]
pub struct OwnNodes(Mutex<HashSet<(u64, u64)>>);

const REMEMBERED: usize = 1 << 16;

impl OwnNodes {
    fn insert(&self, metadata: &Metadata) {
        let mut nodes = self.0.lock();
        if nodes.len() >= REMEMBERED {
            nodes.clear();
        }
        nodes.insert((metadata.device.encode(), metadata.inode));
    }

    fn contains(&self, metadata: &Metadata) -> bool {
        self.0.lock().contains(&(metadata.device.encode(), metadata.inode))
    }
}

/// The socket bound at `path`. ENOENT and the like from the walk, EACCES without write permission, ECONNREFUSED where
/// there is no socket, or nobody has it.
pub fn find(context: &Context, path: &[u8]) -> Result<AnySocket> {
    let place = resolve(context.task, AT_FDCWD, path, Follow::Yes)?;
    let inode = place.inode();
    let metadata = inode.metadata()?;
    context.task.credentials().check_access(&metadata, AccessMode::WRITE)?;
    if inode.kind() != FileType::Socket {
        return Err(Errno::ECONNREFUSED);
    }
    inode.bound_socket().ok_or_else(|| {
        report_denied(context, &place, &metadata);
        Errno::ECONNREFUSED
    })
}

fn report_denied(context: &Context, place: &Path, metadata: &Metadata) {
    if place.mount.file_system.type_name() == "tmpfs" || context.kernel().net.own_nodes.contains(metadata) {
        return;
    }
    (context.kernel().events)(Event::Denied {
        process: context.process().pid() as u32,
        what: "socket".into(),
        path: skerry_control::Bytes(place.absolute_name(&context.task.fs().root)),
    });
}

/// Makes a socket node at `path` and binds `socket` to it. EINVAL (it has a name), EADDRINUSE (something is there), and
/// what making a file may give.
pub fn bind(context: &Context, socket: &dyn Named, path: &[u8]) -> Result<()> {
    socket.bound_name().bind_path(path, || {
        let (directory, last) = resolve_parent(context.task, AT_FDCWD, path)?;
        let name = match last {
            Last::Name { trailing_slash: true, .. } => return Err(Errno::ENOENT),
            Last::Name { name, .. } => name,
            Last::Dot | Last::DotDot | Last::Root => return Err(Errno::EADDRINUSE),
        };
        let made = create_node(context.task, &directory, &name, NewNodeKind::Socket, 0o777);
        let dentry = made.map_err(|errno| if errno == Errno::EEXIST { Errno::EADDRINUSE } else { errno })?;
        dentry.inode.set_bound_socket(socket.target())?;
        if let Ok(metadata) = dentry.inode.metadata() {
            context.kernel().net.own_nodes.insert(&metadata);
        }
        context.kernel().watches.report(directory.inode(), NotifyMask::CREATE, &name, 0);
        Ok(dentry.inode.clone())
    })
}
