//! The signal handlers: a trapped system call, a kick, a fault. All run on the slot's own stack with every signal blocked
//! but the synchronous ones, so that whatever else comes waits until the thread is back in the guest's code (or in the
//! native-call gadget).

use crate::bases;
use crate::births;
use crate::call;
use crate::context::{Context, Info};
use crate::copies;
use crate::cpuid;
use crate::direct;
use crate::entry::{self, Interrupted};
use crate::expected;
use crate::handoff;
use crate::host::{self, number};
use crate::infancy;
use crate::layout::{self, action, operation, request, then, CloneOrder, Reply, Request};
use crate::native::{self, ALWAYS_AGAIN};
use crate::park;
use crate::pipes;
use crate::registers::Registers;
use crate::serve::{self, Outcome};
use crate::thread::{self, ThreadBlock};
use crate::tracing;
use crate::trampoline;
use crate::watching;
use crate::windows;
use core::sync::atomic::{AtomicBool, Ordering};

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const ENOSYS: i64 = -38;
const EINTR: i64 = -4;
const EFAULT: i64 = -14;
const ETIMEDOUT: i64 = -110;
const SIGTRAP: i32 = 5;
const SIGSEGV: i32 = 11;
/// si_code of SIGSEGV: nothing is mapped there; it may not be used so (sigaction(2)).
const SEGV_MAPERR: i32 = 1;
const SEGV_ACCERR: i32 = 2;

/// SIGSYS: the filter trapped a call of the guest, or the direct entry wants a frame.
pub extern "C" fn on_syscall(_signal: i32, info: &Info, context: &mut Context) {
    let thread = thread::current();
    if info.arch != AUDIT_ARCH_X86_64 {
        // int 0x80 and the like: a kernel without 32-bit calls.
        context.rax = ENOSYS as u64;
        return;
    }
    if context.rip == host::native_done_address() && info.syscall as u64 == number::RESTART_SYSCALL {
        // A stop has interrupted a native wait, and the host would go on with it by a call of its own.
        context.rip = host::native_call_address();
        context.rax = thread.native_number;
        return interrupt(thread, context);
    }
    if host::is_in_gadget(context.rip) {
        // The same, of a call that the stub has made.
        context.rax = EINTR as u64;
        return;
    }
    if entry::is_own_trap(context) {
        leave_directly(thread, context);
    } else if tracing::is_own_trap(context) {
        tracing::trapped(thread, context);
    } else {
        context.rax = u64::from(info.syscall as u32);
        serve_in_frame(thread, context);
    }
    if core::mem::take(&mut thread.kicked) != 0 {
        // While the direct entry had the call, before this frame blocked it.
        new_request(thread, context.rip, context.rsp, request::KICKED);
        tracing::ask(thread, context);
        carry_out(thread, context, Place::OwnCode);
    }
    watching::goes_on(thread, context);
}

fn serve_in_frame(thread: &mut ThreadBlock, context: &mut Context) {
    if tracing::is_traced(thread) {
        return tracing::serve(thread, context);
    }
    if context.rax == number::RT_SIGRETURN {
        return signal_return(thread, context);
    }
    if births::try_begin(thread, context) {
        return;
    }
    let mut registers = Registers::of(context);
    infancy::before(thread, &registers);
    let outcome = serve::serve_trapped(thread, &mut registers);
    match outcome {
        Outcome::Return(value) => context.rax = value as u64,
        Outcome::Native => {
            registers.put_into(context);
            context.rip = host::native_call_address();
        }
        Outcome::Reply | Outcome::NeedsFrame => carry_out(thread, context, Place::Syscall),
        Outcome::Child => start_forked(thread, context),
    }
}

/// The rest of a patched call that needs this frame.
fn leave_directly(thread: &mut ThreadBlock, context: &mut Context) {
    match entry::take_frame(thread, context) {
        entry::leave::REPLY => carry_out(thread, context, Place::Syscall),
        entry::leave::CALL => serve_in_frame(thread, context),
        // A kick is what brought these here.
        _ => interrupt(thread, context),
    }
}

