//! Every system call with made-up arguments: nothing may panic, and nothing may hang.
//!
//! The caller's memory is that of a helper process of the host that sleeps, so that what handlers write harms nobody. The
//! kernel has no engine: what would need the host's side of a process is refused there. Arguments are small numbers,
//! descriptors, flags, edges and addresses; at the addresses there are paths, structures of such words, and noise. While
//! a call runs, a second thread interrupts its sleeps, as a signal would.

use crate::context::Call;
use crate::context::NoLead;
use crate::fs::fd_table::FdTable;
use crate::fs::Services;
use crate::task::{self, Credentials, FsContext, SpawnRequest, Task};
use crate::testing::Random;
use crate::{Context, Errno, Kernel};
use parking_lot::Mutex;
use skerry_abi::raw::general as linux;
use skerry_control::{Limits, MountKind, Network};
use skerry_platform::memory::GuestMemory;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Calls that are left out, and why.
const SKIPPED: &[(u64, &str)] = &[
    (linux::__NR_vfork as u64, "waits until its child ends, and no child runs without an engine"),
    (linux::__NR_exit as u64, "the thread does not go on; `task`'s tests end tasks"),
    (linux::__NR_exit_group as u64, "as exit"),
];

/// Calls that one process makes before the next one has its turn.
const CALLS_PER_PROCESS: usize = 400;
/// What counts as hanging: sleeps are interrupted after some milliseconds, and the machine may be busy.
const HANGS: Duration = Duration::from_secs(30);

/// A process of the host that lends its memory.
struct Lender {
    child: Child,
    /// Start of the memory that is used, which is writable, and its length.
    start: u64,
    length: u64,
}

const SLOT: u64 = 4096;

