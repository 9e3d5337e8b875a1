//! The path walk (path_resolution(7)).
//!
//! [`Walker`] holds whose walk it is: root, credentials, the count of symbolic links so far. [`resolve`],
//! [`resolve_parent`] and [`resolve_at`] are what system calls use. Nothing here keeps a lock between two steps, so that
//! a rename meanwhile gives either the old or the new place, as on Linux.

use crate::fs::file::OpenFile;
use crate::fs::inode::{FileType, Metadata};
use crate::fs::mount::MountTable;
use crate::fs::path::{Dentry, Path, NAME_MAX};
use crate::task::credentials::{CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH};
use crate::task::{AccessMode, Credentials, Task};
use crate::{Errno, Result};
use skerry_abi::raw::general as linux;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Links that one walk may follow (path_resolution(7)).
const LINKS_MAX: u32 = 40;

/// How often a walk is tried where the host changes what it has found.
pub const ATTEMPTS: u32 = 3;

/// Whether a symbolic link at the end of the name is followed. A trailing slash always follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    Yes,
    No,
}

/// The last part of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Last {
    /// An ordinary name; whether slashes follow it.
    Name {
        name: Vec<u8>,
        trailing_slash: bool,
    },
    Dot,
    DotDot,
    /// The name was "/" (or only slashes).
    Root,
}

bitflags::bitflags! {
    /// openat2(2)'s `resolve`.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct ResolveFlags: u64 {
        const NO_XDEV = 1;
        const NO_MAGICLINKS = 2;
        const NO_SYMLINKS = 4;
        const BENEATH = 8;
        const IN_ROOT = 0x10;
        const CACHED = 0x20;
    }
}

/// One walk.
pub struct Walker<'a> {
    pub mounts: &'a MountTable,
    pub root: Path,
    pub credentials: &'a Credentials,
    pub flags: ResolveFlags,
    /// Who walks, where it is a task: /proc/self leads to it.
    pub task: Option<&'a Task>,
    /// It has been in a directory where names come and go without a call.
    is_unsteady: Cell<bool>,
    /// What it has looked up, where that is to be noted.
    steps: Option<RefCell<Vec<Step>>>,
    links: u32,
}

/// A name that was looked up.
pub struct Step {
    pub directory: Path,
    pub name: Vec<u8>,
    /// `None`: it is not there.
    pub dentry: Option<Arc<Dentry>>,
}