/// SIGSTKFLT, and any other signal of the host: the sentry wants to be asked.
pub extern "C" fn on_kick(_signal: i32, _info: &Info, context: &mut Context) {
    let thread = thread::current();
    match entry::on_interruption(thread, context) {
        Interrupted::AtWork => return,
        Interrupted::OnTheWayOut => interrupt(thread, context),
        Interrupted::NotTheStub => {
            trampoline::leave(context);
            interrupt(thread, context);
        }
    }
    watching::goes_on(thread, context);
}

/// Asks the sentry, in the middle of the guest's own code or of a native call.
pub fn interrupt(thread: &mut ThreadBlock, context: &mut Context) {
    let (status, mut place) = interrupted_native(thread, context);
    if place == Place::Native && tracing::is_behind(thread.resume) {
        // The call as the tracer knows it. It is made anew, if it goes on.
        restore_arguments(thread, context);
        (context.rip, context.rax) = (thread.tracing.resume, thread.own_number);
        place = Place::Syscall;
    }
    new_request(thread, context.rip, context.rsp, request::KICKED).detail.status = status;
    tracing::ask(thread, context);
    carry_out(thread, context, place);
}

/// SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP.
pub extern "C" fn on_fault(signal: i32, info: &Info, context: &mut Context) {
    if let Some(end) = host::behind_guarded(context.rip) {
        context.rip = end;
        return;
    }
    let is_step = signal == SIGTRAP && info.code == watching::TRAP_TRACE;
    if is_step && (entry::is_in_image(context.rip) || trampoline::is_within(context)) {
        // A guest that steps through its own code sees one step for a call.
        return;
    }
    let thread = thread::current();
    let told = match info.code {
        _ if is_step => watching::stepped(thread, context),
        SEGV_ACCERR if signal == SIGSEGV && copies::is_kept(info.address) => Some(SEGV_MAPERR),
        code => Some(code),
    };
    if let Some(code) = told {
        let filled = new_request(thread, context.rip, context.rsp, request::FAULT);
        filled.detail.fault_signal = signal;
        filled.detail.fault_code = code;
        filled.detail.fault_address = info.address;
        tracing::ask(thread, context);
        carry_out(thread, context, Place::OwnCode);
    }
    watching::goes_on(thread, context);
}

/// What the thread was doing when it was interrupted.
#[derive(Clone, Copy, PartialEq)]
pub enum Place {
    /// In a call that was trapped: rip is behind it.
    Syscall,
    /// In a native call, which has to be made again or given up.
    Native,
    OwnCode,
}

/// If a native call was interrupted, says what that means, and puts finished ones behind their call.
fn interrupted_native(thread: &mut ThreadBlock, context: &mut Context) -> (i64, Place) {
    let at = context.rip;
    if at < host::native_call_address() || at >= host::native_end_address() {
        return (0, Place::OwnCode);
    }
    let undone = at == host::native_call_address() || (at == host::native_done_address() && context.rax as i64 == EINTR);
    // A write to a pipe that has got some way ends there if a handler runs; else it goes on (see `resume`).
    if undone || thread.pipe_waits.done != 0 {
        return (thread.native_error, Place::Native);
    }
    restore_arguments(thread, context);
    context.rip = thread.resume;
    if thread.call_again == ALWAYS_AGAIN || thread.call_again != 0 && context.rax as i64 != ETIMEDOUT {
        context.rip -= 2;
        context.rax = thread.own_number;
    }
    (0, Place::OwnCode)
}

fn restore_arguments(thread: &ThreadBlock, context: &mut Context) {
    context.rdi = thread.original_rdi;
    context.rsi = thread.original_rsi;
    context.rdx = thread.original_rdx;
    context.r10 = thread.original_r10;
    context.r9 = thread.original_r9;
}

pub fn signal_return(thread: &mut ThreadBlock, context: &mut Context) {
    let frame = context.pop_frame();
    let filled = new_request(
        thread,
        context.rip,
        context.rsp,
        if frame.is_some() { request::SIGNAL_RETURN } else { request::FRAME_FAILED },
    );
    if let Some((mask, stack)) = frame {
        filled.arguments = [mask, stack.base, stack.flags as u32 as u64, stack.size, 0, 0];
    }
    tracing::ask(thread, context);
    carry_out(thread, context, Place::OwnCode);
}

