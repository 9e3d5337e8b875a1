//! What is told of denials that the host's kernel makes by itself and tells nobody of: files and ports that Landlock holds,
//! places that are not mounted, signals to others. Only where somebody listens (`observe`): then the agent is asked before each
//! call that could be denied, compares what it names with the rules, tells, and lets the host carry the call out. The host's
//! kernel stays the wall: who changes the names meanwhile makes us tell something else, and gains nothing.

use crate::guest::{Engine, Guest};
use crate::place::{find, is_there, Named, Stopped};
use crate::rules::attributes::{text, LONGEST_PATH};
use crate::rules::{reach, sockets};
use rustix::fs::FileType;
use rustix::io::Errno;
use rustix::process::{pidfd_getfd, pidfd_open, Pid, PidfdFlags, PidfdGetfdFlags};
use skerry_control::{Access, Boot, Bytes, FileRight, Network, Observe, Observed, Ports};
use skerry_platform::listener::{Listener, Notification};
use skerry_platform::memory::GuestMemory;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

/// Calls about files that may be denied in either engine.
#[rustfmt::skip]
const FILES: &[libc::c_long] = &[
    libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_creat, libc::SYS_truncate, libc::SYS_execve, libc::SYS_execveat,
    libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_mknod, libc::SYS_mknodat, libc::SYS_symlink, libc::SYS_symlinkat,
    libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_rmdir, libc::SYS_rename, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_link, libc::SYS_linkat,
];

/// Where what is not shown is not there: looking at it, too; and changing what is there read-only.
#[rustfmt::skip]
const LOOKS: &[libc::c_long] = &[
    libc::SYS_stat, libc::SYS_lstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_access, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_chdir, libc::SYS_statfs,
    libc::SYS_chmod, libc::SYS_fchmodat, libc::SYS_chown, libc::SYS_lchown, libc::SYS_fchownat, libc::SYS_utimensat,
];

/// Calls that name an address.
const ADDRESSES: &[libc::c_long] = &[libc::SYS_connect, libc::SYS_bind, libc::SYS_sendto, libc::SYS_sendmsg];

/// Calls about another process: where its number is.
const PROCESSES: &[libc::c_long] = &[
    libc::SYS_kill,
    libc::SYS_tkill,
    libc::SYS_tgkill,
    libc::SYS_rt_sigqueueinfo,
    libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_ptrace,
];

/// Different reports that are made at the most: what a guest can make up is bounded.
const MOST: usize = 1 << 14;

/// The calls that are asked for in an engine.
pub fn calls(engine: Engine) -> Vec<libc::c_long> {
    let own = match engine {
        Engine::Namespace | Engine::Guest => LOOKS,
        Engine::Rules => PROCESSES,
    };
    [FILES, ADDRESSES, own].concat()
}

/// Whether somebody listens.
pub fn wanted(boot: &Boot) -> bool {
    boot.observe != Observe::Nothing
}

/// What the guest has, as data.
pub struct Watch {
    pub network: Network,
    pub ports: Option<Ports>,
    /// File systems of our own making, by device: what is missing there may be on the host.
    pub made: Vec<u64>,
}

/// What has been told already.
#[derive(Default)]
pub struct Told(HashSet<u64>);

impl Told {
    /// Once for each difference.
    pub fn is_new(&mut self, report: &Observed) -> bool {
        let mut hasher = DefaultHasher::new();
        let path = report.path.as_ref().map(|path| &path.0);
        (report.number, report.access, path, &report.address, report.errno).hash(&mut hasher);
        self.0.len() < MOST && self.0.insert(hasher.finish())
    }
}

/// What a program wants of a file.
#[derive(Clone, Copy)]
enum Wish {
    Open(i32),
    Execute,
    Truncate,
    /// A new entry.
    Make(FileRight),
    /// An entry's end.
    Remove,
    Look,
    Change,
}

impl Wish {
    fn access(self) -> Access {
        match self {
            Wish::Open(flags) if flags & libc::O_ACCMODE == libc::O_RDONLY && flags & (libc::O_CREAT | libc::O_TRUNC) == 0 => {
                Access::Read
            }
            Wish::Execute => Access::Execute,
            Wish::Look => Access::Look,
            _ => Access::Write,
        }
    }
}

