//! What each engine allows by itself: data.
//!
//! Everything that is not listed gives EPERM. The lists hold nothing that Docker's default profile refuses to a container
//! without extra capabilities (tests/engines checks what matters of it by doing): no mounts, no namespaces, no modules, no
//! BPF, no keyrings, no io_uring, no userfaultfd, no other process's memory but by ptrace, no raw clocks.

use super::{every, Decisions, UNKNOWN};
use skerry_control::{Action, Argument, Operator};
use std::collections::BTreeMap;

/// With any arguments.
#[rustfmt::skip]
const ALLOWED: &[libc::c_long] = &[
    // Descriptors and data.
    libc::SYS_read, libc::SYS_write, libc::SYS_readv, libc::SYS_writev, libc::SYS_pread64, libc::SYS_pwrite64, libc::SYS_preadv,
    libc::SYS_pwritev, libc::SYS_preadv2, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_close, libc::SYS_close_range,
    libc::SYS_dup, libc::SYS_dup2, libc::SYS_dup3, libc::SYS_fcntl, libc::SYS_flock, libc::SYS_ioctl, libc::SYS_sendfile,
    libc::SYS_splice, libc::SYS_tee, libc::SYS_vmsplice, libc::SYS_copy_file_range, libc::SYS_readahead, libc::SYS_fadvise64,
    libc::SYS_fsync, libc::SYS_fdatasync, libc::SYS_sync, libc::SYS_syncfs, libc::SYS_sync_file_range, libc::SYS_truncate,
    libc::SYS_ftruncate, libc::SYS_fallocate, libc::SYS_pipe, libc::SYS_pipe2, libc::SYS_memfd_create, libc::SYS_io_setup,
    libc::SYS_io_destroy, libc::SYS_io_submit, libc::SYS_io_cancel, libc::SYS_io_getevents,
    // Files.
    libc::SYS_open, libc::SYS_openat, libc::SYS_openat2, libc::SYS_creat, libc::SYS_stat, libc::SYS_fstat, libc::SYS_lstat,
    libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs, libc::SYS_access, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_getdents, libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir,
    libc::SYS_chroot, libc::SYS_mkdir, libc::SYS_mkdirat, libc::SYS_rmdir, libc::SYS_mknod, libc::SYS_mknodat, libc::SYS_link,
    libc::SYS_linkat, libc::SYS_symlink, libc::SYS_symlinkat, libc::SYS_unlink, libc::SYS_unlinkat, libc::SYS_rename,
    libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_readlink, libc::SYS_readlinkat, libc::SYS_chmod, libc::SYS_fchmod,
    libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_chown, libc::SYS_fchown, libc::SYS_lchown, libc::SYS_fchownat,
    libc::SYS_umask, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_utimensat, libc::SYS_setxattr,
    libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_fgetxattr, libc::SYS_listxattr,
    libc::SYS_llistxattr, libc::SYS_flistxattr, libc::SYS_removexattr, libc::SYS_lremovexattr, libc::SYS_fremovexattr,
    libc::SYS_inotify_init, libc::SYS_inotify_init1, libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // Waiting.
    libc::SYS_select, libc::SYS_pselect6, libc::SYS_poll, libc::SYS_ppoll, libc::SYS_epoll_create, libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl, libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_eventfd,
    libc::SYS_eventfd2, libc::SYS_signalfd, libc::SYS_signalfd4, libc::SYS_timerfd_create, libc::SYS_timerfd_settime,
    libc::SYS_timerfd_gettime, libc::SYS_futex, libc::SYS_futex_waitv, libc::SYS_nanosleep, libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall, libc::SYS_pause,
    // Memory.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mprotect, libc::SYS_mremap, libc::SYS_msync, libc::SYS_mincore,
    libc::SYS_madvise, libc::SYS_brk, libc::SYS_mlock, libc::SYS_mlock2, libc::SYS_munlock, libc::SYS_mlockall,
    libc::SYS_munlockall, libc::SYS_remap_file_pages, libc::SYS_pkey_alloc, libc::SYS_pkey_free, libc::SYS_pkey_mprotect,
    libc::SYS_membarrier, libc::SYS_rseq,
    // Processes, threads and signals.
    libc::SYS_fork, libc::SYS_vfork, libc::SYS_execve, libc::SYS_execveat, libc::SYS_exit, libc::SYS_exit_group,
    libc::SYS_wait4, libc::SYS_waitid, libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask, libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigpending, libc::SYS_rt_sigtimedwait, libc::SYS_rt_sigqueueinfo, libc::SYS_rt_tgsigqueueinfo,
    libc::SYS_rt_sigsuspend, libc::SYS_sigaltstack, libc::SYS_alarm, libc::SYS_getitimer, libc::SYS_setitimer,
    libc::SYS_timer_create, libc::SYS_timer_settime, libc::SYS_timer_gettime, libc::SYS_timer_getoverrun,
    libc::SYS_timer_delete, libc::SYS_set_tid_address, libc::SYS_set_robust_list, libc::SYS_get_robust_list,
    libc::SYS_arch_prctl, libc::SYS_prctl, libc::SYS_seccomp, libc::SYS_set_thread_area, libc::SYS_get_thread_area,
    libc::SYS_ptrace, libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self,
    // Who and where one is.
    libc::SYS_getpid, libc::SYS_gettid, libc::SYS_getppid, libc::SYS_getpgid, libc::SYS_setpgid, libc::SYS_getpgrp,
    libc::SYS_getsid, libc::SYS_setsid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid, libc::SYS_getegid,
    libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_getgroups, libc::SYS_setuid, libc::SYS_setgid, libc::SYS_setreuid,
    libc::SYS_setregid, libc::SYS_setresuid, libc::SYS_setresgid, libc::SYS_setgroups, libc::SYS_setfsuid, libc::SYS_setfsgid,
    libc::SYS_capget, libc::SYS_capset, libc::SYS_getrlimit, libc::SYS_setrlimit, libc::SYS_prlimit64, libc::SYS_getrusage,
    libc::SYS_times, libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_getcpu, libc::SYS_getrandom, libc::SYS_getpriority,
    libc::SYS_setpriority, libc::SYS_ioprio_get, libc::SYS_ioprio_set, libc::SYS_sched_yield, libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity, libc::SYS_sched_getparam, libc::SYS_sched_setparam, libc::SYS_sched_getscheduler,
    libc::SYS_sched_setscheduler, libc::SYS_sched_getattr, libc::SYS_sched_setattr, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min, libc::SYS_sched_rr_get_interval, libc::SYS_time, libc::SYS_gettimeofday,
    libc::SYS_clock_gettime, libc::SYS_clock_getres,
    // Sockets; which families, below.
    libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt, libc::SYS_shutdown,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvfrom, libc::SYS_recvmsg, libc::SYS_recvmmsg,
    // System V and POSIX IPC, in the guest's own namespace.
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop,
    libc::SYS_semctl, libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv, libc::SYS_msgctl, libc::SYS_mq_open,
    libc::SYS_mq_unlink, libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify, libc::SYS_mq_getsetattr,
];