impl Lender {
    #[allow(clippy::zombie_processes)] // Drop waits for it
    fn new() -> Lender {
        // A program without arguments that waits for input has a stack; what it does with it nobody asks.
        let child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let maps = std::fs::read_to_string(format!("/proc/{}/maps", child.id())).unwrap();
            // Until it sleeps in its read, its stack still moves (exec).
            let sleeps = std::fs::read_to_string(format!("/proc/{}/wchan", child.id())).is_ok_and(|name| name.contains("pipe"))
                || std::fs::read_to_string(format!("/proc/{}/stat", child.id())).is_ok_and(|stat| stat.contains(") S "));
            if let Some(line) = maps.lines().find(|line| line.ends_with("[stack]")).filter(|_| sleeps) {
                let (start, rest) = line.split_once('-').unwrap();
                let start = u64::from_str_radix(start, 16).unwrap();
                let stop = u64::from_str_radix(rest.split(' ').next().unwrap(), 16).unwrap();
                return Lender { child, start, length: stop - start };
            }
            assert!(Instant::now() < end, "the helper process has no stack:\n{maps}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn slots(&self) -> usize {
        (self.length / SLOT) as usize
    }
}

impl Drop for Lender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn kernel() -> Arc<Kernel> {
    let limits = Limits { pids: Some(40), memory_files: Some(64 << 20), ..Limits::default() };
    let kernel = Kernel::new(b"fuzz", limits, Network::Loopback, false, Box::new(|_| {}));
    // As the sentry does at boot: without it, made-up sizes would take the host's memory.
    kernel.memory_files.limit.store(64 << 20, Ordering::Relaxed);
    let services = Services::new(kernel.memory_files.clone()).unwrap();
    let _ = kernel.file_services.set(services.clone());
    let mount = |target: &str, kind| skerry_control::Mount { target: target.into(), kind };
    let mounts = [
        mount("/", MountKind::Tmpfs { size: 0, mode: 0o755 }),
        mount("/proc", MountKind::Proc),
        mount("/sys", MountKind::Sysfs),
        mount("/dev", MountKind::Devtmpfs),
        mount("/tmp", MountKind::Tmpfs { size: 1 << 20, mode: 0o1777 }),
    ];
    let pseudo = |kind: &MountKind, services: &Arc<Services>| -> Option<Arc<dyn crate::fs::inode::FileSystem>> {
        match kind {
            MountKind::Proc => Some(crate::fs::proc::ProcFileSystem::new(&kernel, services.new_device())),
            MountKind::Sysfs => Some(crate::fs::sys::SysFileSystem::new(&kernel, services.new_device())),
            _ => None,
        }
    };
    crate::fs::build(&kernel.mounts, &services, &mounts, Default::default(), &pseudo).unwrap();
    crate::tty::mount(&kernel, services.new_device()).unwrap();
    let _ = crate::fs::sys::mount_control_group(&kernel, services.new_device());
    let files = crate::run::OutsideFiles::new(&kernel).unwrap();
    files.make_directory(b"/d/e", true, 0o755).unwrap();
    files.write(b"/f", 0, &[b'x'; 10_000], true, 0o644).unwrap();
    kernel
}

fn new_process(kernel: &Arc<Kernel>, memory: &Arc<GuestMemory>, uid: u32) -> Arc<Task> {
    let root = kernel.mounts.root().unwrap();
    let request = SpawnRequest {
        name: b"fuzz".to_vec(),
        credentials: Credentials::new(uid, uid, Vec::new()),
        fs: FsContext { root: root.clone(), current: root, umask: 0o022 },
        files: Arc::new(FdTable::default()),
        memory: memory.clone(),
    };
    task::spawn(kernel, request).unwrap()
}

const PATHS: &[&[u8]] = &[
    b"/",
    b".",
    b"..",
    b"",
    b"/f",
    b"/d",
    b"/d/e",
    b"/d/new",
    b"/tmp/a",
    b"/tmp/b",
    b"f",
    b"/f/",
    b"/nosuch/x",
    b"/proc/self/fd/3",
    b"/proc/self/mem",
    b"/proc/self/maps",
    b"/proc/self/status",
    b"/proc/self/exe",
    b"/proc/1/stat",
    b"/proc/self/task",
    b"/proc/meminfo",
    b"/proc/mounts",
    b"/proc/sys/kernel/hostname",
    b"/proc/net/tcp",
    b"/sys",
    b"/sys/fs/cgroup/cgroup.procs",
    b"/dev/null",
    b"/dev/zero",
    b"/dev/full",
    b"/dev/random",
    b"/dev/tty",
    b"/dev/ptmx",
    b"/dev/pts/0",
    b"/dev/pts",
    b"/fifo",
    b"/socket",
    b"/link",
    b"user.name",
    b"trusted.x",
    b"security.capability",
    b"system.posix_acl_access",
    b"tmpfs",
    b"proc",
    b"overlay",
    b"/queue",
];

const WORDS: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    5,
    7,
    8,
    9,
    10,
    12,
    16,
    17,
    24,
    32,
    48,
    64,
    100,
    128,
    255,
    256,
    511,
    512,
    1000,
    1023,
    1024,
    1025,
    4095,
    4096,
    4097,
    65535,
    65536,
    1 << 20,
    0x7ffe_ffff,
    0x7fff_f000,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    0xffff_ff9c,
    0x1_0000_0000,
    999_999_999,
    1_000_000_000,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
    u64::MAX - 1,
    u64::MAX - 4095,
    u64::MAX - 99,
    u64::MAX - 21,
    0x7fff_ffff_f000,
    0x8000_0000_0000,
    // ioctl(2) requests, prctl(2) options, socket levels and families, fcntl(2) commands beyond the small numbers.
    0x5401,
    0x5402,
    0x540b,
    0x540e,
    0x540f,
    0x5410,
    0x5411,
    0x5413,
    0x5414,
    0x541b,
    0x5421,
    0x5450,
    0x5451,
    0x5452,
    0x8004_5430,
    0x4004_5431,
    0x8004_5432,
    0x8912,
    0x8913,
    0x8915,
    0x8927,
    0x8933,
    0x8901,
    1024,
    1030,
    1031,
    1032,
    1033,
    1034,
    0x5961_6d61,
    0x5356_4d41,
    41,
    38,
    6,
    // openat(2) and socket(2) flags together with small numbers.
    0o100,
    0o102,
    0o1102,
    0o2000,
    0o4000,
    0o200000,
    0o10000000,
    0o20200002,
    0o2000000,
    0x80801,
    0x80002,
];

