//! The sentry's own seccomp filter: an allow-list, by number and, where it matters, by argument.

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use skerry_platform::changes;
use std::collections::BTreeMap;

/// Calls that are allowed with any arguments. What is missing is the point: no execve, no fork, no ptrace, no sockets of
/// its own but pairs, no mounts, no namespaces, no keyrings, no BPF, no io_uring, no kernel modules.
const ALLOWED: &[libc::c_long] = &[
    // Descriptors and files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_preadv2,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_getdents64,
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    libc::SYS_access,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_dup,
    libc::SYS_fcntl,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_fadvise64,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_syncfs,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_unlinkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_linkat,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_chmod,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_utimensat,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_fgetxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_removexattr,
    libc::SYS_lremovexattr,
    libc::SYS_fremovexattr,
    libc::SYS_memfd_create,
    libc::SYS_flock,
    libc::SYS_getcwd,
    libc::SYS_close_range,
    libc::SYS_name_to_handle_at,
    // Waiting.
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_wait,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    libc::SYS_pipe2,
    // The control socket and the zygote's, standard streams that are sockets.
    libc::SYS_recvmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendmsg,
    libc::SYS_sendto,
    libc::SYS_socketpair,
    libc::SYS_getsockopt,
    libc::SYS_shutdown,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Guests.
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_tgkill,
    libc::SYS_kill,
    libc::SYS_waitid,
    libc::SYS_wait4,
    libc::SYS_prlimit64,
    libc::SYS_sched_setaffinity,
    libc::SYS_setpriority,
    // Its own process.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getppid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getcpu,
    libc::SYS_membarrier,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_getrusage,
    libc::SYS_capget,
];

fn condition(index: u8, operator: SeccompCmpOp, value: u64) -> Result<SeccompCondition, seccompiler::BackendError> {
    SeccompCondition::new(index, SeccompCmpArgLen::Qword, operator, value)
}

/// Puts the filter on the calling thread; threads that it starts inherit it.
pub fn install() -> Result<(), Box<dyn std::error::Error>> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = ALLOWED.iter().map(|number| (*number, Vec::new())).collect();
    // Memory, but never executable: code that was smuggled in cannot run.
    let not_executable = || condition(2, SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64), 0);
    rules.insert(libc::SYS_mmap, vec![SeccompRule::new(vec![not_executable()?])?]);
    rules.insert(libc::SYS_mprotect, vec![SeccompRule::new(vec![not_executable()?])?]);
    // Threads, but no processes (clone3, whose flags are in memory, gives ENOSYS below).
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![condition(0, SeccompCmpOp::MaskedEq(thread), thread)?])?]);
    // Names of threads and mappings.
    let names = [libc::PR_SET_NAME as u64, 0x5356_4d41];
    let name_rules: Result<Vec<_>, _> =
        names.iter().map(|name| SeccompRule::new(vec![condition(0, SeccompCmpOp::Eq, *name)?])).collect();
    rules.insert(libc::SYS_prctl, name_rules?);
    // To be told of changes in directories, and by nothing more than that.
    let (told, marked) = (changes::INIT_FLAGS.into(), changes::MARK_FLAGS.into());
    rules.insert(libc::SYS_fanotify_init, vec![SeccompRule::new(vec![condition(0, SeccompCmpOp::Eq, told)?])?]);
    rules.insert(libc::SYS_fanotify_mark, vec![SeccompRule::new(vec![condition(1, SeccompCmpOp::Eq, marked)?])?]);
    // Listener requests; terminals: size, attributes, readable bytes; never TIOCSTI, TIOCSCTTY and the like.
    let requests: &[u64] = &[
        0xc050_2100,
        0xc018_2101,
        0x4018_2103,
        0x4008_2104,
        0x8008_2102, // seccomp: receive, answer, add, flags, valid
        0xc068_6611, // PROCMAP_QUERY
        0x541b,
        0x5401,
        0x5402,
        0x5403,
        0x5404,
        0x5413,
        0x802c_542a, // FIONREAD, TCGETS, TCSETS*, TIOCGWINSZ, TCGETS2
    ];
    let request_rules: Result<Vec<_>, seccompiler::BackendError> = requests
        .iter()
        .map(|request| SeccompRule::new(vec![SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *request)?]))
        .collect();
    rules.insert(libc::SYS_ioctl, request_rules?);
    let filter =
        SeccompFilter::new(rules, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow, TargetArch::x86_64)?;
    let program: BpfProgram = filter.try_into()?;
    seccompiler::apply_filter(&program)?;
    Ok(())
}
