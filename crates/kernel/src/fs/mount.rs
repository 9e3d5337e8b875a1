//! Mounts (mount(2)): which file system appears where.
//!
//! [`Mount`] is a file system, or a part of it, attached to a place; [`MountTable`] is the sandbox's one namespace of
//! them. Lock order: `MountTable::rename_lock` > directory locks ([`crate::fs::path`]) > `MountTable::mounts` >
//! `Mount`'s small locks.

use crate::fs::dentry_cache::DentryCache;
use crate::fs::inode::FileSystem;
use crate::fs::path::{Dentry, Path};
use crate::{Errno, Result};
use parking_lot::{Mutex, RwLock};
use skerry_abi::raw::general as linux;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

bitflags::bitflags! {
    /// Per-mount flags, with mount(2)'s values.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct MountFlags: u32 {
        const READ_ONLY = linux::MS_RDONLY;
        const NOSUID = linux::MS_NOSUID;
        const NODEV = linux::MS_NODEV;
        const NOEXEC = linux::MS_NOEXEC;
        const NOATIME = linux::MS_NOATIME;
        const NODIRATIME = linux::MS_NODIRATIME;
        const RELATIME = linux::MS_RELATIME;
    }
}

/// The most mounts that a sandbox may have (Linux: /proc/sys/fs/mount-max, 100,000).
const MOUNTS_MAX: usize = 4096;

/// One mounted file system, or part of it (bind mount).
pub struct Mount {
    pub id: u64,
    pub file_system: Arc<dyn FileSystem>,
    /// What is seen at the mount point.
    pub root: Arc<Dentry>,
    /// What /proc/mounts shows as the device.
    pub source: Vec<u8>,
    /// File system specific options for /proc/mounts, e.g. "size=4k"; may be empty.
    pub options: String,
    attached_at: RwLock<Option<Path>>,
    flags: AtomicU32,
    /// See [`Mount::lock`].
    locked: AtomicBool,
    kept_flags: AtomicU32,
}

impl Mount {
    /// The place that it covers; `None` for the root of the tree and for what was unmounted.
    pub fn attached_at(&self) -> Option<Path> {
        self.attached_at.read().clone()
    }

    pub fn flags(&self) -> MountFlags {
        MountFlags::from_bits_truncate(self.flags.load(Ordering::Relaxed))
    }

    pub fn is_read_only(&self) -> bool {
        self.flags().contains(MountFlags::READ_ONLY) || self.file_system.is_read_only()
    }

    /// What the sandbox was made with stays as it is, whatever capabilities are held inside: it is not unmounted or moved, what
    /// lies below it is not shown by a bind mount, and no restriction is taken off (mount_namespaces(7), "locked").
    pub fn lock(&self) {
        let restrictions = MountFlags::READ_ONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        self.kept_flags.store((self.flags() & restrictions).bits(), Ordering::Relaxed);
        self.locked.store(true, Ordering::Relaxed);
    }

    pub fn is_locked(&self) -> bool {
        self.locked.load(Ordering::Relaxed)
    }

    /// A bind mount of `original`: its restrictions stay too; one that came along with the mount above stays where it is.
    pub fn restrict_as(&self, original: &Mount, came_along: bool) {
        self.kept_flags.store(original.kept_flags.load(Ordering::Relaxed), Ordering::Relaxed);
        self.locked.store(came_along && original.is_locked(), Ordering::Relaxed);
    }

    /// EROFS where nothing may be written through this mount.
    pub fn check_writable(&self) -> Result<()> {
        if self.is_read_only() {
            Err(Errno::EROFS)
        } else {
            Ok(())
        }
    }

    pub fn root_path(self: &Arc<Mount>) -> Path {
        Path { mount: self.clone(), dentry: self.root.clone() }
    }
}

/// What is to be mounted.
pub struct NewMount {
    pub file_system: Arc<dyn FileSystem>,
    /// `None`: the file system's own root.
    pub root: Option<Arc<Dentry>>,
    pub source: Vec<u8>,
    pub options: String,
    pub flags: MountFlags,
}

/// The mounts of the sandbox.
#[derive(Default)]
pub struct MountTable {
    /// In the order of mounting.
    mounts: RwLock<Vec<Arc<Mount>>>,
    next_id: AtomicU64,
    /// Held by a rename across directories: ancestry cannot change meanwhile.
    pub(crate) rename_lock: Mutex<()>,
    pub dentries: Arc<DentryCache>,
}

impl MountTable {
    pub fn new() -> MountTable {
        MountTable::default()
    }

