//! mount(2), umount2(2).

use crate::fs::inode::FileSystem;
use crate::fs::mount::{Mount, MountFlags, NewMount};
use crate::fs::path::Path;
use crate::fs::walk::{self, Follow};
use crate::fs::Services;
use crate::syscall::UserAddress;
use crate::task::credentials::CAP_SYS_ADMIN;
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use std::sync::Arc;
use std::time::Duration;

/// Longest file system name and option string that are looked at.
const NAME_MAX: usize = 64;
const OPTIONS_MAX: usize = 4096;

fn check_allowed(context: &Context) -> Result<()> {
    if context.task.credentials().has_capability(CAP_SYS_ADMIN) {
        Ok(())
    } else {
        Err(Errno::EPERM)
    }
}

fn place(context: &Context, path: &[u8], follow: Follow) -> Result<Path> {
    walk::resolve(context.task, linux::AT_FDCWD, path, follow)
}

/// The mount whose root `place` is; EINVAL where it is none.
fn mount_at(place: &Path) -> Result<Arc<Mount>> {
    if Arc::ptr_eq(&place.dentry, &place.mount.root) {
        Ok(place.mount.clone())
    } else {
        Err(Errno::EINVAL)
    }
}

pub fn mount(
    context: &mut Context,
    source: UserAddress,
    target: UserAddress,
    kind: UserAddress,
    flags: u64,
    data: UserAddress,
) -> Result<()> {
    let flags = flags as u32;
    let target = context.read_path(target.0)?;
    let kind = match kind.non_null() {
        Some(address) => context.read_c_string(address, NAME_MAX, Errno::EINVAL)?,
        None => Vec::new(),
    };
    let source = match source.non_null() {
        Some(address) => context.read_path(address)?,
        None => Vec::new(),
    };
    let target = place(context, &target, Follow::Yes)?;
    check_allowed(context)?;
    let wanted = MountFlags::from_bits_truncate(flags);
    let table = &context.kernel().mounts;
    if flags & linux::MS_REMOUNT != 0 {
        return table.remount(&*mount_at(&target)?, wanted | MountFlags::RELATIME);
    }
    if flags & linux::MS_BIND != 0 {
        let from = place(context, &source, Follow::Yes)?;
        return bind(context, &from, &target, flags & linux::MS_REC != 0);
    }
    if flags & (linux::MS_SHARED | linux::MS_PRIVATE | linux::MS_SLAVE | linux::MS_UNBINDABLE) != 0 {
        // One namespace: nothing propagates anywhere.
        mount_at(&target)?;
        return Ok(());
    }
    if flags & linux::MS_MOVE != 0 {
        let from = mount_at(&place(context, &source, Follow::Yes)?)?;
        return table.move_mount(&from, &target);
    }
    if kind.is_empty() {
        return Err(Errno::EINVAL);
    }
    let options = match data.non_null() {
        Some(address) => context.read_c_string(address, OPTIONS_MAX, Errno::EINVAL)?,
        None => Vec::new(),
    };
    let (file_system, options) = new_file_system(context, &kind, &options)?;
    let new = NewMount { file_system, root: None, source, options, flags: wanted | MountFlags::RELATIME };
    table.mount_at(&target, new).map(|_| ())
}

fn services(context: &Context) -> Result<Arc<Services>> {
    context.kernel().file_services.get().cloned().ok_or(Errno::ENODEV)
}

/// A file system by its name in /proc/filesystems: EINVAL for bad options, ENODEV for an unknown one.
fn new_file_system(context: &Context, kind: &[u8], options: &[u8]) -> Result<(Arc<dyn FileSystem>, String)> {
    match kind {
        b"tmpfs" | b"ramfs" => {
            let (size, permissions) = tmpfs_options(options)?;
            let shown = if size == 0 { String::new() } else { format!("size={}k", size / 1024) };
            Ok((services(context)?.tmpfs(size, permissions, "tmpfs"), shown))
        }
        // One instance of each in a sandbox: the one that is mounted already shows again.
        b"proc" | b"sysfs" | b"devpts" | b"mqueue" => {
            let name = std::str::from_utf8(kind).map_err(|_| Errno::ENODEV)?;
            let mounted = context.kernel().mounts.list();
            let known = mounted.iter().find(|mount| mount.file_system.type_name() == name).ok_or(Errno::ENODEV)?;
            Ok((known.file_system.clone(), String::new()))
        }
        _ => Err(Errno::ENODEV),
    }
}