/// Values of personality(2) that change nothing dangerous: what is (0xffffffff asks), Linux, and its 32-bit machine name.
const PERSONALITIES: &[u64] = &[0, 0x8, 0x20000, 0x20008, 0xffff_ffff];

/// Programs try this first, and do without when they hear that there is no such call: clone3 has its flags in memory.
const UNKNOWN_CALLS: &[libc::c_long] = &[libc::SYS_clone3];

/// Flags of clone(2) that make namespaces.
const NAMESPACES: u64 = 0x7e02_0000;

/// ioctl(2) requests that reach out of a guest: typing into a terminal (TIOCSTI) and its selection (TIOCLINUX).
const TERMINAL_TRICKS: &[u64] = &[0x5412, 0x541c];

/// ioctl(2) requests that change files through descriptors that may only read: FS_IOC_SETFLAGS, its version and its
/// extended kin, encryption policies, fs-verity; and those that freeze and thaw file systems.
const FILE_TRICKS: &[u64] =
    &[0x4008_6602, 0x4004_6602, 0x4008_7602, 0x4004_7602, 0x401c_5820, 0x800c_6613, 0x4080_6685, 0xc004_5877, 0xc004_5878];

/// Owner, mode, times and extended attributes of files: Landlock knows nothing of them.
#[rustfmt::skip]
pub const ATTRIBUTES: &[libc::c_long] = &[
    libc::SYS_chmod, libc::SYS_fchmod, libc::SYS_fchmodat, libc::SYS_fchmodat2, libc::SYS_chown, libc::SYS_fchown,
    libc::SYS_lchown, libc::SYS_fchownat, libc::SYS_utime, libc::SYS_utimes, libc::SYS_futimesat, libc::SYS_utimensat,
    libc::SYS_setxattr, libc::SYS_lsetxattr, libc::SYS_fsetxattr, libc::SYS_removexattr, libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
];

