//! prctl(2) and seccomp(2).

use crate::syscall::UserAddress;
use crate::task::credentials::{
    CAP_LAST_CAP, CAP_SETPCAP, CAP_SYS_ADMIN, SECBIT_ALL, SECBIT_KEEP_CAPS, SECBIT_KEEP_CAPS_LOCKED,
    SECBIT_NO_CAP_AMBIENT_RAISE,
};
use crate::task::{seccomp as filters, Credentials};
use crate::{Context, Errno, Result};
use skerry_abi::raw::prctl as option;
use skerry_abi::signal::Signal;
use std::sync::atomic::Ordering;

/// TASK_COMM_LEN.
const NAME_SIZE: usize = 16;

pub fn prctl(context: &mut Context, what: u32, a: u64, b: u64, c: u64, d: u64) -> Result<u64> {
    let task = context.task;
    let process = context.process();
    let unused = |arguments: &[u64]| if arguments.iter().all(|&argument| argument == 0) { Ok(()) } else { Err(Errno::EINVAL) };
    let done = |()| Ok(0);
    match what {
        option::PR_SET_PDEATHSIG => {
            if a != 0 && i32::try_from(a).ok().and_then(Signal::new).is_none() {
                return Err(Errno::EINVAL);
            }
            task.parent_death_signal.store(a as i32, Ordering::Relaxed);
            Ok(0)
        }
        option::PR_GET_PDEATHSIG => context.write(a, &task.parent_death_signal.load(Ordering::Relaxed)).and_then(done),
        option::PR_GET_DUMPABLE => Ok(process.dumpable.load(Ordering::Relaxed).into()),
        option::PR_SET_DUMPABLE => {
            if a > 1 {
                return Err(Errno::EINVAL);
            }
            process.dumpable.store(a == 1, Ordering::Relaxed);
            Ok(0)
        }
        option::PR_SET_NAME => set_name(context, a).and_then(done),
        option::PR_GET_NAME => {
            let mut name = [0u8; NAME_SIZE];
            let present = task.name.read();
            let length = present.len().min(NAME_SIZE - 1);
            name[..length].copy_from_slice(&present[..length]);
            drop(present);
            context.write(a, &name).and_then(done)
        }
        option::PR_GET_KEEPCAPS => Ok(task.credentials().keep_capabilities.into()),
        option::PR_SET_KEEPCAPS => {
            if a > 1 {
                return Err(Errno::EINVAL);
            }
            let bits = if a == 1 { SECBIT_KEEP_CAPS } else { 0 };
            change(context, |old| {
                if old.securebits & SECBIT_KEEP_CAPS_LOCKED != 0 {
                    return Err(Errno::EPERM);
                }
                let securebits = old.securebits & !SECBIT_KEEP_CAPS | bits;
                Ok(Credentials { securebits, keep_capabilities: a == 1, ..old.clone() })
            })
        }
        option::PR_GET_SECUREBITS => Ok(task.credentials().securebits.into()),
        option::PR_SET_SECUREBITS => set_securebits(context, a),
        option::PR_CAPBSET_READ => Ok(task.credentials().capabilities.bounding >> capability(a)? & 1),
        option::PR_CAPBSET_DROP => {
            let capability = capability(a)?;
            change(context, |old| {
                if !old.has_capability(CAP_SETPCAP) {
                    return Err(Errno::EPERM);
                }
                let mut new = old.clone();
                new.capabilities.bounding &= !(1 << capability);
                Ok(new)
            })
        }
        option::PR_CAP_AMBIENT => ambient(context, a, b, c, d),
        option::PR_SET_NO_NEW_PRIVS => {
            if a != 1 {
                return Err(Errno::EINVAL);
            }
            unused(&[b, c, d])?;
            change(context, |old| Ok(Credentials { no_new_privs: true, ..old.clone() }))
        }
        option::PR_GET_NO_NEW_PRIVS => {
            unused(&[a, b, c, d])?;
            Ok(task.credentials().no_new_privs.into())
        }
        option::PR_SET_CHILD_SUBREAPER => {
            process.child_subreaper.store(a != 0, Ordering::Relaxed);
            Ok(0)
        }
        option::PR_GET_CHILD_SUBREAPER => {
            context.write(a, &i32::from(process.child_subreaper.load(Ordering::Relaxed))).and_then(done)
        }
        option::PR_SET_TIMERSLACK => {
            let slack = if (a as i64) <= 0 { task.default_timer_slack_ns } else { a };
            task.timer_slack_ns.store(slack, Ordering::Relaxed);
            Ok(0)
        }
        option::PR_GET_TIMERSLACK => Ok(task.timer_slack_ns.load(Ordering::Relaxed)),
        option::PR_GET_TSC => context.write(a, &option::PR_TSC_ENABLE).and_then(done),
        option::PR_SET_TSC if a == u64::from(option::PR_TSC_ENABLE) => Ok(0),
        option::PR_GET_TIMING => Ok(0),
        option::PR_SET_TIMING if a == 0 => Ok(0),
        option::PR_GET_SECCOMP => Ok(task.seccomp.get().map_or(0, |chain| chain.mode().into())),
        option::PR_SET_SECCOMP => match a {
            1 => filters::set_strict(task).and_then(done),
            2 => install_filter(context, 0, b),
            _ => Err(Errno::EINVAL),
        },
        option::PR_SET_MM => Err(Errno::EPERM),
        option::PR_GET_TID_ADDRESS => context.write(a, &task.clear_child_tid()).and_then(done),
        option::PR_SET_THP_DISABLE => {
            unused(&[b, c, d])?;
            process.huge_pages_disabled.store(a != 0, Ordering::Relaxed);
            Ok(0)
        }
        option::PR_GET_THP_DISABLE => {
            unused(&[a, b, c, d])?;
            Ok(process.huge_pages_disabled.load(Ordering::Relaxed).into())
        }
        option::PR_MCE_KILL => match a {
            0 => unused(&[b, c, d]).and_then(done),
            1 if b <= 2 => unused(&[c, d]).and_then(done),
            _ => Err(Errno::EINVAL),
        },
        option::PR_MCE_KILL_GET => unused(&[a, b, c, d]).map(|()| option::PR_MCE_KILL_DEFAULT.into()),
        // The host's mitigations are as they are: for a program here they are "not affected", and nothing to switch.
        option::PR_GET_SPECULATION_CTRL if a <= 2 => unused(&[b, c, d]).and_then(done),
        option::PR_SET_SPECULATION_CTRL if a <= 2 => Err(Errno::ENXIO),
        option::PR_GET_SPECULATION_CTRL | option::PR_SET_SPECULATION_CTRL => Err(Errno::ENODEV),
        option::PR_TASK_PERF_EVENTS_DISABLE | option::PR_TASK_PERF_EVENTS_ENABLE => Ok(0),
        // Names of anonymous mappings: taken, and shown by nobody (as without CONFIG_ANON_VMA_NAME they would be refused,
        // which some allocators report).
        option::PR_SET_VMA if a == u64::from(option::PR_SET_VMA_ANON_NAME) => Ok(0),
        _ => Err(Errno::EINVAL),
    }
}

