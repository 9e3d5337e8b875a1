//! /proc/PID and /proc/PID/task/TID: the directory, and its simple files.
//!
//! [`FILES`] has one row per file. What is more than a row has a file of its own: [`super::descriptors`] (fd, fdinfo),
//! [`super::memory`] (mem), [`super::status`] (stat, status ...), [`super::map`] (maps, smaps).

use super::descriptors::{DescriptorDirectory, DescriptorKind};
use super::map::{guest_maps, rollup, Landmarks};
use super::view::View;
use super::{memory, status};
use crate::fs::file::{FileOperations, StatusFlags};
use crate::fs::inode::FileType;
use crate::fs::path::Path;
use crate::fs::pseudo::{Attributes, Content, Entry, Node};
use crate::task::credentials::{CAP_AUDIT_CONTROL, CAP_SYS_RESOURCE};
use crate::task::{Login, Task};
use crate::{Context, Errno, Kernel, Result};
use skerry_platform::host::read_proc_of;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// The most that is shown of a process's arguments or environment.
const STRINGS_MAX: u64 = 4 << 20;
/// Bit of an inode number that tells a thread's directory from its process's.
const OF_THREAD: u64 = 1 << 19;

/// Who may read a file's text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// Whom the permission bits allow.
    Mode,
    /// Who may also trace the process (ptrace(2)).
    Trace,
}

type Read = fn(&View, &Arc<Task>) -> Result<Vec<u8>>;
type Write = fn(&View, &Arc<Task>, &[u8]) -> Result<()>;

struct File {
    name: &'static str,
    permissions: u32,
    access: Access,
    read: Read,
    write: Option<Write>,
}

const fn file(name: &'static str, permissions: u32, access: Access, read: Read) -> File {
    File { name, permissions, access, read, write: None }
}

const fn setting(name: &'static str, access: Access, read: Read, write: Write) -> File {
    File { name, permissions: 0o644, access, read, write: Some(write) }
}

