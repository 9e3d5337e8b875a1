//! The system calls that serving takes. Everything else ends the process.

use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};
use std::collections::BTreeMap;

const STANDARD_OUTPUT: u64 = 1;
const STANDARD_ERROR: u64 = 2;

/// With any arguments. A connection's address is in memory, where a filter does not look: where it may go is the policy's.
const ALLOWED: &[libc::c_long] = &[
    // Sockets that are there. No recvmsg: nobody hands us descriptors.
    libc::SYS_connect,
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_shutdown,
    libc::SYS_close,
    libc::SYS_epoll_ctl,
    libc::SYS_poll,
    // Memory that is had already.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_brk,
    libc::SYS_madvise,
    // The Rust library's own, and the end.
    libc::SYS_futex,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// What an argument must be, by its index: these, of which the host looks at the lower half.
type Arguments = &'static [(u8, u64)];

const SOCKET_FLAGS: u64 = (libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK) as u64;
const STREAM: u64 = libc::SOCK_STREAM as u64 | SOCKET_FLAGS;
const DATAGRAM: u64 = libc::SOCK_DGRAM as u64 | SOCKET_FLAGS;
const IPV4: u64 = libc::AF_INET as u64;
const IPV6: u64 = libc::AF_INET6 as u64;
const SOCKET: u64 = libc::SOL_SOCKET as u64;

const NARROW: &[(libc::c_long, Arguments)] = &[
    (libc::SYS_socket, &[(0, IPV4), (1, STREAM), (2, 0)]),
    (libc::SYS_socket, &[(0, IPV6), (1, STREAM), (2, 0)]),
    (libc::SYS_socket, &[(0, IPV4), (1, DATAGRAM), (2, 0)]),
    (libc::SYS_socket, &[(0, IPV6), (1, DATAGRAM), (2, 0)]),
    (libc::SYS_socket, &[(0, IPV4), (1, DATAGRAM), (2, libc::IPPROTO_ICMP as u64)]),
    (libc::SYS_socket, &[(0, IPV6), (1, DATAGRAM), (2, libc::IPPROTO_ICMPV6 as u64)]),
    (libc::SYS_setsockopt, &[(1, libc::IPPROTO_TCP as u64), (2, libc::TCP_NODELAY as u64)]),
    (libc::SYS_setsockopt, &[(1, SOCKET), (2, libc::SO_LINGER as u64)]),
    (libc::SYS_setsockopt, &[(1, libc::IPPROTO_IP as u64), (2, libc::IP_RECVERR as u64)]),
    (libc::SYS_setsockopt, &[(1, libc::IPPROTO_IPV6 as u64), (2, libc::IPV6_RECVERR as u64)]),
    (libc::SYS_getsockopt, &[(1, SOCKET), (2, libc::SO_ERROR as u64)]),
    // Before each close, in a build with assertions.
    (libc::SYS_fcntl, &[(1, libc::F_GETFD as u64)]),
    (libc::SYS_write, &[(0, STANDARD_OUTPUT)]),
    (libc::SYS_write, &[(0, STANDARD_ERROR)]),
];

/// Waiting with a mask of signals that is ours, by the index of the mask.
const WITHOUT_MASK: &[(libc::c_long, u8)] =
    &[(libc::SYS_epoll_wait, 4), (libc::SYS_epoll_pwait, 4), (libc::SYS_epoll_pwait2, 4), (libc::SYS_ppoll, 3)];

fn is(index: u8, length: SeccompCmpArgLen, value: u64) -> Result<SeccompCondition, BackendError> {
    SeccompCondition::new(index, length, SeccompCmpOp::Eq, value)
}

fn program() -> Result<BpfProgram, BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    for (number, arguments) in NARROW {
        let conditions = arguments.iter().map(|(index, value)| is(*index, SeccompCmpArgLen::Dword, *value));
        rules.entry(*number).or_default().push(SeccompRule::new(conditions.collect::<Result<_, _>>()?)?);
    }
    for (number, index) in WITHOUT_MASK {
        rules.insert(*number, vec![SeccompRule::new(vec![is(*index, SeccompCmpArgLen::Qword, 0)?])?]);
    }
    // Memory of ours, never executable.
    let anonymous = (libc::MAP_PRIVATE | libc::MAP_ANONYMOUS) as u64;
    let protection = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    let conditions = vec![
        SeccompCondition::new(2, SeccompCmpArgLen::Dword, protection, 0)?,
        SeccompCondition::new(3, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(anonymous), anonymous)?,
    ];
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(conditions)?]);
    SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64)?.try_into()
}

