//! Queues of pending signals: standard ones are held once, real-time ones queue in order (signal(7)).

use super::action::SYNCHRONOUS_SIGNALS;
use crate::{Errno, Result};
use skerry_abi::signal::{Signal, SignalInfo, SignalSet, SI_USER};
use std::collections::VecDeque;

/// However high RLIMIT_SIGPENDING is, no queue holds more: the memory is the sandbox's.
const HARD_LIMIT: u64 = 1 << 16;

/// Pending signals of one task or process.
#[derive(Default)]
pub struct PendingSignals {
    pub set: SignalSet,
    pub queue: VecDeque<SignalInfo>,
}

impl PendingSignals {
    /// Queues `info`; false where a standard signal is pending already. EAGAIN: a real-time one over `limit`
    /// (RLIMIT_SIGPENDING), unless kill(2) sent it, which then carries nothing along.
    pub fn push(&mut self, info: SignalInfo, limit: u64) -> Result<bool> {
        let Some(signal) = info.signal() else { return Ok(false) };
        if !signal.is_realtime() {
            if self.set.contains(signal) {
                return Ok(false);
            }
            self.queue.push_back(info);
        } else if (self.queue.len() as u64) < limit.min(HARD_LIMIT) {
            self.queue.push_back(info);
        } else if info.code != SI_USER && info.code <= 0 {
            return Err(Errno::EAGAIN);
        }
        self.set.insert(signal);
        Ok(true)
    }

    /// Takes the first one that is in `wanted`, the lowest number first.
    pub fn take(&mut self, wanted: SignalSet) -> Option<SignalInfo> {
        self.set.intersection(wanted).first().map(|signal| self.take_one(signal))
    }

    /// Takes a fault that an instruction caused, if one is pending and not blocked.
    pub fn take_synchronous(&mut self, wanted: SignalSet) -> Option<SignalInfo> {
        if self.set.intersection(wanted).intersection(SYNCHRONOUS_SIGNALS).is_empty() {
            return None;
        }
        let index = self.queue.iter().position(|info| {
            info.code > SI_USER
                && info.signal().is_some_and(|signal| wanted.contains(signal) && SYNCHRONOUS_SIGNALS.contains(signal))
        })?;
        let info = self.queue.remove(index)?;
        self.update(info.signal()?);
        Some(info)
    }

    fn take_one(&mut self, signal: Signal) -> SignalInfo {
        let position = self.queue.iter().position(|info| info.signo == signal.number());
        let info = position.and_then(|index| self.queue.remove(index));
        self.update(signal);
        // Over the limit only the fact was kept: as if from pid 0.
        info.unwrap_or(SignalInfo::user(signal, SI_USER, 0, 0))
    }

    fn update(&mut self, signal: Signal) {
        if !self.queue.iter().any(|info| info.signo == signal.number()) {
            self.set.remove(signal);
        }
    }

    /// Forgets all in `unwanted`.
    pub fn flush(&mut self, unwanted: SignalSet) {
        if self.set.intersection(unwanted).is_empty() {
            return;
        }
        self.set = self.set.difference(unwanted);
        self.queue.retain(|info| info.signal().is_some_and(|signal| !unwanted.contains(signal)));
    }
}
