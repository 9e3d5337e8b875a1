//! What is told of a call: the path or address that its arguments name, once for each difference. Guest memory is read again
//! for it, so a hostile program can make this say other than what the call did; it decides nothing.

use super::Policy;
use crate::fs::file::OpenFile;
use crate::fs::walk::{self, Follow};
use crate::net::address::{Address, UnixName, STORAGE_SIZE};
use crate::net::socket::{SocketFile, SocketType};
use crate::syscall::table::Row;
use crate::{Context, Errno, Kernel};
use skerry_abi::raw::general as linux;
use skerry_control::{Access, Action, Bytes, Event, Observe, Observed};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Different reports that are made at the most: what a guest can make up is bounded.
const MOST: usize = 1 << 14;
/// The same, where a policy is learnt.
const MOST_OF_EVERYTHING: usize = 1 << 18;

/// What has been told already.
#[derive(Default)]
pub struct Told {
    reports: HashSet<u64>,
    tasks: usize,
}

/// A path or an address that a call is about.
#[derive(Hash)]
struct Object {
    access: Access,
    path: Option<Vec<u8>>,
    address: Option<String>,
}

/// A call, and what it is about.
pub struct Details {
    number: u64,
    name: &'static str,
    objects: Vec<Object>,
}

/// Where a path is among a call's arguments, and the descriptor that it may be relative to.
struct Place {
    directory: Option<usize>,
    path: usize,
    access: Access,
}

fn place(directory: Option<usize>, path: usize, access: Access) -> Place {
    Place { directory, path, access }
}

impl Details {
    /// Just that it was made.
    pub fn of_call_alone(row: Option<&Row>, number: u64) -> Details {
        Details { number, name: row.map_or("", |row| row.name), objects: Vec::new() }
    }

    /// Whether a name that was not found may be one that the sandbox does not show: it is missed in a place of ours, not of
    /// the host's.
    pub fn may_be_hidden(&self, context: &Context) -> bool {
        self.objects.iter().filter_map(|object| object.path.as_deref()).any(|path| is_missed_in_ours(context, path))
    }

    pub fn has_object(&self) -> bool {
        !self.objects.is_empty()
    }

    pub fn gather(context: &Context, row: Option<&Row>) -> Details {
        let mut details = Details::of_call_alone(row, context.call.number);
        let Some(row) = row else { return details };
        for place in places(context, row.name) {
            if let Some(path) = absolute(context, &place) {
                details.objects.push(Object { access: place.access, path: Some(path), address: None });
            }
        }
        if let Some(object) = address(context, row.name) {
            details.objects.push(object);
        }
        details
    }
}

/// Whether the last place above `path` that is there is a skeleton, a hidden place or a file system in memory.
fn is_missed_in_ours(context: &Context, path: &[u8]) -> bool {
    let mut above = path;
    while let Some(end) = above.iter().rposition(|&byte| byte == b'/') {
        above = &above[..end];
        let name = if above.is_empty() { b"/" } else { above };
        if let Ok(place) = walk::resolve(context.task, linux::AT_FDCWD, name, Follow::Yes) {
            return matches!(&place.mount.source[..], b"skeleton" | b"hidden" | b"tmpfs");
        }
    }
    false
}

/// The paths of a call.
fn places(context: &Context, name: &str) -> Vec<Place> {
    use Access::{Execute, Look, Write};
    let arguments = &context.call.arguments;
    match name {
        "open" => vec![place(None, 0, opening(arguments[1]))],
        "openat" => vec![place(Some(0), 1, opening(arguments[2]))],
        "openat2" => {
            let flags: u64 = context.read(arguments[2]).unwrap_or(0);
            vec![place(Some(0), 1, opening(flags))]
        }
        "execve" => vec![place(None, 0, Execute)],
        "execveat" => vec![place(Some(0), 1, Execute)],
        "stat" | "lstat" | "access" | "readlink" | "statfs" | "chdir" | "chroot" | "getxattr" | "lgetxattr" | "listxattr"
        | "llistxattr" => vec![place(None, 0, Look)],
        "newfstatat" | "faccessat" | "faccessat2" | "readlinkat" | "statx" | "name_to_handle_at" => {
            vec![place(Some(0), 1, Look)]
        }
        "inotify_add_watch" => vec![place(None, 1, Look)],
        "creat" | "mkdir" | "rmdir" | "unlink" | "chmod" | "chown" | "lchown" | "truncate" | "utime" | "utimes" | "mknod"
        | "setxattr" | "lsetxattr" | "removexattr" | "lremovexattr" => vec![place(None, 0, Write)],
        "mkdirat" | "unlinkat" | "fchmodat" | "fchmodat2" | "fchownat" | "utimensat" | "futimesat" | "mknodat" => {
            vec![place(Some(0), 1, Write)]
        }
        "rename" | "link" => vec![place(None, 0, Write), place(None, 1, Write)],
        "renameat" | "renameat2" | "linkat" => vec![place(Some(0), 1, Write), place(Some(2), 3, Write)],
        "symlink" => vec![place(None, 1, Write)],
        "symlinkat" => vec![place(Some(1), 2, Write)],
        _ => Vec::new(),
    }
}