fn set_name(context: &Context, address: u64) -> Result<()> {
    // At most fifteen bytes are looked at: what follows need not be readable.
    let name = match context.read_c_string(address, NAME_SIZE - 1, Errno::E2BIG) {
        Ok(name) => name,
        Err(Errno::E2BIG) => {
            let mut name = [0u8; NAME_SIZE - 1];
            context.read_bytes(address, &mut name)?;
            let end = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
            name[..end].to_vec()
        }
        Err(errno) => return Err(errno),
    };
    *context.task.name.write() = name;
    Ok(())
}

fn change(context: &Context, change: impl FnOnce(&Credentials) -> Result<Credentials>) -> Result<u64> {
    let new = change(&context.task.credentials())?;
    context.task.set_credentials(new);
    Ok(0)
}

fn capability(number: u64) -> Result<u32> {
    u32::try_from(number).ok().filter(|&number| number <= CAP_LAST_CAP).ok_or(Errno::EINVAL)
}

/// A lock bit stays, and so does what it locks (capabilities(7), "The securebits flags").
fn set_securebits(context: &Context, bits: u64) -> Result<u64> {
    const LOCKS: u32 = 0xaa;
    let new_bits = u32::try_from(bits).ok().filter(|bits| bits & !SECBIT_ALL == 0);
    change(context, |old| {
        let new_bits = new_bits.ok_or(Errno::EPERM)?;
        let locked = (old.securebits & LOCKS) >> 1;
        let locked_changed = locked & (old.securebits ^ new_bits) != 0;
        let lock_cleared = old.securebits & LOCKS & !new_bits != 0;
        if locked_changed || lock_cleared || !old.has_capability(CAP_SETPCAP) {
            return Err(Errno::EPERM);
        }
        Ok(Credentials { securebits: new_bits, keep_capabilities: new_bits & SECBIT_KEEP_CAPS != 0, ..old.clone() })
    })
}