/// The next request, numbered and with the registers that every kind has. [`ring`] puts it into the channel.
#[link_section = ".calls"]
pub fn new_request(thread: &mut ThreadBlock, instruction_pointer: u64, stack_pointer: u64, kind: u32) -> &mut Request {
    thread.sequence = thread.sequence.wrapping_add(1);
    // Whatever a kick before this was about, the sentry looks at it on the way out of this request.
    thread.kicked = 0;
    thread.has_loan = 0;
    thread.has_news = 0;
    thread.parking.is_unasked = 0;
    expected::forget(thread);
    let filled = &mut thread.request;
    filled.kind = kind;
    filled.sequence = thread.sequence;
    filled.marshalled = 0;
    filled.detail.status = 0;
    filled.detail.shown = 0;
    filled.detail.instruction_pointer = instruction_pointer;
    filled.detail.stack_pointer = stack_pointer;
    filled
}

/// Asks and waits for the answer. Ends the process when nobody answers any more.
#[link_section = ".calls"]
pub fn ring(thread: &mut ThreadBlock) {
    handoff::hand_over(thread);
}

/// A copy of the reply.
fn reply(thread: &ThreadBlock) -> Reply {
    handoff::reply(thread)
}

/// Does what the sentry's reply says, until the guest can go on.
pub fn carry_out(thread: &mut ThreadBlock, context: &mut Context, place: Place) {
    loop {
        let answer = reply(thread);
        match answer.action {
            action::RETURN | action::RESTART | action::AS_IS => {
                resume(thread, context, place, answer.action, answer.value, false);
                return;
            }
            action::HANDLER => {
                resume(thread, context, place, answer.resume, answer.value, true);
                // SAFETY: within the channel; plain data, complete before the answer is.
                let frame = unsafe { core::ptr::read_volatile(&raw const (*thread.channel()).frame) };
                let built = context.push_frame(&frame);
                if built && frame.more == 0 {
                    return;
                }
                new_request(thread, context.rip, context.rsp, if built { request::KICKED } else { request::FRAME_FAILED });
                tracing::ask(thread, context);
                return carry_out(thread, context, Place::OwnCode);
            }
            action::SHOW => {
                resume(thread, context, place, answer.resume, answer.value, true);
                if answer.entry != 0 {
                    // The call that is made in place of the interrupted one.
                    context.rax = answer.entry;
                }
                new_request(thread, context.rip, context.rsp, request::KICKED);
                tracing::ask(thread, context);
                return carry_out(thread, context, Place::OwnCode);
            }
            action::NATIVE => {
                let result = run_operations(thread, answer.operations);
                if !asks_again(answer.then, result) {
                    context.rax = result as u64;
                    return;
                }
                new_request(thread, context.rip, context.rsp, request::NATIVE_DONE).detail.status = result;
                tracing::ask(thread, context);
            }
            action::CLONE => {
                // SAFETY: as above.
                let order = unsafe { core::ptr::read_volatile(&raw const (*thread.channel()).clone) };
                if order.set_parent_tid != 0 {
                    // As on Linux, a bad address is passed over in silence.
                    let tid = order.child_tid as u32;
                    host::copy(order.set_parent_tid, &raw const tid as u64, 4);
                }
                let result = if order.parked != 0 {
                    park::start(context, &order);
                    order.child_tid as i64
                } else {
                    clone(thread, context, &order)
                };
                if result == 0 {
                    // The child of a fork: it has this very stack.
                    start_forked(thread, context);
                    return;
                }
                if result == layout::FORK_ANSWERED {
                    continue;
                }
                if result > 0 && answer.then == 0 {
                    context.rax = order.child_tid;
                    return;
                }
                new_request(thread, context.rip, context.rsp, request::NATIVE_DONE).detail.status = result;
                tracing::ask(thread, context);
            }
            action::PARK => park::park(thread),
            action::EXIT_THREAD => park::end(thread),
            _ => host::exit(0),
        }
    }
}

