//! Terminals (tty(4), pty(7)).

/// A terminal: line discipline, window size, foreground process group.
pub struct Terminal {}
