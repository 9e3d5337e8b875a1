//! The system call table: ONE row per call. Documents and traces are made from it.

use super::argument::serve;
use crate::{Context, Result};

/// Where a call is served (ARCHITECTURE.md, "The four classes").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Could be answered in the stub without leaving the process.
    Local,
    /// Carried out by the host kernel in the application's process, arguments checked.
    Host,
    /// On open regular files.
    Data,
    /// In the guest kernel.
    Kernel,
}

/// How much of the man page holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    Full,
    /// See the row's note.
    Partial,
    /// Always an error, as on a Linux without the feature.
    Refused,
}

/// One row.
pub struct Row {
    pub number: u64,
    pub name: &'static str,
    pub class: Class,
    pub support: Support,
    pub note: &'static str,
    pub handler: fn(&mut Context, &[u64; 6]) -> Result<u64>,
}

macro_rules! rows {
    ($( $number:literal $name:ident $handler:path, $class:ident $support:ident $note:literal; )*) => {
        /// The numbers of all rows.
        const KNOWN: &[u64] = &[$($number),*];

        /// All rows, by number.
        pub static ROWS: &[Row] = &[$(Row {
            number: $number,
            name: stringify!($name),
            class: Class::$class,
            support: Support::$support,
            note: $note,
            handler: |context, registers| serve($handler, context, registers),
        }),*];
    };
}

