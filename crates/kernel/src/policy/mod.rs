//! What a policy's rules say of calls, addresses and programs, and what is told of calls (the control protocol's `rules` and
//! `observe`). Files are no matter of this: a policy's mounts are all that there is.
//!
//! [`Policy::before_call`] and [`Policy::after_call`] stand around each call that comes here; [`allows_endpoint`] and
//! [`allows_program`] are asked where an address or a program is known as a value, so that guest memory cannot change behind
//! the check. A sandbox without rules that observes nothing has no [`Policy`] at all.
//!
//! Calls that the stub makes by itself ([`served_in_the_process`]) do not come here. They touch nothing but the process's own
//! memory and threads, and no rule can hold for them: who makes rules over them is refused at boot.

mod report;

use crate::fs::path::Path;
use crate::net::address::Address;
use crate::net::socket::{Socket, SocketType};
use crate::syscall::table::Row;
use crate::task::{exit_group, ExitStatus, Task};
use crate::{Context, Errno, Kernel, Result};
use parking_lot::Mutex;
use report::{Details, Told};
use skerry_abi::raw::general as linux;
use skerry_abi::raw::net::{AF_INET, AF_INET6};
use skerry_abi::signal::Signal;
use skerry_control::{Action, Argument, CallRule, Calls, FileRight, FileRule, Observe, Operator, Ports, Rules};

/// What the stub serves itself, always or nearly so (stub/src/native.rs).
const IN_THE_PROCESS: [u32; 10] = [
    linux::__NR_mmap,
    linux::__NR_mprotect,
    linux::__NR_munmap,
    linux::__NR_sched_yield,
    linux::__NR_mremap,
    linux::__NR_madvise,
    linux::__NR_arch_prctl,
    linux::__NR_futex,
    linux::__NR_set_tid_address,
    linux::__NR_rseq,
];

/// What the stub does on direct descriptors (stub/src/direct.rs).
const DIRECT: [u32; 9] = [
    linux::__NR_read,
    linux::__NR_write,
    linux::__NR_lseek,
    linux::__NR_pread64,
    linux::__NR_pwrite64,
    linux::__NR_readv,
    linux::__NR_writev,
    linux::__NR_preadv,
    linux::__NR_pwritev,
];

/// What the stub answers (stub/src/local.rs).
const LOCAL: [u32; 16] = [
    linux::__NR_rt_sigaction,
    linux::__NR_rt_sigprocmask,
    linux::__NR_getpid,
    linux::__NR_gettid,
    linux::__NR_getppid,
    linux::__NR_getpgrp,
    linux::__NR_getpgid,
    linux::__NR_getsid,
    linux::__NR_getuid,
    linux::__NR_geteuid,
    linux::__NR_getgid,
    linux::__NR_getegid,
    linux::__NR_set_robust_list,
    linux::__NR_brk,
    linux::__NR_getrlimit,
    linux::__NR_prlimit64,
];

/// What the stub makes and ends threads by (stub/src/births.rs).
const BIRTHS: [u32; 3] = [linux::__NR_clone, linux::__NR_clone3, linux::__NR_exit];

/// What the stub puts off (stub/src/deferred.rs), or makes in what is lent (stub/src/events.rs).
const DEFERRED: [u32; 1] = [linux::__NR_epoll_ctl];

/// What the stub answers about names that are not there, or no links (stub/src/board.rs).
const NAMED: [u32; 10] = [
    linux::__NR_open,
    linux::__NR_openat,
    linux::__NR_stat,
    linux::__NR_lstat,
    linux::__NR_newfstatat,
    linux::__NR_access,
    linux::__NR_faccessat,
    linux::__NR_readlink,
    linux::__NR_readlinkat,
    linux::__NR_execve,
];

