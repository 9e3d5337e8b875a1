//! What a unikernel may ask of the host: at most nine system calls, each with checked arguments, as a seccomp filter. Everything
//! else kills it.

use crate::devices::{Attached, Device};
use skerry_platform::virtual_machine;
use std::os::fd::AsRawFd;

const LOAD: u16 = 0x20;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_ANY_OF: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const KILL_PROCESS: u32 = 0x8000_0000;
const READ_ONLY: u32 = 0x0005_0000 | libc::EROFS as u32;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;

const ARCH_SET_FS: u32 = 0x1002;
const STANDARD_OUTPUT: u32 = 1;

/// What an argument must be. Of a descriptor, an `int` or a clock the host looks at the lower half only.
#[derive(Clone, Copy)]
enum Condition {
    Int(u32),
    Exactly(u64),
    AtMost(u64),
    /// None of these bits of the lower half.
    Without(u32),
}

/// A call, what its arguments must be (by their indices), and what the host does then.
struct Rule {
    number: i64,
    conditions: Vec<(u32, Condition)>,
    action: u32,
}

fn allow(number: i64, conditions: &[(u32, Condition)]) -> Rule {
    Rule { number, conditions: conditions.to_vec(), action: ALLOW }
}

/// Of a unikernel for spt, which makes the calls itself.
fn spt(epoll: i32, timer: i32) -> Vec<Rule> {
    use Condition::*;
    vec![
        allow(libc::SYS_write, &[(0, Int(STANDARD_OUTPUT))]),
        allow(libc::SYS_clock_gettime, &[(0, Int(libc::CLOCK_MONOTONIC as u32))]),
        allow(libc::SYS_clock_gettime, &[(0, Int(libc::CLOCK_REALTIME as u32))]),
        // The signals that it waits with are its own.
        allow(libc::SYS_epoll_pwait, &[(0, Int(epoll as u32)), (4, Exactly(0))]),
        allow(libc::SYS_timerfd_settime, &[(0, Int(timer as u32))]),
        allow(libc::SYS_arch_prctl, &[(0, Int(ARCH_SET_FS))]),
        allow(libc::SYS_exit_group, &[]),
    ]
}

/// Of the loop that runs a unikernel for hvt: its processor, and `nets` net devices that are waited for.
fn hvt(processor: i32, nets: usize) -> Vec<Rule> {
    use Condition::*;
    vec![
        allow(libc::SYS_ioctl, &[(0, Int(processor as u32)), (1, Exactly(virtual_machine::RUN)), (2, Exactly(0))]),
        allow(libc::SYS_write, &[(0, Int(STANDARD_OUTPUT))]),
        // Where the host's clock is not read without a call.
        allow(libc::SYS_clock_gettime, &[(0, Int(libc::CLOCK_REALTIME as u32))]),
        allow(libc::SYS_ppoll, &[(1, Exactly(nets as u64)), (3, Exactly(0))]),
        allow(libc::SYS_exit_group, &[]),
    ]
}

fn of_devices(attached: &[Attached]) -> Vec<Rule> {
    use Condition::*;
    let mut rules = Vec::new();
    for one in attached {
        let descriptor = (0, Int(one.descriptor.as_raw_fd() as u32));
        match one.device {
            Device::Net => {
                rules.push(allow(libc::SYS_read, &[descriptor]));
                rules.push(allow(libc::SYS_write, &[descriptor]));
            }
            Device::Block { capacity, block_size, writable } => {
                // One block, in its place, inside of the file as it was when it was attached.
                let size = u64::from(block_size);
                let last = capacity - size;
                let one = [descriptor, (2, Exactly(size)), (3, AtMost(last)), (3, Without(u32::from(block_size) - 1))];
                rules.push(allow(libc::SYS_pread64, &one));
                let action = if writable { ALLOW } else { READ_ONLY };
                rules.push(Rule { number: libc::SYS_pwrite64, conditions: one.to_vec(), action });
            }
        }
    }
    rules
}

