//! One sandbox's kernel: what all its tasks share.

use crate::run::Engine;
use crate::task::{PidTable, Process};
use parking_lot::{Mutex, RwLock};
use skerry_control::{Event, Limits, Network};
use skerry_platform::zygote::Zygote;
use skerry_platform::HostError;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// What all tasks of a sandbox share.
pub struct Kernel {
    pub pids: PidTable,
    /// Held while the tree of processes changes: fork, exit, wait, setpgid, setsid. Outermost of all locks.
    pub tree: Mutex<()>,
    /// Pid 1; see `task::lifecycle`.
    pub(crate) init: OnceLock<Arc<Process>>,
    /// When an event about `--pids` was last told.
    pub(crate) pids_limit_told: Mutex<Option<Instant>>,
    /// When the last barrier was made (membarrier(2)).
    pub(crate) last_barrier: Mutex<Option<Instant>>,
    pub hostname: RwLock<Vec<u8>>,
    pub domainname: RwLock<Vec<u8>>,
    pub limits: Limits,
    /// What of them changes while it runs: bytes of memory; `u64::MAX`: no limit.
    pub memory_limit: AtomicU64,
    /// How nice the sentry is, as its caller was: programs begin so.
    pub(crate) nice: i32,
    pub network: Network,
    /// CPUs that a quota of the host leaves to the sandbox; not set where there is none. Who spins spends of it.
    pub cpu_quota: OnceLock<f64>,
    /// What the host has killed to keep the memory limit.
    pub host_kills: crate::task::HostKills,
    /// When the sandbox was made: uptime counts from here.
    pub booted: Instant,
    pub system_calls: AtomicU64,
    pub events: Box<dyn Fn(Event) + Send + Sync>,
    /// The namespace of mounts, once [`Kernel::set_root`] has run.
    pub mounts: crate::fs::mount::MountTable,
    /// Sockets, their names and ports.
    pub net: Arc<crate::net::NetworkStack>,
    /// Bytes that in-memory file systems hold, against `limits.memory_files`.
    pub memory_files: Arc<crate::fs::tmpfs::Quota>,
    /// What file systems share; set at boot, before anything runs.
    pub file_services: OnceLock<Arc<crate::fs::Services>>,
    /// Drivers behind device nodes.
    pub devices: crate::fs::dev::DeviceRegistry,
    /// Locks on files.
    pub locks: crate::fs::lock::LockTable,
    /// Leases on files.
    pub leases: crate::fs::lease::LeaseTable,
    /// Who is told of changes to files (inotify).
    pub watches: crate::fs::notify::NotifyRegistry,
    /// Readiness of host descriptors.
    pub reactor: Arc<crate::event::host::HostReactor>,
    /// Pseudo-terminals.
    pub terminals: crate::tty::Terminals,
    /// Places for open files without a name.
    pub anonymous_files: crate::fs::anonymous::AnonymousFiles,
    /// What /proc/PID/maps calls the files that are mapped.
    pub mapped_names: Arc<crate::fs::proc::MappedNames>,
    /// Files whose executable pages are mapped with their system calls patched.
    pub images: Arc<crate::image::Images>,
    /// Logins that there have been (/proc/PID/sessionid).
    pub(crate) logins: AtomicU32,
    /// What was written to /proc/sys.
    pub(crate) settings: crate::fs::proc::Settings,
    pub pipes: Arc<crate::ipc::pipe::PipeAccount>,
    /// Requests that contexts of asynchronous I/O have room for.
    pub aio_requests: Arc<AtomicU64>,
    pub epoll_limits: Arc<crate::event::epoll::EpollLimits>,
    pub timers: Arc<crate::time::queue::TimerQueue>,
    pub inotify_limits: Arc<crate::event::inotify::InotifyLimits>,
    /// Memory that is a file without a name (memfd_create, shmget).
    pub anonymous_memory: crate::event::memfd::AnonymousMemory,
    pub anonymous_inodes: crate::event::AnonymousInodes,
    pub sysv: crate::ipc::sysv::Namespace,
    pub message_queues: crate::ipc::mqueue::Namespace,
    /// Every call is told as an event.
    pub trace: bool,
    /// Rules over calls, and what is told of them; not set where there is nothing of both.
    pub policy: OnceLock<crate::policy::Policy>,
    /// Processes may read and write regular files by themselves ([`crate::fs::direct`]).
    pub direct_data: std::sync::atomic::AtomicBool,
    /// They may map what they read so (ADR 61).
    pub windows: std::sync::atomic::AtomicBool,
    /// Stubs may put calls off whose result they know. Set at boot.
    pub deferral: std::sync::atomic::AtomicBool,
    /// Stubs may answer calls on the file that was used last (ADR 26). Set at boot.
    pub lending: std::sync::atomic::AtomicBool,
    /// Stubs answer what they can by themselves (ADR 15).
    pub local_answers: std::sync::atomic::AtomicBool,
    /// Numbers of unknown calls that have been told.
    pub(crate) unknown_calls: Mutex<std::collections::HashSet<u64>>,
    /// The host's side, once [`Kernel::start`] has run.
    engine: OnceLock<Arc<Engine>>,
}

impl Kernel {
    /// Bytes, as it is now.
    pub fn memory_limit(&self) -> Option<u64> {
        Some(self.memory_limit.load(Ordering::Relaxed)).filter(|limit| *limit != u64::MAX)
    }

