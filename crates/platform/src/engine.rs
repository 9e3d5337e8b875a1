//! Host threads and processes behind guest ones: kick, kill, wait, account.

use crate::HostError;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::event::{poll, PollFd, PollFlags};
use rustix::process::{kill_process, pidfd_open, waitid, Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// A host call that an application makes itself, through its stub; its filter must allow it.
#[derive(Clone, Debug, Default)]
pub struct NativeCall {
    pub number: u64,
    pub arguments: [u64; 6],
    /// A descriptor to inject first, and the argument that is to have its number. It is closed again afterwards.
    pub descriptor: Option<(usize, Arc<OwnedFd>)>,
    pub kind: NativeKind,
}

/// How an application makes a [`NativeCall`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum NativeKind {
    /// Its result is the list's if it is the last; an error ends the list.
    #[default]
    Call,
    /// Not a call: zero `arguments[1]` bytes at `arguments[0]`.
    Zero,
    /// `arguments[0]` counts from the last `Call`'s result, and its own result is of no interest.
    OverLast,
    /// Not a call: the program is about to make this one itself, and what is before it in the list has done so already;
    /// `arguments[0]` as for `OverLast`.
    Expect,
}

impl NativeCall {
    pub fn new(number: u32, arguments: [u64; 6]) -> NativeCall {
        NativeCall { number: number.into(), arguments, ..NativeCall::default() }
    }

    /// A call that takes an injected descriptor as its argument `index`.
    pub fn with_descriptor(number: u32, arguments: [u64; 6], index: usize, descriptor: Arc<OwnedFd>) -> NativeCall {
        NativeCall { number: number.into(), arguments, descriptor: Some((index, descriptor)), ..NativeCall::default() }
    }

    /// A call that puts an injected descriptor's memory over what the last call has mapped; `arguments[0]` is how far
    /// from its start.
    pub fn over_last(number: u32, arguments: [u64; 6], index: usize, descriptor: Arc<OwnedFd>) -> NativeCall {
        NativeCall { kind: NativeKind::OverLast, ..NativeCall::with_descriptor(number, arguments, index, descriptor) }
    }

    /// The mmap(2) that the program will make next: see [`NativeKind::Expect`].
    pub fn expect(arguments: [u64; 6]) -> NativeCall {
        NativeCall { arguments, kind: NativeKind::Expect, ..NativeCall::default() }
    }

    pub fn zero(address: u64, length: u64) -> NativeCall {
        NativeCall { arguments: [address, length, 0, 0, 0, 0], kind: NativeKind::Zero, ..NativeCall::default() }
    }
}

/// The host thread behind a guest task.
#[derive(Debug)]
pub struct HostThread {
    pub pid: i32,
    pub tid: i32,
    /// CPU time that it had used when its present task began, as far as that is known.
    used_before_ns: AtomicU64,
    /// When that was (on the clock of [`now_ns`]), while it is not known; else 0.
    begun_ns: AtomicU64,
    /// CPU time that it had used when somebody asked last.
    seen_ns: AtomicU64,
}

/// Nanoseconds on a clock that was not 0 at any time of interest: what began before the first such question has its time, too.
fn now_ns() -> u64 {
    const BEGINNING_NS: u64 = 1 << 62;
    static BEGINNING: OnceLock<Instant> = OnceLock::new();
    BEGINNING_NS + BEGINNING.get_or_init(Instant::now).elapsed().as_nanos() as u64
}

impl HostThread {
    pub fn new(pid: i32, tid: i32) -> HostThread {
        let none = || AtomicU64::new(0);
        HostThread { pid, tid, used_before_ns: none(), begun_ns: none(), seen_ns: none() }
    }

    /// It is another task's since `age_ns` ago.
    pub fn begin_anew(&self, age_ns: u64) {
        self.used_before_ns.store(self.seen_ns.load(Ordering::Acquire), Ordering::Release);
        self.begun_ns.store(now_ns().saturating_sub(age_ns).max(1), Ordering::Release);
    }

    /// Of `used_ns`, which it has used by now, what is not its present task's. To ask the host when a task begins would cost
    /// as much as beginning it, and few are ever asked about: whoever asks first is told that the task has used all the time
    /// since, if it can have.
    fn used_before(&self, used_ns: u64) -> u64 {
        self.seen_ns.fetch_max(used_ns, Ordering::AcqRel);
        let begun = self.begun_ns.swap(0, Ordering::AcqRel);
        if begun != 0 {
            let at_least = used_ns.saturating_sub(now_ns().saturating_sub(begun));
            self.used_before_ns.fetch_max(at_least, Ordering::AcqRel);
        }
        self.used_before_ns.load(Ordering::Acquire)
    }

