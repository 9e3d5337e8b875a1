//! Who a task is: user and group ids, capabilities (credentials(7), capabilities(7)).

use crate::syscall::{Argument, UserAddress};
use crate::task::credentials::{CAP_SETGID, CAP_SETPCAP};
use crate::task::identity::{self, commit};
use crate::task::{Capabilities, Credentials};
use crate::{Context, Errno, Result};

/// An id that is to be set; -1 is "leave it" where a call allows that, else EINVAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(Option<u32>);

impl Argument for Id {
    fn from_register(register: u64) -> Result<Self> {
        let id = register as u32;
        Ok(Id((id != u32::MAX).then_some(id)))
    }
}

pub fn getuid(context: &mut Context) -> Result<u32> {
    Ok(context.task.credentials().ruid)
}

pub fn geteuid(context: &mut Context) -> Result<u32> {
    Ok(context.task.credentials().euid)
}

pub fn getgid(context: &mut Context) -> Result<u32> {
    Ok(context.task.credentials().rgid)
}

pub fn getegid(context: &mut Context) -> Result<u32> {
    Ok(context.task.credentials().egid)
}

pub fn getresuid(context: &mut Context, real: UserAddress, effective: UserAddress, saved: UserAddress) -> Result<()> {
    let credentials = context.task.credentials();
    context.write(real.0, &credentials.ruid)?;
    context.write(effective.0, &credentials.euid)?;
    context.write(saved.0, &credentials.suid)
}

pub fn getresgid(context: &mut Context, real: UserAddress, effective: UserAddress, saved: UserAddress) -> Result<()> {
    let credentials = context.task.credentials();
    context.write(real.0, &credentials.rgid)?;
    context.write(effective.0, &credentials.egid)?;
    context.write(saved.0, &credentials.sgid)
}

fn change(context: &Context, change: impl FnOnce(&Credentials) -> Result<Credentials>) -> Result<()> {
    let new = change(&context.task.credentials())?;
    commit(context.task, new);
    Ok(())
}

pub fn setuid(context: &mut Context, uid: Id) -> Result<()> {
    let uid = uid.0.ok_or(Errno::EINVAL)?;
    change(context, |old| identity::set_uid(old, uid))
}

pub fn setgid(context: &mut Context, gid: Id) -> Result<()> {
    let gid = gid.0.ok_or(Errno::EINVAL)?;
    change(context, |old| identity::set_gid(old, gid))
}

pub fn setreuid(context: &mut Context, real: Id, effective: Id) -> Result<()> {
    change(context, |old| identity::set_reuid(old, real.0, effective.0))
}

pub fn setregid(context: &mut Context, real: Id, effective: Id) -> Result<()> {
    change(context, |old| identity::set_regid(old, real.0, effective.0))
}

pub fn setresuid(context: &mut Context, real: Id, effective: Id, saved: Id) -> Result<()> {
    change(context, |old| identity::set_resuid(old, real.0, effective.0, saved.0))
}

pub fn setresgid(context: &mut Context, real: Id, effective: Id, saved: Id) -> Result<()> {
    change(context, |old| identity::set_resgid(old, real.0, effective.0, saved.0))
}

/// Returns the id before, whether or not it was changed.
pub fn setfsuid(context: &mut Context, uid: Id) -> Result<u32> {
    let old = context.task.credentials();
    if let Some(uid) = uid.0 {
        commit(context.task, identity::set_fsuid(&old, uid));
    }
    Ok(old.fsuid)
}

pub fn setfsgid(context: &mut Context, gid: Id) -> Result<u32> {
    let old = context.task.credentials();
    if let Some(gid) = gid.0 {
        commit(context.task, identity::set_fsgid(&old, gid));
    }
    Ok(old.fsgid)
}

/// NGROUPS_MAX.
const MAXIMUM_GROUPS: usize = 65536;

