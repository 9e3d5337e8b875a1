//! Handlers of the task family, called as a guest calls them.

use super::{carry_out_deferred, credentials, event, prctl, process, resource, scheduling, signal, system, UserAddress};
use crate::task::lifecycle::{clone_task, CloneRequest};
use crate::task::{exit_group, host_gone, Credentials, ExitStatus, Task};
use crate::testing::{address_of, address_of_mut, context, kernel, process as new_process, process_of};
use crate::Errno;
use skerry_abi::raw::prctl as option;
use skerry_abi::signal::{SigAction, SignalInfo, SignalSet};
use skerry_abi::structs::{EpollEvent, IoVec, RLimit, RUsage, TimeSpec};
use std::sync::atomic::Ordering;
use std::sync::Arc;

const NULL: UserAddress = UserAddress(0);
const BAD: UserAddress = UserAddress(8);

fn child_of(task: &Arc<Task>) -> Arc<Task> {
    clone_task(&context(task), &CloneRequest { exit_signal: 17, ..CloneRequest::default() }).unwrap()
}

fn user(uid: u32) -> Arc<Task> {
    process_of(&kernel(), Credentials::new(uid, uid, Vec::new()))
}

fn at<T: zerocopy::IntoBytes + zerocopy::Immutable + ?Sized>(value: &T) -> UserAddress {
    UserAddress(address_of(value))
}

fn into<T: zerocopy::IntoBytes + zerocopy::FromBytes>(value: &mut T) -> UserAddress {
    UserAddress(address_of_mut(value))
}

#[test]
fn sigaction_keeps_what_linux_keeps() {
    let task = new_process(&kernel());
    let mut context = context(&task);
    let new = SigAction { handler: 0x1000, flags: !0, restorer: 3, mask: SignalSet::FULL };
    let mut old = SigAction::default();
    assert_eq!(signal::rt_sigaction(&mut context, 10, at(&new), into(&mut old), 4), Err(Errno::EINVAL));
    assert_eq!(signal::rt_sigaction(&mut context, 9, at(&new), NULL, 8), Err(Errno::EINVAL));
    assert_eq!(signal::rt_sigaction(&mut context, 9, NULL, into(&mut old), 8), Ok(()));
    assert_eq!(signal::rt_sigaction(&mut context, 65, NULL, NULL, 8), Err(Errno::EINVAL));
    assert_eq!(signal::rt_sigaction(&mut context, 10, BAD, NULL, 8), Err(Errno::EFAULT));
    assert_eq!(signal::rt_sigaction(&mut context, 10, at(&new), into(&mut old), 8), Ok(()));
    assert_eq!(old.handler, 0);
    assert_eq!(signal::rt_sigaction(&mut context, 10, NULL, into(&mut old), 8), Ok(()));
    assert_eq!((old.handler, old.flags, old.mask), (0x1000, 0xdc00_0807, SignalSet(!(1 << 8 | 1 << 18))));
}

#[test]
fn masks_and_pending_sets() {
    let task = new_process(&kernel());
    let mut context = context(&task);
    let (set, mut old) = (SignalSet(1 << 9 | 1 << 8), SignalSet::EMPTY);
    assert_eq!(signal::rt_sigprocmask(&mut context, 9, at(&set), NULL, 8), Err(Errno::EINVAL));
    assert_eq!(signal::rt_sigprocmask(&mut context, 0, at(&set), NULL, 8), Ok(()));
    assert_eq!(signal::rt_sigprocmask(&mut context, 9, NULL, into(&mut old), 8), Ok(()));
    assert_eq!(old, SignalSet(1 << 9));
    signal::kill(&mut context, 0, 10).unwrap();
    signal::rt_sigpending(&mut context, into(&mut old), 8).unwrap();
    assert_eq!(old, SignalSet(1 << 9));
    let mut info = SignalInfo::kernel(skerry_abi::signal::Signal::SIGHUP);
    assert_eq!(signal::rt_sigtimedwait(&mut context, at(&set), into(&mut info), NULL, 8), Ok(10));
    assert_eq!((info.signo, info.code, info.fields[0]), (10, 0, 2));
    let short = TimeSpec { sec: 0, nsec: 1000 };
    assert_eq!(signal::rt_sigtimedwait(&mut context, at(&set), NULL, at(&short), 8), Err(Errno::EAGAIN));
    let bad = TimeSpec { sec: 0, nsec: -1 };
    assert_eq!(signal::rt_sigtimedwait(&mut context, at(&set), NULL, at(&bad), 8), Err(Errno::EINVAL));
    signal::kill(&mut context, 2, 15).unwrap();
    assert_eq!(signal::rt_sigtimedwait(&mut context, at(&set), NULL, NULL, 8), Err(Errno::EINTR));
}