fn resume(thread: &mut ThreadBlock, context: &mut Context, place: Place, how: u32, value: i64, for_handler: bool) {
    match (place, how) {
        (Place::Native, action::RESTART | action::AS_IS) if !for_handler => {
            // The same native call once more; its registers are as they were.
            native::wait_for_the_rest(thread, value as u64);
            context.rip = host::native_call_address();
            context.rax = thread.native_number;
        }
        (Place::Native, _) => {
            restore_arguments(thread, context);
            let done = pipes::take_done(thread);
            (context.rip, context.rax) = match how {
                _ if done != 0 => (thread.resume, done),
                action::RETURN => (thread.resume, value as u64),
                _ => (thread.resume - 2, thread.own_number),
            };
        }
        (_, action::RETURN) => context.rax = value as u64,
        // rax still holds the number: the handler of SIGSYS put it there.
        (Place::Syscall, action::RESTART) => context.rip -= 2,
        _ => {}
    }
}

/// Whether the sentry is to hear of the result of native operations.
pub fn asks_again(when: u32, result: i64) -> bool {
    match when {
        then::NEVER => false,
        then::AFTER_AN_ERROR => result < 0,
        _ => true,
    }
}

/// Carries out the channel's first `count` operations. The result is the last CALL's, or the first error.
pub fn run_operations(thread: &mut ThreadBlock, count: u32) -> i64 {
    let mut result = 0;
    let mut failed = false;
    let mut is_incomplete = false;
    for index in 0..(count as usize).min(layout::MAXIMUM_OPERATIONS) {
        // SAFETY: within the channel.
        let mut one = unsafe { core::ptr::read_volatile(&raw const (*thread.channel()).operations[index]) };
        if one.kind & operation::INJECTED != 0 {
            if let Some(argument) = one.arguments.get_mut((one.kind >> operation::ARGUMENT) as usize) {
                *argument = thread.injected;
            }
        }
        match one.kind & operation::KIND {
            operation::CALL if !failed => {
                result = host::call_array(one.number, &one.arguments);
                failed = (-4095..0).contains(&result);
                // A mapping at a fixed place takes away what was there; so does what it ends with.
                match one.number {
                    number::MMAP if !failed => copies::forget(result as u64, one.arguments[1]),
                    number::MUNMAP => copies::forget(one.arguments[0], one.arguments[1]),
                    _ => {}
                }
            }
            operation::VALUE if !failed => result = one.arguments[0] as i64,
            operation::DIRECT_TABLE => direct::map_table(one.arguments[0]),
            operation::PIPE => pipes::map(&one.arguments),
            operation::ALWAYS => {
                if one.number == number::CLOSE {
                    windows::closes(one.arguments[0]);
                }
                host::call_array(one.number, &one.arguments);
            }
            operation::OVER_LAST if !failed => {
                let mut arguments = one.arguments;
                arguments[0] = arguments[0].wrapping_add(result as u64);
                is_incomplete |= host::call_array(one.number, &arguments) < 0;
            }
            operation::EXPECT if !failed && !is_incomplete => {
                let mut arguments = one.arguments;
                arguments[0] = arguments[0].wrapping_add(result as u64);
                expected::add(thread, &arguments);
            }
            operation::COPY if !failed => {
                let [address, length, ..] = one.arguments;
                // SAFETY: within the channel, as is what is copied.
                let area = unsafe { &raw const (*thread.channel()).area as u64 };
                failed = !host::copy(address, area, length.min(layout::marshal::AREA as u64));
                result = if failed { EFAULT } else { result };
            }
            operation::ZERO if !failed => {
                // SAFETY: a fault here ends the process, as it may: the range was mapped by the calls before it.
                unsafe {
                    core::arch::asm!("rep stosb", inout("rcx") one.arguments[1] => _, inout("rdi") one.arguments[0] => _,
                        in("al") 0u8, options(nostack, preserves_flags))
                };
            }
            _ => {}
        }
    }
    result
}

const PROT_READ_WRITE: u64 = 3;
const MAP_PRIVATE_FIXED_ANONYMOUS: u64 = 0x32;
const MADV_DONTFORK: u64 = 10;
const MAP_SHARED_FIXED: u64 = 0x11;