/// What the stub answers about what is lent (stub/src/loan.rs, streams.rs, objects.rs, pipes.rs, events.rs).
const LENT: [u32; 24] = [
    linux::__NR_open,
    linux::__NR_openat,
    linux::__NR_mmap,
    linux::__NR_stat,
    linux::__NR_lstat,
    linux::__NR_access,
    linux::__NR_faccessat,
    linux::__NR_fcntl,
    linux::__NR_getdents64,
    linux::__NR_read,
    linux::__NR_write,
    linux::__NR_recvfrom,
    linux::__NR_sendto,
    linux::__NR_readv,
    linux::__NR_writev,
    linux::__NR_epoll_wait,
    linux::__NR_epoll_pwait,
    linux::__NR_pread64,
    linux::__NR_readlink,
    linux::__NR_fstat,
    linux::__NR_newfstatat,
    linux::__NR_lseek,
    linux::__NR_ioctl,
    linux::__NR_close,
];

/// Without these no program runs, or ends.
const ESSENTIAL: [u32; 4] = [linux::__NR_exit, linux::__NR_exit_group, linux::__NR_rt_sigreturn, linux::__NR_restart_syscall];

/// Calls have numbers below this.
const NUMBERS: usize = 1024;

/// Whether the process makes the call by itself, so that no rule can hold for it.
pub fn served_in_the_process(number: u32) -> bool {
    IN_THE_PROCESS.contains(&number)
}

/// The rules in force, and what has been told.
pub struct Policy {
    calls: Option<Actions>,
    ports: Option<Ports>,
    execute: Option<Vec<Vec<u8>>>,
    observe: Observe,
    told: Mutex<Told>,
}

/// What the call rules say of each number.
struct Actions {
    of: Vec<Vec<CallRule>>,
    default: Action,
}

impl Policy {
    /// `None` where there is nothing to do. An error names what cannot be held.
    pub fn new(rules: Option<&Rules>, observe: Observe) -> Result<Option<Policy>, String> {
        let Some(rules) = rules else {
            let nothing = Policy { calls: None, ports: None, execute: None, observe, told: Mutex::default() };
            return Ok((observe != Observe::Nothing).then_some(nothing));
        };
        let refuse = |clause: &str, why: &str| Err(format!("{clause}: the engine sentry cannot enforce it: {why}"));
        if rules.apparmor.is_some() || rules.selinux.is_some() {
            return refuse("labels", "programs are no subjects of the host's security modules there");
        }
        if rules.capabilities.is_some() || !rules.resources.is_empty() || !rules.temporary.is_empty() {
            return refuse("capabilities, resources, temporary", "they are for programs on the host's kernel");
        }
        let executes = |rule: &&FileRule| rule.rights.contains(&FileRight::Execute);
        Ok(Some(Policy {
            calls: rules.calls.as_ref().map(Actions::new).transpose()?,
            ports: rules.ports.clone(),
            // What may be read and written is what is mounted.
            execute: rules.files.as_ref().map(|files| files.iter().filter(executes).map(|rule| rule.path.0.clone()).collect()),
            observe,
            told: Mutex::default(),
        }))
    }

    /// Whether calls on direct descriptors have to come here.
    pub fn needs_data_calls(&self) -> bool {
        self.needs(&DIRECT)
    }

    /// Whether calls that the stub could answer have to come here.
    pub fn needs_local_calls(&self) -> bool {
        self.needs(&LOCAL)
    }

    /// Whether threads must not begin and end without our being asked.
    pub fn needs_births(&self) -> bool {
        self.needs(&BIRTHS)
    }

    /// Whether calls that go along with later ones have to come here by themselves.
    pub fn needs_deferred_calls(&self) -> bool {
        self.needs(&DEFERRED)
    }

    /// Whether calls by names that are not there have to come here.
    pub fn needs_named_calls(&self) -> bool {
        self.observe >= Observe::Failures || self.needs(&NAMED)
    }

    /// Whether calls on a file that is lent have to come here.
    pub fn needs_lent_calls(&self) -> bool {
        self.needs(&LENT)
    }

