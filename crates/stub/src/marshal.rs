//! Small inputs and results travel in the channel: before a call is handed over, what its arguments point to is copied
//! there ([`gather`]), and what the sentry has laid there is copied out behind it ([`apply`]). Neither side has to reach
//! into the other's memory then, which takes the host a microsecond each time.
//!
//! It is a short cut and nothing else: what is not marshalled (too large, of a rarer call, not readable) the sentry reads
//! and writes where it is, and finds EFAULT there itself. Results go this way only into memory that could be written when
//! the call began, so that [`apply`] can fail only where the guest takes the memory away during its own call.

use crate::host::{self, PAGE};
use crate::layout::marshal::{size, AREA, BYTES, HEADER, LENGTH, LIMIT, WRITABLE};
use crate::thread::ThreadBlock;

const EFAULT: i64 = -14;
/// Nothing is mapped below: null, and numbers that some calls take where others have addresses.
const LOWEST: u64 = 0x1_0000;
/// Pieces of a scattered transfer; with more, nothing of it is marshalled.
const VECTORS: u64 = 8;

/// What an argument points to: a size, or how it is found, and whether the call reads it, fills it in, or both.
type Shape = u16;

const SIZE: Shape = 0x3ff;
const READ: Shape = 1 << 10;
const WRITE: Shape = 1 << 11;
const KIND: Shape = 7 << 12;
/// As many of the size as the next argument says.
const TIMES_NEXT: Shape = 1 << 12;
/// A zero-terminated string.
const STRING: Shape = 2 << 12;
/// An array of `struct iovec`, as long as the next argument says, and what that points to.
const PIECES: Shape = 3 << 12;
/// A `struct msghdr` and what it points to.
const MESSAGE: Shape = 4 << 12;
/// A set of as many descriptors as the first argument says.
const SET: Shape = 5 << 12;

const NONE: Shape = 0;
const PATH: Shape = STRING | READ;
/// Bytes by the next argument's length: data, an address of a socket, an array.
const DATA_IN: Shape = TIMES_NEXT | READ | 1;
const DATA_OUT: Shape = TIMES_NEXT | WRITE | 1;

const fn input(size: Shape) -> Shape {
    READ | size
}
const fn output(size: Shape) -> Shape {
    WRITE | size
}
const fn both(size: Shape) -> Shape {
    READ | WRITE | size
}

// Sizes of structures.
const STAT: Shape = output(144);
const TIME_IN: Shape = input(16);
const TIME_OUT: Shape = output(16);
const SIGNAL_SET: Shape = input(8);
const USAGE: Shape = output(144);
const POLL: Shape = TIMES_NEXT | both(8);
const EVENTS: Shape = TIMES_NEXT | output(12);
/// sizeof(struct sockaddr_storage), and its length.
const ADDRESS_OUT: Shape = output(128);
const ADDRESS_LENGTH: Shape = both(4);

const CALLS: usize = 442;

static SHAPES: [[Shape; 6]; CALLS] = {
    let mut all = [[NONE; 6]; CALLS];
    let mut number = 0;
    while number < CALLS {
        all[number] = shapes(number);
        number += 1;
    }
    all
};