/// Calls that change a process, whose number is the first argument (0: the caller itself).
#[rustfmt::skip]
pub const ON_A_PROCESS: &[libc::c_long] = &[
    libc::SYS_prlimit64, libc::SYS_sched_setaffinity, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler,
    libc::SYS_sched_setattr,
];

/// The same, with "what kind of number" before the number (0, one process; of ioprio_set(2) that is 1).
pub const ON_SOME_PROCESSES: &[(libc::c_long, u64)] = &[(libc::SYS_setpriority, 0), (libc::SYS_ioprio_set, 1)];

/// IPC that all processes of a host share where there is no namespace of one's own.
#[rustfmt::skip]
const SHARED: &[libc::c_long] = &[
    libc::SYS_shmget, libc::SYS_shmat, libc::SYS_shmctl, libc::SYS_shmdt, libc::SYS_semget, libc::SYS_semop, libc::SYS_semtimedop,
    libc::SYS_semctl, libc::SYS_msgget, libc::SYS_msgsnd, libc::SYS_msgrcv, libc::SYS_msgctl, libc::SYS_mq_open,
    libc::SYS_mq_unlink, libc::SYS_mq_timedsend, libc::SYS_mq_timedreceive, libc::SYS_mq_notify, libc::SYS_mq_getsetattr,
];

/// Calls that make files: where the flags are, if there are any, and the mode.
#[rustfmt::skip]
const MAKING: &[(libc::c_long, Option<u8>, u8)] = &[
    (libc::SYS_open, Some(1), 2), (libc::SYS_openat, Some(2), 3), (libc::SYS_creat, None, 1), (libc::SYS_mknod, None, 1),
    (libc::SYS_mknodat, None, 2),
];

/// Nobody outside is to run as who a program in a guest was: no file gets these bits.
pub const SET_ID: u64 = 0o6000;

/// ioctl(2) requests of terminals and plain files, which reach nothing else, as masks and values: all that is left where Landlock
/// does not hold what may be asked of devices.
const PLAIN_REQUESTS: &[(u64, &[u64])] = &[
    // TCGETS ... TCXONC, TIOCEXCL ... TIOCMSET without typing and consoles, TIOCGSOFTCAR, FIONREAD, TIOCPKT, FIONBIO, TIOCNOTTY,
    // TIOCSBRK, TIOCCBRK, TIOCGSID, TCGETS2 ... TCSETSF2, terminals' pairs, FIONCLEX, FIOCLEX, FIOASYNC, FIOQSIZE.
    (
        u64::MAX,
        &[
            0x5401,
            0x5402,
            0x5403,
            0x5404,
            0x5405,
            0x5406,
            0x5407,
            0x5408,
            0x5409,
            0x540a,
            0x540b,
            0x540c,
            0x540d,
            0x540e,
            0x540f,
            0x5410,
            0x5411,
            0x5413,
            0x5414,
            0x5415,
            0x5419,
            0x541b,
            0x5420,
            0x5421,
            0x5422,
            0x5427,
            0x5428,
            0x5429,
            0x802c_542a,
            0x402c_542b,
            0x402c_542c,
            0x402c_542d,
            0x8004_5430,
            0x4004_5431,
            0x8004_5438,
            0x8004_5439,
            0x5441,
            0x5450,
            0x5451,
            0x5452,
            0x5460,
        ],
    ),
    // FIGETBSZ, FS_IOC_FIEMAP, FICLONE, FICLONERANGE, FIDEDUPERANGE, FS_IOC_GETFLAGS, FS_IOC_GETVERSION, FS_IOC_FSGETXATTR.
    (u64::MAX, &[0x2, 0xc020_660b, 0x4004_9409, 0x4020_940d, 0xc018_9436, 0x8008_6601, 0x8008_7601, 0x801c_581f]),
];

