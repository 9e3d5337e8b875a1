use super::*;
use crate::task::lifecycle::{clone_task, CloneRequest};
use crate::task::{host_gone, Credentials, ExitStatus, Task};
use crate::testing::{context, kernel, process, process_of};
use crate::Errno;
use skerry_abi::raw::general as linux;
use skerry_abi::signal::*;
use std::sync::atomic::Ordering;
use std::sync::Arc;
use std::time::Duration;

fn action(handler: u64, flags: u64) -> SigAction {
    SigAction { handler, flags, restorer: 0x77, mask: SignalSet::EMPTY }
}

fn info(signal: Signal) -> SignalInfo {
    SignalInfo::user(signal, SI_USER, 1, 0)
}

fn thread_of(task: &Arc<Task>) -> Arc<Task> {
    let flags = linux::CLONE_VM | linux::CLONE_FS | linux::CLONE_FILES | linux::CLONE_SIGHAND | linux::CLONE_THREAD;
    clone_task(&context(task), &CloneRequest { flags: flags.into(), ..CloneRequest::default() }).unwrap()
}

fn child_of(task: &Arc<Task>) -> Arc<Task> {
    clone_task(&context(task), &CloneRequest { exit_signal: 17, ..CloneRequest::default() }).unwrap()
}

fn back(task: &Arc<Task>, result: Option<crate::Result<u64>>) -> Return {
    prepare_return(&mut context(task), result)
}

fn handler(returned: Return) -> (Resume, HandlerFrame) {
    match returned {
        Return::Handler { resume, frame } => (resume, frame),
        other => panic!("{other:?}"),
    }
}

#[test]
fn nothing_pending_returns_the_value_and_leaves_the_kernel() {
    let task = process(&kernel());
    assert!(matches!(back(&task, Some(Ok(7))), Return::Value(7)));
    assert!(!task.in_kernel.load(Ordering::Relaxed));
    task.in_kernel.store(true, Ordering::Relaxed);
    assert!(matches!(back(&task, Some(Err(Errno::ENOENT))), Return::Value(-2)));
    assert!(matches!(back(&task, None), Return::AsIs));
}

#[test]
fn interrupted_calls_restart_or_not_as_signal_7_says() {
    for (errno, flags, expected) in [
        (Errno::ERESTARTSYS, SA_RESTART, Resume::Restart),
        (Errno::ERESTARTSYS, 0, Resume::Value(-4)),
        (Errno::ERESTARTNOHAND, SA_RESTART, Resume::Value(-4)),
        (Errno::ERESTARTNOINTR, 0, Resume::Restart),
        (Errno::ERESTART_RESTARTBLOCK, SA_RESTART, Resume::Value(-4)),
    ] {
        let task = process(&kernel());
        set_action(task.process(), Signal::SIGUSR1, action(0x1000, flags));
        send_to_process(task.process(), info(Signal::SIGUSR1));
        assert!(task.is_interrupted());
        let (resume, frame) = handler(back(&task, Some(Err(errno))));
        assert_eq!(resume, expected, "{errno}");
        assert_eq!(frame.info.signo, 10);
        assert!(task.in_kernel.load(Ordering::Relaxed), "more handlers may follow");
        assert!(matches!(back(&task, None), Return::AsIs));
        assert!(!task.in_kernel.load(Ordering::Relaxed));
    }
    // Without a handler all of them go on.
    let task = process(&kernel());
    for errno in [Errno::ERESTARTSYS, Errno::ERESTARTNOHAND, Errno::ERESTARTNOINTR] {
        assert!(matches!(back(&task, Some(Err(errno))), Return::Restart));
    }
    *task.restart.lock() = Some(Box::new(|_| Ok(42)));
    assert!(matches!(back(&task, Some(Err(Errno::ERESTART_RESTARTBLOCK))), Return::Value(42)));
    assert!(matches!(back(&task, Some(Err(Errno::ERESTART_RESTARTBLOCK))), Return::Value(-4)));
}

#[test]
fn handlers_nest_with_the_lowest_signal_first_and_masks_add_up() {
    let task = process(&kernel());
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, 0));
    set_action(task.process(), Signal::SIGUSR2, action(0x2000, SA_NODEFER | SA_RESETHAND));
    send_to_process(task.process(), info(Signal::SIGUSR2));
    send_to_task(&task, info(Signal::SIGUSR1));
    let (_, first) = handler(back(&task, Some(Ok(0))));
    assert_eq!((first.info.signo, first.saved_mask), (10, SignalSet::EMPTY));
    let (resume, second) = handler(back(&task, None));
    assert_eq!((second.info.signo, resume), (12, Resume::AsIs));
    assert_eq!(second.saved_mask, SignalSet::single(Signal::SIGUSR1));
    assert_eq!(task.signals.lock().blocked(), SignalSet::single(Signal::SIGUSR1), "SA_NODEFER");
    assert_eq!(task.process().actions.lock()[11].handler, SIG_DFL, "SA_RESETHAND");
    assert!(matches!(back(&task, None), Return::AsIs));
    after_signal_return(&mut context(&task), SignalSet::FULL, DISABLED_STACK);
    assert_eq!(task.signals.lock().blocked(), SignalSet(!SignalSet::UNBLOCKABLE.0));
}