/// The plain files, as proc_pid(5) lists them.
static FILES: &[File] = &[
    file("auxv", 0o400, Access::Trace, |view, _| auxiliary(view)),
    file("cgroup", 0o444, Access::Mode, |_, _| Ok(b"0::/\n".to_vec())),
    file("cmdline", 0o444, Access::Mode, |view, _| arguments(view)),
    setting("comm", Access::Mode, |view, _| Ok([&view.name()[..], b"\n"].concat()), write_comm),
    // No core is ever written: what is set is taken and has no effect.
    setting("coredump_filter", Access::Mode, |_, _| Ok(b"00000033\n".to_vec()), |_, _, text| parse_number(text).map(drop)),
    file("cpuset", 0o444, Access::Mode, |_, _| Ok(b"/\n".to_vec())),
    file("environ", 0o400, Access::Trace, |view, _| environment(view)),
    setting("gid_map", Access::Mode, |_, _| Ok(IDENTITY_MAP.into()), |_, _, _| Err(Errno::EPERM)),
    file("io", 0o400, Access::Trace, |view, _| status::io(view)),
    file("limits", 0o444, Access::Mode, |view, _| status::limits(view)),
    setting("loginuid", Access::Mode, |view, _| Ok(view.process.login.read().uid.to_string().into_bytes()), set_login),
    file("maps", 0o444, Access::Trace, |view, _| Ok(host_map(view, "maps"))),
    file("mountinfo", 0o444, Access::Mode, |view, _| Ok(view.kernel.mounts.mountinfo_text(&view.task()?.fs().root))),
    file("mounts", 0o444, Access::Mode, |view, _| Ok(view.kernel.mounts.mounts_text(&view.task()?.fs().root))),
    file("mountstats", 0o400, Access::Mode, |view, _| status::mountstats(view)),
    file("numa_maps", 0o444, Access::Trace, |_, _| Ok(Vec::new())),
    setting(
        "oom_adj",
        Access::Mode,
        |view, _| Ok(line(oom_score_adj(view) * 17 / 1000)),
        |view, reader, text| {
            set_oom_score_adj(view, reader, i32::try_from(parse_number(text)?).map_err(|_| Errno::EINVAL)? * 1000 / 17)
        },
    ),
    file("oom_score", 0o444, Access::Mode, |view, _| Ok(line((666 + oom_score_adj(view) * 2 / 3).max(0)))),
    setting(
        "oom_score_adj",
        Access::Mode,
        |view, _| Ok(line(oom_score_adj(view))),
        |view, reader, text| set_oom_score_adj(view, reader, i32::try_from(parse_number(text)?).map_err(|_| Errno::EINVAL)?),
    ),
    file("personality", 0o400, Access::Trace, |view, _| {
        Ok(format!("{:08x}\n", view.task()?.personality.load(Ordering::Relaxed)).into_bytes())
    }),
    file("projid_map", 0o644, Access::Mode, |_, _| Ok(IDENTITY_MAP.into())),
    file("sched", 0o644, Access::Mode, |view, _| status::sched(view)),
    file("schedstat", 0o444, Access::Mode, |view, _| status::schedstat(view)),
    file("sessionid", 0o444, Access::Mode, |view, _| Ok(view.process.login.read().session.to_string().into_bytes())),
    setting("setgroups", Access::Mode, |_, _| Ok(b"allow\n".to_vec()), |_, _, _| Err(Errno::EPERM)),
    file("smaps", 0o444, Access::Trace, |view, _| Ok(host_map(view, "smaps"))),
    file("smaps_rollup", 0o444, Access::Trace, |view, _| Ok(rollup(&host_map(view, "smaps")))),
    file("stack", 0o400, Access::Trace, |_, _| Ok(Vec::new())),
    file("stat", 0o444, Access::Mode, status::stat),
    file("statm", 0o444, Access::Mode, |view, _| status::statm(view)),
    file("status", 0o444, Access::Mode, status::status),
    file("syscall", 0o400, Access::Trace, |_, _| Ok(b"running\n".to_vec())),
    setting(
        "timerslack_ns",
        Access::Trace,
        |view, _| Ok(line(view.task()?.timer_slack_ns.load(Ordering::Relaxed))),
        |view, _, text| {
            let slack = u64::try_from(parse_number(text)?).map_err(|_| Errno::EINVAL)?;
            let slack = if slack == 0 { 50_000 } else { slack };
            view.task()?.timer_slack_ns.store(slack, Ordering::Relaxed);
            Ok(())
        },
    ),
    setting("uid_map", Access::Mode, |_, _| Ok(IDENTITY_MAP.into()), |_, _, _| Err(Errno::EPERM)),
    file("wchan", 0o444, Access::Mode, |_, _| Ok(b"0".to_vec())),
];

/// The only mapping of ids there is (user_namespaces(7)).
const IDENTITY_MAP: &str = "         0          0 4294967295\n";

/// Namespaces, with the numbers that Linux gives the first ones (namespaces(7)).
static NAMESPACES: &[(&str, &str, u64)] = &[
    ("cgroup", "cgroup", 4026531835),
    ("ipc", "ipc", 4026531839),
    ("mnt", "mnt", 4026531841),
    ("net", "net", 4026531840),
    ("pid", "pid", 4026531836),
    ("pid_for_children", "pid", 4026531836),
    ("time", "time", 4026531834),
    ("time_for_children", "time", 4026531834),
    ("user", "user", 4026531837),
    ("uts", "uts", 4026531838),
];

/// The number of a process's directory.
/// Whose directory this is, where it is /proc/PID (pidfd_send_signal(2) takes one for a pidfd).
pub(crate) fn process_of_directory(inode: &dyn crate::fs::inode::Inode) -> Option<i32> {
    if inode.kind() != FileType::Directory || inode.file_system().type_name() != "proc" {
        return None;
    }
    let number = inode.metadata().ok()?.inode;
    let pid = i32::try_from(number >> 20).ok()?;
    (pid > 0 && directory_inode(pid) == number).then_some(pid)
}

pub(super) fn directory_inode(pid: i32) -> u64 {
    (pid as u64) << 20
}