impl<'a> Walker<'a> {
    pub fn new(mounts: &'a MountTable, root: Path, credentials: &'a Credentials) -> Walker<'a> {
        Walker {
            mounts,
            root,
            credentials,
            flags: ResolveFlags::empty(),
            task: None,
            is_unsteady: Cell::new(false),
            steps: None,
            links: 0,
        }
    }

    /// It notes all that it looks up.
    pub fn noting_steps(self) -> Walker<'a> {
        Walker { steps: Some(RefCell::default()), ..self }
    }

    /// What it has noted; `None` where that does not say all that the walk hangs on.
    pub fn take_steps(&mut self) -> Option<Vec<Step>> {
        let steps = self.steps.take()?.into_inner();
        (!self.is_unsteady.get()).then_some(steps)
    }

    /// For a task.
    pub fn of(self, task: &'a Task) -> Walker<'a> {
        Walker { task: Some(task), ..self }
    }

    /// Search permission on a directory: EACCES.
    fn check_search(&self, directory: &Path) -> Result<()> {
        if self.credentials.has_capability(CAP_DAC_OVERRIDE) || self.credentials.has_capability(CAP_DAC_READ_SEARCH) {
            return Ok(());
        }
        self.credentials.check_access(&directory.inode().metadata()?, AccessMode::EXECUTE)
    }

    /// `name` in `directory`, links not followed, mounts crossed.
    pub fn step(&self, directory: &Path, name: &[u8]) -> Result<Path> {
        self.step_shown(directory, name).map(|(place, _)| place)
    }

    /// As [`Walker::step`], with the place's metadata where the search has shown them.
    pub fn step_shown(&self, directory: &Path, name: &[u8]) -> Result<(Path, Option<Metadata>)> {
        if !directory.dentry.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        if directory.mount.file_system.is_volatile() {
            self.is_unsteady.set(true);
        }
        self.check_search(directory)?;
        match name {
            b"." => Ok((directory.clone(), None)),
            b".." => self.step_up(directory).map(|place| (place, None)),
            _ => {
                let found = directory.dentry.lookup_shown(name);
                if let Some(steps) = &self.steps {
                    let dentry = found.as_ref().ok().map(|(dentry, _)| dentry.clone());
                    steps.borrow_mut().push(Step { directory: directory.clone(), name: name.to_vec(), dentry });
                }
                let (dentry, shown) = found?;
                let shown = shown.filter(|_| !dentry.is_mount_point());
                let place = self.enter(Path { mount: directory.mount.clone(), dentry })?;
                Ok((place, shown))
            }
        }
    }

    /// Crosses onto what is mounted at `path`.
    pub fn enter(&self, path: Path) -> Result<Path> {
        if !path.dentry.is_mount_point() {
            return Ok(path);
        }
        let mount = path.mount.clone();
        let top = self.mounts.topmost(path);
        if self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&mount, &top.mount) {
            return Err(Errno::EXDEV);
        }
        Ok(top)
    }

    fn step_up(&self, directory: &Path) -> Result<Path> {
        if directory.is_same(&self.root) {
            if self.flags.contains(ResolveFlags::BENEATH) {
                return Err(Errno::EXDEV);
            }
            return Ok(directory.clone());
        }
        let Some(above) = directory.parent() else { return Ok(directory.clone()) };
        if self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&above.mount, &directory.mount) {
            return Err(Errno::EXDEV);
        }
        Ok(self.mounts.topmost(above))
    }

    /// Walks to the directory that holds the last part of `path`.
    pub fn parent(&mut self, start: &Path, path: &[u8]) -> Result<(Path, Last)> {
        if path.is_empty() {
            return Err(Errno::ENOENT);
        }
        let mut remaining = path.to_vec();
        let mut current = start.clone();
        loop {
            if remaining.first() == Some(&b'/') {
                if self.flags.contains(ResolveFlags::BENEATH) {
                    return Err(Errno::EXDEV);
                }
                if self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&self.root.mount, &current.mount) {
                    return Err(Errno::EXDEV);
                }
                current = self.root.clone();
            }
            let mut position = 0;
            let link = loop {
                while remaining.get(position) == Some(&b'/') {
                    position += 1;
                }
                let rest = &remaining[position..];
                let length = rest.iter().position(|&byte| byte == b'/').unwrap_or(rest.len());
                let (name, behind) = rest.split_at(length);
                let is_last = behind.iter().all(|&byte| byte == b'/');
                if name.is_empty() {
                    return Ok((current, Last::Root));
                }
                if name.len() > NAME_MAX {
                    return Err(Errno::ENAMETOOLONG);
                }
                if is_last {
                    let last = match name {
                        b"." => Last::Dot,
                        b".." => Last::DotDot,
                        _ => Last::Name { name: name.to_vec(), trailing_slash: !behind.is_empty() },
                    };
                    if !current.dentry.is_directory() {
                        return Err(Errno::ENOTDIR);
                    }
                    return Ok((current, last));
                }
                let next = self.step(&current, name)?;
                position += length;
                match next.inode().kind() {
                    FileType::Directory => current = next,
                    FileType::Symlink => match self.read_link(&next)? {
                        Link::Place(place) => current = place,
                        Link::Name(mut target) => {
                            target.extend_from_slice(&remaining[position..]);
                            break target;
                        }
                    },
                    _ => return Err(Errno::ENOTDIR),
                }
            };
            remaining = link;
        }
    }

    /// Walks all of `path`.
    pub fn walk(&mut self, start: &Path, path: &[u8], follow: Follow) -> Result<Path> {
        self.walk_shown(start, path, follow).map(|(place, _)| place)
    }

    /// As [`Walker::walk`], with the place's metadata where the last search has shown them.
    pub fn walk_shown(&mut self, start: &Path, path: &[u8], follow: Follow) -> Result<(Path, Option<Metadata>)> {
        let mut start = start.clone();
        let mut path = std::borrow::Cow::Borrowed(path);
        // A trailing slash of the name itself holds through all links.
        let mut must_be_directory = false;
        loop {
            let (directory, last) = self.parent(&start, &path)?;
            let (name, trailing_slash) = match last {
                Last::Root => return Ok((directory, None)),
                Last::Dot => return self.step_shown(&directory, b"."),
                Last::DotDot => return self.step_shown(&directory, b".."),
                Last::Name { name, trailing_slash } => (name, trailing_slash),
            };
            must_be_directory |= trailing_slash;
            let (mut place, mut shown) = self.step_shown(&directory, &name)?;
            if place.inode().kind() == FileType::Symlink && (follow == Follow::Yes || must_be_directory) {
                match self.read_link(&place)? {
                    Link::Name(target) => {
                        start = directory;
                        path = std::borrow::Cow::Owned(target);
                        continue;
                    }
                    Link::Place(there) => (place, shown) = (there, None),
                }
            }
            if must_be_directory && !place.dentry.is_directory() {
                return Err(Errno::ENOTDIR);
            }
            return Ok((place, shown));
        }
    }

    /// Where a link leads: counts it. ELOOP.
    pub fn read_link(&mut self, link: &Path) -> Result<Link> {
        self.links += 1;
        if self.links > LINKS_MAX || self.flags.contains(ResolveFlags::NO_SYMLINKS) {
            return Err(Errno::ELOOP);
        }
        if let Some(place) = link.inode().follow_magic() {
            if self.flags.contains(ResolveFlags::NO_MAGICLINKS) {
                return Err(Errno::ELOOP);
            }
            if self.flags.intersects(ResolveFlags::BENEATH | ResolveFlags::IN_ROOT) {
                return Err(Errno::EXDEV);
            }
            let place = place?;
            if self.flags.contains(ResolveFlags::NO_XDEV) && !Arc::ptr_eq(&place.mount, &link.mount) {
                return Err(Errno::EXDEV);
            }
            return Ok(Link::Place(place));
        }
        let target = match self.task {
            Some(task) => link.inode().read_link_for(task)?,
            None => link.inode().read_link()?,
        };
        if target.is_empty() {
            return Err(Errno::ENOENT);
        }
        Ok(Link::Name(target))
    }
}