/// What the rules, or the lack of a mount, will make of a call; nothing where they let it pass.
pub fn look(asked: &Notification, listener: &Listener, guest: &Guest, watch: &Watch) -> Vec<Observed> {
    let number = i64::from(asked.number);
    let memory = GuestMemory::of_pid(asked.tid);
    let mut found = Vec::new();
    if ADDRESSES.contains(&number) {
        found.extend(address(asked, listener, watch, &memory));
    } else if PROCESSES.contains(&number) {
        found.extend(process(asked, guest));
    } else {
        for (named, wish) in wishes(asked, &memory).unwrap_or_default() {
            if let Some(errno) = denial(asked.tid, &named, wish, guest, watch) {
                let path = absolute(asked.tid, &named);
                found.push(report(asked, Some(wish.access()), path, None, errno));
            }
        }
    }
    // It was the memory, and were the descriptors, of who asked, and of nobody with the same number.
    if !listener.is_valid(asked.id) {
        found.clear();
    }
    found
}

fn report(
    asked: &Notification,
    access: Option<Access>,
    path: Option<PathBuf>,
    address: Option<String>,
    errno: Errno,
) -> Observed {
    let name = std::fs::read(format!("/proc/{}/comm", asked.tid)).unwrap_or_default();
    Observed {
        process: reach::process_of(asked.tid).unwrap_or(asked.tid) as u32,
        program: Bytes(name.trim_ascii_end().to_vec()),
        name: crate::calls::name_of(asked.number),
        number: asked.number.into(),
        access,
        path: path.map(|path| Bytes(path.as_os_str().as_bytes().to_vec())),
        address,
        errno: Some(errno.raw_os_error()),
    }
}

/// As named, from the root: links are not followed.
fn absolute(thread: i32, named: &Named) -> Option<PathBuf> {
    let path = Path::new(OsStr::from_bytes(named.path.as_deref()?));
    if path.is_absolute() {
        return Some(path.to_owned());
    }
    let of = match named.directory {
        libc::AT_FDCWD => "cwd".to_owned(),
        number => format!("fd/{number}"),
    };
    Some(std::fs::read_link(format!("/proc/{thread}/{of}")).ok()?.join(path))
}

/// The files that a call names, and what for.
fn wishes(asked: &Notification, memory: &GuestMemory) -> Result<Vec<(Named, Wish)>, Errno> {
    let [a, b, c, d, e, _] = asked.arguments;
    let here = libc::AT_FDCWD as u64;
    let at = |directory: u64, address: u64, wish: Wish, follow: bool| {
        let path = text(memory, address, LONGEST_PATH)?;
        Ok::<_, Errno>((Named { directory: directory as i32, path: Some(path), follow }, wish))
    };
    let open = |directory, address, flags: u64| {
        let flags = flags as i32;
        let follow = flags & libc::O_NOFOLLOW == 0 && flags & (libc::O_CREAT | libc::O_EXCL) != libc::O_CREAT | libc::O_EXCL;
        at(directory, address, Wish::Open(flags), follow)
    };
    let node = |mode: u64| match mode as u32 & libc::S_IFMT {
        libc::S_IFCHR => FileRight::MakeChar,
        libc::S_IFBLK => FileRight::MakeBlock,
        libc::S_IFIFO => FileRight::MakeFifo,
        libc::S_IFSOCK => FileRight::MakeSock,
        _ => FileRight::MakeReg,
    };
    let follows = |flags: u64| flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0;
    let moved = |from: (u64, u64), to: (u64, u64)| {
        Ok::<_, Errno>(vec![at(from.0, from.1, Wish::Remove, false)?, at(to.0, to.1, Wish::Make(FileRight::MakeReg), false)?])
    };
    let number = i64::from(asked.number);
    let one = match number {
        libc::SYS_rename => return moved((here, a), (here, b)),
        libc::SYS_renameat | libc::SYS_renameat2 => return moved((a, b), (c, d)),
        libc::SYS_open => open(here, a, b),
        libc::SYS_openat => open(a, b, c),
        libc::SYS_openat2 => {
            let mut flags = [0; 8];
            if memory.read(c, &mut flags) != flags.len() {
                return Err(Errno::FAULT);
            }
            open(a, b, u64::from_ne_bytes(flags))
        }
        libc::SYS_creat => open(here, a, (libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY) as u64),
        libc::SYS_truncate => at(here, a, Wish::Truncate, true),
        libc::SYS_execve => at(here, a, Wish::Execute, true),
        libc::SYS_execveat => at(a, b, Wish::Execute, follows(e)),
        libc::SYS_mkdir => at(here, a, Wish::Make(FileRight::MakeDir), false),
        libc::SYS_mkdirat => at(a, b, Wish::Make(FileRight::MakeDir), false),
        libc::SYS_mknod => at(here, a, Wish::Make(node(b)), false),
        libc::SYS_mknodat => at(a, b, Wish::Make(node(c)), false),
        libc::SYS_symlink => at(here, b, Wish::Make(FileRight::MakeSym), false),
        libc::SYS_symlinkat => at(b, c, Wish::Make(FileRight::MakeSym), false),
        libc::SYS_link => at(here, b, Wish::Make(FileRight::MakeReg), false),
        libc::SYS_linkat => at(c, d, Wish::Make(FileRight::MakeReg), false),
        libc::SYS_unlink | libc::SYS_rmdir => at(here, a, Wish::Remove, false),
        libc::SYS_unlinkat => at(a, b, Wish::Remove, false),
        libc::SYS_stat | libc::SYS_access | libc::SYS_chdir | libc::SYS_statfs => at(here, a, Wish::Look, true),
        libc::SYS_lstat | libc::SYS_readlink => at(here, a, Wish::Look, false),
        libc::SYS_newfstatat => at(a, b, Wish::Look, follows(d)),
        libc::SYS_statx => at(a, b, Wish::Look, follows(c)),
        libc::SYS_faccessat => at(a, b, Wish::Look, true),
        libc::SYS_faccessat2 => at(a, b, Wish::Look, follows(d)),
        libc::SYS_readlinkat => at(a, b, Wish::Look, false),
        libc::SYS_chmod | libc::SYS_chown => at(here, a, Wish::Change, true),
        libc::SYS_lchown => at(here, a, Wish::Change, false),
        libc::SYS_fchmodat => at(a, b, Wish::Change, true),
        libc::SYS_fchownat => at(a, b, Wish::Change, follows(e)),
        libc::SYS_utimensat if b != 0 => at(a, b, Wish::Change, follows(d)),
        _ => return Ok(Vec::new()),
    };
    // An empty name is of an open descriptor, whose own opening has told.
    one.map(|one| if one.0.path.as_deref() == Some(b"") { Vec::new() } else { vec![one] })
}

