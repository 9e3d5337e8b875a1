//! New threads and processes, and new programs: clone(2), fork(2), vfork(2), execve(2), execveat(2).

use super::UserAddress;
use crate::context::{After, ClonePlan};
use crate::fs::walk::{self, AllowEmpty, Follow, Target};
use crate::run::{self, Execution};
use crate::syscall::path::note_absence;
use crate::task::{self, CloneRequest};
use crate::{Context, Errno, Result};
use skerry_abi::raw::general as linux;
use skerry_platform::layout;

/// Arguments or environment strings that one execve(2) may have: with MAX_ARG_STRINGS Linux has no other bound than the
/// size, and a pointer counts towards that.
const MAXIMUM_STRINGS: usize = (6 << 20) / 8;
const PAGE: u64 = 4096;

/// What clone(2) and clone3(2) ask for; see clone3(2) for the fields.
struct CloneArguments {
    flags: u64,
    exit_signal: i32,
    pidfd: u64,
    parent_tid: u64,
    child_tid: u64,
    /// The stack pointer to begin with; 0: the caller's.
    stack: u64,
    tls: u64,
}

/// clone(2), as x86-64 orders its arguments.
pub fn clone(context: &mut Context, flags: u64, stack: u64, parent_tid: u64, child_tid: u64, tls: u64) -> Result<u64> {
    // The upper half is not looked at (clone(2) takes 32 bits of flags).
    let flags = flags & 0xffff_ffff;
    if flags & u64::from(linux::CLONE_PIDFD) != 0 && flags & u64::from(linux::CLONE_PARENT_SETTID) != 0 {
        return Err(Errno::EINVAL);
    }
    let exit_signal = (flags & u64::from(linux::CSIGNAL)) as i32;
    let flags = flags & !u64::from(linux::CSIGNAL);
    start(context, CloneArguments { flags, exit_signal, pidfd: parent_tid, parent_tid, child_tid, stack, tls })
}

/// clone3(2): EINVAL on unknown flags and on a stack without a size, E2BIG on fields that are unknown here, EPERM for
/// chosen ids, EOPNOTSUPP for a cgroup to begin in.
pub fn clone3(context: &mut Context, address: UserAddress, size: u64) -> Result<u64> {
    const FIRST_SIZE: u64 = 64;
    const FIELDS: usize = 11;
    const CLEAR_SIGHAND: u64 = 1 << 32;
    const INTO_CGROUP: u64 = 1 << 33;
    if size > PAGE {
        return Err(Errno::E2BIG);
    }
    if size < FIRST_SIZE {
        return Err(Errno::EINVAL);
    }
    let mut words = [0u64; PAGE as usize / 8];
    context.read_bytes(address.0, &mut zerocopy::IntoBytes::as_mut_bytes(&mut words)[..size as usize])?;
    if words[FIELDS..].iter().any(|word| *word != 0) {
        return Err(Errno::E2BIG);
    }
    let [flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, _set_tid, set_tid_size, _cgroup] =
        *words.first_chunk::<FIELDS>().expect("there are more");
    let has = |flag: u32| flags & u64::from(flag) != 0;
    let unknown =
        u64::from(linux::CLONE_DETACHED) | u64::from(linux::CSIGNAL) | !(u64::from(u32::MAX) | CLEAR_SIGHAND | INTO_CGROUP);
    let shares_and_clears = has(linux::CLONE_SIGHAND) && flags & CLEAR_SIGHAND != 0;
    let signals_nobody = (has(linux::CLONE_THREAD) || has(linux::CLONE_PARENT)) && exit_signal != 0;
    if flags & unknown != 0 || shares_and_clears || signals_nobody || exit_signal > 64 || (stack == 0) != (stack_size == 0) {
        return Err(Errno::EINVAL);
    }
    if stack.checked_add(stack_size).is_none_or(|top| top > super::memory::ADDRESS_END) {
        return Err(Errno::EINVAL);
    }
    if set_tid_size != 0 {
        return Err(Errno::EPERM);
    }
    if flags & INTO_CGROUP != 0 {
        return Err(Errno::EOPNOTSUPP);
    }
    let stack = stack + stack_size;
    start(context, CloneArguments { flags, exit_signal: exit_signal as i32, pidfd, parent_tid, child_tid, stack, tls })
}