    fn needs(&self, numbers: &[u32]) -> bool {
        let spares = |calls: &Actions| numbers.iter().all(|&number| calls.always(number.into()) == Some(Action::Allow));
        self.observe == Observe::Everything || !self.calls.as_ref().is_none_or(spares)
    }

    /// What a rule makes of the call that is about to be served. `None`: it is served as usual.
    pub fn before_call(&self, context: &Context, row: Option<&Row>) -> Option<Result<u64>> {
        let number = context.call.number;
        if self.observe == Observe::Everything {
            self.tell(context, Details::of_call_alone(row, number), None);
        }
        let action = self.calls.as_ref()?.of(number, &context.call.arguments);
        if action != Action::Allow {
            self.tell_rule(context, row, action);
        }
        match action {
            Action::Allow | Action::Log | Action::Notify => None,
            Action::Errno(errno) => Some(Err(Errno(errno.into()))),
            Action::Kill => {
                exit_group(context.task, ExitStatus::Signaled(Signal::SIGSYS, false));
                Some(Err(Errno::ENOSYS))
            }
        }
    }

    /// What has to be known of a call before it changes the memory that its arguments lie in.
    pub fn details(&self, context: &Context, row: &Row) -> Option<Details> {
        (self.observe == Observe::Everything).then(|| Details::gather(context, Some(row)))
    }

    /// The call has its result.
    pub fn after_call(&self, context: &Context, row: Option<&Row>, details: Option<Details>, result: &Result<u64>) {
        match (details, result) {
            (Some(details), result) => {
                if details.has_object() || result.as_ref().is_err_and(|errno| self.is_worth_telling(*errno)) {
                    self.tell(context, details, result.as_ref().err().copied());
                }
                self.tell_tasks(context.kernel());
            }
            (None, Err(errno)) if self.is_worth_telling(*errno) => {
                let details = Details::gather(context, row);
                if !matches!(*errno, Errno::ENOENT | Errno::ENOTDIR) || details.may_be_hidden(context) {
                    self.tell(context, details, Some(*errno));
                }
            }
            _ => {}
        }
    }

    fn is_worth_telling(&self, errno: Errno) -> bool {
        let refusal = matches!(
            errno,
            Errno::EPERM
                | Errno::EROFS
                | Errno::ENOSYS
                | Errno::ENETUNREACH
                | Errno::EADDRNOTAVAIL
                | Errno::EAFNOSUPPORT
                | Errno::ENOSPC
                | Errno::ENXIO
        );
        let failure = matches!(errno, Errno::ENOENT | Errno::EACCES | Errno::ENOTDIR | Errno::ECONNREFUSED | Errno::ENOMEM);
        refusal && self.observe >= Observe::Refusals || failure && self.observe >= Observe::Failures
    }
}

impl Actions {
    fn new(calls: &Calls) -> Result<Actions, String> {
        let mut of = vec![Vec::new(); NUMBERS];
        for rule in &calls.rules {
            if let Action::Errno(errno) = rule.action {
                if !(1..4096).contains(&errno) {
                    return Err(format!("system_calls: {errno} is no errno: it is from 1 to 4095"));
                }
            }
            for name in &rule.calls {
                // A call of Linux's that is not in the table is unknown here: ENOSYS, whatever a rule says.
                let Some(number) = number_of(name) else { continue };
                if served_in_the_process(number as u32) && rule.action != Action::Allow {
                    return Err(format!(
                        "system_calls: the engine sentry cannot enforce a rule on {name}: programs make it in their own \
                        process, where it reaches nothing else; take it out of the list, or use the engine namespace"
                    ));
                }
                let place: &mut Vec<CallRule> =
                    of.get_mut(number).ok_or_else(|| format!("system_calls: {name} is no system call"))?;
                place.push(CallRule { calls: Vec::new(), arguments: rule.arguments.clone(), action: rule.action });
            }
        }
        Ok(Actions { of, default: calls.default })
    }

