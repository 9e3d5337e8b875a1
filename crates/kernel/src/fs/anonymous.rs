//! Places for open files that have no name: what /proc/PID/fd/N leads to for a pipe, a standard stream of the caller, a
//! namespace. `echo text > /dev/stderr` opens one.
//!
//! Key types: [`AnonymousFiles`], the sandbox's one unattached mount of them; [`AnonymousInode`], an open file seen as
//! an inode. No locks of its own.

use crate::fs::file::{FileOperations, OpenFile, StatusFlags};
use crate::fs::host_file::HostFile;
use crate::fs::inode::{Device, FileSystem, FileType, Inode, Metadata, SetAttributes};
use crate::fs::mount::{Mount, MountFlags, NewMount};
use crate::fs::path::{Dentry, Path};
use crate::fs::pseudo::{empty_statistics, metadata, Attributes};
use crate::ipc::pipe::PipeEnd;
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::structs::StatFs;
use std::any::Any;
use std::sync::{Arc, OnceLock};

const ANON_INODE_FS_MAGIC: i64 = 0x0904_1934;
/// Linux's own numbers for the file systems that nobody mounts.
const ANONYMOUS_DEVICE: Device = Device::new(0, 14);
const NAMESPACE_DEVICE: Device = Device::new(0, 4);

/// Part of the kernel: see the module's text.
#[derive(Default)]
pub struct AnonymousFiles {
    mount: OnceLock<Arc<Mount>>,
}

impl AnonymousFiles {
    fn mount(&self, kernel: &Kernel) -> Arc<Mount> {
        let unattached = || {
            kernel.mounts.unattached(NewMount {
                file_system: Arc::new(AnonymousFileSystem),
                root: None,
                source: b"anon_inodefs".to_vec(),
                options: String::new(),
                flags: MountFlags::empty(),
            })
        };
        self.mount.get_or_init(unattached).clone()
    }
}

/// The place of `file`, which has no path.
pub(crate) fn path_of(kernel: &Kernel, file: Arc<OpenFile>) -> Path {
    let inode = AnonymousInode { kind: Kind::File(file) };
    Path { mount: kernel.anonymous_files.mount(kernel), dentry: Dentry::new_root(Arc::new(inode)) }
}

/// The place of the namespace with this number.
pub(crate) fn path_of_namespace(kernel: &Kernel, number: u64) -> Path {
    let inode = AnonymousInode { kind: Kind::Namespace(number) };
    Path { mount: kernel.anonymous_files.mount(kernel), dentry: Dentry::new_root(Arc::new(inode)) }
}

/// What readlink(2) shows for an open file whose path is one of these places; `None` for any other path.
pub(crate) fn name_of(path: &Path) -> Option<String> {
    path.inode().as_any().downcast_ref::<AnonymousInode>().map(AnonymousInode::name)
}

struct AnonymousFileSystem;

impl FileSystem for AnonymousFileSystem {
    fn root(&self) -> Arc<dyn Inode> {
        Arc::new(AnonymousInode { kind: Kind::Root })
    }
    fn statistics(&self) -> Result<StatFs> {
        Ok(empty_statistics(ANON_INODE_FS_MAGIC))
    }
    fn type_name(&self) -> &'static str {
        "anon_inodefs"
    }
    fn device(&self) -> Device {
        ANONYMOUS_DEVICE
    }
}

enum Kind {
    /// Never seen by anybody: the mount needs one.
    Root,
    File(Arc<OpenFile>),
    Namespace(u64),
}

/// An open file, or a namespace, as an inode.
pub struct AnonymousInode {
    kind: Kind,
}

impl AnonymousInode {
    fn name(&self) -> String {
        match &self.kind {
            Kind::Root => "/".into(),
            Kind::File(file) => file.operations.anonymous_name(),
            Kind::Namespace(number) => format!("ns:[{number}]"),
        }
    }
}

impl Inode for AnonymousInode {
    fn metadata(&self) -> Result<Metadata> {
        match &self.kind {
            Kind::Root => Ok(metadata(&Attributes::new(1, FileType::Directory, 0o500), ANONYMOUS_DEVICE)),
            Kind::File(file) => file.operations.metadata(),
            Kind::Namespace(number) => Ok(metadata(&Attributes::new(*number, FileType::Regular, 0o444), NAMESPACE_DEVICE)),
        }
    }

    fn kind(&self) -> FileType {
        self.metadata().map_or(FileType::Regular, |metadata| metadata.kind)
    }

    fn file_system(&self) -> Arc<dyn FileSystem> {
        Arc::new(AnonymousFileSystem)
    }

    fn set_attributes(&self, attributes: &SetAttributes) -> Result<()> {
        let Kind::File(file) = &self.kind else { return Err(Errno::EPERM) };
        if attributes.permissions.is_some() || attributes.uid.is_some() || attributes.gid.is_some() {
            return Err(Errno::EPERM);
        }
        match attributes.size {
            // O_TRUNC on a pipe or a terminal is nothing (open(2)).
            Some(size) if self.kind() == FileType::Regular => file.operations.truncate(size),
            _ => Ok(()),
        }
    }

    fn open(self: Arc<Self>, context: &Context, flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match &self.kind {
            Kind::Root => Err(Errno::EACCES),
            Kind::Namespace(_) => Ok(Arc::new(NamespaceFile { inode: self })),
            Kind::File(file) => {
                if let Some(host_file) = file.downcast::<HostFile>() {
                    return host_file.open_by_name(flags);
                }
                if let Some(end) = file.downcast::<PipeEnd>() {
                    return end.open_again(context, flags);
                }
                match self.kind() {
                    FileType::Socket => return Err(Errno::ENXIO),
                    FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice | FileType::Regular => {}
                    FileType::Directory | FileType::Symlink => return Err(Errno::EACCES),
                }
                // The same object, opened once more: what the description cannot do, this one cannot either.
                let wants_write = flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR);
                let wants_read = !flags.contains(StatusFlags::WRONLY);
                if wants_write && !file.is_writable() || wants_read && !file.is_readable() {
                    return Err(Errno::EACCES);
                }
                Ok(file.operations.clone())
            }
        }
    }

    fn open_data(self: Arc<Self>, _flags: StatusFlags) -> Result<Arc<dyn FileOperations>> {
        match &self.kind {
            Kind::File(file) if file.operations.is_seekable() => Ok(file.operations.clone()),
            _ => Err(Errno::ENXIO),
        }
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A namespace, open: good for fstat(2) and setns(2) only.
struct NamespaceFile {
    inode: Arc<AnonymousInode>,
}

impl FileOperations for NamespaceFile {
    fn metadata(&self) -> Result<Metadata> {
        self.inode.metadata()
    }
    fn anonymous_name(&self) -> String {
        self.inode.name()
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
}
