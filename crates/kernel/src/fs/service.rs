//! Files of the sandbox as the control protocol reads and changes them (`FileCall`): from outside, by path, with the
//! rights of the sandbox's root user on the sandbox's own tree.
//!
//! Every walk starts at the tree's root and is made by the guest kernel, so that a symbolic link leads to where it leads
//! inside. Guests change the tree meanwhile: what was looked at may be something else a moment later, which gives one of
//! the two answers and never more. Nothing here waits for a guest: only regular files and directories are opened, the
//! rest is ENXIO; and every call is bounded ([`CHUNK_MAX`], [`ENTRIES_MAX`], [`PATIENCE`]).

use crate::context::{Call, Lead, PATH_MAX};
use crate::fs::close;
use crate::fs::file::OpenFile;
use crate::fs::inode::{FileType, Metadata, NewNodeKind, RenameFlags};
use crate::fs::names::{self, End, Removal};
use crate::fs::notify::NotifyMask;
use crate::fs::open::{self, Kinds, OpenHow};
use crate::fs::path::Path;
use crate::fs::walk::{self, Follow, Last, Walker};
use crate::task::{lifecycle, Task};
use crate::{Context, Errno, Kernel, Result};
use skerry_abi::raw::general as linux;
use skerry_control::{Bytes, FileStat};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bytes that one call reads or writes at most.
pub const CHUNK_MAX: usize = 1 << 20;
/// Entries of a directory that one call lists at most, and the bytes that their answer may take.
const ENTRIES_MAX: usize = 1 << 16;
const LISTING_MAX: usize = 12 << 20;
/// Names that are taken at once from a directory that is being removed.
const BATCH: usize = 512;
/// How often a directory is emptied once more because a guest made something in it meanwhile.
const TRIES: u32 = 100;
/// How long one call may take: guests may fill a tree as fast as it is removed.
const PATIENCE: Duration = Duration::from_secs(60);
/// The mode of directories that are made on the way (mkdir(1), -p).
const PARENTS_MODE: u32 = 0o755;

/// Control's own thread receives nothing.
struct NoLead;

impl Lead for NoLead {
    fn before_blocking(&self) {}
}

/// Who makes one file operation of the control protocol.
pub struct FileService {
    task: Arc<Task>,
    deadline: Instant,
}

/// What [`FileService::read`] found.
#[derive(Debug, PartialEq, Eq)]
pub struct Piece {
    pub data: Vec<u8>,
    /// The file ends with it.
    pub end: bool,
}

impl FileService {
    /// For one operation. ENOENT before there is a tree.
    pub fn new(kernel: &Arc<Kernel>) -> Result<FileService> {
        Ok(FileService { task: lifecycle::service_task(kernel)?, deadline: Instant::now() + PATIENCE })
    }

    /// At most [`CHUNK_MAX`] bytes, from `offset` on.
    pub fn read(&self, path: &[u8], offset: u64, length: u64) -> Result<Piece> {
        let file = self.open(path, linux::O_RDONLY, 0)?;
        let wanted = usize::try_from(length).unwrap_or(CHUNK_MAX).min(CHUNK_MAX);
        let result = read_piece(&file, offset, wanted);
        self.close(file);
        result
    }

    /// Writes all of `data` (at most [`CHUNK_MAX`] bytes, else E2BIG) at `offset`. The file is made with `mode` where it
    /// is missing.
    pub fn write(&self, path: &[u8], offset: u64, data: &[u8], truncate: Truncate, mode: u32) -> Result<()> {
        if data.len() > CHUNK_MAX {
            return Err(Errno::E2BIG);
        }
        if offset.checked_add(data.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(Errno::EFBIG);
        }
        let empties = if truncate == Truncate::Yes { linux::O_TRUNC } else { 0 };
        let file = self.open(path, linux::O_WRONLY | linux::O_CREAT | empties, mode)?;
        let mut done = 0;
        let result = loop {
            let Some(rest) = data.get(done..).filter(|rest| !rest.is_empty()) else { break Ok(()) };
            match file.operations.write(&file, rest, offset + done as u64) {
                Ok(0) => break Err(Errno::EIO),
                Ok(count) => done += count,
                Err(errno) => break Err(errno),
            }
        };
        if let (Some(path), true) = (&file.path, done > 0) {
            self.task.kernel().watches.report_with_parent(&path.dentry, NotifyMask::MODIFY);
        }
        self.close(file);
        result
    }

