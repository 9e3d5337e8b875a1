//! The two seccomp filters of an application process, as data and as classic BPF.
//!
//! The *listener filter* sends the doorbell, clone(2) and prctl(2) to the sentry and lets the rest be. The *strict filter* decides
//! the rest: a call is allowed only when made from the stub's gadget (so that the guest's own `syscall` instructions trap,
//! which is correctness) and only with the arguments below (which is the wall: a hostile program can jump to the gadget).

use crate::layout;
use skerry_abi::raw::general as nr;

/// One BPF instruction (`struct sock_filter`), as a word.
pub type Instruction = u64;

/// What an argument must be.
#[derive(Clone, Debug)]
enum Condition {
    /// Exactly this 64-bit value.
    Equal(u64),
    /// Any of these 32-bit values; the upper half is ignored, as the host ignores it.
    OneOf(&'static [u32]),
    /// No bit in the upper half.
    NoUpperHalf,
    /// No bit outside of this mask in the lower half.
    Within(u32),
    /// Any of these after the bits of the mask (second) are taken away, in the lower half.
    OneOfMasked(&'static [u32], u32),
}

/// A call that may be made, and its conditions: (argument index, condition).
struct Rule {
    number: u32,
    conditions: Vec<(u32, Condition)>,
}

/// mmap(2) flags without GROWSDOWN, LOCKED, HUGETLB, SYNC and unknown ones.
const MMAP_FLAGS: u32 = 0x3 | 0x10 | 0x20 | 0x40 | 0x800 | 0x1000 | 0x4000 | 0x8000 | 0x1_0000 | 0x2_0000 | 0x10_0000;
/// READ, WRITE, EXEC (not GROWSDOWN, GROWSUP).
const PROTECTION: u32 = 7;
const MADVICE: &[u32] = &[0, 1, 2, 3, 4, 8, 10, 11, 14, 15, 16, 17, 18, 19, 22, 23];
const FUTEX_OPERATIONS: &[u32] = &[0, 1, 3, 4, 5, 9, 10];
/// PRIVATE, CLOCK_REALTIME.
const FUTEX_MODIFIERS: u32 = 128 | 256;
const ARCH_PRCTL_CODES: &[u32] = &[0x1001, 0x1002, 0x1003, 0x1004];
/// All of each: the upper halves are zero.
const CLONE_FLAGS: [u32; 3] = [layout::CLONE_FLAGS[0] as u32, layout::CLONE_FLAGS[1] as u32, layout::CLONE_FLAGS[2] as u32];
const PR_SET_PDEATHSIG: u64 = 1;
const SIGKILL: u64 = 9;

/// What an application process may do itself with open files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataCalls {
    /// Read and write those that are in its table: the sentry puts only such there as the program may use that way.
    Direct,
    /// Nothing: all data goes through the sentry.
    Mediated,
}

/// What an application process has calls for on this host, in this sandbox.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    pub data: DataCalls,
    /// The host does not let programs set the bases of fs and gs by themselves.
    pub arch_prctl: bool,
    /// Each process has the host end it with the sentry: nothing else does so.
    pub death_signal: bool,
}

/// Reading, writing and seeking; on any number, as the filter cannot tell descriptors apart. With several pieces of memory,
/// and to the disk, it is the sentry's.
const DATA_CALLS: [u32; 5] = [nr::__NR_read, nr::__NR_write, nr::__NR_lseek, nr::__NR_pread64, nr::__NR_pwrite64];

fn rules(needs: Needs) -> Vec<Rule> {
    use Condition::*;
    let rule = |number: u32, conditions: &[(u32, Condition)]| Rule { number, conditions: conditions.to_vec() };
    let mut rules = Vec::new();
    if needs.data == DataCalls::Direct {
        rules.extend(DATA_CALLS.map(|number| rule(number, &[])));
    }
    if needs.arch_prctl {
        rules.push(rule(nr::__NR_arch_prctl, &[(0, OneOf(ARCH_PRCTL_CODES))]));
    }
    if needs.death_signal {
        rules.push(rule(nr::__NR_prctl, &[(0, Equal(PR_SET_PDEATHSIG)), (1, Equal(SIGKILL))]));
    }
    rules.extend([
        rule(nr::__NR_getppid, &[(0, Equal(layout::DOORBELL_MAGIC))]),
        rule(nr::__NR_futex, &[(1, OneOfMasked(FUTEX_OPERATIONS, FUTEX_MODIFIERS))]),
        rule(nr::__NR_rt_sigreturn, &[]),
        rule(nr::__NR_mmap, &[(2, Within(PROTECTION)), (3, Within(MMAP_FLAGS))]),
        rule(nr::__NR_munmap, &[]),
        rule(nr::__NR_mprotect, &[(2, Within(PROTECTION))]),
        rule(nr::__NR_madvise, &[(2, OneOf(MADVICE))]),
        rule(nr::__NR_mremap, &[(3, Within(3))]),
        rule(nr::__NR_sched_yield, &[]),
        rule(nr::__NR_close, &[]),
        rule(nr::__NR_exit, &[]),
    ]);
    rules.push(rule(nr::__NR_clone, &[(0, OneOf(&CLONE_FLAGS)), (0, NoUpperHalf)]));
    rules
}

