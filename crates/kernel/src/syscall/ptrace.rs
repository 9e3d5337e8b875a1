//! ptrace(2): what a tracer asks of its tracees. What these do is [`crate::ptrace`]'s.

use super::UserAddress;
use crate::ptrace::registers::UserRegisters;
use crate::ptrace::{self, access, AtCall, Mode, Options, Stop};
use crate::signal;
use crate::sync::Wake;
use crate::task::seccomp::ARCHITECTURE;
use crate::task::Task;
use crate::{Context, Errno, Result};
use skerry_abi::raw::ptrace as raw;
use skerry_abi::signal::{Signal, SignalInfo, SignalSet};
use std::sync::Arc;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout};

/// The register sets (elf.h): general ones, the first vector state, all of it.
const NT_PRSTATUS: u64 = 1;
const NT_PRFPREG: u64 = 2;
const NT_X86_XSTATE: u64 = 0x202;
/// sizeof(struct user), and where its debug registers are.
const USER_SIZE: u64 = 912;
const DEBUG_REGISTERS: u64 = 848;
const REGISTERS_SIZE: u64 = size_of::<UserRegisters>() as u64;
const SET_SIZE: u64 = 8;

/// ptrace(2). ESRCH: not the caller's tracee, or not stopped; EPERM, EIO and EINVAL as the page says of each request.
pub fn ptrace(context: &mut Context, request: u64, pid: i32, address: UserAddress, data: UserAddress) -> Result<u64> {
    let (address, data) = (address.0, data.0);
    let request = u32::try_from(request).map_err(|_| Errno::EIO)?;
    match request {
        raw::PTRACE_TRACEME => return ptrace::trace_me(context.task).map(|()| 0),
        raw::PTRACE_ATTACH | raw::PTRACE_SEIZE => {
            let seizes = request == raw::PTRACE_SEIZE;
            if seizes && address != 0 {
                return Err(Errno::EIO);
            }
            let options = if seizes { Some(u32::try_from(data).map_err(|_| Errno::EIO)?) } else { None };
            let target = context.kernel().pids.task(pid)?;
            return ptrace::attach(context.task, &target, options).map(|()| 0);
        }
        _ => {}
    }
    let tracee = tracee(context, pid)?;
    match request {
        raw::PTRACE_KILL => tracee.process().send_signal(SignalInfo::kernel(Signal::SIGKILL)),
        raw::PTRACE_INTERRUPT => interrupt(&tracee)?,
        _ => return of_stopped(context, &tracee, request, address, data),
    }
    Ok(0)
}

/// The thread with this id, if the caller traces it.
fn tracee(context: &Context, pid: i32) -> Result<Arc<Task>> {
    let task = context.kernel().pids.task(pid)?;
    let is_mine = task.ptrace.lock().as_ref().is_some_and(|tracing| {
        tracing.tracer_tid == context.task.tid() && std::ptr::eq(tracing.tracer.as_ptr(), Arc::as_ptr(context.process()))
    });
    if is_mine {
        Ok(task)
    } else {
        Err(Errno::ESRCH)
    }
}

/// PTRACE_INTERRUPT.
fn interrupt(tracee: &Task) -> Result<()> {
    {
        let mut state = tracee.ptrace.lock();
        let tracing = state.as_mut().filter(|tracing| tracing.seized).ok_or(Errno::EIO)?;
        tracing.interrupted = true;
    }
    signal::interrupt(tracee, &tracee.signals.lock());
    Ok(())
}

/// Changes what a stopped tracee is seen with. ESRCH: it is not stopped.
fn with_stop<R>(tracee: &Task, act: impl FnOnce(&mut Stop) -> Result<R>) -> Result<R> {
    let mut state = tracee.ptrace.lock();
    let stop = state.as_mut().and_then(|tracing| tracing.stop.as_mut()).filter(|stop| stop.is_seen());
    act(stop.ok_or(Errno::ESRCH)?)
}