#[test]
fn kill_finds_its_targets() {
    let kernel = kernel();
    let task = new_process(&kernel);
    let child = child_of(&task);
    let mut context = context(&task);
    assert_eq!(signal::kill(&mut context, 99, 0), Err(Errno::ESRCH));
    assert_eq!(signal::kill(&mut context, i32::MIN, 0), Err(Errno::ESRCH));
    assert_eq!(signal::kill(&mut context, child.tid(), 65), Err(Errno::EINVAL));
    assert_eq!(signal::kill(&mut context, -99, 0), Err(Errno::ESRCH));
    assert_eq!(signal::kill(&mut context, -1, 15), Ok(()));
    assert!(child.is_interrupted() && !task.is_interrupted());
    assert_eq!(signal::tgkill(&mut context, 2, child.tid(), 0), Err(Errno::ESRCH));
    assert_eq!(signal::tgkill(&mut context, child.tid(), child.tid(), 0), Ok(()));
    assert_eq!(signal::tkill(&mut context, 0, 1), Err(Errno::EINVAL));
    let forged = SignalInfo::user(skerry_abi::signal::Signal::SIGUSR1, 0, 77, 0);
    assert_eq!(signal::rt_sigqueueinfo(&mut context, child.tid(), 10, at(&forged)), Err(Errno::EPERM));
    let honest = SignalInfo::user(skerry_abi::signal::Signal::SIGUSR1, -1, 77, 0);
    assert_eq!(signal::rt_sigqueueinfo(&mut context, child.tid(), 10, at(&honest)), Ok(()));
}

#[test]
fn wait_calls_write_what_they_found() {
    let task = new_process(&kernel());
    let child = child_of(&task);
    let mut context = context(&task);
    let (mut status, mut usage) = (0i32, RUsage::default());
    assert_eq!(process::wait4(&mut context, -1, into(&mut status), 1, NULL), Ok(0));
    assert_eq!(process::wait4(&mut context, -1, NULL, 4, NULL), Err(Errno::EINVAL));
    assert_eq!(process::wait4(&mut context, i32::MIN, NULL, 0, NULL), Err(Errno::ESRCH));
    let mut info = [7i32; 32];
    assert_eq!(process::waitid(&mut context, 0, 0, into(&mut info), 1 | 4, NULL), Ok(()));
    assert_eq!((info[0], info[2], info[4], info[31]), (0, 0, 0, 7));
    exit_group(&child, ExitStatus::Exited(3));
    host_gone(child.process(), None);
    assert_eq!(process::waitid(&mut context, 1, child.tid(), into(&mut info), 4 | 0x0100_0000, NULL), Ok(()));
    assert_eq!((info[0], info[2], info[4], info[6]), (17, 1, child.tid(), 3));
    assert_eq!(process::waitid(&mut context, 1, 0, NULL, 4, NULL), Err(Errno::EINVAL));
    assert_eq!(process::waitid(&mut context, 0, 0, NULL, 1, NULL), Err(Errno::EINVAL));
    assert!(!context.process().will_ask_for_usage());
    assert_eq!(process::wait4(&mut context, 0, into(&mut status), 0, into(&mut usage)), Ok(child.tid()));
    assert_eq!(status, 3 << 8);
    // As it has asked, its next children are expected to be asked about.
    assert_eq!((0..100).filter(|_| context.process().will_ask_for_usage()).count(), 16);
    assert_eq!(process::wait4(&mut context, -1, NULL, 0, NULL), Err(Errno::ECHILD));
}

