//! Pipes and connections in memory that their users share: a process at each end, or one that has both with several threads
//! (ADR 48, 52). Their stubs read and write there; the sentry takes back what anybody else looks at.
//!
//! Each of the two gets the memory with the answer to a call on its end. From then on lending it is one word.
//!
//! Lock order: `AddressSpace::pipes` is innermost; the lock of what is lent is taken with nothing of this held.

use super::loan::may_lend;
use super::{Engine, GuestThread};
use crate::context::Context;
use crate::fs::file::{OpenFile, StatusFlags};
use crate::ipc::pipe::sharing::{Sharable, SharedRing, User};
use crate::ipc::pipe::{PipeEnd, Side};
use crate::net::SocketFile;
use skerry_platform::layout::{operation, pipes, Operation};
use skerry_platform::pipe_ring::{Nonblocking, PipeRing};
use std::sync::atomic::Ordering;
use std::sync::Arc;

/// How many there are at once: each has a descriptor of ours, and 68 KiB for each of its rings.
const MOST_SHARED: usize = 512;

/// What an address space has of them, by place.
pub(super) type Places = Vec<Arc<SharedRing>>;

impl Engine {
    /// Lends a pipe or connection that the thread's call has used to the two processes that use it, where nobody else does. What
    /// the thread has to do for that, before its call returns, is added to `operations`.
    pub(super) fn share_pipe(&self, thread: &GuestThread, context: &mut Context, operations: &mut Vec<Operation>) {
        let Some((fd, file)) = context.used_pipe.take() else { return };
        if context.used_alone.is_some() || file.path.is_some() || !may_lend(thread, context) {
            return;
        }
        let operations_of = file.operations.clone();
        let stream;
        let (side, end): (Side, &dyn Sharable) = match operations_of.as_any().downcast_ref::<PipeEnd>() {
            Some(pipe) => (pipe.side(), pipe),
            None => {
                let socket = operations_of.as_any().downcast_ref::<SocketFile>();
                let Some(found) = socket.and_then(|file| file.socket.stream_end()) else { return };
                stream = found;
                (stream.side, &stream)
            }
        };
        let user = User {
            space: Arc::downgrade(&thread.space),
            files: Arc::downgrade(&context.task.files()),
            file: Arc::downgrade(&file),
            fd,
        };
        drop(file);
        let Some((reader, writer)) = end.users(side, user) else { return };
        let make = || {
            let number = (self.pipes_made.fetch_add(1, Ordering::Relaxed) % u32::from(u16::MAX)) as u16 + 1;
            let counted = self.pipes_shared.clone();
            if Arc::strong_count(&counted) > MOST_SHARED {
                return None;
            }
            let (rings, memory) = PipeRing::create(number, end.rings()).ok()?;
            Some(SharedRing::new(rings, memory, &reader, &writer, counted))
        };
        let Some(ring) = end.ring_of(&reader, &writer, &make) else { return };
        if !ring.is_had_by(side) && !self.give_pipe(thread, context, &ring, operations) {
            return;
        }
        if ring.is_had_by_both() {
            lend(end, &ring);
        }
    }

    /// Has the thread map it. False: not now.
    fn give_pipe(
        &self,
        thread: &GuestThread,
        context: &Context,
        ring: &Arc<SharedRing>,
        operations: &mut Vec<Operation>,
    ) -> bool {
        let Some(rung) = thread.state.lock().ring else {
            thread.must_ring.next_time(&context.call);
            return false;
        };
        let mut places = thread.space.pipes.lock();
        let free = places.iter().position(|present| present.is_free());
        let next = Some(places.len()).filter(|&next| next < pipes::MOST);
        let Some(index) = free.or(next).or_else(|| places.iter().position(|present| present.make_room())) else { return false };
        let listener = &thread.listener.listener;
        let Some(descriptor) = ring.with_memory(|memory| listener.inject(rung, memory).ok()) else { return false };
        thread.process.was_given(descriptor);
        let told = |user: &User| if user.is_in(&thread.space) { user.fd as u64 } else { pipes::NONE };
        let mut how = if self.spinner.is_possible() { pipes::how::MAY_SPIN } else { 0 };
        if ring.rings.len() > 1 {
            how |= pipes::how::CONNECTION;
        }
        let number = ring.rings[0].number().into();
        let arguments = [descriptor as u64, index as u64, number, told(&ring.reader), told(&ring.writer), how];
        operations.push(Operation { kind: operation::PIPE, number: 0, arguments });
        match places.get_mut(index) {
            Some(place) => *place = ring.clone(),
            None => places.push(ring.clone()),
        }
        ring.given_to(&thread.space);
        true
    }
}

fn lend(end: &dyn Sharable, ring: &Arc<SharedRing>) {
    let nonblocking = || {
        let (reader, writer) = (ring.reader.open_file()?, ring.writer.open_file()?);
        // Between two processes, each is to have its end for itself: what one says of it concerns nobody else then. Its table's,
        // and ours.
        if !ring.is_one_process() && (Arc::strong_count(&reader) > 2 || Arc::strong_count(&writer) > 2) {
            return None;
        }
        let is_nonblocking = |file: &OpenFile| file.flags().contains(StatusFlags::NONBLOCK);
        (is_plain(&reader) && is_plain(&writer))
            .then(|| Nonblocking { reader: is_nonblocking(&reader), writer: is_nonblocking(&writer) })
    };
    let Some(how) = nonblocking() else { return };
    // Who changes any of that from here on ends the loan.
    if ring.lend(|| end.lend_shared(ring, how)) && nonblocking() != Some(how) {
        end.end_shared();
    }
}

/// Reads and writes are all that it is about.
fn is_plain(file: &OpenFile) -> bool {
    match file.downcast::<SocketFile>() {
        Some(file) => file.socket.stream_end().is_some(),
        None => !file.flags().contains(StatusFlags::DIRECT),
    }
}