fn start(context: &mut Context, arguments: CloneArguments) -> Result<u64> {
    let CloneArguments { flags, exit_signal, pidfd, parent_tid, child_tid, stack, tls } = arguments;
    let request = CloneRequest { flags, exit_signal, child_tid };
    let has = |flag: u32| flags & u64::from(flag) != 0;
    if has(linux::CLONE_PIDFD) && has(linux::CLONE_THREAD) {
        return Err(Errno::EINVAL);
    }
    crate::signal::take_over_reset(context.task);
    if has(linux::CLONE_SIGHAND) {
        context.task.signals.lock().tell_alone(false);
    }
    let child = task::clone_task(context, &request)?;
    let host_flags = if has(linux::CLONE_THREAD) {
        layout::CLONE_THREAD
    } else if has(linux::CLONE_VM) {
        layout::CLONE_VFORK
    } else {
        layout::CLONE_PROCESS
    };
    if has(linux::CLONE_PIDFD) {
        if let Err(error) = give_pidfd(context, &child, pidfd) {
            task::discard_clone(&child);
            return Err(error);
        }
    }
    let only = |flag: u32, value: u64| if has(flag) { value } else { 0 };
    context.after = After::Clone(Box::new(ClonePlan {
        host_flags,
        stack,
        tls: only(linux::CLONE_SETTLS, tls),
        clear_child_tid: only(linux::CLONE_CHILD_CLEARTID, child_tid),
        set_child_tid: only(linux::CLONE_CHILD_SETTID, child_tid),
        set_parent_tid: only(linux::CLONE_PARENT_SETTID, parent_tid),
        vfork: has(linux::CLONE_VFORK),
        child,
    }));
    Ok(0)
}

/// CLONE_PIDFD: a descriptor for the child, stored where CLONE_PARENT_SETTID would store the id.
fn give_pidfd(context: &mut Context, child: &std::sync::Arc<task::Task>, address: u64) -> Result<()> {
    use crate::event::pidfd::PidFd;
    use crate::fs::file::{OpenFile, StatusFlags};
    let object = std::sync::Arc::new(PidFd::new(child.process().clone()));
    let fd = context.install(OpenFile::new(object, StatusFlags::RDWR, None), true)?;
    context.write(address, &fd).inspect_err(|_| {
        let _ = context.task.files().remove(fd);
    })
}

/// fork(2).
pub fn fork(context: &mut Context) -> Result<u64> {
    clone(context, skerry_abi::signal::Signal::SIGCHLD.number() as u64, 0, 0, 0, 0)
}

/// vfork(2).
pub fn vfork(context: &mut Context) -> Result<u64> {
    let flags = linux::CLONE_VFORK | linux::CLONE_VM | skerry_abi::signal::Signal::SIGCHLD.number() as u32;
    clone(context, flags.into(), 0, 0, 0, 0)
}

/// execve(2).
pub fn execve(context: &mut Context, path: UserAddress, arguments: UserAddress, environment: UserAddress) -> Result<()> {
    execveat(context, linux::AT_FDCWD, path, arguments, environment, 0)
}

