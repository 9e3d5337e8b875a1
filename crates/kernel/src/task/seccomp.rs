//! A guest's own seccomp(2) filters: classic BPF over `struct seccomp_data`, checked when installed and evaluated here
//! for every call of the task. The programs cannot loop and touch nothing but their own sixteen words.

use super::{exit, ExitStatus, Task};
use crate::context::Call;
use crate::{Context, Errno, Result};
use parking_lot::RwLock;
use skerry_abi::raw::general::{__NR_exit, __NR_read, __NR_rt_sigreturn, __NR_write, RLIMIT_CORE};
use skerry_abi::signal::{Signal, SignalInfo};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;

/// AUDIT_ARCH_X86_64, what `seccomp_data.arch` always is here.
pub const ARCHITECTURE: u32 = 0xc000_003e;
/// BPF_MAXINSNS.
pub const MAXIMUM_INSTRUCTIONS: usize = 4096;
/// All filters of a task together, each with four more (seccomp(2), ENOMEM).
const MAXIMUM_TOTAL: usize = 32768;
/// sizeof(struct seccomp_data).
const DATA_SIZE: u32 = 64;

/// `struct sock_filter`.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    zerocopy::FromBytes,
    zerocopy::IntoBytes,
    zerocopy::Immutable,
    zerocopy::KnownLayout,
)]
#[repr(C)]
pub struct Instruction {
    pub code: u16,
    pub jump_true: u8,
    pub jump_false: u8,
    pub k: u32,
}

/// A filter and those installed before it.
pub struct FilterChain {
    filter: Filter,
    previous: Option<Arc<FilterChain>>,
    /// Instructions of the whole chain, with Linux's overhead.
    total: usize,
    depth: usize,
}

enum Filter {
    /// SECCOMP_SET_MODE_STRICT.
    Strict,
    Program(Vec<Instruction>),
}

impl FilterChain {
    /// SECCOMP_MODE_STRICT or SECCOMP_MODE_FILTER, as /proc/PID/status and prctl(PR_GET_SECCOMP) number them.
    pub fn mode(&self) -> u32 {
        match self.filter {
            Filter::Strict => 1,
            Filter::Program(_) => 2,
        }
    }
    /// How many filters there are ("Seccomp_filters" in /proc/PID/status).
    pub fn depth(&self) -> usize {
        self.depth
    }
    fn has_ancestor(chain: &Option<Arc<FilterChain>>, ancestor: &Option<Arc<FilterChain>>) -> bool {
        let Some(ancestor) = ancestor else { return true };
        let mut link = chain.as_ref();
        while let Some(present) = link {
            if Arc::ptr_eq(present, ancestor) {
                return true;
            }
            link = present.previous.as_ref();
        }
        false
    }
}

impl Drop for FilterChain {
    /// A long chain is let go of link by link, not by recursion.
    fn drop(&mut self) {
        let mut next = self.previous.take();
        while let Some(link) = next {
            next = Arc::into_inner(link).and_then(|mut link| link.previous.take());
        }
    }
}

/// A task's filters. That there are none, as nearly always, is told without a lock.
#[derive(Default)]
pub struct Filters {
    present: AtomicBool,
    chain: RwLock<Option<Arc<FilterChain>>>,
}

impl Filters {
    pub fn new(chain: Option<Arc<FilterChain>>) -> Filters {
        Filters { present: AtomicBool::new(chain.is_some()), chain: RwLock::new(chain) }
    }

    pub fn is_some(&self) -> bool {
        self.present.load(Ordering::Acquire)
    }

    pub fn get(&self) -> Option<Arc<FilterChain>> {
        if self.is_some() {
            self.chain.read().clone()
        } else {
            None
        }
    }

    pub fn set(&self, chain: Option<Arc<FilterChain>>) {
        let mut present = self.chain.write();
        self.present.store(chain.is_some(), Ordering::Release);
        *present = chain;
    }
}

/// SECCOMP_SET_MODE_STRICT. EINVAL where filters are in force.
pub fn set_strict(task: &Task) -> Result<()> {
    task.files().never_direct();
    // With that lock no other thread gives it filters meanwhile.
    let threads = task.process().threads.lock();
    match task.seccomp.get().map(|chain| chain.mode()) {
        None => task.seccomp.set(Some(Arc::new(FilterChain { filter: Filter::Strict, previous: None, total: 0, depth: 0 }))),
        Some(1) => {}
        Some(_) => return Err(Errno::EINVAL),
    }
    drop(threads);
    task.tell_identity();
    Ok(())
}

