//! Owner, mode, times and extended attributes of files, and truncate(2) before Landlock's ABI 3. Landlock does not hold them, so
//! the agent is asked (seccomp notification): it finds the file as the program would, looks where that is, and does what was asked for to this very file,
//! by descriptor. What the program changes in its memory meanwhile changes nothing.

use super::landlock::Restriction;
use crate::calls::{name_of, SET_ID};
use crate::place::{find, Named};
use rustix::fs::{AtFlags, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, CWD, UTIME_NOW};
use rustix::io::Errno;
use skerry_control::FileRight;
use skerry_platform::listener::Notification;
use skerry_platform::memory::GuestMemory;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;

pub const LONGEST_PATH: usize = 4096;
const LONGEST_NAME: usize = 256;
const LONGEST_VALUE: usize = 65536;

/// What became of it, and which file it was about, as far as that was found.
pub struct Outcome {
    pub result: Result<(), Errno>,
    /// The rules do not grant it.
    pub denied: bool,
    pub path: Option<PathBuf>,
}

/// What is to be done to a file.
enum Change {
    Mode(Mode),
    Owner(Option<Uid>, Option<Gid>),
    Times(Timestamps),
    SetExtended { name: CString, value: Vec<u8>, flags: XattrFlags },
    RemoveExtended { name: CString },
    Size(u64),
}

impl Change {
    /// Where files may be written to they may be truncated.
    fn takes(&self) -> FileRight {
        match self {
            Change::Size(_) => FileRight::WriteFile,
            _ => FileRight::Attributes,
        }
    }
}

/// Serves one such call. `still_valid` says whether who asked still waits.
pub fn serve(asked: &Notification, restriction: Option<&Restriction>, still_valid: impl Fn() -> bool) -> Outcome {
    let memory = GuestMemory::of_pid(asked.tid);
    let failed = |error| Outcome { result: Err(error), denied: false, path: None };
    let (named, change) = match decode(asked, &memory) {
        Ok(decoded) => decoded,
        Err(error) => return failed(error),
    };
    // As its user: what that one does not reach, it does not name.
    let file = match as_its_user(asked.tid, || find(asked.tid, &named).map_err(|stopped| stopped.error)) {
        Ok(file) => file,
        Err(error) => return failed(error),
    };
    // Now that all is read: it was the memory and the descriptors of who asked, and of nobody with the same number.
    if !still_valid() {
        return failed(Errno::SRCH);
    }
    let path = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok();
    let set_id = matches!(&change, Change::Mode(mode) if u64::from(mode.as_raw_mode()) & SET_ID != 0);
    let granted = !set_id
        && restriction.is_none_or(|restriction| path.as_ref().is_some_and(|path| restriction.grants(path, &[change.takes()])));
    if !granted {
        return Outcome { result: Err(Errno::ACCESS), denied: true, path };
    }
    if let Change::Size(size) = change {
        // The limit is the program's (RLIMIT_FSIZE), not ours.
        if size > largest_file(asked.tid) {
            return Outcome { result: Err(Errno::FBIG), denied: false, path };
        }
    }
    Outcome { result: as_its_user(asked.tid, || apply(&file, &change)), denied: false, path }
}

