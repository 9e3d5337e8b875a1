//! FIFOs (fifo(7)): pipes with a name. A file system keeps a [`FifoState`] in its inode and calls [`open_fifo`].

use super::{Pipe, PipeEnd, Side};
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::Inode;
use crate::{Context, Errno, Result};
use parking_lot::Mutex;
use std::sync::{Arc, OnceLock, Weak};

/// What a FIFO's inode holds: the pipe, while somebody has it open.
#[derive(Default)]
pub struct FifoState {
    pipe: Mutex<Weak<Pipe>>,
    inode: OnceLock<Weak<dyn Inode>>,
}

impl FifoState {
    pub fn new() -> Arc<FifoState> {
        Arc::new(FifoState::default())
    }

    /// Names the inode, for fstat(2) of the open FIFO. Without it the pipe shows attributes of its own.
    pub fn set_inode(&self, inode: Weak<dyn Inode>) {
        let _ = self.inode.set(inode);
    }

    pub(super) fn inode(&self) -> Option<Arc<dyn Inode>> {
        self.inode.get()?.upgrade()
    }

    fn pipe(&self, context: &Context) -> Arc<Pipe> {
        let mut slot = self.pipe.lock();
        if let Some(pipe) = slot.upgrade() {
            return pipe;
        }
        let pipe = Pipe::new(context);
        *slot = Arc::downgrade(&pipe);
        pipe
    }
}

/// Opens a FIFO. A reader waits for a writer and the other way round, unless O_NONBLOCK: then a reader goes on, and a
/// writer without a reader gets ENXIO. Read-write never waits. ERESTARTSYS where a signal ends the wait.
pub fn open_fifo(context: &Context, fifo: &Arc<FifoState>, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
    open_end(context, fifo.pipe(context), Some(fifo.clone()), flags)
}

impl PipeEnd {
    /// Opens the pipe once more, either way, as /proc/PID/fd/N allows it: under the rules of [`open_fifo`].
    pub fn open_again(&self, context: &Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        open_end(context, self.pipe.clone(), self.fifo.clone(), flags)
    }
}

fn open_end(
    context: &Context,
    pipe: Arc<Pipe>,
    fifo: Option<Arc<FifoState>>,
    flags: StatusFlags,
) -> Result<Arc<dyn FileOperations>> {
    let nonblocking = flags.contains(StatusFlags::NONBLOCK);
    let side = match (flags.contains(StatusFlags::RDWR), flags.contains(StatusFlags::WRONLY)) {
        (true, _) => Side::Both,
        (false, true) => Side::Write,
        (false, false) => Side::Read,
    };
    // A pipe without a name is open at both ends already, or was: nobody waits for a partner (/proc/PID/fd/N).
    let has_name = fifo.is_some();
    if has_name && side == Side::Write && nonblocking && pipe.lock().readers == 0 {
        return Err(Errno::ENXIO);
    }
    // Counted, not looked at: a partner that came and went again has been a partner. Counted before we show up, which is
    // what lets a waiting partner go on: it may be gone before we look.
    let (partners, opens) = {
        let state = pipe.lock();
        match side {
            Side::Read => (state.writers, state.writer_opens),
            Side::Write => (state.readers, state.reader_opens),
            Side::Both => (1, 0),
        }
    };
    let mut end = PipeEnd::new(pipe.clone(), side, fifo);
    if partners > 0 || !has_name {
        return Ok(Arc::new(end));
    }
    if nonblocking {
        end.quiet_until = Some(opens);
        return Ok(Arc::new(end));
    }
    context.block_on(&pipe.open_queue, None, || {
        let state = pipe.lock();
        let now = if side == Side::Read { state.writer_opens } else { state.reader_opens };
        if now == opens {
            Err(Errno::EAGAIN)
        } else {
            Ok(())
        }
    })?;
    Ok(Arc::new(end))
}
