//! What the guest sees of files: mounts, made one by one as the `boot` message lists them, and a pivot_root(2) into them.
//!
//! Everything is opened, cloned and made on the host's side, as mounts that are attached nowhere; then the root changes, and
//! only then they are attached, by paths that the new root resolves: no symbolic link inside leads outside.
//!
//! Writes to overlays go to a tmpfs of ours, the *stage*, or to a directory of the caller's. An unprivileged overlay cannot
//! have other mounts of the host's below it: there directories are shown one by one, down to those mounts.

use crate::failure;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid, CWD};
use rustix::io::Errno;
use rustix::mount::{
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount, open_tree, unmount,
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
};
use skerry_control::{base64, Boot, Failure, FailureKind, Mount, MountKind, Network};
use skerry_platform::agent::set_mount_attributes;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Kept of it while the guest runs.
pub struct Tree {
    /// The tmpfs of what is written: how full it is.
    pub stage: OwnedFd,
    /// The guest's own devpts.
    pub terminals: OwnedFd,
    /// Devices of the file systems in memory that are in the place of others: what is missing there the host may have.
    pub made: Vec<u64>,
}

/// Nothing of this in /proc and /sys is for a guest: what tells of the whole host or changes it.
const MASKED: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/key-users",
    "/proc/kallsyms",
    "/proc/kmsg",
    "/proc/kpagecgroup",
    "/proc/kpagecount",
    "/proc/kpageflags",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
];

/// Nothing here can be written.
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/driver", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Devices that do no harm, taken from the host.
const DEVICES: &[&str] = &["null", "zero", "full", "random", "urandom", "tty"];

/// File systems that show the kernel, not files: never taken over where they are mounted on the host.
const OF_THE_KERNEL: &[&str] = &[
    "autofs",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "devtmpfs",
    "efivarfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// How many mounts of the host's are taken over below one that is shown; how many entries of one directory one by one.
const MOST_MOUNTS: usize = 256;
const MOST_ENTRIES: usize = 512;
/// Linux follows no more.
const MOST_LINKS: usize = 40;

const QUIET: u64 = 0x2 | 0x4; // MOUNT_ATTR_NOSUID, MOUNT_ATTR_NODEV
const NO_WRITES: u64 = 0x1;
const NO_PROGRAMS: u64 = 0x8;

/// What waits for its place.
struct Ready {
    target: PathBuf,
    put: Put,
}

enum Put {
    /// A mount; `directory` is what to make where nothing is. One that was not `asked` for by name was found on the host, and
    /// may be gone by now.
    Mount { mount: OwnedFd, directory: bool, asked: bool },
    /// A symbolic link.
    Link(PathBuf),
}

struct Builder<'a> {
    privileged: bool,
    stage: OwnedFd,
    /// A path of it, while the host's tree is there.
    stage_path: PathBuf,
    made: usize,
    /// The root is empty, and not to be written to.
    skeleton: bool,
    ready: Vec<Ready>,
    /// Devices of file systems in memory.
    in_memory: Vec<u64>,
    /// Mount points of the host: path and file system.
    host: Vec<(PathBuf, String)>,
    /// What other mounts of the boot message cover.
    covered: BTreeSet<&'a Path>,
}

fn host_error(what: impl std::fmt::Display, error: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Unsupported, format!("the engine namespace: {what}: {error}"))
}

