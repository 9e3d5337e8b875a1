use super::lifecycle::{clone_task, CloneRequest};
use super::wait::{wait, Select, WaitOptions};
use super::*;
use crate::signal::{pending_in, send_to_process, set_action, set_blocked, StopState};
use crate::testing::{context, kernel, kernel_with, process, process_of};
use crate::{Errno, Kernel};
use skerry_abi::raw::general as linux;
use skerry_abi::signal::*;
use skerry_control::Limits;
use std::sync::atomic::Ordering;
use std::sync::Arc;

const THREAD: u32 = linux::CLONE_VM | linux::CLONE_FS | linux::CLONE_FILES | linux::CLONE_SIGHAND | linux::CLONE_THREAD;

fn child_of(task: &Arc<Task>) -> Arc<Task> {
    clone_task(&context(task), &CloneRequest { exit_signal: 17, ..CloneRequest::default() }).unwrap()
}

fn thread_of(task: &Arc<Task>) -> Arc<Task> {
    clone_task(&context(task), &CloneRequest { flags: THREAD.into(), ..CloneRequest::default() }).unwrap()
}

fn end(task: &Arc<Task>, status: u8) {
    exit_group(task, ExitStatus::Exited(status));
    host_gone(task.process(), None);
}

fn poll(task: &Arc<Task>, select: Select, options: WaitOptions) -> crate::Result<Option<(i32, i32)>> {
    let waited = wait(&context(task), select, options | WaitOptions::NOHANG)?;
    Ok(waited.map(|waited| (waited.pid, waited.status)))
}

#[test]
fn a_child_copies_and_a_thread_shares() {
    let kernel = kernel();
    let parent = process(&kernel);
    assert_eq!((parent.tid(), parent.process().parent().unwrap().pid()), (2, 1));
    set_blocked(&parent, SignalSet::single(Signal::SIGUSR1));
    let child = child_of(&parent);
    let thread = thread_of(&parent);
    assert_eq!((child.tid(), thread.tid()), (3, 4));
    assert!(Arc::ptr_eq(thread.process(), parent.process()) && Arc::ptr_eq(&thread.files(), &parent.files()));
    assert!(!Arc::ptr_eq(&child.files(), &parent.files()));
    assert_eq!(child.signals.lock().blocked(), SignalSet::single(Signal::SIGUSR1));
    assert_eq!(child.process().group().id, 2);
    set_action(parent.process(), Signal::SIGHUP, SigAction { handler: 5, ..SigAction::default() });
    assert_eq!(child.process().actions.lock()[0].handler, 0);
    let sharing = CloneRequest { flags: (linux::CLONE_VM | linux::CLONE_SIGHAND).into(), ..CloneRequest::default() };
    let sharing = clone_task(&context(&parent), &sharing).unwrap();
    set_action(parent.process(), Signal::SIGHUP, SigAction { handler: 6, ..SigAction::default() });
    assert_eq!(sharing.process().actions.lock()[0].handler, 6);
}

#[test]
fn clone_refuses_what_cannot_be() {
    let task = process(&kernel());
    for flags in [linux::CLONE_THREAD, linux::CLONE_SIGHAND, linux::CLONE_NEWNS | linux::CLONE_FS, linux::CLONE_NEWPID] {
        let request = CloneRequest { flags: flags.into(), ..CloneRequest::default() };
        assert_eq!(clone_task(&context(&task), &request).err(), Some(Errno::EINVAL), "{flags:#x}");
    }
}

#[test]
fn the_limit_of_processes_holds() {
    let kernel = kernel_with(Limits { pids: Some(3), ..Limits::default() });
    let task = process(&kernel);
    let child = child_of(&task);
    thread_of(&task);
    let request = CloneRequest { exit_signal: 17, ..CloneRequest::default() };
    assert_eq!(clone_task(&context(&task), &request).err(), Some(Errno::EAGAIN));
    end(&child, 0);
    assert_eq!(clone_task(&context(&task), &request).err(), Some(Errno::EAGAIN), "a zombie counts");
    assert!(poll(&task, Select::Any, WaitOptions::EXITED).unwrap().is_some());
    clone_task(&context(&task), &request).unwrap();
}

