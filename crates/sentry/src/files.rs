//! The control protocol's file operations: decoding, one call of the kernel, and the answer's shape.

use serde_json::{json, Value};
use skerry_abi::Errno;
use skerry_control::{base64, Bytes, Failure, FailureKind, FileCall, FileStat};
use skerry_kernel::fs::inode::{FileType, Metadata};
use skerry_kernel::fs::walk::Follow;
use skerry_kernel::run::{Entry, OutsideFiles};

pub fn answer(files: &OutsideFiles, call: FileCall) -> Result<Value, Failure> {
    let result = carry_out(files, call);
    files.tell_of_changes();
    result
}

fn carry_out(files: &OutsideFiles, call: FileCall) -> Result<Value, Failure> {
    let path = call.path().clone();
    let failed = |errno: Errno| Failure {
        kind: FailureKind::File,
        message: format!("{}: {errno}{}", String::from_utf8_lossy(&path.0), hint(errno)),
        errno: Some(errno.0),
    };
    match call {
        FileCall::Read { path, offset, length } => {
            let (data, end) = files.read(&path.0, offset, length).map_err(failed)?;
            Ok(json!({ "data": base64::encode(&data), "end": end }))
        }
        FileCall::Write { path, offset, data, truncate, mode } => {
            let Some(data) = base64::decode(&data) else {
                return Err(Failure { kind: FailureKind::Invalid, message: "the data is not base64".into(), errno: None });
            };
            files.write(&path.0, offset, &data, truncate, mode).map_err(failed)?;
            Ok(json!({}))
        }
        FileCall::List { path } => {
            let entries: Vec<FileStat> = files.list(&path.0).map_err(failed)?.into_iter().map(stat).collect();
            Ok(json!({ "entries": entries }))
        }
        FileCall::Stat { path, follow } => {
            let follow = if follow { Follow::Yes } else { Follow::No };
            Ok(json!(stat(files.stat(&path.0, follow).map_err(failed)?)))
        }
        FileCall::Remove { path, recursive } => {
            if recursive { files.remove_all(&path.0) } else { files.remove(&path.0) }.map_err(failed)?;
            Ok(json!({}))
        }
        FileCall::MakeDirectory { path, parents, mode } => {
            files.make_directory(&path.0, parents, mode).map_err(failed)?;
            Ok(json!({}))
        }
        FileCall::Rename { from, to } => {
            files.rename(&from.0, &to.0).map_err(failed)?;
            Ok(json!({}))
        }
    }
}

/// What an error's name does not say.
fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::ENXIO => " (it is neither a regular file nor a directory)",
        Errno::EOVERFLOW => " (there are too many entries for one answer)",
        Errno::ETIMEDOUT => " (it takes too long; the programs of the sandbox may be changing it)",
        Errno::EBUSY => " (something is mounted there)",
        _ => "",
    }
}

fn stat(entry: Entry) -> FileStat {
    let metadata = &entry.metadata;
    FileStat {
        name: Bytes(entry.name),
        kind: kind_name(metadata.kind).into(),
        size: metadata.size,
        mode: metadata.permissions,
        uid: metadata.uid,
        gid: metadata.gid,
        modified_ns: nanoseconds(metadata),
    }
}

fn nanoseconds(metadata: &Metadata) -> i64 {
    metadata.modified.sec.saturating_mul(1_000_000_000).saturating_add(metadata.modified.nsec)
}

fn kind_name(kind: FileType) -> &'static str {
    match kind {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        FileType::CharacterDevice => "character_device",
        FileType::BlockDevice => "block_device",
    }
}
