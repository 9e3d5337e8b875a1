//! Devices: which driver stands behind a device number, and what /dev holds.
//!
//! A device node is only a number (mknod(2)); opening it asks [`DeviceRegistry`]. The guest never reaches a device of the
//! host's by any of this.

mod memory;
mod tree;

pub use tree::populate;

use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{Device, FileType, Inode};
use crate::{Context, Errno, Result};
use parking_lot::RwLock;
use std::collections::HashMap;
use std::sync::Arc;

/// Opens a device: the caller, the node that was opened, the flags.
pub type OpenDevice = Arc<dyn Fn(&Context, Arc<dyn Inode>, StatusFlags) -> Result<Arc<dyn FileOperations>> + Send + Sync>;

/// The drivers.
pub struct DeviceRegistry {
    character: RwLock<HashMap<Device, OpenDevice>>,
}

impl Default for DeviceRegistry {
    /// With the memory devices (null(4), random(4), full(4)) in it.
    fn default() -> DeviceRegistry {
        let registry = DeviceRegistry { character: RwLock::default() };
        memory::register(&registry);
        registry
    }
}

impl DeviceRegistry {
    pub fn register_character_device(&self, device: Device, open: OpenDevice) {
        self.character.write().insert(device, open);
    }

    /// ENXIO where no driver has the number.
    pub fn open(
        &self,
        context: &Context,
        kind: FileType,
        device: Device,
        inode: Arc<dyn Inode>,
        flags: StatusFlags,
    ) -> Result<Arc<dyn FileOperations>> {
        if kind != FileType::CharacterDevice {
            return Err(Errno::ENXIO);
        }
        let driver = self.character.read().get(&device).cloned().ok_or(Errno::ENXIO)?;
        driver(context, inode, flags)
    }
}