#[test]
fn capabilities_can_only_be_given_up() {
    let task = new_process(&kernel());
    let mut context = context(&task);
    let header = [0x2008_0522u32, 0];
    let mut data = [0u32; 6];
    credentials::capget(&mut context, at(&header), into(&mut data)).unwrap();
    assert_eq!((data[0], data[4]), (u32::MAX, 0x1ff));
    let less = [1u32, 3, 0, 0, 0, 0];
    credentials::capset(&mut context, at(&header), at(&less)).unwrap();
    credentials::capget(&mut context, at(&header), into(&mut data)).unwrap();
    assert_eq!(data, less);
    assert_eq!(credentials::capset(&mut context, at(&header), at(&[7u32, 7, 0, 0, 0, 0])), Err(Errno::EPERM));
    assert_eq!(credentials::capset(&mut context, at(&header), at(&[3u32, 1, 0, 0, 0, 0])), Err(Errno::EPERM));
    let mut unknown = [1u32, 0];
    assert_eq!(credentials::capget(&mut context, into(&mut unknown), NULL), Ok(()));
    assert_eq!(unknown[0], 0x2008_0522);
}

#[test]
fn groups_are_bounded_and_sorted() {
    let task = new_process(&kernel());
    let mut context = context(&task);
    assert_eq!(credentials::setgroups(&mut context, 65537, NULL), Err(Errno::EINVAL));
    assert_eq!(credentials::setgroups(&mut context, -1, NULL), Err(Errno::EINVAL));
    credentials::setgroups(&mut context, 3, at(&[30u32, 10, 20])).unwrap();
    let mut groups = [0u32; 3];
    assert_eq!(credentials::getgroups(&mut context, 2, into(&mut groups)), Err(Errno::EINVAL));
    assert_eq!(credentials::getgroups(&mut context, 0, NULL), Ok(3));
    assert_eq!(credentials::getgroups(&mut context, 3, into(&mut groups)), Ok(3));
    assert_eq!(groups, [10, 20, 30]);
    let other = user(1000);
    assert_eq!(credentials::setgroups(&mut self::context(&other), 0, NULL), Err(Errno::EPERM));
}

#[test]
fn prctl_answers_as_the_manual_says() {
    let task = user(1000);
    let mut context = context(&task);
    let mut call = |what: u32, a: u64, b: u64| prctl::prctl(&mut context, what, a, b, 0, 0);
    let name = *b"a-name-that-is-too-long\0";
    assert_eq!(call(option::PR_SET_NAME, address_of(&name), 0), Ok(0));
    let mut answer = [1u8; 16];
    assert_eq!(call(option::PR_GET_NAME, address_of_mut(&mut answer), 0), Ok(0));
    assert_eq!(&answer, b"a-name-that-is-\0");
    assert_eq!(call(option::PR_SET_PDEATHSIG, 65, 0), Err(Errno::EINVAL));
    assert_eq!(call(option::PR_SET_PDEATHSIG, 9, 0), Ok(0));
    let mut word = 0i32;
    assert_eq!((call(option::PR_GET_PDEATHSIG, address_of_mut(&mut word), 0), word), (Ok(0), 9));
    assert_eq!(call(option::PR_SET_DUMPABLE, 2, 0), Err(Errno::EINVAL));
    assert_eq!(call(option::PR_GET_DUMPABLE, 0, 0), Ok(1));
    assert_eq!(call(option::PR_SET_NO_NEW_PRIVS, 0, 0), Err(Errno::EINVAL));
    assert_eq!(call(option::PR_SET_NO_NEW_PRIVS, 1, 0), Ok(0));
    assert_eq!(call(option::PR_GET_NO_NEW_PRIVS, 0, 0), Ok(1));
    assert_eq!(call(option::PR_CAPBSET_READ, 41, 0), Err(Errno::EINVAL));
    assert_eq!(call(option::PR_CAPBSET_READ, 40, 0), Ok(1));
    assert_eq!(call(option::PR_CAPBSET_DROP, 1, 0), Err(Errno::EPERM));
    assert_eq!(call(option::PR_GET_TIMERSLACK, 0, 0), Ok(50_000));
    assert_eq!(call(option::PR_SET_MM, 1, 0), Err(Errno::EPERM));
    assert_eq!(call(option::PR_GET_SECCOMP, 0, 0), Ok(0));
    assert_eq!(call(9999, 0, 0), Err(Errno::EINVAL));
}

