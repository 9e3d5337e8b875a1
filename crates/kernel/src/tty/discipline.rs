//! The line discipline: what happens to bytes between a terminal's keyboard and the program, and back (termios(3)).
//!
//! [`Discipline`] is plain state without locks or clocks: [`Discipline::receive`] takes what was typed, edits and echoes
//! it, and says which signals are due; [`Discipline::read`] hands out lines or bytes; [`Discipline::write`] does output
//! processing. All its buffers are bounded. [`super::terminal`] holds it under the terminal's lock.

use super::termios::*;
use skerry_abi::signal::Signal;
use std::collections::VecDeque;

/// Bytes that wait to be read (Linux: N_TTY_BUF_SIZE).
pub const INPUT_MAX: usize = 4096;
/// Bytes that wait for the other side; a writer waits beyond it.
pub const OUTPUT_MAX: usize = 65536;
/// Bytes of echo that wait while output is stopped or full; further ones are lost.
const ECHO_MAX: usize = 4096;

/// What ends a line in the buffer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mark {
    None,
    /// The byte is the line's last.
    LineEnd,
    /// No byte, only the end of input.
    EndOfFile,
}

#[derive(Clone, Copy)]
struct Cell {
    byte: u8,
    mark: Mark,
}

/// What became of input.
#[derive(Default, Debug, PartialEq, Eq)]
pub struct Received {
    /// Bytes taken; the rest has no room now.
    pub consumed: usize,
    /// For the foreground process group, in order.
    pub signals: Vec<Signal>,
    /// Output was stopped or started, or flushed: packet mode tells the master.
    pub packet: u8,
}

/// Bits of packet mode (TIOCPKT, ioctl_tty(2)).
pub const PACKET_FLUSH_READ: u8 = 1;
pub const PACKET_FLUSH_WRITE: u8 = 2;
pub const PACKET_STOP: u8 = 4;
pub const PACKET_START: u8 = 8;
pub const PACKET_NO_STOP: u8 = 16;
pub const PACKET_DO_STOP: u8 = 32;

/// See the module's text.
#[derive(Default)]
pub struct Discipline {
    termios: Termios,
    input: VecDeque<Cell>,
    /// How much of `input` may be read: complete lines, or everything without ICANON.
    readable: usize,
    /// Where the line that is being edited begins on the screen.
    line_start_column: usize,
    /// The next byte is taken as it is (VLNEXT).
    literal_next: bool,
    /// Between a backslash and a slash of ECHOPRT.
    erasing: bool,
    /// Processed output for the other side.
    output: VecDeque<u8>,
    echo: VecDeque<u8>,
    /// The cursor's column, as far as output processing knows.
    column: usize,
    /// Stopped by VSTOP or TCOOFF.
    stopped: bool,
}

