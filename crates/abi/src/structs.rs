//! Structures that cross the border as bytes. Field names follow the man pages.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

macro_rules! abi_struct {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        pub struct $name { $($(#[$fdoc])* pub $field: $type),* }
    };
}

abi_struct! {
    /// `struct timespec` (timespec(3type)).
    TimeSpec { sec: i64, nsec: i64 }
}
abi_struct! {
    /// `struct timeval`.
    TimeVal { sec: i64, usec: i64 }
}
abi_struct! {
    /// `struct itimerspec` (timer_settime(2)).
    ITimerSpec { interval: TimeSpec, value: TimeSpec }
}
abi_struct! {
    /// `struct itimerval` (setitimer(2)).
    ITimerVal { interval: TimeVal, value: TimeVal }
}
abi_struct! {
    /// `struct stat` (stat(2)), 144 bytes.
    Stat {
        dev: u64, ino: u64, nlink: u64, mode: u32, uid: u32, gid: u32, _pad0: u32, rdev: u64, size: i64, blksize: i64,
        blocks: i64, atime: TimeSpec, mtime: TimeSpec, ctime: TimeSpec, _unused: [i64; 3],
    }
}
abi_struct! {
    /// `struct statfs` (statfs(2)), 120 bytes.
    StatFs {
        kind: i64, bsize: i64, blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64, fsid: [i32; 2],
        namelen: i64, frsize: i64, flags: i64, spare: [i64; 4],
    }
}
abi_struct! {
    /// `struct iovec` (readv(2)).
    IoVec { base: u64, len: u64 }
}
abi_struct! {
    /// `struct rlimit64` (prlimit(2)).
    RLimit { current: u64, maximum: u64 }
}
abi_struct! {
    /// `struct rusage` (getrusage(2)), 144 bytes.
    RUsage {
        utime: TimeVal, stime: TimeVal, maxrss: i64, ixrss: i64, idrss: i64, isrss: i64, minflt: i64, majflt: i64,
        nswap: i64, inblock: i64, oublock: i64, msgsnd: i64, msgrcv: i64, nsignals: i64, nvcsw: i64, nivcsw: i64,
    }
}
abi_struct! {
    /// `struct pollfd` (poll(2)).
    PollFd { fd: i32, events: i16, revents: i16 }
}
abi_struct! {
    /// `struct msghdr` as the kernel takes it (recvmsg(2)), 56 bytes.
    MsgHdr { name: u64, namelen: u32, _pad0: u32, iov: u64, iovlen: u64, control: u64, controllen: u64, flags: u32, _pad1: u32 }
}

abi_struct! {
    /// `struct statx_timestamp`.
    StatXTimestamp { sec: i64, nsec: u32, _reserved: i32 }
}
abi_struct! {
    /// `struct statx` (statx(2)), 256 bytes.
    StatX {
        mask: u32, blksize: u32, attributes: u64, nlink: u32, uid: u32, gid: u32, mode: u16, _pad0: u16, ino: u64,
        size: u64, blocks: u64, attributes_mask: u64, atime: StatXTimestamp, btime: StatXTimestamp, ctime: StatXTimestamp,
        mtime: StatXTimestamp, rdev_major: u32, rdev_minor: u32, dev_major: u32, dev_minor: u32, mnt_id: u64,
        dio_mem_align: u32, dio_offset_align: u32, _spare: [u64; 12],
    }
}

impl TimeSpec {
    pub const fn from_nanos(nanos: u64) -> TimeSpec {
        TimeSpec { sec: (nanos / 1_000_000_000) as i64, nsec: (nanos % 1_000_000_000) as i64 }
    }

    /// Nanoseconds, saturating; `None` where the value is not a valid time (EINVAL).
    pub fn to_nanos(self) -> Option<u64> {
        if self.sec < 0 || !(0..1_000_000_000).contains(&self.nsec) {
            return None;
        }
        Some((self.sec as u64).saturating_mul(1_000_000_000).saturating_add(self.nsec as u64))
    }
}

impl TimeVal {
    pub const fn from_nanos(nanos: u64) -> TimeVal {
        TimeVal { sec: (nanos / 1_000_000_000) as i64, usec: (nanos % 1_000_000_000 / 1000) as i64 }
    }

    /// Nanoseconds, saturating; `None` where the value is not a valid time (EINVAL).
    pub fn to_nanos(self) -> Option<u64> {
        if self.sec < 0 || !(0..1_000_000).contains(&self.usec) {
            return None;
        }
        Some((self.sec as u64).saturating_mul(1_000_000_000).saturating_add(self.usec as u64 * 1000))
    }
}

/// `struct epoll_event` (epoll_ctl(2)): packed, 12 bytes.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C, packed)]
pub struct EpollEvent {
    pub events: u32,
    pub data: u64,
}