const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const INSTRUCTION_POINTER_AT: u32 = 8;

fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

/// A BPF program under construction. Jumps are forward and short.
#[derive(Default)]
struct Program {
    instructions: Vec<Instruction>,
}

impl Program {
    fn push(&mut self, code: u16, if_true: u8, if_false: u8, operand: u32) {
        self.instructions
            .push(u64::from(code) | u64::from(if_true) << 16 | u64::from(if_false) << 24 | u64::from(operand) << 32);
    }
    /// A = word at `offset` of seccomp_data.
    fn load(&mut self, offset: u32) {
        self.push(0x20, 0, 0, offset);
    }
    fn and(&mut self, mask: u32) {
        self.push(0x54, 0, 0, mask);
    }
    fn jump_equal(&mut self, operand: u32, if_true: u8, if_false: u8) {
        self.push(0x15, if_true, if_false, operand);
    }
    fn jump_greater(&mut self, operand: u32, if_true: u8, if_false: u8) {
        self.push(0x25, if_true, if_false, operand);
    }
    fn give(&mut self, action: u32) {
        self.push(0x06, 0, 0, action);
    }
    fn append(&mut self, other: Program) {
        self.instructions.extend(other.instructions);
    }
}

/// Code that falls through where the condition holds, and jumps over `rest` further instructions where it does not.
fn condition_code(index: u32, condition: &Condition, rest: usize) -> Program {
    let mut code = Program::default();
    let low = argument_at(index);
    match condition {
        Condition::Equal(value) => {
            code.load(low);
            code.jump_equal(*value as u32, 0, (2 + rest) as u8);
            code.load(low + 4);
            code.jump_equal((*value >> 32) as u32, 0, rest as u8);
        }
        Condition::NoUpperHalf => {
            code.load(low + 4);
            code.jump_equal(0, 0, rest as u8);
        }
        Condition::Within(mask) => {
            code.load(low);
            code.and(!mask);
            code.jump_equal(0, 0, rest as u8);
        }
        Condition::OneOf(values) => one_of(&mut code, low, values, None, rest),
        Condition::OneOfMasked(values, mask) => one_of(&mut code, low, values, Some(*mask), rest),
    }
    code
}

fn one_of(code: &mut Program, low: u32, values: &[u32], mask: Option<u32>, rest: usize) {
    code.load(low);
    if let Some(mask) = mask {
        code.and(!mask);
    }
    for (position, value) in values.iter().enumerate() {
        let left = values.len() - position - 1;
        let if_false = if left == 0 { rest } else { 0 };
        code.jump_equal(*value, left as u8, if_false as u8);
    }
}

/// The strict filter, for calls made from instructions in `gadget` (start and end addresses).
pub fn strict(gadget: (u64, u64), needs: Needs) -> Vec<Instruction> {
    let mut program = Program::default();
    program.load(ARCHITECTURE_AT);
    program.jump_equal(AUDIT_ARCH_X86_64, 1, 0);
    program.give(TRAP);
    // The instruction pointer is behind the `syscall`: greater than the start, at most the end.
    program.load(INSTRUCTION_POINTER_AT + 4);
    program.jump_equal((gadget.0 >> 32) as u32, 1, 0);
    program.give(TRAP);
    program.load(INSTRUCTION_POINTER_AT);
    program.jump_greater(gadget.0 as u32, 0, 1);
    program.jump_greater(gadget.1 as u32, 0, 1);
    program.give(TRAP);
    program.load(NUMBER_AT);
    // Rules and conditions from the last to the first, each knowing how much follows it. Each process has the host translate
    // this once: it is as short as it can be.
    let mut behind = Program::default();
    behind.give(TRAP);
    for rule in rules(needs).iter().rev() {
        let mut tail = Program::default();
        tail.give(ALLOW);
        for (index, condition) in rule.conditions.iter().rev() {
            // A call has one rule: there is no other that could let it through.
            let to_the_end = tail.instructions.len() + behind.instructions.len() - 1;
            let mut code = condition_code(*index, condition, to_the_end);
            code.append(tail);
            tail = code;
        }
        let mut whole = Program::default();
        whole.jump_equal(rule.number, 0, tail.instructions.len() as u8);
        whole.append(tail);
        whole.append(behind);
        behind = whole;
    }
    program.append(behind);
    program.instructions
}