/// One argument, or one word of a structure.
fn word(random: &mut Random, lender: &Lender, task: &Task) -> u64 {
    match random.below(16) {
        0..=3 => lender.start + SLOT * random.below(lender.slots()) as u64,
        4 => lender.start + random.next() % lender.length,
        // Near the end, and over it.
        5 => (lender.start + lender.length).wrapping_sub(random.below(64) as u64),
        6..=8 => random.below(28) as u64,
        9 | 10 => *random.pick(WORDS),
        11 => 1 << random.below(64),
        12 => (1 << random.below(32)) | (1 << random.below(32)),
        13 => task.process().pid() as u64 + random.below(3) as u64 - 1,
        14 => random.next() >> random.below(64),
        _ => *random.pick(&[0u64, 0, 1, u64::MAX, 0x1000, 0xdead_0000, 1 << 63]),
    }
}

/// What the slots of the lender's memory hold; each has its own, so that an argument of a kind finds it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Holds {
    Path,
    ExtendedAttributeName,
    SocketAddress,
    Vectors,
    Message,
    Time,
    SignalSet,
    Numbers,
    Filter,
    Words,
    Noise,
}

const HOLDS: &[Holds] = &[
    Holds::Path,
    Holds::Path,
    Holds::Path,
    Holds::Path,
    Holds::ExtendedAttributeName,
    Holds::SocketAddress,
    Holds::SocketAddress,
    Holds::Vectors,
    Holds::Message,
    Holds::Time,
    Holds::Time,
    Holds::SignalSet,
    Holds::Numbers,
    Holds::Numbers,
    Holds::Filter,
    Holds::Words,
    Holds::Words,
    Holds::Noise,
    Holds::Noise,
    Holds::Noise,
];

impl Lender {
    /// An address at which there is such content.
    fn holding(&self, random: &mut Random, wanted: Holds) -> u64 {
        let slots: Vec<usize> = (0..self.slots()).filter(|slot| HOLDS[slot % HOLDS.len()] == wanted).collect();
        self.start + SLOT * *random.pick(&slots) as u64
    }
}

/// What is at the start of a slot.
fn content(random: &mut Random, lender: &Lender, task: &Task, holds: Holds) -> Vec<u8> {
    let mut bytes = Vec::new();
    let vectors = |random: &mut Random, bytes: &mut Vec<u8>| {
        for _ in 0..4 {
            bytes.extend(lender.holding(random, Holds::Noise).to_le_bytes());
            bytes.extend((random.below(300) as u64).to_le_bytes());
        }
    };
    match holds {
        Holds::Path => {
            let path: &[u8] = random.pick::<&[u8]>(PATHS);
            bytes.extend_from_slice(path);
            bytes.push(0);
        }
        Holds::ExtendedAttributeName => {
            let name: &[u8] = random.pick::<&[u8]>(&[
                b"user.a\0",
                b"user.b\0",
                b"trusted.x\0",
                b"security.capability\0",
                b"system.posix_acl_access\0",
            ]);
            bytes.extend_from_slice(name);
        }
        Holds::SocketAddress => {
            let address: &[u8] = random.pick::<&[u8]>(&[
                b"\x02\0\x1f\x90\x7f\0\0\x01\0\0\0\0\0\0\0\0",
                b"\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
                b"\x01\0/socket\0",
                b"\x01\0\0abstract",
                b"\x10\0\0\0\0\0\0\0\x01\0\0\0",
                b"\x0a\0\x1f\x90\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\0\0\0\0",
                b"\0\0",
            ]);
            bytes.extend_from_slice(address);
        }
        Holds::Vectors => vectors(random, &mut bytes),
        Holds::Message => {
            let words = [
                if random.below(2) == 0 { 0 } else { lender.holding(random, Holds::SocketAddress) },
                16,
                lender.holding(random, Holds::Vectors),
                random.below(4) as u64,
                if random.below(2) == 0 { 0 } else { lender.holding(random, Holds::Numbers) },
                random.below(80) as u64,
                0,
                0,
            ];
            words.iter().for_each(|word| bytes.extend(word.to_le_bytes()));
        }
        Holds::Time => {
            for _ in 0..4 {
                let word = if random.below(8) == 0 { *random.pick(WORDS) } else { random.below(3) as u64 };
                bytes.extend(word.to_le_bytes());
            }
        }
        Holds::SignalSet => bytes.extend((random.next() & random.next()).to_le_bytes()),
        Holds::Numbers => {
            for _ in 0..2 + random.below(32) {
                let number = if random.below(4) == 0 { *random.pick(WORDS) as u32 } else { random.below(24) as u32 };
                bytes.extend(number.to_le_bytes());
            }
        }
        Holds::Filter => {
            // sock_fprog, and behind it the instructions.
            let count = 1 + random.below(8) as u64;
            let address = lender.holding(random, Holds::Filter) + 16;
            bytes.extend(count.to_le_bytes());
            bytes.extend(address.to_le_bytes());
            for index in 0..count {
                let codes = [
                    0x20u16, 0x15, 0x25, 0x35, 0x45, 0x05, 0x04, 0x24, 0x34, 0x54, 0x64, 0x74, 0x84, 0x94, 0xa4, 0x07, 0x87,
                    0x02, 0x60, 0x61, 0x80, 0x16, 0x06,
                ];
                let code = if index + 1 == count || random.below(9) == 0 { 0x06 } else { *random.pick(&codes) };
                bytes.extend(code.to_le_bytes());
                bytes.extend([random.below(4) as u8, random.below(4) as u8]);
                let verdicts = [0x7fff_0000u32, 0x7fff_0000, 0x7fff_0000, 0x0005_0001, 0x0003_0000, 4, 32, 60, 0, 31];
                bytes.extend(random.pick(&verdicts).to_le_bytes());
            }
        }
        Holds::Words => {
            for _ in 0..16 + random.below(32) {
                bytes.extend(word(random, lender, task).to_le_bytes());
            }
        }
        Holds::Noise => {
            for _ in 0..random.below(32) {
                bytes.extend(random.next().to_le_bytes());
            }
        }
    }
    if random.below(12) == 0 {
        random.mutate(&mut bytes);
    }
    bytes
}

