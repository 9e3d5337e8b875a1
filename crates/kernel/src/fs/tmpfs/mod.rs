//! tmpfs(5): files in the sandbox's memory.

use std::sync::atomic::AtomicU64;

/// Bytes in use against a cap.
#[derive(Default)]
pub struct Quota {
    pub used: AtomicU64,
    /// 0 = none.
    pub limit: AtomicU64,
}