fn of_stopped(context: &mut Context, tracee: &Arc<Task>, request: u32, address: u64, data: u64) -> Result<u64> {
    with_stop(tracee, |_| Ok(()))?;
    match request {
        raw::PTRACE_CONT => resume(tracee, Mode::Cont, data)?,
        raw::PTRACE_SYSCALL => resume(tracee, Mode::Syscall, data)?,
        raw::PTRACE_SINGLESTEP => resume(tracee, Mode::Step, data)?,
        raw::PTRACE_DETACH => {
            let signal = signal_of(data)?;
            with_stop(tracee, |stop| {
                stop.resumed = Some(signal);
                Ok(())
            })?;
            ptrace::detach(tracee);
        }
        raw::PTRACE_LISTEN => {
            tracee.ptrace.lock().as_mut().ok_or(Errno::ESRCH)?.listen()?;
            // What it is to hear of may have come already.
            tracee.waiter_ref().wake();
        }
        raw::PTRACE_PEEKTEXT | raw::PTRACE_PEEKDATA => {
            let word = access::read_word(&tracee.memory(), address)?;
            context.write(data, &word)?;
        }
        raw::PTRACE_POKETEXT | raw::PTRACE_POKEDATA => access::write_word(&tracee.memory(), address, data)?,
        raw::PTRACE_PEEKUSR => {
            let word = peek_user(tracee, address)?;
            context.write(data, &word)?;
        }
        raw::PTRACE_POKEUSR => poke_user(tracee, address, data)?,
        raw::PTRACE_GETREGS => {
            let registers = registers(tracee)?;
            context.write(data, &registers)?;
        }
        raw::PTRACE_SETREGS => {
            let given = context.read(data)?;
            set_registers(tracee, &given)?;
        }
        raw::PTRACE_GETFPREGS => {
            let state = ptrace::with_frame(tracee, |frame| frame.floating_point())?;
            context.write_bytes(data, &state)?;
        }
        raw::PTRACE_SETFPREGS => {
            let mut state = [0u8; 512];
            context.read_bytes(data, &mut state)?;
            ptrace::with_frame(tracee, |frame| frame.set_vector_state(&state, false))?;
        }
        raw::PTRACE_GETREGSET => get_register_set(context, tracee, address, data)?,
        raw::PTRACE_SETREGSET => set_register_set(context, tracee, address, data)?,
        raw::PTRACE_SETOPTIONS | raw::PTRACE_OLDSETOPTIONS => {
            let options = u32::try_from(data).ok().and_then(Options::from_bits).ok_or(Errno::EINVAL)?;
            tracee.ptrace.lock().as_mut().ok_or(Errno::ESRCH)?.options = options;
        }
        raw::PTRACE_GETEVENTMSG => {
            let message = tracee.ptrace.lock().as_ref().ok_or(Errno::ESRCH)?.message;
            context.write(data, &message)?;
        }
        raw::PTRACE_GETSIGINFO => {
            let info = with_stop(tracee, |stop| if stop.has_info { Ok(stop.info) } else { Err(Errno::EINVAL) })?;
            context.write(data, &info)?;
        }
        raw::PTRACE_SETSIGINFO => {
            let info: SignalInfo = context.read(data)?;
            with_stop(tracee, |stop| {
                if !stop.has_info {
                    return Err(Errno::EINVAL);
                }
                stop.info = info;
                Ok(())
            })?;
        }
        raw::PTRACE_PEEKSIGINFO => return peek_pending(context, tracee, address, data),
        raw::PTRACE_GETSIGMASK => {
            let mask = tracee.signals.lock().blocked();
            if address != SET_SIZE {
                return Err(Errno::EINVAL);
            }
            context.write(data, &mask)?;
        }
        raw::PTRACE_SETSIGMASK => {
            if address != SET_SIZE {
                return Err(Errno::EINVAL);
            }
            let mask: SignalSet = context.read(data)?;
            signal::set_blocked(tracee, mask);
        }
        raw::PTRACE_GET_SYSCALL_INFO => return call_info(context, tracee, address, data),
        _ => return Err(Errno::EIO),
    }
    Ok(0)
}