#[test]
fn a_synchronous_fault_comes_before_lower_numbers() {
    let task = process(&kernel());
    for signal in [Signal::SIGHUP, Signal::SIGSEGV] {
        set_action(task.process(), signal, action(0x1000, 0));
    }
    send_to_task(&task, info(Signal::SIGHUP));
    force_signal(&task, SignalInfo::fault(Signal::SIGSEGV, 1, 0xdead));
    let (_, frame) = handler(back(&task, None));
    assert_eq!((frame.info.signo, frame.info.fields[0]), (11, 0xdead));
}

#[test]
fn a_fault_that_is_blocked_or_ignored_kills() {
    for ignored in [false, true] {
        let task = process(&kernel());
        if ignored {
            set_action(task.process(), Signal::SIGSEGV, action(SIG_IGN, 0));
        } else {
            set_action(task.process(), Signal::SIGSEGV, action(0x1000, 0));
            set_blocked(&task, SignalSet::single(Signal::SIGSEGV));
        }
        force_signal(&task, SignalInfo::fault(Signal::SIGSEGV, 1, 0));
        assert!(matches!(back(&task, None), Return::Gone));
        assert_eq!(task.process().group_exit(), Some(ExitStatus::Signaled(Signal::SIGSEGV, false)));
    }
}

#[test]
fn a_frame_that_cannot_be_written_is_a_fault_and_of_sigsegv_itself_the_end() {
    let task = process(&kernel());
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, 0));
    set_action(task.process(), Signal::SIGSEGV, action(0x2000, 0));
    send_to_task(&task, info(Signal::SIGUSR1));
    let (_, frame) = handler(back(&task, None));
    frame_failed(&mut context(&task), &frame);
    let (_, frame) = handler(back(&task, None));
    assert_eq!((frame.info.signo, frame.saved_mask), (11, SignalSet::EMPTY));
    frame_failed(&mut context(&task), &frame);
    assert!(matches!(back(&task, None), Return::Gone));
}

#[test]
fn standard_signals_are_held_once_and_real_time_ones_queue_in_order_up_to_the_limit() {
    let task = process(&kernel());
    let real_time = Signal::new(34).unwrap();
    set_blocked(&task, SignalSet::FULL);
    task.process().rlimits.write()[linux::RLIMIT_SIGPENDING as usize].current = 5;
    for value in 0..4 {
        send_to_process(task.process(), info(Signal::SIGUSR1));
        try_send_to_process(task.process(), SignalInfo::queue(real_time, SI_QUEUE, 1, 0, value)).unwrap();
    }
    let one_more = SignalInfo::queue(real_time, SI_QUEUE, 1, 0, 9);
    assert_eq!(try_send_to_process(task.process(), one_more), Err(Errno::EAGAIN));
    assert_eq!(pending_in(&task, SignalSet::FULL), SignalSet(1 << 9 | 1 << 33));
    for value in 0..4 {
        assert_eq!(dequeue(&task, SignalSet::single(real_time)).unwrap().fields[1], value);
    }
    assert_eq!(dequeue(&task, SignalSet::FULL).unwrap().signo, 10);
    assert!(dequeue(&task, SignalSet::FULL).is_none());
}

#[test]
fn ignored_signals_vanish_unless_blocked_and_ignoring_flushes() {
    let task = process(&kernel());
    send_to_process(task.process(), info(Signal::SIGCHLD));
    assert!(pending_in(&task, SignalSet::FULL).is_empty() && !task.is_interrupted());
    set_blocked(&task, SignalSet::FULL);
    send_to_process(task.process(), info(Signal::SIGCHLD));
    send_to_process(task.process(), info(Signal::SIGUSR1));
    assert_eq!(pending_in(&task, SignalSet::FULL), SignalSet(1 << 16 | 1 << 9));
    set_action(task.process(), Signal::SIGUSR1, action(SIG_IGN, 0));
    assert_eq!(pending_in(&task, SignalSet::FULL), SignalSet(1 << 16));
}