// number name handler, class support note;   (keep the order of numbers: a test checks it)
rows! {
    0 read crate::syscall::read_write::read, Data Full "";
    1 write crate::syscall::read_write::write, Data Full "";
    2 open crate::syscall::path::open, Kernel Full "";
    3 close crate::syscall::descriptor::close, Kernel Full "";
    4 stat crate::syscall::path::stat, Kernel Full "";
    5 fstat crate::syscall::path::fstat, Kernel Full "";
    6 lstat crate::syscall::path::lstat, Kernel Full "";
    7 poll crate::syscall::poll::poll, Kernel Full "";
    8 lseek crate::syscall::read_write::lseek, Data Full "";
    9 mmap crate::syscall::memory::mmap, Host Full "anonymous memory natively, files by injected descriptors; no huge pages";
    10 mprotect crate::syscall::memory::served_by_the_stub, Host Full "";
    11 munmap crate::syscall::memory::served_by_the_stub, Host Full "";
    12 brk crate::syscall::memory::brk, Kernel Full "";
    13 rt_sigaction crate::syscall::signal::rt_sigaction, Local Full "";
    14 rt_sigprocmask crate::syscall::signal::rt_sigprocmask, Local Full "";
    16 ioctl crate::syscall::descriptor::ioctl, Kernel Full "";
    17 pread64 crate::syscall::read_write::pread64, Data Full "";
    18 pwrite64 crate::syscall::read_write::pwrite64, Data Full "";
    19 readv crate::syscall::read_write::readv, Data Full "";
    20 writev crate::syscall::read_write::writev, Data Full "";
    21 access crate::syscall::path::access, Kernel Full "";
    22 pipe crate::syscall::ipc::pipe, Kernel Full "";
    23 select crate::syscall::poll::select, Kernel Full "";
    24 sched_yield crate::syscall::scheduling::sched_yield, Host Full "";
    25 mremap crate::syscall::memory::served_by_the_stub, Host Full "no MREMAP_DONTUNMAP";
    26 msync crate::syscall::memory::msync, Kernel Full "";
    27 mincore crate::syscall::memory::mincore, Kernel Partial "every mapped page counts as resident";
    28 madvise crate::syscall::memory::madvise, Host Partial "no MADV_REMOVE";
    29 shmget crate::syscall::sysv::shmget, Kernel Full "";
    30 shmat crate::syscall::sysv::shmat, Kernel Full "";
    31 shmctl crate::syscall::sysv::shmctl, Kernel Full "";
    32 dup crate::syscall::descriptor::dup, Kernel Full "";
    33 dup2 crate::syscall::descriptor::dup2, Kernel Full "";
    34 pause crate::syscall::signal::pause, Kernel Full "";
    35 nanosleep crate::syscall::time::nanosleep, Kernel Full "";
    36 getitimer crate::syscall::timer::getitimer, Kernel Full "";
    37 alarm crate::syscall::timer::alarm, Kernel Full "";
    38 setitimer crate::syscall::timer::setitimer, Kernel Full "";
    39 getpid crate::syscall::process::getpid, Local Full "";
    40 sendfile crate::syscall::data::sendfile, Kernel Full "";
    41 socket crate::syscall::socket::socket, Kernel Full "AF_UNIX, AF_INET, AF_INET6 (TCP, UDP), AF_NETLINK (route, sock_diag, uevent, generic)";
    42 connect crate::syscall::socket::connect, Kernel Full "";
    43 accept crate::syscall::socket::accept, Kernel Full "";
    44 sendto crate::syscall::socket::sendto, Kernel Full "";
    45 recvfrom crate::syscall::socket::recvfrom, Kernel Full "";
    46 sendmsg crate::syscall::socket::sendmsg, Kernel Full "";
    47 recvmsg crate::syscall::socket::recvmsg, Kernel Full "";
    48 shutdown crate::syscall::socket::shutdown, Kernel Full "";
    49 bind crate::syscall::socket::bind, Kernel Full "";
    50 listen crate::syscall::socket::listen, Kernel Full "";
    51 getsockname crate::syscall::socket::getsockname, Kernel Full "";
    52 getpeername crate::syscall::socket::getpeername, Kernel Full "";
    53 socketpair crate::syscall::socket::socketpair, Kernel Full "";
    54 setsockopt crate::syscall::socket::setsockopt, Kernel Partial "packet filters and MSG_ZEROCOPY are refused";
    55 getsockopt crate::syscall::socket::getsockopt, Kernel Full "";
    56 clone crate::syscall::clone::clone, Kernel Partial "no new namespaces";
    57 fork crate::syscall::clone::fork, Kernel Full "";
    58 vfork crate::syscall::clone::vfork, Kernel Full "";
    59 execve crate::syscall::clone::execve, Kernel Full "";
    60 exit crate::syscall::process::exit, Kernel Full "";
    61 wait4 crate::syscall::process::wait4, Kernel Full "";
    62 kill crate::syscall::signal::kill, Kernel Full "";
    63 uname crate::syscall::system::uname, Kernel Full "";
    64 semget crate::syscall::sysv::semget, Kernel Full "";
    65 semop crate::syscall::sysv::semop, Kernel Full "";
    66 semctl crate::syscall::sysv::semctl, Kernel Full "";
    67 shmdt crate::syscall::sysv::shmdt, Kernel Full "";
    68 msgget crate::syscall::sysv::msgget, Kernel Full "";
    69 msgsnd crate::syscall::sysv::msgsnd, Kernel Full "";
    70 msgrcv crate::syscall::sysv::msgrcv, Kernel Full "";
    71 msgctl crate::syscall::sysv::msgctl, Kernel Full "";
    72 fcntl crate::syscall::descriptor::fcntl, Kernel Full "";
    73 flock crate::syscall::lock::flock, Kernel Full "";
    74 fsync crate::syscall::data::fsync, Kernel Full "";
    75 fdatasync crate::syscall::data::fdatasync, Kernel Full "";
    76 truncate crate::syscall::attribute::truncate, Kernel Full "";
    77 ftruncate crate::syscall::attribute::ftruncate, Kernel Full "";
    78 getdents crate::syscall::directory::getdents, Kernel Full "";
    79 getcwd crate::syscall::path::getcwd, Kernel Full "";
    80 chdir crate::syscall::path::chdir, Kernel Full "";
    81 fchdir crate::syscall::path::fchdir, Kernel Full "";
    82 rename crate::syscall::name::rename, Kernel Full "";
    83 mkdir crate::syscall::name::mkdir, Kernel Full "";
    84 rmdir crate::syscall::name::rmdir, Kernel Full "";
    85 creat crate::syscall::path::creat, Kernel Full "";
    86 link crate::syscall::name::link, Kernel Full "";
    87 unlink crate::syscall::name::unlink, Kernel Full "";
    88 symlink crate::syscall::name::symlink, Kernel Full "";
    89 readlink crate::syscall::path::readlink, Kernel Full "";
    90 chmod crate::syscall::attribute::chmod, Kernel Full "";
    91 fchmod crate::syscall::attribute::fchmod, Kernel Full "";
    92 chown crate::syscall::attribute::chown, Kernel Full "";
    93 fchown crate::syscall::attribute::fchown, Kernel Full "";
    94 lchown crate::syscall::attribute::lchown, Kernel Full "";
    95 umask crate::syscall::path::umask, Kernel Full "";
    96 gettimeofday crate::syscall::time::gettimeofday, Kernel Full "";
    97 getrlimit crate::syscall::resource::getrlimit, Kernel Full "";
    98 getrusage crate::syscall::resource::getrusage, Kernel Full "";
    99 sysinfo crate::syscall::system::sysinfo, Kernel Partial "no swap; free memory is the host's";
    100 times crate::syscall::resource::times, Kernel Full "";
    101 ptrace crate::syscall::ptrace::ptrace, Kernel Partial "no debug registers, no PTRACE_SYSEMU, no SECCOMP_RET_TRACE";
    102 getuid crate::syscall::credentials::getuid, Local Full "";
    103 syslog crate::syscall::system::syslog, Kernel Partial "the log is empty";
    104 getgid crate::syscall::credentials::getgid, Local Full "";
    105 setuid crate::syscall::credentials::setuid, Kernel Full "";
    106 setgid crate::syscall::credentials::setgid, Kernel Full "";
    107 geteuid crate::syscall::credentials::geteuid, Local Full "";
    108 getegid crate::syscall::credentials::getegid, Local Full "";
    109 setpgid crate::syscall::process::setpgid, Kernel Full "";
    110 getppid crate::syscall::process::getppid, Local Full "";
    111 getpgrp crate::syscall::process::getpgrp, Local Full "";
    112 setsid crate::syscall::process::setsid, Kernel Full "";
    113 setreuid crate::syscall::credentials::setreuid, Kernel Full "";
    114 setregid crate::syscall::credentials::setregid, Kernel Full "";
    115 getgroups crate::syscall::credentials::getgroups, Kernel Full "";
    116 setgroups crate::syscall::credentials::setgroups, Kernel Full "";
    117 setresuid crate::syscall::credentials::setresuid, Kernel Full "";
    118 getresuid crate::syscall::credentials::getresuid, Kernel Full "";
    119 setresgid crate::syscall::credentials::setresgid, Kernel Full "";
    120 getresgid crate::syscall::credentials::getresgid, Kernel Full "";
    121 getpgid crate::syscall::process::getpgid, Local Full "";
    122 setfsuid crate::syscall::credentials::setfsuid, Kernel Full "";
    123 setfsgid crate::syscall::credentials::setfsgid, Kernel Full "";
    124 getsid crate::syscall::process::getsid, Local Full "";
    125 capget crate::syscall::credentials::capget, Kernel Full "";
    126 capset crate::syscall::credentials::capset, Kernel Full "";
    127 rt_sigpending crate::syscall::signal::rt_sigpending, Kernel Full "";
    128 rt_sigtimedwait crate::syscall::signal::rt_sigtimedwait, Kernel Full "";
    129 rt_sigqueueinfo crate::syscall::signal::rt_sigqueueinfo, Kernel Full "";
    130 rt_sigsuspend crate::syscall::signal::rt_sigsuspend, Kernel Full "";
    131 sigaltstack crate::syscall::signal::sigaltstack, Kernel Full "";
    132 utime crate::syscall::attribute::utime, Kernel Full "";
    133 mknod crate::syscall::name::mknod, Kernel Full "";
    134 uselib crate::syscall::system::absent, Kernel Refused "";
    135 personality crate::syscall::system::personality, Kernel Partial "stored; ADDR_NO_RANDOMIZE has no effect";
    137 statfs crate::syscall::attribute::statfs, Kernel Full "";
    138 fstatfs crate::syscall::attribute::fstatfs, Kernel Full "";
    140 getpriority crate::syscall::scheduling::getpriority, Kernel Full "";
    141 setpriority crate::syscall::scheduling::setpriority, Kernel Partial "stored, not enforced";
    142 sched_setparam crate::syscall::scheduling::sched_setparam, Kernel Partial "stored, not enforced";
    143 sched_getparam crate::syscall::scheduling::sched_getparam, Kernel Full "";
    144 sched_setscheduler crate::syscall::scheduling::sched_setscheduler, Kernel Partial "stored, not enforced";
    145 sched_getscheduler crate::syscall::scheduling::sched_getscheduler, Kernel Full "";
    146 sched_get_priority_max crate::syscall::scheduling::sched_get_priority_max, Kernel Full "";
    147 sched_get_priority_min crate::syscall::scheduling::sched_get_priority_min, Kernel Full "";
    148 sched_rr_get_interval crate::syscall::scheduling::sched_rr_get_interval, Kernel Full "";
    149 mlock crate::syscall::resource::mlock, Kernel Partial "checked against RLIMIT_MEMLOCK call by call; the host may still page out";
    150 munlock crate::syscall::resource::munlock, Kernel Partial "see mlock";
    151 mlockall crate::syscall::resource::mlockall, Kernel Partial "see mlock";
    152 munlockall crate::syscall::resource::munlockall, Kernel Partial "see mlock";
    153 vhangup crate::syscall::system::forbidden, Kernel Refused "";
    154 modify_ldt crate::syscall::system::absent, Kernel Refused "";
    156 _sysctl crate::syscall::system::absent, Kernel Refused "";
    157 prctl crate::syscall::prctl::prctl, Kernel Partial "PR_SET_MM, PR_SET_TSC and switching of mitigations are refused; names of mappings are not shown";
    158 arch_prctl crate::syscall::memory::served_by_the_stub, Host Partial "FS and GS only";
    159 adjtimex crate::syscall::time::adjtimex, Kernel Partial "says that the clock is not synchronised; the clock is the host's";
    160 setrlimit crate::syscall::resource::setrlimit, Kernel Full "";
    161 chroot crate::syscall::path::chroot, Kernel Full "";
    162 sync crate::syscall::data::sync, Kernel Full "";
    163 acct crate::syscall::system::absent, Kernel Refused "";
    164 settimeofday crate::syscall::time::settimeofday, Kernel Refused "the clock is the host's";
    165 mount crate::syscall::mount::mount, Kernel Partial "tmpfs, bind, remount, move, and what is mounted already; one namespace";
    166 umount2 crate::syscall::mount::umount2, Kernel Full "";
    167 swapon crate::syscall::system::forbidden, Kernel Refused "";
    168 swapoff crate::syscall::system::forbidden, Kernel Refused "";
    169 reboot crate::syscall::system::reboot, Kernel Partial "a sandbox ends when its program does";
    170 sethostname crate::syscall::system::sethostname, Kernel Full "";
    171 setdomainname crate::syscall::system::setdomainname, Kernel Full "";
    172 iopl crate::syscall::system::forbidden, Kernel Refused "";
    173 ioperm crate::syscall::system::forbidden, Kernel Refused "";
    174 create_module crate::syscall::system::absent, Kernel Refused "";
    175 init_module crate::syscall::system::forbidden, Kernel Refused "";
    176 delete_module crate::syscall::system::forbidden, Kernel Refused "";
    177 get_kernel_syms crate::syscall::system::absent, Kernel Refused "";
    178 query_module crate::syscall::system::absent, Kernel Refused "";
    179 quotactl crate::syscall::system::absent, Kernel Refused "";
    180 nfsservctl crate::syscall::system::absent, Kernel Refused "";
    181 getpmsg crate::syscall::system::absent, Kernel Refused "";
    182 putpmsg crate::syscall::system::absent, Kernel Refused "";
    183 afs_syscall crate::syscall::system::absent, Kernel Refused "";
    184 tuxcall crate::syscall::system::absent, Kernel Refused "";
    185 security crate::syscall::system::absent, Kernel Refused "";
    186 gettid crate::syscall::process::gettid, Local Full "";
    187 readahead crate::syscall::data::readahead, Kernel Partial "checked only";
    188 setxattr crate::syscall::xattr::setxattr, Kernel Full "";
    189 lsetxattr crate::syscall::xattr::lsetxattr, Kernel Full "";
    190 fsetxattr crate::syscall::xattr::fsetxattr, Kernel Full "";
    191 getxattr crate::syscall::xattr::getxattr, Kernel Full "";
    192 lgetxattr crate::syscall::xattr::lgetxattr, Kernel Full "";
    193 fgetxattr crate::syscall::xattr::fgetxattr, Kernel Full "";
    194 listxattr crate::syscall::xattr::listxattr, Kernel Full "";
    195 llistxattr crate::syscall::xattr::llistxattr, Kernel Full "";
    196 flistxattr crate::syscall::xattr::flistxattr, Kernel Full "";
    197 removexattr crate::syscall::xattr::removexattr, Kernel Full "";
    198 lremovexattr crate::syscall::xattr::lremovexattr, Kernel Full "";
    199 fremovexattr crate::syscall::xattr::fremovexattr, Kernel Full "";
    200 tkill crate::syscall::signal::tkill, Kernel Full "";
    201 time crate::syscall::time::time, Kernel Full "";
    202 futex crate::syscall::memory::futex, Host Partial "priority-inheriting ones lock without inheriting; no FUTEX_WAIT_REQUEUE_PI";
    203 sched_setaffinity crate::syscall::scheduling::sched_setaffinity, Kernel Full "";
    204 sched_getaffinity crate::syscall::scheduling::sched_getaffinity, Kernel Full "";
    205 set_thread_area crate::syscall::system::absent, Kernel Refused "";
    206 io_setup crate::syscall::aio::io_setup, Kernel Full "";
    207 io_destroy crate::syscall::aio::io_destroy, Kernel Full "";
    208 io_getevents crate::syscall::aio::io_getevents, Kernel Full "";
    209 io_submit crate::syscall::aio::io_submit, Kernel Partial "carried out at once; no IOCB_CMD_POLL";
    210 io_cancel crate::syscall::aio::io_cancel, Kernel Full "nothing is left to cancel";
    211 get_thread_area crate::syscall::system::absent, Kernel Refused "";
    212 lookup_dcookie crate::syscall::system::absent, Kernel Refused "";
    213 epoll_create crate::syscall::event::epoll_create, Kernel Full "";
    214 epoll_ctl_old crate::syscall::system::absent, Kernel Refused "";
    215 epoll_wait_old crate::syscall::system::absent, Kernel Refused "";
    217 getdents64 crate::syscall::directory::getdents64, Kernel Full "";
    218 set_tid_address crate::syscall::process::set_tid_address, Local Full "";
    219 restart_syscall crate::syscall::time::restart_syscall, Kernel Full "";
    220 semtimedop crate::syscall::sysv::semtimedop, Kernel Full "";
    221 fadvise64 crate::syscall::data::fadvise64, Kernel Partial "checked only";
    222 timer_create crate::syscall::timer::timer_create, Kernel Full "";
    223 timer_settime crate::syscall::timer::timer_settime, Kernel Full "";
    224 timer_gettime crate::syscall::timer::timer_gettime, Kernel Full "";
    225 timer_getoverrun crate::syscall::timer::timer_getoverrun, Kernel Full "";
    226 timer_delete crate::syscall::timer::timer_delete, Kernel Full "";
    227 clock_settime crate::syscall::time::clock_settime, Kernel Refused "the clock is the host's";
    228 clock_gettime crate::syscall::time::clock_gettime, Kernel Full "";
    229 clock_getres crate::syscall::time::clock_getres, Kernel Full "";
    230 clock_nanosleep crate::syscall::time::clock_nanosleep, Kernel Full "";
    231 exit_group crate::syscall::process::exit_group, Kernel Full "";
    232 epoll_wait crate::syscall::event::epoll_wait, Kernel Full "";
    233 epoll_ctl crate::syscall::event::epoll_ctl, Kernel Full "";
    234 tgkill crate::syscall::signal::tgkill, Kernel Full "";
    235 utimes crate::syscall::attribute::utimes, Kernel Full "";
    236 vserver crate::syscall::system::absent, Kernel Refused "";
    237 mbind crate::syscall::system::absent, Kernel Refused "as without NUMA";
    238 set_mempolicy crate::syscall::system::absent, Kernel Refused "as without NUMA";
    239 get_mempolicy crate::syscall::system::absent, Kernel Refused "as without NUMA";
    240 mq_open crate::syscall::mqueue::mq_open, Kernel Full "";
    241 mq_unlink crate::syscall::mqueue::mq_unlink, Kernel Full "";
    242 mq_timedsend crate::syscall::mqueue::mq_timedsend, Kernel Full "";
    243 mq_timedreceive crate::syscall::mqueue::mq_timedreceive, Kernel Full "";
    244 mq_notify crate::syscall::mqueue::mq_notify, Kernel Full "";
    245 mq_getsetattr crate::syscall::mqueue::mq_getsetattr, Kernel Full "";
    246 kexec_load crate::syscall::system::absent, Kernel Refused "";
    247 waitid crate::syscall::process::waitid, Kernel Full "";
    248 add_key crate::syscall::system::absent, Kernel Refused "";
    249 request_key crate::syscall::system::absent, Kernel Refused "";
    250 keyctl crate::syscall::system::absent, Kernel Refused "";
    251 ioprio_set crate::syscall::scheduling::ioprio_set, Kernel Partial "stored, not enforced";
    252 ioprio_get crate::syscall::scheduling::ioprio_get, Kernel Full "";
    253 inotify_init crate::syscall::notify::inotify_init, Kernel Full "";
    254 inotify_add_watch crate::syscall::notify::inotify_add_watch, Kernel Full "";
    255 inotify_rm_watch crate::syscall::notify::inotify_rm_watch, Kernel Full "";
    256 migrate_pages crate::syscall::system::absent, Kernel Refused "as without NUMA";
    257 openat crate::syscall::path::openat, Kernel Full "";
    258 mkdirat crate::syscall::name::mkdirat, Kernel Full "";
    259 mknodat crate::syscall::name::mknodat, Kernel Full "";
    260 fchownat crate::syscall::attribute::fchownat, Kernel Full "";
    261 futimesat crate::syscall::attribute::futimesat, Kernel Full "";
    262 newfstatat crate::syscall::path::newfstatat, Kernel Full "";
    263 unlinkat crate::syscall::name::unlinkat, Kernel Full "";
    264 renameat crate::syscall::name::renameat, Kernel Full "";
    265 linkat crate::syscall::name::linkat, Kernel Full "";
    266 symlinkat crate::syscall::name::symlinkat, Kernel Full "";
    267 readlinkat crate::syscall::path::readlinkat, Kernel Full "";
    268 fchmodat crate::syscall::attribute::fchmodat, Kernel Full "";
    269 faccessat crate::syscall::path::faccessat, Kernel Full "";
    270 pselect6 crate::syscall::poll::pselect6, Kernel Full "";
    271 ppoll crate::syscall::poll::ppoll, Kernel Full "";
    272 unshare crate::syscall::system::unshare, Kernel Partial "no namespaces";
    273 set_robust_list crate::syscall::process::set_robust_list, Local Full "";
    274 get_robust_list crate::syscall::process::get_robust_list, Kernel Full "";
    275 splice crate::syscall::data::splice, Kernel Full "";
    276 tee crate::syscall::data::tee, Kernel Full "";
    277 sync_file_range crate::syscall::data::sync_file_range, Kernel Full "";
    278 vmsplice crate::syscall::data::vmsplice, Kernel Partial "copies";
    279 move_pages crate::syscall::system::absent, Kernel Refused "as without NUMA";
    280 utimensat crate::syscall::attribute::utimensat, Kernel Full "";
    281 epoll_pwait crate::syscall::event::epoll_pwait, Kernel Full "";
    282 signalfd crate::syscall::notify::signalfd, Kernel Full "";
    283 timerfd_create crate::syscall::timer::timerfd_create, Kernel Full "";
    284 eventfd crate::syscall::event::eventfd, Kernel Full "";
    285 fallocate crate::syscall::data::fallocate, Kernel Full "";
    286 timerfd_settime crate::syscall::timer::timerfd_settime, Kernel Full "";
    287 timerfd_gettime crate::syscall::timer::timerfd_gettime, Kernel Full "";
    288 accept4 crate::syscall::socket::accept4, Kernel Full "";
    289 signalfd4 crate::syscall::notify::signalfd4, Kernel Full "";
    290 eventfd2 crate::syscall::event::eventfd2, Kernel Full "";
    291 epoll_create1 crate::syscall::event::epoll_create1, Kernel Full "";
    292 dup3 crate::syscall::descriptor::dup3, Kernel Full "";
    293 pipe2 crate::syscall::ipc::pipe2, Kernel Full "no O_NOTIFICATION_PIPE";
    294 inotify_init1 crate::syscall::notify::inotify_init1, Kernel Full "";
    295 preadv crate::syscall::read_write::preadv, Data Full "";
    296 pwritev crate::syscall::read_write::pwritev, Data Full "";
    297 rt_tgsigqueueinfo crate::syscall::signal::rt_tgsigqueueinfo, Kernel Full "";
    298 perf_event_open crate::syscall::system::absent, Kernel Refused "";
    299 recvmmsg crate::syscall::socket::recvmmsg, Kernel Full "";
    302 prlimit64 crate::syscall::resource::prlimit64, Kernel Full "";
    305 clock_adjtime crate::syscall::time::clock_adjtime, Kernel Partial "see adjtimex";
    306 syncfs crate::syscall::data::syncfs, Kernel Full "";
    307 sendmmsg crate::syscall::socket::sendmmsg, Kernel Full "";
    308 setns crate::syscall::system::setns, Kernel Refused "no namespaces";
    309 getcpu crate::syscall::scheduling::getcpu, Kernel Full "";
    310 process_vm_readv crate::syscall::system::process_vm_readv, Kernel Full "";
    311 process_vm_writev crate::syscall::system::process_vm_writev, Kernel Full "";
    312 kcmp crate::syscall::system::kcmp, Kernel Partial "no KCMP_EPOLL_TFD";
    313 finit_module crate::syscall::system::forbidden, Kernel Refused "";
    314 sched_setattr crate::syscall::scheduling::sched_setattr, Kernel Partial "stored, not enforced";
    315 sched_getattr crate::syscall::scheduling::sched_getattr, Kernel Full "";
    316 renameat2 crate::syscall::name::renameat2, Kernel Full "";
    317 seccomp crate::syscall::prctl::seccomp, Kernel Partial "no listener, no tracer";
    318 getrandom crate::syscall::system::getrandom, Kernel Full "";
    319 memfd_create crate::syscall::notify::memfd_create, Kernel Partial "no huge pages";
    320 kexec_file_load crate::syscall::system::absent, Kernel Refused "";
    321 bpf crate::syscall::system::forbidden, Kernel Refused "";
    322 execveat crate::syscall::clone::execveat, Kernel Full "";
    323 userfaultfd crate::syscall::system::absent, Kernel Refused "";
    324 membarrier crate::syscall::system::membarrier, Kernel Partial "no SYNC_CORE, no RSEQ";
    325 mlock2 crate::syscall::resource::mlock2, Kernel Partial "see mlock";
    326 copy_file_range crate::syscall::data::copy_file_range, Kernel Full "";
    327 preadv2 crate::syscall::read_write::preadv2, Data Full "";
    328 pwritev2 crate::syscall::read_write::pwritev2, Data Full "";
    330 pkey_alloc crate::syscall::system::pkey_alloc, Kernel Refused "";
    331 pkey_free crate::syscall::system::pkey_free, Kernel Refused "";
    332 statx crate::syscall::path::statx, Kernel Full "";
    333 io_pgetevents crate::syscall::aio::io_pgetevents, Kernel Full "";
    334 rseq crate::syscall::system::absent, Host Refused "programs go on without";
    424 pidfd_send_signal crate::syscall::notify::pidfd_send_signal, Kernel Full "";
    425 io_uring_setup crate::syscall::system::absent, Kernel Refused "";
    426 io_uring_enter crate::syscall::system::absent, Kernel Refused "";
    427 io_uring_register crate::syscall::system::absent, Kernel Refused "";
    434 pidfd_open crate::syscall::notify::pidfd_open, Kernel Partial "no PIDFD_THREAD";
    435 clone3 crate::syscall::clone::clone3, Kernel Partial "see clone; no chosen ids, no cgroup to begin in";
    436 close_range crate::syscall::descriptor::close_range, Kernel Full "";
    437 openat2 crate::syscall::path::openat2, Kernel Full "";
    438 pidfd_getfd crate::syscall::notify::pidfd_getfd, Kernel Full "";
    439 faccessat2 crate::syscall::path::faccessat2, Kernel Full "";
    440 process_madvise crate::syscall::system::absent, Kernel Refused "";
    441 epoll_pwait2 crate::syscall::event::epoll_pwait2, Kernel Full "";
    444 landlock_create_ruleset crate::syscall::system::absent, Kernel Refused "";
    445 landlock_add_rule crate::syscall::system::absent, Kernel Refused "";
    446 landlock_restrict_self crate::syscall::system::absent, Kernel Refused "";
    447 memfd_secret crate::syscall::system::absent, Kernel Refused "";
    448 process_mrelease crate::syscall::system::absent, Kernel Refused "";
    450 set_mempolicy_home_node crate::syscall::system::absent, Kernel Refused "as without NUMA";
    452 fchmodat2 crate::syscall::attribute::fchmodat2, Kernel Full "";
    453 map_shadow_stack crate::syscall::system::absent, Kernel Refused "";
    459 lsm_get_self_attr crate::syscall::system::absent, Kernel Refused "";
    460 lsm_set_self_attr crate::syscall::system::absent, Kernel Refused "";
    461 lsm_list_modules crate::syscall::system::absent, Kernel Refused "";
}

/// Larger than every call number.
const NUMBERS: usize = 512;

/// Where a call's row is in [`ROWS`], by its number; beyond the end where it has none.
static INDEX: [u16; NUMBERS] = {
    let mut index = [u16::MAX; NUMBERS];
    let mut row = 0;
    while row < KNOWN.len() {
        index[KNOWN[row] as usize] = row as u16;
        row += 1;
    }
    index
};

/// The row of a call number.
pub fn find(number: u64) -> Option<&'static Row> {
    ROWS.get(usize::from(*INDEX.get(usize::try_from(number).ok()?)?))
}

/// Whether the stub makes a call, as a rule.
pub(crate) fn is_native(number: u64) -> bool {
    find(number).is_some_and(|row| row.class == Class::Host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_and_unique() {
        assert!(ROWS.windows(2).all(|pair| pair[0].number < pair[1].number));
        for number in 0..2 * NUMBERS as u64 {
            assert_eq!(find(number).map(|row| row.number), ROWS.iter().map(|row| row.number).find(|&other| other == number));
        }
        assert!(find(u64::MAX).is_none());
    }
}
