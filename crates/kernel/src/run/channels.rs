//! Channels for new processes. Making one is a good part of what a fork costs, so some are used again.
//!
//! A channel must never be within reach of two processes. It is used again only if its process is dead, and has never
//! been let make another one, which might have inherited it: a hostile process can keep the memory, but not longer than it
//! lives.

use super::GuestThread;
use parking_lot::Mutex;
use skerry_platform::channel::Channel;
use skerry_platform::HostError;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// How many are kept.
const MOST: usize = 8;

#[derive(Default)]
pub(super) struct Channels {
    spare: Mutex<Vec<(Channel, OwnedFd)>>,
}

impl Channels {
    /// One that nobody else has, all zero.
    pub fn get(&self) -> Result<(Channel, OwnedFd), HostError> {
        match self.spare.lock().pop() {
            Some(spare) => Ok(spare),
            None => Channel::create(),
        }
    }

    /// `thread` was of a process that is dead now.
    pub fn take_back(&self, thread: Arc<GuestThread>) {
        if thread.space.has_made_process.load(Ordering::Acquire) {
            return;
        }
        // Else somebody still works on its last call, or its task is not done with it.
        let Some(thread) = Arc::into_inner(thread) else { return };
        // What is still lent there is taken over first.
        thread.objects.end();
        // Nobody has had it then.
        let is_untouched = thread.undelivered.lock().take().is_some() && thread.state.lock().reply.is_none();
        let Some(memory) = thread.memory.and_then(Arc::into_inner) else { return };
        let Some(channel) = Arc::into_inner(thread.channel) else { return };
        let is_as_new = channel.wipe(&memory, is_untouched);
        let mut spare = self.spare.lock();
        if is_as_new && spare.len() < MOST {
            spare.push((channel, memory));
        }
    }
}