    /// The rules about a number, and whether the default is meant for it too: not for what every program needs to run and to
    /// end.
    fn about(&self, number: u64) -> (&[CallRule], Action) {
        let essential = ESSENTIAL.iter().chain(&IN_THE_PROCESS).any(|&one| u64::from(one) == number);
        let rules = usize::try_from(number).ok().and_then(|number| self.of.get(number)).map_or(&[][..], Vec::as_slice);
        (rules, if essential { Action::Allow } else { self.default })
    }

    fn of(&self, number: u64, arguments: &[u64; 6]) -> Action {
        let (rules, default) = self.about(number);
        let holds = |rule: &&CallRule| rule.arguments.iter().all(|condition| condition_holds(condition, arguments));
        rules.iter().find(holds).map_or(default, |rule| rule.action)
    }

    /// The action, if it is the same for all arguments.
    fn always(&self, number: u64) -> Option<Action> {
        let (rules, default) = self.about(number);
        match rules {
            [] => Some(default),
            [first, ..] => first.arguments.is_empty().then_some(first.action),
        }
    }
}

/// By name, or by number.
fn number_of(name: &str) -> Option<usize> {
    name.parse().ok().or_else(|| skerry_abi::calls::number(name).map(|number| number as usize))
}

fn condition_holds(condition: &Argument, arguments: &[u64; 6]) -> bool {
    let Some(argument) = arguments.get(usize::from(condition.index)) else { return false };
    let (argument, value) = (argument & condition.mask, condition.value);
    match condition.operator {
        Operator::Equal => argument == value,
        Operator::NotEqual => argument != value,
        Operator::Less => argument < value,
        Operator::LessOrEqual => argument <= value,
        Operator::Greater => argument > value,
        Operator::GreaterOrEqual => argument >= value,
    }
}

/// Which way an address is used.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// connect(2), or a datagram sent there.
    To,
    /// bind(2).
    Own,
}