/// Puts the filter on this thread, which is the only one.
pub fn install() -> Result<(), Box<dyn std::error::Error>> {
    Ok(seccompiler::apply_filter(&program()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{socket, socket_with, AddressFamily, SocketFlags, SocketType};
    use rustix::process::{waitpid, Pid, Signal, WaitOptions};
    use skerry_platform::agent::{fork, leave};

    /// Whether they were answered.
    type Calls = fn() -> bool;

    /// How a process behind the filter ends that makes these calls.
    fn end(calls: Calls) -> Result<i32, i32> {
        let program = program().unwrap();
        let Some(pid) = fork().unwrap() else {
            // Nothing here takes memory: other threads may have had its lock.
            let applied = seccompiler::apply_filter(&program).is_ok();
            leave(if calls() && applied { 0 } else { 1 });
        };
        let (_, status) = waitpid(Pid::from_raw(pid), WaitOptions::empty()).unwrap().unwrap();
        status.exit_status().ok_or_else(|| status.terminating_signal().unwrap())
    }

    const FLAGS: SocketFlags = SocketFlags::CLOEXEC.union(SocketFlags::NONBLOCK);

    #[test]
    fn a_call_that_is_not_on_the_list_ends_it() {
        let killed = Err(Signal::SYS.as_raw());
        let cases: [(&str, Calls); 9] = [
            ("open", || rustix::fs::open("/dev/null", rustix::fs::OFlags::RDONLY, rustix::fs::Mode::empty()).is_ok()),
            ("a socket of this host", || socket(AddressFamily::UNIX, SocketType::STREAM, None).is_ok()),
            ("a raw socket", || socket_with(AddressFamily::INET, SocketType::RAW, FLAGS, None).is_ok()),
            ("netlink", || socket_with(AddressFamily::NETLINK, SocketType::DGRAM, FLAGS, None).is_ok()),
            ("a socket that waits", || socket(AddressFamily::INET, SocketType::STREAM, None).is_ok()),
            ("listen", || rustix::net::listen(rustix::stdio::stdin(), 1).is_ok()),
            ("read", || rustix::io::read(rustix::stdio::stdin(), &mut [0u8; 1]).is_ok()),
            ("kill", || rustix::process::test_kill_process(rustix::process::getpid()).is_ok()),
            ("an option", || rustix::net::sockopt::set_socket_broadcast(rustix::stdio::stdin(), true).is_ok()),
        ];
        for (what, calls) in cases {
            assert_eq!(end(calls), killed, "{what}");
        }
    }

    #[test]
    fn what_serving_takes_is_on_it() {
        let serves = || {
            for family in [AddressFamily::INET, AddressFamily::INET6] {
                if let Ok(socket) = socket_with(family, SocketType::STREAM, FLAGS, None) {
                    let _ = rustix::net::sockopt::set_tcp_nodelay(&socket, true);
                    let _ = rustix::net::sockopt::socket_error(&socket);
                }
                drop(socket_with(family, SocketType::DGRAM, FLAGS, None));
            }
            drop(socket_with(AddressFamily::INET, SocketType::DGRAM, FLAGS, Some(rustix::net::ipproto::ICMP)));
            crate::tell_panics();
            let panicked = std::panic::catch_unwind(|| panic!("this is told, and not the end")).is_err();
            panicked && rustix::rand::getrandom(&mut [0u8; 8], rustix::rand::GetRandomFlags::empty()).is_ok()
        };
        assert_eq!(end(serves), Ok(0));
    }
}