    /// CPU time that its task has used, in all; `None` once it is gone.
    pub fn cpu_clock_ns(&self) -> Option<u64> {
        let used_ns = crate::cpu_clock::thread_cpu_time_ns(self.pid, self.tid)?;
        Some(used_ns.saturating_sub(self.used_before(used_ns)))
    }

    /// Makes the thread enter the guest kernel soon, wherever it is. A thread that is in a call anyway notices nothing.
    pub fn kick(&self) {
        // SAFETY: tgkill takes plain numbers; a thread that is gone gives ESRCH, which is as good.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.tid, crate::layout::KICK_SIGNAL) };
    }

    /// CPU time that its task has used so far: (user, system) in nanoseconds; (0, 0) once it is gone. What was used before
    /// counts as user time, as far as there is some.
    pub fn cpu_time_ns(&self) -> (u64, u64) {
        const USER_TIME: usize = 11;
        let field = |index| self.stat_field(index).unwrap_or(0) * 10_000_000;
        let (user, system) = (field(USER_TIME), field(USER_TIME + 1));
        let before = self.used_before(user + system);
        (user.saturating_sub(before), system.saturating_sub(before.saturating_sub(user)))
    }

    /// The CPU that it ran on last.
    pub fn last_cpu(&self) -> Option<u32> {
        const PROCESSOR: usize = 36;
        self.stat_field(PROCESSOR).and_then(|cpu| u32::try_from(cpu).ok())
    }

    /// A number of /proc/PID/task/TID/stat, counted from behind the name (proc_pid_stat(5)).
    fn stat_field(&self, index: usize) -> Option<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/task/{}/stat", self.pid, self.tid)).ok()?;
        let (_, rest) = stat.rsplit_once(')')?;
        rest.split_ascii_whitespace().nth(index)?.parse().ok()
    }

    /// Whether the thread is really gone, so that its slot can be used again.
    pub fn is_gone(&self) -> bool {
        // SAFETY: as above; signal 0 sends nothing.
        unsafe { libc::syscall(libc::SYS_tgkill, self.pid, self.tid, 0) != 0 }
    }
}