/// What will become of it.
fn denial(thread: i32, named: &Named, wish: Wish, guest: &Guest, watch: &Watch) -> Option<Errno> {
    let found = find(thread, named);
    match guest.engine {
        Engine::Rules => denied_by_rules(found, wish, guest),
        Engine::Namespace | Engine::Guest => not_shown(found, wish, watch, guest),
    }
}

fn denied_by_rules(found: Result<OwnedFd, Stopped>, wish: Wish, guest: &Guest) -> Option<Errno> {
    let restriction = guest.restriction.as_ref()?;
    // Changes of entries are rights on the directory.
    let (file, rights) = match (found, wish) {
        (_, Wish::Look | Wish::Change) => return None,
        (Ok(_), Wish::Make(_)) => return None,
        (Err(Stopped { error: Errno::NOENT, directory, is_last: true }), Wish::Make(right)) => (directory?, vec![right]),
        (Err(Stopped { error: Errno::NOENT, directory, is_last: true }), Wish::Open(flags)) if flags & libc::O_CREAT != 0 => {
            (directory?, vec![FileRight::MakeReg])
        }
        (Err(_), _) => return None,
        (Ok(file), Wish::Remove) => {
            let right = if kind_of(&file)?.is_dir() { FileRight::RemoveDir } else { FileRight::RemoveFile };
            (file, vec![right])
        }
        (Ok(file), Wish::Execute) => (file, vec![FileRight::Execute]),
        (Ok(file), Wish::Truncate) => (file, vec![FileRight::Truncate]),
        (Ok(file), Wish::Open(flags)) => {
            let rights = rights_to_open(flags, kind_of(&file)?);
            (file, rights)
        }
    };
    let mut path = path_of(&file)?;
    if matches!(wish, Wish::Remove) {
        path.pop();
    }
    (!restriction.grants(&path, &rights)).then_some(Errno::ACCESS)
}