/// Calls whose arguments must fit together to get anywhere, one letter an argument; see [`argument`].
const SHAPES: &str = "
    read:FBL write:FBL open:PMM stat:PB fstat:FB lstat:PB poll:INn lseek:FLn ioctl:FWI pread64:FBLL pwrite64:FBLL readv:FVn writev:FVn access:Pn pipe:B
    select:nIIIT sendfile:FFIL socket:AQ0 connect:FSs accept:FBI sendto:FBLMSs recvfrom:FBLMBI sendmsg:FHM recvmsg:FHM shutdown:Fn bind:FSs listen:Fn
    getsockname:FBI getpeername:FBI socketpair:AQ0B setsockopt:FYnI4 getsockopt:FYnBI rt_sigaction:gIB8 rt_sigprocmask:nZB8 rt_sigpending:B8
    rt_sigtimedwait:ZBT8 rt_sigsuspend:Z8 kill:pg uname:B semget:nnM semop:nIn semctl:nnnI semtimedop:nInT shmget:nLM shmat:n00 shmctl:nnI msgget:nM
    msgsnd:nILM msgrcv:nBLnM msgctl:nnI fcntl:FnI flock:Fn truncate:PL ftruncate:FL getdents:FBL getdents64:FBL chdir:P rename:PP mkdir:PM rmdir:P
    creat:PM link:PP unlink:P symlink:PP readlink:PBL chmod:PM fchmod:FM chown:Pnn mknod:PMn statfs:PB setitimer:nTB getitimer:nB nanosleep:TB
    timer_create:nIB timer_settime:nnTB timer_gettime:nB timer_getoverrun:n timer_delete:n clock_gettime:nB clock_nanosleep:nnTB utimensat:DPTn mount:PPPMP umount2:Pn
    setxattr:PXBLn lsetxattr:PXBLn fsetxattr:FXBLn getxattr:PXBL lgetxattr:PXBL fgetxattr:FXBL listxattr:PBL flistxattr:FBL removexattr:PX fremovexattr:FX
    epoll_ctl:FnFI epoll_wait:FBnn epoll_pwait:FBnnZ8 epoll_pwait2:FBnTZ8 ppoll:InTZ8 pselect6:nIIIT0 futex:InnTIn
    mq_open:XMMI mq_unlink:X mq_timedsend:FBLnT mq_timedreceive:FBLBT mq_notify:FI mq_getsetattr:FIB inotify_add_watch:FPM inotify_rm_watch:Fn
    openat:DPMM mkdirat:DPM mknodat:DPMn fchownat:DPnnn newfstatat:DPBM unlinkat:DPM renameat:DPDP renameat2:DPDPn linkat:DPDPM symlinkat:PDP readlinkat:DPBL
    fchmodat:DPM faccessat:DPn faccessat2:DPnn statx:DPMMB splice:FIFILn tee:FFLn vmsplice:FVnn sync_file_range:FLLn fallocate:FnLL copy_file_range:FIFIL0
    signalfd:FZ8 signalfd4:FZ8M timerfd_settime:FnTB timerfd_gettime:FB eventfd2:nM accept4:FBIM dup3:FFM pipe2:BM preadv:FVnL pwritev:FVnL preadv2:FVnLLn pwritev2:FVnLLn
    recvmmsg:FHnMT sendmmsg:FHnM prlimit64:pnIB process_vm_readv:pVnVn0 process_vm_writev:pVnVn0 sched_setattr:pI0 sched_getattr:pBLn seccomp:n0G prctl:nWWWW
    rt_sigqueueinfo:pgI rt_tgsigqueueinfo:ppgI tgkill:ppg tkill:pg pidfd_open:pM pidfd_send_signal:Fg00 waitid:npBnB wait4:pBnB getrusage:nB sigaltstack:IB
    openat2:DPWk close_range:nnn memfd_create:XM get_robust_list:pBB set_robust_list:Bk setgroups:nI setresuid:nnn setresgid:nnn capset:II capget:IB
    sched_setaffinity:pkI sched_getaffinity:pLB quotactl:nPnB kcmp:ppnnn setns:Fn unshare:M pidfd_getfd:FFn mincore:BLB fchdir:F
