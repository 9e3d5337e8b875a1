//! Extended attributes (xattr(7)) that a file system keeps in memory.

use crate::{Errno, Result};
use parking_lot::Mutex;
use std::collections::BTreeMap;

/// The longest value (XATTR_SIZE_MAX, xattr(7)), and the longest list of names.
pub const VALUE_MAX: usize = 65536;
/// The longest name (XATTR_NAME_MAX).
pub const NAME_MAX: usize = 255;
/// What one file may hold in all, so that attributes are no way around the memory limit.
const TOTAL_MAX: usize = 256 * 1024;

/// setxattr(2)'s flags.
pub const XATTR_CREATE: u32 = 1;
pub const XATTR_REPLACE: u32 = 2;

/// One file's attributes.
#[derive(Default)]
pub struct Xattrs {
    map: Mutex<BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl Xattrs {
    pub fn get(&self, name: &[u8]) -> Result<Vec<u8>> {
        self.map.lock().get(name).cloned().ok_or(Errno::ENODATA)
    }

    pub fn set(&self, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let mut map = self.map.lock();
        match map.contains_key(name) {
            true if flags & XATTR_CREATE != 0 => return Err(Errno::EEXIST),
            false if flags & XATTR_REPLACE != 0 => return Err(Errno::ENODATA),
            _ => {}
        }
        let others: usize = map.iter().filter(|(key, _)| &key[..] != name).map(|(key, value)| key.len() + value.len()).sum();
        if others + name.len() + value.len() > TOTAL_MAX {
            return Err(Errno::ENOSPC);
        }
        map.insert(name.to_vec(), value.to_vec());
        Ok(())
    }

    pub fn list(&self) -> Vec<Vec<u8>> {
        self.map.lock().keys().cloned().collect()
    }

    pub fn remove(&self, name: &[u8]) -> Result<()> {
        self.map.lock().remove(name).map(|_| ()).ok_or(Errno::ENODATA)
    }
}