/// Those of devices that rules may name: their type, or whole requests.
const REQUESTS_OF_DEVICES: &[(&str, u64, &[u64])] = &[
    ("/dev/kvm", 0xff00, &[0xae00]),
    // TUNSETIFF, TUNGETIFF, TUNGETFEATURES.
    ("/dev/net/tun", u64::MAX, &[0x4004_54ca, 0x8004_54d2, 0x8004_54cf]),
];

/// Whose signals a descriptor brings may be said by F_SETOWN, F_SETOWN_EX, FIOSETOWN and SIOCSPGRP.
const OWNERS: &[u64] = &[8, 15];
const OWNERS_BY_IOCTL: &[u64] = &[0x8901, 0x8902];

/// What Landlock does not hold, in a version that lacks it, and calls do instead: see [`Profile::hold_instead`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Instead {
    pub truncation: bool,
    /// Devices of which more may be asked, by their paths.
    pub devices: Option<Vec<String>>,
    pub signals: bool,
}

const MSG_FASTOPEN: u64 = 0x2000_0000;

const DENIED: Action = Action::Errno(libc::EPERM as u16);
const NO_FAMILY: Action = Action::Errno(libc::EAFNOSUPPORT as u16);

/// Which sockets programs of the engine `rules` may make.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// Landlock holds their paths.
    pub unix: bool,
    pub tcp: bool,
    /// The agent is asked for addresses.
    pub asked: bool,
    pub udp: bool,
}

/// One engine's.
pub struct Profile {
    decisions: BTreeMap<u32, Decisions>,
}

/// About an `int`: the host looks at its lower half only.
fn int(index: u8, mask: u64, operator: Operator, value: u64) -> Argument {
    Argument { index, mask: mask & 0xffff_ffff, operator, value }
}

impl Profile {
    pub fn decisions(&self) -> BTreeMap<u32, Decisions> {
        self.decisions.clone()
    }

    /// In namespaces of its own, whatever a guest's root does to files, sockets and IPC is the guest's.
    pub fn namespace() -> Profile {
        let mut profile = Profile { decisions: every(DENIED) };
        for call in ALLOWED {
            profile.set(*call, vec![(Vec::new(), Action::Allow)]);
        }
        let allow_some = |index, values: &[u64]| -> Decisions {
            let mut list: Decisions =
                values.iter().map(|value| (vec![int(index, u64::MAX, Operator::Equal, *value)], Action::Allow)).collect();
            list.push((Vec::new(), DENIED));
            list
        };
        let families = [libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK].map(|family| family as u64);
        profile.set(libc::SYS_socket, allow_some(0, &families));
        profile.set(libc::SYS_personality, allow_some(0, PERSONALITIES));
        // Servers of files have a working directory for each thread.
        profile.set(libc::SYS_unshare, allow_some(0, &[libc::CLONE_FS as u64]));
        let plain = vec![int(0, NAMESPACES, Operator::Equal, 0)];
        profile.set(libc::SYS_clone, vec![(plain, Action::Allow), (Vec::new(), DENIED)]);
        profile.deny_some(libc::SYS_ioctl, 1, TERMINAL_TRICKS);
        for call in UNKNOWN_CALLS {
            profile.set(*call, vec![(Vec::new(), UNKNOWN)]);
        }
        profile
    }

    /// The same, with no IP sockets but those of which Landlock holds the ports.
    pub fn namespace_with_ports(sockets: Sockets) -> Profile {
        let mut profile = Profile::namespace();
        profile.sockets(Sockets { unix: true, ..sockets });
        profile
    }

