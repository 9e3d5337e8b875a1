//! Decision lists as a seccomp filter: a search tree over the numbers of calls, whose leaves are the lists. (The crate that
//! the sentry makes its own filter with knows no notification.)

use super::{Decisions, UNKNOWN};
use skerry_control::{Action, Argument, Operator};
use std::collections::BTreeMap;

/// Instructions (`struct sock_filter`, as words).
pub struct Program(pub Vec<u64>);

/// The host takes no more.
const LONGEST: usize = 4096;

const KILL_PROCESS: u32 = 0x8000_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;

const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
/// Numbers from here on are the x32 interface's.
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_OR_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

/// Where a jump goes that is not yet known: on, or behind the condition (it holds), or behind the rule (it does not).
#[derive(Clone, Copy, PartialEq)]
enum Target {
    Next,
    Holds,
    Fails,
}

struct Symbolic {
    code: u16,
    operand: u32,
    if_true: Target,
    if_false: Target,
}

fn word(code: u16, if_true: u8, if_false: u8, operand: u32) -> u64 {
    u64::from(code) | u64::from(if_true) << 16 | u64::from(if_false) << 24 | u64::from(operand) << 32
}

/// What the host is to answer.
pub fn code_of(action: Action, told: bool) -> u32 {
    match action {
        Action::Allow => ALLOW,
        UNKNOWN => ERRNO | libc::ENOSYS as u32,
        _ if told => USER_NOTIF,
        Action::Log => LOG,
        Action::Notify => ERRNO | libc::EPERM as u32,
        Action::Errno(number) => ERRNO | u32::from(number),
        Action::Kill => KILL_PROCESS,
    }
}

impl Program {
    /// `None`: it is too long. With `told`, all but what is allowed goes to a listener, and so do the calls that are `watched`,
    /// and those that start programs: the agent learns there that a filter is in force.
    pub fn compile(decisions: &BTreeMap<u32, Decisions>, told: bool, watched: &[libc::c_long]) -> Option<Program> {
        let leaf = |number: u32, decisions: &Decisions| -> Option<Vec<u64>> {
            let number = i64::from(number);
            let asks = matches!(number, libc::SYS_execve | libc::SYS_execveat) || watched.contains(&number);
            let code = |action| if told && asks && action == Action::Allow { USER_NOTIF } else { code_of(action, told) };
            let mut words = Vec::new();
            for (conditions, action) in decisions {
                words.extend(rule(conditions, code(*action))?);
            }
            Some(words)
        };
        // Neighbours that are decided alike are one leaf; numbers that nobody knows lie between.
        let unknown = vec![word(RETURN, 0, 0, code_of(UNKNOWN, told))];
        let mut leaves: Vec<(u32, Vec<u64>)> = vec![(0, unknown.clone())];
        let mut next = 0;
        for (number, decisions) in decisions {
            let mut put = |from: u32, words: Vec<u64>| match leaves.last() {
                Some((_, last)) if *last == words => {}
                Some((start, _)) if *start == from => {
                    leaves.pop();
                    if leaves.last().is_none_or(|(_, last)| *last != words) {
                        leaves.push((from, words));
                    }
                }
                _ => leaves.push((from, words)),
            };
            if *number > next {
                put(next, unknown.clone());
            }
            put(*number, leaf(*number, decisions)?);
            next = number + 1;
        }
        if leaves.last().is_some_and(|(_, words)| *words != unknown) {
            leaves.push((next, unknown));
        }
        let mut words = vec![
            word(LOAD, 0, 0, 4),
            word(JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64),
            word(RETURN, 0, 0, KILL_PROCESS),
            word(LOAD, 0, 0, 0),
            word(JUMP_GREATER_OR_EQUAL, 0, 1, X32),
            word(RETURN, 0, 0, code_of(UNKNOWN, told)),
        ];
        words.extend(tree(&leaves));
        (words.len() <= LONGEST).then_some(Program(words))
    }
}

/// The number is loaded; `leaves` are sorted by the first number of each.
fn tree(leaves: &[(u32, Vec<u64>)]) -> Vec<u64> {
    let (low, high) = leaves.split_at(leaves.len() / 2);
    let [(first, _), ..] = high else { return Vec::new() };
    if low.is_empty() {
        return high[0].1.clone();
    }
    let below = tree(low);
    let mut words = vec![word(JUMP_GREATER_OR_EQUAL, 0, 1, *first), word(JUMP, 0, 0, below.len() as u32)];
    words.extend(below);
    words.extend(tree(high));
    words
}

