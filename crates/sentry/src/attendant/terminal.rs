//! The caller's terminal, in raw mode while the command has one of its own, and restored after any death.
//!
//! Ours by signal, error or end: `restore` (also on drop). Ours by SIGKILL: a guard process, which holds the other end of a
//! pipe and restores the terminal when the pipe closes without a word.

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::termios::{tcgetattr, tcgetwinsize, tcsetattr, ControlModes, InputModes, LocalModes, OptionalActions, OutputModes};
use rustix::termios::{SpecialCodeIndex, Termios};
use skerry_platform::foreground;
use skerry_platform::own::{fork_into_namespaces, Forked};

pub struct RawTerminal {
    saved: Termios,
    word: Option<OwnedFd>,
    guard: Option<rustix::process::Pid>,
}

impl RawTerminal {
    /// Makes standard input raw. Before any thread starts: the guard is a fork.
    pub fn start() -> Result<RawTerminal, String> {
        let saved = tcgetattr(terminal()).map_err(|error| format!("the terminal cannot be read: {error}"))?;
        let (reading, word) =
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| format!("pipe: {error}"))?;
        let guard = match fork_into_namespaces(0).map_err(|error| error.to_string())? {
            Forked::Parent(pid) => pid,
            Forked::Child => keep_watch(&reading, &saved),
        };
        let mut raw = saved.clone();
        raw.input_modes -= InputModes::IGNBRK
            | InputModes::BRKINT
            | InputModes::PARMRK
            | InputModes::ISTRIP
            | InputModes::INLCR
            | InputModes::IGNCR
            | InputModes::ICRNL
            | InputModes::IXON;
        raw.output_modes -= OutputModes::OPOST;
        raw.control_modes -= ControlModes::CSIZE | ControlModes::PARENB;
        raw.control_modes |= ControlModes::CS8;
        raw.local_modes -= LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::ISIG | LocalModes::IEXTEN;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        // SIGTTOU is blocked: in the background this changes the terminal all the same, and stops nobody.
        let _ = tcsetattr(terminal(), OptionalActions::Drain, &raw);
        Ok(RawTerminal { saved, word: Some(word), guard: Some(guard) })
    }

    pub fn restore(&mut self) {
        let Some(word) = self.word.take() else { return };
        // An error: the terminal is gone.
        let _ = tcsetattr(terminal(), OptionalActions::Drain, &self.saved);
        let _ = rustix::io::write(&word, b"k");
        drop(word);
        if let Some(guard) = self.guard.take() {
            let _ = foreground::wait_for_child(guard, std::time::Duration::from_secs(1));
        }
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        self.restore();
    }
}

fn terminal() -> BorrowedFd<'static> {
    rustix::stdio::stdin()
}

/// The guard. It has our signal mask, so that nothing but SIGKILL ends it early.
fn keep_watch(reading: &OwnedFd, saved: &Termios) -> ! {
    // What kills our process group is not to kill the guard.
    let _ = rustix::process::setpgid(None, None);
    foreground::close_all_but([terminal().as_raw_fd(), reading.as_raw_fd()]);
    let mut byte = [0u8; 1];
    let told = rustix::io::retry_on_intr(|| rustix::io::read(reading.as_fd(), &mut byte));
    if told != Ok(1) {
        let _ = tcsetattr(terminal(), OptionalActions::Now, saved);
    }
    std::process::exit(0)
}

/// Columns and rows; 80 by 24 where the terminal does not say.
pub fn window_size() -> (u16, u16) {
    let output = rustix::stdio::stdout();
    let of = if rustix::termios::isatty(output) { output } else { terminal() };
    let size = tcgetwinsize(of).ok();
    let of = |length: Option<u16>, default| length.filter(|length| *length != 0).unwrap_or(default);
    (of(size.map(|size| size.ws_col), 80), of(size.map(|size| size.ws_row), 24))
}
