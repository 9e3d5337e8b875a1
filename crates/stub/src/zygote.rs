//! The zygote and the pool: everything that runs before there is a guest.

use crate::bases;
use crate::call;
use crate::cpuid;
use crate::handlers;
use crate::host::{self, number};
use crate::layout::{self, board, zygote as message, KICK_SIGNAL, ZYGOTE_BOARD, ZYGOTE_SOCKET};
use crate::thread;
use core::sync::atomic::Ordering;

const SIGSYS: u64 = 31;
const SYNCHRONOUS: [u64; 5] = [4, 5, 7, 8, 11];
const SA_SIGINFO: u64 = 4;
const SA_ONSTACK: u64 = 0x0800_0000;
const SA_RESTORER: u64 = 0x0400_0000;
const SA_RESTART: u64 = 0x1000_0000;
const SA_NODEFER: u64 = 0x4000_0000;

const PR_SET_NO_NEW_PRIVS: u64 = 38;
const PR_SET_DUMPABLE: u64 = 4;
const PR_SET_NAME: u64 = 15;
const SECCOMP_SET_MODE_FILTER: u64 = 1;
const MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED: u64 = 4;
const AT_SYSINFO_EHDR: u64 = 33;
const AT_EXECFN: u64 = 31;

/// A sandbox that has started so many processes starts more: it pays then to know what the processor says.
const FORKS_BEFORE_CPUID: usize = 6;

/// Stages, for FAILED messages.
const STAGE_NO_NEW_PRIVS: u64 = 1;
const STAGE_SIGNALS: u64 = 2;
const STAGE_FORK: u64 = 3;
const STAGE_SLOT: u64 = 4;
const STAGE_LISTENER: u64 = 5;
const STAGE_FILTER: u64 = 6;
const STAGE_STACK: u64 = 7;
const STAGE_BOARD: u64 = 8;

#[repr(C)]
struct Program {
    length: u16,
    _padding: [u16; 3],
    filter: u64,
}

const NO_PROGRAM: Program = Program { length: 0, _padding: [0; 3], filter: 0 };

struct Filters {
    listener_flags: u64,
    listener: Program,
    strict: Program,
}

