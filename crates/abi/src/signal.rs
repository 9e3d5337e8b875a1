//! Signals: numbers, sets, and the structures of sigaction(2), sigaltstack(2) and siginfo (all for x86-64).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// A signal number, 1 to 64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Signal(u8);

macro_rules! signals {
    ($($name:ident = $number:literal),* $(,)?) => {
        impl Signal {
            $(pub const $name: Signal = Signal($number);)*

            pub fn name(self) -> &'static str {
                match self.0 {
                    $($number => stringify!($name),)*
                    _ => "SIGRT",
                }
            }
        }
    };
}

signals! {
    SIGHUP = 1, SIGINT = 2, SIGQUIT = 3, SIGILL = 4, SIGTRAP = 5, SIGABRT = 6, SIGBUS = 7, SIGFPE = 8, SIGKILL = 9,
    SIGUSR1 = 10, SIGSEGV = 11, SIGUSR2 = 12, SIGPIPE = 13, SIGALRM = 14, SIGTERM = 15, SIGSTKFLT = 16, SIGCHLD = 17,
    SIGCONT = 18, SIGSTOP = 19, SIGTSTP = 20, SIGTTIN = 21, SIGTTOU = 22, SIGURG = 23, SIGXCPU = 24, SIGXFSZ = 25,
    SIGVTALRM = 26, SIGPROF = 27, SIGWINCH = 28, SIGIO = 29, SIGPWR = 30, SIGSYS = 31,
}

impl Signal {
    /// `None` for 0 and for anything over 64.
    pub fn new(number: i32) -> Option<Signal> {
        (1..=64).contains(&number).then_some(Signal(number as u8))
    }

    pub fn number(self) -> i32 {
        self.0.into()
    }

    pub fn is_realtime(self) -> bool {
        self.0 >= 32
    }
}

/// A set of signals: bit N-1 stands for signal N (sigset_t as the kernel has it, 8 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct SignalSet(pub u64);

impl core::fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SignalSet({:#x})", self.0)
    }
}

impl SignalSet {
    pub const EMPTY: SignalSet = SignalSet(0);
    pub const FULL: SignalSet = SignalSet(!0);
    /// SIGKILL and SIGSTOP, which cannot be blocked (signal(7)).
    pub const UNBLOCKABLE: SignalSet = SignalSet(1 << 8 | 1 << 18);

    pub fn single(signal: Signal) -> SignalSet {
        SignalSet(1 << (signal.0 - 1))
    }
    pub fn contains(self, signal: Signal) -> bool {
        self.0 & (1 << (signal.0 - 1)) != 0
    }
    pub fn insert(&mut self, signal: Signal) {
        self.0 |= 1 << (signal.0 - 1);
    }
    pub fn remove(&mut self, signal: Signal) {
        self.0 &= !(1 << (signal.0 - 1));
    }
    pub fn union(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 | other.0)
    }
    pub fn intersection(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & other.0)
    }
    pub fn difference(self, other: SignalSet) -> SignalSet {
        SignalSet(self.0 & !other.0)
    }
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
    pub fn first(self) -> Option<Signal> {
        (self.0 != 0).then(|| Signal(self.0.trailing_zeros() as u8 + 1))
    }
}

/// `struct sigaction` as rt_sigaction(2) takes it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SigAction {
    pub handler: u64,
    pub flags: u64,
    pub restorer: u64,
    pub mask: SignalSet,
}

impl SigAction {
    /// As a process begins with it.
    pub fn is_initial(&self) -> bool {
        self.handler == 0 && self.flags == 0 && self.restorer == 0 && self.mask.0 == 0
    }
}

pub const SIG_DFL: u64 = 0;
pub const SIG_IGN: u64 = 1;
pub const SA_NOCLDSTOP: u64 = 1;
pub const SA_NOCLDWAIT: u64 = 2;
pub const SA_SIGINFO: u64 = 4;
pub const SA_RESTORER: u64 = 0x0400_0000;
pub const SA_ONSTACK: u64 = 0x0800_0000;
pub const SA_RESTART: u64 = 0x1000_0000;
pub const SA_NODEFER: u64 = 0x4000_0000;
pub const SA_RESETHAND: u64 = 0x8000_0000;

