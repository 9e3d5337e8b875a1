//! proc(5): what programs read about processes and the system.
//!
//! [`ProcFileSystem`] is mounted at /proc. Below its root are the processes ([`process`]) and a fixed tree: [`system`]
//! (meminfo, stat, cpuinfo ...), [`settings`] (/proc/sys). Everything is made from the guest kernel's own state; what only
//! the host knows (memory use, CPU time, mappings) comes from the host's /proc of the process behind ([`host`]).
//!
//! Lock order: nothing here holds a lock of its own while it asks the rest of the kernel.

mod descriptors;
mod host;
mod map;
mod memory;
mod process;
mod settings;
mod status;
mod system;
#[cfg(test)]
mod tests;
mod view;

pub use map::MappedNames;
pub(crate) use process::process_of_directory;
pub(crate) use settings::Settings;
pub(crate) use status::{cpu_list, cpu_mask};
pub use system::visible_cpus;
pub(crate) use system::{memory_figures, online_cpus};

use crate::fs::inode::{Device, FileSystem, FileType, Inode};
use crate::fs::pseudo::tree::Tree;
use crate::fs::pseudo::{empty_statistics, Attributes, Entry, Node, PseudoInode};
use crate::task::Task;
use crate::{Errno, Kernel, Result};
use skerry_abi::structs::StatFs;
use std::sync::{Arc, Weak};

const PROC_SUPER_MAGIC: i64 = 0x9fa0;
/// Numbers of the fixed tree; processes' nodes have (id << 20 | ...), far above.
const FIRST_FIXED_INODE: u64 = 2;

/// proc, as one sandbox sees it.
pub struct ProcFileSystem {
    kernel: Weak<Kernel>,
    device: Device,
    fixed: Arc<dyn Node>,
    this: Weak<ProcFileSystem>,
}

impl ProcFileSystem {
    pub fn new(kernel: &Arc<Kernel>, device: Device) -> Arc<ProcFileSystem> {
        let mut tree = Tree::directory();
        system::add(&mut tree);
        settings::add(&mut tree);
        let mut next_inode = FIRST_FIXED_INODE;
        let fixed = tree.build(&mut next_inode);
        Arc::new_cyclic(|this| ProcFileSystem { kernel: Arc::downgrade(kernel), device, fixed, this: this.clone() })
    }
}

impl FileSystem for ProcFileSystem {
    fn root(&self) -> Arc<dyn Inode> {
        let root = Root { kernel: self.kernel.clone(), fixed: self.fixed.clone() };
        match self.this.upgrade() {
            Some(this) => PseudoInode::new(Arc::new(root), this),
            // Only while it is being dropped, when nobody asks.
            None => unreachable!("a file system outlives its users"),
        }
    }

    fn statistics(&self) -> Result<StatFs> {
        Ok(empty_statistics(PROC_SUPER_MAGIC))
    }

    fn type_name(&self) -> &'static str {
        "proc"
    }

    fn device(&self) -> Device {
        self.device
    }

    fn is_volatile(&self) -> bool {
        true
    }
}

/// /proc itself.
struct Root {
    kernel: Weak<Kernel>,
    fixed: Arc<dyn Node>,
}

impl Root {
    fn kernel(&self) -> Result<Arc<Kernel>> {
        self.kernel.upgrade().ok_or(Errno::ENOENT)
    }
}

/// A process or thread id as a file name: decimal, no leading zero.
fn parse_id(name: &[u8]) -> Option<i32> {
    if name.first() == Some(&b'0') || !name.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(name).ok()?.parse().ok()
}

impl Node for Root {
    fn kind(&self) -> FileType {
        FileType::Directory
    }

    fn attributes(&self) -> Result<Attributes> {
        let processes = self.kernel()?.pids.processes().len() as u64;
        let links = self.fixed.attributes()?.links + processes;
        Ok(Attributes { links, ..Attributes::new(1, FileType::Directory, 0o555) })
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        match name {
            b"self" => Ok(Arc::new(SelfLink::Process)),
            b"thread-self" => Ok(Arc::new(SelfLink::Thread)),
            _ => match parse_id(name) {
                Some(id) => process::directory(&self.kernel()?, id),
                None => self.fixed.lookup(name),
            },
        }
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let mut entries = self.fixed.list()?;
        for link in [SelfLink::Process, SelfLink::Thread] {
            entries.push(Entry { name: link.name().into(), inode: link.inode(), kind: FileType::Symlink });
        }
        for process in self.kernel()?.pids.processes() {
            let pid = process.pid();
            entries.push(Entry {
                name: pid.to_string().into_bytes(),
                inode: process::directory_inode(pid),
                kind: FileType::Directory,
            });
        }
        Ok(entries)
    }
}

/// /proc/self and /proc/thread-self.
enum SelfLink {
    Process,
    Thread,
}

impl SelfLink {
    fn name(&self) -> &'static str {
        match self {
            SelfLink::Process => "self",
            SelfLink::Thread => "thread-self",
        }
    }

    fn inode(&self) -> u64 {
        match self {
            SelfLink::Process => (1 << 19) | 1,
            SelfLink::Thread => (1 << 19) | 2,
        }
    }
}

impl Node for SelfLink {
    fn kind(&self) -> FileType {
        FileType::Symlink
    }

    fn attributes(&self) -> Result<Attributes> {
        Ok(Attributes::new(self.inode(), FileType::Symlink, 0o777))
    }

    fn read_link(&self, reader: Option<&Task>) -> Result<Vec<u8>> {
        // Nobody's own process: the control server has none.
        let reader = reader.ok_or(Errno::ENOENT)?;
        let pid = reader.process().pid();
        Ok(match self {
            SelfLink::Process => pid.to_string().into_bytes(),
            SelfLink::Thread => format!("{pid}/task/{}", reader.tid()).into_bytes(),
        })
    }
}
