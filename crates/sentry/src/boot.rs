//! From the `boot` message to a running kernel.

use crate::confine::{capabilities, filter, landlock};
use crate::limits::{self, MemoryUse};
use skerry_confine::cgroup::{ControlGroups, Controller};
use skerry_confine::cpus;
use skerry_confine::layers::Layers;
use skerry_control::{Boot, Booted, Event, Failure, FailureKind, Identity, Layer, MountKind, Network, Profile};
use skerry_kernel::fs::host::IdMap;
use skerry_kernel::fs::{self, Services};
use skerry_kernel::policy::Policy;
use skerry_kernel::Kernel;
use skerry_platform::board::Board;
use skerry_platform::filter::{DataCalls, Needs};
use skerry_platform::listener::Features;
use skerry_platform::own::{descriptor_limit, make_room_for_descriptors};
use skerry_platform::zygote::Zygote;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// Programs may set the bases of fs and gs (AT_HWCAP2).
const HWCAP2_FSGSBASE: usize = 1 << 1;

/// For so many descriptors there is room from the start on, 32 KiB of the host's memory: what file caches keep, and as many again.
const DESCRIPTORS: usize = 4096;
/// With fewer not even a shell starts.
const FEWEST_DESCRIPTORS: usize = 128;

/// A sandbox that is ready to run programs.
pub struct Sandbox {
    pub kernel: Arc<Kernel>,
    pub booted: Booted,
    /// The caller's (uid, gid) on the host, where they appear as 0 inside.
    pub caller: Option<(u32, u32)>,
    pub memory: Arc<MemoryUse>,
}

pub fn failure(kind: FailureKind, message: impl std::fmt::Display) -> Failure {
    Failure { kind, message: message.to_string(), errno: None }
}

