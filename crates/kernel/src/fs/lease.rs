//! Leases (fcntl(2), "Leases"): who holds one is told when somebody opens the file in a way that conflicts with it, and
//! has /proc/sys/fs/lease-break-time seconds before it is taken away.
//!
//! [`LeaseTable`] holds all of a sandbox's, by inode; an opening looks there only while there are any. A lease belongs to
//! an open file and goes with it. Lock order: the table's lock is innermost but for wait queues.

use crate::fs::file::{LastClose, OpenFile};
use crate::fs::inode::{FileType, Inode};
use crate::fs::lock::Mode;
use crate::fs::path::{inode_key, Path};
use crate::fs::signal_io;
use crate::fs::text::counts_of;
use crate::sync::WaitQueue;
use crate::task::credentials::CAP_LEASE;
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Leases that one file may have, so that a guest cannot fill the sentry's memory (ENOLCK).
const LEASES_MAX: usize = 1024;

/// What breaks a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    Read,
    Write,
}

struct Lease {
    /// The open file, by its address.
    owner: usize,
    file: Weak<OpenFile>,
    fd: i32,
    mode: Mode,
    /// What it is to become (`None`: nothing), and until when its holder may see to that.
    breaking: Option<(Option<Mode>, Instant)>,
}

impl Lease {
    fn conflicts_with(&self, opening: Opening) -> bool {
        self.mode == Mode::Exclusive || opening == Opening::Write
    }

    /// What F_GETLEASE says.
    fn shown(&self) -> Option<Mode> {
        self.breaking.map_or(Some(self.mode), |(target, _)| target)
    }
}

struct FileLeases {
    /// Keeps the inode, and so its key, alive.
    _inode: Arc<dyn Inode>,
    leases: Vec<Lease>,
    queue: Arc<WaitQueue>,
}

/// All leases of a sandbox.
#[derive(Default)]
pub struct LeaseTable {
    /// Files that have some.
    count: AtomicUsize,
    files: Mutex<HashMap<usize, FileLeases>>,
}

impl LeaseTable {
    pub fn is_any(&self) -> bool {
        self.count.load(Ordering::Acquire) != 0
    }

    /// Changes the leases of a file that has some, and wakes who waits for that.
    fn change(&self, key: usize, change: impl FnOnce(&mut Vec<Lease>)) {
        let (gone, queue) = {
            let mut files = self.files.lock();
            let Some(file) = files.get_mut(&key) else { return };
            change(&mut file.leases);
            let queue = file.queue.clone();
            let gone = if file.leases.is_empty() { files.remove(&key) } else { None };
            self.count.store(files.len(), Ordering::Release);
            (gone, queue)
        };
        drop(gone);
        queue.wake_all();
    }
}

fn path_of(file: &OpenFile) -> Result<&Path> {
    file.path.as_ref().filter(|path| path.inode().kind() == FileType::Regular).ok_or(Errno::EINVAL)
}

/// F_GETLEASE: `None` where the open file has none.
pub fn get(context: &Context, file: &Arc<OpenFile>) -> Option<Mode> {
    let path = path_of(file).ok()?;
    let files = context.kernel().leases.files.lock();
    let leases = &files.get(&inode_key(path.inode()))?.leases;
    leases.iter().find(|lease| lease.owner == Arc::as_ptr(file) as usize)?.shown()
}