/// SECCOMP_SET_MODE_FILTER on one thread, or (`all_threads`, SECCOMP_FILTER_FLAG_TSYNC) on all of the process. Returns 0,
/// or the id of a thread whose filters are not among the caller's own. EINVAL: not a valid program; ENOMEM: too much.
pub fn add_filter(task: &Arc<Task>, program: Vec<Instruction>, all_threads: bool) -> Result<i32> {
    check(&program)?;
    let process = task.process();
    let threads = process.threads.lock();
    let present = task.seccomp.get();
    if present.as_ref().is_some_and(|chain| chain.mode() == 1) {
        return Err(Errno::EINVAL);
    }
    if all_threads {
        for thread in threads.iter().filter(|thread| !Arc::ptr_eq(thread, task)) {
            let theirs = thread.seccomp.get();
            let strict = theirs.as_ref().is_some_and(|chain| chain.mode() == 1);
            if strict || !FilterChain::has_ancestor(&present, &theirs) {
                return Ok(thread.tid());
            }
        }
    }
    let before = present.as_ref().map_or(0, |chain| chain.total);
    let total = before + program.len() + 4;
    if total > MAXIMUM_TOTAL {
        return Err(Errno::ENOMEM);
    }
    let depth = present.as_ref().map_or(0, |chain| chain.depth) + 1;
    let chain = Arc::new(FilterChain { filter: Filter::Program(program), previous: present, total, depth });
    task.seccomp.set(Some(chain.clone()));
    // From now on every call is looked at.
    task.files().never_direct();
    task.tell_identity();
    if all_threads {
        let no_new_privs = task.credentials().no_new_privs;
        for thread in threads.iter().filter(|thread| !Arc::ptr_eq(thread, task)) {
            thread.seccomp.set(Some(chain.clone()));
            thread.tell_identity();
            if no_new_privs && !thread.credentials().no_new_privs {
                let mut credentials = (*thread.credentials()).clone();
                credentials.no_new_privs = true;
                thread.set_credentials(credentials);
            }
        }
    }
    Ok(0)
}

/// Whether the task has a filter of its own: then every call of it comes here.
pub fn is_filtered(task: &Task) -> bool {
    task.seccomp.is_some()
}

/// Asks the task's filters about the call that it is making. `None`: it is served as usual; else this is its result.
pub fn before_call(context: &mut Context) -> Option<Result<u64>> {
    let task = context.task;
    let chain = task.seccomp.get()?;
    context.instruction_pointer();
    let verdict = evaluate(&chain, &context.call);
    let data = verdict & 0xffff;
    match verdict & ACTION_MASK {
        ALLOW | LOG => None,
        ERRNO if data == 0 => Some(Ok(0)),
        ERRNO => Some(Err(Errno(data.min(4095) as i32))),
        // Without a tracer or a listener (seccomp(2)).
        TRACE | USER_NOTIFICATION => Some(Err(Errno::ENOSYS)),
        TRAP => {
            crate::signal::force_signal(task, trap_info(&context.call, data));
            Some(Ok(context.call.number))
        }
        action => {
            let process = task.process();
            let core = process.rlimit(RLIMIT_CORE).current > 0 && process.dumpable.load(Ordering::Relaxed);
            let signal = if chain.mode() == 1 { Signal::SIGKILL } else { Signal::SIGSYS };
            let alone = process.threads.lock().len() <= 1;
            if action == KILL_THREAD && !alone {
                exit::exit_thread(task, 0);
            } else {
                exit::exit_group(task, ExitStatus::Signaled(signal, core && signal == Signal::SIGSYS));
            }
            Some(Err(Errno::ENOSYS))
        }
    }
}

/// SIGSYS as seccomp(2) sends it: si_code SYS_SECCOMP, si_errno the filter's data.
fn trap_info(call: &Call, data: u32) -> SignalInfo {
    let mut info = SignalInfo::fault(Signal::SIGSYS, 1, call.instruction_pointer);
    info.errno = data as i32;
    info.fields[1] = u64::from(call.number as u32) | u64::from(ARCHITECTURE) << 32;
    info
}

const ACTION_MASK: u32 = 0xffff_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIFICATION: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

/// The strictest answer of all filters; of equal ones the newest filter's.
fn evaluate(chain: &Arc<FilterChain>, call: &Call) -> u32 {
    let mut verdict = ALLOW;
    let mut link = Some(chain);
    while let Some(present) = link {
        let answer = match &present.filter {
            Filter::Strict => {
                let allowed = [__NR_read, __NR_write, __NR_exit, __NR_rt_sigreturn];
                if allowed.iter().any(|&number| u64::from(number) == call.number) {
                    ALLOW
                } else {
                    KILL_THREAD
                }
            }
            Filter::Program(program) => run(program, call),
        };
        // As signed numbers the actions are in order of strictness, SECCOMP_RET_KILL_PROCESS (the sign bit) first.
        if ((answer & ACTION_MASK) as i32) < ((verdict & ACTION_MASK) as i32) {
            verdict = answer;
        }
        link = present.previous.as_ref();
    }
    verdict
}