#[no_mangle]
extern "C" fn zygote_main(stack: *const u64) -> ! {
    handlers::set_death_signal();
    // What it says goes on in forks: the sentry makes barriers for all of them (membarrier(2)). Where it cannot, it makes none.
    call!(number::MEMBARRIER, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED);
    // SAFETY: the stack is as execve(2) lays it: count, arguments, null, environment, null, auxiliary vector.
    let (vdso, last) = unsafe { (auxiliary(stack, AT_SYSINFO_EHDR), auxiliary(stack, AT_EXECFN)) };
    call!(number::PRCTL, PR_SET_NAME, c"skerry-guest".as_ptr());
    leave_the_tree();
    drop_capabilities();
    if call!(number::PRCTL, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 {
        fail(STAGE_NO_NEW_PRIVS, 0);
    }
    // So that a sentry of the same user may read guest memory.
    call!(number::PRCTL, PR_SET_DUMPABLE, 1, 0, 0, 0);
    map_board();
    install_handlers();
    send(&[message::HELLO, vdso, host::gadget_start_address(), host::gadget_end_address()], None);
    let mut buffer = [0u64; message::MAXIMUM_MESSAGE / 8];
    let mut has_filters = false;
    let mut forks = 0;
    loop {
        let length = call!(number::RECVFROM, ZYGOTE_SOCKET, &raw mut buffer, message::MAXIMUM_MESSAGE, 0, 0, 0);
        if length <= 0 {
            host::exit(0);
        }
        match buffer[0] {
            message::FILTERS => {
                install_filters(&buffer);
                has_filters = true;
            }
            message::FORK if has_filters => {
                let count = (buffer[1] as usize).min(message::MAXIMUM_FORKS);
                for order in buffer[2..].chunks_exact(message::FORK_WORDS).take(count) {
                    // SAFETY: the child goes on with a copy of this stack.
                    let child = unsafe { host::clone_call(layout::CLONE_PROCESS, 0, 0, 0, 0) };
                    if child == 0 {
                        become_pool_process([order[0], order[1]], (order[2], order[3]), last);
                    }
                    if child < 0 {
                        send(&[message::FAILED, STAGE_FORK, -child as u64], None);
                    }
                }
                let before = forks < FORKS_BEFORE_CPUID;
                forks += count;
                if before && forks >= FORKS_BEFORE_CPUID {
                    cpuid::fill();
                }
            }
            _ => {}
        }
    }
}

/// All that it forks have the board.
fn map_board() {
    const PROT_READ: u64 = 1;
    const MAP_SHARED_FIXED: u64 = 0x11;
    let mapped = call!(number::MMAP, board::BASE, board::SIZE, PROT_READ, MAP_SHARED_FIXED, ZYGOTE_BOARD, 0);
    if mapped != board::BASE as i64 {
        fail(STAGE_BOARD, mapped.unsigned_abs());
    }
    call!(number::CLOSE, ZYGOTE_BOARD);
}

/// Where the host allows it, application processes have an empty root: a directory of /proc that dies with the zygote and
/// holds no file that could be of use before.
fn leave_the_tree() {
    if call!(number::CHROOT, c"/proc/self/fdinfo".as_ptr()) == 0 {
        call!(number::CHDIR, c"/".as_ptr());
    }
}

/// No application process has any capability, whoever started the sentry (capset(2)).
fn drop_capabilities() {
    const VERSION_3: u64 = 0x2008_0522;
    let header = [VERSION_3];
    let none = [0u64; 3];
    call!(number::CAPSET, header.as_ptr(), none.as_ptr());
}

/// # Safety
/// `stack` is the initial stack of a program.
unsafe fn auxiliary(stack: *const u64, wanted: u64) -> u64 {
    // SAFETY: walks the three null-terminated lists that execve(2) laid down.
    unsafe {
        let mut position = stack.add(1 + *stack as usize + 1);
        while *position != 0 {
            position = position.add(1);
        }
        position = position.add(1);
        while *position != 0 {
            if *position == wanted {
                return *position.add(1);
            }
            position = position.add(2);
        }
    }
    0
}

fn install_handlers() {
    // While a handler runs only faults may interrupt it, and SIGSYS where the host restarts a call of the stub's.
    let mut mask = !(1 << (SIGSYS - 1));
    for signal in SYNCHRONOUS {
        mask &= !(1 << (signal - 1));
    }
    for signal in 1..=64 {
        let (handler, extra) = if signal == SIGSYS {
            (handlers::on_syscall as *const () as u64, SA_NODEFER)
        } else if SYNCHRONOUS.contains(&signal) {
            // A fault within a guarded copy may happen inside the handler of another fault.
            (handlers::on_fault as *const () as u64, SA_NODEFER)
        } else {
            (handlers::on_kick as *const () as u64, if signal == KICK_SIGNAL as u64 { SA_RESTART } else { 0 })
        };
        // SIGKILL and SIGSTOP cannot be caught; SIGCONT is the host's.
        if matches!(signal, 9 | 19 | 18) {
            continue;
        }
        let action = [handler, SA_SIGINFO | SA_ONSTACK | SA_RESTORER | extra, host::restorer_address(), mask];
        if call!(number::RT_SIGACTION, signal, action.as_ptr(), 0, 8) < 0 {
            fail(STAGE_SIGNALS, signal);
        }
    }
}

/// The filters, where the pool's processes inherit them.
#[link_section = ".data"]
static mut FILTERS: Filters = Filters { listener_flags: 0, listener: NO_PROGRAM, strict: NO_PROGRAM };
#[link_section = ".data"]
static mut PROGRAMS: [u64; message::MAXIMUM_MESSAGE / 8] = [0; message::MAXIMUM_MESSAGE / 8];

/// Copies the filters out of the message.
fn install_filters(buffer: &[u64]) {
    let needs = buffer[4];
    bases::use_instructions(needs & message::NEEDS_ARCH_PRCTL == 0);
    handlers::DEATH_SIGNAL.store(needs & message::NEEDS_DEATH_SIGNAL != 0, Ordering::Relaxed);
    // SAFETY: the zygote has one thread, and this runs once.
    unsafe {
        let programs = &mut *(&raw mut PROGRAMS);
        programs[..buffer.len() - 5].copy_from_slice(&buffer[5..]);
        let base = programs.as_ptr() as u64;
        let program = |length: u64, at: u64| Program { length: length as u16, _padding: [0; 3], filter: base + at * 8 };
        FILTERS = Filters { listener_flags: buffer[1], listener: program(buffer[2], 0), strict: program(buffer[3], buffer[2]) };
    }
}

/// `last`: an address in the last page of the stack that we run on.
fn become_pool_process(token: [u64; 2], stack: (u64, u64), last: u64) -> ! {
    /// PRIVATE, ANONYMOUS, NORESERVE, STACK, FIXED_NOREPLACE.
    const STACK_FLAGS: u64 = 0x2 | 0x20 | 0x4000 | 0x2_0000 | 0x10_0000;
    const PROT_READ_WRITE: u64 = 3;
    handlers::set_death_signal();
    let mapped = call!(number::MMAP, stack.0, stack.1, PROT_READ_WRITE, STACK_FLAGS, -1i64, 0);
    if mapped != stack.0 as i64 {
        fail(STAGE_STACK, -mapped as u64);
    }
    let thread = match handlers::map_slot(0) {
        Ok(thread) => thread,
        Err(error) => fail(STAGE_SLOT, -error as u64),
    };
    thread.token = token;
    handlers::set_up_thread(thread);
    // SAFETY: the slot's stack is mapped, and nothing of this one is needed any more.
    unsafe { host::go_on_stack(thread.address, thread.stack_top(), last) }
}

/// A pool process on its slot's stack. The zygote's goes: what a process has mapped is copied at each of its forks.
#[no_mangle]
extern "C" fn pool_process_main(address: u64, last: u64) -> ! {
    /// More than it can have grown to.
    const LARGEST: u64 = 1 << 20;
    let thread = thread::at(address);
    let token = thread.token;
    let end = (last | 0xfff) + 1;
    call!(number::MUNMAP, end - LARGEST, LARGEST);
    // SAFETY: written before the fork only.
    let filters = unsafe { &*(&raw const FILTERS) };
    let listener = call!(number::SECCOMP, SECCOMP_SET_MODE_FILTER, filters.listener_flags, &raw const filters.listener);
    if listener < 0 {
        fail(STAGE_LISTENER, -listener as u64);
    }
    send(&[message::POOL, token[0], token[1]], Some(listener as i32));
    close_all();
    let strict = call!(number::SECCOMP, SECCOMP_SET_MODE_FILTER, 0, &raw const filters.strict);
    if strict < 0 {
        fail(STAGE_FILTER, -strict as u64);
    }
    handlers::enrol(thread);
    handlers::wait_for_program(thread)
}

/// Closes every descriptor: what an application process has in its table it can use.
fn close_all() {
    /// Where a profile refuses close_range(2): the zygote has opened none but its first few.
    const HIGHEST: u64 = 1024;
    if call!(number::CLOSE_RANGE, 0, u32::MAX, 0) < 0 {
        for descriptor in 0..HIGHEST {
            call!(number::CLOSE, descriptor);
        }
    }
}

fn fail(stage: u64, errno: u64) -> ! {
    send(&[message::FAILED, stage, errno], None);
    host::exit(1)
}

/// Sends one packet to the sentry, with a descriptor if there is one.
fn send(words: &[u64], descriptor: Option<i32>) {
    const SOL_SOCKET: u64 = 1;
    const SCM_RIGHTS: u64 = 1;
    let control = [20, SOL_SOCKET | SCM_RIGHTS << 32, descriptor.unwrap_or(0) as u32 as u64];
    let vector = [words.as_ptr() as u64, words.len() as u64 * 8];
    let header = [
        0,
        0,
        vector.as_ptr() as u64,
        1,
        if descriptor.is_some() { control.as_ptr() as u64 } else { 0 },
        if descriptor.is_some() { 24 } else { 0 },
        0,
    ];
    const MSG_NOSIGNAL: u64 = 0x4000;
    call!(number::SENDMSG, ZYGOTE_SOCKET, header.as_ptr(), MSG_NOSIGNAL);
}
