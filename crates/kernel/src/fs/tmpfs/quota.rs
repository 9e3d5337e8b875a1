//! Memory that files hold, against a cap.

use crate::{Errno, Result};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::Arc;

/// Bytes in use against a cap.
#[derive(Default)]
pub struct Quota {
    pub used: AtomicU64,
    /// 0 = none.
    pub limit: AtomicU64,
}

impl Quota {
    pub fn with_limit(limit: u64) -> Arc<Quota> {
        Arc::new(Quota { used: AtomicU64::new(0), limit: AtomicU64::new(limit) })
    }

    /// Takes `bytes`, or ENOSPC.
    pub fn charge(&self, bytes: u64) -> Result<()> {
        let limit = self.limit.load(Ordering::Relaxed);
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                let new = used.checked_add(bytes)?;
                (limit == 0 || new <= limit).then_some(new)
            })
            .map(|_| ())
            .map_err(|_| Errno::ENOSPC)
    }

    /// Bytes that can still be taken.
    pub fn free(&self) -> u64 {
        match self.limit.load(Ordering::Relaxed) {
            0 => u64::MAX,
            limit => limit.saturating_sub(self.used.load(Ordering::Relaxed)),
        }
    }

    /// Takes `bytes` whatever the cap says: what a guest's mapping has touched already is in use.
    pub fn charge_unchecked(&self, bytes: u64) {
        self.used.fetch_add(bytes, Ordering::Relaxed);
    }

    pub fn release(&self, bytes: u64) {
        let _ = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| Some(used.saturating_sub(bytes)));
    }
}

/// The caps that one file system's files stand under: the sandbox's, and its own (mount option `size`).
#[derive(Clone)]
pub struct Quotas {
    pub sandbox: Arc<Quota>,
    pub own: Arc<Quota>,
}

impl Quotas {
    pub fn charge(&self, bytes: u64) -> Result<()> {
        self.sandbox.charge(bytes)?;
        self.own.charge(bytes).inspect_err(|_| self.sandbox.release(bytes))
    }

    pub fn free(&self) -> u64 {
        self.sandbox.free().min(self.own.free())
    }

    pub fn charge_unchecked(&self, bytes: u64) {
        self.sandbox.charge_unchecked(bytes);
        self.own.charge_unchecked(bytes);
    }

    pub fn release(&self, bytes: u64) {
        self.sandbox.release(bytes);
        self.own.release(bytes);
    }
}
