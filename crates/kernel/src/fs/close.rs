//! What happens when a descriptor goes (close(2), dup2(2), exec, exit).

use crate::fs::file::OpenFile;
use crate::fs::notify::NotifyMask;
use crate::task::Process;
use std::sync::Arc;

/// `process` has lost a descriptor for `file`: flushes it, gives back its record locks, reports it.
pub fn closed(process: &Process, file: Arc<OpenFile>) {
    file.operations.flush(&file);
    let kernel = process.kernel();
    if let Some(path) = &file.path {
        kernel.locks.process_closed(path.inode(), process.pid());
        if kernel.watches.is_active() {
            file.directory_watch.closed_by(process.pid());
        }
        if kernel.watches.is_active() && Arc::strong_count(&file) == 1 {
            let mask = if file.is_writable() { NotifyMask::CLOSE_WRITE } else { NotifyMask::CLOSE_NOWRITE };
            kernel.watches.report_with_parent(&path.dentry, mask);
        }
    }
}