/// EACCES where the policy's network rules do not have the address.
pub fn allows_endpoint(kernel: &Kernel, socket: &dyn Socket, address: &Address, direction: Direction) -> Result<()> {
    let Some(policy) = kernel.policy.get() else { return Ok(()) };
    let common = socket.common();
    let Some(ports) = policy.ports.as_ref().filter(|_| matches!(common.domain(), AF_INET | AF_INET6)) else { return Ok(()) };
    let allowed = match (common.kind, direction) {
        (SocketType::Stream, Direction::To) => &ports.connect_tcp,
        (SocketType::Stream, Direction::Own) => &ports.bind_tcp,
        (_, Direction::To) => &ports.connect_udp,
        (_, Direction::Own) => &ports.bind_udp,
    };
    let port = match address {
        Address::Inet(address) => address.port(),
        // Undoes a connection.
        Address::Unspecified => return Ok(()),
        _ => return Err(Errno::EACCES),
    };
    if allowed.contains(&port) {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// EACCES where the policy does not let the file at `path` be executed.
pub fn allows_program(task: &Task, path: &Path) -> Result<()> {
    let Some(allowed) = task.kernel().policy.get().and_then(|policy| policy.execute.as_ref()) else { return Ok(()) };
    // From the top of the tree: what chroot(2) shows is no way around it.
    let top = task.kernel().mounts.root();
    let name = top.and_then(|top| path.absolute_name_below(&top)).ok_or(Errno::EACCES)?;
    if allowed.iter().any(|place| is_at_or_below(&name, place)) {
        Ok(())
    } else {
        Err(Errno::EACCES)
    }
}

/// Whether `name` is `place`, or lies below it.
fn is_at_or_below(name: &[u8], place: &[u8]) -> bool {
    let place = place.strip_suffix(b"/").unwrap_or(place);
    name.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(default: Action, rules: &[(&str, Action)]) -> Calls {
        let rule =
            |(name, action): &(&str, Action)| CallRule { calls: vec![(*name).into()], arguments: vec![], action: *action };
        Calls { default, rules: rules.iter().map(rule).collect() }
    }

    #[test]
    fn the_first_rule_that_holds_counts_and_the_default_spares_what_every_program_needs() {
        let rules = [("read", Action::Allow), ("read", Action::Kill), ("open", Action::Kill), ("3", Action::Errno(13))];
        let actions = Actions::new(&calls(Action::Errno(1), &rules)).unwrap();
        let of = |number: u64| actions.of(number, &[0; 6]);
        assert_eq!((of(0), of(2), of(3)), (Action::Allow, Action::Kill, Action::Errno(13)));
        assert_eq!((of(39), of(u64::MAX)), (Action::Errno(1), Action::Errno(1)));
        assert_eq!((of(linux::__NR_exit_group.into()), of(linux::__NR_mmap.into())), (Action::Allow, Action::Allow));
    }

    #[test]
    fn arguments_are_compared_under_their_masks() {
        let mut rules = calls(Action::Allow, &[("kill", Action::Kill)]);
        rules.rules[0].arguments = vec![Argument { index: 1, mask: 0xffff_ffff, operator: Operator::NotEqual, value: 0 }];
        let actions = Actions::new(&rules).unwrap();
        assert_eq!(actions.of(62, &[1, 1 << 40, 0, 0, 0, 0]), Action::Allow);
        assert_eq!(actions.of(62, &[1, 9, 0, 0, 0, 0]), Action::Kill);
        assert_eq!(actions.always(62), None);
        let policy = |calls| Policy { calls, ports: None, execute: None, observe: Observe::Nothing, told: Mutex::default() };
        assert!(!policy(Some(actions)).needs_local_calls());
        let rules = calls(Action::Allow, &[("getppid", Action::Errno(1))]);
        let with_rule = policy(Some(Actions::new(&rules).unwrap()));
        assert!(with_rule.needs_local_calls() && !with_rule.needs_deferred_calls());
        for call in ["brk", "getrlimit", "prlimit64"] {
            let rules = calls(Action::Allow, &[(call, Action::Errno(1))]);
            assert!(policy(Some(Actions::new(&rules).unwrap())).needs_local_calls());
        }
        let rules = calls(Action::Allow, &[("epoll_ctl", Action::Kill)]);
        assert!(policy(Some(Actions::new(&rules).unwrap())).needs_deferred_calls());
        let rules = calls(Action::Allow, &[("fstat", Action::Log)]);
        let with_rule = policy(Some(Actions::new(&rules).unwrap()));
        assert!(with_rule.needs_lent_calls() && !with_rule.needs_deferred_calls());
        for call in ["read", "write", "recvfrom", "sendto", "readv", "writev", "epoll_wait", "readlink", "stat", "access"] {
            let rules = calls(Action::Allow, &[(call, Action::Log)]);
            assert!(policy(Some(Actions::new(&rules).unwrap())).needs_lent_calls());
        }
    }

    #[test]
    fn a_rule_that_cannot_hold_is_refused_by_name() {
        let refused = |rule| Actions::new(&calls(Action::Allow, &[rule])).err();
        assert!(refused(("futex", Action::Kill)).is_some_and(|why| why.contains("futex")));
        assert!(refused(("open", Action::Errno(0))).is_some() && refused(("4000", Action::Kill)).is_some());
        assert!(refused(("no_such_call", Action::Kill)).is_none());
    }

    #[test]
    fn names_below_a_place() {
        assert!(is_at_or_below(b"/usr/bin/sh", b"/usr/bin") && is_at_or_below(b"/usr/bin", b"/usr/bin/"));
        assert!(!is_at_or_below(b"/usr/binary", b"/usr/bin") && is_at_or_below(b"/x", b"/"));
    }
}
