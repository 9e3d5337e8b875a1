//! Pipes (pipe(7)) and System V and POSIX inter-process communication.

use super::UserAddress;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::ipc::pipe::Pipe;
use crate::{Context, Result};
use skerry_abi::raw::general as linux;
use std::sync::Arc;

bitflags::bitflags! {
    /// pipe2(2).
    #[derive(Clone, Copy, Debug)]
    pub struct PipeFlags: u32 {
        const CLOSE_ON_EXEC = linux::O_CLOEXEC;
        const NONBLOCK = linux::O_NONBLOCK;
        /// Packets: each write is read alone.
        const DIRECT = linux::O_DIRECT;
    }
}
crate::flags_argument!(PipeFlags);

/// pipe(2): writes the reading and the writing descriptor to `descriptors`. EMFILE, EFAULT.
pub fn pipe(context: &mut Context, descriptors: UserAddress) -> Result<()> {
    pipe2(context, descriptors, PipeFlags::empty())
}

/// pipe2(2). EMFILE, EFAULT; EINVAL on unknown flags.
pub fn pipe2(context: &mut Context, descriptors: UserAddress, flags: PipeFlags) -> Result<()> {
    let mut status = StatusFlags::empty();
    status.set(StatusFlags::NONBLOCK, flags.contains(PipeFlags::NONBLOCK));
    status.set(StatusFlags::DIRECT, flags.contains(PipeFlags::DIRECT));
    let close_on_exec = flags.contains(PipeFlags::CLOSE_ON_EXEC);
    let (reader, writer) = Pipe::new(context).ends();
    let reader = OpenFile::new(Arc::new(reader), status, None);
    let writer = OpenFile::new(Arc::new(writer), status | StatusFlags::WRONLY, None);
    let files = context.task.files();
    let read_fd = context.install(reader, close_on_exec)?;
    let write_fd = match context.install(writer, close_on_exec) {
        Ok(fd) => fd,
        Err(error) => {
            let _ = files.remove(read_fd);
            return Err(error);
        }
    };
    context.write(descriptors.0, &[read_fd, write_fd]).inspect_err(|_| {
        let _ = files.remove(read_fd);
        let _ = files.remove(write_fd);
    })
}