/// Landlock's rights that opening a file takes.
fn rights_to_open(flags: i32, kind: FileType) -> Vec<FileRight> {
    let mut rights = Vec::new();
    if flags & libc::O_PATH != 0 {
        return rights;
    }
    let mode = flags & libc::O_ACCMODE;
    if mode == libc::O_RDONLY || mode == libc::O_RDWR {
        rights.push(if kind.is_dir() { FileRight::ReadDir } else { FileRight::ReadFile });
    }
    if mode != libc::O_RDONLY {
        rights.push(FileRight::WriteFile);
    }
    if flags & libc::O_TRUNC != 0 && kind.is_file() {
        rights.push(FileRight::Truncate);
    }
    rights
}

fn kind_of(file: &OwnedFd) -> Option<FileType> {
    Some(FileType::from_raw_mode(rustix::fs::fstat(file).ok()?.st_mode))
}

fn path_of(file: &OwnedFd) -> Option<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()
}

/// Where the tree is the guest's own: what is missing where we have made the place, what is mounted read-only, and programs that
/// Landlock keeps from starting.
fn not_shown(found: Result<OwnedFd, Stopped>, wish: Wish, watch: &Watch, guest: &Guest) -> Option<Errno> {
    let read_only = |file: &OwnedFd| {
        rustix::fs::fstatvfs(file).is_ok_and(|state| state.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    };
    let of_ours = |file: &OwnedFd| rustix::fs::fstat(file).is_ok_and(|stat| watch.made.contains(&stat.st_dev));
    match found {
        Err(Stopped { error: error @ (Errno::NOENT | Errno::NOTDIR | Errno::ACCESS), directory: Some(directory), is_last }) => {
            let creates = match wish {
                Wish::Make(_) => true,
                Wish::Open(flags) => flags & libc::O_CREAT != 0,
                _ => false,
            };
            if is_last && creates {
                return read_only(&directory).then_some(Errno::ROFS);
            }
            (of_ours(&directory) && is_there(directory.as_fd(), b".")).then_some(error)
        }
        Err(_) => None,
        Ok(file) => {
            let stat = rustix::fs::fstat(&file).ok()?;
            let path = path_of(&file)?;
            // What hides a file.
            let hides = FileType::from_raw_mode(stat.st_mode).is_char_device()
                && stat.st_rdev == rustix::fs::makedev(1, 3)
                && !path.starts_with("/dev");
            if hides {
                return Some(Errno::NOENT);
            }
            let writes = match wish {
                Wish::Open(flags) => flags & libc::O_ACCMODE != libc::O_RDONLY || flags & libc::O_TRUNC != 0,
                Wish::Truncate | Wish::Remove | Wish::Change => true,
                Wish::Execute => {
                    let restriction = guest.restriction.as_ref()?;
                    return (!restriction.grants(&path, &[FileRight::Execute])).then_some(Errno::ACCESS);
                }
                Wish::Make(_) | Wish::Look => false,
            };
            let plain = matches!(
                FileType::from_raw_mode(stat.st_mode),
                FileType::RegularFile | FileType::Directory | FileType::Symlink
            );
            (writes && plain && read_only(&file)).then_some(Errno::ROFS)
        }
    }
}

/// The address of a call, if it cannot be reached or taken.
fn address(asked: &Notification, listener: &Listener, watch: &Watch, memory: &GuestMemory) -> Option<Observed> {
    let [_, b, c, _, e, f] = asked.arguments;
    let number = i64::from(asked.number);
    let (at, length) = match number {
        libc::SYS_sendto => (e, f),
        libc::SYS_sendmsg => {
            let mut head = [0; 12];
            if memory.read(b, &mut head) != head.len() {
                return None;
            }
            let (at, length) = head.split_at(8);
            (u64::from_ne_bytes(at.try_into().ok()?), u32::from_ne_bytes(length.try_into().ok()?).into())
        }
        _ => (b, c),
    };
    if at == 0 || length == 0 {
        return None;
    }
    let address = sockets::address_at(asked, listener, at, length).ok()??;
    let protocol = protocol_of(asked)?;
    let access = if number == libc::SYS_bind { Access::Bind } else { Access::Connect };
    let errno = refusal(address, access, protocol, watch)?;
    Some(report(asked, Some(access), None, Some(format!("{protocol}:{address}")), errno))
}

fn refusal(address: SocketAddr, access: Access, protocol: &str, watch: &Watch) -> Option<Errno> {
    let binds = access == Access::Bind;
    let ip = address.ip().to_canonical();
    // What a gateway denies, it tells.
    let reachable = ip.is_loopback() || ip.is_unspecified() || watch.network == Network::User;
    if watch.network == Network::None && !(binds && ip.is_unspecified()) || !reachable {
        return Some(if binds { Errno::ADDRNOTAVAIL } else { Errno::NETUNREACH });
    }
    let ports = watch.ports.as_ref()?;
    let listed = match (protocol, binds) {
        ("tcp", true) => &ports.bind_tcp,
        ("tcp", false) => &ports.connect_tcp,
        (_, true) => &ports.bind_udp,
        (_, false) => &ports.connect_udp,
    };
    (!listed.contains(&address.port())).then_some(Errno::ACCESS)
}

fn protocol_of(asked: &Notification) -> Option<&'static str> {
    let process = pidfd_open(Pid::from_raw(reach::process_of(asked.tid)?)?, PidfdFlags::empty()).ok()?;
    let socket = pidfd_getfd(&process, asked.arguments[0] as i32, PidfdGetfdFlags::empty()).ok()?;
    let kind = rustix::net::sockopt::socket_type(&socket).ok()?;
    Some(if kind == rustix::net::SocketType::STREAM { "tcp" } else { "udp" })
}

