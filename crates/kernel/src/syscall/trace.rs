//! The log of calls (`--trace`): one line for each, as strace(1) writes them, with what the guest kernel itself knows.

use super::table::Row;
use crate::{Context, Errno, Result};
use skerry_control::Event;

/// Longest text of a path that is shown.
const MAXIMUM_TEXT: usize = 256;

/// Tells of a call that has been served.
pub(super) fn report(context: &Context, row: &Row, result: &Result<u64>) {
    let text = format!("{}({}) = {}", row.name, arguments(context, row), outcome(result));
    (context.kernel().events)(Event::Trace {
        process: context.process().pid() as u32,
        thread: context.task.tid() as u32,
        text,
    });
}

fn arguments(context: &Context, row: &Row) -> String {
    let path_at = path_argument(row.name);
    let mut shown = Vec::with_capacity(6);
    for (index, value) in context.call.arguments.iter().enumerate() {
        shown.push(match *value {
            address if Some(index) == path_at => path(context, address),
            value if value as i64 >= -4096 && (value as i64) < 4096 => (value as i64).to_string(),
            value => format!("{value:#x}"),
        });
    }
    shown.join(", ")
}

/// Which argument of the call is a path, if one is.
fn path_argument(name: &str) -> Option<usize> {
    if name.ends_with("at") || matches!(name, "openat2" | "statx" | "faccessat2" | "renameat2" | "name_to_handle_at") {
        return (!matches!(name, "shmat" | "symlinkat")).then_some(1).or((name == "symlinkat").then_some(0));
    }
    let path_first = [
        "open", "stat", "lstat", "access", "execve", "chdir", "mkdir", "rmdir", "creat", "unlink", "readlink", "chmod",
        "chown", "lchown", "truncate", "statfs", "symlink", "link", "rename", "mknod", "chroot", "utime", "utimes", "getxattr",
        "setxattr",
    ];
    path_first.contains(&name).then_some(0)
}

fn path(context: &Context, address: u64) -> String {
    match context.read_c_string(address, MAXIMUM_TEXT, Errno::ENAMETOOLONG) {
        Ok(bytes) => format!("\"{}\"", bytes.escape_ascii()),
        Err(_) => format!("{address:#x}"),
    }
}

fn outcome(result: &Result<u64>) -> String {
    match result {
        Ok(value) if *value as i64 >= 4096 * 16 => format!("{value:#x}"),
        Ok(value) => (*value as i64).to_string(),
        Err(errno) => format!("-1 {errno}"),
    }
}