/// What the arguments of the call `number` point to.
const fn shapes(number: usize) -> [Shape; 6] {
    const X: Shape = NONE;
    match number {
        // read, pread64
        0 | 17 => [X, DATA_OUT, X, X, X, X],
        // write, pwrite64
        1 | 18 => [X, DATA_IN, X, X, X, X],
        // readv, preadv, preadv2
        19 | 295 | 327 => [X, PIECES | WRITE, X, X, X, X],
        // writev, pwritev, pwritev2
        20 | 296 | 328 => [X, PIECES | READ, X, X, X, X],
        // open, access, chdir, mkdir, rmdir, creat, unlink, chmod, chown, lchown, truncate, mknod, chroot, execve
        2 | 21 | 80 | 83 | 84 | 85 | 87 | 90 | 92 | 94 | 76 | 133 | 161 | 59 => [PATH, X, X, X, X, X],
        // stat, lstat
        4 | 6 => [PATH, STAT, X, X, X, X],
        // fstat
        5 => [X, STAT, X, X, X, X],
        // poll
        7 => [POLL, X, X, X, X, X],
        // rt_sigaction
        13 => [X, input(32), output(32), X, X, X],
        // rt_sigprocmask
        14 => [X, SIGNAL_SET, output(8), X, X, X],
        // ioctl: what the small structures of terminals and sockets fit into
        16 => [X, X, both(64), X, X, X],
        // pipe, pipe2
        22 | 293 => [output(8), X, X, X, X, X],
        // select
        23 => [X, SET | both(0), SET | both(0), SET | both(0), both(16), X],
        // pselect6
        270 => [X, SET | both(0), SET | both(0), SET | both(0), both(16), input(16)],
        // nanosleep
        35 => [TIME_IN, TIME_OUT, X, X, X, X],
        // getitimer, setitimer
        36 => [X, output(32), X, X, X, X],
        38 => [X, input(32), output(32), X, X, X],
        // connect, bind
        42 | 49 => [X, DATA_IN, X, X, X, X],
        // accept, getsockname, getpeername, accept4
        43 | 51 | 52 | 288 => [X, ADDRESS_OUT, ADDRESS_LENGTH, X, X, X],
        // sendto
        44 => [X, DATA_IN, X, X, DATA_IN, X],
        // recvfrom
        45 => [X, DATA_OUT, X, X, ADDRESS_OUT, ADDRESS_LENGTH],
        // sendmsg
        46 => [X, MESSAGE | READ, X, X, X, X],
        // recvmsg
        47 => [X, MESSAGE | WRITE, X, X, X, X],
        // socketpair
        53 => [X, X, X, output(8), X, X],
        // setsockopt, getsockopt
        54 => [X, X, X, DATA_IN, X, X],
        55 => [X, X, X, output(64), ADDRESS_LENGTH, X],
        // wait4, waitid
        61 => [X, output(4), X, USAGE, X, X],
        247 => [X, X, output(28), X, USAGE, X],
        // uname
        63 => [output(390), X, X, X, X, X],
        // getdents, getdents64
        78 | 217 => [X, DATA_OUT, X, X, X, X],
        // getcwd
        79 => [DATA_OUT, X, X, X, X, X],
        // rename, link, symlink
        82 | 86 | 88 => [PATH, PATH, X, X, X, X],
        // readlink
        89 => [PATH, DATA_OUT, X, X, X, X],
        // gettimeofday
        96 => [TIME_OUT, output(8), X, X, X, X],
        // getrlimit, clock_gettime, clock_getres
        97 | 228 | 229 => [X, TIME_OUT, X, X, X, X],
        // getrusage
        98 => [X, USAGE, X, X, X, X],
        // sysinfo, times
        99 => [output(112), X, X, X, X, X],
        100 => [output(32), X, X, X, X, X],
        // getresuid, getresgid
        118 | 120 => [output(4), output(4), output(4), X, X, X],
        // rt_sigpending, rt_sigsuspend
        127 => [output(8), X, X, X, X, X],
        130 => [SIGNAL_SET, X, X, X, X, X],
        // rt_sigtimedwait
        128 => [SIGNAL_SET, output(128), TIME_IN, X, X, X],
        // sigaltstack
        131 => [input(24), output(24), X, X, X, X],
        // utime, utimes
        132 => [PATH, input(16), X, X, X, X],
        235 => [PATH, input(32), X, X, X, X],
        // statfs, fstatfs
        137 => [PATH, output(120), X, X, X, X],
        138 => [X, output(120), X, X, X, X],
        // setrlimit
        160 => [X, TIME_IN, X, X, X, X],
        // setxattr, lsetxattr
        188 | 189 => [PATH, PATH, DATA_IN, X, X, X],
        // getxattr, lgetxattr, fgetxattr
        191 | 192 => [PATH, PATH, DATA_OUT, X, X, X],
        193 => [X, PATH, DATA_OUT, X, X, X],
        // listxattr, llistxattr
        194 | 195 => [PATH, DATA_OUT, X, X, X, X],
        // clock_nanosleep
        230 => [X, X, TIME_IN, TIME_OUT, X, X],
        // epoll_wait, epoll_ctl, epoll_pwait, epoll_pwait2
        232 => [X, EVENTS, X, X, X, X],
        233 => [X, X, X, input(12), X, X],
        281 => [X, EVENTS, X, X, SIGNAL_SET, X],
        441 => [X, EVENTS, X, TIME_IN, SIGNAL_SET, X],
        // openat, mkdirat, mknodat, fchownat, unlinkat, fchmodat, faccessat, faccessat2, inotify_add_watch
        257 | 258 | 259 | 260 | 263 | 268 | 269 | 439 | 254 => [X, PATH, X, X, X, X],
        // newfstatat
        262 => [X, PATH, STAT, X, X, X],
        // renameat, linkat, renameat2
        264 | 265 | 316 => [X, PATH, X, PATH, X, X],
        // symlinkat
        266 => [PATH, X, PATH, X, X, X],
        // readlinkat
        267 => [X, PATH, DATA_OUT, X, X, X],
        // ppoll
        271 => [POLL, X, both(16), SIGNAL_SET, X, X],
        // utimensat
        280 => [X, PATH, input(32), X, X, X],
        // timerfd_settime, timerfd_gettime
        286 => [X, X, input(32), output(32), X, X],
        287 => [X, output(32), X, X, X, X],
        // prlimit64
        302 => [X, X, TIME_IN, TIME_OUT, X, X],
        // getrandom
        318 => [DATA_OUT, X, X, X, X, X],
        // memfd_create
        319 => [PATH, X, X, X, X, X],
        // statx
        332 => [X, PATH, X, X, output(256), X],
        // clone3
        435 => [DATA_IN, X, X, X, X, X],
        // openat2
        437 => [X, PATH, input(24), X, X, X],
        _ => [X; 6],
    }
}