/// /proc/`id`; ENOENT.
pub(super) fn directory(kernel: &Arc<Kernel>, id: i32) -> Result<Arc<dyn Node>> {
    Ok(Arc::new(ProcessNode { view: View::of_process(kernel, id)?, item: Item::Top }))
}

/// What a node below /proc/PID is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Item {
    /// The directory itself.
    Top,
    File(usize),
    Children,
    Memory,
    Pagemap,
    ClearReferences,
    Executable,
    CurrentDirectory,
    RootDirectory,
    Tasks,
    Namespaces,
    Namespace(usize),
    Attributes,
    Attribute(usize),
    Network,
}

/// /proc/PID/attr/*: without a security module, reading them is EINVAL.
static ATTRIBUTES: &[&str] = &["current", "exec", "fscreate", "keycreate", "prev", "sockcreate"];

/// Names that are no rows of [`FILES`]: name, item, kind, and whether they are there for processes and for threads.
static ITEMS: &[(&str, Item, FileType, bool, bool)] = &[
    ("attr", Item::Attributes, FileType::Directory, true, true),
    ("children", Item::Children, FileType::Regular, false, true),
    ("clear_refs", Item::ClearReferences, FileType::Regular, true, true),
    ("cwd", Item::CurrentDirectory, FileType::Symlink, true, true),
    ("exe", Item::Executable, FileType::Symlink, true, true),
    ("mem", Item::Memory, FileType::Regular, true, true),
    ("net", Item::Network, FileType::Directory, true, true),
    ("ns", Item::Namespaces, FileType::Directory, true, true),
    ("pagemap", Item::Pagemap, FileType::Regular, true, true),
    ("root", Item::RootDirectory, FileType::Symlink, true, true),
    ("task", Item::Tasks, FileType::Directory, true, false),
];

/// A node below /proc/PID.
struct ProcessNode {
    view: View,
    item: Item,
}

impl ProcessNode {
    fn with(&self, item: Item) -> Arc<dyn Node> {
        Arc::new(ProcessNode { view: self.view.clone(), item })
    }

    /// Numbers below a directory: 1-255 files, 256-511 items, 512 on lists; fd and fdinfo have theirs from 1 << 16 on.
    fn inode(&self, item: Item) -> u64 {
        let base = directory_inode(self.view.id()) | if self.view.of_thread { OF_THREAD } else { 0 };
        let index = match item {
            Item::Top => 0,
            Item::File(index) => 1 + index as u64,
            // Namespaces have the same number whoever's they are.
            Item::Namespace(index) => return NAMESPACES.get(index).map_or(0, |namespace| namespace.2),
            Item::Attribute(index) => 640 + index as u64,
            _ => 256 + ITEMS.iter().position(|row| row.1 == item).unwrap_or(0) as u64,
        };
        base + index
    }

    /// Everything in the directory but fd and fdinfo: name, item, kind.
    fn items(&self) -> Vec<(&'static str, Item, FileType)> {
        let files = FILES.iter().enumerate().map(|(index, file)| (file.name, Item::File(index), FileType::Regular));
        let of_thread = self.view.of_thread;
        let others = ITEMS.iter().filter(|row| if of_thread { row.4 } else { row.3 }).map(|row| (row.0, row.1, row.2));
        files.chain(others).collect()
    }

    fn magic_target(&self) -> Option<Result<Path>> {
        let fs = || self.view.task.as_ref().map(|task| task.fs()).ok_or(Errno::ENOENT);
        match self.item {
            Item::CurrentDirectory => Some(fs().map(|fs| fs.current)),
            Item::RootDirectory => Some(fs().map(|fs| fs.root)),
            Item::Executable => {
                Some(self.view.process.program.read().executable.as_ref().map(|text| text.path().clone()).ok_or(Errno::ENOENT))
            }
            _ => None,
        }
    }
}

impl Node for ProcessNode {
    fn kind(&self) -> FileType {
        match self.item {
            Item::Top => FileType::Directory,
            Item::File(_) | Item::Attribute(_) => FileType::Regular,
            Item::Namespace(_) => FileType::Symlink,
            item => ITEMS.iter().find(|row| row.1 == item).map_or(FileType::Regular, |row| row.2),
        }
    }

