//! How long what a file shows can be believed without asking: size and times of a file that a process reads and writes by
//! itself (ADR 19) change without a call.
//!
//! But where nobody else does that, only the thread that is told of them changes them, and its stub knows of each time: it
//! believes them until then (ADR 46). The sentry itself takes nothing that was lent as true; a stub that goes on believing deceives
//! its own program.

use super::GuestThread;
use crate::context::Context;
use crate::fs::clock;
use crate::fs::fd_table::FdTable;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::inode::{FileType, Inode, Metadata};
use crate::fs::path::{inode_key, same_inode};
use skerry_platform::layout::loan;
use std::sync::Arc;

/// What ends the belief, beside calls that change files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Until {
    /// What the thread does by itself: of [`loan::UNTIL_READ`], [`loan::UNTIL_WRITE`].
    pub own: u64,
    /// Whoever reads this inode ([`inode_key`]) changes what it shows (its time of access).
    pub read: Option<usize>,
}

impl Until {
    pub fn read(inode: &Arc<dyn Inode>) -> Until {
        Until { own: loan::UNTIL_READ, read: Some(inode_key(inode)) }
    }
}

/// Until what `metadata`, which `inode` shows now, can be believed. `None`: others can change them without a call.
pub(super) fn believed_until(
    thread: &GuestThread,
    context: &Context,
    files: &FdTable,
    inode: &Arc<dyn Inode>,
    metadata: &Metadata,
) -> Option<Until> {
    let Metadata { accessed, modified, changed, .. } = *metadata;
    let is_regular = metadata.kind == FileType::Regular;
    let shows_reading = (is_regular || metadata.kind == FileType::Directory)
        && clock::relatime_wants(accessed, modified, changed, clock::now());
    let mut until = if shows_reading { Until::read(inode) } else { Until::default() };
    if !is_regular {
        return inode.is_at_rest().then_some(until);
    }
    let content = inode.unmapped_content();
    if inode.is_at_rest() && content.is_some() {
        // Its data may be lent to others.
        return (!shows_reading).then_some(until);
    }
    if inode.is_at_rest() && !shows_reading {
        return Some(until);
    }
    let registry = context.kernel().direct_registry()?;
    let is_only_here = |is_it: &dyn Fn(&Arc<dyn Inode>) -> bool| {
        registry.is_only_in(files.present_direct_table(thread.process.pid).as_ref(), is_it)
    };
    if inode.is_at_rest() {
        // Of the host: it can only be read.
        return is_only_here(&|other| same_inode(other, inode)).then_some(until);
    }
    content?;
    let is_alone = context.process().threads.lock().len() == 1;
    if !is_alone || !is_only_here(&|other| other.unmapped_content() == content) {
        return None;
    }
    until.own |= loan::UNTIL_WRITE;
    Some(until)
}

/// What is lent of a regular file beside its data: what it shows, how that is said to the stub ([`loan`]), and until when.
pub(super) fn alone(
    thread: &GuestThread,
    context: &Context,
    files: &FdTable,
    file: &OpenFile,
) -> Option<(Metadata, u32, Until)> {
    let inode = file.path.as_ref()?.inode();
    let metadata = file.metadata().ok()?;
    let until = believed_until(thread, context, files, inode, &metadata)?;
    let mut flags = if until.read.is_some() { loan::SHOWS_READING } else { 0 };
    if file.position.handed_over().is_some() {
        flags |= loan::DIRECT;
    } else if file.flags().intersects(StatusFlags::WRONLY | StatusFlags::RDWR) {
        flags |= loan::WRITTEN;
    }
    Some((metadata, flags, until))
}
