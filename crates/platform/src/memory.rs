//! Guest memory, read and written from the sentry.
//!
//! What is there is hostile and changes at any time: callers read once, then work on the copy. Two ways lead there, the
//! faster one taken where the host allows it: process_vm_readv(2), and /proc/PID/mem (some container profiles refuse the
//! first). Both need the same user id, or the capability for it, and nothing else (ptrace(2), PTRACE_MODE_ATTACH).

use crate::engine::HostProcess;
use crate::{mappings, HostError};
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, OnceLock};

/// How guest memory is reached; the same for all processes of a sentry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Access {
    ProcessVm = 0,
    ProcMem = 1,
}

static ACCESS: AtomicU8 = AtomicU8::new(Access::ProcessVm as u8);

/// Chooses the way; called once, before the first guest runs.
pub fn set_access(access: Access) {
    ACCESS.store(access as u8, Ordering::Relaxed);
}

pub fn access() -> Access {
    if ACCESS.load(Ordering::Relaxed) == Access::ProcessVm as u8 {
        Access::ProcessVm
    } else {
        Access::ProcMem
    }
}

/// Finds out which way works here, by reading the start of an ELF image (the vDSO) that lies at `address` of process
/// `pid`, and chooses it. An error where neither does.
pub fn choose_access(pid: i32, address: u64) -> Result<Access, HostError> {
    let mut reason = std::io::Error::from_raw_os_error(libc::EPERM);
    for way in [access(), Access::ProcMem] {
        set_access(way);
        let mut start = [0u8; 4];
        if GuestMemory::of_pid(pid).read(address, &mut start) == start.len() && start == *b"\x7fELF" {
            return Ok(way);
        }
        reason = std::io::Error::last_os_error();
    }
    Err(HostError::new("reading another process's memory (by process_vm_readv and by /proc/PID/mem)", reason))
}

/// The memory of one application process.
pub struct GuestMemory {
    pid: i32,
    /// Keeps the pid from becoming another process's.
    _process: Option<Arc<HostProcess>>,
    file: OnceLock<Option<File>>,
    mappings: mappings::Mappings,
}

impl GuestMemory {
    /// That of `process`.
    pub fn of(process: Arc<HostProcess>) -> GuestMemory {
        GuestMemory {
            pid: process.pid,
            file: OnceLock::new(),
            mappings: mappings::Mappings::new(process.pid),
            _process: Some(process),
        }
    }

    /// That of a process which has none yet: nothing can be read or written.
    pub fn none() -> GuestMemory {
        GuestMemory::of_pid(0)
    }

    /// That of a process which somebody else keeps from being reaped (tests: our own).
    pub fn of_pid(pid: i32) -> GuestMemory {
        GuestMemory { pid, _process: None, file: OnceLock::new(), mappings: mappings::Mappings::new(pid) }
    }

    /// The host process that has this memory.
    pub fn host_pid(&self) -> i32 {
        self.pid
    }