fn is_continuation(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

impl Discipline {
    pub fn termios(&self) -> &Termios {
        &self.termios
    }

    /// Changes the attributes. Switching to bytes makes half lines readable; switching to lines makes what there is a line.
    pub fn set_termios(&mut self, termios: Termios) {
        let changed = self.termios.local().symmetric_difference(termios.local());
        self.termios = termios;
        if changed.intersects(Local::ICANON | Local::EXTPROC) {
            self.readable = self.input.len();
            self.literal_next = false;
            self.erasing = false;
            for cell in &mut self.input {
                cell.mark = Mark::None;
            }
            if self.is_canonical() {
                if let Some(last) = self.input.back_mut() {
                    last.mark = Mark::LineEnd;
                }
            }
        }
        if !self.termios.input().contains(Input::IXON) && self.stopped {
            self.stopped = false;
        }
        self.flush_echo();
    }

    fn is_canonical(&self) -> bool {
        self.termios.local().contains(Local::ICANON)
    }

    fn local(&self, flags: Local) -> bool {
        self.termios.local().contains(flags)
    }

    /// TCXONC. Whether that changed anything.
    pub fn set_stopped(&mut self, stopped: bool) -> bool {
        let changed = self.stopped != stopped;
        self.stopped = stopped;
        self.flush_echo();
        changed
    }

    // Input.

    /// Takes typed bytes, as many as there is room for.
    pub fn receive(&mut self, bytes: &[u8]) -> Received {
        let mut received = Received::default();
        for &byte in bytes {
            if !self.has_input_room() {
                break;
            }
            self.receive_byte(byte, &mut received);
            received.consumed += 1;
        }
        self.flush_echo();
        received
    }

    /// Room for one more byte. While no line is complete, bytes are taken though there is no room for them (the last one
    /// gives way), so that a line end can still come.
    pub fn has_input_room(&self) -> bool {
        self.input.len() < INPUT_MAX || (self.is_canonical() && self.readable == 0)
    }

    fn receive_byte(&mut self, byte: u8, received: &mut Received) {
        let input = self.termios.input();
        let mut byte = byte;
        if self.local(Local::EXTPROC) {
            return self.store(byte, Mark::None);
        }
        if input.contains(Input::ISTRIP) {
            byte &= 0x7f;
        }
        if input.contains(Input::IUCLC) && self.local(Local::IEXTEN) {
            byte = byte.to_ascii_lowercase();
        }
        if self.literal_next {
            self.literal_next = false;
            return self.receive_plain(byte);
        }
        if input.contains(Input::IXON) {
            if self.termios.is(byte, VSTART) {
                return self.flow(false, received);
            }
            if self.termios.is(byte, VSTOP) {
                return self.flow(true, received);
            }
        }
        if self.local(Local::ISIG) {
            for (index, signal) in [(VINTR, Signal::SIGINT), (VQUIT, Signal::SIGQUIT), (VSUSP, Signal::SIGTSTP)] {
                if self.termios.is(byte, index) {
                    return self.receive_signal(byte, signal, received);
                }
            }
        }
        if self.stopped && input.contains(Input::IXON | Input::IXANY) {
            self.flow(false, received);
        }
        match byte {
            b'\r' if input.contains(Input::IGNCR) => return,
            b'\r' if input.contains(Input::ICRNL) => byte = b'\n',
            b'\n' if input.contains(Input::INLCR) => byte = b'\r',
            _ => {}
        }
        if self.is_canonical() && self.receive_editing(byte) {
            return;
        }
        self.receive_plain(byte);
    }

    fn flow(&mut self, stop: bool, received: &mut Received) {
        if self.set_stopped(stop) {
            received.packet |= if stop { PACKET_STOP } else { PACKET_START };
        }
    }

    fn receive_signal(&mut self, byte: u8, signal: Signal, received: &mut Received) {
        if !self.local(Local::NOFLSH) {
            self.flush_input();
            self.flush_output();
            received.packet |= PACKET_FLUSH_READ | PACKET_FLUSH_WRITE;
        }
        received.signals.push(signal);
        if self.termios.input().contains(Input::IXON) {
            self.flow(false, received);
        }
        if self.local(Local::ECHO) {
            self.echo_byte(byte);
        }
    }

    /// Line editing; false where the byte has no special meaning.
    fn receive_editing(&mut self, byte: u8) -> bool {
        let extended = self.local(Local::IEXTEN);
        let echo = self.local(Local::ECHO);
        let termios = self.termios;
        if termios.is(byte, VERASE) || termios.is(byte, VKILL) || (termios.is(byte, VWERASE) && extended) {
            self.erase(byte);
        } else if termios.is(byte, VLNEXT) && extended {
            self.literal_next = true;
            if echo {
                self.finish_erasing();
                if self.local(Local::ECHOCTL) {
                    self.echo_raw(b"^\x08");
                }
            }
        } else if termios.is(byte, VREPRINT) && echo && extended {
            self.finish_erasing();
            self.echo_byte(byte);
            self.echo_processed(b'\n');
            let line: Vec<u8> = self.input.iter().skip(self.readable).map(|cell| cell.byte).collect();
            for byte in line {
                self.echo_byte(byte);
            }
        } else if byte == b'\n' {
            if echo || self.local(Local::ECHONL) {
                self.finish_erasing();
                self.echo_processed(b'\n');
            }
            self.store(byte, Mark::LineEnd);
        } else if termios.is(byte, VEOF) {
            self.store(0, Mark::EndOfFile);
        } else if termios.is(byte, VEOL) || (termios.is(byte, VEOL2) && extended) {
            if echo {
                self.finish_erasing();
                self.note_line_start();
                self.echo_byte(byte);
            }
            self.store(byte, Mark::LineEnd);
        } else {
            return false;
        }
        true
    }

    fn receive_plain(&mut self, byte: u8) {
        if self.local(Local::ECHO) {
            self.finish_erasing();
            if byte == b'\n' {
                self.echo_processed(byte);
            } else {
                self.note_line_start();
                self.echo_byte(byte);
            }
        }
        if byte == 0xff && self.termios.input().contains(Input::PARMRK) {
            self.store(byte, Mark::None);
        }
        self.store(byte, Mark::None);
    }

    fn store(&mut self, byte: u8, mark: Mark) {
        if self.input.len() >= INPUT_MAX {
            self.input.pop_back();
        }
        self.input.push_back(Cell { byte, mark });
        if !self.is_canonical() || mark != Mark::None || self.local(Local::EXTPROC) {
            self.readable = self.input.len();
        }
    }

    fn note_line_start(&mut self) {
        if self.input.len() == self.readable {
            self.line_start_column = self.column;
        }
    }

    // Erasing.

    fn finish_erasing(&mut self) {
        if self.erasing {
            self.echo_raw(b"/");
            self.erasing = false;
        }
    }

    /// VERASE, VWERASE and VKILL.
    fn erase(&mut self, byte: u8) {
        if self.input.len() == self.readable {
            return;
        }
        let kill = self.termios.is(byte, VKILL);
        let word = self.termios.is(byte, VWERASE) && !self.termios.is(byte, VERASE) && !kill;
        let echo = self.local(Local::ECHO);
        if kill {
            if !echo {
                self.input.truncate(self.readable);
                return;
            }
            if !self.local(Local::ECHOK | Local::ECHOKE | Local::ECHOE) {
                self.input.truncate(self.readable);
                self.finish_erasing();
                self.echo_byte(byte);
                if self.local(Local::ECHOK) {
                    self.echo_processed(b'\n');
                }
                return;
            }
        }
        let mut seen_word = false;
        while self.input.len() > self.readable {
            // A character may be several bytes (IUTF8).
            let mut start = self.input.len() - 1;
            while start > self.readable && self.termios.input().contains(Input::IUTF8) && self.is_continuation_at(start) {
                start -= 1;
            }
            let first = self.input[start].byte;
            if self.is_continuation_at(start) && self.termios.input().contains(Input::IUTF8) {
                // Half a character at the start of the line: not erased, as on Linux.
                break;
            }
            if word {
                if first.is_ascii_alphanumeric() || first == b'_' || first >= 0x80 {
                    seen_word = true;
                } else if seen_word {
                    break;
                }
            }
            let erased: Vec<u8> = self.input.iter().skip(start).map(|cell| cell.byte).collect();
            self.input.truncate(start);
            if echo {
                self.echo_erased(byte, first, &erased);
            }
            if !kill && !word {
                break;
            }
        }
        if self.input.len() == self.readable && echo {
            self.finish_erasing();
        }
    }

    fn is_continuation_at(&self, index: usize) -> bool {
        self.input.get(index).is_some_and(|cell| is_continuation(cell.byte))
    }

    fn echo_erased(&mut self, eraser: u8, first: u8, erased: &[u8]) {
        if self.local(Local::ECHOPRT) {
            if !self.erasing {
                self.echo_raw(b"\\");
                self.erasing = true;
            }
            self.echo_byte(first);
            for &byte in &erased[1..] {
                self.echo_raw(&[byte]);
            }
        } else if self.termios.is(eraser, VERASE) && !self.local(Local::ECHOE) {
            self.echo_byte(eraser);
        } else if first == b'\t' {
            let columns = self.tab_columns();
            for _ in 0..columns {
                self.echo_raw(b"\x08");
            }
            self.column = self.column.saturating_sub(columns);
        } else {
            let shown_as_two = first.is_ascii_control() && self.local(Local::ECHOCTL);
            let columns = if shown_as_two { 2 } else { usize::from(!first.is_ascii_control()) };
            for _ in 0..columns {
                self.echo_raw(b"\x08 \x08");
            }
            self.column = self.column.saturating_sub(columns);
        }
    }

    /// How wide the tab was that has just been taken out of the line.
    fn tab_columns(&self) -> usize {
        let mut column = self.line_start_column;
        for cell in self.input.iter().skip(self.readable) {
            let byte = cell.byte;
            if byte == b'\t' {
                column += 8 - column % 8;
            } else if byte.is_ascii_control() {
                if self.local(Local::ECHOCTL) {
                    column += 2;
                }
            } else if !(is_continuation(byte) && self.termios.input().contains(Input::IUTF8)) {
                column += 1;
            }
        }
        8 - column % 8
    }

    // Echo and output.

    fn push_echo(&mut self, byte: u8) {
        if self.echo.len() < ECHO_MAX {
            self.echo.push_back(byte);
        }
    }

    /// Without any processing.
    fn echo_raw(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.push_echo(byte);
        }
    }

    /// With output processing.
    fn echo_processed(&mut self, byte: u8) {
        let mut processed = Vec::new();
        self.process(byte, &mut processed);
        self.echo_raw(&processed);
    }

    /// A control character as "^X" under ECHOCTL.
    fn echo_byte(&mut self, byte: u8) {
        if byte.is_ascii_control() && byte != b'\t' && self.local(Local::ECHOCTL) {
            self.echo_raw(&[b'^', byte ^ 0x40]);
            self.column += 2;
        } else {
            self.echo_processed(byte);
        }
    }

    fn flush_echo(&mut self) {
        while !self.stopped && self.output.len() < OUTPUT_MAX {
            match self.echo.pop_front() {
                Some(byte) => self.output.push_back(byte),
                None => break,
            }
        }
    }

    /// Output processing of one byte (OPOST), with the column kept.
    fn process(&mut self, byte: u8, out: &mut Vec<u8>) {
        let flags = self.termios.output();
        if !flags.contains(Output::OPOST) {
            return out.push(byte);
        }
        match byte {
            b'\n' => {
                if flags.contains(Output::ONLRET) {
                    self.column = 0;
                }
                if flags.contains(Output::ONLCR) {
                    self.column = 0;
                    out.push(b'\r');
                }
                out.push(b'\n');
            }
            b'\r' => {
                if flags.contains(Output::ONOCR) && self.column == 0 {
                    return;
                }
                if flags.contains(Output::OCRNL) {
                    if flags.contains(Output::ONLRET) {
                        self.column = 0;
                    }
                    return out.push(b'\n');
                }
                self.column = 0;
                out.push(b'\r');
            }
            b'\t' => {
                let spaces = 8 - self.column % 8;
                self.column += spaces;
                if flags.contains(Output::XTABS) {
                    out.resize(out.len() + spaces, b' ');
                } else {
                    out.push(b'\t');
                }
            }
            8 => {
                self.column = self.column.saturating_sub(1);
                out.push(byte);
            }
            _ => {
                let byte = if flags.contains(Output::OLCUC) { byte.to_ascii_uppercase() } else { byte };
                let zero_width =
                    byte.is_ascii_control() || (is_continuation(byte) && self.termios.input().contains(Input::IUTF8));
                if !zero_width {
                    self.column += 1;
                }
                out.push(byte);
            }
        }
    }

    /// Takes a program's output, as much as there is room for; 0 while it is stopped or full.
    pub fn write(&mut self, bytes: &[u8]) -> usize {
        self.flush_echo();
        if self.stopped {
            return 0;
        }
        let mut consumed = 0;
        let mut processed = Vec::with_capacity(16);
        for &byte in bytes {
            // The widest expansion is a tab.
            if self.output.len() + 8 > OUTPUT_MAX {
                break;
            }
            processed.clear();
            self.process(byte, &mut processed);
            self.output.extend(&processed);
            consumed += 1;
        }
        consumed
    }

    pub fn has_output_room(&self) -> bool {
        !self.stopped && self.output.len() + 8 <= OUTPUT_MAX
    }

    /// Output for the other side.
    pub fn take_output(&mut self, buffer: &mut [u8]) -> usize {
        let count = self.output.len().min(buffer.len());
        for (slot, byte) in buffer.iter_mut().zip(self.output.drain(..count)) {
            *slot = byte;
        }
        self.flush_echo();
        count
    }

    pub fn output_length(&self) -> usize {
        self.output.len()
    }

    pub fn flush_output(&mut self) {
        self.output.clear();
        self.echo.clear();
    }

    pub fn flush_input(&mut self) {
        self.input.clear();
        self.readable = 0;
        self.literal_next = false;
        self.erasing = false;
    }

    // Reading.

    /// Bytes for FIONREAD: of complete lines, or all.
    pub fn input_length(&self) -> usize {
        self.input.iter().take(self.readable).filter(|cell| cell.mark != Mark::EndOfFile).count()
    }

    /// Whether something can be read: a line, or `minimum` bytes.
    pub fn has_input(&self, minimum: usize) -> bool {
        if self.is_canonical() {
            self.readable > 0
        } else {
            self.readable >= minimum.max(1)
        }
    }

    /// Hands out at most one line, or bytes. `None` where there is nothing; `Some(0)`: end of input (VEOF).
    pub fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if self.readable == 0 {
            return None;
        }
        let canonical = self.is_canonical();
        let mut count = 0;
        while self.readable > 0 {
            let Some(&cell) = self.input.front() else { break };
            if canonical && cell.mark == Mark::EndOfFile {
                // Also right behind a full buffer: else the next read would see an end of input that nobody typed.
                self.take_front();
                break;
            }
            if count == buffer.len() {
                break;
            }
            buffer[count] = cell.byte;
            count += 1;
            self.take_front();
            if canonical && cell.mark == Mark::LineEnd {
                break;
            }
        }
        Some(count)
    }

    fn take_front(&mut self) {
        self.input.pop_front();
        self.readable -= 1;
    }
}

#[cfg(test)]
#[path = "discipline_tests.rs"]
mod tests;