    /// On the host itself: nothing that reaches other processes, and nothing of files that Landlock does not hold.
    pub fn rules(sockets: Sockets) -> Profile {
        let mut profile = Profile::namespace();
        for call in SHARED.iter().chain(&[libc::SYS_chroot]) {
            profile.set(*call, vec![(Vec::new(), DENIED)]);
        }
        for call in ATTRIBUTES {
            profile.set(*call, vec![(Vec::new(), Action::Notify)]);
        }
        let all = u64::MAX;
        for call in ON_A_PROCESS {
            let own = vec![int(0, all, Operator::Equal, 0)];
            profile.set(*call, vec![(own, Action::Allow), (Vec::new(), Action::Notify)]);
        }
        // What marks them as ours (`skerry_confine::mark`).
        const LOCKS: u64 = 10; // RLIMIT_LOCKS
        let marks = vec![(vec![int(0, all, Operator::Equal, LOCKS)], DENIED), (Vec::new(), Action::Allow)];
        profile.set(libc::SYS_setrlimit, marks);
        if let Some(decisions) = profile.decisions.get_mut(&(libc::SYS_prlimit64 as u32)) {
            let sets = Argument { index: 2, mask: all, operator: Operator::NotEqual, value: 0 };
            decisions.insert(0, (vec![int(1, all, Operator::Equal, LOCKS), sets], DENIED));
        }
        for (call, kind) in ON_SOME_PROCESSES {
            let one = int(0, all, Operator::Equal, *kind);
            let own = vec![one, int(1, all, Operator::Equal, 0)];
            profile.set(*call, vec![(own, Action::Allow), (vec![one], Action::Notify), (Vec::new(), DENIED)]);
        }
        profile.deny_some(libc::SYS_ioctl, 1, &[TERMINAL_TRICKS, FILE_TRICKS].concat());
        for (call, flags, mode) in MAKING {
            let mut conditions = vec![int(*mode, SET_ID, Operator::NotEqual, 0)];
            conditions.extend(flags.map(|index| int(index, libc::O_CREAT as u64, Operator::NotEqual, 0)));
            profile.set(*call, vec![(conditions, DENIED), (Vec::new(), Action::Allow)]);
        }
        // Has its mode in memory.
        profile.set(libc::SYS_openat2, vec![(Vec::new(), UNKNOWN)]);
        profile.sockets(sockets);
        profile
    }

    /// Files in memory are no files of Landlock's: where what is written is not to be executed, they are made so that they
    /// cannot be (MFD_NOEXEC_SEAL), or not at all.
    pub fn keep_memory_from_running(&mut self) {
        const NOEXEC_SEAL: u64 = 0x8;
        let sealed = vec![int(1, NOEXEC_SEAL, Operator::NotEqual, 0)];
        let denied = Action::Errno(libc::EACCES as u16);
        self.set(libc::SYS_memfd_create, vec![(sealed, Action::Allow), (Vec::new(), denied)]);
    }

    /// In place of what this host's Landlock lacks. Truncation: where files may be written to they may be truncated, so that the
    /// ways to do it without opening a file for writing are all that is left to hold. Devices: requests that reach none.
    /// Signals: those for others the agent is asked for (`rules::signals`).
    pub fn hold_instead(&mut self, instead: &Instead) {
        let all = u64::MAX;
        if instead.truncation {
            self.set(libc::SYS_truncate, vec![(Vec::new(), Action::Notify)]);
            let denied = Action::Errno(libc::EACCES as u16);
            for (call, flags) in [(libc::SYS_open, 1), (libc::SYS_openat, 2)] {
                let truncates = int(flags, libc::O_TRUNC as u64, Operator::NotEqual, 0);
                // O_RDONLY, and the mode 3 that has neither right and truncates all the same.
                for mode in [0, 3] {
                    let opened = int(flags, libc::O_ACCMODE as u64, Operator::Equal, mode);
                    self.before(call, (vec![truncates, opened], denied));
                }
            }
        }
        if instead.signals {
            for call in crate::rules::signals::CALLS {
                self.set(*call, vec![(Vec::new(), Action::Notify)]);
            }
            // Programs do without: kill(2) does the same.
            self.set(libc::SYS_pidfd_send_signal, vec![(Vec::new(), UNKNOWN)]);
            for command in OWNERS {
                self.before(libc::SYS_fcntl, (vec![int(1, all, Operator::Equal, *command)], DENIED));
            }
            for request in OWNERS_BY_IOCTL {
                self.before(libc::SYS_ioctl, (vec![int(1, all, Operator::Equal, *request)], DENIED));
            }
        }
        if let Some(devices) = &instead.devices {
            let of_devices = REQUESTS_OF_DEVICES.iter().filter(|(path, ..)| devices.iter().any(|one| one == path));
            let lists = PLAIN_REQUESTS.iter().copied().chain(of_devices.map(|(_, mask, values)| (*mask, *values)));
            let mut list: Decisions = lists
                .flat_map(|(mask, values)| {
                    values.iter().map(move |value| (vec![int(1, mask, Operator::Equal, *value)], Action::Allow))
                })
                .collect();
            list.push((Vec::new(), Action::Errno(libc::EACCES as u16)));
            self.set(libc::SYS_ioctl, list);
        }
    }