/// EIO where it is no signal's number.
fn signal_of(data: u64) -> Result<i32> {
    i32::try_from(data).ok().filter(|signal| (0..=64).contains(signal)).ok_or(Errno::EIO)
}

fn resume(tracee: &Task, mode: Mode, data: u64) -> Result<()> {
    let signal = signal_of(data)?;
    if ptrace::resume(tracee, mode, signal) {
        Ok(())
    } else {
        Err(Errno::ESRCH)
    }
}

fn registers(tracee: &Task) -> Result<UserRegisters> {
    let mut registers = ptrace::with_frame(tracee, |frame| frame.registers())?;
    (registers.rax, registers.orig_rax) = with_stop(tracee, |stop| Ok((stop.rax, stop.orig_rax)))?;
    Ok(registers)
}

fn set_registers(tracee: &Task, registers: &UserRegisters) -> Result<()> {
    ptrace::with_frame(tracee, |frame| frame.set_registers(registers))?;
    with_stop(tracee, |stop| {
        (stop.rax, stop.orig_rax, stop.changed) = (registers.rax, registers.orig_rax, true);
        Ok(())
    })
}

/// A word of `struct user`: registers, and for the rest zeros. EIO outside of it.
fn peek_user(tracee: &Task, offset: u64) -> Result<u64> {
    if offset % 8 != 0 || offset >= USER_SIZE {
        return Err(Errno::EIO);
    }
    if let Some(index) = debug_register(offset) {
        return Ok(tracee.ptrace.lock().as_ref().map_or(0, |tracing| tracing.debug.get(index)));
    }
    if offset >= REGISTERS_SIZE {
        return Ok(0);
    }
    let registers = registers(tracee)?;
    let at = offset as usize;
    registers.as_bytes()[at..at + 8].try_into().map(u64::from_ne_bytes).map_err(|_| Errno::EIO)
}

/// Which debug register a word of `struct user` is.
fn debug_register(offset: u64) -> Option<usize> {
    (DEBUG_REGISTERS..USER_SIZE).contains(&offset).then(|| ((offset - DEBUG_REGISTERS) / 8) as usize)
}

/// EIO for what cannot be set, EINVAL for debug registers that no program can have.
fn poke_user(tracee: &Task, offset: u64, value: u64) -> Result<()> {
    if let Some(index) = debug_register(offset).filter(|_| offset % 8 == 0) {
        let mut state = tracee.ptrace.lock();
        let tracing = state.as_mut().ok_or(Errno::ESRCH)?;
        return tracing.set_debug_register(&tracee.memory(), index, value);
    }
    if offset % 8 != 0 || offset >= REGISTERS_SIZE {
        return Err(Errno::EIO);
    }
    let mut registers = registers(tracee)?;
    let at = offset as usize;
    registers.as_mut_bytes()[at..at + 8].copy_from_slice(&value.to_ne_bytes());
    set_registers(tracee, &registers)
}

/// `struct iovec` of a register set: EINVAL for one that there is not.
fn get_register_set(context: &mut Context, tracee: &Task, kind: u64, vector: u64) -> Result<()> {
    let [base, length]: [u64; 2] = context.read(vector)?;
    let set = match kind {
        NT_PRSTATUS => registers(tracee)?.as_bytes().to_vec(),
        NT_PRFPREG => ptrace::with_frame(tracee, |frame| frame.floating_point())?,
        NT_X86_XSTATE => ptrace::with_frame(tracee, |frame| frame.extended())?,
        _ => return Err(Errno::EINVAL),
    };
    let count = set.len().min(usize::try_from(length).unwrap_or(usize::MAX));
    context.write_bytes(base, &set[..count])?;
    context.write(vector.checked_add(8).ok_or(Errno::EFAULT)?, &(count as u64))
}

