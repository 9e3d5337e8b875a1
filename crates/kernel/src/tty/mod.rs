//! Terminals (tty(4), pty(7)).

use crate::fs::inode::Device;

/// A terminal: line discipline, window size, foreground process group.
pub struct Terminal {}
impl Terminal {
    pub fn device(&self) -> Device { Device::default() }
    pub fn foreground_group_id(&self) -> Option<i32> { None }
}
#[derive(Default)]
pub struct Terminals {}
impl Terminals {
    pub fn count(&self) -> usize { 0 }
}
