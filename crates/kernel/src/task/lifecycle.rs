//! Making processes and threads: pid 1, spawn (from outside), clone(2).
//!
//! Pid 1 is the sandbox's own: it runs no program, has no threads, reaps at once whatever becomes its child, and no
//! signal reaches it. Programs that are started from outside are its children, each the leader of a session of its own.

use super::process::{Login, ProcessParts};
use super::scheduling::Scheduling;
use super::task::{TaskParts, DEFAULT_TIMER_SLACK_NS};
use super::{Credentials, FsContext, Process, ProcessGroup, Program, Relations, Session, SignalActions, Task};
use crate::fs::fd_table::FdTable;
use crate::signal::{StopState, DISABLED_STACK};
use crate::{Context, Errno, Kernel, Result};
use parking_lot::RwLock;
use skerry_abi::raw::general as linux;
use skerry_abi::signal::{SigAction, SignalSet};
use skerry_abi::structs::RLimit;
use skerry_control::Event;
use skerry_platform::memory::GuestMemory;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

const INFINITY: u64 = u64::MAX;

/// The limits that a program starts with (getrlimit(2)): Linux's defaults, but no core files.
fn default_rlimits() -> [RLimit; 16] {
    let mut limits = [RLimit { current: INFINITY, maximum: INFINITY }; 16];
    let mut set = |resource: u32, current: u64, maximum: u64| limits[resource as usize] = RLimit { current, maximum };
    set(linux::RLIMIT_STACK, 8 << 20, INFINITY);
    set(linux::RLIMIT_CORE, 0, INFINITY);
    set(linux::RLIMIT_NOFILE, 1024, 1 << 20);
    set(linux::RLIMIT_MEMLOCK, 8 << 20, 8 << 20);
    set(linux::RLIMIT_SIGPENDING, 16_384, 16_384);
    set(linux::RLIMIT_MSGQUEUE, 819_200, 819_200);
    set(linux::RLIMIT_NICE, 0, 0);
    set(linux::RLIMIT_RTPRIO, 0, 0);
    limits
}

/// Makes pid 1.
pub(crate) fn make_init(kernel: &Arc<Kernel>) {
    let session = Session::new(1);
    let group = Arc::new(ProcessGroup { id: 1, session });
    let init = Process::new(
        1,
        ProcessParts {
            kernel: kernel.clone(),
            relations: Relations { parent: Weak::new(), parent_thread: 0, children: Vec::new(), group },
            actions: SignalActions::new([SigAction::default(); 64]),
            rlimits: default_rlimits(),
            exit_signal: 0,
            program: Program::default(),
            oom_score_adj: 0,
            login: Login::default(),
            dumpable: true,
            credentials: Arc::new(Credentials::new(0, 0, Vec::new())),
        },
    );
    *init.last_name.write() = b"init".to_vec();
    // Taken from the table so that nobody else gets the number.
    let _ = kernel.pids.allocate(None);
    list_process(kernel, &init);
    if kernel.init.set(init).is_err() {
        unreachable!("a kernel makes its init once");
    }
}

/// A thread of pid 1 with its rights, which no table lists and which never runs: whoever acts from outside (the control
/// server's file operations) acts as it.
pub(crate) fn outside_task(kernel: &Arc<Kernel>, root: crate::fs::path::Path) -> Arc<Task> {
    Task::new(
        1,
        kernel.init().clone(),
        TaskParts {
            name: b"init".to_vec(),
            files: Arc::default(),
            fs: Arc::new(RwLock::new(FsContext { root: root.clone(), current: root, umask: 0 })),
            credentials: Arc::new(Credentials::new(0, 0, Vec::new())),
            memory: Arc::new(GuestMemory::none()),
            blocked: SignalSet::EMPTY,
            stack: DISABLED_STACK,
            personality: 0,
            timer_slack_ns: DEFAULT_TIMER_SLACK_NS,
            scheduling: Scheduling::default(),
            seccomp: None,
        },
    )
}

/// Puts a process and its group and session where others find them.
fn list_process(kernel: &Kernel, process: &Arc<Process>) {
    let group = process.group();
    kernel.pids.insert_process(process.clone());
    kernel.pids.insert_group(&group);
    kernel.pids.insert_session(&group.session);
}