fn set_register_set(context: &mut Context, tracee: &Task, kind: u64, vector: u64) -> Result<()> {
    const MOST: usize = 64 << 10;
    let [base, length]: [u64; 2] = context.read(vector)?;
    let length = usize::try_from(length).unwrap_or(usize::MAX).min(MOST);
    let mut given = vec![0u8; length];
    context.read_bytes(base, &mut given)?;
    match kind {
        NT_PRSTATUS => {
            if length % 8 != 0 {
                return Err(Errno::EINVAL);
            }
            let mut registers = registers(tracee)?;
            let count = length.min(size_of::<UserRegisters>());
            registers.as_mut_bytes()[..count].copy_from_slice(&given[..count]);
            set_registers(tracee, &registers)
        }
        NT_PRFPREG => ptrace::with_frame(tracee, |frame| frame.set_vector_state(&given, false)),
        NT_X86_XSTATE => ptrace::with_frame(tracee, |frame| frame.set_vector_state(&given, true)),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct __ptrace_peeksiginfo_args`.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct PeekArguments {
    offset: u64,
    flags: u32,
    count: i32,
}

fn peek_pending(context: &mut Context, tracee: &Task, arguments: u64, data: u64) -> Result<u64> {
    let PeekArguments { offset, flags, count } = context.read(arguments)?;
    if flags & !raw::PTRACE_PEEKSIGINFO_SHARED != 0 || count < 0 {
        return Err(Errno::EINVAL);
    }
    let pending = {
        let process_signals = tracee.process().signals.lock();
        let signals = tracee.signals.lock();
        let queue = if flags != 0 { &process_signals.pending } else { &signals.pending };
        queue.queue.iter().copied().skip(usize::try_from(offset).unwrap_or(usize::MAX)).take(count as usize).collect::<Vec<_>>()
    };
    for (index, info) in pending.iter().enumerate() {
        context.write(data.wrapping_add(index as u64 * size_of::<SignalInfo>() as u64), info)?;
    }
    Ok(pending.len() as u64)
}

/// `struct ptrace_syscall_info`, with its longest part.
#[derive(FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct CallInfo {
    operation: u8,
    _padding: [u8; 3],
    architecture: u32,
    instruction_pointer: u64,
    stack_pointer: u64,
    /// Number and arguments; or result and whether it is an error.
    rest: [u64; 7],
}

/// PTRACE_GET_SYSCALL_INFO: as much as the caller has room for; the result is how much there is.
fn call_info(context: &mut Context, tracee: &Task, room: u64, data: u64) -> Result<u64> {
    const HEAD: usize = 24;
    let registers = registers(tracee)?;
    let (at_call, arguments) = with_stop(tracee, |stop| Ok((stop.at_call, stop.arguments)))?;
    let mut info = CallInfo::new_zeroed();
    info.architecture = ARCHITECTURE;
    info.instruction_pointer = registers.rip;
    info.stack_pointer = registers.rsp;
    let length = match at_call {
        AtCall::No => HEAD,
        AtCall::Begins => {
            info.operation = raw::PTRACE_SYSCALL_INFO_ENTRY as u8;
            info.rest[0] = registers.orig_rax;
            info.rest[1..].copy_from_slice(&arguments);
            HEAD + 56
        }
        AtCall::Ends => {
            let is_error = (-4095..0).contains(&(registers.rax as i64));
            info.operation = raw::PTRACE_SYSCALL_INFO_EXIT as u8;
            info.rest[0] = registers.rax;
            info.rest[1] = is_error.into();
            HEAD + 9
        }
    };
    let count = length.min(usize::try_from(room).unwrap_or(usize::MAX));
    context.write_bytes(data, &info.as_bytes()[..count])?;
    Ok(length as u64)
}
