//! What `skerry-tender` needs of its host beyond the safe calls: the memory of a unikernel at the addresses that its ABI says,
//! a tap device by name, and the way into the unikernel, from which nothing comes back. All of it in a process of one thread.

use crate::agent::install_filter;
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Where a unikernel's memory begins. Its addresses count from zero: what is below is not there.
pub const MEMORY_BASE: u64 = 0x1_0000;
const PAGE: u64 = 4096;

/// What may be done with a part of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    pub read: bool,
    pub write: bool,
    pub execute: bool,
}

/// The memory of a unikernel, in our own address space: from [`MEMORY_BASE`] to `size`. Zeros, to be read and written, at first.
#[derive(Debug)]
pub struct GuestMemory {
    size: u64,
}

impl GuestMemory {
    /// `size` is rounded down to pages. `AlreadyExists`: something of ours lies there.
    pub fn map(size: u64) -> io::Result<GuestMemory> {
        let size = size / PAGE * PAGE;
        let length = size.checked_sub(MEMORY_BASE).filter(|length| *length > 0);
        let length = length.and_then(|length| usize::try_from(length).ok()).ok_or(io::ErrorKind::InvalidInput)?;
        // SAFETY: asks only.
        let personality = unsafe { libc::personality(0xffff_ffff) };
        if personality != -1 && personality & libc::READ_IMPLIES_EXEC != 0 {
            return Err(io::Error::other("this process was started so that all that is readable is executable"));
        }
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        // SAFETY: a mapping where there was none: NOREPLACE leaves everything that is ours as it is.
        let found = unsafe { libc::mmap(MEMORY_BASE as *mut _, length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
        match found as u64 {
            MEMORY_BASE => Ok(GuestMemory { size }),
            _ if found == libc::MAP_FAILED => Err(io::Error::last_os_error()),
            // A host from before 4.17 takes the address for a wish.
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    pub fn size(&self) -> u64 {
        self.size
    }

    fn holds(&self, range: &Range<u64>) -> bool {
        MEMORY_BASE <= range.start && range.start <= range.end && range.end <= self.size
    }

    /// A part of it, to be written to: before [`GuestMemory::protect`] has been called on any of it. `None`: not inside.
    pub fn bytes(&mut self, range: Range<u64>) -> Option<&mut [u8]> {
        // SAFETY: inside of a mapping of ours that lives as long as we do, readable and writable until `protect`, which consumes
        // us; borrowed as we are.
        self.holds(&range)
            .then(|| unsafe { std::slice::from_raw_parts_mut(range.start as *mut u8, (range.end - range.start) as usize) })
    }

    /// From here on nothing is written from our side. Each range is whole pages, inside, and not writable and executable at once.
    pub fn protect(self, parts: &[(Range<u64>, Protection)]) -> io::Result<ReadyMemory> {
        for (range, protection) in parts {
            let whole = range.start % PAGE == 0 && range.end % PAGE == 0;
            if !self.holds(range) || !whole || protection.write && protection.execute {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            let flag = |wanted: bool, flag| if wanted { flag } else { libc::PROT_NONE };
            let flags = flag(protection.read, libc::PROT_READ)
                | flag(protection.write, libc::PROT_WRITE)
                | flag(protection.execute, libc::PROT_EXEC);
            // SAFETY: inside of our own mapping, of which no slice is left.
            if unsafe { libc::mprotect(range.start as *mut _, (range.end - range.start) as usize, flags) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        Ok(ReadyMemory { size: self.size })
    }
}

/// The same, loaded and protected.
#[derive(Debug)]
pub struct ReadyMemory {
    size: u64,
}

impl ReadyMemory {
    /// Puts the process behind `filter` and goes on in the unikernel at `entry`, as its ABI says: the stack at the end of the
    /// memory, `argument` as that of its first function. Returns only where the filter cannot be had. The filter must allow
    /// arch_prctl(ARCH_SET_FS): the unikernel starts without a thread pointer, and not with ours.
    pub fn enter(self, filter: &[u64], entry: u64, argument: u64) -> io::Error {
        crate::agent::reset_signals();
        if let Err(error) = install_filter(filter, false) {
            return error;
        }
        // SAFETY: like execve(2), this ends the program that we were: no code of ours runs after it, no destructor, no other
        // thread. What the unikernel does from here on to our memory is its own affair: it is held by the filter.
        unsafe {
            std::arch::asm!(
                "syscall", // arch_prctl(ARCH_SET_FS, 0)
                "mov rsp, r12",
                "mov rax, r13",
                "mov rdi, r14",
                "cld",
                "xor esi, esi",
                "xor edx, edx",
                "xor ecx, ecx",
                "xor ebx, ebx",
                "xor ebp, ebp",
                "xor r8d, r8d",
                "xor r9d, r9d",
                "xor r10d, r10d",
                "xor r11d, r11d",
                "xor r12d, r12d",
                "xor r13d, r13d",
                "xor r14d, r14d",
                "xor r15d, r15d",
                "jmp rax",
                in("rax") libc::SYS_arch_prctl,
                in("rdi") ARCH_SET_FS,
                in("rsi") 0,
                in("r12") self.size - 8,
                in("r13") entry,
                in("r14") argument,
                options(noreturn)
            )
        }
    }
}

const ARCH_SET_FS: u64 = 0x1002;

/// Makes an open /dev/net/tun the tap device of that name, which exists already: frames as they are, no header before them.
pub fn attach_tap(device: BorrowedFd, name: &str) -> io::Result<()> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    // SAFETY: plain data; all zeros is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() || name.contains(['%', '\0', '/']) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: the request is the structure that the call takes, and outlives it.
    match unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, &mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
