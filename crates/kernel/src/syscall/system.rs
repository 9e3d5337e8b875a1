//! The system as a whole (uname(2), sysinfo(2), ...), other processes' memory, namespaces, and calls that are always
//! refused, as on a Linux that lacks the feature or does not trust the caller.

use crate::syscall::UserAddress;
use crate::task::credentials::{CAP_SYS_ADMIN, CAP_SYS_BOOT, CAP_SYS_PTRACE};
use crate::task::{Process, Task};
use crate::{Context, Errno, Result};
use rustix::system;
use rustix::thread::{membarrier_query, MembarrierCommand};
use skerry_abi::raw::general as linux;
use skerry_abi::structs::IoVec;
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::{Duration, Instant};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// __NEW_UTS_LEN.
const NAME_LENGTH: usize = 64;

/// Release and version are the host's, as the machine's are: programs choose by them what to try.
pub fn uname(context: &mut Context, address: UserAddress) -> Result<()> {
    let host = system::uname();
    let kernel = context.kernel();
    let fields: [&[u8]; 6] = [
        b"Linux",
        &kernel.hostname.read().clone(),
        host.release().to_bytes(),
        host.version().to_bytes(),
        b"x86_64",
        &kernel.domainname.read().clone(),
    ];
    let mut answer = [[0u8; NAME_LENGTH + 1]; 6];
    for (slot, field) in answer.iter_mut().zip(fields) {
        let length = field.len().min(NAME_LENGTH);
        slot[..length].copy_from_slice(&field[..length]);
    }
    context.write(address.0, answer.as_flattened())
}

fn read_system_name(context: &Context, name: UserAddress, length: i32) -> Result<Vec<u8>> {
    if !context.task.credentials().has_capability(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let length = usize::try_from(length).ok().filter(|&length| length <= NAME_LENGTH).ok_or(Errno::EINVAL)?;
    let mut bytes = vec![0; length];
    context.read_bytes(name.0, &mut bytes)?;
    Ok(bytes)
}

pub fn sethostname(context: &mut Context, name: UserAddress, length: i32) -> Result<()> {
    *context.kernel().hostname.write() = read_system_name(context, name, length)?;
    Ok(())
}

pub fn setdomainname(context: &mut Context, name: UserAddress, length: i32) -> Result<()> {
    *context.kernel().domainname.write() = read_system_name(context, name, length)?;
    Ok(())
}

/// `struct sysinfo`, 112 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SystemInformation {
    uptime: i64,
    loads: [u64; 3],
    total_memory: u64,
    free_memory: u64,
    shared_memory: u64,
    buffer_memory: u64,
    total_swap: u64,
    free_swap: u64,
    processes: u16,
    _padding: [u16; 3],
    total_high: u64,
    free_high: u64,
    unit: u32,
    _end: u32,
}

pub fn sysinfo(context: &mut Context, address: UserAddress) -> Result<()> {
    let kernel = context.kernel();
    let host = system::sysinfo();
    let unit = u64::from(host.mem_unit.max(1));
    let total = (host.totalram as u64).saturating_mul(unit);
    let free = (host.freeram as u64).saturating_mul(unit);
    let total_memory = kernel.memory_limit().map_or(total, |limit| limit.min(total));
    let answer = SystemInformation {
        uptime: kernel.booted.elapsed().as_secs() as i64 + 1,
        loads: host.loads,
        total_memory,
        free_memory: free.min(total_memory),
        shared_memory: kernel.memory_files.used.load(Ordering::Relaxed),
        processes: kernel.pids.task_count().min(usize::from(u16::MAX)) as u16,
        unit: 1,
        ..SystemInformation::default()
    };
    context.write(address.0, &answer)
}

