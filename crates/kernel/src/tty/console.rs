//! The console: a guest's terminal joined to two host descriptors (the caller's own terminal in raw mode, or a socket).
//!
//! The console is the terminal emulator's end of an ordinary pseudo-terminal, so that programs see /dev/pts/N. Two
//! threads move the bytes: host descriptors of a terminal are shared with the caller and must not be made non-blocking,
//! so whoever waits on them must be a thread that may. They hold no lock while they wait.

use super::files::{MasterFile, SlaveFile};
use super::terminal::Terminal;
use super::termios::VEOF;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::path::Path;
use crate::sync::{WaitQueue, Waiter};
use crate::{Errno, Kernel, Result};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Bytes moved at once.
const CHUNK: usize = 16 << 10;
/// How often a reader of the host looks whether the terminal is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// See the module's text.
pub struct Console {
    terminal: Arc<Terminal>,
    /// The emulator's end; taken by the end of the input.
    master: Mutex<Option<Arc<MasterFile>>>,
    output_done: AtomicBool,
    done_queue: WaitQueue,
    closing: AtomicBool,
}

impl Console {
    /// Makes a terminal whose keyboard is `input` and whose screen is `output`.
    pub fn new(input: OwnedFd, output: OwnedFd, columns: u16, rows: u16, kernel: &Arc<Kernel>) -> Result<Arc<Console>> {
        let terminal = kernel.terminals.create(kernel, (0, 5))?;
        terminal.state().locked = false;
        terminal.resize(columns, rows);
        let console = Arc::new(Console {
            terminal: terminal.clone(),
            master: Mutex::new(Some(MasterFile::new(terminal, None))),
            output_done: AtomicBool::new(false),
            done_queue: WaitQueue::new(),
            closing: AtomicBool::new(false),
        });
        let reader = Arc::downgrade(&console);
        spawn("console input", move || read_host(&input, &reader))?;
        let writer = console.clone();
        spawn("console output", move || writer.write_host(&output))?;
        Ok(console)
    }

    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }

    /// A file for a program's standard streams: the program that is started with it is controlled by the terminal.
    pub fn open(&self, kernel: &Kernel) -> Result<Arc<OpenFile>> {
        let slave = SlaveFile::open_for_boot(&self.terminal, None)?;
        Ok(OpenFile::new(slave, StatusFlags::RDWR, self.path(kernel)))
    }

    fn path(&self, kernel: &Kernel) -> Option<Path> {
        super::path_of(kernel, &self.terminal)
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        self.terminal.resize(columns, rows);
    }

    /// The programs have ended: waits until all output is with the host, at most `timeout`, then lets the terminal go.
    pub fn finish(&self, timeout: Duration) {
        self.closing.store(true, Ordering::Release);
        self.terminal.master_queue.wake_all();
        let deadline = Instant::now() + timeout;
        let waiter = Waiter::new();
        let _registration = self.done_queue.register(waiter.clone());
        loop {
            let done = self.output_done.load(Ordering::Acquire);
            if done || !waiter.sleep(Some(deadline)) {
                break;
            }
        }
        drop(self.master.lock().take());
    }

    /// Types `bytes`, waiting while the programs do not read. `false` once the console is closed.
    fn type_bytes(&self, mut bytes: &[u8]) -> bool {
        let waiter = Waiter::new();
        let _registration = self.terminal.master_queue.register(waiter.clone());
        while !bytes.is_empty() {
            if self.closing.load(Ordering::Acquire) {
                return false;
            }
            match self.terminal.write_master(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                Err(Errno::EAGAIN) => {
                    waiter.sleep(Some(Instant::now() + LOOK_EVERY));
                }
                Err(_) => return false,
            }
        }
        true
    }

    /// The output thread: until the programs have ended and everything is written, or the host takes no more.
    fn write_host(&self, output: &OwnedFd) {
        let waiter = Waiter::new();
        let registration = self.terminal.master_queue.register(waiter.clone());
        let mut buffer = vec![0; CHUNK];
        loop {
            match self.terminal.read_master(&mut buffer) {
                Ok(count) => {
                    if !write_all(output, buffer.get(..count).unwrap_or_default()) {
                        // The caller's terminal is gone, and so is ours.
                        drop(self.master.lock().take());
                        break;
                    }
                }
                Err(_) if self.closing.load(Ordering::Acquire) => break,
                // EIO: no program has it open just now; another may open it.
                Err(_) => {
                    waiter.sleep(None);
                }
            }
        }
        drop(registration);
        self.output_done.store(true, Ordering::Release);
        self.done_queue.wake_all();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    let builder = std::thread::Builder::new().name(name.into()).stack_size(256 << 10);
    builder.spawn(body).map(drop).map_err(|error| Errno(error.raw_os_error().unwrap_or(Errno::EAGAIN.0)))
}

/// Waits as long as it takes; false where the host refuses.
fn write_all(output: &OwnedFd, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match rustix::io::write(output, bytes) {
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => {
                // The caller made it non-blocking.
                let _ = rustix::event::poll(&mut [PollFd::new(output, PollFlags::OUT)], None);
            }
            Err(_) => return false,
        }
    }
    true
}

/// The input thread: until the host's end, or the console is gone.
fn read_host(input: &OwnedFd, console: &Weak<Console>) {
    let mut buffer = vec![0; CHUNK];
    let look_every = rustix::event::Timespec { tv_sec: 0, tv_nsec: LOOK_EVERY.as_nanos() as i64 };
    loop {
        let mut descriptors = [PollFd::new(input, PollFlags::IN)];
        let ready = rustix::event::poll(&mut descriptors, Some(&look_every));
        let Some(console) = console.upgrade() else { return };
        if console.closing.load(Ordering::Acquire) {
            return;
        }
        match ready {
            Ok(0) | Err(rustix::io::Errno::INTR) => continue,
            Ok(_) => {}
            Err(_) => return,
        }
        match rustix::io::read(input, &mut buffer[..]) {
            Ok(0) => return console.input_ended(rustix::termios::isatty(input)),
            Ok(count) => {
                if !console.type_bytes(buffer.get(..count).unwrap_or_default()) {
                    return;
                }
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => return console.input_ended(true),
        }
    }
}

impl Console {
    /// No more keys: where the caller's terminal is gone, ours is hung up; else the end of input is typed.
    fn input_ended(&self, terminal_is_gone: bool) {
        if terminal_is_gone {
            drop(self.master.lock().take());
            return;
        }
        let end = self.terminal.termios().character(VEOF);
        if end != 0 {
            self.type_bytes(&[end]);
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Release);
        self.terminal.master_queue.wake_all();
    }
}