    /// One more decision about a call, before all others.
    fn before(&mut self, call: libc::c_long, decision: (Vec<Argument>, Action)) {
        if let Some(decisions) = u32::try_from(call).ok().and_then(|call| self.decisions.get_mut(&call)) {
            decisions.insert(0, decision);
        }
    }

    fn sockets(&mut self, sockets: Sockets) {
        let all = u64::MAX;
        let mut made = Decisions::new();
        if sockets.unix {
            made.push((vec![int(0, all, Operator::Equal, libc::AF_UNIX as u64)], Action::Allow));
        }
        let internet =
            [(sockets.tcp, libc::SOCK_STREAM, libc::IPPROTO_TCP), (sockets.udp, libc::SOCK_DGRAM, libc::IPPROTO_UDP)];
        for (_, kind, protocol) in internet.into_iter().filter(|(granted, ..)| *granted) {
            // Of other protocols (Multipath TCP) Landlock sees no ports.
            for protocol in [0, protocol] {
                for family in [libc::AF_INET, libc::AF_INET6] {
                    let conditions = vec![
                        int(0, all, Operator::Equal, family as u64),
                        int(1, 0xf, Operator::Equal, kind as u64),
                        int(2, all, Operator::Equal, protocol as u64),
                    ];
                    made.push((conditions, Action::Allow));
                }
            }
        }
        made.push((Vec::new(), NO_FAMILY));
        self.set(libc::SYS_socket, made);
        // A pair of datagram sockets can be sent from to any other: only those that stay connected.
        let mut pairs: Decisions = [libc::SOCK_STREAM, libc::SOCK_SEQPACKET]
            .map(|kind| {
                let unix = int(0, all, Operator::Equal, libc::AF_UNIX as u64);
                (vec![unix, int(1, 0xf, Operator::Equal, kind as u64)], Action::Allow)
            })
            .into();
        if sockets.unix {
            pairs.push((vec![int(0, all, Operator::Equal, libc::AF_UNIX as u64)], Action::Allow));
        }
        pairs.push((Vec::new(), NO_FAMILY));
        self.set(libc::SYS_socketpair, pairs);
        // Sending that connects: Landlock does not see it.
        for (call, index) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
            let fast = vec![int(index, MSG_FASTOPEN, Operator::NotEqual, 0)];
            let refused = Action::Errno(libc::EOPNOTSUPP as u16);
            self.set(call, vec![(fast, refused), (Vec::new(), Action::Allow)]);
        }
        // Listening on a socket without a port takes one that nobody has granted.
        if sockets.tcp {
            self.set(libc::SYS_listen, vec![(Vec::new(), Action::Notify)]);
        }
        if sockets.asked {
            for call in [libc::SYS_connect, libc::SYS_bind] {
                self.set(call, vec![(Vec::new(), Action::Notify)]);
            }
        }
    }

    fn deny_some(&mut self, call: libc::c_long, index: u8, values: &[u64]) {
        let mut list: Decisions =
            values.iter().map(|value| (vec![int(index, u64::MAX, Operator::Equal, *value)], DENIED)).collect();
        list.push((Vec::new(), Action::Allow));
        self.set(call, list);
    }

    fn set(&mut self, call: libc::c_long, decisions: Decisions) {
        if let Ok(number) = u32::try_from(call) {
            self.decisions.insert(number, decisions);
        }
    }
}