    /// The directory's entries but "." and "..", in no order, links not followed. E2BIG where they are too many for one
    /// answer.
    pub fn list(&self, path: &[u8]) -> Result<Vec<FileStat>> {
        let place = self.resolve(path, Follow::Yes)?;
        if !place.dentry.is_directory() {
            return Err(Errno::ENOTDIR);
        }
        let names = self.names(&place, ENTRIES_MAX + 1)?;
        if names.len() > ENTRIES_MAX {
            return Err(Errno::E2BIG);
        }
        let credentials = self.task.credentials();
        let walker = Walker::new(&self.task.kernel().mounts, self.task.fs().root, &credentials).of(&self.task);
        let mut size = 0;
        let mut entries = Vec::new();
        for name in names {
            // What went away meanwhile, or cannot be looked at, is no entry.
            let Ok(metadata) = walker.step(&place, &name).and_then(|place| place.inode().metadata()) else { continue };
            // Numbers and field names, and a name of which each byte may become an escape.
            size += 256 + 6 * name.len();
            if size > LISTING_MAX {
                return Err(Errno::E2BIG);
            }
            entries.push(file_stat(name, &metadata));
            self.check_time()?;
        }
        Ok(entries)
    }

    pub fn stat(&self, path: &[u8], follow: Follow) -> Result<FileStat> {
        let metadata = self.resolve(path, follow)?.inode().metadata()?;
        let name = path.rsplit(|&byte| byte == b'/').find(|name| !name.is_empty()).unwrap_or(b"/");
        Ok(file_stat(name.to_vec(), &metadata))
    }

    /// A file, or an empty directory.
    pub fn remove(&self, path: &[u8]) -> Result<()> {
        let (directory, last) = self.parent(path)?;
        self.remove_one(&directory, &last)
    }