    /// A kernel with its pid 1 and nothing mounted.
    pub fn new(
        hostname: &[u8],
        limits: Limits,
        network: Network,
        trace: bool,
        events: Box<dyn Fn(Event) + Send + Sync>,
    ) -> Arc<Kernel> {
        let timers = Arc::default();
        let mapped_names = Arc::default();
        let kernel = Arc::new(Kernel {
            pids: PidTable::default(),
            tree: Mutex::new(()),
            init: OnceLock::new(),
            pids_limit_told: Mutex::new(None),
            last_barrier: Mutex::new(None),
            hostname: RwLock::new(hostname.to_vec()),
            domainname: RwLock::new(b"(none)".to_vec()),
            memory_limit: AtomicU64::new(limits.memory.unwrap_or(u64::MAX)),
            limits,
            nice: rustix::process::getpriority_process(None).unwrap_or(0),
            network,
            cpu_quota: OnceLock::new(),
            host_kills: Default::default(),
            booted: Instant::now(),
            system_calls: AtomicU64::new(0),
            events,
            mounts: crate::fs::mount::MountTable::default(),
            net: Arc::new(crate::net::NetworkStack::with_timers(&timers)),
            memory_files: Arc::default(),
            file_services: OnceLock::new(),
            devices: Default::default(),
            locks: Default::default(),
            leases: Default::default(),
            watches: Default::default(),
            reactor: Arc::default(),
            terminals: Default::default(),
            anonymous_files: Default::default(),
            images: crate::image::Images::new(&mapped_names),
            mapped_names,
            logins: AtomicU32::new(0),
            settings: Default::default(),
            pipes: Arc::default(),
            aio_requests: Arc::default(),
            epoll_limits: Arc::default(),
            timers,
            inotify_limits: Arc::default(),
            anonymous_memory: Default::default(),
            anonymous_inodes: Default::default(),
            sysv: Default::default(),
            message_queues: Default::default(),
            trace,
            policy: OnceLock::new(),
            direct_data: Default::default(),
            windows: Default::default(),
            deferral: Default::default(),
            lending: Default::default(),
            local_answers: true.into(),
            unknown_calls: Mutex::default(),
            engine: OnceLock::new(),
        });
        crate::task::lifecycle::make_init(&kernel);
        kernel
    }

    /// Starts the host's side: from here on programs can run.
    pub fn start(self: &Arc<Self>, zygote: Zygote) -> Result<(), HostError> {
        let engine = Engine::start(zygote, self.timers.clone())?;
        let _ = self.engine.set(engine);
        Ok(())
    }

    /// Calls that wait keep a thread of the host each, as they do where no stacks can be had for them: for tests.
    pub fn switch_suspension_off(&self) {
        if let Some(engine) = self.engine.get() {
            engine.switch_suspension_off();
        }
    }

    /// No guest memory travels with calls: for tests.
    pub fn switch_marshalling_off(&self) {
        if let Some(engine) = self.engine.get() {
            engine.switch_marshalling_off();
        }
    }

    /// No host thread outlives its task: for tests.
    pub fn switch_parking_off(&self) {
        if let Some(engine) = self.engine.get() {
            engine.switch_parking_off();
        }
    }

    /// Processes present themselves before they run anything: for tests.
    pub fn switch_infancy_off(&self) {
        if let Some(engine) = self.engine.get() {
            engine.switch_infancy_off();
        }
    }

    /// What stubs know of files does not get too old by time alone: for tests.
    pub fn loans_never_expire(&self) {
        self.mounts.dentries.board.never_expire();
        if let Some(engine) = self.engine.get() {
            engine.loans_never_expire();
        }
    }

    /// Calls are never waited for by spinning.
    pub fn switch_spinning_off(&self) {
        if let Some(engine) = self.engine.get() {
            engine.switch_spinning_off();
        }
    }

    /// Spins without regard to the host's load, for tests.
    pub fn heed_no_load(&self) {
        if let Some(engine) = self.engine.get() {
            engine.heed_no_load();
        }
    }

    /// Spins for every thread, from its first call on, for tests.
    pub fn heed_no_pace(&self) {
        if let Some(engine) = self.engine.get() {
            engine.heed_no_pace();
        }
    }

    /// The host's side; `None` before [`Kernel::start`].
    pub(crate) fn engine(&self) -> Option<Arc<Engine>> {
        self.engine.get().cloned()
    }

    /// To be called before anybody looks at what others have open, and behind changes to files that are no calls.
    pub(crate) fn take_loans_back(&self) {
        if let Some(engine) = self.engine.get() {
            engine.take_loans_back();
        }
    }

    /// Which files processes use by themselves; `None` before there are files.
    pub fn direct_registry(&self) -> Option<&crate::fs::direct::DirectRegistry> {
        self.file_services.get().map(|services| &*services.direct)
    }

    /// The strict profile: programs map copies of the host's files, never the files.
    pub fn maps_copies(&self) -> bool {
        self.file_services.get().is_some_and(|services| services.descriptors.copies().is_some())
    }

    /// Counts what processes have written to files in memory by themselves.
    pub fn settle_files(&self) {
        if let Some(services) = self.file_services.get() {
            services.content.settle_direct();
        }
    }

    /// Pid 1, which orphans become children of.
    pub fn init(&self) -> &Arc<Process> {
        self.init.get().expect("made by Kernel::new")
    }
}