/// Maps a slot's private parts and fills in its block.
pub fn map_slot(slot: u64) -> Result<&'static mut ThreadBlock, i64> {
    let address = thread::block_address(slot);
    // Below there is a gap, and the channel: running over the stack is a fault, not a channel full of stack.
    let (start, length) = (address - layout::BLOCK_OFFSET + layout::STACK_OFFSET, layout::SLOT_SIZE - layout::STACK_OFFSET);
    let mapped = call!(number::MMAP, start, length, PROT_READ_WRITE, MAP_PRIVATE_FIXED_ANONYMOUS, -1i64, 0);
    if mapped != start as i64 {
        return Err(mapped);
    }
    let thread = thread::at(address);
    thread.address = address;
    thread.direct_entry = entry::address();
    thread.cpuid_entry = cpuid::entry_address();
    thread.direct_stack = thread.stack_top();
    Ok(thread)
}

/// A new thread presents itself. One without a channel cannot be waited for by anybody.
pub fn enrol(thread: &mut ThreadBlock) {
    take_channel(thread, layout::DOORBELL_ENROL, 0, 0);
    thread.sequence = 0;
}

/// Presents the token by ringing so, and maps the channel that the sentry gives for it.
#[link_section = ".calls"]
pub fn take_channel(thread: &mut ThreadBlock, how: u64, first: u64, end: u64) {
    let address = thread.channel() as u64;
    loop {
        let [low, high] = thread.token;
        let descriptor = call!(number::GETPPID, layout::DOORBELL_MAGIC, how, low, high, first, end);
        if descriptor == EINTR {
            continue;
        }
        if descriptor < 0 {
            host::crash();
        }
        let mapped = call!(number::MMAP, address, layout::CHANNEL_SIZE, PROT_READ_WRITE, MAP_SHARED_FIXED, descriptor, 0);
        if descriptor == 0 && !(mapped == address as i64 && has_token(thread)) {
            // None has come, as the sentry was stopped while it waited for us to take it: it gives it once more.
            continue;
        }
        call!(number::CLOSE, descriptor);
        if mapped != address as i64 || call!(number::MADVISE, address, layout::CHANNEL_SIZE, MADV_DONTFORK) < 0 {
            host::crash();
        }
        break;
    }
}

/// Whether what lies where the thread's channel goes is that.
fn has_token(thread: &ThreadBlock) -> bool {
    // SAFETY: only the address is made.
    let token = unsafe { &raw const (*thread.channel()).token } as u64;
    host::load(token) == Some(thread.token[0]) && host::load(token + 8) == Some(thread.token[1])
}

fn clone(thread: &mut ThreadBlock, context: &mut Context, wanted: &CloneOrder) -> i64 {
    if wanted.flags == layout::CLONE_PROCESS {
        return infancy::make(thread);
    }
    let child = match map_slot(wanted.slot) {
        Ok(child) => child,
        Err(error) => return error,
    };
    child.token = wanted.token;
    child.is_process = (wanted.flags == layout::CLONE_VFORK) as u64;
    if wanted.flags == layout::CLONE_VFORK || direct::is_off(thread) {
        direct::turn_off(child);
    }
    lay_down_child(child, context, wanted);
    let stack = (child.first_frame - 4096) & !15;
    // Only the host can tell whoever shares the memory of a process how that has ended.
    let cleared = match wanted.clear_child_tid {
        address if address != 0 && wanted.flags == layout::CLONE_VFORK => address,
        _ => &raw mut child.cleared_word as u64,
    };
    // SAFETY: the child starts on its own stack, in its own slot.
    unsafe { host::clone_call(wanted.flags, stack, cleared, child.parking.tls, child.address) }
}

/// Lays down what the thread in another slot begins with: where `context` is, as `wanted` says.
pub fn lay_down_child(child: &mut ThreadBlock, context: &Context, wanted: &CloneOrder) {
    child.set_child_tid = wanted.set_child_tid;
    child.child_tid = wanted.child_tid;
    child.tid = wanted.child_tid;
    child.parking.clear_child_tid = wanted.clear_child_tid;
    child.parking.is_unasked = wanted.unasked;
    child.parking.tls = if wanted.tls == 0 { bases::fs() } else { wanted.tls };
    let mut start = *context;
    start.rax = 0;
    if wanted.stack != 0 {
        start.rsp = wanted.stack;
    }
    start.stack = layout::SignalStack { base: child.stack_base(), flags: 0, _padding: 0, size: layout::STACK_SIZE };
    child.first_frame = start.copy_to(child.stack_top());
}

/// The first code of a child with its own slot.
#[no_mangle]
pub extern "C" fn child_start(address: u64) -> ! {
    let thread = thread::at(address);
    bases::set_gs(thread.address);
    enrol_child(thread);
    begin_and_return(thread)
}