/// Copies what the call's arguments point to into the channel, as far as it is small. Returns how much of the area that
/// takes up.
#[link_section = ".calls"]
pub fn gather(thread: &ThreadBlock, number: u64, arguments: &[u64; 6]) -> u32 {
    let Some(shapes) = SHAPES.get(number as usize) else { return 0 };
    let mut area = Area::of(thread);
    for (index, &shape) in shapes.iter().enumerate() {
        let address = arguments[index];
        if shape == NONE || address < LOWEST {
            continue;
        }
        let next = arguments.get(index + 1).copied().unwrap_or(0);
        let size = u64::from(shape & SIZE);
        match shape & KIND {
            TIMES_NEXT => area.add(address, next.saturating_mul(size), shape),
            STRING => area.add_string(address),
            PIECES => area.add_pieces(address, next, shape),
            MESSAGE => area.add_message(address, shape),
            // Descriptors are in words of 64.
            SET => area.add(address, (arguments[0] & 0xffff_ffff).div_ceil(64) * 8, shape),
            _ => area.add(address, size, shape),
        }
    }
    area.used as u32
}

/// Copies the first `length` bytes of records in the channel to where they belong. EFAULT at a fault.
pub fn apply(thread: &ThreadBlock, length: u32) -> Result<(), i64> {
    let area = Area::of(thread);
    let length = (length as usize).min(AREA);
    area.fetch(length);
    let mut at = 0;
    while at + HEADER <= length {
        let [address, head] = area.header(at);
        let bytes = (head & LENGTH).min(AREA as u64) as usize;
        if at + size(bytes) > length {
            break;
        }
        if !host::copy(address, area.start + (at + HEADER) as u64, bytes as u64) {
            return Err(EFAULT);
        }
        at += size(bytes);
    }
    Ok(())
}

/// The area of a thread's channel, as far as it is in use.
struct Area {
    start: u64,
    used: usize,
}

