//! Terminals (tty(4), pty(7)).
//!
//! [`Terminal`] is a pseudo-terminal: the line [`discipline`] between its two sides, its [`termios`], its window, and the
//! session that it controls ([`job_control`]). [`files`] are its open ends, [`devpts`] their names, [`console`] joins one
//! to the caller's terminal. [`Terminals`] is the kernel's list of them.
//!
//! Lock order: task room > `Session::terminal`; `Terminals::list` and `Terminal::state` are innermost, and never held
//! together, nor while signals are sent or anybody is woken.

pub mod console;
pub mod devpts;
mod discipline;
mod files;
mod ioctl;
mod job_control;
mod terminal;
mod termios;
#[cfg(test)]
mod tests;

pub use console::Console;
pub use files::{MasterFile, SlaveFile};
pub use terminal::Terminal;
pub use termios::{Termios, WindowSize};

use crate::fs::inode::Device;
use crate::fs::path::Path;
use crate::fs::walk::{self, Follow};
use crate::task::Task;
use crate::{Errno, Kernel, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock, Weak};

/// Terminals that a sandbox may have (Linux: /proc/sys/kernel/pty/max).
const TERMINALS_MAX: usize = 4096;

/// The terminals of a sandbox, by number.
#[derive(Default)]
pub struct Terminals {
    list: Mutex<BTreeMap<u32, Weak<Terminal>>>,
    /// devpts's.
    device: OnceLock<Device>,
}

impl Terminals {
    /// Makes one with the lowest free number, locked; `owner`: of its node. ENOSPC where there are too many.
    pub(crate) fn create(&self, kernel: &Arc<Kernel>, owner: (u32, u32)) -> Result<Arc<Terminal>> {
        let mut list = self.list.lock();
        if list.len() >= TERMINALS_MAX {
            return Err(Errno::ENOSPC);
        }
        let index = (0..).zip(list.keys()).find(|(index, used)| index != *used).map_or(list.len() as u32, |(index, _)| index);
        let terminal = Terminal::new(Arc::downgrade(kernel), index, owner);
        list.insert(index, Arc::downgrade(&terminal));
        Ok(terminal)
    }

    /// The master is closed: the number is free again, and the node gone.
    fn remove(&self, index: u32) {
        self.list.lock().remove(&index);
    }

    pub(crate) fn get(&self, index: u32) -> Option<Arc<Terminal>> {
        self.list.lock().get(&index).and_then(Weak::upgrade)
    }

    fn indexes(&self) -> Vec<u32> {
        self.list.lock().keys().copied().collect()
    }

    pub fn count(&self) -> usize {
        self.list.lock().len()
    }
}

/// Tells the kernel's device registry about /dev/ptmx and /dev/tty: once, at boot.
pub fn register_devices(kernel: &Kernel) {
    devpts::register(kernel);
}

/// Mounts devpts at /dev/pts, where there is such a directory, and registers the devices: once, at boot, after the tree
/// has been built.
pub fn mount(kernel: &Arc<Kernel>, device: Device) -> Result<()> {
    register_devices(kernel);
    let root = kernel.mounts.root().ok_or(Errno::ENOENT)?;
    let place = match walk::resolve_from_root(&kernel.mounts, &root, b"/dev/pts", Follow::Yes) {
        Ok(place) => place,
        Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(()),
        Err(errno) => return Err(errno),
    };
    let flags =
        crate::fs::mount::MountFlags::RELATIME | crate::fs::mount::MountFlags::NOSUID | crate::fs::mount::MountFlags::NOEXEC;
    let new = crate::fs::mount::NewMount {
        file_system: devpts::DevPts::new(kernel, device),
        root: None,
        source: b"devpts".to_vec(),
        options: "gid=5,mode=620,ptmxmode=666".into(),
        flags,
    };
    kernel.mounts.mount_at(&place, new).map(drop)
}

/// A program starts as its session's leader: a terminal among its standard streams that controls nobody yet becomes its
/// controlling terminal, and its node the program's user's.
pub(crate) fn take_control(leader: &Task) {
    for fd in 0..3 {
        let Ok(file) = leader.files().get(fd) else { continue };
        let Some(slave) = file.downcast::<SlaveFile>() else { continue };
        if slave.terminal().state().session.upgrade().is_none() {
            let group = leader.process().group();
            job_control::bind(slave.terminal(), &group.session, &group);
            slave.terminal().state().owner.0 = leader.credentials().euid;
            return;
        }
    }
}

/// Where a terminal's node is, if devpts is mounted at /dev/pts.
fn path_of(kernel: &Kernel, terminal: &Terminal) -> Option<Path> {
    let root = kernel.mounts.root()?;
    let name = format!("/dev/pts/{}", terminal.index());
    let place = walk::resolve_from_root(&kernel.mounts, &root, name.as_bytes(), Follow::Yes).ok()?;
    let is_same = place.inode().metadata().is_ok_and(|metadata| metadata.represents == terminal.device());
    is_same.then_some(place)
}