/// Goes on from the first frame in the thread's slot.
pub fn begin_and_return(thread: &mut ThreadBlock) -> ! {
    // SAFETY: the frame was built by the thread's maker in this slot.
    let context = unsafe { &mut *(thread.first_frame as *mut Context) };
    begin(thread, context);
    // SAFETY: as above; the stack that is in use lies below.
    unsafe { host::return_to_frame(thread.first_frame) }
}

/// The alternate stack and gs of a pool process. Threads that it makes get theirs with the frame that they begin with.
pub fn set_up_thread(thread: &mut ThreadBlock) {
    let stack = layout::SignalStack { base: thread.stack_base(), flags: 0, _padding: 0, size: layout::STACK_SIZE };
    if call!(number::SIGALTSTACK, &raw const stack, 0) < 0 || bases::set_gs(thread.address) < 0 {
        host::exit(1);
    }
}

/// What a new process does before it returns to the guest's code, on its copy of its maker's stack.
fn start_forked(thread: &mut ThreadBlock, context: &mut Context) {
    context.rax = 0;
    if let Some(stack) = infancy::go_on(thread) {
        context.rsp = stack;
    }
    begin(thread, context);
}

fn enrol_child(thread: &mut ThreadBlock) {
    if thread.is_process != 0 && DEATH_SIGNAL.load(Ordering::Relaxed) {
        set_death_signal();
    }
    enrol(thread);
}

/// Processes ask for the signal themselves: no pid namespace takes them along with the sentry. The zygote says so.
#[link_section = ".data"]
pub static DEATH_SIGNAL: AtomicBool = AtomicBool::new(true);

/// Stores the thread's id where it was asked for. Whether the sentry is to be asked before the guest's code runs.
#[link_section = ".calls"]
pub fn asks_first(thread: &ThreadBlock) -> bool {
    if thread.set_child_tid != 0 {
        let tid = thread.child_tid as u32;
        host::copy(thread.set_child_tid, &raw const tid as u64, 4);
    }
    infancy::beginning(thread) != layout::BEGIN_AT_ONCE
}

/// The last step of a new thread; the sentry is asked before only where it has something to say.
fn begin(thread: &mut ThreadBlock, context: &mut Context) {
    if asks_first(thread) | (core::mem::take(&mut thread.kicked) != 0) {
        new_request(thread, context.rip, context.rsp, request::KICKED);
        tracing::ask(thread, context);
        carry_out(thread, context, Place::OwnCode);
        watching::goes_on(thread, context);
    }
}

/// The process dies with the sentry.
pub fn set_death_signal() {
    const PR_SET_PDEATHSIG: u64 = 1;
    const SIGKILL: u64 = 9;
    call!(number::PRCTL, PR_SET_PDEATHSIG, SIGKILL);
}

/// A pool process's wait for its program.
pub fn wait_for_program(thread: &mut ThreadBlock) -> ! {
    let mut kind = request::IDLE;
    let mut status = 0;
    loop {
        thread.sequence = thread.sequence.wrapping_add(1);
        thread.request = Request { kind, sequence: thread.sequence, ..Request::default() };
        thread.request.detail.status = status;
        ring(thread);
        let answer = reply(thread);
        match answer.action {
            action::NATIVE => {
                status = run_operations(thread, answer.operations);
                kind = request::NATIVE_DONE;
            }
            // SAFETY: the program's entry and stack, as the sentry laid them out. The block is read again by the program's
            // first call, which the compiler does not see.
            action::RUN if run_operations(thread, answer.operations) >= 0 => unsafe {
                core::ptr::write_volatile(&raw mut thread.sequence, thread.sequence);
                core::ptr::write_volatile(&raw mut thread.tid, answer.value as u64);
                let has_loan = if answer.results != 0 { layout::loan::LENT } else { 0 };
                core::ptr::write_volatile(&raw mut thread.has_loan, has_loan);
                let is_traced = tracing::is_traced(thread);
                let entry = if is_traced { tracing::program_start(thread, answer.entry) } else { answer.entry };
                host::start_program(entry, answer.stack)
            },
            _ => host::exit(1),
        }
    }
}
