//! File operations from outside (the control protocol's `file`): the same ways that system calls take, walked by a thread
//! of pid 1 that nothing lists, so with all rights inside the sandbox and none outside of it.
//!
//! The guest may change the tree meanwhile. Names are therefore walked once, and what is found is used by its place, not
//! by its name again; a symbolic link that appears under a removal is removed, never followed.

use crate::context::{Call, NoLead};
use crate::fs::close;
use crate::fs::file::OpenFile;
use crate::fs::inode::{FileType, Metadata, NewNodeKind, RenameFlags};
use crate::fs::names::{self, End, Removal};
use crate::fs::notify::NotifyMask;
use crate::fs::open::{open, open_directory, Kinds, OpenHow};
use crate::fs::path::Path;
use crate::fs::walk::{self, Follow, Last};
use crate::task::{lifecycle, Task};
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::raw::general as linux;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The most that one read gives.
const MAXIMUM_READ: usize = 1 << 20;

/// The most bytes that one listing may come to, as a message: a guest decides how many names there are.
const MAXIMUM_LISTING: usize = 12 << 20;
/// What one entry comes to beside its name.
const ENTRY_BYTES: usize = 160;

/// The most names of a directory that a removal looks at together.
const BATCH: usize = 512;
/// How often a directory is emptied once more because a guest made something in it meanwhile.
const TRIES: u32 = 100;
/// How long one removal may take: a guest may make new names as fast as they go.
const PATIENCE: Duration = Duration::from_secs(60);

/// A file as `stat` and `list` show it.
pub struct Entry {
    pub name: Vec<u8>,
    pub metadata: Metadata,
}

/// The sandbox's tree as it is seen from outside. All paths are absolute: EINVAL.
pub struct OutsideFiles {
    task: Arc<Task>,
}

impl OutsideFiles {
    /// For one operation, which sees what there is now. ENOENT before the tree is made.
    pub fn new(kernel: &Arc<Kernel>) -> Result<OutsideFiles> {
        super::find_births(kernel);
        kernel.mounts.dentries.board.look();
        let root = kernel.mounts.root().ok_or(Errno::ENOENT)?;
        Ok(OutsideFiles { task: lifecycle::outside_task(kernel, root) })
    }

    /// To be called behind what may have changed files: programs believe nothing older.
    pub fn tell_of_changes(&self) {
        self.kernel().take_loans_back();
    }

    /// Up to `length` bytes (and never more than a MiB) from `offset` on, and whether the file ends with them.
    pub fn read(&self, path: &[u8], offset: u64, length: u64) -> Result<(Vec<u8>, bool)> {
        let file = self.open(path, linux::O_RDONLY, 0)?;
        let result = read_piece(&file, offset, length);
        close::closed(self.task.process(), file);
        result
    }

