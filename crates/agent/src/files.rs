//! The control protocol's file operations, on the guest's tree, in a fork: what takes long delays nothing else, and what the
//! guest has put in the way (a FIFO, a link into /proc) reaches nothing of the init's.

use crate::failure;
use crate::spawn::name_of;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, CWD};
use rustix::io::Errno;
use serde_json::{json, Value};
use skerry_control::{base64, Bytes, Failure, FailureKind, FileCall, FileStat};
use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::Path;

/// Bytes of one answer; entries of one answer.
const LONGEST_READ: u64 = 1 << 20;
const MOST_ENTRIES: usize = 50_000;

/// File systems whose files act on the kernel when they are written to.
const OF_THE_KERNEL: [i64; 2] = [0x9fa0, 0x6265_6572]; // proc, sysfs

pub fn answer(call: FileCall) -> Result<Value, Failure> {
    rustix::process::umask(Mode::empty());
    let path = call.path().clone();
    let failed = |errno: Errno| {
        let hint = match errno {
            Errno::NXIO => " (it is neither a regular file nor a directory)",
            Errno::OVERFLOW => " (there are too many entries for one answer)",
            Errno::BUSY => " (something is mounted there)",
            _ => "",
        };
        let message = format!("{}: {}{hint}", String::from_utf8_lossy(&path.0), name_of(errno.raw_os_error()));
        Failure { kind: FailureKind::File, message, errno: Some(errno.raw_os_error()) }
    };
    if !path.0.starts_with(b"/") || path.0.contains(&0) {
        return Err(failed(Errno::INVAL));
    }
    let result = match call {
        FileCall::Read { path, offset, length } => read(of(&path), offset, length.min(LONGEST_READ)),
        FileCall::Write { path, offset, data, truncate, mode } => {
            let Some(data) = base64::decode(&data) else {
                return Err(failure(FailureKind::Invalid, "the data is not base64"));
            };
            write(of(&path), offset, &data, truncate, mode)
        }
        FileCall::List { path } => list(of(&path)),
        FileCall::Stat { path, follow } => status(of(&path), follow),
        FileCall::Remove { path, recursive } => remove(of(&path), recursive).map(|()| json!({})),
        FileCall::MakeDirectory { path, parents, mode } => std::fs::DirBuilder::new()
            .recursive(parents)
            .mode(mode & 0o7777)
            .create(of(&path))
            .map_err(errno)
            .map(|()| json!({})),
        FileCall::Rename { from, to } => std::fs::rename(of(&from), of(&to)).map_err(errno).map(|()| json!({})),
    };
    result.map_err(failed)
}

fn of(path: &Bytes) -> &Path {
    Path::new(OsStr::from_bytes(&path.0))
}

fn errno(error: std::io::Error) -> Errno {
    Errno::from_io_error(&error).unwrap_or(Errno::IO)
}

/// Links that /proc makes up, into what processes have open, are not followed.
fn open(path: &Path, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let resolve = ResolveFlags::NO_MAGICLINKS;
    let mode = if flags.contains(OFlags::CREATE) { Mode::from_raw_mode(mode & 0o7777) } else { Mode::empty() };
    rustix::fs::openat2(CWD, path, flags, mode, resolve)
}

fn regular(path: &Path, flags: OFlags, mode: u32) -> Result<std::fs::File, Errno> {
    let file = open(path, flags, mode)?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => Ok(file.into()),
        FileType::Directory => Err(Errno::ISDIR),
        _ => Err(Errno::NXIO),
    }
}

fn read(path: &Path, offset: u64, length: u64) -> Result<Value, Errno> {
    let file = regular(path, OFlags::RDONLY, 0)?;
    let mut data = vec![0; length as usize];
    let mut filled = 0;
    let mut end = false;
    while filled < data.len() {
        match file.read_at(&mut data[filled..], offset.saturating_add(filled as u64)).map_err(errno)? {
            0 => {
                end = true;
                break;
            }
            count => filled += count,
        }
    }
    data.truncate(filled);
    // What is of just this length ends here too, unless /proc does not say how long its files are.
    end |= file.metadata().is_ok_and(|facts| facts.len() > 0 && offset + filled as u64 >= facts.len());
    Ok(json!({ "data": base64::encode(&data), "end": end }))
}

fn write(path: &Path, offset: u64, data: &[u8], truncate: bool, mode: u32) -> Result<Value, Errno> {
    let file = regular(path, OFlags::WRONLY | OFlags::CREATE, mode)?;
    if OF_THE_KERNEL.contains(&(rustix::fs::fstatfs(&file)?.f_type as i64)) {
        return Err(Errno::ACCESS);
    }
    if truncate {
        file.set_len(0).map_err(errno)?;
    }
    file.write_all_at(data, offset).map_err(errno)?;
    Ok(json!({}))
}

fn list(path: &Path) -> Result<Value, Errno> {
    let directory = open(path, OFlags::RDONLY | OFlags::DIRECTORY, 0)?;
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name == b"." || name == b".." {
            continue;
        }
        if entries.len() >= MOST_ENTRIES {
            return Err(Errno::OVERFLOW);
        }
        // Whoever has just removed it: it is not there.
        if let Ok(facts) = rustix::fs::statat(&directory, entry.file_name(), AtFlags::SYMLINK_NOFOLLOW) {
            entries.push(described(name, &facts));
        }
    }
    Ok(json!({ "entries": entries }))
}

fn status(path: &Path, follow: bool) -> Result<Value, Errno> {
    let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    let file = rustix::fs::openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::NO_MAGICLINKS)?;
    let name = path.file_name().map_or(&b"/"[..], OsStrExt::as_bytes);
    Ok(json!(described(name, &rustix::fs::fstat(&file)?)))
}

fn remove(path: &Path, recursive: bool) -> Result<(), Errno> {
    let directory = std::fs::symlink_metadata(path).map_err(errno)?.is_dir();
    match (directory, recursive) {
        (true, true) => std::fs::remove_dir_all(path),
        (true, false) => std::fs::remove_dir(path),
        (false, _) => std::fs::remove_file(path),
    }
    .map_err(errno)
}

fn described(name: &[u8], facts: &Stat) -> FileStat {
    let kind = match FileType::from_raw_mode(facts.st_mode) {
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character_device",
        FileType::BlockDevice => "block_device",
        _ => "file",
    };
    FileStat {
        name: Bytes(name.to_vec()),
        kind: kind.into(),
        size: facts.st_size.max(0) as u64,
        mode: facts.st_mode & 0o7777,
        uid: facts.st_uid,
        gid: facts.st_gid,
        modified_ns: facts.st_mtime.saturating_mul(1_000_000_000).saturating_add(facts.st_mtime_nsec as i64),
    }
}