/// `stack_t` (sigaltstack(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalStack {
    pub base: u64,
    pub flags: i32,
    pub _padding: u32,
    pub size: u64,
}

pub const SS_ONSTACK: i32 = 1;
pub const SS_DISABLE: i32 = 2;
pub const SS_AUTODISARM: i32 = 1 << 31;

/// `siginfo_t`: 128 bytes; the union is kept as bytes and filled by the constructors.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct SignalInfo {
    pub signo: i32,
    pub errno: i32,
    pub code: i32,
    pub _padding: i32,
    pub fields: [u64; 14],
}

pub const SI_USER: i32 = 0;
pub const SI_KERNEL: i32 = 0x80;
pub const SI_QUEUE: i32 = -1;
pub const SI_TIMER: i32 = -2;
pub const SI_MESGQ: i32 = -3;
pub const SI_ASYNCIO: i32 = -4;
pub const SI_SIGIO: i32 = -5;
pub const SI_TKILL: i32 = -6;
pub const CLD_EXITED: i32 = 1;
pub const CLD_KILLED: i32 = 2;
pub const CLD_DUMPED: i32 = 3;
pub const CLD_TRAPPED: i32 = 4;
pub const CLD_STOPPED: i32 = 5;
pub const CLD_CONTINUED: i32 = 6;

impl SignalInfo {
    fn new(signal: Signal, code: i32) -> SignalInfo {
        SignalInfo { signo: signal.number(), errno: 0, code, _padding: 0, fields: [0; 14] }
    }

    /// Sent by the kernel itself (SI_KERNEL), with no sender.
    pub fn kernel(signal: Signal) -> SignalInfo {
        SignalInfo::new(signal, SI_KERNEL)
    }

    /// Sent by kill(2) (SI_USER) or tgkill(2) (SI_TKILL): the sender's pid and real uid.
    pub fn user(signal: Signal, code: i32, pid: i32, uid: u32) -> SignalInfo {
        let mut info = SignalInfo::new(signal, code);
        info.fields[0] = (pid as u32 as u64) | (uid as u64) << 32;
        info
    }

    /// Sent by sigqueue(3): as [`SignalInfo::user`], with a value.
    pub fn queue(signal: Signal, code: i32, pid: i32, uid: u32, value: u64) -> SignalInfo {
        let mut info = SignalInfo::user(signal, code, pid, uid);
        info.fields[1] = value;
        info
    }

    /// A child's change of state; `status` is the exit status or the signal, times in clock ticks.
    pub fn child(code: i32, pid: i32, uid: u32, status: i32, user_ticks: i64, system_ticks: i64) -> SignalInfo {
        let mut info = SignalInfo::user(Signal::SIGCHLD, code, pid, uid);
        info.fields[1] = status as u32 as u64;
        info.fields[2] = user_ticks as u64;
        info.fields[3] = system_ticks as u64;
        info
    }

    /// A hardware fault at `address`.
    pub fn fault(signal: Signal, code: i32, address: u64) -> SignalInfo {
        let mut info = SignalInfo::new(signal, code);
        info.fields[0] = address;
        info
    }

    /// A timer's expiry (timer_create(2)).
    pub fn timer(signal: Signal, timer_id: i32, overrun: i32, value: u64) -> SignalInfo {
        let mut info = SignalInfo::new(signal, SI_TIMER);
        info.fields[0] = (timer_id as u32 as u64) | (overrun as u32 as u64) << 32;
        info.fields[1] = value;
        info
    }

    /// I/O is possible (SIGIO with F_SETSIG, fcntl(2)).
    pub fn io(signal: Signal, band: i64, fd: i32) -> SignalInfo {
        let mut info = SignalInfo::new(signal, SI_SIGIO);
        info.fields[0] = band as u64;
        info.fields[1] = fd as u32 as u64;
        info
    }

    pub fn signal(&self) -> Option<Signal> {
        Signal::new(self.signo)
    }
}