/// What the call asks for.
fn decode(asked: &Notification, memory: &GuestMemory) -> Result<(Named, Change), Errno> {
    let [a, b, c, d, e, _] = asked.arguments;
    let here = |address: u64, follow: bool| {
        Ok::<_, Errno>(Named { directory: libc::AT_FDCWD, path: Some(text(memory, address, LONGEST_PATH)?), follow })
    };
    let open = |number: u64| Named { directory: number as i32, path: None, follow: true };
    let at = |directory: u64, address: u64, flags: u64, nothing_is_itself: bool| {
        let known = (libc::AT_SYMLINK_NOFOLLOW | libc::AT_EMPTY_PATH) as u64;
        if flags as u32 as u64 & !known != 0 {
            return Err(Errno::INVAL);
        }
        if address == 0 && nothing_is_itself {
            return Ok(open(directory));
        }
        let path = text(memory, address, LONGEST_PATH)?;
        let itself = path.is_empty() && flags & libc::AT_EMPTY_PATH as u64 != 0;
        let follow = flags & libc::AT_SYMLINK_NOFOLLOW as u64 == 0;
        Ok(Named { directory: directory as i32, path: (!itself).then_some(path), follow })
    };
    let mode = |bits: u64| Change::Mode(Mode::from_raw_mode(bits as u32 & 0o7777));
    let owner = |uid: u64, gid: u64| {
        let one = |id: u64| Some(id as u32).filter(|id| *id != u32::MAX);
        Change::Owner(one(uid).map(Uid::from_raw), one(gid).map(Gid::from_raw))
    };
    let extended = |name: u64, value: u64, size: u64, flags: u64| {
        let size = usize::try_from(size).ok().filter(|size| *size <= LONGEST_VALUE).ok_or(Errno::TOOBIG)?;
        let mut bytes = vec![0; size];
        if memory.read(value, &mut bytes) != size {
            return Err(Errno::FAULT);
        }
        let flags = XattrFlags::from_bits(flags as u32).ok_or(Errno::INVAL)?;
        Ok(Change::SetExtended { name: name_at(memory, name)?, value: bytes, flags })
    };
    let call = i64::from(asked.number);
    Ok(match call {
        libc::SYS_chmod => (here(a, true)?, mode(b)),
        libc::SYS_fchmod => (open(a), mode(b)),
        libc::SYS_fchmodat => (at(a, b, 0, false)?, mode(c)),
        libc::SYS_fchmodat2 => (at(a, b, d, false)?, mode(c)),
        libc::SYS_chown => (here(a, true)?, owner(b, c)),
        libc::SYS_lchown => (here(a, false)?, owner(b, c)),
        libc::SYS_fchown => (open(a), owner(b, c)),
        libc::SYS_fchownat => (at(a, b, e, false)?, owner(c, d)),
        libc::SYS_utime => (here(a, true)?, Change::Times(times(memory, b, Unit::Seconds)?)),
        libc::SYS_utimes => (here(a, true)?, Change::Times(times(memory, b, Unit::Microseconds)?)),
        libc::SYS_futimesat => (at(a, b, 0, true)?, Change::Times(times(memory, c, Unit::Microseconds)?)),
        libc::SYS_utimensat => (at(a, b, d, true)?, Change::Times(times(memory, c, Unit::Nanoseconds)?)),
        libc::SYS_setxattr => (here(a, true)?, extended(b, c, d, e)?),
        libc::SYS_lsetxattr => (here(a, false)?, extended(b, c, d, e)?),
        libc::SYS_fsetxattr => (open(a), extended(b, c, d, e)?),
        libc::SYS_removexattr => (here(a, true)?, Change::RemoveExtended { name: name_at(memory, b)? }),
        libc::SYS_lremovexattr => (here(a, false)?, Change::RemoveExtended { name: name_at(memory, b)? }),
        libc::SYS_fremovexattr => (open(a), Change::RemoveExtended { name: name_at(memory, b)? }),
        libc::SYS_truncate => (here(a, true)?, Change::Size(u64::try_from(b as i64).map_err(|_| Errno::INVAL)?)),
        _ => {
            eprintln!("skerry-agent: nobody serves {}", name_of(asked.number));
            return Err(Errno::NOSYS);
        }
    })
}

/// A string of the program's, without its end.
pub fn text(memory: &GuestMemory, address: u64, longest: usize) -> Result<Vec<u8>, Errno> {
    let mut bytes = vec![0; longest];
    let count = memory.read(address, &mut bytes);
    bytes.truncate(count);
    match bytes.iter().position(|byte| *byte == 0) {
        Some(end) => bytes.truncate(end),
        None if count < longest => return Err(Errno::FAULT),
        None => return Err(Errno::NAMETOOLONG),
    }
    Ok(bytes)
}

fn name_at(memory: &GuestMemory, address: u64) -> Result<CString, Errno> {
    CString::new(text(memory, address, LONGEST_NAME)?).map_err(|_| Errno::INVAL)
}

enum Unit {
    Seconds,
    Microseconds,
    Nanoseconds,
}