    fn attributes(&self) -> Result<Attributes> {
        let permissions = match self.item {
            Item::Top | Item::Tasks | Item::Attributes | Item::Network => 0o555,
            Item::Namespaces => 0o511,
            Item::File(index) => FILES.get(index).map_or(0, |file| file.permissions),
            Item::Attribute(_) => 0o666,
            Item::Children => 0o444,
            Item::Memory => 0o600,
            Item::Pagemap => 0o400,
            Item::ClearReferences => 0o200,
            Item::Executable | Item::CurrentDirectory | Item::RootDirectory | Item::Namespace(_) => 0o777,
        };
        let mut attributes = Attributes::new(self.inode(self.item), self.kind(), permissions).owned_by(self.view.owner());
        match self.item {
            // The directory itself is the process's owner's, dumpable or not.
            Item::Top => {
                let credentials = self.view.credentials();
                attributes = attributes.owned_by((credentials.euid, credentials.egid));
                attributes.links = if self.view.of_thread { 7 } else { 9 };
            }
            Item::Tasks => attributes.links = 2 + self.view.process.threads.lock().len() as u64,
            _ => {}
        }
        Ok(attributes)
    }

    fn lookup(&self, name: &[u8]) -> Result<Arc<dyn Node>> {
        let text = std::str::from_utf8(name).map_err(|_| Errno::ENOENT)?;
        match self.item {
            Item::Top => {
                if let Some(kind) = DescriptorKind::by_name(text) {
                    return Ok(Arc::new(DescriptorDirectory { view: self.view.clone(), kind }));
                }
                let item = self.items().into_iter().find(|(name, ..)| *name == text).ok_or(Errno::ENOENT)?.1;
                if item == Item::Network {
                    return super::system::network(&self.view.kernel);
                }
                Ok(self.with(item))
            }
            Item::Tasks => {
                let tid = super::parse_id(name).ok_or(Errno::ENOENT)?;
                Ok(Arc::new(ProcessNode { view: self.view.of_thread(tid)?, item: Item::Top }))
            }
            Item::Namespaces => {
                let index = NAMESPACES.iter().position(|namespace| namespace.0 == text).ok_or(Errno::ENOENT)?;
                Ok(self.with(Item::Namespace(index)))
            }
            Item::Attributes => {
                let index = ATTRIBUTES.iter().position(|&name| name == text).ok_or(Errno::ENOENT)?;
                Ok(self.with(Item::Attribute(index)))
            }
            _ => Err(Errno::ENOTDIR),
        }
    }

    fn list(&self) -> Result<Vec<Entry>> {
        let entry = |name: &str, item, kind| Entry { name: name.into(), inode: self.inode(item), kind };
        Ok(match self.item {
            Item::Top => {
                let mut entries: Vec<Entry> =
                    self.items().into_iter().map(|(name, item, kind)| entry(name, item, kind)).collect();
                entries.extend(DescriptorKind::ALL.map(|kind| kind.entry(&self.view)));
                entries.sort_by(|one, other| one.name.cmp(&other.name));
                entries
            }
            Item::Tasks => {
                let threads = self.view.process.threads.lock();
                let mut tids: Vec<i32> = threads.iter().map(|task| task.tid()).collect();
                drop(threads);
                tids.sort_unstable();
                let of_thread = |tid: i32| Entry {
                    name: tid.to_string().into_bytes(),
                    inode: directory_inode(tid) | OF_THREAD,
                    kind: FileType::Directory,
                };
                tids.into_iter().map(of_thread).collect()
            }
            Item::Namespaces => (0..NAMESPACES.len())
                .map(|index| entry(NAMESPACES[index].0, Item::Namespace(index), FileType::Symlink))
                .collect(),
            Item::Attributes => {
                (0..ATTRIBUTES.len()).map(|index| entry(ATTRIBUTES[index], Item::Attribute(index), FileType::Regular)).collect()
            }
            _ => return Err(Errno::ENOTDIR),
        })
    }