/// What [`spawn`] makes a process from.
pub struct SpawnRequest {
    pub name: Vec<u8>,
    pub credentials: Credentials,
    pub fs: FsContext,
    pub files: Arc<FdTable>,
    pub memory: Arc<GuestMemory>,
}

/// A process that is started from outside: a child of pid 1 and the leader of a new session. The engine loads its
/// program as execve(2) does. EAGAIN at the limit of processes.
pub fn spawn(kernel: &Arc<Kernel>, request: SpawnRequest) -> Result<Arc<Task>> {
    let _tree = kernel.tree.lock();
    let pid = allocate(kernel)?;
    let group = Arc::new(ProcessGroup { id: pid, session: Session::new(pid) });
    let init = kernel.init();
    let credentials = Arc::new(request.credentials);
    let process = Process::new(
        pid,
        ProcessParts {
            kernel: kernel.clone(),
            relations: Relations { parent: Arc::downgrade(init), parent_thread: 0, children: Vec::new(), group },
            actions: SignalActions::new([SigAction::default(); 64]),
            rlimits: default_rlimits(),
            exit_signal: skerry_abi::signal::Signal::SIGCHLD.number(),
            program: Program::default(),
            oom_score_adj: 0,
            login: Login::default(),
            dumpable: true,
            credentials: credentials.clone(),
        },
    );
    let task = Task::new(
        pid,
        process.clone(),
        TaskParts {
            name: request.name,
            files: request.files,
            fs: Arc::new(RwLock::new(request.fs)),
            credentials,
            memory: request.memory,
            blocked: SignalSet::EMPTY,
            stack: DISABLED_STACK,
            personality: 0,
            timer_slack_ns: DEFAULT_TIMER_SLACK_NS,
            scheduling: Scheduling { nice: kernel.nice, ..Scheduling::default() },
            seccomp: None,
        },
    );
    process.threads.lock().push(task.clone());
    init.relations.lock().children.push(process.clone());
    list_process(kernel, &process);
    kernel.pids.insert_task(task.clone());
    Ok(task)
}

/// The next id. EAGAIN at `--pids`, of which an event tells once a second at the most.
fn allocate(kernel: &Kernel) -> Result<i32> {
    let limit = kernel.limits.pids;
    if limit.is_some_and(|limit| kernel.pids.is_nearly_full(limit)) {
        crate::run::take_births_back(kernel, None);
    }
    let allocated = kernel.pids.allocate(limit);
    if let (Err(Errno::EAGAIN), Some(limit)) = (&allocated, limit) {
        let mut told = kernel.pids_limit_told.lock();
        if told.is_none_or(|told| told.elapsed() >= Duration::from_secs(1)) {
            *told = Some(Instant::now());
            drop(told);
            (kernel.events)(Event::PidsLimit { limit });
        }
    }
    allocated
}

/// What clone(2) asks for.
#[derive(Clone, Copy, Debug, Default)]
pub struct CloneRequest {
    /// CLONE_*, without the exit signal.
    pub flags: u64,
    /// 0 = none.
    pub exit_signal: i32,
    /// Where CLONE_CHILD_CLEARTID writes.
    pub child_tid: u64,
}

impl CloneRequest {
    fn has(&self, flag: u32) -> bool {
        self.flags & u64::from(flag) != 0
    }

    /// clone(2), ERRORS.
    fn check(&self, caller: &Process) -> Result<()> {
        let invalid = self.has(linux::CLONE_NEWNS) && self.has(linux::CLONE_FS)
            || self.has(linux::CLONE_NEWUSER) && self.has(linux::CLONE_FS)
            || self.has(linux::CLONE_THREAD) && !self.has(linux::CLONE_SIGHAND)
            || self.has(linux::CLONE_SIGHAND) && !self.has(linux::CLONE_VM)
            || self.has(linux::CLONE_PARENT) && caller.parent().is_none_or(|parent| parent.is_init() && caller.is_init())
            || self.has(linux::CLONE_THREAD) && self.flags & u64::from(linux::CLONE_NEWUSER | linux::CLONE_NEWPID) != 0
            || self.has(linux::CLONE_PIDFD) && self.has(linux::CLONE_DETACHED)
            || !(0..=64).contains(&self.exit_signal);
        if invalid {
            return Err(Errno::EINVAL);
        }
        Ok(())
    }
}