pub fn for_spt(epoll: i32, timer: i32, attached: &[Attached]) -> Vec<u64> {
    instructions(spt(epoll, timer).into_iter().chain(of_devices(attached)))
}

pub fn for_hvt(processor: i32, nets: usize, attached: &[Attached]) -> Vec<u64> {
    instructions(hvt(processor, nets).into_iter().chain(of_devices(attached)))
}

/// As the host takes it.
fn instructions(rules: impl Iterator<Item = Rule>) -> Vec<u64> {
    let mut words = vec![word(LOAD, 0, 0, 4), word(JUMP_EQUAL, 1, 0, AUDIT_ARCH_X86_64), word(RETURN, 0, 0, KILL_PROCESS)];
    for rule in rules {
        let tests: Vec<u64> = rule.conditions.iter().flat_map(|(index, condition)| test(*index, *condition)).collect();
        // Each test that fails leads behind the rule: at most some thirty instructions away.
        let length = tests.len() + 1;
        words.push(word(LOAD, 0, 0, 0));
        words.push(word(JUMP_EQUAL, 0, length as u8, rule.number as u32));
        words.extend(tests.iter().enumerate().map(|(place, word)| resolve(*word, length - place - 1)));
        words.push(word(RETURN, 0, 0, rule.action));
    }
    words.push(word(RETURN, 0, 0, KILL_PROCESS));
    words
}

fn word(code: u16, if_true: u8, if_false: u8, operand: u32) -> u64 {
    u64::from(code) | u64::from(if_true) << 16 | u64::from(if_false) << 24 | u64::from(operand) << 32
}

/// A jump that leads behind the rule, until [`resolve`] has said how far that is.
const BEHIND: u8 = 0xff;

fn resolve(word: u64, behind: usize) -> u64 {
    let put = |word: u64, at: u32| {
        let is_behind = word >> at & 0xff == u64::from(BEHIND);
        if is_behind {
            word & !(0xff << at) | (behind as u64) << at
        } else {
            word
        }
    };
    put(put(word, 16), 24)
}