/// getrandom(2): the host's generator. EFAULT only where nothing could be written; a large buffer is filled as far as no signal
/// comes.
pub fn getrandom(context: &mut Context, buffer: UserAddress, length: u64, flags: u32) -> Result<u64> {
    const NONBLOCK: u32 = 1;
    const RANDOM: u32 = 2;
    const INSECURE: u32 = 4;
    /// As much as one call gives at the most.
    const MOST: u64 = 0x1ff_ffff;
    const STEP: u64 = 16 << 10;
    if flags & !(NONBLOCK | RANDOM | INSECURE) != 0 || flags & (RANDOM | INSECURE) == RANDOM | INSECURE {
        return Err(Errno::EINVAL);
    }
    let wanted = length.min(MOST);
    if wanted > STEP {
        context.before_slow_host_call();
    }
    let mut bytes = vec![0; wanted.min(STEP) as usize];
    let mut done = 0;
    while done < wanted && (done == 0 || !context.task.is_interrupted()) {
        let step = (wanted - done).min(STEP) as usize;
        // So much comes at once, or with less.
        let count =
            rustix::rand::getrandom(&mut bytes[..step], rustix::rand::GetRandomFlags::empty()).map_err(|_| Errno::EAGAIN)?;
        let written = context.write_some(buffer.0.wrapping_add(done), &bytes[..count]);
        done += written as u64;
        if written < count {
            break;
        }
    }
    if done == 0 && wanted > 0 {
        return Err(Errno::EFAULT);
    }
    Ok(done)
}

