//! devpts: /dev/pts with one node per terminal, and ptmx, which makes them (pts(4)).

use super::files::{MasterFile, SlaveFile};
use super::terminal::Terminal;
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::{Device, FileSystem, FileType, Inode, Metadata, SetAttributes};
use crate::fs::pseudo::{empty_statistics, metadata, Attributes, Entry, Node, PseudoInode};
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::structs::StatFs;
use std::sync::{Arc, Weak};

const DEVPTS_SUPER_MAGIC: i64 = 0x1cd1;
/// /dev/ptmx.
pub const MASTER_MULTIPLEXER: Device = Device::new(5, 2);
/// /dev/tty.
pub const CURRENT_TERMINAL: Device = Device::new(5, 0);
/// The group of terminals (tty), to which Linux distributions give them (devpts's gid=5).
const TERMINAL_GROUP: u32 = 5;
/// Numbers: the root has 1, ptmx 2, terminal N has N + 3, as on Linux.
const FIRST_TERMINAL_INODE: u64 = 3;

/// The terminals of one sandbox, as a file system.
pub struct DevPts {
    kernel: Weak<Kernel>,
    device: Device,
    this: Weak<DevPts>,
}

impl DevPts {
    pub fn new(kernel: &Arc<Kernel>, device: Device) -> Arc<DevPts> {
        let file_system = Arc::new_cyclic(|this| DevPts { kernel: Arc::downgrade(kernel), device, this: this.clone() });
        kernel.terminals.device.get_or_init(|| device);
        file_system
    }
}

impl FileSystem for DevPts {
    fn root(&self) -> Arc<dyn Inode> {
        match self.this.upgrade() {
            Some(this) => PseudoInode::new(Arc::new(Root { kernel: self.kernel.clone() }), this),
            None => unreachable!("a file system outlives its users"),
        }
    }

    fn statistics(&self) -> Result<StatFs> {
        Ok(empty_statistics(DEVPTS_SUPER_MAGIC))
    }

    fn type_name(&self) -> &'static str {
        "devpts"
    }

    fn device(&self) -> Device {
        self.device
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

struct Root {
    kernel: Weak<Kernel>,
}

impl Root {
    fn kernel(&self) -> Result<Arc<Kernel>> {
        self.kernel.upgrade().ok_or(Errno::ENOENT)
    }
}

impl Node for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::new(1, FileType::Directory, 0o755))
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        if name == b"ptmx" {
            return Ok(Arc::new(Multiplexer));
        }
        if name.len() > 1 && name[0] == b'0' || !name.iter().all(u8::is_ascii_digit) {
            return Err(Errno::ENOENT);
        }
        let index = std::str::from_utf8(name).ok().and_then(|name| name.parse().ok()).ok_or(Errno::ENOENT)?;
        let terminal = self.kernel()?.terminals.get(index).ok_or(Errno::ENOENT)?;
        Ok(Arc::new(Slave { terminal }))
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let kind = FileType::CharacterDevice;
        let mut entries = vec![Entry { name: b"ptmx".to_vec(), inode: 2, kind }];
        for index in self.kernel()?.terminals.indexes() {
            let inode = u64::from(index) + FIRST_TERMINAL_INODE;
            entries.push(Entry { name: index.to_string().into_bytes(), inode, kind });
        }
        Ok(entries)
    }
}

/// ptmx.
struct Multiplexer;

impl Node for Multiplexer {
    fn kind(&self) -> FileType {
        FileType::CharacterDevice
    }

    fn attributes(&self) -> Result<Attributes> {
        let attributes = Attributes::new(2, FileType::CharacterDevice, 0o666);
        Ok(Attributes { represents: MASTER_MULTIPLEXER, ..attributes })
    }

    fn open_special(&self, context: &Context, flags: StatusFlags) -> Option<Result<Arc<dyn FileOperations>>> {
        Some(open_master(context, None, flags))
    }

    fn set_attributes(&self, _attributes: &SetAttributes) -> Result<()> {
        Err(Errno::EPERM)
    }
}

/// A terminal's node.
struct Slave {
    terminal: Arc<Terminal>,
}

fn slave_attributes(terminal: &Terminal) -> Attributes {
    let state = terminal.state();
    let inode = u64::from(terminal.index()) + FIRST_TERMINAL_INODE;
    let attributes = Attributes::new(inode, FileType::CharacterDevice, state.permissions);
    Attributes { represents: terminal.device(), ..attributes.owned_by(state.owner) }
}

/// fstat(2) of a terminal that was opened without its name.
pub(super) fn slave_metadata(terminal: &Terminal) -> Metadata {
    let device = terminal.kernel.upgrade().and_then(|kernel| kernel.terminals.device.get().copied());
    let changed = terminal.state().changed;
    Metadata { changed, ..metadata(&slave_attributes(terminal), device.unwrap_or_default()) }
}

impl Node for Slave {
    fn kind(&self) -> FileType {
        FileType::CharacterDevice
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(slave_attributes(&self.terminal))
    }

    fn open_special(&self, context: &Context, flags: StatusFlags) -> Option<Result<Arc<dyn FileOperations>>> {
        let open = || -> Result<Arc<dyn FileOperations>> {
            Ok(SlaveFile::open(context, &self.terminal, None, flags, has_no_controlling(flags))?)
        };
        Some(open())
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        let mut state = self.terminal.state();
        if let Some(permissions) = attributes.permissions {
            state.permissions = permissions & 0o7777;
        }
        if let Some(uid) = attributes.uid {
            state.owner.0 = uid;
        }
        if let Some(gid) = attributes.gid {
            state.owner.1 = gid;
        }
        state.changed = crate::fs::pseudo::now();
        Ok(())
    }
}

fn has_no_controlling(flags: StatusFlags) -> bool {
    flags.bits() & skerry_abi::raw::general::O_NOCTTY != 0
}

/// Opens /dev/ptmx: a new terminal. ENOSPC where there are too many.
fn open_master(context: &Context, inode: Option<Arc<dyn Inode>>, _flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
    let credentials = context.task.credentials();
    let terminal = context.kernel().terminals.create(context.kernel(), (credentials.fsuid, TERMINAL_GROUP))?;
    Ok(MasterFile::new(terminal, inode))
}

/// Opens /dev/tty: the caller's controlling terminal. ENXIO where it has none.
fn open_current(context: &Context, inode: Arc<dyn Inode>, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
    let terminal = super::job_control::controlling_terminal(context.task).ok_or(Errno::ENXIO)?;
    Ok(SlaveFile::open(context, &terminal, Some(inode), flags, true)?)
}

/// Tells the devices' registry how terminals are opened: by nodes in other file systems than devpts, too.
pub(super) fn register(kernel: &Kernel) {
    let registry = &kernel.devices;
    registry.register_character_device(
        MASTER_MULTIPLEXER,
        Arc::new(|context: &Context, inode: Arc<dyn Inode>, flags| open_master(context, Some(inode), flags)),
    );
    registry.register_character_device(
        CURRENT_TERMINAL,
        Arc::new(|context: &Context, inode: Arc<dyn Inode>, flags| open_current(context, inode, flags)),
    );
}