/// F_SETLEASE. EAGAIN where the file is open in another way than the lease allows; EACCES for somebody else's file.
pub fn set(context: &Context, fd: i32, file: &Arc<OpenFile>, mode: Option<Mode>) -> Result<()> {
    let kernel = context.kernel();
    let owner = Arc::as_ptr(file) as usize;
    let path = path_of(file)?;
    let key = inode_key(path.inode());
    let credentials = context.task.credentials();
    if path.inode().metadata()?.uid != credentials.fsuid && !credentials.has_capability(CAP_LEASE) {
        return Err(Errno::EACCES);
    }
    let Some(mode) = mode else {
        if !has_lease(kernel, key, owner) {
            return Err(Errno::EAGAIN);
        }
        // With the lease goes who is told, and by which signal.
        *file.owner.write() = (0, 0);
        kernel.leases.change(key, |leases| leases.retain(|lease| lease.owner != owner));
        return Ok(());
    };
    if kernel.settings.number("fs/leases-enable") == 0 {
        return Err(Errno::EINVAL);
    }
    let (own_writers, own_readers) = if file.is_writable() { (1, 0) } else { (0, 1) };
    let (writers, readers) = counts_of(&**path.inode());
    let is_open_otherwise = match mode {
        Mode::Shared => writers > 0,
        Mode::Exclusive => writers != own_writers || readers != own_readers,
    };
    if is_open_otherwise {
        return Err(Errno::EAGAIN);
    }
    let queue = {
        let mut files = kernel.leases.files.lock();
        let present = files.entry(key).or_insert_with(|| FileLeases {
            _inode: path.inode().clone(),
            leases: Vec::new(),
            queue: Arc::new(WaitQueue::new()),
        });
        let leases = &mut present.leases;
        let in_the_way = leases.iter().any(|lease| {
            lease.owner != owner && (mode == Mode::Exclusive || lease.mode == Mode::Exclusive || lease.breaking.is_some())
        });
        // With one in the way there is one already: no entry is left empty.
        if in_the_way {
            return Err(Errno::EAGAIN);
        }
        if leases.len() >= LEASES_MAX {
            return Err(Errno::ENOLCK);
        }
        leases.retain(|lease| lease.owner != owner);
        leases.push(Lease { owner, file: Arc::downgrade(file), fd, mode, breaking: None });
        let queue = present.queue.clone();
        kernel.leases.count.store(files.len(), Ordering::Release);
        queue
    };
    {
        let mut signal_owner = file.owner.write();
        if signal_owner.0 == 0 {
            signal_owner.0 = context.process().pid();
        }
    }
    let weak = Arc::downgrade(kernel);
    file.at_last_close(
        LastClose::Lease,
        Box::new(move || {
            if let Some(kernel) = weak.upgrade() {
                kernel.leases.change(key, |leases| leases.retain(|lease| lease.owner != owner));
            }
        }),
    );
    queue.wake_all();
    Ok(())
}

fn has_lease(kernel: &crate::Kernel, key: usize, owner: usize) -> bool {
    let files = kernel.leases.files.lock();
    files.get(&key).is_some_and(|file| file.leases.iter().any(|lease| lease.owner == owner))
}

/// An opening waits until no lease conflicts with it: EAGAIN where it must not wait, ERESTARTSYS.
pub fn break_for(context: &Context, inode: &Arc<dyn Inode>, opening: Opening, nonblocking: bool) -> Result<()> {
    let kernel = context.kernel();
    if !kernel.leases.is_any() {
        return Ok(());
    }
    let key = inode_key(inode);
    let target = if opening == Opening::Write { None } else { Some(Mode::Shared) };
    loop {
        let patience = u64::try_from(kernel.settings.number("fs/lease-break-time")).unwrap_or(0);
        let now = Instant::now();
        let mut told = Vec::new();
        let (queue, deadline) = {
            let mut files = kernel.leases.files.lock();
            let Some(file) = files.get_mut(&key) else { return Ok(()) };
            let mut deadline = None;
            for lease in file.leases.iter_mut().filter(|lease| lease.conflicts_with(opening)) {
                let until = match lease.breaking {
                    Some((present, until)) if present.is_none() || target.is_some() => until,
                    earlier => {
                        let until = earlier.map_or(now + Duration::from_secs(patience), |(_, until)| until);
                        lease.breaking = Some((target, until));
                        told.push((lease.file.clone(), lease.fd));
                        until
                    }
                };
                deadline = deadline.max(Some(until));
            }
            let Some(deadline) = deadline else { return Ok(()) };
            (file.queue.clone(), deadline)
        };
        for (file, fd) in told {
            if let Some(file) = file.upgrade() {
                signal_io::tell_message(kernel, &file, fd);
            }
        }
        if nonblocking {
            return Err(Errno::EAGAIN);
        }
        let is_free = || {
            let files = kernel.leases.files.lock();
            let conflicts = files.get(&key).is_some_and(|file| file.leases.iter().any(|lease| lease.conflicts_with(opening)));
            if conflicts {
                Err(Errno::EAGAIN)
            } else {
                Ok(())
            }
        };
        match context.block_on(&queue, Some(deadline), is_free) {
            Err(Errno::ETIMEDOUT) => kernel.leases.change(key, |leases| {
                leases.retain_mut(|lease| match lease.breaking {
                    Some((None, until)) if until <= Instant::now() => false,
                    Some((Some(mode), until)) if until <= Instant::now() => {
                        (lease.mode, lease.breaking) = (mode, None);
                        true
                    }
                    _ => true,
                });
            }),
            other => return other,
        }
    }
}