/// Two times: of the last access, and of the last change.
fn times(memory: &GuestMemory, address: u64, unit: Unit) -> Result<Timestamps, Errno> {
    if address == 0 {
        let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
        return Ok(Timestamps { last_access: now, last_modification: now });
    }
    let words = if matches!(unit, Unit::Seconds) { 2 } else { 4 };
    let mut bytes = [0u8; 32];
    let bytes = bytes.get_mut(..words * 8).ok_or(Errno::INVAL)?;
    if memory.read(address, bytes) != bytes.len() {
        return Err(Errno::FAULT);
    }
    let words: Vec<i64> = bytes.chunks_exact(8).map(|word| i64::from_ne_bytes(word.try_into().unwrap_or_default())).collect();
    let one = |seconds: i64, rest: i64| match unit {
        Unit::Seconds => Ok(Timespec { tv_sec: seconds, tv_nsec: 0 }),
        Unit::Microseconds if !(0..1_000_000).contains(&rest) => Err(Errno::INVAL),
        Unit::Microseconds => Ok(Timespec { tv_sec: seconds, tv_nsec: rest * 1000 }),
        Unit::Nanoseconds => Ok(Timespec { tv_sec: seconds, tv_nsec: rest }),
    };
    match words[..] {
        [access, change] => Ok(Timestamps { last_access: one(access, 0)?, last_modification: one(change, 0)? }),
        [seconds, rest, change_seconds, change_rest] => {
            Ok(Timestamps { last_access: one(seconds, rest)?, last_modification: one(change_seconds, change_rest)? })
        }
        _ => Err(Errno::INVAL),
    }
}

fn apply(file: &OwnedFd, change: &Change) -> Result<(), Errno> {
    // A descriptor that is only a place: by its name in /proc; links themselves by the descriptor.
    let kind = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(file)?.st_mode);
    let link = kind.is_symlink();
    let name = format!("/proc/self/fd/{}", file.as_raw_fd());
    match change {
        Change::Mode(_) if link => Err(Errno::OPNOTSUPP),
        Change::Mode(mode) => rustix::fs::chmod(&name, *mode),
        Change::Owner(uid, gid) => rustix::fs::chownat(file, "", *uid, *gid, AtFlags::EMPTY_PATH),
        Change::Times(times) if link => rustix::fs::utimensat(file, "", times, AtFlags::EMPTY_PATH),
        Change::Times(times) => rustix::fs::utimensat(CWD, &name, times, AtFlags::empty()),
        Change::SetExtended { .. } | Change::RemoveExtended { .. } if link => Err(Errno::PERM),
        Change::SetExtended { name: attribute, value, flags } => rustix::fs::setxattr(&name, attribute, value, *flags),
        Change::RemoveExtended { name: attribute } => rustix::fs::removexattr(&name, attribute),
        Change::Size(_) if kind.is_dir() => Err(Errno::ISDIR),
        // Opening another thing than a file may wait, or do something.
        Change::Size(_) if !kind.is_file() => Err(Errno::INVAL),
        Change::Size(size) => {
            let opened = rustix::fs::open(&name, OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty())?;
            rustix::fs::ftruncate(opened, *size)
        }
    }
}

/// With the rights over files of the program's own user, and no capability that it does not have.
fn as_its_user<T>(thread: i32, act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    use rustix::thread::{CapabilitySet, CapabilitySets};
    let all = rustix::thread::capabilities(None)?;
    let ids = ids_of(thread).ok_or(Errno::SRCH)?;
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if ids.user == ours && all.effective.is_empty() {
        return act();
    }
    skerry_platform::agent::set_file_ids(ids.user);
    // What a program has hidden of itself (PR_SET_DUMPABLE) is still found.
    let effective = (ids.effective | CapabilitySet::SYS_PTRACE) & all.permitted;
    let lowered = rustix::thread::set_capabilities(None, CapabilitySets { effective, ..all });
    let result = lowered.and_then(|()| act());
    let restored = rustix::thread::set_capabilities(None, all);
    skerry_platform::agent::set_file_ids(ours);
    restored.and(result)
}

/// Bytes that a file of the program's may have; none where that cannot be told.
fn largest_file(thread: i32) -> u64 {
    let limits = std::fs::read_to_string(format!("/proc/{thread}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max file size"));
    match line.and_then(|line| line.split_ascii_whitespace().next()) {
        Some("unlimited") => u64::MAX,
        Some(soft) => soft.parse().unwrap_or(0),
        None => 0,
    }
}

struct Ids {
    /// For access to files.
    user: (u32, u32),
    effective: rustix::thread::CapabilitySet,
}

fn ids_of(thread: i32) -> Option<Ids> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
    let for_files = |name: &str| line(name)?.split_ascii_whitespace().nth(3)?.parse().ok();
    let effective = u64::from_str_radix(line("CapEff:")?.trim(), 16).ok()?;
    Some(Ids {
        user: (for_files("Uid:")?, for_files("Gid:")?),
        effective: rustix::thread::CapabilitySet::from_bits_retain(effective),
    })
}