fn opening(flags: u64) -> Access {
    let flags = flags as u32;
    if flags & linux::O_PATH != 0 {
        Access::Look
    } else if flags & linux::O_ACCMODE != linux::O_RDONLY || flags & (linux::O_CREAT | linux::O_TRUNC) != 0 {
        Access::Write
    } else {
        Access::Read
    }
}

/// The path as named from the root, links not followed.
fn absolute(context: &Context, place: &Place) -> Option<Vec<u8>> {
    let arguments = &context.call.arguments;
    let named = context.read_path(arguments[place.path]).ok()?;
    let directory = place.directory.map(|index| arguments[index] as i32);
    if named.first() == Some(&b'/') {
        return Some(named);
    }
    let fs = context.task.fs();
    let start = match directory {
        Some(fd) if fd != linux::AT_FDCWD => context.task.files().get(fd).ok()?.path.clone()?,
        // Of an empty name (AT_EMPTY_PATH) the descriptor's own opening has told.
        _ if named.is_empty() => return None,
        _ => fs.current.clone(),
    };
    if named.is_empty() {
        return None;
    }
    let mut path = start.absolute_name(&fs.root);
    if path != b"/" {
        path.push(b'/');
    }
    path.extend_from_slice(&named);
    Some(path)
}

/// The address of a call.
fn address(context: &Context, name: &str) -> Option<Object> {
    let arguments = &context.call.arguments;
    let (access, at, length) = match name {
        "connect" => (Access::Connect, arguments[1], arguments[2]),
        "bind" => (Access::Bind, arguments[1], arguments[2]),
        "sendto" if arguments[4] != 0 => (Access::Connect, arguments[4], arguments[5]),
        "sendmsg" => {
            let [at, length]: [u64; 2] = context.read(arguments[1]).ok()?;
            if at == 0 {
                return None;
            }
            (Access::Connect, at, length & 0xffff_ffff)
        }
        _ => return None,
    };
    let mut bytes = vec![0; usize::try_from(length).ok().filter(|&length| length <= STORAGE_SIZE)?];
    context.read_bytes(at, &mut bytes).ok()?;
    let file: Arc<OpenFile> = context.file(arguments[0] as i32).ok()?;
    let protocol = match file.downcast::<SocketFile>()?.socket.common().kind {
        SocketType::Stream => "tcp",
        _ => "udp",
    };
    match Address::parse(&bytes).ok()? {
        Address::Inet(address) => Some(Object { access, path: None, address: Some(format!("{protocol}:{address}")) }),
        Address::Unix(UnixName::Path(path)) => {
            let path = if path.first() == Some(&b'/') {
                path
            } else {
                let fs = context.task.fs();
                [&fs.current.absolute_name(&fs.root)[..], b"/", &path].concat()
            };
            Some(Object { access, path: Some(path), address: Some("unix".into()) })
        }
        Address::Unix(UnixName::Abstract(name)) => {
            Some(Object { access, path: None, address: Some(format!("unix:@{}", name.escape_ascii())) })
        }
        _ => None,
    }
}

impl Policy {
    /// Tells of a call, unless that has been told before.
    pub(super) fn tell(&self, context: &Context, details: Details, errno: Option<Errno>) {
        let Details { number, name, objects } = details;
        let errno = errno.map(|errno| errno.0);
        let tell = |object: Option<Object>| {
            if !self.is_new(&(number, errno, &object)) {
                return;
            }
            let (access, path, address) = match object {
                Some(object) => (Some(object.access), object.path.map(Bytes), object.address),
                None => (None, None, None),
            };
            (context.kernel().events)(Event::Observed(Observed {
                process: context.process().pid() as u32,
                program: Bytes(context.task.name.read().clone()),
                name: if name.is_empty() { number.to_string() } else { name.to_owned() },
                number: number as i64,
                access,
                path,
                address,
                errno,
            }));
        };
        if objects.is_empty() {
            tell(None);
        }
        objects.into_iter().for_each(|object| tell(Some(object)));
    }

    /// Tells of a call that a rule has met, unless that has been told before.
    pub(super) fn tell_rule(&self, context: &Context, row: Option<&Row>, action: Action) {
        let call = context.call;
        let path = Details::gather(context, row).objects.into_iter().find_map(|object| object.path);
        if self.is_new(&(call.number, &path, format!("{action:?}"))) {
            (context.kernel().events)(Event::Call {
                process: context.process().pid() as u32,
                name: row.map_or_else(|| call.number.to_string(), |row| row.name.to_owned()),
                number: call.number as i32,
                arguments: call.arguments,
                action,
                path: path.map(Bytes),
            });
        }
    }

    fn is_new(&self, report: &impl Hash) -> bool {
        let mut hasher = DefaultHasher::new();
        report.hash(&mut hasher);
        let mut told = self.told.lock();
        let most = if self.observe == Observe::Everything { MOST_OF_EVERYTHING } else { MOST };
        told.reports.len() < most && told.reports.insert(hasher.finish())
    }

    /// Tells how many tasks there are, if there never were more.
    pub(super) fn tell_tasks(&self, kernel: &Kernel) {
        let count = kernel.pids.task_count();
        {
            let mut told = self.told.lock();
            if count <= told.tasks {
                return;
            }
            told.tasks = count;
        }
        (kernel.events)(Event::Tasks { count: count as u32 });
    }
}
