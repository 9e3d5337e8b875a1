//! For unit tests: a kernel, processes and threads without a host behind them, and contexts of their calls.
//!
//! Guest memory is the test's own: addresses are those of its variables ([`address_of`]).

use crate::context::{Call, Lead};
use crate::fs::fd_table::FdTable;
use crate::task::{spawn, Credentials, FsContext, SpawnRequest, Task};
use crate::{Context, Kernel};
use skerry_control::{Limits, Network};
use skerry_platform::memory::GuestMemory;
use std::sync::Arc;
use zerocopy::IntoBytes;

/// A worker that nobody else waits for.
pub struct NoLead;

impl Lead for NoLead {
    fn before_blocking(&self) {}
}

pub fn kernel() -> Arc<Kernel> {
    kernel_with(Limits::default())
}

pub fn kernel_with(limits: Limits) -> Arc<Kernel> {
    Kernel::new(b"test", limits, Network::Loopback, false, Box::new(|_| {}))
}

/// A process of root, alone in its session, as `skerry do` starts one.
pub fn process(kernel: &Arc<Kernel>) -> Arc<Task> {
    process_of(kernel, Credentials::new(0, 0, Vec::new()))
}

pub fn process_of(kernel: &Arc<Kernel>, credentials: Credentials) -> Arc<Task> {
    let request = SpawnRequest {
        name: b"test".to_vec(),
        credentials,
        fs: FsContext { root: root(), current: root(), umask: 0o022 },
        files: Arc::new(FdTable::default()),
        memory: Arc::new(GuestMemory::of_pid(std::process::id() as i32)),
    };
    spawn(kernel, request).expect("room for a process")
}

pub fn context(task: &Arc<Task>) -> Context<'_> {
    Context::new(task, &NoLead, Call::default())
}

/// Where a variable is, for calls that read it.
pub fn address_of<T: IntoBytes + zerocopy::Immutable + ?Sized>(value: &T) -> u64 {
    value.as_bytes().as_ptr() as u64
}

/// Where a variable is, for calls that write to it.
pub fn address_of_mut<T: IntoBytes + zerocopy::FromBytes>(value: &mut T) -> u64 {
    value.as_mut_bytes().as_mut_ptr() as u64
}

/// A root directory with nothing in it.
fn root() -> crate::fs::path::Path {
    use crate::fs::inode::{Device, FileSystem, FileType, Inode, Metadata};
    use crate::fs::mount::{MountFlags, MountTable, NewMount};

    struct Nothing;
    impl Inode for Nothing {
        fn metadata(&self) -> crate::Result<Metadata> {
            Err(crate::Errno::EIO)
        }
        fn kind(&self) -> FileType {
            FileType::Directory
        }
        fn file_system(&self) -> Arc<dyn FileSystem> {
            Arc::new(Nothing)
        }
        fn open(
            self: Arc<Self>,
            _: &Context,
            _: crate::fs::file::StatusFlags,
        ) -> crate::Result<Arc<dyn crate::fs::file::FileOperations>> {
            Err(crate::Errno::EIO)
        }
        fn as_any(&self) -> &dyn std::any::Any {
            self
        }
    }
    impl FileSystem for Nothing {
        fn root(&self) -> Arc<dyn Inode> {
            Arc::new(Nothing)
        }
        fn statistics(&self) -> crate::Result<skerry_abi::structs::StatFs> {
            Err(crate::Errno::EIO)
        }
        fn type_name(&self) -> &'static str {
            "nothing"
        }
        fn device(&self) -> Device {
            Device::default()
        }
    }
    MountTable::new().set_root(NewMount {
        file_system: Arc::new(Nothing),
        root: None,
        source: b"none".to_vec(),
        options: String::new(),
        flags: MountFlags::empty(),
    })
}
