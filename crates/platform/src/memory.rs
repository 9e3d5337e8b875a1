//! Guest memory, read and written from the sentry.
//!
//! What is there is hostile and changes at any time: callers read once, then work on the copy.

/// The memory of one application process.
pub struct GuestMemory {
    pid: i32,
}

impl GuestMemory {
    pub fn new(pid: i32) -> GuestMemory {
        GuestMemory { pid }
    }

    /// The host process that has this memory.
    pub fn host_pid(&self) -> i32 {
        self.pid
    }

    /// Fills `bytes` from `address`; returns how many bytes were readable from the start (less than asked = a fault).
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> usize {
        let local = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` is a live, writable buffer of ours; the remote side is only ever read by the host kernel.
        let count = unsafe { libc::process_vm_readv(self.pid, &local, 1, &remote, 1, 0) };
        usize::try_from(count).unwrap_or(0)
    }

    /// Writes `bytes` to `address`; returns how many were written from the start.
    pub fn write(&self, address: u64, bytes: &[u8]) -> usize {
        let local = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
        let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: bytes.len() };
        // SAFETY: `local` is only read; the remote side is checked by the host kernel.
        let count = unsafe { libc::process_vm_writev(self.pid, &local, 1, &remote, 1, 0) };
        usize::try_from(count).unwrap_or(0)
    }
}