";

/// One argument of a kind that a letter of [`SHAPES`] names.
fn argument(random: &mut Random, lender: &Lender, task: &Task, kind: char) -> u64 {
    match kind {
        'P' => lender.holding(random, Holds::Path),
        'X' => lender.holding(random, Holds::ExtendedAttributeName),
        'S' => lender.holding(random, Holds::SocketAddress),
        'V' => lender.holding(random, Holds::Vectors),
        'H' => lender.holding(random, Holds::Message),
        'T' if random.below(6) != 0 => lender.holding(random, Holds::Time),
        'T' | '0' => 0,
        'Z' => lender.holding(random, Holds::SignalSet),
        'I' => lender.holding(random, Holds::Numbers),
        'G' => lender.holding(random, Holds::Filter),
        'B' => lender.holding(random, Holds::Noise),
        'F' => random.below(34) as u64,
        'D' => *random.pick(&[0xffff_ff9c, 0xffff_ff9c, 1, 5]),
        'A' => *random.pick(&[1, 2, 10, 16]),
        'Q' => *random.pick(&[1, 2, 3, 5, 0x801, 0x80802]),
        'Y' => *random.pick(&[0, 1, 6, 17, 41, 270]),
        's' => *random.pick(&[2, 10, 12, 16, 28, 110]),
        'L' => *random.pick(&[0, 1, 7, 100, 1000, 4000, 4096, 65536]),
        'M' => *random.pick(&[
            0, 0, 0o644, 0o755, 0o100, 0o102, 0o1777, 0o2000, 0o4000, 0o2000000, 1, 2, 0x100, 0x200, 0x1000, 0o100644, 0o10644,
            0o20666, 0o3700,
        ]),
        'p' => *random.pick(&[0, 1, task.process().pid() as u64, task.process().pid() as u64, u64::MAX]),
        'g' => random.below(66) as u64,
        'n' => random.below(12) as u64,
        'k' => *random.pick(&[8, 16, 24, 64, 88]),
        '4' => *random.pick(&[4, 8, 16]),
        '8' => 8,
        _ => word(random, lender, task),
    }
}

