//! The control protocol's file operations: from a message to [`FileService`] and back.

use serde_json::{json, Value};
use skerry_abi::Errno;
use skerry_control::{base64, Failure, FailureKind, FileCall};
use skerry_kernel::fs::service::{FileService, Truncate, CHUNK_MAX};
use skerry_kernel::fs::walk::Follow;
use skerry_kernel::Kernel;
use std::sync::Arc;

/// Does what `call` asks for on the sandbox's own tree.
pub fn answer(kernel: &Arc<Kernel>, call: FileCall) -> Result<Value, Failure> {
    let service = FileService::new(kernel).map_err(|errno| failed("use", b"/", errno))?;
    match call {
        FileCall::Read { path, offset, length } => {
            let piece = service.read(&path.0, offset, length).map_err(|errno| failed("read", &path.0, errno))?;
            Ok(json!({ "data": base64::encode(&piece.data), "end": piece.end }))
        }
        FileCall::Write { path, offset, data, truncate, mode } => {
            let data = base64::decode(&data).ok_or_else(|| Failure {
                kind: FailureKind::Invalid,
                message: "the data to write is not base64".into(),
                errno: None,
            })?;
            let truncate = if truncate { Truncate::Yes } else { Truncate::No };
            let written = service.write(&path.0, offset, &data, truncate, mode);
            done(written.map_err(|errno| failed("write", &path.0, errno)))
        }
        FileCall::List { path } => {
            let entries = service.list(&path.0).map_err(|errno| failed("list", &path.0, errno))?;
            Ok(json!({ "entries": entries }))
        }
        FileCall::Stat { path, follow } => {
            let follow = if follow { Follow::Yes } else { Follow::No };
            let stat = service.stat(&path.0, follow).map_err(|errno| failed("look at", &path.0, errno))?;
            Ok(json!(stat))
        }
        FileCall::Remove { path, recursive } => {
            let removed = if recursive { service.remove_tree(&path.0) } else { service.remove(&path.0) };
            done(removed.map_err(|errno| failed("remove", &path.0, errno)))
        }
        FileCall::MakeDirectory { path, parents, mode } => {
            let made =
                if parents { service.make_directories(&path.0, mode) } else { service.make_directory(&path.0, mode) };
            done(made.map_err(|errno| failed("make the directory", &path.0, errno)))
        }
        FileCall::Rename { from, to } => {
            let what = [&from.0[..], b" to ", &to.0].concat();
            done(service.rename(&from.0, &to.0).map_err(|errno| failed("rename", &what, errno)))
        }
    }
}

fn done(result: Result<(), Failure>) -> Result<Value, Failure> {
    result.map(|()| json!({}))
}

/// A failure that says what was to be done to which path, and what to do about it where the error's name does not say.
fn failed(action: &str, path: &[u8], errno: Errno) -> Failure {
    let hint = match errno {
        Errno::ENXIO => ": it is neither a regular file nor a directory".into(),
        Errno::E2BIG if action == "write" => format!(": one call takes at most {CHUNK_MAX} bytes"),
        Errno::E2BIG => ": there are too many entries for one answer".into(),
        Errno::ETIMEDOUT => ": it takes too long; the programs of the sandbox may be changing it".into(),
        Errno::EROFS => ": it is in a read-only part of the tree".into(),
        Errno::EBUSY => ": something is mounted there".into(),
        _ => String::new(),
    };
    let message = format!("cannot {action} {}: {errno}{hint}", String::from_utf8_lossy(path));
    Failure { kind: FailureKind::File, message, errno: Some(errno.0) }
}