    /// A file, or a directory with all that is in it. EBUSY where something is mounted in it.
    pub fn remove_tree(&self, path: &[u8]) -> Result<()> {
        let (directory, last) = self.parent(path)?;
        let Last::Name { name, .. } = &last else { return self.remove_one(&directory, &last) };
        let top = directory.dentry.lookup(name)?;
        if !top.is_directory() || top.is_mount_point() {
            return self.remove_one(&directory, &last);
        }
        // The directories from the top down to the one that is being emptied, each with the names still to be removed.
        let mut levels = vec![Level { place: Path { mount: directory.mount.clone(), dentry: top }, names: Vec::new(), tries: 0 }];
        while let Some(level) = levels.last_mut() {
            self.check_time()?;
            if let Some(name) = level.names.pop() {
                let name = Last::Name { name, trailing_slash: false };
                match names::remove(&self.task, &level.place, &name, Removal::Name) {
                    Err(Errno::EISDIR) => {
                        let Last::Name { name, .. } = name else { continue };
                        let Ok(below) = level.place.dentry.lookup(&name) else { continue };
                        if below.is_mount_point() {
                            return Err(Errno::EBUSY);
                        }
                        let place = Path { mount: level.place.mount.clone(), dentry: below };
                        levels.push(Level { place, names: Vec::new(), tries: 0 });
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
                let name = Last::Name { name: level.place.dentry.name(), trailing_slash: false };
                let above = levels.last().map_or(&directory, |above| &above.place);
                match names::remove(&self.task, above, &name, Removal::Directory) {
                    // A guest was quicker with a new entry: once more.
                    Err(Errno::ENOTEMPTY) if level.tries < TRIES => {
                        level.tries += 1;
                        levels.push(level);
                    }
                    // What is under its name now is found when the directory above is listed again.
                    Err(Errno::ENOTDIR | Errno::ENOENT) if !levels.is_empty() => {}
                    Ok(()) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(())
    }

    /// EEXIST where something is there.
    pub fn make_directory(&self, path: &[u8], mode: u32) -> Result<()> {
        let (directory, last) = self.parent(path)?;
        names::make(&self.task, &directory, &last, NewNodeKind::Directory, mode).map(|_| ())
    }

    /// As [`FileService::make_directory`], with the directories above it where they are missing.
    pub fn make_directories(&self, path: &[u8], mode: u32) -> Result<()> {
        check_path(path)?;
        let end = path.iter().rposition(|&byte| byte != b'/').map_or(0, |last| last + 1);
        for (index, _) in path[..end].iter().enumerate().skip(1).filter(|(_, &byte)| byte == b'/') {
            let above = &path[..index];
            match self.resolve(above, Follow::Yes) {
                Ok(_) => {}
                Err(Errno::ENOENT) => match self.make_directory(above, PARENTS_MODE) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(errno) => return Err(errno),
                },
                Err(errno) => return Err(errno),
            }
            self.check_time()?;
        }
        self.make_directory(path, mode)
    }

    /// As rename(2): replaces what is at `to`.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (old_directory, old) = self.parent(from)?;
        let (new_directory, new) = self.parent(to)?;
        let (old, new) = (End { directory: &old_directory, last: &old }, End { directory: &new_directory, last: &new });
        names::rename(&self.task, &self.task.kernel().mounts, old, new, RenameFlags::empty())
    }

    fn resolve(&self, path: &[u8], follow: Follow) -> Result<Path> {
        check_path(path)?;
        walk::resolve(&self.task, linux::AT_FDCWD, path, follow)
    }

    fn parent(&self, path: &[u8]) -> Result<(Path, Last)> {
        check_path(path)?;
        walk::resolve_parent(&self.task, linux::AT_FDCWD, path)
    }

    fn open(&self, path: &[u8], flags: u32, mode: u32) -> Result<Arc<OpenFile>> {
        check_path(path)?;
        let context = Context::new(&self.task, &NoLead, Call::default());
        let mut how = OpenHow::from_open(flags | linux::O_NONBLOCK | linux::O_NOCTTY, mode);
        how.kinds = Kinds::Data;
        open::open(&context, linux::AT_FDCWD, path, how)
    }

    fn close(&self, file: Arc<OpenFile>) {
        close::closed(self.task.process(), file);
    }

    /// At most `limit` names of a directory, from its start.
    fn names(&self, directory: &Path, limit: usize) -> Result<Vec<Vec<u8>>> {
        let context = Context::new(&self.task, &NoLead, Call::default());
        let file = open::open_directory(&context, directory)?;
        let mut names = Vec::new();
        let mut cursor = 0;
        let result = loop {
            let before = cursor;
            let read = file.operations.read_directory(cursor, &mut |entry| {
                if names.len() >= limit {
                    return false;
                }
                cursor = entry.next_cursor;
                if entry.name != b"." && entry.name != b".." {
                    names.push(entry.name.clone());
                }
                true
            });
            match read.and_then(|()| self.check_time()) {
                Ok(()) if cursor == before || names.len() >= limit => break Ok(names),
                Ok(()) => {}
                Err(errno) => break Err(errno),
            }
        };
        self.close(file);
        result
    }

    /// A file by its name, or an empty directory by its.
    fn remove_one(&self, directory: &Path, last: &Last) -> Result<()> {
        let removal = match last {
            Last::Name { name, .. } if !directory.dentry.lookup(name)?.is_directory() => Removal::Name,
            _ => Removal::Directory,
        };
        names::remove(&self.task, directory, last, removal)
    }

    /// ETIMEDOUT when the operation takes too long.
    fn check_time(&self) -> Result<()> {
        if Instant::now() > self.deadline {
            Err(Errno::ETIMEDOUT)
        } else {
            Ok(())
        }
    }
}

/// Whether a write empties the file first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncate {
    Yes,
    No,
}

/// A directory on the way down in [`FileService::remove_tree`].
struct Level {
    place: Path,
    names: Vec<Vec<u8>>,
    tries: u32,
}

/// ENOENT (empty), EINVAL (a zero byte, or not absolute), ENAMETOOLONG.
fn check_path(path: &[u8]) -> Result<()> {
    if path.is_empty() {
        return Err(Errno::ENOENT);
    }
    if path.first() != Some(&b'/') || path.contains(&0) {
        return Err(Errno::EINVAL);
    }
    if path.len() >= PATH_MAX {
        return Err(Errno::ENAMETOOLONG);
    }
    Ok(())
}

fn read_piece(file: &OpenFile, offset: u64, wanted: usize) -> Result<Piece> {
    if offset > i64::MAX as u64 {
        return Err(Errno::EINVAL);
    }
    // One byte more tells whether the file ends here.
    let mut data = vec![0; wanted + 1];
    let mut done = 0;
    while done < data.len() {
        let place = offset.saturating_add(done as u64).min(i64::MAX as u64);
        match file.operations.read(file, &mut data[done..], place) {
            Ok(0) => break,
            Ok(count) => done += count.min(wanted + 1 - done),
            Err(_) if done > 0 && done <= wanted => {
                // What was read counts; the error comes again with the next call.
                data.truncate(done);
                return Ok(Piece { data, end: false });
            }
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
        }
    }
    let end = done <= wanted;
    data.truncate(done.min(wanted));
    Ok(Piece { data, end })
}

fn file_stat(name: Vec<u8>, metadata: &Metadata) -> FileStat {
    let kind = match metadata.kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character_device",
        FileType::BlockDevice => "block_device",
    };
    let modified = metadata.modified;
    FileStat {
        name: Bytes(name),
        kind: kind.into(),
        size: metadata.size,
        mode: metadata.permissions,
        uid: metadata.uid,
        gid: metadata.gid,
        modified_ns: modified.sec.saturating_mul(1_000_000_000).saturating_add(modified.nsec),
    }
}