/// tmpfs(5): size= and mode=; others that it knows change nothing here.
fn tmpfs_options(options: &[u8]) -> Result<(u64, u32)> {
    let (mut size, mut permissions) = (0, 0o1777);
    let text = std::str::from_utf8(options).map_err(|_| Errno::EINVAL)?;
    for option in text.split(',').filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        match name {
            "size" => size = parse_size(value).ok_or(Errno::EINVAL)?,
            "mode" => permissions = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            "nr_inodes" | "nr_blocks" | "uid" | "gid" | "huge" | "mpol" | "inode32" | "inode64" | "noswap" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    Ok((size, permissions))
}

/// A number with k, m, g or % behind it; a share of memory is left to the sandbox's own cap.
fn parse_size(value: &str) -> Option<u64> {
    if let Some(percent) = value.strip_suffix('%') {
        return percent.parse::<u64>().ok().map(|_| 0);
    }
    let (digits, shift) = match value.bytes().last()?.to_ascii_lowercase() {
        b'k' => (&value[..value.len() - 1], 10),
        b'm' => (&value[..value.len() - 1], 20),
        b'g' => (&value[..value.len() - 1], 30),
        _ => (value, 0),
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn bind(context: &Context, from: &Path, target: &Path, recursive: bool) -> Result<()> {
    let table = &context.kernel().mounts;
    let copy = |mount: &Mount, root: Option<Arc<crate::fs::path::Dentry>>| NewMount {
        file_system: mount.file_system.clone(),
        root: Some(root.unwrap_or_else(|| mount.root.clone())),
        source: mount.source.clone(),
        options: mount.options.clone(),
        flags: mount.flags(),
    };
    // What was mounted below before the new mount is there.
    let below = table.list();
    if !recursive && table.covers_below(from) {
        return Err(Errno::EINVAL);
    }
    let top = table.mount_at(target, copy(&from.mount, Some(from.dentry.clone())))?;
    top.restrict_as(&from.mount, false);
    if !recursive {
        return Ok(());
    }
    let mut copied = vec![(from.mount.clone(), top)];
    let mut index = 0;
    while index < copied.len() {
        let (original, twin) = copied[index].clone();
        for mount in &below {
            let Some(place) = mount.attached_at().filter(|place| Arc::ptr_eq(&place.mount, &original)) else { continue };
            if !twin.root.is_ancestor_or_self(&place.dentry) {
                continue;
            }
            let at = Path { mount: twin.clone(), dentry: place.dentry };
            let new = table.mount_at(&at, copy(mount, None))?;
            new.restrict_as(mount, true);
            copied.push((mount.clone(), new));
        }
        index += 1;
    }
    Ok(())
}

/// Whether somebody besides the table and a call that asks knows the mount (an open file, a working directory). A call that
/// was answered just now may know it for a moment longer.
fn is_in_use(mount: &Arc<Mount>) -> bool {
    const ATTEMPTS: u32 = 20;
    const MOMENT: Duration = Duration::from_micros(100);
    (0..ATTEMPTS).all(|attempt| {
        if attempt > 0 {
            std::thread::sleep(MOMENT);
        }
        Arc::strong_count(mount) > 2
    })
}

pub fn umount2(context: &mut Context, target: UserAddress, flags: u32) -> Result<()> {
    const MNT_DETACH: u32 = 2;
    const MNT_EXPIRE: u32 = 4;
    const UMOUNT_NOFOLLOW: u32 = 8;
    if flags & !15 != 0 || (flags & MNT_EXPIRE != 0 && flags & 3 != 0) {
        return Err(Errno::EINVAL);
    }
    let target = context.read_path(target.0)?;
    let follow = if flags & UMOUNT_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
    let target = place(context, &target, follow)?;
    let mount = mount_at(&target)?;
    check_allowed(context)?;
    drop(target);
    let lazily = flags & MNT_DETACH != 0;
    if !lazily && is_in_use(&mount) {
        return Err(Errno::EBUSY);
    }
    if flags & MNT_EXPIRE != 0 {
        return Err(Errno::EAGAIN);
    }
    context.kernel().mounts.unmount(&mount, lazily)
}