/// The guest kernel's half of clone(2): a task that is listed and related, ready for the engine to give it a host
/// thread (and, without CLONE_VM, an address space by `Task::set_memory`). Its first step into its own code is
/// `prepare_return`. If the host cannot make the thread: [`discard_clone`].
///
/// Errors: EINVAL, EPERM, EAGAIN, ERESTARTNOINTR (a signal came first: it is delivered, then the call is made again).
pub fn clone_task(context: &Context, request: &CloneRequest) -> Result<Arc<Task>> {
    let caller = context.task;
    let kernel = context.kernel();
    request.check(caller.process())?;
    crate::syscall::system::refuse_namespaces(caller, request.flags)?;
    if caller.is_interrupted() {
        return Err(Errno::ERESTARTNOINTR);
    }
    let tree = kernel.tree.lock();
    check_process_limit(caller)?;
    let tid = allocate(kernel)?;
    let process = if request.has(linux::CLONE_THREAD) { caller.process().clone() } else { fork_process(caller, tid, request) };
    let task = Task::new(tid, process.clone(), copy_task(caller, request));
    if request.has(linux::CLONE_CHILD_CLEARTID) {
        task.clear_child_tid.store(request.child_tid, Ordering::Relaxed);
    }
    {
        let signals = process.signals.lock();
        if signals.group_exit.is_some() {
            return Err(Errno::ERESTARTNOINTR);
        }
        process.threads.lock().push(task.clone());
        if signals.stop != StopState::Running {
            task.interrupted.store(true, Ordering::Release);
        }
    }
    if !request.has(linux::CLONE_THREAD) {
        if let Some(parent) = process.parent() {
            parent.relations.lock().children.push(process.clone());
        }
        list_process(kernel, &process);
        crate::ipc::sysv::forked(kernel, caller.process().pid(), process.pid());
    }
    kernel.pids.insert_task(task.clone());
    drop(tree);
    if caller.traced.load(Ordering::Acquire) {
        crate::ptrace::cloned(caller, &task, request.flags, request.exit_signal);
    }
    if !request.has(linux::CLONE_THREAD) {
        super::limits::watch_cpu_time(&process);
    }
    Ok(task)
}

/// A thread that `maker` has made without our being asked, as pthread_create(3) does, with an id that was reserved. `None`: its
/// process is about to end, or to become another program.
pub(crate) fn adopt_thread(maker: &Arc<Task>, tid: i32) -> Option<Arc<Task>> {
    const FLAGS: u32 = linux::CLONE_VM | linux::CLONE_FS | linux::CLONE_FILES | linux::CLONE_SIGHAND | linux::CLONE_THREAD;
    let process = maker.process();
    maker.tell_heap(None);
    let task =
        Task::new(tid, process.clone(), copy_task(maker, &CloneRequest { flags: FLAGS.into(), ..CloneRequest::default() }));
    {
        let signals = process.signals.lock();
        let mut threads = process.threads.lock();
        let is_ending = signals.group_exit.is_some() || maker.is_gone() || {
            let signals = maker.signals.lock();
            signals.tell_alone(false);
            signals.killed
        };
        if is_ending {
            return None;
        }
        threads.push(task.clone());
        if signals.stop != StopState::Running {
            task.interrupted.store(true, Ordering::Release);
        }
    }
    maker.kernel().pids.insert_task(task.clone());
    Some(task)
}

/// RLIMIT_NPROC (getrlimit(2)): tasks of the caller's real user.
fn check_process_limit(caller: &Task) -> Result<()> {
    use super::credentials::{CAP_SYS_ADMIN, CAP_SYS_RESOURCE};
    let limit = caller.process().rlimit(linux::RLIMIT_NPROC).current;
    let credentials = caller.credentials();
    if limit == INFINITY
        || credentials.ruid == 0
        || credentials.has_capability(CAP_SYS_RESOURCE)
        || credentials.has_capability(CAP_SYS_ADMIN)
    {
        return Ok(());
    }
    let processes = caller.kernel().pids.processes();
    let count: u64 = processes
        .iter()
        .filter(|process| process.credentials().ruid == credentials.ruid)
        .map(|process| process.threads.lock().len().max(1) as u64)
        .sum();
    if count >= limit {
        return Err(Errno::EAGAIN);
    }
    Ok(())
}