/// A word of `struct seccomp_data`.
fn load(call: &Call, offset: u32) -> u32 {
    let half = |value: u64| if offset % 8 == 0 { value as u32 } else { (value >> 32) as u32 };
    match offset {
        0 => call.number as u32,
        4 => ARCHITECTURE,
        8 | 12 => half(call.instruction_pointer),
        _ => half(call.arguments.get((offset as usize - 16) / 8).copied().unwrap_or(0)),
    }
}

// Classes, sizes, modes and operations of classic BPF (linux/bpf_common.h).
const LD: u16 = 0;
const LDX: u16 = 1;
const ST: u16 = 2;
const STX: u16 = 3;
const ALU: u16 = 4;
const JMP: u16 = 5;
const RET: u16 = 6;
const MISC: u16 = 7;
const IMM: u16 = 0x00;
const ABS: u16 = 0x20;
const MEM: u16 = 0x60;
const LEN: u16 = 0x80;
const SOURCE_X: u16 = 0x08;

/// What Linux lets into a seccomp filter: known instructions, forward jumps within the program, a return at the end.
fn check(program: &[Instruction]) -> Result<()> {
    if program.is_empty() || program.len() > MAXIMUM_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let known = program.iter().enumerate().all(|(index, instruction)| {
        let behind = (program.len() - index - 1) as u64;
        let (class, k) = (instruction.code & 7, instruction.k);
        match class {
            LD if instruction.code == LD | ABS => k % 4 == 0 && k < DATA_SIZE,
            LD | LDX => match instruction.code & !7 {
                IMM | LEN => true,
                MEM => k < 16,
                _ => false,
            },
            ST | STX => instruction.code == class && k < 16,
            ALU => match instruction.code & 0xf0 {
                0x00 | 0x10 | 0x20 | 0x40 | 0x50 | 0xa0 => instruction.code & 0xff00 == 0,
                // Division, and shifts, by a constant.
                0x30 => instruction.code & 0xff00 == 0 && (instruction.code & SOURCE_X != 0 || k != 0),
                0x60 | 0x70 => instruction.code & 0xff00 == 0 && (instruction.code & SOURCE_X != 0 || k < 32),
                0x80 => instruction.code == ALU | 0x80,
                _ => false,
            },
            JMP => match instruction.code & 0xfff0 {
                0x00 => instruction.code == JMP && u64::from(k) < behind,
                0x10 | 0x20 | 0x30 | 0x40 => {
                    u64::from(instruction.jump_true) < behind && u64::from(instruction.jump_false) < behind
                }
                _ => false,
            },
            RET => matches!(instruction.code, 0x06 | 0x16),
            MISC => matches!(instruction.code, 0x07 | 0x87),
            _ => false,
        }
    });
    let returns = program.last().is_some_and(|last| last.code & 7 == RET);
    if known && returns {
        Ok(())
    } else {
        Err(Errno::EINVAL)
    }
}

