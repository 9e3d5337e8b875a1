//! The page pair through which a guest thread and the sentry exchange a call and its answer.
//!
//! The other side is hostile: it may write anything, at any time. A request is therefore copied once, and nothing that
//! the sentry wrote is ever read back from the channel.

use crate::layout::{ChannelLayout, Operation, Reply, Request, CHANNEL_SIZE, MAXIMUM_OPERATIONS};
use crate::HostError;
use rustix::fs::{fcntl_add_seals, ftruncate, memfd_create, MemfdFlags, SealFlags};
use rustix::mm::{mmap, munmap, MapFlags, ProtFlags};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;

/// The sentry's mapping of one thread's channel.
pub struct Channel {
    pages: NonNull<ChannelLayout>,
}

// SAFETY: the pages are plain memory shared with another process anyway; all access is by volatile copies.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    /// A new channel, and the descriptor to be mapped by the application's stub.
    pub fn create() -> Result<(Channel, OwnedFd), HostError> {
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        // Hosts with vm.memfd_noexec=2 want NOEXEC_SEAL; kernels before 6.3 do not know it.
        let memory = memfd_create(c"skerry-channel", flags | MemfdFlags::NOEXEC_SEAL)
            .or_else(|_| memfd_create(c"skerry-channel", flags))
            .map_err(|error| HostError::new("memfd_create for a channel", error))?;
        ftruncate(&memory, CHANNEL_SIZE).map_err(|error| HostError::new("ftruncate of a channel", error))?;
        fcntl_add_seals(&memory, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)
            .map_err(|error| HostError::new("sealing a channel", error))?;
        // SAFETY: a fresh mapping at an address of the host's choice; its size cannot change any more (sealed).
        let pages = unsafe {
            mmap(std::ptr::null_mut(), CHANNEL_SIZE as usize, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &memory, 0)
        }
        .map_err(|error| HostError::new("mmap of a channel", error))?;
        let pages = NonNull::new(pages.cast()).ok_or_else(|| HostError::last("mmap of a channel"))?;
        Ok((Channel { pages }, memory))
    }

    /// A copy of the request as it is now.
    pub fn request(&self) -> Request {
        // SAFETY: inside the mapping, which lives as long as self.
        unsafe { std::ptr::read_volatile(&raw const (*self.pages.as_ptr()).request) }
    }

    /// Lays down an answer; the doorbell's own answer publishes it.
    pub fn put_reply(&self, reply: &Reply) {
        // SAFETY: inside the mapping.
        unsafe { std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).reply, *reply) }
    }

    /// Lays down the operations that a reply refers to. False: they are too many.
    pub fn put_operations(&self, operations: &[Operation]) -> bool {
        if operations.len() > MAXIMUM_OPERATIONS {
            return false;
        }
        for (index, operation) in operations.iter().enumerate() {
            // SAFETY: `index` is below the array's length.
            unsafe { std::ptr::write_volatile(&raw mut (*self.pages.as_ptr()).operations[index], *operation) }
        }
        true
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `create` mapped; no reference into it exists.
        let _ = unsafe { munmap(self.pages.as_ptr().cast(), CHANNEL_SIZE as usize) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_cannot_be_shrunk_under_the_sentry() {
        let (channel, memory) = Channel::create().unwrap();
        assert!(ftruncate(&memory, 0).is_err());
        channel.put_reply(&Reply { value: 7, ..Reply::default() });
        assert_eq!(channel.request().kind, 0);
        assert!(!channel.put_operations(&vec![Operation::default(); MAXIMUM_OPERATIONS + 1]));
    }
}