/// One entry of a list: returns `code` where all conditions hold, else goes on behind itself.
fn rule(conditions: &[Argument], code: u32) -> Option<Vec<u64>> {
    let parts: Vec<Vec<Symbolic>> = conditions.iter().map(condition).collect();
    let length = parts.iter().map(Vec::len).sum::<usize>() + 1;
    let mut words = Vec::with_capacity(length);
    for part in parts {
        let holds = words.len() + part.len();
        for one in part {
            let here = words.len() + 1;
            let distance = |target: Target| match target {
                Target::Next => Some(0),
                Target::Holds => u8::try_from(holds - here).ok(),
                Target::Fails => u8::try_from(length - here).ok(),
            };
            words.push(word(one.code, distance(one.if_true)?, distance(one.if_false)?, one.operand));
        }
    }
    words.push(word(RETURN, 0, 0, code));
    Some(words)
}

fn condition(argument: &Argument) -> Vec<Symbolic> {
    use Target::*;
    let mut code = Vec::new();
    let low = 16 + 8 * u32::from(argument.index);
    let halves = |value: u64| (value as u32, (value >> 32) as u32);
    let ((low_mask, high_mask), (low_value, high_value)) = (halves(argument.mask), halves(argument.value));
    let load = |code: &mut Vec<Symbolic>, offset: u32, mask: u32| {
        code.push(Symbolic { code: LOAD, operand: offset, if_true: Next, if_false: Next });
        if mask != u32::MAX {
            code.push(Symbolic { code: AND, operand: mask, if_true: Next, if_false: Next });
        }
    };
    let jump = |code: &mut Vec<Symbolic>, kind: u16, operand: u32, if_true: Target, if_false: Target| {
        code.push(Symbolic { code: kind, operand, if_true, if_false });
    };
    // The upper half decides unless it is equal.
    load(&mut code, low + 4, high_mask);
    let (yes, no) = match argument.operator {
        Operator::Equal | Operator::Greater | Operator::GreaterOrEqual => (Holds, Fails),
        Operator::NotEqual | Operator::Less | Operator::LessOrEqual => (Fails, Holds),
    };
    match argument.operator {
        Operator::Equal | Operator::NotEqual => {
            jump(&mut code, JUMP_EQUAL, high_value, Next, no);
            load(&mut code, low, low_mask);
            jump(&mut code, JUMP_EQUAL, low_value, yes, no);
        }
        Operator::Greater | Operator::GreaterOrEqual | Operator::Less | Operator::LessOrEqual => {
            let strictly = matches!(argument.operator, Operator::Greater | Operator::LessOrEqual);
            jump(&mut code, JUMP_GREATER, high_value, yes, Next);
            jump(&mut code, JUMP_EQUAL, high_value, Next, no);
            load(&mut code, low, low_mask);
            jump(&mut code, if strictly { JUMP_GREATER } else { JUMP_GREATER_OR_EQUAL }, low_value, yes, no);
        }
    }
    code
}

/// What the host would answer, computed here.
#[cfg(test)]
pub fn run(program: &[u64], number: u32, arguments: &[u64; 6]) -> u32 {
    let (mut at, mut value) = (0usize, 0u32);
    loop {
        let word = program[at];
        let (code, if_true, if_false, operand) =
            (word as u16, (word >> 16) as u8 as usize, (word >> 24) as u8 as usize, (word >> 32) as u32);
        at += 1;
        match code {
            LOAD => {
                value = match operand {
                    0 => number,
                    4 => AUDIT_ARCH_X86_64,
                    offset => {
                        let argument = arguments[(offset as usize - 16) / 8];
                        if offset % 8 == 0 {
                            argument as u32
                        } else {
                            (argument >> 32) as u32
                        }
                    }
                }
            }
            AND => value &= operand,
            JUMP => at += operand as usize,
            JUMP_EQUAL => at += if value == operand { if_true } else { if_false },
            JUMP_GREATER => at += if value > operand { if_true } else { if_false },
            JUMP_GREATER_OR_EQUAL => at += if value >= operand { if_true } else { if_false },
            RETURN => return operand,
            other => panic!("{other:x}"),
        }
    }
}