/// Descriptors of many kinds, so that numbers below 28 mean something.
fn open_files(task: &Arc<Task>, memory: &GuestMemory, lender: &Lender) {
    let call = |number: u32, arguments: [u64; 6]| {
        let mut context = Context::new(task, &NoLead, Call { number: number.into(), arguments, ..Call::default() });
        super::dispatch(&mut context)
    };
    let at = lender.start;
    for (path, flags) in [
        (&b"/f\0"[..], linux::O_RDWR),
        (b"/d\0", linux::O_DIRECTORY),
        (b"/dev/ptmx\0", linux::O_RDWR),
        (b"/dev/zero\0", linux::O_RDWR),
        (b"/proc/self/maps\0", 0),
        (b"/tmp/log\0", linux::O_RDWR | linux::O_CREAT | linux::O_APPEND),
        (b"/f\0", linux::O_PATH),
        (b"/proc/self/mem\0", linux::O_RDWR),
        (b"/sys\0", linux::O_DIRECTORY),
    ] {
        memory.write(at, path);
        let _ = call(linux::__NR_open, [at, flags.into(), 0o600, 0, 0, 0]);
    }
    let _ = call(linux::__NR_pipe2, [at, 0, 0, 0, 0, 0]);
    for (family, kind, protocol) in
        [(2, 1, 0), (2, 2, 0), (10, 1, 0), (10, 2, 0), (16, 3, 0), (16, 3, 4), (16, 2, 15), (1, 1, 0)]
    {
        let _ = call(linux::__NR_socket, [family, kind, protocol, 0, 0, 0]);
    }
    let _ = call(linux::__NR_socketpair, [1, 5, 0, at, 0, 0]);
    let _ = call(linux::__NR_eventfd2, [3, 0, 0, 0, 0, 0]);
    let _ = call(linux::__NR_epoll_create1, [0; 6]);
    let _ = call(linux::__NR_timerfd_create, [1, 0, 0, 0, 0, 0]);
    let _ = call(linux::__NR_inotify_init1, [0; 6]);
}

/// Interrupts the sleeps of whoever is in a call.
struct Interrupter {
    task: Mutex<Option<Arc<Task>>>,
    /// Counts calls: the same number with the same task for long is a hang.
    count: AtomicU64,
    done: AtomicBool,
}

impl Interrupter {
    fn run(&self, what: &Mutex<String>) {
        let (mut last, mut since) = (0, Instant::now());
        while !self.done.load(Ordering::Acquire) {
            std::thread::sleep(Duration::from_millis(3));
            let task = self.task.lock().clone();
            let count = self.count.load(Ordering::Acquire);
            if count != last || task.is_none() {
                (last, since) = (count, Instant::now());
                continue;
            }
            if let Some(task) = task {
                task.interrupted.store(true, Ordering::Release);
                crate::sync::Wake::wake(&*task.waiter());
            }
            if since.elapsed() > HANGS {
                eprintln!("hangs: {}", what.lock());
                std::process::abort();
            }
        }
    }
}