/// Makes all of it, and goes there.
pub fn build(wanted: &Boot, privileged: bool) -> Result<Tree, Failure> {
    // Nothing that is mounted here shows outside, nor the other way round from now on.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(|error| host_error("mounts cannot be made private", error))?;
    let stage = new_file_system("tmpfs", &[("size", &stage_size(wanted)), ("mode", "0755")], QUIET)
        .map_err(|error| host_error("tmpfs", error))?;
    let host = host_mounts().map_err(|error| host_error("/proc/self/mountinfo", error))?;
    // Before anything of the host's is covered.
    let sources = wanted.mounts.iter().map(open_source).collect::<Result<Vec<_>, _>>()?;
    let stage_path = ["/sys", "/mnt", "/run", "/tmp", "/dev"].iter().map(Path::new).find(|path| path.is_dir());
    let stage_path = stage_path.ok_or_else(|| host_error("the host's tree", "there is no /sys"))?.to_owned();
    let devices =
        DEVICES.iter().filter_map(|name| Some((*name, clone_tree(&Path::new("/dev").join(name), false).ok()?))).collect();
    let process = new_file_system("proc", &[], QUIET | NO_PROGRAMS).map_err(|error| host_error("proc", error))?;
    let system = new_file_system("sysfs", &[], QUIET | NO_PROGRAMS | NO_WRITES).ok();
    attach(stage.as_fd(), &stage_path).map_err(|error| host_error("tmpfs", error))?;
    let covered = wanted.mounts.iter().skip(1).map(|mount| path_of(&mount.target.0)).collect();
    let mut builder = Builder {
        privileged,
        stage,
        stage_path,
        made: 0,
        skeleton: false,
        ready: Vec::new(),
        in_memory: Vec::new(),
        host,
        covered,
    };
    let mut special = Special { process: Some(process), system, devices, terminals: None, name_servers: None };
    for (mount, source) in wanted.mounts.iter().zip(sources) {
        builder.add(mount, source, &mut special)?;
    }
    if wanted.network == Network::User {
        let made = builder.file(NAME_SERVERS.as_bytes(), 0o444);
        let made = made.map_err(|error| host_error(NAME_SERVERS_AT, error))?;
        restrict(made.as_fd(), NO_WRITES | QUIET, false)?;
        special.name_servers = Some(made);
    }
    builder.finish(special)
}