#[test]
fn a_clone_that_the_host_could_not_make_leaves_nothing() {
    let kernel = kernel();
    let task = process(&kernel);
    let child = child_of(&task);
    discard_clone(&child);
    assert_eq!(poll(&task, Select::Any, WaitOptions::EXITED), Err(Errno::ECHILD));
    assert!(kernel.pids.process(child.tid()).is_err() && kernel.pids.task(child.tid()).is_err());
    let thread = thread_of(&task);
    discard_clone(&thread);
    assert_eq!(task.process().threads.lock().len(), 1);
}

#[test]
fn a_dead_child_is_waited_for_once() {
    let kernel = kernel();
    let parent = process(&kernel);
    set_blocked(&parent, SignalSet::FULL);
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Err(Errno::ECHILD));
    let child = child_of(&parent);
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Ok(None));
    end(&child, 7);
    assert_eq!(pending_in(&parent, SignalSet::FULL), SignalSet::single(Signal::SIGCHLD));
    assert_eq!(poll(&parent, Select::Process(99), WaitOptions::EXITED), Err(Errno::ECHILD));
    assert_eq!(poll(&parent, Select::Any, WaitOptions::STOPPED), Ok(None));
    let status = Ok(Some((child.tid(), 7 << 8)));
    assert_eq!(poll(&parent, Select::Group(2), WaitOptions::EXITED | WaitOptions::NOWAIT), status);
    assert_eq!(poll(&parent, Select::Process(child.tid()), WaitOptions::EXITED), status);
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Err(Errno::ECHILD));
    assert!(kernel.pids.process(child.tid()).is_err());
}

#[test]
fn a_waiting_parent_is_woken() {
    let parent = process(&kernel());
    let child = child_of(&parent);
    let waiting = {
        let parent = parent.clone();
        std::thread::spawn(move || wait(&context(&parent), Select::Any, WaitOptions::EXITED).unwrap().unwrap().pid)
    };
    std::thread::sleep(std::time::Duration::from_millis(20));
    end(&child, 0);
    assert_eq!(waiting.join().unwrap(), child.tid());
}

#[test]
fn a_parent_that_ignores_its_children_has_no_zombies() {
    for action in
        [SigAction { handler: SIG_IGN, ..SigAction::default() }, SigAction { flags: SA_NOCLDWAIT, ..SigAction::default() }]
    {
        let parent = process(&kernel());
        set_action(parent.process(), Signal::SIGCHLD, action);
        let child = child_of(&parent);
        end(&child, 0);
        assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Err(Errno::ECHILD));
    }
}

#[test]
fn children_of_another_signal_need_wclone() {
    let parent = process(&kernel());
    let child = clone_task(&context(&parent), &CloneRequest::default()).unwrap();
    end(&child, 0);
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Err(Errno::ECHILD));
    assert!(poll(&parent, Select::Any, WaitOptions::EXITED | WaitOptions::CLONE | WaitOptions::NOWAIT).unwrap().is_some());
    assert!(poll(&parent, Select::Any, WaitOptions::EXITED | WaitOptions::ALL).unwrap().is_some());
}

#[test]
fn orphans_go_to_the_nearest_subreaper_and_else_to_init() {
    let kernel = kernel();
    let grandparent = process(&kernel);
    let parent = child_of(&grandparent);
    let (dead, living) = (child_of(&parent), child_of(&parent));
    end(&dead, 3);
    grandparent.process().child_subreaper.store(true, Ordering::Relaxed);
    end(&parent, 0);
    assert_eq!(living.process().parent().unwrap().pid(), grandparent.tid());
    assert_eq!(poll(&grandparent, Select::Process(dead.tid()), WaitOptions::EXITED), Ok(Some((dead.tid(), 3 << 8))));
    end(&grandparent, 0);
    assert_eq!(living.process().parent().unwrap().pid(), 1);
    end(&living, 0);
    assert_eq!(kernel.pids.processes().len(), 1, "init takes all away");
}

#[test]
fn the_death_of_the_parent_thread_is_told() {
    let kernel = kernel();
    let parent = process(&kernel);
    let child = child_of(&parent);
    set_blocked(&child, SignalSet::FULL);
    child.parent_death_signal.store(Signal::SIGTERM.number(), Ordering::Relaxed);
    end(&parent, 0);
    assert_eq!(pending_in(&child, SignalSet::FULL), SignalSet::single(Signal::SIGTERM));
}