#[test]
fn a_process_directed_signal_goes_to_a_thread_that_does_not_block_it_and_moves_on_when_that_blocks_it() {
    let task = process(&kernel());
    let (second, third) = (thread_of(&task), thread_of(&task));
    let set = SignalSet::single(Signal::SIGUSR1);
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, 0));
    set_blocked(&task, set);
    send_to_process(task.process(), info(Signal::SIGUSR1));
    assert!(!task.is_interrupted() && second.is_interrupted() && !third.is_interrupted());
    set_blocked(&second, set);
    assert!(third.is_interrupted());
    // The one that was told first finds nothing.
    assert!(matches!(back(&second, Some(Err(Errno::ERESTARTSYS))), Return::Restart));
    handler(back(&third, None));
}

#[test]
fn sigsuspend_puts_its_mask_back_after_the_handler() {
    let task = process(&kernel());
    let usr1 = SignalSet::single(Signal::SIGUSR1);
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, 0));
    set_blocked(&task, usr1);
    send_to_task(&task, info(Signal::SIGUSR1));
    assert!(!task.is_interrupted());
    set_temporary_mask(&mut context(&task), SignalSet::EMPTY);
    assert!(task.is_interrupted());
    let (resume, frame) = handler(back(&task, Some(Err(Errno::ERESTARTNOHAND))));
    assert_eq!((resume, frame.saved_mask), (Resume::Value(-4), usr1));
    // A call that ended by itself puts the mask back before signals are looked at.
    set_blocked(&task, usr1);
    set_temporary_mask(&mut context(&task), SignalSet::EMPTY);
    send_to_task(&task, info(Signal::SIGUSR1));
    assert!(matches!(back(&task, Some(Ok(1))), Return::Value(1)));
    assert_eq!(task.signals.lock().blocked(), usr1);
    assert_eq!(pending_in(&task, usr1), usr1);
}

#[test]
fn the_alternate_stack_is_taken_once_and_can_disarm_itself() {
    let task = process(&kernel());
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, SA_ONSTACK | SA_NODEFER));
    let alternate = SignalStack { base: 0x10000, flags: 0, _padding: 0, size: 0x4000 };
    stack::set_stack(&task, 0x9000, alternate).unwrap();
    send_to_task(&task, info(Signal::SIGUSR1));
    let mut on_main = context(&task);
    on_main.call.stack_pointer = 0x9000;
    let (_, frame) = handler(prepare_return(&mut on_main, None));
    assert_eq!(frame.stack_top, Some(0x14000));
    let mut on_alternate = context(&task);
    on_alternate.call.stack_pointer = 0x13000;
    send_to_task(&task, info(Signal::SIGUSR1));
    let (_, frame) = handler(prepare_return(&mut on_alternate, None));
    assert_eq!(frame.stack_top, None);
    assert_eq!(stack::set_stack(&task, 0x13000, alternate), Err(Errno::EPERM));
    assert_eq!(stack::describe_stack(&task, 0x13000).flags, SS_ONSTACK);
    assert_eq!(stack::set_stack(&task, 0x9000, SignalStack { size: 100, ..alternate }), Err(Errno::ENOMEM));
    assert_eq!(stack::set_stack(&task, 0x9000, SignalStack { flags: 8, ..alternate }), Err(Errno::EINVAL));
    let disarming = SignalStack { flags: SS_AUTODISARM, ..alternate };
    stack::set_stack(&task, 0x9000, disarming).unwrap();
    send_to_task(&task, info(Signal::SIGUSR1));
    let (_, frame) = handler(prepare_return(&mut on_main, None));
    assert_eq!((frame.stack_top, frame.saved_stack), (Some(0x14000), disarming));
    assert_eq!(task.signals.lock().stack.flags, SS_DISABLE);
}