fn test(index: u32, condition: Condition) -> Vec<u64> {
    let low = 16 + 8 * index;
    let high = low + 4;
    match condition {
        Condition::Int(value) => vec![word(LOAD, 0, 0, low), word(JUMP_EQUAL, 0, BEHIND, value)],
        Condition::Exactly(value) => vec![
            word(LOAD, 0, 0, high),
            word(JUMP_EQUAL, 0, BEHIND, (value >> 32) as u32),
            word(LOAD, 0, 0, low),
            word(JUMP_EQUAL, 0, BEHIND, value as u32),
        ],
        Condition::AtMost(value) => vec![
            word(LOAD, 0, 0, high),
            word(JUMP_GREATER, BEHIND, 0, (value >> 32) as u32),
            word(JUMP_EQUAL, 0, 2, (value >> 32) as u32),
            word(LOAD, 0, 0, low),
            word(JUMP_GREATER, BEHIND, 0, value as u32),
        ],
        Condition::Without(mask) => vec![word(LOAD, 0, 0, low), word(JUMP_ANY_OF, BEHIND, 0, mask)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    /// What the host would answer.
    fn run(program: &[u64], number: i64, arguments: [u64; 6]) -> u32 {
        let (mut at, mut value) = (0usize, 0u32);
        loop {
            let word = program[at];
            let (if_true, if_false) = ((word >> 16) as u8 as usize, (word >> 24) as u8 as usize);
            let operand = (word >> 32) as u32;
            at += 1;
            let taken = match word as u16 {
                LOAD => {
                    value = match operand {
                        0 => number as u32,
                        4 => AUDIT_ARCH_X86_64,
                        offset => (arguments[(offset as usize - 16) / 8] >> (offset % 8 * 8)) as u32,
                    };
                    continue;
                }
                JUMP_EQUAL => value == operand,
                JUMP_GREATER => value > operand,
                JUMP_ANY_OF => value & operand != 0,
                RETURN => return operand,
                other => panic!("{other:x}"),
            };
            at += if taken { if_true } else { if_false };
        }
    }

    fn attached(device: Device) -> Attached {
        Attached { index: 1, descriptor: File::open("/dev/null").unwrap().into(), device }
    }

    #[test]
    fn nothing_but_what_the_devices_need() {
        let capacity = (5 << 32) + 4096;
        let block = attached(Device::Block { capacity, block_size: 4096, writable: true });
        let read_only = attached(Device::Block { capacity: 512, block_size: 512, writable: false });
        let net = attached(Device::Net);
        let [b, r, n] = [&block, &read_only, &net].map(|one| one.descriptor.as_raw_fd() as u64);
        let program = for_spt(70, 71, &[block, read_only, net]);
        let answer = |number, arguments| run(&program, number, arguments);
        let allowed = [
            (libc::SYS_write, [1, 5, 5, 0, 0, 0]),
            (libc::SYS_write, [n, 5, 5, 0, 0, 0]),
            (libc::SYS_read, [n, 5, 5, 0, 0, 0]),
            (libc::SYS_epoll_pwait, [70, 5, 5, 5, 0, 0]),
            (libc::SYS_timerfd_settime, [71, 1, 5, 0, 0, 0]),
            (libc::SYS_clock_gettime, [0, 5, 0, 0, 0, 0]),
            (libc::SYS_clock_gettime, [1, 5, 0, 0, 0, 0]),
            (libc::SYS_arch_prctl, [0x1002, 5, 0, 0, 0, 0]),
            (libc::SYS_exit_group, [5, 5, 5, 5, 5, 5]),
            (libc::SYS_pread64, [b, 5, 4096, 0, 0, 0]),
            (libc::SYS_pwrite64, [b, 5, 4096, 5 << 32, 0, 0]),
            (libc::SYS_pwrite64, [b, 5, 4096, (4 << 32) + 0xffff_f000, 0, 0]),
            (libc::SYS_pread64, [r, 5, 512, 0, 0, 0]),
        ];
        for (number, arguments) in allowed {
            assert_eq!(answer(number, arguments), ALLOW, "{number} {arguments:?}");
        }
        assert_eq!(answer(libc::SYS_pwrite64, [r, 5, 512, 0, 0, 0]), READ_ONLY);
        let killed = [
            (libc::SYS_write, [0, 5, 5, 0, 0, 0]),
            (libc::SYS_write, [2, 5, 5, 0, 0, 0]),
            (libc::SYS_write, [b, 5, 5, 0, 0, 0]),
            (libc::SYS_read, [0, 5, 5, 0, 0, 0]),
            (libc::SYS_read, [b, 5, 5, 0, 0, 0]),
            (libc::SYS_epoll_pwait, [71, 5, 5, 5, 0, 0]),
            (libc::SYS_epoll_pwait, [70, 5, 5, 5, 5, 8]),
            (libc::SYS_timerfd_settime, [70, 1, 5, 0, 0, 0]),
            (libc::SYS_clock_gettime, [2, 5, 0, 0, 0, 0]),
            (libc::SYS_arch_prctl, [0x1001, 5, 0, 0, 0, 0]),
            (libc::SYS_pread64, [n, 5, 512, 0, 0, 0]),
            (libc::SYS_pread64, [b, 5, 512, 0, 0, 0]),
            (libc::SYS_pread64, [b, 5, 8192, 0, 0, 0]),
            (libc::SYS_pread64, [b, 5, (1 << 32) + 4096, 0, 0, 0]),
            (libc::SYS_pread64, [b, 5, 4096, 512, 0, 0]),
            (libc::SYS_pread64, [b, 5, 4096, (5 << 32) + 4096, 0, 0]),
            (libc::SYS_pread64, [b, 5, 4096, 6 << 32, 0, 0]),
            (libc::SYS_pwrite64, [b, 5, 4096, u64::MAX - 4095, 0, 0]),
            (libc::SYS_pwrite64, [r, 5, 512, 512, 0, 0]),
        ];
        for (number, arguments) in killed {
            assert_eq!(answer(number, arguments), KILL_PROCESS, "{number} {arguments:?}");
        }
        // Numbers, those of the other ways into the host among them.
        let reachable = (0..1024).filter(|number| spt(70, 71).iter().any(|rule| rule.number == *number)).count();
        assert_eq!(reachable, 6);
        for number in (0..1024).chain(0x4000_0000..0x4000_0400) {
            if !allowed.iter().any(|(known, _)| *known == number) {
                assert_eq!(answer(number, [1, 5, 5, 0, 0, 0]), KILL_PROCESS, "{number}");
            }
        }
    }

    #[test]
    fn the_loop_of_a_machine_runs_it_and_no_more() {
        let net = attached(Device::Net);
        let n = net.descriptor.as_raw_fd() as u64;
        let program = for_hvt(70, 1, &[net]);
        let answer = |number, arguments| run(&program, number, arguments);
        let allowed = [
            (libc::SYS_ioctl, [70, 0xae80, 0, 5, 0, 0]),
            (libc::SYS_write, [1, 5, 5, 0, 0, 0]),
            (libc::SYS_write, [n, 5, 5, 0, 0, 0]),
            (libc::SYS_read, [n, 5, 5, 0, 0, 0]),
            (libc::SYS_clock_gettime, [0, 5, 0, 0, 0, 0]),
            (libc::SYS_ppoll, [5, 1, 5, 0, 8, 0]),
            (libc::SYS_exit_group, [5, 5, 5, 5, 5, 5]),
        ];
        for (number, arguments) in allowed {
            assert_eq!(answer(number, arguments), ALLOW, "{number} {arguments:?}");
        }
        for (number, arguments) in [
            (libc::SYS_ioctl, [71, 0xae80, 0, 0, 0, 0]),
            (libc::SYS_ioctl, [70, 0xae81, 0, 0, 0, 0]),
            (libc::SYS_ioctl, [70, 0x4008_ae89, 0, 0, 0, 0]),
            (libc::SYS_ioctl, [70, 1 << 32 | 0xae80, 0, 0, 0, 0]),
            (libc::SYS_ioctl, [70, 0xae80, 1, 0, 0, 0]),
            (libc::SYS_ioctl, [1, 0x5401, 5, 0, 0, 0]),
            (libc::SYS_ppoll, [5, 2, 5, 0, 8, 0]),
            (libc::SYS_ppoll, [5, 1, 5, 5, 8, 0]),
            (libc::SYS_write, [70, 5, 5, 0, 0, 0]),
            (libc::SYS_write, [2, 5, 5, 0, 0, 0]),
            (libc::SYS_clock_gettime, [1, 5, 0, 0, 0, 0]),
            (libc::SYS_getpid, [0; 6]),
        ] {
            assert_eq!(answer(number, arguments), KILL_PROCESS, "{number} {arguments:?}");
        }
        for number in (0..1024).chain(0x4000_0000..0x4000_0400) {
            if !allowed.iter().any(|(known, _)| *known == number) {
                assert_eq!(answer(number, [1, 5, 0, 0, 0, 0]), KILL_PROCESS, "{number}");
            }
        }
    }

    #[test]
    fn as_many_devices_as_there_can_be_fit_into_a_filter() {
        let devices: Vec<_> =
            (1..64).map(|_| attached(Device::Block { capacity: 512, block_size: 512, writable: true })).collect();
        assert!(for_spt(70, 71, &devices).len() < 4096);
    }
}