    fn new_mount(&self, new: NewMount, attached_at: Option<Path>) -> Arc<Mount> {
        let root = new.root.unwrap_or_else(|| Dentry::new_root(new.file_system.root()));
        let _ = root.cache.set(Arc::downgrade(&self.dentries));
        Arc::new(Mount {
            id: self.next_id.fetch_add(1, Ordering::Relaxed) + 20,
            file_system: new.file_system,
            root,
            source: new.source,
            options: new.options,
            attached_at: RwLock::new(attached_at),
            flags: AtomicU32::new(new.flags.bits()),
            locked: AtomicBool::new(false),
            kept_flags: AtomicU32::new(0),
        })
    }

    /// A mount that is nowhere in the tree.
    pub fn unattached(&self, new: NewMount) -> Arc<Mount> {
        self.new_mount(new, None)
    }

    /// Makes `new` the root of the tree; once, at boot.
    pub fn set_root(&self, new: NewMount) -> Path {
        let mount = self.new_mount(new, None);
        self.mounts.write().insert(0, mount.clone());
        mount.root_path()
    }

    /// The root of the tree, with what is mounted on top of it; `None` before boot.
    pub fn root(&self) -> Option<Path> {
        let first = self.mounts.read().first().cloned()?;
        Some(self.topmost(first.root_path()))
    }

    /// Attaches `new` at `place` (on top of what is mounted there already).
    pub fn mount_at(&self, place: &Path, new: NewMount) -> Result<Arc<Mount>> {
        let place = self.topmost(place.clone());
        let mount = self.new_mount(new, Some(place.clone()));
        if mount.root.is_directory() != place.dentry.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let mut mounts = self.mounts.write();
        if mounts.len() >= MOUNTS_MAX {
            return Err(Errno::ENOSPC);
        }
        if place.dentry.is_unlinked() {
            return Err(Errno::ENOENT);
        }
        place.dentry.mounts_here.fetch_add(1, Ordering::AcqRel);
        mounts.push(mount.clone());
        drop(mounts);
        self.dentries.board.let_go();
        Ok(mount)
    }

    /// Detaches `mount` (umount2(2)). EBUSY where another mount is attached inside (unless `lazily`, which takes those
    /// along), EINVAL where it is the root of the tree, locked, or not mounted.
    pub fn unmount(&self, mount: &Arc<Mount>, lazily: bool) -> Result<()> {
        let mut mounts = self.mounts.write();
        let is_mounted = mounts.iter().any(|candidate| Arc::ptr_eq(candidate, mount)) && mount.attached_at.read().is_some();
        if !is_mounted || mount.is_locked() {
            return Err(Errno::EINVAL);
        }
        let mut gone = vec![mount.clone()];
        // Mounts attached to what goes, and so on; each pass finds the next generation.
        let mut index = 0;
        while index < gone.len() {
            let parent = gone[index].clone();
            gone.extend(
                mounts
                    .iter()
                    .filter(|m| m.attached_at.read().as_ref().is_some_and(|p| Arc::ptr_eq(&p.mount, &parent)))
                    .cloned(),
            );
            index += 1;
        }
        if gone.len() > 1 && !lazily {
            return Err(Errno::EBUSY);
        }
        mounts.retain(|candidate| !gone.iter().any(|m| Arc::ptr_eq(m, candidate)));
        for mount in gone {
            self.dentries.forget(&mount.file_system);
            if let Some(place) = mount.attached_at.write().take() {
                place.dentry.mounts_here.fetch_sub(1, Ordering::AcqRel);
            }
        }
        drop(mounts);
        self.dentries.board.let_go();
        Ok(())
    }

    /// Attaches a mount elsewhere (MS_MOVE): EINVAL for the root of the tree and locked ones, ELOOP into itself.
    pub fn move_mount(&self, mount: &Arc<Mount>, place: &Path) -> Result<()> {
        let place = self.topmost(place.clone());
        if mount.root.is_directory() != place.dentry.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let _mounts = self.mounts.write();
        let Some(old) = mount.attached_at().filter(|_| !mount.is_locked()) else { return Err(Errno::EINVAL) };
        let mut above = Some(place.clone());
        while let Some(path) = above {
            if Arc::ptr_eq(&path.mount, mount) {
                return Err(Errno::ELOOP);
            }
            above = path.mount.attached_at();
        }
        place.dentry.mounts_here.fetch_add(1, Ordering::AcqRel);
        *mount.attached_at.write() = Some(place);
        old.dentry.mounts_here.fetch_sub(1, Ordering::AcqRel);
        self.dentries.board.let_go();
        Ok(())
    }

    /// Changes a mount's flags (MS_REMOUNT, with or without MS_BIND). EPERM where a restriction that stays is left out.
    pub fn remount(&self, mount: &Mount, flags: MountFlags) -> Result<()> {
        if !flags.contains(MountFlags::from_bits_truncate(mount.kept_flags.load(Ordering::Relaxed))) {
            return Err(Errno::EPERM);
        }
        mount.flags.store(flags.bits(), Ordering::Relaxed);
        Ok(())
    }

