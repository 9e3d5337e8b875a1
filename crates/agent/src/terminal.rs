//! A terminal of the guest's own, whose other end is joined to two descriptors of the caller's.

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::termios::{tcgetattr, tcsetwinsize, SpecialCodeIndex, Winsize};
use std::os::fd::OwnedFd;

/// What is read at once: no more than a pipe takes without waiting, once it has said that it is writable.
const PIECE: usize = 4096;

pub struct Terminal {
    master: OwnedFd,
    input: Option<OwnedFd>,
    output: Option<OwnedFd>,
    keys: Vec<u8>,
    shown: Vec<u8>,
    /// The other side is closed: no more output.
    ended: bool,
}

impl Terminal {
    /// A new one, and the end that is the program's. `terminals` is the guest's devpts.
    pub fn open(
        terminals: &OwnedFd,
        input: OwnedFd,
        output: OwnedFd,
        columns: u16,
        rows: u16,
    ) -> Result<(Terminal, OwnedFd), Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let master = rustix::fs::openat(terminals, "ptmx", flags, Mode::empty())?;
        rustix::pty::unlockpt(&master)?;
        let peer = rustix::pty::ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        let terminal =
            Terminal { master, input: Some(input), output: Some(output), keys: Vec::new(), shown: Vec::new(), ended: false };
        terminal.resize(columns, rows);
        Ok((terminal, peer))
    }

    pub fn resize(&self, columns: u16, rows: u16) {
        let _ = tcsetwinsize(&self.master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 });
    }

    /// What can be read or written next: the caller's input, the terminal (for reading, for writing), the caller's output.
    pub fn wishes(&self) -> (Option<&OwnedFd>, (&OwnedFd, bool, bool), Option<&OwnedFd>) {
        let input = self.input.as_ref().filter(|_| self.keys.is_empty());
        let output = self.output.as_ref().filter(|_| !self.shown.is_empty());
        (input, (&self.master, self.shown.is_empty() && !self.ended, !self.keys.is_empty()), output)
    }

    /// The caller has typed.
    pub fn take_input(&mut self) {
        let Some(input) = &self.input else { return };
        let mut bytes = [0; PIECE];
        match rustix::io::read(input, &mut bytes) {
            Ok(0) => {
                self.input = None;
                // The end of input is typed.
                if let Ok(modes) = tcgetattr(&self.master) {
                    let end = modes.special_codes[SpecialCodeIndex::VEOF];
                    if end != 0 {
                        self.keys.push(end);
                    }
                }
            }
            Ok(count) => self.keys.extend_from_slice(&bytes[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.input = None,
        }
    }

    pub fn take_output(&mut self) {
        let mut bytes = [0; PIECE];
        match rustix::io::read(&self.master, &mut bytes) {
            Ok(count) if count > 0 => self.shown.extend_from_slice(&bytes[..count]),
            Err(Errno::AGAIN | Errno::INTR) => {}
            // EIO: nobody has it open.
            _ => self.ended = true,
        }
    }

    pub fn give_keys(&mut self) {
        match rustix::io::write(&self.master, &self.keys) {
            Ok(count) => drop(self.keys.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.keys.clear(),
        }
    }

    pub fn give_output(&mut self) {
        let Some(output) = &self.output else { return self.shown.clear() };
        match rustix::io::write(output, &self.shown) {
            Ok(count) => drop(self.shown.drain(..count)),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => {
                self.output = None;
                self.shown.clear();
            }
        }
    }

    /// Everything that was written is with the caller.
    pub fn is_drained(&self) -> bool {
        self.shown.is_empty() && (self.ended || self.output.is_none())
    }

    /// The program is gone: what others write is not waited for.
    pub fn nothing_more_now(&mut self) -> bool {
        if self.shown.is_empty() {
            self.take_output();
        }
        self.shown.is_empty()
    }
}
