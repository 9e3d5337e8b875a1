//! Open ends of terminals: [`MasterFile`] (/dev/ptmx) and [`SlaveFile`] (/dev/pts/N, /dev/tty).

use super::job_control;
use super::terminal::{Liveness, Terminal};
use super::termios::{Local, VMIN, VTIME};
use crate::fs::file::{Events, FileOperations, OpenFile, StatusFlags, Transfer};
use crate::fs::inode::{Inode, Metadata};
use crate::fs::path::Path;
use crate::sync::WaitQueue;
use crate::task::credentials::CAP_SYS_ADMIN;
use crate::{Context, Errno, Result};
use skerry_abi::signal::Signal;
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The slave, open: a program's terminal.
pub struct SlaveFile {
    terminal: Arc<Terminal>,
    generation: u64,
    /// The node that was opened: /dev/tty shows itself, not the terminal behind it.
    inode: Option<Arc<dyn Inode>>,
}

impl SlaveFile {
    /// Opens the slave for a program, which may thereby get a controlling terminal (unless O_NOCTTY).
    pub(super) fn open(
        context: &Context,
        terminal: &Arc<Terminal>,
        inode: Option<Arc<dyn Inode>>,
        flags: StatusFlags,
        no_controlling: bool,
    ) -> Result<Arc<SlaveFile>> {
        let generation = terminal.open_slave(context.task.credentials().has_capability(CAP_SYS_ADMIN))?;
        let file = Arc::new(SlaveFile { terminal: terminal.clone(), generation, inode });
        let readable = !flags.contains(StatusFlags::WRONLY);
        if !no_controlling && readable && terminal.state().session.upgrade().is_none() {
            // Only a session leader without a terminal gets one; for anybody else opening is opening.
            let _ = job_control::acquire(context.task, terminal, false);
        }
        Ok(file)
    }

    /// Opens the slave on nobody's behalf (the console's first programs).
    pub(super) fn open_for_boot(terminal: &Arc<Terminal>, inode: Option<Arc<dyn Inode>>) -> Result<Arc<SlaveFile>> {
        let generation = terminal.open_slave(true)?;
        Ok(Arc::new(SlaveFile { terminal: terminal.clone(), generation, inode }))
    }

    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }

    pub(super) fn is_dead(&self) -> bool {
        self.terminal.liveness(self.generation) == Liveness::Dead
    }

    /// VMIN and VTIME as they count now; `None` where lines are read.
    fn byte_mode(&self) -> Option<(usize, Duration)> {
        let termios = self.terminal.termios();
        if termios.local().contains(Local::ICANON) {
            return None;
        }
        let time = Duration::from_millis(u64::from(termios.character(VTIME)) * 100);
        Some((termios.character(VMIN).into(), time))
    }
}

impl Drop for SlaveFile {
    fn drop(&mut self) {
        self.terminal.close_slave();
    }
}

impl FileOperations for SlaveFile {
    fn before_transfer(&self, context: &Context, direction: Transfer) -> Result<()> {
        if self.is_dead() {
            return Ok(());
        }
        match direction {
            Transfer::Read => job_control::check_foreground(context.task, &self.terminal, Signal::SIGTTIN),
            Transfer::Write if self.terminal.termios().local().contains(Local::TOSTOP) => {
                job_control::check_foreground(context.task, &self.terminal, Signal::SIGTTOU)
            }
            Transfer::Write => Ok(()),
        }
    }

    fn read(&self, file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        // termios(3), "Canonical and noncanonical mode".
        let (minimum, polls) = match self.byte_mode() {
            None => (1, false),
            Some((0, time)) => (1, time.is_zero()),
            Some((minimum, _)) if !file.is_nonblocking() => (minimum, false),
            Some(_) => (1, false),
        };
        match self.terminal.read_slave(self.generation, buffer, minimum) {
            Err(Errno::EAGAIN) if polls => Ok(0),
            other => other,
        }
    }

    fn read_timeout(&self) -> Option<Duration> {
        match self.byte_mode() {
            Some((_, time)) if !time.is_zero() => Some(time),
            _ => None,
        }
    }