fn fork_process(caller: &Task, pid: i32, request: &CloneRequest) -> Arc<Process> {
    let parent = caller.process();
    let (real_parent, parent_thread, exit_signal) = if request.has(linux::CLONE_PARENT) {
        let relations = parent.relations.lock();
        (relations.parent.clone(), relations.parent_thread, parent.exit_signal.load(Ordering::Relaxed))
    } else {
        (Arc::downgrade(parent), caller.tid(), request.exit_signal)
    };
    let group = parent.group();
    let actions = if request.has(linux::CLONE_SIGHAND) {
        let shared = parent.actions.share();
        crate::signal::tell_actions(parent, &parent.signals.lock());
        shared
    } else {
        parent.actions.copy()
    };
    if request.flags & CLONE_CLEAR_SIGHAND != 0 {
        for action in actions.lock().iter_mut().filter(|action| action.handler > skerry_abi::signal::SIG_IGN) {
            *action = SigAction::default();
        }
    }
    let child = Process::new(
        pid,
        ProcessParts {
            kernel: caller.kernel().clone(),
            relations: Relations { parent: real_parent, parent_thread, children: Vec::new(), group },
            actions,
            rlimits: *parent.rlimits.read(),
            exit_signal,
            program: parent.program.read().clone(),
            oom_score_adj: parent.oom_score_adj.load(Ordering::Relaxed),
            login: *parent.login.read(),
            dumpable: parent.dumpable.load(Ordering::Relaxed),
            credentials: caller.credentials(),
        },
    );
    child.huge_pages_disabled.store(parent.huge_pages_disabled.load(Ordering::Relaxed), Ordering::Relaxed);
    child
}

/// clone3(2)'s, which is outside the 32 bits of clone(2).
const CLONE_CLEAR_SIGHAND: u64 = 1 << 32;

fn copy_task(caller: &Task, request: &CloneRequest) -> TaskParts {
    let (blocked, stack) = {
        let signals = caller.signals.lock();
        // A thread that shares memory must not share the stack too; a vfork(2) child may, its parent sleeps.
        let shares_stack = request.has(linux::CLONE_VM) && !request.has(linux::CLONE_VFORK);
        (signals.blocked(), if shares_stack { DISABLED_STACK } else { signals.stack })
    };
    if request.has(linux::CLONE_FILES) && !request.has(linux::CLONE_THREAD) {
        caller.files().never_direct();
    }
    let files = if request.has(linux::CLONE_FILES) { caller.files() } else { Arc::new(caller.files().fork()) };
    if request.has(linux::CLONE_THREAD) && !request.has(linux::CLONE_FILES) {
        // One process with two tables.
        caller.files().never_direct();
        files.never_direct();
    }
    let fs = if request.has(linux::CLONE_FS) { caller.fs_cell() } else { Arc::new(RwLock::new(caller.fs())) };
    TaskParts {
        name: caller.name.read().clone(),
        files,
        fs,
        credentials: caller.credentials(),
        memory: caller.memory(),
        blocked,
        stack,
        personality: caller.personality.load(Ordering::Relaxed),
        timer_slack_ns: caller.timer_slack_ns.load(Ordering::Relaxed),
        scheduling: caller.scheduling.read().for_child(),
        seccomp: caller.seccomp.get(),
    }
}

/// Undoes [`clone_task`]: the host could not make the thread, and nobody is to see that there was one.
pub fn discard_clone(task: &Arc<Task>) {
    let kernel = task.kernel();
    crate::ptrace::detach(task);
    let _tree = kernel.tree.lock();
    let process = task.process();
    kernel.pids.remove_task(task.tid());
    let last = {
        let mut threads = process.threads.lock();
        threads.retain(|other| !Arc::ptr_eq(other, task));
        threads.is_empty()
    };
    task.gone.store(true, Ordering::Release);
    if last {
        if let Some(parent) = process.parent() {
            parent.relations.lock().children.retain(|child| !Arc::ptr_eq(child, process));
        }
        kernel.pids.remove_process(process.pid());
        crate::ipc::sysv::exited(kernel, process.pid());
        // Whoever has found it meanwhile waits in vain.
        process.dead.store(true, Ordering::Release);
        process.exit_queue.wake_all();
        if let Some(parent) = process.parent() {
            parent.child_queue.wake_all();
        }
    }
}