    fn read_link(&self, reader: Option<&Task>) -> Result<Vec<u8>> {
        if let Item::Namespace(index) = self.item {
            let namespace = NAMESPACES.get(index).ok_or(Errno::ENOENT)?;
            return Ok(format!("{}:[{}]", namespace.1, namespace.2).into_bytes());
        }
        if let Some(reader) = reader {
            self.view.check_access(reader)?;
        }
        let target = self.magic_target().ok_or(Errno::EINVAL)??;
        let root = match reader {
            Some(reader) => reader.fs().root,
            None => self.view.kernel.mounts.root().ok_or(Errno::ENOENT)?,
        };
        Ok(target.absolute_name(&root))
    }

    fn follow(&self) -> Option<Result<Path>> {
        match self.item {
            Item::Namespace(index) => Some(super::descriptors::namespace_path(&self.view.kernel, NAMESPACES.get(index)?.2)),
            _ => self.magic_target(),
        }
    }

    fn open(&self, context: &Context, flags: StatusFlags) -> Result<Box<dyn Content>> {
        let writes = flags.intersects(StatusFlags::WRONLY | StatusFlags::RDWR);
        match self.item {
            Item::File(index) => {
                let file = FILES.get(index).ok_or(Errno::ENOENT)?;
                if file.access == Access::Trace {
                    self.view.check_access(context.task)?;
                }
                if writes && file.write.is_none() {
                    return Err(Errno::EACCES);
                }
                Ok(Box::new(ProcessContent { view: self.view.clone(), reader: context.task.clone(), file }))
            }
            Item::Attribute(_) => Ok(Box::new(|| Err::<Vec<u8>, _>(Errno::EINVAL))),
            Item::Children => {
                let view = self.view.clone();
                Ok(Box::new(move || status::children(&view)))
            }
            Item::ClearReferences => Ok(Box::new(Ignored)),
            // Physical addresses are nobody's business (CVE-2015-8709's class): as without CAP_SYS_ADMIN.
            Item::Pagemap => Err(Errno::EPERM),
            _ => Err(Errno::EACCES),
        }
    }

    fn open_special(&self, context: &Context, _flags: StatusFlags) -> Option<Result<Arc<dyn FileOperations>>> {
        if self.item != Item::Memory {
            return None;
        }
        let attributes = self.attributes();
        Some(self.view.check_access(context.task).and_then(|()| memory::MemoryFile::open(self.view.memory()?, attributes?)))
    }
}

/// An opening of one of [`FILES`].
struct ProcessContent {
    view: View,
    reader: Arc<Task>,
    file: &'static File,
}

impl Content for ProcessContent {
    fn generate(&self) -> Result<Vec<u8>> {
        (self.file.read)(&self.view, &self.reader)
    }

    fn store(&self, text: &[u8]) -> Result<()> {
        let write = self.file.write.ok_or(Errno::EACCES)?;
        write(&self.view, &self.reader, text)
    }
}

/// /proc/PID/clear_refs: referenced bits are the host's to keep.
struct Ignored;

impl Content for Ignored {
    fn generate(&self) -> Result<Vec<u8>> {
        Err(Errno::EINVAL)
    }

    fn store(&self, text: &[u8]) -> Result<()> {
        match parse_number(text)? {
            1..=5 => Ok(()),
            _ => Err(Errno::EINVAL),
        }
    }
}

fn line(value: impl std::fmt::Display) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