/// Where a symbolic link leads.
pub enum Link {
    Name(Vec<u8>),
    /// A magic link: straight to the place.
    Place(Path),
}

/// What a call with AT_EMPTY_PATH may mean: a place, or an open file that has none.
pub enum Target {
    Path(Path),
    File(Arc<OpenFile>),
}

/// Where a relative name starts: the working directory for AT_FDCWD, else the directory that `dirfd` is. EBADF, ENOTDIR.
pub fn start_of(task: &Task, dirfd: i32, path: &[u8]) -> Result<Path> {
    let fs = task.fs();
    if path.first() == Some(&b'/') {
        return Ok(fs.root);
    }
    if dirfd == linux::AT_FDCWD {
        return Ok(fs.current);
    }
    let file = task.files().get(dirfd)?;
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    match &file.path {
        Some(path) if path.dentry.is_directory() => Ok(path.clone()),
        _ => Err(Errno::ENOTDIR),
    }
}

/// Walks `path` for `task`. An empty path is ENOENT.
pub fn resolve(task: &Task, dirfd: i32, path: &[u8], follow: Follow) -> Result<Path> {
    resolve_as(task, &task.credentials(), dirfd, path, follow)
}

/// As [`resolve`], with other credentials (access(2) uses the real ids).
pub fn resolve_as(task: &Task, credentials: &Credentials, dirfd: i32, path: &[u8], follow: Follow) -> Result<Path> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let start = start_of(task, dirfd, path)?;
    Walker::new(&task.kernel().mounts, task.fs().root, credentials).of(task).walk(&start, path, follow)
}

/// What [`resolve_with_metadata`] has come to.
pub struct Resolved {
    pub found: Result<(Path, Metadata)>,
    /// All names on the way come and go by calls only, so that an error stands until then, too.
    pub is_steady: bool,
}

/// As [`resolve_as`], with the place's metadata.
pub fn resolve_with_metadata(task: &Task, credentials: &Credentials, dirfd: i32, path: &[u8], follow: Follow) -> Resolved {
    let unsteady = |errno| Resolved { found: Err(errno), is_steady: false };
    if path.is_empty() {
        return unsteady(Errno::ENOENT);
    }
    let start = match start_of(task, dirfd, path) {
        Ok(start) => start,
        Err(errno) => return unsteady(errno),
    };
    let mut attempts = 0;
    loop {
        let mut walker = Walker::new(&task.kernel().mounts, task.fs().root, credentials).of(task);
        let found = walker.walk_shown(&start, path, follow).and_then(|(place, shown)| {
            let metadata = shown.map_or_else(|| place.inode().metadata(), Ok)?;
            Ok((place, metadata))
        });
        attempts += 1;
        // The host has given the name to another file meanwhile.
        if attempts == ATTEMPTS || !matches!(found, Err(Errno::ESTALE)) {
            return Resolved { found, is_steady: !walker.is_unsteady.get() };
        }
    }
}

/// Walks to the directory that holds the last part of `path`.
pub fn resolve_parent(task: &Task, dirfd: i32, path: &[u8]) -> Result<(Path, Last)> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    let start = start_of(task, dirfd, path)?;
    Walker::new(&task.kernel().mounts, task.fs().root, &task.credentials()).of(task).parent(&start, path)
}

/// As [`resolve`], but an empty path means `dirfd` itself where `allow_empty` (AT_EMPTY_PATH).
pub fn resolve_at(task: &Task, dirfd: i32, path: &[u8], follow: Follow, allow_empty: AllowEmpty) -> Result<Target> {
    if !path.is_empty() || allow_empty == AllowEmpty::No {
        return resolve(task, dirfd, path, follow).map(Target::Path);
    }
    if dirfd == linux::AT_FDCWD {
        return Ok(Target::Path(task.fs().current));
    }
    Ok(Target::File(task.files().get(dirfd)?))
}

/// AT_EMPTY_PATH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AllowEmpty {
    Yes,
    No,
}

/// Walks an absolute `path` from `root` with all rights (boot, the control server).
pub fn resolve_from_root(mounts: &MountTable, root: &Path, path: &[u8], follow: Follow) -> Result<Path> {
    let credentials = Credentials::new(0, 0, Vec::new());
    Walker::new(mounts, root.clone(), &credentials).walk(root, path, follow)
}

/// The children of a path's dentry, for callers that make or remove names: the directory must still exist.
pub fn check_alive(directory: &Arc<Dentry>) -> Result<()> {
    if directory.is_unlinked() {
        Err(Errno::ENOENT)
    } else {
        Ok(())
    }
}