/// membarrier(2). The barrier is made on every CPU that runs a guest (the stub's zygote has them all registered for that), so
/// that private and global ones are the same. Those that make cores look at their instructions again are not there.
pub fn membarrier(context: &mut Context, command: i32, flags: u32, _cpu: i32) -> Result<i32> {
    const QUERY: i32 = 0;
    const GLOBAL: i32 = 1;
    const GLOBAL_EXPEDITED: i32 = 2;
    const REGISTER_GLOBAL_EXPEDITED: i32 = 4;
    const PRIVATE_EXPEDITED: i32 = 8;
    const REGISTER_PRIVATE_EXPEDITED: i32 = 16;
    if !membarrier_query().contains_command(MembarrierCommand::GlobalExpedited) {
        return Err(Errno::ENOSYS);
    }
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let space = context.task.address_space();
    let registered = space.as_ref().map(|space| &space.has_barriers);
    match command {
        QUERY => Ok(GLOBAL | GLOBAL_EXPEDITED | REGISTER_GLOBAL_EXPEDITED | PRIVATE_EXPEDITED | REGISTER_PRIVATE_EXPEDITED),
        GLOBAL | GLOBAL_EXPEDITED => make_barrier(context),
        REGISTER_GLOBAL_EXPEDITED => Ok(0),
        PRIVATE_EXPEDITED if registered.is_some_and(|registered| registered.load(Ordering::Acquire)) => make_barrier(context),
        PRIVATE_EXPEDITED => Err(Errno::EPERM),
        REGISTER_PRIVATE_EXPEDITED => {
            if let Some(registered) = registered {
                registered.store(true, Ordering::Release);
            }
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// One after another, and not at once: each interrupts the CPUs of other sandboxes, too.
fn make_barrier(context: &Context) -> Result<i32> {
    const BETWEEN: Duration = Duration::from_micros(20);
    let kernel = context.kernel();
    let mut last = kernel.last_barrier.try_lock().unwrap_or_else(|| {
        context.before_slow_host_call();
        kernel.last_barrier.lock()
    });
    if let Some(left) = last.and_then(|last| BETWEEN.checked_sub(last.elapsed())) {
        context.before_slow_host_call();
        std::thread::sleep(left);
    }
    let made = rustix::thread::membarrier(MembarrierCommand::GlobalExpedited);
    *last = Some(Instant::now());
    made.map_or(Err(Errno::ENOSYS), |()| Ok(0))
}

pub fn personality(context: &mut Context, persona: u64) -> Result<u32> {
    const QUERY: u32 = 0xffff_ffff;
    let before = context.task.personality.load(Ordering::Relaxed);
    if persona as u32 != QUERY {
        context.task.personality.store(persona as u32, Ordering::Relaxed);
    }
    Ok(before)
}

/// The sandbox's kernel log is empty.
pub fn syslog(context: &mut Context, action: i32, buffer: UserAddress, length: i32) -> Result<i32> {
    if !context.task.credentials().has_capability(CAP_SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    match action {
        0 | 1 | 5..=7 | 9 => Ok(0),
        2..=4 if buffer.is_null() || length < 0 => Err(Errno::EINVAL),
        2..=4 => Ok(0),
        8 if (1..=8).contains(&length) => Ok(0),
        10 => Ok(1 << 14),
        _ => Err(Errno::EINVAL),
    }
}

/// Whether the caller may look into the process (ptrace(2), "Ptrace access mode checking", with real ids).
pub(crate) fn may_inspect(caller: &Task, target: &Process) -> bool {
    if std::ptr::eq(&**caller.process(), target) {
        return true;
    }
    let (mine, theirs) = (caller.credentials(), target.credentials());
    if mine.has_capability(CAP_SYS_PTRACE) {
        return true;
    }
    let same = [theirs.ruid, theirs.euid, theirs.suid].iter().all(|&uid| uid == mine.ruid)
        && [theirs.rgid, theirs.egid, theirs.sgid].iter().all(|&gid| gid == mine.rgid);
    let covered = theirs.capabilities.permitted & !mine.capabilities.permitted == 0;
    same && covered && target.dumpable.load(Ordering::Relaxed)
}

/// UIO_MAXIOV.
const MAXIMUM_VECTORS: u64 = 1024;
/// What is held of a transfer between two processes at a time.
const CHUNK: usize = 64 << 10;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    FromRemote,
    ToRemote,
}

pub fn process_vm_readv(
    context: &mut Context,
    pid: i32,
    local: UserAddress,
    local_count: u64,
    remote: UserAddress,
    remote_count: u64,
    flags: u64,
) -> Result<usize> {
    transfer_between(context, Direction::FromRemote, pid, (local, local_count), (remote, remote_count), flags)
}

pub fn process_vm_writev(
    context: &mut Context,
    pid: i32,
    local: UserAddress,
    local_count: u64,
    remote: UserAddress,
    remote_count: u64,
    flags: u64,
) -> Result<usize> {
    transfer_between(context, Direction::ToRemote, pid, (local, local_count), (remote, remote_count), flags)
}

fn transfer_between(
    context: &Context,
    direction: Direction,
    pid: i32,
    local: (UserAddress, u64),
    remote: (UserAddress, u64),
    flags: u64,
) -> Result<usize> {
    if flags != 0 {
        return Err(Errno::EINVAL);
    }
    let local = read_vectors(context, local)?;
    let remote = read_vectors(context, remote)?;
    let target = context.kernel().pids.task(pid)?;
    if !may_inspect(context.task, target.process()) {
        return Err(Errno::EPERM);
    }
    let (mine, theirs) = (context.memory(), target.memory());
    context.before_slow_host_call();
    match direction {
        Direction::FromRemote => copy(&theirs, &remote, &mine, &local),
        Direction::ToRemote => copy(&mine, &local, &theirs, &remote),
    }
}

fn read_vectors(context: &Context, (address, count): (UserAddress, u64)) -> Result<Vec<IoVec>> {
    if count > MAXIMUM_VECTORS {
        return Err(Errno::EINVAL);
    }
    let vectors: Vec<IoVec> = context.read_array(address.0, count as usize)?;
    let total = vectors.iter().try_fold(0u64, |total, vector| total.checked_add(vector.len));
    if total.is_none_or(|total| total > i64::MAX as u64) {
        return Err(Errno::EINVAL);
    }
    Ok(vectors)
}

/// Copies from one list of pieces to the other until one is used up or a piece is not there: a short count then, or
/// EFAULT where nothing was copied.
fn copy(from: &GuestMemory, from_vectors: &[IoVec], to: &GuestMemory, to_vectors: &[IoVec]) -> Result<usize> {
    let mut sources = Pieces::new(from_vectors);
    let mut targets = Pieces::new(to_vectors);
    let mut buffer = vec![0u8; CHUNK];
    let mut total = 0usize;
    while let (Some((source, available)), Some((target, room))) = (sources.present(), targets.present()) {
        let length = available.min(room).min(CHUNK as u64) as usize;
        let got = from.read(source, &mut buffer[..length]);
        let put = to.write(target, &buffer[..got]);
        total += put;
        if put < length {
            return if total == 0 { Err(Errno::EFAULT) } else { Ok(total) };
        }
        sources.advance(length as u64);
        targets.advance(length as u64);
    }
    Ok(total)
}

/// A place in a list of pieces.
struct Pieces<'a> {
    vectors: std::slice::Iter<'a, IoVec>,
    present: Option<(u64, u64)>,
}

impl Pieces<'_> {
    fn new(vectors: &[IoVec]) -> Pieces<'_> {
        let mut pieces = Pieces { vectors: vectors.iter(), present: None };
        pieces.advance(0);
        pieces
    }
    fn present(&self) -> Option<(u64, u64)> {
        self.present
    }
    fn advance(&mut self, length: u64) {
        if let Some((base, left)) = &mut self.present {
            *base = base.wrapping_add(length);
            *left -= length;
        }
        while self.present.is_none_or(|(_, left)| left == 0) {
            match self.vectors.next() {
                Some(vector) => self.present = Some((vector.base, vector.len)),
                None => {
                    self.present = None;
                    return;
                }
            }
        }
    }
}