/// The listener filter: the doorbell and every clone ring, and prctl(2), where the strict filter lets it through.
pub fn listener() -> Vec<Instruction> {
    let mut program = Program::default();
    program.load(ARCHITECTURE_AT);
    program.jump_equal(AUDIT_ARCH_X86_64, 1, 0);
    program.give(ALLOW);
    program.load(NUMBER_AT);
    program.jump_equal(nr::__NR_clone, 1, 0);
    program.jump_equal(nr::__NR_prctl, 0, 1);
    program.give(USER_NOTIF);
    program.jump_equal(nr::__NR_getppid, 1, 0);
    program.give(ALLOW);
    program.append(condition_code(0, &Condition::Equal(layout::DOORBELL_MAGIC), 1));
    program.give(USER_NOTIF);
    program.give(ALLOW);
    program.instructions
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Classic BPF over `seccomp_data`, enough for these filters.
    fn run(program: &[Instruction], number: u32, architecture: u32, ip: u64, arguments: [u64; 6]) -> u32 {
        let mut data = Vec::new();
        data.extend(number.to_le_bytes());
        data.extend(architecture.to_le_bytes());
        data.extend(ip.to_le_bytes());
        for argument in arguments {
            data.extend(argument.to_le_bytes());
        }
        let (mut at, mut a) = (0usize, 0u32);
        loop {
            let word = program[at];
            let (code, jt, jf, k) = (word as u16, (word >> 16) as u8, (word >> 24) as u8, (word >> 32) as u32);
            at += 1;
            let jump = |taken: bool| if taken { jt as usize } else { jf as usize };
            match code {
                0x20 => a = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
                0x54 => a &= k,
                0x15 => at += jump(a == k),
                0x25 => at += jump(a > k),
                0x06 => return k,
                _ => panic!("unknown instruction {code:#x}"),
            }
        }
    }

    const GADGET: (u64, u64) = (0x7000_0000_1000, 0x7000_0000_1080);
    const INSIDE: u64 = 0x7000_0000_1010;

    const LEAST: Needs = Needs { data: DataCalls::Mediated, arch_prctl: false, death_signal: false };
    const MOST: Needs = Needs { data: DataCalls::Direct, arch_prctl: true, death_signal: true };

    fn strictly(number: u32, arguments: [u64; 6]) -> u32 {
        run(&strict(GADGET, LEAST), number, AUDIT_ARCH_X86_64, INSIDE, arguments)
    }

    #[test]
    fn nothing_passes_from_outside_the_gadget_or_by_another_door() {
        for number in 0..600 {
            for ip in [0, 0x40_0000, GADGET.0, GADGET.1 + 1, INSIDE & 0xffff_ffff, INSIDE | 1 << 63] {
                let program = strict(GADGET, MOST);
                assert_eq!(run(&program, number, AUDIT_ARCH_X86_64, ip, [0; 6]), TRAP, "{number} at {ip:#x}");
            }
            assert_eq!(run(&strict(GADGET, MOST), number, 0x4000_0003, INSIDE, [0; 6]), TRAP, "i386 {number}");
            assert_eq!(strictly(number | 0x4000_0000, [0; 6]), TRAP, "x32 {number}");
        }
    }

    #[test]
    fn only_the_listed_calls_pass_with_only_the_listed_arguments() {
        let allowed: Vec<u32> = (0..600).filter(|&number| strictly(number, [0; 6]) == ALLOW).collect();
        assert_eq!(allowed, [3, 9, 10, 11, 15, 24, 25, 28, 60, 202]);
        assert_eq!(strictly(nr::__NR_mmap, [0, 4096, 3, 0x122, 0, 0]), TRAP, "MAP_GROWSDOWN");
        assert_eq!(strictly(nr::__NR_mmap, [0, 4096, 7, 0x22, 0, 0]), ALLOW);
        assert_eq!(strictly(nr::__NR_mmap, [0, 4096, 3, 0x4_0022, 0, 0]), TRAP, "MAP_HUGETLB");
        assert_eq!(strictly(nr::__NR_mprotect, [0, 4096, 0x0100_0003, 0, 0, 0]), TRAP, "PROT_GROWSDOWN");
        assert_eq!(strictly(nr::__NR_madvise, [0, 4096, 100, 0, 0, 0]), TRAP, "MADV_HWPOISON");
        assert_eq!(strictly(nr::__NR_madvise, [0, 4096, 9, 0, 0, 0]), TRAP, "MADV_REMOVE");
        for pi in [6, 7, 8, 11, 12, 13, 2] {
            assert_eq!(strictly(nr::__NR_futex, [0, pi | 128, 0, 0, 0, 0]), TRAP, "futex {pi}");
        }
        assert_eq!(strictly(nr::__NR_futex, [0, 9 | 128 | 256, 0, 0, 0, 0]), ALLOW);
        assert_eq!(strictly(nr::__NR_getppid, [layout::DOORBELL_MAGIC, 1, 0, 0, 0, 0]), ALLOW);
        assert_eq!(strictly(nr::__NR_getppid, [layout::DOORBELL_MAGIC & 0xffff_ffff, 1, 0, 0, 0, 0]), TRAP);
        assert_eq!(strictly(nr::__NR_prctl, [1, 9, 0, 0, 0, 0]), TRAP);
        assert_eq!(strictly(nr::__NR_arch_prctl, [0x1002, 0, 0, 0, 0, 0]), TRAP);
        let needing = |number, arguments| run(&strict(GADGET, MOST), number, AUDIT_ARCH_X86_64, INSIDE, arguments);
        assert_eq!(needing(nr::__NR_prctl, [1, 9, 0, 0, 0, 0]), ALLOW);
        assert_eq!(needing(nr::__NR_prctl, [1, 0, 0, 0, 0, 0]), TRAP, "clearing the death signal");
        assert_eq!(needing(nr::__NR_arch_prctl, [0x1002, 0, 0, 0, 0, 0]), ALLOW);
        assert_eq!(needing(nr::__NR_arch_prctl, [0x1011, 0, 0, 0, 0, 0]), TRAP, "cpuid faulting");
        for flags in layout::CLONE_FLAGS {
            assert_eq!(strictly(nr::__NR_clone, [flags, 0, 0, 0, 0, 0]), ALLOW);
            for bit in 0..64 {
                let other = flags ^ (1 << bit);
                if !layout::CLONE_FLAGS.contains(&other) {
                    assert_eq!(strictly(nr::__NR_clone, [other, 0, 0, 0, 0, 0]), TRAP, "{other:#x}");
                }
            }
        }
    }

    #[test]
    fn direct_data_allows_reading_and_writing_and_nothing_else() {
        let directly = |number, arguments| {
            run(&strict(GADGET, Needs { data: DataCalls::Direct, ..LEAST }), number, AUDIT_ARCH_X86_64, INSIDE, arguments)
        };
        let more: Vec<u32> =
            (0..600).filter(|&number| directly(number, [0; 6]) == ALLOW && strictly(number, [0; 6]) != ALLOW).collect();
        assert_eq!(more, [0, 1, 8, 17, 18]);
        // Page-cache side channels (RWF_NOWAIT), and ways to move data between descriptors.
        for number in [nr::__NR_preadv2, nr::__NR_pwritev2, nr::__NR_sendfile, nr::__NR_splice, nr::__NR_dup, nr::__NR_fcntl] {
            assert_eq!(directly(number, [0; 6]), TRAP, "{number}");
        }
    }

    #[test]
    fn the_doorbell_and_clone_ring() {
        let ring = |number, argument| run(&listener(), number, AUDIT_ARCH_X86_64, 0, [argument, 0, 0, 0, 0, 0]);
        assert_eq!(ring(nr::__NR_clone, 0), USER_NOTIF);
        assert_eq!(ring(nr::__NR_prctl, PR_SET_PDEATHSIG), USER_NOTIF);
        assert_eq!(ring(nr::__NR_getppid, layout::DOORBELL_MAGIC), USER_NOTIF);
        assert_eq!(ring(nr::__NR_getppid, 0), ALLOW);
        assert_eq!(ring(nr::__NR_getppid, layout::DOORBELL_MAGIC ^ 1 << 63), ALLOW);
        assert_eq!(ring(nr::__NR_read, layout::DOORBELL_MAGIC), ALLOW);
    }

    #[test]
    fn both_fit_into_one_message() {
        assert!((strict(GADGET, MOST).len() + listener().len() + 5) * 8 <= layout::zygote::MAXIMUM_MESSAGE);
        // A jump to its end has one byte.
        assert!(strict(GADGET, MOST).len() < 256);
    }
}