    /// Writes all of `data` at `offset`; makes the file where it is missing.
    pub fn write(&self, path: &[u8], offset: u64, data: &[u8], truncate: bool, mode: u32) -> Result<()> {
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Errno::EFBIG);
        }
        let truncation = if truncate { linux::O_TRUNC } else { 0 };
        let file = self.open(path, linux::O_WRONLY | linux::O_CREAT | truncation, mode)?;
        let result = write_piece(&file, offset, data);
        if let Some(path) = &file.path {
            self.kernel().watches.report_with_parent(&path.dentry, NotifyMask::MODIFY);
        }
        close::closed(self.task.process(), file);
        result
    }

    /// The entries of a directory, "." and ".." left out. EOVERFLOW where they are too many for one message.
    pub fn list(&self, path: &[u8]) -> Result<Vec<Entry>> {
        let directory = self.resolve(path, Follow::Yes)?;
        let names = self.names(&directory, usize::MAX)?;
        let walker = self.walker_root();
        let mut entries = Vec::new();
        for name in names {
            // What vanishes between the listing and the look is left out.
            let Ok(place) =
                walk::Walker::new(&self.kernel().mounts, walker.clone(), &self.task.credentials()).step(&directory, &name)
            else {
                continue;
            };
            if let Ok(metadata) = place.inode().metadata() {
                entries.push(Entry { name, metadata });
            }
        }
        Ok(entries)
    }

    pub fn stat(&self, path: &[u8], follow: Follow) -> Result<Entry> {
        let place = self.resolve(path, follow)?;
        let name = path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()).unwrap_or(b"/").to_vec();
        Ok(Entry { name, metadata: place.inode().metadata()? })
    }

    /// Removes a file or an empty directory.
    pub fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, last) = self.parent(path)?;
        self.remove_name(&directory, &last)
    }

    /// Removes a whole tree. Mounts in it are EBUSY.
    pub fn remove_all(&self, path: &[u8]) -> Result<()> {
        let (directory, last) = self.parent(path)?;
        let Last::Name { name, .. } = &last else { return self.remove_name(&directory, &last) };
        let top = directory.dentry.lookup(name)?;
        if !top.is_directory() || top.is_mount_point() {
            return self.remove_name(&directory, &last);
        }
        let end = Instant::now() + PATIENCE;
        // The directories on the way down to the one that is being emptied: no recursion, since a guest decides how deep
        // it goes.
        let mut levels = vec![Level::new(Path { mount: directory.mount.clone(), dentry: top })];
        while let Some(level) = levels.last_mut() {
            if Instant::now() > end {
                return Err(Errno::ETIMEDOUT);
            }
            if let Some(name) = level.names.pop() {
                match names::remove(&self.task, &level.place, &ordinary(name.clone()), Removal::Name) {
                    Err(Errno::EISDIR) => {
                        let Ok(below) = level.place.dentry.lookup(&name) else { continue };
                        if below.is_mount_point() {
                            return Err(Errno::EBUSY);
                        }
                        let place = Path { mount: level.place.mount.clone(), dentry: below };
                        levels.push(Level::new(place));
                    }
                    Ok(()) | Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
                continue;
            }
            level.names = match self.names(&level.place, BATCH) {
                Ok(names) => names,
                // Somebody else has removed it.
                Err(Errno::ENOENT) => Vec::new(),
                Err(errno) => return Err(errno),
            };
            if level.names.is_empty() {
                let Some(mut level) = levels.pop() else { break };
                let above = levels.last().map_or(&directory, |above| &above.place);
                match names::remove(&self.task, above, &ordinary(level.place.dentry.name()), Removal::Directory) {
                    // A guest was quicker with a new entry: once more.
                    Err(Errno::ENOTEMPTY) if level.tries < TRIES => {
                        level.tries += 1;
                        levels.push(level);
                    }
                    // What is under its name now is found when the directory above is looked at again.
                    Err(Errno::ENOTDIR | Errno::ENOENT) if !levels.is_empty() => {}
                    done => done?,
                }
            }
        }
        Ok(())
    }

    /// Makes a directory; with `parents` also those above it that are missing. EEXIST where it is there.
    pub fn make_directory(&self, path: &[u8], parents: bool, mode: u32) -> Result<()> {
        if parents {
            let mut end = 0;
            while let Some(slash) = path.get(end + 1..).and_then(|rest| rest.iter().position(|byte| *byte == b'/')) {
                end += 1 + slash;
                let (above, rest) = path.split_at(end);
                if rest.iter().all(|byte| *byte == b'/') {
                    break;
                }
                match self.make_one_directory(above, 0o755) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        self.make_one_directory(path, mode)
    }

    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (old_directory, old_last) = self.parent(from)?;
        let (new_directory, new_last) = self.parent(to)?;
        let old = End { directory: &old_directory, last: &old_last };
        let new = End { directory: &new_directory, last: &new_last };
        names::rename(&self.task, &self.kernel().mounts, old, new, RenameFlags::empty())
    }

    fn kernel(&self) -> &Arc<Kernel> {
        self.task.kernel()
    }

    fn walker_root(&self) -> Path {
        self.task.fs().root
    }

    fn make_one_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let (directory, last) = self.parent(path)?;
        names::make(&self.task, &directory, &last, NewNodeKind::Directory, mode).map(drop)
    }

    fn remove_name(&self, directory: &Path, last: &Last) -> Result<()> {
        match names::remove(&self.task, directory, last, Removal::Name) {
            Err(Errno::EISDIR) => names::remove(&self.task, directory, last, Removal::Directory),
            done => done,
        }
    }

    fn resolve(&self, path: &[u8], follow: Follow) -> Result<Path> {
        walk::resolve(&self.task, linux::AT_FDCWD, checked(path)?, follow)
    }

    fn parent(&self, path: &[u8]) -> Result<(Path, Last)> {
        walk::resolve_parent(&self.task, linux::AT_FDCWD, checked(path)?)
    }

    /// Regular files and directories only: a FIFO could wait, a device could act, and both are the programs' own. ENXIO.
    fn open(&self, path: &[u8], flags: u32, mode: u32) -> Result<Arc<OpenFile>> {
        let context = Context::new(&self.task, &NoLead, Call::default());
        let mut how = OpenHow::from_open(flags | linux::O_NONBLOCK | linux::O_NOCTTY, mode);
        how.kinds = Kinds::Data;
        open(&context, linux::AT_FDCWD, checked(path)?, how)
    }

    /// At most `limit` names in a directory, "." and ".." left out. ENOTDIR; EOVERFLOW where they are too long together.
    fn names(&self, directory: &Path, limit: usize) -> Result<Vec<Vec<u8>>> {
        if directory.inode().kind() != FileType::Directory {
            return Err(Errno::ENOTDIR);
        }
        let context = Context::new(&self.task, &NoLead, Call::default());
        let file = open_directory(&context, directory)?;
        let mut names = Vec::new();
        let mut size = 0;
        let read = file.operations.read_directory(0, &mut |entry| {
            if entry.name != b"." && entry.name != b".." {
                // In the message a byte may take six.
                size += 6 * entry.name.len() + ENTRY_BYTES;
                names.push(entry.name.to_vec());
            }
            size <= MAXIMUM_LISTING && names.len() < limit
        });
        close::closed(self.task.process(), file);
        read?;
        if size > MAXIMUM_LISTING {
            return Err(Errno::EOVERFLOW);
        }
        Ok(names)
    }
}