const KCMP_FILE: i32 = 0;
const KCMP_VM: i32 = 1;
const KCMP_FILES: i32 = 2;
const KCMP_FS: i32 = 3;
const KCMP_SIGHAND: i32 = 4;
const KCMP_IO: i32 = 5;
const KCMP_SYSVSEM: i32 = 6;

pub fn kcmp(context: &mut Context, first: i32, second: i32, kind: i32, first_index: u64, second_index: u64) -> Result<i32> {
    let pids = &context.kernel().pids;
    let (a, b) = (pids.task(first)?, pids.task(second)?);
    if !may_inspect(context.task, a.process()) || !may_inspect(context.task, b.process()) {
        return Err(Errno::EPERM);
    }
    fn address<T: ?Sized>(object: &Arc<T>) -> usize {
        Arc::as_ptr(object).cast::<()>() as usize
    }
    let file = |task: &Task, index: u64| {
        let fd = i32::try_from(index).map_err(|_| Errno::EBADF)?;
        task.files().get(fd).map(|file| address(&file))
    };
    let (left, right) = match kind {
        KCMP_FILE => (file(&a, first_index)?, file(&b, second_index)?),
        KCMP_VM => (address(&a.memory()), address(&b.memory())),
        KCMP_FILES => (address(&a.files()), address(&b.files())),
        KCMP_FS => (address(&a.fs_cell()), address(&b.fs_cell())),
        KCMP_SIGHAND => (a.process().actions.identity(), b.process().actions.identity()),
        // Nobody here has a context of their own for I/O, and lists of semaphore operations to undo are not told apart.
        KCMP_IO | KCMP_SYSVSEM => (0, 0),
        _ => return Err(Errno::EINVAL),
    };
    Ok(match left.cmp(&right) {
        std::cmp::Ordering::Equal => 0,
        std::cmp::Ordering::Less => 1,
        std::cmp::Ordering::Greater => 2,
    })
}

