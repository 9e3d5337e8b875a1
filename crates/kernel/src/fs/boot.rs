//! The tree that a sandbox starts with: from the mounts of the control protocol's `boot` to a mount table.
//!
//! Everything of the host is opened here, once, before the sentry confines itself; later the trees are reached through
//! these descriptors only.

use crate::fs::dev;
use crate::fs::direct::DirectRegistry;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::fs::host::{host_error, Access, Copies, DescriptorCache, HostTree, IdMap, Reopener};
use crate::fs::inode::{Device, FileSystem, FileType, Inode, NewNodeKind};
use crate::fs::mount::{MountFlags, MountTable, NewMount};
use crate::fs::overlay::Overlay;
use crate::fs::path::Path;
use crate::fs::tmpfs::{ContentShared, Quota, Tmpfs, TmpfsOptions};
use crate::fs::walk::{self, Follow};
use crate::{Errno, Result};
use rustix::fs::{Mode, OFlags, ResolveFlags, CWD};
use skerry_control::{base64, Bytes, Mount, MountKind};
use skerry_platform::host::own_descriptors;
use skerry_platform::own::descriptor_limit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::Arc;

/// What file systems of one sandbox share.
pub struct Services {
    /// In-memory files' cap: the same object as `Kernel::memory_files`.
    pub memory_files: Arc<Quota>,
    pub content: Arc<ContentShared>,
    pub descriptors: Arc<DescriptorCache>,
    /// Files that processes use by themselves.
    pub direct: Arc<DirectRegistry>,
    next_device: AtomicU32,
}

/// Host descriptors that host trees may keep between calls, where the host grants us eight times as many in all.
const DESCRIPTORS_KEPT: usize = 2048;

impl Services {
    /// Before the process confines itself: opens its own /proc/self/fd, and sets the process's umask to 0.
    pub fn new(memory_files: Arc<Quota>) -> Result<Arc<Services>> {
        let reopener = Reopener::new()?;
        // What a guest asks for has been cut by the guest's own umask; the host's would cut it again.
        rustix::process::umask(Mode::empty());
        Ok(Arc::new(Services {
            memory_files,
            content: ContentShared::new(reopener.clone()),
            descriptors: DescriptorCache::new(DESCRIPTORS_KEPT.min(descriptor_limit() / 8), reopener),
            direct: Arc::default(),
            next_device: AtomicU32::new(0),
        }))
    }

    /// An anonymous device number (major 0), as Linux gives file systems without one. They start high, away from the
    /// host's own, which show through for host files.
    pub fn new_device(&self) -> Device {
        Device::new(0, 0x8000 + self.next_device.fetch_add(1, Ordering::Relaxed))
    }

    /// A new tmpfs; `size` in bytes, 0 = only the sandbox's own cap.
    pub fn tmpfs(&self, size: u64, permissions: u32, type_name: &'static str) -> Arc<Tmpfs> {
        Tmpfs::new(TmpfsOptions {
            device: self.new_device(),
            sandbox_quota: self.memory_files.clone(),
            size,
            permissions,
            content: self.content.clone(),
            type_name,
        })
    }

    /// The strict profile: programs map copies of the host's files, and no standard stream.
    pub fn copy_what_is_mapped(&self) {
        self.descriptors.map_copies(Copies::new(self.tmpfs(0, 0o700, "tmpfs")));
    }

    /// A host tree at `source` (absolute, on the host).
    pub fn host_tree(&self, source: &[u8], access: Access, ids: IdMap) -> Result<Arc<HostTree>> {
        HostTree::new(open_source(source)?, access, ids, self.descriptors.clone())
    }
}

