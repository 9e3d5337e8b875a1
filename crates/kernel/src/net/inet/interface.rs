//! lo, the one interface.

use std::sync::atomic::{AtomicU64, Ordering};

pub const INDEX: u32 = 1;
pub const NAME: &str = "lo";
pub const MTU: u32 = 65536;
/// ARPHRD_LOOPBACK.
pub const HARDWARE_TYPE: u16 = 772;
pub const FLAG_UP: u32 = 1;
/// IFF_UP | IFF_LOOPBACK | IFF_RUNNING.
pub const FLAGS: u32 = 0x49;

/// What went through it, as /proc/net/dev counts (each packet was both sent and received).
#[derive(Default)]
pub struct Counters {
    bytes: AtomicU64,
    packets: AtomicU64,
}

impl Counters {
    /// A message of `bytes`, as so many packets as fit the MTU.
    pub fn count(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        self.packets.fetch_add((bytes as u64).div_ceil(MTU.into()).max(1), Ordering::Relaxed);
    }

    /// (bytes, packets).
    pub fn get(&self) -> (u64, u64) {
        (self.bytes.load(Ordering::Relaxed), self.packets.load(Ordering::Relaxed))
    }
}