const NAMESPACES: u32 = linux::CLONE_NEWNS
    | linux::CLONE_NEWCGROUP
    | linux::CLONE_NEWUTS
    | linux::CLONE_NEWIPC
    | linux::CLONE_NEWUSER
    | linux::CLONE_NEWPID
    | linux::CLONE_NEWNET
    | linux::CLONE_NEWTIME;

/// A sandbox has one namespace of each kind: EPERM without the right to make more, EINVAL as on a kernel without them.
pub(crate) fn refuse_namespaces(task: &Task, flags: u64) -> Result<()> {
    if flags & u64::from(NAMESPACES) == 0 {
        Ok(())
    } else if task.credentials().has_capability(CAP_SYS_ADMIN) {
        Err(Errno::EINVAL)
    } else {
        Err(Errno::EPERM)
    }
}

pub fn unshare(context: &mut Context, flags: u64) -> Result<()> {
    let single = u64::from(linux::CLONE_THREAD | linux::CLONE_SIGHAND | linux::CLONE_VM);
    let plain = u64::from(linux::CLONE_FS | linux::CLONE_FILES | linux::CLONE_SYSVSEM);
    if flags & !(single | plain | u64::from(NAMESPACES)) != 0 {
        return Err(Errno::EINVAL);
    }
    let task = context.task;
    refuse_namespaces(task, flags)?;
    if flags & single != 0 && context.process().threads.lock().len() > 1 {
        return Err(Errno::EINVAL);
    }
    if flags & u64::from(linux::CLONE_FS) != 0 {
        task.set_fs_cell(Arc::new(parking_lot::RwLock::new(task.fs())));
    }
    if flags & u64::from(linux::CLONE_FILES) != 0 {
        let files = task.files();
        // Alone with it already, but for the two references here: nothing to copy.
        if Arc::strong_count(&files) > 2 {
            files.never_direct();
            let own = files.fork();
            own.never_direct();
            task.set_files(Arc::new(own));
        }
    }
    Ok(())
}

pub fn setns(context: &mut Context, fd: i32, _kind: u32) -> Result<()> {
    context.file(fd)?;
    if context.task.credentials().has_capability(CAP_SYS_ADMIN) {
        Err(Errno::EINVAL)
    } else {
        Err(Errno::EPERM)
    }
}

const REBOOT_MAGIC: u32 = 0xfee1_dead;
const REBOOT_MAGICS: [u32; 4] = [672_274_793, 85_072_278, 369_367_448, 537_993_216];

/// Only the disabling and enabling of Ctrl-Alt-Del is taken; a sandbox ends when its program does.
pub fn reboot(context: &mut Context, magic: u32, second: u32, command: u32, _argument: UserAddress) -> Result<()> {
    if !context.task.credentials().has_capability(CAP_SYS_BOOT) {
        return Err(Errno::EPERM);
    }
    if magic != REBOOT_MAGIC || !REBOOT_MAGICS.contains(&second) {
        return Err(Errno::EINVAL);
    }
    match command {
        0 | 0x89ab_cdef => Ok(()),
        0x0123_4567 | 0x4321_fedc | 0xcdef_0123 | 0xa1b2_c3d4 => Err(Errno::EPERM),
        _ => Err(Errno::EINVAL),
    }
}

/// pkey_alloc(2): as where all keys are in use, or the processor has none.
pub fn pkey_alloc(_context: &mut Context, flags: u64, rights: u64) -> Result<()> {
    if flags != 0 || rights & !3 != 0 {
        return Err(Errno::EINVAL);
    }
    Err(Errno::ENOSPC)
}

pub fn pkey_free(_context: &mut Context, _key: i32) -> Result<()> {
    Err(Errno::EINVAL)
}

/// ENOSYS: as on a Linux built without it.
pub fn absent(_context: &mut Context) -> Result<()> {
    Err(Errno::ENOSYS)
}

/// EPERM: as on a Linux that does not let the caller.
pub fn forbidden(_context: &mut Context) -> Result<()> {
    Err(Errno::EPERM)
}