#[test]
fn stop_and_continue() {
    let kernel = kernel();
    let parent = process(&kernel);
    let child = child_of(&parent);
    send_to_process(child.process(), info(Signal::SIGSTOP));
    let stopped = {
        let child = child.clone();
        std::thread::spawn(move || matches!(back(&child, Some(Ok(5))), Return::Value(5)))
    };
    while !matches!(child.process().signals.lock().stop, StopState::Stopped(_)) {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert_eq!(child.process().signals.lock().stop_untold, Some(Signal::SIGSTOP));
    // A pending stop signal goes when SIGCONT comes, and the other way round.
    send_to_process(child.process(), info(Signal::SIGCONT));
    assert!(stopped.join().unwrap());
    let signals = child.process().signals.lock();
    assert!(signals.continue_untold && signals.stop == StopState::Running);
    drop(signals);
    set_blocked(&child, SignalSet::FULL);
    send_to_process(child.process(), info(Signal::SIGTSTP));
    send_to_process(child.process(), info(Signal::SIGCONT));
    assert_eq!(pending_in(&child, SignalSet::FULL), SignalSet::single(Signal::SIGCONT));
    send_to_process(child.process(), info(Signal::SIGTTOU));
    assert_eq!(pending_in(&child, SignalSet::FULL), SignalSet::single(Signal::SIGTTOU));
}

#[test]
fn a_terminal_stop_does_nothing_to_an_orphaned_group() {
    let task = process(&kernel());
    send_to_process(task.process(), info(Signal::SIGTSTP));
    assert!(matches!(back(&task, Some(Ok(5))), Return::Value(5)));
}

#[test]
fn sigkill_ends_a_stopped_process_and_whoever_sleeps() {
    let kernel = kernel();
    let task = process(&kernel);
    send_to_process(task.process(), info(Signal::SIGSTOP));
    let thread = {
        let task = task.clone();
        std::thread::spawn(move || matches!(back(&task, None), Return::Gone))
    };
    while task.process().signals.lock().stop == StopState::Running {
        std::thread::sleep(Duration::from_millis(1));
    }
    send_to_process(task.process(), info(Signal::SIGKILL));
    assert!(thread.join().unwrap());
    host_gone(task.process(), None);
    assert_eq!(*task.process().exit_status.lock(), Some(ExitStatus::Signaled(Signal::SIGKILL, false)));
}

#[test]
fn who_may_send() {
    let kernel = kernel();
    let user = |uid| process_of(&kernel, Credentials::new(uid, uid, Vec::new()));
    let (root, ann, bob) = (user(0), user(1000), user(1001));
    assert_eq!(may_send(&root, ann.process(), None), Ok(()));
    assert_eq!(may_send(&ann, root.process(), None), Err(Errno::EPERM));
    assert_eq!(may_send(&ann, bob.process(), Some(Signal::SIGCONT)), Err(Errno::EPERM));
    let child = child_of(&ann);
    child.set_credentials(Credentials::new(1001, 1001, Vec::new()));
    assert_eq!(may_send(&ann, child.process(), Some(Signal::SIGTERM)), Err(Errno::EPERM));
    assert_eq!(may_send(&ann, child.process(), Some(Signal::SIGCONT)), Ok(()), "same session");
    send_to_process(kernel.init(), info(Signal::SIGKILL));
    assert!(kernel.init().group_exit().is_none());
}

/// A host thread's channel, as its stub would use it.
fn with_channel(task: &Task) -> Arc<Channel> {
    let (channel, _) = Channel::create().unwrap();
    let channel = Arc::new(channel);
    task.move_to_channel(&channel);
    channel
}

#[test]
fn a_mask_that_the_stub_changes_counts_at_once() {
    let task = process(&kernel());
    set_blocked(&task, SignalSet::single(Signal::SIGUSR2));
    let channel = with_channel(&task);
    assert_eq!(channel.mask(), SignalSet::single(Signal::SIGUSR2).0);
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, 0));
    back(&task, None);
    channel.set_mask(u64::MAX);
    assert_eq!(task.signals.lock().blocked(), SignalSet::FULL.difference(SignalSet::UNBLOCKABLE));
    send_to_task(&task, info(Signal::SIGUSR1));
    assert!(!task.is_interrupted());
    // The stub unblocks it, sees what the sentry has said of it, and asks.
    channel.set_mask(0);
    look_again(&task);
    assert!(matches!(back(&task, None), Return::Handler { .. }));
}

#[test]
fn a_thread_that_has_blocked_what_it_was_told_of_hands_it_back() {
    let task = process(&kernel());
    let thread = thread_of(&task);
    let (channel, other) = (with_channel(&task), with_channel(&thread));
    set_action(task.process(), Signal::SIGUSR1, action(0x1000, 0));
    back(&task, None);
    back(&thread, None);
    send_to_process(task.process(), info(Signal::SIGUSR1));
    assert!(task.is_interrupted() && !thread.is_interrupted());
    channel.set_mask(SignalSet::single(Signal::SIGUSR1).0);
    assert!(matches!(back(&task, None), Return::AsIs));
    assert!(thread.is_interrupted());
    // That one blocks it too, and then not any more.
    other.set_mask(SignalSet::single(Signal::SIGUSR1).0);
    assert!(matches!(back(&thread, None), Return::AsIs));
    assert!(!task.is_interrupted());
    other.set_mask(0);
    look_again(&thread);
    assert!(matches!(back(&thread, None), Return::Handler { .. }));
}