/// Another process that is there and is none of the guest's.
fn process(asked: &Notification, guest: &Guest) -> Option<Observed> {
    let [a, b, ..] = asked.arguments;
    let target = match i64::from(asked.number) {
        // PTRACE_ATTACH, PTRACE_SEIZE: others are about who is traced already.
        libc::SYS_ptrace if !matches!(a, 16 | 0x4206) => return None,
        libc::SYS_ptrace => b,
        _ => a,
    } as i32;
    let is_there = target > 0 && reach::process_of(target).is_some();
    (is_there && !reach::is_inside(guest.everybody, target)).then(|| report(asked, None, None, None, Errno::PERM))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_are_refused_as_the_host_will() {
        let ports = Ports { connect_tcp: vec![80], bind_tcp: vec![0], ..Ports::default() };
        let loopback = Watch { network: Network::Loopback, ports: Some(ports), made: Vec::new() };
        let refused = |text, access, protocol| refusal(address(text), access, protocol, &loopback);
        assert_eq!(refused("127.0.0.1:80", Access::Connect, "tcp"), None);
        assert_eq!(refused("[::ffff:127.0.0.1]:80", Access::Connect, "tcp"), None);
        assert_eq!(refused("127.0.0.1:81", Access::Connect, "tcp"), Some(Errno::ACCESS));
        assert_eq!(refused("127.0.0.1:80", Access::Connect, "udp"), Some(Errno::ACCESS));
        assert_eq!(refused("192.0.2.1:80", Access::Connect, "tcp"), Some(Errno::NETUNREACH));
        assert_eq!(refused("0.0.0.0:0", Access::Bind, "tcp"), None);
        assert_eq!(refused("192.0.2.1:0", Access::Bind, "tcp"), Some(Errno::ADDRNOTAVAIL));
        let none = Watch { network: Network::None, ports: None, made: Vec::new() };
        assert_eq!(refusal(address("127.0.0.1:80"), Access::Connect, "tcp", &none), Some(Errno::NETUNREACH));
        assert_eq!(refusal(address("0.0.0.0:80"), Access::Bind, "tcp", &none), None);
    }

    #[test]
    fn what_opening_takes() {
        let of = |flags, kind| rights_to_open(flags, kind);
        assert_eq!(of(libc::O_RDONLY, FileType::Directory), [FileRight::ReadDir]);
        assert_eq!(of(libc::O_RDWR, FileType::RegularFile), [FileRight::ReadFile, FileRight::WriteFile]);
        assert_eq!(of(libc::O_WRONLY | libc::O_TRUNC, FileType::RegularFile), [FileRight::WriteFile, FileRight::Truncate]);
        assert!(of(libc::O_PATH | libc::O_RDWR, FileType::RegularFile).is_empty());
    }

    #[test]
    fn a_report_is_made_once() {
        let mut told = Told::default();
        let report = |path: &str| Observed {
            process: 1,
            program: Bytes(Vec::new()),
            name: "openat".into(),
            number: 257,
            access: Some(Access::Read),
            path: Some(path.into()),
            address: None,
            errno: Some(2),
        };
        assert!(told.is_new(&report("/a")) && !told.is_new(&report("/a")) && told.is_new(&report("/b")));
        let made = (0..2 * MOST).filter(|number| told.is_new(&report(&number.to_string()))).count();
        assert_eq!(made, MOST - 2);
    }
}