/// What /proc, /sys and /dev are made of.
struct Special {
    process: Option<OwnedFd>,
    system: Option<OwnedFd>,
    devices: Vec<(&'static str, OwnedFd)>,
    terminals: Option<OwnedFd>,
    /// What tells programs who resolves names, where somebody does.
    name_servers: Option<OwnedFd>,
}

/// The gateway's, and nothing of what the host's says: its servers are out of reach, and its domains are nobody's business.
const NAME_SERVERS: &str = "nameserver 10.0.2.3\n";
const NAME_SERVERS_AT: &str = "/etc/resolv.conf";

fn stage_size(wanted: &Boot) -> String {
    wanted.limits.memory_files.or(wanted.limits.memory).map_or("50%".into(), |bytes| bytes.to_string())
}

fn path_of(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// The host's directory or file that a mount shows.
fn open_source(mount: &Mount) -> Result<Option<OwnedFd>, Failure> {
    let source = match &mount.kind {
        MountKind::HostReadOnly { source }
        | MountKind::HostReadWrite { source }
        | MountKind::Overlay { source, .. }
        | MountKind::Device { source } => source,
        _ => return Ok(None),
    };
    // The path had no symbolic link in it when it was looked at: whoever has put one there since gets nothing by it.
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let followed = if crate::weaken::is_out("links") { ResolveFlags::empty() } else { ResolveFlags::NO_SYMLINKS };
    let open = rustix::fs::openat2(CWD, path_of(&source.0), flags, Mode::empty(), followed);
    open.map(Some).map_err(|error| failure(FailureKind::Invalid, format!("{}: {error}", path_of(&source.0).display())))
}

fn new_file_system(kind: &str, options: &[(&str, &str)], attributes: u64) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", kind)?;
    for (name, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *name)?;
        } else {
            fsconfig_set_string(context.as_fd(), *name, *value)?;
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
}

fn clone_tree(path: &Path, recursive: bool) -> Result<OwnedFd, Errno> {
    let file = rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    clone_of(file.as_fd(), recursive)
}

fn clone_of(file: BorrowedFd, recursive: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    if recursive {
        flags |= OpenTreeFlags::AT_RECURSIVE;
    }
    open_tree(file, "", flags)
}

fn attach(mount: BorrowedFd, target: &Path) -> Result<(), Errno> {
    move_mount(mount, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// Sets flags; those that cannot be changed here hold already.
fn restrict(mount: BorrowedFd, attributes: u64, recursive: bool) -> Result<(), Failure> {
    set_mount_attributes(mount, attributes, recursive).map_err(|error| host_error("mount flags", error))
}

/// Mount points, each once, in the order of their paths.
fn host_mounts() -> std::io::Result<Vec<(PathBuf, String)>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    let mut found = std::collections::BTreeMap::new();
    for line in text.split(|byte| *byte == b'\n') {
        // 36 35 98:0 /root /point rw,noatime shared:1 - ext4 /dev/sda rw
        let mut fields = line.split(|byte| *byte == b' ');
        let Some(point) = fields.nth(4) else { continue };
        let Some(kind) = fields.by_ref().skip_while(|field| *field != b"-").nth(1) else { continue };
        found.insert(PathBuf::from(unescaped(point)), String::from_utf8_lossy(kind).into_owned());
    }
    Ok(found.into_iter().collect())
}

/// mountinfo writes blanks and backslashes in octal.
fn unescaped(text: &[u8]) -> OsString {
    let mut plain = Vec::new();
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let code = after
            .get(..3)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(|_| byte == b'\\') {
            Some(code) => {
                plain.push(code);
                rest = &after[3..];
            }
            None => {
                plain.push(byte);
                rest = after;
            }
        }
    }
    std::os::unix::ffi::OsStringExt::from_vec(plain)
}

impl Builder<'_> {
    fn add(&mut self, mount: &Mount, source: Option<OwnedFd>, special: &mut Special) -> Result<(), Failure> {
        let target = path_of(&mount.target.0);
        let is_directory = |file: &OwnedFd| {
            rustix::fs::fstat(file).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir())
        };
        let told = |error: Errno| host_error(target.display(), error);
        match (&mount.kind, source) {
            (MountKind::HostReadOnly { .. }, Some(source)) => {
                let tree = clone_of(source.as_fd(), true).map_err(told)?;
                restrict(tree.as_fd(), NO_WRITES | QUIET, true)?;
                self.put(target, tree, is_directory(&source));
            }
            (MountKind::HostReadWrite { .. }, Some(source)) => {
                let tree = clone_of(source.as_fd(), true).map_err(told)?;
                restrict(tree.as_fd(), QUIET, true)?;
                self.put(target, tree, is_directory(&source));
            }
            (MountKind::Device { .. }, Some(source)) => {
                let device = clone_of(source.as_fd(), false).map_err(told)?;
                self.put(target, device, false);
            }
            (MountKind::Overlay { source: path, upper }, Some(source)) => {
                let upper = upper.as_ref().map(|upper| path_of(&upper.0).to_owned());
                self.overlay_tree(path_of(&path.0), source, target, upper)?;
            }
            (MountKind::Tmpfs { size, mode }, _) => {
                let tmpfs = if *size == 0 {
                    // What is written is limited for all together.
                    let plain = self.fresh("tmpfs");
                    std::fs::create_dir(&plain).map_err(|error| host_error(target.display(), error))?;
                    rustix::fs::chmod(&plain, Mode::from_raw_mode(mode & 0o1777)).map_err(told)?;
                    clone_tree(&plain, false).map_err(told)?
                } else {
                    let mode = format!("{:o}", mode & 0o1777);
                    new_file_system("tmpfs", &[("size", &size.to_string()), ("mode", &mode)], QUIET).map_err(told)?
                };
                self.note(&tmpfs);
                self.put(target, tmpfs, true);
            }
            (MountKind::File { content, mode }, _) => {
                let content = base64::decode(content)
                    .ok_or_else(|| failure(FailureKind::Invalid, "the content of a file is not base64"))?;
                let tree = self.file(&content, *mode).map_err(told)?;
                if mode & 0o222 == 0 {
                    restrict(tree.as_fd(), NO_WRITES | QUIET, false)?;
                }
                self.put(target, tree, false);
            }
            (MountKind::Proc, _) => {
                let process =
                    special.process.take().ok_or_else(|| failure(FailureKind::Invalid, "one /proc is all there is"))?;
                self.put(target, process, true);
            }
            (MountKind::Sysfs, _) => {
                // Where the host shows no whole sysfs (in a container), an empty one must do.
                let system = match special.system.take() {
                    Some(system) => system,
                    None => new_file_system("tmpfs", &[("mode", "0555")], QUIET | NO_WRITES).map_err(told)?,
                };
                self.put(target, system, true);
            }
            (MountKind::Devtmpfs, _) => self.devices(target, special)?,
            (MountKind::Hide, _) => {
                // A file or a directory: known when it is attached.
                let nothing = new_file_system("tmpfs", &[("mode", "0000")], QUIET | NO_WRITES | NO_PROGRAMS).map_err(told)?;
                self.note(&nothing);
                self.put(target, nothing, true);
            }
            (MountKind::Skeleton, _) => {
                let plain = self.fresh("skeleton");
                std::fs::create_dir(&plain).map_err(|error| host_error(target.display(), error))?;
                rustix::fs::chmod(&plain, Mode::from_raw_mode(0o755)).map_err(told)?;
                let tree = clone_tree(&plain, false).map_err(told)?;
                self.skeleton = true;
                self.note(&tree);
                self.put(target, tree, true);
            }
            (MountKind::Symlink { to }, _) => {
                self.ready.push(Ready { target: target.to_owned(), put: Put::Link(path_of(&to.0).to_owned()) })
            }
            (_, None) => return Err(failure(FailureKind::Internal, "a mount without its source")),
        }
        Ok(())
    }

    /// One in memory, with this content.
    fn file(&mut self, content: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
        let path = self.fresh("file");
        std::fs::write(&path, content).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        rustix::fs::chmod(&path, Mode::from_raw_mode(mode & 0o777))?;
        clone_tree(&path, false)
    }

    /// What is missing there may be on the host.
    fn note(&mut self, mount: &OwnedFd) {
        self.in_memory.extend(rustix::fs::fstat(mount).map(|stat| stat.st_dev));
    }

    fn put(&mut self, target: &Path, mount: OwnedFd, directory: bool) {
        self.ready.push(Ready { target: target.to_owned(), put: Put::Mount { mount, directory, asked: true } });
    }

    /// What was put last was found on the host.
    fn may_be_gone(&mut self) {
        if let Some(Ready { put: Put::Mount { asked, .. }, .. }) = self.ready.last_mut() {
            *asked = false;
        }
    }

    /// A path in the stage that is not taken.
    fn fresh(&mut self, what: &str) -> PathBuf {
        self.made += 1;
        self.stage_path.join(format!("{what}-{}", self.made))
    }

    /// The host's tree at `source`, with all that is mounted in it, written to elsewhere.
    fn overlay_tree(
        &mut self,
        source_path: &Path,
        source: OwnedFd,
        target: &Path,
        upper: Option<PathBuf>,
    ) -> Result<(), Failure> {
        let below = self.mounts_below(source_path, target);
        if below.is_empty() || self.privileged {
            self.overlay(source.as_fd(), target, upper.as_deref())?;
            for (path, kind) in below {
                let Ok(rest) = path.strip_prefix(source_path) else { continue };
                let at = target.join(rest);
                let Ok(inner) = rustix::fs::open(&path, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
                else {
                    continue;
                };
                self.mounted(inner, &at, &kind);
            }
            return Ok(());
        }
        self.one_by_one(source_path, target, upper.as_deref())
    }

    /// What is mounted on the host below `path`, as far as nothing else of the guest's comes to be there.
    fn mounts_below(&self, path: &Path, target: &Path) -> Vec<(PathBuf, String)> {
        let shown = |point: &Path| {
            let Ok(rest) = point.strip_prefix(path) else { return false };
            let inside = target.join(rest);
            !rest.as_os_str().is_empty() && !inside.ancestors().any(|above| self.covered.contains(above) && above != target)
        };
        self.host.iter().filter(|(point, _)| shown(point)).take(MOST_MOUNTS).cloned().collect()
    }

    /// Another mount of the host's inside of one that is shown. What cannot be shown is an empty directory.
    fn mounted(&mut self, inner: OwnedFd, target: &Path, kind: &str) {
        if OF_THE_KERNEL.contains(&kind) {
            if let Ok(nothing) = new_file_system("tmpfs", &[("mode", "0755")], QUIET | NO_WRITES) {
                self.put(target, nothing, true);
            }
            return;
        }
        let directory = rustix::fs::fstat(&inner).is_ok_and(|stat| rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir());
        if directory && self.overlay(inner.as_fd(), target, None).is_ok() {
            return self.may_be_gone();
        }
        if let Ok(tree) = clone_of(inner.as_fd(), false) {
            if restrict(tree.as_fd(), NO_WRITES | QUIET, false).is_ok() {
                self.put(target, tree, directory);
                self.may_be_gone();
            }
        }
    }

    /// One overlay: `lower` with what is written kept in `upper`, or in the stage.
    fn overlay(&mut self, lower: BorrowedFd, target: &Path, upper: Option<&Path>) -> Result<(), Failure> {
        let told = |error: &dyn std::fmt::Display| host_error(format!("overlay at {}", target.display()), error);
        let (upper, work) = match upper {
            Some(directory) => (directory.join("upper"), directory.join("work")),
            None => (self.fresh("upper"), self.fresh("work")),
        };
        for directory in [&upper, &work] {
            match std::fs::create_dir(directory) {
                Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(told(&error)),
                Err(_) => {}
                Ok(()) => {
                    let stat = rustix::fs::fstat(lower).map_err(|error| told(&error))?;
                    // Rootless, all that is new is the caller's own.
                    if self.privileged {
                        let owner = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
                        rustix::fs::chown(directory, Some(owner.0), Some(owner.1)).map_err(|error| told(&error))?;
                    }
                    rustix::fs::chmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777)).map_err(|error| told(&error))?;
                }
            }
        }
        let open =
            |path: &Path| rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|error| told(&error));
        let (upper, work) = (open(&upper)?, open(&work)?);
        let name = |file: i32| format!("/proc/self/fd/{file}");
        let (lower, upper_name, work_name) = (name(lower.as_raw_fd()), name(upper.as_raw_fd()), name(work.as_raw_fd()));
        let mut options = vec![("lowerdir", lower.as_str()), ("upperdir", &upper_name), ("workdir", &work_name)];
        if !self.privileged {
            options.push(("userxattr", ""));
        }
        let mount = new_file_system("overlay", &options, QUIET).map_err(|error| told(&error))?;
        self.put(target, mount, true);
        Ok(())
    }

    /// A directory that has mounts of the host's below it, where an overlay over all of it is refused: an empty one, with
    /// each entry put there by itself.
    fn one_by_one(&mut self, source: &Path, target: &Path, upper: Option<&Path>) -> Result<(), Failure> {
        let told = |error: &dyn std::fmt::Display| host_error(target.display(), error);
        if upper.is_some() {
            let message =
                "overlay_dir cannot be held by the engine namespace here: without privileges the host refuses one overlay \
                over its whole tree; run it as root, or name the directories to write to (read_write)";
            return Err(failure(FailureKind::Unenforceable, message));
        }
        let plain = self.fresh("directory");
        std::fs::create_dir(&plain).map_err(|error| told(&error))?;
        let tree = clone_tree(&plain, false).map_err(|error| told(&error))?;
        if let Ok(stat) = rustix::fs::stat(source) {
            let _ = rustix::fs::chmod(&plain, Mode::from_raw_mode(stat.st_mode & 0o7777));
        }
        self.put(target, tree, true);
        // A directory that may not be listed shows nothing.
        let Ok(entries) = std::fs::read_dir(source) else { return Ok(()) };
        for entry in entries.flatten().take(MOST_ENTRIES) {
            let (from, at) = (entry.path(), target.join(entry.file_name()));
            if self.covered.contains(at.as_path()) {
                continue;
            }
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_symlink() {
                if let Ok(link) = std::fs::read_link(&from) {
                    let _ = std::os::unix::fs::symlink(link, plain.join(entry.file_name()));
                }
                continue;
            }
            if !kind.is_dir() && !kind.is_file() {
                continue;
            }
            let Ok(file) = rustix::fs::open(&from, OFlags::PATH | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty()) else {
                continue;
            };
            let mounted = self.host.iter().find(|(point, _)| *point == from).map(|(_, kind)| kind.clone());
            if mounted.as_ref().is_some_and(|kind| OF_THE_KERNEL.contains(&kind.as_str())) {
                self.mounted(file, &at, mounted.as_deref().unwrap_or_default());
            } else if kind.is_dir() && !self.mounts_below(&from, &at).is_empty() {
                self.one_by_one(&from, &at, None)?;
            } else {
                self.mounted(file, &at, "");
            }
        }
        Ok(())
    }

    /// /dev: nodes of the host's that do no harm, terminals and queues of its own.
    fn devices(&mut self, target: &Path, special: &mut Special) -> Result<(), Failure> {
        let told = |error: &dyn std::fmt::Display| host_error(target.display(), error);
        let plain = self.fresh("dev");
        std::fs::create_dir(&plain).map_err(|error| told(&error))?;
        rustix::fs::chmod(&plain, Mode::from_raw_mode(0o755)).map_err(|error| told(&error))?;
        for directory in ["pts", "shm", "mqueue"] {
            std::fs::create_dir(plain.join(directory)).map_err(|error| told(&error))?;
        }
        let links = [
            ("fd", "/proc/self/fd"),
            ("stdin", "/proc/self/fd/0"),
            ("stdout", "/proc/self/fd/1"),
            ("stderr", "/proc/self/fd/2"),
            ("ptmx", "pts/ptmx"),
        ];
        for (name, link) in links {
            std::os::unix::fs::symlink(link, plain.join(name)).map_err(|error| told(&error))?;
        }
        let tree = clone_tree(&plain, false).map_err(|error| told(&error))?;
        self.put(target, tree, true);
        for (name, device) in std::mem::take(&mut special.devices) {
            self.put(&target.join(name), device, false);
        }
        let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620")];
        let with_group = [options[0], options[1], options[2], ("gid", "5")];
        let terminals =
            if self.privileged { new_file_system("devpts", &with_group, 0x2 | NO_PROGRAMS) } else { Err(Errno::PERM) };
        let terminals =
            terminals.or_else(|_| new_file_system("devpts", &options, 0x2 | NO_PROGRAMS)).map_err(|error| told(&error))?;
        special.terminals = Some(rustix::io::fcntl_dupfd_cloexec(&terminals, 3).map_err(|error| told(&error))?);
        self.put(&target.join("pts"), terminals, true);
        if let Ok(queues) = new_file_system("mqueue", &[], QUIET | NO_PROGRAMS) {
            self.put(&target.join("mqueue"), queues, true);
        }
        Ok(())
    }

    /// Goes into the first mount, and puts the others into their places there.
    fn finish(self, special: Special) -> Result<Tree, Failure> {
        let told = |what: &str| {
            let what = what.to_owned();
            move |error: Errno| host_error(what.clone(), error)
        };
        let mut ready = self.ready.into_iter();
        let root = match ready.next() {
            Some(Ready { target, put: Put::Mount { mount, .. } }) if target == Path::new("/") => mount,
            _ => return Err(failure(FailureKind::Invalid, "the first mount must be at /")),
        };
        let place = self.stage_path.join("root");
        std::fs::create_dir(&place).map_err(|error| host_error("the root", error))?;
        attach(root.as_fd(), &place).map_err(told("the root"))?;
        rustix::process::chdir(&place).map_err(told("the root"))?;
        rustix::process::pivot_root(".", ".").map_err(told("pivot_root"))?;
        // The old root lies on the new one, and is let go with all that is mounted in it; what is attached below was made from
        // it before.
        unmount(".", UnmountFlags::DETACH).map_err(told("the old root"))?;
        rustix::process::chdir("/").map_err(told("/"))?;
        for Ready { target, put } in ready {
            let done = match put {
                Put::Link(to) => make_directories(target.parent().unwrap_or(Path::new("/")))
                    .and_then(|()| rustix::fs::symlink(&to, &target))
                    .or_else(|error| if error == Errno::EXIST { Ok(()) } else { Err(error) }),
                Put::Mount { mount, directory, asked } => {
                    place_for(&target, directory).and_then(|()| attach(mount.as_fd(), &target)).or_else(|error| {
                        if matches!(error, Errno::NOTDIR | Errno::INVAL) && directory {
                            // A file that is to be hidden.
                            let null = clone_tree(Path::new("/dev/null"), false)?;
                            return attach(null.as_fd(), &target);
                        }
                        // A file without a name cannot be mounted.
                        if error == Errno::NOENT && !asked {
                            return Ok(());
                        }
                        Err(error)
                    })
                }
            };
            done.map_err(|error| {
                failure(FailureKind::Invalid, format!("{}: nothing can be mounted there: {error}", target.display()))
            })?;
        }
        if let Some(file) = &special.name_servers {
            put_name_servers(file).map_err(|error| host_error(NAME_SERVERS_AT, error))?;
        }
        if self.skeleton {
            restrict(root.as_fd(), NO_WRITES | QUIET, false)?;
        }
        let masks = !crate::weaken::is_out("masks");
        for path in READ_ONLY.iter().map(Path::new).filter(|_| masks) {
            let Ok(same) = clone_tree(path, true) else { continue };
            restrict(same.as_fd(), NO_WRITES | QUIET | NO_PROGRAMS, true)?;
            attach(same.as_fd(), path).map_err(told("read-only paths"))?;
        }
        for path in MASKED.iter().map(Path::new).filter(|_| masks) {
            let Ok(stat) = rustix::fs::stat(path) else { continue };
            let cover = if rustix::fs::FileType::from_raw_mode(stat.st_mode).is_dir() {
                new_file_system("tmpfs", &[("mode", "0555")], QUIET | NO_WRITES | NO_PROGRAMS)
            } else {
                clone_tree(Path::new("/dev/null"), false)
            };
            cover.and_then(|cover| attach(cover.as_fd(), path)).map_err(told("masked paths"))?;
        }
        let terminals = special.terminals.ok_or_else(|| failure(FailureKind::Invalid, "there is no /dev"))?;
        Ok(Tree { stage: self.stage, terminals, made: self.in_memory })
    }
}