/// Opens the top of a host tree: a directory, or a regular file (then a bind mount of one file).
fn open_source(source: &[u8]) -> Result<OwnedFd> {
    if source.first() != Some(&b'/') {
        return Err(Errno::EINVAL);
    }
    // The path had no symbolic link in it when it was looked at: whoever has put one there since gets nothing by it.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let straight = rustix::fs::openat2(CWD, source, flags, Mode::empty(), ResolveFlags::NO_SYMLINKS);
    let descriptor = match straight {
        // An outer profile may not know the call: what was opened says where it is.
        Err(rustix::io::Errno::NOSYS | rustix::io::Errno::PERM) => {
            let opened = rustix::fs::open(source, flags, Mode::empty());
            opened.and_then(|opened| if is_at(&opened, source) { Ok(opened) } else { Err(rustix::io::Errno::LOOP) })
        }
        opened => opened,
    };
    let descriptor = descriptor.map_err(host_error)?;
    let mode = rustix::fs::fstat(&descriptor).map_err(host_error)?.st_mode;
    match FileType::from_mode(mode) {
        Some(FileType::Directory | FileType::Regular) => Ok(descriptor),
        _ => Err(Errno::EACCES),
    }
}

/// Whether the host knows what is open by this very name.
fn is_at(opened: &OwnedFd, name: &[u8]) -> bool {
    let number = opened.as_raw_fd().to_string();
    let found = own_descriptors().and_then(|own| rustix::fs::readlinkat(own, number, Vec::new()).ok());
    found.is_some_and(|found| found.as_bytes() == name)
}

/// Which mount could not be made, and why.
#[derive(Debug)]
pub struct BuildError {
    pub target: Bytes,
    pub errno: Errno,
    /// "the source on the host", "the mount point" ...: what the errno is about.
    pub what: &'static str,
}

impl std::fmt::Display for BuildError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot mount {}: {}: {}", String::from_utf8_lossy(&self.target.0), self.what, self.errno)
    }
}

impl std::error::Error for BuildError {}

/// Makes a file system that another room owns (proc, sysfs).
pub type MakeFileSystem<'a> = &'a dyn Fn(&MountKind, &Arc<Services>) -> Option<Arc<dyn FileSystem>>;

/// Makes all of `mounts`, in order, in an empty `table`; returns the root.
pub fn build(
    table: &MountTable,
    services: &Arc<Services>,
    mounts: &[Mount],
    ids: IdMap,
    others: MakeFileSystem,
) -> Result<Path, BuildError> {
    let mut root: Option<Path> = None;
    for mount in mounts {
        let fail = |errno: Errno, what: &'static str| BuildError { target: mount.target.clone(), errno, what };
        if mount.target.0.first() != Some(&b'/') || mount.target.0.contains(&0) {
            return Err(fail(Errno::EINVAL, "the target is not an absolute path"));
        }
        match &root {
            None => {
                if mount.target.0 != b"/" {
                    return Err(fail(Errno::EINVAL, "the first mount must be at \"/\""));
                }
                let new = make(services, mount, ids, others, FileType::Directory).map_err(|errno| fail(errno, "the source"))?;
                root = Some(table.set_root(new));
            }
            Some(root) => {
                let top = table.topmost(root.clone());
                if let MountKind::Symlink { to } = &mount.kind {
                    make_link(table, &top, &mount.target.0, &to.0).map_err(|errno| fail(errno, "the link"))?;
                    continue;
                }
                let is_file = is_file_source(&mount.kind);
                let place =
                    mount_point(table, &top, &mount.target.0, is_file).map_err(|errno| fail(errno, "the mount point"))?;
                let new =
                    make(services, mount, ids, others, place.inode().kind()).map_err(|errno| fail(errno, "the source"))?;
                table.mount_at(&place, new).map_err(|errno| fail(errno, "the mount point"))?;
            }
        }
    }
    // What they are for is in them now.
    let kinds = mounts.iter().filter(|mount| !matches!(mount.kind, MountKind::Symlink { .. })).map(|mount| &mount.kind);
    for (mounted, kind) in table.list().iter().zip(kinds) {
        if matches!(kind, MountKind::Skeleton) {
            let _ = table.remount(mounted, mounted.flags() | MountFlags::READ_ONLY);
        }
    }
    table.list().iter().for_each(|mounted| mounted.lock());
    root.map(|root| table.topmost(root)).ok_or(BuildError { target: Bytes::from("/"), errno: Errno::EINVAL, what: "no mounts" })
}