#[test]
fn a_guests_own_filter_is_asked_about_its_calls() {
    let task = user(1000);
    // if (nr == 39) errno 1 else allow
    let program: [u64; 4] = [0x20, 0x15 | 1 << 24 | 39 << 32, 0x06 | 0x0005_0001 << 32, 0x06 | 0x7fff_0000 << 32];
    let descriptor = [4u64, address_of(&program)];
    let mut context = context(&task);
    assert_eq!(prctl::seccomp(&mut context, 1, 0, at(&descriptor)), Err(Errno::EACCES));
    prctl::prctl(&mut context, option::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).unwrap();
    assert_eq!(prctl::seccomp(&mut context, 1, 0, at(&descriptor)), Ok(0));
    context.call.number = 39;
    assert_eq!(crate::task::seccomp::before_call(&mut context), Some(Err(Errno::EPERM)));
    context.call.number = 40;
    assert_eq!(crate::task::seccomp::before_call(&mut context), None);
    assert!(crate::task::seccomp::is_filtered(&child_of(&task)));
}

#[test]
fn limits_go_down_for_all_and_up_for_few() {
    let task = user(1000);
    let mut context = context(&task);
    let mut limit = RLimit::default();
    let call = |c: &mut crate::Context, current, maximum| {
        let new = RLimit { current, maximum };
        resource::prlimit64(c, 0, 7, at(&new), NULL)
    };
    assert_eq!(call(&mut context, 5, 4), Err(Errno::EINVAL));
    assert_eq!(call(&mut context, 4, 4096), Ok(()));
    assert_eq!(call(&mut context, 4, 4097), Err(Errno::EPERM));
    resource::getrlimit(&mut context, 7, into(&mut limit)).unwrap();
    assert_eq!((limit.current, limit.maximum), (4, 4096));
    assert_eq!(resource::getrlimit(&mut context, 16, into(&mut limit)), Err(Errno::EINVAL));
    assert_eq!(resource::prlimit64(&mut context, 99, 7, NULL, NULL), Err(Errno::ESRCH));
}

#[test]
fn priorities_and_affinity() {
    let task = user(1000);
    let mut context = context(&task);
    assert_eq!(scheduling::getpriority(&mut context, 0, 0), Ok(20));
    scheduling::setpriority(&mut context, 0, 0, 30).unwrap();
    assert_eq!(scheduling::getpriority(&mut context, 0, 0), Ok(1));
    assert_eq!(scheduling::setpriority(&mut context, 0, 0, 0), Err(Errno::EACCES));
    assert_eq!(scheduling::getpriority(&mut context, 3, 0), Err(Errno::EINVAL));
    let one = 1i32;
    assert_eq!(scheduling::sched_setscheduler(&mut context, 0, 1, at(&one)), Err(Errno::EPERM));
    assert_eq!(scheduling::sched_setscheduler(&mut context, 0, 0, at(&one)), Err(Errno::EINVAL));
    assert_eq!(scheduling::sched_setscheduler(&mut context, 0, 42, at(&one)), Err(Errno::EINVAL));
    let mut mask = [0u64; 16];
    let size = scheduling::sched_getaffinity(&mut context, 0, 128, into(&mut mask)).unwrap();
    assert!(size >= 8 && mask != [0; 16]);
    assert_eq!(scheduling::sched_getaffinity(&mut context, 0, 4, into(&mut mask)), Err(Errno::EINVAL));
    assert_eq!(scheduling::sched_setaffinity(&mut context, 0, 8, at(&0u64)), Err(Errno::EINVAL));
    let lowest = mask.map(|word| word & word.wrapping_neg());
    scheduling::sched_setaffinity(&mut context, 0, 128, at(&lowest)).unwrap();
    scheduling::ioprio_set(&mut context, 1, 0, 2 << 13 | 5).unwrap();
    assert_eq!(scheduling::ioprio_get(&mut context, 1, 0), Ok(2 << 13 | 5));
    assert_eq!(scheduling::ioprio_set(&mut context, 1, 0, 1 << 13), Err(Errno::EPERM));
}

