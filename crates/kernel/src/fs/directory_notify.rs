//! F_NOTIFY (fcntl(2), "File and directory change notification"): a signal when something happens in a directory.
//!
//! A [`DirectoryWatch`] hangs in the registry that inotify(7) uses, and belongs to an open directory and the process that
//! asked. It goes when that process closes the descriptor, and after its first event without DN_MULTISHOT.

use crate::fs::file::OpenFile;
use crate::fs::inode::Inode;
use crate::fs::notify::{NotifyMask, Watcher};
use crate::fs::signal_io;
use crate::{Errno, Kernel, Result};
use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

bitflags::bitflags! {
    /// DN_*.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct DirectoryEvents: u32 {
        const ACCESS = 0x1;
        const MODIFY = 0x2;
        const CREATE = 0x4;
        const DELETE = 0x8;
        const RENAME = 0x10;
        const ATTRIBUTES = 0x20;
        const MULTISHOT = 1 << 31;
    }
}

impl DirectoryEvents {
    /// What of `mask` was asked for.
    fn of(mask: NotifyMask) -> DirectoryEvents {
        let pairs = [
            (NotifyMask::ACCESS, DirectoryEvents::ACCESS),
            (NotifyMask::MODIFY, DirectoryEvents::MODIFY),
            (NotifyMask::CREATE, DirectoryEvents::CREATE),
            (NotifyMask::MOVED_TO, DirectoryEvents::CREATE),
            (NotifyMask::DELETE, DirectoryEvents::DELETE),
            (NotifyMask::MOVED_FROM, DirectoryEvents::DELETE),
            (NotifyMask::ATTRIB, DirectoryEvents::ATTRIBUTES),
        ];
        pairs.iter().filter(|(notify, _)| mask.contains(*notify)).fold(DirectoryEvents::empty(), |all, (_, event)| all | *event)
    }
}

struct DirectoryWatch {
    kernel: Weak<Kernel>,
    file: Weak<OpenFile>,
    fd: i32,
    /// Who asked.
    process: i32,
    inode: Arc<dyn Inode>,
    /// Empty when it has fired its last.
    events: Mutex<DirectoryEvents>,
    /// Of the last name that was moved out: if it comes in again, it was renamed here.
    moved_out: AtomicU32,
}

impl Watcher for DirectoryWatch {
    fn event(&self, mask: NotifyMask, _name: &[u8], cookie: u32) {
        let mut told = DirectoryEvents::of(mask);
        if mask.contains(NotifyMask::MOVED_FROM) {
            self.moved_out.store(cookie, Ordering::Relaxed);
        }
        if mask.contains(NotifyMask::MOVED_TO) && self.moved_out.load(Ordering::Relaxed) == cookie {
            told |= DirectoryEvents::RENAME;
        }
        {
            let mut events = self.events.lock();
            if !events.intersects(told) {
                return;
            }
            if !events.contains(DirectoryEvents::MULTISHOT) {
                *events = DirectoryEvents::empty();
            }
        }
        if let (Some(kernel), Some(file)) = (self.kernel.upgrade(), self.file.upgrade()) {
            signal_io::tell_message(&kernel, &file, self.fd);
        }
    }
}

/// What an open directory keeps of it.
#[derive(Default)]
pub(crate) struct Watching(Mutex<Option<Arc<DirectoryWatch>>>);

impl Watching {
    fn end(watch: &Arc<DirectoryWatch>) {
        if let Some(kernel) = watch.kernel.upgrade() {
            kernel.watches.unwatch(&watch.inode, &(watch.clone() as Arc<dyn Watcher>));
        }
    }

    /// `process` has closed a descriptor of the file.
    pub(crate) fn closed_by(&self, process: i32) {
        let watch = {
            let mut watch = self.0.lock();
            if watch.as_ref().is_none_or(|watch| watch.process != process) {
                return;
            }
            watch.take()
        };
        if let Some(watch) = watch {
            Watching::end(&watch);
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(watch) = self.0.get_mut().take() {
            Watching::end(&watch);
        }
    }
}

/// F_NOTIFY: `events` are added to those that `process` waits for already; none ends it. ENOTDIR, EINVAL.
pub fn notify(kernel: &Arc<Kernel>, process: i32, fd: i32, file: &Arc<OpenFile>, argument: u32) -> Result<()> {
    let events = DirectoryEvents::from_bits(argument).ok_or(Errno::EINVAL)?;
    let path = file.path.as_ref().filter(|path| path.dentry.is_directory()).ok_or(Errno::ENOTDIR)?;
    if (events - DirectoryEvents::MULTISHOT).is_empty() {
        file.directory_watch.closed_by(process);
        return Ok(());
    }
    {
        let mut owner = file.owner.write();
        if owner.0 == 0 {
            owner.0 = process;
        }
    }
    let mut watching = file.directory_watch.0.lock();
    if let Some(watch) = watching.as_ref().filter(|watch| watch.process == process) {
        *watch.events.lock() |= events;
        return Ok(());
    }
    let watch = Arc::new(DirectoryWatch {
        kernel: Arc::downgrade(kernel),
        file: Arc::downgrade(file),
        fd,
        process,
        inode: path.inode().clone(),
        events: Mutex::new(events),
        moved_out: AtomicU32::new(0),
    });
    kernel.watches.watch(path.inode(), watch.clone());
    if let Some(replaced) = watching.replace(watch) {
        drop(watching);
        Watching::end(&replaced);
    }
    Ok(())
}