impl Area {
    fn of(thread: &ThreadBlock) -> Area {
        // SAFETY: the channel is mapped as long as the thread lives; only an address is made.
        Area { start: unsafe { &raw mut (*thread.channel()).area as u64 }, used: 0 }
    }

    fn header(&self, at: usize) -> [u64; 2] {
        // SAFETY: within the area, as the callers have checked, and aligned.
        unsafe { core::ptr::read_volatile((self.start + at as u64) as *const [u64; 2]) }
    }

    /// Has the first `length` bytes fetched from the CPU that wrote them, all at once.
    #[inline(always)]
    fn fetch(&self, length: usize) {
        for at in (0..length).step_by(64) {
            // SAFETY: a hint, at an address within the area.
            unsafe { core::arch::asm!("prefetcht0 [{}]", in(reg) self.start + at as u64, options(nostack, preserves_flags)) };
        }
    }

    /// Where the bytes of the next record go, if there is room for so many.
    fn room(&self, bytes: usize) -> Option<u64> {
        (self.used + size(bytes) <= AREA).then_some(self.start + (self.used + HEADER) as u64)
    }

    /// Ends a record whose bytes, if it has any, are in their place.
    fn close(&mut self, address: u64, length: u64, flags: u64) {
        // SAFETY: within the area, where `room` has found it, and aligned.
        unsafe { core::ptr::write_volatile((self.start + self.used as u64) as *mut [u64; 2], [address, length | flags]) };
        self.used += size(if flags & BYTES != 0 { length as usize } else { 0 });
    }

    fn add(&mut self, address: u64, length: u64, shape: Shape) {
        if length == 0 || address < LOWEST {
            return;
        }
        // Of a large buffer, the sentry may have little to say.
        let length = if shape & READ == 0 { length.min(LIMIT as u64) } else { length };
        if length > LIMIT as u64 {
            return;
        }
        let mut flags = 0;
        if shape & READ != 0 {
            let Some(place) = self.room(length as usize) else { return };
            if !host::copy(place, address, length) {
                return;
            }
            flags |= BYTES;
        } else if self.room(0).is_none() {
            return;
        }
        if shape & WRITE != 0 && is_writable(address, length) {
            flags |= WRITABLE;
        }
        if flags != 0 {
            self.close(address, length, flags);
        }
    }

    fn add_string(&mut self, address: u64) {
        let room = AREA.saturating_sub(self.used + HEADER).min(LIMIT);
        let Some(place) = self.room(room) else { return };
        let length = host::copy_string(place, address, room as u64);
        if length > 0 {
            self.close(address, length, BYTES);
        }
    }

    fn add_pieces(&mut self, address: u64, count: u64, shape: Shape) {
        let at = self.used;
        if count > VECTORS {
            return;
        }
        self.add(address, count * 16, READ);
        if self.used == at {
            return;
        }
        for index in 0..count as usize {
            let [base, length] = self.header(at + HEADER + index * 16);
            self.add(base, length, shape);
        }
    }

    /// `shape` says which way the data goes; sizes are told back by recvmsg(2) only.
    fn add_message(&mut self, address: u64, shape: Shape) {
        const MSGHDR: u64 = 56;
        let at = self.used;
        self.add(address, MSGHDR, READ | shape);
        if self.used == at {
            return;
        }
        // SAFETY: within the area: the structure has just been copied there.
        let [name, name_length, vectors, count, control, control_length, _] =
            unsafe { core::ptr::read_volatile((self.start + (at + HEADER) as u64) as *const [u64; 7]) };
        self.add(name, (name_length & 0xffff_ffff).min(128), shape);
        self.add_pieces(vectors, count, shape);
        self.add(control, control_length, shape);
    }
}

/// Whether every page of the range can be written.
pub fn is_writable(address: u64, length: u64) -> bool {
    let Some(last) = address.checked_add(length - 1) else { return false };
    let mut at = address;
    loop {
        if !host::is_writable(at) {
            return false;
        }
        at = (at | (PAGE - 1)).wrapping_add(1);
        if at > last || at == 0 {
            return true;
        }
    }
}