/// Whether the mount brings a single file. `None`: whatever is there.
fn is_file_source(kind: &MountKind) -> Option<bool> {
    match kind {
        MountKind::HostReadOnly { source } | MountKind::HostReadWrite { source } => {
            let status = rustix::fs::stat(&source.0[..]).ok()?;
            Some(FileType::from_mode(status.st_mode) != Some(FileType::Directory))
        }
        MountKind::Hide => None,
        MountKind::File { .. } => Some(true),
        _ => Some(false),
    }
}

/// The place to mount on; missing directories (and a missing file) are made where the tree below can be written.
fn mount_point(table: &MountTable, root: &Path, target: &[u8], is_file: Option<bool>) -> Result<Path> {
    match walk::resolve_from_root(table, root, target, Follow::Yes) {
        Err(Errno::ENOENT) => {}
        other => return other,
    }
    let names: Vec<&[u8]> = target.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
    let mut place = root.clone();
    let mut so_far = Vec::new();
    for (index, name) in names.iter().enumerate() {
        so_far.push(b'/');
        so_far.extend_from_slice(name);
        place = match walk::resolve_from_root(table, root, &so_far, Follow::Yes) {
            Ok(place) => place,
            Err(Errno::ENOENT) => {
                place.mount.check_writable()?;
                let last = index + 1 == names.len();
                let kind = if last && is_file == Some(true) { NewNodeKind::Regular } else { NewNodeKind::Directory };
                let permissions = if matches!(kind, NewNodeKind::Directory) { 0o755 } else { 0o644 };
                let mut children = place.dentry.children.lock();
                let inode = place.inode().create(name, crate::fs::inode::NewNode { kind, permissions, uid: 0, gid: 0 })?;
                let dentry = place.dentry.add_child(&mut children, name, inode);
                drop(children);
                Path { mount: place.mount.clone(), dentry }
            }
            Err(errno) => return Err(errno),
        };
    }
    Ok(place)
}

/// A symbolic link, where nothing has that name.
fn make_link(table: &MountTable, root: &Path, target: &[u8], to: &[u8]) -> Result<()> {
    match walk::resolve_from_root(table, root, target, Follow::No) {
        Err(Errno::ENOENT) => {}
        other => return other.map(drop),
    }
    let at = target.iter().rposition(|&byte| byte == b'/').ok_or(Errno::EINVAL)?;
    let directory = if at == 0 { root.clone() } else { mount_point(table, root, &target[..at], Some(false))? };
    directory.mount.check_writable()?;
    let node = crate::fs::inode::NewNode { kind: NewNodeKind::Symlink(to.to_vec()), permissions: 0o777, uid: 0, gid: 0 };
    let mut children = directory.dentry.children.lock();
    let inode = directory.inode().create(&target[at + 1..], node)?;
    directory.dentry.add_child(&mut children, &target[at + 1..], inode);
    Ok(())
}

/// A regular file of the sandbox's root user.
fn file_with(tmpfs: &Arc<Tmpfs>, content: &[u8], permissions: u32) -> Result<Arc<dyn Inode>> {
    let inode: Arc<dyn Inode> = tmpfs.anonymous_file(permissions & 0o777, 0, 0)?;
    let file = OpenFile::new(inode.clone().open_data(StatusFlags::WRONLY)?, StatusFlags::WRONLY, None);
    let mut written = 0;
    while written < content.len() {
        written += match file.operations.write(&file, &content[written..], written as u64)? {
            0 => return Err(Errno::EIO),
            count => count,
        };
    }
    Ok(inode)
}