/// What a host process has used (getrusage(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// User and system time.
    pub time_ns: (u64, u64),
    pub max_rss_kib: u64,
    pub minor_faults: u64,
    pub major_faults: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl HostUsage {
    /// Both together; of the memory the higher mark.
    pub fn plus(self, other: HostUsage) -> HostUsage {
        let time = |one: u64, other: u64| one.saturating_add(other);
        HostUsage {
            time_ns: (time(self.time_ns.0, other.time_ns.0), time(self.time_ns.1, other.time_ns.1)),
            max_rss_kib: self.max_rss_kib.max(other.max_rss_kib),
            minor_faults: self.minor_faults.saturating_add(other.minor_faults),
            major_faults: self.major_faults.saturating_add(other.major_faults),
            voluntary_switches: self.voluntary_switches.saturating_add(other.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_add(other.involuntary_switches),
        }
    }
}

/// The host process behind a guest process. The sentry is its parent, whoever cloned it: until that has waited for it (see the
/// `Drop`) its pid is no other process's.
///
/// Most processes end before anybody needs a pidfd of them, so that they have none until then.
#[derive(Debug)]
pub struct HostProcess {
    pub pid: i32,
    pidfd: OnceLock<OwnedFd>,
    /// Where its death is to be told once somebody waits for that: see [`HostProcess::be_watched`].
    watch: Option<Arc<OwnedFd>>,
    is_watched: AtomicBool,
    /// Every descriptor that it was ever given is below this number.
    descriptors: AtomicU32,
}

impl HostProcess {
    /// Takes hold of a child of ours that has not been waited for.
    /// An error where `pid` is no such child, but a thread's number, say: who rings may present what is another's.
    pub fn new(pid: i32, watch: Option<Arc<OwnedFd>>) -> Result<HostProcess, HostError> {
        let id = Pid::from_raw(pid).ok_or_else(|| HostError::new("looking for a child", rustix::io::Errno::SRCH))?;
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(id), options).map_err(|error| HostError::new("looking for a child", error))?;
        let is_watched = AtomicBool::new(false);
        Ok(HostProcess { pid, pidfd: OnceLock::new(), watch, is_watched, descriptors: AtomicU32::new(0) })
    }

    /// It was given the descriptor `number`.
    pub fn was_given(&self, number: i32) {
        self.descriptors.fetch_max(number.unsigned_abs().saturating_add(1), Ordering::AcqRel);
    }

    /// Every descriptor that it was ever given is below this number.
    pub fn descriptors_end(&self) -> u32 {
        self.descriptors.load(Ordering::Acquire)
    }

    /// Readable once the process is dead.
    fn death(&self) -> Result<BorrowedFd<'_>, HostError> {
        if let Some(pidfd) = self.pidfd.get() {
            return Ok(pidfd.as_fd());
        }
        let id = Pid::from_raw(self.pid).ok_or_else(|| HostError::new("pidfd_open", rustix::io::Errno::SRCH))?;
        let pidfd = pidfd_open(id, PidfdFlags::empty()).map_err(|error| HostError::new("pidfd_open", error))?;
        Ok(self.pidfd.get_or_init(|| pidfd).as_fd())
    }

    /// From now on the epoll that it was made with tells of its death, once, by its pid.
    pub fn be_watched(&self) {
        let Some(epoll) = self.watch.as_ref().filter(|_| !self.is_watched.swap(true, Ordering::AcqRel)) else { return };
        let data = EventData::new_u64(self.pid as u64);
        // Fails only for want of memory or descriptors; somebody asks again, or it is reaped when the sentry ends.
        let watched =
            self.death().is_ok_and(|death| epoll::add(epoll, death, data, EventFlags::IN | EventFlags::ONESHOT).is_ok());
        self.is_watched.store(watched, Ordering::Release);
    }

    /// Its death is not to be told any more.
    pub fn be_left_alone(&self) {
        if let (Some(epoll), Some(pidfd), true) = (&self.watch, self.pidfd.get(), self.is_watched.load(Ordering::Acquire)) {
            let _ = epoll::delete(epoll, pidfd);
        }
    }

    /// Ends the host process; its death is then told.
    pub fn kill(&self) {
        kill(self.pid);
        self.be_watched();
    }

    /// Ends the host process; nobody waits for its death.
    pub fn end(&self) {
        kill(self.pid);
    }

    /// Waits until the process is dead. False after `timeout_ms`.
    pub fn wait_until_dead(&self, timeout_ms: u32) -> bool {
        if timeout_ms == 0 {
            return self.status().is_some();
        }
        let Ok(death) = self.death() else { return false };
        let timeout =
            rustix::time::Timespec { tv_sec: i64::from(timeout_ms / 1000), tv_nsec: i64::from(timeout_ms % 1000) * 1_000_000 };
        let wait = || poll(&mut [PollFd::new(&death, PollFlags::IN)], Some(&timeout));
        matches!(rustix::io::retry_on_intr(wait), Ok(1..))
    }

    /// How it has ended, once it is dead.
    pub fn status(&self) -> Option<WaitIdStatus> {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        waitid(WaitId::Pid(Pid::from_raw(self.pid)?), options).ok().flatten()
    }

    /// What it has used, once it is dead and has not been reaped; `None` otherwise.
    pub fn final_usage(&self) -> Option<HostUsage> {
        // SAFETY: both structures are plain and ours; the host fills them.
        unsafe {
            let mut information: libc::siginfo_t = std::mem::zeroed();
            let mut usage: libc::rusage = std::mem::zeroed();
            let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::syscall(libc::SYS_waitid, libc::P_PID, self.pid, &mut information, options, &mut usage) != 0
                || information.si_pid() == 0
            {
                return None;
            }
            let time_ns = |time: libc::timeval| time.tv_sec as u64 * 1_000_000_000 + time.tv_usec as u64 * 1000;
            Some(HostUsage {
                time_ns: (time_ns(usage.ru_utime), time_ns(usage.ru_stime)),
                max_rss_kib: usage.ru_maxrss as u64,
                minor_faults: usage.ru_minflt as u64,
                major_faults: usage.ru_majflt as u64,
                voluntary_switches: usage.ru_nvcsw as u64,
                involuntary_switches: usage.ru_nivcsw as u64,
            })
        }
    }

    /// What it has used so far; zeros once it is gone.
    pub fn usage(&self) -> HostUsage {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{}/{file}", self.pid)).unwrap_or_default();
        let stat = read("stat");
        let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let numbers: Vec<u64> = rest.split_ascii_whitespace().skip(1).map(|field| field.parse().unwrap_or(0)).collect();
        let number = |index: usize| numbers.get(index).copied().unwrap_or(0);
        let status = read("status");
        let line = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok()).unwrap_or(0)
        };
        HostUsage {
            time_ns: self.cpu_time_ns(),
            max_rss_kib: line("VmHWM:"),
            minor_faults: number(6),
            major_faults: number(8),
            voluntary_switches: line("voluntary_ctxt_switches:"),
            involuntary_switches: line("nonvoluntary_ctxt_switches:"),
        }
    }

    /// CPU time used so far: (user, system) in nanoseconds; (0, 0) once it is gone.
    pub fn cpu_time_ns(&self) -> (u64, u64) {
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)) else { return (0, 0) };
        let Some((_, rest)) = stat.rsplit_once(')') else { return (0, 0) };
        let mut fields = rest.split_ascii_whitespace().skip(11).map(|field| field.parse::<u64>().unwrap_or(0));
        let tick_ns = 10_000_000;
        (fields.next().unwrap_or(0) * tick_ns, fields.next().unwrap_or(0) * tick_ns)
    }
}