/// Makes the sandbox. `events` gets all that the kernel has to tell.
pub fn boot(
    boot: &Boot,
    mut layers: Layers,
    mut groups: ControlGroups,
    host_pid: i32,
    events: Box<dyn Fn(Event) + Send + Sync>,
) -> Result<Sandbox, Failure> {
    let most = descriptor_limit();
    if most < FEWEST_DESCRIPTORS {
        let message = format!(
            "a process may have {most} descriptors here (RLIMIT_NOFILE), and the guest kernel needs {FEWEST_DESCRIPTORS}: raise the hard \
             limit, by `ulimit -Hn` or in /etc/security/limits.conf"
        );
        return Err(failure(FailureKind::Unsupported, message));
    }
    make_room_for_descriptors(DESCRIPTORS);
    let internal = |error: &dyn std::fmt::Display| failure(FailureKind::Internal, error);
    if boot.network == Network::User {
        let message = "network: user cannot be had from the engine sentry: its card is a machine's";
        return Err(failure(FailureKind::Unenforceable, message));
    }
    let mut features = Features::default();
    let (mut suspension, mut parking, mut infancy, mut marshalling) = (true, true, true, true);
    let mut spinning = true;
    let (mut heeds_load, mut heeds_pace) = (true, true);
    let mut deferral = true;
    let mut expiry = true;
    let mut sets_bases = true;
    let (mut lending, mut tells_names) = (boot.profile == Profile::Default, true);
    let mut direct = boot.profile == Profile::Default;
    let mut windows = true;
    for name in &boot.without {
        match name.as_str() {
            "sync_wake_up" => features.sync_wake_up = false,
            "wait_killable" => features.wait_killable = false,
            "addfd_send" => features.addfd_send = false,
            "process_vm" => skerry_platform::memory::set_access(skerry_platform::memory::Access::ProcMem),
            "suspension" => suspension = false,
            "parking" => parking = false,
            "infancy" => infancy = false,
            "spinning" => spinning = false,
            "load" => heeds_load = false,
            "pace" => heeds_pace = false,
            "direct" => direct = false,
            "windows" => windows = false,
            "marshalling" => marshalling = false,
            "deferral" => deferral = false,
            "lending" => lending = false,
            "board" => tells_names = false,
            "expiry" => expiry = false,
            "fsgsbase" => sets_bases = false,
            "user_namespace" | "landlock" | "pid_namespace" | "cgroups" | "patching" | "caches" | "local" => {}
            other => return Err(failure(FailureKind::Invalid, format!("there is no host feature {other:?} to do without"))),
        }
    }
    groups.join();
    let memory = Arc::new(MemoryUse::new(groups.memory_events(), groups.memory_limit()));
    if boot.without.iter().any(|name| name == "landlock") {
        layers.miss(Layer::Landlock, "switched off by a test");
    } else {
        landlock::restrict(boot, &mut layers);
    }
    let needs = Needs {
        data: if direct { DataCalls::Direct } else { DataCalls::Mediated },
        arch_prctl: rustix::param::linux_hwcap().1 & HWCAP2_FSGSBASE == 0 || !sets_bases,
        death_signal: !layers.present.contains(&Layer::PidNamespace),
    };
    let board = Board::create().map_err(|error| internal(&error))?;
    let zygote = Zygote::start(features, needs, &board).map_err(|error| {
        failure(FailureKind::Unsupported, format!("application processes cannot be made on this host: {error}"))
    })?;
    skerry_platform::memory::choose_access(zygote.pid(), zygote.vdso).map_err(|error| {
        failure(
            FailureKind::Unsupported,
            format!("guest memory cannot be reached on this host: {error}; is kernel.yama.ptrace_scope 2 or 3, or /proc not mounted?"),
        )
    })?;
    let _ = skerry_platform::host::proc_directory();
    groups.take_in_guests(zygote.pid());
    if let Some(cpus) = boot.limits.cpus.filter(|_| groups.version_of(Controller::Cpu).is_none()) {
        cpus::bind(rustix::process::Pid::from_raw(zygote.pid()), cpus)
            .map_err(|error| failure(FailureKind::Unenforceable, format!("the limit of CPUs cannot be held here: {error}")))?;
    }
    let caller = match boot.identity {
        Identity::CallerIsRoot => Some((rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())),
        Identity::Host => None,
    };
    let kernel = Kernel::new(boot.hostname.as_bytes(), boot.limits.clone(), boot.network, boot.trace, events);
    if let Some(policy) =
        Policy::new(boot.rules.as_ref(), boot.observe).map_err(|problem| failure(FailureKind::Unenforceable, problem))?
    {
        direct &= !policy.needs_data_calls();
        deferral &= !policy.needs_deferred_calls();
        lending &= !policy.needs_lent_calls();
        tells_names &= !policy.needs_named_calls();
        let _ = kernel.policy.set(policy);
    }
    kernel.direct_data.store(direct, Ordering::Relaxed);
    kernel.windows.store(windows, Ordering::Relaxed);
    kernel.deferral.store(deferral, Ordering::Relaxed);
    kernel.lending.store(lending, Ordering::Relaxed);
    // Patched images map files of the host: the strict profile maps copies only.
    if boot.without.iter().any(|name| name == "patching") || boot.profile == Profile::Strict {
        kernel.images.switch_off();
    }
    if boot.without.iter().any(|name| name == "local") {
        kernel.local_answers.store(false, Ordering::Relaxed);
    }
    if boot.without.iter().any(|name| name == "caches") {
        kernel.mounts.dentries.limit_to(0);
    }
    limits::share_out(&kernel, &boot.limits);
    let services = Services::new(kernel.memory_files.clone()).map_err(|errno| internal(&errno))?;
    if boot.profile == Profile::Strict {
        services.copy_what_is_mapped();
    }
    let _ = kernel.file_services.set(services.clone());
    if lending && tells_names {
        kernel.mounts.dentries.board.attach(board, services.descriptors.changes().clone());
    }
    let pseudo = |kind: &MountKind, services: &Arc<Services>| -> Option<Arc<dyn fs::inode::FileSystem>> {
        match kind {
            MountKind::Proc => Some(fs::proc::ProcFileSystem::new(&kernel, services.new_device())),
            MountKind::Sysfs => Some(fs::sys::SysFileSystem::new(&kernel, services.new_device())),
            _ => None,
        }
    };
    fs::build(&kernel.mounts, &services, &boot.mounts, IdMap { root: caller }, &pseudo)
        .map_err(|error| failure(FailureKind::Invalid, error))?;
    skerry_kernel::tty::mount(&kernel, services.new_device()).map_err(|errno| internal(&errno))?;
    fs::sys::mount_control_group(&kernel, services.new_device()).map_err(|errno| internal(&errno))?;
    let own_user_namespace = layers.present.contains(&Layer::UserNamespace);
    capabilities::drop_all_but_file_access(boot, own_user_namespace, &mut layers).map_err(|error| internal(&error))?;
    filter::install()
        .map_err(|error| failure(FailureKind::Unsupported, format!("the sentry cannot confine itself: {error}")))?;
    layers.add(Layer::Seccomp);
    match groups.missing() {
        None => layers.add(Layer::Cgroup),
        Some(reason) => layers.miss(Layer::Cgroup, reason),
    }
    layers.refuse_missing(&boot.require, "")?;
    kernel.reactor.prepare().map_err(|errno| internal(&errno))?;
    if let Some(quota) = groups.cpu_quota(boot.limits.cpus) {
        let _ = kernel.cpu_quota.set(quota);
    }
    if groups.version_of(Controller::Memory).is_some() {
        let memory = memory.clone();
        kernel.host_kills.count_with(move || memory.host_kills());
    }
    kernel.start(zygote).map_err(|error| internal(&error))?;
    if !suspension {
        kernel.switch_suspension_off();
    }
    if !marshalling {
        kernel.switch_marshalling_off();
    }
    if !parking {
        kernel.switch_parking_off();
    }
    if !infancy {
        kernel.switch_infancy_off();
    }
    if !expiry {
        kernel.loans_never_expire();
    }
    if !heeds_load {
        kernel.heed_no_load();
    }
    if !heeds_pace {
        kernel.heed_no_pace();
    }
    // What is spent of a quota by spinning is taken from the programs.
    if !spinning || boot.limits.cpus.is_some() || kernel.cpu_quota.get().is_some() {
        kernel.switch_spinning_off();
    }
    if boot.limits.memory.is_some_and(|_| groups.version_of(Controller::Memory).is_none()) {
        limits::watch_memory(&kernel, memory.clone()).map_err(|error| internal(&error))?;
    }
    let booted = Booted {
        layers: layers.present,
        missing: layers.missing,
        limits: limits::describe(&boot.limits, &groups),
        version: env!("CARGO_PKG_VERSION").into(),
        guest_memory: match skerry_platform::memory::access() {
            skerry_platform::memory::Access::ProcessVm => "process_vm".into(),
            skerry_platform::memory::Access::ProcMem => "proc_mem".into(),
        },
        profile: boot.profile,
        sentry_pid: host_pid,
        machine: Default::default(),
    };
    Ok(Sandbox { kernel, booted, caller, memory })
}