pub fn getgroups(context: &mut Context, size: i32, list: UserAddress) -> Result<usize> {
    let size = usize::try_from(size).map_err(|_| Errno::EINVAL)?;
    let credentials = context.task.credentials();
    let groups = &credentials.groups;
    if size != 0 {
        if size < groups.len() {
            return Err(Errno::EINVAL);
        }
        context.write(list.0, groups.as_slice())?;
    }
    Ok(groups.len())
}

pub fn setgroups(context: &mut Context, size: i32, list: UserAddress) -> Result<()> {
    if !context.task.credentials().has_capability(CAP_SETGID) {
        return Err(Errno::EPERM);
    }
    let size = usize::try_from(size).ok().filter(|&size| size <= MAXIMUM_GROUPS).ok_or(Errno::EINVAL)?;
    let mut groups = if size == 0 { Vec::new() } else { context.read_array::<u32>(list.0, size)? };
    if groups.contains(&u32::MAX) {
        return Err(Errno::EINVAL);
    }
    groups.sort_unstable();
    change(context, |old| Ok(Credentials { groups, ..old.clone() }))
}

/// Versions of the capability sets' layout: how many 32-bit halves there are.
fn capability_halves(version: u32) -> Option<usize> {
    match version {
        0x1998_0330 => Some(1),
        0x2007_1026 | 0x2008_0522 => Some(2),
        _ => None,
    }
}
const CAPABILITY_VERSION: u32 = 0x2008_0522;

/// Reads `cap_user_header_t`; an unknown version is answered with the known one (capget(2)). `None`: only that was asked.
fn read_header(context: &Context, header: UserAddress, data: UserAddress) -> Result<Option<(usize, i32)>> {
    let [version, pid]: [u32; 2] = context.read(header.0)?;
    match capability_halves(version) {
        Some(halves) => Ok(Some((halves, pid as i32))),
        None => {
            context.write(header.0, &CAPABILITY_VERSION)?;
            if data.is_null() {
                Ok(None)
            } else {
                Err(Errno::EINVAL)
            }
        }
    }
}

pub fn capget(context: &mut Context, header: UserAddress, data: UserAddress) -> Result<()> {
    let Some((halves, pid)) = read_header(context, header, data)? else { return Ok(()) };
    if pid < 0 {
        return Err(Errno::EINVAL);
    }
    let pids = &context.kernel().pids;
    let credentials = match pid {
        0 => context.task.credentials(),
        // A process without threads: the sandbox's own init.
        _ => {
            pids.task(pid).map(|task| task.credentials()).or_else(|_| pids.process(pid).map(|process| process.credentials()))?
        }
    };
    let Some(address) = data.non_null() else { return Ok(()) };
    let sets = credentials.capabilities;
    let half = |shift: u32| [sets.effective, sets.permitted, sets.inheritable].map(|set| (set >> shift) as u32);
    context.write(address, [half(0), half(32)].as_flattened().get(..3 * halves).unwrap_or_default())
}

pub fn capset(context: &mut Context, header: UserAddress, data: UserAddress) -> Result<()> {
    let Some((halves, pid)) = read_header(context, header, data)? else { return Ok(()) };
    if pid != 0 && pid != context.task.tid() {
        return Err(Errno::EPERM);
    }
    let words: Vec<u32> = context.read_array(data.0, 3 * halves)?;
    let set = |index: usize| {
        let word = |at: usize| u64::from(words.get(at).copied().unwrap_or(0));
        (word(index) | word(index + 3) << 32) & Capabilities::ALL
    };
    let (effective, permitted, inheritable) = (set(0), set(1), set(2));
    change(context, |old| {
        let sets = old.capabilities;
        let may_inherit = sets.inheritable | sets.permitted;
        let allowed = (old.has_capability(CAP_SETPCAP) || inheritable & !may_inherit == 0)
            && inheritable & !(sets.inheritable | sets.bounding) == 0
            && permitted & !sets.permitted == 0
            && effective & !permitted == 0;
        if !allowed {
            return Err(Errno::EPERM);
        }
        let ambient = sets.ambient & permitted & inheritable;
        Ok(Credentials { capabilities: Capabilities { effective, permitted, inheritable, ambient, ..sets }, ..old.clone() })
    })
}
