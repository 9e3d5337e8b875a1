//! What a signal does where no handler is set (signal(7), "Standard signals").

use skerry_abi::signal::{Signal, SignalSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultAction {
    Terminate,
    /// Terminate, with a core dump where allowed.
    Core,
    Ignore,
    Stop,
    Continue,
}

pub fn default_action(signal: Signal) -> DefaultAction {
    match signal {
        Signal::SIGQUIT
        | Signal::SIGILL
        | Signal::SIGTRAP
        | Signal::SIGABRT
        | Signal::SIGBUS
        | Signal::SIGFPE
        | Signal::SIGSEGV
        | Signal::SIGXCPU
        | Signal::SIGXFSZ
        | Signal::SIGSYS => DefaultAction::Core,
        Signal::SIGCHLD | Signal::SIGURG | Signal::SIGWINCH => DefaultAction::Ignore,
        Signal::SIGSTOP | Signal::SIGTSTP | Signal::SIGTTIN | Signal::SIGTTOU => DefaultAction::Stop,
        Signal::SIGCONT => DefaultAction::Continue,
        _ => DefaultAction::Terminate,
    }
}

/// Those whose default is to stop.
pub(super) const STOP_SIGNALS: SignalSet = SignalSet(1 << 18 | 1 << 19 | 1 << 20 | 1 << 21);
/// SIGCONT alone.
pub(super) const CONTINUE_SIGNAL: SignalSet = SignalSet(1 << 17);
/// Those that an instruction itself causes; they are delivered before others.
pub(super) const SYNCHRONOUS_SIGNALS: SignalSet = SignalSet(1 << 3 | 1 << 4 | 1 << 6 | 1 << 7 | 1 << 10 | 1 << 30);

/// Whether the default is to do nothing (SIGCONT's work is done when it is sent).
pub(super) fn is_ignored_by_default(signal: Signal) -> bool {
    matches!(default_action(signal), DefaultAction::Ignore | DefaultAction::Continue)
}