/// Makes calls until time is up; returns the panics, each place once.
fn run(random: &mut Random) -> Vec<String> {
    let lender = Lender::new();
    let memory = Arc::new(GuestMemory::of_pid(lender.child.id() as i32));
    assert_eq!(memory.write(lender.start, b"x"), 1, "the helper process's memory cannot be written");
    let unmapped = Arc::new(GuestMemory::none());
    let kernel = kernel();
    let numbers: Vec<u64> = super::table::ROWS
        .iter()
        .map(|row| row.number)
        .filter(|number| SKIPPED.iter().all(|(skipped, _)| skipped != number))
        .collect();
    let by_name = |name: &str| super::table::ROWS.iter().find(|row| row.name == name).map(|row| row.number);
    let shapes: std::collections::HashMap<u64, &str> = SHAPES
        .split_ascii_whitespace()
        .filter_map(|entry| entry.split_once(':'))
        .map(|(name, shape)| (by_name(name).unwrap_or_else(|| panic!("no call is named {name}")), shape))
        .collect();
    let interrupter = Interrupter { task: Mutex::new(None), count: AtomicU64::new(0), done: AtomicBool::new(false) };
    let what = Mutex::new(String::new());
    let mut panics: Vec<String> = Vec::new();
    let mut made = 0u64;
    let mut succeeded: Vec<u64> = Vec::new();
    std::thread::scope(|scope| {
        scope.spawn(|| interrupter.run(&what));
        while random.is_time_left() {
            // Mostly root, which is stopped by fewest checks; now and then memory that is not there.
            let uid = if random.below(4) == 0 { 1000 } else { 0 };
            let has_memory = random.below(16) != 0;
            let task = new_process(&kernel, if has_memory { &memory } else { &unmapped }, uid);
            open_files(&task, &memory, &lender);
            for slot in 0..lender.slots() {
                memory.write(lender.start + SLOT * slot as u64, &content(random, &lender, &task, HOLDS[slot % HOLDS.len()]));
            }
            for _ in 0..CALLS_PER_PROCESS {
                if !random.is_time_left() || task.is_gone() || task.process().signals.lock().group_exit.is_some() {
                    break;
                }
                for _ in 0..4 {
                    let slot = random.below(lender.slots());
                    memory
                        .write(lender.start + SLOT * slot as u64, &content(random, &lender, &task, HOLDS[slot % HOLDS.len()]));
                }
                let number = if random.below(200) == 0 { random.next() } else { *random.pick(&numbers) };
                let mut arguments = [0; 6];
                let shape = shapes.get(&number).filter(|_| random.below(4) != 0).copied().unwrap_or_default();
                let mut kinds = shape.chars().chain(std::iter::repeat('W'));
                arguments.fill_with(|| {
                    let kind = if random.below(16) == 0 { 'W' } else { kinds.next().unwrap_or('W') };
                    argument(random, &lender, &task, kind)
                });
                if SKIPPED.iter().any(|(skipped, _)| *skipped == number) {
                    continue;
                }
                if number == u64::from(linux::__NR_clone) {
                    arguments[0] &= !u64::from(linux::CLONE_VFORK);
                }
                let name = super::table::find(number).map_or("?", |row| row.name);
                *what.lock() = format!("{name} ({number}) {arguments:x?}");
                *interrupter.task.lock() = Some(task.clone());
                interrupter.count.fetch_add(1, Ordering::AcqRel);
                let outcome = catch_unwind(AssertUnwindSafe(|| {
                    let call = Call {
                        number,
                        arguments,
                        instruction_pointer: 0x1000,
                        stack_pointer: lender.start + lender.length - 512,
                    };
                    let mut context = Context::new(&task, &NoLead, call);
                    let result = super::dispatch(&mut context);
                    if let Err(Errno(number)) = result {
                        assert!((1..=4095).contains(&number), "errno {number}");
                    }
                    result.is_ok()
                }));
                *interrupter.task.lock() = None;
                task.interrupted.store(false, Ordering::Release);
                made += 1;
                if matches!(outcome, Ok(true)) && !succeeded.contains(&number) {
                    succeeded.push(number);
                }
                if let Err(panic) = outcome {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| text.to_string())).unwrap_or_default();
                    let entry = format!("{}: {text}", what.lock());
                    if panics.iter().all(|known| !known.ends_with(&text) || !known.starts_with(name)) {
                        panics.push(entry);
                    }
                }
            }
            end_all(&kernel);
        }
        interrupter.done.store(true, Ordering::Release);
    });
    println!("{made} calls; never successful: {}", never(&numbers, &succeeded));
    panics
}

fn never(numbers: &[u64], succeeded: &[u64]) -> String {
    let names = numbers.iter().filter(|number| !succeeded.contains(number)).filter_map(|number| super::table::find(*number));
    names.map(|row| row.name).collect::<Vec<_>>().join(" ")
}

/// All processes go, with their descriptors and those that clone(2) made of them.
fn end_all(kernel: &Arc<Kernel>) {
    for process in kernel.pids.processes() {
        let threads = process.threads.lock().clone();
        for task in threads {
            for file in task.files().take_all() {
                crate::fs::close::closed(&process, file);
            }
            task::discard_clone(&task);
        }
    }
}

#[test]
fn no_call_panics_or_hangs() {
    let mut random = Random::new(1);
    let panics = run(&mut random);
    assert!(panics.is_empty(), "{} places:\n{}", panics.len(), panics.join("\n"));
}