    /// Fills `bytes` from `address`; returns how many bytes were readable from the start (less than asked = a fault).
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        if bytes.is_empty() || self.pid == 0 {
            return 0;
        }
        if access() == Access::ProcMem {
            // /proc/PID/mem would also read what the guest itself cannot (PROT_NONE): only as far as it could.
            let allowed = self.mappings.reach(address, bytes.len(), mappings::Right::Read);
            return self.file().map_or(0, |file| {
                transfer(allowed, |done| file.read_at(&mut bytes[done..allowed], address.wrapping_add(done as u64)))
            });
        }
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` is a live, writable buffer of ours; the remote side is only ever read by the host kernel.
        let count = unsafe { libc::process_vm_readv(self.pid, &local, 1, &remote, 1, 0) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Writes `bytes` to `address`; returns how many were written from the start.
    pub fn write(&self, address: u64, bytes: &[u8]) -> usize {
        if bytes.is_empty() || self.pid == 0 {
            return 0;
        }
        if access() == Access::ProcMem {
            // As above, for read-only pages.
            let allowed = self.mappings.reach(address, bytes.len(), mappings::Right::Write);
            return self.file().map_or(0, |file| {
                transfer(allowed, |done| file.write_at(&bytes[done..allowed], address.wrapping_add(done as u64)))
            });
        }
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` is only read; the remote side is checked by the host kernel.
        let count = unsafe { libc::process_vm_writev(self.pid, &local, 1, &remote, 1, 0) };
        usize::try_from(count).unwrap_or(0)
    }

    /// As [`GuestMemory::read`], of memory that the guest itself cannot read, too, where the host lets us.
    pub fn read_whatever(&self, address: u64, bytes: &mut [u8]) -> usize {
        let length = bytes.len();
        match self.file() {
            Some(file) => transfer(length, |done| file.read_at(&mut bytes[done..], address.wrapping_add(done as u64))),
            None => self.read(address, bytes),
        }
    }

    /// As [`GuestMemory::write`], of memory that the guest itself cannot write, too, where the host lets us: a private mapping gets
    /// its own copy.
    pub fn write_whatever(&self, address: u64, bytes: &[u8]) -> usize {
        match self.file() {
            Some(file) => transfer(bytes.len(), |done| file.write_at(&bytes[done..], address.wrapping_add(done as u64))),
            None => self.write(address, bytes),
        }
    }

    fn file(&self) -> Option<&File> {
        let open = || File::options().read(true).write(true).open(format!("/proc/{}/mem", self.pid)).ok();
        self.file.get_or_init(open).as_ref()
    }

    /// Whether the whole range is mapped, in any way.
    pub fn is_mapped(&self, address: u64, end: u64) -> bool {
        let Ok(length) = usize::try_from(end.saturating_sub(address)) else { return false };
        self.mappings.reach(address, length, mappings::Right::Any) == length
    }

    /// Whether the range is code that cannot be written, and holds exactly `bytes`.
    pub fn is_code(&self, address: u64, bytes: &[u8]) -> bool {
        let mut present = vec![0; bytes.len()];
        self.mappings.reach(address, bytes.len(), mappings::Right::Code) == bytes.len()
            && self.read(address, &mut present) == bytes.len()
            && present == bytes
    }
}

/// Repeats a positioned transfer until all is done or nothing more moves.
fn transfer(length: usize, mut one: impl FnMut(usize) -> std::io::Result<usize>) -> usize {
    let mut done = 0;
    while done < length {
        match one(done) {
            Ok(count) if count > 0 => done += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            _ => break,
        }
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_and_written_in_both_ways() {
        let mut target = vec![1u8; 10_000];
        let address = target.as_mut_ptr() as u64;
        for way in [Access::ProcMem, Access::ProcessVm] {
            set_access(way);
            let memory = GuestMemory::of_pid(std::process::id() as i32);
            assert_eq!(memory.write(address + 5000, &[9; 3]), 3);
            let mut copy = [0u8; 5];
            assert_eq!(memory.read(address + 4999, &mut copy), 5);
            assert_eq!(copy, [1, 9, 9, 9, 1]);
            assert_eq!(memory.read(8, &mut copy), 0);
            assert_eq!(memory.write(own_code(), &[0]), 0, "read-only memory");
            let closed = half_closed();
            assert_eq!(memory.read(closed, &mut copy), 0, "memory without rights");
            assert_eq!(memory.read(closed - 2, &mut copy), 2, "up to memory without rights");
            assert_eq!(memory.write(closed - 2, &copy), 2);
            assert!(memory.is_mapped(closed - 2, closed + 2));
            target.fill(1);
        }
    }

    /// The border between a writable page and one that nobody may touch.
    fn half_closed() -> u64 {
        // SAFETY: a fresh mapping, of which the upper half loses its rights.
        unsafe {
            let base = libc::mmap(std::ptr::null_mut(), 8192, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
            assert_eq!(libc::mprotect(base.add(4096), 4096, 0), 0);
            base as u64 + 4096
        }
    }

    fn own_code() -> u64 {
        own_memory_is_read_and_written_in_both_ways as *const () as u64
    }
}