#[test]
fn exit_of_the_last_thread_ends_the_process_with_the_leaders_status() {
    let parent = process(&kernel());
    let leader = child_of(&parent);
    let thread = thread_of(&leader);
    exit_thread(&leader, 4);
    thread_gone(&leader);
    assert!(!leader.process().is_dead());
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Ok(None));
    exit_thread(&thread, 9);
    thread_gone(&thread);
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Ok(Some((leader.tid(), 4 << 8))));
}

#[test]
fn a_stop_that_a_newly_orphaned_group_is_in_ends_with_sighup() {
    let kernel = kernel();
    let shell = process(&kernel);
    let job = child_of(&shell);
    job_control::set_group(shell.process(), job.tid(), 0).unwrap();
    set_blocked(&job, SignalSet::FULL);
    {
        let mut signals = job.process().signals.lock();
        signals.stop = StopState::Stopped(Signal::SIGTSTP);
        signals.stop_untold = Some(Signal::SIGTSTP);
    }
    assert_eq!(poll(&shell, Select::Any, WaitOptions::STOPPED), Ok(Some((job.tid(), 20 << 8 | 0x7f))));
    assert_eq!(poll(&shell, Select::Any, WaitOptions::STOPPED), Ok(None));
    end(&shell, 0);
    assert_eq!(pending_in(&job, SignalSet::FULL), SignalSet(1 | 1 << 17));
    assert_eq!(job.process().signals.lock().stop, StopState::Running);
}

#[test]
fn continued_children_are_told_once() {
    let parent = process(&kernel());
    let child = child_of(&parent);
    child.process().signals.lock().stop = StopState::Stopped(Signal::SIGSTOP);
    send_to_process(child.process(), SignalInfo::user(Signal::SIGCONT, SI_USER, 1, 0));
    assert_eq!(poll(&parent, Select::Any, WaitOptions::CONTINUED), Ok(Some((child.tid(), 0xffff))));
    assert_eq!(poll(&parent, Select::Any, WaitOptions::CONTINUED), Ok(None));
}

#[test]
fn groups_and_sessions() {
    let kernel = kernel();
    let shell = process(&kernel);
    let (a, b) = (child_of(&shell), child_of(&shell));
    let own = shell.process();
    assert_eq!(job_control::set_group(own, 0, 0), Err(Errno::EPERM), "a session's leader stays");
    assert_eq!(job_control::new_session(own), Err(Errno::EPERM));
    job_control::set_group(own, a.tid(), a.tid()).unwrap();
    job_control::set_group(own, b.tid(), a.tid()).unwrap();
    assert_eq!(a.process().group().members(&kernel).len(), 2);
    assert_eq!(job_control::set_group(own, b.tid(), 999), Err(Errno::EPERM));
    assert_eq!(job_control::set_group(own, 1, 0), Err(Errno::ESRCH), "not a child");
    assert_eq!(job_control::set_group(own, b.tid(), -1), Err(Errno::EINVAL));
    b.process().executed.store(true, Ordering::Relaxed);
    assert_eq!(job_control::set_group(own, b.tid(), 0), Err(Errno::EACCES));
    assert_eq!(job_control::new_session(a.process()), Err(Errno::EPERM), "leads a group");
    assert_eq!(job_control::new_session(b.process()), Ok(b.tid()));
    assert_eq!((b.process().group().id, b.process().session().id), (b.tid(), b.tid()));
    assert_eq!(job_control::set_group(own, b.tid(), 0), Err(Errno::EPERM), "another session");
}

#[test]
fn the_death_of_a_sessions_leader_hangs_its_terminal_up() {
    let kernel = kernel();
    let shell = process(&kernel);
    let told = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mark = told.clone();
    let hangup = move |_: &Kernel, session: &Session| mark.store(session.id == 2, Ordering::Relaxed);
    *shell.process().session().hangup.lock() = Some(Box::new(hangup));
    end(&shell, 0);
    assert!(told.load(Ordering::Relaxed));
}