    fn read_timed_out(&self, _file: &OpenFile, buffer: &mut [u8]) -> Option<Result<usize>> {
        let (minimum, time) = self.byte_mode()?;
        if minimum > 0 {
            // The clock runs from the last byte, and only once there is one.
            let last = self.terminal.state().last_input;
            if last.is_none_or(|last| Instant::now().duration_since(last) < time) {
                return None;
            }
        }
        match self.terminal.read_slave(self.generation, buffer, 1) {
            Err(Errno::EAGAIN) if minimum == 0 => Some(Ok(0)),
            Err(Errno::EAGAIN) => None,
            other => Some(other),
        }
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        self.terminal.write_slave(self.generation, buffer)
    }

    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.write(file, buffer, 0).map(|count| (count, 0))
    }

    fn poll(&self) -> Events {
        self.terminal.poll_slave(self.generation)
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.slave_queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        match &self.inode {
            Some(inode) => inode.metadata(),
            None => Ok(super::devpts::slave_metadata(&self.terminal)),
        }
    }

    fn ioctl(&self, context: &mut Context, file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        self.do_ioctl(context, file, request, argument)
    }

    fn anonymous_name(&self) -> String {
        format!("/dev/pts/{}", self.terminal.index())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// The master, open: a terminal emulator's end.
pub struct MasterFile {
    terminal: Arc<Terminal>,
    inode: Option<Arc<dyn Inode>>,
}

impl MasterFile {
    pub(super) fn new(terminal: Arc<Terminal>, inode: Option<Arc<dyn Inode>>) -> Arc<MasterFile> {
        Arc::new(MasterFile { terminal, inode })
    }

    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }
}

impl Drop for MasterFile {
    fn drop(&mut self) {
        self.terminal.close_master();
        if let Some(kernel) = self.terminal.kernel.upgrade() {
            kernel.terminals.remove(self.terminal.index());
        }
    }
}

impl FileOperations for MasterFile {
    fn read(&self, _file: &OpenFile, buffer: &mut [u8], _offset: u64) -> Result<usize> {
        self.terminal.read_master(buffer)
    }

    fn write(&self, _file: &OpenFile, buffer: &[u8], _offset: u64) -> Result<usize> {
        self.terminal.write_master(buffer)
    }

    fn append(&self, file: &OpenFile, buffer: &[u8]) -> Result<(usize, u64)> {
        self.write(file, buffer, 0).map(|count| (count, 0))
    }

    fn poll(&self) -> Events {
        self.terminal.poll_master()
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.master_queue)
    }

    fn metadata(&self) -> Result<Metadata> {
        match &self.inode {
            Some(inode) => inode.metadata(),
            None => Ok(super::devpts::slave_metadata(&self.terminal)),
        }
    }

    fn ioctl(&self, context: &mut Context, _file: &OpenFile, request: u32, argument: u64) -> Result<u64> {
        self.do_ioctl(context, request, argument)
    }

    fn fdinfo(&self) -> String {
        format!("tty-index:\t{}\n", self.terminal.index())
    }

    fn anonymous_name(&self) -> String {
        "/dev/ptmx".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// TIOCGPTPEER: the slave, opened without its name.
pub(super) fn open_peer(context: &mut Context, terminal: &Arc<Terminal>, flags: u32) -> Result<i32> {
    const O_NOCTTY: u32 = skerry_abi::raw::general::O_NOCTTY;
    const O_CLOEXEC: u32 = skerry_abi::raw::general::O_CLOEXEC;
    let allowed = StatusFlags::WRONLY | StatusFlags::RDWR | StatusFlags::NONBLOCK;
    let status = StatusFlags::from_bits_truncate(flags) & allowed;
    let slave = SlaveFile::open(context, terminal, None, status, flags & O_NOCTTY != 0)?;
    let file = OpenFile::new(slave, status, slave_path(context, terminal));
    context.install(file, flags & O_CLOEXEC != 0)
}

/// Where the slave is in the caller's tree, if devpts is mounted where it belongs.
fn slave_path(context: &Context, terminal: &Arc<Terminal>) -> Option<Path> {
    super::path_of(context.kernel(), terminal)
}