impl Drop for HostProcess {
    /// Takes the dead process off the host's table. Not before: as long as anyone may still name the process by its pid
    /// (to read its memory, say), the pid must not become that of a process outside.
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.pid) {
            let _ = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG);
        }
    }
}

/// Ends the process `pid`, which must be a child of ours that is not dead.
pub fn kill(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Every child of ours that is not dead, if the host tells. One that was there before the call and is alive after it is among
/// them: the host lists processes in the order of their numbers.
pub fn living_children() -> Option<Vec<i32>> {
    children(|state| !matches!(state, "Z" | "X"))
}

/// Those that are dead and have not been waited for.
pub fn dead_children() -> Option<Vec<i32>> {
    children(|state| state == "Z")
}

/// Those that wait for something.
pub fn sleeping_children() -> Option<Vec<i32>> {
    children(|state| state == "S")
}

fn children(is_wanted: impl Fn(&str) -> bool) -> Option<Vec<i32>> {
    let own = std::process::id().to_string();
    let entries = std::fs::read_dir("/proc").ok()?;
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let is_it = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
        let state = fields.next().unwrap_or("X");
        is_wanted(state) && fields.next() == Some(&own)
    };
    Some(pids.filter(is_it).collect())
}

/// Sets how a signal that only interrupts (SIGUSR1, for threads that receive) is handled: not at all, but the call ends.
pub fn install_interrupter() {
    extern "C" fn nothing(_: libc::c_int) {}
    // SAFETY: installs a handler that does nothing, without SA_RESTART.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = nothing as extern "C" fn(libc::c_int) as usize;
        libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
    }
}

/// The calling thread, to be interrupted later.
pub fn current_thread() -> HostThread {
    HostThread::new(rustix::process::getpid().as_raw_nonzero().get(), rustix::thread::gettid().as_raw_nonzero().get())
}

/// Ends a host call that one of our own threads blocks in.
pub fn interrupt(thread: &HostThread) {
    // SAFETY: plain numbers.
    unsafe { libc::syscall(libc::SYS_tgkill, thread.pid, thread.tid, libc::SIGUSR1) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_children_are_taken_hold_of_and_their_death_is_told_once_they_are_watched() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let epoll = Arc::new(epoll::create(epoll::CreateFlags::CLOEXEC).unwrap());
        let host = HostProcess::new(child.id() as i32, Some(epoll.clone())).unwrap();
        let told = |timeout: i64| {
            let mut events = Vec::with_capacity(4);
            let timeout = rustix::time::Timespec { tv_sec: timeout, tv_nsec: 0 };
            epoll::wait(&*epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)).unwrap();
            events.iter().map(|event| event.data.u64()).collect::<Vec<_>>()
        };
        assert!(host.status().is_none() && !host.wait_until_dead(0) && !host.wait_until_dead(10));
        host.be_watched();
        host.be_watched();
        assert!(told(0).is_empty());
        host.kill();
        assert_eq!(told(10), [u64::from(child.id())]);
        assert!(host.wait_until_dead(0) && host.final_usage().is_some());
        assert_eq!(host.status().and_then(|status| status.terminating_signal()), Some(libc::SIGKILL));
        drop(host);
        // It has been waited for.
        assert!(child.try_wait().is_err());
        let thread = std::thread::spawn(|| current_thread().tid).join().unwrap();
        for nobodys in [std::process::id() as i32, thread, 0] {
            assert!(HostProcess::new(nobodys, None).is_err());
        }
    }

    #[test]
    fn living_children_are_those_that_are_not_dead() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let pid = child.id() as i32;
        let is_listed = || living_children().is_some_and(|children| children.contains(&pid));
        assert!(is_listed());
        kill(pid);
        let id = WaitId::Pid(Pid::from_raw(pid).unwrap());
        waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).unwrap();
        assert!(!is_listed());
        assert!(dead_children().is_some_and(|children| children.contains(&pid)));
        child.wait().unwrap();
        assert!(!is_listed());
    }
}