/// execveat(2). EINVAL on unknown flags, ELOOP for a link with AT_SYMLINK_NOFOLLOW.
pub fn execveat(
    context: &mut Context,
    dirfd: i32,
    path: UserAddress,
    arguments: UserAddress,
    environment: UserAddress,
    flags: u32,
) -> Result<()> {
    if flags & !(linux::AT_EMPTY_PATH | linux::AT_SYMLINK_NOFOLLOW) != 0 {
        return Err(Errno::EINVAL);
    }
    let name = context.read_path(path.0)?;
    let follow = if flags & linux::AT_SYMLINK_NOFOLLOW != 0 { Follow::No } else { Follow::Yes };
    let allow_empty = if flags & linux::AT_EMPTY_PATH != 0 { AllowEmpty::Yes } else { AllowEmpty::No };
    let found = walk::resolve_at(context.task, dirfd, &name, follow, allow_empty);
    note_absence(context, &name, &found);
    let path = match found? {
        Target::Path(path) => path,
        // A memfd has no place of its own.
        Target::File(file) => file.path.clone().unwrap_or_else(|| crate::fs::anonymous::path_of(context.kernel(), file)),
    };
    if follow == Follow::No && path.inode().kind() == crate::fs::inode::FileType::Symlink {
        return Err(Errno::ELOOP);
    }
    let arguments = read_strings(context, arguments)?;
    let environment = read_strings(context, environment)?;
    // A file that is named by a descriptor has a name there (execveat(2), NOTES).
    let name = match (name.first(), dirfd) {
        (Some(b'/'), _) | (_, linux::AT_FDCWD) => name,
        (None, _) => format!("/dev/fd/{dirfd}").into_bytes(),
        _ => [format!("/dev/fd/{dirfd}/").as_bytes(), &name].concat(),
    };
    run::execute(context, Execution { path, name, arguments, environment })
}

/// The last page that was read of the caller's memory: the strings of an array mostly lie behind each other, and so do the
/// array's words.
#[derive(Default)]
struct Window {
    start: u64,
    bytes: Vec<u8>,
}

impl Window {
    /// What there is from `address` to the end of its page; at least one byte, or EFAULT.
    fn at(&mut self, context: &Context, address: u64) -> Result<&[u8]> {
        let known = address.checked_sub(self.start).is_some_and(|offset| offset < self.bytes.len() as u64);
        if !known {
            self.bytes.resize((PAGE - address % PAGE) as usize, 0);
            let count = context.memory().read(address, &mut self.bytes);
            self.bytes.truncate(count);
            self.start = address;
        }
        match &self.bytes[(address - self.start) as usize..] {
            [] => Err(Errno::EFAULT),
            rest => Ok(rest),
        }
    }

    /// The word at `address`, which may lie across two pages.
    fn word(&mut self, context: &Context, address: u64) -> Result<u64> {
        match self.at(context, address)?.first_chunk() {
            Some(bytes) => Ok(u64::from_ne_bytes(*bytes)),
            None => context.read(address),
        }
    }

    /// The string at `address`; E2BIG where it is longer than execve(2) takes.
    fn string(&mut self, context: &Context, mut address: u64) -> Result<Vec<u8>> {
        let mut string = Vec::new();
        loop {
            let rest = self.at(context, address)?;
            if let Some(end) = rest.iter().position(|byte| *byte == 0) {
                string.extend_from_slice(&rest[..end]);
                return if string.len() < run::MAXIMUM_STRING { Ok(string) } else { Err(Errno::E2BIG) };
            }
            string.extend_from_slice(rest);
            if string.len() >= run::MAXIMUM_STRING {
                return Err(Errno::E2BIG);
            }
            address = address.checked_add(rest.len() as u64).ok_or(Errno::EFAULT)?;
        }
    }
}

/// A null-terminated array of strings; a null array counts as an empty one. E2BIG, EFAULT.
fn read_strings(context: &Context, array: UserAddress) -> Result<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    let Some(mut address) = array.non_null() else { return Ok(strings) };
    let (mut words, mut texts) = (Window::default(), Window::default());
    let mut total = 0;
    loop {
        let pointer = words.word(context, address)?;
        if pointer == 0 {
            return Ok(strings);
        }
        let string = texts.string(context, pointer)?;
        total += string.len() + 1 + 8;
        if strings.len() >= MAXIMUM_STRINGS || total > MAXIMUM_STRINGS * 8 {
            return Err(Errno::E2BIG);
        }
        strings.push(string);
        address = address.checked_add(8).ok_or(Errno::EFAULT)?;
    }
}