/// Runs a checked program. Jumps only go forward, so it ends.
fn run(program: &[Instruction], call: &Call) -> u32 {
    let (mut a, mut x, mut memory) = (0u32, 0u32, [0u32; 16]);
    let mut position = 0usize;
    while let Some(instruction) = program.get(position) {
        position += 1;
        let (code, k) = (instruction.code, instruction.k);
        let operand = if code & SOURCE_X != 0 { x } else { k };
        match code & 7 {
            LD | LDX => {
                let value = match code & 0xe0 {
                    ABS => load(call, k),
                    MEM => memory[k as usize & 15],
                    LEN => DATA_SIZE,
                    _ => k,
                };
                if code & 7 == LD {
                    a = value;
                } else {
                    x = value;
                }
            }
            ST => memory[k as usize & 15] = a,
            STX => memory[k as usize & 15] = x,
            ALU => {
                a = match code & 0xf0 {
                    0x00 => a.wrapping_add(operand),
                    0x10 => a.wrapping_sub(operand),
                    0x20 => a.wrapping_mul(operand),
                    // Division by a zero X returns 0, which kills.
                    0x30 => match a.checked_div(operand) {
                        Some(quotient) => quotient,
                        None => return KILL_THREAD,
                    },
                    0x40 => a | operand,
                    0x50 => a & operand,
                    0x60 => a.wrapping_shl(operand),
                    0x70 => a.wrapping_shr(operand),
                    0x80 => a.wrapping_neg(),
                    _ => a ^ operand,
                }
            }
            JMP => {
                let taken = match code & 0xf0 {
                    0x00 => {
                        position = position.saturating_add(k as usize);
                        continue;
                    }
                    0x10 => a == operand,
                    0x20 => a > operand,
                    0x30 => a >= operand,
                    _ => a & operand != 0,
                };
                position += usize::from(if taken { instruction.jump_true } else { instruction.jump_false });
            }
            RET => return if code == 0x16 { a } else { k },
            _ if code == 0x07 => x = a,
            _ => a = x,
        }
    }
    KILL_THREAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u16, jump_true: u8, jump_false: u8, k: u32) -> Instruction {
        Instruction { code, jump_true, jump_false, k }
    }

    fn call(number: u64, first: u64) -> Call {
        Call { number, arguments: [first, 0, 0, 0, 0, 0], instruction_pointer: 0x1_2345_6789, stack_pointer: 0 }
    }

    /// if (arch != x86_64) kill; if (nr == 39) errno 13; if (args[0] high word != 0) trap 7; allow.
    fn example() -> Vec<Instruction> {
        vec![
            instruction(0x20, 0, 0, 4),
            instruction(0x15, 1, 0, ARCHITECTURE),
            instruction(0x06, 0, 0, 0x8000_0000),
            instruction(0x20, 0, 0, 0),
            instruction(0x15, 0, 1, 39),
            instruction(0x06, 0, 0, ERRNO | 13),
            instruction(0x20, 0, 0, 20),
            instruction(0x15, 1, 0, 0),
            instruction(0x06, 0, 0, TRAP | 7),
            instruction(0x06, 0, 0, ALLOW),
        ]
    }

    #[test]
    fn a_filter_decides_by_number_and_arguments() {
        let program = example();
        check(&program).unwrap();
        assert_eq!(run(&program, &call(39, 0)), ERRNO | 13);
        assert_eq!(run(&program, &call(1, 5)), ALLOW);
        assert_eq!(run(&program, &call(1, 1 << 40)), TRAP | 7);
    }

    #[test]
    fn the_strictest_of_all_filters_counts_and_of_equals_the_newest() {
        let program = |k| Filter::Program(vec![instruction(0x06, 0, 0, k)]);
        let link = |filter, previous| Arc::new(FilterChain { filter, previous, total: 0, depth: 0 });
        let chain = link(program(ALLOW), Some(link(program(ERRNO | 1), None)));
        assert_eq!(evaluate(&chain, &call(1, 0)), ERRNO | 1);
        let chain = link(program(ERRNO | 2), Some(chain));
        assert_eq!(evaluate(&chain, &call(1, 0)), ERRNO | 2);
        let chain = link(program(0x8000_0000), Some(link(program(KILL_THREAD), Some(chain))));
        assert_eq!(evaluate(&chain, &call(1, 0)), 0x8000_0000);
    }

    #[test]
    fn programs_that_could_misbehave_are_refused() {
        let bad: [&[Instruction]; 9] = [
            &[],
            &[instruction(0x20, 0, 0, 0)],                           // no return
            &[instruction(0x20, 0, 0, 64), instruction(6, 0, 0, 0)], // outside the data
            &[instruction(0x20, 0, 0, 2), instruction(6, 0, 0, 0)],  // not aligned
            &[instruction(0x05, 0, 0, 1), instruction(6, 0, 0, 0)],  // jumps behind the end
            &[instruction(0x15, 9, 0, 1), instruction(6, 0, 0, 0)],
            &[instruction(0x60, 0, 0, 16), instruction(6, 0, 0, 0)], // no such word
            &[instruction(0x34, 0, 0, 0), instruction(6, 0, 0, 0)],  // division by zero
            &[instruction(0x28, 0, 0, 0), instruction(6, 0, 0, 0)],  // half words
        ];
        for program in bad {
            assert_eq!(check(program), Err(Errno::EINVAL), "{program:?}");
        }
    }

    #[test]
    fn arithmetic_wraps_and_division_by_zero_kills() {
        let program = [
            instruction(0x00, 0, 0, 7),
            instruction(0x07, 0, 0, 0),
            instruction(0x14, 0, 0, 8),
            instruction(0x1c, 0, 0, 0),
            instruction(0x16, 0, 0, 0),
        ];
        check(&program).unwrap();
        assert_eq!(run(&program, &call(0, 0)), 7u32.wrapping_sub(8).wrapping_sub(7));
        let program = [instruction(0x3c, 0, 0, 0), instruction(0x06, 0, 0, ALLOW)];
        check(&program).unwrap();
        assert_eq!(run(&program, &call(0, 0)), KILL_THREAD);
    }
}