    /// Whether a locked mount lies directly on something below `path`: without it more would be seen.
    pub fn covers_below(&self, path: &Path) -> bool {
        let covers = |mount: &Arc<Mount>| {
            mount.is_locked()
                && mount.attached_at().is_some_and(|place| {
                    Arc::ptr_eq(&place.mount, &path.mount) && path.dentry.is_ancestor_or_self(&place.dentry)
                })
        };
        self.mounts.read().iter().any(covers)
    }

    /// What is seen at `path`: the root of the topmost mount on it, if any.
    pub fn topmost(&self, mut path: Path) -> Path {
        while path.dentry.is_mount_point() {
            let found = self
                .mounts
                .read()
                .iter()
                .rev()
                .find(|mount| mount.attached_at.read().as_ref().is_some_and(|place| place.is_same(&path)))
                .cloned();
            match found {
                Some(mount) => path = mount.root_path(),
                None => break,
            }
        }
        path
    }

    /// Whether a mount is attached exactly at `path` (whose dentry then must not be removed or renamed).
    pub fn is_covered(&self, path: &Path) -> bool {
        path.dentry.is_mount_point()
    }

    /// All mounts, in order.
    pub fn list(&self) -> Vec<Arc<Mount>> {
        self.mounts.read().clone()
    }

    /// /proc/PID/mounts, as seen from `root`: mounts outside of it are left out.
    pub fn mounts_text(&self, root: &Path) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.list() {
            let Some(place) = mount.root_path().absolute_name_below(root) else { continue };
            escape(&mut text, &mount.source);
            text.push(b' ');
            escape(&mut text, &place);
            text.push(b' ');
            text.extend_from_slice(mount.file_system.type_name().as_bytes());
            text.push(b' ');
            text.extend_from_slice(all_options(&mount).as_bytes());
            text.extend_from_slice(b" 0 0\n");
        }
        text
    }

    /// /proc/PID/mountinfo (proc_pid_mountinfo(5)), as seen from `root`.
    pub fn mountinfo_text(&self, root: &Path) -> Vec<u8> {
        let mut text = Vec::new();
        for mount in self.list() {
            let Some(place) = mount.root_path().absolute_name_below(root) else { continue };
            let parent = mount.attached_at().map_or(1, |path| path.mount.id);
            let device = mount.file_system.device();
            text.extend_from_slice(format!("{} {} {}:{} ", mount.id, parent, device.major, device.minor).as_bytes());
            escape(&mut text, &root_within(&mount.root));
            text.push(b' ');
            escape(&mut text, &place);
            text.extend_from_slice(format!(" {} - {} ", mount_options(&mount), mount.file_system.type_name()).as_bytes());
            escape(&mut text, &mount.source);
            text.extend_from_slice(format!(" {}\n", super_options(&mount)).as_bytes());
        }
        text
    }
}

/// The name of a dentry inside its own file system.
fn root_within(dentry: &Arc<Dentry>) -> Vec<u8> {
    let mut names = Vec::new();
    let mut position = dentry.clone();
    while let Some(parent) = position.parent() {
        names.push(position.name());
        position = parent;
    }
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().rev().fold(Vec::new(), |mut all, name| {
        all.push(b'/');
        all.extend_from_slice(name);
        all
    })
}

/// Space, tab, newline and backslash as octal, as proc_pid_mountinfo(5) says.
fn escape(text: &mut Vec<u8>, name: &[u8]) {
    for &byte in name {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' => text.extend_from_slice(format!("\\{byte:03o}").as_bytes()),
            _ => text.push(byte),
        }
    }
}

fn mount_options(mount: &Mount) -> String {
    let flags = mount.flags();
    let mut options = String::from(if flags.contains(MountFlags::READ_ONLY) { "ro" } else { "rw" });
    for (flag, name) in [
        (MountFlags::NOSUID, ",nosuid"),
        (MountFlags::NODEV, ",nodev"),
        (MountFlags::NOEXEC, ",noexec"),
        (MountFlags::NOATIME, ",noatime"),
        (MountFlags::NODIRATIME, ",nodiratime"),
        (MountFlags::RELATIME, ",relatime"),
    ] {
        if flags.contains(flag) {
            options.push_str(name);
        }
    }
    options
}

fn super_options(mount: &Mount) -> String {
    let mut options = String::from(if mount.is_read_only() { "ro" } else { "rw" });
    if !mount.options.is_empty() {
        options.push(',');
        options.push_str(&mount.options);
    }
    options
}

fn all_options(mount: &Mount) -> String {
    let mut options = mount_options(mount);
    if mount.is_read_only() && options.starts_with("rw") {
        options.replace_range(..2, "ro");
    }
    if !mount.options.is_empty() {
        options.push(',');
        options.push_str(&mount.options);
    }
    options
}