/// Over the file that programs read, wherever its name leads: on many hosts that is a link to what a service keeps in /run.
fn put_name_servers(file: &OwnedFd) -> Result<(), Errno> {
    let mut place = PathBuf::from(NAME_SERVERS_AT);
    for _ in 0..MOST_LINKS {
        let Ok(link) = std::fs::read_link(&place) else { break };
        place = place.parent().unwrap_or(Path::new("/")).join(link);
    }
    match place_for(&place, false).and_then(|()| attach(file.as_fd(), &place)) {
        // A tree that is read only, and has none: there are no names then, as on the host.
        Err(Errno::ROFS) => Ok(()),
        done => done,
    }
}

/// Makes what a mount is to be attached to, where it is missing.
fn place_for(target: &Path, directory: bool) -> Result<(), Errno> {
    match rustix::fs::statat(CWD, target, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(_) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    if directory {
        return make_directories(target);
    }
    make_directories(target.parent().unwrap_or(Path::new("/")))?;
    let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    rustix::fs::open(target, flags, Mode::from_raw_mode(0o644)).map(drop)
}

/// A directory and those above it, where they are missing.
fn make_directories(target: &Path) -> Result<(), Errno> {
    let mut path = PathBuf::from("/");
    for component in target.components().skip(1) {
        path.push(component);
        match rustix::fs::mkdir(&path, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            // Of a read-only directory that is there.
            Err(Errno::ROFS) if rustix::fs::stat(&path).is_ok() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_blanks() {
        assert_eq!(unescaped(br"/a\040b\134c\9"), r"/a b\c\9");
    }
}