#[test]
fn names_of_the_system() {
    let task = new_process(&kernel());
    let mut context = context(&task);
    let mut names = [[0u8; 65]; 6];
    system::sethostname(&mut context, at(b"rock"), 4).unwrap();
    system::uname(&mut context, into(&mut names)).unwrap();
    assert_eq!((&names[0][..6], &names[1][..5], &names[4][..7]), (&b"Linux\0"[..], &b"rock\0"[..], &b"x86_64\0"[..]));
    assert_eq!(system::sethostname(&mut context, at(b"rock"), 65), Err(Errno::EINVAL));
    assert_eq!(system::sethostname(&mut self::context(&user(5)), at(b"rock"), 4), Err(Errno::EPERM));
    let mut answer = [0u8; 112];
    system::sysinfo(&mut context, into(&mut answer)).unwrap();
    assert_eq!(system::sysinfo(&mut context, BAD), Err(Errno::EFAULT));
}

#[test]
fn memory_of_another_process_is_copied_piece_by_piece() {
    let kernel = kernel();
    let task = new_process(&kernel);
    let child = child_of(&task);
    let (source, mut target) = (*b"0123456789", [0u8; 10]);
    let piece = |address: u64, len: u64| IoVec { base: address, len };
    let remote = [piece(address_of(&source), 4), piece(0, 0), piece(address_of(&source) + 6, 4)];
    let base = address_of_mut(&mut target);
    let local = [piece(base, 5), piece(base + 5, 5)];
    let mut context = context(&task);
    let mut read = |local: &[IoVec], remote: &[IoVec], flags| {
        let (a, b) = (at(local), at(remote));
        system::process_vm_readv(&mut context, child.tid(), a, local.len() as u64, b, remote.len() as u64, flags)
    };
    assert_eq!(read(&local, &remote, 0), Ok(8));
    assert_eq!(read(&local, &remote, 1), Err(Errno::EINVAL));
    assert_eq!(read(&local, &[piece(8, 5)], 0), Err(Errno::EFAULT));
    assert_eq!(read(&local, &[piece(address_of(&source), 2), piece(8, 5)], 0), Ok(2));
    assert_eq!(&target[..8], b"01236789");
    let stranger = process_of(&kernel, Credentials::new(9, 9, Vec::new()));
    let denied = system::process_vm_readv(&mut self::context(&stranger), child.tid(), at(&local), 2, at(&remote), 3, 0);
    assert_eq!(denied, Err(Errno::EPERM));
}

#[test]
fn a_call_that_was_put_off_is_made_only_where_that_is_granted() {
    const ADD: i32 = 1;
    let kernel = kernel();
    let task = new_process(&kernel);
    let mut context = context(&task);
    let epoll = event::epoll_create1(&mut context, event::EpollFlags::empty()).unwrap();
    let counter = event::eventfd2(&mut context, 0, event::EventFdFlags::empty()).unwrap();
    let record = [u64::MAX, 24 | 1 << 32 | 1 << 34, epoll as u64 | (ADD as u64) << 32, counter as u64 | 1 << 32, 7];
    let area: Vec<u8> = record.iter().flat_map(|word| word.to_ne_bytes()).collect();
    let interest = EpollEvent { events: 1, data: 7 };
    // Made up by a hostile program where a policy has a say on each call: nothing is done.
    kernel.deferral.store(false, Ordering::Relaxed);
    carry_out_deferred(&mut context, &area);
    assert_eq!(event::epoll_ctl(&mut context, epoll, ADD, counter, at(&interest)), Ok(()));
    assert_eq!(event::epoll_ctl(&mut context, epoll, 2, counter, NULL), Ok(()));
    kernel.deferral.store(true, Ordering::Relaxed);
    carry_out_deferred(&mut context, &area);
    assert_eq!(event::epoll_ctl(&mut context, epoll, ADD, counter, at(&interest)), Err(Errno::EEXIST));
}
