//! Memory that the sentry and application processes have mapped: a file without a name, whose size stays as it is.

use crate::HostError;
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use std::ffi::CStr;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// The sentry's mapping of it, which begins with a `T`.
pub(crate) struct Shared<T> {
    pages: NonNull<T>,
    size: usize,
}

/// Who may write there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Writers {
    /// Whoever maps it.
    All,
    SentryAlone,
}

// SAFETY: the pages are plain memory shared with other processes anyway; all access is atomic, or by volatile or bounded copies.
unsafe impl<T> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Shared<T> {}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `create` mapped; what borrows from it has gone before.
        let _ = unsafe { munmap(self.pages.as_ptr().cast(), self.size) };
    }
}

impl<T> Shared<T> {
    /// New memory of `size` bytes, all zeros, and the descriptor to be mapped by stubs. `making`: what an error says was being done.
    pub fn create(name: &CStr, size: u64, writers: Writers, making: &'static str) -> Result<(Shared<T>, OwnedFd), HostError> {
        let failed = |error: rustix::io::Errno| HostError::new(making, error);
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Hosts with vm.memfd_noexec=2 want NOEXEC_SEAL; kernels before 6.3 do not know it.
        let memory =
            memfd_create(name, flags | MemfdFlags::NOEXEC_SEAL).or_else(|_| memfd_create(name, flags)).map_err(failed)?;
        ftruncate(&memory, size).map_err(failed)?;
        let size = size as usize;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping at an address of the host's choice.
        let pages = unsafe { mmap(std::ptr::null_mut(), size, protection, MapFlags::SHARED, &memory, 0) }.map_err(failed)?;
        let pages = NonNull::new(pages.cast()).ok_or_else(|| HostError::last(making))?;
        let shared = Shared { pages, size };
        // Nobody else has had it: its size does not change from the beginning on, nor can another mapping be writable.
        let only_ours = if writers == Writers::SentryAlone { SealFlags::FUTURE_WRITE } else { SealFlags::empty() };
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL | only_ours;
        fcntl_add_seals(&memory, seals).map_err(failed)?;
        Ok((shared, memory))
    }

    pub fn as_ptr(&self) -> *mut T {
        self.pages.as_ptr()
    }
}