fn make(services: &Arc<Services>, mount: &Mount, ids: IdMap, others: MakeFileSystem, place: FileType) -> Result<NewMount> {
    let default_flags = MountFlags::RELATIME;
    let new = |file_system: Arc<dyn FileSystem>, source: &[u8], options: String, flags: MountFlags| NewMount {
        file_system,
        root: None,
        source: source.to_vec(),
        options,
        flags,
    };
    Ok(match &mount.kind {
        MountKind::HostReadOnly { source } => {
            let tree = services.host_tree(&source.0, Access::ReadOnly, ids)?;
            new(tree, b"host", String::new(), default_flags | MountFlags::READ_ONLY)
        }
        // A jail's; a guest of ours has devices of its own.
        MountKind::Device { .. } => return Err(Errno::EINVAL),
        MountKind::HostReadWrite { source } => {
            let tree = services.host_tree(&source.0, Access::ReadWrite, ids)?;
            new(tree, b"host", String::new(), default_flags)
        }
        MountKind::Overlay { source, upper } => {
            let lower = services.host_tree(&source.0, Access::ReadOnly, ids)?;
            let upper: Arc<dyn FileSystem> = match upper {
                Some(upper) => services.host_tree(&upper.0, Access::Private, ids)?,
                None => services.tmpfs(0, 0o755, "tmpfs"),
            };
            if place != FileType::Directory {
                return Err(Errno::ENOTDIR);
            }
            let overlay = Overlay::new(services.new_device(), lower, upper)?;
            overlay.tell(services.direct.clone());
            new(overlay, b"overlay", String::new(), default_flags)
        }
        MountKind::Tmpfs { size, mode } => {
            let options = if *size == 0 { format!("mode={mode:o}") } else { format!("size={}k,mode={mode:o}", size / 1024) };
            new(
                services.tmpfs(*size, *mode, "tmpfs"),
                b"tmpfs",
                options,
                default_flags | MountFlags::NOSUID | MountFlags::NODEV,
            )
        }
        MountKind::File { content, mode } => {
            let content = base64::decode(content).ok_or(Errno::EINVAL)?;
            if place == FileType::Directory {
                return Err(Errno::EISDIR);
            }
            let tmpfs = services.tmpfs(0, 0o755, "tmpfs");
            let read_only = if mode & 0o222 == 0 { MountFlags::READ_ONLY } else { MountFlags::empty() };
            NewMount {
                root: Some(crate::fs::path::Dentry::new_root(file_with(&tmpfs, &content, *mode)?)),
                file_system: tmpfs,
                source: b"tmpfs".to_vec(),
                options: String::new(),
                flags: default_flags | read_only,
            }
        }
        MountKind::Devtmpfs => {
            let tmpfs = services.tmpfs(0, 0o755, "tmpfs");
            let root = tmpfs.root();
            dev::populate(&root)?;
            NewMount {
                file_system: tmpfs,
                root: Some(crate::fs::path::Dentry::new_root(root)),
                source: b"udev".to_vec(),
                options: "mode=755".into(),
                flags: default_flags | MountFlags::NOSUID,
            }
        }
        MountKind::Hide => {
            let tmpfs = services.tmpfs(0, 0o555, "tmpfs");
            let root = tmpfs.root();
            let root = if place == FileType::Directory {
                crate::fs::path::Dentry::new_root(root)
            } else {
                crate::fs::path::Dentry::new_root(tmpfs.anonymous_file(0o444, 0, 0)?)
            };
            NewMount {
                file_system: tmpfs,
                root: Some(root),
                source: b"hidden".to_vec(),
                options: String::new(),
                flags: default_flags | MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            }
        }
        MountKind::Skeleton => {
            let tmpfs = services.tmpfs(0, 0o755, "tmpfs");
            new(tmpfs, b"skeleton", String::new(), default_flags | MountFlags::NOSUID | MountFlags::NODEV)
        }
        // Made by `build`, which mounts nothing for it.
        MountKind::Symlink { .. } => return Err(Errno::EINVAL),
        MountKind::Proc | MountKind::Sysfs => {
            let (source, name) =
                if matches!(mount.kind, MountKind::Proc) { (&b"proc"[..], "proc") } else { (&b"sysfs"[..], "sysfs") };
            let file_system = others(&mount.kind, services)
                .unwrap_or_else(|| services.tmpfs(0, 0o555, if name == "proc" { "proc" } else { "sysfs" }));
            new(file_system, source, String::new(), default_flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC)
        }
    })
}