/// A directory on the way down in a removal, with the names that are still to be removed.
struct Level {
    place: Path,
    names: Vec<Vec<u8>>,
    tries: u32,
}

impl Level {
    fn new(place: Path) -> Level {
        Level { place, names: Vec::new(), tries: 0 }
    }
}

fn ordinary(name: Vec<u8>) -> Last {
    Last::Name { name, trailing_slash: false }
}

fn read_piece(file: &OpenFile, offset: u64, length: u64) -> Result<(Vec<u8>, bool)> {
    if offset > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    let length = usize::try_from(length).unwrap_or(MAXIMUM_READ).min(MAXIMUM_READ);
    let mut data = vec![0; length];
    let mut filled = 0;
    let mut ended = false;
    while let Some(room) = data.get_mut(filled..).filter(|room| !room.is_empty()) {
        let position = offset.checked_add(filled as u64).ok_or(Errno::EINVAL)?;
        match file.operations.read(file, room, position) {
            Ok(0) => {
                ended = true;
                break;
            }
            Ok(count) => filled += count,
            Err(Errno::EAGAIN) if filled > 0 => break,
            Err(errno) => return Err(errno),
        }
    }
    data.truncate(filled);
    // A regular file that says its size needs no empty read to tell that it is over (those of /proc say 0).
    if !ended && file.operations.is_seekable() {
        let size = file.operations.size()?;
        ended = size != 0 && offset.saturating_add(filled as u64) >= size;
    }
    Ok((data, ended))
}

fn write_piece(file: &OpenFile, offset: u64, data: &[u8]) -> Result<()> {
    let mut rest = data;
    let mut position = offset;
    while !rest.is_empty() {
        let count = file.operations.write(file, rest, position)?;
        rest = rest.get(count..).filter(|_| count != 0).ok_or(Errno::EIO)?;
        position += count as u64;
    }
    Ok(())
}

fn checked(path: &[u8]) -> Result<&[u8]> {
    if path.len() >= linux::PATH_MAX as usize {
        return Err(Errno::ENAMETOOLONG);
    }
    if path.first() != Some(&b'/') || path.contains(&0) {
        return Err(Errno::EINVAL);
    }
    Ok(path)
}

#[cfg(test)]
#[path = "files_tests.rs"]
mod tests;