#[test]
fn exec_ends_the_other_threads_and_a_thread_takes_over_the_leaders_id() {
    let kernel = kernel();
    let leader = process(&kernel);
    let (caller, other) = (thread_of(&leader), thread_of(&leader));
    let ending = [leader.clone(), other.clone()];
    let ends = std::thread::spawn(move || {
        for thread in ending {
            while !thread.is_interrupted() {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            assert!(matches!(crate::signal::prepare_return(&mut context(&thread), None), crate::signal::Return::Gone));
            thread_gone(&thread);
        }
    });
    kill_other_threads(&context(&caller)).unwrap();
    ends.join().unwrap();
    assert_eq!((caller.tid(), caller.process().threads.lock().len()), (2, 1));
    assert!(Arc::ptr_eq(&kernel.pids.task(2).unwrap(), &caller));
    set_action(caller.process(), Signal::SIGHUP, SigAction { handler: SIG_IGN, ..SigAction::default() });
    set_action(caller.process(), Signal::SIGINT, SigAction { handler: 0x1000, ..SigAction::default() });
    let credentials = (*caller.credentials()).clone();
    exec_reset(&caller, b"/usr/bin/a-rather-long-name", Program::default(), &ExecFile::default(), credentials);
    let actions = caller.process().actions.lock();
    assert_eq!((actions[0].handler, actions[1].handler), (SIG_IGN, SIG_DFL));
    assert_eq!(&*caller.name.read(), b"a-rather-long-n");
    assert!(caller.process().vfork_done.load(Ordering::Relaxed));
}

#[test]
fn set_id_programs_change_the_effective_ids_and_root_gets_capabilities() {
    let user = Credentials::new(1000, 1000, Vec::new());
    let to_root = ExecFile { set_uid: Some(0), ..ExecFile::default() };
    let (new, secure) = to_root.credentials(&user).unwrap();
    assert_eq!((new.ruid, new.euid, new.suid, new.fsuid, secure), (1000, 0, 0, 0, true));
    assert_eq!(new.capabilities.effective, Capabilities::ALL);
    let (same, secure) = to_root.credentials(&Credentials { no_new_privs: true, ..user.clone() }).unwrap();
    assert_eq!((same.euid, same.capabilities.effective, secure), (1000, 0, false));
    let root = Credentials::new(0, 0, Vec::new());
    let (new, secure) = ExecFile::default().credentials(&root).unwrap();
    assert_eq!((new.capabilities.effective, secure), (Capabilities::ALL, false));
    let (new, secure) = ExecFile { set_uid: Some(1000), ..ExecFile::default() }.credentials(&root).unwrap();
    assert_eq!((new.euid, new.capabilities.effective, secure), (1000, 0, true));
    // Ambient capabilities survive a plain program, not one with a set-user-ID bit.
    let mut ambient = user.clone();
    let bit = 1 << credentials::CAP_NET_BIND_SERVICE;
    (ambient.capabilities.permitted, ambient.capabilities.inheritable, ambient.capabilities.ambient) = (bit, bit, bit);
    assert_eq!(ExecFile::default().credentials(&ambient).unwrap().0.capabilities.effective, bit);
    let other = ExecFile { set_uid: Some(1001), ..ExecFile::default() };
    assert_eq!(other.credentials(&ambient).unwrap().0.capabilities.effective, 0);
    // File capabilities.
    let file = ExecFile { capabilities: Some((bit, 0, true)), ..ExecFile::default() };
    let (new, secure) = file.credentials(&user).unwrap();
    assert_eq!((new.capabilities.permitted, new.capabilities.effective, secure), (bit, bit, true));
    let mut bounded = user;
    bounded.capabilities.bounding = 0;
    assert_eq!(file.credentials(&bounded).err(), Some(Errno::EPERM));
}

#[test]
fn an_unexpected_death_of_the_host_process_is_a_kill() {
    let parent = process(&kernel());
    let child = child_of(&parent);
    host_gone(child.process(), Some(ExitStatus::Signaled(Signal::SIGKILL, false)));
    host_gone(child.process(), None);
    assert_eq!(poll(&parent, Select::Any, WaitOptions::EXITED), Ok(Some((child.tid(), 9))));
}

#[test]
fn a_user_has_a_limit_of_processes() {
    let kernel = kernel();
    let task = process_of(&kernel, Credentials::new(1000, 1000, Vec::new()));
    task.process().rlimits.write()[linux::RLIMIT_NPROC as usize].current = 2;
    let request = CloneRequest { exit_signal: 17, ..CloneRequest::default() };
    clone_task(&context(&task), &request).unwrap();
    assert_eq!(clone_task(&context(&task), &request).err(), Some(Errno::EAGAIN));
}