fn ambient(context: &Context, operation: u64, number: u64, c: u64, d: u64) -> Result<u64> {
    if c != 0 || d != 0 {
        return Err(Errno::EINVAL);
    }
    if operation == u64::from(option::PR_CAP_AMBIENT_CLEAR_ALL) {
        if number != 0 {
            return Err(Errno::EINVAL);
        }
        return change(context, |old| {
            let mut new = old.clone();
            new.capabilities.ambient = 0;
            Ok(new)
        });
    }
    let bit = 1u64 << capability(number)?;
    match u32::try_from(operation).map_err(|_| Errno::EINVAL)? {
        option::PR_CAP_AMBIENT_IS_SET => Ok((context.task.credentials().capabilities.ambient & bit != 0).into()),
        option::PR_CAP_AMBIENT_RAISE => change(context, |old| {
            let sets = old.capabilities;
            if sets.permitted & sets.inheritable & bit == 0 || old.securebits & SECBIT_NO_CAP_AMBIENT_RAISE != 0 {
                return Err(Errno::EPERM);
            }
            let mut new = old.clone();
            new.capabilities.ambient |= bit;
            Ok(new)
        }),
        option::PR_CAP_AMBIENT_LOWER => change(context, |old| {
            let mut new = old.clone();
            new.capabilities.ambient &= !bit;
            Ok(new)
        }),
        _ => Err(Errno::EINVAL),
    }
}

const SET_MODE_STRICT: u32 = 0;
const SET_MODE_FILTER: u32 = 1;
const GET_ACTION_AVAIL: u32 = 2;
const FLAG_TSYNC: u64 = 1;
const FLAG_LOG: u64 = 2;
const FLAG_SPEC_ALLOW: u64 = 4;
const FLAG_TSYNC_ESRCH: u64 = 16;

pub fn seccomp(context: &mut Context, operation: u32, flags: u64, argument: UserAddress) -> Result<u64> {
    match operation {
        SET_MODE_STRICT if flags == 0 && argument.is_null() => filters::set_strict(context.task).map(|()| 0),
        SET_MODE_FILTER => install_filter(context, flags, argument.0),
        GET_ACTION_AVAIL if flags == 0 => {
            // Kill process, kill thread, trap, errno, log, allow; nobody listens or traces.
            const AVAILABLE: [u32; 6] = [0x8000_0000, 0, 0x0003_0000, 0x0005_0000, 0x7ffc_0000, 0x7fff_0000];
            let action: u32 = context.read(argument.0)?;
            if AVAILABLE.contains(&action) {
                Ok(0)
            } else {
                Err(Errno::EOPNOTSUPP)
            }
        }
        _ => Err(Errno::EINVAL),
    }
}

fn install_filter(context: &Context, flags: u64, address: u64) -> Result<u64> {
    // A listener (SECCOMP_FILTER_FLAG_NEW_LISTENER) is as on a kernel that has none.
    if flags & !(FLAG_TSYNC | FLAG_LOG | FLAG_SPEC_ALLOW | FLAG_TSYNC_ESRCH) != 0 {
        return Err(Errno::EINVAL);
    }
    // struct sock_fprog: a 16-bit count, padding, a pointer.
    let [count, program]: [u64; 2] = context.read(address)?;
    let count = usize::from(count as u16);
    if count == 0 || count > filters::MAXIMUM_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let credentials = context.task.credentials();
    if !credentials.no_new_privs && !credentials.has_capability(CAP_SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    let program = context.read_array::<filters::Instruction>(program, count)?;
    let differing = filters::add_filter(context.task, program, flags & FLAG_TSYNC != 0)?;
    match differing {
        0 => Ok(0),
        _ if flags & FLAG_TSYNC_ESRCH != 0 => Err(Errno::ESRCH),
        tid => Ok(tid as u64),
    }
}