/// A number as settings take it: decimal, 0x or 0; EINVAL.
pub(super) fn parse_number(text: &[u8]) -> Result<i64> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let text = text.trim_matches(|character: char| character.is_ascii_whitespace() || character == '\0');
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let value = if let Some(hexadecimal) = digits.strip_prefix("0x") {
        i64::from_str_radix(hexadecimal, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    let value = value.map_err(|_| Errno::EINVAL)?;
    Ok(if negative { -value } else { value })
}

fn host_map(view: &View, name: &str) -> Vec<u8> {
    let Some(host) = view.host() else { return Vec::new() };
    let program = view.process.program.read();
    let landmarks = Landmarks { brk_start: program.brk_start, stack_top: program.stack_top };
    drop(program);
    let text = read_proc_of(host.pid, name).unwrap_or_default();
    guest_maps(&text, &view.kernel.mapped_names, landmarks)
}

/// A process sets its own only; once it is set, with CAP_AUDIT_CONTROL.
fn set_login(view: &View, writer: &Arc<Task>, text: &[u8]) -> Result<()> {
    let uid = u32::try_from(parse_number(text)?).map_err(|_| Errno::EINVAL)?;
    let mut login = view.process.login.write();
    let is_own = Arc::ptr_eq(&view.process, writer.process());
    if !is_own || login.uid != u32::MAX && !writer.credentials().has_capability(CAP_AUDIT_CONTROL) {
        return Err(Errno::EPERM);
    }
    let session = if uid == u32::MAX { u32::MAX } else { view.kernel.logins.fetch_add(1, Ordering::Relaxed).wrapping_add(1) };
    *login = Login { uid, session };
    Ok(())
}

fn oom_score_adj(view: &View) -> i32 {
    view.process.oom_score_adj.load(Ordering::Relaxed)
}

fn set_oom_score_adj(view: &View, writer: &Arc<Task>, value: i32) -> Result<()> {
    if !(-1000..=1000).contains(&value) {
        return Err(Errno::EINVAL);
    }
    if value < oom_score_adj(view) && !writer.credentials().has_capability(CAP_SYS_RESOURCE) {
        return Err(Errno::EACCES);
    }
    view.process.oom_score_adj.store(value, Ordering::Relaxed);
    Ok(())
}

/// Only the process itself may name its threads; at most 15 bytes are kept.
fn write_comm(view: &View, writer: &Arc<Task>, text: &[u8]) -> Result<()> {
    if !Arc::ptr_eq(writer.process(), &view.process) {
        return Err(Errno::EINVAL);
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len()).min(15);
    *view.task()?.name.write() = text[..end].to_vec();
    Ok(())
}

/// Guest memory from `start` to `end`, as far as it can be read.
fn strings(view: &View, start: u64, end: u64) -> Vec<u8> {
    let Ok(memory) = view.memory() else { return Vec::new() };
    let length = end.saturating_sub(start).min(STRINGS_MAX) as usize;
    let mut bytes = vec![0; length];
    let count = memory.read(start, &mut bytes);
    bytes.truncate(count);
    bytes
}

fn arguments(view: &View) -> Result<Vec<u8>> {
    let program = view.process.program.read();
    let (arguments, environment) = (program.arguments, program.environment);
    drop(program);
    let mut text = strings(view, arguments.0, arguments.1);
    if text.last().is_some_and(|&last| last != 0) {
        // A program that writes its title over its arguments may go on over the environment (setproctitle(3)).
        let end = if arguments.1 == environment.0 { environment.1 } else { arguments.1 };
        text = strings(view, arguments.0, end);
        let length = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
        text.truncate(length);
    }
    Ok(text)
}

fn environment(view: &View) -> Result<Vec<u8>> {
    let (start, end) = view.process.program.read().environment;
    Ok(strings(view, start, end))
}

fn auxiliary(view: &View) -> Result<Vec<u8>> {
    let program = view.process.program.read();
    let mut words: Vec<u64> = program.auxiliary.iter().flat_map(|&(kind, value)| [kind, value]).collect();
    if program.auxiliary.last().is_some_and(|&(kind, _)| kind != 0) {
        words.extend([0, 0]);
    }
    Ok(words.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_taken_as_linux_takes_them() {
        assert_eq!(parse_number(b"-17\n"), Ok(-17));
        assert_eq!(parse_number(b" 0x33 "), Ok(0x33));
        assert_eq!(parse_number(b"010"), Ok(8));
        assert_eq!(parse_number(b""), Err(Errno::EINVAL));
        assert_eq!(parse_number(b"1 2"), Err(Errno::EINVAL));
        assert_eq!(parse_number(b"99999999999999999999"), Err(Errno::EINVAL));
    }

    #[test]
    fn rows_have_different_names_and_numbers() {
        let mut names: Vec<&str> = FILES.iter().map(|file| file.name).chain(ITEMS.iter().map(|row| row.0)).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(FILES.len() < 250);
    }
}
